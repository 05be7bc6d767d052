"""Plot of how concepts depend on the place in the image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

from xplique_dirpairs.core.types import Array
from xplique_dirpairs.plots.layout import RowGrid, plain, wrapped
from xplique_dirpairs.plots.palette import concept_colors
from xplique_dirpairs.plots.style import MARKERS, different, most_rows, some_of, styled

#: Height of a row, and widths of the columns: name, map, shares, verdict; in inches.
_ROW, _WIDTHS = 0.62, (1.1, 0.62, 3.4, 1.7)


@styled
def plot_position(
    title: str,
    details: str,
    names: Sequence[str],
    profiles: Array,
    shares: Mapping[str, tuple[Array, Array]],
    verdicts: Sequence[str],
) -> Figure:
    """Draw a row for each concept: its mean rolled map, shares with intervals, and the verdict.

    Parameters
    ----------
    title : str
        Title of the figure.
    details : str
        Line below the title.
    names : sequence of k str
        Names of the concepts.
    profiles : ndarray of shape (k, H, W)
        Mean map of each concept over images without their places.
    shares : mapping of str to (ndarray of shape (k,), ndarray of shape (2, k))
        For each measure, the share of each concept and the ends of its interval; NaN is left out.
    verdicts : sequence of k str
        Verdict on each concept.

    Returns
    -------
    figure : Figure
        As many concepts as fit have a row, the first ones; the line below the title says so.
    """
    rows = min(len(names), most_rows(_ROW + 0.07))
    note = some_of(rows, len(names), "concepts")
    details = "; ".join(part for part in (plain(details, 115 - len(note)), note) if part)
    grid = RowGrid([_ROW] * rows, _WIDTHS, above=0.98, below=0.65)
    grid.title(plain(title, 80), details)
    ax = grid.span(2, "", "share of the variance that comes from the place")
    grid.heading(1, "mean map")
    grid.heading(3, "verdict")
    colors = concept_colors(len(shares))
    offsets = np.linspace(-0.18, 0.18, len(shares))
    middles = np.asarray(grid.middles)
    marks = different(MARKERS, len(shares))
    each = zip(offsets, colors, marks, shares.items(), strict=True)
    for offset, color, mark, (label, (values, ends)) in each:
        places = middles + offset
        ax.hlines(places, *ends[:, :rows], color=color, linewidth=1.6)
        style: Any = {"color": color, "marker": mark, "markersize": 5, "linestyle": ""}
        ax.plot(values[:rows], places, label=label, **style)
    for place in grid.tops[1:]:
        ax.axhline(place - 0.035, color="0.92", linewidth=0.8, zorder=0)
    ax.set_xlim(-0.03, 1.03)
    ax.legend(loc="lower center", ncols=3, bbox_to_anchor=(0.5, 1.0))
    left, right = grid.words(0), grid.words(3)
    cells = zip(names[:rows], profiles, verdicts, strict=False)
    for k, (name, profile, verdict) in enumerate(cells):
        left.text(1.0, grid.middles[k], wrapped(name), ha="right", va="center")
        right.text(0.05, grid.middles[k], wrapped(verdict, 24), ha="left", va="center")
        cell = grid.cell(k, 1)
        cell.imshow(profile, cmap=plt.get_cmap("magma"), interpolation="nearest")
        cell.set_xticks([])
        cell.set_yticks([])
        cell.spines[:].set_visible(False)
    return grid.figure
