"""Initial detectors of sparse concepts: rare, and present or absent independently of one another.

Any number of them may be present at a position, also none. This is the model of sparse
dictionaries: x = Σ cᵢ ŝᵢ + μ, where most coefficients cᵢ are 0. In whitened features the covariance
with *any* increasing function of the projection on one independent source's filter is a multiple of
that filter. This finds the filters, one by one, so that there may be more concepts than axes; and
it shows whether features follow the model, since two functions then lead to the same filter. Where
concepts begin is read off the projections: an absent concept leaves them at one value, up to noise
and the other concepts' traces, which a mixture of normal distributions describes [ours].
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from xplique_dirpairs.core.linear_algebra import unit_rows
from xplique_dirpairs.core.types import Array

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
#: Smallest cosine between the filters that the excess and the amounts lead to, the smallest
#: kurtosis of the projections of absent concepts (3 if they are normal, 1.8 if they are uniform),
#: and the smallest share of detections on one side: medians over concepts [measured: the cosine is
#: .98 to 1 for planted concepts, and .93 to .96 in three layers of two networks].
_ALIGNED, _PEAKED, _ONE_SIDED = 0.97, 2.6, 0.5
#: Largest share of filters that may become equal [measured: at most .22 in 32 planted problems,
#: and .7 for features of a small network that pass the other tests].
_MERGED = 0.4
#: Bins of a histogram of projections, steps of the expectation–maximisation, and points of a grid
#: between the centres of absence and presence.
_BINS, _UPDATES, _GRID = 400, 80, 2000
#: Share of the projections that the shortest interval around their mode holds.
_AROUND_MODE = 0.3


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
    """

    filters: Array
    presence: Presence
    found: int
    merged: float

    @property
    def is_plausible(self) -> bool:
        """Whether most filters stayed distinct, as those of sparse concepts do."""
        return self.merged <= _MERGED


@dataclass(frozen=True)
class Presence:
    """What the projections on I filters say about where the concepts are present.

    Attributes
    ----------
    absent : ndarray of shape (I,)
        Projections where a concept is absent.
    thresholds : ndarray of shape (I,)
        Projections from which presence is more likely than absence.
    slopes : ndarray of shape (I,)
        Slope, at the threshold, of the logit of the probability of presence: 1/M.
    kurtosis : ndarray of shape (I,)
        Fourth moment, over the squared second moment, of the projections below that of absence.
    one_sided : ndarray of shape (I,)
        Share of the detections that have no counterpart as far below the value of absence; 0 for
        symmetric noise.
    """

    absent: Array
    thresholds: Array
    slopes: Array
    kurtosis: Array
    one_sided: Array


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
    filters = _distinct(sample, directions)
    found = len(filters)
    if found > concepts:
        filters = filters[np.argsort(-_explained(sample, filters, backward))[:concepts]]
    else:
        extra = rng.standard_normal((concepts - found, features.shape[1])).astype(np.float32)
        filters = np.concatenate([filters, unit_rows(extra)])
    filters = excess_maxima(features, filters, _LAST_STEPS)
    if concepts <= features.shape[1]:
        # With more concepts than axes, traces of the others would be amplified.
        filters = _refined(features, filters)
    known = filters[:found]
    equal = np.triu(known @ known.T, 1) > _SAME
    merged = float(equal.any(axis=0).mean()) if len(known) else 1.0
    return SparseStart(filters, presence_of(features @ filters.T), found, merged)


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
    alignment = (_covariance_filters(judged, _amounts(judged, filters)) * filters).sum(axis=1)
    return bool(
        np.median(alignment) >= _ALIGNED
        and np.median(presence.kurtosis) >= _PEAKED
        and np.median(presence.one_sided) >= _ONE_SIDED
    )


def _refined(features: Array, filters: Array) -> Array:
    """Return the filters after updating detections and filters alternately until both agree.

    The maxima of the excess are those of the largest values; where concepts come together, these
    are values of several of them. The amounts of what is detected count alike.
    """
    for _ in range(_ROUNDS):
        updated = _covariance_filters(features, _amounts(features, filters))
        change = float((1 - (updated * filters).sum(axis=1)).max())
        filters = updated
        if change < _CONVERGED:
            break
    return filters


def _amounts(features: Array, filters: Array) -> Array:
    """Return by how much projections exceed their value of absence where concepts are detected."""
    projections = features @ filters.T
    presence = presence_of(projections)
    amounts = projections - presence.absent.astype(np.float32)
    amounts[projections <= presence.thresholds] = 0.0
    return np.asarray(amounts)


def _explained(features: Array, filters: Array, backward: Array) -> Array:
    """Return the variance of raw features that the amounts of each concept explain, (I,)."""
    amounts = _amounts(features, filters)
    amounts -= amounts.mean(axis=0)
    raw = amounts.T @ features @ backward / len(features)
    return np.asarray((raw**2).sum(axis=1) / np.maximum(amounts.var(axis=0), 1e-12))


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


# ------------------------------------------------------------------ present or absent?


def presence_of(projections: Array) -> Presence:
    """Tell present from absent concepts by their projections.

    A mixture of three normal distributions is fitted to the projections on each filter, two of
    which, for absence, have the same mean: the noise and the traces of other concepts.

    Parameters
    ----------
    projections : ndarray of shape (P, I)

    Returns
    -------
    presence : Presence
    """
    columns = projections.T.astype(np.float64)
    absent, spread, kurtosis = np.array([_absence(column) for column in columns]).T
    edges = [np.histogram_bin_edges(column, _BINS) for column in columns]
    mass = np.array([np.histogram(c, e)[0] for c, e in zip(columns, edges, strict=True)])
    mass = mass / len(projections)
    at = np.array([(e[1:] + e[:-1]) / 2 for e in edges])
    mixture = _Mixture.fitted(at, mass, absent, spread)
    top = np.maximum(mixture.means[2], absent + 3 * spread)[:, None]
    grid = mixture.means[0][:, None] + np.linspace(0, 1, _GRID) * (top - mixture.means[0][:, None])
    odds = mixture.log_odds(grid)
    # the last point at which absence is more likely, and the next one
    last = _GRID - 1 - (odds[:, ::-1] <= 0).argmax(axis=1)
    last = np.where((odds <= 0).any(axis=1), np.minimum(last, _GRID - 2), 0)
    rows = np.arange(len(grid))
    thresholds = grid[rows, last + 1]
    reach = np.maximum(grid[:, -1] - grid[:, 0], 1e-9)
    slopes = (odds[rows, last + 1] - odds[rows, last]) / np.maximum(reach / (_GRID - 1), 1e-12)
    above, mirrored = projections > thresholds, projections < 2 * absent - thresholds
    one_sided = 1 - mirrored.sum(axis=0) / np.maximum(above.sum(axis=0), 1)
    slopes = np.clip(slopes, 1 / reach, 100 / reach)
    return Presence(absent, thresholds, slopes, kurtosis, one_sided)


def _absence(z: Array) -> tuple[float, float, float]:
    """Return the value of absence in projections (P,), and spread and kurtosis below it."""
    ordered = np.sort(z)
    size = min(max(int(_AROUND_MODE * len(z)), 1), len(z) - 1)
    start = int((ordered[size:] - ordered[: len(z) - size]).argmin())
    absent = float(np.median(ordered[start : start + size + 1]))
    squares = (absent - z[z < absent]) ** 2
    variance = float(squares.mean()) if squares.size else 0.0
    if variance <= 1e-18:
        return absent, 1e-9, 0.0
    return absent, variance**0.5, float((squares**2).mean()) / variance**2


@dataclass(frozen=True)
class _Mixture:
    """Normal distributions of I concepts: two of absence, with one mean, and one of presence.

    All arrays have shape (3, I).
    """

    means: Array
    deviations: Array
    shares: Array

    @classmethod
    def fitted(cls, at: Array, mass: Array, absent: Array, spread: Array) -> _Mixture:
        """Return the mixtures of histograms (I, bins) by expectation–maximisation."""
        width = at[:, 1] - at[:, 0]
        far = mass * (at > (absent + 4 * spread)[:, None])
        weight = far.sum(axis=1)
        present = np.where(
            weight > 0, (far * at).sum(axis=1) / np.maximum(weight, 1e-12), at[:, -1]
        )
        deviations = np.stack([0.7 * spread, 1.5 * spread, (present - absent) / 4])
        deviations = np.maximum(deviations, np.maximum(width / 2, 1e-12))
        shares = np.tile([[0.6], [0.3], [0.1]], len(at))
        mixture = cls(np.stack([absent, absent, present]), deviations, shares)
        for _ in range(_UPDATES):
            logs = mixture._log_densities(at)
            part = np.exp(logs - logs.max(axis=0))
            part *= mass / part.sum(axis=0)
            shares = np.maximum(part.sum(axis=2), 1e-12)
            weights = part[:2] / mixture.deviations[:2, :, None] ** 2
            centre = (weights * at).sum(axis=(0, 2)) / np.maximum(weights.sum(axis=(0, 2)), 1e-300)
            means = np.stack([centre, centre, (part[2] * at).sum(axis=1) / shares[2]])
            squares = (part * (at - means[..., None]) ** 2).sum(axis=2)
            deviations = np.sqrt(squares / shares + np.maximum(width, 1e-12) ** 2 / 12)
            mixture = cls(means, deviations, shares)
        return mixture

    def _log_densities(self, at: Array) -> Array:
        """Return the logarithms of share times density at values (I, n), up to one constant."""
        deviations = self.deviations[..., None]
        squares = ((at - self.means[..., None]) / deviations) ** 2
        return np.asarray(np.log(self.shares[..., None] / deviations) - squares / 2)

    def log_odds(self, at: Array) -> Array:
        """Return log P(present) − log P(absent) at values (I, n)."""
        logs = self._log_densities(at)
        return np.asarray(logs[2] - np.logaddexp(logs[0], logs[1]))
