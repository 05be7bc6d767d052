"""Keras callbacks of a training: a guard against NaN and a progress bar."""

from __future__ import annotations

import logging
from typing import Any

import keras
import numpy as np

logger = logging.getLogger("xplique_dirpairs")


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
