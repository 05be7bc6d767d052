"""Arrangement of images in two dimensions, and what the directions of concepts are similar to."""

from __future__ import annotations

import numpy as np
from sklearn.manifold import TSNE
from threadpoolctl import threadpool_limits

from xplique_dirpairs.core.linear_algebra import cosines
from xplique_dirpairs.core.types import Array
from xplique_dirpairs.explanations.model_explanation import ModelExplanation
from xplique_dirpairs.extractors.scan import Scan

#: Smallest number of images of a class that are arranged.
LEAST_IMAGES = 5
#: Largest perplexity, about the number of neighbours that t-SNE keeps near each image.
_PERPLEXITY = 30.0
#: Upper limit on the number of classes that a concept points to.
_POINTED = 5


def arranged_by_class(contributions: Array, classes: Array, seed: int | None = 0) -> Array:
    """Place images in two dimensions, those of each class on their own, by t-SNE.

    Images are near each other if the same concepts made their logits. Distances between groups, and
    sizes of groups, mean nothing.

    Parameters
    ----------
    contributions : ndarray of shape (n, I)
        Contributions of I concepts to the logit of the class of each of n images.
    classes : ndarray of shape (n,), int
        The class of each image.
    seed : int or None, default=0
        Seed of the method. None draws one.

    Returns
    -------
    places : ndarray of shape (n, 2)
        Coordinates in [0, 1]; NaN for images of classes with fewer than `LEAST_IMAGES` of them.
    """
    places = np.full((len(classes), 2), np.nan)
    for k in np.unique(classes):
        members = np.flatnonzero(classes == k)
        if len(members) >= LEAST_IMAGES:
            places[members] = arranged(contributions[members], seed)
    return places


def arranged(values: Array, seed: int | None = 0) -> Array:
    """Place n ≥ 4 points (n, I) in two dimensions by t-SNE; coordinates (n, 2) are in [0, 1]."""
    points = np.nan_to_num(np.asarray(values, np.float32))
    if not np.ptp(points, axis=0).any():
        return np.full((len(points), 2), 0.5)
    perplexity = min(_PERPLEXITY, (len(points) - 1) / 3)
    # The start by principal components needs two columns.
    start = "pca" if points.shape[1] > 1 else "random"
    method = TSNE(perplexity=perplexity, init=start, learning_rate="auto", random_state=seed)
    # Several threads wait for one another: on a busy machine they take ten times as long.
    with threadpool_limits(1):
        places = np.asarray(method.fit_transform(points), np.float64)
    places -= places.min(axis=0)
    return np.asarray(places / max(float(places.max()), 1e-12))


def pointed_classes(seen: Scan, explanation: ModelExplanation) -> tuple[Array, Array, str]:
    """Return the classes that the direction of each concept points to.

    If the head is linear, they are ranked by the cosine of the concept's encoding direction with
    the weights of the class. Weights are taken less their mean over the classes, which moves no
    prediction, unless the classes are independent of each other. For other heads, explained classes
    are ranked by the effect of a step along the direction.

    Parameters
    ----------
    seen : Scan
    explanation : ModelExplanation
        Result of `explain_model` for the same concepts.

    Returns
    -------
    classes : ndarray of shape (I, m), int
        Indices of at most five classes for each of I concepts, the best first.
    values : ndarray of shape (I, m)
        Their cosines, or their effects for one unit of length, in logits.
    values_of : {"cosine", "unit effect"}
    """
    rows = None if seen.pooled is None else seen.layer.linear_rows(seen.pooled)
    if rows is None:
        ids, values = explanation.class_ids, explanation.influence.unit_effects
    else:
        ids = np.arange(len(rows))
        is_multilabel = seen.layer.head.class_activation == "sigmoid"
        centred = rows if is_multilabel else rows - rows.mean(axis=0)
        values = cosines(seen.layer.encoding, centred)
    ranked = np.argsort(-values, axis=1, kind="stable")[:, :_POINTED]
    values_of = "unit effect" if rows is None else "cosine"
    return ids[ranked], np.take_along_axis(values, ranked, axis=1), values_of
