"""Problems of fits and how the history reports them."""

import dataclasses
import warnings

import keras
import numpy as np
import pytest
from fits import brief_default, complete, learn, quicker, signals, vectors, with_problems
from keras import layers

from xplique_dirpairs.core.linear_algebra import cosines
from xplique_dirpairs.datasets.synthetic import (
    pooled_dense_head,
    random_directions,
    signal_maps,
    synthetic_signals,
)
from xplique_dirpairs.learning import completion
from xplique_dirpairs.learning.history import (
    LearningWarning,
    find_doubts,
    find_problems,
)
from xplique_dirpairs.learning.learner import learn_pairs
from xplique_dirpairs.learning.recipe import Recipe, Stage
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


class BreaksDown(layers.Layer):
    """Layer that returns NaN after a few calls."""

    def build(self, shape):
        self.calls = self.add_weight(shape=(), initializer="zeros", trainable=False, name="calls")

    def call(self, x):
        self.calls.assign_add(1.0)
        return keras.ops.where(self.calls > 2.0, np.float32("nan"), 1.0) * x


def test_nan_from_the_network_ends_the_stage_and_keeps_earlier_epochs(data, head):
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
    """Return a recipe with an infinite learning rate, whose first step gives NaN."""
    recipe = quicker(**changes)
    stages = [Unchecked(**vars(s) | {"learning_rate": float("inf")}) for s in recipe.stages]
    return dataclasses.replace(recipe, stages=tuple(stages))


@pytest.mark.parametrize("steps", [1, 2])
def test_an_infinite_learning_rate_keeps_the_initial_detectors(steps, data):
    recipe = hopeless(epochs=3, steps=steps)
    pairs, history = learn(data.features, recipe=recipe)
    assert complete(pairs, history, 3)
    assert "NaN" in history.cut_short[0]


def test_a_fit_that_met_nan_in_its_first_step_warns(data):
    with pytest.warns(LearningWarning, match="NaN") as warned:
        _, history = learn_pairs(data.features, 3, recipe=hopeless(), random_state=0, verbose=0)
    assert [w.filename for w in warned if w.category is LearningWarning] == [__file__]
    assert 0.0 not in history.stages["d"]["ma"]


def test_a_stage_stops_early_if_nothing_improves(data):
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
    parts = [Stage(s, {"s": 1.0}, {name: bound}, epochs=2, steps_per_epoch=2) for s in stages]
    return Recipe("bound", tuple(parts), restarts=2)


def test_violations_list_the_excess_over_broken_bounds_only(data):
    with pytest.warns(LearningWarning, match=r"bound on L\^ma is exceeded"):
        _, history = learn(data.features, recipe=with_bound("ma", 0.01))
    assert history.violations["a"] == {"ma": pytest.approx(history.stages["a"]["ma"][-1] - 0.01)}
    _, history = learn(data.features, recipe=with_bound("ma", 100.0))
    assert history.violations == {"a": {}}


def test_a_tiny_excess_over_a_bound_is_tolerated(data):
    _, history = learn(data.features, recipe=with_bound("ma", 100.0))
    bound = history.stages["a"]["ma"][-1]
    _, history = learn(data.features, recipe=with_bound("ma", bound * 0.995))
    assert history.violations == {"a": {}}


def test_bounds_broken_in_an_earlier_stage_are_listed(data):
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


def test_too_many_concepts_for_the_data_cause_a_warning(rng):
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
        (vectors(1), 3, ValueError, "only one position"),
        (np.ones(5), 3, ValueError, "must be numeric with shape"),
        (np.ones((0, 5)), 3, ValueError, "no activations"),
        (vectors(20), 0, ValueError, "at least 1, not 0"),
        (vectors(20), 2.0, ValueError, "integer of at least 1, not 2.0"),
        (vectors(20), True, ValueError, "integer of at least 1, not True"),
        (vectors(20), None, ValueError, "integer of at least 1, not None"),
    ],
)
def test_invalid_activations_or_numbers_of_concepts_are_refused(
    activations, concepts, error, message
):
    with pytest.raises(error, match=message):
        learn(activations, concepts)


def test_a_head_of_the_wrong_type_or_shape_is_refused(data, head):
    with pytest.raises(TypeError, match=r"must be a Head, not Functional: wrap .* Head\("):
        learn(data.features, head=head.model)
    with pytest.raises(ValueError, match="both halves must come from one split_model"):
        learn(vectors(20, channels=5), head=head)


def test_a_stage_of_network_terms_only_needs_a_head(data):
    recipe = Recipe("network", (Stage("a", {"uur": 1.0}, epochs=1, steps_per_epoch=1),))
    with pytest.raises(ValueError, match="head"):
        learn(data.features, recipe=recipe)


@pytest.mark.slow
def test_doubts_about_sharp_detectors_are_reported():
    def doubts(features, concepts, recipe=None):
        return with_problems(features, concepts, recipe=recipe or brief_default())[1].doubts

    assert doubts(signals(6, 12_000), 6) == []
    several = doubts(signals(6, 12_000, concepts_per_pixel=3), 6, "default")[
        0
    ]  # both reports are correct
    assert "positions carry several concepts" in several or "no such concepts" in several
    assert "positions carry several concepts" in find_doubts(0.5, 0.0, 40, np.full(6, 1e4))[0]
    assert "noise blurs where concepts begin" in doubts(signals(6, 12_000, noise=0.1), 6)[0]
    assert "6 of 6 concepts are detected on fewer than 80" in doubts(signals(6, 300), 6)[0]


def test_concepts_that_may_be_distractors_are_reported():
    features = signal_maps(3000, *random_directions(0, 8, 4, 64), seed=1).features
    _, history = with_problems(features, 11, recipe=brief_default())
    assert any("8 skewed sources were found for 11 concepts" in doubt for doubt in history.doubts)
    _, history = learn(features, 8, recipe=brief_default())
    assert not any("skewed sources" in doubt for doubt in history.doubts)


def test_concepts_missing_in_all_other_restarts_are_reported(data, monkeypatch):
    monkeypatch.setattr(completion, "share_of_returns", lambda *_: np.array([1.0, 0.0, 0.5]))
    with pytest.warns(LearningWarning, match="in any other restart: concept 1"):
        pairs, history = learn(data.features, n_init=3)
    assert history.missing == [1] and pairs.recurrence.tolist() == [1.0, 0.0, 0.5]


@pytest.fixture(scope="module")
def eight():
    """Clean data with eight concepts."""
    return signal_maps(1500, *random_directions(0, 8, 4, 64), seed=0, map_shape=(2, 4))


def best_cosines(pairs, data):
    return np.abs(cosines(pairs.signals, data.signals)).max(axis=0)


def test_surplus_concepts_are_reported_and_do_not_harm_the_others(eight):
    pairs, history = with_problems(eight.features, 10)
    assert best_cosines(pairs, eight).min() > 0.98
    assert len(history.surplus) == 2
    numbers = "concepts " + ", ".join(map(str, history.surplus))
    assert any(numbers in problem for problem in history.problems())
    real = np.delete(pairs.signals, history.surplus, axis=0)
    assert np.abs(cosines(real, eight.signals)).max(axis=0).min() > 0.98


def test_an_outlier_image_is_left_out_and_reported(eight):
    features = eight.features.copy()
    features[0] *= 3
    pairs, history = with_problems(features, 8, brief_default())
    assert best_cosines(pairs, eight).min() > 0.95
    assert any("images [0] are unlike all others" in problem for problem in history.problems())


def test_one_extreme_position_does_not_break_the_start(eight):
    features = eight.features.copy()
    features[0, 0, 0] *= 20
    assert complete(*with_problems(features, 8, brief_default()), 8)


def test_rounded_features_are_not_reported_as_noisy(eight):
    rounded = np.round(10 * eight.features) / 10
    assert with_problems(rounded, 8, brief_default())[1].problems() == []


def test_constant_activations_give_pairs_that_are_never_detected_and_a_warning():
    activations = np.full((6, 4, 4, 5), 2.5, np.float32)
    with pytest.warns(LearningWarning, match="must not be constant.*no concept is ever detected"):
        pairs, history = learn_pairs(activations, 7, verbose=0)
    assert not (pairs.detect(activations) > 0.5).any() and history.dead == list(range(7))
    np.testing.assert_allclose(pairs.coefficients(activations), 0.0, atol=1e-5)
