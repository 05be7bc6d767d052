"""Complete a fit: compute its pairs and its history, and check how far they can be trusted."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from xplique_dirpairs.core.progress import KeepOnInterrupt
from xplique_dirpairs.core.types import Array
from xplique_dirpairs.learning.coordinates import rank_of_signal
from xplique_dirpairs.learning.history import (
    MORE_THAN_DIMENSIONS,
    History,
    find_doubts,
    find_problems,
    share_of_returns,
)
from xplique_dirpairs.learning.outliers import distinct_images
from xplique_dirpairs.learning.signals import MeasuredPairs, measure_pairs
from xplique_dirpairs.learning.starts import count_maxima
from xplique_dirpairs.learning.state import FitState, Problem, noted
from xplique_dirpairs.pairs import DirectionPairs

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


def complete_fit(problem: Problem, state: FitState) -> tuple[DirectionPairs, History]:
    """Return the pairs of the best restart and the history of the fit.

    Parameters
    ----------
    problem : Problem
        Features and settings of the fit.
    state : FitState
        The state after the last stage.

    Returns
    -------
    pairs : DirectionPairs
    history : History
    """
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
        state = noted(state, "interrupted while completing the pairs: they were computed again")
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
