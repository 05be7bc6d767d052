"""Results of `explain_model`, as tables, figures and plain data."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from xplique_dirpairs.core.tables import Cell, Table
from xplique_dirpairs.core.types import Array
from xplique_dirpairs.core.validation import check_integer
from xplique_dirpairs.explanations.contributions import parts_of_score, strongest
from xplique_dirpairs.explanations.model_measurements import ModelMeasurements
from xplique_dirpairs.plots.influence_diagram import plot_influence_diagram
from xplique_dirpairs.plots.model_explanation import (
    MOST_PUSHES,
    ConceptRow,
    PushRow,
    SharedRow,
    plot_class_report,
    plot_confusion,
    plot_shared_concepts,
)
from xplique_dirpairs.plots.palette import GREY, Color, concept_colors
from xplique_dirpairs.sensitivity.influence_result import described_test

#: Text that follows a p-value in tables, by grade of significance.
_MARKS = {
    -1: " (not tested: too few noise vectors)",
    0: " (not significant)",
    1: " (only before correction)",
    2: " (significant)",
}
_SIDES = ("for", "against")
#: Gaps larger than this, in logits, are noted under tables.
_VISIBLE_GAP = 1e-3


@dataclass(frozen=True, eq=False)
class ModelExplanation(ModelMeasurements):
    """Which of I concepts drive C explained classes of a model: the result of `explain_model`.

    Attributes
    ----------
    class_ids : ndarray of shape (C,), int
        Indices of the explained classes among all classes of the network.
    class_names : tuple of C str
        Names of the explained classes.
    concept_names : tuple of I str
        Names of the concepts.
    images : ndarray of shape (C,), int
        Number of images of each class.
    accuracy : ndarray of shape (C,)
        Share of the images of each class that the network predicts as this class; NaN if images
        had no labels, and classes are what was predicted.
    influence : Influence
        Influence of the encoding direction of each concept, along which the features change with
        the concept, in arrays of shape (I, C). The centred logit of a class is its logit minus the
        mean logit of all classes. ``effects``: what the direction adds to the centred logit in the
        images of the class, in logits; ``unit_effects``: change of the centred logit by a step
        along the direction, per unit of its length; ``p_values``; ``scores``: sensitivity score SC
        in [−1, 1] of Doumanoglou et al. (arXiv 2509.23926); ``changes``: mean change of the
        log-probability, in nats, by a step of length ``amount``.
    contributions : ndarray of shape (C, I)
        Contribution of each concept to the logit of each class, in logits, mean over the class's
        images.
    residuals : ndarray of shape (C,)
        Mean logit of each class in its images with the coefficients of all concepts set to 0.
    logits : ndarray of shape (C,)
        Mean logit of each class in its images. It is the sum of the contributions and the residual,
        up to `gaps`. If the head (the network after the layer) is not an average over positions
        followed by a linear map, contributions, residuals and logits are means over the same few
        images of the class: see ``path_images`` of `explain_model`.
    presence : ndarray of shape (C, I)
        Share of the images of the class in which the concept is detected at one position or more:
        where the detection of its direction pair is above 0.5 or, for concepts of other methods,
        where its coefficient is above 0.
    presence_outside : ndarray of shape (C, I)
        The same share of the images of all other classes; NaN if there are no such images.
    occupancy : ndarray of shape (C, I)
        Share of the positions in the images of the class at which the concept is detected.
    occupancy_outside : ndarray of shape (C, I)
        The same share in the images of all other classes; NaN if there are no such images.
    confusions : tuple of Confusion
        What pushes the images of a class towards another class: one object for each measured pair
        of classes. The method `confusion` returns that of two given classes.
    crops : tuple of I ndarray of shape (k, patch, patch, 3), uint8
        For each concept, the k square crops in which it is strongest, of side ``patch`` pixels.
    class_crops : dict of (int, int) to ndarray of shape (k, patch, patch, 3), uint8
        Crops of the same kind from the class's own images only, by (index of class, index of
        concept). There are such crops of the concepts that are among the 8 strongest for, or
        against, the class by contribution, by influence, or by their push towards another class.
    amount : float
        Length of the step along the encoding direction that influence was measured with, in units
        of the features.
    """

    def __repr__(self) -> str:
        return (
            f"ModelExplanation({len(self.class_ids)} classes, {len(self.concept_names)} concepts, "
            f"{int(self.images.sum())} images)"
        )

    @property
    def colors(self) -> list[Color]:
        """Colors of I concepts, (red, green, blue) in [0, 1]; each depends on its index only."""
        return concept_colors(len(self.concept_names))

    # ------------------------------------------------------------ tables

    def table(self, count: int = 3) -> Table:
        """Return a table of the classes, ranking concepts by their contributions.

        Parameters
        ----------
        count : int, default=3
            Upper limit on the number of concepts listed for, and against, each class.

        Returns
        -------
        table : Table
            A row for each class: number of images, accuracy, mean logit, the two terms that sum to
            it (the residual, and the sum of the contributions), and the concepts with the largest
            contributions for and against the class.

        Raises
        ------
        ValueError
            If ``count`` is not a positive integer.
        """
        rows = [
            [
                Cell(name),
                Cell.figure(self.images[c], 0),
                Cell.share(self.accuracy[c]),
                Cell.signed(self.logits[c]),
                Cell.signed(self.residuals[c]),
                Cell.signed(self.contributions[c].sum()),
                *self._listed(c, count),
            ]
            for c, name in enumerate(self.class_names)
        ]
        notes = ["residual: mean logit with every concept off; concepts: their contributions."]
        largest = float(np.abs(self.gaps).max())
        if largest > _VISIBLE_GAP:
            notes.append(f"logit − residual − concepts is at most {largest:.2g}.")
        headers = ["class", "images", "right", "logit", "residual", "concepts", "for", "against"]
        return Table(headers, rows, notes)

    def class_table(self, class_id: int | str, count: int = 6, by: str = "contribution") -> Table:
        """Return a table of the concepts for a class and against it.

        Parameters
        ----------
        class_id : int or str
            Index or name of the class.
        count : int, default=6
            Upper limit on the number of concepts for the class, and on those against it.
        by : {"contribution", "influence"}, default="contribution"
            Whether concepts are ranked by their contributions, or by `Influence.effects`.

        Returns
        -------
        table : Table
            A row for each concept: effect and unit effect of its encoding direction on the class,
            in logits, with their p-value; contribution, in logits; mean change of the
            log-probability, in nats; sensitivity score SC; and the shares of the images and of the
            positions where it is detected, in the class and in all other classes. Effects, p, mean
            change and SC are explained in `Influence`.

        Raises
        ------
        ValueError
            If the class was not explained, ``by`` is unknown, or ``count`` is not a positive
            integer.
        """
        c, influence = self._row(class_id), self.influence
        rates = self.presence, self.presence_outside, self.occupancy, self.occupancy_outside
        rows = [
            [
                Cell(self.concept_names[i]),
                Cell(side),
                Cell.interval(influence.effects[i, c], influence.intervals[i, c]),
                Cell.signed(influence.unit_effects[i, c], 3),
                self._p_value(i, c),
                Cell.signed(self.contributions[c, i]),
                Cell.signed(influence.changes[i, c], 3),
                Cell.signed(influence.scores[i, c]),
                *(Cell.share(rate[c, i]) for rate in rates),
            ]
            for side, concepts in zip(_SIDES, self.ranked(class_id, count, by), strict=True)
            for i in concepts
        ]
        headers = [
            "concept", "side", "effect (logits)", "unit effect", "p", "contribution",
            "mean Δ (nats)", "SC", "images", "images outside", "positions", "positions outside",
        ]  # fmt: skip
        note = (
            f"{self.class_names[c]}, {self.images[c]} images: effect on its centred logit, unit "
            "effect × coefficient, mean ± 95 % interval over these images; contribution to its "
            f"logit ({self.logits[c]:.2f}; with every concept off {self.residuals[c]:.2f}); mean Δ "
            f"and SC of a step of {self.amount:g} along the signal vector; share of the images, "
            "and of the positions, where the concept is detected."
        )
        return Table(headers, rows, [note, f"p: {described_test(influence)}."])

    def shared_table(self, at_least: float = 0.05) -> Table:
        """Return a table of the concepts that matter to several classes, with these classes.

        Parameters
        ----------
        at_least : float, default=0.05
            A concept matters to a class if its contribution, without sign, is at least this share
            of the sum of all concepts' contributions to the class, without signs.

        Returns
        -------
        table : Table
            For each concept: number of classes, and the classes that it speaks for and against.

        Raises
        ------
        ValueError
            If ``at_least`` is not above 0 and at most 1.
        """
        sides = self.shared(at_least)
        rows = []
        for i in _in_several_classes(sides):
            classes = [np.flatnonzero(sides[:, i] == sign) for sign in (1, -1)]
            names = [", ".join(self.class_names[c] for c in side) or "–" for side in classes]
            number = int(np.count_nonzero(sides[:, i]))
            rows.append([Cell(self.concept_names[i]), Cell.figure(number, 0), *map(Cell, names)])
        note = f"Concepts with at least {at_least:.0%} of Σ |contribution| of more than one class."
        return Table(["concept", "classes", *_SIDES], rows, [note])

    def confusion_table(self, source: int | str, target: int | str, count: int = 6) -> Table:
        """Return a table of the concepts that push images towards another class, or hold them back.

        Parameters
        ----------
        source : int or str
            Index or name of the class of the images.
        target : int or str
            Index or name of the class that they are pushed towards.
        count : int, default=6
            Upper limit on the number of concepts that push, and on those that hold back.

        Returns
        -------
        table : Table
            A row for each concept: its contribution to logit(target) − logit(source), mean over all
            images of the source class, and mean over those of them that are predicted as the
            target; and the mean change of log p(target) − log p(source), in nats, by a step of
            length ``amount`` along its encoding direction.

        Raises
        ------
        ValueError
            If this pair of classes was not measured, or ``count`` is not a positive integer.
        """
        confusion = self.confusion(source, target)
        sides = strongest(confusion.contributions, count)
        rows = [
            [
                Cell(self.concept_names[i]),
                Cell(side),
                Cell.signed(confusion.contributions[i]),
                Cell.signed(confusion.confused_contributions[i]),
                Cell.signed(confusion.changes[i], 3),
            ]
            for side, concepts in zip(("pushes", "holds"), sides, strict=True)
            for i in concepts
        ]
        a, b = confusion.names
        note = (
            f"{confusion.images} images of {a}, {confusion.confused} of them predicted as {b}: "
            f"mean contribution to logit({b}) − logit({a}), which is {confusion.difference:+.2f}, "
            f"and {confusion.residual:+.2f} with every concept off; mean change of the log odds by "
            "more of the concept."
        )
        headers = ["concept", "side", "contribution", "where confused", "change (nats)"]
        return Table(headers, rows, [note])

    # ------------------------------------------------------------ figures

    def plot(self, significant_only: bool = True, title: str = "Concept influence") -> Figure:
        """Draw the effect of each concept (column) on each class (row), `Influence.effects`.

        Parameters
        ----------
        significant_only : bool, default=True
            True: only effects with p ≤ ``influence.level`` are drawn, as discs if they are
            significant after the correction for many tests, and as rings otherwise. False: all
            other effects are drawn as well, as pale discs.
        title : str, default="Concept influence"
            Title of the figure.

        Returns
        -------
        figure : matplotlib.figure.Figure
        """
        return plot_influence_diagram(
            self.influence.effects, self.significance, self.class_names, self.concept_names,
            self.crops, colors=self.colors, title=title, significant_only=significant_only,
        )  # fmt: skip

    def plot_class(
        self, class_id: int | str, count: int = 5, by: str = "contribution", nb_crops: int = 5
    ) -> Figure:
        """Draw the concepts for and against a class, with crops and measurements.

        The measurements are contribution, influence (`Influence.effects`) and presence.

        Parameters
        ----------
        class_id : int or str
            Index or name of the class.
        count : int, default=5
            Upper limit on the number of concepts for the class, and on those against it.
        by : {"contribution", "influence"}, default="contribution"
            Whether concepts are ranked by their contributions, or by `Influence.effects`.
        nb_crops : int, default=5
            Maximum number of crops of each concept.

        Returns
        -------
        figure : matplotlib.figure.Figure

        Raises
        ------
        ValueError
            If the class was not explained, ``by`` is unknown, ``count`` is not a positive integer,
            or no concept is for the class or against it.
        """
        c = self._row(class_id)
        total = self.contributions[c].sum()
        details = (
            f"mean logit {self.logits[c]:.2f} = {self.residuals[c]:.2f} with every concept off "
            f"{'+' if total >= 0 else '−'} {abs(total):.2f} by concepts;  "
            + (
                f"{self.images[c]} images predicted as it"
                if np.isnan(self.accuracy[c])
                else f"{self.accuracy[c]:.0%} of {self.images[c]} images predicted right"
            )
        )
        supporting, opposing = (
            [self._concept_row(c, i) for i in side.tolist()]
            for side in self.ranked(class_id, count, by)
        )
        return plot_class_report(self.class_names[c], details, supporting, opposing, nb_crops)

    def plot_shared(self, at_least: float = 0.05, count: int = 12, nb_crops: int = 4) -> Figure:
        """Draw the concepts that matter to several classes, with their contributions to each.

        Parameters
        ----------
        at_least : float, default=0.05
            A concept matters to a class if its contribution, without sign, is at least this share
            of the sum of all concepts' contributions to the class, without signs.
        count : int, default=12
            Upper limit on the number of concepts; those that matter to most classes come first.
        nb_crops : int, default=4
            Maximum number of crops of each concept.

        Returns
        -------
        figure : matplotlib.figure.Figure

        Raises
        ------
        ValueError
            If ``at_least`` is not above 0 and at most 1, or ``count`` is not a positive integer.
        """
        check_integer("count", count)
        sides = self.shared(at_least)
        several = _in_several_classes(sides)
        rows = []
        for i in several[:count].tolist():
            values = self.contributions[:, i]
            order = np.argsort(-values, kind="stable")
            classes = [(self.class_names[c], float(values[c])) for c in order if sides[c, i]]
            rows.append(SharedRow(self.concept_names[i], self.colors[i], self.crops[i], classes))
        return plot_shared_concepts(rows, at_least, len(several), nb_crops)

    def plot_confusion(
        self, source: int | str, target: int | str, count: int = 4, nb_crops: int = 5
    ) -> Figure:
        """Draw the concepts that push images towards another class, and those that hold them back.

        Parameters
        ----------
        source : int or str
            Index or name of the class of the images.
        target : int or str
            Index or name of the class that they are pushed towards.
        count : int, default=4
            Upper limit on the number of concepts that push, and on those that hold back; at most 16
            of either have a row of their own.
        nb_crops : int, default=5
            Maximum number of crops of each concept.

        Returns
        -------
        figure : matplotlib.figure.Figure

        Raises
        ------
        ValueError
            If this pair of classes was not measured, or ``count`` is not a positive integer.
        """
        confusion = self.confusion(source, target)
        pushes, holds = strongest(confusion.contributions, min(count, MOST_PUSHES))
        shown = np.concatenate([pushes, holds[::-1]])
        names, of_confused = self.concept_names, confusion.confused_contributions
        parts = parts_of_score(names, confusion.contributions, shown, confusion.residual)
        confused_parts = parts_of_score(names, of_confused, shown, confusion.confused_residual)
        rows = [
            PushRow(name, GREY, None, value, confused, np.nan)
            for (name, value), (_, confused) in zip(parts, confused_parts, strict=True)
        ]
        for k, i in enumerate(shown.tolist()):
            crops = self.class_crops.get((confusion.source, i), self.crops[i])
            change = float(confusion.changes[i])
            rows[k] = replace(rows[k], color=self.colors[i], crops=crops, change=change)
        details = (
            f"mean logit difference {confusion.difference:+.2f} over {confusion.images} images of "
            f"{confusion.names[0].replace('_', ' ')}; {confusion.confused} are mistaken for it"
        )
        return plot_confusion(confusion.names, details, rows, nb_crops)

    # ------------------------------------------------------------ plain data

    def to_dict(self) -> dict[str, Any]:
        """Return all attributes as plain data.

        Returns
        -------
        data : dict
            Numbers, strings and arrays by the name of the attribute. ``influence`` and each of the
            ``confusions`` are dicts of the same kind. ``shared`` is what the method `shared`
            returns, and ``colors`` the property. The keys of ``class_crops`` are texts of two
            indices, "class:concept".
        """
        data = asdict(self)
        data["influence"]["unit_effects"] = self.influence.unit_effects
        data["influence"]["significance"] = self.significance
        data["class_crops"] = {f"{k}:{i}": crops for (k, i), crops in self.class_crops.items()}
        return data | {"shared": self.shared(), "colors": self.colors}

    # ------------------------------------------------------------ helpers

    def _listed(self, c: int, count: int) -> list[Cell]:
        """Return a cell that lists the concepts for a class, and one for those against it."""
        sides = [
            [f"{self.concept_names[i]} ({self.contributions[c, i]:+.2f})" for i in side]
            for side in self.ranked(int(self.class_ids[c]), count)
        ]
        return [Cell(", ".join(names) or "–") for names in sides]

    def _p_value(self, i: int, c: int) -> Cell:
        """Return a cell with the p-value of concept ``i`` for row ``c``, marked by significance."""
        reason = self.influence.reason(i, c)
        if reason:
            return Cell(f"not tested: {reason}", numbers=(np.nan,))
        cell = Cell.number(self.influence.p_values[i, c], ".2g")
        return replace(cell, text=cell.text + _MARKS[self.significance[i, c]])

    def _concept_row(self, c: int, i: int) -> ConceptRow:
        """Return what the figure of the class in row ``c`` shows of concept ``i``."""
        class_id = int(self.class_ids[c])
        return ConceptRow(
            name=self.concept_names[i],
            color=self.colors[i],
            crops=self.crops_of(i, class_id),
            elsewhere=not len(self.class_crops.get((class_id, i), ())),
            contribution=float(self.contributions[c, i]),
            effect=float(self.influence.effects[i, c]),
            interval=float(self.influence.intervals[i, c]),
            significance=int(self.significance[i, c]),
            presence=float(self.presence[c, i]),
            presence_outside=float(self.presence_outside[c, i]),
        )


def _in_several_classes(sides: Array) -> Array:
    """Return the concepts that matter to several classes in (C, I), those of most classes first."""
    classes = np.count_nonzero(sides, axis=0)
    order = np.argsort(-classes, kind="stable")
    return np.asarray(order[classes[order] > 1])
