"""A class score, divided over positions and concepts.

    s(x) = s(r) + Σ_p Σ_i c_{p,i} + gap           c_{p,i} = u_{p,i} B_i · G_p

r = x − u B has every concept off; s(r) is the residual's share, which holds the class's bias; G_p
is the mean gradient of the score along the straight path from r to x,

    G = ∫₀¹ ∇s(r + t (x − r)) dt

(M. Sundararajan, A. Taly, Q. Yan, "Axiomatic attribution for deep networks", 2017, with r as the
baseline). For a head that is linear after a global average pooling G_p = w_k / P, and the gap is 0
up to rounding. Elsewhere the path is cut into intervals, two gradients each (Gauss–Legendre). How
much an interval's gradients miss of the score's rise over it is known, and tells where to cut
further: kinks of ReLUs are found by bisection.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial

import numpy as np
import tensorflow as tf

from xplique_dirpairs.core.batching import as_positions, chunk_size, slices
from xplique_dirpairs.core.types import Array
from xplique_dirpairs.extractors.concept_layer import ConceptLayer
from xplique_dirpairs.models.head import Head

#: (n, ...) features to scores (n,) and the gradient of each, (n, ...).
ScoreAndGradient = Callable[[Array], tuple[Array, Array]]

#: Intervals of a path at first.
_INTERVALS = 8
#: Where the gradients of an interval are taken, from 0 to 1: each counts half.
_NODES = (np.polynomial.legendre.leggauss(2)[0] + 1.0) / 2.0


@dataclass(frozen=True, eq=False)
class Contributions:
    """What each position and concept of one image adds to a score.

    Attributes
    ----------
    values : ndarray of shape (*spatial, I), float64
        c, signed.
    residual : float
        s(r): the score with every concept off.
    score : float
        s(x): the network's own.
    steps : int
        Gradients taken along the path; 0 where none was needed.
    """

    values: Array
    residual: float
    score: float
    steps: int

    @property
    def by_concept(self) -> Array:
        """Sums over positions, (I,)."""
        return np.asarray(as_positions(self.values).sum(axis=0))


@dataclass(frozen=True, eq=False)
class ClassScore:
    """A class's logit, or the difference of two, as a function of a layer's features.

    Attributes
    ----------
    layer : ConceptLayer
    class_id : int
    number_of_classes : int
        K.
    against : int, optional
        The class whose logit is subtracted.
    tolerance : float, default=1e-2
        How far integrated gradients may be from the score's rise, in logits.
    max_steps : int, default=128
        Upper limit of the gradients taken: see `mean_gradient`.
    """

    layer: ConceptLayer
    class_id: int
    number_of_classes: int
    against: int | None = None
    tolerance: float = 1e-2
    max_steps: int = 128

    @cached_property
    def weights(self) -> Array:
        """The score is logits @ weights, (K,)."""
        weights = np.zeros(self.number_of_classes)
        weights[self.class_id] = 1.0
        if self.against is not None:
            weights[self.against] = -1.0
        return weights

    def contributions(self, activations: Array, coefficients: Array) -> Contributions:
        """Divide the score of one image over positions and concepts.

        Parameters
        ----------
        activations : ndarray of shape (*spatial, D)
        coefficients : ndarray of shape (*spatial, I)
        """
        layer, head = self.layer, self.layer.head
        x, u = activations.astype(np.float64), coefficients.astype(np.float64)
        bank = layer.bank.astype(np.float64)
        start, end = (head.pool(features[None])[0] for features in (x - u @ bank, x))
        residual, score = (head.few_logits(np.stack([start, end])) @ self.weights).tolist()
        rows, steps = layer.linear_rows(activations[None]), 0
        if rows is not None:
            gradient = self.weights @ rows.astype(np.float64)
        else:
            score_at = partial(score_and_gradient, head, self.weights)
            gradient, steps = mean_gradient(score_at, start, end, self.tolerance, self.max_steps)
        # a head that pools has the gradient of the mean over positions at each of them
        positions = math.prod(x.shape[:-1]) if start.ndim < x.ndim else 1
        effects = gradient @ bank.T / positions  # (I,), or (*spatial, I) for a head that takes maps
        return Contributions(u * effects, residual, score, steps)


def score_and_gradient(head: Head, weights: Array, features: Array) -> tuple[Array, Array]:
    """Return weighted logits (N,) of features as `Head.pool` leaves them, with their gradients.

    Parameters
    ----------
    head : Head
    weights : ndarray of shape (K,)
    features : ndarray of shape (N, D) or (N, *spatial, D)
    """
    scores, gradients = [], []
    for part in slices(len(features), chunk_size(features[0].size)):
        x = tf.constant(features[part], tf.float32)
        with tf.GradientTape() as tape:
            tape.watch(x)
            logits = head.logits_of(tf.cast(head.outputs(x), tf.float32))
            score = tf.linalg.matvec(logits, tf.constant(weights, tf.float32))
        scores.append(score.numpy().astype(np.float64))
        gradients.append(tape.gradient(score, x).numpy())
    return np.concatenate(scores), np.concatenate(gradients)


def parts_of_score(
    names: Sequence[str], contributions: Array, shown: Array, residual: float
) -> list[tuple[str, float]]:
    """Return names and values of the concepts shown, of all others together, of the residual.

    Parameters
    ----------
    names : sequence of I str
    contributions : ndarray of shape (I,)
    shown : ndarray of int
        Concepts, in order.
    residual : float
    """
    parts = [(names[i], float(contributions[i])) for i in shown]
    others = np.delete(contributions, shown)
    if others.size:
        parts.append((f"{others.size} others", float(others.sum())))
    return [*parts, ("residual", residual)]


# ------------------------------------------------------------ the mean gradient along a path


def mean_gradient(
    score: ScoreAndGradient, start: Array, end: Array, tolerance: float, max_steps: int
) -> tuple[Array, int]:
    """Compute G along the path from start to end, features of one image.

    Intervals are halved until neither all together nor any one of them misses more of the score's
    rise than the tolerance, or until no more gradients may be taken.

    Parameters
    ----------
    score : callable
    start, end : ndarray
        Features as ``score`` takes them, without the batch axis.
    tolerance : float
        In units of the score.
    max_steps : int
        Upper limit of the gradients; two for each of the first intervals are taken in any case.

    Returns
    -------
    gradient : ndarray
        G, of the shape of the features.
    steps : int
        Gradients taken.
    """
    edges = np.linspace(0.0, 1.0, _INTERVALS + 1)
    ends = np.stack([edges[:-1], edges[1:]])
    gradients, missed = _over_intervals(score, start, end, ends)
    steps = 2 * _INTERVALS
    while steps + 4 <= max_steps:  # halving an interval takes four
        sizes = np.abs(missed)
        if abs(missed.sum()) <= tolerance and sizes.max() <= tolerance:
            break
        worst = np.argsort(-sizes, kind="stable")
        worst = worst[sizes[worst] >= sizes.max() / 4][: (max_steps - steps) // 4]
        left, right = ends[:, worst]
        middle = (left + right) / 2.0
        halves = np.stack([np.append(left, middle), np.append(middle, right)])
        new_gradients, new_missed = _over_intervals(score, start, end, halves)
        ends = np.append(np.delete(ends, worst, axis=1), halves, axis=1)
        gradients = np.append(np.delete(gradients, worst, axis=0), new_gradients, axis=0)
        missed = np.append(np.delete(missed, worst), new_missed)
        steps += 4 * len(worst)
    return np.tensordot(ends[1] - ends[0], gradients, axes=1), steps


def _over_intervals(
    score: ScoreAndGradient, start: Array, end: Array, ends: Array
) -> tuple[Array, Array]:
    """Return mean gradients over intervals of a path, and what they miss of the score's rise.

    Parameters
    ----------
    score, start, end
        As of `mean_gradient`.
    ends : ndarray of shape (2, n)
        Ends of the intervals, from 0 (start) to 1 (end).

    Returns
    -------
    gradients : ndarray of shape (n, *features)
    missed : ndarray of shape (n,)
    """
    start, change = start.astype(np.float32), (end - start).astype(np.float32)
    lengths = ends[1] - ends[0]
    nodes = ends[0] + lengths * _NODES[:, None]
    edges, index = np.unique(ends, return_inverse=True)
    places = np.concatenate([nodes.ravel(), edges]).astype(np.float32)
    scores, gradients = score(start + places.reshape(-1, *[1] * start.ndim) * change)
    at_ends = scores[nodes.size :][index].reshape(ends.shape)
    at_nodes = gradients[: nodes.size].reshape(*nodes.shape, *start.shape)
    means = at_nodes.astype(np.float64).mean(axis=0)
    rises = lengths * (means.reshape(len(means), -1) @ change.ravel())
    return means, at_ends[1] - at_ends[0] - rises
