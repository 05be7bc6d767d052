"""Hundreds of concepts: does it learn, how long, how much memory, and is each of them another?

    python benchmarks/many_concepts.py --data DIR --output DIR
    python benchmarks/many_concepts.py --data DIR --output DIR --concepts 128 256 --half final

Direction pairs with the default recipe, of all photographs of `general()` at `out_relu` (49,000
positions of 1280 channels); DIR as for benchmarks/panel.py, whose fits and scores these are.

    s, MB        of the fit; the largest memory of the process so far, activations included
    dead         detected at fewer than 10 positions
    duplicates   an IoU of detections above .8, or a cosine of filters above .95, with another one
    S¹, S²       on the half of the masks that settings were chosen on, or --half final
"""

from __future__ import annotations

import argparse
import resource
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from panel import OURS, kept_fit, result_of
from panel_cells import CELLS, HALVES, Material

from xplique_dirpairs.core.batching import slices
from xplique_dirpairs.core.tables import Cell, Table

HEADERS = ("I", "s", "MB", "dead", "duplicates", "on: least, median, most", "cond", "S¹", "S²")
FEWEST, SAME_PLACES, SAME_FILTER = 10, 0.8, 0.95


def detections(pairs: Any, x: NDArray) -> NDArray:
    """Return where each concept is detected, (P, I), 0 or 1."""
    return np.concatenate([pairs.detect(x[block]) > 0.5 for block in slices(len(x), 5000)])


def duplicates(pairs: Any, on: NDArray) -> int:
    """Return how many concepts have the places or the filter of another one."""
    on = on.astype(np.float32)
    both, count = on.T @ on, on.sum(axis=0)
    iou = both / np.maximum(count[:, None] + count - both, 1)
    filters = pairs.filters / np.linalg.norm(pairs.filters, axis=1, keepdims=True)
    same = (iou > SAME_PLACES) | (np.abs(filters @ filters.T) > SAME_FILTER)
    np.fill_diagonal(same, False)
    return int(same.any(axis=1).sum())


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, metavar="DIR")
    parser.add_argument("--output", type=Path, required=True, metavar="DIR")
    parser.add_argument("--concepts", type=int, nargs="+", default=[256, 512], metavar="I")
    parser.add_argument("--half", choices=HALVES, default="choice")
    arguments = parser.parse_args()
    material = Material(arguments.output, arguments.data)
    like = next(cell for cell in CELLS if cell.name == "general-last-256")
    rows = []
    for concepts in arguments.concepts:
        cell = replace(like, name=f"general-last-{concepts}", concepts=concepts)
        factorizer, seconds = kept_fit(arguments.output, cell, OURS, 0, material)
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        x = material.learned_from(cell)
        on = detections(factorizer.pairs_, x.reshape(-1, x.shape[-1]))
        share = on.mean(axis=0)
        result = result_of(
            arguments.output, cell, OURS, 0, arguments.half, material, measures=("labels",)
        )
        values = (
            f"{concepts}", f"{seconds:.0f}", f"{memory:.0f}",
            f"{(on.sum(axis=0) < FEWEST).sum()}", f"{duplicates(factorizer.pairs_, on)}",
            f"{share.min():.4f}, {np.median(share):.4f}, {share.max():.4f}",
            f"{factorizer.pairs_.condition_number:.1f}", *(f"{s:.2f}" for s in result.score()),
        )  # fmt: skip
        rows.append([Cell(value) for value in values])
    print(Table(HEADERS, rows, []).formatted("markdown"))


if __name__ == "__main__":
    main()
