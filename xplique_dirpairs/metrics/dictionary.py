"""What a dictionary of concept directions is like, and its coefficients (method section 6).

A dictionary is ``(I, D)``, a direction a row. A row's length can be traded against its coefficient,
so that cosines are taken wherever two directions are compared: lengths do not count. Signs do where
data or class weights are involved: a direction that may be used both ways, as those of PCA, is
turned the way it is mostly used by `oriented` first. Zero rows have the cosine 0 with anything.

Better is: higher stability, stable rank, Hoyer sparsity, plausibility and identifiability; lower
coherence, L0, OOD score and cross-talk; fewer dead concepts.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from xplique_dirpairs.metrics.recovery import UNMATCHED, match_concepts, signal_cosines

#: Coefficients below this share of the largest one count as zero: what solvers leave over.
NEGLIGIBLE = 1e-3

#: Rows of data compared with the dictionary at once.
_ROWS_AT_ONCE = 8192

# ------------------------------------------------------------------------------ two dictionaries


def matched_cosines(a: ArrayLike, b: ArrayLike) -> NDArray:
    """|cosine| of each direction of a with its partner in b, one-to-one, the largest sum of all.

    Parameters
    ----------
    a : (I, D)
    b : (J, D)

    Returns
    -------
    cosines : (I,)
        In [0, 1]; NaN for the I − J directions left over where a is the larger.

    Raises
    ------
    ValueError
        If they are not two dictionaries of the same channels.
    """
    a, b = _check_two("a", a, "b", b)
    cosines = np.abs(signal_cosines(b, a))
    matching = match_concepts(cosines)
    partners = cosines[matching, np.arange(len(a))]
    return np.where(matching == UNMATCHED, np.nan, np.minimum(partners, 1.0))


def dictionary_stability(a: ArrayLike, b: ArrayLike) -> float:
    """Mean of `matched_cosines` over the min(I, J) pairs: higher is better, in [0, 1].

    1 for a dictionary and itself in any order, with any signs and lengths. Of unequal numbers the
    smaller dictionary is the one judged: the mean is over its directions, and what the larger has
    besides them costs nothing. By chance it is not 0, and the higher the more directions there are
    to choose from: `chance_stability`. T. Fel et al., "Archetypal SAE", ICML 2025, with signs
    resolved.
    """
    return float(np.nanmean(matched_cosines(a, b)))


def chance_stability(
    sizes: tuple[int, int],
    channels: int,
    draws: int = 10,
    random_state: int | np.random.Generator | None = None,
) -> float:
    """Stability of two dictionaries of random directions: what agreement by chance amounts to.

    Parameters
    ----------
    sizes
        Their numbers of directions, (I, J).
    channels
        D.
    draws
        Pairs of dictionaries averaged over.
    random_state
        Seed or generator.
    """
    rng = np.random.default_rng(random_state)
    pairs = [[rng.normal(size=(size, channels)) for size in sizes] for _ in range(draws)]
    return float(np.mean([dictionary_stability(a, b) for a, b in pairs]))


# ------------------------------------------------------------------------------ one dictionary


def max_coherence(dictionary: ArrayLike) -> float:
    """max_{i≠j} |cos(d_i, d_j)|: lower is better, in [0, 1]; NaN for a single direction.

    The mutual coherence: D. L. Donoho, X. Huo, 2001. 0 if orthogonal, 1 if a direction is there
    twice.
    """
    others = _off_diagonal(np.abs(_cosines(dictionary)))
    return float(others.max()) if others.size else np.nan


def mean_coherence(dictionary: ArrayLike) -> float:
    """Mean |cos(d_i, d_j)| over i ≠ j: lower is better, in [0, 1]; NaN for a single direction."""
    others = _off_diagonal(np.abs(_cosines(dictionary)))
    return float(others.mean()) if others.size else np.nan


def stable_rank(dictionary: ArrayLike) -> float:
    """‖D‖_F² / ‖D‖_2², of the directions at unit length: higher is better, in [1, min(I, D)].

    How many directions there are but for their overlap: I if orthogonal, 1 if all are parallel, 0
    if all are zero. M. Rudelson, R. Vershynin, "Sampling from large matrices", 2007; at unit length
    because the lengths of a dictionary are arbitrary.
    """
    cosines = _cosines(dictionary)
    largest = np.linalg.eigvalsh(cosines)[-1]
    return float(np.trace(cosines) / largest) if largest > 0 else 0.0


# ------------------------------------------------------------------------------ coefficients


def hoyer_sparsity(coefficients: ArrayLike) -> NDArray:
    """(√I − ‖u‖₁/‖u‖₂) / (√I − 1) of each sample: higher is better, in [0, 1].

    1 where a single concept is on, 0 where all are equally, with any signs. Of the coefficients as
    they are: concepts in units of their own make it a matter of the units, so multiply by the
    lengths of the directions first where these differ. P. O. Hoyer, "Non-negative matrix
    factorization with sparseness constraints", 2004.

    Parameters
    ----------
    coefficients : (..., I)

    Returns
    -------
    sparsity : (...)
        NaN where nothing is on, and for a single concept: sparsity is not defined there.
    """
    u = np.abs(_check_coefficients(coefficients))
    largest = u.max(axis=-1, keepdims=True)
    # relative to the largest one, so that squares neither overflow nor vanish
    u = np.divide(u, largest, out=np.zeros_like(u), where=largest > 0)
    length = np.sqrt(np.square(u).sum(axis=-1))
    root = np.sqrt(u.shape[-1])
    defined = (length > 0) & (root > 1)
    ratio = np.divide(u.sum(axis=-1), length, out=np.zeros_like(length), where=defined)
    return np.where(defined, np.clip((root - ratio) / max(root - 1, 1e-12), 0.0, 1.0), np.nan)


def l0(coefficients: ArrayLike) -> NDArray:
    """Number of concepts that are on in each sample, in [0, I]: lower is sparser.

    On: |u_i| above 1e-3 of the largest |u_i| over all samples, each concept in units of its own.

    Parameters
    ----------
    coefficients : (..., I)

    Returns
    -------
    counts : (...), int
    """
    u = np.abs(_check_coefficients(coefficients))
    largest = u.max(axis=tuple(range(u.ndim - 1)))
    return (u > NEGLIGIBLE * largest).sum(axis=-1)


def dead_concepts(coefficients: ArrayLike, dictionary: ArrayLike) -> NDArray:
    """Which concepts are never on: what they add to any sample is negligible. Fewer are better.

    Negligible: the largest |u_i| ‖d_i‖ over the samples is at most 1e-3 of that of the strongest
    concept.

    Parameters
    ----------
    coefficients : (..., I)
    dictionary : (I, D)
        The concept bank the coefficients are multiplied with.

    Returns
    -------
    dead : (I,), bool
    """
    u, dictionary = _check_coefficients(coefficients), _check("dictionary", dictionary)
    _check_concepts("coefficients", u.shape[-1], dictionary)
    largest = np.abs(u).reshape(-1, len(dictionary)).max(axis=0)
    added = largest * np.linalg.norm(dictionary, axis=1)
    return added <= NEGLIGIBLE * added.max()


def oriented(dictionary: ArrayLike, coefficients: ArrayLike) -> NDArray:
    """The directions, turned around where their coefficients are mostly negative.

    By the sign of Σ u³: by the long tail, where coefficients are centred. Changes nothing for
    coefficients ≥ 0. For `ood_score` and `plausibility`, which depend on signs.

    Parameters
    ----------
    dictionary : (I, D)
    coefficients : (..., I)

    Returns
    -------
    dictionary : (I, D)
    """
    u, dictionary = _check_coefficients(coefficients), _check("dictionary", dictionary)
    _check_concepts("coefficients", u.shape[-1], dictionary)
    tail = np.power(u.reshape(-1, len(dictionary)) / max(np.abs(u).max(), 1e-300), 3).sum(axis=0)
    return np.where(tail < 0, -1.0, 1.0)[:, None] * dictionary


# ------------------------------------------------------------------------------ data and classes


def ood_score(dictionary: ArrayLike, activations: ArrayLike) -> float:
    """1 − (1/I) Σ_i max_j cos(d_i, x_j): lower is better, in [0, 2].

    0 if every direction is that of some sample, 1 if all are orthogonal to the data. T. Fel et al.,
    "Archetypal SAE", ICML 2025.

    Parameters
    ----------
    dictionary : (I, D)
        Turned the way it is used: `oriented`.
    activations : (..., D)
        x; less the mean, or the constant of `decode`, where the directions are about it.

    Raises
    ------
    ValueError
        If the channels differ.
    """
    dictionary, x = _check("dictionary", dictionary), np.asarray(activations)
    if x.ndim < 2 or x.shape[-1] != dictionary.shape[1] or not x.size:
        raise ValueError(f"activations must be (..., {dictionary.shape[1]}), not {x.shape}")
    x = x.reshape(-1, x.shape[-1])
    nearest = np.full(len(dictionary), -1.0)
    for start in range(0, len(x), _ROWS_AT_ONCE):
        rows = x[start : start + _ROWS_AT_ONCE]
        nearest = np.maximum(nearest, signal_cosines(rows, dictionary).max(axis=0))
    return float(1.0 - np.minimum(nearest, 1.0).mean())


def plausibility(dictionary: ArrayLike, head_directions: ArrayLike) -> float:
    """(1/K) Σ_k max_i cos(head_k, d_i): higher is better, in [−1, 1].

    1 if the weights of every class are among the directions. T. Fel et al., "Archetypal SAE", ICML
    2025.

    Parameters
    ----------
    dictionary : (I, D)
        Turned the way it is used: `oriented`.
    head_directions : (K, D)
        A class's weights a row: of a linear head on pooled features, its kernel transposed.

    Raises
    ------
    ValueError
        If they are not two dictionaries of the same channels.
    """
    dictionary, heads = _check_two("dictionary", dictionary, "head_directions", head_directions)
    return float(np.minimum(signal_cosines(heads, dictionary).max(axis=1), 1.0).mean())


def threshold_accuracies(coefficients: ArrayLike, factors: ArrayLike) -> NDArray:
    """Accuracy of each concept at predicting each factor by the best threshold of all.

    Both rules count, "there if u_i > t" and "there if u_i ≤ t": a signed concept may stand for a
    factor either way.

    Parameters
    ----------
    coefficients : (..., I)
    factors : (..., F), bool
        Which are there in the same samples.

    Returns
    -------
    accuracies : (I, F)
        In [½, 1]; a constant gets the share of the commoner case, max(q, 1 − q).

    Raises
    ------
    ValueError
        If the two are not about the same samples.
    """
    u, factors = _check_coefficients(coefficients), np.asarray(factors)
    if factors.shape[:-1] != u.shape[:-1]:
        raise ValueError(
            "factors must be about the same samples as the coefficients, (..., F) for "
            f"{u.shape}, not {factors.shape}"
        )
    if not ((factors == 0) | (factors == 1)).all():
        raise ValueError("factors must be true or false, or 0 or 1")
    u, there = u.reshape(-1, u.shape[-1]), factors.reshape(-1, factors.shape[-1]).astype(bool)
    samples = len(u)
    accuracies = np.empty((u.shape[1], there.shape[1]))
    for i, values in enumerate(u.T):
        order = np.argsort(values, kind="stable")
        ordered = values[order]
        # the threshold lies below all, between two samples that differ, or above all
        cuts = np.concatenate([[0], np.flatnonzero(np.diff(ordered) > 0) + 1, [samples]])
        below = np.concatenate([np.zeros((1, there.shape[1])), np.cumsum(there[order], axis=0)])
        hits = (cuts[:, None] - below[cuts]) + (below[-1] - below[cuts])
        accuracies[i] = np.maximum(hits, samples - hits).max(axis=0) / samples
    return accuracies


def soft_identifiability(coefficients: ArrayLike, factors: ArrayLike) -> NDArray:
    """Largest of `threshold_accuracies` over the concepts, (F,) in [½, 1]: higher is better.

    1 if some concept, at some threshold, tells where the factor is. T. Fel et al., "Archetypal
    SAE", ICML 2025. A rare factor starts from 1 minus its share: compare at equal
    shares.
    """
    return threshold_accuracies(coefficients, factors).max(axis=0)


# ------------------------------------------------------------------------------ filters and signals


def cross_talk(filters: ArrayLike, signals: ArrayLike) -> float:
    """Mean of |w̄_iᵀ s̄_j| over i ≠ j, of unit vectors: lower is better, in [0, 1].

    How much of another concept's signal a filter reads; NaN for a single concept.

    Parameters
    ----------
    filters : (I, D)
        Decoding directions w_i.
    signals : (I, D)
        Encoding directions ŝ_i, in the same order.

    Raises
    ------
    ValueError
        If the shapes differ.
    """
    others = _off_diagonal(np.abs(_pair_cosines(filters, signals)))
    return float(others.mean()) if others.size else np.nan


def cross_talk_rms(filters: ArrayLike, signals: ArrayLike) -> float:
    """sqrt(E_{i,j}[((1 − δ_ij) w̄_iᵀ s̄_j)²]), over all I² pairs: lower is better, in [0, 1).

    What the learning's filter–signal orthogonality L^fso is (method section 2), without its 1e-12.
    Parameters and errors as those of `cross_talk`.
    """
    cosines = _pair_cosines(filters, signals)
    return float(np.sqrt(np.square(_off_diagonal(cosines)).sum() / cosines.size))


# ------------------------------------------------------------------------------ shared


def _cosines(dictionary: ArrayLike) -> NDArray:
    dictionary = _check("dictionary", dictionary)
    return signal_cosines(dictionary, dictionary)


def _pair_cosines(filters: ArrayLike, signals: ArrayLike) -> NDArray:
    filters, signals = _check_two("filters", filters, "signals", signals)
    _check_concepts("filters", len(filters), signals)
    return signal_cosines(filters, signals)


def _off_diagonal(square: NDArray) -> NDArray:
    return square[~np.eye(len(square), dtype=bool)]


def _check(name: str, directions: ArrayLike) -> NDArray:
    directions = np.asarray(directions, dtype=np.float64)
    if directions.ndim != 2 or not directions.size:
        raise ValueError(f"{name} must be (I, D), a direction a row, not {directions.shape}")
    if not np.isfinite(directions).all():
        raise ValueError(f"{name} must be finite")
    return directions


def _check_two(
    name: str, directions: ArrayLike, other_name: str, others: ArrayLike
) -> tuple[NDArray, NDArray]:
    directions, others = _check(name, directions), _check(other_name, others)
    if directions.shape[1] != others.shape[1]:
        raise ValueError(
            f"{name} and {other_name} must have as many channels, not {directions.shape} and "
            f"{others.shape}"
        )
    return directions, others


def _check_concepts(name: str, concepts: int, dictionary: NDArray) -> None:
    if concepts != len(dictionary):
        raise ValueError(f"{name} must be about {len(dictionary)} concepts, not {concepts}")


def _check_coefficients(coefficients: ArrayLike) -> NDArray:
    u = np.asarray(coefficients, dtype=np.float64)
    if u.ndim < 2 or not u.size:
        raise ValueError(f"coefficients must be (..., I), samples first, not {u.shape}")
    if not np.isfinite(u).all():
        raise ValueError("coefficients must be finite")
    return u
