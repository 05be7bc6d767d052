"""Images and activations: what is accepted at the public edge, and how images become activations.

Activations have shape ``(N, *spatial, D)``: ``(N, H, W, D)`` feature maps, ``(N, T, D)`` tokens or
``(N, D)`` vectors. One spatial position is a "pixel"; P counts them over all images.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from numpy.typing import ArrayLike, NDArray

from xplique_dirpairs.data.devices import workers
from xplique_dirpairs.models.head import fits

#: What to do with a dataset or generator where an array is wanted.
_STREAM = (
    ". For more than memory holds, write shards with ActivationShards.write (from activations) or "
    "ActivationShards.compute (from images): learn_pairs, scan_number_of_concepts and "
    "count_skewed_sources take them"
)

#: Models as compiled functions, for as long as they live.
_COMPILED: weakref.WeakKeyDictionary = weakref.WeakKeyDictionary()


def check_images(images: ArrayLike) -> NDArray:
    """Images as a float32 batch ``(N, height, width, channels)``, values as they are.

    A single image counts as a batch of one. Integer images (uint8) are converted, not rescaled.

    Raises
    ------
    ValueError
        If there is no image, the rank is wrong, or a value is not finite.
    """
    array = _as_array("images", images)
    if array.ndim == 3:
        array = array[None]
    if array.ndim != 4:
        raise ValueError(
            "images must have shape (N, height, width, channels) or (height, width, channels), "
            f"not {array.shape}"
        )
    if array.size == 0:
        raise ValueError(f"there are no images: shape {array.shape}")
    array = array.astype(np.float32, copy=False)
    if not np.isfinite(array).all():
        raise ValueError("images hold NaN or infinite values")
    return array


def check_images_fit(shape: tuple[int | None, ...], model: object) -> None:
    """Images of a shape, (height, width, channels), must be as a model takes them.

    Raises
    ------
    ValueError
        If the model says that it takes others; a subclassed one does not say.
    """
    wanted = getattr(model, "input_shape", None)
    if isinstance(wanted, tuple) and not fits(shape, wanted[1:]):
        raise ValueError(f"images have shape {tuple(shape)}, but the network takes {wanted[1:]}")


def check_activations(activations: ArrayLike) -> NDArray:
    """Activations as float32 ``(N, *spatial, D)``, finite.

    Raises
    ------
    ValueError
        With what came and what was wanted.
    """
    array = as_activations(activations)
    check_finite("activations", array)
    return array


def check_finite(name: str, array: NDArray) -> None:
    """No activation is NaN or infinite.

    Raises
    ------
    ValueError
    """
    if not np.isfinite(array).all():
        raise ValueError(
            f"{name} hold NaN or infinite values: check the images and their preprocessing"
        )


def as_activations(activations: ArrayLike) -> NDArray:
    """Activations as float32 ``(N, *spatial, D)``; whether they are finite is not looked at."""
    array = _as_array("activations", activations, _STREAM)
    if array.ndim not in (2, 3, 4):
        raise ValueError(
            "activations must be numeric with shape (N, H, W, D), (N, T, D) or (N, D), "
            f"not {array.dtype} {array.shape}"
        )
    if array.size == 0:
        raise ValueError(f"there are no activations: shape {array.shape}")
    return array.astype(np.float32, copy=False)


def check_count(name: str, value: int, least: int = 1) -> None:
    """A number of things is whole, and not less than ``least``.

    Raises
    ------
    ValueError
    """
    whole = isinstance(value, (int, np.integer)) and not isinstance(value, bool)
    if not whole or value < least:
        raise ValueError(f"{name} must be an integer of at least {least}, not {value!r}")


def check_random_state(random_state: int | None) -> np.random.Generator:
    """A generator of random numbers from a seed.

    Raises
    ------
    ValueError
        If it is no seed.
    """
    try:
        return np.random.default_rng(random_state)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"random_state must be None or an integer of at least 0, not {random_state!r}"
        ) from error


def _as_array(name: str, values: ArrayLike, instead: str = "") -> NDArray:
    """``instead``: what to do with what can be iterated over, but is no array."""
    try:
        array = np.asarray(values)
    except ValueError as error:  # a list whose members differ in shape
        raise ValueError(
            f"{name} of several sizes: bring them to one size, in one array"
        ) from error
    if array.dtype == object and array.ndim:
        raise ValueError(f"{name} of several sizes: bring them to one size, in one array")
    if array.dtype.name == "bfloat16":  # of mixed precision; no kind of number to numpy
        array = array.astype(np.float32)
    if array.dtype.kind not in "fiub":
        came = type(values).__name__ if array.ndim == 0 else f"{array.dtype} {array.shape}"
        streams = array.ndim == 0 and hasattr(values, "__iter__") and not isinstance(values, str)
        advice = instead if streams else ""
        raise ValueError(f"{name} must be one numeric array, not {came}{advice}")
    return array


def compute_activations(model: keras.Model, images: ArrayLike, batch_size: int = 64) -> NDArray:
    """Activations ``(N, *spatial, D)`` of images, in batches.

    Parameters
    ----------
    model
        ``input_to_latent_model``.
    images : (N, height, width, channels)
    """
    images = check_images(images)
    check_images_fit(images.shape[1:], model)
    return check_activations(outputs_of(model, images, batch_size))


def outputs_of(model: keras.Model, images: NDArray, batch_size: int) -> NDArray:
    """What a model makes of images, in batches; of all of them on every worker."""
    parts = [images[start : start + batch_size] for start in range(0, len(images), batch_size)]
    if workers() == 1 and model.distribute_strategy.num_replicas_in_sync > 1:
        return model.predict(images, batch_size=batch_size, verbose=0)
    # Under workers `predict` [Keras 3.15] gives other rows than it was given, without a word; and
    # it makes a dataset every time, which takes longer than a small network does for a batch.
    run = _compiled(model)
    return np.concatenate([any_number(run, part).numpy() for part in parts])


def any_number(function: tf.types.experimental.PolymorphicFunction, *batch: NDArray) -> Any:
    """A compiled function of arrays (n, ...), traced once for every n.

    Called as it is, it is traced for the first n and then for any, and TensorFlow warns of too many
    traces once some networks have come by.
    """
    tensors = [tf.constant(array) for array in batch]
    any_batch = [tf.TensorSpec((None, *t.shape[1:]), t.dtype) for t in tensors]
    return function.get_concrete_function(*any_batch)(*tensors)


def _compiled(model: keras.Model) -> tf.types.experimental.PolymorphicFunction:
    """A model as one compiled function, made once: it takes any batch without tracing anew."""
    if model not in _COMPILED:
        itself = weakref.ref(model)  # else the function would keep its model alive, and itself

        def run(batch: tf.Tensor) -> tf.Tensor:
            return itself()(batch, training=False)  # type: ignore[misc]

        _COMPILED[model] = tf.function(run, reduce_retracing=True)
    return _COMPILED[model]


def as_pixels(activations: NDArray) -> NDArray:
    """``(N, *spatial, D)`` → ``(P, D)``."""
    return activations.reshape(-1, activations.shape[-1])


def blocks_of(features: Any, size: int = 65536) -> Iterator[NDArray]:
    """Positions (n, D) in order: of an array (P, D), or of anything with ``blocks()``."""
    if hasattr(features, "blocks"):
        yield from features.blocks()
        return
    for start in range(0, len(features), size):
        yield features[start : start + size]
