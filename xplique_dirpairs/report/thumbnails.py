"""Pictures of a report as files' contents: scaled down, cut, in strips, as JPEG or PNG."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

#: Pictures up to this side are kept as they are, without loss.
SMALL = 64
#: Of JPEG.
_QUALITY = 84
#: Longest side of a crop in a strip.
_CROP = 128


def encoded(picture: NDArray) -> tuple[bytes, str]:
    """A picture (height, width, 3) uint8 as the content of a file, and the file's ending."""
    ending = ".png" if min(picture.shape[:2]) <= SMALL else ".jpg"
    options = [] if ending == ".png" else [cv2.IMWRITE_JPEG_QUALITY, _QUALITY]
    done, content = cv2.imencode(ending, picture[..., ::-1], options)
    if not done:
        raise RuntimeError(f"OpenCV could not write a {ending} picture of {picture.shape}")
    return content.tobytes(), ending


def scaled_down(picture: NDArray, side: int) -> NDArray:
    """A picture with no side longer than so many pixels; never enlarged."""
    height, width = picture.shape[:2]
    factor = side / max(height, width)
    if factor >= 1:
        return picture
    size = max(1, round(width * factor)), max(1, round(height * factor))
    return cv2.resize(picture, size, interpolation=cv2.INTER_AREA)


def cut(picture: NDArray, place: tuple[float, float, float, float], side: int) -> NDArray:
    """A square of a picture, (side, side, 3).

    Parameters
    ----------
    picture : (height, width, 3) uint8
    place
        (top, left, bottom, right) as shares of height and width.
    side
        In pixels.
    """
    height, width = picture.shape[:2]
    top, left, bottom, right = place
    rows = slice(int(top * height), max(int(top * height) + 1, round(bottom * height)))
    columns = slice(int(left * width), max(int(left * width) + 1, round(right * width)))
    part = np.ascontiguousarray(picture[rows, columns])
    if part.shape[:2] == (side, side):
        return part
    smaller = min(part.shape[:2]) > side
    how = cv2.INTER_AREA if smaller else cv2.INTER_LINEAR
    return cv2.resize(part, (side, side), interpolation=how)


def crop_side(pixels: float) -> int:
    """Side of the crops in a strip, for crops of so many pixels."""
    if pixels <= SMALL:
        return max(1, round(pixels))
    # JPEG works on squares of 16 pixels: neighbours in a strip do not bleed into one another
    return min(_CROP, -(-round(pixels) // 16) * 16)


def strip(crops: NDArray) -> NDArray:
    """Crops (k, s, s, 3) side by side, (s, k s, 3)."""
    return np.concatenate(list(crops), axis=1)
