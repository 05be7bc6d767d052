"""What `compare` is given, checked: extractors, the network, images, classes; and the controls."""

from __future__ import annotations

from collections.abc import Mapping

import keras
import numpy as np
from numpy.typing import ArrayLike, NDArray
from xplique.concepts import CraftTf, HolisticCraftTf

from xplique_dirpairs.comparison.result import CONTROLS, NO_LEARNING, RANDOM
from xplique_dirpairs.core.validation import as_images, check_images
from xplique_dirpairs.data.activations import compute_activations
from xplique_dirpairs.extractors.reader import (
    Extractor,
    bank_of,
    is_fitted,
    number_of_concepts,
)
from xplique_dirpairs.factorizers.controls import NoLearningFactorizer, RandomFactorizer
from xplique_dirpairs.factorizers.direction_pairs import DirectionPairsFactorizer
from xplique_dirpairs.pairs import DirectionPairs

#: How far, relative to the largest, activations of the same layer may differ between two models.
_SAME = 1e-3


def checked_extractors(
    extractors: Mapping[str, Extractor | DirectionPairs],
) -> dict[str, Extractor]:
    """The extractors, by names that are free; direction pairs become their factorizer.

    Raises
    ------
    TypeError, ValueError
        If there are none, or one is no extractor, or has no name or that of a control.
    """
    if not isinstance(extractors, Mapping):
        raise TypeError(
            f"extractors must be a dictionary, name to extractor, not {type(extractors).__name__}"
        )
    if not extractors:
        raise ValueError("there are no extractors to compare")
    checked: dict[str, Extractor] = {}
    for name, extractor in extractors.items():
        if not isinstance(name, str) or not name.strip():
            raise TypeError(f"names of extractors must be strings, not {name!r}")
        if name in CONTROLS:
            raise ValueError(f"{name!r} is the name of a control: name the extractor otherwise")
        if isinstance(extractor, DirectionPairs):
            extractor = DirectionPairsFactorizer.from_pairs(extractor)
        if not isinstance(extractor, Extractor):
            raise TypeError(
                f"{name!r} must be a CraftTf, a HolisticCraftTf, a ConceptFactorizer or "
                f"DirectionPairs, not {type(extractor).__name__} (of a manager, give one of its "
                "craft_instances)"
            )
        checked[name] = extractor
    return checked


def network_halves(
    extractors: dict[str, Extractor], first: keras.Model | None, second: keras.Model | None
) -> tuple[keras.Model, keras.Model]:
    """The network's halves: the given ones, or those of the first extractor that knows them.

    Raises
    ------
    ValueError
        If one is given without the other, or none is known.
    """
    if (first is None) != (second is None):
        raise ValueError("give both halves of the network, or none")
    if first is not None and second is not None:
        return first, second
    for extractor in extractors.values():
        if isinstance(extractor, CraftTf):
            return extractor.input_to_latent_model, extractor.latent_to_logit_model
    raise ValueError(
        "none of the extractors is a CraftTf that knows the network: give input_to_latent_model "
        "and latent_to_logit_model, from split_model(model, layer)"
    )


def check_same_layer(
    extractors: dict[str, Extractor], first: keras.Model, images: NDArray, activations: NDArray
) -> None:
    """Extractors must be of the layer at which the network is cut.

    Raises
    ------
    ValueError
        With the names of those that are of another layer, or another network.
    """
    shape = " x ".join(str(length) for length in activations.shape[1:])
    others = []
    for name, extractor in extractors.items():
        own = None
        if isinstance(extractor, CraftTf):
            if extractor.input_to_latent_model is not first:
                own = compute_activations(extractor.input_to_latent_model, images)
        elif isinstance(extractor, HolisticCraftTf):
            batches = extractor.latent_extractor.input_to_latent_generator(check_images(images))
            own = np.concatenate([batch.get_activations(as_numpy=True) for batch in batches])
        if is_fitted(extractor) and bank_of(extractor).shape[1] != activations.shape[-1]:
            others.append(f"{name!r} ({bank_of(extractor).shape[1]} channels)")
        elif own is not None and not _are_same(own, activations):
            others.append(f"{name!r} ({' x '.join(str(length) for length in own.shape[1:])})")
    if others:
        raise ValueError(
            f"extractors must all be of the layer at which the network is cut ({shape}), but "
            f"{', '.join(others)} {'are' if len(others) > 1 else 'is'} of another one: compare "
            "layers in one comparison each"
        )


def _are_same(own: NDArray, activations: NDArray) -> bool:
    scale = max(float(np.abs(activations).max()), 1e-12)
    return own.shape == activations.shape and bool(np.abs(own - activations).max() <= _SAME * scale)


def scored_classes(
    labels: ArrayLike | None, logits: NDArray, multilabel: bool
) -> tuple[NDArray, NDArray | None]:
    """The class whose score counts for each image, and the true classes if there are any."""
    if labels is None:
        return logits.argmax(axis=1), None
    classes = np.asarray(labels)
    count, outputs = logits.shape
    if classes.shape == (count,) and outputs == 1:
        classes = classes[:, None]
    if classes.shape == logits.shape:
        if not np.isin(classes, (0, 1)).all():
            raise ValueError(f"labels of shape {classes.shape} must be rows of 0 and 1")
        classes = classes.astype(int)
        if multilabel:  # where no output is meant to say yes, the likeliest counts
            likely = np.where(classes == 1, logits, -np.inf)
            likely = np.where(classes.any(axis=1, keepdims=True), likely, logits)
            return likely.argmax(axis=1), classes
        if (classes.sum(axis=1) != 1).any():
            raise ValueError("labels must be one-hot rows, with a single 1 each")
        classes = classes.argmax(axis=1)
    if classes.shape != (count,) or not np.issubdtype(classes.dtype, np.integer):
        raise ValueError(
            f"labels must be class indices ({count},) or one-hot rows {logits.shape}, not "
            f"{classes.dtype} of shape {classes.shape}"
        )
    if classes.min() < 0 or classes.max() >= outputs:
        raise ValueError(
            f"labels must be classes 0 … {outputs - 1}, but go from {classes.min()} to "
            f"{classes.max()}"
        )
    return classes, None if multilabel else classes


def images_to_fit(
    extractors: dict[str, Extractor], fit_images: ArrayLike | None, controls: bool
) -> NDArray | None:
    """What is fitted here is fitted on these: the given images, or those all were fitted on.

    Raises
    ------
    ValueError
        If some are needed and none are known.
    """
    if fit_images is not None:
        return as_images(fit_images)
    missing = [name for name, extractor in extractors.items() if not is_fitted(extractor)]
    if missing:
        raise ValueError(
            f"{', '.join(map(repr, missing))} are not fitted: fit them, or give fit_images"
        )
    found = [
        np.asarray(extractor.factorization.inputs)
        for extractor in extractors.values()
        if isinstance(extractor, CraftTf)
    ]
    if found and all(np.array_equal(found[0], other) for other in found[1:]):
        return found[0]
    if controls:
        why = "extractors were fitted on different images" if found else "none are known"
        raise ValueError(
            f"the controls are fitted on fit_images, and {why}: give fit_images, or controls=False"
        )
    return None


def controls_for(extractors: dict[str, Extractor], random_state: int) -> dict[str, Extractor]:
    """Both controls, with the commonest number of concepts (of several, the largest).

    Raises
    ------
    ValueError
        If no extractor says how many it has.
    """
    numbers = [number_of_concepts(extractor) for extractor in extractors.values()]
    known = [number for number in numbers if number is not None]
    if not known:
        raise ValueError("no extractor says how many concepts it has: fit one, or controls=False")
    concepts = max(sorted(set(known), reverse=True), key=known.count)
    return {
        RANDOM: RandomFactorizer(concepts, random_state=random_state),
        NO_LEARNING: NoLearningFactorizer(concepts, random_state=random_state),
    }
