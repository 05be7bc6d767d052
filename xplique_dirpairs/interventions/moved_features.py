"""Features whose concepts are moved, and what the network answers to them.

A concept is moved by one shift t at all positions of an image, as far as its range allows:

    u'_p = clip(u_p + t, low, high),   x' = clip(x + (u' − u) B, limits)

What a position has beyond its range or limits already, it keeps. The residual of x is not touched,
so that t = 0 gives the network's own output.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf

from xplique_dirpairs.core.batching import chunk_size, slices
from xplique_dirpairs.core.types import Array
from xplique_dirpairs.data.images import any_number
from xplique_dirpairs.models.head import Head

#: Halvings of an interval of shifts: more than float32 can tell apart.
HALVINGS = 40


@dataclass(frozen=True, eq=False)
class CoefficientRange:
    """How little and how much of each concept training images hold.

    Attributes
    ----------
    low, high : ndarray of shape (I,)
        Of one position. ``low`` is 0 if no coefficient is negative; otherwise, as ``high``, a
        quantile over images of each image's extreme.
    low_mean, high_mean : ndarray of shape (I,)
        Of an image's mean over its positions. A concept is rarely everywhere at once: ``high``
        alone would allow more of it than any image holds.
    """

    low: Array
    high: Array
    low_mean: Array
    high_mean: Array

    @classmethod
    def of(cls, coefficients: Iterable[Array], quantile: float = 0.99) -> CoefficientRange:
        """Return the range of coefficients.

        Parameters
        ----------
        coefficients : iterable of ndarray of shape (n, *S, I)
            Batches.
        quantile : float, default=0.99
            Share of the images that have no more than ``high`` and ``high_mean``; as many have no
            less than ``low`` and ``low_mean``.

        Raises
        ------
        ValueError
            If ``quantile`` is not in (0.5, 1].
        """
        if not 0.5 < quantile <= 1.0:
            raise ValueError(f"quantile must be above 0.5 and at most 1, not {quantile!r}")
        maps = [flat_maps(u).astype(np.float64) for u in coefficients]
        least, most, mean = (
            np.concatenate([statistic(u, axis=1) for u in maps])
            for statistic in (np.min, np.max, np.mean)
        )
        low, low_mean = (np.quantile(values, 1 - quantile, axis=0) for values in (least, mean))
        high, high_mean = (np.quantile(values, quantile, axis=0) for values in (most, mean))
        is_signed = least.min(axis=0) < 0
        # 0, the concept switched off, is within the range of any extractor.
        return cls(
            np.where(is_signed, np.minimum(low, 0.0), 0.0),
            np.maximum(high, 0.0),
            np.where(is_signed, np.minimum(low_mean, 0.0), 0.0),
            np.maximum(high_mean, 0.0),
        )

    def shifted(self, u: Array, shifts: Array) -> Array:
        """Return u' of coefficients (n, P, I) and shifts (n, I), (n, P, I)."""
        low, high = np.minimum(u, self.low), np.maximum(u, self.high)
        return np.asarray(np.clip(u + shifts[:, None], low, high))

    def furthest_shifts(self, u: Array) -> tuple[Array, Array]:
        """Return the lowest (≤ 0) and the highest (≥ 0) shift of each concept, (n, I) each.

        The image's mean stays within ``low_mean`` and ``high_mean``, or where it is already.

        Parameters
        ----------
        u : ndarray of shape (n, P, I)
        """
        u = u.astype(np.float64)
        mean = u.mean(axis=1)
        lowest = self.shifts_to_means(u, np.minimum(self.low_mean, mean))
        return lowest, self.shifts_to_means(u, np.maximum(self.high_mean, mean))

    def shifts_to_means(self, u: Array, means: Array) -> Array:
        """Return shifts (n, I) that bring images' means as near as possible to ``means`` (n, I)."""
        u = u.astype(np.float64)
        own = u.mean(axis=1)
        # Beyond these every position is at the end of its range.
        lowest = np.where(means < own, np.minimum(self.low - u.max(axis=1), 0.0), 0.0)
        highest = np.where(means > own, np.maximum(self.high - u.min(axis=1), 0.0), 0.0)

        def is_above(shifts: Array) -> Array:
            return np.asarray(self.shifted(u, shifts).mean(axis=1) > means)

        return bisected(is_above, lowest, highest, HALVINGS)[0]


class MovedFeatures:
    """The network's answers as functions of shifts, in compiled batches.

    Parameters
    ----------
    head : Head
        With a column for each class.
    bank : ndarray of shape (I, D)
        B.
    limits : (float, float)
        Lowest and highest value of the layer's features.
    bounds : CoefficientRange

    Attributes
    ----------
    gram : ndarray of shape (I, I)
        B Bᵀ.
    """

    def __init__(
        self, head: Head, bank: Array, limits: tuple[float, float], bounds: CoefficientRange
    ) -> None:
        self.head, self.bounds = head, bounds
        self.gram = bank.astype(np.float64) @ bank.astype(np.float64).T
        self._bank = tf.constant(bank, tf.float32)
        self._limits = limits
        self._run = tf.function(self._outcomes, reduce_retracing=True)
        self._run_slopes = tf.function(self._leads_and_slopes, reduce_retracing=True)
        self._run_features = tf.function(self._moved, reduce_retracing=True)

    # ------------------------------------------------------------ arrays

    def outcomes(self, x: Array, u: Array, image: Array, shifts: Array) -> tuple[Array, Array]:
        """Return logits (r, K) and ‖x' − x‖_F (r,), float64, of r moves of n images.

        Parameters
        ----------
        x : ndarray of shape (n, *S, D)
        u : ndarray of shape (n, *S, I)
        image : ndarray of shape (r,), int
            Which image is moved.
        shifts : ndarray of shape (r, I)
        """
        logits, norms = self._in_chunks(self._run, x, u, image, shifts)
        return logits.astype(np.float64), norms.astype(np.float64)

    def intact_logits(self, x: Array, u: Array) -> Array:
        """Return the logits (n, K) of images as they are."""
        return self.outcomes(x, u, np.arange(len(x)), np.zeros((len(x), len(self.gram))))[0]

    def leads_and_slopes(
        self, x: Array, u: Array, image: Array, shifts: Array, classes: Array
    ) -> tuple[Array, Array]:
        """Return leads of some classes over others, (r,), and their slopes in the shifts, (r, I).

        Parameters
        ----------
        x, u, image, shifts : ndarray
            As of `outcomes`.
        classes : ndarray of shape (r, 2, K), bool
            The classes of which one is to lead, and those it is to lead over.
        """
        leads, slopes = self._in_chunks(self._run_slopes, x, u, image, shifts, classes)
        return leads.astype(np.float64), slopes.astype(np.float64)

    def features(self, x: Array, u: Array, shifts: Array) -> Array:
        """Return x', (n, *S, D) float32, of one move of each image."""
        return self._in_chunks(self._run_features, x, u, np.arange(len(x)), shifts)[0]

    def _in_chunks(
        self, function: Any, x: Array, u: Array, image: Array, shifts: Array, *more: Array
    ) -> list[Array]:
        columns, parts = (shifts.astype(np.float32), *more), []
        for rows in slices(len(image), chunk_size(x[0].size)):
            moves = [column[rows] for column in columns]
            results = any_number(function, x[image[rows]], u[image[rows]], *moves)
            parts.append([result.numpy() for result in tf.nest.flatten(results)])
        return [np.concatenate(column) for column in zip(*parts, strict=True)]

    # ------------------------------------------------------------ tensors

    def _moved(self, x: tf.Tensor, u: tf.Tensor, shifts: tf.Tensor) -> tf.Tensor:
        x, u = tf.cast(x, tf.float32), tf.cast(u, tf.float32)
        ones = tf.ones([u.shape.rank - 2], tf.int32)
        spread = tf.reshape(shifts, tf.concat([tf.shape(u)[:1], ones, [-1]], 0))
        low, high = tf.minimum(u, self.bounds.low), tf.maximum(u, self.bounds.high)
        change = tf.clip_by_value(u + spread, low, high) - u
        moved = x + tf.tensordot(change, self._bank, axes=1)
        lowest, highest = self._limits
        return tf.clip_by_value(moved, tf.minimum(x, lowest), tf.maximum(x, highest))

    def _logits(self, features: tf.Tensor) -> tf.Tensor:
        return self.head.logits_of(tf.cast(self.head.outputs(features), tf.float32))

    def _outcomes(
        self, x: tf.Tensor, u: tf.Tensor, shifts: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor]:
        moved = self._moved(x, u, shifts)
        axes = list(range(1, moved.shape.rank))
        return self._logits(moved), tf.sqrt(tf.reduce_sum((moved - x) ** 2, axis=axes))

    def _leads_and_slopes(
        self, x: tf.Tensor, u: tf.Tensor, shifts: tf.Tensor, classes: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor]:
        with tf.GradientTape() as tape:
            tape.watch(shifts)
            logits = self._logits(self._moved(x, u, shifts))
            highest = tf.reduce_max(tf.where(classes, logits[:, None], -np.inf), axis=-1)
            leads = highest[:, 0] - highest[:, 1]
        return leads, tape.gradient(leads, shifts)


def flat_maps(u: Array) -> Array:
    """Reshape maps (n, *S, I) to (n, P, I)."""
    return u.reshape(len(u), -1, u.shape[-1])


def bisected(
    is_beyond: Callable[[Array], Array], low: Array, high: Array, halvings: int
) -> tuple[Array, Array]:
    """Halve the intervals [low, high] around the values from which on a condition holds."""
    for _ in range(halvings):
        middle = (low + high) / 2
        beyond = is_beyond(middle)
        low, high = np.where(beyond, low, middle), np.where(beyond, middle, high)
    return low, high
