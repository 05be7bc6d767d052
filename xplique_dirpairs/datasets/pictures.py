"""Shared by the generated data sets: balanced labels, colours, and the training of networks."""

from __future__ import annotations

from typing import Literal, get_args

import cv2
import keras
import numpy as np
from numpy.typing import ArrayLike

from xplique_dirpairs.core.types import Array
from xplique_dirpairs.core.validation import (
    check_choice,
    check_images_fit,
    check_integer,
    check_labels,
)

#: Name of a split of a generated data set.
Split = Literal["train", "test"]

_BATCH_SIZE = 32
_LEARNING_RATE = 3e-3


def balanced_labels(
    n: int, seed: int, split: Split, number_of_classes: int
) -> tuple[np.random.Generator, Array]:
    """Return the random generator of a split, and balanced labels in random order.

    Parameters
    ----------
    n : int
        Number of labels.
    seed : int
        Seed of the generator, which differs between the splits.
    split : {"train", "test"}
    number_of_classes : int

    Returns
    -------
    rng : numpy.random.Generator
    labels : ndarray of shape (n,)
        Class sizes differ by at most one.

    Raises
    ------
    ValueError
        If ``n`` is not a positive integer, or the split is unknown.
    """
    check_integer("n", n)
    splits = get_args(Split)
    check_choice("split", split, splits)
    rng = np.random.default_rng([seed, splits.index(split)])
    return rng, rng.permutation(np.arange(n) % number_of_classes)


def rgb(hue: float, saturation: float, value: float) -> Array:
    """Convert a colour from HSV to RGB.

    Parameters
    ----------
    hue : float
        In degrees.
    saturation : float
        In [0, 1].
    value : float
        In [0, 1].

    Returns
    -------
    colour : ndarray of shape (3,), float32
        In [0, 1].
    """
    hsv = np.array([[[hue, saturation, value]]], np.float32)
    return np.asarray(cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)[0, 0])


def train_classifier(
    model: keras.Model,
    images: ArrayLike,
    labels: ArrayLike,
    epochs: int,
    verbose: int,
) -> keras.Model:
    """Train a model whose outputs are logits, with Adam, cosine decay and cross-entropy.

    Parameters
    ----------
    model : keras.Model
        It is compiled and trained in place.
    images : array-like of shape (n, height, width, 3)
    labels : array-like of shape (n,)
        Class of each image.
    epochs : int
        Number of passes over the images.
    verbose : int
        Passed to Keras' ``fit``.

    Returns
    -------
    model : keras.Model
        The same model.

    Raises
    ------
    ValueError
        If the images do not fit the model, or there is not one label for each image.
    """
    images = np.asarray(images)
    check_images_fit(images.shape[1:], model)
    labels = check_labels(labels, len(images), model.output_shape[1])
    steps = epochs * -(-len(images) // _BATCH_SIZE)
    schedule = keras.optimizers.schedules.CosineDecay(_LEARNING_RATE, steps)
    model.compile(
        optimizer=keras.optimizers.Adam(schedule),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    model.optimizer.build(model.trainable_variables)  # otherwise Keras traces the first step twice
    model.fit(images, labels, batch_size=_BATCH_SIZE, epochs=epochs, verbose=verbose)
    return model
