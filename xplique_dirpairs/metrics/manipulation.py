"""Switching concepts off, and what the network predicts then.

Concepts are switched off in coefficient space and the residual is kept, by masks m in [0, 1]^I:

    x' = clip(x − ((1 − m) ⊙ u) B, low, high)          m = 1: intact; m = 0: every concept off

so every extractor starts from the network's own output, and no manipulation can leave the layer's
range.

A network ends in a softmax (classes exclude one another) or in sigmoids (every output is a yes or
no of its own; one output is a two-class network). Measures over independent outputs are averaged
over them. Predictions are computed in float64, from logarithms: no probability is rounded to 0.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import log_expit, log_softmax

from xplique_dirpairs.core.batching import as_positions, chunk_size, slices
from xplique_dirpairs.core.types import Array
from xplique_dirpairs.core.validation import check_float32


class Outcomes(NamedTuple):
    """Predictions under M masks of each of N images.

    Attributes
    ----------
    logits : ndarray of shape (N, M)
        Logit of the image's class.
    probabilities : ndarray of shape (N, M)
        Probability of that class.
    entropies : ndarray of shape (N, M)
        Entropy of the whole prediction, in bits.
    changed : ndarray of shape (N, M)
        ‖x' − x‖_F / ‖x‖_F; NaN for an image whose features are all 0.
    """

    logits: Array
    probabilities: Array
    entropies: Array
    changed: Array


@dataclass(frozen=True, eq=False)
class Reading:
    """The coefficients an extractor reads in N images, and the rest of the network.

    Parameters
    ----------
    activations : ndarray of shape (N, *S, D)
        Features x at the layer; S are zero, one or two axes of positions. Kept in float32.
    coefficients : ndarray of shape (N, *S, I)
        u = encode(x), of either sign.
    bank : ndarray of shape (I, D)
        B, the concept bank: decode(u') − decode(u) = (u' − u) B.
    predict : callable
        (n, *S, D) float32 → logits (n, K), as a numpy array.
    class_ids : ndarray of shape (N,), int
        The class whose score counts, for each image.
    limits : (low, high)
        The layer's range, numbers or arrays (D,); ±inf where it has no end. It must contain the
        activations.
    final_activation : {"softmax", "sigmoid"}, default="softmax"
        "sigmoid" where the network's outputs are independent of one another (a network with one
        output has class 0).

    Raises
    ------
    ValueError
        If activations, coefficients or the bank are not finite.
    """

    activations: Array
    coefficients: Array
    bank: Array
    predict: Callable[[Array], Array]
    class_ids: Array
    limits: tuple[ArrayLike, ArrayLike]
    final_activation: str = "softmax"

    def __post_init__(self) -> None:
        low, high = (np.asarray(limit, np.float32) for limit in self.limits)
        converted = {
            "activations": check_float32("activations", self.activations),
            "coefficients": check_float32("coefficients", self.coefficients),
            "bank": check_float32("bank", self.bank),
            "class_ids": np.asarray(self.class_ids),
            "limits": (low, high),
        }
        for name, value in converted.items():
            object.__setattr__(self, name, value)

    @property
    def number_of_images(self) -> int:
        """N."""
        return len(self.activations)

    @property
    def number_of_concepts(self) -> int:
        """I."""
        return len(self.bank)

    def part(self, images: slice) -> Reading:
        """Return the reading of some of the images."""
        return replace(
            self,
            activations=self.activations[images],
            coefficients=self.coefficients[images],
            class_ids=self.class_ids[images],
        )

    def logits(self, features: Array) -> Array:
        """Return the network's logits (n, K) of features (n, *S, D).

        Raises
        ------
        ValueError
            If they are not finite.
        """
        parts = [self.predict(features[rows]) for rows in self.chunks(len(features))]
        logits = np.concatenate(parts)
        if not np.isfinite(logits).all():
            raise ValueError("the network's logits are not finite: check its weights and images")
        return logits

    @cached_property
    def norms(self) -> Array:
        """‖x‖_F of every image, (N,)."""
        return _norms(self.activations)

    @cached_property
    def intact_logits(self) -> Array:
        """The network's own logits, (N, K)."""
        return self.logits(self.activations)

    @cached_property
    def intact(self) -> Outcomes:
        """`outcomes` of the untouched features, (N, 1) each."""
        changed = np.where(self.norms == 0, np.nan, 0.0)[:, None]
        return _outcomes(self, self.intact_logits, np.arange(self.number_of_images), changed)

    @cached_property
    def all_off(self) -> Outcomes:
        """`outcomes` with every concept off, (N, 1) each."""
        return outcomes(self, np.zeros((1, self.number_of_concepts)))

    def chunks(self, count: int) -> Iterator[Array]:
        """Yield indices 0 … count − 1 in parts whose features fit in one chunk of memory."""
        for part in slices(count, chunk_size(self.activations[0].size)):
            yield np.arange(part.start, part.stop)


def outcomes(reading: Reading, masks: ArrayLike) -> Outcomes:
    """Compute the network's predictions with concepts switched off by masks.

    Parameters
    ----------
    reading : Reading
    masks : ndarray of shape (M, I), or (N, M, I) with masks for each image
        In [0, 1]: 0 is off, 1 is on.

    Returns
    -------
    outcomes : Outcomes
        Arrays of shape (N, M).
    """
    images, concepts = reading.number_of_images, reading.number_of_concepts
    off = 1.0 - np.asarray(masks, np.float32)
    count = off.shape[-2]
    off = np.broadcast_to(off, (images, count, concepts))
    values = np.empty((len(Outcomes._fields), images * count))
    for rows in reading.chunks(images * count):
        image, mask = np.divmod(rows, count)
        x = reading.activations[image]
        moved = _moved(reading, x, image, off[image, mask])
        np.clip(moved, *reading.limits, out=moved)
        changed = _ratio(_norms(np.subtract(moved, x, out=x)), reading.norms[image])
        values[:, rows] = _outcomes(reading, reading.logits(moved), image, changed)
    return Outcomes(*values.reshape(len(values), images, count))


def all_off_negative_mass(reading: Reading) -> Array:
    """Compute the mass outside the layer's range with every concept off and nothing clipped.

    ‖x° − clip(x°)‖₁ / ‖x‖₁ with x° = x − u B: relative to the intact features, so that extractors
    can be compared. At a ReLU layer it is the mass of the negative features.

    Returns
    -------
    mass : ndarray of shape (N,)
        ≥ 0, and above 1 where the off-state is far out; NaN for an image whose features are all 0.
    """
    mass = np.full(reading.number_of_images, np.nan)
    for image in reading.chunks(reading.number_of_images):
        x = reading.activations[image]
        moved = _moved(reading, x, image, np.ones((len(image), 1), np.float32))
        outside = np.subtract(moved, np.clip(moved, *reading.limits), out=moved)
        mass[image] = _ratio(_masses(outside), _masses(x))
    return mass


def _moved(reading: Reading, x: Array, image: Array, off: Array) -> Array:
    """Return x − (off ⊙ u) B, not clipped; off (n, I) or (n, 1)."""
    off = off.reshape(len(image), *[1] * (x.ndim - 2), off.shape[-1])
    taken = reading.coefficients[image] * off
    step: Array = (as_positions(taken) @ reading.bank).reshape(x.shape)
    return np.subtract(x, step, out=step)


def _outcomes(reading: Reading, logits: Array, image: Array, changed: Array) -> Outcomes:
    """Return outcomes in the shape of ``changed``, a row of logits for the image of each."""
    kind, class_ids = reading.final_activation, reading.class_ids[image]
    row = np.arange(len(image))
    values = (
        logits[row, class_ids].astype(np.float64),
        class_probabilities(logits, kind)[row, class_ids],
        entropy_bits(logits, kind),
    )
    logit, probability, entropy = (value.reshape(changed.shape) for value in values)
    return Outcomes(logit, probability, entropy, changed)


def _norms(features: Array) -> Array:
    flat = features.reshape(len(features), -1)
    # BLAS dot products: no squares in memory, and more exact than a float32 running sum
    squares = np.matmul(flat[:, None, :], flat[:, :, None]).reshape(-1)
    return np.asarray(np.sqrt(squares.astype(np.float64)))


def _masses(features: Array) -> Array:
    return np.asarray(np.abs(features).reshape(len(features), -1).sum(axis=1, dtype=np.float64))


def _ratio(above: Array, below: Array) -> Array:
    """Return above / below; NaN where ``below`` is 0."""
    return np.asarray(np.divide(above, below, out=np.full(len(below), np.nan), where=below > 0))


# ------------------------------------------------------------------------------ predictions


def class_probabilities(logits: ArrayLike, final_activation: str = "softmax") -> Array:
    """Compute the probability of every class, (..., K), in [0, 1]."""
    log_p = _log_probabilities(logits, final_activation)
    return np.asarray(np.exp(log_p[..., 0, :] if final_activation == "softmax" else log_p[..., 0]))


def entropy_bits(logits: ArrayLike, final_activation: str = "softmax") -> Array:
    """Compute H(p) = − Σ_k p_k log2 p_k, (...,), in bits.

    In [0, log2 K] under a softmax; the mean two-class entropy, in [0, 1], under sigmoids.
    """
    log_p = _log_probabilities(logits, final_activation)
    return _expected_bits(log_p, -log_p)


def kl_bits(logits: ArrayLike, other: ArrayLike, final_activation: str = "softmax") -> Array:
    """Compute KL(p ‖ p̂) = Σ_k p_k log2(p_k / p̂_k), (...,) ≥ 0, in bits.

    p of ``logits``, p̂ of ``other``. Under sigmoids the mean two-class divergence of the outputs.
    """
    log_p = _log_probabilities(logits, final_activation)
    log_ratio = log_p - _log_probabilities(other, final_activation)
    # At p = p̂ rounding may be below 0.
    return np.asarray(np.maximum(_expected_bits(log_p, log_ratio), 0.0))


def agreement(logits: ArrayLike, other: ArrayLike, final_activation: str = "softmax") -> Array:
    """Return 1 where two predictions are of the same class, else 0, (...,).

    Under sigmoids the share of the outputs on the same side of ½.
    """
    return correct(other, predicted(logits, final_activation), final_activation)


def predicted(logits: ArrayLike, final_activation: str = "softmax") -> Array:
    """Return the class, (...,) int; under sigmoids which outputs are above ½, (..., K) int."""
    values = np.asarray(logits)
    if final_activation == "softmax":
        return np.asarray(values.argmax(axis=-1))
    return (values > 0).astype(int)


def correct(logits: ArrayLike, labels: ArrayLike, final_activation: str = "softmax") -> Array:
    """Return 1 where the prediction is the label, else 0, (...,); labels have `predicted`'s shape.

    Under sigmoids the share of the outputs that are right.
    """
    right = (predicted(logits, final_activation) == np.asarray(labels)).astype(np.float64)
    return right if final_activation == "softmax" else np.asarray(right.mean(axis=-1))


def _log_probabilities(logits: ArrayLike, final_activation: str) -> Array:
    """Return log probabilities of a softmax's classes, (..., 1, K), or of yes and no, (..., K, 2).

    The last axis is a distribution; outputs that are independent are along the one before it.
    """
    values = np.asarray(logits, np.float64)
    if final_activation == "softmax":
        return np.asarray(log_softmax(values, axis=-1)[..., None, :])
    return np.stack([log_expit(values), log_expit(-values)], axis=-1)


def _expected_bits(log_p: Array, nats: Array) -> Array:
    """Return the expectation of ``nats`` in bits, a mean over independent outputs, (...,)."""
    return np.asarray((np.exp(log_p) * nats).sum(axis=-1).mean(axis=-1) / np.log(2.0))
