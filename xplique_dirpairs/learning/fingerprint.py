"""What tells one fit's features and network from another's, in a few numbers."""

from __future__ import annotations

import dataclasses
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from xplique_dirpairs.learning.coordinates import Moments
from xplique_dirpairs.models.head import Head

#: Differences of mean and variance that are rounding: in standard deviations and variances.
_ROUNDING = 1e-3
#: The same of a mean far from zero, relative to it: that of float32 values.
_RELATIVE_ROUNDING = 1e-5
#: Share of the typical standard deviation below which a channel's own says nothing.
_FLOOR = 1e-3
#: Difference of `Moments.order`, where another order of all positions has about 1.4 and two images
#: of N that changed places have about 3/√N.
_OTHER_ORDER = 0.01
#: Feature maps that a head is known by: their number, and that of numbers kept of each output.
PROBES, _NUMBERS = 8, 8
#: Differences of a head's outputs that are rounding, of the features and of the network: in
#: standard deviations of the outputs.
_OUTPUT_ROUNDING = 1e-2


@dataclass(frozen=True)
class Fingerprint:
    """Of features and of a head.

    Attributes
    ----------
    mean, variances, order : (D,)
        See `Moments`.
    count
        P.
    head
        Checksum of the network's weights; 0 where it shows none.
    outputs : (n, 8)
        What the head says of the first feature maps, in 8 random combinations of the classes: tells
        apart what has the same weights, or shows none. Zeros without a head.
    """

    mean: NDArray
    variances: NDArray
    order: NDArray
    count: int
    head: int
    outputs: NDArray

    @classmethod
    def of(cls, moments: Moments, maps: NDArray, head: Head | None) -> Fingerprint:
        """Of features by their moments, and of a head by its weights and what it says of ``maps``.

        Parameters
        ----------
        moments
        maps : (n, *spatial, D)
            The first of the features, at most `PROBES`.
        head
        """
        return cls(
            mean=moments.mean,
            variances=moments.covariance.diagonal(),
            order=moments.order,
            count=moments.count,
            head=weights_checksum(head),
            outputs=_combined_outputs(head, maps),
        )

    def as_arrays(self) -> dict[str, NDArray]:
        """For a file; undone by `from_arrays`."""
        return {f"fingerprint_{k}": np.asarray(v) for k, v in vars(self).items()}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray]) -> Fingerprint:
        """Undo `as_arrays`; other arrays are left aside."""
        found: dict[str, Any] = {
            field.name: arrays[f"fingerprint_{field.name}"] for field in dataclasses.fields(cls)
        }
        return cls(**found | {name: int(found[name]) for name in ("count", "head")})

    def differences(self, other: Fingerprint) -> list[str]:
        """What is not the same, in words; more than rounding."""
        found = []
        if not self._same_values(other):
            found.append("activations")
        elif not self._same_order(other):
            found.append("order of the positions, or activations alike in mean and variance only")
        if self.head != other.head:
            found.append("weights of the head")
        elif not found and not self._same_outputs(other):
            found.append("outputs of the head")
        return found

    def _deviations(self) -> NDArray:
        """(D,), never zero: the unit of each channel."""
        return np.sqrt(self.variances + _FLOOR**2 * self.variances.mean())

    def _same_values(self, other: Fingerprint) -> bool:
        if self.mean.shape != other.mean.shape or self.count != other.count:
            return False
        unit = self._deviations()
        rounding = _ROUNDING * unit + _RELATIVE_ROUNDING * np.abs(self.mean)
        moved = np.abs(self.mean - other.mean) > rounding
        wider = np.abs(self.variances - other.variances) > _ROUNDING * unit**2
        return not (moved.any() or wider.any())

    def _same_order(self, other: Fingerprint) -> bool:
        difference = (self.order - other.order) / self._deviations()
        return float(np.sqrt(self.count * np.square(difference).mean())) < _OTHER_ORDER

    def _same_outputs(self, other: Fingerprint) -> bool:
        ours, others = self.outputs, other.outputs
        if ours.shape != others.shape:
            return False
        rounding = _OUTPUT_ROUNDING * ours.std() + _RELATIVE_ROUNDING * np.abs(ours).max()
        return bool(np.abs(ours - others).max() <= rounding)


def _combined_outputs(head: Head | None, maps: NDArray) -> NDArray:
    """(n, 8), float64: as long for any number of classes, which workers may not agree about."""
    if head is None:
        return np.zeros((len(maps), _NUMBERS))
    outputs = tf.cast(head.outputs(tf.constant(maps)), tf.float32).numpy().astype(np.float64)
    return outputs @ np.random.default_rng(0).standard_normal((outputs.shape[1], _NUMBERS))


def weights_checksum(head: Head | None) -> int:
    """Of a Keras model's weights; 0 without a head, or for one that is another callable."""
    if head is None or not isinstance(head.model, keras.Model):
        return 0
    checksum = 0
    for weights in head.model.get_weights():
        checksum = zlib.crc32(np.ascontiguousarray(weights).tobytes(), checksum)
    return checksum
