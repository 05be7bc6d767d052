"""The concept influence diagram: which concepts help which classes, and which they hurt."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import PatchCollection
from matplotlib.figure import Figure
from matplotlib.patches import Circle
from numpy.typing import ArrayLike, NDArray
from scipy.cluster.hierarchy import leaves_list, linkage

from xplique_dirpairs.plots.images import as_picture, draw_picture, framed
from xplique_dirpairs.plots.palette import Color, concept_colors
from xplique_dirpairs.plots.row_grid import LOWERS, RAISES, plain

#: Inches across that the columns may take, and the side of a cell at best and at least.
_ROOM, _LARGEST, _SMALLEST = 15.0, 0.72, 0.3
_LOWEST_ROW = 0.24
#: Concepts drawn at most; the strongest.
MOST_CONCEPTS = 50
#: Strength of the colours of what is not significant.
_PALE = 0.35
#: From so many classes on alike ones are put side by side.
_SORTED_FROM = 9
#: Inches for the words under the drawing.
_LEGEND = 0.75


def plot_influence_diagram(
    changes: ArrayLike,
    significance: ArrayLike,
    class_names: Sequence[str],
    concept_names: Sequence[str],
    crops: Sequence[NDArray] | None = None,
    *,
    colors: Sequence[Color] | None = None,
    title: str = "",
    significant_only: bool = True,
) -> Figure:
    """Classes (rows) × concepts (columns): a disc where a concept moves a class.

    Columns come in the order of the classes they help most; those of concepts without any
    significant influence are left out, and counted. From nine classes on alike ones stand side
    by side.

    Parameters
    ----------
    changes : (I, K)
        Mean Δ in nats; NaN for what was not measured.
    significance : (I, K)
        2: significant after correction (a full disc), 1: before it only (a ring), 0: not drawn.
    class_names : K of them
    concept_names : I of them
    crops
        For each concept its best crops (k, patch, patch, 3) uint8, drawn above its column.
    colors
        Of the concepts.
    title
    significant_only
        False: the others are drawn as well, pale.

    Raises
    ------
    ValueError
        If shapes do not fit.
    """
    values, grades = np.asarray(changes, float), np.asarray(significance, int)
    if values.ndim != 2 or values.shape != grades.shape or 0 in values.shape:
        raise ValueError(
            "changes and significance must both be (concepts, classes), but have shapes "
            f"{values.shape} and {grades.shape}"
        )
    for name, given, count in (
        ("concept_names", concept_names, values.shape[0]),
        ("class_names", class_names, values.shape[1]),
        ("crops", crops, values.shape[0]),
        ("colors", colors, values.shape[0]),
    ):
        if given is not None and len(given) != count:
            raise ValueError(f"{name} must be {count}, not {len(given)}")
    colors = concept_colors(len(values)) if colors is None else colors
    least = 1 if significant_only else 0
    marked = np.where(grades >= least, np.nan_to_num(values), 0.0)
    columns, beyond = _columns(marked)
    rows = _rows(marked[columns])
    columns = _in_order_of_classes(marked, columns, rows)
    left_out = int((~marked.any(axis=1)).sum())
    return _draw(
        marked[columns][:, rows].T,
        grades[columns][:, rows].T,
        [plain(class_names[k]) for k in rows],
        [plain(concept_names[i], 18) for i in columns],
        None if crops is None else [crops[i] for i in columns],
        [colors[i] for i in columns],
        title,
        left_out,
        beyond,
    )


def _columns(marked: NDArray) -> tuple[NDArray, int]:
    """Concepts with any mark, the strongest where there are too many; how many are cut off."""
    strength = np.abs(marked).max(axis=1)
    order = np.argsort(-strength, kind="stable")
    order = order[strength[order] > 0]
    return np.sort(order[:MOST_CONCEPTS]), max(0, len(order) - MOST_CONCEPTS)


def _rows(marked: NDArray) -> NDArray:
    """Classes in their order; of many, alike ones side by side."""
    count = marked.shape[1]
    if count < _SORTED_FROM or not marked.any():
        return np.arange(count)
    return leaves_list(linkage(marked.T, "average", optimal_ordering=True))


def _in_order_of_classes(marked: NDArray, columns: NDArray, rows: NDArray) -> NDArray:
    """Columns by the class each helps most, the strongest first; those that only hurt, last."""
    if not len(columns):
        return columns
    ordered = marked[columns][:, rows]
    helps = ordered.max(axis=1)
    group = np.where(helps > 0, ordered.argmax(axis=1), len(rows) + ordered.argmin(axis=1))
    strength = np.where(helps > 0, helps, -ordered.min(axis=1))
    return columns[np.lexsort((-strength, group))]


def _draw(
    values: NDArray,
    grades: NDArray,
    classes: list[str],
    concepts: list[str],
    crops: list[NDArray] | None,
    colors: list[Color],
    title: str,
    left_out: int,
    beyond: int,
) -> Figure:
    across, down = max(1, len(concepts)), len(classes)
    cell = min(_LARGEST, max(_SMALLEST, _ROOM / across))
    row = max(_LOWEST_ROW, min(cell, 14.0 / down))
    size = 9.0 if row >= 0.28 else 8.0
    per_column = 3 if across <= 16 else 2 if across <= 30 else 1
    if crops is None or not concepts:
        per_column = 0
    left = 0.25 + 0.0085 * size * max(map(len, classes))
    upright = all(0.0087 * size * len(name) < cell for name in concepts)
    names = 0.22 if upright else 0.12 + 0.0085 * size * max(map(len, concepts))
    above = (0.4 if title else 0.12) + per_column * cell * 0.94 + names
    width = max(left + cell * across + 0.25, left + 4.6)
    height = above + row * down + _LEGEND
    figure = plt.figure(figsize=(width, height))

    ax = figure.add_axes(
        (left / width, _LEGEND / height, cell * across / width, row * down / height)
    )
    ax.set_xlim(0, cell * across)
    ax.set_ylim(row * down, 0)
    _draw_discs(ax, values, grades, cell, row)
    ax.set_yticks(row * (np.arange(down) + 0.5), classes, fontsize=size)
    ax.tick_params(length=0)
    ax.set_xticks([])
    ax.spines[:].set_visible(False)
    for k, name in enumerate(concepts):
        where = (left + cell * (k + 0.5)) / width
        figure.text(
            where, (_LEGEND + row * down + 0.06) / height, name, fontsize=size, color=colors[k],
            fontweight="bold", ha="center", va="bottom", rotation=0 if upright else 90,
        )  # fmt: skip
        shown = np.zeros(0) if crops is None else crops[k]
        for j in range(min(per_column, len(shown))):
            bottom = _LEGEND + row * down + names + (per_column - 1 - j) * cell * 0.94
            picture = figure.add_axes(
                ((left + cell * (k + 0.03)) / width, bottom / height,
                 0.94 * cell / width, 0.9 * cell / height)
            )  # fmt: skip
            border = max(1, shown.shape[1] // 20)
            draw_picture(picture, framed(as_picture(shown[j], (0, 255)), colors[k], border))
    if title:
        figure.text(0.12 / width, 1 - 0.1 / height, title, fontsize=12, fontweight="bold", va="top")
    _legend(figure, values, left_out, beyond, bool(((grades == 0) & (values != 0)).any()))
    if not len(concepts):
        ax.text(0.0, row * down / 2, "  no influence is significant", va="center", color="0.4")
    return figure


def _draw_discs(ax: Axes, values: NDArray, grades: NDArray, cell: float, row: float) -> None:
    """Discs whose areas are the sizes of the values, in inches."""
    down, across = values.shape
    for k in range(down):
        ax.axhspan(k * row, (k + 1) * row, color="0.955" if k % 2 else "0.985", linewidth=0)
    for j in range(1, across):
        ax.axvline(j * cell, color="white", linewidth=1.2)
    largest = np.abs(values).max(initial=0.0) or 1.0
    half = 0.47 * min(cell, row)
    discs, inside, edges, lines = [], [], [], []
    for k, j in np.argwhere(values):
        color, grade = RAISES if values[k, j] > 0 else LOWERS, grades[k, j]
        least = 0.22 if grade else 0.05
        radius = half * max(least, float(np.sqrt(abs(values[k, j]) / largest)))
        line = min(1.6, 16 * radius) if grade == 1 else 0.0
        discs.append(Circle(((j + 0.5) * cell, (k + 0.5) * row), radius - line / 144))
        if grade == 0:
            red, green, blue = (1.0 - _PALE * (1.0 - part) for part in color)
            color = red, green, blue
        inside.append((1.0, 1.0, 1.0) if grade == 1 else color)
        edges.append(color)
        lines.append(line)
    ax.add_collection(
        PatchCollection(discs, facecolors=inside, edgecolors=edges, linewidths=lines, zorder=2)
    )


def _legend(figure: Figure, values: NDArray, left_out: int, beyond: int, all_drawn: bool) -> None:
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
    said = f"area: |mean Δ of log p|, up to {largest:.2g} nats" if largest else ""
    ax.text(0.02, 0.25, said, va="center", fontsize=8, color="0.25")
    notes = ["pale: not significant"] if all_drawn else []
    if left_out:
        notes.append(f"{left_out} concepts move no class significantly")
    if beyond:
        notes.append(f"{beyond} weaker ones are left out")
    ax.text(0.02, 0.07, "; ".join(notes), va="center", fontsize=8, color="0.25")
