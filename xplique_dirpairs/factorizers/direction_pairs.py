"""Learn direction pairs with the interface of a `ConceptFactorizer`."""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass, field
from typing import Any, get_args

import numpy as np
import tensorflow as tf
from numpy.typing import ArrayLike

from xplique_dirpairs.core.types import Array
from xplique_dirpairs.core.validation import check_choice, check_integer, check_type
from xplique_dirpairs.factorizers.base import DirectionsFactorizer, check_flat
from xplique_dirpairs.learning.history import History
from xplique_dirpairs.learning.learner import learn_pairs
from xplique_dirpairs.models.head import Head
from xplique_dirpairs.pairs import DirectionPairs, Off

logger = logging.getLogger("xplique_dirpairs")


@dataclass(eq=False, repr=False)
class DirectionPairsFactorizer(DirectionsFactorizer):
    """Encoding-decoding direction pairs, learned from activations.

    Parameters
    ----------
    number_of_concepts : int, default=20
        Number of concepts, I. It may exceed the number of channels.
    latent_to_logit_model : callable, default=None
        The rest of the network, from activations to logits or probabilities. The network term of
        the learning needs it together with ``map_shape``. If one of them is missing, pairs are
        learned without this term, and a log message says so.
    map_shape : tuple of int, default=None
        Spatial shape of the activations before they were flattened: ``(7, 7)`` for maps, ``(197,)``
        for tokens, ``()`` for vectors.
    off : {"absent", "undecided"}, default="absent"
        Meaning of a coefficient of zero; see `DirectionPairs.coefficients`.
    recipe : str or object, default="default"
        See `learn_pairs`.
    n_init : int, default=None
        See `learn_pairs`.
    random_state : int, default=None
        Seed of the learning.
    verbose : int, default=0
        0: silent. See `learn_pairs`.

    Attributes
    ----------
    pairs_ : DirectionPairs
        The learned pairs.
    history_ : History or None
        Record of the fit. None if the pairs were given (`from_pairs`).
    """

    number_of_concepts: int = 20
    _: KW_ONLY
    latent_to_logit_model: Callable[..., Any] | None = None
    map_shape: tuple[int, ...] | None = None
    off: Off = "absent"
    recipe: Any = "default"
    n_init: int | None = None
    random_state: int | None = None
    verbose: int = 0
    pairs_: DirectionPairs = field(init=False)
    history_: History | None = field(init=False)

    @classmethod
    def from_pairs(cls, pairs: DirectionPairs, off: Off = "absent") -> DirectionPairsFactorizer:
        """Return a fitted factorizer with given pairs.

        Parameters
        ----------
        pairs : DirectionPairs
            Pairs that were learned elsewhere, or loaded from a file.
        off : {"absent", "undecided"}, default="absent"
            Meaning of a coefficient of zero.

        Returns
        -------
        factorizer : DirectionPairsFactorizer
            The fitted factorizer.

        Raises
        ------
        TypeError
            If ``pairs`` are not direction pairs.
        ValueError
            If ``off`` is not one of its values.
        """
        check_type("pairs", pairs, DirectionPairs, "DirectionPairs")
        factorizer = cls(pairs.number_of_concepts, off=off)
        factorizer._check_off()
        factorizer.pairs_ = pairs
        factorizer.history_ = None
        return factorizer

    def fit(self, activations: ArrayLike) -> tuple[Array, Array]:
        """Learn the pairs from flat activations.

        Parameters
        ----------
        activations : array-like of shape (P, D)
            Features at the positions of all images, one image after the other.

        Returns
        -------
        concept_bank_w : ndarray of shape (I, D)
            Concept bank.
        coeffs_u : ndarray of shape (P, I)
            Coefficients of the activations.

        Raises
        ------
        ValueError
            If the activations are not flat and finite, or P is not a multiple of the number of
            positions of ``map_shape``.
        """
        maps = pixels = check_flat(activations)
        head = None
        if self.latent_to_logit_model is not None and self.map_shape is not None:
            maps, head = _as_maps_of(pixels, self.map_shape), Head(self.latent_to_logit_model)
        self.fit_maps(maps, head)
        return self.get_concept_bank(), self.encode(pixels)

    def fit_maps(
        self,
        activations: Array,
        head: Head | None,
        *,
        resume: str | os.PathLike[str] | None = None,
    ) -> DirectionPairsFactorizer:
        """Learn the pairs from activations whose spatial shape is known.

        Parameters
        ----------
        activations : ndarray of shape (N, *spatial, D)
            Features of N images.
        head : Head or None
            The rest of the network, for the network term. None: there is no such term.
        resume : str or os.PathLike, default=None
            See `learn_pairs`.

        Returns
        -------
        self : DirectionPairsFactorizer
            The fitted factorizer.
        """
        self._check_off()
        if head is None:
            logger.info("without the network term, which needs latent_to_logit_model and map_shape")
        self.pairs_, self.history_ = learn_pairs(
            activations,
            self.number_of_concepts,
            head=head,
            recipe=self.recipe,
            n_init=self.n_init,
            random_state=self.random_state,
            verbose=self.verbose,
            resume=resume,
        )
        return self

    def encode(self, activations: Array) -> Array:
        """Compute concept coefficients.

        Parameters
        ----------
        activations : ndarray of shape (P, D)
            Features.

        Returns
        -------
        coefficients : ndarray of shape (P, I)
            Concept coefficients.

        Raises
        ------
        NotFittedError
            If the factorizer is not fitted.
        ValueError
            If the activations are not finite, or do not have the channels of `fit`.
        """
        return self._fitted().coefficients(activations, off=self.off)

    def encode_differentiable(self, activations: tf.Tensor) -> tf.Tensor:
        """Compute concept coefficients as a tensor; gradients flow to the activations.

        Parameters
        ----------
        activations : tf.Tensor of shape (P, D)
            Features.

        Returns
        -------
        coefficients : tf.Tensor of shape (P, I)
            The values of `encode`.
        """
        pairs = self._fitted()
        x = tf.convert_to_tensor(activations)
        z = tf.matmul(x, tf.constant(pairs.filters, x.dtype), transpose_b=True)
        if self.off == "absent":
            return tf.nn.relu(z - tf.constant(pairs.absent_levels, x.dtype))
        inverse = tf.constant(pairs.cross_inverse, x.dtype)
        return tf.matmul(z - tf.constant(pairs.biases, x.dtype), inverse, transpose_b=True)

    def decode(self, coefficients: Array | tf.Tensor) -> Array | tf.Tensor:
        """Compute the part of the features that coefficients represent.

        Parameters
        ----------
        coefficients : ndarray or tf.Tensor of shape (P, I)
            Concept coefficients.

        Returns
        -------
        features : ndarray or tf.Tensor of shape (P, D)
            Features, of the same type as the coefficients.
        """
        pairs = self._fitted()
        if tf.is_tensor(coefficients):
            return coefficients @ tf.constant(pairs.bank(self.off), coefficients.dtype)
        return pairs.combine(coefficients, off=self.off)

    def detect(self, activations: Array) -> Array:
        """Compute detections.

        Parameters
        ----------
        activations : ndarray of shape (..., D)
            Features.

        Returns
        -------
        detections : ndarray of shape (..., I)
            Values in [0, 1]. A concept is detected where they exceed 0.5.
        """
        return self._fitted().detect(activations)

    def shown_coefficients(self, activations: Array) -> Array:
        """Compute the coefficients that plots show, which are zero where no concept is detected.

        A positive coefficient alone only means that the projection is above the mean absent level.

        Parameters
        ----------
        activations : ndarray of shape (P, D)
            Features.

        Returns
        -------
        coefficients : ndarray of shape (P, I)
            The coefficients to show.
        """
        return self.read(activations)[1]

    def read(self, activations: Array) -> tuple[Array, Array]:
        """Compute `encode` and `shown_coefficients`, (P, I) each, of checked features (P, D)."""
        coefficients, detections = self._fitted().read(activations, self.off)
        return coefficients, np.maximum(coefficients, 0.0) * (detections > 0.5)

    def get_concept_bank(self) -> Array:
        """Return a copy of the concept bank, (I, D): Bᵀ for off="absent", else Ŝᵀ."""
        return self._fitted().bank(self.off).copy()

    @property
    def encoding_directions(self) -> Array:
        """Signal vectors ŝ_i, (I, D)."""
        return self._fitted().signals

    @property
    def decoding_directions(self) -> Array:
        """Filters w_i, (I, D)."""
        return self._fitted().filters

    @property
    def is_fitted(self) -> bool:
        """Whether the factorizer is fitted."""
        return hasattr(self, "pairs_")

    def _fitted(self) -> DirectionPairs:
        self._check_is_fitted()
        return self.pairs_

    def _check_off(self) -> None:
        # DirectionPairs checks this too, but only after the fit, which would then be lost.
        check_choice("off", self.off, get_args(Off))


def _as_maps_of(pixels: Array, map_shape: tuple[int, ...]) -> Array:
    """Return positions (P, D), reshaped to maps (N, *map_shape, D)."""
    check_type("map_shape", map_shape, (tuple, list), "a tuple such as (7, 7) or (197,)")
    for length in map_shape:
        check_integer("map_shape", length)
    if len(pixels) % math.prod(map_shape):
        raise ValueError(
            f"{len(pixels)} positions are not a multiple of those of map_shape={map_shape}"
        )
    return pixels.reshape(-1, *map_shape, pixels.shape[-1])
