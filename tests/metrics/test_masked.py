"""Importance from random sets: planted contributions, slow second writings, redundancy."""

import numpy as np
import pytest
from scipy.stats import spearmanr

from xplique_dirpairs.metrics.masked import (
    ESTIMATORS,
    random_sets,
    removal_area,
    set_importance,
)  # fmt: skip


def planted(sets, seed, kind, count=60, important=10):
    """Return performances, sets and true contributions of concepts; ten of them matter."""
    rng = np.random.default_rng(seed)
    truth = np.zeros(count)
    truth[:important] = rng.uniform(0.5, 2.0, important)
    truth[important:] = rng.uniform(0.0, 0.02, count - important)
    kept = random_sets(count, sets, 0.5, rng)
    scores = kept @ truth + 0.3 * rng.normal(size=sets)
    if kind == "0-or-1":
        scores = (scores > truth.sum() / 2).astype(float)
        return scores, kept, truth, 1.0
    return scores, kept, truth, float(truth.sum())


def judged(kind, sets, estimator, seeds=3):
    """Return mean rank correlation of the ten that matter, and share of them among the first."""
    ranks, tops = [], []
    for seed in range(seeds):
        y, kept, truth, intact = planted(sets, seed, kind)
        found = set_importance(y, kept, intact, estimator).importance
        ranks.append(spearmanr(found[:10], truth[:10]).statistic)
        tops.append(np.isin(np.argsort(-found)[:10], np.arange(10)).mean())
    return np.mean(ranks), np.mean(tops)


def test_ridge_ranks_sixty_concepts_from_a_thousand_sets():
    rank, top = judged("linear", 1000, "ridge")
    assert rank >= 0.95 and top >= 0.9


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_every_estimator_finds_what_matters_from_four_thousand_sets(estimator):
    rank, top = judged("0-or-1", 4000, estimator, seeds=20)
    assert top >= 0.9 and rank >= 0.9
    # The published ones miss 0.9 where performance adds up: it varies more, and they carry that.
    rank, top = judged("linear", 4000, estimator, seeds=20)
    assert top >= 0.9 and rank >= (0.8 if estimator in ("paper", "code") else 0.95)


def test_ridge_needs_fewer_sets_than_the_published_estimators():
    ridge = judged("linear", 200, "ridge")
    for estimator in ("paper", "code"):
        assert ridge[1] > judged("linear", 200, estimator)[1] + 0.15


def slow(y, kept, intact, estimator):
    """Return importances, set by set."""
    sets, concepts = len(y), len(kept[0])
    values = []
    for i in range(concepts):
        if estimator == "paper":
            values.append(sum((intact - y[k]) * (not kept[k][i]) for k in range(sets)) / sets)
        elif estimator == "code":
            values.append(sum(y[k] * kept[k][i] for k in range(sets)))
        else:
            inside = [y[k] for k in range(sets) if kept[k][i]]
            outside = [y[k] for k in range(sets) if not kept[k][i]]
            values.append(sum(inside) / len(inside) - sum(outside) / len(outside))
    return values


@pytest.mark.parametrize("estimator", ["difference", "paper", "code"])
def test_estimates_equal_a_slow_reference(estimator):
    y, kept, _, intact = planted(30, 0, "linear", count=12, important=4)
    found = set_importance(y, kept, intact, estimator)
    np.testing.assert_allclose(found.importance, slow(y, kept, intact, estimator))
    assert found.estimator == estimator


def test_ridge_without_noise_gives_the_contributions():
    rng = np.random.default_rng(0)
    truth = rng.normal(size=20)
    kept = random_sets(20, 400, 0.5, rng)
    found = set_importance(kept @ truth, kept, truth.sum()).importance
    np.testing.assert_allclose(found, truth, atol=1e-3)


def test_ridge_solves_the_normal_equations_for_some_penalty():
    y, kept, _, intact = planted(100, 1, "linear", count=12, important=4)
    found = set_importance(y, kept, intact).importance
    assert y.mean() + found @ (1 - kept.mean(axis=0)) == pytest.approx(intact)
    found = found - found.mean()
    z = kept - kept.mean(axis=0)
    left = z.T @ (y - y.mean() - z @ found)
    penalty = left @ found / (found @ found)
    np.testing.assert_allclose(left, penalty * found, atol=1e-6)
    assert penalty >= 0


@pytest.mark.parametrize("noise", [0.1, 3.0])
def test_ridge_equals_a_slow_reference_with_the_penalty_of_cross_validation(noise):
    rng = np.random.default_rng(0)
    kept = random_sets(12, 60, 0.5, rng)
    y = kept @ np.linspace(0, 1, 12) + noise * rng.normal(size=60)
    z, centred = kept - kept.mean(axis=0), y - y.mean()
    largest = np.linalg.eigvalsh(z.T @ z)[-1]
    scores, coefficients = [], []
    for share in np.logspace(-8, 2, 41):
        solve = np.linalg.solve(z.T @ z + share * largest * np.eye(12), z.T)
        left = centred - z @ (solve @ centred)
        freedom = 60 - 1 - np.trace(z @ solve)
        scores.append(60 * (left**2).sum() / freedom**2)
        coefficients.append(solve @ centred)
    best = int(np.argmin(scores))
    assert 5 < best < 35, "a penalty inside the range"
    found = set_importance(y, kept, 0.0).importance
    np.testing.assert_allclose(
        found - found.mean(), coefficients[best] - coefficients[best].mean(), atol=1e-6
    )


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_standard_errors_tell_the_spread_over_draws(estimator):
    found = [set_importance(y, kept, intact, estimator)
             for y, kept, _, intact in (redrawn(seed) for seed in range(40))]  # fmt: skip
    spread = np.std([one.importance for one in found], axis=0)
    error = np.mean([one.standard_error for one in found], axis=0)
    np.testing.assert_allclose(np.median(error / spread), 1.0, atol=0.3)


def redrawn(seed):
    """Return performances of the same concepts with other sets and noise."""
    rng = np.random.default_rng(seed)
    truth = np.linspace(0, 1, 16)
    kept = random_sets(16, 200, 0.5, rng)
    return kept @ truth + 0.3 * rng.normal(size=200), kept, truth, float(truth.sum())


def test_of_two_redundant_concepts_both_are_found():
    rng = np.random.default_rng(0)
    kept = random_sets(30, 1000, 0.5, rng)
    y = 0.4 * (kept[:, 0] | kept[:, 1]) + 0.02 * (kept[:, 2:5].sum(axis=1))
    one_by_one = [0.46 - 0.46, 0.46 - 0.46]  # each can stand in for the other
    assert max(one_by_one) <= 0.05 * 0.46
    found = set_importance(y, kept, 0.46)
    inert = found.importance[5:]
    assert (found.importance[:2] > 0).all() and (found.importance[:2] > inert.max()).all()
    assert (found.importance[:2] > 5 * found.standard_error[:2]).all()


def test_order_of_concepts_sets_and_scale_do_not_matter():
    y, kept, _, intact = planted(100, 0, "linear", count=12, important=4)
    plain = set_importance(y, kept, intact).importance
    order = np.random.default_rng(0).permutation(12)
    turned = set_importance(y, kept[:, order], intact).importance
    np.testing.assert_allclose(turned, plain[order], atol=1e-10)
    rows = np.random.default_rng(0).permutation(100)
    np.testing.assert_allclose(set_importance(y[rows], kept[rows], intact).importance, plain)
    scaled = set_importance(3 * y + 5, kept, 3 * intact + 5).importance
    np.testing.assert_allclose(scaled, 3 * plain)


def test_sets_remove_their_share_and_never_all():
    rng = np.random.default_rng(0)
    assert (random_sets(10, 50, 0.3, rng).sum(axis=1) == 7).all()
    assert (random_sets(10, 50, 0.99, rng).sum(axis=1) == 1).all()
    assert (random_sets(10, 50, 0.01, rng).sum(axis=1) == 9).all()
    np.testing.assert_allclose(random_sets(10, 4000, 0.5, rng).mean(axis=0), 0.5, atol=0.04)


def test_with_fewer_sets_than_concepts_means_are_compared():
    y, kept, _, intact = planted(20, 0, "linear", count=30)
    found = set_importance(y, kept, intact)
    assert found.estimator == "difference"
    np.testing.assert_allclose(found.importance, slow(y, kept, intact, "difference"))
    for sets, used in ((13, "difference"), (14, "ridge")):
        y, kept, _, intact = planted(sets, 0, "linear", count=12)
        assert set_importance(y, kept, intact).estimator == used


def test_areas_are_trapezoids_and_bad_input_is_refused():
    assert removal_area([0, 0.5, 1], [1, 0.5, 0]) == pytest.approx(0.5)
    with pytest.raises(ValueError, match="estimator must be one of"):
        set_importance([1, 2], np.eye(2), 1.0, "mean")
    with pytest.raises(ValueError, match="one for each row"):
        set_importance([1, 2, 3], np.eye(2), 1.0)
