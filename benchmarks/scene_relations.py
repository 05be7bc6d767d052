"""Which concepts of the annotated scenes make which, from the rules by which scenes are drawn.

This list was written down before any connectome of the scenes' network was built. With a and b the
labels of a concept of a layer and of one of the next:

    demanded    a is a part of the object b, as in `datasets.scene_things`; or a and b are the same
    excluded    no scene can hold both a and b: no class draws both
    neither     everything else, such as a part and another object of the same scenes

and for an edge from a label a to a class:

    demanded    a is a thing or the ground that every image of the class has, or a part of a thing
                that every image of the class has
    excluded    the class never draws a
"""

from __future__ import annotations

from xplique_dirpairs.datasets.scene_settings import CLASSES, DISTRACTOR, PARTS

#: Thing → its parts.
PARTS_OF = {
    "house": ("roof", "door", "window", "chimney"),
    "tree": ("crown", "trunk"),
    "car": ("wheel", "window"),
    "boat": ("hull", "sail", "pole"),
    "flowers": ("blossom",),
    "table": ("table top", "leg"),
    "parasol": ("canopy", "pole"),
    "sofa": ("cushion", "leg"),
    "lamp": ("lampshade",),
    "cloud": (),
    "hill": (),
    "picture": (),
    "rug": (),
    "balloon": (),
}
#: Setting of a class → objects that every scene has, and those that some have.
ALWAYS_IN = {
    "water": ("sky", "sea"),
    "meadow": ("sky", "grass"),
    "town": ("sky", "road"),
    "room": ("wall", "floor"),
}
SOMETIMES_IN = {
    "water": ("grass", "road", "cloud", "hill"),
    "meadow": ("cloud", "hill"),
    "town": ("cloud", "hill"),
    "room": (),
}


def objects_of(class_name: str, always: bool) -> set[str]:
    """Return the objects that every image of a class has, or those that it can have."""
    kind = CLASSES[class_name]
    objects = {*kind.defining, *ALWAYS_IN[kind.setting]}
    if not always:
        objects |= {*kind.extras, *SOMETIMES_IN[kind.setting], DISTRACTOR}
    return objects


def labels_of(class_name: str, always: bool) -> set[str]:
    """Return the objects of a class, as `objects_of` does, with the parts of things.

    Parts that a thing has only sometimes, such as a chimney, count as parts of it.
    """
    objects = objects_of(class_name, always)
    return objects | {part for one in objects for part in PARTS_OF.get(one, ())}


def classes_with(label: str) -> set[str]:
    """Return the classes that can draw a label."""
    return {name for name in CLASSES if label in labels_of(name, always=False)}


def relation(lower: str, upper: str) -> str:
    """Return "demanded", "excluded" or "neither" for the labels of two concepts."""
    if lower == upper or lower in PARTS_OF.get(upper, ()):
        return "demanded"
    return "neither" if classes_with(lower) & classes_with(upper) else "excluded"


def class_relation(label: str, class_name: str) -> str:
    """Return the same for a label and a class."""
    if label == DISTRACTOR:
        return "neither"
    if label in labels_of(class_name, always=True):
        return "demanded"
    return "neither" if label in labels_of(class_name, always=False) else "excluded"


assert {part for parts in PARTS_OF.values() for part in parts} == set(PARTS)
