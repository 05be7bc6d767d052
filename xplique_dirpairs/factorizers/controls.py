"""Baselines for other extractors: random directions, and direction pairs without learning."""

from __future__ import annotations

import os

import numpy as np
from numpy.typing import ArrayLike
from sklearn.cluster import MiniBatchKMeans

from xplique_dirpairs.core.batching import as_positions
from xplique_dirpairs.core.linear_algebra import unit_rows
from xplique_dirpairs.core.types import Array
from xplique_dirpairs.core.validation import check_activations, check_integer
from xplique_dirpairs.factorizers.base import LinearFactorizer, check_enough, check_flat
from xplique_dirpairs.factorizers.direction_pairs import DirectionPairsFactorizer
from xplique_dirpairs.learning.coordinates import Moments, whitened
from xplique_dirpairs.learning.signals import measure_pairs
from xplique_dirpairs.learning.starts import positions_for, random_filters
from xplique_dirpairs.models.head import Head
from xplique_dirpairs.pairs import Off


class RandomFactorizer(LinearFactorizer):
    """Random directions, the lowest baseline for other extractors.

    The I directions in D channels are orthonormal with uniformly random orientation; if I > D, they
    are drawn independently from the unit sphere. They are the rows of the concept bank B.
    Coefficients u of features x are signed: the least-squares solution of x − mean ≈ u B, of
    several solutions that of smallest norm. Decoding gives u B + mean.

    Parameters
    ----------
    number_of_concepts : int, default=20
        Number of concepts, I. It may exceed the number of channels.
    random_state : int, optional
        Seed of the directions. None draws a seed.
    """

    def _learn(self, x: Array) -> tuple[Array, Array]:
        rng = np.random.default_rng(self.random_state)
        bank = unit_rows(random_filters(x, self.number_of_concepts, rng))
        self.filters_ = np.linalg.pinv(bank).T.astype(np.float32)
        return bank, x.mean(axis=0, dtype=np.float64)


class NoLearningFactorizer(DirectionPairsFactorizer):
    """Direction pairs from a clustering, a baseline for learned direction pairs.

    K-Means clusters the features along their leading principal axes, each scaled to unit variance.
    The filter of each of the I concepts points to a centroid; if there are at most as many concepts
    as axes, filters are made orthogonal. Its bias lets the concept be detected on a share 1/I of
    the positions. Signal vectors are estimated once from these detections, as `estimate_signals`
    does with "joint". No loss is minimised, and the network is not used. Coefficients, concept bank
    and detections are computed from the pairs as in `DirectionPairsFactorizer`.

    Parameters
    ----------
    number_of_concepts : int, default=20
        Number of concepts, I. It may exceed the number of channels.
    off : {"absent", "undecided"}, default="absent"
        What a coefficient of 0 means. "absent": the projection on the concept's filter is at most
        its mean over the positions where the concept is not detected. "undecided": if all
        coefficients are 0, every projection is at its concept's bias.
    random_state : int, optional
        Seed of the clustering. None draws a seed.

    Attributes
    ----------
    pairs_ : DirectionPairs
        The pairs.
    history_ : None
        Always None, because nothing is learned.
    """

    def __init__(
        self,
        number_of_concepts: int = 20,
        *,
        off: Off = "absent",
        random_state: int | None = None,
    ):
        super().__init__(number_of_concepts, off=off, random_state=random_state)

    def fit_maps(
        self,
        activations: Array,
        head: Head | None,
        *,
        resume: str | os.PathLike[str] | None = None,
    ) -> NoLearningFactorizer:
        """Compute the pairs from activations whose spatial shape is known.

        Parameters
        ----------
        activations : ndarray of shape (N, *spatial, D)
            Features of N images with D channels; ``*spatial`` is (H, W) for maps, (T,) for tokens,
            and empty for vectors.
        head : Head or None
            Ignored, because the network is not used.
        resume : str or os.PathLike, optional
            Ignored, because there are no states to save.

        Returns
        -------
        self : NoLearningFactorizer
            The fitted factorizer.

        Raises
        ------
        ValueError
            If the activations are not finite, or have fewer positions than there are concepts; or
            if ``off`` is not one of its values.
        """
        self._check_off()
        concepts = self.number_of_concepts
        check_integer("number_of_concepts", concepts)
        x = as_positions(check_activations(activations))
        moments = Moments.of(x)
        rng = np.random.default_rng(self.random_state)
        coordinates = whitened(moments, concepts)
        seen = rng.permutation(len(x))[: positions_for(concepts)]
        filters, biases = clustered_detectors(coordinates.features(x[seen]), concepts, rng)
        measured = measure_pairs(
            x, moments, coordinates.filters_to_raw(filters), biases, "joint", coordinates
        )
        self.pairs_, self.history_ = measured.pairs, None
        return self

    def encode(self, activations: ArrayLike) -> Array:
        """Compute the coefficients of the concepts at every position.

        Parameters
        ----------
        activations : array-like of shape (P, D)
            Features at P positions with D channels.

        Returns
        -------
        coefficients : ndarray of shape (P, I)
            Coefficients of I concepts.

        Raises
        ------
        NotFittedError
            If the factorizer is not fitted.
        ValueError
            If the activations are not flat and finite, or do not have the channels of `fit`.
        """
        return super().encode(check_flat(activations, self._fitted().channels))


def clustered_detectors(x: Array, concepts: int, rng: np.random.Generator) -> tuple[Array, Array]:
    """Compute detectors from a K-Means clustering of whitened features.

    Each filter points to a centroid. If I ≤ A, filters are symmetrically orthogonalised. Each
    detector fires at 1/I of the positions (at half of them if I = 1).

    Parameters
    ----------
    x : ndarray of shape (P, A)
        Whitened features, with A axes.
    concepts : int
        Number of concepts, I.
    rng : numpy.random.Generator
        Source of the seed of the clustering.

    Returns
    -------
    filters : ndarray of shape (I, A)
        Filters, with rows of unit length.
    biases : ndarray of shape (I,)
        Biases.

    Raises
    ------
    ValueError
        If there are fewer positions than concepts.
    """
    check_enough(len(x), concepts)
    clustering = MiniBatchKMeans(concepts, n_init=4, random_state=int(rng.integers(2**31)))
    filters = unit_rows(clustering.fit(x).cluster_centers_.astype(np.float64))
    if concepts == 1:  # the only centroid is the mean, which is zero, so the first axis is used
        filters = np.eye(1, x.shape[1])
    if concepts <= x.shape[1]:
        left, _, right = np.linalg.svd(filters, full_matrices=False)
        filters = left @ right
    z = x @ filters.T.astype(np.float32)
    return filters, np.quantile(z, 1.0 - 1.0 / max(concepts, 2), axis=0)
