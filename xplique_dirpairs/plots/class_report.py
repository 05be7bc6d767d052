"""A class in one picture: concepts for and against it; what pushes a class towards another one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from xplique_dirpairs.plots.palette import Color
from xplique_dirpairs.plots.row_grid import (
    LOWERS,
    RAISES,
    RowGrid,
    draw_crops,
    draw_names,
    draw_signed_bars,
    plain,
)

_ROW, _LABEL, _BARS = 0.62, 1.1, 1.75
_HEADING = 0.3
#: Rows without crops: all others together, the residual.
_THIN = 0.34


@dataclass(frozen=True, eq=False)
class ConceptRow:
    """A concept as a class's report shows it.

    Attributes
    ----------
    name
    color
    crops : (k, patch, patch, 3) uint8
    elsewhere
        Whether the crops are of other classes, the concept being in none of this one.
    contribution
        To the class's logit, in logits.
    change
        Mean Δ of its influence, in nats.
    significance
        2 after correction, 1 before it only, 0 not.
    presence, presence_outside
        Shares of images with it, in the class and outside.
    """

    name: str
    color: Color
    crops: NDArray
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
    """Concepts for a class and against it: crops, contribution, influence, where it is detected.

    Parameters
    ----------
    name
        Of the class.
    details
        A line below the title.
    supporting, opposing
        Strongest first.
    nb_crops
        Room for so many.

    Raises
    ------
    ValueError
        If there are no concepts.
    """
    rows = [*supporting, *opposing]
    if not rows:
        raise ValueError("there are no concepts to show")
    gaps = np.zeros(len(rows))
    starts = {0: "speaks for it"} if supporting else {}
    if opposing:
        starts[len(supporting)] = "speaks against it"
    gaps[list(starts)] = _HEADING
    widths = [_LABEL, nb_crops * _ROW, _BARS, _BARS, _BARS]
    grid = RowGrid([_ROW] * len(rows), widths, gaps, above=0.98, below=0.62)
    grid.title(plain(name), details)
    words = grid.words(0)
    for first, text in starts.items():
        color = RAISES if text == "speaks for it" else LOWERS
        top = grid.tops[first] - 0.08
        words.text(0.0, top, text, fontsize=9.5, color=color, va="bottom", fontweight="bold")
    draw_names(words, grid.middles, [row.name for row in rows], [row.color for row in rows])
    for k, row in enumerate(rows):
        draw_crops(grid.cell(k, 1), row.crops, nb_crops, row.color)
        if row.elsewhere and len(row.crops):
            low = grid.tops[k] + grid.heights[k]
            words.text(1.0, low, "of other images", fontsize=7, color="0.4", ha="right")
    grid.heading(1, "best crops of the class's images")
    bars = grid.span(2)
    draw_signed_bars(bars, grid.middles, np.array([row.contribution for row in rows]))
    bars.set_xlabel("logits", fontsize=8)
    grid.heading(2, "contribution")
    bars = grid.span(3)
    draw_signed_bars(
        bars, grid.middles, np.array([row.change for row in rows]),
        np.array([row.significance > 0 for row in rows]),
    )  # fmt: skip
    for middle, row in zip(grid.middles, rows, strict=True):
        if row.significance == 2:
            bars.plot(0.0, middle, marker="*", color="0.1", markersize=7, zorder=3)
    bars.set_xlabel("Δ log p (nats); filled: p ≤ level,\n★: also after correction", fontsize=8)
    grid.heading(3, "influence of more of it")
    _draw_rates(grid, 4, rows)
    return grid.figure


def _draw_rates(grid: RowGrid, column: int, rows: Sequence[ConceptRow]) -> None:
    ax = grid.span(column)
    for middle, row in zip(grid.middles, rows, strict=True):
        ends = [row.presence_outside, row.presence]
        ax.plot(ends, [middle] * 2, color="0.8", linewidth=2, zorder=1)
        ax.plot(ends[0], middle, "o", color="white", markeredgecolor="0.4", markersize=6, zorder=2)
        ax.plot(ends[1], middle, "o", color=row.color, markersize=7, zorder=3)
    ax.set_xlim(-0.04, 1.04)
    ax.set_xticks([0.0, 0.5, 1.0], ["0", "50 %", "100 %"])
    ax.set_xlabel("share of images\n●: of the class, ○: of others", fontsize=8)
    grid.heading(column, "detected in")


@dataclass(frozen=True, eq=False)
class PushRow:
    """A concept, or all others, in what pushes a class towards another one.

    Attributes
    ----------
    name
    color
    crops : (k, patch, patch, 3) uint8, or None
        None where there is nothing to show.
    contribution
        To the difference of the two logits, over all images of the class.
    confused
        The same, over those that are taken for the other class; NaN where there are none.
    change
        Of the log-odds of the two, by more of the concept; NaN where it means nothing.
    """

    name: str
    color: Color
    crops: NDArray | None
    contribution: float
    confused: float
    change: float


def plot_confusion(
    names: tuple[str, str], details: str, rows: Sequence[PushRow], nb_crops: int = 5
) -> Figure:
    """What pushes images of one class towards another (right, red), and what holds them (blue).

    Parameters
    ----------
    names
        Of the class, and of the one it is pushed towards.
    details
        A line below the title.
    rows
    nb_crops
        Room for so many.

    Raises
    ------
    ValueError
        If there are no rows.
    """
    if not rows:
        raise ValueError("there are no concepts to show")
    heights = [_THIN if row.crops is None else _ROW for row in rows]
    widths = [_LABEL + 0.1, nb_crops * _ROW, 2.6, 2.2]
    grid = RowGrid(heights, widths, above=0.98, below=0.62)
    source, target = (plain(name) for name in names)
    grid.title(f"What pushes {source} towards {target}", details)
    draw_names(grid.words(0), grid.middles, [r.name for r in rows], [r.color for r in rows])
    for k, row in enumerate(rows):
        if row.crops is not None:
            draw_crops(grid.cell(k, 1), row.crops, nb_crops, row.color)
    grid.heading(1, f"in images of {plain(names[0], 20)}")
    bars = grid.span(2)
    marks = np.array([row.confused for row in rows])
    draw_signed_bars(bars, grid.middles, np.array([row.contribution for row in rows]), marks=marks)
    marked = "" if np.isnan(marks).all() else "; ◇: in the images that are taken for it"
    bars.set_xlabel(f"logits{marked}", fontsize=8)
    grid.heading(2, "contribution to the logit difference")
    bars = grid.span(3)
    shown = ~np.isnan([row.change for row in rows])
    draw_signed_bars(bars, grid.middles[shown], np.array([row.change for row in rows])[shown])
    bars.set_xlabel("mean change of the log odds (nats)", fontsize=8)
    grid.heading(3, "influence of more of it")
    return grid.figure
