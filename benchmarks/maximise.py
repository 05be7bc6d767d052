"""Do pictures made for a concept fire its detector, and no other? On a small network.

    python benchmarks/maximise.py
    python benchmarks/maximise.py --concepts 24 --output DIR
    python benchmarks/maximise.py --scenes --output DIR

Trains the network of the digit scenes or, with --scenes, that of the annotated scenes (kept in
--output, and the pairs with it), learns direction pairs of all its classes, makes a picture of
every concept along its filter and its signal vector, with the strongest other detector counted
against it and without, and with Xplique's own `Objective.direction` and `optimize` as they are;
passes them through the network and prints, as means over the concepts, what fires. "best
photograph": for each concept the training picture that fires its detector most. Figures go to
--output.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import keras
import numpy as np
import tensorflow as tf
from annotated import add_scene_options, scene_layer
from kept import learned
from numpy.typing import NDArray
from xplique.features_visualizations import Objective, optimize

from xplique_dirpairs import ConceptLayer, learn_pairs, split_model
from xplique_dirpairs.core.tables import Cell, Table
from xplique_dirpairs.data.images import best_crops_of_images, compute_activations
from xplique_dirpairs.datasets.digit_scenes import digit_scenes, small_cnn
from xplique_dirpairs.maximisation.firing_report import FiringReport, measure_firing
from xplique_dirpairs.maximisation.maximise import maximise
from xplique_dirpairs.pairs import DirectionPairs
from xplique_dirpairs.plots.concepts import plot_maximised

LAYER = "last_conv"


def by_xplique(g: keras.Model, directions: NDArray, seed: int) -> NDArray:
    """Return Xplique's own pictures, one direction at a time, with its settings except the size."""
    made = []
    for direction in directions:
        tf.random.set_seed(seed)
        objective = Objective.direction(g, -1, direction[None, None])
        images, _ = optimize(objective, custom_shape=g.input_shape[1:3])
        made.append(images[-1].numpy())
    return np.concatenate(made)


def table(reports: dict[str, FiringReport], seconds: dict[str, float]) -> Table:
    headers = ["pictures", *next(iter(reports.values())).figures, "s per picture"]
    rows = []
    for name, report in reports.items():
        cells = [Cell(f"{v:.3f}", numbers=(v,)) for v in report.figures.values()]
        spent = Cell(f"{seconds[name]:.1f}") if name in seconds else Cell("–")
        rows.append([Cell(name), *cells, spent])
    return Table(headers, rows)


def of_digits(arguments: argparse.Namespace) -> tuple[keras.Model, NDArray, DirectionPairs]:
    """Return the network of the digit scenes, some pictures, and their pairs."""
    images, labels, _ = digit_scenes(3600, arguments.seed)
    if arguments.network:
        model = keras.models.load_model(arguments.network)
    else:
        model = small_cnn(images, labels, seed=arguments.seed, verbose=0)
    split = split_model(model, LAYER)
    pairs, _ = learn_pairs(
        compute_activations(split[0], images[:900]), arguments.concepts or 10, head=split.head,
        random_state=arguments.seed, verbose=0,
    )  # fmt: skip
    return model, images[:900], pairs


def of_scenes(arguments: argparse.Namespace) -> tuple[keras.Model, NDArray, DirectionPairs]:
    """Return network, pictures and pairs of the annotated scenes."""
    data = scene_layer(arguments)
    pairs, _ = learned(
        arguments.output / data.name, data.about, data.x_training, data.head,
        arguments.concepts or 40, arguments.seed,
    )  # fmt: skip
    return data.model, data.training.images, pairs


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--concepts", type=int, help="10; of the scenes 40")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=128)
    parser.add_argument("--scenes", action="store_true", help="the annotated scenes' network")
    parser.add_argument("--network", type=Path, help="a stored network of the digit scenes")
    parser.add_argument("--output", type=Path, help="folder of the figure; needed by --scenes")
    add_scene_options(parser)
    arguments = parser.parse_args()
    if arguments.scenes and not arguments.output:
        parser.error("--scenes keeps its network in --output: give one")

    model, images, pairs = (of_scenes if arguments.scenes else of_digits)(arguments)
    split = split_model(model, LAYER)
    g, concepts = split.input_to_latent_model, ConceptLayer.of(pairs, split)
    activations = compute_activations(g, images)

    made, seconds = {}, {}
    for along in ("filters", "signals"):
        for weight in (1.0, 0.0):
            name = f"{along}, against rival {weight:g}"
            start = time.perf_counter()
            made[name] = maximise(
                concepts, along=along, against_rival=weight,
                steps=arguments.steps, random_state=arguments.seed, verbose=0,
            )  # fmt: skip
            seconds[name] = (time.perf_counter() - start) / len(pairs.filters)
    for name, directions in (("filters", pairs.filters), ("signals", pairs.signals)):
        start = time.perf_counter()
        made[f"{name}, Xplique's own"] = by_xplique(g, directions, arguments.seed)
        seconds[f"{name}, Xplique's own"] = (time.perf_counter() - start) / len(pairs.filters)
    excess = pairs.project(activations) - pairs.biases
    best = excess.max(axis=(1, 2)).argmax(axis=0)
    reports = {
        name: measure_firing(concepts, pictures)
        for name, pictures in (made | {"best photograph": images[best]}).items()
    }
    print(table(reports, seconds))

    if arguments.output:
        arguments.output.mkdir(parents=True, exist_ok=True)
        maps = pairs.coefficients(activations) * (excess > 0)
        crops = best_crops_of_images(images, maps, 5)
        shown = {name: made[f"{name}, against rival 1"] for name in ("filters", "signals")}
        figure = plot_maximised(
            shown, crops, np.arange(len(pairs.filters)), limits=(0.0, 1.0),
            title="Pictures made for a concept, and the best crops of photographs",
        )  # fmt: skip
        figure.savefig(arguments.output / "maximised.png", dpi=100)


if __name__ == "__main__":
    main()
