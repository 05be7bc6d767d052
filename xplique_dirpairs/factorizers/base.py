"""Base classes of concept extractors, which map flat features to coefficients and back.

`DirectionsFactorizer` extends Xplique's `ConceptFactorizer` with named directions and a residual.
Every extractor of this package is a subclass. `AffineFactorizer` is the base class of those whose
decoder is ``u @ bank + constant``.
"""

from __future__ import annotations

import warnings
from abc import abstractmethod
from collections.abc import Callable, Iterator
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
from xplique_dirpairs.data.shards import ActivationShards
from xplique_dirpairs.learning.coordinates import CONSTANT, TOO_LARGE
from xplique_dirpairs.learning.features import Features

#: Convergence warnings of scikit-learn's models, as a regular expression.
_NOT_CONVERGED = "FastICA did not converge|Maximum number of iterations|Objective did not converge"

#: Relative change of the components in a pass over files at which a fit has converged.
_CHANGE_IN_PASS = 1e-2


class DirectionsFactorizer(ConceptFactorizer):
    """A `ConceptFactorizer` with named directions and a residual.

    Activations at P positions with D channels have shape ``(P, D)``, flattened as by Xplique; the
    coefficients of I concepts have shape ``(P, I)``. ``decode(encode(x)) + residual(x) = x`` holds
    for every subclass. The concept bank has a row for each concept, the change of the features for
    one unit of its coefficient.

    Attributes
    ----------
    number_of_concepts : int
        Number of concepts, I.
    decodes_affinely : bool, default=True
        Whether ``decode(u) = u @ bank + constant``. If so, the mean of decoded features over
        positions is the decoded mean of the coefficients.
    """

    number_of_concepts: int
    decodes_affinely: bool = True

    @property
    @abstractmethod
    def encoding_directions(self) -> Array:
        """Directions in D channels along which features change with each of I concepts, (I, D)."""

    @property
    def decoding_directions(self) -> Array | None:
        """Linear filters that compute coefficients of I concepts from D channels, (I, D).

        None for a method whose coefficients are not computed by linear filters.
        """
        return None

    @property
    def requires_positive_activations(self) -> bool:
        """Whether activations must not be negative: False for all extractors of this package."""
        return False

    def residual(self, activations: Array) -> Array:
        """Compute the part of the features that no concept explains, x − decode(encode(x)).

        Parameters
        ----------
        activations : ndarray of shape (P, D)
            Features x at P positions with D channels.

        Returns
        -------
        residual : ndarray of shape (P, D)
            The residual, in the units of the features.
        """
        return np.asarray(activations - self.decode(self.encode(activations)))

    def shown_coefficients(self, activations: Array) -> Array:
        """Compute the coefficients that plots show.

        These are the coefficients of `encode`, with their signs; plots draw negative ones as 0. In
        subclasses with detectors, a coefficient is shown as 0 where its concept is not detected.

        Parameters
        ----------
        activations : ndarray of shape (P, D)
            Features at P positions with D channels.

        Returns
        -------
        coefficients : ndarray of shape (P, I)
            The coefficients of I concepts to show.
        """
        return np.asarray(self.encode(activations))

    def read(self, activations: Array) -> tuple[Array, Array]:
        """Compute the results of `encode` and `shown_coefficients` together.

        Parameters
        ----------
        activations : ndarray of shape (P, D)
            Features at P positions with D channels; finite values.

        Returns
        -------
        coefficients : ndarray of shape (P, I)
            The coefficients of I concepts, as `encode` computes them.
        shown : ndarray of shape (P, I)
            The coefficients that plots show, as `shown_coefficients` computes them.
        """
        coefficients = self.encode(activations)
        if type(self).shown_coefficients is DirectionsFactorizer.shown_coefficients:
            return coefficients, coefficients
        return coefficients, self.shown_coefficients(activations)

    # `components_` and `transform` are the interface of Xplique's `Factorization.reducer`, which is
    # an NMF of scikit-learn there.

    @property
    def components_(self) -> Array:
        """Concept bank of I concepts in D channels, (I, D) float32, by its name in scikit-learn.

        Row i is the change of the features for one unit of concept i's coefficient.
        """
        return np.asarray(self.get_concept_bank(), np.float32)

    def transform(self, activations: Array) -> Array:
        """Compute coefficients: `encode` under the name that it has in scikit-learn.

        Parameters
        ----------
        activations : ndarray of shape (P, D)
            Features at P positions with D channels.

        Returns
        -------
        coefficients : ndarray of shape (P, I)
            Coefficients of I concepts.
        """
        return np.asarray(self.encode(activations))

    def _check_is_fitted(self) -> None:
        if not self.is_fitted:
            raise NotFittedError(f"this {type(self).__name__} is not fitted: call fit() first")


@dataclass(eq=False, repr=False)
class AffineFactorizer(DirectionsFactorizer):
    """Base class of factorizers that decode by ``u @ bank_ + constant_``.

    A subclass implements how bank and constant are learned (`_learn`) and how coefficients are
    computed (`_read`). Coefficients are float32.

    Parameters
    ----------
    number_of_concepts : int, default=20
        Number of concepts, I.
    random_state : int, optional
        Seed of all random numbers of `fit`. None draws a seed.

    Attributes
    ----------
    bank_ : ndarray of float32 of shape (I, D)
        Directions in which features change with each concept.
    constant_ : ndarray of float32 of shape (D,)
        Features with all concepts switched off.
    """

    number_of_concepts: int = 20
    _: KW_ONLY
    random_state: int | None = None
    bank_: Array = field(init=False)
    constant_: Array = field(init=False)

    @abstractmethod
    def _learn(self, x: Array) -> tuple[Array, Array]:
        """Learn bank (I, D) and constant (D,) from features (P, D), which are finite and vary."""

    def _learn_from_shards(self, features: Features) -> tuple[Array, Array]:
        """Learn as `_learn` does, in passes over files; a TypeError unless a subclass can."""
        raise TypeError(
            f"{type(self).__name__} needs all positions in memory at once, so it cannot learn from "
            "ActivationShards: give the activations of fewer images as an array, "
            "as_array.reshape(-1, D), or use PCAFactorizer, KMeansFactorizer, NMFFactorizer, "
            "DictionaryLearningFactorizer, TopKFactorizer or direction pairs"
        )

    @abstractmethod
    def _read(self, x: tf.Tensor) -> tf.Tensor:
        """Compute coefficients (P, I) of features (P, D); gradients flow to the features."""

    def fit(self, activations: ArrayLike | ActivationShards) -> tuple[Array, Array]:
        """Learn the concepts from flat activations.

        Parameters
        ----------
        activations : array-like of shape (P, D), or ActivationShards
            Features at P positions with D channels. PCA, K-Means, NMF, dictionary learning and the
            autoencoders read shards file by file, so that only the coefficients of all positions
            are in memory; the other methods refuse them.

        Returns
        -------
        concept_bank_w : ndarray of shape (I, D)
            Concept bank: the change of the features for one unit of each concept's coefficient.
        coeffs_u : ndarray of shape (P, I)
            Coefficients of the I concepts at the P positions, as `encode` computes them.

        Raises
        ------
        TypeError
            If shards are given to a method that needs all positions at once.
        ValueError
            If the activations are not flat and finite, are constant, or are too large for float32;
            if there are fewer positions than concepts; or if there are more concepts than channels
            (PCA) or than axes along which the features vary (FastICA).
        """
        check_integer("number_of_concepts", self.number_of_concepts)
        if isinstance(activations, ActivationShards):
            features = Features(activations)
            check_enough(len(features), self.number_of_concepts)
            return self._keep_learned(*self._learn_from_shards(features), features.blocks())
        x = check_flat(activations)
        check_enough(len(x), self.number_of_concepts)
        if not np.ptp(x, axis=0).any():
            raise ValueError(CONSTANT)
        squares = sum(float(np.square(block, dtype=np.float64).sum()) for block in iter_blocks(x))
        if squares > float(np.finfo(np.float32).max):
            raise ValueError(TOO_LARGE)
        return self._keep_learned(*self._learn(x), iter_blocks(x))

    def _keep_learned(
        self, bank: Array, constant: Array, blocks: Iterator[Array]
    ) -> tuple[Array, Array]:
        """Store bank and constant; return the bank, and the coefficients of blocks of positions."""
        self.bank_ = bank.astype(np.float32)
        self.constant_ = constant.astype(np.float32)
        return self.get_concept_bank(), np.concatenate([self._read_in_blocks(x) for x in blocks])

    def encode(self, activations: ArrayLike) -> Array:
        """Compute the coefficients of the concepts at every position.

        Parameters
        ----------
        activations : array-like of shape (P, D)
            Features at P positions with D channels.

        Returns
        -------
        coefficients : ndarray of float32 of shape (P, I)
            Coefficients of I concepts.

        Raises
        ------
        NotFittedError
            If the factorizer is not fitted.
        ValueError
            If the activations are not flat and finite, or do not have the channels of `fit`.
        """
        self._check_is_fitted()
        return self._read_in_blocks(check_flat(activations, self.bank_.shape[1]))

    def encode_differentiable(self, activations: tf.Tensor) -> tf.Tensor:
        """Compute the coefficients of the concepts as a tensor; gradients flow to the activations.

        Parameters
        ----------
        activations : tf.Tensor of shape (P, D)
            Features at P positions with D channels.

        Returns
        -------
        coefficients : tf.Tensor of shape (P, I)
            The values of `encode`, for I concepts.

        Raises
        ------
        NotFittedError
            If the factorizer is not fitted.
        ValueError
            If the activations are not flat, or do not have the channels of `fit`.
        """
        self._check_is_fitted()
        x = tf.convert_to_tensor(activations)
        _check_width("activations", x, self.bank_.shape[1], "channels")
        return self._read(x)

    def decode(self, coefficients: Array | tf.Tensor) -> Array | tf.Tensor:
        """Compute the features that coefficients u represent, ``u @ bank_ + constant_``.

        Parameters
        ----------
        coefficients : ndarray or tf.Tensor of shape (P, I)
            Coefficients u of I concepts at P positions.

        Returns
        -------
        features : ndarray or tf.Tensor of shape (P, D)
            Features with D channels: an array for an array, a tensor for a tensor.

        Raises
        ------
        NotFittedError
            If the factorizer is not fitted.
        ValueError
            If the coefficients do not have shape (P, I).
        """
        self._check_is_fitted()
        u = coefficients if tf.is_tensor(coefficients) else np.asarray(coefficients)
        _check_width("coefficients", u, len(self.bank_), "concepts")
        if not tf.is_tensor(u):
            return u @ self.bank_ + self.constant_
        return u @ tf.constant(self.bank_, u.dtype) + tf.constant(self.constant_, u.dtype)

    def get_concept_bank(self) -> Array:
        """Return a copy of the concept bank.

        Returns
        -------
        bank : ndarray of shape (I, D)
            For I concepts in D channels: row i is the change of the features for one unit of
            concept i's coefficient.

        Raises
        ------
        NotFittedError
            If the factorizer is not fitted.
        """
        self._check_is_fitted()
        return self.bank_.copy()

    @property
    def encoding_directions(self) -> Array:
        """Directions in D channels along which features change with each of I concepts, (I, D).

        They are the rows of the concept bank.
        """
        return self.get_concept_bank()

    @property
    def is_fitted(self) -> bool:
        """Whether `fit` has ended, so that there are concepts."""
        return hasattr(self, "bank_")

    def _read_in_blocks(self, x: Array) -> Array:
        with tf.init_scope():  # runs eagerly, even while the caller traces a graph
            blocks = [self._read(tf.constant(block)).numpy() for block in iter_blocks(x)]
        return np.concatenate(blocks)

    def _centred(self, x: tf.Tensor) -> tf.Tensor:
        return x - tf.constant(self.constant_, x.dtype)


@dataclass(eq=False, repr=False, kw_only=True)
class LinearFactorizer(AffineFactorizer):
    """Base class of factorizers that compute coefficients with linear filters.

    Unless a subclass overrides `_read`, coefficients are ``(x − constant_) @ filters_.T``, and
    signed.

    Attributes
    ----------
    filters_ : ndarray of float32 of shape (I, D)
        Decoding directions, set by the subclass.
    """

    filters_: Array = field(init=False)

    def _read(self, x: tf.Tensor) -> tf.Tensor:
        return tf.matmul(self._centred(x), tf.constant(self.filters_, x.dtype), transpose_b=True)

    @property
    def decoding_directions(self) -> Array:
        """Linear filters that compute coefficients of I concepts from D channels, (I, D)."""
        self._check_is_fitted()
        return self.filters_.copy()


@dataclass(eq=False, repr=False, kw_only=True)
class IterativeFactorizer(AffineFactorizer):
    """Base class of factorizers whose fit iterates until a tolerance is met.

    Parameters
    ----------
    tol : float, default=1e-4
        Tolerance at which the fit has converged.
    max_iter : int, default=1000
        Largest number of iterations. If the fit has not converged by then, a warning is issued.

    Attributes
    ----------
    converged_ : bool
        Whether the fit has converged.
    n_iter_ : int
        Number of iterations.
    """

    tol: float = 1e-4
    max_iter: int = 1000
    converged_: bool = field(init=False)
    n_iter_: int = field(init=False)

    def _fit_model(self, model: Any, x: Array) -> None:
        """Fit a scikit-learn model with these settings; `_finish` replaces its warning."""
        model.set_params(tol=self.tol, max_iter=self.max_iter, random_state=self.random_state)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", _NOT_CONVERGED, ConvergenceWarning)
            model.fit(x)
        self._finish(int(model.n_iter_), model.n_iter_ < self.max_iter)

    def _fit_in_passes(self, model: Any, blocks: Callable[[], Iterator[Array]]) -> None:
        """Fit a scikit-learn model by ``partial_fit``, until a pass changes its components little.

        ``blocks()`` yields the positions (n, D) of one pass.
        """
        model.set_params(random_state=self.random_state)
        converged, passes = False, 0
        while not converged and passes < self.max_iter:
            before = model.components_.copy() if passes else None
            for block in blocks():
                model.partial_fit(block)
            passes += 1
            if before is not None:
                change = np.linalg.norm(model.components_ - before)
                converged = bool(change <= _CHANGE_IN_PASS * np.linalg.norm(before))
        self._finish(passes, converged)

    def _finish(self, iterations: int, converged: bool) -> None:
        """Store how the fit ended, and warn if it has not converged."""
        self.n_iter_ = iterations
        self.converged_ = bool(converged)
        if not converged:
            warn_caller(
                f"{type(self).__name__} did not reach tol={self.tol:g} within "
                f"max_iter={iterations}: its concepts are not final. Raise max_iter, or raise tol "
                "if this is accurate enough",
                ConvergenceWarning,
            )


def check_enough(positions: int, concepts: int) -> None:
    """Raise a ValueError if there are fewer positions than concepts to learn."""
    if positions < concepts:
        raise ValueError(
            f"{concepts} concepts cannot be learned from {positions} positions: give more images, "
            "or lower number_of_concepts"
        )


def check_flat(activations: ArrayLike, channels: int | None = None) -> Array:
    """Return flat, finite activations as float32 (P, D).

    Raises
    ------
    ValueError
        If they are not flat, are not finite, or do not have the given number of channels.
    """
    x = check_activations(activations)
    if x.ndim != 2:
        raise ValueError(
            f"activations must be flat, (P, D), not of shape {x.shape}: reshape them to (-1, D)"
        )
    if channels is not None:
        _check_width("activations", x, channels, "channels")
    return x


def _check_width(name: str, rows: Array | tf.Tensor, width: int, unit: str) -> None:
    shape = tuple(rows.shape)
    if len(shape) != 2 or shape[1] != width:
        raise ValueError(f"{name} must be flat with {width} {unit}, but their shape is {shape}")
