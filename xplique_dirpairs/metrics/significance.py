"""Significance against noise: exact, from its tail or by counting, and corrected for many tests."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike
from scipy import special, stats

from xplique_dirpairs.core.types import Array
from xplique_dirpairs.core.validation import check_choice, check_fraction

#: Corrections for many tests: see `significant`.
CORRECTIONS = ("benjamini-hochberg", "bonferroni", "none")

#: Noise that is weaker by no more than this relative difference counts as equally strong: rounding.
_ROUNDING = 1e-9
#: Number of noise values beyond an observed one from which on they are counted.
_COUNTED = 10
#: Level of the test of normality by which a tail is extrapolated as normal.
_NORMALITY = 0.01
#: Share of the noise on each side that a generalised Pareto distribution is fitted to.
_EXCEEDING = 0.25


def uniform_p_values(cosines: ArrayLike, channels: int) -> Array:
    """Compute the probability that a uniform direction lies as close to a vector, or closer.

    The cosine of a direction that is uniform on the sphere with any fixed vector has

        cos² ~ Beta(1/2, (D − 1)/2)

    so that p is exact, without sampling, however small it is. Both signs of the cosine count.

    Parameters
    ----------
    cosines : array-like
        Cosines with the fixed vector, of any shape.
    channels : int
        Dimension D of the space that the directions are in.

    Returns
    -------
    p : ndarray of the shape of ``cosines``
        p-values in [0, 1]; NaN where the cosine is NaN.
    """
    squares = np.clip(np.square(np.asarray(cosines, np.float64)), 0.0, 1.0)
    if channels == 1:  # there are two directions, and both lie on the line of the vector
        return np.where(np.isnan(squares), np.nan, 1.0)
    return np.asarray(special.betainc((channels - 1) / 2.0, 0.5, 1.0 - squares))


def tail_p_values(observed: ArrayLike, noise: ArrayLike) -> Array:
    """Compute two-sided p-values from some hundred noise values, beyond the largest if necessary.

    p is twice the smaller of the probabilities of noise ≥ observed and of noise ≤ observed. Where
    at least ten noise values lie beyond the observed one, they are counted, (1 + count)/(1 + n).
    Otherwise the tail is extrapolated: as normal, with the mean and variance of the n values (their
    uncertainty makes it Student's t with n − 1 degrees of freedom), unless the test of D'Agostino
    and Pearson rejects normality; then as a generalised Pareto distribution of the quarter of the
    values on this side (T. A. Knijnenburg et al., "Fewer permutations, more accurate P-values",
    2009), fitted by probability-weighted moments. Its shape is at least 0, that of an exponential
    tail, since a bounded one would give p-values of 0, and is raised by its standard error, √(4/3m)
    for m values: p is then rather too large than too small.

    Parameters
    ----------
    observed : array-like of shape (I, K)
        Observed values of K statistics.
    noise : array-like of shape (n, K)
        Values of the same statistics for noise, n ≥ 20.

    Returns
    -------
    p : ndarray of shape (I, K)

    Raises
    ------
    ValueError
        If there are fewer than 20 noise values, or the numbers of statistics differ.
    """
    observed, noise = np.asarray(observed, np.float64), np.asarray(noise, np.float64)
    if len(noise) < 2 * _COUNTED or observed.shape[1:] != noise.shape[1:]:
        raise ValueError(
            f"noise must have shape (n, K) with n ≥ {2 * _COUNTED}, and the K of the observed "
            f"values, not {noise.shape} for observed values of shape {observed.shape}"
        )
    p = np.empty(observed.shape)
    for k, values in enumerate(noise.T):
        sides = [_one_sided(sign * observed[:, k], np.sort(sign * values)) for sign in (1, -1)]
        p[:, k] = np.minimum(1.0, 2.0 * np.minimum(*sides))
    return p


def _one_sided(observed: Array, noise: Array) -> Array:
    """Return the probability of noise ≥ observed, (I,), from sorted noise (n,)."""
    slack = _ROUNDING * np.abs(observed)
    beyond = len(noise) - np.searchsorted(noise, observed - slack, side="left")
    p = (1.0 + beyond) / (1.0 + len(noise))
    far = beyond < _COUNTED
    spread = noise.std(ddof=1)
    if not far.any() or spread <= _ROUNDING * np.abs(noise).max():
        return np.asarray(p)
    if stats.normaltest(noise).pvalue >= _NORMALITY:
        z = (observed[far] - noise.mean()) / (spread * math.sqrt(1.0 + 1.0 / len(noise)))
        p[far] = stats.t.sf(z, len(noise) - 1)
    else:
        p[far] = _pareto_tail(observed[far], noise)
    return np.asarray(p)


def _pareto_tail(observed: Array, noise: Array) -> Array:
    """Return the probability of noise ≥ observed from the largest quarter of sorted noise (n,)."""
    count = int(_EXCEEDING * len(noise))
    threshold = noise[-count - 1]
    excess = noise[-count:] - threshold
    # Hosking and Wallis 1987: a0 = E[x], a1 = E[x (1 − F(x))]
    a0 = excess.mean()
    a1 = np.mean(excess * (count - np.arange(1, count + 1) + 0.35) / count)
    if a0 == 0:  # many equal values: there is no tail to fit
        return np.full(observed.shape, 1.0 / (1.0 + len(noise)))
    shape, scale = 0.0, a0
    if a0 > 4.0 * a1:
        shape, scale = 2.0 - a0 / (a0 - 2.0 * a1), 2.0 * a0 * a1 / (a0 - 2.0 * a1)
    shape += math.sqrt(4.0 / (3.0 * count))
    tail = stats.genpareto.sf(observed - threshold, shape, scale=scale)
    return np.asarray(tail * count / len(noise))


def p_values(exceeded: ArrayLike, count: int) -> Array:
    """Compute p = (1 + exceeded)/(1 + count) of a permutation test.

    Parameters
    ----------
    exceeded : array-like
        Number of noise values that are at least as strong as the observed value, in an array of any
        shape; NaN for no test.
    count : int
        Number of noise values.

    Returns
    -------
    p : ndarray of the shape of ``exceeded``
        Values in (0, 1]; NaN for no test.
    """
    return np.asarray((1.0 + np.asarray(exceeded, float)) / (1.0 + count))


def significant(p: ArrayLike, level: float = 0.05, correction: str = "benjamini-hochberg") -> Array:
    """Return which of many tests are significant.

    Parameters
    ----------
    p : ndarray
        p-values, in an array of any shape. NaN means that there was no test: it is never
        significant, and does not count as a test.
    level : float, default=0.05
        Significance level θ, in (0, 1).
    correction : {"benjamini-hochberg", "bonferroni", "none"}, default="benjamini-hochberg"
        Correction for m tests. "benjamini-hochberg": at most a share θ of the significant tests is
        expected to be false (`scipy.stats.false_discovery_control`). "bonferroni": p ≤ θ / m is
        significant; with probability 1 − θ at least, none is false. "none": p ≤ θ is significant;
        this holds for a share θ of the tests without an effect.

    Returns
    -------
    significant : ndarray of bool
        An array of the shape of ``p``.

    Raises
    ------
    ValueError
        If ``correction`` is not one of these, or ``level`` does not lie between 0 and 1.
    """
    check_fraction("level", level)
    check_choice("correction", correction, CORRECTIONS)
    p = np.asarray(p, np.float64)
    tested = ~np.isnan(p)
    marked = np.zeros(p.shape, bool)
    if tested.any():
        values = p[tested]
        if correction == "benjamini-hochberg":
            values = stats.false_discovery_control(values)
        elif correction == "bonferroni":
            values = values * values.size
        marked[tested] = values <= level * (1.0 + _ROUNDING)
    return marked


def permutations_needed(tests: int, level: float = 0.05, correction: str = "bonferroni") -> int:
    """Return the smallest number of permutations with which any test can be significant.

    Bonferroni needs tests / level − 1 permutations. The number for Benjamini–Hochberg assumes that
    all tests have the smallest possible p.

    Parameters
    ----------
    tests : int
        Number of tests.
    level : float, default=0.05
        Significance level, in (0, 1).
    correction : {"benjamini-hochberg", "bonferroni", "none"}, default="bonferroni"
        Correction for many tests: see `significant`.

    Returns
    -------
    permutations : int

    Raises
    ------
    ValueError
        If ``correction`` is not one of these, or ``level`` does not lie between 0 and 1.
    """
    check_fraction("level", level)
    check_choice("correction", correction, CORRECTIONS)
    tests = tests if correction == "bonferroni" else 1
    return max(1, math.ceil(tests / level * (1.0 - _ROUNDING)) - 1)
