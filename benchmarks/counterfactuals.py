"""Counterfactuals along the directions of several extractors, with the same optimiser.

    python benchmarks/counterfactuals.py --output DIR
    python benchmarks/counterfactuals.py --output DIR --networks digits --images 200
    python benchmarks/counterfactuals.py --output DIR --data DIR --networks real

Networks: ``scenes`` and ``digits`` are trained once and kept in --output; ``real`` takes that of
--data (the layout is that of ``real_network.py``). Extractors are fitted on training images, and
counterfactuals are searched for validation images that are classified correctly, the same ones for
all. Columns, for every extractor and every number of concepts that may be moved:

    changed     share of the predictions that are changed, verified by the real head
    moved       mean number of concepts
    within      share of those changed whose features are within the 99th percentile of the training
                images' own distances: of positions, of the image, of both
    norm        ‖x' − x‖_F / ‖x‖_F
    positions   mean distance of the moved features to the training positions
    image       mean distance to the nearest training image

the last three over the images whose predictions all extractors change, and, in brackets, the share
of these images for which it is less than along the direction pairs (equal ones count half). The
intact images' own figures are in the first row; in the second, for a head that is linear after
pooling, those of the shortest step to the boundary, which neither concepts nor limits restrict.
``(least)``: the least norm, whether or not within the percentile.

With ``real`` there is another table: seconds of each class.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import keras
import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
from annotated import add_scene_options, scene_layer
from extractors import OURS, fitted
from real_network import load_data

from xplique_dirpairs.data.images import compute_activations
from xplique_dirpairs.datasets.digit_scenes import CLASS_NAMES, digit_scenes, small_cnn
from xplique_dirpairs.extractors.concept_layer import ConceptLayer
from xplique_dirpairs.interventions.counterfactuals import CounterfactualSearch
from xplique_dirpairs.models.head import Head
from xplique_dirpairs.models.split import SplitModel, split_model

METHODS = (OURS, "NMF", "PCA", "random directions")
COLUMNS = (
    "network", "concepts moved", "directions", "changed", "moved",
    "within: positions, image, both", "norm", "positions", "image", "s",
)  # fmt: skip


def row(*cells) -> None:
    print("| " + " | ".join(str(cell) for cell in cells) + " |", flush=True)


def digits_layer(arguments):
    """Return split, training activations, validation activations, validation labels and images."""
    path = arguments.output / "digits_network.keras"
    if not path.exists():
        images, labels, _ = digit_scenes(3600, 0)
        path.parent.mkdir(parents=True, exist_ok=True)
        small_cnn(images, labels, verbose=0).save(path)
    split = split_model(keras.models.load_model(path), "last_conv")
    training = digit_scenes(arguments.training_images, 1)[0]
    images, labels, _ = digit_scenes(arguments.validation_images, 0, "test")
    parts = (compute_activations(split[0], part) for part in (training, images))
    return split, *parts, labels, images, CLASS_NAMES


def scenes_layer(arguments: argparse.Namespace) -> tuple:
    scenes = scene_layer(arguments)
    validation = scenes.validation
    return (
        split_model(scenes.model, scenes.name), scenes.x_training, scenes.x_validation,
        validation.labels, validation.images, validation.class_names,
    )  # fmt: skip


def better_share(ours, other) -> str:
    """Return the share of images for which the other is less; ties count half."""
    return f"{np.mean(np.where(other == ours, 0.5, other < ours)):.2f}"


def search_of(method: str, split: SplitModel, training, class_names, arguments):
    """Fit an extractor to the training activations and read them."""
    concepts = fitted(method, arguments.concepts, arguments.seed, split.head, training, 20000)
    layer = ConceptLayer.of(concepts, split, class_names=class_names)
    return CounterfactualSearch(layer, training)


def compare(name: str, layer, arguments) -> None:
    split, training, validation, labels, images, class_names = layer
    head = split.head
    right = np.flatnonzero(head.logits(validation).argmax(axis=1) == labels)[: arguments.images]
    x = validation[right]
    searches = {}
    for method in arguments.directions:
        searches[method] = search_of(method, split, training, class_names, arguments)
    own = searches[arguments.directions[0]].distance(x)
    inside = [own.positions_percentile <= 99, own.image_percentile <= 99]
    inside.append(inside[0] & inside[1])
    row(
        name, 0, f"{len(x)} intact images", "", 0, ", ".join(f"{s.mean():.3f}" for s in inside), 0,
        f"{own.positions.mean():.3f}", f"{own.image.mean():.3f}", "",
    )  # fmt: skip
    if head.class_rows is not None:
        floor(name, head, searches[arguments.directions[0]].distance, x)
    for stay_within in (99.0, None):
        for most in arguments.moved:
            found, seconds = {}, {}
            for method, search in searches.items():
                start = time.perf_counter()
                found[method] = search.find(
                    x,
                    max_concepts=most,
                    stay_within=stay_within,
                    images=images[right],
                    verbose=0,
                )
                seconds[method] = time.perf_counter() - start
            label = str(most) if stay_within else f"{most} (least)"
            report(name, label, found, seconds)
            if stay_within and arguments.pictures:
                draw(found[arguments.directions[0]], arguments.output, f"{name}_{most}")


def floor(name: str, head: Head, distance, x) -> None:
    """Return the shortest step to the boundary, along the difference of two rows, unclipped."""
    logits = head.logits(x)
    own = logits.argmax(axis=1)
    steps = head.class_rows[None] - head.class_rows[own][:, None]
    squares = (steps**2).sum(axis=2)
    gaps = logits[np.arange(len(x)), own][:, None] - logits
    image = np.arange(len(x))
    squares[image, own] = np.nan  # no step leads from a class to itself
    nearest = np.nanargmin(gaps / np.sqrt(squares), axis=1)
    share = (gaps / squares)[image, nearest]
    step = (share[:, None] * steps[image, nearest]).astype(np.float32)
    moved = x + step.reshape(len(x), *[1] * (x.ndim - 2), -1)
    after = distance(moved)
    norm = np.linalg.norm((moved - x).reshape(len(x), -1), axis=1)
    inside = [after.positions_percentile <= 99, after.image_percentile <= 99]
    inside.append(inside[0] & inside[1])
    row(
        name, "any", "step to the boundary", "", "", ", ".join(f"{s.mean():.3f}" for s in inside),
        f"{(norm / np.linalg.norm(x.reshape(len(x), -1), axis=1)).mean():.3f}",
        f"{after.positions.mean():.3f}", f"{after.image.mean():.3f}", "",
    )  # fmt: skip


def report(name: str, label: str, found, seconds) -> None:
    shared = np.all([f.found for method, f in found.items() if "random" not in method], axis=0)
    first = next(iter(found.values()))
    for method, f in found.items():
        after, those = f.distances_after, shared & f.found
        inside = (
            after.positions_percentile <= 99,
            after.image_percentile <= 99,
            f.within(99.0),
        )
        cells = [
            f"{values[those].mean():.3f} ({better_share(reference[those], values[those])})"
            for values, reference in (
                (f.changed, first.changed),
                (after.positions, first.distances_after.positions),
                (after.image, first.distances_after.image),
            )
        ]
        row(
            name, label, f"{method}, {those.sum()} shared", f"{f.found.mean():.3f}",
            f"{f.number_moved.mean():.2f}",
            ", ".join(f"{part[f.found].mean():.3f}" for part in inside),
            *cells, f"{seconds[method]:.1f}",
        )  # fmt: skip


def draw(found, folder: Path, stem: str, count: int = 3) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(min(count, len(found))):
        figure = found[i].plot()
        figure.savefig(folder / f"counterfactual_{stem}_{i}.png", dpi=110)
        plt.close(figure)


def real(arguments) -> None:
    """Print seconds after the fit and results for five classes of a real network."""
    data = load_data(arguments.data)
    model, names = data.model(), data.class_names()
    split = split_model(model, arguments.layer)
    g, head = split[0], split.head
    train, train_labels, _ = data.photos("train")
    val, val_labels, _ = data.photos("val")
    classes = np.unique(train_labels)[:5]
    some = np.concatenate([np.flatnonzero(train_labels == k)[:40] for k in classes])
    training = compute_activations(g, data.preprocess(train[some]))
    searches = {}
    for method in arguments.directions:
        start = time.perf_counter()
        searches[method] = search_of(method, split, training, names, arguments)
        fit = time.perf_counter() - start
        print(f"<!-- {method}: fit of {len(training)} photographs {fit:.0f} s -->", flush=True)
    row(
        "class", "directions", "photographs", "changed", "moved", "intact within: both",
        "within: both", "norm", "s",
    )  # fmt: skip
    row(*["---"] * 9)
    for k in classes:
        photographs = val[val_labels == k][: arguments.photographs]
        x = compute_activations(g, data.preprocess(photographs))
        right = head.logits(x).argmax(axis=1) == k
        for method, search in searches.items():
            start = time.perf_counter()
            found = search.find(
                x[right],
                max_concepts=max(arguments.moved),
                images=photographs[right],
                verbose=0,
            )
            seconds = time.perf_counter() - start
            row(
                names[k], method, int(right.sum()), f"{found.found.mean():.2f}",
                f"{found.number_moved.mean():.2f}",
                f"{(found.distances_before.percentile <= 99)[found.found].mean():.2f}",
                f"{found.within(99.0)[found.found].mean():.2f}",
                f"{found.changed[found.found].mean():.3f}", f"{seconds:.1f}",
            )  # fmt: skip
            if method == arguments.directions[0] and arguments.pictures:
                draw(found, arguments.output, f"real_{k}", 1)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", type=Path, required=True, metavar="DIR")
    parser.add_argument("--data", type=Path, metavar="DIR")
    parser.add_argument("--networks", nargs="+", default=["scenes", "digits"])
    parser.add_argument("--directions", nargs="+", default=list(METHODS))
    parser.add_argument("--layer", default="out_relu", help="of the real network")
    parser.add_argument("--concepts", type=int, default=20)
    parser.add_argument("--moved", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--images", type=int, default=200, help="validation images, at most")
    parser.add_argument("--photographs", type=int, default=10, help="of a class, at most")
    parser.add_argument("--pictures", action="store_true", help="write some to --output")
    parser.add_argument("--seed", type=int, default=0)
    add_scene_options(parser)
    return parser.parse_args()


def main() -> None:
    arguments = parse_arguments()
    if "real" in arguments.networks:
        if arguments.data is None or not (arguments.data / "load.py").is_file():
            print("skipped: give --data DIR with load.py (see real_network.py for the layout)")
        else:
            real(arguments)
    layers = {"scenes": scenes_layer, "digits": digits_layer}
    chosen = [name for name in arguments.networks if name in layers]
    if chosen:
        row(*COLUMNS)
        row(*["---"] * len(COLUMNS))
    for name in chosen:
        compare(name, layers[name](arguments), arguments)


if __name__ == "__main__":
    main()
