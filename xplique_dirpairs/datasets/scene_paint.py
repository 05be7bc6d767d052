"""Colours and paints of the annotated scenes, and a canvas that holds a picture and its masks.

A stroke fills a region with a paint. It replaces the earlier content of the region in the picture
and in the masks of all categories. The masks are therefore exact, and nothing is anti-aliased.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import NamedTuple, TypeAlias, TypeVar

import numpy as np

from xplique_dirpairs.core.types import Array
from xplique_dirpairs.datasets.scene_shapes import DECORATIONS, side_in_pixels, texture_pattern

#: Name of a colour → its central shade, RGB in [0, 1].
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

#: Colours of things that should be conspicuous, as words.
VIVID = "red orange yellow green blue purple pink"
#: Texture → how much darker the dark shade of the material is, as a share.
_CONTRAST = {"wooden": 0.3, "wavy": 0.3, "grassy": 0.32, "leafy": 0.42, "cobbled": 0.38}
_CONTRAST |= {"shingled": 0.42}
#: RGB values (3,) in [0, 1], and the name of the colour.
Ink: TypeAlias = tuple[Array, str]
T = TypeVar("T")


@cache
def _offsets(side: int) -> tuple[Array, Array]:
    """Return how far right and down of the centre each pixel lies, (side²,) from −1 to 1."""
    offset = ((np.arange(side) + 0.5) / side * 2 - 1).astype(np.float32)
    return np.tile(offset, side), np.repeat(offset, side)


@dataclass(frozen=True, eq=False)
class Paint:
    """One ink, or two inks and a pattern that mixes them.

    Attributes
    ----------
    inks : tuple of (ndarray of shape (3,), str)
        RGB values and the name of the colour of each ink.
    texture : str, optional
        Name of the texture. None for a plain paint.
    pattern : ndarray of shape (side, side), optional
        Share of the second ink, in [0, 1]. None for a plain paint.
    across : float, default=0
        Relative increase in brightness from the centre of the image to its right edge.
    """

    inks: tuple[Ink, ...]
    texture: str | None = None
    pattern: Array | None = None
    across: float = 0.0

    def darker(self, share: float) -> Paint:
        """Return the paint darkened by a share in [0, 1]."""
        inks = tuple((rgb * np.float32(1 - share), colour) for rgb, colour in self.inks)
        return replace(self, inks=inks)


class Stroke(NamedTuple):
    """A region (side, side) of an object, and of one of its parts or None, with its paint."""

    object: str
    part: str | None
    region: Array
    paint: Paint


class Canvas:
    """A picture and its masks, with the pixels per unit that are in force (`scene_shapes.finer`).

    Parameters
    ----------
    concepts : dict of str to tuple of str
        Category → names of its concepts, for objects, parts, textures and colours in this order.

    Attributes
    ----------
    rgb : ndarray of shape (side², 3), float32
        The picture.
    masks : ndarray of shape (4, side²), uint8
        The mask of each category, with numbers as in `AnnotatedImages`.
    """

    def __init__(self, concepts: dict[str, tuple[str, ...]]):
        pixels = side_in_pixels() ** 2
        self.rgb = np.full((pixels, 3), 0.5, np.float32)
        self.masks = np.zeros((len(concepts), pixels), np.uint8)
        self._across, _ = _offsets(side_in_pixels())
        self._numbers = [
            {name: k for k, name in enumerate((None, *names))} for names in concepts.values()
        ]

    def paint(self, strokes: Iterable[Stroke]) -> None:
        """Paint strokes in order; each covers the earlier ones."""
        listed, last = list(strokes), np.full(len(self.rgb), -1, np.int16)
        for k, stroke in enumerate(listed):
            last[stroke.region.ravel()] = k
        for k, (part_of, part, _, paint) in enumerate(listed):
            where = np.flatnonzero(last == k)  # what later strokes cover need not be painted
            (rgb, colour), *second = paint.inks
            names = (part_of, part, paint.texture, colour)
            numbers = [of_name[name] for of_name, name in zip(self._numbers, names, strict=True)]
            self.masks[:, where] = np.array(numbers, np.uint8)[:, None]
            if paint.pattern is not None:
                (other_rgb, other), share = second[0], paint.pattern.ravel()[where]
                rgb = rgb + share[:, None] * (other_rgb - rgb)
                self.masks[3, where[share > 0.5]] = self._numbers[3][other]
            if paint.across:
                rgb = rgb * (1.0 + paint.across * self._across[where])[:, None]
            self.rgb[where] = rgb


class Painter:
    """Draws random choices and paints from one random generator.

    Colours are given as words that are separated by spaces. One of them is drawn, and a word that
    is repeated is more likely accordingly.

    Parameters
    ----------
    seed : sequence of int
    """

    def __init__(self, seed: Sequence[int]):
        self.rng = np.random.default_rng(seed)

    def chance(self, share: float) -> bool:
        """Return True with probability ``share``."""
        return bool(self.rng.random() < share)

    def between(self, low: float, high: float) -> float:
        """Draw a number from the uniform distribution on [low, high)."""
        return low + (high - low) * self.rng.random()

    def pick_of(self, values: Sequence[T]) -> T:
        """Draw one of the values."""
        return values[int(self.rng.random() * len(values))]

    def pick(self, words: str) -> str:
        """Draw one of the words, which are separated by spaces."""
        return self.pick_of(words.split())

    def ink(self, words: str, pale: float = 0.0, dark: float = 0.0) -> Ink:
        """Draw a shade of a colour, mixed with a share of white (pale) or black (dark)."""
        colour = self.pick(words) if " " in words else words
        rgb = np.array(COLOURS[colour]) * (1 - dark)
        rgb = rgb + pale * (1 - rgb)
        rgb = rgb * self.between(0.94, 1.05) + 0.04 * (self.rng.random(3) - 0.5)
        return np.clip(rgb, 0.03, 1.0).astype(np.float32), colour

    def light(self) -> Array:
        """Draw factors (side², 3) for coloured light that is brighter towards one side."""
        warmth = self.between(-0.04, 0.04)
        gains = self.between(0.84, 1.05) * np.array([1 + warmth, 1.0, 1 - warmth], np.float64)
        across, down = _offsets(side_in_pixels())
        field = 1.0 + self.between(-0.09, 0.09) * across + self.between(-0.05, 0.05) * down
        return np.asarray(field[:, None] * gains.astype(np.float32))

    def plain(
        self, words: str, *, pale: float = 0.0, dark: float = 0.0, across: float = 0.0
    ) -> Paint:
        """Return a paint of a single colour, without texture."""
        return Paint((self.ink(words, pale, dark),), across=across)

    def material(
        self,
        texture: str,
        words: str,
        *,
        pale: float = 0.0,
        horizon: float | None = None,
        across: float = 0.0,
    ) -> Paint:
        """Return a texture in two shades of one colour.

        If a ``horizon`` (a row) is given, the texture lies on a floor that ends there; otherwise it
        faces the viewer.
        """
        light = self.ink(words, pale)
        dark = (light[0] * np.float32(1 - _CONTRAST[texture]), light[1])
        return Paint((light, dark), texture, texture_pattern(self.rng, texture, horizon), across)

    def decoration(
        self, texture: str, colours: tuple[str, str], horizon: float | None = None
    ) -> Paint:
        """Return a texture in two colours; see `material` for ``horizon``."""
        inks = (self.ink(colours[0]), self.ink(colours[1]))
        return Paint(inks, texture, texture_pattern(self.rng, texture, horizon))

    def two_colours(self) -> tuple[str, str]:
        """Draw the names of a light and a dark colour."""
        light = self.pick("white white white yellow pink orange")
        return light, self.pick("red red blue blue green purple black brown")

    def cloth(self, words: str, decorated: float, textures: tuple[str, ...] = DECORATIONS) -> Paint:
        """Return cloth of one colour, which has a texture with probability ``decorated``."""
        colour = self.pick(words)
        if not self.chance(decorated):
            return self.plain(colour, across=0.25)
        pale = colour in ("white", "yellow", "pink", "orange")
        other = self.pick("red blue green purple black brown" if pale else "white white yellow")
        return self.decoration(self.pick_of(textures), (colour, other))
