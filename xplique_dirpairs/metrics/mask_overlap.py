"""Which masks of several models cover the same parts of the same videos, beyond chance.

The score is that of the rosetta concepts of Kowal et al. (VTCD, CVPR 2024), R = |∩B| / |∪B|. It
grows with the area of the masks: noise of large masks has R above 0.6. The correction for chance
is defined by this project.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from xplique_dirpairs.core.types import Array


def overlap(masks: ArrayLike, others: ArrayLike) -> Array:
    """Compute the mean intersection over union of masks of the same videos.

    Parameters
    ----------
    masks : array-like of shape (N, P, Q), bool
        Masks of Q concepts over the P positions of N videos.
    others : array-like of shape (N, P, R), bool
        Masks of R other concepts.

    Returns
    -------
    scores : ndarray of shape (Q, R)
        |∩| / |∪| averaged over the videos where either fires; 0 if neither does anywhere.
    """
    a, b = np.asarray(masks, np.float32), np.asarray(others, np.float32)
    total, count = np.zeros((a.shape[2], b.shape[2])), np.zeros((a.shape[2], b.shape[2]))
    for own, other in zip(a, b, strict=True):
        both = own.T @ other
        either = own.sum(axis=0)[:, None] + other.sum(axis=0) - both
        fires = either > 0
        total += np.where(fires, both / np.where(fires, either, 1.0), 0.0)
        count += fires
    return total / np.maximum(count, 1)


def joint_overlap(masks: ArrayLike) -> float:
    """Compute R of one concept of each of several models.

    Parameters
    ----------
    masks : array-like of shape (M, N, P), bool
        Mask of one concept of each of M models.

    Returns
    -------
    score : float
        |∩| / |∪| averaged over the videos where any of them fires; 0 if none does.
    """
    values = np.asarray(masks, bool)
    both, either = values.all(axis=0).sum(axis=-1), values.any(axis=0).sum(axis=-1)
    fires = either > 0
    return float((both[fires] / either[fires]).mean()) if fires.any() else 0.0


def chance_corrected_overlap(
    masks: ArrayLike, others: ArrayLike, permutations: int, rng: np.random.Generator
) -> tuple[Array, float]:
    """Compute the overlap of masks, corrected for what it is by chance.

    The corrected score is (R − E) / (1 − E): 0 for chance and 1 for equal masks. E is the mean of R
    over B random permutations of the videos of the others and the order that they have. Under
    chance all B + 1 orders are alike, so the largest corrected score exceeds those of all
    permutations with probability 1 / (B + 1). (If no video could keep its place, as in
    derangements, they would not be alike: with 4 videos noise would pass in 4 of 10 cases.)

    Parameters
    ----------
    masks, others : array-like of shape (N, P, Q) and (N, P, R), bool
        Masks as in `overlap`, of N ≥ 2 videos.
    permutations : int
        Number of permutations of the videos, B, none of which is the order that they have.
    rng : numpy.random.Generator

    Returns
    -------
    scores : ndarray of shape (Q, R)
        Corrected scores.
    largest : float
        Largest corrected score of any two masks in any of the permutations: that of noise.
    """
    others = np.asarray(others)
    own = overlap(masks, others)
    drawn = np.stack([
        overlap(masks, others[_permutation(len(others), rng)]) for _ in range(permutations)
    ])  # fmt: skip
    expected = (drawn.sum(axis=0) + own) / (permutations + 1)
    return _corrected(own, expected), float(_corrected(drawn, expected).max())


def _corrected(scores: Array, expected: Array) -> Array:
    """Return scores corrected for chance: (R − E) / (1 − E)."""
    return np.asarray((scores - expected) / np.maximum(1.0 - expected, 1e-6))


def _permutation(count: int, rng: np.random.Generator) -> Array:
    """Return a random order of videos that is not their own."""
    order = np.arange(count)
    while (order == np.arange(count)).all():
        order = rng.permutation(count)
    return order
