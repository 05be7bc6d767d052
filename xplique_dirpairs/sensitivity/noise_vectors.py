"""Noise signal vectors: what a concept's signal vector would be if its labels meant nothing.

The labels of a concept's positions, detected or not, are permuted, and a direction is estimated
from the permuted labels (Pfau et al., "Robust Semantic Interpretability: Revisiting Concept
Activation Vectors", 2020).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from xplique_dirpairs.core.batching import slices
from xplique_dirpairs.core.linear_algebra import unit_rows
from xplique_dirpairs.core.types import Array

#: A sample (S, D) and permuted labels ±1 (B, S) → B unit noise signal vectors (B, D).
NoiseEstimator = Callable[[Array, Array], Array]

#: Ridge of the noise filters, relative to the features' mean variance.
_RIDGE = 1e-2


def mean_difference_noise(sample: Array, labels: Array) -> Array:
    """Return mean(permuted positives) − mean(permuted negatives) at unit length: the fast default.

    Parameters
    ----------
    sample : ndarray of shape (S, D)
        Features.
    labels : ndarray of shape (B, S)
        ±1, as many of either.

    Returns
    -------
    vectors : ndarray of shape (B, D)
        Unit rows; zero where all features are the same.
    """
    return unit_rows((labels @ sample) / (sample.shape[0] / 2))


def trained_filter_noise(sample: Array, labels: Array) -> Array:
    """Return the signal vector of a noise filter trained on the permuted labels: the paper's way.

    The filter is that of ridge regression on the labels (ours); the signal vector is cov[x, z] over
    its positives, z > 0. Parameters and result as of `mean_difference_noise`.

    Where features are skewed, as behind a ReLU, these vectors have a mean that is not zero,
    whatever the labels: they suit statistics without a sign ("change", "score"). Those of
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
    return unit_rows(excess.T @ sample)


def balanced_sample(
    features: Array, detected: Array, at_most: int, rng: np.random.Generator
) -> Array:
    """Draw as many positions with a concept as without; those with it come first.

    Permutations are of this one sample: its own labels are one of them. (A pool of 20 negatives for
    each positive, from which the sample is drawn, gives the same.)

    Parameters
    ----------
    features : ndarray of shape (P, D)
    detected : ndarray of shape (P,), bool
    at_most : int
        Positions, with and without the concept together.
    rng : numpy.random.Generator

    Returns
    -------
    sample : ndarray of shape (S, D), float32
        Without its mean, which no noise vector depends on. S is even, and 0 if the concept is
        everywhere or nowhere.
    """
    kinds = [np.flatnonzero(detected), np.flatnonzero(~detected)]
    each = min(at_most // 2, *map(len, kinds))
    chosen = np.concatenate([np.sort(rng.choice(kind, each, replace=False)) for kind in kinds])
    sample: Array = features[chosen].astype(np.float32)
    sample -= sample.sum(axis=0) / max(len(sample), 1)
    return sample


def noise_vectors(
    sample: Array, count: int, block: int, estimator: NoiseEstimator, rng: np.random.Generator
) -> Iterator[Array]:
    """Yield ``count`` noise signal vectors of a balanced sample, (B, D) each, B up to ``block``.

    Raises
    ------
    ValueError
        If the estimator gives no finite vector for each permutation.
    """
    half = len(sample) // 2
    labels = np.repeat(np.array([1.0, -1.0], np.float32), half)
    for part in slices(count, block):
        permuted = np.tile(labels, (part.stop - part.start, 1))
        vectors = np.asarray(estimator(sample, rng.permuted(permuted, axis=1, out=permuted)))
        expected = (len(permuted), sample.shape[1])
        if vectors.shape != expected or not np.isfinite(vectors).all():
            raise ValueError(
                f"the estimator must give finite noise vectors {expected}, one for each "
                f"permutation, but gives {vectors.dtype} {vectors.shape}"
            )
        yield vectors
