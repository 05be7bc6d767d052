"""Response of classes to a direction: to a step along it (RCAV), or by its slope (Xplique's TCAV).

RCAV adds a vector v to the features X of an image at every position,

    Δ_k(X, v) = log p_k(X + v) − log p_k(X)
    SC_k      = mean over images X of class k of [1(Δ_k > ε) − 1(Δ_k < −ε)]

in nats, where log p is a log-softmax of the logits, or a log-sigmoid if the outputs are independent
of each other (Pfau et al., "Robust Semantic Interpretability: Revisiting Concept Activation
Vectors", 2020; Doumanoglou et al., arXiv 2509.23926; that ties up to ε count as 0 is defined by
this project). The *centred logit* of a class is its logit less the mean over classes; if outputs
are independent of each other, it is the logit itself. Its change has no ceiling, as that of log p
has, and does not depend on a constant that the softmax ignores. Two classes compute the response:

- `LinearResponse` is a closed form for a head that is linear in its features, whether it pools
  first or not. With the weights V of the classes, the logits of every image change by δ = V v, and
  Δ_k = δ_k − log Σ_j p_j(X) e^{δ_j}. The sum is one matrix product for all images and vectors, and
  nothing passes through the network. The change of centred logits is the same for all images.
- `PassedResponse` is for any other head: one pass of the shifted features gives all classes.

Each image counts for its own class or, without labels, for every class.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
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

#: Largest range of δ for which e^δ is computed at once: float64 overflows at e^709. If the logits
#: move further apart than this, the sum over the classes is computed shift by shift.
WIDEST_MOVE = 600.0
#: Least and largest number of images that pass through the head at a time.
_BATCH = (64, 4096)
_TCAV_LAYER = "xplique_dirpairs_activations"


@dataclass(frozen=True, eq=False)
class Sensitivity:
    """Response of classes to directions; NaN for classes without images.

    Attributes
    ----------
    scores : ndarray of shape (I, K)
        SC in [−1, 1]: the share of the images where a step along the direction raises the
        probability of the class, minus the share where it lowers it.
    changes : ndarray of shape (I, K)
        Mean Δ, the change of the class's log-probability by the step, in nats.
    logit_changes : ndarray of shape (I, K)
        Mean change of the centred logit by the step, in logits. For a linear head it is the same in
        every image, and known for classes without images, too.
    images : ndarray of shape (K,), int
        Number of images that count for each class.
    """

    scores: Array
    changes: Array
    logit_changes: Array
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
    """Compute SC, the mean Δ and the change of the centred logit for a step along each direction.

    Parameters
    ----------
    head : Head
        Second part of the network, from the layer to the classes.
    activations : array-like of shape (N, *spatial, D) or (N, D)
        Activations of the images; pooled activations (N, D) if the head pools first.
    labels : array-like of shape (N,), or None
        Class of each image. A network with one output has two classes, no (0) and yes (1). None:
        all images count for every class.
    directions : array-like of shape (I, D)
        Signal vectors or other directions; their length does not matter.
    amount : float, default=5.0
        Length a of the step along the direction that is taken at every position.
    tie : float, default=1e-6
        ε: values of |Δ| up to it count as 0.

    Returns
    -------
    sensitivity : Sensitivity

    Raises
    ------
    TypeError, ValueError
        If shapes do not fit, or values are not finite.
    """
    response = shift_response(head, activations, labels, tie, amount)
    return response.statistics(shifts_along(directions, amount, np.shape(activations)[-1]))


def shifts_along(directions: ArrayLike, amount: float, channels: int) -> Array:
    """Return steps of length ``amount`` along directions, (I, D).

    Parameters
    ----------
    directions : array-like of shape (I, D)
        Directions, which need not be normalised.
    amount : float
        Length of the steps; a negative amount goes against the directions.
    channels : int
        D, which the directions are checked against.

    Returns
    -------
    shifts : ndarray of shape (I, D)

    Raises
    ------
    ValueError
        If there are no directions, they do not have D channels, or one is zero or not finite; if
        ``amount`` is 0 or not finite.
    """
    vectors = _check_directions(directions, channels)
    lengths = np.linalg.norm(vectors, axis=1)
    if not lengths.all():
        zero = np.flatnonzero(lengths == 0).tolist()
        raise ValueError(f"directions must not be zero, but rows {zero} are: leave them out")
    check_amount(amount)
    return amount * unit_rows(vectors)


def check_amount(amount: float) -> None:
    """Raise a ValueError unless ``amount`` is a finite number other than 0."""
    if not (np.isfinite(amount) and amount != 0):
        raise ValueError(f"amount must be a finite number other than 0, not {amount!r}")


def shift_response(
    head: Head, activations: ArrayLike, labels: ArrayLike | None, tie: float, amount: float
) -> LinearResponse | PassedResponse:
    """Return the response of a head's classes to shifts of images: see `sensitivity`.

    That the head pools first, or is linear, is checked at the images and at steps of ``amount``.
    """
    x = check_activations(activations)
    check_head(head, x.shape)
    check_number("tie", tie, minimum=0.0)
    check_amount(amount)
    head = head.by_class(x).checked_on(x, amount)
    x = head.pool(x)
    # Small maps and pooled features need little memory: many of them pass in one call.
    batch_size = min(_BATCH[1], chunk_size(x[0].size, _BATCH[0]))
    predict = partial(head.logits, batch_size=batch_size)
    logits = predict(x)
    if not np.isfinite(logits).all():
        raise ValueError(
            "outputs of the head must be finite, but some are NaN or infinite: check the weights "
            "of the network"
        )
    ids = None if labels is None else check_labels(labels, *logits.shape)
    if head.class_rows is not None and x.ndim == 2:
        return LinearResponse(logits, ids, tie, head.class_activation, head.class_rows)
    return PassedResponse(logits, ids, tie, head.class_activation, x, predict)


def count_predicted(logits: Array, final_activation: str) -> Array:
    """Return how many images with logits (N, K) are predicted as each class, (K,) int.

    With independent outputs, an image counts for every class whose logit is above 0.
    """
    if final_activation == "sigmoid":
        return np.asarray((logits > 0).sum(axis=0))
    return np.bincount(logits.argmax(axis=1), minlength=logits.shape[1])


def _check_directions(directions: ArrayLike, channels: int) -> Array:
    """Return directions as a float32 array of shape (I, channels)."""
    vectors = check_float32("directions", directions)
    if vectors.ndim != 2 or vectors.shape[1] != channels or not len(vectors):
        raise ValueError(
            f"directions must have shape (I, {channels}), with the channels of the activations, "
            f"not {vectors.shape}"
        )
    return vectors


# ------------------------------------------------------------ responses


@dataclass(frozen=True, eq=False)
class ShiftResponse:
    """Base class of responses to shifts.

    Parameters
    ----------
    logits : ndarray of shape (N, K)
        Logits of the images before the shift.
    labels : ndarray of shape (N,), int, or None
        Class of each image; None: all images count for every class.
    tie : float
        ε: values of |Δ| up to it count as no change.
    final_activation : {"softmax", "sigmoid"}
        Function that turns logits into probabilities.
    """

    logits: Array
    labels: Array | None
    tie: float
    final_activation: str

    @cached_property
    def counted(self) -> Array:
        """Whether each image counts for each class, (N, K) bool."""
        if self.labels is None:
            return np.ones(self.logits.shape, bool)
        return np.asarray(self.labels[:, None] == np.arange(self.logits.shape[1]))

    @cached_property
    def log_p(self) -> Array:
        """log p_k of the images before the shift, (N, K)."""
        return self.log_probabilities(self.logits.astype(np.float64))

    def log_probabilities(self, logits: Array) -> Array:
        """Return log p_k of logits (..., K), of the same shape."""
        softmax = self.final_activation == "softmax"
        return np.asarray(log_softmax(logits, axis=-1) if softmax else log_expit(logits))

    def signs(self, changes: Array) -> Array:
        """Return 1(Δ > tie) − 1(Δ < −tie) of each change."""
        return np.where(changes > self.tie, 1.0, 0.0) - (changes < -self.tie)

    def centred(self, logits: Array) -> Array:
        """Return logits (..., K) minus their mean over classes; unchanged for sigmoid outputs."""
        if self.final_activation == "sigmoid":
            return logits
        return np.asarray(logits - logits.mean(axis=-1, keepdims=True))

    @cached_property
    def images(self) -> Array:
        """Number of images that count for each class, (K,) int."""
        return np.asarray(self.counted.sum(axis=0))

    @cached_property
    def predicted(self) -> Array:
        """Number of images that are predicted as each class, (K,) int."""
        return count_predicted(self.logits, self.final_activation)

    def means(self, sums: Array) -> Array:
        """Divide sums over the images of each class, (..., K), by the number of these images."""
        return np.asarray(sums / np.where(self.images > 0, self.images, np.nan))


@dataclass(frozen=True, eq=False)
class LinearResponse(ShiftResponse):
    """Response of a head whose logits are linear in the features or in their mean over positions.

    Parameters
    ----------
    class_rows : ndarray of shape (K, D)
        Weights V of the classes.
    """

    class_rows: Array

    #: Whether the head is evaluated on maps, and not on features averaged over positions.
    passes_maps = False

    def statistics(self, shifts: Array) -> Sensitivity:
        """Return the response to shifts (M, D), arrays of shape (M, K)."""
        moves = self._moves(shifts)
        step = chunk_size(max(self.logits.shape))
        sums = [self._sums(moves[part]) for part in slices(len(moves), step)]
        scores, changes = self.means(np.concatenate(sums, axis=1))
        return Sensitivity(scores, changes, self.centred(moves), self.images)

    def own_changes(self, shifts: Array, class_ids: Array) -> Array:
        """Return the change of the centred logit of each image's class (N,) by shifts, (M, N)."""
        return np.asarray(self.centred(self._moves(shifts))[:, class_ids])

    def cosines(self, shifts: Array) -> Array:
        """Return the cosine of shifts (M, D) with the centred weights of each class, (M, K)."""
        weights = self.centred(self.class_rows.astype(np.float64).T).T
        return np.asarray(unit_rows(np.asarray(shifts, np.float64)) @ unit_rows(weights).T)

    def _moves(self, shifts: Array) -> Array:
        """Return δ, the change of all images' logits by shifts (M, D), (M, K)."""
        return np.asarray(np.asarray(shifts, np.float64) @ self.class_rows.T.astype(np.float64))

    def _sums(self, moves: Array) -> Array:
        """Return sums of signs and of Δ over the images of each class, (2, M, K), for δ (M, K)."""
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
        """Return Δ of each image's own class, (M, N), for changes δ of the logits (M, K)."""
        own = moves[:, self.labels]
        if self.final_activation == "softmax":
            return np.asarray(own - self._partition(moves))
        of_own_class = np.arange(len(self.logits)), self.labels
        after = log_expit(self.logits[of_own_class] + own)
        return np.asarray(after - self.log_p[of_own_class])

    def _sums_over_all_images(self, moves: Array) -> tuple[Array, Array]:
        """Return sums of signs and of Δ over all images under a softmax, (M, K) each.

        Δ > tie is equivalent to c < δ − tie, with c from `_partition`. Therefore the images where a
        class is helped can be counted by a search in the sorted values of c.
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
        """Return c = log Σ_j p_j(X) e^{δ_j}, (M, N): under a softmax, Δ_k = δ_k − c."""
        if np.ptp(moves, axis=1).max() > WIDEST_MOVE:
            return np.stack([logsumexp(self.log_p + move, axis=1) for move in moves])
        highest = moves.max(axis=1, keepdims=True)
        return np.asarray(np.log(np.exp(moves - highest) @ self._probabilities.T) + highest)

    @cached_property
    def _probabilities(self) -> Array:
        """p_k of the images before the shift, (N, K)."""
        return np.asarray(np.exp(self.log_p))


@dataclass(frozen=True, eq=False)
class PassedResponse(ShiftResponse):
    """Response of any head, computed by passes of the shifted features.

    Parameters
    ----------
    features : ndarray of shape (N, *spatial, D)
        Features of the images as ``predict`` takes them.
    predict : callable
        A function from features (n, *spatial, D), float32, to logits (n, K).
    """

    features: Array
    predict: Callable[[Array], Array]

    @property
    def passes_maps(self) -> bool:
        """Whether the head is evaluated on maps, and not on features averaged over positions."""
        return self.features.ndim > 2

    def statistics(self, shifts: Array) -> Sensitivity:
        """Return the response to shifts (M, D), arrays of shape (M, K)."""
        sums = np.zeros((3, len(shifts), self.logits.shape[1]))
        for vector, image, logits in self._passed(shifts):
            changes = self.log_probabilities(logits) - self.log_p[image]
            moves = self.centred(logits - self.logits[image])
            by_vector = (np.arange(len(shifts))[:, None] == vector).astype(np.float64)
            for total, values in zip(sums, (self.signs(changes), changes, moves), strict=True):
                total += by_vector @ (values * self.counted[image])
        scores, changes, logit_changes = self.means(sums)
        return Sensitivity(scores, changes, logit_changes, self.images)

    def own_changes(self, shifts: Array, class_ids: Array) -> Array:
        """Return the change of the centred logit of each image's class (N,) by shifts, (M, N)."""
        own = np.empty((len(shifts), len(self.features)))
        for vector, image, logits in self._passed(shifts):
            moves = self.centred(logits - self.logits[image])
            own[vector, image] = moves[np.arange(len(image)), class_ids[image]]
        return own

    def _passed(self, shifts: Array) -> Iterator[tuple[Array, Array, Array]]:
        """Yield shift (B,), image (B,) and logits (B, K) of each pair of the two, in batches."""
        shifts = np.asarray(shifts, np.float32)
        images = len(self.features)
        positions = [1] * (self.features.ndim - 2)
        at_once = chunk_size(max(self.features[0].size, self.logits.shape[1]))
        for part in slices(len(shifts) * images, at_once):
            vector, image = np.divmod(np.arange(part.start, part.stop), images)
            moved = self.features[image]
            moved += shifts[vector].reshape(len(image), *positions, shifts.shape[1])
            yield vector, image, np.asarray(self.predict(moved), np.float64)


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

    The shares are computed by Xplique's `Tcav` for given directions that are the same at all
    positions. They refer to the output of the model: a logit, which does not depend on the logits
    of other classes, or a probability if the model ends in a softmax, as for RCAV. Images whose
    output neither rises nor falls (a dead ReLU, a saturated softmax) count as if it fell: a share
    of 0 may mean that the direction hurts or that it has no effect. The difference
    ``tcav_scores(…, d) − tcav_scores(…, −d)`` is a signed score in which ties count as 0.

    Parameters
    ----------
    latent_to_logit_model : keras.Model
        Second model of `split_model`. It is run once for every direction and class.
    activations : array-like of shape (N, *spatial, D)
        Activations of the images at the layer.
    labels : array-like of shape (N,)
        Class of each image. A model with one output has two classes, no (0) and yes (1).
    directions : array-like of shape (I, D)
        Directions, whose lengths do not matter.
    batch_size : int, default=64
        Number of activations that pass through the model at a time.

    Returns
    -------
    scores : ndarray of shape (I, K)
        Shares in [0, 1]; NaN for classes without images.

    Raises
    ------
    TypeError
        If the model is not a Keras model.
    ValueError
        If shapes do not fit, or values are not finite.
    """
    wanted = "a keras.Model, the second half of split_model"
    check_type("latent_to_logit_model", latent_to_logit_model, keras.Model, wanted)
    x = check_activations(activations)
    vectors = _check_directions(directions, x.shape[-1])
    # Tcav needs the output of a named layer: an identity layer in front of the model outputs the
    # activations. It is float32, whatever the policy, since Tcav multiplies its gradients by the
    # directions.
    source = keras.Input(x.shape[1:], dtype="float32")
    identity = keras.layers.Identity(name=_TCAV_LAYER, dtype="float32")
    outputs = latent_to_logit_model(identity(source))
    if outputs.shape[-1] == 1:  # "no" falls by as much as "yes" rises: a logit or a probability
        outputs = keras.layers.Concatenate()([-outputs, outputs])
    ids = check_labels(labels, len(x), outputs.shape[-1])
    tcav = Tcav(keras.Model(source, outputs), _TCAV_LAYER, batch_size=batch_size)
    scores = np.full((len(vectors), outputs.shape[-1]), np.nan)
    for k in np.unique(ids):
        scores[:, k] = [tcav(x[ids == k], int(k), vector) for vector in vectors]
    return scores
