"""Signal vectors from labels or detections; the estimators of the encoding direction.

Features are any coordinates x (P, A); results are directions there, not normalised. Where replicas
share a batch, the estimates of the training step are those of the whole batch.
"""

from __future__ import annotations

import tensorflow as tf

from xplique_dirpairs.data.devices import average
from xplique_dirpairs.learning.uncertainty import damped_inverse

#: Slope of the rectified excess where a concept is not detected.
_SLOPE = 0.01


def positives_covariance(x: tf.Tensor, z: tf.Tensor, positive: tf.Tensor) -> tf.Tensor:
    """ŝ_i ∝ cov[x, z_i] over the concept's positives [paper, section 3; after Haufe et al. 2014].

    Parameters
    ----------
    x : (P, A)
        Features, in any coordinates.
    z : (..., P, I)
        Projections.
    positive : (..., P, I)
        1 where the concept is detected, 0 elsewhere.

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


def excess_covariance(x: tf.Tensor, excess: tf.Tensor) -> tf.Tensor:
    """cov[r_i, x], what `joint_signals` needs, and what minibatches average.

    Parameters
    ----------
    x : (P, A)
        Features.
    excess : (..., P, I)
        z − b: how far projections exceed the detectors' hyperplanes; r is `rectified` of it.

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
    """All signal vectors at once, (..., I, A): columns of cov[x, r] cov[z, r]⁻¹ [ours].

    x is regressed on all projections z together, with the rectified excess r over the hyperplanes
    as instrument: a positive concept's share in x is not put down to another one that is absent
    more often, and what the filters let through of distractors is not put down to any. WᵀŜ = 1:
    a concept is switched off without moving another one.

    Parameters
    ----------
    with_features, with_projections
        From `excess_covariance`, the second times W.
    """
    scale = tf.sqrt(tf.maximum(tf.linalg.diag_part(with_projections), 1e-12))[..., None]
    gains = with_projections / scale / tf.linalg.matrix_transpose(scale)
    return tf.matmul(damped_inverse(gains), with_features / scale) / scale


def mean_difference(x: tf.Tensor, positive: tf.Tensor) -> tf.Tensor:
    """mean(positives) − mean(negatives), (..., I, A) [Pahde et al. 2024].

    With ground-truth labels (..., P, I) this is the Pattern-CAV; with detections, an estimator of
    the signal vector.
    """
    return _masked_mean(x, positive) - _masked_mean(x, 1.0 - positive)


def _masked_mean(x: tf.Tensor, mask: tf.Tensor) -> tf.Tensor:
    count = tf.reduce_sum(mask, axis=-2)[..., None] + 1e-6
    return tf.matmul(mask, x, transpose_a=True) / count
