"""Encoding-decoding direction pairs: the learned value, and how it reads and writes features.

Every operation on learned pairs is a formula of this module.
Notation: D channels, I concepts; features ``x`` have any leading shape and D last, ``(..., D)``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import ArrayLike

from xplique_dirpairs.core.archives import ArchiveFormat
from xplique_dirpairs.core.linear_algebra import regularised_inverse
from xplique_dirpairs.core.types import Array
from xplique_dirpairs.core.validation import (
    check_choice,
    check_concepts,
    check_finite,
    check_number,
)

Off = Literal["absent", "undecided"]

FORMAT = ArchiveFormat(
    "xplique_dirpairs.DirectionPairs", 1, "direction pairs", "DirectionPairs.save"
)

#: Above this condition number of ŴᵀŜ a regularised inverse replaces the plain one.
WELL_CONDITIONED = 30.0


@dataclass(frozen=True, eq=False)
class DirectionPairs:
    """Filters, biases and signal vectors of I concepts in a layer of D channels; immutable.

    Rows are concepts. Reading and writing follow method sections 1 and 5 of the documentation
    (Doumanoglou et al., arXiv 2509.23926).

    Parameters
    ----------
    filters : array-like of shape (I, D)
        w_i, decoding directions. Their length is 1 / margin.
    biases : array-like of shape (I,)
        b_i: concept i is detected where ``wᵢᵀx > bᵢ``.
    signals : array-like of shape (I, D)
        ŝ_i, encoding directions; normalised to unit rows.
    mean : array-like of shape (D,)
        E[x] over the features learned from.
    absent_levels : array-like of shape (I,)
        m_i, mean of wᵢᵀx over the positions where concept i is not detected.
    recurrence : array-like of shape (I,), optional
        Share of the learner's other restarts (those that reached its last stage) in which the
        concept came back; None if there was only one restart.

    Raises
    ------
    ValueError
        If shapes disagree, a value is not finite, or a filter or signal vector is zero.
    """

    filters: Array
    biases: Array
    signals: Array
    mean: Array
    absent_levels: Array
    recurrence: Array | None = None

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if value is None and field.name == "recurrence":
                continue
            dtype = np.float64 if field.name == "signals" else np.float32
            array = _as_real(field.name, value).astype(dtype)
            if not np.isfinite(array).all():
                raise ValueError(f"{field.name} must be finite, but holds NaN or infinite values")
            object.__setattr__(self, field.name, array)
            array.setflags(write=False)
        self._check_shapes()
        lengths = np.linalg.norm(self.signals, axis=1, keepdims=True)
        is_unit = np.abs(lengths - 1.0) < 1e-6  # these rows stay the same to the last bit
        signals = np.where(is_unit, self.signals, self.signals / lengths)
        object.__setattr__(self, "signals", _frozen(signals.astype(np.float32)))

    def _check_shapes(self) -> None:
        if self.filters.ndim != 2 or 0 in self.filters.shape:
            raise ValueError(f"filters must have shape (I, D), not {self.filters.shape}")
        concepts, channels = self.filters.shape
        expected = {
            "biases": (concepts,),
            "signals": (concepts, channels),
            "mean": (channels,),
            "absent_levels": (concepts,),
            "recurrence": (concepts,),
        }
        for name, shape in expected.items():
            array = getattr(self, name)
            if array is not None and array.shape != shape:
                raise ValueError(
                    f"{name} must have shape {shape} beside filters of shape "
                    f"{self.filters.shape}, not {array.shape}"
                )
        for name in ("filters", "signals"):
            zero = np.flatnonzero(np.linalg.norm(getattr(self, name), axis=1) == 0)
            if zero.size:
                raise ValueError(f"{name} must not be zero, but rows {zero.tolist()} are")

    def __reduce__(self) -> tuple[Any, ...]:
        # Copies and pickles go through the constructor, so that their arrays are read-only as well.
        return type(self), tuple(getattr(self, field.name) for field in fields(self))

    def __repr__(self) -> str:
        return f"DirectionPairs({self.number_of_concepts} concepts, {self.channels} channels)"

    @property
    def number_of_concepts(self) -> int:
        """I."""
        return len(self.filters)

    @property
    def channels(self) -> int:
        """D."""
        return int(self.filters.shape[1])

    @cached_property
    def margins(self) -> Array:
        """M_i = 1/‖w_i‖, (I,): half-width of a detector's transition, in feature units."""
        return _frozen(1.0 / np.linalg.norm(self.filters, axis=1))

    # ---------------------------------------------------------------- reading

    def project(self, x: ArrayLike) -> Array:
        """Compute projections z = Wᵀx.

        Parameters
        ----------
        x : array-like of shape (..., D)

        Returns
        -------
        z : ndarray of shape (..., I)

        Raises
        ------
        ValueError
            If the last axis of ``x`` is not D long, or a value is NaN or infinite.
        """
        return self._project(self._as_features(x))

    def _project(self, x: Array) -> Array:
        with np.errstate(invalid="ignore", over="ignore"):
            z = x @ self.filters.T
        # Projections of features that are not finite are not finite: fewer values to check.
        check_finite("activations", z)
        return z

    def detect(self, x: ArrayLike) -> Array:
        """Compute detections y = σ(Wᵀx − b), (..., I), in [0, 1]; y > 0.5: concept detected."""
        return self._detections(self.project(x))

    def signal_values(self, x: ArrayLike) -> Array:
        """Compute signal values about their mean, α̂_i = wᵢᵀ(x − E[x]) / (wᵢᵀŝ_i), (..., I)."""
        gain = np.einsum("id,id->i", self.filters, self.signals)
        return np.asarray(self._project(self._as_features(x) - self.mean) / gain)

    def coefficients(self, x: ArrayLike, off: Off = "absent") -> Array:
        """Compute concept coefficients: how far each concept is from being switched off.

        Parameters
        ----------
        x : array-like of shape (..., D)
        off : {"absent", "undecided"}, default="absent"
            What "concept i switched off" means. ``"absent"``: its projection falls to its usual
            level where it is not detected, u_i = ReLU(wᵢᵀx − m_i) ≥ 0. ``"undecided"``: all
            detectors on their hyperplanes at once, v = (WᵀŜ)⁺(Wᵀx − b), signed.

        Returns
        -------
        coefficients : ndarray of shape (..., I)
            With ``residual = x − combine(coefficients)``, x is restored exactly.
        """
        check_choice("off", off, get_args(Off))
        return self._coefficients(self.project(x), off)

    def read(self, x: Array, off: Off = "absent") -> tuple[Array, Array]:
        """Return `coefficients` and detections of features that were checked, of one projection."""
        z = self._as_features(x) @ self.filters.T
        return self._coefficients(z, off), self._detections(z)

    def _coefficients(self, z: Array, off: Off) -> Array:
        if off == "absent":
            return np.asarray(np.maximum(z - self.absent_levels, 0.0))
        return np.asarray((z - self.biases) @ self.cross_inverse.T.astype(z.dtype))

    def _detections(self, z: Array) -> Array:
        # σ in a form that overflows at neither end.
        return np.asarray(0.5 * (1.0 + np.tanh(0.5 * (z - self.biases))))

    # ---------------------------------------------------------------- writing

    def bank(self, off: Off = "absent") -> Array:
        """Return the concept bank (I, D), ``combine(u) = u @ bank``: Bᵀ (absent), Ŝᵀ (undecided).

        B = Ŝ(WᵀŜ)⁻¹: moving along its column i changes projection i and no other. Where WᵀŜ is
        ill-conditioned (see `condition_number`) or I > D, a regularised inverse is used.
        """
        check_choice("off", off, get_args(Off))
        return self._absent_bank if off == "absent" else self.signals

    def combine(self, coefficients: ArrayLike, off: Off = "absent") -> Array:
        """Compute the part of the features that the coefficients stand for, (..., I) → (..., D).

        Parameters
        ----------
        coefficients : array-like of shape (..., I)
            As the method `coefficients` gives them, all or partly switched off.
        off : {"absent", "undecided"}, default="absent"
            The form in which they were read.
        """
        u = _as_real("coefficients", coefficients, self.number_of_concepts, "concepts")
        return np.asarray(u @ self.bank(off))

    def suppress(
        self,
        x: ArrayLike,
        concepts: int | Sequence[int],
        limits: tuple[float | None, float | None] = (None, None),
    ) -> Array:
        """Move features onto the hyperplanes of the given concepts wherever these are detected.

        x − B_C ReLU(W_Cᵀx − b_C) for the concepts C: no other concept of C is changed, and
        positions where none is detected stay as they are.

        Parameters
        ----------
        x : array-like of shape (..., D)
        concepts : int or sequence of int
            Indices of the concepts to suppress; an index given twice counts once.
        limits : (low, high), default=(None, None)
            The layer's own range, to clip the result to; ``(0, None)`` after a ReLU. Default: no
            clipping.
        """
        given = np.atleast_1d(concepts)
        features = self._as_features(x)
        check_finite("activations", features)
        if not given.size:
            return features.copy()
        chosen = list(dict.fromkeys(check_concepts(given, self.number_of_concepts).tolist()))
        filters, signals = self.filters[chosen], self.signals[chosen]
        excess = np.maximum(features @ filters.T - self.biases[chosen], 0.0)
        moved: Array = features - excess @ _absent_bank(filters, signals).astype(features.dtype)
        return moved if limits == (None, None) else np.clip(moved, *limits)

    def steer(self, x: ArrayLike, concept: int, amount: float) -> Array:
        """Compute x + amount · ŝ_concept at every position, (..., D) → (..., D)."""
        check_concepts(concept, self.number_of_concepts)
        check_number("amount", amount)
        features = self._as_features(x)
        check_finite("activations", features)
        return np.asarray(features + np.float32(amount) * self.signals[concept])

    @cached_property
    def cross_inverse(self) -> Array:
        """(WᵀŜ)⁺, (I, I) float64: from projections to coordinates along the signal vectors."""
        return _frozen(_cross_inverse(self.filters, self.signals))

    # ---------------------------------------------------------------- quality

    @cached_property
    def condition_number(self) -> float:
        """Condition number of ŴᵀŜ (unit filters, unit signal vectors); infinite if I > D.

        Margins are left out: they cancel in everything that is built on WᵀŜ.
        """
        if self.number_of_concepts > self.channels:
            return float("inf")
        return float(np.linalg.cond(_unit_gram(self.filters, self.signals)))

    @cached_property
    def bank_error(self) -> float:
        """max |WᵀB − 1|: how far moving along a column of B changes other projections."""
        product = self.filters.astype(np.float64) @ self._absent_bank.astype(np.float64).T
        return float(np.abs(product - np.eye(self.number_of_concepts)).max())

    @cached_property
    def _absent_bank(self) -> Array:
        return _frozen(_absent_bank(self.filters, self.signals).astype(np.float32))

    # ---------------------------------------------------------------- files

    def save(self, path: str | Path) -> None:
        """Write the pairs to ``path`` as a numpy archive, without pickle; no suffix is added."""
        arrays = {f.name: getattr(self, f.name) for f in fields(self)}
        FORMAT.write(path, {name: array for name, array in arrays.items() if array is not None})

    @classmethod
    def load(cls, path: str | Path) -> DirectionPairs:
        """Read pairs written by `save`.

        Raises
        ------
        FileNotFoundError, IsADirectoryError
            If there is no file at ``path``, or it is a folder.
        ValueError
            If the file is damaged, of another kind, or of a newer format than this version reads.
        """
        return FORMAT.load(path, lambda arrays, _: cls(**arrays))

    def _as_features(self, x: ArrayLike) -> Array:
        features = _as_real("features", x, self.channels, "channels")
        return features if features.dtype == np.float64 else features.astype(np.float32, copy=False)


def _unit_gram(filters: Array, signals: Array) -> Array:
    """Return ŴᵀŜ, (I, I) float64."""
    lengths = np.linalg.norm(filters.astype(np.float64), axis=1, keepdims=True)
    return np.asarray((filters / lengths) @ signals.astype(np.float64).T)


def _cross_inverse(filters: Array, signals: Array) -> Array:
    """Return (WᵀŜ)⁺, (I, I): plain where well-conditioned and I ≤ D, regularised elsewhere."""
    margins = 1.0 / np.linalg.norm(filters.astype(np.float64), axis=1)
    gram = _unit_gram(filters, signals)
    concepts, channels = filters.shape
    plain = concepts <= channels and np.linalg.cond(gram) <= WELL_CONDITIONED
    inverse = np.linalg.inv(gram) if plain else regularised_inverse(gram)
    return np.asarray(inverse * margins)


def _absent_bank(filters: Array, signals: Array) -> Array:
    """Return Bᵀ = (Ŝ(WᵀŜ)⁺)ᵀ, (I, D)."""
    return np.asarray(_cross_inverse(filters, signals).T @ signals.astype(np.float64))


def _as_real(name: str, values: ArrayLike, width: int | None = None, unit: str = "") -> Array:
    """Return real numbers, of which the last axis is ``width`` long where it is given."""
    array = np.asarray(values)
    if array.dtype.kind not in "fiub":
        raise ValueError(f"{name} must be real numbers, not {array.dtype}")
    if width is not None and array.shape[-1:] != (width,):
        raise ValueError(f"{name} must end in {width} {unit}, but have shape {array.shape}")
    return array


def _frozen(array: Array) -> Array:
    array.setflags(write=False)
    return array
