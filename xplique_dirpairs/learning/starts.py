"""Where the learning begins: initial detectors in whitened or standardised coordinates."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sklearn.cluster import KMeans, MiniBatchKMeans

from xplique_dirpairs.learning.ica import (
    GAP,
    SAME,
    nearest_maxima,
    random_filters,
    skewness_filters,
    with_the_missing,
)

#: Positions a start is computed from: so many for each concept, and never fewer than the second.
_POSITIONS_PER_CONCEPT, _POSITIONS = 1500, 25_000
#: Rounds of thresholds and filters in turn; they have settled by then.
_ROUNDS = 4
#: Positions that thresholds are chosen on.
_SORTED = 25_000
#: Most concepts that a position may be taken to carry; a quarter of them all where that is less.
_PER_POSITION = 4
#: Mean IoU of detections with where concepts are among the largest, from which they are separate
#: [ours: directions of Gaussian features have about 0.5].
_SEPARATE = 0.7
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
        Whether these concepts stand out from everything else that varies, or are separate.
    per_position
        How many concepts a position carries, in a clear start.
    separation
        How well thresholds separate where a concept is among so many largest (mean IoU).
    """

    filters: NDArray
    thresholds: NDArray
    clear: bool = False
    per_position: int = 1
    separation: float = 0.0


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
    if name == "consensus" and len(features) < concepts:
        name = "random"
    if name == "skewness":
        all_filters, _ = skewness_filters(features, max(concepts, features.shape[1]), rng)
        filters = all_filters[:concepts]
        if 1 < concepts <= features.shape[1]:
            chosen = with_the_missing(features, filters)
            if np.array_equal(chosen, filters):
                with_absence = with_the_absence(features, all_filters, concepts)
                if not np.array_equal(with_absence, filters):
                    found = separate(features, with_absence, backward)
                    if found.separation > _SEPARATE:
                        return found
            found = separate(features, chosen, backward)
            if has_gap(features, all_filters, chosen) or found.separation > _SEPARATE:
                return found
    else:
        make = {"consensus": consensus_filters, "random": random_filters}[name]
        filters = make(features, concepts, rng)
    filters = filters / np.linalg.norm(filters, axis=1, keepdims=True)
    z = features @ filters.T.astype(np.float32)
    return Start(filters, np.quantile(z, 1.0 - 1.0 / max(concepts, 2), axis=0))


def has_gap(features: NDArray, filters: NDArray, chosen: NDArray) -> bool:
    """Whether every chosen filter is at least twice as skewed as any that is not [ours].

    Parameters
    ----------
    features : (P, A)
    filters : (A, A)
        All there are, the most skewed ones first.
    chosen : (I, A)
        The first ones; the last of them may be one that they left out, instead of the I-th.
    """
    count = len(chosen) if np.array_equal(chosen, filters[: len(chosen)]) else len(chosen) - 1
    rest = skewnesses(features, filters[count:])
    return skewnesses(features, chosen).min() > GAP * max(rest, default=0.0)


def with_the_absence(features: NDArray, filters: NDArray, concepts: int) -> NDArray:
    """The first filters, the last one replaced by minus the sum of the others, if that is a gap.

    A concept on a third of all positions is hardly skewed: a direction that is let go leaves it for
    a rarer one. But it is there where all others are not, and that is twice as skewed as any filter
    that is left [ours]. (So is the absence of independent sources, which is no concept: it does not
    separate from them.)
    """
    others = filters[: concepts - 1]
    absence = -others.sum(axis=0, keepdims=True)
    absence /= np.linalg.norm(absence)
    replaced = np.concatenate([others, absence])
    return replaced if has_gap(features, filters, replaced) else filters[:concepts]


def skewnesses(features: NDArray, filters: NDArray) -> NDArray:
    """Absolute skewness of the projections on each filter (n, A)."""
    y = features @ filters.T.astype(np.float32)
    y = y - y.mean(axis=0)
    return np.abs((y * y * y).mean(axis=0)) / np.maximum(y.std(axis=0), 1e-9) ** 3


def count_maxima(features: NDArray, rng: np.random.Generator) -> int:
    """How many directions of whitened features (P, A) are clear maxima of skewness alone [ours].

    At least so many skewed sources there are: with few of them, some are the absence of others.
    """
    some = features[:_SORTED]
    filters, _ = skewness_filters(some, some.shape[1], rng)
    starts = np.concatenate([filters, -filters.sum(axis=0, keepdims=True)])
    free = nearest_maxima(some, starts.astype(np.float32))
    sizes = skewnesses(some, free)
    chance = 2.0 * np.sqrt(6.0 * some.shape[1] / len(some))  # what a maximum over noise has
    found: list[NDArray] = []
    for direction in free[sizes > max(sizes.max() / 2.0, chance)]:
        if all(abs(direction @ known) < SAME for known in found):
            found.append(direction)
    return len(found)


def separate(features: NDArray, filters: NDArray, backward: NDArray) -> Start:
    """Thresholds and filters from each other, in turn [ours].

    In whitened features the covariance with one of several independent sources' functions is a
    multiple of that source's filter. The excess over the threshold ReLU(z - t) is a function that
    tells a concept from what it is not, rare or frequent; the square, which the skewness looks at,
    wants it rare.
    """
    some = np.linspace(0, len(features) - 1, min(len(features), _SORTED)).astype(int)
    some = features[some]

    def thresholds_for(filters, per_position):
        lengths = np.linalg.norm(filters @ backward, axis=1)
        return separating_thresholds(some @ filters.T, lengths, per_position)

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


def separating_thresholds(
    z: NDArray, lengths: NDArray, per_position: int = 1
) -> tuple[NDArray, float]:
    """For each concept the threshold with the best IoU with where it is among the largest of all.

    Parameters
    ----------
    z : (P, I)
        Projections.
    lengths : (I,)
        Of the concepts' shares in the features for z = 1: makes projections comparable.
    per_position
        A concept is among the largest if no more than so many, itself included, are.

    Returns
    -------
    thresholds : (I,)
    separation
        The mean of these IoU.
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
