"""p-values are exact, extrapolated or counted, and equal slow second writings of their formulas."""

import itertools

import numpy as np
import pytest
from scipy import integrate, stats

from xplique_dirpairs.metrics.significance import (
    p_values,
    permutations_needed,
    significant,
    tail_p_values,
    uniform_p_values,
)

LEVEL = 0.05


# ------------------------------------------------------------------ uniform directions


@pytest.mark.parametrize("channels", [2, 3, 8, 128])
def test_the_exact_p_is_the_share_of_the_sphere_that_is_as_close(channels):
    cosines = np.array([0.0, 0.02, 0.1, 0.3, 0.7, 0.99])
    # The angle t with a fixed axis has a density proportional to sin(t)^(D − 2).
    whole = integrate.quad(lambda t: np.sin(t) ** (channels - 2), 0, np.pi)[0]
    wanted = [
        2 * integrate.quad(lambda t: np.sin(t) ** (channels - 2), 0, np.arccos(c))[0] / whole
        for c in cosines
    ]
    np.testing.assert_allclose(uniform_p_values(cosines, channels), wanted, rtol=1e-6)
    np.testing.assert_array_equal(
        uniform_p_values(-cosines, channels), uniform_p_values(cosines, channels)
    )


def test_the_exact_p_equals_a_count_of_random_directions(rng):
    axis, directions = rng.normal(size=12), rng.normal(size=(40_000, 12))
    cosines = directions @ axis / np.linalg.norm(directions, axis=1) / np.linalg.norm(axis)
    for observed in (0.1, 0.4, 0.6):
        share = (np.abs(cosines) >= observed).mean()
        p = uniform_p_values(observed, 12)
        assert abs(share - p) < 4 * np.sqrt(p / len(cosines))


def test_the_exact_p_has_no_smallest_value_and_is_1_where_there_is_nothing_to_see():
    assert 0 < uniform_p_values(0.9, 200) < 1e-60
    assert uniform_p_values(0.0, 200) == 1.0 and uniform_p_values(1.0, 200) == 0.0
    assert uniform_p_values(0.5, 1) == 1.0  # there are two directions only, and they are opposite
    assert np.isnan(uniform_p_values([np.nan], 5)).all()


# ------------------------------------------------------------------ tails

TAILS = {
    "normal": stats.norm(1.0, 2.0),
    "heavy": stats.t(4),
    "skewed": stats.gamma(2.0),
    "bounded": stats.uniform(-1.0, 2.0),
}


@pytest.mark.parametrize("name", TAILS)
def test_extrapolated_p_values_agree_with_a_full_count(name, rng):
    many = np.sort(TAILS[name].rvs(400_000, random_state=rng))
    wanted = np.array([0.3, 0.05, 0.01, 0.001])
    observed = np.concatenate([np.quantile(many, 1 - wanted / 2), np.quantile(many, wanted / 2)])
    few = TAILS[name].rvs((300, 40), random_state=rng)
    p = tail_p_values(np.repeat(observed[:, None], 40, axis=1), few)
    typical = np.exp(np.log(p).mean(axis=1))
    full = np.concatenate([wanted, wanted])
    assert (typical > full / 1.5).all()
    # tails that are not normal are taken to be rather longer than they are, which makes p larger
    limits = {"normal": 1.5, "heavy": 3.0, "skewed": 10.0}
    upper = slice(0, 4) if name == "skewed" else slice(None)
    assert name == "bounded" or (typical < full * limits[name])[upper].all()


@pytest.mark.parametrize("name", TAILS)
def test_extrapolated_p_values_keep_the_level_without_an_effect(name, rng):
    few, observed = (TAILS[name].rvs((n, 60), random_state=rng) for n in (300, 400))
    p = tail_p_values(observed, few)
    for alpha in (0.3, 0.05, 0.01):
        assert (p <= alpha).mean() < alpha + 4 * np.sqrt(alpha / few.size) + 0.3 * alpha
    assert not significant(p, 1e-4, "bonferroni").any()


def slow_tail_p_value(observed, noise):
    """Return p of one normal statistic: reference implementation."""
    count, sides = len(noise), []
    mean = sum(noise) / count
    spread = np.sqrt(sum((value - mean) ** 2 for value in noise) / (count - 1))
    for sign in (1, -1):
        beyond = sum(sign * value >= sign * observed for value in noise)
        if beyond >= 10:
            sides.append((1 + beyond) / (1 + count))
        else:
            z = sign * (observed - mean) / (spread * np.sqrt(1 + 1 / count))
            sides.append(1 - stats.t(count - 1).cdf(z))
    return min(1.0, 2 * min(sides))


def test_normal_tails_equal_plain_loops(rng):
    noise = stats.norm.ppf((np.arange(200) + 0.5) / 200)  # as normal as can be
    observed = np.array([-4.0, -2.2, -1.0, 0.0, 0.5, 2.5, 5.0])
    p = tail_p_values(observed[:, None], rng.permutation(noise)[:, None])[:, 0]
    wanted = [slow_tail_p_value(value, noise) for value in observed]
    np.testing.assert_allclose(p, wanted, rtol=1e-6)


def test_a_statistic_that_noise_does_not_move_is_not_significant():
    assert tail_p_values(np.zeros((3, 1)), np.zeros((50, 1))).tolist() == [[1.0]] * 3
    with pytest.raises(ValueError, match="n ≥ 20"):
        tail_p_values(np.zeros((3, 1)), np.zeros((19, 1)))
    with pytest.raises(ValueError, match="the K of the observed"):
        tail_p_values(np.zeros((3, 2)), np.zeros((50, 1)))


# ------------------------------------------------------------------ counts and corrections


def test_p_values_count_the_observed_value_as_noise():
    np.testing.assert_array_equal(p_values([0, 4, 19, np.nan], 19), [0.05, 0.25, 1.0, np.nan])


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
     ("none", 500, 19)],
)  # fmt: skip
def test_permutations_needed_is_the_smallest_number_that_can_be_significant(
    correction, tests, needed
):
    assert permutations_needed(tests, LEVEL, correction) == needed
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
