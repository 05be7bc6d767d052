"""The contract of concept extractors: flat features in, coefficients out, and back.

`DirectionsFactorizer` is Xplique's `ConceptFactorizer` with its directions named and its residual
kept; every extractor of this package is a child of it. `AffineFactorizer` adds what all those
share whose decoder is ``u @ bank + constant``.
"""

from __future__ import annotations

import warnings
from abc import abstractmethod
from dataclasses import KW_ONLY, dataclass, field
from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import ArrayLike
from sklearn.exceptions import ConvergenceWarning, NotFittedError
from xplique.concepts.factorizer import ConceptFactorizer

from xplique_dirpairs.core.batching import iter_blocks
from xplique_dirpairs.core.progress import warn_caller
from xplique_dirpairs.core.types import Array
from xplique_dirpairs.core.validation import check_activations, check_integer
from xplique_dirpairs.learning.features import TOO_LARGE

#: How scikit-learn's models warn of it.
_NOT_CONVERGED = "FastICA did not converge|Maximum number of iterations"


class DirectionsFactorizer(ConceptFactorizer):
    """A `ConceptFactorizer` that names its directions and keeps what it does not explain.

    Activations are flat, ``(P, D)``, as Xplique hands them over; coefficients are ``(P, I)``.
    ``decode(encode(x)) + residual(x) = x`` holds for every child.

    Attributes
    ----------
    number_of_concepts : int
        I.
    decodes_affinely : bool
        Whether ``decode(u) = u @ bank + constant``, so that it commutes with averaging over
        positions. True unless a child overrides it.
    """

    number_of_concepts: int
    decodes_affinely: bool = True

    @property
    @abstractmethod
    def encoding_directions(self) -> Array:
        """(I, D): how the features change along each concept."""

    @property
    def decoding_directions(self) -> Array | None:
        """(I, D): linear filters that read the concepts, or None where reading is not linear."""
        return None

    @property
    def requires_positive_activations(self) -> bool:
        """False: activations of any sign."""
        return False

    def residual(self, activations: Array) -> Array:
        """Compute x − decode(encode(x)), (P, D): the part of the features no concept explains."""
        return np.asarray(activations - self.decode(self.encode(activations)))

    def shown_coefficients(self, activations: Array) -> Array:
        """Return coefficients (P, I) as pictures show them: zero where a concept is absent.

        Here all of them; a child whose coefficients can be positive where the concept is absent
        overrides this.
        """
        return np.asarray(self.encode(activations))

    def read(self, activations: Array) -> tuple[Array, Array]:
        """Return `encode` and `shown_coefficients` of features (P, D) that were checked."""
        coefficients = self.encode(activations)
        if type(self).shown_coefficients is DirectionsFactorizer.shown_coefficients:
            return coefficients, coefficients
        return coefficients, self.shown_coefficients(activations)

    # The interface of Xplique's `Factorization.reducer`, an sklearn NMF there.

    @property
    def components_(self) -> Array:
        """The concept bank, (I, D) float32."""
        return np.asarray(self.get_concept_bank(), np.float32)

    def transform(self, activations: Array) -> Array:
        """Call `encode`, under sklearn's name."""
        return np.asarray(self.encode(activations))

    def _check_is_fitted(self) -> None:
        if not self.is_fitted:
            raise NotFittedError(f"this {type(self).__name__} is not fitted: call fit() first")


@dataclass(eq=False, repr=False)
class AffineFactorizer(DirectionsFactorizer):
    """``decode(u) = u @ bank_ + constant_``; with all concepts off, the features are the constant.

    A child implements how the two are learned (`_learn`) and how coefficients are read (`_read`).
    Coefficients are float32.

    Parameters
    ----------
    number_of_concepts : int, default=20
        I.
    random_state : int, optional
        Seed.

    Attributes
    ----------
    bank_ : ndarray of shape (I, D), float32
        How the features change along each concept.
    constant_ : ndarray of shape (D,), float32
    """

    number_of_concepts: int = 20
    _: KW_ONLY
    random_state: int | None = None
    bank_: Array = field(init=False)
    constant_: Array = field(init=False)

    @abstractmethod
    def _learn(self, x: Array) -> tuple[Array, Array]:
        """Return bank (I, D) and constant (D,) of features (P, D), which are finite and vary."""

    @abstractmethod
    def _read(self, x: tf.Tensor) -> tf.Tensor:
        """Return coefficients (P, I) of features (P, D); gradients flow to the features."""

    def fit(self, activations: ArrayLike) -> tuple[Array, Array]:
        """Learn the concepts from flat activations.

        Parameters
        ----------
        activations : array-like of shape (P, D)

        Returns
        -------
        concept_bank_w : ndarray of shape (I, D)
        coeffs_u : ndarray of shape (P, I)

        Raises
        ------
        ValueError
            If the activations are not flat, finite and varying, or too large for float32, if there
            are fewer positions than concepts, or (PCA, ICA) more concepts than the features have
            dimensions.
        """
        check_integer("number_of_concepts", self.number_of_concepts)
        x = check_flat(activations)
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
        return self.get_concept_bank(), self._read_in_blocks(x)

    def encode(self, activations: ArrayLike) -> Array:
        """Compute concept coefficients, (P, D) → (P, I).

        Raises
        ------
        ValueError
            If the activations are not flat and finite, with the channels of `fit`.
        """
        self._check_is_fitted()
        return self._read_in_blocks(check_flat(activations, self.bank_.shape[1]))

    def encode_differentiable(self, activations: tf.Tensor) -> tf.Tensor:
        """Compute `encode` as a tensor, (P, D) → (P, I); gradients flow to the activations."""
        self._check_is_fitted()
        x = tf.convert_to_tensor(activations)
        _check_width("activations", x, self.bank_.shape[1], "channels")
        return self._read(x)

    def decode(self, coefficients: Array | tf.Tensor) -> Array | tf.Tensor:
        """Compute the features the coefficients stand for, (P, I) → (P, D).

        ``u @ bank_ + constant_``. Arrays give arrays, tensors give tensors.
        """
        self._check_is_fitted()
        u = coefficients if tf.is_tensor(coefficients) else np.asarray(coefficients)
        _check_width("coefficients", u, len(self.bank_), "concepts")
        if not tf.is_tensor(u):
            return u @ self.bank_ + self.constant_
        return u @ tf.constant(self.bank_, u.dtype) + tf.constant(self.constant_, u.dtype)

    def get_concept_bank(self) -> Array:
        """Return a copy of the concept bank, (I, D)."""
        self._check_is_fitted()
        return self.bank_.copy()

    @property
    def encoding_directions(self) -> Array:
        """Rows of the concept bank, (I, D)."""
        return self.get_concept_bank()

    @property
    def is_fitted(self) -> bool:
        """Whether there is a bank."""
        return hasattr(self, "bank_")

    def _read_in_blocks(self, x: Array) -> Array:
        with tf.init_scope():  # arrays are read at once, also while the caller traces a graph
            blocks = [self._read(tf.constant(block)).numpy() for block in iter_blocks(x)]
        return np.concatenate(blocks)

    def _centred(self, x: tf.Tensor) -> tf.Tensor:
        return x - tf.constant(self.constant_, x.dtype)


@dataclass(eq=False, repr=False, kw_only=True)
class LinearFactorizer(AffineFactorizer):
    """Coefficients that are read by linear filters; here signed, ``(x − constant_) @ filters_.T``.

    Attributes
    ----------
    filters_ : ndarray of shape (I, D), float32
        Decoding directions; set by a child's `_learn`.
    """

    filters_: Array = field(init=False)

    def _read(self, x: tf.Tensor) -> tf.Tensor:
        return tf.matmul(self._centred(x), tf.constant(self.filters_, x.dtype), transpose_b=True)

    @property
    def decoding_directions(self) -> Array:
        """The filters that read the coefficients, (I, D)."""
        self._check_is_fitted()
        return self.filters_.copy()


@dataclass(eq=False, repr=False, kw_only=True)
class IterativeFactorizer(AffineFactorizer):
    """A factorizer whose fit iterates until a tolerance is met.

    Parameters
    ----------
    tol : float, default=1e-4
    max_iter : int, default=1000
        A fit that has not converged by then warns, and ``converged_`` is False.

    Attributes
    ----------
    converged_ : bool
    n_iter_ : int
    """

    tol: float = 1e-4
    max_iter: int = 1000
    converged_: bool = field(init=False)
    n_iter_: int = field(init=False)

    def _fit_model(self, model: Any, x: Array) -> None:
        """Fit a model of scikit-learn with these settings; of convergence, warn in our words."""
        model.set_params(tol=self.tol, max_iter=self.max_iter, random_state=self.random_state)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", _NOT_CONVERGED, ConvergenceWarning)
            model.fit(x)
        self._finish(model.n_iter_, model.n_iter_ < self.max_iter)

    def _finish(self, iterations: int, converged: bool) -> None:
        """Keep how the fit ended, and warn where it was cut short."""
        self.n_iter_ = iterations
        self.converged_ = bool(converged)
        if not converged:
            warn_caller(
                f"{type(self).__name__} did not reach tol={self.tol:g} within "
                f"max_iter={iterations}: its concepts are not final. Raise max_iter, or tol if "
                "this is close enough",
                ConvergenceWarning,
            )


def check_flat(activations: ArrayLike, channels: int | None = None) -> Array:
    """Return flat, finite activations as float32 (P, D).

    Raises
    ------
    ValueError
        If they are not flat, not finite, or have another number of channels.
    """
    x = check_activations(activations)
    if x.ndim != 2:
        raise ValueError(f"activations must be flat, (P, D), not {x.shape}")
    if channels is not None:
        _check_width("activations", x, channels, "channels")
    return x


def _check_width(name: str, rows: Array | tf.Tensor, width: int, unit: str) -> None:
    shape = tuple(rows.shape)
    if len(shape) != 2 or shape[1] != width:
        raise ValueError(f"{name} must be flat and end in {width} {unit}, but are {shape}")
