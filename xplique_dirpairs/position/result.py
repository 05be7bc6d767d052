"""Result of `position_dependence`: shares, intervals, verdicts, a table and a plot."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import ArrayLike

from xplique_dirpairs.core.tables import Cell, Table
from xplique_dirpairs.core.types import Array
from xplique_dirpairs.core.validation import check_concepts
from xplique_dirpairs.metrics.position import (
    BORDER,
    BY_BORDER,
    BY_EITHER,
    BY_POSITION,
    FREE,
    POSITION,
    UNKNOWN,
    VERDICTS,
    WEAK,
)
from xplique_dirpairs.plots.position import plot_position

#: What each verdict means, as a sentence for a reader who knows nothing of how it was found.
_SENTENCES = {
    POSITION: "It marks a place in the image, not a thing: its map changes little with the content",
    BORDER: "It marks the border of the image, not a thing: its map changes little with the "
    "content",
    BY_POSITION: "It answers to content, but more in some places of the image than in others",
    BY_BORDER: "It answers to content, but differently at the border of the image",
    BY_EITHER: "It answers to content, but more in some places of the image than in others; "
    "whether only the border matters cannot be told, because the network sees it from everywhere",
    FREE: "It answers to content, wherever in the image that is",
    WEAK: "It answers to content, and a little to where in the image that is",
    UNKNOWN: "Whether it depends on the place in the image could not be told: it hardly changes at "
    "all, or does not answer to small parts of the images",
}
#: What is added to the sentence of a place where maps are too small to tell borders.
_TOO_SMALL = "; whether only the border matters cannot be told from a map of {} × {} cells"
#: Verdicts that are always decided by the rolled share.
_OF_MAPS = (POSITION, BORDER)
#: Share of a dependence that the padding has to cause for a sentence to name it.
_CAUSED = 0.5
#: Largest number of concepts that are plotted unless others are asked for.
_PLOTTED = 24


@dataclass(frozen=True, eq=False)
class PositionDependence:
    """How much each of I concepts (or channels) depends on the place in the image.

    `position_dependence` returns it. A share is one of a concept's variance, in [0, 1]; NaN where
    it could not be measured.

    Attributes
    ----------
    map_share : ndarray of shape (I,)
        Share of the variance of the maps of the images as they are that lies between cells. It
        takes the habit of placing things in the middle of a picture for position: not for verdicts.
    rolled_share : ndarray of shape (I,)
        The same for images without their places (rolled round their edges, or scrambled).
    placed_interior : ndarray of shape (I,)
        Share of the variance of the pooled coefficient that comes from where a patch is placed
        inside, away from the edges. NaN if there is no room inside.
    placed_edge : ndarray of shape (I,)
        The same for places from edge to edge.
    placed_main : ndarray of shape (I,)
        The part of ``placed_interior`` (of ``placed_edge`` if there is no room inside) that is the
        same for all patches.
    border_share : ndarray of shape (I,)
        Share of the variance of the mean rolled map that goes if the cells near the edges are left
        out: at most three of them, and a fifth of the map's side. NaN if the maps have fewer than
        5 cells along a side: borders are not told from other places then.
    border_contrast : ndarray of shape (I, R)
        Mean of the rolled maps within r cells of an edge, less the mean inside, in standard
        deviations of the rolled maps, for each width r in ``border``.
    border : tuple of R int
        Widths of the border, in cells.
    profile : ndarray of shape (I, H, W)
        Mean rolled map.
    decodability : ndarray of shape (I,)
        How often the row or the column of a placed patch is told from the pooled coefficient alone,
        inside if there is room; chance is 1 / ``grid``.
    intervals : dict of str to ndarray of shape (2, I)
        Lower and upper ends of 95 % bootstrap intervals over the images, of the shares "map",
        "rolled", "interior", "edge" and "border".
    verdicts : ndarray of shape (I,), str
        What each concept is: see `metrics.position.position_verdicts`.
    support : ndarray of shape (I,)
        Share of the bootstrap samples with the same verdict.
    wrapped_rolled : ndarray of shape (I,) or None
        Rolled share with padding that wraps round the edges. None: not measured.
    wrapped_edge : ndarray of shape (I,) or None
        The same for ``placed_edge``.
    padding_layers : tuple of str
        Names of the layers of the network that pad maps at their edges.
    grid : int
        Number of rows, and of columns, of places.
    margin : tuple of (int, int) or None
        Distance of the places inside from the edges, in pixels. None: half the receptive field is
        more than the image has.
    patch : tuple of (int, int)
        Height and width of the patches in pixels.
    stride : tuple of (int, int)
        Number of pixels between cells, along rows and columns.
    number_of_images : int
    concept_names : tuple of I str
    """

    map_share: Array
    rolled_share: Array
    placed_interior: Array
    placed_edge: Array
    placed_main: Array
    border_share: Array
    border_contrast: Array
    border: tuple[int, ...]
    profile: Array
    decodability: Array
    intervals: Mapping[str, Array]
    verdicts: Array
    support: Array
    wrapped_rolled: Array | None
    wrapped_edge: Array | None
    padding_layers: tuple[str, ...]
    grid: int
    margin: tuple[int, int] | None
    patch: tuple[int, int]
    stride: tuple[int, int]
    number_of_images: int
    concept_names: tuple[str, ...]

    def __str__(self) -> str:
        counts = [(word, int((self.verdicts == word).sum())) for word in VERDICTS]
        parts = ", ".join(f"{count} {word}" for word, count in counts if count)
        return (
            f"position of {len(self.verdicts)} concepts in {self.number_of_images} images: {parts}"
        )

    @property
    def strength(self) -> Array:
        """Largest of the rolled share and the two placed shares, (I,); NaN if none is known."""
        shares = np.fmax(self.rolled_share, self.placed_interior)
        return np.asarray(np.fmax(shares, self.placed_edge))

    @property
    def caused_by_padding(self) -> Array:
        """Which part of what depends on the place goes with wrapped padding, (I,) in [0, 1].

        It compares the share that decides the verdict: the rolled share for "position" and
        "border", the larger of this and the placed share from edge to edge for "weak", the latter
        for the others. NaN where it was not measured, and for "free" or "unknown".
        """
        caused = np.full(len(self.verdicts), np.nan)
        if self.wrapped_rolled is None or self.wrapped_edge is None:
            return caused
        larger = self.rolled_share > self.placed_edge
        of_maps = np.isin(self.verdicts, _OF_MAPS) | ((self.verdicts == WEAK) & larger)
        before = np.where(of_maps, self.rolled_share, self.placed_edge)
        after = np.where(of_maps, self.wrapped_rolled, self.wrapped_edge)
        known = ~np.isin(self.verdicts, (FREE, UNKNOWN)) & (before > 0)
        # With wrapped padding a concept may vary no more: then nothing of the dependence is left.
        left = np.nan_to_num(after[known]) / before[known]
        caused[known] = np.clip(1.0 - left, 0.0, 1.0)
        return caused

    def sentence(self, concept: int) -> str:
        """Return what a concept is, in a sentence for readers who do not know these measures.

        Parameters
        ----------
        concept : int
            Index of the concept.

        Returns
        -------
        sentence : str

        Raises
        ------
        ValueError
            If there is no such concept.
        """
        (index,) = check_concepts([concept], len(self.verdicts))
        text = _SENTENCES[str(self.verdicts[index])]
        if self.verdicts[index] == POSITION and np.isnan(self.border_share[index]):
            text += _TOO_SMALL.format(*self.profile.shape[1:])
        caused = float(self.caused_by_padding[index])
        if caused > _CAUSED:
            text += (
                f". The padding of the network is the cause: {caused:.0%} of this goes when the "
                "image is continued round its edges instead"
            )
        return f"{text}."

    def table(self) -> Table:
        """Return a table with a row for each concept: shares, intervals, cause and verdict.

        Returns
        -------
        table : Table
        """
        names = ("map", "rolled", "interior", "edge")
        values = (self.map_share, self.rolled_share, self.placed_interior, self.placed_edge)
        largest = np.nanargmax(np.abs(np.nan_to_num(self.border_contrast)), axis=1)
        caused = self.caused_by_padding
        rows = []
        for i, name in enumerate(self.concept_names):
            shares = [
                _with_interval(own[i], self.intervals[key][:, i])
                for key, own in zip(names, values, strict=True)
            ]
            rows.append(
                [
                    Cell(name),
                    *shares,
                    Cell.figure(self.border_share[i], 2),
                    Cell.signed(self.border_contrast[i, largest[i]]),
                    Cell.figure(self.decodability[i], 2),
                    Cell.share(caused[i]),
                    Cell(str(self.verdicts[i])),
                    Cell.share(self.support[i]),
                ]
            )
        headers = [
            "concept", "map", "rolled", "placed inside", "placed edge to edge", "border share",
            "border contrast", "place told", "by padding", "verdict", "support",
        ]  # fmt: skip
        return Table(headers, rows, self._notes())

    def _notes(self) -> list[str]:
        """Return the notes of the table."""
        notes = [
            "Shares of variance with 95 % intervals over images; map: in the images as they are; "
            "rolled: in images without their places; placed: of patches at "
            f"{self.grid} × {self.grid} places, of {self.patch[0]} × {self.patch[1]} pixels.",
            "border share: part of the mean rolled map's variance that goes without its border; "
            "border contrast: the largest over widths, in spreads; place told: row or column of a "
            f"patch, chance {1 / self.grid:.2f}; support: of bootstrap samples with this verdict.",
        ]
        if self.margin is None:
            notes.append(
                "placed inside: not measured, because half the receptive field of the layer is "
                "larger than the distance to the edges."
            )
        elif np.isnan(self.placed_interior).all():
            notes.append(
                f"placed inside: not measured, because {self.margin[0]} × {self.margin[1]} pixels "
                "at the edges leave no room for places."
            )
        if self.padding_layers:
            shown = ", ".join(self.padding_layers[:6])
            more = len(self.padding_layers) - 6
            notes.append(f"Layers that pad: {shown}{f' and {more} more' if more > 0 else ''}.")
        return notes

    def plot(self, concepts: ArrayLike | None = None, title: str = "") -> Figure:
        """Plot the mean rolled map of concepts, their shares with intervals, and their verdicts.

        Parameters
        ----------
        concepts : array-like of int, optional
            Indices of the concepts. None: up to 24 that depend on the place most.
        title : str, default=""
            Title of the figure. Empty: a general one. The verdicts are counted below it.

        Returns
        -------
        figure : matplotlib.figure.Figure
            The figure, which is not shown.

        Raises
        ------
        ValueError
            If there is no such concept.
        """
        if concepts is None:
            order = np.argsort(-np.nan_to_num(self.strength, nan=-1.0), kind="stable")[:_PLOTTED]
        else:
            order = check_concepts(concepts, len(self.verdicts))
        shares = {
            "rolled": (self.rolled_share[order], self.intervals["rolled"][:, order]),
            "inside": (self.placed_interior[order], self.intervals["interior"][:, order]),
            "edge to edge": (self.placed_edge[order], self.intervals["edge"][:, order]),
        }
        return plot_position(
            title or "Dependence on the place in the image",
            str(self),
            [self.concept_names[i] for i in order],
            self.profile[order],
            shares,
            [str(verdict) for verdict in self.verdicts[order]],
        )


def _with_interval(value: float, ends: Array) -> Cell:
    """Return a cell with a share and its interval; a dash for NaN."""
    if np.isnan(value):
        return Cell.figure(np.nan)
    low, high = (float(end) for end in ends)
    return Cell(f"{value:.2f} [{low:.2f}, {high:.2f}]", numbers=(float(value), low, high))
