"""Where a fit begins: the images it learns from, and initial detectors.

An image unlike all others can turn every signal vector: it is left out. Initial detectors, in
whitened or standardised coordinates, come from independent components by their skewness, from a
consensus of clusterings, or at random.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from hashlib import blake2b

import numpy as np
from sklearn.cluster import KMeans, MiniBatchKMeans

from xplique_dirpairs.core.types import Array
from xplique_dirpairs.learning.features import Features, Moments, signal_axes

#: Positions a start is computed from: for each concept, and at least.
_POSITIONS_PER_CONCEPT, _POSITIONS = 1500, 25_000
#: Rounds of thresholds and filters in turn; they have settled by then.
_ROUNDS = 4
#: Positions that thresholds are chosen on.
_SORTED = 25_000
#: Most concepts that a position may be taken to carry; a quarter of I where that is less.
_PER_POSITION = 4
#: Mean IoU of detections with where concepts are among the largest, from which they are separate
#: [ours: directions of Gaussian features have about 0.5].
_SEPARATE = 0.7
#: Clusterings that the consensus is of, and how many positions each of them sees.
CLUSTERINGS, _POSITIONS_SEEN = 50, 10_000
#: First principal axes that are clustered (or I of them, if that is more) [ours: in more of
#: them clusterings agree less].
_CLUSTERED_AXES = 32
#: Ratio of neighbours in the sorted skewnesses that counts as a gap [ours].
GAP = 2.0
#: Cosine, in whitened features, from which two directions are the same.
SAME = 0.8
#: Positions that are looked at together.
_PART = 4096
#: Steps of the symmetric ICA.
_ICA_STEPS = 60
#: Steps in which a single direction finds the nearest maximum of skewness; they converge
#: quadratically.
_STEPS = 30
#: An image is far from this multiple of the median distance on, in mean squares [measured: at most
#: 11 in two layers of a real network, 170 for one of 200 maps that is three times as bright].
_FAR = 20.0
#: Nor is it far in a tail that heavy: the step from the median to the upper tenth, so often again.
_TAIL_STEPS = 4
#: Positions of the images that typical ones are estimated from, and the fewest images.
_TYPICAL_POSITIONS, _TYPICAL_IMAGES = 50_000, 100
#: The farthest share of them is left out, in this many rounds: outliers hide one another.
_TRIMMED, _TRIMMINGS = 0.05, 2
#: Images for each axis, at least: in more axes, whatever is not among them looks far.
_IMAGES_PER_AXIS = 5
#: Fewer images than this are too few to tell what is typical.
_LEAST = 20
#: If more than one in this many images is far, none is left out: what they show is rare, but there.
_OF_IMAGES = 100


@dataclass(frozen=True)
class Start:
    """Initial detectors.

    Attributes
    ----------
    filters : ndarray of shape (I, A)
        Unit rows.
    thresholds : ndarray of shape (I,)
    clear : bool
        Whether these concepts stand out from everything else that varies, or are separate.
    per_position : int
        How many concepts a position carries, in a clear start.
    separation : float
        How well thresholds separate where a concept is among the largest (mean IoU).
    """

    filters: Array
    thresholds: Array
    clear: bool = False
    per_position: int = 1
    separation: float = 0.0


def positions_for(concepts: int) -> int:
    """Return from how many positions a start is computed, at most."""
    return max(_POSITIONS, _POSITIONS_PER_CONCEPT * concepts)


def make_start(
    name: str, features: Array, concepts: int, rng: np.random.Generator, backward: Array
) -> Start:
    """Make initial filters and thresholds in the coordinates of ``features`` (P, A).

    Parameters
    ----------
    name : str
        ``"skewness"``, ``"consensus"`` or ``"random"``.
    backward : ndarray of shape (A, D)
        Of the coordinates: how long a vector is in features.
    """
    if name == "consensus" and len(features) < concepts:
        name = "random"
    if name == "skewness":
        all_filters = skewness_filters(features, max(concepts, features.shape[1]), rng)
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


def has_gap(features: Array, filters: Array, chosen: Array) -> bool:
    """Return whether every chosen filter is at least twice as skewed as any that is not [ours].

    Parameters
    ----------
    features : ndarray of shape (P, A)
    filters : ndarray of shape (A, A)
        All there are, the most skewed ones first.
    chosen : ndarray of shape (I, A)
        The first ones; the last of them may be one that they left out, instead of the I-th.
    """
    count = len(chosen) if np.array_equal(chosen, filters[: len(chosen)]) else len(chosen) - 1
    rest = skewnesses(features, filters[count:])
    return bool(skewnesses(features, chosen).min() > GAP * max(rest, default=0.0))


def with_the_absence(features: Array, filters: Array, concepts: int) -> Array:
    """Replace the last of the first filters by minus the sum of the others, if that is a gap.

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


def skewnesses(features: Array, filters: Array) -> Array:
    """Return the absolute skewness of the projections on each filter (n, A)."""
    y = features @ filters.T.astype(np.float32)
    y = y - y.mean(axis=0)
    sizes = np.abs((y * y * y).mean(axis=0)) / np.maximum(y.std(axis=0), 1e-9) ** 3
    return np.asarray(sizes)


def count_maxima(features: Array, rng: np.random.Generator) -> int:
    """Count directions of whitened features (P, A) that are clear maxima of skewness [ours].

    There are at least this many skewed sources; of few, some may be the absence of others.
    """
    some = features[:_SORTED]
    filters = skewness_filters(some, some.shape[1], rng)
    starts = np.concatenate([filters, -filters.sum(axis=0, keepdims=True)])
    free = nearest_maxima(some, starts.astype(np.float32))
    sizes = skewnesses(some, free)
    chance = 2.0 * np.sqrt(6.0 * some.shape[1] / len(some))  # what a maximum over noise has
    return distinct_directions(free[sizes > max(sizes.max() / 2.0, chance)])


def distinct_directions(directions: Array) -> int:
    """Return how many unit rows are left once those that are the same count once."""
    distinct: list[Array] = []
    for direction in directions:
        if all(abs(direction @ other) < SAME for other in distinct):
            distinct.append(direction)
    return len(distinct)


def separate(features: Array, filters: Array, backward: Array) -> Start:
    """Improve thresholds and filters from each other, in turn [ours].

    In whitened features the covariance with one of several independent sources' functions is a
    multiple of that source's filter. The excess over the threshold ReLU(z - t) is a function that
    tells a concept from what it is not, rare or frequent; the square, which the skewness looks at,
    wants it rare.
    """
    some = np.linspace(0, len(features) - 1, min(len(features), _SORTED)).astype(int)
    some = features[some]

    def thresholds_for(filters: Array, per_position: int) -> tuple[Array, float]:
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


def separating_thresholds(z: Array, lengths: Array, per_position: int = 1) -> tuple[Array, float]:
    """Find each concept's threshold of best IoU with where it is among the largest of all.

    Parameters
    ----------
    z : ndarray of shape (P, I)
        Projections.
    lengths : ndarray of shape (I,)
        Of the concepts' shares in the features for z = 1: makes projections comparable.
    per_position : int, default=1
        A concept is among the largest if at most this many, itself included, are as large.

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


def consensus_filters(features: Array, concepts: int, rng: np.random.Generator) -> Array:
    """Return centroids on which many clusterings of the features' directions agree [ours].

    The directions x̃/‖x̃‖ in the first whitened axes are clustered by K-Means many times, each time
    from other initial centroids and other positions. All their centroids are clustered together,
    and the result depends little on any one of them. A filter is the mean of the positions nearest
    to an agreed direction; filters are symmetrically orthogonalised where I ≤ A.
    """
    clustered = features[:, : max(_CLUSTERED_AXES, concepts)]
    lengths = np.linalg.norm(clustered, axis=1, keepdims=True)
    directions = clustered / np.maximum(lengths, np.finfo(np.float32).tiny)
    centroids = []
    for _ in range(CLUSTERINGS):
        seen = directions
        if len(directions) > _POSITIONS_SEEN:
            seen = directions[rng.choice(len(directions), _POSITIONS_SEEN, replace=False)]
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
    """Return orthonormal rows of a random rotation; random unit rows where I > A."""
    axes = features.shape[1]
    gaussian = rng.standard_normal((axes, concepts))
    if concepts > axes:
        return gaussian.T
    q, r = np.linalg.qr(gaussian)
    return (q * np.sign(np.diag(r))).T


def skewness_filters(features: Array, concepts: int, rng: np.random.Generator) -> Array:
    """Return filters of the symmetric ICA with contrast u², the most skewed first [ours].

    In whitened features concepts are the skewed sources (rarely present, never negative) and
    distractors are not. Rows beyond A, where I > A, are random.
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
    """Return E[y² x] (n, A) and E[y] (n,) of y = x·directions (A, n), in small parts."""
    axes, count = directions.shape
    squared, total = np.zeros((count, axes)), np.zeros(count)
    for start in range(0, len(features), _PART):
        x = features[start : start + _PART]
        y = x @ directions
        total += y.sum(axis=0)
        squared += (y * y).T @ x
    return squared / len(features), total / len(features)


def with_the_missing(features: Array, filters: Array) -> Array:
    """Replace the last filter by the concept that the filters leave out, if they do [ours].

    Where frequencies differ much, the most frequent concept is there where all others are not: it
    is anticorrelated with them, and the symmetric ICA has no room for it. A single direction that
    starts from minus the sum of all others climbs to it.
    """
    others = filters[:-1].astype(np.float32)
    free = nearest_maxima(features, -others.sum(axis=0, keepdims=True))
    if np.abs(others @ free[0]).max() > SAME:
        return filters
    return np.concatenate([filters[:-1], free])


def nearest_maxima(features: Array, directions: Array) -> Array:
    """Return the maximum of skewness that each direction climbs to alone (one-unit ICA), (n, A).

    Of whitened features (P, A), without orthogonality to the others.
    """
    for _ in range(_STEPS):
        directions = ((features @ directions.T) ** 2).T @ features
        lengths = np.linalg.norm(directions, axis=1, keepdims=True)
        directions = directions / np.maximum(lengths, np.finfo(np.float32).tiny)
    return directions


# ------------------------------------------------------------------ images unlike all others


def leave_out_far(
    features: Features,
    moments: Moments,
    concepts: int,
    agree: Callable[[Array], Array] = lambda is_far: is_far,
) -> tuple[Features, Moments, Array, int]:
    """Leave out images that are far from all others, as a whole or in one position [ours].

    Outliers have a share in the moments of all features, and hide in them, and one another. What is
    typical is told by random images without the farthest of them. ``agree`` gives every worker of a
    cluster the same answer (N,): rounding may differ.

    Returns
    -------
    features, moments
        As they came, if there are no such images, or too many of them to be outliers.
    left_out
        Numbers of the images that were left out.
    kept
        How many images are far, but too many to be left out.
    """
    far = _far_images(features, concepts)
    is_far = np.zeros(features.shape[0])
    is_far[far] = 1.0
    far = np.flatnonzero(agree(is_far))
    if far.size > max(1, features.shape[0] // _OF_IMAGES):
        return features, moments, np.zeros(0, int), far.size
    if not far.size:
        return features, moments, far, 0
    near = features.without(far)
    return near, Moments.of(near), far, 0


def _far_images(features: Features, concepts: int) -> Array:
    """Return the indices of images that are far from typical ones."""
    images = features.shape[0]
    if images < _LEAST:
        return np.zeros(0, int)
    order = np.random.default_rng(0).permutation(images)
    some = features.without(
        order[max(_TYPICAL_IMAGES, _TYPICAL_POSITIONS * images // len(features)) :]
    )
    typical = some
    try:
        for _ in range(_TRIMMINGS):
            distances = _distances(some, typical, concepts)
            relative = distances / np.median(distances, axis=1, keepdims=True)
            farthest = np.argsort(relative.max(axis=0))[-int(np.ceil(_TRIMMED * some.shape[0])) :]
            typical = some.without(farthest)
        distances = _distances(features, typical, concepts)
    except ValueError:  # constant without the farthest: rare concepts, then, and no outliers
        return np.zeros(0, int)
    median, tenth = np.quantile(distances, [0.5, 0.9], axis=1)
    limits = np.maximum(_FAR * median, tenth * (tenth / median) ** _TAIL_STEPS)
    return np.flatnonzero((distances > limits[:, None]).any(axis=0))


def _distances(
    features: Features,
    typical: Features,
    concepts: int,
) -> Array:
    """Return (4, N): mean and largest square of an image's positions, whitened and as they are."""
    moments = Moments.of(typical)
    axes, deviations = signal_axes(moments, concepts)
    axes = axes[: max(1, typical.shape[0] // _IMAGES_PER_AXIS)]
    whiten = (axes.T / deviations[: len(axes)]).astype(np.float32)
    mean = moments.mean.astype(np.float32)
    per_image, place = len(features) // features.shape[0], 0
    total, largest = np.zeros((2, 2, features.shape[0]))
    for block in features.blocks():
        x = block - mean
        image = (place + np.arange(len(x))) // per_image  # a block may end within one
        first = np.flatnonzero(np.diff(image, prepend=-1))
        image = image[first]
        for k, y in enumerate((x @ whiten, x)):
            squares = np.einsum("pa,pa->p", y, y, dtype=np.float64)
            total[k, image] += np.add.reduceat(squares, first)
            largest[k, image] = np.maximum(largest[k, image], np.maximum.reduceat(squares, first))
        place += len(x)
    return np.concatenate([total / per_image, largest])


def distinct_images(features: Features) -> int:
    """Count images that are not copies of others; 8 bytes are kept for each."""
    per_image, place = len(features) // features.shape[0], 0
    digests, digest = np.empty(features.shape[0], np.uint64), blake2b(digest_size=8)
    for block in features.blocks():
        first = (-place) % per_image  # where a new image begins
        for rows in np.split(block, range(first or per_image, len(block), per_image)):
            digest.update(np.ascontiguousarray(rows).tobytes())
            place += len(rows)
            if place % per_image == 0:
                digests[place // per_image - 1] = int.from_bytes(digest.digest(), "little")
                digest = blake2b(digest_size=8)
    return len(np.unique(digests))
