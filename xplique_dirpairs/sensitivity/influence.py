"""Influence of concepts on classes: the effect of a concept's direction, and its significance.

By default the effect on a class's centred logit is compared with that of directions that are
uniform on the sphere. If the head is linear, p is exact and costs nothing: see
`metrics.significance.uniform_p_values`. Otherwise some hundred directions pass through the head,
and their tail is extrapolated: see `metrics.significance.tail_p_values`.

If the head pools first, its features can be passed pooled (`Head.pool`), so that any number of
images fits into memory. If the head is linear, nothing passes through the network at all.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

from xplique_dirpairs.core.batching import as_positions, slices
from xplique_dirpairs.core.linear_algebra import unit_rows
from xplique_dirpairs.core.progress import KeepOnInterrupt, progress
from xplique_dirpairs.core.types import Array
from xplique_dirpairs.core.validation import (
    check_activations,
    check_choice,
    check_float32,
    check_fraction,
    check_integer,
    check_labels,
    check_number,
    check_seed,
)
from xplique_dirpairs.extractors.scan import Scan, scan
from xplique_dirpairs.metrics.significance import p_values, tail_p_values, uniform_p_values
from xplique_dirpairs.models.head import Head
from xplique_dirpairs.sensitivity.influence_result import NOISES, Influence, are_opposite
from xplique_dirpairs.sensitivity.noise_vectors import (
    NoiseEstimator,
    balanced_sample,
    mean_difference_noise,
    noise_vectors,
    uniform_directions,
)
from xplique_dirpairs.sensitivity.responses import (
    LinearResponse,
    PassedResponse,
    Sensitivity,
    check_amount,
    count_predicted,
    shift_response,
    shifts_along,
)

#: Default number of uniform directions that pass through a head that is not linear.
_UNIFORM = 300
#: Default number of noise vectors of each direction from permuted labels: for a head that pools
#: first, and for a head that is evaluated on maps.
_PERMUTATIONS = (1000, 100)
#: Number of noise vectors in a block.
_AT_ONCE = 64
#: Confidence of the intervals of effects over images.
_CONFIDENCE = 0.95


@dataclass(frozen=True)
class InfluenceSettings:
    """Settings of how `influence` measures the effect of signal vectors, and tests it.

    A *signal vector* is the direction along which the features change with a concept: the encoding
    direction of a direction pair, or what another method adds to the features. The *head* is the
    second half of the network, from the layer to the classes. It is linear if it is a dense layer,
    with or without average pooling before it and a softmax or sigmoid after it. A step of length a
    along a signal vector changes the log-probability of a class by Δ, in nats (RCAV, Pfau et al.
    2020), and its *centred logit*, the logit minus the mean logit of all classes.

    Attributes
    ----------
    amount : float, default=5.0
        Length a of the step, in units of the features. It is taken at every position. For a linear
        head the test does not depend on it.
    noise : {"uniform", "permuted labels"}, default="uniform"
        What signal vectors are compared with. "uniform": random directions, uniform on the sphere.
        Significant then means: more than if the weights of the class had nothing to do with the
        signal vector. "permuted labels", as in the paper (Doumanoglou et al., arXiv 2509.23926):
        signal vectors estimated after the detections of the concept were assigned to random
        positions. Significant then means: more than directions along which the features vary
        whether or not the concept is there. In a trained network features vary along what its
        classes need, so that there may be no significant concept at all.
    noise_vectors : int, optional
        Number of noise vectors that signal vectors are compared with. None: with uniform noise,
        300 directions, the same for all concepts; with permuted labels, 1000 vectors for each
        concept, or 100 if the head does not start with pooling. A linear head under uniform noise
        needs none: its p-values are exact.
    images : {"all", "class"}, default="all"
        Images in which the changes of a class are measured. "all": all images, also those of other
        classes, where the probability of the class can still rise. "class": images of the class.
    min_images : int, default=10
        With uniform noise and a head that is not linear, a class is only tested if it is the
        predicted class of at least this number of images.
    level : float, default=0.05
        Level of significance θ, in (0, 1).
    tie : float, default=1e-6
        Changes |Δ| up to this value, in nats, count as 0 in the score SC. With permuted labels
        values of ``statistic`` up to it count as 0 as well.
    statistic : {"change", "score"}, default="change"
        What is compared between signal vector and noise if labels are permuted. "change":
        |mean Δ|. "score": |SC| in [0, 1], where the score SC is the share of the images with Δ > 0
        minus the share with Δ < 0. Uniform noise ignores this setting: the change of the centred
        logit is compared.
    estimator : callable, optional
        For permuted labels: function of features (S, D) at S positions and of B permutations of
        their labels, (B, S), where 1 stands for the concept and −1 for its absence; it returns B
        noise vectors of unit length, (B, D). None: mean of the features labelled 1 minus mean of
        those labelled −1. `sensitivity.noise_vectors.trained_filter_noise` is the paper's.
    positions : int, default=5000
        For permuted labels: largest number S of positions that are sampled for a concept, half of
        them with the concept.

    Raises
    ------
    TypeError
        If ``estimator`` is not callable.
    ValueError
        If another value is out of range or not one of the choices.
    """

    amount: float = 5.0
    noise: str = "uniform"
    noise_vectors: int | None = None
    images: Literal["all", "class"] = "all"
    min_images: int = 10
    level: float = 0.05
    tie: float = 1e-6
    statistic: str = "change"
    estimator: NoiseEstimator | None = None
    positions: int = 5000

    def __post_init__(self) -> None:
        check_amount(self.amount)
        check_choice("noise", self.noise, tuple(NOISES))
        if self.noise_vectors is not None:
            # the fewest that `tail_p_values` can extrapolate
            check_integer("noise_vectors", self.noise_vectors, 20 if self.is_uniform else 1)
        check_choice("images", self.images, ("all", "class"))
        check_integer("min_images", self.min_images)
        check_fraction("level", self.level)
        check_number("tie", self.tie, minimum=0.0)
        check_choice("statistic", self.statistic, ("change", "score"))
        if self.estimator is not None and not callable(self.estimator):
            raise TypeError(f"estimator must be callable, not {type(self.estimator).__name__}")
        check_integer("positions", self.positions, 2)

    @property
    def is_uniform(self) -> bool:
        """Whether signal vectors are compared with uniform directions, not with permuted labels."""
        return self.noise == "uniform"


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
    """Measure how each concept changes the score of each class, and test it against noise.

    Features are moved along the concept's encoding direction (the signal vector of direction pairs)
    at every position of an image, and the change of the classes' logits is compared with the change
    that random directions cause. This is RCAV (Pfau et al. 2020; Doumanoglou et al., arXiv
    2509.23926), but by default with another test, which is defined by this project: the change of
    the class's centred logit (its logit minus the mean logit of all classes) against that of
    directions drawn uniformly from the sphere.

    Parameters
    ----------
    concepts : ConceptLayer or fitted extractor
        Anything that `ConceptLayer.of` accepts as its only argument.
    images : array-like of shape (N, height, width, C)
        Images as the network takes them.
    labels : array-like of shape (N,) or (N, K), optional
        Class of each image, as an index or as a one-hot row of K classes. None: the class that the
        network predicts. `Influence.effects` of a class are measured in its images.
    settings : InfluenceSettings, default=InfluenceSettings()
        Length of the step, kind of noise and level of significance. By default: steps of length 5
        in units of the features, uniform random directions, and a level of 5 %.
    batch_size : int, default=64
        Number of images that pass through the network at a time.
    random_state : int or None, default=0
        Seed of the noise and of the sample of positions. None draws a seed.
    verbose : int, default=1
        Progress bars are shown unless this is 0.

    Returns
    -------
    influence : Influence
        Effects in logits, p-values, and tables of both. After Ctrl-C during the tests,
        ``interrupted`` is True, and p is NaN for the concepts that were not tested.

    Raises
    ------
    TypeError
        If ``concepts`` is not an extractor.
    ValueError
        If images, labels or another argument do not fit the network or are out of range.
    NotFittedError
        If ``concepts`` is not fitted.
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
    """Measure `influence` in the scanned images at ``indices``.

    Which classes are tested depends on the predictions of all scanned images.
    """
    layer, u = seen.layer, seen.coefficients(indices)
    means = u.mean(axis=tuple(range(1, u.ndim - 1)))
    # How far one unit of a coefficient moves the features along the direction that is tested.
    lengths = (layer.bank * unit_rows(layer.encoding.astype(np.float64))).sum(axis=1)
    predicted = count_predicted(seen.logits, layer.head.class_activation)
    return influence_of_directions(
        layer.head, seen.features(indices), seen.class_ids[indices], layer.encoding,
        seen.sample_detections, seen.sample, coefficients=means * lengths, predicted=predicted,
        settings=settings, random_state=random_state, verbose=verbose,
    )  # fmt: skip


def influence_of_directions(
    head: Head,
    activations: ArrayLike,
    labels: ArrayLike | None,
    directions: ArrayLike,
    detections: ArrayLike | None = None,
    features: ArrayLike | None = None,
    *,
    coefficients: ArrayLike | None = None,
    predicted: ArrayLike | None = None,
    settings: InfluenceSettings = _DEFAULT,
    random_state: int | None = 0,
    verbose: int = 1,
) -> Influence:
    """Measure the influence of directions, and test it against noise.

    Parameters
    ----------
    head : Head
        Second part of the network, from the layer to the classes.
    activations : array-like of shape (N, *spatial, D) or (N, D)
        Activations of the images; pooled activations (N, D) if the head pools first.
    labels : array-like of shape (N,), or None
        Class of each image; None: the class that the head predicts. A network with one output has
        two classes, no (0) and yes (1).
    directions : array-like of shape (I, D)
        Signal vectors or other directions; their length does not matter.
    detections : array-like of shape (n, *spatial, I), bool, optional
        Positions where the concept of each direction is detected,
        ``pairs.detect(features) > 0.5``. They are needed for permuted labels only.
    features : array-like of shape (n, *spatial, D), optional
        Features that the detections belong to, from any images or from a sample of positions. None:
        ``activations``.
    coefficients : array-like of shape (N, I), optional
        How far each image lies along each direction, mean over its positions. None: effects in
        logits are not measured.
    predicted : array-like of shape (K,), int, optional
        Number of images predicted as each class, if the activations are those of some images out of
        many. None: it is counted in the activations.
    settings : InfluenceSettings, default=InfluenceSettings()
        How influence is measured and tested.
    random_state : int or None, default=0
        Seed of the noise; with permuted labels every direction has a generator of its own.
    verbose : int, default=1
        Progress bars are shown unless this is 0.

    Returns
    -------
    influence : Influence

    Raises
    ------
    TypeError, ValueError
        If shapes do not fit, values are not finite, or detections are missing.
    """
    response = shift_response(head, activations, None, settings.tie, settings.amount)
    shifts = shifts_along(directions, settings.amount, np.shape(activations)[-1])
    logits = response.logits
    classes = logits.argmax(axis=1) if labels is None else check_labels(labels, *logits.shape)
    if settings.images == "class":
        response = replace(response, labels=classes)
    effects, intervals = _effects_in_logits(
        response, shifts, settings.amount, classes, coefficients
    )
    measured = response.statistics(shifts)
    counts = response.predicted if predicted is None else np.asarray(predicted)
    if counts.shape != logits.shape[1:]:
        raise ValueError(
            f"predicted must have shape {logits.shape[1:]}, a number for each class, not "
            f"{counts.shape}"
        )
    if settings.is_uniform:
        tests = _against_uniform(
            response, measured, shifts, counts, settings, random_state, verbose
        )
    else:
        x = check_activations(activations if features is None else features)
        detected = _check_detections(detections, x, shifts)
        tests = _against_permuted_labels(
            response, measured, as_positions(x), detected, settings, random_state, verbose
        )
    return Influence(
        **vars(measured), **tests, effects=effects, intervals=intervals,
        predicted=counts, amount=settings.amount, noise=settings.noise,
        level=settings.level,
        statistic="logit" if settings.is_uniform else settings.statistic,
        min_images=settings.min_images,
    )  # fmt: skip


def _effects_in_logits(
    response: LinearResponse | PassedResponse,
    shifts: Array,
    amount: float,
    classes: Array,
    coefficients: ArrayLike | None,
) -> tuple[Array, Array]:
    """Return the mean effect of each direction on each class, and its interval over images.

    The effect in an image is the change of its class's centred logit per unit of length, times how
    far the image lies along the direction.
    """
    shape = len(shifts), response.logits.shape[1]
    means, halves = np.full((2, *shape), np.nan)
    if coefficients is not None:
        amounts = check_float32("coefficients", coefficients)
        if amounts.shape != (len(classes), len(shifts)):
            raise ValueError(
                f"coefficients must have shape {(len(classes), len(shifts))}, one for each image "
                f"and direction, not {amounts.shape}"
            )
        values = response.own_changes(shifts, classes) / amount * amounts.T
        for k in np.unique(classes):
            means[:, k], halves[:, k] = _mean_and_interval(values[:, classes == k])
    return means, halves


def _mean_and_interval(values: Array) -> tuple[Array, Array]:
    """Return the mean of values (I, n) and half the length of its confidence interval, (I,) each.

    The interval is Student's; it is NaN for a single value.
    """
    count = values.shape[1]
    if count < 2:
        return values.mean(axis=1), np.full(len(values), np.nan)
    quantile = stats.t.ppf((1.0 + _CONFIDENCE) / 2.0, count - 1)
    return values.mean(axis=1), quantile * values.std(axis=1, ddof=1) / np.sqrt(count)


# ------------------------------------------------------------ uniform directions


def _against_uniform(
    response: LinearResponse | PassedResponse,
    measured: Sensitivity,
    shifts: Array,
    predicted: Array,
    settings: InfluenceSettings,
    random_state: int | None,
    verbose: int,
) -> dict[str, Any]:
    """Return p-values against uniform directions, and the number of these that were evaluated."""
    channels = shifts.shape[1]
    if isinstance(response, LinearResponse):
        p = uniform_p_values(response.cosines(shifts), channels)
        return {"p_values": p, "noise_vectors": 0}
    count = settings.noise_vectors or _UNIFORM
    rng = np.random.default_rng(check_seed(random_state))
    noise = settings.amount * uniform_directions(count, channels, rng)
    parts = list(slices(count, _AT_ONCE))
    changes = []
    with KeepOnInterrupt() as tests:
        for part in progress(parts, len(parts), "influence", verbose, "directions"):
            changes.append(response.statistics(noise[part]).logit_changes)
    p = np.full(measured.logit_changes.shape, np.nan)
    if are_opposite(measured.logit_changes):  # one test, for which the images of both count
        predicted = np.repeat(predicted.max(), 2)
    tested = (predicted >= settings.min_images) & (response.images > 0)
    if not tests.interrupted:
        of_noise = np.concatenate(changes)[:, tested]
        p[:, tested] = tail_p_values(measured.logit_changes[:, tested], of_noise)
    return {"p_values": p, "noise_vectors": count, "interrupted": tests.interrupted}


# ------------------------------------------------------------ permuted labels


def _against_permuted_labels(
    response: LinearResponse | PassedResponse,
    measured: Sensitivity,
    x: Array,
    detected: Array,
    settings: InfluenceSettings,
    random_state: int | None,
    verbose: int,
) -> dict[str, Any]:
    """Return p-values against signal vectors that are estimated from permuted labels.

    For each direction a balanced sample of positions with and without its concept is drawn, and a
    noise signal vector is estimated from each permutation of their labels: see `noise_vectors`. A
    noise vector of length zero, which results from a single position or from features that are all
    the same, counts as stronger than the direction.
    """
    observed = _strengths(measured, settings)
    seeds = check_seed(random_state).spawn(len(observed))
    count = settings.noise_vectors or _PERMUTATIONS[response.passes_maps]
    estimator = settings.estimator or mean_difference_noise
    exceeded = np.full(observed.shape, np.nan)
    with KeepOnInterrupt() as tests:
        for i, seed in progress(enumerate(seeds), len(seeds), "influence", verbose, "direction"):
            rng = np.random.default_rng(seed)
            sample = balanced_sample(x, detected[:, i], settings.positions, rng)
            if len(sample):
                stronger = np.zeros(observed.shape[1])
                for noise in noise_vectors(sample, count, _AT_ONCE, estimator, rng):
                    strengths = _strengths(response.statistics(settings.amount * noise), settings)
                    strengths[~noise.any(axis=1)] = np.inf
                    # noise that is weaker by rounding only counts as equally strong
                    stronger += (strengths >= observed[i] * (1.0 - 1e-9)).sum(axis=0)
                exceeded[i] = stronger
    exceeded[np.isnan(observed)] = np.nan
    return {
        "p_values": p_values(exceeded, count),
        "noise_vectors": count,
        "interrupted": tests.interrupted,
    }


def _strengths(measured: Sensitivity, settings: InfluenceSettings) -> Array:
    """Return the strength ≥ 0 of the compared statistic, (M, K), or NaN for classes without images.

    Those up to `InfluenceSettings.tie` are 0.
    """
    sizes = np.abs(measured.scores if settings.statistic == "score" else measured.changes)
    return np.where(sizes <= settings.tie, 0.0, sizes)


def _check_detections(detections: ArrayLike | None, x: Array, shifts: Array) -> Array:
    """Return detections (P, I) at all positions of features (n, *spatial, D), for shifts (I, D)."""
    if detections is None:
        raise ValueError(
            "detections must be given if labels are permuted: pass pairs.detect(features) > 0.5"
        )
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
