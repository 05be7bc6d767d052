"""Where the learning begins: initial detectors in whitened or standardised coordinates."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sklearn.cluster import KMeans, MiniBatchKMeans

#: Positions a start is computed from: so many for each concept, and never fewer than the second.
_POSITIONS_PER_CONCEPT, _POSITIONS = 1500, 25_000
#: Ratio of neighbours in the sorted skewnesses that counts as a gap [ours].
_GAP = 2.0
#: Clusterings that the consensus is of, and how many positions each of them sees.
_CLUSTERINGS, _POSITIONS_SEEN = 50, 10_000
#: First principal axes that are clustered (or I of them, if that is more) [ours: in more of
#: them clusterings agree less].
_CLUSTERED_AXES = 32


@dataclass(frozen=True)
class Start:
    """Initial detectors.

    Attributes
    ----------
    filters : (I, A)
        Unit rows.
    thresholds : (I,)
    clear
        Whether exactly these concepts stand out from everything else that varies.
    """

    filters: NDArray
    thresholds: NDArray
    clear: bool


def positions_for(concepts: int) -> int:
    """How many positions a start is computed from, at most."""
    return max(_POSITIONS, _POSITIONS_PER_CONCEPT * concepts)


def make_start(
    name: str, features: NDArray, concepts: int, rng: np.random.Generator, backward: NDArray
) -> Start:
    """Initial filters and thresholds in the coordinates of ``features`` (P, A).

    Parameters
    ----------
    name
        ``"skewness"``, ``"consensus"`` or ``"random"``.
    backward : (A, D)
        Of the coordinates: how long a vector is in features.
    """
    clear = False
    if name == "consensus" and len(features) < concepts:
        name = "random"
    if name == "skewness":
        filters, clear = skewness_filters(features, concepts, rng)
    else:
        make = {"consensus": consensus_filters, "random": random_filters}[name]
        filters = make(features, concepts, rng)
    filters = filters / np.linalg.norm(filters, axis=1, keepdims=True)
    z = features @ filters.T.astype(np.float32)
    if clear:
        lengths = np.linalg.norm(filters @ backward, axis=1)
        thresholds = separating_thresholds(z, lengths)
    else:
        thresholds = np.quantile(z, 1.0 - 1.0 / max(concepts, 2), axis=0)
    return Start(filters, thresholds, clear)


def separating_thresholds(z: NDArray, lengths: NDArray) -> NDArray:
    """For each concept the threshold with the best IoU with where it is the largest of all, (I,).

    Parameters
    ----------
    z : (P, I)
        Projections.
    lengths : (I,)
        Of the concepts' shares in the features for z = 1: makes projections comparable.
    """
    largest = (z * lengths.astype(np.float32)).argmax(axis=1)
    thresholds = np.empty(z.shape[1])
    fired = np.arange(1, len(z) + 1)
    for concept, values in enumerate(z.T):
        order = np.argsort(-values)
        own = largest[order] == concept
        hits = np.cumsum(own)
        iou = hits / (fired + max(hits[-1], 1) - hits)
        thresholds[concept] = values[order[iou.argmax()]]
    return thresholds


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
        y = features @ rotation.T.astype(np.float32)
        update = (y**2).T @ features / len(features) - 2.0 * y.mean(axis=0)[:, None] * rotation
        left, _, right = np.linalg.svd(update, full_matrices=False)
        rotation = left @ right
    y = features @ rotation.T.astype(np.float32)
    skewness = ((y - y.mean(axis=0)) ** 3).mean(axis=0)
    order = np.argsort(-np.abs(skewness))
    sizes = np.append(np.abs(skewness)[order], 0.0)
    clear = concepts <= axes and bool(sizes[concepts - 1] > _GAP * sizes[concepts])
    order = order[:concepts]
    chosen = rotation[order] * np.where(skewness[order] < 0, -1.0, 1.0)[:, None]
    if concepts > axes:
        extra = random_filters(features, concepts, rng)[axes:]
        chosen = np.concatenate([chosen, extra])
    return chosen, clear


def consensus_filters(features: NDArray, concepts: int, rng: np.random.Generator) -> NDArray:
    """Centroids on which many clusterings of the features' directions agree [ours].

    The directions x̃/‖x̃‖ in the first whitened axes are clustered by K-Means many times, each time
    from other initial centroids and other positions. The centroids of them all are clustered, and
    the result depends little on any one of them. A filter is the mean of the positions nearest to
    an agreed direction; filters are symmetrically orthogonalised where I ≤ A.
    """
    clustered = features[:, : max(_CLUSTERED_AXES, concepts)]
    lengths = np.linalg.norm(clustered, axis=1, keepdims=True)
    directions = clustered / np.maximum(lengths, np.finfo(np.float32).tiny)
    centroids = []
    for _ in range(_CLUSTERINGS):
        seen = directions
        if len(directions) > _POSITIONS_SEEN:
            seen = directions[rng.choice(len(directions), _POSITIONS_SEEN, replace=False)]
        clustering = MiniBatchKMeans(concepts, n_init=1, random_state=int(rng.integers(2**31)))
        centroids.append(clustering.fit(seen).cluster_centers_)
    agreed = KMeans(concepts, n_init=20, random_state=int(rng.integers(2**31)))
    agreed = agreed.fit(np.concatenate(centroids)).cluster_centers_
    unit = agreed / np.maximum(np.linalg.norm(agreed, axis=1, keepdims=True), 1e-12)
    nearest = (directions @ unit.T.astype(np.float32)).argmax(axis=1)
    filters = np.zeros((concepts, features.shape[1]))
    for concept in range(concepts):
        members = nearest == concept
        mean = clustered[members].mean(axis=0) if members.any() else unit[concept]
        filters[concept, : clustered.shape[1]] = mean
    if concepts <= features.shape[1]:
        left, _, right = np.linalg.svd(filters, full_matrices=False)
        return left @ right
    return filters
