"""The features to learn from, in memory or on disk: blocks, samples and batches of them."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any, TypeAlias

import numpy as np
import tensorflow as tf
from numpy.typing import ArrayLike

from xplique_dirpairs.core.batching import as_positions, iter_blocks
from xplique_dirpairs.core.types import Array
from xplique_dirpairs.core.validation import check_activations
from xplique_dirpairs.data.shards import ActivationShards
from xplique_dirpairs.learning.coordinates import BLOCK, Coordinates

#: Number of files of shards that batches are drawn from at a time.
_FILES = 4
#: The positions of shards are kept in memory, in coordinates, if they take at most this many
#: megabytes: reading, projecting and shuffling them in every pass takes far longer.
KEPT_MEGABYTES = 64.0
#: Size of the random sample of feature maps of shards, for losses that evaluate the network.
_MAPS_MEGABYTES = 256.0


class Features:
    """Activations to learn from, in memory or streamed from shards.

    Shards need at most about 300 MB of memory, however many there are.

    Parameters
    ----------
    activations : ndarray of shape (N, *spatial, D) or ActivationShards
    """

    def __init__(self, activations: Array | ActivationShards):
        self.activations: Any = activations
        self.shape: tuple[int, ...] = activations.shape
        self._last: tuple[Coordinates, Array] | None = None

    def __len__(self) -> int:
        """Return the number of positions, P."""
        return int(np.prod(self.shape[:-1]))

    def only(self, images: Array) -> Features:
        """Return the features of the images with these indices, which must be increasing."""
        is_held = isinstance(self.activations, np.ndarray)
        return Features(self.activations[images] if is_held else self.activations.part(images))

    def without(self, images: Array) -> Features:
        """Return the features without the images with these indices."""
        return self.only(np.delete(np.arange(self.shape[0]), images))

    def in_memory(self) -> Array:
        """Return all activations as an array (N, *spatial, D)."""
        return np.concatenate(list(self._parts()))

    def first(self, count: int) -> Array:
        """Return at most ``count`` feature maps (n, *spatial, D), the first of the first file."""
        return next(self._parts())[:count]

    def blocks(self) -> Iterator[Array]:
        """Yield all positions in order, in blocks (n, D)."""
        for activations in self._parts():
            yield from iter_blocks(as_positions(activations), BLOCK)

    def sample(self, coordinates: Coordinates, count: int, rng: np.random.Generator) -> Array:
        """Return random positions in coordinates, (n, A), with n at most ``count``."""
        if self._fits(coordinates) or len(self) <= count:
            return random_subset(self._in(coordinates), count, rng)
        chosen = np.sort(rng.choice(len(self), count, replace=False))
        return np.concatenate([coordinates.features(rows) for rows in _rows(chosen, self.blocks())])

    def batches(
        self, coordinates: Coordinates, size: int | None, seed: int, skip: int = 0
    ) -> Batches:
        """Return endless batches of positions in coordinates.

        Parameters
        ----------
        coordinates : Coordinates
        size : int or None
            Positions in a batch; None: every batch holds all positions.
        seed : int
            Seed of the order of the positions.
        skip : int, default=0
            Number of batches at the beginning that are skipped.

        Returns
        -------
        batches : RandomBatches or StreamedBatches
            Batches of shape (size, A).
        """
        if size is None or self._fits(coordinates):
            return RandomBatches(self._in(coordinates), size, seed, skip)
        return StreamedBatches(self.activations, coordinates, size, seed, skip)

    def maps(
        self, pool: Callable[[Array], Array] | None, size: int, seed: int, skip: int = 0
    ) -> RandomBatches:
        """Return endless batches of feature maps.

        For shards, they are drawn from a random sample that fits in memory.

        Parameters
        ----------
        pool : callable or None
            Maps feature maps (n, *spatial, D) to what batches hold; None: they are unchanged.
        size : int
            Largest number of maps in a batch.
        seed : int
            Seed of the order of the maps.
        skip : int, default=0
            Number of batches at the beginning that are skipped.

        Returns
        -------
        batches : RandomBatches
        """
        count = self.shape[0]
        if not self._is_held:
            per_map = 4e-6 * float(np.prod(self.shape[1:] if pool is None else self.shape[-1:]))
            count = min(count, max(size, int(_MAPS_MEGABYTES / per_map)))
        chosen = np.arange(count)
        if count < self.shape[0]:
            rng = np.random.default_rng(seed)
            chosen = np.sort(rng.choice(self.shape[0], count, replace=False))
        parts = _rows(chosen, self._parts())
        maps = [part if pool is None else pool(part) for part in parts]
        together = maps[0] if len(maps) == 1 else np.concatenate(maps)
        return RandomBatches(together, _maps_in_a_step(size, count), seed, skip)

    @property
    def _is_held(self) -> bool:
        """Whether the activations are in memory."""
        return not isinstance(self.activations, ActivationShards)

    def _parts(self) -> Iterator[Array]:
        """Yield the activations (n, *spatial, D), one file at a time."""
        return iter([self.activations]) if self._is_held else iter(self.activations)

    def _fits(self, coordinates: Coordinates) -> bool:
        """Return whether all positions, in coordinates, may be kept in memory."""
        return self._is_held or 4e-6 * len(self) * coordinates.axes <= KEPT_MEGABYTES

    def _in(self, coordinates: Coordinates) -> Array:
        """Return all positions in coordinates, (P, A), and keep them if they fit in memory."""
        if self._last is None or self._last[0] is not coordinates:
            self._last = None
            parts = [coordinates.features(as_positions(part)) for part in self._parts()]
            features = parts[0] if len(parts) == 1 else np.concatenate(parts)
            if not self._fits(coordinates):
                return features
            self._last = coordinates, features
        return self._last[1]


def as_features(activations: ArrayLike | ActivationShards) -> Features:
    """Check activations, and return them as features to learn from.

    Parameters
    ----------
    activations : array-like of shape (N, *spatial, D) or ActivationShards

    Returns
    -------
    features : Features

    Raises
    ------
    ValueError
        If the activations are not finite or have a wrong number of axes.
    """
    if not isinstance(activations, ActivationShards):
        activations = check_activations(activations)
    return Features(activations)


def random_subset(features: Array, count: int, rng: np.random.Generator) -> Array:
    """Return random rows of an array, all of them in order if there are at most ``count``.

    Parameters
    ----------
    features : ndarray of shape (P, D)
    count : int
    rng : numpy.random.Generator

    Returns
    -------
    rows : ndarray of shape (min(P, count), D)
    """
    if len(features) <= count:
        return features
    return features[rng.choice(len(features), count, replace=False)]


def _rows(chosen: Array, blocks: Iterator[Array]) -> Iterator[Array]:
    """Yield the rows with the sorted indices ``chosen``, which count through all blocks."""
    first = 0
    for block in blocks:
        inside = chosen[(chosen >= first) & (chosen < first + len(block))] - first
        if inside.size:
            yield block if inside.size == len(block) else block[inside]
        first += len(block)


def _maps_in_a_step(wanted: int, images: int) -> int:
    """Return how many maps a step sees: as many for every replica, but at most ``images``."""
    replicas = int(tf.distribute.get_strategy().num_replicas_in_sync)
    per_step = -(-min(wanted, images) // replicas) * replicas
    return min(per_step, images)


# ------------------------------------------------------------------ batches


class RandomBatches:
    """Endless batches of the rows of an array, in a new order in every pass.

    The order depends on the seed alone. Rows that do not fill a batch at the end of a pass are left
    out of that pass.

    Parameters
    ----------
    rows : ndarray of shape (n, ...)
    size : int or None
        Rows in a batch; None: every batch is the whole array, in its own order.
    seed : int
        Seed of the order.
    skip : int, default=0
        Number of batches at the beginning that are skipped.
    """

    def __init__(self, rows: Array, size: int | None, seed: int, skip: int = 0):
        self._rows, self._size, self._seed = tf.constant(rows), size, seed
        self._next_pass, skip = (0, 0) if size is None else divmod(skip, len(rows) // size)
        self._order = np.zeros((0, size or 0), np.int32)
        self.take(skip)

    def take(self, steps: int) -> tuple[tf.Tensor, Array]:
        """Return all rows, and the indices of the rows in each of the next batches.

        Parameters
        ----------
        steps : int
            Number of batches.

        Returns
        -------
        rows : tf.Tensor of shape (n, ...)
        order : ndarray of shape (steps, size)
            Indices of rows; of shape (steps, 0) if every batch holds all rows.
        """
        if self._size is None:
            return self._rows, np.zeros((steps, 0), np.int32)
        if (missing := steps - len(self._order)) > 0:
            per_pass = len(self._rows) // self._size
            passes = -(-missing // per_pass)
            order = shuffled(len(self._rows), self._seed, self._next_pass, passes).numpy()
            order = order[:, : per_pass * self._size].reshape(-1, self._size)
            self._order = np.concatenate([self._order, order])
            self._next_pass += passes
        order, self._order = self._order[:steps], self._order[steps:]
        return self._rows, order


class StreamedBatches:
    """Endless batches of the positions in shards, drawn from a few random files at a time.

    The order is new in every pass and depends on the seed alone.

    Parameters
    ----------
    shards : ActivationShards
    coordinates : Coordinates
    size : int
        Positions in a batch.
    seed : int
        Seed of the order.
    skip : int, default=0
        Number of batches at the beginning that are skipped. Passes that are skipped completely are
        not read.
    """

    def __init__(
        self,
        shards: ActivationShards,
        coordinates: Coordinates,
        size: int,
        seed: int,
        skip: int = 0,
    ):
        self._shards, self._coordinates, self._size, self._seed = shards, coordinates, size, seed
        passes, skip = divmod(skip, int(np.prod(shards.shape[:-1])) // size)
        self._groups = self._stream(passes)
        self._rows, self._order = next(self._groups)
        while skip:
            skip -= len(self.take(skip)[1])

    def take(self, steps: int) -> tuple[tf.Tensor, Array]:
        """Return some rows, and the indices of the rows in each of the next batches.

        Parameters
        ----------
        steps : int
            Largest number of batches.

        Returns
        -------
        rows : tf.Tensor of shape (n, A)
            Positions of a few files.
        order : ndarray of shape (at most steps, size)
            Indices of rows.
        """
        while not len(self._order):
            self._rows, self._order = next(self._groups)
        order, self._order = self._order[:steps], self._order[steps:]
        return self._rows, order

    def _stream(self, first_pass: int) -> Iterator[tuple[tf.Tensor, Array]]:
        """Yield positions of a few files in coordinates, (n, A), and batches of their indices."""
        files = len(self._shards.counts)
        for number in itertools.count(first_pass):
            rng = np.random.default_rng([self._seed, number])
            kept = np.zeros((0, self._coordinates.axes), np.float32)
            for group in np.array_split(rng.permutation(files), max(1, files // _FILES)):
                parts = [as_positions(self._shards.read(file)) for file in group]
                rows = np.concatenate([kept, *map(self._coordinates.features, parts)])
                order = rng.permutation(len(rows)).astype(np.int32)
                batched = len(rows) // self._size * self._size
                yield tf.constant(rows), order[:batched].reshape(-1, self._size)
                kept = rows[order[batched:]]


Batches: TypeAlias = RandomBatches | StreamedBatches


@tf.function(
    input_signature=[tf.TensorSpec([], dtype) for dtype in (tf.int32, tf.int64, tf.int64, tf.int64)]
)
def shuffled(count: int, seed: int, first: int, passes: int) -> tf.Tensor:
    """Return the random order of rows in a few passes.

    It depends only on the seed and the number of the pass; the order of `tf.data.Dataset.shuffle`
    depends on `tf.random.set_seed`, too.

    Parameters
    ----------
    count : int
        Number of rows.
    seed : int
    first : int
        Number of the first pass.
    passes : int
        How many passes.

    Returns
    -------
    order : tf.Tensor of shape (passes, count)
        Indices of rows.
    """
    rows = tf.range(count)
    return tf.map_fn(
        lambda number: tf.random.experimental.stateless_shuffle(rows, seed=[seed, number]),
        first + tf.range(passes),
        fn_output_signature=tf.int32,
    )


def sample_of(features: Features, count: int, rng: np.random.Generator) -> Array:
    """Return random positions (n, D), n at most ``count``, in their order, in one pass."""
    size = len(features)
    if size <= count:
        return np.concatenate(list(features.blocks()))
    return np.concatenate(
        list(_rows(np.sort(rng.choice(size, count, replace=False)), features.blocks()))
    )
