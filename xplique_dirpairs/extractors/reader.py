"""Any concept extractor as the few functions that comparisons need of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from xplique.concepts import CraftTf, HolisticCraftTf
from xplique.concepts.factorizer import ConceptFactorizer

from xplique_dirpairs.activations import as_pixels
from xplique_dirpairs.factorizers.base import DirectionsFactorizer

#: How far, relative to its size, decode(u) may be from u @ bank + constant.
_AFFINE = 1e-3
#: Positions that are encoded at a time.
_POSITIONS = 65536


@dataclass(frozen=True, eq=False)
class ConceptReader:
    """How an extractor reads features, and writes them: x ≈ u @ bank + constant.

    Attributes
    ----------
    encode
        (P, D) → (P, I), the coefficients u.
    shown
        (P, D) → (P, I), coefficients as pictures show them: 0 where a concept counts as absent.
    bank : (I, D)
    constant : (D,)
    encoding : (I, D)
        How the features change along each concept.
    decoding : (I, D) or None
        Linear filters that read the concepts.
    """

    encode: Callable[[NDArray], NDArray]
    shown: Callable[[NDArray], NDArray]
    bank: NDArray
    constant: NDArray
    encoding: NDArray
    decoding: NDArray | None

    def coefficients(self, activations: NDArray) -> NDArray:
        """u of activations ``(N, *spatial, D)``, ``(N, *spatial, I)``."""
        return _by_position(self.encode, activations)

    def shown_coefficients(self, activations: NDArray) -> NDArray:
        """What pictures show of activations ``(N, *spatial, D)``, ``(N, *spatial, I)``."""
        return _by_position(self.shown, activations)

    def reconstructions(self, coefficients: NDArray) -> NDArray:
        """decode(u), without the residual, ``(N, *spatial, I)`` → ``(N, *spatial, D)``."""
        return (coefficients @ self.bank + self.constant).astype(np.float32)


def _by_position(function: Callable, activations: NDArray) -> NDArray:
    pixels = as_pixels(activations)
    parts = [
        np.asarray(function(pixels[start : start + _POSITIONS]), np.float32)
        for start in range(0, len(pixels), _POSITIONS)
    ]
    return np.concatenate(parts).reshape(*activations.shape[:-1], -1)


def is_fitted(extractor: Any) -> bool:
    """Whether an extractor, or a factorizer, has concepts."""
    if isinstance(extractor, ConceptFactorizer):
        return extractor.is_fitted
    return extractor.factorization is not None


def reader_of(extractor: Any, sample: NDArray) -> ConceptReader:
    """The reader of a fitted extractor.

    Parameters
    ----------
    extractor
        Xplique's `CraftTf` as it is, one of its children here, a holistic extractor, or a
        `ConceptFactorizer`.
    sample : (P, D)
        Some features, on which it is checked that decoding is affine.

    Raises
    ------
    TypeError
        If it is none of these.
    ValueError
        If it is of another layer, or its decoding is not affine: then nothing can be said of
        switching one of its concepts off.
    """
    if isinstance(extractor, HolisticCraftTf):
        extractor = extractor.factorizer
    if isinstance(extractor, CraftTf):
        reducer = extractor.factorization.reducer
        if not isinstance(reducer, ConceptFactorizer):
            return _of_craft(extractor, sample)
        extractor = reducer
    if not isinstance(extractor, ConceptFactorizer):
        raise TypeError(
            "an extractor must be a CraftTf, a HolisticCraftTf or a ConceptFactorizer, not "
            f"{type(extractor).__name__}"
        )
    bank = np.asarray(extractor.get_concept_bank(), np.float32)
    _check_channels(bank, sample)
    nothing = np.zeros((1, len(bank)), np.float32)
    constant = np.asarray(extractor.decode(nothing), np.float32)[0]
    coefficients = np.asarray(extractor.encode(sample), np.float32)
    decoded = np.asarray(extractor.decode(coefficients), np.float32)
    difference = np.linalg.norm(decoded - (coefficients @ bank + constant))
    if difference > _AFFINE * max(float(np.linalg.norm(decoded)), 1e-12):
        raise ValueError(
            f"{type(extractor).__name__}.decode(u) is not u @ get_concept_bank() + constant: one "
            "concept cannot be switched off without the others"
        )
    encoding, decoding, shown = bank, None, extractor.encode
    if isinstance(extractor, DirectionsFactorizer):
        encoding, decoding = extractor.encoding_directions, extractor.decoding_directions
        shown = extractor.shown_coefficients
    return ConceptReader(extractor.encode, shown, bank, constant, encoding, decoding)


def _of_craft(craft: CraftTf, sample: NDArray) -> ConceptReader:
    """Xplique's own: an NMF of scikit-learn, read by its non-negative least squares."""
    reducer = craft.factorization.reducer
    bank = np.asarray(craft.factorization.concept_bank_w, np.float32)
    _check_channels(bank, sample)

    def encode(pixels: NDArray) -> NDArray:
        if pixels.min() < 0:
            raise ValueError("CRAFT needs activations that are nowhere negative")
        return reducer.transform(pixels.astype(reducer.components_.dtype))

    return ConceptReader(encode, encode, bank, np.zeros(bank.shape[1], np.float32), bank, None)


def _check_channels(bank: NDArray, sample: NDArray) -> None:
    if bank.shape[1] != sample.shape[1]:
        raise ValueError(
            f"the concepts are of a layer of {bank.shape[1]} channels, but the network's halves "
            f"give {sample.shape[1]}"
        )
