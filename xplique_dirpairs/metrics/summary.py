"""One figure and its confidence interval from values per image: a bootstrap over the images.

A metric gives one row of values for every image, and a *statistic* makes one figure of the rows:
their `mean`, or, for what is a quotient over the whole data set (R², completeness), the
`ratio_of_means` of two columns. The bootstrap draws images, with their whole rows.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

#: ``statistic(samples)`` reduces axis 1, the images: (B, N, …) → (B,).
Statistic = Callable[[NDArray], NDArray]

#: What is smaller than this, relative to its terms, is no more than their rounding.
_ROUNDING = 1e-12

#: Floats of resampled values held at a time.
_BLOCK = 2**22


class Summary(NamedTuple):
    """A figure with its confidence interval.

    Attributes
    ----------
    value : float
        The statistic of all defined rows; NaN if there are none, and of a ratio whose denominator
        cannot be told from 0 (see `summary`).
    low, high : float
        Percentile bootstrap interval; NaN with fewer than two defined rows.
    undefined : int
        Rows with a NaN, which were left out.
    """

    value: float
    low: float
    high: float
    undefined: int


def mean(samples: NDArray) -> NDArray:
    """(B, N) → (B,): the mean over the images."""
    return samples.mean(axis=1)


def ratio_of_means(samples: NDArray) -> NDArray:
    """(B, N, 2) → (B,): mean of the first column over mean of the second; NaN where that is 0.

    To rounding: terms of both signs that cancel out leave a little.
    """
    means = samples.mean(axis=1)
    above, below = means[:, 0], means[:, 1]
    there_is = np.abs(below) > _ROUNDING * np.abs(samples[..., 1]).mean(axis=1)
    return np.divide(above, below, out=np.full(len(means), np.nan), where=there_is)


def summary(
    values: ArrayLike,
    statistic: Statistic = mean,
    *,
    confidence: float = 0.95,
    resamples: int = 2000,
    random_state: int | np.random.Generator | None = 0,
) -> Summary:
    """A statistic of per-image values, with its percentile bootstrap interval over images.

    B. Efron, R. Tibshirani, "An Introduction to the Bootstrap", 1993, ch. 13. The same
    ``random_state`` draws the same images for every extractor (as long as none is undefined), so
    the interval of a difference is ``summary(values - values_of_another)``.

    Parameters
    ----------
    values : (N,) or (N, …)
        One row per image. A row with a NaN is undefined: left out, and counted.
    statistic
        `mean`, `ratio_of_means`, or anything that takes (B, N, …) to (B,).
    confidence
        Share of the bootstrap's values within the interval, in (0, 1).
    resamples
        Number of bootstrap samples.
    random_state
        Seed or generator.

    Returns
    -------
    summary

    Notes
    -----
    A `ratio_of_means` whose denominators have both signs (a network's accuracy above chance) is
    undefined unless the interval of their mean is above 0: the ratio would be of any size and sign.

    Raises
    ------
    ValueError
        If there are no rows, values are infinite, or ``confidence`` or ``resamples`` is out of
        range.
    """
    rows = np.asarray(values, np.float64)
    if rows.ndim == 0 or len(rows) == 0:
        raise ValueError(f"values must have one row per image, but have shape {rows.shape}")
    if np.isinf(rows).any():
        raise ValueError(
            "values must be finite, or NaN where they are undefined; some are infinite"
        )
    if not 0.0 < confidence < 1.0:
        raise ValueError(f"confidence must lie between 0 and 1, not {confidence!r}")
    if resamples < 1:
        raise ValueError(f"resamples must be at least 1, not {resamples!r}")
    defined = rows[~np.isnan(rows).any(axis=tuple(range(1, rows.ndim)))]
    undefined = len(rows) - len(defined)
    if not len(defined):
        return Summary(np.nan, np.nan, np.nan, undefined)
    value = float(statistic(defined[None])[0])
    if len(defined) < 2:
        return Summary(value, np.nan, np.nan, undefined)
    tail = (1.0 - confidence) / 2
    rng = np.random.default_rng(random_state)
    if statistic is ratio_of_means and defined[:, 1].min() < 0:
        below = _bootstrap(defined[:, 1], mean, resamples, np.random.default_rng(0))
        if np.quantile(below, tail) <= 0:
            return Summary(np.nan, np.nan, np.nan, undefined)
    drawn = _bootstrap(defined, statistic, resamples, rng)
    drawn = drawn[~np.isnan(drawn)]  # a ratio may be undefined on a resample
    if not len(drawn):
        return Summary(value, np.nan, np.nan, undefined)
    low, high = np.quantile(drawn, [tail, 1.0 - tail])
    return Summary(value, float(low), float(high), undefined)


def _bootstrap(
    rows: NDArray, statistic: Statistic, resamples: int, rng: np.random.Generator
) -> NDArray:
    at_once = max(1, _BLOCK // rows.size)
    sizes = [min(at_once, resamples - start) for start in range(0, resamples, at_once)]
    return np.concatenate(
        [statistic(rows[rng.integers(len(rows), size=(size, len(rows)))]) for size in sizes]
    )
