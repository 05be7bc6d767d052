"""`learn_pairs`: direction pairs from activations."""

from __future__ import annotations

import dataclasses
import os

import numpy as np
from numpy.typing import ArrayLike

from xplique_dirpairs.core.validation import check_activations, check_integer, check_random_state
from xplique_dirpairs.data.devices import as_on_chief, check_alike, check_strategy, is_chief
from xplique_dirpairs.data.shards import ActivationShards
from xplique_dirpairs.learning.checkpoint import Checkpoint
from xplique_dirpairs.learning.coordinates import Moments
from xplique_dirpairs.learning.features import HeldFeatures, StreamedFeatures
from xplique_dirpairs.learning.fingerprint import PROBES, Fingerprint
from xplique_dirpairs.learning.history import History
from xplique_dirpairs.learning.learner import Learner
from xplique_dirpairs.learning.outliers import leave_out_far
from xplique_dirpairs.learning.presets import get_recipe
from xplique_dirpairs.learning.recipe import Recipe
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
        A name (see `presets.RECIPES`) or a Recipe.
    n_init
        Starts that are learned side by side, each to the end. The one with the least objective,
        plus ten times what it violates of its constraints, is kept; `DirectionPairs.recurrence`
        says in how many of the others each of its concepts came back. None: as the recipe says.
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
    history says so. Before the first steps there is nothing to keep, and KeyboardInterrupt passes,
    as it does when it comes again while the pairs are completed. A fit that went on from ``resume``
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
    recipe = _with_restarts(get_recipe(recipe), n_init)
    check_integer("number_of_concepts", number_of_concepts)
    features: HeldFeatures | StreamedFeatures
    if isinstance(activations, ActivationShards):
        features = StreamedFeatures(activations)
    else:
        features = HeldFeatures(check_activations(activations))
    check_head(head, features.shape)
    rng = check_random_state(random_state)
    folder = None if resume is None else Checkpoint.folder_for(resume)
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
    features, moments, left_out, kept = leave_out_far(
        features, moments, number_of_concepts, on_all_workers=True
    )
    moments = as_on_chief(moments)
    checkpoint = None
    if folder is not None:
        fingerprint = as_on_chief(Fingerprint.of(moments, features.first(PROBES), head))
        checkpoint = Checkpoint(folder, settings, fingerprint)
    verbose = verbose if is_chief() else 0
    learner = Learner(
        features, moments, number_of_concepts, head, recipe, verbose, checkpoint,
        left_out.tolist(), kept,
    )  # fmt: skip
    pairs, history = learner.finish(learner.learn(rng))
    if checkpoint is not None and checkpoint.failure is not None:
        history.notes.append(checkpoint.failure)
    return pairs, history


def _with_restarts(recipe: Recipe, n_init: int | None) -> Recipe:
    """The recipe, and the one it may hand over to, with so many restarts."""
    if n_init is None:
        return recipe
    check_integer("n_init", n_init)
    otherwise = None if recipe.otherwise is None else _with_restarts(recipe.otherwise, n_init)
    return dataclasses.replace(recipe, restarts=n_init, otherwise=otherwise)
