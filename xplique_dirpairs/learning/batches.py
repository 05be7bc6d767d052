"""What a step of the learning sees: endless batches of positions, and of feature maps."""

from __future__ import annotations

import tensorflow as tf
from numpy.typing import NDArray


def every_position(features: NDArray) -> tf.data.Dataset:
    """All rows, in every step."""
    return tf.data.Dataset.from_tensors(features).repeat()


def random_rows(array: NDArray, size: int, seed: int) -> tf.data.Dataset:
    """Batches of ``size`` rows: another order in every pass, without a remainder.

    The order depends on the seed alone; that of `Dataset.shuffle` depends on what was passed to
    `tf.random.set_seed` too.
    """
    rows = tf.constant(array)
    batches = len(array) // size

    def one_pass(number):
        order = tf.range(len(array))
        order = tf.random.experimental.stateless_shuffle(order, seed=[seed, number])
        return tf.reshape(order[: batches * size], (batches, size))

    order = tf.data.Dataset.counter().map(one_pass).unbatch()
    return order.map(lambda index: tf.gather(rows, index))


def as_batches(positions: tf.data.Dataset, maps: tf.data.Dataset | None = None) -> tf.data.Dataset:
    """``{"pixels": …}`` and, for the network terms, ``"features"``."""
    if maps is None:
        return positions.map(lambda p: {"pixels": p}).prefetch(2)
    both = tf.data.Dataset.zip((positions, maps))
    return both.map(lambda p, m: {"pixels": p, "features": m}).prefetch(2)
