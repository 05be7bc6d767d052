"""Images unlike all others: a single one can turn every signal vector, and is left out."""

from __future__ import annotations

from hashlib import blake2b

import numpy as np
from numpy.typing import NDArray

from xplique_dirpairs.data.devices import from_chief
from xplique_dirpairs.learning.coordinates import Moments, principal_axes
from xplique_dirpairs.learning.features import HeldFeatures, StreamedFeatures

#: An image is far from so many times the median distance on, in mean squares [measured: at most 11
#: in two layers of a real network, 170 for one of 200 maps that is three times as bright].
_FAR = 20.0
#: Nor is it far in a tail that heavy: the step from the median to the upper tenth, so often again.
_STEPS = 4
#: Images that typical ones are told by: of so many positions, and never fewer images.
_POSITIONS, _IMAGES = 50_000, 100
#: The farthest share of them is not asked, in so many rounds: outliers hide one another.
_TRIMMED, _ROUNDS = 0.05, 2
#: Images for each axis, at least: in more axes, whatever is not among them looks far.
_IMAGES_PER_AXIS = 5
#: Fewer images than this are too few to tell what is typical.
_LEAST = 20
#: More than one of so many images are not left out: what they show is rare, but there.
_OF_IMAGES = 100


def leave_out_far(
    features: HeldFeatures | StreamedFeatures,
    moments: Moments,
    concepts: int,
    on_all_workers: bool = False,
) -> tuple[HeldFeatures | StreamedFeatures, Moments, NDArray, int]:
    """Features without the images that are far from all others, whole or in one position [ours].

    Outliers have a share in the moments of all features, and hide in them, and one another. What is
    typical is told by random images without the farthest of them. ``on_all_workers`` says that
    every worker of a cluster asks: rounding may differ, so the chief's answer is taken.

    Returns
    -------
    features, moments
        As they came, if there are no such images, or too many of them to be outliers.
    left_out
        Numbers of the images that were left out.
    kept
        How many images are far, but too many to be left out.
    """
    far = _far_images(features, concepts)
    if on_all_workers:
        is_far = np.zeros(features.shape[0])
        is_far[far] = 1.0
        far = np.flatnonzero(from_chief([is_far])[0])
    if far.size > max(1, features.shape[0] // _OF_IMAGES):
        return features, moments, np.zeros(0, int), far.size
    if not far.size:
        return features, moments, far, 0
    near = features.without(far)
    return near, Moments.of(near), far, 0


def _far_images(features: HeldFeatures | StreamedFeatures, concepts: int) -> NDArray:
    """Numbers of the images that are far from typical ones."""
    images = features.shape[0]
    if images < _LEAST:
        return np.zeros(0, int)
    order = np.random.default_rng(0).permutation(images)
    some = features.without(order[max(_IMAGES, _POSITIONS * images // len(features)) :])
    typical = some
    try:
        for _ in range(_ROUNDS):
            distances = _distances(some, typical, concepts)
            relative = distances / np.median(distances, axis=1, keepdims=True)
            farthest = np.argsort(relative.max(axis=0))[-int(np.ceil(_TRIMMED * some.shape[0])) :]
            typical = some.without(farthest)
        distances = _distances(features, typical, concepts)
    except ValueError:  # constant without the farthest: rare concepts, then, and no outliers
        return np.zeros(0, int)
    median, tenth = np.quantile(distances, [0.5, 0.9], axis=1)
    limits = np.maximum(_FAR * median, tenth * (tenth / median) ** _STEPS)
    return np.flatnonzero((distances > limits[:, None]).any(axis=0))


def _distances(
    features: HeldFeatures | StreamedFeatures,
    typical: HeldFeatures | StreamedFeatures,
    concepts: int,
) -> NDArray:
    """(4, N): mean and largest square of an image's positions, whitened and as they are."""
    moments = Moments.of(typical)
    axes, deviations = principal_axes(moments, concepts)
    axes = axes[: max(1, typical.shape[0] // _IMAGES_PER_AXIS)]
    whiten = (axes.T / deviations[: len(axes)]).astype(np.float32)
    mean = moments.mean.astype(np.float32)
    per_image, place = len(features) // features.shape[0], 0
    total, largest = np.zeros((2, 2, features.shape[0]))
    for block in features.blocks():
        x = block - mean
        image = (place + np.arange(len(x))) // per_image  # a block may end within one
        first = np.flatnonzero(np.diff(image, prepend=-1))
        image = image[first]
        for k, y in enumerate((x @ whiten, x)):
            squares = np.einsum("pa,pa->p", y, y, dtype=np.float64)
            total[k, image] += np.add.reduceat(squares, first)
            largest[k, image] = np.maximum(largest[k, image], np.maximum.reduceat(squares, first))
        place += len(x)
    return np.concatenate([total / per_image, largest])


def distinct_images(features: HeldFeatures | StreamedFeatures) -> int:
    """How many images are not copies of others; 8 bytes for each are kept."""
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
