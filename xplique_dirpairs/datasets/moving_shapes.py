"""Short videos of moving shapes with exact masks: classes by motion, or by shape.

One target and up to two distractors move over a ground of noise. The target is orange, distractors
are grey or blue. Every object has a shape, a texture and a motion; objects stay inside the frame.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from xplique_dirpairs.core.types import Array
from xplique_dirpairs.core.validation import check_choice, check_integer, check_random_state

SHAPES = ("disc", "square", "triangle", "cross")
TEXTURES = ("plain", "striped")
MOTIONS = ("left", "right", "up", "down", "still")
CLASSES = {"motion": MOTIONS, "shape": SHAPES}

#: Pixels per frame (down, right) of each motion.
_STEPS = np.array([(0, -1), (0, 1), (-1, 0), (1, 0), (0, 0)])
#: Side of the objects in pixels, and of the frames by default.
_SIDE, _FRAME = 11, 32
_OBJECTS = 3
#: Colours of the target and of the two distractors, and the brightness of dark stripes.
_COLORS = np.array([(1.0, 0.55, 0.1), (0.75, 0.75, 0.75), (0.3, 0.5, 0.95)], np.float32)
_DARK = 0.55
#: Mean and deviation of the ground, and deviation of the noise that differs from frame to frame.
_GROUND, _NOISE, _FLICKER = 0.25, 0.08, 0.02


@dataclass(frozen=True, eq=False)
class MovingShapes:
    """Videos of moving shapes, and what is in them. The first of three objects is the target.

    Attributes
    ----------
    videos : ndarray of shape (N, T, height, width, 3), float32
        N videos of T frames, in [0, 1].
    masks : ndarray of shape (N, 3, T, height, width), bool
        Visible pixels of each object in each frame; objects may hide others.
    shapes : ndarray of shape (N, 3), int
        Shape of each object, an index of `SHAPES`; −1: there is no such object.
    textures : ndarray of shape (N, 3), int
        Texture, an index of `TEXTURES`, or −1.
    motions : ndarray of shape (N, 3), int
        Motion, an index of `MOTIONS`, or −1.
    """

    videos: Array
    masks: Array
    shapes: Array
    textures: Array
    motions: Array

    def labels(self, by: str = "motion") -> Array:
        """Return the class of each video, (N,): the target's "motion", or its "shape".

        Raises
        ------
        ValueError
            If ``by`` is neither.
        """
        check_choice("by", by, tuple(CLASSES))
        return np.asarray((self.motions if by == "motion" else self.shapes)[:, 0])

    def masks_of(self, by: str = "shape") -> Array:
        """Return where objects of each shape, or motion, are visible, (N, K, T, height, width).

        Raises
        ------
        ValueError
            If ``by`` is neither "shape" nor "motion".
        """
        check_choice("by", by, tuple(CLASSES))
        kinds = self.motions if by == "motion" else self.shapes
        is_kind = kinds[:, :, None] == np.arange(len(CLASSES[by]))
        return np.asarray(np.einsum("nothw,nok->nkthw", self.masks, is_kind) > 0)


def moving_shapes(
    count: int = 200, frames: int = 16, side: int = _FRAME, random_state: int | None = 0
) -> MovingShapes:
    """Draw videos of moving shapes.

    Parameters
    ----------
    count : int, default=200
        Number of videos, N. Motions and shapes of the targets are equally frequent up to one video,
        and independent of one another.
    frames : int, default=16
        Number of frames, T. Objects move by one pixel a frame.
    side : int, default=32
        Height and width of the frames in pixels: at least ``frames`` + 10, the room for a motion.
    random_state : int or None, default=0
        Seed. None draws a seed.

    Returns
    -------
    data : MovingShapes

    Raises
    ------
    ValueError
        If an argument is out of range.
    """
    check_integer("count", count)
    check_integer("frames", frames)
    check_integer("side", side, frames + _SIDE - 1)
    rng = check_random_state(random_state)
    kinds = rng.permutation(np.arange(count) % (len(MOTIONS) * len(SHAPES)))
    shapes = rng.integers(len(SHAPES), size=(count, _OBJECTS))
    motions = rng.integers(len(MOTIONS), size=(count, _OBJECTS))
    shapes[:, 0], motions[:, 0] = kinds // len(MOTIONS), kinds % len(MOTIONS)
    textures = rng.integers(len(TEXTURES), size=(count, _OBJECTS))
    is_absent = np.arange(_OBJECTS) > rng.integers(_OBJECTS, size=(count, 1))
    for values in (shapes, motions, textures):
        values[is_absent] = -1
    ground = rng.normal(_GROUND, _NOISE, (count, 1, side, side, 3))
    noise = rng.normal(0.0, _FLICKER, (count, frames, side, side, 3))
    videos = (ground + noise).astype(np.float32)
    masks = np.zeros((count, _OBJECTS, frames, side, side), bool)
    outlines, patterns = _outlines(), _patterns()
    for n in range(count):
        for k in reversed(range(_OBJECTS)):  # the target is drawn last: nothing hides it
            if shapes[n, k] < 0:
                continue
            outline = outlines[shapes[n, k]]
            look = _COLORS[k] * patterns[textures[n, k]][..., None]
            for t, (top, left) in enumerate(_places(_STEPS[motions[n, k]], frames, side, rng)):
                window = (slice(top, top + _SIDE), slice(left, left + _SIDE))
                videos[n, t][window][outline] = look[outline]
                masks[n, :, t][(slice(None), *window)][:, outline] = False
                masks[n, k, t][window] = outline
    np.clip(videos, 0.0, 1.0, out=videos)
    return MovingShapes(videos, masks, shapes, textures, motions)


def _places(step: Array, frames: int, side: int, rng: np.random.Generator) -> Array:
    """Return (top, left) of an object in each frame, inside the frame, (T, 2)."""
    path = np.arange(frames)[:, None] * step
    low, high = -path.min(axis=0), side - _SIDE - path.max(axis=0)
    return np.asarray(path + rng.integers(low, high + 1))


def _outlines() -> Array:
    """Return which pixels of its square each shape covers, (4, side, side) bool."""
    middle = (_SIDE - 1) / 2
    down, right = np.mgrid[:_SIDE, :_SIDE] - middle
    return np.stack([
        down**2 + right**2 <= (middle + 0.3) ** 2,
        np.maximum(np.abs(down), np.abs(right)) <= middle - 1,
        2 * np.abs(right) <= down + middle + 0.5,
        np.minimum(np.abs(down), np.abs(right)) <= 1.5,
    ])  # fmt: skip


def _patterns() -> Array:
    """Return the brightness of each texture, (2, side, side)."""
    down, right = np.mgrid[:_SIDE, :_SIDE]
    striped = np.where((down + right) // 2 % 2, 1.0, _DARK)
    return np.stack([np.ones((_SIDE, _SIDE)), striped]).astype(np.float32)
