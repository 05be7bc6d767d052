"""How classes respond to a direction: to a step along it (RCAV), or by its slope (Xplique's TCAV).

RCAV shifts every position of the features by a vector v,

    Δ_k(X, v) = log p_k(X + v) − log p_k(X)
    SC_k      = mean over images X of class k of [1(Δ_k > ε) − 1(Δ_k < −ε)]

in nats, with p by log-softmax, or by log-sigmoid where outputs are independent of each other
(Pfau et al., "Robust Semantic Interpretability: Revisiting Concept Activation Vectors", 2020;
Doumanoglou et al., arXiv 2509.23926; that ties count as 0 is ours). Two responses compute it:

- `LinearResponse` for a head that is linear in its features, pooled first or not: in closed form.
  The logits move by δ = V v, whatever the image, and Δ_k = δ_k − log Σ_j p_j(X) e^{δ_j}: the sum is
  one matrix product for all images and vectors, and nothing passes through the network.
- `PassedResponse` for any other head: one pass of the shifted features gives all classes at once.

Images count for their own class, or, without labels, for every class.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial

import keras
import numpy as np
from numpy.typing import ArrayLike
from scipy.special import log_expit, log_softmax, logsumexp
from xplique.concepts import Tcav

from xplique_dirpairs.core.batching import chunk_size, slices
from xplique_dirpairs.core.linear_algebra import unit_rows
from xplique_dirpairs.core.types import Array
from xplique_dirpairs.core.validation import (
    check_activations,
    check_float32,
    check_labels,
    check_number,
    check_type,
)
from xplique_dirpairs.models.head import Head, check_head

#: e^δ is taken in float64, which ends at e^709: for logits that move further apart the sum over the
#: classes is computed shift by shift.
WIDEST_MOVE = 600.0
#: Images that pass through the head at a time, at least and at most.
_BATCH = (64, 4096)
_TCAV_LAYER = "xplique_dirpairs_activations"


@dataclass(frozen=True, eq=False)
class Sensitivity:
    """How classes respond to directions; NaN for classes without images.

    Attributes
    ----------
    scores : ndarray of shape (I, K)
        SC, in [−1, 1]: above 0 the direction helps the class.
    changes : ndarray of shape (I, K)
        Mean Δ, in nats.
    images : ndarray of shape (K,), int
        Number of images that count for each class.
    """

    scores: Array
    changes: Array
    images: Array


def sensitivity(
    head: Head,
    activations: ArrayLike,
    labels: ArrayLike | None,
    directions: ArrayLike,
    *,
    amount: float = 5.0,
    tie: float = 1e-6,
) -> Sensitivity:
    """Compute SC and the mean Δ of directions.

    Parameters
    ----------
    head : Head
        From the layer to the classes.
    activations : array-like of shape (N, *spatial, D)
        Of the images; or (N, D), pooled, where the head pools first.
    labels : array-like of shape (N,), or None
        Class of each image; one output has two classes, no (0) and yes (1). None: all images count
        for every class.
    directions : array-like of shape (I, D)
        Signal vectors, or any others; their length does not matter.
    amount : float, default=5.0
        a, the length of the step at every position.
    tie : float, default=1e-6
        ε: |Δ| up to it counts as 0.

    Raises
    ------
    TypeError, ValueError
        If shapes do not fit, or values are not finite.
    """
    response = shift_response(head, activations, labels, tie)
    return response.statistics(shifts_along(directions, amount, np.shape(activations)[-1]))


def shifts_along(directions: ArrayLike, amount: float, channels: int) -> Array:
    """Return a ŝ/‖ŝ‖ for directions (I, D) of any length.

    Raises
    ------
    ValueError
        If there are no directions, they have another number of channels, or one is zero or not
        finite; if ``amount`` is 0 or not finite.
    """
    vectors = _check_directions(directions, channels)
    lengths = np.linalg.norm(vectors, axis=1)
    if not lengths.all():
        zero = np.flatnonzero(lengths == 0).tolist()
        raise ValueError(f"directions must not be zero, but rows {zero} are")
    check_amount(amount)
    return amount * unit_rows(vectors)


def check_amount(amount: float) -> None:
    """Raise a ValueError unless a step along a direction is a finite number other than 0."""
    if not (np.isfinite(amount) and amount != 0):
        raise ValueError(f"amount must be a number other than 0, not {amount!r}")


def shift_response(
    head: Head, activations: ArrayLike, labels: ArrayLike | None, tie: float
) -> LinearResponse | PassedResponse:
    """Return how a head's classes respond to shifts of images; arguments as of `sensitivity`."""
    x = check_activations(activations)
    check_head(head, x.shape)
    check_number("tie", tie, minimum=0.0)
    head = head.by_class(x)
    x = head.pool(x)
    # Small maps and pooled features are light: many go in one call.
    batch_size = min(_BATCH[1], chunk_size(x[0].size, _BATCH[0]))
    predict = partial(head.logits, batch_size=batch_size)
    logits = predict(x)
    if not np.isfinite(logits).all():
        raise ValueError("the head's outputs for these activations are not finite")
    ids = None if labels is None else check_labels(labels, *logits.shape)
    if head.class_rows is not None and x.ndim == 2 and head.ends_in == "linear":
        return LinearResponse(logits, ids, tie, head.class_activation, head.class_rows)
    return PassedResponse(logits, ids, tie, head.class_activation, x, predict)


def _check_directions(directions: ArrayLike, channels: int) -> Array:
    vectors = check_float32("directions", directions)
    if vectors.ndim != 2 or vectors.shape[1] != channels or not len(vectors):
        raise ValueError(
            f"directions must be (I, {channels}), with as many channels as the activations, not "
            f"{vectors.shape}"
        )
    return vectors


# ------------------------------------------------------------ responses


@dataclass(frozen=True, eq=False)
class ShiftResponse:
    """What both responses share.

    Parameters
    ----------
    logits : ndarray of shape (N, K)
        Of the intact images.
    labels : ndarray of shape (N,), int, or None
        Class of each image; None: images count for every class.
    tie : float
        |Δ| up to which the class counts as unmoved.
    final_activation : {"softmax", "sigmoid"}
    """

    logits: Array
    labels: Array | None
    tie: float
    final_activation: str

    @cached_property
    def counted(self) -> Array:
        """Which images count for which classes, (N, K) bool."""
        if self.labels is None:
            return np.ones(self.logits.shape, bool)
        return np.asarray(self.labels[:, None] == np.arange(self.logits.shape[1]))

    @cached_property
    def log_p(self) -> Array:
        """log p_k of the intact images, (N, K)."""
        return self.log_probabilities(self.logits.astype(np.float64))

    def log_probabilities(self, logits: Array) -> Array:
        """Return log p_k, (..., K)."""
        softmax = self.final_activation == "softmax"
        return np.asarray(log_softmax(logits, axis=-1) if softmax else log_expit(logits))

    def signs(self, changes: Array) -> Array:
        """Return 1(Δ > tie) − 1(Δ < −tie)."""
        return np.where(changes > self.tie, 1.0, 0.0) - (changes < -self.tie)

    def means(self, signs: Array, changes: Array) -> Sensitivity:
        """Divide sums over the images of each class, (M, K), by the number of images."""
        images = self.counted.sum(axis=0)
        count = np.where(images > 0, images, np.nan)
        return Sensitivity(signs / count, changes / count, images)


@dataclass(frozen=True, eq=False)
class LinearResponse(ShiftResponse):
    """Response of a head whose logits are linear in the features (averaged over positions, or not).

    Parameters
    ----------
    class_rows : ndarray of shape (K, D)
        V: each class's weights.
    """

    class_rows: Array

    #: Shifts in a block of noise: many, for the matrix product.
    at_once = 64
    #: Whether maps pass through the head, not features averaged over positions.
    passes_maps = False

    def statistics(self, shifts: Array, live: Array | None = None) -> Sensitivity:
        """Return SC and mean Δ of shifts (M, D), (M, K) each, for at least the ``live`` classes."""
        moves = np.asarray(shifts, np.float64) @ self.class_rows.T.astype(np.float64)
        step = chunk_size(max(self.logits.shape))
        sums = [self._sums(moves[part]) for part in slices(len(moves), step)]
        return self.means(*np.concatenate(sums, axis=1))

    def _sums(self, moves: Array) -> Array:
        """Return sums of signs and of Δ over the images of each class, (2, M, K)."""
        sums = np.empty((2, *moves.shape))
        if self.labels is not None:
            changes = self._changes_of_own_class(moves)
            for total, values in zip(sums, (self.signs(changes), changes), strict=True):
                total[:] = [np.bincount(self.labels, row, moves.shape[1]) for row in values]
        elif self.final_activation == "softmax":
            sums[:] = self._sums_over_all_images(moves)
        else:
            for m, move in enumerate(moves):
                changes = self.log_probabilities(self.logits + move) - self.log_p
                sums[:, m] = self.signs(changes).sum(axis=0), changes.sum(axis=0)
        return sums

    def _changes_of_own_class(self, moves: Array) -> Array:
        """Return Δ of each image's own class, (M, N)."""
        own = moves[:, self.labels]
        if self.final_activation == "softmax":
            return np.asarray(own - self._partition(moves))
        of_own_class = np.arange(len(self.logits)), self.labels
        after = log_expit(self.logits[of_own_class] + own)
        return np.asarray(after - self.log_p[of_own_class])

    def _sums_over_all_images(self, moves: Array) -> tuple[Array, Array]:
        """Return sums of signs and of Δ under a softmax, (M, K) each.

        Δ > tie where c < δ − tie, so that sorted c count the images for all classes at once.
        """
        partition = np.sort(self._partition(moves), axis=1)
        count = partition.shape[1]
        signs = np.empty(moves.shape)
        for row, c, move in zip(signs, partition, moves, strict=True):
            helped = np.searchsorted(c, move - self.tie, side="left")
            hurt = count - np.searchsorted(c, move + self.tie, side="right")
            row[:] = helped - hurt
        return signs, count * (moves - partition.mean(axis=1, keepdims=True))

    def _partition(self, moves: Array) -> Array:
        """Return c = log Σ_j p_j(X) e^{δ_j}, (M, N); under a softmax Δ_k = δ_k − c."""
        if np.ptp(moves, axis=1).max() > WIDEST_MOVE:
            return np.stack([logsumexp(self.log_p + move, axis=1) for move in moves])
        highest = moves.max(axis=1, keepdims=True)
        return np.asarray(np.log(np.exp(moves - highest) @ self._probabilities.T) + highest)

    @cached_property
    def _probabilities(self) -> Array:
        return np.asarray(np.exp(self.log_p))


@dataclass(frozen=True, eq=False)
class PassedResponse(ShiftResponse):
    """Response of any head, by passes of the shifted features.

    Parameters
    ----------
    features : ndarray of shape (N, *spatial, D)
        As ``predict`` takes them.
    predict : callable
        (n, *spatial, D) float32 → logits (n, K).
    """

    features: Array
    predict: Callable[[Array], Array]

    #: Few: what is passed after a test has ended is lost.
    at_once = 16

    @property
    def passes_maps(self) -> bool:
        """Whether maps pass through the head, not features averaged over positions."""
        return self.features.ndim > 2

    def statistics(self, shifts: Array, live: Array | None = None) -> Sensitivity:
        """Return SC and mean Δ of shifts (M, D), (M, K) each.

        Of ``live`` classes (K,) only: images of others are not passed through the network, and
        these classes come out as 0.
        """
        shifts = np.asarray(shifts, np.float32)
        images = np.arange(len(self.features))
        if self.labels is not None and live is not None:
            images = images[live[self.labels]]
        sums = np.zeros((2, len(shifts), self.logits.shape[1]))
        positions = [1] * (self.features.ndim - 2)
        at_once = chunk_size(max(self.features[0].size, self.logits.shape[1]))
        for part in slices(len(shifts) * len(images), at_once):
            vector, place = np.divmod(np.arange(part.start, part.stop), len(images))
            image = images[place]
            moved = self.features[image]
            moved += shifts[vector].reshape(len(image), *positions, shifts.shape[1])
            logits = np.asarray(self.predict(moved), np.float64)
            changes = self.log_probabilities(logits) - self.log_p[image]
            by_vector = (np.arange(len(shifts))[:, None] == vector).astype(np.float64)
            for total, values in zip(sums, (self.signs(changes), changes), strict=True):
                total += by_vector @ (values * self.counted[image])
        return self.means(*sums)


# ------------------------------------------------------------ slopes


def tcav_scores(
    latent_to_logit_model: keras.Model,
    activations: ArrayLike,
    labels: ArrayLike,
    directions: ArrayLike,
    *,
    batch_size: int = 64,
) -> Array:
    """Compute the share of a class's images whose output rises along a direction (Kim et al. 2018).

    By Xplique's `Tcav`, of given directions that are the same at all positions. It measures what
    the model ends in: the logit, which other classes' logits are no part of, or the probability
    where a softmax ends it, as RCAV does. Images whose output neither rises nor falls (a dead ReLU,
    a saturated softmax) count like those where it falls: 0 may mean "hurts" or "nothing".
    ``tcav_scores(…, d) − tcav_scores(…, −d)`` is signed, with ties as 0.

    Parameters
    ----------
    latent_to_logit_model : keras.Model
        Second half of `split_model`. Only this half is run, once for every direction and class.
    activations : array-like of shape (N, *spatial, D)
    labels : array-like of shape (N,)
        Class of each image; one output has two classes, no (0) and yes (1).
    directions : array-like of shape (I, D)
        Their lengths do not matter.
    batch_size : int, default=64

    Returns
    -------
    scores : ndarray of shape (I, K)
        In [0, 1]; NaN for classes without images.

    Raises
    ------
    TypeError, ValueError
        If the model is not a Keras model, or shapes do not fit.
    """
    wanted = "a keras.Model, the second half of split_model"
    check_type("latent_to_logit_model", latent_to_logit_model, keras.Model, wanted)
    x = check_activations(activations)
    vectors = _check_directions(directions, x.shape[-1])
    # Tcav watches what a layer puts out: an identity in front of the half puts out activations. In
    # float32, whatever the policy, since Tcav multiplies its gradients by the directions.
    source = keras.Input(x.shape[1:], dtype="float32")
    identity = keras.layers.Identity(name=_TCAV_LAYER, dtype="float32")
    outputs = latent_to_logit_model(identity(source))
    if outputs.shape[-1] == 1:  # "no" falls as far as "yes" rises, logit or probability
        outputs = keras.layers.Concatenate()([-outputs, outputs])
    ids = check_labels(labels, len(x), outputs.shape[-1])
    tcav = Tcav(keras.Model(source, outputs), _TCAV_LAYER, batch_size=batch_size)
    scores = np.full((len(vectors), outputs.shape[-1]), np.nan)
    for k in np.unique(ids):
        scores[:, k] = [tcav(x[ids == k], int(k), vector) for vector in vectors]
    return scores
