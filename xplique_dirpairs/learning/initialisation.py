"""Begin a fit: choose the recipe that suits the features, and compute the initial detectors."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from xplique_dirpairs.learning.coordinates import rank_of_signal
from xplique_dirpairs.learning.history import MORE_THAN_DIMENSIONS
from xplique_dirpairs.learning.presets import SPARSE
from xplique_dirpairs.learning.recipe import Recipe
from xplique_dirpairs.learning.sparse import follows_the_model
from xplique_dirpairs.learning.starts import make_start, positions_for
from xplique_dirpairs.learning.state import Detectors, FitState, Problem, noted


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
        state = noted(state, "no head was given: the network terms are left out")
    if recipe.otherwise and _is_sparse(problem):
        note = "concepts are rare and independent of one another: recipe 'sparse'"
        sparse = _started(problem, replace(noted(state, note), recipe=SPARSE))
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


def _switched(state: FitState, reason: str) -> FitState:
    """Return a new state for the recipe's alternative, with a note that states the reason."""
    other = state.recipe.otherwise
    assert other is not None
    state = noted(state, f"{reason}: recipe {other.name!r}")
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
        state = noted(state, f"{note}: the surplus ones start at random")
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
        state = noted(state, f"positions carry {per_position} concepts each: L^s allows that many")
    found = starts[0].found
    if found is not None and found > concepts:
        state = noted(state, f"about {found} concepts were found, of which {concepts} are learned")
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
