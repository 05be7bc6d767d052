"""`Head`: the network from the layer under study to its classes, as the package uses it.

It gives outputs, logits and the entropy of predictions, is compiled once, and is evaluated on
pooled features where it begins with a global average pooling (which commutes with every linear
move). It alone knows how outputs become logits, and that one output is two classes.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import cached_property
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from xplique_dirpairs.core.batching import slices
from xplique_dirpairs.core.types import Array
from xplique_dirpairs.core.validation import check_choice, check_type, shape_fits
from xplique_dirpairs.models.graph import (
    ends_in_sigmoid_logits,
    final_activation,
    is_linear_activation,
    node_of,
    nodes_before,
)

_POOLINGS = (
    keras.layers.GlobalAveragePooling1D,
    keras.layers.GlobalAveragePooling2D,
)
#: Layers that do nothing once training is over.
_IDLE = (
    keras.layers.Identity,
    keras.layers.Dropout,
    keras.layers.GaussianDropout,
    keras.layers.GaussianNoise,
)
_TINY = float(np.finfo(np.float32).tiny)


def check_output_shape(name: str, shape: Any) -> None:
    """Raise a ValueError unless a model has one output of shape (N, K)."""
    if isinstance(shape, (list, dict)) or tf.TensorShape(shape).rank not in (None, 2):
        raise ValueError(
            f"{name} must have one output over K classes, (N, K), but its output has shape "
            f"{shape}: reduce it to (N, K), by pooling over positions for one"
        )


class Head:
    """The network from the layer under study to its classes.

    Parameters
    ----------
    model : keras.Model or callable
        Activations (N, *spatial, D) to logits or probabilities (N, K). Which of the two is read
        off its graph.
    ends_in : {"softmax", "sigmoid", "linear"}, optional
        What ``model`` ends in, where its graph does not show it: see `split_model`. Outputs are
        never used to tell.
    multilabel : bool, optional
        Whether outputs are independent of each other, where ``model`` ends in the logits of
        sigmoids and `split_model` did not make it.

    Raises
    ------
    TypeError
        If ``model`` is not callable.
    ValueError
        If its outputs are not (N, K), ``ends_in`` is invalid, or ``multilabel`` contradicts it.
    """

    def __init__(
        self,
        model: Callable[..., Any],
        ends_in: str | None = None,
        multilabel: bool | None = None,
    ) -> None:
        if not callable(model):
            raise TypeError(f"latent_to_logit_model must be callable, not {type(model).__name__}")
        check_output_shape("latent_to_logit_model", getattr(model, "output_shape", None))
        self.model = model
        is_model = isinstance(model, keras.Model)
        if ends_in is None:
            ends_in = final_activation(model) if is_model else "linear"
        check_choice("ends_in", ends_in, ("softmax", "sigmoid", "linear"))
        self.ends_in = ends_in
        if multilabel is not None and ends_in in (("softmax",) if multilabel else ("sigmoid",)):
            raise ValueError(f"multilabel={multilabel} contradicts a model that ends in {ends_in}")
        if multilabel is None:
            multilabel = ends_in == "sigmoid" or (is_model and ends_in_sigmoid_logits(model))
        self._multilabel = multilabel
        self._has_no_and_yes = False

    # ------------------------------------------------------------ outputs, logits, entropy

    def outputs(self, features: tf.Tensor) -> tf.Tensor:
        """Return outputs (N, K) for features, pooled by `pool` or not; differentiable."""
        model: Callable[..., Any] = self.model
        if self.after_pooling is not None and len(features.shape) == 2:
            model = self.after_pooling
        is_layer = isinstance(model, keras.layers.Layer)
        outputs = model(features, training=False) if is_layer else model(features)
        check_output_shape("latent_to_logit_model", outputs.shape)
        if self._has_no_and_yes:
            no = 1.0 - outputs if self.ends_in == "sigmoid" else -outputs
            outputs = tf.concat([no, outputs], axis=1)
        return outputs

    def logits_of(self, outputs: tf.Tensor) -> tf.Tensor:
        """Return the logits (N, K) of what `outputs` gave; differentiable.

        Those of a softmax are known up to a constant of each image: log p, whose softmax is p.
        """
        if self.ends_in == "linear":
            return outputs
        logits = tf.math.log(tf.maximum(outputs, _TINY))
        if self.ends_in == "sigmoid":
            logits -= tf.math.log(tf.maximum(1.0 - outputs, _TINY))
        return logits

    def logits(self, features: Array, batch_size: int = 64) -> Array:
        """Return logits (N, K), float64, also of a head that ends in probabilities."""
        outputs = self.predict(features, batch_size).astype(np.float64)
        return np.asarray(self.logits_of(tf.constant(outputs)))

    def few_logits(self, features: Array) -> Array:
        """Return `logits` of a few features, without compiling anything for them."""
        outputs = tf.cast(self.outputs(tf.constant(features, tf.float32)), tf.float32)
        return np.asarray(self.logits_of(outputs), np.float64)

    def predict(self, features: Array, batch_size: int = 64) -> Array:
        """Return `outputs` for any number of features, in batches, as an ndarray (N, K)."""
        run = self._compiled_outputs[features.ndim > 2]
        batches = [
            run(tf.convert_to_tensor(features[part])).numpy()
            for part in slices(len(features), batch_size)
        ]
        return np.concatenate(batches)

    def entropy(self, features: tf.Tensor) -> tf.Tensor:
        """Return H(f⁺(x)) in bits, (N,), of features pooled by `pool` or not; differentiable.

        The entropies of several independent outputs are averaged.
        """
        logits = self.logits_of(tf.cast(self.outputs(features), tf.float32))
        if self.ends_in != "softmax" and (self.is_multilabel or logits.shape[-1] == 1):
            log_p = tf.math.log_sigmoid(tf.stack([logits, -logits], axis=-1))
        else:
            log_p = tf.nn.log_softmax(logits)[:, None]
        entropies = -tf.reduce_sum(tf.exp(log_p) * log_p, axis=-1) / np.log(2.0)
        return tf.reduce_mean(entropies, axis=-1)

    # ------------------------------------------------------------ classes

    @property
    def number_of_classes(self) -> int | None:
        """K, or None where the model does not tell before it is called."""
        shape = getattr(self.model, "output_shape", None)
        if not isinstance(shape, tuple) or not shape[-1]:
            return None
        return int(shape[-1]) * (2 if self._has_no_and_yes else 1)

    @property
    def is_multilabel(self) -> bool:
        """Whether outputs are independent of each other, as one output always is."""
        return self._multilabel or self.number_of_classes == 1

    @property
    def has_exclusive_classes(self) -> bool:
        """Whether an image has exactly one class: of a softmax, or of one output's no and yes."""
        return not self._multilabel or self._has_no_and_yes or self.number_of_classes == 1

    @property
    def class_activation(self) -> str:
        """What makes class probabilities of `logits`: "softmax", or "sigmoid" of each column."""
        return "sigmoid" if self.is_multilabel else "softmax"

    def by_class(self, features: Array) -> Head:
        """Return the head with a column for each class: one output has two, no (0) and yes (1).

        Their logits are −z and z, their probabilities 1 − p and p: each class's logit is the log of
        its odds, and its sigmoid the class's probability. Where Xplique's interface takes an index
        of the network's outputs, as ``CraftTf.estimate_importance`` does, that remains 0.

        Parameters
        ----------
        features : ndarray of shape (n, *spatial, D)
            A few, for a model that does not tell its number of outputs before it is called.
        """
        count = self.number_of_classes or self.few_logits(features[:1]).shape[1]
        if count != 1 or self.ends_in == "softmax":
            return self
        head = copy.copy(self)
        head.__dict__.pop("_compiled_outputs", None)  # they are functions of this head
        head._has_no_and_yes = head._multilabel = True
        return head

    @property
    def class_rows(self) -> Array | None:
        """Each class's weights over the channels, (K, D), of a head that is linear; else None.

        It may begin with a global average pooling; dropout does not count.
        """
        if self._class_layer is None or not isinstance(self._class_layer[0], keras.layers.Identity):
            return None
        rows = np.asarray(self._class_layer[1].kernel).T
        return np.concatenate([-rows, rows]) if self._has_no_and_yes else rows

    def class_scores(self, features: tf.Tensor, class_id: tf.Tensor) -> tf.Tensor:
        """Return one class's column of `outputs`, (N,) float32, of features as `pool` leaves them.

        A linear dense last layer is evaluated for this class alone.
        """
        unpooled = self.pools_first and len(features.shape) > 2
        if self._class_layer is None or unpooled or self._has_no_and_yes:
            return tf.cast(tf.gather(self.outputs(features), class_id, axis=1), tf.float32)
        before, dense = self._class_layer
        kernel = tf.gather(dense.kernel, class_id, axis=1)
        hidden = tf.cast(before(features, training=False), kernel.dtype)  # float16 where mixed
        scores = tf.linalg.matvec(hidden, kernel)
        return scores if dense.bias is None else scores + tf.gather(dense.bias, class_id)

    # ------------------------------------------------------------ features

    @cached_property
    def after_pooling(self) -> keras.Model | None:
        """The head after its global average pooling, or None where it begins otherwise."""
        if not isinstance(self.model, keras.Model) or not getattr(self.model, "inputs", None):
            return None
        source, target = self.model.inputs[0], self.model.outputs[0]
        consumers = [
            node
            for node in nodes_before(target)
            if any(tensor is source for tensor in node.input_tensors)
        ]
        if len(consumers) != 1 or not _averages_positions(consumers[0].operation):
            return None
        pooled = consumers[0].output_tensors[0]
        return None if pooled is target else keras.Model(pooled, target, name="after_pooling")

    @property
    def pools_first(self) -> bool:
        """Whether the head begins with a global average pooling."""
        return self.after_pooling is not None

    def pool(self, activations: Array) -> Array:
        """Return features as `outputs` takes them: averaged over positions if the head does so."""
        if not self.pools_first or activations.ndim == 2:
            return activations
        return np.asarray(activations.mean(axis=tuple(range(1, activations.ndim - 1))))

    def check_takes(self, shape: tuple[int | None, ...]) -> None:
        """Raise a ValueError unless the model takes activations (*spatial, D) of this shape."""
        wanted = getattr(self.model, "input_shape", None)
        if not isinstance(wanted, tuple) or shape_fits(shape, wanted[1:]):
            return
        if not (self.pools_first and shape_fits(shape, wanted[-1:])):  # pooled features do as well
            raise ValueError(
                f"latent_to_logit_model takes activations of shape {wanted[1:]}, but they have "
                f"shape {tuple(shape)}: both halves must come from one split_model(model, layer)"
            )

    @cached_property
    def _class_layer(self) -> tuple[Callable[..., Any], Any] | None:
        """A last layer that is linear and dense, and the model before it; None elsewhere."""
        model = self.after_pooling or self.model
        if not isinstance(model, keras.Model) or not getattr(model, "outputs", None):
            return None
        source = model.inputs[0]
        node = _last_acting_node(model.outputs[0], source)
        if node is None or not _is_linear_dense(node.operation):
            return None
        hidden = node.input_tensors[0]
        if _last_acting_node(hidden, source) is None:
            return keras.layers.Identity(), node.operation
        return keras.Model(source, hidden), node.operation

    @cached_property
    def _compiled_outputs(self) -> list[Callable[[tf.Tensor], tf.Tensor]]:
        # Pooled features and maps have functions of their own: one that is retraced for both would
        # take features of any rank, and not know whether to pool.
        return [tf.function(self.outputs, reduce_retracing=True) for _ in range(2)]


def _averages_positions(layer: Any) -> bool:
    """Return whether a layer maps (N, *spatial, D) to its means over positions, (N, D)."""
    is_average = isinstance(layer, _POOLINGS)
    return is_average and layer.data_format == "channels_last" and not layer.keepdims


def _is_linear_dense(layer: Any) -> bool:
    """Return whether a layer is dense, linear, and has its kernel in the units of its outputs."""
    is_dense = type(layer) is keras.layers.Dense
    is_linear = is_dense and layer.activation is keras.activations.linear
    return is_linear and layer.quantization_mode is None


def _last_acting_node(tensor: keras.KerasTensor, source: keras.KerasTensor) -> Any:
    """Return the last node before a tensor that changes values; None from ``source`` on."""
    while tensor is not source:
        node = node_of(tensor)
        # Dropout can be told to stay on.
        is_idle = type(node.operation) in _IDLE and not node.arguments.kwargs.get("training")
        if not is_idle and not is_linear_activation(node.operation):
            return node
        tensor = node.input_tensors[0]
    return None


def check_head(head: Any, shape: tuple[int | None, ...]) -> None:
    """Raise an error unless ``head`` is None or a `Head` that takes activations of this shape.

    Parameters
    ----------
    head : Head or None
    shape : tuple
        (N, *spatial, D).

    Raises
    ------
    TypeError, ValueError
    """
    if head is None:
        return
    advice = "wrap the rest of the network, Head(latent_to_logit_model)"
    check_type("head", head, Head, "a Head", advice)
    head.check_takes(shape[1:])
