"""Thresholds for detectors that have none of their own: quantiles of their maps.

Network Dissection lets a unit fire on the 0.5 % of all positions where it is highest; with I
detectors that share the positions between them, the top 1/I is as natural. The one that does better
on the training part is taken, for all detectors of an extractor alike: a threshold chosen for every
detector by itself would make each one a detector of the most frequent concept.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from xplique_dirpairs.core.geometry import Shift
from xplique_dirpairs.metrics.dissection import Annotated, Dissection, Read, dissect, read_batches

#: The share of positions on which Network Dissection lets a unit fire.
TOP_SHARE = 0.005

#: Levels of the histogram that quantiles are read from, over the range of a detector.
QUANTILE_LEVELS = 2**16


@dataclass(frozen=True, eq=False)
class ThresholdChoice:
    """Which thresholds did best on the training part.

    Attributes
    ----------
    name
        Of those that were chosen.
    dissection : Dissection
        With them, of the training part.
    scores
        Name → S¹ on the training part, of all candidates.
    """

    name: str
    dissection: Dissection
    scores: dict[str, float]


def quantile_thresholds(
    annotated: Annotated,
    read: Read,
    shares: Sequence[float],
    *,
    activations: Any = None,
    batch_size: int = 32,
) -> NDArray:
    """For each share, thresholds above which detectors are on no more than it, and nearly on it.

    Of the positions of the maps as they are, not upsampled, as in Network Dissection. Two passes:
    the range of each detector, and a histogram of `QUANTILE_LEVELS` levels over it. The threshold
    is the lowest edge of a level that few enough are above: at most 1/65536 of the range too high.

    Parameters
    ----------
    annotated, read, activations, batch_size
        As of `dissect`.
    shares
        In (0, 1).

    Returns
    -------
    thresholds : (len(shares), I)

    Raises
    ------
    ValueError
        If a share is out of range, and as of `dissect`.
    """
    wanted = np.asarray(shares, float)
    if wanted.ndim != 1 or not wanted.size or not ((wanted > 0) & (wanted < 1)).all():
        raise ValueError(f"shares must lie between 0 and 1, not {shares!r}")

    def values():
        for maps, _ in read_batches(annotated, read, activations, batch_size):
            yield maps.reshape(-1, maps.shape[-1])

    lowest, highest = np.array(np.inf), np.array(-np.inf)
    for block in values():
        lowest = np.minimum(lowest, block.min(axis=0))
        highest = np.maximum(highest, block.max(axis=0))
    width = (highest - lowest) / QUANTILE_LEVELS
    counts = np.zeros((len(lowest), QUANTILE_LEVELS), np.int64)
    for block in values():
        # a level holds its upper edge, as what is "above" a threshold does not hold the threshold
        levels = np.ceil(
            np.divide(block - lowest, width, out=np.zeros(block.shape), where=width > 0)
        )
        levels = np.clip(levels - 1, 0, QUANTILE_LEVELS - 1).astype(np.intp)
        for i, of_detector in enumerate(levels.T):
            counts[i] += np.bincount(of_detector, minlength=QUANTILE_LEVELS)
    above = counts[:, ::-1].cumsum(axis=1)[:, ::-1] - counts  # the upper edge of each level
    total = counts.sum(axis=1, keepdims=True)
    edges = [(above <= share * total).argmax(axis=1) + 1 for share in wanted]
    return (lowest + width * np.array(edges)).astype(np.float32)


def choose_thresholds(
    annotated: Annotated,
    read: Read,
    candidates: Mapping[str, ArrayLike] | None = None,
    *,
    activations: Any = None,
    batch_size: int = 32,
    shift: Shift = 0.0,
) -> ThresholdChoice:
    """Dissect the training part with each of several thresholds; keep what gives the largest S¹.

    Parameters
    ----------
    annotated, read, activations, batch_size, shift
        As of `dissect`.
    candidates
        Name → thresholds (I,). None: the top 1/I (of a single detector 1/2) and the top 0.5 % of
        each detector.

    Returns
    -------
    choice

    Raises
    ------
    ValueError
        If there is no candidate, and as of `dissect`.
    """
    how: dict[str, Any] = {"activations": activations, "batch_size": batch_size}
    if candidates is None:
        maps, _ = next(read_batches(annotated, read, activations, batch_size))
        parts = max(maps.shape[-1], 2)
        names = {f"top 1/{parts}": 1 / parts, f"top {TOP_SHARE:.1%}": TOP_SHARE}
        limits = quantile_thresholds(annotated, read, list(names.values()), **how)
        candidates = dict(zip(names, limits, strict=True))
    if not candidates:
        raise ValueError("candidates are empty: give thresholds (I,) by name, or None")
    found = {
        name: dissect(annotated, read, thresholds, shift=shift, **how)
        for name, thresholds in candidates.items()
    }
    scores = {
        name: float(np.nan_to_num(dissection.iou).max(axis=1).sum())
        for name, dissection in found.items()
    }
    best = max(scores, key=lambda name: scores[name])
    return ThresholdChoice(best, found[best], scores)
