"""Direction pairs with the interface of Xplique's `HolisticCraftTf`."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from matplotlib.axes import Axes
from numpy.typing import ArrayLike
from xplique.concepts import EncodedData, HolisticCraftTf
from xplique.concepts.craft import Factorization, Sensitivity
from xplique.concepts.factorizer import ConceptFactorizer
from xplique.concepts.latent_extractor import LatentData
from xplique.concepts.tf.latent_extractor import TfLatentExtractor
from xplique.concepts.tf.layered_model_latent_extractor import (
    LayeredLatentData,
    LayeredModelExtractorBuilder,
)

from xplique_dirpairs.core.batching import by_position
from xplique_dirpairs.core.types import Array
from xplique_dirpairs.core.validation import (
    check_activations,
    check_class,
    check_images,
    check_images_fit,
    check_integer,
    check_type,
)
from xplique_dirpairs.data.images import concept_maps
from xplique_dirpairs.extractors.base import HoldsPairs
from xplique_dirpairs.extractors.kinds import (
    activations_of_latents,
    fit_factorizer,
    shown_encoder,
)
from xplique_dirpairs.factorizers.direction_pairs import DirectionPairsFactorizer
from xplique_dirpairs.learning.presets import get_recipe
from xplique_dirpairs.learning.recipe import Recipe
from xplique_dirpairs.models.copies import check_picklable
from xplique_dirpairs.models.graph import node_of
from xplique_dirpairs.models.head import Head
from xplique_dirpairs.pairs import Off
from xplique_dirpairs.plots.images import as_picture, draw_heatmap, draw_picture
from xplique_dirpairs.plots.images import concept_heatmap as heatmap_at_size
from xplique_dirpairs.plots.palette import concept_colors


class HolisticDirectionPairsTf(HoldsPairs, HolisticCraftTf):
    """Encoding–decoding direction pairs with the interface of Xplique's `HolisticCraftTf`.

    Differently from `HolisticCraftTf`, the residual, the part of the features that the concepts do
    not explain, is added to decoded features.

    Parameters
    ----------
    latent_extractor : TfLatentExtractor
        Xplique's object with the two parts of the network, such as one that Xplique's
        `LayeredModelExtractorBuilder` built.
    number_of_concepts : int, default=20
        Number of concepts, which may exceed the number of channels of the layer.
    factorizer : ConceptFactorizer, optional
        Another method that finds the concepts; ``recipe``, ``off``, ``n_init``, ``random_state``
        and ``verbose`` are then ignored. None: direction pairs are learned.
    latent_to_logit_model : callable, optional
        Function from activations to logits or probabilities (N, K) of N images and K classes, for
        losses that make the network's predictions uncertain where all concepts are switched off.
        None: the second part of ``latent_extractor`` if `LayeredModelExtractorBuilder` built it;
        otherwise these losses are left out, and a message is logged.
    recipe : str or Recipe, default="default"
        Losses, stages and step sizes of the learning: a `Recipe` or the name of one, such as
        "default", "soft" or "paper-deep".
    off : {"absent", "undecided"}, default="absent"
        State of a concept whose coefficient is 0. "absent": the projection of the features on its
        filter does not exceed the mean of this projection over positions where the concept is not
        detected. "undecided": all detections are 0.5 if all coefficients are 0; if only some are 0,
        the detections of these concepts also depend on the others.
    n_init : int, optional
        Number of restarts of the learning, of which the best is kept. None: as the recipe says.
    random_state : int, optional
        Seed of the learning. None: a random seed.
    verbose : int, default=1
        0 disables progress messages.
    extra_tokens : tuple of int, optional
        For a layer of tokens, the places in the sequence of those that are no part of the image,
        such as ``(0,)`` for a class token: pictures leave them out. None: there are none.

    Attributes
    ----------
    factorizer : ConceptFactorizer
        The method that finds the concepts, fitted by `fit`.
    factorization : xplique.concepts.craft.Factorization or None
        What `fit` found: ``concept_bank_w`` (I, D) of I concepts, whose row i is what one unit of
        coefficient i adds to the D channels, and ``coeffs_u`` (N, *spatial, I), the coefficients of
        the N images of `fit` at positions of shape ``*spatial``. None before `fit`.

    Raises
    ------
    TypeError
        If ``latent_extractor`` is not a `TfLatentExtractor`.
    ValueError
        If ``number_of_concepts`` is not a positive integer, or not that of the factorizer.
    """

    def __init__(
        self,
        latent_extractor: TfLatentExtractor,
        number_of_concepts: int = 20,
        factorizer: ConceptFactorizer | None = None,
        *,
        latent_to_logit_model: Callable[..., Any] | None = None,
        recipe: str | Recipe = "default",
        off: Off = "absent",
        n_init: int | None = None,
        random_state: int | None = None,
        verbose: int = 1,
        extra_tokens: tuple[int, ...] | None = None,
    ):
        advice = "create one with LayeredModelExtractorBuilder.build(model, layer_index)"
        wanted = "a TfLatentExtractor of Xplique"
        check_type("latent_extractor", latent_extractor, TfLatentExtractor, wanted, advice)
        check_integer("number_of_concepts", number_of_concepts)
        if factorizer is None:
            factorizer = DirectionPairsFactorizer(
                number_of_concepts,
                recipe=get_recipe(recipe),
                off=off,
                n_init=n_init,
                random_state=random_state,
                verbose=verbose,
            )
        elif getattr(factorizer, "number_of_concepts", number_of_concepts) != number_of_concepts:
            raise ValueError(
                "number_of_concepts must be that of the factorizer, "
                f"{factorizer.number_of_concepts}, not {number_of_concepts}"
            )
        super().__init__(latent_extractor, number_of_concepts, factorizer)
        self.latent_to_logit_model = latent_to_logit_model
        self.extra_tokens = extra_tokens
        # Xplique's plots assign colours in reverse order.
        colors = concept_colors(number_of_concepts)[::-1]
        self.cmaps = [Sensitivity._get_alpha_cmap(color) for color in colors]

    # ---------------------------------------------------------------- fitting

    def fit(self, inputs: ArrayLike, class_id: int = 0) -> None:
        """Learn the concepts from all positions of the images.

        Parameters
        ----------
        inputs : array-like of shape (N, height, width, channels)
            N images, preprocessed for the network.
        class_id : int, default=0
            Index of a class, only recorded as ``factorization.class_id``.

        Raises
        ------
        TypeError
            If ``class_id`` is not an integer.
        ValueError
            If images or activations are not finite or have the wrong shape, or ``class_id`` is out
            of range.

        Warns
        -----
        LearningWarning
            If learned pairs have problems, which ``history_.problems()`` lists.
        """
        check_class(class_id, self._number_of_classes())
        activations = check_activations(self._activations(inputs))
        coefficients = fit_factorizer(self.factorizer, activations, self._head())
        self.factorization = Factorization(
            inputs=None,
            class_id=class_id,
            crops=None,
            reducer=self.factorizer,
            crops_u=None,
            concept_bank_w=self.factorizer.get_concept_bank().astype(np.float32),
            coeffs_u=coefficients.reshape(*activations.shape[:-1], -1),
        )

    def __getstate__(self) -> dict[str, Any]:
        state = vars(self) | {"latent_extractor": _Rebuilt(self.latent_extractor)}
        del state["_framework_module"]  # Xplique keeps a module, which cannot be pickled
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _framework_module=tf)

    def _head(self) -> Head | None:
        """Return the second part of the network, for the network term; None if it is not known."""
        if self.latent_to_logit_model is not None:
            return Head(self.latent_to_logit_model)
        extractor, model = self.latent_extractor, self._whole_model
        if model is None:
            return None
        return Head(
            lambda x: extractor.latent_to_logit_model(LayeredLatentData(x)),
            ends_in=Head(model).ends_in,
        )

    @property
    def _whole_model(self) -> keras.Model | None:
        """The whole network if the extractor merely splits it at a layer, or else None."""
        layered = self.latent_extractor.latent_data_class is LayeredLatentData
        model = self.latent_extractor.model
        return model if layered and isinstance(model, keras.Model) else None

    def _number_of_classes(self) -> int | None:
        """Return the number of classes K; None if neither the head nor the extractor tells it."""
        model = self.latent_to_logit_model or self._whole_model
        shape = getattr(model, "output_shape", None)  # a detector's output is not (N, K)
        return shape[1] if isinstance(shape, tuple) and len(shape) == 2 else None

    def _images(self, inputs: ArrayLike | tf.Tensor) -> Array | tf.Tensor:
        """Return checked images; tensors remain tensors, so that gradients can be computed."""
        images: Any = inputs if tf.is_tensor(inputs) else check_images(inputs)
        check_images_fit(images.shape[1:], self._whole_model)
        return images

    def _activations(self, inputs: ArrayLike) -> Array:
        """Return activations (N, *spatial, D) of images."""
        return activations_of_latents(self.latent_extractor, self._images(inputs))

    # ---------------------------------------------------------------- encoding and decoding

    def encode(
        self,
        inputs: ArrayLike,
        resize: tuple[int, int] | None = None,
        differentiable: bool = False,
    ) -> list[EncodedData]:
        """Compute the activations of images, and the coefficients of the concepts in them.

        Parameters
        ----------
        inputs : array-like of shape (N, height, width, channels)
            N images, preprocessed for the network.
        resize : (int, int), optional
            Height and width, in pixels, that images are resized to first. None: they are not.
        differentiable : bool, default=False
            If True, coefficients are tensors through which gradients flow; otherwise arrays.

        Returns
        -------
        batches : list of xplique.concepts.EncodedData
            For each batch of n images, ``latent_data``, Xplique's object with the activations, and
            ``coeffs_u``, the coefficients of the I concepts, (n, *spatial, I): ``*spatial`` is
            (H, W) for feature maps, (T,) for T tokens, and empty for vectors.

        Raises
        ------
        NotFittedError
            If `fit` was not called.
        ValueError
            If the images are invalid.
        """
        self.check_if_fitted()
        batches: list[EncodedData] = super().encode(self._images(inputs), resize, differentiable)
        return batches

    def detect(self, inputs: ArrayLike) -> Array:
        """Compute the concept detections of N images; only if the concepts are direction pairs.

        Parameters
        ----------
        inputs : array-like of shape (N, height, width, channels)
            N images, preprocessed for the network.

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
        TypeError
            If another factorizer found the concepts, so that there are no detectors.
        ValueError
            If the images are invalid.
        """
        return self.pairs.detect(self._activations(inputs))

    def _decode_coefficients(self, latent_data: LatentData, coeffs_u: Array | tf.Tensor) -> Any:
        """Return the network's outputs for r + decode(u), where r = x − decode(encode(x)).

        The activations x of ``latent_data`` are not changed, because a copy passes through the
        network.
        """
        self.check_if_fitted()
        x = latent_data.get_activations(as_numpy=True)
        own = self.latent_to_concept(latent_data)
        moved = _copy(latent_data)
        moved.set_activations(x + self._decode_maps(coeffs_u) - self._decode_maps(own))
        return self.latent_extractor.latent_to_logit(moved)

    def _decode_maps(self, coefficients: Array | tf.Tensor) -> tf.Tensor:
        """Return features (N, *spatial, D) decoded from coefficients (N, *spatial, I)."""
        coefficients = tf.convert_to_tensor(coefficients, dtype=tf.float32)
        decoded = self.factorizer.decode(tf.reshape(coefficients, [-1, self.number_of_concepts]))
        channels = decoded.shape[-1]
        maps = tf.reshape(decoded, tf.concat([tf.shape(coefficients)[:-1], [channels]], axis=0))
        return tf.ensure_shape(maps, [*coefficients.shape[:-1], channels])

    def estimate_importance(
        self,
        images: ArrayLike,
        operator: Callable[..., Any],
        class_id: int,
        method: str = "gradient_input",
        *args: Any,
        **kwargs: Any,
    ) -> Array:
        """Estimate the importance of each concept with one of Xplique's attribution methods.

        This is `estimate_importance` of Xplique's `HolisticCraft`, where the network's second part
        is evaluated on decoded features plus the residual.

        Parameters
        ----------
        images : array-like of shape (N, height, width, channels)
            N images, preprocessed for the network.
        operator : callable
            Xplique's operator: function from model, inputs and targets to scores.
        class_id : int
            Index of the class whose score is explained.
        method : {"gradient_input", "sobol"}, default="gradient_input"
            "gradient_input": coefficients times the gradients of the score with respect to them.
            "sobol": Sobol indices of the score under masks on the concept maps.
        *args, **kwargs : Any
            Further arguments of `HolisticCraft.estimate_importance`: how values are reduced over
            positions and images (by default, means of absolute values), and those of the method.

        Returns
        -------
        importances : ndarray of shape (I,)
            Importance of each of the I concepts, in units of the score for "gradient_input".

        Raises
        ------
        NotFittedError
            If `fit` was not called.
        TypeError
            If ``class_id`` is not an integer.
        ValueError
            If ``class_id`` is out of range, or if ``method="sobol"`` is used at a layer without
            maps, which Xplique's Sobol explainer needs.
        """
        self.check_if_fitted()
        check_class(class_id, self._number_of_classes())
        shape = self.factorization.coeffs_u.shape
        if method == "sobol" and len(shape) != 4:
            raise ValueError(
                'method="sobol" masks concept maps (N, H, W, I), but those of this layer have '
                f'shape {shape}: use method="gradient_input", or DirectionPairsTf'
            )
        importances = super().estimate_importance(
            images, operator, class_id, method, *args, **kwargs
        )
        return np.asarray(importances)

    # ---------------------------------------------------------------- pictures

    def _prepare_coefficients_for_display(self, images: ArrayLike, coeffs_u: Array | None) -> Array:
        """Return concept maps (N, H, W, I), zero where a concept is not detected."""
        coefficients = self.transform(images) if coeffs_u is None else np.asarray(coeffs_u)
        if coefficients.shape[-1] != self.number_of_concepts:
            raise ValueError(
                f"coeffs_u must have {self.number_of_concepts} concepts on the last axis, "
                f"not shape {coefficients.shape}"
            )
        shape = self._to_numpy_image_batch(images).shape[1:]
        encode_shown = shown_encoder(self.factorizer)
        if encode_shown is not None:
            # Maps of another size than those of the layer cannot be compared with detections.
            shown = by_position(encode_shown, self._activations(images))
            if shown.shape == coefficients.shape:
                coefficients = np.where(shown > 0, np.maximum(coefficients, 0.0), 0.0)
        return concept_maps(coefficients, shape, self.extra_tokens)

    def display_concept_heatmap(
        self,
        image: Array,
        concept_heatmap: Array,
        concept_idx: int,
        ax: Axes,
        filter_percentile: int = 80,
        clip_percentile: int = 5,
    ) -> None:
        """Draw the map of a concept over an image.

        Absolute values of the map are drawn; where the map is 0, only the image is visible.

        Parameters
        ----------
        image : ndarray of shape (height, width, channels)
            The image.
        concept_heatmap : ndarray of shape (H, W) or (H, W, 1)
            Map of the concept, of any size: it is enlarged to the image.
        concept_idx : int
            Number of the concept, which sets its colour.
        ax : Axes
            Axes to draw on.
        filter_percentile : int, default=80
            Cells below this percentile (0 to 100) of the map are not shown.
        clip_percentile : int, default=5
            Percentage of the shown pixels, the brightest ones, that are clipped to the same value.

        Raises
        ------
        ValueError
            If the map is not finite or has another shape.
        """
        heatmap = np.asarray(concept_heatmap, dtype=np.float32)
        if heatmap.shape[2:] == (1,):
            heatmap = heatmap[..., 0]
        if heatmap.ndim != 2 or not np.isfinite(heatmap).all():
            raise ValueError(
                f"concept_heatmap must be finite, of shape (H, W) or (H, W, 1), not {heatmap.shape}"
            )
        picture = as_picture(image)
        draw_picture(ax, picture)
        shape = picture.shape[:2]
        shown = heatmap_at_size(np.abs(heatmap), shape, filter_percentile, clip_percentile)
        draw_heatmap(ax, shown, self.cmaps[::-1][concept_idx % len(self.cmaps)], alpha=0.65)


def _copy(latent_data: LatentData) -> LatentData:
    """Return a copy of latent data whose activations can be set without changing the original.

    Tensors are shared. Lists and dicts are copied, because some extractors keep activations in
    them.
    """
    twin = copy.copy(latent_data)
    for name, value in vars(latent_data).items():
        if isinstance(value, (list, dict)):
            setattr(twin, name, copy.copy(value))
    return twin


class _Rebuilt:
    """A latent extractor of Xplique, pickled as the model and the layer that it was built from.

    It holds local functions, which cannot be pickled.
    """

    def __init__(self, extractor: TfLatentExtractor) -> None:
        self.extractor = extractor

    def __reduce__(self) -> tuple[Any, ...]:
        extractor = self.extractor
        functions = (extractor.input_to_latent_model, extractor.latent_to_logit_model)
        if not any("<locals>" in getattr(each, "__qualname__", "") for each in functions):
            return _same, (extractor,)
        first = inspect.getclosurevars(functions[0]).nonlocals.get("g_model")
        if extractor.latent_data_class is not LayeredLatentData or first is None:
            raise TypeError(
                "this latent extractor cannot be copied, because its functions are local: keep "
                "what was learned, extractor.pairs.save(path) or joblib.dump(extractor.factorizer, "
                "path)"
            )
        check_picklable(extractor.model, compare=True)
        layer = node_of(first.outputs[0]).operation
        index = list(extractor.model.layers).index(layer)
        return LayeredModelExtractorBuilder.build, (extractor.model, index, extractor.batch_size)


def _same(extractor: TfLatentExtractor) -> TfLatentExtractor:
    """Return a latent extractor, which was pickled as it is."""
    return extractor
