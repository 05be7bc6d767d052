"""Decompositions about the mean of the features: PCA, FastICA, K-Means.

In all of them ``constant_`` is the mean: with every concept off, the features are average ones.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import tensorflow as tf
from sklearn.cluster import KMeans
from sklearn.decomposition import FastICA

from xplique_dirpairs.core.linear_algebra import largest_entry_signs, principal_axes, unit_rows
from xplique_dirpairs.core.types import Array
from xplique_dirpairs.factorizers.base import (
    AffineFactorizer,
    IterativeFactorizer,
    LinearFactorizer,
)
from xplique_dirpairs.learning.features import Moments, signal_axes


@dataclass(eq=False, repr=False, kw_only=True)
class PCAFactorizer(LinearFactorizer):
    """Principal components (Pearson 1901): orthonormal axes of largest variance.

    A component both reads and writes: u = (x − mean) Vᵀ, x̂ = u V + mean, which of all affine maps
    to I dimensions and back loses least. Coefficients keep their sign: a component is one concept,
    not split into its two ends; "off" is the mean. Which end is positive is a convention: the
    largest loading.

    Parameters
    ----------
    number_of_concepts : int, default=20
        I, at most D.
    random_state : int, optional
        Without effect: the result is exact. Present so that all factorizers are made alike.
    """

    def _learn(self, x: Array) -> tuple[Array, Array]:
        if self.number_of_concepts > x.shape[1]:
            raise _too_many(self, x.shape[1])
        moments = Moments.of(x)
        axes = principal_axes(moments.covariance)[0][: self.number_of_concepts]
        bank = axes * largest_entry_signs(axes)
        self.filters_ = bank.astype(np.float32)
        return bank, moments.mean


@dataclass(eq=False, repr=False, kw_only=True)
class FastICAFactorizer(LinearFactorizer, IterativeFactorizer):
    """Independent components (Hyvärinen & Oja 2000), by scikit-learn's symmetric FastICA.

    On the first I principal axes, whitened. x − mean = A s: columns of the mixing A are encoding
    directions, rows of the unmixing A⁺ decoding directions. Each column is scaled to unit length,
    and its source with it: a coefficient is in units of the features. Coefficients are signed;
    the largest loading of an encoding direction is positive.

    Parameters
    ----------
    number_of_concepts : int, default=20
        I, at most the number of axes along which the features vary (standard deviation above a
        thousandth of the largest).
    fun : {"logcosh", "exp", "cube"}, default="logcosh"
        Contrast.
    tol : float, default=1e-4
        Converged when no row of the unmixing turns by more in an iteration, as 1 − |cosine|.
    max_iter : int, default=1000
        A fit that has not converged by then warns, and ``converged_`` is False.
    random_state : int, optional
        Seed of the first unmixing.

    Attributes
    ----------
    converged_ : bool
    n_iter_ : int
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
        # The unmixing of whitened features is a rotation: its inverse is its transpose.
        mixing = ica.components_ @ (axes * deviations)
        bank, lengths = unit_rows(mixing), np.linalg.norm(mixing, axis=1, keepdims=True)
        signs = largest_entry_signs(bank)
        filters = ica.components_ @ (axes / deviations)
        self.filters_ = (filters * lengths * signs).astype(np.float32)
        return bank * signs, moments.mean


@dataclass(eq=False, repr=False, kw_only=True)
class KMeansFactorizer(IterativeFactorizer):
    """K-Means (Lloyd 1982): a concept is a cluster, its coefficient 1 in the cluster and 0 outside.

    x̂ = centroid = mean + Σ_i u_i (centroid_i − mean): bank rows are *centroid − mean*, not unit,
    and the constant is the mean. Decoding is the same as with centroids as rows and no constant,
    but switching a concept off is not: from the centroid, features then fall to the average
    feature, not to the origin, which for a cluster is far outside the data.

    There are no decoding directions: the nearest centroid is no linear filter. The coefficients
    have no gradient (zero wherever it exists).

    Parameters
    ----------
    number_of_concepts : int, default=20
        I.
    n_init : int, default=4
        Clusterings from different initialisations (k-means++); the best is kept.
    tol, max_iter : float, int
        As in `sklearn.cluster.KMeans`; a fit that has not converged by then warns, and
        ``converged_`` is False.
    random_state : int, optional
        Seed of the initialisations.

    Attributes
    ----------
    converged_ : bool
    n_iter_ : int
        Of the best clustering.
    """

    max_iter: int = 300
    n_init: int = 4

    def _learn(self, x: Array) -> tuple[Array, Array]:
        model = KMeans(self.number_of_concepts, n_init=self.n_init)
        mean = x.mean(axis=0, dtype=np.float64)
        self._fit_model(model, x - mean.astype(np.float32))
        return model.cluster_centers_, mean

    def _read(self, x: tf.Tensor) -> tf.Tensor:
        bank = tf.constant(self.bank_, x.dtype)
        # ‖x − c‖² up to a factor of −½ and a term that is the same for all centroids
        nearness = tf.matmul(self._centred(x), bank, transpose_b=True)
        nearness -= 0.5 * tf.reduce_sum(tf.square(bank), axis=1)
        return tf.one_hot(tf.argmax(nearness, axis=1), len(self.bank_), dtype=x.dtype)


def _too_many(factorizer: AffineFactorizer, limit: int) -> ValueError:
    return ValueError(
        f"{type(factorizer).__name__} finds at most {limit} concepts in these activations, as many "
        f"as they vary along, not number_of_concepts={factorizer.number_of_concepts}"
    )
