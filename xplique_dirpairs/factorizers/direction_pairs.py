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
    """Encoding–decoding direction pairs (`learn_pairs`) as a factorizer for CRAFT.

    Concept i has a filter w_i and a bias b_i, which detect the concept in features x where
    ``wᵢᵀx > bᵢ``, and a signal vector ŝ_i, along which features change with the concept. Features
    are ``coefficients @ bank + residual``, with the concept bank of `get_concept_bank`.

    Parameters
    ----------
    number_of_concepts : int, default=20
        Number of concepts, I. It may exceed the number of channels.
    latent_to_logit_model : callable, optional
        The rest of the network, from activations to logits or probabilities. The loss terms that
        evaluate the network need it together with ``map_shape``. None for one of them: `fit` learns
        pairs without these terms, and a log message says so.
    map_shape : tuple of int, optional
        Spatial shape of the activations before they were flattened: ``(7, 7)`` for maps, ``(197,)``
        for tokens, ``()`` for vectors. None: see ``latent_to_logit_model``.
    off : {"absent", "undecided"}, default="absent"
        What a coefficient of 0 means. "absent": the projection wᵢᵀx is at most its mean over the
        positions where the concept is not detected; coefficients are not negative. "undecided": if
        all coefficients are 0, every projection is at its bias; coefficients are signed.
    recipe : str or Recipe, default="default"
        What the learning minimises, and how: the ``recipe`` of `learn_pairs`.
    n_init : int, optional
        Number of restarts, fits from different initial filters, of which the best is kept. None:
        the number of the recipe, see `learn_pairs`.
    random_state : int, optional
        Seed of the learning. None draws a seed.
    verbose : int, default=0
        0: silent. 1: a progress bar is shown for each stage of the learning.

    Attributes
    ----------
    pairs_ : DirectionPairs
        The learned pairs.
    history_ : History or None
        Losses and problems of the fit. None if the pairs were given (`from_pairs`).
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
            What a coefficient of 0 means. "absent": the projection on the concept's filter is at
            most its mean over the positions where the concept is not detected. "undecided": if all
            coefficients are 0, every projection is at its concept's bias.

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
            Features, with D channels, at the P positions of all images, one image after the other.

        Returns
        -------
        concept_bank_w : ndarray of shape (I, D)
            Concept bank: the change of the features for one unit of each concept's coefficient.
        coeffs_u : ndarray of shape (P, I)
            Coefficients of the I concepts at the P positions.

        Raises
        ------
        TypeError, ValueError
            If the activations are not flat and finite, or are constant; if P is not a multiple of
            the number of positions of ``map_shape``; or if a parameter of the factorizer is
            invalid.
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
            Features of N images with D channels; ``*spatial`` is (H, W) for maps, (T,) for tokens,
            and empty for vectors.
        head : Head or None
            The rest of the network, for the loss terms that evaluate the network. None: pairs are
            learned without these terms.
        resume : str or os.PathLike, optional
            Folder in which the state of the fit is saved after every epoch, and from which a fit
            with the same settings is continued. None: nothing is saved.

        Returns
        -------
        self : DirectionPairsFactorizer
            The fitted factorizer.

        Raises
        ------
        TypeError, ValueError
            If the activations are constant, not finite or of the wrong rank; if the head does not
            fit them; if ``resume`` holds the state of another fit; or if a parameter of the
            factorizer is invalid.
        """
        self._check_off()
        if head is None:
            advice = "give latent_to_logit_model and map_shape to include it"
            logger.info("direction pairs are learned without the network term: %s", advice)
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
        """Compute the coefficients of the concepts at every position.

        Parameters
        ----------
        activations : ndarray of shape (P, D)
            Features at P positions with D channels.

        Returns
        -------
        coefficients : ndarray of shape (P, I)
            Coefficients of I concepts; at least 0 for ``off="absent"``, signed for "undecided".

        Raises
        ------
        NotFittedError
            If the factorizer is not fitted.
        ValueError
            If the activations are not finite, or do not have the channels of `fit`.
        """
        return self._fitted().coefficients(activations, off=self.off)

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
        """
        pairs = self._fitted()
        x = tf.convert_to_tensor(activations)
        z = tf.matmul(x, tf.constant(pairs.filters, x.dtype), transpose_b=True)
        if self.off == "absent":
            return tf.nn.relu(z - tf.constant(pairs.absent_levels, x.dtype))
        inverse = tf.constant(pairs.cross_inverse, x.dtype)
        return tf.matmul(z - tf.constant(pairs.biases, x.dtype), inverse, transpose_b=True)

    def decode(self, coefficients: Array | tf.Tensor) -> Array | tf.Tensor:
        """Compute the part of the features that coefficients represent, coefficients @ bank.

        Parameters
        ----------
        coefficients : ndarray or tf.Tensor of shape (P, I)
            Coefficients of I concepts at P positions.

        Returns
        -------
        features : ndarray or tf.Tensor of shape (P, D)
            Features with D channels: an array for an array, a tensor for a tensor.

        Raises
        ------
        NotFittedError
            If the factorizer is not fitted.
        ValueError
            If an array of coefficients does not have I columns.
        """
        pairs = self._fitted()
        if tf.is_tensor(coefficients):
            return coefficients @ tf.constant(pairs.bank(self.off), coefficients.dtype)
        return pairs.combine(coefficients, off=self.off)

    def detect(self, activations: Array) -> Array:
        """Compute how surely each concept is detected, σ(wᵢᵀx − bᵢ) with the logistic sigmoid σ.

        Parameters
        ----------
        activations : ndarray of shape (..., D)
            Features with D channels, with any leading axes.

        Returns
        -------
        detections : ndarray of shape (..., I)
            Values in [0, 1] of I concepts. A concept is detected where its value exceeds 0.5, which
            is where the projection on its filter w_i is above its bias b_i.

        Raises
        ------
        NotFittedError
            If the factorizer is not fitted.
        ValueError
            If the activations are not finite, or do not have the channels of `fit`.
        """
        return self._fitted().detect(activations)

    def shown_coefficients(self, activations: Array) -> Array:
        """Compute the coefficients that plots show, which are 0 where the concept is not detected.

        With ``off="absent"``, a coefficient is positive wherever the projection on the filter is
        above its mean over positions without the concept, while the concept is only detected where
        it is above the bias. Negative coefficients (``off="undecided"``) are shown as 0.

        Parameters
        ----------
        activations : ndarray of shape (P, D)
            Features at P positions with D channels.

        Returns
        -------
        coefficients : ndarray of shape (P, I)
            The coefficients of I concepts to show.
        """
        return self.read(activations)[1]

    def read(self, activations: Array) -> tuple[Array, Array]:
        """Compute the results of `encode` and `shown_coefficients` together.

        Parameters
        ----------
        activations : ndarray of shape (P, D)
            Features at P positions with D channels; they are not checked to be finite.

        Returns
        -------
        coefficients : ndarray of shape (P, I)
            The coefficients of I concepts.
        shown : ndarray of shape (P, I)
            The coefficients that plots show.
        """
        coefficients, detections = self._fitted().read(activations, self.off)
        return coefficients, np.maximum(coefficients, 0.0) * (detections > 0.5)

    def get_concept_bank(self) -> Array:
        """Return a copy of the concept bank.

        Returns
        -------
        bank : ndarray of shape (I, D)
            For I concepts in D channels: row i is the change of the features for one unit of
            concept i's coefficient. For ``off="absent"`` it is the combination of signal vectors
            that changes the projection on filter i by 1 and those on the other filters by 0
            (nearly, if ``pairs_.condition_number`` is above 30); for "undecided", it is the unit
            signal vector.

        Raises
        ------
        NotFittedError
            If the factorizer is not fitted.
        """
        return self._fitted().bank(self.off).copy()

    @property
    def encoding_directions(self) -> Array:
        """Unit signal vectors of I concepts in D channels, (I, D).

        Features change along them with each concept.
        """
        return self._fitted().signals

    @property
    def decoding_directions(self) -> Array:
        """Filters of I concepts in D channels, (I, D).

        A concept is detected where the projection of the features on its filter exceeds its bias.
        """
        return self._fitted().filters

    @property
    def is_fitted(self) -> bool:
        """Whether there are pairs, because `fit`, `fit_maps` or `from_pairs` was called."""
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
            f"the {len(pixels)} positions must be those of whole maps, but are not a multiple of "
            f"map_shape={map_shape}: give all positions of each image, or change map_shape"
        )
    return pixels.reshape(-1, *map_shape, pixels.shape[-1])
