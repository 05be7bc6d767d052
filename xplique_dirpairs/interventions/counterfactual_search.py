"""Counterfactuals of activations: checks, parts of the images that fit in memory, results."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from numbers import Real
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.exceptions import NotFittedError

from xplique_dirpairs.core.batching import as_positions
from xplique_dirpairs.core.progress import progress
from xplique_dirpairs.core.validation import check_activations, check_class, check_integer
from xplique_dirpairs.extractors.reader import ConceptReader, Extractor, is_fitted, reader_of
from xplique_dirpairs.interventions.coefficient_range import CoefficientRange
from xplique_dirpairs.interventions.counterfactual_result import (
    ALREADY,
    CHANGED,
    NOT_FOUND,
    Counterfactual,
    Counterfactuals,
)
from xplique_dirpairs.interventions.distance import Distances, TrainingDistance
from xplique_dirpairs.interventions.moved_features import MovedFeatures
from xplique_dirpairs.interventions.search import Attempts, Wanted, least_changes
from xplique_dirpairs.metrics.manipulation import class_probabilities
from xplique_dirpairs.models.head import Head, check_head
from xplique_dirpairs.pairs import DirectionPairs

Moves = Literal["any", "remove", "add"]

#: Floats that the screening of a part of the images may take, 64 MB.
_PART_FLOATS = 2**24
#: Points of a path.
_PATH = 21


class CounterfactualSearch:
    """What training features have of each concept, and how far features are from them; once.

    Parameters
    ----------
    head : Head
        From the layer to the classes.
    concepts
        Direction pairs, or any fitted extractor.
    training_activations : (M, *S, D)
    quantile
        See `CoefficientRange`.
    limits : (low, high)
        Of the layer. None: the range of the training activations; (0, None) after a ReLU without
        an upper end.
    class_names : K of them
    concept_names : I of them

    Raises
    ------
    TypeError, ValueError, NotFittedError
        If the head has several independent outputs, or something does not fit.
    """

    def __init__(
        self,
        head: Head,
        concepts: DirectionPairs | Extractor,
        training_activations: ArrayLike,
        *,
        quantile: float = 0.99,
        limits: tuple[float | None, float | None] | None = None,
        class_names: Sequence[str] | None = None,
        concept_names: Sequence[str] | None = None,
    ) -> None:
        x = check_activations(training_activations)
        if head is None:
            raise TypeError("head must be a Head: counterfactuals are of predictions")
        check_head(head, x.shape)
        classes = head.predict(x[:1]).shape[1]
        if classes > 1 and head.is_multilabel:
            raise ValueError(
                f"the network has {classes} independent yes-or-no outputs: give a Head of the one "
                "whose answer is to change, so that its output is (n, 1)"
            )
        self.head = head
        self.reader = _reader(concepts, x)
        self.bank = np.asarray(self.reader.bank, np.float32)
        self.seen = CoefficientRange.of(
            (self.reader.coefficients(x[rows]) for rows in _parts(len(x), x[0].size)), quantile
        )
        self.limits = _limits(limits, x)
        self.distance = TrainingDistance(x)
        self.moved = MovedFeatures(head, self.bank, self.limits, self.seen)
        # one output is a network of two classes
        self.class_names = _names("class_names", class_names, max(classes, 2), "class")
        self.concept_names = _names("concept_names", concept_names, len(self.bank), "concept")

    def find(
        self,
        activations: ArrayLike,
        *,
        target: int | None = None,
        max_concepts: int = 3,
        moves: Moves = "any",
        only: Sequence[int] | None = None,
        margin: float = 0.0,
        stay_within: float | None = 99.0,
        images: NDArray | None = None,
        verbose: int = 1,
    ) -> Counterfactuals:
        """Counterfactuals of activations (N, *S, D); see `counterfactuals`.

        ``images``, (N, height, width, channels), are for the pictures alone.
        """
        x = self._checked(activations, images)
        if target is not None:
            check_class(target, len(self.class_names))
        check_integer("max_concepts", max_concepts)
        if not (isinstance(margin, Real) and np.isfinite(margin) and margin >= 0):
            raise ValueError(f"margin must be a number of logits of at least 0, not {margin!r}")
        if stay_within is not None and not 0 < stay_within <= 100:
            raise ValueError(f"stay_within must be a percentile up to 100, not {stay_within!r}")
        allowed = self._allowed(moves, only)
        shifts = np.zeros((len(x), len(self.bank)), np.float32)
        parts = list(self._search_parts(x))
        for rows in progress(parts, len(parts), "counterfactuals", verbose, "part"):
            u = self.reader.coefficients(x[rows])
            least, most = self.seen.furthest(_flat(u))
            original = self._logits(x[rows], u, shifts[rows]).argmax(axis=1)
            limits = (least * allowed[0], most * allowed[1])
            wanted = Wanted(original, target, float(margin), max_concepts, limits)
            attempts = least_changes(self.moved, x[rows], u, wanted)
            chosen = self._chosen(x[rows], u, attempts, stay_within)
            chosen[original == target] = 0.0
            shifts[rows] = chosen
        return self._result(x, shifts, target, float(margin), stay_within, images)

    def set_levels(
        self, activations: ArrayLike, levels: Mapping[int, float], images: NDArray | None = None
    ) -> Counterfactuals:
        """What happens if concepts are set, not searched: each to a mean over the image.

        Parameters
        ----------
        activations : (N, *S, D)
        levels
            Concept → mean of its coefficients over the positions of an image; 0 removes it. The
            coefficients of all positions are moved by one shift, within the range.
        images
            For the pictures.

        Raises
        ------
        ValueError
            If there is no such concept, or the level is not within what images were seen to have.
        """
        x = self._checked(activations, images)
        shifts = np.zeros((len(x), len(self.bank)), np.float32)
        which = self._concepts(list(levels))
        low, high = self.seen.low_mean[which], self.seen.high_mean[which]
        wanted = np.array([float(value) for value in levels.values()])
        outside = ~((low - 1e-9 <= wanted) & (wanted <= high + 1e-9))
        if outside.any():
            k = int(np.argmax(outside))
            raise ValueError(
                f"concept {which[k]} cannot be set to {wanted[k]:g}: training images have "
                f"{low[k]:.4g} to {high[k]:.4g} of it"
            )
        for rows in self._search_parts(x):
            u = _flat(self.reader.coefficients(x[rows]))
            goal = u.mean(axis=1, dtype=np.float64)
            goal[:, which] = wanted
            moved = self.seen.shift_to_mean(u, goal)
            shifts[rows, which] = moved[:, which]
        return self._result(x, shifts, None, 0.0, None, images)

    # ---------------------------------------------------------------- inside

    def _checked(self, activations: ArrayLike, images: NDArray | None) -> NDArray:
        x = check_activations(activations)
        if x.shape[-1] != self.bank.shape[1]:
            raise ValueError(
                f"activations must have {self.bank.shape[1]} channels, as in training, but have "
                f"shape {x.shape}"
            )
        self.head.check_takes(x.shape[1:])
        if images is not None and len(images) != len(x):
            raise ValueError(f"there are {len(images)} images for {len(x)} activations")
        return x

    def _concepts(self, concepts: Sequence[int]) -> NDArray:
        count = len(self.bank)
        if not isinstance(concepts, (Sequence, np.ndarray)) or isinstance(concepts, str):
            raise TypeError(f"concepts are given as a list of their numbers, not {concepts!r}")
        for concept in concepts:
            whole = isinstance(concept, (int, np.integer)) and not isinstance(concept, bool)
            if not whole or not 0 <= concept < count:
                raise ValueError(f"there is no concept {concept!r}: they are 0 to {count - 1}")
        if not len(concepts):
            raise ValueError("no concept is given: there is nothing to move")
        return np.array(concepts, int)

    def _allowed(self, moves: str, only: Sequence[int] | None) -> tuple[NDArray, NDArray]:
        """0 or 1 for each concept, (I,): whether it may fall, whether it may rise."""
        if moves not in ("any", "remove", "add"):
            raise ValueError(f"moves must be 'any', 'remove' or 'add', not {moves!r}")
        which = np.ones(len(self.bank))
        if only is not None:
            which[:] = 0.0
            which[self._concepts(only)] = 1.0
        return which * (moves != "add"), which * (moves != "remove")

    def _search_parts(self, x: NDArray) -> Iterator[slice]:
        """Parts of the images whose tables of responses, and of positions, fit."""
        concepts, classes = self.bank.shape[0], len(self.class_names)
        positions = max(1, x[0].size // x.shape[-1])
        size = max(12 * concepts * classes, 8 * positions * concepts, 100 * concepts, x[0].size)
        return _parts(len(x), size)

    def _logits(self, x: NDArray, u: NDArray, shifts: NDArray) -> NDArray:
        return self.moved.outcomes(x, u, np.arange(len(x)), shifts)[0]

    def _chosen(
        self, x: NDArray, u: NDArray, attempts: Attempts, stay_within: float | None
    ) -> NDArray:
        """The first attempt that stays within, (n, I), or the first."""
        if stay_within is None:
            return attempts.shifts[:, 0].copy()
        images, made, concepts = attempts.shifts.shape
        flat = attempts.shifts.reshape(-1, concepts)

        def features(rows: slice) -> NDArray:
            image = np.arange(rows.start, rows.stop) // made
            return self.moved.features(x[image], u[image], flat[rows])

        rank = self.distance.of_moved(images * made, features, x[0].size).percentile
        good = attempts.met & (rank.reshape(images, made) <= stay_within)
        first = np.where(good.any(axis=1), good.argmax(axis=1), 0)
        return attempts.shifts[np.arange(images), first]

    def _result(
        self,
        x: NDArray,
        shifts: NDArray,
        target: int | None,
        margin: float,
        stay_within: float | None,
        images: NDArray | None,
    ) -> Counterfactuals:
        means = np.empty((2, *shifts.shape))
        before, after = np.empty((2, len(x)), int)
        gap, norm, own = np.empty((3, len(x)))
        for rows in self._search_parts(x):
            u = self.reader.coefficients(x[rows])
            flat, t = _flat(u), shifts[rows]
            means[:, rows] = flat.mean(axis=1), self.seen.shifted(flat, t).mean(axis=1)
            before[rows] = self._logits(x[rows], u, np.zeros_like(t)).argmax(axis=1)
            logits, norm[rows] = self.moved.outcomes(x[rows], u, np.arange(len(t)), t)
            after[rows] = logits.argmax(axis=1)
            wanted = Wanted(before[rows], target, margin, 1, (t, t))
            gap[rows] = wanted.gap(logits, np.arange(len(t)))
            own[rows] = np.linalg.norm(x[rows].reshape(len(t), -1), axis=1)
        status = np.where((gap > 0) & (gap >= margin), CHANGED, NOT_FOUND)
        status = np.where(before == target, ALREADY, status)  # its strings may be longer
        changed = np.divide(norm, own, out=np.full(len(x), np.nan), where=own > 0)
        after_distances = self.distance.of_moved(
            len(x), lambda rows: self._features(x[rows], shifts[rows]), x[0].size
        )
        return Counterfactuals(
            search=self,
            activations=x,
            images=images,
            status=status,
            before=before,
            after=after,
            shifts=shifts,
            means_before=means[0],
            means_after=means[1],
            changed=changed,
            distances_before=self.distance(x),
            distances_after=after_distances,
            stay_within=stay_within,
        )

    def _features(self, x: NDArray, shifts: NDArray) -> NDArray:
        return self.moved.features(x, self.reader.coefficients(x), shifts)

    def describe(self, found: Counterfactuals, index: int) -> Counterfactual:
        """One image's counterfactual, with its maps and its path."""
        x = found.activations[index : index + 1]
        u = self.reader.coefficients(x)
        shift = found.shifts[index]
        path = np.linspace(0.0, 1.0, _PATH)
        along = (path[:, None] * shift).astype(np.float32)
        logits, _ = self.moved.outcomes(x, u, np.zeros(_PATH, int), along)
        concepts = np.flatnonzero(shift)
        before, after = found.means_before[index], found.means_after[index]
        size = np.abs(after - before) * np.sqrt(np.diag(self.moved.gram))
        concepts = concepts[np.argsort(-size[concepts], kind="stable")]
        moved = self.seen.shifted(_flat(u), shift[None]).reshape(u.shape)
        span = np.stack([self.seen.low_mean, self.seen.high_mean])
        return Counterfactual(
            status=str(found.status[index]),
            before=int(found.before[index]),
            after=int(found.after[index]),
            concepts=concepts,
            means_before=before[concepts],
            means_after=after[concepts],
            range_of_means=span[:, concepts],
            words=tuple(_word(before[i], after[i], *span[:, i]) for i in concepts),
            maps_before=u[0][..., concepts],
            maps_after=moved[0][..., concepts],
            path=path,
            probabilities=class_probabilities(logits),
            changed=float(found.changed[index]),
            distances_before=_one(found.distances_before, index),
            distances_after=_one(found.distances_after, index),
            training_distances=self.distance.training,
            image=None if found.images is None else np.asarray(found.images[index]),
            class_names=self.class_names,
            concept_names=self.concept_names,
        )


def _word(before: float, after: float, low: float, high: float) -> str:
    """What happened to a concept, by its means."""
    little = 0.01 * max(high, 1e-12)
    if low >= 0 and after < before and after <= 1e-6 * max(high, before):
        return "removed"
    if low >= 0 and after > before and before <= little:
        return "added"
    return "raised" if after > before else "lowered"


def _one(distances: Distances, index: int) -> Distances:
    return Distances(*(getattr(distances, name)[[index]] for name in Distances.__match_args__))


def _reader(concepts: DirectionPairs | Extractor, x: NDArray) -> ConceptReader:
    if isinstance(concepts, DirectionPairs):
        if concepts.channels != x.shape[-1]:
            raise ValueError(
                f"the pairs are of a layer of {concepts.channels} channels, but the activations "
                f"have {x.shape[-1]}"
            )
        bank = concepts.bank()
        none = np.zeros(concepts.channels, np.float32)
        return ConceptReader(
            concepts.coefficients, None, bank, none, concepts.signals, concepts.filters
        )
    if not isinstance(concepts, Extractor):
        raise TypeError(
            f"concepts must be DirectionPairs or a fitted extractor, not {type(concepts).__name__}"
        )
    if not is_fitted(concepts):
        raise NotFittedError(f"{type(concepts).__name__} is not fitted: call fit first")
    return reader_of(concepts, as_positions(x)[:4096])


def _limits(limits: tuple[float | None, float | None] | None, x: NDArray) -> tuple[float, float]:
    if limits is None:
        return float(x.min()), float(x.max())
    low, high = limits
    ends = -np.inf if low is None else float(low), np.inf if high is None else float(high)
    if not ends[0] <= ends[1]:
        raise ValueError(f"limits must be in order, (low, high), not {limits}")
    return ends


def _names(what: str, names: Sequence[str] | None, count: int, each: str) -> list[str]:
    if names is None:
        return [f"{each} {k}" for k in range(count)]
    if len(names) != count:
        raise ValueError(f"{what} must be {count} names, not {len(names)}")
    return [str(name) for name in names]


def _flat(u: NDArray) -> NDArray:
    """(n, *S, I) → (n, P, I)."""
    return u.reshape(len(u), -1, u.shape[-1])


def _parts(count: int, size: int) -> Iterator[slice]:
    at_once = max(1, _PART_FLOATS // size)
    for start in range(0, count, at_once):
        yield slice(start, min(start + at_once, count))
