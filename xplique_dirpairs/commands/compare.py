"""The command ``compare``: several extractors, the same images, one table."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

import numpy as np

from xplique_dirpairs.commands.concept_number import number_of_concepts
from xplique_dirpairs.commands.console import Console, as_json
from xplique_dirpairs.commands.extractor_names import extractors
from xplique_dirpairs.commands.subject import (
    SUMMARY,
    Subject,
    load_pairs,
    open_subject,
)
from xplique_dirpairs.comparison.compare import compare
from xplique_dirpairs.comparison.result import Comparison
from xplique_dirpairs.metrics.registry import METRICS
from xplique_dirpairs.pairs import DirectionPairs
from xplique_dirpairs.version import __version__


def run(arguments: argparse.Namespace, console: Console) -> None:
    """Compare, and write tables and figures to a folder."""
    with console.running():
        subject = open_subject(arguments, console)
        to_fit, to_measure = subject.parts(arguments.held_out, arguments.seed)
        tell_parts(to_fit, to_measure, console)
        pairs = None if arguments.pairs is None else load_pairs(arguments.pairs, subject)
        tell_of_given(pairs, console)
        if pairs is None:
            concepts = number_of_concepts(arguments.concepts, to_fit, arguments.seed, console)
        else:
            concepts = pairs.number_of_concepts
        methods = extractors(arguments.extractors, subject, concepts, arguments, console, pairs)
        found = compared(methods, to_fit, to_measure, arguments.seed, console)
        console.step("draw the figures")
        written = [path.name for path in found.save_report(arguments.output)]
        found.save(arguments.output / "comparison.npz")
        if found.interrupted:
            console.note(f"what was measured by then is in {arguments.output}")
            raise KeyboardInterrupt
    summary = {
        "command": "compare",
        "version": __version__,
        "model": str(arguments.model),
        "seed": arguments.seed,
        **subject.about(),
        "concepts": concepts,
        "measured_on": len(to_measure.images),
        "metrics": comparison_data(found),
        "errors": found.errors,
        "output": str(arguments.output),
        "written": [*written, "comparison.npz", SUMMARY],
    }
    (arguments.output / SUMMARY).write_text(as_json(summary) + "\n", encoding="utf-8")
    text = f"{found}\n\nEverything is in {arguments.output}/: start with table.md"
    console.result(text, summary)


def tell_parts(to_fit: Subject, to_measure: Subject, console: Console) -> None:
    """Say which images are for what."""
    if to_fit is to_measure:
        console.note(
            f"all {len(to_fit.images)} images are learned from and measured on: few images, or "
            "--held-out 0"
        )
    else:
        console.note(
            f"learned from {len(to_fit.images)} images, measured on {len(to_measure.images)} others"
        )


def tell_of_given(pairs: DirectionPairs | None, console: Console) -> None:
    """Nobody knows what pairs of a file were learned from."""
    if pairs is not None:
        console.note("the pairs of --pairs may have been learned from images that are measured on")


def compared(
    methods: dict[str, Any], to_fit: Subject, to_measure: Subject, seed: int, console: Console
) -> Comparison:
    """The methods, fitted on one part of the images and measured on the other."""
    names: Sequence[str] = list(methods)
    console.step(f"compare {', '.join(names)}")
    return compare(
        methods,
        to_measure.images,
        _labels(to_measure),
        fit_images=to_fit.images,
        input_to_latent_model=to_fit.first,
        latent_to_logit_model=to_fit.second,
        random_state=seed,
        verbose=console.progress,
    )


def _labels(subject: Subject):
    return None if subject.labels is None else np.asarray(subject.labels)


def comparison_data(found: Comparison) -> dict[str, Any]:
    """Extractor → metric → (figure, low, high)."""
    return {
        name: {
            key: {"value": s.value, "low": s.low, "high": s.high, "better": METRICS[key].arrow}
            for key, s in result.summaries.items()
        }
        for name, result in found.results.items()
    }
