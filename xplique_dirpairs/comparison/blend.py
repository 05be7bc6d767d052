"""`blend_separation`: are the concepts of a blend of two images those of both?"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from xplique_dirpairs.core.batching import POSITIONS, slices
from xplique_dirpairs.core.progress import progress
from xplique_dirpairs.core.tables import Cell, Table
from xplique_dirpairs.core.types import Array
from xplique_dirpairs.core.validation import (
    as_inputs,
    check_fraction,
    check_integer,
    check_random_state,
)
from xplique_dirpairs.data.images import compute_activations
from xplique_dirpairs.extractors.concept_layer import ConceptLayer
from xplique_dirpairs.metrics.blend import BlendCounts, BlendScores, firing_thresholds
from xplique_dirpairs.metrics.registry import Summary
from xplique_dirpairs.models.split import SplitModel


@dataclass(frozen=True, eq=False)
class BlendSeparation:
    """Whether I concepts of blends of two images are those of both. `blend_separation` returns it.

    Attributes
    ----------
    images : BlendScores
        Scores where the pixels of two images are blended.
    features : BlendScores
        The same where their features are blended, after the layer: the ceiling. What is missing
        from 1 there is due to the reading of the concepts; what is missing from the ceiling is due
        to the network up to the layer.
    thresholds : ndarray of shape (I,)
        Coefficient above which each concept fires.
    blend : float
        Share of the first image.
    number_of_pairs : int
    concept_names : tuple of I str
    """

    images: BlendScores
    features: BlendScores
    thresholds: Array
    blend: float
    number_of_pairs: int
    concept_names: tuple[str, ...]

    def __str__(self) -> str:
        parts = [
            f"{name} {getattr(self.images, key).value:.2f} "
            f"(ceiling {getattr(self.features, key).value:.2f})"
            for name, key in (
                ("recall", "recall"), ("false firings", "false_firing"), ("R²", "additivity")
            )
        ]  # fmt: skip
        return f"blends of {self.number_of_pairs} pairs of images: {', '.join(parts)}"

    def table(self) -> Table:
        """Return a table with a row for all concepts, and one for each.

        Returns
        -------
        table : Table
        """
        headers = (
            "concept", "recall ↑", "ceiling", "false firings ↓", "at ceiling", "R² ↑", "ceiling"
        )  # fmt: skip
        keys = ("recall", "false_firing", "additivity")
        both = (self.images, self.features)
        cells = [_cell(getattr(scores, key)) for key in keys for scores in both]
        rows = [[Cell("all"), *cells]]
        by_concept = [
            getattr(scores, key)
            for key in ("recall_by_concept", "false_by_concept", "additivity_by_concept")
            for scores in both
        ]
        for i, name in enumerate(self.concept_names):
            rows.append([Cell(name), *(Cell.figure(float(v[i]), 2) for v in by_concept)])
        return Table(
            headers,
            rows,
            (
                f"{self.number_of_pairs} pairs of images, λ = {self.blend:g}. Recall: of what "
                "fires in either image. False firings: of what fires in neither. R²: of the "
                "coefficients of the blend against the blend of both coefficients.",
                "Ceiling: features of the layer are blended instead of pixels. Brackets: 95 % "
                "interval over pairs.",
            ),
        )


def blend_separation(
    concepts: Any,
    images: ArrayLike,
    pairs: int = 200,
    *,
    blend: float = 0.5,
    rate: float = 0.05,
    batch_size: int = 64,
    random_state: int | None = 0,
    verbose: int = 0,
) -> BlendSeparation:
    """Measure whether the concepts of a blend of two images are those of both images.

    For pairs of images a and b, concepts are read in λ a + (1 − λ) b. A network that keeps several
    things at one position apart has the concepts of both there; one that lets the strongest win has
    not. The same is measured with blended features: any linear reading passes there, so the
    difference judges the *network up to the layer*.

    Parameters
    ----------
    concepts : ConceptLayer, or fitted extractor
        Anything that `ConceptLayer.of` accepts as its only argument.
    images : array-like of shape (N, height, width, C), or (N, T, height, width, C)
        N ≥ 2 images or videos, preprocessed for the network.
    pairs : int, default=200
        Number of pairs, of different images each.
    blend : float, default=0.5
        Share λ of the first image, in (0, 1).
    rate : float, default=0.05
        Share of the positions where a concept without detector fires. Direction pairs fire where
        they are detected.
    batch_size : int, default=64
        Number of pairs in a batch.
    random_state : int or None, default=0
        Seed of the pairs. None draws a seed.
    verbose : int, default=0
        A progress bar is shown unless this is 0.

    Returns
    -------
    separation : BlendSeparation

    Raises
    ------
    TypeError
        If ``concepts`` are none of these objects.
    ValueError
        If images do not fit the network, or an argument is out of range.
    NotFittedError
        If the extractor is not fitted.

    Notes
    -----
    A concept fires in a blend where its coefficient is above the share of the threshold that the
    fainter image has there: λ times, or (1 − λ) times, the threshold.
    """
    layer = ConceptLayer.of(concepts)
    images = as_inputs(images)
    check_integer("pairs", pairs)
    check_fraction("blend", blend)
    check_fraction("rate", rate)
    check_integer("batch_size", batch_size)
    if len(images) < 2:
        raise ValueError(f"at least 2 images are needed to blend them, not {len(images)}")
    chosen = drawn_pairs(len(images), pairs, check_random_state(random_state))
    first = layer.activations(images[chosen[0, :1]], batch_size)
    number = max(2, min(len(images), POSITIONS // max(1, first[0, ..., 0].size)))
    sample = np.linspace(0, len(images) - 1, number).round().astype(int)
    # In parts: the features of all images together may not fit in memory.
    thresholds = thresholds_of(
        layer,
        np.concatenate([
            layer.coefficients(layer.activations(images[sample[part]], batch_size))
            for part in slices(number, batch_size)
        ]),
        rate,
    )  # fmt: skip
    parts = []
    count = -(-pairs // batch_size)
    for part in progress(slices(pairs, batch_size), count, "blends", verbose, "batch"):
        a, b = images[chosen[part, 0]], images[chosen[part, 1]]
        mixed = blend * a.astype(np.float32) + (1.0 - blend) * b.astype(np.float32)
        x_a, x_b, x = (layer.activations(values, batch_size) for values in (a, b, mixed))
        parts.append(tuple(_counts(layer, x_a, x_b, x, blend, thresholds)))
    of_images, of_features = (
        BlendScores(BlendCounts.joined(own)) for own in zip(*parts, strict=True)
    )
    return BlendSeparation(of_images, of_features, thresholds, blend, pairs, layer.concept_names)


#: Number of pairs of images in a comparison, share of the first one, and rate of firing.
_PAIRS, _BLEND, _RATE = 100, 0.5, 0.05


@dataclass(frozen=True, eq=False)
class Blends:
    """Blends of images of a comparison, which its extractors have in common.

    Attributes
    ----------
    activations : ndarray of shape (N, *spatial, D)
        Activations of the images.
    pairs : ndarray of shape (n, 2), int
        Indices of the images of each pair.
    blended : ndarray of shape (n, *spatial, D)
        Activations of the blend of each pair.
    """

    activations: Array
    pairs: Array
    blended: Array

    @classmethod
    def of(
        cls, split: SplitModel, images: Array, activations: Array, batch_size: int, seed: int
    ) -> Blends | None:
        """Blend pairs of images, each of up to 100 first with another one; None for one image."""
        if len(images) < 2:
            return None
        first = np.linspace(0, len(images) - 1, min(_PAIRS, len(images))).round().astype(int)
        steps = np.random.default_rng(seed).integers(1, len(images), len(first))
        pairs = np.stack([first, (first + steps) % len(images)], axis=1)
        a, b = (images[pairs[:, k]].astype(np.float32) for k in (0, 1))
        blended = _BLEND * a + (1.0 - _BLEND) * b
        model = split.input_to_latent_model
        return cls(activations, pairs, compute_activations(model, blended, batch_size))

    def values(self, layer: ConceptLayer, coefficients: Array) -> dict[str, Array]:
        """Return the metrics of the kind "blending" by key; coefficients are those of the images.

        Images and coefficients have shape (N, …); each value has a row for every pair.
        """
        thresholds = thresholds_of(layer, coefficients, _RATE)
        first, second = (self.activations[self.pairs[:, k]] for k in (0, 1))
        counts = _counts(layer, first, second, self.blended, _BLEND, thresholds)
        images, features = (BlendScores(own) for own in counts)
        return {
            "blend_recall": images.recall_by_pair,
            "blend_false": images.false_by_pair,
            "blend_r2": images.additivity_by_pair,
            "blend_ceiling": features.additivity_by_pair,
        }


def thresholds_of(layer: ConceptLayer, coefficients: Array, rate: float) -> Array:
    """Return the coefficient above which each concept fires, (I,).

    Direction pairs fire where they are detected: wᵀx > b, so that the coefficient wᵀx − m is above
    b − m, with the absent level m.
    """
    pairs = layer.pairs
    if pairs is None:
        return firing_thresholds(coefficients, rate)
    return np.asarray(np.maximum(pairs.biases - pairs.absent_levels, 0.0))


def drawn_pairs(count: int, pairs: int, rng: np.random.Generator) -> Array:
    """Return pairs of different images, (pairs, 2)."""
    first = rng.integers(count, size=pairs)
    return np.stack([first, (first + rng.integers(1, count, size=pairs)) % count], axis=1)


def _counts(
    layer: ConceptLayer,
    first: Array,
    second: Array,
    blended: Array,
    blend: float,
    thresholds: Array,
) -> Iterator[BlendCounts]:
    """Yield the counts of blended images, and of blended features, from their activations."""
    u_a, u_b = layer.coefficients(first), layer.coefficients(second)
    for x in (blended, blend * first + (1.0 - blend) * second):
        yield BlendCounts.of(u_a, u_b, layer.coefficients(x), blend, thresholds)


def _cell(figure: Summary) -> Cell:
    """Return a cell with a figure and its interval; a dash for NaN."""
    value, low, high, _ = figure
    if not np.isfinite([value, low, high]).all():
        return Cell.figure(value, 2)
    return Cell(f"{value:.2f} [{low:.2f}, {high:.2f}]", numbers=(value, low, high))
