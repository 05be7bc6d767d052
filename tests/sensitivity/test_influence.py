"""Influence on small networks equals a reference implementation with loops. Concepts that define a
class are significant, ignored ones are not, and false positives are at the nominal level."""

import math
from types import SimpleNamespace

import keras
import numpy as np
import pytest

from xplique_dirpairs.metrics.significance import CORRECTIONS
from xplique_dirpairs.models.head import Head
from xplique_dirpairs.sensitivity.influence import (
    InfluenceSettings,
    influence_of_directions,
)
from xplique_dirpairs.sensitivity.noise_vectors import mean_difference_noise, trained_filter_noise
from xplique_dirpairs.sensitivity.responses import (
    LinearResponse,
    PassedResponse,
    sensitivity,
    shift_response,
)

SHAPE, K, TIE = (3, 2, 6), 4, 1e-6
#: Number of channels of the scenes: three define a class each, the others are distractors.
CHANNELS = 24


def pooled_dense(inputs):
    return keras.layers.Dense(K)(keras.layers.GlobalAveragePooling2D()(inputs))


def pooled_hidden(inputs):
    x = keras.layers.GlobalAveragePooling2D()(inputs)
    return keras.layers.Dense(K)(keras.layers.Dense(8, activation="relu")(x))


def convolution(inputs):
    x = keras.layers.Conv2D(5, 2, activation="relu", bias_initializer="ones")(inputs)
    return keras.layers.Dense(K)(keras.layers.Flatten()(x))


def ending_in_softmax(inputs):
    return keras.layers.Softmax()(pooled_dense(inputs))


HEADS = (pooled_dense, pooled_hidden, convolution, ending_in_softmax)


def head_of(maker, shape=SHAPE):
    keras.utils.set_random_seed(0)
    inputs = keras.Input(shape)
    return Head(keras.Model(inputs, maker(inputs)))


@pytest.fixture(scope="module")
def heads():
    return {maker: head_of(maker) for maker in HEADS}


@pytest.fixture
def data(rng):
    """Activations of images of three of the four classes; directions, and their detections."""
    x = rng.normal(size=(12, *SHAPE)).astype(np.float32)
    return SimpleNamespace(
        x=x,
        labels=rng.permutation(np.arange(12) % 3),
        directions=rng.normal(size=(3, SHAPE[-1])),
        detections=rng.random((12, *SHAPE[:-1], 3)) < 0.3,
    )


def measured(head, x, labels, directions, detections, features=None, seed=0, **settings):
    """Return the influence of directions, without progress bars, by default by the mean change."""
    settings = InfluenceSettings(**{"statistic": "change", "permutations": 1000} | settings)
    return influence_of_directions(
        head, x, labels, directions, detections, features,
        settings=settings, random_state=seed, verbose=0,
    )  # fmt: skip


def slow_changes(head, x, direction, amount):
    """Return Δ of each image and class: reference implementation, position by position."""
    changes = []
    for image in x:
        moved = image.astype(float).copy()
        for i in range(SHAPE[0]):
            for j in range(SHAPE[1]):
                moved[i, j] += amount * direction / math.sqrt(sum(direction**2))
        logs = []
        for features in (image, moved):
            z = head.logits(features[None].astype(np.float32))[0]
            logs.append([zk - math.log(sum(math.exp(zj) for zj in z)) for zk in z])
        changes.append([after - before for before, after in zip(*logs, strict=True)])
    return np.array(changes)


def slow_sensitivity(head, data, labels, amount, vectors):
    """Return SC and mean Δ of vectors: reference implementation, class by class."""
    scores, means = np.full((2, len(vectors), K), np.nan)
    for i, direction in enumerate(vectors):
        changes = slow_changes(head, data.x, direction, amount)
        for k in range(K):
            own = [c[k] for n, c in enumerate(changes) if labels is None or labels[n] == k]
            if own:
                scores[i, k] = sum(int(c > TIE) - int(c < -TIE) for c in own) / len(own)
                means[i, k] = sum(own) / len(own)
    return scores, means


# ------------------------------------------------------------------ sensitivity


@pytest.mark.parametrize("maker", HEADS)
@pytest.mark.parametrize("regardless", [False, True], ids=["own", "any"])
@pytest.mark.parametrize("amount", [5.0, -2.0])
def test_scores_and_mean_changes_equal_plain_loops(heads, data, maker, regardless, amount):
    labels = None if regardless else data.labels
    result = sensitivity(heads[maker], data.x, labels, data.directions, amount=amount)
    scores, means = slow_sensitivity(heads[maker], data, labels, amount, data.directions)
    np.testing.assert_allclose(result.scores, scores, atol=1e-12)
    np.testing.assert_allclose(result.changes, means, atol=1e-5)
    assert result.images.tolist() == ([12] * K if regardless else [4, 4, 4, 0])


def test_only_a_linear_head_has_a_response_in_closed_form(heads, data):
    kinds = {maker: type(shift_response(heads[maker], data.x, None, TIE)) for maker in HEADS}
    assert kinds.pop(pooled_dense) is LinearResponse
    assert set(kinds.values()) == {PassedResponse}


@pytest.mark.parametrize("maker", [pooled_dense, pooled_hidden])
def test_pooled_features_give_the_same_changes_as_maps(heads, data, maker):
    head = heads[maker]
    maps = sensitivity(head, data.x, data.labels, data.directions)
    pooled = sensitivity(head, head.pool(data.x), data.labels, data.directions)
    np.testing.assert_allclose(pooled.changes, maps.changes, atol=1e-6)


@pytest.mark.parametrize("maker", [pooled_dense, convolution])
def test_sensitivity_does_not_depend_on_order_lengths_or_dtypes(heads, data, rng, maker):
    head = heads[maker]
    before = sensitivity(head, data.x, data.labels, data.directions)
    images, concepts = rng.permutation(12), rng.permutation(3)
    after = sensitivity(
        head,
        data.x[images].astype(np.float64),
        data.labels[images].astype(np.uint8),
        (7.0 * data.directions[concepts]).astype(np.float32),
    )
    np.testing.assert_array_equal(after.scores, before.scores[concepts])
    np.testing.assert_allclose(after.changes, before.changes[concepts], atol=1e-5)


def test_a_class_rises_along_its_own_weights_and_falls_against_them(heads, data):
    head = heads[pooled_dense]
    apart = head.class_rows - head.class_rows.mean(axis=0)
    up = sensitivity(head, data.x, None, apart, amount=1e-2)
    down = sensitivity(head, data.x, None, apart, amount=-1e-2)
    assert (np.diag(up.scores) == 1).all() and (np.diag(up.changes) > 0).all()
    assert (np.diag(down.scores) == -1).all() and (np.diag(down.changes) < 0).all()


def one_output(inputs):
    return keras.layers.Dense(1)(keras.layers.GlobalAveragePooling2D()(inputs))


@pytest.mark.parametrize("kind", ["linear", "sigmoid", "function"])
def test_a_network_of_one_output_has_two_classes_no_and_yes(data, kind):
    head = head_of(one_output)
    rows = head.class_rows[0].astype(float)
    bias = head.logits(np.zeros((1, *SHAPE), np.float32))[0, 0]
    if kind == "sigmoid":
        model = head.model
        head = Head(keras.Model(model.inputs, keras.layers.Activation("sigmoid")(model.outputs[0])))
    if kind == "function":  # its number of outputs is unknown before it is called
        head = Head(head.model.__call__)
    labels = np.arange(12) % 2
    result = sensitivity(head, data.x, labels, data.directions, amount=0.5)
    before = data.x.mean(axis=(1, 2)) @ rows + bias
    for i, direction in enumerate(data.directions):
        after = before + 0.5 * direction @ rows / np.linalg.norm(direction)
        for k, sign in enumerate((-1, 1)):
            own = np.log(1 + np.exp(-sign * before)) - np.log(1 + np.exp(-sign * after))
            assert result.changes[i, k] == pytest.approx(own[labels == k].mean(), abs=1e-5)
    np.testing.assert_array_equal(result.scores, np.sign(result.changes))
    assert result.images.tolist() == [6, 6]


# ------------------------------------------------------------------ significance


@pytest.mark.parametrize("maker", [pooled_dense, convolution])
@pytest.mark.parametrize("statistic", ["change", "signed change", "score"])
@pytest.mark.parametrize("regardless", [False, True], ids=["own", "any"])
def test_p_values_equal_plain_loops(heads, data, maker, statistic, regardless):
    head, labels = heads[maker], None if regardless else data.labels
    drawn, count = [], 6

    def recorded(sample, signs):
        drawn.append(mean_difference_noise(sample, signs))
        return drawn[-1]

    result = measured(
        head, data.x, labels, data.directions, data.detections,
        permutations=count, statistic=statistic, estimator=recorded, early_stopping=False,
    )  # fmt: skip
    which = 0 if statistic == "score" else 1
    own = slow_sensitivity(head, data, labels, 5.0, data.directions)[which]
    noise = np.concatenate(drawn)
    assert len(noise) == 3 * count
    of_noise = slow_sensitivity(head, data, labels, 5.0, noise)[which]
    for i in range(3):
        for k in range(K):
            if np.isnan(own[i, k]):
                assert np.isnan(result.p_values[i, k])
                continue
            block = of_noise[i * count : (i + 1) * count, k]
            if statistic == "signed change":
                stronger = sum(value / own[i, k] >= 1 for value in block)
                assert result.p_values[i, k] == min(1, 2 * (1 + stronger) / (count + 1))
            else:
                stronger = sum(abs(value) >= abs(own[i, k]) for value in block)
                assert result.p_values[i, k] == (1 + stronger) / (count + 1)


@pytest.mark.parametrize("maker", [pooled_dense, convolution])
@pytest.mark.parametrize("statistic", ["change", "signed change"])
def test_early_stopping_changes_no_decision(rng, maker, statistic):
    def run(early):
        return influence_on_scenes(
            np.random.default_rng(0), maker, 60, level=0.2, amount=0.2, statistic=statistic,
            early_stopping=early,
        )  # fmt: skip

    full, early = run(False), run(True)
    assert (full.compared[:, :3] == 60).all() and early.compared[:, :3].mean() < 50
    for correction in CORRECTIONS:
        np.testing.assert_array_equal(early.significant(correction), full.significant(correction))
    small = full.p_values <= 0.2
    assert small.any() and not small.all()
    np.testing.assert_array_equal(early.p_values[small], full.p_values[small])


def scenes(rng, count=90):
    """Return maps where channel c < 3 is only active in class c, and the others in any class."""
    labels = np.arange(count) % 3
    concepts = rng.random((count, *SHAPE[:2], CHANNELS)) < 0.3
    for c in range(3):
        concepts[..., c] &= (labels == c)[:, None, None]
    x = 2.0 * concepts + 0.3 * rng.normal(size=concepts.shape)
    return x.astype(np.float32), labels, concepts


def head_that_ignores_distractors(maker):
    """Return a head in which only channel c < 3 has a weight for class c."""
    head = head_of(maker, (*SHAPE[:2], CHANNELS))
    classes = np.arange(3)
    for layer in head.model.layers:
        if isinstance(layer, keras.layers.Conv2D):
            kernel = np.zeros_like(layer.kernel)
            kernel[..., classes, classes] = 1.0
            layer.set_weights([kernel, np.ones(5, np.float32)])
        if isinstance(layer, keras.layers.Dense):
            kernel = np.zeros_like(layer.kernel)
            channels, weight = (5, 0.1) if maker is convolution else (CHANNELS, 1.0)
            kernel.reshape(-1, channels, K)[:, classes, classes] = weight
            layer.set_weights([kernel, np.zeros(K, np.float32)])
    return head


def influence_on_scenes(rng, maker, permutations=199, **how):
    x, labels, concepts = scenes(rng)
    head, directions = head_that_ignores_distractors(maker), np.eye(4, CHANNELS)
    return measured(
        head, x, labels, directions, concepts[..., :4], permutations=permutations, **how
    )


@pytest.mark.parametrize("maker", [pooled_dense, convolution])
@pytest.mark.parametrize(("statistic", "amount"), [("signed change", 5.0), ("change", 0.2)])
def test_a_concept_that_defines_a_class_is_significant_and_a_distractor_is_not(
    rng, maker, statistic, amount
):
    result = influence_on_scenes(rng, maker, statistic=statistic, amount=amount)
    # A class is helped by its own concept, and hurt by those of the other classes.
    np.testing.assert_array_equal(result.scores[:3, :3], 2 * np.eye(3) - 1)
    smallest = (2 if statistic == "signed change" else 1) / 200
    assert (np.diag(result.p_values)[:3] == smallest).all()
    assert result.significant().any(axis=1).tolist() == [True, True, True, False]
    assert (result.p_values[3, :3] == 1).all() and (result.scores[3, :3] == 0).all()
    assert np.isnan(result.p_values[:, 3]).all() and result.tests == 12
    summary = result.summary()
    assert summary.sdc == 3 and summary.positive_directions == 3 and summary.most_helped == 1
    assert summary.scdp == result.significant().sum()


def test_only_the_signed_change_is_significant_if_a_concept_helps_an_almost_certain_class(rng):
    size, signed = (
        influence_on_scenes(rng, pooled_dense, statistic=statistic)
        for statistic in ("change", "signed change")
    )
    assert (np.diag(size.changes)[:3] > 0).all()
    assert (np.diag(size.p_values)[:3] > 0.1).all() and (np.diag(signed.p_values)[:3] < 0.05).all()


def false_positives(head, rng, directions, permutations, statistic="change"):
    """Return p-values of signal vectors that are estimated from random detections."""
    x = rng.normal(size=(60, *SHAPE)) @ rng.normal(size=(6, 6))
    detections = rng.random((*x.shape[:-1], directions)) < 0.2
    flat, on = x.reshape(-1, 6), detections.reshape(-1, directions)
    signals = [flat[o].mean(axis=0) - flat[~o].mean(axis=0) for o in on.T]
    result = measured(
        head, x[:8], np.arange(8) % 2, signals, detections, x,
        permutations=permutations, statistic=statistic,
    )  # fmt: skip
    return result.p_values[:, :2]


@pytest.mark.parametrize(("maker", "directions"), [(pooled_dense, 600), (pooled_hidden, 200)])
@pytest.mark.parametrize("statistic", ["change", "signed change"])
def test_false_positives_on_a_random_network_are_at_the_nominal_level(
    heads, rng, maker, directions, statistic
):
    p = false_positives(heads[maker], rng, directions, 39, statistic)
    for k in range(2):
        spread = 3 * np.sqrt(0.05 * 0.95 / directions)
        assert abs((p[:, k] <= 0.05).mean() - 0.05) < spread


@pytest.mark.slow
@pytest.mark.parametrize("maker", HEADS[:3])
def test_false_positives_are_at_the_nominal_level_with_many_directions(heads, rng, maker):
    p = false_positives(heads[maker], rng, 2000, 39)
    assert (np.abs((p <= 0.05).mean(axis=0) - 0.05) < 3 * np.sqrt(0.05 * 0.95 / 2000)).all()


def test_saturated_scores_are_less_significant_than_mean_changes(rng):
    change, score = (
        influence_on_scenes(rng, pooled_dense, statistic=statistic, amount=0.2)
        for statistic in ("change", "score")
    )
    assert np.diag(score.scores).tolist()[:3] == [1, 1, 1]
    assert (np.diag(score.p_values)[:3] > np.diag(change.p_values)[:3]).all()


def test_a_detector_that_is_always_or_never_on_is_not_tested(heads, data):
    data.detections[..., 0], data.detections[..., 2] = True, False
    result = measured(
        heads[pooled_dense], data.x, data.labels, data.directions, data.detections, permutations=20
    )
    assert result.untested.tolist() == [0, 2] and result.tests == 3
    assert np.isnan(result.p_values[[0, 2]]).all() and not result.significant("paper")[[0, 2]].any()
    assert np.isfinite(result.scores[:, :3]).all()


@pytest.mark.parametrize("maker", [pooled_dense, convolution])
def test_nothing_is_significant_if_noise_vectors_have_length_zero(heads, data, maker):
    def p_values(x, detections):
        return measured(
            heads[maker], x, data.labels, data.directions, detections,
            permutations=39, estimator=trained_filter_noise,
        ).p_values[:, :3]  # fmt: skip

    assert (p_values(np.ones_like(data.x), data.detections) == 1).all()  # all features are equal
    once = np.zeros_like(data.detections)
    once[0, 0, 0] = True  # a filter that fires at a single position has no signal vector
    assert (p_values(data.x, once) == 1).all()


def test_noise_depends_on_the_seed_and_not_on_the_other_directions(heads, data):
    def run(seed, count=3):
        return measured(
            heads[pooled_dense], data.x, data.labels, data.directions[:count],
            data.detections[..., :count], permutations=50, seed=seed, early_stopping=False,
        )  # fmt: skip

    first = run(1)
    np.testing.assert_array_equal(run(1).exceeded, first.exceeded)
    np.testing.assert_array_equal(run(1, 2).exceeded, first.exceeded[:2])
    assert (run(2).exceeded != first.exceeded).any()


def test_another_estimator_of_noise_can_be_used(heads, data):
    result = measured(
        heads[pooled_dense], data.x, data.labels, data.directions, data.detections,
        permutations=30, estimator=trained_filter_noise,
    )  # fmt: skip
    assert np.isfinite(result.p_values[:, :3]).all()


def test_finished_tests_are_kept_after_an_interruption(heads, data):
    arguments = (heads[pooled_dense], data.x, data.labels, data.directions, data.detections)
    calls_left = [2]

    def interrupting(*given):
        if not calls_left[0]:
            raise KeyboardInterrupt
        calls_left[0] -= 1
        return mean_difference_noise(*given)

    complete = measured(*arguments, permutations=30, early_stopping=False)
    result = measured(*arguments, permutations=30, early_stopping=False, estimator=interrupting)
    assert result.interrupted and not complete.interrupted
    tested = np.setdiff1d(np.arange(len(complete.scores)), result.untested)
    assert 0 < len(tested) < len(complete.scores)
    np.testing.assert_array_equal(result.p_values[tested], complete.p_values[tested])
    np.testing.assert_array_equal(result.changes, complete.changes)
    assert "because the tests were interrupted" in str(result.table())


# ------------------------------------------------------------------ invalid arguments


@pytest.mark.parametrize(
    ("changed", "error", "message"),
    [
        ({"head": lambda x: x}, TypeError, "head must be a Head"),
        ({"activations": np.zeros((12, 3, 3, 6))}, ValueError, "takes activations of shape"),
        ({"activations": np.full((12, *SHAPE), np.nan)}, ValueError, "hold NaN"),
        ({"labels": np.zeros(11, int)}, ValueError, "one for each of 12 images"),
        ({"labels": np.full(12, 4)}, ValueError, "0 to 3"),
        ({"labels": np.full(12, 0.5)}, ValueError, "must be integer"),
        ({"directions": np.ones((3, 5))}, ValueError, r"directions must have shape \(I, 6\)"),
        ({"directions": np.full((3, 6), np.inf)}, ValueError, "directions must be finite"),
        ({"directions": np.eye(3, 6) * [[1], [0], [1]]}, ValueError, r"rows \[1\]"),
        ({"detections": np.ones((12, 3, 2, 3))}, TypeError, "must be bool"),
        ({"detections": np.ones((12, 3, 2, 2), bool)}, ValueError, "one for each position"),
        ({"features": np.ones((5, 6))}, ValueError, "for features of shape"),
        ({"random_state": -1}, ValueError, "random_state must be"),
    ],
)
def test_invalid_arguments_are_refused(heads, data, changed, error, message):
    given = {
        "head": heads[convolution],
        "activations": data.x,
        "labels": data.labels,
        "directions": data.directions,
        "detections": data.detections,
        "verbose": 0,
        **changed,
    }
    with pytest.raises(error, match=message):
        influence_of_directions(**given)


@pytest.mark.parametrize(
    ("setting", "error", "message"),
    [
        ({"amount": 0.0}, ValueError, "amount must be"),
        ({"amount": np.nan}, ValueError, "amount must be"),
        ({"tie": -1.0}, ValueError, "tie must be"),
        ({"permutations": 0}, ValueError, "permutations must be an integer"),
        ({"positions": 1}, ValueError, "positions must be an integer"),
        ({"images": "some"}, ValueError, "images must be one of"),
        ({"statistic": "mean"}, ValueError, "statistic must be one of"),
        ({"level": 0.0}, ValueError, "level must lie"),
        ({"estimator": "svm"}, TypeError, "estimator must be callable"),
    ],
)
def test_invalid_settings_are_refused(setting, error, message):
    with pytest.raises(error, match=message):
        InfluenceSettings(**setting)


def test_pooled_activations_need_the_features_of_the_detections(heads, data):
    head = heads[pooled_dense]
    with pytest.raises(ValueError, match="pass the features that they belong to"):
        measured(head, head.pool(data.x), data.labels, data.directions, data.detections)


def test_the_default_number_of_noise_vectors_is_smaller_for_a_head_that_takes_maps(heads, data):
    def permutations(maker):
        return influence_of_directions(
            heads[maker], data.x[:2], None, data.directions[:1], data.detections[:2, ..., :1],
            verbose=0,
        ).permutations  # fmt: skip

    assert permutations(pooled_dense) == 1000 and permutations(convolution) == 100
