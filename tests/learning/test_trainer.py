import dataclasses
import warnings

import keras
import numpy as np
import pytest
from keras import layers

from xplique_dirpairs.core.linear_algebra import cosines as signal_cosines
from xplique_dirpairs.core.linear_algebra import match as match_concepts
from xplique_dirpairs.datasets.signal_maps import signal_maps
from xplique_dirpairs.datasets.synthetic import (
    pooled_dense_head,
    random_directions,
    synthetic_signals,
)
from xplique_dirpairs.learning import learner, objective
from xplique_dirpairs.learning.callbacks import EpochRecord
from xplique_dirpairs.learning.coordinates import Moments
from xplique_dirpairs.learning.features import HeldFeatures
from xplique_dirpairs.learning.history import (
    LearningWarning,
    find_doubts,
    find_problems,
    share_of_returns,
)
from xplique_dirpairs.learning.presets import RECIPES, get_recipe
from xplique_dirpairs.learning.recipe import Recipe, Stage
from xplique_dirpairs.learning.trainer import learn_pairs
from xplique_dirpairs.metrics.recovery import (
    detector_iou,
    recovery,
)
from xplique_dirpairs.models.head import Head

# Keras' ReduceLROnPlateau reads the learning rate in a way that numpy 2 deprecates
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


def quick(recipe="default", epochs=2, steps=2, **changes):
    """The recipe with very short stages; not what is learned is looked at, but that it runs."""
    recipe = get_recipe(recipe)
    changes = {"epochs": epochs, "steps_per_epoch": steps, **changes}
    changes["meant_for_axes"] = None
    stages = tuple(dataclasses.replace(stage, **changes) for stage in recipe.stages)
    return dataclasses.replace(recipe, stages=stages, restarts=2, otherwise=None)


def quicker(**changes):
    """The last stage alone: compiling is what takes the time."""
    recipe = quick(**changes)
    return dataclasses.replace(recipe, stages=recipe.stages[1:])


def learn(activations, concepts=3, recipe=None, **settings):
    settings = {"random_state": 0, "verbose": 0, **settings}
    return learn_pairs(activations, concepts, recipe=recipe or quicker(), **settings)


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


def match(pairs, others):
    """The concepts of the others in the order of ours, and the least cosine with ours."""
    order = match_concepts(signal_cosines(others.signals, pairs.signals))
    cosines = [
        np.diag(signal_cosines(getattr(pairs, name), getattr(others, name)[order]))
        for name in ("filters", "signals")
    ]
    return order, np.min(cosines)


def one_start(steps):
    """Long enough to have learned something, with nothing to choose between."""
    return dataclasses.replace(quicker(steps=steps), restarts=1)


def brief_default():
    """A sixth of the default recipe's steps: where the start is clear, all that is asked of it."""

    def brief(recipe):
        changes = {"epochs": 4, "steps_per_epoch": 20, "meant_for_axes": None}
        stages = tuple(dataclasses.replace(stage, **changes) for stage in recipe.stages)
        return dataclasses.replace(recipe, stages=stages, restarts=1)

    recipe = get_recipe("default")
    return dataclasses.replace(brief(recipe), otherwise=brief(recipe.otherwise))


def complete(pairs, history, concepts):
    """Pairs that can be used, and a history that can be read."""
    assert pairs.number_of_concepts == concepts
    for field in dataclasses.fields(pairs):
        value = getattr(pairs, field.name)
        assert value is None or np.isfinite(value).all()
    assert history.summary()
    for stage in history.stages.values():
        assert history.cut_short or all(np.isfinite(values).all() for values in stage.values())
    return True


# ------------------------------------------------------------------ what is learned


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
    order, cosine = match(learned, again)
    assert cosine > 0.999
    np.testing.assert_allclose(again.biases[order], learned.biases, rtol=0.01)


@pytest.mark.parametrize("scale, offset", [(1e-2, 0.0), (100.0, -300.0)])
def test_neither_the_scale_nor_the_origin_of_the_features_matters(scale, offset, clear, learned):
    moved = (scale * clear + offset).astype(np.float32)
    again, _ = learn(moved, recipe=one_start(40))
    order, cosine = match(learned, again)
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


# ------------------------------------------------------------------ every recipe, every size

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


def vectors(count, channels=6):
    return np.random.default_rng(0).gamma(0.3, size=(count, channels))


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
    said = any(f"{concepts} concepts in {dimensions} dimensions" in n for n in history.notes)
    assert said == (concepts > dimensions)


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


# ------------------------------------------------------------------ talking


def test_it_is_silent_or_shows_a_bar_per_stage(data, capfd):
    learn(data.features, verbose=0)
    silent = capfd.readouterr()
    assert silent.out == ""
    learn(data.features, recipe=quick(), verbose=1)
    shown = capfd.readouterr().out
    for stage in ("a", "d"):
        assert shown.count(f"Learning 3 concepts, stage {stage}") == 1
    assert shown.count("2/2") == 2


# ------------------------------------------------------------------ what goes wrong


class BreaksDown(layers.Layer):
    """A network that returns NaN after some calls."""

    def build(self, shape):
        self.calls = self.add_weight(shape=(), initializer="zeros", trainable=False, name="calls")

    def call(self, x):
        self.calls.assign_add(1.0)
        return keras.ops.where(self.calls > 2.0, np.float32("nan"), 1.0) * x


def test_a_network_that_breaks_down_costs_no_more_than_the_epochs_since(data, head):
    inputs = keras.Input(data.features.shape[1:])
    broken = Head(keras.Model(inputs, head.model(BreaksDown()(inputs))))
    pairs, history = learn(data.features, head=broken, recipe=quicker(epochs=8))
    assert complete(pairs, history, 3)
    assert "stage d met NaN in epoch" in history.cut_short[0]
    assert len(history.stages["d"]["objective"]) < 8


class Unchecked(Stage):
    """A stage that a recipe would refuse."""

    def __post_init__(self):
        pass


def hopeless(**changes):
    """A learning rate with which the first step breaks down."""
    recipe = quicker(**changes)
    stages = [Unchecked(**vars(s) | {"learning_rate": float("inf")}) for s in recipe.stages]
    return dataclasses.replace(recipe, stages=tuple(stages))


@pytest.mark.parametrize("steps", [1, 2])
def test_a_hopeless_learning_rate_leaves_the_start(steps, data):
    recipe = hopeless(epochs=3, steps=steps)
    pairs, history = learn(data.features, recipe=recipe)
    assert complete(pairs, history, 3)
    assert "NaN" in history.cut_short[0]


def test_a_fit_that_broke_down_from_the_first_step_does_not_look_perfect(data):
    with pytest.warns(LearningWarning, match="NaN") as warned:
        _, history = learn(data.features, recipe=hopeless())
    assert [w.filename for w in warned if w.category is LearningWarning] == [__file__]
    assert 0.0 not in history.stages["d"]["ma"]


def interrupt(monkeypatch, callback, at):
    """Ctrl-C in the at-th epoch of the whole fit."""
    epochs, proceed = [], callback.on_epoch_end

    def on_epoch_end(self, epoch, logs=None):
        epochs.append(epoch)
        if len(epochs) == at:
            raise KeyboardInterrupt
        proceed(self, epoch, logs)

    monkeypatch.setattr(callback, "on_epoch_end", on_epoch_end)


@pytest.mark.parametrize(
    "at, stage",
    [(1, "a"), (2, "a"), (3, "d")],
)
def test_ctrl_c_keeps_what_was_learned_so_far(at, stage, data, monkeypatch):
    interrupt(monkeypatch, EpochRecord, at)
    pairs, history = learn(data.features, recipe=quick())
    assert complete(pairs, history, 3)
    assert f"stage {stage} was interrupted" in history.cut_short[0]
    assert ("d" in history.stages) <= (stage == "d")


def interrupt_once(monkeypatch, owner, name, at=1):
    """Ctrl-C in the at-th call, outside the steps."""
    calls, proceed = [], getattr(owner, name)

    def called(*arguments, **named):
        calls.append(name)
        if len(calls) == at:
            raise KeyboardInterrupt
        return proceed(*arguments, **named)

    monkeypatch.setattr(owner, name, called)


def stage_a():
    recipe = quick()
    return dataclasses.replace(recipe, stages=recipe.stages[:1])


@pytest.fixture(scope="module")
def first_stage(data):
    """What stage a alone learns."""
    return learn(data.features, recipe=stage_a())[0]


def unsuitable(learning):
    """Instead of `Learner._unsuitable`: every recipe that there is another one for."""
    return None if learning.recipe.otherwise is None else "for the test"


@pytest.mark.parametrize(
    "owner, name, at",
    [
        (learner, "make_start", 3),  # two restarts have had one each
        (learner, "fit_stage", 2),
        (objective.Objective, "train_step", 2),  # traced once a stage
    ],
)
def test_ctrl_c_between_recipes_keeps_what_the_first_one_learned(
    owner, name, at, data, first_stage, monkeypatch
):
    monkeypatch.setattr(learner.Learner, "_unsuitable", unsuitable)
    interrupt_once(monkeypatch, owner, name, at)
    other = dataclasses.replace(quick("soft"), start="random")  # its own start takes its time
    recipe = dataclasses.replace(quick(), otherwise=other)
    pairs, history = learn(data.features, recipe=recipe)
    assert complete(pairs, history, 3) and history.interrupted
    assert history.recipe == "default" and list(history.stages) == ["a"]
    assert "recipe default was interrupted after stage a" in history.cut_short[0]
    np.testing.assert_array_equal(pairs.filters, first_stage.filters)


@pytest.mark.parametrize("name", ["_survivors", "_sharpest"])
def test_ctrl_c_between_stages_keeps_the_one_before(name, data, first_stage, monkeypatch):
    interrupt_once(monkeypatch, learner.Learner, name, at=1 if name == "_survivors" else 2)
    pairs, history = learn(data.features, recipe=quick())
    assert complete(pairs, history, 3) and list(history.stages) == ["a"]
    np.testing.assert_array_equal(pairs.filters, first_stage.filters)


@pytest.mark.parametrize(
    "owner, name", [(learner, "make_start"), (objective.Objective, "train_step")]
)
def test_ctrl_c_passes_while_there_is_nothing_to_keep(owner, name, data, monkeypatch):
    interrupt_once(monkeypatch, owner, name)
    with pytest.raises(KeyboardInterrupt):
        learn(data.features)


def test_ctrl_c_while_the_pairs_are_completed_loses_nothing_the_first_time(
    data, learned_quickly, monkeypatch
):
    with monkeypatch.context() as patched:
        interrupt_once(patched, learner, "measure_pairs")
        pairs, history = learn(data.features)
    assert history.interrupted and any("done again" in note for note in history.notes)
    np.testing.assert_array_equal(pairs.signals, learned_quickly[0].signals)
    interrupt(monkeypatch, EpochRecord, 1)
    interrupt_once(monkeypatch, learner, "measure_pairs")
    with pytest.raises(KeyboardInterrupt):
        learn(data.features)


def test_a_stage_stops_when_nothing_improves(data):
    idle = Recipe(
        "idle",
        (
            Stage("a", {"s": 1.0}, schedule="plateau", patience=1, learning_rate=1e-9, epochs=50),
            Stage("d", {"s": 1.0}, learning_rate=1e-9, epochs=50),
        ),
    )
    stages = tuple(dataclasses.replace(stage, steps_per_epoch=1) for stage in idle.stages)
    _, history = learn(data.features, recipe=dataclasses.replace(idle, stages=stages))
    assert 5 <= len(history.stages["a"]["s"]) <= 8
    assert 35 <= len(history.stages["d"]["s"]) <= 42


def with_bound(name, bound, stages=("a",)):
    made = [Stage(s, {"s": 1.0}, {name: bound}, epochs=2, steps_per_epoch=2) for s in stages]
    return Recipe("bound", tuple(made), restarts=2)


def test_broken_bounds_are_listed_with_by_how_much_and_kept_ones_are_not(data):
    with pytest.warns(LearningWarning, match=r"bound on L\^ma is broken"):
        _, history = learn(data.features, recipe=with_bound("ma", 0.01))
    assert history.violations["a"] == {"ma": pytest.approx(history.stages["a"]["ma"][-1] - 0.01)}
    _, history = learn(data.features, recipe=with_bound("ma", 100.0))
    assert history.violations == {"a": {}}


def test_a_bound_that_is_just_missed_is_kept(data):
    _, history = learn(data.features, recipe=with_bound("ma", 100.0))
    bound = history.stages["a"]["ma"][-1]
    _, history = learn(data.features, recipe=with_bound("ma", bound * 0.995))
    assert history.violations == {"a": {}}


def test_bounds_broken_in_an_earlier_stage_are_listed_too(data):
    stages = (with_bound("ma", 0.01).stages[0], Stage("d", {"s": 1.0}, epochs=1, steps_per_epoch=1))
    _, history = learn(data.features, recipe=Recipe("two", stages))
    assert "ma" in str(history.violations)


def test_dead_and_duplicate_concepts_are_found():
    pairs, _ = learn(vectors(100), 4)
    overlaps = np.eye(4)
    overlaps[1, 3] = overlaps[3, 1] = 0.81
    overlaps[0, 1] = overlaps[1, 0] = 0.79
    occupancy = np.array([0.3, 0.004, 0.0051, 0.3])  # 2 % of a fair share of 1/4 is 0.005
    assert find_problems(pairs, occupancy, overlaps) == ([1], [(1, 3)])


def test_more_concepts_than_there_are_kinds_of_positions_are_warned_of(rng):
    kinds = np.repeat(np.eye(2, 5), 100, axis=0) * 3.0
    x = (kinds + 1e-3 * rng.normal(size=kinds.shape))[:, None]
    with pytest.warns(LearningWarning, match="same positions|hardly ever"):
        _, history = learn(x, 6, recipe=quicker(steps=20))
    assert history.dead or history.duplicates


def test_a_good_fit_does_not_warn(data):
    with warnings.catch_warnings():
        warnings.simplefilter("error", LearningWarning)
        _, history = learn(data.features, recipe=quicker(steps=60))
    assert history.problems() == []


def with_value(value):
    x = vectors(20)
    x[3, 2] = value
    return x


@pytest.mark.parametrize(
    "activations, concepts, error, message",
    [
        (with_value(np.nan), 3, ValueError, "NaN"),
        (with_value(np.inf), 3, ValueError, "infinite"),
        (np.full((20, 4), 3.3), 3, ValueError, "constant"),
        (vectors(1), 3, ValueError, "one position only"),
        (np.ones(5), 3, ValueError, "must be numeric with shape"),
        (np.ones((0, 5)), 3, ValueError, "no activations"),
        (vectors(20), 0, ValueError, "at least 1, not 0"),
        (vectors(20), 2.0, ValueError, "integer of at least 1, not 2.0"),
        (vectors(20), True, ValueError, "integer of at least 1, not True"),
        (vectors(20), None, ValueError, "integer of at least 1, not None"),
    ],
)
def test_what_cannot_be_learned_from_is_refused(activations, concepts, error, message):
    with pytest.raises(error, match=message):
        learn(activations, concepts)


def test_a_head_must_be_one_and_take_these_activations(data, head):
    with pytest.raises(TypeError, match=r"must be a Head, not Functional: wrap .* Head\("):
        learn(data.features, head=head.model)
    with pytest.raises(ValueError, match="both halves must come from one split_model"):
        learn(vectors(20, channels=5), head=head)


def test_a_stage_of_network_terms_alone_needs_a_head_and_says_so(data):
    recipe = Recipe("network", (Stage("a", {"uur": 1.0}, epochs=1, steps_per_epoch=1),))
    with pytest.raises(ValueError, match="head"):
        learn(data.features, recipe=recipe)


def test_the_consensus_start_takes_fewer_positions_than_concepts():
    recipe = dataclasses.replace(quicker(), start="consensus")
    assert complete(*learn(vectors(3), 5, recipe=recipe), 5)


def test_a_consensus_start_is_the_same_for_every_seed(data, monkeypatch):
    starts = []
    recipe = dataclasses.replace(quicker(), start="consensus", restarts=2)
    run = learner.Learner.run

    def watched(self, number, start, *rest):
        starts.append(start.filters)
        return run(self, number, start, *rest)

    monkeypatch.setattr(learner.Learner, "run", watched)
    recipe = dataclasses.replace(recipe, stages=recipe.stages[:1])
    for seed in (0, 1):
        learn(data.features, recipe=recipe, random_state=seed)
    np.testing.assert_array_equal(*starts)
    assert np.abs(starts[0][0] - starts[0][1]).max() > 1e-6, "restarts start elsewhere"


def signals(concepts, positions, **options):
    directions = random_directions(0, concepts, 2, 40)
    return signal_maps(positions // 2, *directions, seed=0, **options).features


def test_sharp_detectors_say_where_they_are_not_sure():
    def doubts(features, concepts, recipe=None):
        return with_problems(features, concepts, recipe=recipe or brief_default())[1].doubts

    assert doubts(signals(6, 12_000), 6) == []
    several = doubts(signals(6, 12_000, concepts_per_pixel=3), 6, "default")[0]  # either is true
    assert "positions carry several concepts" in several or "no such concepts" in several
    assert "positions carry several concepts" in find_doubts(0.5, 0.0, 40, np.full(6, 1e4))[0]
    assert "noise blurs where concepts begin" in doubts(signals(6, 12_000, noise=0.1), 6)[0]
    assert "6 of 6 concepts are detected on fewer than 80" in doubts(signals(6, 300), 6)[0]


def test_distractors_that_pass_for_concepts_are_doubted():
    features = signal_maps(3000, *random_directions(0, 8, 4, 64), seed=1).features
    _, history = with_problems(features, 11, recipe=brief_default())
    assert any("8 skewed sources are found for 11 concepts" in doubt for doubt in history.doubts)
    _, history = learn(features, 8, recipe=brief_default())
    assert not any("skewed sources" in doubt for doubt in history.doubts)


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


def test_concepts_that_no_other_start_has_are_said(data, monkeypatch):
    monkeypatch.setattr(learner, "share_of_returns", lambda *_: np.array([1.0, 0.0, 0.5]))
    with pytest.warns(LearningWarning, match=r"\[1\] came back in none of the other starts"):
        pairs, history = learn(data.features, n_init=3)
    assert history.missing == [1] and pairs.recurrence.tolist() == [1.0, 0.0, 0.5]


@pytest.mark.parametrize("asked, going_on", [(None, [1, 3]), (4, [0, 1, 3])])
def test_the_better_half_goes_on_and_all_where_their_number_was_asked_for(asked, going_on, data):
    features, values = HeldFeatures(data.features), np.arange(4.0)
    recipe = dataclasses.replace(quick(), restarts=asked)
    learning = learner.Learner(features, Moments.of(features), 3, None, recipe)
    learning._values = np.array([3.0, 1.0, np.nan, 2.0])
    learning._records = {"a": [{"s": values}]}
    learning._violations = {"a": {"ic": values}}
    kept = learning._survivors(objective.Detectors(values[:, None, None], values[:, None]))
    of_losses = learning._records["a"][0]["s"], learning._violations["a"]["ic"]
    for found in (kept.filters.ravel(), kept.biases.ravel(), *of_losses):
        assert found.tolist() == going_on


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


# ------------------------------------------------------------------ too many concepts, outliers


@pytest.fixture(scope="module")
def eight():
    """Clean data of eight concepts."""
    return signal_maps(1500, *random_directions(0, 8, 4, 64), seed=0, map_shape=(2, 4))


def best_cosines(pairs, data):
    return np.abs(signal_cosines(pairs.signals, data.signals)).max(axis=0)


def with_problems(activations, concepts, recipe="default"):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", LearningWarning)
        return learn(activations, concepts, recipe=recipe)


def test_surplus_concepts_are_reported_and_do_not_harm_the_others(eight):
    pairs, history = with_problems(eight.features, 10)
    assert best_cosines(pairs, eight).min() > 0.98
    assert len(history.surplus) == 2
    assert any(str(history.surplus) in problem for problem in history.problems())
    real = np.delete(pairs.signals, history.surplus, axis=0)
    assert np.abs(signal_cosines(real, eight.signals)).max(axis=0).min() > 0.98


def test_an_image_unlike_the_others_is_left_out_and_said(eight):
    features = eight.features.copy()
    features[0] *= 3
    pairs, history = with_problems(features, 8, brief_default())
    assert best_cosines(pairs, eight).min() > 0.95
    assert any("images [0] are unlike all others" in problem for problem in history.problems())


def test_one_wild_position_does_not_break_the_start(eight):
    features = eight.features.copy()
    features[0, 0, 0] *= 20
    assert complete(*with_problems(features, 8, brief_default()), 8)


def test_rounded_features_are_not_called_noisy(eight):
    rounded = np.round(10 * eight.features) / 10
    assert with_problems(rounded, 8, brief_default())[1].problems() == []


def test_detectors_are_no_sharper_than_their_detections_allow(monkeypatch):
    limits = []
    fit = learner.fit_stage
    monkeypatch.setattr(
        learner, "fit_stage", lambda *args, **k: limits.append(args[2].sharpest) or fit(*args, **k)
    )
    learn(signals(6, 3_000), 6, recipe=quick())
    counts = limits[0] * 8 / 10  # of 8 axes
    assert counts.min() > 200 and counts.max() < 1_500, "a sixth of 3000 positions, roughly"
