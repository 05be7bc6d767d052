"""Independent components by their skewness: the start where the signal-distractor model holds."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

#: Ratio of neighbours in the sorted skewnesses that counts as a gap [ours].
GAP = 2.0
#: Cosine, in whitened features, from which two directions are the same.
SAME = 0.8
#: Positions that are looked at together.
_PART = 4096
#: Steps in which a single direction finds the nearest maximum of skewness; they converge
#: quadratically.
_STEPS = 30


def random_filters(features: NDArray, concepts: int, rng: np.random.Generator) -> NDArray:
    """Orthonormal rows of a random rotation; random unit rows where I > A."""
    axes = features.shape[1]
    gaussian = rng.standard_normal((axes, concepts))
    if concepts > axes:
        return gaussian.T
    q, r = np.linalg.qr(gaussian)
    return (q * np.sign(np.diag(r))).T


def skewness_filters(
    features: NDArray, concepts: int, rng: np.random.Generator, iterations: int = 60
) -> tuple[NDArray, bool]:
    """Rows of the symmetric ICA with contrast u², of largest skewness, signed positive [ours].

    In whitened features concepts are the skewed sources (rarely present, never negative) and
    distractors are not. Rows beyond A, where I > A, are random. Also whether there is a gap: every
    chosen row is at least twice as skewed as any other.
    """
    axes = features.shape[1]
    rotation = random_filters(features, axes, rng)
    features = features.astype(np.float32)
    for _ in range(iterations):
        squared, mean = _squared_projections(features, rotation.T.astype(np.float32))
        update = squared - 2.0 * mean[:, None] * rotation
        left, _, right = np.linalg.svd(update, full_matrices=False)
        rotation = left @ right
    y = features @ rotation.T.astype(np.float32)
    y -= y.mean(axis=0)
    skewness = (y * y * y).mean(axis=0)  # y**3 takes a hundred times as long
    order = np.argsort(-np.abs(skewness))
    sizes = np.append(np.abs(skewness)[order], 0.0)
    clear = concepts <= axes and bool(sizes[concepts - 1] > GAP * sizes[concepts])
    order = order[:concepts]
    chosen = rotation[order] * np.where(skewness[order] < 0, -1.0, 1.0)[:, None]
    if concepts > axes:
        extra = random_filters(features, concepts, rng)[axes:]
        chosen = np.concatenate([chosen, extra])
    return chosen, clear


def _squared_projections(features: NDArray, directions: NDArray) -> tuple[NDArray, NDArray]:
    """E[y² x] (n, A) and E[y] (n,) of y = x·directions (A, n), in parts that a cache holds."""
    axes, count = directions.shape
    squared, total = np.zeros((count, axes)), np.zeros(count)
    for start in range(0, len(features), _PART):
        x = features[start : start + _PART]
        y = x @ directions
        total += y.sum(axis=0)
        squared += (y * y).T @ x
    return squared / len(features), total / len(features)


def with_the_missing(features: NDArray, filters: NDArray) -> NDArray:
    """The filters, the last one replaced by the concept that they leave out, if they do [ours].

    Where frequencies differ much, the most frequent concept is there where all others are not: it
    is anticorrelated with them, and the symmetric ICA has no room for it. A single direction that
    starts from minus the sum of all others climbs to it.
    """
    others = filters[:-1].astype(np.float32)
    free = nearest_maxima(features, -others.sum(axis=0, keepdims=True))
    if np.abs(others @ free[0]).max() > SAME:
        return filters
    return np.concatenate([filters[:-1], free])


def nearest_maxima(features: NDArray, directions: NDArray) -> NDArray:
    """One-unit ICA: the maximum of skewness that each direction (n, A) climbs to alone, unit rows.

    Of whitened features (P, A), without orthogonality to the others.
    """
    for _ in range(_STEPS):
        directions = ((features @ directions.T) ** 2).T @ features
        lengths = np.linalg.norm(directions, axis=1, keepdims=True)
        directions = directions / np.maximum(lengths, np.finfo(np.float32).tiny)
    return directions
