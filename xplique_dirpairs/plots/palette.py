"""Colours of concepts that people with and without colour blindness can tell apart."""

from __future__ import annotations

import colorsys
from functools import lru_cache

import numpy as np
from matplotlib.colors import Colormap
from skimage.color import rgb2lab

from xplique_dirpairs.core.types import Array

Color = tuple[float, float, float]

#: Colours of what raises a score, and of what lowers it.
RAISES, LOWERS = (0.70, 0.09, 0.17), (0.13, 0.40, 0.67)
#: Colour of rows that are not a single concept: the remaining concepts together, the residual.
GREY = (0.35, 0.35, 0.35)
#: Minimum contrast of a text with the white behind it.
_READABLE = 4.5

#: The first colours, based on Okabe and Ito (2008). They are fully saturated, so that Xplique's
#: colour maps, which saturate colours, leave them unchanged.
_FIRST = (
    (0, 114, 178),
    (230, 159, 0),
    (0, 158, 115),
    (213, 60, 0),
    (100, 50, 205),
    (80, 185, 255),
    (255, 100, 200),
)

#: Matrices that map linear RGB to the colours seen with two kinds of colour blindness, taken from
#: Machado, Oliveira and Fernandes (2009) at severity 1.
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
    """Return distinct colours (r, g, b) in [0, 1], the most different ones first.

    After a few fixed colours, each one is the candidate that is farthest from all earlier ones. The
    distance of two colours is the smallest of those seen with normal vision and with two kinds of
    colour blindness. Beyond a few hundred candidates colours are repeated.

    Parameters
    ----------
    number : int
        Number of colours.

    Returns
    -------
    colors : list of (float, float, float)
    """
    colors = _ordered_colors()
    return [colors[i % len(colors)] for i in range(number)]


def readable(color: Color) -> Color:
    """Return a colour, darkened until text in it is readable on white: a contrast of 4.5 to 1.

    This contrast, of relative luminances, is that of the Web Content Accessibility Guidelines.
    """
    red, green, blue = color
    while _contrast_with_white((red, green, blue)) < _READABLE:
        red, green, blue = 0.95 * red, 0.95 * green, 0.95 * blue
    return red, green, blue


def bright(color: Color) -> Color:
    """Return a colour lightened so that its outline is visible on a darkened picture."""
    hue, light, saturation = colorsys.rgb_to_hls(*color)
    return colorsys.hls_to_rgb(hue, max(light, 0.65), saturation)


def _contrast_with_white(color: Color) -> float:
    """Return 1.05 / (luminance + 0.05), from 1 for white to 21 for black."""
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in color]
    luminance = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
    return 1.05 / (luminance + 0.05)


def line_color(cmap: Colormap) -> Color:
    """Return the opaque colour (r, g, b) of a concept's transparent colour map."""
    red, green, blue = (float(value) for value in cmap(1.0)[:3])
    return red, green, blue


def signed_colors(values: Array) -> list[Color]:
    """Return `RAISES` (red) for each value of at least 0, and `LOWERS` (blue) for others."""
    return [RAISES if value >= 0 else LOWERS for value in values]


def as_seen(colors: Array, matrix: Array) -> Array:
    """Return colours (n, 3) as seen with colour blindness, given a `COLOUR_BLINDNESS` matrix."""
    linear: Array = np.where(colors <= 0.04045, colors / 12.92, ((colors + 0.055) / 1.055) ** 2.4)
    linear = np.clip(linear @ matrix.T, 0.0, 1.0)
    return np.where(linear <= 0.0031308, linear * 12.92, 1.055 * linear ** (1 / 2.4) - 0.055)


@lru_cache(maxsize=1)
def _ordered_colors() -> tuple[Color, ...]:
    """Return all colours in the order in which `concept_colors` uses them."""
    hues, lights = np.arange(0, 1, 1 / 48), np.linspace(0.22, 0.66, 7)
    candidates = [colorsys.hls_to_rgb(hue, light, 1.0) for hue in hues for light in lights]
    hls = [colorsys.rgb_to_hls(r / 255, g / 255, b / 255) for r, g, b in _FIRST]
    first = [colorsys.hls_to_rgb(hue, light, 1.0) for hue, light, _ in hls]
    colors = np.array(first + candidates)
    seen = [rgb2lab(colors), *(rgb2lab(as_seen(colors, m)) for m in COLOUR_BLINDNESS.values())]
    readable = seen[0][:, 0] < 80  # lighter colours are hard to see on white
    nearest = np.where(readable, np.inf, -np.inf)
    order = []
    for step in range(int(readable.sum())):
        chosen = step if step < len(first) else int(np.argmax(nearest))
        order.append(chosen)
        distance = np.min([np.linalg.norm(lab - lab[chosen], axis=1) for lab in seen], axis=0)
        nearest = np.minimum(nearest, distance)
        nearest[chosen] = -np.inf
    return tuple((float(r), float(g), float(b)) for r, g, b in colors[order])
