"""Pictures of concepts in videos: strips of frames, and short animations."""

from __future__ import annotations

import os
from collections.abc import Sequence
from textwrap import fill
from typing import IO

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from xplique_dirpairs.core.geometry import upsample
from xplique_dirpairs.core.types import Array
from xplique_dirpairs.core.validation import check_integer
from xplique_dirpairs.plots.images import Limits, as_picture
from xplique_dirpairs.plots.layout import plain
from xplique_dirpairs.plots.palette import Color, concept_colors
from xplique_dirpairs.plots.style import (
    HEADING,
    MARKERS,
    SMALL,
    SMALLEST,
    different,
    most_rows,
    some_of,
    styled,
)

#: Brightness of a frame where a concept is absent, and share of its colour where it is present.
_DIMMED, _TINT = 0.35, 0.35
#: Smallest side of the frames of an animation, in pixels.
_SIDE = 192
#: Width of a frame and height of a row of frames in a figure, in inches.
_COLUMN, _ROW = 1.1, 1.15


def frames_with_map(
    video: Array, concept_map: Array, limits: Limits | None = None, color: Color | None = None
) -> Array:
    """Return the frames of a video, dimmed where a concept is absent and tinted where it is.

    Parameters
    ----------
    video : ndarray of shape (T, height, width, C)
        Frames.
    concept_map : ndarray of shape (T′, H, W)
        Map of the concept over the video, such as a mask; values at or below 0 count as absent. A
        map of fewer frames than the video is held over several of them.
    limits : (float, float), optional
        Pixel values shown as black and white.
    color : (float, float, float), optional
        Colour of the concept. None: the first one of the palette.

    Returns
    -------
    frames : ndarray of shape (T, height, width, 3)
        RGB in [0, 1].
    """
    pictures = as_picture(video, limits)
    values = np.maximum(np.asarray(concept_map, np.float32), 0.0)
    values = values / max(float(values.max()), 1e-12)
    held = values[np.arange(len(pictures)) * len(values) // len(pictures)]
    shape = (pictures.shape[1], pictures.shape[2])
    share = np.clip(np.stack([upsample(one[..., None], shape) for one in held]), 0.0, 1.0)
    tinted = (1.0 - _TINT) * pictures + _TINT * np.asarray(color or concept_colors(1)[0])
    return np.asarray(share * tinted + (1.0 - share) * _DIMMED * pictures, np.float32)


@styled
def plot_strips(
    title: str, videos: Sequence[Array], frames: int = 8, names: Sequence[str] | None = None
) -> Figure:
    """Draw a row of evenly spaced frames for each video.

    Parameters
    ----------
    title : str
        Title of the figure.
    videos : sequence of ndarray of shape (T, height, width, 3)
        RGB frames in [0, 1], such as `frames_with_map` returns.
    frames : int, default=8
        Largest number of frames of a row, at most 23.
    names : sequence of str, optional
        Name of each row.

    Returns
    -------
    figure : Figure
        As many videos as fit have a row, the first ones; the title says so.
    """
    columns = min(frames, max(len(video) for video in videos), most_rows(_COLUMN))
    note = some_of(min(len(videos), most_rows(_ROW)), len(videos), "videos")
    videos = videos[: most_rows(_ROW)]
    figure, axes = plt.subplots(
        len(videos), columns, squeeze=False, layout="constrained",
        figsize=(_COLUMN * columns + 0.8, _ROW * len(videos) + 0.7),
    )  # fmt: skip
    for row, video in enumerate(videos):
        chosen = np.linspace(0, len(video) - 1, columns).round().astype(int)
        for ax, t in zip(axes[row], chosen, strict=True):
            ax.imshow(np.clip(video[t], 0.0, 1.0), interpolation="nearest")
            ax.set_xticks([])
            ax.set_yticks([])
            ax.spines[:].set_visible(False)
            if row == len(videos) - 1:
                ax.set_xlabel(f"frame {t}", fontsize=SMALLEST)
        if names is not None:
            axes[row, 0].set_ylabel(plain(names[row], 16), fontsize=SMALL)
    title = "; ".join(part for part in (plain(title, 80), note) if part)
    figure.suptitle(fill(title, int(12 * figure.get_figwidth())), fontsize=HEADING)
    return figure


@styled
def plot_over_time(
    title: str,
    video: Array,
    names: Sequence[str],
    colors: Sequence[Color],
    values: Array,
    frames: int = 8,
) -> Figure:
    """Draw evenly spaced frames of a video above curves of values over its time.

    Parameters
    ----------
    title : str
        Title of the figure.
    video : ndarray of shape (T, height, width, 3)
        RGB frames in [0, 1].
    names : sequence of K str
        Name of each curve.
    colors : sequence of K (float, float, float)
        Colour of each curve.
    values : ndarray of shape (T′, K)
        Values, in logits, of T′ equal parts of the video.
    frames : int, default=8
        Largest number of frames, at most 23.

    Returns
    -------
    figure : Figure
        Each frame stands above its time.
    """
    columns = min(frames, len(video), most_rows(_COLUMN))
    figure = plt.figure(figsize=(max(6.0, _COLUMN * columns + 0.8), 4.8), layout="constrained")
    grid = figure.add_gridspec(2, columns, height_ratios=(1.0, 2.4))
    for column in range(columns):
        ax = figure.add_subplot(grid[0, column])
        t = int((column + 0.5) * len(video) / columns)
        ax.imshow(np.clip(video[t], 0.0, 1.0), interpolation="nearest")
        ax.set_xticks([])
        ax.set_yticks([])
        ax.spines[:].set_visible(False)
        ax.set_xlabel(f"frame {t}", fontsize=SMALLEST)
    ax = figure.add_subplot(grid[1, :])
    times = (np.arange(len(values)) + 0.5) * len(video) / len(values) - 0.5
    looks = zip(names, colors, different(MARKERS, len(names)), values.T, strict=True)
    for name, color, marker, curve in looks:
        ax.plot(times, curve, color=color, marker=marker, markersize=4, label=plain(name, 24))
    ax.axhline(0.0, color="0.6", linewidth=0.8, zorder=0)
    ax.set_xlim(-0.5, len(video) - 0.5)
    ax.set_xlabel("frame")
    ax.set_ylabel("contribution (logits)")
    figure.legend(loc="outside lower center", ncols=3, fontsize=SMALL)
    figure.suptitle(fill(plain(title, 80), int(9 * figure.get_figwidth())), fontsize=HEADING)
    return figure


def save_animation(
    path: str | os.PathLike[str] | IO[bytes],
    frames: Array,
    milliseconds: int = 120,
    side: int = _SIDE,
) -> None:
    """Write frames as an animated WebP, which browsers show without a player.

    Parameters
    ----------
    path : str, path-like or binary file
        File to write; its name should end in ``.webp``. Or an open one, such as `io.BytesIO`.
    frames : ndarray of shape (T, height, width, 3)
        RGB frames in [0, 1].
    milliseconds : int, default=120
        How long each frame is shown.
    side : int, default=192
        Smaller frames are enlarged by a whole factor to at least this side.

    Raises
    ------
    ValueError
        If an argument is out of range.
    OSError
        If the file cannot be written.
    """
    check_integer("milliseconds", milliseconds)
    check_integer("side", side)
    pixels = np.round(255 * np.clip(frames, 0.0, 1.0)).astype(np.uint8)
    factor = max(1, -(-side // max(pixels.shape[1:3])))
    pixels = pixels.repeat(factor, axis=1).repeat(factor, axis=2)
    first, *others = [Image.fromarray(frame) for frame in pixels]
    first.save(
        path, format="WEBP", save_all=True, append_images=others, duration=milliseconds, loop=0,
        quality=85,
    )  # fmt: skip
