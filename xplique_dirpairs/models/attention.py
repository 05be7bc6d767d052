"""Self-attention whose heads can be read and changed: Keras's layer, and one of our own.

A *head edit* is a function of queries, keys and values (n, tokens, heads, d) that returns a
`HeadEdit`. Keras's `MultiHeadAttention` keeps its projections in attributes that are not public in
all of its versions; `ProbedSelfAttention` depends on none of them.
"""

from __future__ import annotations

import inspect
from collections import Counter
from collections.abc import Iterator
from typing import Any, NamedTuple

import keras
import tensorflow as tf

from xplique_dirpairs.models.copies import all_layers
from xplique_dirpairs.models.graph import nodes_before
from xplique_dirpairs.models.switches import Slot

#: What a head computes of its tokens.
PARTS = ("queries", "keys", "values")
#: Logit of a token that is not attended to: −∞, but finite, so that a row of them is no NaN.
_NO_LOGIT = -1e30


class HeadEdit(NamedTuple):
    """What heads compute with.

    Attributes
    ----------
    queries, keys, values : tf.Tensor of shape (n, tokens, heads, d)
    attended : tf.Tensor of shape (n, tokens, heads), or None
        Weight in [0, 1] of each token as one that is attended to: 0 stands for a logit of −∞.
    """

    queries: tf.Tensor
    keys: tf.Tensor
    values: tf.Tensor
    attended: tf.Tensor | None = None


@keras.saving.register_keras_serializable("xplique_dirpairs")
class ProbedSelfAttention(keras.layers.Layer):
    """Multi-head self-attention: softmax(q kᵀ / √d) v for each head, and an output projection.

    Parameters
    ----------
    num_heads : int
        Number of heads.
    key_dim : int
        Number of channels d of the queries, keys and values of a head.
    use_bias : bool, default=True
        Whether projections have a bias.
    **kwargs : object
        Arguments of `keras.layers.Layer`, such as ``name``.
    """

    def __init__(self, num_heads: int, key_dim: int, use_bias: bool = True, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.num_heads, self.key_dim, self.use_bias = num_heads, key_dim, use_bias
        bias = "de" if use_bias else None
        shape = (None, num_heads, key_dim)
        self.query_dense, self.key_dense, self.value_dense = (
            keras.layers.EinsumDense("abc,cde->abde", shape, bias_axes=bias, name=name)
            for name in ("query", "key", "value")
        )
        self.output_dense: Any = None

    def build(self, input_shape: Any) -> None:
        """Create the weights for tokens (n, tokens, channels)."""
        for dense in (self.query_dense, self.key_dense, self.value_dense):
            dense.build(input_shape)
        self.output_dense = keras.layers.EinsumDense(
            "abde,dec->abc", (None, input_shape[-1]), bias_axes="c" if self.use_bias else None,
            name="output",
        )  # fmt: skip
        self.output_dense.build((*input_shape[:2], self.num_heads, self.key_dim))

    def call(self, tokens: Any) -> Any:
        """Return what the heads make of tokens (n, tokens, channels), of the same shape."""
        return attended(self, HeadEdit(*heads_of(self, tokens)))

    def compute_output_shape(self, input_shape: Any) -> Any:
        """Return the shape of the output: that of the input."""
        return input_shape

    def get_config(self) -> dict[str, Any]:
        """Return what the layer is made again from."""
        own = {"num_heads": self.num_heads, "key_dim": self.key_dim, "use_bias": self.use_bias}
        return {**super().get_config(), **own}


class SwitchedAttention(keras.layers.Layer):
    """A self-attention layer whose heads a head edit may change."""

    def __init__(self, inner: Any, slot: Slot, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.inner, self.slot = inner, slot
        self.built = True

    def call(self, tokens: Any, *others: Any, **kwargs: Any) -> Any:
        """Apply the layer; with an edit, its formula on edited queries, keys and values."""
        if self.slot.edit is None:
            return self.inner(tokens, *others, **kwargs)
        return attended(self.inner, self.slot.edit(*heads_of(self.inner, tokens)))

    def compute_output_spec(self, *inputs: Any, **kwargs: Any) -> Any:
        """Return the output's shape: an edit keeps it."""
        return self.inner.compute_output_spec(*inputs, **kwargs)


def heads_of(layer: Any, tokens: Any) -> tuple[Any, Any, Any]:
    """Return queries, keys and values (n, tokens, heads, d) of tokens (n, tokens, channels)."""
    query, key, value = (projection(layer, name) for name in ("query", "key", "value"))
    return query(tokens), key(tokens), value(tokens)


def attended(layer: Any, heads: HeadEdit) -> Any:
    """Return the output (n, tokens, channels) of an attention layer for its heads."""
    scale = 1.0 / float(heads.queries.shape[-1]) ** 0.5
    logits = keras.ops.einsum("nthd,nshd->nhts", heads.queries * scale, heads.keys)
    if heads.attended is None:
        weights = keras.ops.softmax(logits, axis=-1)
    else:
        weights = keras.ops.cast(_weights_of_attended(logits, heads.attended), logits.dtype)
    context = keras.ops.einsum("nhts,nshd->nthd", weights, heads.values)
    return projection(layer, "output")(context)


def _weights_of_attended(logits: Any, attended: Any) -> Any:
    """Return the softmax of logits (n, heads, tokens, tokens) + log(attended), in float32.

    Half precision would hold neither small weights nor a logit for −∞. Heads that attend to nothing
    have weights of 0.
    """
    shares = keras.ops.transpose(keras.ops.cast(attended, "float32"), (0, 2, 1))[:, :, None, :]
    kept = shares > 0
    moved = keras.ops.cast(logits, "float32") + keras.ops.log(keras.ops.where(kept, shares, 1.0))
    weights = keras.ops.softmax(keras.ops.where(kept, moved, _NO_LOGIT), axis=-1)
    return weights * keras.ops.cast(keras.ops.any(kept, axis=-1, keepdims=True), "float32")


def projection(layer: Any, name: str) -> Any:
    """Return the projection "query", "key", "value" or "output" of an attention layer."""
    found = getattr(layer, f"{name}_dense", None) or getattr(layer, f"_{name}_dense", None)
    if found is None:
        raise ValueError(
            f"layer {layer.name!r} ({type(layer).__name__}) keeps no projection {name!r} where "
            "this version of Keras is known to: use ProbedSelfAttention"
        )
    return found


def number_of_heads(layer: Any) -> int:
    """Return the number of heads of an attention layer."""
    number = getattr(layer, "num_heads", None)
    return int(layer._num_heads if number is None else number)


# ------------------------------------------------------------ which layers


class FoundAttention(NamedTuple):
    """An attention layer of a model.

    Attributes
    ----------
    name : str
        Its name; with the names of the nested models around it, "block/attention", where several
        attention layers have that name.
    layer : keras.layers.Layer
    output : keras.KerasTensor, or None
        Its output in the graph of the model that it is in.
    reason : str
        Why it cannot be probed, such as "has a mask". Empty: it can.
    """

    name: str
    layer: Any
    output: Any
    reason: str


def attention_layers(model: keras.Model) -> list[FoundAttention]:
    """Return the attention layers of a model, at any depth, in the order of its layers."""
    found = list(_attention_in(model, "", 1, False))
    number = Counter(one.layer.name for one in found)
    return [
        one if number[one.layer.name] > 1 else one._replace(name=one.layer.name) for one in found
    ]


def _attention_in(
    model: keras.Model, prefix: str, uses: int, masked: bool
) -> Iterator[FoundAttention]:
    """Yield the attention layers of a model that is used some times, maybe with a mask."""
    nodes = {id(node): node for output in model.outputs for node in nodes_before(output)}
    for layer in model.layers:
        own = [node for node in nodes.values() if node.operation is layer]
        path, number = f"{prefix}{layer.name}", uses * len(own)
        if isinstance(layer, keras.Model) and getattr(layer, "outputs", None):
            yield from _attention_in(
                layer, f"{path}/", number, masked or any(map(_takes_mask, own))
            )
        elif _is_attention(layer):
            reason = _reason_against(layer, own[0], number, masked)
            yield FoundAttention(path, layer, own[0].output_tensors[0], reason)
        else:
            for inner in all_layers(layer):
                if _is_attention(inner):
                    reason = f"is inside a {type(layer).__name__}, which is no functional model"
                    yield FoundAttention(f"{path}/{inner.name}", inner, None, reason)


def _is_attention(layer: Any) -> bool:
    """Return whether the class of a layer is called attention, or is a child of Keras's."""
    known = isinstance(layer, (ProbedSelfAttention, keras.layers.MultiHeadAttention))
    return known or "attention" in type(layer).__name__.lower()


def _reason_against(layer: Any, node: Any, uses: int, masked: bool) -> str:
    """Return why an attention layer cannot be probed; empty if it can."""
    if uses > 1:
        return f"is used {uses} times"
    if isinstance(layer, ProbedSelfAttention):
        return ""
    if type(layer) is not keras.layers.MultiHeadAttention:
        return f"is a {type(layer).__name__}"
    given = inspect.signature(layer.call).bind(*node.arguments.args, **node.arguments.kwargs)
    masks = [value for name, value in given.arguments.items() if "mask" in name]
    if masked or _takes_mask(node) or not all(mask is None or mask is False for mask in masks):
        return "has a mask"
    if len({id(tensor) for tensor in node.input_tensors}) > 1:
        return "attends to other tokens than its own"
    if len(node.output_tensors) > 1:
        return "returns its scores as well"
    rank, axes = len(node.input_tensors[0].shape), layer.get_config()["attention_axes"]
    if rank != 3 or tuple(axes or (1,)) != (1,):
        return f"attends along the axes {axes} of {rank}, not along the tokens of (N, tokens, D)"
    return ""


def _takes_mask(node: Any) -> bool:
    """Return whether a mask comes to a node with its inputs, from a layer such as Masking."""
    return any(getattr(tensor, "_keras_mask", None) is not None for tensor in node.input_tensors)
