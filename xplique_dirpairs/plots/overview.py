"""One extractor at a glance: data, detections, learning, its concepts in all classes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import ceil

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from xplique_dirpairs.plots.images import concept_heatmap, draw_picture
from xplique_dirpairs.plots.palette import concept_colors
from xplique_dirpairs.plots.side_by_side import ExtractorView, thumbnail

#: Names of the losses, by their symbols in the paper.
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
    "objective": "their weighted sum",
}


def plot_pictures(
    pictures: NDArray, labels: NDArray, class_names: Sequence[str], title: str, per_class: int = 8
) -> Figure:
    """A row of pictures (n, height, width, 3) for each class."""
    classes = len(class_names)
    figure, axes = plt.subplots(
        classes, per_class, figsize=(1.3 + 1.2 * per_class, 1.23 * classes + 0.65), squeeze=False
    )
    left = 1.25 / figure.get_figwidth()
    figure.subplots_adjust(
        left=left, right=0.995, bottom=0.01,
        top=1 - 0.55 / figure.get_figheight(), wspace=0.04, hspace=0.04,
    )  # fmt: skip
    figure.suptitle(title, fontsize=13, x=(left + 0.995) / 2)
    for row, name in enumerate(class_names):
        chosen = pictures[labels == row][:per_class]
        for ax in axes[row]:
            ax.set_axis_off()
        for ax, picture in zip(axes[row], chosen, strict=False):
            draw_picture(ax, picture, interpolation="lanczos")
        axes[row, 0].text(
            -0.08, 0.5, name, transform=axes[row, 0].transAxes, ha="right", va="center", fontsize=11
        )
    return figure


def plot_detections(
    pictures: NDArray,
    detections: NDArray,
    view: ExtractorView,
    title: str,
    nb_concepts: int = 4,
    columns: int = 6,
    number: str = "importance",
) -> Figure:
    """Pictures with an outline, in the concept's colour, around where each concept is detected.

    Parameters
    ----------
    pictures : (n, height, width, 3)
        In [0, 1].
    detections : (n, H, W, I)
        y in [0, 1]; the outline runs at 0.5.
    number
        What the number under a concept, its importance in the view, is.
    """
    rows = ceil(len(pictures) / columns)
    figure, axes = plt.subplots(
        rows, columns, figsize=(1.75 * columns, 1.75 * rows + 1.55), squeeze=False
    )
    height = figure.get_figheight()
    figure.subplots_adjust(
        left=0.01, right=0.99, top=1 - 0.45 / height, bottom=1.05 / height, wspace=0.04, hspace=0.04
    )
    figure.suptitle(title, fontsize=13)
    concepts = view.ranked[:nb_concepts]
    for ax in axes.flat:
        ax.set_axis_off()
    for ax, picture, maps in zip(axes.flat, pictures, detections, strict=False):
        draw_picture(ax, picture, interpolation="lanczos")
        for concept in concepts[::-1]:
            y = concept_heatmap(maps[..., concept], picture.shape[:2], 0, None)
            y = y * maps[..., concept].max()
            if y.max() > 0.5 > y.min():
                ax.contourf(y, levels=[0.5, 2.0], colors=[view.colors[concept]], alpha=0.25)
                ax.contour(y, levels=[0.5], colors=[view.colors[concept]], linewidths=2.0)
    legend = figure.add_axes((0.0, 0.0, 1.0, 0.98 / height))
    legend.set_axis_off()
    for place, concept in enumerate(concepts):
        x = (place + 0.5) / len(concepts)
        thumbnail(legend, view, concept, (x - 0.035, 0.5), legend.transAxes, height=0.7)
        legend.text(
            x + 0.005, 0.5, f"concept {concept}\n{view.importances[concept]:.3f}", va="center",
            color=view.colors[concept], fontweight="bold", fontsize=10,
        )  # fmt: skip
    legend.text(0.5, 0.0, f"numbers: {number}", ha="center", va="bottom", fontsize=9, color="0.4")
    return figure


def plot_class_importances(
    importances: NDArray,
    class_names: Sequence[str],
    view: ExtractorView,
    title: str,
) -> Figure:
    """Shared concepts against classes: how important each concept is to each class.

    Parameters
    ----------
    importances : (K, I)
        Rows are classes. A row is coloured relative to its largest value.
    view
        Of the concepts; they are ordered by their mean importance.
    """
    order = view.ranked
    classes, concepts = importances.shape
    values = importances[:, order]
    figure, ax = plt.subplots(figsize=(1.9 + 0.86 * concepts, 2.0 + 0.5 * classes))
    height, width = figure.get_figheight(), figure.get_figwidth()
    left, right = 1.3 / width, 1 - 0.2 / width
    figure.subplots_adjust(left=left, right=right, bottom=0.35 / height, top=1 - 1.5 / height)
    figure.suptitle(title, fontsize=13, x=(left + right) / 2, y=1 - 0.1 / height, va="top")
    relative = values / np.maximum(values.max(axis=1, keepdims=True), 1e-12)
    ax.imshow(relative, cmap="Blues", vmin=0.0, vmax=1.25, aspect="auto")
    for row, column in np.ndindex(values.shape):
        ax.text(
            column, row, f"{values[row, column]:.2f}", ha="center", va="center", fontsize=9,
            color="white" if relative[row, column] > 0.7 else "black",
        )  # fmt: skip
    ax.set_yticks(range(classes), class_names, fontsize=10)
    ax.set_xticks(range(concepts), [str(concept) for concept in order], fontsize=9)
    ax.set_xlabel("concept", labelpad=1)
    ax.tick_params(length=0)
    for column, concept in enumerate(order):
        thumbnail(
            ax, view, concept, (column, 1 + 0.5 / (0.5 * classes + 0.15)),
            ax.get_xaxis_transform(), height=0.74,
        )  # fmt: skip
    return figure


def plot_learning(stages: Mapping[str, Mapping[str, Sequence[float]]], title: str) -> Figure:
    """A panel for each stage, a line for each loss and constraint.

    Parameters
    ----------
    stages
        Stage → loss → its value after every epoch, as in `History.stages`.
    """
    names = sorted({name for losses in stages.values() for name in losses} - {"objective"})
    styles = dict(zip(names, concept_colors(len(names)), strict=True)) | {"objective": "black"}
    figure, axes = plt.subplots(
        1, len(stages), figsize=(max(5.2 * len(stages), 8.0), 4.8), squeeze=False,
        layout="constrained",
    )  # fmt: skip
    figure.suptitle(title, fontsize=13)
    for ax, (stage, losses) in zip(axes[0], stages.items(), strict=True):
        for name, values in losses.items():
            ax.plot(range(1, len(values) + 1), values, color=styles[name], linewidth=1.8)
        ax.set_yscale("symlog", linthresh=1.0)
        ax.set_title(f"stage {stage}")
        ax.set_xlabel("epoch")
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
        ax.spines[["top", "right"]].set_visible(False)
    axes[0, 0].set_ylabel("value (logarithmic beyond ±1)")
    handles = [
        Line2D([], [], color=color, linewidth=2.5, label=f"{name}: {LOSS_NAMES.get(name, '')}")
        for name, color in styles.items()
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=3, frameon=False, fontsize=9)
    return figure
