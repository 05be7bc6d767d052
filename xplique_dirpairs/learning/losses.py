"""The losses, one function each, in the symbols of the paper, and the penalty of constraints.

Every loss accepts any number of leading axes (restarts are learned side by side along one of them)
and returns a tensor whose shape is these leading axes. ``log_y`` of shape ``(..., P, I)`` is the
natural logarithm of the detections y = σ(Wᵀx − b), for P positions and I concepts; logarithms are
used because the detections of sharp detectors underflow. Entropies are in bits. Means are taken
over the positions that are passed. The sparsity bound is not a mean: it takes a function that
averages its sums over the replicas that share a batch.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf

from xplique_dirpairs.core.types import Array
from xplique_dirpairs.learning.signals import Average, damped_inverse

#: Factor by which a constraint's weight μ grows while its bound stays violated, and its maximum.
_GROWTH, _LARGEST_WEIGHT = 1.3, 100.0

_BITS = 1.0 / np.log(2.0)


@tf.custom_gradient
def log_detections(logits: tf.Tensor) -> tuple[tf.Tensor, Any]:
    """Compute log y = log σ(z) in two thirds of the time of `tf.math.log_sigmoid` [measured].

    The formula is min(z, 0) − log(1 + exp(−|z|)). Using log(1 + e) instead of log1p(e) costs less
    precision than rounding 1 + y does, and no loss divides by the result.

    Parameters
    ----------
    logits : tf.Tensor of any shape
        z.

    Returns
    -------
    log_y : tf.Tensor of the same shape
    """
    log_y = tf.minimum(logits, 0.0) - tf.math.log(1.0 + tf.exp(-tf.abs(logits)))
    return log_y, lambda g: g * tf.sigmoid(-logits)


@tf.custom_gradient
def entropies_and_surprises(log_y: tf.Tensor) -> tuple[tuple[tf.Tensor, tf.Tensor], Any]:
    """Compute H(q_p) and −Σ_i q_{p,i} log2 y_{p,i} in bits, with q_p = y_p / ‖y_p‖₁.

    q is the softmax of log y. Both results are computed in one pass, and so is their gradient,
    which is written by hand [ours]: with ℓ = log y − max_i log y_i and ℓ̄ = Σ_i q_i ℓ_i,
    H = log Σ_i exp(ℓ_i) − ℓ̄ has the gradient ∂H = −q (ℓ − ℓ̄), and the second result has the
    gradient −q (ℓ − ℓ̄ + 1).

    Parameters
    ----------
    log_y : tf.Tensor of shape (..., P, I)

    Returns
    -------
    entropies, surprises : tf.Tensor of shape (..., P)
        H(q_p), and −Σ_i q_{p,i} log2 y_{p,i}.
    """
    largest = tf.reduce_max(log_y, axis=-1, keepdims=True)
    shifted = log_y - largest
    weights = tf.exp(shifted)
    ones = tf.ones((log_y.shape[-1], 1), log_y.dtype)  # a product is faster than a sum over few
    total = tf.matmul(weights, ones)
    mean = tf.matmul(weights * shifted, ones) / total
    entropies = _BITS * (tf.math.log(total) - mean)[..., 0]
    surprises = -_BITS * (largest + mean)[..., 0]

    def gradient(of_entropies: tf.Tensor, of_surprises: tf.Tensor) -> tf.Tensor:
        of_surprises = _BITS * of_surprises[..., None]
        both = _BITS * of_entropies[..., None] + of_surprises
        return weights * (shifted * (-both / total) + (both * mean - of_surprises) / total)

    return (entropies, surprises), gradient


def position_losses(log_y: tf.Tensor, per_position: int = 1) -> dict[str, tf.Tensor]:
    """Compute L^s and L^ma (both from UIBE) in one pass.

    L^s = E_p[H(q_p)], between 0 and log2 I bits, is small where each position carries few
    concepts. If every position carries n = ``per_position`` > 1 concepts, it is
    E_p[|H(q_p) − log2 n|] [ours]. L^ma = E_p[−Σ_i q_{p,i} log2 y_{p,i}] is small where each
    position carries at least one concept.

    Parameters
    ----------
    log_y : tf.Tensor of shape (..., P, I)
    per_position : int, default=1
        Number of concepts that a position carries.

    Returns
    -------
    losses : dict of str to tf.Tensor of shape (...)
        L^s as ``"s"`` and L^ma as ``"ma"``.
    """
    entropies, surprises = entropies_and_surprises(log_y)
    if per_position > 1:
        entropies = tf.abs(entropies - float(np.log2(per_position)))
    return {"s": tf.reduce_mean(entropies, axis=-1), "ma": tf.reduce_mean(surprises, axis=-1)}


def sparsity_bound(log_y: tf.Tensor, average: Average = lambda sums: sums) -> tf.Tensor:
    """Compute L^sb = R_SW({H(q_p)}_p) (EDDP), the sparsity at the worst positions.

    It is between 0 and log2 I bits. R_SW is `soft_maximum`.

    Parameters
    ----------
    log_y : tf.Tensor of shape (..., P, I)
    average : callable, optional
        Averages sums over the replicas that share a batch; the identity by default.

    Returns
    -------
    loss : tf.Tensor of shape (...)
    """
    entropies, _ = entropies_and_surprises(log_y)
    return soft_maximum(entropies, average=average)


def maximum_margin(filters: tf.Tensor) -> tf.Tensor:
    """Compute L^mm = (1/I) Σ_i 1/M_i (EDDP), the mean length of the filters.

    Parameters
    ----------
    filters : tf.Tensor of shape (..., I, D)

    Returns
    -------
    loss : tf.Tensor of shape (...)
    """
    return tf.reduce_mean(tf.norm(filters, axis=-1), axis=-1)


def activity(log_y: tf.Tensor, gamma: float) -> tf.Tensor:
    """Compute E_p[y_{p,i}^γ], the share of the positions on which each concept is active.

    Parameters
    ----------
    log_y : tf.Tensor of shape (..., P, I)
    gamma : float
        γ > 1.

    Returns
    -------
    activities : tf.Tensor of shape (..., I)
    """

    @tf.custom_gradient
    def share(log_y: tf.Tensor) -> tuple[tf.Tensor, Any]:
        # The gradient γ y^γ / P takes one pass; automatic differentiation takes three.
        powers = tf.exp(gamma * log_y)
        rate = gamma / tf.cast(tf.shape(log_y)[-2], log_y.dtype)
        return tf.reduce_mean(powers, axis=-2), lambda g: powers * (rate * g)[..., None, :]

    return share(log_y)


def inactive_classifier(activities: tf.Tensor, tau: float | tf.Tensor) -> tf.Tensor:
    """Compute L^ic = E_i[(1/ν) ReLU(ν − E_p[y^γ])] with ν = τ/I (CBE), between 0 and 1.

    Parameters
    ----------
    activities : tf.Tensor of shape (..., I)
        E_p[y^γ], from `activity`.
    tau : float or scalar tf.Tensor
        τ.

    Returns
    -------
    loss : tf.Tensor of shape (...)
    """
    nu = tau / activities.shape[-1]
    return tf.reduce_mean(tf.nn.relu(nu - activities), axis=-1) / nu


def excessively_active_classifier(activities: tf.Tensor, rho: float | tf.Tensor) -> tf.Tensor:
    """Compute L^eac = R_SW({ReLU(E_p[y^γ] − ρ) / (1 − ρ)}_i) (EDDP), between 0 and 1.

    R_SW is `soft_maximum`. ρ is capped at 0.9, because a multiple of τ/I may exceed 1 if there are
    few concepts.

    Parameters
    ----------
    activities : tf.Tensor of shape (..., I)
        E_p[y^γ], from `activity`.
    rho : float or scalar tf.Tensor
        ρ, the highest activity that costs nothing.

    Returns
    -------
    loss : tf.Tensor of shape (...)
    """
    rho = tf.minimum(tf.convert_to_tensor(rho, activities.dtype), 0.9)
    return soft_maximum(tf.nn.relu(activities - rho) / (1.0 - rho))


def filter_signal_orthogonality(cosines: tf.Tensor) -> tf.Tensor:
    """Compute L^fso = sqrt(E_{i,j}[((1 − δ_ij) w̄_iᵀs̄_j)²]) (EDDP).

    Parameters
    ----------
    cosines : tf.Tensor of shape (..., I, I)
        w̄_iᵀs̄_j, of unit filters and unit signal vectors.

    Returns
    -------
    loss : tf.Tensor of shape (...)
    """
    others = tf.linalg.set_diag(cosines, tf.zeros_like(cosines[..., 0]))
    return tf.sqrt(tf.reduce_mean(tf.square(others), axis=[-2, -1]) + 1e-12)


def soft_maximum(values: tf.Tensor, n: int = 4, average: Average = lambda sums: sums) -> tf.Tensor:
    """Compute R_SW({ℓ_k}) = Σ_k ℓ_k^{n+1} / Σ_k ℓ_k^n over the last axis; 0 if all values are 0.

    Values are divided by their maximum, and the result is multiplied by it: this changes nothing
    but prevents underflow.

    Parameters
    ----------
    values : tf.Tensor of shape (..., number of values)
        ℓ ≥ 0.
    n : int, default=4
    average : callable, optional
        Averages sums over the replicas that share a batch, so that the result is that of the values
        of all replicas; the identity by default.

    Returns
    -------
    maximum : tf.Tensor of shape (...)
    """
    largest = average(tf.stop_gradient(tf.reduce_max(values, axis=-1, keepdims=True)))
    relative = tf.math.divide_no_nan(values, largest)
    powers = relative**n
    above, below = average(
        (tf.reduce_sum(powers * relative, axis=-1), tf.reduce_sum(powers, axis=-1))
    )
    return tf.math.divide_no_nan(above, below) * largest[..., 0]


# ------------------------------------------------------------------ where the network is uncertain

# The network should be uncertain at x' = x − κ dx: features are moved towards the hyperplanes.
# Leading axes are those of the restarts, as above.


def unconstrained_displacement(x: tf.Tensor, filters: tf.Tensor, biases: tf.Tensor) -> tf.Tensor:
    """Compute dx^uur = (Wᵀ)⁺(Wᵀx − b), the shortest move onto all hyperplanes at once.

    (Wᵀ)⁺ = W(WᵀW)⁻¹. Margins cancel between the two factors, so unit filters are used.

    Parameters
    ----------
    x : tf.Tensor of shape (..., P, D)
    filters : tf.Tensor of shape (..., I, D)
    biases : tf.Tensor of shape (..., I)

    Returns
    -------
    dx : tf.Tensor of shape (..., P, D)
    """
    unit, excess = _unit_filters_and_excess(x, filters, biases)
    gram = tf.matmul(unit, unit, transpose_b=True)
    return tf.matmul(tf.matmul(excess, damped_inverse(gram), transpose_b=True), unit)


def constrained_displacement(
    x: tf.Tensor, filters: tf.Tensor, biases: tf.Tensor, signals: tf.Tensor
) -> tf.Tensor:
    """Compute dx^cur = Ŝ(WᵀŜ)⁺(Wᵀx − b), the move along signal vectors onto all hyperplanes.

    Parameters
    ----------
    x : tf.Tensor of shape (..., P, D)
    filters : tf.Tensor of shape (..., I, D)
    biases : tf.Tensor of shape (..., I)
    signals : tf.Tensor of shape (..., I, D)
        Unit signal vectors.

    Returns
    -------
    dx : tf.Tensor of shape (..., P, D)
    """
    unit, excess = _unit_filters_and_excess(x, filters, biases)
    gram = tf.matmul(unit, signals, transpose_b=True)
    return tf.matmul(tf.matmul(excess, damped_inverse(gram), transpose_b=True), signals)


def fired_displacement(x: tf.Tensor, filters: tf.Tensor, biases: tf.Tensor) -> tf.Tensor:
    """Compute dx = Σ_i ReLU(wᵢᵀx − bᵢ) wᵢ/‖wᵢ‖², a move along the detectors that fired only (CBE).

    Parameters
    ----------
    x : tf.Tensor of shape (..., P, D)
    filters : tf.Tensor of shape (..., I, D)
    biases : tf.Tensor of shape (..., I)

    Returns
    -------
    dx : tf.Tensor of shape (..., P, D)
    """
    unit, excess = _unit_filters_and_excess(x, filters, biases)
    return tf.matmul(tf.nn.relu(excess), unit)


def _unit_filters_and_excess(
    x: tf.Tensor, filters: tf.Tensor, biases: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor]:
    """Return the unit filters w̄ (..., I, D) and the distances (wᵀx − b) M (..., P, I)."""
    lengths = tf.norm(filters, axis=-1, keepdims=True)
    unit = filters / lengths
    excess = tf.matmul(x, unit, transpose_b=True) - (biases / lengths[..., 0])[..., None, :]
    return unit, excess


# ------------------------------------------------------------------ constraints


def penalty(g: tf.Tensor, multipliers: tf.Tensor, weights: tf.Tensor) -> tf.Tensor:
    """Compute the penalty Σ_c (ReLU(λ + μ g)² − λ²) / 2μ of the constraints.

    This is the augmented Lagrangian of Powell, Hestenes and Rockafellar for C constraints
    "loss ≤ bound".

    Parameters
    ----------
    g : tf.Tensor of shape (R, C)
        loss − bound; positive where a constraint is violated.
    multipliers : tf.Tensor of shape (R, C)
        λ ≥ 0.
    weights : tf.Tensor of shape (R, C)
        μ > 0.

    Returns
    -------
    penalty : tf.Tensor of shape (R,)
    """
    shifted = tf.nn.relu(multipliers + weights * g)
    return tf.reduce_sum((shifted**2 - multipliers**2) / (2.0 * weights), axis=-1)


def dual_update(
    g: Array, previous: Array, multipliers: Array, weights: Array
) -> tuple[Array, Array]:
    """Update λ ← ReLU(λ + μ g), and increase μ where g > 0 has not halved since the last update.

    Parameters
    ----------
    g : ndarray of shape (R, C)
        loss − bound for C constraints.
    previous : ndarray of shape (R, C)
        g at the last update; infinite before the first one.
    multipliers : ndarray of shape (R, C)
        λ.
    weights : ndarray of shape (R, C)
        μ.

    Returns
    -------
    multipliers, weights : ndarray of shape (R, C)
        The updated λ and μ.
    """
    raised = np.maximum(multipliers + weights * g, 0.0)
    stuck = (g > 0) & (g > 0.5 * previous)
    grown = np.where(stuck, np.minimum(weights * _GROWTH, _LARGEST_WEIGHT), weights)
    return raised, grown
