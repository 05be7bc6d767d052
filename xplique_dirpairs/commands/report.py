"""The command ``report``: an HTML report of the concepts of a layer."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from xplique_dirpairs.commands.compare import (
    compared,
    comparison_data,
    tell_of_given,
    tell_parts,
)
from xplique_dirpairs.commands.concept_number import number_of_concepts
from xplique_dirpairs.commands.console import Console
from xplique_dirpairs.commands.extractor_list import NAMES
from xplique_dirpairs.commands.extractor_names import extractors
from xplique_dirpairs.commands.subject import Subject, load_pairs, open_subject
from xplique_dirpairs.comparison.result import Comparison
from xplique_dirpairs.extractors.direction_pairs import DirectionPairsTf
from xplique_dirpairs.extractors.reader import Extractor
from xplique_dirpairs.interventions.counterfactual_result import Counterfactuals
from xplique_dirpairs.interventions.counterfactual_search import CounterfactualSearch
from xplique_dirpairs.models.head import Head
from xplique_dirpairs.models.split import split_model
from xplique_dirpairs.pairs import DirectionPairs
from xplique_dirpairs.version import __version__


def run(arguments: argparse.Namespace, console: Console) -> None:
    """Learn the concepts if none are given, and write the report."""
    if arguments.single_file and not arguments.output.suffix:
        arguments.output = arguments.output.with_suffix(".html")
    with console.running():
        _check_place(arguments)
        subject = open_subject(arguments, console)
        pairs = None if arguments.pairs is None else load_pairs(arguments.pairs, subject)
        share = 0.0 if pairs is not None and not arguments.beside else arguments.held_out
        to_fit, shown = subject.parts(share, arguments.seed)
        if arguments.beside:
            tell_of_given(pairs, console)
        if pairs is None or arguments.beside:
            tell_parts(to_fit, shown, console)
        learned, comparison = _learned(arguments, to_fit, shown, pairs, console)
        if pairs is None:  # before what else takes time, or fails
            _save(learned, arguments)
        changes = _counterfactuals(arguments, to_fit, shown, learned, console)
        console.step("write the report")
        page = write_html(arguments, shown, learned, comparison, changes, console)
    summary: dict[str, Any] = {
        "command": "report",
        "version": __version__,
        "model": str(arguments.model),
        "seed": arguments.seed,
        **subject.about(),
        "concepts": learned.number_of_concepts,
        "measured_on": len(shown.images),
        "metrics": {} if comparison is None else comparison_data(comparison),
        "page": str(page),
    }
    console.result(f"Open {page} in a browser", summary)


def _save(pairs: Any, arguments: argparse.Namespace) -> None:
    """Learned pairs, in the report's folder, or beside its one file, under its name."""
    beside = arguments.output.with_name(f"{arguments.output.stem}_pairs.npz")
    path = beside if arguments.single_file else arguments.output / "pairs.npz"
    path.parent.mkdir(parents=True, exist_ok=True)
    pairs.save(path)


def _check_place(arguments: argparse.Namespace) -> None:
    """A report can be written there: said before anything is learned."""
    from xplique_dirpairs.report.page_files import check_place

    check_place(arguments.output, arguments.single_file)


def _learned(
    arguments: argparse.Namespace,
    to_fit: Subject,
    shown: Subject,
    pairs: DirectionPairs | None,
    console: Console,
):
    """The pairs, and a comparison with the extractors beside them, if there are any."""
    concepts = (
        number_of_concepts(arguments.concepts, to_fit, arguments.seed, console)
        if pairs is None
        else pairs.number_of_concepts
    )
    names = [NAMES[0], *(name for name in arguments.beside if name != NAMES[0])]
    methods = extractors(names, to_fit, concepts, arguments, console, pairs)
    ours = methods[NAMES[0]]
    comparison = None
    if len(names) > 1:
        comparison = compared(methods, to_fit, shown, arguments.seed, console)
        if comparison.interrupted:
            raise KeyboardInterrupt
        if NAMES[0] not in comparison.results:
            raise ValueError(comparison.errors[NAMES[0]])
    elif isinstance(ours, DirectionPairsTf):
        console.step(f"learn {concepts} concepts from {len(to_fit.images)} images")
        ours.fit(to_fit.images)
        if ours.history_ is not None and ours.history_.interrupted:
            raise KeyboardInterrupt
    return (ours.pairs if isinstance(ours, DirectionPairsTf) else ours), comparison


def _counterfactuals(
    arguments: argparse.Namespace,
    to_fit: Subject,
    shown: Subject,
    concepts: DirectionPairs | Extractor,
    console: Console,
) -> Counterfactuals | None:
    """Of the images that are shown; none if they are not wanted, or not defined."""
    if arguments.no_counterfactuals:
        return None
    head = Head(split_model(shown.model, shown.layer)[1])
    if head.is_multilabel and head.number_of_classes != 1:
        console.note("no counterfactuals: the model's outputs are not classes to choose between")
        return None
    if len(to_fit.images) < 2:
        console.note("no counterfactuals: what is within the data cannot be told from one image")
        return None
    console.step("look for the least changes of concepts that change predictions")
    search = CounterfactualSearch(head, concepts, to_fit.activations)
    return search.find(shown.activations, images=shown.images, verbose=console.progress)


def write_html(
    arguments: argparse.Namespace,
    shown: Subject,
    pairs: DirectionPairs | Extractor,
    comparison: Comparison | None,
    changes: Counterfactuals | None,
    console: Console,
) -> Path:
    """The report itself: the one place that knows how it is made."""
    from xplique_dirpairs.report.make_report import write_report

    return write_report(
        arguments.output,
        pairs,
        shown.images,
        shown.labels,
        single_file=arguments.single_file,
        input_to_latent_model=shown.first,
        latent_to_logit_model=shown.second,
        title=arguments.title or f"Concepts of {Path(arguments.model).name}, layer {shown.layer}",
        class_names=shown.class_names.shown,
        image_names=shown.names,
        pictures=shown.pictures,
        comparison=comparison,
        counterfactuals=changes,
        notes=console.notes + console.skipped_notes(),
        random_state=arguments.seed,
        verbose=console.progress,
    )
