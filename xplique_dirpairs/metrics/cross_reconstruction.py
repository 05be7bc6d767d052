"""How much of some variables is linear in others, by ridge regression from sums over positions.

Sums are kept, not positions: they are collected block by block, and those of several parts of the
data can be added.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy import linalg

from xplique_dirpairs.core.batching import chunk_size, slices
from xplique_dirpairs.core.types import Array

#: Variances below this share of the mean square are rounding errors of sums in float32.
_ROUNDING = 1e-5
#: Ridges that are tried, in units of the variance of each source.
RIDGES = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0)


@dataclass(eq=False)
class Moments:
    """Number, mean and products of C variables at positions that are added block by block.

    Parameters
    ----------
    centre : ndarray of shape (C,)
        Roughly the mean. Variables are taken relative to it, so that no digits are lost.
    """

    centre: Array

    def __post_init__(self) -> None:
        width = len(self.centre)
        self.count = 0
        self.sums = np.zeros(width)
        self.products = np.zeros((width, width))

    def add(self, values: Array) -> None:
        """Add positions (P, C)."""
        for part in slices(len(values), chunk_size(values.shape[1])):
            block = np.asarray(values[part] - self.centre, np.float32)
            self.count += len(block)
            self.sums += block.sum(axis=0, dtype=np.float64)
            self.products += block.T @ block

    def turn(self, columns: Array) -> None:
        """Turn the signs of some variables, in place."""
        signs = np.ones(len(self.centre))
        signs[columns] = -1.0
        self.centre = self.centre * signs
        self.sums *= signs
        self.products *= np.outer(signs, signs)

    def __add__(self, other: Moments) -> Moments:
        total = Moments(self.centre)
        total.count = self.count + other.count
        total.sums = self.sums + other.sums
        total.products = self.products + other.products
        return total

    @property
    def mean(self) -> Array:
        """Mean relative to the centre, (C,)."""
        return np.asarray(self.sums / max(self.count, 1))

    def covariance(self, rows: Array, columns: Array) -> Array:
        """Return the covariances of some variables with others, (rows, columns)."""
        mean = self.mean
        products = self.products[np.ix_(rows, columns)] / max(self.count, 1)
        return np.asarray(products - np.outer(mean[rows], mean[columns]))

    def variance(self, columns: Array) -> Array:
        """Return the variances of some variables; 0 for one that is constant up to rounding."""
        squares = np.diag(self.products)[columns] / max(self.count, 1)
        variance = squares - np.square(self.mean[columns])
        return np.asarray(np.where(variance > _ROUNDING * squares, variance, 0.0))

    def correlation(self, rows: Array, columns: Array) -> Array:
        """Return the correlations of some variables with others; 0 for one that is constant."""
        scale = np.sqrt(np.outer(self.variance(rows), self.variance(columns)))
        covariance = self.covariance(rows, columns)
        result = np.divide(covariance, scale, out=np.zeros_like(scale), where=scale > 0)
        return np.asarray(np.clip(result, -1.0, 1.0))


def ridge_r2(
    learning: Moments, choosing: Moments, scoring: Moments, sources: ArrayLike, targets: ArrayLike
) -> float:
    """Return R² of the ridge regression from source to target variables on data of its own.

    R² is 1 − Σ‖y − ŷ‖² / Σ‖y − ȳ‖², where ȳ is the mean vector.

    Parameters
    ----------
    learning : Moments
        Data from which each regression is learned while the ridge is chosen.
    choosing : Moments
        Data on which the ridge is chosen, from `RIDGES`. The regression with this ridge is then
        learned from ``learning`` and ``choosing`` together.
    scoring : Moments
        Data that R² is of.
    sources : array-like of int
        Indices of the source variables.
    targets : array-like of int
        Indices of the target variables.

    Returns
    -------
    r2 : float
        At most 1; 0 without sources; NaN if no target varies.
    """
    x, y = np.asarray(sources, int), np.asarray(targets, int)
    if not len(x):
        return 0.0 if scoring.variance(y).sum() > 0 else float("nan")
    tried = [(_r2(choosing, learning, _weights(learning, x, y, r), x, y), r) for r in RIDGES]
    _, ridge = max(tried, key=lambda one: (np.nan_to_num(one[0], nan=-np.inf), one[1]))
    both = learning + choosing
    return _r2(scoring, both, _weights(both, x, y, ridge), x, y)


def _weights(moments: Moments, x: Array, y: Array, ridge: float) -> Array:
    """Return the weights of ridge regression, (sources, targets)."""
    scale = np.sqrt(moments.variance(x))
    scale = np.where(scale > 1e-6 * max(scale.max(), 1e-30), scale, np.inf)  # constants weigh 0
    gram = moments.covariance(x, x) / np.outer(scale, scale)
    products = moments.covariance(x, y) / scale[:, None]
    # rounding makes eigenvalues negative where there are fewer positions than sources
    values, axes = linalg.eigh(gram)
    along = (axes.T @ products) / (np.maximum(values, 0.0) + ridge)[:, None]
    return np.asarray(axes @ along / scale[:, None])


def _r2(moments: Moments, learned: Moments, weights: Array, x: Array, y: Array) -> float:
    """Return R² of weights on some data; the offsets are those of the data they were learned on."""
    total = float(moments.variance(y).sum())
    if total <= 0:
        return float("nan")
    explained = 2.0 * np.sum(weights * moments.covariance(x, y))
    predicted = np.sum(weights * (moments.covariance(x, x) @ weights))
    shift = moments.mean - learned.mean
    bias = np.sum(np.square(shift[y] - shift[x] @ weights))
    return float((explained - predicted - bias) / total)
