"""Every loss against a slow reference implementation of the formulas of the paper."""

import math

import numpy as np
import pytest
import tensorflow as tf

from xplique_dirpairs.learning import losses

P, I, GAMMA, TAU, RHO = 11, 4, 1.1, 0.8, 0.3


# ------------------------------------------------------------------ the reference implementation


def slow_entropy(q):
    return -sum(v * math.log2(v) for v in q if v > 0)


def slow_soft_maximum(values, n=4):
    below = sum(v**n for v in values)
    return sum(v ** (n + 1) for v in values) / below if below > 0 else 0.0


def slow_entropies(y):
    return [slow_entropy([v / sum(row) for v in row]) for row in y]


def slow_activities(y):
    return [sum(row[i] ** GAMMA for row in y) / len(y) for i in range(len(y[0]))]


def slow_maximum_activation(y):
    return sum(-sum(v / sum(row) * math.log2(v) for v in row) for row in y) / len(y)


def slow_inactive(y):
    nu = TAU / len(y[0])
    return sum(max(nu - a, 0.0) / nu for a in slow_activities(y)) / len(y[0])


def slow_excessive(y):
    return slow_soft_maximum([max(a - RHO, 0.0) / (1 - RHO) for a in slow_activities(y)])


#: Name → (the loss as a function of log y, its slow reference implementation of y).
DETECTOR_LOSSES = {
    "s": (
        lambda log_y: losses.position_losses(log_y)["s"],
        lambda y: sum(slow_entropies(y)) / len(y),
    ),
    "sb": (losses.sparsity_bound, lambda y: slow_soft_maximum(slow_entropies(y))),
    "ma": (lambda log_y: losses.position_losses(log_y)["ma"], slow_maximum_activation),
    "ic": (
        lambda log_y: losses.inactive_classifier(losses.activity(log_y, GAMMA), TAU),
        slow_inactive,
    ),
    "eac": (
        lambda log_y: losses.excessively_active_classifier(losses.activity(log_y, GAMMA), RHO),
        slow_excessive,
    ),
}
by_name = pytest.mark.parametrize("name", DETECTOR_LOSSES)


def logits(seed=0, shape=(P, I)):
    """Return logits of rare and frequent concepts, with no loss at an end of its range."""
    means = np.linspace(-5.0, 2.0, shape[-1])
    return np.random.default_rng(seed).normal(means, 2.0, shape)


def value(name, z, dtype=tf.float64):
    return DETECTOR_LOSSES[name][0](tf.math.log_sigmoid(tf.constant(z, dtype))).numpy()


@by_name
@pytest.mark.parametrize("seed", range(3))
def test_a_loss_equals_its_reference_implementation(name, seed):
    z = logits(seed)
    slow = DETECTOR_LOSSES[name][1]((1 / (1 + np.exp(-z))).tolist())
    assert slow > 0, "a formula that is zero would test nothing"
    np.testing.assert_allclose(value(name, z), slow, rtol=1e-9)
    np.testing.assert_allclose(value(name, z, tf.float32), slow, rtol=2e-5)


@by_name
def test_losses_of_several_restarts_equal_those_of_each_restart_alone(name):
    z = logits(shape=(2, 3, P, I))
    alone = [[value(name, one) for one in row] for row in z]
    np.testing.assert_allclose(value(name, z), alone, rtol=1e-12)


@by_name
def test_losses_do_not_depend_on_the_order_of_positions_and_concepts(name, rng):
    z = logits()
    shuffled = z[rng.permutation(P)][:, rng.permutation(I)]
    np.testing.assert_allclose(value(name, shuffled), value(name, z), rtol=1e-12)


@by_name
@pytest.mark.parametrize("size", [0.0, 1e3, -1e3, "mixed"])
def test_losses_and_gradients_are_finite_for_extreme_logits(name, size, rng):
    z = 1e3 * rng.choice([-1.0, 1.0], (P, I)) if size == "mixed" else np.full((P, I), size)
    z = tf.Variable(z, dtype=tf.float32)
    with tf.GradientTape() as tape:
        loss = DETECTOR_LOSSES[name][0](tf.math.log_sigmoid(z))
    assert np.isfinite(loss)
    assert np.isfinite(tape.gradient(loss, z)).all()


def test_all_losses_are_zero_where_each_position_has_exactly_one_concept():
    one_each = 60.0 * np.eye(I)[np.arange(4 * I) % I] - 30.0
    for name in ("s", "sb", "ma", "ic", "eac"):
        assert value(name, one_each) == pytest.approx(0.0, abs=1e-8), name


def test_sparsity_with_two_concepts_per_position_is_zero_for_exactly_two():
    def loss(on, per_position):
        z = tf.constant(np.where(np.arange(I) < on, 30.0, -30.0) * np.ones((P, 1)))
        return float(losses.position_losses(tf.math.log_sigmoid(z), per_position)["s"])

    assert loss(2, 2) == pytest.approx(0.0, abs=1e-8)
    assert loss(1, 2) == pytest.approx(1.0) == loss(2, 1)
    assert loss(3, 2) == pytest.approx(math.log2(3) - 1.0)


def test_sparsity_is_log2_of_the_number_of_concepts_if_all_detections_are_equal():
    for name in ("s", "sb"):
        assert value(name, np.full((P, I), 0.7)) == pytest.approx(math.log2(I))


def test_maximum_activation_is_three_bits_for_detections_of_one_eighth():
    assert value("ma", np.full((P, I), np.log(1 / 7))) == pytest.approx(3.0)  # y = 1/8


def test_inactive_loss_is_one_for_dead_concepts_and_excessive_loss_for_omnipresent_ones():
    assert value("ic", np.full((P, I), -50.0)) == pytest.approx(1.0)
    assert value("eac", np.full((P, I), 50.0)) == pytest.approx(1.0)
    half_dead = np.where(np.arange(I) < I / 2, -50.0, 50.0) * np.ones((P, 1))
    assert value("ic", half_dead) == pytest.approx(0.5)


def test_only_activities_above_rho_count_as_excessive():
    activities = tf.constant([0.95, 0.2], tf.float64)
    for rho, expected in ((0.9, 0.5), (0.95, 0.0), (0.5, 0.9)):
        loss = losses.excessively_active_classifier(activities, rho)
        assert float(loss) == pytest.approx(expected)


def test_maximum_margin_equals_the_mean_length_of_the_filters(rng):
    filters = rng.normal(size=(2, I, 5))
    slow = [sum(math.sqrt(sum(v * v for v in w)) for w in one) / I for one in filters]
    np.testing.assert_allclose(losses.maximum_margin(tf.constant(filters)), slow)


def test_filter_signal_orthogonality_equals_its_formula_without_the_diagonal(rng):
    cosines = rng.uniform(-1, 1, (2, I, I))
    slow = []
    for c in cosines:
        squares = [c[i, j] ** 2 if i != j else 0.0 for i in range(I) for j in range(I)]
        slow.append(math.sqrt(sum(squares) / I**2 + 1e-12))
    loss = losses.filter_signal_orthogonality(tf.constant(cosines))
    np.testing.assert_allclose(loss, slow, rtol=1e-12)


def test_filter_signal_orthogonality_is_correct_at_both_ends_of_its_range():
    orthogonal = tf.Variable(np.eye(I), dtype=tf.float32)
    with tf.GradientTape() as tape:
        loss = losses.filter_signal_orthogonality(orthogonal)
    assert float(loss) == pytest.approx(1e-6)
    assert np.isfinite(tape.gradient(loss, orthogonal)).all()
    alike = float(losses.filter_signal_orthogonality(tf.ones((I, I), tf.float64)))
    assert alike == pytest.approx(math.sqrt((I - 1) / I))


@pytest.mark.parametrize("scale", [1e-30, 1e-12, 1.0, 1e12])
def test_the_soft_maximum_lies_between_mean_and_maximum_at_any_scale(scale):
    values = np.array([0.1, 0.5, 1.0])
    maximum = losses.soft_maximum(tf.constant(scale * values, tf.float32)).numpy() / scale
    assert maximum == pytest.approx(slow_soft_maximum(values), rel=1e-5)
    assert values.mean() < maximum < values.max()


def test_the_soft_maximum_has_the_gradient_of_its_formula(rng):
    values = tf.Variable(rng.uniform(0.1, 1.0, 6))
    with tf.GradientTape() as tape:
        maximum = losses.soft_maximum(values)
    step, slow = 1e-6, []
    for k in range(6):
        up, down = values.numpy(), values.numpy()
        up[k], down[k] = up[k] + step, down[k] - step
        slow.append((slow_soft_maximum(up) - slow_soft_maximum(down)) / (2 * step))
    np.testing.assert_allclose(tape.gradient(maximum, values), slow, atol=1e-7)


def test_the_soft_maximum_of_zeros_is_zero_and_has_a_finite_gradient():
    values = tf.Variable(tf.zeros((2, 3)))
    with tf.GradientTape() as tape:
        maximum = losses.soft_maximum(values)
    assert maximum.numpy().tolist() == [0.0, 0.0]
    assert np.isfinite(tape.gradient(maximum, values)).all()


def gradient_of(function, z):
    z = tf.constant(z, tf.float64)
    with tf.GradientTape() as tape:
        tape.watch(z)
        result = function(z)
    return tape.gradient(result, z).numpy()


def plain_entropies(z):
    y = tf.sigmoid(z)
    q = y / tf.reduce_sum(y, axis=-1, keepdims=True)
    return -tf.reduce_sum(q * tf.math.log(q), axis=-1) / math.log(2.0)


def plain_surprises(z):
    y = tf.sigmoid(z)
    q = y / tf.reduce_sum(y, axis=-1, keepdims=True)
    return -tf.reduce_sum(q * tf.math.log(y), axis=-1) / math.log(2.0)


@pytest.mark.parametrize(
    ("ours", "plain"),
    [
        (lambda log_y: losses.entropies_and_surprises(log_y)[0], plain_entropies),
        (lambda log_y: losses.entropies_and_surprises(log_y)[1], plain_surprises),
        (
            lambda log_y: tf.add_n(losses.entropies_and_surprises(log_y)),
            lambda z: plain_entropies(z) + plain_surprises(z),
        ),
        (
            lambda log_y: losses.activity(log_y, GAMMA),
            lambda z: tf.reduce_mean(tf.sigmoid(z) ** GAMMA, axis=-2),
        ),
    ],
    ids=["entropies", "surprises", "both", "activity"],
)
def test_gradients_written_by_hand_equal_those_of_the_formulas(ours, plain):
    z = logits(shape=(2, P, I))
    shape = plain(tf.constant(z)).shape
    # Equal weights would have a symmetry that could hide a mistake.
    weights = np.random.default_rng(0).normal(size=shape)
    gradient = gradient_of(lambda z: weights * ours(losses.log_detections(z)), z)
    np.testing.assert_allclose(gradient, gradient_of(lambda z: weights * plain(z), z), rtol=1e-9)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_log_detections_are_exact_for_very_small_and_very_large_logits(dtype):
    z = np.array([-1e4, -200.0, -20.0, -1.0, 0.0, 1.0, 20.0, 200.0], dtype)
    log_y = losses.log_detections(tf.constant(z)).numpy()
    np.testing.assert_allclose(log_y, tf.math.log_sigmoid(z), rtol=1e-6, atol=1e-7)
