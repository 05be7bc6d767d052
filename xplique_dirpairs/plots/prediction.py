"""A prediction in one picture: the image, its concepts, where they are and what they add."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from numpy.typing import NDArray

from xplique_dirpairs.core.geometry import upsample
from xplique_dirpairs.plots.images import OUTLINE, as_picture, draw_picture
from xplique_dirpairs.plots.palette import Color, concept_colors
from xplique_dirpairs.plots.row_grid import (
    LOWERS,
    RAISES,
    RowGrid,
    draw_crops,
    draw_names,
    label_bars,
    plain,
)

_SIGNED = "RdBu_r"
#: Inches: rows with maps, and without; columns of names and of bars.
_ROW, _THIN, _LABEL, _BARS = 1.05, 0.36, 1.1, 3.4
#: Brightness that is left of an image where a concept is not.
_DIMMED = 0.35
_LIKELY = (0.45, 0.45, 0.45)
#: The two images of a comparison.
_FIRST, _SECOND = concept_colors(2)


@dataclass(frozen=True, eq=False)
class PredictionRow:
    """A concept in one image, or, without maps, something else that adds to the score.

    Attributes
    ----------
    name
    color
    contribution
        In logits.
    crops : (k, patch, patch, 3), or None
    presence, contributions : (H, W), or None
        Where the concept is, and what it adds there.
    """

    name: str
    color: Color
    contribution: float
    crops: NDArray | None = None
    presence: NDArray | None = None
    contributions: NDArray | None = None


def plot_prediction(
    picture: NDArray,
    likeliest: Sequence[tuple[str, float]],
    score_name: str,
    score: float,
    rows: Sequence[PredictionRow],
    nb_crops: int = 3,
) -> Figure:
    """The image and its prediction; concepts, strongest first: crops, maps; the waterfall.

    Parameters
    ----------
    picture : (height, width, 3)
        In [0, 1].
    likeliest
        (name, probability) of classes.
    score_name, score
        What the contributions sum to.
    rows
        Those with maps first; the last one is where the waterfall starts from.
    nb_crops
        Room for so many, if any row has crops.

    Raises
    ------
    ValueError
        If there are no rows.
    """
    if not rows:
        raise ValueError("there is nothing to show")
    tall = picture.shape[0] / picture.shape[1]
    with_crops = any(row.crops is not None for row in rows)
    heights = [_THIN if row.contributions is None else _ROW for row in rows]
    map_width = _ROW / tall
    crops_width = 0.75 * _ROW * nb_crops if with_crops else 0.05
    body = max(4.0, sum(heights))  # a short list still leaves room for the image and its classes
    side = min(2.7, (body - 0.3 - 0.27 * len(likeliest)) / tall)
    widths = [max(2.3, side), _LABEL, crops_width, map_width, map_width, _BARS]
    grid = RowGrid(heights, widths, above=0.85, below=0.75, least=body)
    name, probability = likeliest[0]
    grid.title(f"{plain(name)}, {probability:.0%}", f"{score_name}: {score:.2f}")

    ax = grid.area(0, 0.0, side * tall)
    draw_picture(ax, picture)
    _draw_likeliest(grid, side * tall, likeliest)
    draw_names(grid.words(1), grid.middles, [r.name for r in rows], [r.color for r in rows])
    limit = _largest([row.contributions for row in rows])
    for k, row in enumerate(rows):
        if row.crops is not None:
            _draw_crops(grid.cell(k, 2), row, nb_crops)
        if row.presence is not None:
            draw_presence(grid.cell(k, 3), picture, row.presence, row.color)
        if row.contributions is not None:
            draw_contributions(grid.cell(k, 4), picture, row.contributions, limit)
    if with_crops:
        grid.heading(2, "the concept")
    if limit:
        grid.heading(3, "where it is")
        grid.heading(4, "what it adds")
        _scale(grid, 4, limit)
    _draw_waterfall(grid, 5, rows, score)
    grid.heading(5, f"from the residual (below) to {score:.2f} (above)")
    return grid.figure


def plot_waterfall(score_name: str, score: float, rows: Sequence[PredictionRow]) -> Figure:
    """From the last row, the residual, up to the score: a bar for each row.

    Raises
    ------
    ValueError
        If there are no rows.
    """
    if not rows:
        raise ValueError("there is nothing to show")
    grid = RowGrid([_THIN * 0.8] * len(rows), [1.35, 4.6], above=0.72, below=0.5)
    grid.title(
        plain(score_name, 52), f"{score:.2f}: the residual's share, below, and the concepts'"
    )
    draw_names(grid.words(0), grid.middles, [r.name for r in rows], [r.color for r in rows])
    _draw_waterfall(grid, 1, rows, score)
    return grid.figure


def draw_presence(ax: Axes, picture: NDArray, presence: NDArray, color: Color) -> None:
    """An image, dark where the concept is not, and outlined where it is.

    Parameters
    ----------
    ax
    picture : (height, width, 3)
    presence : (H, W)
        At least 0.
    color
    """
    largest = float(presence.max())
    shape = picture.shape[:2]
    shares = np.zeros(shape) if largest <= 0 else upsample(
        presence[..., None] / largest, shape
    )[..., 0]  # fmt: skip
    light = _DIMMED + (1 - _DIMMED) * np.clip(shares / 0.6, 0.0, 1.0)
    draw_picture(ax, picture * light[..., None])
    if largest <= 0:
        ax.text(
            0.5, 0.5, "not\ndetected", ha="center", va="center", fontsize=8, color="white",
            transform=ax.transAxes,
        )  # fmt: skip
    if min(presence.shape) > 1 and largest > 0 and shares.min() < OUTLINE:
        ax.contour(shares, levels=[OUTLINE], colors=["white"], linewidths=2.6)
        ax.contour(shares, levels=[OUTLINE], colors=[color], linewidths=1.5)


def draw_contributions(ax: Axes, picture: NDArray, values: NDArray, limit: float) -> None:
    """Signed values over a pale grey image, red above 0 and blue below; ±limit is strongest."""
    grey = np.repeat(picture.mean(axis=-1, keepdims=True), 3, axis=-1)
    draw_picture(ax, 0.45 + 0.5 * grey)
    shown = upsample(values[..., None].astype(np.float32), picture.shape[:2])[..., 0]
    share = np.clip(np.abs(shown) / (limit or 1.0), 0.0, 1.0)
    ax.imshow(
        shown, cmap=_SIGNED, norm=Normalize(-(limit or 1.0), limit or 1.0),
        alpha=np.clip(1.4 * share**0.7, 0.0, 0.9),
    )  # fmt: skip


def _draw_crops(ax: Axes, row: PredictionRow | ComparisonRow, count: int) -> None:
    crops = row.crops if row.crops is not None else np.zeros((0, 1, 1, 3))
    if len(crops) and crops.dtype != np.uint8:
        crops = (255 * as_picture(crops)).astype(np.uint8)
    draw_crops(ax, crops, count, row.color)


def _draw_likeliest(grid: RowGrid, top: float, likeliest: Sequence[tuple[str, float]]) -> None:
    """Bars of the likeliest classes' probabilities under the image."""
    ax = grid.area(0, top + 0.14, 0.27 * len(likeliest))
    places = np.arange(len(likeliest))
    values = np.array([probability for _, probability in likeliest])
    ax.barh(places, values, height=0.8, color=["0.6"] + ["0.85"] * (len(values) - 1))
    for place, (name, probability) in enumerate(likeliest):
        ax.text(0.02, place, plain(name, 26), va="center", fontsize=8.5)
        ax.text(1.0, place, f"{probability:.0%}", va="center", ha="right", fontsize=8.5)
    ax.set_xlim(0.0, 1.0)
    ax.set_ylim(len(values) - 0.5, -0.5)
    ax.set_axis_off()


def _draw_waterfall(
    grid: RowGrid, column: int, rows: Sequence[PredictionRow], score: float
) -> None:
    ax = grid.span(column)
    values = np.array([row.contribution for row in rows])
    ends = np.cumsum(values[::-1])[::-1]  # the last row starts from 0
    starts = ends - values
    colors = [RAISES if value >= 0 else LOWERS for value in values]
    colors[-1] = _LIKELY
    ax.barh(grid.middles, values, left=starts, height=0.26, color=colors)
    for k in range(len(rows) - 1):
        ax.plot([starts[k]] * 2, grid.middles[k : k + 2], color="0.6", linewidth=0.8, zorder=0)
    ax.axvline(0.0, color="0.3", linewidth=0.8)
    ax.plot([ends[0]] * 2, [0.0, grid.middles[0]], color="0.3", linewidth=0.8, linestyle=":")
    lows, highs = np.minimum(starts, ends), np.maximum(starts, ends)
    label_bars(ax, grid.middles, lows, highs, values, 2)
    ax.set_xlabel("logits", fontsize=8)


def _largest(maps: Sequence[NDArray | None]) -> float:
    return max((float(np.abs(values).max()) for values in maps if values is not None), default=0.0)


def _scale(grid: RowGrid, column: int, limit: float) -> None:
    """The colours of contribution maps, under their column."""
    ax = grid.area(column, grid.body + 0.12, 0.1)
    bar = grid.figure.colorbar(
        ScalarMappable(Normalize(-limit, limit), _SIGNED), cax=ax, orientation="horizontal"
    )
    bar.set_ticks([-limit, 0.0, limit], labels=[f"−{limit:.2g}", "0", f"{limit:.2g}"])
    ax.tick_params(labelsize=7.5, length=2)
    ax.set_xlabel("logits a position", fontsize=8)


@dataclass(frozen=True, eq=False)
class ComparisonRow:
    """A concept in two images, or, without maps, something else that adds to the score.

    Attributes
    ----------
    name
    color
    values
        Contribution in either image, in logits.
    crops : (k, patch, patch, 3), or None
    maps
        What the concept adds at each position of either image, (H, W) each, or None.
    """

    name: str
    color: Color
    values: tuple[float, float]
    crops: NDArray | None = None
    maps: tuple[NDArray, NDArray] | None = None


def plot_two_predictions(
    pictures: tuple[NDArray, NDArray],
    score_name: str,
    scores: tuple[float, float],
    predicted: tuple[tuple[str, float], tuple[str, float]],
    rows: Sequence[ComparisonRow],
    nb_crops: int = 3,
) -> Figure:
    """Two images side by side: what each concept adds in either, and the difference.

    Parameters
    ----------
    pictures : (height, width, 3) each
        In [0, 1].
    score_name, scores
        What the contributions sum to in either image.
    predicted
        (name, probability) of the likeliest class of either.
    rows
        Those with maps first.
    nb_crops
        Room for so many, if any row has crops.

    Raises
    ------
    ValueError
        If there are no rows.
    """
    if not rows:
        raise ValueError("there is nothing to show")
    with_crops = any(row.crops is not None for row in rows)
    wide = max(picture.shape[1] / picture.shape[0] for picture in pictures)
    heights = [1.9] + [_THIN if row.maps is None else _ROW for row in rows]
    crops_width = 0.75 * _ROW * nb_crops if with_crops else 0.05
    widths = [_LABEL, crops_width, 1.9 * wide, 1.9 * wide, 2.3, 2.0]
    grid = RowGrid(heights, widths, above=0.98, below=0.6)
    grid.title(score_name, f"{scores[0]:.2f} in the first image, {scores[1]:.2f} in the second")
    middles = grid.middles[1:]
    draw_names(grid.words(0), middles, [r.name for r in rows], [r.color for r in rows])
    limit = max(_largest([None if r.maps is None else r.maps[j] for r in rows]) for j in (0, 1))
    for j, (name, probability) in enumerate(predicted):
        draw_picture(grid.cell(0, 2 + j), pictures[j])
        grid.heading(2 + j, f"{('first', 'second')[j]}: {plain(name, 20)}, {probability:.0%}")
    for k, row in enumerate(rows):
        if row.crops is not None:
            _draw_crops(grid.cell(k + 1, 1), row, nb_crops)
        if row.maps is not None:
            for j in (0, 1):
                draw_contributions(grid.cell(k + 1, 2 + j), pictures[j], row.maps[j], limit)
    values = np.array([row.values for row in rows])
    _draw_both(grid, 4, middles, values)
    ax = grid.span(5)
    differences = values[:, 0] - values[:, 1]
    colors = [RAISES if value >= 0 else LOWERS for value in differences]
    ax.barh(middles, differences, height=0.26, color=colors)
    ax.axvline(0.0, color="0.3", linewidth=0.8)
    ends = np.minimum(differences, 0.0), np.maximum(differences, 0.0)
    label_bars(ax, middles, *ends, differences, 2)
    ax.set_xlabel("logits", fontsize=8)
    grid.heading(5, "first − second")
    return grid.figure


def _draw_both(grid: RowGrid, column: int, middles: NDArray, values: NDArray) -> None:
    ax = grid.span(column)
    for j, (color, offset) in enumerate(((_FIRST, -0.085), (_SECOND, 0.085))):
        ax.barh(middles + offset, values[:, j], height=0.15, color=color)
    ax.axvline(0.0, color="0.3", linewidth=0.8)
    ax.legend(
        handles=[Patch(color=_FIRST, label="first"), Patch(color=_SECOND, label="second")],
        fontsize=8, loc="upper left", facecolor="white", edgecolor="none", framealpha=1.0,
    )  # fmt: skip
    ax.set_xlabel("logits", fontsize=8)
    grid.heading(column, "contribution in either")
