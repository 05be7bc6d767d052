"""Concepts that the figures of a comparison show, and the files of these figures."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

from xplique_dirpairs.comparison.extractor_result import ExtractorResult, upright_maps
from xplique_dirpairs.core.types import Array
from xplique_dirpairs.data.images import best_crops_of_images
from xplique_dirpairs.plots.comparison import AlignedConcept, ConceptMap, counterparts
from xplique_dirpairs.plots.images import as_picture, pixel_limits


def contributing_concepts(
    result: ExtractorResult, image: int, image_shape: tuple[int, ...], n: int
) -> list[ConceptMap]:
    """Return the n concepts of an extractor that contribute most to an image's class.

    Parameters
    ----------
    result : ExtractorResult
        Measurements of the extractor.
    image : int
        Index of one of the comparison's images.
    image_shape : tuple of int
        Shape of an image, (height, width, channels).
    n : int
        Upper limit on the number of concepts.

    Returns
    -------
    concepts : list of ConceptMap
        Concepts with their maps, those of the largest contribution first.
    """
    maps = upright_maps(result.shown[image : image + 1], image_shape)[0]
    contributions = result.fidelity.contributions[image]
    chosen = np.argsort(-contributions, kind="stable")[:n]
    return [ConceptMap(int(i), contributions[i], maps[..., i]) for i in chosen]


def aligned_concepts(
    images: Array, first: ExtractorResult, second: ExtractorResult, n: int, nb_crops: int
) -> list[AlignedConcept]:
    """Match the concepts of two extractors one to one by the correlations of their maps.

    Parameters
    ----------
    images : ndarray of shape (N, height, width, channels)
        Images on which both extractors were measured.
    first, second : ExtractorResult
        Measurements of the two extractors.
    n : int
        Upper limit on the number of pairs of concepts.
    nb_crops : int
        Upper limit on the number of crops of each concept.

    Returns
    -------
    aligned : list of AlignedConcept
        Pairs of concepts with their crops, those of the largest correlation first.
    """
    ours, theirs = (upright_maps(each.shown, images.shape[1:]) for each in (first, second))
    # `counterparts` finds the partners of the extractor with fewer concepts.
    swapped = ours.shape[-1] > theirs.shape[-1]
    partners, correlations = counterparts(*((theirs, ours) if swapped else (ours, theirs)))
    order = np.argsort(-correlations, kind="stable")[:n]
    ours_order, theirs_order = (partners[order], order) if swapped else (order, partners[order])
    limits = pixel_limits(images)
    pictures = [
        [as_picture(crops, limits) for crops in best_crops_of_images(images, maps, nb_crops)]
        for maps in (ours[..., ours_order], theirs[..., theirs_order])
    ]
    matches = zip(ours_order, theirs_order, correlations[order], *pictures, strict=True)
    return [AlignedConcept(*match) for match in matches]


def aligned_stems(first: str, others: Sequence[str]) -> list[str]:
    """Return a file name without ending for the figure of one extractor with each other one.

    Parameters
    ----------
    first : str
        Name of an extractor.
    others : sequence of str
        Names of the extractors that it is drawn with.

    Returns
    -------
    stems : list of str
        Different names, made of letters, digits, "-" and "_" only.
    """
    stems, counts = [], Counter[str]()
    for other in others:
        stem = f"aligned_{_file_name(first)}_{_file_name(other)}"
        counts[stem] += 1
        stems.append(stem if counts[stem] == 1 else f"{stem}_{counts[stem]}")
    return stems


def write_figures(draw: Mapping[str, Callable[[], Figure]], folder: Path) -> list[Path]:
    """Draw figures one after another, and write each as PNG and SVG.

    Parameters
    ----------
    draw : dict of str to callable
        Functions that return a figure, by file name without ending.
    folder : Path
        Folder to write to.

    Returns
    -------
    paths : list of Path
        The files that were written.
    """
    paths = []
    for stem, plot in draw.items():
        figure = plot()
        for ending in ("png", "svg"):
            paths.append(folder / f"{stem}.{ending}")
            figure.savefig(paths[-1], dpi=150, bbox_inches="tight")
        plt.close(figure)
    return paths


def _file_name(name: str) -> str:
    """Return a text that can be part of a file name on any system."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:40] or "extractor"
