"""Where the learning begins: initial filters in whitened or standardised coordinates."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from sklearn.cluster import KMeans, MiniBatchKMeans

#: Positions a start is computed from: so many for each concept, and never fewer than the second.
_POSITIONS_PER_CONCEPT, _POSITIONS = 500, 25_000
#: Clusterings that the consensus is of, and how many positions each of them sees.
_CLUSTERINGS, _POSITIONS_SEEN = 50, 10_000
#: First principal axes that are clustered (or I of them, if that is more) [ours: in more of
#: them clusterings agree less].
_CLUSTERED_AXES = 32


def start_filters(
    name: str, features: NDArray, concepts: int, rng: np.random.Generator
) -> tuple[NDArray, NDArray]:
    """Initial unit filters (I, A) and thresholds (I,) in the coordinates of ``features`` (P, A).

    Thresholds are the (1 − 1/I) quantiles of the projections: each concept starts on its share.

    Parameters
    ----------
    name
        ``"skewness"``, ``"consensus"`` or ``"random"``.
    """
    enough = max(_POSITIONS, _POSITIONS_PER_CONCEPT * concepts)
    if len(features) > enough:
        features = features[rng.choice(len(features), enough, replace=False)]
    if name == "consensus" and len(features) < concepts:
        name = "random"
    filters = STARTS[name](features, concepts, rng)
    filters = filters / np.linalg.norm(filters, axis=1, keepdims=True)
    share = 1.0 / max(concepts, 2)
    thresholds = np.quantile(features @ filters.T.astype(np.float32), 1.0 - share, axis=0)
    return filters, thresholds


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
) -> NDArray:
    """Rows of the symmetric ICA with contrast u², of largest skewness, signed positive [ours].

    In whitened features concepts are the skewed sources (rarely present, never negative) and
    distractors are not. Rows beyond A, where I > A, are random.
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
    order = np.argsort(-np.abs(skewness))[:concepts]
    chosen = rotation[order] * np.where(skewness[order] < 0, -1.0, 1.0)[:, None]
    if concepts > axes:
        extra = random_filters(features, concepts, rng)[axes:]
        chosen = np.concatenate([chosen, extra])
    return chosen


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


STARTS = {
    "random": random_filters,
    "skewness": skewness_filters,
    "consensus": consensus_filters,
}
