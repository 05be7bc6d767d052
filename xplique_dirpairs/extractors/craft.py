"""Extractors with the interface of `CraftTf` that keep the residual of the features."""

from __future__ import annotations

import os
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from numpy.typing import ArrayLike
from xplique.concepts import CraftTf
from xplique.concepts.craft import Factorization

from xplique_dirpairs.core.batching import by_position
from xplique_dirpairs.core.types import Array
from xplique_dirpairs.core.validation import (
    as_inputs,
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
    stills,
    unchecked_activations,
)
from xplique_dirpairs.extractors.base import HoldsPairs, check_split
from xplique_dirpairs.extractors.concept_plots import ConceptPlots
from xplique_dirpairs.extractors.importance import ConceptImportance
from xplique_dirpairs.extractors.kinds import check_channels, fit_factorizer
from xplique_dirpairs.factorizers.base import DirectionsFactorizer
from xplique_dirpairs.factorizers.direction_pairs import DirectionPairsFactorizer
from xplique_dirpairs.learning.presets import get_recipe
from xplique_dirpairs.learning.recipe import Recipe
from xplique_dirpairs.models.copies import HoldsModels
from xplique_dirpairs.models.split import SplitModel
from xplique_dirpairs.pairs import DirectionPairs, Off


class FactorizerCraftTf(HoldsModels, ConceptPlots, ConceptImportance, CraftTf):
    """Xplique's `CraftTf` with another method that finds the concepts.

    Methods, arguments and shapes are those of `CraftTf`. There are two differences. Concepts are
    learned from all positions of whole images instead of crops, and each image passes through the
    network once. The residual, the part of the features that the concepts do not explain, is added
    to decoded features, so that importances refer to the network's own output.

    Shapes: N images; D channels; I concepts; K classes. ``*spatial`` is (H, W) for feature maps,
    (T,) for T tokens, and empty for vectors.

    Parameters
    ----------
    input_to_latent_model : SplitModel or keras.Model
        Both halves of the network, from `split_model`; or the first half, from images to
        activations of any sign: maps (N, H, W, D), tokens (N, T, D) or vectors (N, D).
    latent_to_logit_model : keras.Model, optional
        The second half, from activations to logits or probabilities (N, K). Required unless
        ``input_to_latent_model`` is a `SplitModel`.
    factorizer : DirectionsFactorizer
        The method that finds the concepts, such as ``PCAFactorizer(12)``. Required.
    batch_size : int, default=64
        Number of images that pass through the network at a time. `estimate_importance` evaluates
        the second half on this many masked copies of an image's features at a time, or on more if
        they are small.
    patch_size : int, default=64
        Side of the square crops shown for the concepts, in pixels; the shorter side of the images
        if that is smaller.
    random_state : int or numpy.random.Generator, optional
        Seed of the masks on coefficients that `estimate_importance` draws. None: other masks at
        every call.

    Attributes
    ----------
    factorization : xplique.concepts.craft.Factorization or None
        What `fit` found: its attributes ``crops``, ``crops_u`` and ``concept_bank_w`` are the
        results of `fit`, ``inputs`` and ``class_id`` its arguments, and ``reducer`` is the
        factorizer. None before `fit`.
    sensitivity : xplique.concepts.craft.Sensitivity or None
        ``importances`` (I,) of the concepts over the images of `fit`, and
        ``most_important_concepts`` (I,), their indices from the most to the least important. None
        before ``estimate_importance()``.

    Raises
    ------
    TypeError
        If the factorizer or the second half is missing, or a half is not a Keras model.
    ValueError
        If a size is not a positive integer, or the halves do not belong together.
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
            raise TypeError("factorizer is missing: give a method, such as PCAFactorizer(12)")
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

    def fit(
        self, inputs: ArrayLike, class_id: int = 0, *, activations: ArrayLike | None = None
    ) -> tuple[tf.Tensor, Array, Array]:
        """Learn the concepts of a class from its images.

        Parameters
        ----------
        inputs : array-like of shape (N, height, width, channels)
            N images, preprocessed for ``input_to_latent_model``; uint8 is accepted. Of videos
            (N, T, height, width, channels), crops are those of the frame in the middle.
        class_id : int, default=0
            Index of the class whose score `estimate_importance` explains; a single output is class
            0.
        activations : array-like of shape (N, *spatial, D), optional
            Activations of the N images in the D channels of the layer, if they are known. None: the
            images pass through the network.

        Returns
        -------
        crops : tf.Tensor of shape (n, patch, patch, channels)
            All n square crops of the images on CRAFT's grid, ``int(0.8 * patch)`` pixels apart,
            where ``patch`` is the side in pixels: image by image, then row by row.
        crops_u : ndarray of shape (n, I)
            Coefficients of the I concepts in each crop, averaged over its area. Those of direction
            pairs count as 0 at positions where the concept is not detected.
        concept_bank_w : ndarray of shape (I, D), float32
            Concept bank: row i is what one unit of coefficient i adds to the D channels.

        Raises
        ------
        TypeError
            If ``class_id`` is not an integer.
        ValueError
            If there are no images, if images or activations are not finite or have a shape that the
            models do not take, or if ``class_id`` is out of range.
        """
        return self._fit(inputs, class_id, activations)

    def _fit(
        self, inputs: ArrayLike, class_id: int, activations: ArrayLike | None, **options: Any
    ) -> tuple[tf.Tensor, Array, Array]:
        """Fit as `fit` does, with further options of `_learn`."""
        check_class(class_id, self.head.number_of_classes)
        images = as_inputs(inputs)
        if activations is None:
            # Fitting the factorizer checks that the activations are finite.
            x = unchecked_activations(self.input_to_latent_model, images, self.batch_size)
        else:
            x = check_activations(activations)
            if len(x) != len(images):
                raise ValueError(
                    f"activations must have one entry for each of {len(images)} images, not "
                    f"{len(x)}"
                )
        self._learn(x, **options)
        return self._describe(images, x, class_id)

    def _learn(self, activations: Array) -> None:
        """Fit the factorizer on activations (N, *spatial, D) and check that they are finite."""
        fit_factorizer(self.factorizer, activations, self.head)

    def _describe(
        self, images: Array, activations: Array, class_id: int
    ) -> tuple[tf.Tensor, Array, Array]:
        """Set `factorization` and return its crops, their coefficients and the concept bank."""
        shape = images.shape[1:]
        patch = fitting_patch(self.patch_size, shape)
        coefficients, shown = np.split(by_position(self._read, activations), 2, axis=-1)
        maps = concept_maps(shown, shape, self.split.extra_tokens)
        self.number_of_concepts = maps.shape[-1]
        self.factorization = Factorization(
            inputs=images,
            class_id=class_id,
            crops=tf.convert_to_tensor(extract_crops(stills(images), patch)),
            reducer=self.factorizer,
            crops_u=crop_coefficients(maps, shape, patch),
            concept_bank_w=np.asarray(self.factorizer.get_concept_bank(), np.float32),
        )
        self.sensitivity = None
        for derived in ("_pixel_limits", "_scores"):
            self.__dict__.pop(derived, None)
        self.head = self.split.head.checked_on(activations)
        # Pooled features are small; keeping them saves another pass through the network.
        pool = self.head.pool
        self._pooled = (pool(activations), pool(coefficients)) if self._pools else None
        factorization = self.factorization
        return factorization.crops, factorization.crops_u, factorization.concept_bank_w

    def _read(self, positions: Array) -> Array:
        """Return coefficients and those that plots show, (P, 2I), of positions (P, D)."""
        return np.concatenate(self.factorizer.read(positions), axis=1)

    @property
    def concept_bank_w(self) -> Array:
        """Concept bank of I concepts and D channels, (I, D) float32.

        Row i is what one unit of coefficient i adds to the features. `NotFittedError` is raised
        before `fit`.
        """
        self.check_if_fitted()
        bank: Array = self.factorization.concept_bank_w
        return bank

    # ---------------------------------------------------------------- reading

    def transform(self, inputs: ArrayLike | None, activations: ArrayLike | None = None) -> Array:
        """Compute the concept coefficients of images.

        Parameters
        ----------
        inputs : array-like of shape (N, height, width, channels) or None
            N images, or a single one without the first axis, preprocessed for the network. None if
            activations are given.
        activations : array-like of shape (N, *spatial, D), optional
            Activations of the N images in the D channels of the layer, which are then used instead
            of ``inputs``. None: they are computed.

        Returns
        -------
        coeffs_u : ndarray of shape (N, *spatial, I)
            Coefficients of the I concepts: (N, H, W, I) for feature maps, (N, T, I) for T tokens,
            (N, I) for vectors.

        Raises
        ------
        NotFittedError
            If `fit` was not called.
        ValueError
            If neither images nor activations are given, or they are invalid.
        """
        self.check_if_fitted()
        return by_position(self.factorizer.encode, self._activations(inputs, activations))

    def _activations(self, inputs: ArrayLike | None, activations: ArrayLike | None = None) -> Array:
        """Return activations (N, *spatial, D): the given ones, checked, or those of the images."""
        if activations is None:
            if inputs is None:
                raise ValueError("inputs and activations are missing: give images, or activations")
            return compute_activations(self.input_to_latent_model, inputs, self.batch_size)
        activations = check_activations(activations)
        check_channels(self.factorization.concept_bank_w.shape[1], activations.shape[-1])
        return activations

    def _shown_maps(self, image: Array) -> Array:
        """Return the concept maps (H, W, I) of an image as plots show them."""
        activations = self._activations(image)
        shown = by_position(self.factorizer.shown_coefficients, activations)
        shape = as_inputs(image).shape[1:]
        return np.asarray(concept_maps(shown, shape, self.split.extra_tokens)[0])


class DirectionPairsTf(HoldsPairs, FactorizerCraftTf):
    """Encoding–decoding direction pairs with the interface of Xplique's `CraftTf`.

    It is used like `CraftTf`, and differs from it as `FactorizerCraftTf` does: concepts are learned
    from whole images, and the part of the features that they do not explain is kept.

    Parameters
    ----------
    input_to_latent_model : SplitModel or keras.Model
        Both halves of the network, from `split_model`; or the first half, from images to
        activations.
    latent_to_logit_model : keras.Model, optional
        The second half, from activations to logits or probabilities of N images and K classes,
        (N, K). Required unless ``input_to_latent_model`` is a `SplitModel`.
    number_of_concepts : int, default=20
        Number of concepts, which may exceed the number of channels of the layer.
    batch_size : int, default=64
        Number of images that pass through the network at a time. `estimate_importance` evaluates
        the second half on this many masked copies of an image's features at a time, or on more if
        they are small.
    patch_size : int, default=64
        Side of the square crops shown for the concepts, in pixels; the shorter side of the images
        if that is smaller.
    recipe : str or Recipe, default="default"
        Losses, stages and step sizes of the learning: a `Recipe` or the name of one, "default",
        "soft", "sparse", "constrained", "paper-deep", "paper-synthetic", "uibe" or "cbe".
    off : {"absent", "undecided"}, default="absent"
        State of a concept whose coefficient is 0. "absent": the projection of the features on its
        filter does not exceed the mean of this projection over positions where the concept is not
        detected. "undecided": all detections are 0.5 if all coefficients are 0 (the constrained
        uncertainty region of Doumanoglou et al., arXiv 2509.23926); if only some are 0, the
        detections of these concepts also depend on the others.
    n_init : int, optional
        Number of restarts of the learning, of which the best is kept. None: as the recipe says;
        "default" has 1 to 8 restarts, more of them if a step of the learning is cheap.
    random_state : int, optional
        Seed of the learning and of the masks on coefficients that `estimate_importance` draws.
        None: a random seed.
    verbose : int, default=1
        0 disables progress messages.
    pairs : DirectionPairs, optional
        Existing pairs. `fit` then learns no pairs and only reads the images, and
        ``number_of_concepts``, ``recipe``, ``n_init`` and ``verbose`` are ignored. None: `fit`
        learns them.

    Attributes
    ----------
    factorization : xplique.concepts.craft.Factorization or None
        What `fit` found: its attributes ``crops``, ``crops_u`` and ``concept_bank_w`` are the
        results of `fit`, ``inputs`` and ``class_id`` its arguments, and ``reducer`` is the
        factorizer. None before `fit`.
    sensitivity : xplique.concepts.craft.Sensitivity or None
        ``importances`` (I,) of the I concepts over the images of `fit`, and
        ``most_important_concepts`` (I,), their indices from the most to the least important. None
        before ``estimate_importance()``.

    Raises
    ------
    TypeError
        If the second half is missing, or a half is not a Keras model.
    ValueError
        If a parameter is invalid, or the halves do not belong together.
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
            factorizer = DirectionPairsFactorizer(
                number_of_concepts,
                recipe=get_recipe(recipe),
                off=off,
                n_init=n_init,
                random_state=random_state,
                verbose=verbose,
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
        self,
        inputs: ArrayLike,
        class_id: int = 0,
        *,
        activations: ArrayLike | None = None,
        resume: str | os.PathLike[str] | None = None,
    ) -> tuple[tf.Tensor, Array, Array]:
        """Learn the direction pairs of a class from its images.

        Parameters
        ----------
        inputs : array-like of shape (N, height, width, channels)
            N images, preprocessed for the network; uint8 is accepted. Of videos
            (N, T, height, width, channels), crops are those of the frame in the middle.
        class_id : int, default=0
            Index of the class whose score `estimate_importance` explains; a single output is class
            0.
        activations : array-like of shape (N, *spatial, D), optional
            Activations of the N images in the D channels of the layer, if they are known. None: the
            images pass through the network.
        resume : str or os.PathLike, optional
            Folder in which the state of the learning is saved after every epoch. If it holds the
            state of a fit to the same images with the same settings, that fit is resumed. None:
            nothing is saved.

        Returns
        -------
        crops : tf.Tensor of shape (n, patch, patch, channels)
            All n square crops of the images on CRAFT's grid, ``int(0.8 * patch)`` pixels apart,
            where ``patch`` is the side in pixels: image by image, then row by row.
        crops_u : ndarray of shape (n, I)
            Coefficients of the I concepts in each crop, averaged over its area; they count as 0 at
            positions where the concept is not detected.
        concept_bank_w : ndarray of shape (I, D), float32
            Concept bank: row i is what one unit of coefficient i adds to the D channels.

        Warns
        -----
        LearningWarning
            If the learned pairs have problems, which ``history_.problems()`` lists.

        Raises
        ------
        TypeError
            If ``class_id`` is not an integer.
        ValueError
            If there are no images, if images or activations are not finite or have a shape that the
            models do not take, if ``class_id`` is out of range, or if ``resume`` cannot be written
            to or holds the state of another fit.

        Notes
        -----
        Ctrl-C ends the learning and keeps the pairs learned so far; ``history_.interrupted`` is
        then True.
        """
        return self._fit(inputs, class_id, activations, resume=resume)

    def _learn(self, activations: Array, resume: str | os.PathLike[str] | None = None) -> None:
        """Learn the pairs, or check that given pairs have the channels of the layer."""
        if self._learns:
            self.factorizer.fit_maps(activations, self.head, resume=resume)
        else:
            check_activations(activations)

    def detect(self, inputs: ArrayLike | None, activations: ArrayLike | None = None) -> Array:
        """Compute the concept detections of images.

        Parameters
        ----------
        inputs : array-like of shape (N, height, width, channels) or None
            N images, or a single one without the first axis, preprocessed for the network. None if
            activations are given.
        activations : array-like of shape (N, *spatial, D), optional
            Activations of the N images in the D channels of the layer, which are then used instead
            of ``inputs``. None: they are computed.

        Returns
        -------
        detections : ndarray of shape (N, *spatial, I)
            Detections of the I concepts, in [0, 1]: a concept is detected at a position where its
            value is above 0.5. ``*spatial`` is (H, W) for feature maps, (T,) for T tokens, and
            empty for vectors.

        Raises
        ------
        NotFittedError
            If `fit` was not called.
        ValueError
            If neither images nor activations are given, or they are invalid.
        """
        self.check_if_fitted()
        return by_position(self.factorizer.detect, self._activations(inputs, activations))
