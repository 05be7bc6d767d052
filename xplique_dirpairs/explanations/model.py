"""Explanation of each class of a model by concepts: `explain_model`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from xplique_dirpairs.core.progress import progress
from xplique_dirpairs.core.types import Array
from xplique_dirpairs.core.validation import check_class, check_integer
from xplique_dirpairs.explanations.contributions import (
    ClassScore,
    Confusion,
    Contributions,
    strongest,
)
from xplique_dirpairs.explanations.model_explanation import ModelExplanation
from xplique_dirpairs.extractors.scan import Scan, scan
from xplique_dirpairs.sensitivity.influence import InfluenceSettings, influence_in_scan
from xplique_dirpairs.sensitivity.responses import sensitivity

#: Number of concepts for a class, and against it, that get crops of the class's own images.
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

    For each class and concept three things are measured:

    - the *influence* of the concept's encoding direction, along which the features change with the
      concept: by how much a step along it changes the class's centred logit (its logit minus the
      mean logit of all classes), and whether the change is larger than chance (see `influence`);
    - the *contribution* of the concept: its part of the difference between the class's logit and
      the logit with the coefficients of all concepts set to 0 (see `explain_prediction`), summed
      over positions and averaged over the images of the class;
    - how often the concept is *detected*, in the images of the class and in those of other classes.

    Below, the *head* is the part of the network from the layer of the concepts to the classes.

    Parameters
    ----------
    concepts : ConceptLayer or fitted extractor
        Anything that `ConceptLayer.of` accepts as its only argument. Concepts other than direction
        pairs have no detectors: they count as detected where their coefficient is above 0.
    images : array-like of shape (N, height, width, channels)
        N images as the network takes them, preferably not those that the concepts were learned
        from.
    labels : array-like of shape (N,) or (N, K), optional
        Class of each image, as an index or a one-hot row over K classes. None: the class that the
        network predicts.
    classes : sequence of int, optional
        Indices of the classes to explain. None: all classes that have images. Images of a class
        that is not explained still count as images of other classes, in `presence_outside`.
    confusions : sequence of (int, int), optional
        Pairs (a, b) of classes: for each pair, measure what pushes the images of class a towards
        class b. None: each class a is paired with the class that its images are most often
        mistaken for or, if there is none, with the other class that has the largest mean logit.
    settings : InfluenceSettings, default=InfluenceSettings()
        How influence is measured; by default with steps of length 5, in units of the features,
        against uniform random directions, at the 5 % level. With ``settings.images="all"`` it is
        measured in the images of all explained classes.
    nb_crops : int, default=5
        Number of crops that show each concept, from the images in which it is strongest.
    patch_size : int, optional
        Side of the square crops in pixels. None: 0.3 of the images' shorter side.
    path_images : int, default=8
        Ignored if the head is an average over positions followed by a linear map. For any other
        head, contributions are means over at most this number of evenly spaced images of each
        class, because each image needs gradients along a path. If the head does not even begin with
        an average over positions, influence is measured in this number of images of each class, or
        in twice ``settings.min_images`` if that is more.
    batch_size : int, default=64
        Number of images that pass through the network at a time.
    random_state : int or None, default=0
        Seed of the noise directions that influence is tested against. None draws a seed.
    verbose : int, default=1
        Progress bars are shown unless this is 0.

    Returns
    -------
    explanation : ModelExplanation
        Plain arrays, with methods for tables and figures.

    Raises
    ------
    TypeError
        If ``concepts`` holds no concepts, or ``classes`` is not a list of integers.
    ValueError
        If images and labels do not match, a class does not exist or has no images, or another
        argument is out of range.
    NotFittedError
        If ``concepts`` is not fitted.
    KeyboardInterrupt
        If Ctrl-C is pressed: nothing is returned.

    Notes
    -----
    The images pass through the network once. Memory is needed for a few numbers for each image and
    concept, for features averaged over positions, and for at most 512 MB of activations. If the
    activations of all images are larger than that, the images on which contributions are computed
    pass through the network a second time.
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
    """Explain each class from images that have been scanned: see `explain_model`."""
    ids, layer = seen.class_ids, seen.layer
    names = layer.names_of_classes(seen.logits.shape[1])
    chosen = _chosen_classes(classes, ids)
    pairs = _confused_classes(confusions, chosen, seen)
    members = {k: np.flatnonzero(ids == k) for k in chosen.tolist()}
    others = [np.flatnonzero(ids != k) for k in chosen]

    # A head that takes maps is evaluated for every pair of a noise vector and an image: few images,
    # but enough for classes to be tested.
    few = max(path_images, 2 * settings.min_images)
    indices = np.concatenate([_on_paths(seen, own, few) for own in members.values()])
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
    class_crops = {}
    for (k, own), mean in zip(members.items(), means, strict=True):
        rankings = [mean.by_concept, influence.effects[:, k]]
        rankings += [push.contributions for push in pushes if push.source == k]
        sides = [side for values in rankings for side in strongest(values, _LISTED)]
        for i in np.unique(np.concatenate(sides)).tolist():
            class_crops[k, i] = seen.crops(i, nb_crops, own)
    return ModelExplanation(
        class_ids=chosen,
        class_names=tuple(names[k] for k in chosen),
        concept_names=layer.concept_names,
        images=np.array([len(own) for own in members.values()]),
        accuracy=np.array(
            [(seen.predicted == ids)[own].mean() for own in members.values()]
            if seen.is_labelled
            else [np.nan] * len(members)
        ),
        influence=influence.of_classes(chosen),
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
    """Return the sorted numbers of the classes to explain, all of which have images."""
    with_images = np.unique(ids)
    if classes is None:
        return with_images
    if np.ndim(classes) != 1:
        raise TypeError(f"classes must be a list of class numbers, not {classes!r}")
    chosen = np.unique(np.asarray(classes))
    missing = np.setdiff1d(chosen, with_images).tolist()
    if missing or not len(chosen):
        known = with_images.tolist()
        raise ValueError(f"classes must be some of {known}, which have images, not {missing}")
    return chosen.astype(int)


def _confused_classes(
    given: Sequence[tuple[int, int]] | None, classes: Array, seen: Scan
) -> list[tuple[int, int]]:
    """Return the given pairs, or pair each class with the one it is most often mistaken for."""
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
                f"confusions must be pairs (a, b) of two classes, where a is one of the explained "
                f"classes, {classes.tolist()}, not {pair!r}"
            )
        check_class(pair[1], count)
    return [(int(a), int(b)) for a, b in given]


def _on_paths(seen: Scan, indices: Array, path_images: int) -> Array:
    """Return all ``indices`` if the head pools first, otherwise a few evenly spaced ones."""
    return indices if seen.pooled is not None else _spaced(indices, path_images)


def _spaced(indices: Array, count: int) -> Array:
    """Return at most ``count`` evenly spaced elements of ``indices``."""
    places = np.linspace(0, len(indices) - 1, min(count, len(indices))).round().astype(int)
    return np.asarray(indices[places])


def _means(values: Array, groups: Iterable[Array]) -> Array:
    """Return the mean of values (N, I) over each of C groups of images, (C, I); NaN if empty."""
    nowhere = np.full(values.shape[1], np.nan)
    return np.stack([values[group].mean(axis=0) if len(group) else nowhere for group in groups])


def _mean_contributions(
    seen: Scan, indices: Array, score: ClassScore, path_images: int
) -> Contributions:
    """Return mean contributions (I,), over a few evenly spaced images if the head is not linear."""
    if not len(indices):
        return Contributions(np.full(seen.layer.number_of_concepts, np.nan), np.nan, np.nan, 0)
    if seen.pooled is not None and seen.layer.linear_rows(seen.pooled) is not None:
        # Contributions to a linear head are linear in the features and coefficients: their mean
        # over the images is the contribution of the means.
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
    """Measure what pushes the images of class ``a`` towards class ``b``."""
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
