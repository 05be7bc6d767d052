"""What `explain_model` finds: a value with tables, pictures and plain data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from xplique_dirpairs.core.tables import Table
from xplique_dirpairs.core.validation import check_integer
from xplique_dirpairs.explanations.explanation_tables import (
    class_table,
    confusion_table,
    overview_table,
    shared_table,
)
from xplique_dirpairs.plots.model_explanation import (
    ConceptRow,
    PushRow,
    SharedRow,
    plot_class_report,
    plot_confusion,
    plot_influence_diagram,
    plot_shared_concepts,
)
from xplique_dirpairs.plots.palette import Color, concept_colors
from xplique_dirpairs.sensitivity.influence import Influence

#: What a class's concepts may be ranked by.
RANKINGS = ("contribution", "influence")


@dataclass(frozen=True, eq=False)
class Confusion:
    """What pushes the images of a class a towards a class b.

    Attributes
    ----------
    source, target : int
        a and b.
    names
        Theirs.
    images, confused : int
        Images of a, and those of them that the network takes for b.
    contributions : (I,)
        Of each concept to logit_b − logit_a, mean over the images of a: above 0 it pushes towards
        b. With the residual they sum to the difference.
    residual, difference : float
        logit_b − logit_a with every concept off, and as it is; means.
    changes : (I,)
        Mean change of log p_b − log p_a by more of the concept, as for the influence.
    confused_contributions : (I,)
        As ``contributions``, over the confused images; NaN where there are none.
    confused_residual, confused_difference : float
    """

    source: int
    target: int
    names: tuple[str, str]
    images: int
    confused: int
    contributions: NDArray
    residual: float
    difference: float
    changes: NDArray
    confused_contributions: NDArray
    confused_residual: float
    confused_difference: float

    @property
    def gap(self) -> float:
        """difference − residual − Σ contributions: 0 up to rounding where the head is linear."""
        return self.difference - self.residual - float(self.contributions.sum())


@dataclass(frozen=True, eq=False)
class ModelExplanation:
    """What drives C classes of a model, by I concepts.

    Attributes
    ----------
    class_ids : (C,) int
    class_names, concept_names
    images : (C,) int
        Images of each class.
    accuracy : (C,)
        Share of them that the network gets right.
    influence : Influence
        Of each concept on these classes, (I, C): SC, mean Δ, p-values; over the images of all of
        them, or over each class's own.
    contributions : (C, I)
        Of each concept to its class's logit, mean over the class's images.
    residuals, logits : (C,)
        Mean logit of the class with every concept off, and as it is. Contributions and residual
        sum to the logit, save for `gaps`.
    presence, presence_outside : (C, I)
        Share of the images of the class, and of all others, where the concept is detected at all.
        NaN outside if there are no others.
    occupancy, occupancy_outside : (C, I)
        Share of positions.
    confusions
        What pushes a class towards another one.
    crops
        For each concept its best crops (k, patch, patch, 3), uint8.
    class_crops
        The same by (class, concept), of the class's images; of the concepts of `ranked`.
    amount : float
        a of the influence.
    """

    class_ids: NDArray
    class_names: tuple[str, ...]
    concept_names: tuple[str, ...]
    images: NDArray
    accuracy: NDArray
    influence: Influence
    contributions: NDArray
    residuals: NDArray
    logits: NDArray
    presence: NDArray
    presence_outside: NDArray
    occupancy: NDArray
    occupancy_outside: NDArray
    confusions: tuple[Confusion, ...]
    crops: tuple[NDArray, ...]
    class_crops: Mapping[tuple[int, int], NDArray]
    amount: float

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, np.ndarray):
                value.setflags(write=False)

    def __repr__(self) -> str:
        return (
            f"ModelExplanation({len(self.class_ids)} classes, {len(self.concept_names)} concepts, "
            f"{int(self.images.sum())} images)"
        )

    # ---------------------------------------------------------------- what follows from it

    @property
    def gaps(self) -> NDArray:
        """logits − residuals − Σ contributions, (C,): 0 up to rounding where the head is linear."""
        return self.logits - self.residuals - self.contributions.sum(axis=1)

    @cached_property
    def significance(self) -> NDArray:
        """(I, C): 2 where the influence is significant (Benjamini–Hochberg), 1 where p ≤ level."""
        grades = self.influence.significant("none").astype(int)
        return grades + self.influence.significant("benjamini-hochberg")

    @property
    def colors(self) -> list[Color]:
        """One for each concept, by its number: the same as in the explanations of predictions."""
        return concept_colors(len(self.concept_names))

    def ranked(
        self, class_id: int | str, count: int = 6, by: str = "contribution"
    ) -> tuple[NDArray, NDArray]:
        """Concepts for a class and concepts against it, strongest first, at most so many of each.

        Parameters
        ----------
        class_id
            Number or name.
        count
        by
            "contribution": what there is of a concept in the class's images. "influence": what
            more of it would do.

        Raises
        ------
        ValueError
            If there is no such class or ranking.
        """
        check_integer("count", count)
        c = self._place(class_id)
        if by not in RANKINGS:
            raise ValueError(f"by must be one of {RANKINGS}, not {by!r}")
        values = self.contributions[c] if by == "contribution" else self.influence.changes[:, c]
        return strongest(values, count)

    def shared(self, at_least: float = 0.05) -> NDArray:
        """Which concepts matter to which classes, (C, I): 1 for it, −1 against it, 0 not.

        A concept matters to a class if its contribution is at least such a share of Σ_i |c_i|; a
        column with several entries is a shared concept.

        Raises
        ------
        ValueError
            If ``at_least`` is not a share.
        """
        if not 0 < at_least <= 1:
            raise ValueError(f"at_least must be a share above 0 and up to 1, not {at_least!r}")
        size = np.abs(self.contributions)
        total = size.sum(axis=1, keepdims=True)
        return (np.sign(self.contributions) * ((size >= at_least * total) & (size > 0))).astype(int)

    def confusion(self, source: int | str, target: int | str) -> Confusion:
        """One of `confusions`, by its classes' numbers or names.

        Raises
        ------
        ValueError
            If it was not measured.
        """
        for found in self.confusions:
            if source in (found.source, found.names[0]) and target in (
                found.target,
                found.names[1],
            ):
                return found
        there = [found.names for found in self.confusions]
        raise ValueError(
            f"({source!r}, {target!r}) was not measured, but {there}: give explain_model "
            "confusions=[(a, b), …]"
        )

    def crops_of(self, concept: int, class_id: int | None = None) -> NDArray:
        """A concept's best crops (k, patch, patch, 3) uint8: of a class's images, if there are."""
        of_class = self.class_crops.get((class_id, concept)) if class_id is not None else None
        return self.crops[concept] if of_class is None or not len(of_class) else of_class

    # ---------------------------------------------------------------- tables

    def table(self) -> Table:
        """A row for each class: accuracy, mean logit, strongest concepts."""
        return overview_table(self)

    def class_table(self, class_id: int | str, count: int = 6, by: str = "contribution") -> Table:
        """Concepts for a class and against it, a row each; arguments as of `ranked`."""
        return class_table(self, self._place(class_id), self.ranked(class_id, count, by))

    def shared_table(self, at_least: float = 0.05) -> Table:
        """Concepts that matter to several classes, and to which; see `shared`."""
        return shared_table(self, at_least)

    def confusion_table(self, source: int | str, target: int | str, count: int = 6) -> Table:
        """Concepts that push a class towards another, and that hold it, at most so many of each."""
        check_integer("count", count)
        return confusion_table(self, self.confusion(source, target), count)

    # ---------------------------------------------------------------- pictures

    def plot(self, significant_only: bool = True, title: str = "Concept influence") -> Figure:
        """The concept influence diagram: classes × concepts.

        Parameters
        ----------
        significant_only
            False: what is not significant is drawn as well, pale.
        title
        """
        return plot_influence_diagram(
            self.influence.changes, self.significance, self.class_names, self.concept_names,
            self.crops, colors=self.colors, title=title, significant_only=significant_only,
        )  # fmt: skip

    def plot_class(
        self, class_id: int | str, count: int = 5, by: str = "contribution", nb_crops: int = 5
    ) -> Figure:
        """A class's report; arguments as of `ranked`."""
        c = self._place(class_id)
        sides = self.ranked(class_id, count, by)
        total = self.contributions[c].sum()
        details = (
            f"mean logit {self.logits[c]:.2f} = {self.residuals[c]:.2f} with every concept off "
            f"{'+' if total >= 0 else '−'} {abs(total):.2f} by concepts;  "
            f"{self.accuracy[c]:.0%} of {self.images[c]} images right"
        )
        return plot_class_report(
            self.class_names[c],
            details,
            [self._concept_row(c, int(i)) for i in sides[0]],
            [self._concept_row(c, int(i)) for i in sides[1]],
            nb_crops,
        )

    def plot_shared(self, at_least: float = 0.05, count: int = 12, nb_crops: int = 4) -> Figure:
        """Concepts that matter to several classes, with these; see `shared`."""
        check_integer("count", count)
        sides = self.shared(at_least)
        order = np.argsort(-(sides != 0).sum(axis=0), kind="stable")
        several = [int(i) for i in order if (sides[:, i] != 0).sum() > 1]
        rows = [
            SharedRow(
                self._name(i),
                self.colors[i],
                self.crops[i],
                [
                    (self.class_names[c], float(self.contributions[c, i]))
                    for c in np.argsort(-self.contributions[:, i], kind="stable")
                    if sides[c, i]
                ],
            )
            for i in several[:count]
        ]
        return plot_shared_concepts(rows, at_least, len(several), nb_crops)

    def plot_confusion(
        self, source: int | str, target: int | str, count: int = 4, nb_crops: int = 5
    ) -> Figure:
        """What pushes a class towards another one: at most so many concepts on either side."""
        check_integer("count", count)
        found = self.confusion(source, target)
        pushes, holds = strongest(found.contributions, count)
        shown = [int(i) for i in (*pushes, *holds[::-1])]
        rows = [
            PushRow(
                self._name(i), self.colors[i],
                self.class_crops.get((found.source, i), self.crops[i]),
                float(found.contributions[i]), float(found.confused_contributions[i]),
                float(found.changes[i]),
            )
            for i in shown
        ]  # fmt: skip
        rest = np.delete(np.arange(len(found.contributions)), shown)
        nan, grey = float("nan"), (0.35, 0.35, 0.35)
        if len(rest):
            name = f"{len(rest)} others"
            sums = [
                float(values[rest].sum())
                for values in (found.contributions, found.confused_contributions)
            ]
            rows.append(PushRow(name, grey, None, sums[0], sums[1], nan))
        rows.append(PushRow("residual", grey, None, found.residual, found.confused_residual, nan))
        details = (
            f"mean logit difference {found.difference:+.2f} over {found.images} images of "
            f"{found.names[0].replace('_', ' ')}, of which {found.confused} are taken for it"
        )
        return plot_confusion(found.names, details, rows, nb_crops)

    # ---------------------------------------------------------------- plain data

    def to_dict(self) -> dict[str, Any]:
        """Everything as nested dictionaries of numbers, strings and arrays, for reports."""
        found = self.influence
        return {
            **{
                field.name: getattr(self, field.name)
                for field in fields(self)
                if field.name not in ("influence", "confusions", "class_crops")
            },
            "influence": {
                "scores": found.scores, "changes": found.changes, "p_values": found.p_values,
                "significance": self.significance, "level": found.level,
                "statistic": found.statistic, "permutations": found.permutations,
            },
            "confusions": [
                {field.name: getattr(one, field.name) for field in fields(one)}
                for one in self.confusions
            ],
            "class_crops": {f"{k}:{i}": crops for (k, i), crops in self.class_crops.items()},
            "shared": self.shared(),
            "colors": self.colors,
        }  # fmt: skip

    # ---------------------------------------------------------------- inside

    def _place(self, class_id: int | str) -> int:
        """Where a class stands among those that are explained."""
        for c, (number, name) in enumerate(zip(self.class_ids, self.class_names, strict=True)):
            if class_id == name or (not isinstance(class_id, str) and class_id == number):
                return c
        there = dict(zip(self.class_ids.tolist(), self.class_names, strict=True))
        raise ValueError(f"class {class_id!r} is not among those that are explained: {there}")

    def _name(self, concept: int) -> str:
        return self.concept_names[concept]

    def _concept_row(self, c: int, i: int) -> ConceptRow:
        return ConceptRow(
            name=self._name(i),
            color=self.colors[i],
            crops=self.crops_of(i, int(self.class_ids[c])),
            elsewhere=not len(self.class_crops.get((int(self.class_ids[c]), i), ())),
            contribution=float(self.contributions[c, i]),
            change=float(self.influence.changes[i, c]),
            significance=int(self.significance[i, c]),
            presence=float(self.presence[c, i]),
            presence_outside=float(self.presence_outside[c, i]),
        )


def strongest(values: NDArray, count: int) -> tuple[NDArray, NDArray]:
    """Indices of the values above 0, largest first, and of those below, least first."""
    order = np.argsort(-values, kind="stable")
    up, down = order[values[order] > 0], order[values[order] < 0][::-1]
    return up[:count], down[:count]
