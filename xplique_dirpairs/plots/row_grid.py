"""Figures whose rows are concepts: words, crops, maps and bars beside each other, on one line."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import ArrayLike, NDArray

from xplique_dirpairs.plots.concepts import draw_crop_sheet
from xplique_dirpairs.plots.images import as_picture
from xplique_dirpairs.plots.palette import Color

#: What raises a score, and what lowers it.
RAISES, LOWERS = (0.70, 0.09, 0.17), (0.13, 0.40, 0.67)
#: Inches between two columns, and between two rows.
_GUTTER, _GAP = 0.14, 0.07
_LONGEST_NAME = 28
#: Height of a bar, in inches.
_BAR = 0.26


class RowGrid:
    """Rows and columns of given sizes, all in inches.

    Parameters
    ----------
    heights
        Of the rows, top to bottom.
    widths
        Of the columns, left to right.
    gaps
        Room above each row beyond the usual, for a heading; None for none.
    above, below
        Room for titles, and for what stands under the axes.
    least
        Height of the body at least; a column may hold more than the rows.
    """

    def __init__(
        self,
        heights: Sequence[float],
        widths: Sequence[float],
        gaps: ArrayLike | None = None,
        *,
        above: float = 0.7,
        below: float = 0.5,
        least: float = 0.0,
    ):
        extra = np.zeros(len(heights)) if gaps is None else np.asarray(gaps, float)
        ends = np.cumsum(np.asarray(heights, float) + extra + _GAP)
        self.heights = np.asarray(heights, float)
        #: Upper edges of the rows, and their middles, below the upper edge of the first one.
        self.tops = ends - _GAP - self.heights
        self.middles = self.tops + self.heights / 2
        self.widths = np.asarray(widths, float)
        self.lefts = 0.12 + np.append(0.0, np.cumsum(self.widths + _GUTTER)[:-1])
        self.body = max(float(ends[-1]), least)
        self.above, self.below = above, below
        self.width = float(self.lefts[-1] + self.widths[-1] + 0.15)
        self.height = above + self.body + below
        self.figure: Figure = plt.figure(figsize=(self.width, self.height))

    def area(self, column: int, top: float, height: float) -> Axes:
        """Axes as wide as a column; ``top`` is below the upper edge of the first row."""
        bottom = self.height - self.above - top - height
        return self.figure.add_axes(
            (
                self.lefts[column] / self.width,
                bottom / self.height,
                self.widths[column] / self.width,
                height / self.height,
            )
        )

    def cell(self, row: int, column: int) -> Axes:
        """Axes in one row and column."""
        return self.area(column, self.tops[row], self.heights[row])

    def span(self, column: int) -> Axes:
        """Axes over all rows; rows lie at `middles`, downwards."""
        ax = self.area(column, 0.0, self.body)
        ax.set_ylim(self.body, 0.0)
        ax.set_yticks([])
        ax.spines[["top", "right", "left"]].set_visible(False)
        ax.tick_params(labelsize=8)
        return ax

    def words(self, column: int) -> Axes:
        """An empty span that only holds text; x from 0 to 1."""
        ax = self.span(column)
        ax.set_xlim(0.0, 1.0)
        ax.set_axis_off()
        return ax

    def heading(self, column: int, text: str, to: int | None = None) -> None:
        """Words above the columns from ``column`` to ``to``."""
        last = column if to is None else to
        middle = (self.lefts[column] + self.lefts[last] + self.widths[last]) / 2
        place = 1.0 - (self.above - 0.08) / self.height
        self.figure.text(
            middle / self.width, place, text, ha="center", va="bottom", fontsize=9, color="0.25"
        )

    def title(self, text: str, details: str = "") -> None:
        """Words at the very top; the second line smaller."""
        left = self.lefts[0] / self.width
        top = 1.0 - 0.1 / self.height
        self.figure.text(left, top, text, ha="left", va="top", fontsize=12, fontweight="bold")
        if details:
            below = 1.0 - 0.36 / self.height
            self.figure.text(left, below, details, ha="left", va="top", fontsize=9, color="0.25")


def draw_names(ax: Axes, middles: NDArray, names: Sequence[str], colors: Sequence) -> None:
    """A name for each row, to the right of its column, in the concept's colour."""
    for middle, name, color in zip(middles, names, colors, strict=True):
        ax.text(
            1.0, middle, wrapped(name), ha="right", va="center", fontsize=9, color=color,
            fontweight="bold", linespacing=1.05,
        )  # fmt: skip


def draw_crops(ax: Axes, crops: NDArray, count: int, color: Color) -> None:
    """Crops (k, patch, patch, 3) uint8 in one line, in a frame of the concept's colour."""
    pictures = as_picture(crops, (0.0, 255.0)) if len(crops) else crops
    draw_crop_sheet(ax, pictures, count, 1, color)
    ax.set_anchor("C")


def draw_signed_bars(
    ax: Axes,
    middles: NDArray,
    values: NDArray,
    filled: NDArray | None = None,
    marks: NDArray | None = None,
    decimals: int = 2,
) -> None:
    """Bars to the right (red) and left (blue) of 0, each with its value.

    Parameters
    ----------
    ax, middles, values
    filled
        Which bars are not hollow; None: all.
    marks
        A second value of each row, drawn as a diamond; NaN for none.
    decimals
    """
    colors = [RAISES if value >= 0 else LOWERS for value in values]
    full = np.ones(len(values), bool) if filled is None else filled
    ax.barh(
        middles,
        values,
        height=_BAR,
        color=[color if on else "none" for color, on in zip(colors, full, strict=True)],
        edgecolor=colors,
        linewidth=0.9,
    )
    ax.axvline(0.0, color="0.3", linewidth=0.8)
    others = np.zeros(len(values)) if marks is None else np.nan_to_num(marks)
    if marks is not None:
        ax.plot(marks, middles, "D", color="white", markeredgecolor="0.1", markersize=4.5)
    lows, highs = (extreme(values, others) for extreme in (np.minimum, np.maximum))
    lows, highs = np.minimum(lows, 0.0), np.maximum(highs, 0.0)
    label_bars(ax, middles, lows, highs, values, decimals, 4 if marks is None else 7)


def label_bars(
    ax: Axes,
    middles: NDArray,
    lows: NDArray,
    highs: NDArray,
    values: NDArray,
    decimals: int = 2,
    distance: float = 4,
) -> None:
    """The value of each bar, so many points beside its far end; an axis that has room for it."""
    low, high = min(0.0, float(np.min(lows))), max(0.0, float(np.max(highs)))
    reach = (high - low) or 1.0
    # a character in 7.5 points takes 0.07 inches
    texts = [f"{value:+.{decimals}f}".replace("-", "−") for value in values]
    inches = 0.07 * max(map(len, texts)) + distance / 40
    width = ax.get_window_extent().width / ax.figure.dpi
    up, down = bool((values >= 0).any()), bool((values < 0).any())
    room = reach * inches / max(width - (up + down) * inches, 0.3)
    ax.set_xlim(
        low - (room if down else 0.06 * reach),
        high + (room if up else 0.06 * reach),
    )
    for middle, left, right, value, text in zip(middles, lows, highs, values, texts, strict=True):
        up = value >= 0
        ax.annotate(
            text, (right if up else left, middle), xytext=(distance if up else -distance, 0),
            textcoords="offset points", ha="left" if up else "right", va="center", fontsize=7.5,
            color="0.2",
        )  # fmt: skip
    ax.xaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 5, 10]))


def wrapped(name: str, width: int = 12) -> str:
    """A name on up to two lines, without markup."""
    lines = textwrap.wrap(" ".join(name.replace("_", " ").split()), width) or [""]
    if len(lines) > 2:
        lines = [lines[0], f"{lines[1][: width - 1]}…"]
    return "\n".join(lines).replace("$", r"\$")


def plain(name: str, longest: int = _LONGEST_NAME) -> str:
    """A name on one line, without markup."""
    line = " ".join(name.replace("_", " ").split())
    line = line if len(line) <= longest else line[: longest - 1] + "…"
    return line.replace("$", r"\$")
