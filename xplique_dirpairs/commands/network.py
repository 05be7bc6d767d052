"""The network of a command: its file, and the layers where it can be cut."""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import keras

from xplique_dirpairs.commands.console import Console, UsageError, printable
from xplique_dirpairs.commands.model_file import why_not_loaded
from xplique_dirpairs.core.tables import Cell, Table
from xplique_dirpairs.models.graph import check_is_cut, layer_output, nodes_before, output_limits
from xplique_dirpairs.models.split import split_model

_POOLINGS = {
    "GlobalAveragePooling1D", "GlobalAveragePooling2D", "GlobalMaxPooling1D", "GlobalMaxPooling2D",
}  # fmt: skip
#: Layers that are not suggested, because a neighbouring layer has the same features.
_STEPS = _POOLINGS | {
    "BatchNormalization", "ZeroPadding2D", "Dropout", "SpatialDropout2D", "Rescaling",
    "Normalization", "InputLayer", "Flatten", "Reshape",
}  # fmt: skip
#: A layer that is followed by one of these is not suggested.
_ENDINGS = {"BatchNormalization", "Activation", "ReLU"}
#: Columns of the table of layers, and the maximum number of rows of the short table.
_HEADERS, LISTED = ("layer", "shape of an image", "can be cut", "remark"), 20


# -------------------------------------------------------------------- the file


def load_model(path: str | Path, imports: Sequence[str] = ()) -> keras.Model:
    """Load a ``.keras`` or ``.h5`` file, without compiling the model.

    Parameters
    ----------
    path : str or Path
    imports : sequence of str, default=()
        Names of modules that register the user's own layers.

    Returns
    -------
    model : keras.Model

    Raises
    ------
    ValueError
        If the file cannot be loaded as a Keras model.
    """
    for module in imports:
        imported_module(module)
    try:
        return keras.models.load_model(path, compile=False)
    except Exception as error:  # Keras raises many kinds of errors
        reason = why_not_loaded(Path(path), error)
        raise ValueError(
            f"--model: {printable(path)} cannot be loaded as a Keras model: {reason}"
        ) from error


def imported_module(name: str) -> ModuleType:
    """Import a module by name; the current folder is searched, too.

    Parameters
    ----------
    name : str

    Returns
    -------
    module : module

    Raises
    ------
    UsageError
        If the module cannot be imported.
    """
    if "" not in sys.path:
        sys.path.insert(0, "")
    try:
        return importlib.import_module(name)
    except Exception as error:  # the user's module may raise anything
        raise UsageError(f"module {name!r} cannot be imported: {error!r}") from error


# -------------------------------------------------------------------- layers


def kinds_of(layer: Any) -> set[str]:
    """Return the names of a layer's class and of all its base classes."""
    return {kind.__name__ for kind in type(layer).__mro__}


def consumers_of(output: keras.KerasTensor) -> dict[int, list[Any]]:
    """Return id of a tensor → the nodes that take it, for all tensors that lead to an output."""
    consumers: dict[int, list[Any]] = {}
    for node in nodes_before(output):
        for tensor in node.input_tensors:
            consumers.setdefault(id(tensor), []).append(node)
    return consumers


@dataclass(frozen=True)
class Candidate:
    """A layer of a model, and whether the model can be cut at it.

    Attributes
    ----------
    name : str
    shape : tuple
        Shape of the layer's output for one image; empty if it has several outputs.
    can_be_cut : bool
        Whether the outputs of the model depend on the image through this layer only.
    remark : str
        Why the model cannot be cut here, or properties of the features; may be empty.
    is_suggested : bool
        Whether the layer is in the short table.
    """

    name: str
    shape: tuple[int | None, ...]
    can_be_cut: bool
    remark: str
    is_suggested: bool


def candidates(model: keras.Model) -> list[Candidate]:
    """Return every layer of a model in order, with whether the model can be cut there.

    Parameters
    ----------
    model : keras.Model

    Returns
    -------
    layers : list of Candidate

    Raises
    ------
    TypeError
        If the model is not a Keras model.
    ValueError
        If the model cannot be cut at all: it is not built, or has several inputs or outputs.
    """
    if not len(getattr(model, "inputs", [])) == len(getattr(model, "outputs", [])) == 1:
        split_model(model, 0)  # raises an error that says why the model cannot be cut
    target = model.outputs[0]
    consumers = consumers_of(target)
    layers = []
    for layer in model.layers:
        try:
            output = layer_output(model, layer)
        except ValueError as error:
            layers.append(Candidate(layer.name, (), False, str(error).split(":")[0], False))
            continue
        shape, obstacle = tuple(output.shape[1:]), _obstacle(layer, output, target)
        if obstacle:
            layers.append(Candidate(layer.name, shape, False, obstacle, False))
            continue
        nodes = consumers.get(id(output), [])
        following = {kind for node in nodes for kind in kinds_of(node.operation)}
        ends_step = not kinds_of(layer) & _STEPS and not following & _ENDINGS
        is_pooled = bool(following & _POOLINGS)
        remark = "; ".join(_remarks(layer, output, is_pooled))
        layers.append(Candidate(layer.name, shape, True, remark, is_pooled or ends_step))
    return layers


def _obstacle(
    layer: keras.layers.Layer, output: keras.KerasTensor, target: keras.KerasTensor
) -> str:
    """Return why the model cannot be cut at a layer; the empty string if it can."""
    if output is target:
        return "the output itself"
    if isinstance(layer, keras.layers.InputLayer):
        return "the image itself"
    try:
        check_is_cut(output, target)
    except ValueError:
        return "a branch goes around it"
    return ""


def _remarks(
    layer: keras.layers.Layer, output: keras.KerasTensor, is_pooled: bool
) -> Iterator[str]:
    """Yield remarks on the features of a layer where the model can be cut."""
    if is_pooled:
        yield "before the global pooling"
    if len(output.shape) == 2:
        yield "no positions, one vector per image"
    lowest = output_limits(output)[0]
    if lowest is not None and lowest >= 0.0:
        yield "never negative"
    if isinstance(layer, keras.Model):
        yield f"a nested model of {len(layer.layers)} layers"


def layers_table(layers: list[Candidate], everything: bool = False) -> Table:
    """Return a table of the suggested layers, or of all, in the order of the network."""
    chosen = layers if everything else [one for one in layers if one.is_suggested]
    shown = chosen if everything else chosen[-LISTED:]
    rows = [
        [
            Cell(one.name),
            Cell(" x ".join("any" if n is None else str(n) for n in one.shape) or "-"),
            Cell("yes" if one.can_be_cut else "no"),
            Cell(one.remark or "-"),
        ]
        for one in shown
    ]
    left_out = len(chosen) - len(shown)
    note = f"{left_out} earlier layers are left out: layers --all lists every layer."
    return Table(_HEADERS, rows, [note] if left_out else [])


def suggestion(layers: list[Candidate]) -> str | None:
    """Return the name of the layer to start with; None if no layer is suggested.

    It is the last layer before a global pooling, or else the last one with positions.
    """
    suggested = [one for one in layers if one.is_suggested]
    with_positions = [one for one in suggested if len(one.shape) > 1]
    pooled = [one for one in with_positions if "pooling" in one.remark]
    best = pooled or with_positions or suggested
    return best[-1].name if best else None


def layers_text(layers: list[Candidate], everything: bool = False) -> str:
    """Return the table of layers and the name of the one to start with, as text."""
    best = suggestion(layers)
    if best is None and not everything:
        usable = [one.name for one in layers if one.can_be_cut]
        vectors = f" (those without: {', '.join(usable[-LISTED:])})" if usable else ""
        return f"the model has no layer with positions to cut it at{vectors}"
    return str(layers_table(layers, everything)) + (
        f"\n\nStart with --layer {best}" if best else ""
    )


def run(arguments: argparse.Namespace, console: Console) -> None:
    """Run the command ``layers``."""
    with console.running():
        layers = candidates(load_model(arguments.model, arguments.imports))
    console.quiet = False  # --quiet must not hide the table: it is the result
    console.result(
        layers_text(layers, arguments.all),
        {
            "command": "layers",
            "model": arguments.model,
            "suggestion": suggestion(layers),
            "layers": [asdict(one) for one in layers],
        },
    )
