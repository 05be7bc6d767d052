"""What `explain_prediction` finds: values with tables, pictures and plain data."""

from __future__ import annotations

from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from xplique_dirpairs.core.tables import Table
from xplique_dirpairs.core.validation import check_integer
from xplique_dirpairs.data.crops import concept_maps
from xplique_dirpairs.explanations.explanation_tables import comparison_table, prediction_table
from xplique_dirpairs.plots.images import as_picture
from xplique_dirpairs.plots.palette import Color, concept_colors
from xplique_dirpairs.plots.prediction import (
    ComparisonRow,
    PredictionRow,
    plot_prediction,
    plot_two_predictions,
    plot_waterfall,
)

#: A gap from here on, in logits, has a bar of its own.
VISIBLE_GAP = 5e-3
_GREY = (0.35, 0.35, 0.35)


@dataclass(frozen=True, eq=False)
class PredictionExplanation:
    """A class score of one image, shared out over positions and I concepts.

    Attributes
    ----------
    image : (height, width, C)
    class_id, class_name
    against, against_name
        The class whose logit is taken off; None for none.
    probability : float
        Of the class.
    likeliest
        (name, probability) of the likeliest classes.
    score : float
        The logit, or the difference of the two.
    residual : float
        The score with every concept off; the bias is part of it.
    contributions : (*S, I) float64
        What each concept adds to the score at each position, signed. The *contribution maps*.
    presence : (*S, I)
        Coefficients where the concept is detected, 0 elsewhere. The *presence maps*.
    concept_names
    steps : int
        Gradients taken along the path; 0 where the contributions are exact.
    crops
        For each concept some crops, or None.
    """

    image: NDArray
    class_id: int
    class_name: str
    against: int | None
    against_name: str | None
    probability: float
    likeliest: tuple[tuple[str, float], ...]
    score: float
    residual: float
    contributions: NDArray
    presence: NDArray
    concept_names: tuple[str, ...]
    steps: int
    crops: tuple[NDArray, ...] | None

    def __post_init__(self) -> None:
        for name in ("contributions", "presence"):
            getattr(self, name).setflags(write=False)

    def __repr__(self) -> str:
        return f"PredictionExplanation({self.score_name} {self.score:.2f})"

    @property
    def gap(self) -> float:
        """score − residual − Σ contributions: rounding, or what integration misses."""
        return self.score - self.residual - float(self.contributions.sum())

    @property
    def concept_contributions(self) -> NDArray:
        """(I,): contributions over all positions."""
        return self.contributions.reshape(-1, len(self.concept_names)).sum(axis=0)

    @property
    def contribution_maps(self) -> NDArray:
        """(H, W, I): contributions over the image (a class token has no place in it)."""
        return concept_maps(self.contributions[None], self.image.shape)[0]

    @property
    def presence_maps(self) -> NDArray:
        """(H, W, I): presence over the image."""
        return concept_maps(self.presence[None], self.image.shape)[0]

    @property
    def score_name(self) -> str:
        """What the score is, in words."""
        name = self.class_name.replace("_", " ")
        if self.against_name is None:
            return f"logit of {name}"
        return f"logit of {name} − {self.against_name.replace('_', ' ')}"

    @cached_property
    def ranked(self) -> NDArray:
        """Concepts by the size of their contribution, largest first."""
        return np.argsort(-np.abs(self.concept_contributions), kind="stable")

    @property
    def colors(self) -> list[Color]:
        """One for each concept, by its number, so that all images have the same."""
        return concept_colors(len(self.concept_names))

    # ---------------------------------------------------------------- tables, pictures, data

    def table(self, count: int = 10) -> Table:
        """Concepts by contribution, then the others, the residual, the gap and the score."""
        check_integer("count", count)
        return prediction_table(self, self.ranked[:count])

    def plot(self, count: int = 5, nb_crops: int = 3) -> Figure:
        """The image, its strongest concepts (what, where, how much), and the waterfall."""
        check_integer("count", count)
        maps, presence = self.contribution_maps, self.presence_maps
        shown = [int(i) for i in self.ranked[:count]]
        rows = [
            PredictionRow(
                self.concept_names[i], self.colors[i], float(self.concept_contributions[i]),
                None if self.crops is None else self.crops[i], presence[..., i], maps[..., i],
            )
            for i in shown
        ]  # fmt: skip
        return plot_prediction(
            as_picture(self.image), self.likeliest, self.score_name, self.score,
            rows + self._rest(shown), nb_crops,
        )  # fmt: skip

    def plot_waterfall(self, count: int = 12) -> Figure:
        """From the residual's share to the score, concept by concept."""
        check_integer("count", count)
        shown = [int(i) for i in self.ranked[:count]]
        rows = [
            PredictionRow(
                self.concept_names[i], self.colors[i], float(self.concept_contributions[i])
            )
            for i in shown
        ]
        return plot_waterfall(self.score_name, self.score, rows + self._rest(shown))

    def to_dict(self) -> dict[str, Any]:
        """Everything as a dictionary of numbers, strings and arrays, for reports."""
        found = {field.name: getattr(self, field.name) for field in fields(self)}
        return found | {
            "gap": self.gap,
            "score_name": self.score_name,
            "concept_contributions": self.concept_contributions,
            "contribution_maps": self.contribution_maps,
            "presence_maps": self.presence_maps,
        }

    def _rest(self, shown: list[int]) -> list[PredictionRow]:
        """Rows below the concepts: all others, the gap if it can be seen, the residual."""
        others = np.delete(self.concept_contributions, shown)
        rows = []
        if len(others):
            rows.append(PredictionRow(f"{len(others)} others", _GREY, float(others.sum())))
        if abs(self.gap) >= VISIBLE_GAP:
            rows.append(PredictionRow("gap", _GREY, self.gap))
        rows.append(PredictionRow("residual", _GREY, self.residual))
        return rows


@dataclass(frozen=True, eq=False)
class PredictionComparison:
    """What makes a class score higher in a first image than in a second.

    Attributes
    ----------
    first, second : PredictionExplanation
    """

    first: PredictionExplanation
    second: PredictionExplanation

    def __repr__(self) -> str:
        one, other = self.first, self.second
        return f"PredictionComparison({one.score_name}: {one.score:.2f} and {other.score:.2f})"

    @property
    def differences(self) -> NDArray:
        """(I,): contributions of the first minus those of the second."""
        return self.first.concept_contributions - self.second.concept_contributions

    @property
    def residual(self) -> float:
        """Of the first minus that of the second; `differences`, this and `gap` sum to `score`."""
        return self.first.residual - self.second.residual

    @property
    def gap(self) -> float:
        return self.first.gap - self.second.gap

    @property
    def score(self) -> float:
        """Score of the first minus that of the second."""
        return self.first.score - self.second.score

    @cached_property
    def ranked(self) -> NDArray:
        """Concepts by the size of the difference, largest first."""
        return np.argsort(-np.abs(self.differences), kind="stable")

    def table(self, count: int = 10) -> Table:
        """Concepts by difference, then the others, the residual and the score."""
        check_integer("count", count)
        return comparison_table(self, self.ranked[:count])

    def plot(self, count: int = 5, nb_crops: int = 3) -> Figure:
        """Both images with the concepts in which they differ most."""
        check_integer("count", count)
        one, other = self.first, self.second
        maps = [explained.contribution_maps for explained in (one, other)]
        shares = [explained.concept_contributions for explained in (one, other)]
        shown = [int(i) for i in self.ranked[:count]]
        rows = [
            ComparisonRow(
                one.concept_names[i], one.colors[i],
                (float(shares[0][i]), float(shares[1][i])),
                None if one.crops is None else one.crops[i],
                (maps[0][..., i], maps[1][..., i]),
            )
            for i in shown
        ]  # fmt: skip
        rest = [float(np.delete(values, shown).sum()) for values in shares]
        if len(shares[0]) > len(shown):
            number = len(shares[0]) - len(shown)
            rows.append(ComparisonRow(f"{number} others", _GREY, (rest[0], rest[1])))
        rows.append(ComparisonRow("residual", _GREY, (one.residual, other.residual)))
        return plot_two_predictions(
            (as_picture(one.image), as_picture(other.image)),
            one.score_name,
            (one.score, other.score),
            (one.likeliest[0], other.likeliest[0]),
            rows,
            nb_crops,
        )

    def to_dict(self) -> dict[str, Any]:
        """Both explanations, and the differences, as plain data."""
        return {
            "first": self.first.to_dict(),
            "second": self.second.to_dict(),
            "differences": self.differences,
            "residual": self.residual,
            "gap": self.gap,
            "score": self.score,
        }
