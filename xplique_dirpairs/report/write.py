"""Building and writing of a report of concepts at a layer of a network: `write_report`."""

from __future__ import annotations

from collections.abc import Mapping, Sized
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from xplique_dirpairs.comparison.extractor_result import CONTROLS, upright_maps
from xplique_dirpairs.comparison.result import Comparison
from xplique_dirpairs.core.batching import in_turns, slices
from xplique_dirpairs.core.geometry import coverage_matrix
from xplique_dirpairs.core.linear_algebra import cosines
from xplique_dirpairs.core.progress import progress
from xplique_dirpairs.core.types import Array
from xplique_dirpairs.core.validation import as_inputs, check_integer
from xplique_dirpairs.data.annotated_images import flat_concepts
from xplique_dirpairs.data.images import best_crops_of_images, concept_maps, sides
from xplique_dirpairs.explanations.contributions import ClassScore
from xplique_dirpairs.explanations.model import explain_scan
from xplique_dirpairs.explanations.model_explanation import ModelExplanation
from xplique_dirpairs.extractors.concept_layer import ConceptLayer
from xplique_dirpairs.extractors.scan import BINS, Scan, scan
from xplique_dirpairs.interventions.counterfactual_result import Counterfactuals
from xplique_dirpairs.interventions.counterfactuals import CounterfactualSearch
from xplique_dirpairs.maximisation.maximise import maximise
from xplique_dirpairs.metrics.dissection import NO_LABEL
from xplique_dirpairs.metrics.interpretability import Interpretability
from xplique_dirpairs.metrics.manipulation import class_probabilities
from xplique_dirpairs.metrics.registry import METRICS
from xplique_dirpairs.plots.images import pixel_limits
from xplique_dirpairs.position.dependence import FEWEST_IMAGES, position_dependence
from xplique_dirpairs.report.arrangement import arranged_by_class, pointed_classes
from xplique_dirpairs.report.connectomes import (
    check_diagnoses,
    layer_by_layer,
    linked_connectomes,
)
from xplique_dirpairs.report.content import (
    Change,
    ConceptPages,
    ExtractorConcepts,
    Fact,
    ImagePages,
    Label,
    Report,
    ReportSettings,
)
from xplique_dirpairs.report.networks import check_others, other_networks
from xplique_dirpairs.report.page_files import check_place, save_report
from xplique_dirpairs.report.payload import largest_contributions
from xplique_dirpairs.report.pictures import Gallery, as_bytes, crop_side, cut, scaled_down

#: Number of likeliest classes that the page of an image names.
_LIKELIEST = 5
#: Number of crops of each concept of another extractor.
_OTHER_CROPS = 4
#: Largest number of cells of a shown map along each side; larger maps are averaged.
_CELLS = 16
#: Percentage of a concept's positive values that are shown at full strength in its maps.
_BRIGHTEST = 0.5
#: Number of pictures that are maximised at once, after which the progress bar moves on.
_MAXIMISED_AT_ONCE = 4
#: Number of images with the best crops of each concept that get a page before all other images.
_BEST_FIRST = 4
#: Number of images, spread evenly over all, on which dependence on the place is measured.
_POSITION_IMAGES = 100
_DEFAULT = ReportSettings()


def write_report(
    path: str | Path,
    concepts: Any,
    images: ArrayLike | Scan,
    labels: ArrayLike | None = None,
    *,
    explanation: ModelExplanation | None = None,
    comparison: Comparison | None = None,
    interpretability: Interpretability | None = None,
    counterfactuals: Counterfactuals | int | None = None,
    training_activations: Array | None = None,
    others: Mapping[str, Any] | None = None,
    settings: ReportSettings = _DEFAULT,
    single_file: bool = False,
    verbose: int = 1,
) -> Path:
    """Write a report of a model, its concepts and some images, in one pass over the images.

    The report is HTML that a browser opens without a server. It has a page for every class, for
    every concept, and for up to ``settings.max_images`` images.

    Parameters
    ----------
    path : str or Path
        A folder, which is created if needed; an earlier report in it is replaced. With
        ``single_file``, an HTML file.
    concepts : ConceptLayer or fitted extractor
        Anything that `ConceptLayer.of` accepts as its only argument.
    images : array-like of shape (N, height, width, C) or (N, T, height, width, C), or Scan
        Images, or videos, as the network takes them, or what `extractors.scan.scan` returned for
        them and these concepts. Pictures of videos are short animations, WebP; where motion is
        switched off in the system, they are still. Pages of videos have a strip of frames.
    labels : array-like of shape (N,) or (N, K), optional
        Class of each image, as an index or as a one-hot row of K classes; ignored for a scan, which
        has its own. None: the class that the network predicts.
    explanation : ModelExplanation, optional
        Result of `explain_model` for the same concepts, of these or of other images. None: it is
        computed from the report's images with default settings.
    comparison : Comparison, optional
        Result of `compare`, preferably of other extractors on images of the same classes. Its
        tables get a page, and the strongest concepts of its extractors, except for the controls,
        are shown on the pages of classes. None: the report has no such tables and concepts.
    interpretability : Interpretability, optional
        Result of `interpretability` for these concepts, whose labels are shown with their scores.
        None: concepts have no labels.
    counterfactuals : Counterfactuals or int, optional
        Counterfactuals of all N images, in the same order, for the pages of images. An integer: the
        largest number of concepts that may be changed together, in a search for counterfactuals of
        the images that have a page. None: there are no counterfactuals.
    training_activations : ndarray of shape (M, *spatial, D), optional
        Activations of M training images, used if ``counterfactuals`` is an integer: they show the
        search which features and coefficients are usual. None: the activations of ``images``, or of
        a part of them if all are larger than ``settings.memory``.
    others : mapping of str to object, optional
        By the name of another network, or another layer, its concepts: a `ConceptLayer` or fitted
        extractor, or a tuple of these and the same images, preprocessed for it. The page of each
        concept shows the concept there that it resembles most (`match_extractors`). None: there is
        none.
    settings : ReportSettings, default=ReportSettings()
        Title of the report, what it shows of the images, and how it is computed.
    single_file : bool, default=False
        Whether to write everything to one HTML file, which is about a third larger.
    verbose : int, default=1
        Progress bars are shown unless this is 0.

    Returns
    -------
    page : Path
        The file to open in a browser: ``index.html`` in the folder, or the single file.

    Raises
    ------
    TypeError
        If ``concepts`` is not an extractor, an argument has the wrong type, or pictures are to be
        maximised of concepts that are not direction pairs.
    ValueError
        If explanation, counterfactuals, names or other parts belong to other images or concepts, if
        pictures are to be maximised for videos, or an argument is out of range.
    NotFittedError
        If ``concepts`` is not fitted.
    NotADirectoryError, IsADirectoryError, FileExistsError
        If the path is a file and a folder is needed, or the reverse, or the folder holds a
        ``report_files`` that is not part of a report. This is checked before anything is computed.
    """
    path = Path(path)
    check_place(path, single_file)  # Fail now, and not after minutes of computation.
    layer = ConceptLayer.of(concepts)
    if settings.maximise and layer.pairs is None:
        raise TypeError(
            "settings.maximise needs direction pairs, whose detectors pictures can be made for, "
            f"not the concepts of a {type(layer.fitted).__name__}"
        )
    pixels = images.images if isinstance(images, Scan) else as_inputs(images)
    if settings.maximise and pixels.ndim == 5:
        raise ValueError("settings.maximise makes pictures for networks of images, not of videos")
    _check_parts(layer, len(pixels), explanation, interpretability, counterfactuals, settings)
    check_others(others or {}, len(pixels))
    check_diagnoses(settings.diagnoses, len(pixels))
    seen = images if isinstance(images, Scan) else scan(
        layer, pixels, labels, batch_size=settings.batch_size, memory=settings.memory,
        random_state=settings.random_state, verbose=verbose,
    )  # fmt: skip
    if explanation is None:
        explanation = explain_scan(seen, random_state=settings.random_state, verbose=verbose)
    places = shown = page_images(seen, settings.max_images)
    if isinstance(counterfactuals, (int, np.integer)):
        x = seen.activations(shown)
        if training_activations is None:
            training_activations = seen.kept if len(seen.kept) >= len(shown) else x
        search = CounterfactualSearch(layer, training_activations)
        counterfactuals = search.find(x, max_concepts=counterfactuals, verbose=verbose)
        places = np.arange(len(shown))
    changes = None
    if counterfactuals is not None:
        changes = tuple(_change(counterfactuals, int(n)) for n in places)
    report = build_report(
        seen, explanation, changes, comparison=comparison, interpretability=interpretability,
        settings=settings, verbose=verbose,
    )  # fmt: skip
    if others:
        report = replace(report, networks=other_networks(seen, others, settings))
    return save_report(report, path, single_file)


def build_report(
    seen: Scan,
    explanation: ModelExplanation,
    changes: tuple[Change | None, ...] | None = None,
    *,
    comparison: Comparison | None = None,
    interpretability: Interpretability | None = None,
    settings: ReportSettings = _DEFAULT,
    verbose: int = 1,
) -> Report:
    """Build the content of a report from images that have been scanned.

    Parameters
    ----------
    seen : Scan
        Result of `scan` for the images.
    explanation : ModelExplanation
        Result of `explain_model` for the same concepts.
    changes : tuple of (Change or None), optional
        Counterfactual of each image that has a page: see `page_images`. None: no counterfactuals.
    comparison : Comparison, optional
        A comparison of extractors: see `write_report`.
    interpretability : Interpretability, optional
        Labels of the concepts.
    settings : ReportSettings, default=ReportSettings()
        Title of the report, and what it shows of the images.
    verbose : int, default=1
        Progress bars are shown unless this is 0.

    Returns
    -------
    report : Report
        Plain arrays and names, for `save_report`.
    """
    gallery = Gallery(seen.images, settings.pictures)
    shown = page_images(seen, settings.max_images)
    pages = _image_pages(seen, shown, gallery, settings, verbose)
    if settings.diagnoses:
        found = {n: layer_by_layer(one) for n, one in settings.diagnoses.items() if n in shown}
        pages = replace(pages, diagnoses=tuple(found.get(n) for n in shown.tolist()))
    class_names = dict(enumerate(seen.layer.names_of_classes(seen.logits.shape[1])))
    class_names |= zip(explanation.class_ids.tolist(), explanation.class_names, strict=True)
    report = Report(
        title=str(settings.title),
        explanation=explanation,
        concepts=replace(
            _concept_pages(seen, explanation, shown, pages.maps, gallery, settings),
            labels=_labels(interpretability, len(explanation.concept_names)),
            maximised=_maximised(seen, settings, verbose) if settings.maximise else (),
            facts=_place_facts(seen, settings, verbose) if settings.position else (),
        ),
        images=pages if changes is None else replace(pages, changes=changes),
        class_names=class_names,
        notes=tuple(str(note) for note in settings.notes),
        connectomes=linked_connectomes(settings.connectomes, seen.layer),
    )
    if comparison is None:
        return report
    tables = (comparison.table(kind) for kind in dict.fromkeys(m.kind for m in METRICS.values()))
    return replace(
        report,
        extractors=_other_extractors(comparison, explanation),
        tables=tuple(table for table in tables if len(table.headers) > 1),
        metrics={metric.header: metric.description for metric in METRICS.values()},
    )


def _check_parts(
    layer: ConceptLayer,
    number_of_images: int,
    explanation: ModelExplanation | None,
    interpretability: Interpretability | None,
    counterfactuals: Counterfactuals | int | None,
    settings: ReportSettings,
) -> None:
    """Raise an error unless all parts of the report belong to these images and concepts."""
    by_image: dict[str, Any] = {
        "pictures": settings.pictures,
        "image_names": settings.image_names,
        "counterfactuals": counterfactuals,
    }
    by_concept: dict[str, Any] = {
        "explanation": explanation and explanation.concept_names,
        "interpretability": interpretability and interpretability.labels,
    }
    if counterfactuals is not None and not isinstance(counterfactuals, Sized):
        check_integer("counterfactuals", by_image.pop("counterfactuals"))
    if settings.position and number_of_images < FEWEST_IMAGES:
        raise ValueError(
            f"settings.position takes {FEWEST_IMAGES} or more images, not {number_of_images}"
        )
    for name, values in by_image.items():
        if values is not None and (isinstance(values, str) or len(values) != number_of_images):
            raise ValueError(
                f"{name} must be one for each of {number_of_images} images, not {len(values)}"
            )
    for name, values in by_concept.items():
        if values is not None and len(values) != layer.number_of_concepts:
            raise ValueError(
                f"{name} must have the {layer.number_of_concepts} concepts of the extractor, not "
                f"{len(values)}: compute it with the same extractor"
            )


# ------------------------------------------------------------ images


def page_images(seen: Scan, count: int) -> Array:
    """Return the sorted indices of the images that have a page, at most ``count``.

    Images with the best crops of a concept are chosen first, then images of all classes in turn.
    """
    total, concepts = seen.crop_values.shape
    if total <= count:
        return np.arange(total)
    best = [seen.best_images(i, _BEST_FIRST) for i in range(concepts)]
    ranked = [int(own[k]) for k in range(_BEST_FIRST) for own in best if k < len(own)]
    chosen = list(dict.fromkeys([*ranked, *in_turns(seen.class_ids).tolist()]))
    return np.sort(chosen[:count])


def _image_pages(
    seen: Scan, shown: Array, gallery: Gallery, settings: ReportSettings, verbose: int
) -> ImagePages:
    """Return the data of the pages of the shown images, without counterfactuals."""
    layer, logits = seen.layer, seen.logits[shown]
    likeliest = np.argsort(-logits, axis=1, kind="stable")[:, :_LIKELIEST]
    probabilities = class_probabilities(logits, layer.head.class_activation)
    scores = {k: ClassScore(layer, k, logits.shape[1]) for k in np.unique(likeliest[:, 0]).tolist()}
    maps, contributions = [], []
    parts = list(slices(len(shown), settings.batch_size))
    for part in progress(parts, len(parts), "pages of images", verbose, "batch"):
        x = seen.activations(shown[part])
        u, present = layer.read(x)
        placed = concept_maps(present, seen.images.shape[1:], layer.split.extra_tokens)
        maps.append(_reduced(placed))
        contributions += [
            scores[k].contributions(features, coefficients)
            for k, features, coefficients in zip(likeliest[part, 0].tolist(), x, u, strict=True)
        ]
    names, kind = settings.image_names, "video" if seen.images.ndim == 5 else "image"
    by_concept = np.stack([one.by_concept for one in contributions])
    return ImagePages(
        pictures=tuple(scaled_down(gallery[n], settings.picture_side) for n in shown),
        names=tuple(f"{kind} {n}" if names is None else str(names[n]) for n in shown),
        labels=seen.class_ids[shown],
        likeliest=likeliest,
        probabilities=np.take_along_axis(probabilities, likeliest, axis=1),
        scores=np.array([one.score for one in contributions]),
        residuals=np.array([one.residual for one in contributions]),
        contributions=by_concept,
        maps=_scaled(np.concatenate(maps)),
        changes=(None,) * len(shown),
        places=arranged_by_class(by_concept, likeliest[:, 0], settings.random_state),
        over_time=tuple(
            one.values.sum(axis=(1, 2)) for one in contributions if one.values.ndim == 4
        ),
    )


def _reduced(maps: Array) -> Array:
    """Return maps (n, H, W, I) averaged to at most `_CELLS` cells along each side."""
    for axis in (1, 2):
        if maps.shape[axis] > _CELLS:
            matrix = coverage_matrix(_CELLS, maps.shape[axis])
            maps = np.moveaxis(np.tensordot(matrix, maps, axes=(1, axis)), 0, axis)
    return maps.astype(np.float32)


def _scaled(maps: Array) -> Array:
    """Return maps (n, h, w, I) scaled to [0, 1] by a high percentile of each concept's values."""
    tops = [
        np.percentile(own[own > 0], 100 - _BRIGHTEST) if (own > 0).any() else 1.0
        for own in np.moveaxis(maps, -1, 0)
    ]
    return np.clip(maps / np.array(tops, np.float32), 0.0, 1.0)


# ------------------------------------------------------------ concepts


def _concept_pages(
    seen: Scan,
    explanation: ModelExplanation,
    shown: Array,
    maps: Array,
    gallery: Gallery,
    settings: ReportSettings,
) -> ConceptPages:
    """Return the data of the pages of all concepts, without labels and maximised pictures.

    ``maps`` (n, h, w, I) are those of the shown images.
    """
    layer, concepts = seen.layer, seen.layer.number_of_concepts
    best = [seen.best_images(i, settings.nb_crops).tolist() for i in range(concepts)]
    example = gallery[0]
    side = crop_side(seen.patch / min(sides(seen.images.shape[1:])) * min(sides(example.shape)))
    crops = [
        [cut(gallery[n], seen.crop_box(n, i), side) for n in own] for i, own in enumerate(best)
    ]
    places = {n: place for place, n in enumerate(shown.tolist())}
    histogram = seen.histogram
    if histogram is None:
        histogram = np.stack([np.histogram(maps[..., i], BINS, (0, 1))[0] for i in range(concepts)])
    decoding = layer.decoding
    classes, values, values_of = pointed_classes(seen, explanation)
    return ConceptPages(
        crops=tuple(
            np.array(own, np.uint8).reshape(-1, *example.shape[:-3], side, side, 3) for own in crops
        ),
        crop_images=tuple(np.array([places.get(n, -1) for n in own], int) for own in best),
        presence=(seen.detected > 0).mean(axis=0),
        occupancy=seen.detected.mean(axis=0),
        histogram=histogram / histogram.sum(axis=1, keepdims=True),
        histogram_of="coefficient" if seen.histogram is None else "detection",
        signal_cosines=cosines(layer.encoding, layer.encoding),
        filter_cosines=None if decoding is None else cosines(decoding, decoding),
        overlaps=seen.overlaps,
        labels=(None,) * concepts,
        pointed_classes=classes,
        pointed_values=values,
        pointed_by=values_of,
    )


def _place_facts(
    seen: Scan, settings: ReportSettings, verbose: int
) -> tuple[tuple[Fact, ...], ...]:
    """Return how each concept depends on the place in the image, as a fact for its page."""
    count = len(seen.images)
    chosen = np.linspace(0, count - 1, min(count, _POSITION_IMAGES)).astype(int)
    found = position_dependence(
        seen.layer, seen.images[chosen], batch_size=settings.batch_size,
        random_state=settings.random_state, verbose=verbose,
    )  # fmt: skip
    return tuple((Fact("Position", found.sentence(i)),) for i in range(len(found.verdicts)))


def _maximised(seen: Scan, settings: ReportSettings, verbose: int) -> tuple[Array, ...]:
    """Return a picture for each concept that makes its detector fire, as `maximise` does."""
    parts = list(slices(seen.layer.number_of_concepts, _MAXIMISED_AT_ONCE))
    shape = seen.images.shape[1:]
    pictures: list[Array] = []
    for part in progress(parts, len(parts), "maximised pictures", verbose, "batch"):
        images = maximise(
            seen.layer,
            list(range(seen.layer.number_of_concepts))[part],
            values_range=seen.limits,
            image_shape=(shape[0], shape[1], shape[2]),
            batch_size=_MAXIMISED_AT_ONCE,
            random_state=settings.random_state,
            verbose=0,
        )
        pictures += [
            scaled_down(one, settings.picture_side) for one in as_bytes(images, seen.limits)
        ]
    return tuple(pictures)


def _labels(scores: Interpretability | None, concepts: int) -> tuple[Label | None, ...]:
    """Return the label of each concept with its scores, or None for a concept without a label."""
    if scores is None:
        return (None,) * concepts
    names = flat_concepts(scores.concepts)
    figures = zip(
        scores.iou, scores.precision, scores.recall, scores.average_precision, strict=True
    )
    return tuple(
        None if label == NO_LABEL else Label(names[label][1], names[label][0], *own)
        for label, own in zip(scores.labels.tolist(), figures, strict=True)
    )


# ------------------------------------------------------------ counterfactuals


def _change(counterfactuals: Counterfactuals, n: int) -> Change:
    """Return the counterfactual of image ``n``."""
    moved = counterfactuals.moved_concepts(n)
    return Change(
        str(counterfactuals.status[n]),
        int(counterfactuals.after[n]),
        moved,
        counterfactuals.means_before[n, moved],
        counterfactuals.means_after[n, moved],
        float(counterfactuals.changed[n]),
        float(counterfactuals.distances_after.percentile[n]),
    )


# ------------------------------------------------------------ other extractors


def _other_extractors(
    comparison: Comparison, explanation: ModelExplanation
) -> tuple[ExtractorConcepts, ...]:
    """Return the strongest concepts for each class of each extractor, except for the controls."""
    images, extractors = comparison.images, []
    limits = pixel_limits(images)
    for name, result in comparison.results.items():
        if name in CONTROLS:
            continue
        contributions = {
            int(k): result.fidelity.contributions[comparison.class_ids == k].mean(axis=0)
            for k in np.intersect1d(explanation.class_ids, comparison.class_ids)
        }
        used = sorted({i for c in contributions.values() for i in largest_contributions(c)})
        maps = upright_maps(result.shown, images.shape[1:])[..., used]
        crops = best_crops_of_images(images, maps, _OTHER_CROPS)
        pictures = {i: as_bytes(own, limits) for i, own in zip(used, crops, strict=True)}
        extractors.append(ExtractorConcepts(name, contributions, pictures))
    return tuple(extractors)
