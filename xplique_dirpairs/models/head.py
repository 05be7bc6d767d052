"""Evaluate the head of a network, the part from the studied layer to the classes.

`Head` computes outputs, logits and the entropy of predictions. It is compiled once. It is the only
place that converts outputs to logits and treats a single output as two classes.
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
from xplique_dirpairs.models.endings import what_it_ends_in
from xplique_dirpairs.models.evaluated_head import EvaluatedHead
from xplique_dirpairs.models.graph import ends_in_sigmoid_logits
from xplique_dirpairs.models.tracing import any_number

_TINY = float(np.finfo(np.float32).tiny)


def check_output_shape(name: str, shape: Any) -> None:
    """Raise a ValueError unless ``shape`` is that of one output, (N, K)."""
    if isinstance(shape, (list, dict)) or tf.TensorShape(shape).rank not in (None, 2):
        raise ValueError(
            f"{name} must have one output for K classes, (N, K), but its output has shape "
            f"{shape}: reduce it to (N, K), for example by pooling over positions"
        )


class Head(EvaluatedHead):
    """The head of a network: the part from the studied layer to the K classes.

    Activations (features) of N images have shape (N, *spatial, D): D channels at the positions of a
    feature map, ``*spatial`` = (H, W), at T tokens, (T,), or without positions. *Pooled* features
    (N, D) are their means over positions.

    Parameters
    ----------
    model : keras.Model or callable
        Function from activations (N, *spatial, D) to logits or probabilities (N, K).
    ends_in : {"softmax", "sigmoid", "linear"}, optional
        The final activation of ``model``; "linear" if it returns logits. None: it is read from the
        graph of a Keras model. If a ``Lambda``, a custom layer, a subclassed model or arithmetic
        hides it there, the model is evaluated at random features, and a warning says what its
        outputs look like. A callable that does not tell the shape of its input is taken to return
        logits.
    multilabel : bool, optional
        Whether several classes can be true of an image, so that each output is a yes/no decision of
        its own. None: True for a sigmoid, and for logits of a model from which `split_model`
        removed one; False otherwise. Give True for other logits to which sigmoids apply.

    Attributes
    ----------
    model : keras.Model or callable
        As given.
    ends_in : str
        "softmax", "sigmoid" or "linear": as given, or as found.

    Raises
    ------
    TypeError
        If ``model`` is not callable.
    ValueError
        If the output of ``model`` does not have shape (N, K), ``ends_in`` is invalid, or
        ``multilabel`` contradicts ``ends_in``.
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
            ends_in = what_it_ends_in(model)
        check_choice("ends_in", ends_in, ("softmax", "sigmoid", "linear"))
        self.ends_in = ends_in
        if multilabel is not None and ends_in in (("softmax",) if multilabel else ("sigmoid",)):
            raise ValueError(f"multilabel={multilabel} contradicts a model that ends in {ends_in}")
        if multilabel is None:
            multilabel = ends_in == "sigmoid" or (is_model and ends_in_sigmoid_logits(model))
        self._multilabel = multilabel
        self._has_no_and_yes = False
        self._class_names: tuple[str, ...] | None = None

    # ------------------------------------------------------------ outputs, logits, entropy

    def outputs(self, features: tf.Tensor) -> tf.Tensor:
        """Compute the model's outputs for N images and K classes, (N, K): logits or probabilities.

        Features of D channels have shape (N, *spatial, D), or (N, D) as returned by `pool`.
        Gradients flow to them.
        """
        model: Callable[..., Any] = self.model
        if len(features.shape) == 2 and self.after_pooling is not None:
            model = self.after_pooling
        is_layer = isinstance(model, keras.layers.Layer)
        outputs = model(features, training=False) if is_layer else model(features)
        check_output_shape("latent_to_logit_model", outputs.shape)
        if self._has_no_and_yes:
            no = 1.0 - outputs if self.ends_in == "sigmoid" else -outputs
            outputs = tf.concat([no, outputs], axis=1)
        return outputs

    def logits_of(self, outputs: tf.Tensor) -> tf.Tensor:
        """Compute logits of N images and K classes, (N, K), from `outputs`, (N, K).

        If the head returns logits, they are the outputs themselves. For a sigmoid they are
        log(p / (1 − p)), with the probability p. A softmax determines logits only up to a constant
        for each image: log p is returned, whose softmax is p. Gradients flow to the outputs.
        """
        if self.ends_in == "linear":
            return outputs
        logits = tf.math.log(tf.maximum(outputs, _TINY))
        if self.ends_in == "sigmoid":
            logits -= tf.math.log(tf.maximum(1.0 - outputs, _TINY))
        return logits

    def logits(self, features: Array, batch_size: int = 64) -> Array:
        """Compute the logits of N images and K classes, (N, K) float64.

        They are computed from probabilities if the head returns these. ``features`` of D channels
        have shape (N, *spatial, D), or (N, D) as returned by `pool`; the head takes ``batch_size``
        images at a time.
        """
        outputs = self.predict(features, batch_size).astype(np.float64)
        return np.asarray(self.logits_of(tf.constant(outputs)))

    def few_logits(self, features: Array) -> Array:
        """Compute the `logits` of N images and K classes, (N, K) float64.

        The head is not compiled, which is faster for a few images.
        """
        outputs = tf.cast(self.outputs(tf.constant(features, tf.float32)), tf.float32)
        return np.asarray(self.logits_of(outputs), np.float64)

    def predict(self, features: Array, batch_size: int = 64) -> Array:
        """Compute `outputs` for N images and K classes, as an ndarray (N, K).

        ``features`` of D channels have shape (N, *spatial, D), or (N, D) as returned by `pool`; the
        head takes ``batch_size`` images at a time.
        """
        run = self._compiled_outputs[features.ndim > 2]
        batches = [
            any_number(run, features[part]).numpy() for part in slices(len(features), batch_size)
        ]
        return np.concatenate(batches)

    def entropy(self, features: tf.Tensor) -> tf.Tensor:
        """Compute the entropy H(f⁺(x)) of the predictions for N images, (N,), in bits.

        f⁺(x) are the probabilities of K classes that the head computes from features x. The
        features of D channels have shape (N, *spatial, D), or (N, D) as returned by `pool`;
        gradients flow to them. For a multilabel head the result is the mean entropy of the K yes/no
        decisions.
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
        """Number of classes K, or None if it is unknown before the model is called."""
        shape = getattr(self.model, "output_shape", None)
        if not isinstance(shape, tuple) or not shape[-1]:
            return None
        return int(shape[-1]) * (2 if self._has_no_and_yes else 1)

    @property
    def is_multilabel(self) -> bool:
        """Whether each output is a yes/no decision of its own, as is a single output."""
        return self._multilabel or self.number_of_classes == 1

    @property
    def has_exclusive_classes(self) -> bool:
        """Whether each image has exactly one class, as for a softmax or a single output."""
        return not self._multilabel or self._has_no_and_yes or self.number_of_classes == 1

    @property
    def class_activation(self) -> str:
        """Activation that converts logits to class probabilities: "softmax" or "sigmoid"."""
        return "sigmoid" if self.is_multilabel else "softmax"

    def by_class(self, features: Array) -> Head:
        """Return the head with one output for each class; a single output becomes two.

        From a single output with logit z and probability p, class 0 (no) has logit −z and
        probability 1 − p, class 1 (yes) has z and p. So the logit of a class is its log odds, and
        the sigmoid of the logit its probability. Methods of Xplique that take a class, such as
        ``CraftTf.estimate_importance``, still count the single output as class 0.

        Parameters
        ----------
        features : ndarray of shape (n, *spatial, D)
            Activations of any n images, in D channels. If the number of outputs is not known yet,
            the model is called on those of the first image.

        Returns
        -------
        head : Head
            A copy with two outputs if this head has a single one that is no softmax; otherwise this
            head.
        """
        count = self.number_of_classes or self.few_logits(features[:1]).shape[1]
        if count != 1 or self.ends_in == "softmax":
            return self
        head = copy.copy(self)
        head.__dict__.pop("_compiled_outputs", None)  # because these call the original head
        # One output that was no sigmoid need not be of a class: it may be a number, in a regression
        head._class_names = ("no", "yes") if self._multilabel else ("low output", "high output")
        head._has_no_and_yes = head._multilabel = True
        return head

    @property
    def class_names(self) -> tuple[str, ...] | None:
        """Names of the two classes of a head that `by_class` returned for a single output, or None.

        None: the head has other outputs, or `by_class` was not called. The names are "no" and "yes"
        for a sigmoid or with ``multilabel=True``. For any other single output, which may be a logit
        or the number that a regression predicts, they are "low output" and "high output".
        """
        return self._class_names

    def class_scores(self, features: tf.Tensor, class_id: tf.Tensor) -> tf.Tensor:
        """Compute `outputs` of N images for one class only, (N,) float32.

        ``features`` of D channels have shape (N, *spatial, D), or (N, D) as returned by `pool`, and
        ``class_id`` is an integer tensor without axes. If the head has linear outputs and gets
        pooled features, no other class is computed.
        """
        unpooled = self.pools_first and len(features.shape) > 2
        if self._affine is None or unpooled or self._has_no_and_yes:
            return tf.cast(tf.gather(self.outputs(features), class_id, axis=1), tf.float32)
        row, offset = (tf.gather(tf.constant(part), class_id) for part in self._affine)
        return tf.linalg.matvec(tf.cast(features, tf.float32), row) + offset

    def check_takes(self, shape: tuple[int | None, ...]) -> None:
        """Raise a ValueError unless the head takes activations of this shape.

        ``shape`` is that for a single image, (*spatial, D), with D channels.
        """
        wanted = getattr(self.model, "input_shape", None)
        if not isinstance(wanted, tuple) or shape_fits(shape, wanted[1:]):
            return
        if not (
            self.pools_first and shape_fits(shape, wanted[-1:])
        ):  # pooled features are accepted too
            raise ValueError(
                f"latent_to_logit_model takes activations of shape {wanted[1:]}, but they have "
                f"shape {tuple(shape)}: both halves must come from one split_model(model, layer)"
            )

    @cached_property
    def _compiled_outputs(self) -> list[Callable[[tf.Tensor], tf.Tensor]]:
        # Pooled features and maps need separate functions: one function that is retraced for both
        # would accept features of any rank and could not tell whether to pool them.
        return [tf.function(self.outputs, reduce_retracing=True) for _ in range(2)]


def check_head(head: Any, shape: tuple[int | None, ...]) -> None:
    """Raise an error unless ``head`` is None or a `Head` that takes activations of this shape.

    Parameters
    ----------
    head : Head or None
        The head to check.
    shape : tuple of int
        Shape of the activations, (N, *spatial, D).

    Raises
    ------
    TypeError
        If ``head`` is neither None nor a `Head`.
    ValueError
        If it does not take activations of this shape.
    """
    if head is None:
        return
    advice = "wrap the rest of the network, Head(latent_to_logit_model)"
    check_type("head", head, Head, "a Head", advice)
    head.check_takes(shape[1:])
