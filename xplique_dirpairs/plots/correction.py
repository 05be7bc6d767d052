"""Confusion matrices before and after a correction."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

#: Up to so many classes every cell has its number, and every class its name.
_NUMBERED, _NAMED = 12, 40
_LONGEST_NAME = 20
#: Longer ones stand upright below the columns: side by side they would overlap.
_SHORT_NAME = 5


def plot_correction(
    confusions: Mapping[str, tuple[NDArray, NDArray]], class_names: Sequence[str]
) -> Figure:
    """Two confusion matrices for each group of images: before, and after.

    Colours are shares of a class (a row); numbers are images.

    Parameters
    ----------
    confusions
        By group: (K, K) counts of class (rows) and prediction (columns), before and after.
    class_names : K of them

    Raises
    ------
    ValueError
        If there is nothing to draw, or matrices and names do not fit.
    """
    classes = len(class_names)
    matrices = {name: [np.asarray(m) for m in pair] for name, pair in confusions.items()}
    if not matrices or any(m.shape != (classes, classes) for p in matrices.values() for m in p):
        raise ValueError(f"confusions must be pairs of ({classes}, {classes}) matrices by group")
    names = [_short(name) for name in class_names]
    side = float(np.clip(0.55 * classes, 1.7, 6.0))
    margin = 0.5 + (0.075 * max(map(len, names)) if classes <= _NAMED else 0.2)
    figure, axes = plt.subplots(
        2, len(matrices), squeeze=False, layout="constrained",
        figsize=((side + margin) * len(matrices) + 0.4, 2 * (side + margin + 0.35)),
    )  # fmt: skip
    for column, (name, pair) in enumerate(matrices.items()):
        for row, (matrix, when) in enumerate(zip(pair, ("before", "after"), strict=True)):
            ax = axes[row, column]
            _draw(ax, matrix, names)
            right = np.trace(matrix) / max(matrix.sum(), 1)
            ax.set_title(f"{_short(name)}, {when}: {right:.1%} right", fontsize=9)
            if column == 0:
                ax.set_ylabel("class", fontsize=9)
            if row == 1:
                ax.set_xlabel("prediction", fontsize=9)
    return figure


def _draw(ax: Axes, matrix: NDArray, names: Sequence[str]) -> None:
    classes = len(names)
    shares = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    ax.imshow(shares, cmap="Blues", vmin=0.0, vmax=1.0)
    if classes <= _NUMBERED:
        for i, j in np.ndindex(matrix.shape):
            color = "white" if shares[i, j] > 0.55 else "0.2"
            ax.text(j, i, str(matrix[i, j]), ha="center", va="center", fontsize=8, color=color)
    if classes <= _NAMED:
        size = 8 if classes <= 20 else 6
        upright = classes > 4 or max(map(len, names)) > _SHORT_NAME
        ax.set_xticks(range(classes), names, rotation=90 if upright else 0, fontsize=size)
        ax.set_yticks(range(classes), names, fontsize=size)
    ax.tick_params(length=0)


def _short(name: str) -> str:
    line = " ".join(str(name).split())
    line = line if len(line) <= _LONGEST_NAME else line[: _LONGEST_NAME - 1] + "…"
    return line.replace("$", r"\$")
