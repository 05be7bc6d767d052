"""Constrained problems: the augmented Lagrangian of Powell, Hestenes and Rockafellar.

A constraint is "loss ≤ bound", g = loss − bound ≤ 0; one multiplier λ ≥ 0 and one weight μ > 0 for
each constraint and restart, arrays (R, C).
"""

from __future__ import annotations

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

_GROWTH = 1.3
_LARGEST_WEIGHT = 100.0


def penalty(g: tf.Tensor, multipliers: tf.Tensor, weights: tf.Tensor) -> tf.Tensor:
    """Σ_c (ReLU(λ + μ g)² − λ²) / 2μ over the last axis: (R, C) → (R,)."""
    shifted = tf.nn.relu(multipliers + weights * g)
    return tf.reduce_sum((shifted**2 - multipliers**2) / (2.0 * weights), axis=-1)


def dual_update(
    g: NDArray, previous: NDArray, multipliers: NDArray, weights: NDArray
) -> tuple[NDArray, NDArray]:
    """λ ← ReLU(λ + μ g); μ grows by 1.3, up to 100, where g > 0 did not halve since last time."""
    raised = np.maximum(multipliers + weights * g, 0.0)
    stuck = (g > 0) & (g > 0.5 * previous)
    grown = np.where(stuck, np.minimum(weights * _GROWTH, _LARGEST_WEIGHT), weights)
    return raised, grown
