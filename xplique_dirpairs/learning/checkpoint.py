"""The state of a fit on disk, written after every epoch, so that a killed fit can be resumed.

A fingerprint of features and network, in a few numbers, tells the state of another fit.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import os
import uuid
import zlib
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from xplique_dirpairs.core.progress import warn_caller
from xplique_dirpairs.core.types import Array
from xplique_dirpairs.core.validation import check_type
from xplique_dirpairs.data.devices import is_chief
from xplique_dirpairs.learning.features import Moments
from xplique_dirpairs.learning.history import LearningWarning
from xplique_dirpairs.learning.objective import Detectors
from xplique_dirpairs.learning.recipe import Recipe
from xplique_dirpairs.learning.state import FitState, Pace, Running
from xplique_dirpairs.models.head import Head

logger = logging.getLogger("xplique_dirpairs")

#: Number of the layout of the file.
_VERSION = 5
_NAME = "state.npz"
#: Parts of a `FitState` that are plain data.
_PLAIN = ("generator", "number", "notes", "cut_short", "seconds", "clear_start", "per_position")
_ANEW = "give another folder, or delete it to start anew"
_FOREIGN = f"is not the state of a fit, or is damaged: {_ANEW}"

#: Differences of mean and variance that are rounding: in standard deviations and variances.
_ROUNDING = 1e-3
#: The same of a mean far from zero, relative to it: that of float32 values.
_RELATIVE_ROUNDING = 1e-5
#: Share of the typical standard deviation below which a channel's own says nothing.
_FLOOR = 1e-3
#: Difference of `Moments.order`, where another order of all positions has about 1.4 and two images
#: of N that changed places have about 3/√N.
_OTHER_ORDER = 0.01
#: Feature maps that a head is known by: their number, and that of numbers kept of each output.
PROBES, _NUMBERS = 8, 8
#: Differences of a head's outputs that are rounding, of the features and of the network: in
#: standard deviations of the outputs.
_OUTPUT_ROUNDING = 1e-2


class Checkpoint:
    """One file in a folder, replaced as a whole: a kill while writing leaves the one before.

    Of several workers the chief writes, and all read: they share the folder.

    Parameters
    ----------
    folder : Path
        From `folder_for`.
    settings : dict of str to str
        What makes one fit the continuation of another, as text.
    fingerprint : Fingerprint
        Stands for the data and the network.

    Attributes
    ----------
    failure : str or None
        Why the last attempt to save the state failed; None if it succeeded.
    """

    def __init__(self, folder: Path, settings: dict[str, str], fingerprint: Fingerprint):
        self._path = folder / _NAME
        self._settings, self._fingerprint = settings, fingerprint
        self.failure: str | None = None

    @staticmethod
    def folder_for(resume: str | os.PathLike[str]) -> Path:
        """Return the folder to keep a fit in; create it, and check that the chief can write to it.

        Raises
        ------
        TypeError, ValueError
            If it is no path, or the state cannot be written there.
        """
        check_type("resume", resume, (str, os.PathLike), "a folder or None")
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

    def load(self, recipe: Recipe) -> FitState | None:
        """Return the state that was saved last; None if there is none.

        Parameters
        ----------
        recipe : Recipe
            The fit's first one.

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
            settings, parts = (
                info["settings"],
                [field.name for field in dataclasses.fields(Fingerprint)],
            )
            fingerprint = Fingerprint(**{name: arrays[f"fingerprint_{name}"] for name in parts})
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
        return _state_of(info["data"], arrays, recipe)

    def save(self, state: FitState) -> None:
        """Save a state between two epochs in place of the one before.

        Warns
        -----
        LearningWarning
            Once, if it cannot be written: a healthy fit is not ended for it.
        """
        if not is_chief():
            return
        try:
            self._replace(*_saved(state))
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

    def _replace(self, data: dict[str, Any], arrays: dict[str, Array]) -> None:
        info = {"version": _VERSION, "settings": self._settings, "data": data}
        contents: dict[str, Any] = {
            "info": np.array(json.dumps(info)),
            **{f"fingerprint_{name}": value for name, value in vars(self._fingerprint).items()},
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
    """Return a path to write to first, used by no other fit in the folder."""
    return path.with_suffix(f".{uuid.uuid4().hex}.new")


def _saved(state: FitState) -> tuple[dict[str, Any], dict[str, Array]]:
    """Return a state between two epochs as plain data and arrays."""
    running, detectors = state.running, state.detectors
    assert running is not None
    data = {
        "switches": state.switches,
        "running": {**vars(running), "pace": vars(running.pace), "variables": None},
        "records": {
            name: [_as_lists(epoch) for epoch in epochs] for name, epochs in state.records.items()
        },
        "violations": {name: _as_lists(broken) for name, broken in state.violations.items()},
    }
    data |= {name: getattr(state, name) for name in _PLAIN}
    arrays = {**running.variables, "filters": detectors.filters, "biases": detectors.biases}
    if detectors.signals is not None:
        arrays["signals"] = detectors.signals
    return data, arrays


def _state_of(data: dict[str, Any], arrays: dict[str, Array], recipe: Recipe) -> FitState:
    """Undo `_saved`."""
    for _ in range(data["switches"]):  # names of recipes need not differ
        assert recipe.otherwise is not None
        recipe = recipe.otherwise
    stored = data["running"] | {"pace": Pace(**data["running"]["pace"]), "variables": arrays}
    state = FitState(
        recipe,
        detectors=Detectors(arrays["filters"], arrays["biases"], arrays.get("signals")),
        records={
            name: tuple(_as_arrays(epoch, np.float32) for epoch in epochs)
            for name, epochs in data["records"].items()
        },
        violations={
            name: _as_arrays(broken, np.float64) for name, broken in data["violations"].items()
        },
        switches=data["switches"],
        running=Running(**stored),
        **{name: data[name] for name in _PLAIN},
    )
    note = f"resumed in stage {recipe.stages[state.number].name}"
    logger.info(note)
    return dataclasses.replace(state, notes=(*state.notes, note), cut_short=tuple(state.cut_short))


def _as_lists(kept: dict[str, Array]) -> dict[str, list[Any]]:
    return {name: value.tolist() for name, value in kept.items()}


def _as_arrays(kept: dict[str, list[Any]], dtype: type) -> dict[str, Array]:
    return {name: np.array(value, dtype) for name, value in kept.items()}


# ------------------------------------------------------------------ which fit it is


@dataclass(frozen=True)
class Fingerprint:
    """A few numbers that tell features and a head from others.

    Attributes
    ----------
    mean, variances, order : ndarray of shape (D,)
        See `Moments`.
    count : int
        P.
    head : int
        Checksum of the network's weights; 0 where it shows none.
    outputs : ndarray of shape (n, 8)
        Outputs of the head on the first feature maps, in 8 random combinations of the classes:
        tells apart what has the same weights, or shows none. Zeros without a head.
    """

    mean: Array
    variances: Array
    order: Array
    count: int
    head: int
    outputs: Array

    @classmethod
    def of(cls, moments: Moments, maps: Array, head: Head | None) -> Fingerprint:
        """Compute the fingerprint of features, and of a head by its weights and outputs.

        Parameters
        ----------
        moments : Moments
        maps : ndarray of shape (n, *spatial, D)
            The first of the features, at most `PROBES`.
        head : Head or None
        """
        return cls(
            mean=moments.mean,
            variances=moments.covariance.diagonal(),
            order=moments.order,
            count=moments.count,
            head=weights_checksum(head),
            outputs=_combined_outputs(head, maps),
        )

    def differences(self, other: Fingerprint) -> list[str]:
        """Return the names of what differs by more than rounding."""
        found = []
        if not self._same_values(other):
            found.append("activations")
        elif not self._same_order(other):
            found.append("order of the positions, or activations alike in mean and variance only")
        if self.head != other.head:
            found.append("weights of the head")
        elif not found and not self._same_outputs(other):
            found.append("outputs of the head")
        return found

    def _deviations(self) -> Array:
        """Return the unit of each channel, (D,), never zero."""
        return np.asarray(np.sqrt(self.variances + _FLOOR**2 * self.variances.mean()))

    def _same_values(self, other: Fingerprint) -> bool:
        if self.mean.shape != other.mean.shape or self.count != other.count:
            return False
        unit = self._deviations()
        rounding = _ROUNDING * unit + _RELATIVE_ROUNDING * np.abs(self.mean)
        moved = np.abs(self.mean - other.mean) > rounding
        wider = np.abs(self.variances - other.variances) > _ROUNDING * unit**2
        return not (moved.any() or wider.any())

    def _same_order(self, other: Fingerprint) -> bool:
        difference = (self.order - other.order) / self._deviations()
        return float(np.sqrt(self.count * np.square(difference).mean())) < _OTHER_ORDER

    def _same_outputs(self, other: Fingerprint) -> bool:
        ours, others = self.outputs, other.outputs
        if ours.shape != others.shape:
            return False
        rounding = _OUTPUT_ROUNDING * ours.std() + _RELATIVE_ROUNDING * np.abs(ours).max()
        return bool(np.abs(ours - others).max() <= rounding)


def _combined_outputs(head: Head | None, maps: Array) -> Array:
    """Return outputs (n, 8): as many for any number of classes, in which workers may differ."""
    if head is None:
        return np.zeros((len(maps), _NUMBERS))
    outputs = tf.cast(head.outputs(tf.constant(maps)), tf.float32).numpy().astype(np.float64)
    combinations = np.random.default_rng(0).standard_normal((outputs.shape[1], _NUMBERS))
    return np.asarray(outputs @ combinations)


def weights_checksum(head: Head | None) -> int:
    """Return a checksum of a Keras model's weights; 0 without a head or for another callable."""
    if head is None or not isinstance(head.model, keras.Model):
        return 0
    checksum = 0
    for weights in head.model.get_weights():
        checksum = zlib.crc32(np.ascontiguousarray(weights).tobytes(), checksum)
    return checksum
