"""What is learned, by every recipe, of any size."""

import dataclasses
import warnings

import keras
import numpy as np
import pytest
from fits import complete, learn, quick, quicker, signals, vectors
from keras import layers

from xplique_dirpairs.core.linear_algebra import cosines, match
from xplique_dirpairs.datasets.synthetic import (
    pooled_dense_head,
    random_directions,
    signal_maps,
    synthetic_signals,
)
from xplique_dirpairs.learning import learner
from xplique_dirpairs.learning.features import Features, Moments
from xplique_dirpairs.learning.history import (
    LearningWarning,
    share_of_returns,
)
from xplique_dirpairs.learning.learner import begin_fit, learn_pairs
from xplique_dirpairs.learning.objective import Detectors, Objective
from xplique_dirpairs.learning.recipe import RECIPES, Recipe, Stage, get_recipe
from xplique_dirpairs.learning.state import FitState, Problem
from xplique_dirpairs.metrics.recovery import detector_iou, recovery
from xplique_dirpairs.models.head import Head


@pytest.fixture(scope="module")
def data():
    return synthetic_signals(60, seed=0)


@pytest.fixture(scope="module")
def head(data):
    return Head(pooled_dense_head(data.features, data.labels))


@pytest.fixture(scope="module")
def learned_quickly(data):
    """Without a head: the pairs and their history."""
    return learn(data.features)


def align(pairs, others):
    """Return the concepts of the others in the order of ours, and the least cosine with ours."""
    order = match(cosines(others.signals, pairs.signals))
    matched = [
        np.diag(cosines(getattr(pairs, name), getattr(others, name)[order]))
        for name in ("filters", "signals")
    ]
    return order, np.min(matched)


def one_start(steps):
    """Long enough to have learned something, with nothing to choose between."""
    return dataclasses.replace(quicker(steps=steps), restarts=1)


def test_the_reference_experiment_is_recovered():
    data, fresh = (synthetic_signals(1000, seed) for seed in (0, 1))
    head = Head(pooled_dense_head(data.features, data.labels))
    pairs, history = learn_pairs(data.features, 3, head=head, random_state=0, verbose=0)
    found = recovery(
        detected=pairs.detect(fresh.features) > 0.5,
        masks=fresh.masks,
        signals=pairs.signals,
        true_signals=fresh.signals,
        signal_values=pairs.signal_values(fresh.features),
        alpha=fresh.alpha,
    )
    assert found.iou.min() >= 0.95 and found.iou_others.max() <= 0.02
    assert found.cosine.min() >= 0.97 and found.cosine.mean() >= 0.99
    assert found.overall_rmse <= 0.12
    assert not history.problems()
    # the concepts off, in the network's own words
    off = fresh.features - pairs.combine(
        pairs.coefficients(fresh.features, "undecided"), "undecided"
    )
    assert head.entropy(head.pool(off)).numpy().mean() >= 0.9 * np.log2(3)


@pytest.fixture(scope="module")
def clear():
    """Three rare concepts in ten channels, too clear for chance to have a say."""
    rng = np.random.default_rng(0)
    return rng.gamma(0.2, size=(600, 3)) @ rng.normal(size=(3, 10)) + 1.0


@pytest.fixture(scope="module")
def learned(clear):
    return learn(clear, recipe=one_start(40))[0]


def test_the_order_of_the_images_does_not_matter(clear, learned, rng):
    again, _ = learn(rng.permutation(clear), recipe=one_start(40))
    order, cosine = align(learned, again)
    assert cosine > 0.999
    np.testing.assert_allclose(again.biases[order], learned.biases, rtol=0.01)


@pytest.mark.parametrize("scale, offset", [(1e-2, 0.0), (100.0, -300.0)])
def test_neither_the_scale_nor_the_origin_of_the_features_matters(scale, offset, clear, learned):
    moved = (scale * clear + offset).astype(np.float32)
    again, _ = learn(moved, recipe=one_start(40))
    order, cosine = align(learned, again)
    assert cosine > 0.999
    agree = (learned.detect(clear) > 0.5) == (again.detect(moved)[..., order] > 0.5)
    assert agree.mean() > 0.99


def test_the_seed_decides(clear, learned):
    again, _ = learn(clear, recipe=one_start(40), random_state=0)
    for name in ("filters", "biases", "signals", "absent_levels"):
        np.testing.assert_array_equal(getattr(learned, name), getattr(again, name))
    by_chance = dataclasses.replace(quicker(), start="random")
    one, other = (learn(clear, recipe=by_chance, random_state=s)[0] for s in (0, 1))
    assert np.abs(one.filters - other.filters).max() > 1e-6


def test_no_seed_but_its_own_decides(data, head):
    """Neither TensorFlow's nor numpy's global seed."""
    recipe = dataclasses.replace(quicker(steps=None), batch=50)
    fits = []
    for seed in (1, 2):
        keras.utils.set_random_seed(seed)
        fits.append(learn(data.features, recipe=recipe, head=head)[0])
    np.testing.assert_array_equal(fits[0].filters, fits[1].filters)


def test_without_a_head_the_network_terms_are_left_out_and_it_says_so(data, head, learned_quickly):
    _, without = learned_quickly
    _, with_head = learn(data.features, head=head)
    assert any("no head" in note for note in without.notes)
    assert not any("no head" in note for note in with_head.notes)
    assert "cur" in with_head.stages["d"] and "cur" not in without.stages["d"]


FREE = Recipe(
    "free",
    (
        Stage("a", {"s": 1.0, "fired": 0.5}, {"ma": 5.0}, orthonormal=True, schedule="plateau"),
        Stage("d", {"s": 1.0, "cur": 1.0}, {"ic": 1.0, "fso": 1.0}, signals="free"),
    ),
    start="consensus",
    restarts=3,
)


@pytest.mark.parametrize(
    "recipe, pools",
    [
        *((name, name != "default") for name in RECIPES),  # default: above, through a pooling
        pytest.param(FREE, False, id="free"),
    ],
)
def test_every_recipe_runs_and_keeps_a_history(recipe, pools, data, head):
    if not pools:
        inputs = keras.Input(data.features.shape[1:])
        head = Head(keras.Model(inputs, layers.Dense(3)(layers.Flatten()(inputs))))
    recipe = quick(recipe)
    pairs, history = learn(data.features, head=head, recipe=recipe)
    assert complete(pairs, history, 3)
    assert list(history.stages) == [stage.name for stage in recipe.stages] == list(history.seconds)
    for stage in recipe.stages:
        losses = history.stages[stage.name]
        assert set(losses) == {*stage.terms, "objective"}
        assert {len(values) for values in losses.values()} == {2}


def test_the_default_recipe_hands_over_to_another_where_the_features_are_not_what_it_supposes(rng):
    smooth = rng.normal(size=(200, 2, 12)) * 0.8 ** np.arange(12)
    recipe = get_recipe("default")
    other = dataclasses.replace(quick(recipe.otherwise), name="the other one")
    recipe = dataclasses.replace(quick(recipe), otherwise=other)
    pairs, history = learn(smooth, recipe=recipe)
    assert complete(pairs, history, 3)
    assert any("'the other one'" in note for note in history.notes)


@pytest.mark.parametrize(
    "activations, concepts",
    [
        (vectors(200), 1),
        (vectors(200), 6),
        (vectors(200), 15),
        (vectors(2), 3),
        (vectors(40, 1), 2),
        (vectors(200).reshape(50, 4, 6), 4),
        (vectors(200, 20).astype(np.float16), 8),
    ],
    ids=["one", "as channels", "more", "two positions", "one channel", "tokens", "half precision"],
)
def test_any_number_of_concepts_channels_and_positions(activations, concepts):
    pairs, history = learn(activations, concepts)
    assert complete(pairs, history, concepts)
    dimensions = min(activations.shape[-1], len(activations) - 1)
    text = f"{concepts} concepts, but features vary in {dimensions} dimensions"
    is_reported = any(text in note for note in history.notes)
    assert is_reported == (concepts > dimensions)


def test_orthonormal_filters_are_given_up_for_more_concepts_than_channels():
    recipe = quick("paper-deep")
    recipe = dataclasses.replace(recipe, stages=recipe.stages[:1])
    assert complete(*learn(vectors(200), 15, recipe=recipe), 15)


def test_minibatches_run_where_there_are_many_positions(data, head):
    recipe = dataclasses.replace(quicker(steps=None), batch=50)
    assert complete(*learn(data.features, head=head, recipe=recipe), 3)


def test_up_to_as_many_concepts_as_channels_the_pairs_can_be_well_conditioned(rng):
    # six independent sources in eight channels of falling variance
    sources = rng.gamma(0.3, size=(3000, 6)) @ rng.normal(size=(6, 8))
    x = sources + 0.1 * rng.normal(size=sources.shape)
    recipe = quicker(steps=20)
    pairs, _ = learn(x[:, None] * 1.5 ** -np.arange(8), 6, recipe=recipe)
    assert pairs.condition_number < 1e4


def test_it_is_silent_or_shows_a_bar_per_stage(data, capfd):
    learn(data.features, verbose=0)
    silent = capfd.readouterr()
    assert silent.out == ""
    learn(data.features, recipe=quick(), verbose=1)
    shown = capfd.readouterr().out
    for stage in ("a", "d"):
        assert shown.count(f"Learning 3 concepts, stage {stage}") == 1
    assert shown.count("2/2") == 2


def test_the_consensus_start_takes_fewer_positions_than_concepts():
    recipe = dataclasses.replace(quicker(), start="consensus")
    assert complete(*learn(vectors(3), 5, recipe=recipe), 5)


def test_a_consensus_start_is_the_same_for_every_seed(data):
    recipe = dataclasses.replace(quicker(), start="consensus", restarts=2)
    features = Features(data.features)
    problem = Problem(features, Moments.of(features), 3)
    starts = [
        begin_fit(problem, recipe, np.random.default_rng(seed)).detectors.filters for seed in (0, 1)
    ]
    np.testing.assert_array_equal(*starts)
    assert np.abs(starts[0][0] - starts[0][1]).max() > 1e-6, "restarts start elsewhere"


def test_positions_with_two_concepts_each_are_learned_as_such():
    recipe = dataclasses.replace(get_recipe("default"), restarts=1)
    data = signal_maps(6000, *random_directions(0, 12, 2, 40), seed=0, concepts_per_pixel=2)
    pairs, history = learn(data.features, 12, recipe=recipe)
    assert any("positions carry 2 concepts each" in note for note in history.notes)
    detected = (pairs.detect(data.features) > 0.5).sum(axis=-1).mean()
    assert detected == pytest.approx(2.0, abs=0.1)


def test_n_init_starts_are_all_learned_to_the_end_and_the_least_objective_is_kept(data):
    recipe = quicker()
    pairs, history = learn(data.features, recipe=recipe, n_init=5)
    assert len(history.restarts) == 5
    last = history.stages["d"]["objective"][-1]
    violations = 10 * sum(history.violations.get("d", {}).values())
    assert last + violations == pytest.approx(min(history.restarts), rel=1e-5)
    # shares of the four others
    np.testing.assert_allclose(4 * pairs.recurrence, np.round(4 * pairs.recurrence))


def test_a_concept_comes_back_where_a_projection_correlates_with_its_own(rng):
    mixing = rng.normal(size=(6, 6))
    one, two, three, four, five, _ = np.linalg.inv(mixing)  # uncorrelated projections
    at_a_cosine_of = {c: c * two + np.sqrt(1 - c**2) * four for c in (0.85, 0.95)}
    filters = np.array(
        [
            [3.0 * one, four, -two],  # mirrored, it is another concept
            [one, two, three],
            [five, one, at_a_cosine_of[0.85]],
            [at_a_cosine_of[0.95], 0.1 * one, 7.0 * two],
        ]
    )
    x = rng.normal(size=(2000, 6)) @ mixing.T
    shares = share_of_returns(filters, 1, mixing @ mixing.T)
    np.testing.assert_allclose(shares, [1.0, 1 / 3, 0.0])
    others = np.delete(filters, 1, axis=0)
    for concept, share in zip(filters[1], shares, strict=True):
        again = [
            max(np.corrcoef(x @ concept, x @ other)[0, 1] for other in restart) >= 0.9
            for restart in others
        ]
        assert share == np.mean(again)


@pytest.mark.parametrize("asked, going_on", [(None, [1, 3]), (4, [0, 1, 3])])
def test_the_better_half_goes_on_and_all_where_their_number_was_asked_for(asked, going_on):
    numbers = np.arange(4.0)
    state = FitState(
        dataclasses.replace(quick(), restarts=asked),
        generator={},
        detectors=Detectors(numbers[:, None, None], numbers[:, None]),
        values=np.array([3.0, 1.0, np.nan, 2.0]),
        records={"a": ({"s": numbers},)},
        violations={"a": {"ic": numbers}},
    )
    kept = state.survivors()
    losses = kept.records["a"][0]["s"], kept.violations["a"]["ic"]
    for array in (kept.detectors.filters.ravel(), kept.detectors.biases.ravel(), *losses):
        assert array.tolist() == going_on


def test_one_start_has_no_others_to_come_back_in(data):
    pairs, history = learn(data.features, n_init=1)
    assert pairs.recurrence is None and len(history.restarts) == 1


def test_n_init_reaches_the_recipe_that_is_handed_over_to():
    features = np.random.default_rng(0).standard_exponential((600, 2, 12)).astype(np.float32)
    features = features @ np.diag(0.8 ** np.arange(12)).astype(np.float32)
    recipe = dataclasses.replace(quicker(), otherwise=dataclasses.replace(quicker(), name="other"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", LearningWarning)
        _, history = learn(features, recipe=recipe, n_init=3)
    assert history.recipe == "other" and len(history.restarts) == 3


@pytest.mark.parametrize("n_init", [0, -1, 2.5, "two", True])
def test_n_init_must_be_a_whole_number(data, n_init):
    with pytest.raises(ValueError, match="n_init must be"):
        learn(data.features, n_init=n_init)


def test_of_several_starts_the_one_that_finds_the_concepts_is_kept(monkeypatch):
    data = signal_maps(6_000, *random_directions(0, 6, 2, 40), seed=0)
    names = iter(["random", "random", "skewness"])
    make = learner.make_start
    monkeypatch.setattr(learner, "make_start", lambda _, *rest: make(next(names), *rest))
    recipe = dataclasses.replace(get_recipe("default"), otherwise=None)
    pairs, history = learn(data.features, 6, recipe=recipe, n_init=3)
    assert np.argmin(history.restarts) == 2
    overlaps = detector_iou(
        pairs.detect(data.features).reshape(-1, 6) > 0.5, data.masks.reshape(-1, 6)
    )
    assert overlaps.max(axis=0).min() > 0.95


def test_detectors_are_no_sharper_than_their_detections_allow(monkeypatch):
    limits, begin = [], Objective.begin

    def watched(self, stage, coordinates, start, **settings):
        limits.append(start.sharpest)
        begin(self, stage, coordinates, start, **settings)

    monkeypatch.setattr(Objective, "begin", watched)
    learn(signals(6, 3_000), 6, recipe=quick())
    counts = limits[0] * 8 / 10  # of 8 axes
    assert counts.min() > 200 and counts.max() < 1_500, "a sixth of 3000 positions, roughly"
