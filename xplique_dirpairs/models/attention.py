"""Self-attention whose heads can be read and changed: Keras's layer, and one of our own.

A *head edit* is a function of queries, keys and values (n, tokens, heads, d) that returns a
`HeadEdit`. Keras's `MultiHeadAttention` keeps its projections in attributes that are not public in
all of its versions; `ProbedSelfAttention` depends on none of them.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import keras
import tensorflow as tf

from xplique_dirpairs.models.graph import inner_layers, node_of
from xplique_dirpairs.models.switches import Slot

#: What a head computes of its tokens.
PARTS = ("queries", "keys", "values")
_SMALLEST = 1e-20


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
    weights = keras.ops.softmax(logits, axis=-1)
    if heads.attended is not None:
        weights = weights * keras.ops.transpose(heads.attended, (0, 2, 1))[:, :, None, :]
        total = keras.ops.sum(weights, axis=-1, keepdims=True)
        weights = weights / keras.ops.maximum(total, _SMALLEST)
    context = keras.ops.einsum("nhts,nshd->nthd", weights, heads.values)
    return projection(layer, "output")(context)


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


def attention_layers(model: keras.Model) -> Iterator[Any]:
    """Yield the self-attention layers of a model that can be probed, in the order of its layers."""
    for layer in inner_layers(model):
        if isinstance(layer, ProbedSelfAttention) or _is_plain_self_attention(layer):
            yield layer


def _is_plain_self_attention(layer: Any) -> bool:
    """Return whether a layer is Keras's attention, of tokens to themselves and without masks."""
    if type(layer) is not keras.layers.MultiHeadAttention or not layer.built:
        return False
    node = node_of(layer.output)
    sources = {id(tensor) for tensor in node.input_tensors}
    return len(sources) == 1 and not node.arguments.kwargs.get("use_causal_mask", False)
