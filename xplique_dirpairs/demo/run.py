"""The demo: direction pairs and CRAFT on the same small network, as a folder of pictures."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from io import BytesIO
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import keras
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score
from xplique.concepts import CraftTf

from xplique_dirpairs.data.activations import compute_activations
from xplique_dirpairs.datasets.digit_scenes import (
    CLASS_NAMES,
    digit_masks,
    digit_scenes,
    small_cnn,
)
from xplique_dirpairs.demo.summary import Summary, write_summary
from xplique_dirpairs.extractors.direction_pairs import DirectionPairsManagerTf, DirectionPairsTf
from xplique_dirpairs.models.split import split_model
from xplique_dirpairs.plots.extractor_views import (
    ExtractorView,
    counterparts,
    paired_colors,
    plot_class_importances,
    plot_concepts,
    plot_detections,
    plot_importances,
    plot_maps,
    plot_pictures,
)
from xplique_dirpairs.plots.learning import plot_learning
from xplique_dirpairs.plots.palette import concept_colors

TRAINING_PICTURES = 3600
TEST_PICTURES = 600
#: A network stored by an earlier run is used if its accuracy on the test pictures is this high.
GOOD_ENOUGH = 0.9
#: The class that both methods explain, and pictures of each class that concepts are learned from.
CLASS_ID = CLASS_NAMES.index("cat + 3")
PICTURES_PER_CLASS = 100
PATCH = 36
NB_DESIGN = 32
LAYER = "last_conv"


@dataclass
class Steps:
    """Announces the steps of the demo and measures them."""

    verbose: int = 1
    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def __call__(self, name: str, remark: str = "") -> Iterator[None]:
        if self.verbose:
            print(f"• {name}{f' ({remark})' if remark else ''} …", flush=True)
        start = time.perf_counter()
        yield
        self.seconds[name] = time.perf_counter() - start
        if self.verbose:
            print(f"  {self.seconds[name]:.1f} s", flush=True)


@dataclass
class Data:
    """Pictures in [0, 1], their classes, and masks of the ink in the test pictures."""

    train: NDArray
    train_labels: NDArray
    test: NDArray
    test_labels: NDArray
    test_ink: NDArray


@contextmanager
def without_xla_messages() -> Iterator[None]:
    """Keep XLA's messages back with those of TensorFlow.

    XLA announces its first compilation (of CRAFT's estimator) whatever TF_CPP_MIN_LOG_LEVEL is.
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


def run_demo(output: str | Path, concepts: int = 10, seed: int = 0, verbose: int = 1) -> Summary:
    """Generate the data, train or load the network, fit both methods, draw and write everything.

    Parameters
    ----------
    output : str or Path
        Folder of the pictures, the summary and the trained network; created if missing.
    concepts : int, default=10
        Number of concepts of both methods, 2 to 16 (CRAFT's plots have no more colours).
    seed : int, default=0
        Of the data, the network and the learning.
    verbose : int, default=1
        0: nothing is printed.

    Returns
    -------
    summary : Summary
        As written to ``summary.md`` and ``summary.txt``.
    """
    output = Path(output)
    output.mkdir(parents=True, exist_ok=True)
    steps = Steps(verbose)
    start = time.perf_counter()

    with steps("make the pictures", f"{TRAINING_PICTURES} for training"):
        data = _make_data(seed)
    with steps("train the network, or load it"):
        model = load_network(data, output / f"small_cnn_seed{seed}.keras", seed, verbose)
    g, h = split_model(model, LAYER)
    accuracy = _accuracy(model, data.test, data.test_labels)
    images = data.train[data.train_labels == CLASS_ID][:PICTURES_PER_CLASS]

    pairs: Any = DirectionPairsTf(
        g, h, concepts, patch_size=PATCH, random_state=seed, verbose=min(verbose, 1)
    )
    craft = CraftTf(g, h, concepts, patch_size=PATCH)
    with steps("direction pairs: fit", f"{len(images)} pictures of {CLASS_NAMES[CLASS_ID]!r}"):
        pairs.fit(images, class_id=CLASS_ID)
    if pairs.history_.interrupted:  # the demo ends: half-learned pairs show nothing
        raise KeyboardInterrupt
    with steps("CRAFT: fit", "the same pictures"):
        np.random.seed(seed)  # noqa: NPY002 (CraftTf's NMF takes no seed)
        craft.fit(images, class_id=CLASS_ID)
    with steps("direction pairs: importances"):
        pairs.estimate_importance(nb_design=NB_DESIGN)
    with steps("CRAFT: importances", "one pass per picture: some 10 s"), without_xla_messages():
        craft.estimate_importance(nb_design=NB_DESIGN)
    with steps("direction pairs: one set for all classes"):
        manager = _shared_pairs(g, h, data, concepts, seed, verbose)

    with steps("draw the pictures"):
        views, readings = _read_both(data, g, pairs, craft, steps)
        figures = _figures(data, pairs, craft, manager, views, readings)
        for name, figure in figures.items():
            figure.savefig(output / f"{name}.png", dpi=110, bbox_inches="tight", pad_inches=0.1)
            plt.close(figure)
    pairs.pairs.save(output / "pairs.npz")
    summary = Summary(
        class_name=CLASS_NAMES[CLASS_ID],
        class_names=CLASS_NAMES,
        pictures=len(images),
        nb_design=NB_DESIGN,
        accuracy=accuracy,
        importances={"direction pairs": views[1].importances, "CRAFT": views[0].importances},
        ink_auc={"direction pairs": readings.ink_auc[1], "CRAFT": readings.ink_auc[0]},
        logit_error=_logit_errors(pairs, craft, readings.activations),
        off_entropy=_entropy_with_all_off(pairs, readings.activations),
        history=pairs.history_,
        seconds=steps.seconds | {"everything": time.perf_counter() - start},
        figures=list(figures),
    )
    write_summary(summary, output)
    return summary


# -------------------------------------------------------------------- data and network


def _make_data(seed: int) -> Data:
    train, train_labels, _ = digit_scenes(TRAINING_PICTURES, seed, "train")
    test, test_labels, _ = digit_scenes(TEST_PICTURES, seed, "test")
    return Data(train, train_labels, test, test_labels, digit_masks(TEST_PICTURES, seed, "test"))


def load_network(data: Data, path: Path, seed: int, verbose: int) -> keras.Model:
    """Load the network of an earlier run, or train one and store it.

    It is trained again if its file is damaged, or it does not fit these pictures.
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


def _accuracy(model: keras.Model, images: NDArray, labels: NDArray) -> float:
    return float(np.mean(model.predict(images, verbose=0).argmax(axis=1) == labels))


def _shared_pairs(g, h, data: Data, concepts: int, seed: int, verbose: int):
    chosen = np.concatenate(
        [
            np.flatnonzero(data.train_labels == k)[:PICTURES_PER_CLASS]
            for k in range(len(CLASS_NAMES))
        ]
    )
    manager = DirectionPairsManagerTf(
        g, h, data.train[chosen], data.train_labels[chosen], None, concepts,
        patch_size=PATCH, random_state=seed, verbose=min(verbose, 1),
    )  # fmt: skip
    manager.fit()
    manager.estimate_importance(nb_design=NB_DESIGN)
    return manager


# -------------------------------------------------------------------- reading and drawing


@dataclass
class Readings:
    """Test pictures of the explained class, as both methods read them."""

    pictures: NDArray
    activations: NDArray
    detections: NDArray
    partners: NDArray
    correlations: NDArray
    ink_auc: tuple[NDArray, NDArray]


def _read_both(
    data: Data, g: keras.Model, pairs: Any, craft: CraftTf, steps: Steps
) -> tuple[tuple[ExtractorView, ExtractorView], Readings]:
    """Return views of CRAFT and of the pairs, in this order, on test pictures of the class."""
    chosen = data.test_labels == CLASS_ID
    pictures = data.test[chosen]
    activations = compute_activations(g, pictures)
    craft_maps = _read(craft, activations, "CRAFT", steps)
    pair_maps = _read(pairs, activations, "direction pairs", steps)
    detections = pairs.detect(None, activations=activations)
    shown_maps = np.maximum(pair_maps, 0.0) * (detections > 0.5)

    partners, correlations = counterparts(shown_maps, craft_maps)
    colors = np.array(concept_colors(2 * len(partners)))
    pair_colors, craft_colors = paired_colors(colors, partners, correlations)
    _recolor(craft, craft_colors)
    views = (
        _view("CRAFT", craft, craft_maps, craft_colors),
        _view("direction pairs", pairs, shown_maps, pair_colors),
    )
    ink = data.test_ink[chosen]
    auc = (ink_auc(craft_maps, ink), ink_auc(pair_maps, ink))
    return views, Readings(pictures, activations, detections, partners, correlations, auc)


def _read(extractor: CraftTf, activations: NDArray, name: str, steps: Steps) -> NDArray:
    """Call ``transform`` and measure it: the best of three, so that no first call counts."""
    seconds = []
    for _ in range(3):
        start = time.perf_counter()
        maps = extractor.transform(None, activations=activations)
        seconds.append(time.perf_counter() - start)
    steps.seconds[f"{name}: transform"] = min(seconds)
    return np.asarray(maps)


def _view(name: str, extractor: Any, maps: NDArray, colors: NDArray) -> ExtractorView:
    return ExtractorView(
        name=name,
        crops=np.clip(np.asarray(extractor.factorization.crops), 0.0, 1.0),
        crops_u=np.asarray(extractor.factorization.crops_u),
        number_of_images=len(extractor.factorization.inputs),
        importances=np.asarray(extractor.sensitivity.importances),
        maps=maps,
        colors=[tuple(color) for color in colors],
    )


def _recolor(craft: Any, colors: NDArray) -> None:
    """Give Xplique's own plots the colours of the side-by-side pictures."""
    order = craft.sensitivity.most_important_concepts
    craft.sensitivity.set_concept_attribution_cmap([tuple(colors[k]) for k in order])


def ink_auc(maps: NDArray, ink: NDArray) -> NDArray:
    """Compute the ROC AUC (I,) of each concept's map at telling cells with ink from others.

    Parameters
    ----------
    maps : ndarray of shape (n, H, W, I)
    ink : ndarray of shape (n, height, width), bool
    """
    n, rows, columns, concepts = maps.shape
    share = ink.reshape(n, rows, ink.shape[1] // rows, columns, -1).mean(axis=(2, 4))
    has_ink = (share > 0.15).ravel()
    flat = maps.reshape(-1, concepts)
    return np.array([roc_auc_score(has_ink, flat[:, k]) for k in range(concepts)])


def _figures(data, pairs, craft, manager, views, readings) -> dict[str, Figure]:
    """Return file name → figure."""
    class_name = CLASS_NAMES[CLASS_ID]
    examples = np.arange(6)
    shown = [replace(view, maps=view.maps[examples]) for view in views]
    example = readings.pictures[1]
    figures = {
        "1_pictures": plot_pictures(
            data.test, data.test_labels, CLASS_NAMES, "A class is a photograph and a digit"
        ),
        "2_concepts": plot_concepts(
            views[0], views[1], readings.partners, readings.correlations,
            f"Concepts of “{class_name}”: best crops and importance\n"
            "(“like”: the other method's concept it is paired with, by the correlation of maps)",
        ),
        "3_maps": plot_maps(
            readings.pictures[examples], shown, "Where the concepts are in new pictures"
        ),
        "4_importances": plot_importances(views, f"What makes the network say “{class_name}”"),
        "5_detections": plot_detections(
            readings.pictures[:18], readings.detections[:18], views[1],
            "Where direction pairs detect their most important concepts",
        ),
        "6_image_pairs": _image_concepts(pairs, example),
        "7_image_craft": _image_concepts(craft, example),
    }  # fmt: skip
    figures["8_all_classes"], figures["9_all_classes_detections"] = _all_classes(data, manager)
    if pairs.history_.stages:
        figures["10_learning"] = plot_learning(pairs.history_.stages, "How the fit went")
    return figures


def _image_concepts(extractor: CraftTf, image: NDArray) -> Figure:
    """Draw an image's concepts; Xplique's method shows or saves a figure and returns none."""
    extractor.plot_image_concepts(image.copy(), filepath=BytesIO())
    return plt.gcf()


def _all_classes(data: Data, manager: Any) -> tuple[Figure, Figure]:
    """Draw what each class uses of the shared concepts, and where they are detected."""
    instances = manager.craft_instances
    importances = np.stack([c.sensitivity.importances for c in instances.values()])
    mean = importances.mean(axis=0)
    fitted = [c.factorization for c in instances.values()]
    view = ExtractorView(
        name="direction pairs",
        crops=np.concatenate([np.asarray(f.crops) for f in fitted]),
        crops_u=np.concatenate([f.crops_u for f in fitted]),
        number_of_images=sum(len(f.inputs) for f in fitted),
        importances=mean,
        maps=np.zeros((0, 1, 1, len(mean))),
        colors=concept_colors(len(mean)),
    )
    matrix = plot_class_importances(
        importances,
        [CLASS_NAMES[k] for k in instances],
        view,
        "One set of direction pairs for all classes: importances",
    )
    rows = [np.flatnonzero(data.test_labels == k)[:3] for k in range(len(CLASS_NAMES))]
    pictures = data.test[np.concatenate(rows)]
    detections = next(iter(instances.values())).detect(pictures)
    maps = plot_detections(
        pictures, detections, view, "Where the shared pairs are detected, all classes",
        nb_concepts=5, number="importance, mean over the classes",
    )  # fmt: skip
    return matrix, maps


# -------------------------------------------------------------------- figures of merit


def _logit_errors(pairs: Any, craft: Any, activations: NDArray) -> dict[str, float]:
    """Compute each method's largest change of a logit by decoding, over the largest logit."""
    logits = pairs.head.predict(pairs.head.pool(activations))
    flat = activations.reshape(-1, activations.shape[-1])
    factorizer = pairs.factorizer
    rebuilt = {
        "direction pairs": factorizer.decode(factorizer.encode(flat)) + factorizer.residual(flat),
        "CRAFT": craft.transform(None, activations=flat) @ craft.factorization.concept_bank_w,
    }
    scale = np.abs(logits).max()
    errors = {}
    for name, features in rebuilt.items():
        pooled = pairs.head.pool(features.reshape(activations.shape).astype(np.float32))
        errors[name] = float(np.abs(pairs.head.predict(pooled) - logits).max() / scale)
    return errors


def _entropy_with_all_off(pairs: Any, activations: NDArray) -> dict[str, float]:
    """Compute the mean prediction entropy / log K with every concept off, in both forms."""
    shares = {}
    for off in ("absent", "undecided"):
        learned = pairs.pairs
        x = activations - learned.combine(learned.coefficients(activations, off), off)
        entropy = np.mean(pairs.head.entropy(pairs.head.pool(x.astype(np.float32))))
        shares[off] = float(entropy / np.log2(pairs.head.number_of_classes))
    return shares
