"""Two extractors beside each other: their concepts, maps and importances, in shared colours.

Shapes: N example images of P × P cells of concept maps, n crops, I concepts of an extractor.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.offsetbox import AnnotationBbox, OffsetImage
from matplotlib.ticker import MaxNLocator
from matplotlib.transforms import Transform
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from xplique_dirpairs.plots.images import OUTLINE, concept_heatmap, draw_picture, framed, montage
from xplique_dirpairs.plots.palette import Color

#: Brightness that is left of a picture where a concept is not.
DIMMED = 0.3
#: Correlation of their maps from which two extractors' concepts share a colour.
ALIKE = 0.3


@dataclass(frozen=True)
class ExtractorView:
    """What pictures show of a fitted extractor.

    Attributes
    ----------
    name
    crops : (n, patch, patch, 3)
        In [0, 1], image by image.
    crops_u : (n, I)
    number_of_images
        That the crops are of; n is a multiple of it.
    importances : (I,)
    maps : (N, H, W, I)
        Shown coefficients of the example images, ≥ 0.
    colors
        One for each concept.
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

    def best_crops(self, concept: int, count: int) -> NDArray:
        """(k, patch, patch, 3), best first, k ≤ count: at most one of each image."""
        values = self.crops_u[:, concept].reshape(self.number_of_images, -1)
        best = values.argmax(axis=1) + values.shape[1] * np.arange(len(values))
        order = np.argsort(-values.max(axis=1), kind="stable")[:count]
        return self.crops[best[order][values.max(axis=1)[order] > 0]]


def counterparts(maps: NDArray, other_maps: NDArray) -> tuple[NDArray, NDArray]:
    """The one-to-one pairing of two extractors' concepts whose maps agree best.

    Parameters
    ----------
    maps : (N, H, W, I)
    other_maps : (N, H, W, J)
        At least as many: J ≥ I.

    Returns
    -------
    partners : (I,)
        The other extractor's concept that belongs to each concept.
    correlations : (I,)
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
    correlations = ours.T @ theirs / len(ours)
    rows, partners = linear_sum_assignment(correlations, maximize=True)
    return partners, correlations[rows, partners]


def paired_colors(
    colors: NDArray, partners: NDArray, correlations: NDArray
) -> tuple[NDArray, NDArray]:
    """Colours of both extractors' concepts: shared by two that agree, and by no others.

    Parameters
    ----------
    colors : (2 I, 3)
        The first I are for one extractor's concepts, in their order; the others for those of the
        other extractor that agree with none of them (r below `ALIKE`).
    partners, correlations : (I,)
        See `counterparts`.

    Returns
    -------
    colors, other_colors : (I, 3)
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


def _likeness(other: int, correlation: float) -> str:
    return f"like {other}: r = {correlation:.2f}" if correlation >= ALIKE else "like none"


def plot_concepts(
    left: ExtractorView,
    right: ExtractorView,
    partners: NDArray,
    correlations: NDArray,
    title: str,
    nb_concepts: int = 8,
    nb_crops: int = 6,
) -> Figure:
    """Best crops of both extractors' most important concepts, with each concept's counterpart.

    Parameters
    ----------
    partners, correlations : (I,)
        Of the right extractor's concepts among the left one's, from `counterparts`.
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
            _draw_crops(ax, view, concept, nb_crops)
            ax.text(
                x, 0.6, f"concept {concept}\n{view.importances[concept]:.3f}",
                transform=ax.transAxes, ha=align, va="center", fontsize=9.5,
                color=view.colors[concept], fontweight="bold",
            )  # fmt: skip
            ax.text(
                x, 0.2, _likeness(others[concept], agreement[concept]),
                transform=ax.transAxes, ha=align, va="center", fontsize=8, color="0.4",
            )  # fmt: skip
    return figure


def _draw_crops(ax: Axes, view: ExtractorView, concept: int, count: int) -> None:
    crops = view.best_crops(concept, count)
    ax.set_xticks([])
    ax.set_yticks([])
    for spine in ax.spines.values():
        spine.set(edgecolor=view.colors[concept], linewidth=2.5)
    if len(crops):
        ax.imshow(montage(crops, count, 1), interpolation="lanczos")
    else:
        ax.set_box_aspect(1 / count)
        ax.text(0.5, 0.5, "found in no crop", transform=ax.transAxes, ha="center", va="center")


def plot_maps(
    pictures: NDArray, views: Sequence[ExtractorView], title: str, nb_concepts: int = 4
) -> Figure:
    """Example images, lit only where each of the most important concepts is.

    A concept's brightness has one scale over all images: its 99th percentile where it is shown.

    Parameters
    ----------
    pictures : (N, height, width, 3)
        In [0, 1]; the images of the views' maps.
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
        for rank, concept in enumerate(view.ranked[:nb_concepts]):
            shown = view.maps[..., concept]
            scale = np.percentile(shown[shown > 0], 99) if (shown > 0).any() else 1.0
            for row, picture in enumerate(pictures):
                ax = figure.add_subplot(grid[row, column])
                draw_lit(ax, picture, shown[row] / scale, view.colors[concept])
                if row == 0:
                    ax.set_title(
                        f"concept {concept}", fontsize=10, fontweight="bold",
                        color=view.colors[concept],
                    )  # fmt: skip
                    if rank == 0:
                        first = ax
                    last = ax
            column += 1
        centre = (first.get_position().x0 + last.get_position().x1) / 2
        figure.text(
            centre, 1 - 0.56 / height, view.name,
            ha="center", va="center", fontsize=11, fontweight="bold",
        )  # fmt: skip
        figure.text(
            centre, 1 - 0.74 / height, "most important first", ha="center", va="center", fontsize=9
        )
        column += 1
    return figure


def draw_lit(ax: Axes, picture: NDArray, shown: NDArray, color: Color) -> None:
    """The picture, dark but where the concept is, with an outline in the concept's colour."""
    light = _enlarged(shown, picture.shape[:2])
    bright = np.sqrt(light)[..., None]
    draw_picture(ax, picture * (DIMMED + (1 - DIMMED) * bright), interpolation="lanczos")
    if light.max() > OUTLINE > light.min():
        ax.contour(light, levels=[OUTLINE], colors=[color], linewidths=1.6)


def _enlarged(shown: NDArray, shape: tuple[int, int]) -> NDArray:
    """A map at the size of its image, smooth, without changing its scale; in [0, 1]."""
    top = shown.max()
    if top <= 0:
        return np.zeros(shape, np.float32)
    heatmap = concept_heatmap(shown, shape, filter_percentile=0, clip_percentile=None)
    return np.clip(heatmap * min(top, 1.0), 0.0, 1.0)


def plot_importances(views: Sequence[ExtractorView], title: str, nb_concepts: int = 10) -> Figure:
    """Bars of the importances, most important on top, each beside its concept's best crop."""
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
            thumbnail(ax, view, concept, (-0.075, row), ax.get_yaxis_transform())
        ax.set_yticks(range(len(concepts)), [str(k) for k in concepts], fontsize=9)
        ax.tick_params(axis="y", length=0, pad=38)
        ax.set_ylim(rows - 0.4, -0.6)
        ax.set_xlim(0, max(values.max() * 1.18, 1e-9))
        ax.xaxis.set_major_locator(MaxNLocator(5))
        ax.spines[["top", "right"]].set_visible(False)
        ax.set_xlabel("importance: total Sobol index")
        ax.set_title(view.name, fontweight="bold", fontsize=12)
    return figure


def thumbnail(
    ax: Axes,
    view: ExtractorView,
    concept: int,
    place: tuple[float, float],
    transform: Transform,
    height: float = 0.42,
) -> None:
    """The concept's best crop in a frame of its colour, ``height`` inches tall.

    Nothing is drawn for a concept that is in no crop.
    """
    crops = view.best_crops(concept, 1)
    if not len(crops):
        return
    picture = framed(crops[0], view.colors[concept], max(1, crops.shape[1] // 16))
    image = OffsetImage(picture, zoom=72 * height / crops.shape[1], interpolation="lanczos")
    box = AnnotationBbox(
        image, place, xycoords=transform, frameon=False, pad=0, annotation_clip=False
    )
    ax.add_artist(box)
