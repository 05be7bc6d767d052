"""`attribute`: the contribution of each concept of an extractor to a class score, per image."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import ArrayLike

from xplique_dirpairs.comparison.inputs import Subject
from xplique_dirpairs.core.batching import slices
from xplique_dirpairs.core.types import Array
from xplique_dirpairs.core.validation import as_images, check_choice, check_integer
from xplique_dirpairs.extractors.concept_layer import ConceptLayer
from xplique_dirpairs.metrics.attribution import (
    gradient_times_coefficient,
    integrated_gradients,
    permutation_design,
    shapley_values,
)
from xplique_dirpairs.metrics.fidelity import leave_one_out
from xplique_dirpairs.metrics.manipulation import Reading, outcomes

#: Ways to attribute a score to concepts (`metrics.attribution`).
MEASURES = ("shapley", "leave-one-out", "gradient x coefficient", "integrated gradients")


@dataclass(frozen=True, eq=False)
class Attributions:
    """Signed attributions of a class's logit to concepts, in units of the logit.

    Attributes
    ----------
    values : ndarray of shape (N, I)
        Attributions; the concept raises the score if the value is above 0. With "shapley" and
        "integrated gradients" the values sum to score(intact) − score(all concepts off).
    class_ids : ndarray of shape (N,), int
        For each image, the class whose logit is attributed.
    measure : str
        One of `MEASURES`.
    error : ndarray of shape (N, I), optional
        Standard errors of Shapley values; None for the other measures, which are not sampled.
    gap : ndarray of shape (N,), optional
        For integrated gradients, the sum of the values minus the difference above; otherwise None.
    """

    values: Array
    class_ids: Array
    measure: str
    error: Array | None = None
    gap: Array | None = None


def attribute(
    concepts: Any,
    images: ArrayLike,
    class_ids: ArrayLike | None = None,
    *,
    measure: str = "shapley",
    nb_permutations: int = 16,
    steps: int = 32,
    batch_size: int = 64,
    random_state: int = 0,
) -> Attributions:
    """Attribute the score of a class to concepts, while the residual is kept.

    Parameters
    ----------
    concepts : ConceptLayer or object
        A `ConceptLayer`, or any object that `ConceptLayer.of` accepts without a second argument.
    images : array-like of shape (N, height, width, channels)
        Images to explain.
    class_ids : array-like of shape (N,) or (N, K), optional
        Classes whose logits are attributed, in the form of the labels of `compare`. None: the
        predicted classes.
    measure : str, default="shapley"
        One of "shapley", "leave-one-out", "gradient x coefficient" and "integrated gradients";
        `metrics.attribution` defines these measures and states their costs.
    nb_permutations : int, default=16
        Number of orders over which Shapley values are averaged; even, and at least 4.
    steps : int, default=32
        Number of gradients along the path of integrated gradients.
    batch_size : int, default=64
        Number of images in a batch.
    random_state : int, default=0
        Seed of the orders.

    Returns
    -------
    attributions : Attributions
        Features are clipped to the range that the layer has in these images, which makes integrated
        gradients slightly incomplete; ``gap`` holds the difference.

    Raises
    ------
    NotFittedError
        If the concepts are not fitted.
    TypeError
        If ``concepts`` is not an extractor.
    ValueError
        If an argument is out of range, the network is not known, or images and classes do not
        match.
    """
    check_choice("measure", measure, MEASURES)
    check_integer("batch_size", batch_size)
    check_integer("steps", steps)
    layer = ConceptLayer.of(concepts)
    subject = Subject.of(layer.split, as_images(images), class_ids, batch_size, "class_ids")
    low, high = float(subject.activations.min()), float(subject.activations.max())
    reading, ids = subject.reading(layer, (low, high)), subject.class_ids
    if measure == "shapley":
        masks = permutation_design(reading.number_of_concepts, nb_permutations, random_state)
        values, error = shapley_values(outcomes(reading, masks).logits, masks)
        return Attributions(values, ids, measure, error=error)
    if measure == "leave-one-out":
        return Attributions(leave_one_out(reading), ids, measure)
    if measure == "gradient x coefficient":
        # At the image itself, features leave the range by rounding only; clipping them would set
        # their gradients to 0.
        scores = _class_scores(subject, reading, (-np.inf, np.inf))
        slopes = [gradient_times_coefficient(score, u) for score, u in scores]
        return Attributions(np.concatenate(slopes), ids, measure)
    scores = _class_scores(subject, reading, reading.limits)
    parts = [integrated_gradients(score, u, steps) for score, u in scores]
    values, gap = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    return Attributions(values, ids, measure, gap=gap)


def _class_scores(
    subject: Subject, reading: Reading, limits: tuple[Any, Any]
) -> Iterator[tuple[Callable[[tf.Tensor], tf.Tensor], Array]]:
    """Yield the class scores as a function of coefficients, and the coefficients, for each batch.

    The residual is kept, and features are clipped to ``limits``. Batches of n images have
    coefficients (n, *S, I) and scores (n,).
    """
    head = subject.head

    @functools.partial(tf.function, reduce_retracing=True)
    def score(u: tf.Tensor, residual: tf.Tensor, class_ids: tf.Tensor) -> tf.Tensor:
        features = tf.clip_by_value(residual + tf.linalg.matmul(u, reading.bank), *limits)
        logits = tf.cast(head.logits_of(head.outputs(features)), tf.float32)
        return tf.gather(logits, class_ids, axis=1, batch_dims=1)

    for rows in slices(len(reading.activations), subject.batch_size):
        u = reading.coefficients[rows]
        residual = tf.constant(reading.activations[rows] - u @ reading.bank)
        class_ids = tf.constant(reading.class_ids[rows])
        yield functools.partial(score, residual=residual, class_ids=class_ids), u
