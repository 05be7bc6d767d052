"""Estimators of signal vectors, and the completion of detectors to direction pairs.

The estimators of a training step take features in any coordinates, x of shape (P, A), and return
directions in these coordinates, not normalised. `measure_pairs` reads all positions once and
completes detectors to direction pairs.
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
from xplique_dirpairs.learning.coordinates import Coordinates, Moments
from xplique_dirpairs.learning.features import as_features
from xplique_dirpairs.pairs import DirectionPairs

#: A function that averages a tensor, or several at once, over the replicas that share a batch.
Average: TypeAlias = Callable[[Any], Any]
#: Names of the estimators.
ESTIMATORS = ("mean-difference", "regression", "positives", "joint")
#: Slope of the rectified excess where a concept is not detected.
_SLOPE = 0.01
#: Ridge of the pseudo-inverses, for filters and signal vectors of unit length [ours].
RIDGE = 1e-4
#: Further ridge, as a share of the trace of GᵀG (see `damped_inverse`).
ROUNDING = 3e-7


# ------------------------------------------------------------------ estimators of a step


def positives_covariance(
    x: tf.Tensor, z: tf.Tensor, positive: tf.Tensor, average: Average = lambda sums: sums
) -> tf.Tensor:
    """Compute ŝ_i ∝ cov[x, z_i] over each concept's positives [paper; after Haufe et al. 2014].

    Parameters
    ----------
    x : tensor of shape (P, A)
        Features, in any coordinates.
    z : tensor of shape (..., P, I)
        Projections.
    positive : tensor of shape (..., P, I)
        1 where the concept is detected, 0 otherwise.
    average : callable, default=identity
        Averages over the replicas that share a batch; the identity by default.

    Returns
    -------
    covariance : tensor of shape (..., I, A)
        Positive multiples of the signal vectors; zero for a concept without positives. Gradients
        flow through ``z``.
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
    """Compute cov[r_i, x], an input of `joint_signals` that may be averaged over minibatches.

    Parameters
    ----------
    x : tensor of shape (P, A)
        Features.
    excess : tensor of shape (..., P, I)
        z − b, by how much projections exceed the detectors' thresholds; r is `rectified` of it.
    average : callable, default=identity
        Averages over the replicas that share a batch; the identity by default.

    Returns
    -------
    covariance : tensor of shape (..., I, A)
        Its product with W is cov[r_i, z_j], without another sum over the positions.
    """
    r = rectified(excess)
    r -= average(tf.reduce_mean(r, axis=-2, keepdims=True))
    return average(tf.matmul(r, x, transpose_a=True) / tf.cast(tf.shape(r)[-2], r.dtype))


def rectified(excess: tf.Tensor) -> tf.Tensor:
    """Compute r = ReLU(z − b), with a slope of 0.01 for negative values.

    Because of the slope, r is not constant for a concept without positives.

    Parameters
    ----------
    excess : tensor of shape (..., P, I)
        z − b.

    Returns
    -------
    r : tensor of shape (..., P, I)
    """
    return tf.nn.leaky_relu(excess, _SLOPE)


def joint_signals(with_features: tf.Tensor, with_projections: tf.Tensor) -> tf.Tensor:
    """Compute all signal vectors at once, as the columns of cov[x, r] cov[z, r]⁻¹ [ours].

    This is a regression of x on the projections z of all concepts, with the rectified excess r as
    the instrument. The share of one concept in x is therefore not attributed to a concept that is
    often absent where the first is present, and the part of the distractors that passes the filters
    is not attributed to any concept. WᵀŜ = 1: switching one concept off moves no other concept.

    Parameters
    ----------
    with_features : tensor of shape (..., I, A)
        cov[r_i, x], from `excess_covariance`.
    with_projections : tensor of shape (..., I, I)
        cov[r_i, z_j], the product of ``with_features`` and W.

    Returns
    -------
    signals : tensor of shape (..., I, A)
        Not normalised.
    """
    scale = tf.sqrt(tf.maximum(tf.linalg.diag_part(with_projections), 1e-12))[..., None]
    gains = with_projections / scale / tf.linalg.matrix_transpose(scale)
    return tf.matmul(damped_inverse(gains), with_features / scale) / scale


def mean_difference(x: tf.Tensor, positive: tf.Tensor) -> tf.Tensor:
    """Compute mean(positives) − mean(negatives) of each concept [Pahde et al. 2024].

    With ground-truth labels this is the Pattern-CAV; with detections it is an estimator of the
    signal vector.

    Parameters
    ----------
    x : tensor of shape (P, A)
        Features, in any coordinates.
    positive : tensor of shape (..., P, I)
        1 for positives, 0 for negatives.

    Returns
    -------
    difference : tensor of shape (..., I, A)
    """
    return _masked_mean(x, positive) - _masked_mean(x, 1.0 - positive)


def _masked_mean(x: tf.Tensor, mask: tf.Tensor) -> tf.Tensor:
    """Return the means (..., I, A) of x (P, A) where a mask (..., P, I) is 1."""
    count = tf.reduce_sum(mask, axis=-2)[..., None] + 1e-6
    return tf.matmul(mask, x, transpose_a=True) / count


def damped_inverse(gram: tf.Tensor) -> tf.Tensor:
    """Compute (GᵀG + ridge)⁻¹Gᵀ of square matrices by a Cholesky decomposition.

    Parameters
    ----------
    gram : tensor of shape (..., I, I)
        G.

    Returns
    -------
    inverse : tensor of shape (..., I, I)
    """
    normal = tf.matmul(gram, gram, transpose_a=True)
    # Where hundreds of filters coincide, the rounding errors of GᵀG in float32 exceed RIDGE.
    ridge = RIDGE + ROUNDING * tf.linalg.trace(normal)[..., None, None]
    ridge *= tf.eye(gram.shape[-1], dtype=gram.dtype)
    return _solve(normal + ridge, tf.linalg.matrix_transpose(gram))


@tf.custom_gradient
def _solve(normal: tf.Tensor, right: tf.Tensor) -> tuple[tf.Tensor, Any]:
    """Return X = N⁻¹B for a positive definite N (..., I, I) and B (..., I, I).

    The gradient uses the same Cholesky factor again: Y = N⁻¹ ∂X, ∂N = −Y Xᵀ, ∂B = Y.
    Differentiating the decomposition takes longer and is numerically less stable.
    """
    factor = tf.linalg.cholesky(normal)
    solved = tf.linalg.cholesky_solve(factor, right)

    def gradient(of_solved: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        of_right = tf.linalg.cholesky_solve(factor, of_solved)
        return -tf.matmul(of_right, solved, transpose_b=True), of_right

    return solved, gradient


# ------------------------------------------------------------------ completing detectors to pairs


@dataclass(frozen=True)
class MeasuredPairs:
    """Direction pairs, and statistics of their detections on the features they are measured on.

    Attributes
    ----------
    pairs : DirectionPairs
    occupancy : ndarray of shape (I,)
        Share of the positions on which each concept is detected.
    overlaps : ndarray of shape (I, I)
        IoU of the detections of every two concepts.
    surplus : list of int
        Concepts that are detected too rarely, see `measure_pairs`.
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
    """Complete detectors to direction pairs, with signal vectors and absent levels.

    The absent level m_i is the mean of z_i over the negatives of concept i.

    Parameters
    ----------
    features : ndarray of shape (P, D) or Features
        Or any object with a method ``blocks()`` that yields positions (n, D).
    moments : Moments
        Moments of ``features``.
    filters : ndarray of shape (I, D)
    biases : ndarray of shape (I,)
        Thresholds of wᵀ(x − E[x]), for centred features.
    signals : ndarray of shape (I, D) or str, default="positives"
        Signal vectors, or how they are estimated. Rows of zeros, of concepts that are never
        detected, are replaced by cov[x, z_i]. ``"positives"``: ŝ_i ∝ cov[x, z_i] over the
        positives of concept i, or over all positions if there are too few positives; ``"joint"``:
        `joint_signals`; ``"mean-difference"``: mean(positives) − mean(negatives);
        ``"regression"``: linear regression of x on the amounts z − m of all detected concepts.
    coordinates : Coordinates, optional
        Coordinates that the detectors were learned in. Estimated signal vectors keep only their
        part along the axes of these coordinates, as in learning: the rest is estimation noise.
        None: they are kept as they are.
    least_share : float, default=0.0
        Concepts that are detected on less than ``least_share / I`` of the positions are surplus.
        They are left out of the "joint" estimate of the other concepts, because a filter that
        stands for no concept, but is correlated with some, would distort their signal vectors.

    Returns
    -------
    measured : MeasuredPairs
    """
    filters = filters.astype(np.float64)
    of_amounts = isinstance(signals, str) and signals == "regression"
    sums = _Sums(filters, biases, moments.mean, of_amounts)
    for block in iter_blocks(features):
        sums.add(block)
    surplus = np.flatnonzero(sums.count < least_share / len(filters) * sums.positions)
    if isinstance(signals, str):
        if signals == "joint":
            signals = sums.joint_signals(surplus)
        elif signals == "mean-difference":
            signals = sums.mean_difference(everywhere=filters @ moments.covariance)
        elif signals == "regression":
            signals = sums.regression(everywhere=filters @ moments.covariance)
        else:
            signals = sums.positives_covariance(everywhere=filters @ moments.covariance)
        if coordinates is not None:
            signals = coordinates.signals_to_raw(coordinates.signals_from_raw(signals))
    missing = np.linalg.norm(signals, axis=1) == 0
    signals = np.where(missing[:, None], filters @ moments.covariance, signals)
    at_mean = filters @ moments.mean
    absent = sums.absent_levels() + at_mean
    pairs = DirectionPairs(filters, biases + at_mean, signals, moments.mean, absent)
    return MeasuredPairs(pairs, sums.count / sums.positions, sums.overlaps(), surplus.tolist())


class _Sums:
    """Sums over positions in float64, of centred features x and z = Wᵀx − b."""

    def __init__(self, filters: Array, biases: Array, mean: Array, of_amounts: bool = False):
        concepts, channels = filters.shape
        self._filters, self._biases = filters.astype(np.float32), biases.astype(np.float32)
        self._mean = mean.astype(np.float32)
        self.positions = 0
        self.count = np.zeros(concepts)
        self._both = np.zeros((concepts, concepts))
        self._of_amounts = of_amounts
        self._z_with_z, self._on_with_z = np.zeros((2, concepts, concepts))
        # Sums over all positions, over positives ("on"), and weighted by the rectified excess r.
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
        if self._of_amounts:
            self._z_with_z += z_on.T @ z_on
            self._on_with_z += on.T @ z_on
        self._z += z.sum(axis=0, dtype=np.float64)
        self._z_on += z_on.sum(axis=0, dtype=np.float64)
        self._r += r.sum(axis=0, dtype=np.float64)
        self._x += x.sum(axis=0, dtype=np.float64)
        self._x_on += on.T @ x
        self._xz_on += z_on.T @ x
        self._xr += r.T @ x
        self._zr += r.T @ z

    def positives_covariance(self, everywhere: Array) -> Array:
        """Return cov[x, z_i] over positives, (I, D); rows of ``everywhere`` if these are few."""
        positives = np.maximum(self.count, 1.0)[:, None]
        mean_z = self._z_on[:, None] / positives
        covariance = self._xz_on / positives - mean_z * (self._x_on / positives)
        too_few = (self.count < 3) | (np.linalg.norm(covariance, axis=1) < 1e-12)
        return np.where(too_few[:, None], everywhere, covariance)

    def mean_difference(self, everywhere: Array) -> Array:
        """Return the mean difference (I, D), or the row of ``everywhere`` if it is undefined."""
        on = np.maximum(self.count, 1.0)[:, None]
        off = np.maximum(self.positions - self.count, 1.0)[:, None]
        both = (self.count > 0) & (self.count < self.positions)
        return np.where(both[:, None], self._x_on / on - (self._x - self._x_on) / off, everywhere)

    def regression(self, everywhere: Array) -> Array:
        """Return the coefficients (I, D) of a regression of x on the amounts of all concepts.

        The amount is z − m where a concept is detected, 0 elsewhere. A concept without detections
        has its row of ``everywhere``.
        """
        # z counts from the biases: an amount is z + gap where a concept is detected.
        gap = self._biases.astype(np.float64) - self.absent_levels()
        mixed = gap[:, None] * self._on_with_z
        squares = self._z_with_z + mixed + mixed.T + np.outer(gap, gap) * self._both
        total = self._z_on + gap * self.count
        covariance = squares - np.outer(total, total) / self.positions
        with_x = self._xz_on + gap[:, None] * self._x_on
        with_x = with_x - np.outer(total, self._x) / self.positions
        return _regression(covariance, with_x, everywhere)

    def joint_signals(self, surplus: Array) -> Array:
        """Return `joint_signals` (I, D); surplus concepts do not enter those of the others."""
        with_x, with_z = self._xr, self._zr - np.outer(self._r, self._z) / self.positions
        signals: Array = joint_signals(tf.constant(with_x), tf.constant(with_z)).numpy()
        others = np.setdiff1d(np.arange(len(with_z)), surplus)
        if surplus.size and others.size:
            among = tf.constant(with_z[np.ix_(others, others)])
            signals[others] = joint_signals(tf.constant(with_x[others]), among).numpy()
        return signals

    def absent_levels(self) -> Array:
        """Return m (I,) for centred features: the mean of Wᵀx over negatives, or else the bias."""
        negatives = self.positions - self.count
        below = (self._z - self._z_on) / np.maximum(negatives, 1.0)
        return self._biases.astype(np.float64) + np.where(negatives > 0, below, 0.0)

    def overlaps(self) -> Array:
        """Return the IoU of the detections of every two concepts, (I, I)."""
        union = self.count[:, None] + self.count - self._both
        return np.divide(self._both, union, out=np.zeros_like(union), where=union > 0)


def regression(amounts: Array, features: Array) -> Array:
    """Return the coefficients (I, D) of a regression of features (P, D) on amounts (P, I).

    Those of a constant amount are 0.
    """
    centred = (amounts - amounts.mean(axis=0)).astype(np.float32)
    with_x = (centred.T @ features).astype(np.float64)
    covariance = (centred.T @ centred).astype(np.float64)
    return _regression(covariance, with_x, np.zeros_like(with_x)).astype(np.float32)


def _regression(covariance: Array, with_x: Array, otherwise: Array) -> Array:
    """Return the coefficients (I, D) of a ridge regression on standardised amounts.

    Parameters
    ----------
    covariance : ndarray of shape (I, I)
        Of the amounts, times any factor.
    with_x : ndarray of shape (I, D)
        Their covariance with the features, times the same factor.
    otherwise : ndarray of shape (I, D)
        Coefficients of amounts that are constant.
    """
    scale = np.sqrt(covariance.diagonal())
    known = np.flatnonzero(np.nan_to_num(scale) > 0)
    scale = scale[known]
    correlations = covariance[np.ix_(known, known)] / np.outer(scale, scale)
    correlations += RIDGE * np.eye(len(known))
    signals = np.array(otherwise)
    solved = np.linalg.solve(correlations, with_x[known] / scale[:, None])
    signals[known] = solved / scale[:, None]
    return signals


def estimate_signals(
    pairs: DirectionPairs,
    activations: ArrayLike | ActivationShards,
    estimator: str = "mean-difference",
) -> DirectionPairs:
    """Estimate the signal vectors of direction pairs anew, with the same filters and biases.

    For features x at a position, concept i has the projection z_i = wᵢᵀx on its filter w_i. The
    position is a positive of the concept if z_i is above the concept's bias b_i, else a negative.

    Parameters
    ----------
    pairs : DirectionPairs
        Pairs whose detections are used.
    activations : array-like of shape (N, *spatial, D) or ActivationShards
        Activations of N images at the layer of the pairs, with D channels: ``*spatial`` is (H, W)
        for feature maps, (T,) for T tokens, and empty for vectors.
    estimator : {"mean-difference", "regression", "positives", "joint"}, default="mean-difference"
        How the signal vector ŝ_i of concept i is computed.
        "mean-difference" (Pattern-CAV, Pahde et al. 2024): mean(positives) − mean(negatives). It is
        correct if the detections are correct, and other concepts are about as frequent among
        positives as among negatives.
        "regression" (not from a paper): linear regression of x on the amounts of all concepts. The
        amount of concept i is 0 at its negatives; at its positives it is z_i minus the mean of z_i
        over the negatives. It is correct if the detections are correct, also where concepts come
        together.
        "positives" (Doumanoglou et al., arXiv 2509.23926): covariance of x and z_i over the
        positives. It needs thousands of positives.
        "joint" (not from a paper): all signal vectors at once, as the columns of
        cov[x, r] cov[z, r]⁻¹ with r_i = ReLU(z_i − b_i). It is correct if the features consist of
        these concepts and of distractors, other variation that is independent of them.

    Returns
    -------
    pairs : DirectionPairs
        New pairs, with signal vectors of unit length. A concept that is detected everywhere or
        nowhere keeps its signal vector. Filters and signal vectors that were not learned together
        may fit each other badly: check that the pairs' ``condition_number`` is below about 30
        before you switch off several concepts at once, and leave the option ``off`` of the pairs'
        methods at its default.

    Raises
    ------
    TypeError
        If ``pairs`` is not a `DirectionPairs`.
    ValueError
        If there is no such estimator, or if the activations are not finite or have another number
        of channels than the pairs.
    """
    check_type("pairs", pairs, DirectionPairs, "DirectionPairs")
    check_choice("estimator", estimator, ESTIMATORS)
    features = as_features(activations)
    if features.shape[-1] != pairs.channels:
        raise ValueError(
            f"the pairs are of a layer of {pairs.channels} channels, but the activations have "
            f"{features.shape[-1]}: give activations of the layer of the pairs"
        )
    moments = Moments.of(features)
    biases = pairs.biases - pairs.filters.astype(np.float64) @ moments.mean
    measured = measure_pairs(features, moments, pairs.filters, biases, estimator)
    known = (measured.occupancy > 0) & (measured.occupancy < 1)
    signals = np.where(known[:, None], measured.pairs.signals, pairs.signals)
    return replace(pairs, signals=signals)
