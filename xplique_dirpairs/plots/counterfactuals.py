"""Pictures of counterfactuals: of one image, and of which concepts changed many."""

from __future__ import annotations

from typing import TYPE_CHECKING

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from xplique_dirpairs.plots.images import as_picture, draw_picture
from xplique_dirpairs.plots.palette import concept_colors

if TYPE_CHECKING:
    from xplique_dirpairs.interventions.counterfactual_result import (
        Counterfactual,
        Counterfactuals,
    )

#: Concepts whose maps are drawn; the bars show all.
_MAPS = 4
#: Classes whose probabilities are drawn along the path.
_CLASSES = 5
#: Moved concepts that `draw_moved_concepts` has room for.
_BARS = 50
_LONGEST = 26
_GREY = "0.45"
_FALLS, _RISES = (0.13, 0.40, 0.67), (0.70, 0.09, 0.17)


def plot_counterfactual(found: Counterfactual, title: str = "") -> Figure:
    """What was moved and where, the way of the probabilities, how far from the data.

    Parameters
    ----------
    found
        One of `Counterfactuals`.
    title
        None given: what changed.
    """
    bars = max(1, min(len(found.concepts), _BARS))
    shown = min(len(found.concepts), _MAPS) if found.maps_before.ndim == 3 else 0
    lower = max(1.9, 0.75 + 0.24 * bars)
    # a row of maps, before above after, if there are maps; below it bars and distances
    heights = [3.0, lower] if not shown else [3.0, 3.5, lower]
    figure = plt.figure(figsize=(10.0, sum(heights) + 0.6), layout="constrained")
    grid = figure.add_gridspec(len(heights), 1, height_ratios=heights)
    top = grid[0].subgridspec(1, 2, width_ratios=(1.0, 2.2))
    ax = figure.add_subplot(top[0])
    _draw_image(ax, found)
    draw_path(figure.add_subplot(top[1]), found)
    if shown:
        _draw_all_maps(figure, grid[1].subgridspec(2, max(shown, 3)), found, shown)
    bottom = grid[len(heights) - 1].subgridspec(1, 2, width_ratios=(1.5, 1.0))
    draw_moved_concepts(figure.add_subplot(bottom[0]), found)
    corner = bottom[1]
    if lower > 3.0:  # two rows of distances stay together, however many concepts were moved
        corner = corner.subgridspec(2, 1, height_ratios=(2.0, lower - 2.0))[0]
    draw_distances(figure.add_subplot(corner), found)
    figure.suptitle(title or _headline(found), fontsize=12)
    return figure


def draw_path(ax: Axes, found: Counterfactual) -> Axes:
    """Class probabilities along the move, of the classes that are ever the most probable ones."""
    order = np.argsort(-found.probabilities.max(axis=0), kind="stable")[:_CLASSES]
    first = [found.before] + ([found.after] if found.after != found.before else [])
    classes = first + [int(k) for k in order if k not in first]
    colors = concept_colors(len(classes))
    for rank, k in enumerate(classes[: max(_CLASSES, len(first))]):
        ax.plot(
            100 * found.path,
            found.probabilities[:, k],
            color=colors[rank],
            linewidth=2.2 if rank < len(first) else 1.2,
            label=_short(found.class_names[k]),
        )
    ax.set_xlim(0, 100)
    ax.set_ylim(-0.02, 1.02)
    ax.set_xlabel("way of the move, %", fontsize=9)
    ax.set_ylabel("class probability", fontsize=9)
    ax.tick_params(labelsize=8)
    ax.legend(fontsize=8, frameon=False, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    ax.spines[["top", "right"]].set_visible(False)
    return ax


def draw_moved_concepts(ax: Axes, found: Counterfactual) -> Axes:
    """An arrow for each moved concept, from what there was to what there is.

    On the scale of what training images have: 0 and 1 are the ends of their range.
    """
    count = min(len(found.concepts), _BARS)
    if not count:
        ax.text(0.5, 0.5, "no concept was moved", ha="center", va="center", color=_GREY)
        ax.set_axis_off()
        return ax
    low, high = found.range_of_means[:, :count]
    span = np.where(high > low, high - low, 1.0)
    before = (found.means_before[:count] - low) / span
    after = (found.means_after[:count] - low) / span
    size = min(9.0, 400.0 / count)
    for place in range(count):
        color = _RISES if after[place] > before[place] else _FALLS
        ax.plot([0, 1], [place, place], color="0.9", linewidth=min(7.0, 250 / count), zorder=0,
                solid_capstyle="butt")  # fmt: skip
        ax.annotate(
            "", xy=(after[place], place), xytext=(before[place], place),
            arrowprops={
                "arrowstyle": "-|>", "color": color, "linewidth": 1.6,
                "shrinkA": 0, "shrinkB": 0, "mutation_scale": 11,
            },
        )  # fmt: skip
        ax.plot(before[place], place, "o", color=color, markersize=4)
    names = [
        f"{_short(found.concept_names[i])}: {word}"
        for i, word in zip(found.concepts[:count], found.words[:count], strict=True)
    ]
    ax.set_yticks(range(count), names, fontsize=size)
    ax.set_ylim(count - 0.4, -0.6)
    reach = np.concatenate([before, after, [0.0, 1.0]])
    ax.set_xlim(reach.min() - 0.04, reach.max() + 0.04)
    ax.set_xticks([0.0, 0.5, 1.0], ["least seen", "", "most seen"], fontsize=8)
    ax.set_xlabel("amount in the image, among training images", fontsize=9)
    ax.spines[["top", "right", "left"]].set_visible(False)
    ax.tick_params(axis="y", length=0)
    left_out = len(found.concepts) - count
    if left_out:
        ax.set_title(f"{left_out} more were moved", fontsize=8, loc="left")
    return ax


def draw_distances(ax: Axes, found: Counterfactual) -> Axes:
    """Both distances to the training features, before and after, and where images are.

    The bar spans the 1st to the 99th percentile of the training images, with a tick at the median.
    """
    rows = (("positions", "of its positions"), ("image", "of the image"))
    most = 1.0
    for place, (name, _) in enumerate(rows):
        own = getattr(found.training_distances, name)
        limit = float(np.quantile(own, 0.99)) or 1.0
        low, middle, high = np.quantile(own, [0.01, 0.5, 0.99]) / limit
        ax.plot([low, high], [place, place], color="0.8", linewidth=9, solid_capstyle="butt")
        ax.plot([middle, middle], [place - 0.14, place + 0.14], color="white", linewidth=1.5)
        before = float(getattr(found.distances_before, name)[0]) / limit
        after = float(getattr(found.distances_after, name)[0]) / limit
        ax.plot(before, place, "o", color="black", markerfacecolor="white", markersize=7,
                label="before" if not place else None)  # fmt: skip
        ax.plot(after, place, "o", color="black", markersize=5,
                label="after" if not place else None)  # fmt: skip
        most = max(most, before, after)
    ax.axvline(1.0, color=_RISES, linewidth=1.0, linestyle=":")
    ax.set_xlim(-0.06 * most, 1.08 * most)  # a training image's own distance is 0: all of its mark
    ax.set_ylim(1.6, -0.6)
    ax.set_yticks(range(2), [label for _, label in rows], fontsize=9)
    ax.set_title("distance to the training features", fontsize=9, loc="left", pad=20)
    ax.set_xlabel("1: 99th percentile of the images there", fontsize=8)
    ax.tick_params(axis="x", labelsize=8)
    ax.tick_params(axis="y", length=0)
    ax.legend(fontsize=8, frameon=False, loc="lower left", bbox_to_anchor=(0, 1), ncols=2)
    ax.spines[["top", "right", "left"]].set_visible(False)
    return ax


def plot_moves(found: Counterfactuals, title: str = "", at_most: int = 25) -> Figure:
    """Which concepts changed which predictions: a row for each change of class, the most frequent.

    Colour: mean change of what an image has of the concept, of the range among training images;
    red rises, blue falls.

    Parameters
    ----------
    found
    title
    at_most
        Rows; how many are left out is said.

    Raises
    ------
    ValueError
        If no prediction was changed.
    """
    if not found.found.any():
        raise ValueError("no prediction was changed: there is nothing to draw")
    low, high = found.range_of_means
    span = np.maximum(high - low, 1e-12)
    changes = (found.means_after - found.means_before) / span
    pairs = np.stack([found.before, found.after], axis=1)[found.found]
    kinds, kind, counts = np.unique(pairs, axis=0, return_inverse=True, return_counts=True)
    order = np.argsort(-counts, kind="stable")[:at_most]
    of_kind = [changes[found.found][kind.ravel() == k].mean(axis=0) for k in order]
    values = np.stack(of_kind)
    columns = np.flatnonzero((np.abs(values) > 1e-6).any(axis=0))
    values = values[:, columns]
    names = found.class_names
    rows = [f"{_short(names[a])} → {_short(names[b])} ({counts[k]})"
            for k, (a, b) in zip(order, kinds[order], strict=True)]  # fmt: skip
    heads = [_short(found.concept_names[i]) for i in columns]
    width = 1.2 + 0.075 * max(map(len, rows)) + 0.28 * len(columns)
    height = 1.6 + 0.26 * len(rows) + 0.07 * max(map(len, heads))
    figure, ax = plt.subplots(figsize=(max(5.0, width), height), layout="constrained")
    top = float(np.abs(values).max())
    picture = ax.imshow(values, cmap="RdBu_r", vmin=-top, vmax=top, aspect="auto")
    ax.set_yticks(range(len(rows)), rows, fontsize=8)
    ax.set_xticks(range(len(heads)), heads, fontsize=8, rotation=90)
    ax.set_xticks(np.arange(len(heads) + 1) - 0.5, minor=True)
    ax.set_yticks(np.arange(len(rows) + 1) - 0.5, minor=True)
    ax.grid(which="minor", color="white", linewidth=1.0)
    ax.tick_params(which="both", length=0)
    ax.spines[:].set_visible(False)
    bar = figure.colorbar(picture, ax=ax, shrink=0.8, aspect=20)
    bar.set_label("mean change, of the range seen", fontsize=8)
    bar.ax.tick_params(labelsize=8)
    left_out = len(kinds) - len(order)
    said = [title] if title else []
    if left_out:
        said.append(f"the {len(order)} most frequent of {len(kinds)} changes")
    if said:
        ax.set_title("\n".join(said), fontsize=10)
    return figure


def _headline(found: Counterfactual) -> str:
    before, after = (_short(found.class_names[k]) for k in (found.before, found.after))
    if not found.found:
        return f"{before}: {found.status}; nearest attempt"
    return f"{before} → {after}: features changed by {100 * found.changed:.0f} %"


def _draw_image(ax: Axes, found: Counterfactual) -> None:
    start, end = found.probabilities[0], found.probabilities[-1]
    lines = [f"{_short(found.class_names[found.before])}: {start[found.before]:.2f}"]
    if found.after != found.before:
        k = found.after
        lines.append(f"{_short(found.class_names[k])}: {start[k]:.2f}, then {end[k]:.2f}")
    if found.image is None:
        ax.text(0.5, 0.5, "\n".join(lines), ha="center", va="center", fontsize=10)
        ax.set_axis_off()
        return
    draw_picture(ax, as_picture(found.image))
    ax.set_title("\n".join(lines), fontsize=9)


def _draw_all_maps(figure: Figure, grid, found: Counterfactual, shown: int) -> None:
    for column in range(shown):
        before, after = found.maps_before[..., column], found.maps_after[..., column]
        top = max(float(before.max()), float(after.max()), 1e-12)
        low = min(float(before.min()), float(after.min()), 0.0)
        for place, values in enumerate((before, after)):
            ax = figure.add_subplot(grid[place, column])
            _draw_map(ax, values, (low, top), found)
            name = _short(found.concept_names[found.concepts[column]])
            if not place:
                ax.set_title(name, fontsize=9)
            label = "before" if not place else f"after: {found.words[column]}"
            ax.set_xlabel(label, fontsize=8)


def _draw_map(ax: Axes, values: NDArray, limits: tuple[float, float], found: Counterfactual):
    low, high = limits
    if found.image is not None:
        picture = as_picture(found.image).mean(axis=-1)
        extent = (0.0, values.shape[1], values.shape[0], 0.0)
        ax.imshow(picture, cmap="gray", vmin=-1.2, vmax=1.0, extent=extent)
        drawn = ax.imshow(
            values, cmap="magma", vmin=low, vmax=high, extent=extent, alpha=0.65,
        )  # fmt: skip
    else:
        drawn = ax.imshow(values, cmap="magma", vmin=low, vmax=high)
    drawn.set_interpolation("nearest")
    ax.set_xticks([])
    ax.set_yticks([])


def _short(name: str) -> str:
    line = " ".join(str(name).split())
    line = line if len(line) <= _LONGEST else line[: _LONGEST - 1] + "…"
    return line.replace("$", r"\$")
