"""One stage of a fit, from the state before it to the state after it, epoch by epoch.

`stage_run` leads from the state before a stage, which it does not change, to the state after it.
Checkpoints, Ctrl-C and several workers are handled around a `StageRun`, in `learner`.
"""

from __future__ import annotations

import math
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import tensorflow as tf

from xplique_dirpairs.core.progress import ProgressLine
from xplique_dirpairs.core.types import Array
from xplique_dirpairs.learning.coordinates import Coordinates
from xplique_dirpairs.learning.features import Batches
from xplique_dirpairs.learning.objective import Objective
from xplique_dirpairs.learning.recipe import Stage, terms_of
from xplique_dirpairs.learning.signals import measure_pairs
from xplique_dirpairs.learning.starts import positions_for
from xplique_dirpairs.learning.state import Detectors, FitState, Pace, Problem, Running
from xplique_dirpairs.models.head import Head

#: Largest 1/M, in whitened units, per detection and axis [measured with I = 128 and Zipf's law:
#: the share of concepts recovered is .00 and .48 without a limit, .78 and .84 with 1/M up to 50].
_SHARPNESS_PER_DETECTION = 10.0
#: Weight of the violation of a constraint when the best restart is chosen.
_VIOLATION_PRICE = 10.0
#: Feature maps in a step if the head begins with a pooling: pooled maps are vectors, and cheap.
_POOLED_MAPS = 32
#: Number of compiled objectives that are kept for later stages with the same graph.
_KEPT_OBJECTIVES = 8


@contextmanager
def stage_run(problem: Problem, state: FitState) -> Iterator[StageRun]:
    """Prepare the next stage of a fit, or the rest of a stage that was running.

    Parameters
    ----------
    problem : Problem
    state : FitState
        State before the stage, or between two of its epochs.

    Yields
    ------
    run : StageRun
    """
    began = time.perf_counter() - (0.0 if state.running is None else state.running.seconds)
    stage, coordinates, state, seed = _prepared(problem, state)
    recipe, head = state.recipe, problem.head
    size = recipe.batch_for(problem.number_of_concepts)
    full_batch = len(problem.features) <= 2 * size
    passes = 1 if full_batch else math.ceil(len(problem.features) / size)
    per_epoch = stage.steps_per_epoch or passes
    settings = {
        "gamma": recipe.gamma,
        "steps": stage.epochs * per_epoch,
        "full_batch": full_batch,
        "network_every": 1 if head is None or head.pools_first else recipe.network_every,
        "seed": seed,
    }
    with _borrowed_objective(stage, coordinates, state.detectors, head, settings) as model:
        if state.running is not None:
            model.set_state(state.running.variables)
            model.set_learning_rate(state.running.pace.rate)

        def batches(skip: int) -> dict[str, Batches]:
            features = problem.features
            limit = None if full_batch else size
            feeds: dict[str, Batches] = {
                "positions": features.batches(coordinates, limit, seed, skip)
            }
            if head is not None and model.uses_network:
                # Pooling commutes with linear moves only; the move of "fired" is not linear.
                pools = head.pools_first and "fired" not in model.terms
                pool, maps = (head.pool, _POOLED_MAPS) if pools else (None, recipe.maps)
                feeds["maps"] = features.maps(pool, maps, seed + 1, skip)
            return feeds

        yield StageRun(problem, state, stage, model, batches, per_epoch, seed, began)


class StageRun:
    """A stage that is being learned, created by `stage_run`.

    `epochs` runs it, `state` is the fit between two epochs, and `result` the fit after it.
    """

    def __init__(
        self,
        problem: Problem,
        state: FitState,
        stage: Stage,
        model: Objective,
        batches: Callable[[int], dict[str, Batches]],
        per_epoch: int,
        seed: int,
        began: float,
    ):
        self._problem, self._state, self._stage, self._model = problem, state, stage, model
        self._batches, self._per_epoch, self._seed, self._began = batches, per_epoch, seed, began
        running = state.running
        self._records = list(state.records.get(stage.name, ()))
        self._pace = Pace(stage.learning_rate) if running is None else running.pace
        self._epoch = 0 if running is None else running.epoch
        self._stopped = running is not None and running.stopped
        self._nan_in = None if running is None else running.nan_in

    @property
    def has_learned(self) -> bool:
        """Whether at least one step was taken, so that there is a result."""
        return bool(self._model.step.numpy())

    def epochs(self) -> Iterator[int]:
        """Learn, and yield the number of finished epochs after each epoch."""
        stage, model = self._stage, self._model
        if self._stopped or self._epoch >= stage.epochs:
            return
        batches = self._batches(self._epoch * self._per_epoch)
        line = None
        if self._problem.verbose:
            concepts = self._problem.number_of_concepts
            title = f"Learning {concepts} concepts, stage {stage.name}"
            line = ProgressLine(stage.epochs, title, "epoch")
        finite_state = model.state()
        while self._epoch < stage.epochs and not self._stopped:
            model.run_epoch(batches, self._per_epoch)
            losses = model.reported()
            self._records.append(losses)
            model.update_multipliers()
            if model.finite_restarts().any():
                finite_state = model.state()
            else:
                model.set_state(finite_state)
                self._nan_in, self._stopped = self._epoch, True
            finite = losses["objective"][np.isfinite(losses["objective"])]
            least = float(self._problem.agree(np.array(np.min(finite, initial=np.inf))))
            self._pace, stop = self._pace.after(stage, self._epoch, least)
            model.set_learning_rate(self._pace.rate)
            self._stopped |= stop
            self._epoch += 1
            if line is not None:
                remark = f"objective {least:.4f}" if np.isfinite(least) else ""
                line.update(self._epoch, remark)
            yield self._epoch
        if line is not None:
            line.close()

    @property
    def state(self) -> FitState:
        """State of the fit between two epochs."""
        running = Running(
            self._epoch,
            self._seed,
            time.perf_counter() - self._began,
            self._pace,
            self._stopped,
            self._nan_in,
            self._model.state(),
        )
        return replace(self._state, records=self._all_records(), running=running)

    def result(self, interrupted: bool = False) -> FitState:
        """Return the state after the stage.

        Parameters
        ----------
        interrupted : bool, default=False
            Whether the stage was interrupted. The result is then what was learned so far.

        Returns
        -------
        state : FitState
        """
        state, name, model = self._state, self._stage.name, self._model
        violations = model.violations()
        values = np.where(model.finite_restarts(), model.reported()["objective"], np.nan)
        for violation in violations.values():
            values += _VIOLATION_PRICE * violation
        cut_short = state.cut_short
        if self._nan_in is not None:
            epoch = self._nan_in + 1
            cut_short += (f"stage {name} met NaN in epoch {epoch}: the state before it is kept",)
        elif interrupted:
            cut_short += (f"stage {name} was interrupted: what it learned until then is kept",)
        return replace(
            state,
            number=state.number + 1,
            detectors=model.detectors(),
            values=values,
            records=self._all_records(),
            violations={**state.violations, name: violations},
            seconds={**state.seconds, name: time.perf_counter() - self._began},
            cut_short=cut_short,
            interrupted=interrupted,
            running=None,
        )

    def _all_records(self) -> dict[str, tuple[dict[str, Array], ...]]:
        """Return the records of the fit including those of this stage, as `FitState.records`."""
        return {**self._state.records, self._stage.name: tuple(self._records)}


def _prepared(problem: Problem, state: FitState) -> tuple[Stage, Coordinates, FitState, int]:
    """Return the next stage adapted to the features, its coordinates, initial state and seed."""
    stage = state.recipe.stages[state.number]
    coordinates = problem.coordinates(stage.coordinates)
    stage = stage.in_axes(coordinates.axes).for_concepts(problem.number_of_concepts)
    stage = stage.for_noise(coordinates.noise)
    if state.per_position > 1:
        stage = replace(stage, per_position=state.per_position)
    if state.running is not None:
        seed = state.running.seed
    else:
        rng = state.random_generator()
        seed = int(rng.integers(2**31))
        state = replace(state, generator=rng.bit_generator.state)
        if state.values.size:
            state = state.survivors()
        if stage.signals == "free" and state.detectors.signals is None:
            signals = _measured_signals(problem, state.detectors)
            state = replace(state, detectors=replace(state.detectors, signals=signals))
    if stage.sharpness is not None:
        sharpest = _sharpest(problem, state.detectors, coordinates, stage.sharpness[0], seed)
        state = replace(state, detectors=replace(state.detectors, sharpest=sharpest))
    return stage, coordinates, state, seed


def _measured_signals(problem: Problem, detectors: Detectors) -> Array:
    """Return signal vectors (R, I, D) estimated from the detectors: stage c of the paper."""
    return np.stack(
        [
            problem.agree(measure_pairs(problem.features, problem.moments, *detector).pairs.signals)
            for detector in zip(detectors.filters, detectors.centred_biases, strict=True)
        ]
    )


def _sharpest(
    problem: Problem, detectors: Detectors, coordinates: Coordinates, least: float, seed: int
) -> Array:
    """Return upper limits of the sharpness 1/M, (R, I), at least ``least``.

    A sharp detector is fitted to the positions nearest to its threshold, and there are few of them
    if the concept is detected on few positions.
    """
    sample = problem.features.sample(
        coordinates, positions_for(problem.number_of_concepts), np.random.default_rng(seed)
    )
    filters = coordinates.filters_from_raw(detectors.filters).astype(np.float32)
    shares = [
        (sample @ w.T > b).mean(axis=0)
        for w, b in zip(filters, detectors.centred_biases, strict=True)
    ]
    detections = np.array(shares) * len(problem.features)
    limits = np.maximum(_SHARPNESS_PER_DETECTION * detections / coordinates.axes, least)
    return np.asarray(problem.agree(limits))


# ------------------------------------------------------------------ compiled objectives

_objectives: OrderedDict[tuple[Any, ...], Objective] = OrderedDict()


@contextmanager
def _borrowed_objective(
    stage: Stage,
    coordinates: Coordinates,
    start: Detectors,
    head: Head | None,
    settings: dict[str, Any],
) -> Iterator[Objective]:
    """Yield an objective for a stage, a compiled one if an earlier stage had the same graph.

    The parameters, and the keys of ``settings``, are those of `Objective`. The graph depends on
    shapes, on the losses, on where signal vectors come from, on the Python settings that a loss
    reads and on the head's model: all of these must be in the key. Other numbers are variables.
    Objectives created under a `tf.distribute` strategy are not kept.
    """
    key = (
        terms_of(stage, head),
        *(frozenset(names) for names in (stage.weights, stage.constraints)),
        (stage.signals, stage.shared, stage.orthonormal, stage.sharpness is None),
        (stage.per_position, start.filters.shape, coordinates.axes),
        tuple(settings[name] for name in ("gamma", "full_batch", "network_every")),
        None
        if head is None
        else (id(head.model), head.ends_in, head.is_multilabel, head.pools_first),
    )
    # An objective in use is not in the cache, so that fits in several threads do not share it.
    objective = _objectives.pop(key, None)
    if objective is None:
        objective = Objective(stage, coordinates, start, head=head, **settings)
    else:
        steps, seed = settings["steps"], settings["seed"]
        objective.begin(stage, coordinates, start, steps=steps, seed=seed)
    try:
        yield objective
    finally:
        if not tf.distribute.has_strategy():
            _objectives[key] = objective
            while len(_objectives) > _KEPT_OBJECTIVES:
                _objectives.popitem(last=False)
