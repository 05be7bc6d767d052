"""Read and fit extractors and factorizers of every kind: what differs between the kinds."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeAlias

import numpy as np
import tensorflow as tf
from sklearn.exceptions import NotFittedError
from xplique.concepts import CraftManagerTf, CraftTf, HolisticCraftTf
from xplique.concepts.factorizer import ConceptFactorizer
from xplique.concepts.latent_extractor import LatentExtractor

from xplique_dirpairs.core.batching import as_positions
from xplique_dirpairs.core.types import Array
from xplique_dirpairs.data.images import compute_activations
from xplique_dirpairs.factorizers.base import DirectionsFactorizer
from xplique_dirpairs.factorizers.direction_pairs import DirectionPairsFactorizer
from xplique_dirpairs.factorizers.nonnegative import differentiable_least_squares
from xplique_dirpairs.models.head import Head
from xplique_dirpairs.models.split import SplitModel
from xplique_dirpairs.pairs import DirectionPairs

#: An object that holds one set of concepts: an extractor or factorizer of Xplique or this package.
Extractor: TypeAlias = CraftTf | HolisticCraftTf | ConceptFactorizer

#: Maximum deviation of decode(u) from u @ bank + constant, relative to the norm of decode(u).
_AFFINE_TOLERANCE = 1e-3


def extractor_of(fitted: Any, name: str = "the extractor") -> Extractor:
    """Return the extractor or factorizer that holds the concepts of an object.

    For `DirectionPairs` it is a factorizer. ``name`` is the name of the object in error messages.

    Raises
    ------
    TypeError
        If the object holds no concepts.
    ValueError
        If it is a manager with a set of concepts for each class.
    NotFittedError
        If it is a manager that is not fitted.
    """
    if isinstance(fitted, DirectionPairs):
        return DirectionPairsFactorizer.from_pairs(fitted)
    if isinstance(fitted, CraftManagerTf):
        if not getattr(fitted, "shared", False):
            raise ValueError(
                "the manager must have one set of concepts, not a set for each class: give one of "
                "its craft_instances, or fit a manager with shared=True"
            )
        fitted = next(filter(is_fitted, fitted.craft_instances.values()), None)
        if fitted is None:
            raise NotFittedError("the manager is not fitted: call fit() first")
    if isinstance(fitted, Extractor):
        return fitted
    raise TypeError(
        f"{name} must be a ConceptLayer, DirectionPairs, a CraftTf, a HolisticCraftTf, a "
        "ConceptFactorizer or a DirectionPairsManagerTf with shared pairs, not "
        f"{type(fitted).__name__}"
    )


def own_split(extractor: Extractor) -> SplitModel | None:
    """Return the halves of the network that an extractor was built on; None if it has none."""
    split = getattr(extractor, "split", None)
    if split is None and isinstance(extractor, CraftTf):
        return SplitModel.of(extractor.input_to_latent_model, extractor.latent_to_logit_model)
    return split


def activations_of(extractor: Extractor, images: Array) -> Array | None:
    """Return activations of images in an extractor's own network; None if it has no network."""
    if isinstance(extractor, CraftTf):
        return compute_activations(extractor.input_to_latent_model, images)
    if isinstance(extractor, HolisticCraftTf):
        return activations_of_latents(extractor.latent_extractor, images)
    return None


@dataclass(frozen=True, eq=False)
class FittedConcepts:
    """What `ConceptLayer` needs to know of fitted concepts; its attributes of the same names."""

    encode: Callable[[Array], Array]
    encode_shown: Callable[[Array], Array]
    bank: Array
    constant: Array
    encoding: Array
    decoding: Array | None
    pairs: DirectionPairs | None
    encode_differentiable: Callable[[tf.Tensor], tf.Tensor] | None


def fitted_concepts(extractor: Extractor, affine: bool = True) -> FittedConcepts:
    """Read the concepts of a fitted extractor or factorizer.

    ``affine`` is whether decoding must be affine.

    Raises
    ------
    NotFittedError
        If it is not fitted.
    ValueError
        If decoding must be affine and is not.
    """
    if not is_fitted(extractor):
        raise NotFittedError(f"this {type(extractor).__name__} is not fitted: call fit() first")
    bank, factorizer = bank_of(extractor), factorizer_of(extractor)
    encoding, decoding, pairs = bank, None, None
    constant = np.zeros(bank.shape[1], np.float32)
    if not isinstance(factorizer, ConceptFactorizer):  # Xplique's own CRAFT
        encode: Callable[[Array], Array] = NMFEncoder(factorizer)
        encode_shown = encode
    else:
        encode = factorizer.encode
        encode_shown = shown_encoder(factorizer) or encode
        origin = np.zeros((1, len(bank)), np.float32)
        constant = np.asarray(factorizer.decode(origin), np.float32)[0]
        if affine:
            check_affine(factorizer, bank, constant)
    if isinstance(factorizer, DirectionsFactorizer):
        encoding = np.asarray(factorizer.encoding_directions, np.float32)
        if factorizer.decoding_directions is not None:
            decoding = np.asarray(factorizer.decoding_directions, np.float32)
    if isinstance(factorizer, DirectionPairsFactorizer):
        pairs = factorizer.pairs_
    return FittedConcepts(
        encode,
        encode_shown,
        bank,
        constant,
        encoding,
        decoding,
        pairs,
        getattr(factorizer, "encode_differentiable", None),
    )


def factorizer_of(extractor: Extractor) -> Any:
    """Return an extractor's factorizer: for Xplique's CRAFT its NMF, or None before the fit."""
    if isinstance(extractor, ConceptFactorizer):
        return extractor
    factorizer = getattr(extractor, "factorizer", None)
    return factorizer or getattr(extractor.factorization, "reducer", None)


def is_fitted(extractor: Extractor) -> bool:
    """Return whether an extractor or a factorizer is fitted."""
    if isinstance(extractor, ConceptFactorizer):
        return bool(extractor.is_fitted)
    return extractor.factorization is not None


def number_of_concepts(extractor: Extractor) -> int | None:
    """Return the number of concepts I; before the fit the requested number, or None if unknown."""
    if is_fitted(extractor):
        return len(bank_of(extractor))
    # Extractors and the factorizers of this package have the first attribute, Xplique's factorizers
    # the second.
    names = ("number_of_concepts", "n_components")
    return next((getattr(extractor, name) for name in names if hasattr(extractor, name)), None)


def channels_of(extractor: Extractor) -> int | None:
    """Return the number of channels D; None before the fit."""
    return bank_of(extractor).shape[1] if is_fitted(extractor) else None


def activations_of_latents(latent_extractor: LatentExtractor, images: Array) -> Array:
    """Return activations (N, *spatial, D) of images, computed by Xplique's latent extractor."""
    batches = [
        batch.get_activations(as_numpy=True)
        for batch in latent_extractor.input_to_latent_generator(images)
    ]
    rows = sum(map(len, batches))
    if rows != len(images):
        raise ValueError(
            f"the latent extractor yielded activations of {rows} images for {len(images)} images: "
            "its input_to_latent_generator must yield all batches, one row for each image"
        )
    return np.concatenate(batches)


def fitted_images(extractors: Iterable[Extractor]) -> list[Array]:
    """Return the images that each fitted CRAFT extractor in ``extractors`` was fitted on."""
    return [
        np.asarray(extractor.factorization.inputs)
        for extractor in extractors
        if isinstance(extractor, CraftTf) and extractor.factorization is not None
    ]


def fit_extractor(extractor: Extractor, images: Array, activations: Array, head: Head) -> None:
    """Fit an extractor on images whose activations (N, *spatial, D) are known.

    Raises
    ------
    ValueError
        If the factorizer needs non-negative activations, and some are negative.
    KeyboardInterrupt
        If the fit is interrupted by Ctrl-C; also for direction pairs, whose own fit catches the
        interruption and keeps the pairs learned so far.
    """
    if isinstance(extractor, ConceptFactorizer):
        fit_factorizer(extractor, activations, head)
    else:
        extractor.fit(images)
    if getattr(getattr(factorizer_of(extractor), "history_", None), "interrupted", False):
        raise KeyboardInterrupt


def problems_of_fit(extractor: Extractor) -> list[str]:
    """Return descriptions of the problems that occurred when an extractor was fitted."""
    factorizer = factorizer_of(extractor)
    history = getattr(factorizer, "history_", None)
    if history is not None and hasattr(history, "problems"):  # direction pairs, autoencoders
        return list(history.problems())
    converged = getattr(factorizer, "converged_", None)
    if converged is None and not isinstance(factorizer, ConceptFactorizer):  # CRAFT's NMF
        converged = factorizer.n_iter_ < factorizer.max_iter
    if converged is False:
        return [f"its fit was cut short after {factorizer.n_iter_} iterations"]
    return []


def fit_factorizer(factorizer: ConceptFactorizer, activations: Array, head: Head | None) -> Array:
    """Fit a factorizer on activations (N, *spatial, D), and return coefficients (P, I).

    Raises
    ------
    TypeError
        If the factorizer's ``fit`` does not return a concept bank and coefficients.
    ValueError
        If the factorizer needs non-negative activations, and some are negative.
    """
    positions = as_positions(activations)
    if isinstance(factorizer, DirectionPairsFactorizer):
        factorizer.fit_maps(activations, head)
        return factorizer.encode(positions)
    if factorizer.requires_positive_activations and activations.min() < 0:
        raise ValueError(
            f"{type(factorizer).__name__} needs non-negative activations, but some are negative: "
            "choose a layer after a ReLU, or another factorizer"
        )
    result = factorizer.fit(positions)
    if not isinstance(result, tuple) or len(result) != 2:
        raise TypeError(
            f"{type(factorizer).__name__}.fit must return (concept_bank, coefficients), as "
            f"documented for Xplique's ConceptFactorizer, not {type(result).__name__}"
        )
    return np.asarray(result[1])


def shown_encoder(factorizer: ConceptFactorizer) -> Callable[[Array], Array] | None:
    """Return a factorizer's function for coefficients in plots; None if it is ``encode``."""
    inherited = DirectionsFactorizer.shown_coefficients
    own: Callable[[Array], Array] | None = getattr(factorizer, "shown_coefficients", None)
    return None if getattr(own, "__func__", inherited) is inherited else own


def differentiable_encoder(extractor: Extractor) -> Callable[[tf.Tensor], tf.Tensor]:
    """Return the encoder (P, D) → (P, I) of an extractor as a function of tensors.

    Gradients flow to the features. The encoder of Xplique's own CRAFT, scikit-learn's non-negative
    least squares, is replaced by a differentiable one with the same values.
    """
    factorizer = factorizer_of(extractor)
    if isinstance(factorizer, ConceptFactorizer):
        encode: Callable[[tf.Tensor], tf.Tensor] = factorizer.encode_differentiable
        return encode
    return partial(differentiable_least_squares, bank=bank_of(extractor))


def check_channels(channels: int, given: int | None) -> None:
    """Raise a ValueError if concepts with a number of channels are used with another number.

    A number that is not known yet, None, is accepted.
    """
    if given not in (None, channels):
        raise ValueError(
            f"the concepts were learned at a layer with {channels} channels, but the given layer "
            f"has {given}: use the layer of the concepts, or its activations"
        )


def bank_of(extractor: Extractor) -> Array:
    """Return the concept bank (I, D) of a fitted extractor."""
    if isinstance(extractor, ConceptFactorizer):
        return np.asarray(extractor.get_concept_bank(), np.float32)
    return np.asarray(extractor.factorization.concept_bank_w, np.float32)


def check_affine(factorizer: ConceptFactorizer, bank: Array, constant: Array) -> None:
    """Raise a ValueError unless decode(u) = u @ bank + constant for random coefficients u."""
    rng = np.random.default_rng(0)
    size = float(np.linalg.norm(constant)) / max(float(np.linalg.norm(bank)), 1e-12)
    coefficients = max(1.0, size) * rng.random((64, len(bank)), dtype=np.float32)
    coefficients[::2] *= rng.random(coefficients[::2].shape) < 0.2  # most concepts are switched off
    decoded = np.asarray(factorizer.decode(coefficients), np.float32)
    difference = np.linalg.norm(decoded - (coefficients @ bank + constant))
    if difference > _AFFINE_TOLERANCE * max(float(np.linalg.norm(decoded)), 1e-12):
        raise ValueError(
            f"{type(factorizer).__name__}.decode(u) must be u @ get_concept_bank() + constant, so "
            "that each concept can be switched off independently: use an affine decoder"
        )


class NMFEncoder:
    """The encoder of Xplique's CRAFT: scikit-learn's non-negative least squares."""

    def __init__(self, nmf: Any) -> None:
        self.nmf = nmf

    def __call__(self, positions: Array) -> Array:
        if positions.min() < 0:
            raise ValueError("CRAFT needs non-negative activations, but some are negative")
        return np.asarray(self.nmf.transform(positions.astype(self.nmf.components_.dtype)))
