"""Properties of a dictionary of concept directions and of its coefficients (method section 6).

A dictionary is ``(I, D)``, a direction a row. A row's length can be traded against its coefficient,
so that cosines are taken wherever two directions are compared: lengths do not count. Signs do where
data or class weights are involved: a direction that may be used both ways, as those of PCA, is
first turned the way it is mostly used, by `oriented`. Zero rows have cosine 0 with every row.

Better is: higher stability, stable rank, Hoyer sparsity and plausibility; lower coherence, L0, OOD
score and cross-talk; fewer dead concepts.
"""

from __future__ import annotations

import numpy as np

from xplique_dirpairs.core.batching import as_positions, iter_blocks
from xplique_dirpairs.core.linear_algebra import UNMATCHED, cosines, match
from xplique_dirpairs.core.types import Array
from xplique_dirpairs.metrics.registry import nan_mean

#: Coefficients below this share of the largest one count as zero: what solvers leave over.
NEGLIGIBLE = 1e-3

#: Rows of data compared with the dictionary at once.
_ROWS = 8192

# ------------------------------------------------------------------------------ two dictionaries


def matched_cosines(a: Array, b: Array) -> Array:
    """Compute |cosine| of each direction of ``a`` with its partner in ``b``.

    The one-to-one matching is that with the largest sum.

    Parameters
    ----------
    a : array-like of shape (I, D)
    b : array-like of shape (J, D)

    Returns
    -------
    matched : ndarray of shape (I,)
        In [0, 1]; NaN for the I − J directions without a partner where ``a`` is the larger.
    """
    similarity = np.abs(cosines(b, a))
    matching = match(similarity)
    partners = similarity[matching, np.arange(len(matching))]
    return np.where(matching == UNMATCHED, np.nan, np.minimum(partners, 1.0))


def dictionary_stability(a: Array, b: Array) -> float:
    """Compute the mean of `matched_cosines` over the min(I, J) pairs, in [0, 1]; higher is better.

    1 for a dictionary and itself in any order, with any signs and lengths. Of dictionaries of
    unequal size the smaller one is judged: the mean is over its directions, and further directions
    of the larger one cost nothing. Random dictionaries do not have 0, but more the larger they are.
    T. Fel et al., "Archetypal SAE", ICML 2025, with signs resolved.
    """
    return float(np.nanmean(matched_cosines(a, b)))


# ------------------------------------------------------------------------------ one dictionary


def max_coherence(dictionary: Array) -> float:
    """Compute max_{i≠j} |cos(d_i, d_j)|, in [0, 1]; lower is better.

    The mutual coherence: D. L. Donoho, X. Huo, 2001. 0 if orthogonal, 1 if two directions are
    parallel; NaN for a single direction.
    """
    others = _off_diagonal(np.abs(cosines(dictionary, dictionary)))
    return float(others.max()) if others.size else np.nan


def stable_rank(dictionary: Array) -> float:
    """Compute ‖D‖_F² / ‖D‖_2² of unit directions, in [1, min(I, D)]; higher is better.

    The number of directions, less their overlap: I if orthogonal, 1 if all are parallel, 0
    if all are zero. M. Rudelson, R. Vershynin, "Sampling from large matrices", 2007; at unit length
    because the lengths of a dictionary are arbitrary.
    """
    gram = cosines(dictionary, dictionary)
    largest = np.linalg.eigvalsh(gram)[-1]
    return float(np.trace(gram) / largest) if largest > 0 else 0.0


# ------------------------------------------------------------------------------ coefficients


def hoyer_sparsity(coefficients: Array) -> Array:
    """Compute (√I − ‖u‖₁/‖u‖₂) / (√I − 1) of each sample, in [0, 1]; higher is better.

    1 where a single concept is on, 0 where all are equally, with any signs. The result depends on
    the units of the coefficients: where directions differ in length, multiply by the lengths first.
    P. O. Hoyer, "Non-negative matrix factorization with sparseness constraints", 2004.

    Parameters
    ----------
    coefficients : ndarray of shape (..., I)

    Returns
    -------
    sparsity : ndarray of shape (...)
        NaN where nothing is on, and for a single concept: sparsity is not defined there.
    """
    u = np.abs(np.asarray(coefficients, np.float64))
    largest = u.max(axis=-1, keepdims=True)
    # relative to the largest one, so that squares neither overflow nor vanish
    u = np.divide(u, largest, out=np.zeros_like(u), where=largest > 0)
    length = np.sqrt(np.square(u).sum(axis=-1))
    root = np.sqrt(u.shape[-1])
    defined = (length > 0) & (root > 1)
    ratio = np.divide(u.sum(axis=-1), length, out=np.zeros_like(length), where=defined)
    return np.where(defined, np.clip((root - ratio) / max(root - 1, 1e-12), 0.0, 1.0), np.nan)


def l0(coefficients: Array) -> Array:
    """Count the concepts that are on in each sample, in [0, I]; lower is sparser.

    A concept is on if |u_i| is above 1e-3 of its largest value over all samples.

    Parameters
    ----------
    coefficients : ndarray of shape (..., I)

    Returns
    -------
    counts : ndarray of shape (...), int
    """
    u = np.abs(np.asarray(coefficients, np.float64))
    largest = u.max(axis=tuple(range(u.ndim - 1)))
    return np.asarray((u > NEGLIGIBLE * largest).sum(axis=-1))


def dead_concepts(coefficients: Array, dictionary: Array) -> Array:
    """Return which concepts add next to nothing to any sample. Fewer are better.

    Next to nothing: the largest |u_i| ‖d_i‖ over the samples is at most 1e-3 of that of the
    strongest concept.

    Parameters
    ----------
    coefficients : ndarray of shape (..., I)
    dictionary : ndarray of shape (I, D)
        The concept bank the coefficients are multiplied with.

    Returns
    -------
    dead : ndarray of shape (I,), bool
    """
    largest = np.abs(as_positions(np.asarray(coefficients, np.float64))).max(axis=0)
    added = largest * np.linalg.norm(dictionary, axis=1)
    return np.asarray(added <= NEGLIGIBLE * added.max())


def oriented(dictionary: Array, coefficients: Array) -> Array:
    """Turn directions around where their coefficients are mostly negative.

    For `ood_score` and `plausibility`, which depend on signs.

    Parameters
    ----------
    dictionary : ndarray of shape (I, D)
    coefficients : ndarray of shape (..., I)

    Returns
    -------
    dictionary : ndarray of shape (I, D)
    """
    return main_signs(coefficients)[:, None] * dictionary


def main_signs(coefficients: Array) -> Array:
    """Return −1 for the concepts whose coefficients (..., I) are mostly negative, else 1, (I,).

    Decided by the sign of Σ u³, so by the long tail where coefficients are centred.
    """
    u = as_positions(np.asarray(coefficients, np.float64))
    tail = np.power(u / max(np.abs(u).max(), 1e-300), 3).sum(axis=0)
    return np.where(tail < 0, -1.0, 1.0)


# ------------------------------------------------------------------------------ data and classes


def ood_score(dictionary: Array, activations: Array) -> float:
    """Compute 1 − (1/I) Σ_i max_j cos(d_i, x_j), in [0, 2]; lower is better.

    0 if every direction is parallel to a sample, 1 if all are orthogonal to the data.
    T. Fel et al., "Archetypal SAE", ICML 2025.

    Parameters
    ----------
    dictionary : ndarray of shape (I, D)
        Turned the way it is used: `oriented`.
    activations : ndarray of shape (..., D)
        x; less the mean, or the constant of `decode`, where the directions are about it.
    """
    nearest = np.full(len(dictionary), -1.0)
    for rows in iter_blocks(as_positions(activations), _ROWS):
        nearest = np.maximum(nearest, cosines(rows, dictionary).max(axis=0))
    return float(1.0 - np.minimum(nearest, 1.0).mean())


def plausibility(dictionary: Array, head_directions: Array) -> float:
    """Compute (1/K) Σ_k max_i cos(head_k, d_i), in [−1, 1]; higher is better.

    1 if the weights of every class are among the directions. T. Fel et al., "Archetypal SAE", ICML
    2025.

    Parameters
    ----------
    dictionary : ndarray of shape (I, D)
        Turned the way it is used: `oriented`.
    head_directions : ndarray of shape (K, D)
        The weights of one class per row: the transposed kernel of a linear head on pooled features.
    """
    return float(np.minimum(cosines(head_directions, dictionary).max(axis=1), 1.0).mean())


# ------------------------------------------------------------------------------ filters and signals


def cross_talk(filters: Array, signals: Array) -> float:
    """Compute the mean of |w̄_iᵀ s̄_j| over i ≠ j of unit vectors, in [0, 1]; lower is better.

    How much of another concept's signal a filter reads; NaN for a single concept.

    Parameters
    ----------
    filters : ndarray of shape (I, D)
        Decoding directions w_i.
    signals : ndarray of shape (I, D)
        Encoding directions ŝ_i, in the same order.
    """
    others = _off_diagonal(np.abs(cosines(filters, signals)))
    return float(others.mean()) if others.size else np.nan


# ------------------------------------------------------------------------------ one extractor


def dictionary_values(
    encoding: Array,
    bank: Array,
    coefficients: Array,
    features: Array,
    *,
    head_rows: Array | None = None,
    filters: Array | None = None,
) -> dict[str, Array]:
    """Compute every metric of a dictionary and of its coefficients, by key of `METRICS`.

    Parameters
    ----------
    encoding : ndarray of shape (I, D)
        Directions along which the features change with the concepts.
    bank : ndarray of shape (I, D)
        Added to the features per unit of each coefficient: sparsity is that of u_i ‖b_i‖.
    coefficients : ndarray of shape (P, I)
    features : ndarray of shape (P, D)
        Those the coefficients were read from, without the constant part of the decoding.
    head_rows : ndarray of shape (K, D), optional
        Class weights of a linear head, for plausibility.
    filters : ndarray of shape (I, D), optional
        For the cross-talk.

    Returns
    -------
    values : dict of str to ndarray of shape ()
        NaN where a metric is undefined.
    """
    directions = oriented(encoding, coefficients)
    sparsity = hoyer_sparsity(coefficients * np.linalg.norm(bank, axis=1))
    values = {
        "max_coherence": max_coherence(encoding),
        "stable_rank": stable_rank(encoding),
        "hoyer": nan_mean(sparsity),
        "l0": float(np.mean(l0(coefficients))),
        "dead": float(np.sum(dead_concepts(coefficients, bank))),
        "ood": ood_score(directions, features),
    }
    if head_rows is not None:
        values["plausibility"] = plausibility(directions, head_rows)
    if filters is not None:
        values["cross_talk"] = cross_talk(filters, encoding)
    return {key: np.asarray(value, np.float64) for key, value in values.items()}


# ------------------------------------------------------------------------------ helpers


def _off_diagonal(square: Array) -> Array:
    return square[~np.eye(len(square), dtype=bool)]
