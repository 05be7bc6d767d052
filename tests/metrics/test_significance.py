"""Permutation tests against loops; stopping early changes no decision and keeps p valid."""

import itertools

import numpy as np
import pytest

from xplique_dirpairs.metrics.significance import (
    compare_with_noise,
    hopeless_count,
    p_values,
    permutations_needed,
    significant,
)

LEVEL = 0.05
CORRECTIONS = ("benjamini-hochberg", "bonferroni", "none")


def in_blocks(noise, size):
    """Return noise strengths (n, K) in blocks, and the function that returns their strengths."""
    blocks = [noise[start : start + size] for start in range(0, len(noise), size)]
    return blocks, lambda block, live: block


def slow_comparison(observed, noise, stop_at):
    exceeded, compared = [], []
    for k, strength in enumerate(observed):
        count = seen = 0
        if np.isfinite(strength):
            for other in noise[:, k]:
                seen += 1
                count += other >= strength
                if stop_at is not None and count == stop_at:
                    break
        exceeded.append(count)
        compared.append(seen)
    return exceeded, compared


@pytest.mark.parametrize("stop_at", [None, 1, 3])
@pytest.mark.parametrize("size", [1, 7, 100])
def test_counts_match_a_loop_over_noise_vectors(rng, stop_at, size):
    observed, noise = rng.random(8), rng.random((40, 8))
    observed[2], observed[3], observed[4] = np.nan, 0.0, 2.0
    comparison = compare_with_noise(observed, *in_blocks(noise, size), stop_at)
    exceeded, compared = slow_comparison(observed, noise, stop_at)
    np.testing.assert_array_equal(comparison.exceeded, exceeded)
    np.testing.assert_array_equal(comparison.compared, compared)
    p = p_values(*comparison)
    assert np.isnan(p[2]) and p[3] == 1.0 and p[4] == 1 / 41


def test_noise_that_is_equally_strong_up_to_rounding_counts():
    observed = np.array([0.1 + 0.2])
    noise = np.array([[0.3], [0.3 * (1 - 1e-6)]])
    comparison = compare_with_noise(observed, *in_blocks(noise, 2), None)
    assert comparison.exceeded == [1]


@pytest.mark.parametrize("permutations", [1, 5, 19, 20, 99, 137])
def test_stopping_changes_no_decision_and_no_p_up_to_the_level(rng, permutations):
    tests = 300
    observed = np.where(rng.random(tests) < 0.2, 2.0, rng.random(tests))  # a fifth have an effect
    observed = np.where(rng.random(tests) < 0.2, 1 - rng.random(tests) / 20, observed)
    noise = rng.random((permutations, tests))
    runs = [
        compare_with_noise(observed, *in_blocks(noise, 16), stop_at)
        for stop_at in (None, hopeless_count(permutations, LEVEL))
    ]
    full, early = (p_values(*run) for run in runs)
    assert (runs[1].compared <= runs[0].compared).all()
    if permutations > 20:
        assert runs[1].compared.mean() < 0.8 * permutations
    small = full <= LEVEL
    np.testing.assert_array_equal(early[small], full[small])
    assert (early[~small] > LEVEL).all()
    np.testing.assert_array_equal(runs[0].exceeded == 0, runs[1].exceeded == 0)
    for correction in CORRECTIONS:
        wanted = significant(full, LEVEL, correction)
        np.testing.assert_array_equal(significant(early, LEVEL, correction), wanted)


def test_p_values_are_uniform_without_an_effect(rng):
    tests, permutations = 20_000, 99
    draws = rng.random((permutations + 1, tests))
    for stop_at in (None, hopeless_count(permutations, LEVEL)):
        comparison = compare_with_noise(draws[0], *in_blocks(draws[1:], 32), stop_at)
        p = p_values(*comparison)
        for alpha in (0.01, 0.05, 0.1, 0.3, 0.6, 1.0):
            share = (p <= alpha).mean()
            spread = 4 * np.sqrt(alpha * (1 - alpha) / tests) + 1e-12
            assert share <= alpha + spread
            if stop_at is None or alpha <= LEVEL:
                assert share >= alpha - spread


@pytest.mark.parametrize("permutations", range(1, 60))
@pytest.mark.parametrize("level", [0.01, 0.05, 0.07, 0.29])
def test_a_test_is_hopeless_exactly_when_p_is_above_the_level(permutations, level):
    h = hopeless_count(permutations, level)
    assert (1 + h) / (1 + permutations) > level * (1 + 1e-12)
    assert h == 1 or (1 + h - 1) / (1 + permutations) <= level * (1 + 1e-8)


def slow_benjamini_hochberg(p, level):
    ordered = sorted(x for x in p if not np.isnan(x))
    last = 0.0
    for rank, x in enumerate(ordered, 1):
        if x <= rank * level / len(ordered) + 1e-12:
            last = x
    return [bool(x <= last) if not np.isnan(x) else False for x in p]


def test_corrections_match_their_definitions(rng):
    for _ in range(50):
        p = rng.choice(np.arange(1, 101) / 100, 12) ** 2
        p[rng.random(12) < 0.2] = np.nan
        tests = (~np.isnan(p)).sum()
        assert significant(p, LEVEL).tolist() == slow_benjamini_hochberg(p, LEVEL)
        with np.errstate(invalid="ignore"):
            np.testing.assert_array_equal(significant(p, LEVEL, "none"), p <= LEVEL)
            wanted = p * tests <= LEVEL
        np.testing.assert_array_equal(significant(p, LEVEL, "bonferroni"), wanted)


def test_each_correction_is_stricter_than_the_next(rng):
    p = rng.random((20, 5)) ** 4
    strict = [significant(p, LEVEL, c) for c in ("bonferroni", "benjamini-hochberg", "none")]
    for few, many in itertools.pairwise(strict):
        assert (few <= many).all()
    assert strict[0].any() and (strict[1] < strict[2]).any()


def test_nan_does_not_count_as_a_test():
    assert not significant(np.full(3, np.nan)).any()
    # p = 0.04 is significant for a single test, but not with a second test at p = 1.
    assert significant([0.04, np.nan]).tolist() == [True, False]
    assert significant([0.04, 1.0]).tolist() == [False, False]


@pytest.mark.parametrize(
    ("correction", "tests", "needed"),
    [("bonferroni", 500, 9999), ("bonferroni", 1, 19), ("benjamini-hochberg", 500, 19),
     ("none", 500, 19), ("paper", 500, 1)],
)  # fmt: skip
def test_permutations_needed_is_the_smallest_number_that_can_be_significant(
    correction, tests, needed
):
    assert permutations_needed(tests, LEVEL, correction) == needed
    if correction != "paper":
        best = np.full(tests, 1 / (1 + needed))
        assert significant(best, LEVEL, correction).all()
        worse = np.full(tests, 1 / needed)
        assert not significant(worse, LEVEL, correction).any()


def test_an_invalid_level_or_correction_is_refused():
    with pytest.raises(ValueError, match="level must lie between 0 and 1"):
        significant([0.1], 1.0)
    with pytest.raises(ValueError, match="correction must be one of"):
        significant([0.1], correction="holm")
    with pytest.raises(ValueError, match="correction must be one of"):
        permutations_needed(1, correction="holm")
