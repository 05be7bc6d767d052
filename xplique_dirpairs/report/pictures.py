"""Pictures of a report: scaling, cropping, and encoding as JPEG, PNG or animated WebP.

A picture is an array (height, width, 3), uint8; that of a video is (T, height, width, 3).
"""

from __future__ import annotations

import io
from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import ArrayLike
from PIL import Image

from xplique_dirpairs.core.types import Array
from xplique_dirpairs.plots.images import Limits, as_picture, pixel_limits

#: Pictures with a side of up to this many pixels are encoded without loss.
SMALL = 64
#: Quality of JPEG files.
_QUALITY = 84
#: Longest side of a crop in a strip, in pixels.
_CROP = 128
#: How long each frame of an animation is shown, in milliseconds.
_MILLISECONDS = 120
#: Largest number of frames of a strip.
_STRIP = 8


class Gallery:
    """Sequence of pictures of the images, each an array (height, width, 3), uint8, or of videos.

    Parameters
    ----------
    images : ndarray of shape (N, height, width, C) or (N, T, height, width, C)
        Images, or videos, as the network takes them.
    pictures : sequence of N array-like of shape (height, width, C), or None
        Pictures that are shown instead of the images; None: the images. Of videos, they may be
        pictures of one frame each, or of T frames, (T, height, width, C).

    Raises
    ------
    ValueError
        On access to a picture that has another number of dimensions, or no numeric type.
    """

    def __init__(self, images: Array, pictures: Sequence[ArrayLike] | Array | None) -> None:
        self._pictures = images if pictures is None else pictures
        self._ranks = {3, images.ndim - 1}
        # Pictures in one array share the values of black and white. In a list of pictures, each is
        # scaled by its own values.
        shared = self._pictures if isinstance(self._pictures, np.ndarray) else np.zeros(0)
        has_limits = shared.dtype.kind in "fiub" and shared.size
        self._limits = pixel_limits(shared) if has_limits else None

    def __getitem__(self, n: int) -> Array:
        """Return the picture of image ``n``, (height, width, 3), or of a video, uint8."""
        picture = np.asarray(self._pictures[n])
        if (
            picture.ndim not in self._ranks
            or 0 in picture.shape
            or picture.dtype.kind not in "fiub"
        ):
            raise ValueError(
                f"pictures must be numbers of shape (height, width, channels), but picture {n} is "
                f"{picture.dtype} of shape {picture.shape}"
            )
        return as_bytes(picture, self._limits)


def as_bytes(images: Array, limits: Limits | None = None) -> Array:
    """Return images as pictures of type uint8: see `as_picture`."""
    return (255 * as_picture(images, limits) + 0.5).astype(np.uint8)


def encoded(picture: Array) -> tuple[bytes, str]:
    """Return a picture as the content of a file, and its extension: ".webp" of a video."""
    if picture.ndim == 4:
        return _animation(picture), ".webp"
    ending = ".png" if min(picture.shape[:2]) <= SMALL else ".jpg"
    options = [] if ending == ".png" else [cv2.IMWRITE_JPEG_QUALITY, _QUALITY]
    _, content = cv2.imencode(ending, picture[..., ::-1], options)
    return content.tobytes(), ending


def _animation(frames: Array) -> bytes:
    """Return frames (T, height, width, 3), uint8, as an animated WebP, which is played for ever."""
    content = io.BytesIO()
    first, *others = [Image.fromarray(np.ascontiguousarray(frame)) for frame in frames]
    first.save(
        content, "WEBP", save_all=True, append_images=others, duration=_MILLISECONDS, loop=0,
        quality=_QUALITY, lossless=min(frames.shape[1:3]) <= SMALL,
    )  # fmt: skip
    return content.getvalue()


def still(picture: Array) -> Array:
    """Return the frame in the middle of the picture of a video, as a video of one frame."""
    middle = len(picture) // 2
    return picture[middle : middle + 1]


def strip(picture: Array) -> Array:
    """Return evenly spaced frames of the picture of a video beside one another, as one frame."""
    count = min(_STRIP, len(picture))
    places = ((np.arange(count) + 0.5) * len(picture) / count).astype(int)
    return np.concatenate([picture[t] for t in places], axis=1)[None]


def scaled_down(picture: Array, side: int) -> Array:
    """Return a picture whose longest side is at most ``side`` pixels; it is never enlarged."""
    if picture.ndim == 4:
        return np.stack([scaled_down(frame, side) for frame in picture])
    height, width = picture.shape[:2]
    factor = side / max(height, width)
    if factor >= 1:
        return picture
    size = max(1, round(width * factor)), max(1, round(height * factor))
    return cv2.resize(picture, size, interpolation=cv2.INTER_AREA)


def cut(picture: Array, box: tuple[float, float, float, float], side: int) -> Array:
    """Cut a box out of a picture and scale it to a square.

    Parameters
    ----------
    picture : ndarray of shape (height, width, 3) or (T, height, width, 3), uint8
        The whole picture; of a video, the same box is cut out of each frame.
    box : tuple of float
        (top, left, bottom, right) as shares of the height and width.
    side : int
        Side of the result, in pixels.

    Returns
    -------
    square : ndarray of shape (side, side, 3) or (T, side, side, 3), uint8
    """
    if picture.ndim == 4:
        return np.stack([cut(frame, box, side) for frame in picture])
    height, width = picture.shape[:2]
    top, left, bottom, right = box
    rows = slice(int(top * height), max(int(top * height) + 1, round(bottom * height)))
    columns = slice(int(left * width), max(int(left * width) + 1, round(right * width)))
    part = np.ascontiguousarray(picture[rows, columns])
    interpolation = cv2.INTER_AREA if min(part.shape[:2]) > side else cv2.INTER_LINEAR
    return cv2.resize(part, (side, side), interpolation=interpolation)


def crop_side(pixels: float) -> int:
    """Return the side of crops in a strip, in pixels, for crops that are ``pixels`` wide."""
    if pixels <= SMALL:
        return max(1, round(pixels))
    # JPEG compresses squares of 16 pixels: with sides that are multiples of 16, neighbouring crops
    # in a strip do not bleed into one another.
    return min(_CROP, -(-round(pixels) // 16) * 16)
