"""What every factorizer whose decoder is ``u @ bank + constant`` has in common."""

from __future__ import annotations

import warnings
from abc import abstractmethod

import numpy as np
import tensorflow as tf
from numpy.typing import ArrayLike, NDArray
from sklearn.exceptions import ConvergenceWarning, NotFittedError

from xplique_dirpairs.core.batching import iter_blocks
from xplique_dirpairs.core.validation import check_activations, check_integer
from xplique_dirpairs.factorizers.base import DirectionsFactorizer
from xplique_dirpairs.learning.features import TOO_LARGE


class AffineFactorizer(DirectionsFactorizer):
    """``decode(u) = u @ bank_ + constant_``; with all concepts off, the features are the constant.

    A child says how the two are learned (`_learn`), how coefficients are read (`_read`), and the
    latter once more for gradients (`encode_differentiable`). Coefficients are float32.

    Attributes
    ----------
    bank_ : (I, D) float32
        How the features change along each concept.
    constant_ : (D,) float32
    """

    bank_: NDArray
    constant_: NDArray

    @abstractmethod
    def _learn(self, x: NDArray) -> tuple[NDArray, NDArray]:
        """Bank (I, D) and constant (D,) of features (P, D): float32, finite, not constant."""

    @abstractmethod
    def _read(self, x: NDArray) -> NDArray:
        """Coefficients (P, I) of features (P, D), checked."""

    def fit(self, activations: ArrayLike) -> tuple[NDArray, NDArray]:
        """Learn the concepts from flat activations.

        Parameters
        ----------
        activations : (P, D)

        Returns
        -------
        concept_bank_w : (I, D)
        coeffs_u : (P, I)

        Raises
        ------
        ValueError
            If the activations are not flat, finite and varying, or too large for float32, if there
            are fewer positions than concepts, or (PCA, ICA) more concepts than the features have
            dimensions.
        """
        check_integer("number_of_concepts", self.number_of_concepts)
        x = _as_flat(activations)
        if len(x) < self.number_of_concepts:
            raise ValueError(
                f"{self.number_of_concepts} concepts cannot be learned from {len(x)} positions: "
                "give more images, or ask for fewer concepts"
            )
        if not np.ptp(x, axis=0).any():
            raise ValueError(
                "the activations are constant: there is nothing to learn from. Check the images, "
                "their preprocessing and the layer"
            )
        squares = sum(float(np.square(block, dtype=np.float64).sum()) for block in iter_blocks(x))
        if squares > float(np.finfo(np.float32).max):
            raise ValueError(TOO_LARGE)
        bank, constant = self._learn(x)
        self.bank_ = bank.astype(np.float32)
        self.constant_ = constant.astype(np.float32)
        return self.get_concept_bank(), self._read(x)

    def encode(self, activations: ArrayLike) -> NDArray:
        """Concept coefficients, (P, D) → (P, I).

        Raises
        ------
        ValueError
            If the activations are not flat and finite, with the channels of `fit`.
        """
        self._check_is_fitted()
        x = _as_flat(activations)
        self._check_last("activations", x.shape, self.bank_.shape[1], "channels")
        return self._read(x)

    def decode(self, coefficients: NDArray | tf.Tensor) -> NDArray | tf.Tensor:
        """The features the coefficients stand for, (P, I) → (P, D): ``u @ bank_ + constant_``.

        Arrays give arrays, tensors give tensors.
        """
        self._check_is_fitted()
        if tf.is_tensor(coefficients):
            self._check_last("coefficients", coefficients.shape, len(self.bank_), "concepts")
            bank = tf.constant(self.bank_, coefficients.dtype)
            return coefficients @ bank + tf.constant(self.constant_, coefficients.dtype)
        u = np.asarray(coefficients)
        self._check_last("coefficients", u.shape, len(self.bank_), "concepts")
        return u @ self.bank_ + self.constant_

    def get_concept_bank(self) -> NDArray:
        """(I, D); a copy."""
        self._check_is_fitted()
        return self.bank_.copy()

    @property
    def encoding_directions(self) -> NDArray:
        """Rows of the concept bank, (I, D)."""
        return self.get_concept_bank()

    @property
    def is_fitted(self) -> bool:
        """Whether there is a bank."""
        return hasattr(self, "bank_")

    @property
    def requires_positive_activations(self) -> bool:
        """False: activations of any sign."""
        return False

    def _features_tensor(self, activations: tf.Tensor) -> tf.Tensor:
        """Features for `encode_differentiable`: fitted, and of the right channels."""
        self._check_is_fitted()
        x = tf.convert_to_tensor(activations)
        self._check_last("activations", x.shape, self.bank_.shape[1], "channels")
        return x

    def _check_is_fitted(self) -> None:
        if not self.is_fitted:
            raise NotFittedError(f"this {type(self).__name__} is not fitted: call fit() first")

    @staticmethod
    def _check_last(name: str, shape, wanted: int, what: str) -> None:
        shape = tuple(shape)
        if len(shape) != 2 or shape[1] != wanted:
            raise ValueError(f"{name} must be flat and end in {wanted} {what}, but are {shape}")

    def _note_end(self, iterations: int, converged: bool, tolerance: float) -> None:
        """Keep how an iterative fit ended, and warn where it was cut short."""
        self.n_iter_ = iterations
        self.converged_ = bool(converged)
        if not converged:
            warnings.warn(
                f"{type(self).__name__} did not reach tol={tolerance:g} within "
                f"max_iter={iterations}: its concepts are not final. Raise max_iter, or tol if "
                "this is close enough",
                ConvergenceWarning,
                stacklevel=4,  # the caller of fit
            )


class LinearFactorizer(AffineFactorizer):
    """Coefficients ``(x − constant_) @ filters_.T``: signed, and read by linear filters.

    Attributes
    ----------
    filters_ : (I, D) float32
        Decoding directions; a child's `_learn` sets them.
    """

    filters_: NDArray

    def _read(self, x: NDArray) -> NDArray:
        return (x - self.constant_) @ self.filters_.T

    def encode_differentiable(self, activations: tf.Tensor) -> tf.Tensor:
        """`encode` as a tensor, (P, D) → (P, I); gradients flow to the activations."""
        x = self._features_tensor(activations)
        centred = x - tf.constant(self.constant_, x.dtype)
        return tf.matmul(centred, tf.constant(self.filters_, x.dtype), transpose_b=True)

    @property
    def decoding_directions(self) -> NDArray:
        """The filters that read the coefficients, (I, D)."""
        self._check_is_fitted()
        return self.filters_.copy()


def _as_flat(activations: ArrayLike) -> NDArray:
    """Activations as float32 (P, D), finite."""
    x = check_activations(activations)
    if x.ndim != 2:
        raise ValueError(f"activations must be flat, (P, D), not {x.shape}")
    return x


def unit_rows(rows: NDArray) -> tuple[NDArray, NDArray]:
    """Rows (I, D) of unit length, and their lengths (I, 1); a zero row stays zero."""
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.divide(rows, lengths, out=np.zeros_like(rows), where=lengths > 0), lengths
