"""Fitted extractors at a glance, one alone or two beside each other in shared colours.

Shapes: N example images, n crops, I concepts of an extractor.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.offsetbox import AnnotationBbox, OffsetImage
from matplotlib.ticker import MaxNLocator
from matplotlib.transforms import Transform
from numpy.typing import NDArray

from xplique_dirpairs.core.linear_algebra import match
from xplique_dirpairs.plots.concepts import draw_crop_sheet
from xplique_dirpairs.plots.images import draw_lit, draw_picture, enlarged, framed
from xplique_dirpairs.plots.palette import Color

#: Correlation of their maps from which two extractors' concepts share a colour.
ALIKE = 0.3


@dataclass(frozen=True)
class ExtractorView:
    """A fitted extractor as arrays.

    Attributes
    ----------
    name : str
    crops : ndarray of shape (n, patch, patch, 3)
        In [0, 1], image by image.
    crops_u : ndarray of shape (n, I)
        Coefficients of the crops.
    number_of_images : int
        That the crops are of; n is a multiple of it.
    importances : ndarray of shape (I,)
    maps : ndarray of shape (N, H, W, I)
        Coefficients of the example images where they are shown, ≥ 0.
    colors : sequence of I (float, float, float)
    """

    name: str
    crops: NDArray
    crops_u: NDArray
    number_of_images: int
    importances: NDArray
    maps: NDArray
    colors: Sequence[Color]

    @property
    def ranked(self) -> NDArray:
        """Concepts, most important first."""
        return np.argsort(-self.importances, kind="stable")

    def best_crops(self, concept: int, number: int) -> NDArray:
        """Return up to ``number`` crops (k, patch, patch, 3), best first, of different images."""
        values = self.crops_u[:, concept].reshape(self.number_of_images, -1)
        best = values.argmax(axis=1) + values.shape[1] * np.arange(len(values))
        order = np.argsort(-values.max(axis=1), kind="stable")[:number]
        return self.crops[best[order][values.max(axis=1)[order] > 0]]


# ------------------------------------------------------------------ one extractor


def plot_pictures(
    pictures: NDArray, labels: NDArray, class_names: Sequence[str], title: str, per_class: int = 8
) -> Figure:
    """Draw a row of pictures (n, height, width, 3) for each class."""
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
    """Draw pictures with an outline, in the concept's colour, where each concept is detected.

    Parameters
    ----------
    pictures : ndarray of shape (n, height, width, 3)
        In [0, 1].
    detections : ndarray of shape (n, H, W, I)
        y in [0, 1]; the outline runs at 0.5.
    view : ExtractorView
    title : str
    nb_concepts : int, default=4
        The most important ones.
    columns : int, default=6
    number : str, default="importance"
        Meaning of the view's importances, for the legend.
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
            y = enlarged(maps[..., concept], picture.shape[:2])
            if y.max() > 0.5 > y.min():
                ax.contourf(y, levels=[0.5, 2.0], colors=[view.colors[concept]], alpha=0.25)
                ax.contour(y, levels=[0.5], colors=[view.colors[concept]], linewidths=2.0)
    legend = figure.add_axes((0.0, 0.0, 1.0, 0.98 / height))
    legend.set_axis_off()
    for place, concept in enumerate(concepts):
        x = (place + 0.5) / len(concepts)
        _draw_thumbnail(legend, view, concept, (x - 0.035, 0.5), legend.transAxes, height=0.7)
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
    """Draw how important each concept (columns) is to each class (rows).

    Parameters
    ----------
    importances : ndarray of shape (K, I)
        A row is coloured relative to its largest value.
    class_names : sequence of K str
    view : ExtractorView
        Its concepts are ordered by their importance in the view.
    title : str
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
    above = 1 + 0.5 / (0.5 * classes + 0.15)
    for column, concept in enumerate(order):
        _draw_thumbnail(ax, view, concept, (column, above), ax.get_xaxis_transform(), height=0.74)
    return figure


def _draw_thumbnail(
    ax: Axes,
    view: ExtractorView,
    concept: int,
    place: tuple[float, float],
    transform: Transform,
    height: float,
) -> None:
    """Draw the concept's best crop, if any, in its colour's frame, ``height`` inches tall."""
    crops = view.best_crops(concept, 1)
    if not len(crops):
        return
    picture = framed(crops[0], view.colors[concept], max(1, crops.shape[1] // 16))
    image = OffsetImage(picture, zoom=72 * height / crops.shape[1], interpolation="lanczos")
    box = AnnotationBbox(
        image, place, xycoords=transform, frameon=False, pad=0, annotation_clip=False
    )
    ax.add_artist(box)


# ------------------------------------------------------------------ two extractors


def counterparts(maps: NDArray, other_maps: NDArray) -> tuple[NDArray, NDArray]:
    """Pair two extractors' concepts one to one, so that their maps agree best.

    Parameters
    ----------
    maps : ndarray of shape (N, H, W, I)
    other_maps : ndarray of shape (N, H, W, J)
        J ≥ I.

    Returns
    -------
    partners : ndarray of shape (I,)
        The other extractor's concept that belongs to each concept.
    correlations : ndarray of shape (I,)
        Pearson's, of the two maps over all positions; 0 where a map is constant.

    Raises
    ------
    ValueError
        If the other extractor has fewer concepts.
    """
    if other_maps.shape[-1] < maps.shape[-1]:
        raise ValueError(
            f"other_maps must hold at least the {maps.shape[-1]} concepts of maps, not "
            f"{other_maps.shape[-1]}: pass the maps of fewer concepts first"
        )
    ours, theirs = (_standardised(m.reshape(-1, m.shape[-1])) for m in (maps, other_maps))
    correlations = theirs.T @ ours / len(ours)
    partners = match(correlations)
    return partners, correlations[partners, np.arange(len(partners))]


def paired_colors(
    colors: NDArray, partners: NDArray, correlations: NDArray
) -> tuple[NDArray, NDArray]:
    """Colour both extractors' concepts: two that agree share a colour, and no others.

    Parameters
    ----------
    colors : ndarray of shape (2 I, 3)
        The first I are for one extractor's concepts, in their order; the others for those of the
        other extractor that agree with none of them (r below `ALIKE`).
    partners, correlations : ndarray of shape (I,)
        See `counterparts`.

    Returns
    -------
    colors, other_colors : ndarray of shape (I, 3)
    """
    concepts = len(partners)
    others = np.empty((concepts, 3))
    others[partners] = np.where(
        correlations[:, None] >= ALIKE, colors[:concepts], colors[concepts:]
    )
    return colors[:concepts], others


def _standardised(values: NDArray) -> NDArray:
    centred = values - values.mean(axis=0)
    deviation = centred.std(axis=0)
    return np.divide(centred, deviation, out=np.zeros_like(centred), where=deviation > 0)


def plot_concepts(
    left: ExtractorView,
    right: ExtractorView,
    partners: NDArray,
    correlations: NDArray,
    title: str,
    nb_concepts: int = 8,
    nb_crops: int = 6,
) -> Figure:
    """Draw the best crops of both extractors' most important concepts, with their counterparts.

    Parameters
    ----------
    left, right : ExtractorView
    partners, correlations : ndarray of shape (I,)
        Of the right extractor's concepts among the left one's, from `counterparts`.
    title : str
    nb_concepts, nb_crops : int
    """
    back = np.argsort(partners)
    sides = ((left, back, correlations[back]), (right, partners, correlations))
    rows = min(nb_concepts, len(partners))
    figure, axes = plt.subplots(rows, 2, figsize=(13.8, 0.95 + 0.98 * rows), squeeze=False)
    figure.subplots_adjust(
        left=0.09, right=0.91, top=1 - 0.82 / figure.get_figheight(), bottom=0.015,
        wspace=0.04, hspace=0.1,
    )  # fmt: skip
    figure.suptitle(title, fontsize=13, y=1 - 0.1 / figure.get_figheight(), va="top")
    for side, (view, others, agreement) in enumerate(sides):
        axes[0, side].set_title(view.name, fontsize=12, fontweight="bold")
        x, align = ((-0.015, "right"), (1.015, "left"))[side]
        for ax, concept in zip(axes[:, side], view.ranked[:rows], strict=True):
            crops, color = view.best_crops(concept, nb_crops), view.colors[concept]
            draw_crop_sheet(ax, crops, nb_crops, 1, color, anchor="C", interpolation="lanczos")
            ax.text(
                x, 0.6, f"concept {concept}\n{view.importances[concept]:.3f}",
                transform=ax.transAxes, ha=align, va="center", fontsize=9.5, color=color,
                fontweight="bold",
            )  # fmt: skip
            r = agreement[concept]
            like = f"like {others[concept]}: r = {r:.2f}" if r >= ALIKE else "like none"
            ax.text(
                x, 0.2, like, transform=ax.transAxes, ha=align, va="center", fontsize=8, color="0.4"
            )
    return figure


def plot_maps(
    pictures: NDArray, views: Sequence[ExtractorView], title: str, nb_concepts: int = 4
) -> Figure:
    """Draw example images, lit only where each of the most important concepts is.

    A concept's brightness has one scale over all images: its 99th percentile where it is shown.

    Parameters
    ----------
    pictures : ndarray of shape (N, height, width, 3)
        In [0, 1]; the images of the views' maps.
    views : sequence of ExtractorView
    title : str
    nb_concepts : int, default=4
    """
    ratios = [1.0]
    for view in views:
        ratios += [0.16] + [1.0] * min(nb_concepts, len(view.importances))
    size = 1.32
    figure = plt.figure(figsize=(size * sum(ratios) + 0.3, size * len(pictures) + 1.15))
    height = figure.get_figheight()
    grid = figure.add_gridspec(
        len(pictures), len(ratios), width_ratios=ratios, wspace=0.05, hspace=0.05,
        left=0.01, right=0.99, top=1 - 1.05 / height, bottom=0.1 / height,
    )  # fmt: skip
    figure.suptitle(title, fontsize=13, y=1 - 0.12 / height, va="top")
    for row, picture in enumerate(pictures):
        ax = figure.add_subplot(grid[row, 0])
        draw_picture(ax, picture, interpolation="lanczos")
        if row == 0:
            ax.set_title("picture", fontsize=10)
    column = 2
    for view in views:
        top = []
        for concept in view.ranked[:nb_concepts]:
            shown, color = view.maps[..., concept], view.colors[concept]
            scale = np.percentile(shown[shown > 0], 99) if (shown > 0).any() else 1.0
            for row, picture in enumerate(pictures):
                ax = figure.add_subplot(grid[row, column])
                draw_lit(ax, picture, shown[row] / scale, color)
                if row == 0:
                    ax.set_title(f"concept {concept}", fontsize=10, fontweight="bold", color=color)
                    top.append(ax)
            column += 1
        centre = (top[0].get_position().x0 + top[-1].get_position().x1) / 2
        figure.text(
            centre, 1 - 0.56 / height, view.name,
            ha="center", va="center", fontsize=11, fontweight="bold",
        )  # fmt: skip
        figure.text(
            centre, 1 - 0.74 / height, "most important first", ha="center", va="center", fontsize=9
        )
        column += 1
    return figure


def plot_importances(views: Sequence[ExtractorView], title: str, nb_concepts: int = 10) -> Figure:
    """Draw bars of the importances, most important on top, each beside its concept's best crop."""
    rows = max(min(nb_concepts, len(view.importances)) for view in views)
    figure, axes = plt.subplots(
        1, len(views), figsize=(5.6 * len(views), 1.3 + 0.52 * rows), squeeze=False
    )
    height = figure.get_figheight()
    left, right = 0.12, 0.97
    figure.subplots_adjust(
        left=left, right=right, wspace=0.42, top=1 - 0.85 / height, bottom=0.6 / height
    )
    figure.suptitle(title, fontsize=13, x=(left + right) / 2, y=1 - 0.12 / height, va="top")
    for ax, view in zip(axes[0], views, strict=True):
        concepts = view.ranked[:nb_concepts]
        values = view.importances[concepts]
        ax.barh(range(len(concepts)), values, color=[view.colors[k] for k in concepts], height=0.72)
        for row, (concept, value) in enumerate(zip(concepts, values, strict=True)):
            ax.text(value, row, f" {value:.3f}", va="center", fontsize=9, color="0.3")
            beside = ax.get_yaxis_transform()
            _draw_thumbnail(ax, view, concept, (-0.075, row), beside, height=0.42)
        ax.set_yticks(range(len(concepts)), [str(k) for k in concepts], fontsize=9)
        ax.tick_params(axis="y", length=0, pad=38)
        ax.set_ylim(rows - 0.4, -0.6)
        ax.set_xlim(0, max(values.max() * 1.18, 1e-9))
        ax.xaxis.set_major_locator(MaxNLocator(5))
        ax.spines[["top", "right"]].set_visible(False)
        ax.set_xlabel("importance: total Sobol index")
        ax.set_title(view.name, fontweight="bold", fontsize=12)
    return figure
