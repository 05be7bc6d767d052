"""Compute activations of images in batches, crops on CRAFT's grid, and concept maps.

Of videos, a crop is a square that is cut out of all frames.

Activations have shape ``(N, *spatial, D)``: ``(N, H, W, D)`` or ``(N, T, H, W, D)`` feature maps,
``(N, T, D)`` tokens or ``(N, D)`` vectors. A position is a cell of a map or a token; P is their
number over all images.
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
from xplique_dirpairs.core.geometry import token_rows
from xplique_dirpairs.core.types import Array
from xplique_dirpairs.core.validation import (
    as_activations,
    check_finite,
    check_images_fit,
    check_inputs,
)
from xplique_dirpairs.data.devices import workers
from xplique_dirpairs.models.tracing import any_number

# ------------------------------------------------------------ activations

#: Compiled function of each model, for the lifetime of the model.
_COMPILED: weakref.WeakKeyDictionary[keras.Model, Any] = weakref.WeakKeyDictionary()


def compute_activations(model: keras.Model, images: ArrayLike, batch_size: int = 64) -> Array:
    """Compute activations of images, in batches.

    Parameters
    ----------
    model : keras.Model
        First half of a split network, ``input_to_latent_model``.
    images : array-like of shape (N, height, width, C)
        Images as the model expects them.
    batch_size : int, default=64
        Number of images in a batch.

    Returns
    -------
    activations : ndarray of shape (N, *spatial, D), float32
        Activations in D channels: ``*spatial`` is (H, W) for feature maps, (T,) for tokens, and
        empty for vectors.

    Raises
    ------
    ValueError
        If images do not fit the model's input, or an image or activation is not finite.
    """
    activations = unchecked_activations(model, images, batch_size)
    check_finite("activations", activations)
    return activations


def unchecked_activations(model: keras.Model, images: ArrayLike, batch_size: int) -> Array:
    """Compute activations without checking that they are finite, for a fit that checks them."""
    images = check_inputs(images)
    check_images_fit(images.shape[1:], model)
    return as_activations(outputs_of(model, images, batch_size))


def outputs_of(model: keras.Model, images: Array, batch_size: int) -> Array:
    """Return a model's outputs for images (N, height, width, C), all of them on every worker."""
    if model.distribute_strategy.num_replicas_in_sync > 1 and workers() == 1:
        return np.asarray(model.predict(images, batch_size=batch_size, verbose=0))
    # With several workers, `predict` [Keras 3.15] returns outputs of other rows than it was given,
    # without a warning. It also creates a dataset at every call, which takes longer than a batch of
    # a small network.
    run = _compiled(model)
    parts = slices(len(images), batch_size)
    return np.concatenate([any_number(run, images[part]).numpy() for part in parts])


def _compiled(model: keras.Model) -> tf.types.experimental.PolymorphicFunction:
    """Return a model as a compiled function, which is cached."""
    if model not in _COMPILED:
        itself = weakref.ref(model)  # a strong reference would keep the model in the cache forever

        def run(batch: tf.Tensor) -> tf.Tensor:
            network: Any = itself()
            return network(batch, training=False)

        _COMPILED[model] = tf.function(run, reduce_retracing=True)
    return _COMPILED[model]


# ------------------------------------------------------------ crops and concept maps

logger = logging.getLogger("xplique_dirpairs")

#: Default side of a crop as a share of the image's shorter side.
PATCH_SHARE = 0.3
#: Stride of the crop grid as a share of the patch size, as in CRAFT.
STRIDE_SHARE = 0.8


def sides(shape: tuple[int, ...]) -> tuple[int, int]:
    """Return (height, width) of an image (height, width, …), or a video (T, height, width, C)."""
    height, width = shape[1:3] if len(shape) == 4 else shape[:2]
    return height, width


def stills(images: Array) -> Array:
    """Return images (N, height, width, C) as they are, and of videos the frame in the middle."""
    return images if images.ndim == 4 else images[:, images.shape[1] // 2]


def default_patch(image_shape: tuple[int, ...]) -> int:
    """Return the default side in pixels of the crops of images (height, width, …), or videos.

    It is `PATCH_SHARE` times the shorter side, rounded up.
    """
    return max(1, math.ceil(PATCH_SHARE * min(sides(image_shape))))


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
    image_shape : tuple of int
        Shape of the image, (height, width, …), or of the video.
    patch : int
        Side of the crops, in pixels.

    Returns
    -------
    top : int
    left : int
    """
    row, column = divmod(index, len(crop_starts(sides(image_shape)[1], patch)))
    return row * crop_stride(patch), column * crop_stride(patch)


def crop_weights(cells: int, length: int, patch: int) -> Array:
    """Return the share of each crop's side in each cell of a map, (crops, cells) float32.

    Rows sum to 1. The map of ``cells`` cells covers ``length`` pixels.
    """
    edges = np.linspace(0.0, length, cells + 1)
    starts = crop_starts(length, patch)[:, None]
    overlap = np.minimum(edges[1:], starts + patch) - np.maximum(edges[:-1], starts)
    return np.asarray(np.maximum(overlap, 0.0) / patch, np.float32)


def fitting_patch(patch_size: int, image_shape: tuple[int, ...]) -> int:
    """Return ``patch_size``, or the image's shorter side if that is smaller, which is logged."""
    patch = min(patch_size, *sides(image_shape))
    if patch < patch_size:
        message = "patch_size %d is larger than the images (%d x %d): %d is used"
        logger.info(message, patch_size, *sides(image_shape), patch)
    return patch


def extract_crops(images: Array, patch: int) -> Array:
    """Return all crops (n, patch, patch, C) of images (N, height, width, C).

    Crops are ordered by image, then row by row. Values and dtype are unchanged.
    """
    windows = np.lib.stride_tricks.sliding_window_view(images, (patch, patch), axis=(1, 2))
    step = crop_stride(patch)
    grid = np.moveaxis(windows[:, ::step, ::step], 3, -1)
    return grid.reshape(-1, patch, patch, images.shape[-1])


def crop_at(image: Array, index: int, patch: int) -> Array:
    """Return the crop with a number within an image (height, width, C), or a video, of its rank."""
    top, left = crop_place(index, image.shape, patch)
    return np.asarray(image[..., top : top + patch, left : left + patch, :])


def crop_coefficients(maps: Array, image_shape: tuple[int, ...], patch: int) -> Array:
    """Compute the mean of each concept map over the area of each crop.

    Parameters
    ----------
    maps : ndarray of shape (N, H, W, I)
        Concept maps, whose cells tile the image evenly.
    image_shape : tuple of int
        Shape of the images in pixels, (height, width, …), or of the videos.
    patch : int
        Side of the crops, in pixels.

    Returns
    -------
    crops_u : ndarray of shape (n, I)
        Means in the order of `extract_crops`. Cells are weighted by their overlap with the crop.
    """
    height, width = sides(image_shape)
    rows = crop_weights(maps.shape[1], height, patch)
    columns = crop_weights(maps.shape[2], width, patch)
    means = np.einsum("yh,nhwi->nywi", rows, maps, optimize=True)
    means = np.einsum("xw,nywi->nyxi", columns, means, optimize=True)
    return np.asarray(means.reshape(-1, maps.shape[-1]))


def concept_maps(
    values: Array, image_shape: tuple[int, ...], extra_tokens: tuple[int, ...] | None = None
) -> Array:
    """Arrange coefficients ``(N, *spatial, I)`` as maps over the image, ``(N, H, W, I)``.

    Maps of videos, ``(N, T, H, W, I)``, are averaged over time.

    Tokens form a grid with the proportions of the image. Tokens that are no part of the image, such
    as a class token, are left out: those with the indices ``extra_tokens``. If the other tokens do
    not form such a grid, their places are unknown: they are averaged to one cell, which is logged.
    """
    values = without_extra_tokens(values, extra_tokens)
    if values.ndim == 5:
        return np.asarray(values.mean(axis=1))
    if values.ndim == 4:
        return values
    if values.ndim == 2:  # vectors have no spatial axes: they become maps of one cell
        return values[:, None, None, :]
    tokens = values.shape[1]
    height, width = sides(image_shape)
    rows = token_rows(tokens, height, width)
    if rows is not None:
        return np.asarray(values.reshape(len(values), rows, -1, values.shape[-1]))
    message = (
        "%d tokens form no grid over images of %d x %d: concepts are shown without a place. If "
        "some are no part of the image, say which, such as extra_tokens=(0,)"
    )
    logger.warning(message, tokens, height, width)
    return np.asarray(values.mean(axis=1)[:, None, None, :])


def without_extra_tokens(values: Array, extra_tokens: tuple[int, ...] | None) -> Array:
    """Return coefficients ``(N, *spatial, I)`` without those of tokens outside the image."""
    if values.ndim != 3 or not extra_tokens:
        return values
    return np.delete(values, list(extra_tokens), axis=1)


def best_crops(values: Array, number_of_images: int, count: int) -> Array:
    """Return the indices of the crops with the largest positive coefficients, best first.

    The best crop of each image comes first, then the second best of each: crops of one image show
    less than crops of several.

    Parameters
    ----------
    values : ndarray of shape (n,)
        Coefficients of all crops for one concept, image by image.
    number_of_images : int
        Number of images N, of which n is a multiple.
    count : int
        Largest number of crops; crops without the concept are left out.

    Returns
    -------
    indices : ndarray of shape (k,), int
    """
    by_image = values.reshape(number_of_images, -1)
    candidates = np.arange(values.size).reshape(by_image.shape)
    if by_image.shape[1] > 1 and np.ptp(by_image, axis=1).max() == 0:
        # Without spatial axes, all crops of an image have the same value: use one crop per image.
        middle = by_image.shape[1] // 2
        candidates = candidates[:, middle : middle + 1]
    ranked = np.argsort(-values[candidates], axis=1, kind="stable")
    for_each_image = np.take_along_axis(candidates, ranked, axis=1)
    order: list[int] = []
    for crops in for_each_image.T:  # the best crop of each image, then the second best, …
        crops = crops[np.argsort(-values[crops], kind="stable")]
        order += crops[values[crops] > 0].tolist()
        if len(order) >= count:
            break
    return np.array(order[:count], int)


def best_crops_of_images(images: Array, maps: Array, count: int) -> list[Array]:
    """Return each concept's best crops, from different images, best first.

    Parameters
    ----------
    images : ndarray of shape (N, height, width, C) or (N, T, height, width, C)
        Images, or videos, in which to search.
    maps : ndarray of shape (N, H, W, I)
        Concept maps from `concept_maps`, zero where a concept is absent.
    count : int
        Largest number of crops of a concept; images without the concept give no crop.

    Returns
    -------
    crops : list of ndarray of shape (k, patch, patch, C) or (k, T, patch, patch, C)
        One array for each concept, with k ≤ ``count`` crops. The side is `default_patch`, or the
        image's shorter side if maps have a single cell.
    """
    if not maps.shape[-1]:
        return []
    has_places = math.prod(maps.shape[1:-1]) > 1
    patch = default_patch(images.shape[1:]) if has_places else min(sides(images.shape[1:]))
    values = crop_coefficients(maps, images.shape[1:], patch)
    values = values.reshape(len(images), -1, maps.shape[-1])
    crops = []
    for concept_values in np.moveaxis(values, -1, 0):
        strongest = concept_values.max(axis=1)
        order = np.argsort(-strongest, kind="stable")[:count]
        chosen = [
            crop_at(images[n], int(concept_values[n].argmax()), patch)
            for n in order[strongest[order] > 0]
        ]
        shape = (0, *images.shape[1:-3], patch, patch, images.shape[-1])
        empty = np.zeros(shape, images.dtype)
        crops.append(np.stack(chosen) if chosen else empty)
    return crops
