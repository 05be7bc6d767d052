"""Thresholds and labels of detectors from a training part, scored on a validation part.

Detectors that have no biases get quantiles of their maps as thresholds. In Network Dissection, a
unit fires at the 0.5 % of all positions where its value is highest; for I detectors that divide the
positions among themselves, the top 1/I is equally natural. Whichever of the two is better on the
training part is used for all detectors of an extractor. If a threshold were chosen for each
detector separately, every one would become a detector of the most frequent concept.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from xplique_dirpairs.core.batching import as_positions
from xplique_dirpairs.core.geometry import Shift, check_shift, upsampled_bands
from xplique_dirpairs.core.types import Array
from xplique_dirpairs.data.annotated_images import Annotated, flat_concepts
from xplique_dirpairs.metrics.dissection import (
    NO_LABEL,
    Dissection,
    LabelledImage,
    Read,
    category_of,
    count_overlaps,
    dissect,
    labelled_images,
    read_batches,
)
from xplique_dirpairs.metrics.interpretability import Interpretability, average_precision

#: The share of positions at which a unit fires in Network Dissection.
TOP_SHARE = 0.005

#: Number of levels of the histogram over a detector's range, from which quantiles are computed.
QUANTILE_LEVELS = 2**16

#: Number of levels for the average precision, over a detector's range on the training part.
AP_LEVELS = 4096


def interpretability(
    training: Annotated,
    validation: Annotated,
    read: Read,
    thresholds: ArrayLike | None = None,
    *,
    training_activations: Any = None,
    validation_activations: Any = None,
    batch_size: int = 32,
    shift: Shift = 0.0,
) -> Interpretability:
    """Label detectors with annotated concepts on training images, and score them on others.

    The label of a detector is the concept with the largest intersection over union (IoU) of their
    pixels in the training images, as in Network Dissection (Bau et al., CVPR 2017). A detector is a
    map over each image with a threshold above which it fires.

    Parameters
    ----------
    training : AnnotatedImages, AnnotatedStream or object with their interface
        Images with masks by which labels are chosen, as in `data.annotated_images`.
    validation : AnnotatedImages, AnnotatedStream or object with their interface
        Images with masks of the same concepts, on which the scores are measured. They should differ
        from the training images.
    read : callable
        Function of a batch of n images (n, H, W, …) that returns the maps (n, h, w, I) of I
        detectors, such as ``lambda images: pairs.project(g(images))`` for a network g up to the
        layer.
    thresholds : array-like of shape (I,), optional
        Detector i fires where its map, enlarged to the size of the masks, is above
        ``thresholds[i]``; ``pairs.biases`` for projections of direction pairs. None: each detector
        fires at its highest 1/I of the cells of all training maps, or at the highest 0.5 %,
        whichever gives the larger sum of IoUs with the labels in the training images.
    training_activations : ndarray of shape (N, …), optional
        Activations of the N training images, given to ``read`` in their place, which saves a pass
        through the network. None: ``read`` gets the images.
    validation_activations : ndarray of shape (M, …), optional
        The same for the M validation images.
    batch_size : int, default=32
        Number of images in a batch; it has no effect on the result.
    shift : float or (float, float), default=0
        Offset of the map on the image, in pixels of the image: see `dissect`.

    Returns
    -------
    scores : Interpretability
        IoU, precision, recall, F1 and average precision of every detector on its label, and the
        scores S¹ and S² over all detectors.

    Raises
    ------
    ValueError
        If the two parts have different concepts; if ``shift`` is invalid; or if the shapes of maps,
        masks, thresholds and activations do not match.
    """
    _check_settings(validation, dict(training.concepts), shift)
    options: dict[str, Any] = {"batch_size": batch_size, "shift": shift}
    training_options = options | {"activations": training_activations}
    if thresholds is None:
        _, dissection = choose_thresholds(training, read, **training_options)
    else:
        dissection = dissect(training, read, thresholds, **training_options)
    return score_labels(validation, read, dissection, activations=validation_activations, **options)


def score_labels(
    annotated: Annotated,
    read: Read,
    dissection: Dissection,
    labels: ArrayLike | None = None,
    *,
    activations: Any = None,
    batch_size: int = 32,
    shift: Shift = 0.0,
) -> Interpretability:
    """Score detectors on labels that are known: the second half of `interpretability`.

    Average precision is computed from a histogram of the values of each detector's enlarged maps,
    with 4096 equal steps over their range in the training images; values outside this range are
    moved to its ends. For I detectors, the result holds 13·I bytes of counts for each image.

    Parameters
    ----------
    annotated : AnnotatedImages, AnnotatedStream or object with their interface
        N validation images with masks of the same concepts as ``dissection``.
    read : callable
        Function of a batch of n images (n, H, W, …) that returns the maps (n, h, w, I) of the I
        detectors, the same as for `dissect`.
    dissection : Dissection
        What `dissect` returned for the training images: thresholds, ranges of the maps, and labels
        unless ``labels`` is given.
    labels : array-like of shape (I,), optional
        For each detector, the index of its label among the concepts of all categories, such as
        ``SupervisedPairs.labels``; −1 for no label. None: the labels of ``dissection``.
    activations : ndarray of shape (N, …), optional
        Activations of the images, given to ``read`` in their place. None: ``read`` gets the images.
    batch_size : int, default=32
        Number of images in a batch; it has no effect on the result.
    shift : float or (float, float), default=0
        Offset of the map on the image, in pixels of the image: see `dissect`.

    Returns
    -------
    scores : Interpretability
        Scores of every detector on its label, and over all detectors.

    Raises
    ------
    ValueError
        If the concepts differ from those of ``dissection``; if labels are not indices of concepts;
        if ``shift`` is invalid; or if the shapes of maps, masks and activations do not match.
    """
    _check_settings(annotated, dissection.concepts, shift)
    chosen = dissection.labels if labels is None else np.asarray(labels)
    counts = _LabelCounts(dissection, _checked_labels(chosen, dissection))
    detectors = len(dissection.thresholds)
    for image, maps in labelled_images(annotated, read, activations, batch_size, detectors):
        counts.add(image, maps, shift)
    return counts.result()


def _check_settings(
    validation: Annotated, concepts: dict[str, tuple[str, ...]], shift: Shift
) -> None:
    """Raise a ValueError if the settings of the validation part are invalid."""
    if dict(validation.concepts) != concepts:
        raise ValueError(
            "training and validation images must have the same concepts in the same order, not "
            f"{concepts} and {dict(validation.concepts)}"
        )
    check_shift(shift)


def _checked_labels(labels: Array, dissection: Dissection) -> Array:
    """Return labels (I,) as int64, after checking that they are indices of concepts."""
    count = len(flat_concepts(dissection.concepts))
    shape = dissection.thresholds.shape
    if labels.shape != shape or labels.dtype.kind not in "iu":
        raise ValueError(
            f"labels must be integers of shape {shape}, not {labels.dtype} {labels.shape}"
        )
    if labels.min() < NO_LABEL or labels.max() >= count:
        raise ValueError(
            f"labels must be indices of concepts from 0 to {count - 1}, or −1 for none, not "
            f"integers from {labels.min()} to {labels.max()}"
        )
    return np.asarray(labels, np.int64)


class _LabelCounts:
    """Pixel counts of detectors in each image, and of all detectors of a label in all images.

    The columns of the counts are the I detectors, followed by the L distinct labels.
    """

    def __init__(self, dissection: Dissection, labels: Array):
        self._dissection, self._labels = dissection, labels
        self._distinct = np.unique(labels[labels != NO_LABEL])
        self._members = (labels[:, None] == self._distinct).astype(np.float32)
        self._column_labels = np.concatenate([labels, self._distinct])
        # The label `NO_LABEL`, -1, is given a category that no image has: the last entry.
        categories = np.append(category_of(dissection.concepts), NO_LABEL)
        self._categories = categories[self._column_labels]
        # For each image, counts (3, I) and whether it is judged (I,): see `Interpretability`.
        self._image_counts: list[Array] = []
        self._judged: list[Array] = []
        # Rows: pixels of the intersection and of the detectors.
        self._joint_counts = np.zeros((2, len(self._distinct)), np.int64)
        # Histograms of the pixels of the label, and of all pixels.
        self._levels = np.zeros((2, len(labels), AP_LEVELS), np.int64)
        span = dissection.highest - dissection.lowest
        scale = np.divide(AP_LEVELS, span, out=np.zeros(span.shape), where=span > 0)
        self._lowest, self._scale = dissection.lowest.astype(np.float32), scale.astype(np.float32)

    def add(self, image: LabelledImage, maps: Array, shift: Shift) -> None:
        """Add one image with maps (h, w, I) to the counts."""
        # For each column, the row of its label among the concepts that are present in the image. A
        # label that is not present gets the row of ones, whose counts are masked below.
        rows_of = {label: row for row, label in enumerate(image.present)}
        own = np.array([rows_of.get(label, len(rows_of)) for label in self._column_labels])
        present = own < len(rows_of)
        judged = np.isin(self._categories, image.categories)
        overlaps = np.zeros((len(rows_of) + 1, len(own)), np.int64)
        for rows, values in upsampled_bands(maps, image.shape, shift):
            where = image.indicators(rows)
            fires = values > self._dissection.thresholds
            joint = fires.astype(np.float32) @ self._members > 0
            overlaps += count_overlaps(where, np.concatenate([fires, joint], axis=1))
            self._count_levels(values, where[own] & present[:, None], judged)
        both = overlaps[own, np.arange(len(own))]
        areas = np.append(image.areas, 0)[own]
        counts = np.stack([both * present, overlaps[-1] * judged, areas])
        detectors = len(self._labels)
        self._joint_counts += counts[:2, detectors:]
        kind = np.int32 if counts.max() <= np.iinfo(np.int32).max else np.int64
        self._image_counts.append(counts[:, :detectors].astype(kind))
        self._judged.append(judged[:detectors].copy())

    def _count_levels(self, values: Array, has_label: Array, judged: Array) -> None:
        """Add the values (P, I) of the judged detectors to the histograms.

        ``has_label``, (I or more, P), tells which of the P pixels belong to each column's label.
        """
        columns = np.flatnonzero(judged[: len(self._labels)])
        levels = (values[:, columns].T - self._lowest[columns, None]) * self._scale[columns, None]
        cells = np.clip(levels, 0, AP_LEVELS - 1, out=levels).astype(np.intp, order="C")
        for column, own_cells in zip(columns, cells, strict=True):  # few levels stay in the cache
            labelled = own_cells[has_label[column]]
            self._levels[0, column] += np.bincount(labelled, minlength=AP_LEVELS)
            self._levels[1, column] += np.bincount(own_cells, minlength=AP_LEVELS)

    def result(self) -> Interpretability:
        """Return the scores over all images that were added."""
        dissection, labels, detectors = self._dissection, self._labels, len(self._labels)
        training_iou = dissection.iou[np.arange(detectors), labels]
        return Interpretability(
            concepts=dissection.concepts,
            labels=labels,
            thresholds=dissection.thresholds,
            training_iou=np.where(labels == NO_LABEL, 0.0, training_iou),
            image_counts=np.stack(self._image_counts),
            judged=np.stack(self._judged),
            average_precision=np.where(labels == NO_LABEL, 0.0, average_precision(*self._levels)),
            distinct_labels=self._distinct,
            joint_intersection=self._joint_counts[0],
            joint_area=self._joint_counts[1],
        )


# ------------------------------------------------------------------------------ thresholds


def quantile_thresholds(
    annotated: Annotated,
    read: Read,
    shares: Sequence[float],
    *,
    activations: Any = None,
    batch_size: int = 32,
) -> Array:
    """Compute thresholds with which detectors fire at a given share of the positions at most.

    Positions are the cells of the maps before upsampling, as in Network Dissection. A first pass
    over the images finds the range of each detector, and a second one counts a histogram with
    `QUANTILE_LEVELS` levels over this range. The threshold is the lowest edge between levels above
    which the share of the positions is small enough; it exceeds the exact quantile by at most
    1/65536 of the range.

    Parameters
    ----------
    annotated : Annotated
        Images and their masks.
    read : callable
        Function of images (n, H, W, …) that returns maps (n, h, w, I); see `dissect`.
    shares : sequence of float
        Shares of the positions, in (0, 1).
    activations : ndarray of shape (N, …), optional
        Activations of the images, given to ``read`` in their place.
    batch_size : int, default=32
        Number of images in a batch; it has no effect on the result.

    Returns
    -------
    thresholds : ndarray of shape (len(shares), I)

    Raises
    ------
    ValueError
        If there are no images, maps, masks and activations do not match, or maps are not finite.
    """

    def blocks() -> Iterator[Array]:
        for maps, _ in read_batches(annotated, read, activations, batch_size):
            yield as_positions(maps)

    ranges = np.array([(block.min(axis=0), block.max(axis=0)) for block in blocks()], np.float64)
    lowest, highest = ranges[:, 0].min(axis=0), ranges[:, 1].max(axis=0)
    width = (highest - lowest) / QUANTILE_LEVELS
    counts = np.zeros((len(lowest), QUANTILE_LEVELS), np.int64)
    for block in blocks():
        steps = np.divide(block - lowest, width, out=np.zeros(block.shape), where=width > 0)
        # A level includes its upper edge, because "above a threshold" excludes the threshold.
        levels = np.clip(np.ceil(steps) - 1, 0, QUANTILE_LEVELS - 1).astype(np.intp)
        for detector_counts, column in zip(counts, levels.T, strict=True):
            detector_counts += np.bincount(column, minlength=QUANTILE_LEVELS)
    # Number of positions above the upper edge of each level.
    above = counts[:, ::-1].cumsum(axis=1)[:, ::-1] - counts
    total = counts.sum(axis=1, keepdims=True)
    edges = [(above <= share * total).argmax(axis=1) + 1 for share in shares]
    return np.asarray(lowest + width * np.array(edges), np.float32)


def choose_thresholds(
    annotated: Annotated,
    read: Read,
    *,
    activations: Any = None,
    batch_size: int = 32,
    shift: Shift = 0.0,
) -> tuple[str, Dissection]:
    """Choose the quantiles of the detectors' maps that give the larger S¹ on the training part.

    The candidates are the top 1/I (1/2 for a single detector) and the top 0.5 % of the positions of
    each detector.

    Parameters
    ----------
    annotated : Annotated
        Images and masks of the training part.
    read : callable
        Function of images (n, H, W, …) that returns maps (n, h, w, I); see `dissect`.
    activations : ndarray of shape (N, …), optional
        Activations of the images, given to ``read`` in their place.
    batch_size : int, default=32
        Number of images in a batch; it has no effect on the result.
    shift : float or (float, float), default=0
        Number of pixels by which the cells lie farther down and to the right; see `dissect`.

    Returns
    -------
    name : str
        Name of the chosen thresholds, such as "top 1/25".
    dissection : Dissection
        Result on the training part with these thresholds.

    Raises
    ------
    ValueError
        If there are no images, maps, masks and activations do not match, or maps are not finite.
    """
    options: dict[str, Any] = {"activations": activations, "batch_size": batch_size}
    maps, _ = next(read_batches(annotated, read, activations, batch_size))
    parts = max(maps.shape[-1], 2)
    shares = {f"top 1/{parts}": 1 / parts, f"top {TOP_SHARE:.1%}": TOP_SHARE}
    candidates = quantile_thresholds(annotated, read, list(shares.values()), **options)
    dissections = {
        name: dissect(annotated, read, thresholds, shift=shift, **options)
        for name, thresholds in zip(shares, candidates, strict=True)
    }
    return max(dissections.items(), key=lambda item: np.nan_to_num(item[1].iou).max(axis=1).sum())
