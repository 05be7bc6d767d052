"""Significance by comparison with noise vectors, corrected for many tests at once.

p = (1 + #{noise vectors at least as strong}) / (1 + #{noise vectors compared with})
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from xplique_dirpairs.core.types import Array
from xplique_dirpairs.core.validation import check_choice, check_fraction

#: Corrections for many tests: see `significant`. "paper" is the rule of the paper, by which an
#: entry is significant if no noise vector is at least as strong.
CORRECTIONS = ("benjamini-hochberg", "bonferroni", "none", "paper")

#: Noise that is weaker by no more than this relative difference counts as equally strong: rounding.
_ROUNDING = 1e-9


class NoiseComparison(NamedTuple):
    """Comparison of one direction with noise vectors, for each of K classes.

    Attributes
    ----------
    exceeded : ndarray of shape (K,), int
        Number of noise vectors that are at least as strong as the direction.
    compared : ndarray of shape (K,), int
        Number of noise vectors it was compared with: all of them, fewer if the test was stopped
        early, or 0 if there was nothing to test.
    """

    exceeded: Array
    compared: Array


def hopeless_count(permutations: int, level: float) -> int:
    """Return the count of noise vectors at least as strong from which on p must exceed ``level``.

    Parameters
    ----------
    permutations : int
        Number of noise vectors.
    level : float
        Significance level, in (0, 1).

    Returns
    -------
    count : int
        At least 1, because the paper's rule allows no such noise vector, whatever the level.
    """
    return max(1, math.floor(level * (permutations + 1) + 1e-9))


def compare_with_noise(
    observed: Array,
    blocks: Iterable[Array],
    strengths: Callable[[Array, Array], Array],
    stop_at: int | None,
) -> NoiseComparison:
    """Count for each class the noise vectors that are at least as strong, until it is decided.

    With ``stop_at`` = h, a test ends at the h-th noise vector that is at least as strong. If this
    is the l-th noise vector, p = (1 + h)/(1 + l), which is no less than the h/l of J. Besag, P.
    Clifford, "Sequential Monte Carlo p-values", 1991, and therefore valid. If h is the
    `hopeless_count`, this p is above the level, like the p from all noise would be, and thus above
    the threshold of every correction, so that no decision changes. A test that is not stopped early
    has the p from all noise.

    Parameters
    ----------
    observed : ndarray of shape (K,)
        Strengths ≥ 0 of the direction for K classes; NaN where there is nothing to test.
    blocks : iterable of ndarray of shape (B, D)
        Noise vectors in blocks of B, which are read until every test has ended.
    strengths : callable
        Function of noise vectors (B, D) and of the classes whose tests have not ended, (K,) bool,
        that returns strengths (B, K). Only those for these classes are used.
    stop_at : int or None
        Count h at which a test ends; None to compare with all noise.

    Returns
    -------
    comparison : NoiseComparison
    """
    live = np.isfinite(observed)
    exceeded, compared = np.zeros((2, len(observed)), int)
    for noise in blocks:
        tested = np.flatnonzero(live)
        if not tested.size:
            break
        stronger = strengths(noise, live)[:, tested] >= observed[tested] * (1.0 - _ROUNDING)
        so_far = exceeded[tested] + np.cumsum(stronger, axis=0)
        used = np.full(len(tested), len(noise))
        if stop_at is not None:
            over = so_far >= stop_at
            ended = over.any(axis=0)
            used[ended] = over.argmax(axis=0)[ended] + 1
            live[tested[ended]] = False
        exceeded[tested] = so_far[used - 1, np.arange(len(tested))]
        compared[tested] += used
    return NoiseComparison(exceeded, compared)


def p_values(exceeded: ArrayLike, compared: ArrayLike) -> Array:
    """Compute p = (1 + exceeded)/(1 + compared), in (0, 1]; NaN where nothing was compared."""
    exceeded, compared = np.asarray(exceeded, float), np.asarray(compared, float)
    return np.where(compared > 0, (1.0 + exceeded) / (1.0 + compared), np.nan)


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
        Correction for m tests, with p_(r) the r-th smallest p-value. "benjamini-hochberg": the r
        smallest are significant, for the largest r with p_(r) ≤ r θ / m; at most a share θ of the
        significant tests is expected to be false (Benjamini, Hochberg 1995). "bonferroni": p ≤ θ /
        m is significant; with probability 1 − θ at least, none is false. "none": p ≤ θ is
        significant; this holds for a share θ of the tests without an effect.

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
    p = np.asarray(p, np.float64)
    tests = p[~np.isnan(p)]
    check_choice("correction", correction, [name for name in CORRECTIONS if name != "paper"])
    if not tests.size:
        return np.zeros(p.shape, bool)
    limit = level if correction == "none" else level / tests.size
    if correction == "benjamini-hochberg":
        ranks = np.arange(1, tests.size + 1)
        kept = np.flatnonzero(np.sort(tests) <= ranks * limit * (1.0 + _ROUNDING))
        limit *= kept[-1] + 1 if kept.size else 0
    with np.errstate(invalid="ignore"):
        return (p <= limit * (1.0 + _ROUNDING)) & (limit > 0)


def permutations_needed(tests: int, level: float = 0.05, correction: str = "bonferroni") -> int:
    """Return the smallest number of permutations with which any test can be significant.

    Bonferroni needs tests / level − 1 permutations, and the paper's rule needs one. The number for
    Benjamini–Hochberg assumes that all tests have the smallest possible p.

    Parameters
    ----------
    tests : int
        Number of tests.
    level : float, default=0.05
        Significance level, in (0, 1).
    correction : {"benjamini-hochberg", "bonferroni", "none", "paper"}, default="bonferroni"
        Correction for many tests: see `significant` and `CORRECTIONS`.

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
    if correction == "paper":
        return 1
    tests = tests if correction == "bonferroni" else 1
    return max(1, math.ceil(tests / level * (1.0 - _ROUNDING)) - 1)
