"""Scores of detectors on the concepts they are labelled with.

Labels come from a training part of the data (`dissection`), scores from a validation part. With φ_i
the IoU of detector i with its label c*_i on the validation part:

    S¹ = Σ_i φ_i                     = ∫₀¹ number of detectors above ξ dξ
    S² = Σ_c max_{i : c*_i = c} φ_i  = ∫₀¹ number of distinct labels above ξ dξ

A detector without a label (one that overlaps with no concept on the training part) scores 0. Scores
that the validation part does not determine are NaN and are left out of means and sums: all scores
of a detector whose label's category has no annotated image, and recall, F1 and AP if there are such
images but no pixel of the label.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike

from xplique_dirpairs.core.batching import chunk_size, slices
from xplique_dirpairs.core.tables import Cell, Table
from xplique_dirpairs.core.types import Array
from xplique_dirpairs.core.validation import check_integer, check_random_state, check_seed
from xplique_dirpairs.data.annotated_images import flat_concepts
from xplique_dirpairs.metrics.dissection import NO_LABEL
from xplique_dirpairs.metrics.registry import Summary, nan_mean, percentile_interval

#: A detector with at least this IoU counts as interpretable (Bau et al. 2017).
INTERPRETABLE = 0.04


def s1(iou: ArrayLike) -> Array:
    """Compute S¹ = Σ_i φ_i from IoU values (..., I), (...) in [0, I]; higher is better.

    NaN counts as 0.
    """
    return np.asarray(np.nansum(np.asarray(iou, float), axis=-1))


def s2(iou: ArrayLike, labels: ArrayLike) -> Array:
    """Compute S² = Σ_c max_{i : c*_i = c} φ_i; higher is better.

    Parameters
    ----------
    iou : ndarray of shape (..., I)
        IoU φ_i of every detector with its label; NaN counts as 0.
    labels : ndarray of shape (I,), int
        Label c*_i of every detector; detectors with `NO_LABEL` are left out.

    Returns
    -------
    s2 : ndarray of shape (...)
        Values from 0 to the number of distinct labels, and never above S¹.
    """
    values, numbers = np.nan_to_num(np.asarray(iou, float)), np.asarray(labels)
    total = np.zeros(values.shape[:-1])
    for label in np.unique(numbers[numbers != NO_LABEL]):
        total += values[..., numbers == label].max(axis=-1)
    return total


def average_precision(positive: ArrayLike, total: ArrayLike) -> Array:
    """Compute AP = Σ_n (R_n − R_{n−1}) P_n over the levels of a histogram, highest first.

    R_n and P_n are the recall and precision with the threshold at level n. The result is that of
    scikit-learn's ``average_precision_score`` for scores rounded to the levels.

    Parameters
    ----------
    positive : ndarray of shape (..., L)
        Number of positive samples at each of the L levels of the score, lowest level first.
    total : ndarray of shape (..., L)
        Number of all samples at each level.

    Returns
    -------
    ap : ndarray of shape (...)
        Values in [0, 1], higher is better; NaN if there are no positives.
    """
    hits = np.asarray(positive)[..., ::-1].astype(float)
    true = hits.cumsum(axis=-1)
    fired = np.asarray(total)[..., ::-1].cumsum(axis=-1)
    area, positives = (hits * _ratio(true, fired)).sum(axis=-1), true[..., -1]
    return np.where(positives > 0, _ratio(area, positives), np.nan)


@dataclass(frozen=True, eq=False)
class Interpretability:
    """Scores of I detectors on their labels, in N validation images.

    `interpretability` and `score_labels` return it. A detector fires where its map, enlarged to the
    size of the masks, is above its threshold; its label is an annotated concept. An image counts
    for a detector if it is annotated for the category of the detector's label, such as "object". A
    detector without a label scores 0. Scores that the validation images do not determine are NaN.

    The counts of each image take 13·I bytes (25·I if an image has 2³¹ pixels or more).

    Attributes
    ----------
    concepts : dict of str to tuple of str
        Names of the concepts, by category.
    labels : ndarray of shape (I,), int
        Index of each detector's label among the concepts of all categories, in the order of
        ``concepts``; −1 for a detector without a label.
    thresholds : ndarray of shape (I,)
        Threshold of each detector, in the units of its map.
    training_iou : ndarray of shape (I,)
        Intersection over union (IoU) of each detector with its label in the training images; NaN
        if it is not known.
    image_counts : ndarray of shape (N, 3, I), int32 or int64
        Numbers of pixels in each validation image: where the detector fires on its label, where it
        fires at all, and of the label; 0 in images that are not ``judged``.
    judged : ndarray of shape (N, I), bool
        Whether the image counts for the detector.
    average_precision : ndarray of shape (I,)
        Average precision of each detector's maps for its label, in [0, 1]; higher is better.
    distinct_labels : ndarray of shape (L,), int
        The L labels that any detector has, each of them once.
    joint_intersection : ndarray of shape (L,), int64
        Number of pixels of the label where any detector with this label fires.
    joint_area : ndarray of shape (L,), int64
        Number of pixels where any detector with this label fires.
    """

    concepts: dict[str, tuple[str, ...]]
    labels: Array
    thresholds: Array
    training_iou: Array
    image_counts: Array
    judged: Array
    average_precision: Array
    distinct_labels: Array
    joint_intersection: Array
    joint_area: Array

    # ---------------------------------------------------------------- all images

    @cached_property
    def _counts(self) -> Array:
        """Sums of ``image_counts`` over the images, (3, I)."""
        return np.asarray(self.image_counts.sum(axis=0, dtype=np.int64))

    @property
    def intersection(self) -> Array:
        """Number of pixels of the detector's label where it fires, for I detectors, (I,) int64."""
        return np.asarray(self._counts[0])

    @property
    def detector_area(self) -> Array:
        """Number of pixels where each of I detectors fires in its `judged` images, (I,) int64."""
        return np.asarray(self._counts[1])

    @property
    def concept_area(self) -> Array:
        """Number of pixels of the label of each of I detectors in all images, (I,) int64."""
        return np.asarray(self._counts[2])

    @cached_property
    def images(self) -> Array:
        """Number of images that count for each of I detectors (those `judged`), (I,) int64."""
        return np.asarray(self.judged.sum(axis=0, dtype=np.int64))

    # ---------------------------------------------------------------- per detector

    @cached_property
    def iou(self) -> Array:
        """Intersection over union of each of I detectors with its label, (I,) in [0, 1].

        Higher is better. NaN if no image is annotated for the label's category.
        """
        return self._iou(self._counts, self.images)

    @cached_property
    def precision(self) -> Array:
        """Share of the pixels where a detector fires that belong to its label, (I,) in [0, 1].

        It is 0 for a detector that never fires, and NaN if no image counts for the detector.
        """
        return self._scores(_ratio(self.intersection, self.detector_area), self.images == 0)

    @cached_property
    def recall(self) -> Array:
        """Share of its label's pixels where a detector fires, (I,); NaN if there are no pixels."""
        return self._scores(_ratio(self.intersection, self.concept_area), self.concept_area == 0)

    @cached_property
    def f1(self) -> Array:
        """Harmonic mean of `precision` and `recall`, (I,); NaN if the label has no pixels."""
        areas = self.detector_area + self.concept_area
        return self._scores(_ratio(2 * self.intersection, areas), self.concept_area == 0)

    def _iou(self, counts: Array, images: Array) -> Array:
        """Return the IoU (…, I) from counts (…, 3, I) over numbers of judged images (…, I)."""
        intersection, detector_area, concept_area = np.moveaxis(counts, -2, 0)
        union = detector_area + concept_area - intersection
        return self._scores(_ratio(intersection, union), images == 0)

    def _scores(self, values: Array, undefined: Array) -> Array:
        """Return values (…, I) with 0 for detectors without a label and NaN where undefined."""
        labelled = self.labels != NO_LABEL
        return np.where(labelled & undefined, np.nan, labelled * values)

    # ---------------------------------------------------------------- all detectors

    @property
    def s1(self) -> float:
        """Score S¹: sum of `iou` over I detectors, in [0, I], NaN as 0; higher is better."""
        return float(s1(self.iou))

    @property
    def s2(self) -> float:
        """Score S²: sum over L labels of the best `iou` with each, in [0, L]; higher is better."""
        return float(s2(self.iou, self.labels))

    @property
    def linear_or(self) -> dict[tuple[str, str], float]:
        """IoU of each label with the area where at least one of its detectors fires.

        It is a dictionary by (category, name), "Linear-OR" in Doumanoglou et al., VISAPP 2024.
        """
        names, joint_iou = flat_concepts(self.concepts), self._joint_iou.tolist()
        return {names[c]: iou for c, iou in zip(self.distinct_labels, joint_iou, strict=True)}

    @property
    def _joint_iou(self) -> Array:
        """IoU of each distinct label with the union of its detectors, (L,)."""
        first = [int(np.flatnonzero(self.labels == c)[0]) for c in self.distinct_labels]
        union = self.joint_area + self.concept_area[first] - self.joint_intersection
        return np.where(self.images[first] == 0, np.nan, _ratio(self.joint_intersection, union))

    def interpretable(self, least: float = INTERPRETABLE) -> dict[str, int]:
        """Count the detectors with an IoU of at least ``least``, by category of their label.

        Parameters
        ----------
        least : float, default=0.04
            Smallest IoU that counts.

        Returns
        -------
        counts : dict of str to int
            Number of detectors, by category.
        """
        return self._by_category(self.labels[self.iou >= least])

    def interpretable_concepts(self, least: float = INTERPRETABLE) -> dict[str, int]:
        """Count the distinct labels of detectors with an IoU of at least ``least``, by category.

        Parameters
        ----------
        least : float, default=0.04
            Smallest IoU that counts.

        Returns
        -------
        counts : dict of str to int
            Number of labels, by category.
        """
        return self._by_category(np.unique(self.labels[self.iou >= least]))

    def _by_category(self, labels: Array) -> dict[str, int]:
        """Return how many of the labels belong to each category."""
        names = flat_concepts(self.concepts)
        categories = [names[label][0] for label in labels]
        return {category: categories.count(category) for category in self.concepts}

    # ---------------------------------------------------------------- bootstrap

    def resampled_iou(
        self,
        groups: ArrayLike | None = None,
        resamples: int = 200,
        random_state: int | np.random.SeedSequence | None = 0,
    ) -> Array:
        """Compute the IoU of each detector with its label over bootstrap samples of the images.

        Every group of images gets a weight from the Poisson distribution with mean 1, by which the
        counts of its images are multiplied (Hanley and MacGibbon 2006). With the same groups,
        ``resamples`` and ``random_state``, the weights are the same for all results on the same
        images, so that results can be compared in pairs.

        Parameters
        ----------
        groups : array-like of shape (N,), optional
            Name or number of the group of each validation image. Images of a group, such as crops
            of one photograph or consecutive frames, are drawn together. None: each image is a
            group.
        resamples : int, default=200
            Number B of bootstrap samples; 0 for none.
        random_state : int, SeedSequence or None, default=0
            Seed of the bootstrap. None draws a seed.

        Returns
        -------
        iou : ndarray of shape (B, I)
            NaN where no image of the sample counts for the detector.

        Raises
        ------
        ValueError
            If there is not one group for each image, or settings are out of range.
        """
        count = len(self.judged)
        group_of_image, number_of_groups = _numbered(groups, count)
        check_integer("resamples", resamples, minimum=0)
        rng = check_random_state(random_state)
        iou = np.empty((resamples, len(self.labels)))
        for part in slices(resamples, chunk_size(count)):
            weights = rng.poisson(1.0, (part.stop - part.start, number_of_groups))
            iou[part] = self._weighted_iou(weights[:, group_of_image].astype(float))
        return iou

    def _weighted_iou(self, weights: Array) -> Array:
        """Return the IoU (b, I) over images with integer weights (b, N), exact up to 2⁵³ pixels."""
        detectors = len(self.labels)
        counts = np.zeros((len(weights), 3 * detectors))
        images = np.zeros((len(weights), detectors))
        for part in slices(len(self.judged), chunk_size(3 * detectors)):
            flat = self.image_counts[part].reshape(-1, 3 * detectors)
            counts += weights[:, part] @ flat.astype(float)
            images += weights[:, part] @ self.judged[part].astype(float)
        return self._iou(counts.reshape(-1, 3, detectors), images)

    def summaries(
        self,
        confidence: float = 0.95,
        *,
        groups: ArrayLike | None = None,
        resamples: int = 200,
        random_state: int | np.random.SeedSequence | None = 0,
    ) -> dict[str, Summary]:
        """Return the scores over all detectors with their bootstrap intervals.

        The validation images are resampled, while the labels stay fixed. Only "s1", "s2" and
        "interpretable" have an interval; the interval of the others is NaN.

        Parameters
        ----------
        confidence : float, default=0.95
            Share of the bootstrap figures that lie within an interval, in (0, 1).
        groups : array-like of shape (N,), optional
            Group of each validation image: see `resampled_iou`. None: each image is a group.
        resamples : int, default=200
            Number of bootstrap samples; 0 for none, with intervals of NaN.
        random_state : int, SeedSequence or None, default=0
            Seed of the bootstrap.

        Returns
        -------
        summaries : dict of str to Summary
            Tuples (value, low, high, number of detectors whose IoU is NaN) of "s1"; "s2";
            "linear_or", the sum of `linear_or`; the means over detectors "label_precision",
            "label_recall", "label_f1" and "label_ap"; and "interpretable", the number of detectors
            with an IoU of at least 0.04.

        Raises
        ------
        ValueError
            If ``confidence`` does not lie between 0 and 1, there is not one group for each image,
            or settings are out of range.
        """
        drawn_iou, empty = self.resampled_iou(groups, resamples, random_state), np.zeros(0)
        drawn_iou = drawn_iou[_complete(drawn_iou, self.iou)]
        figures = {
            "s1": (self.s1, s1(drawn_iou)),
            "s2": (self.s2, s2(drawn_iou, self.labels)),
            "linear_or": (float(np.nansum(self._joint_iou)), empty),
            "label_precision": (nan_mean(self.precision), empty),
            "label_recall": (nan_mean(self.recall), empty),
            "label_f1": (nan_mean(self.f1), empty),
            "label_ap": (nan_mean(self.average_precision), empty),
            "interpretable": (
                float(sum(self.interpretable().values())),
                np.count_nonzero(drawn_iou >= INTERPRETABLE, axis=1),
            ),
        }
        undefined = int(np.isnan(self.iou).sum())
        return {
            key: Summary(value, *percentile_interval(drawn, confidence), undefined)
            for key, (value, drawn) in figures.items()
        }

    def table(self) -> Table:
        """Return a table of the detectors with their labels and scores, highest IoU first.

        Returns
        -------
        table : Table
        """
        names = [*flat_concepts(self.concepts), ("", "–")]
        figures = {
            "threshold": self.thresholds,
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
            cells = [Cell.figure(values[i]) for values in figures.values()]
            rows.append([Cell(str(i)), Cell(name), Cell(category), *cells])
        note = "Labels and training IoU are from the training part, all others from validation."
        return Table(["detector", "label", "category", *figures], rows, [note])


def paired_interval(
    ours: Interpretability,
    theirs: Interpretability,
    confidence: float = 0.95,
    *,
    groups: ArrayLike | None = None,
    resamples: int = 1000,
    random_state: int | np.random.SeedSequence | None = 0,
) -> dict[str, Summary]:
    """Return the differences of S¹ and S², ours − theirs, with bootstrap intervals.

    The bootstrap draws the same images for both results.

    Parameters
    ----------
    ours : Interpretability
        Scores of one set of detectors.
    theirs : Interpretability
        Scores of another set of detectors on the same images in the same order.
    confidence : float, default=0.95
        Share of the bootstrap figures that lie within an interval, in (0, 1).
    groups : array-like of shape (N,), optional
        Group of each validation image: see `Interpretability.resampled_iou`. If images of one
        photograph were not grouped, intervals would be too narrow. None: each image is a group.
    resamples : int, default=1000
        Number of bootstrap samples.
    random_state : int, SeedSequence or None, default=0
        Seed of the bootstrap.

    Returns
    -------
    differences : dict of str to Summary
        Under the keys "s1" and "s2": difference, both ends of its interval, and 0.

    Raises
    ------
    ValueError
        If the results do not have the same number of images, there is not one group for each image,
        or settings are out of range.
    """
    if len(ours.judged) != len(theirs.judged):
        raise ValueError(
            "both results must be of the same images, not of "
            f"{len(ours.judged)} and {len(theirs.judged)}: score them on the same validation part"
        )
    check_integer("resamples", resamples)
    # If the seed is None, it is drawn here, once for both.
    seed = check_seed(random_state)
    drawn = ours.resampled_iou(groups, resamples, seed)
    others = theirs.resampled_iou(groups, resamples, seed)
    complete = _complete(drawn, ours.iou) & _complete(others, theirs.iou)
    drawn, others = drawn[complete], others[complete]
    differences = {
        "s1": (ours.s1 - theirs.s1, s1(drawn) - s1(others)),
        "s2": (ours.s2 - theirs.s2, s2(drawn, ours.labels) - s2(others, theirs.labels)),
    }
    return {
        key: Summary(value, *percentile_interval(values, confidence), 0)
        for key, (value, values) in differences.items()
    }


def _complete(drawn_iou: Array, iou: Array) -> Array:
    """Return which samples (B, I) determine every IoU (I,) that all images determine, (B,) bool."""
    missing = np.isnan(drawn_iou) & ~np.isnan(iou)
    return np.asarray(~missing.any(axis=1))


def _numbered(groups: ArrayLike | None, images: int) -> tuple[Array, int]:
    """Return the number of each image's group, (N,), and the number of groups.

    Groups are numbered in the order of their first images, so that their names do not matter.
    """
    if groups is None:
        return np.arange(images), images
    names = np.asarray(groups)
    if names.shape != (images,):
        raise ValueError(
            f"groups must have shape {(images,)}, one group for each image of the validation part, "
            f"not {names.shape}"
        )
    _, first, member = np.unique(names, return_index=True, return_inverse=True)
    return np.argsort(np.argsort(first))[member], len(first)


def _ratio(above: Array, below: Array) -> Array:
    """Return above / below, or 0 where ``below`` is 0, for arrays of the same shape."""
    return np.divide(above, below, out=np.zeros(np.shape(above)), where=below > 0)
