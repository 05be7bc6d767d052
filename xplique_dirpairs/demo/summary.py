"""The results of the demo in words and tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from xplique_dirpairs.learning.history import History
from xplique_dirpairs.plots.learning import LOSS_NAMES

#: What each picture shows, by the name of its file.
CAPTIONS = {
    "1_pictures": "The data: a photograph and a digit make a class.",
    "2_concepts": "Concepts with their best crops, CRAFT's beside the direction pairs'.",
    "3_maps": "New pictures, lit where each of the most important concepts is.",
    "4_importances": "Importances of the most important concepts, side by side.",
    "5_detections": "What the detectors find in new pictures.",
    "6_image_pairs": "`plot_image_concepts` of `DirectionPairsTf`.",
    "7_image_craft": "The same call of `CraftTf`.",
    "8_all_classes": "One set of pairs, learned from all classes, and what each class uses.",
    "9_all_classes_detections": "Where the shared pairs are detected.",
    "10_learning": "Losses and constraints in every stage of the fit.",
}


@dataclass(frozen=True)
class Summary:
    """Results of the demo.

    Attributes
    ----------
    class_name : str
        The class that both methods explain.
    class_names : sequence of str
    pictures : int
        Number of pictures of the class.
    nb_design : int
        Of the Sobol indices.
    accuracy : float
        Of the network on the test pictures, in [0, 1].
    importances : mapping of str to ndarray of shape (I,)
        Method → total Sobol index of each concept.
    ink_auc : mapping of str to ndarray of shape (I,)
        Method → ROC AUC of each concept's map at telling where the digit's ink is.
    logit_error : mapping of str to float
        Method → largest change of a logit when features are decoded, relative.
    off_entropy : mapping of str to float
        Form of "off" → mean prediction entropy over log K with all concepts off.
    history : History
        Of the fit of the direction pairs.
    seconds : mapping of str to float
        Step → wall time.
    figures : sequence of str
        Names of the pictures' files.
    """

    class_name: str
    class_names: Sequence[str]
    pictures: int
    nb_design: int
    accuracy: float
    importances: Mapping[str, NDArray]
    ink_auc: Mapping[str, NDArray]
    logit_error: Mapping[str, float]
    off_entropy: Mapping[str, float]
    history: History
    seconds: Mapping[str, float]
    figures: Sequence[str]

    def text(self) -> str:
        """Return a page of plain text, for the terminal."""
        return "\n".join(
            [
                f"Network: {self.accuracy:.1%} of the test pictures right, "
                f"{len(self.class_names)} classes ({', '.join(self.class_names)}).",
                f"Concepts of {self.class_name!r} from {self.pictures} pictures:",
                "",
                _as_text(self._importance_rows()),
                "",
                _as_text(self._comparison_rows()),
                "",
                "How the fit of the direction pairs went:",
                self._fit_lines(),
            ]
        )

    def markdown(self) -> str:
        """Return the same with the pictures, as Markdown."""
        lines = [
            f"# Concepts of “{self.class_name}”",
            "",
            f"A small network tells {len(self.class_names)} classes apart "
            f"({', '.join(self.class_names)}); it gets {self.accuracy:.1%} of the test pictures "
            f"right. Concepts were learned from {self.pictures} pictures of one class.",
            "",
            "## The two methods",
            "",
            _as_markdown(self._comparison_rows()),
            "",
            "## Importances",
            "",
            f"Total Sobol index of the class score, nb_design = {self.nb_design}, most important "
            "first. “ink”: how well the concept's map tells, in new pictures, where the digit is "
            "(ROC AUC; 0.5 is chance).",
            "",
            _as_markdown(self._importance_rows()),
            "",
            "## How the fit went",
            "",
            self._fit_lines(),
            "",
            "## Time",
            "",
            _as_markdown(
                [("step", "seconds")] + [(name, f"{s:.3g}") for name, s in self.seconds.items()]
            ),
            "",
            "## Pictures",
            "",
        ]
        for name in self.figures:
            lines += [f"{CAPTIONS[name]}", "", f"![{name}]({name}.png)", ""]
        return "\n".join(lines)

    def _importance_rows(self) -> list[tuple[str, ...]]:
        header: list[str] = []
        columns = []
        for method, importances in self.importances.items():
            header += [method, "importance", "ink"]
            columns.append(
                [
                    (str(k), f"{importances[k]:.3f}", f"{self.ink_auc[method][k]:.2f}")
                    for k in np.argsort(-importances, kind="stable")
                ]
            )
        return [tuple(header)] + [sum(cells, ()) for cells in zip(*columns, strict=True)]

    def _comparison_rows(self) -> list[tuple[str, ...]]:
        seconds, methods = self.seconds, list(self.importances)
        rows = [("", *methods)]
        for step, digits in (("fit", 1), ("importances", 2), ("transform", 4)):
            rows.append(
                (f"{step}, seconds", *(f"{seconds[f'{m}: {step}']:.{digits}f}" for m in methods))
            )
        rows.append(
            ("logits rebuilt, relative error", *(f"{self.logit_error[m]:.1e}" for m in methods))
        )
        rows.append(
            ("best concept for the ink, AUC", *(f"{self.ink_auc[m].max():.2f}" for m in methods))
        )
        return rows

    def _fit_lines(self) -> str:
        off = ", ".join(f"{form} {share:.2f}" for form, share in self.off_entropy.items())
        entropy = f"with all concepts off, prediction entropy / log K: {off}"
        used = {name for losses in self.history.stages.values() for name in losses}
        names = ", ".join(f"{k} {name}" for k, name in LOSS_NAMES.items() if k in used)
        lines = [*self.history.summary().splitlines(), f"the losses: {names}", entropy]
        return "\n".join(f"- {line}" for line in lines)


def write_summary(summary: Summary, folder: Path) -> None:
    """Write ``summary.md`` with the pictures and ``summary.txt`` for a terminal."""
    (folder / "summary.md").write_text(summary.markdown(), encoding="utf-8")
    (folder / "summary.txt").write_text(summary.text() + "\n", encoding="utf-8")


def _as_markdown(rows: Sequence[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    lines.insert(1, "|" + "---|" * len(rows[0]))
    return "\n".join(lines)


def _as_text(rows: Sequence[Sequence[str]]) -> str:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if column == 0 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    )
