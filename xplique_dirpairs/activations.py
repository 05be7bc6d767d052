"""Images and activations: what is accepted at the public edge, and how images become activations.

Activations have shape ``(N, *spatial, D)``: ``(N, H, W, D)`` feature maps, ``(N, T, D)`` tokens or
``(N, D)`` vectors. One spatial position is a "pixel"; P counts them over all images.
"""

from __future__ import annotations

import keras
import numpy as np
from numpy.typing import ArrayLike, NDArray


def check_images(images: ArrayLike) -> NDArray:
    """Images as a float32 batch ``(N, height, width, channels)``, values as they are.

    A single image counts as a batch of one. Integer images (uint8) are converted, not rescaled.

    Raises
    ------
    ValueError
        If there is no image, the rank is wrong, or a value is not finite.
    """
    array = np.asarray(images)
    if array.dtype == object or array.dtype.kind in "USV":
        raise ValueError("images must be one numeric array; images of several sizes: resize first")
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


def check_activations(activations: ArrayLike) -> NDArray:
    """Activations as float32 ``(N, *spatial, D)``, finite.

    Raises
    ------
    ValueError
        With what came and what was wanted.
    """
    array = as_activations(activations)
    if not np.isfinite(array).all():
        raise ValueError(
            "activations hold NaN or infinite values: check the images and their preprocessing"
        )
    return array


def as_activations(activations: ArrayLike) -> NDArray:
    """Activations as float32 ``(N, *spatial, D)``; whether they are finite is not looked at."""
    array = np.asarray(activations)
    if array.ndim not in (2, 3, 4) or array.dtype.kind not in "fiub":
        raise ValueError(
            "activations must be numeric with shape (N, H, W, D), (N, T, D) or (N, D), "
            f"not {array.dtype} {array.shape}"
        )
    if array.size == 0:
        raise ValueError(f"there are no activations: shape {array.shape}")
    return array.astype(np.float32, copy=False)


def compute_activations(model: keras.Model, images: ArrayLike, batch_size: int = 64) -> NDArray:
    """Activations ``(N, *spatial, D)`` of images, in batches.

    Parameters
    ----------
    model
        ``input_to_latent_model``.
    images : (N, height, width, channels)
    """
    images = check_images(images)
    return check_activations(model.predict(images, batch_size=batch_size, verbose=0))


def as_pixels(activations: NDArray) -> NDArray:
    """``(N, *spatial, D)`` → ``(P, D)``."""
    return activations.reshape(-1, activations.shape[-1])
