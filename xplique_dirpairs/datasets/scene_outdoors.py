"""What stands outside in the annotated scenes: each thing as strokes, from back to front.

A thing is drawn by a function of a generator, the middle of its foot (x, y) and its size in pixels.
Parts lie within their things by construction: every stroke names the thing it belongs to.
"""

from __future__ import annotations

import numpy as np

from xplique_dirpairs.datasets.scene_paint import (
    Paint,
    Random,
    Stroke,
    Strokes,
    between,
    bricks,
    cloth,
    material,
    pick,
    pick_of,
    plain,
)
from xplique_dirpairs.datasets.scene_shapes import SIDE, box, cut_below, ellipse, polygon


def house(rng: Random, x: float, y: float, size: float) -> Strokes:
    """``size``: its width."""
    height, half = size * between(rng, 0.58, 0.8), size / 2
    top, left = y - height, x - half
    roof_colour = pick(rng, "red red brown grey black blue")
    kind = pick(rng, "bricked bricked wooden plain plain plain")
    if kind == "bricked":
        wall = bricks(rng, pick(rng, "red brown orange"), pick(rng, "grey grey white"))
    elif kind == "wooden":
        wall = material(rng, "wooden", pick(rng, "brown red blue yellow"))
    else:
        wall = plain(rng, pick(rng, "white white yellow orange pink blue"), across=0.3)
    covered = rng.random() < 0.6
    roof = material(rng, "shingled", roof_colour) if covered else plain(rng, roof_colour)
    peak = top - size * between(rng, 0.32, 0.5)
    ridge = half * pick_of(rng, (0.06, 0.06, 0.55))
    eaves = half + 2
    strokes = []
    if rng.random() < 0.5:
        side = left + size * pick_of(rng, (0.12, 0.68))
        chimney = plain(rng, pick(rng, "red brown grey white"))
        flue = box(side, peak - 1, side + size * 0.18, top)
        strokes.append(Stroke("house", "chimney", flue, chimney))
    strokes.append(Stroke("house", None, box(left, top, x + half, y), wall))
    gable = polygon([(x - eaves, top), (x - ridge, peak), (x + ridge, peak), (x + eaves, top)])
    strokes.append(Stroke("house", "roof", gable, roof))
    door_at = pick_of(rng, (0.22, 0.5, 0.78))
    door = plain(rng, pick(rng, "brown brown green blue red white black"), across=-0.3)
    middle, wide = left + size * door_at, size * 0.11
    opening = box(middle - wide, y - height * 0.62, middle + wide, y)
    strokes.append(Stroke("house", "door", opening, door))
    pane = plain(rng, pick(rng, "blue blue black yellow"), pale=0.2)
    frame = plain(rng, pick(rng, "white white brown"))
    for at in (0.22, 0.5, 0.78):
        if at != door_at:
            place = left + size * at, top + height * 0.38
            strokes += _window(*place, size * 0.1, frame, pane)
    return strokes


def _window(x: float, y: float, half: float, frame: Paint, pane: Paint) -> Strokes:
    left, top, right, bottom = round(x - half), round(y - half), round(x + half), round(y + half)
    return [
        Stroke("house", "window", box(left, top, right, bottom), frame),
        Stroke("house", "window", box(left + 1, top + 1, right - 1, bottom - 1), pane),
    ]


def tree(rng: Random, x: float, y: float, size: float) -> Strokes:
    """``size``: its height."""
    trunk = plain(rng, pick(rng, "brown brown brown grey"), across=0.5)
    thick = max(1.3, size * 0.06)
    strokes = [Stroke("tree", "trunk", box(x - thick, y - size * 0.5, x + thick, y), trunk)]
    colour = pick(rng, "green green green green green yellow orange red")
    leaves = (
        material(rng, "leafy", colour, across=-0.15)
        if rng.random() < 0.65
        else plain(rng, colour, across=-0.25)
    )
    crown = np.zeros((SIDE, SIDE), bool)
    if rng.random() < 0.3:
        wide = size * between(rng, 0.24, 0.3)
        for k in range(3):
            low, half = y - size * (0.22 + 0.22 * k), wide * (1 - 0.22 * k)
            crown |= polygon([(x - half, low), (x, low - size * 0.38), (x + half, low)])
    else:
        wide, middle = size * between(rng, 0.2, 0.27), y - size * 0.66
        crown |= ellipse(x, middle, wide * 1.05, size * 0.3)
        for side in (-1, 1):
            at = x + side * wide * 0.6
            crown |= ellipse(at, middle + size * between(rng, 0, 0.1), wide * 0.75, size * 0.2)
    strokes.append(Stroke("tree", "crown", crown, leaves))
    return strokes


def car(rng: Random, x: float, y: float, size: float) -> Strokes:
    """``size``: its length."""
    half, radius = size / 2, max(2.4, size * 0.125)
    paint = plain(rng, pick(rng, "red red blue yellow white black green orange"), across=0.2)
    low, belt, roof = y - radius * 0.8, y - size * 0.27, y - size * 0.46
    front = pick_of(rng, (-1, 1))
    body = box(x - half, belt, x + half, low)
    body &= ~box(x + front * half - 1, belt - 1, x + front * half + 1, belt + 1)
    slant, back = size * 0.16, half * 0.86
    corners = [(-back, belt), (-back + slant * 0.5, roof), (half * 0.18, roof), (half * 0.5, belt)]
    cabin = polygon([(x + front * u, v) for u, v in corners])
    pane = plain(rng, pick(rng, "blue blue black"), pale=0.3)
    gap = (belt - roof) * 0.2
    corners = [
        (-back + slant * 0.5, belt - 1),
        (-back + slant * 0.8, roof + gap + 0.5),
        (half * 0.12, roof + gap + 0.5),
        (half * 0.36, belt - 1),
    ]
    glass = polygon([(x + front * u, v) for u, v in corners])
    glass[:, round(x - front * half * 0.2)] = False
    strokes = [
        Stroke("car", None, body | cabin, paint),
        Stroke("car", "window", glass, pane),
    ]
    tyre, hub = plain(rng, "black"), plain(rng, "grey", pale=0.2)
    for side in (-0.56, 0.56):
        middle = (x + side * half, y - radius)
        strokes.append(Stroke("car", "wheel", ellipse(*middle, radius, radius), tyre))
        strokes.append(Stroke("car", "wheel", ellipse(*middle, radius * 0.4, radius * 0.4), hub))
    return strokes


def boat(rng: Random, x: float, y: float, size: float) -> Strokes:
    """``size``: the length of its hull."""
    half, deck = size / 2, y - size * 0.24
    front = pick_of(rng, (-1, 1))
    colour = pick(rng, "red red white black brown brown orange")
    hull = (
        material(rng, "wooden", colour) if rng.random() < 0.4 else plain(rng, colour, across=0.25)
    )
    sides = [(-half, deck), (half * 1.08, deck), (half * 0.62, y), (-half * 0.72, y)]
    mast_top, foot = deck - size * between(rng, 0.85, 1.05), deck - size * 0.08
    mast = x + front * half * 0.12
    pole = plain(rng, pick(rng, "brown brown white grey"))
    strokes = [
        Stroke("boat", "pole", box(mast - 0.6, mast_top, mast + 0.9, deck), pole),
        Stroke("boat", "hull", polygon([(x + front * u, v) for u, v in sides]), hull),
    ]
    sails = cloth(rng, "white white white red yellow orange blue", 0.35, ("striped",))
    behind = [(-0.08, mast_top + 1), (-0.08, foot), (-0.95, foot - 1)]
    before = [(0.3, mast_top + size * 0.15), (0.3, foot), (0.98, foot)]
    for corners in (behind, before):
        region = polygon([(x + front * u * half, v) for u, v in corners])
        strokes.append(Stroke("boat", "sail", region, sails))
    return strokes


def flowers(rng: Random, x: float, y: float, size: float) -> Strokes:
    """A bed of flowers; ``size``: its width."""
    half, height = size / 2, size * between(rng, 0.42, 0.52)
    bush = cut_below(ellipse(x, y, half, height), y)
    heads = np.zeros((SIDE, SIDE), bool)
    for row, up in enumerate((0.2, 0.55, 0.9)):
        reach = half * np.sqrt(1 - up**2) - 1.0
        for k in range(count := (4, 3, 2)[row]):
            at = ((k + 0.5) / count * 2 - 1) * reach + between(rng, -0.6, 0.6)
            heads |= ellipse(round(x + at) + 0.5, round(y - up * height) + 0.5, 1.3, 1.3)
    petals = plain(rng, pick(rng, "red red yellow pink pink purple orange white"))
    return [
        Stroke("flowers", None, bush, plain(rng, "green", dark=0.3)),
        Stroke("flowers", "blossom", heads, petals),
    ]


def cloud(rng: Random, x: float, y: float, size: float) -> Strokes:
    """``y``: its middle, ``size``: its width."""
    region = np.zeros((SIDE, SIDE), bool)
    for at in (-0.28, 0.0, 0.28):
        tall = size * between(rng, 0.13, 0.2) * (1.35 if at == 0 else 1)
        region |= ellipse(x + at * size, y - tall * 0.3, size * 0.24, tall)
    region = cut_below(region, y + size * 0.08)
    return [Stroke("cloud", None, region, plain(rng, pick(rng, "white white white grey")))]


def hill(rng: Random, x: float, y: float, size: float) -> Strokes:
    """Beyond the horizon ``y``; ``size``: its width."""
    height = size * between(rng, 0.14, 0.26)
    region = cut_below(ellipse(x, y, size / 2, height), y)
    colour = pick(rng, "green green green blue blue purple brown")
    return [Stroke("hill", None, region, plain(rng, colour))]
