"""Plots of the course of a fit, and of the choice of the number of concepts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import cycle
from textwrap import fill
from typing import Any, NamedTuple

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator, NullFormatter, StrMethodFormatter

from xplique_dirpairs.core.types import Array
from xplique_dirpairs.pairs import WELL_CONDITIONED
from xplique_dirpairs.plots.layout import dress
from xplique_dirpairs.plots.palette import concept_colors
from xplique_dirpairs.plots.style import DASHES, HEADING, SMALL, styled

_BLUE, _ORANGE = concept_colors(2)
_MARK, _GUIDE = "0.9", "0.55"

#: Names of the losses, by their symbols.
LOSS_NAMES = {
    "s": "sparsity",
    "sb": "sparsity bound",
    "ma": "maximum activation",
    "mm": "maximum margin",
    "ic": "inactive classifier",
    "eac": "excessively active classifier",
    "fso": "filter-signal orthogonality",
    "uur": "unconstrained uncertainty region",
    "cur": "constrained uncertainty region",
    "fired": "fired uncertainty region",
    "objective": "weighted sum plus penalty",
}

#: For each panel title, the columns of the scan that are drawn and their names in the legend.
_PANELS = {
    "stability (cosine)": {"signal_stability": "signal vectors", "filter_stability": "filters"},
    "occupancy (relative to 1/I)": {"occupancy_median": "median", "occupancy_min": "minimum"},
    "number in a fit": {"dead": "dead concepts", "duplicates": "duplicate pairs"},
    "sparsity L^s (relative to log2 I)": {"sparsity": ""},
    "objective": {"objective": ""},
    "condition number": {"condition_number": ""},
}


@styled
def plot_learning(stages: Mapping[str, Mapping[str, Sequence[float]]], title: str) -> Figure:
    """Draw a panel for each stage, with a line for each loss and constraint.

    Parameters
    ----------
    stages : mapping of str to mapping of str to sequence of float
        For each stage, the value of each loss after every epoch, as in `History.stages`.
    title : str
        Title of the figure.

    Returns
    -------
    figure : Figure
    """
    names = sorted({name for losses in stages.values() for name in losses} - {"objective"})
    # Neighbours in the list differ in their dashes as well as in their colours.
    looks = zip(concept_colors(len(names)), cycle(DASHES), strict=False)
    styles: dict[str, Any] = {
        name: {"color": color, "linestyle": dashes}
        for name, (color, dashes) in zip(names, looks, strict=True)
    }
    styles["objective"] = {"color": "black", "linestyle": "-"}
    size = (max(5.2 * len(stages), 8.0), 4.8)
    figure, axes = plt.subplots(1, len(stages), figsize=size, squeeze=False, layout="constrained")
    figure.suptitle(title)
    for ax, (stage, losses) in zip(axes[0], stages.items(), strict=True):
        for name, values in losses.items():
            ax.plot(range(1, len(values) + 1), values, **styles[name], linewidth=1.8)
        ax.set_yscale("symlog", linthresh=1.0)
        ax.set_title(f"stage {stage}")
        ax.set_xlabel("epoch")
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes[0, 0].set_ylabel("value (logarithmic beyond ±1)")
    handles = [
        Line2D([], [], **style, linewidth=2.0, label=f"{name}: {LOSS_NAMES.get(name, '')}")
        for name, style in styles.items()
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=3, handlelength=3.5)
    return figure


class SkewnessCurve(NamedTuple):
    """Skewnesses along independent directions, and the number of concepts that they suggest.

    Attributes
    ----------
    values : ndarray of shape (A,)
        Skewnesses, largest first.
    errors : ndarray of shape (A,)
        Standard errors of the skewnesses.
    threshold : float
        Middle of the gap between large and small skewnesses; NaN if there is no gap.
    number : int or None
        Suggested number of concepts; None if there is no gap.
    """

    values: Array
    errors: Array
    threshold: float
    number: int | None


@styled
def plot_number_of_concepts(
    rows: Sequence[Mapping[str, Any]] = (),
    suggested: int | None = None,
    skewnesses: SkewnessCurve | None = None,
    lines: Sequence[str] = (),
) -> Figure:
    """Draw a panel for each measure of a scan over numbers of concepts, and the sorted skewnesses.

    Parameters
    ----------
    rows : sequence of mapping of str to object, default=()
        Measures for each number of concepts: see `ConceptScan.rows`.
    suggested : int, optional
        Number of concepts that is marked in every panel of the scan.
    skewnesses : SkewnessCurve, optional
        Skewnesses, drawn in a panel of their own.
    lines : sequence of str, default=()
        Lines of the title.

    Returns
    -------
    figure : Figure
    """
    wide = 1.5 if skewnesses is not None else 0.0
    columns = 3 if rows else 0
    figure = plt.figure(figsize=(3.1 * (columns + wide), 5.4), layout="constrained")
    widths = [wide] * (skewnesses is not None) + [1.0] * columns
    grid = figure.add_gridspec(2, len(widths), width_ratios=widths)
    if skewnesses is not None:
        _draw_skewnesses(figure.add_subplot(grid[:, 0]), skewnesses)
    for place, (name, names) in enumerate(_PANELS.items() if rows else ()):
        row, column = divmod(place, columns)
        ax = figure.add_subplot(grid[row, len(widths) - columns + column])
        _draw_panel(ax, rows, suggested, name, names)
    characters = int(13 * figure.get_figwidth())
    figure.suptitle("\n".join(fill(line, characters) for line in lines), fontsize=HEADING)
    return figure


def _draw_skewnesses(ax: Axes, curve: SkewnessCurve) -> None:
    """Draw the sorted skewnesses, their noise level, and the gap if there is one."""
    values, errors, threshold, number = curve
    ranks = np.arange(1, len(values) + 1)
    noise = np.maximum(4.0 * errors, 1e-6)
    ax.fill_between(ranks, 1e-6, noise, color=_MARK, linewidth=0, label="4 standard errors")
    ax.plot(ranks, values, "o-", color=_BLUE, markersize=3.5, linewidth=1.0)
    if np.isfinite(threshold):
        ax.axhline(threshold, color=_ORANGE, linewidth=1.2, label="middle of the gap")
    if number is not None:
        ax.axvline(number + 0.5, color=_ORANGE, linewidth=1.2, linestyle="--")
        ax.annotate(
            str(number), (number + 0.5, 0.99), xycoords=ax.get_xaxis_transform(),
            xytext=(4, 0), textcoords="offset points", va="top", color=_ORANGE, fontweight="bold",
        )  # fmt: skip
    if values.size:
        ax.set_yscale("log")
        ax.set_ylim(0.5 * max(values.min(), 1e-3), 1.6 * values.max())
        ax.legend(loc="lower left")
    _dress(ax, "skewness, sorted", "independent direction")


def _draw_panel(
    ax: Axes,
    rows: Sequence[Mapping[str, Any]],
    suggested: int | None,
    title: str,
    names: Mapping[str, str],
) -> None:
    """Draw the columns ``names`` of a scan against the number of concepts."""
    numbers = np.array([row["number"] for row in rows])
    if suggested is not None:
        ax.axvline(suggested, color=_MARK, linewidth=9, zorder=0)
    looks = ((_BLUE, "o"), (_ORANGE, "s"))
    for (color, mark), (key, label) in zip(looks, names.items(), strict=False):
        values = np.array([row[key] for row in rows], dtype=float)
        drawn = np.isfinite(values)  # the line skips numbers whose fit failed
        style: Any = {"color": color, "marker": mark, "markersize": 4, "linewidth": 1.6}
        ax.plot(numbers[drawn], values[drawn], label=label, **style)
    for row in rows:
        if row["error"]:
            ax.text(
                row["number"], 0.02, "failed", transform=ax.get_xaxis_transform(),
                rotation=90, ha="center", va="bottom", fontsize=SMALL, color=_GUIDE,
            )  # fmt: skip
    ax.set_xlim(numbers.min() - 0.6, numbers.max() + 0.6)
    if "signal_stability" in names:
        ax.set_ylim(0.0, 1.04)
    if "condition_number" in names:
        ax.set_yscale("log")
        ax.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
        ax.yaxis.set_minor_formatter(NullFormatter())
        ax.axhline(WELL_CONDITIONED, color=_GUIDE, linewidth=1.0, linestyle=":")
    if "dead" in names:
        ax.set_ylim(-0.05, max(1.0, 1.05 * ax.get_ylim()[1]))
        ax.yaxis.set_major_locator(MaxNLocator(5, integer=True))
    if "occupancy_median" in names:
        ax.set_ylim(bottom=0.0)
        ax.axhline(1.0, color=_GUIDE, linewidth=1.0, linestyle=":")
    _dress(ax, title, "number of concepts")
    if len(names) > 1:  # above the lines, which may be anywhere
        ax.set_title(title, pad=20)
        ax.legend(loc="lower center", bbox_to_anchor=(0.5, 0.99), ncols=2)
    if len(numbers) < 12:
        ax.set_xticks(numbers)


def _dress(ax: Axes, title: str, label: str) -> None:
    """Set title and label of axes whose x values are integers."""
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.set_xlabel(label)
    dress(ax, title)
