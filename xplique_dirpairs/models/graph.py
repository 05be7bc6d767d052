"""Read the graph of a Keras model: layer outputs and their ranges, and the final activation."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, TypeAlias

import keras
import numpy as np

#: Lowest and highest value of a range; None if there is no bound.
Limits: TypeAlias = tuple[float | None, float | None]

#: Name of an identity layer that is added to logits from which a sigmoid was removed. Unlike an
#: attribute, it is kept when the model is saved, loaded, cloned or nested.
_SIGMOID_MARKER = "logits_of_sigmoid"

#: Ranges of activations, by the name of the activation.
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
    *(
        getattr(keras.layers, f"{kind}Pooling{axes}D")
        for kind in ("Max", "Average", "GlobalMax", "GlobalAverage")
        for axes in (1, 2)
    ),
    keras.layers.Identity,
    keras.layers.Dropout,
    keras.layers.SpatialDropout1D,
    keras.layers.SpatialDropout2D,
    keras.layers.Flatten,
    keras.layers.Reshape,
    keras.layers.Permute,
    keras.layers.UpSampling2D,
)
#: Layers that apply their activation last.
_WITH_ACTIVATION = (
    keras.layers.Activation,
    keras.layers.Dense,
    keras.layers.EinsumDense,
    keras.layers.Conv1D,
    keras.layers.Conv2D,
    keras.layers.SeparableConv1D,
    keras.layers.SeparableConv2D,
    keras.layers.DepthwiseConv1D,
    keras.layers.DepthwiseConv2D,
)
#: Activations of Keras, beside softmax and sigmoid, whose outputs may be meant as probabilities.
_OTHER_PROBABILITIES = ("hard_sigmoid", "sparse_sigmoid", "sparsemax")
#: Class names of operations that often follow a softmax. Names are needed because the classes that
#: ``keras.ops.cast`` and similar functions add to a graph are not public.
_PASSING_ON = {"Identity", "Dropout", "Cast", "Flatten", "Reshape", "Squeeze", "ExpandDims"}


def check_keras_model(name: str, model: object) -> None:
    """Raise a TypeError unless ``model`` is a Keras 3 model, whose graph can be read."""
    if isinstance(model, keras.Model):
        return
    received = type(model).__name__
    if type(model).__module__.split(".")[0] == "tf_keras":
        received = f"a tf_keras (Keras 2) {received}: build or load it with Keras 3"
    raise TypeError(f"{name} must be a keras.Model, not {received}")


def check_single(model: keras.Model) -> None:
    """Raise a ValueError unless a model has a graph with one input and one output."""
    inputs, outputs = getattr(model, "inputs", None), getattr(model, "outputs", None)
    if not inputs or not outputs:
        raise ValueError(
            "model must be a functional Keras model or a built sequential one (call it on a batch "
            "to build it), not a subclassed one, which has no graph to split"
        )
    if len(inputs) != 1 or len(outputs) != 1:
        advice = ": choose one with keras.Model(model.inputs, model.outputs[0])"
        raise ValueError(
            f"model must have one input and one output, not {len(inputs)} and {len(outputs)}"
            f"{advice if len(inputs) == 1 else ''}"
        )


def inputs_and_outputs(model: keras.Model) -> tuple[Any, Any]:
    """Return the inputs and the outputs of a model as it takes and returns them.

    Each is a tensor of the graph, or a list, tuple or dict of them.
    """
    if isinstance(model, keras.Sequential):  # which has no `input` before it is called
        return model.inputs[0], model.outputs[0]
    return model.input, model.output


def plain_model(model: keras.Model) -> keras.Model:
    """Return a model that takes and returns one tensor, where lists or dicts hold it in the given.

    A ValueError is raised for a model with several inputs or outputs.
    """
    if not getattr(model, "inputs", None) or not getattr(model, "outputs", None):
        return model  # a subclassed model
    if all(isinstance(each, keras.KerasTensor) for each in inputs_and_outputs(model)):
        return model
    check_single(model)
    return keras.Model(model.inputs[0], model.outputs[0], name=model.name)


# ------------------------------------------------------------ a layer


def layer_output(model: keras.Model, layer: str | int | keras.layers.Layer) -> keras.KerasTensor:
    """Return the output of a layer of a model.

    Parameters
    ----------
    model : keras.Model
        The model.
    layer : str, int or keras.layers.Layer
        The layer's name, its index in ``model.layers``, or the layer itself.

    Returns
    -------
    output : keras.KerasTensor
        The layer's output in the model's graph.

    Raises
    ------
    TypeError, ValueError
        If the model has no such layer, or the layer is not used exactly once with one output.
    """
    layers = list(model.layers)
    if isinstance(layer, (int, np.integer)) and not isinstance(layer, bool):
        if not -len(layers) <= layer < len(layers):
            raise ValueError(f"layer index {layer} is out of range for {len(layers)} layers")
        target = layers[layer]
    elif isinstance(layer, (str, keras.layers.Layer)):
        matches = [known for known in layers if layer in (known, known.name)]
        if not matches:
            raise ValueError(_explain_missing_layer(layers, layer))
        target = matches[0]
    else:
        raise TypeError(f"layer must be a name, an index or a layer, not {type(layer).__name__}")
    nodes = [node for node in nodes_before(model.outputs[0]) if node.operation is target]
    if len(nodes) != 1:
        how = "does not lead to the classes" if not nodes else "is used several times"
        raise ValueError(f"layer {target.name!r} {how}: choose a layer that is used once")
    if len(nodes[0].output_tensors) != 1:
        raise ValueError(f"layer {target.name!r} has several outputs: choose one with one output")
    return nodes[0].output_tensors[0]


def _explain_missing_layer(layers: list[Any], wanted: str | keras.layers.Layer) -> str:
    """Return an error message for a layer that is not one of the layers of a model."""
    name = getattr(wanted, "name", wanted)
    for outer in layers:
        if any(wanted in (inner, inner.name) for inner in inner_layers(outer)):
            return (
                f"layer {name!r} is inside {outer.name!r}, a model that is used as one layer: "
                f"split at {outer.name!r}, or build the classifier from the input and output of "
                "that model instead of calling it as a layer"
            )
    names = [layer.name for layer in layers]
    if name in names and not isinstance(wanted, str):
        return f"the given layer {name!r} belongs to another model: give its name, or model's own"
    shown = ", ".join(names if len(names) <= 12 else [*names[:3], "…", *names[-8:]])
    return f"the model has no layer {name!r}; it has: {shown}"


def inner_layers(layer: keras.layers.Layer) -> Iterator[keras.layers.Layer]:
    """Yield all layers inside a model that is used as a layer, at any depth."""
    for inner in getattr(layer, "layers", ()):
        yield inner
        yield from inner_layers(inner)


def output_limits(output: keras.KerasTensor) -> Limits:
    """Return the range of a tensor's values, from the last activation that determines it.

    The range is (None, None) if the graph does not show it, as for a sum or a convolution without
    activation.
    """
    node = node_of(output)
    layer = node.operation
    if isinstance(layer, keras.layers.ReLU):
        return (None if layer.negative_slope else 0.0, layer.max_value)
    if isinstance(layer, keras.layers.Softmax):
        return (0.0, 1.0)
    if isinstance(layer, _KEEPS_RANGE) or is_linear_activation(layer):
        return output_limits(node.input_tensors[0])
    # Operations such as keras.ops.relu have no activation attribute, but their class is named so.
    activation = getattr(layer, "activation", None) or type(layer)
    return _RANGES.get(getattr(activation, "__name__", "").lower(), (None, None))


def is_linear_activation(layer: Any) -> bool:
    """Return whether a layer is an `Activation` layer with the linear activation."""
    is_activation = isinstance(layer, keras.layers.Activation)
    return is_activation and layer.activation is keras.activations.linear


# ------------------------------------------------------------ nodes


def node_of(tensor: keras.KerasTensor) -> Any:
    """Return the graph node that outputs a Keras tensor."""
    history = tensor._keras_history
    return history.operation._inbound_nodes[history.node_index]


def nodes_before(target: keras.KerasTensor, until: keras.KerasTensor | None = None) -> list[Any]:
    """Return the graph nodes that lead to a tensor, from ``until`` on if it is given."""
    pending, nodes = [target], {}
    while pending:
        tensor = pending.pop()
        node = node_of(tensor)
        if tensor is not until and id(node) not in nodes:
            nodes[id(node)] = node
            pending.extend(node.input_tensors)
    return list(nodes.values())


def check_is_cut(cut: keras.KerasTensor, target: keras.KerasTensor) -> None:
    """Raise a ValueError if a path from the input to the classes avoids the layer's output."""
    if any(not node.input_tensors for node in nodes_before(target, until=cut)):
        raise ValueError(
            "the classes do not depend on this layer alone, because a branch bypasses it: choose a "
            "layer on every path, such as the sum after a residual block"
        )


# ------------------------------------------------------------ what a model ends in


def final_activation(model: keras.Model) -> str:
    """Return the final activation of the model's graph: 'softmax', 'sigmoid' or 'linear'.

    It is 'linear' also if the graph hides the activation, as a ``Lambda``, a subclassed model or a
    wrapper does.
    """
    *_, last = _last_layers(model)
    return _activation_of(last)


def shows_its_end(model: keras.Model) -> bool:
    """Return whether the graph of a model shows what it ends in, rather than hides it."""
    *_, last = _last_layers(model)
    if type(last) not in _WITH_ACTIVATION or not _is_of_keras(last.activation):
        return False
    return getattr(last.activation, "__name__", "") not in _OTHER_PROBABILITIES


def _activation_of(layer: Any) -> str:
    """Return 'softmax' or 'sigmoid' if a layer ends in it and shows this, 'linear' otherwise."""
    # The activation may be a function of Keras or TensorFlow, a layer, or the operation itself.
    activation = getattr(layer, "activation", None) or layer
    name = getattr(activation, "__name__", type(activation).__name__).lower()
    kind = next((kind for kind in ("softmax", "sigmoid") if name.startswith(kind)), "linear")
    if kind == "linear" or not _is_of_keras(activation):
        return "linear"
    is_known = activation is layer or type(layer) in _WITH_ACTIVATION
    return kind if is_known or _ends_in_its_activation(layer, kind) else "linear"


def _is_of_keras(function: Any) -> bool:
    """Return whether a function, layer or operation is one of Keras or TensorFlow."""
    module = getattr(function, "__module__", "") or ""
    return module.split(".")[0] in ("keras", "tensorflow")


def _ends_in_its_activation(layer: Any, kind: str) -> bool:
    """Return whether a custom layer applies its ``activation`` last, by evaluating its twin."""
    try:
        shape = [5 if n is None else n for n in layer.input.shape]
        x = np.random.default_rng(0).normal(size=shape).astype(np.float32)
        outputs = layer(x, training=False)
        finish = getattr(keras.ops, kind)
        finished = finish(_logits_twin(layer)(x, training=False))
        return bool(np.allclose(outputs, finished, rtol=1e-2, atol=1e-4))
    except Exception:  # a custom layer may raise anything: its activation counts as hidden
        return False


def with_sigmoid_marker(model: keras.Model) -> keras.Model:
    """Return a model of sigmoid logits with a marker in its graph that a sigmoid was removed."""
    marker = keras.layers.Activation("linear", name=_SIGMOID_MARKER)
    return keras.Model(model.inputs[0], marker(model.outputs[0]), name=model.name)


def ends_in_sigmoid_logits(model: keras.Model) -> bool:
    """Return whether a model has the marker of `with_sigmoid_marker`."""
    return any(layer.name == _SIGMOID_MARKER for layer in _last_layers(model))


def without_final_activation(model: keras.Model) -> keras.Model:
    """Return a model that outputs logits instead of probabilities; the original is not changed."""
    if final_activation(model) == "linear":
        return model
    source, node = model.inputs[0], node_of(model.outputs[0])
    last, before = node.operation, node.input_tensors[0]
    if _passes_on(node):
        logits = without_final_activation(keras.Model(source, before)).outputs[0]
        if before.shape != model.outputs[0].shape:
            logits = last(logits)
    elif isinstance(last, keras.Model):
        logits = without_final_activation(last)(before)
    elif getattr(last, "activation", None) is None or isinstance(last, keras.layers.Activation):
        logits = before
    else:
        logits = _logits_twin(last)(before)
    return keras.Model(source, logits, name=model.name)


def _logits_twin(layer: Any) -> keras.layers.Layer:
    """Return a layer that shares the weights of another one, and whose activation is linear.

    A copy of the weights would be left behind when those of the model are loaded or trained later.
    """
    name = f"{layer.name}_logits"
    if type(layer) in _WITH_ACTIVATION:
        twin = object.__new__(type(layer))
        bound = {"build", "quantize"}  # Keras wraps these methods for one object
        vars(twin).update({key: value for key, value in vars(layer).items() if key not in bound})
        vars(twin).update(_name=name, _inbound_nodes=[], _outbound_nodes=[])
        twin.activation = keras.activations.linear
        return twin
    changes = {"activation": "linear", "name": name}  # what the constructor makes of them
    twin = type(layer).from_config(layer.get_config() | changes)
    twin(layer.input)  # which makes its weights
    for ours, theirs in zip(twin.variables, layer.variables, strict=True):
        ours._value = theirs._value
    return twin


def _last_layers(model: keras.Model) -> Iterator[Any]:
    """Yield the layers of a model from the last one back to the first that changes its inputs."""
    if getattr(model, "outputs", None):
        node = node_of(model.outputs[0])
        while _passes_on(node):
            yield node.operation
            node = node_of(node.input_tensors[0])
        layer = node.operation
    else:  # a model without a graph: which of its layers is the last one is unknown
        yield model
        return
    if isinstance(layer, keras.Model):
        yield from _last_layers(layer)
    else:
        yield layer


def _passes_on(node: Any) -> bool:
    """Return whether a node returns its input values, except for casts and axes of length 1."""
    layer = node.operation
    if not is_linear_activation(layer) and type(layer).__name__ not in _PASSING_ON:
        return False
    tensors = (node.input_tensors[0], node.output_tensors[0])
    before, after = ([length for length in tensor.shape if length != 1] for tensor in tensors)
    return before == after
