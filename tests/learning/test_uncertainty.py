import numpy as np
import pytest
import tensorflow as tf

from xplique_dirpairs.learning.losses import (
    constrained_displacement,
    fired_displacement,
    unconstrained_displacement,
)
from xplique_dirpairs.learning.signals import RIDGE, ROUNDING, damped_inverse

D, I, P = 9, 4, 20


@pytest.fixture(params=range(3))
def problem(request):
    """Return x (P, D), filters (I, D) of very different margins, biases (I,), signals (I, D)."""
    rng = np.random.default_rng(request.param)
    # Filters are well-conditioned, so that the ridge hardly matters.
    rows = np.linalg.qr(rng.normal(size=(D, I)))[0].T
    signals = rows + 0.1 * rng.normal(size=(I, D))
    signals /= np.linalg.norm(signals, axis=1, keepdims=True)
    margins = np.array([10.0, 1.0, 0.1, 0.005])
    filters = (rows + 0.1 * rng.normal(size=(I, D))) / margins[:, None]
    biases = rng.normal(size=I) / margins
    return 2 * rng.normal(size=(P, D)), filters, biases, signals


def moves(problem):
    """Return the displacements of L^uur and L^cur, name → (P, D)."""
    x, filters, biases, signals = map(tf.constant, problem)
    return {
        "uur": unconstrained_displacement(x, filters, biases).numpy(),
        "cur": constrained_displacement(x, filters, biases, signals).numpy(),
    }


def test_both_moves_end_on_all_hyperplanes_at_once(problem):
    x, filters, biases, _ = problem
    lengths = np.linalg.norm(filters, axis=1)
    before = (x @ filters.T - biases) / lengths
    for name, dx in moves(problem).items():
        left = ((x - dx) @ filters.T - biases) / lengths
        assert np.abs(left).max() < 0.002 * np.abs(before).max(), name


def test_moves_equal_the_formulas_of_the_paper_up_to_the_ridge(problem):
    x, filters, biases, signals = problem
    ours = moves(problem)
    for p in range(P):
        excess = filters @ x[p] - biases
        uur = np.linalg.pinv(filters) @ excess
        cur = signals.T @ np.linalg.pinv(filters @ signals.T, rcond=1e-12) @ excess
        np.testing.assert_allclose(ours["uur"][p], uur, atol=0.002 * np.linalg.norm(uur))
        np.testing.assert_allclose(ours["cur"][p], cur, atol=0.002 * np.linalg.norm(cur))


def test_the_constrained_move_stays_in_the_span_of_the_signal_vectors(problem):
    signals = problem[3]
    dx = moves(problem)["cur"]
    onto = np.linalg.pinv(signals) @ signals
    np.testing.assert_allclose(dx @ onto, dx, atol=1e-9 * np.abs(dx).max())


def test_the_unconstrained_move_is_not_longer_than_the_constrained_one(problem):
    lengths = {name: np.linalg.norm(dx, axis=1) for name, dx in moves(problem).items()}
    assert (lengths["uur"] < 1.001 * lengths["cur"]).all()


def test_the_move_of_cbe_is_along_the_detectors_that_fired_only(problem):
    x, filters, biases, _ = problem
    slow = np.zeros((P, D))
    for p in range(P):
        for w, b in zip(filters, biases, strict=True):
            slow[p] += max(w @ x[p] - b, 0.0) * w / (w @ w)
    dx = fired_displacement(*map(tf.constant, (x, filters, biases)))
    np.testing.assert_allclose(dx, slow, rtol=1e-9, atol=1e-9)


def test_moves_do_not_depend_on_margins_or_other_restarts(problem):
    x, filters, biases, signals = problem
    scale = np.array([3.0, 0.5, 10.0, 1.0])
    scaled = moves((x, filters * scale[:, None], biases * scale, signals))
    stacked = moves((x[None], *(np.stack([a, a[::-1]]) for a in (filters, biases, signals))))
    for name, dx in moves(problem).items():
        np.testing.assert_allclose(scaled[name], dx, rtol=1e-6, atol=1e-8)
        np.testing.assert_allclose(stacked[name], [dx, dx], rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize(
    "concepts",
    [2, 30, 200],
)
def test_moves_and_gradients_are_finite_for_duplicate_filters(concepts, rng):
    x = tf.constant(rng.normal(size=(P, D)), tf.float32)
    same = np.tile(rng.normal(size=(1, D)), (concepts, 1))
    filters, signals = tf.Variable(same, dtype=tf.float32), tf.constant(same, tf.float32)
    biases = tf.zeros(concepts)
    with tf.GradientTape() as tape:
        total = tf.reduce_sum(unconstrained_displacement(x, filters, biases) ** 2)
        total += tf.reduce_sum(constrained_displacement(x, filters, biases, signals) ** 2)
    assert np.isfinite(total)
    assert np.isfinite(tape.gradient(total, filters)).all()


def _best_off_logit(low, high, intact=4.0):
    """Return the logit at the hyperplanes (κ = 1) for which a two-class head is most uncertain.

    The head is linear, so its logit is (1 − κ) intact + κ off, and its entropy is averaged over κ
    from ``low`` to ``high``.
    """
    kappa = np.linspace(low, high, 201)
    off = np.linspace(-intact, intact, 1601)
    logits = (1 - kappa) * intact + kappa * off[:, None]
    p = 1 / (1 + np.exp(-logits))
    entropy = -(p * np.log2(p) + (1 - p) * np.log2(1 - p)).mean(axis=1)
    return off[entropy.argmax()]


def test_a_linear_head_is_certain_at_the_hyperplanes_with_the_kappa_of_the_paper():
    # With κ from 0.5 to 0.9 the head is most uncertain near κ = 0.7, and beyond it the sign of the
    # logit changes.
    assert _best_off_logit(0.5, 0.9) / 4.0 == pytest.approx(-0.4, abs=0.03)
    assert abs(_best_off_logit(0.8, 1.0)) / 4.0 < 0.13


def test_the_gradient_of_the_damped_inverse_equals_that_of_its_formula():
    rng = np.random.default_rng(0)
    gram, weights = (tf.constant(rng.normal(size=(2, I, I))) for _ in range(2))

    def formula(gram):
        normal = tf.matmul(gram, gram, transpose_a=True)
        ridge = RIDGE + ROUNDING * tf.linalg.trace(normal)[..., None, None]
        inverse = tf.linalg.inv(normal + ridge * tf.eye(I, dtype=tf.float64))
        return tf.matmul(inverse, gram, transpose_b=True)

    gradients = []
    for function in (damped_inverse, formula):
        with tf.GradientTape() as tape:
            tape.watch(gram)
            result = function(gram)
        gradients.append(tape.gradient(result, gram, output_gradients=weights).numpy())
        np.testing.assert_allclose(result, formula(gram), rtol=1e-9)
    np.testing.assert_allclose(*gradients, rtol=1e-7)
