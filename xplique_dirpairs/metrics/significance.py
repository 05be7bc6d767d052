"""Significance by comparison with noise, and what many such tests at once allow to say.

p = (1 + #{noise at least as strong}) / (1 + #{noise compared with})
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

#: Which entries of many tests count as significant; see `significant`.
CORRECTIONS = ("benjamini-hochberg", "bonferroni", "none", "paper")

#: Noise weaker by no more than rounding is as strong.
_ROUNDING = 1e-9


class NoiseComparison(NamedTuple):
    """One direction against its noise, (K,) each.

    Attributes
    ----------
    exceeded
        Noise vectors at least as strong.
    compared
        Noise vectors compared with: all, or fewer where the test was stopped; 0 where there is
        nothing to test.
    """

    exceeded: NDArray
    compared: NDArray


def hopeless_count(permutations: int, level: float) -> int:
    """Noise vectors at least as strong after which p can no longer be ``level`` or less.

    At least 1: the paper's rule asks for none, whatever the level.
    """
    return max(1, math.floor(level * (permutations + 1) + 1e-9))


def compare_with_noise(
    observed: NDArray,
    blocks: Iterable[NDArray],
    strengths: Callable[[NDArray, NDArray], NDArray],
    stop_at: int | None,
) -> NoiseComparison:
    """Count the noise that is at least as strong, class by class, until it tells no more.

    With ``stop_at`` = h a test ends at the h-th noise vector that is at least as strong, after l of
    them, and p = (1 + h)/(1 + l): no less than the h/l of J. Besag, P. Clifford, "Sequential Monte
    Carlo p-values", 1991, hence valid. With h of `hopeless_count` such a p is above the level, as
    that of all noise would be, and so is every threshold that a correction could ask for: no
    decision changes. A test that is not stopped has the p of all noise.

    Parameters
    ----------
    observed : (K,)
        Strengths ≥ 0; NaN where there is nothing to test.
    blocks
        Of noise vectors (B, D). Read until every test has ended.
    strengths
        Noise vectors (B, D) and live classes (K,) bool → strengths (B, K), right for those classes.
    stop_at
        h, or None: never.
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


def p_values(exceeded: ArrayLike, compared: ArrayLike) -> NDArray:
    """(1 + exceeded)/(1 + compared), in (0, 1]; NaN where nothing was compared."""
    exceeded, compared = np.asarray(exceeded, float), np.asarray(compared, float)
    return np.where(compared > 0, (1.0 + exceeded) / (1.0 + compared), np.nan)


def significant(
    p: ArrayLike, level: float = 0.05, correction: str = "benjamini-hochberg"
) -> NDArray:
    """Which of many tests are significant.

    Parameters
    ----------
    p : any shape
        p-values; NaN are no tests: never significant, and not counted.
    level
        θ. Of m tests and r-th smallest p:
    correction
        "benjamini-hochberg": the r smallest for the largest r with p_(r) ≤ r θ / m: of what is
        called significant a share θ is not, on average (Benjamini, Hochberg 1995).
        "bonferroni": p ≤ θ / m: not one of them, with probability 1 − θ.
        "none": p ≤ θ: a share θ of the tests where nothing is.

    Returns
    -------
    significant : bool, shape of ``p``

    Raises
    ------
    ValueError
        If there is no such correction, or the level is not within (0, 1).
    """
    check_level(level)
    p = np.asarray(p, np.float64)
    tests = p[~np.isnan(p)]
    if correction not in CORRECTIONS or correction == "paper":
        wanted = [name for name in CORRECTIONS if name != "paper"]
        raise ValueError(f"correction must be one of {wanted} here, not {correction!r}")
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
    """Fewest permutations with which some test could be significant at all.

    With Benjamini–Hochberg, if all ``tests`` had the smallest possible p; Bonferroni asks for
    tests / level − 1 of them. The paper's rule needs one.
    """
    check_level(level)
    if correction not in CORRECTIONS:
        raise ValueError(f"correction must be one of {CORRECTIONS}, not {correction!r}")
    if correction == "paper":
        return 1
    tests = tests if correction == "bonferroni" else 1
    return max(1, math.ceil(tests / level * (1.0 - _ROUNDING)) - 1)


def check_level(level: float) -> None:
    """A level is a probability.

    Raises
    ------
    ValueError
    """
    if not 0.0 < level < 1.0:
        raise ValueError(f"level must lie between 0 and 1, not {level!r}")
