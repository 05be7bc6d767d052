"""Scores of detectors on the concepts they are labelled with (method section 6).

Labels come from a training part (`dissection`), scores from a validation part. With φ_i the IoU of
detector i with its label c*_i there:

    S¹ = Σ_i φ_i                     = ∫₀¹ number of detectors above ξ dξ
    S² = Σ_c max_{i : c*_i = c} φ_i  = ∫₀¹ number of distinct labels above ξ dξ

A detector without a label (it overlaps with no concept on the training part) scores 0. Scores that
the validation part does not determine are NaN and left out of means and sums: all scores of a
detector whose label's category has no annotated image, and recall, F1 and AP where there are images
but no pixel of the label.
"""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from xplique_dirpairs.core.geometry import Shift, upsample
from xplique_dirpairs.core.tables import Cell, Table
from xplique_dirpairs.core.types import Array
from xplique_dirpairs.core.validation import check_concepts, check_integer
from xplique_dirpairs.data.annotated_images import Annotated, flat_concepts
from xplique_dirpairs.metrics.dissection import NO_LABEL, Read, read_batches
from xplique_dirpairs.metrics.registry import Summary, nan_mean, percentile_interval

#: From this IoU on a detector counts as interpretable (Bau et al. 2017).
INTERPRETABLE = 0.04


def s1(iou: ArrayLike) -> Array:
    """Compute S¹ = Σ_i φ_i, (..., I) → (...), in [0, I]; higher is better. NaN counts as 0."""
    return np.nansum(np.asarray(iou, float), axis=-1)


def s2(iou: ArrayLike, labels: ArrayLike) -> Array:
    """Compute S² = Σ_c max_{i : c*_i = c} φ_i, (..., I) → (...); higher is better.

    In [0, number of distinct labels]; never above S¹. NaN counts as 0.

    Parameters
    ----------
    iou : ndarray of shape (..., I)
    labels : ndarray of shape (I,)
        c*_i; detectors with `NO_LABEL` are left out.

    Raises
    ------
    ValueError
        If there is not one label for each detector.
    """
    values, numbers = np.nan_to_num(np.asarray(iou, float)), np.asarray(labels)
    if numbers.shape != values.shape[-1:]:
        raise ValueError(
            f"labels must have shape {values.shape[-1:]}, as iou has, not {numbers.shape}"
        )
    total = np.zeros(values.shape[:-1])
    for label in np.unique(numbers[numbers != NO_LABEL]):
        total += values[..., numbers == label].max(axis=-1)
    return total


def average_precision(positive: ArrayLike, total: ArrayLike) -> Array:
    """Compute AP = Σ_n (R_n − R_{n−1}) P_n over the levels of a histogram, highest first.

    As scikit-learn does, for scores rounded to the levels.

    Parameters
    ----------
    positive, total : ndarray of shape (..., B)
        Numbers of positives, and of all samples, at each level of the score, lowest first.

    Returns
    -------
    ap : ndarray of shape (...)
        In [0, 1], higher is better; NaN without positives.
    """
    hits = np.asarray(positive)[..., ::-1].astype(float)
    true = hits.cumsum(axis=-1)
    fired = np.asarray(total)[..., ::-1].cumsum(axis=-1)
    precision = np.divide(true, fired, out=np.zeros_like(true), where=fired > 0)
    positives = true[..., -1]
    area = (hits * precision).sum(axis=-1)
    return np.divide(area, positives, out=np.full(positives.shape, np.nan), where=positives > 0)


@dataclass(frozen=True, eq=False)
class Interpretability:
    """Detectors scored on the labels they were given; made by `interpretability`.

    Attributes
    ----------
    concepts
        Category → names.
    labels : ndarray of shape (I,)
        c*_i among the flat concepts, or `NO_LABEL`.
    thresholds : ndarray of shape (I,)
    training_iou : ndarray of shape (I,)
        IoU with the label on the training part; NaN if it is not known.
    intersection, detector_area, concept_area : ndarray of shape (I,) int64
        Pixels of both, of the detector and of its label, in the images of the validation part that
        count for the category.
    images : ndarray of shape (I,) int64
        Number of these images.
    average_precision : ndarray of shape (I,)
    groups : ndarray of shape (L,)
        The distinct labels.
    group_intersection, group_area : ndarray of shape (L,) int64
        The same for all detectors of a label together (Linear-OR).
    resampled_iou : ndarray of shape (B, I)
        IoU over images drawn by the bootstrap; NaN where none of them has a label of the category.
    """

    concepts: dict[str, tuple[str, ...]]
    labels: Array
    thresholds: Array
    training_iou: Array
    intersection: Array
    detector_area: Array
    concept_area: Array
    images: Array
    average_precision: Array
    groups: Array
    group_intersection: Array
    group_area: Array
    resampled_iou: Array

    # ---------------------------------------------------------------- per detector

    @cached_property
    def iou(self) -> Array:
        """φ_i(c*_i), (I,) in [0, 1]; higher is better."""
        union = self.detector_area + self.concept_area - self.intersection
        return self._judged(_ratio(self.intersection, union))

    @cached_property
    def precision(self) -> Array:
        """Share of the detector's pixels that are of its label, (I,); 0 if it never fires."""
        return self._judged(_ratio(self.intersection, self.detector_area))

    @cached_property
    def recall(self) -> Array:
        """Share of its label's pixels where the detector fires, (I,)."""
        return self._judged(_ratio(self.intersection, self.concept_area), self.concept_area == 0)

    @cached_property
    def f1(self) -> Array:
        """Harmonic mean of precision and recall, (I,)."""
        areas = self.detector_area + self.concept_area
        return self._judged(_ratio(2 * self.intersection, areas), self.concept_area == 0)

    def _judged(self, values: Array, undefined: Array | bool = False) -> Array:
        labelled = self.labels != NO_LABEL
        return np.where(labelled & ((self.images == 0) | undefined), np.nan, labelled * values)

    # ---------------------------------------------------------------- all detectors

    @property
    def s1(self) -> float:
        """Σ_i φ_i."""
        return float(s1(self.iou))

    @property
    def s2(self) -> float:
        """Σ_c max_{i : c*_i = c} φ_i."""
        return float(s2(self.iou, self.labels))

    @property
    def linear_or(self) -> dict[tuple[str, str], float]:
        """IoU of each labelled concept with the union of its detectors, by (category, name)."""
        iou = self._group_iou
        names = flat_concepts(self.concepts)
        return {names[c]: float(value) for c, value in zip(self.groups, iou, strict=True)}

    @property
    def _group_iou(self) -> Array:
        first = [int(np.flatnonzero(self.labels == c)[0]) for c in self.groups]
        union = self.group_area + self.concept_area[first] - self.group_intersection
        return np.where(self.images[first] == 0, np.nan, _ratio(self.group_intersection, union))

    def interpretable(self, least: float = INTERPRETABLE) -> dict[str, int]:
        """Count the detectors with an IoU of at least ``least``, by category of their label."""
        return self._by_category(self.labels[np.nan_to_num(self.iou) >= least])

    def interpretable_concepts(self, least: float = INTERPRETABLE) -> dict[str, int]:
        """Count the distinct labels of detectors with an IoU of at least ``least``, by category."""
        return self._by_category(np.unique(self.labels[np.nan_to_num(self.iou) >= least]))

    def _by_category(self, labels: Array) -> dict[str, int]:
        names = flat_concepts(self.concepts)
        categories = [names[label][0] for label in labels]
        return {category: categories.count(category) for category in self.concepts}

    def summaries(self, confidence: float = 0.95) -> dict[str, Summary]:
        """Return every metric of kind "interpretability" by key, with bootstrap intervals.

        The images of the validation part are resampled, the labels are not. Only functions of the
        IoU have an interval.
        """
        drawn_iou, empty = self.resampled_iou[_whole(self)], np.zeros(0)
        figures = {
            "s1": (self.s1, s1(drawn_iou)),
            "s2": (self.s2, s2(drawn_iou, self.labels)),
            "linear_or": (float(np.nansum(self._group_iou)), empty),
            "label_precision": (nan_mean(self.precision), empty),
            "label_recall": (nan_mean(self.recall), empty),
            "label_f1": (nan_mean(self.f1), empty),
            "label_ap": (nan_mean(self.average_precision), empty),
            "interpretable": (
                float(sum(self.interpretable().values())),
                (np.nan_to_num(drawn_iou) >= INTERPRETABLE).sum(axis=1).astype(float),
            ),
        }
        undefined = int(np.isnan(self.iou).sum())
        return {
            key: Summary(value, *percentile_interval(drawn, confidence), undefined)
            for key, (value, drawn) in figures.items()
        }

    def table(self) -> Table:
        """Return a table of detectors with their labels and scores, highest IoU first."""
        names = [*flat_concepts(self.concepts), ("", "–")]
        columns = {
            "training IoU": self.training_iou,
            "IoU": self.iou,
            "precision": self.precision,
            "recall": self.recall,
            "F1": self.f1,
            "AP": self.average_precision,
        }
        rows = []
        for i in np.argsort(-np.nan_to_num(self.iou), kind="stable"):
            category, name = names[self.labels[i]]
            figures = [
                Cell.figure(self.thresholds[i]),
                *(Cell.figure(v[i]) for v in columns.values()),
            ]
            rows.append([Cell(str(i)), Cell(name), Cell(category), *figures])
        return Table(
            ["detector", "label", "category", "threshold", *columns],
            rows,
            ["Labels and training IoU: training part; all others: validation part."],
        )


def paired_interval(
    ours: Interpretability, theirs: Interpretability, confidence: float = 0.95
) -> dict[str, Summary]:
    """Return the differences of S¹ and S², ours − theirs, with intervals.

    The bootstrap draws the same images for both.

    Raises
    ------
    ValueError
        If they were not resampled equally often.
    """
    if len(ours.resampled_iou) != len(theirs.resampled_iou) or not len(ours.resampled_iou):
        raise ValueError(
            f"both must be resampled as often, not {len(ours.resampled_iou)} and "
            f"{len(theirs.resampled_iou)} times: score them on the same images, with the same "
            "resamples and random_state"
        )
    whole = _whole(ours) & _whole(theirs)
    drawn = [
        (s1(r.resampled_iou[whole]), s2(r.resampled_iou[whole], r.labels)) for r in (ours, theirs)
    ]
    values = [(r.s1, r.s2) for r in (ours, theirs)]
    differences = {}
    for k, key in enumerate(("s1", "s2")):
        interval = percentile_interval(drawn[0][k] - drawn[1][k], confidence)
        differences[key] = Summary(values[0][k] - values[1][k], *interval, 0)
    return differences


def _whole(result: Interpretability) -> Array:
    """Return the draws that determine the IoU of every detector that all images determine, (B,)."""
    missing = np.isnan(result.resampled_iou) & ~np.isnan(result.iou)
    return np.asarray(~missing.any(axis=1))


def _ratio(above: Array, below: Array) -> Array:
    return np.divide(above, below, out=np.zeros(np.shape(above)), where=below > 0)


# ------------------------------------------------------------------------------ pictures


@dataclass(frozen=True, eq=False)
class DetectorView:
    """A detector on its strongest images.

    Attributes
    ----------
    detector
    name
        Number, label and IoU.
    images : ndarray of shape (k, H, W, C)
        The strongest first.
    masks, detections : ndarray of shape (k, H, W) bool
        Where the label is, and where the detector fires.
    """

    detector: int
    name: str
    images: Array
    masks: Array
    detections: Array


def strongest_images(
    annotated: Annotated,
    read: Read,
    scores: Interpretability,
    *,
    detectors: Sequence[int] | None = None,
    count: int = 4,
    activations: Any = None,
    batch_size: int = 32,
    shift: Shift = 0.0,
) -> list[DetectorView]:
    """Return the images with the largest values of each detector's map, in one pass.

    Parameters
    ----------
    annotated, read, activations, batch_size, shift
        As in `dissect`.
    scores : Interpretability
        Of these detectors.
    detectors : sequence of int, optional
        Default: the ten with the highest IoU.
    count : int, default=4
        Images of each.

    Raises
    ------
    ValueError
        If a detector is out of range, or ``count`` is not positive; as in `dissect`.
    """
    if detectors is None:
        detectors = np.argsort(-np.nan_to_num(scores.iou), kind="stable")[:10].tolist()
    number = len(scores.labels)
    check_concepts(detectors, number)
    check_integer("count", count)
    kept: dict[int, list] = {i: [] for i in detectors}
    done = 0
    batches = read_batches(annotated, read, activations, batch_size, number)
    for (images, _), (maps, masks) in zip(annotated.batches(batch_size), batches, strict=True):
        strength = maps.max(axis=(1, 2))
        for i, heap in kept.items():
            for n in np.argsort(-strength[:, i], kind="stable")[:count]:
                # Of equally strong images the first is kept.
                rank = (float(strength[n, i]), -(done + int(n)))
                if len(heap) == count and rank < heap[0][:2]:
                    continue
                # copies, not views that would keep the whole batch in memory
                parts = np.array(images[n]), np.array(maps[n, ..., i]), _mask(masks, n, i, scores)
                heapq.heappush(heap, (*rank, parts))
                if len(heap) > count:
                    heapq.heappop(heap)
        done += len(images)
    return [
        _view(i, [entry[2] for entry in sorted(heap, reverse=True)], scores, shift)
        for i, heap in kept.items()
    ]


def _mask(masks: Mapping[str, Array], n: int, detector: int, scores: Interpretability) -> Array:
    """Return where a detector's label is in an image, (H, W) bool."""
    label = scores.labels[detector]
    if label == NO_LABEL:
        return np.zeros(next(iter(masks.values()))[n].shape, bool)
    category, name = flat_concepts(scores.concepts)[label]
    return masks[category][n] == scores.concepts[category].index(name) + 1


def _view(detector: int, parts: list, scores: Interpretability, shift: Shift) -> DetectorView:
    limit = scores.thresholds[detector]
    label = scores.labels[detector]
    label_name = "no label" if label == NO_LABEL else flat_concepts(scores.concepts)[label][1]
    fires = [upsample(one[..., None], mask.shape, shift)[..., 0] > limit for _, one, mask in parts]
    return DetectorView(
        detector=detector,
        name=f"{detector} · {label_name}\nIoU {np.nan_to_num(scores.iou[detector]):.2f}",
        images=np.stack([image for image, _, _ in parts]),
        masks=np.stack([mask for _, _, mask in parts]),
        detections=np.stack(fires),
    )
