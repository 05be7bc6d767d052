"""Pixels, 0 to 255, as a network takes them: by name, by a function of the user's, or not at all.

What has a name is put in front of the network, as layers: images stay pixels everywhere else, which
take a quarter of the memory, and pictures of them have their own colours.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from xplique_dirpairs.commands.console import UsageError
from xplique_dirpairs.models.graph import nodes_before

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
#: What scales values in a graph: layers, and operations of keras.ops.
_SCALES = {
    "Rescaling", "Normalization", "TrueDivide", "Divide", "Multiply", "Subtract", "Add",
    "RandomContrast",
}  # fmt: skip
#: What does not, and may stand before it.
_PASSES = {
    "InputLayer", "Identity", "Resizing", "CenterCrop", "RandomCrop", "RandomFlip",
    "RandomRotation", "RandomZoom", "RandomTranslation", "ZeroPadding2D", "Cropping2D", "Cast",
    "GetItem", "Stack", "Reshape", "Permute",
}  # fmt: skip


@dataclass(frozen=True)
class Preprocessing:
    """How pixels become what a network takes.

    Attributes
    ----------
    name
    layers
        Of symbolic tensors; None: nothing is put in front.
    function
        Of arrays; None: pixels stay as they are.
    """

    name: str
    layers: Callable[[Any], Any] | None = None
    function: Callable[[NDArray], Any] | None = None

    def before(self, model: keras.Model) -> keras.Model:
        """A model that takes what `of` returns."""
        if self.layers is None:
            return model
        pixels = keras.Input(model.input_shape[1:], name="pixels")
        return keras.Model(pixels, model(self.layers(pixels)), name=f"{model.name}_of_pixels")

    def of(self, pixels: NDArray) -> NDArray:
        """Images (N, height, width, C) for the model of `before`.

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
    """By its name; None: "none" if the model scales its input, which its first layers tell.

    Raises
    ------
    UsageError
        If it is left out and the model does not scale, or there is no such name.
    """
    if name is None:
        if scales_its_input(model):
            return Preprocessing("none")
        raise UsageError(
            "the model does not scale its input (no Rescaling or Normalization layer at its "
            f"beginning): say what it was trained on, with --preprocessing. Choices: {CHOICES}"
        )
    if ":" in name:
        return Preprocessing(name, function=imported(name))
    if name == "none":
        return Preprocessing(name)
    if name == "unit":
        return Preprocessing(name, keras.layers.Rescaling(1 / 255))
    if name == "symmetric":
        return Preprocessing(name, keras.layers.Rescaling(1 / 127.5, offset=-1.0))
    if name in NETWORKS:
        module = importlib.import_module(f"keras.applications.{name}")
        return Preprocessing(name, module.preprocess_input)
    raise UsageError(f"--preprocessing: there is no {name!r}. Choices: {CHOICES}")


def scales_its_input(model: keras.Model) -> bool:
    """Whether something scales the values before the first other layer."""
    if not getattr(model, "inputs", None) or not getattr(model, "outputs", None):
        return False
    consumers: dict[int, list] = {}
    for node in nodes_before(model.outputs[0]):
        for tensor in node.input_tensors:
            consumers.setdefault(id(tensor), []).append(node)
    pending = list(model.inputs)
    while pending:
        for node in consumers.get(id(pending.pop()), []):
            layer = node.operation
            if type(layer).__name__ in _SCALES:
                return True
            if isinstance(layer, keras.Model):
                if scales_its_input(layer):
                    return True
            elif type(layer).__name__ in _PASSES:
                pending += node.output_tensors
    return False


def imported(name: str) -> Callable:
    """A function by ``module:function``; modules may lie in the folder one is in.

    Raises
    ------
    UsageError
        If there is no such module, or function in it.
    """
    module_name, _, function_name = name.partition(":")
    function = getattr(imported_module(module_name), function_name, None)
    if not callable(function):
        raise UsageError(f"{name!r}: module {module_name!r} has no function {function_name!r}")
    return function


def imported_module(name: str) -> ModuleType:
    """A module by name, also of the folder one is in.

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
