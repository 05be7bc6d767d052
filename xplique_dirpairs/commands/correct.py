"""The command ``correct``: a model that no longer uses some concepts."""

from __future__ import annotations

import argparse

import keras
import matplotlib.pyplot as plt
import numpy as np
from numpy.typing import NDArray

from xplique_dirpairs.commands.console import Console, as_json, printable
from xplique_dirpairs.commands.subject import (
    SUMMARY,
    Subject,
    load_pairs,
    open_subject,
    shown_classes,
)
from xplique_dirpairs.interventions.correction import correct
from xplique_dirpairs.interventions.correction_report import CorrectionReport, report_correction
from xplique_dirpairs.version import __version__

#: Classes that have a row of their own; outputs up to which confusions are drawn.
_ROWS, _DRAWN = 40, 40


def run(arguments: argparse.Namespace, console: Console) -> None:
    """Suppress the concepts, and write the model and what changed."""
    with console.running():
        subject = open_subject(arguments, console)
        pairs = load_pairs(arguments.pairs, subject)
        wanted = arguments.suppress
        missing = [i for i in wanted if i >= pairs.number_of_concepts]
        if missing:
            raise ValueError(
                f"--suppress: there is no concept {missing[0]}: {printable(arguments.pairs)} has "
                f"concepts 0 to {pairs.number_of_concepts - 1}"
            )
        console.step(f"suppress concepts {', '.join(map(str, wanted))}")
        corrected = correct(
            subject.model, subject.layer, pairs, wanted, off=arguments.off, k=arguments.k
        )
        arguments.output.mkdir(parents=True, exist_ok=True)
        corrected.save(arguments.output / "corrected.keras")
        report = _report(subject, corrected, console)
        written = ["corrected.keras", *_write(arguments, report, len(subject.class_names))]
    summary = {
        "command": "correct",
        "version": __version__,
        "model": str(arguments.model),
        "seed": arguments.seed,
        **subject.about(),
        "suppressed": wanted,
        "groups": {
            name: {
                "images": len(group.labels),
                "accuracy_before": group.accuracies[0],
                "accuracy_after": group.accuracies[1],
                "mended": group.fixed,
                "broken": group.broken,
                "changed": group.changed,
            }
            for name, group in report.groups.items()
        },
        "output": str(arguments.output),
        "written": [*written, SUMMARY],
    }
    (arguments.output / SUMMARY).write_text(as_json(summary) + "\n", encoding="utf-8")
    text = f"{report}\n\nEverything is in {arguments.output}/: the model is corrected.keras"
    console.result(text, summary)


def _report(subject: Subject, corrected: keras.Model, console: Console) -> CorrectionReport:
    """What changed on the images."""
    if subject.labels is None:
        console.note(
            "the classes of the images are not known: what the model predicted before counts as "
            "right"
        )
    return report_correction(
        subject.preprocessing.before(subject.model),
        subject.preprocessing.before(corrected),
        _groups(subject),
        subject.class_names.shown,
    )


def _groups(subject: Subject) -> dict[str, tuple[NDArray, NDArray]]:
    """A group for each class; all others in one, where they are many."""
    ids = subject.ids
    chosen = shown_classes(ids, _ROWS)
    groups = {
        subject.class_names.shown[k]: (subject.images[ids == k], ids[ids == k]) for k in chosen
    }
    rest = ~np.isin(ids, chosen)
    if rest.any():
        groups["other classes"] = (subject.images[rest], ids[rest])
    return groups


def _write(arguments: argparse.Namespace, report: CorrectionReport, outputs: int) -> list[str]:
    """Tables and, of few classes, confusion matrices; their names."""
    table = report.table()
    for name, form in {"correction.md": "markdown", "correction.csv": "csv"}.items():
        (arguments.output / name).write_text(table.formatted(form) + "\n", encoding="utf-8")
    if outputs > _DRAWN:
        return ["correction.md", "correction.csv"]
    figure = _all_together(report).plot()
    figure.savefig(arguments.output / "confusion.png", dpi=110, bbox_inches="tight")
    plt.close(figure)
    return ["correction.md", "correction.csv", "confusion.png"]


def _all_together(report: CorrectionReport) -> CorrectionReport:
    """One group of all images: a confusion matrix has the classes as rows already."""
    parts = list(report.groups.values())
    joined = type(parts[0])(
        *(np.concatenate([getattr(part, name) for part in parts])
          for name in ("labels", "before", "after"))
    )  # fmt: skip
    return CorrectionReport({"all images": joined}, report.class_names)
