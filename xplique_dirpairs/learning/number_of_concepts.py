"""How many concepts: from the skewness of the features alone, or by fits with several numbers."""

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
from xplique_dirpairs.learning.features import (
    Coordinates,
    Features,
    Moments,
    as_features,
    rank_of_signal,
    whitened,
)
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

#: Mean cosine over fits from which concepts count as found again.
_STABLE = 0.98
#: Images from which errors of a skewness can be estimated, and positions that are enough.
_IMAGES, _POSITIONS = 40, 60_000
#: Splits of the images, all of which must agree, and the fewest sources that can be told.
_SPLITS, _FEWEST = 3, 4
#: A skewness counts from this many standard errors on; noise is taken to reach half of that.
_ERRORS = 4.0


@dataclass(frozen=True)
class SkewnessCount:
    """The number of skewed sources that features are made of.

    Attributes
    ----------
    number : int or None
        I; None where the features do not tell.
    reason : str
        Why this number, or why none.
    skewnesses : ndarray of shape (A,)
        Absolute skewness along the A independent directions, largest first, of positions that the
        directions were not chosen on.
    errors : ndarray of shape (A,)
        Their standard errors, over images.
    threshold : float
        The middle of the gap; NaN where there is none.
    """

    number: int | None
    reason: str
    skewnesses: Array
    errors: Array
    threshold: float = float("nan")

    @property
    def verdict(self) -> str:
        """The number and what it stands on, in one line."""
        number = "cannot tell" if self.number is None else self.number
        return f"skewness: {number} ({self.reason})"

    @property
    def curve(self) -> SkewnessCurve:
        """The sorted skewnesses, as plots take them."""
        return SkewnessCurve(self.skewnesses, self.errors, self.threshold, self.number)

    def plot(self, title: str = "") -> Figure:
        """Draw the sorted skewnesses with the number of concepts marked."""
        lines = [title, self.verdict] if title else [self.verdict]
        return plot_number_of_concepts(skewnesses=self.curve, lines=lines)


def count_skewed_sources(
    activations: ArrayLike | ActivationShards, *, random_state: int | None = 0
) -> SkewnessCount:
    """Count the concepts of features x = Sα + Dβ + μ by the skewness of α [ours].

    In whitened features concepts are the skewed sources (rarely there, never negative) and
    distractors are not. Images are split in halves, three times; a symmetric ICA with contrast u²
    finds directions on each half, and their skewness is measured on the other. Sorted, it falls off
    a cliff after the last concept. Then every direction is let go alone, without orthogonality to
    the others: those of concepts, maxima of skewness on their own, stay where they are, and a
    concept that orthogonality left no room for is found from where all others are absent.

    Parameters
    ----------
    activations : array-like of shape (N, H, W, D), (N, T, D) or (N, D)
        At least 40 images, or `ActivationShards`. About 60 000 positions of random images are used,
        without images unlike all others, as in `learn_pairs`.
    random_state : int or None, default=0
        Seed of the images, the halves and the first directions.

    Returns
    -------
    count : SkewnessCount
        Without a number where the spectrum has no floor of noise (every real network so far) or no
        gap, where directions do not stay apart, where halves disagree, or where there are fewer
        than four: one of a few may be the absence of the others.

    Notes
    -----
    It assumes that distractors are symmetric and concepts are not; a concept that is present on
    about half of all positions is symmetric, too.

    Raises
    ------
    ValueError
        If the activations are not finite, constant, or of the wrong rank; if the seed is invalid.
    """
    features, rng = as_features(activations), check_random_state(random_state)
    if features.shape[0] < _IMAGES:
        none = np.zeros(0)
        return SkewnessCount(None, f"fewer than {_IMAGES} images tell nothing", none, none)
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
    """Count the skewed sources with one split of the images in halves."""
    halves = [coordinates.features(as_positions(half)) for half in np.array_split(images, 2)]
    first, second = halves
    looks = [_Look.of(*pair, per_image, rng) for pair in ((first, second), (second, first))]
    skewnesses = np.mean([look.skewnesses for look in looks], axis=0)
    errors = np.mean([look.errors for look in looks], axis=0) / np.sqrt(2.0)
    above, threshold = _gap(skewnesses, errors) if has_floor else (0, float("nan"))
    if not above:
        reason = "the spectrum of the features has no floor of noise: what is skewed has no end"
        if has_floor:
            reason = (
                "the sorted skewnesses have no gap: concepts and distractors are not told apart"
            )
        return SkewnessCount(None, reason, skewnesses, errors)
    let_go = [look.let_go(half, threshold) for look, half in zip(looks, halves, strict=True)]
    numbers = sorted({number for number, _ in let_go})
    wander = max(moved for _, moved in let_go)
    number = None
    if wander > 1:  # one may: the most frequent concept, which the others' orthogonality bends
        reason = f"{wander} of {above} skewed directions do not stay where they are on their own"
    elif numbers[0] < above:
        reason = f"only {numbers[0]} of {above} skewed directions differ when left on their own"
    elif len(numbers) > 1:
        reason = f"two halves of the images disagree: {numbers[0]} and {numbers[1]}"
    elif numbers[0] < _FEWEST:
        reason = f"of so few skewed sources ({numbers[0]}) others may be the absence"
    else:
        number = numbers[0]
        reason = (
            f"{number} skewed sources in {len(skewnesses)} axes of signal; a distractor that is "
            "skewed counts as one, and a symmetric concept does not"
        )
    return SkewnessCount(number, reason, skewnesses, errors, threshold)


@dataclass(frozen=True)
class _Look:
    """Directions (A, A) that one half of the positions shows, by their skewness on the other."""

    directions: Array
    skewnesses: Array
    errors: Array
    other: Array

    @classmethod
    def of(cls, half: Array, other: Array, per_image: int, rng: np.random.Generator) -> _Look:
        directions = skewness_filters(half, half.shape[1], rng).astype(np.float32)
        y = _standardised(other @ directions.T)
        skewness = (y * y * y).mean(axis=0)
        skewnesses = np.abs(skewness)
        # what a position adds to the skewness (delta method); positions of an image go together
        influence = y * y * y - 3.0 * y - 1.5 * skewness * (y * y)
        influence = influence.reshape(-1, per_image, y.shape[1]).mean(axis=1)
        errors = influence.std(axis=0) / np.sqrt(len(influence))
        order = np.argsort(-skewnesses)
        return cls(directions[order], skewnesses[order], errors[order], other)

    def let_go(self, half: Array, threshold: float) -> tuple[int, int]:
        """Count maxima of skewness, and directions that were none, by one-unit ICA.

        It begins at those above the threshold, and where all of these are absent.
        """
        found = self.directions[self.skewnesses > threshold]
        starts = np.concatenate([found, -found.sum(axis=0, keepdims=True)])
        free = nearest_maxima(half, starts)
        wander = int(((free[:-1] * found).sum(axis=1) < SAME).sum())
        y = _standardised(self.other @ free.T)
        skewnesses = (y * y * y).mean(axis=0)
        return distinct_directions(free[skewnesses > threshold]), wander


def _standardised(y: Array) -> Array:
    y = y - y.mean(axis=0)
    return np.asarray(y / np.maximum(y.std(axis=0), 1e-9))


def _gap(skewnesses: Array, errors: Array) -> tuple[int, float]:
    """Return how many skewnesses are above the largest gap, 0 without one, and its middle."""
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
    """What the fits with one number of concepts have in common; means over fits.

    Attributes
    ----------
    number, fits : int
        I, and how many fits ran to their end.
    signal_stability, filter_stability : float
        Absolute cosine of matched signal vectors and filters, mean over concepts and over every two
        fits, in [0, 1]; NaN with fewer than two fits.
    occupancy_min, occupancy_median : float
        Over concepts, of the share of positions each is detected on, in units of 1/I.
    dead, duplicates : float
        Dead concepts, and pairs of concepts detected at the same positions, for each fit.
    sparsity : float
        L^s at the end over its largest value log2 I, comparable across I. NaN where the recipe's
        last stage does not compute it, and for I = 1.
    objective : float
        The last stage's weighted sum; terms in bits grow with I. Comparable within one recipe.
    condition_number : float
        Of ŴᵀŜ, the largest of all fits.
    seconds : float
        Of one fit.
    problems, error
        What the fits warned of, each once; why the number has no fit, or fewer than asked for.
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
        """Whether all fits find the same concepts, alive, different and well-conditioned."""
        return (
            min(self.signal_stability, self.filter_stability) >= _STABLE
            and self.dead == self.duplicates == 0
            and self.condition_number <= WELL_CONDITIONED
            and not self.error
        )


@dataclass(frozen=True)
class ConceptScan:
    """Fits with several numbers of concepts, side by side.

    Attributes
    ----------
    numbers : tuple of ScannedNumber
        In rising order.
    interrupted : bool
        Whether Ctrl-C ended the scan: later numbers are missing.
    """

    numbers: tuple[ScannedNumber, ...]
    interrupted: bool = False

    def rows(self) -> list[dict[str, Any]]:
        """Return the entries as plain dictionaries, for a table."""
        return [asdict(entry) for entry in self.numbers]

    @property
    def suggested(self) -> int | None:
        """The largest number that is sound while the next larger one is not; or None."""
        return self._suggestion()[0]

    @property
    def reason(self) -> str:
        """Why that number, or why none."""
        return self._suggestion()[1]

    def plot(self, count: SkewnessCount | None = None, title: str = "") -> Figure:
        """Draw a panel for each measure, and the skewnesses of a ``count`` beside them."""
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
        sound = [entry.number for entry in self.numbers if entry.is_sound]
        measured = [e.number for e in self.numbers if np.isfinite(e.signal_stability)]
        if not measured:
            return None, "no number was fitted with two seeds: there is nothing to compare"
        if not sound:
            return None, "with no number did all fits find the same, different, living concepts"
        if sound[-1] == measured[-1]:
            return None, f"{sound[-1]}, the largest number tried, is still sound: try larger ones"
        following = measured[measured.index(sound[-1]) + 1]
        reason = f"with {sound[-1]} concepts all fits find the same ones; with {following} not"
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
    """Learn direction pairs with several numbers of concepts and compare.

    Every fit has its own seed and sees its own half of the images: a start that does not depend on
    the seed (recipe ``soft``) would agree with itself whatever the number. A number that fails has
    its error in the scan and does not end it; Ctrl-C does, and keeps complete fits.

    Parameters
    ----------
    activations, head, recipe, verbose
        As in `learn_pairs`.
    numbers : iterable of int
        Candidates for I.
    seeds, random_state
        Fits for each number, seeded ``random_state``, ``random_state + 1``, …; None: at random.

    Raises
    ------
    TypeError, ValueError
        If there is no number, or only one image; or as `learn_pairs`.
    """
    features, recipe = as_features(activations), get_recipe(recipe)
    if not isinstance(numbers, Iterable):
        raise TypeError(
            f"numbers must be several numbers of concepts, such as [8, 10, 12], not {numbers!r}"
        )
    candidates = sorted(set(numbers))
    if not candidates:
        raise ValueError("numbers is empty: give the numbers of concepts to compare")
    for number in candidates:
        check_integer("each of numbers", number)
    check_integer("seeds", seeds)
    if random_state is not None:
        check_integer("random_state", random_state, minimum=0)
    # What every fit would fail with is raised here, and not recorded for every number.
    check_head(head, features.shape)
    if features.shape[0] < 2:
        raise ValueError("there is one image only: its halves cannot be compared")
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
            except Exception as exception:  # another number may do
                error = f"{type(exception).__name__}: {exception}"
                logger.warning("%d concepts: %s", number, error)
        entries.append(_compare(number, fits, "interrupted" if block.interrupted else error))
        if block.interrupted:
            break
    return ConceptScan(tuple(entries), block.interrupted)


def _fit_half(
    features: Features, number: int, seed: int, random_state: int, settings: dict[str, Any]
) -> tuple[DirectionPairs, History, float]:
    """Return pairs, history and seconds of a fit to the seed's half of the images."""
    order = np.random.default_rng((random_state, seed // 2)).permutation(features.shape[0])
    half = np.sort(order[seed % 2 :: 2])  # seeds 0 and 1 share no image, nor do 2 and 3
    activations = features.only(half).activations
    began = time.perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", LearningWarning)
        pairs, history = learn_pairs(
            activations, number, random_state=random_state + seed, **settings
        )
    if history.interrupted:  # an interrupted fit counts as none
        raise KeyboardInterrupt
    return pairs, history, time.perf_counter() - began


def _compare(
    number: int, fits: list[tuple[DirectionPairs, History, float]], error: str | None
) -> ScannedNumber:
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
    """Return the mean `dictionary_stability` over every two of the fits; NaN with one fit."""
    cosines = [dictionary_stability(*two) for two in combinations(directions, 2)]
    return float(np.mean(cosines)) if cosines else float("nan")
