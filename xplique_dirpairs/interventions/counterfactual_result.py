"""Counterfactuals: the table of many images, and one image's moves, maps and path."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from matplotlib.figure import Figure

from xplique_dirpairs.core.tables import Cell, Table
from xplique_dirpairs.core.types import Array
from xplique_dirpairs.extractors.concept_layer import ConceptLayer
from xplique_dirpairs.interventions.distance import Distances
from xplique_dirpairs.interventions.moved_features import MovedFeatures, flat_maps
from xplique_dirpairs.metrics.manipulation import class_probabilities
from xplique_dirpairs.plots.interventions import plot_counterfactual, plot_moves
from xplique_dirpairs.plots.layout import plain

CHANGED, NOT_FOUND, ALREADY = "changed", "not found", "already the target"
#: Points of a path.
_PATH = 21


@dataclass(frozen=True, eq=False)
class Counterfactual:
    """One image's counterfactual.

    Attributes
    ----------
    status : str
        "changed"; "not found": within the limits no change of this many concepts does it, and the
        one given here came nearest; "already the target".
    before, after : int
        Classes predicted.
    concepts : ndarray of shape (k,), int
        The concepts that were moved, the largest change of features first.
    means_before, means_after : ndarray of shape (k,)
        Means of their coefficients over the image's positions.
    range_of_means : ndarray of shape (2, k)
        Lowest and highest mean among training images.
    words : tuple of str
        What happened to each: "removed" (nothing is left), "lowered", "raised", "added" (there was
        less than a hundredth of the highest mean).
    maps_before, maps_after : ndarray of shape (*S, k)
        Their coefficients.
    path : ndarray of shape (steps,)
        Shares of the move, 0 to 1.
    probabilities : ndarray of shape (steps, K)
        Class probabilities along it, by the real head on clipped features.
    changed : float
        ‖x' − x‖_F / ‖x‖_F.
    distances_before, distances_after : Distances
        To the training features, of this image.
    training_distances : Distances
        Of the training images.
    image : ndarray or None
        As given.
    class_names : tuple of str
        K names.
    concept_names : tuple of str
        I names.
    """

    status: str
    before: int
    after: int
    concepts: Array
    means_before: Array
    means_after: Array
    range_of_means: Array
    words: tuple[str, ...]
    maps_before: Array
    maps_after: Array
    path: Array
    probabilities: Array
    changed: float
    distances_before: Distances
    distances_after: Distances
    training_distances: Distances
    image: Array | None
    class_names: tuple[str, ...]
    concept_names: tuple[str, ...]

    @property
    def found(self) -> bool:
        """Whether the prediction is changed as asked for."""
        return self.status == CHANGED

    def __str__(self) -> str:
        values = zip(self._moves, self.means_before, self.means_after, strict=True)
        moves = [f"{' '.join(move)} ({before:.3g} → {after:.3g})" for move, before, after in values]
        outcome = f" → {self.class_names[self.after]}" if self.found else f": {self.status}"
        return (
            f"{self.class_names[self.before]}{outcome}: {', '.join(moves) or 'nothing moved'}; "
            f"features changed by {self.changed:.1%}, at the "
            f"{self.distances_after.percentile[0]:.0f}th percentile of the training distances"
        )

    def plot(self, title: str = "") -> Figure:
        """Draw what was moved and where, the probabilities on the way, and the distance."""
        start, end = (plain(self.class_names[k]) for k in (self.before, self.after))
        headline = f"{start}: {self.status}; nearest attempt"
        if self.found:
            headline = f"{start} → {end}: features changed by {100 * self.changed:.0f} %"
        low, high = self.range_of_means
        span = np.where(high > low, high - low, 1.0)
        before, after = self.distances_before, self.distances_after
        training = self.training_distances
        return plot_counterfactual(
            title or headline,
            self.image,
            (self.before, self.after),
            self.class_names,
            self.path,
            self.probabilities,
            self._moves,
            (np.stack([self.means_before, self.means_after]) - low) / span,
            np.stack([self.maps_before, self.maps_after]),
            {
                "of its positions": (before.positions[0], after.positions[0], training.positions),
                "of the image": (before.image[0], after.image[0], training.image),
            },
        )

    @property
    def _moves(self) -> list[tuple[str, str]]:
        """Names of the moved concepts, and what happened to each."""
        names = (self.concept_names[i] for i in self.concepts)
        return list(zip(names, self.words, strict=True))


@dataclass(frozen=True, eq=False)
class Counterfactuals:
    """Counterfactuals of N images; ``found[i]`` is that of one, with its maps and its path.

    Attributes
    ----------
    status : ndarray of shape (N,), str
        See `Counterfactual`.
    before, after : ndarray of shape (N,), int
        Classes predicted of the intact and of the moved features.
    shifts : ndarray of shape (N, I)
        By how much each concept's coefficients were moved, before the range cuts it off.
    means_before, means_after : ndarray of shape (N, I)
        Means of the coefficients over the positions of an image.
    changed : ndarray of shape (N,)
        ‖x' − x‖_F / ‖x‖_F; NaN for an image whose features are all 0.
    distances_before, distances_after, training_distances : Distances
        To the training features, of these images and of the training images.
    stay_within : float or None
        The percentile of the training distances that was kept to where possible.
    concepts : ConceptLayer
    class_names : tuple of str
    moved : MovedFeatures
        The network as a function of shifts.
    activations : ndarray of shape (N, *S, D)
    images : ndarray or None
        As given.
    """

    status: Array
    before: Array
    after: Array
    shifts: Array
    means_before: Array
    means_after: Array
    changed: Array
    distances_before: Distances
    distances_after: Distances
    training_distances: Distances
    stay_within: float | None
    concepts: ConceptLayer
    class_names: tuple[str, ...]
    moved: MovedFeatures
    activations: Array
    images: Array | None

    def __len__(self) -> int:
        return len(self.status)

    def __getitem__(self, index: int) -> Counterfactual:
        if not -len(self) <= index < len(self):
            raise IndexError(f"there is no image {index}: there are {len(self)}")
        index %= len(self)
        x = self.activations[index : index + 1]
        u, shift = self.concepts.coefficients(x), self.shifts[index]
        path = np.linspace(0.0, 1.0, _PATH)
        logits, _ = self.moved.outcomes(x, u, np.zeros(_PATH, int), path[:, None] * shift)
        concepts = self.moved_concepts(index)
        before, after = self.means_before[index, concepts], self.means_after[index, concepts]
        shifted = self.moved.bounds.shifted(flat_maps(u), shift[None]).reshape(u.shape)
        low, high = self.range_of_means[:, concepts]
        image = None if self.images is None else np.asarray(self.images[index])
        return Counterfactual(
            status=str(self.status[index]),
            before=int(self.before[index]),
            after=int(self.after[index]),
            concepts=concepts,
            means_before=before,
            means_after=after,
            range_of_means=np.stack([low, high]),
            words=tuple(map(_word, before, after, low, high)),
            maps_before=u[0][..., concepts],
            maps_after=shifted[0][..., concepts],
            path=path,
            probabilities=class_probabilities(logits, self.moved.head.class_activation),
            changed=float(self.changed[index]),
            distances_before=self.distances_before[index],
            distances_after=self.distances_after[index],
            training_distances=self.training_distances,
            image=image,
            class_names=self.class_names,
            concept_names=self.concept_names,
        )

    @property
    def found(self) -> Array:
        """Whether each prediction is changed as asked for, (N,) bool."""
        return np.asarray(self.status == CHANGED)

    @property
    def number_moved(self) -> Array:
        """How many concepts were moved, (N,)."""
        return np.asarray((self.shifts != 0).sum(axis=1))

    @property
    def concept_names(self) -> tuple[str, ...]:
        """I names."""
        return self.concepts.concept_names

    @property
    def range_of_means(self) -> Array:
        """Lowest and highest mean coefficient of training images, (2, I)."""
        return np.stack([self.moved.bounds.low_mean, self.moved.bounds.high_mean])

    def within(self, percentile: float = 99.0) -> Array:
        """Return whether both distances of the moved features are within a percentile, (N,)."""
        return np.asarray(self.distances_after.percentile <= percentile)

    def moved_concepts(self, index: int) -> Array:
        """Return the concepts moved in one image, the largest change of features first, (k,)."""
        concepts = np.flatnonzero(self.shifts[index])
        change = np.abs(self.means_after[index] - self.means_before[index])
        sizes = (change * np.sqrt(np.diag(self.moved.gram)))[concepts]
        return np.asarray(concepts[np.argsort(-sizes, kind="stable")])

    def __str__(self) -> str:
        return str(self.table())

    def table(self, at_most: int = 20) -> Table:
        """Return a row for each image, and notes on all of them."""
        headers = ["image", "before", "after", "concepts", "changed", "distance, percentile"]
        rows = []
        for index, shifts in enumerate(self.shifts[:at_most]):
            moved = np.flatnonzero(shifts)
            moves = [f"{self.concept_names[i]} {'+' if shifts[i] > 0 else '−'}" for i in moved]
            after = self.class_names[self.after[index]]
            rows.append(
                [
                    Cell(str(index)),
                    Cell(self.class_names[self.before[index]]),
                    Cell(after if self.found[index] else str(self.status[index])),
                    Cell(", ".join(moves) or "–"),
                    Cell.figure(self.changed[index]),
                    Cell.figure(self.distances_after.percentile[index], 0),
                ]
            )
        return Table(headers, rows, self._notes(at_most))

    def plot_moves(self, title: str = "", at_most: int = 25) -> Figure:
        """Draw which concepts changed which predictions: a row for each change of class.

        Colour: mean change of what an image has of the concept, of the range among training
        images; red rises, blue falls.

        Parameters
        ----------
        title : str, default=""
        at_most : int, default=25
            Rows, the most frequent changes first; how many are left out is said.

        Raises
        ------
        ValueError
            If no prediction was changed.
        """
        if not self.found.any():
            raise ValueError("no prediction was changed: there is nothing to draw")
        low, high = self.range_of_means
        shares = (self.means_after - self.means_before) / np.maximum(high - low, 1e-12)
        classes = np.stack([self.before, self.after], axis=1)[self.found]
        kinds, kind, counts = np.unique(classes, axis=0, return_inverse=True, return_counts=True)
        order = np.argsort(-counts, kind="stable")[:at_most]
        changes = np.stack([shares[self.found][kind.ravel() == k].mean(axis=0) for k in order])
        concepts = np.flatnonzero((np.abs(changes) > 1e-6).any(axis=0))
        names = [plain(name) for name in self.class_names]
        rows = [f"{names[kinds[k, 0]]} → {names[kinds[k, 1]]} ({counts[k]})" for k in order]
        lines = [title] if title else []
        if len(order) < len(kinds):
            lines.append(f"the {len(order)} most frequent of {len(kinds)} changes")
        concept_names = [self.concept_names[i] for i in concepts]
        return plot_moves(changes[:, concepts], rows, concept_names, "\n".join(lines))

    def _notes(self, at_most: int) -> list[str]:
        changed, sought = int(self.found.sum()), int((self.status != ALREADY).sum())
        notes = [f"{changed} of {sought} predictions changed."]
        if changed < sought:
            notes.append(
                f"{sought - changed} not found within the limits: allow more concepts, or more of "
                "them."
            )
        if self.stay_within is not None and changed:
            inside = int(self.within(self.stay_within)[self.found].sum())
            notes.append(
                f"Of those changed, {inside} are within the {self.stay_within:g}th percentile of "
                "the training images' distances."
            )
        if len(self) > at_most:
            notes.insert(0, f"The first {at_most} of {len(self)} images.")
        return notes


def _word(before: float, after: float, low: float, high: float) -> str:
    """Return what happened to a concept, by its means and their range."""
    little = 0.01 * max(high, 1e-12)
    if low >= 0 and after < before and after <= 1e-6 * max(high, before):
        return "removed"
    if low >= 0 and after > before and before <= little:
        return "added"
    return "raised" if after > before else "lowered"
