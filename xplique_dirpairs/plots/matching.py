"""Plot of the concepts that several networks share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import ceil
from textwrap import fill
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from xplique_dirpairs.core.types import Array
from xplique_dirpairs.plots.images import as_picture
from xplique_dirpairs.plots.layout import dress, plain, wrapped
from xplique_dirpairs.plots.palette import GREY, concept_colors
from xplique_dirpairs.plots.style import (
    HEADING,
    SMALL,
    SMALLEST,
    TALLEST,
    most_rows,
    some_of,
    styled,
)

#: Largest number of matches with a row.
_ROWS = 40
#: Maximum number of characters of the names of a match, and minimum number of one of them.
_LONGEST, _SHORTEST = 44, 8
#: Maximum number of networks for which the R² are written into the cells.
_NUMBERED = 6
#: Maximum and minimum side of a picture of a shared concept, in inches.
_LARGEST_SIDE, _SMALLEST_SIDE = 1.8, 1.0


@styled
def plot_matches(
    title: str,
    names: Sequence[Sequence[str]],
    correlation: Array,
    phi: Array,
    entropy: Array,
    holds: Array,
    networks: Sequence[str],
    cross_r2: Array | None,
    ceiling: Array | None,
) -> Figure:
    """Draw correlation and φ of each match, firing entropy beside φ, and cross reconstruction.

    Parameters
    ----------
    title : str
        Title of the figure.
    names : sequence of U sequences of M str
        For each match, the name of the concept of each network.
    correlation : ndarray of shape (U,)
        Correlation of each match.
    phi : ndarray of shape (U,)
        φ of its firings.
    entropy : ndarray of shape (U,)
        Firing entropy.
    holds : ndarray of shape (U,), bool
        Whether the match is found again.
    networks : sequence of M str
        Names of the networks.
    cross_r2 : ndarray of shape (M, M) or None
        R² of the matched concepts of the row's network for the features of the column's; None: the
        panel is left out.
    ceiling : ndarray of shape (M, M) or None
        R² of all features of the row's network.

    Returns
    -------
    figure : Figure
        The figure. At most 40 matches have a row, the first ones; its heading says so.
    """
    shown = min(len(names), _ROWS)
    panels = 1 if cross_r2 is None else 2
    height = max(3.4, 1.3 + 0.2 * shown)
    # The other panels are beside the rows, one below the other where the rows leave the room.
    lines = min(panels, max(1, int(height / 3.4)))
    columns = ceil(panels / lines)
    figure = plt.figure(figsize=(5.2 + 4.5 * columns, height + 0.5), layout="constrained")
    grid = figure.add_gridspec(1, 1 + columns, width_ratios=[5.2] + [4.5] * columns)
    labels = [_label(parts) for parts in names[:shown]]
    rows = labels, correlation[:shown], phi[:shown], holds[:shown]
    _draw_rows(figure.add_subplot(grid[0]), *rows, len(names))
    sizes = [3.4] * lines + [max(height - 3.4 * lines, 1e-3)]
    cells = [grid[1 + k].subgridspec(lines + 1, 1, height_ratios=sizes) for k in range(columns)]
    places = [cell[line] for cell in cells for line in range(lines)]
    _draw_entropy(figure.add_subplot(places[0]), entropy, phi, holds)
    if cross_r2 is not None and ceiling is not None:
        _draw_cross(figure.add_subplot(places[1]), networks, cross_r2, ceiling)
    figure.suptitle(fill(title, int(13 * figure.get_figwidth())), fontsize=HEADING)
    return figure


def _label(parts: Sequence[str]) -> str:
    """Return the names of the concepts of a match on one line, each with its share of the room."""
    if len(parts) > 2:  # no room to repeat the word
        parts = [part.removeprefix("concept ") for part in parts]
    longest = max(_SHORTEST, _LONGEST // max(len(parts), 1) - 3)
    return plain(" · ".join(plain(part, longest).replace(r"\$", "$") for part in parts), _LONGEST)


@styled
def plot_shared_pictures(title: str, concepts: Array, pictures: Mapping[str, Array]) -> Figure:
    """Draw pictures of shared concepts: a row for each concept, a column for each network.

    Parameters
    ----------
    title : str
        Title of the figure.
    concepts : ndarray of shape (U, M), int
        Index of each concept in each network; −1 where a network does not have it.
    pictures : mapping of str to ndarray of shape (U, height, width, channels)
        Pictures by the name of each of the M networks; NaN where it does not have the concept.

    Returns
    -------
    figure : Figure
        As many concepts as fit have a row, the first ones; the title says so.
    """
    columns = concepts.shape[1]
    side = float(np.clip(TALLEST / len(concepts), _SMALLEST_SIDE, _LARGEST_SIDE))
    rows = min(len(concepts), most_rows(side))
    note = some_of(rows, len(concepts), "concepts")
    figure, axes = plt.subplots(
        rows, columns, figsize=(max(side * columns, 3.0), side * rows + 0.7), squeeze=False,
        layout="constrained",
    )  # fmt: skip
    for m, (name, images) in enumerate(pictures.items()):
        limits = float(np.nanmin(images)), float(np.nanmax(images))
        label = plain(name, int(12 * side) - 4)
        for u in range(rows):
            ax = axes[u, m]
            ax.set_axis_off()
            if concepts[u, m] >= 0:
                ax.imshow(as_picture(images[u], limits))
                ax.set_title(f"{label}: {concepts[u, m]}", fontsize=SMALL)
    title = "; ".join(part for part in (title, note) if part)
    figure.suptitle(fill(title, int(12 * figure.get_figwidth())), fontsize=HEADING)
    return figure


def _draw_rows(
    ax: Axes, names: Sequence[str], correlation: Array, phi: Array, holds: Array, number: int
) -> None:
    """Draw φ of each match as a bar, hollow if it is not found again, and its correlation."""
    own, point = concept_colors(2)
    rows = np.arange(len(phi))
    faces = [own if one else (1.0, 1.0, 1.0) for one in holds]
    edges = [own if one else GREY for one in holds]
    ax.barh(rows, phi, color=faces, edgecolor=edges, height=0.7)
    ax.plot(correlation, rows, "o", color=point, markersize=4, label="correlation")
    ax.set_yticks(rows, names)
    ax.set_ylim(len(phi) + 0.8, -0.6)  # with a row for the legend
    ax.set_xlim(min(0.0, float(np.min(phi, initial=0.0))), 1.0)
    more = some_of(len(phi), number, "matches") or "matches"
    dress(ax, f"{more} (hollow: not found again)")
    if len(phi):
        bar = Patch(facecolor=own, edgecolor=own, label="φ")
        ax.legend(handles=[*ax.get_legend_handles_labels()[0], bar], loc="lower right", ncols=2)


def _draw_entropy(ax: Axes, entropy: Array, phi: Array, holds: Array) -> None:
    """Draw firing entropy against φ: only the latter says whether firings coincide."""
    own, _ = concept_colors(2)
    kinds = ((holds, own, own, "found again"), (~holds, GREY, "none", "not found again"))
    for chosen, color, face, label in kinds:
        if chosen.any():
            style: Any = {"color": color, "markerfacecolor": face, "markersize": 5, "label": label}
            ax.plot(phi[chosen], entropy[chosen], "o", **style)
    ax.set_xlim(min(-0.05, float(np.nanmin(phi, initial=0.0))), 1.02)
    ax.set_ylim(-0.03, 1.03)
    ax.set_xlabel("φ: fires at the same positions")
    ax.set_ylabel("entropy: fires equally often")
    dress(ax)
    ax.set_title("firing entropy beside φ", pad=20 if len(phi) else None)
    if len(phi):  # above the points, which may be anywhere
        ax.legend(loc="lower center", bbox_to_anchor=(0.5, 0.99), ncols=2, columnspacing=0.8)


def _draw_cross(ax: Axes, networks: Sequence[str], r2: Array, ceiling: Array) -> None:
    """Draw R² between networks as a table of colours, with the ceilings."""
    ax.imshow(np.clip(r2, 0.0, 1.0), vmin=0.0, vmax=1.0, cmap="Blues")
    size = SMALL if len(r2) <= 4 else SMALLEST
    for i, j in np.ndindex(*r2.shape) if len(r2) <= _NUMBERED else ():
        color = "white" if r2[i, j] > 0.55 else "black"
        text = f"{r2[i, j]:.2f}\n({ceiling[i, j]:.2f})"
        ax.text(j, i, text, ha="center", va="center", fontsize=size, color=color)
    places = np.arange(len(networks))
    names = [wrapped(name, 12) for name in networks]
    upright = len(names) * max(len(line) for name in names for line in name.split("\n")) > 44
    ax.set_xticks(places, names, rotation=90 if upright else 0)
    ax.set_yticks(places, names)
    ax.tick_params(length=0)
    ax.set_xlabel("features of")
    ax.set_ylabel("matched concepts of")
    dress(ax, "cross R² (ceiling)")
