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
    """Report of which detectors fire in images that each should show one concept.

    `measure_firing` creates it, from maximised images or others.

    Attributes
    ----------
    firing : Firing
        The measurements of each image.
    unit : str, default="margins"
        Unit of the excess z_i − b_i of a projection over the detector's bias: "margins" are
        1/‖w_i‖, as in `DirectionPairs.margins`.
    """

    firing: Firing
    unit: str = "margins"

    @property
    def figures(self) -> dict[str, float]:
        """Means over the images of every measurement, by name; shares are in [0, 1]."""
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
        """Return a table with a row for each image, and the means in the last row."""
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

    Use the images of `maximise` or, for comparison, photographs chosen for the concepts.

    Parameters
    ----------
    concepts : ConceptLayer or object
        See `maximise`.
    images : array-like of shape (N, height, width, channels)
        Images in the network's input range.
    indices : int or sequence of int, optional
        The concept of each image. None: there is one image for each concept, in order.
    scales : array-like of shape (I,), optional
        Units of the excess, such as standard deviations of the projections. None: margins.
    batch_size : int, default=64
        Number of images in one pass.

    Returns
    -------
    report : FiringReport
        The measurements, with a table.

    Raises
    ------
    TypeError, ValueError
        If the concepts are not direction pairs, the images are not valid inputs of the network, or
        the number of images is not that of the concepts.
    """
    layer = ConceptLayer.of(concepts)
    pairs, images = layer.direction_pairs, as_images(images)
    check_integer("batch_size", batch_size)
    chosen = check_concepts(indices, pairs.number_of_concepts)
    if len(chosen) != len(images):
        raise ValueError(
            f"images must be one for each of the {len(chosen)} concepts, not {len(images)}"
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
