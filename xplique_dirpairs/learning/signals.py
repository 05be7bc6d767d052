"""Signal vectors from labels or detections; the estimators of the encoding direction.

Features are any coordinates x (P, A); results are directions there, not normalised.
"""

from __future__ import annotations

import tensorflow as tf


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
    count = tf.reduce_sum(positive, axis=-2, keepdims=True) + 1e-6
    centred = positive * (z - tf.reduce_sum(positive * z, axis=-2, keepdims=True) / count)
    return tf.matmul(centred / count, x, transpose_a=True)


def mean_difference(x: tf.Tensor, positive: tf.Tensor) -> tf.Tensor:
    """mean(positives) − mean(negatives), (..., I, A) [Pahde et al. 2024].

    With ground-truth labels (..., P, I) this is the Pattern-CAV; with detections, an estimator of
    the signal vector.
    """
    return _masked_mean(x, positive) - _masked_mean(x, 1.0 - positive)


def _masked_mean(x: tf.Tensor, mask: tf.Tensor) -> tf.Tensor:
    count = tf.reduce_sum(mask, axis=-2)[..., None] + 1e-6
    return tf.matmul(mask, x, transpose_a=True) / count
