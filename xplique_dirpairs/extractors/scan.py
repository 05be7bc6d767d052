"""One pass over labelled images: what is kept of each for explaining a model."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import ceil

import numpy as np
from numpy.typing import NDArray

from xplique_dirpairs.core.progress import progress
from xplique_dirpairs.data.crops import (
    concept_maps,
    crop_at,
    crop_coefficients,
    fitting_patch,
)
from xplique_dirpairs.extractors.concept_layer import ConceptLayer
from xplique_dirpairs.plots.images import Limits, as_picture, pixel_limits
from xplique_dirpairs.sensitivity.noise_vectors import sample_positions

#: Numbers that the sampled positions may take: 2**24 floats are 64 MB.
_SAMPLED_FLOATS = 2**24
#: Side of a crop, as a share of the shorter side of an image.
_CROP = 0.3


@dataclass(frozen=True, eq=False)
class Scan:
    """What is kept of N images.

    Attributes
    ----------
    features : (N, D), or (N, *S, D)
        Averaged over positions where the head pools first. As they are where it does not.
    coefficients : (N, I), or None
        Mean coefficients, where the features are pooled.
    logits : (N, K)
    detected : (N, I)
        Share of the positions on which a concept is shown.
    crop_values, crop_places : (N, I)
        Mean of the concept map over the best crop of each image, and which crop that is.
    sample, sample_detections : (P, D), (P, I) bool
        Positions at random.
    patch : int
        Side of the crops.
    limits
        Black and white of the images.
    """

    features: NDArray
    coefficients: NDArray | None
    logits: NDArray
    detected: NDArray
    crop_values: NDArray
    crop_places: NDArray
    sample: NDArray
    sample_detections: NDArray
    patch: int
    limits: Limits

    def coefficients_of(self, among: NDArray, layer: ConceptLayer) -> NDArray:
        """Coefficients of some images, as their features are: (n, I), or (n, *S, I)."""
        if self.coefficients is not None:
            return self.coefficients[among]
        return layer.read(self.features[among])[0]

    def crops(self, images: NDArray, among: NDArray, concept: int, count: int) -> NDArray:
        """A concept's best crops, of different images, best first: (k, patch, patch, 3) uint8.

        Parameters
        ----------
        images
            Those that were scanned.
        among : (n,)
            Indices of images that may give one.
        concept
        count
            Wanted; images without the concept give none.
        """
        values = self.crop_values[among, concept]
        best = among[np.argsort(-values, kind="stable")[:count]]
        best = best[self.crop_values[best, concept] > 0]
        if not len(best):
            return np.zeros((0, self.patch, self.patch, 3), np.uint8)
        places = self.crop_places[best, concept]
        cut = [crop_at(images[n], int(k), self.patch) for n, k in zip(best, places, strict=True)]
        return (255 * as_picture(np.stack(cut), self.limits) + 0.5).astype(np.uint8)


def scan_images(
    layer: ConceptLayer,
    images: NDArray,
    patch_size: int | None,
    batch_size: int,
    seed: int | None,
    verbose: int = 0,
) -> Scan:
    """Read images, a batch at a time; see `Scan`."""
    shape = images.shape[1:]
    patch = fitting_patch(patch_size or ceil(_CROP * min(shape[:2])), shape)
    kept: dict[str, list[NDArray]] = {
        name: [] for name in ("features", "coefficients", "detected", "values", "places")
    }
    sides = [patch]

    def batches() -> Iterator[tuple[NDArray, NDArray]]:
        starts = range(0, len(images), batch_size)
        for start in progress(starts, len(starts), "images", verbose, "batch"):
            x = layer.activations(images[start : start + batch_size], batch_size)
            u, shown = layer.read(x)
            maps = concept_maps(shown, shape)
            if maps[0, ..., 0].size == 1:  # no places: the largest square
                sides[0] = min(shape[:2])
            of_crops = crop_coefficients(maps, shape, sides[0]).reshape(len(x), -1, u.shape[-1])
            kept["values"].append(of_crops.max(axis=1))
            kept["places"].append(of_crops.argmax(axis=1))
            detected = shown > 0
            kept["detected"].append(detected.mean(axis=tuple(range(1, u.ndim - 1))))
            kept["features"].append(layer.head.pool(x))
            if layer.head.pools_first:
                kept["coefficients"].append(layer.head.pool(u))
            yield x, detected

    channels = layer.bank.shape[1]
    sample, detections = sample_positions(batches(), max(1000, _SAMPLED_FLOATS // channels), seed)
    whole = {name: np.concatenate(parts) for name, parts in kept.items() if parts}
    return Scan(
        features=whole["features"],
        coefficients=whole.get("coefficients"),
        logits=layer.head.logits(whole["features"], batch_size),
        detected=whole["detected"],
        crop_values=whole["values"],
        crop_places=whole["places"],
        sample=sample,
        sample_detections=detections,
        patch=sides[0],
        limits=pixel_limits(images),
    )
