"""Whether the number of concepts is found where it is not given.

    python benchmarks/number_of_concepts.py --seeds 2
    python benchmarks/number_of_concepts.py --scan --seeds 1

The problems of benchmarks/recovery.py, and its small ones (reference experiment, I = 8). By
default the estimate of `count_skewed_sources` from the features alone; with --scan the suggestion
of `scan_number_of_concepts` after fits with 75, 90, 100, 110 and 125 % of the true number
(slow: ten fits a problem).
"""

from __future__ import annotations

import argparse
import time
import warnings

import numpy as np
from recovery import ROWS, Problem

from xplique_dirpairs.datasets.synthetic import synthetic_signals
from xplique_dirpairs.learning.concept_scan import scan_number_of_concepts
from xplique_dirpairs.learning.history import LearningWarning
from xplique_dirpairs.learning.number_of_concepts import count_skewed_sources

REFERENCE = "reference experiment"
PROBLEMS: dict[str, Problem | None] = {
    REFERENCE: None,
    "I 8, D 64": Problem(concepts=8, channels=64),
    **ROWS,
}


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
        problem = PROBLEMS[name]
        for seed in range(arguments.seeds):
            if problem is None:
                data = synthetic_signals(1000, seed)
            else:
                data, _ = problem.data(arguments.positions, seed)
            true = len(data.signals)
            start = time.perf_counter()
            if arguments.scan:
                shares = np.array([0.75, 0.9, 1.0, 1.1, 1.25])
                numbers = sorted(
                    {*np.round(shares * true).astype(int).tolist(), true - 1, true + 1}
                )
                scan = scan_number_of_concepts(data.features, numbers, verbose=0)
                found, says = scan.suggested, scan.reason
            else:
                count = count_skewed_sources(data.features)
                found, says = count.number, count.reason
            seconds = time.perf_counter() - start
            print(
                f"| {name} | {seed} | {true} | {found or '–'} | {seconds:.0f} | {says} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
