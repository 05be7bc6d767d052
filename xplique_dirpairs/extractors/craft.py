"""CRAFT's workflow with direction pairs, or any `DirectionsFactorizer`, and the residual kept."""

from __future__ import annotations

import os
from functools import cached_property
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from numpy.typing import ArrayLike
from xplique.concepts import CraftTf
from xplique.concepts.craft import Factorization, Sensitivity

from xplique_dirpairs.core.batching import by_position, chunk_size, slices
from xplique_dirpairs.core.types import Array
from xplique_dirpairs.core.validation import (
    as_images,
    check_activations,
    check_class,
    check_integer,
)
from xplique_dirpairs.data.images import (
    compute_activations,
    concept_maps,
    crop_coefficients,
    extract_crops,
    fitting_patch,
    unchecked_activations,
)
from xplique_dirpairs.extractors.concept_layer import fit_factorizer
from xplique_dirpairs.extractors.concept_plots import ChecksFit, ConceptPlots
from xplique_dirpairs.factorizers.base import DirectionsFactorizer
from xplique_dirpairs.factorizers.direction_pairs import DirectionPairsFactorizer
from xplique_dirpairs.learning.history import History
from xplique_dirpairs.learning.recipe import Recipe, get_recipe
from xplique_dirpairs.metrics.importance import sobol_designs, sobol_indices
from xplique_dirpairs.models.graph import check_keras_model
from xplique_dirpairs.models.split import SplitModel
from xplique_dirpairs.pairs import DirectionPairs, Off
from xplique_dirpairs.plots.palette import concept_colors

#: Numbers that masked copies of an image's features may take in one pass through the head: of small
#: features many copies are in one pass, so that the cost of calling the head is paid once.
_FEATURES_AT_ONCE = 2**23


class FactorizerCraftTf(ConceptPlots, CraftTf):
    """`CraftTf` with the concepts of any `DirectionsFactorizer`.

    Methods, arguments and shapes are those of `CraftTf`. Two things differ: concepts are learned
    from every position of whole images, in one pass through the network; and the residual, the part
    of the features that the concepts do not explain, is added back, so that importances are about
    the network's own output.

    Parameters
    ----------
    input_to_latent_model : SplitModel or keras.Model
        Both halves of the network, from `split_model`; or the first one, images to activations of
        any sign: maps (N, H, W, D), tokens (N, T, D) or vectors (N, D).
    latent_to_logit_model : keras.Model, optional
        The second half, activations to logits or probabilities (N, K).
    factorizer : DirectionsFactorizer
        The method that finds the concepts.
    batch_size : int, default=64
        Images, or masked feature maps, in one pass.
    patch_size : int, default=64
        Side of the square crops shown for the concepts, in pixels.
    random_state : int or numpy.random.Generator, optional
        Seed of the masks of `estimate_importance`.

    Attributes
    ----------
    factorization : xplique.concepts.craft.Factorization
        After `fit`; its ``reducer`` is the factorizer.
    sensitivity : xplique.concepts.craft.Sensitivity
        After ``estimate_importance()``.
    """

    def __init__(
        self,
        input_to_latent_model: SplitModel | keras.Model,
        latent_to_logit_model: keras.Model | None = None,
        factorizer: DirectionsFactorizer | None = None,
        batch_size: int = 64,
        patch_size: int = 64,
        *,
        random_state: int | np.random.Generator | None = None,
    ):
        split = check_split(input_to_latent_model, latent_to_logit_model)
        if factorizer is None:
            raise TypeError("factorizer is missing: what finds the concepts, PCAFactorizer(12)")
        concepts = factorizer.number_of_concepts
        check_integer("number_of_concepts", concepts)
        check_integer("batch_size", batch_size)
        check_integer("patch_size", patch_size)
        super().__init__(*split, concepts, batch_size, patch_size)
        self.split = split
        self.factorizer = factorizer
        self.random_state = random_state
        self.head = split.head

    # ---------------------------------------------------------------- fitting

    def fit(self, inputs: ArrayLike, class_id: int = 0) -> tuple[tf.Tensor, Array, Array]:
        """Learn the concepts of a class from its images.

        Parameters
        ----------
        inputs : array-like of shape (N, height, width, C)
            Images as ``input_to_latent_model`` takes them; uint8 is accepted.
        class_id : int, default=0
            The class whose score `estimate_importance` is about.

        Returns
        -------
        crops : tf.Tensor of shape (n, patch, patch, C)
            On CRAFT's grid: whole patches, ``int(0.8 * patch)`` apart.
        crops_u : ndarray of shape (n, I)
            Coefficients of each crop: the mean, over its area, of the concept maps (coefficients
            where the concept is detected).
        concept_bank_w : ndarray of shape (I, D), float32

        Raises
        ------
        ValueError
            If there are no images, they or their activations are not finite or of another shape
            than the models take, or there is no such class.
        """
        return self._fit(inputs, class_id)

    def _fit(
        self, inputs: ArrayLike, class_id: int, **options: Any
    ) -> tuple[tf.Tensor, Array, Array]:
        check_class(class_id, self.head.number_of_classes)
        images = as_images(inputs)
        # The fit of the factorizer checks whether they are finite.
        activations = unchecked_activations(self.input_to_latent_model, images, self.batch_size)
        self._learn(activations, **options)
        return self._describe(images, activations, class_id)

    def _learn(self, activations: Array) -> None:
        """Fit the factorizer on activations (N, *spatial, D), which its fit checks."""
        fit_factorizer(self.factorizer, activations, self.head)

    def _describe(
        self, images: Array, activations: Array, class_id: int
    ) -> tuple[tf.Tensor, Array, Array]:
        """Set `factorization` and return its crops, their coefficients and the concept bank."""
        shape = images.shape[1:]
        patch = fitting_patch(self.patch_size, shape)
        coefficients, shown = np.split(by_position(self._read, activations), 2, axis=-1)
        maps = concept_maps(shown, shape)
        self.number_of_concepts = maps.shape[-1]
        self.factorization = Factorization(
            inputs=images,
            class_id=class_id,
            crops=tf.convert_to_tensor(extract_crops(images, patch)),
            reducer=self.factorizer,
            crops_u=crop_coefficients(maps, shape, patch),
            concept_bank_w=np.asarray(self.factorizer.get_concept_bank(), np.float32),
        )
        self.sensitivity = None
        for derived in ("_pixel_limits", "_scores"):
            self.__dict__.pop(derived, None)
        # Pooled features are a few numbers an image; keeping them saves a pass through the network.
        pool = self.head.pool
        self._pooled = (pool(activations), pool(coefficients)) if self._pools else None
        factorization = self.factorization
        return factorization.crops, factorization.crops_u, factorization.concept_bank_w

    def _read(self, positions: Array) -> Array:
        return np.concatenate(self.factorizer.read(positions), axis=1)

    @property
    def concept_bank_w(self) -> Array:
        """The concept bank, (I, D) float32: features are ``u @ concept_bank_w`` and a residual."""
        self.check_if_fitted()
        bank: Array = self.factorization.concept_bank_w
        return bank

    # ---------------------------------------------------------------- reading

    def transform(self, inputs: ArrayLike | None, activations: ArrayLike | None = None) -> Array:
        """Return concept coefficients of images.

        Parameters
        ----------
        inputs : array-like of shape (N, height, width, C), optional
            A single image counts as a batch of one. None where activations are given.
        activations : array-like of shape (N, *spatial, D), optional
            Activations of the images, if they are known.

        Returns
        -------
        coeffs_u : ndarray of shape (N, *spatial, I)
            (N, H, W, I), (N, T, I) for tokens, (N, I) for vectors.
        """
        self.check_if_fitted()
        return by_position(self.factorizer.encode, self._activations(inputs, activations))

    def _activations(self, inputs: ArrayLike | None, activations: ArrayLike | None = None) -> Array:
        """Return checked activations: those given, or those of the images."""
        if activations is None:
            if inputs is None:
                raise ValueError(
                    "neither images nor activations are given: give images, or their activations"
                )
            return compute_activations(self.input_to_latent_model, inputs, self.batch_size)
        activations = check_activations(activations)
        check_channels(activations, self.factorization.concept_bank_w.shape[1])
        return activations

    def _shown_maps(self, image: Array) -> Array:
        """Return one image's concept maps as pictures show them, (H, W, I)."""
        activations = self._activations(image)
        shown = by_position(self.factorizer.shown_coefficients, activations)
        return np.asarray(concept_maps(shown, as_images(image).shape[1:])[0])

    # ---------------------------------------------------------------- importance

    def estimate_importance(self, inputs: ArrayLike | None = None, nb_design: int = 32) -> Array:
        """Return total Sobol indices of the class score, each concept dimmed at all positions.

        A mask m ∈ [0, 1]^I turns an image's features x into r + decode(m · u), with the residual
        r = x − decode(u): m = 1 is the network's own output. Every image has masks of its own, so
        that the error of few masks averages out over images.

        Parameters
        ----------
        inputs : array-like of shape (N, height, width, C), optional
            Images for local importances. None: the images of `fit`, and `sensitivity` is set.
        nb_design : int, default=32
            n; the head is evaluated n · (I + 2) times an image. For a single image, whose error is
            not averaged over others, 128 is worth its time.

        Returns
        -------
        importances : ndarray of shape (I,)
            Mean over the images, ≥ 0; 0 where the score does not depend on the masks.
        """
        self.check_if_fitted()
        if inputs is None and self._pooled is not None:
            features, coefficients = self._pooled
        else:
            features = self._activations(self.factorization.inputs if inputs is None else inputs)
            coefficients = by_position(self.factorizer.encode, features)
            if self._pools:
                features, coefficients = self.head.pool(features), self.head.pool(coefficients)
        concepts = self.number_of_concepts
        designs = sobol_designs(concepts, nb_design, self.random_state)
        importances = np.zeros(concepts)
        for x, u, masks in zip(features, coefficients, designs, strict=False):
            scores = self._masked_scores(x, u, masks)
            importances += sobol_indices(scores, masks, degree=0).total / len(features)
        if inputs is None:
            self.sensitivity = sensitivity_of(importances)
        return importances

    @property
    def _pools(self) -> bool:
        """Whether pooled features are enough: averaging commutes with an affine decoder."""
        return self.head.pools_first and self.factorizer.decodes_affinely

    def _masked_scores(self, x: Array, u: Array, masks: Array) -> Array:
        """Return the class score of one image's features under each mask, (M,)."""
        size = chunk_size(x.size, self.batch_size, _FEATURES_AT_ONCE)
        x, u = tf.constant(x), tf.constant(u, tf.float32)
        class_id = tf.constant(self.factorization.class_id)
        scores = [
            self._scores(x, u, tf.constant(masks[part]), class_id)
            for part in slices(len(masks), size)
        ]
        return np.concatenate(scores)

    @cached_property
    def _scores(self) -> tf.types.experimental.PolymorphicFunction:
        return tf.function(self._scores_of_batch, reduce_retracing=True)

    def _scores_of_batch(
        self, x: tf.Tensor, u: tf.Tensor, masks: tf.Tensor, class_id: tf.Tensor
    ) -> tf.Tensor:
        """Return class scores (B,) of x + decode(m · u) − decode(u) = r + decode(m · u)."""
        concepts = u.shape[-1]
        masks = tf.reshape(masks, [-1, *[1] * (len(u.shape) - 1), concepts])
        intact = tf.reshape(self.factorizer.decode(tf.reshape(u, [-1, concepts])), x.shape)
        dimmed = self.factorizer.decode(tf.reshape(masks * u, [-1, concepts]))
        features = tf.reshape(dimmed, [-1, *x.shape]) + (x - intact)
        return self.head.class_scores(features, class_id)


class HoldsPairs(ChecksFit):
    """Mixin of extractors whose factorizer learns direction pairs."""

    factorizer: Any

    @property
    def pairs(self) -> DirectionPairs:
        """The learned direction pairs."""
        self.check_if_fitted()
        pairs: DirectionPairs = self.factorizer.pairs_
        return pairs

    @property
    def history_(self) -> History | None:
        """The course of the fit; None where the pairs were given."""
        self.check_if_fitted()
        history: History | None = self.factorizer.history_
        return history


class DirectionPairsTf(HoldsPairs, FactorizerCraftTf):
    """Concepts as encoding-decoding direction pairs, used like `CraftTf`.

    Parameters
    ----------
    input_to_latent_model : SplitModel or keras.Model
        Both halves of the network, from `split_model`; or the first one, images to activations.
    latent_to_logit_model : keras.Model, optional
        The second half, activations to logits or probabilities.
    number_of_concepts : int, default=20
        I; may exceed the number of channels.
    batch_size : int, default=64
        Images, or masked feature maps, in one pass.
    patch_size : int, default=64
        Side of the square crops shown for the concepts, in pixels.
    recipe : str or Recipe, default="default"
        How the pairs are learned: see `learn_pairs`.
    off : {"absent", "undecided"}, default="absent"
        What "a concept is switched off" means: see `DirectionPairs.coefficients`.
    n_init : int, optional
        Number of restarts, of which the best is kept: see `learn_pairs`.
    random_state : int, optional
        Seed of the learning and of the masks of `estimate_importance`.
    verbose : int, default=1
        0 for silence.
    pairs : DirectionPairs, optional
        Pairs learned, or loaded, before: `fit` then learns none, and only reads the images.
        ``number_of_concepts``, ``recipe``, ``n_init`` and ``verbose`` are without effect.
    """

    def __init__(
        self,
        input_to_latent_model: SplitModel | keras.Model,
        latent_to_logit_model: keras.Model | None = None,
        number_of_concepts: int = 20,
        batch_size: int = 64,
        patch_size: int = 64,
        *,
        recipe: str | Recipe = "default",
        off: Off = "absent",
        n_init: int | None = None,
        random_state: int | None = None,
        verbose: int = 1,
        pairs: DirectionPairs | None = None,
    ):
        if pairs is not None:
            factorizer = DirectionPairsFactorizer.from_pairs(pairs, off)
        else:
            factorizer = new_factorizer(
                number_of_concepts, recipe, off, n_init, random_state, verbose
            )
        self._learns = pairs is None
        super().__init__(
            input_to_latent_model,
            latent_to_logit_model,
            factorizer,
            batch_size,
            patch_size,
            random_state=random_state,
        )

    def fit(
        self, inputs: ArrayLike, class_id: int = 0, *, resume: str | os.PathLike[str] | None = None
    ) -> tuple[tf.Tensor, Array, Array]:
        """Learn the direction pairs; arguments and results as of `FactorizerCraftTf.fit`.

        Parameters
        ----------
        inputs, class_id
            As of `FactorizerCraftTf.fit`.
        resume : path, optional
            A folder that keeps the state of the learning after every epoch. If it holds the state
            of a fit of the same images with the same settings, that fit is resumed.
        """
        return self._fit(inputs, class_id, resume=resume)

    def _learn(self, activations: Array, resume: str | os.PathLike[str] | None = None) -> None:
        """Learn the pairs; where they were given, check that they are of this layer."""
        if self._learns:
            self.factorizer.fit_maps(activations, self.head, resume=resume)
        else:
            check_channels(check_activations(activations), self.factorizer.pairs_.channels)

    def detect(self, inputs: ArrayLike | None, activations: ArrayLike | None = None) -> Array:
        """Return concept detections y of images, in [0, 1]; y > 0.5: the concept is present.

        Arguments and shape are those of `transform`.
        """
        self.check_if_fitted()
        return by_position(self.factorizer.detect, self._activations(inputs, activations))


def new_factorizer(
    number_of_concepts: int,
    recipe: str | Recipe,
    off: Off,
    n_init: int | None,
    random_state: int | None,
    verbose: int,
) -> DirectionPairsFactorizer:
    """Return a factorizer of these settings, whose recipe is valid."""
    return DirectionPairsFactorizer(
        number_of_concepts,
        recipe=get_recipe(recipe),
        off=off,
        n_init=n_init,
        random_state=random_state,
        verbose=verbose,
    )


def check_split(first: SplitModel | keras.Model, second: keras.Model | None) -> SplitModel:
    """Return the halves that a CRAFT class was given.

    Raises
    ------
    TypeError
        If they are not Keras models, or the second is missing.
    ValueError
        If they do not belong together.
    """
    if second is not None:
        check_keras_model("latent_to_logit_model", second)
    return SplitModel.of(first, second)


def check_channels(activations: Array, channels: int) -> None:
    """Raise a ValueError unless activations have the channels that concepts were learned in."""
    if activations.shape[-1] != channels:
        raise ValueError(
            f"activations must end in the {channels} channels the concepts were learned in, "
            f"but have shape {activations.shape}"
        )


def sensitivity_of(importances: Array) -> Sensitivity:
    """Return importances with their order; a concept's colour goes by its number, as everywhere."""
    order = np.argsort(-importances, kind="stable")
    colors = concept_colors(len(importances))
    return Sensitivity(importances, order, cmaps=[colors[i] for i in order])
