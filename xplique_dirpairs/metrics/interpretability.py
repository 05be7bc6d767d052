"""How well detectors do on the concepts they are labelled with (method section 6).

Labels come from a training part (`dissection`), scores from a validation part. With φ_i the IoU of
detector i with its label c*_i there:

    S¹ = Σ_i φ_i                     = ∫₀¹ number of detectors above ξ dξ
    S² = Σ_c max_{i : c*_i = c} φ_i  = ∫₀¹ number of distinct labels above ξ dξ

A detector without a label (it met no concept on the training part) has 0 of everything. What the
validation part cannot tell is NaN, and left out of means and sums: all of a detector whose label's
category has no annotated image, and recall, F1 and AP where it has, but not a pixel of the label.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike, NDArray

from xplique_dirpairs.core.tables import Cell, Table
from xplique_dirpairs.metrics.dissection import NO_LABEL, flat_concepts, number_cell
from xplique_dirpairs.metrics.registry import METRICS
from xplique_dirpairs.metrics.summary import Summary

#: From this IoU on a detector counts as interpretable (Bau et al. 2017).
INTERPRETABLE = 0.04


def s1(iou: ArrayLike) -> NDArray:
    """S¹ = Σ_i φ_i, (..., I) → (...): higher is better, in [0, I]. NaN counts as 0."""
    return np.nansum(np.asarray(iou, float), axis=-1)


def s2(iou: ArrayLike, labels: ArrayLike) -> NDArray:
    """S² = Σ_c max_{i : c*_i = c} φ_i, (..., I) → (...): higher is better.

    In [0, number of distinct labels]; never above S¹. NaN counts as 0.

    Parameters
    ----------
    iou : (..., I)
    labels : (I,)
        c*_i; those that are `NO_LABEL` count for nothing.

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


def average_precision(positive: ArrayLike, total: ArrayLike) -> NDArray:
    """AP = Σ_n (R_n − R_{n−1}) P_n over the levels of a histogram, highest first.

    That of scikit-learn, for scores rounded to the levels.

    Parameters
    ----------
    positive, total : (..., B)
        Numbers of positives, and of all samples, at each level of the score, lowest first.

    Returns
    -------
    ap : (...)
        In [0, 1], higher is better; NaN without positives.
    """
    hits = np.asarray(positive)[..., ::-1].astype(float)
    found = hits.cumsum(axis=-1)
    fired = np.asarray(total)[..., ::-1].cumsum(axis=-1)
    precision = np.divide(found, fired, out=np.zeros_like(found), where=fired > 0)
    there = found[..., -1]
    area = (hits * precision).sum(axis=-1)
    return np.divide(area, there, out=np.full(there.shape, np.nan), where=there > 0)


@dataclass(frozen=True, eq=False)
class Interpretability:
    """Detectors scored on the labels they were given; made by `interpretability`.

    Attributes
    ----------
    concepts
        Category → names.
    labels : (I,)
        c*_i among the flat concepts, or `NO_LABEL`.
    thresholds : (I,)
    training_iou : (I,)
        Of detector and label on the part that the label is from; NaN if that is not known.
    intersection, detector_area, concept_area : (I,) int64
        Pixels of the validation part, of the images that count for the category: of both, of the
        detector, of its label.
    images : (I,) int64
        How many these images are.
    average_precision : (I,)
    groups : (L,)
        The distinct labels.
    group_intersection, group_area : (L,) int64
        The same of all detectors of a label together (Linear-OR).
    resampled_iou : (B, I)
        IoU over images drawn by the bootstrap; NaN where none of them has a label of the category.
    """

    concepts: dict[str, tuple[str, ...]]
    labels: NDArray
    thresholds: NDArray
    training_iou: NDArray
    intersection: NDArray
    detector_area: NDArray
    concept_area: NDArray
    images: NDArray
    average_precision: NDArray
    groups: NDArray
    group_intersection: NDArray
    group_area: NDArray
    resampled_iou: NDArray

    # ---------------------------------------------------------------- per detector

    @cached_property
    def iou(self) -> NDArray:
        """φ_i(c*_i), (I,) in [0, 1]; higher is better."""
        union = self.detector_area + self.concept_area - self.intersection
        return self._judged(_ratio(self.intersection, union))

    @cached_property
    def precision(self) -> NDArray:
        """Share of the detector's pixels that are of its label, (I,); 0 if it never fires."""
        return self._judged(_ratio(self.intersection, self.detector_area))

    @cached_property
    def recall(self) -> NDArray:
        """Share of its label's pixels where the detector fires, (I,)."""
        return self._judged(_ratio(self.intersection, self.concept_area), self.concept_area == 0)

    @cached_property
    def f1(self) -> NDArray:
        """Harmonic mean of precision and recall, (I,)."""
        areas = self.detector_area + self.concept_area
        return self._judged(_ratio(2 * self.intersection, areas), self.concept_area == 0)

    def _judged(self, values: NDArray, undefined: NDArray | bool = False) -> NDArray:
        labelled = self.labels != NO_LABEL
        return np.where(labelled & ((self.images == 0) | undefined), np.nan, labelled * values)

    # ---------------------------------------------------------------- of all

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
        """(category, name) → IoU of the concept with the union of the detectors labelled so."""
        iou = self._group_iou
        names = flat_concepts(self.concepts)
        return {names[c]: float(value) for c, value in zip(self.groups, iou, strict=True)}

    @property
    def _group_iou(self) -> NDArray:
        first = [int(np.flatnonzero(self.labels == c)[0]) for c in self.groups]
        union = self.group_area + self.concept_area[first] - self.group_intersection
        return np.where(self.images[first] == 0, np.nan, _ratio(self.group_intersection, union))

    def interpretable(self, least: float = INTERPRETABLE) -> dict[str, int]:
        """Category → number of detectors whose IoU is at least ``least``."""
        names = flat_concepts(self.concepts)
        found = [names[label][0] for label in self.labels[np.nan_to_num(self.iou) >= least]]
        return {category: found.count(category) for category in self.concepts}

    def interpretable_concepts(self, least: float = INTERPRETABLE) -> dict[str, int]:
        """Category → number of distinct labels with such a detector."""
        names = flat_concepts(self.concepts)
        labels = np.unique(self.labels[np.nan_to_num(self.iou) >= least])
        found = [names[label][0] for label in labels]
        return {category: found.count(category) for category in self.concepts}

    def summaries(self, confidence: float = 0.95) -> dict[str, Summary]:
        """Every metric of kind "interpretability" by its key, with percentile bootstrap intervals.

        Intervals over the images of the validation part, the labels as they are, where these are
        resampled: of what is a function of the IoU.
        """
        drawn_iou = self.resampled_iou[_whole(self)]
        figures = {
            "s1": (self.s1, s1(drawn_iou)),
            "s2": (self.s2, s2(drawn_iou, self.labels)),
            "linear_or": (float(np.nansum(self._group_iou)), None),
            "label_precision": (_mean(self.precision), None),
            "label_recall": (_mean(self.recall), None),
            "label_f1": (_mean(self.f1), None),
            "label_ap": (_mean(self.average_precision), None),
            "interpretable": (
                float(sum(self.interpretable().values())),
                (np.nan_to_num(drawn_iou) >= INTERPRETABLE).sum(axis=1).astype(float),
            ),
        }
        undefined = int(np.isnan(self.iou).sum())
        return {
            key: Summary(value, *_interval(drawn, confidence), undefined)
            for key, (value, drawn) in figures.items()
        }

    def table(self) -> Table:
        """Every detector with its label and scores, highest IoU first."""
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
                number_cell(self.thresholds[i]),
                *(number_cell(v[i]) for v in columns.values()),
            ]
            rows.append([Cell(str(i)), Cell(name), Cell(category), *figures])
        return Table(
            ["detector", "label", "category", "threshold", *columns],
            rows,
            ["Labels and training IoU from the training part, all else from the validation part."],
        )


def interpretability_table(results: dict[str, Interpretability]) -> Table:
    """Extractors × the metrics of kind "interpretability", the best of each column marked."""
    metrics = [metric for metric in METRICS.values() if metric.kind == "interpretability"]
    summaries = {name: result.summaries() for name, result in results.items()}
    columns = []
    for metric in metrics:
        figures = [found[metric.key] for found in summaries.values()]
        best = max((f.value for f in figures if not np.isnan(f.value)), default=np.nan)
        columns.append([_summary_cell(f, metric.decimals, f.value == best) for f in figures])
    rows = [[Cell(name), *cells] for name, *cells in zip(results, *columns, strict=True)]
    headers = ["extractor", *(f"{metric.name} {metric.arrow}".rstrip() for metric in metrics)]
    note = "± is half of the 95 % bootstrap interval over the images of the validation part."
    return Table(headers, rows, [note])


def paired_interval(
    ours: Interpretability, theirs: Interpretability, confidence: float = 0.95
) -> dict[str, Summary]:
    """Differences of S¹ and S², ours − theirs, the bootstrap drawing the same images for both.

    Raises
    ------
    ValueError
        If they were not resampled alike.
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
    return {
        key: Summary(
            values[0][k] - values[1][k], *_interval(drawn[0][k] - drawn[1][k], confidence), 0
        )
        for k, key in enumerate(("s1", "s2"))
    }


def _whole(result: Interpretability) -> NDArray:
    """Draws of the bootstrap that can judge every detector that all images can, (B,) bool."""
    return ~(np.isnan(result.resampled_iou) & ~np.isnan(result.iou)).any(axis=1)


def _ratio(above: NDArray, below: NDArray) -> NDArray:
    return np.divide(above, below, out=np.zeros(np.shape(above)), where=below > 0)


def _mean(values: NDArray) -> float:
    defined = values[~np.isnan(values)]
    return float(defined.mean()) if defined.size else np.nan


def _interval(drawn: NDArray | None, confidence: float) -> tuple[float, float]:
    if not 0.0 < confidence < 1.0:
        raise ValueError(f"confidence must lie between 0 and 1, not {confidence!r}")
    if drawn is None or not len(drawn):
        return np.nan, np.nan
    tail = (1.0 - confidence) / 2
    low, high = np.quantile(drawn, [tail, 1.0 - tail])
    return float(low), float(high)


def _summary_cell(figure: Summary, decimals: int, best: bool) -> Cell:
    if np.isnan(figure.value):
        return Cell("–", numbers=(np.nan,))
    text = f"{figure.value:.{decimals}f}"
    if np.isnan(figure.low):
        return Cell(text, best, (figure.value,))
    text += f" ± {(figure.high - figure.low) / 2:.{decimals}f}"
    return Cell(text, best, (figure.value, figure.low, figure.high))
