"""Pictures of handwritten digits in photographs, and a small network for them.

Nothing is downloaded: the photographs come with scikit-learn (temple, flower) and scikit-image
(cat), and the handwritten 8×8 digits with scikit-learn. A class is a pair of a photograph and a
digit, so that neither of them alone decides the class.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial

import cv2
import keras
import numpy as np
from keras import layers
from skimage.data import chelsea
from sklearn.datasets import load_digits, load_sample_image

from xplique_dirpairs.core.types import Array
from xplique_dirpairs.datasets.pictures import Split, balanced_labels, rgb, train_classifier

#: Name of a photograph → its loader, and the rows and columns that show its subject. The rest of
#: the photographs is mostly plain wall, leaves or water.
_SUBJECTS: dict[str, tuple[Callable[[], Array], slice, slice]] = {
    "cat": (chelsea, slice(0, 300), slice(0, 400)),
    "flower": (partial(load_sample_image, "flower.jpg"), slice(40, 427), slice(130, 480)),
    "temple": (partial(load_sample_image, "china.jpg"), slice(0, 427), slice(40, 560)),
}
#: Names of the photographs, the digits, and the names of the classes in the order of the labels.
PHOTOGRAPHS = tuple(_SUBJECTS)
DIGITS = (0, 3)
CLASS_NAMES = tuple(f"{photograph} + {digit}" for photograph in PHOTOGRAPHS for digit in DIGITS)

#: Side of a picture, in pixels.
SIDE = 96
#: Smallest and largest side of the crop of a photograph, as a share of its shorter side.
CROP = (0.45, 0.75)
#: Smallest and largest height of the 8×8 digit in pixels (its ink has about 0.9 of this height),
#: and its largest rotation in degrees.
DIGIT_HEIGHT = (36.0, 46.0)
DIGIT_TURN = 14.0
#: Every fourth handwritten sample is kept for the test split.
TEST_EVERY = 4


def digit_scenes(
    n: int, seed: int = 0, split: Split = "train"
) -> tuple[Array, Array, tuple[str, ...]]:
    """Draw pictures of a handwritten digit on a crop of a photograph.

    No handwritten sample occurs in both splits. Place, size and mirroring of the crops are random
    and independent in the two splits; crops of the same photograph may overlap.

    Parameters
    ----------
    n : int
        Number of pictures; class sizes differ by at most one.
    seed : int, default=0
        Seed of the pictures. The two splits have different pictures for the same seed.
    split : {"train", "test"}, default="train"

    Returns
    -------
    images : ndarray of shape (n, 96, 96, 3), float32
        In [0, 1].
    labels : ndarray of shape (n,)
        Class of each picture, as an index of ``class_names``.
    class_names : tuple of str
        Name of each class, for example ``"cat + 3"``.

    Raises
    ------
    ValueError
        If ``n`` is not a positive integer, or the split is unknown.
    """
    images, labels, _ = _scenes(n, seed, split)
    return images, labels, CLASS_NAMES


def digit_masks(n: int, seed: int = 0, split: Split = "train") -> Array:
    """Return masks of the ink in the pictures of `digit_scenes` for the same arguments.

    Parameters
    ----------
    n : int
        Number of pictures.
    seed : int, default=0
        Seed of the pictures.
    split : {"train", "test"}, default="train"

    Returns
    -------
    masks : ndarray of shape (n, 96, 96), bool

    Raises
    ------
    ValueError
        If ``n`` is not a positive integer, or the split is unknown.
    """
    return _scenes(n, seed, split)[2]


def _scenes(n: int, seed: int, split: Split) -> tuple[Array, Array, Array]:
    """Draw images (n, SIDE, SIDE, 3), labels (n,) and masks of the ink (n, SIDE, SIDE)."""
    rng, labels = balanced_labels(n, seed, split, len(CLASS_NAMES))
    images = np.empty((n, SIDE, SIDE, 3), np.float32)
    masks = np.empty((n, SIDE, SIDE), bool)
    for image, mask, label in zip(images, masks, labels, strict=True):
        name, digit = divmod(int(label), len(DIGITS))
        samples = handwriting(DIGITS[digit], split)
        background = _cut_out(photograph(PHOTOGRAPHS[name]), rng)
        stroke = _stroke(samples[rng.integers(len(samples))], rng)
        image[:] = _ink_over(background, stroke, rng)
        mask[:] = stroke > 0.5
    return images, labels, masks


@cache
def photograph(name: str) -> Array:
    """Load the subject of a photograph.

    Parameters
    ----------
    name : str
        One of `PHOTOGRAPHS`.

    Returns
    -------
    picture : ndarray of shape (height, width, 3), float32
        In [0, 1].
    """
    load, rows, columns = _SUBJECTS[name]
    return np.asarray(load()[rows, columns], np.float32) / np.float32(255.0)


@cache
def handwriting(digit: int, split: Split) -> Array:
    """Return the handwritten samples of a digit in one split.

    Parameters
    ----------
    digit : int
    split : {"train", "test"}

    Returns
    -------
    samples : ndarray of shape (n, 8, 8), float32
        Ink in [0, 1].
    """
    data = load_digits()
    samples = data.images[data.target == digit].astype(np.float32) / 16.0
    in_test = np.arange(len(samples)) % TEST_EVERY == 0
    return np.asarray(samples[in_test if split == "test" else ~in_test])


def _cut_out(picture: Array, rng: np.random.Generator) -> Array:
    """Return a random square crop of a photograph, (SIDE, SIDE, 3), mirrored half of the time."""
    height, width = picture.shape[:2]
    side = int(rng.uniform(*CROP) * min(height, width))
    top, left = rng.integers(height - side + 1), rng.integers(width - side + 1)
    part = picture[top : top + side, left : left + side]
    part = cv2.resize(part, (SIDE, SIDE), interpolation=cv2.INTER_AREA)
    if rng.random() < 0.5:
        part = part[:, ::-1]
    return np.asarray(np.clip(part * rng.uniform(0.9, 1.1), 0.0, 1.0))


def _stroke(sample: Array, rng: np.random.Generator) -> Array:
    """Return the opacity (SIDE, SIDE) of an 8×8 digit, enlarged, rotated and moved at random."""
    scale = rng.uniform(*DIGIT_HEIGHT) / 8
    turn = cv2.getRotationMatrix2D((3.5, 3.5), rng.uniform(-DIGIT_TURN, DIGIT_TURN), scale)
    margin = 4.5 * scale
    turn[:, 2] = turn[:, 2] + rng.uniform(margin, SIDE - margin, size=2) - 3.5
    large = cv2.warpAffine(sample, turn, (SIDE, SIDE), flags=cv2.INTER_CUBIC)
    large = cv2.GaussianBlur(large, (0, 0), 0.33 * scale)
    # A steep ramp below half of the full darkness turns the blurred digit into a pen stroke.
    edge: Array = np.clip((large - 0.35) / 0.15, 0.0, 1.0)
    return np.asarray(edge * edge * (3 - 2 * edge))


def _ink_over(background: Array, stroke: Array, rng: np.random.Generator) -> Array:
    """Draw a stroke with a soft edge, dark on a light background and light on a dark one."""
    under = (background * stroke[..., None]).sum(axis=(0, 1)) / stroke.sum()
    ground_is_light = under @ [0.299, 0.587, 0.114] > 0.42
    hue = 360 * rng.random()
    if ground_is_light:
        ink, edge = rgb(hue, rng.uniform(0.7, 1.0), rng.uniform(0.12, 0.32)), 1.0
    else:
        ink, edge = rgb(hue, rng.uniform(0.0, 0.4), rng.uniform(0.95, 1.0)), 0.0
    halo = 0.6 * np.clip(1.8 * cv2.GaussianBlur(stroke, (0, 0), 1.8), 0.0, 1.0)[..., None]
    opacity = 0.94 * stroke[..., None]
    with_halo = background * (1 - halo) + edge * halo
    return np.asarray(with_halo * (1 - opacity) + ink * opacity)


def small_cnn(
    images: Array, labels: Array, *, epochs: int = 9, seed: int = 0, verbose: int = 1
) -> keras.Model:
    """Train a small convolutional classifier on the pictures.

    Parameters
    ----------
    images : ndarray of shape (n, 96, 96, 3)
        In [0, 1].
    labels : ndarray of shape (n,)
        They index `CLASS_NAMES`.
    epochs : int, default=9
        Number of passes over the pictures.
    seed : int, default=0
        Seed of the initial weights and of the order of the pictures. Sets Keras' global seed.
    verbose : int, default=1
        Passed to Keras' ``fit``.

    Returns
    -------
    model : keras.Model
        Its outputs are logits of shape (n, 6). The ReLU ``"last_conv"`` has feature maps of shape
        (n, 8, 8, 48).

    Raises
    ------
    ValueError
        If there is not one label for each picture.
    """
    keras.utils.set_random_seed(seed)
    # The sides of the maps are 96 → 32 → 16 → 8 → 8; a global average and logits follow.
    x = inputs = keras.Input(images.shape[1:])
    for filters, size, stride, name in (
        (24, 5, 3, None),
        (32, 3, 2, None),
        (48, 3, 2, None),
        (48, 3, 1, "last_conv"),
    ):
        x = layers.Conv2D(filters, size, stride, padding="same", use_bias=False)(x)
        x = layers.BatchNormalization(momentum=0.9)(x)
        x = layers.ReLU(name=name)(x)
    x = layers.GlobalAveragePooling2D(name="average")(x)
    logits = layers.Dense(len(CLASS_NAMES), name="logits")(x)
    model = keras.Model(inputs, logits, name="small_cnn")
    return train_classifier(model, images, labels, epochs, verbose)
