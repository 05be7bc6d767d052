"""Division of a class score over positions and concepts.

    s(x) = s(r) + Σ_p Σ_i c_{p,i} + gap           c_{p,i} = u_{p,i} B_i · G_p

r = x − u B are the features with every concept switched off; s(r) is the residual's share, which
includes the class's bias; G_p is the mean gradient of the score at position p along the straight
path from r to x,

    G = ∫₀¹ ∇s(r + t (x − r)) dt

(M. Sundararajan, A. Taly, Q. Yan, "Axiomatic attribution for deep networks", 2017, with r as the
baseline). For a head that is linear after a global average pooling over P positions, G_p = w_k / P
with the class's weights w_k, and the gap is 0 up to rounding. For any other head the path is cut
into intervals, and two gradients are taken in each (Gauss–Legendre). The part of the score's rise
over an interval that its gradients do not account for is known, and tells which intervals to
halve: kinks of ReLUs are found by bisection.
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
from xplique_dirpairs.core.validation import check_integer
from xplique_dirpairs.extractors.concept_layer import ConceptLayer
from xplique_dirpairs.models.head import Head

#: A function from features (n, ...) to their scores (n,) and the gradient of each score, (n, ...).
ScoreAndGradient = Callable[[Array], tuple[Array, Array]]

#: Number of intervals that a path is cut into before any of them is halved.
_INTERVALS = 8
#: Where in an interval, from 0 to 1, its two gradients are taken: each has the weight ½.
_NODES = (np.polynomial.legendre.leggauss(2)[0] + 1.0) / 2.0


@dataclass(frozen=True, eq=False)
class Contributions:
    """Contributions of each position and concept of one image to a score.

    Attributes
    ----------
    values : ndarray of shape (*spatial, I), float64
        Signed contributions c.
    residual : float
        s(r), the score with every concept off.
    score : float
        s(x), the score of the image itself.
    steps : int
        Number of gradients taken along the path; 0 if none was needed.
    """

    values: Array
    residual: float
    score: float
    steps: int

    @property
    def by_concept(self) -> Array:
        """Contribution of each concept, summed over positions, (I,)."""
        return np.asarray(as_positions(self.values).sum(axis=0))


@dataclass(frozen=True, eq=False)
class Confusion:
    """What pushes the images of a class a towards a class b.

    Attributes
    ----------
    source : int
        Index of class a.
    target : int
        Index of class b.
    names : tuple of (str, str)
        Names of a and b.
    images : int
        Number of images of class a.
    confused : int
        Number of images of class a that the network predicts as b.
    contributions : ndarray of shape (I,)
        Contribution of each of I concepts to logit_b − logit_a, mean over the images of a: a
        concept with a value above 0 pushes the images towards b. The contributions and ``residual``
        sum to ``difference``: exactly, up to rounding, if the head (the network after the layer) is
        linear, otherwise approximately.
    residual : float
        Mean of logit_b − logit_a with the coefficients of all concepts set to 0.
    difference : float
        Mean of logit_b − logit_a in the images as they are.
    changes : ndarray of shape (I,)
        Mean change of log p_b − log p_a, in nats, by a step along each concept's encoding
        direction. Its length is `ModelExplanation.amount`.
    confused_contributions : ndarray of shape (I,)
        Like ``contributions``, but means over the ``confused`` images only; NaN if there are none.
    confused_residual : float
        Like ``residual``, over the ``confused`` images only; NaN if there are none.
    confused_difference : float
        Like ``difference``, over the ``confused`` images only; NaN if there are none.
    """

    source: int
    target: int
    names: tuple[str, str]
    images: int
    confused: int
    contributions: Array
    residual: float
    difference: float
    changes: Array
    confused_contributions: Array
    confused_residual: float
    confused_difference: float


@dataclass(frozen=True, eq=False)
class ClassScore:
    """A class's logit, or the difference of two logits, as a function of a layer's features.

    Attributes
    ----------
    layer : ConceptLayer
        Concepts at a layer, with the network's head.
    class_id : int
        The class whose logit is the score.
    number_of_classes : int
        K.
    against : int, optional
        The class whose logit is subtracted; None: no class.
    tolerance : float, default=1e-2
        Largest accepted difference between integrated gradients and the score's rise, in logits.
    max_steps : int, default=128
        Upper limit on the number of gradients taken: see `mean_gradient`.
    """

    layer: ConceptLayer
    class_id: int
    number_of_classes: int
    against: int | None = None
    tolerance: float = 1e-2
    max_steps: int = 128

    @cached_property
    def weights(self) -> Array:
        """Weights of the logits in the score, (K,): the score is logits @ weights."""
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
            x, the features of the image.
        coefficients : ndarray of shape (*spatial, I)
            u, the coefficients of the concepts in it.

        Returns
        -------
        contributions : Contributions
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
        # A head that pools takes the mean over positions: each position has 1/P of its gradient.
        positions = math.prod(x.shape[:-1]) if start.ndim < x.ndim else 1
        effects = gradient @ bank.T / positions  # (I,), or (*spatial, I) for a head that takes maps
        return Contributions(u * effects, residual, score, steps)


def score_and_gradient(head: Head, weights: Array, features: Array) -> tuple[Array, Array]:
    """Return the weighted sum of the logits of each image, and its gradient by the features.

    Parameters
    ----------
    head : Head
        Second part of the network, from the layer to the classes.
    weights : ndarray of shape (K,)
        Weight of each logit.
    features : ndarray of shape (N, D) or (N, *spatial, D)
        Features as `Head.pool` returns them.

    Returns
    -------
    scores : ndarray of shape (N,), float64
    gradients : ndarray of the shape of ``features``
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


def strongest(values: Array, count: int) -> tuple[Array, Array]:
    """Return the indices of the largest values above 0, and of the lowest values below 0.

    Parameters
    ----------
    values : ndarray of shape (I,)
        Signed values.
    count : int
        Upper limit on the number of indices on each side.

    Returns
    -------
    up : ndarray of int
        Indices of values above 0, the largest first.
    down : ndarray of int
        Indices of values below 0, the lowest first.

    Raises
    ------
    ValueError
        If ``count`` is not a positive integer.
    """
    check_integer("count", count)
    order = np.argsort(-values, kind="stable")
    up, down = order[values[order] > 0], order[values[order] < 0][::-1]
    return up[:count], down[:count]


def parts_of_score(
    names: Sequence[str], contributions: Array, shown: Array, residual: float
) -> list[tuple[str, float]]:
    """Return names and values of the shown concepts, of all other concepts, and of the residual.

    Parameters
    ----------
    names : sequence of I str
        Names of the concepts.
    contributions : ndarray of shape (I,)
        Contribution of each concept to the score.
    shown : ndarray of int
        Indices of the concepts that have a part of their own, in order.
    residual : float
        The score with every concept off.

    Returns
    -------
    parts : list of (str, float)
        They sum to the score, up to its gap.
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
    """Compute the mean gradient G along the path from ``start`` to ``end``, features of one image.

    Intervals are halved until the error of each interval and the sum of all errors are within the
    tolerance, or until no more gradients may be taken. The error of an interval is the difference
    between the score's rise over it and what its gradients predict.

    Parameters
    ----------
    score : callable
        A function from features (n, ...) to their scores (n,) and gradients (n, ...).
    start : ndarray
        Features at the start of the path, as ``score`` takes them, without the batch axis.
    end : ndarray of the shape of ``start``
        Features at its end.
    tolerance : float
        Largest accepted error, in units of the score.
    max_steps : int
        Upper limit on the number of gradients. Two in each of the first eight intervals are always
        taken.

    Returns
    -------
    gradient : ndarray
        G, of the shape of the features.
    steps : int
        Number of gradients taken.
    """
    edges = np.linspace(0.0, 1.0, _INTERVALS + 1)
    ends = np.stack([edges[:-1], edges[1:]])
    gradients, missed = _over_intervals(score, start, end, ends)
    steps = 2 * _INTERVALS
    while steps + 4 <= max_steps:  # halving an interval takes four gradients
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
    """Return the mean gradient over each interval of a path, and the error of each interval.

    Parameters
    ----------
    score : callable
        See `mean_gradient`.
    start : ndarray
        See `mean_gradient`.
    end : ndarray
        See `mean_gradient`.
    ends : ndarray of shape (2, n)
        Both ends of each interval, from 0 (start of the path) to 1 (its end).

    Returns
    -------
    gradients : ndarray of shape (n, *features)
    missed : ndarray of shape (n,)
        The part of the score's rise over each interval that its gradients do not account for.
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
