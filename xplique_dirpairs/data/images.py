"""Images and what is read of them: activations in batches, crops on CRAFT's grid, concept maps.

Activations have shape ``(N, *spatial, D)``: ``(N, H, W, D)`` feature maps, ``(N, T, D)`` tokens or
``(N, D)`` vectors. One place of a map, or one token, is a position; P counts them over all images.
"""

from __future__ import annotations

import logging
import math
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

# ------------------------------------------------------------ activations

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


# ------------------------------------------------------------ crops and concept maps

logger = logging.getLogger("xplique_dirpairs")

#: Side of a crop as a share of the image's shorter side, where the user gives no patch size.
PATCH_SHARE = 0.3
#: Stride of the crop grid as a share of the patch size: that of CRAFT.
STRIDE_SHARE = 0.8


def default_patch(image_shape: tuple[int, ...]) -> int:
    """Return the side of the crops of images (height, width, …) in pixels.

    `PATCH_SHARE` of the shorter side, rounded up.
    """
    return max(1, math.ceil(PATCH_SHARE * min(image_shape[:2])))


def crop_stride(patch: int) -> int:
    """Return the distance in pixels from one crop of the grid to the next, as in CRAFT."""
    return max(1, int(STRIDE_SHARE * patch))


def crop_starts(length: int, patch: int) -> Array:
    """Return the first pixel of every crop along one side of an image, as in CRAFT."""
    return np.arange(0, length - patch + 1, crop_stride(patch))


def crop_place(index: int, image_shape: tuple[int, ...], patch: int) -> tuple[int, int]:
    """Return (top, left), in pixels, of a crop of the grid.

    Parameters
    ----------
    index : int
        Number of the crop within its image, row by row.
    image_shape : (height, width, …)
    patch : int
    """
    row, column = divmod(index, len(crop_starts(image_shape[1], patch)))
    return row * crop_stride(patch), column * crop_stride(patch)


def crop_weights(cells: int, length: int, patch: int) -> Array:
    """Return the share of each crop's side that lies in each cell of a map, (crops, cells) float32.

    Rows sum to 1.
    """
    edges = np.linspace(0.0, length, cells + 1)
    starts = crop_starts(length, patch)[:, None]
    overlap = np.minimum(edges[1:], starts + patch) - np.maximum(edges[:-1], starts)
    return np.asarray(np.maximum(overlap, 0.0) / patch, np.float32)


def fitting_patch(patch_size: int, image_shape: tuple[int, ...]) -> int:
    """Return ``patch_size``, or the image's shorter side where that is less (which is logged)."""
    patch = min(patch_size, *image_shape[:2])
    if patch < patch_size:
        logger.info(
            "patch_size %d is larger than the images (%d x %d): %d is used",
            patch_size,
            *image_shape[:2],
            patch,
        )
    return patch


def extract_crops(images: Array, patch: int) -> Array:
    """Return all crops, (N, height, width, C) → (n, patch, patch, C): image by image, row by row.

    Values and dtype are those of the images.
    """
    windows = np.lib.stride_tricks.sliding_window_view(images, (patch, patch), axis=(1, 2))
    step = crop_stride(patch)
    grid = np.moveaxis(windows[:, ::step, ::step], 3, -1)
    return grid.reshape(-1, patch, patch, images.shape[-1])


def crop_at(image: Array, index: int, patch: int) -> Array:
    """Return one crop (patch, patch, C) of an image (height, width, C), by its number."""
    top, left = crop_place(index, image.shape, patch)
    return np.asarray(image[top : top + patch, left : left + patch])


def crop_coefficients(maps: Array, image_shape: tuple[int, ...], patch: int) -> Array:
    """Compute the mean of each concept map over the area of each crop.

    Parameters
    ----------
    maps : ndarray of shape (N, H, W, I)
        Concept maps; their cells tile the image evenly.
    image_shape : (height, width, …)
        In pixels.
    patch : int
        Side of the crops, in pixels.

    Returns
    -------
    crops_u : ndarray of shape (n, I)
        In the order of `extract_crops`. A cell counts by the area it shares with the crop.
    """
    rows = crop_weights(maps.shape[1], image_shape[0], patch)
    columns = crop_weights(maps.shape[2], image_shape[1], patch)
    means = np.einsum("yh,nhwi->nywi", rows, maps, optimize=True)
    means = np.einsum("xw,nywi->nyxi", columns, means, optimize=True)
    return np.asarray(means.reshape(-1, maps.shape[-1]))


def concept_maps(values: Array, image_shape: tuple[int, ...]) -> Array:
    """Lay coefficients ``(N, *spatial, I)`` out over the image, ``(N, H, W, I)``.

    Tokens are laid out in the image's proportions; a class token (one more than the grid, put
    first) is left out. Tokens that fill no grid of these proportions are averaged to one cell,
    which is logged, since their places are then unknown.
    """
    if values.ndim == 4:
        return values
    if values.ndim == 2:  # vectors have no places: maps of one cell
        return values[:, None, None, :]
    tokens = values.shape[1]
    height, width = image_shape[:2]
    for skipped in (0, 1):
        rows = round(((tokens - skipped) * height / width) ** 0.5)
        if rows and rows * round(rows * width / height) == tokens - skipped:
            return np.asarray(values[:, skipped:].reshape(len(values), rows, -1, values.shape[-1]))
    logger.warning(
        "%d tokens fill no grid over images of %d x %d: concepts are shown without a place",
        tokens,
        height,
        width,
    )
    return np.asarray(values.mean(axis=1)[:, None, None, :])


def best_crops(values: Array, number_of_images: int, count: int) -> Array:
    """Return the indices of the crops with the largest positive coefficients, best first.

    Parameters
    ----------
    values : ndarray of shape (n,)
        One concept's ``crops_u``, image by image.
    number_of_images : int
        N; n is a multiple of it.
    count : int
        Upper limit: crops without the concept are left out.
    """
    by_image = values.reshape(number_of_images, -1)
    candidates = np.arange(values.size).reshape(by_image.shape)
    if by_image.shape[1] > 1 and np.ptp(by_image, axis=1).max() == 0:
        # A latent without places rates all crops of an image alike: one crop for each image.
        middle = by_image.shape[1] // 2
        candidates = candidates[:, middle : middle + 1]
    flat = candidates.ravel()
    order = flat[np.argsort(-values[flat], kind="stable")][:count]
    return order[values[order] > 0]


def best_crops_of_images(images: Array, maps: Array, count: int) -> list[Array]:
    """Return each concept's best crops, from different images, best first.

    Parameters
    ----------
    images : ndarray of shape (N, height, width, C)
    maps : ndarray of shape (N, H, W, I)
        Concept maps, as `concept_maps` gives them; zero where a concept is absent.
    count : int
        Upper limit: an image without the concept gives no crop.

    Returns
    -------
    crops : list of ndarray of shape (k, patch, patch, C)
        One array for each concept, k from 0 to ``count``. Their side is that of `default_patch`, or
        the largest square where maps have no places.
    """
    has_places = maps[0, ..., 0].size > 1
    patch = default_patch(images.shape[1:]) if has_places else min(images.shape[1:3])
    values = crop_coefficients(maps, images.shape[1:3], patch)
    values = values.reshape(len(images), -1, maps.shape[-1])
    crops = []
    for concept_values in np.moveaxis(values, -1, 0):
        strongest = concept_values.max(axis=1)
        order = np.argsort(-strongest, kind="stable")[:count]
        chosen = [
            crop_at(images[n], int(concept_values[n].argmax()), patch)
            for n in order[strongest[order] > 0]
        ]
        empty = np.zeros((0, patch, patch, images.shape[-1]), images.dtype)
        crops.append(np.stack(chosen) if chosen else empty)
    return crops
