"""Plots of model explanations: classes, confusions, shared concepts.

Crops are uint8 arrays of shape (k, patch, patch, 3), best first; k may be 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from xplique_dirpairs.core.types import Array
from xplique_dirpairs.plots.layout import Row, RowGrid, draw_signed_bars, plain, signed
from xplique_dirpairs.plots.palette import LOWERS, RAISES
from xplique_dirpairs.plots.style import (
    HEADING,
    LABEL,
    NOTE,
    SMALL,
    SMALLEST,
    SOFT,
    most_rows,
    some_of,
    styled,
)

#: Lengths in inches: heights of a row with crops and of a row without, widths of a column of names
#: and of a column of bars, the latter also with a long label, space for a heading.
_ROW, _THIN, _LABEL, _BARS, _LABELLED, _HEADING = 0.62, 0.34, 1.1, 1.75, 2.2, 0.3
#: Maximum number of concepts that push towards a class, or away from it, in `plot_confusion`.
MOST_PUSHES = 16

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


@styled
def plot_class_report(
    name: str,
    details: str,
    supporting: Sequence[ConceptRow],
    opposing: Sequence[ConceptRow],
    nb_crops: int = 5,
) -> Figure:
    """Draw the concepts that support a class and those that oppose it.

    The columns are crops, contribution, effect and detection rates. Where there are more concepts
    than fit, the first ones of both kinds are drawn, and the details say how many.

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
    number = len(supporting) + len(opposing)
    room = most_rows(_ROW + 0.07)
    supporting = supporting[: max(room - len(opposing), room // 2)]
    opposing = opposing[: room - len(supporting)]
    rows = [*supporting, *opposing]
    if not rows:
        raise ValueError("supporting and opposing are both empty: give at least one concept")
    headings = {}
    if opposing:
        headings[len(supporting)] = ("opposes the class", LOWERS)
    if supporting:
        headings[0] = ("supports the class", RAISES)
    gaps = [_HEADING if k in headings else 0.0 for k in range(len(rows))]
    widths = [_LABEL, nb_crops * _ROW, _BARS, _LABELLED, _LABELLED]
    grid = RowGrid([_ROW] * len(rows), widths, gaps, above=0.98, below=0.62)
    note = some_of(len(rows), number, "concepts")
    grid.title(plain(name), "; ".join(part for part in (details, note) if part))
    words = grid.names(0, rows)
    grid.crops(1, rows, nb_crops)
    for first, (text, color) in headings.items():
        top = grid.tops[first] - 0.08
        words.text(0.0, top, text, fontsize=LABEL, color=color, va="bottom", fontweight="bold")
    for low, row in zip(grid.tops + grid.heights, rows, strict=True):
        if row.elsewhere and row.crops is not None and len(row.crops):
            words.text(1.0, low, "from other classes", fontsize=SMALLEST, color=NOTE, ha="right")
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
        ax.plot(ends[0], middle, "o", color="white", markeredgecolor=NOTE, markersize=6, zorder=2)
        ax.plot(ends[1], middle, "o", color=row.color, markersize=7, zorder=3)
    ax.set_xlim(-0.04, 1.04)
    ax.set_xticks([0.0, 0.5, 1.0], ["0", "50 %", "100 %"])
    ax.set_xlabel("share of images\n●: of the class, ○: of other classes", fontsize=SMALL)


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


@styled
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


@styled
def plot_shared_concepts(
    rows: Sequence[SharedRow], at_least: float, number: int, nb_crops: int = 4
) -> Figure:
    """Draw the crops of each shared concept and the classes it supports (red) or opposes (blue).

    Parameters
    ----------
    rows : sequence of SharedRow
        Shared concepts, of which as many as fit are drawn; if there are none, the figure holds only
        a note.
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
        figure.text(0.02, 0.5, text, va="center", fontsize=HEADING)
        return figure
    rows = rows[: most_rows(_ROW + 0.07)]
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
    widths = [0.072 * len(text) + 0.24 for text in texts]
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
                left + 0.1, middle + offset, texts[k], fontsize=LABEL, color="white", va="center",
                bbox={"boxstyle": "round,pad=0.25", "facecolor": color, "edgecolor": "none"},
            )  # fmt: skip
    left_out = len(texts) - sum(map(len, lines))
    if left_out:
        note = f"and {left_out} more"
        ax.text(x + 0.06, middle + offsets[-1], note, fontsize=LABEL, va="center", color=SOFT)
