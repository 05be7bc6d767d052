"""Which detectors fire in images that were generated, or chosen, for one concept each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from xplique_dirpairs.core.batching import slices
from xplique_dirpairs.core.tables import Cell, Table
from xplique_dirpairs.core.validation import as_images, check_concepts, check_integer
from xplique_dirpairs.extractors.concept_layer import ConceptLayer
from xplique_dirpairs.maximisation.maximise import pairs_of
from xplique_dirpairs.metrics.firing import Firing, firing

_HEADERS = (
    "concept",
    "own fires, share of positions",
    "own excess",
    "others that fire",
    "others, share of positions",
    "strongest other",
)


@dataclass(frozen=True, eq=False)
class FiringReport:
    """Which detectors fire in images of one concept each.

    Attributes
    ----------
    firing : Firing
        The figures of each image.
    unit : str
        Unit of the excess over the bias.
    """

    firing: Firing
    unit: str = "margins"

    @property
    def figures(self) -> dict[str, float]:
        """Means over the images; shares in [0, 1]."""
        columns = {
            "fires its own detector": self.firing.fires,
            "own share of positions": self.firing.own_share,
            "others that fire": self.firing.others_firing,
            "others, share of positions": self.firing.others_share,
            "own is the strongest": self.firing.strongest,
            "fires no other": self.firing.alone,
        }
        return {name: float(values.mean()) for name, values in columns.items()}

    def table(self) -> Table:
        """Return a table with a row for each image, and the means in the last one."""
        figures = (
            (self.firing.own_share, ".2f"),
            (self.firing.own_excess, "+.1f"),
            (self.firing.others_firing, ".2f"),
            (self.firing.others_share, ".3f"),
        )
        rows = []
        for k, concept in enumerate(self.firing.concepts):
            rival = "–" if self.firing.rival[k] < 0 else str(self.firing.rival[k])
            if self.firing.stronger[k]:
                rival += " (stronger)"
            cells = [Cell.number(values[k], format_spec) for values, format_spec in figures]
            rows.append([Cell(str(concept)), *cells, Cell(rival)])
        means = [Cell.number(values.mean(), format_spec) for values, format_spec in figures]
        rows.append([Cell("mean"), *means, Cell("–")])
        caption = [
            f"{int(self.firing.fires.sum())} of {len(self.firing.concepts)} pictures fire their "
            f"own detector, {int(self.firing.alone.sum())} of them no other; in "
            f"{int(self.firing.strongest.sum())} the own detector is the strongest.",
            f"Excess: largest z − b over the positions, in {self.unit}; a detector fires where it "
            "is positive.",
        ]
        return Table(_HEADERS, rows, caption)

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

    The images are those of `maximise`, or, as a reference, photographs chosen for the concepts.

    Parameters
    ----------
    concepts : ConceptLayer or object
        As in `maximise`.
    images : array-like of shape (n, height, width, C)
        In the network's input range.
    indices : int or sequence of int, optional
        The concept of each image; None: image k is of concept k, of all concepts.
    scales : array-like of shape (I,), optional
        Units of excess, such as standard deviations of the projections. None: margins.
    batch_size : int, default=64
        Images in one pass.

    Returns
    -------
    report : FiringReport

    Raises
    ------
    TypeError, ValueError
        If the concepts are no direction pairs, images are not as the network takes them, or there
        is not one for each of the concepts.
    """
    layer = ConceptLayer.of(concepts)
    pairs, images = pairs_of(layer), as_images(images)
    check_integer("batch_size", batch_size)
    chosen = check_concepts(indices, pairs.number_of_concepts)
    if len(chosen) != len(images):
        raise ValueError(
            f"there are {len(images)} images, but {len(chosen)} concepts: give one image for each"
        )
    if scales is not None:
        scales = np.asarray(scales, np.float64)
        if scales.shape != (pairs.number_of_concepts,) or not (
            np.isfinite(scales).all() and scales.min() > 0
        ):
            raise ValueError(
                f"scales must be {pairs.number_of_concepts} positive numbers, one for each "
                f"concept, not {scales}"
            )
    parts = []
    for part in slices(len(images), batch_size):
        excess = pairs.project(layer.activations(images[part], batch_size)) - pairs.biases
        parts.append(firing(excess, chosen[part], scales))
    columns = (
        np.concatenate([getattr(part, field.name) for part in parts]) for field in fields(Firing)
    )
    return FiringReport(Firing(*columns), "margins" if scales is None else "units of the scales")
