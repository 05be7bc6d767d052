"""What a search for counterfactuals found: of many images, and of one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from xplique_dirpairs.core.tables import Cell, Table
from xplique_dirpairs.interventions.distance import Distances
from xplique_dirpairs.plots.interventions import plot_counterfactual, plot_moves
from xplique_dirpairs.plots.layout import plain

if TYPE_CHECKING:
    from xplique_dirpairs.interventions.counterfactual_search import CounterfactualSearch

CHANGED, NOT_FOUND, ALREADY = "changed", "not found", "already the target"


@dataclass(frozen=True, eq=False)
class Counterfactual:
    """One image's counterfactual.

    Attributes
    ----------
    status
        "changed"; "not found": within the limits no change of so many concepts does it, and what
        is here came nearest; "already the target".
    before, after
        Classes predicted.
    concepts : (k,)
        Which were moved, the largest change of features first.
    means_before, means_after : (k,)
        Of their coefficients over the image's positions.
    range_of_means : (2, k)
        What images were seen to have.
    words
        What happened to each: "removed" (none is left), "lowered", "raised", "added" (there was
        less than a hundredth of what images have).
    maps_before, maps_after : (*S, k)
        Their coefficients.
    path : (steps,)
        Shares of the way, 0 to 1.
    probabilities : (steps, K)
        Class probabilities along it, by the real head on clipped features.
    changed
        ‖x' − x‖_F / ‖x‖_F.
    distances_before, distances_after : Distances
        To the training features, of one image.
    training_distances : Distances
        Of the training images.
    image
        As given; None if there was none.
    class_names, concept_names
    """

    status: str
    before: int
    after: int
    concepts: NDArray
    means_before: NDArray
    means_after: NDArray
    range_of_means: NDArray
    words: tuple[str, ...]
    maps_before: NDArray
    maps_after: NDArray
    path: NDArray
    probabilities: NDArray
    changed: float
    distances_before: Distances
    distances_after: Distances
    training_distances: Distances
    image: NDArray | None
    class_names: Sequence[str]
    concept_names: Sequence[str]

    @property
    def found(self) -> bool:
        """Whether the prediction is changed as wanted."""
        return self.status == CHANGED

    def __str__(self) -> str:
        moved = ", ".join(
            f"{self.concept_names[i]} {word} ({b:.3g} → {a:.3g})"
            for i, word, b, a in zip(
                self.concepts, self.words, self.means_before, self.means_after, strict=True
            )
        )
        what = f"{self.class_names[self.before]} → {self.class_names[self.after]}"
        if not self.found:
            what = f"{self.class_names[self.before]}: {self.status}"
        rank = float(self.distances_after.percentile[0])
        return (
            f"{what}: {moved or 'nothing moved'}; features changed by {self.changed:.1%}, "
            f"at the {rank:.0f}th percentile of the training distances"
        )

    def plot(self, title: str = "") -> Figure:
        """Draw what was moved and where, the probabilities on the way, and the distance."""
        low, high = self.range_of_means
        span = np.where(high > low, high - low, 1.0)
        distances = {
            f"of {name}": (
                float(getattr(self.distances_before, attribute)[0]),
                float(getattr(self.distances_after, attribute)[0]),
                getattr(self.training_distances, attribute),
            )
            for attribute, name in (("positions", "its positions"), ("image", "the image"))
        }
        return plot_counterfactual(
            title or self._headline(),
            self.image,
            (self.before, self.after),
            self.class_names,
            self.path,
            self.probabilities,
            [
                (self.concept_names[i], word)
                for i, word in zip(self.concepts, self.words, strict=True)
            ],
            np.stack([self.means_before - low, self.means_after - low]) / span,
            np.stack([self.maps_before, self.maps_after]),
            distances,
        )

    def _headline(self) -> str:
        before, after = (plain(self.class_names[k]) for k in (self.before, self.after))
        if not self.found:
            return f"{before}: {self.status}; nearest attempt"
        return f"{before} → {after}: features changed by {100 * self.changed:.0f} %"


@dataclass(frozen=True, eq=False)
class Counterfactuals:
    """Counterfactuals of N images; ``found[i]`` is that of one, with its maps and its path.

    Attributes
    ----------
    status : (N,) str
        See `Counterfactual`.
    before, after : (N,) int
        Classes predicted of the intact and of the moved features.
    shifts : (N, I)
        By how much each concept's coefficients were moved, before the range cuts it off.
    means_before, means_after : (N, I)
        Of the coefficients, over the positions of an image.
    changed : (N,)
        ‖x' − x‖_F / ‖x‖_F; NaN for an image whose features are all 0.
    distances_before, distances_after : Distances
        To the training features.
    stay_within
        The percentile of the training distances that was kept to where possible; None: any.
    """

    search: CounterfactualSearch
    activations: NDArray
    images: NDArray | None
    status: NDArray
    before: NDArray
    after: NDArray
    shifts: NDArray
    means_before: NDArray
    means_after: NDArray
    changed: NDArray
    distances_before: Distances
    distances_after: Distances
    stay_within: float | None

    def __len__(self) -> int:
        return len(self.status)

    def __getitem__(self, index: int) -> Counterfactual:
        if not -len(self) <= index < len(self):
            raise IndexError(f"there is no image {index}: there are {len(self)}")
        return self.search.describe(self, index % len(self))

    @property
    def found(self) -> NDArray:
        """Whether the prediction is changed as wanted, (N,) bool."""
        return self.status == CHANGED

    @property
    def number_moved(self) -> NDArray:
        """How many concepts were moved, (N,)."""
        return (self.shifts != 0).sum(axis=1)

    def within(self, percentile: float = 99.0) -> NDArray:
        """Whether both distances of the moved features are within a percentile, (N,) bool."""
        return self.distances_after.percentile <= percentile

    def __str__(self) -> str:
        return str(self.table())

    def table(self, at_most: int = 20) -> Table:
        """A row for each image, and below what holds of all of them."""
        names = self.search.class_names
        rows = []
        for i in range(min(at_most, len(self))):
            moved = np.flatnonzero(self.shifts[i])
            what = ", ".join(
                f"{self.search.concept_names[k]} {'+' if self.shifts[i, k] > 0 else '−'}"
                for k in moved
            )
            rank = self.distances_after.percentile[i]
            rows.append(
                [
                    Cell(str(i)),
                    Cell(names[self.before[i]]),
                    Cell(names[self.after[i]] if self.found[i] else str(self.status[i])),
                    Cell(what or "–"),
                    Cell(f"{self.changed[i]:.3f}", numbers=(float(self.changed[i]),)),
                    Cell(f"{rank:.0f}", numbers=(float(rank),)),
                ]
            )
        headers = ["image", "before", "after", "concepts", "changed", "distance, percentile"]
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
        seen, names = self.search.seen, self.search.class_names
        span = np.maximum(seen.high_mean - seen.low_mean, 1e-12)
        moved = ((self.means_after - self.means_before) / span)[self.found]
        classes = np.stack([self.before, self.after], axis=1)[self.found]
        kinds, kind, counts = np.unique(classes, axis=0, return_inverse=True, return_counts=True)
        order = np.argsort(-counts, kind="stable")[:at_most]
        changes = np.stack([moved[kind.ravel() == k].mean(axis=0) for k in order])
        concepts = np.flatnonzero((np.abs(changes) > 1e-6).any(axis=0))
        rows = [
            f"{plain(names[a])} → {plain(names[b])} ({counts[k]})"
            for k, (a, b) in zip(order, kinds[order], strict=True)
        ]
        lines = [title] if title else []
        if len(order) < len(kinds):
            lines.append(f"the {len(order)} most frequent of {len(kinds)} changes")
        concept_names = [self.search.concept_names[i] for i in concepts]
        return plot_moves(changes[:, concepts], rows, concept_names, "\n".join(lines))

    def _notes(self, at_most: int) -> list[str]:
        wanted = self.status != ALREADY
        notes = [f"{int(self.found.sum())} of {int(wanted.sum())} predictions changed."]
        missed = int((self.status == NOT_FOUND).sum())
        if missed:
            notes.append(
                f"{missed} not found within the limits: allow more concepts, or more of them."
            )
        if self.stay_within is not None and self.found.any():
            inside = int(self.within(self.stay_within)[self.found].sum())
            notes.append(
                f"Of those changed, {inside} are within the {self.stay_within:g}th percentile of "
                "the training images' distances."
            )
        if len(self) > at_most:
            notes.insert(0, f"The first {at_most} of {len(self)} images.")
        return notes
