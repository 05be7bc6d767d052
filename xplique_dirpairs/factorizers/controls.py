"""What other extractors have to beat: random directions, and direction pairs without learning."""

from __future__ import annotations

import os

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.cluster import MiniBatchKMeans

from xplique_dirpairs.core.batching import as_positions
from xplique_dirpairs.core.validation import check_activations, check_integer
from xplique_dirpairs.factorizers.affine import LinearFactorizer, unit_rows
from xplique_dirpairs.factorizers.direction_pairs import DirectionPairsFactorizer
from xplique_dirpairs.learning.features import Moments, whitened
from xplique_dirpairs.learning.signals import measure_pairs
from xplique_dirpairs.learning.starts import positions_for, random_filters
from xplique_dirpairs.models.head import Head
from xplique_dirpairs.pairs import Off


class RandomFactorizer(LinearFactorizer):
    """Random directions: what a method has to beat.

    Bank rows are orthonormal and of uniformly random orientation; where I > D, independent and of
    unit length. Coefficients are the smallest that fit the features about their mean best (least
    squares): u = (x − mean) B⁺. ``constant_`` is the mean.

    Parameters
    ----------
    number_of_concepts
        I; may exceed the number of channels.
    random_state
        Seed of the directions.
    """

    def __init__(self, number_of_concepts: int = 20, *, random_state: int | None = None):
        self.number_of_concepts = number_of_concepts
        self.random_state = random_state

    def _learn(self, x: NDArray) -> tuple[NDArray, NDArray]:
        rng = np.random.default_rng(self.random_state)
        bank, _ = unit_rows(random_filters(x, self.number_of_concepts, rng))
        self.filters_ = np.linalg.pinv(bank).T.astype(np.float32)
        return bank, x.mean(axis=0, dtype=np.float64)


class NoLearningFactorizer(DirectionPairsFactorizer):
    """Direction pairs around a clustering: what the learning has to beat.

    Filters and biases are `clustered_detectors`; signal vectors are estimated once, as the default
    recipe estimates them (`learning.signals.joint_signals`). No loss is minimised, the network is
    not asked. Coefficients, bank and detections are those of direction pairs.

    Parameters
    ----------
    number_of_concepts
        I; may exceed the number of channels.
    off
        As in `DirectionPairsFactorizer`.
    random_state
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
        activations: NDArray,
        head: Head | None,
        *,
        resume: str | os.PathLike | None = None,
    ) -> NoLearningFactorizer:
        """Measure the pairs on activations ``(N, *spatial, D)``.

        Parameters
        ----------
        activations : (N, *spatial, D)
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

    def encode(self, activations: ArrayLike) -> NDArray:
        """Concept coefficients, (P, D) → (P, I).

        Raises
        ------
        ValueError
            If the activations are not flat and finite, with the channels of `fit`.
        """
        channels = self._fitted().filters.shape[1]
        x = check_activations(activations)
        if x.ndim != 2 or x.shape[1] != channels:
            raise ValueError(
                f"activations must be flat and end in {channels} channels, but are {x.shape}"
            )
        return super().encode(x)


def clustered_detectors(
    x: NDArray, concepts: int, rng: np.random.Generator
) -> tuple[NDArray, NDArray]:
    """Filters (I, A), unit rows, and biases (I,) of whitened features (P, A), from K-Means.

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
    filters, _ = unit_rows(clustering.fit(x).cluster_centers_.astype(np.float64))
    if concepts == 1:  # the only centroid is the mean, zero: the first axis stands in
        filters = np.eye(1, x.shape[1])
    if concepts <= x.shape[1]:
        left, _, right = np.linalg.svd(filters, full_matrices=False)
        filters = left @ right
    z = x @ filters.T.astype(np.float32)
    return filters, np.quantile(z, 1.0 - 1.0 / max(concepts, 2), axis=0)
