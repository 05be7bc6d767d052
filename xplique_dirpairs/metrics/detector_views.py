"""The images on which detectors are strongest, with where they fire and where their label is."""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xplique_dirpairs.core.geometry import Shift, upsample
from xplique_dirpairs.metrics.dissection import (
    NO_LABEL,
    Annotated,
    Read,
    flat_concepts,
    read_batches,
)
from xplique_dirpairs.metrics.interpretability import Interpretability


@dataclass(frozen=True, eq=False)
class DetectorView:
    """A detector on its strongest images, as `plot_best_detectors` draws it.

    Attributes
    ----------
    detector
    name
        Number, label and IoU.
    images : (k, H, W, C)
        The strongest first.
    masks, detections : (k, H, W) bool
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
    """The images with the largest value of each detector's map, in one pass.

    Parameters
    ----------
    annotated, read, activations, batch_size, shift
        As of `dissect`.
    scores
        Of these detectors.
    detectors
        Which; None: the ten with the highest IoU.
    count
        Images of each.

    Raises
    ------
    ValueError
        If there is no such detector, or ``count`` is not positive; as of `dissect`.
    """
    number = len(scores.labels)
    if detectors is None:
        detectors = np.argsort(-np.nan_to_num(scores.iou), kind="stable")[:10].tolist()
    if not all(0 <= i < number for i in detectors):
        raise ValueError(f"detectors must be numbers from 0 to {number - 1}, not {list(detectors)}")
    if count < 1:
        raise ValueError(f"count must be at least 1, not {count!r}")
    kept: dict[int, list] = {i: [] for i in detectors}
    done = 0
    batches = read_batches(annotated, read, activations, batch_size, number)
    for (images, _), (maps, masks) in zip(annotated.batches(batch_size), batches, strict=True):
        strength = maps.max(axis=(1, 2))
        for i, heap in kept.items():
            for n in np.argsort(-strength[:, i], kind="stable")[:count]:
                # of equally strong images the first stays
                entry = (float(strength[n, i]), -(done + int(n)))
                if len(heap) < count or entry > heap[0][:2]:
                    one, mask = np.array(maps[n, ..., i]), _where(masks, n, i, scores)
                    parts = np.array(images[n]), one, mask  # not views of a whole batch
                    (heapq.heappush if len(heap) < count else heapq.heapreplace)(
                        heap, (*entry, parts)
                    )
        done += len(images)
    return [_view(i, [entry[2] for entry in sorted(heap, reverse=True)], scores, shift)
            for i, heap in kept.items()]  # fmt: skip


def _where(masks, n: int, detector: int, scores: Interpretability) -> NDArray:
    """Where a detector's label is in an image, (H, W) bool."""
    label = scores.labels[detector]
    if label == NO_LABEL:
        return np.zeros(next(iter(masks.values()))[n].shape, bool)
    category, name = flat_concepts(scores.concepts)[label]
    return masks[category][n] == scores.concepts[category].index(name) + 1


def _view(detector: int, found: list, scores: Interpretability, shift: Shift) -> DetectorView:
    limit = scores.thresholds[detector]
    label = scores.labels[detector]
    said = "no label" if label == NO_LABEL else flat_concepts(scores.concepts)[label][1]
    fires = [upsample(one[..., None], mask.shape, shift)[..., 0] > limit for _, one, mask in found]
    return DetectorView(
        detector=detector,
        name=f"{detector} · {said}\nIoU {np.nan_to_num(scores.iou[detector]):.2f}",
        images=np.stack([image for image, _, _ in found]),
        masks=np.stack([mask for _, _, mask in found]),
        detections=np.stack(fires),
    )
