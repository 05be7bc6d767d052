"""Influence of concepts on classes by RCAV: which effects noise signal vectors do not reach.

|SC| saturates, so that by default the mean Δ is compared with that of noise signal vectors of
permuted labels. log p ends at 0, though: what helps a class that is certain is smaller than the
harm that noise does, and only noise of the same sign shows it ("signed change").

Where the head pools first its features can be given pooled (`Head.pool`): any number of images fits
into memory then. Where it is linear nothing passes through the network at all.
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

#: Noise vectors of each direction where the head pools first, and where every one of them is passed
#: through it together with every image.
_PERMUTATIONS = (1000, 100)


@dataclass(frozen=True)
class InfluenceSettings:
    """How influence is measured and tested.

    Attributes
    ----------
    amount : float, default=5.0
        a, added at every position along the signal vector of unit length.
    permutations : int, optional
        N, noise vectors of each direction. None: 1000; 100 for a head that does not pool first,
        where every noise vector is passed through it.
    images : {"all", "class"}, default="all"
        "all": a class's log p is measured in all images, so that what helps a class shows where the
        class is not certain already. "class": in its own images.
    statistic : {"change", "signed change", "score"}, default="signed change"
        What is compared with noise. "change": |mean Δ|. "score": |SC|. "signed change": the mean Δ
        against noise of its own sign, p doubled: log p has an upper end, so that nothing can help a
        class that is certain as much as noise hurts it, and "change" does not call it significant
        (ours). It needs noise that is as likely on either side: the default ``estimator``, not
        `trained_filter_noise`.
    level : float, default=0.05
        θ, in (0, 1).
    tie : float, default=1e-6
        ε: |Δ|, and strengths, up to it count as 0.
    estimator : callable, optional
        `trained_filter_noise`, or another of its form; None: `mean_difference_noise`.
    positions : int, default=5000
        Upper limit of the balanced sample of positions whose labels are permuted.
    early_stopping : bool, default=True
        Stop tests whose p cannot be ``level`` or less any more. It changes no decision, and no p up
        to the level: see `metrics.significance.compare_with_noise`.

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
    """Measure how classes respond to more of each concept, and test it against noise.

    Parameters
    ----------
    concepts : ConceptLayer or fitted extractor
        Whatever `ConceptLayer.of` takes alone.
    images : array-like of shape (N, height, width, C)
        As the network takes them.
    labels : array-like of shape (N,), optional
        Their classes; None: those that the network predicts. They matter where
        ``settings.images`` is "class".
    settings : InfluenceSettings
    batch_size : int, default=64
    random_state : int, default=0
        Seed of the noise; every direction has a generator of its own.
    verbose : int, default=1
        0 for silence; else progress bars.

    Returns
    -------
    influence : Influence
        Also on Ctrl-C: `Influence.interrupted` is then true, and p is NaN where it was not tested.

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
    """Measure `influence` on some of the scanned images."""
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

    For each direction a balanced sample of positions with and without its concept, their labels
    permuted N times, a noise signal vector for each: see `noise_vectors`. One of length zero, as of
    a single position or of features that are all the same, counts as stronger.

    Parameters
    ----------
    head : Head
        From the layer to the classes.
    activations : array-like of shape (N, *spatial, D)
        Of the images; or (N, D), pooled, where the head pools first.
    labels : array-like of shape (N,), or None
        Class of each image; one output has two classes, no (0) and yes (1). None: all images count
        for every class, whatever ``settings.images`` is.
    directions : array-like of shape (I, D)
        Signal vectors, or any others; their length does not matter.
    detections : array-like of shape (n, *spatial, I), bool
        Where each direction's concept is: ``pairs.detect(features) > 0.5``.
    features : array-like of shape (n, *spatial, D), optional
        What the detections are of: of any images, or a sample of positions. None: ``activations``.
    settings, random_state, verbose
        As of `influence`.

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
    """Return strengths ≥ 0 of the statistic, where NaN stays; ``signs`` are those of the data."""
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
    """Return strengths (B, K) of noise vectors (B, D); one of length zero counts as stronger."""
    measured = response.statistics(settings.amount * vectors, live)
    strengths = _strengths(measured, settings, signs)
    strengths[~vectors.any(axis=1)] = np.inf
    return strengths


def _check_detections(detections: ArrayLike, x: Array, shifts: Array) -> Array:
    """Return detections (P, I) of features (n, *spatial, D), for directions (I, D)."""
    detected = np.asarray(detections)
    if detected.dtype != bool:
        raise TypeError(
            f"detections must be bool, not {detected.dtype}: pairs.detect(features) > 0.5"
        )
    expected = (*x.shape[:-1], len(shifts))
    if x.shape[-1] != shifts.shape[1] or detected.shape != expected:
        raise ValueError(
            f"detections must be {expected}, one for each position and direction, beside features "
            f"of shape {x.shape} and directions of {shifts.shape[1]} channels, but have shape "
            f"{detected.shape}: give the features that they are of, where these are not the "
            "activations"
        )
    return as_positions(detected)
