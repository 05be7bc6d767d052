"""Time and memory of learning, against the number of positions, channels and concepts.

    python benchmarks/performance.py
    python benchmarks/performance.py --positions 100000 1000000 --shards

Every row is a process of its own: memory is the peak of the resident set. Epochs are fixed: the
clear recipe of `signal_maps` problems, with as many steps an epoch as one pass over the positions
takes (--passes), or the recipe's own 40 (default).

    s fit       learn_pairs without a head; stages a and d apart
    MB          peak of the process; and what it was before the fit
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time

import numpy as np


def peak() -> float:
    """Of this process so far, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def run(positions: int, channels: int, concepts: int, shards: bool, passes: bool) -> dict:
    """One fit."""
    import dataclasses

    from xplique_dirpairs.datasets.signal_maps import signal_maps
    from xplique_dirpairs.datasets.synthetic import random_directions
    from xplique_dirpairs.learning.recipe import DEFAULT
    from xplique_dirpairs.learning.trainer import learn_pairs
    from xplique_dirpairs.shards import ActivationShards

    directions = random_directions(0, concepts, 16, channels)

    def batches():
        for seed in range(0, positions, 20_000):
            yield signal_maps(min(10_000, positions // 2), *directions, seed=seed).features

    recipe = dataclasses.replace(DEFAULT, otherwise=None)
    if passes:
        stages = [dataclasses.replace(s, steps_per_epoch=None, epochs=4) for s in recipe.stages]
        recipe = dataclasses.replace(recipe, stages=tuple(stages))
    with tempfile.TemporaryDirectory() as folder:
        if shards:
            activations = ActivationShards.write(folder, batches())
        else:
            activations = np.concatenate(list(batches()))
        before, start = peak(), time.perf_counter()
        pairs, history = learn_pairs(
            activations, concepts, recipe=recipe, random_state=0, verbose=0
        )
        seconds = time.perf_counter() - start
    cosines = np.abs(pairs.signals @ directions[0].T).max(axis=0)
    return {
        "s fit": round(seconds, 1),
        "s stages": round(sum(history.seconds.values()), 1),
        "MB before": round(before),
        "MB": round(peak()),
        "cosine": round(float(cosines.mean()), 3),
        "epochs": sum(len(stage["s"]) for stage in history.stages.values()),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--positions", type=int, nargs="+", default=[100_000])
    parser.add_argument("--channels", type=int, nargs="+", default=[512])
    parser.add_argument("--concepts", type=int, nargs="+", default=[64])
    parser.add_argument("--shards", action="store_true", help="streamed from disk")
    parser.add_argument("--passes", action="store_true", help="4 + 4 epochs of one pass each")
    parser.add_argument("--one", type=int, nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(run(*arguments.one, arguments.shards, arguments.passes)))
        return
    flags = ["--shards"] * arguments.shards + ["--passes"] * arguments.passes
    print("| P | D | I | s fit | s stages | MB before | MB | cosine | epochs |")
    print("|---|---|---|---|---|---|---|---|---|")
    for positions in arguments.positions:
        for channels in arguments.channels:
            for concepts in arguments.concepts:
                sizes = [str(n) for n in (positions, channels, concepts)]
                command = [sys.executable, __file__, "--one", *sizes, *flags]
                done = subprocess.run(command, capture_output=True, text=True, check=True)
                row = json.loads(done.stdout.splitlines()[-1])
                print("| " + " | ".join([*sizes, *map(str, row.values())]) + " |", flush=True)


if __name__ == "__main__":
    main()
