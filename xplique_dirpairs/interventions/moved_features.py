"""Move concepts in features, and evaluate the network on the moved features.

A concept is moved by the same shift t at all positions of an image, as far as its range allows:

    u'_p = clip(u_p + t, low, high),   x' = clip(x + (u' − u) B, limits)

Values that are already outside the range or the limits are kept. The residual of x is not changed,
so that t = 0 gives the network's original output.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import tensorflow as tf

from xplique_dirpairs.core.batching import chunk_size, slices
from xplique_dirpairs.core.pickling import ComputesAgain
from xplique_dirpairs.core.types import Array
from xplique_dirpairs.models.head import Head
from xplique_dirpairs.models.tracing import any_number

#: Number of halvings of an interval of shifts, which is more than float32 can resolve.
HALVINGS = 40


@dataclass(frozen=True, eq=False)
class CoefficientRange:
    """Range of each concept's coefficients in the training images.

    A concept is rarely present at all positions at once, so ``high`` alone would allow more of it
    than any image contains. Therefore the means over an image have a range of their own.

    Attributes
    ----------
    low : ndarray of shape (I,)
        Lowest coefficient at one position: 0 if no coefficient is negative, otherwise a quantile of
        the images' minima.
    high : ndarray of shape (I,)
        Highest coefficient at one position: a quantile of the images' maxima.
    low_mean : ndarray of shape (I,)
        Lowest mean coefficient of an image over its positions.
    high_mean : ndarray of shape (I,)
        Highest mean coefficient of an image over its positions.
    """

    low: Array
    high: Array
    low_mean: Array
    high_mean: Array

    @classmethod
    def of(cls, coefficients: Iterable[Array], quantile: float = 0.99) -> CoefficientRange:
        """Compute the range of coefficients.

        Parameters
        ----------
        coefficients : iterable of ndarray of shape (n, *S, I)
            Coefficients of the training images, in batches.
        quantile : float, default=0.99
            Share of the images that do not exceed ``high`` and ``high_mean``. The same share does
            not fall below ``low`` and ``low_mean``.

        Returns
        -------
        bounds : CoefficientRange
            The range.

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
        # A coefficient of 0 switches a concept off, so 0 is always part of the range.
        return cls(
            np.where(is_signed, np.minimum(low, 0.0), 0.0),
            np.maximum(high, 0.0),
            np.where(is_signed, np.minimum(low_mean, 0.0), 0.0),
            np.maximum(high_mean, 0.0),
        )

    def shifted(self, u: Array, shifts: Array) -> Array:
        """Return coefficients u (n, P, I) moved by shifts (n, I), within the range, (n, P, I)."""
        low, high = np.minimum(u, self.low), np.maximum(u, self.high)
        return np.asarray(np.clip(u + shifts[:, None], low, high))

    def furthest_shifts(self, u: Array) -> tuple[Array, Array]:
        """Compute the lowest and the highest shift of each concept.

        They keep the mean of an image between ``low_mean`` and ``high_mean``; a mean that is
        already outside does not move further out.

        Parameters
        ----------
        u : ndarray of shape (n, P, I)
            Coefficients.

        Returns
        -------
        lowest : ndarray of shape (n, I)
            Lowest shifts, ≤ 0.
        highest : ndarray of shape (n, I)
            Highest shifts, ≥ 0.
        """
        u = u.astype(np.float64)
        mean = u.mean(axis=1)
        lowest = self.shifts_to_means(u, np.minimum(self.low_mean, mean))
        return lowest, self.shifts_to_means(u, np.maximum(self.high_mean, mean))

    def shifts_to_means(self, u: Array, means: Array) -> Array:
        """Compute the shifts (n, I) that bring the means of u as near as possible to ``means``.

        Parameters
        ----------
        u : ndarray of shape (n, P, I)
            Coefficients.
        means : ndarray of shape (n, I)
            The means over positions to reach.

        Returns
        -------
        shifts : ndarray of shape (n, I)
            The shifts.
        """
        u = u.astype(np.float64)
        own = u.mean(axis=1)
        # Beyond these shifts, every position is at the end of its range.
        lowest = np.where(means < own, np.minimum(self.low - u.max(axis=1), 0.0), 0.0)
        highest = np.where(means > own, np.maximum(self.high - u.min(axis=1), 0.0), 0.0)

        def is_above(shifts: Array) -> Array:
            return np.asarray(self.shifted(u, shifts).mean(axis=1) > means)

        return bisected(is_above, lowest, highest, HALVINGS)[0]


class MovedFeatures(ComputesAgain):
    """The network's outputs as functions of shifts, evaluated in compiled batches.

    The shape ``*S`` is that of the positions, such as (H, W).

    Parameters
    ----------
    head : Head
        Head of the network, with one column for each class.
    bank : ndarray of shape (I, D)
        Concept bank B.
    limits : tuple of (float, float)
        Lowest and highest value of the layer's features.
    bounds : CoefficientRange
        Range of the coefficients.

    Attributes
    ----------
    head : Head
        As given.
    bounds : CoefficientRange
        As given.
    gram : ndarray of shape (I, I)
        Gram matrix B Bᵀ.
    """

    def __init__(
        self, head: Head, bank: Array, limits: tuple[float, float], bounds: CoefficientRange
    ) -> None:
        self.head, self.bounds = head, bounds
        self.gram = bank.astype(np.float64) @ bank.astype(np.float64).T
        self._bank = tf.constant(bank, tf.float32)
        self._limits = limits

    # ------------------------------------------------------------ arrays

    def outcomes(self, x: Array, u: Array, image: Array, shifts: Array) -> tuple[Array, Array]:
        """Compute the logits and the changes of the features for r moves of n images.

        Parameters
        ----------
        x : ndarray of shape (n, *S, D)
            Features.
        u : ndarray of shape (n, *S, I)
            Coefficients.
        image : ndarray of int of shape (r,)
            Index of the image that each move changes.
        shifts : ndarray of shape (r, I)
            Shifts of each move.

        Returns
        -------
        logits : ndarray of float64 of shape (r, K)
            Logits of the moved features.
        norms : ndarray of float64 of shape (r,)
            Changes of the features, ‖x' − x‖_F.
        """
        logits, norms = self._in_chunks(self._run, x, u, image, shifts)
        return logits.astype(np.float64), norms.astype(np.float64)

    def intact_logits(self, x: Array, u: Array) -> Array:
        """Compute the logits (n, K) of the original features."""
        return self.outcomes(x, u, np.arange(len(x)), np.zeros((len(x), len(self.gram))))[0]

    def leads_and_slopes(
        self, x: Array, u: Array, image: Array, shifts: Array, classes: Array
    ) -> tuple[Array, Array]:
        """Compute the leads of some classes over others, and the slopes of the leads.

        Parameters
        ----------
        x : ndarray of shape (n, *S, D)
            See `outcomes`.
        u : ndarray of shape (n, *S, I)
            See `outcomes`.
        image : ndarray of int of shape (r,)
            See `outcomes`.
        shifts : ndarray of shape (r, I)
            See `outcomes`.
        classes : ndarray of bool of shape (r, 2, K)
            For each move, the classes one of which is to lead, and the classes it is to lead over.

        Returns
        -------
        leads : ndarray of float64 of shape (r,)
            Highest logit of the first classes minus the highest of the second.
        slopes : ndarray of float64 of shape (r, I)
            Derivatives of the leads with respect to the shifts.
        """
        leads, slopes = self._in_chunks(self._run_slopes, x, u, image, shifts, classes)
        return leads.astype(np.float64), slopes.astype(np.float64)

    def features(self, x: Array, u: Array, shifts: Array) -> Array:
        """Compute the features x' (n, *S, D), float32, after one move of each image."""
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

    @cached_property
    def _run(self) -> Any:
        return tf.function(self._outcomes, reduce_retracing=True)

    @cached_property
    def _run_slopes(self) -> Any:
        return tf.function(self._leads_and_slopes, reduce_retracing=True)

    @cached_property
    def _run_features(self) -> Any:
        return tf.function(self._moved, reduce_retracing=True)

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
            others = tf.where(classes, logits[:, None], logits.dtype.min)
            highest = tf.reduce_max(others, axis=-1)
            leads = highest[:, 0] - highest[:, 1]
        return leads, tape.gradient(leads, shifts)


def flat_maps(u: Array) -> Array:
    """Return maps (n, *S, I), reshaped to (n, P, I)."""
    return u.reshape(len(u), -1, u.shape[-1])


def bisected(
    is_beyond: Callable[[Array], Array], low: Array, high: Array, halvings: int
) -> tuple[Array, Array]:
    """Narrow intervals around the values above which a condition holds, by bisection.

    Parameters
    ----------
    is_beyond : callable
        Function that returns whether the condition holds at each of an array of values.
    low : ndarray
        Lower ends of the intervals.
    high : ndarray
        Upper ends of the intervals, of the same shape.
    halvings : int
        Number of halvings.

    Returns
    -------
    low : ndarray
        Lower ends of the narrowed intervals.
    high : ndarray
        Upper ends of the narrowed intervals.
    """
    for _ in range(halvings):
        middle = (low + high) / 2
        beyond = is_beyond(middle)
        low, high = np.where(beyond, low, middle), np.where(beyond, middle, high)
    return low, high
