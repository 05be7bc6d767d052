"""Recovery of true concepts at the size of real layers.

    python benchmarks/recovery.py --rows
    python benchmarks/recovery.py --rows "absent 2.5" "I 16" --methods "direction pairs" --seeds 2
    python benchmarks/recovery.py --grid
    python benchmarks/recovery.py --grid --concepts 3 8 --channels 16 64 --verbose

100 000 positions of `xplique_dirpairs.datasets.synthetic`, a head trained on them (average
pooling and a dense layer), methods with their defaults and the true I, measured on as many fresh
positions. A concept is recovered if its signal vector has a cosine ≥ 0.95 and its detector an
IoU ≥ 0.9.

--grid: I concepts in D channels with F = 16 distractors (2 in 16 channels). * marks cells
with I + F > D, where concepts cannot be identified and there is no ceiling. --rows: I = 64,
D = 512, F = 16, changed as the name of the row says. Signal values of absent concepts are in
U(0, 2.5) (--absent), of present ones in U(2.5, 5).

Columns are means over concepts and seeds; the share recovered also has its minimum over seeds.

    signal     cosine of signal vectors, in feature space
    filter     cosine of filters with the rows of the pseudo-inverse of [S D], in feature space
               whatever coordinates a method works in, along the span of [S D] (without noise
               features do not vary elsewhere); NMF and K-Means have none
    s          of the fit alone; the head's training is not part of it
    ceiling    true filters, the thresholds with the largest IoU, and the best of several estimates
               of the signal vectors, named below the table: all chosen with the true concepts

Baselines: benchmarks/baselines.py. FastICA (at most 300 iterations), NMF (at most 200), K-Means (3
starts), semi-NMF and the autoencoders are fitted on 25 000 of the positions (--slow-positions), all
are measured on all fresh ones.
"""

from __future__ import annotations

import argparse
import functools
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import keras
import numpy as np
from baselines import (
    BASELINES,
    FACTORIZERS,
    Found,
    along_concepts,
    ceiling,
    filter_cosines,
    measure,
    of_pairs,
    pixels,
)
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning

from xplique_dirpairs.datasets.synthetic import (
    ABSENT,
    SyntheticSignals,
    pooled_dense_head,
    random_directions,
    signal_maps,
)
from xplique_dirpairs.learning.history import LearningWarning
from xplique_dirpairs.learning.learner import learn_pairs
from xplique_dirpairs.models.head import Head

#: Limits of cosine and IoU for a recovered concept; share of them for a successful seed.
COSINE, IOU, SHARE = 0.95, 0.9, 0.95
CONCEPTS, CHANNELS = (3, 8, 16, 32, 64, 128), (16, 64, 256, 512, 1024)
#: Added to a seed for its fresh data.
FRESH = 1_000_000
PAIRS, CEILING = "direction pairs", "ceiling"
SLOW = {
    "FastICA": functools.partial(BASELINES["FastICA"], max_iter=300),
    "NMF": functools.partial(BASELINES["NMF"], max_iter=200),
    "K-Means": functools.partial(BASELINES["K-Means"], n_init=3),
}
SLOW |= FACTORIZERS
METHODS: dict[str, Callable[..., Found]] = {**BASELINES, **SLOW}
NAMES = [PAIRS, *METHODS]


@dataclass(frozen=True)
class Problem:
    """A row of the table; ``options`` are those of `signal_maps`."""

    concepts: int = 64
    channels: int = 512
    distractors: int = 16
    cosine: float = 0.0
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def mark(self) -> str:
        """Return a star where concepts cannot be identified."""
        return " *" if self.concepts + self.distractors > self.channels else ""

    def data(self, positions: int, seed: int) -> tuple[SyntheticSignals, SyntheticSignals]:
        """Return data to learn from, and fresh data of the same directions."""
        images = max(1, positions // int(np.prod(self.options.get("map_shape", (1, 2)))))
        sizes = self.concepts, self.distractors, self.channels
        directions = random_directions(seed, *sizes, cosine=self.cosine)
        train, fresh = (
            signal_maps(images, *directions, seed=s, **self.options) for s in (seed, seed + FRESH)
        )
        return train, fresh


ROWS = {
    "absent 2.5": Problem(),
    "absent .5": Problem(options={"absent": (0.0, 0.5)}),
    "I 16": Problem(concepts=16),
    "I 32": Problem(concepts=32),
    "correlated .5": Problem(cosine=0.5),
    "zipf .5": Problem(options={"zipf": 0.5}),
    "maps 7x7": Problem(options={"map_shape": (7, 7), "patches": 6}),
    "I 128": Problem(concepts=128),
    "zipf 1": Problem(options={"zipf": 1.0}),
    "two per pixel": Problem(options={"concepts_per_pixel": 2}),
    "noise .1": Problem(options={"noise": 0.1}),
}


def grid(concepts: list[int], channels: list[int]) -> dict[str, Problem]:
    """Return the cells with at least as many channels as concepts."""
    cells = [Problem(i, d, 2 if d < 64 else 16) for i in concepts for d in channels if i <= d]
    return {f"I {cell.concepts}, D {cell.channels}{cell.mark}": cell for cell in cells}


@dataclass(frozen=True)
class Fit:
    """Result of one fit: figures per concept, and warnings."""

    signal: NDArray
    filter: NDArray | None
    iou: NDArray
    seconds: float
    told: list[str]

    @property
    def share(self) -> float:
        return float(np.mean((self.signal >= COSINE) & (self.iou >= IOU)))


def learn(data: SyntheticSignals, head: Head, seed: int) -> tuple[Found, list[str]]:
    """Learn direction pairs with the defaults; return them with the user's warnings."""
    concepts = len(data.signals)
    pairs, history = learn_pairs(data.features, concepts, head=head, random_state=seed, verbose=0)
    if history.interrupted:
        raise KeyboardInterrupt
    return of_pairs(pairs), history.problems() + [f"note: {note}" for note in history.notes]


def sampled_positions(data: SyntheticSignals, positions: int, seed: int) -> SyntheticSignals:
    """Return the data at some of the positions, for methods that use neither maps nor classes."""
    x, (masks, alpha) = pixels(data), (a.reshape(-1, a.shape[-1]) for a in (data.masks, data.alpha))
    chosen = np.random.default_rng(seed).permutation(len(x))[:positions]
    return replace(data, features=x[chosen], masks=masks[chosen], alpha=alpha[chosen])


def judge(found: Found, fresh: SyntheticSignals, seconds: float, told: list[str]) -> Fit:
    """Measure a fit on fresh data."""
    found = along_concepts(found, fresh)
    result = measure(found, fresh)
    cosines = filter_cosines(found, fresh, result.matching)
    return Fit(result.cosine, cosines, result.iou, seconds, told)


def run(problem: Problem, seed: int, arguments: argparse.Namespace) -> dict[str, Fit]:
    """Run all methods on one data set."""
    data, fresh = problem.data(arguments.positions, seed)
    fits = {}
    for name in [*arguments.methods, CEILING]:
        told: list[str] = []
        if name == PAIRS:
            head = Head(pooled_dense_head(data.features, data.labels))
            start = time.perf_counter()
            found, told = learn(data, head, seed)
        elif name == CEILING:
            start = time.perf_counter()
            found, estimate = ceiling(data)
            told = [estimate]
        else:
            some = sampled_positions(data, arguments.slow_positions, seed) if name in SLOW else data
            start = time.perf_counter()
            found = METHODS[name](some, seed)
        fits[name] = judge(found, fresh, time.perf_counter() - start, told)
    keras.utils.clear_session()  # many fits in one process
    return fits


HEADER = (
    f"| problem | method | recovered: min / mean | seeds ≥ {SHARE:.0%} | signal | filter | IoU "
    "| s: max / mean |\n|---|---|---|---|---|---|---|---|"
)


def line(problem: str, method: str, fits: list[Fit]) -> str:
    shares, seconds = ([getattr(fit, name) for fit in fits] for name in ("share", "seconds"))
    filters = [fit.filter for fit in fits if fit.filter is not None]
    return (
        f"| {problem} | {method} | {min(shares):.3f} / {np.mean(shares):.3f} "
        f"| {sum(share >= SHARE for share in shares)}/{len(shares)} "
        f"| {np.mean([fit.signal for fit in fits]):.3f} "
        f"| {f'{np.mean(filters):.3f}' if filters else '–'} "
        f"| {np.mean([fit.iou for fit in fits]):.3f} "
        f"| {max(seconds):.1f} / {np.mean(seconds):.1f} |"
    )


def print_warnings(results: dict[str, dict[str, list[Fit]]], first_seed: int) -> None:
    """Print the warnings of direction pairs, and the estimate that the ceiling uses."""
    short = [
        f"- {problem}, seed {seed}: {'; '.join(fit.told) or 'nothing'}"
        for problem, fits in results.items()
        for seed, fit in enumerate(fits.get(PAIRS, []), first_seed)
        if fit.share < SHARE
    ]
    if short:
        print("\nWhat the user is told where direction pairs fall short:\n", *short, sep="\n")
    print("\nThe ceiling's signal vectors:\n")
    for problem, fits in results.items():
        print(f"- {problem}: {', '.join({text: None for f in fits[CEILING] for text in f.told})}")


def print_grid(results: dict[str, dict[str, list[Fit]]], cells: dict[str, Problem]) -> None:
    """Print a table of I × D for every method: the share recovered."""
    names = {(cell.concepts, cell.channels): name for name, cell in cells.items()}
    concepts, channels = (list(dict.fromkeys(numbers)) for numbers in zip(*names, strict=True))
    for method in next(iter(results.values())):
        print(f"\nShare recovered, {method}:\n\n| I | {' | '.join(f'D {d}' for d in channels)} |")
        print("|---" * (len(channels) + 1) + "|")
        for i in concepts:
            shares = ["–"] * len(channels)
            for column, d in enumerate(channels):
                if name := names.get((i, d)):
                    share = np.mean([fit.share for fit in results[name][method]])
                    shares[column] = f"{share:.2f}{cells[name].mark}"
            print(f"| {i} | {' | '.join(shares)} |")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    table = parser.add_mutually_exclusive_group(required=True)
    table.add_argument("--grid", action="store_true")
    table.add_argument("--rows", nargs="*", choices=list(ROWS), metavar="ROW", help=str([*ROWS]))
    parser.add_argument("--concepts", nargs="+", type=int, default=CONCEPTS, metavar="I")
    parser.add_argument("--channels", nargs="+", type=int, default=CHANNELS, metavar="D")
    parser.add_argument("--methods", nargs="+", choices=NAMES, default=NAMES)
    parser.add_argument("--seeds", type=int, metavar="N", help="5; with --grid 1")
    parser.add_argument("--first-seed", type=int, default=0, metavar="S")
    parser.add_argument("--positions", type=int, default=100_000, metavar="P")
    parser.add_argument("--slow-positions", type=int, default=25_000, metavar="P")
    parser.add_argument("--absent", type=float, default=ABSENT[1], metavar="A", help="U(0, A)")
    parser.add_argument("--verbose", action="store_true", help="a line for every fit")
    arguments = parser.parse_args()

    warnings.simplefilter("ignore", ConvergenceWarning)  # bounded iterations: taken as they are
    warnings.simplefilter("ignore", LearningWarning)  # printed below
    problems = {name: ROWS[name] for name in arguments.rows or ROWS}
    if arguments.grid:
        problems = grid(arguments.concepts, arguments.channels)
    problems = {
        name: replace(problem, options={"absent": (0.0, arguments.absent), **problem.options})
        for name, problem in problems.items()
    }
    first, count = arguments.first_seed, arguments.seeds or (1 if arguments.grid else 5)
    results: dict[str, dict[str, list[Fit]]] = {}
    print(HEADER, flush=True)
    for name, problem in problems.items():
        results[name] = {method: [] for method in [*arguments.methods, CEILING]}
        for seed in range(first, first + count):
            for method, fit in run(problem, seed, arguments).items():
                results[name][method].append(fit)
                if arguments.verbose:
                    text = line(f"{name}, seed {seed}", method, [fit])
                    print(text, "; ".join(fit.told), file=sys.stderr, flush=True)
            print(f"{name}, seed {seed} done", file=sys.stderr, flush=True)
        for method, fits in results[name].items():
            print(line(name, method, fits), flush=True)
    if arguments.grid:
        print_grid(results, problems)
    print_warnings(results, first)


if __name__ == "__main__":
    main()
