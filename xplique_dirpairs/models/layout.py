"""Find out which axis of a tensor holds the channels, and which tokens are parts of the image."""

from __future__ import annotations

import warnings
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from xplique_dirpairs.core.geometry import token_rows
from xplique_dirpairs.models.graph import node_of, nodes_before

_FIRST, _LAST = "channels_first", "channels_last"
#: Layers whose output has its channels last, whatever their input is.
_CHANNELS_LAST = (keras.layers.Dense, keras.layers.Embedding, keras.layers.RNN)


def check_channels_last(model: keras.Model, cut: keras.KerasTensor | None = None) -> None:
    """Raise a ValueError if the images of a model, or the features at a layer, have channels first.

    Parameters
    ----------
    model : keras.Model
        A functional or sequential model.
    cut : keras.KerasTensor, optional
        Output of the layer. None: the output of the model, such as the first half of a network.
    """
    advice = (
        "build the same network with keras.config.set_image_data_format('channels_last') and give "
        "it the weights, twin.set_weights(model.get_weights()), which have the same shapes"
    )
    image, output = model.inputs[0], model.outputs[0]
    axis = _taken_axis(image, output)
    if axis == 1 or (axis is None and _looks_channels_first(image)):
        raise ValueError(
            f"the network takes images with their channels first, {tuple(image.shape)}, but they "
            f"must be last, (N, height, width, channels): {advice}"
        )
    cut = output if cut is None else cut
    axis = _channel_axis(cut)
    if axis is None:
        axis = _taken_axis(cut, output)
    if axis is not None and axis != len(cut.shape) - 1:
        raise ValueError(
            f"the features of layer {node_of(cut).operation.name!r}, {tuple(cut.shape)}, have "
            f"their channels on axis {axis}, but they must be last: choose another layer, or "
            f"{advice}"
        )


def _looks_channels_first(image: keras.KerasTensor) -> bool:
    """Return whether an input has the shape of square images with their channels first."""
    shape = tuple(image.shape)
    return len(shape) == 4 and shape[1] in (1, 3) and shape[2] == shape[3] not in (1, 2, 3, 4, None)


def _channel_axis(tensor: keras.KerasTensor) -> int | None:
    """Return the axis of a tensor's channels, as the layers before it say; None if none does."""
    node = node_of(tensor)
    layer, rank = node.operation, len(tensor.shape)
    if rank < 3 or not node.input_tensors:
        return None
    if isinstance(layer, keras.Model):
        inner = _channel_axis(layer.outputs[0]) if getattr(layer, "outputs", None) else None
        return inner if inner is not None else _passed_on(tensor, node)
    if isinstance(layer, _CHANNELS_LAST):
        return rank - 1
    axes = _permuted_axes(layer, rank)
    if axes is not None:
        before = _channel_axis(node.input_tensors[0])
        return None if before is None else axes.index(before)
    declared = _declared_axis(layer, rank)
    return declared if declared is not None else _passed_on(tensor, node)


def _passed_on(tensor: keras.KerasTensor, node: Any) -> int | None:
    """Return the axis of the channels of a node's input, if the node keeps the shape."""
    before = node.input_tensors[0]
    return _channel_axis(before) if before.shape == tensor.shape else None


def _taken_axis(
    tensor: keras.KerasTensor, output: keras.KerasTensor, seen: set[int] | None = None
) -> int | None:
    """Return the axis that the layers after a tensor take for its channels; None if none says.

    ``seen`` are the ids of the tensors that were followed before.
    """
    rank, seen = len(tensor.shape), set() if seen is None else seen
    if rank < 3 or id(tensor) in seen:
        return None
    seen.add(id(tensor))
    for node in nodes_before(output, until=tensor):
        if not any(before is tensor for before in node.input_tensors):
            continue
        layer, after = node.operation, node.output_tensors[0]
        if isinstance(layer, keras.Model) and getattr(layer, "outputs", None):
            axis = _taken_axis(layer.inputs[0], layer.outputs[0])
        elif isinstance(layer, keras.layers.Dense):
            axis = rank - 1
        elif (axes := _permuted_axes(layer, rank)) is not None:
            taken = _taken_axis(after, output, seen)
            axis = None if taken is None else axes[taken]
        else:
            axis = _declared_axis(layer, rank)
            if axis is None and after.shape == tensor.shape:
                axis = _taken_axis(after, output, seen)
        if axis is not None:
            return axis
    return None


def _declared_axis(layer: Any, rank: int) -> int | None:
    """Return the axis that a layer says it takes for the channels; None if it says nothing."""
    data_format = getattr(layer, "data_format", None)
    if data_format in (_FIRST, _LAST):
        return 1 if data_format == _FIRST else rank - 1
    return None


def _permuted_axes(layer: Any, rank: int) -> tuple[int, ...] | None:
    """Return which axis of its input each axis of a layer's output is, if the layer permutes."""
    if isinstance(layer, keras.layers.Permute):
        return (0, *layer.dims)
    if type(layer).__name__ != "Transpose":  # the operation keras.ops.transpose, not public
        return None
    axes = getattr(layer, "axes", None)
    return tuple(reversed(range(rank))) if axes is None else tuple(n % rank for n in axes)


# ------------------------------------------------------------ tokens


def find_extra_tokens(model: keras.Model, cut: keras.KerasTensor) -> tuple[int, ...] | None:
    """Return the places of tokens that do not depend on the image where the sequence is formed.

    They are the class and register tokens of a vision transformer, before attention mixes them with
    the others. They are found by evaluating the first layers on two random images.

    Parameters
    ----------
    model : keras.Model
        A model that computes ``cut``.
    cut : keras.KerasTensor
        The features of a layer.

    Returns
    -------
    places : tuple of int, or None
        None if the layer has no tokens of an image, or their number is not known.
    """
    image = model.inputs[0]
    if len(image.shape) != 4 or len(cut.shape) != 3 or cut.shape[1] is None:
        return None
    extra: set[int] | None = None
    for source, sequence in _first_sequences(image, cut):
        unchanged = _unchanged(source, sequence)
        extra = unchanged if extra is None else extra & unchanged
    return None if extra is None else tuple(sorted(extra))


def warn_of_other_grid(
    image: keras.KerasTensor, cut: keras.KerasTensor, extra: tuple[int, ...] | None
) -> None:
    """Warn if tokens of a layer are a grid without the proportions of the image.

    Pictures arrange tokens in a grid with these proportions; the network may have made them of
    patches that are not square.

    Parameters
    ----------
    image : keras.KerasTensor
        Input of the network.
    cut : keras.KerasTensor
        The features of a layer.
    extra : tuple of int, or None
        Places of the tokens that are no part of the image.
    """
    if len(image.shape) != 4 or len(cut.shape) != 3 or None in (*image.shape[1:3], cut.shape[1]):
        return
    count = cut.shape[1] - len(extra or ())
    grid = _grid_of(cut, count)
    rows = token_rows(count, *image.shape[1:3])
    if grid is not None and rows is not None and rows != grid[0]:
        warnings.warn(
            f"the {count} tokens of layer {node_of(cut).operation.name!r} are {grid[0]} x "
            f"{grid[1]} patches, but pictures will arrange them as {rows} x {count // rows}, in "
            f"the proportions of images of {image.shape[1]} x {image.shape[2]}: do not trust where "
            "they show concepts, or cut the network where features are still a map",
            stacklevel=3,
        )


def _grid_of(cut: keras.KerasTensor, count: int) -> tuple[int, int] | None:
    """Return rows and columns of the map that a number of tokens was made of, if it is shown."""
    for node in nodes_before(cut):
        inner, tensor = node.operation, node.output_tensors[0]
        if isinstance(inner, keras.Model) and getattr(inner, "outputs", None):
            found = _grid_of(inner.outputs[0], count)
            if found is not None:
                return found
        if len(node.input_tensors) != 1 or not _is_sequence(tensor, count):
            continue
        shape = node.input_tensors[0].shape
        if len(shape) == 4 and None not in shape[1:3] and shape[1] * shape[2] == count:
            return shape[1], shape[2]
    return None


def _first_sequences(
    source: keras.KerasTensor, cut: keras.KerasTensor
) -> list[tuple[keras.KerasTensor, keras.KerasTensor]]:
    """Return (input of its model, tensor) wherever a sequence of its length is formed."""
    found = []
    for node in nodes_before(cut):
        tensor, layer = node.output_tensors[0], node.operation
        if not node.input_tensors or not _is_sequence(tensor, cut.shape[1]):
            continue
        if any(_is_sequence(before, cut.shape[1]) for before in node.input_tensors):
            continue
        if isinstance(layer, keras.Model) and len(getattr(layer, "inputs", None) or ()) == 1:
            found += _first_sequences(layer.inputs[0], layer.outputs[0])
        else:
            found.append((source, tensor))
    formed = {id(tensor) for _, tensor in found}
    return [  # later ones only form the sequence anew, as between two transpositions
        (start, tensor)
        for start, tensor in found
        if not any(
            id(before.output_tensors[0]) in formed and before.output_tensors[0] is not tensor
            for before in nodes_before(tensor)
        )
    ]


def _is_sequence(tensor: keras.KerasTensor, tokens: int) -> bool:
    """Return whether a tensor is a sequence of a number of tokens."""
    return len(tensor.shape) == 3 and tensor.shape[1] == tokens


def _unchanged(source: keras.KerasTensor, sequence: keras.KerasTensor) -> set[int]:
    """Return the places of tokens that are equal for two random inputs."""
    lengths = [64 if n is None else n for n in source.shape[1:]]
    inputs = np.random.default_rng(0).normal(size=(2, *lengths)).astype(np.float32)
    model = keras.Model(source, sequence)
    one, other = np.asarray(tf.cast(model(inputs, training=False), tf.float32))
    return set(np.flatnonzero((one == other).all(axis=-1)).tolist())


def token_grid(sequence: keras.KerasTensor, of_video: bool) -> tuple[int, int, int] | None:
    """Return frames, rows and columns of the map that a sequence of tokens was made of.

    Parameters
    ----------
    sequence : keras.KerasTensor
        Tokens, of shape (N, tokens, channels), in the graph of a model.
    of_video : bool
        Whether the network takes videos. Then (N, T, P, channels) are P patches of T frames.

    Returns
    -------
    grid : (int, int, int), or None
        For images, one frame. None if the graph does not show it. The tokens may be more than the
        map has cells: class tokens are added after it.
    """
    for node in reversed(nodes_before(sequence)):
        inner, tensor = node.operation, node.output_tensors[0]
        if isinstance(inner, keras.Model) and getattr(inner, "outputs", None):
            found = token_grid(inner.outputs[0], of_video)
            if found is not None:
                return found
        if len(node.input_tensors) != 1 or len(tensor.shape) != 3:
            continue
        shape = node.input_tensors[0].shape
        if len(shape) == 4 and of_video:
            cells = _grid_of_patches(node.input_tensors[0])
        elif len(shape) in (4, 5):
            cells = shape[-4:-1] if len(shape) == 5 else (1, *shape[1:3])
        else:
            continue
        if cells is not None and None not in cells and int(np.prod(cells)) == tensor.shape[1]:
            return cells[0], cells[1], cells[2]
    return None


def _grid_of_patches(patches: keras.KerasTensor) -> tuple[int, int, int] | None:
    """Return the grid (T, rows, columns) that patches (N, T, P, channels) were made of, if shown.

    Layers in between that keep T and P are passed; an exchange of axes is not.
    """
    frames, number = patches.shape[1:3]
    while node_of(patches).input_tensors:
        node = node_of(patches)
        before = node.input_tensors[0]
        if _permuted_axes(node.operation, len(before.shape)) is not None:
            return None
        shape = before.shape
        if len(shape) == 5 and None not in shape[1:4]:
            is_same = shape[1] == frames and shape[2] * shape[3] == number
            return (shape[1], shape[2], shape[3]) if is_same else None
        if shape[1:3] != (frames, number):
            return None
        patches = before
    return None
