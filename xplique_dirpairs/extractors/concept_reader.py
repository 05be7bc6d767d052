"""`ConceptReader`: fitted concepts that are only read, without the network they belong to."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from xplique_dirpairs.core.concept_names import check_concept_names
from xplique_dirpairs.core.types import Array
from xplique_dirpairs.extractors.concept_layer import ConceptLayer, as_extractor, split_of
from xplique_dirpairs.extractors.kinds import fitted_concepts
from xplique_dirpairs.pairs import DirectionPairs


@dataclass(frozen=True, eq=False)
class ConceptReader:
    """How I concepts are read from features of D channels, without the network.

    Attributes
    ----------
    encode, encode_shown : callable
        As in `ConceptLayer`.
    bank : ndarray of shape (I, D)
        As in `ConceptLayer`.
    pairs : DirectionPairs or None
        The direction pairs; None if the concepts are of another kind.
    concept_names : tuple of I str
        Names of the concepts.
    extra_tokens : tuple of int or None
        Tokens that are no part of the image; None if the network is not known.
    """

    encode: Callable[[Array], Array]
    encode_shown: Callable[[Array], Array]
    bank: Array
    pairs: DirectionPairs | None
    concept_names: tuple[str, ...]
    extra_tokens: tuple[int, ...] | None = None

    @classmethod
    def of(cls, fitted: Any) -> ConceptReader:
        """Return the reader of a `ConceptLayer` or of any fitted concepts.

        Raises
        ------
        TypeError
            If the object holds no concepts.
        NotFittedError
            If it is not fitted.
        """
        if isinstance(fitted, ConceptLayer):
            return cls(
                fitted.encode,
                fitted.encode_shown,
                fitted.bank,
                fitted.pairs,
                fitted.concept_names,
                fitted.split.extra_tokens,
            )
        extractor = as_extractor(fitted)
        concepts = fitted_concepts(extractor, affine=False)
        split = split_of(extractor)
        return cls(
            concepts.encode,
            concepts.encode_shown,
            concepts.bank,
            concepts.pairs,
            check_concept_names(None, len(concepts.bank)),
            None if split is None else split.extra_tokens,
        )
