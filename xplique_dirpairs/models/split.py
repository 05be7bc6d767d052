"""A classifier cut in two at a layer: images to activations, activations to logits."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import keras

from xplique_dirpairs.models.graph import (
    Limits,
    check_is_cut,
    check_keras_model,
    final_activation,
    layer_output,
    node_of,
    output_limits,
    with_sigmoid_marker,
    without_final_activation,
)
from xplique_dirpairs.models.head import Head, check_output_shape


@dataclass(frozen=True, eq=False)
class SplitModel:
    """The two halves of a classifier, and what is known of the whole.

    It unpacks as its halves: ``input_to_latent_model, latent_to_logit_model = split``.

    Attributes
    ----------
    input_to_latent_model : keras.Model
        Images to activations, (N, height, width, C) → (N, *spatial, D).
    latent_to_logit_model : keras.Model or callable
        Activations to logits, (N, *spatial, D) → (N, K).
    head : Head
        The second half as the package uses it; knows whether outputs are independent of each other.
    layer : str or None
        Name of the layer; None where halves were given.
    limits : tuple
        Lowest and highest value that the layer's features can have; None where there is no bound.
    model : keras.Model or None
        The whole classifier; None where halves were given.
    """

    input_to_latent_model: keras.Model
    latent_to_logit_model: keras.Model | Callable[..., Any]
    head: Head
    layer: str | None = None
    limits: Limits = (None, None)
    model: keras.Model | None = None

    def __iter__(self) -> Iterator[keras.Model]:
        yield self.input_to_latent_model
        yield self.latent_to_logit_model

    def __getitem__(self, index: int) -> keras.Model:
        return (self.input_to_latent_model, self.latent_to_logit_model)[index]

    @classmethod
    def of(
        cls,
        first: SplitModel | tuple[keras.Model, keras.Model] | keras.Model,
        second: keras.Model | Callable[..., Any] | None = None,
    ) -> SplitModel:
        """Return a `SplitModel` as it is, or make one of two halves.

        Parameters
        ----------
        first : SplitModel, pair of models, or keras.Model
            The first half, where ``second`` is given.
        second : keras.Model or callable, optional
            The second half.

        Raises
        ------
        TypeError
            If the halves are not models, or there is only one.
        ValueError
            If the second half does not take what the first one gives.
        """
        if isinstance(first, SplitModel):
            if second is not None:
                raise TypeError("a SplitModel has both halves: leave latent_to_logit_model out")
            return first
        if isinstance(first, tuple) and len(first) == 2 and second is None:
            first, second = first
        check_keras_model("input_to_latent_model", first)
        if second is None:
            raise TypeError(
                "the second half of the network is missing: give split_model(model, layer), or "
                "both input_to_latent_model and latent_to_logit_model"
            )
        head = Head(second)
        outputs = getattr(first, "outputs", None)
        if not outputs:
            return cls(first, second, head)
        head.check_takes(outputs[0].shape[1:])
        return cls(first, second, head, limits=output_limits(outputs[0]))

    def with_model(self, model: keras.Model) -> SplitModel:
        """Return the same halves, with the whole classifier that they were cut of.

        Raises
        ------
        TypeError
            If ``model`` is not a Keras model.
        ValueError
            If it has no layer of the name of that which the first half ends in.
        """
        check_keras_model("model", model)
        outputs = getattr(self.input_to_latent_model, "outputs", None)
        if not outputs:
            raise ValueError(
                "the layer is not known, because the first half has no graph: build the extractor "
                "on split_model(model, layer)"
            )
        layer = self.layer or node_of(outputs[0]).operation.name
        layer_output(model, layer)
        return replace(self, model=model, layer=layer)


def split_model(
    model: keras.Model,
    layer: str | int | keras.layers.Layer,
    *,
    ends_in: str | None = None,
    multilabel: bool | None = None,
) -> SplitModel:
    """Cut a classifier in two at a layer's output.

    Parameters
    ----------
    model : keras.Model
        A built classifier of one input and one output.
    layer : str, int or keras.layers.Layer
        The layer's name, its index in ``model.layers``, or the layer itself. The classes must
        depend on the input through this layer's output alone.
    ends_in : {"softmax", "sigmoid", "linear"}, optional
        What the model ends in, where its graph does not show it: inside a ``Lambda`` or a layer of
        your own, or under arithmetic (an average of two softmaxes).
    multilabel : bool, optional
        Whether outputs are independent of each other, where the model ends in the logits of
        sigmoids and so does not tell.

    Returns
    -------
    split : SplitModel
        Unpacks as ``input_to_latent_model, latent_to_logit_model``. A final softmax or sigmoid is
        taken off the second half, also from under layers that only cast or reshape. Of a sigmoid a
        marker stays in its graph, where `Head` finds it: as logits, K independent outputs look like
        K classes.

    Raises
    ------
    TypeError
        If ``model`` is not a Keras model.
    ValueError
        If the model is not built, has several inputs or outputs, has outputs other than (N, K),
        has no such layer, or a branch goes around the layer.
    """
    check_keras_model("model", model)
    inputs, outputs = getattr(model, "inputs", None), getattr(model, "outputs", None)
    if not inputs or not outputs:
        raise ValueError(
            "model must be a functional Keras model, or a sequential one that is built (call it on "
            "a batch); a subclassed one has no graph to cut"
        )
    if len(inputs) != 1 or len(outputs) != 1:
        raise ValueError(
            f"model must have one input and one output, not {len(inputs)} and {len(outputs)}"
        )
    check_output_shape("model", outputs[0].shape)
    cut = layer_output(model, layer)
    if cut is outputs[0]:
        raise ValueError("the layer is the model's output: choose one before the classes")
    check_is_cut(cut, outputs[0])
    first = keras.Model(inputs[0], cut, name="input_to_latent")
    rest = keras.Model(cut, outputs[0], name="latent_to_logit")
    second = without_final_activation(rest)
    if final_activation(rest) == "sigmoid":
        second = with_sigmoid_marker(second)
    return SplitModel(
        first,
        second,
        Head(second, ends_in, multilabel),
        layer=node_of(cut).operation.name,
        limits=output_limits(cut),
        model=model,
    )
