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
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from xplique_dirpairs.core.batching import chunk_size, slices
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
        return self.values.reshape(-1, self.values.shape[-1]).sum(axis=0)


@dataclass(frozen=True, eq=False)
class ClassScore:
    """A class's logit, or the difference of two, as a function of a layer's features.

    Attributes
    ----------
    layer : ConceptLayer
    class_id : int
    against : int or None
        The class whose logit is subtracted; None for none.
    number_of_classes : int
        K.
    tolerance : float
        How far integrated gradients may be from the score's rise, in logits.
    max_steps : int
        Upper limit of the gradients taken: see `mean_gradient`.
    """

    layer: ConceptLayer
    class_id: int
    against: int | None
    number_of_classes: int
    tolerance: float
    max_steps: int

    @cached_property
    def weights(self) -> Array:
        """The score is logits @ weights, (K,)."""
        weights = np.zeros(self.number_of_classes)
        weights[self.class_id] = 1.0
        if self.against is not None:
            weights[self.against] -= 1.0
        return weights

    @cached_property
    def score_and_gradient(self) -> ScoreAndGradient:
        """The score and its gradient, for features as `Head.pool` leaves them."""
        return score_and_gradient(self.layer.head, self.weights)

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
            path = mean_gradient(
                self.score_and_gradient, start, end, self.tolerance, self.max_steps
            )
            gradient, steps = path.gradient, path.steps
        pooled = start.ndim < x.ndim
        positions = math.prod(x.shape[:-1]) if pooled else 1
        # (I,), or (*spatial, I) for a head that takes maps
        effects = gradient @ bank.T / positions
        return Contributions(u * effects, residual, score, steps)


def score_and_gradient(head: Head, weights: Array) -> ScoreAndGradient:
    """Return weighted logits (K,) of features as `Head.pool` leaves them, with their gradient."""

    def run(features: Array) -> tuple[Array, Array]:
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

    return run


# ------------------------------------------------------------ the mean gradient along a path


class MeanGradient(NamedTuple):
    """The mean gradient along a path, and how well it accounts for the score's rise.

    Attributes
    ----------
    gradient : ndarray
        G, of the shape of the features.
    gap : float
        s(end) − s(start) − G · (end − start).
    steps : int
        Gradients taken.
    """

    gradient: Array
    gap: float
    steps: int


def mean_gradient(
    score: ScoreAndGradient, start: Array, end: Array, tolerance: float, max_steps: int
) -> MeanGradient:
    """Compute G along the path from start to end, features of one image.

    Intervals are halved until neither the gap nor what any interval misses is above the tolerance,
    or ``max_steps`` gradients are taken.

    Parameters
    ----------
    score : callable
    start, end : ndarray
        Features as ``score`` takes them, without the batch axis.
    tolerance : float
        In units of the score.
    max_steps : int
        Two for each of the first intervals are taken in any case.
    """
    path = _Path(score, start, end)
    edges = np.linspace(0.0, 1.0, _INTERVALS + 1)
    intervals = path.intervals(edges[:-1], edges[1:])
    while path.steps + 2 <= max_steps:
        missed = np.abs(intervals.missed)
        if abs(intervals.missed.sum()) <= tolerance and missed.max() <= tolerance:
            break
        worst = np.argsort(-missed, kind="stable")
        worst = worst[missed[worst] >= missed.max() / 4]
        worst = worst[: max(1, (max_steps - path.steps) // (2 * len(_NODES)))]
        left, right = intervals.left[worst], intervals.right[worst]
        middle = (left + right) / 2.0
        halves = path.intervals(np.append(left, middle), np.append(middle, right))
        rest = np.setdiff1d(np.arange(len(missed)), worst)
        intervals = _Intervals(
            *(np.concatenate([old[rest], new]) for old, new in zip(intervals, halves, strict=True))
        )
    lengths = intervals.right - intervals.left
    gradient = np.tensordot(lengths, intervals.gradients, axes=1)
    return MeanGradient(gradient, float(intervals.missed.sum()), path.steps)


class _Intervals(NamedTuple):
    """Intervals of a path: their ends, mean gradients, and what these miss of the score's rise."""

    left: Array
    right: Array
    gradients: Array
    missed: Array


class _Path:
    """The straight path between two features, and a score along it."""

    def __init__(self, score: ScoreAndGradient, start: Array, end: Array) -> None:
        self.score, self.steps = score, 0
        self.start = start.astype(np.float32)
        self.change = end.astype(np.float32) - self.start

    def intervals(self, left: Array, right: Array) -> _Intervals:
        """Return intervals with their mean gradients."""
        length = right - left
        nodes = left[:, None] + length[:, None] * _NODES
        ends, index = np.unique(np.concatenate([left, right]), return_inverse=True)
        places = np.concatenate([nodes.ravel(), ends]).astype(np.float32)
        features = places.reshape(-1, *[1] * self.start.ndim) * self.change
        scores, gradients = self.score(self.start + features)
        self.steps += nodes.size
        at_ends = scores[nodes.size :][index].reshape(2, -1)
        at_nodes = gradients[: nodes.size].reshape(*nodes.shape, *self.start.shape)
        means = at_nodes.astype(np.float64).mean(axis=1)
        rises = length * (means.reshape(len(means), -1) @ self.change.reshape(-1))
        return _Intervals(left, right, means, at_ends[1] - at_ends[0] - rises)
