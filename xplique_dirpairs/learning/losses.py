"""The loss terms, one function each, in the symbols of the paper, and how bounds on them enter.

Every function takes any leading axes (restarts are learned side by side along one) and returns a
tensor of those axes alone. ``log_y`` are natural logarithms of the detections y = σ(Wᵀx − b), shape
``(..., P, I)`` for P positions and I concepts; logarithms, because sharp detectors underflow.
Entropies are in bits. Means over positions are those of the positions given; the sparsity bound,
which is no mean, takes a function that averages its sums over the replicas that share a batch.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf

from xplique_dirpairs.core.types import Array
from xplique_dirpairs.learning.signals import Average, damped_inverse

#: Growth of a constraint's weight μ where its bound stays broken, and the largest weight.
_GROWTH, _LARGEST_WEIGHT = 1.3, 100.0

_BITS = 1.0 / np.log(2.0)


@tf.custom_gradient
def log_detections(logits: tf.Tensor) -> tuple[tf.Tensor, Any]:
    """log y = log σ(z), at two thirds of the time of `tf.math.log_sigmoid` [measured].

    min(z, 0) − log(1 + exp(−|z|)): what log(1 + e) loses against log1p(e) is below the rounding of
    1 + y, and no loss divides by it.
    """
    log_y = tf.minimum(logits, 0.0) - tf.math.log(1.0 + tf.exp(-tf.abs(logits)))
    return log_y, lambda g: g * tf.sigmoid(-logits)


@tf.custom_gradient
def entropies_and_surprises(log_y: tf.Tensor) -> tuple[tuple[tf.Tensor, tf.Tensor], Any]:
    """H(q_p) and −Σ_i q_{p,i} log2 y_{p,i} in bits, (..., P) each, of q_p = y_p / ‖y_p‖₁.

    q is the softmax of log y. One pass gives both, and so does its gradient, written out [ours]:
    with ℓ = log y − max and its mean ℓ̄ = Σ_i q_i ℓ_i, H = log Σ_i exp(ℓ_i) − ℓ̄, ∂H = −q (ℓ − ℓ̄),
    and the second one's is −q (ℓ − ℓ̄ + 1).
    """
    largest = tf.reduce_max(log_y, axis=-1, keepdims=True)
    shifted = log_y - largest
    weights = tf.exp(shifted)
    ones = tf.ones((log_y.shape[-1], 1), log_y.dtype)  # a product is faster than a short sum
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
    """Return L^s and L^ma (UIBE), as "s" and "ma", from one pass.

    L^s = E_p[H(q_p)], each position should carry few concepts: 0 to log2 I bits. With
    n = ``per_position`` concepts on every position, E_p[|H(q_p) − log2 n|] [ours].
    L^ma = E_p[−Σ_i q_{p,i} log2 y_{p,i}], each position should have a concept.
    """
    entropies, surprises = entropies_and_surprises(log_y)
    if per_position > 1:
        entropies = tf.abs(entropies - float(np.log2(per_position)))
    return {"s": tf.reduce_mean(entropies, axis=-1), "ma": tf.reduce_mean(surprises, axis=-1)}


def sparsity_bound(log_y: tf.Tensor, average: Average = lambda sums: sums) -> tf.Tensor:
    """L^sb = R_SW({H(q_p)}_p) (EDDP): sparsity at the worst positions. 0 to log2 I bits."""
    entropies, _ = entropies_and_surprises(log_y)
    return soft_maximum(entropies, average=average)


def maximum_margin(filters: tf.Tensor) -> tf.Tensor:
    """L^mm = (1/I) Σ_i 1/M_i (EDDP), of filters (..., I, D): the mean length of the filters."""
    return tf.reduce_mean(tf.norm(filters, axis=-1), axis=-1)


def activity(log_y: tf.Tensor, gamma: float) -> tf.Tensor:
    """E_p[y_{p,i}^γ], (..., I): the share of positions each concept takes; γ > 1."""

    @tf.custom_gradient
    def share(
        log_y: tf.Tensor,
    ) -> tuple[
        tf.Tensor, Any
    ]:  # γ y^γ / P: one pass, where differentiating step by step takes three
        powers = tf.exp(gamma * log_y)
        rate = gamma / tf.cast(tf.shape(log_y)[-2], log_y.dtype)
        return tf.reduce_mean(powers, axis=-2), lambda g: powers * (rate * g)[..., None, :]

    return share(log_y)


def inactive_classifier(activities: tf.Tensor, tau: float | tf.Tensor) -> tf.Tensor:
    """L^ic = E_i[(1/ν) ReLU(ν − E_p[y^γ])], ν = τ/I (CBE), of activities (..., I). 0 to 1."""
    nu = tau / activities.shape[-1]
    return tf.reduce_mean(tf.nn.relu(nu - activities), axis=-1) / nu


def excessively_active_classifier(activities: tf.Tensor, rho: float | tf.Tensor) -> tf.Tensor:
    """L^eac = R_SW({ReLU(E_p[y^γ] − ρ) / (1−ρ)}_i) (EDDP), of activities (..., I). 0 to 1.

    ρ is capped at 0.9: multiples of τ/I exceed 1 for few concepts.
    """
    rho = tf.minimum(tf.convert_to_tensor(rho, activities.dtype), 0.9)
    return soft_maximum(tf.nn.relu(activities - rho) / (1.0 - rho))


def filter_signal_orthogonality(cosines: tf.Tensor) -> tf.Tensor:
    """L^fso = sqrt(E_{i,j}[((1−δ_ij) w̄_iᵀ s̄_j)²]) (EDDP), of the cosines w̄_iᵀs̄_j (..., I, I)."""
    others = tf.linalg.set_diag(cosines, tf.zeros_like(cosines[..., 0]))
    return tf.sqrt(tf.reduce_mean(tf.square(others), axis=[-2, -1]) + 1e-12)


def soft_maximum(values: tf.Tensor, n: int = 4, average: Average = lambda sums: sums) -> tf.Tensor:
    """R_SW({ℓ_k}) = Σ_k ℓ_k^{n+1} / Σ_k ℓ_k^n over the last axis, of values ≥ 0; 0 where all are 0.

    Divided and multiplied by the largest value, which changes nothing but the underflow.
    ``average`` makes it that of the values of several replicas, from their sums.
    """
    largest = average(tf.stop_gradient(tf.reduce_max(values, axis=-1, keepdims=True)))
    relative = tf.math.divide_no_nan(values, largest)
    powers = relative**n
    above, below = average(
        (tf.reduce_sum(powers * relative, axis=-1), tf.reduce_sum(powers, axis=-1))
    )
    return tf.math.divide_no_nan(above, below) * largest[..., 0]


# ------------------------------------------------------------------ where the network is uncertain

# The network should be uncertain at x' = x − κ dx, features moved towards the hyperplanes. Filters
# and signal vectors (..., I, D) have any leading axes (restarts); features and dx are (..., P, D).


def unconstrained_displacement(x: tf.Tensor, filters: tf.Tensor, biases: tf.Tensor) -> tf.Tensor:
    """dx^uur = (Wᵀ)⁺(Wᵀx − b): the shortest way onto all hyperplanes at once.

    (Wᵀ)⁺ = W(WᵀW)⁻¹; margins cancel between the two factors, so unit filters are inverted.
    """
    unit, excess = _unit_filters_and_excess(x, filters, biases)
    gram = tf.matmul(unit, unit, transpose_b=True)
    return tf.matmul(tf.matmul(excess, damped_inverse(gram), transpose_b=True), unit)


def constrained_displacement(
    x: tf.Tensor, filters: tf.Tensor, biases: tf.Tensor, signals: tf.Tensor
) -> tf.Tensor:
    """dx^cur = Ŝ(WᵀŜ)⁺(Wᵀx − b): the same, moving along the (unit) signal vectors only."""
    unit, excess = _unit_filters_and_excess(x, filters, biases)
    gram = tf.matmul(unit, signals, transpose_b=True)
    return tf.matmul(tf.matmul(excess, damped_inverse(gram), transpose_b=True), signals)


def fired_displacement(x: tf.Tensor, filters: tf.Tensor, biases: tf.Tensor) -> tf.Tensor:
    """dx = Σ_i ReLU(wᵢᵀx − bᵢ) wᵢ/‖wᵢ‖²: only along detectors that fired (CBE, predecessor)."""
    unit, excess = _unit_filters_and_excess(x, filters, biases)
    return tf.matmul(tf.nn.relu(excess), unit)


def _unit_filters_and_excess(
    x: tf.Tensor, filters: tf.Tensor, biases: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor]:
    """Return w̄ (..., I, D) and (wᵀx − b) M (..., P, I)."""
    lengths = tf.norm(filters, axis=-1, keepdims=True)
    unit = filters / lengths
    excess = tf.matmul(x, unit, transpose_b=True) - (biases / lengths[..., 0])[..., None, :]
    return unit, excess


# ------------------------------------------------------------------ constraints


def penalty(g: tf.Tensor, multipliers: tf.Tensor, weights: tf.Tensor) -> tf.Tensor:
    """Σ_c (ReLU(λ + μ g)² − λ²) / 2μ over the last axis: (R, C) → (R,).

    The augmented Lagrangian of Powell, Hestenes and Rockafellar for constraints "loss ≤ bound",
    g = loss − bound ≤ 0, with a multiplier λ ≥ 0 and a weight μ > 0 for each constraint and
    restart.
    """
    shifted = tf.nn.relu(multipliers + weights * g)
    return tf.reduce_sum((shifted**2 - multipliers**2) / (2.0 * weights), axis=-1)


def dual_update(
    g: Array, previous: Array, multipliers: Array, weights: Array
) -> tuple[Array, Array]:
    """Update λ ← ReLU(λ + μ g); let μ grow where g > 0 did not halve since last time."""
    raised = np.maximum(multipliers + weights * g, 0.0)
    stuck = (g > 0) & (g > 0.5 * previous)
    grown = np.where(stuck, np.minimum(weights * _GROWTH, _LARGEST_WEIGHT), weights)
    return raised, grown
