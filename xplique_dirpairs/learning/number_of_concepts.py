"""Choose the number of concepts by the skewness of features or by fits with several numbers."""

from __future__ import annotations

import logging
import time
import warnings
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from itertools import combinations
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import ArrayLike

from xplique_dirpairs.core.batching import as_positions
from xplique_dirpairs.core.progress import KeepOnInterrupt
from xplique_dirpairs.core.types import Array
from xplique_dirpairs.core.validation import check_integer, check_random_state
from xplique_dirpairs.data.devices import check_strategy
from xplique_dirpairs.data.shards import ActivationShards
from xplique_dirpairs.learning.coordinates import Coordinates, Moments, rank_of_signal, whitened
from xplique_dirpairs.learning.features import Features, as_features
from xplique_dirpairs.learning.history import History, LearningWarning
from xplique_dirpairs.learning.learner import learn_pairs
from xplique_dirpairs.learning.recipe import Recipe, get_recipe
from xplique_dirpairs.learning.starts import (
    GAP,
    SAME,
    distinct_directions,
    leave_out_far,
    nearest_maxima,
    skewness_filters,
)
from xplique_dirpairs.metrics.dictionary import dictionary_stability
from xplique_dirpairs.models.head import Head, check_head
from xplique_dirpairs.pairs import WELL_CONDITIONED, DirectionPairs
from xplique_dirpairs.plots.learning import SkewnessCurve, plot_number_of_concepts

logger = logging.getLogger("xplique_dirpairs")

#: Mean cosine between fits from which concepts count as found again.
_STABLE = 0.98
#: Smallest number of images that shows the errors of a skewness, and number of positions used.
_IMAGES, _POSITIONS = 40, 60_000
#: Number of splits of the images, which must all agree, and smallest number that is reported.
_SPLITS, _FEWEST = 3, 4
#: Number of standard errors from which a skewness counts; noise is assumed to reach half of them.
_ERRORS = 4.0


@dataclass(frozen=True)
class SkewnessCount:
    """Number of skewed sources in features.

    Attributes
    ----------
    number : int or None
        Number of concepts I; None if the features do not show it.
    reason : str
        Explanation of the number, or of why there is none.
    skewnesses : ndarray of shape (A,)
        Absolute skewness along the A independent directions, in decreasing order, measured on
        positions that the directions were not fitted to.
    errors : ndarray of shape (A,)
        Standard errors of the skewnesses, over images.
    threshold : float, default=nan
        Middle of the gap in the skewnesses; NaN if there is no gap.
    """

    number: int | None
    reason: str
    skewnesses: Array
    errors: Array
    threshold: float = float("nan")

    @property
    def verdict(self) -> str:
        """The number and the reason for it, in one line."""
        number = "cannot tell" if self.number is None else self.number
        return f"skewness: {number} ({self.reason})"

    @property
    def curve(self) -> SkewnessCurve:
        """The sorted skewnesses in the form that plots need."""
        return SkewnessCurve(self.skewnesses, self.errors, self.threshold, self.number)

    def plot(self, title: str = "") -> Figure:
        """Plot the sorted skewnesses and mark the number of concepts.

        Parameters
        ----------
        title : str, default=""
            Title above the verdict.

        Returns
        -------
        figure : matplotlib.figure.Figure
        """
        lines = [title, self.verdict] if title else [self.verdict]
        return plot_number_of_concepts(skewnesses=self.curve, lines=lines)


def count_skewed_sources(
    activations: ArrayLike | ActivationShards, *, random_state: int | None = 0
) -> SkewnessCount:
    """Count the concepts of features x = Sα + Dβ + μ by the skewness of α [ours].

    In whitened features concepts are the skewed sources (rarely present, never negative), and
    distractors are not skewed. Images are split in halves three times; a symmetric ICA with
    contrast u² finds directions on each half, and their skewness is measured on the other half. The
    sorted skewnesses drop sharply after the last concept. Then every direction is optimised freely,
    without orthogonality to the others: directions of concepts are maxima of skewness and stay
    where they are. A concept that orthogonality excluded is found by starting from the absence of
    all others.

    Parameters
    ----------
    activations : array-like of shape (N, H, W, D), (N, T, D) or (N, D)
        Activations of at least 40 images, or `ActivationShards`. About 60 000 positions of random
        images are used; outlier images are left out as in `learn_pairs`.
    random_state : int or None, default=0
        Seed of the choice of images, the halves and the initial directions.

    Returns
    -------
    count : SkewnessCount
        It has no number if the spectrum has no floor of noise (as in every real network so far), if
        the skewnesses have no gap, if directions do not stay apart, if halves disagree, or if there
        are fewer than four sources, one of which may be the absence of the others.

    Notes
    -----
    Distractors are assumed to be symmetric and concepts are not; a concept that is present on about
    half of all positions is symmetric, too, and is not counted.

    Raises
    ------
    ValueError
        If the activations are constant, not finite, or of the wrong rank; if the seed is invalid.
    """
    features, rng = as_features(activations), check_random_state(random_state)
    if features.shape[0] < _IMAGES:
        none = np.zeros(0)
        return SkewnessCount(None, f"fewer than {_IMAGES} images are too few", none, none)
    per_image = int(np.prod(features.shape[1:-1]))
    chosen = rng.permutation(features.shape[0])[: max(_IMAGES, _POSITIONS // per_image)]
    images = features.only(np.sort(chosen)).in_memory()[np.argsort(np.argsort(chosen))]
    features = Features(images)
    _, moments, left_out, _ = leave_out_far(features, Moments.of(features), 1)
    images = np.delete(images, left_out, axis=0)
    coordinates = whitened(moments, 1)
    has_floor = rank_of_signal(moments, 1) is not None
    counts = []
    for _ in range(_SPLITS):
        counts.append(count_in_halves(images, coordinates, per_image, has_floor, rng))
        if counts[-1].number is None:
            return counts[-1]
        images = images[rng.permutation(len(images))]
    numbers = sorted({count.number for count in counts if count.number is not None})
    if len(numbers) > 1:
        reason = f"halves of the images disagree: {', '.join(map(str, numbers))}"
        return replace(counts[0], number=None, reason=reason)
    return counts[0]


def count_in_halves(
    images: Array,
    coordinates: Coordinates,
    per_image: int,
    has_floor: bool,
    rng: np.random.Generator,
) -> SkewnessCount:
    """Count the skewed sources in one split of the images (N, *spatial, D) in halves.

    ``per_image`` is the number of positions of an image.
    """
    halves = [coordinates.features(as_positions(half)) for half in np.array_split(images, 2)]
    first, second = halves
    results = [_Half.of(*pair, per_image, rng) for pair in ((first, second), (second, first))]
    skewnesses = np.mean([result.skewnesses for result in results], axis=0)
    errors = np.mean([result.errors for result in results], axis=0) / np.sqrt(2.0)
    above, threshold = _gap(skewnesses, errors) if has_floor else (0, float("nan"))
    if not above:
        reason = (
            "the spectrum of the features has no floor of noise: skewed sources cannot be counted"
        )
        if has_floor:
            reason = "the sorted skewnesses have no gap between concepts and distractors"
        return SkewnessCount(None, reason, skewnesses, errors)
    counts = [result.maxima(half, threshold) for result, half in zip(results, halves, strict=True)]
    numbers = sorted({number for number, _ in counts})
    moved = max(moved for _, moved in counts)
    number = None
    if moved > 1:  # one may move: orthogonality to the others bends the most frequent concept
        reason = f"{moved} of {above} skewed directions move when they are optimised freely"
    elif numbers[0] < above:
        reason = f"only {numbers[0]} of {above} skewed directions differ when optimised freely"
    elif len(numbers) > 1:
        reason = f"two halves of the images disagree: {numbers[0]} and {numbers[1]}"
    elif numbers[0] < _FEWEST:
        reason = f"with so few skewed sources ({numbers[0]}), one may be the absence of the others"
    else:
        number = numbers[0]
        reason = (
            f"{number} skewed sources in {len(skewnesses)} axes of signal; a distractor that is "
            "skewed counts as one, and a symmetric concept does not"
        )
    return SkewnessCount(number, reason, skewnesses, errors, threshold)


@dataclass(frozen=True)
class _Half:
    """Directions (A, A) fitted to one half of the positions, sorted by skewness on the other."""

    directions: Array
    skewnesses: Array
    errors: Array
    other: Array

    @classmethod
    def of(cls, half: Array, other: Array, per_image: int, rng: np.random.Generator) -> _Half:
        """Fit directions to one half (P, A) and measure their skewness on the other half (P, A)."""
        directions = skewness_filters(half, half.shape[1], rng).astype(np.float32)
        y = _standardised(other @ directions.T)
        skewness = (y * y * y).mean(axis=0)
        skewnesses = np.abs(skewness)
        # influence of a position on the skewness (delta method), averaged over each image
        influence = y * y * y - 3.0 * y - 1.5 * skewness * (y * y)
        influence = influence.reshape(-1, per_image, y.shape[1]).mean(axis=1)
        errors = influence.std(axis=0) / np.sqrt(len(influence))
        order = np.argsort(-skewnesses)
        return cls(directions[order], skewnesses[order], errors[order], other)

    def maxima(self, half: Array, threshold: float) -> tuple[int, int]:
        """Return the number of maxima of skewness, and the number of directions that moved.

        One-unit ICA starts from the directions above the threshold, and from the absence of all.
        """
        skewed = self.directions[self.skewnesses > threshold]
        starts = np.concatenate([skewed, -skewed.sum(axis=0, keepdims=True)])
        free = nearest_maxima(half, starts)
        moved = int(((free[:-1] * skewed).sum(axis=1) < SAME).sum())
        y = _standardised(self.other @ free.T)
        skewnesses = (y * y * y).mean(axis=0)
        return distinct_directions(free[skewnesses > threshold]), moved


def _standardised(y: Array) -> Array:
    """Return columns (P, n) with zero mean and unit variance."""
    y = y - y.mean(axis=0)
    return np.asarray(y / np.maximum(y.std(axis=0), 1e-9))


def _gap(skewnesses: Array, errors: Array) -> tuple[int, float]:
    """Return the number of skewnesses (A,) above the largest gap, and its middle; else 0, NaN."""
    noise = _ERRORS / 2.0 * errors
    below = np.maximum(np.append(skewnesses[1:], 0.0), np.append(noise[1:], noise[-1]))
    below = np.maximum(below, 1e-9)
    ratios = np.where(skewnesses > _ERRORS * errors, skewnesses / below, 0.0)
    last = int(ratios.argmax())
    if ratios[last] < GAP:
        return 0, float("nan")
    return last + 1, float(np.sqrt(skewnesses[last] * below[last]))


# ------------------------------------------------------------------ fits with several numbers


@dataclass(frozen=True)
class ScannedNumber:
    """Measures of the fits with one number of concepts, averaged over fits.

    Attributes
    ----------
    number : int
        Number of concepts I.
    fits : int, default=0
        Number of fits that ran to their end.
    signal_stability : float, default=nan
        Absolute cosine of matched signal vectors, averaged over concepts and pairs of fits, in
        [0, 1]; NaN with fewer than two fits.
    filter_stability : float, default=nan
        The same for filters.
    occupancy_min : float, default=nan
        Smallest share of positions on which a concept is detected, in units of 1/I.
    occupancy_median : float, default=nan
        Median of these shares over concepts, in units of 1/I.
    dead : float, default=nan
        Number of dead concepts.
    duplicates : float, default=nan
        Number of pairs of concepts that are detected at the same positions.
    sparsity : float, default=nan
        Final L^s divided by its largest value log2 I, comparable across I. NaN if the recipe's last
        stage does not compute L^s, and for I = 1.
    objective : float, default=nan
        Final objective of the last stage, comparable within one recipe; terms in bits grow with I.
    condition_number : float, default=nan
        Condition number of ŴᵀŜ, the largest of all fits.
    seconds : float, default=nan
        Wall time of one fit.
    problems : tuple of str, default=()
        Problems of the fits, without repetitions.
    error : str or None, default=None
        Why fits are missing; None if all ran to their end.
    """

    number: int
    fits: int = 0
    signal_stability: float = float("nan")
    filter_stability: float = float("nan")
    occupancy_min: float = float("nan")
    occupancy_median: float = float("nan")
    dead: float = float("nan")
    duplicates: float = float("nan")
    sparsity: float = float("nan")
    objective: float = float("nan")
    condition_number: float = float("nan")
    seconds: float = float("nan")
    problems: tuple[str, ...] = ()
    error: str | None = None

    @property
    def is_sound(self) -> bool:
        """Whether all fits find the same, distinct, living concepts and are well-conditioned."""
        return (
            min(self.signal_stability, self.filter_stability) >= _STABLE
            and self.dead == self.duplicates == 0
            and self.condition_number <= WELL_CONDITIONED
            and not self.error
        )


@dataclass(frozen=True)
class ConceptScan:
    """Comparison of fits with several numbers of concepts.

    Attributes
    ----------
    numbers : tuple of ScannedNumber
        One entry for each number, in increasing order.
    interrupted : bool
        Whether Ctrl-C ended the scan, so that later numbers are missing.
    """

    numbers: tuple[ScannedNumber, ...]
    interrupted: bool = False

    def rows(self) -> list[dict[str, Any]]:
        """Return the entries as dictionaries, for a table.

        Returns
        -------
        rows : list of dict
        """
        return [asdict(entry) for entry in self.numbers]

    @property
    def suggested(self) -> int | None:
        """The largest sound number if a larger one was tried and is not sound, None otherwise."""
        return self._suggestion()[0]

    @property
    def reason(self) -> str:
        """Explanation of the suggested number, or of why there is none."""
        return self._suggestion()[1]

    def plot(self, count: SkewnessCount | None = None, title: str = "") -> Figure:
        """Plot a panel for each measure.

        Parameters
        ----------
        count : SkewnessCount or None, default=None
            Result of `count_skewed_sources`, whose skewnesses are plotted in another panel.
        title : str, default=""
            Title above the suggested number.

        Returns
        -------
        figure : matplotlib.figure.Figure
        """
        suggested, reason = self._suggestion()
        number = "cannot tell" if suggested is None else suggested
        lines = [title, "" if count is None else count.verdict, f"scan: {number} ({reason})"]
        return plot_number_of_concepts(
            self.rows(),
            suggested,
            None if count is None else count.curve,
            [line for line in lines if line],
        )

    def _suggestion(self) -> tuple[int | None, str]:
        """Return the suggested number and the reason."""
        sound = [entry.number for entry in self.numbers if entry.is_sound]
        measured = [e.number for e in self.numbers if np.isfinite(e.signal_stability)]
        if not measured:
            return None, "no number was fitted with two seeds: there is nothing to compare"
        if not sound:
            return None, "with no number did all fits find the same, distinct, living concepts"
        if sound[-1] == measured[-1]:
            return None, f"{sound[-1]}, the largest number tried, is still sound: try larger ones"
        following = measured[measured.index(sound[-1]) + 1]
        reason = f"with {sound[-1]} concepts all fits find the same ones, with {following} not"
        if following > sound[-1] + 1:
            reason += ", and numbers between them were not tried"
        return sound[-1], reason


def scan_number_of_concepts(
    activations: ArrayLike | ActivationShards,
    numbers: Iterable[int],
    *,
    head: Head | None = None,
    recipe: str | Recipe = "default",
    seeds: int = 2,
    random_state: int | None = 0,
    verbose: int = 1,
) -> ConceptScan:
    """Learn direction pairs with several numbers of concepts and compare the fits.

    Every fit has its own seed and its own half of the images, because a start that does not depend
    on the seed (recipe ``soft``) would agree with itself whatever the number. If the fits with a
    number fail, the error is recorded and the scan continues. Ctrl-C ends the scan and keeps
    complete fits.

    Parameters
    ----------
    activations : array-like of shape (N, H, W, D), (N, T, D) or (N, D), or ActivationShards
        See `learn_pairs`.
    numbers : iterable of int
        Candidates for the number of concepts I.
    head : Head or None, default=None
        See `learn_pairs`.
    recipe : str or Recipe, default="default"
        See `learn_pairs`.
    seeds : int, default=2
        Number of fits for each number.
    random_state : int or None, default=0
        Seed of the first fit; the following fits have ``random_state + 1``, …. None draws a seed.
    verbose : int, default=1
        See `learn_pairs`.

    Returns
    -------
    scan : ConceptScan

    Raises
    ------
    TypeError, ValueError
        If ``numbers`` is empty or not integers, if there is only one image, or if `learn_pairs`
        would refuse an argument whatever the number.
    """
    features, recipe = as_features(activations), get_recipe(recipe)
    if not isinstance(numbers, Iterable):
        raise TypeError(
            f"numbers must be a list of numbers of concepts, such as [8, 10, 12], not {numbers!r}"
        )
    candidates = sorted(set(numbers))
    if not candidates:
        raise ValueError("numbers is empty: give the numbers of concepts to compare")
    for number in candidates:
        check_integer("each of numbers", number)
    check_integer("seeds", seeds)
    if random_state is not None:
        check_integer("random_state", random_state, minimum=0)
    # An error that every fit would raise is raised here instead of being recorded for every number.
    check_head(head, features.shape)
    if features.shape[0] < 2:
        raise ValueError("there is only one image: give several, since halves are compared")
    check_strategy(features.shape[0] // 2, random_state)
    Moments.of(features)
    if random_state is None:
        random_state = int(np.random.default_rng().integers(2**31))
    settings = {"head": head, "recipe": recipe, "verbose": verbose}
    entries: list[ScannedNumber] = []
    for number in candidates:
        fits: list[tuple[DirectionPairs, History, float]] = []
        error = None
        with KeepOnInterrupt() as block:
            try:
                for seed in range(seeds):
                    fits.append(_fit_half(features, number, seed, random_state, settings))
            except Exception as exception:  # fits with another number may succeed
                error = f"{type(exception).__name__}: {exception}"
                logger.warning("%d concepts: %s", number, error)
        entries.append(_compare(number, fits, "interrupted" if block.interrupted else error))
        if block.interrupted:
            break
    return ConceptScan(tuple(entries), block.interrupted)


def _fit_half(
    features: Features, number: int, seed: int, random_state: int, settings: dict[str, Any]
) -> tuple[DirectionPairs, History, float]:
    """Return pairs, history and wall time of a fit to one half of the images."""
    order = np.random.default_rng((random_state, seed // 2)).permutation(features.shape[0])
    half = np.sort(order[seed % 2 :: 2])  # seeds 0 and 1 share no image, nor do 2 and 3
    activations = features.only(half).activations
    began = time.perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", LearningWarning)
        pairs, history = learn_pairs(
            activations, number, random_state=random_state + seed, **settings
        )
    if history.interrupted:  # an interrupted fit does not count
        raise KeyboardInterrupt
    return pairs, history, time.perf_counter() - began


def _compare(
    number: int, fits: list[tuple[DirectionPairs, History, float]], error: str | None
) -> ScannedNumber:
    """Return the measures of the fits (pairs, history, seconds) with one number of concepts."""
    if not fits:
        return ScannedNumber(number, error=error)
    histories = [history for _, history, _ in fits]
    occupancies = np.array([history.occupancy for history in histories]) * number
    last = [list(history.stages.values())[-1] if history.stages else {} for history in histories]
    bits = np.log2(number) if number > 1 else float("nan")
    return ScannedNumber(
        number,
        len(fits),
        stability_of([pairs.signals for pairs, _, _ in fits]),
        stability_of([pairs.filters for pairs, _, _ in fits]),
        float(occupancies.min(axis=1).mean()),
        float(np.median(occupancies, axis=1).mean()),
        float(np.mean([len(history.dead) for history in histories])),
        float(np.mean([len(history.duplicates) for history in histories])),
        float(np.mean([s.get("s", [np.nan])[-1] for s in last]) / bits),
        float(np.mean([s.get("objective", [np.nan])[-1] for s in last])),
        float(max(history.condition_number for history in histories)),
        float(np.mean([seconds for _, _, seconds in fits])),
        tuple(dict.fromkeys(p for history in histories for p in history.problems())),
        error,
    )


def stability_of(directions: list[Array]) -> float:
    """Return the mean `dictionary_stability` of directions (I, D) over pairs of fits; else NaN."""
    cosines = [dictionary_stability(*two) for two in combinations(directions, 2)]
    return float(np.mean(cosines)) if cosines else float("nan")
