"""The graph of a Keras model: a layer's output and its range, and what the model ends in."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import keras
import numpy as np

#: Range of values, lowest and highest; None where there is no bound.
Limits: TypeAlias = tuple[float | None, float | None]

#: Name of an identity layer behind the logits of a sigmoid that was taken off: unlike an attribute,
#: it survives saving, loading, cloning and nesting.
_SIGMOID_MARKER = "logits_of_sigmoid"

#: Range of activations by name.
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


def check_keras_model(name: str, model: object) -> None:
    """Raise a TypeError unless ``model`` is a Keras 3 model: its graph is read."""
    if isinstance(model, keras.Model):
        return
    came = type(model).__name__
    if type(model).__module__.split(".")[0] == "tf_keras":
        came = f"a tf_keras (Keras 2) {came}: build or load it with Keras 3, without tf_keras"
    raise TypeError(f"{name} must be a keras.Model, not {came}")


def layer_output(model: keras.Model, layer: str | int | keras.layers.Layer) -> keras.KerasTensor:
    """Return the output of a layer given by its name, its index or itself.

    Raises
    ------
    TypeError, ValueError
        If the model has no such layer, or the layer is not used exactly once with one output.
    """
    if isinstance(layer, keras.layers.Layer):
        target = layer
        if all(target is not candidate for candidate in model.layers):
            _check_not_nested(model, layer.name, lambda inner: inner is layer)
            raise ValueError(f"layer {layer.name!r} is not one of the model's layers")
    elif isinstance(layer, str):
        matches = [candidate for candidate in model.layers if candidate.name == layer]
        if not matches:
            _check_not_nested(model, layer, lambda inner: inner.name == layer)
            names = [candidate.name for candidate in model.layers]
            shown = ", ".join(names if len(names) <= 12 else [*names[:3], "…", *names[-8:]])
            raise ValueError(f"the model has no layer {layer!r}; it has: {shown}")
        target = matches[0]
    elif isinstance(layer, (int, np.integer)) and not isinstance(layer, bool):
        if not -len(model.layers) <= layer < len(model.layers):
            raise ValueError(f"layer index {layer} is out of range for {len(model.layers)} layers")
        target = model.layers[layer]
    else:
        raise TypeError(f"layer must be a name, an index or a layer, not {type(layer).__name__}")
    nodes = [node for node in nodes_before(model.outputs[0]) if node.operation is target]
    if len(nodes) != 1:
        how = "is not on the way to the classes" if not nodes else "is used several times"
        raise ValueError(f"layer {target.name!r} {how}: choose one that is used once")
    if len(nodes[0].output_tensors) != 1:
        raise ValueError(f"layer {target.name!r} has several outputs; choose one with a single one")
    return nodes[0].output_tensors[0]


def _check_not_nested(model: keras.Model, name: str, is_wanted: Callable) -> None:
    for outer in model.layers:
        if _holds(outer, is_wanted):
            raise ValueError(
                f"layer {name!r} is inside {outer.name!r}, a model that counts as one layer here: "
                f"cut at {outer.name!r}, or build the classifier on that model's own input and "
                "output instead of calling it as a layer"
            )


def _holds(layer: keras.layers.Layer, is_wanted: Callable) -> bool:
    return isinstance(layer, keras.Model) and any(
        is_wanted(inner) or _holds(inner, is_wanted) for inner in layer.layers
    )


def output_limits(output: keras.KerasTensor) -> Limits:
    """Return the range that a tensor's values can have, as its activation or one before it allows.

    (None, None) where the graph does not tell: a convolution without activation, a sum.
    """
    node = node_of(output)
    layer = node.operation
    if isinstance(layer, keras.layers.ReLU):
        return (None if layer.negative_slope else 0.0, layer.max_value)
    if isinstance(layer, keras.layers.Softmax):
        return (0.0, 1.0)
    if isinstance(layer, _KEEPS_RANGE):
        return output_limits(node.input_tensors[0])
    activation = getattr(layer, "activation", None)
    if activation is None:  # operations such as keras.ops.relu in the graph
        return _RANGES.get(type(layer).__name__.lower(), (None, None))
    if isinstance(layer, keras.layers.Activation) and activation is keras.activations.linear:
        return output_limits(node.input_tensors[0])
    return _RANGES.get(getattr(activation, "__name__", ""), (None, None))


def node_of(tensor):
    """Return the graph's node that made a Keras tensor."""
    history = tensor._keras_history
    return history.operation._inbound_nodes[history.node_index]


def nodes_before(target, until=None) -> list:
    """Return the nodes of the graph that lead to a tensor, not beyond the tensor ``until``."""
    pending, nodes, seen = [target], [], set()
    while pending:
        tensor = pending.pop()
        if tensor is until or id(node_of(tensor)) in seen:
            continue
        node = node_of(tensor)
        seen.add(id(node))
        nodes.append(node)
        pending.extend(node.input_tensors)
    return nodes


def check_is_cut(cut, target) -> None:
    """Raise a ValueError if a path from the input to the classes avoids the layer's output."""
    if any(not node.input_tensors for node in nodes_before(target, until=cut)):
        raise ValueError(
            "the classes do not depend on this layer alone: a branch goes around it. "
            "Choose a layer that every path passes, such as the sum after a residual block"
        )


def final_activation(model: keras.Model) -> str:
    """Return 'softmax', 'sigmoid' or 'linear': what the model's graph ends in."""
    layer = _last_layer(model)
    if isinstance(layer, keras.Model):
        return final_activation(layer)
    if _passes_on(layer):
        before = node_of(model.outputs[0]).input_tensors[0]
        if _same_values(before.shape, model.outputs[0].shape):
            return final_activation(keras.Model(model.inputs[0], before))
    # An activation may be a function of Keras or TensorFlow, a layer, or the operation itself.
    activation = getattr(layer, "activation", None) or layer
    name = getattr(activation, "__name__", type(activation).__name__).lower()
    return next((kind for kind in ("softmax", "sigmoid") if name.startswith(kind)), "linear")


def with_sigmoid_marker(model: keras.Model) -> keras.Model:
    """Return a model of sigmoid logits that keeps, in its graph, that a sigmoid was taken off."""
    marker = keras.layers.Activation("linear", name=_SIGMOID_MARKER)
    return keras.Model(model.inputs[0], marker(model.outputs[0]), name=model.name)


def ends_in_sigmoid_logits(model: keras.Model) -> bool:
    """Return whether a model carries the marker of `with_sigmoid_marker`."""
    layer = _last_layer(model)
    if isinstance(layer, keras.Model):
        return ends_in_sigmoid_logits(layer)
    if getattr(layer, "name", None) == _SIGMOID_MARKER:
        return True
    if layer is None or not _passes_on(layer):
        return False
    return ends_in_sigmoid_logits(
        keras.Model(model.inputs[0], node_of(model.outputs[0]).input_tensors[0])
    )


#: Operations that are often put behind a softmax, by the names of their classes: those that
#: ``keras.ops.cast`` and its like put into a graph are not public.
_PASSING_ON = {"Identity", "Dropout", "Cast", "Flatten", "Reshape", "Squeeze", "ExpandDims"}


def _passes_on(layer) -> bool:
    """Return whether a layer returns the values it gets, cast or reshaped perhaps."""
    activation = getattr(layer, "activation", None)
    linear = isinstance(layer, keras.layers.Activation) and activation is keras.activations.linear
    return linear or type(layer).__name__ in _PASSING_ON


def _same_values(shape, other) -> bool:
    """Return whether two shapes differ by axes of length 1 at most."""
    return [n for n in shape if n != 1] == [n for n in other if n != 1]


def _last_layer(model: keras.Model):
    outputs = getattr(model, "outputs", None)
    if outputs:
        return node_of(outputs[0]).operation
    return model.layers[-1] if model.layers else None


def without_final_activation(model: keras.Model) -> keras.Model:
    """Return the same model ending in logits; the original stays as it is."""
    if final_activation(model) == "linear":
        return model
    node = node_of(model.outputs[0])
    last, before = node.operation, node.input_tensors[0]
    if _passes_on(last):
        stripped = without_final_activation(keras.Model(model.inputs[0], before, name=model.name))
        if tuple(before.shape) == tuple(model.outputs[0].shape):
            return stripped
        return keras.Model(model.inputs[0], last(stripped.outputs[0]), name=model.name)
    if isinstance(last, keras.Model):
        logits = without_final_activation(last)(before)
        return keras.Model(model.inputs[0], logits, name=model.name)
    if getattr(last, "activation", None) is None or isinstance(last, keras.layers.Activation):
        return keras.Model(model.inputs[0], before, name=model.name)
    config = last.get_config()
    config["activation"] = "linear"
    config["name"] = f"{last.name}_logits"
    twin = type(last).from_config(config)
    logits = twin(before)
    twin.set_weights(last.get_weights())
    return keras.Model(model.inputs[0], logits, name=model.name)
