"""Layout of figures: rows of concepts, names, bars with signs, axes without frames."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import ArrayLike

from xplique_dirpairs.core.types import Array
from xplique_dirpairs.plots.images import as_picture, draw_crop_sheet
from xplique_dirpairs.plots.palette import Color, readable, signed_colors
from xplique_dirpairs.plots.style import HEADING, LABEL, SMALL, SOFT, TITLE

#: Gap between two columns, and between two rows, in inches.
_GUTTER, _GAP = 0.14, 0.07
#: Maximum number of characters of a name on one line.
_LONGEST_NAME = 28
#: Height of a bar, in inches.
_BAR = 0.26


class Sheet:
    """A figure whose axes and texts are placed in inches from its left and upper edges."""

    def __init__(self, width: float, height: float) -> None:
        self.width, self.height = width, height
        self.figure: Figure = plt.figure(figsize=(width, height))

    def axes(self, left: float, top: float, width: float, height: float) -> Axes:
        """Add axes at a position and of a size given in inches."""
        bottom = self.height - top - height
        return self.figure.add_axes(
            (left / self.width, bottom / self.height, width / self.width, height / self.height)
        )

    def text(self, left: float, top: float, text: str, **style: Any) -> None:
        """Write text, unless it is empty; ``style`` holds keyword arguments of ``Figure.text``."""
        if text:
            self.figure.text(left / self.width, 1.0 - top / self.height, text, **style)


@dataclass(frozen=True, eq=False)
class Row:
    """A row of a figure, for a concept or for something else with a name.

    Attributes
    ----------
    name : str
        Name of the row.
    color : (float, float, float)
        Colour of the row.
    crops : ndarray of shape (k, patch, patch, 3) or None
        Best crops of the concept, where k may be 0; None if the row is not a single concept.
    """

    name: str
    color: Color
    crops: Array | None


class RowGrid(Sheet):
    """A figure of rows and columns. All lengths are in inches.

    Parameters
    ----------
    heights : sequence of float
        Heights of the rows, from top to bottom.
    widths : sequence of float
        Widths of the columns, from left to right.
    gaps : array-like of shape (len(heights),) or float, default=0
        Additional space above each row, for a heading.
    above : float
        Space above the rows, for titles.
    below : float
        Space below the rows, for labels.
    least : float, default=0
        Minimum height of all rows together, for columns that need more space than the rows.
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
        #: Distances of the rows' upper edges and middles from the upper edge of the first row.
        self.tops = ends - _GAP - self.heights
        self.middles = self.tops + self.heights / 2
        self.lefts = 0.12 + np.append(0.0, np.cumsum(self.widths + _GUTTER)[:-1])
        self.body = max(float(ends[-1]), least)
        self.above = above
        width = float(self.lefts[-1] + self.widths[-1] + 0.15)
        super().__init__(width, above + self.body + below)

    def area(self, column: int, top: float, height: float) -> Axes:
        """Add axes as wide as a column, ``top`` inches below the upper edge of the first row."""
        return self.axes(self.lefts[column], self.above + top, self.widths[column], height)

    def cell(self, row: int, column: int) -> Axes:
        """Add axes in a cell of the grid."""
        return self.area(column, self.tops[row], self.heights[row])

    def span(self, column: int, heading: str = "", unit: str = "") -> Axes:
        """Add axes over all rows of a column; the middles of the rows are at y = `middles`."""
        ax = self.area(column, 0.0, self.body)
        ax.set_ylim(self.body, 0.0)
        ax.set_yticks([])
        ax.spines[["top", "right", "left"]].set_visible(False)
        ax.tick_params(labelsize=SMALL)
        self.heading(column, heading)
        ax.set_xlabel(unit, fontsize=SMALL)
        return ax

    def words(self, column: int) -> Axes:
        """Add invisible axes for text over all rows of a column; x runs from 0 to 1."""
        ax = self.span(column)
        ax.set_xlim(0.0, 1.0)
        ax.set_axis_off()
        return ax

    def heading(self, column: int, text: str) -> None:
        """Write a heading above a column."""
        middle = self.lefts[column] + self.widths[column] / 2
        style = {"ha": "center", "va": "bottom", "fontsize": LABEL, "color": SOFT}
        self.text(middle, self.above - 0.08, text, **style)

    def title(self, text: str, details: str = "") -> None:
        """Write a title at the top of the figure, and details in a smaller font below it."""
        self.text(0.12, 0.1, text, va="top", fontsize=TITLE, fontweight="bold")
        self.text(0.12, 0.36, details, va="top", fontsize=LABEL, color=SOFT)

    def names(self, column: int, rows: Sequence[Row]) -> Axes:
        """Write the names of concepts in their colours, and return the axes that hold them.

        ``rows`` are the last rows of the grid.
        """
        words = self.words(column)
        for k, row in enumerate(rows, start=len(self.heights) - len(rows)):
            words.text(
                1.0, self.middles[k], wrapped(row.name), ha="right", va="center", fontsize=LABEL,
                color=readable(row.color), fontweight="bold", linespacing=1.05,
            )  # fmt: skip
        return words

    def crops(self, column: int, rows: Sequence[Row], nb_crops: int) -> None:
        """Draw up to ``nb_crops`` crops of each concept in a frame of its colour.

        ``rows`` are the last rows of the grid; the cell of a row without crops stays empty.
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
    halves: Array | None = None,
) -> None:
    """Draw horizontal bars, red for values from 0 on and blue below 0, labelled with their values.

    Parameters
    ----------
    ax : Axes
        Axes to draw on.
    middles : ndarray of shape (n,)
        Vertical positions of the bars.
    values : ndarray of shape (n,)
        Lengths of the bars.
    filled : ndarray of shape (n,), bool, optional
        Whether each bar is filled; by default all are.
    marks : ndarray of shape (n,), optional
        Second value of each row, drawn as a diamond; NaN draws none.
    halves : ndarray of shape (n,), optional
        Half the length of the interval of each value, drawn as a line; NaN draws none.
    """
    colors = signed_colors(values)
    solid = np.ones(len(values), bool) if filled is None else filled
    faces = [color if on else "none" for color, on in zip(colors, solid, strict=True)]
    ax.barh(middles, values, height=_BAR, color=faces, edgecolor=colors, linewidth=0.9)
    ax.axvline(0.0, color=SOFT, linewidth=0.8)
    ends = np.stack([values, np.zeros(len(values))])
    if marks is not None:
        ax.plot(marks, middles, "D", color="white", markeredgecolor="0.1", markersize=4.5)
        ends = np.concatenate([ends, np.nan_to_num(marks)[None]])
    if halves is not None:
        known = np.nan_to_num(halves)
        ax.hlines(middles, values - known, values + known, color="0.1", linewidth=1.0, zorder=3)
        ends = np.concatenate([ends, [values - known, values + known]])
    distance = 4 if marks is None else 7
    label_bars(ax, middles, ends.min(axis=0), ends.max(axis=0), values, distance)


def label_bars(
    ax: Axes, middles: Array, lows: Array, highs: Array, values: Array, distance: float = 4
) -> None:
    """Write each value beside the end of its bar, and widen the axis so that the text fits.

    ``middles``, ``lows``, ``highs`` and ``values`` have shape (n,): vertical positions of the bars,
    their left and right ends, and the values to write. ``distance`` is the space between a bar and
    its value, in points.
    """
    low, high = min(0.0, float(np.min(lows))), max(0.0, float(np.max(highs)))
    reach = (high - low) or 1.0
    # A character of 8 points is about 0.075 inches wide.
    texts = [signed(value) for value in values]
    inches = 0.075 * max(map(len, texts)) + distance / 40
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
            ha=side[2], va="center", fontsize=SMALL, color=SOFT,
        )  # fmt: skip
    ax.xaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 5, 10]))


def signed(value: float) -> str:
    """Return a number as text with its sign and two decimals."""
    return f"{value:+.2f}".replace("-", "−")


def dress(ax: Axes, title: str | None = None) -> None:
    """Give axes small labels, remove the upper and right spines, and set the title if given."""
    if title is not None:
        ax.set_title(title, fontsize=HEADING)
    ax.tick_params(labelsize=SMALL)
    ax.spines[["top", "right"]].set_visible(False)


def wrapped(name: str, width: int = 12, lines: int = 2) -> str:
    """Return a name wrapped to ``lines`` lines at most, with underscores and "$" made harmless."""
    words = textwrap.wrap(" ".join(name.replace("_", " ").split()), width) or [""]
    if len(words) > lines:
        words = [*words[: lines - 1], f"{words[lines - 1][: width - 1]}…"]
    return "\n".join(words).replace("$", r"\$")


def plain(name: str, longest: int = _LONGEST_NAME) -> str:
    """Return a name on one line, shortened if necessary, with underscores and "$" made harmless."""
    line = " ".join(str(name).replace("_", " ").split())
    line = line if len(line) <= longest else line[: longest - 1] + "…"
    return line.replace("$", r"\$")
