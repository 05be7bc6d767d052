"""The range that a layer's features can have, read off the graph."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np

from xplique_dirpairs.models.graph import node_of

#: (lowest, highest); None: no end.
Limits = tuple[float | None, float | None]

#: Activations by name → their range.
_RANGES: dict[str, Limits] = {
    "relu": (0.0, None),
    "relu6": (0.0, 6.0),
    "softplus": (0.0, None),
    "sigmoid": (0.0, 1.0),
    "hard_sigmoid": (0.0, 1.0),
    "softmax": (0.0, 1.0),
    "tanh": (-1.0, 1.0),
    "hard_tanh": (-1.0, 1.0),
    "softsign": (-1.0, 1.0),
}
#: Layers whose outputs stay in the range of their inputs.
_KEEPS_RANGE = (
    keras.layers.Identity,
    keras.layers.MaxPooling1D,
    keras.layers.MaxPooling2D,
    keras.layers.AveragePooling1D,
    keras.layers.AveragePooling2D,
    keras.layers.GlobalAveragePooling1D,
    keras.layers.GlobalAveragePooling2D,
    keras.layers.GlobalMaxPooling1D,
    keras.layers.GlobalMaxPooling2D,
    keras.layers.Dropout,
    keras.layers.SpatialDropout1D,
    keras.layers.SpatialDropout2D,
    keras.layers.Flatten,
    keras.layers.Reshape,
    keras.layers.Permute,
    keras.layers.UpSampling2D,
)


def layer_limits(output: keras.KerasTensor) -> Limits:
    """Range of a layer's output: what its activation, or the one before it, allows.

    (None, None) where the graph does not tell: a convolution without activation, a sum.
    """
    node = node_of(output)
    layer = node.operation
    if isinstance(layer, keras.layers.ReLU):
        return (None if layer.negative_slope else 0.0, layer.max_value)
    if isinstance(layer, keras.layers.Softmax):
        return (0.0, 1.0)
    if isinstance(layer, _KEEPS_RANGE):
        return layer_limits(node.input_tensors[0])
    activation = getattr(layer, "activation", None)
    if activation is None:  # operations such as keras.ops.relu in the graph
        return _RANGES.get(type(layer).__name__.lower(), (None, None))
    if isinstance(layer, keras.layers.Activation) and activation is keras.activations.linear:
        return layer_limits(node.input_tensors[0])
    return _RANGES.get(getattr(activation, "__name__", ""), (None, None))


def check_limits(limits: Any) -> Limits:
    """Limits given by hand: (lowest, highest), numbers or None, in order.

    Raises
    ------
    ValueError
    """
    try:
        first, last = limits
        low, high = (None if end is None or np.isinf(end) else float(end) for end in (first, last))
    except (TypeError, ValueError) as error:
        raise ValueError(
            "limits must be (lowest, highest), numbers or None where there is no end, "
            f"not {limits!r}"
        ) from error
    if any(end is not None and np.isnan(end) for end in (low, high)):
        raise ValueError(f"limits must not be NaN, but are {limits!r}")
    if low is not None and high is not None and not low < high:
        raise ValueError(f"limits must be in order, lowest first, not {limits!r}")
    return low, high
