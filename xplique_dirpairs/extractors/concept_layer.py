"""A layer of a network with the concepts that an extractor found in it: what explanations ask."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import keras
import numpy as np
from numpy.typing import NDArray
from sklearn.exceptions import NotFittedError
from xplique.concepts import CraftTf

from xplique_dirpairs.core.batching import as_positions
from xplique_dirpairs.data.activations import compute_activations
from xplique_dirpairs.data.crops import best_crops
from xplique_dirpairs.explanations.path import few_logits
from xplique_dirpairs.extractors.direction_pairs import DirectionPairsManagerTf
from xplique_dirpairs.extractors.reader import (
    ConceptReader,
    Extractor,
    factorizer_of,
    is_fitted,
    reader_of,
)
from xplique_dirpairs.factorizers.direction_pairs import DirectionPairsFactorizer
from xplique_dirpairs.models.head import Head
from xplique_dirpairs.models.two_classes import as_two_classes
from xplique_dirpairs.pairs import DirectionPairs, Off
from xplique_dirpairs.plots.images import as_picture, pixel_limits

#: Whose concepts explain: pairs, a fitted extractor, or a manager whose pairs are shared.
Explaining: TypeAlias = DirectionPairs | Extractor | DirectionPairsManagerTf
#: Names of all classes, or of some.
Names: TypeAlias = Sequence[str] | Mapping[int, str] | None


@dataclass(frozen=True, eq=False)
class ConceptLayer:
    """The network up to a layer, the concepts there, and the network from there to its classes.

    Attributes
    ----------
    input_to_latent_model
    head
        With a column for each class: see `as_two_classes`.
    reader
        x = r + u @ bank: r is what is left with every concept off, the residual and, of extractors
        that have one, the constant of their decoder.
    """

    input_to_latent_model: keras.Model
    head: Head
    reader: ConceptReader

    @property
    def bank(self) -> NDArray:
        """B, (I, D)."""
        return self.reader.bank

    @property
    def number_of_concepts(self) -> int:
        """I."""
        return len(self.reader.bank)

    def activations(self, images: NDArray, batch_size: int = 64) -> NDArray:
        """x of images, (N, *S, D)."""
        return compute_activations(self.input_to_latent_model, images, batch_size)

    def read(self, activations: NDArray) -> tuple[NDArray, NDArray]:
        """Coefficients u, and what pictures show of them (≥ 0, 0 where absent), (N, *S, I) each."""
        u = self.reader.coefficients(activations)
        shown = u if self.reader.shown is None else self.reader.shown_coefficients(activations)
        return u, np.maximum(shown, 0.0)

    def linear_rows(self, activations: NDArray) -> NDArray | None:
        """Each class's weights over the channels, (K, D), where logits are linear in mean features.

        None for every other head.
        """
        head = self.head
        pooled = activations.ndim == 2 or head.pools_first
        return head.class_rows if pooled and head.ends_in == "linear" else None


def concept_layer(
    extractor: Explaining,
    images: NDArray,
    input_to_latent_model: keras.Model | None,
    latent_to_logit_model: keras.Model | None,
    off: Off | None,
) -> tuple[ConceptLayer, NDArray]:
    """The layer that an extractor's concepts are of, and the activations of some images there.

    The network is the extractor's own, or the given one.

    Parameters
    ----------
    extractor
    images : (N, height, width, channels)
        A few: on their features it is checked that decoding is affine.
    input_to_latent_model, latent_to_logit_model
        Halves of the network, or None for those of a `CraftTf`.
    off
        What "off" means for direction pairs; None: as the extractor has it, else "absent".

    Raises
    ------
    TypeError, ValueError, NotFittedError
        If it is no extractor, is not fitted or of another layer, or the network is not known.
    """
    extractor = _single(extractor)
    first, second = _halves(extractor, input_to_latent_model, latent_to_logit_model)
    if not isinstance(extractor, DirectionPairs) and not is_fitted(extractor):
        raise NotFittedError(f"this {type(extractor).__name__} is not fitted: call fit() first")
    head = Head(second)
    activations = compute_activations(first, images)
    head.check_takes(activations.shape[1:])
    head = as_two_classes(head, few_logits(head, activations).shape[1])
    reader = reader_of(_in_form(extractor, off), as_positions(activations))
    return ConceptLayer(first, head, reader), activations


def _single(extractor: Explaining) -> DirectionPairs | Extractor:
    """One extractor: of a manager with shared pairs, any of its fitted ones."""
    if not isinstance(extractor, DirectionPairsManagerTf):
        if isinstance(extractor, (DirectionPairs, Extractor)):
            return extractor
        raise TypeError(
            "extractor must be DirectionPairs, a CraftTf, a HolisticCraftTf, a ConceptFactorizer "
            f"or a DirectionPairsManagerTf, not {type(extractor).__name__}"
        )
    if not extractor.shared:
        raise ValueError(
            "the manager has pairs of their own for each class: give one of its craft_instances, "
            "or fit one with shared=True"
        )
    for instance in extractor.craft_instances.values():
        if is_fitted(instance):
            return instance
    raise NotFittedError("this DirectionPairsManagerTf is not fitted: call fit() first")


def _in_form(extractor: DirectionPairs | Extractor, off: Off | None) -> Extractor:
    """Direction pairs as a factorizer with "off" as wanted; other extractors as they are."""
    if isinstance(extractor, DirectionPairs):
        return DirectionPairsFactorizer.from_pairs(extractor, off or "absent")
    if off is None:
        return extractor
    factorizer = factorizer_of(extractor)
    if not isinstance(factorizer, DirectionPairsFactorizer):
        raise ValueError(
            f"off={off!r} is for direction pairs: {type(extractor).__name__} has one form only"
        )
    return DirectionPairsFactorizer.from_pairs(factorizer.pairs_, off)


def _halves(
    extractor: DirectionPairs | Extractor,
    first: keras.Model | None,
    second: keras.Model | None,
) -> tuple[keras.Model, keras.Model]:
    if (first is None) != (second is None):
        raise ValueError("give both input_to_latent_model and latent_to_logit_model, or neither")
    if first is not None and second is not None:
        return first, second
    if isinstance(extractor, CraftTf):
        return extractor.input_to_latent_model, extractor.latent_to_logit_model
    raise ValueError(
        f"{type(extractor).__name__} does not know the network: give input_to_latent_model and "
        "latent_to_logit_model, from split_model(model, layer)"
    )


def crops_of_fit(extractor: Explaining, count: int = 3) -> tuple[NDArray, ...] | None:
    """Best crops (k, patch, patch, 3) in [0, 1] of each concept, of the images of a fit.

    None where the extractor has none.
    """
    single = _single(extractor)
    fitted = single.factorization if isinstance(single, CraftTf) else None
    if fitted is None or fitted.crops is None:
        return None
    images, crops, values = fitted.inputs, np.asarray(fitted.crops), np.asarray(fitted.crops_u)
    if len(crops) % len(images):
        return None
    limits = pixel_limits(np.asarray(images))
    return tuple(
        as_picture(crops[best_crops(of_concept, len(images), count)], limits)
        for of_concept in values.T
    )


def concept_names_of(names: Sequence[str] | None, count: int) -> tuple[str, ...]:
    """A name for each concept; None: their numbers.

    Raises
    ------
    ValueError
    """
    if names is None:
        return tuple(str(i) for i in range(count))
    if isinstance(names, str) or len(names) != count:
        raise ValueError(f"concept_names must be {count} names, not {names!r}")
    return tuple(str(name) for name in names)


def check_class_names(names: Names, count: int) -> None:
    """A sequence has a name for each of the network's classes; a dictionary may have any.

    Raises
    ------
    ValueError
    """
    if names is None or isinstance(names, Mapping):
        return
    if isinstance(names, str) or len(names) != count:
        said = repr(names) if isinstance(names, str) else len(names)
        raise ValueError(
            f"class_names must be {count}, one for each class in order (of a network of one output "
            f"its no and its yes), or a dictionary, not {said}"
        )


def class_name_of(names: Names, class_id: int) -> str:
    """A class's name; "class 3" where it has none.

    Raises
    ------
    ValueError
        If a sequence is too short.
    """
    if names is None:
        return f"class {class_id}"
    if isinstance(names, Mapping):
        return str(names.get(class_id, f"class {class_id}"))
    if isinstance(names, str) or class_id >= len(names):
        raise ValueError(
            f"class_names must have a name for class {class_id}, but are {len(names)}: give one "
            "for each class, in order, or a dictionary"
        )
    return str(names[class_id])
