"""Split a classifier at a layer: images to activations, and activations to logits."""

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
    """The two halves of a classifier.

    It unpacks into its halves: ``input_to_latent_model, latent_to_logit_model = split``.

    Attributes
    ----------
    input_to_latent_model : keras.Model
        Images to activations, (N, height, width, channels) → (N, *spatial, D).
    latent_to_logit_model : keras.Model or callable
        Activations to logits, (N, *spatial, D) → (N, K).
    head : Head
        The second half as used by this package. It knows whether outputs are independent of each
        other.
    layer : str, optional
        Name of the layer. None if the halves were given.
    limits : tuple of (float or None, float or None), default=(None, None)
        Lowest and highest possible value of the layer's features. None: no bound.
    model : keras.Model, optional
        The whole classifier. None if the halves were given.
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
        """Return a `SplitModel` unchanged, or build one from two halves.

        Parameters
        ----------
        first : SplitModel, tuple of two models, or keras.Model
            A split model, both halves, or the first half.
        second : keras.Model or callable, optional
            The second half, if ``first`` is the first half.

        Returns
        -------
        split : SplitModel
            The split model.

        Raises
        ------
        TypeError
            If the halves are not models, or only one half is given.
        ValueError
            If the second half does not accept the output of the first half.
        """
        if isinstance(first, SplitModel):
            if second is not None:
                raise TypeError("a SplitModel has both halves: leave out latent_to_logit_model")
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
        """Return the same halves, with the whole classifier that they come from.

        Parameters
        ----------
        model : keras.Model
            The whole classifier.

        Returns
        -------
        split : SplitModel
            A new split model with ``model`` and the name of the layer.

        Raises
        ------
        TypeError
            If ``model`` is not a Keras model.
        ValueError
            If ``model`` has no layer with the name of the first half's last layer.
        """
        check_keras_model("model", model)
        outputs = getattr(self.input_to_latent_model, "outputs", None)
        if not outputs:
            raise ValueError(
                "the layer is unknown because the first half has no graph: build the extractor "
                "with split_model(model, layer)"
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
    """Split a classifier in two at a layer's output.

    Parameters
    ----------
    model : keras.Model
        A built classifier with one input and one output.
    layer : str, int or keras.layers.Layer
        The layer's name, its index in ``model.layers``, or the layer itself. The classes must
        depend on the input only through this layer's output.
    ends_in : {"softmax", "sigmoid", "linear"}, optional
        The final activation of the model. None: it is read from the graph. Give it if it is hidden
        in a ``Lambda`` or a custom layer, or followed by arithmetic (an average of two softmaxes).
    multilabel : bool, optional
        Whether outputs are independent of each other. None: only those of a sigmoid are. Give it if
        the model ends in logits to which sigmoids apply, because its graph does not show this.

    Returns
    -------
    split : SplitModel
        The halves. It unpacks into ``input_to_latent_model, latent_to_logit_model``. A final
        softmax or sigmoid is removed from the second half, even if layers that only cast or reshape
        follow it; one that is hidden stays, and logits are then computed from the probabilities.
        For a sigmoid, a marker is left in the graph for `Head`, because logits do not show whether
        they are K independent outputs or K classes.

    Raises
    ------
    TypeError
        If ``model`` is not a Keras model.
    ValueError
        If the model is not built, has several inputs or outputs, has an output of a shape other
        than (N, K), has no such layer, or has a branch that bypasses the layer.
    """
    check_keras_model("model", model)
    inputs, outputs = getattr(model, "inputs", None), getattr(model, "outputs", None)
    if not inputs or not outputs:
        raise ValueError(
            "model must be a functional Keras model or a built sequential one (call it on a batch "
            "to build it), not a subclassed one, which has no graph to split"
        )
    if len(inputs) != 1 or len(outputs) != 1:
        raise ValueError(
            f"model must have one input and one output, not {len(inputs)} and {len(outputs)}"
        )
    check_output_shape("model", outputs[0].shape)
    cut = layer_output(model, layer)
    if cut is outputs[0]:
        raise ValueError("the layer must not be the model's output: choose an earlier layer")
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
