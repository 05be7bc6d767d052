"""Signals and distractors of any size: many concepts, coherent maps, rare and overlapping concepts.

The features of `synthetic` at the size of real layers: x = Sα + Dβ + μ (+ noise), with classes that
prefer some of the concepts, so that a head can be trained on them.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from xplique_dirpairs.core.validation import check_integer
from xplique_dirpairs.datasets.synthetic import (
    ABSENT,
    DISTRACTOR,
    OFFSET,
    PRESENT,
    SyntheticSignals,
    check_directions,
)

#: How much more often a concept is seen in the two classes that prefer it.
_PREFERRED = 4.0
#: Images whose features are computed at a time.
_CHUNK = 4096


def signal_maps(
    images: int,
    signals: ArrayLike,
    distractors: ArrayLike,
    *,
    seed: int = 0,
    map_shape: tuple[int, int] = (1, 2),
    patches: int | None = None,
    concepts_per_pixel: int = 1,
    classes: int = 10,
    zipf: float = 0.0,
    present: tuple[float, float] = PRESENT,
    absent: tuple[float, float] = ABSENT,
    noise: float = 0.0,
) -> SyntheticSignals:
    """Draw feature maps of signals and distractors, β ~ U(0, 5) and μ = 10 on every channel.

    Parameters
    ----------
    images : int
        N.
    signals : array-like of shape (I, D)
        Rows of unit length; see `random_directions`.
    distractors : array-like of shape (F, D)
    seed : int, default=0
        Of everything but the directions: another seed gives fresh data of the same experiment.
    map_shape : (int, int), default=(1, 2)
        H and W.
    patches : int, optional
        Number of coherent regions of an image, each with one set of concepts (the positions nearest
        to one of as many random points). None: every position is on its own.
    concepts_per_pixel : int, default=1
        Number of concepts that each position carries.
    classes : int, default=10
        K, at most I; class k sees the concepts i with i mod K in {k, k + 1} four times as often
        as the others (with two classes, i mod K = k).
    zipf : float, default=0
        Frequencies fall as 1/rank^zipf; 0: all concepts are equally frequent.
    present, absent : (float, float)
        Ranges of the uniform α of a concept that is there, and one that is not.
    noise : float, default=0
        Standard deviation of normal noise on every channel.

    Returns
    -------
    data : SyntheticSignals
        Features of shape (N, H, W, D).

    Raises
    ------
    ValueError
        If a size is not a positive integer, a position has more concepts than there are, or the
        directions' channels differ.
    """
    signals, distractors = check_directions(signals, distractors)
    concepts, channels = signals.shape
    sizes = {"images": images, "classes": classes, "patches": 1 if patches is None else patches}
    sizes |= {"map_shape": min(map_shape), "concepts_per_pixel": concepts_per_pixel}
    for name, size in sizes.items():
        check_integer(name, size)
    if concepts_per_pixel > concepts:
        raise ValueError(f"{concepts_per_pixel} concepts per pixel, but only {concepts} concepts")
    rng = np.random.default_rng(seed)
    classes = min(classes, concepts)
    labels = rng.integers(classes, size=images)
    prefers = _preferred(labels, classes, concepts)
    weights = np.where(prefers, _PREFERRED, 1.0) / np.arange(1, concepts + 1) ** zipf
    masks = _masks(rng, weights, map_shape, patches, concepts_per_pixel)
    alpha = np.where(masks, rng.uniform(*present, masks.shape), rng.uniform(*absent, masks.shape))
    alpha = alpha.astype(np.float32)
    features = np.empty((images, *map_shape, channels), np.float32)
    for start in range(0, images, _CHUNK):
        part = slice(start, start + _CHUNK)
        shape = features[part].shape
        beta = rng.uniform(*DISTRACTOR, size=(*shape[:-1], len(distractors)))
        x = alpha[part] @ signals.astype(np.float32)
        x += beta.astype(np.float32) @ distractors.astype(np.float32) + np.float32(OFFSET)
        if noise:
            x += noise * rng.standard_normal(shape, dtype=np.float32)
        features[part] = x
    return SyntheticSignals(features, labels, masks, alpha, signals, distractors)


def _preferred(labels, classes, concepts) -> NDArray:
    """Return which concepts the class of each image prefers, (N, I)."""
    kind = np.arange(concepts) % classes
    prefers = kind == labels[:, None]
    if classes > 2:  # with two, every class would prefer every concept
        prefers |= kind == (labels[:, None] + 1) % classes
    return prefers


def _masks(rng, weights, map_shape, patches, per_pixel) -> NDArray:
    """Draw which position carries which concepts, (N, H, W, I); equal within a patch.

    The odds of the concepts in an image are its row of ``weights`` (N, I).
    """
    (images, concepts), (height, width) = weights.shape, map_shape
    regions = height * width if patches is None else patches
    # The largest of log w + Gumbel noise are draws without replacement in proportion to w.
    keys = np.log(weights)[:, None] + rng.gumbel(size=(images, regions, concepts))
    drawn = np.argpartition(-keys, per_pixel - 1, axis=-1)[..., :per_pixel]
    carried = np.zeros((images, regions, concepts), bool)
    np.put_along_axis(carried, drawn, True, axis=-1)
    if patches is None:
        return carried.reshape(images, height, width, concepts)
    points = rng.uniform(size=(images, patches, 2)) * map_shape
    rows, columns = np.arange(height) + 0.5, np.arange(width) + 0.5
    away = (rows[:, None] - points[..., None, None, 0]) ** 2
    away = away + (columns - points[..., None, None, 1]) ** 2
    nearest = away.argmin(axis=1).reshape(images, -1, 1)
    return np.take_along_axis(carried, nearest, axis=1).reshape(images, height, width, concepts)
