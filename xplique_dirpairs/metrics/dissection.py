"""Network Dissection: overlap of detectors with annotated concepts (method section 6).

After D. Bau et al., "Network Dissection", CVPR 2017. Maps z (h, w, I) of an image are upsampled
bilinearly to the resolution of its masks (see `core.geometry`) and detector i fires
where z_i > b_i. Intersections and areas are counted in pixels over a data set, one image in memory
at a time. As in Broden a pixel may have a label in each of several categories; images without any
label of a category do not count for its concepts, while unlabelled pixels of images that have one
count as pixels without the concept. Where masks are exhaustive (`AnnotatedImages`) every image
counts for every category.

Shapes: I detectors, C concepts (all categories one after the other), G categories.
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

#: Reads maps (n, h, w, I) of a batch of images, or of the activations given in their place.
Read = Callable[[Array], ArrayLike]


@dataclass(frozen=True, eq=False)
class Dissection:
    """Pixel counts of every detector with every concept over a data set.

    Attributes
    ----------
    concepts : dict of str to tuple of str
        Names by category.
    thresholds : ndarray of shape (I,)
    intersection : ndarray of shape (I, C), int64
        Pixels of the concept where the detector fires.
    detector_area : ndarray of shape (I, G), int64
        Pixels where the detector fires, of the images that count for the category: those with a
        label of it, or all if the masks are exhaustive.
    concept_area : ndarray of shape (C,), int64
    pixels, images : ndarray of shape (G,), int64
        Of the images that count for the category.
    lowest, highest : ndarray of shape (I,)
        Range of a detector's maps over all images.
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
        """(category, name) of every concept."""
        return flat_concepts(self.concepts)

    @property
    def union(self) -> Array:
        """Pixels of the detector or the concept, (I, C)."""
        area = self.detector_area[:, category_of(self.concepts)]
        return np.asarray(area + self.concept_area - self.intersection)

    @property
    def iou(self) -> Array:
        """φ_i(c): intersection over union, (I, C) in [0, 1], higher is better.

        0 where both are nowhere; NaN for the concepts of a category that no image counts for.
        """
        union = self.union
        iou = np.divide(self.intersection, union, out=np.zeros(union.shape), where=union > 0)
        has_images = (self.images > 0)[category_of(self.concepts)]
        return np.where(has_images, iou, np.nan)

    @property
    def labels(self) -> Array:
        """c*_i = argmax_c φ_i(c), (I,); `NO_LABEL` for a detector that overlaps with no concept."""
        iou = np.nan_to_num(self.iou)
        return np.where(iou.max(axis=1) > 0, iou.argmax(axis=1), NO_LABEL)

    def table(self, best: int = 1) -> Table:
        """Return a table of detectors, best first, with the ``best`` concepts of each."""
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

    Parameters
    ----------
    annotated : Annotated
        Images and masks.
    read : callable
        Images (n, H, W, …) → maps (n, h, w, I), such as
        ``lambda images: pairs.project(g(images))``.
    thresholds : array-like of shape (I,)
        b_i: detector i fires where its upsampled map is above.
    activations : ndarray of shape (N, …), optional
        Of the same images in the same order: given to ``read`` in their place, which saves a pass
        through the network for every extractor.
    batch_size : int, default=32
        Images read at a time; without effect on the result.
    shift : float or (float, float), default=0
        Pixels by which the cells lie farther down and right than usual; see `core.geometry`.

    Returns
    -------
    dissection : Dissection

    Raises
    ------
    ValueError
        If maps, thresholds, masks and activations do not fit one another, or maps are not finite.
    """
    limits = np.asarray(thresholds, np.float32)
    if limits.ndim != 1 or not limits.size or np.isnan(limits).any():
        raise ValueError(
            f"thresholds must be one number for each detector, (I,), not {limits.dtype} "
            f"{limits.shape}{' with NaN' if np.isnan(limits).any() else ''}"
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
        Of a batch of images, by category.
    number : int
        Which image of the batch.
    concepts : dict of str to tuple of str
        Names by category.
    exhaustive : bool
        Whether an image without a label of a category has nothing of it.

    Attributes
    ----------
    shape : tuple of int
        (H, W) of the masks.
    present : ndarray of shape (c,)
        Flat concepts with pixels in the image.
    areas : ndarray of shape (c,)
        Their numbers of pixels.
    categories : ndarray of shape (g,)
        Categories that the image counts for: those with a label in it, or all if its masks are
        exhaustive.
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
        """Return where each concept is in a band of rows, then ones: (c + 1, rows * W) bool."""
        where = [mask[rows].ravel() == numbers[:, None] for mask, numbers in self._masks]
        return np.concatenate([*where, np.ones((1, where[0].shape[1]), bool)])


def count_overlaps(a: Array, b: Array) -> Array:
    """Count the pixels of each row of ``a`` (A, P) in each column of ``b`` (P, B): (A, B) int64.

    A product of single-precision matrices counts exactly up to 2²⁴ pixels.
    """
    products = [
        a[:, part].astype(np.float32) @ b[part].astype(np.float32) for part in slices(len(b), 2**24)
    ]
    return np.asarray(np.array(products).astype(np.int64).sum(axis=0))


# ------------------------------------------------------------------------------ annotated images


def one_thread() -> AbstractContextManager[Any]:
    """Return a context in which numpy's matrix products take one thread.

    The products of one image are small: several threads wait for one another, and on a busy
    machine take a hundred times as long.
    """
    limit: AbstractContextManager[Any] = _BLAS.limit(limits=1, user_api="blas")
    return limit


def is_exhaustive(annotated: Annotated) -> bool:
    """Return whether an image without a label of a category has nothing of it: see `Annotated`."""
    return bool(getattr(annotated, "exhaustive", False))


def category_of(concepts: Mapping[str, tuple[str, ...]]) -> Array:
    """Return the index of each flat concept's category, (C,)."""
    return np.repeat(np.arange(len(concepts)), [len(names) for names in concepts.values()])


def labelled_images(
    annotated: Annotated, read: Read, activations: Any, batch_size: int, detectors: int
) -> Iterator[tuple[LabelledImage, Array]]:
    """Yield the concepts and the maps (h, w, I) of every image, for use on `one_thread`.

    Raises
    ------
    ValueError
        As `read_batches` does.
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
    """Yield maps (n, h, w, I) float32 and masks, batch by batch, checked.

    Raises
    ------
    ValueError
        If there are no images, or maps, masks and activations do not fit.
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
        raise ValueError("there are no annotated images")
    if activations is not None and len(activations) != done:
        raise ValueError(
            f"activations must be of the annotated images, {done} of them, not {len(activations)}"
        )


def _checked_maps(maps: ArrayLike, count: int, detectors: int | None) -> Array:
    array = np.asarray(maps, np.float32)
    if array.ndim != 4 or len(array) != count or not array.size:
        raise ValueError(
            f"read must give maps (n, h, w, I), {count} of them for {count} images, not "
            f"{array.shape}: bring tokens into a grid, and give vectors a height and width of 1"
        )
    if detectors is not None and array.shape[-1] != detectors:
        raise ValueError(f"read gives maps of {array.shape[-1]} detectors for {detectors} expected")
    check_finite("maps", array)
    return array
