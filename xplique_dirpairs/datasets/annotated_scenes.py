"""Annotated scenes: generated images with exact masks, and a network for their classes.

Every pixel is labelled in up to four categories (object, part, texture, colour), as in Broden.
There are eight classes, two in each of four settings. The things that distinguish the two classes
of a setting also occur in other settings: a table and a parasol make a picnic on grass and a
terrace on a road, and a table makes a room a kitchen.

One thing, the balloon (`DISTRACTOR`), has nothing to do with the class. It is drawn last, in front
of everything else, with its own light and random numbers. If B denotes the balloon's pixels and
their values, P(image | class) = P(B) P(pixels outside B | class): the odds of the classes depend
on the pixels outside B only, so a classifier gains nothing from the balloon.
"""

from __future__ import annotations

from collections.abc import Collection

import keras
import numpy as np
from keras import layers
from numpy.typing import ArrayLike

from xplique_dirpairs.core.types import Array
from xplique_dirpairs.core.validation import check_integer
from xplique_dirpairs.data.annotated_images import AnnotatedImages
from xplique_dirpairs.datasets.pictures import train_classifier
from xplique_dirpairs.datasets.scene_paint import COLOURS, Canvas, Painter, Stroke
from xplique_dirpairs.datasets.scene_settings import (
    CLASSES,
    DISTRACTOR,
    GROUNDS,
    PARTS,
    scene_strokes,
)
from xplique_dirpairs.datasets.scene_shapes import SIDE, TEXTURES
from xplique_dirpairs.datasets.scene_things import THINGS

#: Names of the classes, in the order of the labels.
CLASS_NAMES = tuple(CLASSES)
#: Category → names of its concepts.
CONCEPTS = {
    "object": GROUNDS + tuple(THINGS),
    "part": PARTS,
    "texture": TEXTURES,
    "colour": tuple(COLOURS),
}
#: Share of the images with the distractor.
DISTRACTOR_SHARE = 0.5
#: Standard deviation of the noise on every pixel.
NOISE = 0.012

#: Name of the layer to explain in the network: a ReLU with feature maps of shape (8, 8, 128).
LAYER = "last_conv"
#: Number of filters, kernel size and stride of each convolution.
_CONVOLUTIONS = ((32, 4, 2), (48, 4, 2), (64, 3, 1), (96, 4, 2), (128, 3, 1))

#: Last numbers of the seeds, which make the streams of random numbers independent.
_SCENE, _DISTRACTOR, _LABELS = 1, 2, 3


def annotated_scenes(
    n: int, seed: int = 0, *, start: int = 0, without: Collection[str] = ()
) -> AnnotatedImages:
    """Draw scenes with masks of objects, parts, textures and colours.

    Image i of a seed does not depend on ``n`` and ``start``: images that do not fit into memory can
    be drawn in blocks. The eight images that begin at a multiple of eight are one of each class.

    Parameters
    ----------
    n : int
        Number of images.
    seed : int, default=0
        Seed of everything; another seed gives new images from the same distribution.
    start : int, default=0
        Number of the first image.
    without : collection of str, default=()
        Objects and parts (see `CONCEPTS`) that are not drawn, so that what is behind them shows.
        The scenes are otherwise the same, and the labels are those of the complete scenes.

    Returns
    -------
    scenes : AnnotatedImages
        Images (n, 64, 64, 3) float32 in [0, 1]; masks of the four categories of `CONCEPTS`, uint8;
        labels that index `CLASS_NAMES`. The masks are exhaustive.

    Raises
    ------
    TypeError
        If ``without`` is not a collection of names.
    ValueError
        If a number is out of range, or an object or part is unknown.
    """
    labels = scene_labels(n, seed, start=start)
    left_out = _checked_names(without)
    images = np.empty((n, SIDE, SIDE, 3), np.float32)
    masks = {category: np.empty((n, SIDE, SIDE), np.uint8) for category in CONCEPTS}
    for k in range(n):
        canvas = draw_scene(seed, start + k, int(labels[k]), left_out)
        images[k] = canvas.rgb.reshape(SIDE, SIDE, 3)
        for mask, drawn in zip(masks.values(), canvas.masks, strict=True):
            mask[k] = drawn.reshape(SIDE, SIDE)
    return AnnotatedImages(images, masks, CONCEPTS, labels, CLASS_NAMES, exhaustive=True)


def scene_labels(n: int, seed: int = 0, *, start: int = 0) -> Array:
    """Return the labels that `annotated_scenes` returns for the same arguments.

    Parameters
    ----------
    n : int
        Number of images.
    seed : int, default=0
        Seed of the images.
    start : int, default=0
        Number of the first image.

    Returns
    -------
    labels : ndarray of shape (n,)
        They index `CLASS_NAMES`.

    Raises
    ------
    ValueError
        If a number is out of range.
    """
    check_integer("n", n)
    check_integer("seed", seed, minimum=0)
    check_integer("start", start, minimum=0)
    classes = len(CLASS_NAMES)
    first, last = start // classes, (start + n - 1) // classes
    blocks = [
        np.random.default_rng([seed, block, _LABELS]).permutation(classes)
        for block in range(first, last + 1)
    ]
    return np.concatenate(blocks)[start - first * classes :][:n]


def _checked_names(names: Collection[str]) -> frozenset[str]:
    """Return the names as a set, or raise an error if one is neither an object nor a part."""
    if isinstance(names, str) or not isinstance(names, Collection):
        raise TypeError(f"without must be a collection of names, such as ['tree'], not {names!r}")
    known = CONCEPTS["object"] + CONCEPTS["part"]
    unknown = [name for name in names if name not in known]
    if unknown:
        raise ValueError(f"unknown objects or parts {unknown}; choose from {list(known)}")
    return frozenset(names)


def draw_scene(seed: int, index: int, label: int, without: Collection[str] = ()) -> Canvas:
    """Draw image ``index`` of a seed as a scene of class ``label``.

    The distractor does not depend on the class. Within `scene_shapes.finer` the canvas has more
    pixels.

    Parameters
    ----------
    seed : int
    index : int
        Number of the image.
    label : int
        Class of the scene.
    without : collection of str, default=()
        Objects and parts that are not drawn.

    Returns
    -------
    canvas : Canvas
        The picture and its masks.
    """
    art, own = Painter([seed, index, _SCENE]), Painter([seed, index, _DISTRACTOR])
    canvas, left_out = Canvas(CONCEPTS), set(without)
    strokes = scene_strokes(art, CLASSES[CLASS_NAMES[label]])
    canvas.paint(stroke for stroke in strokes if not {stroke.object, stroke.part} & left_out)
    canvas.rgb *= art.light()
    # The light of the scene must not fall on the distractor, which is independent of the class.
    distractor, noise = _distractor(own), own.rng.standard_normal(canvas.rgb.shape, np.float32)
    canvas.paint(stroke for stroke in distractor if stroke.object not in left_out)
    canvas.rgb += np.float32(NOISE) * noise
    np.clip(canvas.rgb, 0.0, 1.0, out=canvas.rgb)
    return canvas


def _distractor(art: Painter) -> list[Stroke]:
    """Return the strokes of the distractor; empty if the image has none."""
    is_present, balloon = art.chance(DISTRACTOR_SHARE), THINGS[DISTRACTOR]
    # In the upper half it hides little of what the class depends on.
    x, y, size = art.between(8, 56), art.between(9, 28), art.between(*balloon.sizes)
    return balloon.strokes(art, x, y, size) if is_present else []


# ------------------------------------------------------------------ the network


def train_scene_network(
    images: ArrayLike, labels: ArrayLike, *, epochs: int = 8, seed: int = 0, verbose: int = 1
) -> keras.Model:
    """Train a classifier of the scenes.

    Trained on 5000 images of `annotated_scenes`, which takes two minutes on one core, it classifies
    96 to 97 % of new images correctly. Most errors confuse the two classes of rooms.

    Parameters
    ----------
    images : array-like of shape (n, 64, 64, 3)
        In [0, 1].
    labels : array-like of shape (n,)
        They index `CLASS_NAMES`.
    epochs : int, default=8
        Number of passes over the images.
    seed : int, default=0
        Seed of the initial weights and of the order of the images. Sets Keras' global seed.
    verbose : int, default=1
        Passed to Keras' ``fit``.

    Returns
    -------
    model : keras.Model
        Its outputs are logits of shape (n, 8). The layer `LAYER` has non-negative feature maps of
        shape (n, 8, 8, 128); a global average pooling and a dense layer follow it.

    Raises
    ------
    ValueError
        If the images have another shape, or there is not one label for each image.
    """
    return train_classifier(random_scene_network(seed), images, labels, epochs, verbose)


def random_scene_network(seed: int = 0) -> keras.Model:
    """Return the network of `train_scene_network` with random weights, as a control.

    Parameters
    ----------
    seed : int, default=0
        Seed of the weights. Sets Keras' global seed.

    Returns
    -------
    model : keras.Model
    """
    keras.utils.set_random_seed(seed)
    x = inputs = keras.Input((SIDE, SIDE, 3))
    for number, (filters, size, stride) in enumerate(_CONVOLUTIONS):
        last = number == len(_CONVOLUTIONS) - 1
        # Zero padding would act as a concept of its own. An even kernel size at stride 2 and an odd
        # one at stride 1 keep the cells of all maps centred on their receptive fields.
        x = keras.ops.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="symmetric")
        x = layers.Conv2D(filters, size, stride, use_bias=False, kernel_initializer="he_normal")(x)
        x = layers.BatchNormalization(momentum=0.9)(x)
        x = layers.ReLU(name=LAYER if last else None)(x)
    x = layers.GlobalAveragePooling2D(name="average")(x)
    logits = layers.Dense(len(CLASS_NAMES), name="logits")(x)
    return keras.Model(inputs, logits, name="scene_network")
