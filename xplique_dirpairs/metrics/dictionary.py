"""Properties of a dictionary of concept directions and of its coefficients.

A dictionary is an array of shape (I, D) with one direction per row. Only the product of a row and
its coefficient matters to the features, so directions are compared by cosines, which do not depend
on the rows' lengths. Signs matter where data or class weights are involved: a direction that may be
used with either sign, like those of PCA, is first given the sign with which it is mostly used, by
`oriented`. A zero row has cosine 0 with every row.

Which direction is better, if either is, is declared in `registry`.
"""

from __future__ import annotations

from itertools import combinations

import numpy as np

from xplique_dirpairs.core.batching import as_positions, iter_blocks
from xplique_dirpairs.core.linear_algebra import UNMATCHED, cosines, match
from xplique_dirpairs.core.types import Array
from xplique_dirpairs.metrics.registry import nan_mean

#: Coefficients below this share of the largest one count as zero: solvers rarely reach 0 exactly.
NEGLIGIBLE = 1e-3

#: Number of rows of data that are compared with the dictionary at once.
_ROWS = 8192

# ------------------------------------------------------------------------------ two dictionaries


def matched_cosines(a: Array, b: Array) -> Array:
    """Compute |cosine| between each direction of ``a`` and its partner in ``b``.

    Directions are matched one to one, such that the sum of the |cosine| is largest.

    Parameters
    ----------
    a : array-like of shape (I, D)
        A dictionary of I directions.
    b : array-like of shape (J, D)
        A dictionary of J directions.

    Returns
    -------
    matched : ndarray of shape (I,)
        Values in [0, 1]; NaN for the I − J directions without a partner if I > J.
    """
    similarity = np.abs(cosines(b, a))
    matching = match(similarity)
    partners = similarity[matching, np.arange(len(matching))]
    return np.where(matching == UNMATCHED, np.nan, np.minimum(partners, 1.0))


def dictionary_stability(a: Array, b: Array) -> float:
    """Compute the mean of `matched_cosines` over the min(I, J) pairs, in [0, 1]; higher is better.

    The stability of a dictionary with itself is 1, in any order and with any signs and lengths. If
    the dictionaries differ in size, the mean is over the directions of the smaller one, and further
    directions of the larger one have no effect. Random dictionaries have a stability above 0 that
    grows with their size. The definition is that of T. Fel et al., "Archetypal SAE", ICML 2025,
    but with |cosine|, so that signs do not matter.

    Parameters
    ----------
    a : array-like of shape (I, D)
        A dictionary of I directions.
    b : array-like of shape (J, D)
        A dictionary of J directions.

    Returns
    -------
    stability : float
        Value in [0, 1].
    """
    return float(np.nanmean(matched_cosines(a, b)))


def stability_of(directions: list[Array]) -> float:
    """Return the mean `dictionary_stability` over pairs of fits; NaN for fewer than two fits."""
    stabilities = [dictionary_stability(*two) for two in combinations(directions, 2)]
    return float(np.mean(stabilities)) if stabilities else float("nan")


# ------------------------------------------------------------------------------ one dictionary


def max_coherence(dictionary: Array) -> float:
    """Compute max_{i≠j} |cos(d_i, d_j)|, in [0, 1]; lower is better.

    This is the mutual coherence of D. L. Donoho, X. Huo, "Uncertainty principles and ideal atomic
    decomposition", 2001: 0 if all directions are orthogonal, 1 if two directions are parallel.

    Parameters
    ----------
    dictionary : ndarray of shape (I, D)

    Returns
    -------
    coherence : float
        Value in [0, 1]; NaN for a single direction.
    """
    others = _off_diagonal(np.abs(cosines(dictionary, dictionary)))
    return float(others.max()) if others.size else np.nan


def stable_rank(dictionary: Array) -> float:
    """Compute ‖D‖_F² / ‖D‖_2² of unit directions, in [1, min(I, D)].

    The stable rank counts the directions, less their overlap: I if all are orthogonal, 1 if all are
    parallel, 0 if all are zero. M. Rudelson, R. Vershynin, "Sampling from large matrices", 2007.
    Directions are normalised first, because the lengths of a dictionary are arbitrary.

    Parameters
    ----------
    dictionary : ndarray of shape (I, D)

    Returns
    -------
    rank : float
        Value in [1, min(I, D)]; 0 if all directions are zero.
    """
    gram = cosines(dictionary, dictionary)
    largest = np.linalg.eigvalsh(gram)[-1]
    return float(np.trace(gram) / largest) if largest > 0 else 0.0


# ------------------------------------------------------------------------------ coefficients


def hoyer_sparsity(coefficients: Array) -> Array:
    """Compute (√I − ‖u‖₁/‖u‖₂) / (√I − 1) of each sample, in [0, 1].

    The sparsity is 1 where a single concept is on, and 0 where all |u_i| are equal. It depends on
    the units of the coefficients: if the directions differ in length, multiply the coefficients by
    the lengths first.
    P. O. Hoyer, "Non-negative matrix factorization with sparseness constraints", 2004.

    Parameters
    ----------
    coefficients : ndarray of shape (..., I)
        Coefficients u of the samples.

    Returns
    -------
    sparsity : ndarray of shape (...)
        Values in [0, 1]; NaN, because undefined, where no concept is on and if I is 1.
    """
    u = np.abs(np.asarray(coefficients, np.float64))
    largest = u.max(axis=-1, keepdims=True)
    # Coefficients are divided by the largest one, so that squares neither overflow nor vanish.
    u = np.divide(u, largest, out=np.zeros_like(u), where=largest > 0)
    length = np.sqrt(np.square(u).sum(axis=-1))
    root = np.sqrt(u.shape[-1])
    defined = (length > 0) & (root > 1)
    ratio = np.divide(u.sum(axis=-1), length, out=np.zeros_like(length), where=defined)
    return np.where(defined, np.clip((root - ratio) / max(root - 1, 1e-12), 0.0, 1.0), np.nan)


def l0(coefficients: Array) -> Array:
    """Count the concepts that are on in each sample, in [0, I].

    A concept is on if |u_i| is above 1e-3 of the largest |u_i| of that concept over all samples.

    Parameters
    ----------
    coefficients : ndarray of shape (..., I)
        Coefficients u of the samples.

    Returns
    -------
    counts : ndarray of shape (...), int
    """
    u = np.abs(np.asarray(coefficients, np.float64))
    largest = u.max(axis=tuple(range(u.ndim - 1)))
    return np.asarray((u > NEGLIGIBLE * largest).sum(axis=-1))


def dead_concepts(coefficients: Array, dictionary: Array) -> Array:
    """Return which concepts contribute almost nothing to any sample; fewer are better.

    A concept is dead if its largest |u_i| ‖d_i‖ over the samples is at most 1e-3 of that of the
    strongest concept.

    Parameters
    ----------
    coefficients : ndarray of shape (..., I)
        Coefficients u of the samples.
    dictionary : ndarray of shape (I, D)
        The concept bank with which the coefficients are multiplied; its rows are d_i.

    Returns
    -------
    dead : ndarray of shape (I,), bool
    """
    largest = np.abs(as_positions(np.asarray(coefficients, np.float64))).max(axis=0)
    added = largest * np.linalg.norm(dictionary, axis=1)
    return np.asarray(added <= NEGLIGIBLE * added.max())


def oriented(dictionary: Array, coefficients: Array) -> Array:
    """Change the sign of the directions whose coefficients are mostly negative.

    `ood_score` and `plausibility` depend on the signs of the directions.

    Parameters
    ----------
    dictionary : ndarray of shape (I, D)
    coefficients : ndarray of shape (..., I)
        Coefficients of the samples; `main_signs` decides which are mostly negative.

    Returns
    -------
    dictionary : ndarray of shape (I, D)
    """
    return main_signs(coefficients)[:, None] * dictionary


def main_signs(coefficients: Array) -> Array:
    """Return −1 for the concepts whose coefficients are mostly negative, and 1 for the others.

    The sign is that of Σ u³ over the samples. For centred coefficients, it is the sign of the
    longer tail of their distribution.

    Parameters
    ----------
    coefficients : ndarray of shape (..., I)
        Coefficients u of the samples.

    Returns
    -------
    signs : ndarray of shape (I,)
    """
    u = as_positions(np.asarray(coefficients, np.float64))
    tail = np.power(u / max(np.abs(u).max(), 1e-300), 3).sum(axis=0)
    return np.where(tail < 0, -1.0, 1.0)


# ------------------------------------------------------------------------------ data and classes


def ood_score(dictionary: Array, activations: Array) -> float:
    """Compute 1 − (1/I) Σ_i max_j cos(d_i, x_j), in [0, 2]; lower is better.

    The score is 0 if every direction is parallel to a sample, and 1 if all directions are
    orthogonal to the data. T. Fel et al., "Archetypal SAE", ICML 2025.

    Parameters
    ----------
    dictionary : ndarray of shape (I, D)
        Directions d_i with the sign with which they are used: see `oriented`.
    activations : ndarray of shape (..., D)
        Samples x_j. If the decoding has a constant part, such as the mean in PCA, subtract it.

    Returns
    -------
    score : float
        Value in [0, 2].
    """
    nearest = np.full(len(dictionary), -1.0)
    for rows in iter_blocks(as_positions(activations), _ROWS):
        nearest = np.maximum(nearest, cosines(rows, dictionary).max(axis=0))
    return float(1.0 - np.minimum(nearest, 1.0).mean())


def plausibility(dictionary: Array, head_directions: Array) -> float:
    """Compute (1/K) Σ_k max_i cos(head_k, d_i), in [−1, 1]; higher is better.

    The score is 1 if the weights of every class are among the directions. T. Fel et al.,
    "Archetypal SAE", ICML 2025.

    Parameters
    ----------
    dictionary : ndarray of shape (I, D)
        Directions d_i with the sign with which they are used: see `oriented`.
    head_directions : ndarray of shape (K, D)
        The weights of one class per row: the transposed kernel of a linear head on pooled features.

    Returns
    -------
    score : float
        Value in [−1, 1].
    """
    return float(np.minimum(cosines(head_directions, dictionary).max(axis=1), 1.0).mean())


# ------------------------------------------------------------------------------ filters and signals


def cross_talk(filters: Array, signals: Array) -> float:
    """Compute the mean of |w̄_iᵀ s̄_j| over i ≠ j, in [0, 1]; lower is better.

    It measures how strongly a filter responds to the signals of other concepts. w̄_i and s̄_j are
    the filters and the signal vectors, scaled to unit length.

    Parameters
    ----------
    filters : ndarray of shape (I, D)
        Decoding directions w_i.
    signals : ndarray of shape (I, D)
        Encoding directions ŝ_i, in the same order.

    Returns
    -------
    cross_talk : float
        Value in [0, 1]; NaN for a single concept.
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
    """Compute every metric of a dictionary and of its coefficients.

    Parameters
    ----------
    encoding : ndarray of shape (I, D)
        Directions along which the features change with the concepts.
    bank : ndarray of shape (I, D)
        Concept bank: row b_i is added to the features per unit of coefficient u_i. The sparsity is
        that of u_i ‖b_i‖.
    coefficients : ndarray of shape (P, I)
        Coefficients u of P positions.
    features : ndarray of shape (P, D)
        Features of these positions minus the constant that decoding adds, such as the mean in PCA.
    head_rows : ndarray of shape (K, D), optional
        Class weights of a linear head. None: plausibility is left out.
    filters : ndarray of shape (I, D), optional
        Decoding directions. None: cross-talk is left out.

    Returns
    -------
    values : dict of str to ndarray of shape ()
        One figure per key of `registry.METRICS`; NaN where a metric is undefined.
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
    """Return the entries off the diagonal of a square matrix (I, I), (I · (I − 1),)."""
    return square[~np.eye(len(square), dtype=bool)]
