"""The things in the annotated scenes: each as strokes, from back to front.

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
    bricks,
    cloth,
    darker,
    decoration,
    ink,
    material,
    pick,
    pick_of,
    plain,
    two_colours,
)
from xplique_dirpairs.datasets.scene_shapes import (
    DECORATIONS,
    SIDE,
    box,
    cut_below,
    ellipse,
    polygon,
    rounded,
)

# ------------------------------------------------------------------ outside


def house(rng: Random, x: float, y: float, size: float) -> Strokes:
    """Draw a house; ``size`` is its width."""
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
    """Draw a tree; ``size`` is its height."""
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
    """Draw a car; ``size`` is its length."""
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
    """Draw a boat; ``size`` is the length of its hull."""
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
    """Draw a bed of flowers; ``size`` is its width."""
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
    """Draw a cloud; ``y`` is its middle, ``size`` its width."""
    region = np.zeros((SIDE, SIDE), bool)
    for at in (-0.28, 0.0, 0.28):
        tall = size * between(rng, 0.13, 0.2) * (1.35 if at == 0 else 1)
        region |= ellipse(x + at * size, y - tall * 0.3, size * 0.24, tall)
    region = cut_below(region, y + size * 0.08)
    return [Stroke("cloud", None, region, plain(rng, pick(rng, "white white white grey")))]


def hill(rng: Random, x: float, y: float, size: float) -> Strokes:
    """Draw a hill beyond the horizon ``y``; ``size`` is its width."""
    height = size * between(rng, 0.14, 0.26)
    region = cut_below(ellipse(x, y, size / 2, height), y)
    colour = pick(rng, "green green green blue blue purple brown")
    return [Stroke("hill", None, region, plain(rng, colour))]


# ------------------------------------------------------------------ furniture and toys


def table(rng: Random, x: float, y: float, size: float) -> Strokes:
    """Draw a table; ``size`` is its width."""
    half, height, depth = size / 2, size * between(rng, 0.6, 0.72), size * 0.22
    top, front = y - height, y - height + depth
    wood = pick(rng, "brown brown brown white black")
    legs = plain(rng, wood, dark=0.15)
    strokes = []
    far, near = (0.8, top, y - depth * 0.8), (1.1, front, y)
    for at, (thick, high, low) in ((-0.62, far), (0.62, far), (-0.88, near), (0.88, near)):
        leg = box(x + at * half - thick, high, x + at * half + thick, low)
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
    """Draw a parasol; ``size`` is the width of its canopy."""
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
    """Draw a sofa; ``size`` is its width."""
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
    """Draw a hanging lamp; ``y`` is the rim of its shade, ``size`` the shade's width."""
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
    """Draw a picture on a wall; ``y`` is its middle, ``size`` its width."""
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
    """Draw a rug on a floor; ``y`` is its near edge, ``size`` its width."""
    half, depth = size / 2, size * between(rng, 0.2, 0.26)
    weave = decoration(rng, pick(rng, DECORATIONS), two_colours(rng))
    if rng.random() < 0.5:
        region = ellipse(x, y - depth / 2, half, depth * 0.56)
    else:
        corners = [(-half * 0.8, y - depth), (half * 0.8, y - depth), (half, y), (-half, y)]
        region = polygon([(x + u, v) for u, v in corners])
    return [Stroke("rug", None, region, weave)]


def balloon(rng: Random, x: float, y: float, size: float) -> Strokes:
    """Draw a toy balloon on a string; ``y`` is its middle, ``size`` its width."""
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
