"""Detectors on the images where they are strongest, for the figures of the interpretability."""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xplique_dirpairs.core.geometry import Shift, upsample
from xplique_dirpairs.core.validation import check_concepts, check_integer
from xplique_dirpairs.data.annotated_images import Annotated, flat_concepts
from xplique_dirpairs.metrics.dissection import NO_LABEL, Read, read_batches
from xplique_dirpairs.metrics.interpretability import Interpretability


@dataclass(frozen=True, eq=False)
class DetectorView:
    """A detector on its strongest images.

    Attributes
    ----------
    detector
    name
        Number, label and IoU.
    images : ndarray of shape (k, H, W, C)
        The strongest first.
    masks, detections : ndarray of shape (k, H, W) bool
        Where the label is, and where the detector fires.
    """

    detector: int
    name: str
    images: NDArray
    masks: NDArray
    detections: NDArray


def strongest_images(
    annotated: Annotated,
    read: Read,
    scores: Interpretability,
    *,
    detectors: Sequence[int] | None = None,
    count: int = 4,
    activations: Any = None,
    batch_size: int = 32,
    shift: Shift = 0.0,
) -> list[DetectorView]:
    """Return the images with the largest values of each detector's map, in one pass.

    Parameters
    ----------
    annotated, read, activations, batch_size, shift
        As in `dissect`.
    scores : Interpretability
        Of these detectors.
    detectors : sequence of int, optional
        Default: the ten with the highest IoU.
    count : int, default=4
        Images of each.

    Raises
    ------
    ValueError
        If a detector is out of range, or ``count`` is not positive; as in `dissect`.
    """
    if detectors is None:
        detectors = np.argsort(-np.nan_to_num(scores.iou), kind="stable")[:10].tolist()
    number = len(scores.labels)
    check_concepts(detectors, number)
    check_integer("count", count)
    kept: dict[int, list] = {i: [] for i in detectors}
    done = 0
    batches = read_batches(annotated, read, activations, batch_size, number)
    for (images, _), (maps, masks) in zip(annotated.batches(batch_size), batches, strict=True):
        strength = maps.max(axis=(1, 2))
        for i, heap in kept.items():
            for n in np.argsort(-strength[:, i], kind="stable")[:count]:
                # Of equally strong images the first is kept.
                rank = (float(strength[n, i]), -(done + int(n)))
                if len(heap) == count and rank < heap[0][:2]:
                    continue
                # copies, not views that would keep the whole batch in memory
                parts = np.array(images[n]), np.array(maps[n, ..., i]), _mask(masks, n, i, scores)
                heapq.heappush(heap, (*rank, parts))
                if len(heap) > count:
                    heapq.heappop(heap)
        done += len(images)
    return [
        _view(i, [entry[2] for entry in sorted(heap, reverse=True)], scores, shift)
        for i, heap in kept.items()
    ]


def _mask(masks: Mapping[str, NDArray], n: int, detector: int, scores: Interpretability) -> NDArray:
    """Return where a detector's label is in an image, (H, W) bool."""
    label = scores.labels[detector]
    if label == NO_LABEL:
        return np.zeros(next(iter(masks.values()))[n].shape, bool)
    category, name = flat_concepts(scores.concepts)[label]
    return masks[category][n] == scores.concepts[category].index(name) + 1


def _view(detector: int, parts: list, scores: Interpretability, shift: Shift) -> DetectorView:
    limit = scores.thresholds[detector]
    label = scores.labels[detector]
    label_name = "no label" if label == NO_LABEL else flat_concepts(scores.concepts)[label][1]
    fires = [upsample(one[..., None], mask.shape, shift)[..., 0] > limit for _, one, mask in parts]
    return DetectorView(
        detector=detector,
        name=f"{detector} · {label_name}\nIoU {np.nan_to_num(scores.iou[detector]):.2f}",
        images=np.stack([image for image, _, _ in parts]),
        masks=np.stack([mask for _, _, mask in parts]),
        detections=np.stack(fires),
    )
