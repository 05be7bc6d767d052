"""Pictures of a report: of each image, scaled down, cut, in strips, as JPEG or PNG."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import ArrayLike

from xplique_dirpairs.core.types import Array
from xplique_dirpairs.plots.images import Limits, as_picture, pixel_limits

#: Pictures up to this side are kept as they are, without loss.
SMALL = 64
#: Of JPEG.
_QUALITY = 84
#: Longest side of a crop in a strip.
_CROP = 128


class Gallery:
    """Each image as a picture, (height, width, 3) uint8.

    Parameters
    ----------
    images : ndarray of shape (N, height, width, C)
    pictures : sequence of array-like, optional
        N pictures to be shown instead; None: the images.

    Raises
    ------
    ValueError
        When a picture is asked for that is not one.
    """

    def __init__(self, images: Array, pictures: Sequence[ArrayLike] | Array | None) -> None:
        self._pictures = images if pictures is None else pictures
        # One black and one white for all; pictures given one by one have each their own.
        shared = self._pictures if isinstance(self._pictures, np.ndarray) else np.zeros(0)
        has_limits = shared.dtype.kind in "fiub" and shared.size
        self._limits = pixel_limits(shared) if has_limits else None

    def __getitem__(self, n: int) -> Array:
        picture = np.asarray(self._pictures[n])
        if picture.ndim != 3 or 0 in picture.shape or picture.dtype.kind not in "fiub":
            raise ValueError(
                f"pictures must have shape (height, width, channels), but picture {n} is "
                f"{picture.dtype} {picture.shape}"
            )
        return as_bytes(picture, self._limits)


def as_bytes(images: Array, limits: Limits | None = None) -> Array:
    """Return `as_picture` of images as uint8."""
    return (255 * as_picture(images, limits) + 0.5).astype(np.uint8)


def encoded(picture: Array) -> tuple[bytes, str]:
    """Return a picture (height, width, 3) uint8 as the content of a file, and the file's ending."""
    ending = ".png" if min(picture.shape[:2]) <= SMALL else ".jpg"
    options = [] if ending == ".png" else [cv2.IMWRITE_JPEG_QUALITY, _QUALITY]
    _, content = cv2.imencode(ending, picture[..., ::-1], options)
    return content.tobytes(), ending


def scaled_down(picture: Array, side: int) -> Array:
    """Return a picture scaled so that no side is longer than ``side`` pixels; never enlarged."""
    height, width = picture.shape[:2]
    factor = side / max(height, width)
    if factor >= 1:
        return picture
    size = max(1, round(width * factor)), max(1, round(height * factor))
    return cv2.resize(picture, size, interpolation=cv2.INTER_AREA)


def cut(picture: Array, box: tuple[float, float, float, float], side: int) -> Array:
    """Cut a square out of a picture, (side, side, 3).

    Parameters
    ----------
    picture : ndarray of shape (height, width, 3), uint8
    box : tuple of float
        (top, left, bottom, right) as shares of height and width.
    side : int
        In pixels.
    """
    height, width = picture.shape[:2]
    top, left, bottom, right = box
    rows = slice(int(top * height), max(int(top * height) + 1, round(bottom * height)))
    columns = slice(int(left * width), max(int(left * width) + 1, round(right * width)))
    part = np.ascontiguousarray(picture[rows, columns])
    interpolation = cv2.INTER_AREA if min(part.shape[:2]) > side else cv2.INTER_LINEAR
    return cv2.resize(part, (side, side), interpolation=interpolation)


def crop_side(pixels: float) -> int:
    """Return the side of the crops in a strip, for crops of ``pixels`` pixels."""
    if pixels <= SMALL:
        return max(1, round(pixels))
    # JPEG works on squares of 16 pixels: neighbours in a strip do not bleed into one another.
    return min(_CROP, -(-round(pixels) // 16) * 16)
