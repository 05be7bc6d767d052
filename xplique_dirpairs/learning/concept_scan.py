"""Choose the number of concepts by fits with several numbers."""

from __future__ import annotations

import logging
import time
import warnings
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import ArrayLike

from xplique_dirpairs.core.progress import KeepOnInterrupt
from xplique_dirpairs.core.validation import check_integer, check_type
from xplique_dirpairs.data.devices import check_strategy
from xplique_dirpairs.data.shards import ActivationShards
from xplique_dirpairs.learning.coordinates import Moments
from xplique_dirpairs.learning.features import Features, as_features
from xplique_dirpairs.learning.history import History, LearningWarning
from xplique_dirpairs.learning.learner import learn_pairs
from xplique_dirpairs.learning.number_of_concepts import SkewnessCount
from xplique_dirpairs.learning.presets import get_recipe
from xplique_dirpairs.learning.recipe import Recipe
from xplique_dirpairs.metrics.dictionary import stability_of
from xplique_dirpairs.models.head import Head, check_head
from xplique_dirpairs.pairs import WELL_CONDITIONED, DirectionPairs
from xplique_dirpairs.plots.learning import plot_number_of_concepts

logger = logging.getLogger("xplique_dirpairs")

#: Mean cosine between fits from which concepts count as found again.
_STABLE = 0.98


@dataclass(frozen=True)
class ScannedNumber:
    """Measures of the fits with one number I of concepts, averaged over the fits.

    Attributes
    ----------
    number : int
        Number of concepts I.
    fits : int, default=0
        Number of fits that ran to their end.
    signal_stability : float, default=nan
        How well signal vectors come back: the absolute cosine of the signal vectors of two fits,
        whose concepts are matched one to one, averaged over concepts and pairs of fits. In [0, 1];
        NaN with fewer than two fits.
    filter_stability : float, default=nan
        The same for filters in place of signal vectors.
    occupancy_min : float, default=nan
        Smallest share of positions on which a concept is detected, in units of 1/I.
    occupancy_median : float, default=nan
        Median of these shares over concepts, in units of 1/I.
    dead : float, default=nan
        Number of concepts that are hardly ever detected, on less than 0.02/I of the positions.
    duplicates : float, default=nan
        Number of pairs of concepts that are detected at the same positions (IoU above 0.8).
    sparsity : float, default=nan
        Final sparsity loss L^s, the mean entropy of the detections at a position in bits, divided
        by its largest value log2 I, so that it can be compared across I. NaN if the recipe's last
        stage does not compute L^s, and for I = 1.
    objective : float, default=nan
        Final objective of the last stage, the weighted sum of its losses. It grows with I, because
        some losses are entropies of up to log2 I bits, and is not comparable across I.
    condition_number : float, default=nan
        Condition number of the (I, I) matrix of scalar products of unit filters and signal vectors,
        the largest of all fits.
    seconds : float, default=nan
        Mean wall time of a fit in seconds.
    problems : tuple of str, default=()
        What `History.problems` returned for the fits, without repetitions.
    error : str, optional
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
        """Whether all fits ended and found the same, distinct concepts that are really detected.

        True if both stabilities are at least 0.98, no concept is dead or a duplicate in any fit,
        the condition number is at most 30, and no fit is missing.
        """
        return (
            min(self.signal_stability, self.filter_stability) >= _STABLE
            and self.dead == self.duplicates == 0
            and self.condition_number <= WELL_CONDITIONED
            and not self.error
        )


@dataclass(frozen=True)
class ConceptScan:
    """Comparison of fits with several numbers of concepts: the result of a scan.

    Attributes
    ----------
    numbers : tuple of ScannedNumber
        One entry for each number, in increasing order.
    interrupted : bool, default=False
        Whether Ctrl-C ended the scan, so that later numbers are missing.
    """

    numbers: tuple[ScannedNumber, ...]
    interrupted: bool = False

    def rows(self) -> list[dict[str, Any]]:
        """Return the measures as dictionaries, for a table.

        Returns
        -------
        rows : list of dict
            For each number of concepts, name of an attribute of `ScannedNumber` → its value.
        """
        return [asdict(entry) for entry in self.numbers]

    @property
    def suggested(self) -> int | None:
        """The largest sound number if a larger one was tried and is not sound, None otherwise.

        A number is sound if all fits with it find the same, distinct concepts that are really
        detected (`ScannedNumber.is_sound`).
        """
        return self._suggestion()[0]

    @property
    def reason(self) -> str:
        """Explanation of the suggested number, or of why there is none."""
        return self._suggestion()[1]

    def plot(self, count: SkewnessCount | None = None, title: str = "") -> Figure:
        """Plot each measure over the number of concepts, one panel for each.

        Parameters
        ----------
        count : SkewnessCount, optional
            Result of `count_skewed_sources`, whose skewnesses are plotted in another panel. None:
            there is no such panel.
        title : str, default=""
            Title above the suggested number.

        Returns
        -------
        figure : matplotlib.figure.Figure
            The figure, which is not shown.
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
    """Learn direction pairs with several numbers of concepts, and compare the fits.

    For each number, pairs are learned ``seeds`` times with `learn_pairs`, every time with another
    seed and on one half of the images: fits 0 and 1 on the two halves of one random split, fits 2
    and 3 on those of another, and so on. (The "soft" recipe does not depend on the seed, so that
    fits of the same images would agree whatever the number.) With the right number, different fits
    should find the same concepts. If a fit fails, the error is recorded and the scan continues with
    the next number. Ctrl-C ends the scan and keeps complete fits.

    Parameters
    ----------
    activations : array-like of shape (N, H, W, D), (N, T, D) or (N, D), or ActivationShards
        Activations of N images, at least two, with D channels: maps of H × W positions, T tokens,
        or vectors.
    numbers : iterable of int
        Candidates for the number of concepts I.
    head : Head, optional
        The rest of the network, from the layer to the class scores. None: the terms of the
        objective that evaluate the network are left out.
    recipe : str or Recipe, default="default"
        How pairs are learned: the ``recipe`` of `learn_pairs`.
    seeds : int, default=2
        Number of fits for each number. With 1 there is nothing to compare.
    random_state : int or None, default=0
        Seed of the first fit with each number; the following fits have ``random_state + 1``, ….
        None draws a seed.
    verbose : int, default=1
        0 is silent, 1 shows a progress bar for each stage of every fit.

    Returns
    -------
    scan : ConceptScan
        ``scan.suggested`` is the largest number with which all fits find the same concepts, or
        None; ``scan.reason`` explains it, ``scan.plot()`` draws the measures, and ``scan.rows()``
        returns them.

    Raises
    ------
    TypeError, ValueError
        If ``numbers`` is empty or not positive integers, if there is only one image, or if
        activations, head, recipe or another argument are invalid for any number of concepts.
    """
    features, recipe = as_features(activations), get_recipe(recipe)
    check_type("numbers", numbers, Iterable, "a list of numbers of concepts, such as [8, 10, 12]")
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
