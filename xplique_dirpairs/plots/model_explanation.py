"""What a model makes of its concepts: a class, a confusion, shared concepts, the influence diagram.

Crops are uint8 of shape (k, patch, patch, 3), best first.
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
from xplique_dirpairs.plots.layout import RowGrid, Sheet, draw_signed_bars, plain, signed
from xplique_dirpairs.plots.palette import LOWERS, RAISES, Color

#: Inches: a row with crops and one without, a column of names, of bars, room for a heading.
_ROW, _THIN, _LABEL, _BARS, _HEADING = 0.62, 0.34, 1.1, 1.75, 0.3
_INFLUENCE = "influence of more of it"

# ------------------------------------------------------------------ a class


@dataclass(frozen=True, eq=False)
class ConceptRow:
    """A concept in the report on a class.

    Attributes
    ----------
    name, color, crops
    elsewhere : bool
        Whether the crops are of other classes, the concept being in none of this one.
    contribution : float
        To the class's logit.
    change : float
        Mean Δ of its influence, in nats.
    significance : int
        2: significant after correction, 1: before it only, 0: not.
    presence, presence_outside : float
        Shares of images with the concept, in the class and outside.
    """

    name: str
    color: Color
    crops: Array
    elsewhere: bool
    contribution: float
    change: float
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
    """Draw concepts for a class and against it: crops, contribution, influence, detection rates.

    Parameters
    ----------
    name : str
        Of the class.
    details : str
        A line below the title.
    supporting, opposing : sequence of ConceptRow
        Strongest first.
    nb_crops : int, default=5
        Room for this many crops.

    Raises
    ------
    ValueError
        If there are no concepts.
    """
    rows = [*supporting, *opposing]
    if not rows:
        raise ValueError("there are no concepts to show")
    headings = {}
    if opposing:
        headings[len(supporting)] = ("speaks against it", LOWERS)
    if supporting:
        headings[0] = ("speaks for it", RAISES)
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
        if row.elsewhere and len(row.crops):
            words.text(1.0, low, "of other images", fontsize=7, color="0.4", ha="right")
    grid.heading(1, "best crops of the class's images")
    bars = grid.span(2, "contribution", "logits")
    draw_signed_bars(bars, grid.middles, np.array([row.contribution for row in rows]))
    unit = "Δ log p (nats); filled: p ≤ level,\n★: also after correction"
    bars = grid.span(3, _INFLUENCE, unit)
    significance = np.array([row.significance for row in rows])
    changes = np.array([row.change for row in rows])
    draw_signed_bars(bars, grid.middles, changes, significance > 0)
    stars = grid.middles[significance == 2]
    bars.plot(np.zeros(len(stars)), stars, "*", color="0.1", markersize=7, zorder=3)
    _draw_rates(grid.span(4, "detected in"), grid.middles, rows)
    return grid.figure


def _draw_rates(ax: Axes, middles: Array, rows: Sequence[ConceptRow]) -> None:
    for middle, row in zip(middles, rows, strict=True):
        ends = [row.presence_outside, row.presence]
        ax.plot(ends, [middle] * 2, color="0.8", linewidth=2, zorder=1)
        ax.plot(ends[0], middle, "o", color="white", markeredgecolor="0.4", markersize=6, zorder=2)
        ax.plot(ends[1], middle, "o", color=row.color, markersize=7, zorder=3)
    ax.set_xlim(-0.04, 1.04)
    ax.set_xticks([0.0, 0.5, 1.0], ["0", "50 %", "100 %"])
    ax.set_xlabel("share of images\n●: of the class, ○: of others", fontsize=8)


# ------------------------------------------------------------------ a confusion


@dataclass(frozen=True, eq=False)
class PushRow:
    """A concept, or all others together, that pushes a class towards another one.

    Attributes
    ----------
    name, color
    crops : ndarray or None
        None where there is nothing to show.
    contribution : float
        To the difference of the two logits, over all images of the class.
    confused : float
        The same, over those that are taken for the other class; NaN where there are none.
    change : float
        Of the log-odds of the two, by more of the concept; NaN where it means nothing.
    """

    name: str
    color: Color
    crops: Array | None
    contribution: float
    confused: float
    change: float


def plot_confusion(
    names: tuple[str, str], details: str, rows: Sequence[PushRow], nb_crops: int = 5
) -> Figure:
    """Draw what pushes images of one class towards another (red), and what holds them (blue).

    Parameters
    ----------
    names : (str, str)
        Of the class, and of the one it is pushed towards.
    details : str
        A line below the title.
    rows : sequence of PushRow
        At least one.
    nb_crops : int, default=5
        Room for this many crops.
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
    marked = "" if np.isnan(marks).all() else "; ◇: in the images that are taken for it"
    bars = grid.span(2, "contribution to the logit difference", f"logits{marked}")
    draw_signed_bars(bars, grid.middles, np.array([row.contribution for row in rows]), marks=marks)
    changes = np.array([row.change for row in rows])
    shown = ~np.isnan(changes)
    bars = grid.span(3, _INFLUENCE, "mean change of the log odds (nats)")
    draw_signed_bars(bars, grid.middles[shown], changes[shown])
    return grid.figure


# ------------------------------------------------------------------ shared concepts

#: Classes named beside a concept, and inches that a line of them may take.
_NAMED, _LINE = 8, 6.4


@dataclass(frozen=True, eq=False)
class SharedRow:
    """A concept with the classes it matters to, and its contribution to each, largest first."""

    name: str
    color: Color
    crops: Array
    classes: Sequence[tuple[str, float]]


def plot_shared_concepts(
    rows: Sequence[SharedRow], at_least: float, number: int, nb_crops: int = 4
) -> Figure:
    """Draw each shared concept: crops, then the classes it speaks for (red) and against (blue).

    Parameters
    ----------
    rows : sequence of SharedRow
        If there are none, the figure says so.
    at_least : float
        Share of a class's contributions from which a concept counts.
    number : int
        Of shared concepts, shown or not.
    nb_crops : int, default=4
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
        f"at least {at_least:.0%} of a class's contributions, in logits; red: for it, blue: "
        f"against it{shown}",
    )
    grid.names(0, rows)
    grid.crops(1, rows, nb_crops)
    ax = grid.words(2)
    ax.set_xlim(0.0, _LINE)
    for middle, row in zip(grid.middles, rows, strict=True):
        _draw_classes(ax, middle, row.classes)
    return grid.figure


def _draw_classes(ax: Axes, middle: float, classes: Sequence[tuple[str, float]]) -> None:
    """Write classes in boxes, on two lines at most, and how many did not fit."""
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

#: Inches across that the columns may take, and the side of a cell, largest and smallest.
_ROOM, _LARGEST, _SMALLEST = 15.0, 0.72, 0.3
_LOWEST_ROW = 0.24
#: The strongest concepts are drawn, at most this many.
MOST_CONCEPTS = 50
#: Strength of the colours of what is not significant.
_PALE = 0.35
#: From this many classes on, similar ones stand side by side.
_SORTED_FROM = 9
#: Inches for the words under the drawing.
_LEGEND = 0.75


def plot_influence_diagram(
    changes: Array,
    significance: Array,
    class_names: Sequence[str],
    concept_names: Sequence[str],
    crops: Sequence[Array] | None = None,
    *,
    colors: Sequence[Color],
    title: str = "",
    significant_only: bool = True,
) -> Figure:
    """Draw classes (rows) × concepts (columns), with a disc where a concept moves a class.

    Columns come in the order of the classes they help most; those of concepts without any
    significant influence are left out, and counted. From nine classes on, similar ones stand side
    by side.

    Parameters
    ----------
    changes : ndarray of shape (I, K)
        Mean Δ in nats; NaN for what was not measured.
    significance : ndarray of shape (I, K), int
        2: significant after correction (a full disc), 1: before it only (a ring), 0: not drawn.
    class_names : sequence of K str
    concept_names : sequence of I str
    crops : sequence of I ndarray, optional
        Best crops of each concept, drawn above its column.
    colors : sequence of I (float, float, float)
    title : str, default=""
    significant_only : bool, default=True
        False: the others are drawn as well, pale.
    """
    least = 1 if significant_only else 0
    marked = np.where(significance >= least, np.nan_to_num(changes), 0.0)
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
    if ((grades == 0) & (values != 0)).any():
        notes.append("pale: not significant")
    left_out = int((~marked.any(axis=1)).sum())
    if left_out:
        notes.append(f"{left_out} concepts move no class significantly")
    if beyond:
        notes.append(f"{beyond} weaker ones are left out")
    _draw_legend(figure, values, "; ".join(notes))
    if not len(columns):
        middle = ax.get_ylim()[0] / 2
        ax.text(0.0, middle, "  no influence is significant", va="center", color="0.4")
    return figure


def _strongest(marked: Array) -> tuple[Array, int]:
    """Return concepts with any mark, the strongest if too many, and how many are cut off."""
    strength = np.abs(marked).max(axis=1)
    order = np.argsort(-strength, kind="stable")
    order = order[strength[order] > 0]
    return np.sort(order[:MOST_CONCEPTS]), max(0, len(order) - MOST_CONCEPTS)


def _similar_side_by_side(marked: Array) -> Array:
    """Return classes in their order or, if there are many, by similarity."""
    number = marked.shape[1]
    if number < _SORTED_FROM or not marked.any():
        return np.arange(number)
    return np.asarray(leaves_list(linkage(marked.T, "average", optimal_ordering=True)))


def _in_order_of_classes(marked: Array, columns: Array, rows: Array) -> Array:
    """Sort columns by the class each helps most, strongest first; those that only hurt, last."""
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
    """Draw discs whose areas are the sizes of the values; ``cell`` and ``row`` are in inches."""
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
        least = 0.22 if grade else 0.05
        radius = half * max(least, float(np.sqrt(abs(values[k, j]) / largest)))
        line = min(1.6, 16 * radius) if grade == 1 else 0.0
        if grade == 0:
            red, green, blue = (1.0 - _PALE * (1.0 - part) for part in color)
            color = red, green, blue
        inside = (1.0, 1.0, 1.0) if grade == 1 else color
        place = ((j + 0.5) * cell, (k + 0.5) * row)
        style = {"facecolor": inside, "edgecolor": color, "linewidth": line}
        discs.append(Circle(place, radius - line / 144, **style))
    ax.add_collection(PatchCollection(discs, match_original=True, zorder=2))


def _draw_legend(figure: Figure, values: Array, notes: str) -> None:
    width, height = figure.get_size_inches()
    ax = figure.add_axes((0.12 / width, 0.08 / height, 4.4 / width, 0.56 / height))
    ax.set_xlim(0, 4.4)
    ax.set_ylim(0, 0.56)
    ax.set_axis_off()
    marks = ((0.1, RAISES, RAISES, "helps"), (0.75, LOWERS, LOWERS, "hurts"),
             (1.4, "white", "0.3", "p ≤ level before correction only"))  # fmt: skip
    for x, inside, edge, text in marks:
        ax.add_patch(Circle((x, 0.45), 0.07, facecolor=inside, edgecolor=edge, linewidth=1.3))
        ax.text(x + 0.13, 0.45, text, va="center", fontsize=8)
    largest = np.abs(values).max(initial=0.0)
    scale = f"area: |mean Δ of log p|, up to {largest:.2g} nats" if largest else ""
    ax.text(0.02, 0.25, scale, va="center", fontsize=8, color="0.25")
    ax.text(0.02, 0.07, notes, va="center", fontsize=8, color="0.25")
