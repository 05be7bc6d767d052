"""Colours and paints of the annotated scenes, and a canvas that keeps the masks.

A stroke fills a region with one paint. It covers what was there, in the picture and in the masks of
all categories alike: that is what makes the masks exact, and why nothing is anti-aliased.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import TypeVar

import numpy as np

from xplique_dirpairs.core.types import Array
from xplique_dirpairs.datasets.scene_shapes import DECORATIONS, SIDE, texture_pattern

#: Name of a colour → its middle, RGB in [0, 1].
COLOURS = {
    "red": (0.80, 0.15, 0.14),
    "orange": (0.93, 0.48, 0.10),
    "yellow": (0.95, 0.83, 0.24),
    "green": (0.30, 0.58, 0.24),
    "blue": (0.20, 0.42, 0.80),
    "purple": (0.49, 0.25, 0.63),
    "pink": (0.95, 0.56, 0.70),
    "brown": (0.47, 0.29, 0.16),
    "grey": (0.54, 0.54, 0.55),
    "white": (0.94, 0.93, 0.91),
    "black": (0.11, 0.11, 0.13),
}

#: Colours of things that should catch the eye.
VIVID = "red orange yellow green blue purple pink"
#: How much darker the dark shade of a material is.
_CONTRAST = {"wooden": 0.3, "wavy": 0.3, "grassy": 0.32, "leafy": 0.42, "cobbled": 0.38}
_CONTRAST |= {"shingled": 0.42}
#: Distance of a pixel from the middle, −1 to 1.
_OFFSET = ((np.arange(SIDE) + 0.5) / SIDE * 2 - 1).astype(np.float32)
_ACROSS = np.tile(_OFFSET, SIDE)
_DOWN = np.repeat(_OFFSET, SIDE)

Random = np.random.Generator
T = TypeVar("T")


@dataclass(frozen=True, eq=False)
class Paint:
    """One or two inks, and where the second one shows.

    Attributes
    ----------
    inks : tuple of (ndarray of shape (3,), str)
        RGB of each, and the name of its colour.
    texture : str or None
        None for a plain paint.
    pattern : ndarray of shape (SIDE, SIDE), optional
        Share of the second ink, in [0, 1].
    shade : (float, float)
        How much lighter the paint becomes to the right and downwards, over half an image.
    """

    inks: tuple[tuple[Array, str], ...]
    texture: str | None = None
    pattern: Array | None = None
    shade: tuple[float, float] = (0.0, 0.0)


@dataclass(frozen=True, eq=False)
class Stroke:
    """A region of an object, perhaps of one of its parts, in one paint.

    Attributes
    ----------
    object, part : str
        Names; the part is None where it has no name.
    region : ndarray of shape (SIDE, SIDE), bool
    paint : Paint
    """

    object: str
    part: str | None
    region: Array
    paint: Paint


Strokes = list[Stroke]


class Canvas:
    """A picture and its masks.

    Parameters
    ----------
    concepts : dict of str to tuple of str
        Names of the objects, parts, textures and colours, by category in this order.

    Attributes
    ----------
    rgb : ndarray of shape (SIDE², 3), float32
    masks : ndarray of shape (4, SIDE²), uint8
        Of each category, numbered as in `AnnotatedImages`.
    """

    def __init__(self, concepts: dict[str, tuple[str, ...]]):
        self.rgb = np.full((SIDE * SIDE, 3), 0.5, np.float32)
        self.masks = np.zeros((len(concepts), SIDE * SIDE), np.uint8)
        self._objects, self._parts, self._textures, self._colours = map(_numbers, concepts.values())

    def paint(self, strokes: Iterable[Stroke]) -> None:
        """Fill regions, each over those before it."""
        for stroke in strokes:
            self._fill(stroke)

    def light(self, gains: Array, slope: tuple[float, float]) -> None:
        """Shed coloured light on everything so far, brighter to one side."""
        field = 1.0 + slope[0] * _ACROSS + slope[1] * _DOWN
        self.rgb *= field[:, None] * gains.astype(np.float32)

    def _fill(self, stroke: Stroke) -> None:
        where = np.flatnonzero(stroke.region)
        paint = stroke.paint
        (painted, colour), *second = paint.inks
        numbers = [
            self._objects[stroke.object],
            self._parts[stroke.part],
            self._textures[paint.texture],
            self._colours[colour],
        ]
        self.masks[:, where] = np.array(numbers, np.uint8)[:, None]
        if paint.pattern is not None and second:
            share = paint.pattern.ravel()[where]
            painted = painted + share[:, None] * (second[0][0] - painted)
            if second[0][1] != colour:
                self.masks[3, where[share > 0.5]] = self._colours[second[0][1]]
        across, down = paint.shade
        if across or down:
            painted = painted * (1.0 + across * _ACROSS[where] + down * _DOWN[where])[:, None]
        self.rgb[where] = painted


@cache
def _numbers(names: tuple[str, ...]) -> dict[str | None, int]:
    """Return the numbers of names; None has 0."""
    return {None: 0} | {name: k + 1 for k, name in enumerate(names)}


def pick(rng: Random, names: str | Sequence[str]) -> str:
    """Draw one of several names; in a string, words that come twice are twice as likely."""
    return pick_of(rng, names.split() if isinstance(names, str) else names)


def pick_of(rng: Random, values: Sequence[T]) -> T:
    """Draw one of several values."""
    return values[int(rng.random() * len(values))]


def between(rng: Random, low: float, high: float) -> float:
    """Draw a uniform number."""
    return low + (high - low) * rng.random()


def ink(rng: Random, colour: str, pale: float = 0.0, dark: float = 0.0) -> tuple[Array, str]:
    """Draw a shade of a colour, mixed with white (pale) or black (dark) by a share."""
    rgb = np.array(COLOURS[colour]) * (1 - dark)
    rgb = rgb + pale * (1 - rgb)
    rgb = rgb * between(rng, 0.94, 1.05) + 0.04 * (rng.random(3) - 0.5)
    return np.clip(rgb, 0.03, 1.0).astype(np.float32), colour


def plain(
    rng: Random, colour: str, *, pale: float = 0.0, dark: float = 0.0, across: float = 0.0
) -> Paint:
    """Return a paint of one colour; ``across`` is its `Paint.shade` to the right."""
    return Paint((ink(rng, colour, pale, dark),), shade=(across, 0.0))


def material(
    rng: Random,
    texture: str,
    colour: str,
    *,
    pale: float = 0.0,
    horizon: float | None = None,
    across: float = 0.0,
) -> Paint:
    """Return a texture of one colour in two shades.

    With a ``horizon`` (a row) it lies on a floor that ends there, else it is seen from the front.
    """
    light = ink(rng, colour, pale)
    dark = (light[0] * np.float32(1 - _CONTRAST[texture]), colour)
    return Paint((light, dark), texture, texture_pattern(rng, texture, horizon), (across, 0.0))


def bricks(rng: Random, colour: str, mortar: str) -> Paint:
    """Return bricks and mortar."""
    return Paint((ink(rng, colour), ink(rng, mortar)), "bricked", texture_pattern(rng, "bricked"))


def decoration(
    rng: Random, texture: str, colours: tuple[str, str], horizon: float | None = None
) -> Paint:
    """Return a texture of two colours; ``horizon`` as in `material`."""
    inks = (ink(rng, colours[0]), ink(rng, colours[1]))
    return Paint(inks, texture, texture_pattern(rng, texture, horizon))


def two_colours(rng: Random) -> tuple[str, str]:
    """Draw a light and a dark colour that go together."""
    light = pick(rng, "white white white yellow pink orange")
    return light, pick(rng, "red red blue blue green purple black brown")


def cloth(
    rng: Random, colours: str, decorated: float, textures: tuple[str, ...] = DECORATIONS
) -> Paint:
    """Return cloth in one of the colours, with a texture with probability ``decorated``."""
    colour = pick(rng, colours)
    if rng.random() >= decorated:
        return plain(rng, colour, across=0.25)
    pale = colour in ("white", "yellow", "pink", "orange")
    other = pick(rng, "red blue green purple black brown" if pale else "white white yellow")
    return decoration(rng, pick(rng, textures), (colour, other))


def darker(paint: Paint, share: float) -> Paint:
    """Return the same paint in less light."""
    inks = tuple((rgb * np.float32(1 - share), colour) for rgb, colour in paint.inks)
    return replace(paint, inks=inks)
