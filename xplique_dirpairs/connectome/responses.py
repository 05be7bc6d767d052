"""How what is read at a layer responds to features of an earlier layer: slopes and shifts.

With x the features of the lower layer in an image, f the part of the network between the layers and
r_q the reading of upper concept q, the slope along a direction d that is added at every position is

    slope_q(x, d) = Σ_p ⟨∂ r_q(f(x)) / ∂x_p, d⟩

One reverse pass for an image and an upper concept serves all lower concepts.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import tensorflow as tf

from xplique_dirpairs.core.batching import slices
from xplique_dirpairs.core.types import Array
from xplique_dirpairs.data.images import compute_activations
from xplique_dirpairs.extractors.concept_layer import ConceptLayer
from xplique_dirpairs.models.head import Head
from xplique_dirpairs.models.segment import segment_model
from xplique_dirpairs.models.tracing import any_number

#: What upper concepts are read by.
TARGETS = ("coefficient", "detector", "centroid")
#: Largest number of classes that are looked at unless others are asked for.
_CLASSES = 20
#: A function from features (B, *spatial, D) of an upper layer to readings (B, J).
Reading = Callable[[tf.Tensor], tf.Tensor]
#: Largest size of the activations that are kept, in bytes: 256 MB.
_KEPT_BYTES = 2**28


def concept_reading(layer: ConceptLayer, target: str, centres: Array) -> Reading:
    """Return the reading of the J concepts of a layer, averaged over the positions of an image.

    ``target`` is "coefficient": the coefficients; "detector": the linear projections on the filters
    (on rows of the bank if reading is not linear); "centroid": minus the distance of the mean
    features from the concept's centre.
    """
    if target == "coefficient":
        return layer.mean_coefficients
    rows = layer.bank if layer.decoding is None else layer.decoding

    def detector(y: tf.Tensor) -> tf.Tensor:
        return tf.matmul(_pooled(y), tf.constant(rows, tf.float32), transpose_b=True)

    def centroid(y: tf.Tensor) -> tf.Tensor:
        differences = _pooled(y)[:, None] - tf.constant(centres, tf.float32)[None]
        squares = tf.reduce_sum(tf.square(differences), axis=-1)
        return -tf.sqrt(squares + np.finfo(np.float32).tiny)

    return detector if target == "detector" else centroid


def _pooled(y: tf.Tensor) -> tf.Tensor:
    """Return features averaged over positions, (B, D) float32."""
    y = tf.cast(y, tf.float32)
    return tf.reduce_mean(y, axis=range(1, len(y.shape) - 1)) if len(y.shape) > 2 else y


def chosen_classes(given: Sequence[int] | None, logits: Array) -> Array:
    """Return the classes to which there are edges: those given, or the most frequent predictions.

    Raises a ValueError unless they are different indices of the K classes of the logits (N, K).
    """
    count = logits.shape[1]
    if given is None:
        numbers = np.bincount(logits.argmax(axis=1), minlength=count)
        order = np.argsort(-numbers, kind="stable")[:_CLASSES]
        return np.sort(order[numbers[order] > 0])
    ids = np.asarray(given)
    if ids.ndim != 1 or ids.dtype.kind not in "iu" or not len(ids):
        raise ValueError(f"class_ids must be class indices, such as [0, 3], not {given!r}")
    if ids.min() < 0 or ids.max() >= count or len(set(ids.tolist())) < len(ids):
        raise ValueError(
            f"class_ids must be different indices of the {count} classes, not {ids.tolist()}"
        )
    return ids


def class_reading(head: Head, class_ids: Array) -> Reading:
    """Return the reading of classes: their centred logits.

    A centred logit is a logit minus the mean over all classes; the logit itself, if each output is
    a decision of its own.
    """

    def read(x: tf.Tensor) -> tf.Tensor:
        logits = head.logits_of(tf.cast(head.outputs(x), tf.float32))
        if head.class_activation != "sigmoid":
            logits -= tf.reduce_mean(logits, axis=1, keepdims=True)
        return tf.gather(logits, class_ids, axis=1)

    return read


class Responses:
    """Responses of upper readings to the features of a lower layer.

    Parameters
    ----------
    layer : ConceptLayer
        The lower layer.
    segment : callable
        Function from its features to those of the upper layer.
    reading : callable
        Function from these to readings (B, J).
    images : ndarray of shape (N, height, width, C)
    batch_size : int
        Number of images that pass at a time.
    """

    def __init__(
        self,
        layer: ConceptLayer,
        segment: Callable[[tf.Tensor], tf.Tensor],
        reading: Reading,
        images: Array,
        batch_size: int,
    ) -> None:
        self._layer, self._images, self._batch_size = layer, images, batch_size
        self._segment, self._reading = segment, reading
        self._kept: dict[int, Array] = {}
        self._gradient = tf.function(self._gradient_of, reduce_retracing=True)
        self._read = tf.function(self._readings_of, reduce_retracing=True)

    def activations(self, indices: Array) -> Array:
        """Return the features of images at the lower layer, (n, *spatial, D)."""
        missing = [n for n in indices.tolist() if n not in self._kept]
        fresh = {}
        if missing:
            x = compute_activations(
                self._layer.split.input_to_latent_model, self._images[missing], self._batch_size
            )
            fresh = dict(zip(missing, x, strict=True))
            room = _KEPT_BYTES // x[0].nbytes - len(self._kept)
            self._kept.update((n, fresh[n]) for n in missing[: max(0, room)])
        return np.stack([fresh[n] if n in fresh else self._kept[n] for n in indices.tolist()])

    def gradients(self, indices: Array, q: int) -> Array:
        """Return the gradients of reading q in images, (n, *spatial, D)."""
        parts = [
            any_number(self._gradient, self.activations(indices[part]), np.array([q]))
            for part in slices(len(indices), self._batch_size)
        ]
        return np.concatenate([np.asarray(part) for part in parts])

    def readings(self, x: Array) -> Array:
        """Return the readings (n, J) of features (n, *spatial, D) of the lower layer."""
        parts = [any_number(self._read, x[part]) for part in slices(len(x), self._batch_size)]
        return np.concatenate([np.asarray(part) for part in parts])

    def _gradient_of(self, x: tf.Tensor, q: tf.Tensor) -> tf.Tensor:
        with tf.GradientTape() as tape:
            tape.watch(x)
            values = tf.gather(self._readings_of(x), q, axis=1)
        return tape.gradient(values, x, unconnected_gradients=tf.UnconnectedGradients.ZERO)

    def _readings_of(self, x: tf.Tensor) -> tf.Tensor:
        return self._reading(self._segment(x))


def responses_above(
    layers: Sequence[ConceptLayer],
    n: int,
    target: str,
    centres: Array,
    class_ids: Array,
    images: Array,
    batch_size: int,
) -> Responses:
    """Return the responses of what is read above layer ``n`` to its features.

    ``target`` and ``centres`` are those of the concepts of the next layer: see `concept_reading`.
    Above the last layer the classes ``class_ids`` are read.
    """
    lower = layers[n]
    if n == len(layers) - 1:
        head = lower.head.by_class(lower.activations(images[:1]))
        return Responses(lower, _itself, class_reading(head, class_ids), images, batch_size)
    upper = layers[n + 1]
    segment = segment_model(lower.model, str(lower.layer), str(upper.layer))
    reading = concept_reading(upper, target, centres)
    return Responses(lower, segment, reading, images, batch_size)


def _itself(x: tf.Tensor) -> tf.Tensor:
    return x
