"""Decompositions of centred features: PCA, FastICA and K-Means.

``constant_`` is the mean of the features: with every concept switched off, features are the mean.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import tensorflow as tf
from sklearn.cluster import KMeans
from sklearn.decomposition import FastICA
from sklearn.metrics import pairwise_distances_argmin

from xplique_dirpairs.core.linear_algebra import largest_entry_signs, principal_axes, unit_rows
from xplique_dirpairs.core.types import Array
from xplique_dirpairs.factorizers.base import (
    AffineFactorizer,
    IterativeFactorizer,
    LinearFactorizer,
)
from xplique_dirpairs.learning.coordinates import Moments, signal_axes
from xplique_dirpairs.learning.features import Features, sample_of

#: Number of positions of shards that K-Means is started from.
_START_SAMPLE = 20_000


@dataclass(eq=False, repr=False, kw_only=True)
class PCAFactorizer(LinearFactorizer):
    """Principal components (Pearson 1901): orthonormal axes of largest variance.

    With the I axes as rows of V, features x have coefficients u = (x − mean) Vᵀ and are
    reconstructed as u V + mean. Of all affine maps to I dimensions and back, this one loses the
    least variance. Coefficients are signed: a component is one concept and is not split into a
    positive and a negative one. If all coefficients are 0, features are the mean. By convention,
    the largest entry of an axis (in absolute value) is positive.

    Parameters
    ----------
    number_of_concepts : int, default=20
        Number of concepts, I, at most the number of channels.
    random_state : int, optional
        Ignored, because the result is exact. Present so that all factorizers have this parameter.
    """

    def _learn(self, x: Array | Features) -> tuple[Array, Array]:
        if self.number_of_concepts > x.shape[-1]:
            raise _too_many(self, x.shape[-1])
        moments = Moments.of(x)
        axes = principal_axes(moments.covariance)[0][: self.number_of_concepts]
        bank = axes * largest_entry_signs(axes)
        self.filters_ = bank.astype(np.float32)
        return bank, moments.mean

    def _learn_from_shards(self, features: Features) -> tuple[Array, Array]:
        return self._learn(features)  # which needs sums over the positions only


@dataclass(eq=False, repr=False, kw_only=True)
class FastICAFactorizer(LinearFactorizer, IterativeFactorizer):
    """Independent components (Hyvärinen & Oja 2000), by scikit-learn's symmetric FastICA.

    The features x are first projected on I principal axes and scaled to unit variance along them.
    In x − mean ≈ A s, with independent components s, the columns of the mixing matrix A are
    encoding directions, and the rows of the unmixing matrix A⁺ are decoding directions. Columns of
    A are scaled to unit length, so that the coefficients s have the units of the features.
    Coefficients are signed, and all 0 where features are the mean.
    By convention, the largest entry of an encoding direction (in absolute value) is positive.

    Parameters
    ----------
    number_of_concepts : int, default=20
        Number of concepts, I, at most the number of axes along which the features vary (with a
        standard deviation above a thousandth of the largest).
    fun : {"logcosh", "exp", "cube"}, default="logcosh"
        Contrast function by which independence is measured, as in
        `sklearn.decomposition.FastICA`.
    tol : float, default=1e-4
        The fit has converged when 1 − |cosine| between each row of the unmixing matrix and the same
        row in the previous iteration is at most this.
    max_iter : int, default=1000
        Largest number of iterations. If the fit has not converged by then, a warning is issued.
    random_state : int, optional
        Seed of the initial unmixing matrix. None draws a seed.

    Attributes
    ----------
    converged_ : bool
        Whether the fit has converged.
    n_iter_ : int
        Number of iterations.
    """

    fun: str = "logcosh"

    def _learn(self, x: Array) -> tuple[Array, Array]:
        moments = Moments.of(x)
        axes, deviations = signal_axes(moments, self.number_of_concepts)
        if len(axes) < self.number_of_concepts:
            raise _too_many(self, len(axes))
        axes = axes[: self.number_of_concepts]
        deviations = deviations[: self.number_of_concepts, None]
        centred = x - moments.mean.astype(np.float32)
        whitened = centred @ (axes / deviations).T.astype(np.float32)
        ica = FastICA(whiten=False, fun=self.fun)
        self._fit_model(ica, whitened.astype(np.float64))
        # The unmixing matrix of whitened features is a rotation, so its inverse is its transpose.
        mixing = ica.components_ @ (axes * deviations)
        bank, lengths = unit_rows(mixing), np.linalg.norm(mixing, axis=1, keepdims=True)
        signs = largest_entry_signs(bank)
        filters = ica.components_ @ (axes / deviations)
        self.filters_ = (filters * lengths * signs).astype(np.float32)
        return bank * signs, moments.mean


@dataclass(eq=False, repr=False, kw_only=True)
class KMeansFactorizer(IterativeFactorizer):
    """K-Means (Lloyd 1982): a concept is a cluster, its coefficient 1 in the cluster and 0 outside.

    Features are reconstructed as the nearest centroid, mean + Σ_i u_i (centroid_i − mean) with the
    coefficients u_i: the rows of the concept bank are *centroid − mean*, not normalised, and the
    constant is the mean. With centroids as rows and no constant, decoding would be the same, but
    switching a concept off would move features to the origin, which is far outside the data. Here
    it moves them to the mean.

    ``decoding_directions`` is None, because the nearest centroid is not found by linear filters.
    The gradient of the coefficients with respect to the features is zero.

    Parameters
    ----------
    number_of_concepts : int, default=20
        Number of concepts, I.
    n_init : int, default=4
        Number of clusterings from different initialisations (k-means++). The one with the smallest
        squared distances to the centroids is kept.
    tol : float, default=1e-4
        The fit has converged when the squared distances that the centroids move sum to at most this
        share of the channels' mean variance, as in `sklearn.cluster.KMeans`.
    max_iter : int, default=300
        Largest number of iterations. If the fit has not converged by then, a warning is issued.
        If `fit` is given shards, a sample of 20,000 positions is clustered first, and each
        iteration after that reads all files.
    random_state : int, optional
        Seed of the initialisations. None draws a seed.

    Attributes
    ----------
    converged_ : bool
        Whether the best clustering has converged.
    n_iter_ : int
        Number of iterations of the best clustering.
    """

    max_iter: int = 300
    n_init: int = 4

    def _learn(self, x: Array) -> tuple[Array, Array]:
        model = KMeans(self.number_of_concepts, n_init=self.n_init)
        mean = x.mean(axis=0, dtype=np.float64)
        self._fit_model(model, x - mean.astype(np.float32))
        return model.cluster_centers_, mean

    def _learn_from_shards(self, features: Features) -> tuple[Array, Array]:
        """Cluster a sample; then move the centroids by Lloyd's iterations, each a pass."""
        moments = Moments.of(features)
        mean = moments.mean.astype(np.float32)
        enough = self.tol * moments.covariance.diagonal().mean()
        rng = np.random.default_rng(self.random_state)
        model = KMeans(self.number_of_concepts, n_init=self.n_init, random_state=self.random_state)
        centroids = model.fit(sample_of(features, _START_SAMPLE, rng) - mean).cluster_centers_
        moved, passes = np.inf, 0
        while moved > enough and passes < self.max_iter:
            sums, counts = np.zeros(centroids.shape), np.zeros(len(centroids))
            for block in features.blocks():
                x = block - mean
                labels = pairwise_distances_argmin(x, centroids)
                np.add.at(sums, labels, x)
                counts += np.bincount(labels, minlength=len(centroids))
            filled = counts[:, None] > 0
            means = np.where(filled, sums / np.maximum(counts, 1)[:, None], centroids)
            moved = float(np.square(means - centroids).sum())
            centroids, passes = means.astype(np.float32), passes + 1
        self._finish(passes, moved <= enough)
        return centroids, moments.mean

    def _read(self, x: tf.Tensor) -> tf.Tensor:
        bank = tf.constant(self.bank_, x.dtype)
        # This is −½‖x − c‖², except for a term that is the same for all centroids.
        nearness = tf.matmul(self._centred(x), bank, transpose_b=True)
        nearness -= 0.5 * tf.reduce_sum(tf.square(bank), axis=1)
        return tf.one_hot(tf.argmax(nearness, axis=1), len(self.bank_), dtype=x.dtype)


def _too_many(factorizer: AffineFactorizer, limit: int) -> ValueError:
    return ValueError(
        f"number_of_concepts of {type(factorizer).__name__} must be at most {limit}, the number of "
        f"axes along which these activations vary, not {factorizer.number_of_concepts}"
    )
