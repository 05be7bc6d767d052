"""Several extractors side by side: fidelity, importances, maps of one image, aligned concepts.

Each extractor has one colour in all figures; controls are grey and dashed. Functions know arrays
only.
"""

from __future__ import annotations

import colorsys
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from math import ceil
from textwrap import wrap
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure, FigureBase
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from xplique_dirpairs.plots.concepts import draw_crop_sheet, draw_importances
from xplique_dirpairs.plots.images import draw_picture
from xplique_dirpairs.plots.palette import Color, concept_colors
from xplique_dirpairs.plots.side_by_side import ALIKE, draw_lit

_GREYS = ((0.35, 0.35, 0.35), (0.6, 0.6, 0.6))
_DASHES = ("--", ":")
#: Further colours are dark and less different: their lines are dashed, each in another way.
_COLORS_ALONE = 7
#: Bars further below are cut off there, and say their value.
_LOWEST_BAR = -0.5
#: Characters of a name in one line of a label.
_NAME_WIDTH = 16


@dataclass(frozen=True)
class ExtractorStyle:
    """How an extractor is drawn."""

    color: Color
    line: str | tuple


@dataclass(frozen=True)
class ExtractorCurves:
    """Means over the images: (I + 1,) after 0, 1, … concepts, and (n,) at n changes."""

    name: str
    deletion: NDArray
    insertion: NDArray
    by_change: NDArray


@dataclass(frozen=True)
class ExtractorBars:
    """Importances of some concepts and their standard errors, (n,) each, largest first."""

    name: str
    concepts: NDArray
    values: NDArray
    errors: NDArray


@dataclass(frozen=True)
class ConceptMap:
    """One concept on one image: its contribution to the class's logit, its map (H, W)."""

    concept: int
    contribution: float
    shown: NDArray


@dataclass(frozen=True)
class AlignedConcept:
    """A concept of each of two extractors, and the crops (k, patch, patch, 3) they are best in."""

    ours: int
    theirs: int
    correlation: float
    our_crops: NDArray
    their_crops: NDArray


def extractor_styles(
    names: Sequence[str], controls: Collection[str] = ()
) -> dict[str, ExtractorStyle]:
    """Name → style, in the order given; controls are grey and take no colour."""
    own = [name for name in names if name not in controls]
    grey = [name for name in names if name in controls]
    dashes = ((0, (6, 1.5)), (0, (2, 1)), (0, (6, 1, 1, 1)))
    styles = {
        name: ExtractorStyle(color, "-" if k < _COLORS_ALONE else dashes[k % len(dashes)])
        for k, (name, color) in enumerate(zip(own, concept_colors(len(own)), strict=True))
    }
    for k, name in enumerate(grey):
        styles[name] = ExtractorStyle(_GREYS[k % 2], _DASHES[k % 2])
    return {name: styles[name] for name in names}


# ------------------------------------------------------------------------------ fidelity


def plot_fidelity(
    curves: Sequence[ExtractorCurves],
    changes: NDArray,
    bars: Mapping[str, NDArray],
    styles: Mapping[str, ExtractorStyle],
) -> Figure:
    """Deletion, insertion, deletion by the change of the features; below, bars of figures.

    Parameters
    ----------
    curves
        Of each extractor.
    changes : (n,)
        Fractions of the features' norm that ``by_change`` are at.
    bars
        Metric → (extractors, 3): figure and both ends of its interval, NaN where there is none.
    styles
        Of each extractor.
    """
    count = len(curves)
    low = 0.7 + 0.21 * count if bars else 0.0
    figure = plt.figure(
        figsize=(12.5, 3.6 + low + 0.25 * ceil(count / 5)),
        layout=ConstrainedLayoutEngine(hspace=0.06, h_pad=0.06),
    )
    heights = [3.6, low] if bars else [1.0]
    parts: Any = figure.subfigures(len(heights), 1, height_ratios=heights, squeeze=False)
    axes = parts[0, 0].subplots(1, 3, sharey=True)
    for curve in curves:
        style = styles[curve.name]
        how = {"color": style.color, "linestyle": style.line, "linewidth": 1.8}
        for ax, values in zip(axes, (curve.deletion, curve.insertion), strict=False):
            few = len(values) < 12
            ax.plot(values, marker="o" if few else None, markersize=3.5, **how)
        axes[2].plot(changes, curve.by_change, **how, label=curve.name)
    titles = {
        "deletion ↓": "concepts switched off",
        "insertion ↑": "concepts switched on",
        "deletion at equal change ↓": "change of the features (of their norm)",
    }
    for ax, (title, label) in zip(axes, titles.items(), strict=True):
        _dress(ax, title)
        ax.set_xlabel(label)
        ax.set_ylim(0.0, 1.02)
        ax.set_xlim(left=0.0)
    for ax in axes[:2]:
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes[2].set_xlim(changes[0], changes[-1])
    axes[0].set_ylabel("probability of the class")
    names = [_short(curve.name, 30) for curve in curves]
    figure.legend(
        axes[2].get_lines(), names, loc="outside lower center", ncols=min(count, 5), frameon=False,
        handlelength=3.0,
    )  # fmt: skip
    if bars:
        _draw_bars(parts[1, 0], bars, [curve.name for curve in curves], styles)
    return figure


def _draw_bars(
    figure: FigureBase,
    bars: Mapping[str, NDArray],
    names: Sequence[str],
    styles: Mapping[str, ExtractorStyle],
) -> None:
    """A panel for each metric with a scale of its own, extractors one below the other."""
    axes = figure.subplots(1, len(bars), squeeze=False, sharey=True)[0]
    places = np.arange(len(names))
    for ax, (title, figures) in zip(axes, bars.items(), strict=True):
        values, low, high = np.asarray(figures, float).T
        shown = np.maximum(values, _LOWEST_BAR)
        ax.barh(places, shown, color=[styles[name].color for name in names], height=0.72)
        errors = np.stack([values - low, high - values])
        drawn = np.isfinite(errors).all(axis=0) & (values >= _LOWEST_BAR)
        ax.errorbar(
            values[drawn], places[drawn], xerr=np.maximum(errors[:, drawn], 0.0),
            fmt="none", ecolor="black", elinewidth=1.0, capsize=2,
        )  # fmt: skip
        for place, value in zip(places, values, strict=True):
            if not np.isfinite(value) or value < _LOWEST_BAR:
                text = f"{value:.1f}" if np.isfinite(value) else "–"
                ax.text(0, place, f" {text}", va="center", fontsize=8, color="0.3")
        ax.axvline(0.0, color="0.3", linewidth=0.8)
        ax.margins(x=0.04)
        ax.xaxis.set_major_locator(MaxNLocator(4))
        _dress(ax, title)
        ax.tick_params(axis="y", length=0)
    axes[0].set_yticks(places, [_short(name, 24, lines=1) for name in names])
    axes[0].set_ylim(len(names) - 0.4, -0.6)


# ------------------------------------------------------------------------------ importances


def plot_extractor_importances(
    extractors: Sequence[ExtractorBars], styles: Mapping[str, ExtractorStyle]
) -> Figure:
    """A panel for each extractor: importances, largest first, with their standard errors."""
    columns = min(4, len(extractors))
    rows = ceil(len(extractors) / columns)
    most = max(len(extractor.concepts) for extractor in extractors)
    width = min(5.0, max(2.6, 0.26 * most + 0.8))
    figure, axes = plt.subplots(
        rows, columns, figsize=(columns * width + 0.4, 2.3 * rows + 0.3),
        squeeze=False, sharey=True, layout="constrained",
    )  # fmt: skip
    figure.draw_without_rendering()  # labels are as large as there is room for
    for ax in axes.flat[len(extractors) :]:
        ax.set_axis_off()
    for k, (ax, extractor) in enumerate(zip(axes.flat, extractors, strict=False)):
        color = styles[extractor.name].color
        colors = [color] * len(extractor.concepts)
        draw_importances(ax, extractor.concepts, extractor.values, colors, "")
        places = np.arange(len(extractor.concepts))
        ax.errorbar(
            places, extractor.values, yerr=extractor.errors,
            fmt="none", ecolor="black", elinewidth=1.0, capsize=2,
        )  # fmt: skip
        ax.set_title(_short(extractor.name, 30), fontsize=10, color=color, fontweight="bold")
        ax.set_ylabel("total Sobol index" if k % columns == 0 else "", fontsize=9)
        is_last = k + columns >= len(extractors)
        ax.set_xlabel("concept" if is_last else "", fontsize=9)
        ax.tick_params(axis="y", labelsize=8)
    highest = max(float(np.max(e.values + e.errors, initial=0.0)) for e in extractors)
    axes[0, 0].set_ylim(0.0, max(1.05 * highest, 1e-6))
    return figure


# ------------------------------------------------------------------------------ pictures


def plot_extractor_maps(
    picture: NDArray,
    rows: Mapping[str, Sequence[ConceptMap]],
    styles: Mapping[str, ExtractorStyle],
    title: str,
) -> Figure:
    """One picture under every extractor, lit only where each of its concepts is.

    Parameters
    ----------
    picture : (height, width, 3)
        In [0, 1].
    rows
        Extractor → its concepts, from left to right. A map is as bright as it goes at its maximum.
    styles
        Of each extractor.
    """
    columns = max(len(concepts) for concepts in rows.values())
    size = 1.45
    height = size * picture.shape[0] / picture.shape[1] + 0.3
    label = 1.75
    figure, axes = plt.subplots(
        len(rows), columns + 1,
        figsize=(label + size * (columns + 1), height * len(rows) + 0.45),
        squeeze=False,
    )  # fmt: skip
    width, tall = figure.get_size_inches()
    figure.subplots_adjust(
        left=label / width, right=1 - 0.05 / width, bottom=0.05 / tall,
        top=1 - 0.7 / tall, wspace=0.05, hspace=0.3 / (height - 0.3),
    )  # fmt: skip
    figure.suptitle(title, fontsize=11, y=1 - 0.08 / tall, va="top")
    for ax in axes.flat:
        ax.set_axis_off()
    for line, (name, concepts) in zip(axes, rows.items(), strict=True):
        draw_picture(line[0], picture, interpolation="lanczos")
        color = styles[name].color
        line[0].text(
            -0.06, 0.5, _short(name), transform=line[0].transAxes, ha="right", va="center",
            color=color, fontweight="bold", fontsize=10,
        )  # fmt: skip
        for ax, found in zip(line[1:], concepts, strict=False):
            top = float(found.shown.max())
            draw_lit(ax, picture, found.shown / max(top, 1e-12), _bright(color))
            ax.set_axis_off()
            ax.set_title(
                f"{found.concept}: {found.contribution:+.2f}", fontsize=9, pad=3, color=color
            )
    return figure


def plot_aligned_concepts(
    a: str,
    b: str,
    aligned: Sequence[AlignedConcept],
    nb_crops: int,
    styles: Mapping[str, ExtractorStyle],
) -> Figure:
    """Concepts of two extractors in pairs: the best crops of both, and their correlation.

    Parameters
    ----------
    a, b
        The extractors' names.
    aligned
        The pairs, from top to bottom.
    nb_crops
        Crops in a row.
    """
    rows = len(aligned)
    figure, axes = plt.subplots(
        rows, 2, figsize=(2.6 + 1.7 * nb_crops, 0.9 + 0.95 * rows), squeeze=False
    )
    width, height = figure.get_size_inches()
    figure.subplots_adjust(
        left=0.5 / width, right=1 - 0.5 / width, top=1 - 0.8 / height, bottom=0.05 / height,
        wspace=1.2 / (0.85 * nb_crops), hspace=0.08,
    )  # fmt: skip
    figure.suptitle(
        "Concepts that are at the same places (r: correlation of their maps)",
        fontsize=11, y=1 - 0.08 / height, va="top",
    )  # fmt: skip
    for ax, name in zip(axes[0], (a, b), strict=True):
        ax.set_title(_short(name, 40), color=styles[name].color, fontweight="bold", fontsize=11)
    for line, pair in zip(axes, aligned, strict=True):
        sides = ((a, pair.ours, pair.our_crops), (b, pair.theirs, pair.their_crops))
        for side, (name, concept, crops) in enumerate(sides):
            ax, color = line[side], styles[name].color
            draw_crop_sheet(ax, crops, nb_crops, 1, color)
            ax.set_anchor("C")
            x, align = ((-0.02, "right"), (1.02, "left"))[side]
            ax.text(
                x, 0.5, str(concept), transform=ax.transAxes, ha=align, va="center",
                color=color, fontweight="bold",
            )  # fmt: skip
        boxes = [ax.get_position() for ax in line]
        figure.text(
            (boxes[0].x1 + boxes[1].x0) / 2, (boxes[0].y0 + boxes[0].y1) / 2,
            f"r = {pair.correlation:.2f}", ha="center", va="center", fontsize=10,
            color="black" if pair.correlation >= ALIKE else "0.55",
        )  # fmt: skip
    return figure


def _short(name: str, width: int = _NAME_WIDTH, lines: int = 2) -> str:
    """A name in at most so many lines, without markup."""
    found = wrap(" ".join(name.split()), width)
    if len(found) > lines:
        found = [*found[: lines - 1], found[lines - 1][: width - 1] + "…"]
    return "\n".join(found).replace("$", r"\$")


def _bright(color: Color) -> Color:
    """The colour, light enough for an outline on a darkened picture."""
    hue, light, saturation = colorsys.rgb_to_hls(*color)
    return colorsys.hls_to_rgb(hue, max(light, 0.65), saturation)


def _dress(ax: Axes, title: str) -> None:
    ax.set_title(title, fontsize=10)
    ax.tick_params(labelsize=8)
    ax.spines[["top", "right"]].set_visible(False)
