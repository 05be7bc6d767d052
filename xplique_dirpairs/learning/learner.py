"""`learn_pairs`: direction pairs from activations, and what keeps a fit alive around its stages.

The stages map the state of a fit to the next one (`stage.run_stage`). Here it begins, is saved
after every epoch, survives Ctrl-C, is the same on several workers, is checked and becomes pairs.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import ArrayLike

from xplique_dirpairs.core.progress import KeepOnInterrupt, quiet, warn_caller
from xplique_dirpairs.core.types import Array
from xplique_dirpairs.core.validation import check_integer, check_random_state
from xplique_dirpairs.data.devices import (
    as_on_chief,
    check_alike,
    check_strategy,
    is_chief,
)
from xplique_dirpairs.data.shards import ActivationShards
from xplique_dirpairs.learning.checkpoint import PROBES, Checkpoint, Fingerprint
from xplique_dirpairs.learning.features import Moments, as_features, rank_of_signal
from xplique_dirpairs.learning.history import (
    MORE_THAN_DIMENSIONS,
    History,
    LearningWarning,
    find_doubts,
    find_problems,
    share_of_returns,
)
from xplique_dirpairs.learning.objective import Detectors
from xplique_dirpairs.learning.recipe import Recipe, get_recipe
from xplique_dirpairs.learning.signals import MeasuredPairs, measure_pairs
from xplique_dirpairs.learning.stage import stage_run
from xplique_dirpairs.learning.starts import (
    count_maxima,
    distinct_images,
    leave_out_far,
    make_start,
    positions_for,
)
from xplique_dirpairs.learning.state import FitState, Problem
from xplique_dirpairs.models.head import Head, check_head
from xplique_dirpairs.pairs import DirectionPairs

logger = logging.getLogger("xplique_dirpairs")

#: Positions that are asked for skewed sources.
_ASKED = 25_000
#: Share of images that may be copies of others.
_COPIES = 0.1
#: A concept that is detected on less than this many times the share L^ic demands, τ/I, stands for
#: nothing [measured: with one and two concepts too many, 1.0 times τ/I; under Zipf's law the rarest
#: of 64 concepts is on 2.1 times τ/I].
_DEMANDED = 1.5
#: Of a bound, by how much it may be exceeded: an augmented Lagrangian ends near it, on either side.
_BROKEN = 0.01


def learn_pairs(
    activations: ArrayLike | ActivationShards,
    number_of_concepts: int,
    *,
    head: Head | None = None,
    recipe: str | Recipe = "default",
    n_init: int | None = None,
    random_state: int | None = None,
    verbose: int = 1,
    resume: str | os.PathLike[str] | None = None,
) -> tuple[DirectionPairs, History]:
    """Learn direction pairs from activations.

    Parameters
    ----------
    activations : array-like of shape (N, H, W, D), (N, T, D) or (N, D)
        Of unlabelled images, at the layer under study; or `ActivationShards`, which are streamed
        from disk: memory does not grow with their number.
    number_of_concepts : int
        I.
    head : Head or None, default=None
        The rest of the network; without it the network terms L^uur and L^cur are left out.
    recipe : str or Recipe, default="default"
        A name (see `presets.RECIPES`) or a Recipe.
    n_init : int or None, default=None
        Starts that are learned side by side, each to the end. The one with the least objective,
        plus ten times what it violates of its constraints, is kept; `DirectionPairs.recurrence`
        says in how many of the others each of its concepts came back. None: as the recipe says.
    random_state : int or None, default=None
        Seed; the same seed on the same machine gives the same pairs.
    verbose : int, default=1
        0: silent; 1: a progress bar per stage.
    resume : str, path-like or None, default=None
        A folder. The state of the fit is kept there after every epoch; if it holds the state of a
        fit with the same settings, that one goes on.

    Returns
    -------
    pairs : DirectionPairs
    history : History

    Notes
    -----
    Ctrl-C ends the learning and keeps what was learned so far: the pairs are complete, and the
    history says so. Before the first steps there is nothing to keep, and KeyboardInterrupt passes,
    as it does when it comes again while the pairs are completed. A fit resumed from ``resume``
    may pass it on before its first new steps: its state is in the folder.

    Warns
    -----
    LearningWarning
        If the result needs a look; see `History.problems`. If the state cannot be kept in
        ``resume`` any more: learning goes on without it.

    Raises
    ------
    TypeError, ValueError
        If the activations are not finite, constant, or of the wrong rank; if the number of
        concepts is not a positive integer; if the head is no Head, or takes other activations; if
        ``resume`` cannot be written to, or holds the state of another fit.
    """
    recipe = get_recipe(recipe)
    if n_init is not None:
        check_integer("n_init", n_init)
        recipe = recipe.with_restarts(n_init)
    check_integer("number_of_concepts", number_of_concepts)
    features = as_features(activations)
    check_head(head, features.shape)
    generator = check_random_state(random_state)
    folder = None if resume is None else Checkpoint.folder_for(resume)
    settings = {
        "number_of_concepts": str(number_of_concepts),
        "recipe": str(recipe),
        "random_state": str(random_state),
        "head": "none" if head is None else "given",
        "activations": str(features.shape),
    }
    agree: Callable[[Any], Any] = _identity
    if tf.distribute.has_strategy():
        check_strategy(features.shape[0], random_state)
        agree = as_on_chief
        verbose = verbose if is_chief() else 0
    moments = Moments.of(features)
    if tf.distribute.has_strategy():
        magnitude = float(np.abs(moments.mean).sum())
        check_alike(**settings, resume=str(resume is None), values=magnitude)
    features, moments, left_out, far = leave_out_far(features, moments, number_of_concepts, agree)
    problem = Problem(
        features,
        agree(moments),
        number_of_concepts,
        head,
        verbose,
        tuple(left_out.tolist()),
        far,
        agree,
    )
    checkpoint = None
    if folder is not None:
        fingerprint = Fingerprint.of(problem.moments, features.first(PROBES), head)
        checkpoint = Checkpoint(folder, settings, problem.agree(fingerprint))
    with quiet():
        state = _learned(problem, recipe, generator, checkpoint)
        pairs, history = _finished(problem, state)
    if checkpoint is not None and checkpoint.failure is not None:
        history.notes.append(checkpoint.failure)
    if problems := history.problems():
        warn_caller("; ".join(problems), LearningWarning)
    return pairs, history


# ------------------------------------------------------------------ around the stages


def _identity(value: Any) -> Any:
    return value


def _learned(
    problem: Problem,
    recipe: Recipe,
    generator: np.random.Generator,
    checkpoint: Checkpoint | None,
) -> FitState:
    """Return the state after all stages, or after what Ctrl-C left of them."""
    state: FitState | None = None
    complete: FitState | None = None  # after the last whole stage
    with KeepOnInterrupt(lambda: complete is not None) as block:
        state = None if checkpoint is None else checkpoint.load(recipe)
        if tf.distribute.has_strategy():
            place = None
            if state is not None and state.running is not None:
                place = state.number, state.running.epoch
            check_alike(state_in_resume=str(place))
        if state is None:
            state = begin_fit(problem, recipe, generator)
        while not state.is_complete and not state.interrupted:
            state = _stage_kept_alive(problem, state, checkpoint)
            complete = state
            if not state.interrupted:
                state = hand_over(problem, state)
    if not block.interrupted:
        assert state is not None
        return state
    assert complete is not None
    stage = complete.recipe.stages[complete.number - 1].name
    cut_short = (
        f"recipe {complete.recipe.name} was interrupted after stage {stage}: what it had then is "
        "kept"
    )
    return replace(complete, interrupted=True, cut_short=(*complete.cut_short, cut_short))


def _stage_kept_alive(problem: Problem, state: FitState, checkpoint: Checkpoint | None) -> FitState:
    """Run a stage as `run_stage` does; save it after every epoch, and keep it on Ctrl-C."""
    with stage_run(problem, state) as run:
        with KeepOnInterrupt(lambda: run.has_learned) as block:
            for _ in run.epochs():
                if checkpoint is not None:
                    checkpoint.save(run.state)
        return run.result(block.interrupted)


# ------------------------------------------------------------------ beginning


def begin_fit(problem: Problem, recipe: Recipe, generator: np.random.Generator) -> FitState:
    """Return the state of a fit before its first stage: recipe and initial detectors.

    Parameters
    ----------
    problem : Problem
    recipe : Recipe
    generator : numpy.random.Generator
    """
    state = FitState(recipe, generator.bit_generator.state)
    if problem.head is None:
        state = _noted(state, "no head was given: the network terms are left out")
    if recipe.otherwise and rank_of_signal(problem.moments, problem.number_of_concepts) is None:
        axes = problem.coordinates("whitened").axes
        reason = "the spectrum of the features has no floor of noise"
        if axes < problem.number_of_concepts:
            reason = f"{MORE_THAN_DIMENSIONS} {axes} dimensions only"
        state = _switched(state, reason)
    return _started(problem, state)


def hand_over(problem: Problem, state: FitState) -> FitState:
    """Return the state as it is, or the beginning of the recipe that suits the features better.

    After the first stage of a recipe with an ``otherwise``: where positions carry overlapping
    concepts, and the start was not clear.
    """
    recipe = state.recipe
    if state.number != 1 or recipe.otherwise is None or state.clear_start:
        return state
    entropy = float(np.nanmin(state.records[recipe.stages[0].name][-1]["s"]))
    if entropy <= recipe.clear_below:
        return state
    reason = f"positions carry overlapping concepts (L^s {entropy:.2f} bits)"
    return _started(problem, _switched(state, reason))


def _noted(state: FitState, note: str) -> FitState:
    logger.info(note)
    return replace(state, notes=(*state.notes, note))


def _switched(state: FitState, reason: str) -> FitState:
    """Return the state at the beginning of the recipe's other one."""
    other = state.recipe.otherwise
    assert other is not None
    state = _noted(state, f"{reason}: recipe {other.name!r}")
    return FitState(
        other,
        state.generator,
        notes=state.notes,
        cut_short=state.cut_short,
        seconds=state.seconds,
        switches=state.switches + 1,
    )


def _started(problem: Problem, state: FitState) -> FitState:
    """Return the state with R initial detectors, made in the first stage's coordinates."""
    recipe, concepts = state.recipe, problem.number_of_concepts
    coordinates = problem.coordinates(recipe.stages[0].coordinates)
    if concepts > coordinates.axes:
        note = (
            f"{concepts} concepts in {coordinates.axes} dimensions that vary: the filters cannot "
            "be orthonormal, the surplus ones start at random"
        )
        state = _noted(state, note)
    rng = state.random_generator()
    generators = [rng] * problem.restarts(recipe)
    if recipe.start == "consensus":  # it should not depend on the seed
        generators = [np.random.default_rng(restart) for restart in range(len(generators))]
    starts = []
    for generator in generators:
        sample = problem.features.sample(coordinates, positions_for(concepts), generator)
        start = make_start(recipe.start, sample, concepts, generator, coordinates.backward)
        starts.append(problem.agree(start))
    per_position = int(np.median([start.per_position for start in starts]))
    if per_position > 1:
        state = _noted(state, f"positions carry {per_position} concepts each: L^s asks for as many")
    filters = coordinates.filters_to_raw(np.stack([start.filters for start in starts]))
    return replace(
        state,
        generator=rng.bit_generator.state,
        detectors=Detectors(filters, np.stack([start.thresholds for start in starts])),
        clear_start=any(start.clear for start in starts),
        per_position=per_position,
    )


# ------------------------------------------------------------------ ending


def _finished(problem: Problem, state: FitState) -> tuple[DirectionPairs, History]:
    """Return the best restart as pairs, and how the fit went."""
    measured, state = _measured(problem, state)
    pairs, missing, best = measured.pairs, [], state.best
    if len(state.detectors.filters) > 1:
        recurrence = share_of_returns(state.detectors.filters, best, problem.moments.covariance)
        if len(state.detectors.filters) > 2:
            missing = np.flatnonzero(recurrence == 0.0).tolist()
        pairs = replace(pairs, recurrence=recurrence)
    dead, duplicates = find_problems(pairs, measured.occupancy, measured.overlaps)
    return pairs, History(
        recipe=state.recipe.name,
        stages={
            name: {loss: [float(epoch[loss][best]) for epoch in epochs] for loss in epochs[0]}
            for name, epochs in state.records.items()
            if epochs
        },
        violations={
            stage.name: {
                loss: float(excess[best])
                for loss, excess in state.violations[stage.name].items()
                if excess[best] > _BROKEN * stage.constraints[loss]
            }
            for stage in state.recipe.stages
            if stage.name in state.violations
        },
        occupancy=measured.occupancy,
        dead=dead,
        duplicates=duplicates,
        surplus=[concept for concept in measured.surplus if concept not in dead],
        missing=missing,
        condition_number=pairs.condition_number,
        cut_short=list(state.cut_short),
        doubts=check_fit(problem, state, measured),
        interrupted=state.interrupted,
        notes=list(state.notes),
        seconds=state.seconds,
        restarts=state.values.tolist(),
    )


def _measured(problem: Problem, state: FitState) -> tuple[MeasuredPairs, FitState]:
    """Complete the best restart's detectors to pairs; after a first Ctrl-C, once more."""
    stage, best, detectors = state.recipe.stages[-1], state.best, state.detectors
    signals: Array | str = state.recipe.estimator
    if detectors.signals is not None:
        signals = detectors.signals[best]
    arguments = (
        problem.features,
        problem.moments,
        detectors.filters[best],
        detectors.biases[best],
        signals,
        problem.coordinates(stage.coordinates),
        _DEMANDED * stage.tau if state.recipe.is_sharp else 0.0,
    )
    measured = None
    with KeepOnInterrupt(lambda: not state.interrupted) as block:
        measured = measure_pairs(*arguments)
    if block.interrupted:
        state = replace(state, interrupted=True)
        state = _noted(state, "interrupted while the pairs were completed: this was done again")
        measured = measure_pairs(*arguments)
    assert measured is not None
    return replace(measured, pairs=problem.agree(measured.pairs)), state


def check_fit(problem: Problem, state: FitState, measured: MeasuredPairs) -> list[str]:
    """Return why a fit's directions are less sure than they look, in words.

    Of sharp detectors most of all, for soft ones promise less.

    Parameters
    ----------
    problem : Problem
    state : FitState
        After the last stage.
    measured : MeasuredPairs
        The best restart.
    """
    doubts = []
    if problem.left_out:
        named = list(problem.left_out)
        some = named if len(named) <= 10 else f"{named[:10]} and more"
        doubts.append(f"images {some} are unlike all others, and were left out")
    if problem.far:
        doubts.append(
            f"{problem.far} images are unlike the others, too many to be left out: one direction "
            "of theirs can turn all signal vectors"
        )
    images, distinct = problem.features.shape[0], distinct_images(problem.features)
    if images - distinct > _COPIES * images:
        doubts.append(f"{images - distinct} of {images} images are copies of others")
    recipe, concepts = state.recipe, problem.number_of_concepts
    coordinates = problem.coordinates(recipe.stages[-1].coordinates)
    if concepts > coordinates.axes:
        doubts.append(
            f"{MORE_THAN_DIMENSIONS} {coordinates.axes} dimensions only: at most "
            f"{coordinates.axes} directions can be told apart, not {concepts}"
        )
    has_floor = rank_of_signal(problem.moments, concepts) is not None
    if has_floor and (recipe.is_sharp or state.switches):
        doubts += _doubts_of_model(problem, state)
    if recipe.is_sharp:
        epochs = state.records.get(recipe.stages[-1].name)
        entropy = float(epochs[-1]["s"][state.best]) if epochs else 0.0
        detections = np.delete(measured.occupancy, measured.surplus) * len(problem.features)
        detections *= distinct / images
        several = entropy if entropy > recipe.clear_below else None
        doubts += find_doubts(several, coordinates.noise, coordinates.axes, detections)
    return doubts


def _doubts_of_model(problem: Problem, state: FitState) -> list[str]:
    """Return doubts where features look like signals and distractors, but were not learned so."""
    doubts, concepts = [], problem.number_of_concepts
    if state.switches:
        doubts.append(
            "features look like signals and distractors (their spectrum has a floor of noise), "
            "but no such concepts were found: these directions are clusters, thresholds are "
            "shares of the positions, and neither need be those of concepts"
        )
    rng = np.random.default_rng(0)
    sample = problem.features.sample(problem.coordinates("whitened"), _ASKED, rng)
    maxima = count_maxima(sample, rng)
    if maxima > concepts:
        doubts.append(
            f"there are at least {maxima} skewed sources for {concepts} concepts: too few "
            "concepts are wrong ones (unless distractors are skewed, too)"
        )
    if maxima < concepts and state.per_position > 1:
        doubts.append(
            f"{maxima} skewed sources are found for {concepts} concepts: others may be "
            f"distractors, and then positions do not carry {state.per_position} concepts each"
        )
    return doubts
