"""The network of a command: its file, its preprocessing, and the layers where it can be cut.

A preprocessing that has a name is put in front of the network as layers. Images therefore stay
uint8 pixels everywhere else: they need a quarter of the memory, and are drawn in their own colours.
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
from xplique_dirpairs.commands.model_file import why_not_loaded
from xplique_dirpairs.core.tables import Cell, Table
from xplique_dirpairs.core.types import Array
from xplique_dirpairs.models.graph import (
    check_is_cut,
    layer_output,
    nodes_before,
    output_limits,
    plain_model,
)
from xplique_dirpairs.models.split import split_model

#: Modules of `keras.applications` with a ``preprocess_input``.
NETWORKS = (
    "convnext", "densenet", "efficientnet", "efficientnet_v2", "inception_resnet_v2",
    "inception_v3", "mobilenet", "mobilenet_v2", "mobilenet_v3", "nasnet", "resnet", "resnet50",
    "resnet_v2", "vgg16", "vgg19", "xception",
)  # fmt: skip
#: The values of --preprocessing, as text.
CHOICES = (
    "none (the model takes pixels, 0 to 255), unit (0 to 1), symmetric (-1 to 1), one of "
    f"keras.applications ({', '.join(NETWORKS)}), or module:function, a function of your own from "
    "a batch of pixels to what the model takes"
)
#: Layers, and operations of `keras.ops`, that scale values.
_SCALING = {
    "Rescaling", "Normalization", "TrueDivide", "Divide", "Multiply", "Subtract", "Add",
    "RandomContrast",
}  # fmt: skip
#: Layers and operations that do not scale values, and may come before one that does.
_NOT_SCALING = {
    "InputLayer", "Identity", "Resizing", "CenterCrop", "RandomCrop", "RandomFlip",
    "RandomRotation", "RandomZoom", "RandomTranslation", "ZeroPadding2D", "Cropping2D", "Cast",
    "GetItem", "Stack", "Reshape", "Permute",
}  # fmt: skip
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


# -------------------------------------------------------------------- preprocessing


@dataclass(frozen=True)
class Preprocessing:
    """The step from pixels to the input of a network.

    Attributes
    ----------
    name : str
        The value of ``--preprocessing``.
    layers : callable, optional
        Maps a symbolic tensor of pixels to the input of the network. If None, no layers are put in
        front of the network.
    function : callable, optional
        Maps an array of pixels to the input of the network. If None, pixels are passed as they are.
    """

    name: str
    layers: Callable[[Any], Any] | None = None
    function: Callable[[Array], Any] | None = None

    def before(self, model: keras.Model) -> keras.Model:
        """Return the model with the layers in front; its input is what `apply` returns."""
        if self.layers is None:
            return model
        model = plain_model(model)
        pixels = keras.Input(model.input_shape[1:], name="pixels")
        return keras.Model(pixels, model(self.layers(pixels)), name=f"{model.name}_of_pixels")

    def model_inputs(self, images: Array) -> Array:
        """Return the inputs (N, ...) of the model itself for what `apply` returns, (N, ...)."""
        return images if self.layers is None else np.asarray(self.layers(images))

    def apply(self, pixels: Array) -> Array:
        """Return the input of the model of `before`.

        Parameters
        ----------
        pixels : ndarray of shape (N, height, width, C), uint8

        Returns
        -------
        images : ndarray of shape (N, height, width, C)
            The pixels, or float32 values if there is a function.

        Raises
        ------
        ValueError
            If the function fails, or does not return one finite image for each.
        """
        if self.function is None:
            return pixels
        try:
            images = np.asarray(self.function(pixels.astype(np.float32)), np.float32)
        except Exception as error:
            raise ValueError(
                f"--preprocessing {self.name} failed on pixels of shape {pixels.shape}: {error!r}"
            ) from error
        if images.ndim != 4 or len(images) != len(pixels) or not np.isfinite(images).all():
            raise ValueError(
                f"--preprocessing {self.name} must return finite images (N, height, width, "
                f"channels), one for each of {len(pixels)}; it returned {images.shape}"
            )
        return images


def preprocessing(name: str | None, model: keras.Model) -> Preprocessing:
    """Return the preprocessing of a name.

    Parameters
    ----------
    name : str or None
        One of `CHOICES`. None stands for "none" if the model scales its input itself.
    model : keras.Model

    Returns
    -------
    preprocessing : Preprocessing

    Raises
    ------
    UsageError
        If the name is None and the model does not scale its input, or the name is unknown.
    """
    if name is None:
        if scales_its_input(model):
            return Preprocessing("none")
        raise UsageError(
            "the model has no Rescaling or Normalization layer at its beginning: give the "
            f"preprocessing that it was trained with, with --preprocessing. Choices: {CHOICES}"
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
    """Return whether a model scales its input before any layer that computes features."""
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
    """Return the names of a layer's class and of all its base classes."""
    return {kind.__name__ for kind in type(layer).__mro__}


def _consumers(output: keras.KerasTensor) -> dict[int, list[Any]]:
    """Return id of a tensor → the nodes that take it, for all tensors that lead to an output."""
    consumers: dict[int, list[Any]] = {}
    for node in nodes_before(output):
        for tensor in node.input_tensors:
            consumers.setdefault(id(tensor), []).append(node)
    return consumers


def _imported_function(name: str) -> Any:
    """Return the function that "module:function" names."""
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
