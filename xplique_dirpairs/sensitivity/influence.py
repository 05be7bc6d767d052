"""Influence of concepts on classes by RCAV, and its significance against noise signal vectors.

By default the mean Δ is compared with that of noise signal vectors from permuted labels, and not
the score SC, since |SC| saturates at 1. But log p cannot exceed 0: where a class is almost certain,
the help of a concept is smaller than the harm of noise, and shows only against noise of the same
sign ("signed change").

If the head pools first, its features can be passed pooled (`Head.pool`), so that any number of
images fits into memory. If the head is linear, nothing passes through the network at all.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike

from xplique_dirpairs.core.batching import as_positions
from xplique_dirpairs.core.progress import KeepOnInterrupt, progress
from xplique_dirpairs.core.types import Array
from xplique_dirpairs.core.validation import (
    check_activations,
    check_choice,
    check_fraction,
    check_integer,
    check_number,
    check_seed,
)
from xplique_dirpairs.extractors.scan import Scan, scan
from xplique_dirpairs.metrics.significance import compare_with_noise, hopeless_count
from xplique_dirpairs.models.head import Head
from xplique_dirpairs.sensitivity.influence_result import STATISTICS, Influence, sides
from xplique_dirpairs.sensitivity.noise_vectors import (
    NoiseEstimator,
    balanced_sample,
    mean_difference_noise,
    noise_vectors,
)
from xplique_dirpairs.sensitivity.responses import (
    LinearResponse,
    PassedResponse,
    Sensitivity,
    check_amount,
    shift_response,
    shifts_along,
)

#: Default number of noise vectors of each direction: for a head that pools first, and for a head
#: that has to be evaluated for every pair of a noise vector and an image.
_PERMUTATIONS = (1000, 100)


@dataclass(frozen=True)
class InfluenceSettings:
    """Settings of how influence is measured and tested.

    Attributes
    ----------
    amount : float, default=5.0
        Length a of the step along the signal vector that is taken at every position.
    permutations : int, optional
        Number of noise vectors of each direction. None: 1000, or 100 for a head that does not pool
        first, since every noise vector then passes through it.
    images : {"all", "class"}, default="all"
        Images in which the log p of a class is measured. "all": in all images, which include those
        where the class is not certain already and can still be helped. "class": in its own images.
    statistic : {"change", "signed change", "score"}, default="signed change"
        What is compared with noise. "change": |mean Δ|. "score": |SC|. "signed change": the mean Δ,
        compared with noise of its own sign, with p doubled. Since log p has an upper limit, nothing
        can help a class that is almost certain as much as noise hurts it, and "change" would not
        find the help significant. "signed change", defined by this project, needs noise that is
        equally likely to be positive and negative, as that of the default ``estimator`` is, but not
        that of `trained_filter_noise`.
    level : float, default=0.05
        Level of significance θ, in (0, 1).
    tie : float, default=1e-6
        ε: values of |Δ|, and of the compared statistic, up to it count as 0.
    estimator : callable, optional
        `trained_filter_noise`, or another function of a sample (S, D) and permuted labels (B, S)
        that returns noise signal vectors (B, D). None: `mean_difference_noise`.
    positions : int, default=5000
        Upper limit on the size of the balanced sample of positions whose labels are permuted.
    early_stopping : bool, default=True
        Whether to stop tests whose p can no longer be at most ``level``. This changes no decision,
        and no p up to the level: see `metrics.significance.compare_with_noise`.

    Raises
    ------
    TypeError, ValueError
        If a value is invalid.
    """

    amount: float = 5.0
    permutations: int | None = None
    images: Literal["all", "class"] = "all"
    statistic: str = "signed change"
    level: float = 0.05
    tie: float = 1e-6
    estimator: NoiseEstimator | None = None
    positions: int = 5000
    early_stopping: bool = True

    def __post_init__(self) -> None:
        check_amount(self.amount)
        if self.permutations is not None:
            check_integer("permutations", self.permutations)
        check_choice("images", self.images, ("all", "class"))
        check_choice("statistic", self.statistic, tuple(STATISTICS))
        check_fraction("level", self.level)
        check_number("tie", self.tie, minimum=0.0)
        if self.estimator is not None and not callable(self.estimator):
            raise TypeError(f"estimator must be callable, not {type(self.estimator).__name__}")
        check_integer("positions", self.positions, 2)


_DEFAULT = InfluenceSettings()


def influence(
    concepts: Any,
    images: ArrayLike,
    labels: ArrayLike | None = None,
    *,
    settings: InfluenceSettings = _DEFAULT,
    batch_size: int = 64,
    random_state: int | None = 0,
    verbose: int = 1,
) -> Influence:
    """Measure how classes respond to more of each concept, and test the response against noise.

    Parameters
    ----------
    concepts : ConceptLayer or fitted extractor
        Anything that `ConceptLayer.of` accepts as its only argument.
    images : array-like of shape (N, height, width, C)
        Images as the network takes them.
    labels : array-like of shape (N,), optional
        Class of each image; None: the class that the network predicts. Labels are used only if
        ``settings.images`` is "class".
    settings : InfluenceSettings, default=InfluenceSettings()
        How influence is measured and tested.
    batch_size : int, default=64
        Number of images that pass through the network at a time.
    random_state : int or None, default=0
        Seed of the noise; every direction has a generator of its own.
    verbose : int, default=1
        Progress bars are shown unless this is 0.

    Returns
    -------
    influence : Influence
        A result is also returned after Ctrl-C: `Influence.interrupted` is then true, and p is NaN
        for the directions that were not tested.

    Raises
    ------
    TypeError, ValueError, NotFittedError
        If an argument is invalid.
    """
    seen = scan(
        concepts, images, labels,
        batch_size=batch_size, random_state=random_state, verbose=verbose,
    )  # fmt: skip
    everything = np.arange(len(seen.images))
    return influence_in_scan(seen, everything, settings, random_state, verbose)


def influence_in_scan(
    seen: Scan,
    indices: Array,
    settings: InfluenceSettings,
    random_state: int | None,
    verbose: int,
) -> Influence:
    """Measure `influence` in the scanned images at ``indices``."""
    labels = seen.class_ids[indices] if settings.images == "class" else None
    return influence_of_directions(
        seen.layer.head, seen.features(indices), labels, seen.layer.encoding,
        seen.sample_detections, seen.sample,
        settings=settings, random_state=random_state, verbose=verbose,
    )  # fmt: skip


def influence_of_directions(
    head: Head,
    activations: ArrayLike,
    labels: ArrayLike | None,
    directions: ArrayLike,
    detections: ArrayLike,
    features: ArrayLike | None = None,
    *,
    settings: InfluenceSettings = _DEFAULT,
    random_state: int | None = 0,
    verbose: int = 1,
) -> Influence:
    """Measure the influence of directions, and test it against noise signal vectors.

    For each direction a balanced sample of positions with and without its concept is drawn. Their
    labels are permuted ``settings.permutations`` times, and a noise signal vector is estimated from
    each permutation: see `noise_vectors`. A noise vector of length zero, which results from a
    single position or from features that are all the same, counts as stronger than the direction.

    Parameters
    ----------
    head : Head
        Second part of the network, from the layer to the classes.
    activations : array-like of shape (N, *spatial, D) or (N, D)
        Activations of the images; pooled activations (N, D) if the head pools first.
    labels : array-like of shape (N,), or None
        Class of each image. A network with one output has two classes, no (0) and yes (1). None:
        all images count for every class, whatever ``settings.images`` is.
    directions : array-like of shape (I, D)
        Signal vectors or other directions; their length does not matter.
    detections : array-like of shape (n, *spatial, I), bool
        Positions where the concept of each direction is detected:
        ``pairs.detect(features) > 0.5``.
    features : array-like of shape (n, *spatial, D), optional
        Features that the detections belong to, from any images or from a sample of positions. None:
        ``activations``.
    settings : InfluenceSettings, default=InfluenceSettings()
        How influence is measured and tested.
    random_state : int or None, default=0
        Seed of the noise; every direction has a generator of its own.
    verbose : int, default=1
        Progress bars are shown unless this is 0.

    Returns
    -------
    influence : Influence

    Raises
    ------
    TypeError, ValueError
        If shapes do not fit, or values are not finite.
    """
    response = shift_response(head, activations, labels, settings.tie)
    shifts = shifts_along(directions, settings.amount, np.shape(activations)[-1])
    x = check_activations(activations if features is None else features)
    detected = _check_detections(detections, x, shifts)
    x = as_positions(x)
    seeds = check_seed(random_state).spawn(len(shifts))
    permutations = settings.permutations or _PERMUTATIONS[response.passes_maps]
    estimator = settings.estimator or mean_difference_noise
    level = settings.level / sides(settings.statistic)
    stop_at = hopeless_count(permutations, level) if settings.early_stopping else None

    measured = response.statistics(shifts)
    signs = np.sign(measured.changes)
    observed = _strengths(measured, settings, signs)
    exceeded, compared = np.zeros((2, *observed.shape), int)
    with KeepOnInterrupt() as tests:
        for i, seed in progress(enumerate(seeds), len(seeds), "influence", verbose, "direction"):
            rng = np.random.default_rng(seed)
            sample = balanced_sample(x, detected[:, i], settings.positions, rng)
            if len(sample):
                noise = noise_vectors(sample, permutations, response.at_once, estimator, rng)
                strength = partial(_strengths_of_noise, response, settings, signs[i])
                exceeded[i], compared[i] = compare_with_noise(observed[i], noise, strength, stop_at)
    return Influence(
        measured.scores, measured.changes, measured.images, exceeded, compared, permutations,
        settings.statistic, settings.level, tests.interrupted,
    )  # fmt: skip


def _strengths(measured: Sensitivity, settings: InfluenceSettings, signs: Array) -> Array:
    """Return the strength ≥ 0 of the compared statistic, (I, K), or NaN for classes without images.

    ``signs`` (I, K) or (K,) are those of the mean changes that the data have.
    """
    values = measured.scores if settings.statistic == "score" else measured.changes
    sizes = signs * values if settings.statistic == "signed change" else np.abs(values)
    return np.where(sizes <= settings.tie, 0.0, sizes)


def _strengths_of_noise(
    response: LinearResponse | PassedResponse,
    settings: InfluenceSettings,
    signs: Array,
    vectors: Array,
    live: Array,
) -> Array:
    """Return strengths (B, K) of noise vectors (B, D): infinite for a vector of length zero."""
    measured = response.statistics(settings.amount * vectors, live)
    strengths = _strengths(measured, settings, signs)
    strengths[~vectors.any(axis=1)] = np.inf
    return strengths


def _check_detections(detections: ArrayLike, x: Array, shifts: Array) -> Array:
    """Return detections (P, I) at all positions of features (n, *spatial, D), for shifts (I, D)."""
    detected = np.asarray(detections)
    if detected.dtype != bool:
        raise TypeError(
            f"detections must be bool, not {detected.dtype}: pass pairs.detect(features) > 0.5"
        )
    expected = (*x.shape[:-1], len(shifts))
    if x.shape[-1] != shifts.shape[1] or detected.shape != expected:
        raise ValueError(
            f"detections must have shape {expected}, one for each position and direction, for "
            f"features of shape {x.shape} and directions of {shifts.shape[1]} channels, but have "
            f"shape {detected.shape}: pass the features that they belong to, if these are not the "
            "activations"
        )
    return as_positions(detected)
