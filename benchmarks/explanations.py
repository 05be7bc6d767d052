"""Explanations of a network's classes and predictions: seconds, exactness, pictures.

    python benchmarks/explanations.py --output DIR
    python benchmarks/explanations.py --data DIR --output DIR
    python benchmarks/explanations.py --data DIR --output DIR --layers block_13_expand_relu

Without --data, on the digit scenes (a photograph with a digit: classes share concepts by
construction) with a small network that is trained once and kept in --output. With --data on a real
network: DIR is laid out as for benchmarks/real_network.py. Direction pairs are learned from
training images, and explain others ("val"). For each layer

    fit         seconds of learning
    model       seconds of explain_model
    predictions seconds of explain_prediction, one image of each class, together
    sums        largest |logit − residual − Σ contributions| of these, in logits
    steps       gradients taken, on average; 0 where the head is linear
    all         model and predictions, with their pictures

then the tables of the explanation. Pictures are written to --output: the influence diagram, a
report of each class, its confusion and one prediction, and two predictions compared.
"""

from __future__ import annotations

import argparse
import re
import time
import warnings
from pathlib import Path
from typing import NamedTuple

import keras
import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
from numpy.typing import NDArray
from real_network import load_data

from xplique_dirpairs.datasets.digit_scenes import CLASS_NAMES, digit_scenes, small_cnn
from xplique_dirpairs.explanations.model import explain_model
from xplique_dirpairs.explanations.prediction import compare_predictions, explain_prediction
from xplique_dirpairs.extractors.concept_layer import ConceptLayer
from xplique_dirpairs.extractors.craft import DirectionPairsTf
from xplique_dirpairs.learning.history import LearningWarning
from xplique_dirpairs.models.split import split_model
from xplique_dirpairs.sensitivity.influence import InfluenceSettings

COLUMNS = ("network", "layer", "fit s", "model s", "predictions s", "sums", "steps", "all s")
#: Digit scenes that the network is trained on.
TRAINING_PICTURES = 3600


class Material(NamedTuple):
    """A network, images to learn from, images to explain, and names of classes."""

    name: str
    model: keras.Model
    training: NDArray
    images: NDArray
    labels: NDArray
    class_names: dict[int, str]


def digits(arguments: argparse.Namespace) -> Material:
    training, labels, _ = digit_scenes(TRAINING_PICTURES, arguments.seed)
    path = arguments.output / f"digits_seed{arguments.seed}.keras"
    if not path.exists():
        small_cnn(training, labels, seed=arguments.seed, verbose=0).save(path)
    count = len(CLASS_NAMES)
    images, of_images, _ = digit_scenes(arguments.images * count, arguments.seed, "test")
    names = dict(enumerate(CLASS_NAMES))
    return Material(
        "digits", keras.models.load_model(path), training[: arguments.train_images * count], images,
        of_images, names,
    )  # fmt: skip


def photographs(arguments: argparse.Namespace) -> Material:
    data = load_data(arguments.data)

    def part(split: str, count: int) -> tuple[NDArray, NDArray]:
        images, labels, _ = data.photos(split)
        first = [np.flatnonzero(labels == k)[:count] for k in np.unique(labels)]
        chosen = np.concatenate(first)
        return data.preprocess(images[chosen]), labels[chosen]

    training, _ = part("train", arguments.train_images)
    images, labels = part("val", arguments.images)
    names = dict(enumerate(data.class_names()))
    return Material("photographs", data.model(), training, images, labels, names)


def explain(material: Material, layer: str, arguments: argparse.Namespace) -> None:
    """Explain at one layer: return a row of the table and the tables, and write the pictures."""
    pairs = DirectionPairsTf(
        *split_model(material.model, layer), arguments.concepts, random_state=arguments.seed,
        verbose=0,
    )  # fmt: skip
    start = time.perf_counter()
    pairs.fit(material.training, int(material.labels[0]))
    fitted = time.perf_counter()
    concepts = ConceptLayer.of(pairs, class_names=material.class_names)
    explained = explain_model(
        concepts, material.images, material.labels,
        settings=InfluenceSettings(images=arguments.influence_images), verbose=0,
    )  # fmt: skip
    of_model = time.perf_counter()
    classes = explained.class_ids.tolist()
    first = [int(np.flatnonzero(material.labels == k)[0]) for k in classes]
    predictions = [
        explain_prediction(concepts, material.images[n], crops=explained.crops) for n in first
    ]
    of_predictions = time.perf_counter()
    stem = f"{material.name}_{layer}"
    save(explained.plot(), arguments.output, stem, "influence")
    save(explained.plot(significant_only=False), arguments.output, stem, "influence all")
    save(explained.plot_shared(), arguments.output, stem, "shared")
    for k, name, found in zip(classes, explained.class_names, predictions, strict=True):
        save(explained.plot_class(k), arguments.output, stem, f"class {name}")
        save(found.plot(), arguments.output, stem, f"prediction {name}")
        save(found.plot_waterfall(), arguments.output, stem, f"waterfall {name}")
    for found in explained.confusions:
        figure = explained.plot_confusion(found.source, found.target)
        save(figure, arguments.output, stem, f"confusion {found.names[0]}")
    two = np.flatnonzero(material.labels == classes[0])[:2]
    both = [
        explain_prediction(concepts, material.images[n], classes[0], crops=explained.crops)
        for n in two
    ]
    save(compare_predictions(*both).plot(), arguments.output, stem, "two")
    end = time.perf_counter()
    largest = max(abs(found.gap) for found in [*predictions, *both])
    steps = np.mean([found.steps for found in predictions])
    cells = (
        material.name, layer, f"{fitted - start:.0f}", f"{of_model - fitted:.0f}",
        f"{of_predictions - of_model:.1f}", f"{largest:.1e}", f"{steps:.0f}", f"{end - fitted:.0f}",
    )  # fmt: skip
    print("| " + " | ".join(cells) + " |\n", flush=True)
    grades = explained.significance
    print(
        f"Of {grades.size} influences {(grades == 2).sum()} are significant after correction, "
        f"{(grades > 0).sum()} before it.\n"
    )
    print(explained.table().formatted("markdown"), "\n")
    print(explained.shared_table().formatted("markdown"), "\n")
    for found in explained.confusions:
        print(explained.confusion_table(found.source, found.target, 3).formatted("markdown"), "\n")


def save(figure, folder: Path, stem: str, name: str) -> None:
    figure.savefig(folder / f"{stem}_{re.sub('[^a-z0-9]+', '_', name.lower())}.png", dpi=100)
    plt.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, metavar="DIR")
    parser.add_argument("--output", type=Path, required=True, metavar="DIR")
    parser.add_argument("--layers", nargs="+", help="last_conv; with --data out_relu")
    parser.add_argument("--concepts", type=int, help="10; with --data 25")
    parser.add_argument("--images", type=int, default=50, help="of a class, to explain")
    parser.add_argument("--train-images", type=int, default=50, help="of a class, to learn from")
    parser.add_argument("--influence-images", choices=("all", "class"), default="all")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    if arguments.data is not None and not (arguments.data / "load.py").is_file():
        print(f"skipped: there is no {arguments.data / 'load.py'} (see --help for the layout)")
        return
    warnings.simplefilter("ignore", LearningWarning)
    arguments.output.mkdir(parents=True, exist_ok=True)
    arguments.concepts = arguments.concepts or (10 if arguments.data is None else 25)
    arguments.layers = arguments.layers or ["last_conv" if arguments.data is None else "out_relu"]
    material = digits(arguments) if arguments.data is None else photographs(arguments)
    for layer in arguments.layers:
        print("| " + " | ".join(COLUMNS) + " |")
        print("|" + "---|" * len(COLUMNS), flush=True)
        explain(material, layer, arguments)


if __name__ == "__main__":
    main()
