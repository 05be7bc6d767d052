"""Learning under the user's ``tf.distribute`` strategy; without one, nothing here does anything.

A strategy has *workers* (processes) and *replicas* (each worker has one or more). Every worker is
given all activations and draws the same batches from the same seed; every replica takes its part of
each batch. What the losses need to know of the whole batch is averaged over the replicas,
so that all of them have the same objective; each differentiates an N-th of it, and the optimizer
sums the gradients. What is computed outside the training step (coordinates, starts) is the
chief's, so that workers of different make do not disagree.
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
#: Relative difference of numbers that is rounding.
_ROUNDING = 1e-4


# ------------------------------------------------------------ who takes part


def replicas() -> int:
    """Return N, the replicas of all workers together."""
    return int(tf.distribute.get_strategy().num_replicas_in_sync)


def workers() -> int:
    """Return how many processes learn together."""
    if not tf.distribute.has_strategy():
        return 1
    return max(1, replicas() // _own_replicas())


def is_chief() -> bool:
    """Return whether this process writes and reports; a single process does."""
    return _own_number() == 0


def _own_replicas() -> int:
    return len(tf.distribute.get_strategy().extended.worker_devices)


def _own_number() -> int:
    """Return the worker's number, 0 for the chief."""
    if workers() == 1:
        return 0
    resolver = tf.distribute.get_strategy().cluster_resolver
    if resolver.task_type == "chief":
        return 0
    chiefs = resolver.cluster_spec().as_dict().get("chief", [])
    return len(chiefs) + int(resolver.task_id)


def check_strategy(images: int, random_state: int | None) -> None:
    """Check that a fit can run under the strategy of this scope.

    Raises
    ------
    ValueError
        If replicas do not learn in step, would get no image, or workers have no common seed.
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
        raise ValueError(
            f"{workers()} workers need the same random_state: give an integer, not None"
        )


def check_alike(**given: Any) -> None:
    """Check that numbers and texts are the same on every worker.

    Raises
    ------
    ValueError
        With the names of those that are not; on every worker.
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
            f"the workers have different {', '.join(other)}: every worker needs what the others "
            "have, activations, settings and resume folder"
        )


# ------------------------------------------------------------ inside a step


def average(tensors: _T) -> _T:
    """Return means over the replicas of a tensor, or of several at once; differentiable.

    Parts of a batch are equal: the mean of their means is the batch's. Not to be called inside
    `tf.cond`, where replicas would wait for each other for ever.
    """
    context = _replica()
    return tensors if context is None else context.all_reduce(tf.distribute.ReduceOp.MEAN, tensors)


def own_part(rows: tf.Tensor) -> tf.Tensor:
    """Return this replica's rows of those of the whole batch."""
    context = _replica()
    if context is None:
        return rows
    size = tf.shape(rows)[0] // context.num_replicas_in_sync
    return rows[context.replica_id_in_sync_group * size :][:size]


def _replica() -> tf.distribute.ReplicaContext | None:
    """Return the context of one of several replicas; None elsewhere."""
    context = tf.distribute.get_replica_context()
    return None if context is None or context.num_replicas_in_sync == 1 else context


# ------------------------------------------------------------ around the steps


def compiled_steps(
    step: Callable[[dict[str, Any]], Any], batches: dict[str, tuple[tf.Tensor, Array]]
) -> Callable[[dict[str, tuple[tf.Tensor, Array]]], None]:
    """Return a compiled function that takes a step on each of several batches, on every replica.

    Parameters
    ----------
    step : callable
        Of one batch, name → (rows, places): the array that batches are rows of, and which of them
        the batch holds.
    batches : dict
        An example: name → (rows, places of shape (steps, size)). The function takes any number of
        rows, steps and rows in a batch.
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
    """Return the sum of the workers' arrays; several workers must all call this."""
    strategy, own = tf.distribute.get_strategy(), _own_replicas()

    def of_replica(context: Any) -> tf.Tensor:
        first = context.replica_id_in_sync_group % own == 0
        return tf.constant(array if first else np.zeros_like(array))

    values = strategy.experimental_distribute_values_from_function(of_replica)
    return np.asarray(strategy.reduce(tf.distribute.ReduceOp.SUM, values, axis=None))


def as_on_chief(value: _T) -> _T:
    """Return the chief's arrays and numbers: of an array, or of the fields of a dataclass."""
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
