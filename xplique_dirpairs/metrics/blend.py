"""Are the concepts of a blend of two images those of both? Pure functions of coefficients.

The measure is defined by this project. It was suggested by the images that are blended to train
segmentation networks in Islam et al., "Feature binding with category-dependant MixUp for semantic
segmentation and adversarial robustness" (BMVC 2020).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike

from xplique_dirpairs.core.batching import as_positions
from xplique_dirpairs.core.types import Array
from xplique_dirpairs.metrics.registry import Summary, ratio_of_means, summary

#: Coefficients that differ by this share are equal, up to rounding.
_EQUAL = 1e-6


@dataclass(frozen=True, eq=False)
class BlendCounts:
    """Sums over the positions of n blends of two images, for each of I concepts, (n, I) each.

    Attributes
    ----------
    wanted : ndarray
        Number of positions where the concept fires in either image.
    hits : ndarray
        Those of them where it fires in the blend.
    absent : ndarray
        Number of positions where it fires in neither image.
    false : ndarray
        Those of them where it fires in the blend.
    errors : ndarray
        Sum of squares of u(blend) − λ u(a) − (1 − λ) u(b).
    sums, squares : ndarray
        Sum, and sum of squares, of u(blend).
    """

    wanted: Array
    hits: Array
    absent: Array
    false: Array
    errors: Array
    sums: Array
    squares: Array

    @classmethod
    def of(
        cls, first: Array, second: Array, blended: Array, blend: float, thresholds: Array
    ) -> BlendCounts:
        """Count firings, and sum squares, of coefficients (n, *spatial, I).

        Parameters
        ----------
        first, second : ndarray of shape (n, *spatial, I)
            Coefficients of I concepts in the images a and b of n pairs.
        blended : ndarray of shape (n, *spatial, I)
            Coefficients in λ a + (1 − λ) b.
        blend : float
            Share λ of the first image, in (0, 1).
        thresholds : ndarray of shape (I,)
            A concept fires in an image where its coefficient is above its threshold, and in a blend
            where it is above the share of the threshold that the fainter of both images has there.
        """
        u_a, u_b, u = (
            values.reshape(len(values), -1, values.shape[-1]).astype(np.float64)
            for values in (first, second, blended)
        )
        wanted = (u_a > thresholds) | (u_b > thresholds)
        fires = u > min(blend, 1.0 - blend) * thresholds
        error = u - blend * u_a - (1.0 - blend) * u_b
        return cls(
            *(
                values.sum(axis=1, dtype=np.float64)
                for values in (wanted, wanted & fires, ~wanted, ~wanted & fires, error**2, u, u**2)
            )
        )

    @classmethod
    def joined(cls, parts: Sequence[BlendCounts]) -> BlendCounts:
        """Return the counts of all pairs, of parts with some of them each."""
        return cls(
            *(
                np.concatenate([getattr(part, field.name) for part in parts])
                for field in fields(cls)
            )
        )


@dataclass(frozen=True, eq=False)
class BlendScores:
    """How far the concepts of blends are those of the two images, over n pairs and I concepts.

    Attributes
    ----------
    counts : BlendCounts
        Sums over the positions of each blend.
    """

    counts: BlendCounts

    @cached_property
    def recall_by_pair(self) -> Array:
        """Share of what fires in either image that fires in the blend, (n,); NaN: nothing does."""
        return _ratio(self.counts.hits.sum(axis=1), self.counts.wanted.sum(axis=1))

    @cached_property
    def false_by_pair(self) -> Array:
        """Share of what fires in neither image that fires in the blend, (n,)."""
        return _ratio(self.counts.false.sum(axis=1), self.counts.absent.sum(axis=1))

    @cached_property
    def additivity_by_pair(self) -> Array:
        """Explained and whole variance of the coefficients of the blends, (n, 2).

        Coefficients are taken in units of their deviation over all blends, so that every concept
        counts alike; concepts that do not vary are left out.
        """
        sums, squares = self.counts.sums, self.counts.squares
        positions = self.counts.wanted + self.counts.absent
        mean = sums.sum(axis=0) / positions.sum(axis=0)
        whole = squares - 2.0 * mean * sums + positions * mean**2
        variance = whole.sum(axis=0) / positions.sum(axis=0)
        varies = variance > 1e-12 * squares.sum(axis=0) / positions.sum(axis=0)
        if not varies.any():
            return np.full((len(sums), 2), np.nan)
        whole = (whole[:, varies] / variance[varies]).sum(axis=1)
        errors = (self.counts.errors[:, varies] / variance[varies]).sum(axis=1)
        return np.stack([whole - errors, whole], axis=1)

    @cached_property
    def recall(self) -> Summary:
        """Mean recall over pairs, with its 95 % interval, in [0, 1]."""
        return summary(self.recall_by_pair)

    @cached_property
    def false_firing(self) -> Summary:
        """Mean share of false firings over pairs, with its 95 % interval, in [0, 1]."""
        return summary(self.false_by_pair)

    @cached_property
    def additivity(self) -> Summary:
        """R² of u(blend) against λ u(a) + (1 − λ) u(b), with its 95 % interval; at most 1."""
        return summary(self.additivity_by_pair, ratio_of_means)

    @cached_property
    def recall_by_concept(self) -> Array:
        """Recall of each concept, (I,); NaN for a concept that fires in no image."""
        return _ratio(self.counts.hits.sum(axis=0), self.counts.wanted.sum(axis=0))

    @cached_property
    def false_by_concept(self) -> Array:
        """Share of false firings of each concept, (I,)."""
        return _ratio(self.counts.false.sum(axis=0), self.counts.absent.sum(axis=0))

    @cached_property
    def additivity_by_concept(self) -> Array:
        """R² of each concept, (I,); NaN for a concept that does not vary."""
        counts = self.counts
        positions = (counts.wanted + counts.absent).sum(axis=0)
        squares = counts.squares.sum(axis=0)
        whole = squares - counts.sums.sum(axis=0) ** 2 / positions
        whole = np.where(whole > 1e-12 * squares, whole, 0.0)
        return 1.0 - _ratio(counts.errors.sum(axis=0), whole)


def firing_thresholds(coefficients: ArrayLike, rate: float) -> Array:
    """Return the thresholds that give all concepts one rate of firing, at least 0.

    Parameters
    ----------
    coefficients : array-like of shape (..., I)
        Coefficients of I concepts at positions of images.
    rate : float
        Share of the positions where a concept fires, in (0, 1); fewer if fewer of its coefficients
        are positive. Where many coefficients are equal, as of the clusters of K-Means, so that only
        less than half of this share is larger than them, the concept fires at the equal ones, too.

    Returns
    -------
    thresholds : ndarray of shape (I,)
    """
    u = as_positions(np.asarray(coefficients))
    limits = np.quantile(u, 1.0 - rate, axis=0)
    many_equal = (u > limits).mean(axis=0) < rate / 2
    return np.asarray(np.maximum(np.where(many_equal, (1.0 - _EQUAL) * limits, limits), 0.0))


def _ratio(above: Array, below: Array) -> Array:
    """Return a ratio; NaN where the denominator is 0."""
    ratio: Array = np.divide(above, below, out=np.full(np.shape(below), np.nan), where=below > 0)
    return ratio
