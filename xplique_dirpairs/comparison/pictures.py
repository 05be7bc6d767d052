"""What a comparison's figures show of its images: concept maps, crops, concepts that agree."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from xplique_dirpairs.data.crops import (
    best_crops,
    concept_maps,
    crop_coefficients,
    extract_crops,
    fitting_patch,
)
from xplique_dirpairs.plots.comparison import AlignedConcept
from xplique_dirpairs.plots.extractor_views import counterparts
from xplique_dirpairs.plots.images import as_picture, pixel_limits

#: Side of a crop, as a share of the shorter side of an image.
_CROP = 0.3


def upright_maps(shown: NDArray, image_shape: tuple[int, ...]) -> NDArray:
    """Shown coefficients (n, *S, I) as concept maps (n, H, W, I), mostly negative ones turned."""
    maps = concept_maps(shown, image_shape)
    flat = maps.reshape(-1, maps.shape[-1]).astype(np.float64)
    # the long tail tells, as in `metrics.dictionary.oriented`
    return maps * np.where((flat**3).sum(axis=0) < 0, -1.0, 1.0).astype(np.float32)


def picture(images: NDArray, image: int) -> NDArray:
    """One of the images, in the brightness of all."""
    return as_picture(images[image], pixel_limits(images))


def aligned_concepts(
    ours: NDArray, theirs: NDArray, images: NDArray, n: int, nb_crops: int
) -> list[AlignedConcept]:
    """Concepts of two extractors whose maps (N, H, W, I) agree, one-to-one, the most alike first.

    ``n`` of them, each with its best crops: at most ``nb_crops``, of different images.
    """
    swap = ours.shape[-1] > theirs.shape[-1]  # `counterparts` finds the partners of the fewer
    partners, correlations = counterparts(*((theirs, ours) if swap else (ours, theirs)))
    pairs = np.stack([np.arange(len(partners)), partners], axis=1)
    pairs = pairs[:, ::-1] if swap else pairs
    return [
        AlignedConcept(
            int(pairs[k, 0]),
            int(pairs[k, 1]),
            float(correlations[k]),
            _crops(images, ours[..., pairs[k, 0]], nb_crops),
            _crops(images, theirs[..., pairs[k, 1]], nb_crops),
        )
        for k in np.argsort(-correlations, kind="stable")[:n]
    ]


def _crops(images: NDArray, maps: NDArray, count: int) -> NDArray:
    """Best crops (k, patch, patch, 3) of one concept's maps (N, H, W), of different images."""
    shape = images.shape[1:]
    patch = fitting_patch(max(1, round(_CROP * min(shape[:2]))), shape)
    if maps[0].size == 1:  # no places: whole images, as far as they are square
        patch = min(shape[:2])
    values = crop_coefficients(maps[..., None], shape, patch).reshape(len(maps), -1)
    chosen = best_crops(values.max(axis=1), len(maps), count)
    crops = [extract_crops(images[i][None], patch)[values[i].argmax()] for i in chosen]
    if not crops:
        return np.zeros((0, patch, patch, 3), np.float32)
    return as_picture(np.stack(crops), pixel_limits(images))
