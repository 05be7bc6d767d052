"""What every concept extractor of this package has in common.

Direction pairs, decompositions and autoencoders are each one child of `DirectionsFactorizer`,
which is Xplique's `ConceptFactorizer` with its directions named and its residual kept.
"""

from __future__ import annotations

from abc import abstractmethod

import numpy as np
from numpy.typing import NDArray
from xplique.concepts.factorizer import ConceptFactorizer


class DirectionsFactorizer(ConceptFactorizer):
    """A `ConceptFactorizer` that names its directions and keeps what it does not explain.

    Activations are flat, ``(P, D)``, as Xplique hands them; coefficients are ``(P, I)``.
    ``decode(encode(x)) + residual(x) = x`` holds for every child.

    Attributes
    ----------
    number_of_concepts : int
        I.
    decodes_affinely : bool
        Whether ``decode(u) = u @ bank + constant``, so that it commutes with averaging over
        positions. True unless a child says otherwise.
    """

    number_of_concepts: int
    decodes_affinely: bool = True

    @property
    @abstractmethod
    def encoding_directions(self) -> NDArray:
        """(I, D): how the features change along each concept."""

    @property
    def decoding_directions(self) -> NDArray | None:
        """(I, D): linear filters that read the concepts, or None where reading is not linear."""
        return None

    def residual(self, activations: NDArray) -> NDArray:
        """x − decode(encode(x)), (P, D): the part of the features no concept accounts for."""
        return activations - self.decode(self.encode(activations))

    def shown_coefficients(self, activations: NDArray) -> NDArray:
        """Coefficients (P, I) as pictures show them: zero where a concept counts as absent.

        Here all of them; a child whose coefficients can be positive where the concept is absent
        says more.
        """
        return self.encode(activations)

    # What Xplique's `Factorization.reducer`, an sklearn NMF there, is asked for.

    @property
    def components_(self) -> NDArray:
        """The concept bank, (I, D) float32."""
        return self.get_concept_bank().astype(np.float32)

    def transform(self, activations: NDArray) -> NDArray:
        """`encode` under sklearn's name."""
        return self.encode(activations)
