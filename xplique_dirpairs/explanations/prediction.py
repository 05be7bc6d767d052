"""Explanation of a single prediction, and comparison of two: `explain_prediction`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from xplique_dirpairs.core.types import Array
from xplique_dirpairs.core.validation import as_inputs, check_class, check_integer, check_number
from xplique_dirpairs.explanations.contributions import ClassScore
from xplique_dirpairs.explanations.prediction_explanation import (
    PredictionComparison,
    PredictionExplanation,
)
from xplique_dirpairs.extractors.concept_layer import ConceptLayer
from xplique_dirpairs.metrics.manipulation import class_probabilities

#: Number of likeliest classes that are named with their probabilities.
_LIKELIEST = 5


def explain_prediction(
    concepts: Any,
    image: ArrayLike,
    class_id: int | None = None,
    *,
    against: int | None = None,
    crops: Sequence[ArrayLike] | None = None,
    tolerance: float = 5e-5,
    max_steps: int = 256,
) -> PredictionExplanation:
    """Divide a class's logit in one image over positions and concepts.

    The **baseline** is x − u @ bank: the image's features x at the layer without what the concepts
    add to them, where u are the coefficients of the concepts at each position, and row i of the
    bank is what one unit of coefficient i adds to the features. It is not clipped to the layer's
    range. The logit of the baseline is the *residual*, which includes the class's bias. The logit
    of the image minus the residual is the sum of the contributions of all concepts at all
    positions: exactly, up to rounding, if the head (the network after the layer) is a global
    average pooling and a dense layer. For any other head the contributions are integrated gradients
    (Sundararajan et al. 2017), and the error of their sum is the explanation's ``gap``.

    Parameters
    ----------
    concepts : ConceptLayer or fitted extractor
        Anything that `ConceptLayer.of` accepts as its only argument, with I concepts.
    image : array-like of shape (height, width, channels) or (1, height, width, channels)
        An image as the network takes it; or a video (1, T, height, width, channels).
    class_id : int, optional
        Index of the class to explain. None: the class that the network predicts.
    against : int, optional
        Index of a second class: what is explained is then the logit of ``class_id`` minus that of
        ``against``, which decides between the two. None: the logit of ``class_id`` alone.
    crops : sequence of I array-like of shape (k, patch, patch, channels), optional
        k crops that show what each concept is, uint8 or in [0, 1], such as ``explanation.crops`` of
        `explain_model`. None: crops from the extractor's own fit, if it has any.
    tolerance : float, default=5e-5
        Largest accepted ``gap``, in logits: gradients are added until it is reached. It has no
        effect if the contributions are exact.
    max_steps : int, default=256
        Upper limit on the number of gradients, of which at least 16 are computed. If the head has
        many layers, the tolerance may not be reached with a few hundred: see the ``gap``.

    Returns
    -------
    explanation : PredictionExplanation
        Contributions of the concepts, and where they are detected, with methods for tables and
        figures.

    Raises
    ------
    TypeError
        If ``concepts`` is not an extractor.
    ValueError
        If ``image`` is not a single image, a class does not exist, ``against`` is the explained
        class, ``crops`` are not one array for each concept, or a number is out of range.
    NotFittedError
        If ``concepts`` is not fitted.
    """
    check_number("tolerance", tolerance, above=0.0)
    check_integer("max_steps", max_steps, 2)
    images = as_inputs(image)
    if len(images) != 1:
        raise ValueError(f"image must be one image, not {len(images)}: explain them one by one")
    layer = ConceptLayer.of(concepts)
    count = layer.number_of_concepts
    shown_crops = layer.crops_of_fit() if crops is None else _check_crops(crops, count)
    activations = layer.activations(images)
    layer = replace(layer, head=layer.head.by_class(activations).checked_on(activations))
    logits = layer.head.few_logits(activations)[0]
    names = layer.names_of_classes(len(logits))
    for given in (class_id, against):
        if given is not None:
            check_class(given, len(logits))
    chosen = int(logits.argmax()) if class_id is None else int(class_id)
    if against == chosen:
        raise ValueError(f"against must be another class than the explained class {chosen}")

    u, shown = layer.read(activations)
    score = ClassScore(layer, chosen, len(logits), against, tolerance, max_steps)
    contributions = score.contributions(activations[0], u[0])
    probabilities = class_probabilities(logits[None], layer.head.class_activation)[0]
    likeliest = np.argsort(-logits, kind="stable")[:_LIKELIEST]
    return PredictionExplanation(
        image=images[0],
        class_id=chosen,
        class_name=names[chosen],
        against=against,
        against_name=None if against is None else names[against],
        probability=float(probabilities[chosen]),
        likeliest=tuple((names[k], float(probabilities[k])) for k in likeliest),
        score=contributions.score,
        residual=contributions.residual,
        contributions=contributions.values,
        presence=shown[0],
        concept_names=layer.concept_names,
        steps=contributions.steps,
        crops=shown_crops,
        extra_tokens=layer.split.extra_tokens,
    )


def compare_predictions(
    first: PredictionExplanation, second: PredictionExplanation
) -> PredictionComparison:
    """Find what makes a class's score (its logit) higher in one image than in another.

    Parameters
    ----------
    first : PredictionExplanation
        Explanation of the first image.
    second : PredictionExplanation
        Explanation of the second image, with the same ``class_id``, ``against`` and concepts.

    Returns
    -------
    comparison : PredictionComparison
        Contributions to the first score minus those to the second, in logits.

    Raises
    ------
    TypeError
        If one of them is not a `PredictionExplanation`.
    ValueError
        If they explain different scores or use different concepts.
    """
    for explanation in (first, second):
        if not isinstance(explanation, PredictionExplanation):
            kind = type(explanation).__name__
            raise TypeError(f"first and second must be results of explain_prediction, not {kind}")
    if (first.class_id, first.against) != (second.class_id, second.against):
        raise ValueError(
            f"both explanations must be of the same score, not of the {first.score_name} and the "
            f"{second.score_name}: pass the same class_id and against to explain_prediction"
        )
    if first.concept_names != second.concept_names:
        raise ValueError("both explanations must use the same concepts, but their names differ")
    return PredictionComparison(first, second)


def _check_crops(crops: Sequence[ArrayLike], count: int) -> tuple[Array, ...]:
    """Return crops as arrays (k, patch, patch, channels), one for each of ``count`` concepts."""
    arrays = tuple(np.asarray(concept_crops) for concept_crops in crops)
    if len(arrays) != count or any(array.ndim != 4 for array in arrays):
        raise ValueError(
            f"crops must be {count} arrays (k, patch, patch, channels), one for each concept, "
            f"not {len(arrays)} of shapes {[array.shape for array in arrays][:3]}, …"
        )
    return arrays
