"""`Head`: the network from the layer under study to its classes, as the package uses it.

It gives logits, class probabilities and the entropy of predictions, is compiled once, and is
evaluated on pooled features where it begins with a global average pooling (which commutes with
every linear move).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property

import keras
import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from xplique_dirpairs.core.validation import shape_fits
from xplique_dirpairs.models.graph import (
    SIGMOID_LOGITS,
    final_activation,
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


def check_output_shape(name: str, shape) -> None:
    """Check that a model has one output of shape (N, K)."""
    if isinstance(shape, (list, dict)):
        raise ValueError(f"{name} must have one output (N, K) over classes, not {len(shape)}")
    if tf.TensorShape(shape).rank not in (None, 2):
        raise ValueError(
            f"{name} must end in K classes for each image, (N, K), but its output has shape "
            f"{tuple(shape)}: reduce it to (N, K), by pooling over positions for one"
        )


class Head:
    """The network from the layer under study to its classes.

    Parameters
    ----------
    model
        Activations ``(n, *spatial, D)`` to logits or probabilities ``(n, K)``. Which of the two is
        read off its last activation.
    ends_in
        "softmax", "sigmoid" or "linear", where ``model`` hides it: see `split_model`. Outputs are
        never looked at to tell.
    multilabel
        Whether outputs are yes or no each on its own, where ``model`` ends in the logits of
        sigmoids and `split_model` did not make it. None: read off ``ends_in``, or the cut.

    Raises
    ------
    TypeError
        If ``model`` is not callable.
    ValueError
        If its outputs are not (n, K), ``ends_in`` is none of the three, or ``multilabel``
        contradicts it.
    """

    def __init__(self, model: Callable, ends_in: str | None = None, multilabel: bool | None = None):
        if not callable(model):
            raise TypeError(f"latent_to_logit_model must be callable, not {type(model).__name__}")
        if ends_in not in (None, "softmax", "sigmoid", "linear"):
            raise ValueError(f"ends_in must be 'softmax', 'sigmoid' or 'linear', not {ends_in!r}")
        check_output_shape("latent_to_logit_model", getattr(model, "output_shape", None))
        self.model = model
        if ends_in is None:
            ends_in = final_activation(model) if isinstance(model, keras.Model) else "linear"
        self.ends_in = ends_in
        if multilabel is not None and ends_in in (("softmax",) if multilabel else ("sigmoid",)):
            raise ValueError(f"multilabel={multilabel} contradicts a model that ends in {ends_in}")
        self._multilabel = multilabel

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
        if len(consumers) != 1:
            return None
        pooling, pooled = consumers[0].operation, consumers[0].output_tensors[0]
        over_positions = (
            isinstance(pooling, _POOLINGS)
            and pooling.data_format == "channels_last"
            and not pooling.keepdims
        )
        if not over_positions or pooled is target:
            return None
        return keras.Model(pooled, target, name="after_pooling")

    @property
    def pools_first(self) -> bool:
        """Whether the head begins with a global average pooling."""
        return self.after_pooling is not None

    def pool(self, activations: NDArray) -> NDArray:
        """Features as `outputs` wants them: averaged over positions if the head pools first."""
        if self.pools_first and activations.ndim > 2:
            return activations.mean(axis=tuple(range(1, activations.ndim - 1)))
        return activations

    def outputs(self, features: tf.Tensor) -> tf.Tensor:
        """What the model says, (n, K), of features, pooled by `pool` or not; differentiable."""
        model: Callable = self.model
        if self.after_pooling is not None and len(features.shape) == 2:
            model = self.after_pooling
        is_layer = isinstance(model, keras.layers.Layer)
        outputs = model(features, training=False) if is_layer else model(features)
        check_output_shape("latent_to_logit_model", outputs.shape)
        return outputs

    def check_takes(self, shape: tuple[int | None, ...]) -> None:
        """Activations of one image must have the shape, ``(*spatial, D)``, that the model takes.

        Raises
        ------
        ValueError
            If they have another one.
        """
        wanted = getattr(self.model, "input_shape", None)
        if not isinstance(wanted, tuple) or shape_fits(shape, wanted[1:]):
            return
        if not (self.pools_first and shape_fits(shape, wanted[-1:])):  # pooled features do as well
            raise ValueError(
                f"latent_to_logit_model takes activations of shape {wanted[1:]}, but they have "
                f"shape {tuple(shape)}: both halves must come from one split_model(model, layer)"
            )

    @cached_property
    def _class_layer(self) -> tuple[Callable, keras.layers.Dense] | None:
        """A last layer that is linear and dense, and the model before it; None elsewhere."""
        model = self.after_pooling or self.model
        if not isinstance(model, keras.Model) or not getattr(model, "outputs", None):
            return None
        node, source = node_of(model.outputs[0]), model.inputs[0]
        last, hidden = node.operation, node.input_tensors[0] if node.input_tensors else None
        if type(last) is not keras.layers.Dense or last.activation is not keras.activations.linear:
            return None
        if last.quantization_mode is not None:  # its kernel is not in the units of its outputs
            return None
        while hidden is not source and _is_idle(node_of(hidden)):
            hidden = node_of(hidden).input_tensors[0]
        return keras.layers.Identity() if hidden is source else keras.Model(source, hidden), last

    def class_scores(self, features: tf.Tensor, class_id: tf.Tensor) -> tf.Tensor:
        """One class's column of `outputs`, (n,) float32, of features as `pool` leaves them.

        A linear dense last layer is evaluated for this class alone.
        """
        unpooled = self.pools_first and len(features.shape) > 2
        if self._class_layer is None or unpooled:
            return tf.cast(tf.gather(self.outputs(features), class_id, axis=1), tf.float32)
        before, dense = self._class_layer
        kernel = tf.gather(dense.kernel, class_id, axis=1)
        hidden = tf.cast(before(features, training=False), kernel.dtype)  # float16 where mixed
        scores = tf.linalg.matvec(hidden, kernel)
        return scores if dense.bias is None else scores + tf.gather(dense.bias, class_id)

    def entropy(self, features: tf.Tensor) -> tf.Tensor:
        """H(f⁺(x)) in bits, (n,), of features, pooled by `pool` or not; differentiable.

        Several sigmoid outputs count as so many two-class predictions, averaged.
        """
        outputs = tf.cast(self.outputs(features), tf.float32)
        if self.ends_in == "softmax":
            return _entropy_of_probabilities(outputs)
        if self.is_multilabel or outputs.shape[-1] == 1:
            probability = outputs if self.ends_in == "sigmoid" else tf.sigmoid(outputs)
            both = tf.stack([probability, 1.0 - probability], axis=-1)
            return tf.reduce_mean(_entropy_of_probabilities(both), axis=-1)
        log_p = tf.nn.log_softmax(outputs)
        return -tf.reduce_sum(tf.exp(log_p) * log_p, axis=-1) / np.log(2.0)

    @property
    def is_multilabel(self) -> bool:
        """Whether outputs are yes or no each on its own, as one output always is."""
        if self._multilabel is not None:
            return self._multilabel
        was_cut = getattr(self.model, "name", None) == SIGMOID_LOGITS
        return self.ends_in == "sigmoid" or was_cut or self.number_of_classes == 1

    @property
    def class_rows(self) -> NDArray | None:
        """Each class's weights over the channels, (K, D): of a head that is linear, or None.

        It may begin with a global average pooling; dropout does not count.
        """
        if self._class_layer is None or not isinstance(self._class_layer[0], keras.layers.Identity):
            return None
        return np.asarray(self._class_layer[1].kernel).T

    @cached_property
    def number_of_classes(self) -> int | None:
        """K, or None where the model does not tell before it is called."""
        shape = getattr(self.model, "output_shape", None)
        return int(shape[-1]) if isinstance(shape, tuple) and shape[-1] else None

    @cached_property
    def _compiled_outputs(self):
        # pooled features and maps have functions of their own: one that is retraced for both would
        # take features of any rank, and not know whether to pool
        return [tf.function(self.outputs, reduce_retracing=True) for _ in range(2)]

    def predict(self, features: NDArray, batch_size: int = 64) -> NDArray:
        """`outputs` for any number of features, in batches, as a numpy array (n, K)."""
        run = self._compiled_outputs[features.ndim > 2]
        batches = [
            run(tf.convert_to_tensor(features[start : start + batch_size]))
            for start in range(0, len(features), batch_size)
        ]
        return np.concatenate([batch.numpy() for batch in batches])

    def logits(self, features: NDArray, batch_size: int = 64) -> NDArray:
        """Logits (n, K), float64, also of a head that ends in probabilities.

        Those of a softmax are up to a constant of each image: log p, whose softmax is p.
        """
        outputs = self.predict(features, batch_size).astype(np.float64)
        return self.logits_of(tf.constant(outputs)).numpy()

    def logits_of(self, outputs: tf.Tensor) -> tf.Tensor:
        """Logits of what `outputs` gave, as `logits` has them; differentiable."""
        if self.ends_in == "linear":
            return outputs
        tiny = float(np.finfo(np.float32).tiny)
        logits = tf.math.log(tf.maximum(outputs, tiny))
        if self.ends_in == "sigmoid":
            logits -= tf.math.log(tf.maximum(1.0 - outputs, tiny))
        return logits


def _is_idle(node) -> bool:
    """Whether a node of the graph passes on what it gets; dropout can be told to stay on."""
    return type(node.operation) in _IDLE and not node.arguments.kwargs.get("training")


def check_head(head: object, shape: tuple[int | None, ...]) -> None:
    """A head, where one is given, is a `Head` that takes activations ``(N, *spatial, D)``.

    Raises
    ------
    TypeError, ValueError
    """
    if head is None:
        return
    if not isinstance(head, Head):
        raise TypeError(
            f"head must be a Head, not {type(head).__name__}: wrap the rest of the network, "
            "Head(latent_to_logit_model)"
        )
    head.check_takes(shape[1:])


def _entropy_of_probabilities(p: tf.Tensor) -> tf.Tensor:
    p = tf.clip_by_value(p, 1e-12, 1.0)
    return -tf.reduce_sum(p * tf.math.log(p), axis=-1) / np.log(2.0)
