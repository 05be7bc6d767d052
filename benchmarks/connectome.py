"""Which concepts make which: planted connectomes, the scenes' CNN, MobileNetV2 on photographs.

    python benchmarks/connectome.py --output DIR --parts planted
    python benchmarks/connectome.py --output DIR --parts shuffled
    python benchmarks/connectome.py --output DIR --parts scenes
    python benchmarks/connectome.py --output DIR --parts real --data DIR

Tables are printed and written to --output:

    planted     AUC of the planted edges of either sign, by effect, for true pairs with each target
                and direction, and for concepts that each method learns from the features
    shuffled    share of edges with p ≤ .05, before correction, where there are none: the weights
                between two layers are shuffled, or the directions are random
    scenes      edges of the scenes' network at its last three layers beside the relations that the
                drawing rules demand and exclude (`scene_relations`), predicted and measured effects
                of suppressing each concept on other images, and the effects of painting objects
                and parts out; for direction pairs, NMF, and the published form
    real        time, memory and edges of MobileNetV2 at four layers
"""

from __future__ import annotations

import argparse
import resource
import time
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import keras
import matplotlib
import numpy as np

matplotlib.use("Agg")

import matplotlib.pyplot as plt
from annotated import NETWORK_IMAGES, TRAINING_SEED, VALIDATION_SEED, scene_network
from real_network import load_data
from scene_relations import class_relation, relation
from sklearn.metrics import roc_auc_score

from xplique_dirpairs.connectome.build import EdgeSettings, build_connectome
from xplique_dirpairs.connectome.divide import divide_images
from xplique_dirpairs.connectome.itcav import itcav
from xplique_dirpairs.connectome.segment_concepts import segment_concepts
from xplique_dirpairs.connectome.suppression import suppression_test
from xplique_dirpairs.core.linear_algebra import cosines, match, unit_rows
from xplique_dirpairs.core.tables import Cell, Table
from xplique_dirpairs.datasets.annotated_scenes import CLASS_NAMES, annotated_scenes
from xplique_dirpairs.datasets.planted_connectome import LOWER, UPPER, planted_connectome
from xplique_dirpairs.factorizers.decompositions import KMeansFactorizer, PCAFactorizer
from xplique_dirpairs.factorizers.direction_pairs import DirectionPairsFactorizer
from xplique_dirpairs.factorizers.nonnegative import NMFFactorizer
from xplique_dirpairs.learning.learner import learn_pairs
from xplique_dirpairs.models.segment import segment_model

PARTS = ("planted", "shuffled", "scenes", "real")
METHODS = ("pairs", "NMF", "published form")
#: Methods that learn planted concepts → how edges are measured. Coefficients of K-Means are steps.
LEARNED = {
    "pairs": EdgeSettings(),
    "NMF": EdgeSettings(),
    "PCA": EdgeSettings(),
    "K-Means": EdgeSettings(measure="shift"),
    "K-Means, distance from centres": EdgeSettings(target="centroid"),
}
#: Layers of MobileNetV2, from 28 × 28 cells of 144 channels to 7 × 7 cells of 1280. In its layers
#: of 32 to 96 channels no more edges stand out from uniform directions than by chance.
REAL_LAYERS = (
    "block_3_depthwise_relu",
    "block_6_depthwise_relu",
    "block_13_expand_relu",
    "out_relu",
)
#: Smallest IoU with a label by which a concept is called.
LEAST_IOU = 0.04


# ------------------------------------------------------------ planted


def aucs(edges, values):
    """Return the AUC of excitatory and of inhibitory edges, (2,)."""
    values = np.nan_to_num(values)
    return [roc_auc_score((s * edges > 0).ravel(), (s * values).ravel()) for s in (1, -1)]


def planted_table(seeds: int, lower: int, chosen: list[str]) -> Table:
    """Return the table of planted connectomes with ``lower`` causes of six upper concepts."""
    found: dict[str, list] = {}
    for seed in range(seeds):
        planted = planted_connectome(128, lower=lower, side=8, seed=seed)
        x = planted.images
        upper = keras.Model(planted.model.input, planted.model.get_layer(UPPER).output)
        features = {LOWER: x, UPPER: upper.predict(x, verbose=0)}
        truth = {LOWER: planted.lower, UPPER: planted.upper}
        for target in ("coefficient", "centroid"):
            for direction in ("signals", "filters"):
                settings = EdgeSettings(target=target, direction=direction)
                made = build_connectome(planted.model, truth, x, settings=settings, verbose=0)
                one = made.edges[0]
                absent = np.abs(one.effects[planted.edges == 0]).mean()
                present = np.abs(one.effects[planted.edges != 0]).mean()
                found.setdefault(f"true pairs, {target}, {direction}", []).append(
                    [*aucs(planted.edges, one.effects), absent / present, 1.0, 1.0]
                )
        for name, settings in LEARNED.items():
            if name not in chosen:
                continue
            method = name.partition(",")[0]
            learned = {layer: fitted(method, own, truth[layer]) for layer, own in features.items()}
            given = {layer: one[0] for layer, one in learned.items()}
            made = build_connectome(planted.model, given, x, settings=settings, verbose=0)
            found.setdefault(f"learned: {name}", []).append(
                planted_row(planted, made.effects[0], *(one[1:] for one in learned.values()))
            )
        if "published form" in chosen:
            row = published_row(planted, truth, lower, seed)
            found.setdefault("published form", []).append(row)
    rows = []
    for name, values in found.items():
        means, low = np.mean(values, axis=0), np.min(values, axis=0)
        cells = [Cell(f"{means[i]:.2f} [{low[i]:.2f}]", numbers=(means[i],)) for i in range(2)]
        rows.append([Cell(name), *cells, *(Cell.figure(value, 2) for value in means[2:])])
    headers = ["concepts", "AUC excitatory", "AUC inhibitory", "absent / present", "cosine, lower",
               "cosine, upper"]  # fmt: skip
    notes = [f"{lower} lower and 6 upper concepts; mean [lowest] of {seeds} seeds."]
    return Table(headers, rows, notes)


def planted_row(planted, effects, lower, upper) -> list[float]:
    """Return AUCs, the size of absent edges beside present ones, and how well concepts match.

    ``lower`` and ``upper`` are what `matched` returns for the concepts of each layer.
    """
    (rows, signs, close), (columns, upper_signs, upper_close) = lower, upper
    effects = effects[np.ix_(rows, columns)] * signs[:, None] * upper_signs
    absent = np.nanmean(np.abs(effects[planted.edges == 0]))
    present = np.nanmean(np.abs(effects[planted.edges != 0]))
    return [*aucs(planted.edges, effects), absent / present, close, upper_close]


def matched(directions, signals):
    """Return which concept is each true one, the sign of their cosine, and the mean |cosine|."""
    cosine = cosines(directions, signals)
    rows = match(np.abs(cosine))
    values = cosine[rows, np.arange(len(signals))]
    return rows, np.sign(values), float(np.abs(values).mean())


def fitted(name, features, truth):
    """Return a method's concepts, and their match with the truth."""
    x = features.reshape(-1, features.shape[-1])
    count = truth.number_of_concepts
    if name == "pairs":
        images = features.reshape(len(features), -1, features.shape[-1])
        pairs, _ = learn_pairs(images, count, random_state=0, verbose=0)
        concepts = DirectionPairsFactorizer.from_pairs(pairs)
    else:
        concepts = {
            "NMF": NMFFactorizer(count, random_state=0),
            "PCA": PCAFactorizer(count),
            "K-Means": KMeansFactorizer(count, random_state=0),
        }[name]
        concepts.fit(np.maximum(x, 0) if name == "NMF" else x)
    return concepts, *matched(concepts.encoding_directions, truth.signals)


def published_row(planted, truth, lower, seed) -> list[float]:
    """Return the row of the published form, whose clusters are matched by their centres."""
    segments = divide_images(planted.model, list(truth), planted.images, cell=1, verbose=0)
    concepts = segment_concepts(planted.model, segments, prune=False, verbose=0)
    random_images = planted_connectome(192, lower=lower, side=8, seed=seed).images[128:]
    made = itcav(concepts, random_images, verbose=0)
    matches = [
        matched(one.centres - one.centres.mean(axis=0), own.signals - own.signals.mean(axis=0))
        for one, own in zip(concepts.values(), truth.values(), strict=True)
    ]
    return planted_row(planted, made.effects[0], *matches)


# ------------------------------------------------------------ where there are no edges


def shuffled(model, lower: str, upper: str, rng):
    """Return a copy of a network with shuffled kernels between two layers."""
    copy = keras.models.clone_model(model)
    copy.set_weights(model.get_weights())
    between = segment_model(copy, lower, upper).layers[1:]
    for layer in between:
        if isinstance(layer, keras.layers.Conv2D):
            kernel, *rest = layer.get_weights()
            layer.set_weights([rng.permutation(kernel.ravel()).reshape(kernel.shape), *rest])
    return copy


def random_directions(pairs, rng):
    """Return pairs with random signal vectors."""
    signals = unit_rows(rng.standard_normal(pairs.signals.shape)).astype(pairs.signals.dtype)
    return replace(pairs, signals=signals)


def null_row(name: str, made: list, edges: int) -> list[Cell]:
    """Return a row: share of edges with p ≤ .05 over all connectomes, and what it may be."""
    p = np.concatenate([one.p_values[0].ravel() for one in made])
    p = p[np.isfinite(p)]
    kept = [one.kept[0].mean() for one in made]
    bound = 0.05 + 3 * np.sqrt(0.05 * 0.95 / p.size)
    return [
        Cell(name),
        Cell(str(len(made))),
        Cell(f"{p.size} of {len(made) * edges}"),
        Cell.figure(float(np.mean(p <= 0.05)), 3),
        Cell.figure(float(bound), 3),
        Cell.figure(float(np.mean(kept)), 3),
    ]


def shuffled_table(arguments) -> Table:
    """Return the table of edges that are found where there are none."""
    rng = np.random.default_rng(0)
    rows = []

    def measure(name, model, images, pairs, between) -> None:
        """Add the rows of shuffled weights, with either noise, and of random directions."""
        lower, upper = between
        for kind in ("shuffled weights", "random directions", "permuted labels, shuffled weights"):
            noise = "permuted labels" if kind.startswith("permuted") else "uniform"
            settings = EdgeSettings(sample=2, noise=noise)
            made = []
            for _ in range(arguments.shuffles):
                given, network = dict(pairs), model
                if "shuffled" in kind:
                    network = shuffled(model, lower, upper, rng)
                else:
                    given[lower] = random_directions(pairs[lower], rng)
                made.append(build_connectome(network, given, images, settings=settings, verbose=0))
            edges = int(np.prod([pairs[layer].number_of_concepts for layer in between]))
            rows.append(null_row(f"{name}, {kind}", made, edges))
            print([cell.text for cell in rows[-1]], flush=True)

    for channels in (24, 128):
        planted = planted_connectome(64, channels=channels)
        pairs = {LOWER: planted.lower, UPPER: planted.upper}
        measure(f"planted, {channels} channels", planted.model, planted.images, pairs,
                (LOWER, UPPER))  # fmt: skip
    network = scene_network(arguments.output, arguments.network_images)
    images = annotated_scenes(arguments.images, seed=TRAINING_SEED).images
    layers = scene_layers(network)
    given = dict.fromkeys(layers, arguments.concepts)
    made = build_connectome(network, given, images, verbose=0)
    pairs = {str(layer.layer): layer.pairs for layer in made.network()}
    for between in pairwise(layers):
        own = {layer: pairs[layer] for layer in between}
        measure(f"scenes, {' to '.join(between)}", network, images, own, between)
    headers = ["network", "connectomes", "edges", "p ≤ .05", "at most", "kept after correction"]
    return Table(headers, rows, ["At most: .05 and three standard errors."])


# ------------------------------------------------------------ scenes


def scene_layers(network) -> list[str]:
    """Return the names of the last three layers of the scenes' network."""
    return [one.name for one in network.layers if isinstance(one, keras.layers.ReLU)][-3:]


def labels_of_concepts(layer, scenes):
    """Return the label of each concept, of an object or a part, and its IoU."""
    names, masks = [], []
    for category in ("object", "part"):
        own = scenes.concepts[category]
        for k, name in enumerate(own, start=1):
            names.append(name)
            masks.append(scenes.masks[category] == k)
    intersections = np.zeros((layer.number_of_concepts, len(names)))
    areas, sizes = np.zeros(layer.number_of_concepts), np.zeros(len(names))
    for start in range(0, len(scenes.images), 50):
        part = slice(start, start + 50)
        shown = layer.shown(layer.activations(scenes.images[part])) > 0
        times = scenes.images.shape[1] // shown.shape[1]
        shown = shown.repeat(times, axis=1).repeat(times, axis=2)
        flat = shown.reshape(-1, shown.shape[-1]).astype(np.float32)
        labels = np.stack([mask[part].ravel() for mask in masks], axis=1).astype(np.float32)
        intersections += flat.T @ labels
        areas += flat.sum(axis=0)
        sizes += labels.sum(axis=0)
    iou = intersections / np.maximum(areas[:, None] + sizes - intersections, 1)
    best = iou.argmax(axis=1)
    values = iou[np.arange(len(best)), best]
    return [names[k] if v >= LEAST_IOU else None for k, v in zip(best, values, strict=True)], values


def relations_found(connectome, labels):
    """Return recall, precision and their numbers, over edges between layers and to the classes."""
    counts = {"demanded": [0, 0], "excluded": [0, 0], "neither": [0, 0]}
    for n, one in enumerate(connectome.edges):
        for i, lower in enumerate(labels[n]):
            if lower is None:
                continue
            last = n == len(labels) - 1
            for j, upper in enumerate(connectome.class_names if last else labels[n + 1]):
                if upper is None:
                    continue
                kind = class_relation(lower, upper) if last else relation(lower, upper)
                counts[kind][1] += 1
                counts[kind][0] += bool(one.kept[i, j] and one.scores[i, j] > 0)
    (hits, demanded), (false, excluded) = counts["demanded"], counts["excluded"]
    return hits / max(demanded, 1), hits / max(hits + false, 1), demanded, excluded, hits, false


def distinct_found(connectome, labels):
    """Return how many listed relations between labels are found by any of their edges."""
    listed, found = set(), set()
    for n, one in enumerate(connectome.edges[:-1]):
        for i, lower in enumerate(labels[n]):
            for j, upper in enumerate(labels[n + 1]):
                if lower is None or upper is None or lower == upper:
                    continue
                if relation(lower, upper) == "demanded":
                    listed.add((lower, upper))
                    if one.kept[i, j] and one.scores[i, j] > 0:
                        found.add((lower, upper))
    return found, listed


def painted_out(connectome, labels, scenes_seed, images):
    """Return predicted and true changes of each labelled upper concept when a label is painted out.

    Predicted: the sum of the suppressions of the lower concepts of this label.
    """
    whole = annotated_scenes(images, seed=scenes_seed)
    layers = connectome.network()
    predicted, true = [], []
    for name in sorted({one for own in labels[:-1] for one in own if one}):
        if name in ("sky", "wall"):
            continue  # nothing would be behind them
        rest = annotated_scenes(images, seed=scenes_seed, without=[name])
        for n in range(len(layers) - 1):
            rows = [i for i, one in enumerate(labels[n]) if one == name]
            if not rows:
                continue
            before, after = (
                layers[n + 1].coefficients(layers[n + 1].activations(one.images)).mean(axis=(1, 2))
                for one in (whole, rest)
            )
            spread = before.std(axis=0)
            known = spread > 0
            predicted.append(-connectome.edges[n].contributions[rows].sum(axis=0)[known])
            true.append(((after - before).mean(axis=0)[known]) / spread[known])
    return np.concatenate(predicted), np.concatenate(true)


def scene_connectome(name, network, layers, images, arguments):
    """Return the connectome of a method."""
    if name == "published form":
        segments = divide_images(network, layers, images, cell=4, verbose=0)
        concepts = segment_concepts(network, segments, verbose=0)
        return itcav(
            concepts, annotated_scenes(200, seed=9).images, class_names=CLASS_NAMES,
            random_sets=arguments.random_sets, verbose=0,
        )  # fmt: skip
    given = {layer: arguments.concepts for layer in layers}
    if name == "NMF":
        for layer in layers:
            half = keras.Model(network.input, network.get_layer(layer).output)
            x = half.predict(images, verbose=0)
            given[layer] = NMFFactorizer(arguments.concepts, random_state=0)
            positions = x.reshape(-1, x.shape[-1])
            given[layer].fit(positions[:: max(1, len(positions) // 50_000)])
    return build_connectome(network, given, images, class_names=CLASS_NAMES, verbose=0)


def scene_tables(arguments) -> list[Table]:
    """Return the tables of the scenes' network."""
    network = scene_network(arguments.output, arguments.network_images)
    layers = scene_layers(network)
    scenes = annotated_scenes(arguments.images, seed=TRAINING_SEED)
    other = annotated_scenes(arguments.held_out, seed=VALIDATION_SEED)
    rows, details = [], []
    for name in arguments.methods:
        begun = time.perf_counter()
        one = scene_connectome(name, network, layers, scenes.images, arguments)
        seconds = time.perf_counter() - begun
        labels = [labels_of_concepts(layer, scenes)[0] for layer in one.network()]
        recall, precision, demanded, excluded, hits, false = relations_found(one, labels)
        distinct, listed = distinct_found(one, labels)
        test = suppression_test(one, other.images, verbose=0)
        correlations = test.correlations
        if name == "published form":
            correlations = test.correlations_with(tuple(-each.scores for each in one.edges))
        else:
            every = tuple(replace(each, kept=each.p_values <= 0.05) for each in one.edges)
            found = relations_found(replace(one, edges=every), labels)
            details.append(
                f"{name}, no correction for many tests: edges kept "
                f"{' / '.join(f'{each.kept.mean():.2f}' for each in every)}, recall {found[0]:.2f} "
                f"({found[4]} of {found[2]}), precision {found[1]:.2f} ({found[5]} of {found[3]} "
                "excluded)."
            )
            predicted, true = painted_out(one, labels, VALIDATION_SEED, arguments.held_out)
            details.append(
                f"{name}: painting labels out, correlation of predicted and true changes of the "
                f"concepts of the next layer {np.corrcoef(predicted, true)[0, 1]:.2f} over "
                f"{len(true)} pairs."
            )
            published = test.correlations_with(
                tuple(-each.effects for each in _published_edges(network, one, scenes.images))
            )
            details.append(
                f"{name}, suppression predicted by edges to distances from centres along filters: "
                + ", ".join(f"{value:.2f}" for value in published)
            )
        details.append(
            f"{name}: relations between different labels found: "
            + "; ".join(f"{a} → {b}" for a, b in sorted(distinct))
            + f" ({len(distinct)} of {len(listed)} listed whose ends were found)."
        )
        rows.append(
            [
                Cell(name),
                Cell(" / ".join(str(sum(k is not None for k in own)) for own in labels)),
                Cell(" / ".join(f"{each.kept.mean():.2f}" for each in one.edges)),
                Cell(f"{recall:.2f} ({hits} of {demanded})", numbers=(recall,)),
                Cell(f"{precision:.2f} ({false} of {excluded} excluded)", numbers=(precision,)),
                Cell(f"{len(distinct)} of {len(listed)}"),
                Cell(" / ".join(f"{value:.2f}" for value in correlations)),
                Cell.figure(seconds, 0),
            ]
        )
        print([cell.text for cell in rows[-1]], *details, sep="\n", flush=True)
        test.plot().savefig(arguments.output / f"suppression_{name.replace(' ', '_')}.png", dpi=110)
        one.save(arguments.output / f"connectome_{name.replace(' ', '_')}.npz")
        figure = one.plot("street")
        figure.savefig(arguments.output / f"connectome_{name.replace(' ', '_')}.png", dpi=110)
        plt.close("all")
    headers = ["concepts", "with a label", "edges kept", "recall", "precision",
               "distinct relations", "suppression: correlation", "s"]  # fmt: skip
    notes = [
        f"Layers {', '.join(layers)}; {arguments.images} scenes, {arguments.held_out} others for "
        "the suppression.",
        *details,
    ]
    return [Table(headers, rows, notes)]


def _published_edges(network, connectome, images):
    """Return the edges of the same concepts by distances from centres, along filters."""
    given = {str(layer.layer): layer for layer in connectome.network()}
    settings = EdgeSettings(target="centroid", direction="filters")
    made = build_connectome(
        network, given, images, settings=settings, class_ids=connectome.class_ids, verbose=0
    )
    return made.edges


# ------------------------------------------------------------ a real network


def real_table(arguments) -> Table:
    """Return the table of MobileNetV2."""
    data = load_data(arguments.data)
    photographs = data.photos("train")[0]
    chosen = np.linspace(0, len(photographs) - 1, arguments.photographs).astype(int)
    begun, used = time.perf_counter(), time.process_time()
    made = build_connectome(
        data.model(),
        dict.fromkeys(REAL_LAYERS, 20),
        data.preprocess(photographs[chosen]),
        class_names=data.class_names(),
    )
    seconds, used = time.perf_counter() - begun, time.process_time() - used
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    made.save(arguments.output / "connectome_mobilenet.npz")
    made.plot(made.class_names[0]).savefig(arguments.output / "connectome_mobilenet.png", dpi=110)
    other = data.photos("val")[0]
    chosen_other = np.linspace(0, len(other) - 1, 40).astype(int)
    tested = suppression_test(made, data.preprocess(other[chosen_other]))
    rows = [
        [
            Cell(layer.name),
            *(Cell.figure(value, 2) for value in own.values()),
            Cell.figure(float(np.nanmean(each.p_values <= 0.05)), 2),
            Cell.figure(correlation, 2),
        ]
        for layer, own, each, correlation in zip(
            made.layers, made.metrics(), made.edges, tested.correlations, strict=True
        )
    ]
    chains = [
        f"{path.effect:+.2g}: {' → '.join(path.names)}"
        for name in made.class_names[:3]
        for path in made.paths(name, 2)
    ]
    note = (
        f"{seconds:.0f} s with the pairs' fits, {used:.0f} s of them computing; {memory:.1f} GB at "
        f"most; {len(chosen)} photographs."
    )
    headers = ["layer", *made.metrics()[0], "p ≤ .05", "suppression: correlation"]
    notes = [note, "Suppression: on 40 other photographs.", *chains]
    return Table(headers, rows, notes)


def main() -> None:
    """Measure, print and write the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--data", type=Path, help="model and photographs, as for real_network.py")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=METHODS, help="scenes")
    learned = [*LEARNED, "published form"]
    parser.add_argument("--learned", nargs="+", choices=learned, default=learned, help="planted")
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--shuffles", type=int, default=10)
    parser.add_argument("--images", type=int, default=400, help="scenes")
    parser.add_argument("--held-out", type=int, default=200, help="scenes for the suppression")
    parser.add_argument("--photographs", type=int, default=250)
    parser.add_argument("--concepts", type=int, default=24, help="concepts of a layer, scenes")
    parser.add_argument("--random-sets", type=int, default=20, help="of the published form")
    parser.add_argument("--network-images", type=int, default=NETWORK_IMAGES)
    arguments = parser.parse_args()
    arguments.output.mkdir(parents=True, exist_ok=True)
    tables = []
    if "planted" in arguments.parts:
        chosen = arguments.learned
        tables += [planted_table(arguments.seeds, lower, chosen) for lower in (8, 16)]
    if "shuffled" in arguments.parts:
        tables.append(shuffled_table(arguments))
    if "scenes" in arguments.parts:
        tables += scene_tables(arguments)
    if "real" in arguments.parts and arguments.data:
        tables.append(real_table(arguments))
    text = "\n\n".join(table.formatted("markdown") for table in tables)
    name = f"connectome_{'_'.join(arguments.parts)}.md"
    (arguments.output / name).write_text(text + "\n", encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
