"""Learn direction pairs from activations: `learn_pairs` and the life of a fit around its stages.

Each stage maps the state of a fit to the next state (`stage.stage_run`). This module creates the
first state, saves it after every epoch, handles Ctrl-C, keeps several workers in step, checks the
result and turns the last state into direction pairs.
"""

from __future__ import annotations

import logging
import os
from dataclasses import replace

import numpy as np
from numpy.typing import ArrayLike

from xplique_dirpairs.core.linear_algebra import unit_rows
from xplique_dirpairs.core.progress import KeepOnInterrupt, quiet, warn_caller
from xplique_dirpairs.core.types import Array
from xplique_dirpairs.core.validation import check_integer, check_random_state
from xplique_dirpairs.data.devices import as_on_chief, check_alike, check_strategy, is_chief
from xplique_dirpairs.data.shards import ActivationShards
from xplique_dirpairs.learning.checkpoint import PROBES, Checkpoint, Fingerprint
from xplique_dirpairs.learning.coordinates import CONSTANT, Moments, rank_of_signal
from xplique_dirpairs.learning.features import as_features
from xplique_dirpairs.learning.history import (
    MORE_THAN_DIMENSIONS,
    History,
    LearningWarning,
    find_doubts,
    find_problems,
    share_of_returns,
)
from xplique_dirpairs.learning.recipe import SPARSE, Recipe, get_recipe
from xplique_dirpairs.learning.signals import MeasuredPairs, measure_pairs
from xplique_dirpairs.learning.sparse import follows_the_model
from xplique_dirpairs.learning.stage import stage_run
from xplique_dirpairs.learning.starts import (
    count_maxima,
    distinct_images,
    leave_out_far,
    make_start,
    positions_for,
)
from xplique_dirpairs.learning.state import Detectors, FitState, Problem
from xplique_dirpairs.models.head import Head, check_head
from xplique_dirpairs.pairs import DirectionPairs

logger = logging.getLogger("xplique_dirpairs")

#: Number of sampled positions in which skewed sources are counted.
_ASKED = 25_000
#: Largest share of duplicate images that is accepted without a warning.
_COPIES = 0.1
#: A concept whose share of detections is below this multiple of τ/I, the share that L^ic demands,
#: is surplus [measured: surplus concepts (one or two too many) have 1.0 times τ/I; under Zipf's law
#: the rarest of 64 concepts has 2.1 times τ/I].
_DEMANDED = 1.5
#: Relative excess over a bound that is tolerated, because an augmented Lagrangian ends close to the
#: bound, on either side of it.
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
    """Learn encoding–decoding direction pairs from activations.

    The method is that of Doumanoglou, Driessens and Zarpalas, arXiv 2509.23926. A pair is a filter
    with a bias, which detects a concept at a position, and a signal vector, along which features
    change with the concept. Signal vectors are computed from detections by default, not learned.

    Parameters
    ----------
    activations : array-like of shape (N, H, W, D), (N, T, D) or (N, D)
        Activations of N unlabelled images at the layer under study: maps of H × W positions, T
        tokens, or vectors, with D channels. Or `ActivationShards`, which are read from disk file by
        file, so that memory does not grow with N.
    number_of_concepts : int
        Number of concepts I.
    head : Head, optional
        The rest of the network, from the layer to the class scores. None: the terms of the
        objective that evaluate the network (L^uur and L^cur in the paper) are left out.
    recipe : str or Recipe, default="default"
        What the stages of the learning minimise, and how. "default" is for features that are
        concepts plus noise; where the features are not, as in most real networks, it goes on as
        "soft", whose detectors are less sharp; where they are rare concepts, any number of them at
        a position, as "sparse". "constrained" is for small networks and few concepts;
        "paper-deep" and "paper-synthetic" are the paper's own, slow settings; "uibe" and "cbe" are
        its predecessors.
    n_init : int, optional
        Number of restarts, which are learned side by side, each to the end. The restart with the
        smallest objective plus ten times its constraint violations is kept;
        `DirectionPairs.recurrence` is the share of the other restarts in which each of its concepts
        was found again. None: the number of the recipe (8 for "constrained", 1 for most others; for
        "default", as many as are cheap, up to 8).
    random_state : int, optional
        Seed. The same seed on the same machine gives the same pairs; None draws a random seed.
    verbose : int, default=1
        0 is silent, 1 shows a progress bar for each stage.
    resume : str or path-like, optional
        Folder in which the state of the fit is saved after every epoch. If it already holds the
        state of a fit with the same settings, that fit is continued. None: nothing is saved.

    Returns
    -------
    pairs : DirectionPairs
        Filters, biases and signal vectors of the I concepts, for the activations as given.
    history : History
        Losses of every epoch, decisions and problems of the fit.

    Notes
    -----
    Ctrl-C ends the learning and keeps what was learned so far: the returned pairs are complete, and
    `History.interrupted` is True. KeyboardInterrupt is raised if nothing has been learned yet, or
    if Ctrl-C is pressed again while the pairs are completed. A fit continued from ``resume`` may
    also raise it before its first new step: its state is still in the folder.

    Warns
    -----
    LearningWarning
        If the result has problems (see `History.problems`); if the activations are constant, so
        that no concept is ever detected; or if the state can no longer be saved in ``resume``
        (learning continues without saving).

    Raises
    ------
    TypeError, ValueError
        If the activations are not finite, or of the wrong rank; if the number of concepts is not a
        positive integer; if there is no such recipe; if the head is not a Head, or expects
        activations of another shape; if ``resume`` cannot be written to, or holds the state of
        another fit.
    """
    recipe = get_recipe(recipe)
    if n_init is not None:
        check_integer("n_init", n_init)
        recipe = recipe.with_restarts(n_init)
    check_integer("number_of_concepts", number_of_concepts)
    features = as_features(activations)
    check_head(head, features.shape)
    if head is not None:
        head = head.checked_on(features.first(PROBES))
    generator = check_random_state(random_state)
    folder = None if resume is None else Checkpoint.folder_for(resume)
    settings = {
        "number_of_concepts": str(number_of_concepts),
        "recipe": str(recipe),
        "random_state": str(random_state),
        "head": "none" if head is None else "given",
        "activations": str(features.shape),
    }
    check_strategy(features.shape[0], random_state)
    moments = Moments.of(features, constant=True)
    magnitude = float(np.abs(moments.mean).sum())
    check_alike(**settings, resume=str(resume is None), values=magnitude)
    if moments.are_constant:
        pairs, history = _without_concepts(moments.mean, number_of_concepts, recipe.name)
        warn_caller("; ".join(history.problems()), LearningWarning)
        return pairs, history
    features, moments, left_out, far = leave_out_far(
        features, moments, number_of_concepts, as_on_chief
    )
    problem = Problem(
        features,
        as_on_chief(moments),
        number_of_concepts,
        head,
        verbose if is_chief() else 0,
        tuple(left_out.tolist()),
        far,
        as_on_chief,
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


def _without_concepts(
    mean: Array, number_of_concepts: int, recipe: str
) -> tuple[DirectionPairs, History]:
    """Return pairs that are never detected, for features that are the same everywhere."""
    rng = np.random.default_rng(0)
    filters = unit_rows(rng.standard_normal((number_of_concepts, len(mean))))
    at_mean = filters @ mean
    pairs = DirectionPairs(filters, at_mean + 1.0, filters, mean, at_mean)
    history = History(
        recipe,
        stages={},
        violations={},
        occupancy=np.zeros(number_of_concepts),
        dead=list(range(number_of_concepts)),
        duplicates=[],
        condition_number=pairs.condition_number,
        doubts=[f"{CONSTANT}. Nothing was learned: no concept is ever detected"],
    )
    return pairs, history


# ------------------------------------------------------------------ around the stages


def _learned(
    problem: Problem,
    recipe: Recipe,
    generator: np.random.Generator,
    checkpoint: Checkpoint | None,
) -> FitState:
    """Return the state after the last stage, or the state that was kept on Ctrl-C."""
    state: FitState | None = None
    complete: FitState | None = None  # the state after the last completed stage
    with KeepOnInterrupt(lambda: complete is not None) as block:
        state = None if checkpoint is None else checkpoint.load(recipe)
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
    cut_short = f"recipe {complete.recipe.name} was interrupted after stage {stage}, which is kept"
    return replace(complete, interrupted=True, cut_short=(*complete.cut_short, cut_short))


def _stage_kept_alive(problem: Problem, state: FitState, checkpoint: Checkpoint | None) -> FitState:
    """Return the state after one stage, saved after every epoch and kept on Ctrl-C."""
    with stage_run(problem, state) as run:
        with KeepOnInterrupt(lambda: run.has_learned) as block:
            for _ in run.epochs():
                if checkpoint is not None:
                    checkpoint.save(run.state)
        return run.result(block.interrupted)


# ------------------------------------------------------------------ beginning


def begin_fit(problem: Problem, recipe: Recipe, generator: np.random.Generator) -> FitState:
    """Return the state of a fit before its first stage: the recipe and the initial detectors.

    Parameters
    ----------
    problem : Problem
        Features and settings of the fit.
    recipe : Recipe
        The requested recipe; the state has its alternative if that suits the features better.
    generator : numpy.random.Generator
        Source of all random numbers of the fit.

    Returns
    -------
    state : FitState
    """
    state = FitState(recipe, generator.bit_generator.state)
    if problem.head is None:
        state = _noted(state, "no head was given: the network terms are left out")
    if recipe.otherwise and _is_sparse(problem):
        note = "concepts are rare and independent of one another: recipe 'sparse'"
        sparse = _started(problem, replace(_noted(state, note), recipe=SPARSE))
        if sparse.clear_start:
            return sparse
    if recipe.otherwise and rank_of_signal(problem.moments, problem.number_of_concepts) is None:
        axes = problem.coordinates("whitened").axes
        reason = "the spectrum of the features has no floor of noise"
        if axes < problem.number_of_concepts:
            reason = f"{MORE_THAN_DIMENSIONS} {axes} dimensions"
        state = _switched(state, reason)
    return _started(problem, state)


def _is_sparse(problem: Problem) -> bool:
    """Return whether the features follow the model of sparse concepts."""
    coordinates, rng = problem.coordinates("whitened"), np.random.default_rng(0)
    sample = problem.features.sample(coordinates, positions_for(problem.number_of_concepts), rng)
    return bool(problem.agree(np.array(follows_the_model(sample, rng))))


def hand_over(problem: Problem, state: FitState) -> FitState:
    """Return the state unchanged, or the first state of the recipe's alternative.

    A recipe with an alternative (`Recipe.otherwise`) is replaced after its first stage if positions
    carry overlapping concepts and the initial detectors did not stand out clearly.

    Parameters
    ----------
    problem : Problem
        Features and settings of the fit.
    state : FitState
        The state after a stage.

    Returns
    -------
    state : FitState
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
    """Return the state with a note for the user, which is logged too."""
    logger.info(note)
    return replace(state, notes=(*state.notes, note))


def _switched(state: FitState, reason: str) -> FitState:
    """Return a new state for the recipe's alternative, with a note that states the reason."""
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
    """Return the state with the initial detectors of R restarts, in raw coordinates."""
    recipe, concepts = state.recipe, problem.number_of_concepts
    coordinates = problem.coordinates(recipe.coordinates_of(0))
    if concepts > coordinates.axes and recipe.start != "sparse":
        note = f"{concepts} concepts, but features vary in {coordinates.axes} dimensions"
        state = _noted(state, f"{note}: the surplus ones start at random")
    rng = state.random_generator()
    generators = [rng] * problem.restarts(recipe)
    if recipe.start in ("consensus", "sparse"):  # these must not depend on the seed
        generators = [np.random.default_rng(restart) for restart in range(len(generators))]
    starts = []
    for generator in generators:
        sample = problem.features.sample(coordinates, positions_for(concepts), generator)
        start = make_start(recipe.start, sample, concepts, generator, coordinates.backward)
        starts.append(problem.agree(start))
    per_position = int(np.median([start.per_position for start in starts]))
    if per_position > 1:
        state = _noted(state, f"positions carry {per_position} concepts each: L^s allows that many")
    found = starts[0].found
    if found is not None and found > concepts:
        state = _noted(state, f"about {found} concepts were found, of which {concepts} are learned")
    if found is not None and found < concepts:
        doubt = f"only {found} distinct concepts were found: others of the {concepts} are random"
        state = replace(state, doubts=(*state.doubts, doubt))
    clear = any(start.clear for start in starts)
    if found is not None and not clear:
        doubt = (
            "many filters became equal: the concepts are not rare and independent of one another"
        )
        state = replace(state, doubts=(*state.doubts, doubt))
    filters = coordinates.filters_to_raw(np.stack([start.filters for start in starts]))
    signals = None
    if not recipe.stages and starts[0].signals is not None:
        signals = coordinates.signals_to_raw(np.stack([start.signals for start in starts]))
    return replace(
        state,
        generator=rng.bit_generator.state,
        detectors=Detectors(filters, np.stack([start.thresholds for start in starts]), signals),
        clear_start=clear,
        per_position=per_position,
    )


# ------------------------------------------------------------------ ending


def _finished(problem: Problem, state: FitState) -> tuple[DirectionPairs, History]:
    """Return the pairs of the best restart and the history of the fit."""
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
    """Return the completed pairs of the best restart; one Ctrl-C repeats the computation."""
    recipe, best, detectors = state.recipe, state.best, state.detectors
    signals: Array | str = recipe.estimator
    if detectors.signals is not None:
        signals = detectors.signals[best]
    arguments = (
        problem.features,
        problem.moments,
        detectors.filters[best],
        detectors.centred_biases[best],
        signals,
        problem.coordinates(recipe.coordinates_of(-1)),
        _DEMANDED * recipe.stages[-1].tau if recipe.is_sharp else 0.0,
    )
    measured = None
    with KeepOnInterrupt(lambda: not state.interrupted) as block:
        measured = measure_pairs(*arguments)
    if block.interrupted:
        state = replace(state, interrupted=True)
        state = _noted(state, "interrupted while completing the pairs: they were computed again")
        measured = measure_pairs(*arguments)
    assert measured is not None
    return replace(measured, pairs=problem.agree(measured.pairs)), state


def check_fit(problem: Problem, state: FitState, measured: MeasuredPairs) -> list[str]:
    """Return the reasons why the directions of a fit may be unreliable, as sentences.

    Recipes with sharp detectors are checked more closely than those with soft detectors, whose
    thresholds claim less.

    Parameters
    ----------
    problem : Problem
        Features and settings of the fit.
    state : FitState
        The state after the last stage.
    measured : MeasuredPairs
        Pairs and detections of the best restart.

    Returns
    -------
    doubts : list of str
    """
    doubts = list(state.doubts)
    if problem.left_out:
        indices = list(problem.left_out)
        shown = indices if len(indices) <= 10 else f"{indices[:10]} and more"
        doubts.append(f"images {shown} are unlike all others and were left out")
    if problem.far:
        doubts.append(
            f"{problem.far} images are unlike the others, but too many to be left out: a single "
            "direction in them can distort all signal vectors"
        )
    images, distinct = problem.features.shape[0], distinct_images(problem.features)
    if images - distinct > _COPIES * images:
        doubts.append(f"{images - distinct} of {images} images are copies of other images")
    recipe, concepts = state.recipe, problem.number_of_concepts
    coordinates = problem.coordinates(recipe.coordinates_of(-1))
    if concepts > coordinates.axes and recipe.start == "sparse":
        doubts.append(
            f"{MORE_THAN_DIMENSIONS} {coordinates.axes} dimensions, fewer than {concepts} "
            "concepts: detections and signal vectors hold, but concepts cannot be switched off one "
            "by one, so coefficients and counterfactuals with all concepts off are approximate"
        )
    elif concepts > coordinates.axes:
        doubts.append(
            f"{MORE_THAN_DIMENSIONS} {coordinates.axes} dimensions: at most {coordinates.axes} "
            f"directions can be told apart, not {concepts}"
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
    """Return doubts about features that fit the model of signals and distractors."""
    doubts, concepts = [], problem.number_of_concepts
    if state.switches:
        doubts.append(
            "features fit the model of signals and distractors (their spectrum has a floor of "
            "noise), but no such concepts were found: directions are cluster centres and "
            "thresholds are fixed shares of the positions, so neither need belong to a concept"
        )
    rng = np.random.default_rng(0)
    sample = problem.features.sample(problem.coordinates("whitened"), _ASKED, rng)
    maxima = count_maxima(sample, rng)
    if maxima > concepts:
        doubts.append(
            f"there are at least {maxima} skewed sources for {concepts} concepts: with too few "
            "concepts, those learned are wrong (unless distractors are skewed, too)"
        )
    if maxima < concepts and state.per_position > 1:
        doubts.append(
            f"{maxima} skewed sources were found for {concepts} concepts: the other concepts may "
            f"be distractors, and then positions do not carry {state.per_position} concepts each"
        )
    return doubts
