"""The recovery table: direction pairs and other methods on the synthetic reference experiment.

    python benchmarks/synthetic.py --seeds 20 --signals table6
    python benchmarks/synthetic.py --seeds 20 --signals random

Every seed is a data set (3000 images of two pixels, D = 16, I = 3) and an initialisation. Methods
are fitted on it and measured on fresh data of the same directions. Direction pairs have their own
filters, biases and signal vectors, by the default recipe; benchmarks/baselines.py defines the other
methods.
Detectors are matched to concepts by the Hungarian method on the IoU.
"""

from __future__ import annotations

import argparse
import sys
import time
import warnings

import numpy as np
from baselines import BASELINES, Found, along_concepts, measure, of_pairs
from sklearn.exceptions import ConvergenceWarning

from xplique_dirpairs.datasets.synthetic import (
    SyntheticSignals,
    pooled_dense_head,
    random_directions,
    synthetic_signals,
)
from xplique_dirpairs.learning.learner import learn_pairs
from xplique_dirpairs.metrics.recovery import Recovery
from xplique_dirpairs.models.head import Head

#: Success: every concept of the fit meets all of these.
IOU, IOU_OTHERS, COSINE, MEAN_COSINE, RMSE = 0.95, 0.02, 0.97, 0.99, 0.12


def direction_pairs(data: SyntheticSignals, seed: int) -> Found:
    head = Head(pooled_dense_head(data.features, data.labels))
    pairs, _ = learn_pairs(
        data.features, len(data.signals), head=head, random_state=seed, verbose=0
    )
    return of_pairs(pairs)


METHODS = {"direction pairs": direction_pairs, **BASELINES}


def succeeded(result: Recovery) -> bool:
    return bool(
        result.iou.min() >= IOU
        and result.iou_others.max() <= IOU_OTHERS
        and result.cosine.min() >= COSINE
        and result.cosine.mean() >= MEAN_COSINE
        and result.overall_rmse <= RMSE
    )


def row(name: str, results: list[Recovery], seconds: list[float]) -> str:
    """Return the worst value and the mean over seeds and concepts."""
    iou = np.concatenate([r.iou for r in results])
    others = np.concatenate([r.iou_others for r in results])
    cosine = np.concatenate([r.cosine for r in results])
    rmse = np.array([r.overall_rmse for r in results])
    success = sum(map(succeeded, results))
    return (
        f"| {name:20s} | {iou.min():.3f} / {iou.mean():.3f} | {others.max():.3f} "
        f"| {cosine.min():+.3f} / {cosine.mean():+.3f} | {rmse.max():.3f} / {rmse.mean():.3f} "
        f"| {success}/{len(results)} | {np.max(seconds):.1f} / {np.mean(seconds):.1f} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=20, metavar="N", help="0 … N − 1")
    parser.add_argument("--first-seed", type=int, default=0, metavar="S")
    parser.add_argument("--signals", choices=("table6", "random"), default="table6")
    parser.add_argument("--images-per-class", type=int, default=1000, metavar="N")
    parser.add_argument("--methods", nargs="+", choices=list(METHODS), default=list(METHODS))
    parser.add_argument("--verbose", action="store_true", help="a line for every fit")
    arguments = parser.parse_args()

    results: dict[str, list[Recovery]] = {name: [] for name in arguments.methods}
    seconds: dict[str, list[float]] = {name: [] for name in arguments.methods}
    warnings.simplefilter("ignore", ConvergenceWarning)  # FastICA's: printed as it is
    for seed in range(arguments.first_seed, arguments.first_seed + arguments.seeds):
        directions = random_directions(seed) if arguments.signals == "random" else (None, None)
        data = synthetic_signals(arguments.images_per_class, seed, *directions)
        fresh = synthetic_signals(arguments.images_per_class, seed + 1_000_000, *directions)
        for name in arguments.methods:
            start = time.perf_counter()
            found = METHODS[name](data, seed)
            seconds[name].append(time.perf_counter() - start)
            result = measure(along_concepts(found, fresh), fresh)
            results[name].append(result)
            if arguments.verbose:
                print(
                    f"seed {seed} {name}: IoU {result.iou.round(3)}, others "
                    f"{result.iou_others.round(3)}, cosine {result.cosine.round(3)}, RMSE "
                    f"{result.overall_rmse:.3f}, {seconds[name][-1]:.1f} s",
                    flush=True,
                )
        print(f"seed {seed} done", file=sys.stderr, flush=True)

    print(f"\nsignals and distractors: {arguments.signals}; {arguments.seeds} seeds\n")
    print(
        "| method | IoU own: min / mean | others: max | cosine: min / mean | RMSE: max / mean "
        "| success | s: max / mean |"
    )
    print("|---|---|---|---|---|---|---|")
    for name in arguments.methods:
        print(row(name, results[name], seconds[name]))
    print(
        f"\nsuccess: every detector IoU ≥ {IOU} with its concept and ≤ {IOU_OTHERS} with the "
        f"others, every cosine ≥ {COSINE}, their mean ≥ {MEAN_COSINE}, RMSE ≤ {RMSE}"
    )


if __name__ == "__main__":
    main()
