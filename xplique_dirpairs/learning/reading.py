"""From filters and biases to complete pairs: one pass over the features, and the diagnosis."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from xplique_dirpairs.core.batching import iter_blocks
from xplique_dirpairs.data.devices import own_share, summed
from xplique_dirpairs.learning.coordinates import Coordinates, Moments
from xplique_dirpairs.learning.signals import joint_signals, rectified
from xplique_dirpairs.pairs import DirectionPairs

#: Positions read at a time.
_CHUNK = 65536


@dataclass(frozen=True)
class MeasuredPairs:
    """Pairs and what their detectors do on the features they were learned from.

    Attributes
    ----------
    pairs
    occupancy : (I,)
        Share of the positions on which each concept is detected.
    overlaps : (I, I)
        IoU of the detections of every two concepts.
    surplus
        Concepts that were left out of the others' signal vectors.
    """

    pairs: DirectionPairs
    occupancy: NDArray
    overlaps: NDArray
    surplus: list[int]

    @property
    def signals(self) -> NDArray:
        """Ŝ (I, D)."""
        return self.pairs.signals


def measure_pairs(
    features: Any,
    moments: Moments,
    filters: NDArray,
    biases: NDArray,
    signals: NDArray | str = "positives",
    coordinates: Coordinates | None = None,
    least_share: float = 0.0,
) -> MeasuredPairs:
    """Complete detectors to pairs.

    m_i is the mean of z_i over the negatives of concept i. Several workers, who must all call this
    with the same features, read their shares of the blocks and end with the same pairs.

    Parameters
    ----------
    features : (P, D)
        Or anything with ``blocks()`` of positions.
    filters : (I, D)
    biases : (I,)
        Of centred features.
    signals
        ``"positives"``: ŝ_i ∝ cov[x, z_i] over the positives of concept i (method, section 3), over
        all positions where there are too few; ``"joint"``: `signals.joint_signals`;
        ``"mean-difference"``: mean(positives) − mean(negatives); or given signal vectors (I, D).
    coordinates
        Those the detectors were learned in: estimated signal vectors keep only what lies along
        their axes, as they did in the learning; the rest is noise of the estimate.
    least_share
        Concepts detected on less than this share of 1/I are surplus. The joint estimate of the
        others does without them: a filter that stands for no concept, but is correlated with some,
        would be held against theirs.
    """
    filters = filters.astype(np.float64)
    sums = _Sums(filters, biases, moments.mean)
    for block in own_share(iter_blocks(features, _CHUNK)):
        sums.add(block)
    sums.over_workers()
    surplus = np.flatnonzero(sums.count < least_share / len(filters) * sums.positions)
    if isinstance(signals, str):
        if signals == "joint":
            signals = sums.joint_signals(surplus)
        elif signals == "mean-difference":
            signals = sums.mean_difference(everywhere=filters @ moments.covariance)
        else:
            signals = sums.positives_covariance(everywhere=filters @ moments.covariance)
        if coordinates is not None:
            signals = coordinates.signals_to_raw(coordinates.signals_from_raw(signals))
    at_mean = filters @ moments.mean
    absent = sums.absent_levels() + at_mean
    pairs = DirectionPairs(filters, biases + at_mean, signals, moments.mean, absent)
    return MeasuredPairs(
        pairs,
        sums.count / sums.positions,
        sums.overlaps(),
        surplus.tolist(),
    )


class _Sums:
    """What is summed over positions, in float64, chunk by chunk: x is centred, z = Wᵀx − b."""

    _GIVEN = ("_filters", "_biases", "_mean")

    def __init__(self, filters: NDArray, biases: NDArray, mean: NDArray):
        concepts, channels = filters.shape
        self._filters, self._biases = filters.astype(np.float32), biases.astype(np.float32)
        self._mean = mean.astype(np.float32)
        self.positions = 0
        self.count = np.zeros(concepts)
        self._both = np.zeros((concepts, concepts))
        # over all positions, over positives, and weighted by r, the rectified excess
        self._z, self._z_on, self._r = np.zeros((3, concepts))
        self._x = np.zeros(channels)
        self._x_on, self._xz_on, self._xr = np.zeros((3, concepts, channels))
        self._zr = np.zeros((concepts, concepts))

    def add(self, features: NDArray) -> None:
        """Some positions, (n, D)."""
        x = features - self._mean
        z = x @ self._filters.T - self._biases
        on = (z > 0).astype(np.float32)
        z_on, r = on * z, rectified(z).numpy()
        self.positions += len(x)
        self.count += on.sum(axis=0, dtype=np.float64)
        self._both += on.T @ on
        self._z += z.sum(axis=0, dtype=np.float64)
        self._z_on += z_on.sum(axis=0, dtype=np.float64)
        self._r += r.sum(axis=0, dtype=np.float64)
        self._x += x.sum(axis=0, dtype=np.float64)
        self._x_on += on.T @ x
        self._xz_on += z_on.T @ x
        self._xr += r.T @ x
        self._zr += r.T @ z

    def over_workers(self) -> None:
        """The sums of all workers instead of this one's."""
        own = {name: v for name, v in vars(self).items() if name not in self._GIVEN}
        for (name, value), total in zip(own.items(), summed(list(own.values())), strict=True):
            setattr(self, name, type(value)(total) if np.isscalar(value) else total)

    def positives_covariance(self, everywhere: NDArray) -> NDArray:
        """(I, D); the given rows where a concept has too few positives."""
        positives = np.maximum(self.count, 1.0)[:, None]
        mean_z = self._z_on[:, None] / positives
        covariance = self._xz_on / positives - mean_z * (self._x_on / positives)
        too_few = (self.count < 3) | (np.linalg.norm(covariance, axis=1) < 1e-12)
        return np.where(too_few[:, None], everywhere, covariance)

    def mean_difference(self, everywhere: NDArray) -> NDArray:
        """(I, D); the given rows without positives or negatives."""
        on = np.maximum(self.count, 1.0)[:, None]
        off = np.maximum(self.positions - self.count, 1.0)[:, None]
        both = (self.count > 0) & (self.count < self.positions)
        return np.where(both[:, None], self._x_on / on - (self._x - self._x_on) / off, everywhere)

    def joint_signals(self, surplus: NDArray) -> NDArray:
        """(I, D), as `signals.joint_signals`; those of the others without the surplus concepts."""
        with_x, with_z = self._xr, self._zr - np.outer(self._r, self._z) / self.positions
        signals = joint_signals(tf.constant(with_x), tf.constant(with_z)).numpy()
        others = np.setdiff1d(np.arange(len(with_z)), surplus)
        if surplus.size and others.size:
            among = tf.constant(with_z[np.ix_(others, others)])
            signals[others] = joint_signals(tf.constant(with_x[others]), among).numpy()
        return signals

    def absent_levels(self) -> NDArray:
        """(I,), of centred features; the bias of a concept that is never absent."""
        negatives = self.positions - self.count
        below = (self._z - self._z_on) / np.maximum(negatives, 1.0)
        return self._biases.astype(np.float64) + np.where(negatives > 0, below, 0.0)

    def overlaps(self) -> NDArray:
        """(I, I): IoU of detections."""
        union = self.count[:, None] + self.count - self._both
        return np.divide(self._both, union, out=np.zeros_like(union), where=union > 0)
