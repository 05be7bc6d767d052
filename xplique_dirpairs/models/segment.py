"""`segment_model`: the part of a network between two of its layers."""

from __future__ import annotations

import keras

from xplique_dirpairs.models.graph import (
    check_is_cut,
    check_keras_model,
    check_single,
    layer_output,
    node_of,
    nodes_before,
)


def segment_model(
    model: keras.Model,
    lower: str | int | keras.layers.Layer,
    upper: str | int | keras.layers.Layer,
) -> keras.Model:
    """Return the part of a network from the output of one layer to the output of another.

    Parameters
    ----------
    model : keras.Model
        A built functional or sequential network with one input and one output.
    lower, upper : str, int or keras.layers.Layer
        Name, index or object of the first and of the last layer. Everything that the upper layer
        computes must come from the lower one, and everything that the network computes from the
        upper one: no branch may bypass either.

    Returns
    -------
    segment : keras.Model
        Model from the features of the lower layer (N, *spatial, D) to those of the upper layer. It
        uses the layers of ``model``.

    Raises
    ------
    TypeError
        If ``model`` is not a Keras model.
    ValueError
        If the model has no such layer; if the lower layer does not come before the upper one; or if
        a branch bypasses one of them.
    """
    check_keras_model("model", model)
    check_single(model)
    begin, end = layer_output(model, lower), layer_output(model, upper)
    names = [node_of(tensor).operation.name for tensor in (begin, end)]
    if begin is end or node_of(begin) not in nodes_before(end):
        raise ValueError(
            f"lower must come before upper in the network, but {names[0]!r} does not come before "
            f"{names[1]!r}: give the layers in the order in which images pass them"
        )
    for cut, target, what in (
        (end, model.outputs[0], f"the outputs do not depend on {names[1]!r} alone"),
        (begin, end, f"{names[1]!r} does not depend on {names[0]!r} alone"),
    ):
        try:
            check_is_cut(cut, target)
        except ValueError:
            raise ValueError(
                f"{what}, because a branch bypasses it: choose layers on every path, such as the "
                "sums after residual blocks"
            ) from None
    return keras.Model(begin, end, name=f"{names[0]}_to_{names[1]}")
