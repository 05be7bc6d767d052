"""Switching concepts off, and the network's predictions with these concepts off.

Concepts are switched off in coefficient space by masks m in [0, 1]^I, and the residual is kept:

    x' = clip(x − ((1 − m) ⊙ u) B, low, high)          m = 1: intact; m = 0: every concept off

Here x are the features, u their coefficients and B is the concept bank. Every extractor therefore
starts from the network's own output, and no manipulation can leave the layer's range.

A network ends in a softmax (its classes exclude one another) or in sigmoids (every output is an
independent yes or no; a single output is a two-class network). Measures of independent outputs are
averaged over the outputs. Predictions are computed in float64 from log-probabilities, so that no
probability is rounded to 0.
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
    """Predictions for N images, each under M masks that switch concepts off.

    Attributes
    ----------
    logits : ndarray of shape (N, M)
        Logit of the image's class.
    probabilities : ndarray of shape (N, M)
        Probability of the image's class.
    entropies : ndarray of shape (N, M)
        Entropy of the prediction over all classes, in bits: see `entropy_bits`.
    changed : ndarray of shape (N, M)
        Change of the features x, ‖x' − x‖_F / ‖x‖_F; NaN for an image whose features are all 0.
    """

    logits: Array
    probabilities: Array
    entropies: Array
    changed: Array


@dataclass(frozen=True, eq=False)
class Reading:
    """The coefficients that an extractor reads in N images, and the network's second half.

    Parameters
    ----------
    activations : ndarray of shape (N, *S, D)
        Features x at the layer, stored in float32; S are zero, one or two axes of positions.
    coefficients : ndarray of shape (N, *S, I)
        Coefficients u = encode(x), of either sign.
    bank : ndarray of shape (I, D)
        Concept bank B, with decode(u') − decode(u) = (u' − u) B.
    predict : callable
        Function of features (n, *S, D) float32 that returns logits (n, K) as a numpy array.
    class_ids : ndarray of shape (N,), int
        For each image, the class whose score is measured.
    limits : tuple of float or ndarray of shape (D,)
        Lower and upper limit of the layer's range; ±inf if there is none. The activations must lie
        within the limits.
    final_activation : {"softmax", "sigmoid"}, default="softmax"
        "sigmoid" if the network's outputs are independent of one another. The class of a network
        with a single output is 0.

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
        """Number of images, N."""
        return len(self.activations)

    @property
    def number_of_concepts(self) -> int:
        """Number of concepts, I."""
        return len(self.bank)

    def part(self, images: slice) -> Reading:
        """Return the reading of a slice of the images."""
        return replace(
            self,
            activations=self.activations[images],
            coefficients=self.coefficients[images],
            class_ids=self.class_ids[images],
        )

    def logits(self, features: Array) -> Array:
        """Return the network's logits (n, K) for features (n, *S, D).

        Raises
        ------
        ValueError
            If the logits are not finite.
        """
        parts = [self.predict(features[rows]) for rows in self.chunks(len(features))]
        logits = np.concatenate(parts)
        if not np.isfinite(logits).all():
            raise ValueError("the network's logits are not finite: check its weights and images")
        return logits

    @cached_property
    def norms(self) -> Array:
        """Norm ‖x‖_F of the features of every image, (N,)."""
        return _norms(self.activations)

    @cached_property
    def intact_logits(self) -> Array:
        """Logits for the unchanged features, (N, K)."""
        return self.logits(self.activations)

    @cached_property
    def intact(self) -> Outcomes:
        """`Outcomes` for the unchanged features, with arrays of shape (N, 1)."""
        changed = np.where(self.norms == 0, np.nan, 0.0)[:, None]
        return _outcomes(self, self.intact_logits, np.arange(self.number_of_images), changed)

    @cached_property
    def all_off(self) -> Outcomes:
        """`Outcomes` with every concept off, with arrays of shape (N, 1)."""
        return outcomes(self, np.zeros((1, self.number_of_concepts)))

    def chunks(self, count: int) -> Iterator[Array]:
        """Yield the indices 0 to count − 1 in parts whose features fit in one chunk of memory."""
        for part in slices(count, chunk_size(self.activations[0].size)):
            yield np.arange(part.start, part.stop)


def outcomes(reading: Reading, masks: ArrayLike) -> Outcomes:
    """Compute the network's predictions with concepts switched off by masks.

    Parameters
    ----------
    reading : Reading
        The coefficients that the extractor reads in the images, and the network's second half.
    masks : ndarray of shape (M, I) or (N, M, I)
        Values in [0, 1] for each concept, from 0 (off) to 1 (on): M masks for all images, or M
        masks for each image.

    Returns
    -------
    outcomes : Outcomes
        Arrays of shape (N, M).

    Raises
    ------
    ValueError
        If the network's logits are not finite.
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

    The mass is ‖x° − clip(x°)‖₁ / ‖x‖₁ with x° = x − u B. It is relative to the intact features x,
    so that extractors can be compared. At a ReLU layer it is the mass of the negative features.

    Parameters
    ----------
    reading : Reading
        The coefficients that the extractor reads in the images.

    Returns
    -------
    mass : ndarray of shape (N,)
        Values ≥ 0, which exceed 1 if x° lies far outside the range; NaN for an image whose features
        are all 0.
    """
    mass = np.full(reading.number_of_images, np.nan)
    for image in reading.chunks(reading.number_of_images):
        x = reading.activations[image]
        moved = _moved(reading, x, image, np.ones((len(image), 1), np.float32))
        outside = np.subtract(moved, np.clip(moved, *reading.limits), out=moved)
        mass[image] = _ratio(_masses(outside), _masses(x))
    return mass


def _moved(reading: Reading, x: Array, image: Array, off: Array) -> Array:
    """Return features x − (off ⊙ u) B (n, *S, D) without clipping, for off (n, I) or (n, 1)."""
    off = off.reshape(len(image), *[1] * (x.ndim - 2), off.shape[-1])
    taken = reading.coefficients[image] * off
    step: Array = (as_positions(taken) @ reading.bank).reshape(x.shape)
    return np.subtract(x, step, out=step)


def _outcomes(reading: Reading, logits: Array, image: Array, changed: Array) -> Outcomes:
    """Return outcomes in the shape of ``changed``, from a row of logits for each of its entries.

    ``image`` holds the index of the image that each row of logits belongs to.
    """
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
    """Return the norm of the features (n, *S, D) of each image, (n,) float64."""
    flat = features.reshape(len(features), -1)
    # BLAS dot products need no memory for squares and are more exact than a float32 running sum.
    squares = np.matmul(flat[:, None, :], flat[:, :, None]).reshape(-1)
    return np.asarray(np.sqrt(squares.astype(np.float64)))


def _masses(features: Array) -> Array:
    """Return the sum of |x| over the features (n, *S, D) of each image, (n,) float64."""
    return np.asarray(np.abs(features).reshape(len(features), -1).sum(axis=1, dtype=np.float64))


def _ratio(above: Array, below: Array) -> Array:
    """Return above / below, or NaN where ``below`` is 0, for arrays (n,)."""
    return np.asarray(np.divide(above, below, out=np.full(len(below), np.nan), where=below > 0))


# ------------------------------------------------------------------------------ predictions


def class_probabilities(logits: ArrayLike, final_activation: str = "softmax") -> Array:
    """Compute the probability of every class from logits.

    Parameters
    ----------
    logits : array-like of shape (..., K)
        Logits.
    final_activation : {"softmax", "sigmoid"}, default="softmax"
        "sigmoid" if the outputs are independent of one another.

    Returns
    -------
    probabilities : ndarray of shape (..., K)
        Values in [0, 1].
    """
    log_p = _log_probabilities(logits, final_activation)
    return np.asarray(np.exp(log_p[..., 0, :] if final_activation == "softmax" else log_p[..., 0]))


def entropy_bits(logits: ArrayLike, final_activation: str = "softmax") -> Array:
    """Compute the entropy H(p) = − Σ_k p_k log2 p_k of predictions, in bits.

    Parameters
    ----------
    logits : array-like of shape (..., K)
        Logits.
    final_activation : {"softmax", "sigmoid"}, default="softmax"
        "sigmoid" if the outputs are independent of one another.

    Returns
    -------
    entropy : ndarray of shape (...)
        Values in [0, log2 K] for a softmax. For sigmoids, the mean two-class entropy of the
        outputs, in [0, 1].
    """
    log_p = _log_probabilities(logits, final_activation)
    return _expected_bits(log_p, -log_p)


def kl_bits(logits: ArrayLike, other: ArrayLike, final_activation: str = "softmax") -> Array:
    """Compute the divergence KL(p ‖ p̂) = Σ_k p_k log2(p_k / p̂_k) of predictions, in bits.

    Parameters
    ----------
    logits : array-like of shape (..., K)
        Logits whose probabilities are p.
    other : array-like of shape (..., K)
        Logits whose probabilities are p̂.
    final_activation : {"softmax", "sigmoid"}, default="softmax"
        "sigmoid" if the outputs are independent of one another.

    Returns
    -------
    divergence : ndarray of shape (...)
        Values ≥ 0. For sigmoids, the mean two-class divergence of the outputs.
    """
    log_p = _log_probabilities(logits, final_activation)
    log_ratio = log_p - _log_probabilities(other, final_activation)
    # At p = p̂, rounding may give a value slightly below 0.
    return np.asarray(np.maximum(_expected_bits(log_p, log_ratio), 0.0))


def agreement(logits: ArrayLike, other: ArrayLike, final_activation: str = "softmax") -> Array:
    """Return where two sets of logits predict the same class.

    Parameters
    ----------
    logits : array-like of shape (..., K)
        Logits.
    other : array-like of shape (..., K)
        Logits that they are compared with.
    final_activation : {"softmax", "sigmoid"}, default="softmax"
        "sigmoid" if the outputs are independent of one another.

    Returns
    -------
    agreement : ndarray of shape (...)
        1 where the predicted classes are the same, otherwise 0. For sigmoids, the share of the
        outputs whose probabilities are on the same side of ½.
    """
    return correct(other, predicted(logits, final_activation), final_activation)


def predicted(logits: ArrayLike, final_activation: str = "softmax") -> Array:
    """Return the class that logits predict.

    Parameters
    ----------
    logits : array-like of shape (..., K)
        Logits.
    final_activation : {"softmax", "sigmoid"}, default="softmax"
        "sigmoid" if the outputs are independent of one another.

    Returns
    -------
    predicted : ndarray of shape (...) or (..., K), int
        Index of the class. For sigmoids, 1 for each output whose probability is above ½, otherwise
        0.
    """
    values = np.asarray(logits)
    if final_activation == "softmax":
        return np.asarray(values.argmax(axis=-1))
    return (values > 0).astype(int)


def correct(logits: ArrayLike, labels: ArrayLike, final_activation: str = "softmax") -> Array:
    """Return where logits predict the label.

    Parameters
    ----------
    logits : array-like of shape (..., K)
        Logits.
    labels : array-like of shape (...) or (..., K), int
        True classes, as `predicted` returns classes.
    final_activation : {"softmax", "sigmoid"}, default="softmax"
        "sigmoid" if the outputs are independent of one another.

    Returns
    -------
    correct : ndarray of shape (...)
        1 where the predicted class is the label, otherwise 0. For sigmoids, the share of the
        outputs that equal their label.
    """
    right = (predicted(logits, final_activation) == np.asarray(labels)).astype(np.float64)
    return right if final_activation == "softmax" else np.asarray(right.mean(axis=-1))


def _log_probabilities(logits: ArrayLike, final_activation: str) -> Array:
    """Return the log-probabilities of logits (..., K).

    They have shape (..., 1, K) for a softmax, and (..., K, 2), yes and no, for sigmoids: the last
    axis is a distribution, and the one before it holds independent outputs.
    """
    values = np.asarray(logits, np.float64)
    if final_activation == "softmax":
        return np.asarray(log_softmax(values, axis=-1)[..., None, :])
    return np.stack([log_expit(values), log_expit(-values)], axis=-1)


def _expected_bits(log_p: Array, nats: Array) -> Array:
    """Return the expectation of ``nats`` in bits, averaged over independent outputs, (...)."""
    return np.asarray((np.exp(log_p) * nats).sum(axis=-1).mean(axis=-1) / np.log(2.0))
