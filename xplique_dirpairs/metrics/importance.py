"""Importance of concepts: total Sobol indices of a class score, by Jansen's estimator.

A concept's index is the share of the score's variance that is lost when every concept but this
one is fixed (main effect and all interactions), as the concepts are dimmed by masks in [0, 1].
Unsigned: it does not say whether the concept raises or lowers the score.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import qmc

#: Scores that vary by less than this share of their size count as constant: float32 rounding.
ROUNDING = 1e-6


def sobol_design(
    number_of_concepts: int, nb_design: int, random_state: int | np.random.Generator | None = None
) -> NDArray:
    """Masks for `total_sobol_indices`: A, B, then A with column i from B, for each i.

    The points are a *scrambled* Sobol sequence: an unscrambled one (or Halton's) correlates its
    higher dimensions at few points, which falsifies the indices of more than a few concepts.

    Parameters
    ----------
    number_of_concepts
        I.
    nb_design
        n, points in A and in B.
    random_state
        Seed or generator of the scrambling.

    Returns
    -------
    masks : (n · (I + 2), I) float32
        In [0, 1).

    Raises
    ------
    ValueError
        If ``nb_design`` is below 2.
    """
    return next(sobol_designs(number_of_concepts, nb_design, random_state))


def sobol_designs(
    number_of_concepts: int, nb_design: int, random_state: int | np.random.Generator | None = None
) -> Iterator[NDArray]:
    """Endless designs as `sobol_design` gives them, each of points of its own.

    They are successive parts of one scrambled sequence: every part of 2^m points is balanced.
    """
    if isinstance(nb_design, bool) or not isinstance(nb_design, (int, np.integer)):
        raise TypeError(f"nb_design must be an integer, not {nb_design!r}")
    if nb_design < 2:
        raise ValueError(f"nb_design must be at least 2 to have a variance, not {nb_design}")
    sampler = qmc.Sobol(2 * number_of_concepts, seed=np.random.default_rng(random_state))
    index = np.arange(number_of_concepts)
    while True:
        # whole powers of two are what balances the sequence; a part of one is still usable
        points = sampler.random(2 ** math.ceil(math.log2(nb_design)))[:nb_design]
        a, b = np.split(points.astype(np.float32), 2, axis=1)
        mixed = np.repeat(a[None], number_of_concepts, axis=0)
        mixed[index, :, index] = b.T
        yield np.concatenate([a, b, mixed.reshape(-1, number_of_concepts)])


def total_sobol_indices(scores: ArrayLike, number_of_concepts: int) -> NDArray:
    """Total Sobol indices, S_i = E[(f(A) − f(C_i))²] / (2 Var f).

    M. J. W. Jansen, "Analysis of variance designs for model output", 1999, eq. for the total
    effect. The variance is that over A and B together: twice the points, same expectation.

    Parameters
    ----------
    scores : (..., n · (I + 2))
        f at the rows of `sobol_design`.
    number_of_concepts
        I.

    Returns
    -------
    indices : (..., I)
        ≥ 0; their sum is 1 for an additive f, and above with interactions. Zero where the scores
        do not vary.

    Raises
    ------
    ValueError
        If the number of scores does not fit the design.
    """
    scores = np.asarray(scores, dtype=np.float64)
    nb_design, rest = divmod(scores.shape[-1], number_of_concepts + 2)
    if rest or not nb_design:
        raise ValueError(
            f"{scores.shape[-1]} scores do not fit a design of {number_of_concepts} concepts: "
            f"a multiple of {number_of_concepts + 2} was expected"
        )
    blocks = scores.reshape(*scores.shape[:-1], number_of_concepts + 2, nb_design)
    a, mixed = blocks[..., :1, :], blocks[..., 2:, :]
    variance = blocks[..., :2, :].var(axis=(-2, -1), ddof=1)[..., None]
    squares = ((a - mixed) ** 2).mean(axis=-1) / 2
    size = np.abs(scores).max(axis=-1, keepdims=True)
    constant = variance <= (ROUNDING * size) ** 2
    return np.where(constant, 0.0, squares / np.where(constant, 1.0, variance))
