"""What is learned from: features in memory or on disk, their moments, coordinates and batches.

Learned coordinates are x̃ = (x − E[x]) F with F of shape (D, A); a filter w̃ there is w = F w̃ in
features, a signal vector s̃ is ŝ = Gᵀ s̃ with F G the projection on what varies. In every one of
them wᵀ(x − E[x]) = w̃ᵀx̃ and wᵀŝ = w̃ᵀs̃, so nothing is lost or approximated on the way back.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeAlias

import numpy as np
import tensorflow as tf
from numpy.typing import ArrayLike

from xplique_dirpairs.core.batching import as_positions, iter_blocks
from xplique_dirpairs.core.linear_algebra import principal_axes
from xplique_dirpairs.core.types import Array
from xplique_dirpairs.core.validation import check_activations
from xplique_dirpairs.data.shards import ActivationShards

#: Positions in a block.
BLOCK = 8192
#: Files of shards that batches are drawn from at a time.
_FILES = 4
#: Streamed positions that are kept in memory, in coordinates, where all of them are no more than
#: this many megabytes: reading, projecting and shuffling them in every pass takes far longer.
KEPT_MEGABYTES = 64.0
#: Streamed feature maps that the network terms see: a random sample of this many megabytes.
_MAPS_MEGABYTES = 256.0
#: Standard deviations below this share of the largest count as no variation at all.
_RELATIVE_FLOOR = 1e-3
#: Axes kept where the spectrum does not show how many carry signal: this many, or 2 I.
AXES = 128
#: Ratio of two neighbouring eigenvalues that counts as the edge of a noise floor.
_DROP = 2.0
#: Ratio of a floor's first and last eigenvalue, at most.
_FLAT = 3.0

#: Error message for activations whose squares are not finite in float32.
TOO_LARGE = (
    "the activations are too large: their squares overflow. Check the images' preprocessing and "
    "the layer, or scale the activations down"
)


@dataclass(frozen=True)
class Moments:
    """Moments of features, in float64.

    Attributes
    ----------
    mean : ndarray of shape (D,)
    covariance : ndarray of shape (D, D)
    count : int
        Of how many positions.
    order : ndarray of shape (D,)
        Mean of centred features times a random number for each position, which depends on its
        place alone: tells features apart that differ in their order only.
    """

    mean: Array
    covariance: Array
    count: int
    order: Array

    @classmethod
    def of(cls, features: Any) -> Moments:
        """Compute the moments of features; a second pass for the covariance keeps it exact.

        Parameters
        ----------
        features : ndarray of shape (P, D), or anything with ``blocks()`` of positions

        Raises
        ------
        ValueError
            If the features are constant, or too large for their squares.
        """
        mean = sum(x.sum(axis=0, dtype=np.float64) for x in iter_blocks(features, BLOCK))
        mean = np.asarray(mean) / len(features)
        covariance, order = np.zeros((len(mean),) * 2), np.zeros(len(mean))
        weights = np.random.default_rng(0)
        for x in iter_blocks(features, BLOCK):
            with np.errstate(over="ignore", invalid="ignore"):  # said below
                centred = x - mean
                order += weights.standard_normal(len(x)) @ centred
                centred = centred.astype(np.float32)
                covariance += centred.T @ centred
        covariance, order = covariance / len(features), order / len(features)
        if len(features) == 1:
            raise ValueError("there is one position only: give more images, or a layer of maps")
        if not np.isfinite(covariance).all():
            raise ValueError(TOO_LARGE)
        if covariance.diagonal().max() <= 1e-12 * float(np.square(mean).max()):
            raise ValueError(
                "the activations are constant: there is nothing to learn from. Check the images, "
                "their preprocessing and the layer"
            )
        return cls(mean, covariance, len(features), order)

    @cached_property
    def principal(self) -> tuple[Array, Array]:
        """Principal axes (D, D), rows, and their variances (D,), largest first."""
        return principal_axes(self.covariance)


@dataclass(frozen=True)
class Coordinates:
    """x̃ = (x − mean) @ forward; ``backward`` (A, D) takes signal vectors back.

    Attributes
    ----------
    mean : ndarray of shape (D,)
    forward : ndarray of shape (D, A)
    backward : ndarray of shape (A, D)
    scale : float
        Root mean square of the channels' standard deviations, in these coordinates' units of
        length: L^mm is measured against it, so that it does not depend on the features' scale.
    noise : float
        Standard deviation along a direction of unit length, on average over directions, of what the
        floor of noise adds; 0 where the spectrum shows no floor.
    """

    mean: Array
    forward: Array
    backward: Array
    scale: float = 1.0
    noise: float = 0.0

    @property
    def axes(self) -> int:
        """A."""
        return int(self.forward.shape[1])

    def features(self, x: Array) -> Array:
        """Return x̃ (..., A) of x (..., D), float32."""
        offset = (self.mean @ self.forward).astype(np.float32)
        return x @ self.forward.astype(np.float32) - offset

    def filters_to_raw(self, filters: Array) -> Array:
        """Return w (..., D) of w̃ (..., A)."""
        return filters @ self.forward.T

    def filters_from_raw(self, filters: Array) -> Array:
        """Return w̃ (..., A) of w (..., D), exact on the data: wᵀ(x − mean) = w̃ᵀx̃."""
        return filters @ self.backward.T

    def signals_to_raw(self, signals: Array) -> Array:
        """Return s (..., D) of s̃ (..., A)."""
        return signals @ self.backward

    def signals_from_raw(self, signals: Array) -> Array:
        """Return s̃ (..., A) of s (..., D)."""
        return signals @ self.forward


def rank_of_signal(moments: Moments, concepts: int) -> int | None:
    """Return how many principal axes stand above a floor of noise; None where there is no floor.

    The signal-distractor model x = Sα + Dβ + μ has I + F axes of signal, then nothing, or noise:
    the spectrum drops, and what follows is flat [ours: after the largest ratio of neighbours from
    the I-th axis on, at least 2, eigenvalues differ by less than a factor of 3]. The spectra of
    real networks fall smoothly. Axes that are missing because a channel never varies, or because
    there are fewer positions than channels, are no floor.
    """
    values = np.maximum(moments.principal[1], 0.0)
    variances = moments.covariance.diagonal()
    varying = int((variances > 1e-10 * variances.max()).sum())
    full = int(0.9 * min(varying, moments.count))  # a floor is more than the last few axes
    values = np.maximum(values, _RELATIVE_FLOOR**2 * values[0])
    if full <= concepts:
        return None
    ratios = values[concepts - 1 : full - 1] / values[concepts:full]
    rank = concepts + int(ratios.argmax())
    flat = values[rank] < _FLAT * values[full - 1]
    return rank if ratios.max() > _DROP and flat else None


def floor_of_noise(moments: Moments, concepts: int) -> float:
    """Return the standard deviation of noise along the axes beyond `rank_of_signal`, or 0."""
    rank = rank_of_signal(moments, concepts)
    if rank is None:
        return 0.0
    return float(np.sqrt(max(moments.principal[1][rank:].mean(), 0.0)))


def signal_axes(moments: Moments, concepts: int) -> tuple[Array, Array]:
    """Return directions (A, D) that carry signal and their standard deviations (A,), largest first.

    `rank_of_signal` of them; where there is no floor of noise, max(128, 2 I).
    """
    vectors, values = moments.principal
    values = np.maximum(values, 0.0)
    varies = int((values > _RELATIVE_FLOOR**2 * values[0]).sum())
    kept = rank_of_signal(moments, concepts) or max(AXES, 2 * concepts)
    kept = min(kept, varies)
    return vectors[:kept], np.sqrt(values[:kept])


def whitened(moments: Moments, concepts: int) -> Coordinates:
    """Return principal axes, each scaled to unit variance."""
    axes, deviations = signal_axes(moments, concepts)
    noise = floor_of_noise(moments, concepts) * float(np.sqrt(np.mean(deviations**-2.0)))
    return Coordinates(moments.mean, axes.T / deviations, axes * deviations[:, None], noise=noise)


def standardised(moments: Moments, concepts: int = 1) -> Coordinates:
    """Return channels of unit variance [paper]; channels that never vary are left out.

    ``concepts`` has no effect.
    """
    deviations = np.sqrt(moments.covariance.diagonal())
    varies = deviations > 1e-6 * deviations.max()
    forward = np.eye(len(deviations))[:, varies]
    safe = deviations[varies]
    return Coordinates(moments.mean, forward / safe, forward.T * safe[:, None])


def centred(moments: Moments, concepts: int) -> Coordinates:
    """Return principal axes in the features' own scale, without directions of no variance.

    Filters learned in standardised channels may lie almost wholly in channels that hardly vary;
    passing through these coordinates drops that part and changes no projection of the data.
    """
    axes, _ = signal_axes(moments, concepts)
    scale = float(np.sqrt(moments.covariance.diagonal().mean()))
    return Coordinates(moments.mean, axes.T, axes, scale)


COORDINATES: dict[str, Callable[[Moments, int], Coordinates]] = {
    "whitened": whitened,
    "standardised": standardised,
    "centred": centred,
}


# ------------------------------------------------------------------ in memory and on disk


class Features:
    """Activations to learn from, held in memory or streamed from shards.

    Memory for shards does not grow with their number beyond some 300 MB.

    Parameters
    ----------
    activations : ndarray of shape (N, *spatial, D) or ActivationShards
    """

    def __init__(self, activations: Array | ActivationShards):
        self.activations: Any = activations
        self.shape: tuple[int, ...] = activations.shape
        self._last: tuple[Coordinates, Array] | None = None

    def __len__(self) -> int:
        """P."""
        return int(np.prod(self.shape[:-1]))

    def only(self, images: Array) -> Features:
        """Return the features of the images of these indices, which rise."""
        is_held = isinstance(self.activations, np.ndarray)
        return Features(self.activations[images] if is_held else self.activations.part(images))

    def without(self, images: Array) -> Features:
        """Return the features without the images of these indices."""
        return self.only(np.delete(np.arange(self.shape[0]), images))

    def in_memory(self) -> Array:
        """Return the activations (N, *spatial, D) in memory."""
        return np.concatenate(list(self._parts()))

    def first(self, count: int) -> Array:
        """Return the first feature maps (n, *spatial, D) of one file, at most ``count``."""
        return next(self._parts())[:count]

    def blocks(self) -> Iterator[Array]:
        """Yield all positions in order, in blocks (n, D)."""
        for activations in self._parts():
            yield from iter_blocks(as_positions(activations), BLOCK)

    def sample(self, coordinates: Coordinates, count: int, rng: np.random.Generator) -> Array:
        """Return at most ``count`` random positions in coordinates, (n, A)."""
        if self._fits(coordinates) or len(self) <= count:
            return random_subset(self._in(coordinates), count, rng)
        chosen = np.sort(rng.choice(len(self), count, replace=False))
        return np.concatenate([coordinates.features(rows) for rows in _rows(chosen, self.blocks())])

    def batches(
        self, coordinates: Coordinates, size: int | None, seed: int, skip: int = 0
    ) -> Batches:
        """Return endless batches in coordinates, (size, A), after the first ``skip`` of them.

        With ``size=None`` every batch holds all positions.
        """
        if size is None or self._fits(coordinates):
            return RandomBatches(self._in(coordinates), size, seed, skip)
        return StreamedBatches(self.activations, coordinates, size, seed, skip)

    def maps(
        self, pool: Callable[[Array], Array] | None, size: int, seed: int, skip: int = 0
    ) -> RandomBatches:
        """Return endless batches of up to ``size`` feature maps, through ``pool`` if given.

        Of shards, a random sample that fits in memory.
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
        return not isinstance(self.activations, ActivationShards)

    def _parts(self) -> Iterator[Array]:
        return iter([self.activations]) if self._is_held else iter(self.activations)

    def _fits(self, coordinates: Coordinates) -> bool:
        """Return whether all positions may be kept in memory, in coordinates."""
        return self._is_held or 4e-6 * len(self) * coordinates.axes <= KEPT_MEGABYTES

    def _in(self, coordinates: Coordinates) -> Array:
        """Return positions in coordinates (P, A); the last ones are kept where they fit."""
        if self._last is None or self._last[0] is not coordinates:
            self._last = None
            parts = [coordinates.features(as_positions(part)) for part in self._parts()]
            features = parts[0] if len(parts) == 1 else np.concatenate(parts)
            if not self._fits(coordinates):
                return features
            self._last = coordinates, features
        return self._last[1]


def as_features(activations: ArrayLike | ActivationShards) -> Features:
    """Return activations, or shards, as features to learn from; the one check of their values.

    Raises
    ------
    ValueError
        If activations are not finite, or of the wrong rank.
    """
    if not isinstance(activations, ActivationShards):
        activations = check_activations(activations)
    return Features(activations)


def random_subset(features: Array, count: int, rng: np.random.Generator) -> Array:
    """Return at most ``count`` random rows."""
    if len(features) <= count:
        return features
    return features[rng.choice(len(features), count, replace=False)]


def _rows(chosen: Array, blocks: Iterator[Array]) -> Iterator[Array]:
    """Yield the rows of ``chosen``, sorted indices over all blocks, block by block."""
    first = 0
    for block in blocks:
        inside = chosen[(chosen >= first) & (chosen < first + len(block))] - first
        if inside.size:
            yield block if inside.size == len(block) else block[inside]
        first += len(block)


def _maps_in_a_step(wanted: int, images: int) -> int:
    """Return how many maps a step sees: never more than there are, as many for every replica."""
    replicas = int(tf.distribute.get_strategy().num_replicas_in_sync)
    per_step = -(-min(wanted, images) // replicas) * replicas
    return min(per_step, images)


# ------------------------------------------------------------------ batches


class RandomBatches:
    """Endless batches of an array's rows: another order in every pass, without a remainder.

    The order depends on the seed alone.

    Parameters
    ----------
    rows : ndarray of shape (n, ...)
    size : int or None
        Rows in a batch; None: every batch is the whole array, in its own order.
    seed : int
    skip : int, default=0
        How many batches are left out.
    """

    def __init__(self, rows: Array, size: int | None, seed: int, skip: int = 0):
        self._rows, self._size, self._seed = tf.constant(rows), size, seed
        self._next_pass, skip = (0, 0) if size is None else divmod(skip, len(rows) // size)
        self._order = np.zeros((0, size or 0), np.int32)
        self.take(skip)

    def take(self, steps: int) -> tuple[tf.Tensor, Array]:
        """Return rows, and which of them each of the next ``steps`` batches holds.

        Returns
        -------
        rows : tf.Tensor of shape (n, ...)
        order : ndarray of shape (steps, size)
            Indices of rows; of shape (steps, 0) where every batch holds all rows.
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
    """Endless batches of positions in shards, a few random files at a time.

    In another order in every pass, which depends on the seed alone.

    Parameters
    ----------
    shards : ActivationShards
    coordinates : Coordinates
    size : int
        Positions in a batch.
    seed : int
    skip : int, default=0
        How many batches are left out; whole passes of them are not read.
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
        """Return rows, and which of them each of the next batches holds: ``steps`` or fewer."""
        while not len(self._order):
            self._rows, self._order = next(self._groups)
        order, self._order = self._order[:steps], self._order[steps:]
        return self._rows, order

    def _stream(self, first_pass: int) -> Iterator[tuple[tf.Tensor, Array]]:
        """Yield positions of some files in coordinates, and batches of them."""
        files = len(self._shards.counts)
        for number in itertools.count(first_pass):
            rng = np.random.default_rng([self._seed, number])
            kept = np.zeros((0, self._coordinates.axes), np.float32)
            for group in np.array_split(rng.permutation(files), max(1, files // _FILES)):
                parts = [as_positions(self._shards.read(file)) for file in group]
                rows = np.concatenate([kept, *map(self._coordinates.features, parts)])
                order = rng.permutation(len(rows)).astype(np.int32)
                whole = len(rows) // self._size * self._size
                yield tf.constant(rows), order[:whole].reshape(-1, self._size)
                kept = rows[order[whole:]]


Batches: TypeAlias = RandomBatches | StreamedBatches


@tf.function(input_signature=[tf.TensorSpec([], tf.int32)] * 4)
def shuffled(count: int, seed: int, first: int, passes: int) -> tf.Tensor:
    """Return the order of rows in some passes over ``count`` of them, (passes, count).

    It depends on the seed and the number of the pass alone; that of `Dataset.shuffle` depends on
    what was passed to `tf.random.set_seed`, too.
    """
    rows = tf.range(count)
    return tf.map_fn(
        lambda number: tf.random.experimental.stateless_shuffle(rows, seed=[seed, number]),
        first + tf.range(passes),
    )
