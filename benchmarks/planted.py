"""Recovery of planted sparse dictionaries: which atoms, and where they are on.

    python benchmarks/planted.py --output KEPT
    python benchmarks/planted.py --output KEPT --problems "32/20 p .02" maps --methods NMF --seeds 3

Other people's software learns from the same data in an environment of its own:

    python benchmarks/planted.py --export DATA
    VENV/bin/python benchmarks/planted_sae_lens.py --data DATA --output FOUND
    python benchmarks/planted.py --output KEPT --read FOUND

Problems are below, "D/I p" with D channels, I atoms and the probability that an atom is on. Methods
learn from one sample and are scored on fresh data of the same atoms by `dictionary_recovery`, which
defines the columns up to *dead*. Noise has a standard deviation of .02 in every channel. Methods
have their defaults and the true number of atoms, unless the name says how many were asked for.

Two tables of means stand before that of all columns: share and phi side by side, and MCC, F1 and
uniqueness where fewer concepts are asked for than there are atoms.

    s      of the fit alone
    said   fits that ended with a warning or, for direction pairs, with `History.problems`

Only direction pairs and K-Means have detectors. Elsewhere a concept is detected where its code is
above 0, if codes are 0 where a concept is absent: autoencoders, dictionary learning. Codes of NMF
and FastICA are not: each has the threshold with the best φ on the fresh data, chosen with the
truth, an advantage that nobody has outside of a benchmark. Autoencoders have another one: their k
is the mean number of atoms that are on, rounded. NMF is scikit-learn's with at most 200 iterations,
of features that are shifted to be non-negative where they are not. Signed codes are turned, with
their directions, to a positive skewness. *share* and *phi* are over all atoms: where fewer concepts
are asked for than there are atoms, they cannot exceed the ratio of the two.

A file that --export writes holds ``learning`` and ``fresh`` (positions, channels), the number
``concepts`` that is asked for, ``mean_on``, and the truth: ``truth_atoms``, and ``truth_present``
of the fresh data. --read reads an npz of the same name, in the folder or in folders within it, one
for each software: ``directions`` (J, D), ``codes`` (fresh positions, J), ``name``, ``version``, and
``seconds`` if it was measured. Codes that are negative somewhere, or zero at less than half of the
places, have the best thresholds, others are detections where they are above 0.
"""

from __future__ import annotations

import argparse
import functools
import sys
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import keras
import numpy as np
from kept import Measured, kept, mean_and_spread, slug
from numpy.typing import NDArray
from sklearn.decomposition import NMF
from sklearn.exceptions import ConvergenceWarning

import xplique_dirpairs
from xplique_dirpairs.core.linear_algebra import UNMATCHED, match
from xplique_dirpairs.core.tables import Cell, Table
from xplique_dirpairs.datasets.planted_dictionary import (
    Geometry,
    PlantedDictionary,
    planted_dictionary,
    synthsae_small,
)
from xplique_dirpairs.datasets.planted_firing import Together, Trees, zipf_probabilities
from xplique_dirpairs.factorizers.autoencoders import RelaxedArchetypalFactorizer, TopKFactorizer
from xplique_dirpairs.factorizers.decompositions import FastICAFactorizer, KMeansFactorizer
from xplique_dirpairs.learning.history import LearningWarning
from xplique_dirpairs.learning.learner import learn_pairs
from xplique_dirpairs.metrics.recovery import dictionary_recovery

NOISE = 0.02
#: Seed of the fresh data.
FRESH = 0


@dataclass(frozen=True)
class Problem:
    """A row of the table; ``options`` are those of `planted_dictionary`.

    ``asked`` is the number of concepts, by default that of the atoms.
    """

    purpose: str
    channels: int = 64
    atoms: int = 32
    options: Mapping[str, Any] = field(default_factory=dict)
    asked: int | None = None
    positions: int = 20_000

    @property
    def concepts(self) -> int:
        return self.asked or self.atoms

    def draw(self, positions: int, seed: int) -> tuple[PlantedDictionary, PlantedDictionary]:
        """Return data to learn from, and as many fresh data of the same atoms."""
        count = max(1, positions // int(np.prod(self.options.get("map_shape", 1))))
        data = self.first(count, seed)
        return data, data.fresh(count, FRESH)

    def first(self, count: int, seed: int) -> PlantedDictionary:
        return planted_dictionary(
            count, self.channels, self.atoms, noise=NOISE, seed=seed, **self.options
        )


class SmallSynthSAE(Problem):
    """`synthsae_small`, which has no noise."""

    def first(self, count: int, seed: int) -> PlantedDictionary:
        return synthsae_small(count, seed)


def independent(purpose: str, channels: int, atoms: int, probability: float) -> Problem:
    """Return a problem whose atoms fire independently of each other, equally often."""
    return Problem(purpose, channels, atoms, {"probability": probability})


PROBLEMS: dict[str, Problem] = {
    "32/20 exactly 2": Problem("the same number everywhere", 32, 20, {"exactly": 2}),
    "32/20 p .08": independent("few atoms, 1.6 at a position", 32, 20, 0.08),
    "32/20 p .02": independent("most positions have none", 32, 20, 0.02),
    "32/20 p .2": independent("four at a position: the limit of sparse", 32, 20, 0.2),
    "128/64 p .03": independent("more atoms, 1.9 at a position", 128, 64, 0.03),
    "128/64 p .08": independent("more atoms, 5.1 at a position", 128, 64, 0.08),
    "64/64 p .03": independent("as many atoms as channels", 64, 64, 0.03),
    "64/96 p .02": independent("more atoms than channels: no exact linear filters", 64, 96, 0.02),
    "128/200 p .01": independent("many rare atoms, more than channels", 128, 200, 0.01),
    "Zipf 1": Problem(
        "probabilities from .4 to .005",
        options={"probability": zipf_probabilities(32, exponent=1.0).tolist()},
    ),
    "partners": Problem(
        "pairs of atoms are on together half of the time",
        options={"together": Together(partner=0.5)},
    ),
    "copula": Problem(
        "correlated firing (Gaussian copula, rank 5, loadings of .3)",
        options={"together": Together(rank=5, scale=0.3)},
    ),
    "trees": Problem(
        "a child only where its parent is (12 trees, branching 2, depth 1)",
        options={"together": Together(trees=Trees(12, branching=2, depth=1))},
    ),
    "offset": Problem("a constant vector of length 2 is added", options={"offset": 2.0}),
    "unequal scales": Problem(
        "channels of unequal scale (their logarithms have a deviation of 1)",
        options={"geometry": Geometry(scales=1.0)},
    ),
    "lognormal": Problem("coefficients of a long tail", options={"coefficients": "lognormal"}),
    "non-negative atoms": Problem(
        "atoms and features without negative values, as after a ReLU",
        options={"geometry": Geometry(non_negative=True)},
    ),
    "maps": Problem("maps of 7 × 7 positions", options={"map_shape": (7, 7)}),
    "synthsae_small, 64 asked": SmallSynthSAE(
        "fewer concepts than the 192 atoms that there are", 128, 192, asked=64, positions=40_000
    ),
    "synthsae_small, 96 asked": SmallSynthSAE(
        "half as many concepts as atoms", 128, 192, asked=96, positions=40_000
    ),
}  # probability .05 where none is given


@dataclass(frozen=True)
class Fitted:
    """Result of a fit: directions (J, D), codes (P, J) of features (P, D), and what it warned of.

    Detections are codes of 0 and 1.
    """

    directions: NDArray
    codes: Callable[[NDArray], NDArray]
    said: list[str]


def direction_pairs(data: PlantedDictionary, concepts: int, seed: int) -> Fitted:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", LearningWarning)  # history.problems()
        pairs, history = learn_pairs(data.features, concepts, random_state=seed, verbose=0)
    if history.interrupted:
        raise KeyboardInterrupt
    return Fitted(pairs.signals, lambda x: pairs.detect(x) > 0.5, history.problems())


def warned(model: Any, x: NDArray) -> list[str]:
    """Fit a model to positions (P, D), and return what it warned of."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model.fit(x)
    kinds = LearningWarning, ConvergenceWarning
    return [str(warning.message) for warning in caught if issubclass(warning.category, kinds)]


def factorizer(
    make: Callable[..., Any], data: PlantedDictionary, concepts: int, seed: int
) -> Fitted:
    model = make(concepts, random_state=seed)
    said = warned(model, positions_of(data.features))
    if getattr(getattr(model, "history_", None), "interrupted", False):
        raise KeyboardInterrupt
    return Fitted(np.asarray(model.encoding_directions), model.encode, said)


def nmf(data: PlantedDictionary, concepts: int, seed: int) -> Fitted:
    """Fit scikit-learn's NMF: the exact codes of the package's are slow for I > D."""
    model, x = NMF(concepts, random_state=seed), positions_of(data.features)
    lowest = np.minimum(x.min(axis=0), 0.0)
    said = warned(model, x - lowest)
    return Fitted(model.components_, lambda y: model.transform(np.maximum(y - lowest, 0.0)), said)


def autoencoder(
    make: Callable[..., Any], data: PlantedDictionary, concepts: int, seed: int
) -> Fitted:
    """Fit an autoencoder whose k is the mean number of atoms that are on."""
    k = min(concepts, max(1, round(mean_on(data))))
    return factorizer(functools.partial(make, k=k), data, concepts, seed)


PAIRS = "direction pairs"
METHODS: dict[str, Callable[[PlantedDictionary, int, int], Fitted]] = {
    PAIRS: direction_pairs,
    "TopK SAE": functools.partial(autoencoder, TopKFactorizer),
    "RA-SAE": functools.partial(autoencoder, RelaxedArchetypalFactorizer),
    "NMF": nmf,
    "FastICA": functools.partial(factorizer, FastICAFactorizer),
    "K-Means": functools.partial(factorizer, KMeansFactorizer),
}
if learner := getattr(xplique_dirpairs, "DictionaryLearningFactorizer", None):
    METHODS["MiniBatchDictionaryLearning"] = functools.partial(factorizer, learner)
#: Methods whose codes are not 0 where a concept is absent.
DENSE = ("NMF", "FastICA")

#: Results of seeds, by problem and method.
Results = dict[str, dict[str, list["Result"]]]

SCORES = ("share", "phi", "mcc", "f1", "precision", "recall", "uniqueness", "l0", "dead")
HEADERS = ("problem", "method", *SCORES, "s", "said")


@dataclass(frozen=True)
class Result:
    """Scores of a method on a problem, with one seed; ``said`` is None if it cannot say anything.

    ``recovered`` is the share of the atoms that there are concepts for.
    """

    scores: dict[str, float]
    recovered: float
    seconds: float = np.nan
    said: list[str] | None = None


def positions_of(maps: NDArray) -> NDArray:
    return maps.reshape(-1, maps.shape[-1])


def mean_on(data: PlantedDictionary) -> float:
    """Return the mean number of atoms that are on at a position."""
    return float(data.present.sum(axis=-1).mean())


def turned(directions: NDArray, codes: NDArray) -> tuple[NDArray, NDArray]:
    """Turn directions (J, D) and codes (P, J) so that codes with both signs are skewed upwards."""
    skewed = np.power(codes - codes.mean(axis=0), 3).mean(axis=0)
    sign = np.where((codes.min(axis=0) < 0) & (skewed < 0), -1.0, 1.0)
    return directions * sign[:, None], codes * sign


def best_detections(codes: NDArray, present: NDArray) -> NDArray:
    """Return where codes (P, J) exceed the thresholds that are best for φ with atoms (P, I).

    Codes and atoms are matched one to one by their best φ; a code that is left over has the best
    threshold for any atom. Thresholds leave numbers of detections in ratios of about 1.03.
    """
    positions, is_on = len(codes), present.sum(axis=0)
    counts = np.unique(np.geomspace(1, positions - 1, 400).round().astype(int))
    fires = counts[:, None]
    scale = np.sqrt(fires * (positions - fires)) * np.sqrt(is_on * (positions - is_on))
    phi = np.zeros((codes.shape[1], present.shape[1]))
    thresholds = np.full(phi.shape, np.inf)
    for j, code in enumerate(codes.T):
        order = np.argsort(-code)
        hits = np.cumsum(present[order], axis=0, dtype=np.int32)[counts - 1]
        ratio = (positions * hits - fires * is_on) / np.maximum(scale, 1.0)
        sorted_codes = code[order]
        is_between = sorted_codes[counts - 1] > sorted_codes[counts]
        ratio[~is_between] = 0.0  # no threshold lies between equal codes
        best = ratio.argmax(axis=0)
        phi[j] = np.take_along_axis(ratio, best[None], axis=0)[0]
        thresholds[j] = np.where(phi[j] > 0, sorted_codes[counts[best]], np.inf)
    atom = phi.argmax(axis=1)
    matching = match(phi)
    found = np.flatnonzero(matching != UNMATCHED)
    atom[matching[found]] = found
    return codes > thresholds[np.arange(len(atom)), atom]


def scored(
    directions: NDArray, codes: NDArray, dense: bool, fresh: PlantedDictionary
) -> tuple[dict[str, float], float]:
    """Return the scores of directions (J, D) and codes (P, J), and the share that is recovered."""
    directions, codes = turned(np.asarray(directions), np.asarray(codes, np.float64))
    present = positions_of(fresh.present)
    detected = best_detections(codes, present) if dense else codes > 0
    detected = detected.reshape(*fresh.present.shape[:-1], -1)
    scores = {
        k: float(v) for k, v in asdict(dictionary_recovery(directions, detected, fresh)).items()
    }
    atoms = len(fresh.atoms)
    return scores, scores["share"] * atoms / min(atoms, len(directions))


@functools.lru_cache(maxsize=1)
def data_of(name: str, positions: int, seed: int) -> tuple[PlantedDictionary, PlantedDictionary]:
    return PROBLEMS[name].draw(positions, seed)


def measured(name: str, method: str, positions: int, seed: int) -> Measured:
    """Fit a method to a problem, and score it on the fresh data."""
    data, fresh = data_of(name, positions, seed)
    start = time.perf_counter()
    fitted = METHODS[method](data, PROBLEMS[name].concepts, seed)
    seconds = time.perf_counter() - start
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # of NMF, which iterates for codes, too
        codes = fitted.codes(positions_of(fresh.features))
    scores, recovered = scored(fitted.directions, codes, method in DENSE, fresh)
    keras.utils.clear_session()  # many fits in one process
    about = {"scores": scores, "recovered": recovered, "seconds": seconds, "said": fitted.said}
    return {"directions": fitted.directions}, about


def result_of(name: str, method: str, seed: int, arguments: argparse.Namespace) -> Result:
    """Return the result of a method, from --output if it is kept there."""
    positions = arguments.positions or PROBLEMS[name].positions
    measure = functools.partial(measured, name, method, positions, seed)
    if arguments.output is None:
        return Result(**measure()[1])
    settings = {"problem": repr(PROBLEMS[name]), "positions": positions, "seed": seed}
    path = arguments.output / slug(name) / f"{slug(method)}_{seed}.npz"
    return Result(**kept(path, settings, measure)[1])


def file_name(name: str, seed: int) -> str:
    return f"{slug(name)}_{seed}.npz"


def export(folder: Path, name: str, seed: int, positions: int) -> None:
    """Write the data of a problem for other software."""
    data, fresh = data_of(name, positions, seed)
    folder.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(
        folder / file_name(name, seed),
        learning=positions_of(data.features),
        fresh=positions_of(fresh.features),
        concepts=PROBLEMS[name].concepts,
        mean_on=mean_on(data),
        truth_atoms=data.atoms,
        truth_present=positions_of(fresh.present),
    )


def read_results(folder: Path, name: str, seed: int, positions: int) -> dict[str, Result]:
    """Return the results of other software on a problem, by its name and version."""
    results = {}
    for path in sorted(folder.rglob(file_name(name, seed))):
        with np.load(path, allow_pickle=False) as archive:
            found = dict(archive)
        missing = {"directions", "codes", "name", "version"} - set(found)
        if missing:
            raise ValueError(
                f"{path} does not hold {sorted(missing)}: see --help for what it needs"
            )
        codes, fresh = found["codes"], data_of(name, positions, seed)[1]
        dense = bool((codes < 0).any() or np.mean(codes == 0) < 0.5)
        try:
            scores, recovered = scored(found["directions"], codes, dense, fresh)
        except ValueError as error:
            raise ValueError(f"{path} does not belong to these data: {error}") from error
        seconds = float(found.get("seconds", np.nan))
        results[f"{found['name']} {found['version']}"] = Result(scores, recovered, seconds)
    return results


def row(name: str, method: str, results: list[Result]) -> list[Cell]:
    """Return a row of the table: means and standard deviations over seeds."""
    cells = [
        mean_and_spread(
            [result.scores[score] for result in results], 1 if score in "l0 dead" else 3
        )
        for score in SCORES
    ]
    said = [bool(result.said) for result in results if result.said is not None]
    told = Cell(f"{sum(said)} of {len(said)}" if said else "–")
    seconds = mean_and_spread([result.seconds for result in results], 1)
    return [Cell(name), Cell(method), *cells, seconds, told]


def warned_rightly(results: list[Result]) -> list[str]:
    """Return two lines: whether fits that fell short said so, and whether good ones were silent."""
    short = [bool(result.said) for result in results if result.recovered < 0.8]
    all_found = [bool(result.said) for result in results if result.recovered == 1.0]
    return [
        f"Fits of {PAIRS} that recovered fewer than 80 % of the atoms that there are concepts for: "
        f"{len(short)}; a problem was said in {sum(short)}.",
        f"Fits of {PAIRS} that recovered all: {len(all_found)}; none was said in "
        f"{len(all_found) - sum(all_found)}.",
    ]


def side_by_side(results: Results, scores: Sequence[str]) -> Table:
    """Return a table of problems × methods with the means of some scores over seeds."""
    methods = list(dict.fromkeys(method for by_method in results.values() for method in by_method))
    rows = []
    for name, by_method in results.items():
        cells = [Cell(name)]
        for method in methods:
            values = [[r.scores[score] for r in by_method.get(method, [])] for score in scores]
            means = [f"{np.mean(of_score):.2f}" if of_score else "–" for of_score in values]
            cells.append(Cell(" / ".join(means) if any(values) else "–"))
        rows.append(cells)
    return Table((" / ".join(scores), *methods), rows, [])


def run(arguments: argparse.Namespace) -> tuple[Table, Results, list[str]]:
    """Return the table, all results, and the reasons why methods could not be fitted."""
    rows, ours, failed, all_results = [], [], [], {}
    for name in arguments.problems:
        results: dict[str, list[Result]] = {}
        for seed in range(arguments.first_seed, arguments.first_seed + arguments.seeds):
            for method in arguments.methods:
                try:
                    result = result_of(name, method, seed, arguments)
                except ValueError as error:  # such as more concepts than axes, for FastICA
                    failed.append(f"- {name}, seed {seed}, {method}: {error}")
                    continue
                results.setdefault(method, []).append(result)
                print(f"{name}, seed {seed}, {method} done", file=sys.stderr, flush=True)
            if arguments.read:
                positions = arguments.positions or PROBLEMS[name].positions
                for method, result in read_results(arguments.read, name, seed, positions).items():
                    results.setdefault(method, []).append(result)
        rows += [row(name, method, of_seeds) for method, of_seeds in results.items()]
        ours += results.get(PAIRS, [])
        all_results[name] = results
    return Table(HEADERS, rows, warned_rightly(ours)), all_results, failed


def parsed(words: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    names = dict(default=list(PROBLEMS), choices=list(PROBLEMS), metavar="P", help=str([*PROBLEMS]))
    parser.add_argument("--problems", nargs="+", **names)
    parser.add_argument("--methods", nargs="*", choices=list(METHODS), default=list(METHODS))
    parser.add_argument("--seeds", type=int, default=1, metavar="N")
    parser.add_argument("--first-seed", type=int, default=0, metavar="S")
    parser.add_argument("--positions", type=int, metavar="P", help="20 000; synthsae_small 40 000")
    parser.add_argument("--output", type=Path, metavar="DIR", help="results are kept and resumed")
    parser.add_argument(
        "--export", type=Path, metavar="DIR", help="write the data, and nothing else"
    )
    parser.add_argument("--read", type=Path, metavar="DIR", help="add rows of other software")
    return parser.parse_args(words)


def main() -> None:
    arguments = parsed()
    if arguments.export:
        for name in arguments.problems:
            for seed in range(arguments.first_seed, arguments.first_seed + arguments.seeds):
                positions = arguments.positions or PROBLEMS[name].positions
                export(arguments.export, name, seed, positions)
        return
    table, results, failed = run(arguments)
    whole = {name: r for name, r in results.items() if PROBLEMS[name].asked is None}
    part = {name: r for name, r in results.items() if PROBLEMS[name].asked is not None}
    for some, scores in ((whole, ("share", "phi")), (part, ("mcc", "f1", "uniqueness"))):
        if some:
            print(side_by_side(some, scores).formatted("markdown"), end="\n\n")
    print(table.formatted("markdown"))
    print("\nThe problems:\n")
    for name in arguments.problems:
        print(f"- {name}: {PROBLEMS[name].purpose}")
    if failed:
        print("\nNot fitted:\n", *failed, sep="\n")


if __name__ == "__main__":
    main()
