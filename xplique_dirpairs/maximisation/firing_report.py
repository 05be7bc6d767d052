"""What the network sees in pictures that were made, or chosen, for one concept each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import keras
import numpy as np
from numpy.typing import ArrayLike, NDArray

from xplique_dirpairs.core.progress import quiet
from xplique_dirpairs.core.tables import Cell, Table
from xplique_dirpairs.core.validation import check_images, check_integer
from xplique_dirpairs.data.activations import outputs_of
from xplique_dirpairs.maximisation.maximise import chosen_concepts, network_to_layer
from xplique_dirpairs.metrics.firing import Firing, firing
from xplique_dirpairs.pairs import DirectionPairs

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
    """Which detectors fire in pictures of one concept each.

    Attributes
    ----------
    firing
        The figures of each picture.
    unit
        What the excess over the bias is measured in.
    """

    firing: Firing
    unit: str = "margins"

    @property
    def figures(self) -> dict[str, float]:
        """Means over the pictures; shares in [0, 1]."""
        found = self.firing
        return {
            "fires its own detector": float(found.fires.mean()),
            "own share of positions": float(found.own_share.mean()),
            "others that fire": float(found.others_firing.mean()),
            "others, share of positions": float(found.others_share.mean()),
            "own is the strongest": float(found.strongest.mean()),
            "fires no other": float(found.alone.mean()),
        }

    def table(self) -> Table:
        """A row for each picture, and the means in the last one."""
        found = self.firing
        rows = [self._row(k) for k in range(len(found.concepts))]
        means = self.figures
        own = means["own share of positions"]
        rows.append(
            [
                Cell("mean"),
                Cell(f"{own:.2f}", numbers=(own,)),
                _number(float(found.own_excess.mean()), "+.1f"),
                _number(means["others that fire"], ".2f"),
                _number(means["others, share of positions"], ".3f"),
                Cell("–"),
            ]
        )
        count = len(found.concepts)
        caption = [
            f"{int(found.fires.sum())} of {count} pictures fire their own detector, "
            f"{int(found.alone.sum())} of them no other; in {int(found.strongest.sum())} the own "
            "detector is the strongest.",
            f"Excess: largest z − b over the positions, in {self.unit}; a detector fires where it "
            "is positive.",
        ]
        return Table(_HEADERS, rows, caption)

    def __str__(self) -> str:
        return str(self.table())

    def _row(self, k: int) -> list[Cell]:
        found = self.firing
        stronger = int(found.stronger[k])
        rival = "–" if found.rival[k] < 0 else str(found.rival[k])
        if stronger:
            rival += " (stronger)"
        return [
            Cell(str(found.concepts[k])),
            _number(float(found.own_share[k]), ".2f"),
            _number(float(found.own_excess[k]), "+.1f"),
            _number(float(found.others_firing[k]), ".2f"),
            _number(float(found.others_share[k]), ".3f"),
            Cell(rival),
        ]


def measure_firing(
    model: keras.Model,
    layer: str | int | keras.layers.Layer,
    pairs: DirectionPairs,
    images: ArrayLike,
    concepts: int | Sequence[int] | None = None,
    *,
    scales: ArrayLike | None = None,
    batch_size: int = 64,
) -> FiringReport:
    """Pass pictures of one concept each through the network, and see which detectors fire.

    For pictures of `maximise`, or, to compare, for photographs chosen for the concepts.

    Parameters
    ----------
    model, layer, pairs
        As in `maximise`.
    images : (n, height, width, channels)
        In the network's input range.
    concepts
        The concept of each image; None: image k is of concept k, of all concepts.
    scales : (I,), optional
        Units of excess, such as standard deviations of the projections. Default: margins.
    batch_size
        Images read at once.

    Raises
    ------
    TypeError, ValueError
        If images are not as the network takes them, or are not one for each of the concepts.
    """
    images = check_images(images)
    g = network_to_layer(model, layer, pairs, images.shape[1:])
    check_integer("batch_size", batch_size)
    chosen = chosen_concepts(pairs, concepts)
    if len(chosen) != len(images):
        raise ValueError(
            f"there are {len(images)} images, but {len(chosen)} concepts: one for each image is "
            "wanted"
        )
    parts = []
    for start in range(0, len(images), batch_size):
        with quiet():  # each report has a model of its own, which is traced anew
            activations = outputs_of(g, images[start : start + batch_size], batch_size)
        excess = pairs.project(activations) - pairs.biases
        parts.append(firing(excess, chosen[start : start + batch_size], scales))
    together = Firing(*(_joined(parts, name) for name in Firing.__dataclass_fields__))
    return FiringReport(together, "margins" if scales is None else "units of the scales")


def _joined(parts: Sequence[Firing], name: str) -> NDArray:
    return np.concatenate([getattr(part, name) for part in parts])


def _number(value: float, how: str) -> Cell:
    return Cell("–" if np.isnan(value) else format(value, how), numbers=(value,))
