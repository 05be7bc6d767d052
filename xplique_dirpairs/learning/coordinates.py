"""The coordinates a stage learns in, and how filters and signal vectors return from them.

Learned coordinates are x̃ = (x − E[x]) F with F of shape (D, A); a filter w̃ there is w = F w̃ in
features, a signal vector s̃ is ŝ = Gᵀ s̃ with F G the projection on what varies. In every one of
them wᵀ(x − E[x]) = w̃ᵀx̃ and wᵀŝ = w̃ᵀs̃, so nothing is lost or approximated on the way back.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xplique_dirpairs.core.batching import iter_blocks

#: Standard deviations below this share of the largest count as no variation at all.
_RELATIVE_FLOOR = 1e-3
#: Axes kept where the spectrum does not show how many carry signal: so many, or 2 I.
_AXES = 128
#: Ratio of two neighbouring eigenvalues that counts as the edge of a noise floor.
_DROP = 2.0
#: Ratio of a floor's first and last eigenvalue, at most.
_FLAT = 3.0

#: What is said of activations whose squares are not finite in float32.
TOO_LARGE = (
    "the activations are too large: their squares overflow. Check the images' preprocessing and "
    "the layer, or scale the activations down"
)


@dataclass(frozen=True)
class Moments:
    """Moments of features, in float64.

    Attributes
    ----------
    mean : (D,)
    covariance : (D, D)
    count
        Of how many positions.
    order : (D,)
        Mean of centred features times a random number for each position, which depends on its
        place alone: tells features apart that differ in their order only.
    """

    mean: NDArray
    covariance: NDArray
    count: int
    order: NDArray

    @classmethod
    def of(cls, features: Any, chunk: int = 8192) -> Moments:
        """Of features; a second pass for the covariance keeps it exact.

        Parameters
        ----------
        features : (P, D)
            Or anything with ``blocks()`` of positions.
        chunk
            Positions at a time.

        Raises
        ------
        ValueError
            If the features are constant, or too large for their squares.
        """
        mean = sum(x.sum(axis=0, dtype=np.float64) for x in iter_blocks(features, chunk))
        mean = np.asarray(mean) / len(features)
        covariance, order = np.zeros((len(mean),) * 2), np.zeros(len(mean))
        weights = np.random.default_rng(0)
        for x in iter_blocks(features, chunk):
            with np.errstate(over="ignore", invalid="ignore"):  # said below
                centred = x - mean
                order += weights.standard_normal(len(x)) @ centred
                centred = centred.astype(np.float32)
                covariance += centred.T @ centred
        covariance, order = covariance / len(features), order / len(features)
        if len(features) == 1:
            raise ValueError("there is one position only: give more images, or a layer of maps")
        if not np.isfinite(covariance).all():
            raise ValueError(TOO_LARGE)
        if covariance.diagonal().max() <= 1e-12 * float(np.square(mean).max()):
            raise ValueError(
                "the activations are constant: there is nothing to learn from. Check the images, "
                "their preprocessing and the layer"
            )
        return cls(mean, covariance, len(features), order)


@dataclass(frozen=True)
class Coordinates:
    """x̃ = (x − mean) @ forward; ``backward`` (A, D) takes signal vectors back.

    Attributes
    ----------
    mean : (D,)
    forward : (D, A)
    backward : (A, D)
    scale
        Root mean square of the channels' standard deviations, in these coordinates' units of
        length: L^mm is measured against it, so that it does not depend on the features' scale.
    noise
        Standard deviation along a direction of unit length, on average over directions, of what the
        floor of noise adds; 0 where the spectrum shows no floor.
    """

    mean: NDArray
    forward: NDArray
    backward: NDArray
    scale: float = 1.0
    noise: float = 0.0

    @property
    def axes(self) -> int:
        """A."""
        return self.forward.shape[1]

    def features(self, x: NDArray) -> NDArray:
        """x (..., D) → x̃ (..., A), float32."""
        offset = (self.mean @ self.forward).astype(np.float32)
        return x @ self.forward.astype(np.float32) - offset

    def filters_to_raw(self, filters: NDArray) -> NDArray:
        """w̃ (..., A) → w (..., D)."""
        return filters @ self.forward.T

    def filters_from_raw(self, filters: NDArray) -> NDArray:
        """w (..., D) → w̃ (..., A), exact on the data: wᵀ(x − mean) = w̃ᵀx̃."""
        return filters @ self.backward.T

    def signals_to_raw(self, signals: NDArray) -> NDArray:
        """s̃ (..., A) → s (..., D)."""
        return signals @ self.backward

    def signals_from_raw(self, signals: NDArray) -> NDArray:
        """s (..., D) → s̃ (..., A)."""
        return signals @ self.forward


def rank_of_signal(moments: Moments, concepts: int) -> int | None:
    """How many principal axes stand above a floor of noise, or None where there is no floor.

    The signal-distractor model x = Sα + Dβ + μ has I + F axes of signal, then nothing, or noise:
    the spectrum drops, and what follows is flat [ours: after the largest ratio of neighbours from
    the I-th axis on, at least 2, eigenvalues differ by less than a factor of 3]. The spectra of
    real networks fall smoothly. Axes that are missing because a channel never varies, or because
    there are fewer positions than channels, are no floor.
    """
    values = np.maximum(np.linalg.eigvalsh(moments.covariance)[::-1], 0.0)
    variances = moments.covariance.diagonal()
    varying = int((variances > 1e-10 * variances.max()).sum())
    full = int(0.9 * min(varying, moments.count))  # a floor is more than the last few axes
    values = np.maximum(values, _RELATIVE_FLOOR**2 * values[0])
    if full <= concepts:
        return None
    ratios = values[concepts - 1 : full - 1] / values[concepts:full]
    rank = concepts + int(ratios.argmax())
    flat = values[rank] < _FLAT * values[full - 1]
    return rank if ratios.max() > _DROP and flat else None


def floor_of_noise(moments: Moments, concepts: int) -> float:
    """Standard deviation of a channel's noise: of the axes beyond `rank_of_signal`, or 0."""
    rank = rank_of_signal(moments, concepts)
    if rank is None:
        return 0.0
    values = np.linalg.eigvalsh(moments.covariance)[::-1]
    return float(np.sqrt(max(values[rank:].mean(), 0.0)))


def principal_axes(moments: Moments, concepts: int) -> tuple[NDArray, NDArray]:
    """Directions (A, D) that carry signal and their standard deviations (A,), largest first.

    `rank_of_signal` of them; where there is no floor of noise, max(128, 2 I).
    """
    values, vectors = np.linalg.eigh(moments.covariance)
    values, vectors = np.maximum(values[::-1], 0.0), vectors[:, ::-1].T
    varies = int((values > _RELATIVE_FLOOR**2 * values[0]).sum())
    kept = rank_of_signal(moments, concepts) or max(_AXES, 2 * concepts)
    kept = min(kept, varies)
    return vectors[:kept], np.sqrt(values[:kept])


def whitened(moments: Moments, concepts: int) -> Coordinates:
    """Principal axes, each scaled to unit variance."""
    axes, deviations = principal_axes(moments, concepts)
    noise = floor_of_noise(moments, concepts) * float(np.sqrt(np.mean(deviations**-2.0)))
    return Coordinates(moments.mean, axes.T / deviations, axes * deviations[:, None], noise=noise)


def standardised(moments: Moments) -> Coordinates:
    """Each channel scaled to unit variance [paper]; channels that never vary are left out."""
    deviations = np.sqrt(moments.covariance.diagonal())
    varies = deviations > 1e-6 * deviations.max()
    forward = np.eye(len(deviations))[:, varies]
    safe = deviations[varies]
    return Coordinates(moments.mean, forward / safe, forward.T * safe[:, None])


def centred(moments: Moments, concepts: int) -> Coordinates:
    """Principal axes in the features' own scale: "raw" features without directions of no variance.

    Filters learned in standardised channels may lie almost wholly in channels that hardly vary;
    passing through these coordinates drops that part and changes no projection of the data.
    """
    axes, _ = principal_axes(moments, concepts)
    scale = float(np.sqrt(moments.covariance.diagonal().mean()))
    return Coordinates(moments.mean, axes.T, axes, scale)
