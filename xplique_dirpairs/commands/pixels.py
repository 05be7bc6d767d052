"""The step from pixels to the input of a network.

A preprocessing that has a name is put in front of the network as layers. Images therefore stay
uint8 pixels everywhere else: they need a quarter of the memory, and are drawn in their own colours.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from xplique_dirpairs.commands.console import UsageError
from xplique_dirpairs.commands.network import imported_module
from xplique_dirpairs.core.types import Array
from xplique_dirpairs.models.graph import plain_model

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
        """Return the model with the layers in front; its input is what `apply` returns.

        A ValueError is raised if the model takes integers, which Keras would make of their output.
        """
        if self.layers is None:
            return model
        if takes_integers(model):
            raise ValueError(
                f"--preprocessing {self.name} gives numbers that are no integers, but the model "
                f"takes {model.inputs[0].dtype}, so it scales pixels itself: --preprocessing none"
            )
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
        pixels : ndarray of shape (N, height, width, C) or (N, T, height, width, C), uint8

        Returns
        -------
        images : ndarray of the rank of ``pixels``
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
        same = images.ndim == pixels.ndim and len(images) == len(pixels)
        if not same or not np.isfinite(images).all():
            shape = "(N, height, width, channels)"
            if pixels.ndim == 5:
                shape = "(N, T, height, width, channels)"
            raise ValueError(
                f"--preprocessing {self.name} must return finite images {shape}, one for each of "
                f"{len(pixels)}; it returned {images.shape}"
            )
        return images


def takes_integers(model: keras.Model) -> bool:
    """Return whether the input of a model is declared as integers, such as uint8."""
    return "int" in str(model.inputs[0].dtype)


def preprocessing(name: str) -> Preprocessing:
    """Return the preprocessing of a name.

    Parameters
    ----------
    name : str
        One of `CHOICES`.

    Returns
    -------
    preprocessing : Preprocessing

    Raises
    ------
    UsageError
        If the name is unknown.
    """
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


def _imported_function(name: str) -> Any:
    """Return the function that "module:function" names."""
    module_name, _, function_name = name.partition(":")
    function: Any = getattr(imported_module(module_name), function_name, None)
    if not callable(function):
        raise UsageError(f"{name!r}: module {module_name!r} has no function {function_name!r}")
    return function
