"""What drives each class of a model: `explain_model`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from xplique_dirpairs.core.batching import chunk_size, slices
from xplique_dirpairs.core.progress import progress
from xplique_dirpairs.core.types import Array
from xplique_dirpairs.core.validation import check_class, check_integer
from xplique_dirpairs.explanations.contributions import ClassScore, Contributions
from xplique_dirpairs.explanations.model_explanation import (
    Confusion,
    ModelExplanation,
    strongest,
)
from xplique_dirpairs.extractors.scan import Scan, scan
from xplique_dirpairs.sensitivity.influence import InfluenceSettings, influence_in_scan
from xplique_dirpairs.sensitivity.influence_result import Influence
from xplique_dirpairs.sensitivity.responses import log_probability_changes

#: How far the mean gradient of a path may be from complete, in logits, and its gradients at most.
PATH_TOLERANCE, PATH_STEPS = 1e-2, 128
#: Concepts on either side of a class that have crops of its own images.
_LISTED = 8
_DEFAULT = InfluenceSettings()


def explain_model(
    concepts: Any,
    images: ArrayLike,
    labels: ArrayLike | None = None,
    *,
    classes: Sequence[int] | None = None,
    confusions: Sequence[tuple[int, int]] | None = None,
    settings: InfluenceSettings = _DEFAULT,
    nb_crops: int = 5,
    patch_size: int | None = None,
    path_images: int = 8,
    batch_size: int = 64,
    random_state: int | None = 0,
    verbose: int = 1,
) -> ModelExplanation:
    """Explain each class: which concepts speak for it and against it, and by how much.

    One pass over the images. Three things are measured for each class and concept, over the
    class's images: the *influence* of more of the concept (see `influence`), what the concept
    *contributes* to the class's logit as it is (mean of `explain_prediction`, summed over
    positions), and how often it is *detected*, there and in the images of the other classes.

    Parameters
    ----------
    concepts : ConceptLayer or fitted extractor
        Whatever `ConceptLayer.of` takes alone. Without detectors a concept counts as detected where
        its coefficient is above 0.
    images : array-like of shape (N, height, width, C)
        As the network takes them: best other ones than the concepts were learned from.
    labels : array-like of shape (N,), optional
        Their classes. None: those the network predicts.
    classes : sequence of int, optional
        Which to explain; None: all that have images. Images of others count as "outside".
    confusions : sequence of (int, int), optional
        Pairs (a, b): what pushes the images of class a towards class b. None: for each class the
        one that its images are taken for most often, or else the likeliest other one.
    settings : InfluenceSettings
        Of the influence. Where ``images`` is "all" these are the images of all explained classes.
    nb_crops : int, default=5
        Crops of a concept.
    patch_size : int, optional
        Side of the crops; None: 0.3 of the images' shorter side.
    path_images : int, default=8
        Where the head is not linear, contributions are means over at most this many images of a
        class, evenly spaced: each takes gradients along a path. Where it does not pool first, so
        is influence, and that of confusions.
    batch_size : int, default=64
    random_state : int, default=0
        Seed of the noise.
    verbose : int, default=1
        0 for silence; else progress bars.

    Returns
    -------
    explanation : ModelExplanation
        A value: tables, pictures, plain arrays.

    Raises
    ------
    TypeError, ValueError, NotFittedError
        If an argument is invalid.

    Notes
    -----
    Memory: a few numbers for each image and concept, pooled features, and activations up to 512 MB;
    beyond these the images of ``path_images`` are read a second time.
    """
    check_integer("nb_crops", nb_crops)
    check_integer("path_images", path_images)
    seen = scan(
        concepts, images, labels,
        patch_size=patch_size, batch_size=batch_size, random_state=random_state, verbose=verbose,
    )  # fmt: skip
    return explain_scan(
        seen, classes=classes, confusions=confusions, settings=settings, nb_crops=nb_crops,
        path_images=path_images, random_state=random_state, verbose=verbose,
    )  # fmt: skip


def explain_scan(
    seen: Scan,
    *,
    classes: Sequence[int] | None = None,
    confusions: Sequence[tuple[int, int]] | None = None,
    settings: InfluenceSettings = _DEFAULT,
    nb_crops: int = 5,
    path_images: int = 8,
    random_state: int | None = 0,
    verbose: int = 1,
) -> ModelExplanation:
    """Explain each class from images that have been read; arguments as of `explain_model`."""
    ids, layer = seen.class_ids, seen.layer
    names = layer.names_of_classes(seen.logits.shape[1])
    chosen = _chosen_classes(classes, ids, len(names))
    pairs = _confused_classes(confusions, chosen, seen)
    members = [np.flatnonzero(ids == k) for k in chosen]

    takes_maps = seen.pooled is None  # every noise vector passes through the head with every image
    indices = np.concatenate([_spaced(own, path_images) if takes_maps else own for own in members])
    influence = influence_in_scan(seen, indices, settings, random_state, verbose)
    if influence.interrupted:
        raise KeyboardInterrupt
    classes_in_order = zip(chosen.tolist(), members, strict=True)
    means = [
        _mean_contributions(seen, own, k, None, path_images)
        for k, own in progress(classes_in_order, len(chosen), "contributions", verbose, "class")
    ]
    pushes = tuple(
        _confusion(seen, a, b, names, settings.amount, path_images)
        for a, b in progress(pairs, len(pairs), "confusions", verbose, "pair")
    )
    others = [np.flatnonzero(ids != k) for k in chosen]
    detected, present = seen.detected, seen.detected > 0
    return ModelExplanation(
        class_ids=chosen,
        class_names=tuple(names[k] for k in chosen),
        concept_names=layer.concept_names,
        images=np.array([len(own) for own in members]),
        accuracy=np.array(
            [(seen.predicted[own] == k).mean() for k, own in zip(chosen, members, strict=True)]
        ),
        influence=_influence_on(influence, chosen),
        contributions=np.stack([mean.values for mean in means]),
        residuals=np.array([mean.residual for mean in means]),
        logits=np.array([mean.score for mean in means]),
        presence=_means(present, members),
        presence_outside=_means(present, others),
        occupancy=_means(detected, members),
        occupancy_outside=_means(detected, others),
        confusions=pushes,
        crops=tuple(seen.crops(i, nb_crops) for i in range(layer.number_of_concepts)),
        class_crops={
            (int(k), i): seen.crops(i, nb_crops, own)
            for k, own, mean in zip(chosen, members, means, strict=True)
            for i in _listed(int(k), mean.values, influence.changes[:, k], pushes)
        },
        amount=settings.amount,
    )


def _chosen_classes(classes: Sequence[int] | None, ids: Array, count: int) -> Array:
    """Return the classes to explain, in order, each with images."""
    with_images = np.unique(ids)
    if classes is None:
        return with_images
    if not isinstance(classes, (Sequence, np.ndarray)) or isinstance(classes, str):
        raise TypeError(f"classes are given as a list of their numbers, not {classes!r}")
    for class_id in classes:
        check_class(class_id, count)
    chosen = np.unique(np.asarray(classes, int))
    if not len(chosen) or not np.isin(chosen, with_images).all():
        missing = np.setdiff1d(chosen, with_images).tolist()
        raise ValueError(
            f"classes must have images: there are none of {missing}, but of {with_images.tolist()}"
        )
    return chosen


def _confused_classes(
    given: Sequence[tuple[int, int]] | None, classes: Array, seen: Scan
) -> list[tuple[int, int]]:
    """Return the given pairs, or each class with the one that it is taken for most often."""
    count = seen.logits.shape[1]
    if given is not None:
        for pair in given:
            if np.shape(pair) != (2,) or pair[0] == pair[1]:
                raise ValueError(f"confusions must be pairs (a, b) of two classes, not {pair!r}")
            for class_id in pair:
                check_class(class_id, count)
            if pair[0] not in classes:
                raise ValueError(
                    f"class {pair[0]} of the confusion {tuple(pair)} is not explained: its images "
                    f"are needed; classes are {classes.tolist()}"
                )
        return [(int(a), int(b)) for a, b in given]
    if count < 2:
        return []
    pairs = []
    for a in classes:
        own = seen.class_ids == a
        taken_for = np.bincount(seen.predicted[own], minlength=count).astype(float)
        taken_for[a] = -1.0
        best = np.lexsort((seen.logits[own].mean(axis=0), taken_for))[-1]
        pairs.append((int(a), int(best)))
    return pairs


def _listed(
    class_id: int, contributions: Array, changes: Array, pushes: Sequence[Confusion]
) -> list[int]:
    """Return the concepts that a report of the class may show, whatever it ranks by."""
    rankings = [contributions, changes]
    rankings += [push.contributions for push in pushes if push.source == class_id]
    return sorted(
        {int(i) for values in rankings for side in strongest(values, _LISTED) for i in side}
    )


def _influence_on(influence: Influence, classes: Array) -> Influence:
    """Return the influence on some classes."""
    columns = {
        name: getattr(influence, name)[:, classes]
        for name in ("scores", "changes", "exceeded", "compared")
    }
    return replace(influence, images=influence.images[classes], **columns)


def _spaced(indices: Array, at_most: int) -> Array:
    """Return evenly spaced ones of ``indices``, at most ``at_most``."""
    places = np.linspace(0, len(indices) - 1, min(at_most, len(indices))).round().astype(int)
    return indices[np.unique(places)]


def _means(values: Array, groups: Sequence[Array]) -> Array:
    """Return means over the images of each group, (C, I); NaN for a group without any."""
    nowhere = np.full(values.shape[1], np.nan)
    return np.stack([values[group].mean(axis=0) if len(group) else nowhere for group in groups])


def _mean_contributions(
    seen: Scan, indices: Array, class_id: int, against: int | None, path_images: int
) -> Contributions:
    """Return mean contributions by concept, (I,): over evenly spaced images if not linear."""
    layer, classes = seen.layer, seen.logits.shape[1]
    score = ClassScore(layer, class_id, against, classes, PATH_TOLERANCE, PATH_STEPS)
    rows = None if seen.pooled is None else layer.linear_rows(seen.pooled)
    if rows is not None:
        u, x = seen.coefficients(indices), seen.features(indices)
        effects = layer.bank.astype(np.float64) @ (score.weights @ rows.astype(np.float64))
        off = (x - u @ layer.bank).astype(np.float32)
        residual = float((layer.head.logits(off) @ score.weights).mean())
        mean = float((seen.logits[indices] @ score.weights).mean())
        return Contributions(u.mean(axis=0) * effects, residual, mean, 0)
    spaced = _spaced(indices, path_images)
    single = [
        score.contributions(x, u)
        for x, u in zip(seen.features(spaced), seen.coefficients(spaced), strict=True)
    ]
    return Contributions(
        np.mean([one.by_concept for one in single], axis=0),
        float(np.mean([one.residual for one in single])),
        float(np.mean([one.score for one in single])),
        sum(one.steps for one in single),
    )


def _confusion(
    seen: Scan, a: int, b: int, names: Sequence[str], amount: float, path_images: int
) -> Confusion:
    """Measure what pushes images of class a towards b."""
    layer, concepts = seen.layer, seen.layer.number_of_concepts
    own = np.flatnonzero(seen.class_ids == a)
    confused = own[seen.predicted[own] == b]
    mean = _mean_contributions(seen, own, b, a, path_images)
    among_confused = Contributions(np.full(concepts, np.nan), np.nan, np.nan, 0)
    if len(confused):
        among_confused = _mean_contributions(seen, confused, b, a, path_images)
    moved = _spaced(own, path_images) if seen.pooled is None else own
    changes = np.zeros(concepts)
    for part in slices(len(moved), chunk_size(concepts * seen.logits.shape[1])):
        features = seen.features(moved[part])
        change = log_probability_changes(layer.head, features, layer.encoding, amount=amount)
        changes += (change[..., b] - change[..., a]).sum(axis=0)
    return Confusion(
        source=a,
        target=b,
        names=(names[a], names[b]),
        images=len(own),
        confused=len(confused),
        contributions=mean.values,
        residual=mean.residual,
        difference=mean.score,
        changes=changes / len(moved),
        confused_contributions=among_confused.values,
        confused_residual=among_confused.residual,
        confused_difference=among_confused.score,
    )
