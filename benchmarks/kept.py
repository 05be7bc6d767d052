"""Measurements of benchmarks, kept in files and not repeated."""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xplique_dirpairs.core.archives import ArchiveFormat
from xplique_dirpairs.core.tables import Cell
from xplique_dirpairs.learning.learner import learn_pairs
from xplique_dirpairs.learning.presets import get_recipe
from xplique_dirpairs.learning.recipe import Recipe
from xplique_dirpairs.models.head import Head
from xplique_dirpairs.pairs import DirectionPairs

FORMAT = ArchiveFormat("benchmark-measurement", 1, "measurements", "benchmarks/", compressed=True)

Measured = tuple[dict[str, NDArray], dict[str, Any]]


def kept(path: Path, settings: Mapping[str, Any], measure: Callable[[], Measured]) -> Measured:
    """Return (arrays, information) from the file, if it has the same settings; else measure.

    Settings and information are what JSON can hold. A file does not know the version of the code
    that wrote it: delete it after a change.
    """
    wanted = json.loads(json.dumps(settings))
    if path.exists():
        arrays, header = FORMAT.read(path)
        if header["settings"] == wanted:
            return arrays, header["about"]
        print(f"{path} is of other settings: measured again", flush=True)
    arrays, about = measure()
    path.parent.mkdir(parents=True, exist_ok=True)
    # another benchmark may be measuring the same
    unfinished = path.with_name(f"{path.stem}.{os.getpid()}.part")
    FORMAT.write(unfinished, arrays, {"settings": wanted, "about": about})
    unfinished.replace(path)
    return arrays, about


def mean_and_spread(values: Sequence[float], decimals: int, best: bool = False) -> Cell:
    """Return mean and standard deviation over seeds of the values that are finite."""
    defined = [value for value in values if np.isfinite(value)]
    if not defined:
        return Cell("–", numbers=(np.nan,))
    mean, text = float(np.mean(defined)), f"{np.mean(defined):.{decimals}f}"
    if len(defined) > 1:
        text += f" ± {np.std(defined, ddof=1):.{decimals}f}"
    return Cell(text, best, (mean,))


def slug(name: str) -> str:
    """Return a name in a form that a file's name can contain."""
    return re.sub(r"\W+", "_", name).strip("_").lower()


def learned(
    folder: Path,
    data: Mapping[str, Any],
    activations: NDArray,
    head: Head,
    concepts: int,
    seed: int,
    recipe: str | Recipe = "default",
) -> tuple[DirectionPairs, float]:
    """Return direction pairs and the seconds of their fit, learned once for all benchmarks.

    Parameters
    ----------
    folder
        Where they are kept.
    data
        Description of the activations, for the settings.
    """
    recipe = get_recipe(recipe)
    settings = {"data": data, "concepts": concepts, "seed": seed, "recipe": str(recipe)}
    path = folder / "pairs" / f"{slug(recipe.name)}_{concepts}_{seed}.npz"

    def measure() -> Measured:
        start = time.perf_counter()
        pairs, _ = learn_pairs(
            activations, concepts, head=head, recipe=recipe, random_state=seed, verbose=0
        )
        names = ("filters", "biases", "signals", "mean", "absent_levels")
        seconds = time.perf_counter() - start
        print(f"learned: {recipe.name}, seed {seed}, {seconds:.1f} s", flush=True)
        return {name: getattr(pairs, name) for name in names}, {"seconds": seconds}

    arrays, about = kept(path, settings, measure)
    return DirectionPairs(**arrays), about["seconds"]
