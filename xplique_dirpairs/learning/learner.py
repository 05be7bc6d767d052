"""Learn direction pairs from activations: `learn_pairs` and the life of a fit around its stages.

Each stage maps the state of a fit to the next state (`stage.stage_run`). `initialisation` creates
the first state, and `completion` turns the last one into direction pairs. This module saves the
state after every epoch, handles Ctrl-C and keeps several workers in step.
"""

from __future__ import annotations

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
from xplique_dirpairs.learning.completion import complete_fit
from xplique_dirpairs.learning.coordinates import CONSTANT, Moments
from xplique_dirpairs.learning.features import as_features
from xplique_dirpairs.learning.history import History, LearningWarning
from xplique_dirpairs.learning.initialisation import begin_fit, hand_over
from xplique_dirpairs.learning.outliers import leave_out_far
from xplique_dirpairs.learning.presets import get_recipe
from xplique_dirpairs.learning.recipe import Recipe
from xplique_dirpairs.learning.stage import stage_run
from xplique_dirpairs.learning.state import FitState, Problem
from xplique_dirpairs.models.head import Head, check_head
from xplique_dirpairs.pairs import DirectionPairs


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
        What the stages of the learning minimise, and how. "default" suits features that are a sum
        of concepts, of distractors (variation that belongs to no concept) and of noise. Where they
        are not, it is replaced by "sparse" if concepts are rare and any number of them is at a
        position, and otherwise, as in most real networks, by "soft", whose detections rise less
        steeply at their thresholds. "constrained"
        is for small networks and few concepts; "paper-deep" and "paper-synthetic" are the paper's
        own, slow settings; "uibe" and "cbe" are the methods that preceded the paper's.
    n_init : int, optional
        Number of restarts: fits from different initial filters, learned side by side, each to the
        end. The restart with the smallest objective plus ten times its constraint violations is
        kept; `DirectionPairs.recurrence` is the share of the other restarts in which each of its
        concepts was found again. None: the number of the recipe (8 for "constrained", 1 for most
        others). "default" then begins with up to 8, the fewer the longer a step takes, and drops
        the worse half after each stage.
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
        Filters, biases and signal vectors of the I concepts, in the units of ``activations``.
    history : History
        Losses of every epoch, changes of the recipe, and problems of the result.

    Notes
    -----
    Ctrl-C ends the learning and keeps what was learned so far: the returned pairs are complete, and
    `History.interrupted` is True. KeyboardInterrupt is raised if nothing has been learned yet, or
    if Ctrl-C is pressed again while signal vectors are computed at the end. A fit that continues
    from ``resume`` may also raise it before its first new step; the saved state is not lost.

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

    Examples
    --------
    >>> split = split_model(model, "last_conv")
    >>> activations = split.input_to_latent_model.predict(images)
    >>> pairs, history = learn_pairs(activations, 12, head=split.head, random_state=0)
    >>> print(history.summary())
    >>> detections = pairs.detect(activations)  # (N, H, W, 12)
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
        pairs, history = complete_fit(problem, state)
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
