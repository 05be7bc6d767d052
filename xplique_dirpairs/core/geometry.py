"""Relate the cells of a feature map to the pixels of an image.

A map of h cells over an image of H pixels has adjacent cells of s = H/h pixels: the centre of cell
r is at (r + ½) s + shift, where pixel p extends from p to p + 1. ``shift`` is 0 for the usual
convention (half-pixel centres: ``tf.image.resize``, PyTorch's ``align_corners=False``). The cells
of a network may lie elsewhere: a stride-2 convolution of Keras with padding "same" and an even
input is centred half an input pixel farther down and to the right, and several of them add up to
nearly half a cell. (After four of them, MobileNetV2 has 7.5 pixels in theory; masks still fit best
with 0 to 1.5.) All operations are separable into one matrix for rows and one for columns.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TypeAlias

import numpy as np

from xplique_dirpairs.core.batching import chunk_size, slices
from xplique_dirpairs.core.types import Array

#: Offset in image pixels: one number for rows and columns, or (rows, columns).
Shift: TypeAlias = float | tuple[float, float]

#: Number of upsampled values in memory at a time.
_BAND_VALUES = 2**20


# ------------------------------------------------------------------------------ tokens


def token_rows(tokens: int, height: int, width: int) -> int | None:
    """Return the rows of the grid of tokens that has the proportions of an image, if there is one.

    Parameters
    ----------
    tokens : int
        Number of tokens that are parts of the image.
    height, width : int
        Size of the image.

    Returns
    -------
    rows : int, or None
        None if no grid with these proportions has this number of tokens.
    """
    rows = round((tokens * height / width) ** 0.5)
    return rows if rows and rows * round(rows * width / height) == tokens else None


# ------------------------------------------------------------------------------ feature maps


def bilinear_matrix(cells: int, pixels: int, shift: float = 0.0) -> Array:
    """Return the weights of cells for each pixel in linear interpolation, (pixels, cells) float32.

    Rows sum to 1. Beyond the centre of an outermost cell, its value is constant.
    """
    places = (np.arange(pixels) + 0.5 - shift) * (cells / pixels) - 0.5
    places = np.clip(places, 0.0, cells - 1.0)
    below = np.minimum(places.astype(int), max(cells - 2, 0))
    part = places - below
    matrix = np.zeros((pixels, cells))
    rows = np.arange(pixels)
    matrix[rows, below] = 1.0 - part
    matrix[rows, np.minimum(below + 1, cells - 1)] += part
    return matrix.astype(np.float32)


def coverage_matrix(cells: int, pixels: int, shift: float = 0.0) -> Array:
    """Return the share of each cell that each pixel covers, (cells, pixels) float32.

    Rows sum to 1: only the part of a cell within the image counts. A cell that lies entirely
    outside the image has a row of zeros.
    """
    edges = np.clip(np.arange(cells + 1) * (pixels / cells) + shift, 0.0, pixels)
    left = np.arange(pixels)
    overlap = np.minimum(edges[1:, None], left + 1) - np.maximum(edges[:-1, None], left)
    overlap = np.maximum(overlap, 0.0)
    total = overlap.sum(axis=1, keepdims=True)
    shares: Array = np.divide(overlap, total, out=np.zeros_like(overlap), where=total > 0)
    return shares.astype(np.float32)


def upsampled_bands(
    maps: Array, shape: tuple[int, int], shift: Shift = 0.0
) -> Iterator[tuple[slice, Array]]:
    """Upsample the maps of one image bilinearly, one band of rows at a time.

    Parameters
    ----------
    maps : ndarray of shape (h, w, I)
        Maps of I concepts.
    shape : tuple of (int, int)
        Height H and width W of the image in pixels.
    shift : float or tuple of float, default=0.0
        Number of pixels by which the cells lie farther down and to the right.

    Yields
    ------
    rows : slice
        The n rows of the band.
    values : ndarray of shape (n * W, I), float32
        Upsampled values of the band, row by row.
    """
    (height, width), (down, right) = shape, check_shift(shift)
    h, w, concepts = maps.shape
    across_rows = bilinear_matrix(h, height, down)
    across_columns = bilinear_matrix(w, width, right)
    flat = np.ascontiguousarray(maps, np.float32).reshape(h, w * concepts)
    for rows in slices(height, chunk_size(width * concepts, floats=_BAND_VALUES)):
        tall = (across_rows[rows] @ flat).reshape(-1, w, concepts)
        yield rows, np.matmul(across_columns, tall).reshape(-1, concepts)


def upsample(maps: Array, shape: tuple[int, int], shift: Shift = 0.0) -> Array:
    """Upsample maps (h, w, I) bilinearly to (H, W, I), float32."""
    bands = [values for _, values in upsampled_bands(maps, shape, shift)]
    return np.concatenate(bands).reshape(*shape, maps.shape[-1])


def check_shift(shift: Shift) -> tuple[float, float]:
    """Return a shift as (rows, columns).

    Raises
    ------
    ValueError
        If it is neither one finite number nor two.
    """
    values = np.atleast_1d(np.asarray(shift, dtype=float))
    if values.shape not in ((1,), (2,)) or not np.isfinite(values).all():
        raise ValueError(f"shift must be a number of pixels, or (rows, columns), not {shift!r}")
    return float(values[0]), float(values[-1])
