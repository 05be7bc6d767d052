"""What a network predicts, from its logits: probabilities, uncertainty, agreement.

A network ends in a softmax (classes exclude one another) or in sigmoids (every output is a yes or
no of its own; one output is a two-class network). Measures over independent outputs are averaged
over them. Everything is computed in float64, from logarithms: no probability is ever rounded to 0.

Shapes: ``(..., K)`` logits.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import log_expit, log_softmax

#: What a network may end in, `Head.ends_in`'s words for it.
FINAL_ACTIVATIONS = ("softmax", "sigmoid")


def class_probabilities(logits: ArrayLike, final_activation: str = "softmax") -> NDArray:
    """Probability of every class, (..., K), in [0, 1]."""
    return np.exp(_log_yes(np.asarray(logits, np.float64), final_activation))


def entropy_bits(logits: ArrayLike, final_activation: str = "softmax") -> NDArray:
    """H(p) = − Σ_k p_k log2 p_k, (...,), in bits.

    In [0, log2 K] under a softmax; the mean two-class entropy, in [0, 1], under sigmoids.
    """
    logits = np.asarray(logits, np.float64)
    return _kl_terms(logits, None, final_activation)


def kl_bits(logits: ArrayLike, other: ArrayLike, final_activation: str = "softmax") -> NDArray:
    """KL(p ‖ p̂) = Σ_k p_k log2(p_k / p̂_k), (...,) ≥ 0, in bits; p of ``logits``, p̂ of ``other``.

    Under sigmoids the mean two-class divergence of the outputs.
    """
    logits, other = np.asarray(logits, np.float64), np.asarray(other, np.float64)
    return np.maximum(
        _kl_terms(logits, other, final_activation), 0.0
    )  # rounding is below 0 at p = p̂


def agreement(logits: ArrayLike, other: ArrayLike, final_activation: str = "softmax") -> NDArray:
    """1 where two readings predict the same class, else 0, (...,).

    Under sigmoids the share of the outputs that are on the same side of ½.
    """
    return correct(other, predicted(logits, final_activation), final_activation)


def predicted(logits: ArrayLike, final_activation: str = "softmax") -> NDArray:
    """The class, (...,) int, under a softmax; under sigmoids the outputs that say yes, (..., K)."""
    logits = np.asarray(logits)
    return logits.argmax(axis=-1) if final_activation == "softmax" else (logits > 0).astype(int)


def correct(logits: ArrayLike, labels: ArrayLike, final_activation: str = "softmax") -> NDArray:
    """1 where the prediction is the label, else 0, (...,); labels are shaped as `predicted` is.

    Under sigmoids the share of the outputs that are right.
    """
    right = (predicted(logits, final_activation) == np.asarray(labels)).astype(np.float64)
    return right if final_activation == "softmax" else right.mean(axis=-1)


def _log_yes(logits: NDArray, final_activation: str) -> NDArray:
    return log_softmax(logits, axis=-1) if final_activation == "softmax" else log_expit(logits)


def _kl_terms(logits: NDArray, other: NDArray | None, final_activation: str) -> NDArray:
    """Σ_k p_k (log2 p_k − log2 p̂_k), or without ``other`` − Σ_k p_k log2 p_k."""

    def expected(log_p: NDArray, log_other: NDArray | None) -> NDArray:
        return np.exp(log_p) * (-log_p if log_other is None else log_p - log_other) / np.log(2.0)

    yes = expected(
        _log_yes(logits, final_activation),
        None if other is None else _log_yes(other, final_activation),
    )
    if final_activation == "softmax":
        return yes.sum(axis=-1)
    no = expected(log_expit(-logits), None if other is None else log_expit(-other))
    return (yes + no).mean(axis=-1)
