"""Does a detector stand for one concept? Extractors by Network Dissection, on annotated images.

    python benchmarks/interpretability.py --output DIR
    python benchmarks/interpretability.py --data DIR --output DIR

Without --data: the annotated scenes and a small network, which is trained once and kept in
--output; 40 concepts. With it: a real network, two of its layers, and photographs with clothing
masks, split by photograph; 25 concepts; DIR is laid out as for benchmarks/real_network.py, whose
`load.py` also has `clothing()`: images, masks, {number: name}, in the order of the names of
clothing/images/*.jpg.

Extractors are fitted on the training part and labelled there; scores are of the validation part.
Detectors fire above their own bias (direction pairs, UIBE, CBE, no learning), where they are the
nearest centroid (K-Means: 1/2 of the upsampled 0 or 1), or, if they have no threshold, above the
quantile, of the top 1/I and the top 0.5 %, that is better on the training part. "supervised" are
linear detectors learned from the masks, one for each concept, with the concept as label: their
number differs, and they are a bound, not a competitor.

Scores, mean and standard deviation over seeds; differences, with intervals over images; detectors
and labels of each category. Measurements are kept in --output, a file for each extractor and
seed, and not repeated. Figures, of seed 0, go there, too.
"""

from __future__ import annotations

import argparse
import time
import warnings
from dataclasses import fields
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
from annotated import AnnotatedLayer, add_scene_options, clothing_layers, scene_layer
from detector_plots import plot_above, plot_best_detectors, plot_labels
from detector_views import strongest_images
from extractors import (
    CONTROLS,
    ON_POSITIONS,
    OURS,
    RECIPES,
    WITH_NETWORK,
    Read,
    dissected,
    fitted,
)
from kept import Measured, kept, learned, mean_and_spread, slug
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning

from xplique_dirpairs.core.tables import Cell, Table
from xplique_dirpairs.data.annotated_images import flat_concepts
from xplique_dirpairs.factorizers.direction_pairs import DirectionPairsFactorizer
from xplique_dirpairs.learning.history import LearningWarning
from xplique_dirpairs.learning.presets import get_recipe
from xplique_dirpairs.learning.supervised import supervised_pairs
from xplique_dirpairs.metrics.interpretability import Interpretability, s1, s2
from xplique_dirpairs.metrics.labelled_detectors import score_labels
from xplique_dirpairs.metrics.registry import METRICS

SUPERVISED = "supervised"
NAMES = [OURS, WITH_NETWORK, "UIBE", "CBE", *(n for n in ON_POSITIONS if n != "semi-NMF")]
NAMES += [*CONTROLS, SUPERVISED]

#: An extractor's scores and further results, one for each seed.
Found = dict[str, list[tuple[Interpretability, dict]]]


# ------------------------------------------------------------------------------ measuring


def measure(
    data: AnnotatedLayer, name: str, concepts: int, seed: int, arguments: argparse.Namespace
) -> Measured:
    """Return scores and seconds of one extractor; draw its best detectors for seed 0."""
    x, labels = data.x_training, None
    start = time.perf_counter()
    if name in RECIPES:
        folder, recipe = arguments.output / data.name, RECIPES[name]
        pairs, seconds = learned(folder, data.about, x, data.head, concepts, seed, recipe)
        factorizer = DirectionPairsFactorizer.from_pairs(pairs)
    else:
        if name == SUPERVISED:
            supervised = supervised_pairs(data.training, activations=x, random_state=seed)
            factorizer = DirectionPairsFactorizer.from_pairs(supervised.pairs)
            labels = supervised.labels
        else:
            factorizer = fitted(name, concepts, seed, data.head, x, arguments.positions)
        seconds = time.perf_counter() - start
    read, said, dissection = dissected(factorizer, data.training, x)
    scores = score_labels(
        data.validation, read, dissection, labels,
        activations=data.x_validation,
    )  # fmt: skip
    print(f"{data.name}, seed {seed}, {name}: fit {seconds:.1f} s, S¹ {scores.s1:.2f}", flush=True)
    if seed == 0:
        draw_best(data, read, scores, f"{name}: images of the validation part", arguments.output)
    arrays = {f.name: getattr(scores, f.name) for f in fields(scores) if f.name != "concepts"}
    return arrays, {"concepts": scores.concepts, "threshold": said, "seconds": seconds}


def draw_best(
    data: AnnotatedLayer, read: Read, scores: Interpretability, title: str, output: Path
) -> None:
    views = strongest_images(data.validation, read, scores, activations=data.x_validation)
    parts = zip(*((v.images, v.masks, v.detections, v.name) for v in views), strict=True)
    name = f"best_detectors_{slug(title.split(':')[0])}"
    save(plot_best_detectors(*map(list, parts), title=title), output / data.name, name)


def measured(
    data: AnnotatedLayer, name: str, concepts: int, seed: int, arguments: argparse.Namespace
) -> tuple[Interpretability, dict]:
    """Return `measure`'s result, from its file if there is one."""
    settings = {
        "data": data.about,
        "validation": len(data.validation),
        "concepts": concepts,
        "positions": arguments.positions,
        "recipe": str(get_recipe(RECIPES[name])) if name in RECIPES else "",
    }
    path = arguments.output / data.name / f"{slug(name)}_{concepts}_{seed}.npz"
    arrays, about = kept(path, settings, lambda: measure(data, name, concepts, seed, arguments))
    listed = {category: tuple(names) for category, names in about["concepts"].items()}
    return Interpretability(concepts=listed, **arrays), about


# ------------------------------------------------------------------------------ tables


def scores_table(found: Found) -> Table:
    """Return a table of extractors × metrics."""
    metrics = [metric for metric in METRICS.values() if metric.kind == "interpretability"]
    values = {}
    for name, results in found.items():
        summaries = [scores.summaries(resamples=0) for scores, _ in results]
        values[name] = {m.key: [summary[m.key].value for summary in summaries] for m in metrics}
    best = {
        m.key: max((np.mean(v[m.key]) for n, v in values.items() if n != SUPERVISED), default=None)
        for m in metrics
    }
    rows = []
    for name, results in found.items():
        cells = [
            mean_and_spread(v := values[name][m.key], m.decimals, np.mean(v) == best[m.key])
            for m in metrics
        ]
        thresholds = ", ".join(sorted({about["threshold"] for _, about in results}))
        number = str(len(results[0][0].labels))
        seconds = mean_and_spread([about["seconds"] for _, about in results], 0)
        rows.append([Cell(name), Cell(number), Cell(thresholds), *cells, seconds])
    headers = ["extractor", "I", "threshold", *(m.header for m in metrics)]
    note = "± is the standard deviation over seeds."
    return Table([*headers, "s"], rows, [note])


def differences_table(found: Found, groups: NDArray | None, resamples: int) -> Table:
    """Return S¹ and S² of the pairs minus those of the others, with intervals over images.

    Images of a group are drawn together.
    """
    of_iou = (lambda iou, scores: s1(iou), lambda iou, scores: s2(iou, scores.labels))
    drawn_iou = {
        name: [scores.resampled_iou(groups, resamples) for scores, _ in results]
        for name, results in found.items()
    }
    rows = []
    for name, results in found.items():
        if name in (OURS, SUPERVISED):
            continue
        cells, pairs = [], [(a, b) for (a, _), (b, _) in zip(found[OURS], results, strict=True)]
        both_drawn = list(zip(drawn_iou[OURS], drawn_iou[name], strict=True))
        for score in of_iou:
            values = np.array([score(a.iou, a) - score(b.iou, b) for a, b in pairs])
            drawn = [
                score(drawn_a, a) - score(drawn_b, b)
                for (drawn_a, drawn_b), (a, b) in zip(both_drawn, pairs, strict=True)
            ]
            low, high = np.quantile(np.mean(drawn, axis=0), [0.025, 0.975])
            mean, above = float(values.mean()), int((values > 0).sum())
            cells.append(Cell(f"{mean:+.2f} [{low:+.2f}, {high:+.2f}]", numbers=(mean, low, high)))
            cells.append(Cell(f"{above}/{len(values)}", numbers=(above,)))
        rows.append([Cell(name), *cells])
    headers = [f"{OURS} minus", "S¹", "seeds above", "S²", "seeds above"]
    note = (
        "Means over seeds; in brackets the 95 % bootstrap interval over the images of the "
        "validation part, which are drawn alike for both and for all seeds, crops of one "
        "photograph together."
    )
    return Table(headers, rows, [note])


def categories_table(found: Found) -> Table:
    """Return the numbers of interpretable detectors and of distinct labels in each category."""
    rows = []
    categories = list(next(iter(found.values()))[0][0].concepts)
    for name, results in found.items():
        cells = [Cell(name)]
        for category in categories:
            both = [
                np.mean([getattr(s, what)()[category] for s, _ in results])
                for what in ("interpretable", "interpretable_concepts")
            ]
            cells.append(Cell(" / ".join(f"{value:.1f}" for value in both), numbers=tuple(both)))
        rows.append(cells)
    note = "Detectors with an IoU of at least 0.04 / distinct labels of them, means over seeds."
    return Table(["extractor", *categories], rows, [note])


def save(figure, folder: Path, name: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    figure.savefig(folder / f"{name}.png", dpi=100)
    plt.close(figure)


def report(data: AnnotatedLayer, found: Found, folder: Path, resamples: int) -> None:
    seeds = len(next(iter(found.values())))
    print(
        f"\n{data.name}: {len(data.training)} training and {len(data.validation)} validation "
        f"images, {len(flat_concepts(data.training.concepts))} concepts, {seeds} seed(s)\n"
    )
    tables = {"scores": scores_table(found), "categories": categories_table(found)}
    if OURS in found and len(found) > 1 and resamples:
        tables["differences"] = differences_table(found, data.groups, resamples)
    for name, table in tables.items():
        print(table.formatted("markdown"), "\n", flush=True)
        (folder / f"{name}.csv").write_text(table.formatted("csv"), encoding="utf-8")
    first = {name: results[0][0] for name, results in found.items()}
    unsupervised = {name: scores for name, scores in first.items() if name != SUPERVISED}
    if unsupervised:
        curves = {name: (scores.iou, scores.labels) for name, scores in unsupervised.items()}
        save(plot_above(curves, data.name), folder, "above")
    for name, scores in first.items():
        if (scores.labels >= 0).any():
            names = flat_concepts(scores.concepts)
            figure = plot_labels(scores.iou, scores.labels, names, title=name)
            save(figure, folder, f"labels_{slug(name)}")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, metavar="DIR")
    parser.add_argument("--output", type=Path, required=True, metavar="DIR")
    parser.add_argument("--layers", nargs="+", default=["out_relu", "block_13_expand_relu"])
    parser.add_argument("--concepts", type=int, metavar="I", help="40; with --data 25")
    parser.add_argument("--seeds", type=int, default=3, metavar="N")
    parser.add_argument("--extractors", nargs="+", choices=[*NAMES, "semi-NMF"], default=NAMES)
    parser.add_argument(
        "--positions", type=int, default=50_000, metavar="P", help="for extractors without network"
    )
    parser.add_argument("--resamples", type=int, default=1000, metavar="B", help="of the images")
    add_scene_options(parser)
    arguments = parser.parse_args()
    warnings.simplefilter("ignore", ConvergenceWarning)
    warnings.simplefilter("ignore", LearningWarning)
    if arguments.data is None:
        layers, concepts = iter([scene_layer(arguments)]), 40
    elif (arguments.data / "load.py").is_file():
        layers, concepts = clothing_layers(arguments.data, arguments.layers), 25
    else:
        print(f"skipped: there is no {arguments.data / 'load.py'} (see --help for the layout)")
        return
    concepts = arguments.concepts or concepts
    for data in layers:
        found: Found = {name: [] for name in arguments.extractors}
        for seed in range(arguments.seeds):
            for name, results in found.items():
                results.append(measured(data, name, concepts, seed, arguments))
        report(data, found, arguments.output / data.name, arguments.resamples)


if __name__ == "__main__":
    main()
