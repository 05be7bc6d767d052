"""The concepts of several layers of a network, and what is known of them on images."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import keras
import numpy as np

from xplique_dirpairs.core.batching import as_positions, slices
from xplique_dirpairs.core.progress import progress
from xplique_dirpairs.core.types import Array
from xplique_dirpairs.core.validation import Names, check_integer, check_type, errors_of
from xplique_dirpairs.data.images import (
    compute_activations,
    concept_maps,
    crop_at,
    crop_coefficients,
    default_patch,
)
from xplique_dirpairs.extractors.concept_layer import ConceptLayer, as_extractor
from xplique_dirpairs.learning.learner import learn_pairs
from xplique_dirpairs.models.graph import check_keras_model
from xplique_dirpairs.models.segment import segment_model
from xplique_dirpairs.models.split import split_model
from xplique_dirpairs.plots.images import as_picture, pixel_limits

#: Largest number of floats in the sample of positions from which pairs are learned: 128 MB.
_LEARNED_FLOATS = 2**25
#: Largest number of positions of that sample.
LEARNED_POSITIONS = 100_000
#: Number of positions that permuted labels are drawn from.
_SAMPLED = 20_000
#: Share of the positions at which a concept without a detector counts as present.
_FIRING = 0.05


class ConnectomeInterrupted(KeyboardInterrupt):
    """Ctrl-C while a connectome is built.

    Attributes
    ----------
    layers : dict of str to (ConceptLayer or int)
        The layers as they were given, with concepts where they have been learned: with them,
        `build_connectome` does not learn these again.
    """

    def __init__(self, layers: Mapping[str, Any]):
        learned = [name for name, own in layers.items() if isinstance(own, ConceptLayer)]
        super().__init__(
            f"interrupted; the attribute layers has the concepts of {', '.join(learned) or 'none'}"
        )
        self.layers = dict(layers)


def given_layers(
    model: keras.Model, layers: Mapping[str, Any], class_names: Names
) -> dict[str, ConceptLayer | int]:
    """Return what is given for each layer, checked: concepts, or the number that is to be learned.

    The layers must be in the order in which images pass them, each on every path. Raises TypeError
    and ValueError.
    """
    check_keras_model("model", model)
    wanted = (
        "a dict of layer names to extractors or numbers of concepts, such as "
        "{'block_3': 20, 'block_6': 20}"
    )
    check_type("layers", layers, Mapping, wanted)
    if not layers:
        raise ValueError(f"layers is empty, but must be {wanted}")
    names = list(layers)
    for lower, upper in pairwise(names):
        segment_model(model, lower, upper)
    made: dict[str, ConceptLayer | int] = {}
    for name, given in layers.items():
        split, concept_names = split_model(model, name), None
        if isinstance(given, (int, np.integer)):
            check_integer(f"the number of concepts of layer {name!r}", layers[name])
            made[name] = int(given)
            continue
        if isinstance(given, ConceptLayer):
            if given.layer not in (None, split.layer):
                raise ValueError(
                    f"the concepts given for layer {name!r} belong to layer {given.layer!r}"
                )
            concept_names, given = given.concept_names, given.fitted
        else:
            as_extractor(given, f"unless it is a number, what is given for layer {name!r}")
        with errors_of(f"layer {name!r}"):
            made[name] = ConceptLayer.of(
                given, split, class_names=class_names, concept_names=concept_names
            )
    return made


def learn_layers(
    model: keras.Model,
    layers: dict[str, ConceptLayer | int],
    images: Array,
    *,
    class_names: Names,
    batch_size: int,
    random_state: int | None,
    verbose: int,
) -> tuple[ConceptLayer, ...]:
    """Learn pairs at the layers that have a number, put them in its place, and return all layers.

    Raises KeyboardInterrupt on Ctrl-C; the layer that was being learned then keeps its number.
    """
    made = []
    for name, given in layers.items():
        if not isinstance(given, ConceptLayer):
            split = split_model(model, name)
            x = learned_positions(split.input_to_latent_model, images, batch_size, random_state)
            pairs, history = learn_pairs(x, given, random_state=random_state, verbose=verbose)
            if history.interrupted:
                raise KeyboardInterrupt
            given = layers[name] = ConceptLayer.of(pairs, split, class_names=class_names)
        made.append(given)
    return tuple(made)


def learned_positions(
    model: keras.Model, images: Array, batch_size: int, random_state: int | None
) -> Array:
    """Return the features of N images at random positions, the same number S in each, (N, S, D).

    Images stay apart, because the learning looks for images that are unlike all others.
    """
    at_most = min(LEARNED_POSITIONS, _LEARNED_FLOATS // int(model.output_shape[-1]))
    each = max(1, at_most // len(images))
    rng, sampled = np.random.default_rng(random_state), []
    for part in slices(len(images), batch_size):
        x = compute_activations(model, images[part], batch_size)
        x = x.reshape(len(x), -1, x.shape[-1])
        if x.shape[1] > each:
            order = rng.permuted(np.tile(np.arange(x.shape[1]), (len(x), 1)), axis=1)
            x = np.take_along_axis(x, np.sort(order[:, :each], axis=1)[..., None], axis=1)
        sampled.append(x)
    return np.concatenate(sampled)


@dataclass(frozen=True, eq=False)
class Survey:
    """What N images say of the I concepts of a layer.

    Attributes
    ----------
    means : ndarray of shape (N, I)
        Coefficients averaged over the positions of each image.
    shown : ndarray of shape (N, I)
        The same of the coefficients that plots show, ≥ 0: of detections only, for direction pairs.
    centres : ndarray of shape (I, D)
        Mean features at the positions where each concept is shown, weighted by its coefficient; NaN
        for a concept that no image shows.
    crops : tuple of I ndarray of shape (k, patch, patch, C), uint8
        Best crops of each concept, best first, from different images.
    sample : ndarray of shape (S, D)
        Features at random positions.
    logits : ndarray of shape (N, K)
        Logits of the images; of the last layer only, elsewhere (N, 0).
    """

    means: Array
    shown: Array
    centres: Array
    crops: tuple[Array, ...]
    sample: Array
    logits: Array

    @property
    def spreads(self) -> Array:
        """Standard deviation over images of the mean coefficients, (I,)."""
        return np.asarray(self.means.std(axis=0))

    def exemplars(self, concept: int, count: int) -> Array:
        """Return the images that show most of a concept, best first, at most ``count``."""
        values = self.shown[:, concept]
        order = np.argsort(-values, kind="stable")[:count]
        return np.asarray(order[values[order] > 0])

    def detected(self, layer: ConceptLayer) -> Array:
        """Return where each concept is present in the sample, (S, I) bool.

        It is where the concept is detected or, without detectors, the positions with the largest
        coefficients, one in twenty.
        """
        y = layer.detections(self.sample)
        if y is not None:
            return np.asarray(y > 0.5)
        u = layer.shown(self.sample)
        return np.asarray((u > np.quantile(u, 1.0 - _FIRING, axis=0)) & (u > 0))


def survey(
    layer: ConceptLayer,
    images: Array,
    pictures: Array,
    *,
    is_last: bool,
    crops: int,
    batch_size: int,
    random_state: int | None,
    verbose: int,
) -> Survey:
    """Read the concepts of a layer in all images, in batches; crops are cut from ``pictures``."""
    names = ("means", "shown", "values", "places", "logits")
    parts: dict[str, list[Array]] = {name: [] for name in names}
    sums = np.zeros((layer.number_of_concepts, layer.channels))
    weights = np.zeros(layer.number_of_concepts)
    patch, samples = default_patch(images.shape[1:]), []
    starts = range(0, len(images), batch_size)
    per_batch = max(1, _SAMPLED // len(starts))
    rng = np.random.default_rng(random_state)
    for start in progress(starts, len(starts), f"concepts of {layer.layer}", verbose, "batch"):
        chosen = images[start : start + batch_size]
        x = layer.activations(chosen, batch_size)
        u, shown = layer.read(x)
        axes = tuple(range(1, x.ndim - 1))
        flat, flat_shown = as_positions(x), as_positions(shown).astype(np.float64)
        sums += flat_shown.T @ flat
        weights += flat_shown.sum(axis=0)
        maps = concept_maps(shown, images.shape[1:], layer.split.extra_tokens)
        if maps[0, ..., 0].size == 1:
            patch = min(images.shape[1:3])
        values = crop_coefficients(maps, images.shape[1:], patch)
        values = values.reshape(len(maps), -1, maps.shape[-1])
        parts["means"].append(u.mean(axis=axes) if axes else u)
        parts["shown"].append(shown.mean(axis=axes) if axes else shown)
        parts["values"].append(values.max(axis=1))
        parts["places"].append(values.argmax(axis=1))
        picked = rng.choice(len(flat), min(per_batch, len(flat)), replace=False)
        samples.append(flat[np.sort(picked)])
        head = layer.head.by_class(x)
        parts["logits"].append(head.logits(x, len(x)) if is_last else np.zeros((len(x), 0)))
    stacked = {name: np.concatenate(rows) for name, rows in parts.items()}
    limits = pixel_limits(pictures)
    crops_of_concepts = []
    for strength, places in zip(stacked["values"].T, stacked["places"].T, strict=True):
        order = np.argsort(-strength, kind="stable")[:crops]
        cut = [crop_at(pictures[n], int(places[n]), patch) for n in order[strength[order] > 0]]
        shape = (-1, patch, patch, pictures.shape[-1])
        picture = as_picture(np.reshape(np.asarray(cut, pictures.dtype), shape), limits)
        crops_of_concepts.append((255 * picture + 0.5).astype(np.uint8))
    with np.errstate(invalid="ignore"):
        centres = (sums / weights[:, None]).astype(np.float32)
    return Survey(
        stacked["means"],
        stacked["shown"],
        centres,
        tuple(crops_of_concepts),
        np.concatenate(samples),
        stacked["logits"],
    )
