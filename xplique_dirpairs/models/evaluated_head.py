"""Find out by evaluating a head whether it pools its features first, and whether it is linear.

If the outputs of a head depend on the features only through their means over positions, it also
accepts pooled features, because pooling commutes with linear changes of the features.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import cached_property
from typing import Any, NamedTuple, TypeVar

import keras
import numpy as np
import tensorflow as tf

from xplique_dirpairs.core.types import Array
from xplique_dirpairs.models.copies import HoldsModels
from xplique_dirpairs.models.graph import final_activation, without_final_activation
from xplique_dirpairs.models.linearity import (
    AffineMap,
    PooledFunction,
    Precision,
    affine_map,
    equal_up_to_rounding,
    evaluated,
    input_shape,
    pooled_function,
    precision_of,
    probes_around,
)

_SomeHead = TypeVar("_SomeHead", bound="EvaluatedHead")


class _LinearLogits(NamedTuple):
    """Logits that are affine in the features or in their means over positions."""

    of_maps: Callable[..., Any]
    of_vectors: PooledFunction
    affine: AffineMap


class EvaluatedHead(HoldsModels):
    """Base class of `Head`: what is found by evaluating the function from features to outputs.

    Shapes and the word *pooled* are those of `Head`.
    """

    model: Callable[..., Any]
    ends_in: str
    _multilabel: bool
    _has_no_and_yes: bool

    @property
    def number_of_classes(self) -> int | None:
        """Number of classes K, or None if it is unknown before the model is called."""
        raise NotImplementedError

    @property
    def class_rows(self) -> Array | None:
        """Weights of the K classes over the D channels, (K, D), or None if the head is not linear.

        A head is linear if its logits are affine in the features or in their means over positions.
        For exclusive classes it is enough that they are affine after subtracting a number for each
        image from all of them, which does not change the softmax. Whether the head is linear, and
        its weights, are found by evaluating it at random features, once. After a change of the
        network's weights use the result of `checked_on`.
        """
        if self._linear_logits is None:
            return None
        rows = self._linear_logits.affine.rows
        return np.concatenate([-rows, rows]) if self._has_no_and_yes else rows

    @property
    def has_linear_outputs(self) -> bool:
        """Whether `outputs` are logits, affine in the features, with the weights `class_rows`."""
        return self._affine is not None

    @cached_property
    def after_pooling(self) -> PooledFunction | None:
        """Function from features averaged over positions to outputs, or None if these need more.

        It takes features of N images in D channels, (N, D), and returns outputs for K classes,
        (N, K). Whether averages suffice is found by evaluating the head at random features, once.
        """
        with tf.init_scope():  # numbers are needed, even while a function is traced
            function = pooled_function(self.model)
        if function is None and self._pooled_logits is not None:
            return _Activated(self._pooled_logits, self.ends_in)
        return function

    def checked_on(self: _SomeHead, activations: Array, step: float | None = None) -> _SomeHead:
        """Check that `pools_first` and `class_rows` are right for given activations.

        Whether the head pools first, and whether it is linear, is found at random features, which
        cannot cover all that a network may see. This method checks both again, at up to four of the
        given activations and at these activations moved in random directions.

        Parameters
        ----------
        activations : ndarray of shape (N, *spatial, D) or (N, D)
            Activations of N images in D channels that the head will be used with. From those
            averaged over positions, (N, D), only linearity can be checked.
        step : float, optional
            Length of the steps by which the caller will move features. None: a quarter of their
            typical length (the root mean square norm over positions).

        Returns
        -------
        head : Head
            This head if both are right; otherwise a copy in which they are corrected.
        """
        if self.class_rows is None and (activations.ndim == 2 or not self.pools_first):
            return self
        probes = probes_around(activations, step)
        if all(self._holds_at(probes)):
            return self
        head = copy.copy(self)
        for name in list(vars(head)):  # the weights may have changed since
            if isinstance(getattr(type(self), name, None), cached_property):
                head.__dict__.pop(name)
        pools, linear = head._holds_at(probes)
        if not pools:
            head.after_pooling = None
        if not linear:
            head._affine = head._linear_logits = None
        return head

    def _holds_at(self, x: Array) -> tuple[bool, bool]:
        """Return whether the head pools first, and is linear, at features, as far as it claims."""
        linear, pools = self._linear_logits, self.after_pooling
        vectors = self.pool(x)
        terms: Array | float = 0.0 if linear is None else linear.affine.terms(vectors)
        if pools is not None and x.ndim > 2:
            size = terms if self.has_linear_outputs else 0.0
            from_maps, from_means = evaluated(self.model, x), evaluated(pools, vectors)
            if not equal_up_to_rounding(from_maps, from_means, self._precision, size):
                return False, linear is None
        if linear is None:
            return True, True
        logits = evaluated(linear.of_vectors if x.ndim == 2 else linear.of_maps, x)
        return True, equal_up_to_rounding(logits, linear.affine(vectors), self._precision, terms)

    @property
    def pools_first(self) -> bool:
        """Whether the outputs depend on the features only through their means over positions."""
        return self.after_pooling is not None

    def pool(self, activations: Array) -> Array:
        """Return activations averaged over positions, if the outputs depend on nothing else.

        Activations (N, *spatial, D) of N images in D channels become (N, D) if the head
        `pools_first`, and are returned unchanged otherwise. `outputs` accepts both.
        """
        if not self.pools_first or activations.ndim == 2:
            return activations
        return np.asarray(activations.mean(axis=tuple(range(1, activations.ndim - 1))))

    @cached_property
    def _affine(self) -> AffineMap | None:
        """The outputs of the model as an affine map of vectors, or None if they are not affine."""
        if self.ends_in != "linear":
            return None
        return self._affine_map(self.model, self.after_pooling)

    @cached_property
    def _precision(self) -> Precision:
        """What rounding explains in outputs of the model."""
        return precision_of(self.model)

    @cached_property
    def _logit_model(self) -> keras.Model | None:
        """The model before its final activation; None without one, or if the graph hides it."""
        model = self.model
        if not isinstance(model, keras.Model) or not getattr(model, "outputs", None):
            return None
        if self.ends_in == "linear" or final_activation(model) != self.ends_in:
            return None
        if self.ends_in == "softmax" and self.number_of_classes == 1:
            return None  # the softmax of a single logit is always 1
        return without_final_activation(model)

    @cached_property
    def _pooled_logits(self) -> PooledFunction | None:
        """The model before its final activation as a function of pooled features."""
        with tf.init_scope():
            return None if self._logit_model is None else pooled_function(self._logit_model)

    @cached_property
    def _linear_logits(self) -> _LinearLogits | None:
        """The logits, as the head computes them from maps and vectors; None if it is not linear."""
        model, pooled, affine = self.model, self.after_pooling, self._affine
        if self.ends_in != "linear":
            if self._logit_model is None:
                return None
            model, pooled = self._logit_model, self._pooled_logits
            affine = self._affine_map(model, pooled)
        elif affine is None and not self._multilabel:
            # such as log p, whose constant for each image is not linear
            model, pooled = _Centred(model), None if pooled is None else _Centred(pooled)
            affine = self._affine_map(model, pooled)
        if affine is None:
            return None
        return _LinearLogits(model, model if pooled is None else pooled, affine)

    def _affine_map(
        self, model: Callable[..., Any], pooled: PooledFunction | None
    ) -> AffineMap | None:
        """Return a function of maps, and of pooled features, as an affine map if it is one."""
        shape = input_shape(self.model)
        if shape is None:
            return None
        function = model if len(shape) == 1 else pooled
        with tf.init_scope():
            return None if function is None else affine_map(function, shape[-1], self.model)


class _Activated:
    """A function of features, followed by a softmax or a sigmoid."""

    def __init__(self, logits: PooledFunction, activation: str) -> None:
        self.logits, self.activation = logits, activation

    def __call__(self, x: tf.Tensor) -> tf.Tensor:
        logits = self.logits(x)
        return tf.nn.softmax(logits) if self.activation == "softmax" else tf.nn.sigmoid(logits)


class _Centred:
    """A function whose outputs (N, K) are taken less their mean over classes."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = function

    def __call__(self, x: tf.Tensor) -> tf.Tensor:
        is_layer = isinstance(self.function, keras.layers.Layer)
        outputs = self.function(x, training=False) if is_layer else self.function(x)
        return outputs - tf.reduce_mean(outputs, axis=-1, keepdims=True)
