"""Encoding-decoding direction pairs: the learned value; how it reads and writes features.

Everything that is done with a pair, once it is learned, is a formula of this module.
Notation: D channels, I concepts; features ``x`` have any leading shape and D last, ``(..., D)``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from xplique_dirpairs.core.archives import ArchiveFormat

Off = Literal["absent", "undecided"]

FORMAT = ArchiveFormat(
    "xplique_dirpairs.DirectionPairs", 1, "direction pairs", "DirectionPairs.save"
)

#: Above this condition number of ŴᵀŜ the plain inverse is given up for a regularised one.
WELL_CONDITIONED = 30.0
#: Ridge of the regularised inverse, relative to unit-norm filters and signal vectors.
RIDGE = 1e-4


def regularised_inverse(gram: NDArray) -> NDArray:
    """(GᵀG + ridge)⁻¹Gᵀ, the pseudo-inverse with small singular values damped.

    Parameters
    ----------
    gram : (I, I) or (..., I, I)
        ŴᵀŜ, of unit-norm filters and unit-norm signal vectors.
    """
    transposed = np.swapaxes(gram, -1, -2)
    return np.linalg.solve(transposed @ gram + RIDGE * np.eye(gram.shape[-1]), transposed)


@dataclass(frozen=True, eq=False)
class DirectionPairs:
    """Filters, biases and signal vectors of I concepts in a layer of D channels; immutable.

    Rows are concepts. Reading and writing follow method sections 1 and 5 of the documentation
    (Doumanoglou et al., arXiv 2509.23926).

    Parameters
    ----------
    filters : (I, D)
        w_i, decoding directions. Their length is 1 / margin.
    biases : (I,)
        b_i: concept i is detected where ``wᵢᵀx > bᵢ``.
    signals : (I, D)
        ŝ_i, encoding directions; unit rows (normalised if they are not).
    mean : (D,)
        E[x] over the features learned from.
    absent_levels : (I,)
        m_i, mean of wᵢᵀx over the positions where concept i is not detected.
    recurrence : (I,), optional
        Share of the learner's other restarts (of those that reached its last stage) in which the
        concept came back; None if there was one only.

    Raises
    ------
    ValueError
        If shapes disagree, a value is not finite, or a filter or signal vector is zero.
    """

    filters: NDArray
    biases: NDArray
    signals: NDArray
    mean: NDArray
    absent_levels: NDArray
    recurrence: NDArray | None = None

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if value is None and field.name == "recurrence":
                continue
            dtype = np.float64 if field.name == "signals" else np.float32
            array = _real(field.name, value).astype(dtype)
            if not np.isfinite(array).all():
                raise ValueError(f"{field.name} must be finite, but holds NaN or infinite values")
            object.__setattr__(self, field.name, array)
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
        lengths = np.linalg.norm(self.signals, axis=1, keepdims=True)
        lengths[np.abs(lengths - 1.0) < 1e-6] = 1.0  # unit rows stay as they are, to the last bit
        object.__setattr__(self, "signals", (self.signals / lengths).astype(np.float32))
        for field in fields(self):
            array = getattr(self, field.name)
            if array is not None:
                array.setflags(write=False)

    def __reduce__(self):
        # Copies and pickles go through the constructor: their arrays are read-only as well.
        return type(self), tuple(getattr(self, field.name) for field in fields(self))

    def __repr__(self) -> str:
        return f"DirectionPairs({self.number_of_concepts} concepts, {self.channels} channels)"

    @property
    def number_of_concepts(self) -> int:
        """I."""
        return self.filters.shape[0]

    @property
    def channels(self) -> int:
        """D."""
        return self.filters.shape[1]

    @cached_property
    def margins(self) -> NDArray:
        """M_i = 1/‖w_i‖, (I,): half-width of a detector's transition, in feature units."""
        return _frozen(1.0 / np.linalg.norm(self.filters, axis=1))

    # ---------------------------------------------------------------- reading

    def project(self, x: ArrayLike) -> NDArray:
        """Projections z = Wᵀx.

        Parameters
        ----------
        x : (..., D)

        Returns
        -------
        z : (..., I)

        Raises
        ------
        ValueError
            If the last axis of ``x`` is not D long, or a value is NaN or infinite.
        """
        return self._project(self._features(x))

    def _project(self, x: NDArray) -> NDArray:
        with np.errstate(invalid="ignore", over="ignore"):
            z = x @ self.filters.T
        _check_finite(z)  # cheaper to see here than in the features
        return z

    def detect(self, x: ArrayLike) -> NDArray:
        """Concept detections y = σ(Wᵀx − b), (..., I), in [0, 1]; y > 0.5 where the concept is."""
        return _sigmoid(self.project(x) - self.biases)

    def signal_values(self, x: ArrayLike) -> NDArray:
        """Signal values about their mean, α̂_i = wᵢᵀ(x − E[x]) / (wᵢᵀŝ_i), (..., I)."""
        gain = np.einsum("id,id->i", self.filters, self.signals)
        return self._project(self._features(x) - self.mean) / gain

    def coefficients(self, x: ArrayLike, off: Off = "absent") -> NDArray:
        """Concept coefficients: how far each concept is from being switched off.

        Parameters
        ----------
        x : (..., D)
        off
            What "concept i switched off" means. ``"absent"``: its projection falls to its usual
            level where it is not detected, u_i = ReLU(wᵢᵀx − m_i) ≥ 0. ``"undecided"``: all
            detectors on their hyperplanes at once, v = (WᵀŜ)⁺(Wᵀx − b), signed.

        Returns
        -------
        coefficients : (..., I)
            With ``residual = x − combine(coefficients)``, x is restored exactly.
        """
        self._check_off(off)
        z = self.project(x)
        if off == "absent":
            return np.maximum(z - self.absent_levels, 0.0)
        return (z - self.biases) @ self.cross_inverse.T.astype(z.dtype)

    # ---------------------------------------------------------------- writing

    def bank(self, off: Off = "absent") -> NDArray:
        """Concept bank (I, D): ``combine(u) = u @ bank``. Bᵀ (absent) or Ŝᵀ (undecided).

        B = Ŝ(WᵀŜ)⁻¹: moving along its column i changes projection i and no other. Where WᵀŜ is
        ill-conditioned (see `condition_number`) or I > D, a regularised inverse stands in.
        """
        self._check_off(off)
        return self._absent_bank if off == "absent" else self.signals

    def combine(self, coefficients: ArrayLike, off: Off = "absent") -> NDArray:
        """The part of the features that the coefficients stand for, (..., I) → (..., D).

        Parameters
        ----------
        coefficients : (..., I)
            As `coefficients` gives them, all or partly switched off.
        off
            The form they were read in.
        """
        u = _real("coefficients", coefficients)
        if u.shape[-1:] != (self.number_of_concepts,):
            raise ValueError(
                f"coefficients must end in {self.number_of_concepts} concepts, "
                f"but have shape {u.shape}"
            )
        return u @ self.bank(off)

    def suppress(
        self,
        x: ArrayLike,
        concepts: int | Sequence[int],
        limits: tuple[float | None, float | None] = (None, None),
    ) -> NDArray:
        """Features with the given concepts moved onto their hyperplanes where they are detected.

        x − B_C ReLU(W_Cᵀx − b_C) for the concepts C: no other of the C is changed, positions
        where none is detected stay as they are.

        Parameters
        ----------
        x : (..., D)
        concepts
            Indices of the concepts to suppress; one given twice counts once.
        limits
            The layer's own range (lowest, highest), to clip the result to; ``(0, None)`` after a
            ReLU. Default: no clipping.
        """
        given = np.atleast_1d(concepts)
        for concept in given:
            self._check_concept(concept)
        chosen = list(dict.fromkeys(given.tolist()))
        x = self._features(x)
        _check_finite(x)
        if not chosen:
            return x.copy()
        filters, signals = self.filters[chosen], self.signals[chosen]
        excess = np.maximum(x @ filters.T - self.biases[chosen], 0.0)
        moved = x - excess @ _absent_bank(filters, signals).astype(x.dtype)
        return np.clip(moved, *limits) if any(v is not None for v in limits) else moved

    def steer(self, x: ArrayLike, concept: int, amount: float) -> NDArray:
        """x + amount · ŝ_concept at every position, (..., D) → (..., D)."""
        self._check_concept(concept)
        x = self._features(x)
        _check_finite(x)
        if not np.isfinite(amount):
            raise ValueError(f"amount must be finite, not {amount}")
        return x + np.float32(amount) * self.signals[concept]

    @cached_property
    def cross_inverse(self) -> NDArray:
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
        return float(np.linalg.cond(self._unit_filters @ self.signals.T.astype(np.float64)))

    @property
    def is_well_conditioned(self) -> bool:
        """Whether B is the plain inverse, so that WᵀB = 1 (condition number ≤ 30)."""
        return self.condition_number <= WELL_CONDITIONED

    @cached_property
    def bank_error(self) -> float:
        """max |WᵀB − 1|: how far moving along a column of B changes other projections."""
        product = self.filters.astype(np.float64) @ self._absent_bank.astype(np.float64).T
        return float(np.abs(product - np.eye(self.number_of_concepts)).max())

    # ---------------------------------------------------------------- files

    def save(self, path: str | Path) -> None:
        """Write the pairs to ``path`` as a numpy archive, without pickle, under that very name."""
        arrays = {f.name: getattr(self, f.name) for f in fields(self)}
        FORMAT.write(path, {name: array for name, array in arrays.items() if array is not None})

    @classmethod
    def load(cls, path: str | Path) -> DirectionPairs:
        """Read pairs written by `save`.

        Raises
        ------
        FileNotFoundError, IsADirectoryError
            If there is no such file, or it is a folder.
        ValueError
            If the file is damaged, of another kind, or of a newer format than this version reads.
        """
        arrays, _ = FORMAT.read(path)
        try:
            return cls(**arrays)
        except (TypeError, ValueError) as error:
            raise ValueError(f"{path} is damaged: {error}") from error

    # ---------------------------------------------------------------- inside

    @cached_property
    def _unit_filters(self) -> NDArray:
        filters = self.filters.astype(np.float64)
        return filters / np.linalg.norm(filters, axis=1, keepdims=True)

    @cached_property
    def _absent_bank(self) -> NDArray:
        return _frozen(_absent_bank(self.filters, self.signals).astype(np.float32))

    def _features(self, x: ArrayLike) -> NDArray:
        x = _real("features", x)
        if x.shape[-1:] != (self.channels,):
            raise ValueError(
                f"features must end in {self.channels} channels, but have shape {x.shape}"
            )
        return x if x.dtype == np.float64 else x.astype(np.float32, copy=False)

    def _check_concept(self, concept: int) -> None:
        if isinstance(concept, (bool, np.bool_)) or not isinstance(concept, (int, np.integer)):
            raise TypeError(f"concepts are given by their indices, not by {concept!r}")
        if not 0 <= concept < self.number_of_concepts:
            raise ValueError(
                f"there is no concept {concept}: concepts are numbered 0 to "
                f"{self.number_of_concepts - 1}"
            )

    @staticmethod
    def _check_off(off: str) -> None:
        if off not in ("absent", "undecided"):
            raise ValueError(f"off must be 'absent' or 'undecided', not {off!r}")


def _cross_inverse(filters: NDArray, signals: NDArray) -> NDArray:
    """(WᵀŜ)⁺, (I, I): plain where well-conditioned and I ≤ D, regularised elsewhere."""
    filters = filters.astype(np.float64)
    margins = 1.0 / np.linalg.norm(filters, axis=1)
    gram = (filters * margins[:, None]) @ signals.astype(np.float64).T
    concepts, channels = filters.shape
    plain = concepts <= channels and np.linalg.cond(gram) <= WELL_CONDITIONED
    inverse = np.linalg.inv(gram) if plain else regularised_inverse(gram)
    return inverse * margins


def _absent_bank(filters: NDArray, signals: NDArray) -> NDArray:
    """Bᵀ = (Ŝ(WᵀŜ)⁺)ᵀ, (I, D)."""
    return _cross_inverse(filters, signals).T @ signals.astype(np.float64)


def _real(name: str, values: ArrayLike) -> NDArray:
    array = np.asarray(values)
    if array.dtype.kind not in "fiub":
        raise ValueError(f"{name} must be real numbers, not {array.dtype}")
    return array


def _check_finite(values: NDArray) -> None:
    if not np.isfinite(values).all():
        raise ValueError(
            "activations hold NaN or infinite values: check the images and their preprocessing"
        )


def _frozen(array: NDArray) -> NDArray:
    array.setflags(write=False)
    return array


def _sigmoid(values: NDArray) -> NDArray:
    """σ without overflow at either end."""
    return 0.5 * (1.0 + np.tanh(0.5 * values))
