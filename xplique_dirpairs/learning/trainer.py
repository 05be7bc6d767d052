"""The learning of direction pairs: the stages in order."""

from __future__ import annotations

import dataclasses
import logging
import math
import os
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import keras
import numpy as np
import tensorflow as tf
from numpy.typing import ArrayLike, NDArray

from xplique_dirpairs.activations import check_activations
from xplique_dirpairs.distribution import (
    as_on_chief,
    check_alike,
    check_strategy,
    distributed,
    is_chief,
)
from xplique_dirpairs.learning import coordinates as coordinates_
from xplique_dirpairs.learning.batches import as_batches
from xplique_dirpairs.learning.callbacks import (
    EpochRecord,
    NaNGuard,
    Progress,
    halve_on_plateau,
    stop_early,
)
from xplique_dirpairs.learning.checkpoint import Checkpoint, EpochState, restore
from xplique_dirpairs.learning.coordinates import Coordinates, Moments, rank_of_signal
from xplique_dirpairs.learning.features import HeldFeatures, StreamedFeatures
from xplique_dirpairs.learning.history import History, find_problems
from xplique_dirpairs.learning.objective import Detectors, Objective
from xplique_dirpairs.learning.reading import measure_pairs
from xplique_dirpairs.learning.recipe import Recipe, get_recipe
from xplique_dirpairs.learning.starts import make_start, positions_for
from xplique_dirpairs.network import Head
from xplique_dirpairs.pairs import DirectionPairs
from xplique_dirpairs.shards import ActivationShards

logger = logging.getLogger("xplique_dirpairs")

#: Restarts are run side by side as long as a step sees no more detections (P · I · R) than this.
_CHEAP_STEP = 200_000
#: What a violated constraint costs when the best restart is chosen.
_VIOLATION_PRICE = 10.0
#: Feature maps in a step through a head that begins with a pooling: vectors, cheap.
_POOLED_MAPS = 32
#: Fewer positions per concept than this make sharp detectors fit their own positions [measured:
#: D = 512, 100 000 positions, 781 per concept: IoU .92 on them, .86 on fresh ones].
_POSITIONS_PER_CONCEPT = 1000
#: Correlation of projections from which a concept of another restart is the same one.
_COMES_BACK = 0.9


def learn_pairs(
    activations: ArrayLike | ActivationShards,
    number_of_concepts: int,
    *,
    head: Head | None = None,
    recipe: str | Recipe = "default",
    random_state: int | None = None,
    verbose: int = 1,
    resume: str | os.PathLike | None = None,
) -> tuple[DirectionPairs, History]:
    """Learn direction pairs from activations.

    Parameters
    ----------
    activations : (N, H, W, D), (N, T, D) or (N, D)
        Of unlabelled images, at the layer under study; or `ActivationShards`, which are streamed
        from disk: memory does not grow with their number.
    number_of_concepts
        I.
    head
        The rest of the network; without it the network terms L^uur and L^cur are left out.
    recipe
        A name (see `recipe.RECIPES`) or a Recipe.
    random_state
        Seed; the same seed on the same machine gives the same pairs.
    verbose
        0: silent; 1: a progress bar per stage.
    resume
        A folder. The state of the fit is kept there after every epoch; if it holds the state of a
        fit with the same settings, that one goes on.

    Returns
    -------
    pairs : DirectionPairs
    history : History

    Notes
    -----
    Ctrl-C ends the learning and keeps what was learned so far: the pairs are complete, and the
    history says so.

    Warns
    -----
    LearningWarning
        If the result needs a look; see `History.problems`.

    Raises
    ------
    TypeError, ValueError
        If the activations are not finite, constant, or of the wrong rank; if the number of
        concepts is not a positive integer; if the head is no Head, or takes other activations; if
        ``resume`` holds the state of another fit.
    """
    recipe = get_recipe(recipe)
    check_number_of_concepts(number_of_concepts)
    features: HeldFeatures | StreamedFeatures
    if isinstance(activations, ActivationShards):
        features = StreamedFeatures(activations)
    else:
        features = HeldFeatures(check_activations(activations))
    if head is not None:
        if not isinstance(head, Head):
            raise TypeError(
                f"head must be a Head, not {type(head).__name__}: wrap the rest of the network, "
                "Head(latent_to_logit_model)"
            )
        head.check_takes(features.shape[1:])
    rng = _generator(random_state)
    settings = {
        "number_of_concepts": str(number_of_concepts),
        "recipe": str(recipe),
        "random_state": str(random_state),
        "head": "none" if head is None else "given",
        "activations": str(features.shape),
    }
    check_strategy(features.shape[0], random_state)
    moments = Moments.of(features)
    check_alike(**settings, resume=str(resume is None), values=float(np.abs(moments.mean).sum()))
    moments = as_on_chief(moments)
    verbose = verbose if is_chief() else 0
    learner = _Learner(features, moments, number_of_concepts, head, recipe, verbose)
    if resume is not None:
        learner.checkpoint = Checkpoint(resume, settings, moments.mean)
    return learner.finish(learner.learn(rng))


def _generator(random_state: int | None) -> np.random.Generator:
    try:
        return np.random.default_rng(random_state)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"random_state must be None or an integer of at least 0, not {random_state!r}"
        ) from error


def check_number_of_concepts(number: int) -> None:
    """Raise unless it is a positive integer."""
    if isinstance(number, bool) or not isinstance(number, (int, np.integer)):
        raise TypeError(f"number_of_concepts must be an integer, not {number!r}")
    if number < 1:
        raise ValueError(f"number_of_concepts must be at least 1, not {number}")


class _Learner:
    """What the stages of one fit share."""

    def __init__(self, features, moments, concepts, head, recipe, verbose):
        self.features, self.moments = features, moments
        self.concepts, self.head, self.recipe, self.verbose = concepts, head, recipe, verbose
        self.checkpoint: Checkpoint | None = None
        self.interrupted = self._clear_start = False
        self._notes: list[str] = []
        self._seconds: dict[str, float] = {}
        self._coordinates: dict[str, Coordinates] = {}
        self._values: NDArray = np.zeros(0)  # objective of each restart, after a stage
        self._cut_short: list[str] = []
        self._violations: dict[str, dict[str, NDArray]] = {}
        self._records: dict[str, list[dict[str, NDArray]]] = {}
        if head is None:
            self._note("no head was given: the network terms are left out")

    def _note(self, text: str) -> None:
        self._notes.append(text)
        logger.info(text)

    def coordinates(self, name: str) -> Coordinates:
        """Coordinates by name; always the same object."""
        if name not in self._coordinates:
            if name == "standardised":
                self._coordinates[name] = coordinates_.standardised(self.moments)
            else:
                make = {"whitened": coordinates_.whitened, "centred": coordinates_.centred}[name]
                self._coordinates[name] = make(self.moments, self.concepts)
            self._coordinates[name] = as_on_chief(self._coordinates[name])
        return self._coordinates[name]

    @property
    def restarts(self) -> int:
        """R."""
        if self.recipe.restarts is not None:
            return self.recipe.restarts
        step = min(2 * self.recipe.batch, len(self.features)) * self.concepts
        return int(np.clip(_CHEAP_STEP // step, 1, 8))

    def learn(self, rng: np.random.Generator) -> Detectors:
        """All stages of the recipe, or of the one that suits the features better."""
        resumed = None if self.checkpoint is None else self.checkpoint.load()
        check_alike(state_in_resume=str(resumed and (resumed[0]["number"], resumed[0]["epoch"])))
        if resumed is not None:
            number, detectors = self._restore(*resumed, rng)
        else:
            if self.recipe.otherwise and rank_of_signal(self.moments, self.concepts) is None:
                self._switch("the spectrum of the features has no floor of noise")
            number, detectors = 0, self.start(rng)
        while number < len(self.recipe.stages) and not self.interrupted:
            detectors = self.run(number, detectors, rng, resumed)
            resumed = None
            why = self._unsuitable() if number == 0 and not self.interrupted else None
            if why is None:
                number += 1
            else:
                self._switch(why)
                number, detectors = 0, self.start(rng)
        return detectors

    def _unsuitable(self) -> str | None:
        """Why the other recipe is the better one, after the first stage."""
        if self.recipe.otherwise is None or self._clear_start:
            return None
        entropy = float(np.nanmin(self._records[self.recipe.stages[0].name][-1]["s"]))
        if entropy <= self.recipe.clear_below:
            return None
        return f"positions carry overlapping concepts (L^s {entropy:.2f} bits)"

    def _switch(self, why: str) -> None:
        """To the other recipe, from its start."""
        assert self.recipe.otherwise is not None
        self._note(f"{why}: recipe {self.recipe.otherwise.name!r}")
        self.recipe = self.recipe.otherwise
        self._values, self._records, self._violations = np.zeros(0), {}, {}

    def start(self, rng: np.random.Generator) -> Detectors:
        """R starts in the first stage's coordinates."""
        made = self.coordinates(self.recipe.stages[0].coordinates)
        if self.concepts > made.axes:
            self._note(
                f"{self.concepts} concepts in {made.axes} dimensions that vary: the filters "
                "cannot be orthonormal, the surplus ones start at random"
            )
        generators = [rng] * self.restarts
        if self.recipe.start == "consensus":  # it should not depend on the seed
            generators = [np.random.default_rng(restart) for restart in range(self.restarts)]
        starts = []
        for generator in generators:
            sample = self.features.sample(made, positions_for(self.concepts), generator)
            starts.append(
                make_start(self.recipe.start, sample, self.concepts, generator, made.backward)
            )
        starts = [as_on_chief(start) for start in starts]
        self._clear_start = any(start.clear for start in starts)
        filters = made.filters_to_raw(np.stack([start.filters for start in starts]))
        return Detectors(filters, np.stack([start.thresholds for start in starts]))

    def run(self, number: int, start: Detectors, rng: np.random.Generator, resumed) -> Detectors:
        """The stage of that number, by Keras fit; ``resumed`` is what the checkpoint had of it."""
        began = time.perf_counter()
        stage = self.recipe.stages[number]
        made = self.coordinates(stage.coordinates)
        stage = stage.in_axes(made.axes)
        if resumed is not None:
            seed, first_epoch = resumed[0]["seed"], resumed[0]["epoch"]
            began -= resumed[0]["seconds"]
        else:
            seed, first_epoch = int(rng.integers(2**31)), 0
            if self._values.size:
                start = self._survivors(start)
            if stage.signals == "free" and start.signals is None:
                start = Detectors(start.filters, start.biases, self._signals_of(start))
        positions = len(self.features)
        full_batch = positions <= 2 * self.recipe.batch
        passes = 1 if full_batch else math.ceil(positions / self.recipe.batch)
        per_epoch = stage.steps_per_epoch or passes
        model = Objective(
            stage,
            made,
            start,
            gamma=self.recipe.gamma,
            head=self.head,
            steps=stage.epochs * per_epoch,
            full_batch=full_batch,
            network_every=self._network_every,
            seed=seed,
        )
        rate: float | keras.optimizers.schedules.LearningRateSchedule = stage.learning_rate
        record, guard = EpochRecord(), NaNGuard()
        callbacks: list[keras.callbacks.Callback] = [record, guard]
        if stage.schedule == "cosine":
            rate = keras.optimizers.schedules.CosineDecay(rate, stage.epochs * per_epoch, 0.02)
            callbacks.append(stop_early(patience=5, after=math.ceil(0.7 * stage.epochs)))
        elif stage.schedule == "plateau":
            callbacks += [halve_on_plateau(stage.patience), stop_early(5 * stage.patience)]
        if self.verbose:
            callbacks.append(Progress(f"Learning {self.concepts} concepts, stage {stage.name}"))
        model.compile(keras.optimizers.Adam(rate), steps_per_execution=per_epoch, jit_compile=False)
        if resumed is not None:
            restore(model, resumed[1])
            record.epochs = self._records.get(stage.name, [])
        if self.checkpoint is not None:

            def save(data, arrays):
                self._records[stage.name] = record.epochs
                data |= {"number": number, "seed": seed, "seconds": time.perf_counter() - began}
                self._save(data, arrays, start, rng)

            callbacks.append(EpochState(list(callbacks), save, resumed))
        batches = self._batches(made, model, full_batch, seed).skip(first_epoch * per_epoch)
        if resumed is None or not resumed[0]["stopped"]:
            try:
                with _quiet():
                    model.fit(
                        distributed(batches),
                        initial_epoch=first_epoch,
                        epochs=stage.epochs,
                        steps_per_epoch=per_epoch,
                        callbacks=callbacks,
                        shuffle=False,
                        verbose=0,
                    )
            except KeyboardInterrupt:
                self.interrupted = True
                self._cut_short.append(f"stage {stage.name} was interrupted: what it had is kept")
        self._close(stage, model, record, guard, time.perf_counter() - began)
        return model.detectors()

    def _save(self, data, arrays, start: Detectors, rng: np.random.Generator) -> None:
        """All that the rest of the fit depends on, beside the variables of the stage."""
        assert self.checkpoint is not None
        data |= {
            "recipe": self.recipe.name,
            "generator": rng.bit_generator.state,
            "notes": self._notes,
            "cut_short": self._cut_short,
            "stage_seconds": self._seconds,
            "clear_start": self._clear_start,
            "records": {
                name: [{loss: v.tolist() for loss, v in epoch.items()} for epoch in epochs]
                for name, epochs in self._records.items()
            },
            "violations": {
                name: {loss: v.tolist() for loss, v in broken.items()}
                for name, broken in self._violations.items()
            },
        }
        arrays |= {"filters": start.filters, "biases": start.biases}
        if start.signals is not None:
            arrays["signals"] = start.signals
        self.checkpoint.save(data, arrays)

    def _restore(self, data, arrays, rng: np.random.Generator) -> tuple[int, Detectors]:
        """Undo `_save`: the stage that was running, and where it had begun."""
        rng.bit_generator.state = data["generator"]
        if data["recipe"] != self.recipe.name:
            assert self.recipe.otherwise is not None
            self.recipe = self.recipe.otherwise
        self._notes[:] = data["notes"]
        self._note(f"went on with stage {self.recipe.stages[data['number']].name}")
        self._cut_short, self._seconds = data["cut_short"], data["stage_seconds"]
        self._clear_start = data["clear_start"]
        self._records = {
            name: [{loss: np.array(v, np.float32) for loss, v in epoch.items()} for epoch in epochs]
            for name, epochs in data["records"].items()
        }
        self._violations = {
            name: {loss: np.array(v) for loss, v in broken.items()}
            for name, broken in data["violations"].items()
        }
        start = Detectors(arrays["filters"], arrays["biases"], arrays.get("signals"))
        return data["number"], start

    def _close(self, stage, model, record, guard, seconds) -> None:
        """Keep what the stage reported."""
        self._values = np.where(model.finite_restarts(), model.reported()["objective"], np.nan)
        for violation in model.violations().values():
            self._values += _VIOLATION_PRICE * violation
        self._records[stage.name] = record.epochs
        self._violations[stage.name] = model.violations()
        self._seconds[stage.name] = seconds
        if guard.tripped_at is not None:
            self._cut_short.append(
                f"stage {stage.name} met NaN in epoch {guard.tripped_at + 1}: what it had is kept"
            )

    def _batches(self, made, model, full_batch, seed) -> tf.data.Dataset:
        size = None if full_batch else self.recipe.batch
        positions = self.features.batches(made, size, seed)
        if not model.uses_network:
            return as_batches(positions)
        # pooling commutes with linear moves only, which that of the predecessor is not
        pools = self.head.pools_first and "fired" not in model.terms
        pool, size = (self.head.pool, _POOLED_MAPS) if pools else (None, self.recipe.maps)
        return as_batches(positions, self.features.maps(pool, size, seed + 1))

    @property
    def _network_every(self) -> int:
        return 1 if self.head is None or self.head.pools_first else self.recipe.network_every

    def _survivors(self, detectors: Detectors) -> Detectors:
        """The better half of the restarts: not fewer, for the last stage tells the best one."""
        order = np.argsort(np.where(np.isfinite(self._values), self._values, np.inf))
        kept = np.sort(order[: math.ceil(len(order) / 2)])
        kept = kept[np.isfinite(self._values[kept])]
        for epochs in self._records.values():
            epochs[:] = [{name: values[kept] for name, values in e.items()} for e in epochs]
        for broken in self._violations.values():
            broken.update({name: values[kept] for name, values in broken.items()})
        return detectors.keep(kept)

    def _signals_of(self, detectors: Detectors) -> NDArray:
        """Stage c: section 3 of the method, for every restart."""
        return np.stack(
            [
                measure_pairs(self.features, self.moments, filters, biases).signals
                for filters, biases in zip(detectors.filters, detectors.biases, strict=True)
            ]
        )

    def finish(self, detectors: Detectors) -> tuple[DirectionPairs, History]:
        """The best restart as pairs, and how it went; warns of what is wrong with it."""
        best = int(np.argmin(np.where(np.isfinite(self._values), self._values, np.inf)))
        signals: NDArray | str = self.recipe.estimator
        if detectors.signals is not None:
            signals = detectors.signals[best]
        measured = measure_pairs(
            self.features,
            self.moments,
            detectors.filters[best],
            detectors.biases[best],
            signals,
            self.coordinates(self.recipe.stages[-1].coordinates),
        )
        pairs = measured.pairs
        if len(detectors.filters) > 1:
            recurrence = self._recurrence(detectors.filters, best)
            pairs = dataclasses.replace(pairs, recurrence=recurrence)
        dead, duplicates = find_problems(pairs, measured.occupancy, measured.overlaps)
        history = History(
            stages={
                name: {loss: [float(epoch[loss][best]) for epoch in epochs] for loss in epochs[0]}
                for name, epochs in self._records.items()
                if epochs
            },
            violations={
                name: {loss: float(v[best]) for loss, v in broken.items() if v[best] > 0}
                for name, broken in self._violations.items()
            },
            occupancy=measured.occupancy,
            dead=dead,
            duplicates=duplicates,
            condition_number=pairs.condition_number,
            cut_short=self._cut_short,
            doubts=self._doubts(best),
            interrupted=self.interrupted,
            notes=self._notes,
            seconds=self._seconds,
        )
        history.warn()
        return pairs, history

    def _doubts(self, best: int) -> list[str]:
        """Of sharp detectors: soft ones promise less."""
        if self.recipe.otherwise is None:
            return []
        found, epochs = [], self._records.get(self.recipe.stages[-1].name)
        entropy = float(epochs[-1]["s"][best]) if epochs else 0.0
        if entropy > self.recipe.clear_below:
            found.append(
                f"positions carry several concepts, rare ones or noise (L^s {entropy:.2f} bits): "
                "thresholds are not where a concept begins"
            )
        each = len(self.features) / self.concepts
        if each < _POSITIONS_PER_CONCEPT:
            found.append(
                f"there are {each:.0f} positions per concept, {_POSITIONS_PER_CONCEPT} are wanted: "
                "detections on other images are less sure than on these"
            )
        return found

    def _recurrence(self, filters: NDArray, best: int) -> NDArray:
        """Share of the other restarts with a concept whose projections correlate by ≥ 0.9."""
        cross = np.einsum("id,de,rje->rij", filters[best], self.moments.covariance, filters)
        variances = np.einsum("rid,de,rie->ri", filters, self.moments.covariance, filters)
        correlations = cross / np.sqrt(variances[best][None, :, None] * variances[:, None, :])
        others = np.delete(correlations.max(axis=2) >= _COMES_BACK, best, axis=0)
        return others.mean(axis=0)


@contextmanager
def _quiet() -> Iterator[None]:
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
