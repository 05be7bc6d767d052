"""The command ``correct``: make a model that no longer uses some concepts."""

from __future__ import annotations

import argparse

import keras
import matplotlib.pyplot as plt
import numpy as np

from xplique_dirpairs.commands.console import Console, printable
from xplique_dirpairs.commands.network import load_model
from xplique_dirpairs.commands.outputs import keep
from xplique_dirpairs.commands.subject import Subject, open_subject, shown_classes
from xplique_dirpairs.interventions.correction import correct
from xplique_dirpairs.interventions.correction_report import (
    CorrectionReport,
    GroupChange,
    report_correction,
)
from xplique_dirpairs.pairs import DirectionPairs

#: Maximum number of classes with a row of their own in the table, and in a confusion matrix.
_ROWS, _DRAWN = 40, 40


def run(arguments: argparse.Namespace, console: Console) -> None:
    """Suppress the concepts, and write the corrected model and what it changes."""
    with console.running():
        subject = open_subject(arguments, console)
        concepts = subject.concepts(DirectionPairs.load(arguments.pairs), arguments.pairs)
        names = [printable(concepts.concept_names[i]) for i in arguments.suppress]
        which = "concept" if len(names) == 1 else "concepts"
        console.step(f"suppress {which} {', '.join(names)}")
        corrected = correct(
            concepts,
            arguments.suppress,
            off=arguments.off,
            k=arguments.k,
            images=subject.preprocessing.model_inputs(subject.images[:4]),
        )
        path = arguments.output / "corrected.keras"
        keep(corrected.save, path, console)
        if path.exists():  # what is reported is what the file does
            corrected = load_model(path, arguments.imports)
        report = _report(subject, concepts.model, corrected, arguments, console)
        written = ["corrected.keras", *_write(arguments, report, console)]
    groups = {
        name: {
            "images": len(group.labels),
            "accuracy_before": group.accuracies[0],
            "accuracy_after": group.accuracies[1],
            "fixed": group.fixed,
            "broken": group.broken,
            "changed": group.changed,
        }
        for name, group in report.groups.items()
    }
    results = {"suppressed": arguments.suppress, "groups": groups}
    summary = subject.write_summary(arguments, results, written, console)
    text = (
        f"{report}\n\nEverything is in {arguments.output}/: the model is corrected.keras, "
        f"open {arguments.output / 'correction.md'}"
    )
    console.result(text, summary)


def _report(
    subject: Subject,
    model: keras.Model,
    corrected: keras.Model,
    arguments: argparse.Namespace,
    console: Console,
) -> CorrectionReport:
    """Report the changes on the images: a group for each large class, one for all others."""
    if subject.labels is None:
        console.note("the classes are not known: the original model's predictions count as correct")
    class_ids, names = subject.class_ids, subject.class_names.shown
    largest = sorted(shown_classes(subject, class_ids, arguments, console)[:_ROWS])
    members = {names[k]: class_ids == k for k in largest}
    if not np.isin(class_ids, largest).all():
        members["other classes"] = ~np.isin(class_ids, largest)
    before = subject.preprocessing.before
    return report_correction(
        before(model),
        before(corrected),
        {name: (subject.images[chosen], class_ids[chosen]) for name, chosen in members.items()},
        names,
    )


def _write(arguments: argparse.Namespace, report: CorrectionReport, console: Console) -> list[str]:
    """Write tables and, for few classes, confusion matrices; return the names of the files."""
    table = report.table()
    for name, form in {"correction.md": "markdown", "correction.csv": "csv"}.items():
        path = arguments.output / name
        with console.writing(path):
            path.write_text(table.formatted(form) + "\n", encoding="utf-8")
    if len(report.class_names) > _DRAWN:
        return ["correction.md", "correction.csv"]
    # The rows of a confusion matrix are classes, so one matrix covers all groups.
    joined = GroupChange.joined(report.groups.values())
    figure = CorrectionReport({"all images": joined}, report.class_names).plot()
    path = arguments.output / "confusion.png"
    with console.writing(path):
        figure.savefig(path, dpi=110, bbox_inches="tight")
    plt.close(figure)
    return ["correction.md", "correction.csv", "confusion.png"]
