"""CRAFT's workflow over any `DirectionsFactorizer`, with the residual kept."""

from __future__ import annotations

import logging

import keras
import numpy as np
import tensorflow as tf
from numpy.typing import ArrayLike, NDArray
from sklearn.exceptions import NotFittedError
from xplique.concepts import CraftTf
from xplique.concepts.craft import Factorization, Sensitivity

from xplique_dirpairs.core.batching import as_positions
from xplique_dirpairs.core.validation import (
    as_activations,
    as_images,
    check_class,
    check_images,
    check_integer,
)
from xplique_dirpairs.data.activations import compute_activations
from xplique_dirpairs.data.crops import (
    concept_maps,
    crop_coefficients,
    extract_crops,
    fitting_patch,
)
from xplique_dirpairs.extractors.concept_plots import ConceptPlots
from xplique_dirpairs.factorizers.base import DirectionsFactorizer
from xplique_dirpairs.metrics.importance import sobol_designs, total_sobol_indices
from xplique_dirpairs.models.graph import check_keras_model
from xplique_dirpairs.models.split import SplitModel
from xplique_dirpairs.plots.images import pixel_limits
from xplique_dirpairs.plots.palette import concept_colors

logger = logging.getLogger("xplique_dirpairs")

#: Features (numbers, not bytes) that go through the head at once: where one image has few, many
#: masked copies of it make a pass, and the cost of calling the head is paid once.
FEATURES_AT_ONCE = 2**23


class FactorizerCraftTf(ConceptPlots, CraftTf):
    """`CraftTf` with the concepts of any `DirectionsFactorizer`.

    Methods, arguments and shapes are those of `CraftTf`. What differs: concepts are learned from
    every position of the whole images, in one pass through the network, and what the concepts do
    not explain of the features (the residual) is added back, so that importances are about the
    network's own output.

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
        for name, value in {
            "number_of_concepts": concepts,
            "batch_size": batch_size,
            "patch_size": patch_size,
        }.items():
            check_integer(name, value)
        super().__init__(*split, concepts, batch_size, patch_size)
        self.split = split
        self.factorizer = factorizer
        self.random_state = random_state
        self.head = split.head

    # ---------------------------------------------------------------- fitting

    def fit(self, inputs: ArrayLike, class_id: int = 0) -> tuple[tf.Tensor, NDArray, NDArray]:
        """Learn the concepts of a class from its images.

        Parameters
        ----------
        inputs : (N, height, width, channels)
            Images as ``input_to_latent_model`` takes them; uint8 is accepted.
        class_id
            The class whose score `estimate_importance` is about.

        Returns
        -------
        crops : tf.Tensor (n, patch, patch, channels)
            Of the same grid as CRAFT's: whole patches, ``int(0.8 * patch)`` apart. A tensor, as
            CRAFT returns it; the others are arrays.
        crops_u : (n, I)
            A crop's coefficients: the mean of the concept maps (coefficients where the concept
            is detected) over its area.
        concept_bank_w : (I, D) float32

        Raises
        ------
        ValueError
            If there are no images, they or their activations are not finite or of another shape
            than the models take, or there is no such class.
        """
        check_class(class_id, self.head.number_of_classes)
        check_images(inputs)
        images = as_images(inputs)
        activations = self._activations(images)
        self._fit_factorizer(activations)
        return self._describe(images, activations, class_id)

    def _fit_factorizer(self, activations: NDArray) -> None:
        if self.factorizer.requires_positive_activations and activations.min() < 0:
            raise ValueError(
                f"{type(self.factorizer).__name__} needs activations that are nowhere negative: "
                "choose a layer after a ReLU, or another factorizer"
            )
        self.factorizer.fit(as_positions(activations))

    def _describe(
        self, images: NDArray, activations: NDArray, class_id: int
    ) -> tuple[tf.Tensor, NDArray, NDArray]:
        """Crops of the images and what the fitted factorizer says of them."""
        patch = fitting_patch(self.patch_size, images.shape[1:])
        shown = self._by_position(self.factorizer.shown_coefficients, activations)
        maps = concept_maps(shown, images.shape[1:])
        self.number_of_concepts = maps.shape[-1]
        self.factorization = Factorization(
            inputs=images,
            class_id=class_id,
            crops=tf.convert_to_tensor(extract_crops(images, patch)),
            reducer=self.factorizer,
            crops_u=crop_coefficients(maps, images.shape[1:], patch),
            concept_bank_w=self.factorizer.components_,
        )
        self.sensitivity = None
        self._pixel_limits = pixel_limits(images)
        # Pooled features are a few numbers an image: kept, they save importances a network pass.
        self._pooled = self._importance_parts(activations) if self._pools else None
        self.__dict__.pop("_scores", None)
        return self.factorization.crops, self.factorization.crops_u, self.concept_bank_w

    @property
    def concept_bank_w(self) -> NDArray:
        """(I, D) float32; the features are ``transform(...) @ concept_bank_w`` and the rest."""
        self.check_if_fitted()
        return self.factorization.concept_bank_w

    def check_if_fitted(self) -> None:
        """Raise sklearn's `NotFittedError` before `fit`."""
        if self.factorization is None:
            raise NotFittedError(f"this {type(self).__name__} is not fitted: call fit() first")

    # ---------------------------------------------------------------- reading

    def transform(self, inputs: ArrayLike | None, activations: ArrayLike | None = None) -> NDArray:
        """Concept coefficients of images.

        Parameters
        ----------
        inputs : (N, height, width, channels)
            A single image counts as a batch of one. None where activations are given.
        activations : (N, *spatial, D), optional
            Activations of the images, if they are known.

        Returns
        -------
        coeffs_u : (N, *spatial, I)
            ``(N, H, W, I)``, ``(N, T, I)`` for tokens, ``(N, I)`` for vectors.
        """
        self.check_if_fitted()
        return self._by_position(self.factorizer.encode, self._activations(inputs, activations))

    def _activations(self, inputs, activations=None) -> NDArray:
        """Checked activations: the given ones, or those of the images."""
        if activations is None:
            if inputs is None:
                raise ValueError("there is nothing to read: give images or their activations")
            return compute_activations(self.input_to_latent_model, inputs, self.batch_size)
        activations = as_activations(activations)
        channels = self.factorization.concept_bank_w.shape[1]
        if activations.shape[-1] != channels:
            raise ValueError(
                f"activations must end in the {channels} channels the concepts were learned in, "
                f"but have shape {activations.shape}"
            )
        return activations

    @staticmethod
    def _by_position(function, activations: NDArray) -> NDArray:
        """A function of flat ``(P, ·)`` arrays, applied to ``(N, *spatial, ·)``."""
        with np.errstate(invalid="ignore", over="ignore"):
            values = function(as_positions(activations))
        if not np.isfinite(values).all():  # cheaper to see here than in the activations
            raise ValueError(
                "activations hold NaN or infinite values: check the images and their preprocessing"
            )
        return values.reshape(*activations.shape[:-1], values.shape[-1])

    def _shown_maps(self, image: NDArray) -> NDArray:
        """What pictures show of one image, (H, W, I)."""
        activations = self._activations(image)
        shown = self._by_position(self.factorizer.shown_coefficients, activations)
        return concept_maps(shown, as_images(image).shape[1:])[0]

    # ---------------------------------------------------------------- importance

    def estimate_importance(self, inputs: ArrayLike | None = None, nb_design: int = 32) -> NDArray:
        """Total Sobol indices of the class score, each concept dimmed at all positions at once.

        A mask m ∈ [0, 1]^I turns an image's features x into r + decode(m · u), with the residual
        r = x − decode(u): m = 1 is the network's own output. Every image has masks of its own, so
        that the error of few masks averages out over images.

        Parameters
        ----------
        inputs : (N, height, width, channels), optional
            Images for local importances. None: the images of `fit`, and `sensitivity` is set.
        nb_design
            n; the head is evaluated n · (I + 2) times an image. A single image leaves nothing to
            average over: 128 is then worth its time.

        Returns
        -------
        importances : (I,)
            Mean over the images, ≥ 0; 0 where the score does not depend on the masks.
        """
        self.check_if_fitted()
        if inputs is None and self._pooled is not None:
            features, coefficients = self._pooled
        else:
            images = self.factorization.inputs if inputs is None else inputs
            features, coefficients = self._importance_parts(self._activations(images))
        concepts = self.number_of_concepts
        designs = sobol_designs(concepts, nb_design, self.random_state)
        importances = np.zeros(concepts)
        for x, u, masks in zip(features, coefficients, designs, strict=False):
            scores = self._masked_scores(x, u, masks)
            importances += total_sobol_indices(scores, concepts) / len(features)
        if inputs is None:
            self.sensitivity = sensitivity_of(importances)
        return importances

    @property
    def _pools(self) -> bool:
        """Whether pooled features suffice: averaging commutes with an affine decode."""
        return self.head.pools_first and self.factorizer.decodes_affinely

    def _importance_parts(self, activations: NDArray) -> tuple[NDArray, NDArray]:
        """Features and coefficients, ``(N, *spatial, ·)``, averaged over positions if that does."""
        coefficients = self._by_position(self.factorizer.encode, activations)
        if self._pools:
            return self.head.pool(activations), self.head.pool(coefficients)
        return activations, coefficients

    def _masked_scores(self, x: NDArray, u: NDArray, masks: NDArray) -> NDArray:
        """Class score of one image's features under each mask, (M,)."""
        size = max(self.batch_size, FEATURES_AT_ONCE // x.size)
        if "_scores" not in self.__dict__:
            self._scores = tf.function(self._scores_of_batch, reduce_retracing=True)
        x, u = tf.constant(x), tf.constant(u, tf.float32)
        batches = (masks[start : start + size] for start in range(0, len(masks), size))
        class_id = tf.constant(self.factorization.class_id)
        return np.concatenate([self._scores(x, u, tf.constant(m), class_id) for m in batches])

    def _scores_of_batch(
        self, x: tf.Tensor, u: tf.Tensor, masks: tf.Tensor, class_id: tf.Tensor
    ) -> tf.Tensor:
        """Class scores (B,) of x + decode(m · u) − decode(u), which is r + decode(m · u)."""
        concepts = u.shape[-1]
        masks = tf.reshape(masks, [-1, *[1] * (len(u.shape) - 1), concepts])
        intact = tf.reshape(self.factorizer.decode(tf.reshape(u, [-1, concepts])), x.shape)
        dimmed = self.factorizer.decode(tf.reshape(masks * u, [-1, concepts]))
        features = tf.reshape(dimmed, [-1, *x.shape]) + (x - intact)
        return self.head.class_scores(features, class_id)


def check_split(first: SplitModel | keras.Model, second: keras.Model | None) -> SplitModel:
    """Return the halves that a CRAFT class was given, both Keras models.

    Raises
    ------
    TypeError, ValueError
    """
    if not isinstance(first, SplitModel):
        check_keras_model("input_to_latent_model", first)
        if second is not None:
            check_keras_model("latent_to_logit_model", second)
    return SplitModel.of(first, second)


def sensitivity_of(importances: NDArray) -> Sensitivity:
    """Importances in order; a concept has its colour by its number, as in every other figure."""
    order = np.argsort(-importances, kind="stable")
    colors = concept_colors(len(importances))
    return Sensitivity(importances, order, cmaps=[colors[i] for i in order])
