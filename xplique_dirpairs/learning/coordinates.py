"""Moments of features, and the coordinates that detectors are learned in.

Detectors are learned in coordinates x̃ = (x − E[x]) F with F of shape (D, A). A filter w̃ in
coordinates is w = F w̃ in features, and a signal vector s̃ is ŝ = Gᵀs̃ with G of shape (A, D), where
F G is the projection on the directions in which features vary. In all coordinates
wᵀ(x − E[x]) = w̃ᵀx̃ and wᵀŝ = w̃ᵀs̃: the way back to features is exact.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from xplique_dirpairs.core.batching import iter_blocks
from xplique_dirpairs.core.linear_algebra import principal_axes
from xplique_dirpairs.core.types import Array

#: Positions that are processed at a time.
BLOCK = 8192
#: Directions whose standard deviation is below this share of the largest do not count as varying.
_RELATIVE_FLOOR = 1e-3
#: Axes that are kept if the spectrum does not show how many carry signal; 2 I if that is more.
AXES = 128
#: Smallest ratio of two neighbouring eigenvalues that counts as the edge of a floor of noise.
_DROP = 2.0
#: Largest ratio of the first and the last eigenvalue of a floor of noise.
_FLAT = 3.0

#: Error message for activations that do not vary.
CONSTANT = (
    "the activations must not be constant: check the images, their preprocessing and the layer"
)
#: Error message for activations whose squares are not finite in float32.
TOO_LARGE = (
    "the activations are too large: their squares overflow. Check the images' preprocessing and "
    "the layer, or scale the activations down"
)


@dataclass(frozen=True)
class Moments:
    """Moments of features, in float64.

    Attributes
    ----------
    mean : ndarray of shape (D,)
    covariance : ndarray of shape (D, D)
    count : int
        Number of positions.
    order : ndarray of shape (D,)
        Mean of the centred features, each multiplied by a random number that depends only on the
        index of the position. It differs between features that differ only in their order.
    """

    mean: Array
    covariance: Array
    count: int
    order: Array

    @classmethod
    def of(cls, features: Any, constant: bool = False) -> Moments:
        """Compute the moments of features.

        The covariance is computed in a second pass, so that a large mean costs no precision.

        Parameters
        ----------
        features : ndarray of shape (P, D) or Features
            Or any object with a length and a method ``blocks()`` that yields positions (n, D).
        constant : bool, default=False
            Whether constant features are taken, too.

        Returns
        -------
        moments : Moments

        Raises
        ------
        ValueError
            If there is only one position, if the features are constant (without ``constant``), or
            if their squares are not finite.
        """
        mean = sum(x.sum(axis=0, dtype=np.float64) for x in iter_blocks(features, BLOCK))
        mean = np.asarray(mean) / len(features)
        covariance, order = np.zeros((len(mean),) * 2), np.zeros(len(mean))
        weights = np.random.default_rng(0)
        for x in iter_blocks(features, BLOCK):
            with np.errstate(over="ignore", invalid="ignore"):  # refused below
                centred = x - mean
                order += weights.standard_normal(len(x)) @ centred
                centred = centred.astype(np.float32)
                covariance += centred.T @ centred
        covariance, order = covariance / len(features), order / len(features)
        if len(features) == 1:
            raise ValueError("there is only one position: give more images, or a layer of maps")
        if not np.isfinite(covariance).all():
            raise ValueError(TOO_LARGE)
        moments = cls(mean, covariance, len(features), order)
        if moments.are_constant and not constant:
            raise ValueError(CONSTANT)
        return moments

    @property
    def are_constant(self) -> bool:
        """Whether the features are the same at all positions, up to rounding."""
        least = 1e-12 * float(np.square(self.mean).max())
        return bool(self.covariance.diagonal().max() <= least)

    @cached_property
    def principal(self) -> tuple[Array, Array]:
        """Principal axes, rows of (D, D), and their variances (D,), largest first."""
        return principal_axes(self.covariance)


@dataclass(frozen=True)
class Coordinates:
    """Coordinates x̃ = (x − mean) @ forward with A axes.

    Attributes
    ----------
    mean : ndarray of shape (D,)
        E[x].
    forward : ndarray of shape (D, A)
        F, which takes features to coordinates.
    backward : ndarray of shape (A, D)
        G, which takes signal vectors back to features.
    scale : float, default=1.0
        Root mean square of the channels' standard deviations, in units of these coordinates. L^mm
        is multiplied by it, so that it does not depend on the scale of the features.
    noise : float, default=0.0
        Standard deviation that the floor of noise has along a direction of unit length, on average
        over directions; 0 if the spectrum shows no floor.
    """

    mean: Array
    forward: Array
    backward: Array
    scale: float = 1.0
    noise: float = 0.0

    @property
    def axes(self) -> int:
        """Number of axes, A."""
        return int(self.forward.shape[1])

    def features(self, x: Array) -> Array:
        """Return features x (..., D) in coordinates, x̃ (..., A), as float32."""
        offset = (self.mean @ self.forward).astype(np.float32)
        return x @ self.forward.astype(np.float32) - offset

    def filters_to_raw(self, filters: Array) -> Array:
        """Return filters w̃ (..., A) in features, w (..., D)."""
        return filters @ self.forward.T

    def filters_from_raw(self, filters: Array) -> Array:
        """Return filters w (..., D) in coordinates, w̃ (..., A), with wᵀ(x − mean) = w̃ᵀx̃."""
        return filters @ self.backward.T

    def signals_to_raw(self, signals: Array) -> Array:
        """Return signal vectors s̃ (..., A) in features, s (..., D)."""
        return signals @ self.backward

    def signals_from_raw(self, signals: Array) -> Array:
        """Return signal vectors s (..., D) in coordinates, s̃ (..., A)."""
        return signals @ self.forward


def rank_of_signal(moments: Moments, concepts: int) -> int | None:
    """Return how many principal axes stand above a floor of noise.

    In the signal–distractor model x = Sα + Dβ + μ there are as many axes of signal as concepts and
    distractors together, and the other axes have no variance or only that of noise: the spectrum
    drops, and is flat after the drop [ours: the drop is the largest ratio of neighbouring
    eigenvalues from the I-th axis on, and is at least 2; eigenvalues after it differ by less than a
    factor of 3]. The spectra of real networks fall smoothly. Axes that have no variance because a
    channel never varies, or because there are fewer positions than channels, are not a floor.

    Parameters
    ----------
    moments : Moments
    concepts : int
        I.

    Returns
    -------
    rank : int or None
        None if there is no floor.
    """
    values = np.maximum(moments.principal[1], 0.0)
    variances = moments.covariance.diagonal()
    varying = int((variances > 1e-10 * variances.max()).sum())
    full = int(0.9 * min(varying, moments.count))  # a few last axes are not a floor
    values = np.maximum(values, _RELATIVE_FLOOR**2 * values[0])
    if full <= concepts:
        return None
    ratios = values[concepts - 1 : full - 1] / values[concepts:full]
    rank = concepts + int(ratios.argmax())
    flat = values[rank] < _FLAT * values[full - 1]
    return rank if ratios.max() > _DROP and flat else None


def floor_of_noise(moments: Moments, concepts: int) -> float:
    """Return the standard deviation along the axes of the floor of noise, 0 if there is no floor.

    See `rank_of_signal` for the parameters.
    """
    rank = rank_of_signal(moments, concepts)
    if rank is None:
        return 0.0
    return float(np.sqrt(max(moments.principal[1][rank:].mean(), 0.0)))


def signal_axes(moments: Moments, concepts: int) -> tuple[Array, Array]:
    """Return the principal axes that carry signal, and the standard deviations along them.

    There are `rank_of_signal` of them, or max(128, 2 I) if there is no floor of noise; axes without
    variance are left out.

    Parameters
    ----------
    moments : Moments
    concepts : int
        I.

    Returns
    -------
    axes : ndarray of shape (A, D)
    deviations : ndarray of shape (A,)
        Largest first.
    """
    vectors, values = moments.principal
    values = np.maximum(values, 0.0)
    varies = int((values > _RELATIVE_FLOOR**2 * values[0]).sum())
    kept = rank_of_signal(moments, concepts) or max(AXES, 2 * concepts)
    kept = min(kept, varies)
    return vectors[:kept], np.sqrt(values[:kept])


def whitened(moments: Moments, concepts: int) -> Coordinates:
    """Return coordinates along principal axes, scaled to unit variance.

    Parameters
    ----------
    moments : Moments
    concepts : int
        I, for `signal_axes`.

    Returns
    -------
    coordinates : Coordinates
    """
    axes, deviations = signal_axes(moments, concepts)
    noise = floor_of_noise(moments, concepts) * float(np.sqrt(np.mean(deviations**-2.0)))
    return Coordinates(moments.mean, axes.T / deviations, axes * deviations[:, None], noise=noise)


def standardised(moments: Moments, concepts: int = 1) -> Coordinates:
    """Return channels scaled to unit variance [paper]; channels that never vary are left out.

    Parameters
    ----------
    moments : Moments
    concepts : int, default=1
        Has no effect.

    Returns
    -------
    coordinates : Coordinates
    """
    deviations = np.sqrt(moments.covariance.diagonal())
    varies = deviations > 1e-6 * deviations.max()
    forward = np.eye(len(deviations))[:, varies]
    safe = deviations[varies]
    return Coordinates(moments.mean, forward / safe, forward.T * safe[:, None])


def centred(moments: Moments, concepts: int) -> Coordinates:
    """Return coordinates along principal axes, unscaled, without directions of no variance.

    Filters that were learned in standardised channels may lie almost wholly in channels that hardly
    vary. In these coordinates that part is dropped, which changes no projection of the data.

    Parameters
    ----------
    moments : Moments
    concepts : int
        I, for `signal_axes`.

    Returns
    -------
    coordinates : Coordinates
    """
    axes, _ = signal_axes(moments, concepts)
    scale = float(np.sqrt(moments.covariance.diagonal().mean()))
    return Coordinates(moments.mean, axes.T, axes, scale)


COORDINATES: dict[str, Callable[[Moments, int], Coordinates]] = {
    "whitened": whitened,
    "standardised": standardised,
    "centred": centred,
}
