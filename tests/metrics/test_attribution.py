"""Signed attributions against slow second writings, and against each other where all must agree."""

import itertools
import math

import numpy as np
import pytest
import tensorflow as tf

from xplique_dirpairs.metrics.attribution import (
    gradient_times_coefficient,
    integrated_gradients,
    leave_one_out,
    leave_one_out_design,
    permutation_design,
    shapley_values,
)
from xplique_dirpairs.metrics.importance import sobol_designs, sobol_indices


def shapley_slowly(f, concepts):
    """Σ_S |S|! (I − |S| − 1)! / I! (f(S ∪ i) − f(S)), over all coalitions S without i."""
    values = np.zeros(concepts)
    for i in range(concepts):
        others = [j for j in range(concepts) if j != i]
        for size in range(concepts):
            for chosen in itertools.combinations(others, size):
                without = np.zeros(concepts)
                without[list(chosen)] = 1
                with_i = without.copy()
                with_i[i] = 1
                share = math.factorial(size) * math.factorial(concepts - size - 1)
                values[i] += share / math.factorial(concepts) * (f(with_i) - f(without))
    return values


def tangled(rng, concepts):
    """A score with interactions of any number of concepts."""
    hidden, out = rng.normal(size=(concepts, 8)), rng.normal(size=8)
    return lambda masks: np.maximum(masks @ hidden - 0.3, 0) @ out


# ------------------------------------------------------------------ Shapley values


def test_they_are_the_shapley_values_of_all_coalitions_up_to_their_error(rng):
    f, masks = tangled(rng, 6), permutation_design(6, 4000, 0)
    found, truth = shapley_values(f(masks), masks), shapley_slowly(f, 6)
    assert (np.abs(found.values - truth) < 4 * found.error).all()
    assert np.abs(found.values - truth).sum() < 0.02 * np.abs(truth).sum()


def test_errors_are_as_large_as_the_estimates_scatter(rng):
    f = tangled(rng, 5)
    truth = shapley_slowly(f, 5)
    found = []
    for seed in range(300):
        masks = permutation_design(5, 16, seed)
        found.append(shapley_values(f(masks), masks))
    scatter = np.sqrt(np.mean([(one.values - truth) ** 2 for one in found]))
    assert 0.85 < scatter / np.sqrt(np.mean([one.error**2 for one in found])) < 1.15


@pytest.mark.parametrize("concepts", [1, 2, 7, 20])
@pytest.mark.parametrize("count", [4, 10])
def test_they_sum_to_what_all_concepts_together_add(rng, concepts, count):
    f, masks = tangled(rng, concepts), permutation_design(concepts, count, 0)
    values = shapley_values(f(masks), masks).values
    whole = f(np.ones(concepts)) - f(np.zeros(concepts))
    np.testing.assert_allclose(values.sum(), whole, rtol=1e-6)  # masks are float32


@pytest.mark.parametrize("seed", range(3))
def test_interactions_of_two_are_split_equally_by_four_orders(seed):
    f = lambda m: 3 * m[..., 0] * m[..., 1] - 5 * m[..., 1] * m[..., 2] + m[..., 3]  # noqa: E731
    masks = permutation_design(4, 4, seed)
    found = shapley_values(f(masks), masks)
    np.testing.assert_allclose(found.values, [1.5, -1.0, -2.5, 1.0], rtol=1e-6)
    np.testing.assert_allclose(found.error, 0, atol=1e-6)


@pytest.mark.parametrize("concepts", [1, 2, 5])
def test_an_order_switches_the_concepts_on_one_by_one_and_the_next_backwards(concepts):
    masks = permutation_design(concepts, 6, 0)
    assert masks.shape == (2 + 6 * (concepts - 1), concepts) and masks.dtype == np.float32
    np.testing.assert_array_equal(masks[:2].T, [[0, 1]] * concepts)
    orders = masks[2:].reshape(6, concepts - 1, concepts)
    for order, backwards in zip(orders[::2], orders[1::2], strict=True):
        np.testing.assert_array_equal(order.sum(axis=1), np.arange(1, concepts))
        assert (np.diff(order, axis=0) >= 0).all()
        np.testing.assert_array_equal(backwards, 1 - order[::-1])


def test_a_seed_fixes_the_orders():
    np.testing.assert_array_equal(permutation_design(9, 8, 3), permutation_design(9, 8, 3))
    assert (permutation_design(9, 8, 3) != permutation_design(9, 8, 4)).any()


def test_many_sets_of_scores_give_the_same_as_each_alone(rng):
    masks = permutation_design(4, 6, 0)
    scores = rng.normal(size=(2, 3, len(masks)))
    together, alone = shapley_values(scores, masks), shapley_values(scores[1, 2], masks)
    assert together.values.shape == together.error.shape == (2, 3, 4)
    np.testing.assert_allclose(together.values[1, 2], alone.values)
    np.testing.assert_allclose(together.error[1, 2], alone.error)


@pytest.mark.parametrize("count", [2, 5])
def test_orders_that_give_no_error_are_refused(count):
    with pytest.raises(ValueError, match="nb_permutations must be"):
        permutation_design(4, count)


def test_a_number_of_orders_that_is_no_integer_is_refused():
    with pytest.raises(ValueError, match="integer"):
        permutation_design(4, 8.0)


def test_masks_of_another_design_are_refused():
    masks = permutation_design(4, 8, 0)
    for wrong in (next(sobol_designs(4, 8, 0)), masks[::-1], masks[:-1], masks[0]):
        with pytest.raises(ValueError, match="permutation_design"):
            shapley_values(np.zeros(len(wrong)), wrong)
    with pytest.raises(ValueError, match=r"\(\.\.\., 26\)"):
        shapley_values(np.zeros(25), masks)


# ------------------------------------------------------------------ leave-one-out


def test_a_drop_is_that_of_the_score_without_the_concept(rng):
    f = tangled(rng, 5)
    slow = [f(np.ones(5)) - f(np.arange(5) != i) for i in range(5)]
    np.testing.assert_allclose(leave_one_out(f(leave_one_out_design(5))), slow, rtol=1e-6)


def test_drops_are_counted_in_full_for_both_concepts_of_an_interaction():
    masks = leave_one_out_design(3)
    np.testing.assert_array_equal(leave_one_out(7 * masks[:, 0] * masks[:, 1]), [7, 7, 0])


@pytest.mark.parametrize("scores", [1.0, [1.0]])
def test_drops_need_the_scores_of_all_masks(scores):
    with pytest.raises(ValueError, match=r"\(\.\.\., I \+ 1\)"):
        leave_one_out(scores)


# ------------------------------------------------------------------ gradients


def curved(u):
    """Σ_p u₀³ − u₀ u₁², of each image: (N, *S, 2) → (N,)."""
    return tf.reduce_sum(u[..., 0] ** 3 - u[..., 0] * u[..., 1] ** 2, axis=[1, 2])


def test_gradient_times_coefficient_is_what_differentiating_by_hand_gives(rng):
    u = rng.normal(size=(4, 3, 2, 2))
    first, second = u[..., 0], u[..., 1]
    by_hand = [3 * first**3 - first * second**2, -2 * first * second**2]
    values = gradient_times_coefficient(curved, u)
    np.testing.assert_allclose(values, np.stack(by_hand, -1).sum(axis=(1, 2)), rtol=1e-10)


def test_integrated_gradients_are_what_integrating_by_hand_gives(rng):
    u = rng.normal(size=(4, 3, 2, 2))
    first, second = u[..., 0], u[..., 1]
    by_hand = [first**3 - first * second**2 / 3, -2 * first * second**2 / 3]
    found = integrated_gradients(curved, u, steps=2)  # two nodes suffice for a cubic score
    np.testing.assert_allclose(found.values, np.stack(by_hand, -1).sum(axis=(1, 2)), rtol=1e-10)
    np.testing.assert_allclose(found.gap, 0, atol=1e-12)


def test_integrated_gradients_are_complete_up_to_the_gap_they_state(rng):
    weights = tf.constant(rng.normal(size=(5, 30)))

    def bent(u):
        return tf.reduce_sum(tf.nn.relu(u @ weights - 1.0), axis=1)

    u = rng.normal(size=(6, 5))
    for steps in (1, 8, 128):
        found = integrated_gradients(bent, u, steps)
        change = bent(tf.constant(u)).numpy() - bent(tf.zeros((6, 5), tf.float64)).numpy()
        np.testing.assert_allclose(found.values.sum(axis=1) - change, found.gap, atol=1e-12)
        worst = np.abs(found.gap / change).max()
        assert worst > 0.05 if steps == 1 else worst < 1 / steps


def test_an_image_gets_the_same_alone_as_among_others(rng):
    u = rng.normal(size=(4, 3, 2, 2)).astype(np.float32)
    for method in (gradient_times_coefficient, lambda *a: integrated_gradients(*a).values):
        np.testing.assert_allclose(method(curved, u)[2:3], method(curved, u[2:3]), rtol=1e-5)


def test_coefficients_are_taken_as_arrays_tensors_and_integers():
    u = np.ones((2, 1, 1, 2), np.float32)
    for form in (u, tf.constant(u), u.astype(int)):
        np.testing.assert_allclose(gradient_times_coefficient(curved, form), [[2, -2], [2, -2]])


def test_scores_that_cannot_be_are_refused(rng):
    u = rng.normal(size=(3, 2)).astype(np.float32)
    with pytest.raises(ValueError, match="one an image"):
        gradient_times_coefficient(lambda u: u, u)
    with pytest.raises(ValueError, match="no gradient"):
        gradient_times_coefficient(lambda u: u.numpy().sum(axis=1), u)
    with pytest.raises(ValueError, match=r"\(N, \*S, I\)"):
        gradient_times_coefficient(lambda u: u, u[0])
    with pytest.raises(ValueError, match="at least 1"):
        integrated_gradients(lambda u: u[:, 0], u, steps=0)


# ------------------------------------------------------------------ all methods, one truth


class LinearHead:
    """Average pool and a row of weights: of 20 concepts, each adds its own part to the score."""

    def __init__(self, rng):
        shape = (3, 2)
        self.u = rng.uniform(0, 2, size=(*shape, 20)).astype(np.float32)
        self.bank = rng.normal(size=(20, 24)).astype(np.float32)
        self.residual = rng.normal(size=(*shape, 24)).astype(np.float32)
        self.weights = rng.normal(size=24).astype(np.float32)
        self.truth = self.u.mean(axis=(0, 1), dtype=np.float64) * (self.bank @ self.weights)

    def of_masks(self, masks):
        x = self.residual + self.u @ self.bank
        changed = x - ((1 - masks[:, None, None]) * self.u) @ self.bank
        return changed.mean(axis=(1, 2)) @ self.weights

    def of_coefficients(self, u):
        x = self.residual + tf.tensordot(u, self.bank, 1)
        return tf.linalg.matvec(tf.reduce_mean(x, axis=[1, 2]), self.weights)


def within(found, truth, tolerance):
    return np.abs(found - truth).sum() < tolerance * np.abs(truth).sum()


@pytest.mark.parametrize("seed", range(3))
def test_on_a_linear_head_all_methods_give_the_true_parts(seed):
    head = LinearHead(np.random.default_rng(seed))
    orders, alone, points = (
        permutation_design(20, 4, seed),
        leave_one_out_design(20),
        next(sobol_designs(20, 16, seed)),
    )
    u = head.u[None]
    for found in (
        shapley_values(head.of_masks(orders), orders).values,
        leave_one_out(head.of_masks(alone)),
        gradient_times_coefficient(head.of_coefficients, u)[0],
        integrated_gradients(head.of_coefficients, u, steps=2).values[0],
    ):
        assert within(found, head.truth, 0.001)
    indices = sobol_indices(head.of_masks(points), points)
    shares = head.truth**2 / (head.truth**2).sum()
    assert within(indices.first, shares, 0.001) and within(indices.total, shares, 0.001)


@pytest.mark.parametrize("seed", range(3))
def test_on_an_additive_head_all_but_the_slope_at_the_image_do(seed):
    weights = np.random.default_rng(seed).normal(size=20)
    truth = weights * (np.tanh(3.0 - 1.0) - np.tanh(-1.0))

    def of_masks(masks):
        return np.tanh(3 * np.asarray(masks, np.float64) - 1) @ weights

    def of_coefficients(u):
        return tf.linalg.matvec(tf.tanh(3 * u - 1), weights)

    orders, alone, points = (
        permutation_design(20, 4, seed),
        leave_one_out_design(20),
        next(sobol_designs(20, 64, seed)),
    )
    u = np.ones((1, 20))
    assert within(shapley_values(of_masks(orders), orders).values, truth, 1e-9)
    assert within(leave_one_out(of_masks(alone)), truth, 1e-9)
    assert within(integrated_gradients(of_coefficients, u).values[0], truth, 1e-6)
    assert not within(gradient_times_coefficient(of_coefficients, u)[0], truth, 0.5)
    indices = sobol_indices(of_masks(points), points)
    shares = weights**2 / (weights**2).sum()
    assert within(indices.first, shares, 0.02) and within(indices.total, shares, 0.02)
