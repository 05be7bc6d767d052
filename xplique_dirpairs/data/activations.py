"""Activations of images, in batches.

Activations have shape ``(N, *spatial, D)``: ``(N, H, W, D)`` feature maps, ``(N, T, D)`` tokens or
``(N, D)`` vectors. One spatial position is a "pixel"; P counts them over all images.
"""

from __future__ import annotations

import weakref
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from numpy.typing import ArrayLike

from xplique_dirpairs.core.batching import slices
from xplique_dirpairs.core.types import Array
from xplique_dirpairs.core.validation import (
    as_activations,
    check_finite,
    check_images,
    check_images_fit,
)
from xplique_dirpairs.data.devices import workers

#: Models as compiled functions, for as long as they live.
_COMPILED: weakref.WeakKeyDictionary[keras.Model, Any] = weakref.WeakKeyDictionary()


def compute_activations(model: keras.Model, images: ArrayLike, batch_size: int = 64) -> Array:
    """Compute activations of images, in batches.

    Parameters
    ----------
    model : keras.Model
        ``input_to_latent_model``.
    images : array-like of shape (N, height, width, C)
    batch_size : int, default=64

    Returns
    -------
    activations : ndarray of shape (N, *spatial, D), float32

    Raises
    ------
    ValueError
        If images are not as the model takes them, or an image or activation is not finite.
    """
    activations = unchecked_activations(model, images, batch_size)
    check_finite("activations", activations)
    return activations


def unchecked_activations(model: keras.Model, images: ArrayLike, batch_size: int) -> Array:
    """Compute activations that need not be finite, for a fit that checks what it is given."""
    images = check_images(images)
    check_images_fit(images.shape[1:], model)
    return as_activations(outputs_of(model, images, batch_size))


def outputs_of(model: keras.Model, images: Array, batch_size: int) -> Array:
    """Compute a model's outputs for images, in batches; every worker computes all."""
    if model.distribute_strategy.num_replicas_in_sync > 1 and workers() == 1:
        return np.asarray(model.predict(images, batch_size=batch_size, verbose=0))
    # Under workers `predict` [Keras 3.15] gives other rows than it was given, without a word; and
    # it makes a dataset every time, which takes longer than a small network does for a batch.
    run = _compiled(model)
    parts = slices(len(images), batch_size)
    return np.concatenate([any_number(run, images[part]).numpy() for part in parts])


def any_number(function: tf.types.experimental.PolymorphicFunction, *batch: Array) -> Any:
    """Call a compiled function of arrays (n, ...) that is traced once for every n.

    Called as it is, it is traced for the first n and then for any, and TensorFlow warns of too many
    traces once some networks have come by.
    """
    tensors = [tf.constant(array) for array in batch]
    any_batch = [tf.TensorSpec((None, *t.shape[1:]), t.dtype) for t in tensors]
    return function.get_concrete_function(*any_batch)(*tensors)


def _compiled(model: keras.Model) -> tf.types.experimental.PolymorphicFunction:
    """Return a model as one compiled function, traced once for batches of any size."""
    if model not in _COMPILED:
        itself = weakref.ref(model)  # else the function would keep its model alive, and itself

        def run(batch: tf.Tensor) -> tf.Tensor:
            network: Any = itself()
            return network(batch, training=False)

        _COMPILED[model] = tf.function(run, reduce_retracing=True)
    return _COMPILED[model]
