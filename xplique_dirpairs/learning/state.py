"""The data of a fit, as immutable values: the problem, and the state of its solution."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from xplique_dirpairs.core.types import Array
from xplique_dirpairs.learning.coordinates import COORDINATES, Coordinates, Moments
from xplique_dirpairs.learning.features import Features
from xplique_dirpairs.learning.recipe import Recipe, Stage
from xplique_dirpairs.models.head import Head

logger = logging.getLogger("xplique_dirpairs")

#: Largest number of detections in a step (P · I · R) for which further restarts are cheap.
_CHEAP_STEP = 200_000
#: Smallest improvement of an objective that counts, and lowest learning rate of "plateau".
_IMPROVEMENT, _LEAST_RATE = 1e-4, 1e-7
#: Share of the epochs before which a "cosine" schedule does not stop a stage, because the sharpness
#: still rises, and the number of epochs without improvement after which it does.
_NOT_BEFORE, _COSINE_PATIENCE = 0.7, 5


@dataclass(frozen=True)
class Problem:
    """The problem that a fit solves; it does not change during the fit.

    Attributes
    ----------
    features : Features
        Features to learn from, without the images that were left out.
    moments : Moments
        Moments of ``features``.
    number_of_concepts : int
        I.
    head : Head, optional
        The part of the network after the layer.
    verbose : int, default=0
        1: each stage shows a progress bar.
    left_out : tuple of int, default=()
        Indices of the images that were left out of ``features``.
    far : int, default=0
        Number of images that are unlike the others, but too many to be left out.
    agree : callable, default=identity
        Gives every worker of a cluster the same arrays.
    """

    features: Features
    moments: Moments
    number_of_concepts: int
    head: Head | None = None
    verbose: int = 0
    left_out: tuple[int, ...] = ()
    far: int = 0
    agree: Callable[[Any], Any] = lambda value: value
    _coordinates: dict[str, Coordinates] = field(default_factory=dict, repr=False)

    def coordinates(self, name: str) -> Coordinates:
        """Return the coordinates of a name, the same object for every call."""
        if name not in self._coordinates:
            coordinates = COORDINATES[name](self.moments, self.number_of_concepts)
            self._coordinates[name] = self.agree(coordinates)
        return self._coordinates[name]

    def restarts(self, recipe: Recipe) -> int:
        """Return the number of restarts R that a recipe learns side by side."""
        if recipe.restarts is not None:
            return recipe.restarts
        size = recipe.batch_for(self.number_of_concepts)
        step = min(2 * size, len(self.features)) * self.number_of_concepts
        return int(np.clip(_CHEAP_STEP // step, 1, 8))


@dataclass(frozen=True)
class Pace:
    """Learning rate of a stage after a number of epochs, and counters for changing and stopping it.

    See ``schedule`` of `Stage` for the rules. The objective is that of the best restart.

    Attributes
    ----------
    rate : float
        Learning rate.
    best : float, default=inf
        Best objective so far, for halving the rate.
    wait : int, default=0
        Epochs without a better objective, for halving the rate.
    cooldown : int, default=0
        Epochs for which the rate is not halved again.
    stop_best : float, default=inf
        Best objective so far, for stopping the stage.
    stop_wait : int, default=0
        Epochs without a better objective, for stopping the stage.
    """

    rate: float
    best: float = math.inf
    wait: int = 0
    cooldown: int = 0
    stop_best: float = math.inf
    stop_wait: int = 0

    def after(self, stage: Stage, epoch: int, objective: float) -> tuple[Pace, bool]:
        """Return the pace after another epoch, and whether the stage stops.

        Parameters
        ----------
        stage : Stage
        epoch : int
            Index of the epoch, from 0.
        objective : float
            Smallest objective of all restarts in this epoch.

        Returns
        -------
        pace : Pace
        stops : bool
        """
        if stage.schedule == "constant":
            return self, False
        pace, patience, first = self, _COSINE_PATIENCE, math.ceil(_NOT_BEFORE * stage.epochs)
        if stage.schedule == "plateau":
            pace, patience, first = self._halved(stage.patience, objective), 5 * stage.patience, 0
        if epoch < first:
            return pace, False
        if pace.stop_best == math.inf or objective + _IMPROVEMENT < pace.stop_best:
            return replace(pace, stop_best=objective, stop_wait=0), False
        wait = pace.stop_wait + 1
        return replace(pace, stop_wait=wait), wait >= patience and epoch > 0

    def _halved(self, patience: int, objective: float) -> Pace:
        """Return the pace after another epoch of "plateau", with half the rate if it is time."""
        cooldown = max(self.cooldown - 1, 0)
        wait = 0 if self.cooldown else self.wait
        if self.best == math.inf or objective + _IMPROVEMENT < self.best:
            return replace(self, best=objective, wait=0, cooldown=cooldown)
        if cooldown:
            return replace(self, wait=wait, cooldown=cooldown)
        wait += 1
        if wait < patience or self.rate <= _LEAST_RATE:
            return replace(self, wait=wait, cooldown=cooldown)
        rate = max(self.rate / 2, _LEAST_RATE)
        return replace(self, rate=rate, wait=0, cooldown=patience)


@dataclass(frozen=True)
class Running:
    """State of a stage between two of its epochs.

    Attributes
    ----------
    epoch : int
        Number of finished epochs.
    seed : int
        Seed of the order of the positions and of the random κ.
    seconds : float
        Wall time of the stage so far.
    pace : Pace
    stopped : bool
        Whether the stage has ended early.
    nan_in : int or None
        Index (from 0) of the epoch after which no restart was finite; the variables are those
        before it. None if there was no such epoch.
    variables : dict of str to ndarray
        `Objective.state`.
    """

    epoch: int
    seed: int
    seconds: float
    pace: Pace
    stopped: bool
    nan_in: int | None
    variables: dict[str, Array]


@dataclass(frozen=True)
class Detectors:
    """The detectors of all restarts, y = σ(wᵀ(x − E[x]) − b), in raw features.

    Attributes
    ----------
    filters : ndarray of shape (R, I, D)
    centred_biases : ndarray of shape (R, I)
        Thresholds b of wᵀ(x − E[x]); those of wᵀx are `DirectionPairs.biases`.
    signals : ndarray of shape (R, I, D), optional
        Signal vectors.
    sharpest : ndarray of shape (R, I), optional
        Upper limit of a scheduled sharpness 1/M; None: no limit.
    """

    filters: Array
    centred_biases: Array
    signals: Array | None = None
    sharpest: Array | None = None

    def keep(self, restarts: Array) -> Detectors:
        """Return the detectors of the restarts with these indices, without ``sharpest``."""
        signals = None if self.signals is None else self.signals[restarts]
        return Detectors(self.filters[restarts], self.centred_biases[restarts], signals)


#: Detectors of a fit that has not begun.
_NO_DETECTORS = Detectors(np.zeros((0, 0, 0)), np.zeros((0, 0)))


@dataclass(frozen=True)
class FitState:
    """State of a fit between two stages or, with ``running``, between two epochs of a stage.

    Attributes
    ----------
    recipe : Recipe
    generator : dict
        State of the random generator.
    number : int, default=0
        Number of finished stages.
    detectors : Detectors
        Detectors of all R restarts.
    values : ndarray of shape (R,)
        Objective of each restart plus ten times its violations after the last finished stage; NaN
        for a restart that is not finite. Empty before the first stage.
    records : dict of str to tuple of dict, default={}
        Name of a stage → a dict for each epoch: name of a loss → its values (R,).
    violations : dict of str to dict, default={}
        Name of a stage → name of a constrained loss → by how much it exceeds its bound, (R,).
    seconds : dict of str to float, default={}
        Name of a stage → its wall time.
    notes : tuple of str, default=()
        Decisions that were made during the fit, as text.
    cut_short : tuple of str, default=()
        Stages that did not run to their end, with the reason, as text.
    clear_start : bool, default=False
        Whether the initial concepts stand out from everything else that varies.
    per_position : int, default=1
        Number of concepts that a position carries.
    doubts : tuple of str, default=()
        Reasons why the initial detectors may be unreliable, as text.
    switches : int, default=0
        How many times the recipe was replaced by its ``otherwise``.
    interrupted : bool, default=False
        Whether the last stage was interrupted.
    running : Running, optional
        The stage that is being learned; None between two stages.
    """

    recipe: Recipe
    generator: Mapping[str, Any]
    number: int = 0
    detectors: Detectors = field(default_factory=lambda: _NO_DETECTORS)
    values: Array = field(default_factory=lambda: np.zeros(0))
    records: dict[str, tuple[dict[str, Array], ...]] = field(default_factory=dict)
    violations: dict[str, dict[str, Array]] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    cut_short: tuple[str, ...] = ()
    clear_start: bool = False
    per_position: int = 1
    doubts: tuple[str, ...] = ()
    switches: int = 0
    interrupted: bool = False
    running: Running | None = None

    @property
    def is_complete(self) -> bool:
        """Whether all stages are finished."""
        return self.number >= len(self.recipe.stages)

    @property
    def best(self) -> int:
        """Index of the restart with the smallest value; 0 if no stage was finished."""
        if not self.values.size:
            return 0
        return int(np.argmin(np.where(np.isfinite(self.values), self.values, np.inf)))

    def random_generator(self) -> np.random.Generator:
        """Return a random generator that continues from the state ``generator``."""
        generator = np.random.default_rng()
        generator.bit_generator.state = self.generator
        return generator

    def keep(self, restarts: Array) -> FitState:
        """Return the state of the restarts with these indices only."""
        return replace(
            self,
            detectors=self.detectors.keep(restarts),
            values=self.values[restarts],
            records={
                name: tuple({k: v[restarts] for k, v in epoch.items()} for epoch in epochs)
                for name, epochs in self.records.items()
            },
            violations={
                name: {k: v[restarts] for k, v in broken.items()}
                for name, broken in self.violations.items()
            },
        )

    def survivors(self) -> FitState:
        """Return the state of the restarts that go on to the next stage.

        These are the better half or, if the recipe sets the number of restarts, all of them. No
        more are dropped, because only the last stage shows which restart is best. Restarts that are
        not finite are always dropped.
        """
        order = np.argsort(np.where(np.isfinite(self.values), self.values, np.inf))
        count = len(order) if self.recipe.restarts is not None else math.ceil(len(order) / 2)
        kept = np.sort(order[:count])
        return self.keep(kept[np.isfinite(self.values[kept])])


def noted(state: FitState, note: str) -> FitState:
    """Return the state with a note for the user, which is logged too."""
    logger.info(note)
    return replace(state, notes=(*state.notes, note))
