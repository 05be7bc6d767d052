"""Detectors and their labels: how many and how good, the best beside the truth, curves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator
from numpy.typing import ArrayLike, NDArray

from xplique_dirpairs.plots.images import as_picture, draw_picture
from xplique_dirpairs.plots.layout import dress
from xplique_dirpairs.plots.palette import Color, concept_colors

#: IoU from which a detector counts as interpretable.
_LEAST = 0.04
_GUIDE = "0.55"
#: How much of its brightness an image keeps outside of an outline.
_OUTSIDE = 0.45
_TRUTH, _FIRES = concept_colors(4)[2:]


def plot_labels(
    iou: ArrayLike,
    labels: ArrayLike,
    concepts: Sequence[tuple[str, str]],
    *,
    max_labels: int = 30,
    title: str = "",
) -> Figure:
    """Draw how many detectors have each label, and the IoU of each.

    Parameters
    ----------
    iou : array-like of shape (I,)
        Of each detector with its label; NaN counts as 0.
    labels : array-like of shape (I,), int
        Numbers of concepts; negative for none.
    concepts : sequence of (str, str)
        Category and name of each number.
    max_labels : int, default=30
        Labels shown, those with the best detectors.
    title : str, default=""

    Raises
    ------
    ValueError
        If no detector has a label, or labels and IoU differ in number.
    """
    values, numbers = np.nan_to_num(np.asarray(iou, float)), np.asarray(labels)
    if values.ndim != 1 or values.shape != numbers.shape:
        raise ValueError(
            f"iou and labels must be one number for each detector, not {values.shape} and "
            f"{numbers.shape}"
        )
    present = np.unique(numbers[numbers >= 0])
    if not len(present):
        raise ValueError("no detector has a label: there is nothing to draw")
    best = {int(c): values[numbers == c].max() for c in present}
    shown = sorted(best, key=lambda c: -best[c])[:max_labels]
    categories = list(dict.fromkeys(category for category, _ in concepts))
    colors = dict(zip(categories, concept_colors(len(categories)), strict=True))
    shown.sort(key=lambda c: (categories.index(concepts[c][0]), -best[c]))

    figure, (left, right) = plt.subplots(
        1, 2, sharey=True, figsize=(7.6, 1.3 + 0.23 * len(shown)), layout="constrained",
        width_ratios=[1.0, 1.8],
    )  # fmt: skip
    places = np.arange(len(shown))
    counts = [int((numbers == c).sum()) for c in shown]
    rows = [colors[concepts[c][0]] for c in shown]
    left.barh(places, counts, color=rows, height=0.72)
    for place, c, color in zip(places, shown, rows, strict=True):
        points = values[numbers == c]
        right.plot([0, points.max()], [place, place], color=color, linewidth=1.2, alpha=0.5)
        right.plot(points, np.full(len(points), place), "o", color=color, markersize=4)
    left.set_yticks(places, [concepts[c][1] for c in shown], fontsize=8)
    left.set_ylim(len(shown) - 0.3, -0.7)
    left.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=5))
    left.set_xlabel("detectors", fontsize=9)
    right.axvline(_LEAST, color=_GUIDE, linewidth=1.0, linestyle=":")
    right.set_xlim(left=0.0)
    right.set_xlabel(f"IoU of each with its label (dotted: {_LEAST})", fontsize=9)
    for ax in (left, right):
        dress(ax)
    right.tick_params(axis="y", length=0)
    drawn = {concepts[c][0] for c in shown}
    if len(drawn) > 1:
        handles = [Patch(color=colors[name], label=name) for name in categories if name in drawn]
        figure.legend(
            handles=handles, loc="outside lower center", ncols=5, frameon=False, fontsize=8
        )
    notes = [title] if title else []
    if len(shown) < len(present):
        notes.append(f"the {len(shown)} best of {len(present)} labels")
    without = int((numbers < 0).sum())
    if without:
        notes.append(f"{without} of {len(values)} detectors without a label")
    figure.suptitle(" · ".join(notes), fontsize=10)
    return figure


def plot_best_detectors(
    pictures: Sequence[ArrayLike],
    masks: Sequence[ArrayLike],
    detections: Sequence[ArrayLike],
    names: Sequence[str],
    title: str = "",
) -> Figure:
    """Draw images of detectors twice: with the outline of the label, and of the detection.

    Parameters
    ----------
    pictures : sequence of array-like of shape (k, H, W, C)
        Images of each detector, the best first; k may differ.
    masks, detections : sequence of array-like of shape (k, H, W), bool
        Where each detector's label is, and where it fires.
    names : sequence of str
        Beside each row, for example ``"12 · sky\\nIoU 0.41"``.
    title : str, default=""

    Raises
    ------
    ValueError
        If the numbers of detectors or the shapes do not fit one another, or there is nothing to
        draw.
    """
    sizes = [len(part) for part in (pictures, masks, detections, names)]
    if len(set(sizes)) > 1 or not sizes[0]:
        raise ValueError(
            f"pictures, masks, detections and names must be of the same detectors, not {sizes}"
        )
    rows = [tuple(map(np.asarray, row)) for row in zip(pictures, masks, detections, strict=True)]
    for shown, truth, fires in rows:
        if shown.ndim != 4 or not truth.shape == fires.shape == shown.shape[:3]:
            raise ValueError(
                "pictures (k, H, W, C) need masks and detections (k, H, W), not "
                f"{shown.shape}, {truth.shape} and {fires.shape}"
            )
    columns = max(1, max(len(shown) for shown, _, _ in rows))
    wide, high = 2.36, 1.2
    figure = plt.figure(figsize=(1.3 + wide * columns, 0.6 + high * len(rows)))
    width, height = figure.get_size_inches()
    for r, ((shown, truth, fires), name) in enumerate(zip(rows, names, strict=True)):
        top = 1 - (0.35 + high * (r + 1)) / height
        figure.text(1.18 / width, top + 0.58 / height, name, ha="right", va="center", fontsize=8)
        for k, picture in enumerate(as_picture(shown) if len(shown) else []):
            for side, (where, color) in enumerate(((truth[k], _TRUTH), (fires[k], _FIRES))):
                left = (1.3 + wide * k + (wide / 2 - 0.04) * side) / width
                ax = figure.add_axes((left, top, 1.12 / width, 1.12 / height))
                _draw_outlined(ax, picture, where, color)
    lines = [
        Line2D([], [], color=_TRUTH, label="label"),
        Line2D([], [], color=_FIRES, label="fires"),
    ]
    figure.legend(
        handles=lines, loc="lower center", ncols=2, frameon=False, fontsize=8,
        bbox_to_anchor=(0.5, 0.0), borderaxespad=0.1,
    )  # fmt: skip
    figure.text(0.5, 1 - 0.08 / height, title, ha="center", va="top", fontsize=10)
    return figure


def plot_above(extractors: Mapping[str, tuple[ArrayLike, ArrayLike]], title: str = "") -> Figure:
    """Draw how many detectors, and how many distinct labels, have an IoU above ξ.

    The areas below the curves are S¹ and S².

    Parameters
    ----------
    extractors : mapping of str to (array-like of shape (I,), array-like of shape (I,))
        Name → the IoU of each detector with its label (NaN counts as 0), and the labels' numbers
        (negative for none).
    title : str, default=""

    Raises
    ------
    ValueError
        If there is no extractor.
    """
    if not extractors:
        raise ValueError("there is no extractor: give the IoU and labels of at least one, by name")
    figure, axes = plt.subplots(1, 2, figsize=(9.6, 3.9), layout="constrained")
    styles = ("-", "--", ":", "-.")
    colors = concept_colors(len(extractors))
    for k, (name, (iou, labels)) in enumerate(extractors.items()):
        values, numbers = np.nan_to_num(np.asarray(iou, float)), np.asarray(labels)
        best = np.array([values[numbers == c].max() for c in np.unique(numbers[numbers >= 0])])
        for ax, counted in zip(axes, (values, best), strict=True):
            steps = np.sort(counted[counted > 0])
            xi = np.concatenate([[0.0], steps])
            above = len(steps) - np.arange(len(xi))
            # The count falls at each IoU, which is not above itself.
            ax.step(
                xi, above, where="post", color=colors[k], linewidth=1.6,
                linestyle=styles[(k // 7) % len(styles)], label=f"{name} ({counted.sum():.2f})",
            )  # fmt: skip
    for ax, counts, score in zip(axes, ("detectors", "distinct labels"), ("S¹", "S²"), strict=True):
        ax.set_xlim(left=0.0)
        ax.set_ylim(bottom=0.0)
        ax.axvline(_LEAST, color=_GUIDE, linewidth=1.0, linestyle=":")
        ax.set_xlabel("ξ", fontsize=9)
        ax.set_title(f"{counts} with an IoU above ξ", fontsize=10)
        ax.yaxis.set_major_locator(MaxNLocator(integer=True))
        ax.legend(title=score, frameon=False, fontsize=8, title_fontsize=9)
        dress(ax)
    figure.suptitle(title, fontsize=11)
    return figure


def _draw_outlined(ax: Axes, picture: NDArray, where: NDArray, color: Color) -> None:
    where = where.astype(bool)
    draw_picture(ax, np.where(where[..., None], picture, _OUTSIDE * picture))
    if where.any() and not where.all():
        ax.contour(where, levels=[0.5], colors=[color], linewidths=1.4)
