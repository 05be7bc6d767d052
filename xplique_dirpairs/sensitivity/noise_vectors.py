"""Noise vectors: uniform directions, and signal vectors estimated from labels without meaning.

A uniform direction has nothing to do with the weights of a class, nor with the features. For the
other kind, positions are labelled by whether the concept is detected there. The labels are
permuted, and a direction is estimated from the permuted labels (Pfau et al., "Robust Semantic
Interpretability: Revisiting Concept Activation Vectors", 2020). It lies where the features vary.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from xplique_dirpairs.core.batching import slices
from xplique_dirpairs.core.linear_algebra import unit_rows
from xplique_dirpairs.core.types import Array

#: A function from a sample (S, D) and permuted labels ±1 (B, S) to unit noise vectors (B, D).
NoiseEstimator = Callable[[Array, Array], Array]

#: Ridge penalty of the noise filters, relative to the mean variance of the features.
_RIDGE = 1e-2


def uniform_directions(count: int, channels: int, rng: np.random.Generator) -> Array:
    """Return directions that are uniform on the sphere, (count, channels) unit rows."""
    return unit_rows(rng.standard_normal((count, channels)))


def mean_difference_noise(sample: Array, labels: Array) -> Array:
    """Return mean(permuted positives) − mean(permuted negatives), scaled to unit length.

    This is the default estimator, which is fast.

    Parameters
    ----------
    sample : ndarray of shape (S, D)
        Features at S positions, centred.
    labels : ndarray of shape (B, S)
        B permutations of labels ±1, the same number of each.

    Returns
    -------
    vectors : ndarray of shape (B, D)
        Unit rows; zero rows if all features are the same.
    """
    return unit_rows((labels @ sample) / (sample.shape[0] / 2))


def trained_filter_noise(sample: Array, labels: Array) -> Array:
    """Return the signal vector of a filter that is trained on the permuted labels, as in the paper.

    The filter w is fitted by ridge regression on the labels, a choice of this project. Its signal
    vector is cov[x, z] over the positions where the filter's output z = w · x is above 0.

    If features are skewed, as after a ReLU, the mean of these vectors is not zero, whatever the
    labels are, and too much is significant on networks with random weights. The vectors of
    `mean_difference_noise` change sign when the labels are swapped: both signs are equally likely.

    Parameters
    ----------
    sample : ndarray of shape (S, D)
        Features at S positions, centred.
    labels : ndarray of shape (B, S)
        B permutations of labels ±1, the same number of each.

    Returns
    -------
    vectors : ndarray of shape (B, D)
        Unit rows; zero rows if all features are the same.
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
    """Draw the same number of positions with a concept as without it; those with it come first.

    All permutations are of the labels of this one sample, and its true labels are one of them. (To
    draw the sample from a pool of 20 negatives for each positive gives the same distribution.)

    Parameters
    ----------
    features : ndarray of shape (P, D)
        Features at P positions.
    detected : ndarray of shape (P,), bool
        Whether the concept is detected at each position.
    at_most : int
        Upper limit on the number of positions, with and without the concept together.
    rng : numpy.random.Generator
        Generator that positions are drawn with.

    Returns
    -------
    sample : ndarray of shape (S, D), float32
        Features of the drawn positions minus their mean, which no noise vector depends on. S is
        even, and 0 if the concept is detected everywhere or nowhere.
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
    """Yield ``count`` noise signal vectors of a balanced sample in blocks.

    Parameters
    ----------
    sample : ndarray of shape (S, D)
        Features, those of the positions with the concept first: see `balanced_sample`.
    count : int
        Number of noise vectors.
    block : int
        Upper limit on the number of vectors that are yielded at a time.
    estimator : callable
        `mean_difference_noise`, `trained_filter_noise`, or another function of their form.
    rng : numpy.random.Generator
        Generator that labels are permuted with.

    Yields
    ------
    vectors : ndarray of shape (B, D)
        B noise vectors, B ≤ ``block``.

    Raises
    ------
    ValueError
        If the estimator does not return a finite vector for each permutation.
    """
    half = len(sample) // 2
    labels = np.repeat(np.array([1.0, -1.0], np.float32), half)
    for part in slices(count, block):
        permuted = np.tile(labels, (part.stop - part.start, 1))
        vectors = np.asarray(estimator(sample, rng.permuted(permuted, axis=1, out=permuted)))
        expected = (len(permuted), sample.shape[1])
        if vectors.shape != expected or not np.isfinite(vectors).all():
            raise ValueError(
                f"the estimator must return finite noise vectors of shape {expected}, one for each "
                f"permutation, not {vectors.dtype} {vectors.shape}"
            )
        yield vectors
