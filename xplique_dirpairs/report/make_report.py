"""A report from concepts, a network and images: `make_report`, and `write_report` in one call."""

from __future__ import annotations

from collections.abc import Sequence, Sized
from pathlib import Path
from typing import TYPE_CHECKING, Any

import keras
import numpy as np
from numpy.typing import ArrayLike

from xplique_dirpairs.comparison.result import Comparison
from xplique_dirpairs.core.validation import as_images, check_integer
from xplique_dirpairs.explanations.global_report import explain_model
from xplique_dirpairs.explanations.model_explanation import ModelExplanation
from xplique_dirpairs.extractors.concept_layer import (
    Explaining,
    Names,
    class_name_of,
    concept_layer,
)
from xplique_dirpairs.metrics.interpretability import Interpretability
from xplique_dirpairs.metrics.manipulation import class_probabilities
from xplique_dirpairs.pairs import Off
from xplique_dirpairs.report.content import ImagePages, Report
from xplique_dirpairs.report.image_reading import ImageReading, pairs_of
from xplique_dirpairs.report.page_files import check_place
from xplique_dirpairs.report.report_parts import (
    Gallery,
    changes_of,
    comparison_tables,
    concept_pages,
    metric_descriptions,
    other_extractors,
)
from xplique_dirpairs.report.thumbnails import scaled_down
from xplique_dirpairs.sensitivity.influence_inputs import checked_labels

if TYPE_CHECKING:
    from xplique_dirpairs.interventions.counterfactual_result import Counterfactuals

#: Likeliest classes that an image page names.
_LIKELIEST = 5


def write_report(
    path: str | Path,
    extractor: Explaining,
    images: ArrayLike,
    labels: ArrayLike | None = None,
    *,
    single_file: bool = False,
    **options,
) -> Path:
    """Make a report and write it; see `make_report`, which takes the options, and `Report.save`.

    Parameters
    ----------
    path
        A folder; or a file, with ``single_file``.
    extractor, images, labels
    single_file

    Returns
    -------
    page : Path
        What to open in a browser.
    """
    check_place(Path(path), single_file)  # not after minutes
    return make_report(extractor, images, labels, **options).save(path, single_file)


def make_report(
    extractor: Explaining,
    images: ArrayLike,
    labels: ArrayLike | None = None,
    *,
    input_to_latent_model: keras.Model | None = None,
    latent_to_logit_model: keras.Model | None = None,
    off: Off | None = None,
    title: str = "Concepts of a model",
    class_names: Names = None,
    concept_names: Sequence[str] | None = None,
    image_names: Sequence[str] | None = None,
    pictures: Sequence[ArrayLike] | None = None,
    explanation: ModelExplanation | None = None,
    comparison: Comparison | None = None,
    interpretability: Interpretability | None = None,
    counterfactuals: Counterfactuals | None = None,
    notes: Sequence[str] = (),
    max_images: int = 500,
    nb_crops: int = 8,
    picture_side: int = 320,
    batch_size: int = 64,
    random_state: int | None = 0,
    verbose: int = 1,
) -> Report:
    """Everything that a report shows of a model, its concepts and some images.

    Parameters
    ----------
    extractor
        Direction pairs, or what else `explain_model` takes.
    images : (N, height, width, channels)
        As the network takes them.
    labels : (N,) int, optional
        Their classes. None: those the network predicts.
    input_to_latent_model, latent_to_logit_model
        Halves of the network, of `split_model`; None: those of the extractor.
    off
        As of `explain_model`.
    title
    class_names
        Of all K classes, or a dictionary of some.
    concept_names : I of them, optional
    image_names : N of them, optional
        File names, say.
    pictures : N of them, optional
        What is shown of each image, of any size but the same part of the world: uint8, or as
        `images`. None: the images themselves, from their lowest value (black) to their highest.
    explanation
        What `explain_model` found with the same concepts; None: it is asked, with its defaults.
    comparison
        Its tables get a page, and its other extractors stand beside the concepts of each class.
    interpretability
        Labels of the concepts.
    counterfactuals
        Of these images, in this order.
    notes
        For the front page.
    max_images
        Images that have a page of their own: those of the best crops, then evenly of all classes.
        Figures are of all.
    nb_crops
        Of each concept.
    picture_side
        Pictures are scaled down to it, in pixels.
    batch_size
    random_state
        Seed of the noise of `explain_model`.
    verbose
        0 for silence; else progress bars.

    Returns
    -------
    report

    Raises
    ------
    TypeError, ValueError, NotFittedError
        If something is not as said.
    """
    counts = {
        "max_images": max_images, "nb_crops": nb_crops, "picture_side": picture_side,
        "batch_size": batch_size,
    }  # fmt: skip
    for name, value in counts.items():
        check_integer(name, value)
    array = as_images(images)
    network: dict[str, Any] = {
        "input_to_latent_model": input_to_latent_model,
        "latent_to_logit_model": latent_to_logit_model,
    }
    layer, _ = concept_layer(extractor, array[:2], off=off, **network)
    if image_names is None:
        image_names = [f"image {n}" for n in range(len(array))]
    _check_one_each("image_names", image_names, len(array))
    if layer.head.number_of_classes is not None:  # any class may be predicted: not after minutes
        class_name_of(class_names, layer.head.number_of_classes - 1)
    gallery = Gallery(array, pictures)
    if counterfactuals is not None:
        _check_one_each("counterfactuals", counterfactuals, len(array))
    if interpretability is not None and len(interpretability.labels) != layer.number_of_concepts:
        raise ValueError(
            f"interpretability is of {len(interpretability.labels)} concepts, but the extractor "
            f"has {layer.number_of_concepts}: measure it with the same extractor"
        )
    if explanation is None:
        explanation = explain_model(
            extractor, array, labels, class_names=class_names, concept_names=concept_names,
            off=off, batch_size=batch_size, random_state=random_state, verbose=verbose, **network,
        )  # fmt: skip
    elif len(explanation.concept_names) != layer.number_of_concepts:
        raise ValueError(
            f"explanation is of {len(explanation.concept_names)} concepts, but the extractor has "
            f"{layer.number_of_concepts}: make it with the same extractor"
        )

    reading = ImageReading(layer, pairs_of(extractor), array, batch_size, verbose)
    seen = reading.overview()
    ids = checked_labels(labels, *seen.logits.shape)
    ids = seen.logits.argmax(axis=1) if ids is None else ids
    shown = seen.shown(ids, max_images)
    near = reading.closer(shown, seen.logits)
    likeliest = np.argsort(-seen.logits[shown], axis=1, kind="stable")[:, :_LIKELIEST]
    kind = "sigmoid" if layer.head.is_multilabel else "softmax"
    probabilities = class_probabilities(seen.logits[shown], kind)
    pages = ImagePages(
        pictures=tuple(scaled_down(gallery[n], picture_side) for n in shown),
        names=tuple(str(image_names[n]) for n in shown),
        labels=ids[shown],
        likeliest=likeliest,
        probabilities=np.take_along_axis(probabilities, likeliest, axis=1),
        changes=changes_of(counterfactuals, shown),
        **near._asdict(),
    )
    named = {int(k) for k in (*ids[shown], *likeliest.ravel())}
    named |= {change.after for change in pages.changes if change is not None}
    named |= {k for found in explanation.confusions for k in (found.source, found.target)}
    known = dict(zip(explanation.class_ids.tolist(), explanation.class_names, strict=True))
    return Report(
        title=str(title),
        explanation=explanation,
        concepts=concept_pages(layer, seen, near.maps, gallery, shown, nb_crops, interpretability),
        images=pages,
        class_names={k: class_name_of(class_names, k) for k in sorted(named)} | known,
        extractors=() if comparison is None else other_extractors(comparison, explanation),
        tables=() if comparison is None else comparison_tables(comparison),
        metrics={} if comparison is None else metric_descriptions(),
        notes=tuple(str(note) for note in notes),
    )


def _check_one_each(name: str, values: Sized, count: int) -> None:
    if isinstance(values, str) or len(values) != count:
        raise ValueError(f"{name} must be one for each of {count} images, not {len(values)}")
