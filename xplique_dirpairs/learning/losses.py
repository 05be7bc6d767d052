"""The loss terms, one function each, in the symbols of the paper.

Every function takes any leading axes (restarts are learned side by side along one) and returns a
tensor of those axes alone. ``log_y`` are natural logarithms of the detections y = σ(Wᵀx − b), shape
``(..., P, I)`` for P positions and I concepts; logarithms, because sharp detectors underflow.
Entropies are in bits.
"""

from __future__ import annotations

import numpy as np
import tensorflow as tf

_BITS = 1.0 / np.log(2.0)


def concept_entropies(log_y: tf.Tensor) -> tf.Tensor:
    """H(q_p) in bits, (..., P), of q_p = y_p / ‖y_p‖₁ (the softmax of log y_p)."""
    log_q = tf.nn.log_softmax(log_y)
    return -_BITS * tf.reduce_sum(tf.exp(log_q) * log_q, axis=-1)


def sparsity(log_y: tf.Tensor, per_position: int = 1) -> tf.Tensor:
    """L^s = E_p[H(q_p)] (UIBE): each position should carry few concepts. 0 to log2 I bits.

    With n = ``per_position`` concepts on every position, E_p[|H(q_p) − log2 n|] [ours].
    """
    entropies = concept_entropies(log_y)
    if per_position > 1:
        entropies = tf.abs(entropies - float(np.log2(per_position)))
    return tf.reduce_mean(entropies, axis=-1)


def sparsity_bound(log_y: tf.Tensor) -> tf.Tensor:
    """L^sb = R_SW({H(q_p)}_p) (EDDP): sparsity at the worst positions. 0 to log2 I bits."""
    return soft_maximum(concept_entropies(log_y))


def maximum_activation(log_y: tf.Tensor) -> tf.Tensor:
    """L^ma = E_p[−Σ_i q_{p,i} log2 y_{p,i}] (UIBE): each position should have a concept."""
    q = tf.nn.softmax(log_y)
    return -_BITS * tf.reduce_mean(tf.reduce_sum(q * log_y, axis=-1), axis=-1)


def maximum_margin(filters: tf.Tensor) -> tf.Tensor:
    """L^mm = (1/I) Σ_i 1/M_i (EDDP), of filters (..., I, D): the mean length of the filters."""
    return tf.reduce_mean(tf.norm(filters, axis=-1), axis=-1)


def activity(log_y: tf.Tensor, gamma: float) -> tf.Tensor:
    """E_p[y_{p,i}^γ], (..., I): the share of positions each concept takes; γ > 1."""
    return tf.reduce_mean(tf.exp(gamma * log_y), axis=-2)


def inactive_classifier(activities: tf.Tensor, tau: float) -> tf.Tensor:
    """L^ic = E_i[(1/ν) ReLU(ν − E_p[y^γ])], ν = τ/I (CBE), of activities (..., I). 0 to 1."""
    nu = tau / activities.shape[-1]
    return tf.reduce_mean(tf.nn.relu(nu - activities), axis=-1) / nu


def excessively_active_classifier(activities: tf.Tensor, rho: float) -> tf.Tensor:
    """L^eac = R_SW({ReLU(E_p[y^γ] − ρ) / (1−ρ)}_i) (EDDP), of activities (..., I). 0 to 1.

    ρ is capped at 0.5: multiples of τ/I exceed 1 for few concepts, and a concept that is on most
    positions is the background [ours].
    """
    rho = min(rho, 0.5)
    return soft_maximum(tf.nn.relu(activities - rho) / (1.0 - rho))


def filter_signal_orthogonality(cosines: tf.Tensor) -> tf.Tensor:
    """L^fso = sqrt(E_{i,j}[((1−δ_ij) w̄_iᵀ s̄_j)²]) (EDDP), of the cosines w̄_iᵀs̄_j (..., I, I)."""
    others = tf.linalg.set_diag(cosines, tf.zeros_like(cosines[..., 0]))
    return tf.sqrt(tf.reduce_mean(tf.square(others), axis=[-2, -1]) + 1e-12)


def soft_maximum(values: tf.Tensor, n: int = 4) -> tf.Tensor:
    """R_SW({ℓ_k}) = Σ_k ℓ_k^{n+1} / Σ_k ℓ_k^n over the last axis, of values ≥ 0; 0 where all are 0.

    Divided and multiplied by the largest value, which changes nothing but the underflow.
    """
    largest = tf.stop_gradient(tf.reduce_max(values, axis=-1, keepdims=True))
    relative = tf.math.divide_no_nan(values, largest)
    powers = relative**n
    ratio = tf.math.divide_no_nan(
        tf.reduce_sum(powers * relative, axis=-1), tf.reduce_sum(powers, axis=-1)
    )
    return ratio * largest[..., 0]
