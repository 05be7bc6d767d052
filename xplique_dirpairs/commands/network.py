"""The network of a command: its file, what it takes, and the layers that it can be cut at.

A preprocessing that has a name is put in front of the network, as layers. So images stay pixels
everywhere else: they take a quarter of the memory, and their pictures have their own colours.
"""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import keras
import numpy as np

from xplique_dirpairs.commands.console import Console, UsageError, printable
from xplique_dirpairs.core.tables import Cell, Table
from xplique_dirpairs.core.types import Array
from xplique_dirpairs.models.graph import check_is_cut, layer_output, nodes_before, output_limits
from xplique_dirpairs.models.split import split_model

#: Keras's networks whose preprocessing has their name.
NETWORKS = (
    "convnext", "densenet", "efficientnet", "efficientnet_v2", "inception_resnet_v2",
    "inception_v3", "mobilenet", "mobilenet_v2", "mobilenet_v3", "nasnet", "resnet", "resnet50",
    "resnet_v2", "vgg16", "vgg19", "xception",
)  # fmt: skip
CHOICES = (
    "none (the model takes pixels, 0 to 255), unit (0 to 1), symmetric (-1 to 1), one of "
    f"keras.applications ({', '.join(NETWORKS)}), or module:function, a function of your own from "
    "a batch of pixels to what the model takes"
)
#: Layers, and operations of keras.ops, that scale values.
_SCALING = {
    "Rescaling", "Normalization", "TrueDivide", "Divide", "Multiply", "Subtract", "Add",
    "RandomContrast",
}  # fmt: skip
#: Those that do not, and may stand before one that does.
_NOT_SCALING = {
    "InputLayer", "Identity", "Resizing", "CenterCrop", "RandomCrop", "RandomFlip",
    "RandomRotation", "RandomZoom", "RandomTranslation", "ZeroPadding2D", "Cropping2D", "Cast",
    "GetItem", "Stack", "Reshape", "Permute",
}  # fmt: skip
_POOLINGS = {
    "GlobalAveragePooling1D", "GlobalAveragePooling2D", "GlobalMaxPooling1D", "GlobalMaxPooling2D",
}  # fmt: skip
#: Layers that are not suggested: what follows them has the same features, and more.
_STEPS = _POOLINGS | {
    "BatchNormalization", "ZeroPadding2D", "Dropout", "SpatialDropout2D", "Rescaling",
    "Normalization", "InputLayer", "Flatten", "Reshape",
}  # fmt: skip
#: A layer before one of these does not end a step of the network.
_ENDINGS = {"BatchNormalization", "Activation", "ReLU"}
#: Columns of the table of layers, and how many layers it has if not all are asked for.
_HEADERS, LISTED = ("layer", "shape of an image", "can be cut", "remark"), 20


# -------------------------------------------------------------------- the file


def load_model(path: str | Path, imports: Sequence[str] = ()) -> keras.Model:
    """Load a ``.keras`` or ``.h5`` file, without compiling the model.

    Parameters
    ----------
    path : str or Path
    imports : sequence of str
        Modules that register layers of the user's own.

    Raises
    ------
    ValueError
        If the file is not a Keras model.
    """
    for module in imports:
        imported_module(module)
    try:
        return keras.models.load_model(path, compile=False)
    except Exception as error:  # Keras raises many kinds, whatever it meets inside
        reason = printable(" ".join(str(error).split()))[:400]
        raise ValueError(
            f"--model: {printable(path)} cannot be loaded as a Keras model ({reason}). Layers of "
            "your own are registered by --import MODULE"
        ) from error


def imported_module(name: str) -> ModuleType:
    """Import a module by name, also from the current folder.

    Raises
    ------
    UsageError
        If it cannot be imported.
    """
    if "" not in sys.path:
        sys.path.insert(0, "")
    try:
        return importlib.import_module(name)
    except Exception as error:  # a module of the user's may raise anything
        raise UsageError(
            f"module {name!r} cannot be imported ({type(error).__name__}: {error})"
        ) from error


# -------------------------------------------------------------------- preprocessing


@dataclass(frozen=True)
class Preprocessing:
    """How pixels become what a network takes.

    Attributes
    ----------
    name : str
    layers : callable, optional
        From symbolic pixels to the network's input; None: nothing is put in front.
    function : callable, optional
        From an array of pixels to what the network takes; None: pixels stay as they are.
    """

    name: str
    layers: Callable[[Any], Any] | None = None
    function: Callable[[Array], Any] | None = None

    def before(self, model: keras.Model) -> keras.Model:
        """Return a model that takes what `apply` returns."""
        if self.layers is None:
            return model
        pixels = keras.Input(model.input_shape[1:], name="pixels")
        return keras.Model(pixels, model(self.layers(pixels)), name=f"{model.name}_of_pixels")

    def apply(self, pixels: Array) -> Array:
        """Return images (N, height, width, C) for the model of `before`.

        Raises
        ------
        ValueError
            If the user's function does not return finite images, one for each.
        """
        if self.function is None:
            return pixels
        try:
            images = np.asarray(self.function(pixels.astype(np.float32)), np.float32)
        except Exception as error:
            raise ValueError(
                f"--preprocessing {self.name} failed on pixels of shape {pixels.shape}: "
                f"{type(error).__name__}: {error}"
            ) from error
        if images.ndim != 4 or len(images) != len(pixels) or not np.isfinite(images).all():
            raise ValueError(
                f"--preprocessing {self.name} must return finite images (N, height, width, "
                f"channels), one for each of {len(pixels)}; it returned {images.shape}"
            )
        return images


def preprocessing(name: str | None, model: keras.Model) -> Preprocessing:
    """Return a preprocessing by its name; of None "none", if the model scales its input.

    Raises
    ------
    UsageError
        If the name is left out and the model does not scale its input, or there is no such name.
    """
    if name is None:
        if scales_its_input(model):
            return Preprocessing("none")
        raise UsageError(
            "the model does not scale its input (no Rescaling or Normalization layer at its "
            f"beginning): say what it was trained on, with --preprocessing. Choices: {CHOICES}"
        )
    if ":" in name:
        return Preprocessing(name, function=_imported_function(name))
    if name in NETWORKS:
        module = importlib.import_module(f"keras.applications.{name}")
        return Preprocessing(name, module.preprocess_input)
    scales = {
        "none": None,
        "unit": keras.layers.Rescaling(1 / 255),
        "symmetric": keras.layers.Rescaling(1 / 127.5, offset=-1.0),
    }
    if name not in scales:
        raise UsageError(f"--preprocessing: there is no {name!r}. Choices: {CHOICES}")
    return Preprocessing(name, scales[name])


def scales_its_input(model: keras.Model) -> bool:
    """Return whether a model scales its input before its first other layer."""
    if not getattr(model, "inputs", None) or not getattr(model, "outputs", None):
        return False
    consumers = _consumers(model.outputs[0])
    pending = list(model.inputs)
    while pending:
        for node in consumers.get(id(pending.pop()), []):
            layer = node.operation
            if _kinds(layer) & _SCALING:
                return True
            if isinstance(layer, keras.Model):
                if scales_its_input(layer):
                    return True
            elif _kinds(layer) & _NOT_SCALING:
                pending += node.output_tensors
    return False


def _kinds(layer: Any) -> set[str]:
    """Return the names of a layer's class and of those it is derived from."""
    return {kind.__name__ for kind in type(layer).__mro__}


def _consumers(output: keras.KerasTensor) -> dict[int, list[Any]]:
    """Return, by the id of each tensor before an output, the nodes that take it."""
    consumers: dict[int, list[Any]] = {}
    for node in nodes_before(output):
        for tensor in node.input_tensors:
            consumers.setdefault(id(tensor), []).append(node)
    return consumers


def _imported_function(name: str) -> Any:
    """Import a function by "module:function"."""
    module_name, _, function_name = name.partition(":")
    function: Any = getattr(imported_module(module_name), function_name, None)
    if not callable(function):
        raise UsageError(f"{name!r}: module {module_name!r} has no function {function_name!r}")
    return function


# -------------------------------------------------------------------- layers


@dataclass(frozen=True)
class Candidate:
    """A layer of a model, and whether the model can be cut at it.

    Attributes
    ----------
    name : str
    shape : tuple
        Shape of its output for one image.
    can_be_cut : bool
        Whether the classes depend on the image through it alone.
    remark : str
    is_suggested : bool
        Whether it is in the short table.
    """

    name: str
    shape: tuple[int | None, ...]
    can_be_cut: bool
    remark: str
    is_suggested: bool


def candidates(model: keras.Model) -> list[Candidate]:
    """Return every layer of a model, in order, and whether the model can be cut there.

    Raises
    ------
    TypeError, ValueError
        If the model cannot be cut anywhere: it is not built, or has several inputs or outputs.
    """
    if not len(getattr(model, "inputs", [])) == len(getattr(model, "outputs", [])) == 1:
        split_model(model, 0)  # raises the error that says why
    target = model.outputs[0]
    consumers = _consumers(target)
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
        following = {kind for node in nodes for kind in _kinds(node.operation)}
        ends_step = not _kinds(layer) & _STEPS and not following & _ENDINGS
        is_pooled = bool(following & _POOLINGS)
        remark = "; ".join(_remarks(layer, output, is_pooled))
        layers.append(Candidate(layer.name, shape, True, remark, is_pooled or ends_step))
    return layers


def _obstacle(
    layer: keras.layers.Layer, output: keras.KerasTensor, target: keras.KerasTensor
) -> str:
    """Return why the model cannot be cut at a layer; empty where it can."""
    if output is target:
        return "the classes themselves"
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
    """Yield what speaks for cutting at a layer, and what to expect there."""
    if is_pooled:
        yield "before the global pooling"
    if len(output.shape) == 2:
        yield "no positions, one vector an image"
    lowest = output_limits(output)[0]
    if lowest is not None and lowest >= 0.0:
        yield "never negative"
    if isinstance(layer, keras.Model):
        yield f"a whole model of {len(layer.layers)} layers"


def layers_table(layers: list[Candidate], everything: bool = False) -> Table:
    """Return a table of layers, the last ones of the network last; the suggested ones, or all."""
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
    note = f"{left_out} earlier ones are left out: layers --all has every layer."
    return Table(_HEADERS, rows, [note] if left_out else [])


def suggestion(layers: list[Candidate]) -> str | None:
    """Return the layer to start with: the last before the pooling, or the last with positions."""
    suggested = [one for one in layers if one.is_suggested]
    with_positions = [one for one in suggested if len(one.shape) > 1]
    pooled = [one for one in with_positions if "pooling" in one.remark]
    best = pooled or with_positions or suggested
    return best[-1].name if best else None


def layers_text(layers: list[Candidate], everything: bool = False) -> str:
    """Return the table of layers, and which one to start with."""
    best = suggestion(layers)
    return str(layers_table(layers, everything)) + (
        f"\n\nStart with --layer {best}" if best else ""
    )


def run(arguments: argparse.Namespace, console: Console) -> None:
    """Run the command ``layers``."""
    with console.running():
        layers = candidates(load_model(arguments.model, arguments.imports))
    console.quiet = False  # the table is what was asked for
    console.result(
        layers_text(layers, arguments.all),
        {
            "command": "layers",
            "model": arguments.model,
            "suggestion": suggestion(layers),
            "layers": [asdict(one) for one in layers],
        },
    )
