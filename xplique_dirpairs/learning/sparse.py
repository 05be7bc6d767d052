"""Initial detectors of sparse concepts: rare, and present or absent independently of one another.

Any number of them may be present at a position, also none. This is the model of sparse
dictionaries: x = Σ cᵢ ŝᵢ + μ, where most coefficients cᵢ are 0. In whitened features the covariance
with *any* increasing function of the projection on one independent source's filter is a multiple of
that filter. This finds the filters, one by one, so that there may be more concepts than axes; and
it shows whether features follow the model, since two functions then lead to the same filter [ours].

Rare concepts are found first, and hide those without which they never come: wherever a child is
present, so is its parent. Such a concept is looked for by the energy of raw features, which the
frequent ones have most of, and accepted if it explains what the rare ones leave [ours].
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from xplique_dirpairs.core.linear_algebra import unit_rows
from xplique_dirpairs.core.types import Array
from xplique_dirpairs.learning.presence import Presence, amounts_of, presence_of
from xplique_dirpairs.learning.signals import regression

#: Number of positions on which filters are searched for.
_SEARCHED = 10_000
#: Number of first directions for each concept, and of those that test whether features are sparse.
_DIRECTIONS, _TESTED = 16, 32
#: Smallest number of positions that shows it.
_FEWEST = 500
#: Number of directions that are improved at a time.
_PART = 256
#: Steps of a search, and further steps on all positions.
_STEPS, _LAST_STEPS = 15, 5
#: Projections count from this many standard deviations on.
_ABOVE = 1.0
#: Cosine, in whitened features, from which two directions count as the same.
_SAME = 0.9
#: A direction counts as found if it was reached this often, and this share of the median count.
_REACHED, _OFTEN = 2, 0.1
#: Largest number of alternating updates of detections and filters, and smallest change.
_ROUNDS, _CONVERGED = 30, 1e-4
#: Largest number of filters for each axis with which they are refined: with more, traces of the
#: others would be amplified. A few too many are concepts that were found twice.
_CROWDED = 1.2
#: First and last number of directions from which concepts are counted; growth that ends it.
_FIRST_COUNT, _LAST_COUNT, _GROWTH = 256, 8192, 1.02
#: Number of directions from which hidden concepts are counted.
_HIDDEN_COUNT = 512
#: Number of first directions for each concept, and of updates, in the search for hidden concepts.
_HIDDEN_DIRECTIONS, _HIDDEN_ROUNDS = 8, 6
#: A hidden concept must explain this share of the variance that the median concept explains
#: [measured: at most .01 in six planted problems whose concepts come independently of each other,
#: and .13 to 13 for parents in trees and for a concept at 40 % of the positions].
_EXPLAINS = 0.1
#: It is not a new one if what it explains lies in the span of two signal vectors that were found,
#: up to this cosine [measured: .98 to 1 for partners, which were found one by one, and at most .93
#: for parents in trees].
_SPANNED = 0.95
#: Smallest cosine between the filters that the excess and the amounts lead to, the smallest
#: kurtosis of the projections of absent concepts (3 if they are normal, 1.8 if they are uniform),
#: and the smallest share of detections on one side: medians over concepts [measured: the cosine is
#: .98 to 1 for planted concepts, and .93 to .96 in three layers of two networks].
_ALIGNED, _PEAKED, _ONE_SIDED = 0.97, 2.6, 0.5
#: Largest share of filters that may become equal [measured: at most .22 in 32 planted problems,
#: and .7 for features of a small network that pass the other tests].
_MERGED = 0.4


@dataclass(frozen=True)
class SparseStart:
    """Detectors of sparse concepts.

    Attributes
    ----------
    filters : ndarray of shape (I, A)
        Unit rows, in whitened coordinates.
    presence : Presence
        Where the concepts are present, from the projections on the filters.
    found : int
        Number of distinct filters that were found, possibly more or fewer than I.
    merged : float
        Share of the filters that were found and became equal to another one afterwards.
    signals : ndarray of shape (I, A), optional
        Signal vectors in whitened coordinates, by a regression on the amounts of the concepts that
        were found, if these are more or fewer than I. None: a regression on all I is the same.
    """

    filters: Array
    presence: Presence
    found: int
    merged: float
    signals: Array | None = None

    @property
    def is_plausible(self) -> bool:
        """Whether most filters stayed distinct, as those of sparse concepts do."""
        return self.found > 0 and self.merged <= _MERGED


def sparse_start(
    features: Array, concepts: int, rng: np.random.Generator, backward: Array
) -> SparseStart:
    """Find the filters and thresholds of sparse concepts in whitened features.

    Parameters
    ----------
    features : ndarray of shape (P, A)
        Positions in whitened coordinates.
    concepts : int
        Number of concepts I; it may exceed A.
    rng : numpy.random.Generator
        Source of random numbers.
    backward : ndarray of shape (A, D)
        Maps vectors back to raw features, where concepts are compared: if more than I are found,
        those that explain most of the variance are taken.

    Returns
    -------
    start : SparseStart
        If fewer than I filters were found, the last ones are random.
    """
    features = features.astype(np.float32)
    sample = _spread(features, _SEARCHED)
    directions = excess_maxima(sample, _positions(features, _DIRECTIONS * concepts, rng), _STEPS)
    rare = _distinct(sample, directions)
    hidden = _hidden(sample, rare, _HIDDEN_DIRECTIONS * concepts, rng, backward)
    filters = np.concatenate([hidden, excess_maxima(features, rare, _LAST_STEPS)])
    found, merged, signals = len(filters), 0.0, None
    if found < concepts:
        extra = rng.standard_normal((concepts - found, features.shape[1])).astype(np.float32)
        filters = np.concatenate([filters, unit_rows(extra)])
    if len(filters) <= _CROWDED * features.shape[1]:
        filters, merged = _refined_apart(features, filters, found)
    if found != concepts:
        # Random filters must not take anything away from those that were found.
        amounts = amounts_of(features @ filters[:found].T)
        signals = np.concatenate([regression(amounts, features), filters[found:]])
        if found > concepts:
            largest = np.argsort(-_variances(amounts, signals @ backward))[:concepts]
            filters, signals = filters[largest], signals[largest]
    return SparseStart(filters, presence_of(features @ filters.T), found, merged, signals)


def follows_the_model(features: Array, rng: np.random.Generator) -> bool:
    """Return whether whitened features (P, A) consist of sparse concepts, as far as a few show.

    They are searched for in one half of the positions and judged on the other half.
    """
    sample = rng.permutation(_spread(features.astype(np.float32), 2 * _SEARCHED))
    searched, judged = np.array_split(sample, 2)
    if len(judged) < _FEWEST:
        return False
    filters = excess_maxima(searched, _positions(searched, _TESTED, rng), _STEPS)
    presence = presence_of(judged @ filters.T)
    alignment = (_covariance_filters(judged, amounts_of(judged @ filters.T)) * filters).sum(axis=1)
    return bool(
        np.median(alignment) >= _ALIGNED
        and np.median(presence.kurtosis) >= _PEAKED
        and np.median(presence.one_sided) >= _ONE_SIDED
    )


def count_sparse(features: Array, rng: np.random.Generator, backward: Array) -> int | None:
    """Return about how many sparse concepts whitened features (P, A) have; None if they have none.

    The number of first directions is doubled until hardly more concepts are found.
    """
    if not follows_the_model(features, rng):
        return None
    sample = _spread(features.astype(np.float32), _SEARCHED)
    count, rare = _FIRST_COUNT, np.zeros((0, features.shape[1]), np.float32)
    while count <= _LAST_COUNT:
        before = len(rare)
        rare = _distinct(sample, excess_maxima(sample, _positions(sample, count, rng), _STEPS))
        if len(rare) <= _GROWTH * before:
            break
        count *= 2
    hidden = _hidden(sample, rare, _HIDDEN_COUNT, rng, backward)
    if len(rare) <= _CROWDED * features.shape[1] and _refined_apart(sample, rare)[1] > _MERGED:
        return None
    return len(rare) + len(hidden)


def _refined(features: Array, filters: Array, rounds: int) -> Array:
    """Return the filters after updating detections and filters alternately until both agree.

    The maxima of the excess are those of the largest values; where concepts come together, these
    are values of several of them. The amounts of what is detected count alike. A filter that is
    detected nowhere stays as it was.
    """
    for _ in range(rounds):
        updated = _covariance_filters(features, amounts_of(features @ filters.T))
        updated = np.where(updated.any(axis=1, keepdims=True), updated, filters)
        change = float((1 - (updated * filters).sum(axis=1)).max())
        filters = updated
        if change < _CONVERGED:
            break
    return filters


def _refined_apart(
    features: Array, filters: Array, found: int | None = None
) -> tuple[Array, float]:
    """Return refined filters, and the share of the first ``found`` that became equal to another.

    A child can become its parent, which is present wherever the child is. It stays as it was.
    """
    refined = _refined(features, filters, _ROUNDS)
    known = refined[:found]
    equal = np.flatnonzero((np.triu(known @ known.T, 1) > _SAME).any(axis=0))
    refined[equal] = filters[equal]
    return refined, len(equal) / max(len(known), 1)


def _hidden(
    features: Array, rare: Array, count: int, rng: np.random.Generator, backward: Array
) -> Array:
    """Return the filters (n, A) of concepts that explain what the rare ones leave, if there are."""
    if not len(rare):
        return rare
    raw = features @ backward.astype(np.float32)
    directions = energy_maxima(raw, _positions(raw, count, rng), _STEPS)
    energies = np.square(np.maximum(raw @ directions.T, 0.0)).mean(axis=0)
    directions = directions[_first_of_each(directions, np.argsort(-energies))]
    excess = _above_deviation(raw @ directions.T)
    candidates = _refined(features, _covariance_filters(features, excess), _HIDDEN_ROUNDS)
    if len(rare) <= features.shape[1]:
        rare = _refined(features, rare, _ROUNDS)
    order = _explaining(amounts_of(features @ rare.T), amounts_of(features @ candidates.T), raw)
    return candidates[_first_of_each(candidates, order)]


def _explaining(found: Array, candidates: Array, raw: Array) -> list[int]:
    """Return the candidates that explain what is left, by forward selection, the best one first.

    Parameters
    ----------
    found, candidates : ndarray of shape (P, n) and (P, m)
        Amounts of the concepts that were found, and of others.
    raw : ndarray of shape (P, D)
        Raw features.
    """
    signals = regression(found, raw)
    least = _EXPLAINS * float(np.median(_variances(found, signals))) * len(raw)
    centred = found - found.mean(axis=0)
    left = raw - raw.mean(axis=0) - centred @ signals
    own = candidates - candidates.mean(axis=0)
    smallest = np.maximum(1e-3 * np.square(own).sum(axis=0), np.finfo(np.float32).tiny)
    own = own - centred @ regression(found, candidates)
    chosen: list[int] = []
    open_to = np.ones(own.shape[1], bool)
    while open_to.any():
        squares = np.maximum(np.square(own).sum(axis=0), smallest)
        explained = np.where(open_to, np.square(own.T @ left).sum(axis=1) / squares, 0.0)
        best = int(explained.argmax())
        if explained[best] < least:
            break
        open_to[best] = False
        if _in_the_span_of_two(own[:, best] @ left, signals):
            continue
        chosen.append(best)
        part = own[:, best : best + 1] / np.sqrt(squares[best])
        left = left - part @ (part.T @ left)
        own = own - part @ (part.T @ own)
    return chosen


def _in_the_span_of_two(vector: Array, signals: Array) -> bool:
    """Return whether a vector (D,) is a sum of two signal vectors (I, D), chosen one by one."""
    units, left = unit_rows(signals), vector / np.linalg.norm(vector)
    for _ in range(min(2, len(units))):
        nearest = units[np.abs(units @ left).argmax()]
        left = left - (nearest @ left) * nearest
        units = unit_rows(units - np.outer(units @ nearest, nearest))
    return bool(1 - left @ left > _SPANNED**2)


def _variances(amounts: Array, signals: Array) -> Array:
    """Return the variance that each concept contributes to the features, (I,)."""
    return np.asarray(np.square(signals).sum(axis=1) * amounts.var(axis=0))


def _first_of_each(directions: Array, order: Array | list[int]) -> list[int]:
    """Return the indices, in this order, of directions that are none of those before."""
    chosen: list[int] = []
    for index in order:
        if not chosen or (directions[chosen] @ directions[index]).max() <= _SAME:
            chosen.append(int(index))
    return chosen


def _spread(features: Array, count: int) -> Array:
    """Return at most ``count`` positions, evenly spread."""
    places = np.linspace(0, len(features) - 1, min(len(features), count)).astype(int)
    return np.asarray(features[places])


def _positions(features: Array, count: int, rng: np.random.Generator) -> Array:
    """Return the directions of random positions, unit rows (count, A), more often of long ones."""
    squares = np.square(features).sum(axis=1, dtype=np.float64)
    chosen: Array = features[rng.choice(len(features), count, p=squares / squares.sum())]
    return unit_rows(chosen)


def _covariance_filters(features: Array, values: Array) -> Array:
    """Return the covariances of values (P, I) with whitened features (P, A), unit rows (I, A)."""
    return unit_rows((values - values.mean(axis=0)).T @ features)


def excess_maxima(features: Array, directions: Array, steps: int) -> Array:
    """Move each direction to a maximum of E[ReLU(z − 1)³], z = w̄ᵀx̃ [ours].

    Each step is one of a fixed-point iteration. Rare sources have the largest maxima, and values
    below one standard deviation do not count, so that neither do the traces of other sources.

    Parameters
    ----------
    features : ndarray of shape (P, A)
        Positions in whitened coordinates.
    directions : ndarray of shape (n, A)
        Unit rows.
    steps : int

    Returns
    -------
    directions : ndarray of shape (n, A)
        Unit rows.
    """
    parts = []
    for start in range(0, len(directions), _PART):
        part = directions[start : start + _PART]
        for _ in range(steps):
            excess = np.maximum(features @ part.T - np.float32(_ABOVE), 0.0)
            part = unit_rows((excess * excess).T @ features)
        parts.append(part)
    return np.concatenate(parts)


def energy_maxima(raw: Array, directions: Array, steps: int) -> Array:
    """Move each direction to one along which raw features are large together [ours].

    Each step is one of a fixed-point iteration u ← cov[x, ReLU(xᵀu − σ)], with the standard
    deviation σ of xᵀu.

    Parameters
    ----------
    raw : ndarray of shape (P, D)
        Centred features.
    directions : ndarray of shape (n, D)
        Unit rows.
    steps : int

    Returns
    -------
    directions : ndarray of shape (n, D)
        Unit rows.
    """
    for _ in range(steps):
        directions = _covariance_filters(raw, _above_deviation(raw @ directions.T))
    return directions


def _above_deviation(projections: Array) -> Array:
    """Return by how much projections (P, n) exceed their standard deviation, at least 0."""
    return np.asarray(np.maximum(projections - projections.std(axis=0), 0.0))


def _distinct(features: Array, directions: Array) -> Array:
    """Return the distinct directions that were reached often, those of the largest excess first."""
    excess = np.concatenate(
        [
            (np.maximum(features @ part.T - np.float32(_ABOVE), 0.0) ** 3).mean(axis=0)
            for part in np.array_split(directions, -(-len(directions) // _PART))
        ]
    )
    left = np.argsort(-excess)[: (excess > 0).sum()]
    chosen, counts = [], []
    while left.size:
        same = directions[left] @ directions[left[0]] > _SAME
        same[0] = True
        chosen.append(left[0])
        counts.append(int(same.sum()))
        left = left[~same]
    often = np.array(counts, float) >= max(_REACHED, _OFTEN * float(np.median(counts or [0])))
    return np.asarray(directions[np.array(chosen, int)[often]])
