"""How the small networks of the generated data sets are trained."""

from __future__ import annotations

import keras
import numpy as np
from numpy.typing import ArrayLike, NDArray

_BATCH = 32
_RATE = 3e-3


def checked_pictures(images: ArrayLike, labels: ArrayLike, side: int) -> tuple[NDArray, NDArray]:
    """Images (n, side, side, 3) and a label for each, as arrays.

    Raises
    ------
    ValueError
        If they are not of these shapes.
    """
    images, labels = np.asarray(images), np.asarray(labels)
    if images.ndim != 4 or images.shape[1:] != (side, side, 3):
        raise ValueError(f"images must have shape (n, {side}, {side}, 3), not {images.shape}")
    if labels.shape != (len(images),):
        raise ValueError(f"labels must have shape {(len(images),)}, not {labels.shape}")
    return images, labels


def train_classifier(
    model: keras.Model, images: NDArray, labels: NDArray, epochs: int, verbose: int
) -> keras.Model:
    """The model, which ends in logits: Adam, a falling learning rate, cross-entropy."""
    steps = epochs * -(-len(images) // _BATCH)
    model.compile(
        optimizer=keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(_RATE, steps)),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    model.optimizer.build(model.trainable_variables)  # else the first step is traced twice
    model.fit(images, labels, batch_size=_BATCH, epochs=epochs, verbose=verbose)
    return model
