"""The command ``fit``: learn the pairs of a layer, and measure what each class uses of them."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

from xplique_dirpairs.commands.concept_count import number_of_concepts
from xplique_dirpairs.commands.console import Console, as_json
from xplique_dirpairs.commands.kept_pairs import keep_pairs
from xplique_dirpairs.commands.subject import (
    Subject,
    open_subject,
    shown_classes,
)
from xplique_dirpairs.core.progress import progress
from xplique_dirpairs.core.tables import Cell, Table
from xplique_dirpairs.core.types import Array
from xplique_dirpairs.data.images import default_patch
from xplique_dirpairs.extractors.concept_plots import plot_importances_of_classes
from xplique_dirpairs.extractors.craft import DirectionPairsTf
from xplique_dirpairs.extractors.importance import sensitivity_of
from xplique_dirpairs.factorizers.direction_pairs import DirectionPairsFactorizer
from xplique_dirpairs.learning.history import ABOUT_STAGES, History
from xplique_dirpairs.pairs import DirectionPairs
from xplique_dirpairs.plots.layout import plain
from xplique_dirpairs.plots.learning import plot_learning
from xplique_dirpairs.plots.style import TITLE
from xplique_dirpairs.sensitivity.responses import sensitivity

#: How many classes, those with the most images first, are explained, are drawn in the overview and
#: have a picture of their own.
EXPLAINED, IN_OVERVIEW, PICTURED = 50, 30, 10
#: Maximum number of images of a class for its crops and importances, and for the importances if the
#: head does not begin with a pooling: each mask is then a pass through the head.
_DESCRIBED, _MASKED = 100, 5
#: Size of the design of the Sobol indices, in the same two cases.
_NB_DESIGN, _NB_DESIGN_MASKED = 32, 16
#: Number of concepts that the tables list for a class, and that its picture shows.
_LISTED, _ROWS = 5, 10


@dataclass(frozen=True, eq=False)
class ClassConcepts:
    """One class and its explanation by the pairs that all classes share.

    Attributes
    ----------
    class_id : int
        Output of the network.
    name : str
        Name of the class as it is printed.
    images : int
        Number of images of the class.
    accuracy : float
        Share of its images that the network predicts as the class, in [0, 1]; NaN if images have
        no labels.
    extractor : DirectionPairsTf
        Fitted on images of the class.
    effects : ndarray of shape (I,)
        Mean change of the class's centred logit, in its images, by a step along each signal vector.
    """

    class_id: int
    name: str
    images: int
    accuracy: float
    extractor: DirectionPairsTf
    effects: Array

    @property
    def importances(self) -> Array:
        """Total Sobol index of each concept for the score of the class, ndarray of shape (I,)."""
        return np.asarray(self.extractor.sensitivity.importances)


def run(arguments: argparse.Namespace, console: Console) -> None:
    """Learn the pairs, explain the classes, and write the results to a folder."""
    with console.running():
        subject = open_subject(arguments, console)
        shown = shown_classes(subject, subject.class_ids, arguments, console)
        pairs, history = learn(arguments, subject, console)
        keep_pairs(pairs, arguments.output / "pairs.npz", console)
        if history.interrupted:
            if not console.unwritten:
                console.note(f"the pairs learned so far are in {arguments.output / 'pairs.npz'}")
            raise KeyboardInterrupt
        console.step("importances of the concepts for each class")
        classes = explain_classes(
            subject, pairs, shown[:EXPLAINED], arguments.seed, console.progress
        )
        others = len(shown) - len(classes)
        if others:
            text = f"importances are computed for the {len(classes)} classes with the most images"
            console.note(f"{text}; {others} others are left out: choose classes with --classes")
        console.step("draw the pictures")
        written = ["pairs.npz", *_write(arguments, subject, history, classes, console)]
    results = {
        "concepts": pairs.number_of_concepts,
        "problems": history.problems(),
        "importances": {str(explained.class_id): explained.importances for explained in classes},
    }
    problems = "".join(f"problem: {problem}\n\n" for problem in history.problems())
    text = (
        f"{pairs.number_of_concepts} concepts of layer {subject.split.layer}, learned from "
        f"{len(subject.images)} images.\n\n{importance_table(classes)}\n\n{problems}"
        f"Everything is in {arguments.output}/: open {arguments.output / 'importances.md'}"
    )
    console.result(text, subject.write_summary(arguments, results, written, console))


def learn(
    arguments: argparse.Namespace, subject: Subject, console: Console
) -> tuple[DirectionPairs, History]:
    """Learn pairs from all images of the subject.

    Parameters
    ----------
    arguments : argparse.Namespace
        Its ``concepts``, ``recipe`` and ``seed`` are used, and ``resume`` if there is one.
    subject : Subject
    console : Console

    Returns
    -------
    pairs : DirectionPairs
    history : History
        History of the fit.
    """
    number = number_of_concepts(arguments.concepts, subject, arguments.seed, console)
    console.step(f"learn {number} concepts from {len(subject.images)} images")
    factorizer = DirectionPairsFactorizer(
        number, recipe=arguments.recipe, random_state=arguments.seed, verbose=console.progress
    )
    resume = getattr(arguments, "resume", None)
    factorizer.fit_maps(subject.activations, subject.split.head, resume=resume)
    assert factorizer.history_ is not None  # it is None only for pairs that were given
    return factorizer.pairs_, factorizer.history_


def explain_classes(
    subject: Subject, pairs: DirectionPairs, class_ids: Sequence[int], seed: int, verbose: int
) -> list[ClassConcepts]:
    """Compute crops and importances for some classes.

    Parameters
    ----------
    subject : Subject
    pairs : DirectionPairs
        Pairs of the layer of the subject.
    class_ids : sequence of int
        Classes that have images.
    seed : int
    verbose : int
        0 shows no progress.

    Returns
    -------
    classes : list of ClassConcepts
        The classes in increasing order of their numbers.
    """
    patch_size = default_patch(subject.images.shape[1:])
    classes = []
    chosen = sorted(class_ids)
    for k in progress(chosen, len(chosen), "importances", verbose, "class"):
        members = np.flatnonzero(subject.class_ids == k)
        described = members[:: -(-len(members) // _DESCRIBED)]
        extractor = DirectionPairsTf(
            subject.split, patch_size=patch_size, random_state=seed, pairs=pairs
        )
        extractor.fit(subject.images[described], k, activations=subject.activations[described])
        measured = described
        if extractor.head.pools_first:
            extractor.estimate_importance(nb_design=_NB_DESIGN)
        else:
            measured = described[:: -(-len(described) // _MASKED)]
            values = extractor.estimate_importance(subject.images[measured], _NB_DESIGN_MASKED)
            extractor.sensitivity = sensitivity_of(values)
        moved = sensitivity(extractor.head, subject.activations[measured], None, pairs.signals)
        accuracy = float((subject.predicted[members] == k).mean())
        if subject.labels is None:  # the images of the class are those that are predicted as it
            accuracy = float("nan")
        name = subject.class_names.shown[k]
        effects = moved.logit_changes[:, k]
        classes.append(ClassConcepts(k, name, len(members), accuracy, extractor, effects))
    return classes


def importance_table(classes: list[ClassConcepts]) -> Table:
    """Return a table of the most important concepts of every class."""
    count = min(_LISTED, len(classes[0].importances))
    rows = []
    for one in classes:
        best = np.argsort(-one.importances, kind="stable")[:count]
        signs = ["-" if effect < 0 else "+" for effect in one.effects]
        cells = [Cell(f"{signs[i]} {i} ({one.importances[i]:.3f})") for i in best]
        rows.append([Cell(one.name), Cell(str(one.images)), Cell.share(one.accuracy), *cells])
    ranks = [f"{n}." for n in range(2, count + 1)]
    note = (
        "Cells: + if more of the concept raises the class's logit relative to other classes, - if "
        "it lowers it; number of the concept (total Sobol index for the score of the class). "
        "right: share of the images of the class that is predicted as the class, if it is known."
    )
    return Table(["class", "images", "right", "most important", *ranks], rows, [note])


def full_importance_table(classes: list[ClassConcepts]) -> Table:
    """Return a table of every concept's importance for every class."""
    concepts = [f"concept {i}" for i in range(len(classes[0].importances))]
    rows = []
    for one in classes:
        values = one.class_id, one.images, one.accuracy, *one.importances
        rows.append([Cell(one.name), *(Cell.number(value, ".4g") for value in values)])
    return Table(["class", "output", "images", "right", *concepts], rows)


# -------------------------------------------------------------------- files


def _write(
    arguments: argparse.Namespace,
    subject: Subject,
    history: History,
    classes: list[ClassConcepts],
    console: Console,
) -> list[str]:
    """Write the tables, the history and the pictures; return the names of the files."""
    page = [
        f"# Concepts of layer `{subject.split.layer}`",
        importance_table(classes).formatted("markdown"),
        "## How the fit went",
        *([ABOUT_STAGES] if history.stages else []),
        "\n".join(f"- {line}" for line in history.summary().splitlines()),
        "## Pictures",
    ]
    pictures = []
    figures = _figures(history, classes).items()
    shown = progress(figures, len(figures), "pictures", console.progress, "picture")
    for name, (caption, figure) in shown:
        escaped = Table([caption], []).formatted("markdown").splitlines()[0].strip("| ")
        page += [escaped, f"![{name}]({name}.png)"]
        pictures.append(f"{name}.png")
        path = arguments.output / pictures[-1]
        with console.writing(path):
            figure.savefig(path, dpi=110, bbox_inches="tight")
        plt.close(figure)
    texts = {
        "history.txt": history.summary(),
        "history.json": as_json(asdict(history) | {"problems": history.problems()}),
        "importances.csv": full_importance_table(classes).formatted("csv"),
        "importances.md": "\n\n".join(page),
    }
    for name, text in texts.items():
        path = arguments.output / name
        with console.writing(path):
            path.write_text(text + "\n", encoding="utf-8")
    return [*texts, *pictures]


def _figures(history: History, classes: list[ClassConcepts]) -> dict[str, tuple[str, Figure]]:
    """Return file name → (caption, figure); no file name contains the name of a class."""
    ranked = [classes[n] for n in np.argsort([-one.images for one in classes], kind="stable")]
    chosen = [one for one in classes if one in ranked[:IN_OVERVIEW]]
    overview = plot_importances_of_classes(
        [one.extractor for one in chosen],
        [plain(one.name, 24) for one in chosen],
        [one.effects for one in chosen],
        "Importances of the concepts",
    )
    caption = (
        "What each class uses: total Sobol indices, coloured relative to the largest of the class; "
        "red and +: more of the concept raises the class's logit, blue and -: lowers it."
    )
    figures = {"importances": (caption, overview)}
    for one in classes:
        if one in ranked[:PICTURED]:
            shown = min(_ROWS, len(one.importances))
            which = "most important" if shown < len(one.importances) else ""
            caption = f"{one.name}: best crops of its {shown} {which} concepts.".replace("  ", " ")
            figure = one.extractor.plot_concepts_crops(8, shown)
            figure.suptitle(plain(one.name, 60), fontsize=TITLE, y=1.0, va="bottom")
            figures[f"class_{one.class_id:04d}"] = (caption, figure)
    if history.stages:
        figures["learning"] = ("The learning.", plot_learning(history.stages, "How the fit went"))
    return figures
