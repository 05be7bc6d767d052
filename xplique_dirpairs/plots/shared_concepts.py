"""Concepts that matter to several classes, each with its classes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from xplique_dirpairs.plots.palette import Color
from xplique_dirpairs.plots.row_grid import LOWERS, RAISES, RowGrid, draw_crops, draw_names, plain

_ROW, _LABEL = 0.62, 1.1
#: Classes named beside a concept.
_NAMED = 8
#: Inches that a line of classes may take.
_LINE = 6.4


@dataclass(frozen=True, eq=False)
class SharedRow:
    """A concept with the classes it matters to, and its contribution to each; largest first."""

    name: str
    color: Color
    crops: NDArray
    classes: Sequence[tuple[str, float]]


def plot_shared_concepts(
    rows: Sequence[SharedRow], at_least: float, number: int, nb_crops: int = 4
) -> Figure:
    """A line for each shared concept: crops, then the classes it speaks for (red), against (blue).

    Parameters
    ----------
    rows
        None is fine: the figure says so.
    at_least
        Share of a class's contributions from which a concept counts.
    number
        Of shared concepts, shown or not.
    nb_crops
    """
    if not rows:
        figure = plt.figure(figsize=(6.0, 1.0))
        said = f"no concept makes up {at_least:.0%} of the contributions in two classes"
        figure.text(0.02, 0.5, said, va="center", fontsize=10)
        return figure
    grid = RowGrid([_ROW] * len(rows), [_LABEL, nb_crops * _ROW, _LINE], above=0.78, below=0.12)
    shown = "" if number == len(rows) else f"; {len(rows)} of {number} shown"
    grid.title(
        "Concepts that classes share",
        f"at least {at_least:.0%} of a class's contributions, in logits; red: for it, blue: "
        f"against it{shown}",
    )
    draw_names(grid.words(0), grid.middles, [r.name for r in rows], [r.color for r in rows])
    ax = grid.words(2)
    ax.set_xlim(0.0, _LINE)
    for k, row in enumerate(rows):
        draw_crops(grid.cell(k, 1), row.crops, nb_crops, row.color)
        _draw_classes(ax, grid.middles[k], row.classes)
    return grid.figure


def _draw_classes(ax: Axes, middle: float, classes: Sequence[tuple[str, float]]) -> None:
    """Classes in boxes, on two lines at most; how many did not fit is said."""
    texts = [
        (f"{plain(name, 20)} {value:+.2f}".replace("-", "−"), value) for name, value in classes
    ]
    widths = [0.068 * len(text) + 0.24 for text, _ in texts]
    lines: list[list[int]] = [[]]
    used = 0.0
    for k in range(min(len(texts), _NAMED)):
        if used + widths[k] > _LINE - 0.8 and lines[-1]:
            if len(lines) == 2:
                break
            lines.append([])
            used = 0.0
        lines[-1].append(k)
        used += widths[k]
    offsets = np.array([0.0]) if len(lines) == 1 else np.array([-0.15, 0.15])
    drawn = sum(map(len, lines))
    for line, offset in zip(lines, offsets, strict=True):
        x = 0.05
        for k in line:
            text, value = texts[k]
            ax.text(
                x + 0.1, middle + offset, text, fontsize=8.5, color="white", va="center",
                bbox={"boxstyle": "round,pad=0.25", "facecolor": RAISES if value > 0 else LOWERS,
                      "edgecolor": "none"},
            )  # fmt: skip
            x += widths[k]
        if line is lines[-1] and drawn < len(texts):
            said = f"and {len(texts) - drawn} more"
            ax.text(x + 0.06, middle + offset, said, fontsize=8.5, va="center", color="0.3")
