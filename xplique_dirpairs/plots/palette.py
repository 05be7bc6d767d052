"""Colours of concepts, told apart by people with and without colour blindness."""

from __future__ import annotations

import colorsys
from functools import lru_cache

import numpy as np
from matplotlib.colors import Colormap
from skimage.color import rgb2lab

from xplique_dirpairs.core.types import Array

Color = tuple[float, float, float]

#: What raises a score, and what lowers it.
RAISES, LOWERS = (0.70, 0.09, 0.17), (0.13, 0.40, 0.67)
#: What is no concept: all others together, the residual.
GREY = (0.35, 0.35, 0.35)

#: The first colours, after Okabe and Ito (2008), at full saturation: Xplique's colour maps
#: saturate the colours that they are given, and leave these as they are.
_FIRST = (
    (0, 114, 178),
    (230, 159, 0),
    (0, 158, 115),
    (213, 60, 0),
    (100, 50, 205),
    (80, 185, 255),
    (255, 100, 200),
)

#: How linear RGB looks to people with two kinds of colour blindness: Machado, Oliveira and
#: Fernandes (2009), severity 1.
COLOUR_BLINDNESS = {
    "protanopia": np.array(
        [
            [0.152286, 1.052583, -0.204868],
            [0.114503, 0.786281, 0.099216],
            [-0.003882, -0.048116, 1.051998],
        ]
    ),
    "deuteranopia": np.array(
        [
            [0.367322, 0.860646, -0.227968],
            [0.280085, 0.672501, 0.047413],
            [-0.011820, 0.042940, 0.968881],
        ]
    ),
}


def concept_colors(number: int) -> list[Color]:
    """Return colours (r, g, b) in [0, 1], the most different ones first.

    Each is the colour farthest from those before it, for normal sight and for two kinds of colour
    blindness, whichever is nearest. Beyond the few hundred candidates colours are repeated.
    """
    colors = _ordered_colors()
    return [colors[i % len(colors)] for i in range(number)]


def line_color(cmap: Colormap) -> Color:
    """Return the opaque colour of a concept's (transparent) colour map."""
    red, green, blue = (float(value) for value in cmap(1.0)[:3])
    return red, green, blue


def signed_colors(values: Array) -> list[Color]:
    """Return red for what raises a score (0 included), blue for what lowers it."""
    return [RAISES if value >= 0 else LOWERS for value in values]


def as_seen(colors: Array, matrix: Array) -> Array:
    """Return how colours (n, 3) look with one kind of `COLOUR_BLINDNESS`."""
    linear: Array = np.where(colors <= 0.04045, colors / 12.92, ((colors + 0.055) / 1.055) ** 2.4)
    linear = np.clip(linear @ matrix.T, 0.0, 1.0)
    return np.where(linear <= 0.0031308, linear * 12.92, 1.055 * linear ** (1 / 2.4) - 0.055)


@lru_cache(maxsize=1)
def _ordered_colors() -> tuple[Color, ...]:
    hues, lights = np.arange(0, 1, 1 / 48), np.linspace(0.22, 0.66, 7)
    candidates = [colorsys.hls_to_rgb(hue, light, 1.0) for hue in hues for light in lights]
    hls = [colorsys.rgb_to_hls(r / 255, g / 255, b / 255) for r, g, b in _FIRST]
    first = [colorsys.hls_to_rgb(hue, light, 1.0) for hue, light, _ in hls]
    colors = np.array(first + candidates)
    seen = [rgb2lab(colors), *(rgb2lab(as_seen(colors, m)) for m in COLOUR_BLINDNESS.values())]
    readable = seen[0][:, 0] < 80  # lighter ones vanish on white
    nearest = np.where(readable, np.inf, -np.inf)
    order = []
    for step in range(int(readable.sum())):
        chosen = step if step < len(first) else int(np.argmax(nearest))
        order.append(chosen)
        distance = np.min([np.linalg.norm(lab - lab[chosen], axis=1) for lab in seen], axis=0)
        nearest = np.minimum(nearest, distance)
        nearest[chosen] = -np.inf
    return tuple((float(r), float(g), float(b)) for r, g, b in colors[order])
