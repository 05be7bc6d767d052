"""Compute the initial detectors of a fit, in whitened or standardised coordinates.

They are the most skewed independent components, the consensus of many clusterings, the directions
of sparse concepts (see `sparse`), or random directions.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from sklearn.cluster import KMeans, MiniBatchKMeans

from xplique_dirpairs.core.types import Array
from xplique_dirpairs.learning.features import random_subset
from xplique_dirpairs.learning.sparse import sparse_start

#: Number of positions that a start is computed from: for each concept, and at least.
_POSITIONS_PER_CONCEPT, _POSITIONS = 1500, 25_000
#: Alternating updates of thresholds and filters, after which both have converged.
_ROUNDS = 4
#: Number of positions on which thresholds are chosen.
_SORTED = 25_000
#: Largest number of concepts that a position is assumed to carry (at most a quarter of I).
_PER_POSITION = 4
#: Mean IoU, of the detections of a concept with the positions where it is among the largest, from
#: which concepts count as separate [ours: directions of Gaussian features have about 0.5].
_SEPARATE = 0.7
#: Number of clusterings in a consensus, and number of positions in each of them.
CLUSTERINGS, _POSITIONS_SEEN = 50, 10_000
#: Number of leading principal axes that are clustered (I if that is more) [ours: clusterings agree
#: less in more axes].
_CLUSTERED_AXES = 32
#: Ratio of successive sorted skewnesses that counts as a gap [ours].
GAP = 2.0
#: Cosine, in whitened features, from which two directions count as the same.
SAME = 0.8
#: Number of positions in one part of a long computation.
_PART = 4096
#: Number of steps of the symmetric ICA.
_ICA_STEPS = 60
#: Number of steps in which a single direction finds the nearest maximum of skewness; convergence is
#: quadratic.
_STEPS = 30


@dataclass(frozen=True)
class Start:
    """Initial detectors.

    Attributes
    ----------
    filters : ndarray of shape (I, A)
        Unit rows, in the learned coordinates of A axes.
    thresholds : ndarray of shape (I,)
        A concept is detected where the projection exceeds its threshold.
    clear : bool, default=False
        Whether these concepts stand out from everything else that varies, or are separate; of
        sparse ones, whether most stayed distinct.
    per_position : int, default=1
        Number of concepts that a position carries, if the start is clear.
    separation : float, default=0.0
        Mean IoU of the detections with the positions where a concept is among the largest.
    found : int, optional
        Number of sparse concepts that were found, possibly more than I; None for other starts.
    signals : ndarray of shape (I, A), optional
        Signal vectors, if the start has better ones than can be estimated from I detectors.
    """

    filters: Array
    thresholds: Array
    clear: bool = False
    per_position: int = 1
    separation: float = 0.0
    found: int | None = None
    signals: Array | None = None


def positions_for(concepts: int) -> int:
    """Return the largest number of positions that a start is computed from."""
    return max(_POSITIONS, _POSITIONS_PER_CONCEPT * concepts)


def make_start(
    name: str, features: Array, concepts: int, rng: np.random.Generator, backward: Array
) -> Start:
    """Compute initial filters and thresholds in the coordinates of the features.

    Parameters
    ----------
    name : {"skewness", "consensus", "random", "sparse"}
        Kind of start. Random filters replace a consensus if P < I. The filters of "sparse" are not
        of unit length but of length 1/M.
    features : ndarray of shape (P, A)
        Positions in the learned coordinates.
    concepts : int
        Number of concepts I.
    rng : numpy.random.Generator
        Source of random numbers.
    backward : ndarray of shape (A, D)
        Maps vectors back to raw features, where the lengths of concepts are compared.

    Returns
    -------
    start : Start
    """
    if name == "consensus" and len(features) < concepts:
        name = "random"
    if name == "sparse":
        sparse = sparse_start(features, concepts, rng, backward)
        slopes = sparse.presence.slopes
        filters, thresholds = slopes[:, None] * sparse.filters, slopes * sparse.presence.thresholds
        return Start(
            filters, thresholds, sparse.is_plausible, found=sparse.found, signals=sparse.signals
        )
    if name == "skewness":
        all_filters = skewness_filters(features, max(concepts, features.shape[1]), rng)
        filters = all_filters[:concepts]
        if 1 < concepts <= features.shape[1]:
            chosen = with_the_missing(features, filters)
            if np.array_equal(chosen, filters):
                with_absence = with_the_absence(features, all_filters, concepts)
                if not np.array_equal(with_absence, filters):
                    separated = separate(features, with_absence, backward)
                    if separated.separation > _SEPARATE:
                        return separated
            separated = separate(features, chosen, backward)
            if has_gap(features, all_filters, chosen) or separated.separation > _SEPARATE:
                return separated
    else:
        make = {"consensus": consensus_filters, "random": random_filters}[name]
        filters = make(features, concepts, rng)
    filters = filters / np.linalg.norm(filters, axis=1, keepdims=True)
    z = features @ filters.T.astype(np.float32)
    return Start(filters, np.quantile(z, 1.0 - 1.0 / max(concepts, 2), axis=0))


def has_gap(features: Array, filters: Array, chosen: Array) -> bool:
    """Return whether all chosen filters are at least twice as skewed as all others [ours].

    Parameters
    ----------
    features : ndarray of shape (P, A)
        Positions in whitened coordinates.
    filters : ndarray of shape (A, A)
        All filters, sorted by decreasing skewness.
    chosen : ndarray of shape (I, A)
        The first I filters, the last of which may be replaced by a direction not in ``filters``.

    Returns
    -------
    has_gap : bool
    """
    count = len(chosen) if np.array_equal(chosen, filters[: len(chosen)]) else len(chosen) - 1
    rest = skewnesses(features, filters[count:])
    return bool(skewnesses(features, chosen).min() > GAP * max(rest, default=0.0))


def with_the_absence(features: Array, filters: Array, concepts: int) -> Array:
    """Return the first I filters, the last replaced by the absence of the others if that has a gap.

    A concept on a third of all positions is hardly skewed: a direction that is optimised freely
    leaves it for a rarer concept. But the concept is present where all others are absent, and minus
    the sum of their filters is twice as skewed as any remaining filter [ours]. (The absence of
    independent sources is skewed, too, without being a concept: it does not separate from them.)
    """
    others = filters[: concepts - 1]
    absence = -others.sum(axis=0, keepdims=True)
    absence /= np.linalg.norm(absence)
    replaced = np.concatenate([others, absence])
    return replaced if has_gap(features, filters, replaced) else filters[:concepts]


def skewnesses(features: Array, filters: Array) -> Array:
    """Return the absolute skewness (n,) of features (P, A) projected on each filter (n, A)."""
    y = features @ filters.T.astype(np.float32)
    y = y - y.mean(axis=0)
    sizes = np.abs((y * y * y).mean(axis=0)) / np.maximum(y.std(axis=0), 1e-9) ** 3
    return np.asarray(sizes)


def count_maxima(features: Array, rng: np.random.Generator) -> int:
    """Return the number of clear maxima of skewness in whitened features (P, A) [ours].

    There are at least this many skewed sources. If there are only a few, one of the maxima may be
    the absence of the others.
    """
    sample = features[:_SORTED]
    filters = skewness_filters(sample, sample.shape[1], rng)
    starts = np.concatenate([filters, -filters.sum(axis=0, keepdims=True)])
    free = nearest_maxima(sample, starts.astype(np.float32))
    sizes = skewnesses(sample, free)
    # the skewness that a maximum over directions of pure noise can reach
    chance = 2.0 * np.sqrt(6.0 * sample.shape[1] / len(sample))
    return distinct_directions(free[sizes > max(sizes.max() / 2.0, chance)])


def distinct_directions(directions: Array) -> int:
    """Return the number of distinct directions among unit rows (n, A)."""
    distinct: list[Array] = []
    for direction in directions:
        if all(abs(direction @ other) < SAME for other in distinct):
            distinct.append(direction)
    return len(distinct)


def separate(features: Array, filters: Array, backward: Array) -> Start:
    """Return a clear start after improving thresholds and filters alternately [ours].

    In whitened features (P, A) the covariance with a function of one of several independent sources
    is a multiple of that source's filter. The excess over the threshold, ReLU(z - t), separates a
    concept from everything else, however frequent it is; the square, on which the skewness is
    based, requires a rare concept.
    """
    places = np.linspace(0, len(features) - 1, min(len(features), _SORTED)).astype(int)
    sample = features[places]

    def thresholds_for(filters: Array, per_position: int) -> tuple[Array, float]:
        lengths = np.linalg.norm(filters @ backward, axis=1)
        return separating_thresholds(sample @ filters.T, lengths, per_position)

    filters = filters.astype(np.float32)
    filters /= np.linalg.norm(filters, axis=1, keepdims=True)
    most = max(1, min(_PER_POSITION, len(filters) // 4))
    tried = {n: thresholds_for(filters, n) for n in range(1, most + 1)}
    per_position = max(tried, key=lambda n: tried[n][1])
    thresholds, separation = tried[per_position]
    for _ in range(_ROUNDS):
        excess = np.maximum(features @ filters.T - thresholds.astype(np.float32), 0.0)
        turned = excess.T @ features
        lengths = np.linalg.norm(turned, axis=1, keepdims=True)
        filters = np.where(lengths > 0.0, turned / np.maximum(lengths, 1e-30), filters)
        thresholds, separation = thresholds_for(filters, per_position)
    return Start(filters, thresholds, True, per_position, separation)


def separating_thresholds(z: Array, lengths: Array, per_position: int = 1) -> tuple[Array, float]:
    """Find the thresholds that best separate the positions where each concept is among the largest.

    Parameters
    ----------
    z : ndarray of shape (P, I)
        Projections on the filters.
    lengths : ndarray of shape (I,)
        Length in raw features that corresponds to z = 1, which makes projections comparable.
    per_position : int, default=1
        A concept is among the largest if at most this many concepts, itself included, are as large.

    Returns
    -------
    thresholds : ndarray of shape (I,)
        Thresholds of the best IoU of z > threshold with these positions.
    separation : float
        Mean of the best IoU over concepts.
    """
    size = z * lengths.astype(np.float32)
    largest = size >= -np.partition(-size, per_position - 1, axis=1)[:, per_position - 1, None]
    thresholds, best = np.empty((2, z.shape[1]))
    fired = np.arange(1, len(z) + 1)
    for concept, values in enumerate(z.T):
        order = np.argsort(-values)
        hits = np.cumsum(largest[order, concept])
        iou = hits / (fired + max(hits[-1], 1) - hits)
        thresholds[concept], best[concept] = values[order[iou.argmax()]], iou.max()
    return thresholds, float(best.mean())


def consensus_filters(features: Array, concepts: int, rng: np.random.Generator) -> Array:
    """Return filters (I, A) on which many clusterings of the directions of features agree [ours].

    The directions x̃/‖x̃‖ in the first whitened axes are clustered by K-Means many times, each time
    from other initial centroids and other positions. The centroids of all clusterings are then
    clustered together, so that the result depends little on any one of them. A filter is the mean
    of the positions nearest to a centroid; filters are symmetrically orthogonalised if I ≤ A.
    """
    clustered = features[:, : max(_CLUSTERED_AXES, concepts)]
    lengths = np.linalg.norm(clustered, axis=1, keepdims=True)
    directions = clustered / np.maximum(lengths, np.finfo(np.float32).tiny)
    centroids = []
    for _ in range(CLUSTERINGS):
        seen = random_subset(directions, _POSITIONS_SEEN, rng)
        clustering = MiniBatchKMeans(
            concepts, n_init=1, compute_labels=False, random_state=int(rng.integers(2**31))
        )
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
        filters = left @ right
    return filters


# ------------------------------------------------------------------ components by their skewness


def random_filters(features: Array, concepts: int, rng: np.random.Generator) -> Array:
    """Return rows (I, A) of a random rotation; Gaussian rows, not normalised, if I > A."""
    axes = features.shape[1]
    gaussian = rng.standard_normal((axes, concepts))
    if concepts > axes:
        return gaussian.T
    q, r = np.linalg.qr(gaussian)
    return (q * np.sign(np.diag(r))).T


def skewness_filters(features: Array, concepts: int, rng: np.random.Generator) -> Array:
    """Return filters (I, A) of the symmetric ICA with contrast u², the most skewed first [ours].

    In whitened features (P, A), concepts are the skewed sources (rarely present, never negative)
    and distractors are not skewed. If I > A, the rows after the first A are random.
    """
    axes = features.shape[1]
    rotation = random_filters(features, axes, rng)
    features = features.astype(np.float32)
    for _ in range(_ICA_STEPS):
        squared, mean = _squared_projections(features, rotation.T.astype(np.float32))
        update = squared - 2.0 * mean[:, None] * rotation
        left, _, right = np.linalg.svd(update, full_matrices=False)
        rotation = left @ right
    y = features @ rotation.T.astype(np.float32)
    y -= y.mean(axis=0)
    skewness = (y * y * y).mean(axis=0)  # y**3 takes a hundred times as long
    order = np.argsort(-np.abs(skewness))[:concepts]
    chosen = rotation[order] * np.where(skewness[order] < 0, -1.0, 1.0)[:, None]
    if concepts > axes:
        extra = random_filters(features, concepts, rng)[axes:]
        chosen = np.concatenate([chosen, extra])
    return chosen


def _squared_projections(features: Array, directions: Array) -> tuple[Array, Array]:
    """Return E[y² x] (n, A) and E[y] (n,) for y = x·directions (A, n), computed in parts."""
    axes, count = directions.shape
    squared, total = np.zeros((count, axes)), np.zeros(count)
    for start in range(0, len(features), _PART):
        x = features[start : start + _PART]
        y = x @ directions
        total += y.sum(axis=0)
        squared += (y * y).T @ x
    return squared / len(features), total / len(features)


def with_the_missing(features: Array, filters: Array) -> Array:
    """Return the filters (I, A), the last replaced by a concept that they miss, if any [ours].

    If frequencies differ much, the most frequent concept is present where all others are absent: it
    is anticorrelated with them, and the orthogonality of the symmetric ICA excludes it. A single
    direction that starts from minus the sum of all others converges to it.
    """
    others = filters[:-1].astype(np.float32)
    free = nearest_maxima(features, -others.sum(axis=0, keepdims=True))
    if np.abs(others @ free[0]).max() > SAME:
        return filters
    return np.concatenate([filters[:-1], free])


def nearest_maxima(features: Array, directions: Array) -> Array:
    """Return the maximum of skewness nearest to each direction, (n, A) → (n, A) (one-unit ICA).

    Directions of whitened features (P, A) are optimised freely, without mutual orthogonality.
    """
    for _ in range(_STEPS):
        directions = ((features @ directions.T) ** 2).T @ features
        lengths = np.linalg.norm(directions, axis=1, keepdims=True)
        directions = directions / np.maximum(lengths, np.finfo(np.float32).tiny)
    return directions
