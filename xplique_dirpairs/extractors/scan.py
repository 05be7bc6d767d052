"""The one pass over images: what explanations, influence and reports need of each."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from xplique_dirpairs.core.batching import as_positions, slices
from xplique_dirpairs.core.geometry import crop_place, default_patch
from xplique_dirpairs.core.progress import progress
from xplique_dirpairs.core.types import Array
from xplique_dirpairs.core.validation import as_images, check_integer, check_labels
from xplique_dirpairs.data.crops import (
    concept_maps,
    crop_at,
    crop_coefficients,
    fitting_patch,
)
from xplique_dirpairs.extractors.concept_layer import ConceptLayer
from xplique_dirpairs.plots.images import as_picture, pixel_limits

#: Activations up to this size are kept, 512 MB; images beyond it are read again where needed.
KEPT_BYTES = 2**29
#: Steps of the histogram of detections.
BINS = 20
#: Numbers that the sampled positions may take: 2**24 float32 are 64 MB.
_SAMPLED_FLOATS = 2**24


@dataclass(frozen=True, eq=False)
class Scan:
    """N images, read once by the concepts of a layer.

    Attributes
    ----------
    layer : ConceptLayer
    images : ndarray of shape (N, height, width, C)
    class_ids : ndarray of shape (N,), int
        Labels as given, else predicted classes.
    logits : ndarray of shape (N, K)
    pooled : ndarray of shape (N, D) or None
        Features averaged over positions where the head begins so, or without positions; None where
        the head takes maps.
    pooled_coefficients : ndarray of shape (N, I) or None
        Their coefficients u.
    detected : ndarray of shape (N, I)
        Share of the positions where a concept is detected.
    detected_together : ndarray of shape (I, I)
        Number of positions where both of two concepts are detected.
    histogram : ndarray of shape (I, BINS) or None
        Number of positions by detection y, from 0 to 1; None where there are no detectors.
    crop_values, crop_places : ndarray of shape (N, I)
        Mean of the concept map over the best crop of each image, and the number of that crop.
    patch : int
        Side of the crops, in pixels.
    sample, sample_detections : ndarray of shape (P, D), and (P, I) bool
        Positions at random, and where concepts are detected.
    kept : ndarray of shape (n, *spatial, D)
        Activations of the first n images: those that fit the memory.
    batch_size : int
    """

    layer: ConceptLayer
    images: Array
    class_ids: Array
    logits: Array
    pooled: Array | None
    pooled_coefficients: Array | None
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
    _read_again: dict[int, Array] = field(default_factory=dict, repr=False)

    @property
    def predicted(self) -> Array:
        """Predicted classes, (N,)."""
        return self.logits.argmax(axis=1)

    @cached_property
    def limits(self) -> tuple[float, float]:
        """Pixel values of the images that pictures show as black and white."""
        return pixel_limits(self.images)

    # ------------------------------------------------------------ features

    def activations(self, indices: Array) -> Array:
        """Return activations of images, (n, *spatial, D).

        Images whose activations are not kept are read a second time, and kept from then on: ask for
        few of them.
        """
        if not len(indices) or indices.max() < len(self.kept):
            return self.kept[indices]
        missing = [n for n in indices.tolist() if n >= len(self.kept) and n not in self._read_again]
        for part in slices(len(missing), self.batch_size):
            x = self.layer.activations(self.images[missing[part]], self.batch_size)
            self._read_again.update(zip(missing[part], x, strict=True))
        return np.stack(
            [self.kept[n] if n < len(self.kept) else self._read_again[n] for n in indices.tolist()]
        )

    def features(self, indices: Array) -> Array:
        """Return features of images as the head takes them: (n, D), or (n, *spatial, D)."""
        return self.activations(indices) if self.pooled is None else self.pooled[indices]

    def coefficients(self, indices: Array) -> Array:
        """Return coefficients u of `features`: (n, I), or (n, *spatial, I)."""
        if self.pooled_coefficients is not None:
            return self.pooled_coefficients[indices]
        return self.layer.coefficients(self.activations(indices))

    # ------------------------------------------------------------ detections and crops

    @property
    def overlaps(self) -> Array:
        """Positions where both of two concepts are detected, as a share of either's, (I, I)."""
        own = np.diag(self.detected_together)
        either = own[:, None] + own[None] - self.detected_together
        return np.divide(
            self.detected_together, either, out=np.zeros(either.shape), where=either > 0
        )

    def best_images(self, concept: int, count: int, among: Array | None = None) -> Array:
        """Return the images with a concept's best crops, best first; none without the concept.

        Parameters
        ----------
        concept : int
        count : int
            At most this many.
        among : ndarray of int, optional
            Images that count; None: all.
        """
        values = self.crop_values[:, concept]
        candidates = np.arange(len(values)) if among is None else among
        best = candidates[np.argsort(-values[candidates], kind="stable")[:count]]
        return best[values[best] > 0]

    def crops(self, concept: int, count: int, among: Array | None = None) -> Array:
        """Return a concept's best crops, of different images, (k, patch, patch, 3) uint8.

        Arguments are those of `best_images`.
        """
        best = self.best_images(concept, count, among)
        if not len(best):
            return np.zeros((0, self.patch, self.patch, 3), np.uint8)
        crops = np.stack(
            [crop_at(self.images[n], int(self.crop_places[n, concept]), self.patch) for n in best]
        )
        return (255 * as_picture(crops, self.limits) + 0.5).astype(np.uint8)

    def crop_box(self, image: int, concept: int) -> tuple[float, float, float, float]:
        """Return (top, left, bottom, right) of a best crop, as shares of the image's sides."""
        height, width = self.images.shape[1:3]
        number = int(self.crop_places[image, concept])
        top, left = crop_place(number, self.images.shape[1:], self.patch)
        return (
            top / height, left / width, (top + self.patch) / height, (left + self.patch) / width
        )  # fmt: skip


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
    """Read images once, a batch at a time.

    Parameters
    ----------
    concepts : ConceptLayer or fitted extractor
        Whatever `ConceptLayer.of` takes alone.
    images : array-like of shape (N, height, width, C)
        As the network takes them.
    labels : array-like of shape (N,) or (N, K), optional
        Their classes; None: those that the network predicts.
    activations : ndarray of shape (N, *spatial, D), optional
        Activations of the images, where they are known: then no image passes through the first half
        of the network.
    patch_size : int, optional
        Side of the crops, in pixels; None: 0.3 of the images' shorter side.
    batch_size : int, default=64
    memory : int, default=2**29
        Bytes of activations that are kept. Images beyond it pass through the network a second time
        where their activations are needed.
    random_state : int, default=0
        Seed of the sample of positions.
    verbose : int, default=1
        0 for silence; else a progress bar.

    Returns
    -------
    scan : Scan

    Raises
    ------
    TypeError, ValueError, NotFittedError
        If an argument is invalid.
    """
    images = as_images(images)
    layer = ConceptLayer.of(concepts)
    check_integer("batch_size", batch_size)
    check_integer("memory", memory, 0)
    if patch_size is not None:
        check_integer("patch_size", patch_size)
    if labels is not None:  # as far as the classes are known: not after minutes
        check_labels(labels, len(images), layer.head.number_of_classes)
    if activations is not None and len(activations) != len(images):
        raise ValueError(
            f"activations must be one for each of {len(images)} images, not {len(activations)}"
        )
    shape = images.shape[1:]
    patch = default_patch(shape) if patch_size is None else fitting_patch(patch_size, shape)
    reading = _Reading(layer, len(images), shape, patch, memory, activations)
    starts = range(0, len(images), batch_size)

    def batches() -> Iterator[tuple[Array, Array]]:
        for start in progress(starts, len(starts), "images", verbose, "batch"):
            chosen = slice(start, start + batch_size)
            if activations is None:
                x = layer.activations(images[chosen], batch_size)
            else:
                x = activations[chosen]
            yield x, reading.read(x, start)

    at_most = max(1000, _SAMPLED_FLOATS // layer.channels)
    sample, sample_detections = sample_positions(batches(), at_most, random_state)
    logits = np.concatenate(reading.logits)
    return Scan(
        layer=reading.layer,
        images=images,
        class_ids=logits.argmax(axis=1) if labels is None else check_labels(labels, *logits.shape),
        logits=logits,
        pooled=np.concatenate(reading.pooled) if reading.pooled else None,
        pooled_coefficients=(
            np.concatenate(reading.pooled_coefficients) if reading.pooled_coefficients else None
        ),
        detected=np.concatenate(reading.detected),
        detected_together=reading.detected_together,
        histogram=None if layer.pairs is None else reading.histogram,
        crop_values=np.concatenate(reading.crop_values),
        crop_places=np.concatenate(reading.crop_places),
        patch=reading.patch,
        sample=sample,
        sample_detections=sample_detections,
        kept=reading.kept,
        batch_size=batch_size,
    )


class _Reading:
    """What is collected of each batch of activations."""

    def __init__(
        self,
        layer: ConceptLayer,
        number_of_images: int,
        image_shape: tuple[int, ...],
        patch: int,
        memory: int,
        known: Array | None,
    ) -> None:
        self.layer, self.image_shape, self.patch = layer, image_shape, patch
        self.number_of_images, self.memory, self.known = number_of_images, memory, known
        concepts = layer.number_of_concepts
        self.detected_together = np.zeros((concepts, concepts))
        self.histogram = np.zeros((concepts, BINS))
        self.logits: list[Array] = []
        self.pooled: list[Array] = []
        self.pooled_coefficients: list[Array] = []
        self.detected: list[Array] = []
        self.crop_values: list[Array] = []
        self.crop_places: list[Array] = []

    def read(self, x: Array, start: int) -> Array:
        """Collect a batch (n, *spatial, D), the first image of which is number ``start``.

        Returns
        -------
        detected : ndarray of shape (n, *spatial, I), bool
        """
        if not start:
            # A function as head tells its number of classes only when it is called.
            self.layer = replace(self.layer, head=self.layer.head.by_class(x))
            if self.known is None:
                count = min(self.number_of_images, self.memory // x[0].nbytes)
                self.kept = np.empty((count, *x.shape[1:]), x.dtype)
            else:
                self.kept = self.known
        layer = self.layer
        if self.known is None:
            room = self.kept[start : start + len(x)]
            room[:] = x[: len(room)]
        u, shown = layer.read(x)
        features = layer.head.pool(x)
        self.logits.append(layer.head.logits(features, len(x)))
        if features.ndim == 2:
            self.pooled.append(features)
            self.pooled_coefficients.append(layer.head.pool(u))
        detected = shown > 0
        self.detected.append(detected.mean(axis=tuple(range(1, x.ndim - 1))))
        self._count(x, detected)
        self._rate_crops(shown)
        return detected

    def _count(self, x: Array, detected: Array) -> None:
        on = as_positions(detected).astype(np.float32)
        self.detected_together += on.T @ on
        y = self.layer.detections(as_positions(x))
        if y is not None:
            concepts = y.shape[1]
            steps = np.minimum((y * BINS).astype(int), BINS - 1) + BINS * np.arange(concepts)
            counts = np.bincount(steps.ravel(), minlength=BINS * concepts)
            self.histogram += counts.reshape(concepts, BINS)

    def _rate_crops(self, shown: Array) -> None:
        maps = concept_maps(shown, self.image_shape)
        if maps[0, ..., 0].size == 1:  # a map without places: the largest square stands for it
            self.patch = min(self.image_shape[:2])
        values = crop_coefficients(maps, self.image_shape, self.patch)
        values = values.reshape(len(maps), -1, maps.shape[-1])
        self.crop_values.append(values.max(axis=1))
        self.crop_places.append(values.argmax(axis=1))


def sample_positions(
    batches: Iterable[tuple[Array, Array]], at_most: int, random_state: int | None = None
) -> tuple[Array, Array]:
    """Draw a uniform sample of positions from a stream, in memory that does not grow with it.

    Parameters
    ----------
    batches : iterable of pairs
        Features (n, *spatial, D) and detections (n, *spatial, I), bool, of the same positions.
    at_most : int
        Positions kept.
    random_state : int, optional
        Seed.

    Returns
    -------
    features : ndarray of shape (P, D), float32
    detections : ndarray of shape (P, I), bool
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
