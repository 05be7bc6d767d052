"""How many concepts, at a glance: sorted skewnesses, and fits with several numbers."""

from __future__ import annotations

from textwrap import fill
from typing import TYPE_CHECKING

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, NullFormatter, StrMethodFormatter

from xplique_dirpairs.pairs import WELL_CONDITIONED
from xplique_dirpairs.plots.palette import concept_colors

if TYPE_CHECKING:
    from xplique_dirpairs.learning.number_of_concepts import ConceptScan, SkewnessCount

_BLUE, _ORANGE = concept_colors(2)
_MARK, _GUIDE = "0.9", "0.55"

#: Title of a panel → {attribute of `ScannedNumber`: its name in the legend}.
_PANELS = {
    "found again (cosine)": {
        "signal_stability": "signal vectors",
        "filter_stability": "filters",
    },
    "occupancy (of a share 1/I)": {"occupancy_median": "median", "occupancy_min": "least"},
    "in a fit": {"dead": "dead concepts", "duplicates": "duplicate pairs"},
    "sparsity L^s (of log2 I bits)": {"sparsity": ""},
    "objective": {"objective": ""},
    "condition number": {"condition_number": ""},
}


def plot_number_of_concepts(
    scan: ConceptScan | None = None, count: SkewnessCount | None = None, title: str = ""
) -> Figure:
    """A panel for each measure of a scan, with the suggested number marked, beside the skewnesses.

    Parameters
    ----------
    scan
        From `scan_number_of_concepts`.
    count
        From `count_skewed_sources`. At least one of the two.

    Raises
    ------
    ValueError
        If neither is given.
    """
    if scan is None and count is None:
        raise ValueError("give a scan, a count, or both: there is nothing to draw")
    wide = 1.5 if count is not None else 0.0
    columns = 3 if scan is not None else 0
    figure = plt.figure(figsize=(3.1 * (columns + wide), 5.4), layout="constrained")
    widths = [wide] * (count is not None) + [1.0] * columns
    grid = figure.add_gridspec(2, len(widths), width_ratios=widths)
    said = [title] if title else []
    if count is not None:
        _draw_skewnesses(figure.add_subplot(grid[:, 0]), count)
        said.append(_verdict("skewness", count.number, count.reason))
    if scan is not None:
        first = len(widths) - columns
        for place, (name, lines) in enumerate(_PANELS.items()):
            row, column = divmod(place, columns)
            ax = figure.add_subplot(grid[row, first + column])
            _draw_panel(ax, scan, name, lines)
        said.append(_verdict("scan", scan.suggested, scan.reason))
    characters = int(13 * figure.get_figwidth())
    figure.suptitle("\n".join(fill(line, characters) for line in said), fontsize=11)
    return figure


def _verdict(source: str, number: int | None, reason: str) -> str:
    return f"{source}: {'cannot tell' if number is None else number} ({reason})"


def _draw_skewnesses(ax: Axes, count: SkewnessCount) -> None:
    ranks = np.arange(1, len(count.skewnesses) + 1)
    noise = np.maximum(4.0 * count.errors, 1e-6)
    ax.fill_between(ranks, 1e-6, noise, color=_MARK, linewidth=0, label="4 standard errors")
    ax.plot(ranks, count.skewnesses, "o-", color=_BLUE, markersize=3.5, linewidth=1.0)
    if np.isfinite(count.threshold):
        ax.axhline(count.threshold, color=_ORANGE, linewidth=1.2, label="middle of the gap")
    if count.number is not None:
        ax.axvline(count.number + 0.5, color=_ORANGE, linewidth=1.2, linestyle="--")
        ax.annotate(
            str(count.number), (count.number + 0.5, 0.99), xycoords=ax.get_xaxis_transform(),
            xytext=(4, 0), textcoords="offset points", va="top", color=_ORANGE, fontweight="bold",
        )  # fmt: skip
    if count.skewnesses.size:
        ax.set_yscale("log")
        ax.set_ylim(0.5 * max(count.skewnesses.min(), 1e-3), 1.6 * count.skewnesses.max())
        ax.legend(frameon=False, fontsize=8, loc="lower left")
    _dress(ax, "skewness, sorted")
    ax.set_xlabel("independent direction")


def _draw_panel(ax: Axes, scan: ConceptScan, name: str, lines: dict[str, str]) -> None:
    numbers = [entry.number for entry in scan.numbers]
    if scan.suggested is not None:
        ax.axvline(scan.suggested, color=_MARK, linewidth=9, zorder=0)
    for color, (attribute, label) in zip((_BLUE, _ORANGE), lines.items(), strict=False):
        values = np.array([getattr(entry, attribute) for entry in scan.numbers], dtype=float)
        drawn = np.isfinite(values)  # the line bridges a number that failed
        ax.plot(
            np.array(numbers)[drawn], values[drawn], "o-",
            color=color, markersize=4, linewidth=1.6, label=label,
        )  # fmt: skip
    for number in [entry.number for entry in scan.numbers if entry.error]:
        ax.text(
            number, 0.02, "failed", transform=ax.get_xaxis_transform(),
            rotation=90, ha="center", va="bottom", fontsize=8, color=_GUIDE,
        )  # fmt: skip
    ax.set_xlim(min(numbers) - 0.6, max(numbers) + 0.6)
    if "found again" in name:
        ax.set_ylim(0.0, 1.04)
    if "condition" in name:
        ax.set_yscale("log")
        ax.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
        ax.yaxis.set_minor_formatter(NullFormatter())
        ax.axhline(WELL_CONDITIONED, color=_GUIDE, linewidth=1.0, linestyle=":")
    if "in a fit" in name:
        ax.set_ylim(-0.05, max(1.0, 1.05 * ax.get_ylim()[1]))
    if "occupancy" in name:
        ax.set_ylim(bottom=0.0)
        ax.axhline(1.0, color=_GUIDE, linewidth=1.0, linestyle=":")
    if len(lines) > 1:
        ax.legend(frameon=False, fontsize=8)
    _dress(ax, name)
    if len(numbers) < 12:
        ax.set_xticks(numbers)
    ax.set_xlabel("number of concepts")


def _dress(ax: Axes, title: str) -> None:
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.set_title(title, fontsize=10)
    ax.tick_params(labelsize=8)
    ax.xaxis.label.set_fontsize(9)
    ax.spines[["top", "right"]].set_visible(False)
