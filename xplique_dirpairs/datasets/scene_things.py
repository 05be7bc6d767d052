"""The things in the annotated scenes.

A thing is drawn by a function that takes a painter, the centre (x, y) of the thing's foot and its
size in units. It yields (name of the part or None, region, paint) from back to front.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from xplique_dirpairs.core.types import Array
from xplique_dirpairs.datasets.scene_paint import VIVID, Paint, Painter, Stroke
from xplique_dirpairs.datasets.scene_shapes import (
    DECORATIONS,
    box,
    cut_below,
    dome,
    ellipse,
    pixel_centres,
    polygon,
    rounded,
)

#: What a function that draws a thing returns.
Parts: TypeAlias = Iterator[tuple[str | None, Array, Paint]]

# ------------------------------------------------------------------ outside


def house(art: Painter, x: float, y: float, size: float) -> Parts:
    """Draw a house; ``size`` is its width."""
    height, half = size * art.between(0.58, 0.8), size / 2
    top, left = y - height, x - half
    roof_colour = art.pick("red red brown grey black blue")
    kind = art.pick("bricked bricked wooden plain plain plain")
    if kind == "bricked":
        wall = art.decoration(kind, (art.pick("red brown orange"), art.pick("grey grey white")))
    elif kind == "wooden":
        wall = art.material(kind, "brown red blue yellow")
    else:
        wall = art.plain("white white yellow orange pink blue", across=0.3)
    roof = art.material("shingled", roof_colour) if art.chance(0.6) else art.plain(roof_colour)
    peak = top - size * art.between(0.32, 0.5)
    ridge, eaves = half * art.pick_of((0.06, 0.06, 0.55)), half + 2
    if art.chance(0.5):
        side = left + size * art.pick_of((0.12, 0.68))
        flue = box(side, peak - 1, side + size * 0.18, top)
        yield "chimney", flue, art.plain("red brown grey white")
    yield None, box(left, top, x + half, y), wall
    yield "roof", polygon([(-eaves, top), (-ridge, peak), (ridge, peak), (eaves, top)], x), roof
    door_at = art.pick_of((0.22, 0.5, 0.78))
    door = art.plain("brown brown green blue red white black", across=-0.3)
    middle, wide = left + size * door_at, size * 0.11
    yield "door", box(middle - wide, y - height * 0.62, middle + wide, y), door
    pane = art.plain("blue blue black yellow", pale=0.2)
    frame = art.plain("white white brown")
    wide = size * 0.1
    for at in (0.22, 0.5, 0.78):
        if at != door_at:
            across, down = left + size * at, top + height * 0.38
            west, north = round(across - wide), round(down - wide)
            east, south = round(across + wide), round(down + wide)
            yield "window", box(west, north, east, south), frame
            yield "window", box(west + 1, north + 1, east - 1, south - 1), pane


def tree(art: Painter, x: float, y: float, size: float) -> Parts:
    """Draw a tree; ``size`` is its height."""
    thick, trunk = max(1.3, size * 0.06), art.plain("brown brown brown grey", across=0.5)
    yield "trunk", box(x - thick, y - size * 0.5, x + thick, y), trunk
    colour = art.pick("green green green green green yellow orange red")
    if art.chance(0.65):
        leaves = art.material("leafy", colour, across=-0.15)
    else:
        leaves = art.plain(colour, across=-0.25)
    crown = []
    if art.chance(0.3):
        wide = size * art.between(0.24, 0.3)
        for k in range(3):
            low, half = y - size * (0.22 + 0.22 * k), wide * (1 - 0.22 * k)
            crown.append(polygon([(-half, low), (0, low - size * 0.38), (half, low)], x))
    else:
        wide, middle = size * art.between(0.2, 0.27), y - size * 0.66
        crown.append(ellipse(x, middle, wide * 1.05, size * 0.3))
        for side in (-1, 1):
            at = x + side * wide * 0.6, middle + size * art.between(0, 0.1)
            crown.append(ellipse(*at, wide * 0.75, size * 0.2))
    yield "crown", np.any(crown, axis=0), leaves


def car(art: Painter, x: float, y: float, size: float) -> Parts:
    """Draw a car; ``size`` is its length."""
    half, radius = size / 2, max(2.4, size * 0.125)
    paint = art.plain("red red blue yellow white black green orange", across=0.2)
    low, belt, roof = y - radius * 0.8, y - size * 0.27, y - size * 0.46
    front = art.pick_of((-1, 1))
    nose, slant, back = x + front * half, size * 0.16, half * 0.86
    body = box(x - half, belt, x + half, low) & ~box(nose - 1, belt - 1, nose + 1, belt + 1)
    corners = [(-back, belt), (-back + slant * 0.5, roof), (half * 0.18, roof), (half * 0.5, belt)]
    yield None, body | polygon(corners, x, front), paint
    top, sill = roof + (belt - roof) * 0.2 + 0.5, belt - 1
    corners = [(-back + slant * 0.5, sill), (-back + slant * 0.8, top)]
    corners += [(half * 0.12, top), (half * 0.36, sill)]
    post = round(x - front * half * 0.2)
    glass = polygon(corners, x, front) & ~box(post, 0, post + 1, y)
    yield "window", glass, art.plain("blue blue black", pale=0.3)
    tyre, hub = art.plain("black"), art.plain("grey", pale=0.2)
    for side in (-0.56, 0.56):
        middle = (x + side * half, y - radius)
        yield "wheel", ellipse(*middle, radius, radius), tyre
        yield "wheel", ellipse(*middle, radius * 0.4, radius * 0.4), hub


def boat(art: Painter, x: float, y: float, size: float) -> Parts:
    """Draw a boat; ``size`` is the length of its hull."""
    half, deck = size / 2, y - size * 0.24
    front = art.pick_of((-1, 1))
    colour = art.pick("red red white black brown brown orange")
    wooden = art.chance(0.4)
    hull = art.material("wooden", colour) if wooden else art.plain(colour, across=0.25)
    mast_top, foot = deck - size * art.between(0.85, 1.05), deck - size * 0.08
    mast = x + front * half * 0.12
    yield "pole", box(mast - 0.6, mast_top, mast + 0.9, deck), art.plain("brown brown white grey")
    sides = [(-half, deck), (half * 1.08, deck), (half * 0.62, y), (-half * 0.72, y)]
    yield "hull", polygon(sides, x, front), hull
    sails = art.cloth("white white white red yellow orange blue", 0.35, ("striped",))
    behind = [(-0.08, mast_top + 1), (-0.08, foot), (-0.95, foot - 1)]
    before = [(0.3, mast_top + size * 0.15), (0.3, foot), (0.98, foot)]
    for corners in (behind, before):
        yield "sail", polygon(corners, x, front * half), sails


def flowers(art: Painter, x: float, y: float, size: float) -> Parts:
    """Draw a bed of flowers; ``size`` is its width."""
    half, height = size / 2, size * art.between(0.42, 0.52)
    heads = []
    for count, up in ((4, 0.2), (3, 0.55), (2, 0.9)):
        reach = half * np.sqrt(1 - up**2) - 1.0
        for k in range(count):
            at = ((k + 0.5) / count * 2 - 1) * reach + art.between(-0.6, 0.6)
            heads.append(ellipse(round(x + at) + 0.5, round(y - up * height) + 0.5, 1.3, 1.3))
    petals = art.plain("red red yellow pink pink purple orange white")
    yield None, dome(x, y, half, height), art.plain("green", dark=0.3)
    yield "blossom", np.any(heads, axis=0), petals


def cloud(art: Painter, x: float, y: float, size: float) -> Parts:
    """Draw a cloud; ``y`` is its centre, ``size`` its width."""
    puffs = []
    for at in (-0.28, 0.0, 0.28):
        tall = size * art.between(0.13, 0.2) * (1.35 if at == 0 else 1)
        puffs.append(ellipse(x + at * size, y - tall * 0.3, size * 0.24, tall))
    region = cut_below(np.any(puffs, axis=0), y + size * 0.08)
    yield None, region, art.plain("white white white grey")


def hill(art: Painter, x: float, y: float, size: float) -> Parts:
    """Draw a hill beyond the horizon ``y``; ``size`` is its width."""
    region = dome(x, y, size / 2, size * art.between(0.14, 0.26))
    yield None, region, art.plain("green green green blue blue purple brown")


# ------------------------------------------------------------------ furniture and toys


def table(art: Painter, x: float, y: float, size: float) -> Parts:
    """Draw a table; ``size`` is its width."""
    half, height, depth = size / 2, size * art.between(0.6, 0.72), size * 0.22
    top, front = y - height, y - height + depth
    wood = art.pick("brown brown brown white black")
    legs = art.plain(wood, dark=0.15)
    far, near = (0.8, top, y - depth * 0.8), (1.1, front, y)
    for at, (thick, high, low) in ((-0.62, far), (0.62, far), (-0.88, near), (0.88, near)):
        yield "leg", box(x + at * half - thick, high, x + at * half + thick, low), legs
    if art.chance(0.45):
        surface, edge = art.cloth(VIVID + " white", 0.8), size * 0.13
    else:
        wooden = wood == "brown" or art.chance(0.4)
        surface = art.material("wooden", wood) if wooden else art.plain(wood)
        edge = size * 0.09
    yield "table top", _seen_from_above(x, top, front, half), surface
    yield "table top", box(x - half, front, x + half, front + edge), surface.darker(0.16)


def _seen_from_above(x: float, far: float, near: float, half: float) -> Array:
    """Return the region of a horizontal board, which is narrower at its far edge."""
    return polygon([(-half * 0.8, far), (half * 0.8, far), (half, near), (-half, near)], x)


def parasol(art: Painter, x: float, y: float, size: float) -> Parts:
    """Draw a parasol; ``size`` is the width of its canopy."""
    half, height = size / 2, size * art.between(0.95, 1.15)
    rim, top = y - height + size * 0.38, y - height
    yield "pole", box(x - 0.8, rim - 2, x + 0.9, y), art.plain("brown brown white black")
    if art.chance(0.7):
        light, dark = art.two_colours()
        # The gores are stripes that meet at the top.
        v = np.clip((pixel_centres() - top) / (rim - top), 0.05, 1)[:, None]
        u = (pixel_centres() - x) / (half * np.sqrt(1 - (1 - v) ** 2))
        gores = np.floor((u + 1) * 3.5) % 2
        canopy = Paint((art.ink(dark), art.ink(light)), "striped", gores.astype(np.float32))
    else:
        canopy = art.plain(VIVID + " white", across=0.3)
    yield "canopy", dome(x, rim, half, rim - top), canopy


def sofa(art: Painter, x: float, y: float, size: float) -> Parts:
    """Draw a sofa; ``size`` is its width."""
    half, height = size / 2, size * art.between(0.48, 0.56)
    colour = art.pick("red blue green brown purple orange pink yellow")
    cover = art.cloth(colour, 0.15, ("striped", "dotted"))
    for at in (-0.84, 0.84):
        foot = box(x + at * half - 1, y - 3, x + at * half + 1, y)
        yield "leg", foot, art.plain("brown black")
    yield None, rounded(x - half * 0.86, y - height, x + half * 0.86, y - 2), cover
    seat, middle = y - height * 0.52, half * 0.7
    yield None, box(x - middle, seat, x + middle, y - 2), cover.darker(0.18)
    pillow = art.cloth(art.pick(VIVID + " white white"), 0.5)
    side = size * art.between(0.1, 0.13)
    for at in (-0.42, 0.42):
        left, right = x + at * half - side, x + at * half + side
        yield "cushion", rounded(left, seat - 2 * side, right, seat), pillow
    for at in (-1, 1):
        inner, outer = sorted((x + at * half * 0.72, x + at * half))
        yield None, rounded(inner, y - height * 0.68, outer, y - 2), cover.darker(0.09)


def lamp(art: Painter, x: float, y: float, size: float) -> Parts:
    """Draw a hanging lamp; ``y`` is the rim of its shade, ``size`` the shade's width."""
    half, top = size / 2, y - size * art.between(0.5, 0.7)
    narrow = half * art.between(0.2, 0.5)
    shade = art.plain("yellow yellow white red orange green blue", across=0.3)
    yield None, box(x - 0.5, 0, x + 0.5, top + 1), art.plain("black")
    yield None, ellipse(x, y, half * 0.36, half * 0.36), art.plain("yellow", pale=0.45)
    yield "lampshade", polygon([(-narrow, top), (narrow, top), (half, y), (-half, y)], x), shade


def picture(art: Painter, x: float, y: float, size: float) -> Parts:
    """Draw a picture on a wall; ``y`` is its centre, ``size`` its width."""
    half, tall = size / 2, size * art.between(0.35, 0.5)
    frame = art.plain("brown black yellow white")
    inside = box(x - half + 1.5, y - tall + 1.5, x + half - 1.5, y + tall - 1.5)
    ground = ellipse(x + art.between(-6, 6), y + tall * 1.6, half * 1.5, tall * 1.6)
    yield None, box(x - half, y - tall, x + half, y + tall), frame
    yield None, inside, art.plain("blue blue yellow pink", pale=0.4)
    yield None, inside & ground, art.plain("green green purple orange blue")


def rug(art: Painter, x: float, y: float, size: float) -> Parts:
    """Draw a rug on a floor; ``y`` is its near edge, ``size`` its width."""
    half, depth = size / 2, size * art.between(0.2, 0.26)
    weave = art.decoration(art.pick_of(DECORATIONS), art.two_colours())
    if art.chance(0.5):
        region = ellipse(x, y - depth / 2, half, depth * 0.56)
    else:
        region = _seen_from_above(x, y - depth, y, half)
    yield None, region, weave


def balloon(art: Painter, x: float, y: float, size: float) -> Parts:
    """Draw a toy balloon on a string; ``y`` is its centre, ``size`` its width."""
    half, colour = size / 2, art.pick(VIVID)
    down, sway = half * 1.18, art.between(-2, 2)
    knot = polygon([(0, y + down - 1), (-1.6, y + down + 2), (1.6, y + down + 2)], x)
    top, string = round(y + down + 2), []
    for k in range(round(size * 0.9)):
        left = round(x - 0.5 + sway * np.sin(k * 0.45))
        string.append(box(left, top + k, left + 1, top + k + 1))
    skin = art.plain(colour, across=-0.35)
    yield None, np.any(string, axis=0), art.plain("white")
    yield None, ellipse(x, y, half, down) | knot, skin
    gloss = ellipse(x - half * 0.38, y - down * 0.42, half * 0.2, down * 0.24)
    yield None, gloss, art.plain("white")


# ------------------------------------------------------------------ table of things


@dataclass(frozen=True)
class Thing:
    """How a thing is drawn and how far away it stands.

    Attributes
    ----------
    draw : callable
        Function that draws the thing and has its name.
    sizes : tuple of (float, float)
        Smallest and largest size in units; see ``draw`` for what is measured.
    depths : tuple of (float, float), default=(0, 0)
        Smallest and largest distance of the foot below the horizon, as a share of the distance from
        the horizon to the bottom of the image.
    """

    draw: Callable[[Painter, float, float, float], Parts]
    sizes: tuple[float, float]
    depths: tuple[float, float] = (0.0, 0.0)

    def strokes(self, art: Painter, x: float, y: float, size: float) -> list[Stroke]:
        """Draw the thing; return its strokes from back to front."""
        return [Stroke(self.draw.__name__, *part) for part in self.draw(art, x, y, size)]


#: Name of a thing → how it is drawn.
THINGS = {
    "cloud": Thing(cloud, (16, 28)),
    "hill": Thing(hill, (40, 80)),
    "house": Thing(house, (23, 31), (0.08, 0.35)),
    "tree": Thing(tree, (27, 38), (0.12, 0.75)),
    "car": Thing(car, (24, 31), (0.6, 0.95)),
    "boat": Thing(boat, (22, 30)),
    "flowers": Thing(flowers, (17, 22), (0.75, 0.98)),
    "table": Thing(table, (24, 32), (0.7, 0.98)),
    "parasol": Thing(parasol, (24, 31), (0.5, 0.85)),
    "sofa": Thing(sofa, (36, 44), (0.4, 0.85)),
    "lamp": Thing(lamp, (14, 19)),
    "picture": Thing(picture, (13, 19)),
    "rug": Thing(rug, (34, 48)),
    "balloon": Thing(balloon, (12, 17)),
}


def draw_thing(art: Painter, name: str, x: float, y: float, scale: float = 1.0) -> list[Stroke]:
    """Draw a thing at a random size; return its strokes from back to front."""
    thing = THINGS[name]
    return thing.strokes(art, x, y, scale * art.between(*thing.sizes))
