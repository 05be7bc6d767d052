"""A Keras model from a file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import keras

from xplique_dirpairs.commands.console import printable
from xplique_dirpairs.commands.preprocessing import imported_module


def load_model(path: str | Path, imports: Sequence[str] = ()) -> keras.Model:
    """The model of a ``.keras`` or ``.h5`` file, not compiled.

    Parameters
    ----------
    path
    imports
        Modules that register layers of the user's own.

    Raises
    ------
    ValueError
        If it is no Keras model.
    """
    for module in imports:
        imported_module(module)
    try:
        model = keras.models.load_model(path, compile=False)
    except Exception as error:  # Keras raises many kinds, of what it meets inside
        said = printable(" ".join(str(error).split()))[:400]
        raise ValueError(
            f"--model: {printable(path)} cannot be loaded as a Keras model ({said}). Layers of "
            "your own are registered by --import MODULE"
        ) from error
    if not isinstance(model, keras.Model):
        raise ValueError(f"--model: {printable(path)} holds no model, but {type(model).__name__}")
    return model
