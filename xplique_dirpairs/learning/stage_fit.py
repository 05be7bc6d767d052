"""One stage of the learning, run by Keras."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from xplique_dirpairs.data.devices import distributed
from xplique_dirpairs.learning.batches import as_batches
from xplique_dirpairs.learning.callbacks import (
    EpochRecord,
    NaNGuard,
    Progress,
    halve_on_plateau,
    quiet,
    stop_early,
)
from xplique_dirpairs.learning.checkpoint import EpochState, SavedState, restore
from xplique_dirpairs.learning.coordinates import Coordinates
from xplique_dirpairs.learning.features import HeldFeatures, StreamedFeatures
from xplique_dirpairs.learning.objective import Detectors, Objective
from xplique_dirpairs.learning.recipe import Recipe, Stage
from xplique_dirpairs.models.head import Head

#: What a violated constraint costs when the best restart is chosen.
_VIOLATION_PRICE = 10.0
#: Feature maps in a step through a head that begins with a pooling: vectors, cheap.
_POOLED_MAPS = 32


@dataclass(frozen=True)
class StageResult:
    """What a stage came to.

    Attributes
    ----------
    detectors
        Of all R restarts.
    values : (R,)
        The last epoch's objective and ten times every violation: by these restarts are compared.
        NaN where a restart is not finite.
    violations
        Name of a constrained loss → by how much its bound is broken, (R,).
    cut_short
        Why it did not run to its end; None if it did.
    interrupted
        Whether by Ctrl-C.
    """

    detectors: Detectors
    values: NDArray
    violations: dict[str, NDArray]
    cut_short: str | None
    interrupted: bool


def fit_stage(
    stage: Stage,
    made: Coordinates,
    start: Detectors,
    features: HeldFeatures | StreamedFeatures,
    head: Head | None,
    recipe: Recipe,
    *,
    seed: int,
    records: list[dict[str, NDArray]],
    verbose: int = 0,
    save: Callable[[dict[str, Any], dict[str, NDArray]], None] | None = None,
    resumed: SavedState | None = None,
) -> StageResult:
    """Run one stage.

    Parameters
    ----------
    stage, made
        The stage, and the coordinates it learns in.
    start
        Where it begins.
    features, head, recipe
        What is learned from, and the recipe the stage is of.
    seed
        Of the order of the positions and of κ.
    records
        Every epoch's losses are appended, name → (R,).
    verbose
        1: a progress bar.
    save
        Called after every epoch with what a resumed stage needs.
    resumed
        What was saved.

    Raises
    ------
    ValueError
        If the features cannot be read any more.
    KeyboardInterrupt
        If it comes before the first steps, or after the last: the stage has nothing to keep, or
        is not complete. In between, what was learned is kept.
    """
    first_epoch = 0 if resumed is None else resumed.data["epoch"]
    positions = len(features)
    size = recipe.batch_for(start.filters.shape[1])
    full_batch = positions <= 2 * size
    passes = 1 if full_batch else math.ceil(positions / size)
    per_epoch = stage.steps_per_epoch or passes
    model = Objective(
        stage,
        made,
        start,
        gamma=recipe.gamma,
        head=head,
        steps=stage.epochs * per_epoch,
        full_batch=full_batch,
        network_every=1 if head is None or head.pools_first else recipe.network_every,
        seed=seed,
    )
    rate, scheduled = _schedule(stage, per_epoch)
    record, guard = EpochRecord(records), NaNGuard()
    callbacks = [record, guard, *scheduled]
    if verbose:
        concepts = start.filters.shape[1]
        callbacks.append(Progress(f"Learning {concepts} concepts, stage {stage.name}"))
    model.compile(keras.optimizers.Adam(rate), steps_per_execution=per_epoch, jit_compile=False)
    if resumed is not None:
        restore(model, resumed.arrays)
    if save is not None:
        state = EpochState(list(callbacks), save, resumed)
        state.put_back()  # a stage that had stopped is not run
        callbacks.append(state)
    cut_short, interrupted = None, False
    if resumed is None or not resumed.data["stopped"]:
        rows, skip = None if full_batch else size, first_epoch * per_epoch
        batches = _batches(model, made, features, head, recipe, rows, seed, skip)
        try:
            with quiet():
                model.fit(
                    distributed(batches),
                    initial_epoch=first_epoch,
                    epochs=stage.epochs,
                    steps_per_epoch=per_epoch,
                    callbacks=callbacks,
                    shuffle=False,
                    verbose=0,
                )
        except tf.errors.OpError:
            if features.failure is not None:
                raise features.failure from None
            raise
        except KeyboardInterrupt:
            if not int(model.optimizer.iterations.numpy()):
                raise
            interrupted = True
            cut_short = f"stage {stage.name} was interrupted: what it had is kept"
    if guard.tripped_at is not None:
        cut_short = (
            f"stage {stage.name} met NaN in epoch {int(guard.tripped_at) + 1}: what it had is kept"
        )
    violations = model.violations()
    values = np.where(model.finite_restarts(), model.reported()["objective"], np.nan)
    for violation in violations.values():
        values += _VIOLATION_PRICE * violation
    return StageResult(model.detectors(), values, violations, cut_short, interrupted)


def _schedule(stage: Stage, per_epoch: int) -> tuple[Any, list[keras.callbacks.Callback]]:
    """The learning rate, and the callbacks that change it or stop the stage."""
    rate = stage.learning_rate
    if stage.schedule == "cosine":
        decay = keras.optimizers.schedules.CosineDecay(rate, stage.epochs * per_epoch, 0.02)
        return decay, [stop_early(patience=5, after=math.ceil(0.7 * stage.epochs))]
    if stage.schedule == "plateau":
        return rate, [halve_on_plateau(stage.patience), stop_early(5 * stage.patience)]
    return rate, []


def _batches(model, made, features, head, recipe, size, seed, skip) -> tf.data.Dataset:
    """Endless batches for the objective, after the first ``skip`` of them."""
    positions = features.batches(made, size, seed, skip)
    if not model.uses_network:
        return as_batches(positions)
    # pooling commutes with linear moves only, which that of the predecessor is not
    pools = head.pools_first and "fired" not in model.terms
    pool, maps = (head.pool, _POOLED_MAPS) if pools else (None, recipe.maps)
    return as_batches(positions, features.maps(pool, maps, seed + 1).skip(skip))
