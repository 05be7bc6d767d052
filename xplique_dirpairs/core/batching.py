"""Parts of long computations: positions of activations, and chunk sizes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from xplique_dirpairs.core.types import Array

#: Numbers that one chunk of a computation may hold: 2**22 float32 are 16 MB.
CHUNK_FLOATS = 2**22
#: Positions read at a time.
POSITIONS = 65536


def chunk_size(floats_per_item: int, minimum: int = 1, floats: int = CHUNK_FLOATS) -> int:
    """Return how many items fit in a chunk of ``floats`` numbers, at least ``minimum``."""
    return max(minimum, floats // max(1, floats_per_item))


def slices(count: int, size: int) -> Iterator[slice]:
    """Yield slices of at most ``size`` that cover ``count`` items in order."""
    for start in range(0, count, size):
        yield slice(start, min(start + size, count))


def in_turns(class_ids: Array) -> Array:
    """Return an order of N items in which classes take turns: first the first items of all."""
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
    """Yield positions (n, D) in order: of an array (P, D), or of anything with ``blocks()``."""
    if hasattr(features, "blocks"):
        yield from features.blocks()
        return
    for part in slices(len(features), size):
        yield features[part]


def by_position(function: Any, activations: Array) -> Array:
    """Apply a function of positions (P, D) → (P, I) to activations, → (N, *spatial, I) float32."""
    parts = [
        np.asarray(function(block), np.float32) for block in iter_blocks(as_positions(activations))
    ]
    return np.concatenate(parts).reshape(*activations.shape[:-1], -1)
