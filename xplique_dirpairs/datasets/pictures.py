"""What the generated image sets share: balanced classes, colours, training of their networks."""

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

Split = Literal["train", "test"]

_BATCH_SIZE = 32
_LEARNING_RATE = 3e-3


def balanced_labels(
    n: int, seed: int, split: Split, number_of_classes: int
) -> tuple[np.random.Generator, Array]:
    """Return the random generator of a split, and n labels in random order.

    The classes differ by at most one in number; the splits differ under one seed.

    Raises
    ------
    ValueError
        If ``n`` is not a positive integer, or there is no such split.
    """
    check_integer("n", n)
    splits = get_args(Split)
    check_choice("split", split, splits)
    rng = np.random.default_rng([seed, splits.index(split)])
    return rng, rng.permutation(np.arange(n) % number_of_classes)


def rgb(hue: float, saturation: float, value: float) -> Array:
    """Return a colour, (3,) float32; the hue is in degrees, the others in [0, 1]."""
    hsv = np.array([[[hue, saturation, value]]], np.float32)
    return np.asarray(cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)[0, 0])


def train_classifier(
    model: keras.Model,
    images: ArrayLike,
    labels: ArrayLike,
    epochs: int,
    verbose: int,
) -> keras.Model:
    """Train a model that ends in logits: Adam, a falling learning rate, cross-entropy.

    Raises
    ------
    ValueError
        If images are not of the shape that the model takes, or there is not one label for each.
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
    model.optimizer.build(model.trainable_variables)  # else the first step is traced twice
    model.fit(images, labels, batch_size=_BATCH_SIZE, epochs=epochs, verbose=verbose)
    return model
