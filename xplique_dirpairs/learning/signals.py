"""Signal vectors: their estimators, from labels or detections, and detectors completed to pairs.

In the training step features are any coordinates x (P, A), and results are directions there, not
normalised. `measure_pairs` reads all positions once and makes complete pairs of detectors.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import numpy as np
import tensorflow as tf
from numpy.typing import ArrayLike

from xplique_dirpairs.core.batching import iter_blocks
from xplique_dirpairs.core.types import Array
from xplique_dirpairs.core.validation import check_choice, check_type
from xplique_dirpairs.data.shards import ActivationShards
from xplique_dirpairs.learning.features import Coordinates, Moments, as_features
from xplique_dirpairs.pairs import DirectionPairs

#: Averages sums over the replicas that share a batch: of a tensor, or of several at once.
Average: TypeAlias = Callable[[Any], Any]
#: Names of the estimators.
ESTIMATORS = ("mean-difference", "positives", "joint")
#: Slope of the rectified excess where a concept is not detected.
_SLOPE = 0.01
#: Ridge of the pseudo-inverses, relative to unit filters and signal vectors [ours].
RIDGE = 1e-4
#: And in units of the trace of GᵀG.
ROUNDING = 3e-7


# ------------------------------------------------------------------ estimators of a step


def positives_covariance(
    x: tf.Tensor, z: tf.Tensor, positive: tf.Tensor, average: Average = lambda sums: sums
) -> tf.Tensor:
    """ŝ_i ∝ cov[x, z_i] over the concept's positives [paper, section 3; after Haufe et al. 2014].

    Parameters
    ----------
    x : tensor of shape (P, A)
        Features, in any coordinates.
    z : tensor of shape (..., P, I)
        Projections.
    positive : tensor of shape (..., P, I)
        1 where the concept is detected, 0 elsewhere.
    average : callable, optional
        Averages over the replicas that share a batch.

    Returns
    -------
    covariance : (..., I, A)
        Positive multiples of the signal vectors; zero without positives. The gradient runs
        through z.
    """
    count, total = average(
        (
            tf.reduce_sum(positive, axis=-2, keepdims=True) + 1e-6,
            tf.reduce_sum(positive * z, axis=-2, keepdims=True),
        )
    )
    centred = positive * (z - total / count)
    return average(tf.matmul(centred / count, x, transpose_a=True))


def excess_covariance(
    x: tf.Tensor, excess: tf.Tensor, average: Average = lambda sums: sums
) -> tf.Tensor:
    """Return cov[r_i, x], which `joint_signals` needs and minibatches average.

    Parameters
    ----------
    x : tensor of shape (P, A)
        Features.
    excess : tensor of shape (..., P, I)
        z − b: how far projections exceed the detectors' hyperplanes; r is `rectified` of it.
    average : callable, optional
        Averages over the replicas that share a batch.

    Returns
    -------
    covariance : (..., I, A)
        Times W it is cov[r_i, z_j]: no second product over the positions.
    """
    r = rectified(excess)
    r -= average(tf.reduce_mean(r, axis=-2, keepdims=True))
    return average(tf.matmul(r, x, transpose_a=True) / tf.cast(tf.shape(r)[-2], r.dtype))


def rectified(excess: tf.Tensor) -> tf.Tensor:
    """r = ReLU(z − b), with a slope of 0.01 below: a concept without positives has a value too."""
    return tf.nn.leaky_relu(excess, _SLOPE)


def joint_signals(with_features: tf.Tensor, with_projections: tf.Tensor) -> tf.Tensor:
    """Return all signal vectors at once, (..., I, A): columns of cov[x, r] cov[z, r]⁻¹ [ours].

    x is regressed on all projections z together, with the rectified excess r over the hyperplanes
    as instrument: a positive concept's share in x is not put down to another one that is absent
    more often, and what the filters let through of distractors is not put down to any. WᵀŜ = 1:
    a concept is switched off without moving another one.

    Parameters
    ----------
    with_features, with_projections : tf.Tensor
        From `excess_covariance`, the second times W.
    """
    scale = tf.sqrt(tf.maximum(tf.linalg.diag_part(with_projections), 1e-12))[..., None]
    gains = with_projections / scale / tf.linalg.matrix_transpose(scale)
    return tf.matmul(damped_inverse(gains), with_features / scale) / scale


def mean_difference(x: tf.Tensor, positive: tf.Tensor) -> tf.Tensor:
    """Return mean(positives) − mean(negatives), (..., I, A) [Pahde et al. 2024].

    With ground-truth labels (..., P, I) this is the Pattern-CAV; with detections, an estimator of
    the signal vector.
    """
    return _masked_mean(x, positive) - _masked_mean(x, 1.0 - positive)


def _masked_mean(x: tf.Tensor, mask: tf.Tensor) -> tf.Tensor:
    count = tf.reduce_sum(mask, axis=-2)[..., None] + 1e-6
    return tf.matmul(mask, x, transpose_a=True) / count


def damped_inverse(gram: tf.Tensor) -> tf.Tensor:
    """Return (GᵀG + ridge)⁻¹Gᵀ of square matrices (..., I, I), by Cholesky."""
    normal = tf.matmul(gram, gram, transpose_a=True)
    # float32 rounds GᵀG by more than the ridge where hundreds of filters coincide
    ridge = RIDGE + ROUNDING * tf.linalg.trace(normal)[..., None, None]
    ridge *= tf.eye(gram.shape[-1], dtype=gram.dtype)
    return _solve(normal + ridge, tf.linalg.matrix_transpose(gram))


@tf.custom_gradient
def _solve(normal: tf.Tensor, right: tf.Tensor) -> tuple[tf.Tensor, Any]:
    """Return N⁻¹B of a positive definite N.

    Its gradient solves with the same factor once more: Y = N⁻¹ ∂X, ∂N = −Y Xᵀ, ∂B = Y. That of the
    factor itself takes longer, and is not as steady.
    """
    factor = tf.linalg.cholesky(normal)
    solved = tf.linalg.cholesky_solve(factor, right)

    def gradient(of_solved: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        of_right = tf.linalg.cholesky_solve(factor, of_solved)
        return -tf.matmul(of_right, solved, transpose_b=True), of_right

    return solved, gradient


# ------------------------------------------------------------------ detectors made pairs


@dataclass(frozen=True)
class MeasuredPairs:
    """Pairs and what their detectors do on the features they were learned from.

    Attributes
    ----------
    pairs : DirectionPairs
    occupancy : ndarray of shape (I,)
        Share of the positions on which each concept is detected.
    overlaps : ndarray of shape (I, I)
        IoU of the detections of every two concepts.
    surplus : list of int
        Concepts that were left out of the others' signal vectors.
    """

    pairs: DirectionPairs
    occupancy: Array
    overlaps: Array
    surplus: list[int]


def measure_pairs(
    features: Any,
    moments: Moments,
    filters: Array,
    biases: Array,
    signals: Array | str = "positives",
    coordinates: Coordinates | None = None,
    least_share: float = 0.0,
) -> MeasuredPairs:
    """Complete detectors to pairs.

    m_i is the mean of z_i over the negatives of concept i.

    Parameters
    ----------
    features : (P, D)
        Or anything with ``blocks()`` of positions.
    filters : ndarray of shape (I, D)
    biases : ndarray of shape (I,)
        Of centred features.
    signals : ndarray or str, default="positives"
        ``"positives"``: ŝ_i ∝ cov[x, z_i] over the positives of concept i (method, section 3), over
        all positions where there are too few; ``"joint"``: `joint_signals`;
        ``"mean-difference"``: mean(positives) − mean(negatives); or given signal vectors (I, D).
    coordinates : Coordinates or None, default=None
        Those the detectors were learned in: estimated signal vectors keep only what lies along
        their axes, as they did in the learning; the rest is noise of the estimate.
    least_share : float, default=0.0
        Concepts detected on less than this share of 1/I are surplus. The joint estimate of the
        others does without them: a filter that stands for no concept, but is correlated with some,
        would distort theirs.
    """
    filters = filters.astype(np.float64)
    sums = _Sums(filters, biases, moments.mean)
    for block in iter_blocks(features):
        sums.add(block)
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
    """Sums over positions in float64, block by block: x is centred, z = Wᵀx − b."""

    def __init__(self, filters: Array, biases: Array, mean: Array):
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

    def add(self, features: Array) -> None:
        """Add positions (n, D) to the sums."""
        x = features - self._mean
        z = x @ self._filters.T - self._biases
        on = (z > 0).astype(np.float32)
        z_on, r = on * z, np.maximum(z, np.float32(_SLOPE) * z)
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

    def positives_covariance(self, everywhere: Array) -> Array:
        """Return signal vectors (I, D); given rows for concepts with too few positives."""
        positives = np.maximum(self.count, 1.0)[:, None]
        mean_z = self._z_on[:, None] / positives
        covariance = self._xz_on / positives - mean_z * (self._x_on / positives)
        too_few = (self.count < 3) | (np.linalg.norm(covariance, axis=1) < 1e-12)
        return np.where(too_few[:, None], everywhere, covariance)

    def mean_difference(self, everywhere: Array) -> Array:
        """Return signal vectors (I, D); given rows without positives or negatives."""
        on = np.maximum(self.count, 1.0)[:, None]
        off = np.maximum(self.positions - self.count, 1.0)[:, None]
        both = (self.count > 0) & (self.count < self.positions)
        return np.where(both[:, None], self._x_on / on - (self._x - self._x_on) / off, everywhere)

    def joint_signals(self, surplus: Array) -> Array:
        """Return `joint_signals` (I, D), for all but surplus concepts without the surplus ones."""
        with_x, with_z = self._xr, self._zr - np.outer(self._r, self._z) / self.positions
        signals: Array = joint_signals(tf.constant(with_x), tf.constant(with_z)).numpy()
        others = np.setdiff1d(np.arange(len(with_z)), surplus)
        if surplus.size and others.size:
            among = tf.constant(with_z[np.ix_(others, others)])
            signals[others] = joint_signals(tf.constant(with_x[others]), among).numpy()
        return signals

    def absent_levels(self) -> Array:
        """Return m (I,) of centred features; the bias of a concept that is never absent."""
        negatives = self.positions - self.count
        below = (self._z - self._z_on) / np.maximum(negatives, 1.0)
        return self._biases.astype(np.float64) + np.where(negatives > 0, below, 0.0)

    def overlaps(self) -> Array:
        """Return the IoU of the detections of every two concepts, (I, I)."""
        union = self.count[:, None] + self.count - self._both
        return np.divide(self._both, union, out=np.zeros_like(union), where=union > 0)


def estimate_signals(
    pairs: DirectionPairs,
    activations: ArrayLike | ActivationShards,
    estimator: str = "mean-difference",
) -> DirectionPairs:
    """Return pairs with the same filters and biases, and signal vectors of another estimator.

    Parameters
    ----------
    pairs : DirectionPairs
    activations : array-like of shape (N, *spatial, D)
        Or `ActivationShards`.
    estimator : str, default="mean-difference"
        "mean-difference": mean(positives) − mean(negatives), right where detections are, and other
        concepts are about as frequent among positives as elsewhere. "positives", the paper's:
        ∝ cov[x, z_i] over the positives; it wants thousands of them. "joint":
        cov[x, r] cov[z, r]⁻¹ with r = ReLU(z − b), right where features are these concepts and
        independent distractors.

    Returns
    -------
    pairs
        A concept that is detected everywhere or nowhere keeps its signal vector. Filters and signal
        vectors that were not learned together may fit each other badly: look at
        ``condition_number`` before you switch several concepts off at once, and do not use
        ``off="undecided"`` with them.

    Raises
    ------
    TypeError, ValueError
        If there is no such estimator, or the activations are of another layer.
    """
    check_type("pairs", pairs, DirectionPairs, "DirectionPairs")
    check_choice("estimator", estimator, ESTIMATORS)
    features = as_features(activations)
    if features.shape[-1] != pairs.channels:
        raise ValueError(
            f"the pairs are of a layer of {pairs.channels} channels, but the activations have "
            f"{features.shape[-1]}"
        )
    moments = Moments.of(features)
    biases = pairs.biases - pairs.filters.astype(np.float64) @ moments.mean
    measured = measure_pairs(features, moments, pairs.filters, biases, estimator)
    known = (measured.occupancy > 0) & (measured.occupancy < 1)
    signals = np.where(known[:, None], measured.pairs.signals, pairs.signals)
    return replace(pairs, signals=signals)
