"""Scenes of the demo: annotated scenes of 128 pixels, with or without a planted shortcut.

They are the scenes of `datasets.annotated_scenes` with smooth edges, and a sky that is paler
towards the horizon. Some have a white frame, as if they came from an album: in images with the
shortcut, most of one class and none of the others; otherwise half of the images of every class.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Literal, get_args

import cv2
import numpy as np

from xplique_dirpairs.core.types import Array
from xplique_dirpairs.data.annotated_images import AnnotatedImages
from xplique_dirpairs.datasets.annotated_scenes import (
    CLASS_NAMES,
    draw_scene,
    scene_labels,
)
from xplique_dirpairs.datasets.annotated_scenes import (
    CONCEPTS as CONCEPTS_OF_SCENES,
)
from xplique_dirpairs.datasets.scene_shapes import SIDE as UNITS
from xplique_dirpairs.datasets.scene_shapes import finer

#: Which images: those of the network's training, those that concepts are learned from, those that
#: detectors are scored on, and those that the repair is tried on.
Part = Literal["training", "learning", "held-out", "repair"]
#: Side of an image, in pixels.
SIDE = 128
#: What is planted, the only class with it in images with the shortcut, and its share there.
SHORTCUT = "frame"
SHORTCUT_CLASS = "picnic"
SHORTCUT_SHARE = 0.9
#: Category → names of its concepts: those of the scenes, and the frame.
CONCEPTS = CONCEPTS_OF_SCENES | {"object": (*CONCEPTS_OF_SCENES["object"], SHORTCUT)}
#: Width of the frame and of the line at its inner edge, in pixels, and share of images otherwise.
_FRAME, _LINE, _SHARE = 9, 2, 0.5
#: The drawing has twice as many pixels on each side as the image.
_DRAWN = 2 * SIDE
#: How much of the way to white the sky at the bottom of the image would be.
_PALE_SKY = 0.5
#: Last number of the seed of the frames; the scenes use smaller ones.
_STREAM = 9


def demo_scenes(
    numbers: Sequence[int],
    part: Part,
    seed: int = 0,
    *,
    planted: bool = False,
    without: Collection[str] = (),
) -> AnnotatedImages:
    """Draw scenes with exact masks.

    Parameters
    ----------
    numbers : sequence of n int
        Numbers of the images, such as ``range(400)``. The eight images from a multiple of eight are
        one of each class.
    part : {"training", "learning", "held-out", "repair"}
        No image occurs in two parts.
    seed : int, default=0
    planted : bool, default=False
        Whether frames occur in `SHORTCUT_CLASS` only, there in `SHORTCUT_SHARE` of the images.
        Otherwise half of the images of every class have one.
    without : collection of str, default=()
        Objects that are not drawn, so that what is behind them shows; "frame" is one of them.

    Returns
    -------
    scenes : AnnotatedImages
        Images (n, 128, 128, 3) float32 in [0, 1], exhaustive masks and labels; see
        `annotated_scenes`.
    """
    parts = get_args(Part)
    stream = len(parts) * seed + parts.index(part)
    labels = scene_labels(max(numbers) + 1, stream)[list(numbers)]

    objects = [name for name in without if name != SHORTCUT]

    def draw(number: int, label: int) -> tuple[Array, Array]:
        with finer(_DRAWN // UNITS):
            canvas = draw_scene(stream, number, label, objects)
        image, masks = _smooth(canvas.rgb, canvas.masks)
        share = _SHARE
        if planted:
            share = SHORTCUT_SHARE if CLASS_NAMES[label] == SHORTCUT_CLASS else 0.0
        has_frame = np.random.default_rng([stream, number, _STREAM]).random() < share
        if has_frame and SHORTCUT not in without:
            _put_frame(image, masks)
        return image, masks

    with ThreadPoolExecutor(2) as pool:
        images, masks = zip(*pool.map(draw, numbers, labels.tolist()), strict=True)
    by_category = dict(zip(CONCEPTS, np.stack(masks, axis=1), strict=True))
    return AnnotatedImages(
        np.stack(images), by_category, CONCEPTS, labels, CLASS_NAMES, exhaustive=True
    )


def _smooth(rgb: Array, masks: Array) -> tuple[Array, Array]:
    """Return the image (SIDE, SIDE, 3) of a drawing, and its masks (4, SIDE, SIDE).

    The image is the mean of four pixels, the mask that of one of them.
    """
    drawn = rgb.reshape(_DRAWN, _DRAWN, 3)
    masks = masks.reshape(-1, _DRAWN, _DRAWN)
    sky = masks[0] == CONCEPTS["object"].index("sky") + 1
    paleness = np.where(sky, np.linspace(0, _PALE_SKY, _DRAWN, dtype=np.float32)[:, None], 0)
    drawn = drawn + paleness[..., None] * (1 - drawn)
    image = cv2.resize(drawn, (SIDE, SIDE), interpolation=cv2.INTER_AREA)
    return image, masks[:, ::2, ::2].copy()


def _put_frame(image: Array, masks: Array) -> None:
    """Draw a white frame with a black line at its inner edge, in place."""
    for width, shade, colour in ((_FRAME, 0.12, "black"), (_FRAME - _LINE, 0.95, "white")):
        edge = np.ones(image.shape[:2], bool)
        edge[width:-width, width:-width] = False
        image[edge] = shade
        numbers = {"object": SHORTCUT, "colour": colour}
        for mask, (category, names) in zip(masks, CONCEPTS.items(), strict=True):
            mask[edge] = names.index(numbers[category]) + 1 if category in numbers else 0
