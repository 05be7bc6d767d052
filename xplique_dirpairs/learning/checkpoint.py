"""The state of a fit on disk: written after every epoch, so that a killed fit can go on."""

from __future__ import annotations

import json
import logging
import os
import uuid
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from xplique_dirpairs.core.progress import warn_caller
from xplique_dirpairs.data.devices import is_chief
from xplique_dirpairs.learning.fingerprint import Fingerprint
from xplique_dirpairs.learning.history import LearningWarning

logger = logging.getLogger("xplique_dirpairs")

#: Number of the layout of the file.
_VERSION = 4
_NAME = "state.npz"
_ANEW = "give another folder, or delete it to start anew"
_FOREIGN = f"is not the state of a fit, or is damaged: {_ANEW}"


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
        From `folder_for`.
    settings
        What makes one fit the continuation of another, as text.
    fingerprint
        Stands for the data and the network.

    Attributes
    ----------
    failure
        Why the state could not be kept when it was last tried in vain, in words; None if it could.
    """

    def __init__(self, folder: Path, settings: dict[str, str], fingerprint: Fingerprint):
        self._path = folder / _NAME
        self._settings, self._fingerprint = settings, fingerprint
        self.failure: str | None = None

    @staticmethod
    def folder_for(resume: str | os.PathLike) -> Path:
        """A folder to keep a fit in, made if it is not there; the chief can write to it.

        Raises
        ------
        TypeError, ValueError
            If it is no path, or the state cannot be written there.
        """
        if not isinstance(resume, (str, os.PathLike)):
            raise TypeError(f"resume must be a folder or None, not {type(resume).__name__}")
        if not os.fspath(resume):
            raise ValueError("resume is empty: give a folder to keep the fit in, or None")
        folder = Path(resume)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            if is_chief():
                beside = _beside(folder / _NAME)
                beside.write_bytes(b"")
                beside.unlink()
        except OSError as error:
            raise ValueError(
                f"resume={str(folder)!r} is no folder to keep a fit in ({error}): give one that "
                "can be written to"
            ) from error
        return folder

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
            version = info["version"]
        except Exception as error:
            raise ValueError(f"{self._path} {_FOREIGN}") from error
        if version != _VERSION:
            raise ValueError(
                f"{self._path} was written by another version of xplique_dirpairs (layout "
                f"{version}, not {_VERSION}): finish the fit with that version, {_ANEW}"
            )
        try:
            settings, fingerprint = info["settings"], Fingerprint.from_arrays(arrays)
        except Exception as error:
            raise ValueError(f"{self._path} {_FOREIGN}") from error
        other = [name for name, value in self._settings.items() if settings.get(name) != value]
        other += [
            name
            for name in self._fingerprint.differences(fingerprint)
            if not any(name.endswith(of_setting) for of_setting in other)  # said already
        ]
        if other:
            raise ValueError(
                f"{self._path} is the state of a fit with other {', '.join(other)}: {_ANEW}"
            )
        return SavedState(info["data"], arrays)

    def save(self, data: dict[str, Any], arrays: dict[str, NDArray]) -> None:
        """Replace what was saved.

        Warns
        -----
        LearningWarning
            Once, if it cannot be written: a healthy fit is not ended for it.
        """
        if not is_chief():
            return
        try:
            self._replace(data, arrays)
        except OSError as error:
            failed_before = self.failure is not None
            self.failure = (
                f"the state of the fit could not be kept in {self._path.parent} ({error})"
            )
            logger.warning(self.failure)
            if not failed_before:
                warn_caller(
                    f"{self.failure}: learning goes on without it, and it is tried again after "
                    "every epoch",
                    LearningWarning,
                )

    def _replace(self, data: dict[str, Any], arrays: dict[str, NDArray]) -> None:
        info = {"version": _VERSION, "settings": self._settings, "data": data}
        contents: dict[str, Any] = {
            "info": np.array(json.dumps(info)),
            **self._fingerprint.as_arrays(),
            **arrays,
        }
        beside = _beside(self._path)
        try:
            with open(beside, "wb") as file:
                np.savez(file, **contents)
                file.flush()
                os.fsync(file.fileno())
            os.replace(beside, self._path)
        except BaseException:
            with suppress(OSError):
                beside.unlink(missing_ok=True)
            raise


def _beside(path: Path) -> Path:
    """What is written first; of no other fit in the folder."""
    return path.with_suffix(f".{uuid.uuid4().hex}.new")


#: What early stopping, plateau schedules and the NaN guard remember between epochs.
_MEMORIES = ("wait", "best", "cooldown_counter", "stopped_epoch", "tripped_at")


class EpochState(keras.callbacks.Callback):
    """Hands the whole state of a stage to ``save`` after every epoch, and puts one back.

    The last of the callbacks: it sees what the others decided. They are known by their class, of
    which there is one each: not all are there in every process, nor in a fit that goes on.

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
        self.put_back()

    def put_back(self) -> None:
        """The memories of the others, as they were saved."""
        memories = {} if self._resumed is None else self._resumed.data["memories"]
        for callback in self._others:
            for name, value in memories.get(type(callback).__name__, {}).items():
                setattr(callback, name, value)

    def on_epoch_end(self, epoch, logs=None):
        """Save."""
        memories = {
            type(c).__name__: {
                name: float(v) for name in _MEMORIES if (v := getattr(c, name, None)) is not None
            }
            for c in self._others
        }
        variables = [*self.model.variables, *self.model.optimizer.variables]
        arrays = {f"variable_{k}": v.numpy() for k, v in enumerate(variables)}
        arrays["violation"] = self.model.last_violation
        stopped = bool(self.model.stop_training)
        self._save({"epoch": epoch + 1, "stopped": stopped, "memories": memories}, arrays)


def as_lists(kept: dict[str, NDArray]) -> dict[str, list]:
    """Arrays by name as plain data."""
    return {name: value.tolist() for name, value in kept.items()}


def as_arrays(kept: dict[str, list], dtype: type) -> dict[str, NDArray]:
    """Undo `as_lists`."""
    return {name: np.array(value, dtype) for name, value in kept.items()}


def restore(model: keras.Model, arrays: dict[str, NDArray]) -> None:
    """Variables of a compiled objective and of its optimizer, as `EpochState` saved them."""
    model.optimizer.build(model.trainable_variables)
    for k, variable in enumerate([*model.variables, *model.optimizer.variables]):
        variable.assign(arrays[f"variable_{k}"])
    model.last_violation = arrays["violation"]
