"""Plots of concepts: importances, best crops, maps on images, pictures optimised for concepts.

Functions whose names begin with "draw" draw on given axes; those whose names begin with "plot"
return a new figure. ``colors`` holds the RGB colour of each concept drawn, and ``cmaps`` the
transparent colour map of each.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import ceil
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import Colormap
from matplotlib.figure import Figure
from matplotlib.offsetbox import AnnotationBbox, OffsetImage
from numpy.typing import ArrayLike

from xplique_dirpairs.core.types import Array
from xplique_dirpairs.plots.images import (
    Limits,
    as_picture,
    concept_heatmap,
    draw_crop_sheet,
    draw_heatmap,
    draw_picture,
    framed,
)
from xplique_dirpairs.plots.layout import Sheet, plain
from xplique_dirpairs.plots.palette import Color, concept_colors, line_color, readable
from xplique_dirpairs.plots.style import (
    HEADING,
    LABEL,
    SMALL,
    SMALLEST,
    SOFT,
    TALLEST,
    most_rows,
    some_of,
    styled,
)

#: Maximum number of crops in one line of a figure.
CROPS_PER_LINE = 10
#: Maximum number of concepts drawn on the image by `plot_image_concepts`: the outlines of more
#: concepts could not be told apart.
OVERLAID = 8
#: Maximum number of concepts with crops beside the image.
_BESIDE = 20
#: Number of rows in `plot_maximised` up to which there is one block; maximum number of concepts.
_ROWS, _MAXIMISED = 10, 60
#: Maximum numbers of concepts and of classes in the table of `plot_class_importances`.
_COLUMNS, _CLASSES = 30, 40
#: Maximum and minimum side of a crop in `plot_crop_rows`, in inches.
_LARGEST_CROP, _SMALLEST_CROP = 1.0, 0.6
#: Lengths in inches: side of a picture, width of the column of concept numbers, gap between rows,
#: space above the first row.
_SIDE, _LABEL, _GAP, _TOP = 1.15, 0.75, 0.08, 0.5


@dataclass(frozen=True, eq=False)
class RankedConcept:
    """A concept with its importance and its best crops.

    Attributes
    ----------
    number : int
        Number of the concept.
    importance : float
        Importance of the concept.
    cmap : Colormap
        Transparent colour map in the concept's colour.
    crops : ndarray of shape (k, patch, patch, 3)
        Best crops of the concept, best first; k may be 0.
    """

    number: int
    importance: float
    cmap: Colormap
    crops: Array

    @property
    def color(self) -> Color:
        """Opaque colour of `cmap`, as (r, g, b)."""
        return line_color(self.cmap)


def empty_axes(figsize: tuple[float, float]) -> Axes:
    """Return the current axes if they are empty, or else those of a new figure.

    This lets a script place a plot in a figure of several panels. ``figsize`` is the size of a new
    figure, in inches.
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
    concepts: Sequence[int] | Array,
    importances: Array,
    colors: Sequence[Color],
    title: str,
) -> None:
    """Draw a bar for each of n concepts, in the given order, labelled with its number.

    ``concepts`` holds the numbers of the concepts; ``concepts``, ``importances`` and ``colors``
    have length n.
    """
    places = np.arange(len(concepts))
    ax.bar(places, importances, color=colors, width=0.8)
    width = ax.get_window_extent().width * 72 / ax.figure.dpi  # in points
    labels = [str(concept) for concept in concepts]
    room = width / len(places)
    size = min(HEADING, room / (0.75 * max(map(len, labels))))
    upright = size >= SMALLEST
    if not upright:  # a rotated label is only as wide as its font is high
        size = min(LABEL, max(SMALLEST, 0.8 * room))
    every = 1 if upright else ceil(size / (0.85 * room))
    ax.set_xticks(places[::every], labels[::every], fontsize=size, rotation=0 if upright else 90)
    ax.set_xlim(-0.6, len(places) - 0.4)
    ax.set_ylim(bottom=0.0)
    named = "concept" if every == 1 else f"concept (one in {every} has its number)"
    ax.set_xlabel(named, fontsize=LABEL)
    ax.set_ylabel("total Sobol index", fontsize=LABEL)
    ax.tick_params(axis="y", labelsize=SMALL)
    ax.tick_params(axis="x", length=0)
    ax.spines[["top", "right"]].set_visible(False)
    ax.set_title(title, fontsize=HEADING)


@styled
def plot_crop_rows(concepts: Sequence[RankedConcept], number_of_crops: int) -> Figure:
    """Draw a row of up to ``number_of_crops`` best crops for each concept.

    Rows of many concepts are lower, and then in two blocks side by side; concepts that still do not
    fit are left out, and a note says how many are drawn.
    """
    columns = min(number_of_crops, CROPS_PER_LINE)
    lines = ceil(number_of_crops / columns)
    most = most_rows(_SMALLEST_CROP * lines + 0.12)
    blocks = 1 if len(concepts) <= most else 2
    shown = concepts[: most * blocks]
    rows = ceil(len(shown) / blocks)
    side = min(_LARGEST_CROP, (TALLEST / rows - 0.12) / lines) if rows > 1 else _LARGEST_CROP
    height, width = side * lines + 0.12, 1.3 + columns * side
    note = some_of(len(shown), len(concepts), "concepts")
    sheet = Sheet(width * blocks, rows * height + (0.3 if note else 0.0))
    for k, concept in enumerate(shown):
        block, row = divmod(k, rows)
        left, top = block * width, row * height
        ax = sheet.axes(left + 1.2, top + 0.06, columns * side, lines * side)
        draw_crop_sheet(ax, concept.crops, columns, lines, concept.color, anchor="W")
        sheet.text(
            left + 1.08, top + height / 2, f"concept {concept.number}\n{concept.importance:.3f}",
            ha="right", va="center", fontsize=HEADING, color=readable(concept.color),
            fontweight="bold",
        )  # fmt: skip
    sheet.text(1.2, sheet.height - 0.24, note, va="top", fontsize=LABEL, color=SOFT)
    return sheet.figure


@styled
def plot_legend(concepts: Sequence[RankedConcept], border_width: int) -> Figure:
    """Draw each concept's best crop in a frame of its colour, ``border_width`` pixels wide."""
    columns = min(len(concepts), CROPS_PER_LINE)
    rows = ceil(len(concepts) / columns)
    size = (1.2 * columns, 1.4 * rows)
    figure, axes = plt.subplots(rows, columns, figsize=size, squeeze=False, layout="constrained")
    for ax in axes.flat[len(concepts) :]:
        ax.set_axis_off()
    for ax, concept in zip(axes.flat, concepts, strict=False):
        ax.set_title(str(concept.number), color=readable(concept.color), fontweight="bold")
        if len(concept.crops):
            width = min(border_width, concept.crops.shape[1] // 4)
            draw_picture(ax, framed(concept.crops[0], concept.color, width))
        else:
            draw_crop_sheet(ax, concept.crops, 1, 1, concept.color, anchor="W")
    return figure


def draw_concept_map(
    ax: Axes,
    picture: Array,
    maps: Array,
    cmaps: Sequence[Colormap],
    filter_percentile: float = 90,
    clip_percentile: float | None = 10,
    alpha: float = 0.65,
    labels: Sequence[str] = (),
    **plot_kwargs: Any,
) -> None:
    """Draw an image and the maps of n concepts over it, the first concept on top.

    Parameters
    ----------
    ax : Axes
        Axes to draw on.
    picture : ndarray of shape (height, width, 3)
        The image, with values in [0, 1].
    maps : ndarray of shape (H, W, n)
        Coefficients of the n concepts; values at or below 0 are not drawn.
    cmaps : sequence of n Colormap
        Colour map of each concept.
    filter_percentile : float, default=90
        See `concept_heatmap`.
    clip_percentile : float or None, default=10
        See `concept_heatmap`.
    alpha : float, default=0.65
        Opacity of the maps.
    labels : sequence of n str, default=()
        Label of each concept, written where its map is largest, or at the next largest place if
        another label is there. Empty: no labels.
    **plot_kwargs : Any
        Keyword arguments of ``Axes.imshow``.
    """
    draw_picture(ax, picture, **plot_kwargs)
    shape = picture.shape[:2]
    for i in reversed(range(maps.shape[-1])):
        heatmap = concept_heatmap(maps[..., i], shape, filter_percentile, clip_percentile)
        draw_heatmap(ax, heatmap, cmaps[i], alpha, **plot_kwargs)
    taken: list[int] = []
    for i, label in enumerate(labels[: maps.shape[-1]]):
        cells = [c for c in np.argsort(-maps[..., i], axis=None, kind="stable") if c not in taken]
        if not cells or maps[..., i].flat[cells[0]] <= 0:
            continue
        taken.append(cells[0])
        row, column = np.unravel_index(cells[0], maps.shape[:2])
        ax.text(
            (column + 0.5) * shape[1] / maps.shape[1], (row + 0.5) * shape[0] / maps.shape[0],
            label, ha="center", va="center", fontsize=SMALL, color="white",
            bbox=_tag(line_color(cmaps[i])),
        )  # fmt: skip


def _tag(color: Color) -> dict[str, Any]:
    """Return the box of a white text: readable in the colour of a concept."""
    return {"boxstyle": "round,pad=0.15", "facecolor": readable(color), "edgecolor": "white"}


@styled
def plot_image_concepts(
    picture: Array, maps: Array, concepts: Sequence[RankedConcept], title: str, **map_kwargs: Any
) -> Figure:
    """Draw an image with its concepts, their best crops on both sides, and their importances.

    At most `OVERLAID` concepts are drawn on the image itself, and at most 20 have crops; a note
    says so.

    Parameters
    ----------
    picture : ndarray of shape (height, width, 3)
        The image, with values in [0, 1].
    maps : ndarray of shape (H, W, n)
        Coefficients of the n concepts.
    concepts : sequence of n RankedConcept
        The concepts, in the order of the maps.
    title : str
        Title of the panel of importances.
    **map_kwargs : Any
        Keyword arguments of `draw_concept_map`.

    Returns
    -------
    figure : Figure
    """
    beside = concepts[:_BESIDE]
    per_side = ceil(len(beside) / 2)
    rows = min(per_side, max(3, ceil((2 * per_side) ** 0.5)))
    columns = ceil(per_side / rows)
    height = max(6.4, 2.3 * rows)
    bar_width = min(max(4.6, 0.24 * len(concepts)), 9.0)
    widths = [3.1 * columns, min(height - 0.2, 7.0), 3.1 * columns, 0.2, bar_width]
    figure = plt.figure(figsize=(sum(widths) + 0.8, height), layout="constrained")
    grid = figure.add_gridspec(1, 5, width_ratios=widths, wspace=0.02)
    ax = figure.add_subplot(grid[1])
    cmaps = [concept.cmap for concept in concepts]
    labels = [str(concept.number) for concept in concepts]
    draw_concept_map(ax, picture, maps[..., :OVERLAID], cmaps, labels=labels, **map_kwargs)
    if len(concepts) > OVERLAID:
        note = f"on the image: {some_of(OVERLAID, len(concepts), 'concepts')}"
        if len(beside) < len(concepts):
            note += f"\ncrops: {some_of(len(beside), len(concepts), 'concepts')}"
        ax.set_title(note)
    sides = [grid[side].subgridspec(rows, columns, hspace=0.08) for side in (0, 2)]
    for i, concept in enumerate(beside):
        side, place = divmod(i, per_side)
        ax = figure.add_subplot(sides[side][place // columns, place % columns])
        draw_crop_sheet(ax, concept.crops, 3, 2, concept.color)
        title_of_crops = f"concept {concept.number}"
        ax.set_title(title_of_crops, color=readable(concept.color), fontweight="bold")
    margin = (height - 5.0) / 2
    bars = grid[4].subgridspec(3, 1, height_ratios=[margin, 5.0, margin])
    draw_ranked_importances(figure.add_subplot(bars[1]), concepts, title)
    return figure


def draw_ranked_importances(ax: Axes, concepts: Sequence[RankedConcept], title: str) -> None:
    """Draw the importances of concepts in their colours: see `draw_importances`."""
    numbers = [concept.number for concept in concepts]
    importances = np.array([concept.importance for concept in concepts])
    draw_importances(ax, numbers, importances, [concept.color for concept in concepts], title)


@styled
def plot_maximised(
    pictures: Mapping[str, ArrayLike],
    crops: Sequence[Array],
    concepts: Sequence[int] | Array,
    *,
    limits: Limits | None = None,
    nb_crops: int = 5,
    title: str = "",
) -> Figure:
    """Draw a row for each concept: pictures optimised for it, then its best crops.

    At most 60 concepts are drawn, the first ones; the title says so.

    Parameters
    ----------
    pictures : mapping of str to array-like of shape (n, height, width, C)
        Columns of the figure by their headings, such as "filter" and "signal vector": in each, a
        picture of each of the n concepts, as `maximise` returns them.
    crops : sequence of n ndarray of shape (k, patch, patch, C)
        For each concept, the k crops of photographs in which its coefficients are largest, best
        first, such as those of `ConceptLayer.crops_of_fit`; k may be 0.
    concepts : sequence of n int
        Indices of the concepts, which are written beside the rows. A concept's colour depends on
        its index, whichever concepts are drawn.
    limits : (float, float), optional
        Pixel values shown as black and white. None: for each set of pictures or crops, 0 and 255 if
        it holds integers, 0 and 1 if its values lie between these, and otherwise its minimum and
        maximum.
    nb_crops : int, default=5
        Maximum number of crops shown for each concept.
    title : str, default=""
        Title of the figure.

    Returns
    -------
    figure : Figure

    Raises
    ------
    ValueError
        If there are no concepts or no pictures, or if a column of pictures, or ``crops``, does not
        have n entries.
    """
    concepts = np.asarray(concepts)
    shown = {name: as_picture(images, limits) for name, images in pictures.items()}
    counts = {name: len(images) for name, images in shown.items()} | {"crops": len(crops)}
    if not shown or not len(concepts) or set(counts.values()) != {len(concepts)}:
        raise ValueError(
            f"each of {len(concepts)} concepts needs a picture and a set of crops, not {counts}"
        )
    # A concept keeps the colour of its number even if only a few concepts are drawn.
    by_number = concept_colors(int(concepts.max()) + 1)
    note = some_of(min(len(concepts), _MAXIMISED), len(concepts), "concepts")
    title = "; ".join(part for part in (title, note) if part)
    concepts = concepts[:_MAXIMISED]
    colors = [by_number[int(i)] for i in concepts]
    # The figure of many concepts is about as high as it is wide.
    blocks = min(ceil(len(concepts) / _ROWS), max(2, round(len(concepts) / 20)))
    rows = ceil(len(concepts) / blocks)
    block = _LABEL + (_SIDE + _GAP) * len(shown) + 0.12 + _SIDE * nb_crops + 0.25
    page = Sheet(blocks * block, _TOP + rows * (_SIDE + _GAP))
    for k, concept in enumerate(concepts):
        column, row = divmod(k, rows)
        left, top = column * block + _LABEL, _TOP + row * (_SIDE + _GAP)
        page.text(
            left - 0.08, top + _SIDE / 2, str(concept),
            ha="right", va="center", fontsize=LABEL, color=readable(colors[k]), fontweight="bold",
        )  # fmt: skip
        panels = []
        for images in shown.values():
            panels.append(page.axes(left, top, _SIDE, _SIDE))
            draw_picture(panels[-1], images[k], interpolation="lanczos")
            left += _SIDE + _GAP
        panels.append(page.axes(left + 0.12, top, _SIDE * nb_crops, _SIDE))
        best = as_picture(crops[k], limits)
        draw_crop_sheet(panels[-1], best, nb_crops, 1, colors[k], anchor="W")
        if not row:
            for ax, heading in zip(panels, (*shown, "best crops"), strict=True):
                ax.set_title(heading, fontsize=LABEL, pad=4)
    if title:
        page.figure.suptitle(title, fontsize=HEADING, y=1 - 0.06 / page.height, va="top")
    return page.figure


@styled
def plot_class_importances(
    importances: Array,
    effects: Array,
    class_names: Sequence[str],
    crops: Sequence[Array],
    colors: Sequence[Color],
    title: str,
) -> Figure:
    """Draw a table of the importance of each concept (columns) to each class (rows).

    At most 30 concepts and 40 classes are drawn; a note below the title says so.

    Parameters
    ----------
    importances : ndarray of shape (K, I)
        Importances. A row is coloured relative to its largest value; columns are sorted by their
        mean, largest first.
    effects : ndarray of shape (K, I)
        What more of the concept does to the class. Where it is negative, the importance has the
        sign − and is blue instead of red.
    class_names : sequence of K str
        Names of the classes.
    crops : sequence of I ndarray of shape (k, patch, patch, 3)
        Best crops of each concept, of which the first is drawn above its column; k may be 0.
    colors : sequence of I (float, float, float)
        Colours of the concepts.
    title : str
        Title of the figure.

    Returns
    -------
    figure : Figure
    """
    everything = importances.shape
    order = np.argsort(-importances.mean(axis=0), kind="stable")[:_COLUMNS]
    values = importances[:_CLASSES, order]
    classes, concepts = values.shape
    most = f"the {concepts} most important of {everything[1]} concepts"
    notes = some_of(classes, everything[0], "classes"), most if concepts < everything[1] else ""
    names = [plain(name) for name in class_names[:classes]]
    cell, row = (0.86, 0.5) if max(concepts, classes) <= 12 else (0.64, 0.4)
    label = 0.3 + 0.078 * max(map(len, names))
    above = (1.5 if cell > 0.8 else 1.3) - 0.2 * (not any(notes))
    width, height = label + cell * concepts + 0.2, above + row * classes + 0.45
    page = Sheet(max(width, 4.0), height)
    figure, ax = page.figure, page.axes(label, above, cell * concepts, row * classes)
    middle = (label + cell * concepts / 2) / page.width
    figure.suptitle(plain(title, 60), x=middle, y=1 - 0.1 / height, va="top")
    note = "; ".join(part for part in notes if part)
    page.text(middle * page.width, 0.36, note, ha="center", va="top", color=SOFT)
    relative = values / np.maximum(values.max(axis=1, keepdims=True), 1e-12)
    lowers = effects[:_CLASSES, order] < 0
    signed = np.where(lowers, -relative, relative)
    ax.imshow(signed, cmap="RdBu_r", vmin=-1.25, vmax=1.25, aspect="auto")
    for (line, column), value in np.ndenumerate(values):
        color = "white" if relative[line, column] > 0.7 else "black"
        sign = "−" if lowers[line, column] else "+"
        text = "0" if value < 0.005 else f"{sign}{value:.2f}"
        ax.text(column, line, text, ha="center", va="center", color=color)
    ax.set_yticks(range(classes), names, fontsize=LABEL)
    ax.set_xticks(range(concepts), [str(concept) for concept in order], fontsize=LABEL)
    ax.set_xlabel("concept", labelpad=1)
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    place = 1 + (0.06 + 0.43 * cell) / (row * classes)
    for column, concept in enumerate(order):
        for crop in crops[concept][:1]:
            picture = framed(crop, colors[concept], max(1, len(crop) // 16))
            image = OffsetImage(picture, zoom=72 * 0.86 * cell / len(crop), interpolation="lanczos")
            ax.add_artist(
                AnnotationBbox(
                    image, (column, place), xycoords=ax.get_xaxis_transform(), frameon=False,
                    pad=0, annotation_clip=False,
                )
            )  # fmt: skip
    return figure
