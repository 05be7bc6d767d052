"""The history of a fit and the problems of its result."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np

from xplique_dirpairs.core.types import Array
from xplique_dirpairs.pairs import WELL_CONDITIONED, DirectionPairs

#: A concept detected on less than this fraction of its fair share 1/I counts as dead.
_DEAD = 0.02
#: Two concepts whose detections overlap by more than this IoU count as duplicates.
_DUPLICATE = 0.8
#: Number of concepts, or of pairs of them, that a problem lists.
_LISTED = 20

#: Detections per learned axis below which a sharp detector overfits its positions [measured: the
#: IoU on new data is .97 with 20 detections per axis, .91 with 11, .87 with 6].
_DETECTIONS_PER_AXIS = 10
#: Noise along a filter, in standard deviations of the features, from which it blurs thresholds
#: [measured: rounding at .01 costs no IoU, .13 costs .1].
_BLURS = 0.03
#: Correlation of projections from which concepts of two restarts count as the same.
_COMES_BACK = 0.9


#: What the stages and losses in the lines of `History.summary` are, for the pages that show them.
ABOUT_STAGES = (
    "Stages have the letters of the paper: a learns the filters, d refines them. Their numbers are "
    "losses, lower is better: s (few concepts at a position), ma (at least one), ic and eac (no "
    "concept too rare, none too frequent)."
)
#: First words of the doubt that there are more concepts than dimensions.
MORE_THAN_DIMENSIONS = "features vary in"


class LearningWarning(UserWarning):
    """Warning that a fit ended with problems, such as dead concepts or a broken constraint.

    The message lists the problems. `learn_pairs` issues it for what `History.problems` returns, and
    the sparse autoencoders (`TopKFactorizer` and others) for problems of their training.
    """


@dataclass(frozen=True)
class History:
    """The course of a fit of I concepts, stage by stage, and the problems of its result.

    `learn_pairs` returns it; ``print(history.summary())`` shows the most important parts. Losses
    have the names of the paper (Doumanoglou et al., arXiv 2509.23926) without the L: "s" is the
    sparsity loss L^s, "ic" the loss L^ic of concepts that are detected too rarely, and so on.

    Attributes
    ----------
    recipe : str
        Name of the recipe of the result. ``notes`` tell whether and why the fit changed to it.
    stages : dict of str to dict of str to list of float
        By name of the stage and of the loss: the loss in every epoch, of the restart that was kept.
        "objective" is the weighted sum of the losses, with the penalties of constraints.
    violations : dict of str to dict of str to float
        By name of the stage and of the loss: by how much a constrained loss exceeds its bound at
        the end of the stage. Losses that exceed it by at most 1 % are left out.
    occupancy : ndarray of shape (I,)
        Share of the positions on which each concept is detected, in [0, 1].
    dead : list of int
        Concepts that are detected on less than 0.02/I of the positions.
    duplicates : list of tuple of (int, int)
        Pairs of concepts whose detections have an intersection over union above 0.8.
    condition_number : float
        Condition number of the (I, I) matrix of scalar products of unit filters and signal vectors,
        at least 1. Above 30, switching one concept off changes others a little.
    surplus : list of int, default=[]
        Concepts, other than dead ones, that are detected on less than 1.5 τ/I of the positions,
        where τ/I is the activity that the loss L^ic demands of every concept. They stand for
        nothing in the data. Always empty for recipes without an ``otherwise``, such as "soft".
    missing : list of int, default=[]
        Concepts that were not found again in any other restart (fit from other initial filters);
        empty with fewer than three restarts.
    cut_short : list of str, default=[]
        Sentences that name the stages that did not run to their end, and why: NaN or Ctrl-C.
    doubts : list of str, default=[]
        Reasons why detections and signal vectors may be unreliable, such as outlier images, or
        features that do not follow the paper's model of signals and distractors.
    interrupted : bool, default=False
        Whether Ctrl-C ended the fit, so that a loop over fits should end, too.
    notes : list of str, default=[]
        Decisions that were taken during the fit, such as a change to another recipe.
    seconds : dict of str to float, default={}
        Name of a stage → its wall time in seconds.
    restarts : list of float, default=[]
        For each restart that was learned to the end, its final objective plus ten times its
        violations of constraints. The pairs are those of the restart with the smallest value.
    """

    recipe: str
    stages: dict[str, dict[str, list[float]]]
    violations: dict[str, dict[str, float]]
    occupancy: Array
    dead: list[int]
    duplicates: list[tuple[int, int]]
    condition_number: float
    surplus: list[int] = field(default_factory=list)
    missing: list[int] = field(default_factory=list)
    cut_short: list[str] = field(default_factory=list)
    doubts: list[str] = field(default_factory=list)
    interrupted: bool = False
    notes: list[str] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)
    restarts: list[float] = field(default_factory=list)

    def problems(self) -> list[str]:
        """Return the problems of the result in words, an empty list if there are none.

        Returns
        -------
        problems : list of str
            A sentence for each stage that was cut short, each doubt, each bound that the last stage
            violates, and for the dead, duplicate, surplus and missing concepts, for concepts that
            are detected on more than half of the positions, and for a condition number above 30.
        """
        messages = [*self.cut_short, *self.doubts]
        if self.dead:
            messages.append(f"hardly ever detected: {_named(self.dead)}; fewer may be enough")
        if self.duplicates:
            pairs = _listed([f"{i} and {j}" for i, j in self.duplicates])
            messages.append(f"detected at the same positions: concepts {pairs}")
        if self.surplus:
            messages.append(
                f"detected hardly more often than the learning demands of every concept: "
                f"{_named(self.surplus)}; there are fewer concepts, and these signal vectors mean "
                "nothing"
            )
        if self.missing:
            messages.append(f"not found again in any other restart: {_named(self.missing)}")
        last = list(self.violations.values())[-1] if self.violations else {}
        for name, excess in last.items():
            messages.append(f"the bound on L^{name} is exceeded by {excess:.3g}")
        crowded = np.flatnonzero(self.occupancy > 0.5)
        if crowded.size and len(self.occupancy) > 2:
            messages.append(f"detected on most of the positions: {_named(crowded)}")
        is_explained = any(doubt.startswith(MORE_THAN_DIMENSIONS) for doubt in self.doubts)
        if self.condition_number > WELL_CONDITIONED and not is_explained:
            messages.append(
                f"filters and signal vectors are ill-conditioned ({self.condition_number:.3g}, "
                f"above {WELL_CONDITIONED:.0f}): a regularised inverse is used, and switching one "
                "concept off changes others a little. Too few or too many concepts can cause this: "
                "compare with half and with twice as many"
            )
        return messages

    def summary(self) -> str:
        """Return the history as a few lines of text, for a terminal or a notebook.

        The lines hold the duration and final losses of each stage, the smallest and the largest
        occupancy, the condition number, the notes and the problems.

        Returns
        -------
        summary : str
            Lines separated by newline characters.
        """
        lines = []
        for name, losses in self.stages.items():
            values = ", ".join(f"{loss} {values[-1]:.3g}" for loss, values in losses.items())
            lines.append(f"stage {name} ({self.seconds.get(name, 0.0):.1f} s): {values}")
        lines.append(
            f"detected on {self.occupancy.min():.1%} to {self.occupancy.max():.1%} of positions; "
            f"condition number {self.condition_number:.1f}"
        )
        lines += [f"note: {note}" for note in self.notes]
        lines += [f"problem: {problem}" for problem in self.problems()]
        return "\n".join(lines)


def find_problems(
    pairs: DirectionPairs, occupancy: Array, overlaps: Array
) -> tuple[list[int], list[tuple[int, int]]]:
    """Return the dead concepts and the pairs of duplicate concepts.

    Parameters
    ----------
    pairs : DirectionPairs
        Pairs of I concepts.
    occupancy : ndarray of shape (I,)
        Share of the positions on which each concept is detected.
    overlaps : ndarray of shape (I, I)
        IoU of the detections of every two concepts.

    Returns
    -------
    dead : list of int
    duplicates : list of tuple of (int, int)
    """
    concepts = pairs.number_of_concepts
    dead = np.flatnonzero(occupancy < _DEAD / concepts).tolist()
    first, second = np.nonzero(np.triu(overlaps > _DUPLICATE, 1))
    return dead, list(zip(first.tolist(), second.tolist(), strict=True))


def find_doubts(entropy: float | None, noise: float, axes: int, detections: Array) -> list[str]:
    """Return the reasons why sharp detectors may be unreliable, as sentences.

    Parameters
    ----------
    entropy : float or None
        Final L^s in bits if it is too high, None otherwise.
    noise : float
        Standard deviation of the noise along a filter, in whitened units.
    axes : int
        Number A of axes of the learned coordinates.
    detections : ndarray of shape (I,)
        Number of positions on which each concept is detected.

    Returns
    -------
    doubts : list of str
    """
    messages = []
    if entropy is not None:
        messages.append(
            "positions carry several concepts, rare ones, noise, or more or fewer concepts than "
            f"requested (L^s {entropy:.2f} bits): thresholds do not mark where a concept begins"
        )
    if noise > _BLURS:
        messages.append(
            "noise blurs where concepts begin (its standard deviation along a filter is "
            f"{noise:.2f} of the features'): detections near thresholds are unreliable"
        )
    enough = _DETECTIONS_PER_AXIS * axes
    rare = int((detections < enough).sum())
    if rare:
        messages.append(
            f"{rare} of {len(detections)} concepts are detected on fewer than {enough} positions, "
            f"{_DETECTIONS_PER_AXIS} for each axis along which features vary: detections on other "
            "images are less reliable than on these"
        )
    return messages


def share_of_returns(filters: Array, best: int, covariance: Array) -> Array:
    """Return the share of the other restarts in which each concept is found again.

    A concept is found again in a restart if its projections correlate by at least 0.9 with those on
    one of the restart's concepts.

    Parameters
    ----------
    filters : ndarray of shape (R, I, D)
        Filters of all restarts.
    best : int
        Index of the restart whose concepts are searched for in the others.
    covariance : ndarray of shape (D, D)
        Covariance of the features.

    Returns
    -------
    recurrence : ndarray of shape (I,)
    """
    cross = np.einsum("id,de,rje->rij", filters[best], covariance, filters, optimize=True)
    variances = np.einsum("rid,de,rie->ri", filters, covariance, filters, optimize=True)
    correlations = cross / np.sqrt(variances[best][None, :, None] * variances[:, None, :])
    others = np.delete(correlations.max(axis=2) >= _COMES_BACK, best, axis=0)
    return np.asarray(others.mean(axis=0))


def _named(concepts: Iterable[int]) -> str:
    """Return concepts by their numbers, as text."""
    numbers = [str(int(i)) for i in concepts]
    return f"concept{'s' if len(numbers) > 1 else ''} {_listed(numbers)}"


def _listed(texts: list[str]) -> str:
    """Return texts in a list that says how many more there are."""
    more = len(texts) - _LISTED
    return ", ".join(texts[:_LISTED]) + (f" and {more} more" if more > 0 else "")
