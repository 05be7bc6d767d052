"""Regions of a scene, which have hard edges, and textures that fill them.

A region is a boolean mask of shape (SIDE, SIDE). A texture is a tile; a random part of it is used.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import cv2
import numpy as np
from scipy.spatial import cKDTree

from xplique_dirpairs.core.types import Array

#: Side of an image, in pixels.
SIDE = 64

# ------------------------------------------------------------------ regions, (SIDE, SIDE) bool


def polygon(corners: Sequence[tuple[float, float]], x: float = 0.0, scale: float = 1.0) -> Array:
    """Return the polygon with corners (x + scale · u, v) for the given points (u, v)."""
    region = np.zeros((SIDE, SIDE), np.uint8)
    points = np.array([(x + scale * u, v) for u, v in corners], np.float64)
    cv2.fillPoly(region, [np.round(points * 16).astype(np.int32)], (1,), cv2.LINE_8, 4)
    return region.view(bool)


def box(left: float, top: float, right: float, bottom: float) -> Array:
    """Return a rectangle of whole pixels, at least one pixel wide and high."""
    region = np.zeros((SIDE, SIDE), bool)
    x, y = round(left), round(top)
    right, bottom = max(round(right), x + 1), max(round(bottom), y + 1)
    region[max(y, 0) : max(bottom, 0), max(x, 0) : max(right, 0)] = True
    return region


def ellipse(x: float, y: float, across: float, down: float) -> Array:
    """Return the ellipse with centre (x, y) and semi-axes ``across`` and ``down``."""
    u = (np.arange(SIDE) + 0.5 - x) / across
    v = (np.arange(SIDE) + 0.5 - y) / down
    return np.asarray((u**2) + (v**2)[:, None] <= 1.0)


def dome(x: float, y: float, across: float, up: float) -> Array:
    """Return the upper half of the ellipse with centre (x, y)."""
    return cut_below(ellipse(x, y, across, up), y)


def cut_below(region: Array, y: float) -> Array:
    """Return the part of a region above row ``y``."""
    region = region.copy()
    region[max(0, round(y)) :] = False
    return region


def rounded(left: float, top: float, right: float, bottom: float) -> Array:
    """Return a rectangle without its corner pixels."""
    region = box(left, top, right, bottom)
    rows, columns = np.flatnonzero(region.any(axis=1)), np.flatnonzero(region.any(axis=0))
    if len(rows) > 2 and len(columns) > 2:
        region[np.ix_(rows[[0, -1]], columns[[0, -1]])] = False
    return region


# ------------------------------------------------------------------ textures

#: Textures in two colours, and those in two shades of one colour. Bricks may also have mortar of
#: another colour.
DECORATIONS = ("striped", "chequered", "dotted")
MATERIALS = ("bricked", "wooden", "wavy", "grassy", "leafy", "cobbled", "shingled")
TEXTURES = DECORATIONS + MATERIALS

#: Side of a tile.
_TILE = 192
#: Texture → number of its variants, which differ in size or direction; 1 for all others.
_VARIANTS = {"striped": 6, "chequered": 2, "dotted": 2, "bricked": 2, "wooden": 2}


def texture_pattern(rng: np.random.Generator, texture: str, horizon: float | None = None) -> Array:
    """Return a random part of the tile of a texture, (SIDE, SIDE) in [0, 1].

    The texture faces the viewer or, if the row of the ``horizon`` is given, lies on the floor.
    """
    tile = _tile(texture, int(rng.random() * _VARIANTS.get(texture, 1)))
    down, left = int(rng.random() * 32), int(rng.random() * 32)
    if horizon is None:
        return np.asarray(tile[down : down + SIDE, left : left + SIDE])
    rows, columns = _floor(round(horizon))
    return np.asarray(tile[rows[:, None] + down, columns + left])


@cache
def _floor(horizon: int) -> tuple[Array, Array]:
    """Return the rows (SIDE,) and columns (SIDE, SIDE) of a tile to show for a floor.

    The foreshortening is weaker than in true perspective, where details near the horizon would be
    finer than a pixel.
    """
    depth = np.clip((np.arange(SIDE) - horizon) / (SIDE - horizon), 0, 1)
    scale = 2.0 - 1.2 * depth
    columns = SIDE + (np.arange(SIDE) - SIDE / 2 + 0.5) * scale[:, None]
    rows = np.cumsum(np.where(depth > 0, 1.3 * scale, 0))
    return rows.astype(int), columns.astype(int)


@cache
def _tile(texture: str, variant: int) -> Array:
    """Return the share of the second ink, (_TILE, _TILE) in [0, 1].

    Textures in two colours have shares of 0 and 1 only.
    """
    y, x = np.mgrid[:_TILE, :_TILE]
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
            share = (y % height == 0) | ((x + shift) % width == 0)
        case "wooden":
            along, across = (x, y) if variant == 0 else (y, x)
            grain = rng.random((_TILE, _TILE // 8 + 1))[across, along // 8]
            seam = (across % 6 == 0) | ((along + across // 6 * 23) % 57 == 0)
            share = np.where(seam, 1.0, 0.4 * grain)
        case "wavy":
            crest = y + 1.3 * np.sin(2 * np.pi * x / 19 + 1.8 * np.sin(2 * np.pi * y / 37))
            share = 0.5 + 0.6 * np.sin(2 * np.pi * crest / 7)
        case "grassy":
            share = 0.5 + 3.2 * (cv2.blur(rng.random((_TILE, _TILE)), (1, 4)) - 0.5)
        case "leafy":
            noise = rng.standard_normal((_TILE, _TILE))
            share = 0.5 + 1.6 * cv2.GaussianBlur(noise, (0, 0), 1.1)
        case "cobbled":
            share = _cobbles(x, y, rng)
        case _:  # "shingled"
            across, down = (x + y // 4 % 2 * 3) % 6 - 2.5, y % 4
            share = np.where(down + (across / 2.5) ** 2 >= 2.9, 1.0, 0.12 * down)
    return np.clip(share, 0.0, 1.0).astype(np.float32)


def _cobbles(x: Array, y: Array, rng: np.random.Generator) -> Array:
    """Draw stones, which are the Voronoi cells of jittered points, with gaps between them."""
    size = 7
    rows, columns = np.mgrid[: _TILE // size + 2, : _TILE // size + 2]
    points = np.stack([columns + (rows % 2) / 2, rows], axis=-1).reshape(-1, 2) * size - size / 2
    points = points + rng.uniform(-1.5, 1.5, points.shape)
    distances, nearest = cKDTree(points).query(np.stack([x, y], axis=-1), k=2)
    tone = 0.35 * rng.random(len(points))[nearest[..., 0]]
    return np.where(distances[..., 1] - distances[..., 0] < 1.1, 1.0, tone)
