"""Influence at a glance: classes × directions, and how many classes each direction moves.

Red helps, blue hurts; what is significant fills its cell, the rest is a small square.
"""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import PolyCollection
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import ArrayLike, NDArray

_COLORS = "RdBu_r"
_HELPS, _HURTS = (0.70, 0.09, 0.17), (0.13, 0.40, 0.67)
_NO_IMAGES = "0.88"
#: Side of a cell in inches: at best, and at least.
_CELL, _SMALLEST = 0.3, 0.06
#: Inches that the cells of a diagram may take, across and down.
_ROOM = (13.0, 20.0)
#: Inches that the words below the colours take.
_CAPTION = 4.2
#: Half of the side of a square, in cells.
_FULL, _SMALL = 0.46, 0.13
#: Points that a label needs between its neighbours.
_LABEL = 5.0
_LONGEST_NAME = 24
#: What the bars count, to the left and to the right.
_AXES = {
    "directions": "← classes it hurts    classes it helps →",
    "classes": "← directions that hurt it    directions that help it →",
}


def plot_influence(
    values: ArrayLike,
    significant: ArrayLike,
    class_names: Sequence[str] | None = None,
    concept_names: Sequence[str] | None = None,
    *,
    label: str = "SC",
    limit: float | None = 1.0,
    title: str = "",
) -> Figure:
    """Diagram of classes (rows) × directions (columns).

    Parameters
    ----------
    values : (I, K)
        Signed: SC, or the mean Δ. Classes that are NaN throughout are left out, and counted.
    significant : (I, K) bool
        Which entries fill their cell.
    class_names : K of them
        None: their numbers.
    concept_names : I of them
    label
        What the colours mean.
    limit
        Value of the strongest colours; None: the largest there is.
    title

    Raises
    ------
    ValueError
        If shapes do not fit, or no class has a value.
    """
    array, marked, rows, columns = _checked(values, significant, class_names, concept_names)
    shown = ~np.isnan(array).all(axis=0)
    if not shown.any():
        raise ValueError("values are NaN throughout: no class has images")
    left_out = int((~shown).sum())
    array, marked = array[:, shown].T, marked[:, shown].T
    rows = [name for name, kept in zip(rows, shown, strict=True) if kept]
    limit = float(np.nanmax(np.abs(array))) or 1.0 if limit is None else limit

    count, across = array.shape
    cell = max(_SMALLEST, min(_CELL, _ROOM[0] / across, _ROOM[1] / count))
    named = 72 * cell >= _LABEL
    longest = max(map(len, rows)) if named else 0
    left = 0.55 + 0.085 * longest
    width, height = max(2.2, cell * across), cell * count
    below = (0.4 + 0.075 * max(map(len, columns)) if named else 0.4) + 0.85
    above = 0.25 + (0.3 if title else 0.0) + (0.2 if left_out else 0.0)
    figure = plt.figure(figsize=(left + max(width, _CAPTION) + 0.3, below + height + above))
    w, h = figure.get_size_inches()
    ax = figure.add_axes((left / w, below / h, cell * across / w, height / h))
    colored = _draw_cells(ax, array, marked, limit, named)
    _name_cells(ax, rows, columns, cell, named)
    bar = figure.add_axes((left / w, 0.42 / h, min(2.2, width) / w, 0.12 / h))
    figure.colorbar(colored, cax=bar, orientation="horizontal")
    bar.tick_params(labelsize=8)
    meaning = f"{label}: red helps the class, blue hurts it. Large: significant; small: not."
    bar.set_xlabel(meaning, fontsize=8, loc="left")
    said = [title] if title else []
    if left_out:
        said.append(f"classes without images, left out: {left_out}")
    if said:
        figure.suptitle(
            "\n".join(said), fontsize=10, x=left / w, y=1 - 0.06 / h, ha="left", va="top"
        )
    return figure


def _draw_cells(
    ax: Axes, values: NDArray, marked: NDArray, limit: float, outlined: bool
) -> PolyCollection:
    """One square for each value, large where it is marked; (rows, columns) both."""
    row, column = np.nonzero(~np.isnan(values))
    half = np.where(marked[row, column], _FULL, _SMALL)
    corners = np.array([(-1, -1), (1, -1), (1, 1), (-1, 1)])
    centres = np.stack([column, row], axis=1)[:, None]
    squares = PolyCollection(
        list(centres + half[:, None, None] * corners),
        array=values[row, column],
        cmap=_COLORS,
        norm=Normalize(-limit, limit, clip=True),
        edgecolors=["0.35" if on else "0.6" for on in marked[row, column]],
        linewidths=0.3 if outlined else 0.0,
    )
    ax.add_collection(squares)
    empty = np.argwhere(np.isnan(values))[:, None, ::-1] + 0.5 * corners
    ax.add_collection(PolyCollection(list(empty), facecolors=_NO_IMAGES, zorder=0))
    ax.set_xlim(-0.5, values.shape[1] - 0.5)
    ax.set_ylim(values.shape[0] - 0.5, -0.5)
    return squares


def _name_cells(ax: Axes, rows: list[str], columns: list[str], cell: float, named: bool) -> None:
    size = min(9.0, 60 * cell)
    if named:
        ax.set_yticks(range(len(rows)), rows, fontsize=size)
        upright = all(len(name) * 0.62 * size <= 72 * cell for name in columns)
        ax.set_xticks(range(len(columns)), columns, fontsize=size, rotation=0 if upright else 90)
    else:
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
        ax.yaxis.set_major_locator(MaxNLocator(integer=True))
    ax.set_xlabel("direction", fontsize=9)
    ax.set_ylabel("class", fontsize=9)
    ax.tick_params(length=0 if named else 3)
    ax.spines[:].set_color("0.8")


def plot_influence_counts(
    scores: ArrayLike,
    significant: ArrayLike,
    class_names: Sequence[str] | None = None,
    concept_names: Sequence[str] | None = None,
    *,
    at_most: int = 40,
    title: str = "",
) -> Figure:
    """Bars: classes that a direction helps and hurts; directions that help and hurt a class.

    Parameters
    ----------
    scores : (I, K)
        SC, or any value whose sign tells.
    significant : (I, K) bool
        Which entries count.
    class_names, concept_names
        None: their numbers.
    at_most
        Bars in a panel, the longest first; how many are left out is said.
    title

    Raises
    ------
    ValueError
        If shapes do not fit.
    """
    array, marked, classes, concepts = _checked(scores, significant, class_names, concept_names)
    with np.errstate(invalid="ignore"):
        helps, hurts = marked & (array > 0), marked & (array < 0)
    panels = (
        ("directions", "classes", concepts, helps.sum(axis=1), hurts.sum(axis=1)),
        ("classes", "directions", classes, helps.sum(axis=0), hurts.sum(axis=0)),
    )
    bars = [max(1, min(at_most, int(((up + down) > 0).sum()))) for *_, up, down in panels]
    figure, axes = plt.subplots(
        1, 2, figsize=(11.0, 0.9 + max(1.4, 0.2 * max(bars))), layout="constrained"
    )
    for ax, (what, of, names, up, down), count in zip(axes, panels, bars, strict=True):
        order = np.argsort(-(up + down), kind="stable")[:count]
        some = [k for k in order if up[k] + down[k]]
        places = np.arange(len(some))
        ax.barh(places, up[some], color=_HELPS, height=0.75, label="helps")
        ax.barh(places, -down[some], color=_HURTS, height=0.75, label="hurts")
        ax.axvline(0.0, color="0.3", linewidth=0.8)
        ax.set_yticks(places, [names[k] for k in some], fontsize=8)
        ax.set_ylim(max(bars) - 0.4, -0.6)
        most = max(1, int(up.max(initial=0)), int(down.max(initial=0)))
        ax.set_xlim(-1.05 * most, 1.05 * most)
        ax.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        ax.xaxis.set_major_formatter(lambda value, _: f"{abs(value):g}")
        ax.set_xlabel(_AXES[what], fontsize=9)
        ax.spines[["top", "right", "left"]].set_visible(False)
        ax.tick_params(axis="y", length=0)
        ax.tick_params(axis="x", labelsize=8)
        _title(ax, what, of, int(((up + down) > 0).sum()), len(names), len(some))
    if title:
        figure.suptitle(title, fontsize=11)
    return figure


def _title(ax: Axes, what: str, of: str, with_any: int, all_: int, drawn: int) -> None:
    shown = f", the first {drawn} shown" if drawn < with_any else ""
    verb = "move" if what == "directions" else "are moved by"
    ax.set_title(f"{with_any} of {all_} {what} {verb} {of}{shown}", fontsize=10)


def _checked(
    values: ArrayLike,
    significant: ArrayLike,
    class_names: Sequence[str] | None,
    concept_names: Sequence[str] | None,
) -> tuple[NDArray, NDArray, list[str], list[str]]:
    """Values, marks, names of classes, names of concepts."""
    array, marked = np.asarray(values, float), np.asarray(significant, bool)
    if array.ndim != 2 or array.shape != marked.shape or 0 in array.shape:
        raise ValueError(
            "values and significant must both be (directions, classes), but have shapes "
            f"{array.shape} and {marked.shape}"
        )
    concepts, classes = array.shape
    return (
        array,
        marked,
        _names("class_names", class_names, classes),
        _names("concept_names", concept_names, concepts),
    )


def _names(what: str, names: Sequence[str] | None, count: int) -> list[str]:
    if names is None:
        return [str(k) for k in range(count)]
    if len(names) != count:
        raise ValueError(f"{what} must be {count} names, not {len(names)}")
    return [_short(str(name)) for name in names]


def _short(name: str) -> str:
    """A name on one line, without markup."""
    line = " ".join(name.split())
    line = line if len(line) <= _LONGEST_NAME else line[: _LONGEST_NAME - 1] + "…"
    return line.replace("$", r"\$")
