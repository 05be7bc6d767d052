"""Other networks, or layers, whose concepts were learned before, for the images of a command."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from xplique_dirpairs.commands.console import Console, UsageError, printable
from xplique_dirpairs.commands.images import FolderImages, find_images, read_images
from xplique_dirpairs.commands.network import load_model
from xplique_dirpairs.commands.pixels import preprocessing
from xplique_dirpairs.commands.subject import Subject, input_size, summary_of_fit
from xplique_dirpairs.core.types import Array
from xplique_dirpairs.core.validation import shape_fits
from xplique_dirpairs.extractors.concept_layer import ConceptLayer
from xplique_dirpairs.matching.match_extractors import LEAST_IMAGES
from xplique_dirpairs.models.split import split_model
from xplique_dirpairs.pairs import DirectionPairs

#: Name of the pairs in the folder of a fit or a report.
_PAIRS = "pairs.npz"


class Other(NamedTuple):
    """Concepts of another network, and the images of the command as that network takes them."""

    name: str
    concepts: ConceptLayer
    images: Array


def network_name(model: Path, layer: str | None) -> str:
    """Return the name of a layer of a network in tables: the file's name and the layer."""
    return f"{printable(model.stem)} {layer}"


def open_others(
    subject: Subject, names: Sequence[str], arguments: argparse.Namespace, console: Console
) -> list[Other]:
    """Open the networks of --other, and read the images of the command for each of them.

    Parameters
    ----------
    subject : Subject
        The network of the command and all of its images.
    names : sequence of str
        Names of the images that are wanted, in their order: some or all of the subject's.
    arguments : argparse.Namespace
        Its ``other``, ``other_model``, ``images``, ``max_images``, ``seed`` and ``imports`` are
        used.
    console : Console

    Returns
    -------
    others : list of Other
        With different names, none of which is that of the subject.

    Raises
    ------
    UsageError
        If the networks take videos, or it is not known which model, layer or preprocessing the
        pairs were learned with.
    ValueError
        If the pairs do not fit the layer, or images cannot be read again.
    """
    if subject.images.ndim == 5:
        raise UsageError("--other: concepts of two networks are compared on images, not on videos")
    if len(names) < LEAST_IMAGES:
        raise UsageError(
            f"--other: concepts of two networks are compared on {LEAST_IMAGES} or more images, not "
            f"{len(names)}: give more images, a larger --held-out, or --pairs"
        )
    models = arguments.other_model or [None] * len(arguments.other)
    if len(models) != len(arguments.other):
        raise UsageError(
            f"give one --other-model for each --other, not {len(models)} for {len(arguments.other)}"
        )
    taken = {network_name(arguments.model, subject.split.layer)}
    others = []
    for place, model in zip(arguments.other, models, strict=True):
        console.step(f"open the other network of {printable(place)}")
        other = _opened(place, model, subject, names, arguments)
        name, number = other.name, 2
        while name in taken:
            name, number = f"{other.name} ({number})", number + 1
        taken.add(name)
        others.append(other._replace(name=name))
    return others


def _opened(
    place: Path,
    model_file: Path | None,
    subject: Subject,
    names: Sequence[str],
    arguments: argparse.Namespace,
) -> Other:
    """Open one network: see `open_others`."""
    pairs_file = place / _PAIRS if place.is_dir() else place
    if not pairs_file.exists():
        raise FileNotFoundError(
            f"--other: {printable(place)} holds no {_PAIRS}: give the folder, or the pairs, of an "
            'earlier "fit" or of a "report" that learned them'
        )
    fitted = summary_of_fit(pairs_file)
    if not fitted:
        raise UsageError(
            f"--other: there is no summary.json beside {printable(pairs_file)}, which says what "
            'layer the pairs are of: "fit" and "report" write both'
        )
    path = Path(fitted["model"]) if model_file is None else model_file
    if not path.exists():
        raise UsageError(
            f"--other: the model {printable(path)} is not there: say where it is with "
            "--other-model FILE"
        )
    model = load_model(path, arguments.imports)
    split, prepared = split_model(model, fitted["layer"]), preprocessing(fitted["preprocessing"])
    split = replace(split, input_to_latent_model=prepared.before(split.input_to_latent_model))
    concepts = ConceptLayer.of(DirectionPairs.load(pairs_file), split)
    shape = subject.folder_images.pixels.shape[1:3]
    free = shape_fits(model.input_shape[1:3], shape)
    size, channels = input_size(model, shape if free else None)
    read = _read_again(subject, names, size, channels, arguments)
    return Other(network_name(path, split.layer), concepts, np.asarray(prepared.apply(read.pixels)))


def _read_again(
    subject: Subject,
    names: Sequence[str],
    size: tuple[int, int],
    channels: int,
    arguments: argparse.Namespace,
) -> FolderImages:
    """Read images of the command in another size."""
    files = find_images(arguments.images)
    folders = set(subject.folder_images.folders)
    if folders != {""}:
        files = files.of_classes(folders)
    read = read_images(files, size, channels, arguments.max_images, arguments.seed)
    places = {name: n for n, name in enumerate(read.names.tolist())}
    missing = [name for name in names if name not in places]
    if missing:
        raise ValueError(
            f"{len(missing)} images, such as {missing[0]}, were not found again: the folder must "
            "not change while the command runs"
        )
    return read.part(np.array([places[name] for name in names]))
