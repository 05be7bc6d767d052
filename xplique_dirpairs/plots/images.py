"""Conversion of images, crops and concept maps to pixels, and their drawing on axes."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import Colormap
from numpy.typing import ArrayLike

from xplique_dirpairs.core.types import Array
from xplique_dirpairs.plots.palette import Color, line_color
from xplique_dirpairs.plots.style import NOTE, SMALL

#: Level of a concept's outline, as a share of the maximum of its map.
OUTLINE = 0.3
#: Brightness of a picture where a concept is absent, as a share of the original brightness.
_DIMMED = 0.3

Limits = tuple[float, float]


def pixel_limits(images: Array) -> Limits:
    """Return the pixel values shown as black and white.

    They are 0 and 255 for integers, 0 and 1 if all values lie between these, and the minimum and
    maximum of the images otherwise.
    """
    if images.dtype.kind in "ui" or not images.size:
        return 0.0, 255.0
    low, high = float(images.min()), float(images.max())
    if low >= 0.0 and high <= 1.0:
        return 0.0, 1.0
    return low, max(high, low + 1e-6)


def as_picture(images: ArrayLike, limits: Limits | None = None) -> Array:
    """Convert images to float RGB in [0, 1].

    Parameters
    ----------
    images : array-like of shape (..., height, width, C)
        Images. Three channels are RGB; any other number of channels is averaged to grey.
    limits : (float, float), optional
        Pixel values shown as black and white; by default the `pixel_limits` of these images.

    Returns
    -------
    pictures : ndarray of shape (..., height, width, 3)
    """
    images = np.asarray(images)
    low, high = pixel_limits(images) if limits is None else limits
    pixels: Array = np.clip((images.astype(np.float32) - low) / (high - low), 0.0, 1.0)
    if pixels.shape[-1] != 3:
        pixels = np.repeat(pixels.mean(axis=-1, keepdims=True), 3, axis=-1)
    return pixels


def concept_heatmap(
    concept_map: Array,
    shape: tuple[int, int],
    filter_percentile: float = 90,
    clip_percentile: float | None = 10,
) -> Array:
    """Enlarge a concept map to the size of its image, with values in [0, 1].

    Parameters
    ----------
    concept_map : ndarray of shape (H, W)
        Concept map. Values at or below zero are not shown.
    shape : (int, int)
        Height and width of the image.
    filter_percentile : float, default=90
        Cells below this percentile of the map are not shown.
    clip_percentile : float or None, default=10
        Percentage of the shown pixels, the brightest ones, that are clipped to the same value.
        None: no clipping.

    Returns
    -------
    heatmap : ndarray of shape (height, width)
        Values in [0, 1]; all 0 if nothing is shown.
    """
    # The clipping percentile is taken over the shown pixels: over all pixels of a map that is zero
    # nearly everywhere it would be 0, and the concept would disappear.
    threshold = np.percentile(concept_map, filter_percentile)
    cells = np.where((concept_map >= threshold) & (concept_map > 0), concept_map, 0.0)
    height, width = shape
    cells = np.ascontiguousarray(cells, dtype=np.float32)
    resized = cv2.resize(cells, (width, height), interpolation=cv2.INTER_CUBIC)
    heatmap: Array = np.maximum(resized, 0.0)
    shown = heatmap[heatmap > 0]
    if shown.size:
        heatmap = np.minimum(heatmap / np.percentile(shown, 100.0 - (clip_percentile or 0.0)), 1.0)
    return heatmap


def draw_picture(ax: Axes, picture: Array, **plot_kwargs: Any) -> None:
    """Draw an image of shape (height, width, 3) with values in [0, 1], without ticks."""
    ax.imshow(picture, **plot_kwargs)
    ax.set_axis_off()


def draw_heatmap(
    ax: Axes, heatmap: Array, cmap: Colormap, alpha: float = 0.65, **plot_kwargs: Any
) -> None:
    """Draw a transparent heat map and its outline over an image, or nothing if it is zero."""
    if not heatmap.any():
        return
    defaults: dict[str, Any] = {"cmap": cmap, "alpha": alpha, "vmin": 0.0, "vmax": 1.0}
    ax.imshow(heatmap, **defaults | plot_kwargs)
    if min(heatmap.shape) > 1 and heatmap.min() < OUTLINE:
        ax.contour(heatmap, levels=[OUTLINE], colors=[line_color(cmap)], linewidths=1.5)


def draw_lit(ax: Axes, picture: Array, concept_map: Array, color: Color) -> None:
    """Draw a picture that is dark except where a concept is, outlined in the concept's colour.

    ``concept_map`` has shape (H, W); the picture has its full brightness where the map is 1.
    """
    light = concept_heatmap(concept_map, picture.shape[:2], 0, clip_percentile=None)
    light = np.clip(light * min(float(concept_map.max()), 1.0), 0.0, 1.0)
    bright = np.sqrt(light)[..., None]
    draw_picture(ax, picture * (_DIMMED + (1 - _DIMMED) * bright), interpolation="lanczos")
    if light.max() > OUTLINE > light.min():
        ax.contour(light, levels=[OUTLINE], colors=[color], linewidths=1.6)


def draw_note(ax: Axes, text: str, **style: Any) -> None:
    """Write text in the middle of axes."""
    ax.text(0.5, 0.5, text, ha="center", va="center", transform=ax.transAxes, **style)


def draw_crop_sheet(
    ax: Axes, crops: Array, columns: int, lines: int, color: Color, anchor: str = "C"
) -> None:
    """Draw crops side by side in a frame of the concept's colour, or a note if there are none.

    Parameters
    ----------
    ax : Axes
        Axes to draw on.
    crops : ndarray of shape (k, patch, patch, 3)
        Crops; k may be 0.
    columns : int
        Number of crops in a line.
    lines : int
        Number of lines.
    color : (float, float, float)
        Colour of the frame.
    anchor : str, default="C"
        Position of the crops in the axes: see ``Axes.set_anchor``.
    """
    if len(crops):
        ax.imshow(montage(crops, columns, lines, gap=max(1, crops.shape[-2] // 24)))
    else:
        draw_note(ax, "not detected in any crop", fontsize=SMALL, color=NOTE)
        ax.set_box_aspect(lines / columns)
    ax.set_anchor(anchor)
    ax.set_xticks([])
    ax.set_yticks([])
    for spine in ax.spines.values():
        spine.set(visible=True, edgecolor=color, linewidth=2.5)


def framed(picture: Array, color: Color, width: int) -> Array:
    """Return a copy of a picture with a border, ``width`` pixels wide, painted over its edge."""
    picture = picture.copy()
    if width > 0:
        for edge in (np.s_[:width], np.s_[-width:], np.s_[:, :width], np.s_[:, -width:]):
            picture[edge] = color
    return picture


def montage(pictures: Array, columns: int, rows: int, gap: int = 2) -> Array:
    """Arrange pictures row by row in a single image, white where there are too few.

    Parameters
    ----------
    pictures : ndarray of shape (n, height, width, 3) or (n, T, height, width, 3)
        Pictures; those beyond ``columns * rows`` are left out. Of videos, the frame in the middle.
    columns : int
        Number of columns of the grid.
    rows : int
        Number of rows of the grid.
    gap : int, default=2
        Number of white pixels between the pictures.

    Returns
    -------
    sheet : ndarray of shape (rows * (height + gap) - gap, columns * (width + gap) - gap, 3)
    """
    if pictures.ndim == 5:
        pictures = pictures[:, pictures.shape[1] // 2]
    _, height, width, _ = pictures.shape
    sheet = np.ones(
        (rows * (height + gap) - gap, columns * (width + gap) - gap, 3), dtype=np.float32
    )
    for i, picture in enumerate(pictures[: columns * rows]):
        top, left = (i // columns) * (height + gap), (i % columns) * (width + gap)
        sheet[top : top + height, left : left + width] = picture
    return sheet
