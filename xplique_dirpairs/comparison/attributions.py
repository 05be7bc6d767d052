"""`attribute`: the contribution of each concept of an extractor to a class score, per image."""

from __future__ import annotations

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
from xplique_dirpairs.models.tracing import any_number

#: Ways to attribute a score to concepts (`metrics.attribution`).
MEASURES = ("shapley", "leave-one-out", "gradient x coefficient", "integrated gradients")


@dataclass(frozen=True, eq=False)
class Attributions:
    """Signed contributions of I concepts to the logit of a class, for each of N images.

    `attribute` returns it. The *logit with all concepts off* is that of the features with the
    coefficients of all concepts set to 0: the residual, what no concept explains, is kept.

    Attributes
    ----------
    values : ndarray of shape (N, I)
        Contributions, in logits: above 0 where the concept raises the logit. For "shapley" the
        contributions in an image sum to its logit minus the logit with all concepts off; for
        "integrated gradients" they sum to the same difference plus ``gap``.
    class_ids : ndarray of shape (N,), int
        For each image, the class whose logit is attributed.
    measure : {"shapley", "leave-one-out", "gradient x coefficient", "integrated gradients"}
        How the contributions were computed: see `attribute`.
    error : ndarray of shape (N, I), optional
        Standard errors of Shapley values, in logits; None for the other measures, which are not
        sampled.
    gap : ndarray of shape (N,), optional
        For integrated gradients, the sum of the values minus the difference that it approximates,
        in logits; None for the other measures.
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
    """Compute how much each concept contributes to the logit of a class, for every image.

    Features are x = Σ_i u_i · bank_i + residual, with a coefficient u_i for each of I concepts at
    every position. Switching concept i off means u_i = 0 at all positions; the residual is kept.

    Parameters
    ----------
    concepts : ConceptLayer or fitted extractor
        Anything that `ConceptLayer.of` accepts as its only argument, such as a fitted CRAFT.
    images : array-like of shape (N, height, width, channels)
        Images to explain, as the network takes them.
    class_ids : array-like of shape (N,) or (N, K), optional
        Class whose logit is attributed in each image, as an index or as a one-hot row of K classes.
        None: the predicted classes.
    measure : str, default="shapley"
        "shapley": mean gain of the logit when the concept is switched on, over random orders of the
        concepts; takes ``nb_permutations`` · (I − 1) + 2 passes through the second half of the
        network. "leave-one-out": drop of the logit when the concept alone is switched off; takes
        I + 1 passes. "gradient x coefficient": the sum of u_i · ∂logit/∂u_i over positions; takes
        one gradient. "integrated gradients": the same sum with the mean of ∂logit/∂u_i over the
        straight path from all concepts off to the image; takes ``steps`` gradients.
    nb_permutations : int, default=16
        Number of random orders of the concepts over which Shapley values are averaged; even, and at
        least 4.
    steps : int, default=32
        Number of gradients along the path of integrated gradients.
    batch_size : int, default=64
        Number of images in a batch.
    random_state : int, default=0
        Seed of the orders of Shapley values.

    Returns
    -------
    attributions : Attributions
        Contributions in logits, of shape (N, I). Features with concepts switched off are clipped to
        the range that the layer has in these images (for "gradient x coefficient" nothing is
        clipped). The error of the sum of integrated gradients is ``gap``.

    Raises
    ------
    NotFittedError
        If the concepts are not fitted.
    TypeError
        If ``concepts`` is not an extractor.
    ValueError
        If an argument is out of range; if ``concepts`` does not know its network; or if classes are
        not one for each image or not classes of the network.
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

    @tf.function
    def score(u: tf.Tensor, residual: tf.Tensor, class_ids: tf.Tensor) -> tf.Tensor:
        features = tf.clip_by_value(residual + tf.linalg.matmul(u, reading.bank), *limits)
        logits = tf.cast(head.logits_of(head.outputs(features)), tf.float32)
        return tf.gather(logits, class_ids, axis=1, batch_dims=1)

    for rows in slices(len(reading.activations), subject.batch_size):
        u = reading.coefficients[rows]
        residual = tf.constant(reading.activations[rows] - u @ reading.bank)
        class_ids = tf.constant(reading.class_ids[rows])

        def score_of(u: tf.Tensor, residual: Any = residual, class_ids: Any = class_ids) -> Any:
            return any_number(score, u, residual, class_ids)

        yield score_of, u
