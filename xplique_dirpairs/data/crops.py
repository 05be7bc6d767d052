"""Crops of images, and the coefficients of a crop read off the part of the concept map under it."""

from __future__ import annotations

import logging

import numpy as np
from numpy.typing import NDArray

logger = logging.getLogger("xplique_dirpairs")

#: Stride of the crop grid as a share of the patch size: that of CRAFT.
STRIDE = 0.8


def crop_starts(length: int, patch: int) -> NDArray:
    """First pixel of every crop along one side of an image, as in CRAFT: only whole crops."""
    return np.arange(0, length - patch + 1, max(1, int(STRIDE * patch)))


def fitting_patch(patch_size: int, image_shape: tuple[int, ...]) -> int:
    """``patch_size``, or the image's shorter side where that is less (which is logged)."""
    patch = min(patch_size, *image_shape[:2])
    if patch < patch_size:
        logger.info(
            "patch_size %d is larger than the images (%d x %d): %d is used",
            patch_size,
            *image_shape[:2],
            patch,
        )
    return patch


def extract_crops(images: NDArray, patch: int) -> NDArray:
    """All crops, (N, height, width, C) → (n, patch, patch, C): image by image, row by row.

    Values and dtype are those of the images.
    """
    windows = np.lib.stride_tricks.sliding_window_view(images, (patch, patch), axis=(1, 2))
    step = max(1, int(STRIDE * patch))
    grid = np.moveaxis(windows[:, ::step, ::step], 3, -1)
    return grid.reshape(-1, patch, patch, images.shape[-1])


def crop_at(image: NDArray, place: int, patch: int) -> NDArray:
    """One crop (patch, patch, C) of an image (height, width, C), by its place in the grid."""
    row, column = divmod(place, len(crop_starts(image.shape[1], patch)))
    step = max(1, int(STRIDE * patch))
    return image[row * step :, column * step :][:patch, :patch]


def crop_coefficients(maps: NDArray, image_shape: tuple[int, ...], patch: int) -> NDArray:
    """Mean of each concept map over the area of each crop.

    Parameters
    ----------
    maps : (N, H, W, I)
        Concept maps; their cells tile the image evenly.
    image_shape
        (height, width, ...), in pixels.
    patch
        Side of the crops, in pixels.

    Returns
    -------
    crops_u : (n, I)
        In the order of `extract_crops`. A cell counts by the area it shares with the crop.
    """
    rows = _area_weights(maps.shape[1], image_shape[0], patch)
    columns = _area_weights(maps.shape[2], image_shape[1], patch)
    means = np.einsum("yh,nhwi->nywi", rows, maps, optimize=True)
    means = np.einsum("xw,nywi->nyxi", columns, means, optimize=True)
    return means.reshape(-1, maps.shape[-1])


def _area_weights(cells: int, length: int, patch: int) -> NDArray:
    """(crops, cells): share of each crop's side that lies in each cell; rows sum to 1."""
    edges = np.linspace(0.0, length, cells + 1)
    starts = crop_starts(length, patch)[:, None]
    overlap = np.minimum(edges[1:], starts + patch) - np.maximum(edges[:-1], starts)
    return (np.maximum(overlap, 0.0) / patch).astype(np.float32)


def concept_maps(values: NDArray, image_shape: tuple[int, ...]) -> NDArray:
    """``(N, *spatial, I)`` → ``(N, H, W, I)`` over the image.

    Tokens are laid out in the image's proportions, a class token (one more than the grid, put
    first) left out. Tokens that fill no such grid are averaged to one cell, which is logged:
    where they lie is then unknown.
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
            return values[:, skipped:].reshape(len(values), rows, -1, values.shape[-1])
    logger.warning(
        "%d tokens fill no grid over images of %d x %d: concepts are shown without a place",
        tokens,
        height,
        width,
    )
    return values.mean(axis=1)[:, None, None, :]


def best_crops(values: NDArray, number_of_images: int, count: int) -> NDArray:
    """Indices of the crops with the largest positive coefficients, best first.

    Parameters
    ----------
    values : (n,)
        One concept's ``crops_u``, image by image.
    number_of_images
        N; n is a multiple of it.
    count
        How many are wanted. There may be fewer: crops without the concept are left out.
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


def best_crops_of_images(images: NDArray, maps: NDArray, patch: int, count: int) -> list[NDArray]:
    """Each concept's best crops, of different images, best first.

    Parameters
    ----------
    images : (N, height, width, C)
    maps : (N, H, W, I)
        Concept maps, as `concept_maps` gives them; zero where a concept is not.
    patch
        Side of the crops, in pixels.
    count
        How many are wanted. There may be fewer: an image without the concept gives none.

    Returns
    -------
    crops
        For each concept (k, patch, patch, C), k from 0 to ``count``.
    """
    shape = images.shape[1:3]
    values = crop_coefficients(maps, shape, patch).reshape(len(images), -1, maps.shape[-1])
    crops = []
    for of_images in np.moveaxis(values, -1, 0):
        best = np.argsort(-of_images.max(axis=1), kind="stable")[:count]
        found = np.zeros((0, patch, patch, images.shape[-1]), images.dtype)
        for image in best[of_images.max(axis=1)[best] > 0]:
            crop = crop_at(images[image], int(of_images[image].argmax()), patch)
            found = np.concatenate([found, crop[None]])
        crops.append(found)
    return crops
