"""Influence of directions on classes by RCAV: how a class answers to more of a concept.

    Δ = log p_k(X + a ŝ_i) − log p_k(X)       every position of the features is shifted
    SC_{i,k} = mean over images X of class k of [1(Δ > ε) − 1(Δ < −ε)]

(Pfau et al., "Robust Semantic Interpretability: Revisiting Concept Activation Vectors", 2020;
Doumanoglou et al., arXiv 2509.23926; ties count as no influence [ours].) |SC| saturates, so
significance is of the mean Δ by default: against noise signal vectors of permuted labels. log p
ends at 0, though: what helps a class that is certain is smaller than the harm that noise does, and
only noise of the same sign shows it ("signed change").

Where the head pools first its features can be given pooled (`Head.pool`): any number of images fits
into memory then. Where it is linear nothing passes through the network at all.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray

from xplique_dirpairs.core.batching import CHUNK_FLOATS
from xplique_dirpairs.core.progress import progress
from xplique_dirpairs.core.validation import check_float32, check_fraction, check_integer
from xplique_dirpairs.metrics.significance import (
    NoiseComparison,
    compare_with_noise,
    hopeless_count,
    p_values,
    permutations_needed,
    significant,
)
from xplique_dirpairs.sensitivity.influence_inputs import (
    checked_labels,
    checked_shifts,
    generators_of,
    labelled_positions,
)
from xplique_dirpairs.sensitivity.influence_summary import InfluenceSummary, summarise_influence
from xplique_dirpairs.sensitivity.noise_vectors import (
    NoiseEstimator,
    balanced_sample,
    mean_difference_noise,
    noise_vectors,
)
from xplique_dirpairs.sensitivity.shift_responses import (
    LinearResponse,
    PassedResponse,
    ShiftStatistics,
)

if TYPE_CHECKING:
    from xplique_dirpairs.models.head import Head

#: What may be compared with noise: the size of the mean Δ, the mean Δ on its own side of 0, or the
#: size of SC.
STATISTICS = ("change", "signed change", "score")

#: Images that pass through the head at a time, at most.
_LARGEST_BATCH = 4096


@dataclass(frozen=True, eq=False)
class Sensitivity:
    """How classes answer to directions; NaN for classes without images.

    Attributes
    ----------
    scores : (I, K)
        SC, in [−1, 1]: above 0 the direction helps the class.
    changes : (I, K)
        Mean Δ, in nats.
    images : (K,) int
        Images that counted for each class.
    """

    scores: NDArray
    changes: NDArray
    images: NDArray


@dataclass(frozen=True, eq=False)
class Influence(Sensitivity):
    """`Sensitivity`, with its significance against noise.

    Attributes
    ----------
    exceeded, compared : (I, K) int
        Noise vectors at least as strong, and those compared with (fewer than ``permutations`` where
        a hopeless test was stopped; 0 where there is nothing to test).
    permutations : int
        N.
    statistic : str
        "change" (|mean Δ|), "signed change" or "score" (|SC|).
    level : float
        θ.
    interrupted : bool
        Whether Ctrl-C ended it: directions from some on are not tested.
    """

    exceeded: NDArray
    compared: NDArray
    permutations: int
    statistic: str
    level: float
    interrupted: bool = False

    @cached_property
    def p_values(self) -> NDArray:
        """(I, K); NaN where there is nothing to test: no images, or no labels to permute."""
        return np.minimum(1.0, self._sides * p_values(self.exceeded, self.compared))

    @property
    def _sides(self) -> int:
        """2 where noise is counted on one side, chosen by the data: p is twice as large."""
        return _sides(self.statistic)

    @property
    def tests(self) -> int:
        """Number of tests that corrections are for."""
        return int((self.compared > 0).sum())

    @property
    def untested(self) -> NDArray:
        """Directions without a test: their detectors fire everywhere or nowhere, or, where it was
        interrupted, they were still to come.
        """
        return np.flatnonzero(~(self.compared > 0).any(axis=1))

    def significant(self, correction: str = "benjamini-hochberg") -> NDArray:
        """Which entries are significant at the level, (I, K) bool.

        Parameters
        ----------
        correction
            "benjamini-hochberg", "bonferroni" or "none", of `metrics.significance.significant`; or
            "paper": stronger than all noise, however little noise there was.
        """
        if correction == "paper":
            return (self.exceeded == 0) & (self.compared > 0)
        return significant(self.p_values, self.level, correction)

    def reachable(self, correction: str = "benjamini-hochberg") -> bool:
        """Whether so many permutations can make any test significant at all."""
        needed = permutations_needed(self.tests, self.level / self._sides, correction)
        return self.tests > 0 and self.permutations >= needed

    def least_rejections(self, correction: str = "benjamini-hochberg") -> int:
        """Fewest tests that can be significant, if any is: p cannot be below 1/(N + 1).

        More than `tests` where the correction is unreachable.
        """
        if correction != "benjamini-hochberg":
            return 1 if self.reachable(correction) else self.tests + 1
        smallest = self._sides / (self.permutations + 1)
        return math.ceil(self.tests * smallest / self.level * (1.0 - 1e-9))

    def summary(self, correction: str = "benjamini-hochberg") -> InfluenceSummary:
        """SDC, SCDP and the paper's Table 8."""
        return summarise_influence(self.scores, self.significant(correction))


def sensitivity(
    head: Head,
    activations: ArrayLike,
    labels: ArrayLike | None,
    directions: ArrayLike,
    *,
    amount: float = 5.0,
    tie: float = 1e-6,
) -> Sensitivity:
    """SC and mean Δ of directions, of any length: they are moved along at unit length.

    Parameters
    ----------
    head
        From the layer to the classes.
    activations : (N, *S, D)
        Of the classes' images; or (N, D), pooled, where the head pools first.
    labels : (N,) int, or None
        Class of each image; of a network of one output 0 (no) or 1 (yes), which are its two
        classes. None: all images count for every class.
    directions : (I, D)
        Signal vectors, or others.
    amount
        a, added at every position along the unit direction.
    tie
        ε: |Δ| up to it is none.

    Raises
    ------
    TypeError, ValueError
        If an argument is not as said.
    """
    response = shift_response(head, activations, labels, tie)
    found = response.statistics(checked_shifts(directions, amount, np.shape(activations)[-1]))
    return Sensitivity(found.scores, found.changes, response.images)


def log_probability_changes(
    head: Head, activations: ArrayLike, directions: ArrayLike, *, amount: float = 5.0
) -> NDArray:
    """Δ of every image, (N, I, K): what `sensitivity` is the mean of; arguments as there."""
    response = shift_response(head, activations, None, 0.0)
    shifts = checked_shifts(directions, amount, np.shape(activations)[-1])
    return response.changes(shifts).swapaxes(0, 1)


def influence(
    head: Head,
    activations: ArrayLike,
    labels: ArrayLike | None,
    directions: ArrayLike,
    detections: ArrayLike,
    features: ArrayLike | None = None,
    *,
    amount: float = 5.0,
    tie: float = 1e-6,
    permutations: int = 1000,
    statistic: str = "change",
    level: float = 0.05,
    estimator: NoiseEstimator = mean_difference_noise,
    positions: int = 5000,
    early_stopping: bool = True,
    random_state: int | None = 0,
    verbose: int = 1,
) -> Influence:
    """SC, mean Δ, and which of them noise signal vectors do not reach.

    For each direction a balanced sample of positions with and without its concept, their labels
    permuted N times, a noise signal vector for each: see `metrics.noise_vectors`. One of length
    zero, as of a single position or of features that are all the same, counts as stronger.

    Parameters
    ----------
    head, activations, labels, directions, amount, tie
        As of `sensitivity`.
    detections : (n, *S, I) bool
        Where each direction's concept is: ``pairs.detect(features) > 0.5``.
    features : (n, *S, D)
        What the detections are of; None: ``activations``. Of other images than those of the
        classes, if you like; a sample of positions will do (`sample_positions`).
    permutations
        N, of each direction.
    statistic
        "change": |mean Δ|. "score": |SC|. "signed change": the mean Δ against noise of its own
        sign, p doubled: log p has an upper end, so that nothing can help a class that is certain
        as much as noise hurts it, and "change" will not call it significant [ours]. For noise
        that is as likely on either side: the default ``estimator``, not `trained_filter_noise`.
        Up to ``tie`` any counts as none.
    level
        θ, in (0, 1).
    estimator
        `mean_difference_noise`, `trained_filter_noise`, or another of their form.
    positions
        Size of the balanced sample at most.
    early_stopping
        Stop tests whose p cannot be ``level`` or less any more. Changes no decision, and no p up to
        the level; see `metrics.significance.compare_with_noise`.
    random_state
        Seed. Every direction has a generator of its own.
    verbose
        0 for silence; else a progress bar over the directions.

    Returns
    -------
    influence
        On Ctrl-C, too: `Influence.interrupted` says so, and what is not tested has no p-value.

    Raises
    ------
    TypeError, ValueError
        If an argument is not as said.
    """
    check_fraction("level", level)
    check_integer("permutations", permutations, 1)
    check_integer("positions", positions, 2)
    if statistic not in STATISTICS:
        raise ValueError(f"statistic must be one of {STATISTICS}, not {statistic!r}")
    if not callable(estimator):
        raise TypeError(f"estimator must be callable, not {type(estimator).__name__}")
    response = shift_response(head, activations, labels, tie)
    shifts = checked_shifts(directions, amount, np.shape(activations)[-1])
    x, detected = labelled_positions(features, activations, detections, shifts.shape)
    generators = generators_of(random_state, len(shifts))

    found = response.statistics(shifts)
    observed = _compared(found, statistic)
    stop_at = hopeless_count(permutations, level / _sides(statistic)) if early_stopping else None
    exceeded, compared = np.zeros((2, *observed.shape), int)
    interrupted = False
    try:
        tests = progress(enumerate(generators), len(generators), "influence", verbose, "direction")
        for i, rng in tests:
            sample = balanced_sample(x, detected[:, i], positions, rng)
            if len(sample):
                noise = noise_vectors(sample, permutations, response.at_once, estimator, rng)
                of_noise = _against_noise(observed[i], noise, response, statistic, amount, stop_at)
                exceeded[i], compared[i] = of_noise
    except KeyboardInterrupt:  # what was compared by then is worth having
        interrupted = True
    return Influence(
        found.scores, found.changes, response.images,
        exceeded, compared, permutations, statistic, level, interrupted,
    )  # fmt: skip


def _against_noise(
    observed: NDArray,
    noise: Iterable[NDArray],
    response: LinearResponse | PassedResponse,
    statistic: str,
    amount: float,
    stop_at: int | None,
) -> NoiseComparison:
    """One direction's values (K,) against those of its noise."""
    sign, tie = np.sign(observed), response.tie

    def strengths(block: NDArray, live: NDArray) -> NDArray:
        of_noise = _compared(response.statistics(amount * block, live), statistic)
        found = _strengths(of_noise, sign, statistic, tie)
        found[~block.any(axis=1)] = np.inf  # noise that is no direction has not lost to any
        return found

    own = _strengths(observed, sign, statistic, tie)
    return compare_with_noise(own, noise, strengths, stop_at)


def shift_response(
    head: Head, activations: ArrayLike, labels: ArrayLike | None, tie: float
) -> LinearResponse | PassedResponse:
    """How a head's classes answer to shifts of these images; arguments as of `sensitivity`."""
    if not all(hasattr(head, name) for name in ("logits", "pool", "class_rows", "is_multilabel")):
        raise TypeError(
            f"head must be a Head, not {type(head).__name__}: wrap the rest of the network, "
            "Head(latent_to_logit_model)"
        )
    x = check_float32("activations", activations)
    if x.ndim < 2 or x.size == 0:
        raise ValueError(f"activations must be (N, *positions, D), but have shape {x.shape}")
    if not tie >= 0:
        raise ValueError(f"tie must be at least 0, not {tie!r}")
    head.check_takes(x.shape[1:])
    x = head.pool(x)

    # small maps and pooled features are light: many go in one call
    batch_size = min(_LARGEST_BATCH, max(64, CHUNK_FLOATS // x[0].size))

    def predict(features: NDArray) -> NDArray:
        return _of_classes(head.logits(features, batch_size))

    logits = predict(x)
    if not np.isfinite(logits).all():
        raise ValueError("the head's outputs for these activations are not finite")
    one_output = head.logits(x[:1], 1).shape[1] == 1
    kind = "sigmoid" if head.is_multilabel or one_output else "softmax"
    ids = checked_labels(labels, *logits.shape)
    if head.class_rows is not None and x.ndim == 2 and head.ends_in == "linear":
        return LinearResponse(logits, ids, tie, kind, _of_classes(head.class_rows.T).T)
    return PassedResponse(logits, ids, tie, kind, x, predict)


def _of_classes(logits: NDArray) -> NDArray:
    """(n, K) as they are; of one output −z and z, its no and its yes: see `two_classes`."""
    return np.concatenate([-logits, logits], axis=1) if logits.shape[1] == 1 else logits


def _sides(statistic: str) -> int:
    return 2 if statistic == "signed change" else 1


def _compared(found: ShiftStatistics, statistic: str) -> NDArray:
    return found.scores if statistic == "score" else found.changes


def _strengths(values: NDArray, sign: NDArray, statistic: str, tie: float) -> NDArray:
    """How strong values are, ≥ 0, and 0 up to ``tie``; NaN stays."""
    size = sign * values if statistic == "signed change" else np.abs(values)
    return np.where(size <= tie, 0.0, size)
