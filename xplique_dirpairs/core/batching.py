"""Split long computations into parts: chunk sizes, slices and blocks of positions."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from xplique_dirpairs.core.types import Array

#: Number of floats in one chunk of a computation: 2**22 values in float32 take 16 MB.
CHUNK_FLOATS = 2**22
#: Number of positions in one block.
POSITIONS = 65536


def chunk_size(floats_per_item: int, minimum: int = 1, floats: int = CHUNK_FLOATS) -> int:
    """Return how many items fit in a chunk of ``floats`` numbers, at least ``minimum``."""
    return max(minimum, floats // max(1, floats_per_item))


def slices(count: int, size: int) -> Iterator[slice]:
    """Yield slices of at most ``size`` items that cover ``count`` items in order."""
    for start in range(0, count, size):
        yield slice(start, min(start + size, count))


def in_turns(class_ids: Array) -> Array:
    """Return an order (N,) in which classes (N,) take turns, beginning with the first of each."""
    by_class = np.argsort(class_ids, kind="stable")
    ranks = np.empty(len(class_ids), int)
    ranks[by_class] = np.arange(len(ranks)) - np.searchsorted(
        class_ids, class_ids[by_class], sorter=by_class
    )
    return np.argsort(ranks, kind="stable")


def as_positions(activations: Array) -> Array:
    """Reshape activations (N, *spatial, D) to positions (P, D)."""
    return activations.reshape(-1, activations.shape[-1])


def iter_blocks(features: Any, size: int = POSITIONS) -> Iterator[Array]:
    """Yield blocks (n, D) of an array of positions (P, D) or of an object with ``blocks()``."""
    if hasattr(features, "blocks"):
        yield from features.blocks()
        return
    for part in slices(len(features), size):
        yield features[part]


def by_position(function: Any, activations: Array) -> Array:
    """Apply a function (P, D) → (P, I) to activations (N, *spatial, D); return (N, *spatial, I)."""
    parts = [
        np.asarray(function(block), np.float32) for block in iter_blocks(as_positions(activations))
    ]
    return np.concatenate(parts).reshape(*activations.shape[:-1], -1)
