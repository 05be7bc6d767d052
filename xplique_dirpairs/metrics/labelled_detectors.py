"""Thresholds and labels of detectors from a training part, scored on a validation part.

Detectors without biases of their own get quantiles of their maps as thresholds. Network Dissection
lets a unit fire on the 0.5 % of all positions where it is highest; for I detectors that share the
positions between them, the top 1/I is as natural. The better of the two on the training part is
used for all detectors of an extractor: a threshold chosen for every detector by itself would make
each one a detector of the most frequent concept.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from xplique_dirpairs.core.batching import as_positions
from xplique_dirpairs.core.geometry import Shift, check_shift, upsampled_bands
from xplique_dirpairs.core.types import Array
from xplique_dirpairs.core.validation import check_integer, check_random_state
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

#: The share of positions on which Network Dissection lets a unit fire.
TOP_SHARE = 0.005

#: Levels of the histogram that quantiles are read from, over the range of a detector.
QUANTILE_LEVELS = 2**16

#: Levels of a detector's map for its average precision, over its range on the training part.
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
    resamples: int = 200,
    random_state: int = 0,
) -> Interpretability:
    """Label detectors on the training part, score them on the validation part.

    Parameters
    ----------
    training, validation : Annotated
        Annotated images; none should be in both.
    read : callable
        Images (n, H, W, …) → maps (n, h, w, I); see `dissect`.
    thresholds : array-like of shape (I,), optional
        The detectors' own biases. None: the top 1/I or the top 0.5 % of the training part,
        whichever is better there (`choose_thresholds`).
    training_activations, validation_activations, batch_size, shift
        As in `dissect`.
    resamples, random_state : int
        As in `score_labels`.

    Returns
    -------
    scores : Interpretability

    Raises
    ------
    ValueError
        If the two parts are of other concepts, and as in `score_labels`: before anything is read
        where it can be.
    """
    _check_settings(validation, dict(training.concepts), shift, resamples, random_state)
    options: dict[str, Any] = {"batch_size": batch_size, "shift": shift}
    training_options = options | {"activations": training_activations}
    if thresholds is None:
        _, dissection = choose_thresholds(training, read, **training_options)
    else:
        dissection = dissect(training, read, thresholds, **training_options)
    return score_labels(
        validation,
        read,
        dissection,
        activations=validation_activations,
        resamples=resamples,
        random_state=random_state,
        **options,
    )


def score_labels(
    annotated: Annotated,
    read: Read,
    dissection: Dissection,
    labels: ArrayLike | None = None,
    *,
    activations: Any = None,
    batch_size: int = 32,
    shift: Shift = 0.0,
    resamples: int = 200,
    random_state: int = 0,
) -> Interpretability:
    """Score detectors on given labels.

    Average precision is read off histograms of `AP_LEVELS` equal steps over each detector's range
    on the training part; values outside count at the ends. The bootstrap weights every image, as it
    is read, by a draw from the Poisson distribution of mean 1 (Hanley and MacGibbon 2006): nothing
    is kept for an image, and equal seeds weight the same images alike for every extractor.

    Parameters
    ----------
    annotated : Annotated
        The validation part, of the concepts of ``dissection``.
    read, activations, batch_size, shift
        As in `dissect`.
    dissection : Dissection
        Of the training part: thresholds, ranges, and labels unless they are given.
    labels : array-like of shape (I,), optional
        Indices of flat concepts, where they are known (supervised detectors); −1 for none.
    resamples : int, default=200
        Of the bootstrap; 0 for none.
    random_state : int, default=0
        Seed of the bootstrap.

    Returns
    -------
    scores : Interpretability

    Raises
    ------
    ValueError
        If the concepts are others, labels are not numbers of concepts, ``resamples`` or
        ``random_state`` is out of range, and as in `dissect`.
    """
    _check_settings(annotated, dissection.concepts, shift, resamples, random_state)
    chosen = dissection.labels if labels is None else np.asarray(labels)
    counts = _LabelCounts(dissection, _checked_labels(chosen, dissection), resamples, random_state)
    detectors = len(dissection.thresholds)
    for image, maps in labelled_images(annotated, read, activations, batch_size, detectors):
        counts.add(image, maps, shift)
    return counts.result()


def _check_settings(
    validation: Annotated,
    concepts: dict[str, tuple[str, ...]],
    shift: Shift,
    resamples: int,
    random_state: int,
) -> None:
    if dict(validation.concepts) != concepts:
        raise ValueError("the validation part has other concepts than the training part")
    check_shift(shift)
    check_integer("resamples", resamples, minimum=0)
    check_random_state(random_state)


def _checked_labels(labels: Array, dissection: Dissection) -> Array:
    count = len(flat_concepts(dissection.concepts))
    shape = dissection.thresholds.shape
    if labels.shape != shape or labels.dtype.kind not in "iu":
        raise ValueError(
            f"labels must be integers of shape {shape}, not {labels.dtype} {labels.shape}"
        )
    if labels.min() < NO_LABEL or labels.max() >= count:
        raise ValueError(
            f"labels must be numbers of concepts, 0 to {count - 1}, or −1 for none; they go from "
            f"{labels.min()} to {labels.max()}"
        )
    return np.asarray(labels, np.int64)


class _LabelCounts:
    """Running counts of detectors, and of all detectors of a label together, with their labels.

    Columns are the I detectors, then the L groups of detectors that share a label.
    """

    def __init__(self, dissection: Dissection, labels: Array, resamples: int, random_state: int):
        self._dissection, self._labels = dissection, labels
        self._groups = np.unique(labels[labels != NO_LABEL])
        self._members = (labels[:, None] == self._groups).astype(np.float32)
        self._column_labels = np.concatenate([labels, self._groups])
        # The appended category, which no image has, is that of `NO_LABEL`, -1.
        categories = np.append(category_of(dissection.concepts), NO_LABEL)
        self._categories = categories[self._column_labels]
        # Rows: pixels of both, of the detector, of the concept; images.
        self._counts = np.zeros((4, len(self._column_labels)), np.int64)
        self._drawn = np.zeros((resamples, *self._counts.shape), np.int64)
        self._rng = check_random_state(random_state)
        self._levels = np.zeros((2, len(labels), AP_LEVELS), np.int64)  # positive, all
        span = dissection.highest - dissection.lowest
        scale = np.divide(AP_LEVELS, span, out=np.zeros(span.shape), where=span > 0)
        self._lowest, self._scale = dissection.lowest.astype(np.float32), scale.astype(np.float32)

    def add(self, image: LabelledImage, maps: Array, shift: Shift) -> None:
        """Count one image, maps (h, w, I)."""
        weights = self._rng.poisson(1.0, len(self._drawn))
        # Row of the own label among the concepts present, or the row of ones.
        rows_of = {label: row for row, label in enumerate(image.present)}
        own = np.array([rows_of.get(label, len(rows_of)) for label in self._column_labels])
        present = own < len(rows_of)
        judged = np.isin(self._categories, image.categories)
        overlaps = np.zeros((len(rows_of) + 1, len(own)), np.int64)
        for rows, values in upsampled_bands(maps, image.shape, shift):
            where = image.indicators(rows)
            fires = values > self._dissection.thresholds
            groups = fires.astype(np.float32) @ self._members > 0
            overlaps += count_overlaps(where, np.concatenate([fires, groups], axis=1))
            self._count_levels(values, where[own].T & present, judged)
        both = overlaps[own, np.arange(len(own))]
        areas = np.append(image.areas, 0)[own]
        counted = np.stack([both * present, overlaps[-1] * judged, areas, judged])
        self._counts += counted
        self._drawn += weights[:, None, None] * counted

    def _count_levels(self, values: Array, has_label: Array, judged: Array) -> None:
        """Add values (P, I) of the judged detectors, and where their labels are, to histograms."""
        columns = np.flatnonzero(judged[: len(self._labels)])
        levels = (values[:, columns] - self._lowest[columns]) * self._scale[columns]
        cells = np.clip(levels, 0, AP_LEVELS - 1).astype(np.intp) + columns * AP_LEVELS
        for counts, chosen in zip(self._levels, (cells[has_label[:, columns]], cells), strict=True):
            counts += np.bincount(chosen.ravel(), minlength=counts.size).reshape(counts.shape)

    def result(self) -> Interpretability:
        """Return the scores of all images counted."""
        dissection, labels, detectors = self._dissection, self._labels, len(self._labels)
        both, area, concept, images = self._counts
        inside, fired, labelled, drawn = np.moveaxis(self._drawn[..., :detectors], 1, 0)
        union = fired + labelled - inside
        resampled = np.divide(inside, union, out=np.zeros(union.shape), where=union > 0)
        resampled[(drawn == 0) & (labels != NO_LABEL)] = np.nan
        training_iou = dissection.iou[np.arange(detectors), labels]
        return Interpretability(
            concepts=dissection.concepts,
            labels=labels,
            thresholds=dissection.thresholds,
            training_iou=np.where(labels == NO_LABEL, 0.0, training_iou),
            intersection=both[:detectors],
            detector_area=area[:detectors],
            concept_area=concept[:detectors],
            images=images[:detectors],
            average_precision=np.where(labels == NO_LABEL, 0.0, average_precision(*self._levels)),
            groups=self._groups,
            group_intersection=both[detectors:],
            group_area=area[detectors:],
            resampled_iou=resampled,
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
    """Compute thresholds above which detectors fire at a share of the positions, or just less.

    Positions are those of the maps before upsampling, as in Network Dissection. Two passes: the
    range of each detector, and a histogram of `QUANTILE_LEVELS` levels over it. The threshold is
    the lowest edge of a level with few enough positions above: at most 1/65536 of the range too
    high.

    Parameters
    ----------
    annotated, read, activations, batch_size
        As in `dissect`.
    shares : sequence of float
        In (0, 1).

    Returns
    -------
    thresholds : ndarray of shape (len(shares), I)

    Raises
    ------
    ValueError
        As in `dissect`.
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
        # A level includes its upper edge, since "above a threshold" excludes the threshold.
        levels = np.clip(np.ceil(steps) - 1, 0, QUANTILE_LEVELS - 1).astype(np.intp)
        for detector_counts, column in zip(counts, levels.T, strict=True):
            detector_counts += np.bincount(column, minlength=QUANTILE_LEVELS)
    above = counts[:, ::-1].cumsum(axis=1)[:, ::-1] - counts  # the upper edge of each level
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
    """Choose the quantiles of detectors' maps with the larger S¹ on the training part.

    Candidates are the top 1/I (1/2 for a single detector) and the top 0.5 % of each detector.

    Parameters
    ----------
    annotated, read, activations, batch_size, shift
        As in `dissect`.

    Returns
    -------
    name : str
        Of the chosen thresholds, such as "top 1/25".
    dissection : Dissection
        Of the training part, with these thresholds.

    Raises
    ------
    ValueError
        As in `dissect`.
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
