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
from xplique_dirpairs.factorizers.base import LinearFactorizer, check_flat
from xplique_dirpairs.factorizers.direction_pairs import DirectionPairsFactorizer
from xplique_dirpairs.learning.features import Moments, whitened
from xplique_dirpairs.learning.signals import measure_pairs
from xplique_dirpairs.learning.starts import positions_for, random_filters
from xplique_dirpairs.models.head import Head
from xplique_dirpairs.pairs import Off


class RandomFactorizer(LinearFactorizer):
    """Random directions, the lowest baseline.

    Bank rows are orthonormal and of uniformly random orientation; where I > D, independent and of
    unit length. Coefficients are the smallest that fit the features about their mean best (least
    squares): u = (x − mean) B⁺. ``constant_`` is the mean.

    Parameters
    ----------
    number_of_concepts : int, default=20
        I; may exceed the number of channels.
    random_state : int, optional
        Seed of the directions.
    """

    def _learn(self, x: Array) -> tuple[Array, Array]:
        rng = np.random.default_rng(self.random_state)
        bank = unit_rows(random_filters(x, self.number_of_concepts, rng))
        self.filters_ = np.linalg.pinv(bank).T.astype(np.float32)
        return bank, x.mean(axis=0, dtype=np.float64)


class NoLearningFactorizer(DirectionPairsFactorizer):
    """Direction pairs around a clustering, the baseline of the learning.

    Filters and biases are `clustered_detectors`; signal vectors are estimated once, as the default
    recipe estimates them (`learning.signals.joint_signals`). No loss is minimised, and the network
    is not used. Coefficients, bank and detections are those of direction pairs.

    Parameters
    ----------
    number_of_concepts : int, default=20
        I; may exceed the number of channels.
    off : {"absent", "undecided"}, default="absent"
        As in `DirectionPairsFactorizer`.
    random_state : int, optional
        Seed of the clustering.
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
        """Measure the pairs on activations ``(N, *spatial, D)``.

        Parameters
        ----------
        activations : ndarray of shape (N, *spatial, D)
        head, resume
            Without effect.
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
        """Compute concept coefficients, (P, D) → (P, I).

        Raises
        ------
        ValueError
            If the activations are not flat and finite, with the channels of `fit`.
        """
        return super().encode(check_flat(activations, self._fitted().channels))


def clustered_detectors(x: Array, concepts: int, rng: np.random.Generator) -> tuple[Array, Array]:
    """Return filters (I, A), unit rows, and biases (I,) of whitened features (P, A), from K-Means.

    A filter points to a centroid; filters are symmetrically orthogonalised where I ≤ A. Each
    detector is on at 1/I of the positions (at half of them where I = 1).

    Raises
    ------
    ValueError
        If there are fewer positions than concepts.
    """
    if len(x) < concepts:
        raise ValueError(
            f"{concepts} concepts cannot be found in {len(x)} positions: give more images, or ask "
            "for fewer concepts"
        )
    clustering = MiniBatchKMeans(concepts, n_init=4, random_state=int(rng.integers(2**31)))
    filters = unit_rows(clustering.fit(x).cluster_centers_.astype(np.float64))
    if concepts == 1:  # the only centroid is the mean, zero: the first axis is used
        filters = np.eye(1, x.shape[1])
    if concepts <= x.shape[1]:
        left, _, right = np.linalg.svd(filters, full_matrices=False)
        filters = left @ right
    z = x @ filters.T.astype(np.float32)
    return filters, np.quantile(z, 1.0 - 1.0 / max(concepts, 2), axis=0)
