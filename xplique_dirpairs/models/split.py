"""The two halves of a classifier: up to the layer under study, and from there to the classes."""

from __future__ import annotations

import keras

from xplique_dirpairs.models.graph import (
    SIGMOID_LOGITS,
    check_is_cut,
    check_keras_model,
    final_activation,
    layer_output,
    without_final_activation,
)
from xplique_dirpairs.models.head import check_output_shape


def split_model(
    model: keras.Model, layer: str | int | keras.layers.Layer
) -> tuple[keras.Model, keras.Model]:
    """Cut a classifier in two at a layer's output.

    Parameters
    ----------
    model
        A built single-input, single-output Keras classifier.
    layer
        The layer's name, its index in ``model.layers``, or the layer itself. The classes must
        depend on the input through this layer's output alone.

    Returns
    -------
    input_to_latent_model : keras.Model
        Images to activations.
    latent_to_logit_model : keras.Model
        Activations to logits: a final softmax or sigmoid is stripped, also from under layers that
        only cast or reshape. That it was a sigmoid stays in the model's name, where `Head` finds
        it: as logits, K yes-or-no outputs look like K classes. One inside a ``Lambda`` or a layer
        of your own, or under arithmetic (an average of two softmaxes), cannot be seen and stays:
        say so with
        ``learn_pairs(..., head=Head(latent_to_logit_model, ends_in="softmax"))``.

    Raises
    ------
    TypeError
        If ``model`` is not a Keras model.
    ValueError
        If the model is not built, has several inputs or outputs, has outputs other than (N, K),
        has no such layer, or the layer is bypassed on the way to the classes.
    """
    check_keras_model("model", model)
    try:
        inputs, outputs = model.inputs, model.outputs
    except AttributeError as error:
        raise ValueError(
            "model must be a functional Keras model, or a sequential one that is built (call it on "
            "a batch); a subclassed one has no graph to cut"
        ) from error
    if not inputs or not outputs:
        raise ValueError(
            "model must be a functional or sequential Keras model that is built "
            f"(subclassed models have no graph to cut); got {type(model).__name__}"
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
    whole = keras.Model(cut, outputs[0], name="latent_to_logit")
    if final_activation(whole) == "sigmoid":
        whole = keras.Model(cut, outputs[0], name=SIGMOID_LOGITS)
    return first, without_final_activation(whole)
