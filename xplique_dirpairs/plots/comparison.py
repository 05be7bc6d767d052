"""Plots that compare extractors: fidelity, importances, maps of one image, aligned concepts.

Each extractor has one colour in all figures; controls are grey and dashed.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from math import ceil
from textwrap import fill
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure, FigureBase
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import MaxNLocator

from xplique_dirpairs.core.batching import as_positions
from xplique_dirpairs.core.linear_algebra import match
from xplique_dirpairs.core.types import Array
from xplique_dirpairs.plots.concepts import draw_importances
from xplique_dirpairs.plots.images import draw_crop_sheet, draw_lit, draw_picture
from xplique_dirpairs.plots.layout import dress, wrapped
from xplique_dirpairs.plots.palette import Color, bright, concept_colors, readable
from xplique_dirpairs.plots.style import (
    DASHES,
    HEADING,
    LABEL,
    MARKERS,
    SMALL,
    SOFT,
    most_rows,
    some_of,
    styled,
)

#: Two concepts count as alike if the correlation of their maps is at least this.
_ALIKE = 0.3
_GREYS = ((0.35, 0.35, 0.35), (0.6, 0.6, 0.6))
_DASHES = ("--", ":")
#: Number of colours that are told apart without dashes. Later ones are dark and similar, so their
#: lines are dashed, in different patterns.
_COLORS_ALONE = 7
#: Bars that reach below this value are cut off there, and their value is written beside them.
_LOWEST_BAR = -0.5
_ERROR_BAR: Any = {"fmt": "none", "ecolor": "black", "elinewidth": 1.0, "capsize": 2}
#: Maximum number of characters in one line of a label.
_NAME_WIDTH = 16
#: Markers of controls, and maximum number of concepts of an extractor in `plot_extractor_maps`.
_CONTROL_MARKERS, _MAPS = ("x", "+"), 12
#: Number of markers on a line.
_MARKED = 8


@dataclass(frozen=True)
class ExtractorStyle:
    """Colour, line style and marker of an extractor."""

    color: Color
    line: str
    marker: str = "o"


@dataclass(frozen=True)
class ExtractorCurves:
    """Mean class probabilities over images while concepts are deleted and inserted.

    Attributes
    ----------
    name : str
        Name of the extractor.
    deletion : ndarray of shape (I + 1,)
        Probability after 0, 1, …, I concepts have been switched off.
    insertion : ndarray of shape (I + 1,)
        Probability after 0, 1, …, I concepts have been switched on.
    by_change : ndarray of shape (n,)
        Probability under deletion, at each of n amounts of change of the features.
    """

    name: str
    deletion: Array
    insertion: Array
    by_change: Array


@dataclass(frozen=True)
class ExtractorBars:
    """Importances of an extractor's n concepts, in descending order.

    Attributes
    ----------
    name : str
        Name of the extractor.
    concepts : ndarray of shape (n,), int
        Numbers of the concepts.
    values : ndarray of shape (n,)
        Importances.
    errors : ndarray of shape (n,)
        Standard errors of the importances.
    """

    name: str
    concepts: Array
    values: Array
    errors: Array


@dataclass(frozen=True)
class ConceptMap:
    """A concept of one image.

    Attributes
    ----------
    concept : int
        Number of the concept.
    contribution : float
        Contribution of the concept to the logit of the class.
    shown : ndarray of shape (H, W)
        Map of the concept.
    """

    concept: int
    contribution: float
    shown: Array


@dataclass(frozen=True)
class AlignedConcept:
    """Two concepts, one from each of two extractors, that match each other.

    Attributes
    ----------
    ours : int
        Number of the first extractor's concept.
    theirs : int
        Number of the second extractor's concept.
    correlation : float
        Correlation of their maps.
    our_crops : ndarray of shape (k, patch, patch, 3)
        Best crops of the first extractor's concept.
    their_crops : ndarray of shape (k, patch, patch, 3)
        Best crops of the second extractor's concept.
    """

    ours: int
    theirs: int
    correlation: float
    our_crops: Array
    their_crops: Array


def extractor_styles(
    names: Sequence[str], controls: Collection[str] = ()
) -> dict[str, ExtractorStyle]:
    """Choose a colour, a line style and a marker for each extractor.

    Parameters
    ----------
    names : sequence of str
        Names of the extractors.
    controls : collection of str, default=()
        Names of the extractors that are drawn in grey.

    Returns
    -------
    styles : dict of str to ExtractorStyle
        In the order of ``names``.
    """
    colored = [name for name in names if name not in controls]
    grey = [name for name in names if name in controls]
    dashes = DASHES[1:]
    styles = {
        name: ExtractorStyle(
            color,
            "-" if k < _COLORS_ALONE else dashes[k % len(dashes)],
            MARKERS[k % len(MARKERS)],
        )
        for k, (name, color) in enumerate(zip(colored, concept_colors(len(colored)), strict=True))
    }
    for k, name in enumerate(grey):
        styles[name] = ExtractorStyle(_GREYS[k % 2], _DASHES[k % 2], _CONTROL_MARKERS[k % 2])
    return {name: styles[name] for name in names}


# ------------------------------------------------------------------------------ fidelity


@styled
def plot_fidelity(
    curves: Sequence[ExtractorCurves],
    changes: Array,
    bars: Mapping[str, Array],
    styles: Mapping[str, ExtractorStyle],
) -> Figure:
    """Draw deletion and insertion curves above bars of further metrics.

    Parameters
    ----------
    curves : sequence of ExtractorCurves
        Curves of each extractor.
    changes : ndarray of shape (n,)
        Changes of the features at which ``by_change`` is given, as fractions of their norm.
    bars : mapping of str to ndarray of shape (len(curves), 3)
        For each metric, the value of every extractor and the lower and upper end of its interval;
        NaN where a value is missing.
    styles : mapping of str to ExtractorStyle
        Style of each extractor, by name.

    Returns
    -------
    figure : Figure
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
    for k, curve in enumerate(curves):
        style = styles[curve.name]
        options: Any = {"color": style.color, "linestyle": style.line, "linewidth": 1.8}
        options |= {"marker": style.marker, "markersize": 4.5}
        switched = (np.arange(len(curve.deletion)), np.arange(len(curve.insertion)))
        values_of = (curve.deletion, curve.insertion, curve.by_change)
        for ax, x, values in zip(axes, (*switched, changes), values_of, strict=True):
            # Markers of different lines are at different places and do not hide each other.
            every = ceil(len(values) / _MARKED)
            ax.plot(x, values, markevery=(k % every, every), label=curve.name, **options)
    titles = {
        "deletion ↓": "concepts switched off",
        "insertion ↑": "concepts switched on",
        "deletion at equal change ↓": "change of the features (of their norm)",
    }
    for ax, (title, label) in zip(axes, titles.items(), strict=True):
        dress(ax, title)
        ax.set_xlabel(label)
        ax.set_ylim(0.0, 1.02)
        ax.set_xlim(left=0.0)
    for ax in axes[:2]:
        ax.xaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10], integer=True))
    axes[2].set_xlim(changes[0], changes[-1])
    axes[0].set_ylabel("probability of the class")
    names = [wrapped(curve.name, 30) for curve in curves]
    figure.legend(
        axes[2].get_lines(), names, loc="outside lower center", ncols=min(count, 5),
        handlelength=3.0,
    )  # fmt: skip
    if bars:
        _draw_bars(parts[1, 0], bars, [curve.name for curve in curves], styles)
    return figure


def _draw_bars(
    figure: FigureBase,
    bars: Mapping[str, Array],
    names: Sequence[str],
    styles: Mapping[str, ExtractorStyle],
) -> None:
    """Draw a panel of horizontal bars for each metric, each panel on a scale of its own."""
    axes = figure.subplots(1, len(bars), squeeze=False, sharey=True)[0]
    places = np.arange(len(names))
    for ax, (title, intervals) in zip(axes, bars.items(), strict=True):
        values, low, high = np.asarray(intervals, float).T
        shown = np.maximum(values, _LOWEST_BAR)
        ax.barh(places, shown, color=[styles[name].color for name in names], height=0.72)
        errors = np.stack([values - low, high - values])
        drawn = np.isfinite(errors).all(axis=0) & (values >= _LOWEST_BAR)
        reach = np.maximum(errors[:, drawn], 0.0)
        ax.errorbar(values[drawn], places[drawn], xerr=reach, **_ERROR_BAR)
        for place, value in zip(places, values, strict=True):
            if not np.isfinite(value) or value < _LOWEST_BAR:
                text = f"{value:.1f}" if np.isfinite(value) else "–"
                ax.text(0, place, f" {text}", va="center", fontsize=SMALL, color=SOFT)
        ax.axvline(0.0, color=SOFT, linewidth=0.8)
        ax.margins(x=0.04)
        ax.xaxis.set_major_locator(MaxNLocator(4))
        dress(ax, title)
        ax.tick_params(axis="y", length=0)
    axes[0].set_yticks(places, [wrapped(name, 24, lines=1) for name in names])
    axes[0].set_ylim(len(names) - 0.4, -0.6)


# ------------------------------------------------------------------------------ importances


@styled
def plot_extractor_importances(
    extractors: Sequence[ExtractorBars], styles: Mapping[str, ExtractorStyle]
) -> Figure:
    """Draw a panel for each extractor with the importances of its concepts.

    Parameters
    ----------
    extractors : sequence of ExtractorBars
        Importances and standard errors of each extractor's concepts.
    styles : mapping of str to ExtractorStyle
        Style of each extractor, by name.

    Returns
    -------
    figure : Figure
    """
    columns = min(4, len(extractors))
    rows = ceil(len(extractors) / columns)
    most = max(len(extractor.concepts) for extractor in extractors)
    width = min(5.0, max(2.6, 0.26 * most + 0.8))
    figure, axes = plt.subplots(
        rows, columns, figsize=(columns * width + 0.4, 2.3 * rows + 0.3),
        squeeze=False, sharey=True, layout="constrained",
    )  # fmt: skip
    figure.draw_without_rendering()  # the size of the labels depends on the layout
    for ax in axes.flat[len(extractors) :]:
        ax.set_axis_off()
    for k, (ax, extractor) in enumerate(zip(axes.flat, extractors, strict=False)):
        color = styles[extractor.name].color
        colors = [color] * len(extractor.concepts)
        draw_importances(ax, extractor.concepts, extractor.values, colors, "")
        places = np.arange(len(extractor.concepts))
        ax.errorbar(places, extractor.values, yerr=extractor.errors, **_ERROR_BAR)
        ax.set_title(wrapped(extractor.name, 30), color=readable(color), fontweight="bold")
        ax.set_ylabel("total Sobol index" if k % columns == 0 else "")
        is_last = k + columns >= len(extractors)
        ax.set_xlabel(ax.get_xlabel() if is_last else "")
    highest = max(float(np.max(e.values + e.errors, initial=0.0)) for e in extractors)
    axes[0, 0].set_ylim(0.0, max(1.05 * highest, 1e-6))
    return figure


# ------------------------------------------------------------------------------ pictures


def counterparts(maps: Array, other_maps: Array) -> tuple[Array, Array]:
    """Match two extractors' concepts one to one, so that their maps correlate most.

    Parameters
    ----------
    maps : ndarray of shape (N, H, W, I)
        Concept maps of the first extractor.
    other_maps : ndarray of shape (N, H, W, J)
        Concept maps of the other extractor, with J ≥ I.

    Returns
    -------
    partners : ndarray of shape (I,)
        Number of the other extractor's concept that is matched to each concept.
    correlations : ndarray of shape (I,)
        Pearson correlation of the two maps over all positions; 0 where a map is constant.

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
    ours, theirs = (_standardised(as_positions(m)) for m in (maps, other_maps))
    correlations = theirs.T @ ours / len(ours)
    partners = match(correlations)
    return partners, correlations[partners, np.arange(len(partners))]


def _standardised(values: Array) -> Array:
    """Return the columns of values (P, I) with mean 0 and deviation 1; constant columns are 0."""
    centred: Array = values - values.mean(axis=0)
    deviation = centred.std(axis=0)
    scaled: Array = np.divide(centred, deviation, out=np.zeros_like(centred), where=deviation > 0)
    return scaled


@styled
def plot_extractor_maps(
    picture: Array,
    rows: Mapping[str, Sequence[ConceptMap]],
    styles: Mapping[str, ExtractorStyle],
    title: str,
) -> Figure:
    """Draw an image once for every concept of every extractor, bright where the concept is.

    Parameters
    ----------
    picture : ndarray of shape (height, width, 3)
        The image, with values in [0, 1].
    rows : mapping of str to sequence of ConceptMap
        Concepts of each extractor, from left to right; at most 12 are drawn, and the title says so.
        Each map is scaled to its own maximum.
    styles : mapping of str to ExtractorStyle
        Style of each extractor, by name.
    title : str
        Title of the figure.

    Returns
    -------
    figure : Figure
    """
    most = max(len(concepts) for concepts in rows.values())
    columns = min(most, _MAPS)
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
    note = some_of(columns, most, "concepts")
    title = fill("; ".join(part for part in (title, note) if part), int(12 * width))
    figure.suptitle(title, fontsize=HEADING, y=1 - 0.08 / tall, va="top")
    for ax in axes.flat:
        ax.set_axis_off()
    for line, (name, concepts) in zip(axes, rows.items(), strict=True):
        draw_picture(line[0], picture, interpolation="lanczos")
        color = styles[name].color
        line[0].text(
            -0.06, 0.5, wrapped(name, _NAME_WIDTH), transform=line[0].transAxes, ha="right",
            va="center", color=readable(color), fontweight="bold", fontsize=HEADING,
        )  # fmt: skip
        for ax, concept in zip(line[1:], concepts, strict=False):
            top = float(concept.shown.max())
            draw_lit(ax, picture, concept.shown / max(top, 1e-12), bright(color))
            text = f"{concept.concept}: {concept.contribution:+.2f}"
            ax.set_title(text, fontsize=LABEL, pad=3, color=readable(color))
    return figure


@styled
def plot_aligned_concepts(
    a: str,
    b: str,
    aligned: Sequence[AlignedConcept],
    nb_crops: int,
    styles: Mapping[str, ExtractorStyle],
) -> Figure:
    """Draw the best crops of matching concepts of two extractors, with their correlation.

    Parameters
    ----------
    a : str
        Name of the first extractor.
    b : str
        Name of the second extractor.
    aligned : sequence of AlignedConcept
        Pairs of concepts, from top to bottom. As many as fit are drawn; the title says how many.
    nb_crops : int
        Maximum number of crops of a concept.
    styles : mapping of str to ExtractorStyle
        Style of each extractor, by name.

    Returns
    -------
    figure : Figure
    """
    note = some_of(min(len(aligned), most_rows(0.95)), len(aligned), "pairs")
    aligned = aligned[: most_rows(0.95)]
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
        "Concepts found at the same places (r: correlation of their maps"
        f"{'; ' if note else ''}{note})",
        fontsize=HEADING, y=1 - 0.08 / height, va="top",
    )  # fmt: skip
    for ax, name in zip(axes[0], (a, b), strict=True):
        ax.set_title(wrapped(name, 40), color=readable(styles[name].color), fontweight="bold")
    for line, pair in zip(axes, aligned, strict=True):
        sides = ((a, pair.ours, pair.our_crops), (b, pair.theirs, pair.their_crops))
        for side, (name, concept, crops) in enumerate(sides):
            ax, color = line[side], styles[name].color
            draw_crop_sheet(ax, crops, nb_crops, 1, color)
            x, align = ((-0.02, "right"), (1.02, "left"))[side]
            ax.text(
                x, 0.5, str(concept), transform=ax.transAxes, ha=align, va="center",
                color=readable(color), fontweight="bold",
            )  # fmt: skip
        boxes = [ax.get_position() for ax in line]
        figure.text(
            (boxes[0].x1 + boxes[1].x0) / 2, (boxes[0].y0 + boxes[0].y1) / 2,
            f"r = {pair.correlation:.2f}", ha="center", va="center", fontsize=HEADING,
            color="black" if pair.correlation >= _ALIKE else "0.55",
        )  # fmt: skip
    return figure
