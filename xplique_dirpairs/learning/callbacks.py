"""Keras callbacks of the learning: history and dual updates, the NaN guard, progress."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import keras
import numpy as np

from xplique_dirpairs.learning.objective import Objective

logger = logging.getLogger("xplique_dirpairs")


class EpochRecord(keras.callbacks.Callback):
    """Keeps every loss per epoch and updates the multipliers of the constraints.

    Parameters
    ----------
    epochs
        Appended to: name of a loss → its value in every restart, (R,).
    """

    def __init__(self, epochs: list[dict[str, np.ndarray]]):
        super().__init__()
        self.epochs = epochs

    def on_epoch_end(self, epoch, logs=None):
        """Record, then one dual update."""
        model: Objective = self.model
        self.epochs.append(model.reported())
        model.update_multipliers()


class NaNGuard(keras.callbacks.Callback):
    """Ends a stage when no restart has a finite objective any more, on the last good values."""

    def __init__(self):
        super().__init__()
        self.tripped_at: int | None = None
        self._good: list[np.ndarray] | None = None

    def on_train_begin(self, logs=None):
        """The start counts as good."""
        self._good = self.model.get_weights()

    def on_epoch_end(self, epoch, logs=None):
        """Keep the values if any restart is finite; otherwise restore and stop."""
        if self.model.finite_restarts().any():
            self._good = self.model.get_weights()
            return
        self.tripped_at = epoch
        self.model.set_weights(self._good)
        self.model.stop_training = True
        logger.info(  # the caller warns of it
            "%s: the objective became NaN in epoch %d; the last finite epoch is kept",
            self.model.name,
            epoch + 1,
        )


class Progress(keras.callbacks.Callback):
    """One progress bar for a whole stage."""

    def __init__(self, label: str):
        super().__init__()
        self._label = label
        self._bar: Any = None

    def on_train_begin(self, logs=None):
        """Draw the empty bar."""
        print(self._label)
        self._bar = keras.utils.Progbar(
            self.params["epochs"], unit_name="epoch", stateful_metrics=["objective"]
        )  # stateful: shown as it is, not averaged over the epochs

    def on_epoch_end(self, epoch, logs=None):
        """Advance it."""
        objective = self.model.reported()["objective"]
        finite = objective[np.isfinite(objective)]
        best = [("objective", float(finite.min()))] if finite.size else []
        self._bar.update(epoch + 1, best)

    def on_train_end(self, logs=None):
        """Finish the line of a stage that stopped early."""
        if self.model.stop_training:
            print()


def halve_on_plateau(patience: int) -> keras.callbacks.Callback:
    """Halve the learning rate when no restart has improved for so many epochs."""
    return keras.callbacks.ReduceLROnPlateau(
        "objective", mode="min", factor=0.5, patience=patience, cooldown=patience, min_lr=1e-7
    )


def stop_early(patience: int, after: int = 0) -> keras.callbacks.Callback:
    """Stop when no restart has improved for so many epochs; not while the sharpness rises."""
    return keras.callbacks.EarlyStopping(
        "objective", mode="min", min_delta=1e-4, patience=patience, start_from_epoch=after
    )


@contextmanager
def quiet() -> Iterator[None]:
    """Without what TensorFlow and Keras say of themselves, not of the learning.

    Several fits in one process trace several functions, which TensorFlow takes for a mistake, and
    ReduceLROnPlateau reads a variable in a way that numpy deprecates.
    """
    tensorflow = logging.getLogger("tensorflow")
    level = tensorflow.level
    tensorflow.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "__array__ implementation", DeprecationWarning)
            yield
    finally:
        tensorflow.setLevel(level)
