"""How the training of an autoencoder went, and what is wrong with its result."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from xplique_dirpairs.core.batching import iter_blocks
from xplique_dirpairs.learning.history import LearningWarning

#: A larger share of dead concepts is warned of.
_MANY_DEAD = 0.1


@dataclass(frozen=True)
class AutoencoderHistory:
    """Curves with one value per epoch, and the result measured on all positions.

    Attributes
    ----------
    losses
        "objective", "reconstruction" (share of the variance that is lost) and "auxiliary" → means
        over the steps of every epoch.
    l0
        Concepts per position, in every epoch.
    dead_share
        Share of the concepts that had not fired for a whole epoch, at the end of every epoch.
    occupancy : (I,)
        Share of the positions at which each concept fires.
    final_r2
        R² of the reconstruction of all positions.
    cut_short
        Why the training did not run to its end, where it did not: NaN, or Ctrl-C.
    interrupted
        Whether it was Ctrl-C: loops over fits should end, too.
    seconds
        Wall time.
    """

    losses: dict[str, list[float]]
    l0: list[float]
    dead_share: list[float]
    occupancy: NDArray
    final_r2: float
    cut_short: list[str] = field(default_factory=list)
    interrupted: bool = False
    seconds: float = 0.0

    @property
    def r2(self) -> list[float]:
        """R² in every epoch: 0 for the mean of the features, 1 for a perfect reconstruction."""
        return [1.0 - lost for lost in self.losses["reconstruction"]]

    @property
    def final_l0(self) -> float:
        """Concepts per position, over all positions."""
        return float(self.occupancy.sum())

    @property
    def dead(self) -> list[int]:
        """Concepts that fire nowhere."""
        return np.flatnonzero(self.occupancy == 0).tolist()

    def problems(self) -> list[str]:
        """What a user should know before trusting the result, a sentence each; often empty."""
        found = list(self.cut_short)
        if len(self.dead) > _MANY_DEAD * len(self.occupancy):
            found.append(
                f"concepts {self.dead} of {len(self.occupancy)} fire nowhere: fewer may be enough"
            )
        return found

    def warn(self) -> None:
        """Raise one LearningWarning if there are problems."""
        problems = self.problems()
        if problems:
            warnings.warn("; ".join(problems), LearningWarning, stacklevel=3)

    def summary(self) -> str:
        """A few lines for a terminal or a notebook."""
        lines = [
            f"{len(self.l0)} epochs ({self.seconds:.1f} s): R² {self.final_r2:.3f}, "
            f"{self.final_l0:.2f} concepts per position, {len(self.dead)} dead"
        ]
        return "\n".join(lines + [f"look at: {problem}" for problem in self.problems()])


def explained_variance(features: NDArray, reconstruct: Callable[[NDArray], NDArray]) -> float:
    """R² = 1 − Σ_p ‖x_p − x̂_p‖² / Σ_p ‖x_p − E[x]‖², every feature about its own mean.

    Parameters
    ----------
    features : (P, D)
    reconstruct
        x to x̂, (n, D) → (n, D); called in blocks.

    Returns
    -------
    r2
        1 for a perfect reconstruction, 0 for the mean of the features; higher is better.
    """
    mean = features.mean(axis=0, dtype=np.float64)
    lost = total = 0.0
    for block in iter_blocks(features):
        lost += np.square(block - reconstruct(block), dtype=np.float64).sum()
        total += np.square(block - mean).sum()
    return float(1.0 - lost / total)
