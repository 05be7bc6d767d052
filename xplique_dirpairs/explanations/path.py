"""A class score's mean gradient along the straight path from every concept off to the image.

    G = ∫₀¹ ∇s(r + t (x − r)) dt            r = x − u B: every concept off

(M. Sundararajan, A. Taly, Q. Yan, "Axiomatic attribution for deep networks", 2017, with r as the
baseline.) On a head that is linear, G is its weights. Elsewhere the path is cut into intervals, two
gradients each (Gauss–Legendre), and what an interval's gradients miss of the score's rise over it,
which is known, tells where to cut further: kinks of ReLUs are found by bisection.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from xplique_dirpairs.core.batching import CHUNK_FLOATS
from xplique_dirpairs.models.head import Head

#: (n, ...) features to scores (n,) and the gradient of each, (n, ...).
ScoreAndGradient = Callable[[NDArray], tuple[NDArray, NDArray]]

#: Intervals to begin with.
_INTERVALS = 8
_NODES, _WEIGHTS = (np.polynomial.legendre.leggauss(2)[0] + 1.0) / 2.0, np.array([0.5, 0.5])


class MeanGradient(NamedTuple):
    """The mean gradient along a path, and how well it accounts for the score's rise.

    Attributes
    ----------
    gradient
        G, of the shape of the features.
    gap
        s(end) − s(start) − G · (end − start).
    steps
        Gradients taken.
    """

    gradient: NDArray
    gap: float
    steps: int


def class_score(head: Head, weights: NDArray) -> ScoreAndGradient:
    """Weighted logits of features as `Head.pool` leaves them, with their gradient.

    Parameters
    ----------
    head
    weights : (K,)
        1 for the class; −1 for one that it is held against.
    """

    def of_batch(features: NDArray) -> tuple[NDArray, NDArray]:
        x = tf.constant(features, tf.float32)
        with tf.GradientTape() as tape:
            tape.watch(x)
            scores = tf.linalg.matvec(_logits(head, x), tf.constant(weights, tf.float32))
        return scores.numpy().astype(np.float64), tape.gradient(scores, x).numpy()

    def run(features: NDArray) -> tuple[NDArray, NDArray]:
        at_once = max(1, CHUNK_FLOATS // features[0].size)
        starts = range(0, len(features), at_once)
        parts = [of_batch(features[start : start + at_once]) for start in starts]
        scores, gradients = zip(*parts, strict=True)
        return np.concatenate(scores), np.concatenate(gradients)

    return run


def few_logits(head: Head, features: NDArray) -> NDArray:
    """`Head.logits` of a few features, without compiling anything for them."""
    return _logits(head, tf.constant(features, tf.float32)).numpy().astype(np.float64)


def _logits(head: Head, features: tf.Tensor) -> tf.Tensor:
    """As `Head.logits` says, differentiable; not compiled, for the few calls of an explanation."""
    outputs = tf.cast(head.outputs(features), tf.float32)
    if head.ends_in == "linear":
        return outputs
    tiny = np.finfo(np.float32).tiny
    logits = tf.math.log(tf.maximum(outputs, tiny))
    if head.ends_in == "sigmoid":
        logits -= tf.math.log(tf.maximum(1.0 - outputs, tiny))
    return logits


def mean_gradient(
    score: ScoreAndGradient, start: NDArray, end: NDArray, tolerance: float, max_steps: int
) -> MeanGradient:
    """G along the path from start to end, features of one image.

    Intervals are halved until neither the gap nor what any interval misses is above the tolerance,
    or ``max_steps`` gradients are taken.

    Parameters
    ----------
    score
    start, end : (...)
        Features as ``score`` takes them, without the batch axis.
    tolerance
        In units of the score.
    max_steps
        At least two for each of the first intervals are taken.
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
        kept = np.setdiff1d(np.arange(len(missed)), worst)
        intervals = _Intervals(
            *(np.concatenate([old[kept], new]) for old, new in zip(intervals, halves, strict=True))
        )
    lengths = intervals.right - intervals.left
    gradient = np.tensordot(lengths, intervals.gradients, axes=1)
    return MeanGradient(gradient, float(intervals.missed.sum()), path.steps)


class _Intervals(NamedTuple):
    left: NDArray
    right: NDArray
    gradients: NDArray
    missed: NDArray


class _Path:
    """The straight path between two features, and what a score does along it."""

    def __init__(self, score: ScoreAndGradient, start: NDArray, end: NDArray):
        self.score, self.steps = score, 0
        self.start = start.astype(np.float32)
        self.change = end.astype(np.float32) - self.start

    def _at(self, places: NDArray) -> tuple[NDArray, NDArray]:
        scaled = np.asarray(places, np.float32).reshape(-1, *[1] * self.start.ndim) * self.change
        return self.score(self.start + scaled)

    def intervals(self, left: NDArray, right: NDArray) -> _Intervals:
        """Mean gradients over intervals, and what they miss of the score's rise."""
        length = right - left
        nodes = left[:, None] + length[:, None] * _NODES
        ends, index = np.unique(np.concatenate([left, right]), return_inverse=True)
        scores, gradients = self._at(np.concatenate([nodes.ravel(), ends]))
        self.steps += nodes.size
        at_ends = scores[nodes.size :][index].reshape(2, -1)
        of_nodes = gradients[: nodes.size].reshape(*nodes.shape, *self.start.shape)
        means = np.einsum("j,nj...->n...", _WEIGHTS, of_nodes.astype(np.float64))
        rises = length * (means.reshape(len(means), -1) @ self.change.reshape(-1))
        return _Intervals(left, right, means, at_ends[1] - at_ends[0] - rises)
