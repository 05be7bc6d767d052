"""The demo: direction pairs and CRAFT on scenes whose truth is known, shown in a folder."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import keras
import numpy as np
from matplotlib.figure import Figure
from xplique.concepts import CraftTf

from xplique_dirpairs.core.types import Array
from xplique_dirpairs.data.annotated_images import AnnotatedImages
from xplique_dirpairs.data.images import compute_activations
from xplique_dirpairs.demo.detectors import (
    Annotated,
    Detectors,
    best_detectors,
    defining_objects,
    importances,
)
from xplique_dirpairs.demo.network import LAYER, demo_network
from xplique_dirpairs.demo.pictures import plot_beside_truth, save_picture
from xplique_dirpairs.demo.scenes import SHORTCUT, SHORTCUT_CLASS, demo_scenes
from xplique_dirpairs.demo.shortcut import repaired
from xplique_dirpairs.demo.summary import CRAFT, PAIRS, DefiningObject, Summary
from xplique_dirpairs.explanations.model import explain_model
from xplique_dirpairs.explanations.prediction import explain_prediction
from xplique_dirpairs.extractors.concept_layer import ConceptLayer
from xplique_dirpairs.extractors.craft import DirectionPairsTf
from xplique_dirpairs.interventions.counterfactuals import counterfactuals
from xplique_dirpairs.metrics.labelled_detectors import score_labels
from xplique_dirpairs.models.split import SplitModel, split_model
from xplique_dirpairs.plots.learning import plot_learning
from xplique_dirpairs.report.content import ReportSettings
from xplique_dirpairs.report.write import write_report

#: Number of concepts, of images to learn from, and of held-out images, by default.
CONCEPTS, IMAGES = 24, 320
#: Side of the crops in pixels.
PATCH = 48
#: Side of the crops that CRAFT learns from: its default, with which its IoU is higher than with 48.
CRAFT_PATCH = 64
#: Number of images that an object is left out of, of each class that it defines.
_LEFT_OUT = 16
#: Number of images that have a page in the report.
_PAGES = 64


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


@dataclass(frozen=True, eq=False)
class Subject:
    """The network, cut at its last convolution, and annotated images with their activations."""

    model: keras.Model
    split: SplitModel
    learning: Annotated
    held_out: Annotated

    def activations(self, images: Array) -> Array:
        """Return the activations (n, H, W, D) of images."""
        return compute_activations(self.split.input_to_latent_model, images)


def run_demo(
    output: str | Path,
    concepts: int = CONCEPTS,
    seed: int = 0,
    verbose: int = 1,
    *,
    images: int = IMAGES,
) -> Summary:
    """Run the demo: draw scenes, learn concepts by both methods, repair the network, write results.

    Parameters
    ----------
    output : str or Path
        Folder for the pictures, the summary and the report; created if missing.
    concepts : int, default=24
        Number of concepts of both methods.
    seed : int, default=0
        Seed of the scenes and of the learning; the network is the same for every seed.
    verbose : int, default=1
        If 0, nothing is printed.
    images : int, default=320
        Number of scenes to learn from, and of held-out scenes.

    Returns
    -------
    summary : Summary
        The results, as written to ``summary.md`` and ``summary.txt``.

    Raises
    ------
    KeyboardInterrupt
        If the learning of the direction pairs is interrupted.
    """
    output = Path(output)
    output.mkdir(parents=True, exist_ok=True)
    steps, start = Steps(verbose), time.perf_counter()
    others = max(images // 2, 8)
    with steps("draw the scenes", f"{images} to learn from, {images + others} others"):
        learning = demo_scenes(range(images), "learning", seed, planted=True)
        held_out = demo_scenes(range(images), "held-out", seed, planted=True)
        fresh = demo_scenes(range(others), "repair", seed)
    with steps("pass them through the network"):
        subject = _subject(learning, held_out)
    with steps(f"{PAIRS}: learn {concepts} concepts"):
        pairs = DirectionPairsTf(
            subject.split,
            number_of_concepts=concepts,
            patch_size=PATCH,
            random_state=seed,
            verbose=0,
        )
        pairs.fit(learning.images)
    history = pairs.history_
    assert history is not None  # it is None only for pairs that were given
    if history.interrupted:  # half-learned pairs are not worth showing
        raise KeyboardInterrupt
    with steps(f"{CRAFT}: learn {concepts} concepts", "the same scenes"):
        craft = CraftTf(*subject.split, concepts, patch_size=CRAFT_PATCH)
        np.random.seed(seed)  # noqa: NPY002 (CraftTf's NMF takes no seed)
        craft.fit(learning.images)
    with steps("compare them with the truth"):
        parts = subject.learning, subject.held_out
        methods = {
            PAIRS: best_detectors(pairs.pairs.project, pairs.pairs.biases, *parts),
            CRAFT: best_detectors(lambda x: craft.transform(None, x), None, *parts),
        }
    layer = ConceptLayer.of(
        pairs, class_names=learning.class_names, concept_names=_names(methods[PAIRS])
    )
    with steps("leave objects out, one by one"):
        objects = _objects(subject, {PAIRS: pairs, CRAFT: craft}, methods, seed)
    with steps("find the shortcut and switch it off"):
        explanation = explain_model(
            layer, learning.images, learning.labels, random_state=seed, verbose=0
        )
        repair, _ = repaired(layer, explanation, fresh)
    with steps("explain a prediction, and what would change it"):
        image = fresh.images[repair.example()]
        prediction = explain_prediction(layer, image, crops=explanation.crops)
        changed = counterfactuals(layer, image[None], learning.images, moves="remove", verbose=0)
    with steps("draw the pictures"):
        figures: dict[str, Callable[[], Figure]] = {
            "concepts": lambda: plot_beside_truth(methods, subject.held_out),
            "repair": lambda: repair.plot(fresh.images),
            "prediction": prediction.plot,
            "counterfactual": changed[0].plot,
            "classes": explanation.plot,
            "learning": lambda: plot_learning(history.stages, "How the learning went"),
        }
        if not history.stages:
            del figures["learning"]
        for name, draw in figures.items():
            save_picture(draw(), output / f"{name}.png")
    pairs.pairs.save(output / "pairs.npz")
    with steps("write the report"):
        _write_report(output / "report", layer, subject, fresh, methods[PAIRS])
    summary = Summary(
        accuracy=_accuracy(subject.split, subject.held_out),
        images=(images, images),
        methods=methods,
        objects=objects,
        repair=repair,
        counterfactual=str(changed[0]),
        history=history,
        seconds=steps.seconds | {"everything": time.perf_counter() - start},
        figures=list(figures),
    )
    (output / "summary.md").write_text(summary.markdown(), encoding="utf-8")
    (output / "summary.txt").write_text(summary.text() + "\n", encoding="utf-8")
    return summary


# -------------------------------------------------------------------- steps


def _subject(learning: AnnotatedImages, held_out: AnnotatedImages) -> Subject:
    """Return the network with the activations of both parts."""
    model = demo_network()
    split = split_model(model, LAYER)
    of_learning, of_held_out = (
        compute_activations(split.input_to_latent_model, part.images)
        for part in (learning, held_out)
    )
    return Subject(model, split, Annotated(learning, of_learning), Annotated(held_out, of_held_out))


def _accuracy(split: SplitModel, part: Annotated) -> float:
    """Return the share of images that are classified correctly."""
    return float(np.mean(split.head.logits(part.activations).argmax(axis=1) == part.scenes.labels))


def _names(detectors: Detectors) -> list[str]:
    """Return number and label of each detector, for plots and the report."""
    concepts, labels = detectors.dissection.flat_concepts, detectors.dissection.labels
    return [f"{i} {concepts[k][1]}" if k >= 0 else str(i) for i, k in enumerate(labels)]


def _objects(
    subject: Subject, extractors: dict[str, Any], methods: dict[str, Detectors], seed: int
) -> list[DefiningObject]:
    """Return the true effect and the importance of each object that defines a class."""
    scenes, x = subject.held_out.scenes, subject.held_out.activations
    assert scenes.class_names is not None
    rows = subject.split.head.class_rows
    assert rows is not None  # the demo's head is linear
    coefficients = {name: np.asarray(one.transform(None, x)) for name, one in extractors.items()}
    banks = {PAIRS: extractors[PAIRS].concept_bank_w}
    banks[CRAFT] = extractors[CRAFT].factorization.concept_bank_w
    names = [
        methods[PAIRS].dissection.flat_concepts[k][1] for k in methods[PAIRS].dissection.labels
    ]
    found = []
    for class_name, name in defining_objects():
        class_id = scenes.class_names.index(class_name)
        number = methods[PAIRS].number_of("object", name)
        has_it = (scenes.masks["object"] == number + 1).any(axis=(1, 2))
        members = np.flatnonzero((scenes.labels == class_id) & has_it)[:_LEFT_OUT]
        of_class = scenes.labels == class_id
        values = {
            method: importances(u[of_class], banks[method], rows[class_id])
            for method, u in coefficients.items()
        }
        best = {method: methods[method].best[number] for method in values}
        larger = {method: np.flatnonzero(v > v[best[method]]) for method, v in values.items()}
        ranked = larger[PAIRS][np.argsort(-values[PAIRS][larger[PAIRS]], kind="stable")]
        found.append(
            DefiningObject(
                class_name,
                name,
                _effect(subject, members, name, class_id, seed),
                {method: 1 + len(above) for method, above in larger.items()},
                {method: float(v[best[method]]) for method, v in values.items()},
                tuple(names[i] for i in ranked),
            )
        )
    return found


def _effect(subject: Subject, members: Array, name: str, class_id: int, seed: int) -> float:
    """Return by how much an object raises the class's logit, less the mean logit, in images."""
    if not len(members):
        return float("nan")
    without = demo_scenes(members.tolist(), "held-out", seed, planted=True, without=[name])
    both = (subject.held_out.activations[members], subject.activations(without.images))
    logits = [subject.split.head.logits(activations) for activations in both]
    shown, left_out = (of_image[:, class_id] - of_image.mean(axis=1) for of_image in logits)
    return float(np.mean(shown - left_out))


def _write_report(
    path: Path,
    layer: ConceptLayer,
    subject: Subject,
    scenes: AnnotatedImages,
    detectors: Detectors,
) -> None:
    """Write the HTML report of scenes in which the shortcut does not depend on the class."""
    scores = score_labels(
        scenes, detectors.read, detectors.dissection, activations=layer.activations(scenes.images)
    )
    settings = ReportSettings(
        title="Concepts of the demo's network",
        notes=(
            "Concepts are named by number and by the true concept that they overlap most.",
            f"Half of the scenes of every class have a {SHORTCUT}, which the network takes "
            f"for {SHORTCUT_CLASS}: a planted shortcut.",
        ),
        max_images=_PAGES,
    )
    write_report(
        path, layer, scenes.images, scenes.labels, interpretability=scores, counterfactuals=2,
        training_activations=subject.learning.activations, settings=settings, verbose=0,
    )  # fmt: skip
