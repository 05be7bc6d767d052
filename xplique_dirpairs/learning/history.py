"""How a fit went."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class History:
    """What was learned in which stage, and what is wrong with the result.

    Attributes
    ----------
    stages
        Stage name → name of a loss or constraint → its value after every epoch.
    violations
        Name of a constraint → by how much the result breaks it (only those that are broken).
    occupancy : (I,)
        Share of the positions on which each concept is detected.
    dead
        Concepts that are (almost) never detected.
    duplicates
        Pairs of concepts that are detected at the same positions.
    notes
        In words: what was decided on the way, and what a user should know.
    seconds
        Stage name → wall time.
    """

    stages: dict[str, dict[str, list[float]]] = field(default_factory=dict)
    violations: dict[str, float] = field(default_factory=dict)
    occupancy: NDArray = field(default_factory=lambda: np.zeros(0))
    dead: list[int] = field(default_factory=list)
    duplicates: list[tuple[int, int]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)
