"""Plots of counterfactuals of one image and of many, and of corrections."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.gridspec import GridSpecBase

from xplique_dirpairs.core.types import Array
from xplique_dirpairs.plots.images import as_picture, draw_note, draw_picture
from xplique_dirpairs.plots.layout import dress, plain
from xplique_dirpairs.plots.palette import LOWERS, RAISES, concept_colors
from xplique_dirpairs.plots.style import (
    DASHES,
    HEADING,
    LABEL,
    NOTE,
    SMALL,
    SMALLEST,
    TITLE,
    styled,
)

#: Maximum number of concepts whose maps are drawn.
_MAPS = 4
#: Number of classes whose probabilities are drawn along the path.
_CLASSES = 5
#: Maximum number of moved concepts in the panel of changes, and in the table of mean changes.
_BARS, _COLUMNS = 50, 50
#: Cells of the table below minus this share of the largest change have a minus sign.
_SIGNED_FROM = 0.05

# ------------------------------------------------------------------ one counterfactual


@styled
def plot_counterfactual(
    title: str,
    image: Array | None,
    predicted: tuple[int, int],
    class_names: Sequence[str],
    path: Array,
    probabilities: Array,
    moves: Sequence[tuple[str, str]],
    amounts: Array,
    maps: Array,
    distances: Mapping[str, tuple[float, float, Array]],
) -> Figure:
    """Draw the moved concepts, class probabilities along the path, and distances to the data.

    Parameters
    ----------
    title : str
        Title of the figure.
    image : ndarray of shape (height, width, C) or None
        The image; None if it is not known.
    predicted : (int, int)
        Predicted class before and after the move.
    class_names : sequence of K str
        Names of the classes.
    path : ndarray of shape (steps,)
        Fractions of the move, from 0 to 1.
    probabilities : ndarray of shape (steps, K)
        Class probabilities at each fraction of the move.
    moves : sequence of k (str, str)
        Name of each moved concept and a word for its change, the largest change first.
    amounts : ndarray of shape (2, k)
        Amount of each concept before and after; 0 and 1 are the ends of its range in the training
        images.
    maps : ndarray of shape (2, *spatial, k)
        Coefficients before and after.
    distances : mapping of str to (float, float, ndarray)
        For each label, the distance to the training features before and after, and the distances
        of the training images.

    Returns
    -------
    figure : Figure
    """
    bars = max(1, min(len(moves), _BARS))
    shown = min(len(moves), _MAPS) if maps.ndim == 4 else 0
    lower = max(1.9, 0.75 + 0.24 * bars)
    # If there are maps, those before the move are above those after it; below are the changes and
    # the distances.
    heights = [3.0, lower] if not shown else [3.0, 3.5, lower]
    figure = plt.figure(figsize=(10.0, sum(heights) + 0.6), layout="constrained")
    grid = figure.add_gridspec(len(heights), 1, height_ratios=heights)
    top = grid[0].subgridspec(1, 2, width_ratios=(1.0, 2.2))
    _draw_image(figure.add_subplot(top[0]), image, predicted, class_names, probabilities)
    _draw_path(figure.add_subplot(top[1]), path, probabilities, class_names, predicted)
    if shown:
        _draw_maps(figure, grid[1].subgridspec(2, max(shown, 3)), image, maps, moves[:shown])
    bottom = grid[len(heights) - 1].subgridspec(1, 2, width_ratios=(1.5, 1.0))
    _draw_moved_concepts(figure.add_subplot(bottom[0]), moves, amounts)
    corner = bottom[1]
    if lower > 3.0:  # the two rows of distances stay close together if many concepts were moved
        corner = corner.subgridspec(2, 1, height_ratios=(2.0, lower - 2.0))[0]
    _draw_distances(figure.add_subplot(corner), distances)
    figure.suptitle(title, fontsize=TITLE)
    return figure


def _draw_image(
    ax: Axes,
    image: Array | None,
    predicted: tuple[int, int],
    class_names: Sequence[str],
    probabilities: Array,
) -> None:
    """Draw the image, with the probabilities of the classes before and after as its title."""
    (before, after), start, end = predicted, probabilities[0], probabilities[-1]
    lines = [f"{plain(class_names[before], 20)}: {start[before]:.2f}"]
    if after != before:
        name = plain(class_names[after], 20)
        lines += [name, f"{start[after]:.2f}, then {end[after]:.2f}"]
    if image is None:
        draw_note(ax, "\n".join(lines), fontsize=HEADING)
        ax.set_axis_off()
        return
    draw_picture(ax, as_picture(image))
    ax.set_title("\n".join(lines), fontsize=LABEL)


def _draw_path(
    ax: Axes,
    path: Array,
    probabilities: Array,
    class_names: Sequence[str],
    predicted: tuple[int, int],
) -> None:
    """Draw class probabilities along the path, for the classes with the highest maxima."""
    order = np.argsort(-probabilities.max(axis=0), kind="stable")[:_CLASSES]
    first = list(dict.fromkeys(predicted))
    classes = first + [int(k) for k in order if k not in first]
    colors = concept_colors(len(classes))
    for rank, k in enumerate(classes[: max(_CLASSES, len(first))]):
        width, label = 2.2 if rank < len(first) else 1.2, plain(class_names[k])
        style: Any = {"color": colors[rank], "linestyle": DASHES[rank % len(DASHES)]}
        ax.plot(100 * path, probabilities[:, k], **style, linewidth=width, label=label)
    ax.set_xlim(0, 100)
    ax.set_ylim(-0.02, 1.02)
    ax.set_xlabel("share of the move, %", fontsize=LABEL)
    ax.set_ylabel("class probability", fontsize=LABEL)
    dress(ax)
    ax.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), handlelength=3.0)


def _draw_maps(
    figure: Figure,
    grid: GridSpecBase,
    image: Array | None,
    maps: Array,
    moves: Sequence[tuple[str, str]],
) -> None:
    """Draw a column for each move: the concept map before it, and below the map after it."""
    for column, (name, word) in enumerate(moves):
        both = maps[..., column]
        low, high = min(float(both.min()), 0.0), max(float(both.max()), 1e-12)
        for row, (values, label) in enumerate(zip(both, ("before", f"after: {word}"), strict=True)):
            ax = figure.add_subplot(grid[row, column])
            extent = (0.0, values.shape[1], values.shape[0], 0.0)
            if image is not None:
                grey = as_picture(image).mean(axis=-1)
                ax.imshow(grey, cmap="gray", vmin=-1.2, vmax=1.0, extent=extent)
            alpha = None if image is None else 0.65
            ax.imshow(
                values, cmap="magma", vmin=low, vmax=high, extent=extent, alpha=alpha,
                interpolation="nearest",
            )  # fmt: skip
            ax.set_xticks([])
            ax.set_yticks([])
            ax.spines[:].set_visible(False)
            ax.set_xlabel(label, fontsize=SMALL)
            if not row:
                ax.set_title(plain(name), fontsize=LABEL)


def _draw_moved_concepts(ax: Axes, moves: Sequence[tuple[str, str]], amounts: Array) -> None:
    """Draw an arrow for each moved concept, from its amount before to its amount after."""
    if not moves:
        draw_note(ax, "no concept was moved", color=NOTE)
        ax.set_axis_off()
        return
    number = min(len(moves), _BARS)
    before, after = amounts[:, :number]
    for place, (start, end) in enumerate(zip(before, after, strict=True)):
        color = RAISES if end > start else LOWERS
        lane = ax.plot([0, 1], [place, place], color="0.9", zorder=0, solid_capstyle="butt")
        lane[0].set_linewidth(min(7.0, 250 / number))
        arrow = {"arrowstyle": "-|>", "color": color, "linewidth": 1.6, "mutation_scale": 11}
        arrow |= {"shrinkA": 0, "shrinkB": 0}
        ax.annotate("", xy=(end, place), xytext=(start, place), arrowprops=arrow)
        ax.plot(start, place, "o", color=color, markersize=4)
    labels = [f"{plain(name)}: {word}" for name, word in moves[:number]]
    ax.set_yticks(range(number), labels, fontsize=min(LABEL, 400.0 / number))
    ax.set_ylim(number - 0.4, -0.6)
    reach = np.concatenate([before, after, [0.0, 1.0]])
    ax.set_xlim(reach.min() - 0.04, reach.max() + 0.04)
    ax.set_xticks([0.0, 0.5, 1.0], ["smallest", "", "largest"], fontsize=SMALL)
    ax.set_xlabel("amount in the image, relative to training images", fontsize=LABEL)
    ax.spines["left"].set_visible(False)
    ax.tick_params(axis="y", length=0)
    if len(moves) > number:
        ax.set_title(f"{len(moves) - number} more were moved", fontsize=SMALL, loc="left")


def _draw_distances(ax: Axes, distances: Mapping[str, tuple[float, float, Array]]) -> None:
    """Draw each distance to the training features, before and after the move.

    A bar spans the 1st to the 99th percentile of the training images, with a tick at the median.
    """
    largest = 1.0
    for place, (before, after, training) in enumerate(distances.values()):
        limit = float(np.quantile(training, 0.99)) or 1.0
        low, middle, high = np.quantile(training, [0.01, 0.5, 0.99]) / limit
        ax.plot([low, high], [place, place], color="0.8", linewidth=9, solid_capstyle="butt")
        ax.plot([middle, middle], [place - 0.14, place + 0.14], color="white", linewidth=1.5)
        before, after = before / limit, after / limit
        ax.plot(before, place, "o", color="black", markerfacecolor="white", markersize=7)
        ax.plot(after, place, "o", color="black", markersize=5)
        largest = max(largest, before, after)
    ax.axvline(1.0, color=RAISES, linewidth=1.0, linestyle=":")
    # The distance of a training image is 0: the axis starts below 0, so that its mark is not cut.
    ax.set_xlim(-0.06 * largest, 1.08 * largest)
    ax.set_ylim(1.6, -0.6)
    ax.set_yticks(range(len(distances)), list(distances), fontsize=LABEL)
    ax.set_title("distance to the training features", fontsize=LABEL, loc="left", pad=20)
    ax.set_xlabel("1: 99th percentile of training images", fontsize=SMALL)
    ax.tick_params(axis="x", labelsize=SMALL)
    ax.tick_params(axis="y", length=0)
    points = [line for line in ax.get_lines() if line.get_marker() == "o"][:2]
    ax.legend(
        points, ["before", "after"], loc="lower left",
        bbox_to_anchor=(0, 1), ncols=2,
    )  # fmt: skip
    ax.spines[["top", "right", "left"]].set_visible(False)


# ------------------------------------------------------------------ many counterfactuals


@styled
def plot_moves(
    changes: Array, rows: Sequence[str], concept_names: Sequence[str], title: str = ""
) -> Figure:
    """Draw the mean change of each concept (columns) for each change of prediction (rows).

    Parameters
    ----------
    changes : ndarray of shape (len(rows), I)
        Mean change of each concept, as a share of its range in the training images; increases are
        drawn in red, decreases in blue, with a minus sign. At most 50 concepts are drawn, those
        that change most; the title says so.
    rows : sequence of str
        Labels of the rows.
    concept_names : sequence of I str
        Names of the concepts.
    title : str, default=""
        Title of the figure.

    Returns
    -------
    figure : Figure
    """
    strongest = np.argsort(-np.abs(changes).max(axis=0), kind="stable")[:_COLUMNS]
    columns = np.sort(strongest)
    changes = changes[:, columns]
    names = [plain(concept_names[i]) for i in columns]
    width = 1.2 + 0.075 * max(map(len, rows)) + 0.28 * len(names)
    height = 1.6 + 0.26 * len(rows) + 0.07 * max(map(len, names))
    figure, ax = plt.subplots(figsize=(max(5.0, width), height), layout="constrained")
    top = float(np.abs(changes).max())
    picture = ax.imshow(changes, cmap="RdBu_r", vmin=-top, vmax=top, aspect="auto")
    for row, column in np.argwhere(changes < -_SIGNED_FROM * top):
        color = "white" if changes[row, column] < -0.6 * top else "0.1"
        ax.text(column, row, "−", ha="center", va="center", color=color, fontweight="bold")
    ax.set_yticks(range(len(rows)), rows)
    ax.set_xticks(range(len(names)), names, rotation=90)
    ax.set_xticks(np.arange(len(names) + 1) - 0.5, minor=True)
    ax.set_yticks(np.arange(len(rows) + 1) - 0.5, minor=True)
    ax.grid(which="minor", color="white", linewidth=1.0)
    ax.tick_params(which="both", length=0)
    ax.spines[:].set_visible(False)
    bar = figure.colorbar(picture, ax=ax, fraction=0.4 / width, aspect=20, pad=0.01)
    bar.set_label("mean change (share of range)\n−: a decrease", fontsize=SMALL)
    note = f"the {len(columns)} most changed of {len(concept_names)} concepts"
    lines = [title, note if len(columns) < len(concept_names) else ""]
    ax.set_title("\n".join(line for line in lines if line))
    return figure


# ------------------------------------------------------------------ a correction

#: Maximum number of classes for which the cells show their counts, and the axes the class names.
_NUMBERED, _NAMED = 12, 40
#: Longer class names are rotated below the columns, because they would overlap otherwise.
_SHORT_NAME = 5


@styled
def plot_correction(
    confusions: Mapping[str, tuple[Array, Array]], class_names: Sequence[str]
) -> Figure:
    """Draw two confusion matrices for each group of images: before a correction, and after.

    Colours are shares of a row (a class); numbers are counts of images.

    Parameters
    ----------
    confusions : mapping of str to (ndarray, ndarray)
        For each group, the confusion matrices before and after, of shape (K, K): counts of images
        by class (rows) and prediction (columns).
    class_names : sequence of K str
        Names of the classes.

    Returns
    -------
    figure : Figure
    """
    classes = len(class_names)
    names = [plain(name, 20) for name in class_names]
    side = float(np.clip(0.55 * classes, 1.7, 6.5))
    margin = 0.5 + (0.075 * max(map(len, names)) if classes <= _NAMED else 0.2)
    figure, axes = plt.subplots(
        2, len(confusions), squeeze=False, layout="constrained",
        figsize=((side + margin) * len(confusions) + 0.4, 2 * (side + margin + 0.5)),
    )  # fmt: skip
    for column, (group, matrices) in enumerate(confusions.items()):
        for ax, matrix, when in zip(axes[:, column], matrices, ("before", "after"), strict=True):
            _draw_confusion(ax, matrix, names)
            accuracy = np.trace(matrix) / max(matrix.sum(), 1)
            ax.set_title(f"{plain(group, 20)}\n{when}: {accuracy:.1%} correct", fontsize=LABEL)
        axes[1, column].set_xlabel("prediction", fontsize=LABEL)
    for ax in axes[:, 0]:
        ax.set_ylabel("class", fontsize=LABEL)
    return figure


def _draw_confusion(ax: Axes, matrix: Array, names: Sequence[str]) -> None:
    """Draw a confusion matrix (K, K) whose rows are coloured by their shares."""
    classes = len(names)
    shares = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    ax.imshow(shares, cmap="Blues", vmin=0.0, vmax=1.0)
    if classes <= _NUMBERED:
        for i, j in np.ndindex(matrix.shape):
            color = "white" if shares[i, j] > 0.55 else "0.2"
            ax.text(j, i, str(matrix[i, j]), ha="center", va="center", fontsize=SMALL, color=color)
    if classes <= _NAMED:
        size = SMALL if classes <= 20 else SMALLEST
        upright = classes > 4 or max(map(len, names)) > _SHORT_NAME
        ax.set_xticks(range(classes), names, rotation=90 if upright else 0, fontsize=size)
        ax.set_yticks(range(classes), names, fontsize=size)
    ax.tick_params(length=0)
