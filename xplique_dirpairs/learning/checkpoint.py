"""Save the state of a fit after every epoch, so that a killed fit can be resumed.

A fingerprint (a few numbers computed from the features and the network) detects the state of
another fit.
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

from xplique_dirpairs.core.archives import read_arrays
from xplique_dirpairs.core.progress import warn_caller
from xplique_dirpairs.core.types import Array
from xplique_dirpairs.core.validation import check_type
from xplique_dirpairs.data.devices import is_chief
from xplique_dirpairs.learning.coordinates import Moments
from xplique_dirpairs.learning.history import LearningWarning
from xplique_dirpairs.learning.recipe import Recipe
from xplique_dirpairs.learning.state import Detectors, FitState, Pace, Running
from xplique_dirpairs.models.head import Head

logger = logging.getLogger("xplique_dirpairs")

#: Version of the file layout.
_VERSION = 5
_NAME = "state.npz"
#: Fields of a `FitState` that JSON can hold as they are.
_PLAIN = ("generator", "number", "notes", "cut_short", "seconds", "clear_start", "per_position")
_ANEW = "give another folder, or delete the file to start again"
_FOREIGN = f"is not the state of a fit, or is damaged: {_ANEW}"

#: Differences of a mean (in standard deviations) and of a variance (relative) that count as
#: rounding errors.
_ROUNDING = 1e-3
#: Difference relative to a mean far from zero that counts as a rounding error of float32.
_RELATIVE_ROUNDING = 1e-5
#: A standard deviation below this share of the typical one is not used as a unit of comparison.
_FLOOR = 1e-3
#: Difference of `Moments.order` from which the order of positions differs: a random permutation of
#: all positions gives about 1.4, two swapped images of N about 3/√N.
_OTHER_ORDER = 0.01
#: Number of feature maps on which a head is evaluated for the fingerprint, and how many numbers are
#: kept of each output.
PROBES, _NUMBERS = 8, 8
#: Difference of a head's outputs (in their standard deviations) that counts as a rounding error of
#: features and network.
_OUTPUT_ROUNDING = 1e-2


class Checkpoint:
    """Save and load the state of a fit in a single file of a folder.

    The file is replaced as a whole: if the process is killed while it writes, the previous state
    remains. Several workers share the folder: the chief writes, and all of them read.

    Parameters
    ----------
    folder : Path
        A folder that `folder_for` returned.
    settings : dict of str to str
        Settings that must be equal for a fit to be continued, as text.
    fingerprint : Fingerprint
        Identifies the features and the network.

    Attributes
    ----------
    failure : str or None
        Why the last attempt to save the state failed; None if it did not fail.
    """

    def __init__(self, folder: Path, settings: dict[str, str], fingerprint: Fingerprint):
        self._path = folder / _NAME
        self._settings, self._fingerprint = settings, fingerprint
        self.failure: str | None = None

    @staticmethod
    def folder_for(resume: str | os.PathLike[str]) -> Path:
        """Create the folder for the state of a fit and check that the chief can write to it.

        Parameters
        ----------
        resume : str or path-like
            As in `learn_pairs`.

        Returns
        -------
        folder : Path

        Raises
        ------
        TypeError
            If ``resume`` is not a path.
        ValueError
            If ``resume`` is empty, or the state cannot be written there.
        """
        check_type("resume", resume, (str, os.PathLike), "a folder or None")
        if not os.fspath(resume):
            raise ValueError("resume is empty: give a folder to save the fit in, or None")
        folder = Path(resume)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            if is_chief():
                beside = _beside(folder / _NAME)
                beside.write_bytes(b"")
                beside.unlink()
        except OSError as error:
            raise ValueError(
                f"resume={str(folder)!r} is not a folder that a fit can be saved in ({error}): "
                "give one that can be written to"
            ) from error
        return folder

    def load(self, recipe: Recipe) -> FitState | None:
        """Return the state that was saved last; None if nothing was saved.

        Parameters
        ----------
        recipe : Recipe
            The recipe that the fit began with.

        Returns
        -------
        state : FitState or None

        Raises
        ------
        ValueError
            If the file is damaged, or holds the state of another fit or something else.
        """
        if not self._path.exists():
            return None
        parts = [field.name for field in dataclasses.fields(Fingerprint)]
        try:
            arrays: dict[str, Any] = dict(read_arrays(self._path))
            info = json.loads(str(arrays.pop("info")))
            version = info["version"]
            if version == _VERSION:
                settings = info["settings"]
                fingerprint = Fingerprint(**{name: arrays[f"fingerprint_{name}"] for name in parts})
        except Exception as error:
            raise ValueError(f"{self._path} {_FOREIGN}") from error
        if version != _VERSION:
            raise ValueError(
                f"{self._path} was written by another version of xplique_dirpairs (layout "
                f"{version}, not {_VERSION}): finish the fit with that version, {_ANEW}"
            )
        other = [name for name, value in self._settings.items() if settings.get(name) != value]
        other += [
            name
            for name in self._fingerprint.differences(fingerprint)
            if not any(name.endswith(of_setting) for of_setting in other)  # named already
        ]
        if other:
            raise ValueError(
                f"{self._path} is the state of a fit with other {', '.join(other)}: {_ANEW}"
            )
        try:
            return _state_of(info["data"], arrays, recipe)
        except Exception as error:
            raise ValueError(f"{self._path} {_FOREIGN}") from error

    def save(self, state: FitState) -> None:
        """Save a state after an epoch, replacing the previous one.

        Parameters
        ----------
        state : FitState
            A state within a stage.

        Warns
        -----
        LearningWarning
            At the first failure to write the file; the fit goes on without it.
        """
        if not is_chief():
            return
        try:
            self._replace(*_saved(state))
        except OSError as error:
            failed_before = self.failure is not None
            self.failure = f"the fit's state could not be saved in {self._path.parent} ({error})"
            logger.warning(self.failure)
            if not failed_before:
                again = "learning continues, and saving is tried again after every epoch"
                warn_caller(f"{self.failure}: {again}", LearningWarning)

    def _replace(self, data: dict[str, Any], arrays: dict[str, Array]) -> None:
        """Write a new file and put it in the place of the previous one."""
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
    """Return the path of a temporary file that no other fit in the folder uses."""
    return path.with_suffix(f".{uuid.uuid4().hex}.new")


def _saved(state: FitState) -> tuple[dict[str, Any], dict[str, Array]]:
    """Return a state as data that JSON can hold, and arrays."""
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
    arrays = {**running.variables, "filters": detectors.filters, "biases": detectors.centred_biases}
    if detectors.signals is not None:
        arrays["signals"] = detectors.signals
    return data, arrays


def _state_of(data: dict[str, Any], arrays: dict[str, Array], recipe: Recipe) -> FitState:
    """Return the state that `_saved` turned into data and arrays."""
    for _ in range(data["switches"]):  # counted, because names of recipes need not differ
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
    """Return arrays as lists, which JSON can hold."""
    return {name: value.tolist() for name, value in kept.items()}


def _as_arrays(kept: dict[str, list[Any]], dtype: type) -> dict[str, Array]:
    """Return lists as arrays."""
    return {name: np.array(value, dtype) for name, value in kept.items()}


# ------------------------------------------------------------------ identifying a fit


@dataclass(frozen=True)
class Fingerprint:
    """A few numbers that distinguish features and a head from others.

    Attributes
    ----------
    mean : ndarray of shape (D,)
        Mean of the features; see `Moments`.
    variances : ndarray of shape (D,)
        Variance of each channel.
    order : ndarray of shape (D,)
        Depends on the order of the positions; see `Moments`.
    count : int
        Number of positions P.
    head : int
        Checksum of the network's weights; 0 if they are not accessible.
    outputs : ndarray of shape (n, 8)
        Eight random combinations of the class scores on the first n feature maps. They distinguish
        heads with equal or inaccessible weights. Zeros without a head.
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
            Moments of the features.
        maps : ndarray of shape (n, *spatial, D)
            The first n feature maps, at most `PROBES`.
        head : Head or None
            The rest of the network.

        Returns
        -------
        fingerprint : Fingerprint
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
        """Return the names of the parts that differ by more than rounding errors."""
        differences = []
        if not self._same_values(other):
            differences.append("activations")
        elif not self._same_order(other):
            differences.append("order of the positions, or activations of equal mean and variance")
        if self.head != other.head:
            differences.append("weights of the head")
        elif not differences and not self._same_outputs(other):
            differences.append("outputs of the head")
        return differences

    def _deviations(self) -> Array:
        """Return the standard deviations of the channels (D,), bounded away from zero."""
        return np.asarray(np.sqrt(self.variances + _FLOOR**2 * self.variances.mean()))

    def _same_values(self, other: Fingerprint) -> bool:
        """Return whether counts, means and variances agree."""
        if self.mean.shape != other.mean.shape or self.count != other.count:
            return False
        unit = self._deviations()
        rounding = _ROUNDING * unit + _RELATIVE_ROUNDING * np.abs(self.mean)
        moved = np.abs(self.mean - other.mean) > rounding
        wider = np.abs(self.variances - other.variances) > _ROUNDING * unit**2
        return not (moved.any() or wider.any())

    def _same_order(self, other: Fingerprint) -> bool:
        """Return whether the positions come in the same order."""
        difference = (self.order - other.order) / self._deviations()
        return float(np.sqrt(self.count * np.square(difference).mean())) < _OTHER_ORDER

    def _same_outputs(self, other: Fingerprint) -> bool:
        """Return whether the heads have the same outputs."""
        ours, others = self.outputs, other.outputs
        if ours.shape != others.shape:
            return False
        rounding = _OUTPUT_ROUNDING * ours.std() + _RELATIVE_ROUNDING * np.abs(ours).max()
        return bool(np.abs(ours - others).max() <= rounding)


def _combined_outputs(head: Head | None, maps: Array) -> Array:
    """Return 8 random combinations of a head's class scores (n, K) on n maps, as (n, 8).

    Their number does not depend on K, in which the workers of a cluster may differ.
    """
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
