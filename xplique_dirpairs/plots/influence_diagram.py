"""Plot of the influence of concepts on classes: a disc for each."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection, PatchCollection
from matplotlib.figure import Figure
from matplotlib.patches import Circle
from scipy.cluster.hierarchy import leaves_list, linkage

from xplique_dirpairs.core.types import Array
from xplique_dirpairs.plots.images import as_picture, draw_picture, framed
from xplique_dirpairs.plots.layout import Sheet, plain
from xplique_dirpairs.plots.palette import LOWERS, RAISES, Color, readable
from xplique_dirpairs.plots.style import LABEL, NOTE, SMALL, SOFT, TITLE, styled

#: Lengths in inches: maximum width of all columns, maximum and minimum side of a cell.
_ROOM, _LARGEST, _SMALLEST = 15.0, 0.72, 0.3
#: Minimum height of a row, in inches.
_LOWEST_ROW = 0.24
#: Maximum numbers of concepts and of classes drawn: those with the strongest effects.
MOST_CONCEPTS, MOST_CLASSES = 50, 60
#: Saturation of discs that are not significant.
_PALE = 0.35
#: Number of classes from which on similar ones are placed next to each other.
_SORTED_FROM = 9
#: Half the length of a minus sign, as a share of the radius of its disc.
_MINUS = 0.55
#: Height of the legend, in inches.
_LEGEND = 0.75


@styled
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
    kept = np.argsort(-np.abs(marked).max(axis=0, initial=0.0), kind="stable")[:MOST_CLASSES]
    kept = np.sort(kept)
    rows = kept[_similar_side_by_side(marked[columns][:, kept])]
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
    if len(rows) < len(class_names):
        notes.append(f"{len(class_names) - len(rows)} classes with weaker effects are left out")
    _draw_legend(figure, values, "; ".join(notes))
    if not len(columns):
        middle = ax.get_ylim()[0] / 2
        nothing = "no effect is significant" if tested.any() else "nothing was tested"
        ax.text(0.0, middle, f"  {nothing}", va="center", color=NOTE)
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
    size = LABEL if row >= 0.28 else SMALL
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
            left + cell * (k + 0.5), above - 0.06, name, fontsize=size, color=readable(colors[k]),
            fontweight="bold", ha="center", va="bottom", rotation=0 if upright else 90,
        )  # fmt: skip
        for j, crop in enumerate(crops[k][:per_column] if crops else ()):
            top = above - names - (per_column - 1 - j) * cell * 0.94 - 0.9 * cell
            picture = page.axes(left + cell * (k + 0.03), top, 0.94 * cell, 0.9 * cell)
            border = max(1, crop.shape[0] // 20)
            draw_picture(picture, framed(as_picture(crop), colors[k], border))
    page.text(0.12, 0.1, title, fontsize=TITLE, fontweight="bold", va="top")
    return page.figure, ax


def _draw_discs(ax: Axes, values: Array, grades: Array, cell: float, row: float) -> None:
    """Draw discs whose areas are proportional to |values|; cells are ``cell`` × ``row`` inches.

    A disc of a negative value has a minus sign.
    """
    down, across = values.shape
    for k in range(down):
        ax.axhspan(k * row, (k + 1) * row, color="0.955" if k % 2 else "0.985", linewidth=0)
    for j in range(1, across):
        ax.axvline(j * cell, color="white", linewidth=1.2)
    largest = np.abs(values).max(initial=0.0) or 1.0
    half = 0.47 * min(cell, row)
    discs, minuses, inks = [], [], []
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
        if values[k, j] < 0:
            reach = _MINUS * radius
            minuses.append([(place[0] - reach, place[1]), (place[0] + reach, place[1])])
            inks.append(color if grade == 1 else (1.0, 1.0, 1.0))
    ax.add_collection(PatchCollection(discs, match_original=True, zorder=2))
    ax.add_collection(LineCollection(minuses, colors=inks, linewidths=1.2, zorder=3))


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
        ax.text(x + 0.13, 0.45, text, va="center", fontsize=SMALL)
    reach = 0.07 * _MINUS
    ax.plot([0.75 - reach, 0.75 + reach], [0.45, 0.45], color="white", linewidth=1.2)
    largest = np.abs(values).max(initial=0.0)
    scale = f"area: |effect on the centred logit|, up to {largest:.2g}" if largest else ""
    ax.text(0.02, 0.25, scale, va="center", fontsize=SMALL, color=SOFT)
    ax.text(0.02, 0.07, notes, va="center", fontsize=SMALL, color=SOFT)
