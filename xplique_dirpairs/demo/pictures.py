"""Pictures of the demo: concepts of both methods beside the truth, and images that went wrong."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from PIL import Image

from xplique_dirpairs.core.types import Array
from xplique_dirpairs.demo.detectors import Annotated, Detectors
from xplique_dirpairs.plots.images import draw_picture
from xplique_dirpairs.plots.palette import Color, concept_colors
from xplique_dirpairs.plots.style import HEADING, LABEL, SMALL, styled

#: Number of true concepts in the first picture.
SHOWN = 8
#: Brightness of an image where a concept is not.
_DIMMED = 0.3
#: Pictures with more bytes are saved with 256 colours.
_LARGE = 290_000
_TRUTH: Color = (0.15, 0.15, 0.15)


@styled
def plot_beside_truth(methods: Mapping[str, Detectors], held_out: Annotated) -> Figure:
    """Draw true concepts in held-out images, and where each method's best detector fires.

    The concepts are those with the highest IoU in the mean of the methods; of those that share a
    detector of any method only the first is drawn. The image of each concept is the one that suits
    the methods best, again in the mean.

    Parameters
    ----------
    methods : mapping of str to Detectors
        Name of each method → its detectors.
    held_out : Annotated
        The images on which they were scored.

    Returns
    -------
    figure : Figure
    """
    some = next(iter(methods.values()))
    names, side = some.dissection.flat_concepts, held_out.scenes.images.shape[1]
    mean_iou = np.mean([m.scores.iou for m in methods.values()], axis=0)
    chosen = _varied(np.argsort(-np.nan_to_num(mean_iou), kind="stable"), list(methods.values()))
    height = 1.5
    figure, axes = plt.subplots(
        1 + len(methods), len(chosen),
        figsize=(height * len(chosen) + 1.1, height * (1 + len(methods)) + 0.55),
        squeeze=False, layout=ConstrainedLayoutEngine(w_pad=0.02, h_pad=0.02, wspace=0, hspace=0),
    )  # fmt: skip
    colors = concept_colors(len(methods))
    for column, number in enumerate(chosen):
        category, name = names[number]
        image = _best_image(list(methods.values()), number)
        picture = np.clip(held_out.scenes.images[image], 0, 1)
        mask = held_out.scenes.masks[category][image]
        truth = mask == held_out.scenes.concepts[category].index(name) + 1
        axes[0, column].set_title(f"{name}\n({category})", fontsize=LABEL)
        _draw_lit(axes[0, column], picture, truth, _TRUTH)
        for ax, method, color in zip(axes[1:, column], methods.values(), colors, strict=True):
            fires = method.fires(held_out.activations[image], number, side)
            _draw_lit(ax, picture, fires, color)
            ax.text(
                0.97, 0.04, f"{method.scores.iou[number]:.2f}", transform=ax.transAxes,
                ha="right", va="bottom", fontsize=SMALL, color="black",
                bbox={"boxstyle": "round,pad=0.2", "facecolor": "white", "edgecolor": "none"},
            )  # fmt: skip
    for ax, label in zip(axes[:, 0], ["truth", *methods], strict=True):
        ax.text(
            -0.06, 0.5, label, transform=ax.transAxes, rotation=90, ha="right", va="center",
            fontsize=HEADING,
        )  # fmt: skip
    return figure


def _varied(ranked: Array, methods: Sequence[Detectors]) -> list[int]:
    """Return the first numbers of a ranking that share no detector of any method."""
    chosen: list[int] = []
    for number in ranked.tolist():
        is_new = all(m.best[number] not in m.best[chosen] for m in methods)
        if is_new and len(chosen) < SHOWN:
            chosen.append(number)
    return chosen


def _best_image(methods: Sequence[Detectors], number: int) -> int:
    """Return the image in which the methods' best detectors have the highest IoU, in the mean."""
    ious = []
    for method in methods:
        both, fires, truth = method.scores.image_counts[..., number].astype(float).T
        ious.append(both / np.maximum(fires + truth - both, 1))
    return int(np.mean(ious, axis=0).argmax())


def _draw_lit(ax: Axes, picture: Array, where: Array, color: Color) -> None:
    """Draw a picture that is dark except in a region, which is outlined."""
    light = np.where(where, 1.0, _DIMMED)[..., None]
    draw_picture(ax, picture * light, interpolation="lanczos")
    if where.any() and not where.all():
        ax.contour(where, levels=[0.5], colors=["white"], linewidths=2.2)
        ax.contour(where, levels=[0.5], colors=[color], linewidths=1.1)


@styled
def plot_repaired(
    images: Array, before: Sequence[str], after: Sequence[str], truth: Sequence[str]
) -> Figure:
    """Draw images with what the network says of them before and after the repair.

    Parameters
    ----------
    images : ndarray of shape (n, height, width, 3)
    before, after, truth : sequence of n str
        Names of the predicted classes, and of the true ones.

    Returns
    -------
    figure : Figure
    """
    figure, axes = plt.subplots(
        1, len(images), figsize=(1.75 * len(images), 2.35), squeeze=False, layout="constrained"
    )
    right, wrong = concept_colors(4)[2:]
    for ax, image, was, now, true in zip(axes[0], images, before, after, truth, strict=True):
        draw_picture(ax, np.clip(image, 0, 1), interpolation="lanczos")
        said = [(f"before: {was}", was == true), (f"after: {now}", now == true)]
        texts = [f"{text} {'✓' if is_right else '✗'}" for text, is_right in said]
        ax.set_title(texts[0], fontsize=LABEL, color=right if was == true else wrong)
        ax.text(
            0.5, -0.05, texts[1], transform=ax.transAxes, ha="center", va="top",
            fontsize=LABEL, color=right if now == true else wrong,
        )  # fmt: skip
    return figure


def save_picture(figure: Figure, path: Path, few_colors: bool = True) -> None:
    """Save a figure as PNG and close it; a large one without photographs gets 256 colours."""
    figure.savefig(path, dpi=100, bbox_inches="tight", pad_inches=0.08)
    plt.close(figure)
    if few_colors and path.stat().st_size > _LARGE:
        picture = Image.open(path).convert("RGB")
        # Without k-means, small things such as a pink balloon may lose their colour.
        reduced = picture.quantize(256, kmeans=1, dither=Image.Dither.NONE)
        reduced.save(path, optimize=True)
