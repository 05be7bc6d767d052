"""Padding of a network: which layers pad, and a copy whose padding wraps round the edges.

Zeros beyond the edges are how a convolutional network can know where an edge is. With the same
weights and values that wrap round, a network does not know: what depends on the place no longer
does, if padding was the cause.
"""

from __future__ import annotations

from typing import Any

import keras

from xplique_dirpairs.models.graph import inner_layers

_CONVOLUTIONS = (keras.layers.Conv2D, keras.layers.DepthwiseConv2D, keras.layers.SeparableConv2D)
_POOLINGS = (keras.layers.MaxPooling2D, keras.layers.AveragePooling2D)
_TRANSPOSED = keras.layers.Conv2DTranspose


def padding_layers(model: keras.Model) -> tuple[str, ...]:
    """Return the names of the layers that pad maps at their edges, in the order of the network.

    These are `ZeroPadding2D`, and convolutions and poolings with ``padding="same"`` whose window is
    larger than one cell. Layers of other classes are not looked into.
    """
    return tuple(layer.name for layer in inner_layers(model) if _pads(layer))


def with_wrapped_padding(model: keras.Model) -> keras.Model | None:
    """Return a copy of a network whose padding wraps round the edges, with the same weights.

    Parameters
    ----------
    model : keras.Model
        A functional or sequential network.

    Returns
    -------
    wrapped : keras.Model or None
        None if there is nothing to wrap, or if a copy cannot be made: the model is a subclassed
        one, or it has transposed convolutions.
    """
    if not padding_layers(model) or not getattr(model, "outputs", None):
        return None
    if any(isinstance(layer, _TRANSPOSED) for layer in inner_layers(model)):
        return None
    try:
        wrapped = keras.models.clone_model(model, clone_function=_wrapped_layer, recursive=True)
        wrapped.set_weights(model.get_weights())
    except (TypeError, ValueError, NotImplementedError):  # a layer that cannot be made again
        return None
    return wrapped


def _pads(layer: Any) -> bool:
    """Return whether a layer pads its maps."""
    if isinstance(layer, keras.layers.ZeroPadding2D):
        return any(amount for side in layer.padding for amount in side)
    if not isinstance(layer, (*_CONVOLUTIONS, *_POOLINGS)) or layer.padding != "same":
        return False
    return any(size > 1 for size in _window(layer))


def _window(layer: Any) -> tuple[int, int]:
    """Return the height and width of a layer's window, dilation included."""
    if isinstance(layer, _POOLINGS):
        height, width = layer.pool_size
    else:
        height, width = (
            (size - 1) * rate + 1
            for size, rate in zip(layer.kernel_size, layer.dilation_rate, strict=True)
        )
    return height, width


def _wrapped_layer(layer: Any) -> keras.layers.Layer:
    """Return a copy of a layer, which wraps if the layer pads."""
    config = layer.get_config()
    if not _pads(layer):
        return layer.__class__.from_config(config)
    if isinstance(layer, keras.layers.ZeroPadding2D):
        return _Wrapped(None, layer.padding, name=layer.name)
    inner = layer.__class__.from_config(config | {"padding": "valid"})
    return _Wrapped(inner, None, name=f"{layer.name}_wrapped")


class _Wrapped(keras.layers.Layer):
    """A layer without padding, on maps that are continued round their edges before it.

    ``amounts`` are rows above and below, columns left and right; None: as many as
    ``padding="same"`` would add for the layer ``inner``.
    """

    def __init__(self, inner: Any, amounts: Any, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.inner, self.amounts = inner, amounts

    def build(self, shape: Any) -> None:
        """Build the inner layer for the continued maps."""
        if self.inner is not None:
            sides = (shape[axis] + sum(self._amounts(axis, shape[axis])) for axis in (1, 2))
            self.inner.build((shape[0], *sides, shape[3]))

    def call(self, x: Any) -> Any:
        """Continue the maps round their edges and apply the layer."""
        for axis in (1, 2):
            length = x.shape[axis]
            before, after = self._amounts(axis, length)
            places = [place % length for place in range(-before, length + after)]
            x = keras.ops.take(x, places, axis=axis)
        return x if self.inner is None else self.inner(x)

    def _amounts(self, axis: int, length: int) -> tuple[int, int]:
        """Return the number of rows, or columns, that are added before and after."""
        if self.inner is None:
            before, after = self.amounts[axis - 1]
        else:
            stride = self.inner.strides[axis - 1]
            missing = (-(-length // stride) - 1) * stride + _window(self.inner)[axis - 1] - length
            before = max(missing, 0) // 2
            after = max(missing, 0) - before
        return before, after
