"""Results of a counterfactual search: a table of all images, and the details of each image."""

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
#: Number of points along a path.
_PATH = 21


@dataclass(frozen=True, eq=False)
class Counterfactual:
    """Counterfactual of one image: k of I concepts were moved, which may change the prediction.

    A move adds the same amount to a concept's coefficients at all positions of the image, but clips
    them to their range over the training images. It changes the features x of a layer to x'. The
    shape ``*S`` is that of the positions: (H, W) for feature maps, (T,) for T tokens, and empty for
    vectors.

    Attributes
    ----------
    status : str
        "changed": the prediction changed as requested. "already the target": the requested class
        was predicted from the start, so nothing was moved. "not found": no such change was found
        with the allowed moves, and the attempt that came nearest to it is given.
    before : int
        Index of the class predicted for the original features.
    after : int
        Index of the class predicted for the moved features.
    concepts : ndarray of int of shape (k,)
        Indices of the concepts that were moved; the one that changes the features most is first.
    means_before : ndarray of shape (k,)
        Means of the moved concepts' coefficients over the image's positions before the move.
    means_after : ndarray of shape (k,)
        The same means after the move.
    range_of_means : ndarray of shape (2, k)
        Lowest and highest mean of the coefficients over an image's positions to which a move may
        lead: see ``quantile`` of `counterfactuals`.
    words : tuple of str
        What happened to each moved concept: "removed" (nothing is left), "lowered", "raised" or
        "added" (its mean before was at most a hundredth of the highest in ``range_of_means``).
    maps_before : ndarray of shape (*S, k)
        Coefficients of the moved concepts before the move.
    maps_after : ndarray of shape (*S, k)
        Coefficients of the moved concepts after the move.
    path : ndarray of shape (steps,)
        Shares of the move, from 0 (no move) to 1 (all of it).
    probabilities : ndarray of shape (steps, K)
        Probabilities of the K classes after each share of the move in ``path``.
    changed : float
        Relative change of the features, ‖x' − x‖_F / ‖x‖_F. NaN if all features are 0.
    distances_before : Distances
        Distances of this image to the training features before the move: see `TrainingDistance`.
    distances_after : Distances
        Distances of this image to the training features after the move.
    training_distances : Distances
        Distances of the training images, each measured to the other ones.
    image : ndarray of shape (height, width, channels) or None
        The image, if it was given.
    class_names : tuple of str
        Names of the K classes.
    concept_names : tuple of str
        Names of the I concepts.
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
        """Whether the prediction changed as requested: whether ``status`` is "changed"."""
        return self.status == CHANGED

    def __str__(self) -> str:
        values = zip(self._moves, self.means_before, self.means_after, strict=True)
        moves = [
            f"{' '.join(move)} (mean coefficient {before:.3g} → {after:.3g})"
            for move, before, after in values
        ]
        outcome = f" → {self.class_names[self.after]}" if self.found else f": {self.status}"
        return (
            f"{self.class_names[self.before]}{outcome}: {', '.join(moves) or 'nothing moved'}; "
            f"features changed by {self.changed:.1%}, at the "
            f"{self.distances_after.percentile[0]:.0f}th percentile of the training distances"
        )

    def plot(self, title: str = "") -> Figure:
        """Plot the moved concepts, their maps, the probabilities along the path and the distances.

        Parameters
        ----------
        title : str, default=""
            Title of the figure. Empty: a summary of the change.

        Returns
        -------
        figure : matplotlib.figure.Figure
            The figure, which is not shown.
        """
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
    """Counterfactuals of N images, in each of which some of I concepts were moved.

    Indexing with i returns the `Counterfactual` of image i. A move adds the same amount, the
    *shift*, to a concept's coefficients at all positions of an image, and changes the features x of
    a layer to x'. The shape ``*S`` is that of the positions: (H, W) for feature maps, (T,) for T
    tokens, and empty for vectors.

    Attributes
    ----------
    status : ndarray of str of shape (N,)
        "changed": the prediction changed as requested. "already the target": the requested class
        was predicted from the start, so nothing was moved. "not found": no such change was found
        with the allowed moves, and the attempt that came nearest to it is given.
    before : ndarray of int of shape (N,)
        Indices of the classes predicted for the original features.
    after : ndarray of int of shape (N,)
        Indices of the classes predicted for the moved features.
    shifts : ndarray of shape (N, I)
        Shift of each concept's coefficients; 0 if it was not moved. Where a shifted coefficient
        would leave its range over the training images, it is clipped to that range.
    means_before : ndarray of shape (N, I)
        Means of the coefficients over the positions of an image, before the move.
    means_after : ndarray of shape (N, I)
        The same means after the move.
    changed : ndarray of shape (N,)
        Relative change of the features, ‖x' − x‖_F / ‖x‖_F. NaN for an image whose features are
        all 0.
    distances_before : Distances
        Distances of these images to the training features before the move: see `TrainingDistance`.
    distances_after : Distances
        Distances of these images to the training features after the move.
    training_distances : Distances
        Distances of the training images, each measured to the other ones.
    stay_within : float or None
        Percentile, 0 to 100, of the distances of the training images. Moves to features within it
        were preferred to shorter moves to features beyond it. None: the shortest moves were taken.
    concepts : ConceptLayer
        The concepts and their network.
    class_names : tuple of str
        Names of the classes.
    moved : MovedFeatures
        Object that computes moved features and the logits for them from shifts; internal.
    activations : ndarray of shape (N, *S, D)
        Features of the images in D channels.
    images : ndarray of shape (N, height, width, channels) or None
        The images, if they were given.
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
            raise IndexError(f"there is no image {index}: there are {len(self)} images")
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
        """Whether the prediction of each of N images changed as requested, (N,) bool."""
        return np.asarray(self.status == CHANGED)

    @property
    def number_moved(self) -> Array:
        """Number of concepts that were moved in each of N images, (N,)."""
        return np.asarray((self.shifts != 0).sum(axis=1))

    @property
    def concept_names(self) -> tuple[str, ...]:
        """Names of the I concepts."""
        return self.concepts.concept_names

    @property
    def range_of_means(self) -> Array:
        """Range within which moves keep the mean coefficient of each of I concepts, (2, I).

        The rows are the lowest and the highest mean over the positions of an image, which are
        quantiles over the training images or 0: see ``quantile`` of `counterfactuals`.
        """
        return np.stack([self.moved.bounds.low_mean, self.moved.bounds.high_mean])

    def within(self, percentile: float = 99.0) -> Array:
        """Return whether the moved features of each image are as near to the data as most images.

        Parameters
        ----------
        percentile : float, default=99.0
            Largest allowed percentage, 0 to 100, of training images with smaller distances to the
            training features, for each of the two distances of `TrainingDistance`.

        Returns
        -------
        is_within : ndarray of bool of shape (N,)
            Whether at most ``percentile`` percent of the training images have smaller distances,
            for each of the N images after its move.
        """
        return np.asarray(self.distances_after.percentile <= percentile)

    def moved_concepts(self, index: int) -> Array:
        """Return the concepts moved in one image.

        Parameters
        ----------
        index : int
            Index of the image.

        Returns
        -------
        concepts : ndarray of int of shape (k,)
            Indices of the k moved concepts; the one that changes the features most is first.
        """
        concepts = np.flatnonzero(self.shifts[index])
        change = np.abs(self.means_after[index] - self.means_before[index])
        sizes = (change * np.sqrt(np.diag(self.moved.gram)))[concepts]
        return np.asarray(concepts[np.argsort(-sizes, kind="stable")])

    def __str__(self) -> str:
        return str(self.table())

    def table(self, at_most: int = 20) -> Table:
        """Return a table with a row for each image, and notes about all images.

        Parameters
        ----------
        at_most : int, default=20
            Largest number of rows: those of the first images.

        Returns
        -------
        table : Table
            Predictions before and after, concepts that were raised (+) or lowered (−), relative
            change of the features (``changed``), and the percentage of training images with smaller
            distances to the training features.
        """
        headers = ["image", "before", "after", "concepts", "changed", "distance percentile"]
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
        """Plot which concepts were moved, with a row for each change from one class to another.

        Colours show by how much a concept's mean coefficient in an image rose (red) or fell (blue),
        as a share of `range_of_means`, averaged over the images whose prediction changed this way.

        Parameters
        ----------
        title : str, default=""
            Title of the figure.
        at_most : int, default=25
            Largest number of rows, the most frequent changes first. The figure states how many
            changes there are in total.

        Returns
        -------
        figure : matplotlib.figure.Figure
            The figure.

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
                f"{sought - changed} not found within the limits: raise max_concepts, or allow "
                "more concepts or a larger range."
            )
        if self.stay_within is not None and changed:
            inside = int(self.within(self.stay_within)[self.found].sum())
            notes.append(
                f"Of the changed ones, {inside} are within the {self.stay_within:g}th percentile "
                "of the training images' distances."
            )
        if len(self) > at_most:
            notes.insert(0, f"The first {at_most} of {len(self)} images.")
        return notes


def _word(before: float, after: float, low: float, high: float) -> str:
    """Return the word for what happened to a concept, from its means and their range."""
    little = 0.01 * max(high, 1e-12)
    if low >= 0 and after < before and after <= 1e-6 * max(high, before):
        return "removed"
    if low >= 0 and after > before and before <= little:
        return "added"
    return "raised" if after > before else "lowered"
