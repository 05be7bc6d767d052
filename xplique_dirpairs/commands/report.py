"""The command ``report``: write an HTML report of the concepts of a layer."""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from xplique_dirpairs.commands.compare import compare_extractors, divide, metrics_of
from xplique_dirpairs.commands.console import Console, as_json
from xplique_dirpairs.commands.fit import learn
from xplique_dirpairs.commands.kept_pairs import keep_pairs
from xplique_dirpairs.commands.option_values import EXTRACTORS
from xplique_dirpairs.commands.others import open_others
from xplique_dirpairs.commands.outputs import keep
from xplique_dirpairs.commands.subject import (
    SUMMARY,
    Subject,
    given_concepts,
    open_subject,
    shown_classes,
)
from xplique_dirpairs.comparison.result import Comparison
from xplique_dirpairs.connectome.result import Connectome
from xplique_dirpairs.explanations.model import explain_scan
from xplique_dirpairs.extractors.concept_layer import ConceptLayer
from xplique_dirpairs.extractors.scan import scan
from xplique_dirpairs.pairs import DirectionPairs
from xplique_dirpairs.position.dependence import FEWEST_CELLS, FEWEST_IMAGES
from xplique_dirpairs.report.content import ReportSettings
from xplique_dirpairs.report.page_files import check_place
from xplique_dirpairs.report.write import write_report

#: Maximum number of concepts that a counterfactual changes.
_MAX_CHANGES = 3


def run(arguments: argparse.Namespace, console: Console) -> None:
    """Learn the concepts unless pairs are given, and write the report."""
    if arguments.single_file and not arguments.output.suffix:
        arguments.output = arguments.output.with_suffix(".html")
    with console.running():
        check_place(arguments.output, arguments.single_file)
        walked = None if arguments.connectome is None else Connectome.load(arguments.connectome)
        subject = open_subject(arguments, console)
        given = given_concepts(subject, arguments, console)
        to_fit, shown = subject, subject
        if given is None or arguments.beside:
            to_fit, shown = divide(subject, arguments, console)
        class_ids = np.concatenate([to_fit.class_ids, shown.class_ids])
        if to_fit is shown:
            class_ids = shown.class_ids
        explained = shown_classes(subject, class_ids, arguments, console)
        names = shown.folder_images.names.tolist()
        others = open_others(subject, names, arguments, console) if arguments.other else []
        comparison: Comparison | None = None
        if arguments.beside:
            concepts, comparison = _compared(arguments, to_fit, shown, given, console)
        else:
            concepts = given or _learned(arguments, to_fit, console)
        changes = _changes(arguments, to_fit, console)
        console.step("explain the classes")
        seen = scan(
            concepts,
            shown.images,
            shown.labels,
            activations=shown.known_activations,
            random_state=arguments.seed,
            verbose=console.progress,
        )
        position = _says_position(arguments, shown, console)
        explanation = explain_scan(
            seen,
            classes=np.intersect1d(explained, seen.class_ids).tolist() or None,
            random_state=arguments.seed,
            verbose=console.progress,
        )
        console.step("write the report")
        settings = ReportSettings(
            title=arguments.title or f"Concepts of {arguments.model.name}, layer {concepts.layer}",
            notes=console.notes + console.skipped_notes(),
            image_names=names,
            pictures=shown.folder_images.pixels,
            maximise=arguments.maximise,
            random_state=arguments.seed,
            position=position,
            connectomes={} if walked is None else {_layers_of(walked): walked},
        )
        pages: list[Path] = []

        def write(path: Path) -> None:
            training = to_fit.activations if changes and to_fit is not shown else None
            page = write_report(
                path,
                concepts,
                seen,
                explanation=explanation,
                comparison=comparison,
                counterfactuals=changes,
                training_activations=training,
                others={one.name: (one.concepts, one.images) for one in others},
                settings=settings,
                single_file=arguments.single_file,
                verbose=console.progress,
            )
            pages.append(page)

        keep(write, arguments.output, console)
    results = {
        "concepts": concepts.number_of_concepts,
        "measured_on": len(shown.images),
        "metrics": {} if comparison is None else metrics_of(comparison),
        "page": pages[0] if pages else None,
    }
    summary = subject.summary(arguments, class_ids) | results
    if given is None and pages and not arguments.single_file:  # what --other must know of the pairs
        path = arguments.output / SUMMARY
        with console.writing(path):
            path.write_text(as_json(summary) + "\n", encoding="utf-8")
    text = f"Open {pages[0]} in a browser" if pages else "The report could not be written"
    console.result(text, summary)


def _layers_of(connectome: Connectome) -> str:
    """Return the name of a connectome: its first and last layer."""
    return f"{connectome.layers[0].name} to {connectome.layers[-1].name}"


def _says_position(arguments: argparse.Namespace, shown: Subject, console: Console) -> bool:
    """Return whether the report says what depends on the place; a note says why it cannot."""
    if not arguments.position:
        return False
    if len(shown.images) < FEWEST_IMAGES:
        console.note(f"nothing about position: it takes {FEWEST_IMAGES} images at least")
        return False
    if shown.images.ndim == 5:
        console.note("nothing about position: it is measured on images, not on videos")
        return False
    cells = shown.split.input_to_latent_model.output_shape[1:-1]
    if not cells or (len(cells) == 2 and None not in cells and min(cells) < FEWEST_CELLS):
        sides = " × ".join(str(n) for n in cells) or "no"
        console.note(f"nothing about position: the layer has maps of {sides} cells")
        return False
    return True


def _saved(
    pairs: DirectionPairs, subject: Subject, arguments: argparse.Namespace, console: Console
) -> ConceptLayer:
    """Save learned pairs and return them as concepts.

    The pairs are saved at once, so that they are not lost if a later step fails. The file is in the
    folder of the report, or beside the single file and named after it.
    """
    path = arguments.output / "pairs.npz"
    if arguments.single_file:
        path = arguments.output.with_name(f"{arguments.output.stem}_pairs.npz")
    keep_pairs(pairs, path, console)
    return subject.concepts(pairs, path)


def _learned(arguments: argparse.Namespace, to_fit: Subject, console: Console) -> ConceptLayer:
    """Learn pairs, save them, and return them as concepts."""
    pairs, history = learn(arguments, to_fit, console)
    if history.interrupted:
        raise KeyboardInterrupt
    return _saved(pairs, to_fit, arguments, console)


def _compared(
    arguments: argparse.Namespace,
    to_fit: Subject,
    shown: Subject,
    given: ConceptLayer | None,
    console: Console,
) -> tuple[ConceptLayer, Comparison]:
    """Return the concepts, and their comparison with the extractors of --beside."""
    ours = EXTRACTORS[0]
    names = list(dict.fromkeys([ours, *arguments.beside]))
    extractors, comparison = compare_extractors(names, to_fit, shown, given, arguments, console)
    if comparison.interrupted:
        raise KeyboardInterrupt
    if ours not in comparison.results:
        raise ValueError(comparison.errors[ours])
    saved = given or _saved(extractors[ours].pairs, to_fit, arguments, console)
    return saved, comparison


def _changes(arguments: argparse.Namespace, to_fit: Subject, console: Console) -> int | None:
    """Return how many concepts a counterfactual may change; None for no counterfactuals."""
    if arguments.no_counterfactuals:
        return None
    if not to_fit.split.head.has_exclusive_classes:
        console.note("no counterfactuals: the model's outputs are not mutually exclusive classes")
        return None
    if len(to_fit.images) < 2:
        console.note("no counterfactuals: the range of the features needs more than one image")
        return None
    return _MAX_CHANGES
