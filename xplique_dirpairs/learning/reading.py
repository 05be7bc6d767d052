"""From filters and biases to complete pairs: one pass over the features, and the diagnosis."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from xplique_dirpairs.learning.coordinates import Coordinates, Moments
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
    """

    pairs: DirectionPairs
    occupancy: NDArray
    overlaps: NDArray

    @property
    def signals(self) -> NDArray:
        """Ŝ (I, D)."""
        return self.pairs.signals


def measure_pairs(
    features: NDArray,
    moments: Moments,
    filters: NDArray,
    biases: NDArray,
    signals: NDArray | None = None,
    coordinates: Coordinates | None = None,
) -> MeasuredPairs:
    """Complete detectors to pairs.

    ŝ_i ∝ cov[x, z_i] over the positives of concept i (method, section 3), m_i the mean of z_i over
    its negatives. A concept without positives takes cov[x, z_i] over all positions.

    Parameters
    ----------
    features : (P, D)
    filters : (I, D)
    biases : (I,)
        Of centred features.
    signals : (I, D), optional
        Given signal vectors, instead of estimated ones.
    coordinates
        Those the detectors were learned in: estimated signal vectors keep only what lies along
        their axes, as they did in the learning; the rest is noise of the estimate.
    """
    concepts, channels = filters.shape
    filters = filters.astype(np.float64)
    raw_biases = biases + filters @ moments.mean
    count = np.zeros(concepts)
    both = np.zeros((concepts, concepts))
    sum_z, total_z = np.zeros(concepts), np.zeros(concepts)
    sum_x, sum_xz = np.zeros((concepts, channels)), np.zeros((concepts, channels))
    mean = moments.mean.astype(np.float32)
    for start in range(0, len(features), _CHUNK):
        centred = features[start : start + _CHUNK] - mean
        z = centred @ filters.T.astype(np.float32)
        on = (z > biases.astype(np.float32)).astype(np.float32)
        count += on.sum(axis=0, dtype=np.float64)
        both += on.T @ on
        sum_z += (on * z).sum(axis=0, dtype=np.float64)
        total_z += z.sum(axis=0, dtype=np.float64)
        sum_x += on.T @ centred
        sum_xz += (on * z).T @ centred
    positives = np.maximum(count, 1.0)
    if signals is None:
        covariance = sum_xz / positives[:, None] - (
            (sum_z / positives)[:, None] * (sum_x / positives[:, None])
        )
        everywhere = filters @ moments.covariance
        too_few = (count < 3) | (np.linalg.norm(covariance, axis=1) < 1e-12)
        signals = np.where(too_few[:, None], everywhere, covariance)
        if coordinates is not None:
            signals = coordinates.signals_to_raw(coordinates.signals_from_raw(signals))
    negatives = len(features) - count
    absent = (
        np.where(negatives > 0, (total_z - sum_z) / np.maximum(negatives, 1.0), biases)
        + filters @ moments.mean
    )
    union = count[:, None] + count[None, :] - both
    overlaps = np.divide(both, union, out=np.zeros_like(both), where=union > 0)
    pairs = DirectionPairs(filters, raw_biases, signals, moments.mean, absent)
    return MeasuredPairs(pairs, count / len(features), overlaps)
