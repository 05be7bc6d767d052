"""Significance by comparison with noise, corrected for many tests at once.

p = (1 + #{noise at least as strong}) / (1 + #{noise compared with})
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from xplique_dirpairs.core.types import Array
from xplique_dirpairs.core.validation import check_choice, check_fraction

#: Which entries of many tests count as significant; see `significant`.
CORRECTIONS = ("benjamini-hochberg", "bonferroni", "none", "paper")

#: Noise that is weaker by no more than rounding counts as equally strong.
_ROUNDING = 1e-9


class NoiseComparison(NamedTuple):
    """Comparison of one direction with noise.

    Attributes
    ----------
    exceeded : ndarray of shape (K,), int
        Number of noise vectors at least as strong.
    compared : ndarray of shape (K,), int
        Number of noise vectors compared with: all, or fewer where the test was stopped; 0 where
        there is nothing to test.
    """

    exceeded: Array
    compared: Array


def hopeless_count(permutations: int, level: float) -> int:
    """Return the number of noise vectors at least as strong after which p must exceed ``level``.

    At least 1: the paper's rule allows none, whatever the level.
    """
    return max(1, math.floor(level * (permutations + 1) + 1e-9))


def compare_with_noise(
    observed: Array,
    blocks: Iterable[Array],
    strengths: Callable[[Array, Array], Array],
    stop_at: int | None,
) -> NoiseComparison:
    """Count the noise vectors that are at least as strong, class by class, until decided.

    With ``stop_at`` = h a test ends at the h-th noise vector that is at least as strong, after l of
    them, and p = (1 + h)/(1 + l): no less than the h/l of J. Besag, P. Clifford, "Sequential Monte
    Carlo p-values", 1991, hence valid. With h of `hopeless_count` such a p is above the level, as
    that of all noise would be, and so is every threshold that a correction could ask for: no
    decision changes. A test that is not stopped has the p of all noise.

    Parameters
    ----------
    observed : ndarray of shape (K,)
        Strengths ≥ 0; NaN where there is nothing to test.
    blocks : iterable of ndarray of shape (B, D)
        Noise vectors, read until every test has ended.
    strengths : callable
        Noise vectors (B, D) and live classes (K,) bool → strengths (B, K), right for those classes.
    stop_at : int or None
        h; None to compare with all noise.
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
    """Compute (1 + exceeded)/(1 + compared), in (0, 1]; NaN where nothing was compared."""
    exceeded, compared = np.asarray(exceeded, float), np.asarray(compared, float)
    return np.where(compared > 0, (1.0 + exceeded) / (1.0 + compared), np.nan)


def significant(p: ArrayLike, level: float = 0.05, correction: str = "benjamini-hochberg") -> Array:
    """Return which of many tests are significant.

    Parameters
    ----------
    p : ndarray of any shape
        p-values; NaN marks no test: never significant, and not counted.
    level : float, default=0.05
        θ.
    correction : {"benjamini-hochberg", "bonferroni", "none"}, default="benjamini-hochberg"
        With m tests and r-th smallest p-value p_(r). "benjamini-hochberg": the r smallest, for the
        largest r with p_(r) ≤ r θ / m; of the tests called significant an expected share θ is false
        (Benjamini, Hochberg 1995). "bonferroni": p ≤ θ / m; none is false with probability 1 − θ.
        "none": p ≤ θ; a share θ of the tests without an effect is called significant.

    Returns
    -------
    significant : ndarray of bool, of the shape of ``p``

    Raises
    ------
    ValueError
        If ``correction`` is not one of these, or the level is not within (0, 1).
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
    """Return the fewest permutations with which any test can be significant.

    With Benjamini–Hochberg, if all ``tests`` had the smallest possible p; Bonferroni needs
    tests / level − 1. The paper's rule needs one.
    """
    check_fraction("level", level)
    check_choice("correction", correction, CORRECTIONS)
    if correction == "paper":
        return 1
    tests = tests if correction == "bonferroni" else 1
    return max(1, math.ceil(tests / level * (1.0 - _ROUNDING)) - 1)
