"""Signed attributions against reference implementations, and against each other."""

import itertools
import math

import numpy as np
import pytest
import tensorflow as tf

from xplique_dirpairs.metrics.attribution import (
    gradient_times_coefficient,
    integrated_gradients,
    permutation_design,
    shapley_values,
)


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


def score_with_interactions(rng, concepts):
    """Return a score with interactions of any number of concepts."""
    hidden, out = rng.normal(size=(concepts, 8)), rng.normal(size=8)
    return lambda masks: np.maximum(masks @ hidden - 0.3, 0) @ out


# ------------------------------------------------------------------ Shapley values


def test_shapley_values_match_the_sum_over_all_coalitions_up_to_their_error(rng):
    f, masks = score_with_interactions(rng, 6), permutation_design(6, 4000, 0)
    (values, error), truth = shapley_values(f(masks), masks), shapley_slowly(f, 6)
    assert (np.abs(values - truth) < 4 * error).all()
    assert np.abs(values - truth).sum() < 0.02 * np.abs(truth).sum()


def test_errors_match_the_scatter_of_the_estimates(rng):
    f = score_with_interactions(rng, 5)
    truth = shapley_slowly(f, 5)
    estimates = []
    for seed in range(300):
        masks = permutation_design(5, 16, seed)
        estimates.append(shapley_values(f(masks), masks))
    values, errors = np.moveaxis(estimates, 1, 0)
    scatter = np.sqrt(np.mean((values - truth) ** 2))
    assert 0.85 < scatter / np.sqrt(np.mean(errors**2)) < 1.15


@pytest.mark.parametrize("concepts", [1, 2, 7, 20])
@pytest.mark.parametrize("count", [4, 10])
def test_shapley_values_sum_to_the_effect_of_all_concepts(rng, concepts, count):
    f, masks = score_with_interactions(rng, concepts), permutation_design(concepts, count, 0)
    values, _ = shapley_values(f(masks), masks)
    effect = f(np.ones(concepts)) - f(np.zeros(concepts))
    np.testing.assert_allclose(values.sum(), effect, rtol=1e-6)  # masks are float32


@pytest.mark.parametrize("seed", range(3))
def test_an_interaction_of_two_concepts_is_split_equally(seed):
    f = lambda m: 3 * m[..., 0] * m[..., 1] - 5 * m[..., 1] * m[..., 2] + m[..., 3]  # noqa: E731
    masks = permutation_design(4, 4, seed)
    values, error = shapley_values(f(masks), masks)
    np.testing.assert_allclose(values, [1.5, -1.0, -2.5, 1.0], rtol=1e-6)
    np.testing.assert_allclose(error, 0, atol=1e-6)


@pytest.mark.parametrize("concepts", [1, 2, 5])
def test_orders_switch_concepts_on_one_by_one_and_come_in_pairs_of_opposites(concepts):
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


def test_several_sets_of_scores_give_the_same_values_as_each_alone(rng):
    masks = permutation_design(4, 6, 0)
    scores = rng.normal(size=(2, 3, len(masks)))
    together, alone = shapley_values(scores, masks), shapley_values(scores[1, 2], masks)
    for of_all, of_one in zip(together, alone, strict=True):
        assert of_all.shape == (2, 3, 4)
        np.testing.assert_allclose(of_all[1, 2], of_one)


@pytest.mark.parametrize("count", [2, 5])
def test_too_few_or_an_odd_number_of_orders_is_refused(count):
    with pytest.raises(ValueError, match="nb_permutations must be"):
        permutation_design(4, count)


def test_a_number_of_orders_that_is_not_an_integer_is_refused():
    with pytest.raises(ValueError, match="integer"):
        permutation_design(4, 8.0)


# ------------------------------------------------------------------ gradients


def curved(u):
    """Return the score Σ_p u₀³ − u₀ u₁² of each image, (N, *S, 2) → (N,)."""
    return tf.reduce_sum(u[..., 0] ** 3 - u[..., 0] * u[..., 1] ** 2, axis=[1, 2])


def test_gradient_times_coefficient_matches_the_derivative_computed_by_hand(rng):
    u = rng.normal(size=(4, 3, 2, 2))
    first, second = u[..., 0], u[..., 1]
    by_hand = [3 * first**3 - first * second**2, -2 * first * second**2]
    values = gradient_times_coefficient(curved, u)
    np.testing.assert_allclose(values, np.stack(by_hand, -1).sum(axis=(1, 2)), rtol=1e-10)


def test_integrated_gradients_match_the_integral_computed_by_hand(rng):
    u = rng.normal(size=(4, 3, 2, 2))
    first, second = u[..., 0], u[..., 1]
    by_hand = [first**3 - first * second**2 / 3, -2 * first * second**2 / 3]
    values, gap = integrated_gradients(curved, u, steps=2)  # two nodes suffice for a cubic score
    np.testing.assert_allclose(values, np.stack(by_hand, -1).sum(axis=(1, 2)), rtol=1e-10)
    np.testing.assert_allclose(gap, 0, atol=1e-12)


def test_integrated_gradients_are_complete_up_to_the_gap(rng):
    weights = tf.constant(rng.normal(size=(5, 30)))

    def bent(u):
        return tf.reduce_sum(tf.nn.relu(u @ weights - 1.0), axis=1)

    u = rng.normal(size=(6, 5))
    for steps in (1, 8, 128):
        values, gap = integrated_gradients(bent, u, steps)
        change = bent(tf.constant(u)).numpy() - bent(tf.zeros((6, 5), tf.float64)).numpy()
        np.testing.assert_allclose(values.sum(axis=1) - change, gap, atol=1e-12)
        worst = np.abs(gap / change).max()
        assert worst > 0.05 if steps == 1 else worst < 1 / steps


def test_attributions_of_an_image_do_not_depend_on_other_images(rng):
    u = rng.normal(size=(4, 3, 2, 2)).astype(np.float32)
    for method in (gradient_times_coefficient, lambda *a: integrated_gradients(*a)[0]):
        np.testing.assert_allclose(method(curved, u)[2:3], method(curved, u[2:3]), rtol=1e-5)
