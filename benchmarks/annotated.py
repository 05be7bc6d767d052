"""Annotated images and the layer of a network, for several benchmarks."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray
from real_network import load_data

from xplique_dirpairs.data.annotated_images import AnnotatedImages
from xplique_dirpairs.data.images import compute_activations
from xplique_dirpairs.datasets.annotated_scenes import (
    LAYER,
    annotated_scenes,
    train_scene_network,
)
from xplique_dirpairs.models.head import Head
from xplique_dirpairs.models.split import split_model

#: Seeds of the scenes for the network, the extractors and the scores.
NETWORK_SEED, TRAINING_SEED, VALIDATION_SEED = 0, 1, 2
#: Numbers of images: of the network's training, of the training part, of the validation part.
NETWORK_IMAGES, TRAINING_IMAGES, VALIDATION_IMAGES = 5000, 1000, 1000


@dataclass(frozen=True, eq=False)
class AnnotatedLayer:
    """Two parts of annotated images, and their activations at a layer.

    Attributes
    ----------
    name
        Of the layer.
    model : keras.Model
    head : Head
        From the layer to the classes.
    training, validation : AnnotatedImages
    x_training, x_validation : (N, h, w, D)
        Activations.
    about
        Source of data and network, for the settings of kept files.
    groups : (N,) or None
        Photograph of each image of the validation part, if several are of one photograph.
    """

    name: str
    model: keras.Model
    head: Head
    training: AnnotatedImages
    validation: AnnotatedImages
    x_training: NDArray
    x_validation: NDArray
    about: dict[str, Any]
    groups: NDArray | None = None


def add_scene_options(parser) -> None:
    """Add options for the numbers of scenes."""
    for name, default, what in (
        ("network", NETWORK_IMAGES, "the network is trained on, once"),
        ("training", TRAINING_IMAGES, "concepts are learned from, and labels are from"),
        ("validation", VALIDATION_IMAGES, "everything is scored on"),
    ):
        parser.add_argument(
            f"--{name}-images", type=int, default=default, metavar="N", help=f"scenes that {what}"
        )


def scene_network(folder: Path, images: int = NETWORK_IMAGES) -> keras.Model:
    """Return the network of the scenes, trained once and kept in the folder."""
    path = folder / f"scene_network_{images}.keras"
    if path.exists():
        return keras.models.load_model(path)
    print(f"training the scenes' network on {images} scenes", flush=True)
    scenes = annotated_scenes(images, seed=NETWORK_SEED)
    model = train_scene_network(scenes.images, scenes.labels, verbose=0)
    folder.mkdir(parents=True, exist_ok=True)
    model.save(path)
    return model


def scene_layer(arguments) -> AnnotatedLayer:
    """Return the trained network on new scenes; options of `add_scene_options`."""
    model = scene_network(arguments.output, arguments.network_images)
    about = {"network": arguments.network_images}
    made = layer_of_scenes(model, arguments.training_images, arguments.validation_images, about)
    predicted = made.head.logits(made.x_validation).argmax(axis=1)
    right = np.mean(predicted == made.validation.labels)
    print(f"the network is right about {right:.1%} of the validation scenes", flush=True)
    return made


def layer_of_scenes(
    model: keras.Model, training: int, validation: int, about: dict[str, Any]
) -> AnnotatedLayer:
    """Return a network built as `scene_network`, trained on a number of scenes."""
    g, h = split_model(model, LAYER)
    parts = (
        annotated_scenes(training, seed=TRAINING_SEED),
        annotated_scenes(validation, seed=VALIDATION_SEED),
    )
    activations = [compute_activations(g, part.images) for part in parts]
    about = about | {"scenes": training, "layer": LAYER}
    return AnnotatedLayer(LAYER, model, Head(h), *parts, *activations, about)


def clothing_layers(folder: Path, layers: list[str], seed: int = 0) -> Iterator[AnnotatedLayer]:
    """Return the real network on photographs with clothing masks, split in half by photograph.

    The part of a file's name before "_" identifies its photograph.
    """
    data = load_data(folder)
    images, masks, names = data.clothing()
    paths = sorted((folder / "clothing" / "images").glob("*.jpg"))
    groups = np.unique([path.stem.split("_")[0] for path in paths], return_inverse=True)[1]
    # There are no classes: the photograph takes the place of the label, so that it is split, too.
    annotated = AnnotatedImages.from_one_mask(
        images, masks, names, category="clothing", labels=groups
    )
    parts = annotated.split(0.5, groups=groups, random_state=seed)
    model = data.model()
    for layer in layers:
        g, h = split_model(model, layer)
        activations = [compute_activations(g, data.preprocess(part.images)) for part in parts]
        about = {"layer": layer, "photographs": len(parts[0])}
        groups = parts[1].labels
        yield AnnotatedLayer(layer, model, Head(h), *parts, *activations, about, groups)
