"""Tests of the least changes against exhaustive search and a general optimiser."""

from itertools import combinations, product

import numpy as np
import pytest
from scipy.optimize import minimize

from xplique_dirpairs.interventions.least_changes import (
    best_concepts,
    closed_form_shifts,
    first_near,
)
from xplique_dirpairs.interventions.moved_features import CoefficientRange


def wide(concepts):
    """Return a range so wide that nothing is clipped."""
    ends = np.full(concepts, 1e6)
    return CoefficientRange(-ends, ends, -ends, ends)


# ------------------------------------------------------------------------------ range


def test_the_range_holds_quantiles_of_extremes_and_means_of_images(rng):
    u = rng.exponential(size=(200, 4, 3)).astype(np.float32)
    bounds = CoefficientRange.of([u[:50], u[50:]], 0.9)
    assert (bounds.low == 0).all() and (bounds.low_mean == 0).all()
    np.testing.assert_allclose(bounds.high, np.quantile(u.max(axis=1), 0.9, axis=0), rtol=1e-6)
    np.testing.assert_allclose(
        bounds.high_mean, np.quantile(u.mean(axis=1), 0.9, axis=0), rtol=1e-6
    )


def test_the_range_of_signed_coefficients_has_two_ends(rng):
    u = rng.normal(size=(200, 4, 2))
    bounds = CoefficientRange.of([u], 0.9)
    np.testing.assert_allclose(bounds.low, np.quantile(u.min(axis=1), 0.1, axis=0))
    np.testing.assert_allclose(bounds.low_mean, np.quantile(u.mean(axis=1), 0.1, axis=0))


@pytest.mark.parametrize("quantile", [0.5, 1.01, float("nan")])
def test_a_quantile_out_of_range_is_refused(rng, quantile):
    with pytest.raises(ValueError, match="quantile"):
        CoefficientRange.of([rng.normal(size=(3, 2, 2))], quantile)


def test_at_the_furthest_shift_the_mean_is_the_highest_of_training_images(rng):
    u = rng.exponential(size=(50, 6, 3))
    bounds = CoefficientRange.of([u], 0.9)
    fewer = 0.5 * u[:10]
    least, most = bounds.furthest_shifts(fewer)
    np.testing.assert_allclose(bounds.shifted(fewer, least), 0.0, atol=1e-9)
    means = bounds.shifted(fewer, most).mean(axis=1)
    reached = np.maximum(bounds.high_mean, fewer.mean(axis=1))
    np.testing.assert_allclose(means, reached, rtol=1e-6)


def test_coefficients_outside_the_range_are_kept():
    bounds = CoefficientRange(np.zeros(1), np.ones(1), np.zeros(1), np.full(1, 0.5))
    u = np.array([[[3.0], [0.2]]])
    least, most = bounds.furthest_shifts(u)
    assert most[0, 0] == pytest.approx(0.0)  # the mean is already above the range
    np.testing.assert_allclose(bounds.shifted(u, np.array([[0.4]]))[0, :, 0], [3.0, 0.6])
    np.testing.assert_allclose(bounds.shifted(u, least), 0.0)


def test_a_mean_is_reached_by_one_shift(rng):
    u = rng.exponential(size=(5, 6, 2))
    bounds = CoefficientRange.of([u], 1.0)
    goal = np.array([0.3, 0.6])
    shifts = bounds.shifts_to_means(u, goal)
    np.testing.assert_allclose(
        bounds.shifted(u, shifts).mean(axis=1), np.broadcast_to(goal, (5, 2)), rtol=1e-6
    )


# ------------------------------------------------------------------------------ which concepts


def cheapest(gains, costs, need, max_concepts):
    """Return the least cost over all sets of concepts and all combinations of levels."""
    best = np.inf
    for chosen in combinations(range(len(gains)), max_concepts):
        for levels in product(range(gains.shape[1]), repeat=max_concepts):
            gain = sum(gains[i, level] for i, level in zip(chosen, levels, strict=True))
            if gain >= need:
                price = sum(costs[i, level] ** 2 for i, level in zip(chosen, levels, strict=True))
                best = min(best, np.sqrt(price))
    return best


@pytest.mark.parametrize("max_concepts", [1, 2, 3])
def test_sets_of_concepts_are_nearly_as_cheap_as_the_cheapest(rng, max_concepts):
    levels = np.linspace(0, 1, 9)
    steepness = rng.normal(size=(12, 4, 1))
    steepness[:, 0] = np.abs(steepness[:, 0])  # one that helps at least
    gains = steepness * levels
    costs = np.broadcast_to(rng.uniform(0.5, 1.5, size=(12, 4, 1)) * levels, gains.shape)
    need = 0.5 * np.sort(gains.max(axis=2), axis=1)[:, -1]
    chosen, cost, missing = best_concepts(gains, costs, need, max_concepts, 0)
    assert (missing == 0).all()
    assert ((chosen != 0).sum(axis=1) <= max_concepts).all()
    for k in range(12):
        gain = gains[k, np.arange(4), chosen[k]].sum()
        assert gain >= need[k] - 1e-12
        best = cheapest(gains[k], costs[k], need[k], max_concepts)
        assert best - 1e-9 <= cost[k] <= 1.3 * best  # a level is 1/8 of the way


def test_a_need_out_of_reach_is_reported_as_missing(rng):
    gains = np.array([[[0.0, 1.0, 2.0], [0.0, 0.5, 1.0]]])
    costs = np.array([[[0.0, 1.0, 2.0], [0.0, 1.0, 2.0]]])
    chosen, _, missing = best_concepts(gains, costs, np.array([10.0]), 2, 0)
    assert chosen.tolist() == [[2, 2]]  # as far as it goes
    assert missing[0] == pytest.approx(7.0)


# ------------------------------------------------------------------------------ how far


def test_without_limits_shifts_are_the_least_norm_solution(rng):
    bank = rng.normal(size=(3, 8))
    gram, slopes, need = bank @ bank.T, rng.normal(size=(4, 3)), rng.uniform(1, 2, 4)
    u = rng.uniform(size=(4, 5, 3))
    free = np.full((4, 3), -1e5), np.full((4, 3), 1e5)
    shifts = closed_form_shifts(u, slopes, gram, need, free, wide(3))
    inverse = np.linalg.inv(gram)
    for k in range(4):
        direction = inverse @ slopes[k]
        np.testing.assert_allclose(
            shifts[k], direction * need[k] / (slopes[k] @ direction), rtol=1e-3
        )


def test_one_shift_for_all_positions_is_the_least_of_all_changes(rng):
    """A general optimiser that moves every position independently finds the same change."""
    u = np.abs(rng.normal(size=(1, 4, 2)))
    bounds = CoefficientRange.of([np.abs(rng.normal(size=(40, 4, 2)))], 1.0)
    slopes, gram = np.array([[-1.0, 0.8]]), np.diag([1.0, 1.7])
    least, most = bounds.furthest_shifts(u)
    need = np.array([0.35])
    shifts = closed_form_shifts(u, slopes, gram, need, (least, most), bounds)
    change = bounds.shifted(u, shifts) - u
    assert (change[0].mean(axis=0) @ slopes[0]) == pytest.approx(0.35, abs=1e-6)
    assert (u + change == 0).any()  # some coefficients are clipped

    def size(flat):
        d = flat.reshape(4, 2)
        return np.einsum("pi,ij,pj->", d, gram, d)

    answer = minimize(
        size,
        np.zeros(8),
        bounds=[(-value, 1e3) for value in u.ravel()],
        constraints={
            "type": "ineq",
            "fun": lambda flat: flat.reshape(4, 2).mean(axis=0) @ slopes[0] - 0.35,
        },
    )
    assert answer.success
    np.testing.assert_allclose(change.ravel(), answer.x, atol=1e-3)


def test_shifts_stay_within_their_limits(rng):
    slopes = rng.normal(size=(20, 3))
    limits = np.zeros((20, 3)), np.full((20, 3), 0.2)
    u = rng.uniform(size=(20, 5, 3))
    shifts = closed_form_shifts(u, slopes, np.eye(3), np.full(20, 1e3), limits, wide(3))
    np.testing.assert_allclose(shifts, np.where(slopes > 0, 0.2, 0.0), atol=1e-9)


def test_the_order_of_concepts_does_not_matter(rng):
    bank = rng.normal(size=(3, 8))
    u, slopes = rng.uniform(size=(4, 5, 3)), rng.normal(size=(4, 3))
    limits = np.full((4, 3), -0.5), np.full((4, 3), 0.5)
    order = [2, 0, 1]
    here = closed_form_shifts(u, slopes, bank @ bank.T, np.full(4, 0.1), limits, wide(3))
    turned = bank[order]
    there = closed_form_shifts(
        u[..., order],
        slopes[:, order],
        turned @ turned.T,
        np.full(4, 0.1),
        tuple(limit[:, order] for limit in limits),
        wide(3),
    )
    np.testing.assert_allclose(there, here[:, order], rtol=1e-4, atol=1e-6)


# ------------------------------------------------------------------------------ which attempt


def test_an_attempt_near_the_data_is_preferred_only_if_it_meets_the_goal():
    shifts = np.stack([np.full((3, 2), 1.0), np.full((3, 2), 2.0)], axis=1)
    is_met = np.array([[True, False], [True, True], [False, False]])
    percentiles = np.array([[80.0, 10.0]] * 3)
    for limit, first, distances in (
        (50.0, [1.0, 2.0, 1.0], [([0, 1], 0), ([1], 1)]),
        (90.0, [1.0, 1.0, 1.0], [([0, 1], 0)]),
    ):
        measured = []

        def percentiles_of(images, attempt, measured=measured):
            measured.append((images.tolist(), attempt))
            return percentiles[images, attempt]

        chosen = first_near(shifts, is_met, percentiles_of, limit)
        np.testing.assert_array_equal(chosen[:, 0], first)
        assert measured == distances  # none that is not needed
