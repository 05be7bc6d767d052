"""How many concepts: fits with several numbers, side by side."""

from __future__ import annotations

import logging
import time
import warnings
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from itertools import combinations

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import ArrayLike, NDArray

from xplique_dirpairs.core.validation import check_activations, check_integer
from xplique_dirpairs.data.devices import check_strategy
from xplique_dirpairs.data.shards import ActivationShards
from xplique_dirpairs.learning.coordinates import Moments
from xplique_dirpairs.learning.features import HeldFeatures, StreamedFeatures
from xplique_dirpairs.learning.history import LearningWarning
from xplique_dirpairs.learning.number_of_concepts import SkewnessCount
from xplique_dirpairs.learning.presets import get_recipe
from xplique_dirpairs.learning.recipe import Recipe
from xplique_dirpairs.learning.trainer import learn_pairs
from xplique_dirpairs.metrics.dictionary import dictionary_stability
from xplique_dirpairs.models.head import Head, check_head
from xplique_dirpairs.pairs import WELL_CONDITIONED
from xplique_dirpairs.plots.learning import plot_number_of_concepts

logger = logging.getLogger("xplique_dirpairs")

#: Mean cosine over fits from which concepts count as found again.
_STABLE = 0.98


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
        fits, error, interrupted = [], None, False
        try:
            for seed in range(seeds):
                half = _half(activations, seed, random_state)
                began = time.perf_counter()
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore", LearningWarning)
                    pairs, history = learn_pairs(
                        half, number,
                        head=head, recipe=recipe, random_state=random_state + seed, verbose=verbose,
                    )  # fmt: skip
                if history.interrupted:
                    raise KeyboardInterrupt
                fits.append((pairs, history, time.perf_counter() - began))
        except KeyboardInterrupt:
            interrupted, error = True, "interrupted"
        except Exception as exception:  # whatever one number meets, the others are worth having
            error = f"{type(exception).__name__}: {exception}"
            logger.warning("%d concepts: %s", number, error)
        entries.append(_compare(number, fits, error))
        if interrupted:
            break
    return ConceptScan(tuple(entries), interrupted)


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
    if isinstance(activations, ActivationShards):
        Moments.of(StreamedFeatures(activations))
    else:
        Moments.of(HeldFeatures(activations))


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
        _stability([pairs.signals for pairs, _, _ in fits]),
        _stability([pairs.filters for pairs, _, _ in fits]),
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


def _stability(directions: list[NDArray]) -> float:
    """Mean `dictionary_stability` of every two; NaN if there are not two."""
    found = [dictionary_stability(first, second) for first, second in combinations(directions, 2)]
    return float(np.mean(found)) if found else float("nan")
