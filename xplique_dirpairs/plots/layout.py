"""How figures are laid out: rows of concepts, names, signed bars, plain axes."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import ArrayLike

from xplique_dirpairs.core.types import Array
from xplique_dirpairs.plots.images import as_picture, draw_crop_sheet
from xplique_dirpairs.plots.palette import signed_colors

#: Inches between two columns, and between two rows.
_GUTTER, _GAP = 0.14, 0.07
_LONGEST_NAME = 28
#: Height of a bar, in inches.
_BAR = 0.26


class Sheet:
    """A figure on which things are placed in inches, from its left and upper edges."""

    def __init__(self, width: float, height: float) -> None:
        self.width, self.height = width, height
        self.figure: Figure = plt.figure(figsize=(width, height))

    def axes(self, left: float, top: float, width: float, height: float) -> Axes:
        """Add axes of a size, in inches."""
        bottom = self.height - top - height
        return self.figure.add_axes(
            (left / self.width, bottom / self.height, width / self.width, height / self.height)
        )

    def text(self, left: float, top: float, text: str, **style: Any) -> None:
        """Write words, if there are any; ``style`` is as of ``Figure.text``."""
        if text:
            self.figure.text(left / self.width, 1.0 - top / self.height, text, **style)


class RowGrid(Sheet):
    """A figure whose rows and columns have given sizes, all in inches.

    Parameters
    ----------
    heights : sequence of float
        Of the rows, top to bottom.
    widths : sequence of float
        Of the columns, left to right.
    gaps : array-like, optional
        Room above each row beyond the usual, for a heading.
    above, below : float
        Room for titles, and for what stands under the axes.
    least : float, default=0
        Minimum height of the body: a column may hold more than the rows.
    """

    def __init__(
        self,
        heights: Sequence[float],
        widths: Sequence[float],
        gaps: ArrayLike = 0.0,
        *,
        above: float,
        below: float,
        least: float = 0.0,
    ) -> None:
        self.heights, self.widths = np.asarray(heights, float), np.asarray(widths, float)
        ends = np.cumsum(self.heights + np.asarray(gaps, float) + _GAP)
        #: Upper edges of the rows, and their middles, below the upper edge of the first one.
        self.tops = ends - _GAP - self.heights
        self.middles = self.tops + self.heights / 2
        self.lefts = 0.12 + np.append(0.0, np.cumsum(self.widths + _GUTTER)[:-1])
        self.body = max(float(ends[-1]), least)
        self.above = above
        width = float(self.lefts[-1] + self.widths[-1] + 0.15)
        super().__init__(width, above + self.body + below)

    def area(self, column: int, top: float, height: float) -> Axes:
        """Add axes as wide as a column; ``top`` is below the upper edge of the first row."""
        return self.axes(self.lefts[column], self.above + top, self.widths[column], height)

    def cell(self, row: int, column: int) -> Axes:
        """Add axes in one row and column."""
        return self.area(column, self.tops[row], self.heights[row])

    def span(self, column: int, heading: str = "", unit: str = "") -> Axes:
        """Add axes over all rows, which lie at `middles`, downwards."""
        ax = self.area(column, 0.0, self.body)
        ax.set_ylim(self.body, 0.0)
        ax.set_yticks([])
        ax.spines[["top", "right", "left"]].set_visible(False)
        ax.tick_params(labelsize=8)
        self.heading(column, heading)
        ax.set_xlabel(unit, fontsize=8)
        return ax

    def words(self, column: int) -> Axes:
        """Add an empty span that only holds text; x runs from 0 to 1."""
        ax = self.span(column)
        ax.set_xlim(0.0, 1.0)
        ax.set_axis_off()
        return ax

    def heading(self, column: int, text: str) -> None:
        """Write words above a column."""
        middle = self.lefts[column] + self.widths[column] / 2
        style = {"ha": "center", "va": "bottom", "fontsize": 9, "color": "0.25"}
        self.text(middle, self.above - 0.08, text, **style)

    def title(self, text: str, details: str = "") -> None:
        """Write words at the very top; the second line is smaller."""
        self.text(0.12, 0.1, text, va="top", fontsize=12, fontweight="bold")
        self.text(0.12, 0.36, details, va="top", fontsize=9, color="0.25")

    def names(self, column: int, rows: Sequence[Any]) -> Axes:
        """Write names of concepts in their colours; return the axes that they are in.

        ``rows`` are objects with ``name`` and ``color``, one for each of the last rows.
        """
        words = self.words(column)
        for k, row in enumerate(rows, start=len(self.heights) - len(rows)):
            words.text(
                1.0, self.middles[k], wrapped(row.name), ha="right", va="center", fontsize=9,
                color=row.color, fontweight="bold", linespacing=1.05,
            )  # fmt: skip
        return words

    def crops(self, column: int, rows: Sequence[Any], nb_crops: int) -> None:
        """Draw crops of concepts in frames of their colours, with room for ``nb_crops``.

        ``rows`` are objects with ``color`` and ``crops``, (k, patch, patch, 3) or None where there
        is nothing to show, one for each of the last rows; k may be 0.
        """
        for k, row in enumerate(rows, start=len(self.heights) - len(rows)):
            if row.crops is not None:
                draw_crop_sheet(self.cell(k, column), as_picture(row.crops), nb_crops, 1, row.color)


def draw_signed_bars(
    ax: Axes,
    middles: Array,
    values: Array,
    filled: Array | None = None,
    marks: Array | None = None,
) -> None:
    """Draw bars to the right (red) and left (blue) of 0, each with its value.

    Parameters
    ----------
    ax : Axes
    middles, values : ndarray of shape (n,)
    filled : ndarray of bool, optional
        Which bars are not hollow; by default all.
    marks : ndarray, optional
        A second value of each row, drawn as a diamond; NaN for none.
    """
    colors = signed_colors(values)
    solid = np.ones(len(values), bool) if filled is None else filled
    faces = [color if on else "none" for color, on in zip(colors, solid, strict=True)]
    ax.barh(middles, values, height=_BAR, color=faces, edgecolor=colors, linewidth=0.9)
    ax.axvline(0.0, color="0.3", linewidth=0.8)
    ends = np.stack([values, np.zeros(len(values))])
    if marks is not None:
        ax.plot(marks, middles, "D", color="white", markeredgecolor="0.1", markersize=4.5)
        ends = np.concatenate([ends, np.nan_to_num(marks)[None]])
    distance = 4 if marks is None else 7
    label_bars(ax, middles, ends.min(axis=0), ends.max(axis=0), values, distance)


def label_bars(
    ax: Axes, middles: Array, lows: Array, highs: Array, values: Array, distance: float = 4
) -> None:
    """Write each value beside the far end of its bar, and make the axis wide enough for it.

    ``lows`` and ``highs`` are the ends of the bars; ``distance`` is in points.
    """
    low, high = min(0.0, float(np.min(lows))), max(0.0, float(np.max(highs)))
    reach = (high - low) or 1.0
    # A character in 7.5 points takes 0.07 inches.
    texts = [signed(value) for value in values]
    inches = 0.07 * max(map(len, texts)) + distance / 40
    width = ax.get_window_extent().width / ax.figure.dpi
    upwards = values >= 0
    up, down = bool(upwards.any()), not upwards.all()
    room = reach * inches / max(width - (up + down) * inches, 0.3)
    edge = 0.06 * reach
    ax.set_xlim(low - (room if down else edge), high + (room if up else edge))
    for k, text in enumerate(texts):
        side = (highs[k], distance, "left") if upwards[k] else (lows[k], -distance, "right")
        ax.annotate(
            text, (side[0], middles[k]), xytext=(side[1], 0), textcoords="offset points",
            ha=side[2], va="center", fontsize=7.5, color="0.2",
        )  # fmt: skip
    ax.xaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 5, 10]))


def signed(value: float) -> str:
    """Write a number with its sign and two decimals."""
    return f"{value:+.2f}".replace("-", "−")


def dress(ax: Axes, title: str | None = None) -> None:
    """Give axes small labels and no frame above and to the right."""
    if title is not None:
        ax.set_title(title, fontsize=10)
    ax.tick_params(labelsize=8)
    ax.spines[["top", "right"]].set_visible(False)


def wrapped(name: str, width: int = 12, lines: int = 2) -> str:
    """Write a name on up to ``lines`` lines, without markup."""
    words = textwrap.wrap(" ".join(name.replace("_", " ").split()), width) or [""]
    if len(words) > lines:
        words = [*words[: lines - 1], f"{words[lines - 1][: width - 1]}…"]
    return "\n".join(words).replace("$", r"\$")


def plain(name: str, longest: int = _LONGEST_NAME) -> str:
    """Write a name on one line, without markup."""
    line = " ".join(str(name).replace("_", " ").split())
    line = line if len(line) <= longest else line[: longest - 1] + "…"
    return line.replace("$", r"\$")
