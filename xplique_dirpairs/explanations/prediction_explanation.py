"""Results of `explain_prediction` and `compare_predictions`, as tables, figures and plain data."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from xplique_dirpairs.core.batching import as_positions
from xplique_dirpairs.core.tables import Cell, Table
from xplique_dirpairs.core.types import Array
from xplique_dirpairs.core.validation import check_integer
from xplique_dirpairs.data.images import concept_maps, stills
from xplique_dirpairs.explanations.contributions import parts_of_score
from xplique_dirpairs.plots.images import as_picture
from xplique_dirpairs.plots.palette import GREY, Color, concept_colors
from xplique_dirpairs.plots.prediction import (
    MOST_BARS,
    MOST_WITH_MAPS,
    ComparisonRow,
    PredictionRow,
    plot_prediction,
    plot_two_predictions,
    plot_waterfall,
)
from xplique_dirpairs.plots.video_pictures import plot_over_time

#: Smallest gap, in logits, that has a bar of its own.
_VISIBLE_GAP = 5e-3
#: Largest number of concepts with a curve over time: more cannot be told apart.
_MOST_CURVES = 8


@dataclass(frozen=True, eq=False)
class PredictionExplanation:
    """The score of a class in one image (in logits), divided over positions and I concepts.

    ``*spatial`` is (H, W) at a layer of feature maps, (T,) for T tokens, and empty for vectors.

    Attributes
    ----------
    image : ndarray of shape (height, width, channels) or (T, height, width, channels)
        The image, or video of T frames, as the network takes it.
    class_id : int
        Index of the explained class.
    class_name : str
        Name of the explained class.
    against : int or None
        Index of the class whose logit is subtracted; None: the score is a single logit.
    against_name : str or None
        Name of the class whose logit is subtracted; None: the score is a single logit.
    probability : float
        Probability of the explained class in the image.
    likeliest : tuple of (str, float)
        Names and probabilities of the (up to 5) likeliest classes, likeliest first.
    score : float
        The logit of the class, or the difference of the two logits.
    residual : float
        The score with the coefficients of all concepts set to 0; it includes the class's bias.
    contributions : ndarray of shape (*spatial, I), float64
        Signed contribution of each concept to the score at each position, in logits.
    presence : ndarray of shape (*spatial, I)
        Coefficient of each concept where it is detected, otherwise 0. A direction pair is detected
        where its detection is above 0.5, a concept of another method where its coefficient is above
        0.
    concept_names : tuple of I str
        Names of the concepts.
    steps : int
        Number of gradients that were integrated; 0 if the contributions are exact.
    crops : tuple of I ndarray of shape (k, patch, patch, channels), or None
        The k crops that show what each concept is; None: there are none.
    extra_tokens : tuple of int or None, default=None
        Places in the sequence of the tokens that are no part of the image, such as class tokens:
        maps leave them out. None: there are no tokens, or it is not known.
    """

    image: Array
    class_id: int
    class_name: str
    against: int | None
    against_name: str | None
    probability: float
    likeliest: tuple[tuple[str, float], ...]
    score: float
    residual: float
    contributions: Array
    presence: Array
    concept_names: tuple[str, ...]
    steps: int
    crops: tuple[Array, ...] | None
    extra_tokens: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        self.contributions.setflags(write=False)
        self.presence.setflags(write=False)

    def __repr__(self) -> str:
        return f"PredictionExplanation({self.score_name} {self.score:.2f})"

    @property
    def gap(self) -> float:
        """Error of the division, in logits: score − residual − Σ contributions."""
        return self.score - self.residual - float(self.contributions.sum())

    @property
    def concept_contributions(self) -> Array:
        """Contribution of each of the I concepts, summed over positions, (I,), in logits."""
        return np.asarray(as_positions(self.contributions).sum(axis=0))

    @property
    def contribution_maps(self) -> Array:
        """Contributions of I concepts as maps (H, W, I), in logits, without ``extra_tokens``."""
        return self._maps(self.contributions)

    @property
    def presence_maps(self) -> Array:
        """The ``presence`` of I concepts as maps (H, W, I), without ``extra_tokens``."""
        return self._maps(self.presence)

    def _maps(self, values: Array) -> Array:
        """Return values (*spatial, I) as maps (H, W, I)."""
        return np.asarray(concept_maps(values[None], self.image.shape, self.extra_tokens)[0])

    @property
    def contributions_over_time(self) -> Array:
        """Contributions of I concepts to each frame T′ of the features of a video, (T′, I).

        In logits, summed over the places of a frame. `ValueError` is raised if the features have no
        axis of time, (T′, H, W, D).
        """
        if self.contributions.ndim != 4:
            raise ValueError(
                "contributions over time need features (T, H, W, D) of a video, not of shape "
                f"{self.contributions.shape[:-1]}"
            )
        return np.asarray(self.contributions.sum(axis=(1, 2)))

    @property
    def score_name(self) -> str:
        """Name of the score, such as "logit of dog" or "logit of dog − cat"."""
        against = "" if self.against_name is None else f" − {self.against_name}"
        return f"logit of {self.class_name}{against}".replace("_", " ")

    @cached_property
    def ranked(self) -> Array:
        """Indices of the I concepts by the size of their contribution, largest first, (I,)."""
        return np.argsort(-np.abs(self.concept_contributions), kind="stable")

    @property
    def colors(self) -> list[Color]:
        """Colors of I concepts, (red, green, blue) in [0, 1]; each depends on its index only."""
        return concept_colors(len(self.concept_names))

    def table(self, count: int = 10) -> Table:
        """Return a table of the largest contributions, and of all other terms of the score.

        Parameters
        ----------
        count : int, default=10
            Number of concepts with a row of their own: those of the largest contributions, without
            sign.

        Returns
        -------
        table : Table
            Rows: these concepts, the sum of all other concepts, residual, gap and, as the sum of
            all rows above it, the score. Columns: contribution, in logits, and share of the
            positions where the concept is detected.

        Raises
        ------
        ValueError
            If ``count`` is not a positive integer.
        """
        values = _parts(self, self.ranked, count)
        values += [("gap", self.gap), (self.score_name, self.score)]
        rows = [[Cell(name), Cell.signed(value, 3), Cell.share(np.nan)] for name, value in values]
        shares = (as_positions(self.presence) > 0).mean(axis=0)
        for row, i in zip(rows, self.ranked[:count], strict=False):
            row[2] = Cell.share(shares[i])
        rows[-2][1] = Cell.number(self.gap, "+.1e")
        note = "The contributions are exact: the head is linear."
        if self.steps:
            note = f"{self.steps} gradients along the path from every concept off to the image."
        return Table(["concept", "contribution", "positions with it"], rows, [note])

    def plot(self, count: int = 5, nb_crops: int = 3) -> Figure:
        """Draw the image, its strongest concepts with crops and maps, and their contributions.

        Parameters
        ----------
        count : int, default=5
            Number of concepts that are drawn with maps: those of the largest contributions, without
            sign. The row of others holds what exceeds 20.
        nb_crops : int, default=3
            Number of crops of each concept, if ``crops`` holds any.

        Returns
        -------
        figure : matplotlib.figure.Figure

        Raises
        ------
        ValueError
            If ``count`` is not a positive integer.
        """
        return plot_prediction(
            _picture(self.image), self.likeliest, self.score_name, self.score,
            self._rows(count, MOST_WITH_MAPS), nb_crops,
        )  # fmt: skip

    def plot_waterfall(self, count: int = 12) -> Figure:
        """Draw how the contributions lead from the residual to the score, concept by concept.

        Parameters
        ----------
        count : int, default=12
            Number of concepts with a bar of their own: those of the largest contributions, without
            sign. The bar of others holds what exceeds 60.

        Returns
        -------
        figure : matplotlib.figure.Figure

        Raises
        ------
        ValueError
            If ``count`` is not a positive integer.
        """
        return plot_waterfall(self.score_name, self.score, self._rows(count, MOST_BARS))

    def plot_over_time(self, count: int = 5, frames: int = 8) -> Figure:
        """Draw frames of the video, and how much its strongest concepts contribute over time.

        Parameters
        ----------
        count : int, default=5
            Number of concepts with a curve of their own: those of the largest contributions,
            without sign. The curve of others holds what exceeds 8.
        frames : int, default=8
            Largest number of frames that are drawn.

        Returns
        -------
        figure : matplotlib.figure.Figure

        Raises
        ------
        ValueError
            If the features have no axis of time, or an argument is not a positive integer.
        """
        check_integer("count", count)
        check_integer("frames", frames)
        values, count = self.contributions_over_time, min(count, _MOST_CURVES)
        chosen, others = self.ranked[:count], self.ranked[count:]
        names, colors = [self.concept_names[i] for i in chosen], [self.colors[i] for i in chosen]
        curves = values[:, chosen]
        if len(others):
            names.append(f"{len(others)} others")
            colors.append(GREY)
            curves = np.column_stack([curves, values[:, others].sum(axis=1)])
        return plot_over_time(
            f"Contributions to the {self.score_name} over time",
            as_picture(self.image),
            names,
            colors,
            curves,
            frames,
        )

    def to_dict(self) -> dict[str, Any]:
        """Return attributes and properties as plain data.

        Returns
        -------
        data : dict
            Numbers, strings and arrays by the name of the attribute or property.
        """
        names = [field.name for field in fields(self)] + ["gap", "score_name"]
        names += ["concept_contributions", "contribution_maps", "presence_maps"]
        return {name: getattr(self, name) for name in names}

    def _rows(self, count: int, at_most: int) -> list[PredictionRow]:
        """Return rows for the strongest concepts, the others, a visible gap, and the residual."""
        check_integer("count", count)
        count = min(count, at_most)
        maps, presence = self.contribution_maps, self.presence_maps
        parts = _parts(self, self.ranked, count)
        if abs(self.gap) >= _VISIBLE_GAP:
            parts.insert(-1, ("gap", self.gap))
        rows = [PredictionRow(name, GREY, None, value) for name, value in parts]
        for k, i in enumerate(self.ranked[:count].tolist()):
            rows[k] = replace(
                rows[k], color=self.colors[i], crops=None if self.crops is None else self.crops[i],
                presence=presence[..., i], contributions=maps[..., i],
            )  # fmt: skip
        return rows


@dataclass(frozen=True, eq=False)
class PredictionComparison:
    """What makes the score of a class higher in a first image than in a second.

    `compare_predictions` returns it. All numbers are in logits, and the *score* is the logit of the
    class, or the difference of two logits if the explanations have ``against``.

    Attributes
    ----------
    first, second : PredictionExplanation
        Explanations of the same score, by the same I concepts, in the two images.
    """

    first: PredictionExplanation
    second: PredictionExplanation

    def __repr__(self) -> str:
        first, second = self.first, self.second
        return f"PredictionComparison({first.score_name}: {first.score:.2f} and {second.score:.2f})"

    @property
    def differences(self) -> Array:
        """Contributions of the I concepts in the first image minus those in the second, (I,)."""
        return self.first.concept_contributions - self.second.concept_contributions

    @property
    def residual(self) -> float:
        """Residual of the first image minus that of the second.

        The residual of an image is its score with the coefficients of all concepts set to 0.
        `differences`, this difference of residuals, and `gap` sum to `score`.
        """
        return self.first.residual - self.second.residual

    @property
    def gap(self) -> float:
        """Gap (score − residual − Σ contributions) of the first image minus that of the second."""
        return self.first.gap - self.second.gap

    @property
    def score(self) -> float:
        """Score of the first image minus that of the second."""
        return self.first.score - self.second.score

    @cached_property
    def ranked(self) -> Array:
        """Indices of the I concepts by the size of the difference, largest first, (I,)."""
        return np.argsort(-np.abs(self.differences), kind="stable")

    def table(self, count: int = 10) -> Table:
        """Return a table of the concepts whose contributions differ most.

        Parameters
        ----------
        count : int, default=10
            Number of concepts with a row of their own.

        Returns
        -------
        table : Table
            Rows: these concepts, the sum of all other concepts, residual, and score, in logits.
            Columns: their values in the first image and in the second, and the difference.

        Raises
        ------
        ValueError
            If ``count`` is not a positive integer.
        """
        scores = self.first.score, self.second.score
        rows = [
            [Cell(name), *(Cell.signed(value, 3) for value in (a, b, a - b))]
            for name, (a, b) in [*self._parts(count), (self.first.score_name, scores)]
        ]
        return Table(["concept", "first", "second", "difference"], rows)

    def plot(self, count: int = 5, nb_crops: int = 3) -> Figure:
        """Draw both images with the concepts whose contributions differ most.

        Parameters
        ----------
        count : int, default=5
            Number of concepts that are drawn with maps: those that differ most. The row of others
            holds what exceeds 20.
        nb_crops : int, default=3
            Number of crops of each concept, if the first explanation has any.

        Returns
        -------
        figure : matplotlib.figure.Figure

        Raises
        ------
        ValueError
            If ``count`` is not a positive integer.
        """
        check_integer("count", count)
        count = min(count, MOST_WITH_MAPS)
        first, second = self.first, self.second
        maps = first.contribution_maps, second.contribution_maps
        rows = [ComparisonRow(name, GREY, None, values) for name, values in self._parts(count)]
        for k, i in enumerate(self.ranked[:count].tolist()):
            rows[k] = replace(
                rows[k], color=first.colors[i], maps=(maps[0][..., i], maps[1][..., i]),
                crops=None if first.crops is None else first.crops[i],
            )  # fmt: skip
        pictures = _picture(first.image), _picture(second.image)
        return plot_two_predictions(
            pictures, first.score_name,
            (first.score, second.score), (first.likeliest[0], second.likeliest[0]), rows, nb_crops,
        )  # fmt: skip

    def to_dict(self) -> dict[str, Any]:
        """Return the dicts of both explanations, and their differences, in one dict.

        Returns
        -------
        data : dict
            "first" and "second": what `PredictionExplanation.to_dict` returns for each; and the
            properties "differences", "residual", "gap" and "score".
        """
        names = "differences", "residual", "gap", "score"
        explanations = {"first": self.first.to_dict(), "second": self.second.to_dict()}
        return explanations | {name: getattr(self, name) for name in names}

    def _parts(self, count: int) -> list[tuple[str, tuple[float, float]]]:
        """Return names and both values of the concepts that differ most, others, and residual."""
        first, second = (_parts(one, self.ranked, count) for one in (self.first, self.second))
        return [(name, (a, b)) for (name, a), (_, b) in zip(first, second, strict=True)]


def _picture(image: Array) -> Array:
    """Return an image, or the frame in the middle of a video, as RGB (height, width, 3)."""
    return as_picture(stills(image[None])[0])


def _parts(
    explanation: PredictionExplanation, ranked: Array, count: int
) -> list[tuple[str, float]]:
    """Return names and values of the first ranked concepts, of the others, and the residual."""
    check_integer("count", count)
    values = explanation.concept_contributions
    return parts_of_score(explanation.concept_names, values, ranked[:count], explanation.residual)
