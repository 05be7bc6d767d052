"""Plots of concepts in video."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

from xplique_dirpairs.core.types import Array
from xplique_dirpairs.plots.layout import dress, plain
from xplique_dirpairs.plots.palette import concept_colors
from xplique_dirpairs.plots.style import HATCHES, MARKERS, different, most_rows, some_of, styled

#: Height of a row, in inches.
_ROW = 0.24


@styled
def plot_shares(
    title: str, names: Sequence[str], shares: Mapping[str, Array], errors: Mapping[str, Array]
) -> Figure:
    """Draw the shares of each unit as a stacked bar, with the error of each share.

    Parameters
    ----------
    title : str
        Title of the figure.
    names : sequence of I str
        Names of the units.
    shares : mapping of str to ndarray of shape (I,)
        Shares by name. Negative ones, which are errors of the estimate, have no length; a unit of
        NaN has no bar.
    errors : mapping of str to ndarray of shape (I,)
        Standard error of each share.

    Returns
    -------
    figure : Figure
        As many units as fit have a row, the first ones; the title says so.
    """
    number = min(len(names), most_rows(_ROW))
    note = some_of(number, len(names), "concepts")
    rows = np.arange(number)
    figure, ax = plt.subplots(figsize=(7.2, 1.6 + _ROW * number), layout="constrained")
    left = np.zeros(number)
    looks = zip(concept_colors(len(shares)), different(HATCHES, len(shares)), strict=True)
    for (color, hatch), (label, values) in zip(looks, shares.items(), strict=True):
        width = np.clip(np.nan_to_num(values[:number]), 0.0, None)
        style: Any = {"color": color, "hatch": hatch, "edgecolor": "white", "linewidth": 0.0}
        ax.barh(rows, width, left=left, height=0.7, label=label, **style)
        error = errors[label][:number]
        known = np.isfinite(error) & (width > 0)
        ax.errorbar(
            (left + width)[known], rows[known], xerr=error[known], fmt="none",
            ecolor="0.15", elinewidth=0.9, capsize=0,
        )  # fmt: skip
        left = left + width
    ax.set_yticks(rows, [plain(name) for name in names[:number]])
    ax.set_ylim(number - 0.4, -0.6)
    ax.set_xlim(0.0, max(1.0, float(left.max(initial=0.0)) + 0.05))
    ax.set_xlabel("share of the variance over clips (line: standard error)")
    figure.legend(loc="outside upper right", ncols=len(shares))
    dress(ax, "; ".join(part for part in (plain(title, 80), note) if part))
    return figure


@styled
def plot_removal(
    title: str, removed: Array, performance: Mapping[str, Array], areas: Mapping[str, float]
) -> Figure:
    """Draw the performance of a network as concepts are removed in several orders.

    Parameters
    ----------
    title : str
        Title of the figure.
    removed : ndarray of shape (n,)
        Share of the concepts that are removed.
    performance : mapping of str to ndarray of shape (n,)
        Performance by the name of the order.
    areas : mapping of str to float
        Area under each curve.

    Returns
    -------
    figure : Figure
    """
    figure, ax = plt.subplots(figsize=(5.2, 3.8), layout="constrained")
    number = len(performance)
    looks = zip(concept_colors(number), different(MARKERS, number), strict=True)
    for (color, mark), (label, values) in zip(looks, performance.items(), strict=True):
        style: Any = {"color": color, "marker": mark, "markersize": 4}
        ax.plot(removed, values, **style, label=f"{label}: {areas[label]:.2f}")
    ax.set_xlim(0.0, 1.0)
    ax.set_xlabel("share of the concepts that are removed")
    ax.set_ylabel("performance")
    ax.legend(title="area under the curve")
    dress(ax, title)
    return figure
