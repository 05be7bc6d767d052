"""Copy a model as saving and loading it does, and check that the copy computes the same.

Layers keep more than weights: the statistics of a `Normalization`, a vocabulary, states of random
generators, whatever their class sets in ``build``. Saving and loading restores what a layer knows
how to save, so a copy made in this way is what a file of it gives. What a layer does not save is
found by comparing the copy with the original, layer by layer, on noise and on given images.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator
from types import FunctionType
from typing import Any

import keras
import numpy as np

from xplique_dirpairs.core.pickling import ComputesAgain
from xplique_dirpairs.core.types import Array
from xplique_dirpairs.models.graph import inputs_and_outputs, node_of, nodes_before
from xplique_dirpairs.models.noise import OPEN_AXES, are_equal, noise_for, tolerance_of

#: Number of the given images that a copy is compared on.
_IMAGES = 4
#: Names of layers that Keras does not load in safe mode, beside layers that hold a lambda.
_UNSAFE = {"Lambda", "TFSMLayer", "JaxLayer", "TorchModuleWrapper"}
#: Attributes of layers with functions that configurations name.
_FUNCTIONS = ("activation", "recurrent_activation", "function")
#: Packages whose objects Keras finds by itself.
_KNOWN = {"keras", "tensorflow", "numpy", "builtins", "jax", "torch"}


def copied_model(model: keras.Model, images: Array | None = None) -> keras.Model:
    """Return a copy of a model that shares nothing with it, as saving and loading it gives.

    Parameters
    ----------
    model : keras.Model
        A model with a graph, one input and one output.
    images : ndarray of shape (N, ...), optional
        Images on which the copy is compared with the original, beside noise.

    Returns
    -------
    copied : keras.Model
        The copy, not compiled. Inputs and outputs have the structure (tensor, list, dict) that
        they have in a file; tuples become lists.

    Raises
    ------
    ValueError
        If a layer cannot be saved and loaded, or the copy does not compute what the original does.

    Warns
    -----
    UserWarning
        If files of the copy are not loaded in Keras's safe mode, or the model is random, so that
        the copy cannot be compared.
    """
    # Without the optimizer and losses of the model, which need not be copied.
    functional = keras.Model(*inputs_and_outputs(model), name=model.name)
    unsafe = [described(layer) for layer in all_layers(functional) if is_unsafe(layer)]
    try:
        copied = reloaded_model(functional)
    except Exception as error:  # Keras and custom layers raise many kinds of errors
        cause = f"{type(error).__name__}: {' '.join(str(error).split())[:120]}"
        own = ", ".join(unsafe) or ", ".join(map(described, own_layers(functional)))
        raise ValueError(
            f"the model cannot be rebuilt: {own or 'one of its layers'} cannot be saved and "
            "loaded. Custom layers need get_config and from_config; write a Lambda as such a "
            f"layer, or with operations of keras.ops ({cause})"
        ) from error
    if unsafe:
        warnings.warn(
            f"{', '.join(unsafe)}: files of this model load with keras.models.load_model(path, "
            "safe_mode=False) only. Write what these layers do as a layer class with get_config, "
            "or with operations of keras.ops, if others are to load it",
            UserWarning,
            stacklevel=3,
        )
    _check_same(functional, copied, images)
    return copied


def reloaded_model(model: keras.Model) -> keras.Model:
    """Return a model as saving and loading it gives, with the states of its random generators."""
    with warnings.catch_warnings(), keras.saving.custom_object_scope(own_objects(model)):
        warnings.simplefilter("ignore")  # `copied_model` says it in other words
        copied = copy.deepcopy(model)
    for ours, theirs in zip(_generators(model), _generators(copied), strict=True):
        theirs.assign(ours)
    return copied


class HoldsModels(ComputesAgain):
    """Mixin for objects that hold Keras models, which pickle and deep-copy as saving does.

    A model for which this cannot work causes a TypeError that says what to do.
    """

    def __getstate__(self) -> dict[str, Any]:
        state = super().__getstate__()
        for value in state.values():
            if isinstance(value, keras.Model):
                check_picklable(value)
        return state


def check_picklable(model: keras.Model, compare: bool = False) -> None:
    """Raise a TypeError if a model cannot be pickled and restored.

    If ``compare``, and it has layers of other classes than Keras's, it is copied and compared.
    """
    advice = (
        "Or keep the concepts without the network: extractor.pairs.save(path), or "
        "joblib.dump(extractor.factorizer, path)"
    )
    unknown = own_objects(model)
    if unknown:
        raise TypeError(
            f"the network cannot be pickled: Keras would not find {', '.join(unknown)} again. "
            "Register classes and functions of your own with "
            f"keras.saving.register_keras_serializable. {advice}"
        )
    try:
        model.get_config()
        if compare and own_layers(model) and getattr(model, "outputs", None):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                copied_model(model)
    except Exception as error:  # of any kind, from the user's layers
        cause = " ".join(str(error).split())[:300]
        raise TypeError(f"the network cannot be pickled: {cause}. {advice}") from error


def own_objects(model: keras.Model) -> dict[str, Any]:
    """Return classes and functions of a model that Keras cannot find by itself, by name."""
    objects: dict[str, Any] = {}
    for layer in all_layers(model):
        settings = [value for value in vars(layer).values() if hasattr(value, "get_config")]
        functions = [getattr(layer, name, None) for name in _FUNCTIONS]
        named = [each for each in functions if isinstance(each, FunctionType)]
        kinds: list[Any] = [*map(type, (layer, *settings)), *named]
        for kind in kinds:
            is_keras = kind.__module__.split(".")[0] in _KNOWN
            is_registered = keras.saving.get_registered_name(kind) != kind.__name__
            if not (is_keras or is_registered or kind.__name__ == "<lambda>"):
                objects[kind.__name__] = kind
    return objects


def all_layers(part: Any, seen: set[int] | None = None) -> Iterator[Any]:
    """Yield the layers of a model, or of anything that holds layers, at any depth."""
    seen = set() if seen is None else seen
    if id(part) in seen:
        return
    seen.add(id(part))
    if isinstance(part, keras.layers.Layer):
        yield part
        for value in list(vars(part).values()):
            yield from all_layers(value, seen)
    elif isinstance(part, (list, tuple, set)):
        for value in part:
            yield from all_layers(value, seen)
    elif isinstance(part, dict):
        for value in part.values():
            yield from all_layers(value, seen)


def own_layers(model: keras.Model) -> list[Any]:
    """Return the layers of a model whose classes are not those of Keras."""
    return [one for one in all_layers(model) if type(one).__module__.split(".")[0] not in _KNOWN]


def is_unsafe(layer: Any) -> bool:
    """Return whether Keras does not load a layer in safe mode."""
    if type(layer).__name__ in _UNSAFE:
        return True
    return any(getattr(value, "__name__", "") == "<lambda>" for value in vars(layer).values())


def described(layer: Any) -> str:
    """Return the name and the class of a layer, for messages."""
    return f"layer {layer.name!r} ({type(layer).__name__})"


def _generators(model: keras.Model) -> list[Any]:
    """Return the states of a model's random generators, which files do not hold."""
    weights = {id(weight) for weight in model.weights}
    return [variable for variable in model.variables if id(variable) not in weights]


# ------------------------------------------------------------ comparison


def _check_same(model: keras.Model, copied: keras.Model, images: Array | None) -> None:
    """Raise a ValueError unless a copy computes what its original does, layer by layer."""
    batches = 0
    for batch in _batches(model, images):
        different = _first_difference(model, copied, batch)
        batches += 1
        if different is None:
            continue
        if _first_difference(model, model, batch) is not None:
            warnings.warn(
                f"the outputs of {different} are random in inference, too: the copy of the model "
                "could not be compared with the original",
                UserWarning,
                stacklevel=4,
            )
            return
        raise ValueError(
            f"a copy of the model does not compute what the model does, first in {different}, "
            "which keeps something that is lost when the model is saved and loaded: give its "
            "class get_config for its settings, and make its state weights (add_weight), or "
            "write save_own_variables and load_own_variables"
        )
    if not batches:
        raise ValueError(
            f"the model cannot be evaluated on noise of shape {model.inputs[0].shape}, so its copy "
            "cannot be compared with it: give images"
        )


def _batches(model: keras.Model, images: Array | None) -> Iterator[Any]:
    """Yield the batches, given images and noise, that a model can be evaluated on."""
    source = model.inputs[0]
    if images is not None and len(images):
        yield np.resize(images, (source.shape[0] or min(_IMAGES, len(images)), *images.shape[1:]))
    for length in OPEN_AXES:
        takes_noise = False
        for batch in noise_for(source, length):
            try:
                keras.Model(source, model.outputs[0])(batch, training=False)
            except Exception:  # values or sizes that the model does not take, of any kind
                continue
            takes_noise = True
            yield batch
        if takes_noise or None not in source.shape[1:]:
            return


def _first_difference(model: keras.Model, copied: keras.Model, batch: Any) -> str | None:
    """Return the first layer whose outputs differ between two models; None if all are equal."""
    ours, theirs = (graph_nodes(one) for one in (model, copied))
    if len(ours) != len(theirs):
        return f"model {model.name!r}"
    tolerance = tolerance_of(all_layers(model))
    values = [node_values(one, nodes, batch) for one, nodes in ((model, ours), (copied, theirs))]
    differs = {
        id(node): not all(map(are_equal, first, second, [tolerance] * len(first)))
        for node, first, second in zip(ours, *values, strict=True)
    }
    for node in ours:
        before = [differs.get(id(node_of(tensor)), False) for tensor in node.input_tensors]
        if differs[id(node)] and not any(before):
            return described(node.operation)
    return None


def graph_nodes(model: keras.Model) -> list[Any]:
    """Return the nodes of a model's graph, without that of the input."""
    return [node for node in nodes_before(model.outputs[0]) if node.input_tensors]


def node_values(model: keras.Model, nodes: list[Any], batch: Any) -> list[list[Any]]:
    """Return the outputs of nodes of a model's graph for a batch."""
    tensors = [list(node.output_tensors) for node in nodes]
    inner = keras.Model(model.inputs[0], tensors)
    values: list[list[Any]] = inner(batch, training=False)
    return values
