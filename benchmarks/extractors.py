"""Concept extractors by name, for several benchmarks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xplique_dirpairs.core.batching import as_positions, by_position
from xplique_dirpairs.data.annotated_images import AnnotatedImages
from xplique_dirpairs.factorizers.autoencoders import (
    ArchetypalFactorizer,
    RelaxedArchetypalFactorizer,
    TopKFactorizer,
)
from xplique_dirpairs.factorizers.controls import NoLearningFactorizer, RandomFactorizer
from xplique_dirpairs.factorizers.decompositions import (
    FastICAFactorizer,
    KMeansFactorizer,
    PCAFactorizer,
)
from xplique_dirpairs.factorizers.direction_pairs import DirectionPairsFactorizer
from xplique_dirpairs.factorizers.nonnegative import NMFFactorizer, SemiNMFFactorizer
from xplique_dirpairs.learning.presets import DEFAULT
from xplique_dirpairs.learning.recipe import Recipe, Stage
from xplique_dirpairs.metrics.dissection import Dissection, dissect
from xplique_dirpairs.metrics.labelled_detectors import choose_thresholds
from xplique_dirpairs.models.head import Head

Read = Callable[[NDArray], NDArray]
OURS, WITH_NETWORK = "direction pairs", "direction pairs, network terms"


def with_network(recipe: Recipe, uur: float, cur: float) -> Recipe:
    """Return a recipe, and the one it may switch to, with other weights of the network terms.

    L^uur has its weight in the first stage and L^cur in the last one; 0 leaves the term out.
    """
    first, *between, last = recipe.stages
    stages = (_weighted(first, "uur", uur), *between, _weighted(last, "cur", cur))
    otherwise = None if recipe.otherwise is None else with_network(recipe.otherwise, uur, cur)
    name = f"{recipe.name}, uur {uur:g}, cur {cur:g}"
    return replace(recipe, name=name, stages=stages, otherwise=otherwise)


def _weighted(stage: Stage, term: str, weight: float) -> Stage:
    """Return a stage in which a network term has this weight, moving nearly to the hyperplanes."""
    weights = {name: value for name, value in stage.weights.items() if name != term}
    if weight:
        weights[term] = weight
    return replace(stage, weights=weights, kappa=(0.8, 1.0))


#: Name → factorizer of (I, seed), fitted on positions alone.
ON_POSITIONS: dict[str, Callable[[int, int], Any]] = {
    "NMF": lambda i, seed: NMFFactorizer(i, random_state=seed),
    "semi-NMF": lambda i, seed: SemiNMFFactorizer(i, random_state=seed),
    "PCA": lambda i, seed: PCAFactorizer(i, random_state=seed),
    "FastICA": lambda i, seed: FastICAFactorizer(i, random_state=seed),
    "K-Means": lambda i, seed: KMeansFactorizer(i, random_state=seed),
    "TopK SAE": lambda i, seed: TopKFactorizer(i, random_state=seed),
    "A-SAE": lambda i, seed: ArchetypalFactorizer(i, random_state=seed),
    "RA-SAE": lambda i, seed: RelaxedArchetypalFactorizer(i, random_state=seed),
}
#: Name → recipe of our learner.
RECIPES: dict[str, str | Recipe] = {OURS: "default", "UIBE": "uibe", "CBE": "cbe"}
#: L^cur alone, with the weight of the paper: L^uur costs interpretability.
RECIPES |= {WITH_NETWORK: with_network(DEFAULT, 0.0, 0.25)}
#: Baselines.
CONTROLS: dict[str, Callable[[int, int], Any]] = {
    "no learning": lambda i, seed: NoLearningFactorizer(i, random_state=seed),
    "random directions": lambda i, seed: RandomFactorizer(i, random_state=seed),
}


def dissected(factorizer, training: AnnotatedImages, x: NDArray) -> tuple[Read, str, Dissection]:
    """Return the function to maps, its thresholds, and where it fires on the training part.

    Thresholds are its own or, if it has none, the better quantile.
    """
    if isinstance(factorizer, DirectionPairsFactorizer):
        read, thresholds, kind = factorizer.pairs_.project, factorizer.pairs_.biases, "own"
    else:

        def read(activations: NDArray) -> NDArray:
            return by_position(factorizer.encode, activations)

        if not isinstance(factorizer, KMeansFactorizer):
            return read, *choose_thresholds(training, read, activations=x)
        thresholds, kind = np.full(factorizer.number_of_concepts, 0.5), "nearest centroid"
    return read, kind, dissect(training, read, thresholds, activations=x)


def fitted(name: str, concepts: int, seed: int, head: Head, activations: NDArray, positions: int):
    """Return a fitted factorizer.

    Those that use the network, and controls, are fitted on all activations, the others on
    ``positions`` random ones.
    """
    if name in RECIPES:
        made = DirectionPairsFactorizer(concepts, recipe=RECIPES[name], random_state=seed)
        return made.fit_maps(activations, head)
    pixels = as_positions(activations)
    if name in CONTROLS:
        made = CONTROLS[name](concepts, seed)
    else:
        made = ON_POSITIONS[name](concepts, seed)
        pixels = pixels[np.random.default_rng(seed).permutation(len(pixels))[:positions]]
    made.fit(pixels)
    return made
