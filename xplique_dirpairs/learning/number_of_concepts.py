"""How many concepts: from the skewness of the features alone, or by fits with several numbers."""

from __future__ import annotations

import logging
import time
import warnings
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from itertools import combinations

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import ArrayLike, NDArray

from xplique_dirpairs.core.progress import KeepOnInterrupt
from xplique_dirpairs.core.validation import check_activations, check_integer, check_random_state
from xplique_dirpairs.data.devices import check_strategy
from xplique_dirpairs.data.shards import ActivationShards
from xplique_dirpairs.learning.features import (
    Coordinates,
    HeldFeatures,
    Moments,
    as_features,
    rank_of_signal,
    whitened,
)
from xplique_dirpairs.learning.history import LearningWarning
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
from xplique_dirpairs.pairs import WELL_CONDITIONED
from xplique_dirpairs.plots.learning import SkewnessCurve, plot_number_of_concepts

logger = logging.getLogger("xplique_dirpairs")

#: Mean cosine over fits from which concepts count as found again.
_STABLE = 0.98
#: Images from which errors of a skewness can be estimated, and positions that are enough.
_IMAGES, _POSITIONS = 40, 60_000
#: Splits of the images, all of which must agree, and the fewest sources that can be told.
_SPLITS, _FEWEST = 3, 4
#: A skewness counts from so many standard errors on; noise is taken to reach half of that.
_ERRORS = 4.0


@dataclass(frozen=True)
class SkewnessCount:
    """How many skewed sources features are made of.

    Attributes
    ----------
    number
        I, or None where the features do not tell.
    reason
        In words: what the number stands on, or why there is none.
    skewnesses : (A,)
        Absolute skewness along the A independent directions, largest first, of positions that the
        directions were not chosen on.
    errors : (A,)
        Their standard errors, over images.
    threshold
        The middle of the gap; NaN where there is none.
    """

    number: int | None
    reason: str
    skewnesses: NDArray
    errors: NDArray
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
    """How many concepts features x = Sα + Dβ + μ have, from the skewness of α [ours].

    In whitened features concepts are the skewed sources (rarely there, never negative) and
    distractors are not. Images are split in halves, three times; on each half a symmetric ICA with
    contrast u² finds directions; their skewness is measured on the other half. Sorted, it falls off
    a cliff after the last concept. Then every direction is let go alone, without orthogonality to
    the others: those of concepts stay where they are (each is a maximum of skewness in its own
    right), and a concept that orthogonality had no room for is found from where all others are
    absent.

    Parameters
    ----------
    activations : (N, H, W, D), (N, T, D) or (N, D)
        At least 40 images; or `ActivationShards`. About 60 000 positions are used, of images at
        random; images unlike all others are left out, as in `learn_pairs`.
    random_state
        Seed of the images, the halves and the first directions.

    Returns
    -------
    count
        With ``number`` None where the spectrum has no floor of noise (every real network so far),
        where there is no gap, where directions do not stay apart, where halves disagree, or where
        there are fewer than four: of so few, one is the absence of the others.

    Notes
    -----
    It stands on two assumptions: distractors are symmetric, concepts are not. A concept that is
    present on about half of all positions is symmetric, too.

    Raises
    ------
    ValueError
        If the activations are not finite, constant, or of the wrong rank; if the seed is none.
    """
    if not isinstance(activations, ActivationShards):
        activations = check_activations(activations)
    rng = check_random_state(random_state)
    if activations.shape[0] < _IMAGES:
        none = np.zeros(0)
        return SkewnessCount(None, f"fewer than {_IMAGES} images tell nothing", none, none)
    per_image = int(np.prod(activations.shape[1:-1]))
    images = _some(activations, max(_IMAGES, _POSITIONS // per_image), rng)
    features = HeldFeatures(images)
    _, moments, left_out, _ = leave_out_far(features, Moments.of(features), 1)
    images = np.delete(images, left_out, axis=0)
    made = whitened(moments, 1)
    has_floor = rank_of_signal(moments, 1) is not None
    counts = []
    for _ in range(_SPLITS):
        counts.append(count_in_halves(images, made, per_image, has_floor, rng))
        if counts[-1].number is None:
            return counts[-1]
        images = images[rng.permutation(len(images))]
    numbers = sorted({count.number for count in counts if count.number is not None})
    if len(numbers) > 1:
        found = ", ".join(map(str, numbers))
        return replace(counts[0], number=None, reason=f"halves of the images disagree: {found}")
    return counts[0]


def count_in_halves(
    images: NDArray, made: Coordinates, per_image: int, has_floor: bool, rng: np.random.Generator
) -> SkewnessCount:
    """What one split of the images in halves tells."""
    halves = [made.features(half.reshape(-1, half.shape[-1])) for half in np.array_split(images, 2)]
    first, second = halves
    looks = [_Look.of(*pair, per_image, rng) for pair in ((first, second), (second, first))]
    skewnesses = np.mean([look.skewnesses for look in looks], axis=0)
    errors = np.mean([look.errors for look in looks], axis=0) / np.sqrt(2.0)
    if not has_floor:
        reason = "the spectrum of the features has no floor of noise: what is skewed has no end"
        return SkewnessCount(None, reason, skewnesses, errors)
    above, threshold = _gap(skewnesses, errors)
    if not above:
        reason = "the sorted skewnesses have no gap: concepts and distractors are not told apart"
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

    directions: NDArray
    skewnesses: NDArray
    errors: NDArray
    other: NDArray

    @classmethod
    def of(cls, half: NDArray, other: NDArray, per_image: int, rng: np.random.Generator) -> _Look:
        directions, _ = skewness_filters(half, half.shape[1], rng)
        directions = directions.astype(np.float32)
        y = _standardised(other @ directions.T)
        skewness = (y * y * y).mean(axis=0)
        skewnesses = np.abs(skewness)
        # what a position adds to the skewness (delta method); positions of an image go together
        influence = (y * y * y - 3.0 * y - 1.5 * skewness * (y * y)).reshape(
            -1, per_image, y.shape[1]
        )
        influence = influence.mean(axis=1)
        errors = influence.std(axis=0) / np.sqrt(len(influence))
        order = np.argsort(-skewnesses)
        return cls(directions[order], skewnesses[order], errors[order], other)

    def let_go(self, half: NDArray, threshold: float) -> tuple[int, int]:
        """How many maxima of skewness there are, and how many directions were none: one-unit ICA.

        It begins at those above the threshold, and where all of these are absent.
        """
        found = self.directions[self.skewnesses > threshold]
        starts = np.concatenate([found, -found.sum(axis=0, keepdims=True)])
        free = nearest_maxima(half, starts)
        wander = int(((free[:-1] * found).sum(axis=1) < SAME).sum())
        y = _standardised(self.other @ free.T)
        skewnesses = (y * y * y).mean(axis=0)
        return distinct_directions(free[skewnesses > threshold]), wander


def _some(activations: NDArray | ActivationShards, count: int, rng: np.random.Generator) -> NDArray:
    """At most ``count`` random images, in random order."""
    chosen = rng.permutation(activations.shape[0])[:count]
    if not isinstance(activations, ActivationShards):
        return activations[chosen]
    read = np.concatenate(list(activations.part(chosen)))  # in rising order
    return read[np.argsort(np.argsort(chosen))]


def _standardised(y: NDArray) -> NDArray:
    y = y - y.mean(axis=0)
    return y / np.maximum(y.std(axis=0), 1e-9)


def _gap(skewnesses: NDArray, errors: NDArray) -> tuple[int, float]:
    """How many sorted skewnesses are above the largest gap, and its middle; 0 where none is."""
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
    number
        I.
    fits
        Fits that ran to their end.
    signal_stability, filter_stability
        Absolute cosine of matched signal vectors and filters, mean over concepts and over every two
        fits, in [0, 1]; NaN with fewer than two fits.
    occupancy_min, occupancy_median
        Over concepts, of the share of positions each is detected on, in units of 1/I.
    dead, duplicates
        Dead concepts; pairs of concepts detected at the same positions. A number per fit.
    sparsity
        L^s at the end as a share of log2 I, its largest value, in [0, 1]: of this size it compares
        across I. NaN where the recipe's last stage does not compute it, and for I = 1.
    objective
        The last stage's weighted sum, of the same weights for every I; terms in bits grow with I.
        Comparable only where all fits used one recipe.
    condition_number
        Of ŴᵀŜ, the largest of all fits.
    seconds
        Of one fit.
    problems
        What the fits warned of, without repetition.
    error
        Why the number has no fit, or fewer than asked for.
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
    numbers
        One entry for each number that was begun, in rising order.
    interrupted
        Whether Ctrl-C ended the scan: later numbers are missing.
    """

    numbers: tuple[ScannedNumber, ...]
    interrupted: bool = False

    def rows(self) -> list[dict]:
        """The entries as plain dictionaries, for a table."""
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
        """Draw a panel for each measure, with the suggested number marked.

        Parameters
        ----------
        count : SkewnessCount, optional
            From `count_skewed_sources`; its skewnesses are drawn beside the scan.
        title : str, default=""
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

    Every fit has a seed of its own and sees a half of the images of its own: a start that does not
    depend on the seed (recipe ``soft``) would agree with itself whatever the number. A number that
    fails has its error in the scan and does not end it; Ctrl-C does, and keeps the fits that are
    complete. What fits warn of is in ``problems`` and is not emitted.

    Parameters
    ----------
    activations, head, recipe, verbose
        As in `learn_pairs`. Of `ActivationShards` the halves read the same files.
    numbers
        Candidates for I.
    seeds
        Fits for each number, with random states ``random_state``, ``random_state + 1``, …; the
        first two halves share no image, nor do the next two, and so on.
    random_state
        Seed; None: another one in every scan.

    Raises
    ------
    TypeError, ValueError
        If there is no number or only one image, a number or ``seeds`` is no positive integer, or
        the activations, the head, the recipe or the seed are of no use to `learn_pairs`.
    """
    if not isinstance(activations, ActivationShards):
        activations = check_activations(activations)
    recipe, candidates = get_recipe(recipe), _candidates(numbers)
    check_integer("seeds", seeds)
    if random_state is not None:
        check_integer("random_state", random_state, minimum=0)
    _check_learnable(activations, head, random_state)
    if random_state is None:
        random_state = int(np.random.default_rng().integers(2**31))
    entries: list[ScannedNumber] = []
    for number in candidates:
        fits: list = []
        error = None
        with KeepOnInterrupt() as block:
            try:
                for seed in range(seeds):
                    half = _half(activations, seed, random_state)
                    settings = {"head": head, "recipe": recipe, "verbose": verbose}
                    fits.append(_timed_fit(half, number, random_state + seed, settings))
            except Exception as exception:  # another number may do
                error = f"{type(exception).__name__}: {exception}"
                logger.warning("%d concepts: %s", number, error)
        entries.append(_compare(number, fits, "interrupted" if block.interrupted else error))
        if block.interrupted:
            break
    return ConceptScan(tuple(entries), block.interrupted)


def _timed_fit(activations, number: int, seed: int, settings: dict) -> tuple:
    """Return pairs, history and seconds of one fit; an interrupted one counts as none."""
    began = time.perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", LearningWarning)
        pairs, history = learn_pairs(activations, number, random_state=seed, **settings)
    if history.interrupted:
        raise KeyboardInterrupt
    return pairs, history, time.perf_counter() - began


def _candidates(numbers: Iterable[int]) -> list[int]:
    """The numbers, each once, in rising order."""
    try:
        candidates = list(numbers)
    except TypeError as error:
        raise TypeError(
            f"numbers must be several numbers of concepts, [8, 10, 12] for one, not {numbers!r}"
        ) from error
    if not candidates:
        raise ValueError("numbers is empty: give the numbers of concepts to compare")
    for number in candidates:
        check_integer("each of numbers", number)
    return sorted(set(candidates))


def _check_learnable(
    activations: NDArray | ActivationShards, head: object, random_state: int | None
) -> None:
    """What every fit would fail with is raised at once, and not written down for every number."""
    check_head(head, activations.shape)
    images = activations.shape[0]
    if images < 2:
        raise ValueError("there is one image only: its halves cannot be compared")
    check_strategy(images // 2, random_state)
    Moments.of(as_features(activations))


def _half(
    activations: NDArray | ActivationShards, seed: int, random_state: int
) -> NDArray | ActivationShards:
    """A half of the images of its own for every seed."""
    order = np.random.default_rng((random_state, seed // 2)).permutation(activations.shape[0])
    images = np.sort(order[seed % 2 :: 2])
    if isinstance(activations, ActivationShards):
        return activations.part(images)
    return activations[images]


def _compare(number: int, fits: list, error: str | None) -> ScannedNumber:
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


def stability_of(directions: list[NDArray]) -> float:
    """Mean `dictionary_stability` of every two; NaN if there are not two."""
    found = [dictionary_stability(first, second) for first, second in combinations(directions, 2)]
    return float(np.mean(found)) if found else float("nan")
