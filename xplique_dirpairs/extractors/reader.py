"""Any concept extractor as the few functions that comparisons need of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from xplique.concepts import CraftTf, HolisticCraftTf
from xplique.concepts.factorizer import ConceptFactorizer

from xplique_dirpairs.core.batching import as_positions
from xplique_dirpairs.factorizers.base import DirectionsFactorizer

#: What concepts can be read of.
Extractor: TypeAlias = CraftTf | HolisticCraftTf | ConceptFactorizer

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
        None: all of them.
    bank : (I, D)
    constant : (D,)
    encoding : (I, D)
        How the features change along each concept.
    decoding : (I, D) or None
        Linear filters that read the concepts.
    """

    encode: Callable[[NDArray], NDArray]
    shown: Callable[[NDArray], NDArray] | None
    bank: NDArray
    constant: NDArray
    encoding: NDArray
    decoding: NDArray | None

    def coefficients(self, activations: NDArray) -> NDArray:
        """u of activations ``(N, *spatial, D)``, ``(N, *spatial, I)``."""
        return _by_position(self.encode, activations)

    def shown_coefficients(self, activations: NDArray) -> NDArray:
        """What pictures show of activations ``(N, *spatial, D)``, ``(N, *spatial, I)``."""
        return _by_position(self.shown or self.encode, activations)

    def reconstructions(self, coefficients: NDArray) -> NDArray:
        """decode(u), without the residual, ``(N, *spatial, I)`` → ``(N, *spatial, D)``."""
        return (coefficients @ self.bank + self.constant).astype(np.float32)


def _by_position(function: Callable, activations: NDArray) -> NDArray:
    pixels = as_positions(activations)
    parts = [
        np.asarray(function(pixels[start : start + _POSITIONS]), np.float32)
        for start in range(0, len(pixels), _POSITIONS)
    ]
    return np.concatenate(parts).reshape(*activations.shape[:-1], -1)


def factorizer_of(extractor: Extractor) -> Any:
    """What finds an extractor's concepts: a `ConceptFactorizer`, or scikit-learn's NMF in CRAFT.

    None for a `CraftTf` of Xplique's that is not fitted.
    """
    if isinstance(extractor, ConceptFactorizer):
        return extractor
    found = getattr(extractor, "factorizer", None)
    if found is None and extractor.factorization is not None:
        found = extractor.factorization.reducer
    return found


def is_fitted(extractor: Extractor) -> bool:
    """Whether an extractor, or a factorizer, has concepts."""
    if isinstance(extractor, ConceptFactorizer):
        return extractor.is_fitted
    return extractor.factorization is not None


def bank_of(extractor: Extractor) -> NDArray:
    """The concept bank, (I, D) float32, of a fitted extractor."""
    if isinstance(extractor, ConceptFactorizer):
        return np.asarray(extractor.get_concept_bank(), np.float32)
    return np.asarray(extractor.factorization.concept_bank_w, np.float32)


def number_of_concepts(extractor: Extractor) -> int | None:
    """I: of the bank, or as asked for before `fit`; None where an extractor does not say."""
    if is_fitted(extractor):
        return len(bank_of(extractor))
    for name in ("number_of_concepts", "n_components"):  # ours and CRAFT's; Xplique's factorizers'
        value = getattr(extractor, name, None)
        if value is not None:
            return int(value)
    return None


def reader_of(extractor: Extractor, sample: NDArray) -> ConceptReader:
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
    if not isinstance(extractor, Extractor):
        raise TypeError(
            "an extractor must be a CraftTf, a HolisticCraftTf or a ConceptFactorizer, not "
            f"{type(extractor).__name__}"
        )
    bank = bank_of(extractor)
    if bank.shape[1] != sample.shape[1]:
        raise ValueError(
            f"the concepts are of a layer of {bank.shape[1]} channels, but the network's halves "
            f"give {sample.shape[1]}"
        )
    factorizer = factorizer_of(extractor)
    if not isinstance(factorizer, ConceptFactorizer):
        return _of_craft(factorizer, bank)
    constant = np.asarray(factorizer.decode(np.zeros((1, len(bank)), np.float32)), np.float32)[0]
    _check_affine(factorizer, bank, constant, sample)
    encoding, decoding, shown = bank, None, None
    if isinstance(factorizer, DirectionsFactorizer):
        encoding = np.asarray(factorizer.encoding_directions, np.float32)
        if factorizer.decoding_directions is not None:
            decoding = np.asarray(factorizer.decoding_directions, np.float32)
        if type(factorizer).shown_coefficients is not DirectionsFactorizer.shown_coefficients:
            shown = factorizer.shown_coefficients
    return ConceptReader(factorizer.encode, shown, bank, constant, encoding, decoding)


def _check_affine(
    factorizer: ConceptFactorizer, bank: NDArray, constant: NDArray, sample: NDArray
) -> None:
    """decode(u) = u @ bank + constant: of u as it is read, and with some concepts dimmed."""
    read = np.asarray(factorizer.encode(sample), np.float32)
    dimmed = read * np.random.default_rng(0).random(read.shape, dtype=np.float32)
    for coefficients in (read, dimmed):
        decoded = np.asarray(factorizer.decode(coefficients), np.float32)
        difference = np.linalg.norm(decoded - (coefficients @ bank + constant))
        if difference > _AFFINE * max(float(np.linalg.norm(decoded)), 1e-12):
            raise ValueError(
                f"{type(factorizer).__name__}.decode(u) is not u @ get_concept_bank() + constant: "
                "one concept cannot be switched off without the others"
            )


def _of_craft(nmf: Any, bank: NDArray) -> ConceptReader:
    """Xplique's own: an NMF of scikit-learn, read by its non-negative least squares."""

    def encode(pixels: NDArray) -> NDArray:
        if pixels.min() < 0:
            raise ValueError("CRAFT needs activations that are nowhere negative")
        return nmf.transform(pixels.astype(nmf.components_.dtype))

    return ConceptReader(encode, None, bank, np.zeros(bank.shape[1], np.float32), bank, None)
