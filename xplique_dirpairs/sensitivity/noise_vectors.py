"""Noise signal vectors: what a concept's signal vector would be if its labels meant nothing.

The labels of a concept's positions, detected or not, are permuted, and a direction is estimated
from what they say then (Pfau et al., "Robust Semantic Interpretability: Revisiting Concept
Activation Vectors", 2020, and method section 6).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import numpy as np
from numpy.typing import ArrayLike, NDArray

#: A sample (S, D) and permuted labels ±1 (B, S) → B unit noise signal vectors (B, D).
NoiseEstimator = Callable[[NDArray, NDArray], NDArray]

#: Ridge of the noise filters, relative to the features' mean variance.
_RIDGE = 1e-2


def mean_difference_noise(sample: NDArray, labels: NDArray) -> NDArray:
    """mean(permuted positives) − mean(permuted negatives), at unit length: the fast default.

    Parameters
    ----------
    sample : (S, D)
        Features.
    labels : (B, S)
        ±1, as many of either.

    Returns
    -------
    vectors : (B, D)
        Unit rows; zero where all features are the same.
    """
    return _unit((labels @ sample) / (sample.shape[0] / 2))


def trained_filter_noise(sample: NDArray, labels: NDArray) -> NDArray:
    """A noise filter trained on the permuted labels, and its signal vector: the paper's way.

    The filter is that of ridge regression on the labels [ours]; the signal vector is
    cov[x, z] over its positives, z > 0 (method section 3). Parameters and result as of
    `mean_difference_noise`.

    Where features are skewed, as behind a ReLU, these vectors have a mean that is not zero,
    whatever the labels: they suit statistics that have no sign ("change", "score"). Those of
    `mean_difference_noise` turn round when labels are swapped, and are as likely on either side.
    """
    covariance = sample.T @ sample / len(sample)
    ridge = _RIDGE * np.trace(covariance) / len(covariance) + np.finfo(np.float32).tiny
    covariance[np.diag_indices_from(covariance)] += ridge
    filters = np.linalg.solve(covariance, (labels @ sample).T / len(sample))
    z = sample @ filters
    positive = z > 0
    count = np.maximum(positive.sum(axis=0), 1)
    excess = np.where(positive, z - (z * positive).sum(axis=0) / count, 0.0)
    return _unit(excess.T @ sample)


def _unit(vectors: NDArray) -> NDArray:
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.divide(vectors, lengths, out=np.zeros_like(vectors), where=lengths > 0)


def balanced_sample(
    features: NDArray, detected: NDArray, at_most: int, rng: np.random.Generator
) -> NDArray:
    """As many positions with a concept as without, at random; those with it first.

    Permutations are of this one sample: the labels as they are, are one of them. (A pool of 20
    negatives a positive, out of which such a sample is drawn, gives the same.)

    Parameters
    ----------
    features : (P, D)
    detected : (P,) bool
    at_most
        Positions, of both kinds together.
    rng

    Returns
    -------
    sample : (S, D) float32
        Without its mean, which no noise vector depends on. S is even; 0 if there are only
        positives, or none.
    """
    kinds = [np.flatnonzero(detected), np.flatnonzero(~detected)]
    each = min(at_most // 2, *map(len, kinds))
    chosen = np.concatenate([np.sort(rng.choice(kind, each, replace=False)) for kind in kinds])
    sample = features[chosen].astype(np.float32)
    return sample - sample.mean(axis=0) if each else sample


def noise_vectors(
    sample: NDArray, count: int, block: int, estimator: NoiseEstimator, rng: np.random.Generator
) -> Iterator[NDArray]:
    """``count`` noise signal vectors of a balanced sample, (B, D) each, B up to ``block``.

    Raises
    ------
    ValueError
        If the estimator gives something else.
    """
    half = len(sample) // 2
    labels = np.repeat(np.array([1.0, -1.0], np.float32), half)
    for start in range(0, count, block):
        permuted = np.tile(labels, (min(block, count - start), 1))
        found = np.asarray(estimator(sample, rng.permuted(permuted, axis=1, out=permuted)))
        wanted = (len(permuted), sample.shape[1])
        if found.shape != wanted or not np.isfinite(found).all():
            raise ValueError(
                f"the estimator must give finite noise vectors {wanted}, one for each permutation, "
                f"but gives {found.dtype} {found.shape}"
            )
        yield found


def sample_positions(
    batches: Iterable[tuple[ArrayLike, ArrayLike]],
    at_most: int = 100_000,
    random_state: int | None = None,
) -> tuple[NDArray, NDArray]:
    """A uniform random sample of positions from a stream, in memory that does not grow with it.

    Parameters
    ----------
    batches
        Of (features (n, *S, D), detections (n, *S, I), bool).
    at_most
        Positions kept.
    random_state
        Seed.

    Returns
    -------
    features : (P, D) float32
    detections : (P, I) bool

    Raises
    ------
    ValueError
        If there are no positions, or features and detections are not of the same ones.
    """
    rng = np.random.default_rng(random_state)
    kept: tuple[NDArray, NDArray, NDArray] | None = None  # random numbers, features, detections
    for features, detections in batches:
        x, y = np.asarray(features, np.float32), np.asarray(detections, bool)
        if x.ndim < 2 or x.shape[:-1] != y.shape[:-1]:
            raise ValueError(
                f"features {x.shape} and detections {y.shape} must be of the same positions: "
                "(n, *S, D) and (n, *S, I)"
            )
        x, y = x.reshape(-1, x.shape[-1]), y.reshape(-1, y.shape[-1])
        keys = rng.random(len(x))
        if kept is not None:
            keys = np.concatenate([kept[0], keys])
            x, y = np.concatenate([kept[1], x]), np.concatenate([kept[2], y])
        # the positions with the smallest of so many random numbers are a uniform sample
        best = np.sort(np.argsort(keys, kind="stable")[:at_most])
        kept = keys[best], x[best], y[best]
    if kept is None or not len(kept[0]):
        raise ValueError("there are no positions: batches is empty")
    return kept[1], kept[2]
