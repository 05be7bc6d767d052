"""Plots of model explanations: classes, confusions, shared concepts, the influence diagram.

Crops are uint8 arrays of shape (k, patch, patch, 3), best first; k may be 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import PatchCollection
from matplotlib.figure import Figure
from matplotlib.patches import Circle
from scipy.cluster.hierarchy import leaves_list, linkage

from xplique_dirpairs.core.types import Array
from xplique_dirpairs.plots.images import as_picture, draw_picture, framed
from xplique_dirpairs.plots.layout import Row, RowGrid, Sheet, draw_signed_bars, plain, signed
from xplique_dirpairs.plots.palette import LOWERS, RAISES, Color

#: Lengths in inches: heights of a row with crops and of a row without, widths of a column of names
#: and of a column of bars, space for a heading.
_ROW, _THIN, _LABEL, _BARS, _HEADING = 0.62, 0.34, 1.1, 1.75, 0.3

# ------------------------------------------------------------------ a class


@dataclass(frozen=True, eq=False)
class ConceptRow(Row):
    """A concept in the report on a class.

    Attributes
    ----------
    elsewhere : bool
        Whether the crops are from images of other classes, because the concept is in no image of
        this class.
    contribution : float
        Mean contribution to the logit of the class.
    effect : float
        Effect on the centred logit of the class, mean over its images.
    interval : float
        Half the length of the interval of the effect over these images; NaN for a single image.
    significance : int
        2: significant after correction for multiple tests, 1: only before it, 0: not significant,
        −1: not tested.
    presence : float
        Share of the images of the class in which the concept is detected.
    presence_outside : float
        Share of the other images in which the concept is detected.
    """

    elsewhere: bool
    contribution: float
    effect: float
    interval: float
    significance: int
    presence: float
    presence_outside: float


def plot_class_report(
    name: str,
    details: str,
    supporting: Sequence[ConceptRow],
    opposing: Sequence[ConceptRow],
    nb_crops: int = 5,
) -> Figure:
    """Draw the concepts that support a class and those that oppose it.

    The columns are crops, contribution, effect and detection rates.

    Parameters
    ----------
    name : str
        Name of the class.
    details : str
        Line below the title.
    supporting : sequence of ConceptRow
        Concepts that support the class, strongest first.
    opposing : sequence of ConceptRow
        Concepts that oppose the class, strongest first.
    nb_crops : int, default=5
        Maximum number of crops of a concept.

    Returns
    -------
    figure : Figure

    Raises
    ------
    ValueError
        If there are no concepts.
    """
    rows = [*supporting, *opposing]
    if not rows:
        raise ValueError("supporting and opposing are both empty: give at least one concept")
    headings = {}
    if opposing:
        headings[len(supporting)] = ("opposes the class", LOWERS)
    if supporting:
        headings[0] = ("supports the class", RAISES)
    gaps = [_HEADING if k in headings else 0.0 for k in range(len(rows))]
    widths = [_LABEL, nb_crops * _ROW, _BARS, _BARS, _BARS]
    grid = RowGrid([_ROW] * len(rows), widths, gaps, above=0.98, below=0.62)
    grid.title(plain(name), details)
    words = grid.names(0, rows)
    grid.crops(1, rows, nb_crops)
    for first, (text, color) in headings.items():
        top = grid.tops[first] - 0.08
        words.text(0.0, top, text, fontsize=9.5, color=color, va="bottom", fontweight="bold")
    for low, row in zip(grid.tops + grid.heights, rows, strict=True):
        if row.elsewhere and row.crops is not None and len(row.crops):
            words.text(1.0, low, "from other classes", fontsize=7, color="0.4", ha="right")
    grid.heading(1, "best crops in the class's images")
    bars = grid.span(2, "contribution", "logits")
    draw_signed_bars(bars, grid.middles, np.array([row.contribution for row in rows]))
    unit = "logits ± 95 % interval\nfilled: significant, ★: corrected"
    bars = grid.span(3, "effect", unit)
    significance = np.array([row.significance for row in rows])
    effects, halves = np.array([(row.effect, row.interval) for row in rows]).T
    draw_signed_bars(bars, grid.middles, effects, significance > 0, halves=halves)
    stars = grid.middles[significance == 2]
    bars.plot(np.zeros(len(stars)), stars, "*", color="0.1", markersize=7, zorder=3)
    _draw_rates(grid.span(4, "detected in"), grid.middles, rows)
    return grid.figure


def _draw_rates(ax: Axes, middles: Array, rows: Sequence[ConceptRow]) -> None:
    """Draw the share of images with each concept, in the class and outside of it."""
    for middle, row in zip(middles, rows, strict=True):
        ends = [row.presence_outside, row.presence]
        ax.plot(ends, [middle] * 2, color="0.8", linewidth=2, zorder=1)
        ax.plot(ends[0], middle, "o", color="white", markeredgecolor="0.4", markersize=6, zorder=2)
        ax.plot(ends[1], middle, "o", color=row.color, markersize=7, zorder=3)
    ax.set_xlim(-0.04, 1.04)
    ax.set_xticks([0.0, 0.5, 1.0], ["0", "50 %", "100 %"])
    ax.set_xlabel("share of images\n●: of the class, ○: of other classes", fontsize=8)


# ------------------------------------------------------------------ a confusion


@dataclass(frozen=True, eq=False)
class PushRow(Row):
    """A contribution to the confusion of a class with another one.

    It is that of a concept, of the remaining concepts together, or of the residual.

    Attributes
    ----------
    contribution : float
        Mean contribution to the difference of the two logits over all images of the class.
    confused : float
        Mean contribution over the images that are predicted as the other class; NaN if there are
        none.
    change : float
        Mean change of the log odds of the two classes when the concept is increased; NaN if the row
        is not a single concept.
    """

    contribution: float
    confused: float
    change: float


def plot_confusion(
    names: tuple[str, str], details: str, rows: Sequence[PushRow], nb_crops: int = 5
) -> Figure:
    """Draw what moves images of a class towards another class (red) and away from it (blue).

    Parameters
    ----------
    names : (str, str)
        Names of the class of the images and of the other class.
    details : str
        Line below the title.
    rows : sequence of PushRow
        Contributions, at least one.
    nb_crops : int, default=5
        Maximum number of crops of a concept.

    Returns
    -------
    figure : Figure
    """
    heights = [_THIN if row.crops is None else _ROW for row in rows]
    widths = [_LABEL + 0.1, nb_crops * _ROW, 2.6, 2.2]
    grid = RowGrid(heights, widths, above=0.98, below=0.62)
    source, target = (plain(name) for name in names)
    grid.title(f"What pushes {source} towards {target}", details)
    grid.names(0, rows)
    grid.crops(1, rows, nb_crops)
    grid.heading(1, f"in images of {plain(names[0], 20)}")
    marks = np.array([row.confused for row in rows])
    marked = "" if np.isnan(marks).all() else "; ◇: in the images predicted as it"
    bars = grid.span(2, "contribution to the logit difference", f"logits{marked}")
    draw_signed_bars(bars, grid.middles, np.array([row.contribution for row in rows]), marks=marks)
    changes = np.array([row.change for row in rows])
    shown = ~np.isnan(changes)
    bars = grid.span(3, "influence of an increase", "mean change of the log odds (nats)")
    draw_signed_bars(bars, grid.middles[shown], changes[shown])
    return grid.figure


# ------------------------------------------------------------------ shared concepts

#: Maximum number of classes named beside a concept, and length of a line of classes in inches.
_NAMED, _LINE = 8, 6.4


@dataclass(frozen=True, eq=False)
class SharedRow(Row):
    """A concept that several classes share.

    Attributes
    ----------
    classes : sequence of (str, float)
        Name of each class that shares the concept, and its contribution to the logit of that class,
        largest first.
    """

    classes: Sequence[tuple[str, float]]


def plot_shared_concepts(
    rows: Sequence[SharedRow], at_least: float, number: int, nb_crops: int = 4
) -> Figure:
    """Draw the crops of each shared concept and the classes it supports (red) or opposes (blue).

    Parameters
    ----------
    rows : sequence of SharedRow
        Shared concepts; if there are none, the figure holds only a note.
    at_least : float
        Minimum share of a class's contributions for the class to share a concept.
    number : int
        Number of shared concepts, including those that are not drawn.
    nb_crops : int, default=4
        Maximum number of crops of a concept.

    Returns
    -------
    figure : Figure
    """
    if not rows:
        figure = plt.figure(figsize=(6.0, 1.0))
        text = f"no concept makes up {at_least:.0%} of the contributions in two classes"
        figure.text(0.02, 0.5, text, va="center", fontsize=10)
        return figure
    grid = RowGrid([_ROW] * len(rows), [_LABEL, nb_crops * _ROW, _LINE], above=0.78, below=0.12)
    shown = "" if number == len(rows) else f"; {len(rows)} of {number} shown"
    grid.title(
        "Concepts that classes share",
        f"at least {at_least:.0%} of a class's contributions, in logits; red: supports it, blue: "
        f"opposes it{shown}",
    )
    grid.names(0, rows)
    grid.crops(1, rows, nb_crops)
    ax = grid.words(2)
    ax.set_xlim(0.0, _LINE)
    for middle, row in zip(grid.middles, rows, strict=True):
        _draw_classes(ax, middle, row.classes)
    return grid.figure


def _draw_classes(ax: Axes, middle: float, classes: Sequence[tuple[str, float]]) -> None:
    """Write classes in boxes, on at most two lines, and the number of those that do not fit."""
    texts = [f"{plain(name, 20)} {signed(value)}" for name, value in classes]
    widths = [0.068 * len(text) + 0.24 for text in texts]
    lines: list[list[tuple[float, int]]] = [[]]
    x = 0.05
    for k, width in enumerate(widths[:_NAMED]):
        if lines[-1] and x + width > _LINE - 0.75:
            if len(lines) == 2:
                break
            lines.append([])
            x = 0.05
        lines[-1].append((x, k))
        x += width
    offsets = [0.0] if len(lines) == 1 else [-0.15, 0.15]
    for line, offset in zip(lines, offsets, strict=True):
        for left, k in line:
            color = RAISES if classes[k][1] > 0 else LOWERS
            ax.text(
                left + 0.1, middle + offset, texts[k], fontsize=8.5, color="white", va="center",
                bbox={"boxstyle": "round,pad=0.25", "facecolor": color, "edgecolor": "none"},
            )  # fmt: skip
    left_out = len(texts) - sum(map(len, lines))
    if left_out:
        note = f"and {left_out} more"
        ax.text(x + 0.06, middle + offsets[-1], note, fontsize=8.5, va="center", color="0.3")


# ------------------------------------------------------------------ the influence diagram

#: Lengths in inches: maximum width of all columns, maximum and minimum side of a cell.
_ROOM, _LARGEST, _SMALLEST = 15.0, 0.72, 0.3
#: Minimum height of a row, in inches.
_LOWEST_ROW = 0.24
#: Maximum number of concepts drawn: the strongest ones.
MOST_CONCEPTS = 50
#: Saturation of discs that are not significant.
_PALE = 0.35
#: Number of classes from which on similar ones are placed next to each other.
_SORTED_FROM = 9
#: Height of the legend, in inches.
_LEGEND = 0.75


def plot_influence_diagram(
    effects: Array,
    significance: Array,
    class_names: Sequence[str],
    concept_names: Sequence[str],
    crops: Sequence[Array] | None = None,
    *,
    colors: Sequence[Color],
    title: str = "",
    significant_only: bool = True,
) -> Figure:
    """Draw a disc for each influence of a concept (column) on a class (row).

    Columns are sorted by the class that each concept raises most. Concepts without any significant
    effect are left out, and their number is reported. From nine classes on, rows are sorted by
    similarity.

    Parameters
    ----------
    effects : ndarray of shape (I, K)
        Effect on the class's centred logit; NaN if it was not measured.
    significance : ndarray of shape (I, K), int
        2: significant after correction for multiple tests (a disc), 1: only before it (a ring), 0:
        not significant, −1: not tested (both not drawn).
    class_names : sequence of K str
        Names of the classes.
    concept_names : sequence of I str
        Names of the concepts.
    crops : sequence of I ndarray of shape (k, patch, patch, 3), optional
        Best crops of each concept, drawn above its column.
    colors : sequence of I (float, float, float)
        Colours of the concepts.
    title : str, default=""
        Title of the figure.
    significant_only : bool, default=True
        If False, effects that are not significant, or not tested, are drawn as pale discs.

    Returns
    -------
    figure : Figure
    """
    shown = (significance > 0) | (not significant_only)
    marked = np.where(shown, np.nan_to_num(effects), 0.0)
    columns, beyond = _strongest(marked)
    rows = _similar_side_by_side(marked[columns])
    columns = _in_order_of_classes(marked, columns, rows)
    values, grades = marked[columns][:, rows].T, significance[columns][:, rows].T
    figure, ax = _draw_diagram(
        values,
        grades,
        [plain(class_names[k]) for k in rows],
        [plain(concept_names[i], 18) for i in columns],
        [colors[i] for i in columns],
        None if crops is None else [crops[i] for i in columns],
        title,
    )
    notes = []
    if ((grades < 1) & (values != 0)).any():
        notes.append("pale: not significant, or not tested")
    tested = (significance >= 0).any(axis=1)
    left_out = int((tested & ~marked.any(axis=1)).sum())
    if left_out:
        notes.append(f"{left_out} concepts are significant for no tested class")
    if tested.any() and not tested.all():
        notes.append(f"{int((~tested).sum())} concepts were not tested")
    if beyond:
        notes.append(f"{beyond} weaker concepts are left out")
    _draw_legend(figure, values, "; ".join(notes))
    if not len(columns):
        middle = ax.get_ylim()[0] / 2
        nothing = "no effect is significant" if tested.any() else "nothing was tested"
        ax.text(0.0, middle, f"  {nothing}", va="center", color="0.4")
    return figure


def _strongest(marked: Array) -> tuple[Array, int]:
    """Return up to `MOST_CONCEPTS` concepts with marks, and the number of those left out."""
    strength = np.abs(marked).max(axis=1)
    order = np.argsort(-strength, kind="stable")
    order = order[strength[order] > 0]
    return np.sort(order[:MOST_CONCEPTS]), max(0, len(order) - MOST_CONCEPTS)


def _similar_side_by_side(marked: Array) -> Array:
    """Return the order of the classes (K,): unchanged or, if they are many, by similarity."""
    number = marked.shape[1]
    if number < _SORTED_FROM or not marked.any():
        return np.arange(number)
    return np.asarray(leaves_list(linkage(marked.T, "average", optimal_ordering=True)))


def _in_order_of_classes(marked: Array, columns: Array, rows: Array) -> Array:
    """Sort columns by the class that each raises most; those that only lower classes are last."""
    if not len(columns):
        return columns
    ordered = marked[columns][:, rows]
    helps = ordered.max(axis=1)
    group = np.where(helps > 0, ordered.argmax(axis=1), len(rows) + ordered.argmin(axis=1))
    strength = np.where(helps > 0, helps, -ordered.min(axis=1))
    return np.asarray(columns[np.lexsort((-strength, group))])


def _draw_diagram(
    values: Array,
    grades: Array,
    classes: list[str],
    concepts: list[str],
    colors: list[Color],
    crops: list[Array] | None,
    title: str,
) -> tuple[Figure, Axes]:
    """Draw discs, names and crops; return the figure and the axes of the discs."""
    across, down = max(1, len(concepts)), len(classes)
    cell = min(_LARGEST, max(_SMALLEST, _ROOM / across))
    row = max(_LOWEST_ROW, min(cell, 14.0 / down))
    size = 9.0 if row >= 0.28 else 8.0
    per_column = 3 if across <= 16 else 2 if across <= 30 else 1
    if not crops:
        per_column = 0
    left = 0.25 + 0.0085 * size * max(map(len, classes))
    upright = all(0.0087 * size * len(name) < cell for name in concepts)
    names = 0.22 if upright else 0.12 + 0.0085 * size * max(map(len, concepts))
    above = (0.4 if title else 0.12) + per_column * cell * 0.94 + names
    page = Sheet(max(left + cell * across + 0.25, left + 4.6), above + row * down + _LEGEND)
    ax = page.axes(left, above, cell * across, row * down)
    ax.set_xlim(0, cell * across)
    ax.set_ylim(row * down, 0)
    _draw_discs(ax, values, grades, cell, row)
    ax.set_yticks(row * (np.arange(down) + 0.5), classes, fontsize=size)
    ax.tick_params(length=0)
    ax.set_xticks([])
    ax.spines[:].set_visible(False)
    for k, name in enumerate(concepts):
        page.text(
            left + cell * (k + 0.5), above - 0.06, name, fontsize=size, color=colors[k],
            fontweight="bold", ha="center", va="bottom", rotation=0 if upright else 90,
        )  # fmt: skip
        for j, crop in enumerate(crops[k][:per_column] if crops else ()):
            top = above - names - (per_column - 1 - j) * cell * 0.94 - 0.9 * cell
            picture = page.axes(left + cell * (k + 0.03), top, 0.94 * cell, 0.9 * cell)
            border = max(1, crop.shape[0] // 20)
            draw_picture(picture, framed(as_picture(crop), colors[k], border))
    page.text(0.12, 0.1, title, fontsize=12, fontweight="bold", va="top")
    return page.figure, ax


def _draw_discs(ax: Axes, values: Array, grades: Array, cell: float, row: float) -> None:
    """Draw discs whose areas are proportional to |values|; cells are ``cell`` × ``row`` inches."""
    down, across = values.shape
    for k in range(down):
        ax.axhspan(k * row, (k + 1) * row, color="0.955" if k % 2 else "0.985", linewidth=0)
    for j in range(1, across):
        ax.axvline(j * cell, color="white", linewidth=1.2)
    largest = np.abs(values).max(initial=0.0) or 1.0
    half = 0.47 * min(cell, row)
    discs = []
    for k, j in np.argwhere(values):
        color, grade = RAISES if values[k, j] > 0 else LOWERS, grades[k, j]
        least = 0.22 if grade > 0 else 0.05
        radius = half * max(least, float(np.sqrt(abs(values[k, j]) / largest)))
        line = min(1.6, 16 * radius) if grade == 1 else 0.0
        if grade < 1:
            red, green, blue = (1.0 - _PALE * (1.0 - part) for part in color)
            color = red, green, blue
        inside = (1.0, 1.0, 1.0) if grade == 1 else color
        place = ((j + 0.5) * cell, (k + 0.5) * row)
        style = {"facecolor": inside, "edgecolor": color, "linewidth": line}
        discs.append(Circle(place, radius - line / 144, **style))
    ax.add_collection(PatchCollection(discs, match_original=True, zorder=2))


def _draw_legend(figure: Figure, values: Array, notes: str) -> None:
    """Draw the meaning of the discs and the scale of their areas below the diagram."""
    width, height = figure.get_size_inches()
    ax = figure.add_axes((0.12 / width, 0.08 / height, 4.4 / width, 0.56 / height))
    ax.set_xlim(0, 4.4)
    ax.set_ylim(0, 0.56)
    ax.set_axis_off()
    marks = ((0.1, RAISES, RAISES, "raises"), (0.75, LOWERS, LOWERS, "lowers"),
             (1.4, "white", "0.3", "significant before correction only"))  # fmt: skip
    for x, inside, edge, text in marks:
        ax.add_patch(Circle((x, 0.45), 0.07, facecolor=inside, edgecolor=edge, linewidth=1.3))
        ax.text(x + 0.13, 0.45, text, va="center", fontsize=8)
    largest = np.abs(values).max(initial=0.0)
    scale = f"area: |effect on the centred logit|, up to {largest:.2g}" if largest else ""
    ax.text(0.02, 0.25, scale, va="center", fontsize=8, color="0.25")
    ax.text(0.02, 0.07, notes, va="center", fontsize=8, color="0.25")
