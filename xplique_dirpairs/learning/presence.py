"""Present or absent? Where sparse concepts begin, read off the projections on their filters.

An absent concept leaves the projections at one value, up to noise and the other concepts' traces,
which a mixture of normal distributions describes [ours].
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from xplique_dirpairs.core.types import Array

#: Bins of a histogram of projections, steps of the expectation–maximisation, and points of a grid
#: between the centres of absence and presence.
_BINS, _UPDATES, _GRID = 400, 80, 2000
#: Share of the projections that the shortest interval around their mode holds.
_AROUND_MODE = 0.3


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


def amounts_of(projections: Array) -> Array:
    """Return by how much projections (P, I) exceed those of absent concepts, 0 where absent."""
    presence = presence_of(projections)
    amounts = projections - presence.absent.astype(np.float32)
    amounts[projections <= presence.thresholds] = 0.0
    return np.asarray(amounts)


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
