"""What drives each class of a model: `explain_model`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import keras
import numpy as np
from numpy.typing import ArrayLike, NDArray

from xplique_dirpairs.core.progress import progress
from xplique_dirpairs.core.validation import as_images, check_class, check_fraction, check_integer
from xplique_dirpairs.explanations.model_explanation import (
    Confusion,
    ModelExplanation,
    strongest,
)
from xplique_dirpairs.explanations.path import few_logits
from xplique_dirpairs.explanations.shares import ScoreOfLayer
from xplique_dirpairs.extractors.concept_layer import (
    ConceptLayer,
    Explaining,
    Names,
    check_class_names,
    class_name_of,
    concept_layer,
    concept_names_of,
)
from xplique_dirpairs.extractors.scan import Scan, scan_images
from xplique_dirpairs.pairs import Off
from xplique_dirpairs.sensitivity.influence import (
    STATISTICS,
    Influence,
    influence,
    log_probability_changes,
)
from xplique_dirpairs.sensitivity.influence_inputs import checked_labels

#: What a path of a mean may miss, in logits, and the gradients it may take.
_TOLERANCE, _MAX_STEPS = 1e-2, 128
#: Concepts on either side of a class that have crops of its own images.
_LISTED = 8
#: Changes (image, concept, class) that are held at a time.
_CHANGES_AT_ONCE = 2**22


def explain_model(
    extractor: Explaining,
    images: ArrayLike,
    labels: ArrayLike | None = None,
    *,
    classes: Sequence[int] | None = None,
    confusions: Sequence[tuple[int, int]] | None = None,
    class_names: Names = None,
    concept_names: Sequence[str] | None = None,
    input_to_latent_model: keras.Model | None = None,
    latent_to_logit_model: keras.Model | None = None,
    off: Off | None = None,
    amount: float = 5.0,
    permutations: int | None = None,
    influence_images: str = "all",
    statistic: str = "signed change",
    level: float = 0.05,
    nb_crops: int = 5,
    patch_size: int | None = None,
    path_images: int = 8,
    batch_size: int = 64,
    random_state: int | None = 0,
    verbose: int = 1,
) -> ModelExplanation:
    """What drives each class: which concepts speak for it and against it, and by how much.

    One pass over the images. Three things are measured for each class and concept, over the
    class's images: the *influence* of more of the concept (`metrics.influence`, tested against
    noise), what the concept *contributes* to the class's logit as it is (mean of
    `explain_prediction`, summed over positions), and how often it is *detected*, there and in the
    images of the other classes.

    Parameters
    ----------
    extractor
        Direction pairs, a fitted extractor (`DirectionPairsTf`, Xplique's `CraftTf`, …), or a
        `DirectionPairsManagerTf` whose pairs are shared. Of extractors without detectors a concept
        counts as detected where its coefficient is above 0.
    images : (N, height, width, channels)
        As the network takes them: best other ones than the concepts were learned from.
    labels : (N,) int, optional
        Their classes. None: those the network predicts.
    classes
        Which to explain; None: all that have images. Images of others count as "outside".
    confusions
        Pairs (a, b): what pushes the images of class a towards class b. None: for each class the
        one that its images are taken for most often, or, where there is no such, the likeliest
        other one.
    class_names
        Of all K classes, or a dictionary of some. One output has two, its no and its yes.
    concept_names : I of them, optional
    input_to_latent_model, latent_to_logit_model
        Halves of the network, of `split_model`; None: those of the extractor.
    off
        "absent" or "undecided", for direction pairs: see `DirectionPairs.coefficients`. None: as
        the extractor has it, "absent" for pairs alone.
    amount, permutations, statistic, level
        Of `influence`: a, N, what is compared with noise, θ. ``permutations`` None: 1000; 100 for a
        head that does not pool first, where every noise vector is passed through it.
    influence_images
        "all": a class's log p is looked at in the images of all explained classes, so that what
        helps a class can be seen where the class is not certain already. "class": in its own.
    nb_crops
        Of a concept.
    patch_size
        Side of the crops; None: 0.3 of the images' shorter side.
    path_images
        Where the head is not linear, contributions are means over at most so many images of a
        class, evenly spaced: each takes gradients along a path. Where it does not pool first,
        influence is over these, too.
    batch_size
    random_state
        Seed of the noise.
    verbose
        0 for silence; else progress bars.

    Returns
    -------
    explanation
        A value: tables, pictures, plain arrays.

    Raises
    ------
    TypeError, ValueError, NotFittedError
        If something is not as said.

    Notes
    -----
    Memory: a few numbers for each image and concept, and features, averaged over positions where
    the head begins with a global average pooling; those of any other head are kept whole.
    """
    counts = {"nb_crops": nb_crops, "path_images": path_images, "batch_size": batch_size}
    optional = {"patch_size": patch_size, "permutations": permutations}
    counts |= {name: value for name, value in optional.items() if value is not None}
    _check_settings(counts, level, influence_images, statistic)
    images = as_images(images)
    layer, some_activations = concept_layer(
        extractor, images[:2], input_to_latent_model, latent_to_logit_model, off
    )
    named = concept_names_of(concept_names, layer.number_of_concepts)
    number_of_classes = few_logits(layer.head, some_activations).shape[1]
    check_class_names(class_names, number_of_classes)
    given = checked_labels(labels, len(images), number_of_classes)
    scan = scan_images(layer, images, patch_size, batch_size, random_state, verbose)
    predicted = scan.logits.argmax(axis=1)
    ids = predicted if given is None else given
    chosen = _chosen_classes(classes, ids, number_of_classes)
    names = tuple(class_name_of(class_names, int(k)) for k in chosen)
    wanted = _confusions(confusions, chosen, ids, scan)

    members = [np.flatnonzero(ids == k) for k in chosen]
    maps = scan.features.ndim > 2  # every noise vector passes through the head with every image
    some = np.concatenate([_spaced(of, path_images) if maps else of for of in members])
    found = influence(
        layer.head, scan.features[some], ids[some] if influence_images == "class" else None,
        layer.reader.encoding, scan.sample_detections, scan.sample, amount=amount,
        permutations=permutations or (100 if maps else 1000), statistic=statistic, level=level,
        random_state=random_state, verbose=verbose,
    )  # fmt: skip
    if found.interrupted:
        raise KeyboardInterrupt
    means = [
        _mean_shares(layer, scan, of, k, None, path_images)
        for k, of in progress(
            zip(chosen, members, strict=True), len(chosen), "contributions", verbose, "class"
        )
    ]
    rates = [_rates(scan.detected, of) for of in members]
    pushes = tuple(
        _confusion(layer, scan, ids, a, b, class_names, amount, path_images)
        for a, b in progress(wanted, len(wanted), "confusions", verbose, "pair")
    )
    return ModelExplanation(
        class_ids=chosen,
        class_names=names,
        concept_names=named,
        images=np.array([len(of) for of in members]),
        accuracy=np.array(
            [(predicted[of] == k).mean() for k, of in zip(chosen, members, strict=True)]
        ),
        influence=_of_classes(found, chosen),
        contributions=np.stack([mean.contributions for mean in means]),
        residuals=np.array([mean.residual for mean in means]),
        logits=np.array([mean.score for mean in means]),
        presence=np.stack([rate.images for rate in rates]),
        presence_outside=np.stack([rate.images_outside for rate in rates]),
        occupancy=np.stack([rate.positions for rate in rates]),
        occupancy_outside=np.stack([rate.positions_outside for rate in rates]),
        confusions=pushes,
        crops=tuple(
            scan.crops(images, np.arange(len(images)), i, nb_crops) for i in range(len(named))
        ),
        class_crops={
            (int(k), i): scan.crops(images, of, i, nb_crops)
            for k, of, mean in zip(chosen, members, means, strict=True)
            for i in _listed(int(k), mean.contributions, found.changes[:, k], pushes)
        },
        amount=amount,
    )


class _MeanShares(NamedTuple):
    """Mean shares of several images, contributions (I,) summed over positions."""

    contributions: NDArray
    residual: float
    score: float


class _Rates(NamedTuple):
    """Where concepts are detected, (I,) each: shares of the images, and of their positions."""

    images: NDArray
    images_outside: NDArray
    positions: NDArray
    positions_outside: NDArray


def _check_settings(
    counts: dict[str, int], level: float, influence_images: str, statistic: str
) -> None:
    """What can be told before anything is computed."""
    for name, value in counts.items():
        check_integer(name, value)
    check_fraction("level", level)
    if influence_images not in ("all", "class"):
        raise ValueError(f"influence_images must be 'all' or 'class', not {influence_images!r}")
    if statistic not in STATISTICS:
        raise ValueError(f"statistic must be one of {STATISTICS}, not {statistic!r}")


def _chosen_classes(classes: Sequence[int] | None, ids: NDArray, count: int) -> NDArray:
    """Classes to explain, in order, each with images."""
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


def _listed(
    class_id: int, contributions: NDArray, changes: NDArray, pushes: Sequence[Confusion]
) -> list[int]:
    """Concepts that a report of the class may show, whatever it ranks by."""
    by = [contributions, changes, *(p.contributions for p in pushes if p.source == class_id)]
    return sorted({int(i) for values in by for side in strongest(values, _LISTED) for i in side})


def _of_classes(found: Influence, classes: NDArray) -> Influence:
    """The columns of some classes."""
    columns = {
        name: getattr(found, name)[:, classes]
        for name in ("scores", "changes", "exceeded", "compared")
    }
    return replace(found, images=found.images[classes], **columns)


def _mean_shares(
    layer: ConceptLayer, scan: Scan, among: NDArray, class_id: int, against: int | None, most: int
) -> _MeanShares:
    """Over images: all of them where the head is linear, at most so many elsewhere."""
    classes = scan.logits.shape[1]
    score = ScoreOfLayer(layer, int(class_id), against, classes, _TOLERANCE, _MAX_STEPS)
    rows = layer.linear_rows(scan.features)
    if rows is not None:
        effects = layer.bank.astype(np.float64) @ (score.weights @ rows.astype(np.float64))
        contributions = scan.coefficients_of(among, layer).mean(axis=0) * effects
        mean = float((scan.logits[among] @ score.weights).mean())
        off = scan.features[among] - scan.coefficients_of(among, layer) @ layer.bank
        residual = float((layer.head.logits(off.astype(np.float32)) @ score.weights).mean())
        return _MeanShares(contributions, residual, mean)
    some = _spaced(among, most)
    found = [
        score.shares(x, u)
        for x, u in zip(scan.features[some], scan.coefficients_of(some, layer), strict=True)
    ]
    summed = [one.contributions.reshape(-1, layer.number_of_concepts).sum(axis=0) for one in found]
    return _MeanShares(
        np.mean(summed, axis=0),
        float(np.mean([one.residual for one in found])),
        float(np.mean([one.score for one in found])),
    )


def _spaced(among: NDArray, most: int) -> NDArray:
    """At most so many of them, evenly spaced."""
    places = np.linspace(0, len(among) - 1, min(most, len(among))).round().astype(int)
    return among[np.unique(places)]


def _rates(detected: NDArray, of: NDArray) -> _Rates:
    """NaN outside if there is no other image."""
    inside, outside = detected[of], np.delete(detected, of, axis=0)
    nowhere = np.full(detected.shape[1], np.nan)
    return _Rates(
        (inside > 0).mean(axis=0),
        (outside > 0).mean(axis=0) if len(outside) else nowhere,
        inside.mean(axis=0),
        outside.mean(axis=0) if len(outside) else nowhere,
    )


def _confusions(
    given: Sequence[tuple[int, int]] | None, classes: NDArray, ids: NDArray, scan: Scan
) -> list[tuple[int, int]]:
    """The given pairs, or each class with the one that it is taken for most often."""
    count = scan.logits.shape[1]
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
        logits = scan.logits[ids == a]
        taken = np.bincount(logits.argmax(axis=1), minlength=count).astype(float)
        taken[a] = -1.0
        rivals = logits.mean(axis=0)
        best = np.lexsort((rivals, taken))[-1]
        pairs.append((int(a), int(best)))
    return pairs


def _confusion(
    layer: ConceptLayer,
    scan: Scan,
    ids: NDArray,
    a: int,
    b: int,
    class_names: Names,
    amount: float,
    most: int,
) -> Confusion:
    """What pushes images of class a towards b."""
    of = np.flatnonzero(ids == a)
    confused = of[scan.logits[of].argmax(axis=1) == b]
    mean = _mean_shares(layer, scan, of, b, a, most)
    among = _mean_shares(layer, scan, confused, b, a, most) if len(confused) else None
    concepts = layer.number_of_concepts
    changes = np.zeros(concepts)
    at_once = max(1, _CHANGES_AT_ONCE // (concepts * scan.logits.shape[1]))
    for start in range(0, len(of), at_once):
        part = scan.features[of[start : start + at_once]]
        moved = log_probability_changes(layer.head, part, layer.reader.encoding, amount=amount)
        changes += (moved[..., b] - moved[..., a]).sum(axis=0)
    return Confusion(
        source=a,
        target=b,
        names=(class_name_of(class_names, a), class_name_of(class_names, b)),
        images=len(of),
        confused=len(confused),
        contributions=mean.contributions,
        residual=mean.residual,
        difference=mean.score,
        changes=changes / len(of),
        confused_contributions=np.full(concepts, np.nan) if among is None else among.contributions,
        confused_residual=float("nan") if among is None else among.residual,
        confused_difference=float("nan") if among is None else among.score,
    )
