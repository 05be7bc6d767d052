"""Influence on small networks equals a reference implementation with loops. Concepts that define a
class are significant, ignored ones are not, and false positives are at the nominal level."""

import math
from types import SimpleNamespace

import keras
import numpy as np
import pytest
from scipy import stats

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


def measured(head, x, labels, directions, seed=0, coefficients=None, **settings):
    """Return the influence of directions against uniform ones, without progress bars."""
    return influence_of_directions(
        head, x, labels, directions, coefficients=coefficients,
        settings=InfluenceSettings(**settings), random_state=seed, verbose=0,
    )  # fmt: skip


def permuted(head, x, labels, directions, detections, features=None, seed=0, **settings):
    """Return the influence of directions against signal vectors of permuted labels."""
    settings = {"noise": "permuted labels", "noise_vectors": 199} | settings
    return influence_of_directions(
        head, x, labels, directions, detections, features,
        settings=InfluenceSettings(**settings), random_state=seed, verbose=0,
    )  # fmt: skip


def slow_changes(head, x, direction, amount):
    """Return Δ, and the change of the centred logit, of each image and class: position by position.

    This is the reference implementation.
    """
    changes = []
    for image in x:
        moved = image.astype(float).copy()
        for i in range(SHAPE[0]):
            for j in range(SHAPE[1]):
                moved[i, j] += amount * direction / math.sqrt(sum(direction**2))
        values = []
        for features in (image, moved):
            z = head.logits(features[None].astype(np.float32))[0]
            logs = [zk - math.log(sum(math.exp(zj) for zj in z)) for zk in z]
            values.append([logs, [zk - sum(z) / K for zk in z]])
        changes.append(np.subtract(values[1], values[0]))
    return np.array(changes)


def slow_sensitivity(head, data, labels, amount, vectors):
    """Return SC, mean Δ and mean change of the centred logit: reference, class by class."""
    scores, means, logits = np.full((3, len(vectors), K), np.nan)
    for i, direction in enumerate(vectors):
        changes = slow_changes(head, data.x, direction, amount)
        for k in range(K):
            own = [c[:, k] for n, c in enumerate(changes) if labels is None or labels[n] == k]
            if own:
                scores[i, k] = sum(int(c > TIE) - int(c < -TIE) for c, _ in own) / len(own)
                means[i, k], logits[i, k] = sum(own) / len(own)
    return scores, means, logits


# ------------------------------------------------------------------ sensitivity


@pytest.mark.parametrize("maker", HEADS)
@pytest.mark.parametrize("regardless", [False, True], ids=["own", "any"])
@pytest.mark.parametrize("amount", [5.0, -2.0])
def test_scores_and_mean_changes_equal_plain_loops(heads, data, maker, regardless, amount):
    labels = None if regardless else data.labels
    result = sensitivity(heads[maker], data.x, labels, data.directions, amount=amount)
    scores, means, logits = slow_sensitivity(heads[maker], data, labels, amount, data.directions)
    np.testing.assert_allclose(result.scores, scores, atol=1e-12)
    np.testing.assert_allclose(result.changes, means, atol=1e-5)
    some = np.isfinite(logits)  # those of a linear head are known without images
    np.testing.assert_allclose(result.logit_changes[some], logits[some], atol=2e-5)
    assert result.images.tolist() == ([12] * K if regardless else [4, 4, 4, 0])


def test_only_a_linear_head_has_a_response_in_closed_form(heads, data):
    kinds = {maker: type(shift_response(heads[maker], data.x, None, TIE, 5.0)) for maker in HEADS}
    assert kinds.pop(pooled_dense) is LinearResponse
    assert kinds.pop(ending_in_softmax) is LinearResponse  # linear but for a constant of each image
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


# ------------------------------------------------------------------ against uniform directions


def test_p_against_uniform_directions_is_exact_for_a_linear_head(heads, data):
    head = heads[pooled_dense]
    result = measured(head, data.x, data.labels, data.directions)
    for i, direction in enumerate(data.directions):
        for k in range(K):
            weights = [row[...] - sum(head.class_rows) / K for row in head.class_rows.astype(float)]
            product = sum(a * b for a, b in zip(weights[k], direction, strict=True))
            square = product**2 / sum(weights[k] ** 2) / sum(direction**2)
            p = 1 - stats.beta(0.5, (SHAPE[-1] - 1) / 2).cdf(square)
            assert result.p_values[i, k] == pytest.approx(p, rel=1e-4)
            unit = product / math.sqrt(sum(direction**2))
            assert result.unit_effects[i, k] == pytest.approx(unit, rel=1e-4)
    assert result.is_exact and result.reachable("bonferroni") and result.tests == 3 * K


def test_an_exact_p_depends_on_neither_images_nor_amount_nor_seed(heads, data):
    head = heads[pooled_dense]
    first = measured(head, data.x, data.labels, data.directions)
    again = measured(
        head, data.x[:1], None, 3 * data.directions, seed=1, amount=0.1, images="class"
    )
    np.testing.assert_allclose(again.p_values, first.p_values, rtol=1e-5)
    np.testing.assert_allclose(again.unit_effects, first.unit_effects, rtol=1e-5)


def uniform(count, seed=0, channels=SHAPE[-1]):
    directions = np.random.default_rng(seed).normal(size=(count, channels))
    return directions / np.linalg.norm(directions, axis=1, keepdims=True)


@pytest.mark.slow
@pytest.mark.parametrize("maker", [pooled_hidden, convolution])
def test_extrapolated_p_values_agree_with_a_full_count_of_uniform_directions(rng, maker):
    head, x = head_of(maker, (*SHAPE[:2], 64)), rng.normal(size=(6, *SHAPE[:2], 64))
    many = uniform(8000, 1, 64)
    noise = sensitivity(head, x, None, many).logit_changes
    # directions between one of the strongest and an arbitrary one
    strongest = many[np.abs(noise).argmax(axis=0)]
    directions = np.concatenate([strongest, uniform(12, 2, 64), uniform(4, 3, 64) + strongest])
    result = measured(head, x, None, directions, min_images=1)
    observed = sensitivity(head, x, None, directions).logit_changes
    above, below = (
        (1 + (sign * noise[None] >= sign * observed[:, None]).sum(axis=1)) / (len(noise) + 1)
        for sign in (1, -1)
    )
    full = np.minimum(1.0, 2 * np.minimum(above, below))
    known = result.tested & (full > 20 / len(noise))  # others are counted too coarsely
    assert result.noise_vectors == 300 and not result.is_exact
    assert (full[known] < 0.02).any() and (full[known] > 0.2).any()
    ratio = result.p_values[known] / full[known]
    # lighter tails than normal ones make p too large, not too small
    assert (ratio > 0.3).all() and (ratio < 10).all() and 0.7 < np.median(ratio) < 1.5


@pytest.mark.parametrize("maker", [pooled_dense, pooled_hidden, convolution])
def test_uniform_directions_are_significant_at_the_nominal_rate(heads, data, maker):
    count = 2000 if maker is pooled_dense else 300
    result = measured(heads[maker], data.x, None, uniform(count, seed=2), min_images=1)
    p = result.p_values[:, result.tested[0]]
    # 300 noise vectors have a threshold of their own, which is off by as much
    spread = (3 if maker is pooled_dense else 6) * np.sqrt(0.05 * 0.95 / count)
    assert (np.abs((p <= 0.05).mean(axis=0) - 0.05) < spread).all()


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


@pytest.mark.parametrize("maker", [pooled_dense, convolution])
def test_a_concept_that_defines_a_class_is_significant_and_a_distractor_is_not(rng, maker):
    x, labels, _ = scenes(rng)
    result = measured(head_that_ignores_distractors(maker), x, labels, np.eye(4, CHANNELS))
    # The effects of noise on the convolution are far from normal: p is extrapolated with care.
    marked = result.significant("bonferroni" if maker is pooled_dense else "none")
    assert marked[range(3), range(3)].all()
    assert (result.unit_effects[range(3), range(3)] > 0).all()
    assert (result.p_values[3, :3] > 0.5).all() and not result.significant("none")[3].any()


def test_a_class_that_few_images_are_predicted_as_is_not_tested_unless_p_is_exact(rng):
    x, labels, _ = scenes(rng)
    x = x[labels != 2]
    predicted = np.bincount(
        head_that_ignores_distractors(convolution).logits(x).argmax(axis=1), minlength=K
    )
    few = predicted < 10
    assert few.any() and not few.all()
    for maker, tested in ((convolution, ~few), (pooled_dense, np.ones(K, bool))):
        result = measured(
            head_that_ignores_distractors(maker), x, labels[labels != 2], np.eye(4, CHANNELS)
        )
        np.testing.assert_array_equal(result.tested, np.tile(tested, (4, 1)))
        assert result.tests == 4 * tested.sum()
        reasons = {result.reason(0, k) for k in range(K)}
        reason = "fewer than 10 images predicted as the class"
        assert reasons == ({"", reason} if maker is convolution else {""})


@pytest.mark.parametrize("maker", HEADS)
def test_the_effect_in_logits_is_the_unit_effect_times_the_coefficient(heads, data, rng, maker):
    coefficients = rng.random((12, 3))
    result = measured(
        heads[maker], data.x, data.labels, data.directions, coefficients=coefficients,
        min_images=1, noise_vectors=20,
    )  # fmt: skip
    for i, direction in enumerate(data.directions):
        changes = slow_changes(heads[maker], data.x, direction, 5.0)[:, 1]
        for k in range(3):
            own = [n for n in range(12) if data.labels[n] == k]
            values = [changes[n, k] / 5.0 * coefficients[n, i] for n in own]
            mean = sum(values) / len(values)
            spread = math.sqrt(sum((v - mean) ** 2 for v in values) / (len(values) - 1))
            half = 3.182446 * spread / math.sqrt(len(values))  # t of 95 % with 3 degrees of freedom
            assert result.effects[i, k] == pytest.approx(mean, abs=1e-5)
            assert result.intervals[i, k] == pytest.approx(half, abs=1e-5)
    assert np.isnan(result.effects[:, 3]).all()  # class 3 has no images
    single = measured(
        heads[maker], data.x[:1], [1], data.directions, coefficients=coefficients[:1],
        noise_vectors=20,
    )  # fmt: skip
    assert np.isfinite(single.effects[:, 1]).all() and np.isnan(single.intervals).all()


def test_the_effect_of_one_output_is_opposite_for_no_and_yes(data):
    result = measured(head_of(one_output), data.x, np.arange(12) % 2, data.directions)
    np.testing.assert_allclose(result.unit_effects[:, 0], -result.unit_effects[:, 1])
    np.testing.assert_allclose(result.p_values[:, 0], result.p_values[:, 1])


def test_nothing_is_tested_if_sampling_is_interrupted(heads, data, monkeypatch):
    def interrupt(self, shifts, calls=[]):  # noqa: B006
        calls.append(shifts)
        if len(calls) > 2:
            raise KeyboardInterrupt
        return statistics(self, shifts)

    statistics = PassedResponse.statistics
    monkeypatch.setattr(PassedResponse, "statistics", interrupt)
    result = measured(heads[convolution], data.x, data.labels, data.directions, min_images=1)
    assert result.interrupted and not result.tests
    assert result.reason(0, int(result.predicted.argmax())) == "the tests were interrupted"
    assert np.isfinite(result.unit_effects).all()


# ------------------------------------------------------------------ against permuted labels


@pytest.mark.parametrize("maker", [pooled_dense, convolution])
@pytest.mark.parametrize("statistic", ["change", "score"])
@pytest.mark.parametrize("images", ["class", "all"])
def test_p_values_equal_plain_loops(heads, data, maker, statistic, images):
    head, labels = heads[maker], data.labels if images == "class" else None
    drawn, count = [], 6

    def recorded(sample, signs):
        drawn.append(mean_difference_noise(sample, signs))
        return drawn[-1]

    result = permuted(
        head, data.x, data.labels, data.directions, data.detections,
        noise_vectors=count, statistic=statistic, estimator=recorded, images=images,
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
            stronger = sum(abs(value) >= abs(own[i, k]) for value in block)
            assert result.p_values[i, k] == (1 + stronger) / (count + 1)


def false_positives(head, rng, directions, permutations):
    """Return p-values of signal vectors that are estimated from random detections."""
    x = rng.normal(size=(60, *SHAPE)) @ rng.normal(size=(6, 6))
    detections = rng.random((*x.shape[:-1], directions)) < 0.2
    flat, on = x.reshape(-1, 6), detections.reshape(-1, directions)
    signals = [flat[o].mean(axis=0) - flat[~o].mean(axis=0) for o in on.T]
    return permuted(head, x[:8], None, signals, detections, x, noise_vectors=permutations).p_values[
        :, :2
    ]


@pytest.mark.parametrize(("maker", "directions"), [(pooled_dense, 600), (pooled_hidden, 200)])
def test_random_detections_are_significant_at_the_nominal_rate(heads, rng, maker, directions):
    p = false_positives(heads[maker], rng, directions, 39)
    for k in range(2):
        spread = 3 * np.sqrt(0.05 * 0.95 / directions)
        assert abs((p[:, k] <= 0.05).mean() - 0.05) < spread


@pytest.mark.slow
@pytest.mark.parametrize("maker", HEADS[:3])
def test_random_detections_are_significant_at_the_nominal_rate_many_times(heads, rng, maker):
    p = false_positives(heads[maker], rng, 2000, 39)
    assert (np.abs((p <= 0.05).mean(axis=0) - 0.05) < 3 * np.sqrt(0.05 * 0.95 / 2000)).all()


def test_saturated_scores_are_less_significant_than_mean_changes(rng):
    x, labels, concepts = scenes(rng)
    head, directions = head_that_ignores_distractors(pooled_dense), np.eye(4, CHANNELS)
    change, score = (
        permuted(
            head, x, labels, directions, concepts[..., :4], statistic=statistic, amount=0.2,
            images="class",
        )
        for statistic in ("change", "score")
    )  # fmt: skip
    assert np.diag(score.scores).tolist()[:3] == [1, 1, 1]
    assert (np.diag(score.p_values)[:3] > np.diag(change.p_values)[:3]).all()


def test_a_detector_that_is_always_or_never_on_is_not_tested(heads, data):
    data.detections[..., 0], data.detections[..., 2] = True, False
    result = permuted(
        heads[pooled_dense], data.x, data.labels, data.directions, data.detections, images="class"
    )
    assert result.tested.any(axis=1).tolist() == [False, True, False] and result.tests == 3
    assert result.reason(0, 0) == "detected everywhere or nowhere"
    assert result.reason(1, 3) == "no images of the class" and result.reason(1, 0) == ""
    assert np.isfinite(result.scores[:, :3]).all()


@pytest.mark.parametrize("maker", [pooled_dense, convolution])
def test_nothing_is_significant_if_noise_vectors_have_length_zero(heads, data, maker):
    def p(x, detections):
        return permuted(
            heads[maker], x, data.labels, data.directions, detections,
            noise_vectors=39, estimator=trained_filter_noise,
        ).p_values  # fmt: skip

    assert (p(np.ones_like(data.x), data.detections) == 1).all()  # all features are equal
    once = np.zeros_like(data.detections)
    once[0, 0, 0] = True  # a filter that fires at a single position has no signal vector
    assert (p(data.x, once) == 1).all()


def test_noise_depends_on_the_seed_and_not_on_the_other_directions(heads, data):
    def run(seed, count=3):
        return permuted(
            heads[pooled_dense], data.x, data.labels, data.directions[:count],
            data.detections[..., :count], noise_vectors=50, seed=seed,
        ).p_values  # fmt: skip

    first = run(1)
    np.testing.assert_array_equal(run(1), first)
    np.testing.assert_array_equal(run(1, 2), first[:2])
    assert (run(2) != first).any()


def test_finished_tests_are_kept_after_an_interruption(heads, data):
    arguments = (heads[pooled_dense], data.x, data.labels, data.directions, data.detections)
    calls_left = [2]

    def interrupting(*given):
        if not calls_left[0]:
            raise KeyboardInterrupt
        calls_left[0] -= 1
        return mean_difference_noise(*given)

    complete = permuted(*arguments, noise_vectors=30)
    result = permuted(*arguments, noise_vectors=30, estimator=interrupting)
    assert result.interrupted and not complete.interrupted
    tested = result.tested
    assert 0 < tested.sum() < tested.size
    np.testing.assert_array_equal(result.p_values[tested], complete.p_values[tested])
    np.testing.assert_array_equal(result.changes, complete.changes)
    assert "the tests were interrupted" in str(result.table())


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
        ({"detections": None}, ValueError, "detections must be given if labels are permuted"),
        ({"coefficients": np.ones((12, 2))}, ValueError, "one for each image and direction"),
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
        "settings": InfluenceSettings(noise="permuted labels"),
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
        ({"noise": "pink"}, ValueError, "noise must be one of"),
        ({"noise_vectors": 19}, ValueError, "noise_vectors must be an integer"),
        ({"noise_vectors": 0, "noise": "permuted labels"}, ValueError, "noise_vectors must be"),
        ({"min_images": 0}, ValueError, "min_images must be an integer"),
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
        permuted(head, head.pool(data.x), data.labels, data.directions, data.detections)


def test_the_default_number_of_noise_vectors_is_smaller_for_a_head_that_takes_maps(heads, data):
    def default(maker):
        return permuted(
            heads[maker], data.x[:2], None, data.directions[:1], data.detections[:2, ..., :1],
            noise_vectors=None,
        ).noise_vectors  # fmt: skip

    assert default(pooled_dense) == 1000 and default(convolution) == 100
