"""Images unlike all others: a single one can turn every signal vector, and is left out."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from xplique_dirpairs.learning.coordinates import Moments, whitened
from xplique_dirpairs.learning.features import HeldFeatures, StreamedFeatures

#: A position is far from all others from this mean square of its whitened coordinates on, or this
#: sum of squares where there are few axes [measured: 11 at most in two layers of a real network;
#: 100 for an image three times as bright as the 2499 others].
_FAR, _FAR_IN_ALL = 20.0, 500.0
#: More images than this share are no outliers: what they show is rare, but there.
_SHARE = 1e-3
#: How often moments and distances are taken anew: outliers hide one another.
_ROUNDS = 3


def leave_out_far(
    features: HeldFeatures | StreamedFeatures, moments: Moments, concepts: int
) -> tuple[HeldFeatures | StreamedFeatures, Moments, NDArray]:
    """Features without the images that have a position far from all others [ours].

    Returns
    -------
    features, moments
        As they came, if there are no such images, or too many of them to be outliers.
    left_out
        Numbers of the images that were left out.
    """
    numbers = np.arange(features.shape[0])
    left_out: list[int] = []
    near, near_moments = features, moments
    for _ in range(_ROUNDS):
        far = np.flatnonzero(_is_far(near, near_moments, concepts))
        if not far.size:
            break
        left_out += numbers[far].tolist()
        if len(left_out) > max(1, _SHARE * features.shape[0]):
            return features, moments, np.zeros(0, int)
        numbers = np.delete(numbers, far)
        near = near.without(far)
        near_moments = Moments.of(near)
    return near, near_moments, np.sort(np.array(left_out, int))


def _is_far(features: HeldFeatures | StreamedFeatures, moments: Moments, concepts: int) -> NDArray:
    """(N,): whether an image has a far position."""
    made = whitened(moments, concepts)
    limit = max(_FAR * made.axes, _FAR_IN_ALL)
    squares = [np.square(made.features(block)).sum(axis=1) for block in features.blocks()]
    by_image = np.concatenate(squares).reshape(features.shape[0], -1)
    return by_image.max(axis=1) > limit
