"""Thresholds and labels of detectors from a training part, scored on a validation part.

Detectors without biases of their own get quantiles of their maps as thresholds. Network Dissection
lets a unit fire on the 0.5 % of all positions where it is highest; for I detectors that share the
positions between them, the top 1/I is as natural. The better of the two on the training part is
used for all detectors of an extractor: a threshold chosen for every detector by itself would make
each one a detector of the most frequent concept.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

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
    category_starts,
    count_overlaps,
    dissect,
    is_exhaustive,
    one_thread,
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
    training, validation
        Annotated images; none should be in both.
    read
        Images (n, H, W, …) → maps (n, h, w, I); see `dissect`.
    thresholds : ndarray of shape (I,), optional
        The detectors' own biases. None: the top 1/I or the top 0.5 % of the training part,
        whichever is better there (`choose_thresholds`).
    training_activations, validation_activations, batch_size, shift
        As in `dissect`.
    resamples, random_state
        As in `score_labels`.

    Returns
    -------
    scores

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
        dissection = choose_thresholds(training, read, **training_options).dissection
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
    annotated
        The validation part, of the concepts of ``dissection``.
    read, activations, batch_size, shift
        As in `dissect`.
    dissection
        Of the training part: thresholds, ranges, and labels unless they are given.
    labels : ndarray of shape (I,), optional
        Indices of flat concepts, where they are known (supervised detectors); −1 for none.
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
        ``random_state`` is out of range, and as in `dissect`.
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
    return labels.astype(np.int64)


class _LabelCounts:
    """Running counts of detectors, and of detectors of one label together, with their labels.

    Columns are the I detectors, then the L groups of detectors of one label.
    """

    def __init__(self, dissection: Dissection, labels: Array, resamples: int, random_state: int):
        self.dissection, self.labels = dissection, labels
        self.concepts = dissection.concepts
        self.starts = category_starts(self.concepts)
        self.groups = np.unique(labels[labels != NO_LABEL])
        members = [np.flatnonzero(labels == label) for label in self.groups]
        self._first = np.array([detectors[0] for detectors in members], np.int64)
        self._several = [(g, several) for g, several in enumerate(members) if len(several) > 1]
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

    def add(self, image: LabelledImage, maps: Array, shift: Shift) -> None:
        """Count one image, maps (h, w, I)."""
        weights = self._rng.poisson(1.0, len(self._drawn))
        judged = np.isin(self._categories, image.categories)
        if not judged.any():
            return
        row = np.full(len(flat_concepts(self.concepts)), len(image.present))
        row[image.present] = np.arange(len(image.present))
        # Row of the own label among the concepts present, or the row of ones.
        own = row[self._all_labels]
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

    def _with_groups(self, values: Array) -> Array:
        """Return where each detector, and any detector of each group, fires, (P, I + L) bool."""
        fires = values > self.dissection.thresholds
        groups = fires[:, self._first]
        for g, members in self._several:
            groups[:, g] = fires[:, members].any(axis=1)
        return np.concatenate([fires, groups], axis=1)

    def _count_levels(
        self, values: Array, where: Array, own: Array, judged: Array, present: Array
    ) -> None:
        """Add values (P, I) of the judged detectors to the histograms."""
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
        labelled = np.flatnonzero(present[columns])
        if len(labelled):
            positive = cells[:, labelled][where[own[columns[labelled]]].T]
            self._levels[0] += np.bincount(positive, minlength=size).reshape(detectors, -1)

    def result(self) -> Interpretability:
        """Return the scores of all images counted."""
        labels, detectors = self.labels, len(self.labels)
        both, area, concept, images = self._counts
        inside, fired, labelled, drawn = np.moveaxis(self._drawn[..., :detectors], 1, 0)
        union = fired + labelled - inside
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


# ------------------------------------------------------------------------------ thresholds


@dataclass(frozen=True, eq=False)
class ThresholdChoice:
    """The thresholds with the largest S¹ on the training part.

    Attributes
    ----------
    name
        Of the chosen thresholds.
    dissection : Dissection
        Of the training part, with these thresholds.
    scores
        S¹ on the training part of every candidate, by name.
    """

    name: str
    dissection: Dissection
    scores: dict[str, float]


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
    shares
        In (0, 1).

    Returns
    -------
    thresholds : ndarray of shape (len(shares), I)

    Raises
    ------
    ValueError
        If a share is out of range, and as in `dissect`.
    """
    wanted = np.asarray(shares, float)
    if wanted.ndim != 1 or not wanted.size or not ((wanted > 0) & (wanted < 1)).all():
        raise ValueError(f"shares must lie between 0 and 1, not {shares!r}")

    def values():
        for maps, _ in read_batches(annotated, read, activations, batch_size):
            yield maps.reshape(-1, maps.shape[-1])

    lowest, highest = np.array(np.inf), np.array(-np.inf)
    for block in values():
        lowest = np.minimum(lowest, block.min(axis=0))
        highest = np.maximum(highest, block.max(axis=0))
    width = (highest - lowest) / QUANTILE_LEVELS
    counts = np.zeros((len(lowest), QUANTILE_LEVELS), np.int64)
    for block in values():
        # A level includes its upper edge, since "above a threshold" excludes the threshold.
        levels = np.ceil(
            np.divide(block - lowest, width, out=np.zeros(block.shape), where=width > 0)
        )
        levels = np.clip(levels - 1, 0, QUANTILE_LEVELS - 1).astype(np.intp)
        for i, column in enumerate(levels.T):
            counts[i] += np.bincount(column, minlength=QUANTILE_LEVELS)
    above = counts[:, ::-1].cumsum(axis=1)[:, ::-1] - counts  # the upper edge of each level
    total = counts.sum(axis=1, keepdims=True)
    edges = [(above <= share * total).argmax(axis=1) + 1 for share in wanted]
    return (lowest + width * np.array(edges)).astype(np.float32)


def choose_thresholds(
    annotated: Annotated,
    read: Read,
    candidates: Mapping[str, ArrayLike] | None = None,
    *,
    activations: Any = None,
    batch_size: int = 32,
    shift: Shift = 0.0,
) -> ThresholdChoice:
    """Dissect the training part with each candidate; return the one with the largest S¹.

    Parameters
    ----------
    annotated, read, activations, batch_size, shift
        As in `dissect`.
    candidates
        Thresholds (I,) by name. Default: the top 1/I (1/2 for a single detector) and the top 0.5 %
        of each detector.

    Returns
    -------
    choice

    Raises
    ------
    ValueError
        If there is no candidate, and as in `dissect`.
    """
    options: dict[str, Any] = {"activations": activations, "batch_size": batch_size}
    if candidates is None:
        maps, _ = next(read_batches(annotated, read, activations, batch_size))
        parts = max(maps.shape[-1], 2)
        names = {f"top 1/{parts}": 1 / parts, f"top {TOP_SHARE:.1%}": TOP_SHARE}
        limits = quantile_thresholds(annotated, read, list(names.values()), **options)
        candidates = dict(zip(names, limits, strict=True))
    if not candidates:
        raise ValueError("candidates are empty: give thresholds (I,) by name, or None")
    dissections = {
        name: dissect(annotated, read, thresholds, shift=shift, **options)
        for name, thresholds in candidates.items()
    }
    scores = {
        name: float(np.nan_to_num(dissection.iou).max(axis=1).sum())
        for name, dissection in dissections.items()
    }
    best = max(scores, key=lambda name: scores[name])
    return ThresholdChoice(best, dissections[best], scores)
