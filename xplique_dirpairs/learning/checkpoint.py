"""The state of a fit on disk: written after every epoch, so that a killed fit can go on."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from xplique_dirpairs.distribution import is_chief

#: Number of the layout of the file.
_VERSION = 2
_NAME = "state.npz"
_FOREIGN = (
    "is not the state of a fit, or is damaged: give another folder, or delete it to start anew"
)


@dataclass(frozen=True)
class SavedState:
    """Plain data and arrays of a fit."""

    data: dict[str, Any]
    arrays: dict[str, NDArray]


class Checkpoint:
    """One file in a folder, replaced as a whole: a kill while writing leaves the one before.

    Of several workers the chief writes, and all read: they share the folder.

    Parameters
    ----------
    folder
        Made if it is not there.
    settings
        What makes one fit the continuation of another, as text.
    mean : (D,)
        Of the features; stands for the data.
    """

    def __init__(self, folder: str | os.PathLike, settings: dict[str, str], mean: NDArray):
        self._path = Path(folder) / _NAME
        self._settings, self._mean = settings, mean
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ValueError(f"resume={str(folder)!r} is no folder to keep a fit in") from error

    def load(self) -> SavedState | None:
        """What was saved last; None if nothing was.

        Raises
        ------
        ValueError
            If it is the state of another fit, or no state at all.
        """
        if not self._path.exists():
            return None
        try:
            with open(self._path, "rb") as opened, np.load(opened, allow_pickle=False) as file:
                arrays = {name: file[name] for name in file.files}
            info = json.loads(str(arrays.pop("info")))
            version, settings, mean = info["version"], info["settings"], arrays.pop("mean")
        except Exception as error:
            raise ValueError(f"{self._path} {_FOREIGN}") from error
        if version != _VERSION:
            raise ValueError(f"{self._path} has version {version} of the layout, not {_VERSION}")
        other = [name for name, value in self._settings.items() if settings.get(name) != value]
        if mean.shape != self._mean.shape or not np.allclose(mean, self._mean, rtol=1e-4):
            other.append("activations")
        if other:
            raise ValueError(
                f"{self._path} is the state of a fit with other {', '.join(other)}: give another "
                "folder, or delete it to start anew"
            )
        return SavedState(info["data"], arrays)

    def save(self, data: dict[str, Any], arrays: dict[str, NDArray]) -> None:
        """Replace what was saved."""
        if not is_chief():
            return
        info = {"version": _VERSION, "settings": self._settings, "data": data}
        contents: dict[str, Any] = {
            "info": np.array(json.dumps(info)),
            "mean": self._mean,
            **arrays,
        }
        beside = self._path.with_suffix(".new")
        with open(beside, "wb") as file:
            np.savez(file, **contents)
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, self._path)


#: What early stopping and plateau schedules remember between epochs.
_MEMORIES = ("wait", "best", "cooldown_counter", "stopped_epoch")


class EpochState(keras.callbacks.Callback):
    """Hands the whole state of a stage to ``save`` after every epoch, and puts one back.

    The last of the callbacks: it sees what the others decided.

    Parameters
    ----------
    callbacks
        The others.
    save
        Called with plain data and arrays.
    resumed
        What was saved; None to begin.
    """

    def __init__(
        self,
        callbacks: list[keras.callbacks.Callback],
        save: Callable[[dict[str, Any], dict[str, NDArray]], None],
        resumed: SavedState | None,
    ):
        super().__init__()
        self._others, self._save, self._resumed = callbacks, save, resumed

    def on_train_begin(self, logs=None):
        """Put the memories of the others back, which have just forgotten them."""
        if self._resumed is None:
            return
        memories = self._resumed.data["memories"]
        for callback, memory in zip(self._others, memories, strict=True):
            for name, value in memory.items():
                setattr(callback, name, value)

    def on_epoch_end(self, epoch, logs=None):
        """Save."""
        memories = [
            {name: float(v) for name in _MEMORIES if (v := getattr(c, name, None)) is not None}
            for c in self._others
        ]
        variables = [*self.model.variables, *self.model.optimizer.variables]
        arrays = {f"variable_{k}": v.numpy() for k, v in enumerate(variables)}
        arrays["violation"] = self.model.last_violation
        stopped = bool(self.model.stop_training)
        self._save({"epoch": epoch + 1, "stopped": stopped, "memories": memories}, arrays)


def restore(model: keras.Model, arrays: dict[str, NDArray]) -> None:
    """Variables of a compiled objective and of its optimizer, as `EpochState` saved them."""
    model.optimizer.build(model.trainable_variables)
    for k, variable in enumerate([*model.variables, *model.optimizer.variables]):
        variable.assign(arrays[f"variable_{k}"])
    model.last_violation = arrays["violation"]
