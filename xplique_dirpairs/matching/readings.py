"""Values and firings of the concepts of one network on the grid that all networks share."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike

from xplique_dirpairs.core.batching import POSITIONS, as_positions, by_position
from xplique_dirpairs.core.types import Array
from xplique_dirpairs.data.alignment import Grid, as_maps, to_grid
from xplique_dirpairs.extractors.concept_reader import ConceptReader
from xplique_dirpairs.metrics.blend import firing_thresholds

#: Coefficients have two ends if some are below 0 by more than this share of the largest: not by
#: rounding only.
_TWO_ENDED = 0.01


@dataclass(frozen=True, eq=False)
class Readings:
    """The concepts of one network, and what "fires" means for each of them.

    Attributes
    ----------
    reader : ConceptReader
        The I concepts.
    maps : ndarray of shape (N, H, W, D)
        Features of the images, on the grid of the network itself.
    grid : (int, int)
        Grid that all networks share, h × w.
    by : {"coefficients", "detections"}
        What the values of concepts are.
    signs : ndarray of shape (I,)
        1 or −1: the sign with which coefficients are taken. A concept without detector whose
        coefficients have both signs may stand for either end.
    two_ended : bool
        Whether signs may be turned: the values of the other sign are then −1 times these.
    thresholds : ndarray of shape (2, I)
        Value above which a concept without detector fires, for the signs 1 and −1.
    centre : ndarray of shape (I,)
        Mean of the values in the sample from which all this was found.
    """

    reader: ConceptReader
    maps: Array
    grid: Grid
    by: str
    signs: Array
    two_ended: bool
    thresholds: Array
    centre: Array

    @classmethod
    def of(
        cls,
        reader: ConceptReader,
        maps: Array,
        grid: Grid,
        by: str,
        rate: float,
        threshold: float | None,
        images: Array,
    ) -> Readings:
        """Find signs and thresholds from some of the images.

        Concepts without detectors fire where their coefficients are above the threshold, or for
        None above that of `metrics.blend.firing_thresholds`.
        """
        count = len(reader.bank)
        readings = cls(
            reader, maps, grid, by, np.ones(count), False, np.zeros((2, count)), np.zeros(count)
        )
        number = max(2, min(len(images), POSITIONS // (grid[0] * grid[1])))
        sample = images[np.linspace(0, len(images) - 1, number).round().astype(int)]
        if reader.pairs is not None:
            return replace(readings, centre=as_positions(readings.read(sample)[0]).mean(axis=0))
        u = as_positions(readings._coefficients(maps[sample])).astype(np.float64)
        two_ended = bool(-u.min() > _TWO_ENDED * np.abs(u).max())
        skewness = np.mean((u - u.mean(axis=0)) ** 3, axis=0)
        signs = np.where(two_ended & (skewness < 0), -1.0, 1.0)
        limits = np.stack([firing_thresholds(end, rate) for end in (u, -u)])
        readings = replace(
            readings,
            signs=signs,
            two_ended=two_ended and by == "coefficients",
            thresholds=limits if threshold is None else np.full_like(limits, threshold),
        )
        return replace(readings, centre=as_positions(readings.read(sample)[0]).mean(axis=0))

    def turned(self, concepts: Array) -> Readings:
        """Return the readings with the signs of some concepts turned."""
        signs = self.signs.copy()
        signs[concepts] *= -1.0
        return replace(self, signs=signs)

    def read(self, images: Array) -> tuple[Array, Array]:
        """Return values (n, h, w, I) float32 and firings (n, h, w, I) bool in some images."""
        maps = self.maps[images]
        if self.reader.pairs is not None:
            detections = to_grid(by_position(self.reader.pairs.detect, maps), self.grid)
            detected = self.by == "detections"
            return detections if detected else self._coefficients(maps), detections > 0.5
        u = self._coefficients(maps) * self.signs.astype(np.float32)
        thresholds = np.where(self.signs > 0, *self.thresholds)
        fires = u > thresholds
        return (u if self.by == "coefficients" else fires.astype(np.float32)), fires

    def features(self, images: Array) -> Array:
        """Return features (n, h, w, D) of some images on the shared grid."""
        return to_grid(self.maps[images], self.grid)

    def _coefficients(self, maps: Array) -> Array:
        """Return coefficients on the shared grid: read on the network's own, then averaged."""
        return to_grid(by_position(self.reader.encode, maps), self.grid)


def maps_of(reader: ConceptReader, activations: ArrayLike, name: str) -> Array:
    """Return activations as maps of the channels that the concepts are read from.

    Raises
    ------
    ValueError
        If the activations have another number of channels, or tokens form no square.
    """
    maps = as_maps(activations, name, reader.extra_tokens)
    if maps.shape[-1] != reader.bank.shape[1]:
        raise ValueError(
            f"{name}: the concepts were learned in {reader.bank.shape[1]} channels, but its "
            f"activations have {maps.shape[-1]}: give the activations of its own layer"
        )
    return maps
