"""`propose_tubelets`: parts of a video that are alike in their features and hang together."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from skimage.segmentation import slic

from xplique_dirpairs.core.types import Array
from xplique_dirpairs.core.validation import check_finite, check_integer, check_number

#: Tubelets smaller than this share of a video are dropped.
_SMALLEST = 1e-3
#: Label of what belongs to no tubelet.
DROPPED = -1


@dataclass(frozen=True, eq=False)
class Tubelets:
    """M tubelets of N videos.

    Attributes
    ----------
    labels : ndarray of shape (N, T, H, W), int32
        Number of the tubelet of each token; −1: dropped.
    vectors : ndarray of shape (M, d), float32
        Mean feature of each tubelet.
    video : ndarray of shape (M,), int
        Video of each tubelet.
    """

    labels: Array
    vectors: Array
    video: Array

    def masks_of(self, concepts: ArrayLike, count: int) -> Array:
        """Return where concepts are, given the concept of each tubelet.

        Parameters
        ----------
        concepts : array-like of shape (M,), int
            Concept of each tubelet; −1: none.
        count : int
            Number of concepts, I.

        Returns
        -------
        masks : ndarray of shape (N, T, H, W, I), bool
        """
        chosen = np.append(np.asarray(concepts, int), DROPPED)  # the last one is for "dropped"
        return np.asarray(chosen[self.labels][..., None] == np.arange(count))


def propose_tubelets(maps: ArrayLike, count: int = 12, compactness: float = 0.1) -> Tubelets:
    """Divide videos into tubelets by SLIC over time, place and features.

    The distance² is ‖Δf‖²/compactness² + ‖Δpos‖²/step², with the features of a video stretched to
    [0, 1] by their lowest and highest value (scikit-image's SLIC, ten iterations; as in Kowal et
    al., VTCD, CVPR 2024, but on the grid of the tokens). Tubelets of less than 0.1 % of a video are
    dropped.

    Parameters
    ----------
    maps : array-like of shape (N, T, H, W, d)
        Features of N videos on a grid of tokens, such as one head of `VideoProbe.features`.
    count : int, default=12
        Approximate number of tubelets of a video.
    compactness : float, default=0.1
        How much place counts against features. (VTCD: 0.1 for VideoMAE, 0.01 for TCOW, 0.15 for
        InternVideo.)

    Returns
    -------
    tubelets : Tubelets
        A video of constant features has tubelets by place alone.

    Raises
    ------
    ValueError
        If maps do not have five axes, or are not finite; or if an argument is out of range.
    """
    array = np.asarray(maps, np.float32)
    if array.ndim != 5 or array.size == 0:
        raise ValueError(f"maps must have shape (N, T, H, W, d), not {array.shape}")
    check_finite("maps", array, "")
    check_integer("count", count)
    check_number("compactness", compactness, above=0.0)
    labels = np.full(array.shape[:4], DROPPED, np.int32)
    vectors: list[Array] = []
    video: list[int] = []
    for n, volume in enumerate(array):
        own = _segments(volume, count, compactness)
        for number in np.unique(own):
            mask = own == number
            if mask.sum() < _SMALLEST * own.size:
                continue
            labels[n][mask] = len(vectors)
            vectors.append(volume[mask].mean(axis=0, dtype=np.float64))
            video.append(n)
    return Tubelets(labels, np.array(vectors, np.float32), np.array(video, int))


def _segments(volume: Array, count: int, compactness: float) -> Array:
    """Return the number of the segment of each token of one video (T, H, W, d)."""
    low, high = float(volume.min()), float(volume.max())
    unit = (volume - low) / (high - low) if high > low else np.zeros_like(volume)
    return np.asarray(
        slic(
            unit.astype(np.float64), n_segments=count, compactness=compactness, max_num_iter=10,
            channel_axis=-1, convert2lab=False, start_label=0, sigma=0,
        )
    )  # fmt: skip
