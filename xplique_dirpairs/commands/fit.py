"""The command ``fit``: pairs of a layer, what they look like, and what each class uses."""

from __future__ import annotations

import argparse
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from xplique_dirpairs.commands.concept_number import number_of_concepts
from xplique_dirpairs.commands.console import Console, as_json
from xplique_dirpairs.commands.subject import (
    SUMMARY,
    Subject,
    open_subject,
    shown_classes,
)
from xplique_dirpairs.core.tables import Cell, Table
from xplique_dirpairs.extractors.craft import sensitivity_of
from xplique_dirpairs.extractors.direction_pairs import DirectionPairsTf
from xplique_dirpairs.factorizers.direction_pairs import DirectionPairsFactorizer
from xplique_dirpairs.learning.history import History
from xplique_dirpairs.pairs import DirectionPairs
from xplique_dirpairs.plots.extractor_views import ExtractorView, plot_class_importances
from xplique_dirpairs.plots.images import as_picture
from xplique_dirpairs.plots.learning import plot_learning
from xplique_dirpairs.plots.palette import concept_colors
from xplique_dirpairs.version import __version__

#: Classes that are explained, those with the most images; that stand in the overview; that have a
#: picture of their own.
_EXPLAINED, _IN_OVERVIEW, _PICTURED = 50, 30, 10
#: Images of a class that its crops and importances are of; of importances where the head does not
#: begin with a pooling, and every mask is a pass through it.
_DESCRIBED, _MASKED = 100, 5
_NB_DESIGN, _NB_DESIGN_MASKED = 32, 16
#: Concepts that the tables list for a class.
_LISTED = 5


@dataclass(frozen=True, eq=False)
class OfClass:
    """One class, explained by the shared pairs."""

    class_id: int
    name: str
    images: int
    right: float
    extractor: DirectionPairsTf

    @property
    def importances(self) -> NDArray:
        """(I,): total Sobol indices of the class's score."""
        return np.asarray(self.extractor.sensitivity.importances)


def run(arguments: argparse.Namespace, console: Console) -> None:
    """Learn, and write everything to a folder."""
    with console.running():
        subject = open_subject(arguments, console)
        pairs, history = learn(arguments, subject, console)
        arguments.output.mkdir(parents=True, exist_ok=True)
        pairs.save(arguments.output / "pairs.npz")
        if history.interrupted:
            console.note(f"what was learned by then is in {arguments.output / 'pairs.npz'}")
            raise KeyboardInterrupt
        console.step("importances of the concepts for each class")
        classes = explain_classes(subject, pairs, arguments.seed)
        others = len(np.unique(subject.ids)) - len(classes)
        if others:
            console.note(
                f"importances are of the {len(classes)} classes with the most images; {others} "
                "others are left out: --classes chooses"
            )
        console.step("draw the pictures")
        written = ["pairs.npz", *_write(arguments.output, subject, history, classes)]
    summary = {
        "command": "fit",
        "version": __version__,
        "model": str(arguments.model),
        "seed": arguments.seed,
        **subject.about(),
        "concepts": pairs.number_of_concepts,
        "problems": history.problems(),
        "importances": {str(one.class_id): one.importances for one in classes},
        "output": str(arguments.output),
        "written": [*written, SUMMARY],
    }
    (arguments.output / SUMMARY).write_text(as_json(summary) + "\n", encoding="utf-8")
    text = (
        f"{pairs.number_of_concepts} concepts of layer {subject.layer}, learned from "
        f"{len(subject.images)} images.\n\n{importance_table(classes)}\n\n{history.summary()}\n\n"
        f"Everything is in {arguments.output}/: start with importances.md"
    )
    console.result(text, summary)


def learn(
    arguments: argparse.Namespace, subject: Subject, console: Console
) -> tuple[DirectionPairs, History]:
    """Pairs from all images of the subject."""
    number = number_of_concepts(arguments.concepts, subject, arguments.seed, console)
    console.step(f"learn {number} concepts from {len(subject.images)} images")
    factorizer = DirectionPairsFactorizer(
        number, recipe=arguments.recipe, random_state=arguments.seed, verbose=console.progress
    )
    factorizer.fit_maps(
        subject.activations, subject.head, resume=getattr(arguments, "resume", None)
    )
    assert factorizer.history_ is not None  # of pairs that were learned here
    return factorizer.pairs_, factorizer.history_


def explain_classes(subject: Subject, pairs: DirectionPairs, seed: int) -> list[OfClass]:
    """Crops and importances of the classes with the most images."""
    found = []
    for k in shown_classes(subject.ids, _EXPLAINED):
        members = np.flatnonzero(subject.ids == k)
        some = members[:: -(-len(members) // _DESCRIBED)]
        extractor = DirectionPairsTf(
            subject.first, subject.second, patch_size=subject.patch_size, random_state=seed,
            pairs=pairs,
        )  # fmt: skip
        extractor.fit(subject.images[some], int(k))
        if extractor.head.pools_first:
            extractor.estimate_importance(nb_design=_NB_DESIGN)
        else:
            few = some[:: -(-len(some) // _MASKED)]
            values = extractor.estimate_importance(subject.images[few], _NB_DESIGN_MASKED)
            extractor.sensitivity = sensitivity_of(values)
        right = float((subject.predicted[members] == k).mean())
        name = subject.class_names.shown[k]
        found.append(OfClass(int(k), name, len(members), right, extractor))
    return found


# -------------------------------------------------------------------- tables


def importance_table(classes: list[OfClass]) -> Table:
    """The most important concepts of every class."""
    count = min(_LISTED, len(classes[0].importances))
    rows = []
    for one in classes:
        best = np.argsort(-one.importances, kind="stable")[:count]
        cells = [Cell(f"{i} ({one.importances[i]:.3f})") for i in best]
        rows.append([Cell(one.name), Cell(str(one.images)), Cell(f"{one.right:.0%}"), *cells])
    headers = [
        "class",
        "images",
        "right",
        "most important",
        *[f"{n}." for n in range(2, count + 1)],
    ]
    note = "Concept (total Sobol index of the class's score); right: predicted as this class."
    return Table(headers, rows, [note])


def full_importance_table(classes: list[OfClass]) -> Table:
    """Every concept's importance for every class."""
    rows = [
        [
            Cell(one.name),
            *(
                Cell(f"{value:.4g}", numbers=(float(value),))
                for value in (one.class_id, one.images, one.right, *one.importances)
            ),
        ]
        for one in classes
    ]
    concepts = len(classes[0].importances)
    headers = ["class", "output", "images", "right", *[f"concept {i}" for i in range(concepts)]]
    return Table(headers, rows)


# -------------------------------------------------------------------- files


def _write(folder: Path, subject: Subject, history: History, classes: list[OfClass]) -> list[str]:
    """Tables, history and pictures; their names."""
    texts = {
        "history.txt": history.summary(),
        "history.json": as_json(_history_data(history)),
        "importances.csv": full_importance_table(classes).formatted("csv"),
    }
    figures = _figures(subject, history, classes)
    captions = {name: caption for name, (caption, _) in figures.items()}
    texts["importances.md"] = _page(subject, history, classes, captions)
    for name, text in texts.items():
        (folder / name).write_text(text + "\n", encoding="utf-8")
    for name, (_, figure) in figures.items():
        figure.savefig(folder / f"{name}.png", dpi=110, bbox_inches="tight", pad_inches=0.1)
        plt.close(figure)
    return [*texts, *(f"{name}.png" for name in figures)]


def _history_data(history: History) -> dict[str, Any]:
    return asdict(history) | {"problems": history.problems()}


def _page(
    subject: Subject, history: History, classes: list[OfClass], captions: dict[str, str]
) -> str:
    """importances.md: tables, how the fit went, pictures."""
    lines = [
        f"# Concepts of layer `{subject.layer}`",
        "",
        importance_table(classes).formatted("markdown"),
        "",
        "## How the fit went",
        "",
        *(f"- {line}" for line in history.summary().splitlines()),
        "",
        "## Pictures",
        "",
    ]
    for name, caption in captions.items():
        lines += [Table([caption], []).formatted("markdown").splitlines()[0].strip("| "), ""]
        lines += [f"![{name}]({name}.png)", ""]
    return "\n".join(lines)


def _figures(
    subject: Subject, history: History, classes: list[OfClass]
) -> dict[str, tuple[str, Figure]]:
    """File name → (caption, figure). Names of files hold no names of classes."""
    figures = {"importances": ("What each class uses.", _overview(subject, classes))}
    for one in classes:
        if one.class_id in shown_classes(subject.ids, _PICTURED):
            caption = f"{one.name}: best crops of its most important concepts."
            shown = min(10, len(one.importances))
            figure = one.extractor.plot_concepts_crops(8, shown)
            figures[f"class_{one.class_id:04d}"] = (caption, figure)
    if history.stages:
        figures["learning"] = ("The learning.", plot_learning(history.stages, "How the fit went"))
    return figures


def _overview(subject: Subject, classes: list[OfClass]) -> Figure:
    chosen = [one for one in classes if one.class_id in shown_classes(subject.ids, _IN_OVERVIEW)]
    fitted = [one.extractor.factorization for one in chosen]
    importances = np.stack([one.importances for one in chosen])
    view = ExtractorView(
        name="direction pairs",
        crops=np.concatenate([as_picture(np.asarray(f.crops)) for f in fitted]),
        crops_u=np.concatenate([f.crops_u for f in fitted]),
        number_of_images=sum(len(f.inputs) for f in fitted),
        importances=importances.mean(axis=0),
        maps=np.zeros((0, 1, 1, importances.shape[1])),
        colors=concept_colors(importances.shape[1]),
    )
    names = [_short(one.name) for one in chosen]
    return plot_class_importances(importances, names, view, "Importances of the concepts")


def _short(name: str, at_most: int = 24) -> str:
    """A name that fits beside a row; $ would begin a formula."""
    short = name if len(name) <= at_most else f"{name[: at_most - 1]}…"
    return short.replace("$", r"\$")
