"""Time and memory of learning, against the number of positions, channels and concepts.

    python benchmarks/performance.py
    python benchmarks/performance.py --channels 128 512 1024 --concepts 16 64
    python benchmarks/performance.py --positions 100000 1000000 --shards --passes
    python benchmarks/performance.py --nmf

Every row is a process of its own: memory is the peak of the resident set. Epochs are fixed: the
clear recipe of `signal_maps` problems, without a head, with as many steps an epoch as one pass over
the positions takes (--passes: 4 + 4 epochs), or the recipe's own 40 (default: 12 + 12 epochs).

    s fit       learn_pairs; CPU s: of all threads, which other processes disturb less
    s stages    of s fit, in its stages
    s epochs    of it, in epochs: as many as there were, at the mean time of those after the first
                of a stage, in which TensorFlow traces and compiles the step and reads ahead
    ms step     of those epochs, for one step of 4096 positions, reading included; and CPU ms
    s floor     the fit's matrix products at the rate this machine multiplies matrices (Gflop/s,
                measured after the fit): moments, start, coordinates, steps and the reading of the
                signal vectors; see `products`
    MB          peak of the process; and what it was before the fit
    cosine      mean over concepts, of the nearest signal vector: shows that the fit worked

With several numbers of positions, growth is printed below the table: T = constant + rate · P is
linear where the rate is the same everywhere. It is shown for the epochs, by step, and for the whole
fit, between neighbouring rows.

--nmf: scikit-learn's NMF with the same I on the same activations, shifted to be non-negative,
beside it: with its default tolerance of 1e-4, and with 1e-6.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import resource
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator
from unittest import mock

import numpy as np

DISTRACTORS = 16
COLUMNS = ("s fit", "CPU s", "s stages", "s epochs", "ms step", "CPU ms step", "s floor")
COLUMNS += ("Gflop/s", "MB before", "MB", "cosine", "epochs")


def peak() -> float:
    """Return the peak memory of this process so far, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def clocks() -> np.ndarray:
    """Return wall-clock seconds, and CPU seconds of all threads of this process."""
    return np.array([time.perf_counter(), time.process_time()])


def activations_of(positions: int, directions) -> Iterator[np.ndarray]:
    """Yield batches of feature maps of two positions each."""
    from xplique_dirpairs.datasets.synthetic import signal_maps

    for seed in range(0, positions, 20_000):
        yield signal_maps(min(10_000, positions // 2), *directions, seed=seed).features


def matrix_rate() -> float:
    """Return float32 flops per second: the best of repeated products of the learning's shapes."""
    import tensorflow as tf

    best = 0.0
    for positions, axes, concepts in ((4096, 512, 64), (8192, 512, 512), (1024, 1024, 1024)):
        x = tf.random.stateless_normal((positions, axes), (0, 0))
        w = tf.random.stateless_normal((axes, concepts), (0, 1))
        for _ in range(10):
            start = time.perf_counter()
            for _ in range(5):
                product = tf.matmul(x, w)
            product.numpy()
            seconds = (time.perf_counter() - start) / 5
            best = max(best, 2.0 * positions * axes * concepts / seconds)
    return best


def products(
    positions: int, channels: int, concepts: int, steps: int, streamed: bool, batch: int
) -> float:
    """Return the flops of the matrix products of a fit without a head."""
    from xplique_dirpairs.learning.features import KEPT_MEGABYTES
    from xplique_dirpairs.learning.starts import positions_for

    axes = min(channels, concepts + DISTRACTORS)
    read_again = streamed and 4e-6 * positions * axes > KEPT_MEGABYTES
    sample = min(positions, positions_for(concepts))
    moments = 2.0 * positions * channels**2
    start = 60 * 4.0 * sample * axes**2  # iterations of the skewness ICA
    seen = steps * batch + sample if read_again else positions
    coordinates = 2.0 * seen * channels * axes
    learned = steps * 4.0 * batch * axes * concepts
    read = 2.0 * positions * concepts * (4 * channels + 2 * concepts)
    return moments + start + coordinates + learned + read


def run(positions: int, channels: int, concepts: int, shards: bool, passes: bool) -> dict:
    """Return the row of one fit."""
    from xplique_dirpairs.data.shards import ActivationShards
    from xplique_dirpairs.datasets.synthetic import random_directions
    from xplique_dirpairs.learning.learner import learn_pairs
    from xplique_dirpairs.learning.presets import DEFAULT
    from xplique_dirpairs.learning.stage import StageRun

    ends: list[list[tuple[float, float]]] = []

    learn_epochs = StageRun.epochs

    def timed_epochs(run):
        """Notes when epochs end."""
        ends.append([])
        for epoch in learn_epochs(run):
            ends[-1].append(clocks())
            yield epoch

    directions = random_directions(0, concepts, DISTRACTORS, channels)
    recipe = dataclasses.replace(DEFAULT, otherwise=None)
    if passes:
        stages = [dataclasses.replace(s, steps_per_epoch=None, epochs=4) for s in recipe.stages]
        recipe = dataclasses.replace(recipe, stages=tuple(stages))
    per_epoch = (
        -(-positions // recipe.batch_for(concepts)) if passes else recipe.stages[0].steps_per_epoch
    )
    with tempfile.TemporaryDirectory() as folder:
        if shards:
            activations = ActivationShards.write(folder, activations_of(positions, directions))
        else:
            activations = np.concatenate(list(activations_of(positions, directions)))
        before, start = peak(), clocks()
        # the learning takes no callbacks of its user
        with mock.patch.object(StageRun, "epochs", timed_epochs):
            pairs, history = learn_pairs(
                activations, concepts, recipe=recipe, random_state=0, verbose=0
            )
        seconds = clocks() - start
    memory = peak()
    # the first epoch of a stage is left out, and counts as one of the others
    in_epochs = sum(len(times) * np.diff(times, axis=0).mean(axis=0) for times in ends)
    epochs = sum(map(len, ends))
    rate = matrix_rate()
    flops = products(
        positions, channels, concepts, epochs * per_epoch, shards, recipe.batch_for(concepts)
    )
    cosines = np.abs(pairs.signals @ directions[0].T).max(axis=0)
    values = (
        *seconds.round(1).tolist(),
        round(sum(history.seconds.values()), 1),
        round(float(in_epochs[0]), 2),
        *(1e3 * in_epochs / (epochs * per_epoch)).round(2).tolist(),
        round(flops / rate, 1),
        round(rate / 1e9),
        round(before),
        round(memory),
        round(float(cosines.mean()), 3),
        epochs,
    )
    return dict(zip(COLUMNS, values, strict=True))


def run_nmf(positions: int, channels: int, concepts: int, tolerance: float) -> dict:
    """Return the row of a fit of scikit-learn's NMF, which stops after 200 iterations at most."""
    from sklearn.decomposition import NMF
    from sklearn.exceptions import ConvergenceWarning

    from xplique_dirpairs.datasets.synthetic import random_directions

    directions = random_directions(0, concepts, DISTRACTORS, channels)
    maps = np.concatenate(list(activations_of(positions, directions)))
    pixels = maps.reshape(-1, channels)
    pixels -= np.minimum(pixels.min(axis=0), 0.0)
    before, start = peak(), clocks()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # its iterations are in the table
        model = NMF(concepts, tol=tolerance, random_state=0).fit(pixels)
    seconds = clocks() - start
    unit = model.components_ / np.linalg.norm(model.components_, axis=1, keepdims=True)
    cosines = np.abs(unit @ directions[0].T).max(axis=0)
    return {
        **dict(zip(COLUMNS, seconds.round(1).tolist(), strict=False)),
        "tolerance": tolerance,
        "iterations": model.n_iter_,
        "MB before": round(before),
        "MB": round(peak()),
        "cosine": round(float(cosines.mean()), 3),
    }


def alone(what: str, sizes: tuple[int, int, int], flags: list[str]) -> dict:
    """Return a row from a process of its own."""
    command = [sys.executable, __file__, what, *map(str, sizes), *flags]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        sys.exit(done.stderr)
    return json.loads(done.stdout.splitlines()[-1])


def table(what: str, grid: list[tuple[int, int, int]], flags: list[str]) -> list[dict]:
    """Print a row for each size as soon as it is measured."""
    rows: list[dict] = []
    for sizes in grid:
        row = alone(what, sizes, flags)
        if not rows:
            print(f"| P | D | I | {' | '.join(row)} |")
            print("|---" * (3 + len(row)) + "|")
        print("| " + " | ".join(map(str, [*sizes, *row.values()])) + " |", flush=True)
        rows.append(row)
    return rows


def print_growth(grid: list[tuple[int, int, int]], rows: list[dict]) -> None:
    """Print the growth between neighbouring rows that differ only in positions."""
    print("\n| P | ms step | CPU ms step | µs of the fit for each further position | CPU µs |")
    print("|---" * 5 + "|")
    for (few, *sizes), (many, *others), first, last in zip(grid, grid[1:], rows, rows[1:]):  # noqa: B905
        if sizes == others:
            cells = [f"{first[name]} → {last[name]}" for name in ("ms step", "CPU ms step")]
            for name in ("s fit", "CPU s"):
                cells.append(f"{1e6 * (last[name] - first[name]) / (many - few):.1f}")
            print(f"| {few} → {many} | {' | '.join(cells)} |")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--positions", type=int, nargs="+", default=[100_000])
    parser.add_argument("--channels", type=int, nargs="+", default=[512])
    parser.add_argument("--concepts", type=int, nargs="+", default=[64])
    parser.add_argument("--shards", action="store_true", help="streamed from disk")
    parser.add_argument("--passes", action="store_true", help="4 + 4 epochs of one pass each")
    parser.add_argument("--nmf", action="store_true", help="scikit-learn's NMF beside it")
    parser.add_argument("--tolerance", type=float, default=1e-4, help=argparse.SUPPRESS)
    parser.add_argument("--one", type=int, nargs=3, help=argparse.SUPPRESS)
    parser.add_argument("--one-nmf", type=int, nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(run(*arguments.one, arguments.shards, arguments.passes)))
        return
    if arguments.one_nmf:
        print(json.dumps(run_nmf(*arguments.one_nmf, arguments.tolerance)))
        return
    flags = ["--shards"] * arguments.shards + ["--passes"] * arguments.passes
    grid = [
        (positions, channels, concepts)
        for channels in arguments.channels
        for concepts in arguments.concepts
        for positions in arguments.positions
    ]
    rows = table("--one", grid, flags)
    if len(arguments.positions) > 1:
        print_growth(grid, rows)
    if arguments.nmf:
        print("\nscikit-learn's NMF:\n")
        for tolerance in (1e-4, 1e-6):
            table("--one-nmf", grid, ["--tolerance", str(tolerance)])


if __name__ == "__main__":
    main()
