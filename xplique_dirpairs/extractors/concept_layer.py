"""`ConceptLayer`: concepts fitted at a layer of a network.

All analyses of what concepts do to a network work with this object. `ConceptLayer.of` creates it
from any kind of fitted concepts; only the module `kinds` distinguishes kinds of extractors.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import keras
import numpy as np
import tensorflow as tf

from xplique_dirpairs.core.batching import by_position
from xplique_dirpairs.core.concept_names import ConceptNames, check_concept_names
from xplique_dirpairs.core.types import Array
from xplique_dirpairs.core.validation import Names, check_class_names
from xplique_dirpairs.data.images import best_crops, compute_activations
from xplique_dirpairs.extractors.kinds import (
    Extractor,
    activations_of,
    check_channels,
    differentiable_encoder,
    extractor_of,
    fitted_concepts,
    own_split,
)
from xplique_dirpairs.models.head import Head
from xplique_dirpairs.models.split import SplitModel
from xplique_dirpairs.pairs import DirectionPairs
from xplique_dirpairs.plots.images import as_picture, pixel_limits

#: The two halves of a network.
Split: TypeAlias = SplitModel | tuple[keras.Model, keras.Model]


@dataclass(frozen=True, eq=False)
class ConceptLayer:
    """I concepts fitted at a layer with D channels, and the network that the layer belongs to.

    At every position of an image the features x of the layer are u @ bank + constant + residual,
    with one coefficient u_i for each concept; the residual is what the concepts do not explain.
    Below, P is a number of positions.

    Create one with `ConceptLayer.of`. Functions that take a ``ConceptLayer`` also take any object
    that `ConceptLayer.of` accepts as its only argument.

    Attributes
    ----------
    split : SplitModel
        The two halves of the network, before and after the layer.
    head : Head
        The second half, with one output for each class: a single output is turned into two, for
        class 0 (no) and class 1 (yes), by `Head.by_class`.
    encode : callable
        Function from features (P, D) to coefficients u (P, I).
    encode_shown : callable
        Function from features (P, D) to the coefficients (P, I) that plots show, where negative
        ones count as 0. For direction pairs they are 0 where the concept is not detected; for other
        methods this function is ``encode``.
    bank : ndarray of shape (I, D)
        Concept bank: row i is what one unit of coefficient i adds to the features. For direction
        pairs this is `DirectionPairs.bank`.
    constant : ndarray of shape (D,)
        Features decoded from coefficients of 0; for most methods it is 0.
    encoding : ndarray of shape (I, D)
        Encoding directions, along which the features change with each concept in the data: the
        signal vectors of direction pairs, and the bank of most other methods.
    decoding : ndarray of shape (I, D) or None
        Decoding directions: linear filters that read the concepts. None if reading is not linear.
    pairs : DirectionPairs or None
        The direction pairs; None if the concepts are of another kind.
    concept_names : tuple of I str
        Names of the concepts.
    class_names : sequence of str, dict of int to str, or None
        Class names as given to `of`, perhaps not of all classes. None: none were given.
    fitted : object
        The fitted extractor or factorizer, or the `DirectionPairs`, that the layer was made from.
    encode_differentiable : callable or None
        ``encode`` for tensors, (P, D) → (P, I), through which gradients flow; None for Xplique's
        own CRAFT, which has none.
    """

    split: SplitModel
    head: Head
    encode: Callable[[Array], Array]
    encode_shown: Callable[[Array], Array]
    bank: Array
    constant: Array
    encoding: Array
    decoding: Array | None
    pairs: DirectionPairs | None
    concept_names: tuple[str, ...]
    class_names: Names
    fitted: Any
    encode_differentiable: Callable[[tf.Tensor], tf.Tensor] | None = None

    @classmethod
    def of(
        cls,
        fitted: Any,
        split: Split | None = None,
        *,
        model: keras.Model | None = None,
        class_names: Names = None,
        concept_names: ConceptNames = None,
    ) -> ConceptLayer:
        """Create a layer from any kind of fitted concepts.

        Parameters
        ----------
        fitted : object
            A `ConceptLayer`; a fitted CRAFT or holistic extractor of this package or of Xplique; or
            a `DirectionPairsManagerTf` with shared pairs. If ``split`` is given, also a fitted
            `ConceptFactorizer`, or `DirectionPairs`, whose coefficients are then those of
            ``off="absent"``.
        split : SplitModel or (keras.Model, keras.Model), optional
            The two halves of the network, from `split_model`. None: those that the extractor was
            built on.
        model : keras.Model, optional
            The whole classifier. Only `correct` needs it, and only if the extractor was built on
            two halves made by hand: a `SplitModel` from `split_model` holds it. None: the one that
            the `SplitModel` holds, if any.
        class_names : sequence of K str or dict of int to str, optional
            Names of all K classes, or of some by their index. A network with one output has two
            classes: class 0 for low and class 1 for high outputs. None: "class 0", "class 1", …;
            for one output "no" and "yes", or "low output" and "high output", as `Head.class_names`
            says.
        concept_names : sequence of I str, dict of int to str, str or Path, optional
            Names of all I concepts, or of some by their index; or a JSON file that holds either,
            such as the ``names.json`` that a report saves. Concepts without a name, and all for
            None, are named by their numbers, "0", "1", …

        Returns
        -------
        layer : ConceptLayer

        Raises
        ------
        TypeError
            If ``fitted`` is not one of these objects, or ``model`` is not a Keras model.
        ValueError
            If the network is not known; if its layer has another number of channels than the
            concepts; if names do not match classes or concepts; if ``model`` lacks the layer; or if
            decoding is not affine, so that a concept cannot be switched off independently of the
            others.
        OSError
            If the file of names cannot be read.
        NotFittedError
            If the extractor is not fitted.
        """
        if isinstance(fitted, ConceptLayer):
            layer = fitted if split is None else cls.of(fitted.fitted, split)
        else:
            layer = _new_layer(cls, fitted, split)
        if model is not None:
            layer = replace(layer, split=layer.split.with_model(model))
        if class_names is not None:
            count = layer.head.number_of_classes
            if count is not None:
                check_class_names(class_names, count)
            layer = replace(layer, class_names=class_names)
        if concept_names is not None:
            names = check_concept_names(concept_names, layer.number_of_concepts)
            layer = replace(layer, concept_names=names)
        return layer

    @property
    def model(self) -> keras.Model:
        """The whole classifier.

        Raises
        ------
        ValueError
            If only the two halves of the classifier are known.
        """
        if self.split.model is None:
            raise ValueError(
                "the whole network is needed, but only its halves are known: build the extractor "
                "on split_model(model, layer), or give ConceptLayer.of(extractor, model=model)"
            )
        return self.split.model

    @property
    def direction_pairs(self) -> DirectionPairs:
        """Direction pairs of the concepts, like ``pairs``, but never None.

        Raises
        ------
        TypeError
            If the concepts are not direction pairs.
        """
        if self.pairs is None:
            raise TypeError(
                "direction pairs are needed, whose detectors tell where a concept is, but the "
                f"concepts are those of a {type(self.fitted).__name__}"
            )
        return self.pairs

    @property
    def layer(self) -> str | None:
        """Name of the layer in the whole classifier; None if only the two halves are known."""
        return self.split.layer

    @property
    def number_of_concepts(self) -> int:
        """Number of concepts, I."""
        return len(self.bank)

    @property
    def channels(self) -> int:
        """Number of channels, D."""
        return int(self.bank.shape[1])

    def names_of_classes(self, number_of_classes: int) -> tuple[str, ...]:
        """Return the names of all ``number_of_classes`` classes: "class 3" if class 3 has none."""
        return check_class_names(self.class_names, number_of_classes)

    def class_name(self, class_id: int) -> str:
        """Return the name of the class with index ``class_id``: "class 3" if class 3 has none."""
        if self.class_names is None:
            return f"class {class_id}"
        if isinstance(self.class_names, Sequence):
            return str(self.class_names[class_id])
        return str(self.class_names.get(class_id, f"class {class_id}"))

    def linear_rows(self, activations: Array) -> Array | None:
        """Return the weights of the K classes over the D channels, (K, D), if the head is linear.

        None if the head's outputs are not logits, or not affine in the features averaged over
        positions. ``activations`` of N images have shape (N, *spatial, D), or (N, D) if they are
        averaged already; only the number of axes matters.
        """
        pooled = activations.ndim == 2 or self.head.pools_first
        return self.head.class_rows if pooled and self.head.has_linear_outputs else None

    # ------------------------------------------------------------ reading images

    def activations(self, images: Array, batch_size: int = 64) -> Array:
        """Compute the activations of images at the layer.

        Parameters
        ----------
        images : array-like of shape (N, height, width, channels)
            N images, preprocessed for the network.
        batch_size : int, default=64
            Number of images in a batch.

        Returns
        -------
        activations : ndarray of shape (N, *spatial, D), float32
            Features of the N images in D channels: ``*spatial`` is (H, W) for feature maps, (T,)
            for T tokens, and empty for vectors.

        Raises
        ------
        ValueError
            If images or activations are not finite, or if the network does not take their shape.
        """
        activations = compute_activations(self.split.input_to_latent_model, images, batch_size)
        self.head.check_takes(activations.shape[1:])
        check_channels(self.channels, activations.shape[-1])
        return activations

    def coefficients(self, activations: Array) -> Array:
        """Return the coefficients of I concepts, (N, *spatial, I), in activations of N images.

        ``activations`` have shape (N, *spatial, D) with D channels, as the method `activations`
        returns them.
        """
        return by_position(self.encode, activations)

    def shown(self, activations: Array) -> Array:
        """Return the coefficients of I concepts as plots show them, (N, *spatial, I), ≥ 0.

        They are those of `coefficients`, but 0 where they are negative and, for direction pairs,
        where a concept is not detected. ``activations`` of N images have shape (N, *spatial, D)
        with D channels.
        """
        return np.maximum(by_position(self.encode_shown, activations), 0.0)

    def read(self, activations: Array) -> tuple[Array, Array]:
        """Return `coefficients` and `shown` of I concepts, (N, *spatial, I) each.

        ``activations`` of N images have shape (N, *spatial, D) with D channels.
        """
        u = self.coefficients(activations)
        if self.encode_shown is self.encode:
            return u, np.maximum(u, 0.0)
        return u, self.shown(activations)

    def mean_coefficients(self, activations: tf.Tensor) -> tf.Tensor:
        """Return the coefficients of I concepts, averaged over positions, as a tensor (N, I).

        Gradients flow to ``activations``, the features of N images in D channels as a tensor of
        shape (N, *spatial, D).
        """
        encode = differentiable_encoder(as_extractor(self.fitted))
        u = encode(tf.reshape(activations, (-1, self.channels)))
        return tf.reduce_mean(
            tf.reshape(u, (tf.shape(activations)[0], -1, self.number_of_concepts)), axis=1
        )

    def reconstructions(self, coefficients: Array) -> Array:
        """Return what I concepts explain of the features of N images, without the residual.

        Coefficients (N, *spatial, I) are decoded to features of D channels, (N, *spatial, D).
        """
        return (coefficients @ self.bank + self.constant).astype(np.float32)

    def detections(self, positions: Array) -> Array | None:
        """Return how surely each of I concepts is detected at P positions, (P, I).

        ``positions`` are their features in D channels, (P, D). Values are in [0, 1]: a concept is
        detected where its value is above 0.5. None if the concepts are not direction pairs, since
        only these have detectors.
        """
        return None if self.pairs is None else self.pairs.detect(positions)

    def crops_of_fit(self, count: int = 3) -> tuple[Array, ...] | None:
        """Return the image crops in which each concept is strongest, from the extractor's own fit.

        The result has an array (k, patch, patch, 3) for each concept: k ≤ ``count`` square RGB
        crops of side ``patch`` pixels, in [0, 1], best first. None if the extractor kept no crops.
        """
        factorization = getattr(self.fitted, "factorization", None)
        if factorization is None or factorization.crops is None:
            return None
        images, crops = factorization.inputs, np.asarray(factorization.crops)
        if len(crops) % len(images):
            return None
        limits = pixel_limits(np.asarray(images))
        return tuple(
            as_picture(crops[best_crops(values, len(images), count)], limits)
            for values in np.asarray(factorization.crops_u).T
        )


# ------------------------------------------------------------ from any fitted concepts


def as_extractor(fitted: Any, name: str = "the extractor") -> Extractor:
    """Return the extractor or factorizer that holds the concepts of an object.

    For `DirectionPairs` it is a factorizer. ``name`` is the name of the object in error messages.

    Raises
    ------
    TypeError
        If the object holds no concepts.
    ValueError
        If it is a manager with a set of concepts for each class.
    NotFittedError
        If it is a manager that is not fitted.
    """
    return extractor_of(fitted.fitted if isinstance(fitted, ConceptLayer) else fitted, name)


def split_of(fitted: Any) -> SplitModel | None:
    """Return the halves of the network that an extractor was built on; None if it has none."""
    return fitted.split if isinstance(fitted, ConceptLayer) else own_split(as_extractor(fitted))


def own_activations(fitted: Any, images: Array) -> Array | None:
    """Return activations of images in an extractor's own network; None if it has no network."""
    if isinstance(fitted, ConceptLayer):
        return fitted.activations(images)
    return activations_of(as_extractor(fitted), images)


def _new_layer(cls: type[ConceptLayer], fitted: Any, split: Split | None) -> ConceptLayer:
    """Create a `ConceptLayer` from fitted concepts and the halves of the network."""
    extractor = as_extractor(fitted)
    halves = split_of(extractor) if split is None else SplitModel.of(split)
    if halves is None:
        raise ValueError(
            f"{type(fitted).__name__} does not know the network: give ConceptLayer.of(concepts, "
            "split_model(model, layer))"
        )
    concepts = fitted_concepts(extractor)
    count, channels = concepts.bank.shape
    output_shape = getattr(halves.input_to_latent_model, "output_shape", None)
    if isinstance(output_shape, tuple):
        check_channels(channels, output_shape[-1])
    head = _head_by_class(halves)
    return cls(
        split=halves,
        head=head,
        **vars(concepts),
        concept_names=check_concept_names(None, count),
        class_names=head.class_names,
        fitted=fitted if isinstance(fitted, DirectionPairs) else extractor,
    )


def _head_by_class(split: SplitModel) -> Head:
    """Return the head with an output for each class, as far as its output is known."""
    shape = getattr(split.input_to_latent_model, "output_shape", None)
    if split.head.number_of_classes is None and (not shape or None in shape[1:]):
        return split.head  # the number of classes is not known before the head is called
    lengths = [length or 1 for length in (shape or ())[1:]]
    return split.head.by_class(np.zeros((1, *lengths), np.float32))
