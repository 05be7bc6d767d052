"""The history of a fit, and problems of its result."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from xplique_dirpairs.core.types import Array
from xplique_dirpairs.pairs import WELL_CONDITIONED, DirectionPairs

#: A concept detected on less than this share of its fair share 1/I counts as dead.
_DEAD = 0.02
#: Two concepts whose detections overlap by more than this IoU count as duplicates.
_DUPLICATE = 0.8

#: Detections per axis below which a sharp detector fits its own positions [measured: fresh data
#: has an IoU of .97 at 20 of them, .91 at 11, .87 at 6].
_DETECTIONS_PER_AXIS = 10
#: Noise along a filter, in deviations of the features, from which it blurs thresholds [measured:
#: rounding at .01 costs nothing, .13 costs .1 of IoU].
_BLURS = 0.03
#: Correlation of projections from which a concept of another restart is the same one.
_COMES_BACK = 0.9


#: How the doubt begins that there are more concepts than dimensions.
MORE_THAN_DIMENSIONS = "features vary in"


class LearningWarning(UserWarning):
    """What was learned needs a look: dead or duplicate concepts, a broken constraint, …"""


@dataclass(frozen=True)
class History:
    """What was learned in which stage, and problems of the result.

    Attributes
    ----------
    recipe : str
        Name of the recipe that was used in the end.
    stages : dict of str to dict
        Stage name → name of a loss, or "objective" → its value in every epoch, of the restart
        that was kept.
    violations : dict
        Stage name → name of a constrained loss → by how much its bound is broken at the stage's
        end (only those that are, by more than a hundredth).
    occupancy : ndarray of shape (I,)
        Share of the positions on which each concept is detected.
    dead : list of int
        Concepts that are hardly ever detected.
    duplicates : list of tuple of int
        Pairs of concepts that are detected at the same positions.
    surplus : list of int
        Concepts that are detected hardly more often than L^ic demands: they stand for nothing.
    missing : list of int
        Concepts that came back in none of at least two other restarts.
    condition_number : float
        Of ŴᵀŜ; see `DirectionPairs.condition_number`.
    cut_short : list of str
        Stages that did not run to their end, and why: NaN, or Ctrl-C.
    doubts : list of str
        Why detections and signal vectors are less sure than where the model of signals and
        distractors holds, in words.
    interrupted : bool
        Whether it was Ctrl-C: loops over fits should end, too.
    notes : list of str
        In words: what was decided on the way.
    seconds : dict of str to float
        Stage name → wall time.
    restarts : (R,)
        The objective, plus ten times every violation, of all restarts that were learned to the end;
        the pairs are those of the least.
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
        """Return what to know before trusting the result, one sentence each; often empty."""
        messages = [*self.cut_short, *self.doubts]
        if self.dead:
            messages.append(f"concepts {self.dead} are hardly ever detected: fewer may be enough")
        if self.duplicates:
            messages.append(f"concepts {self.duplicates} are detected at the same positions")
        if self.surplus:
            messages.append(
                f"concepts {self.surplus} are detected hardly more often than the learning demands "
                "of every concept: there are fewer concepts, and these signal vectors mean nothing"
            )
        if self.missing:
            messages.append(f"concepts {self.missing} came back in none of the other starts")
        last = list(self.violations.values())[-1] if self.violations else {}
        for name, excess in last.items():
            messages.append(f"the bound on L^{name} is broken by {excess:.3g}")
        crowded = np.flatnonzero(self.occupancy > 0.5)
        if crowded.size and len(self.occupancy) > 2:
            messages.append(
                f"concepts {crowded.tolist()} are detected on more than half of all cells"
            )
        is_explained = any(doubt.startswith(MORE_THAN_DIMENSIONS) for doubt in self.doubts)
        if self.condition_number > WELL_CONDITIONED and not is_explained:
            messages.append(
                f"filters and signal vectors are ill-conditioned ({self.condition_number:.3g}, "
                f"above {WELL_CONDITIONED:.0f}): a regularised inverse is used, and switching one "
                "concept off moves others a little. Too few or too many concepts do that"
            )
        return messages

    def summary(self) -> str:
        """Return a few lines for a terminal or a notebook."""
        lines = []
        for name, losses in self.stages.items():
            values = ", ".join(f"{loss} {values[-1]:.3g}" for loss, values in losses.items())
            lines.append(f"stage {name} ({self.seconds.get(name, 0.0):.1f} s): {values}")
        lines.append(
            f"detected on {self.occupancy.min():.1%} to {self.occupancy.max():.1%} of positions; "
            f"condition number {self.condition_number:.1f}"
        )
        lines += [f"note: {note}" for note in self.notes]
        lines += [f"look at: {problem}" for problem in self.problems()]
        return "\n".join(lines)


def find_problems(
    pairs: DirectionPairs, occupancy: Array, overlaps: Array
) -> tuple[list[int], list[tuple[int, int]]]:
    """Return dead concepts and duplicate pairs of concepts.

    Parameters
    ----------
    occupancy : ndarray of shape (I,)
    overlaps : ndarray of shape (I, I)
        IoU of the detections of every two concepts.
    """
    concepts = pairs.number_of_concepts
    dead = np.flatnonzero(occupancy < _DEAD / concepts).tolist()
    first, second = np.nonzero(np.triu(overlaps > _DUPLICATE, 1))
    return dead, list(zip(first.tolist(), second.tolist(), strict=True))


def find_doubts(entropy: float | None, noise: float, axes: int, detections: Array) -> list[str]:
    """Return why sharp detectors and their signal vectors are less sure than they look, in words.

    Parameters
    ----------
    entropy : float or None
        L^s at the end, in bits, where it is too high; None elsewhere.
    noise : float
        Standard deviation along a filter of what the floor of noise adds, in whitened units.
    axes : int
        A.
    detections : ndarray of shape (I,)
        On how many positions each concept is detected.
    """
    messages = []
    if entropy is not None:
        messages.append(
            "positions carry several concepts, rare ones, noise, or more or fewer concepts than "
            f"asked for (L^s {entropy:.2f} bits): thresholds are not where a concept begins"
        )
    if noise > _BLURS:
        messages.append(
            "noise blurs where concepts begin (its deviation along a filter is "
            f"{noise:.2f} of the features'): detections near thresholds are not sure"
        )
    enough = _DETECTIONS_PER_AXIS * axes
    rare = int((detections < enough).sum())
    if rare:
        messages.append(
            f"{rare} of {len(detections)} concepts are detected on fewer than {enough} positions, "
            f"{_DETECTIONS_PER_AXIS} for each axis along which features vary: detections on other "
            "images are less sure than on these"
        )
    return messages


def share_of_returns(filters: Array, best: int, covariance: Array) -> Array:
    """Return the share of the other restarts in which each concept comes back, (I,).

    It does where projections on some concept correlate with its own by 0.9 or more.

    Parameters
    ----------
    filters : ndarray of shape (R, I, D)
    best : int
        The restart whose concepts are looked for in the others.
    covariance : ndarray of shape (D, D)
        Of the features.
    """
    cross = np.einsum("id,de,rje->rij", filters[best], covariance, filters, optimize=True)
    variances = np.einsum("rid,de,rie->ri", filters, covariance, filters, optimize=True)
    correlations = cross / np.sqrt(variances[best][None, :, None] * variances[:, None, :])
    others = np.delete(correlations.max(axis=2) >= _COMES_BACK, best, axis=0)
    return np.asarray(others.mean(axis=0))
