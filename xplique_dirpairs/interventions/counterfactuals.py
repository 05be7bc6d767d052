"""Counterfactuals: the least change of concepts that changes a prediction, in one call."""

from __future__ import annotations

from collections.abc import Sequence

import keras
from numpy.typing import ArrayLike

from xplique_dirpairs.core.validation import check_images
from xplique_dirpairs.data.activations import compute_activations
from xplique_dirpairs.extractors.reader import Extractor
from xplique_dirpairs.interventions.counterfactual_result import Counterfactuals
from xplique_dirpairs.interventions.counterfactual_search import CounterfactualSearch, Moves
from xplique_dirpairs.models.head import Head
from xplique_dirpairs.models.split import split_model
from xplique_dirpairs.pairs import DirectionPairs


def counterfactuals(
    model: keras.Model,
    layer: str | int | keras.layers.Layer,
    concepts: DirectionPairs | Extractor,
    images: ArrayLike,
    training_images: ArrayLike,
    *,
    target: int | None = None,
    max_concepts: int = 3,
    moves: Moves = "any",
    only: Sequence[int] | None = None,
    margin: float = 0.0,
    stay_within: float | None = 99.0,
    quantile: float = 0.99,
    class_names: Sequence[str] | None = None,
    concept_names: Sequence[str] | None = None,
    verbose: int = 1,
) -> Counterfactuals:
    """The least change in concept coefficients that changes each image's prediction.

    Parameters
    ----------
    model
        A Keras classifier.
    layer
        The layer that the concepts are of.
    concepts
        Direction pairs, or any fitted extractor: coefficients u, x = decode(u) + residual.
    images : (N, height, width, channels)
        As the model takes them.
    training_images : (M, height, width, channels)
        They say how much of a concept there is in an image, and what features look like.
    target
        The class to come to; None: any other.
    max_concepts
        How many concepts may be moved. 1: single concepts.
    moves
        "remove": coefficients may only fall, "add": only rise.
    only
        The concepts that may be moved; None: all.
    margin
        By how many logits the new class is to lead. 0: the boundary itself.
    stay_within
        Of the changes found, the least whose features are within this percentile of the training
        images' distances is taken (see `TrainingDistance`); where none is, the least. None: always
        the least.
    quantile
        Share of the training images that the range of coefficients is of; see `CoefficientRange`.
    class_names : K of them
    concept_names : I of them
    verbose
        0 for silence; else a progress bar.

    Returns
    -------
    found : Counterfactuals
        ``found[i].plot()`` is the picture of one; ``print(found)`` the table of all. Where nothing
        was found within the limits, ``found.status`` says so.

    Raises
    ------
    TypeError, ValueError, NotFittedError
    """
    g, h = split_model(model, layer)
    pictures = check_images(images)
    search = CounterfactualSearch(
        Head(h),
        concepts,
        compute_activations(g, training_images),
        quantile=quantile,
        class_names=class_names,
        concept_names=concept_names,
    )
    return search.find(
        compute_activations(g, pictures),
        target=target,
        max_concepts=max_concepts,
        moves=moves,
        only=only,
        margin=margin,
        stay_within=stay_within,
        images=pictures,
        verbose=verbose,
    )
