"""The demo: direction pairs and CRAFT on the same small network, shown in a folder of pictures."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import keras
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure
from sklearn.metrics import roc_auc_score
from xplique.concepts import CraftTf

from xplique_dirpairs.comparison.compare import compare
from xplique_dirpairs.comparison.result import Comparison
from xplique_dirpairs.core.tables import Cell, Table
from xplique_dirpairs.core.types import Array
from xplique_dirpairs.datasets.digit_scenes import CLASS_NAMES, digit_masks, digit_scenes, small_cnn
from xplique_dirpairs.extractors.concept_plots import plot_importances_of_classes
from xplique_dirpairs.extractors.craft import DirectionPairsTf
from xplique_dirpairs.extractors.manager import DirectionPairsManagerTf
from xplique_dirpairs.learning.history import History
from xplique_dirpairs.models.split import split_model
from xplique_dirpairs.plots.learning import LOSS_NAMES, plot_learning

#: Number of pictures that the network is trained and tested on.
TRAINING_PICTURES = 3600
TEST_PICTURES = 600
#: The network of an earlier run is used if its accuracy on the test pictures is at least this high.
GOOD_ENOUGH = 0.9
#: The class that both methods explain, and the number of its pictures that they are fitted on.
CLASS_ID = CLASS_NAMES.index("cat + 3")
PICTURES_PER_CLASS = 100
#: Side of the crops in pixels, and size of the design of the Sobol indices.
PATCH = 36
NB_DESIGN = 32
#: Number of pictures for the pairs that all classes share.
IMAGES_OF_ALL = PICTURES_PER_CLASS * len(CLASS_NAMES)
LAYER = "last_conv"
#: Names of the two methods.
PAIRS, CRAFT = "direction pairs", "CRAFT"
#: Name of a picture's file, without ``.png`` → its caption.
CAPTIONS = {
    "aligned_direction-pairs_craft": "Best crops of the concepts that both methods have.",
    "importances": "Total Sobol indices of the concepts of both methods, with standard errors.",
    "fidelity": "The probability of the class while concepts are switched off or on one by one.",
    "maps": "A test picture, bright where its most important concepts are.",
    "maps_1": "The maps of a second picture.",
    "maps_2": "The maps of a third picture.",
    "image_direction_pairs": "`plot_image_concepts` of `DirectionPairsTf`.",
    "image_craft": "`plot_image_concepts` of `CraftTf`.",
    "all_classes": "One set of pairs, learned from all classes, and what each class uses.",
    "learning": "Losses and constraint violations in every stage of the fit.",
}


@dataclass
class Steps:
    """Prints the name of each step of the demo, and measures its wall time.

    Attributes
    ----------
    verbose : int, default=1
        If 0, nothing is printed.
    seconds : dict of str to float, default={}
        Step → wall time in seconds.
    """

    verbose: int = 1
    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def __call__(self, name: str, remark: str = "") -> Iterator[None]:
        """Run the body of a with statement as a step."""
        if self.verbose:
            print(f"• {name}{f' ({remark})' if remark else ''} …", flush=True)
        start = time.perf_counter()
        yield
        self.seconds[name] = time.perf_counter() - start
        if self.verbose:
            print(f"  {self.seconds[name]:.1f} s", flush=True)


@dataclass
class Data:
    """Pictures of the demo.

    Attributes
    ----------
    train : ndarray of shape (n, 96, 96, 3)
        Training pictures, in [0, 1].
    train_labels : ndarray of shape (n,)
        Their classes.
    test : ndarray of shape (m, 96, 96, 3)
        Test pictures, in [0, 1].
    test_labels : ndarray of shape (m,)
        Their classes.
    test_ink : ndarray of shape (m, 96, 96), bool
        Where the ink of the digit is in the test pictures.
    """

    train: Array
    train_labels: Array
    test: Array
    test_labels: Array
    test_ink: Array


@contextmanager
def without_xla_messages() -> Iterator[None]:
    """Suppress the messages of XLA if TF_CPP_MIN_LOG_LEVEL suppresses those of TensorFlow.

    XLA ignores this variable and reports its first compilation, which CRAFT's estimator causes.
    """
    if os.environ.get("TF_CPP_MIN_LOG_LEVEL", "0") == "0":
        yield
        return
    kept = os.dup(2)
    try:
        with open(os.devnull, "wb") as nowhere:
            os.dup2(nowhere.fileno(), 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


@dataclass(frozen=True, eq=False)
class Summary:
    """Results of the demo.

    Attributes
    ----------
    accuracy : float
        Accuracy of the network on the test pictures, in [0, 1].
    comparison : Comparison
        Both methods, measured on the test pictures of the explained class.
    ink_auc : mapping of str to ndarray of shape (I,)
        Method → ROC AUC of the map of each concept as a detector of the digit's ink, in [0, 1]. 0.5
        is chance; see `ink_auc`.
    history : History
        History of the fit of the direction pairs.
    seconds : mapping of str to float
        Step → wall time in seconds; "everything" is the whole run.
    figures : sequence of str
        Names of the picture files in the output folder, without the ending ``.png``.
    """

    accuracy: float
    comparison: Comparison
    ink_auc: Mapping[str, Array]
    history: History
    seconds: Mapping[str, float]
    figures: Sequence[str]

    @property
    def importances(self) -> dict[str, Array]:
        """Method → total Sobol index of each concept, dict of str to ndarray of shape (I,)."""
        results = self.comparison.results
        return {name: result.importances.total for name, result in results.items()}

    def text(self) -> str:
        """Return the results as plain text, for the terminal."""
        parts = self._network(), str(self._concepts()), str(self.comparison), self._fit()
        return "\n\n".join(parts)

    def markdown(self) -> str:
        """Return the results, times and pictures as Markdown."""
        seconds = [[Cell(step), Cell(f"{value:.3g}")] for step, value in self.seconds.items()]
        sections = {
            f"# Concepts of “{CLASS_NAMES[CLASS_ID]}”": self._network(),
            "## Concepts, most important first": self._concepts().formatted("markdown"),
            "## The two methods": self.comparison.table().formatted("markdown"),
            "## How the fit went": self._fit(),
            "## Time": Table(["step", "seconds"], seconds).formatted("markdown"),
            "## Pictures": "\n\n".join(
                f"{CAPTIONS[name]}\n\n![{name}]({name}.png)" for name in self.figures
            ),
        }
        return "\n\n".join(f"{title}\n\n{content}" for title, content in sections.items()) + "\n"

    def _network(self) -> str:
        """Return a paragraph on the network and the explained class."""
        return (
            f"A small network distinguishes {len(CLASS_NAMES)} classes ({', '.join(CLASS_NAMES)}); "
            f"it classifies {self.accuracy:.1%} of the test pictures correctly. Concepts of "
            f"“{CLASS_NAMES[CLASS_ID]}” were learned from {PICTURES_PER_CLASS} pictures."
        )

    def _concepts(self) -> Table:
        """Return a table of the concepts of both methods, the most important ones first."""
        headers = ["rank"]
        rows = [[Cell(str(rank + 1))] for rank in range(len(self.importances[PAIRS]))]
        for method, importances in self.importances.items():
            headers += [method, "importance", "ink"]
            for row, k in zip(rows, np.argsort(-importances, kind="stable"), strict=True):
                row += [Cell(str(k)), Cell.figure(importances[k])]
                row.append(Cell.figure(self.ink_auc[method][k], 2))
        notes = (
            "importance: total Sobol index of the class score",
            "ink: how well the map of the concept detects the digit's ink (ROC AUC; 0.5 is chance)",
        )
        return Table(headers, rows, notes)

    def _fit(self) -> str:
        """Return a Markdown list on the fit of the direction pairs, and its losses."""
        used = {name for losses in self.history.stages.values() for name in losses}
        names = ", ".join(f"{k} {name}" for k, name in LOSS_NAMES.items() if k in used)
        lines = [*self.history.summary().splitlines(), f"the losses: {names}"]
        return "\n".join(f"- {line}" for line in lines)


def run_demo(output: str | Path, concepts: int = 10, seed: int = 0, verbose: int = 1) -> Summary:
    """Run the demo: make the data, train or load the network, fit both methods, write the results.

    Parameters
    ----------
    output : str or Path
        Folder for the pictures, the summary and the trained network; created if missing.
    concepts : int, default=10
        Number of concepts of both methods, 2 to 16: CRAFT's plots have 16 colours.
    seed : int, default=0
        Seed of the data, the network and the learning.
    verbose : int, default=1
        If 0, nothing is printed.

    Returns
    -------
    summary : Summary
        The results, as written to ``summary.md`` and ``summary.txt``.

    Raises
    ------
    KeyboardInterrupt
        If the fit of the direction pairs is interrupted.
    """
    output = Path(output)
    output.mkdir(parents=True, exist_ok=True)
    steps = Steps(verbose)
    start = time.perf_counter()

    with steps("make the pictures", f"{TRAINING_PICTURES} for training"):
        train = digit_scenes(TRAINING_PICTURES, seed, "train")[:2]
        test = digit_scenes(TEST_PICTURES, seed, "test")[:2]
        data = Data(*train, *test, digit_masks(TEST_PICTURES, seed, "test"))
    with steps("train the network, or load it"):
        model = load_network(data, output / f"small_cnn_seed{seed}.keras", seed, verbose)
    g, h = split_model(model, LAYER)
    images = data.train[data.train_labels == CLASS_ID][:PICTURES_PER_CLASS]

    settings: Any = {"patch_size": PATCH, "random_state": seed, "verbose": min(verbose, 1)}
    pairs: Any = DirectionPairsTf(g, h, concepts, **settings)
    craft = CraftTf(g, h, concepts, patch_size=PATCH)
    with steps(f"{PAIRS}: fit", f"{len(images)} pictures of {CLASS_NAMES[CLASS_ID]!r}"):
        pairs.fit(images, class_id=CLASS_ID)
    if pairs.history_.interrupted:  # half-learned pairs are not worth showing
        raise KeyboardInterrupt
    with steps(f"{CRAFT}: fit", "the same pictures"):
        np.random.seed(seed)  # noqa: NPY002 (CraftTf's NMF takes no seed)
        craft.fit(images, class_id=CLASS_ID)
    with steps(f"{PAIRS}: importances"):
        pairs.estimate_importance(nb_design=NB_DESIGN)
    with steps(f"{CRAFT}: importances", "one pass per picture: some 10 s"), without_xla_messages():
        craft.estimate_importance(nb_design=NB_DESIGN)
    methods = {PAIRS: pairs, CRAFT: craft}
    chosen = data.test_labels == CLASS_ID
    with steps("compare both methods", f"{chosen.sum()} new pictures"):
        comparison = compare(methods, data.test[chosen], controls=False, verbose=0)
    with steps(f"{PAIRS}: one set for all classes"):
        # The classes are balanced and in random order, so each has about the same number here.
        shared = data.train[:IMAGES_OF_ALL], data.train_labels[:IMAGES_OF_ALL]
        manager = DirectionPairsManagerTf(g, h, *shared, None, concepts, **settings)
        manager.fit()
        manager.estimate_importance(nb_design=NB_DESIGN)

    with steps("draw the pictures"):
        comparison.save_report(output)
        example = data.test[chosen][1]
        figures = {
            "maps_1": comparison.plot_maps(1),
            "maps_2": comparison.plot_maps(2),
            "image_direction_pairs": _image_concepts(pairs, example),
            "image_craft": _image_concepts(craft, example),
            "all_classes": plot_importances_of_classes(
                list(manager.craft_instances.values()),
                [CLASS_NAMES[k] for k in manager.craft_instances],
                "One set of direction pairs for all classes: importances",
            ),
        }
        if pairs.history_.stages:
            figures["learning"] = plot_learning(pairs.history_.stages, "How the fit went")
        for name, figure in figures.items():
            figure.savefig(output / f"{name}.png", dpi=110, bbox_inches="tight", pad_inches=0.1)
            plt.close(figure)
    pairs.pairs.save(output / "pairs.npz")
    summary = Summary(
        accuracy=_accuracy(model, data.test, data.test_labels),
        comparison=comparison,
        ink_auc={
            name: ink_auc(np.asarray(method.transform(data.test[chosen])), data.test_ink[chosen])
            for name, method in methods.items()
        },
        history=pairs.history_,
        seconds=steps.seconds | {"everything": time.perf_counter() - start},
        figures=[name for name in CAPTIONS if (output / f"{name}.png").is_file()],
    )
    (output / "summary.md").write_text(summary.markdown(), encoding="utf-8")
    (output / "summary.txt").write_text(summary.text() + "\n", encoding="utf-8")
    return summary


# -------------------------------------------------------------------- data and network


def load_network(data: Data, path: Path, seed: int, verbose: int) -> keras.Model:
    """Load the network of an earlier run, or train one and save it.

    It is trained again if the file is damaged, or its accuracy on the test pictures is below
    `GOOD_ENOUGH`.

    Parameters
    ----------
    data : Data
    path : Path
        File of the network.
    seed : int
        Seed of the training.
    verbose : int
        If 0, nothing is printed.

    Returns
    -------
    model : keras.Model
    """
    if path.is_file():
        with suppress(ValueError, OSError, KeyError, BadZipFile):
            model = keras.models.load_model(path)
            if _accuracy(model, data.test, data.test_labels) >= GOOD_ENOUGH:
                return model
        path.unlink()
    model = small_cnn(data.train, data.train_labels, seed=seed, verbose=2 if verbose else 0)
    model.save(path)
    return model


def _accuracy(model: keras.Model, images: Array, labels: Array) -> float:
    """Return the share of images that are classified correctly."""
    return float(np.mean(model.predict(images, verbose=0).argmax(axis=1) == labels))


# -------------------------------------------------------------------- reading and drawing


def ink_auc(maps: Array, ink: Array) -> Array:
    """Compute the ROC AUC of the map of each concept as a detector of ink.

    A cell of the map has ink if more than 15 % of its pixels have.

    Parameters
    ----------
    maps : ndarray of shape (n, H, W, I)
        Maps of the concepts.
    ink : ndarray of shape (n, height, width), bool
        Pixels with ink; height and width are multiples of H and W.

    Returns
    -------
    auc : ndarray of shape (I,)
        In [0, 1]; 0.5 is chance.
    """
    n, rows, columns, concepts = maps.shape
    share = ink.reshape(n, rows, ink.shape[1] // rows, columns, -1).mean(axis=(2, 4))
    has_ink = (share > 0.15).ravel()
    flat = maps.reshape(-1, concepts)
    return np.array([roc_auc_score(has_ink, flat[:, k]) for k in range(concepts)])


def _image_concepts(extractor: CraftTf, image: Array) -> Figure:
    """Return the figure that `plot_image_concepts` draws; that method itself returns None."""
    extractor.plot_image_concepts(image.copy(), filepath=BytesIO())
    return plt.gcf()
