"""Regions of a scene, which have hard edges, and textures that fill them.

Lengths and places are in units, of which an image has `SIDE` on each side. A unit is one pixel, or
several within `finer`. A region is a boolean mask of shape (side, side) in pixels. A texture is a
tile; a random part of it is used.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache

import cv2
import numpy as np
from scipy.spatial import cKDTree

from xplique_dirpairs.core.types import Array

#: Side of an image, in units.
SIDE = 64
#: Radius of round corners, in units: the smallest that takes a corner off single pixels.
_CORNER = 1.75
_pixels_per_unit = ContextVar("_pixels_per_unit", default=1)


@contextmanager
def finer(pixels: int) -> Iterator[None]:
    """Draw with several pixels per unit in the body of a with statement.

    Parameters
    ----------
    pixels : int
        Number of pixels per unit; an image has ``SIDE * pixels`` on each side.
    """
    token = _pixels_per_unit.set(pixels)
    try:
        yield
    finally:
        _pixels_per_unit.reset(token)


def side_in_pixels() -> int:
    """Return the side of an image, in pixels."""
    return SIDE * _pixels_per_unit.get()


def pixel_centres() -> Array:
    """Return the centres of the pixels of a row, (side,), in units."""
    return (np.arange(side_in_pixels()) + 0.5) / _pixels_per_unit.get()


def _blank() -> Array:
    """Return an empty region."""
    return np.zeros((side_in_pixels(), side_in_pixels()), bool)


def _edge(at: float) -> int:
    """Return the number of the first pixel after a place in units."""
    return round(at * _pixels_per_unit.get())


# ------------------------------------------------------------------ regions, (side, side) bool


def polygon(corners: Sequence[tuple[float, float]], x: float = 0.0, scale: float = 1.0) -> Array:
    """Return the polygon with corners (x + scale · u, v) for the given points (u, v)."""
    region = _blank().view(np.uint8)
    points = np.array([(x + scale * u, v) for u, v in corners], np.float64)
    points = points * _pixels_per_unit.get()
    cv2.fillPoly(region, [np.round(points * 16).astype(np.int32)], (1,), cv2.LINE_8, 4)
    return region.view(bool)


def box(left: float, top: float, right: float, bottom: float) -> Array:
    """Return a rectangle of whole pixels, at least one unit wide and high."""
    region, least = _blank(), _pixels_per_unit.get()
    x, y = _edge(left), _edge(top)
    end_x, end_y = max(_edge(right), x + least), max(_edge(bottom), y + least)
    region[max(y, 0) : max(end_y, 0), max(x, 0) : max(end_x, 0)] = True
    return region


def ellipse(x: float, y: float, across: float, down: float) -> Array:
    """Return the ellipse with centre (x, y) and semi-axes ``across`` and ``down``."""
    u = (pixel_centres() - x) / across
    v = (pixel_centres() - y) / down
    return np.asarray((u**2) + (v**2)[:, None] <= 1.0)


def dome(x: float, y: float, across: float, up: float) -> Array:
    """Return the upper half of the ellipse with centre (x, y)."""
    return cut_below(ellipse(x, y, across, up), y)


def cut_below(region: Array, y: float) -> Array:
    """Return the part of a region above the height ``y``."""
    region = region.copy()
    region[max(0, _edge(y)) :] = False
    return region


def rounded(left: float, top: float, right: float, bottom: float) -> Array:
    """Return a rectangle with round corners; with one pixel per unit it lacks its corner pixels."""
    region, pixels = box(left, top, right, bottom), _pixels_per_unit.get()
    rows, columns = np.flatnonzero(region.any(axis=1)), np.flatnonzero(region.any(axis=0))
    if min(len(rows), len(columns)) > 2 * pixels:
        down, across = (_beyond_corner(len(places), pixels) for places in (rows, columns))
        is_inside = down[:, None] ** 2 + across**2 <= _CORNER**2
        region[np.ix_(rows, columns)] = is_inside
    return region


def _beyond_corner(length: int, pixels: int) -> Array:
    """Return how far each of ``length`` pixels lies beyond the centres of the corners, in units."""
    from_end = (np.minimum(np.arange(length), np.arange(length)[::-1]) + 0.5) / pixels
    return np.asarray(np.maximum(_CORNER - from_end, 0.0))


# ------------------------------------------------------------------ textures

#: Textures in two colours, and those in two shades of one colour. Bricks may also have mortar of
#: another colour.
DECORATIONS = ("striped", "chequered", "dotted")
MATERIALS = ("bricked", "wooden", "wavy", "grassy", "leafy", "cobbled", "shingled")
TEXTURES = DECORATIONS + MATERIALS

#: Side of a tile, in units.
_TILE = 192
#: Texture → number of its variants, which differ in size or direction; 1 for all others.
_VARIANTS = {"striped": 6, "chequered": 2, "dotted": 2, "bricked": 2, "wooden": 2}


def texture_pattern(rng: np.random.Generator, texture: str, horizon: float | None = None) -> Array:
    """Return a random part of the tile of a texture, (side, side) in [0, 1].

    The texture faces the viewer or, if the height of the ``horizon`` is given, lies on the floor.
    """
    pixels, side = _pixels_per_unit.get(), side_in_pixels()
    tile = _tile(texture, int(rng.random() * _VARIANTS.get(texture, 1)), pixels)
    down, left = int(rng.random() * 32) * pixels, int(rng.random() * 32) * pixels
    if horizon is None:
        return np.asarray(tile[down : down + side, left : left + side])
    rows, columns = _floor(round(horizon), pixels)
    return np.asarray(tile[rows[:, None] + down, columns + left])


@cache
def _floor(horizon: int, pixels: int) -> tuple[Array, Array]:
    """Return the rows (side,) and columns (side, side) of a tile to show for a floor.

    The foreshortening is weaker than in true perspective, where details near the horizon would be
    finer than a pixel.
    """
    places = (np.arange(SIDE * pixels) + 0.5) / pixels - 0.5
    depth = np.clip((places - horizon) / (SIDE - horizon), 0, 1)
    scale = 2.0 - 1.2 * depth
    columns = SIDE + (places - SIDE / 2 + 0.5) * scale[:, None]
    rows = np.cumsum(np.where(depth > 0, 1.3 * scale, 0)) / pixels
    return (rows * pixels).astype(int), (columns * pixels).astype(int)


@cache
def _tile(texture: str, variant: int, pixels: int) -> Array:
    """Return the share of the second ink, (_TILE · pixels, _TILE · pixels) in [0, 1].

    Textures in two colours have shares of 0 and 1 only.
    """
    places = (np.arange(_TILE * pixels) + 0.5) / pixels - 0.5
    x, y = np.meshgrid(places, places)
    rng = np.random.default_rng([TEXTURES.index(texture), variant])
    share: Array
    match texture:
        case "striped":
            size, along = 6 + 2 * (variant % 2), (x, y, x + y)[variant // 2]
            share = (along % size) < size // 2
        case "chequered":
            size = (4, 5)[variant]
            share = (x // size + y // size) % 2
        case "dotted":
            size = (6, 8)[variant]
            middle, shift = (size - 1) / 2, y // size % 2 * size // 2
            share = ((x + shift) % size - middle) ** 2 + (y % size - middle) ** 2
            share = share < (0.34 * size) ** 2
        case "bricked":
            height, width = ((4, 8), (5, 10))[variant]
            shift = y // height % 2 * width // 2
            share = (y % height < 1) | ((x + shift) % width < 1)
        case "wooden":
            along, across = (x, y) if variant == 0 else (y, x)
            grain = rng.random((_TILE, _TILE // 8 + 1)).repeat(8, axis=1)[:, :_TILE]
            grain = _enlarged(grain if variant == 0 else grain.T, pixels)
            seam = (across % 6 < 1) | ((along + across // 6 * 23) % 57 < 1)
            share = np.where(seam, 1.0, 0.4 * grain)
        case "wavy":
            crest = y + 1.3 * np.sin(2 * np.pi * x / 19 + 1.8 * np.sin(2 * np.pi * y / 37))
            share = 0.5 + 0.6 * np.sin(2 * np.pi * crest / 7)
        case "grassy":
            blades = cv2.blur(rng.random((_TILE, _TILE)), (1, 4))
            share = 0.5 + 3.2 * (_enlarged(blades, pixels) - 0.5)
        case "leafy":
            noise = rng.standard_normal((_TILE, _TILE))
            share = 0.5 + 1.6 * _enlarged(cv2.GaussianBlur(noise, (0, 0), 1.1), pixels)
        case "cobbled":
            share = _cobbles(x, y, rng)
        case _:  # "shingled"
            across, down = (x + y // 4 % 2 * 3) % 6 - 2.5, y % 4
            share = np.where(down + (across / 2.5) ** 2 >= 2.9, 1.0, 0.12 * down)
    return np.clip(share, 0.0, 1.0).astype(np.float32)


def _enlarged(pattern: Array, pixels: int) -> Array:
    """Return a pattern with several pixels per unit, by bicubic interpolation."""
    if pixels == 1:
        return pattern
    size = (pattern.shape[1] * pixels, pattern.shape[0] * pixels)
    return np.asarray(cv2.resize(pattern, size, interpolation=cv2.INTER_CUBIC))


def _cobbles(x: Array, y: Array, rng: np.random.Generator) -> Array:
    """Draw stones, which are the Voronoi cells of jittered points, with gaps between them."""
    size = 7
    rows, columns = np.mgrid[: _TILE // size + 2, : _TILE // size + 2]
    points = np.stack([columns + (rows % 2) / 2, rows], axis=-1).reshape(-1, 2) * size - size / 2
    points = points + rng.uniform(-1.5, 1.5, points.shape)
    distances, nearest = cKDTree(points).query(np.stack([x, y], axis=-1), k=2)
    tone = 0.35 * rng.random(len(points))[nearest[..., 0]]
    return np.where(distances[..., 1] - distances[..., 0] < 1.1, 1.0, tone)
