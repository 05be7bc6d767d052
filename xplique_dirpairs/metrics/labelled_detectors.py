"""Detectors against their labels, counted over a validation part: what `Interpretability` is of."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from xplique_dirpairs.core.geometry import Shift, check_shift, upsampled_bands
from xplique_dirpairs.core.validation import check_integer, check_random_state
from xplique_dirpairs.metrics.dissection import (
    NO_LABEL,
    Annotated,
    Dissection,
    LabelledImage,
    Read,
    category_of,
    category_starts,
    count_overlaps,
    dissect,
    flat_concepts,
    is_exhaustive,
    one_thread,
    read_batches,
)
from xplique_dirpairs.metrics.interpretability import Interpretability, average_precision
from xplique_dirpairs.metrics.thresholds import choose_thresholds

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
    training, validation
        Annotated images; none should be in both.
    read
        Images (n, H, W, …) → maps (n, h, w, I); see `dissect`.
    thresholds : (I,), optional
        The detectors' own biases. None: the top 1/I or the top 0.5 % of the training part,
        whichever is better there (`choose_thresholds`).
    training_activations, validation_activations, batch_size, shift
        As of `dissect`.
    resamples, random_state
        As of `score_labels`.

    Returns
    -------
    scores

    Raises
    ------
    ValueError
        If the two parts are of other concepts, and as of `score_labels`: before anything is read
        where it can be.
    """
    _check_settings(validation, dict(training.concepts), shift, resamples, random_state)
    how: dict[str, Any] = {"batch_size": batch_size, "shift": shift}
    of_training = how | {"activations": training_activations}
    if thresholds is None:
        dissection = choose_thresholds(training, read, **of_training).dissection
    else:
        dissection = dissect(training, read, thresholds, **of_training)
    return score_labels(
        validation,
        read,
        dissection,
        activations=validation_activations,
        resamples=resamples,
        random_state=random_state,
        **how,
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
    """Score detectors on labels from elsewhere.

    Average precision is read off histograms of `AP_LEVELS` equal steps over each detector's range
    on the training part; what lies outside counts at the ends. The bootstrap gives every image a
    weight from the Poisson distribution of mean 1 as it comes (Hanley and MacGibbon 2006): nothing
    is kept for an image, and equal seeds weight the same images alike for every extractor.

    Parameters
    ----------
    annotated
        The validation part, of the concepts of ``dissection``.
    read, activations, batch_size, shift
        As of `dissect`.
    dissection
        Of the training part: thresholds, ranges, and labels unless they are given.
    labels : (I,), optional
        Numbers of flat concepts, where they are known (supervised detectors); −1 for none.
    resamples
        Of the bootstrap; 0 for none.
    random_state

    Returns
    -------
    scores

    Raises
    ------
    ValueError
        If the concepts are others, labels are not numbers of concepts, ``resamples`` or
        ``random_state`` is out of range, and as of `dissect`.
    """
    _check_settings(annotated, dissection.concepts, shift, resamples, random_state)
    chosen = dissection.labels if labels is None else np.asarray(labels)
    counts = _LabelCounts(dissection, _checked_labels(chosen, dissection), resamples, random_state)
    detectors = len(dissection.thresholds)
    exhaustive = is_exhaustive(annotated)
    for maps, masks in read_batches(annotated, read, activations, batch_size, detectors):
        for number, one_map in enumerate(maps):
            image = LabelledImage(masks, number, counts.concepts, counts.starts, exhaustive)
            with one_thread():
                counts.add(image, one_map, shift)
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


def _checked_labels(labels: NDArray, dissection: Dissection) -> NDArray:
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
    return labels.astype(np.int64)


class _LabelCounts:
    """Running counts of detectors, and of detectors of one label together, with their labels.

    The I detectors and the L groups of detectors of a label stand one after the other.
    """

    def __init__(self, dissection: Dissection, labels: NDArray, resamples: int, random_state: int):
        self.dissection, self.labels = dissection, labels
        self.concepts = dissection.concepts
        self.starts = category_starts(self.concepts)
        self.groups = np.unique(labels[labels != NO_LABEL])
        members = [np.flatnonzero(labels == label) for label in self.groups]
        self._first = np.array([found[0] for found in members], np.int64)
        self._several = [(g, found) for g, found in enumerate(members) if len(found) > 1]
        self._all_labels = np.concatenate([labels, self.groups])
        categories = category_of(self.concepts)[self._all_labels]
        self._categories = np.where(self._all_labels == NO_LABEL, NO_LABEL, categories)
        # rows: pixels of both, of the detector, of the concept; images
        self._counts = np.zeros((4, len(self._all_labels)), np.int64)
        self._drawn = np.zeros((resamples, *self._counts.shape), np.int64)
        self._rng = check_random_state(random_state)
        detectors = len(labels)
        self._levels = np.zeros((2, detectors, AP_LEVELS), np.int64)  # positive, all
        span = dissection.highest - dissection.lowest
        self._lowest = dissection.lowest.astype(np.float32)
        scale = np.divide(AP_LEVELS, span, out=np.zeros(span.shape), where=span > 0)
        self._scale = scale.astype(np.float32)

    def add(self, image: LabelledImage, maps: NDArray, shift: Shift) -> None:
        """Count one image, maps (h, w, I)."""
        weights = self._rng.poisson(1.0, len(self._drawn))
        judged = np.isin(self._categories, image.categories)
        if not judged.any():
            return
        row = np.full(len(flat_concepts(self.concepts)), len(image.present))
        row[image.present] = np.arange(len(image.present))
        own = row[
            self._all_labels
        ]  # where the own label is among those present, or the row of ones
        present = judged & (own < len(image.present))
        overlaps = np.zeros((len(image.present) + 1, len(own)), np.int64)
        for rows, values in upsampled_bands(maps, image.shape, shift):
            where = image.indicators(rows)
            overlaps += count_overlaps(where, self._with_groups(values))
            self._count_levels(values, where, own, judged, present)
        every = np.arange(len(own))
        areas = np.concatenate([image.areas, [0]])
        both = overlaps[own, every] * present
        counted = np.stack([both, overlaps[-1], areas[own] * present, judged])
        counted[:, ~judged] = 0
        self._counts += counted
        self._drawn += weights[:, None, None] * counted

    def _with_groups(self, values: NDArray) -> NDArray:
        """Where each detector fires, and any of each group, (P, I + L) bool."""
        fires = values > self.dissection.thresholds
        groups = fires[:, self._first]
        for g, members in self._several:
            groups[:, g] = fires[:, members].any(axis=1)
        return np.concatenate([fires, groups], axis=1)

    def _count_levels(
        self, values: NDArray, where: NDArray, own: NDArray, judged: NDArray, present: NDArray
    ) -> None:
        """Histograms of values (P, I) of the judged detectors."""
        detectors = len(self.labels)
        columns = np.flatnonzero(judged[:detectors])
        chosen = values if len(columns) == detectors else values[:, columns]
        levels = chosen - self._lowest[columns]
        levels *= self._scale[columns]
        np.clip(levels, 0, AP_LEVELS - 1, out=levels)
        cells = levels.astype(np.intp)
        cells += columns * AP_LEVELS
        size = detectors * AP_LEVELS
        self._levels[1] += np.bincount(cells.ravel(), minlength=size).reshape(detectors, -1)
        there = np.flatnonzero(present[columns])
        if len(there):
            positive = cells[:, there][where[own[columns[there]]].T]
            self._levels[0] += np.bincount(positive, minlength=size).reshape(detectors, -1)

    def result(self) -> Interpretability:
        """What was counted."""
        labels, detectors = self.labels, len(self.labels)
        both, area, concept, images = self._counts
        inside, fired, there, drawn = np.moveaxis(self._drawn[..., :detectors], 1, 0)
        union = fired + there - inside
        resampled = np.divide(inside, union, out=np.zeros(union.shape), where=union > 0)
        resampled[(drawn == 0) & (labels != NO_LABEL)] = np.nan
        precision = average_precision(*self._levels)
        training = self.dissection.iou[np.arange(detectors), labels]
        return Interpretability(
            concepts=self.concepts,
            labels=labels,
            thresholds=self.dissection.thresholds,
            training_iou=np.where(labels == NO_LABEL, 0.0, training),
            intersection=both[:detectors],
            detector_area=area[:detectors],
            concept_area=concept[:detectors],
            images=images[:detectors],
            average_precision=np.where(labels == NO_LABEL, 0.0, precision),
            groups=self.groups,
            group_intersection=both[detectors:],
            group_area=area[detectors:],
            resampled_iou=resampled,
        )
