"""A network that reads a watermark instead of the picture: detected without labels, and repaired.

    python benchmarks/watermark.py --output DIR

Chess pieces are rendered; half of the training rooks carry the label "rook" (method section 7). For
each seed a network is trained on them, direction pairs are learned from the training images that it
calls rooks, without any label, and the concept with the largest influence on "rook" (mean Δ over
all training images) is taken to be the shortcut; the position of the mark is used only to check
this. It is then suppressed in the network, in several forms and along several directions:

    signal      difference of the means of the detector's own positives and negatives
    learned     the signal vectors of the recipe
    filter      along w
    Pattern-CAV detections replaced by the truth in the difference of means (the detector stays)
    random      ten random directions, with the k of the signal

Results of each seed are kept in --output: an interrupted run continues. With --check the
first corrected network is saved, loaded in a process without this package, and converted with
tf.lite.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import keras
import numpy as np
from kept import Measured, kept, mean_and_spread, slug
from numpy.typing import NDArray

from xplique_dirpairs.core.tables import Cell, Table
from xplique_dirpairs.data.images import compute_activations
from xplique_dirpairs.datasets.chess import (
    CLASS_NAMES,
    LAYER,
    ROOK,
    chess_pieces,
    marked_cells,
    shortcut_pieces,
    train_chess_network,
    watermark,
)
from xplique_dirpairs.extractors.concept_layer import ConceptLayer
from xplique_dirpairs.interventions.correction import choose_k, correct
from xplique_dirpairs.learning.history import LearningWarning
from xplique_dirpairs.learning.learner import learn_pairs
from xplique_dirpairs.learning.presets import get_recipe
from xplique_dirpairs.learning.signals import estimate_signals
from xplique_dirpairs.models.head import Head
from xplique_dirpairs.models.split import split_model
from xplique_dirpairs.pairs import DirectionPairs
from xplique_dirpairs.sensitivity.responses import sensitivity

#: Recipes that look for the shortcut; corrections use the first.
RECIPES = ("constrained", "default")

#: Loads a model where this package cannot be imported, and writes what it predicts.
_ELSEWHERE = """
import sys
sys.modules["xplique_dirpairs"] = None
import keras, numpy as np
model = keras.models.load_model(sys.argv[1])
np.save(sys.argv[3], model.predict(np.load(sys.argv[2]), verbose=0))
"""

Groups = dict[str, tuple[NDArray, NDArray]]


def held_out(count: int) -> Groups:
    """Return test pictures, clean and all of them marked."""
    images, labels, _ = chess_pieces(count, 0, "test")
    return {"clean": (images, labels), "poisoned": (watermark(images), labels)}


def network(folder: Path, seed: int, images: NDArray, labels: NDArray, name: str) -> keras.Model:
    """Return the network, trained once and kept."""
    path = folder / f"{name}_{seed}.keras"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        model = train_chess_network(images, labels, seed=seed, verbose=0)
        model.save(path)
    return keras.models.load_model(path)


def accuracies(model: keras.Model, groups: Groups) -> list[float]:
    """Return accuracies of each group, and of all images."""
    # called as it is: `predict` would compile every one of some dozens of models
    right = [
        np.concatenate(
            [model(x[n : n + 300]).numpy().argmax(axis=1) for n in range(0, len(x), 300)]
        )
        == y
        for x, y in groups.values()
    ]
    return [float(np.mean(part)) for part in (*right, np.concatenate(right))]


def detected_by(
    recipe: str, seed: int, model: keras.Model, images: NDArray, groups: Groups
) -> tuple[DirectionPairs, DirectionPairs, dict[str, Any]]:
    """Return pairs as learned and with differences of means, and figures of the first concept."""
    g, h = split_model(model, LAYER)
    head, x = Head(h), compute_activations(g, images)
    of_rooks = x[head.logits(x).argmax(axis=1) == ROOK]
    start = time.perf_counter()
    learned, _ = learn_pairs(of_rooks, 6, head=head, recipe=recipe, random_state=seed, verbose=0)
    seconds = time.perf_counter() - start
    pairs = estimate_signals(learned, of_rooks)

    influence = sensitivity(head, x, None, pairs.signals)
    first = int(influence.changes[:, ROOK].argmax())
    detected = np.concatenate(
        [pairs.detect(compute_activations(g, im)) > 0.5 for im, _ in groups.values()]
    )
    truth = np.concatenate(
        [marked_cells([n == "poisoned"] * len(y)) for n, (_, y) in groups.items()]
    )
    both = (detected & truth[..., None]).sum(axis=(0, 1, 2))
    ious = both / np.maximum((detected | truth[..., None]).sum(axis=(0, 1, 2)), 1)
    about = {
        "first": first,
        "iou": float(ious[first]),
        "best iou": float(ious.max()),
        "rank": 1
        + int((influence.changes[:, ROOK] > influence.changes[ious.argmax(), ROOK]).sum()),
        "scores": influence.scores[first].tolist(),
        "changes": influence.changes[first].tolist(),
        "seconds": seconds,
    }
    return learned, pairs, about


def directions(
    learned: DirectionPairs, pairs: DirectionPairs, x: NDArray, marked: NDArray, i: int
) -> dict[str, DirectionPairs]:
    """Return the shortcut's detector with other directions to move along, by name."""
    cells = marked_cells(marked)
    cav = x[cells].mean(axis=0) - x[~cells].mean(axis=0)
    signals = np.array(pairs.signals)
    signals[i] = cav
    return {
        "signal": pairs,
        "learned": learned,
        "filter": replace(pairs, signals=pairs.filters),
        "Pattern-CAV": replace(pairs, signals=signals),
    }


def measured(seed: int, arguments: argparse.Namespace) -> Measured:
    """Return all measurements of one seed."""
    groups = held_out(arguments.test_images)
    images, labels, marked = shortcut_pieces(arguments.training_images, seed)
    model = network(arguments.output, seed, images, labels, "model")
    found: dict[str, Any] = {}
    for name in RECIPES:
        learned_, pairs_, found[name] = detected_by(name, seed, model, images, groups)
        if name == RECIPES[0]:
            learned, pairs = learned_, pairs_
    i = found[RECIPES[0]]["first"]
    split = split_model(model, LAYER)
    ways = directions(learned, pairs, compute_activations(split[0], images), marked, i)

    # a user who knows of the mark has some training pictures with it, and without
    clean, y, _ = chess_pieces(150, seed + 1000)
    validation = np.concatenate([clean, watermark(clean)]), np.concatenate([y, y])
    rows = {"original": accuracies(model, groups)}
    own_k = choose_k(ConceptLayer.of(pairs, split), i, *validation)
    for name, way in ways.items():
        concepts = ConceptLayer.of(way, split)
        for off in ("undecided", "absent"):
            rows[f"{name}, {off}"] = accuracies(correct(concepts, i, off=off), groups)
        for k, of in ((own_k, "same k"), (choose_k(concepts, i, *validation), "own k")):
            rows[f"{name}, {of}"] = accuracies(correct(concepts, i, k=k), groups)
        rows[f"{name}, k = 450"] = accuracies(correct(concepts, i, k=450.0), groups)
    rng = np.random.default_rng(seed)
    drawn = []
    for _ in range(arguments.random):
        way = replace(pairs, signals=rng.normal(size=pairs.signals.shape))
        concepts = ConceptLayer.of(way, split)
        drawn.append(accuracies(correct(concepts, i, k=own_k), groups))
    rows["random, same k"] = np.mean(drawn, axis=0).tolist()
    again = network(arguments.output, seed, images[~marked], labels[~marked], "without_marked")
    rows["trained without marked images"] = accuracies(again, groups)
    pairs.save(arguments.output / f"pairs_{seed}.npz")
    return {}, {"found": found, "rows": rows, "k": own_k}


def found_table(seeds: list[dict]) -> Table:
    """Return a table of the most influential concept on rook, for every seed and recipe."""
    rows = []
    for name in RECIPES:
        for seed, about in enumerate(seeds):
            one = about["found"][name]
            texts = [
                f"{one['iou']:.3f}", f"{one['best iou']:.3f}", str(one["rank"]),
                " ".join(f"{s:+.2f}" for s in one["scores"]),
                " ".join(f"{s:+.2f}" for s in one["changes"]), f"{one['seconds']:.0f}",
            ]  # fmt: skip
            rows.append([Cell(name), Cell(str(seed)), *map(Cell, texts)])
    classes = ", ".join(CLASS_NAMES)
    headers = ["recipe", "seed", "IoU of the first", "best IoU", "its rank", "SC", "mean Δ", "s"]
    note = f"First: largest mean Δ on rook over all training images. SC, mean Δ: on {classes}."
    return Table(headers, rows, [note])


def correction_table(seeds: list[dict]) -> Table:
    """Return a table of accuracies, mean and standard deviation over seeds."""
    rows = []
    for name in seeds[0]["rows"]:
        values = np.transpose([about["rows"][name] for about in seeds])
        rows.append([Cell(name), *(mean_and_spread(list(v), 3) for v in values)])
    note = (
        f"Accuracy on held-out images, {len(seeds)} seed(s). Same k: the k chosen for the signal "
        "on validation images; own k: chosen for that direction."
    )
    return Table(["correction", "clean", "poisoned", "both"], rows, [note])


def check_elsewhere(arguments: argparse.Namespace, concept: int) -> None:
    """Save the model, load it in a process without this package, and convert it."""
    import tensorflow as tf

    pairs = DirectionPairs.load(arguments.output / "pairs_0.npz")
    model = keras.models.load_model(arguments.output / "model_0.keras")
    concepts = ConceptLayer.of(pairs, split_model(model, LAYER))
    images = watermark(chess_pieces(64, 0, "test")[0])
    for off in ("undecided", "absent"):
        corrected = correct(concepts, concept, off=off)
        paths = [
            arguments.output / f"{slug(off)}{end}" for end in (".keras", "_images.npy", "_said.npy")
        ]
        corrected.save(paths[0])
        np.save(paths[1], images)
        subprocess.run([sys.executable, "-c", _ELSEWHERE, *map(str, paths)], check=True)
        here, there = corrected.predict(images, verbose=0), np.load(paths[2])
        lite = tf.lite.TFLiteConverter.from_keras_model(corrected).convert()
        interpreter = tf.lite.Interpreter(model_content=lite)
        interpreter.allocate_tensors()
        interpreter.set_tensor(interpreter.get_input_details()[0]["index"], images[:1])
        interpreter.invoke()
        small = interpreter.get_tensor(interpreter.get_output_details()[0]["index"])
        print(
            f"{off}: without this package logits differ by {np.abs(here - there).max():.1e}, in "
            f"tf.lite ({len(lite) / 1e3:.0f} kB) by {np.abs(small - here[:1]).max():.1e}"
        )


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", type=Path, required=True, metavar="DIR")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--training-images", type=int, default=900)
    parser.add_argument("--test-images", type=int, default=900)
    parser.add_argument("--random", type=int, default=10, help="random directions")
    parser.add_argument("--check", action="store_true", help="saved, loaded elsewhere, converted")
    return parser.parse_args()


def main() -> None:
    arguments = parse_arguments()
    warnings.simplefilter("ignore", LearningWarning)
    seeds = []
    for seed in range(arguments.seeds):
        settings = {
            "seed": seed, "training": arguments.training_images, "test": arguments.test_images,
            "random": arguments.random, "recipes": {n: str(get_recipe(n)) for n in RECIPES},
        }  # fmt: skip
        start = time.perf_counter()
        path = arguments.output / f"seed{seed}.npz"
        _, about = kept(path, settings, lambda seed=seed: measured(seed, arguments))
        seeds.append(about)
        print(f"seed {seed}: {time.perf_counter() - start:.0f} s", flush=True)
    print("\n" + found_table(seeds).formatted("markdown") + "\n")
    print(correction_table(seeds).formatted("markdown") + "\n")
    if arguments.check:
        check_elsewhere(arguments, seeds[0]["found"][RECIPES[0]]["first"])


if __name__ == "__main__":
    main()
