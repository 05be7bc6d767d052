"""What a command is about: a network, cut at a layer, and images with their classes."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from xplique_dirpairs.commands.class_names import (
    ClassNames,
    check_all_found,
    outputs_of_folders,
    read_class_names,
)
from xplique_dirpairs.commands.console import Console, UsageError, listed, printable
from xplique_dirpairs.commands.image_folder import ImageFiles, Skipped, find_images, read_images
from xplique_dirpairs.commands.layers import candidates, layers_table, suggestion
from xplique_dirpairs.commands.model_file import load_model
from xplique_dirpairs.commands.preprocessing import Preprocessing, preprocessing
from xplique_dirpairs.data.activations import compute_activations
from xplique_dirpairs.learning.recipe import get_recipe
from xplique_dirpairs.models.head import Head
from xplique_dirpairs.models.split import split_model
from xplique_dirpairs.models.two_classes import no_and_yes
from xplique_dirpairs.pairs import DirectionPairs

#: What a command did, in the folder it wrote to.
SUMMARY = "summary.json"


@dataclass(frozen=True, eq=False)
class Subject:
    """A network and images.

    Attributes
    ----------
    model
        As it was loaded.
    layer
    preprocessing
    first, second
        Halves of the network; the first takes `images`. The second of a model of one output has
        two, no and yes.
    images : (N, height, width, C)
        uint8 pixels, or what a preprocessing function of the user's made of them.
    pictures : (N, height, width, C) uint8
    names : N of them
        Paths within the folder.
    folders : (N,) int
        Which folder each image is of.
    labels : (N,) int or None
        Classes, where the folders are the model's outputs.
    class_names
    skipped, found
        Files that could not be read, and how many there are.
    """

    model: keras.Model
    layer: str | int
    preprocessing: Preprocessing
    first: keras.Model
    second: keras.Model
    images: NDArray
    pictures: NDArray
    names: tuple[str, ...]
    folders: NDArray
    labels: NDArray | None
    class_names: ClassNames
    skipped: tuple[Skipped, ...] = field(default=())
    found: int = 0

    @cached_property
    def head(self) -> Head:
        """The second half."""
        return Head(self.second)

    @cached_property
    def activations(self) -> NDArray:
        """Of all images, (N, *spatial, D)."""
        return compute_activations(self.first, self.images)

    @cached_property
    def predicted(self) -> NDArray:
        """The classes that the network sees, (N,)."""
        return self.head.predict(self.head.pool(self.activations)).argmax(axis=1)

    @property
    def ids(self) -> NDArray:
        """The classes of the folders, or those that the network sees, (N,)."""
        return self.predicted if self.labels is None else self.labels

    def part(self, chosen: NDArray) -> Subject:
        """With some of the images only."""
        return replace(
            self,
            images=self.images[chosen],
            pictures=self.pictures[chosen],
            names=tuple(self.names[n] for n in chosen),
            folders=self.folders[chosen],
            labels=None if self.labels is None else self.labels[chosen],
        )

    def parts(self, share: float, seed: int) -> tuple[Subject, Subject]:
        """Images to learn from, and such a share of every folder to measure on.

        Both are all images where so few leave none to measure on.
        """
        rng = np.random.default_rng(seed)
        measured = []
        of = self.folders if self.labels is None else self.labels
        for k in np.unique(of):
            members = rng.permutation(np.flatnonzero(of == k))
            measured.append(members[: min(round(share * len(members)), len(members) - 1)])
        chosen = np.sort(np.concatenate(measured))
        if not len(chosen):
            return self, self
        return self.part(np.setdiff1d(np.arange(len(self.images)), chosen)), self.part(chosen)

    @property
    def patch_size(self) -> int:
        """Side of crops, in pixels: a little less than a third of an image."""
        return max(1, round(0.3 * min(self.images.shape[1:3])))

    def about(self) -> dict[str, Any]:
        """What the result was made with, for its summary."""
        return {
            "layer": str(self.layer),
            "preprocessing": self.preprocessing.name,
            "images": {
                "found": self.found,
                "used": len(self.images),
                "shape": list(self.pictures.shape[1:]),
                "skipped": [one._asdict() for one in self.skipped],
            },
            "classes": {str(k): self.class_names.shown[k] for k in np.unique(self.ids).tolist()},
            "classes_are": "predicted" if self.labels is None else "of the folders",
        }


def open_subject(arguments: argparse.Namespace, console: Console) -> Subject:
    """The network and images that a command's arguments name.

    Raises
    ------
    UsageError
        If the layer is left out (with a table of candidates), or the preprocessing or size cannot
        be told.
    FileNotFoundError, ValueError, …
        If something is not as said.
    """
    get_recipe(getattr(arguments, "recipe", "default"))  # says what is wrong before images are read
    console.step("load the model")
    model = load_model(arguments.model, arguments.imports)
    before = _beside(getattr(arguments, "pairs", None))
    layer = _layer(model, arguments.layer, before.get("layer"))
    first, second = split_model(model, layer)
    if before and _layer_name(model, layer) != _layer_name(model, _layer(model, before["layer"])):
        raise ValueError(
            f"--layer: {printable(arguments.pairs)} was learned at {before['layer']!r}, not at "
            f"{arguments.layer!r}: leave --layer out, or learn pairs there"
        )
    name = arguments.preprocessing or before.get("preprocessing")
    prepared = preprocessing(name, model)
    if before and prepared.name != before.get("preprocessing"):
        console.note(
            f"--preprocessing {prepared.name}: the pairs were learned with "
            f"{before.get('preprocessing')}"
        )
    size, channels = _input_size(model, arguments.size)

    files = find_images(arguments.images)
    for note in files.notes:
        console.note(note)
    number = int(model.outputs[0].shape[-1])
    if number == 1:
        number, second = 2, no_and_yes(second)
    class_names, outputs = _classes(arguments, files, number, console)
    chosen = class_names.chosen(arguments.classes) if arguments.classes else None
    if outputs is not None and chosen is not None:
        files = files.of_classes([name for name, k in outputs.items() if k in chosen])
        if not files.files:
            wanted = listed([class_names.shown[k] for k in chosen])
            raise ValueError(f"--classes: no class folder holds images of {wanted}")
    elif outputs is not None:
        check_all_found(outputs, class_names)

    console.step(f"read images of {printable(arguments.images)}")
    read = read_images(files, size, channels, arguments.max_images, arguments.seed)
    console.skipped = [f"{name}: {reason}" for name, reason in read.skipped]
    labels = None
    if outputs is not None:
        labels = np.array([outputs[name] for name in read.classes])[read.folders]
    subject = Subject(
        model=model, layer=layer, preprocessing=prepared,
        first=prepared.before(first), second=second,
        images=prepared.of(read.pixels), pictures=read.pixels, names=read.names,
        folders=read.folders, labels=labels, class_names=class_names,
        skipped=read.skipped, found=read.found,
    )  # fmt: skip
    if chosen is not None and labels is None:
        seen = np.flatnonzero(np.isin(subject.predicted, chosen))
        if not len(seen):
            wanted = listed([class_names.shown[k] for k in chosen])
            raise ValueError(f"--classes: the network sees none of the images as {wanted}")
        return subject.part(seen)
    return subject


def _beside(pairs: Path | None) -> dict[str, Any]:
    """What is said of pairs in the folder they are in; nothing if they lie alone."""
    if pairs is None:
        return {}
    try:
        found = json.loads(pairs.with_name(SUMMARY).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    is_ours = isinstance(found, dict) and found.get("command") == "fit" and "layer" in found
    return found if is_ours else {}


def _layer_name(model: keras.Model, layer: str | int) -> str:
    count = len(model.layers)
    is_place = isinstance(layer, int) and -count <= layer < count
    return model.layers[layer].name if is_place else str(layer)


def _layer(model: keras.Model, wanted: str | None, known: str | None = None) -> str | int:
    name = wanted or known
    if name is None:
        found = candidates(model)
        best = suggestion(found)
        start = f"\n\nStart with --layer {best}" if best else ""
        raise UsageError(f"say which layer, with --layer NAME:\n\n{layers_table(found)}{start}")
    is_number = name.lstrip("-").isdigit() and all(one.name != name for one in model.layers)
    return int(name) if is_number else name


def _input_size(model: keras.Model, wanted: tuple[int, int] | None) -> tuple[tuple[int, int], int]:
    """((height, width), channels) of the images that the model takes."""
    shape = model.input_shape
    if len(shape) != 4:
        raise ValueError(f"the model must take images (N, height, width, channels), not {shape}")
    _, height, width, channels = shape
    if channels not in (1, 3):
        raise ValueError(
            f"the model must take images of 1 or 3 channels, which come last, not {shape}"
        )
    if wanted is None:
        if height is None or width is None:
            raise UsageError("the model takes images of any size: give --size 224, or 224x320")
        return (height, width), channels
    if any(n is not None and n != m for n, m in zip((height, width), wanted, strict=True)):
        raise UsageError(f"--size {wanted[0]}x{wanted[1]}: the model takes {height}x{width} only")
    return wanted, channels


def _classes(
    arguments: argparse.Namespace, files: ImageFiles, number: int, console: Console
) -> tuple[ClassNames, dict[str, int | None] | None]:
    """Names of the outputs, and the output of each class folder, where these belong together."""
    if arguments.class_names is not None:
        names = read_class_names(arguments.class_names, number)
        return names, outputs_of_folders(files.classes, names) if files.classes else None
    if files.classes and len(files.classes) == number:
        names = ClassNames(tuple((name,) for name in files.classes))
        return names, {name: k for k, name in enumerate(files.classes)}
    if files.classes:
        console.note(
            f"{len(files.classes)} class folders for {number} outputs: the classes are those that "
            "the network predicts. --class-names FILE tells which folder is which output"
        )
    return ClassNames.unknown(number), None


def load_pairs(path: Path, subject: Subject) -> DirectionPairs:
    """Pairs from a file, which must be of the subject's layer.

    Raises
    ------
    ValueError
        If the file holds none, or they are of other features.
    """
    pairs = DirectionPairs.load(path)
    channels = subject.second.input_shape[-1]
    if channels is not None and channels != pairs.channels:
        raise ValueError(
            f"--pairs: {printable(path)} is of a layer of {pairs.channels} channels, but "
            f"{subject.layer!r} has {channels}: give the layer they were learned at"
        )
    return pairs


def shown_classes(ids: NDArray, at_most: int) -> Sequence[int]:
    """The classes with the most images, by number."""
    found, counts = np.unique(ids, return_counts=True)
    return np.sort(found[np.argsort(-counts, kind="stable")[:at_most]]).tolist()
