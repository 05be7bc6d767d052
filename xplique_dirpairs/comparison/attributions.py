"""`attribute`: what each concept of an extractor does to a class score, image by image."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from numpy.typing import ArrayLike, NDArray

from xplique_dirpairs.comparison.inputs import (
    check_same_layer,
    checked_extractors,
    network_halves,
    scored_classes,
)
from xplique_dirpairs.core.batching import as_positions
from xplique_dirpairs.core.validation import as_images, check_integer
from xplique_dirpairs.data.activations import compute_activations
from xplique_dirpairs.extractors.reader import Extractor, is_fitted, reader_of
from xplique_dirpairs.metrics.attribution import (
    gradient_times_coefficient,
    integrated_gradients,
    leave_one_out,
    leave_one_out_design,
    permutation_design,
    shapley_values,
)
from xplique_dirpairs.metrics.manipulation import Reading, outcomes
from xplique_dirpairs.models.head import Head
from xplique_dirpairs.pairs import DirectionPairs

#: Ways to attribute a score to concepts (`metrics.attribution`).
MEASURES = ("shapley", "leave-one-out", "gradient x coefficient", "integrated gradients")


@dataclass(frozen=True, eq=False)
class Attributions:
    """Signed attributions of a class's logit to concepts, in units of the logit.

    Attributes
    ----------
    values : (N, I)
        Above 0 the concept raises the score. With "shapley" and "integrated gradients" they sum to
        score(intact) − score(all concepts off).
    class_ids : (N,)
        The class whose score it is, for each image.
    measure
        One of `MEASURES`.
    error : (N, I) or None
        Standard errors of Shapley values; None for the others, which are not sampled.
    gap : (N,) or None
        Of integrated gradients: how far the values are from that sum.
    """

    values: NDArray
    class_ids: NDArray
    measure: str
    error: NDArray | None = None
    gap: NDArray | None = None


def attribute(
    extractor: Extractor | DirectionPairs,
    images: ArrayLike,
    class_ids: ArrayLike | None = None,
    *,
    measure: str = "shapley",
    input_to_latent_model: keras.Model | None = None,
    latent_to_logit_model: keras.Model | None = None,
    ends_in: str | None = None,
    multilabel: bool | None = None,
    nb_permutations: int = 16,
    steps: int = 32,
    batch_size: int = 64,
    random_state: int = 0,
) -> Attributions:
    """Attribute the score of a class to an extractor's concepts, the residual kept.

    Parameters
    ----------
    extractor
        Fitted: anything that `compare` takes.
    images : (N, height, width, channels)
    class_ids : (N,) or (N, K), optional
        Classes whose logit is attributed, as `compare` takes labels. None: the predicted ones.
    measure
        "shapley", "leave-one-out", "gradient x coefficient" or "integrated gradients"; what they
        are and cost stands in `metrics.attribution`.
    input_to_latent_model, latent_to_logit_model, ends_in, multilabel
        As in `compare`.
    nb_permutations
        Orders that Shapley values are means over; even, and at least 4.
    steps
        Gradients along the path of the integrated ones.
    batch_size
        Images in one pass.
    random_state
        Seed of the orders.

    Returns
    -------
    attributions
        Features that leave the layer's range, as it is in these images, are clipped to it on the
        way, which makes integrated gradients a little incomplete: ``gap``.

    Raises
    ------
    TypeError, ValueError
        If the measure is none of these, the extractor is not fitted or is of another layer, or
        images and classes do not fit.
    """
    if measure not in MEASURES:
        raise ValueError(f"measure must be one of {', '.join(MEASURES)}, not {measure!r}")
    for name, value in {"batch_size": batch_size, "steps": steps}.items():
        check_integer(name, value)
    compared = checked_extractors({"the extractor": extractor})
    (checked,) = compared.values()
    if not is_fitted(checked):
        raise ValueError("the extractor is not fitted: call its fit first")
    first, second = network_halves(compared, input_to_latent_model, latent_to_logit_model)
    images, head = as_images(images), Head(second, ends_in, multilabel)
    activations = compute_activations(first, images, batch_size)
    head.check_takes(activations.shape[1:])
    check_same_layer(compared, first, images[:2], activations[:2])
    logits = head.logits(activations, batch_size)
    ids, _ = scored_classes(class_ids, logits, head.is_multilabel)
    pixels = as_positions(activations)
    reader = reader_of(checked, pixels[:: max(1, len(pixels) // 64)])
    reading = Reading(
        activations,
        reader.coefficients(activations),
        reader.bank,
        functools.partial(head.logits, batch_size=batch_size),
        ids,
        (float(activations.min()), float(activations.max())),
        "sigmoid" if head.is_multilabel else "softmax",
    )
    if measure == "shapley":
        masks = permutation_design(reading.number_of_concepts, nb_permutations, random_state)
        found = shapley_values(outcomes(reading, masks).logits, masks)
        return Attributions(found.values, ids, measure, error=found.error)
    if measure == "leave-one-out":
        masks = leave_one_out_design(reading.number_of_concepts)
        return Attributions(leave_one_out(outcomes(reading, masks).logits), ids, measure)
    # at the image nothing leaves the range but by rounding, which would cut off gradients
    run: Callable[..., Any] = gradient_times_coefficient
    limits: tuple[Any, Any] = (-np.inf, np.inf)
    if measure == "integrated gradients":
        run, limits = functools.partial(integrated_gradients, steps=steps), reading.limits
    score, parts = _class_score(head, reading.bank, limits), list[Any]()
    for start in range(0, len(images), batch_size):
        rows = slice(start, start + batch_size)
        u = reading.coefficients[rows]
        residual = tf.constant(activations[rows] - u @ reading.bank)
        of_these = functools.partial(score, residual=residual, class_ids=tf.constant(ids[rows]))
        parts.append(run(of_these, u))
    if measure == "gradient x coefficient":
        return Attributions(np.concatenate(parts), ids, measure)
    return Attributions(
        np.concatenate([one.values for one in parts]),
        ids,
        measure,
        gap=np.concatenate([one.gap for one in parts]),
    )


def _class_score(head: Head, bank: NDArray, limits: tuple[Any, Any]) -> Callable[..., tf.Tensor]:
    """Coefficients, residual, classes → the logits of these classes; compiled once."""

    @functools.partial(tf.function, reduce_retracing=True)
    def score(u: tf.Tensor, residual: tf.Tensor, class_ids: tf.Tensor) -> tf.Tensor:
        features = tf.clip_by_value(residual + tf.linalg.matmul(u, bank), *limits)
        logits = tf.cast(head.logits_of(head.outputs(features)), tf.float32)
        return tf.gather(logits, class_ids, axis=1, batch_dims=1)

    return score
