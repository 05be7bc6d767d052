"""The features that are learned from: held in memory, or streamed from shards on disk.

Both give the learning the same four things: blocks of positions for sums over all of them, a random
sample for the start, batches in a stage's coordinates, and feature maps for the network terms.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from xplique_dirpairs.core.batching import as_positions
from xplique_dirpairs.data.devices import whole_parts
from xplique_dirpairs.data.shards import ActivationShards
from xplique_dirpairs.learning.batches import every_position, random_rows
from xplique_dirpairs.learning.coordinates import Coordinates

#: Positions in a block.
_BLOCK = 8192
#: Files of shards that batches are drawn from at a time.
_FILES = 4
#: Streamed positions that are kept in memory, in coordinates, where all of them are no more than
#: so many megabytes: reading, projecting and shuffling them in every pass takes far longer.
_KEPT_MEGABYTES = 64.0
#: Streamed feature maps that the network terms see: a random sample of so many megabytes.
_MAPS_MEGABYTES = 256.0


class HeldFeatures:
    """Activations in memory, ``(N, *spatial, D)``."""

    #: As of `StreamedFeatures`.
    failure: Exception | None = None

    def __init__(self, activations: NDArray):
        self._activations, self._pixels = activations, as_positions(activations)
        self.shape = activations.shape
        self._last: tuple[Coordinates, NDArray] | None = None

    def __len__(self) -> int:
        """P."""
        return len(self._pixels)

    def without(self, images: NDArray) -> HeldFeatures:
        """Without some images, by their numbers."""
        return HeldFeatures(np.delete(self._activations, images, axis=0))

    def first(self, count: int) -> NDArray:
        """The first feature maps (n, *spatial, D), at most ``count``."""
        return self._activations[:count]

    def blocks(self) -> Iterator[NDArray]:
        """Positions (n, D), all of them in order."""
        for start in range(0, len(self), _BLOCK):
            yield self._pixels[start : start + _BLOCK]

    def sample(self, made: Coordinates, count: int, rng: np.random.Generator) -> NDArray:
        """At most ``count`` random positions in coordinates, (n, A)."""
        return _some(self._in(made), count, rng)

    def batches(
        self, made: Coordinates, size: int | None, seed: int, skip: int = 0
    ) -> tf.data.Dataset:
        """Endless batches in coordinates, (size, A), after the first ``skip`` of them.

        Of all positions where size is None.
        """
        features = self._in(made)
        if size is None:
            return every_position(features)
        return random_rows(features, size, seed).skip(skip)

    def maps(self, pool: Callable | None, size: int, seed: int) -> tf.data.Dataset:
        """Endless batches of at most ``size`` feature maps, passed through ``pool`` if given."""
        images = self._activations if pool is None else pool(self._activations)
        return random_rows(images, _maps_in_a_step(size, len(images)), seed)

    def _in(self, made: Coordinates) -> NDArray:
        """Positions in coordinates (P, A); the last ones are kept."""
        if self._last is None or self._last[0] is not made:
            self._last = None
            self._last = made, made.features(self._pixels)
        return self._last[1]


class StreamedFeatures:
    """Activations in shards; memory does not grow with their number beyond some 200 MB.

    Attributes
    ----------
    failure
        Why batches ended: TensorFlow turns what is raised there into an error of its own.
    """

    def __init__(self, shards: ActivationShards):
        self._shards, self.shape = shards, shards.shape
        self.failure: Exception | None = None
        self._last: tuple[Coordinates, NDArray] | None = None

    def __len__(self) -> int:
        """P."""
        return int(np.prod(self.shape[:-1]))

    def without(self, images: NDArray) -> StreamedFeatures:
        """Without some images, by their numbers."""
        kept = np.delete(np.arange(self.shape[0]), images)
        return StreamedFeatures(self._shards.part(kept))

    def first(self, count: int) -> NDArray:
        """Of the first feature maps (n, *spatial, D), at most ``count``: those of one file."""
        return self._shards.read(0)[:count]

    def blocks(self) -> Iterator[NDArray]:
        """Positions (n, D), all of them in order."""
        for activations in self._shards:
            pixels = as_positions(activations)
            for start in range(0, len(pixels), _BLOCK):
                yield pixels[start : start + _BLOCK]

    def sample(self, made: Coordinates, count: int, rng: np.random.Generator) -> NDArray:
        """At most ``count`` random positions in coordinates, (n, A)."""
        if self._fits(made):
            return _some(self._in(made), count, rng)
        if len(self) <= count:
            return self._in(made)
        chosen = np.sort(rng.choice(len(self), count, replace=False))
        return np.concatenate([made.features(rows) for rows in self._rows(chosen, self.blocks())])

    def batches(
        self, made: Coordinates, size: int | None, seed: int, skip: int = 0
    ) -> tf.data.Dataset:
        """Endless batches in coordinates, (size, A), after the first ``skip`` of them.

        Of all positions where size is None.
        """
        if size is None:
            return every_position(self._in(made))
        if self._fits(made):
            return random_rows(self._in(made), size, seed).skip(skip)
        passes, rest = divmod(skip, len(self) // size)  # whole passes need not be read again
        signature = tf.TensorSpec((size, made.axes), tf.float32)
        return tf.data.Dataset.from_generator(
            lambda: self._noted(self._stream(made, size, seed, passes)), output_signature=signature
        ).skip(rest)

    def maps(self, pool: Callable | None, size: int, seed: int) -> tf.data.Dataset:
        """Endless batches of at most ``size`` feature maps, of a sample that fits in memory."""
        per_map = 4e-6 * float(np.prod(self.shape[1:] if pool is None else self.shape[-1:]))
        count = min(self.shape[0], max(size, int(_MAPS_MEGABYTES / per_map)))
        rng = np.random.default_rng(seed)
        chosen = np.sort(rng.choice(self.shape[0], count, replace=False))
        parts = self._rows(chosen, iter(self._shards))
        images = np.concatenate([part if pool is None else pool(part) for part in parts])
        return random_rows(images, _maps_in_a_step(size, count), seed)

    def _fits(self, made: Coordinates) -> bool:
        """Whether all positions may be kept in memory, in coordinates."""
        return 4e-6 * len(self) * made.axes <= _KEPT_MEGABYTES

    def _in(self, made: Coordinates) -> NDArray:
        """Positions in coordinates (P, A); the last ones are kept where they fit."""
        if self._last is None or self._last[0] is not made:
            self._last = None
            features = np.concatenate([made.features(block) for block in self.blocks()])
            if not self._fits(made):
                return features
            self._last = made, features
        return self._last[1]

    def _noted(self, batches: Iterator[NDArray]) -> Iterator[NDArray]:
        """The batches; what ends them is kept."""
        try:
            yield from batches
        except Exception as error:
            self.failure = error
            raise

    def _stream(
        self, made: Coordinates, size: int, seed: int, first_pass: int
    ) -> Iterator[NDArray]:
        """Positions of a few random files at a time, in random order; another one in every pass."""
        files = len(self._shards.counts)
        for number in itertools.count(first_pass):
            rng = np.random.default_rng([seed, number])
            kept = np.zeros((0, made.axes), np.float32)
            for group in np.array_split(rng.permutation(files), max(1, files // _FILES)):
                rows = np.concatenate([kept, *(self._read(made, k) for k in group)])
                order = rng.permutation(len(rows))
                whole = len(rows) // size * size
                for places in order[:whole].reshape(-1, size):
                    yield rows[places]
                kept = rows[order[whole:]]

    def _read(self, made: Coordinates, number: int) -> NDArray:
        """One file's positions in coordinates."""
        return made.features(as_positions(self._shards.read(number)))

    @staticmethod
    def _rows(chosen: NDArray, blocks: Iterator[NDArray]) -> Iterator[NDArray]:
        """The chosen rows, sorted numbers over all blocks, block by block."""
        first = 0
        for block in blocks:
            inside = chosen[(chosen >= first) & (chosen < first + len(block))] - first
            if inside.size:
                yield block[inside]
            first += len(block)


def _some(features: NDArray, count: int, rng: np.random.Generator) -> NDArray:
    """At most ``count`` random rows."""
    if len(features) <= count:
        return features
    return features[rng.choice(len(features), count, replace=False)]


def _maps_in_a_step(wanted: int, images: int) -> int:
    """Never more than there are; as many for every replica."""
    return min(whole_parts(min(wanted, images)), images)
