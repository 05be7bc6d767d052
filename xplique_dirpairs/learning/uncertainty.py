"""Features moved to the detectors' hyperplanes, where the network should be uncertain.

x' = x − κ dx with κ ~ U[0.5, 0.9]. All functions take filters and signal vectors with any leading
axes (restarts), ``(..., I, D)``, and features ``(..., P, D)``; they return dx, ``(..., P, D)``.
"""

from __future__ import annotations

import tensorflow as tf

from xplique_dirpairs.learning.signals import damped_inverse


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


def _unit_filters_and_excess(x, filters, biases):
    """w̄ (..., I, D) and (wᵀx − b) M (..., P, I)."""
    lengths = tf.norm(filters, axis=-1, keepdims=True)
    unit = filters / lengths
    excess = tf.matmul(x, unit, transpose_b=True) - (biases / lengths[..., 0])[..., None, :]
    return unit, excess
