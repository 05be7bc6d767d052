"""Noise to compare models on, and whether what they compute from it is equal."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import keras
import numpy as np

from xplique_dirpairs.core.types import Array

#: Ranges of the noise: those of preprocessed images, and that of pixels.
_RANGES = ((-1.0, 1.0), (0.0, 1.0), (0.0, 255.0))
#: Lengths of axes that a model leaves open, in the order in which they are tried.
OPEN_AXES = (96, 224)
#: What rounding explains, relative to the largest value, by the coarsest precision of a model.
_TOLERANCES = {"bfloat16": 3e-2, "float16": 5e-3}
_FLOAT32 = 1e-5


def tolerance_of(layers: Iterable[Any]) -> float:
    """Return the relative difference that the coarsest precision of some layers explains."""
    used = {getattr(layer, "compute_dtype", None) for layer in layers}
    return next((value for name, value in _TOLERANCES.items() if name in used), _FLOAT32)


def noise_for(tensor: keras.KerasTensor, length: int = OPEN_AXES[0]) -> Iterator[Any]:
    """Yield batches of seeded noise for an input, one for each range of values.

    Parameters
    ----------
    tensor : keras.KerasTensor
        The input, (N, ...).
    length : int
        Length of axes that the input leaves open, other than the first.

    Yields
    ------
    batch : tensor
        As many images as the input takes at a time, or 2 if it takes any number.
    """
    rng = np.random.default_rng(0)
    shape = (tensor.shape[0] or 2, *(length if n is None else n for n in tensor.shape[1:]))
    for low, high in _RANGES:
        yield keras.ops.cast(rng.uniform(low, high, shape).astype(np.float32), tensor.dtype)


def are_equal(ours: Any, theirs: Any, tolerance: float) -> bool:
    """Return whether two tensors are equal up to a tolerance relative to the largest value.

    Values that are not finite must be the same.
    """
    first, second = _as_array(ours), _as_array(theirs)
    if first.shape != second.shape:
        return False
    if first.dtype.kind != "f":
        return bool(np.array_equal(first, second))
    largest = float(np.abs(first[np.isfinite(first)]).max(initial=0.0))
    return bool(np.allclose(first, second, rtol=0.0, atol=tolerance * largest, equal_nan=True))


def _as_array(tensor: Any) -> Array:
    """Return a tensor as an array, numbers of less than 64 bits in float64."""
    array: Array = np.asarray(keras.ops.convert_to_numpy(tensor))
    is_number = array.dtype.kind == "f" or array.dtype.name == "bfloat16"
    return array.astype(np.float64) if is_number else array
