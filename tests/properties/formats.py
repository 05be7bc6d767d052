"""The formats of files that the package reads, with a small file of each."""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from xplique_dirpairs.comparison.result import Comparison
from xplique_dirpairs.core.validation import check_float32
from xplique_dirpairs.data.shards import ActivationShards
from xplique_dirpairs.learning.checkpoint import Checkpoint, Fingerprint
from xplique_dirpairs.learning.presets import get_recipe
from xplique_dirpairs.learning.state import Detectors, FitState, Pace, Running
from xplique_dirpairs.pairs import DirectionPairs


@dataclass(frozen=True)
class Format:
    """A kind of file: what writes it to a folder, reads it, and compares what was read."""

    damaged: str
    write: Callable[[Path], Any]
    read: Callable[[Path], Any]
    same: Callable[[Any, Any], bool]
    errors: tuple[type[Exception], ...] = (ValueError,)


def equal(found, wanted):
    """Return whether two values of plain data, arrays and dataclasses are equal."""
    if dataclasses.is_dataclass(wanted):
        names = [field.name for field in dataclasses.fields(wanted)]
        return all(equal(getattr(found, name), getattr(wanted, name)) for name in names)
    if isinstance(wanted, dict):
        return found.keys() == wanted.keys() and all(equal(found[k], wanted[k]) for k in wanted)
    if isinstance(wanted, (list, tuple)):
        return len(found) == len(wanted) and all(map(equal, found, wanted))
    return bool(np.array_equal(np.asarray(found), np.asarray(wanted)))


def small_pairs():
    rng = np.random.default_rng(0)
    filters, signals = rng.normal(size=(2, 3, 4))
    return DirectionPairs(filters, np.ones(3), signals, np.zeros(4), np.zeros(3), np.ones(3))


def same_pairs(found, wanted):
    # a file whose recurrence was lost is that of pairs without it
    twin = dataclasses.replace(wanted, recurrence=found.recurrence)
    return equal(found, twin) and (found.recurrence is None or equal(found, wanted))


def write_shards(folder):
    x = np.random.default_rng(0).normal(size=(4, 2, 2, 3)).astype(np.float32)
    return ActivationShards.write(folder, [x])


def read_shards(folder):
    shards = ActivationShards(folder)
    return {"shape": shards.shape, "values": [check_float32("values", part) for part in shards]}


def checkpoint(folder):
    channels = np.ones(3)
    fingerprint = Fingerprint(channels, channels, channels, 7, 1, np.ones((2, 8)))
    return Checkpoint(folder, {"recipe": "soft"}, fingerprint)


def write_state(folder):
    pace = Pace(**{f.name: 1 for f in dataclasses.fields(Pace)})
    variables = {"weights": np.ones((2, 3), np.float32)}
    values = {f.name: 1 for f in dataclasses.fields(Running)}
    running = Running(**values | {"pace": pace, "variables": variables})
    detectors = Detectors(np.ones((2, 3)), np.ones(2), None)
    state = FitState(get_recipe("soft"), detectors=detectors, generator={}, running=running)
    checkpoint(folder).save(state)


def read_state(folder):
    state = checkpoint(folder).load(get_recipe("soft"))
    return {"filters": state.detectors.filters, "biases": state.detectors.centred_biases}


def write_comparison(folder):
    images = np.zeros((2, 4, 4, 3), np.float32)
    Comparison({}, {}, images, np.array([0, 1])).save(folder / "comparison")


def read_comparison(folder):
    found = Comparison.load(folder / "comparison")
    return {"images": found.images, "class_ids": found.class_ids, "errors": found.errors}


FORMATS = {
    "pairs": Format(
        "pairs",
        lambda folder: small_pairs().save(folder / "pairs"),
        lambda folder: DirectionPairs.load(folder / "pairs"),
        same_pairs,
    ),
    "comparison": Format("comparison", write_comparison, read_comparison, equal),
    "checkpoint": Format("state.npz", write_state, read_state, equal),
    "index of shards": Format("index.json", write_shards, read_shards, equal),
    "shard": Format("000000.npy", write_shards, read_shards, equal),
}
