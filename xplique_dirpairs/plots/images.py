"""Images, crops and concept maps as pixels, and how they are laid over one another."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import Colormap
from numpy.typing import ArrayLike, NDArray

from xplique_dirpairs.plots.palette import Color, line_color

#: A concept's outline runs where its shown map reaches this share of its maximum.
OUTLINE = 0.3

Limits = tuple[float, float]


def pixel_limits(images: NDArray) -> Limits:
    """(black, white) of a set of images: 0–255 for integers, 0–1 if they fit, else their range."""
    if images.dtype.kind in "ui":
        return 0.0, 255.0
    low, high = float(images.min()), float(images.max())
    if low >= 0.0 and high <= 1.0:
        return 0.0, 1.0
    return low, max(high, low + 1e-6)


def as_picture(images: ArrayLike, limits: Limits | None = None) -> NDArray:
    """Images ``(..., height, width, C)`` as float RGB in [0, 1].

    One channel is grey, three are RGB, of any other number the mean is shown.
    ``limits``: (black, white); None: `pixel_limits` of these images.
    """
    images = np.asarray(images)
    low, high = pixel_limits(images) if limits is None else limits
    pixels = np.clip((images.astype(np.float32) - low) / (high - low), 0.0, 1.0)
    if pixels.shape[-1] != 3:
        pixels = np.repeat(pixels.mean(axis=-1, keepdims=True), 3, axis=-1)
    return pixels


def concept_heatmap(
    concept_map: NDArray,
    shape: tuple[int, int],
    filter_percentile: float = 90,
    clip_percentile: float | None = 10,
) -> NDArray:
    """A concept map at the size of its image, in [0, 1].

    Parameters
    ----------
    concept_map : (H, W)
        Values at or below zero are not shown.
    shape
        (height, width) of the image.
    filter_percentile
        Cells below this percentile of the map are not shown.
    clip_percentile
        The brightest so many percent of what is shown look alike. None: no clipping.

    Returns
    -------
    heatmap : (height, width)
        All zero where nothing is left to show.
    """
    # Percentiles of the shown part: of a map that is zero nearly everywhere, those of the whole
    # are zero, and would clip the concept away.
    threshold = np.percentile(concept_map, filter_percentile)
    cells = np.where((concept_map >= threshold) & (concept_map > 0), concept_map, 0.0)
    height, width = shape
    cells = np.ascontiguousarray(cells, dtype=np.float32)
    heatmap = np.maximum(cv2.resize(cells, (width, height), interpolation=cv2.INTER_CUBIC), 0.0)
    shown = heatmap[heatmap > 0]
    if not shown.size:
        return heatmap
    top = np.percentile(shown, 100.0 - clip_percentile) if clip_percentile else shown.max()
    return np.minimum(heatmap / top, 1.0)


def draw_picture(ax: Axes, picture: NDArray, **plot_kwargs) -> None:
    """An image, (height, width, 3) in [0, 1], without ticks."""
    ax.imshow(picture, **plot_kwargs)
    ax.set_axis_off()


def draw_heatmap(
    ax: Axes, heatmap: NDArray, cmap: Colormap, alpha: float = 0.65, **plot_kwargs
) -> None:
    """A concept over an image that is drawn already: a veil and an outline; nothing if all zero."""
    if not heatmap.any():
        return
    how: dict[str, Any] = {"cmap": cmap, "alpha": alpha, "vmin": 0.0, "vmax": 1.0}
    ax.imshow(heatmap, **how | plot_kwargs)
    if min(heatmap.shape) > 1 and heatmap.min() < OUTLINE:
        ax.contour(heatmap, levels=[OUTLINE], colors=[line_color(cmap)], linewidths=1.5)


def framed(picture: NDArray, color: Color, width: int) -> NDArray:
    """A picture with a border of so many pixels painted over its edge."""
    picture = picture.copy()
    if width > 0:
        for edge in (np.s_[:width], np.s_[-width:], np.s_[:, :width], np.s_[:, -width:]):
            picture[edge] = color
    return picture


def montage(pictures: NDArray, columns: int, rows: int, gap: int = 2) -> NDArray:
    """Pictures (n, height, width, 3) row by row in one, white where there are too few.

    Parameters
    ----------
    columns, rows
        Of the grid; pictures beyond ``columns * rows`` are left out.
    gap
        White pixels between them.
    """
    _, height, width, _ = pictures.shape
    sheet = np.ones(
        (rows * (height + gap) - gap, columns * (width + gap) - gap, 3), dtype=np.float32
    )
    for i, picture in enumerate(pictures[: columns * rows]):
        top, left = (i // columns) * (height + gap), (i % columns) * (width + gap)
        sheet[top : top + height, left : left + width] = picture
    return sheet
