"""Results of learning with every recipe and with data of any size."""

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
from xplique_dirpairs.learning import initialisation
from xplique_dirpairs.learning.coordinates import Moments
from xplique_dirpairs.learning.features import Features
from xplique_dirpairs.learning.history import (
    LearningWarning,
    share_of_returns,
)
from xplique_dirpairs.learning.initialisation import begin_fit
from xplique_dirpairs.learning.learner import learn_pairs
from xplique_dirpairs.learning.objective import Objective
from xplique_dirpairs.learning.presets import RECIPES, get_recipe
from xplique_dirpairs.learning.recipe import Recipe, Stage
from xplique_dirpairs.learning.state import Detectors, FitState, Problem
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
    """Pairs and history of a quick fit without a head."""
    return learn(data.features)


def align(pairs, others):
    """Return the matching of two sets of pairs and the smallest cosine of matched concepts."""
    order = match(cosines(others.signals, pairs.signals))
    matched = [
        np.diag(cosines(getattr(pairs, name), getattr(others, name)[order]))
        for name in ("filters", "signals")
    ]
    return order, np.min(matched)


def recipe_with_one_restart(steps):
    """Return a quick recipe with a single restart."""
    return dataclasses.replace(quicker(steps=steps), restarts=1)


def test_the_reference_experiment_is_recovered():
    data, fresh = (synthetic_signals(1000, seed) for seed in (0, 1))
    head = Head(pooled_dense_head(data.features, data.labels))
    pairs, history = learn_pairs(data.features, 3, head=head, random_state=0, verbose=0)
    scores = recovery(
        detected=pairs.detect(fresh.features) > 0.5,
        masks=fresh.masks,
        signals=pairs.signals,
        true_signals=fresh.signals,
        signal_values=pairs.signal_values(fresh.features),
        alpha=fresh.alpha,
    )
    assert scores.iou.min() >= 0.95 and scores.iou_others.max() <= 0.02
    assert scores.cosine.min() >= 0.97 and scores.cosine.mean() >= 0.99
    assert scores.overall_rmse <= 0.12
    assert not history.problems()
    # without the concepts, the network is undecided
    off = fresh.features - pairs.combine(
        pairs.coefficients(fresh.features, "undecided"), "undecided"
    )
    assert head.entropy(head.pool(off)).numpy().mean() >= 0.9 * np.log2(3)


@pytest.fixture(scope="module")
def clear():
    """Three rare concepts in ten channels, so clear that the seed does not matter."""
    rng = np.random.default_rng(0)
    return rng.gamma(0.2, size=(600, 3)) @ rng.normal(size=(3, 10)) + 1.0


@pytest.fixture(scope="module")
def learned(clear):
    return learn(clear, recipe=recipe_with_one_restart(40))[0]


def test_the_order_of_the_images_does_not_matter(clear, learned, rng):
    again, _ = learn(rng.permutation(clear), recipe=recipe_with_one_restart(40))
    order, cosine = align(learned, again)
    assert cosine > 0.999
    np.testing.assert_allclose(again.biases[order], learned.biases, rtol=0.01)


@pytest.mark.parametrize("scale, offset", [(1e-2, 0.0), (100.0, -300.0)])
def test_neither_the_scale_nor_the_origin_of_the_features_matters(scale, offset, clear, learned):
    moved = (scale * clear + offset).astype(np.float32)
    again, _ = learn(moved, recipe=recipe_with_one_restart(40))
    order, cosine = align(learned, again)
    assert cosine > 0.999
    agree = (learned.detect(clear) > 0.5) == (again.detect(moved)[..., order] > 0.5)
    assert agree.mean() > 0.99


def test_the_result_depends_only_on_the_seed(clear, learned):
    again, _ = learn(clear, recipe=recipe_with_one_restart(40), random_state=0)
    for name in ("filters", "biases", "signals", "absent_levels"):
        np.testing.assert_array_equal(getattr(learned, name), getattr(again, name))
    by_chance = dataclasses.replace(quicker(), start="random")
    one, other = (learn(clear, recipe=by_chance, random_state=s)[0] for s in (0, 1))
    assert np.abs(one.filters - other.filters).max() > 1e-6


def test_global_seeds_have_no_effect(data, head):
    """The global seeds of TensorFlow and numpy are not used."""
    recipe = dataclasses.replace(quicker(steps=None), batch=50)
    fits = []
    for seed in (1, 2):
        keras.utils.set_random_seed(seed)
        fits.append(learn(data.features, recipe=recipe, head=head)[0])
    np.testing.assert_array_equal(fits[0].filters, fits[1].filters)


def test_network_terms_are_left_out_without_a_head_and_a_note_says_so(data, head, learned_quickly):
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
        pytest.param(
            name,
            name != "default",  # default is tested with pooling above
            marks=pytest.mark.slow if name in ("default", "constrained") else (),
        )
        for name in RECIPES
    ]
    + [pytest.param(FREE, False, id="free")],
)
def test_every_recipe_runs_and_records_a_history(recipe, pools, data, head):
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


def test_the_default_recipe_is_replaced_if_features_have_no_noise_floor(rng):
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


def test_recipes_with_orthonormal_filters_allow_more_concepts_than_channels():
    recipe = quick("paper-deep")
    recipe = dataclasses.replace(recipe, stages=recipe.stages[:1])
    assert complete(*learn(vectors(200), 15, recipe=recipe), 15)


def test_minibatches_are_used_if_there_are_many_positions(data, head):
    recipe = dataclasses.replace(quicker(steps=None), batch=50)
    assert complete(*learn(data.features, head=head, recipe=recipe), 3)


def test_pairs_of_fewer_concepts_than_channels_are_well_conditioned(rng):
    # six independent sources in eight channels of falling variance
    sources = rng.gamma(0.3, size=(3000, 6)) @ rng.normal(size=(6, 8))
    x = sources + 0.1 * rng.normal(size=sources.shape)
    recipe = quicker(steps=20)
    pairs, _ = learn(x[:, None] * 1.5 ** -np.arange(8), 6, recipe=recipe)
    assert pairs.condition_number < 1e4


def test_verbose_shows_a_line_of_progress_for_each_stage(data, capfd):
    learn(data.features, verbose=0)
    silent = capfd.readouterr()
    assert silent.out == ""
    learn(data.features, recipe=quick(), verbose=1)
    shown = capfd.readouterr().out
    for stage in ("a", "d"):
        assert shown.count(f"Learning 3 concepts, stage {stage}") == 1
    assert shown.count("epoch 2 of 2") == 2 and shown.count("objective ") == 2


def test_the_consensus_start_accepts_fewer_positions_than_concepts():
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
    assert np.abs(starts[0][0] - starts[0][1]).max() > 1e-6, "restarts begin differently"


def test_two_concepts_per_position_are_learned():
    recipe = dataclasses.replace(get_recipe("default"), restarts=1)
    data = signal_maps(6000, *random_directions(0, 12, 2, 40), seed=0, concepts_per_pixel=2)
    pairs, history = learn(data.features, 12, recipe=recipe)
    assert any("positions carry 2 concepts each" in note for note in history.notes)
    detected = (pairs.detect(data.features) > 0.5).sum(axis=-1).mean()
    assert detected == pytest.approx(2.0, abs=0.1)


def test_n_init_restarts_are_learned_to_the_end_and_the_best_is_kept(data):
    recipe = quicker()
    pairs, history = learn(data.features, recipe=recipe, n_init=5)
    assert len(history.restarts) == 5
    last = history.stages["d"]["objective"][-1]
    violations = 10 * sum(history.violations.get("d", {}).values())
    assert last + violations == pytest.approx(min(history.restarts), rel=1e-5)
    # shares of the four others
    np.testing.assert_allclose(4 * pairs.recurrence, np.round(4 * pairs.recurrence))


def test_a_concept_is_found_again_if_projections_correlate(rng):
    mixing = rng.normal(size=(6, 6))
    one, two, three, four, five, _ = np.linalg.inv(mixing)  # uncorrelated projections
    at_a_cosine_of = {c: c * two + np.sqrt(1 - c**2) * four for c in (0.85, 0.95)}
    filters = np.array(
        [
            [3.0 * one, four, -two],  # the opposite direction is another concept
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


@pytest.mark.parametrize("restarts, surviving", [(None, [1, 3]), (4, [0, 1, 3])])
def test_the_better_half_of_restarts_survives_unless_their_number_was_set(restarts, surviving):
    numbers = np.arange(4.0)
    state = FitState(
        dataclasses.replace(quick(), restarts=restarts),
        generator={},
        detectors=Detectors(numbers[:, None, None], numbers[:, None]),
        values=np.array([3.0, 1.0, np.nan, 2.0]),
        records={"a": ({"s": numbers},)},
        violations={"a": {"ic": numbers}},
    )
    kept = state.survivors()
    losses = kept.records["a"][0]["s"], kept.violations["a"]["ic"]
    for array in (kept.detectors.filters.ravel(), kept.detectors.centred_biases.ravel(), *losses):
        assert array.tolist() == surviving


def test_a_single_restart_has_no_recurrence(data):
    pairs, history = learn(data.features, n_init=1)
    assert pairs.recurrence is None and len(history.restarts) == 1


def test_n_init_applies_to_the_alternative_recipe():
    features = np.random.default_rng(0).standard_normal((600, 2, 12)).astype(np.float32)
    features = features @ np.diag(0.8 ** np.arange(12)).astype(np.float32)
    recipe = dataclasses.replace(quicker(), otherwise=dataclasses.replace(quicker(), name="other"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", LearningWarning)
        _, history = learn(features, recipe=recipe, n_init=3)
    assert history.recipe == "other" and len(history.restarts) == 3


@pytest.mark.parametrize("n_init", [0, -1, 2.5, "two", True])
def test_an_invalid_n_init_is_refused(data, n_init):
    with pytest.raises(ValueError, match="n_init must be"):
        learn(data.features, n_init=n_init)


def test_the_restart_that_finds_the_concepts_is_kept(monkeypatch):
    data = signal_maps(6_000, *random_directions(0, 6, 2, 40), seed=0)
    names = iter(["random", "random", "skewness"])
    make = initialisation.make_start
    monkeypatch.setattr(initialisation, "make_start", lambda _, *rest: make(next(names), *rest))
    recipe = dataclasses.replace(get_recipe("default"), otherwise=None)
    pairs, history = learn(data.features, 6, recipe=recipe, n_init=3)
    assert np.argmin(history.restarts) == 2
    overlaps = detector_iou(
        pairs.detect(data.features).reshape(-1, 6) > 0.5, data.masks.reshape(-1, 6)
    )
    assert overlaps.max(axis=0).min() > 0.95


def test_the_sharpness_of_detectors_is_limited_by_their_detections(monkeypatch):
    limits, begin = [], Objective.begin

    def watched(self, stage, coordinates, start, **settings):
        limits.append(start.sharpest)
        begin(self, stage, coordinates, start, **settings)

    monkeypatch.setattr(Objective, "begin", watched)
    learn(signals(6, 3_000), 6, recipe=quick())
    counts = limits[0] * 8 / 10  # the data has 8 axes
    assert counts.min() > 200 and counts.max() < 1_500, (
        "each concept is on about a sixth of 3000 positions"
    )
