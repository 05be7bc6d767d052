"""Where the cells of a feature map lie on an image.

A map of h cells over an image of H pixels has cells of s = H/h pixels side by side: the middle of
cell r is at (r + ½) s + shift, with pixel p from p to p + 1. ``shift`` is 0 for the usual
convention (half-pixel centres: ``tf.image.resize``, PyTorch's ``align_corners=False``). A network's
own cells may lie elsewhere: in principle a stride-2 convolution of Keras with padding "same" and
an even input is centred half a pixel of its input farther down and right, so that several add up
to nearly half a cell. (MobileNetV2 after four of them, 7.5 pixels: the masks still fit best at 0 to
1.5.) Everything is separable: a matrix for the rows, another for the columns.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TypeAlias

import numpy as np

from xplique_dirpairs.core.batching import chunk_size, slices
from xplique_dirpairs.core.types import Array

#: In image pixels, of rows and columns alike or of each.
Shift: TypeAlias = float | tuple[float, float]

#: Upsampled values held at a time.
_BAND_VALUES = 2**20


# ------------------------------------------------------------------------------ feature maps


def bilinear_matrix(cells: int, pixels: int, shift: float = 0.0) -> Array:
    """Return each pixel's weights of the cells in linear interpolation, (pixels, cells) float32.

    Rows sum to 1. Beyond the middle of an outermost cell its value is continued.
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

    Rows sum to 1: of a cell that hangs over the edge of the image, its part within the image
    counts. A cell entirely outside has a row of zeros.
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
    """Upsample one image's maps bilinearly, a band of rows at a time.

    Parameters
    ----------
    maps : ndarray of shape (h, w, I)
    shape : (H, W)
    shift : float or (float, float), default=0

    Yields
    ------
    rows : slice
    values : ndarray of shape (rows * W, I), float32
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
    """Return (rows, columns) of a shift that may be one number for both.

    Raises
    ------
    ValueError
        If it is neither a finite number nor two.
    """
    values = np.atleast_1d(np.asarray(shift, dtype=float))
    if values.shape not in ((1,), (2,)) or not np.isfinite(values).all():
        raise ValueError(f"shift must be a number of pixels, or (rows, columns), not {shift!r}")
    return float(values[0]), float(values[-1])
