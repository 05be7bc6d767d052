"""Search for counterfactuals: the least change of concepts that changes a prediction."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike

from xplique_dirpairs.core.batching import chunk_size, slices
from xplique_dirpairs.core.progress import progress
from xplique_dirpairs.core.types import Array
from xplique_dirpairs.core.validation import (
    check_activations,
    check_choice,
    check_class,
    check_concepts,
    check_images,
    check_integer,
    check_number,
)
from xplique_dirpairs.extractors.concept_layer import ConceptLayer
from xplique_dirpairs.interventions.counterfactual_result import (
    ALREADY,
    CHANGED,
    NOT_FOUND,
    Counterfactuals,
)
from xplique_dirpairs.interventions.distance import TrainingDistance
from xplique_dirpairs.interventions.least_changes import Goal, LeastChanges, first_near
from xplique_dirpairs.interventions.moved_features import CoefficientRange, MovedFeatures, flat_maps

Moves = Literal["any", "remove", "add"]

#: Number of floats that screening a part of the images may use: 2**24 float32 are 64 MB.
_PART_FLOATS = 2**24


def counterfactuals(
    concepts: Any,
    images: ArrayLike,
    training_images: ArrayLike,
    *,
    target: int | None = None,
    max_concepts: int = 3,
    moves: Moves = "any",
    only: ArrayLike | None = None,
    margin: float = 0.0,
    stay_within: float | None = 99.0,
    quantile: float = 0.99,
    verbose: int = 1,
) -> Counterfactuals:
    """Find the least change of a few concepts that changes each image's prediction.

    The features x of an image at the layer of the concepts are x = decode(u) + residual, with
    coefficients u. To *move* a concept is to add the same amount to its coefficients at all
    positions of the image; the residual is kept. This gives features x'. Among the moves that
    change the prediction, the one with the smallest ‖x' − x‖_F is sought.

    Parameters
    ----------
    concepts : ConceptLayer or fitted extractor
        Anything that `ConceptLayer.of` accepts as its only argument.
    images : array-like of shape (N, height, width, channels)
        N images, preprocessed for the network.
    training_images : array-like of shape (M, height, width, channels)
        M ≥ 2 images that show which amounts of the concepts, and which features, are usual.
    target : int, optional
        Index of the class to change to. None: any class other than the predicted one. A single
        output has two classes, no (0) and yes (1).
    max_concepts : int, default=3
        Largest number of concepts that may be moved together.
    moves : {"any", "remove", "add"}, default="any"
        "remove": coefficients may only fall. "add": they may only rise. "any": both.
    only : array-like of int, optional
        Indices of the concepts that may be moved. None: all.
    margin : float, default=0.0
        Amount, in logits, by which the new class must lead all others (with ``target=None``: the
        original class). 0: the move ends just beyond the decision boundary.
    stay_within : float or None, default=99.0
        Percentile, up to 100, of the training images' distances to each other (see
        `TrainingDistance`) within which x' should stay. If no change that was found does so, the
        least change is returned. None: the least change is always returned.
    quantile : float, default=0.99
        How far a concept may be moved, as a quantile over the training images, above 0.5 and at
        most 1. Each training image has a largest coefficient of the concept and a mean: no
        coefficient is moved above this quantile of the former, and no image's mean above this
        quantile of the latter. The lower limits are 0 or, for a concept with negative coefficients,
        the quantiles at 1 − `quantile` of the images' smallest coefficients and of their means.
    verbose : int, default=1
        0: silent. Otherwise, a progress bar is shown.

    Returns
    -------
    result : Counterfactuals
        ``print(result)`` shows the table of all images, ``result[i].plot()`` the details of
        image i, and ``result.status`` whether a change was found within the limits.

    Raises
    ------
    TypeError
        If ``concepts`` holds no concepts.
    ValueError
        If the network's outputs are independent yes/no decisions (multilabel), or an argument is
        invalid.
    NotFittedError
        If ``concepts`` is not fitted.
    """
    layer = ConceptLayer.of(concepts)
    pictures = check_images(images)
    training = layer.activations(check_images(training_images))
    search = CounterfactualSearch(layer, training, quantile=quantile)
    return search.find(
        layer.activations(pictures),
        target=target,
        max_concepts=max_concepts,
        moves=moves,
        only=only,
        margin=margin,
        stay_within=stay_within,
        images=pictures,
        verbose=verbose,
    )


class CounterfactualSearch:
    """Search for counterfactuals of activations, many times with the same training features.

    It does what `counterfactuals` does, with activations instead of images. Activations have D
    channels at positions of shape ``*S``: (H, W) for feature maps, (T,) for T tokens, empty for
    vectors.

    Parameters
    ----------
    concepts : ConceptLayer or fitted extractor
        Anything that `ConceptLayer.of` accepts as its only argument.
    training_activations : array-like of shape (M, *S, D)
        Activations of M ≥ 2 training images, which show the usual amounts of the concepts.
    quantile : float, default=0.99
        How far a concept may be moved, as a quantile over the training images, above 0.5 and at
        most 1. Each training image has a largest coefficient of the concept and a mean: no
        coefficient is moved above this quantile of the former, and no image's mean above this
        quantile of the latter. The lower limits are 0 or, for a concept with negative coefficients,
        the quantiles at 1 − `quantile` of the images' smallest coefficients and of their means.

    Attributes
    ----------
    concepts : ConceptLayer
        The concepts and their network.
    class_names : tuple of str
        Names of the classes.
    distance : TrainingDistance
        Measures the distance of features to the training features.
    moved : MovedFeatures
        Object that computes moved features and the logits for them; internal. Its ``bounds`` hold,
        for I concepts, the lowest and highest coefficients, ``low`` and ``high``, (I,), and the
        lowest and highest of their means over an image, ``low_mean`` and ``high_mean``, (I,).

    Raises
    ------
    TypeError
        If ``concepts`` holds no concepts.
    ValueError
        If the network's outputs are independent yes/no decisions (multilabel), or an argument is
        invalid.
    NotFittedError
        If ``concepts`` is not fitted.
    """

    def __init__(
        self,
        concepts: Any,
        training_activations: ArrayLike,
        *,
        quantile: float = 0.99,
    ) -> None:
        self.concepts = ConceptLayer.of(concepts)
        x = self._check(training_activations)
        head = self.concepts.head.by_class(x)
        if not head.has_exclusive_classes:
            raise ValueError(
                "the network's outputs are independent yes/no decisions, so there is no class to "
                "change to: build a model that has only the output that is to change"
            )
        number_of_classes = head.few_logits(x[:1]).shape[1]
        self.class_names = self.concepts.names_of_classes(number_of_classes)
        batches = slices(len(x), chunk_size(x[0].size))
        bounds = CoefficientRange.of(
            (self.concepts.coefficients(x[rows]) for rows in batches), quantile
        )
        self.distance = TrainingDistance(x)
        self.moved = MovedFeatures(
            head, self.concepts.bank, (float(x.min()), float(x.max())), bounds
        )

    def find(
        self,
        activations: ArrayLike,
        *,
        target: int | None = None,
        max_concepts: int = 3,
        moves: Moves = "any",
        only: ArrayLike | None = None,
        margin: float = 0.0,
        stay_within: float | None = 99.0,
        images: Array | None = None,
        verbose: int = 1,
    ) -> Counterfactuals:
        """Find the least change of a few concepts that changes each prediction.

        Parameters
        ----------
        activations : array-like of shape (N, *S, D)
            Activations of N images: D channels at positions of shape ``*S``.
        target : int, optional
            Index of the class to change to. None: any class other than the predicted one.
        max_concepts : int, default=3
            Largest number of concepts that may be moved together.
        moves : {"any", "remove", "add"}, default="any"
            "remove": coefficients may only fall. "add": they may only rise. "any": both.
        only : array-like of int, optional
            Indices of the concepts that may be moved. None: all.
        margin : float, default=0.0
            Amount, in logits, by which the new class must lead all others (with ``target=None``:
            the original class). 0: the move ends just beyond the decision boundary.
        stay_within : float or None, default=99.0
            Percentile, up to 100, of the training images' distances to each other within which the
            moved features should stay. If no change that was found does so, the least change is
            returned. None: the least change is always returned.
        images : ndarray of shape (N, height, width, channels), optional
            The images, to be shown in plots. None: plots show no images.
        verbose : int, default=1
            0: silent. Otherwise, a progress bar is shown.

        Returns
        -------
        result : Counterfactuals
            The change found for each image; ``result.status`` says whether the prediction changed
            as requested.

        Raises
        ------
        TypeError, ValueError
            If an argument is invalid, or there is not one image for each entry of activations.
        """
        x = self._check(activations, images)
        if target is not None:
            check_class(target, len(self.class_names))
        check_integer("max_concepts", max_concepts)
        check_number("margin", margin, minimum=0)
        if stay_within is not None:
            check_number("stay_within", stay_within, above=0)
            if stay_within > 100:
                raise ValueError(f"stay_within must be a percentile up to 100, not {stay_within!r}")
        check_choice("moves", moves, ("any", "remove", "add"))
        movable = np.zeros(self.concepts.number_of_concepts)
        movable[check_concepts(only, len(movable))] = 1.0
        may_fall, may_rise = movable * (moves != "add"), movable * (moves != "remove")
        goal = Goal(target, float(margin), max_concepts)
        shifts = np.zeros((len(x), len(movable)), np.float32)
        parts = list(self._parts(x))
        for rows in progress(parts, len(parts), "counterfactuals", verbose, "part"):
            u = self.concepts.coefficients(x[rows])
            intact = self.moved.intact_logits(x[rows], u)
            least, most = self.moved.bounds.furthest_shifts(flat_maps(u))
            limits = (least * may_fall, most * may_rise)
            search = LeastChanges(self.moved, x[rows], u, intact, limits, goal)
            shifts[rows] = self._nearest_attempts(search, stay_within)
            shifts[rows][intact.argmax(axis=1) == target] = 0.0
        return self._result(x, shifts, goal, stay_within, images)

    def set_levels(
        self, activations: ArrayLike, levels: Mapping[int, float], images: Array | None = None
    ) -> Counterfactuals:
        """Set the mean coefficients of concepts to given levels and return what this changes.

        Parameters
        ----------
        activations : array-like of shape (N, *S, D)
            Activations of N images: D channels at positions of shape ``*S``.
        levels : dict of int to float
            By index of the concept, the new mean of its coefficients over the positions of every
            image; 0 removes a concept without negative coefficients. The same amount is added to
            the coefficients at all positions, but they are clipped to their range over the training
            images.
        images : ndarray of shape (N, height, width, channels), optional
            The images, to be shown in plots. None: plots show no images.

        Returns
        -------
        result : Counterfactuals
            The change of each image; its status is "changed" if another class is predicted.

        Raises
        ------
        ValueError
            If a concept does not exist, or a level is outside the range of mean coefficients of the
            training images.
        """
        x = self._check(activations, images)
        bounds, number_of_concepts = self.moved.bounds, self.concepts.number_of_concepts
        indices = check_concepts(list(levels), number_of_concepts)
        low, high = bounds.low_mean[indices], bounds.high_mean[indices]
        goals = np.array([float(value) for value in levels.values()])
        is_outside = ~((low - 1e-9 <= goals) & (goals <= high + 1e-9))
        if is_outside.any():
            k = int(np.argmax(is_outside))
            raise ValueError(
                f"the level of concept {indices[k]} must be between {low[k]:.4g} and "
                f"{high[k]:.4g}, as in the training images, not {goals[k]:g}"
            )
        shifts = np.zeros((len(x), number_of_concepts), np.float32)
        for rows in self._parts(x):
            u = flat_maps(self.concepts.coefficients(x[rows]))
            means = u.mean(axis=1, dtype=np.float64)
            means[:, indices] = goals
            shifts[rows, indices] = bounds.shifts_to_means(u, means)[:, indices]
        return self._result(x, shifts, Goal(), None, images)

    def _check(self, activations: ArrayLike, images: Array | None = None) -> Array:
        x = check_activations(activations)
        self.concepts.head.check_takes(x.shape[1:])
        if images is not None and len(images) != len(x):
            raise ValueError(f"there are {len(images)} images for {len(x)} activations")
        return x

    def _parts(self, x: Array) -> Iterator[slice]:
        """Return slices of the images whose intermediate tables fit in memory."""
        concepts, classes = self.concepts.number_of_concepts, len(self.class_names)
        positions = max(1, x[0].size // x.shape[-1])
        floats = max(12 * concepts * classes, 8 * positions * concepts, 500 * concepts, x[0].size)
        return slices(len(x), chunk_size(floats, floats=_PART_FLOATS))

    def _nearest_attempts(self, search: LeastChanges, stay_within: float | None) -> Array:
        """Return the first attempt of each image that stays near the data, else its first one."""
        shifts, is_met = search.attempts()
        if stay_within is None:
            return np.asarray(shifts[:, 0])

        def percentiles(images: Array, attempt: int) -> Array:
            x, u, moves = search.x[images], search.u[images], shifts[images, attempt]
            moved = partial(self._moved_rows, x, u, moves)
            return self.distance.of_moved(len(images), moved, x[0].size).percentile

        return first_near(shifts, is_met, percentiles, stay_within)

    def _moved_rows(self, x: Array, u: Array, shifts: Array, rows: slice) -> Array:
        """Return the features of some images after one move of each."""
        return self.moved.features(x[rows], u[rows], shifts[rows])

    def _result(
        self,
        x: Array,
        shifts: Array,
        goal: Goal,
        stay_within: float | None,
        images: Array | None,
    ) -> Counterfactuals:
        means = np.empty((2, *shifts.shape))
        before, after = np.empty((2, len(x)), int)
        lead, norm, own = np.empty((3, len(x)))
        for rows in self._parts(x):
            u, t = self.concepts.coefficients(x[rows]), shifts[rows]
            flat = flat_maps(u)
            means[:, rows] = flat.mean(axis=1), self.moved.bounds.shifted(flat, t).mean(axis=1)
            before[rows] = self.moved.intact_logits(x[rows], u).argmax(axis=1)
            logits, norm[rows] = self.moved.outcomes(x[rows], u, np.arange(len(t)), t)
            after[rows] = logits.argmax(axis=1)
            lead[rows] = goal.lead(logits, before[rows])
            own[rows] = np.linalg.norm(x[rows].reshape(len(t), -1), axis=1)
        status = np.where(goal.is_met(lead), CHANGED, NOT_FOUND)

        def features(rows: slice) -> Array:
            return self.moved.features(x[rows], self.concepts.coefficients(x[rows]), shifts[rows])

        return Counterfactuals(
            # np.where, as an assignment would cut off a string that is longer than those there.
            status=np.where(before == goal.target, ALREADY, status),
            before=before,
            after=after,
            shifts=shifts,
            means_before=means[0],
            means_after=means[1],
            changed=np.divide(norm, own, out=np.full(len(x), np.nan), where=own > 0),
            distances_before=self.distance(x),
            distances_after=self.distance.of_moved(len(x), features, x[0].size),
            training_distances=self.distance.training,
            stay_within=stay_within,
            concepts=self.concepts,
            class_names=self.class_names,
            moved=self.moved,
            activations=x,
            images=images,
        )
