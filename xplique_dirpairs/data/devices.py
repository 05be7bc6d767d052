"""Learn under the user's ``tf.distribute`` strategy; without a strategy, nothing is changed.

A strategy has *workers* (processes), each with one or more *replicas*. Every worker is given all
activations and draws the same batches from the same seed, and every replica takes its part of each
batch. Statistics of the whole batch that losses need are averaged over the replicas, so that all
replicas have the same objective; each differentiates its share of it, and the optimizer sums the
gradients. Results outside the training step (coordinates, initial detectors) are taken from the
chief, so that workers on different hardware do not disagree.
"""

from __future__ import annotations

import dataclasses
import zlib
from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np
import tensorflow as tf

from xplique_dirpairs.core.types import Array

_T = TypeVar("_T")
_SYNCHRONOUS = (
    tf.distribute.MirroredStrategy,
    tf.distribute.MultiWorkerMirroredStrategy,
    tf.distribute.OneDeviceStrategy,
)
#: Relative difference of numbers that counts as a rounding error.
_ROUNDING = 1e-4


# ------------------------------------------------------------ replicas and workers


def replicas() -> int:
    """Return the number of replicas of all workers together."""
    return int(tf.distribute.get_strategy().num_replicas_in_sync)


def workers() -> int:
    """Return the number of processes that learn together."""
    if not tf.distribute.has_strategy():
        return 1
    return max(1, replicas() // _own_replicas())


def is_chief() -> bool:
    """Return whether this process writes files and reports; True for a single process."""
    return _own_number() == 0


def _own_replicas() -> int:
    """Return the number of replicas of this worker."""
    return len(tf.distribute.get_strategy().extended.worker_devices)


def _own_number() -> int:
    """Return the number of this worker; 0 is the chief."""
    if workers() == 1:
        return 0
    resolver = tf.distribute.get_strategy().cluster_resolver
    if resolver.task_type == "chief":
        return 0
    chiefs = resolver.cluster_spec().as_dict().get("chief", [])
    return len(chiefs) + int(resolver.task_id)


def check_strategy(images: int, random_state: int | None) -> None:
    """Check that a fit can run under the current strategy.

    Parameters
    ----------
    images : int
        Number of images N.
    random_state : int or None
        Seed of the fit.

    Raises
    ------
    ValueError
        If the strategy is not synchronous, a replica would get no image, or workers have no seed.
    """
    if not tf.distribute.has_strategy():
        return
    strategy = tf.distribute.get_strategy()
    if not isinstance(strategy, _SYNCHRONOUS):
        raise ValueError(
            f"direction pairs cannot be learned under {type(strategy).__name__}: use "
            "MirroredStrategy or MultiWorkerMirroredStrategy"
        )
    if images < replicas():
        raise ValueError(
            f"{images} images cannot be shared by {replicas()} replicas: every replica needs one"
        )
    if workers() > 1 and random_state is None:
        raise ValueError(f"{workers()} workers need the same random_state, an integer")


def check_alike(**given: Any) -> None:
    """Check that settings are the same on every worker.

    Parameters
    ----------
    **given : str, int, float or bool
        Values of this worker by name.

    Raises
    ------
    ValueError
        On every worker, if values differ.
    """
    if workers() == 1:
        return
    table = np.zeros((workers(), len(given)))
    table[_own_number()] = [
        zlib.crc32(value.encode()) if isinstance(value, str) else value for value in given.values()
    ]
    table = summed(table)
    alike = np.isclose(table, table[0], rtol=_ROUNDING, atol=0.0).all(axis=0)
    other = [name for name, same in zip(given, alike, strict=True) if not same]
    if other:
        raise ValueError(
            f"the workers differ in {', '.join(other)}: give all of them the same arguments"
        )


# ------------------------------------------------------------ inside a step


def average(tensors: _T) -> _T:
    """Return the mean of a tensor, or of each of several tensors, over the replicas.

    The mean is differentiable. The parts of a batch have equal size, so that the mean of their
    means is the mean of the batch. It must not be called inside `tf.cond`, where replicas would
    wait for each other forever.
    """
    context = _replica()
    return tensors if context is None else context.all_reduce(tf.distribute.ReduceOp.MEAN, tensors)


def own_part(rows: tf.Tensor) -> tf.Tensor:
    """Return the rows of the batch that belong to this replica."""
    context = _replica()
    if context is None:
        return rows
    size = tf.shape(rows)[0] // context.num_replicas_in_sync
    return rows[context.replica_id_in_sync_group * size :][:size]


def _replica() -> tf.distribute.ReplicaContext | None:
    """Return the context of this replica if there are several, None otherwise."""
    context = tf.distribute.get_replica_context()
    return None if context is None or context.num_replicas_in_sync == 1 else context


# ------------------------------------------------------------ around the steps


def compiled_steps(
    step: Callable[[dict[str, Any]], Any], batches: dict[str, tuple[tf.Tensor, Array]]
) -> Callable[[dict[str, tuple[tf.Tensor, Array]]], None]:
    """Compile a function that takes one training step on each of several batches.

    Parameters
    ----------
    step : callable
        Training step on one batch, which is given as name → (rows, places): an array, and the
        indices of its rows that are in the batch.
    batches : dict of str to tuple
        Example of batches: name → (rows, places of shape (steps, size)). Only the dtypes and the
        shapes of single rows matter.

    Returns
    -------
    steps : callable
        Function of such batches that runs on every replica.
    """
    strategy = tf.distribute.get_strategy()
    step = tf.autograph.experimental.do_not_convert(step)
    order = tf.TensorSpec([None, None], tf.int32)
    signature = {
        name: (tf.TensorSpec([None, *rows.shape[1:]], rows.dtype), order)
        for name, (rows, _) in batches.items()
    }

    def several(batches: Any) -> None:
        for k in tf.range(tf.shape(batches["positions"][1])[0]):
            one = {name: (rows, order[k]) for name, (rows, order) in batches.items()}
            strategy.run(step, args=(one,))

    steps: Callable[[Any], None] = tf.function(several, input_signature=[signature])
    return steps


# ------------------------------------------------------------ between workers


def summed(array: Array) -> Array:
    """Return the sum of an array over the workers, all of which must call this function."""
    strategy, own = tf.distribute.get_strategy(), _own_replicas()

    def of_replica(context: Any) -> tf.Tensor:
        first = context.replica_id_in_sync_group % own == 0
        return tf.constant(array if first else np.zeros_like(array))

    values = strategy.experimental_distribute_values_from_function(of_replica)
    return np.asarray(strategy.reduce(tf.distribute.ReduceOp.SUM, values, axis=None))


def as_on_chief(value: _T) -> _T:
    """Return the chief's value of a number, an array, or a dataclass of these, on every worker."""
    if workers() == 1 or value is None:
        return value
    own: Any = value
    has_fields = dataclasses.is_dataclass(own)
    new: _T
    if has_fields:
        names = [field.name for field in dataclasses.fields(own)]
        new = dataclasses.replace(own, **{name: as_on_chief(getattr(own, name)) for name in names})
    else:
        numbers = np.asarray(own, np.float64)
        sums: Any = summed(numbers if is_chief() else np.zeros_like(numbers))
        new = sums.astype(own.dtype) if isinstance(own, np.ndarray) else type(own)(sums)
    return new
