"""Bring the activations of several networks for the same images to the same grid of positions."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import ArrayLike

from xplique_dirpairs.core.geometry import coverage_matrix
from xplique_dirpairs.core.types import Array
from xplique_dirpairs.core.validation import check_activations, check_grid, check_named
from xplique_dirpairs.data.images import without_extra_tokens

#: Rows and columns of a grid.
Grid = tuple[int, int]
#: Size of the features, of all networks together, from which concepts of all are learned.
_SAMPLE_MEGABYTES = 512.0


def align_positions(
    activations: Mapping[str, ArrayLike],
    grid: Grid | None = None,
    *,
    extra_tokens: Mapping[str, tuple[int, ...]] | None = None,
) -> dict[str, Array]:
    """Bring activations of several networks for the same images to the same grid of positions.

    A cell of the grid has the mean of the features over its part of the image: cells of a finer map
    count by the area that they share with it. All networks must see the same part of each image,
    preprocessed alike (one must not crop what another squeezes).

    Parameters
    ----------
    activations : mapping of str to array-like of shape (N, *spatial, D_m)
        Activations of the same N images in each network: maps (N, H, W, D_m), tokens (N, T, D_m) of
        square images, or vectors (N, D_m), which have one cell.
    grid : (int, int), optional
        Rows and columns of the grid. None: the coarsest grid of all networks.
    extra_tokens : mapping of str to tuple of int, optional
        For networks with tokens, the places of those that are no part of the image, such as (0,)
        for a class token in front. A network that is not named has one if its other tokens form a
        square and all of them do not.

    Returns
    -------
    aligned : dict of str to ndarray of shape (N, h, w, D_m), float32

    Raises
    ------
    TypeError
        If activations are not given by name.
    ValueError
        If the numbers of images differ, tokens form no square, or the grid is finer than that of a
        network.
    """
    extra = extra_tokens or {}
    check_named("activations", activations, "activations")
    check_named("extra_tokens", extra, "(0,)")
    unknown = sorted(set(extra) - set(activations))
    if unknown:
        raise ValueError(f"extra_tokens: there is no network {unknown[0]!r}")
    maps = {name: as_maps(values, name, extra.get(name)) for name, values in activations.items()}
    check_same_images(maps)
    wanted = common_grid({name: one.shape[1:3] for name, one in maps.items()}, grid)
    return {name: to_grid(one, wanted) for name, one in maps.items()}


def as_maps(
    activations: ArrayLike, name: str = "model", extra_tokens: tuple[int, ...] | None = None
) -> Array:
    """Return activations (N, *spatial, D) as maps (N, H, W, D), float32.

    Raises
    ------
    ValueError
        If tokens form no square, activations are those of videos, or a value is not finite.
    """
    values = check_activations(activations, f"{name}: activations")
    if values.ndim == 2:
        return values[:, None, None, :]
    if values.ndim == 4:
        return values
    if values.ndim == 5:
        raise ValueError(
            f"{name}: networks are not compared on videos, activations (N, T, H, W, D): give those "
            "of single frames, reshaped to (N·T, H, W, D)"
        )
    if extra_tokens is None and _side(values.shape[1]) is None and _side(values.shape[1] - 1):
        extra_tokens = (0,)
    values = without_extra_tokens(values, extra_tokens)
    side = _side(values.shape[1])
    if side is None:
        raise ValueError(
            f"{name}: {values.shape[1]} tokens form no square grid: name those that are no part of "
            "the image in extra_tokens, or give maps (N, H, W, D)"
        )
    return values.reshape(len(values), side, side, -1)


def check_same_images(activations: Mapping[str, Array]) -> None:
    """Raise a ValueError unless there are two or more networks with the same number of images."""
    if len(activations) < 2:
        raise ValueError(f"there must be two or more networks, not {len(activations)}")
    numbers = {name: len(values) for name, values in activations.items()}
    if len(set(numbers.values())) > 1:
        raise ValueError(
            f"activations must be of the same images, but their numbers differ: {numbers}"
        )


def maps_of_same_images(activations: Mapping[str, ArrayLike]) -> dict[str, Array]:
    """Return activations (N, *spatial, D_m) of the same images as maps (N, H, W, D_m), float32.

    Raises
    ------
    ValueError
        If there are fewer than two networks, the numbers of images differ, tokens form no square,
        or a value is not finite.
    """
    check_named("activations", activations, "activations")
    maps = {name: as_maps(values, name) for name, values in activations.items()}
    check_same_images(maps)
    return maps


def sampled_images(maps: Mapping[str, Array], grid: Grid, rng: np.random.Generator) -> Array:
    """Return the indices, in order, of images whose features on a grid take at most 512 MB."""
    count = len(next(iter(maps.values())))
    megabytes = 4e-6 * grid[0] * grid[1] * sum(one.shape[-1] for one in maps.values())
    most = max(1, int(_SAMPLE_MEGABYTES / megabytes))
    if count <= most:
        return np.arange(count)
    return np.sort(rng.choice(count, most, replace=False))


def common_grid(grids: Mapping[str, Grid], wanted: Grid | None = None) -> Grid:
    """Return the coarsest of several grids, or the wanted one if none is coarser.

    Raises
    ------
    ValueError
        If the wanted grid is finer than one of them.
    """
    coarsest = (
        min(rows for rows, _ in grids.values()),
        min(columns for _, columns in grids.values()),
    )
    if wanted is None:
        return coarsest
    check_grid(wanted)
    for name, (rows, columns) in grids.items():
        if wanted[0] > rows or wanted[1] > columns:
            raise ValueError(
                f"grid {tuple(wanted)} is finer than the {rows} × {columns} positions of {name!r}: "
                f"upsampling adds no information; use at most {coarsest}"
            )
    return int(wanted[0]), int(wanted[1])


def to_grid(maps: Array, grid: Grid) -> Array:
    """Return maps (N, H, W, C) averaged to a grid that is as coarse or coarser, float32."""
    for axis, length in zip((1, 2), grid, strict=True):
        if maps.shape[axis] != length:
            matrix = coverage_matrix(length, maps.shape[axis])
            maps = np.moveaxis(np.tensordot(matrix, maps, axes=(1, axis)), 0, axis)
    return np.ascontiguousarray(maps, np.float32)


def _side(tokens: int) -> int | None:
    """Return the side of a square of tokens; None if they form none."""
    side = round(max(tokens, 0) ** 0.5)
    return side if side and side * side == tokens else None
