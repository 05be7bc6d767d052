"""Direction pairs as a `ConceptFactorizer`."""

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
from xplique_dirpairs.core.validation import as_activations, check_choice, check_integer, check_type
from xplique_dirpairs.factorizers.base import DirectionsFactorizer
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
        I; may exceed the number of channels.
    latent_to_logit_model : callable, optional
        The rest of the network, activations to logits or probabilities. With ``map_shape`` it
        gives the learning its network term; without, there is none, which is logged.
    map_shape : tuple of int, optional
        Spatial shape of the activations before they were flattened: ``(7, 7)``, ``(197,)`` for
        tokens, ``()`` for vectors.
    off : {"absent", "undecided"}, default="absent"
        What a coefficient of zero means: see `DirectionPairs.coefficients`.
    recipe, n_init
        As `learn_pairs` takes them.
    random_state : int, optional
        Seed of the learning.
    verbose : int, default=0
        0 for silence.

    Attributes
    ----------
    pairs_ : DirectionPairs
    history_ : History
        How the fit went; None where the pairs were given (`from_pairs`).
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
        """Return a fitted factorizer around pairs learned, or loaded, elsewhere."""
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
            Positions of all images, one image after the other.

        Returns
        -------
        concept_bank_w : ndarray of shape (I, D)
        coeffs_u : ndarray of shape (P, I)

        Raises
        ------
        ValueError
            If the activations are not flat and finite, or do not fill maps of ``map_shape``.
        """
        pixels = np.asarray(activations)
        if pixels.ndim != 2:
            raise ValueError(f"activations must be flat, (P, D), not {pixels.shape}")
        pixels = as_activations(pixels)
        maps, head = pixels, None
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
        head : Head or None
            The rest of the network, for the network term; None for none.
        resume : str or os.PathLike, optional
            As `learn_pairs` takes it.

        Returns
        -------
        self : DirectionPairsFactorizer
        """
        self._check_off()
        if head is None:
            logger.info(
                "direction pairs are learned without the network term: it needs "
                "latent_to_logit_model and map_shape"
            )
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
        """Compute concept coefficients, (P, D) → (P, I)."""
        return self._fitted().coefficients(activations, off=self.off)

    def encode_differentiable(self, activations: tf.Tensor) -> tf.Tensor:
        """Compute `encode` as a tensor, (P, D) → (P, I); gradients flow to the activations."""
        pairs = self._fitted()
        x = tf.convert_to_tensor(activations)
        z = tf.matmul(x, tf.constant(pairs.filters, x.dtype), transpose_b=True)
        if self.off == "absent":
            return tf.nn.relu(z - tf.constant(pairs.absent_levels, x.dtype))
        inverse = tf.constant(pairs.cross_inverse, x.dtype)
        return tf.matmul(z - tf.constant(pairs.biases, x.dtype), inverse, transpose_b=True)

    def decode(self, coefficients: Array | tf.Tensor) -> Array | tf.Tensor:
        """Return the part of the features that coefficients stand for, (P, I) → (P, D).

        Arrays give arrays, tensors give tensors.
        """
        pairs = self._fitted()
        if tf.is_tensor(coefficients):
            return coefficients @ tf.constant(pairs.bank(self.off), coefficients.dtype)
        return pairs.combine(coefficients, off=self.off)

    def detect(self, activations: Array) -> Array:
        """Detect concepts, (..., D) → (..., I) in [0, 1]; the concept is there above 0.5."""
        return self._fitted().detect(activations)

    def shown_coefficients(self, activations: Array) -> Array:
        """Return coefficients where the concept is detected, zero elsewhere, (P, D) → (P, I).

        A positive coefficient alone only says "above its usual absent level".
        """
        return self.read(activations)[1]

    def read(self, activations: Array) -> tuple[Array, Array]:
        """Return `encode` and `shown_coefficients` of features (P, D) that were checked."""
        coefficients, detections = self._fitted().read(activations, self.off)
        return coefficients, np.maximum(coefficients, 0.0) * (detections > 0.5)

    def get_concept_bank(self) -> Array:
        """Return Bᵀ in the absent form, Ŝᵀ in the undecided one, (I, D)."""
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
        """Whether there are pairs."""
        return hasattr(self, "pairs_")

    def _fitted(self) -> DirectionPairs:
        self._check_is_fitted()
        return self.pairs_

    def _check_off(self) -> None:
        # here as well as in DirectionPairs, so that a typing error does not cost a whole fit
        check_choice("off", self.off, get_args(Off))


def _as_maps_of(pixels: Array, map_shape: tuple[int, ...]) -> Array:
    """Reshape positions (P, D) to maps (N, *map_shape, D)."""
    if not isinstance(map_shape, (tuple, list)):
        raise TypeError(f"map_shape must be a tuple, as (7, 7) or (197,), not {map_shape!r}")
    for length in map_shape:
        check_integer("map_shape", length)
    if len(pixels) % math.prod(map_shape):
        raise ValueError(f"{len(pixels)} positions are not whole maps of map_shape={map_shape}")
    return pixels.reshape(-1, *map_shape, pixels.shape[-1])
