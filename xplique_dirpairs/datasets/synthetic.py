"""The synthetic reference experiment: signals, distractors, and what is known to be true of them.

Doumanoglou et al. (arXiv 2509.23926), synthetic experiment and Table 6. Two pixels per image, three
concepts, three classes of two concepts each; every pixel carries exactly one of its image's two
concepts. With those distributions the best rule that knows everything about the pooled signal
values is right 92.5 % of the time: no network can do better.

`signal_maps` draws the same features, x = Sα + Dβ + μ (+ noise), at the size of real layers: many
concepts, coherent maps, rare and overlapping concepts, and classes that prefer some of them.

Notation: N images, D channels, I concepts, F distractors. Rows are concepts (or distractors), as
everywhere in this package; the paper's S and D are the transposes.
"""

from __future__ import annotations

from dataclasses import dataclass

import keras
import numpy as np
from numpy.typing import ArrayLike
from sklearn.linear_model import LogisticRegression

from xplique_dirpairs.core.types import Array
from xplique_dirpairs.core.validation import check_integer

#: Rows of Table 6: one channel in three signal vectors and two distractors.
_TABLE6 = np.array(
    [
        [0.5396, 0.5914, 0.8122, 0.7693, 0.7527],
        [0.4415, 0.5833, 0.2983, -0.0396, -0.6147],
        [-0.1283, -0.1745, 0.4681, -0.6216, 0.1661],
        [-0.0093, -0.4899, 0.17, 0.1416, -0.1293],
        [0.59, -0.193, -0.0005, -0.0123, 0.1065],
        [-0.3718, -0.0051, 0.0229, -0.007, -0.0042],
        [0.1051, 0.0467, -0.0524, 0.0022, 0.0003],
        [0.0003, -0.0103, 0.0056, 0.0014, 0.0007],
        [0.0063, 0.0037, -0.0021, -0.0004, -0.0001],
        [-0.0009, 0.0004, 0.001, 0.0001, 0.0001],
        [-0.0004, -0.0002, 0.0002, 0.0, 0.0],
        [0.0024, -0.0001, -0.0006, 0.0, 0.0],
        [0.0036, 0.0001, -0.0013, 0.0, 0.0],
        [-0.0007, 0.0, 0.0002, 0.0, 0.0],
        [0.0002, 0.0, 0.0, 0.0, 0.0],
        [-0.0001, 0.0, 0.0, 0.0, 0.0],
    ]
)
#: Signal vectors (3, 16) and distractors (2, 16) of the reference experiment.
TABLE6_SIGNALS, TABLE6_DISTRACTORS = _TABLE6[:, :3].T, _TABLE6[:, 3:].T

#: The two concepts of each class: a = {0, 1}, b = {0, 2}, c = {1, 2}.
CLASS_CONCEPTS = np.array([[0, 1], [0, 2], [1, 2]])

#: Ranges of the uniform distributions of signal and distractor values, and the constant μ.
PRESENT = (2.5, 5.0)
ABSENT = (0.0, 2.5)
DISTRACTOR = (0.0, 5.0)
OFFSET = 10.0

#: How much more often a concept is seen in the two classes that prefer it.
_PREFERRED = 4.0
#: Images whose features are computed at a time.
_CHUNK = 4096


@dataclass(frozen=True)
class SyntheticSignals:
    """Features x = Sα + Dβ + μ, and everything they were made from.

    Attributes
    ----------
    features : ndarray of shape (N, H, W, D), float32
    labels : ndarray of shape (N,)
        Class of each image.
    masks : ndarray of shape (N, H, W, I), bool
        Which position carries which concept.
    alpha : ndarray of shape (N, H, W, I), float32
        Signal values.
    signals : ndarray of shape (I, D)
        Unit rows: the true signal vectors, columns of S.
    distractors : ndarray of shape (F, D)
        Unit rows, columns of D.
    """

    features: Array
    labels: Array
    masks: Array
    alpha: Array
    signals: Array
    distractors: Array


def check_directions(signals: ArrayLike, distractors: ArrayLike) -> tuple[Array, Array]:
    """Return signal vectors (I, D) and distractors (F, D) as float64.

    Raises
    ------
    ValueError
        If they have other shapes, or their channels differ.
    """
    signals = np.asarray(signals, dtype=np.float64)
    distractors = np.asarray(distractors, dtype=np.float64)
    if signals.ndim != 2 or distractors.ndim != 2 or signals.shape[1] != distractors.shape[1]:
        raise ValueError(
            "signals must have shape (I, D) and distractors (F, D), not "
            f"{signals.shape} and {distractors.shape}"
        )
    return signals, distractors


def random_directions(
    seed: int,
    number_of_concepts: int = 3,
    number_of_distractors: int = 2,
    channels: int = 16,
    cosine: float = 0.0,
) -> tuple[Array, Array]:
    """Draw unit signal vectors (I, D) and distractors (F, D), uniform on the sphere.

    With ``cosine``, signal vectors share a component of length √cosine: in many channels every two
    of them have about that cosine.
    """
    rng = np.random.default_rng(seed)
    directions = rng.normal(size=(number_of_concepts + number_of_distractors, channels))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    if cosine:
        common = rng.normal(size=channels)
        common *= np.sqrt(cosine) / np.linalg.norm(common)
        signals = common + np.sqrt(1.0 - cosine) * directions[:number_of_concepts]
        signals /= np.linalg.norm(signals, axis=1, keepdims=True)
        directions[:number_of_concepts] = signals
    return directions[:number_of_concepts], directions[number_of_concepts:]


def synthetic_signals(
    images_per_class: int = 1000,
    seed: int = 0,
    signals: ArrayLike | None = None,
    distractors: ArrayLike | None = None,
) -> SyntheticSignals:
    """Draw the reference experiment: three classes, two pixels an image, one concept a pixel.

    α ~ U(2.5, 5) where a concept is present, U(0, 2.5) where it is not; β ~ U(0, 5); +10 on every
    dimension.

    Parameters
    ----------
    images_per_class : int, default=1000
        N is three times as many.
    seed : int, default=0
        Of the signal values, the distractor values and the order of images and pixels.
    signals : array-like of shape (3, D), optional
        Rows are signal vectors; by default those of Table 6 (D = 16).
    distractors : array-like of shape (F, D), optional
        By default those of Table 6 (F = 2).

    Returns
    -------
    data : SyntheticSignals
        Features of shape (N, 1, 2, D).

    Raises
    ------
    ValueError
        If there is no image, or the directions have other shapes.
    """
    signals, distractors = check_directions(
        TABLE6_SIGNALS if signals is None else signals,
        TABLE6_DISTRACTORS if distractors is None else distractors,
    )
    concepts = int(CLASS_CONCEPTS.max()) + 1
    if len(signals) != concepts:
        raise ValueError(f"signals must have shape ({concepts}, D), not {signals.shape}")
    check_integer("images_per_class", images_per_class)

    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.repeat(np.arange(len(CLASS_CONCEPTS)), images_per_class))
    concept_of_pixel = rng.permuted(CLASS_CONCEPTS[labels], axis=1)
    masks = np.eye(concepts, dtype=bool)[concept_of_pixel]
    alpha = np.where(
        masks, rng.uniform(*PRESENT, size=masks.shape), rng.uniform(*ABSENT, size=masks.shape)
    )
    beta = rng.uniform(*DISTRACTOR, size=(*masks.shape[:2], len(distractors)))
    features = alpha @ signals + beta @ distractors + OFFSET
    return SyntheticSignals(
        features=features[:, None].astype(np.float32),
        labels=labels,
        masks=masks[:, None],
        alpha=alpha[:, None].astype(np.float32),
        signals=signals,
        distractors=distractors,
    )


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
    kind = np.arange(concepts) % classes
    prefers = kind == labels[:, None]
    if classes > 2:  # with two, every class would prefer every concept
        prefers |= kind == (labels[:, None] + 1) % classes
    weights = np.where(prefers, _PREFERRED, 1.0) / np.arange(1, concepts + 1) ** zipf
    regions = map_shape[0] * map_shape[1] if patches is None else patches
    masks = _carried(rng, weights, regions, concepts_per_pixel)
    if patches is not None:
        nearest = _nearest_points(rng, images, patches, np.array(map_shape))
        masks = np.take_along_axis(masks, nearest.reshape(images, -1, 1), axis=1)
    masks = masks.reshape(images, *map_shape, concepts)
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


def _carried(
    rng: np.random.Generator, weights: Array, regions: int, concepts_per_region: int
) -> Array:
    """Draw which region of each image carries which concepts, (N, regions, I) bool.

    The odds of the concepts in an image are its row of ``weights`` (N, I).
    """
    # The largest of log w + Gumbel noise are draws without replacement in proportion to w.
    keys = np.log(weights)[:, None]
    keys = keys + rng.gumbel(size=(len(weights), regions, weights.shape[1]))
    drawn = np.argpartition(-keys, concepts_per_region - 1, axis=-1)[..., :concepts_per_region]
    carried = np.zeros(keys.shape, bool)
    np.put_along_axis(carried, drawn, True, axis=-1)
    return carried


def _nearest_points(rng: np.random.Generator, images: int, points: int, shape: Array) -> Array:
    """Return which of an image's random points is nearest to each position, (N, H, W)."""
    places = rng.uniform(size=(images, points, 1, 1, 2)) * shape
    rows, columns = np.arange(shape[0]) + 0.5, np.arange(shape[1]) + 0.5
    away = (rows[:, None] - places[..., 0]) ** 2 + (columns - places[..., 1]) ** 2
    return np.asarray(away.argmin(axis=1))


def pooled_dense_head(features: ArrayLike, labels: ArrayLike) -> keras.Model:
    """Train the network of the reference experiment, average pool and dense, on the features.

    The problem is convex, so it is solved to its optimum (multinomial logistic regression with a
    light ridge, on centred features: channels that hardly vary must not get huge weights) and the
    solution becomes the weights of the Keras layer.

    Parameters
    ----------
    features : array-like of shape (N, H, W, D)
    labels : array-like of shape (N,)
        Classes 0 … K − 1, each with at least one image.

    Returns
    -------
    head : keras.Model
        Feature maps (n, H, W, D) to logits (n, K).
    """
    features, labels = np.asarray(features), np.asarray(labels)
    pooled = features.mean(axis=(1, 2), dtype=np.float64)
    centre = pooled.mean(axis=0)
    fitted = LogisticRegression(max_iter=2000).fit(pooled - centre, labels)
    weights, offsets = fitted.coef_, fitted.intercept_
    if len(weights) == 1:  # scikit-learn keeps one row for two classes
        weights, offsets = np.stack([-weights[0], weights[0]]) / 2, np.array([-1, 1]) * offsets / 2

    inputs = keras.Input(features.shape[1:])
    logits = keras.layers.Dense(len(weights), name="logits")
    head = keras.Model(inputs, logits(keras.layers.GlobalAveragePooling2D()(inputs)), name="head")
    logits.set_weights([weights.T, offsets - weights @ centre])
    return head
