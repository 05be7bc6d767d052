"""Pictures made for concepts beside the best crops of photographs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import ceil

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure
from numpy.typing import ArrayLike, NDArray

from xplique_dirpairs.plots.concepts import draw_crop_sheet
from xplique_dirpairs.plots.images import Limits, as_picture, draw_picture
from xplique_dirpairs.plots.palette import Color, concept_colors

#: Concepts below one another; further ones go into a column of their own.
_ROWS = 10
#: Inches: side of a picture, width of a concept's number, between rows, above the first one.
_SIDE, _LABEL, _GAP, _TOP = 1.15, 0.75, 0.08, 0.5


def plot_maximised(
    made: Mapping[str, ArrayLike],
    crops: Sequence[NDArray],
    concepts: Sequence[int] | NDArray,
    *,
    limits: Limits | None = None,
    notes: Sequence[str] | None = None,
    colors: Sequence[Color] | None = None,
    nb_crops: int = 5,
    title: str = "",
) -> Figure:
    """A row for each concept: pictures made for it, then its best crops.

    Parameters
    ----------
    made
        What they were made along ("filter", "signal vector") → pictures (n, height, width, C).
    crops
        For each concept its best crops (k, patch, patch, C), best first; k may be 0.
    concepts
        Numbers of the n concepts.
    limits
        (lowest, highest) value of pictures and crops; None: each set's own, as `as_picture` takes
        it.
    notes
        A line of text for each concept, below its number.
    colors
        Of these concepts.
    nb_crops
        Crops shown of each.
    title

    Raises
    ------
    ValueError
        If there are no pictures, or not as many as concepts.
    """
    concepts = np.asarray(concepts)
    pictures = {name: as_picture(images, limits) for name, images in made.items()}
    counts = {name: len(images) for name, images in pictures.items()} | {"crops": len(crops)}
    wrong = {name: count for name, count in counts.items() if count != len(concepts)}
    if not pictures or not len(concepts) or wrong:
        raise ValueError(
            f"pictures and crops are wanted for each of {len(concepts)} concepts, not {counts}"
        )
    if colors is None:  # by number, also of some
        of_all = concept_colors(int(concepts.max()) + 1)
        colors = [of_all[int(i)] for i in concepts]
    blocks = ceil(len(concepts) / _ROWS)
    rows = ceil(len(concepts) / blocks)
    block = _LABEL + (_SIDE + _GAP) * len(pictures) + 0.12 + _SIDE * nb_crops + 0.25
    width, height = blocks * block, _TOP + rows * (_SIDE + _GAP)
    figure = plt.figure(figsize=(width, height))

    def place(left: float, top: float, wide: float):
        area = (left / width, 1 - (top + _SIDE) / height, wide / width, _SIDE / height)
        return figure.add_axes(area)

    for k, concept in enumerate(concepts):
        column, row = divmod(k, rows)
        left, top = column * block, _TOP + row * (_SIDE + _GAP)
        label = f"{concept}" if notes is None else f"{concept}\n{notes[k]}"
        figure.text(
            (left + _LABEL - 0.08) / width, 1 - (top + _SIDE / 2) / height, label,
            ha="right", va="center", fontsize=9, color=colors[k], fontweight="bold",
        )  # fmt: skip
        left += _LABEL
        for name, images in pictures.items():
            ax = place(left, top, _SIDE)
            draw_picture(ax, images[k], interpolation="lanczos")
            if row == 0:
                ax.set_title(name, fontsize=9, pad=4)
            left += _SIDE + _GAP
        shown = crops[k] if not len(crops[k]) else as_picture(crops[k], limits)
        ax = place(left + 0.12, top, _SIDE * nb_crops)
        draw_crop_sheet(ax, shown, nb_crops, 1, colors[k])
        if row == 0:
            ax.set_title("best crops", fontsize=9, pad=4)
    if title:
        figure.suptitle(title, fontsize=11, y=1 - 0.06 / height, va="top")
    return figure
