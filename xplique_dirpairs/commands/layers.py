"""Layers that a network can be cut at: candidates for --layer, and the command that lists them."""

from __future__ import annotations

import argparse
from dataclasses import dataclass

import keras

from xplique_dirpairs.commands.console import Console
from xplique_dirpairs.commands.model_file import load_model
from xplique_dirpairs.core.tables import Cell, Table
from xplique_dirpairs.models.graph import check_is_cut, layer_output, nodes_before
from xplique_dirpairs.models.split import split_model

_POOLS = (
    keras.layers.GlobalAveragePooling1D,
    keras.layers.GlobalAveragePooling2D,
    keras.layers.GlobalMaxPooling1D,
    keras.layers.GlobalMaxPooling2D,
)
#: Activations that are nowhere negative.
_NEVER_NEGATIVE = {"relu", "relu6", "sigmoid", "hard_sigmoid", "softplus", "softmax"}
#: Layers that are no candidates of their own: what follows them is the same, and more.
_STEPS = (
    keras.layers.BatchNormalization,
    keras.layers.ZeroPadding2D,
    keras.layers.Dropout,
    keras.layers.SpatialDropout2D,
    keras.layers.Rescaling,
    keras.layers.Normalization,
    keras.layers.InputLayer,
    keras.layers.Flatten,
    keras.layers.Reshape,
)


@dataclass(frozen=True)
class Candidate:
    """A layer, and whether it is worth cutting at.

    Attributes
    ----------
    name
    shape
        Of its output for one image.
    can_be_cut
        Whether the classes depend on the image through it alone.
    remark
    worth
        Whether it stands in the short table.
    """

    name: str
    shape: tuple[int | None, ...]
    can_be_cut: bool
    remark: str
    worth: bool


def candidates(model: keras.Model) -> list[Candidate]:
    """Every layer of a model, in order, with what speaks for cutting there, and against.

    Raises
    ------
    TypeError, ValueError
        If the model cannot be cut anywhere: it is not built, or has several inputs or outputs.
    """
    target = model.outputs[0] if getattr(model, "outputs", None) else None
    if target is None or len(model.inputs) != 1 or len(model.outputs) != 1:
        split_model(model, 0)  # says what is wrong
    nodes = nodes_before(target)
    consumers: dict[int, list] = {}
    for node in nodes:
        for tensor in node.input_tensors:
            consumers.setdefault(id(tensor), []).append(node.operation)
    return [_candidate(model, layer, target, consumers) for layer in model.layers]


def _candidate(model, layer, target, consumers: dict[int, list]) -> Candidate:
    try:
        output = layer_output(model, layer)
    except ValueError as error:
        return Candidate(layer.name, (), False, str(error).split(":")[0], False)
    shape = tuple(output.shape[1:])
    next_ones = consumers.get(id(output), [])
    if output is target:
        return Candidate(layer.name, shape, False, "the classes themselves", False)
    if isinstance(layer, keras.layers.InputLayer):
        return Candidate(layer.name, shape, False, "the image itself", False)
    try:
        check_is_cut(output, target)
    except ValueError:
        return Candidate(layer.name, shape, False, "a branch goes around it", False)
    pooled = any(isinstance(after, _POOLS) for after in next_ones)
    remarks = []
    if pooled:
        remarks.append("before the global pooling")
    if len(shape) == 1:
        remarks.append("no places, one vector an image")
    if _never_negative(layer):
        remarks.append("never negative")
    if isinstance(layer, keras.Model):
        remarks.append(f"a whole model of {len(layer.layers)} layers")
    return Candidate(
        layer.name, shape, True, "; ".join(remarks), pooled or _is_end(layer, next_ones)
    )


def _is_end(layer, next_ones: list) -> bool:
    """Whether a layer ends a step of the network: what follows is not its own activation."""
    if isinstance(layer, (*_STEPS, *_POOLS)):
        return False
    follows = (keras.layers.BatchNormalization, keras.layers.Activation, keras.layers.ReLU)
    return not any(isinstance(after, follows) for after in next_ones)


def _never_negative(layer) -> bool:
    if isinstance(layer, keras.layers.ReLU):
        return not layer.negative_slope
    return getattr(getattr(layer, "activation", None), "__name__", "") in _NEVER_NEGATIVE


def layers_table(found: list[Candidate], everything: bool = False, at_most: int = 20) -> Table:
    """Candidates as a table, the last ones of the network last; those worth a cut, or all."""
    chosen = found if everything else [one for one in found if one.can_be_cut and one.worth]
    left_out = 0 if everything else max(0, len(chosen) - at_most)
    rows = [
        [
            Cell(one.name),
            Cell(" x ".join("any" if n is None else str(n) for n in one.shape) or "-"),
            Cell("yes" if one.can_be_cut else "no"),
            Cell(one.remark or "-"),
        ]
        for one in chosen[left_out:]
    ]
    notes = [f"{left_out} earlier ones are left out: layers --all has every layer."]
    return Table(
        ["layer", "shape of an image", "can be cut", "remark"], rows, notes[: bool(left_out)]
    )


def suggestion(found: list[Candidate]) -> str | None:
    """The layer to start with: the last with places before the pooling, or the last with places."""
    with_places = [one for one in found if one.can_be_cut and one.worth and len(one.shape) > 1]
    pooled = [one for one in with_places if "pooling" in one.remark]
    best = pooled or with_places or [one for one in found if one.can_be_cut and one.worth]
    return best[-1].name if best else None


def run(arguments: argparse.Namespace, console: Console) -> None:
    """The command ``layers``."""
    with console.running():
        found = candidates(load_model(arguments.model, arguments.imports))
    best = suggestion(found)
    console.quiet = False  # the table is what was asked for
    text = str(layers_table(found, arguments.all))
    if best is not None:
        text += f"\n\nStart with --layer {best}"
    console.result(
        text,
        {
            "command": "layers",
            "model": arguments.model,
            "suggestion": best,
            "layers": [
                {"name": one.name, "shape": list(one.shape), "can_be_cut": one.can_be_cut,
                 "remark": one.remark}
                for one in found
            ],
        },
    )  # fmt: skip
