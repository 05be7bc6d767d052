"""Find images that are unlike all others, and images that are copies of others.

A single image unlike all others can distort every signal vector, so such images are left out.
"""

from __future__ import annotations

from collections.abc import Callable
from hashlib import blake2b

import numpy as np

from xplique_dirpairs.core.types import Array
from xplique_dirpairs.learning.coordinates import Moments, signal_axes
from xplique_dirpairs.learning.features import Features

#: An image is an outlier if its squared distance exceeds this multiple of the median [measured: the
#: multiple is at most 11 in two layers of a real network, and 170 for one map in 200 that is three
#: times as bright].
_FAR = 20.0
#: For heavy tails the limit is higher: the ratio of the 90 % quantile to the median is applied this
#: many times to that quantile.
_TAIL_STEPS = 4
#: Number of positions from which typical images are estimated, and smallest number of images.
_TYPICAL_POSITIONS, _TYPICAL_IMAGES = 50_000, 100
#: Share of the farthest images that is trimmed, and number of rounds: outliers hide one another.
_TRIMMED, _TRIMMINGS = 0.05, 2
#: Smallest number of images per axis: in more axes, every image that was not used looks far.
_IMAGES_PER_AXIS = 5
#: Smallest number of images that shows what is typical.
_LEAST = 20
#: If more than one image in this many is far, none is left out: they show a rare concept.
_OF_IMAGES = 100


def leave_out_far(
    features: Features,
    moments: Moments,
    concepts: int,
    agree: Callable[[Array], Array] = lambda is_far: is_far,
) -> tuple[Features, Moments, Array, int]:
    """Leave out images that are far from all others, as a whole or in one position [ours].

    Outliers contribute to the moments of all features, and so hide themselves and one another. The
    typical moments are therefore estimated from random images without the farthest of them.

    Parameters
    ----------
    features : Features
        Features of N images.
    moments : Moments
        Moments of all features.
    concepts : int
        Number of concepts I.
    agree : callable, default=identity
        Gives all workers of a cluster the same flags (N,), since rounding errors may differ.

    Returns
    -------
    features : Features
        Features without the outliers; unchanged if there are none, or too many to be outliers.
    moments : Moments
        Moments of these features.
    left_out : ndarray of shape (n,)
        Indices of the images that were left out.
    far : int
        Number of images that are far and yet kept, because they are too many to be outliers.
    """
    far = _far_images(features, concepts)
    is_far = np.zeros(features.shape[0])
    is_far[far] = 1.0
    far = np.flatnonzero(agree(is_far))
    if far.size > max(1, features.shape[0] // _OF_IMAGES):
        return features, moments, np.zeros(0, int), far.size
    if not far.size:
        return features, moments, far, 0
    near = features.without(far)
    return near, Moments.of(near), far, 0


def _far_images(features: Features, concepts: int) -> Array:
    """Return the indices of images that are far from typical ones."""
    images = features.shape[0]
    if images < _LEAST:
        return np.zeros(0, int)
    order = np.random.default_rng(0).permutation(images)
    sample = features.without(
        order[max(_TYPICAL_IMAGES, _TYPICAL_POSITIONS * images // len(features)) :]
    )
    typical = sample
    try:
        for _ in range(_TRIMMINGS):
            distances = _distances(sample, typical, concepts)
            relative = distances / np.median(distances, axis=1, keepdims=True)
            farthest = np.argsort(relative.max(axis=0))[-int(np.ceil(_TRIMMED * sample.shape[0])) :]
            typical = sample.without(farthest)
        distances = _distances(features, typical, concepts)
    except ValueError:  # constant without the farthest images: they show rare concepts
        return np.zeros(0, int)
    median, tenth = np.quantile(distances, [0.5, 0.9], axis=1)
    limits = np.maximum(_FAR * median, tenth * (tenth / median) ** _TAIL_STEPS)
    return np.flatnonzero((distances > limits[:, None]).any(axis=0))


def _distances(features: Features, typical: Features, concepts: int) -> Array:
    """Return mean and largest squared norm of each image's positions, whitened and raw, (4, N)."""
    moments = Moments.of(typical)
    axes, deviations = signal_axes(moments, concepts)
    axes = axes[: max(1, typical.shape[0] // _IMAGES_PER_AXIS)]
    whiten = (axes.T / deviations[: len(axes)]).astype(np.float32)
    mean = moments.mean.astype(np.float32)
    per_image, place = len(features) // features.shape[0], 0
    total, largest = np.zeros((2, 2, features.shape[0]))
    for block in features.blocks():
        x = block - mean
        image = (place + np.arange(len(x))) // per_image  # a block may end within an image
        first = np.flatnonzero(np.diff(image, prepend=-1))
        image = image[first]
        for k, y in enumerate((x @ whiten, x)):
            squares = np.einsum("pa,pa->p", y, y, dtype=np.float64)
            total[k, image] += np.add.reduceat(squares, first)
            largest[k, image] = np.maximum(largest[k, image], np.maximum.reduceat(squares, first))
        place += len(x)
    return np.concatenate([total / per_image, largest])


def distinct_images(features: Features) -> int:
    """Return the number of distinct images, found by a digest of 8 bytes for each image."""
    per_image, place = len(features) // features.shape[0], 0
    digests, digest = np.empty(features.shape[0], np.uint64), blake2b(digest_size=8)
    for block in features.blocks():
        first = (-place) % per_image  # where a new image begins
        for rows in np.split(block, range(first or per_image, len(block), per_image)):
            digest.update(np.ascontiguousarray(rows).tobytes())
            place += len(rows)
            if place % per_image == 0:
                digests[place // per_image - 1] = int.from_bytes(digest.digest(), "little")
                digest = blake2b(digest_size=8)
    return len(np.unique(digests))
