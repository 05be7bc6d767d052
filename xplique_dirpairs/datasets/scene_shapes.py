"""Regions of an image, with hard edges: a pixel is inside or not."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

#: Side of an image, in pixels.
SIDE = 64


def polygon(points: Sequence[tuple[float, float]]) -> NDArray:
    """Region (SIDE, SIDE) within corners (x, y)."""
    region = np.zeros((SIDE, SIDE), np.uint8)
    corners = np.round(np.array(points, np.float64) * 16).astype(np.int32)
    cv2.fillPoly(region, [corners], (1,), cv2.LINE_8, 4)
    return region.view(bool)


def box(left: float, top: float, right: float, bottom: float) -> NDArray:
    """Region of whole pixels; each side is at least one long."""
    region = np.zeros((SIDE, SIDE), bool)
    x, y = round(left), round(top)
    right, bottom = max(round(right), x + 1), max(round(bottom), y + 1)
    region[max(y, 0) : max(bottom, 0), max(x, 0) : max(right, 0)] = True
    return region


def ellipse(x: float, y: float, across: float, down: float) -> NDArray:
    """Region of an ellipse with a middle and two half axes."""
    u = (np.arange(SIDE) + 0.5 - x) / across
    v = (np.arange(SIDE) + 0.5 - y) / down
    return (u**2) + (v**2)[:, None] <= 1.0


def cut_below(region: NDArray, y: float) -> NDArray:
    """The part of a region above a row."""
    region = region.copy()
    region[max(0, round(y)) :] = False
    return region


def rounded(left: float, top: float, right: float, bottom: float) -> NDArray:
    """A box without its corners."""
    region = box(left, top, right, bottom)
    rows, columns = np.flatnonzero(region.any(axis=1)), np.flatnonzero(region.any(axis=0))
    if len(rows) > 2 and len(columns) > 2:
        region[np.ix_(rows[[0, -1]], columns[[0, -1]])] = False
    return region
