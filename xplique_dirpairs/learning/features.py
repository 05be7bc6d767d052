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
from numpy.typing import ArrayLike, NDArray

from xplique_dirpairs.core.linear_algebra import principal_axes
from xplique_dirpairs.core.validation import check_activations
from xplique_dirpairs.data.shards import ActivationShards

#: Positions in a block.
BLOCK = 8192
#: Files of shards that batches are drawn from at a time.
_FILES = 4
#: Streamed positions that are kept in memory, in coordinates, where all of them are no more than
#: so many megabytes: reading, projecting and shuffling them in every pass takes far longer.
KEPT_MEGABYTES = 64.0
#: Streamed feature maps that the network terms see: a random sample of so many megabytes.
_MAPS_MEGABYTES = 256.0
#: Standard deviations below this share of the largest count as no variation at all.
_RELATIVE_FLOOR = 1e-3
#: Axes kept where the spectrum does not show how many carry signal: so many, or 2 I.
AXES = 128
#: Ratio of two neighbouring eigenvalues that counts as the edge of a noise floor.
_DROP = 2.0
#: Ratio of a floor's first and last eigenvalue, at most.
_FLAT = 3.0

#: What is said of activations whose squares are not finite in float32.
TOO_LARGE = (
    "the activations are too large: their squares overflow. Check the images' preprocessing and "
    "the layer, or scale the activations down"
)


@dataclass(frozen=True)
class Moments:
    """Moments of features, in float64.

    Attributes
    ----------
    mean : (D,)
    covariance : (D, D)
    count
        Of how many positions.
    order : (D,)
        Mean of centred features times a random number for each position, which depends on its
        place alone: tells features apart that differ in their order only.
    """

    mean: NDArray
    covariance: NDArray
    count: int
    order: NDArray

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
        mean = sum(x.sum(axis=0, dtype=np.float64) for x in _blocks(features))
        mean = np.asarray(mean) / len(features)
        covariance, order = np.zeros((len(mean),) * 2), np.zeros(len(mean))
        weights = np.random.default_rng(0)
        for x in _blocks(features):
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
    def principal(self) -> tuple[NDArray, NDArray]:
        """Principal axes (D, D), rows, and their variances (D,), largest first."""
        return principal_axes(self.covariance)


@dataclass(frozen=True)
class Coordinates:
    """x̃ = (x − mean) @ forward; ``backward`` (A, D) takes signal vectors back.

    Attributes
    ----------
    mean : (D,)
    forward : (D, A)
    backward : (A, D)
    scale
        Root mean square of the channels' standard deviations, in these coordinates' units of
        length: L^mm is measured against it, so that it does not depend on the features' scale.
    noise
        Standard deviation along a direction of unit length, on average over directions, of what the
        floor of noise adds; 0 where the spectrum shows no floor.
    """

    mean: NDArray
    forward: NDArray
    backward: NDArray
    scale: float = 1.0
    noise: float = 0.0

    @property
    def axes(self) -> int:
        """A."""
        return self.forward.shape[1]

    def features(self, x: NDArray) -> NDArray:
        """x (..., D) → x̃ (..., A), float32."""
        offset = (self.mean @ self.forward).astype(np.float32)
        return x @ self.forward.astype(np.float32) - offset

    def filters_to_raw(self, filters: NDArray) -> NDArray:
        """w̃ (..., A) → w (..., D)."""
        return filters @ self.forward.T

    def filters_from_raw(self, filters: NDArray) -> NDArray:
        """w (..., D) → w̃ (..., A), exact on the data: wᵀ(x − mean) = w̃ᵀx̃."""
        return filters @ self.backward.T

    def signals_to_raw(self, signals: NDArray) -> NDArray:
        """s̃ (..., A) → s (..., D)."""
        return signals @ self.backward

    def signals_from_raw(self, signals: NDArray) -> NDArray:
        """s (..., D) → s̃ (..., A)."""
        return signals @ self.forward


def rank_of_signal(moments: Moments, concepts: int) -> int | None:
    """How many principal axes stand above a floor of noise, or None where there is no floor.

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
    """Standard deviation of a channel's noise: of the axes beyond `rank_of_signal`, or 0."""
    rank = rank_of_signal(moments, concepts)
    if rank is None:
        return 0.0
    return float(np.sqrt(max(moments.principal[1][rank:].mean(), 0.0)))


def signal_axes(moments: Moments, concepts: int) -> tuple[NDArray, NDArray]:
    """Directions (A, D) that carry signal and their standard deviations (A,), largest first.

    `rank_of_signal` of them; where there is no floor of noise, max(128, 2 I).
    """
    vectors, values = moments.principal
    values = np.maximum(values, 0.0)
    varies = int((values > _RELATIVE_FLOOR**2 * values[0]).sum())
    kept = rank_of_signal(moments, concepts) or max(AXES, 2 * concepts)
    kept = min(kept, varies)
    return vectors[:kept], np.sqrt(values[:kept])


def whitened(moments: Moments, concepts: int) -> Coordinates:
    """Principal axes, each scaled to unit variance."""
    axes, deviations = signal_axes(moments, concepts)
    noise = floor_of_noise(moments, concepts) * float(np.sqrt(np.mean(deviations**-2.0)))
    return Coordinates(moments.mean, axes.T / deviations, axes * deviations[:, None], noise=noise)


def standardised(moments: Moments, concepts: int = 1) -> Coordinates:
    """Each channel scaled to unit variance [paper]; channels that never vary are left out.

    ``concepts`` has no effect.
    """
    deviations = np.sqrt(moments.covariance.diagonal())
    varies = deviations > 1e-6 * deviations.max()
    forward = np.eye(len(deviations))[:, varies]
    safe = deviations[varies]
    return Coordinates(moments.mean, forward / safe, forward.T * safe[:, None])


def centred(moments: Moments, concepts: int) -> Coordinates:
    """Principal axes in the features' own scale: "raw" features without directions of no variance.

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


class HeldFeatures:
    """Activations in memory, ``(N, *spatial, D)``."""

    #: As of `StreamedFeatures`.
    failure: Exception | None = None

    def __init__(self, activations: NDArray):
        self._activations, self._pixels = (
            activations,
            activations.reshape(-1, activations.shape[-1]),
        )
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
        for start in range(0, len(self), BLOCK):
            yield self._pixels[start : start + BLOCK]

    def sample(self, made: Coordinates, count: int, rng: np.random.Generator) -> NDArray:
        """At most ``count`` random positions in coordinates, (n, A)."""
        return random_subset(self._in(made), count, rng)

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
        self.shards, self.shape = shards, shards.shape
        self.failure: Exception | None = None
        self._last: tuple[Coordinates, NDArray] | None = None

    def __len__(self) -> int:
        """P."""
        return int(np.prod(self.shape[:-1]))

    def without(self, images: NDArray) -> StreamedFeatures:
        """Without some images, by their numbers."""
        kept = np.delete(np.arange(self.shape[0]), images)
        return StreamedFeatures(self.shards.part(kept))

    def first(self, count: int) -> NDArray:
        """Of the first feature maps (n, *spatial, D), at most ``count``: those of one file."""
        return self.shards.read(0)[:count]

    def blocks(self) -> Iterator[NDArray]:
        """Positions (n, D), all of them in order."""
        for activations in self.shards:
            pixels = activations.reshape(-1, self.shape[-1])
            for start in range(0, len(pixels), BLOCK):
                yield pixels[start : start + BLOCK]

    def sample(self, made: Coordinates, count: int, rng: np.random.Generator) -> NDArray:
        """At most ``count`` random positions in coordinates, (n, A)."""
        if self._fits(made):
            return random_subset(self._in(made), count, rng)
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
        parts = self._rows(chosen, iter(self.shards))
        images = np.concatenate([part if pool is None else pool(part) for part in parts])
        return random_rows(images, _maps_in_a_step(size, count), seed)

    def _fits(self, made: Coordinates) -> bool:
        """Whether all positions may be kept in memory, in coordinates."""
        return 4e-6 * len(self) * made.axes <= KEPT_MEGABYTES

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
        files = len(self.shards.counts)
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
        return made.features(self.shards.read(number).reshape(-1, self.shape[-1]))

    @staticmethod
    def _rows(chosen: NDArray, blocks: Iterator[NDArray]) -> Iterator[NDArray]:
        """The chosen rows, sorted numbers over all blocks, block by block."""
        first = 0
        for block in blocks:
            inside = chosen[(chosen >= first) & (chosen < first + len(block))] - first
            if inside.size:
                yield block[inside]
            first += len(block)


def random_subset(features: NDArray, count: int, rng: np.random.Generator) -> NDArray:
    """At most ``count`` random rows."""
    if len(features) <= count:
        return features
    return features[rng.choice(len(features), count, replace=False)]


def _maps_in_a_step(wanted: int, images: int) -> int:
    """Return how many maps a step sees: never more than there are, as many for every replica."""
    replicas = tf.distribute.get_strategy().num_replicas_in_sync
    return min(-(-min(wanted, images) // replicas) * replicas, images)


Features: TypeAlias = HeldFeatures | StreamedFeatures


def as_features(activations: ArrayLike | ActivationShards) -> Features:
    """Return activations, or shards, as features to learn from; the one check of their values.

    Raises
    ------
    ValueError
        If activations are not finite, or of the wrong rank.
    """
    if isinstance(activations, ActivationShards):
        return StreamedFeatures(activations)
    return HeldFeatures(check_activations(activations))


def _blocks(features: Any) -> Iterator[NDArray]:
    """Yield positions (n, D), in order, of features or of an array (P, D)."""
    if hasattr(features, "blocks"):
        yield from features.blocks()
        return
    for start in range(0, len(features), BLOCK):
        yield features[start : start + BLOCK]


# ------------------------------------------------------------------ batches


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
    """Return batches ``{"pixels": …}`` with ``"features"`` for the network terms, if given."""
    if maps is None:
        batches = positions.map(lambda p: {"pixels": p})
    else:
        both = tf.data.Dataset.zip((positions, maps))
        batches = both.map(lambda p, m: {"pixels": p, "features": m})
    # There is nothing to tune, and the thread that tries takes half of the time of a short stage.
    options = tf.data.Options()
    options.autotune.enabled = False
    return batches.prefetch(2).with_options(options)
