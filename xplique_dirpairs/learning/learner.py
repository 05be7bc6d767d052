"""The stages of one fit, in order: start, stages, the best restart as pairs and how it went."""

from __future__ import annotations

import dataclasses
import logging
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from xplique_dirpairs.core.progress import warn_caller
from xplique_dirpairs.data.devices import as_on_chief, check_alike, from_chief
from xplique_dirpairs.learning import coordinates as coordinates_
from xplique_dirpairs.learning.checkpoint import Checkpoint, SavedState, as_arrays, as_lists
from xplique_dirpairs.learning.coordinates import Coordinates, Moments, rank_of_signal
from xplique_dirpairs.learning.features import HeldFeatures, StreamedFeatures
from xplique_dirpairs.learning.history import (
    MORE_THAN_DIMENSIONS,
    History,
    LearningWarning,
    find_doubts,
    find_problems,
    share_of_returns,
)
from xplique_dirpairs.learning.objective import Detectors
from xplique_dirpairs.learning.outliers import distinct_images
from xplique_dirpairs.learning.reading import MeasuredPairs, measure_pairs
from xplique_dirpairs.learning.recipe import Recipe
from xplique_dirpairs.learning.stage_fit import fit_stage
from xplique_dirpairs.learning.starts import count_maxima, make_start, positions_for
from xplique_dirpairs.models.head import Head
from xplique_dirpairs.pairs import DirectionPairs

logger = logging.getLogger("xplique_dirpairs")

#: Restarts are run side by side as long as a step sees no more detections (P · I · R) than this.
_CHEAP_STEP = 200_000
#: 1/M, in whitened units, per detection per axis, at most [measured, I = 128 and Zipf's law: the
#: share of concepts recovered is .00 and .48 without a limit, .78 and .84 with 1/M up to 50].
_SHARPNESS_PER_DETECTION = 10.0
#: Positions that are asked for skewed sources.
_ASKED = 25_000
#: Share of images that may be copies of others.
_COPIES = 0.1
#: A concept that is detected on less than so many times the share L^ic demands, τ/I, stands for
#: nothing [measured: with one and two concepts too many, 1.0 times τ/I; under Zipf's law the rarest
#: of 64 concepts is on 2.1 times τ/I].
_DEMANDED = 1.5
#: Of a bound, by how much it may be exceeded: an augmented Lagrangian ends near it, on either side.
_BROKEN = 0.01


@dataclass(frozen=True)
class _Complete:
    """What a learner had after a stage: Ctrl-C before the next one's first step goes back to it."""

    detectors: Detectors
    stage: str
    recipe: Recipe
    values: NDArray
    records: dict[str, list[dict[str, NDArray]]]
    violations: dict[str, dict[str, NDArray]]

    @classmethod
    def of(cls, learner: Learner, number: int, detectors: Detectors) -> _Complete:
        """After the stage of that number."""
        records = {name: list(epochs) for name, epochs in learner._records.items()}
        violations = {name: dict(broken) for name, broken in learner._violations.items()}
        recipe, values = learner.recipe, learner._values
        return cls(detectors, recipe.stages[number].name, recipe, values, records, violations)

    def back_to(self, learner: Learner) -> Detectors:
        """The learner as it was then, interrupted."""
        learner.interrupted = True
        learner._cut_short.append(
            f"recipe {self.recipe.name} was interrupted after stage {self.stage}: what it had then "
            "is kept"
        )
        learner.recipe, learner._values = self.recipe, self.values
        learner._records, learner._violations = self.records, self.violations
        return self.detectors


class Learner:
    """What the stages of one fit share.

    Parameters
    ----------
    features, moments
        What is learned from.
    concepts
        I.
    head
        The rest of the network, or None.
    recipe
    verbose
        1: a progress bar per stage.
    checkpoint
        Where the state is kept after every epoch, or None.
    left_out
        Numbers of the images that ``features`` are without.
    far
        How many images are unlike the others, but too many to be left out.
    """

    def __init__(
        self,
        features: HeldFeatures | StreamedFeatures,
        moments: Moments,
        concepts: int,
        head: Head | None,
        recipe: Recipe,
        verbose: int = 0,
        checkpoint: Checkpoint | None = None,
        left_out: Sequence[int] = (),
        far: int = 0,
    ):
        self.features, self.moments = features, moments
        self.concepts, self.head, self.recipe, self.verbose = concepts, head, recipe, verbose
        self.checkpoint, self.left_out, self.far = checkpoint, left_out, far
        self.interrupted = self._clear_start = False
        self._per_position, self._switches = 1, 0
        self._notes: list[str] = []
        self._seconds: dict[str, float] = {}
        self._coordinates: dict[str, Coordinates] = {}
        self._values: NDArray = np.zeros(0)  # of each restart, after a stage
        self._cut_short: list[str] = []
        self._complete: _Complete | None = None  # the last stage that is
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
        size = self.recipe.batch_for(self.concepts)
        step = min(2 * size, len(self.features)) * self.concepts
        return int(np.clip(_CHEAP_STEP // step, 1, 8))

    def learn(self, rng: np.random.Generator) -> Detectors:
        """All stages of the recipe, or of the one that suits the features better.

        Raises
        ------
        KeyboardInterrupt
            If it comes before anything is learned; afterwards what is learned is returned.
        """
        try:
            return self._learn(rng)
        except KeyboardInterrupt:
            if self._complete is None:
                raise
            return self._complete.back_to(self)

    def _learn(self, rng: np.random.Generator) -> Detectors:
        resumed = None if self.checkpoint is None else self.checkpoint.load()
        place = None if resumed is None else (resumed.data["number"], resumed.data["epoch"])
        check_alike(state_in_resume=str(place))
        if resumed is not None:
            number, detectors = self._restore(resumed, rng)
        else:
            if self.recipe.otherwise and rank_of_signal(self.moments, self.concepts) is None:
                axes = self.coordinates("whitened").axes
                few = f"{MORE_THAN_DIMENSIONS} {axes} dimensions only"
                none = "the spectrum of the features has no floor of noise"
                self._switch(few if axes < self.concepts else none)
            number, detectors = 0, self.start(rng)
        while number < len(self.recipe.stages) and not self.interrupted:
            detectors = self.run(number, detectors, rng, resumed)
            resumed = None
            self._complete = _Complete.of(self, number, detectors)
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
        self._switches += 1
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
        self._per_position = int(np.median([start.per_position for start in starts]))
        if self._per_position > 1:
            self._note(f"positions carry {self._per_position} concepts each: L^s asks for as many")
        filters = made.filters_to_raw(np.stack([start.filters for start in starts]))
        return Detectors(filters, np.stack([start.thresholds for start in starts]))

    def run(
        self,
        number: int,
        start: Detectors,
        rng: np.random.Generator,
        resumed: SavedState | None = None,
    ) -> Detectors:
        """The stage of that number; ``resumed`` is what the checkpoint had of it."""
        began = time.perf_counter() - (0.0 if resumed is None else resumed.data["seconds"])
        stage = self.recipe.stages[number]
        made = self.coordinates(stage.coordinates)
        stage = stage.in_axes(made.axes).for_noise(made.noise)
        if self._per_position > 1:
            stage = dataclasses.replace(stage, per_position=self._per_position)
        if resumed is not None:
            seed = resumed.data["seed"]
        else:
            seed = int(rng.integers(2**31))
            if self._values.size:
                start = self._survivors(start)
            if stage.signals == "free" and start.signals is None:
                start = Detectors(start.filters, start.biases, self._signals_of(start))

        if stage.sharpness is not None:
            sharpest = self._sharpest(start, made, stage.sharpness[0], seed)
            start = dataclasses.replace(start, sharpest=sharpest)

        def save(data, arrays):
            known = {"number": number, "seed": seed, "seconds": time.perf_counter() - began}
            self._save(data | known, arrays, start, rng)

        result = fit_stage(
            stage,
            made,
            start,
            self.features,
            self.head,
            self.recipe,
            seed=seed,
            records=self._records.setdefault(stage.name, []),
            verbose=self.verbose,
            save=None if self.checkpoint is None else save,
            resumed=resumed,
        )
        self._values, self._violations[stage.name] = result.values, result.violations
        self._seconds[stage.name] = time.perf_counter() - began
        self.interrupted = result.interrupted
        if result.cut_short is not None:
            self._cut_short.append(result.cut_short)
        return result.detectors

    def _sharpest(self, start: Detectors, made: Coordinates, least: float, seed: int) -> NDArray:
        """Limits of 1/M, (R, I): a sharp detector fits the positions nearest to its threshold.

        There are few of them where a concept is detected on few positions. Never below ``least``.
        """
        sample = self.features.sample(
            made, positions_for(self.concepts), np.random.default_rng(seed)
        )
        filters = made.filters_from_raw(start.filters)
        shares = [
            (sample @ w.T.astype(np.float32) > b).mean(axis=0)
            for w, b in zip(filters, start.biases, strict=True)
        ]
        detections = np.array(shares) * len(self.features)
        limits = np.maximum(_SHARPNESS_PER_DETECTION * detections / made.axes, least)
        return from_chief([limits])[0]

    def _save(self, data, arrays, start: Detectors, rng: np.random.Generator) -> None:
        """All that the rest of the fit depends on, beside the variables of the stage."""
        assert self.checkpoint is not None
        data |= {
            "switches": self._switches,
            "generator": rng.bit_generator.state,
            "notes": self._notes,
            "cut_short": self._cut_short,
            "stage_seconds": self._seconds,
            "clear_start": self._clear_start,
            "per_position": self._per_position,
            "records": {
                name: [as_lists(epoch) for epoch in epochs]
                for name, epochs in self._records.items()
            },
            "violations": {name: as_lists(broken) for name, broken in self._violations.items()},
        }
        arrays |= {"filters": start.filters, "biases": start.biases}
        if start.signals is not None:
            arrays["signals"] = start.signals
        self.checkpoint.save(data, arrays)

    def _restore(self, saved: SavedState, rng: np.random.Generator) -> tuple[int, Detectors]:
        """Undo `_save`: the stage that was running, and where it had begun."""
        data, arrays = saved.data, saved.arrays
        rng.bit_generator.state = data["generator"]
        self._switches = data["switches"]
        for _ in range(self._switches):  # names of recipes need not differ
            assert self.recipe.otherwise is not None
            self.recipe = self.recipe.otherwise
        self._notes[:] = data["notes"]
        self._note(f"went on with stage {self.recipe.stages[data['number']].name}")
        self._cut_short, self._seconds = data["cut_short"], data["stage_seconds"]
        self._clear_start, self._per_position = data["clear_start"], data["per_position"]
        self._records = {
            name: [as_arrays(epoch, np.float32) for epoch in epochs]
            for name, epochs in data["records"].items()
        }
        self._violations = {
            name: as_arrays(broken, np.float64) for name, broken in data["violations"].items()
        }
        start = Detectors(arrays["filters"], arrays["biases"], arrays.get("signals"))
        return data["number"], start

    def _survivors(self, detectors: Detectors) -> Detectors:
        """The restarts that go on: the better half, not fewer, for the last stage tells the best.

        All that are finite where their number was asked for.
        """
        order = np.argsort(np.where(np.isfinite(self._values), self._values, np.inf))
        count = len(order) if self.recipe.restarts is not None else math.ceil(len(order) / 2)
        kept = np.sort(order[:count])
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
        made = self.coordinates(self.recipe.stages[-1].coordinates)
        least = _DEMANDED * self.recipe.stages[-1].tau if self._is_sharp else 0.0
        filters, biases = detectors.filters[best], detectors.biases[best]
        what = self.features, self.moments, filters, biases, signals, made, least
        try:
            measured = measure_pairs(*what)
        except KeyboardInterrupt:
            if self.interrupted:
                raise
            self.interrupted = True
            self._note("interrupted while the pairs were completed: this was done again")
            measured = measure_pairs(*what)
        pairs, missing = measured.pairs, []
        if len(detectors.filters) > 1:
            recurrence = share_of_returns(detectors.filters, best, self.moments.covariance)
            if len(detectors.filters) > 2:
                missing = np.flatnonzero(recurrence == 0.0).tolist()
            pairs = dataclasses.replace(pairs, recurrence=recurrence)
        dead, duplicates = find_problems(pairs, measured.occupancy, measured.overlaps)
        history = History(
            recipe=self.recipe.name,
            stages={
                name: {loss: [float(epoch[loss][best]) for epoch in epochs] for loss in epochs[0]}
                for name, epochs in self._records.items()
                if epochs
            },
            violations={
                stage.name: {
                    loss: float(excess[best])
                    for loss, excess in self._violations.get(stage.name, {}).items()
                    if excess[best] > _BROKEN * stage.constraints[loss]
                }
                for stage in self.recipe.stages
                if stage.name in self._violations
            },
            occupancy=measured.occupancy,
            dead=dead,
            duplicates=duplicates,
            surplus=[concept for concept in measured.surplus if concept not in dead],
            missing=missing,
            condition_number=pairs.condition_number,
            cut_short=self._cut_short,
            doubts=self._doubts(best, measured, made),
            interrupted=self.interrupted,
            notes=self._notes,
            seconds=self._seconds,
            restarts=self._values.tolist(),
        )
        if problems := history.problems():
            warn_caller("; ".join(problems), LearningWarning)
        return pairs, history

    @property
    def _is_sharp(self) -> bool:
        """Whether the recipe is one for where the model of signals and distractors holds."""
        return self.recipe.otherwise is not None

    def _doubts(self, best: int, measured: MeasuredPairs, made: Coordinates) -> list[str]:
        """What is less sure; of sharp detectors most of all, for soft ones promise less."""
        found = []
        if self.left_out:
            named = self.left_out if len(self.left_out) <= 10 else f"{self.left_out[:10]} and more"
            found.append(f"images {named} are unlike all others, and were left out")
        if self.far:
            found.append(
                f"{self.far} images are unlike the others, too many to be left out: one direction "
                "of theirs can turn all signal vectors"
            )
        images = self.features.shape[0]
        distinct = distinct_images(self.features)
        if images - distinct > _COPIES * images:
            found.append(f"{images - distinct} of {images} images are copies of others")
        if self.concepts > made.axes:
            found.append(
                f"{MORE_THAN_DIMENSIONS} {made.axes} dimensions only: at most {made.axes} "
                f"directions can be told apart, not {self.concepts}"
            )
        if (self._is_sharp or self._switches) and rank_of_signal(self.moments, self.concepts):
            found += self._doubts_of_model()
        if self._is_sharp:
            epochs = self._records.get(self.recipe.stages[-1].name)
            entropy = float(epochs[-1]["s"][best]) if epochs else 0.0
            detections = np.delete(measured.occupancy, measured.surplus) * len(self.features)
            detections *= distinct / images
            several = entropy > self.recipe.clear_below
            found += find_doubts(entropy if several else None, made.noise, made.axes, detections)
        return found

    def _doubts_of_model(self) -> list[str]:
        """Where features look like signals and distractors, but the learning did not find these."""
        found = []
        if self._switches:
            found.append(
                "features look like signals and distractors (their spectrum has a floor of noise), "
                "but no such concepts were found: these directions are clusters, thresholds are "
                "shares of the positions, and neither need be those of concepts"
            )
        made, rng = self.coordinates("whitened"), np.random.default_rng(0)
        maxima = count_maxima(self.features.sample(made, _ASKED, rng), rng)
        if maxima > self.concepts:
            found.append(
                f"there are at least {maxima} skewed sources for {self.concepts} concepts: too few "
                "concepts are wrong ones (unless distractors are skewed, too)"
            )
        if maxima < self.concepts and self._per_position > 1:
            found.append(
                f"{maxima} skewed sources are found for {self.concepts} concepts: others may be "
                f"distractors, and then positions do not carry {self._per_position} concepts each"
            )
        return found
