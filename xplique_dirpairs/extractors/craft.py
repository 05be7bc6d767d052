"""CRAFT's workflow over any `DirectionsFactorizer`, with the residual kept."""

from __future__ import annotations

import keras
import numpy as np
import tensorflow as tf
from numpy.typing import ArrayLike
from sklearn.exceptions import NotFittedError
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
from xplique_dirpairs.data.activations import compute_activations
from xplique_dirpairs.data.crops import (
    concept_maps,
    crop_coefficients,
    extract_crops,
    fitting_patch,
)
from xplique_dirpairs.extractors.concept_layer import fit_factorizer
from xplique_dirpairs.extractors.concept_plots import ConceptPlots
from xplique_dirpairs.factorizers.base import DirectionsFactorizer
from xplique_dirpairs.metrics.importance import sobol_designs, total_sobol_indices
from xplique_dirpairs.models.graph import check_keras_model
from xplique_dirpairs.models.split import SplitModel
from xplique_dirpairs.plots.images import pixel_limits
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
        check_class(class_id, self.head.number_of_classes)
        images = as_images(inputs)
        activations = self._activations(images)
        self._fit_factorizer(activations)
        return self._describe(images, activations, class_id)

    def _fit_factorizer(self, activations: Array) -> None:
        fit_factorizer(self.factorizer, activations, self.head)

    def _describe(
        self, images: Array, activations: Array, class_id: int
    ) -> tuple[tf.Tensor, Array, Array]:
        """Set `factorization` and return its crops, their coefficients and the concept bank."""
        patch = fitting_patch(self.patch_size, images.shape[1:])
        shown = by_position(self.factorizer.shown_coefficients, activations)
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
        # Pooled features are a few numbers an image; keeping them saves a pass through the network.
        self._pooled = self._importance_parts(activations) if self._pools else None
        self.__dict__.pop("_scores", None)
        return self.factorization.crops, self.factorization.crops_u, self.concept_bank_w

    @property
    def concept_bank_w(self) -> Array:
        """The concept bank, (I, D) float32: features are ``u @ concept_bank_w`` and a residual."""
        self.check_if_fitted()
        return self.factorization.concept_bank_w

    def check_if_fitted(self) -> None:
        """Raise sklearn's `NotFittedError` before `fit`."""
        if self.factorization is None:
            raise NotFittedError(f"this {type(self).__name__} is not fitted: call fit() first")

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

    def _activations(self, inputs, activations=None) -> Array:
        """Return checked activations: those given, or those of the images."""
        if activations is None:
            if inputs is None:
                raise ValueError(
                    "neither images nor activations are given: give images, or their activations"
                )
            return compute_activations(self.input_to_latent_model, inputs, self.batch_size)
        activations = check_activations(activations)
        channels = self.factorization.concept_bank_w.shape[1]
        if activations.shape[-1] != channels:
            raise ValueError(
                f"activations must end in the {channels} channels the concepts were learned in, "
                f"but have shape {activations.shape}"
            )
        return activations

    def _shown_maps(self, image: Array) -> Array:
        """Return one image's concept maps as pictures show them, (H, W, I)."""
        activations = self._activations(image)
        shown = by_position(self.factorizer.shown_coefficients, activations)
        return concept_maps(shown, as_images(image).shape[1:])[0]

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
        """Whether pooled features are enough: averaging commutes with an affine decoder."""
        return self.head.pools_first and self.factorizer.decodes_affinely

    def _importance_parts(self, activations: Array) -> tuple[Array, Array]:
        """Return features and coefficients (N, *spatial, ·); pooled where that is enough."""
        coefficients = by_position(self.factorizer.encode, activations)
        if self._pools:
            return self.head.pool(activations), self.head.pool(coefficients)
        return activations, coefficients

    def _masked_scores(self, x: Array, u: Array, masks: Array) -> Array:
        """Return the class score of one image's features under each mask, (M,)."""
        size = chunk_size(x.size, self.batch_size, _FEATURES_AT_ONCE)
        if "_scores" not in self.__dict__:
            self._scores = tf.function(self._scores_of_batch, reduce_retracing=True)
        x, u = tf.constant(x), tf.constant(u, tf.float32)
        class_id = tf.constant(self.factorization.class_id)
        scores = [
            self._scores(x, u, tf.constant(masks[part]), class_id)
            for part in slices(len(masks), size)
        ]
        return np.concatenate(scores)

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


def check_split(first: SplitModel | keras.Model, second: keras.Model | None) -> SplitModel:
    """Return the halves that a CRAFT class was given.

    Raises
    ------
    TypeError
        If they are not Keras models, or the second is missing.
    ValueError
        If they do not belong together.
    """
    if not isinstance(first, SplitModel):
        check_keras_model("input_to_latent_model", first)
        if second is not None:
            check_keras_model("latent_to_logit_model", second)
    return SplitModel.of(first, second)


def sensitivity_of(importances: Array) -> Sensitivity:
    """Return importances with their order; a concept's colour goes by its number, as everywhere."""
    order = np.argsort(-importances, kind="stable")
    colors = concept_colors(len(importances))
    return Sensitivity(importances, order, cmaps=[colors[i] for i in order])
