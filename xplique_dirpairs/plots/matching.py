"""Plot of the concepts that several networks share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from xplique_dirpairs.core.types import Array
from xplique_dirpairs.plots.images import as_picture
from xplique_dirpairs.plots.layout import dress, plain
from xplique_dirpairs.plots.palette import GREY, concept_colors

#: Largest number of matches with a row.
_ROWS = 40


def plot_matches(
    title: str,
    names: Sequence[str],
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
    names : sequence of U str
        Name of each match.
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
    panels = 2 if cross_r2 is None else 3
    height = max(3.2, 1.3 + 0.2 * shown)
    figure = plt.figure(figsize=(4.4 * panels, height + 0.5), layout="constrained")
    grid = figure.add_gridspec(1, panels)
    _draw_rows(figure.add_subplot(grid[0]), names, correlation[:shown], phi[:shown], holds[:shown])
    # the other panels do not grow with the number of rows
    sizes = (3.2, max(height - 3.2, 1e-3))
    places = [grid[k].subgridspec(2, 1, height_ratios=sizes)[0] for k in range(1, panels)]
    _draw_entropy(figure.add_subplot(places[0]), entropy, phi, holds)
    if cross_r2 is not None and ceiling is not None:
        _draw_cross(figure.add_subplot(places[1]), networks, cross_r2, ceiling)
    figure.suptitle(title, fontsize=11)
    return figure


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
    """
    rows, columns = concepts.shape
    figure, axes = plt.subplots(
        rows, columns, figsize=(1.8 * columns, 1.8 * rows + 0.5), squeeze=False
    )
    figure.set_layout_engine("constrained")
    for m, (name, images) in enumerate(pictures.items()):
        limits = float(np.nanmin(images)), float(np.nanmax(images))
        for u in range(rows):
            ax = axes[u, m]
            ax.set_axis_off()
            if concepts[u, m] >= 0:
                ax.imshow(as_picture(images[u], limits))
                ax.set_title(f"{plain(name)}: {concepts[u, m]}", fontsize=8)
    figure.suptitle(title, fontsize=11)
    return figure


def _draw_rows(
    ax: Axes, names: Sequence[str], correlation: Array, phi: Array, holds: Array
) -> None:
    """Draw φ of each match as a bar, and its correlation as a point."""
    own, point = concept_colors(2)
    rows = np.arange(len(phi))
    ax.barh(rows, phi, color=[own if one else GREY for one in holds], height=0.7, label="φ")
    ax.plot(correlation, rows, "o", color=point, markersize=4, label="correlation")
    labels = [plain(name) for name in names[: len(phi)]]
    ax.set_yticks(rows, labels, fontsize=7)
    ax.set_ylim(len(phi) + 0.8, -0.6)  # with a row for the legend
    ax.set_xlim(min(0.0, float(np.min(phi, initial=0.0))), 1.0)
    more = f"the first {len(phi)} of {len(names)} matches" if len(names) > len(phi) else "matches"
    dress(ax, f"{more} (grey: not found again)")
    if len(phi):
        ax.legend(fontsize=7, loc="lower right", ncols=2)


def _draw_entropy(ax: Axes, entropy: Array, phi: Array, holds: Array) -> None:
    """Draw firing entropy against φ: only the latter says whether firings coincide."""
    own, _ = concept_colors(2)
    for chosen, color, label in ((holds, own, "found again"), (~holds, GREY, "not found again")):
        if chosen.any():
            ax.plot(phi[chosen], entropy[chosen], "o", color=color, markersize=5, label=label)
    ax.set_xlim(min(-0.05, float(np.nanmin(phi, initial=0.0))), 1.02)
    ax.set_ylim(-0.03, 1.03)
    ax.set_xlabel("φ: fires at the same positions", fontsize=8)
    ax.set_ylabel("entropy: fires equally often", fontsize=8)
    dress(ax, "firing entropy beside φ")
    if len(phi):
        ax.legend(fontsize=7, loc="lower left")


def _draw_cross(ax: Axes, networks: Sequence[str], r2: Array, ceiling: Array) -> None:
    """Draw R² between networks as a table of colours, with the ceilings."""
    ax.imshow(np.clip(r2, 0.0, 1.0), vmin=0.0, vmax=1.0, cmap="Blues")
    for i, j in np.ndindex(*r2.shape):
        color = "white" if r2[i, j] > 0.55 else "black"
        text = f"{r2[i, j]:.2f}\n({ceiling[i, j]:.2f})"
        ax.text(j, i, text, ha="center", va="center", fontsize=8, color=color)
    places = np.arange(len(networks))
    ax.set_xticks(places, networks, fontsize=8)
    ax.set_yticks(places, networks, fontsize=8)
    ax.set_xlabel("features of", fontsize=8)
    ax.set_ylabel("matched concepts of", fontsize=8)
    dress(ax, "cross R² (ceiling)")
