"""The style sheet of all figures: sizes of texts and of figures, spines, and marks beside colours.

Functions that return a figure are decorated with `styled`: within them matplotlib's settings are
those of `SHEET`, and afterwards those of the user again. A colour is never the only difference
between two lines, areas or points, so that figures can be read in greyscale.
"""

from __future__ import annotations

from itertools import cycle, islice
from typing import Any

from matplotlib import rc_context

#: Sizes of texts in points: the title of a figure, of a panel, labels, labels of ticks and notes,
#: and the smallest size of all.
TITLE, HEADING, LABEL, SMALL, SMALLEST = 12.0, 10.0, 9.0, 8.0, 7.0
#: Greys of texts and lines that are not black, and of notes.
SOFT, NOTE = "0.25", "0.4"
#: Maximum height of the rows of a figure, in inches: see `most_rows`.
TALLEST = 26.0

#: Markers of points, dashes of lines and hatches of areas, for things that differ in colour.
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "p")
DASHES = ("-", "--", ":", "-.")
HATCHES = ("", "////", "....", "xxxx", "----", "++++")

#: Settings of matplotlib in which all figures are drawn.
SHEET: dict[Any, Any] = {
    "font.size": LABEL,
    "figure.titlesize": TITLE,
    "axes.titlesize": HEADING,
    "axes.labelsize": LABEL,
    "xtick.labelsize": SMALL,
    "ytick.labelsize": SMALL,
    "legend.fontsize": SMALL,
    "legend.title_fontsize": SMALL,
    "legend.frameon": False,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": False,
    "hatch.linewidth": 0.6,
    "hatch.color": "white",
}

#: Decorator of functions that return a figure.
styled = rc_context(SHEET)


def most_rows(height: float) -> int:
    """Return how many rows of a height in inches a figure holds, at least one."""
    return max(1, int(TALLEST / height))


def some_of(shown: int, number: int, things: str) -> str:
    """Return a note that only the first ``shown`` are drawn, or nothing if all are."""
    return f"the first {shown} of {number} {things}" if shown < number else ""


def different(marks: tuple[str, ...], number: int) -> list[str]:
    """Return ``number`` marks, of which neighbours differ."""
    return list(islice(cycle(marks), number))
