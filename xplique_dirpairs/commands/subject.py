"""The subject of a command: a network that is cut at a layer, and images with their classes."""

from __future__ import annotations

import argparse
import json
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import keras
import numpy as np

from xplique_dirpairs.commands.class_folders import Matching, matchings, settled
from xplique_dirpairs.commands.class_names import ClassNames
from xplique_dirpairs.commands.console import Console, UsageError, as_json, listed, printable
from xplique_dirpairs.commands.images import FolderImages, ImageFiles, find_images, read_images
from xplique_dirpairs.commands.network import candidates, layers_text, load_model
from xplique_dirpairs.commands.pixel_range import find_preprocessing
from xplique_dirpairs.commands.pixels import Preprocessing, preprocessing
from xplique_dirpairs.commands.videos import find_videos, read_video
from xplique_dirpairs.core.batching import slices
from xplique_dirpairs.core.concept_names import NAMES_FILE
from xplique_dirpairs.core.progress import progress, quiet
from xplique_dirpairs.core.types import Array
from xplique_dirpairs.core.validation import check_concepts, shape_fits
from xplique_dirpairs.data.images import compute_activations
from xplique_dirpairs.extractors.concept_layer import ConceptLayer
from xplique_dirpairs.models.split import SplitModel, split_model
from xplique_dirpairs.pairs import DirectionPairs
from xplique_dirpairs.version import __version__

#: Name of the JSON file with the settings and results of a command, in its output folder.
SUMMARY = "summary.json"
#: Number of images that pass through the network at a time.
_BATCH = 64


@dataclass(frozen=True, eq=False)
class Subject:
    """A network that is cut at a layer, and N images.

    Attributes
    ----------
    split : SplitModel
        The halves of the network. The first half takes `images`; the head has a column for each
        class.
    preprocessing : Preprocessing
        The step from pixels to the input of the network.
    folder_images : FolderImages
        The images as they were read, with their names and folders.
    images : ndarray of shape (N, height, width, C) or (N, T, height, width, C)
        Images, or videos of T frames: uint8 pixels, or the output of the user's preprocessing
        function for them.
    labels : ndarray of shape (N,), int, or None
        Class of each image; None if the folders are not the classes of the model.
    class_names : ClassNames
        Names of the outputs of the model.
    verbose : int, default=0
        0 shows no progress of the images through the network.
    """

    split: SplitModel
    preprocessing: Preprocessing
    folder_images: FolderImages
    images: Array
    labels: Array | None
    class_names: ClassNames
    verbose: int = 0

    @cached_property
    def activations(self) -> Array:
        """Activations of all images, ndarray of shape (N, *spatial, D)."""
        model, parts = self.split.input_to_latent_model, list(slices(len(self.images), _BATCH))
        shown = progress(parts, len(parts), "features", self.verbose, "batch")
        return np.concatenate([compute_activations(model, self.images[part]) for part in shown])

    @property
    def known_activations(self) -> Array | None:
        """The activations if they have been computed before; None otherwise."""
        known: Array | None = self.__dict__.get("activations")
        return known

    @cached_property
    def predicted(self) -> Array:
        """The predicted class of each image, ndarray of shape (N,)."""
        head = self.split.head.checked_on(self.activations)
        classes: Array = head.predict(head.pool(self.activations)).argmax(axis=1)
        return classes

    @property
    def class_ids(self) -> Array:
        """The labels, or the predicted classes if there are none, ndarray of shape (N,)."""
        return self.predicted if self.labels is None else self.labels

    @property
    def channels(self) -> int:
        """The number of channels of the layer, D."""
        return int(self.split.input_to_latent_model.output_shape[-1])

    def concepts(self, pairs: DirectionPairs, path: Path) -> ConceptLayer:
        """Return pairs as concepts at the layer, with the names that the user gave them.

        Parameters
        ----------
        pairs : DirectionPairs
        path : Path
            File of the pairs. The names are read from a file `NAMES_FILE` beside it, if there is
            one.

        Returns
        -------
        concepts : ConceptLayer

        Raises
        ------
        ValueError
            If the layer has another number of channels than the pairs, or the names do not fit.
        """
        names = path.with_name(NAMES_FILE)
        return ConceptLayer.of(
            pairs,
            self.split,
            class_names=self.class_names.shown,
            concept_names=names if names.exists() else None,
        )

    def part(self, chosen: Array) -> Subject:
        """Return the subject with the chosen images only; computed activations are kept.

        ``chosen`` is an array of indices or a boolean mask.
        """
        labels = None if self.labels is None else self.labels[chosen]
        folder_images, images = self.folder_images.part(chosen), self.images[chosen]
        part = replace(self, folder_images=folder_images, images=images, labels=labels)
        if self.known_activations is not None:
            part.__dict__["activations"] = self.known_activations[chosen]
        return part

    def parts(self, share: float, seed: int) -> tuple[Subject, Subject]:
        """Divide the images into a part to learn from and a share of every class to measure on.

        Parameters
        ----------
        share : float
            Share of each class to measure on, in [0, 1).
        seed : int
            Seed of the division.

        Returns
        -------
        to_fit : Subject
        to_measure : Subject
            If there are too few images to divide, both are the whole subject.
        """
        rng = np.random.default_rng(seed)
        measured = []
        groups = self.folder_images.folders if self.labels is None else self.labels
        for k in np.unique(groups):
            members = rng.permutation(np.flatnonzero(groups == k))
            measured.append(members[: min(round(share * len(members)), len(members) - 1)])
        chosen = np.sort(np.concatenate(measured))
        if not len(chosen):
            return self, self
        return self.part(np.setdiff1d(np.arange(len(self.images)), chosen)), self.part(chosen)

    def summary(self, arguments: argparse.Namespace, class_ids: Array) -> dict[str, Any]:
        """Return the settings of a command and the images it used.

        Parameters
        ----------
        arguments : argparse.Namespace
        class_ids : ndarray of int
            Classes of the images; the summary lists their names.

        Returns
        -------
        summary : dict of str to object
        """
        return {
            "command": arguments.command,
            "version": __version__,
            "model": arguments.model,
            "seed": arguments.seed,
            "layer": self.split.layer,
            "weights": _checksum(self.split.input_to_latent_model),
            "preprocessing": self.preprocessing.name,
            "images": {
                "found": self.folder_images.file_count,
                "used": len(self.images),
                "shape": list(self.folder_images.pixels.shape[1:]),
                "skipped": [file._asdict() for file in self.folder_images.skipped],
            },
            "classes": {str(k): self.class_names.shown[k] for k in np.unique(class_ids).tolist()},
            "classes_are": "predicted" if self.labels is None else "of the folders",
        }

    def write_summary(
        self,
        arguments: argparse.Namespace,
        results: Mapping[str, Any],
        written: Sequence[str],
        console: Console,
    ) -> dict[str, Any]:
        """Write the summary of a command to ``summary.json`` in its output folder.

        Parameters
        ----------
        arguments : argparse.Namespace
        results : mapping of str to object
            Results of the command, which `plain_data` must be able to convert to JSON.
        written : sequence of str
            Names of the files of the command.
        console : Console
            Knows which of them could not be written; the summary does not list these.

        Returns
        -------
        summary : dict of str to object
            The settings (see `summary`), the results and the names of the files.
        """
        summary = self.summary(arguments, self.class_ids) | dict(results)
        present = [name for name in written if not console.has_failed(arguments.output / name)]
        summary |= {"output": arguments.output, "written": [*present, SUMMARY]}
        path = arguments.output / SUMMARY
        remaining = _written_before(path).difference(written, [SUMMARY])
        if remaining:
            names = listed([printable(name) for name in sorted(remaining)])
            console.note(f"files of an earlier run are still in {arguments.output}/: {names}")
        with console.writing(path):
            path.write_text(as_json(summary) + "\n", encoding="utf-8")
        return summary


def _written_before(summary: Path) -> set[str]:
    """Return which files of an earlier summary's run are still in its folder."""
    try:
        written = json.loads(summary.read_text(encoding="utf-8"))["written"]
        return {name for name in written if (summary.parent / name).is_file()}
    except (OSError, ValueError, LookupError, TypeError):  # there is none, or it is something else
        return set()


def open_subject(arguments: argparse.Namespace, console: Console) -> Subject:
    """Load the network and read the images that the arguments of a command name.

    Parameters
    ----------
    arguments : argparse.Namespace
        Values of the options that all commands with images share.
    console : Console

    Returns
    -------
    subject : Subject

    Raises
    ------
    UsageError
        If the layer is missing (the message lists the candidates), or the preprocessing or size.
    FileNotFoundError, ValueError
        If an argument does not fit the network or the images.
    """
    fitted = summary_of_fit(getattr(arguments, "pairs", None))
    _check_pairs(arguments)
    console.step("load the model")
    model = load_model(arguments.model, arguments.imports)
    split = _split(model, arguments, fitted)
    learned_with = fitted.get("preprocessing")
    known = arguments.preprocessing or learned_with
    prepared = None if known is None else preprocessing(known)
    if fitted and known != learned_with:
        console.note(f"--preprocessing {known}: the pairs were learned with {learned_with}")
    weights = _checksum(split.input_to_latent_model)
    if fitted.get("weights", weights) != weights:
        console.note(
            f"{printable(arguments.pairs)} was learned from a model with other weights: its "
            "concepts need not be those of this model. Learn pairs from this one"
        )
    size, channels = input_size(model, arguments.size)
    frames = input_frames(model, arguments.frames)

    files = find_inputs(arguments.images, frames)
    for note in files.notes:
        console.note(note)
    number = split.head.number_of_classes
    assert number is not None  # it is always known for a Keras model
    own_names = split.head.class_names
    choices = matchings(files.classes, number, arguments.class_names, console, own_names)
    class_names, class_of = choices[0].names, choices[0].classes
    chosen = class_names.chosen(arguments.classes or [])
    wanted = listed([class_names.shown[k] for k in chosen])
    if class_of is not None and chosen:
        files = files.of_classes([name for name, k in class_of.items() if k in chosen])
        if not files.by_class:
            raise ValueError(f"--classes: no class folder holds images of {wanted}")
    elif class_of is not None:
        class_names.check_all_found(class_of)

    console.step(
        f"read {'images' if frames is None else 'videos'} of {printable(arguments.images)}"
    )
    read = read_inputs(files, size, channels, frames, arguments, console.progress)
    console.skipped = [f"{name}: {reason}" for name, reason in read.skipped]
    if prepared is None:
        console.step("find out what pixels the model takes")
        prepared, reason = _found_preprocessing(model, split, read, choices)
        console.note(reason)
    subject = replace(_subject(split, prepared, read, choices[0]), verbose=console.progress)
    if class_of is not None:
        return _settled(subject, choices, arguments.classes or [], console)
    if not chosen:
        return subject
    members = np.flatnonzero(np.isin(subject.predicted, chosen))
    if not len(members):
        raise ValueError(f"--classes: the network predicts {wanted} for none of the images")
    return subject.part(members)


def _check_pairs(arguments: argparse.Namespace) -> None:
    """Raise an error early if --pairs cannot be read, or lacks a concept of --suppress."""
    path = getattr(arguments, "pairs", None)
    if path is None:
        return
    pairs = DirectionPairs.load(path)
    suppressed = getattr(arguments, "suppress", None)
    if suppressed is not None:
        check_concepts(suppressed, pairs.number_of_concepts)


def summary_of_fit(pairs: Path | None) -> dict[str, Any]:
    """Return the summary that "fit" or "report" wrote beside the pairs; empty without one."""
    if pairs is None:
        return {}
    try:
        summary = json.loads(pairs.with_name(SUMMARY).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    is_known = isinstance(summary, dict) and summary.get("command") in ("fit", "report")
    return summary if is_known and "layer" in summary else {}


def _checksum(half: keras.Model) -> str:
    """Return a checksum of the weights of a network's first half, which determine its features."""
    checksum = 0
    for weight in half.weights:
        array = np.ascontiguousarray(keras.ops.convert_to_numpy(weight))
        checksum = zlib.crc32(array.tobytes(), checksum)
    return f"{checksum:08x}"


def _split(
    model: keras.Model, arguments: argparse.Namespace, fitted: Mapping[str, Any]
) -> SplitModel:
    """Cut the model at --layer, or else at the layer where the pairs were learned."""
    name = arguments.layer or fitted.get("layer")
    if name is None:
        table = layers_text(candidates(model))
        raise UsageError(f"choose a layer with --layer NAME:\n\n{table}")
    is_number = name.lstrip("-").isdigit() and all(layer.name != name for layer in model.layers)
    split = split_model(model, int(name) if is_number else name)
    if fitted and split.layer != fitted["layer"]:
        raise ValueError(
            f"--layer: {printable(arguments.pairs)} was learned at {fitted['layer']!r}, not at "
            f"{name!r}: leave --layer out, or learn pairs at this layer"
        )
    channels = np.zeros((1, 1))  # unused: a Keras model knows its number of outputs
    return replace(split, head=split.head.by_class(channels))


def input_size(model: keras.Model, wanted: tuple[int, int] | None) -> tuple[tuple[int, int], int]:
    """Return ((height, width), channels) of the input of the model."""
    shape = model.input_shape
    if len(shape) not in (4, 5) or shape[-1] not in (1, 3):
        raise ValueError(
            "the model must take images (N, height, width, 1 or 3 channels) or videos (N, T, "
            f"height, width, 1 or 3 channels), not {shape}"
        )
    height, width, channels = shape[-3:]
    if wanted is None:
        if height is None or width is None:
            raise UsageError("the model takes images of any size: give --size 224, or 224x320")
        return (height, width), channels
    if not shape_fits((height, width), wanted):
        raise UsageError(f"--size {wanted[0]}x{wanted[1]}: the model takes {height}x{width} only")
    return wanted, channels


def input_frames(model: keras.Model, wanted: int | None) -> int | None:
    """Return the number of frames of the videos that the model takes; None if it takes images."""
    if len(model.input_shape) == 4:
        if wanted is not None:
            raise UsageError("--frames: the model takes images, not videos")
        return None
    frames: int | None = model.input_shape[1]
    if frames is None and wanted is None:
        raise UsageError("the model takes videos of any length: give --frames 16")
    if None not in (frames, wanted) and frames != wanted:
        raise UsageError(f"--frames {wanted}: the model takes videos of {frames} frames only")
    return wanted if frames is None else frames


def find_inputs(folder: Path, frames: int | None) -> ImageFiles:
    """Return the images of a folder, or its videos if the model takes videos of some frames."""
    return find_images(folder) if frames is None else find_videos(folder)


def read_inputs(
    files: ImageFiles,
    size: tuple[int, int],
    channels: int,
    frames: int | None,
    arguments: argparse.Namespace,
    verbose: int = 0,
) -> FolderImages:
    """Read the images, or videos, that the arguments of a command ask for: see `read_images`."""
    read = None if frames is None else partial(read_video, frames=frames)
    return read_images(
        files, size, channels, arguments.max_images, arguments.seed, verbose, read=read
    )


def _subject(
    split: SplitModel, prepared: Preprocessing, read: FolderImages, matching: Matching
) -> Subject:
    """Return the subject of images as they were read."""
    split = replace(split, input_to_latent_model=prepared.before(split.input_to_latent_model))
    images, labels = prepared.apply(read.pixels), matching.labels(read.folders)
    return Subject(split, prepared, read, images, labels, matching.names)


def _found_preprocessing(
    model: keras.Model, split: SplitModel, read: FolderImages, choices: Sequence[Matching]
) -> tuple[Preprocessing, str]:
    """Find the preprocessing by the network's layers, or else by how often it is right."""

    def predict(prepared: Preprocessing, chosen: Array) -> Array:
        return _subject(split, prepared, read.part(chosen), choices[0]).predicted

    labellings = [one.labels(read.folders) for one in choices]
    known = [labels for labels in labellings if labels is not None]
    with quiet():
        return find_preprocessing(model, read.pixels, known, predict)


def _settled(
    subject: Subject, choices: Sequence[Matching], classes: Sequence[str], console: Console
) -> Subject:
    """Return the subject with the labels that the network's predictions agree with.

    Raises
    ------
    ValueError
        If --classes names other folders by these labels.
    """
    if not choices[0].how:
        return subject
    folders = subject.folder_images.folders
    best = choices[settled(choices, folders, subject.predicted, console)]
    labels = best.labels(folders)
    if classes and not np.isin(np.asarray(labels), best.names.chosen(classes)).all():
        raise ValueError(
            f"--classes: the class folders are matched to outputs {best.how}: give the names of "
            "the folders, or --class-names FILE"
        )
    new = replace(subject, labels=labels, class_names=best.names)
    new.__dict__.update({name: subject.__dict__[name] for name in ("activations", "predicted")})
    return new


def shown_classes(
    subject: Subject, class_ids: Array, arguments: argparse.Namespace, console: Console
) -> list[int]:
    """Return the classes with enough images for tables, pictures and importances.

    The console notes in one line which others there are.

    Parameters
    ----------
    subject : Subject
    class_ids : ndarray of shape (N,), int
        Class of each image.
    arguments : argparse.Namespace
        Its ``min_images`` is the smallest number of images. It does not apply to classes that
        ``classes`` names, nor if no class has as many images.
    console : Console

    Returns
    -------
    classes : list of int
        In the order of their numbers of images, the most first.
    """
    classes, counts = np.unique(class_ids, return_counts=True)
    order = np.argsort(-counts, kind="stable")
    classes, counts = classes[order], counts[order]
    enough, needed = counts >= arguments.min_images, f"{arguments.min_images} images (--min-images)"
    if arguments.classes or enough.all():
        return [int(k) for k in classes]
    if not enough.any():
        console.note(f"none of the {len(classes)} classes has {needed}: all are shown")
        return [int(k) for k in classes]
    few = zip(classes[~enough], counts[~enough], strict=True)
    names = listed([f"{subject.class_names.shown[k]} ({count})" for k, count in few])
    console.note(
        f"{(~enough).sum()} classes with fewer than {needed} are left out of tables, pictures and "
        f"importances: {names}"
    )
    return [int(k) for k in classes[enough]]


def given_concepts(
    subject: Subject, arguments: argparse.Namespace, console: Console
) -> ConceptLayer | None:
    """Return the pairs of --pairs as concepts at the layer; None if the option is not given.

    The problems of their fit, which "fit" has stored beside them, become notes.
    """
    path = arguments.pairs
    problems = summary_of_fit(path).get("problems")
    for problem in problems if isinstance(problems, list) else []:
        console.note(f"when the pairs were learned: {problem}")
    return subject.concepts(DirectionPairs.load(path), path) if path else None
