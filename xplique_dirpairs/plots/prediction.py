"""Plots of predictions: the image, its concepts, their maps and their contributions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from xplique_dirpairs.core.geometry import upsample
from xplique_dirpairs.core.types import Array
from xplique_dirpairs.plots.images import draw_lit, draw_note, draw_picture
from xplique_dirpairs.plots.layout import Row, RowGrid, draw_signed_bars, label_bars, plain
from xplique_dirpairs.plots.palette import LOWERS, Color, concept_colors, signed_colors
from xplique_dirpairs.plots.style import HATCHES, LABEL, SMALL, SOFT, styled

_SIGNED = "RdBu_r"
#: Lengths in inches: heights of a row with maps and of a row without, widths of a column of names
#: and of a column of bars, height of a row in the list of classes.
_ROW, _THIN, _LABEL, _BARS, _CLASS = 1.05, 0.36, 1.1, 3.4, 0.27
#: Maximum numbers of concepts with maps in a figure, and of concepts in a waterfall alone.
MOST_WITH_MAPS, MOST_BARS = 20, 60
#: Colour of the last bar of a waterfall, the residual.
_LAST = (0.45, 0.45, 0.45)
#: Colours of the two images of a comparison.
_FIRST, _SECOND = concept_colors(2)


@dataclass(frozen=True, eq=False)
class PredictionRow(Row):
    """A contribution to the score of an image.

    It is that of a concept or, without maps, of the remaining concepts together or the residual.

    Attributes
    ----------
    contribution : float
        Contribution to the logit.
    presence : ndarray of shape (H, W), optional
        Map of the concept, with values of at least 0.
    contributions : ndarray of shape (H, W), optional
        Contribution of the concept at each position.
    """

    contribution: float
    presence: Array | None = None
    contributions: Array | None = None


@styled
def plot_prediction(
    picture: Array,
    likeliest: Sequence[tuple[str, float]],
    score_name: str,
    score: float,
    rows: Sequence[PredictionRow],
    nb_crops: int = 3,
) -> Figure:
    """Draw an image with its prediction, its concepts, and a waterfall of their contributions.

    Parameters
    ----------
    picture : ndarray of shape (height, width, 3)
        The image, with values in [0, 1].
    likeliest : sequence of (str, float)
        Names and probabilities of the most probable classes, the most probable one first.
    score_name : str
        Name of the score.
    score : float
        The score: the sum of all contributions.
    rows : sequence of PredictionRow
        Contributions, at least one, those with maps first; the waterfall starts from the last one.
    nb_crops : int, default=3
        Maximum number of crops of a concept.

    Returns
    -------
    figure : Figure
    """
    tall = picture.shape[0] / picture.shape[1]
    crops_width = _crops_width(rows, nb_crops)
    heights = [_THIN if row.contributions is None else _ROW for row in rows]
    map_width = _ROW / tall
    body = max(4.0, sum(heights))  # the image and its classes need space even if there are few rows
    side = min(2.7, (body - 0.3 - _CLASS * len(likeliest)) / tall)
    widths = [max(2.3, side), _LABEL, crops_width, map_width, map_width, _BARS]
    grid = RowGrid(heights, widths, above=0.85, below=0.75, least=body)
    name, probability = likeliest[0]
    grid.title(f"{plain(name)}, {probability:.0%}", f"{score_name}: {score:.2f}")
    draw_picture(grid.area(0, 0.0, side * tall), picture)
    classes = grid.area(0, side * tall + 0.14, _CLASS * len(likeliest))
    _draw_likeliest(classes, likeliest)
    grid.names(1, rows)
    grid.crops(2, rows, nb_crops)
    limit = _largest([row.contributions for row in rows])
    for k, row in enumerate(rows):
        if row.presence is not None:
            _draw_presence(grid.cell(k, 3), picture, row.presence, row.color)
        if row.contributions is not None:
            _draw_contributions(grid.cell(k, 4), picture, row.contributions, limit)
    if any(row.crops is not None for row in rows):
        grid.heading(2, "the concept")
    if limit:
        grid.heading(3, "its map")
        grid.heading(4, "its contribution")
        _draw_scale(grid, 4, limit)
    heading = f"from the residual (below) to {score:.2f} (above)"
    _draw_waterfall(grid.span(5, heading, "logits"), grid.middles, rows)
    return grid.figure


@styled
def plot_waterfall(score_name: str, score: float, rows: Sequence[PredictionRow]) -> Figure:
    """Draw a waterfall of contributions, from the last row (the residual) up to the score.

    Parameters
    ----------
    score_name : str
        Name of the score.
    score : float
        The score: the sum of all contributions.
    rows : sequence of PredictionRow
        Contributions, at least one.

    Returns
    -------
    figure : Figure
    """
    grid = RowGrid([_THIN * 0.8] * len(rows), [1.35, 4.6], above=0.72, below=0.5)
    details = f"{score:.2f}: the residual (below) plus the concepts' contributions"
    grid.title(plain(score_name, 52), details)
    grid.names(0, rows)
    _draw_waterfall(grid.span(1, unit="logits"), grid.middles, rows)
    return grid.figure


def _crops_width(rows: Sequence[Row], nb_crops: int) -> float:
    """Return the width of the column of crops, which is narrow if no row has crops."""
    return 0.75 * _ROW * nb_crops if any(row.crops is not None for row in rows) else 0.05


def _draw_presence(ax: Axes, picture: Array, presence: Array, color: Color) -> None:
    """Draw an image that is dark where the concept is absent, and outlined where it is present."""
    largest = float(presence.max())
    draw_lit(ax, picture, presence / max(largest, 1e-12), color)
    if largest <= 0:
        draw_note(ax, "not\ndetected", fontsize=SMALL, color="white")


def _draw_contributions(ax: Axes, picture: Array, values: Array, limit: float) -> None:
    """Draw values over a pale grey image: red above 0, blue below, most saturated at ±limit.

    Dashed outlines are around values below −limit / 3.
    """
    grey = np.repeat(picture.mean(axis=-1, keepdims=True), 3, axis=-1)
    draw_picture(ax, 0.45 + 0.5 * grey)
    shown = upsample(values[..., None].astype(np.float32), picture.shape[:2])[..., 0]
    limit = limit or 1.0
    share = np.clip(np.abs(shown) / limit, 0.0, 1.0)
    alpha = np.clip(1.4 * share**0.7, 0.0, 0.9)
    ax.imshow(shown, cmap=_SIGNED, norm=Normalize(-limit, limit), alpha=alpha)
    if shown.min() < -limit / 3 < shown.max():
        ax.contour(shown, levels=[-limit / 3], colors=[LOWERS], linewidths=0.9, linestyles="dashed")


def _draw_likeliest(ax: Axes, likeliest: Sequence[tuple[str, float]]) -> None:
    """Draw bars of the probabilities of the most probable classes."""
    places = np.arange(len(likeliest))
    values = np.array([probability for _, probability in likeliest])
    ax.barh(places, values, height=0.8, color=["0.6"] + ["0.85"] * (len(values) - 1))
    for place, (name, probability) in enumerate(likeliest):
        ax.text(0.02, place, plain(name, 26), va="center", fontsize=LABEL)
        ax.text(1.0, place, f"{probability:.0%}", va="center", ha="right", fontsize=LABEL)
    ax.set_xlim(0.0, 1.0)
    ax.set_ylim(len(values) - 0.5, -0.5)
    ax.set_axis_off()


def _draw_waterfall(ax: Axes, middles: Array, rows: Sequence[PredictionRow]) -> None:
    """Draw a bar for each contribution, which starts where the bar of the row below ends."""
    values = np.array([row.contribution for row in rows])
    ends = np.cumsum(values[::-1])[::-1]  # the last row starts from 0
    starts = ends - values
    colors = [*signed_colors(values[:-1]), _LAST]
    ax.barh(middles, values, left=starts, height=0.26, color=colors)
    for k in range(len(rows) - 1):
        ax.plot([starts[k]] * 2, middles[k : k + 2], color="0.6", linewidth=0.8, zorder=0)
    ax.axvline(0.0, color=SOFT, linewidth=0.8)
    ax.plot([ends[0]] * 2, [0.0, middles[0]], color=SOFT, linewidth=0.8, linestyle=":")
    label_bars(ax, middles, np.minimum(starts, ends), np.maximum(starts, ends), values)


def _largest(maps: Sequence[Array | None]) -> float:
    """Return the largest absolute value of several maps; 0 if there are none."""
    return max((float(np.abs(values).max()) for values in maps if values is not None), default=0.0)


def _draw_scale(grid: RowGrid, column: int, limit: float) -> None:
    """Draw a colour bar for contribution maps below their column."""
    ax = grid.area(column, grid.body + 0.12, 0.1)
    colors = ScalarMappable(Normalize(-limit, limit), _SIGNED)
    bar = grid.figure.colorbar(colors, cax=ax, orientation="horizontal")
    bar.set_ticks([-limit, 0.0, limit], labels=[f"−{limit:.2g}", "0", f"{limit:.2g}"])
    ax.tick_params(labelsize=SMALL, length=2)
    ax.set_xlabel("logits per position\n(dashed: negative)", fontsize=SMALL)


@dataclass(frozen=True, eq=False)
class ComparisonRow(Row):
    """A contribution to the scores of two images.

    It is that of a concept or, without maps, of the remaining concepts together or the residual.

    Attributes
    ----------
    values : (float, float)
        Contributions to the logits of the first and of the second image.
    maps : (ndarray of shape (H, W), ndarray of shape (H, W)), optional
        Contribution of the concept at each position of the first and of the second image.
    """

    values: tuple[float, float]
    maps: tuple[Array, Array] | None = None


@styled
def plot_two_predictions(
    pictures: tuple[Array, Array],
    score_name: str,
    scores: tuple[float, float],
    predicted: tuple[tuple[str, float], tuple[str, float]],
    rows: Sequence[ComparisonRow],
    nb_crops: int = 3,
) -> Figure:
    """Draw two images with the contributions of each concept to both, and their differences.

    Parameters
    ----------
    pictures : (ndarray, ndarray), of shape (height, width, 3) each
        The two images, with values in [0, 1].
    score_name : str
        Name of the score.
    scores : (float, float)
        Scores of the two images: the sums of all contributions.
    predicted : ((str, float), (str, float))
        Name and probability of the most probable class of each image.
    rows : sequence of ComparisonRow
        Contributions, at least one, those with maps first.
    nb_crops : int, default=3
        Maximum number of crops of a concept.

    Returns
    -------
    figure : Figure
    """
    wide = max(picture.shape[1] / picture.shape[0] for picture in pictures)
    heights = [1.9] + [_THIN if row.maps is None else _ROW for row in rows]
    widths = [_LABEL, _crops_width(rows, nb_crops), 1.9 * wide, 1.9 * wide, 2.3, 2.0]
    grid = RowGrid(heights, widths, above=0.98, below=0.75)
    grid.title(score_name, f"{scores[0]:.2f} in the first image, {scores[1]:.2f} in the second")
    middles = grid.middles[1:]
    grid.names(0, rows)
    grid.crops(1, rows, nb_crops)
    limit = max(_largest([None if r.maps is None else r.maps[j] for r in rows]) for j in (0, 1))
    for j, (name, probability) in enumerate(predicted):
        draw_picture(grid.cell(0, 2 + j), pictures[j])
        grid.heading(2 + j, f"{('first', 'second')[j]}: {plain(name, 20)}, {probability:.0%}")
        for k, row in enumerate(rows, start=1):
            if row.maps is not None:
                _draw_contributions(grid.cell(k, 2 + j), pictures[j], row.maps[j], limit)
    if limit:
        _draw_scale(grid, 2, limit)
    values = np.array([row.values for row in rows])
    ax = grid.span(4, "contribution in each", "logits")
    for j, (color, offset) in enumerate(((_FIRST, -0.085), (_SECOND, 0.085))):
        hatch = HATCHES[1] if j else ""
        ax.barh(
            middles + offset, values[:, j], height=0.15, color=color, hatch=hatch,
            edgecolor="white", linewidth=0.0,
        )  # fmt: skip
    ax.axvline(0.0, color=SOFT, linewidth=0.8)
    ax.legend(
        handles=[
            Patch(facecolor=_FIRST, edgecolor="white", label="first"),
            Patch(facecolor=_SECOND, edgecolor="white", hatch=HATCHES[1], label="second"),
        ],
        loc="upper left", frameon=True, facecolor="white", edgecolor="none", framealpha=1.0,
    )  # fmt: skip
    ax = grid.span(5, "first − second", "logits")
    draw_signed_bars(ax, middles, values[:, 0] - values[:, 1])
    return grid.figure
