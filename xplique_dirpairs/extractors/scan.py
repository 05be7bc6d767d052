"""A single pass over images that collects what explanations, influence and reports need."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from xplique_dirpairs.core.batching import as_positions, slices
from xplique_dirpairs.core.progress import progress
from xplique_dirpairs.core.types import Array
from xplique_dirpairs.core.validation import as_inputs, check_integer, check_labels
from xplique_dirpairs.data.images import (
    concept_maps,
    crop_at,
    crop_coefficients,
    crop_place,
    default_patch,
    fitting_patch,
    sides,
)
from xplique_dirpairs.extractors.concept_layer import ConceptLayer
from xplique_dirpairs.plots.images import as_picture, pixel_limits

#: Maximum size of the activations that are kept, 512 MB in bytes. Activations of further images are
#: computed again when they are needed.
KEPT_BYTES = 2**29
#: Number of bins of the histogram of detections.
BINS = 20
#: Maximum number of floats in the sample of positions: 2**24 float32 are 64 MB.
_SAMPLED_FLOATS = 2**24


@dataclass(frozen=True, eq=False)
class Scan:
    """N images and the concepts of a layer in them.

    Attributes
    ----------
    layer : ConceptLayer
        The concepts.
    images : ndarray of shape (N, height, width, C) or (N, T, height, width, C)
        The images, or videos of T frames.
    class_ids : ndarray of shape (N,), int
        Labels if they were given, or else predicted classes.
    logits : ndarray of shape (N, K)
        Logits of the images.
    pooled : ndarray of shape (N, D), optional
        Features averaged over positions, if the head starts with this average, or features of a
        layer without positions; None otherwise.
    pooled_coefficients : ndarray of shape (N, I), optional
        Coefficients u of ``pooled``.
    detected : ndarray of shape (N, I)
        Share of the positions where a concept is detected.
    detected_together : ndarray of shape (I, I)
        Number of positions where both of two concepts are detected.
    histogram : ndarray of shape (I, BINS) or None
        Number of positions in each bin of the detection y, from 0 to 1; None without detectors.
    crop_values : ndarray of shape (N, I)
        Mean of the concept map over the best crop of each image.
    crop_places : ndarray of shape (N, I), int
        Number of the best crop of each image.
    patch : int
        Side of the crops, in pixels.
    sample : ndarray of shape (S, D)
        Activations at randomly sampled positions.
    sample_detections : ndarray of shape (S, I), bool
        Whether each concept is detected at the sampled positions.
    kept : ndarray of shape (M, *spatial, D)
        Activations of the first M images, where M ≤ N is limited by the memory given to `scan`.
    batch_size : int
        Number of images in a batch.
    is_labelled : bool
        Whether labels were given: predicted classes say nothing of the accuracy.
    """

    layer: ConceptLayer
    images: Array
    class_ids: Array
    logits: Array
    detected: Array
    detected_together: Array
    histogram: Array | None
    crop_values: Array
    crop_places: Array
    patch: int
    sample: Array
    sample_detections: Array
    kept: Array
    batch_size: int
    is_labelled: bool = True
    pooled: Array | None = None
    pooled_coefficients: Array | None = None
    _read_again: dict[int, Array] = field(default_factory=dict, init=False, repr=False)

    @property
    def predicted(self) -> Array:
        """Predicted classes, (N,)."""
        return np.asarray(self.logits.argmax(axis=1))

    @cached_property
    def limits(self) -> tuple[float, float]:
        """Pixel values that plots show as black and white."""
        return pixel_limits(self.images)

    # ------------------------------------------------------------ features

    def activations(self, indices: Array) -> Array:
        """Return activations of the images ``indices``, (len(indices), *spatial, D).

        Images whose activations are not kept pass through the network a second time. Their
        activations are kept from then on, so that memory grows with the number of such images.
        """
        if not len(indices) or indices.max() < len(self.kept):
            return self.kept[indices]
        known = self._read_again
        missing = [n for n in indices.tolist() if n >= len(self.kept) and n not in known]
        for part in slices(len(missing), self.batch_size):
            x = self.layer.activations(self.images[missing[part]], self.batch_size)
            known.update(zip(missing[part], x, strict=True))
        return np.stack([known[n] if n in known else self.kept[n] for n in indices.tolist()])

    def features(self, indices: Array) -> Array:
        """Return features that the head takes, (len(indices), D) or (len(indices), *spatial, D)."""
        return self.activations(indices) if self.pooled is None else self.pooled[indices]

    def coefficients(self, indices: Array) -> Array:
        """Return coefficients of `features`, (len(indices), I) or (len(indices), *spatial, I)."""
        if self.pooled_coefficients is not None:
            return self.pooled_coefficients[indices]
        return self.layer.coefficients(self.activations(indices))

    # ------------------------------------------------------------ detections and crops

    @property
    def overlaps(self) -> Array:
        """Intersection over union of the positions where two concepts are detected, (I, I)."""
        together = self.detected_together
        own = np.diag(together)
        either = own[:, None] + own[None] - together
        shares: Array = np.divide(together, either, out=np.zeros(either.shape), where=either > 0)
        return shares

    def best_images(self, concept: int, count: int, among: Array | None = None) -> Array:
        """Return the images with the best crops of a concept, best first.

        Parameters
        ----------
        concept : int
            Number of the concept.
        count : int
            Maximum number of images.
        among : ndarray of int, optional
            Indices of the images to choose from; by default all images.

        Returns
        -------
        indices : ndarray of shape (k,), int
            Images in which the concept is detected, with k ≤ ``count``.
        """
        values = self.crop_values[:, concept]
        candidates = np.arange(len(values)) if among is None else among
        best = candidates[np.argsort(-values[candidates], kind="stable")[:count]]
        return np.asarray(best[values[best] > 0])

    def crops(self, concept: int, count: int, among: Array | None = None) -> Array:
        """Return the best crops of a concept, at most one from each image.

        Parameters
        ----------
        concept : int
            Number of the concept.
        count : int
            Maximum number of crops.
        among : ndarray of int, optional
            Indices of the images to choose from; by default all images.

        Returns
        -------
        crops : ndarray of shape (k, patch, patch, 3) or (k, T, patch, patch, 3), uint8
            Crops of the images returned by `best_images`; of videos they have all T frames.
        """
        best = self.best_images(concept, count, among)
        crops = [
            crop_at(self.images[n], int(self.crop_places[n, concept]), self.patch) for n in best
        ]
        shape = (-1, *self.images.shape[1:-3], self.patch, self.patch, self.images.shape[-1])
        pictures = as_picture(np.reshape(crops, shape), self.limits)
        return (255 * pictures + 0.5).astype(np.uint8)

    def crop_box(self, image: int, concept: int) -> tuple[float, float, float, float]:
        """Return the best crop's (top, left, bottom, right) as fractions of the image's sides."""
        shape, patch = self.images.shape[1:], self.patch
        top, left = crop_place(int(self.crop_places[image, concept]), shape, patch)
        height, width = sides(shape)
        return top / height, left / width, (top + patch) / height, (left + patch) / width


def scan(
    concepts: Any,
    images: ArrayLike,
    labels: ArrayLike | None = None,
    *,
    activations: Array | None = None,
    patch_size: int | None = None,
    batch_size: int = 64,
    memory: int = KEPT_BYTES,
    random_state: int | None = 0,
    verbose: int = 1,
) -> Scan:
    """Read images once, in batches, and collect what is known about their concepts.

    Parameters
    ----------
    concepts : ConceptLayer or fitted extractor
        Any object that `ConceptLayer.of` accepts as its only argument.
    images : array-like of shape (N, height, width, C) or (N, T, height, width, C)
        Images, or videos of T frames, preprocessed for the network.
    labels : array-like of shape (N,) or (N, K), optional
        Classes of the images, as indices or one-hot rows; by default the predicted classes.
    activations : ndarray of shape (N, *spatial, D), optional
        Activations of the images, if they are known; images then do not pass through the first half
        of the network.
    patch_size : int, optional
        Side of the crops, in pixels; by default 0.3 times the shorter side of the images.
    batch_size : int, default=64
        Number of images in a batch.
    memory : int, default=2**29
        Maximum size of the activations that are kept, in bytes. Further images pass through the
        network a second time when their activations are needed.
    random_state : int or None, default=0
        Seed of the sample of positions.
    verbose : int, default=1
        0 disables the progress bar.

    Returns
    -------
    scan : Scan

    Raises
    ------
    TypeError
        If ``concepts`` holds no concepts.
    ValueError
        If another argument is invalid.
    NotFittedError
        If ``concepts`` is not fitted.
    """
    images = as_inputs(images)
    layer = ConceptLayer.of(concepts)
    check_integer("batch_size", batch_size)
    check_integer("memory", memory, 0)
    if patch_size is not None:
        check_integer("patch_size", patch_size)
    if labels is not None:  # before the long pass over the images, as far as K is known
        check_labels(labels, len(images), layer.head.number_of_classes)
    if activations is not None and len(activations) != len(images):
        raise ValueError(
            f"activations must have one entry for each of {len(images)} images, "
            f"not {len(activations)}"
        )
    shape = images.shape[1:]
    patch = default_patch(shape) if patch_size is None else fitting_patch(patch_size, shape)
    reading = _Reading(layer, shape, patch)
    starts = range(0, len(images), batch_size)
    kept = activations

    def batches() -> Iterator[tuple[Array, Array]]:
        """Yield activations (B, *spatial, D) and detections (B, *spatial, I) of each batch."""
        nonlocal kept
        for start in progress(starts, len(starts), "images", verbose, "batch"):
            chosen = slice(start, start + batch_size)
            if activations is None:
                x = layer.activations(images[chosen], batch_size)
                if kept is None:
                    count = min(len(images), memory // x[0].nbytes)
                    kept = np.empty((count, *x.shape[1:]), x.dtype)
                kept[chosen] = x[: len(kept[chosen])]
            else:
                x = activations[chosen]
            yield x, reading.read(x)

    at_most = max(1000, _SAMPLED_FLOATS // layer.channels)
    sample, sample_detections = sample_positions(batches(), at_most, random_state)
    by_image = {name: np.concatenate(parts) for name, parts in reading.by_image.items()}
    logits = by_image["logits"]
    return Scan(
        layer=reading.layer,
        images=images,
        class_ids=logits.argmax(axis=1) if labels is None else check_labels(labels, *logits.shape),
        detected_together=reading.detected_together,
        histogram=None if layer.pairs is None else reading.histogram,
        patch=reading.patch,
        sample=sample,
        sample_detections=sample_detections,
        kept=np.asarray(kept),
        batch_size=batch_size,
        is_labelled=labels is not None,
        **by_image,
    )


class _Reading:
    """Accumulator of what a scan collects from batches of activations."""

    def __init__(self, layer: ConceptLayer, image_shape: tuple[int, ...], patch: int) -> None:
        self.layer, self.image_shape, self.patch = layer, image_shape, patch
        concepts = layer.number_of_concepts
        self.detected_together = np.zeros((concepts, concepts))
        self.histogram = np.zeros((concepts, BINS))
        #: Batches of arrays with a row for each image, by their names in `Scan`.
        self.by_image: dict[str, list[Array]] = defaultdict(list)

    def read(self, x: Array) -> Array:
        """Collect a batch of activations and return where concepts are detected in it.

        Parameters
        ----------
        x : ndarray of shape (B, *spatial, D)
            Activations.

        Returns
        -------
        detected : ndarray of shape (B, *spatial, I), bool
        """
        if not self.by_image:
            # If the head is a function, its number of classes is only known after a call.
            head = self.layer.head.by_class(x).checked_on(x)
            self.layer = replace(self.layer, head=head)
        head = self.layer.head
        u, shown = self.layer.read(x)
        features = head.pool(x)
        detected = shown > 0
        rows_by_name = {
            "logits": head.logits(features, len(x)),
            "detected": detected.mean(axis=tuple(range(1, x.ndim - 1))),
            **self._best_crops(shown),
        }
        if features.ndim == 2:
            rows_by_name |= {"pooled": features, "pooled_coefficients": head.pool(u)}
        for name, rows in rows_by_name.items():
            self.by_image[name].append(rows)
        self._count(x, detected)
        return detected

    def _count(self, x: Array, detected: Array) -> None:
        """Add a batch to the counts of detections."""
        on = as_positions(detected).astype(np.float32)
        self.detected_together += on.T @ on
        y = self.layer.detections(as_positions(x))
        if y is not None:
            concepts = y.shape[1]
            steps = np.minimum((y * BINS).astype(int), BINS - 1) + BINS * np.arange(concepts)
            counts = np.bincount(steps.ravel(), minlength=BINS * concepts)
            self.histogram += counts.reshape(concepts, BINS)

    def _best_crops(self, shown: Array) -> dict[str, Array]:
        """Return value and number of the best crop, (B, I) each, of every image and concept."""
        maps = concept_maps(shown, self.image_shape, self.layer.split.extra_tokens)
        # Without positions, the crop is the largest square in the image.
        if maps[0, ..., 0].size == 1:
            self.patch = min(sides(self.image_shape))
        values = crop_coefficients(maps, self.image_shape, self.patch)
        values = values.reshape(len(maps), -1, maps.shape[-1])
        return {"crop_values": values.max(axis=1), "crop_places": values.argmax(axis=1)}


def sample_positions(
    batches: Iterable[tuple[Array, Array]], at_most: int, random_state: int | None = None
) -> tuple[Array, Array]:
    """Sample positions uniformly from a stream of batches, using a fixed amount of memory.

    Parameters
    ----------
    batches : iterable of (ndarray, ndarray)
        Activations of shape (B, *spatial, D) and detections of shape (B, *spatial, I), bool, of the
        same positions.
    at_most : int
        Maximum number of sampled positions S.
    random_state : int, optional
        Seed of the sample.

    Returns
    -------
    features : ndarray of shape (S, D)
        Activations at the sampled positions.
    detections : ndarray of shape (S, I), bool
        Whether each concept is detected at the sampled positions.
    """
    rng = np.random.default_rng(random_state)
    kept: list[Array] = []
    for features, detections in batches:
        x, y = as_positions(features), as_positions(detections)
        parts = [rng.random(len(x)), x, y]
        if kept:
            parts = [np.concatenate(both) for both in zip(kept, parts, strict=True)]
        # The positions with the smallest random numbers are a uniform sample.
        smallest = np.sort(np.argsort(parts[0], kind="stable")[:at_most])
        kept = [part[smallest] for part in parts]
    return kept[1], kept[2]
