"""Images whose content lies elsewhere: rolled, scrambled, and patches placed on a grey canvas.

All shifts are multiples of the stride, the number of pixels from one cell of the maps to the next:
other shifts change a map by sampling alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np

from xplique_dirpairs.core.batching import slices
from xplique_dirpairs.core.types import Array

#: A function from images (n, height, width, C) to maps (n, H, W, I).
Maps = Callable[[Array], Array]

#: Default side of a patch as a share of the image's side, and the smallest one.
_PATCH, _SMALLEST_PATCH = 1 / 3, 1 / 8
#: Share of a patch's side over which it passes into the canvas, at each of its edges.
_BLEND = 1 / 8
#: Number of images, and of pixels along a diagonal, from which the reach is measured.
_PROBES = 4
#: Changes of a map below this share of its largest value are rounding errors.
_NO_CHANGE = 1e-5

Pair = tuple[int, int]


class Arms(NamedTuple):
    """Where patches are placed.

    Attributes
    ----------
    patch : tuple of (int, int)
        Height and width of the patches, in pixels.
    edge : ndarray of shape (2, grid), int
        First rows, and first columns, of the places from edge to edge.
    interior : ndarray of shape (2, grid), int, or None
        Those of the places inside, at least the margin from every edge; None if there is no room.
    """

    patch: Pair
    edge: Array
    interior: Array | None


def rolled_images(images: Array, stride: Pair, rng: np.random.Generator) -> Array:
    """Return each image rolled round its edges by a random offset, the same pixels elsewhere."""
    offsets = [rng.integers(0, -(-n // s), len(images)) * s
               for n, s in zip(images.shape[1:3], stride, strict=True)]  # fmt: skip
    pairs = zip(images, *offsets, strict=True)
    return np.stack([np.roll(image, (down, right), (0, 1)) for image, down, right in pairs])


def scrambled_images(images: Array, rng: np.random.Generator) -> Array:
    """Return images whose pixels are permuted, each in its own way."""
    flat = images.reshape(len(images), -1, images.shape[-1])
    return np.stack([rng.permutation(image) for image in flat]).reshape(images.shape)


def stride_of(maps: Maps, images: Array) -> Pair:
    """Return how many pixels lie between the cells of maps, along rows and columns.

    It is the ratio of sides where that is an integer. Elsewhere (maps that lost their outermost
    cells) it is the shift of two images whose maps come closest to a shift by one cell.
    """
    shape = maps(images[:1]).shape[1:3]
    strides = []
    for axis, (pixels, cells) in enumerate(zip(images.shape[1:3], shape, strict=True), start=1):
        if pixels % cells == 0:
            strides.append(pixels // cells)
            continue
        candidates = range(1, -(-pixels // cells) + 1)
        unmoved = _trimmed(np.roll(maps(images[:2]), 1, axis), axis)
        strides.append(
            min(candidates, key=lambda shift: float(
                ((_trimmed(maps(np.roll(images[:2], shift, axis)), axis) - unmoved) ** 2).sum()
            ))
        )  # fmt: skip
    return strides[0], strides[1]


def _trimmed(maps: Array, axis: int) -> Array:
    """Return maps without the outer quarters along an axis."""
    quarter = maps.shape[axis] // 4
    return np.take(maps, range(quarter, maps.shape[axis] - quarter), axis)


def reach_of(maps: Maps, images: Array, stride: Pair) -> tuple[int | None, int | None]:
    """Return how many pixels away from one changed pixel maps change: half the receptive field.

    Along rows and along columns; None where the change reaches an edge of the map, so that half the
    receptive field may be more. Pixels in the middle of a few images are changed.
    """
    images = images[:_PROBES]
    low, high = float(images.min()), float(images.max())
    before = maps(images)
    floor = _NO_CHANGE * np.abs(before).max(axis=(0, 1, 2))
    sides = images.shape[1:3]
    furthest: list[float] = [0.0, 0.0]
    is_open = [False, False]
    for share in np.arange(_PROBES) / _PROBES:
        pixel = [n // 2 + int(share * s) for n, s in zip(sides, stride, strict=True)]
        changed = images.copy()
        values = changed[:, pixel[0], pixel[1]]
        changed[:, pixel[0], pixel[1]] = np.where(values > (low + high) / 2, low, high)
        moved = (np.abs(maps(changed) - before) > floor).any(axis=(0, 3))
        for axis in (0, 1):
            cells = np.flatnonzero(moved.any(axis=1 - axis))
            if not cells.size:
                continue
            count = moved.shape[axis]
            is_open[axis] |= bool(cells[0] == 0 or cells[-1] == count - 1)
            centres = (cells + 0.5) * sides[axis] / count - (pixel[axis] + 0.5)
            furthest[axis] = max(furthest[axis], float(np.abs(centres).max()))
    rows, columns = (None if is_open[k] else int(np.ceil(furthest[k])) for k in (0, 1))
    return rows, columns


def arms_of(
    shape: Pair, stride: Pair, margin: tuple[int | None, int | None], grid: int, patch: int | None
) -> Arms:
    """Return where patches are placed on images of height and width ``shape``.

    ``margin`` is None along an axis without an interior. ``patch`` is the side of the patches;
    None: a third of the image's side, or less if the places inside need it. Raise a ValueError if
    the places are not different.
    """
    axes = [_axis(*sizes, grid, patch) for sizes in zip(shape, stride, margin, strict=True)]
    sides, edges, interiors = zip(*axes, strict=True)
    if any(len(set(starts.tolist())) < grid for starts in edges):
        raise ValueError(
            f"{grid} × {grid} places, {stride[0]} × {stride[1]} pixels apart at least, must fit in "
            f"images of {shape[0]} × {shape[1]} pixels with patches of {sides[0]} × {sides[1]}: "
            "choose a smaller grid or patch"
        )
    inside = None if any(starts is None for starts in interiors) else np.stack(interiors)
    return Arms((sides[0], sides[1]), np.stack(edges), inside)


def _axis(
    length: int, stride: int, margin: int | None, grid: int, patch: int | None
) -> tuple[int, Array, Array | None]:
    """Return the side of the patch along an axis, and its starts at the edges and inside.

    The patch ends exactly at the far edge when it is shifted by multiples of the stride.
    """

    def fitted(side: float) -> int:
        return length - stride * -(-(length - int(side)) // stride)

    wanted = fitted(length * _PATCH if patch is None else patch)
    side = wanted if wanted > 0 else fitted(stride)
    interior = None
    if margin is not None:
        first = -(-margin // stride) * stride
        room = length - margin - first - (grid - 1) * stride
        inner = min(side, fitted(room)) if patch is None else side
        if (patch is not None and room >= side) or (
            patch is None and inner >= max(1, length * _SMALLEST_PATCH)
        ):
            side = inner
            interior = _starts(first, length - margin - side, stride, grid)
    return side, _starts(0, length - side, stride, grid), interior


def _starts(first: int, last: int, stride: int, grid: int) -> Array:
    """Return ``grid`` starts from ``first`` to ``last`` at most, in multiples of the stride."""
    steps = (last - first) // stride
    return first + stride * np.round(np.linspace(0, steps, grid)).astype(int)


def placed_images(
    images: Array, patch: Pair, starts: Array, rng: np.random.Generator, batch_size: int
) -> Iterator[Array]:
    """Yield canvases (n, height, width, C): a patch of each image at each place, place by place.

    Patches are cut at random; they pass smoothly into the canvas, which has the mean colour of the
    images. ``starts`` are the first rows, and columns, of the places, (2, grid). The order is that
    of an array (N, grid, grid).
    """
    height, width = patch
    grey = images.mean(axis=(0, 1, 2), dtype=np.float64).astype(np.float32)
    blend = np.outer(_ramp(height), _ramp(width))[..., None]
    tops = rng.integers(0, images.shape[1] - height + 1, len(images))
    lefts = rng.integers(0, images.shape[2] - width + 1, len(images))
    places = [(n, top, left) for n in range(len(images)) for top in starts[0] for left in starts[1]]
    for part in slices(len(places), batch_size):
        canvas = np.empty((len(places[part]), *images.shape[1:]), np.float32)
        canvas[:] = grey
        for own, (n, top, left) in zip(canvas, places[part], strict=True):
            content = images[n, tops[n] : tops[n] + height, lefts[n] : lefts[n] + width]
            own[top : top + height, left : left + width] += blend * (content - grey)
        yield canvas


def _ramp(length: int) -> Array:
    """Return the share of the patch along one of its sides: 1 inside, less towards its ends."""
    ends = np.minimum(np.arange(length), np.arange(length)[::-1]) + 0.5
    share = np.clip(ends / max(1.0, _BLEND * length), 0.0, 1.0)
    return np.asarray(np.sin(0.5 * np.pi * share) ** 2, np.float32)
