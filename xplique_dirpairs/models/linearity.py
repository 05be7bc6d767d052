"""Find by evaluation whether a head averages its features over positions, and whether it is linear.

Both are properties of the function that a head computes, and many graphs compute the same function:
a pooling that keeps its axes before a 1×1 convolution, a normalisation before the pooling. The
function is evaluated at random features of both signs, non-negative ones and ones with empty
positions, at several scales, since a head can be flat, or linear, in one region and not in the
next. A head that fails the first comparison, as most heads that do not begin with a pooling do,
costs two small evaluations. No choice of random features covers all regions: `probes_around` are
features around given ones, on which `Head.checked_on` compares again.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import keras
import numpy as np
import tensorflow as tf

from xplique_dirpairs.core.batching import chunk_size, slices
from xplique_dirpairs.core.types import Array
from xplique_dirpairs.models.graph import inner_layers

#: A function from pooled features (N, D) to outputs (N, K), through which gradients flow.
PooledFunction: TypeAlias = Callable[[tf.Tensor], tf.Tensor]

#: Typical sizes of the random features, the most telling one first.
_SCALES = (1.0, 100.0, 0.01, 10.0, 0.1, 1000.0)
#: Number of random feature maps at each scale. The least number is compared first.
_IMAGES = (2, 12)
#: Lengths of axes that the head leaves open.
_OPEN_AXES = (5, 8)
#: Share of the outputs' average spread that each of them has at least.
_LEAST_SPREAD = 0.01
#: Number of given features that `probes_around` takes.
_GIVEN = 4
#: Length of the unit vectors that weights are read with: a power of two, which weights dominate.
_STEP = 64.0


class Precision(NamedTuple):
    """What rounding explains in outputs, and the largest scale of features without overflow."""

    tolerance: float  # relative to how much an output varies
    rounding: float  # relative to its size, and to that of the terms that it is the sum of
    largest_scale: float


#: By the coarsest precision that a layer computes in.
_PRECISIONS = {
    "bfloat16": Precision(6e-2, 3 * 2.0**-8, 100.0),
    "float16": Precision(1e-2, 3 * 2.0**-10, 100.0),
}
_FLOAT32 = Precision(1e-4, 1e-6, 1000.0)


class AffineMap(NamedTuple):
    """The function x ↦ rows x + offset.

    Attributes
    ----------
    rows : ndarray of shape (K, D)
    offset : ndarray of shape (K,)
    """

    rows: Array
    offset: Array

    def __call__(self, x: Array) -> Array:
        """Compute rows x + offset of vectors (N, D), (N, K) float64."""
        return np.asarray(np.asarray(x, np.float64) @ self.rows.T + self.offset)

    def terms(self, x: Array) -> Array:
        """Return the typical size of the terms that the outputs (N, K) are the sums of."""
        squares = np.square(np.asarray(x, np.float64)) @ np.square(self.rows.T, dtype=np.float64)
        return np.asarray(np.sqrt(squares) + np.abs(self.offset))


def pooled_function(model: Any) -> PooledFunction | None:
    """Return a head as a function of its features' means over positions, if it is one.

    Parameters
    ----------
    model : keras.Model or callable
        Activations (N, *spatial, D) to outputs (N, K).

    Returns
    -------
    function : callable or None
        Pooled features (N, D) to the outputs (N, K) of ``model``. None if these depend on more than
        the means, if ``model`` does not tell the shape of its input, or if it can neither be
        evaluated on maps of a single position nor is affine.
    """
    shape = input_shape(model)
    if shape is None or len(shape) < 2:
        return None
    on_maps = _Repeated(model, tuple(_OPEN_AXES[0] if n is None else n for n in shape[:-1]))
    if not _averages(model, shape, on_maps, _IMAGES[0], _SCALES[:1]):
        return None
    at_one_position = _at_one_position(model, shape)
    if at_one_position and _averages(model, shape, at_one_position, _IMAGES[1], _SCALES):
        return at_one_position
    if not _averages(model, shape, on_maps, _IMAGES[1], _SCALES):
        return None
    affine = affine_map(on_maps, shape[-1], model)  # maps would take the time that pooling saves
    return None if affine is None else _affine_function(affine)


def affine_map(function: PooledFunction, channels: int, model: Any) -> AffineMap | None:
    """Return the weights of a function of vectors, or None if it is not affine.

    Parameters
    ----------
    function : callable
        Features (N, D) to outputs (N, K).
    channels : int
        D.
    model : keras.Model or callable
        The head that ``function`` belongs to, whose precision bounds what rounding explains.

    Returns
    -------
    affine : AffineMap or None
    """
    units = _STEP * np.eye(channels, dtype=np.float32)
    ends = [evaluated(function, sign * units).astype(np.float64) for sign in (1.0, -1.0)]
    rows = (ends[0] - ends[1]).T / (2.0 * _STEP)
    offset = evaluated(function, np.zeros((1, channels), np.float32))[0].astype(np.float64)
    affine, precision = AffineMap(rows, offset), precision_of(model)
    rng = np.random.default_rng(0)
    for scale in _scales(model):
        x = _random_maps(rng, _IMAGES[1], (channels,), scale)
        if not equal_up_to_rounding(evaluated(function, x), affine(x), precision, affine.terms(x)):
            return None
    return AffineMap(rows.astype(np.float32), offset.astype(np.float32))


def probes_around(x: Array, step: float | None = None) -> Array:
    """Return a few of given features, and the same moved in random directions.

    They are moved by the same vector at every position, both ways, as far as they typically lie
    from zero and by ``step``, and by a vector of each position's own.

    Parameters
    ----------
    x : ndarray of shape (N, *spatial, D)
        Features.
    step : float, optional
        Length of a further move.

    Returns
    -------
    probes : ndarray of shape (n, *spatial, D), float32
    """
    places = np.linspace(0, len(x) - 1, min(_GIVEN, len(x))).round().astype(int)
    given = np.asarray(x[places], np.float32)
    rng = np.random.default_rng(0)
    typical = float(np.sqrt(np.square(given, dtype=np.float64).sum(axis=-1).mean()))
    of_all = (len(given), *[1] * (given.ndim - 2), given.shape[-1])
    probes: list[Array] = [given, given + typical * _unit_vectors(rng, given.shape)]
    for length in (typical, abs(step or typical / 4.0)):
        move = length * _unit_vectors(rng, of_all)
        probes += [given + move, given - move]
    return np.concatenate(probes).astype(np.float32)


def _unit_vectors(rng: np.random.Generator, shape: tuple[int, ...]) -> Array:
    """Return random vectors of unit length, which lie along the last axis."""
    vectors = rng.normal(size=shape)
    return np.asarray(vectors / np.linalg.norm(vectors, axis=-1, keepdims=True))


class _Repeated:
    """A head as a function of pooled features, which are repeated at every position of a map."""

    def __init__(self, model: Any, positions: tuple[int, ...]) -> None:
        self.model, self.positions = model, positions

    def __call__(self, pooled: tf.Tensor) -> tf.Tensor:
        shape = (len(pooled), *[1] * len(self.positions), pooled.shape[-1])
        maps = tf.tile(tf.reshape(pooled, shape), (1, *self.positions, 1))
        return _call(self.model, maps)


def _at_one_position(model: Any, shape: tuple[int | None, ...]) -> PooledFunction | None:
    """Return a model, with its own layers, on maps of one position; None if it takes no such."""
    if not isinstance(model, keras.Model) or not getattr(model, "inputs", None):
        return None
    source = keras.Input((*[1] * (len(shape) - 1), shape[-1]), dtype=model.inputs[0].dtype)
    try:
        one = keras.models.clone_model(
            model, input_tensors=source, clone_function=lambda layer: layer
        )
    except (TypeError, ValueError, RuntimeError, tf.errors.OpError):
        return None  # for example, a pooling window that is larger than one position

    def function(pooled: tf.Tensor) -> tf.Tensor:
        return _call(one, tf.reshape(pooled, (-1, *source.shape[1:])))

    return function


def _affine_function(affine: AffineMap) -> PooledFunction:
    """Return an affine map as a function of tensors."""

    def function(pooled: tf.Tensor) -> tf.Tensor:
        rows, offset = (tf.cast(tf.constant(part), pooled.dtype) for part in affine)
        return tf.matmul(pooled, rows, transpose_b=True) + offset

    return function


def _averages(
    model: Any,
    shape: tuple[int | None, ...],
    function: PooledFunction,
    images: int,
    scales: tuple[float, ...],
) -> bool:
    """Return whether a function of the means gives the outputs of a model for random maps."""
    rng, precision = np.random.default_rng(0), precision_of(model)
    for scale in _scales(model, scales):
        for length in _OPEN_AXES if None in shape else _OPEN_AXES[:1]:
            x = _random_maps(rng, images, tuple(length if n is None else n for n in shape), scale)
            means = x.mean(axis=tuple(range(1, x.ndim - 1)), dtype=np.float64)
            of_means = evaluated(function, means.astype(np.float32))
            if not equal_up_to_rounding(evaluated(model, x), of_means, precision):
                return False
    return True


def _random_maps(
    rng: np.random.Generator, images: int, shape: tuple[int, ...], scale: float
) -> Array:
    """Return random maps (images, *shape) whose means over positions are as large as the rest.

    A quarter of them is above 0 everywhere. Another quarter is as after a ReLU, and half of its
    positions are empty.
    """
    means = rng.normal(size=(images, *[1] * (len(shape) - 1), shape[-1]))
    maps = means + rng.normal(size=(images, *shape))
    quarter = images // 4
    above, rectified = maps[:quarter], maps[quarter : 2 * quarter]
    above[:] = np.abs(above)
    rectified[:] = np.maximum(rectified, 0.0)
    if len(shape) > 1:
        rectified *= rng.random((*rectified.shape[:-1], 1)) < 0.5
    return (scale * maps).astype(np.float32)


def random_features(model: Any, shape: tuple[int | None, ...]) -> list[Array]:
    """Return random features (n, *spatial, D) for a head, at each scale that it takes.

    Parameters
    ----------
    model : keras.Model or callable
        The head.
    shape : tuple of (int or None)
        Shape (*spatial, D) of the features; a length that is None is chosen.

    Returns
    -------
    features : list of ndarray
    """
    rng = np.random.default_rng(0)
    lengths = tuple(_OPEN_AXES[0] if n is None else n for n in shape)
    return [_random_maps(rng, _IMAGES[1], lengths, scale) for scale in _scales(model)]


def evaluated(function: PooledFunction, x: Array) -> Array:
    """Return the outputs (N, K) of a model or function for features (N, ..., D), in chunks."""
    parts = [
        np.asarray(tf.cast(_call(function, tf.constant(x[part])), tf.float32))
        for part in slices(len(x), chunk_size(x[0].size, 8))
    ]
    return np.concatenate(parts)


def equal_up_to_rounding(
    outputs: Array, others: Array, precision: Precision, terms: Array | float = 0.0
) -> bool:
    """Return whether outputs (N, K) are finite and equal to others up to rounding.

    Differences count relative to how much each output varies, so that a large bias hides nothing,
    and relative to how much outputs vary on average, since one may happen to vary little.

    Parameters
    ----------
    outputs, others : ndarray of shape (N, K)
        Outputs to compare.
    precision : Precision
        That of the head that computes them, from `precision_of`.
    terms : ndarray of shape (N, K) or float
        Size of the terms that outputs are sums of, which are rounded too.

    Returns
    -------
    equal : bool
    """
    if not (np.isfinite(outputs).all() and np.isfinite(others).all()):
        return False
    spread = np.abs(outputs - outputs.mean(axis=0)).max(axis=0)
    varies = spread + _LEAST_SPREAD * spread.mean()
    rounded = np.abs(outputs).max(axis=0) + terms
    allowed = precision.tolerance * varies + precision.rounding * rounded
    return bool((np.abs(outputs - others) <= allowed).all())


def _call(model: Any, x: tf.Tensor) -> tf.Tensor:
    """Return the outputs of a model or function in inference."""
    return model(x, training=False) if isinstance(model, keras.layers.Layer) else model(x)


def input_shape(model: Any) -> tuple[Any, ...] | None:
    """Return the shape (*spatial, D) of a model's single input; None if it is unknown."""
    shape = getattr(model, "input_shape", None)
    if not isinstance(shape, tuple) or shape[-1] is None:
        return None
    return shape[1:]


def precision_of(model: Any) -> Precision:
    """Return the coarsest precision in a model."""
    layers = [model, *inner_layers(model)]
    used = {getattr(layer, "compute_dtype", "float32") for layer in layers}
    return next((values for name, values in _PRECISIONS.items() if name in used), _FLOAT32)


def _scales(model: Any, scales: tuple[float, ...] = _SCALES) -> list[float]:
    """Return the scales at which the precision of a model does not overflow."""
    return [scale for scale in scales if scale <= precision_of(model).largest_scale]
