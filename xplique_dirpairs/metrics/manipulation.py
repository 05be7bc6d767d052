"""Switching concepts off, and what the network says then.

Concepts are switched off in coefficient space and the residual is kept, by masks m in [0, 1]^I:

    x' = clip(x − ((1 − m) ⊙ u) B, low, high)          m = 1: intact; m = 0: every concept off

so every extractor starts from the network's true output, and no manipulation can leave the layer's
range.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from xplique_dirpairs.metrics.predictions import (
    FINAL_ACTIVATIONS,
    class_probabilities,
    entropy_bits,
)

#: Floats of manipulated features held at a time, 16 MB: enough to feed the network.
CHUNK_FLOATS = 2**22


class Outcomes(NamedTuple):
    """What comes of M masks on each of N images, (N, M) each.

    Attributes
    ----------
    logits
        Logit of the image's class.
    probabilities
        Its probability.
    entropies
        Entropy of the whole prediction, in bits.
    changed
        ‖x' − x‖_F / ‖x‖_F; NaN for an image whose features are all 0.
    """

    logits: NDArray
    probabilities: NDArray
    entropies: NDArray
    changed: NDArray


@dataclass(frozen=True, eq=False)
class Reading:
    """What an extractor reads in N images, and the rest of the network.

    Parameters
    ----------
    activations : (N, *S, D)
        Features x at the layer; S are no, one or two axes of positions. Kept in float32.
    coefficients : (N, *S, I)
        u = encode(x), of either sign.
    bank : (I, D)
        B, the concept bank: decode(u') − decode(u) = (u' − u) B.
    predict
        (n, *S, D) float32 → logits (n, K), as a numpy array.
    class_ids : (N,) int
        The class whose score counts, for each image.
    limits : (low, high)
        The layer's range, numbers or (D,); ±inf where it has no end. ``activations`` lie in it.
    final_activation
        "softmax", or "sigmoid" where the network's outputs are independent of one another (a
        network with one output has class 0).

    Raises
    ------
    ValueError
        If shapes do not fit, values are not finite, ``limits`` are not in order or exclude some
        activations, or ``class_ids`` are not classes; from `logits` if ``predict`` returns
        anything but finite (n, K) logits.
    TypeError
        If ``predict`` is not callable or ``class_ids`` are not integers.
    """

    activations: NDArray
    coefficients: NDArray
    bank: NDArray
    predict: Callable[[NDArray], NDArray]
    class_ids: NDArray
    limits: tuple[ArrayLike, ArrayLike]
    final_activation: str = "softmax"

    def __post_init__(self) -> None:
        x = finite_float32("activations", self.activations)
        u = finite_float32("coefficients", self.coefficients)
        bank = finite_float32("bank", self.bank)
        if x.ndim < 2 or x.size == 0:
            raise ValueError(f"activations must be (N, *positions, D), but have shape {x.shape}")
        if u.ndim != x.ndim or u.shape[:-1] != x.shape[:-1] or u.shape[-1] == 0:
            raise ValueError(
                f"coefficients must be {(*x.shape[:-1], 'I')} for activations of shape {x.shape}, "
                f"but have shape {u.shape}"
            )
        if bank.shape != (u.shape[-1], x.shape[-1]):
            raise ValueError(
                f"bank must be (I, D) = {(u.shape[-1], x.shape[-1])}, but has shape {bank.shape}"
            )
        if not callable(self.predict):
            raise TypeError(f"predict must be callable, not {type(self.predict).__name__}")
        if self.final_activation not in FINAL_ACTIVATIONS:
            raise ValueError(
                f"final_activation must be one of {FINAL_ACTIVATIONS}, "
                f"not {self.final_activation!r}"
            )
        checked = {
            "activations": x,
            "coefficients": u,
            "bank": bank,
            "class_ids": _checked_class_ids(self.class_ids, len(x)),
            "limits": _checked_limits(self.limits, x),
        }
        for name, value in checked.items():
            object.__setattr__(self, name, value)

    @property
    def number_of_images(self) -> int:
        """N."""
        return len(self.activations)

    @property
    def number_of_concepts(self) -> int:
        """I."""
        return len(self.bank)

    def logits(self, features: NDArray) -> NDArray:
        """``predict``, its answer checked: finite logits, (n, K), with all ``class_ids``."""
        logits = np.asarray(self.predict(features))
        if logits.ndim != 2 or len(logits) != len(features):
            raise ValueError(
                f"predict must return logits ({len(features)}, K) for {len(features)} images, "
                f"but they have shape {logits.shape}"
            )
        if not np.isfinite(logits).all():
            raise ValueError("predict returned logits that are not finite")
        classes = logits.shape[1]
        if classes == 1 and self.final_activation == "softmax":
            raise ValueError(
                "a softmax over one output is always 1: pass final_activation='sigmoid' for a "
                "network with one output"
            )
        if self.class_ids.max() >= classes:
            raise ValueError(
                f"class_ids must be below {classes}, the number of the network's outputs, but "
                f"{self.class_ids.max()} is among them"
            )
        return logits

    @cached_property
    def norms(self) -> NDArray:
        """‖x‖_F of every image, (N,)."""
        return _norms(self.activations)

    @cached_property
    def intact_logits(self) -> NDArray:
        """The network's own logits, (N, K)."""
        return np.concatenate(
            [self.logits(self.activations[rows]) for rows in self.chunks(self.number_of_images)]
        )

    @cached_property
    def intact(self) -> Outcomes:
        """`outcomes` of the untouched features, (N, 1) each."""
        changed = np.where(self.norms == 0, np.nan, 0.0)
        return _outcomes(
            self, self.intact_logits, np.arange(self.number_of_images), changed[:, None]
        )

    @cached_property
    def all_off(self) -> Outcomes:
        """`outcomes` with every concept off, (N, 1) each."""
        return outcomes(self, np.zeros((1, self.number_of_concepts)))

    def chunks(self, count: int) -> Iterator[NDArray]:
        """Indices 0 … count − 1 in parts whose features take at most `CHUNK_FLOATS` floats."""
        at_once = max(1, CHUNK_FLOATS // self.activations[0].size)
        for start in range(0, count, at_once):
            yield np.arange(start, min(start + at_once, count))


def outcomes(reading: Reading, masks: ArrayLike) -> Outcomes:
    """What the network says with concepts switched off by masks.

    Parameters
    ----------
    reading
    masks : (M, I), or (N, M, I) with masks for each image
        In [0, 1]: 0 is off, 1 is on.

    Returns
    -------
    outcomes : (N, M) each

    Raises
    ------
    ValueError
        If ``masks`` have another shape.
    """
    images, concepts = reading.number_of_images, reading.number_of_concepts
    off = 1.0 - np.asarray(masks, np.float32)
    if off.ndim not in (2, 3) or off.shape not in (off.shape[-2:], (images, *off.shape[-2:])):
        raise ValueError(f"masks must be (M, I) or (N, M, I) with N = {images}, not {off.shape}")
    if off.shape[-1] != concepts:
        raise ValueError(f"masks must be about {concepts} concepts, not {off.shape[-1]}")
    count = off.shape[-2]
    off = np.broadcast_to(off, (images, count, concepts))
    found = np.empty((len(Outcomes._fields), images * count))
    for rows in reading.chunks(images * count):
        image, mask = np.divmod(rows, count)
        x = reading.activations[image]
        moved = _moved(reading, x, image, off[image, mask])
        np.clip(moved, *reading.limits, out=moved)
        norms = reading.norms[image]
        changed = _norms(np.subtract(moved, x, out=x))
        changed = np.divide(changed, norms, out=np.full(len(rows), np.nan), where=norms > 0)
        found[:, rows] = _outcomes(reading, reading.logits(moved), image, changed)
    return Outcomes(*found.reshape(len(found), images, count))


def all_off_negative_mass(reading: Reading) -> NDArray:
    """Mass outside the layer's range with every concept off and nothing clipped.

    ‖x° − clip(x°)‖₁ / ‖x‖₁ with x° = x − u B. Of the intact features' mass, so that extractors
    compare; at a ReLU layer it is the mass of the negative features.

    Returns
    -------
    mass : (N,)
        ≥ 0, and above 1 where the off-state is far out; NaN for an image whose features are all 0.
    """
    mass = np.full(reading.number_of_images, np.nan)
    for image in reading.chunks(reading.number_of_images):
        x = reading.activations[image]
        moved = _moved(reading, x, image, np.ones((len(image), 1), np.float32))
        outside = np.subtract(moved, np.clip(moved, *reading.limits), out=moved)
        own, out = _masses(x), _masses(outside)
        mass[image] = np.divide(out, own, out=np.full(len(image), np.nan), where=own > 0)
    return mass


def _moved(reading: Reading, x: NDArray, image: NDArray, off: NDArray) -> NDArray:
    """x − (off ⊙ u) B, not clipped; off (n, I) or (n, 1)."""
    off = off.reshape(len(image), *[1] * (x.ndim - 2), off.shape[-1])
    taken = reading.coefficients[image] * off
    step = (taken.reshape(-1, taken.shape[-1]) @ reading.bank).reshape(x.shape)
    return np.subtract(x, step, out=step)


def _outcomes(reading: Reading, logits: NDArray, image: NDArray, changed: NDArray) -> Outcomes:
    kind, class_ids = reading.final_activation, reading.class_ids[image]
    row = np.arange(len(image))
    of_class, probabilities, entropies = (
        values.reshape(changed.shape)
        for values in (
            logits[row, class_ids].astype(np.float64),
            class_probabilities(logits, kind)[row, class_ids],
            entropy_bits(logits, kind),
        )
    )
    return Outcomes(of_class, probabilities, entropies, changed)


def _norms(features: NDArray) -> NDArray:
    flat = features.reshape(len(features), -1)
    # BLAS dot products: no squares in memory, and more exact than a float32 running sum
    return np.sqrt(np.matmul(flat[:, None, :], flat[:, :, None]).reshape(-1).astype(np.float64))


def _masses(features: NDArray) -> NDArray:
    return np.abs(features).reshape(len(features), -1).sum(axis=1, dtype=np.float64)


def finite_float32(name: str, values: ArrayLike) -> NDArray:
    """The values as a float32 array.

    Raises
    ------
    ValueError
        If they are not numbers, or not finite.
    """
    try:
        with np.errstate(over="ignore"):  # what overflows is refused below
            array = np.ascontiguousarray(values, dtype=np.float32)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name} must be an array of numbers: {error}") from error
    # the extremes show any NaN or infinity without an array of flags as large as the features
    if array.size and not (np.isfinite(array.min()) and np.isfinite(array.max())):
        raise ValueError(f"{name} must be finite in float32, but hold NaN or infinite values")
    return array


def _checked_class_ids(class_ids: ArrayLike, images: int) -> NDArray:
    ids = np.asarray(class_ids)
    if not np.issubdtype(ids.dtype, np.integer):
        raise TypeError(f"class_ids must be integers, not {ids.dtype}")
    if ids.shape != (images,):
        raise ValueError(f"class_ids must be one for each of {images} images, not {ids.shape}")
    if ids.min() < 0:
        raise ValueError(f"class_ids must not be negative, but {ids.min()} is among them")
    return ids


def _checked_limits(limits: tuple[ArrayLike, ArrayLike], x: NDArray) -> tuple[NDArray, NDArray]:
    try:
        low, high = (np.asarray(limit, np.float32) for limit in limits)
    except (TypeError, ValueError) as error:
        raise ValueError(f"limits must be (low, high), numbers or arrays (D,): {error}") from error
    channels = x.shape[-1:]
    if any(limit.shape not in ((), channels) for limit in (low, high)):
        raise ValueError(
            f"limits must be numbers or arrays {channels}, but have shapes {low.shape} and "
            f"{high.shape}"
        )
    if not (low <= high).all():
        raise ValueError("limits must be in order, low ≤ high, and not NaN")
    per_channel = x.reshape(-1, *channels)
    if (per_channel.min(axis=0) < low).any() or (per_channel.max(axis=0) > high).any():
        raise ValueError(
            f"limits must hold the activations, which reach from {x.min():g} to {x.max():g}: widen "
            "them, or the untouched features would be changed"
        )
    return low, high
