"""The classes of the annotated scenes: which things belong to each, and where they stand."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from xplique_dirpairs.core.types import Array
from xplique_dirpairs.datasets import scene_things as things
from xplique_dirpairs.datasets.scene_paint import (
    Paint,
    Random,
    Stroke,
    Strokes,
    between,
    bricks,
    decoration,
    material,
    pick,
    plain,
    two_colours,
)
from xplique_dirpairs.datasets.scene_shapes import SIDE, box, polygon

#: What a scene is made of besides things.
GROUNDS = ("sky", "sea", "grass", "road", "wall", "floor")
#: Name of a thing → function of a generator, x, y and a size that draws it.
THINGS: dict[str, Callable[[Random, float, float, float], Strokes]] = {
    "cloud": things.cloud,
    "hill": things.hill,
    "house": things.house,
    "tree": things.tree,
    "car": things.car,
    "boat": things.boat,
    "flowers": things.flowers,
    "table": things.table,
    "parasol": things.parasol,
    "sofa": things.sofa,
    "lamp": things.lamp,
    "picture": things.picture,
    "rug": things.rug,
    "balloon": things.balloon,
}
#: Parts of any thing; windows, poles and legs belong to several.
PARTS = (
    "roof", "door", "window", "chimney", "crown", "trunk", "wheel", "hull", "sail", "pole",
    "blossom", "table top", "leg", "canopy", "cushion", "lampshade",
)  # fmt: skip
#: The object that is in every class equally often and in the same places.
DISTRACTOR = "balloon"
#: Share of each thing that defines a class which must be in sight.
LEAST_VISIBLE = 0.55


#: Things in their places: the row of the foot, the strokes, the name.
Placed = list[tuple[float, Strokes, str]]
#: All strokes of a scene, and those of each thing that defines its class.
Arranged = tuple[Strokes, list[Strokes]]


@dataclass(frozen=True)
class SceneClass:
    """A class of scenes.

    Attributes
    ----------
    setting : str
        "water", "meadow", "town" or "room".
    defining : tuple of str
        Things that are in every image of the class.
    extras : tuple of str
        One of these is in half of the images: what defines one class is an extra in others.
    """

    setting: str
    defining: tuple[str, ...]
    extras: tuple[str, ...] = ()


CLASSES = {
    "lake": SceneClass("water", ("tree", "boat"), ("tree", "boat")),
    "harbour": SceneClass("water", ("house", "boat"), ("tree", "boat")),
    "village": SceneClass("meadow", ("house", "tree"), ("car", "flowers")),
    "picnic": SceneClass("meadow", ("table", "parasol"), ("house", "tree", "flowers")),
    "street": SceneClass("town", ("house", "car"), ("tree", "flowers")),
    "terrace": SceneClass("town", ("table", "parasol"), ("house", "car", "flowers")),
    "kitchen": SceneClass("room", ("table", "lamp"), ("picture", "rug")),
    "living room": SceneClass("room", ("sofa", "picture"), ("lamp", "rug")),
}

#: Thing → range of its size in pixels, as the function that draws it takes it.
_SIZES = {
    "house": (23, 31),
    "tree": (27, 38),
    "car": (24, 31),
    "boat": (22, 30),
    "table": (24, 32),
    "parasol": (24, 31),
    "sofa": (36, 44),
    "lamp": (14, 19),
    "flowers": (17, 22),
    "picture": (13, 19),
    "rug": (34, 48),
}
#: Thing → how far below the horizon it stands, as a share of the ground's depth.
_DEPTHS = {
    "house": (0.08, 0.35),
    "tree": (0.12, 0.75),
    "car": (0.6, 0.95),
    "table": (0.7, 0.98),
    "parasol": (0.5, 0.85),
    "sofa": (0.4, 0.85),
    "flowers": (0.75, 0.98),
}


def scene_strokes(rng: Random, kind: SceneClass) -> Strokes:
    """Draw everything but the distractor, from back to front."""
    while True:
        strokes, defining = _SETTINGS[kind.setting](rng, kind)
        if _visible_shares(strokes, defining).min() >= LEAST_VISIBLE:
            return strokes


def _visible_shares(strokes: Strokes, groups: list[Strokes]) -> Array:
    """Return the share of each group of strokes, within the frame, that is not covered."""
    owner = np.full((SIDE, SIDE), -1)
    group_of = {id(stroke): k for k, group in enumerate(groups) for stroke in group}
    for stroke in strokes:
        owner[stroke.region] = group_of.get(id(stroke), -1)
    shares = []
    for k, group in enumerate(groups):
        whole = np.any([stroke.region for stroke in group], axis=0).sum()
        shares.append((owner == k).sum() / max(whole, 1))
    return np.array(shares)


def _water(rng: Random, kind: SceneClass) -> Arranged:
    """Draw a bank with things on it, and boats."""
    horizon = between(rng, 22, 30)
    mirrored = rng.random() < 0.5
    strokes = _sky(rng, horizon)
    calm = rng.random() < 0.35
    colour = "blue" if calm else pick(rng, "blue blue blue grey")
    water = plain(rng, colour) if calm else material(rng, "wavy", colour, horizon=horizon)
    strokes.append(Stroke("sea", None, _below(horizon), water))
    reach, low = between(rng, 34, 40), horizon + between(rng, 9, 12)
    shore = [(reach - 6, horizon), (reach, horizon + 3), (reach - 10, low)]
    corners = [(0, horizon), *shore, (0, low)]
    bank = polygon([(SIDE - 1 - u if mirrored else u, v) for u, v in corners])
    strokes.append(_ground(rng, pick(rng, "grass road"), bank, horizon))
    names = [*kind.defining, *_extra(rng, kind)]
    on_bank = [name for name in names if name != "boat"]
    placed: Placed = []
    for slot, name in zip(_slots(rng, len(on_bank), 9, reach - 9), on_bank, strict=True):
        x, y = SIDE - slot if mirrored else slot, horizon + between(rng, 3, 8)
        placed.append((y, _thing(rng, name, x, y, 0.9), name))
    boats = names.count("boat")
    for slot in _slots(rng, boats, 26 if boats > 1 else 36, 52):
        x, y = SIDE - slot if mirrored else slot, horizon + between(rng, 14, SIDE - 3 - horizon)
        placed.append((y, _thing(rng, "boat", x, y, 0.75 if boats > 1 else 1.0), "boat"))
    return _stacked(strokes, placed, kind)


def _outdoors(rng: Random, kind: SceneClass) -> Arranged:
    """Draw things on grass or on a road."""
    horizon = between(rng, 26, 36)
    strokes = _sky(rng, horizon)
    ground = "grass" if kind.setting == "meadow" else "road"
    strokes.append(_ground(rng, ground, _below(horizon), horizon))
    names = [*kind.defining, *_extra(rng, kind)]
    return _stacked(strokes, _spread(rng, names, horizon), kind)


def _room(rng: Random, kind: SceneClass) -> Arranged:
    """Draw a wall with things that hang there, and a floor."""
    horizon = between(rng, 34, 43)
    strokes = [Stroke("wall", None, _below(0), _wall(rng))]
    strokes.append(Stroke("floor", None, _below(horizon), _floor(rng, horizon)))
    names = [*kind.defining, *_extra(rng, kind)]
    hanging = [name for name in names if name in ("lamp", "picture")]
    placed: Placed = []
    for x, name in zip(_slots(rng, len(hanging), 8, 56), hanging, strict=True):
        y = between(rng, 14, 24) if name == "lamp" else between(rng, 12, 19)
        placed.append((horizon - 1, _thing(rng, name, x, y, 1.0), name))
    if "rug" in names:  # lies under everything
        x, y = between(rng, 22, 42), between(rng, horizon + 12, 62)
        placed.append((horizon, _thing(rng, "rug", x, y, 1.0), "rug"))
    standing = [name for name in names if name not in ("lamp", "picture", "rug")]
    return _stacked(strokes, placed + _spread(rng, standing, horizon), kind)


def _wall(rng: Random) -> Paint:
    style = pick(rng, "plain plain plain plain striped dotted bricked wooden")
    if style == "wooden":
        return material(rng, "wooden", pick(rng, "white brown"))
    if style == "bricked":
        colour = pick(rng, "red brown orange white")
        return bricks(rng, colour, "grey" if colour == "white" else pick(rng, "grey white"))
    colour = pick(rng, "white yellow blue green pink grey")
    if style == "plain":
        return plain(rng, colour, pale=0.25, across=0.2)
    return decoration(rng, style, ("yellow" if colour == "white" else "white", colour))


def _floor(rng: Random, horizon: float) -> Paint:
    style = pick(rng, "wooden wooden wooden chequered plain plain")
    if style == "chequered":
        return decoration(rng, style, two_colours(rng), horizon)
    if style == "wooden":
        return material(rng, style, pick(rng, "orange orange grey"), horizon=horizon)
    return plain(rng, pick(rng, "grey grey green blue pink"))


_SETTINGS = {"water": _water, "meadow": _outdoors, "town": _outdoors, "room": _room}


def _sky(rng: Random, horizon: float) -> Strokes:
    """Draw sky, clouds and hills."""
    colour = pick(rng, "blue blue blue blue blue grey orange pink")
    air = plain(rng, colour, pale=between(rng, 0.35, 0.5) if colour != "grey" else 0.25)
    strokes = [Stroke("sky", None, _below(0), air)]
    for _ in range(int(rng.random() * 3)):
        x, y = between(rng, 4, 60), between(rng, 6, horizon - 9)
        strokes += THINGS["cloud"](rng, x, y, between(rng, 16, 28))
    if rng.random() < 0.5:
        strokes += THINGS["hill"](rng, between(rng, 8, 56), horizon + 1, between(rng, 40, 80))
    return strokes


def _ground(rng: Random, name: str, region: Array, horizon: float) -> Stroke:
    if name == "grass":
        colour = pick(rng, "green green green green yellow")
        rough = rng.random() < 0.6
        paint = material(rng, "grassy", colour) if rough else plain(rng, colour)
    else:
        colour = pick(rng, "grey grey grey orange")
        rough = rng.random() < 0.6
        pale = 0.3 if colour == "orange" else 0.0
        paint = plain(rng, colour, pale=pale)
        if rough:
            paint = material(rng, "cobbled", colour, pale=pale, horizon=horizon)
    return Stroke(name, None, region, paint)


def _below(horizon: float) -> Array:
    return box(0, horizon, SIDE, SIDE)


def _extra(rng: Random, kind: SceneClass) -> list[str]:
    return [pick(rng, kind.extras)] if kind.extras and rng.random() < 0.5 else []


def _slots(rng: Random, count: int, low: float, high: float) -> list[float]:
    """Draw places beside one another, in random order."""
    wide = (high - low) / max(count, 1)
    places = [low + wide * (k + between(rng, 0.25, 0.75)) for k in range(count)]
    return [places[k] for k in rng.permutation(count)]


def _spread(rng: Random, names: list[str], horizon: float) -> Placed:
    """Place things across the ground."""
    placed: Placed = []
    for x, name in zip(_slots(rng, len(names), 8, 56), names, strict=True):
        y = horizon + between(rng, *_DEPTHS[name]) * (SIDE - horizon)
        placed.append((y, _thing(rng, name, x, y, 1.0), name))
    return placed


def _thing(rng: Random, name: str, x: float, y: float, scale: float) -> Strokes:
    return THINGS[name](rng, x, y, scale * between(rng, *_SIZES[name]))


def _stacked(strokes: Strokes, placed: Placed, kind: SceneClass) -> Arranged:
    """Put the nearer things in front."""
    placed = sorted(placed, key=lambda item: item[0])
    defining = [group for _, group, name in placed if name in kind.defining]
    return strokes + [stroke for _, group, _ in placed for stroke in group], defining
