"""Influence of directions on the network, its significance against noise, and its time.

    python benchmarks/influence.py --output DIR
    python benchmarks/influence.py --data DIR
    python benchmarks/influence.py --data DIR --share 0.1        # a tenth, extrapolated

Without --data, on the annotated scenes: direction pairs learned from the training part with the
network terms and without, SDC, SCDP and S³ (against Pattern-CAVs), mean and standard deviation over
seeds; the influence of Pattern-CAVs of concepts that define classes, and of the distractor, which
defines none (Xplique's own TCAV scores beside it); how often directions are significant on networks
with random weights: which of the tests are valid. Noise vectors are uniform directions (the default
of `influence`, exact here), differences of the means of permuted labels, or the signal vectors of
filters trained on them (the paper's); for the last two, changes are over the validation images of
each class, or over all of them. The encoding directions of the other extractors, with detectors as
in interpretability.py, are tested, too. The network and the pairs are kept in --output.

With --data, times on a real network: DIR is laid out as for benchmarks/real_network.py. Directions
are learned from the "train" photographs; images of the classes are the "val" photographs. Two runs
on the layer:

    uniform     against uniform directions, for every class of the network
    permuted    against signal vectors of permuted labels, over each class's own photographs

The labels are those of the detections on the "train" photographs, whose features are drawn again
for every direction. A --share below 1 uses this share of the directions; seconds are then
extrapolated, except for the fixed part (activations, learning).
"""

from __future__ import annotations

import argparse
import time
import warnings
from pathlib import Path

import numpy as np
from annotated import add_scene_options, scene_layer
from extractors import (
    CONTROLS,
    ON_POSITIONS,
    OURS,
    RECIPES,
    WITH_NETWORK,
    dissected,
    fitted,
)
from kept import learned, mean_and_spread
from numpy.typing import NDArray
from real_network import load_data
from scene_influence import (
    UNIFORM,
    Test,
    effects_table,
    false_positives_table,
    influences,
    known_concepts,
    known_concepts_table,
    known_signs,
    logits_table,
    of_pairs,
    s3_of,
    tcav_table,
)

from xplique_dirpairs.core.tables import Cell, Table
from xplique_dirpairs.data.images import compute_activations
from xplique_dirpairs.extractors.concept_layer import ConceptLayer
from xplique_dirpairs.factorizers.direction_pairs import DirectionPairsFactorizer
from xplique_dirpairs.learning.history import LearningWarning
from xplique_dirpairs.learning.learner import learn_pairs
from xplique_dirpairs.learning.supervised import supervised_pairs
from xplique_dirpairs.models.head import Head
from xplique_dirpairs.models.split import split_model
from xplique_dirpairs.pairs import DirectionPairs
from xplique_dirpairs.sensitivity.influence import InfluenceSettings, influence_of_directions
from xplique_dirpairs.sensitivity.influence_result import Influence, influence_table

#: Extractors that are compared; positions for those that do not use the network.
EXTRACTORS = (OURS, WITH_NETWORK, "UIBE", "CBE", *ON_POSITIONS, *CONTROLS)
_POSITIONS = 50_000

COLUMNS = (
    "run", "directions", "classes", "images", "noise vectors", "s", "s for all",
)  # fmt: skip

#: What is measured on the scenes.
PARTS = ("pairs", "extractors", "known", "random")
#: Runs on a real network.
RUNS = ("uniform", "permuted")

#: Decimals of the columns of SDC, SCDP (twice) and S³.
DECIMALS = (1, 1, 1, 1, 3)
COUNTS = ("SDC, BH", "SCDP, BH", "SDC, Bonferroni", "SCDP, Bonferroni")
CORRECTIONS = ("benjamini-hochberg", "bonferroni", "none")


def no_learning(activations: NDArray, concepts: int, seed: int) -> DirectionPairs:
    """Return random features as detectors, each on at a share of 2/I: times are the same."""
    x = activations.reshape(-1, activations.shape[-1])
    rng = np.random.default_rng(seed)
    x = x[np.sort(rng.permutation(len(x))[:20_000])]
    filters = x[rng.permutation(len(x))[:concepts]] - x.mean(axis=0)
    z = x @ filters.T
    biases = np.quantile(z, 1 - 2 / concepts, axis=0)
    on = (z > biases).astype(np.float32)
    signals = (on / on.sum(axis=0)).T @ x - x.mean(axis=0)
    return DirectionPairs(filters, biases, signals, x.mean(axis=0), np.zeros(concepts))


def timed(head, activations, labels, pairs, features, count, **how) -> tuple[Influence, float]:
    detections = pairs.project(features)[..., :count] > pairs.biases[:count]
    start = time.perf_counter()
    found = influence_of_directions(
        head, activations, labels, pairs.signals[:count], detections, features,
        settings=InfluenceSettings(**how), verbose=0,
    )  # fmt: skip
    if found.interrupted:
        raise KeyboardInterrupt
    return found, time.perf_counter() - start


def row(name: str, found: Influence, images: int, seconds: float, directions: int) -> str:
    cells = (
        name,
        f"{len(found.scores)} of {directions}",
        str(int(found.tested.any(axis=0).sum())),
        str(images),
        "none, p is exact" if found.is_exact else str(found.noise_vectors),
        f"{seconds:.1f}",
        f"{seconds * directions / len(found.scores):.0f}",
    )
    return "| " + " | ".join(cells) + " |"


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, metavar="DIR")
    parser.add_argument("--output", type=Path, metavar="DIR", help="of the scenes")
    parser.add_argument("--directions", type=int, help="40; with --data 100")
    parser.add_argument(
        "--amounts", type=float, nargs="+", default=[5.0], metavar="A", help="a; timed: the first"
    )
    add_scene_options(parser)
    parser.add_argument("--seeds", type=int, default=3, help="of the pairs, on the scenes")
    parser.add_argument("--random-networks", type=int, default=10, metavar="N")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS, help="of the scenes")
    parser.add_argument("--layer", default="out_relu")
    parser.add_argument("--images", type=int, default=50, help="photographs of a class")
    parser.add_argument("--train-images", type=int, default=50, help="of a class, to learn from")
    parser.add_argument("--permutations", type=int, default=1000, help="of permuted labels")
    parser.add_argument("--share", type=float, default=1.0, help="of the directions, timed")
    parser.add_argument("--runs", nargs="+", choices=RUNS, default=RUNS)
    parser.add_argument("--no-learning", action="store_true", help="directions in a second")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    if arguments.data is None and arguments.output is None:
        parser.error("give --output for the scenes, or --data for a real network")
    if arguments.directions is None:
        arguments.directions = 40 if arguments.data is None else 100
    return arguments


def on_scenes(arguments: argparse.Namespace) -> None:
    """Print all tables of the annotated scenes."""
    data = scene_layer(arguments)
    supervised = supervised_pairs(data.training, activations=data.x_training)
    for amount in arguments.amounts:
        how = {"noise_vectors": arguments.permutations, "amount": amount}
        print(f"\na = {amount:g}\n")
        if "pairs" in arguments.parts:
            learned_directions(data, supervised, how, arguments)
        if "extractors" in arguments.parts:
            table = every_extractor(data, supervised, how, arguments)
            print(table.formatted("markdown"), "\n", flush=True)
        if "known" not in arguments.parts:
            continue
        names, by_test = known_concepts(data, supervised, how)
        print(known_concepts_table(names, by_test).formatted("markdown"), "\n")
        print(tcav_table(data, supervised, names).formatted("markdown"), "\n", flush=True)
        print(f"{known_signs(names, by_test[UNIFORM])}.\n")
        print(effects_table(names, by_test[UNIFORM]).formatted("markdown"), "\n", flush=True)
        print(logits_table(data, supervised, names).formatted("markdown"), "\n", flush=True)
    if "random" in arguments.parts:
        table = false_positives_table(
            arguments.random_networks, arguments.training_images, arguments.validation_images,
            arguments.directions, how,
        )  # fmt: skip
        print(table.formatted("markdown"))


def learned_directions(data, supervised, how: dict, arguments: argparse.Namespace) -> None:
    """Print SDC, SCDP and S³ of direction pairs, with the network terms and without."""
    figures: dict[tuple[str, Test], list[list[float]]] = {}
    first = {}
    for name in (OURS, WITH_NETWORK):
        for seed in range(arguments.seeds):
            pairs, _ = learned(
                arguments.output / data.name, data.about, data.x_training, data.head,
                arguments.directions, seed, RECIPES[name],
            )  # fmt: skip
            _, _, dissection = dissected(
                DirectionPairsFactorizer.from_pairs(pairs), data.training, data.x_training
            )
            of_cavs = s3_of(data, pairs.signals, dissection.labels, supervised, how["amount"])
            for test, found in of_pairs(data, pairs, how).items():
                figures.setdefault((name, test), []).append([*counts(found), of_cavs])
                first.setdefault(f"{name}, {test.noise}", found)
    rows = [
        [Cell(name), Cell(test.noise)]
        + [mean_and_spread(v, k) for v, k in zip(np.transpose(values), DECIMALS, strict=True)]
        for (name, test), values in figures.items()
    ]
    note = (
        f"Mean ± standard deviation over {arguments.seeds} seed(s); I = {arguments.directions}, "
        f"a = {how['amount']:g}, {how['noise_vectors']} noise vectors of permuted labels. S³ is of "
        "SC: it does not depend on the noise."
    )
    headers = ["directions", "noise", *COUNTS, "S³"]
    print(Table(headers, rows, [note]).formatted("markdown"), "\n", flush=True)
    print("Seed 0:\n\n" + influence_table(first, CORRECTIONS).formatted("markdown"), "\n")


def counts(found: Influence) -> list[int]:
    """Return SDC and SCDP after Benjamini–Hochberg, and after Bonferroni."""
    summaries = (found.summary(correction) for correction in CORRECTIONS[:2])
    return [count for summary in summaries for count in (summary.sdc, summary.scdp)]


def every_extractor(data, supervised, how: dict, arguments: argparse.Namespace) -> Table:
    """Print SDC, SCDP and S³ of every extractor's encoding directions, by the default test."""
    rows = []
    for name in EXTRACTORS:
        figures = []
        for seed in range(arguments.seeds):
            if name in RECIPES:
                pairs, _ = learned(
                    arguments.output / data.name, data.about, data.x_training, data.head,
                    arguments.directions, seed, RECIPES[name],
                )  # fmt: skip
                factorizer = DirectionPairsFactorizer.from_pairs(pairs)
            else:
                factorizer = fitted(
                    name, arguments.directions, seed, data.head, data.x_training, _POSITIONS
                )
            read, _, dissection = dissected(factorizer, data.training, data.x_training)
            directions = ConceptLayer.of(factorizer, split_model(data.model, data.name)).encoding
            detections = read(data.x_training) > dissection.thresholds
            (found,) = influences(data, directions, detections, how, [UNIFORM]).values()
            of_cavs = s3_of(data, directions, dissection.labels, supervised, how["amount"])
            size = float(np.abs(found.unit_effects).mean())
            figures.append([*counts(found), of_cavs, size])
        cells = [
            mean_and_spread(values, decimals)
            for values, decimals in zip(np.transpose(figures), (*DECIMALS, 2), strict=True)
        ]
        rows.append([Cell(name), *cells])
    note = (
        "Encoding directions against uniform ones; mean ± standard deviation over "
        f"{arguments.seeds} seed(s)."
    )
    headers = ["extractor", *COUNTS, "S³", "mean |unit effect|"]
    return Table(headers, rows, [note])


def main() -> None:
    arguments = parse_arguments()
    warnings.simplefilter("ignore", LearningWarning)
    if arguments.data is None:
        on_scenes(arguments)
        return
    if not (arguments.data / "load.py").is_file():
        print(f"skipped: there is no {arguments.data / 'load.py'} (see --help for the layout)")
        return
    data = load_data(arguments.data)
    g, h = split_model(data.model(), arguments.layer)
    head = Head(h)

    def read(split: str, per_class: int) -> tuple[NDArray, NDArray]:
        images, labels, _ = data.photos(split)
        of_class = [np.flatnonzero(labels == k)[:per_class] for k in np.unique(labels)]
        chosen = np.concatenate(of_class)
        return compute_activations(g, data.preprocess(images[chosen])), labels[chosen]

    start = time.perf_counter()
    features, _ = read("train", arguments.train_images)
    activations, labels = read("val", arguments.images)
    if arguments.no_learning:
        pairs = no_learning(features, arguments.directions, arguments.seed)
    else:
        pairs, _ = learn_pairs(
            features, arguments.directions, head=head, random_state=arguments.seed, verbose=0
        )
    print(f"activations and directions: {time.perf_counter() - start:.0f} s\n")

    print("| " + " | ".join(COLUMNS) + " |")
    print("|" + "---|" * len(COLUMNS), flush=True)
    count = max(1, round(arguments.share * arguments.directions))
    found = {}
    for run in arguments.runs:
        how = {"amount": arguments.amounts[0]}
        if run == "permuted":
            how |= {"noise": "permuted labels", "noise_vectors": arguments.permutations}
            how["images"] = "class"
        found[run], seconds = timed(head, activations, labels, pairs, features, count, **how)
        print(row(run, found[run], len(labels), seconds, arguments.directions), flush=True)
    print()
    print(influence_table(found, CORRECTIONS).formatted("markdown"))


if __name__ == "__main__":
    main()
