"""Signed attribution of a class score to concepts, in units of the score.

A positive value means that the concept raises the score, a negative one that it lowers it. On a
head that is linear in the coefficients all four measures agree: each concept gets
u_i · ∂score/∂u_i. On an additive head all but the first agree.

| measure | cost | share of an interaction that a concept gets |
|---|---|---|
| gradient × coefficient | one gradient | its slope at the image |
| integrated gradients | ``steps`` gradients | depends on the path from all off to the image |
| Shapley values | n · (I − 1) + 2 scores for n orders | an equal share |
| leave-one-out | I + 1 scores | all of the interaction present with everything on |

The two gradient measures take the score as a function of the coefficients; the other two take the
scores of one image under the masks of a design. `metrics.importance` explains masks and designs.
Coefficients have shape (N, *S, I), where S are zero or more axes of positions.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import tensorflow as tf
from numpy.typing import ArrayLike

from xplique_dirpairs.core.types import Array
from xplique_dirpairs.core.validation import check_integer

#: Function of coefficients, a tensor (N, *S, I), that returns the class score of each image, (N,).
#: The residual of the features is kept.
Score = Callable[[tf.Tensor], tf.Tensor]


# ------------------------------------------------------------------------------ gradients


def gradient_times_coefficient(score: Score, coefficients: ArrayLike) -> Array:
    """Compute Σ_p u_{p,i} ∂score/∂u_{p,i}, the contribution of concept i by the score's slope.

    Parameters
    ----------
    score : callable
        Function of coefficients, a tensor (N, *S, I), that returns the scores (N,).
    coefficients : ndarray of shape (N, *S, I)
        The coefficients u of the images.

    Returns
    -------
    values : ndarray of shape (N, I)
        Signed contributions, summed over the positions p, in units of the score.
    """
    u = tf.convert_to_tensor(coefficients)
    return _over_positions(u * _gradient(score, u))


def integrated_gradients(
    score: Score, coefficients: ArrayLike, steps: int = 32
) -> tuple[Array, Array]:
    """Compute Σ_p u_{p,i} ∫₀¹ ∂score/∂u_{p,i} (t u) dt, from everything off to the intact image.

    This is eq. 1 of M. Sundararajan, A. Taly, Q. Yan, "Axiomatic attribution for deep networks",
    2017, applied to the coefficients with the baseline 0. The integral is computed by
    Gauss–Legendre quadrature, which is exact where the gradient along the path is a polynomial of
    degree below 2 · ``steps``. The gradient jumps where features reach a limit of the layer's range
    on the way; ``gap`` shows the resulting error.

    Parameters
    ----------
    score : callable
        Function of coefficients, a tensor (N, *S, I), that returns the scores (N,).
    coefficients : ndarray of shape (N, *S, I)
        The coefficients u of the images.
    steps : int, default=32
        Number of gradients along the path, each computed for all N images at once.

    Returns
    -------
    values : ndarray of shape (N, I)
        Signed contributions, summed over the positions p, in units of the score.
    gap : ndarray of shape (N,)
        Error of the quadrature, Σ_i values − (score(intact) − score(all off)); ideally 0.
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
    """Return the gradient of each image's score with respect to its coefficients, (N, *S, I)."""
    with tf.GradientTape() as tape:
        tape.watch(u)
        scores = score(u)
    return tape.gradient(scores, u)


def _over_positions(maps: tf.Tensor) -> Array:
    """Return the sums of maps (N, *S, I) over the positions, (N, I)."""
    values = np.asarray(maps, np.float64)
    return np.asarray(values.sum(axis=tuple(range(1, values.ndim - 1))))


# ------------------------------------------------------------------------------ Shapley values


def permutation_design(
    number_of_concepts: int,
    nb_permutations: int,
    random_state: int | np.random.Generator | None = None,
) -> Array:
    """Return masks that switch concepts on one by one in random orders, for `shapley_values`.

    Every second order is the reverse of the one before it (antithetic sampling), so that a concept
    that comes early in one comes late in the other: R. Mitchell et al., "Sampling permutations for
    Shapley value estimation", JMLR 2022.

    Parameters
    ----------
    number_of_concepts : int
        Number of concepts, I.
    nb_permutations : int
        Number of orders, n: even, and at least 4, because standard errors need two pairs.
    random_state : int, Generator or None, default=None
        Seed or generator of the orders.

    Returns
    -------
    masks : ndarray of shape (2 + n · (I − 1), I), float32
        Zeros and ones: all concepts off, all on, and then the I − 1 steps in between of each order.

    Raises
    ------
    ValueError
        If ``nb_permutations`` is not an integer, or is odd or below 4.
    """
    check_integer("nb_permutations", nb_permutations, minimum=4)
    if nb_permutations % 2:
        raise ValueError(f"nb_permutations must be even, for pairs, not {nb_permutations}")
    rng = np.random.default_rng(random_state)
    half = np.tile(np.arange(number_of_concepts), (nb_permutations // 2, 1))
    forwards = rng.permuted(half, axis=1)
    ranks = np.stack([forwards, number_of_concepts - 1 - forwards], axis=1)
    ranks = ranks.reshape(nb_permutations, 1, number_of_concepts)
    between = ranks < np.arange(1, number_of_concepts)[:, None]
    ends = np.repeat([[False], [True]], number_of_concepts, axis=1)
    return np.concatenate([ends, between.reshape(-1, number_of_concepts)]).astype(np.float32)


def shapley_values(scores: ArrayLike, masks: Array) -> tuple[Array, Array]:
    """Estimate signed Shapley values, the mean gain of the score from a concept in random orders.

        φ_i = E_order[ f(concepts before i, and i) − f(concepts before i) ]

    The estimator is that of J. Castro, D. Gómez, J. Tejada, "Polynomial calculation of the Shapley
    value based on sampling", 2009. f is the score with the named concepts on and all others off.

    The values sum to f(all on) − f(all off) for every single order, hence also on average. They are
    exact for an additive score, and for a score whose only interactions are between two concepts:
    an order and its reverse together give each of the two half of the interaction.

    Parameters
    ----------
    scores : ndarray of shape (..., 2 + n · (I − 1))
        Scores f at the masks. The leading axes may be images or classes.
    masks : ndarray of shape (2 + n · (I − 1), I)
        The masks that `permutation_design` returned for n orders.

    Returns
    -------
    values : ndarray of shape (..., I)
        Signed contributions in units of the score. They sum to score(all on) − score(all off).
    error : ndarray of shape (..., I)
        Standard errors of the values, from the spread of the pairs of orders, which are
        independent.
    """
    scores, concepts = np.asarray(scores, np.float64), masks.shape[1]
    steps = concepts - 1
    # A single concept has no masks in between: 4, the fewest orders allowed, gives two equal pairs.
    orders = (len(masks) - 2) // steps if steps else 4
    between = masks[2:].reshape(orders, steps, concepts)

    inner = scores[..., 2:].reshape(*scores.shape[:-1], orders, steps)
    off, on = (np.broadcast_to(scores[..., [row], None], (*inner.shape[:-1], 1)) for row in (0, 1))
    gains = np.diff(np.concatenate([off, inner, on], axis=-1), axis=-1)
    # A concept that is switched on in step k (from 0) is off in the first k masks in between.
    arrivals = steps - between.sum(axis=1).astype(int)
    values = np.take_along_axis(gains, np.broadcast_to(arrivals, gains.shape), axis=-1)
    pairs = values.reshape(*scores.shape[:-1], orders // 2, 2, concepts).mean(axis=-2)
    error = pairs.std(axis=-2, ddof=1) / math.sqrt(orders // 2)
    return pairs.mean(axis=-2), error
