"""The one pass over images: what explanations, influence and reports need of each."""

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
from xplique_dirpairs.core.validation import as_images, check_integer, check_labels
from xplique_dirpairs.data.images import (
    concept_maps,
    crop_at,
    crop_coefficients,
    crop_place,
    default_patch,
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
    pooled: Array | None = None
    pooled_coefficients: Array | None = None
    _read_again: dict[int, Array] = field(default_factory=dict, init=False, repr=False)

    @property
    def predicted(self) -> Array:
        """Predicted classes, (N,)."""
        return np.asarray(self.logits.argmax(axis=1))

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
        known = self._read_again
        missing = [n for n in indices.tolist() if n >= len(self.kept) and n not in known]
        for part in slices(len(missing), self.batch_size):
            x = self.layer.activations(self.images[missing[part]], self.batch_size)
            known.update(zip(missing[part], x, strict=True))
        return np.stack([known[n] if n in known else self.kept[n] for n in indices.tolist()])

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
        together = self.detected_together
        own = np.diag(together)
        either = own[:, None] + own[None] - together
        shares: Array = np.divide(together, either, out=np.zeros(either.shape), where=either > 0)
        return shares

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
        return np.asarray(best[values[best] > 0])

    def crops(self, concept: int, count: int, among: Array | None = None) -> Array:
        """Return a concept's best crops, of different images, (k, patch, patch, 3) uint8.

        Arguments are those of `best_images`.
        """
        best = self.best_images(concept, count, among)
        crops = [
            crop_at(self.images[n], int(self.crop_places[n, concept]), self.patch) for n in best
        ]
        shape = (-1, self.patch, self.patch, self.images.shape[-1])
        pictures = as_picture(np.reshape(crops, shape), self.limits)
        return (255 * pictures + 0.5).astype(np.uint8)

    def crop_box(self, image: int, concept: int) -> tuple[float, float, float, float]:
        """Return (top, left, bottom, right) of a best crop, as shares of the image's sides."""
        shape, patch = self.images.shape[1:], self.patch
        top, left = crop_place(int(self.crop_places[image, concept]), shape, patch)
        height, width = shape[:2]
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
    reading = _Reading(layer, shape, patch)
    starts = range(0, len(images), batch_size)
    kept = activations

    def batches() -> Iterator[tuple[Array, Array]]:
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
        **by_image,
    )


class _Reading:
    """What is collected of batches of activations."""

    def __init__(self, layer: ConceptLayer, image_shape: tuple[int, ...], patch: int) -> None:
        self.layer, self.image_shape, self.patch = layer, image_shape, patch
        concepts = layer.number_of_concepts
        self.detected_together = np.zeros((concepts, concepts))
        self.histogram = np.zeros((concepts, BINS))
        #: Arrays with a row for each image, by their names in `Scan`.
        self.by_image: dict[str, list[Array]] = defaultdict(list)

    def read(self, x: Array) -> Array:
        """Collect a batch of activations (n, *spatial, D).

        Returns
        -------
        detected : ndarray of shape (n, *spatial, I), bool
        """
        if not self.by_image:
            # A function as head tells its number of classes only when it is called.
            self.layer = replace(self.layer, head=self.layer.head.by_class(x))
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
        on = as_positions(detected).astype(np.float32)
        self.detected_together += on.T @ on
        y = self.layer.detections(as_positions(x))
        if y is not None:
            concepts = y.shape[1]
            steps = np.minimum((y * BINS).astype(int), BINS - 1) + BINS * np.arange(concepts)
            counts = np.bincount(steps.ravel(), minlength=BINS * concepts)
            self.histogram += counts.reshape(concepts, BINS)

    def _best_crops(self, shown: Array) -> dict[str, Array]:
        maps = concept_maps(shown, self.image_shape)
        if maps[0, ..., 0].size == 1:  # a map without places: the largest square stands for it
            self.patch = min(self.image_shape[:2])
        values = crop_coefficients(maps, self.image_shape, self.patch)
        values = values.reshape(len(maps), -1, maps.shape[-1])
        return {"crop_values": values.max(axis=1), "crop_places": values.argmax(axis=1)}


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
