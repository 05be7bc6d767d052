"""Warn of networks whose outputs for an image are not the same every time, or in every batch."""

from __future__ import annotations

import warnings
from typing import Any

import keras
import numpy as np

from xplique_dirpairs.models.copies import (
    all_layers,
    described,
    graph_nodes,
    is_unsafe,
    node_values,
    own_layers,
)
from xplique_dirpairs.models.graph import node_of
from xplique_dirpairs.models.noise import are_equal, noise_for, tolerance_of

#: Differences that are found are this many times as large as what rounding explains.
_SLACK = 10.0


def warn_if_unsteady(model: keras.Model) -> None:
    """Warn if outputs of a layer are random in inference, or depend on the batch.

    Layers of Keras are steady in inference. Networks with others, or with a ``Lambda``, are
    evaluated on noise: twice, and with another image beside the first one.

    Parameters
    ----------
    model : keras.Model
        A functional or sequential model with one input and one output.
    """
    if not own_layers(model) and not any(is_unsafe(layer) for layer in all_layers(model)):
        return
    try:
        batch = next(noise_for(model.inputs[0]))
        found = _first_unsteady(model, batch)
    except Exception:  # of any kind: the layer does not take this noise, or takes one image only
        return
    if found is not None:
        layer, what = found
        warnings.warn(
            f"outputs of {described(layer)} {what}, in inference, too: concepts, importances and "
            "maps of an image will differ from call to call. Let the layer do in inference what "
            "depends on this image alone, such as with moving averages (call(x, training=None))",
            stacklevel=3,
        )


def _first_unsteady(model: keras.Model, batch: Any) -> tuple[Any, str] | None:
    """Return the first layer whose outputs for an image vary, and why; None if there is none."""
    nodes, tolerance = graph_nodes(model), _SLACK * tolerance_of(all_layers(model))
    others = np.concatenate([batch[:1], np.roll(batch[1:], 1, axis=1)[:, ::-1]])
    first, again, beside_others = (
        _of_first_image(node_values(model, nodes, x)) for x in (batch, batch, others)
    )
    for values, what in ((again, "are random"), (beside_others, "depend on the rest of the batch")):
        differs = {
            id(node): not all(are_equal(a, b, tolerance) for a, b in zip(*pair, strict=True))
            for node, *pair in zip(nodes, first, values, strict=True)
        }
        for node in nodes:
            before = [differs.get(id(node_of(tensor)), False) for tensor in node.input_tensors]
            if differs[id(node)] and not any(before):
                return node.operation, what
    return None


def _of_first_image(values: list[list[Any]]) -> list[list[Any]]:
    """Return the outputs of nodes for the first image of a batch."""
    return [[output[:1] for output in outputs] for outputs in values]
