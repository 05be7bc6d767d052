"""Check the settings of Keras and TensorFlow that hold for the whole process."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

#: Values of TF_USE_LEGACY_KERAS with which TensorFlow uses Keras 2.
_TRUE = ("1", "true")


def check_settings() -> None:
    """Raise a RuntimeError if a global setting prevents the package from working.

    Keras and TensorFlow are asked for their settings if they were imported before. If not, the
    environment variables and the settings file from which they will take them are read.

    Raises
    ------
    RuntimeError
        If the backend of Keras is not TensorFlow, ``TF_USE_LEGACY_KERAS`` is set, the default type
        of floats is not float32, eager execution was disabled, numpy raises errors for numbers that
        round to 0, or the product of a float32 tensor and a float64 number is float64, as in numpy.
    """
    if os.environ.get("TF_USE_LEGACY_KERAS", "").lower() in _TRUE:
        raise RuntimeError(
            "the environment variable TF_USE_LEGACY_KERAS is set, so that Xplique takes Keras 2 "
            "only: unset it before TensorFlow is imported, and build the model with Keras 3"
        )
    keras, tensorflow = (_imported(name) for name in ("keras", "tensorflow"))
    backend = keras.config.backend() if keras else _chosen_backend()
    if backend != "tensorflow":
        raise RuntimeError(
            f"the backend of Keras is {backend!r}, but Xplique needs TensorFlow: set the "
            "environment variable KERAS_BACKEND=tensorflow before Keras is imported"
        )
    if keras and keras.config.floatx() != "float32":
        raise RuntimeError(
            f"keras.config.floatx() is {keras.config.floatx()!r}, in which concepts cannot be "
            "learned: call keras.config.set_floatx('float32'); models that exist keep their type"
        )
    if tensorflow and not tensorflow.compat.v1.executing_eagerly_outside_functions():
        raise RuntimeError(
            "eager execution of TensorFlow was disabled: do not call "
            "tf.compat.v1.disable_eager_execution() or tf.compat.v1.disable_v2_behavior(), and do "
            "not work inside tf.Graph().as_default()"
        )
    numpy = sys.modules.get("numpy")
    if numpy and numpy.geterr()["under"] == "raise":
        raise RuntimeError(
            "numpy.seterr(under='raise') makes an error of every number that rounds to 0, as "
            "exp(-100) does in float32: call numpy.seterr(under='ignore'), which is the default"
        )
    if tensorflow and _widens_floats(tensorflow):
        raise RuntimeError(
            "tf.experimental.numpy.experimental_enable_numpy_behavior() makes float64 of float32: "
            "call it with prefer_float32=True"
        )


def _chosen_backend() -> str:
    """Return the backend that Keras will use: that of the environment, or of its settings file."""
    if os.environ.get("KERAS_BACKEND"):
        return os.environ["KERAS_BACKEND"]
    folder = Path(os.environ.get("KERAS_HOME") or Path.home() / ".keras")
    try:
        settings = json.loads((folder / "keras.json").read_text(encoding="utf-8"))
        return str(settings.get("backend", "tensorflow"))
    except (OSError, ValueError, AttributeError):  # Keras ignores such a file, too
        return "tensorflow"


def _widens_floats(tensorflow: Any) -> bool:
    """Return whether the product of a float32 tensor and a float64 number of numpy is float64."""
    number = tensorflow.float64.as_numpy_dtype(1.0)
    return bool((tensorflow.constant(1.0) * number).dtype == tensorflow.float64)


def _imported(name: str) -> Any:
    """Return a module that was imported completely; None if it was not."""
    module = sys.modules.get(name)
    return module if hasattr(module, "config") else None
