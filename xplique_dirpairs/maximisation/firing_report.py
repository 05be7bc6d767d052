"""Report which detectors fire in images that were generated or chosen for one concept each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from xplique_dirpairs.core.tables import Cell, Table
from xplique_dirpairs.core.validation import as_images, check_concepts, check_integer
from xplique_dirpairs.extractors.concept_layer import ConceptLayer
from xplique_dirpairs.metrics.firing import Firing, firing

_HEADERS = (
    "concept",
    "its detector: share of positions",
    "its detector: excess",
    "other detectors that fire",
    "other detectors: share of positions",
    "strongest other detector",
)


@dataclass(frozen=True, eq=False)
class FiringReport:
    """Report of which detectors fire in n images, each of which should show one concept.

    `measure_firing` returns it; ``print(report)`` shows the table. The detector of a concept fires
    at the positions where its *excess*, the projection of the features on the concept's filter
    minus the concept's bias, is positive.

    Attributes
    ----------
    firing : Firing
        The measurements, arrays of shape (n,). Of the concept's own detector: ``own_share``, the
        share of the positions where it fires, and ``own_excess``, its largest excess. Of the other
        detectors: ``others_firing``, the share of them that fire anywhere in the image,
        ``others_share``, the share of the positions where a detector fires, averaged over these
        detectors, and ``rival``, the index of the one with the largest excess (−1 if there are no
        others).
    unit : str, default="margins"
        Unit of the excess, for the table's caption. "margins": the excess wᵀx − b itself, which is
        the distance from the detector's hyperplane in units of the concept's margin 1/‖w‖. "units
        of the scales": the excess divided by ``scales`` of `measure_firing`.
    """

    firing: Firing
    unit: str = "margins"

    @property
    def figures(self) -> dict[str, float]:
        """Mean over the images of each measurement, a dictionary of str to float in [0, 1].

        The keys are the shares of the images where the concept's own detector fires at all, fires
        alone, or has the largest excess; the share of positions where it fires; the share of the
        other detectors that fire at all; and the share of positions where another detector fires,
        averaged over these detectors.
        """
        columns = {
            "the concept's detector fires": self.firing.fires,
            "the concept's detector: share of positions": self.firing.own_share,
            "other detectors that fire": self.firing.others_firing,
            "other detectors: share of positions": self.firing.others_share,
            "the concept's detector is the strongest": self.firing.strongest,
            "only the concept's detector fires": self.firing.alone,
        }
        return {name: float(values.mean()) for name, values in columns.items()}

    def table(self) -> Table:
        """Return a table with a row for each image, and the means in the last row.

        The columns are, for the concept's own detector, the share of positions where it fires and
        its largest excess; for the other detectors, the share of them that fire at all, their mean
        share of positions, and the index of the one with the largest excess.
        """
        rivals = ["–" if rival < 0 else str(rival) for rival in self.firing.rival]
        for k in np.flatnonzero(self.firing.stronger):
            rivals[k] += " (stronger)"
        names = [*map(str, self.firing.concepts), "mean"]
        columns = [[Cell(name) for name in names]]
        for values, format_spec in (
            (self.firing.own_share, ".2f"),
            (self.firing.own_excess, "+.1f"),
            (self.firing.others_firing, ".2f"),
            (self.firing.others_share, ".3f"),
        ):
            columns.append([Cell.number(v, format_spec) for v in (*values, values.mean())])
        columns.append([Cell(rival) for rival in (*rivals, "–")])
        caption = [
            f"In {int(self.firing.fires.sum())} of {len(rivals)} images the concept's detector "
            f"fires, in {int(self.firing.alone.sum())} of them no other detector does; in "
            f"{int(self.firing.strongest.sum())} the concept's detector is the strongest.",
            f"Excess: largest z − b over the positions, in {self.unit}; a detector fires where "
            "z − b is positive.",
        ]
        return Table(_HEADERS, list(zip(*columns, strict=True)), caption)

    def __str__(self) -> str:
        return str(self.table())


def measure_firing(
    concepts: Any,
    images: ArrayLike,
    indices: int | Sequence[int] | None = None,
    *,
    scales: ArrayLike | None = None,
    batch_size: int = 64,
) -> FiringReport:
    """Measure which detectors fire in images of one concept each.

    Use the images of `maximise` or, for comparison, photographs chosen for the concepts. A good
    image makes its concept's own detector fire, and no other.

    Parameters
    ----------
    concepts : ConceptLayer or fitted extractor
        Direction pairs of I concepts at a layer of a network, as a `ConceptLayer` or as anything
        that `ConceptLayer.of` accepts as its only argument.
    images : array-like of shape (N, height, width, channels)
        Images in the network's input range.
    indices : int or sequence of N int, optional
        Index of the concept that each image should show. None: there is one image for each of the I
        concepts, in order.
    scales : array-like of shape (I,), optional
        Units in which the excess of each detector (projection minus bias) is reported, such as
        standard deviations of the projections; positive. None: the excess wᵢᵀx − b_i is reported as
        it is, which is in units of the margin 1/‖w_i‖ of filter w_i.
    batch_size : int, default=64
        Number of images in one pass.

    Returns
    -------
    report : FiringReport
        The measurements of each image, with a table.

    Raises
    ------
    TypeError
        If ``concepts`` is not an extractor, or holds no direction pairs.
    ValueError
        If the images are not valid inputs of the network; if there is not one image for each
        concept; if an index is not that of a concept; or if scales are not I positive numbers.
    """
    layer = ConceptLayer.of(concepts)
    pairs, images = layer.direction_pairs, as_images(images)
    check_integer("batch_size", batch_size)
    chosen = check_concepts(indices, pairs.number_of_concepts)
    if len(chosen) != len(images):
        raise ValueError(
            f"images must be one for each of the {len(chosen)} concepts, not {len(images)}: give "
            "the concept of each image as indices"
        )
    if scales is not None:
        scales, count = np.asarray(scales, np.float64), pairs.number_of_concepts
        if scales.shape != (count,) or not (np.isfinite(scales) & (scales > 0)).all():
            raise ValueError(
                f"scales must be {count} positive numbers, one for each concept, not {scales}"
            )
    excess = pairs.project(layer.activations(images, batch_size)) - pairs.biases
    unit = "margins" if scales is None else "units of the scales"
    return FiringReport(firing(excess, chosen, scales), unit)
