"""What drives each class of a model: `explain_model`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from xplique_dirpairs.core.progress import progress
from xplique_dirpairs.core.types import Array
from xplique_dirpairs.core.validation import check_class, check_integer
from xplique_dirpairs.explanations.contributions import ClassScore, Contributions
from xplique_dirpairs.explanations.model_explanation import Confusion, ModelExplanation, strongest
from xplique_dirpairs.extractors.scan import Scan, scan
from xplique_dirpairs.sensitivity.influence import InfluenceSettings, influence_in_scan
from xplique_dirpairs.sensitivity.responses import sensitivity

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
    chosen = _chosen_classes(classes, ids)
    pairs = _confused_classes(confusions, chosen, seen)
    members = {k: np.flatnonzero(ids == k) for k in chosen.tolist()}
    others = [np.flatnonzero(ids != k) for k in chosen]

    # Every noise vector passes through a head that takes maps together with every image.
    indices = np.concatenate([_on_paths(seen, own, path_images) for own in members.values()])
    influence = influence_in_scan(seen, indices, settings, random_state, verbose)
    if influence.interrupted:
        raise KeyboardInterrupt
    means = [
        _mean_contributions(seen, own, ClassScore(layer, k, len(names)), path_images)
        for k, own in progress(members.items(), len(members), "contributions", verbose, "class")
    ]
    pushes = tuple(
        _confusion(seen, a, b, (names[a], names[b]), settings.amount, path_images)
        for a, b in progress(pairs, len(pairs), "confusions", verbose, "pair")
    )
    columns = "scores", "changes", "images", "exceeded", "compared"
    of_classes = {name: getattr(influence, name)[..., chosen] for name in columns}
    class_crops = {}
    for (k, own), mean in zip(members.items(), means, strict=True):
        rankings = [mean.by_concept, influence.changes[:, k]]
        rankings += [push.contributions for push in pushes if push.source == k]
        sides = [side for values in rankings for side in strongest(values, _LISTED)]
        for i in np.unique(np.concatenate(sides)).tolist():
            class_crops[k, i] = seen.crops(i, nb_crops, own)
    return ModelExplanation(
        class_ids=chosen,
        class_names=tuple(names[k] for k in chosen),
        concept_names=layer.concept_names,
        images=np.array([len(own) for own in members.values()]),
        accuracy=np.array([(seen.predicted == ids)[own].mean() for own in members.values()]),
        influence=replace(influence, **of_classes),
        contributions=np.stack([mean.by_concept for mean in means]),
        residuals=np.array([mean.residual for mean in means]),
        logits=np.array([mean.score for mean in means]),
        presence=_means(seen.detected > 0, members.values()),
        presence_outside=_means(seen.detected > 0, others),
        occupancy=_means(seen.detected, members.values()),
        occupancy_outside=_means(seen.detected, others),
        confusions=pushes,
        crops=tuple(seen.crops(i, nb_crops) for i in range(layer.number_of_concepts)),
        class_crops=class_crops,
        amount=settings.amount,
    )


def _chosen_classes(classes: Sequence[int] | None, ids: Array) -> Array:
    """Return the classes to explain, in order, each with images."""
    with_images = np.unique(ids)
    if classes is None:
        return with_images
    if np.ndim(classes) != 1:
        raise TypeError(f"classes are given as a list of their numbers, not {classes!r}")
    chosen = np.unique(np.asarray(classes))
    missing = np.setdiff1d(chosen, with_images).tolist()
    if missing or not len(chosen):
        raise ValueError(
            f"classes must have images: there are none of {missing}, but of {with_images.tolist()}"
        )
    return chosen.astype(int)


def _confused_classes(
    given: Sequence[tuple[int, int]] | None, classes: Array, seen: Scan
) -> list[tuple[int, int]]:
    """Return the given pairs, or each class with the one that it is taken for most often."""
    count = seen.logits.shape[1]
    if given is None:
        pairs = []
        for a in classes.tolist():
            own = seen.class_ids == a
            taken_for = np.bincount(seen.predicted[own], minlength=count)
            taken_for[a] = -1
            best = np.lexsort((seen.logits[own].mean(axis=0), taken_for))[-1]
            pairs.append((a, int(best)))
        return pairs
    for pair in given:
        if np.shape(pair) != (2,) or pair[0] == pair[1] or pair[0] not in classes:
            raise ValueError(
                f"confusions must be pairs (a, b) of two classes, a one of those that are "
                f"explained, {classes.tolist()}, not {pair!r}"
            )
        check_class(pair[1], count)
    return [(int(a), int(b)) for a, b in given]


def _on_paths(seen: Scan, indices: Array, path_images: int) -> Array:
    """Return images: all where the head pools first, elsewhere a few, evenly spaced."""
    return indices if seen.pooled is not None else _spaced(indices, path_images)


def _spaced(indices: Array, count: int) -> Array:
    """Return evenly spaced ones of ``indices``, at most ``count``."""
    places = np.linspace(0, len(indices) - 1, min(count, len(indices))).round().astype(int)
    return np.asarray(indices[places])


def _means(values: Array, groups: Iterable[Array]) -> Array:
    """Return means over the images of each group, (C, I); NaN for a group without any."""
    nowhere = np.full(values.shape[1], np.nan)
    return np.stack([values[group].mean(axis=0) if len(group) else nowhere for group in groups])


def _mean_contributions(
    seen: Scan, indices: Array, score: ClassScore, path_images: int
) -> Contributions:
    """Return mean contributions by concept, (I,): over evenly spaced images if not linear."""
    if not len(indices):
        return Contributions(np.full(seen.layer.number_of_concepts, np.nan), np.nan, np.nan, 0)
    if seen.pooled is not None and seen.layer.linear_rows(seen.pooled) is not None:
        # Contributions are linear in the features, too: their mean is that of the mean features.
        arrays = seen.features(indices), seen.coefficients(indices)
        return score.contributions(*(values.mean(axis=0, dtype=np.float64) for values in arrays))
    spaced = _spaced(indices, path_images)
    single = [
        score.contributions(x, u)
        for x, u in zip(seen.features(spaced), seen.coefficients(spaced), strict=True)
    ]
    values = np.mean([one.by_concept for one in single], axis=0)
    residual, mean = np.mean([(one.residual, one.score) for one in single], axis=0).tolist()
    return Contributions(values, residual, mean, sum(one.steps for one in single))


def _confusion(
    seen: Scan, a: int, b: int, names: tuple[str, str], amount: float, path_images: int
) -> Confusion:
    """Measure what pushes images of class a towards b."""
    layer, own = seen.layer, np.flatnonzero(seen.class_ids == a)
    confused = own[seen.predicted[own] == b]
    score = ClassScore(layer, b, seen.logits.shape[1], against=a)
    mean = _mean_contributions(seen, own, score, path_images)
    mean_of_confused = _mean_contributions(seen, confused, score, path_images)
    features = seen.features(_on_paths(seen, own, path_images))
    changes = sensitivity(layer.head, features, None, layer.encoding, amount=amount).changes
    return Confusion(
        source=a,
        target=b,
        names=names,
        images=len(own),
        confused=len(confused),
        contributions=mean.by_concept,
        residual=mean.residual,
        difference=mean.score,
        changes=changes[:, b] - changes[:, a],
        confused_contributions=mean_of_confused.by_concept,
        confused_residual=mean_of_confused.residual,
        confused_difference=mean_of_confused.score,
    )
