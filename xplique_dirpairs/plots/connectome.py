"""Plot of a connectome: layers from left to right, concepts as crops, signed edges."""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.offsetbox import AnnotationBbox, OffsetImage
from matplotlib.patches import Rectangle

from xplique_dirpairs.core.types import Array
from xplique_dirpairs.plots.layout import plain
from xplique_dirpairs.plots.palette import GREY, LOWERS, RAISES, concept_colors
from xplique_dirpairs.plots.style import HATCHES, LABEL, SMALLEST, different, most_rows, styled

#: Width of a column and height of a row, in inches.
_COLUMN, _ROW = 2.6, 1.15
#: Side of a crop, in inches.
_CROP = 0.8
#: Width of the widest edge, in points.
_WIDEST = 5.0
#: Maximum number of concepts in a column of a figure of the usual height.
MOST_NODES = most_rows(_ROW)
#: Maximum number of panels of a diagnosis side by side.
_PANELS = 6


@styled
def plot_suppression(
    names: Sequence[str],
    predicted: Sequence[Array],
    measured: Sequence[Array],
    correlations: Sequence[float],
) -> Figure:
    """Draw measured against predicted changes, a panel for each layer.

    Parameters
    ----------
    names : sequence of L str
        Names of the layers.
    predicted, measured : sequence of L ndarray of shape (I, J)
        Changes of the concepts of the next layer, in their spreads.
    correlations : sequence of L float
        Their correlation.

    Returns
    -------
    figure : Figure
    """
    count = len(names)
    figure, axes = plt.subplots(
        1, count, figsize=(3.2 * count, 3.2), layout="constrained", squeeze=False
    )
    for ax, name, x, y, r in zip(axes[0], names, predicted, measured, correlations, strict=True):
        ends = np.nanmin([x, y]), np.nanmax([x, y])
        ax.plot(ends, ends, color=GREY, linewidth=0.8, linestyle=":")
        ax.scatter(x.ravel(), y.ravel(), s=8, color=RAISES, alpha=0.5)
        ax.set(xlabel="predicted change", ylabel="measured change")
        ax.set_title(f"{plain(name)}: r = {r:.2f}", fontsize=LABEL)
    return figure


@styled
def plot_connectome(
    headings: Sequence[str],
    columns: Sequence[Sequence[tuple[str, Array | None]]],
    edges: Sequence[Array],
) -> Figure:
    """Draw concepts in columns, one for each layer, and edges between neighbouring columns.

    Parameters
    ----------
    headings : sequence of str
        Heading of each column.
    columns : sequence of sequence of (str, ndarray or None)
        Name and crop (patch, patch, C) of each concept; None: the name alone is drawn, as for
        classes.
    edges : sequence of ndarray of shape (I, J)
        Effects from the concepts of each column to those of the next; 0 where there is no edge.

    Returns
    -------
    figure : Figure
        Edges that raise and that lower have different colours and line styles; their width is
        proportional to the effect, as a share of the largest between the two columns.
    """
    rows = max(1, *(len(column) for column in columns))
    size = _COLUMN * len(columns), _ROW * rows + 0.8
    figure, ax = plt.subplots(figsize=size, layout="constrained")
    places = [np.linspace(0, rows, len(column) + 1)[:-1] + rows / (2 * max(1, len(column)))
              for column in columns]  # fmt: skip
    for n, matrix in enumerate(edges):
        largest = np.abs(matrix).max(initial=0.0)
        for i, j in zip(*np.nonzero(matrix), strict=True):
            raises = matrix[i, j] > 0
            width = _WIDEST * abs(matrix[i, j]) / largest
            ax.plot(
                [n + 0.16, n + 0.84],
                [places[n][i], places[n + 1][j]],
                color=RAISES if raises else LOWERS,
                linestyle="-" if raises else "--",
                linewidth=max(0.4, width),
                alpha=0.35 + 0.5 * width / _WIDEST,
                zorder=1,
            )
    for n, (heading, column) in enumerate(zip(headings, columns, strict=True)):
        ax.text(
            n, -0.25, plain(heading), ha="center", va="bottom", fontweight="bold", fontsize=LABEL
        )
        for (name, crop), y in zip(column, places[n], strict=True):
            if crop is None:
                # Names begin where the edges end.
                ax.text(n - 0.14, y, plain(name, 22), ha="left", va="center", fontsize=LABEL)
                continue
            picture = np.repeat(crop, 3, axis=-1) if crop.shape[-1] == 1 else crop[..., :3]
            image = OffsetImage(picture, zoom=72 * _CROP / max(crop.shape[0], 1))
            image.image.axes = ax
            ax.add_artist(
                AnnotationBbox(image, (n, y), frameon=True, pad=0.1, bboxprops={"edgecolor": GREY})
            )
            ax.text(n, y + 0.46, plain(name), ha="center", va="top", fontsize=SMALLEST)
    for color, style, label in ((RAISES, "-", "raises"), (LOWERS, "--", "lowers")):
        ax.plot([], [], color=color, linestyle=style, label=label)
    ax.legend(loc="lower right", ncols=2, bbox_to_anchor=(1.0, -0.06))
    ax.set(xlim=(-0.5, len(columns) - 0.5), ylim=(rows + 0.1, -0.5))
    ax.set_axis_off()
    return figure


@styled
def plot_diagnosis(
    picture: Array, maps: Sequence[Array], layers: Sequence[str], names: Sequence[str]
) -> Figure:
    """Draw an image for each layer, its parts coloured and hatched by the class they look like.

    Parameters
    ----------
    picture : ndarray of shape (height, width, 3)
        The image.
    maps : sequence of L ndarray of shape (h, w), int
        Index of a class for each cell; −1 for none.
    layers : sequence of L str
        Names of the layers.
    names : sequence of G str
        Names of the classes.

    Returns
    -------
    figure : Figure
    """
    colors, hatches = concept_colors(len(names)), different(HATCHES, len(names))
    count = len(layers)
    columns = min(count + 1, _PANELS)
    rows = ceil((count + 1) / columns)
    figure, axes = plt.subplots(
        rows,
        columns,
        figsize=(2.4 * columns, 2.5 * rows + 0.4),
        squeeze=False,
        layout="constrained",
    )
    height, width = picture.shape[:2]
    for ax in axes.flat:
        ax.set_axis_off()
    for ax, title, own in zip(axes.flat, ["image", *layers], [None, *maps], strict=False):
        ax.imshow(picture)
        ax.set_title(plain(title))
        if own is None:
            continue
        lefts = np.linspace(-0.5, width - 0.5, own.shape[1] + 1)
        tops = np.linspace(-0.5, height - 0.5, own.shape[0] + 1)
        for g in np.unique(own[own >= 0]).tolist():
            ax.pcolor(
                lefts, tops, np.ma.masked_not_equal(own, g), cmap=ListedColormap([colors[g]]),
                alpha=0.55, hatch=hatches[g], edgecolor="white", linewidth=0.0, zorder=2,
            )  # fmt: skip
    handles = [
        Rectangle((0, 0), 1, 1, facecolor=color, hatch=hatch, edgecolor="white", label=plain(name))
        for color, hatch, name in zip(colors, hatches, names, strict=True)
    ]
    number = min(len(names), columns)
    figure.legend(handles=handles, loc="outside lower center", ncols=number, handlelength=3.0)
    return figure
