"""The classes of the annotated scenes: the things of each class and their arrangement."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

import numpy as np

from xplique_dirpairs.core.types import Array
from xplique_dirpairs.datasets.scene_paint import Paint, Painter, Stroke
from xplique_dirpairs.datasets.scene_shapes import SIDE, box, polygon
from xplique_dirpairs.datasets.scene_things import THINGS, draw_thing

#: Objects of a scene that are not things: its grounds.
GROUNDS = ("sky", "sea", "grass", "road", "wall", "floor")
#: Names of the parts of things; windows, poles and legs occur in several things.
PARTS = (
    "roof", "door", "window", "chimney", "crown", "trunk", "wheel", "hull", "sail", "pole",
    "blossom", "table top", "leg", "canopy", "cushion", "lampshade",
)  # fmt: skip
#: The object whose frequency and place do not depend on the class.
DISTRACTOR = "balloon"
#: Share of each class-defining thing that must be visible.
LEAST_VISIBLE = 0.55


class Placed(NamedTuple):
    """A thing that has been placed; ``foot`` is the row on which it stands."""

    foot: float
    name: str
    strokes: list[Stroke]


#: The strokes of the ground of a scene, and its things from back to front.
Arranged: TypeAlias = tuple[list[Stroke], list[Placed]]


@dataclass(frozen=True)
class SceneClass:
    """A class of scenes.

    Attributes
    ----------
    setting : str
        "water", "meadow", "town" or "room".
    defining : tuple of str
        Things that occur in every image of the class.
    extras : tuple of str
        One of these is added in half of the images. What defines one class is an extra in others.
    """

    setting: str
    defining: tuple[str, ...]
    extras: tuple[str, ...]


#: Name of a class → its description.
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


def scene_strokes(art: Painter, kind: SceneClass) -> list[Stroke]:
    """Draw a scene without the distractor; return its strokes from back to front."""
    arrange = {"water": _water, "room": _room}.get(kind.setting, _outdoors)
    while True:
        strokes, placed = arrange(art, kind)
        if _least_visible(placed, kind.defining) >= LEAST_VISIBLE:
            return strokes + [stroke for thing in placed for stroke in thing.strokes]


def _least_visible(placed: list[Placed], names: Sequence[str]) -> float:
    """Return the smallest visible share of a thing that has one of the names."""
    covered, least = _below(SIDE), 1.0
    for thing in reversed(placed):
        region = np.any([stroke.region for stroke in thing.strokes], axis=0)
        if thing.name in names:
            least = min(least, float((region & ~covered).sum() / max(region.sum(), 1)))
        covered |= region
    return least


def _water(art: Painter, kind: SceneClass) -> Arranged:
    """Draw water with a bank, things on the bank, and boats."""
    horizon = art.between(22, 30)
    mirrored = art.chance(0.5)
    strokes = _sky(art, horizon)
    calm = art.chance(0.35)
    colour = "blue" if calm else art.pick("blue blue blue grey")
    water = art.plain(colour) if calm else art.material("wavy", colour, horizon=horizon)
    strokes.append(Stroke("sea", None, _below(horizon), water))
    reach, low = art.between(34, 40), horizon + art.between(9, 12)
    shore = [(reach - 6, horizon), (reach, horizon + 3), (reach - 10, low)]
    corners = [(0, horizon), *shore, (0, low)]
    bank = polygon(corners, SIDE - 1, -1.0) if mirrored else polygon(corners)
    strokes.append(_ground(art, art.pick("grass road"), bank, horizon))
    names = _names(art, kind)
    on_bank = [name for name in names if name != "boat"]
    boats = [name for name in names if name == "boat"]

    def on_land(name: str) -> float:
        return horizon + art.between(3, 8)

    def on_water(name: str) -> float:
        return horizon + art.between(14, SIDE - 3 - horizon)

    placed = _row(art, on_bank, (9, reach - 9), on_land, 0.9, mirrored)
    left, scale = (26, 0.75) if len(boats) > 1 else (36, 1.0)
    placed += _row(art, boats, (left, 52), on_water, scale, mirrored)
    return strokes, sorted(placed, key=lambda thing: thing.foot)


def _outdoors(art: Painter, kind: SceneClass) -> Arranged:
    """Draw things on grass or on a road."""
    horizon = art.between(26, 36)
    strokes = _sky(art, horizon)
    ground = "grass" if kind.setting == "meadow" else "road"
    strokes.append(_ground(art, ground, _below(horizon), horizon))
    return strokes, _standing(art, _names(art, kind), horizon)


def _room(art: Painter, kind: SceneClass) -> Arranged:
    """Draw a wall with hanging things, and a floor; a rug is drawn below the standing things."""
    horizon = art.between(34, 43)
    strokes = [Stroke("wall", None, _below(0), _wall(art))]
    strokes.append(Stroke("floor", None, _below(horizon), _floor(art, horizon)))
    names = _names(art, kind)

    def height(name: str) -> float:
        return art.between(14, 24) if name == "lamp" else art.between(12, 19)

    hanging = [name for name in names if name in ("lamp", "picture")]
    placed = _row(art, hanging, (8, 56), height)
    if "rug" in names:
        x, y = art.between(22, 42), art.between(horizon + 12, 62)
        placed.append(Placed(y, "rug", draw_thing(art, "rug", x, y)))
    standing = [name for name in names if name not in ("lamp", "picture", "rug")]
    return strokes, placed + _standing(art, standing, horizon)


def _wall(art: Painter) -> Paint:
    """Draw the paint of a wall."""
    style = art.pick("plain plain plain plain striped dotted bricked wooden")
    if style == "wooden":
        return art.material(style, "white brown")
    if style == "bricked":
        colour = art.pick("red brown orange white")
        mortar = "grey" if colour == "white" else art.pick("grey white")
        return art.decoration(style, (colour, mortar))
    colour = art.pick("white yellow blue green pink grey")
    if style == "plain":
        return art.plain(colour, pale=0.25, across=0.2)
    return art.decoration(style, ("yellow" if colour == "white" else "white", colour))


def _floor(art: Painter, horizon: float) -> Paint:
    """Draw the paint of a floor."""
    style = art.pick("wooden wooden wooden chequered plain plain")
    if style == "chequered":
        return art.decoration(style, art.two_colours(), horizon)
    if style == "wooden":
        return art.material(style, "orange orange grey", horizon=horizon)
    return art.plain("grey grey green blue pink")


def _sky(art: Painter, horizon: float) -> list[Stroke]:
    """Draw the sky with clouds and hills."""
    colour = art.pick("blue blue blue blue blue grey orange pink")
    air = art.plain(colour, pale=art.between(0.35, 0.5) if colour != "grey" else 0.25)
    strokes = [Stroke("sky", None, _below(0), air)]
    for _ in range(int(art.between(0, 3))):
        strokes += draw_thing(art, "cloud", art.between(4, 60), art.between(6, horizon - 9))
    if art.chance(0.5):
        strokes += draw_thing(art, "hill", art.between(8, 56), horizon + 1)
    return strokes


def _ground(art: Painter, name: str, region: Array, horizon: float) -> Stroke:
    """Draw a region of grass or road."""
    colour = art.pick(
        "green green green green yellow" if name == "grass" else "grey grey grey orange"
    )
    rough, pale = art.chance(0.6), 0.3 if colour == "orange" else 0.0
    if name == "grass":
        paint = art.material("grassy", colour) if rough else art.plain(colour)
    else:
        paint = art.plain(colour, pale=pale)
        if rough:
            paint = art.material("cobbled", colour, pale=pale, horizon=horizon)
    return Stroke(name, None, region, paint)


def _below(horizon: float) -> Array:
    """Return the region below a height."""
    return box(0, horizon, SIDE, SIDE)


def _names(art: Painter, kind: SceneClass) -> list[str]:
    """Draw the names of a scene's things: the defining ones and, half of the time, an extra."""
    names = list(kind.defining)
    if art.chance(0.5):
        names.append(art.pick_of(kind.extras))
    return names


def _standing(art: Painter, names: list[str], horizon: float) -> list[Placed]:
    """Place things across the ground; return them from back to front."""

    def foot(name: str) -> float:
        return horizon + art.between(*THINGS[name].depths) * (SIDE - horizon)

    return sorted(_row(art, names, (8, 56), foot), key=lambda thing: thing.foot)


def _row(
    art: Painter,
    names: list[str],
    between: tuple[float, float],
    row: Callable[[str], float],
    scale: float = 1.0,
    mirrored: bool = False,
) -> list[Placed]:
    """Place things side by side in random order, each on the row that ``row(name)`` returns."""
    left, right = between
    wide = (right - left) / max(len(names), 1)
    columns = [left + wide * (k + art.between(0.25, 0.75)) for k in range(len(names))]
    placed = []
    for name, k in zip(names, art.rng.permutation(len(names)), strict=True):
        x, y = SIDE - columns[k] if mirrored else columns[k], row(name)
        placed.append(Placed(y, name, draw_thing(art, name, x, y, scale)))
    return placed
