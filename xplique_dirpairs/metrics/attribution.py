"""Signed attribution of a class score to concepts, in units of the score.

Above 0 a concept raises the score, below 0 it lowers it. On a head that is linear in the
coefficients all four agree, each concept getting u_i · ∂score/∂u_i; on an additive one all but the
first do.

| measure | cost | share of an interaction that a concept gets |
|---|---|---|
| gradient × coefficient | one gradient | its slope at the image |
| integrated gradients | ``steps`` gradients | a share, by the path from all off to the image |
| Shapley values | n · (I − 1) + 2 scores | an equal share |
| leave-one-out | I + 1 scores | all of it that is present with everything on |

The gradients take the score as a function of the coefficients; the other two take the scores of one
image under the masks of their design. For masks see `metrics.importance`.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import tensorflow as tf
from numpy.typing import ArrayLike

from xplique_dirpairs.core.types import Array
from xplique_dirpairs.core.validation import check_integer

#: Coefficients (N, *S, I), a tensor, to the class score of each image (N,), residual kept.
Score = Callable[[tf.Tensor], tf.Tensor]


# ------------------------------------------------------------------------------ gradients


def gradient_times_coefficient(score: Score, coefficients: ArrayLike) -> Array:
    """Compute Σ_p u_{p,i} ∂score/∂u_{p,i}, the contribution of concept i by the slope.

    Parameters
    ----------
    score : callable
        Of a tensor (N, *S, I), as many images as there are coefficients: (N,).
    coefficients : ndarray of shape (N, *S, I)
        u.

    Returns
    -------
    values : ndarray of shape (N, I)
        Summed over the positions. Signed, in units of the score.
    """
    u = tf.convert_to_tensor(coefficients)
    return _over_positions(u * _gradient(score, u))


def integrated_gradients(
    score: Score, coefficients: ArrayLike, steps: int = 32
) -> tuple[Array, Array]:
    """Compute Σ_p u_{p,i} ∫₀¹ ∂score/∂u_{p,i} (t u) dt, from everything off to the intact image.

    M. Sundararajan, A. Taly, Q. Yan, "Axiomatic attribution for deep networks", 2017, eq. 1, in
    the coefficients and from 0. Gauss–Legendre quadrature: exact where the gradient along the path
    is a polynomial of degree below 2 · ``steps``; features that reach a limit on the way make it
    jump, which the gap shows.

    Parameters
    ----------
    score : callable
        Of a tensor (N, *S, I), as many images as there are coefficients: (N,).
    coefficients : ndarray of shape (N, *S, I)
        u.
    steps : int, default=32
        Gradients taken, one batch of N after the other.

    Returns
    -------
    values : ndarray of shape (N, I)
        Summed over the positions. Signed, in units of the score.
    gap : ndarray of shape (N,)
        Σ values − (score(intact) − score(all off)): the error of the quadrature, 0 at best.
    """
    u = tf.convert_to_tensor(coefficients)
    nodes, weights = np.polynomial.legendre.leggauss(steps)
    mean = tf.zeros_like(u)
    for node, weight in zip(nodes, weights, strict=True):
        mean += weight / 2 * _gradient(score, (node + 1) / 2 * u)
    values = _over_positions(u * mean)
    change = score(u) - score(tf.zeros_like(u))
    return values, values.sum(axis=-1) - change.numpy()


def _gradient(score: Score, u: tf.Tensor) -> tf.Tensor:
    """Return the gradient of each image's score in its own coefficients."""
    with tf.GradientTape() as tape:
        tape.watch(u)
        scores = score(u)
    return tape.gradient(scores, u)


def _over_positions(maps: tf.Tensor) -> Array:
    """Return sums over the positions of maps (N, *S, I), (N, I)."""
    values = np.asarray(maps, np.float64)
    return np.asarray(values.sum(axis=tuple(range(1, values.ndim - 1))))


# ------------------------------------------------------------------------------ Shapley values


def permutation_design(
    number_of_concepts: int,
    nb_permutations: int,
    random_state: int | np.random.Generator | None = None,
) -> Array:
    """Return masks for `shapley_values`: concepts switched on one by one, in random orders.

    Every second order is the one before it backwards (antithetic): a concept that comes early in
    one comes late in the other. R. Mitchell et al., "Sampling permutations for Shapley value
    estimation", JMLR 2022.

    Parameters
    ----------
    number_of_concepts : int
        I.
    nb_permutations : int
        n, even, and at least 4 for there to be an error estimate.
    random_state : int, Generator or None
        Seed or generator of the orders.

    Returns
    -------
    masks : ndarray of shape (2 + n · (I − 1), I) float32
        Of zeros and ones: all off, all on, and what lies between them, order after order.

    Raises
    ------
    ValueError
        If ``nb_permutations`` is odd or below 4: orders come in pairs, and one pair has no error.
    """
    check_integer("nb_permutations", nb_permutations, minimum=4)
    if nb_permutations % 2:
        raise ValueError(f"nb_permutations must be even, not {nb_permutations}: orders are paired")
    rng = np.random.default_rng(random_state)
    half = np.tile(np.arange(number_of_concepts), (nb_permutations // 2, 1))
    forwards = rng.permuted(half, axis=1)
    ranks = np.stack([forwards, number_of_concepts - 1 - forwards], axis=1)
    ranks = ranks.reshape(nb_permutations, 1, number_of_concepts)
    between = ranks < np.arange(1, number_of_concepts)[:, None]
    ends = np.repeat([[False], [True]], number_of_concepts, axis=1)
    return np.concatenate([ends, between.reshape(-1, number_of_concepts)]).astype(np.float32)


def shapley_values(scores: ArrayLike, masks: Array) -> tuple[Array, Array]:
    """Estimate signed Shapley values: the gain of the score from a concept, over random orders.

        φ_i = E_order[ f(those before i, and i) − f(those before i) ]

    J. Castro, D. Gómez, J. Tejada, "Polynomial calculation of the Shapley value based on
    sampling", 2009. A coalition's concepts are on, the others off.

    For every single order the values sum to f(all on) − f(all off), so their mean does. Exact for
    an additive score, and for one with interactions of pairs only: of a pair, each concept gets
    half in an order and its reverse together.

    Parameters
    ----------
    scores : ndarray of shape (..., 2 + n · (I − 1))
        f at the masks.
    masks : ndarray of shape (2 + n · (I − 1), I)
        Of `permutation_design`.

    Returns
    -------
    values : ndarray of shape (..., I)
        In units of the score. They sum to score(all on) − score(all off).
    error : ndarray of shape (..., I)
        Their standard errors: the spread of the pairs of orders, which are independent.
    """
    scores, concepts = np.asarray(scores, np.float64), masks.shape[1]
    steps = concepts - 1
    # A single concept has one order and nothing between: as good as the fewest orders.
    orders = (len(masks) - 2) // steps if steps else 4
    between = masks[2:].reshape(orders, steps, concepts)

    inner = scores[..., 2:].reshape(*scores.shape[:-1], orders, steps)
    off, on = (np.broadcast_to(scores[..., [row], None], (*inner.shape[:-1], 1)) for row in (0, 1))
    gains = np.diff(np.concatenate([off, inner, on], axis=-1), axis=-1)
    # a concept that arrives as the k-th is on in all masks between but the first k
    arrivals = steps - between.sum(axis=1).astype(int)
    values = np.take_along_axis(gains, np.broadcast_to(arrivals, gains.shape), axis=-1)
    pairs = values.reshape(*scores.shape[:-1], orders // 2, 2, concepts).mean(axis=-2)
    error = pairs.std(axis=-2, ddof=1) / math.sqrt(orders // 2)
    return pairs.mean(axis=-2), error
