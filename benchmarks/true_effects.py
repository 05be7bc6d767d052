"""True effects of the objects of the annotated scenes, and how well directions predict them.

    python benchmarks/true_effects.py --output DIR

The output is that of benchmarks/panel.py, whose fits of the cell "scenes-40" are used. The true
effect of an object on a class is the change of the class's centred logit when the object is painted
into scenes, in the mean over the scenes that have it. The detector of an object is the one with the
highest IoU on one half of the scenes; objects for which every compared extractor has a detector of
IoU ≥ .04 on the other half are compared. What a direction predicts: the centred logit's change per
unit length, times the change of the concept's coefficient, in the same scenes.

    sign    share of the pairs of object and class with the right sign, where |effect| > .2
    rank    Spearman's correlation over pairs of object and class
    r       Pearson's correlation
    size    slope of the true effects over the predicted ones, through 0 (1 is right)

Means over seeds. The interval of the difference in rank between the signal vectors and the filters
of the same pairs is a bootstrap over objects, of the mean over seeds.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from annotated import scene_network
from extractors import OURS, dissected
from kept import kept
from numpy.typing import NDArray
from panel import kept_fit
from panel_cells import CELLS, SCENE_SEEDS, SCENES, Material
from scipy.stats import spearmanr

from xplique_dirpairs.core.batching import by_position
from xplique_dirpairs.core.linear_algebra import unit_rows
from xplique_dirpairs.core.tables import Cell, Table
from xplique_dirpairs.data.images import compute_activations
from xplique_dirpairs.datasets.annotated_scenes import CONCEPTS, LAYER, annotated_scenes
from xplique_dirpairs.factorizers.direction_pairs import DirectionPairsFactorizer
from xplique_dirpairs.learning.supervised import supervised_pairs
from xplique_dirpairs.metrics.dissection import dissect
from xplique_dirpairs.metrics.interpretability import INTERPRETABLE
from xplique_dirpairs.metrics.registry import percentile_interval
from xplique_dirpairs.models.head import Head

OBJECTS = CONCEPTS["object"]
#: Effects above this size, in logits, are asked for their sign.
LARGE = 0.2
RESAMPLES = 2000
SUPERVISED = "Pattern-CAV"
#: Extractors whose fits of the panel are used.
NAMES = (OURS, "NMF", "semi-NMF", "FastICA", "PCA", "K-Means", "TopK SAE", "RA-SAE")


@dataclass(frozen=True, eq=False)
class Removal:
    """Scenes that have an object, with it and without it.

    Attributes
    ----------
    effect : ndarray of shape (K,)
        Mean change of the centred logits by the object.
    error : ndarray of shape (K,)
        Standard error of the effect.
    with_it, without : ndarray of shape (n, h, w, D)
        Activations.
    """

    effect: NDArray
    error: NDArray
    with_it: NDArray
    without: NDArray


def removals(material: Material, half: str) -> dict[str, Removal]:
    """Return what every object changes, computed once and kept."""
    seed = SCENE_SEEDS[half][1]
    scenes = annotated_scenes(SCENES, seed=seed)
    x = material.activations(LAYER, f"scenes{seed}")
    split, head = material.split(LAYER), material.head(LAYER)

    def centred(activations: NDArray) -> NDArray:
        logits = head.logits(activations)
        return logits - logits.mean(axis=1, keepdims=True)

    found = {}
    for number, name in enumerate(OBJECTS, 1):
        has_it = np.flatnonzero((scenes.masks["object"] == number).any(axis=(1, 2)))

        def compute(name: str = name, has_it: NDArray = has_it) -> tuple[dict, dict]:
            images = annotated_scenes(SCENES, seed=seed, without=[name]).images[has_it]
            return {"x": compute_activations(split.input_to_latent_model, images)}, {}

        path = material.output / "activations" / f"scenes{seed}_without_{name}.npz"
        without = kept(path, {"seed": seed, "scenes": SCENES}, compute)[0]["x"]
        changes = centred(x[has_it]) - centred(without)
        error = changes.std(axis=0, ddof=1) / np.sqrt(len(changes))
        found[name] = Removal(changes.mean(axis=0), error, x[has_it], without)
    return found


@dataclass(frozen=True, eq=False)
class Predicted:
    """What the directions of an extractor predict for each object.

    Attributes
    ----------
    iou : ndarray of shape (O,)
        IoU of each object's detector.
    encoding, decoding : ndarray of shape (O, K)
        By the detector's encoding direction, and by its filter; NaN if there are none.
    """

    iou: NDArray
    encoding: NDArray
    decoding: NDArray


def predictions(
    factorizer: Any, material: Material, half: str, objects: dict[str, Removal]
) -> Predicted:
    """Return what the directions of a fitted factorizer predict."""
    cell = next(cell for cell in CELLS if cell.images == "scenes")
    (first, x_first, _), (second, x_second, _) = material.annotated(cell, half)[0].parts
    read, _, chosen = dissected(factorizer, first, x_first)
    scored = dissect(second, read, chosen.thresholds, activations=x_second)
    columns = [k for k, (category, _) in enumerate(chosen.flat_concepts) if category == "object"]
    best = chosen.iou[:, columns].argmax(axis=0)
    return Predicted(
        scored.iou[best, columns], *of_detectors(factorizer, best, material.head(LAYER), objects)
    )


def of_detectors(
    factorizer: Any, detectors: NDArray, head: Head, objects: dict[str, Removal]
) -> tuple[NDArray, NDArray]:
    """Return what encoding and decoding directions of these detectors predict, (O, K) each."""
    rows = head.class_rows - head.class_rows.mean(axis=0)
    encoding, filters = unit_rows(factorizer.encoding_directions), factorizer.decoding_directions
    # The coefficient of a bank row is a move along the row, which the encoding direction shares.
    lengths = np.einsum("id,id->i", factorizer.get_concept_bank(), encoding)
    shape = (len(objects), len(rows))
    by_encoding, by_decoding = np.full((2, *shape), np.nan)
    for k, (i, removal) in enumerate(zip(detectors, objects.values(), strict=True)):
        change = np.mean(
            by_position(factorizer.encode, removal.with_it)[..., i]
            - by_position(factorizer.encode, removal.without)[..., i]
        )
        by_encoding[k] = rows @ encoding[i] * change * lengths[i]
        if filters is not None:
            unit = filters[i] / np.linalg.norm(filters[i])
            moved = np.mean((removal.with_it - removal.without) @ unit)
            by_decoding[k] = rows @ unit * moved
    return by_encoding, by_decoding


def supervised_predictions(material: Material, half: str, objects: dict[str, Removal]) -> Predicted:
    """Return what Pattern-CAVs, learned from the masks of one half of the scenes, predict."""
    cell = next(cell for cell in CELLS if cell.images == "scenes")
    (first, x_first, _), (second, x_second, _) = material.annotated(cell, half)[0].parts
    made = supervised_pairs(first, activations=x_first, random_state=0)
    scored = dissect(second, made.pairs.project, made.pairs.biases, activations=x_second)
    columns = [k for k, (category, _) in enumerate(scored.flat_concepts) if category == "object"]
    known = [("object", name) in made.concepts for name in objects]
    detectors = np.array(
        [made.index("object", n) if k else 0 for n, k in zip(objects, known, strict=True)]
    )
    factorizer = DirectionPairsFactorizer.from_pairs(made.pairs)
    predicted = of_detectors(factorizer, detectors, material.head(LAYER), objects)
    return Predicted(np.where(known, scored.iou[detectors, columns], 0.0), *predicted)


def measures(predicted: NDArray, true: NDArray) -> NDArray:
    """Return sign, rank, r and size of predictions (O, K)."""
    p, t = predicted.ravel(), true.ravel()
    large = np.abs(t) > LARGE
    return np.array(
        [
            np.mean(np.sign(p[large]) == np.sign(t[large])),
            spearmanr(p, t).statistic,
            np.corrcoef(p, t)[0, 1],
            (p @ t) / (p @ p),
        ]
    )


def effects_table(
    by_name: dict[str, Sequence[Predicted]], true: NDArray, common: NDArray
) -> tuple[Table, str]:
    """Return the table of all extractors, and a sentence on signal vectors against filters."""
    rows = []
    for name, seeds in by_name.items():
        for side in ("encoding", "decoding"):
            values = [getattr(p, side)[common] for p in seeds]
            if np.isnan(values).any():
                continue
            found = np.array([measures(v, true[common]) for v in values])
            number = np.mean([np.sum(p.iou >= INTERPRETABLE) for p in seeds])
            cells = [Cell(f"{value:.2f}", numbers=(float(value),)) for value in found.mean(axis=0)]
            rows.append([Cell(f"{name}, {side}"), Cell(f"{number:.1f}"), *cells])
    ours, rng = by_name[OURS], np.random.default_rng(0)

    def difference(chosen: NDArray) -> float:
        ranks = [
            [spearmanr(getattr(p, side)[chosen].ravel(), true[chosen].ravel()).statistic
             for side in ("encoding", "decoding")]
            for p in ours
        ]  # fmt: skip
        return float(np.mean(ranks, axis=0) @ [1, -1])

    drawn = [difference(rng.choice(common, len(common))) for _ in range(RESAMPLES)]
    low, high = percentile_interval(np.array(drawn), 0.95)
    text = (
        f"Rank, signal vectors minus filters of {OURS}: {difference(common):+.2f} "
        f"[{low:+.2f}, {high:+.2f}]"
    )
    return Table(["directions", "objects found", "sign", "rank", "r", "size"], rows, []), text


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", type=Path, required=True, metavar="DIR")
    parser.add_argument("--half", choices=list(SCENE_SEEDS), default="final")
    parser.add_argument("--seeds", type=int, default=3)
    arguments = parser.parse_args()
    scene_network(arguments.output)
    material = Material(arguments.output, None)
    cell = next(cell for cell in CELLS if cell.images == "scenes")
    objects = removals(material, arguments.half)
    by_name: dict[str, list[Predicted]] = {}
    for name in NAMES:
        for seed in range(arguments.seeds):
            factorizer, _ = kept_fit(arguments.output, cell, name, seed, material)
            found = predictions(factorizer, material, arguments.half, objects)
            by_name.setdefault(name, []).append(found)
    by_name[SUPERVISED] = [supervised_predictions(material, arguments.half, objects)]
    iou = np.array([p.iou for seeds in by_name.values() for p in seeds])
    common = np.flatnonzero((iou >= INTERPRETABLE).all(axis=0))
    true = np.array([removal.effect for removal in objects.values()])
    error = max(float(removal.error.max()) for removal in objects.values())
    print(f"standard errors of the true effects are at most {error:.3f} logits")
    for which, text in ((common, "every extractor and seed has"), (None, "these pairs have")):
        if which is None:
            which = np.flatnonzero(
                (np.array([p.iou for p in by_name[OURS]]) >= INTERPRETABLE).all(axis=0)
            )
            by_name = {OURS: by_name[OURS], SUPERVISED: by_name[SUPERVISED]}
        names = ", ".join(OBJECTS[k] for k in which)
        print(f"\n{len(which)} objects that {text} a detector of: {names}\n")
        table, sentence = effects_table(by_name, true, which)
        print(table.formatted("markdown"), f"\n\n{sentence}", flush=True)


if __name__ == "__main__":
    main()
