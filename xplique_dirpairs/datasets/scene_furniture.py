"""Furniture and other movable things in the annotated scenes: each as strokes, from back to front.

A thing is drawn by a function of a generator, the middle of its foot (x, y) and its size in pixels.
Parts lie within their things by construction: every stroke names the thing it belongs to.
"""

from __future__ import annotations

import numpy as np

from xplique_dirpairs.datasets.scene_paint import (
    VIVID,
    Paint,
    Random,
    Stroke,
    Strokes,
    between,
    cloth,
    darker,
    decoration,
    ink,
    material,
    pick,
    plain,
    two_colours,
)
from xplique_dirpairs.datasets.scene_shapes import SIDE, box, cut_below, ellipse, polygon, rounded
from xplique_dirpairs.datasets.scene_textures import DECORATIONS


def table(rng: Random, x: float, y: float, size: float) -> Strokes:
    """``size``: its width."""
    half, height, depth = size / 2, size * between(rng, 0.6, 0.72), size * 0.22
    top, front = y - height, y - height + depth
    wood = pick(rng, "brown brown brown white black")
    legs = plain(rng, wood, dark=0.15)
    strokes = []
    for at in (-0.62, 0.62):
        leg = box(x + at * half - 0.8, top, x + at * half + 0.8, y - depth * 0.8)
        strokes.append(Stroke("table", "leg", leg, legs))
    for at in (-0.88, 0.88):
        leg = box(x + at * half - 1.1, front, x + at * half + 1.1, y)
        strokes.append(Stroke("table", "leg", leg, legs))
    if rng.random() < 0.45:
        surface, edge = cloth(rng, VIVID + " white", 0.8), size * 0.13
    else:
        wooden = wood == "brown" or rng.random() < 0.4
        surface = material(rng, "wooden", wood) if wooden else plain(rng, wood)
        edge = size * 0.09
    corners = [(-half * 0.8, top), (half * 0.8, top), (half, front), (-half, front)]
    board = polygon([(x + u, v) for u, v in corners])
    side = box(x - half, front, x + half, front + edge)
    strokes.append(Stroke("table", "table top", board, surface))
    strokes.append(Stroke("table", "table top", side, darker(surface, 0.16)))
    return strokes


def parasol(rng: Random, x: float, y: float, size: float) -> Strokes:
    """``size``: the width of its canopy."""
    half, height = size / 2, size * between(rng, 0.95, 1.15)
    rim, top = y - height + size * 0.38, y - height
    pole = plain(rng, pick(rng, "brown brown white black"))
    strokes = [Stroke("parasol", "pole", box(x - 0.8, rim - 2, x + 0.9, y), pole)]
    dome = cut_below(ellipse(x, rim, half, rim - top), rim)
    if rng.random() < 0.7:
        light, dark = two_colours(rng)
        # gores: stripes that meet in the top
        v = np.clip((np.arange(SIDE) + 0.5 - top) / (rim - top), 0.05, 1)[:, None]
        u = (np.arange(SIDE) + 0.5 - x) / (half * np.sqrt(1 - (1 - v) ** 2))
        gores = np.floor((u + 1) * 3.5) % 2
        inks = (ink(rng, dark), ink(rng, light))
        canopy = Paint(inks, "striped", gores.astype(np.float32))
    else:
        canopy = plain(rng, pick(rng, VIVID + " white"), across=0.3)
    strokes.append(Stroke("parasol", "canopy", dome, canopy))
    return strokes


def sofa(rng: Random, x: float, y: float, size: float) -> Strokes:
    """``size``: its width."""
    half, height = size / 2, size * between(rng, 0.48, 0.56)
    colour = pick(rng, "red blue green brown purple orange pink yellow")
    cover = cloth(rng, colour, 0.15, ("striped", "dotted"))
    strokes = []
    for at in (-0.84, 0.84):
        feet = box(x + at * half - 1, y - 3, x + at * half + 1, y)
        strokes.append(Stroke("sofa", "leg", feet, plain(rng, pick(rng, "brown black"))))
    back = rounded(x - half * 0.86, y - height, x + half * 0.86, y - 2)
    strokes.append(Stroke("sofa", None, back, cover))
    seat, middle = y - height * 0.52, half * 0.7
    front = box(x - middle, seat, x + middle, y - 2)
    strokes.append(Stroke("sofa", None, front, darker(cover, 0.18)))
    pillow = cloth(rng, pick(rng, VIVID + " white white"), 0.5)
    side = size * between(rng, 0.1, 0.13)
    for at in (-0.42, 0.42):
        where = rounded(x + at * half - side, seat - 2 * side, x + at * half + side, seat)
        strokes.append(Stroke("sofa", "cushion", where, pillow))
    for at in (-1, 1):
        inner, outer = sorted((x + at * half * 0.72, x + at * half))
        arm = rounded(inner, y - height * 0.68, outer, y - 2)
        strokes.append(Stroke("sofa", None, arm, darker(cover, 0.09)))
    return strokes


def lamp(rng: Random, x: float, y: float, size: float) -> Strokes:
    """Hangs from above; ``y``: the rim of its shade, ``size``: the shade's width."""
    half, top = size / 2, y - size * between(rng, 0.5, 0.7)
    narrow = half * between(rng, 0.2, 0.5)
    shade = plain(rng, pick(rng, "yellow yellow white red orange green blue"), across=0.3)
    corners = [(x - narrow, top), (x + narrow, top), (x + half, y), (x - half, y)]
    bulb = ellipse(x, y, half * 0.36, half * 0.36)
    return [
        Stroke("lamp", None, box(x - 0.5, 0, x + 0.5, top + 1), plain(rng, "black")),
        Stroke("lamp", None, bulb, plain(rng, "yellow", pale=0.45)),
        Stroke("lamp", "lampshade", polygon(corners), shade),
    ]


def picture(rng: Random, x: float, y: float, size: float) -> Strokes:
    """On a wall; ``y``: its middle, ``size``: its width."""
    half, tall = size / 2, size * between(rng, 0.35, 0.5)
    frame = plain(rng, pick(rng, "brown black yellow white"))
    inside = box(x - half + 1.5, y - tall + 1.5, x + half - 1.5, y + tall - 1.5)
    ground = inside & (ellipse(x + between(rng, -6, 6), y + tall * 1.6, half * 1.5, tall * 1.6))
    return [
        Stroke("picture", None, box(x - half, y - tall, x + half, y + tall), frame),
        Stroke("picture", None, inside, plain(rng, pick(rng, "blue blue yellow pink"), pale=0.4)),
        Stroke("picture", None, ground, plain(rng, pick(rng, "green green purple orange blue"))),
    ]


def rug(rng: Random, x: float, y: float, size: float) -> Strokes:
    """On a floor; ``y``: its near edge, ``size``: its width."""
    half, depth = size / 2, size * between(rng, 0.2, 0.26)
    weave = decoration(rng, pick(rng, DECORATIONS), two_colours(rng))
    if rng.random() < 0.5:
        region = ellipse(x, y - depth / 2, half, depth * 0.56)
    else:
        corners = [(-half * 0.8, y - depth), (half * 0.8, y - depth), (half, y), (-half, y)]
        region = polygon([(x + u, v) for u, v in corners])
    return [Stroke("rug", None, region, weave)]


def balloon(rng: Random, x: float, y: float, size: float) -> Strokes:
    """A toy balloon on a string; ``y``: its middle, ``size``: its width."""
    half = size / 2
    colour = pick(rng, VIVID)
    down, sway = half * 1.18, between(rng, -2, 2)
    body = ellipse(x, y, half, down)
    knot = polygon([(x, y + down - 1), (x - 1.6, y + down + 2), (x + 1.6, y + down + 2)])
    string = np.zeros((SIDE, SIDE), bool)
    for k in range(round(size * 0.9)):
        row, column = round(y + down + 2) + k, round(x - 0.5 + sway * np.sin(k * 0.45))
        if 0 <= row < SIDE and 0 <= column < SIDE:
            string[row, column] = True
    gloss = ellipse(x - half * 0.38, y - down * 0.42, half * 0.2, down * 0.24)
    skin = plain(rng, colour, across=-0.35)
    return [
        Stroke("balloon", None, string, plain(rng, "white")),
        Stroke("balloon", None, body | knot, skin),
        Stroke("balloon", None, gloss, plain(rng, "white")),
    ]
