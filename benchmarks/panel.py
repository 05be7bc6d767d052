"""The panel: concept extractors on problems that differ in what matters, in one table.

    python benchmarks/panel.py --data DIR --output DIR
    python benchmarks/panel.py --data DIR --output DIR --half choice --cells general-last-64

Without --data only the cell of the scenes is run; DIR is laid out as for
benchmarks/interpretability.py, whose `load.py` also has `general()` and `street()`. Cells and
halves are listed in benchmarks/panel_cells.py.

For each cell and extractor, means over seeds (fidelity, which takes most of the time: of the first
seed, over photographs):

    S¹, S²       Network Dissection, at the detectors' own biases; detectors without a bias fire
                 above the better of two quantiles of the part with the labels. Labels are from one
                 part and scores from the other, swapped and averaged; sets of masks are added
    deletion, insertion
                 not ranked: extractors win them by leaving the data, or by leaving the class in the
                 residual. Beside them, with all concepts off, the change of the features' norm
                 ("norm off"), the probability of the class ("p off") and the entropy of the
                 prediction as a share of log₂ K ("H off")
    P@.2, P@.3   probability when deletion has changed the features by that share of their norm
    cond         condition number of WᵀŜ
    s            seconds of the fit

Differences to the first extractor have 95 % intervals over photographs (clothing), scenes, blocks
of 25 consecutive frames (street), or images (fidelity), the same draws for both. The controls are
shown and not ranked.

The rule by which the weights of the network terms are chosen, written down after a first look at
one fit of the cell general-last-64 and before anything else was measured on the panel. Price:
averaged over the cells of the half "choice", the ratios of S¹ and of S² to the same recipe without
network terms must be at least .97, and P@.2 and P@.3 must not be worse beyond their intervals in
more than one cell. Gain: the entropy with all concepts off, averaged over the cells, must be higher
beyond its interval, and the change of norm must not be longer. Among the settings that pass, the
one with the largest gain is taken; if none passes, the terms are off by default.

The choice: no network terms. On the half "choice" (seed 0, nine cells), L^cur with the weight .25
in the last stage has S¹ 1.06 and S² 1.04 times those without, and a shorter change of norm in six
of nine cells, but the entropy is lower by .015 on average (by .37 with images of one class, higher
by .48 with 256 concepts), and P@.3 is worse in two cells. With the weight 1, S¹ is .95 over four.

Fits and measurements are kept in --output and not repeated: the run can be stopped at any time.
"""

from __future__ import annotations

import argparse
import json
import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from extractors import CONTROLS, ON_POSITIONS, OURS, RECIPES, WITH_NETWORK, dissected, fitted
from kept import Measured, kept, slug
from numpy.typing import NDArray
from panel_cells import CELLS, HALVES, Material, PanelCell
from sklearn.exceptions import ConvergenceWarning

from xplique_dirpairs.core.batching import by_position
from xplique_dirpairs.core.tables import Cell, Table
from xplique_dirpairs.factorizers.direction_pairs import DirectionPairsFactorizer
from xplique_dirpairs.learning.history import LearningWarning
from xplique_dirpairs.learning.presets import get_recipe
from xplique_dirpairs.metrics.dictionary import dictionary_stability
from xplique_dirpairs.metrics.fidelity import fidelity
from xplique_dirpairs.metrics.interpretability import Interpretability, s1, s2
from xplique_dirpairs.metrics.labelled_detectors import score_labels
from xplique_dirpairs.metrics.manipulation import Reading
from xplique_dirpairs.metrics.registry import percentile_interval
from xplique_dirpairs.pairs import DirectionPairs

#: Extractors of the cells with at least `MANY` concepts, and of the others.
OF_MANY = (OURS, WITH_NETWORK, "NMF", "K-Means", "FastICA", "TopK SAE")
OF_FEW = (OURS, WITH_NETWORK, "UIBE", "CBE", "NMF", "semi-NMF", "FastICA", "PCA", "K-Means",
          "TopK SAE", "RA-SAE", *CONTROLS)  # fmt: skip
MANY = 64
#: Positions that extractors without a network are fitted on.
POSITIONS = 50_000
RESAMPLES = 1000
FIDELITY = ("deletion", "insertion", "p_at_0.2", "p_at_0.3", "all_off_norm",
            "all_off_probability", "all_off_entropy")  # fmt: skip


# ------------------------------------------------------------------------------ fits


def kept_fit(
    folder: Path, cell: PanelCell, name: str, seed: int, material: Material, part: str = ""
) -> tuple[Any, float]:
    """Return a fitted factorizer and the seconds of its fit, from its file if there is one.

    ``part`` is "even" or "odd" for a fit on every second image.
    """
    settings = {
        "cell": [cell.layer, cell.images, cell.concepts],
        "recipe": str(get_recipe(RECIPES[name])) if name in RECIPES else "",
        "positions": POSITIONS,
    }

    def measure() -> Measured:
        x = material.learned_from(cell)
        x = x[{"": slice(None), "even": slice(0, None, 2), "odd": slice(1, None, 2)}[part]]
        start = time.perf_counter()
        factorizer = fitted(name, cell.concepts, seed, material.head(cell.layer), x, POSITIONS)
        seconds = time.perf_counter() - start
        print(f"{cell.name}, seed {seed}{part}, {name}: fit {seconds:.1f} s", flush=True)
        return arrays_of(factorizer), {"seconds": seconds}

    path = folder / "fits" / cell.name / f"{slug(name)}_{seed}{part}.npz"
    arrays, about = kept(path, settings, measure)
    return factorizer_of(name, cell.concepts, arrays), about["seconds"]


def arrays_of(factorizer: Any) -> dict[str, NDArray]:
    """Return the arrays and numbers that a fit has set, as arrays."""
    if isinstance(factorizer, DirectionPairsFactorizer):
        pairs = factorizer.pairs_
        values = {f.name: getattr(pairs, f.name) for f in fields(pairs)}
        return {name: value for name, value in values.items() if value is not None}
    kinds = (np.ndarray, int, float)
    fitted_values = {k: v for k, v in vars(factorizer).items() if k.endswith("_")}
    return {k: np.asarray(v) for k, v in fitted_values.items() if isinstance(v, kinds)}


def factorizer_of(name: str, concepts: int, arrays: dict[str, NDArray]) -> Any:
    """Return the fitted factorizer of `arrays_of`."""
    if "signals" in arrays:
        return DirectionPairsFactorizer.from_pairs(DirectionPairs(**arrays))
    factorizer = (ON_POSITIONS | CONTROLS)[name](concepts, 0)
    for attribute, value in arrays.items():
        setattr(factorizer, attribute, value if value.ndim else value.item())
    return factorizer


# ------------------------------------------------------------------------------ measurements


def measure_labels(factorizer: Any, cell: PanelCell, half: str, material: Material) -> Measured:
    """Return the scores of the detectors, for each set of masks and each of its two parts."""
    arrays, concepts = {}, {}
    for pair in material.annotated(cell, half):
        for k, (labelled, scored) in enumerate((pair.parts, pair.parts[::-1])):
            read, _, dissection = dissected(factorizer, labelled[0], labelled[1])
            scores = score_labels(scored[0], read, dissection, activations=scored[1])
            for field in fields(scores):
                if field.name != "concepts":
                    arrays[f"{pair.name}.{k}.{field.name}"] = getattr(scores, field.name)
            arrays[f"{pair.name}.{k}.drawn"] = np.unique(scored[2], return_inverse=True)[1]
            concepts[f"{pair.name}.{k}"] = scores.concepts
    return arrays, {"concepts": concepts}


def measure_fidelity(factorizer: Any, cell: PanelCell, half: str, material: Material) -> Measured:
    """Return the fidelity metrics of every image."""
    head, (x, class_ids) = material.head(cell.layer), material.judged_on(cell, half)
    highest = max(float(x.max()), float(material.learned_from(cell).max()))
    reading = Reading(
        x,
        by_position(factorizer.encode, x),
        factorizer.get_concept_bank(),
        lambda features: head.logits(head.pool(features)),
        class_ids,
        (0.0, highest),
    )
    values = {key: fidelity(reading).values[key] for key in FIDELITY}
    values["all_off_entropy"] = values["all_off_entropy"] / np.log2(reading.intact_logits.shape[1])
    return values, {}


MEASURES = {"labels": measure_labels, "fidelity": measure_fidelity}


@dataclass(frozen=True, eq=False)
class Result:
    """Everything that was measured of one extractor and seed.

    Attributes
    ----------
    factorizer
    scores : dict of (str, int) to (Interpretability, groups)
        By set of masks and number of the part that gives the labels.
    fidelity : dict of str to ndarray of shape (N,)
        Empty for all but the first seed.
    seconds
    """

    factorizer: Any
    scores: dict[tuple[str, int], tuple[Interpretability, NDArray]]
    fidelity: dict[str, NDArray]
    seconds: float

    def drawn(self) -> NDArray:
        """Return S¹ and S² of bootstrap samples, (2, RESAMPLES)."""
        total = np.zeros((2, RESAMPLES))
        for scores, groups in self.scores.values():
            iou = scores.resampled_iou(groups, RESAMPLES, random_state=0)
            total += np.stack([s1(iou), s2(iou, scores.labels)])
        return total / 2

    def score(self) -> NDArray:
        """Return S¹ and S², (2,)."""
        return np.sum([(s.s1, s.s2) for s, _ in self.scores.values()], axis=0) / 2

    def by_masks(self, key: str) -> float:
        """Return S² of one set of masks."""
        return float(np.mean([s.s2 for (name, _), (s, _) in self.scores.items() if name == key]))


def result_of(
    folder: Path,
    cell: PanelCell,
    name: str,
    seed: int,
    half: str,
    material: Material,
    measures: Sequence[str] = tuple(MEASURES),
) -> Result:
    """Return the measurements of one extractor and seed, from their files if there are any."""
    factorizer, seconds = kept_fit(folder, cell, name, seed, material)
    found = {}
    for key, function in MEASURES.items():
        if key not in measures or (key == "fidelity" and seed):
            continue
        path = folder / half / cell.name / f"{slug(name)}_{seed}_{key}.npz"
        settings = json.loads(json.dumps({"masks": cell.masks, "images": cell.photographs}))
        settings["fit"] = slug(name), float(np.abs(factorizer.encoding_directions).sum())

        def measure(function: Any = function, key: str = key) -> Measured:
            start = time.perf_counter()
            measured = function(factorizer, cell, half, material)
            taken = time.perf_counter() - start
            print(f"{cell.name}, seed {seed}, {name}: {key} {taken:.1f} s", flush=True)
            return measured

        found[key] = kept(path, settings, measure)
    arrays, about = found["labels"]
    scores = {}
    for key, listed in about["concepts"].items():
        prefix, k = key.split(".")
        own = {
            f.name: arrays[f"{key}.{f.name}"]
            for f in fields(Interpretability)
            if f.name != "concepts"
        }
        concepts = {category: tuple(names) for category, names in listed.items()}
        scores[prefix, int(k)] = Interpretability(concepts=concepts, **own), arrays[f"{key}.drawn"]
    return Result(factorizer, scores, found["fidelity"][0] if "fidelity" in found else {}, seconds)


# ------------------------------------------------------------------------------ tables


def table_of(cell: PanelCell, results: dict[str, list[Result]]) -> Table:
    """Return the table of a cell: extractors × measures, means over seeds."""
    rows = []
    for name, found in results.items():
        scores = np.array([result.score() for result in found])
        cells = [Cell(name), spread(scores[:, 0], 2), spread(scores[:, 1], 2)]
        cells += [spread([r.by_masks(key) for r in found], 2) for key in cell.masks[1:]]
        cells += [spread([np.nanmean(found[0].fidelity[key])], 3) for key in FIDELITY]
        conditions = [
            r.factorizer.pairs_.condition_number
            for r in found
            if isinstance(r.factorizer, DirectionPairsFactorizer)
        ]
        cells.append(spread(conditions, 1) if conditions else Cell("–"))
        rows.append([*cells, spread([r.seconds for r in found], 0)])
    masks = [f"S² {key}" for key in cell.masks[1:]]
    headers = ["extractor", "S¹", "S²", *masks, "deletion", "insertion", "P@.2", "P@.3",
               "norm off", "p off", "H off", "cond", "s"]  # fmt: skip
    return Table(headers, rows, [])


def spread(values: Any, decimals: int) -> Cell:
    """Return the mean of values, with their standard deviation if there are several."""
    mean = float(np.mean(values))
    text = f"{mean:.{decimals}f}"
    if len(values) > 1:
        text += f" ± {np.std(values, ddof=1):.{decimals}f}"
    return Cell(text, numbers=(mean,))


def differences_table(results: dict[str, list[Result]]) -> Table:
    """Return the differences of the first extractor and the others, with intervals."""
    (first, ours), *others = results.items()
    rows = []
    for name, theirs in others:
        cells = [Cell(name)]
        drawn = np.mean([r.drawn() for r in ours], axis=0)
        drawn -= np.mean([r.drawn() for r in theirs], axis=0)
        score = np.mean([r.score() for r in ours], axis=0)
        score -= np.mean([r.score() for r in theirs], axis=0)
        cells += [interval(score[k], drawn[k], 2) for k in range(2)]
        for key in ("p_at_0.2", "p_at_0.3", "all_off_entropy", "all_off_norm"):
            values = ours[0].fidelity[key] - theirs[0].fidelity[key]
            values = values[np.isfinite(values)]
            draws = np.random.default_rng(0).integers(len(values), size=(RESAMPLES, len(values)))
            cells.append(interval(values.mean(), values[draws].mean(axis=1), 3))
        rows.append(cells)
    headers = [f"{first} minus", "S¹", "S²", "P@.2", "P@.3", "H off", "norm off"]
    return Table(headers, rows, [])


def interval(value: float, drawn: NDArray, decimals: int) -> Cell:
    """Return a difference with its 95 % interval."""
    low, high = percentile_interval(drawn, 0.95)
    text = f"{value:+.{decimals}f} [{low:+.{decimals}f}, {high:+.{decimals}f}]"
    return Cell(text, numbers=(float(value), low, high))


def stability_table(
    folder: Path, cell: PanelCell, results: dict[str, list[Result]], material: Material
) -> Table:
    """Return the mean |cosine| of matched directions, over seeds and over halves of the images."""
    rows = []
    for name, found in results.items():
        fits = [r.factorizer for r in found]
        halves = [kept_fit(folder, cell, name, 0, material, part)[0] for part in ("even", "odd")]
        pairs = [(a, b) for k, a in enumerate(fits) for b in fits[:k]]
        cells = [Cell(name)]
        for compared in (pairs, [tuple(halves)]):
            for side in ("encoding_directions", "decoding_directions"):
                known = [(getattr(a, side), getattr(b, side)) for a, b in compared]
                known = [(a, b) for a, b in known if a is not None]
                values = [dictionary_stability(a, b) for a, b in known]
                cells.append(spread(values, 3) if values else Cell("–"))
        rows.append(cells)
    headers = ["extractor", "seeds: encoding", "decoding", "halves: encoding", "decoding"]
    return Table(headers, rows, [])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, metavar="DIR")
    parser.add_argument("--output", type=Path, required=True, metavar="DIR")
    parser.add_argument("--half", choices=HALVES, default="final")
    names = [cell.name for cell in CELLS]
    parser.add_argument("--cells", nargs="+", choices=names, default=names)
    parser.add_argument("--seeds", type=int, default=3, metavar="N")
    parser.add_argument("--extractors", nargs="+", choices=OF_FEW, default=OF_FEW)
    arguments = parser.parse_args()
    warnings.simplefilter("ignore", ConvergenceWarning)
    warnings.simplefilter("ignore", LearningWarning)
    if arguments.data is not None and not (arguments.data / "load.py").is_file():
        print(f"skipped: there is no {arguments.data / 'load.py'} (see --help for the layout)")
        return
    material = Material(arguments.output, arguments.data)
    for cell in CELLS:
        if cell.name not in arguments.cells or (arguments.data is None and cell.images != "scenes"):
            continue
        listed = OF_MANY if cell.concepts >= MANY else OF_FEW
        results: dict[str, list[Result]] = {n: [] for n in listed if n in arguments.extractors}
        for seed in range(arguments.seeds):
            for name, found in results.items():
                found.append(
                    result_of(arguments.output, cell, name, seed, arguments.half, material)
                )
        print(f"\n## {cell.name}: {cell.purpose}, I = {cell.concepts}, half {arguments.half}\n")
        tables = {"scores": table_of(cell, results)}
        if len(results) > 1:
            tables["differences"] = differences_table(results)
        if cell.stability:
            tables["stability"] = stability_table(arguments.output, cell, results, material)
        for key, table in tables.items():
            print(table.formatted("markdown"), "\n", flush=True)
            path = arguments.output / arguments.half / cell.name / f"{key}.csv"
            path.write_text(table.formatted("csv"), encoding="utf-8")


if __name__ == "__main__":
    main()
