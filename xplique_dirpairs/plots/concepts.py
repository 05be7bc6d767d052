"""Concepts as people see them: importances, best crops, maps on images.

Functions draw on axes they are given and know arrays only. ``colors`` are r, g, b of each concept
drawn; ``cmaps`` the transparent colour maps of the same concepts.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import Colormap
from matplotlib.figure import Figure
from numpy.typing import NDArray

from xplique_dirpairs.plots.images import (
    concept_heatmap,
    draw_heatmap,
    draw_picture,
    framed,
    montage,
)
from xplique_dirpairs.plots.palette import Color, line_color

#: Crops in one line of a figure.
CROPS_PER_LINE = 10
#: Concepts laid over one image in `draw_image_concepts`: outlines of more cannot be told apart.
OVERLAID = 8


def empty_axes(figsize: tuple[float, float]) -> Axes:
    """Where a plot goes that may be one of several: the current axes if nothing is on them yet.

    Without such axes a figure of the given size (inches) is made.
    """
    if plt.get_fignums():
        figure = plt.gcf()
        if not figure.axes:
            return figure.add_subplot()
        current = figure.gca()
        if not current.has_data():
            return current
    return plt.subplots(figsize=figsize, layout="constrained")[1]


def draw_importances(
    ax: Axes,
    concepts: Sequence[int] | NDArray,
    importances: NDArray,
    colors: Sequence[Color],
    title: str,
) -> Axes:
    """A bar for each concept, in the given order, labelled by its number.

    Parameters
    ----------
    concepts
        Concept numbers, n of them.
    importances : (n,)
        Of these concepts.
    colors
        Of these concepts.
    """
    places = np.arange(len(concepts))
    ax.bar(places, importances, color=colors, width=0.8)
    width = ax.get_window_extent().width * 72 / ax.figure.dpi  # in points
    digits = max(len(str(concept)) for concept in concepts)
    room = width / len(places)
    size = min(10.0, room / (0.75 * digits))
    upright = size >= 6.0
    if not upright:  # turned, a label is as wide as it is high
        size = max(3.0, min(9.0, 0.8 * room))
    ax.set_xticks(
        places,
        [str(concept) for concept in concepts],
        fontsize=size,
        rotation=0 if upright else 90,
    )
    ax.set_xlim(-0.6, len(places) - 0.4)
    ax.set_ylim(bottom=0.0)
    ax.set_xlabel("concept")
    ax.set_ylabel("total Sobol index")
    ax.spines[["top", "right"]].set_visible(False)
    ax.tick_params(axis="x", length=0)
    ax.set_title(title)
    return ax


def draw_crop_rows(
    concepts: Sequence[int] | NDArray,
    pictures: Sequence[NDArray],
    importances: NDArray,
    colors: Sequence[Color],
    nb_crops: int,
) -> Figure:
    """A row of best crops for each concept.

    Parameters
    ----------
    concepts
        Concept numbers, n of them.
    pictures
        For each concept its crops (k, patch, patch, 3), best first; k may be less than
        ``nb_crops``, and 0.
    importances : (n,)
    colors
        Of these concepts.
    """
    columns = min(nb_crops, CROPS_PER_LINE)
    lines = ceil(nb_crops / columns)
    width, height = 1.3 + columns, len(concepts) * (lines + 0.12)
    figure = plt.figure(figsize=(width, height))
    label = 1.2 / width
    for row, (concept, crops) in enumerate(zip(concepts, pictures, strict=True)):
        bottom = 1.0 - (row + 1) / len(concepts)
        ax = figure.add_axes(
            (label, bottom + 0.06 / height, 1.0 - label - 0.1 / width, lines / height)
        )
        draw_crop_sheet(ax, crops, columns, lines, colors[row])
        middle = bottom + 0.5 / len(concepts)
        figure.text(
            label - 0.12 / width,
            middle,
            f"concept {concept}\n{importances[row]:.3f}",
            ha="right",
            va="center",
            fontsize=10,
            color=colors[row],
            fontweight="bold",
        )
    return figure


def draw_crop_sheet(ax: Axes, crops: NDArray, columns: int, lines: int, color: Color) -> None:
    """Crops side by side in a frame of the concept's colour, or a word that there are none."""
    if len(crops):
        ax.imshow(montage(crops, columns, lines, gap=max(1, crops.shape[1] // 24)))
        ax.set_anchor("W")
    else:
        ax.text(
            0.5,
            0.5,
            "not detected in any crop",
            ha="center",
            va="center",
            fontsize=8,
            color="0.4",
            transform=ax.transAxes,
        )
        ax.set_box_aspect(lines / columns)
        ax.set_anchor("W")
    ax.set_xticks([])
    ax.set_yticks([])
    for spine in ax.spines.values():
        spine.set(edgecolor=color, linewidth=2.5)


def draw_legend(
    concepts: Sequence[int] | NDArray,
    pictures: Sequence[NDArray],
    colors: Sequence[Color],
    border_width: int,
) -> Figure:
    """The best crop of each concept in a frame of its colour.

    Parameters
    ----------
    concepts
        Concept numbers, n of them.
    pictures
        For each concept its crops (k, patch, patch, 3), k may be 0.
    border_width
        Of the frame, in pixels of the crop.
    """
    columns = min(len(concepts), CROPS_PER_LINE)
    rows = ceil(len(concepts) / columns)
    figure, axes = plt.subplots(
        rows,
        columns,
        figsize=(1.2 * columns, 1.4 * rows),
        squeeze=False,
        layout="constrained",
    )
    for ax in axes.flat[len(concepts) :]:
        ax.set_axis_off()
    for ax, concept, crops, color in zip(axes.flat, concepts, pictures, colors, strict=False):
        ax.set_title(str(concept), color=color, fontweight="bold", fontsize=10)
        if len(crops):
            width = min(border_width, crops.shape[1] // 4)
            draw_picture(ax, framed(crops[0], color, width))
        else:
            draw_crop_sheet(ax, crops, 1, 1, color)
    return figure


def draw_concept_map(
    ax: Axes,
    picture: NDArray,
    maps: NDArray,
    cmaps: Sequence[Colormap],
    filter_percentile: float = 90,
    clip_percentile: float | None = 10,
    alpha: float = 0.65,
    **plot_kwargs,
) -> Axes:
    """An image with its concepts laid over it, the first on top.

    Parameters
    ----------
    picture : (height, width, 3)
        In [0, 1].
    maps : (H, W, n)
        Shown coefficients of the n concepts drawn.
    cmaps
        Of these concepts.
    plot_kwargs
        For ``imshow``.
    """
    draw_picture(ax, picture, **plot_kwargs)
    for i in reversed(range(maps.shape[-1])):
        heatmap = concept_heatmap(
            maps[..., i], picture.shape[:2], filter_percentile, clip_percentile
        )
        draw_heatmap(ax, heatmap, cmaps[i], alpha, **plot_kwargs)
    return ax


def draw_image_concepts(
    picture: NDArray,
    maps: NDArray,
    concepts: Sequence[int] | NDArray,
    crops: Sequence[NDArray],
    importances: NDArray,
    cmaps: Sequence[Colormap],
    title: str,
    **map_kwargs,
) -> Figure:
    """One image with its concepts, their best crops on both sides, their importances at the right.

    Of many concepts the first `OVERLAID` are laid over the image.

    Parameters
    ----------
    picture, maps, cmaps
        As in `draw_concept_map`.
    concepts
        Concept numbers, n of them, in the order of all other arguments.
    crops
        For each concept its best crops, (k, patch, patch, 3).
    importances : (n,)
    map_kwargs
        For `draw_concept_map`.
    """
    per_side = ceil(len(concepts) / 2)
    rows = min(per_side, max(3, ceil(per_side**0.5)))
    columns = ceil(per_side / rows)
    height = max(6.4, 2.3 * rows)
    widths = [3.1 * columns, height - 0.2, 3.1 * columns, 0.2, max(4.6, 0.24 * len(concepts))]
    figure = plt.figure(figsize=(sum(widths) + 0.8, height), layout="constrained")
    grid = figure.add_gridspec(1, 5, width_ratios=widths, wspace=0.02)
    colors = [line_color(cmap) for cmap in cmaps]
    ax = figure.add_subplot(grid[1])
    draw_concept_map(ax, picture, maps[..., :OVERLAID], cmaps, **map_kwargs)
    if len(concepts) > OVERLAID:
        note = f"on the image: the first {OVERLAID} of {len(concepts)} concepts"
        ax.set_title(note, fontsize=11)
    for side, place in enumerate((0, 2)):
        cells = grid[place].subgridspec(rows, columns, hspace=0.08)
        for cell, i in enumerate(range(side * per_side, min(len(concepts), (side + 1) * per_side))):
            ax = figure.add_subplot(cells[cell // columns, cell % columns])
            draw_crop_sheet(ax, crops[i], 3, 2, colors[i])
            ax.set_anchor("C")
            ax.set_title(f"concept {concepts[i]}", color=colors[i], fontweight="bold", fontsize=11)
    margin = (height - 5.0) / 2
    bars = grid[4].subgridspec(3, 1, height_ratios=[margin, 5.0, margin])
    draw_importances(figure.add_subplot(bars[1]), concepts, importances, colors, title)
    return figure
