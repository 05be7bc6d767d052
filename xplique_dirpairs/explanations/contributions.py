"""Why an image got its prediction: `explain_prediction`, and two images compared."""

from __future__ import annotations

from collections.abc import Sequence

import keras
import numpy as np
from numpy.typing import ArrayLike, NDArray

from xplique_dirpairs.core.validation import as_images, check_class, check_integer
from xplique_dirpairs.explanations.path import few_logits
from xplique_dirpairs.explanations.prediction_explanation import (
    PredictionComparison,
    PredictionExplanation,
)
from xplique_dirpairs.explanations.shares import ScoreOfLayer
from xplique_dirpairs.extractors.concept_layer import (
    Explaining,
    Names,
    check_class_names,
    class_name_of,
    concept_layer,
    concept_names_of,
    crops_of_fit,
)
from xplique_dirpairs.metrics.manipulation import class_probabilities
from xplique_dirpairs.pairs import Off

#: Classes that are named with their probabilities.
_LIKELIEST = 5


def explain_prediction(
    extractor: Explaining,
    image: ArrayLike,
    class_id: int | None = None,
    *,
    against: int | None = None,
    class_names: Names = None,
    concept_names: Sequence[str] | None = None,
    crops: Sequence[ArrayLike] | None = None,
    input_to_latent_model: keras.Model | None = None,
    latent_to_logit_model: keras.Model | None = None,
    off: Off | None = None,
    tolerance: float = 5e-5,
    max_steps: int = 256,
) -> PredictionExplanation:
    """Where the concepts are in an image, and what each adds to a class's logit, at each position.

    The contributions, over all positions and concepts, and the residual's share sum to the logit:
    exactly (up to rounding) where the head is a global average pooling and a dense layer; for any
    other head they are integrated gradients, as many as it takes, and what is missing is the
    explanation's ``gap``.

    **The baseline** is the image's own features with every concept off, x − u B: in the absent
    form each concept at most at its usual level where it is not detected. It is not clipped to the
    layer's range. Its logit is the residual's share; it holds the class's bias.

    Parameters
    ----------
    extractor
        As for `explain_model`.
    image : (height, width, channels)
        As the network takes it; or a batch of one.
    class_id
        None: the class that the network predicts.
    against
        A second class: contributions are to the difference of the two logits, class_id's minus
        this one's, which is what decides between them.
    class_names
        Of all K classes, or a dictionary of some. One output has two, its no and its yes.
    concept_names : I of them, optional
    crops
        For each concept some crops (k, patch, patch, C), uint8 or in [0, 1], to show what it is:
        ``explanation.crops`` of `explain_model`. None: those of the extractor's own fit, if it has
        any.
    input_to_latent_model, latent_to_logit_model, off
        As for `explain_model`.
    tolerance
        How far integrated gradients may be from complete, in logits.
    max_steps
        Gradients taken at most. A head of many layers does not get to the tolerance with a few
        hundred: the gap says how near it came.

    Returns
    -------
    explanation

    Raises
    ------
    TypeError, ValueError, NotFittedError
        If something is not as said.
    """
    if not tolerance > 0:
        raise ValueError(f"tolerance must be above 0, not {tolerance!r}")
    check_integer("max_steps", max_steps, 2)
    images = as_images(image)
    if len(images) != 1:
        raise ValueError(f"one image is explained at a time, not {len(images)}")
    layer, activations = concept_layer(
        extractor, images, input_to_latent_model, latent_to_logit_model, off
    )
    names = concept_names_of(concept_names, layer.number_of_concepts)
    shown_crops = crops_of_fit(extractor) if crops is None else _checked_crops(crops, len(names))
    logits = few_logits(layer.head, activations)[0]
    check_class_names(class_names, len(logits))
    for given in (class_id, against):
        if given is not None:
            check_class(given, len(logits))
    chosen = int(logits.argmax()) if class_id is None else int(class_id)
    if against is not None and against == chosen:
        raise ValueError(f"class {chosen} cannot be held against itself: give another one")

    u, shown = layer.read(activations)
    score = ScoreOfLayer(layer, chosen, against, len(logits), tolerance, max_steps)
    shares = score.shares(activations[0], u[0])
    kind = "sigmoid" if layer.head.is_multilabel else "softmax"
    probabilities = class_probabilities(logits[None], kind)[0]
    likeliest = np.argsort(-logits, kind="stable")[:_LIKELIEST]
    return PredictionExplanation(
        image=images[0],
        class_id=chosen,
        class_name=class_name_of(class_names, chosen),
        against=against,
        against_name=None if against is None else class_name_of(class_names, against),
        probability=float(probabilities[chosen]),
        likeliest=tuple(
            (class_name_of(class_names, int(k)), float(probabilities[k])) for k in likeliest
        ),
        score=shares.score,
        residual=shares.residual,
        contributions=shares.contributions,
        presence=shown[0],
        concept_names=names,
        steps=shares.steps,
        crops=shown_crops,
    )


def compare_predictions(
    first: PredictionExplanation, second: PredictionExplanation
) -> PredictionComparison:
    """What makes a class's score higher in one image than in another.

    Parameters
    ----------
    first, second
        Of the same class (give ``class_id``), against the same other, by the same concepts.

    Returns
    -------
    comparison
        Contributions of the first minus those of the second.

    Raises
    ------
    TypeError, ValueError
        If they are about different scores or concepts.
    """
    for one in (first, second):
        if not isinstance(one, PredictionExplanation):
            raise TypeError(
                f"explanations are compared, of explain_prediction, not {type(one).__name__}"
            )
    scores = [(one.class_id, one.against) for one in (first, second)]
    if scores[0] != scores[1]:
        raise ValueError(
            f"both must explain the same class against the same other, not {scores[0]} and "
            f"{scores[1]}: give explain_prediction a class_id"
        )
    if first.concept_names != second.concept_names:
        raise ValueError(
            f"both must be explained by the same concepts, not by {len(first.concept_names)} and "
            f"{len(second.concept_names)} of different names"
        )
    return PredictionComparison(first, second)


def _checked_crops(crops: Sequence[ArrayLike], count: int) -> tuple[NDArray, ...]:
    arrays = tuple(np.asarray(of_one) for of_one in crops)
    if len(arrays) != count or any(of_one.ndim != 4 for of_one in arrays):
        raise ValueError(
            f"crops must be {count} arrays (k, patch, patch, C), one for each concept, not "
            f"{[of_one.shape for of_one in arrays][:3]} … ({len(arrays)})"
        )
    return arrays
