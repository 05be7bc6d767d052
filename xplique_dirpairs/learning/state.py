"""The state of a fit, as values: what it learns from, and where it stands."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from xplique_dirpairs.core.types import Array
from xplique_dirpairs.learning.features import COORDINATES, Coordinates, Features, Moments
from xplique_dirpairs.learning.objective import Detectors
from xplique_dirpairs.learning.recipe import Recipe, Stage
from xplique_dirpairs.models.head import Head

#: Restarts are run side by side as long as a step sees no more detections (P · I · R) than this.
_CHEAP_STEP = 200_000
#: An objective improves by more than this, or not; and the least learning rate of a plateau.
_IMPROVEMENT, _LEAST_RATE = 1e-4, 1e-7
#: Share of a cosine schedule before which it is not stopped: the sharpness rises until then.
_NOT_BEFORE, _COSINE_PATIENCE = 0.7, 5
#: Of a fit that has not begun.
_NO_DETECTORS = Detectors(np.zeros((0, 0, 0)), np.zeros((0, 0)))


@dataclass(frozen=True)
class Problem:
    """What is learned from, the same through all of a fit.

    Attributes
    ----------
    features, moments
        Without the images that were left out.
    number_of_concepts : int
        I.
    head : Head or None
        The rest of the network.
    verbose : int
        1: a progress bar per stage.
    left_out : tuple of int
        Indices of the images that ``features`` are without.
    far : int
        How many images are unlike the others, but too many to be left out.
    agree : callable
        Gives every worker of a cluster the same arrays; the identity for one process.
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
        """Return coordinates by name; always the same object."""
        if name not in self._coordinates:
            made = COORDINATES[name](self.moments, self.number_of_concepts)
            self._coordinates[name] = self.agree(made)
        return self._coordinates[name]

    def restarts(self, recipe: Recipe) -> int:
        """Return how many restarts a recipe learns side by side, R."""
        if recipe.restarts is not None:
            return recipe.restarts
        size = recipe.batch_for(self.number_of_concepts)
        step = min(2 * size, len(self.features)) * self.number_of_concepts
        return int(np.clip(_CHEAP_STEP // step, 1, 8))


@dataclass(frozen=True)
class Pace:
    """Learning rate and patience of a stage, after some epochs.

    "plateau" halves the rate where no restart improves for ``patience`` epochs, and stops where
    none does for 5 × patience; "cosine" stops where the last 30 % of the epochs bring no more.

    Attributes
    ----------
    rate : float
    best, wait, cooldown
        Of the halving: the best objective, epochs without a better one, epochs to rest.
    stop_best, stop_wait
        Of the stopping.
    """

    rate: float
    best: float = math.inf
    wait: int = 0
    cooldown: int = 0
    stop_best: float = math.inf
    stop_wait: int = 0

    def after(self, stage: Stage, epoch: int, objective: float) -> tuple[Pace, bool]:
        """Return the pace after an epoch (from 0), and whether the stage stops.

        Parameters
        ----------
        stage : Stage
        epoch : int
        objective : float
            The least of all restarts.
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
    """A stage between two of its epochs.

    Attributes
    ----------
    epoch : int
        Epochs done.
    seed : int
        Of the order of the positions and of κ.
    seconds : float
    pace : Pace
    stopped : bool
        Whether there are no more epochs.
    nan_in : int or None
        The epoch (from 0) in which no restart was finite any more; the values are those before it.
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
class FitState:
    """A fit between two stages, or (with ``running``) between two epochs of a stage.

    Attributes
    ----------
    recipe : Recipe
    generator : dict
        State of the random generator.
    number : int
        Stages of the recipe that are done.
    detectors : Detectors
        Of all R restarts.
    values : ndarray of shape (R,)
        Objective of each restart and ten times every violation after the last stage; NaN where a
        restart is not finite. Empty before the first stage.
    records : dict
        Stage name → every epoch's losses, name → (R,).
    violations : dict
        Stage name → constrained loss → by how much its bound is broken, (R,).
    seconds : dict
        Stage name → wall time.
    notes : tuple of str
        Decisions on the way, in words.
    cut_short : tuple of str
        Stages that did not run to their end, and why.
    clear_start : bool
        Whether the initial concepts stand out from everything else that varies.
    per_position : int
        How many concepts a position carries.
    switches : int
        How often the recipe handed over to its other one.
    interrupted : bool
    running : Running or None
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
    switches: int = 0
    interrupted: bool = False
    running: Running | None = None

    @property
    def is_complete(self) -> bool:
        """Whether no stage is left."""
        return self.number >= len(self.recipe.stages)

    @property
    def best(self) -> int:
        """The restart of least value."""
        return int(np.argmin(np.where(np.isfinite(self.values), self.values, np.inf)))

    def random_generator(self) -> np.random.Generator:
        """Return a generator that goes on where the fit's stands."""
        generator = np.random.default_rng()
        generator.bit_generator.state = self.generator
        return generator

    def keep(self, restarts: Array) -> FitState:
        """Return the state with the given restarts only."""
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
        """Return the state with the better half of the restarts, for the next stage.

        With all that are finite where their number was asked for. Not fewer: the last stage tells
        the best.
        """
        order = np.argsort(np.where(np.isfinite(self.values), self.values, np.inf))
        count = len(order) if self.recipe.restarts is not None else math.ceil(len(order) / 2)
        kept = np.sort(order[:count])
        return self.keep(kept[np.isfinite(self.values[kept])])
