"""Learned encoding-decoding direction pairs, and how they read and write features.

This module holds the formula of every operation on learned pairs.
Notation: D channels, I concepts; features ``x`` have shape ``(..., D)``, with any leading axes.
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
from xplique_dirpairs.core.linear_algebra import lengths_of, read_only, regularised_inverse
from xplique_dirpairs.core.types import Array
from xplique_dirpairs.core.validation import (
    check_choice,
    check_concepts,
    check_finite,
    check_number,
    check_real,
)

Off = Literal["absent", "undecided"]

FORMAT = ArchiveFormat(
    "xplique_dirpairs.DirectionPairs", 1, "direction pairs", "DirectionPairs.save"
)

#: Above this condition number of ŴᵀŜ, a regularised inverse replaces the ordinary one.
WELL_CONDITIONED = 30.0


@dataclass(frozen=True, eq=False)
class DirectionPairs:
    """Filters, biases and signal vectors of I concepts in a layer of D channels; immutable.

    Features x are the D activations of the layer at one position (a cell of a feature map, or a
    token). Filters, biases and signal vectors are those of Doumanoglou et al. (arXiv 2509.23926);
    the paper has no absent levels. Row or entry i of an array belongs to concept i.

    Parameters
    ----------
    filters : array-like of shape (I, D)
        Decoding directions w_i. The longer w_i, the more steeply the detection σ(wᵢᵀx − bᵢ) rises
        from 0 to 1: see `margins`.
    biases : array-like of shape (I,)
        Thresholds b_i: concept i is detected where ``wᵢᵀx > bᵢ``.
    signals : array-like of shape (I, D)
        Signal vectors ŝ_i, the encoding directions. Rows are normalised to unit length.
    mean : array-like of shape (D,)
        Mean E[x] of the features that the pairs were learned from.
    absent_levels : array-like of shape (I,)
        Mean m_i of wᵢᵀx over the positions where concept i is not detected.
    recurrence : array-like of shape (I,), optional
        Share of the other restarts of the learning, in [0, 1], in which concept i was found again:
        projections wᵀx on one of their filters correlate by at least 0.9 with those on w_i. Only
        restarts that ran to the end count. None: there was no other restart.

    Raises
    ------
    ValueError
        If shapes disagree, a value is not a finite real number, or a filter or signal vector is
        zero.
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
            with np.errstate(over="ignore"):  # overflow is found below
                array = check_real(field.name, value).astype(dtype)
            if not np.isfinite(array).all():
                raise ValueError(f"{field.name} must be finite, but holds NaN or infinite values")
            object.__setattr__(self, field.name, array)
            array.setflags(write=False)
        self._check_shapes()
        lengths = lengths_of(self.signals)[:, None]
        is_unit = np.abs(lengths - 1.0) < 1e-6  # these rows are kept bit for bit
        signals = np.where(is_unit, self.signals, self.signals / lengths)
        object.__setattr__(self, "signals", read_only(signals.astype(np.float32)))

    def _check_shapes(self) -> None:
        if self.filters.ndim != 2 or 0 in self.filters.shape:
            raise ValueError(f"filters must have shape (I, D), not {self.filters.shape}")
        concepts, channels = self.filters.shape
        per_concept = ("biases", "absent_levels", "recurrence")
        expected: dict[str, tuple[int, ...]] = dict.fromkeys(per_concept, (concepts,))
        expected |= {"signals": (concepts, channels), "mean": (channels,)}
        for name, shape in expected.items():
            array = getattr(self, name)
            if array is not None and array.shape != shape:
                raise ValueError(
                    f"{name} must have shape {shape} beside filters of shape "
                    f"{self.filters.shape}, not {array.shape}"
                )
        for name in ("filters", "signals"):
            zero = np.flatnonzero(lengths_of(getattr(self, name)) == 0)
            if zero.size:
                raise ValueError(f"{name} must have no zero row, but rows {zero.tolist()} are zero")

    def __reduce__(self) -> tuple[Any, ...]:
        # Copies and pickles are built by the constructor, so that their arrays are read-only too.
        return type(self), tuple(getattr(self, field.name) for field in fields(self))

    def __repr__(self) -> str:
        return f"DirectionPairs({self.number_of_concepts} concepts, {self.channels} channels)"

    @property
    def number_of_concepts(self) -> int:
        """Number of concepts, I."""
        return len(self.filters)

    @property
    def channels(self) -> int:
        """Number of channels, D."""
        return int(self.filters.shape[1])

    @cached_property
    def margins(self) -> Array:
        """Margins M_i = 1/‖w_i‖ of the I detectors with filters w_i, (I,), in feature units.

        A step of length M_i along w_i raises a detection from 0.5 to σ(1) = 0.73.
        """
        return read_only((1.0 / lengths_of(self.filters)).astype(np.float32))

    def project(self, x: ArrayLike) -> Array:
        """Compute the projections of features on the filters, z_i = wᵢᵀx for concept i.

        Parameters
        ----------
        x : array-like of shape (..., D)
            Features of D channels, with any leading axes.

        Returns
        -------
        z : ndarray of shape (..., I)
            Projection on the filter of each of the I concepts.

        Raises
        ------
        ValueError
            If ``x`` holds NaN or infinite values, or its last axis does not have length D.
        """
        return self._project(self._as_features(x))

    def _project(self, x: Array) -> Array:
        with np.errstate(invalid="ignore", over="ignore"):
            z = x @ self.filters.T
        # Features that are not finite have projections that are not, and these are fewer to check.
        check_finite("activations", z)
        return z

    def detect(self, x: ArrayLike) -> Array:
        """Compute the detections y_i = σ(wᵢᵀx − bᵢ), with filter w_i and bias b_i of concept i.

        Parameters
        ----------
        x : array-like of shape (..., D)
            Features of D channels, with any leading axes.

        Returns
        -------
        y : ndarray of shape (..., I)
            Detections in [0, 1], with the logistic function σ. Concept i is detected where y_i >
            0.5.

        Raises
        ------
        ValueError
            If ``x`` holds NaN or infinite values, or its last axis does not have length D.
        """
        return self._detections(self.project(x))

    def signal_values(self, x: ArrayLike) -> Array:
        """Estimate how much more of each signal vector features hold than the mean features E[x].

        For filter w_i, signal vector ŝ_i and the attribute ``mean``, E[x]: α̂_i = wᵢᵀ(x − E[x]) /
        (wᵢᵀŝᵢ).

        Parameters
        ----------
        x : array-like of shape (..., D)
            Features of D channels, with any leading axes.

        Returns
        -------
        values : ndarray of shape (..., I)
            Signal values α̂ of the I concepts, in feature units; 0 for x = E[x].

        Raises
        ------
        ValueError
            If ``x`` holds NaN or infinite values, or its last axis does not have length D; or if a
            filter is orthogonal to its signal vector.
        """
        gain = np.einsum("id,id->i", self.filters, self.signals)
        z = self._project(self._as_features(x) - self.mean)
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            values = np.asarray(z / gain)
        lost = np.flatnonzero(~np.isfinite(values.reshape(-1, len(gain))).all(axis=0))
        if lost.size:
            raise ValueError(f"filters {lost.tolist()} are orthogonal to their signal vectors")
        return values

    def coefficients(self, x: ArrayLike, off: Off = "absent") -> Array:
        """Compute the concept coefficients: how far each concept is from being switched off.

        Concept i has filter w_i, bias b_i, absent level m_i and signal vector ŝ_i; the columns of W
        and Ŝ are all filters and all signal vectors.

        Parameters
        ----------
        x : array-like of shape (..., D)
            Features of D channels, with any leading axes.
        off : {"absent", "undecided"}, default="absent"
            What a coefficient of 0 means. ``"absent"``: the projection wᵢᵀx is at most the absent
            level m_i; coefficients are u_i = ReLU(wᵢᵀx − mᵢ) ≥ 0. ``"undecided"``: if all
            coefficients are 0, all detections are 0.5; they are v = (WᵀŜ)⁺(Wᵀx − b), of both signs.

        Returns
        -------
        coefficients : ndarray of shape (..., I)
            Coefficients of the I concepts. The residual ``x − combine(coefficients, off)`` is what
            they do not explain; features with changed coefficients are ``combine(changed, off)``
            plus the same residual.

        Raises
        ------
        ValueError
            If ``x`` is not finite, its last axis is not D long, or ``off`` is invalid.
        """
        check_choice("off", off, get_args(Off))
        return self._coefficients(self.project(x), off)

    def read(self, x: Array, off: Off = "absent") -> tuple[Array, Array]:
        """Compute `coefficients` and `detect` together, which is faster, without checking ``x``.

        Parameters
        ----------
        x : ndarray of shape (..., D)
            Features of D channels, with any leading axes; NaN and infinite values are not noticed.
        off : {"absent", "undecided"}, default="absent"
            What a coefficient of 0 means, as in the method `coefficients`.

        Returns
        -------
        coefficients, detections : ndarray of shape (..., I)
            Coefficients of the I concepts, and their detections in [0, 1].
        """
        z = self._as_features(x) @ self.filters.T
        return self._coefficients(z, off), self._detections(z)

    def _coefficients(self, z: Array, off: Off) -> Array:
        if off == "absent":
            return np.asarray(np.maximum(z - self.absent_levels, 0.0))
        return np.asarray((z - self.biases) @ self.cross_inverse.T.astype(z.dtype))

    def _detections(self, z: Array) -> Array:
        # This form of σ overflows neither for large nor for small values.
        return np.asarray(0.5 * (1.0 + np.tanh(0.5 * (z - self.biases))))

    def bank(self, off: Off = "absent") -> Array:
        """Return the concept bank: row i is what one unit of coefficient i adds to the features.

        The columns of W and Ŝ are the I filters and signal vectors. A move along column i of
        B = Ŝ(WᵀŜ)⁻¹ changes the projection on filter i and on no other. If `condition_number` is
        above 30, a regularised inverse is used, with errors of up to `bank_error`.

        Parameters
        ----------
        off : {"absent", "undecided"}, default="absent"
            State of a concept whose coefficient is 0, as given to the method `coefficients`.

        Returns
        -------
        bank : ndarray of shape (I, D)
            In the D channels: Bᵀ for ``"absent"``, the signal vectors for ``"undecided"``.

        Raises
        ------
        ValueError
            If ``off`` is not one of its values.
        """
        check_choice("off", off, get_args(Off))
        return self._absent_bank if off == "absent" else self.signals

    def combine(self, coefficients: ArrayLike, off: Off = "absent") -> Array:
        """Compute the part of the features that the coefficients explain.

        Parameters
        ----------
        coefficients : array-like of shape (..., I)
            Coefficients of the I concepts, from the method `coefficients` and possibly changed.
        off : {"absent", "undecided"}, default="absent"
            The value with which the coefficients were computed.

        Returns
        -------
        features : ndarray of shape (..., D)
            ``coefficients @ bank(off)``, in the D channels; the residual is not added.

        Raises
        ------
        ValueError
            If the last axis of ``coefficients`` is not I long, or ``off`` is not one of its values.
        """
        u = check_real("coefficients", coefficients, self.number_of_concepts, "concepts")
        return np.asarray(u @ self.bank(off))

    def suppress(
        self,
        x: ArrayLike,
        concepts: int | Sequence[int],
        limits: tuple[float | None, float | None] = (None, None),
    ) -> Array:
        """Move features onto the hyperplanes of the given concepts wherever these are detected.

        On its hyperplane, a concept has detection 0.5. For the set C of given concepts, with
        filters W_C, biases b_C and signal vectors Ŝ_C, x − B_C ReLU(W_Cᵀx − b_C) is computed, where
        B_C = Ŝ_C(W_CᵀŜ_C)⁻¹. Suppressing one concept of C does not change the detections of the
        others, and positions where none of them is detected stay as they are.

        Parameters
        ----------
        x : array-like of shape (..., D)
            Features of D channels, with any leading axes.
        concepts : int or sequence of int
            Indices of the concepts to suppress. Repeated indices count once.
        limits : tuple of (float or None, float or None), default=(None, None)
            Lower and upper end of the layer's range, to which the result is clipped, such as
            ``(0, None)`` after a ReLU. None: this end is not clipped.

        Returns
        -------
        moved : ndarray of shape (..., D)
            Features in which the given concepts have detections of at most 0.5, before clipping.

        Raises
        ------
        ValueError
            If ``x`` is not finite, its last axis is not D long, or an index is no concept's.
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
        """Add a multiple of a concept's unit signal vector ŝ at every position: x + amount · ŝ.

        Parameters
        ----------
        x : array-like of shape (..., D)
            Features of D channels, with any leading axes.
        concept : int
            Index of the concept.
        amount : float
            Length of the step, in feature units. A negative amount weakens the concept.

        Returns
        -------
        moved : ndarray of shape (..., D)
            Features after the step, not clipped to the layer's range.

        Raises
        ------
        ValueError
            If ``x`` holds NaN or infinite values, or its last axis does not have length D,
            if ``concept`` is not the index of a concept, or ``amount`` is not a finite number.
        """
        check_concepts(concept, self.number_of_concepts)
        check_number("amount", amount)
        features = self._as_features(x)
        check_finite("activations", features)
        return np.asarray(features + np.float32(amount) * self.signals[concept])

    @cached_property
    def cross_inverse(self) -> Array:
        """Inverse (WᵀŜ)⁺, (I, I) float64; the columns of W and Ŝ are filters and signal vectors.

        For projections z on the filters, (WᵀŜ)⁺z are the amounts of the signal vectors whose sum
        has these projections. The inverse is regularised if `condition_number` is above 30.
        """
        return read_only(_cross_inverse(self.filters, self.signals))

    @cached_property
    def condition_number(self) -> float:
        """Condition number of ŴᵀŜ, (I, I) for I concepts; infinite if I exceeds the channels.

        Ŵ has the filters, scaled to unit length, as columns; Ŝ has the signal vectors. If it is
        above 30, switching one concept off also changes others: see `bank_error`.
        """
        if self.number_of_concepts > self.channels:
            return float("inf")
        return float(np.linalg.cond(_unit_gram(self.filters, self.signals)))

    @cached_property
    def bank_error(self) -> float:
        """Largest absolute entry of WᵀB − 1: how much one concept disturbs others at most.

        The columns of W are the filters, those of B the rows of `bank`; 1 is the identity matrix.
        It is 0, up to rounding, if switching a concept off changes no other projection.
        """
        product = self.filters.astype(np.float64) @ self._absent_bank.astype(np.float64).T
        return float(np.abs(product - np.eye(self.number_of_concepts)).max())

    @cached_property
    def _absent_bank(self) -> Array:
        return read_only(_absent_bank(self.filters, self.signals).astype(np.float32))

    def save(self, path: str | Path) -> None:
        """Write the pairs to a numpy archive, without pickle.

        Parameters
        ----------
        path : str or Path
            The file to write. No suffix is added.
        """
        arrays = {f.name: getattr(self, f.name) for f in fields(self)}
        FORMAT.write(path, {name: array for name, array in arrays.items() if array is not None})

    @classmethod
    def load(cls, path: str | Path) -> DirectionPairs:
        """Read pairs from a file that `save` has written.

        Parameters
        ----------
        path : str or Path
            The file to read.

        Returns
        -------
        pairs : DirectionPairs

        Raises
        ------
        FileNotFoundError, IsADirectoryError
            If there is no file at ``path``, or a folder.
        ValueError
            If the file is damaged, of another kind, or of a format newer than this version reads.
        """
        return FORMAT.load(path, lambda arrays, _: cls(**arrays))

    def _as_features(self, x: ArrayLike) -> Array:
        features = check_real("features", x, self.channels, "channels")
        return features if features.dtype == np.float64 else features.astype(np.float32, copy=False)


def _unit_gram(filters: Array, signals: Array) -> Array:
    """Compute ŴᵀŜ, (I, I) float64, of unit filters and signal vectors, from (I, D) each."""
    return np.asarray((filters / lengths_of(filters)[:, None]) @ signals.astype(np.float64).T)


def _cross_inverse(filters: Array, signals: Array) -> Array:
    """Compute (WᵀŜ)⁺, (I, I); the inverse is regularised if WᵀŜ is ill-conditioned or I > D."""
    margins = 1.0 / lengths_of(filters)
    gram = _unit_gram(filters, signals)
    concepts, channels = filters.shape
    plain = concepts <= channels and np.linalg.cond(gram) <= WELL_CONDITIONED
    inverse = np.linalg.inv(gram) if plain else regularised_inverse(gram)
    return np.asarray(inverse * margins)


def _absent_bank(filters: Array, signals: Array) -> Array:
    """Compute Bᵀ = (Ŝ(WᵀŜ)⁺)ᵀ, (I, D), from filters and signal vectors, (I, D) each."""
    return np.asarray(_cross_inverse(filters, signals).T @ signals.astype(np.float64))
