"""Network Dissection: the overlap of detectors with annotated concepts.

The method is that of D. Bau et al., "Network Dissection", CVPR 2017. The maps z (h, w, I) of an
image are upsampled bilinearly to the resolution of its masks (see `core.geometry`), and detector i
fires where z_i > b_i. Intersections and areas are counted in pixels over a data set, with one image
in memory at a time. As in the Broden data set, a pixel may have a label in each of several
categories. Images without any label of a category do not count for its concepts, while unlabelled
pixels of images with such a label count as pixels without the concept. If the masks are exhaustive
(`AnnotatedImages`), every image counts for every category.

Shapes: I detectors, C concepts (those of all categories in a row), G categories, maps of h × w
cells, masks of H × W pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from threadpoolctl import ThreadpoolController

from xplique_dirpairs.core.batching import slices
from xplique_dirpairs.core.geometry import Shift, check_shift, upsampled_bands
from xplique_dirpairs.core.tables import Cell, Table
from xplique_dirpairs.core.types import Array
from xplique_dirpairs.core.validation import check_finite
from xplique_dirpairs.data.annotated_images import Annotated, check_masks, flat_concepts

#: The label of a detector that overlaps with no concept.
NO_LABEL = -1

_BLAS = ThreadpoolController()

#: Function that returns the maps (n, h, w, I) of n images, or of activations in place of images.
Read = Callable[[Array], ArrayLike]


@dataclass(frozen=True, eq=False)
class Dissection:
    """Pixel counts of detectors, of annotated concepts and of their overlaps over a data set.

    `dissect` returns it. A detector is a map over each image with a threshold: it fires at the
    pixels where the map, enlarged to the size of the masks, is above the threshold. There are I
    detectors, and C annotated concepts in G categories, such as "object" and "colour". Concepts are
    numbered from 0 to C − 1 through all categories, in the order of ``concepts``.

    An image *counts for* a category if any of its pixels has a label of the category; if the masks
    are declared exhaustive, every image counts for every category.

    Attributes
    ----------
    concepts : dict of str to tuple of str
        Names of the annotated concepts, by category.
    thresholds : ndarray of shape (I,)
        Threshold of each detector, in the units of its map.
    intersection : ndarray of shape (I, C), int64
        Number of pixels of the concept where the detector fires.
    detector_area : ndarray of shape (I, G), int64
        Number of pixels where the detector fires, in the images that count for the category.
    concept_area : ndarray of shape (C,), int64
        Number of pixels of the concept.
    pixels : ndarray of shape (G,), int64
        Number of pixels of the images that count for the category.
    images : ndarray of shape (G,), int64
        Number of images that count for the category.
    lowest : ndarray of shape (I,)
        Smallest value of the detector's maps over all images, before they are enlarged.
    highest : ndarray of shape (I,)
        Largest value of the detector's maps over all images, before they are enlarged.
    """

    concepts: dict[str, tuple[str, ...]]
    thresholds: Array
    intersection: Array
    detector_area: Array
    concept_area: Array
    pixels: Array
    images: Array
    lowest: Array
    highest: Array

    @property
    def flat_concepts(self) -> list[tuple[str, str]]:
        """Tuples (category, name) of all C annotated concepts, in the order of their indices."""
        return flat_concepts(self.concepts)

    @property
    def union(self) -> Array:
        """Number of pixels where a detector fires or a concept is annotated, (I, C) int64.

        There is a row for each of I detectors and a column for each of C concepts. Only the images
        that count for the concept's category (see above) are included.
        """
        area = self.detector_area[:, category_of(self.concepts)]
        return np.asarray(area + self.concept_area - self.intersection)

    @property
    def iou(self) -> Array:
        """Intersection over union of the pixels of a detector and a concept, (I, C) in [0, 1].

        There is a row for each of I detectors and a column for each of C concepts. Higher is
        better. It is 0 if the detector never fires and the concept never occurs, and NaN for the
        concepts of a category for which no image counts.
        """
        union = self.union
        iou = np.divide(self.intersection, union, out=np.zeros(union.shape), where=union > 0)
        has_images = (self.images > 0)[category_of(self.concepts)]
        return np.where(has_images, iou, np.nan)

    @property
    def labels(self) -> Array:
        """Label of each of I detectors, (I,) int: the index of the concept with the largest `iou`.

        It is −1 for a detector that overlaps with no concept.
        """
        iou = np.nan_to_num(self.iou)
        return np.where(iou.max(axis=1) > 0, iou.argmax(axis=1), NO_LABEL)

    def table(self, best: int = 1) -> Table:
        """Return a table of the detectors, highest IoU first, with their best concepts.

        A row holds the detector's index and threshold and, for each of its best concepts, the name,
        the category, and the intersection over union (IoU) with the detector.

        Parameters
        ----------
        best : int, default=1
            Number of concepts to show for each detector, those with the largest IoU first.

        Returns
        -------
        table : Table
        """
        iou, names = np.nan_to_num(self.iou), self.flat_concepts
        best = min(best, len(names))
        rows = []
        for i in np.argsort(-iou.max(axis=1), kind="stable"):
            cells = [Cell(str(i)), Cell.figure(self.thresholds[i])]
            for c in np.argsort(-iou[i], kind="stable")[:best]:
                category, name = names[c]
                cells += [Cell(name), Cell(category), Cell.figure(iou[i, c])]
            rows.append(cells)
        headers = ["detector", "threshold", *["concept", "category", "IoU"] * best]
        return Table(headers, rows)


def dissect(
    annotated: Annotated,
    read: Read,
    thresholds: ArrayLike,
    *,
    activations: Any = None,
    batch_size: int = 32,
    shift: Shift = 0.0,
) -> Dissection:
    """Count the pixels where detectors fire and where concepts are, over annotated images.

    This is Network Dissection (Bau et al., CVPR 2017): the maps of I detectors are enlarged
    bilinearly to the size of the masks, and compared with the thresholds there.

    Parameters
    ----------
    annotated : AnnotatedImages, AnnotatedStream or object with their interface
        N images with a mask for each category, as in `data.annotated_images`. An image without any
        label of a category is left out of the counts for the concepts of this category, unless
        ``annotated.exhaustive`` is true.
    read : callable
        Function of a batch of n images (n, H, W, …) that returns the detectors' maps (n, h, w, I),
        such as ``lambda images: pairs.project(g(images))`` for a network g up to the layer.
    thresholds : array-like of shape (I,)
        Detector i fires where its enlarged map is above ``thresholds[i]``; ``pairs.biases`` for
        projections of direction pairs.
    activations : ndarray of shape (N, …), optional
        Activations of the same images in the same order. They are given to ``read`` in place of the
        images, which saves a pass through the network for every extractor. None: ``read`` gets the
        images.
    batch_size : int, default=32
        Number of images in a batch; it has no effect on the result.
    shift : float or (float, float), default=0
        Offset of the map on the image, in pixels of the image, as one number for both axes or as
        (down, right). 0: the cells of the map divide the image into equal parts. Strided
        convolutions with padding move the cells down and to the right.

    Returns
    -------
    dissection : Dissection
        Counts of pixels, with the intersection over union (IoU) of every detector with every
        concept, and the label of every detector: the concept with its largest IoU.

    Raises
    ------
    ValueError
        If there are no images; if thresholds contain NaN; if the shapes of maps, thresholds, masks
        and activations do not match; or if maps are not finite.
    """
    limits = np.asarray(thresholds, np.float32)
    if limits.ndim != 1 or not limits.size or np.isnan(limits).any():
        raise ValueError(
            "thresholds must be numbers of shape (I,), one for each detector, without NaN, but "
            f"have shape {limits.shape} and {np.isnan(limits).sum()} NaN"
        )
    check_shift(shift)
    concepts = dict(annotated.concepts)
    detectors, count = len(limits), len(flat_concepts(concepts))
    intersection = np.zeros((detectors, count), np.int64)
    detector_area = np.zeros((detectors, len(concepts)), np.int64)
    concept_area = np.zeros(count, np.int64)
    pixels, images = np.zeros((2, len(concepts)), np.int64)
    lowest, highest = np.full(detectors, np.inf), np.full(detectors, -np.inf)
    for image, maps in labelled_images(annotated, read, activations, batch_size, detectors):
        lowest = np.minimum(lowest, maps.min(axis=(0, 1)))
        highest = np.maximum(highest, maps.max(axis=(0, 1)))
        fires = np.zeros((len(image.present) + 1, detectors), np.int64)
        for rows, values in upsampled_bands(maps, image.shape, shift):
            fires += count_overlaps(image.indicators(rows), values > limits)
        intersection[:, image.present] += fires[:-1].T
        concept_area[image.present] += image.areas
        detector_area[:, image.categories] += fires[-1][:, None]
        pixels[image.categories] += image.shape[0] * image.shape[1]
        images[image.categories] += 1
    return Dissection(
        concepts, limits, intersection, detector_area, concept_area, pixels, images, lowest, highest
    )


# ------------------------------------------------------------------------------ one image


class LabelledImage:
    """The concepts of one image.

    Parameters
    ----------
    masks : dict of str to ndarray of shape (n, H, W)
        Masks of a batch of n images, by category.
    number : int
        Index of the image within the batch.
    concepts : dict of str to tuple of str
        Names of the concepts, by category.
    exhaustive : bool
        Whether an image without a label of a category contains none of its concepts.

    Attributes
    ----------
    shape : tuple of int
        Height and width (H, W) of the masks.
    present : ndarray of shape (c,), int
        Indices, among all C concepts, of the c concepts with pixels in the image.
    areas : ndarray of shape (c,), int
        Number of pixels of each of these concepts.
    categories : ndarray of shape (g,), int64
        Indices of the g categories for which the image counts: those with a label in it, or all if
        its masks are exhaustive.
    """

    def __init__(
        self,
        masks: Mapping[str, Array],
        number: int,
        concepts: Mapping[str, tuple[str, ...]],
        exhaustive: bool,
    ):
        self._masks: list[tuple[Array, Array]] = []
        present, areas, categories, start = [], [], [], 0
        for g, (category, names) in enumerate(concepts.items()):
            mask = masks[category][number]
            self.shape = mask.shape
            counts = np.bincount(mask.ravel(), minlength=len(names) + 1)
            numbers = np.flatnonzero(counts[1:]) + 1
            self._masks.append((mask, numbers.astype(mask.dtype)))
            present.append(start + numbers - 1)
            areas.append(counts[numbers])
            if exhaustive or len(numbers):
                categories.append(g)
            start += len(names)
        self.present, self.areas = np.concatenate(present), np.concatenate(areas)
        self.categories = np.array(categories, np.int64)

    def indicators(self, rows: slice) -> Array:
        """Return the pixels of each present concept in a band of rows, followed by a row of ones.

        Parameters
        ----------
        rows : slice
            The band: r rows of the masks.

        Returns
        -------
        indicators : ndarray of shape (c + 1, r · W), bool
        """
        where = [mask[rows].ravel() == numbers[:, None] for mask, numbers in self._masks]
        return np.concatenate([*where, np.ones((1, where[0].shape[1]), bool)])


def count_overlaps(a: Array, b: Array) -> Array:
    """Count the pixels that are in both a row of ``a`` and a column of ``b``, for all pairs.

    A product of single-precision matrices counts exactly up to 2²⁴ pixels, so longer rows are
    counted in parts.

    Parameters
    ----------
    a : ndarray of shape (m, P), bool
        A set of pixels per row.
    b : ndarray of shape (P, n), bool
        A set of pixels per column.

    Returns
    -------
    counts : ndarray of shape (m, n), int64
    """
    products = [
        a[:, part].astype(np.float32) @ b[part].astype(np.float32) for part in slices(len(b), 2**24)
    ]
    return np.asarray(np.array(products).astype(np.int64).sum(axis=0))


# ------------------------------------------------------------------------------ annotated images


def one_thread() -> AbstractContextManager[Any]:
    """Return a context manager that limits numpy's matrix products to one thread.

    The products for one image are small: several threads would mostly wait for one another, and
    take a hundred times as long on a busy machine.
    """
    limit: AbstractContextManager[Any] = _BLAS.limit(limits=1, user_api="blas")
    return limit


def is_exhaustive(annotated: Annotated) -> bool:
    """Return whether images without a label of a category contain none of its concepts.

    See `Annotated`.
    """
    return bool(getattr(annotated, "exhaustive", False))


def category_of(concepts: Mapping[str, tuple[str, ...]]) -> Array:
    """Return the index of each concept's category, (C,)."""
    return np.repeat(np.arange(len(concepts)), [len(names) for names in concepts.values()])


def labelled_images(
    annotated: Annotated, read: Read, activations: Any, batch_size: int, detectors: int
) -> Iterator[tuple[LabelledImage, Array]]:
    """Yield the concepts and the maps (h, w, I) of every image, within `one_thread`.

    Raises
    ------
    ValueError
        If there are no images, or maps, masks and activations do not match.
    """
    concepts, exhaustive = dict(annotated.concepts), is_exhaustive(annotated)
    for maps, masks in read_batches(annotated, read, activations, batch_size, detectors):
        for number, one_map in enumerate(maps):
            with one_thread():
                yield LabelledImage(masks, number, concepts, exhaustive), one_map


def read_batches(
    annotated: Annotated,
    read: Read,
    activations: Any,
    batch_size: int,
    detectors: int | None = None,
) -> Iterator[tuple[Array, Mapping[str, Array]]]:
    """Yield the checked maps (n, h, w, I) float32 and masks of each batch of n images.

    Raises
    ------
    ValueError
        If there are no images, or maps, masks and activations do not match.
    """
    done = 0
    for images, masks in annotated.batches(batch_size):
        count = len(images)
        given = images if activations is None else activations[done : done + count]
        done += count
        if len(given) == count:
            masks = check_masks(masks, annotated.concepts, count)
            yield _checked_maps(read(given), count, detectors), masks
    if not done:
        raise ValueError("there are no annotated images: give at least one")
    if activations is not None and len(activations) != done:
        raise ValueError(
            f"activations must be those of {done} images, not of {len(activations)}: give one "
            "entry for each annotated image, in their order"
        )


def _checked_maps(maps: ArrayLike, count: int, detectors: int | None) -> Array:
    """Return maps (n, h, w, I) as float32, after checking their shape and values."""
    array = np.asarray(maps, np.float32)
    if array.ndim != 4 or len(array) != count or not array.size:
        raise ValueError(
            f"read must return maps of shape ({count}, h, w, I) for {count} images, not "
            f"{array.shape}: bring tokens into a grid, and give vectors a height and width of 1"
        )
    if detectors is not None and array.shape[-1] != detectors:
        raise ValueError(
            f"read must return maps of {detectors} detectors, one per threshold, not of "
            f"{array.shape[-1]}"
        )
    check_finite("maps", array)
    return array
