"""Split a classifier at a layer: images to activations, and activations to logits."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import keras
import numpy as np

from xplique_dirpairs.core.settings import check_settings
from xplique_dirpairs.models.copies import HoldsModels, check_picklable
from xplique_dirpairs.models.endings import what_it_ends_in
from xplique_dirpairs.models.graph import (
    Limits,
    check_is_cut,
    check_keras_model,
    check_single,
    final_activation,
    layer_output,
    node_of,
    output_limits,
    with_sigmoid_marker,
    without_final_activation,
)
from xplique_dirpairs.models.head import Head, check_output_shape
from xplique_dirpairs.models.layout import (
    check_channels_last,
    find_extra_tokens,
    warn_of_other_grid,
)
from xplique_dirpairs.models.steadiness import warn_if_unsteady


@dataclass(frozen=True, eq=False)
class SplitModel(HoldsModels):
    """The two halves of a classifier with K classes, split at the output of a layer.

    Create one with `split_model`, or from existing halves with `SplitModel.of`. It unpacks into its
    halves: ``input_to_latent_model, latent_to_logit_model = split``.

    Attributes
    ----------
    input_to_latent_model : keras.Model
        First half: N images (N, height, width, channels) to the layer's activations
        (N, *spatial, D). These have D channels; ``*spatial`` is (H, W) for feature maps, (T,) for T
        tokens, and empty for vectors.
    latent_to_logit_model : keras.Model or callable
        Second half: activations (N, *spatial, D) to logits or probabilities (N, K).
    head : Head
        The second half with methods for logits, class probabilities and their entropy.
    layer : str or None, default=None
        Name of the layer. None: the halves were given without the whole classifier.
    limits : tuple of (float or None, float or None), default=(None, None)
        Lowest and highest value that the layer's activation function allows, such as (0, None) for
        a ReLU. None for either: no bound is known.
    model : keras.Model or None, default=None
        The whole classifier. None: the halves were given without it.
    extra_tokens : tuple of int or None, default=None
        Places in the sequence of the tokens that are no part of the image, such as class and
        register tokens: pictures leave them out. None: the layer has no tokens, or it is not known
        which of them are no part of the image.
    """

    input_to_latent_model: keras.Model
    latent_to_logit_model: keras.Model | Callable[..., Any]
    head: Head
    layer: str | None = None
    limits: Limits = (None, None)
    model: keras.Model | None = None
    extra_tokens: tuple[int, ...] | None = None

    def __getstate__(self) -> dict[str, Any]:
        if self.model is not None:
            check_picklable(self.model, compare=True)
        return super().__getstate__()

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
            A split model, both halves, or the first half, from images to activations.
        second : keras.Model or callable, optional
            The second half, from activations to logits or probabilities. Required if ``first`` is
            only the first half; None otherwise.

        Returns
        -------
        split : SplitModel
            The given one, or a new one that knows neither the whole classifier nor the layer's
            name.

        Raises
        ------
        TypeError
            If the first half is not a Keras model, the second half is missing or cannot be called,
            or is given in addition to a `SplitModel`.
        ValueError
            If the second half does not accept the output of the first half, or its own output does
            not have shape (N, K) for N images and K classes; or if features do not have their
            channels last.
        """
        check_settings()
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
        outputs = getattr(first, "outputs", None)
        if not outputs:
            return cls(first, second, Head(second))
        check_channels_last(first)
        ends_in = what_it_ends_in(second, outputs[0].shape[1:]) if callable(second) else None
        head = Head(second, ends_in)
        head.check_takes(outputs[0].shape[1:])
        return cls(
            first,
            second,
            head,
            limits=output_limits(outputs[0]),
            extra_tokens=find_extra_tokens(first, outputs[0]),
        )

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
            If ``model`` has several inputs or outputs, or no layer with the name of the first
            half's last layer, or if the first half is a subclassed model, whose graph is unknown.
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
        check_single(model)
        return replace(self, model=model, layer=layer)


def split_model(
    model: keras.Model,
    layer: str | int | keras.layers.Layer,
    *,
    ends_in: str | None = None,
    multilabel: bool | None = None,
    extra_tokens: tuple[int, ...] | None = None,
) -> SplitModel:
    """Split a classifier in two at a layer's output.

    Parameters
    ----------
    model : keras.Model
        A built functional or sequential classifier with one input and one output of shape (N, K)
        for N images and K classes.
    layer : str, int or keras.layers.Layer
        The layer's name, its index in ``model.layers``, or the layer itself. The model's output
        must depend on its input only through this layer's output.
    ends_in : {"softmax", "sigmoid", "linear"}, optional
        The final activation of the model; "linear" if it returns logits. None: it is read from the
        graph. Where a ``Lambda``, a custom layer, a subclassed model or arithmetic (an average of
        two softmaxes) hides it, the model is evaluated at random features, and a warning says what
        its outputs look like.
    multilabel : bool, optional
        Whether several classes can be true of an image, so that each output is a yes/no decision of
        its own. None: True if the model ends in a sigmoid, False otherwise. Give True if the model
        ends in logits to which sigmoids apply, because its graph does not show this.
    extra_tokens : tuple of int, optional
        For a layer of tokens, the places in the sequence of those that are no part of the image,
        such as ``(0,)`` for a class token in front; ``()`` if there are none. None: the tokens that
        are the same for all images where the network forms the sequence, as a learned class token
        is. Where the network's graph does not show this, all tokens count as parts of the image; if
        they then form no grid, plots show their mean as one cell, and a warning is logged.

    Returns
    -------
    split : SplitModel
        The halves. It unpacks into ``input_to_latent_model, latent_to_logit_model``. They use the
        layers of ``model``, but a last layer that applies a softmax or sigmoid is replaced by a
        copy that returns logits, even if layers that only cast or reshape follow it. A final
        activation that the graph hides stays in the second half, and `Head` computes logits from
        its probabilities.

    Raises
    ------
    TypeError
        If ``model`` is not a Keras model.
    ValueError
        If the model is not built, is a subclassed one, has several inputs or outputs, has an output
        of a shape other than (N, K), has no such layer, or has a branch that bypasses the layer;
        if it takes batches of one size only, or ends in a softmax over a single output;
        if its images, or the features at the layer, do not have their channels last; or if
        ``ends_in`` is not one of its values, or contradicts ``multilabel``; or if ``extra_tokens``
        are no places in the sequence.
    RuntimeError
        If a global setting of Keras or TensorFlow prevents the package from working.

    Warns
    -----
    UserWarning
        If outputs of a custom layer or ``Lambda`` are random in inference, or depend on the other
        images of the batch; if the final activation was found by evaluating the model; or if tokens
        were made of patches in another grid than that in which pictures show them.
    """
    check_settings()
    check_keras_model("model", model)
    check_single(model)
    inputs, outputs = model.inputs, model.outputs
    check_output_shape("model", outputs[0].shape)
    _check_any_batch(inputs[0].shape[0], outputs[0].shape[0])
    cut = layer_output(model, layer)
    if cut is outputs[0]:
        raise ValueError("the layer must not be the model's output: choose an earlier layer")
    check_is_cut(cut, outputs[0])
    check_channels_last(model, cut)
    warn_if_unsteady(model)
    first = keras.Model(inputs[0], cut, name="input_to_latent")
    rest = keras.Model(cut, outputs[0], name="latent_to_logit")
    places = _extra_tokens(first, cut, extra_tokens)
    warn_of_other_grid(inputs[0], cut, places)
    second = without_final_activation(rest)
    removed = "linear" if second is rest else final_activation(rest)
    if removed == "softmax" and outputs[0].shape[-1] == 1:
        raise ValueError(
            "the model ends in a softmax over a single output, which is 1 for every image: let it "
            "end in a sigmoid, and train it again"
        )
    if removed == "sigmoid":
        # Logits do not show whether they are those of K independent outputs or of K classes.
        second = with_sigmoid_marker(second)
    if ends_in == removed != "linear":
        ends_in = None  # this was the final activation of the model; the second half has no such
    return SplitModel(
        first,
        second,
        Head(second, ends_in, multilabel),
        layer=node_of(cut).operation.name,
        limits=output_limits(cut),
        model=model,
        extra_tokens=places,
    )


def _check_any_batch(*lengths: int | None) -> None:
    """Raise a ValueError if the number of images of a batch is fixed."""
    fixed = next((length for length in lengths if length is not None), None)
    if fixed is not None:
        raise ValueError(
            f"the model takes batches of {fixed} images only: make one for any number, "
            "twin = keras.models.clone_model(model, input_tensors=keras.Input("
            "model.input_shape[1:])), and give it the weights, "
            "twin.set_weights(model.get_weights())"
        )


def _extra_tokens(
    first: keras.Model, cut: keras.KerasTensor, given: tuple[int, ...] | None
) -> tuple[int, ...] | None:
    """Return the given places of extra tokens, checked, or those that the network shows."""
    if given is None:
        return find_extra_tokens(first, cut)
    count = cut.shape[1] if len(cut.shape) == 3 else 0
    places = tuple(given) if isinstance(given, (tuple, list)) else (given,)
    are_numbers = all(isinstance(n, (int, np.integer)) for n in places)
    if not are_numbers or (count is not None and any(not -count <= n < count for n in places)):
        received = "no sequence of tokens" if not count else f"{count} tokens"
        raise ValueError(
            f"extra_tokens must be places in the sequence, such as (0,), not {given!r}: the layer "
            f"has {received}"
        )
    return tuple(int(n) for n in places)
