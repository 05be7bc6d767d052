"""Whether the number of concepts is found where it is not given.

    python benchmarks/number_of_concepts.py --seeds 2
    python benchmarks/number_of_concepts.py --scan --seeds 1

The problems of benchmarks/recovery.py, its small ones (reference experiment, I = 8), and those of
benchmarks/planted.py. By default the estimate of `count_skewed_sources` from the features alone;
with --scan the suggestion of `scan_number_of_concepts` after fits with 75, 90, 100, 110 and 125 %
of the true number (slow: ten fits a problem).
"""

from __future__ import annotations

import argparse
import time
import warnings

import numpy as np
from numpy.typing import NDArray
from planted import PROBLEMS as PLANTED
from planted import Problem as PlantedProblem
from recovery import ROWS, Problem

from xplique_dirpairs.datasets.synthetic import synthetic_signals
from xplique_dirpairs.learning.concept_scan import scan_number_of_concepts
from xplique_dirpairs.learning.history import LearningWarning
from xplique_dirpairs.learning.number_of_concepts import count_skewed_sources

REFERENCE = "reference experiment"
PROBLEMS: dict[str, Problem | PlantedProblem | None] = {
    REFERENCE: None,
    "I 8, D 64": Problem(concepts=8, channels=64),
    **ROWS,
    **{name: problem for name, problem in PLANTED.items() if problem.asked is None},
    "synthsae_small": PLANTED["synthsae_small, 64 asked"],
}


def drawn(
    problem: Problem | PlantedProblem | None, positions: int, seed: int
) -> tuple[NDArray, int]:
    """Return the features of a problem and its true number of concepts."""
    if problem is None:
        synthetic = synthetic_signals(1000, seed)
        return synthetic.features, len(synthetic.signals)
    if isinstance(problem, PlantedProblem):
        planted, _ = problem.draw(problem.positions, seed)
        return planted.features, len(planted.atoms)
    data, _ = problem.data(positions, seed)
    return data.features, len(data.signals)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--problems", nargs="+", choices=list(PROBLEMS), default=list(PROBLEMS))
    parser.add_argument("--seeds", type=int, default=2, metavar="N")
    parser.add_argument("--positions", type=int, default=100_000, metavar="P")
    parser.add_argument("--scan", action="store_true")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore", LearningWarning)
    print("| problem | seed | I | found | s | it says |\n|---|---|---|---|---|---|", flush=True)
    for name in arguments.problems:
        for seed in range(arguments.seeds):
            features, true = drawn(PROBLEMS[name], arguments.positions, seed)
            start = time.perf_counter()
            if arguments.scan:
                shares = np.array([0.75, 0.9, 1.0, 1.1, 1.25])
                numbers = sorted(
                    {*np.round(shares * true).astype(int).tolist(), true - 1, true + 1}
                )
                scan = scan_number_of_concepts(features, numbers, verbose=0)
                found, says = scan.suggested, scan.reason
            else:
                count = count_skewed_sources(features)
                found, says = count.number, count.reason
            seconds = time.perf_counter() - start
            print(
                f"| {name} | {seed} | {true} | {found or '–'} | {seconds:.0f} | {says} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
