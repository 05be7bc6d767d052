"""The synthetic reference experiment: features of known signals and distractors.

`synthetic_signals` is the synthetic experiment of Doumanoglou et al. (arXiv 2509.23926, Table 6).
There are two pixels per image, three concepts, and three classes of two concepts each; each pixel
has exactly one of the two concepts of its image. The Bayes classifier on the pooled signal values
has an accuracy of 92.5 %, which no network can exceed.

`signal_maps` draws features of the same form, x = Sα + Dβ + μ (+ noise), with the size of real
layers: many concepts, coherent maps, rare and overlapping concepts, and classes that prefer some.

Notation: N images, D channels, I concepts, F distractors. Rows are concepts or distractors, as
everywhere in this package; S and D of the paper are the transposes.
"""

from __future__ import annotations

from dataclasses import dataclass

import keras
import numpy as np
from numpy.typing import ArrayLike
from sklearn.linear_model import LogisticRegression

from xplique_dirpairs.core.types import Array
from xplique_dirpairs.core.validation import check_integer

#: Table 6: each row has the values of one channel in three signal vectors and two distractors.
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
#: Signal vectors (3, 16) and distractor vectors (2, 16) of the reference experiment.
TABLE6_SIGNALS, TABLE6_DISTRACTORS = _TABLE6[:, :3].T, _TABLE6[:, 3:].T

#: The two concepts of each class: a = {0, 1}, b = {0, 2}, c = {1, 2}.
CLASS_CONCEPTS = np.array([[0, 1], [0, 2], [1, 2]])

#: Ranges of the uniform signal values where a concept is present and absent, and of the uniform
#: distractor values; the constant μ of every channel.
PRESENT = (2.5, 5.0)
ABSENT = (0.0, 2.5)
DISTRACTOR = (0.0, 5.0)
OFFSET = 10.0

#: Odds of a concept in the classes that prefer it, relative to the other classes.
_PREFERRED = 4.0
#: Number of images whose features are computed at a time.
_CHUNK = 4096


@dataclass(frozen=True)
class SyntheticSignals:
    """Features x = Sα + Dβ + μ, and the ground truth that they were computed from.

    Attributes
    ----------
    features : ndarray of shape (N, H, W, D), float32
        The features x.
    labels : ndarray of shape (N,)
        Class of each image.
    masks : ndarray of shape (N, H, W, I), bool
        Whether a concept is present at a position.
    alpha : ndarray of shape (N, H, W, I), float32
        Signal values α.
    signals : ndarray of shape (I, D)
        The true signal vectors, of unit length.
    distractors : ndarray of shape (F, D)
        The distractor vectors, of unit length.
    """

    features: Array
    labels: Array
    masks: Array
    alpha: Array
    signals: Array
    distractors: Array


def check_directions(signals: ArrayLike, distractors: ArrayLike) -> tuple[Array, Array]:
    """Check the shapes of signal and distractor vectors.

    Parameters
    ----------
    signals : array-like of shape (I, D)
        Signal vectors of I concepts.
    distractors : array-like of shape (F, D)
        Distractor vectors.

    Returns
    -------
    signals : ndarray of shape (I, D), float64
        The signal vectors as an array.
    distractors : ndarray of shape (F, D), float64
        The distractor vectors as an array.

    Raises
    ------
    ValueError
        If an array is not two-dimensional, or the numbers of channels differ.
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
    """Draw signal and distractor vectors uniformly from the unit sphere.

    Parameters
    ----------
    seed : int
        Seed of all vectors.
    number_of_concepts : int, default=3
        Number of signal vectors, I.
    number_of_distractors : int, default=2
        Number of distractor vectors, F.
    channels : int, default=16
        Number of channels, D.
    cosine : float, default=0
        If not 0, signal vectors have a common component of length √cosine, so that the cosine of
        any two of them is about this value if there are many channels.

    Returns
    -------
    signals : ndarray of shape (I, D)
        Signal vectors of unit length.
    distractors : ndarray of shape (F, D)
        Distractor vectors of unit length.
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
    """Draw the reference experiment: three classes, two pixels per image, one concept per pixel.

    α ~ U(2.5, 5) if a concept is present and U(0, 2.5) otherwise; β ~ U(0, 5); μ = 10 in every
    channel.

    Parameters
    ----------
    images_per_class : int, default=1000
        Number of images of each of the three classes; N is three times this number.
    seed : int, default=0
        Seed of the signal values, the distractor values and the order of images and pixels.
    signals : array-like of shape (3, D), optional
        Signal vectors; by default those of Table 6 (D = 16).
    distractors : array-like of shape (F, D), optional
        Distractor vectors; by default those of Table 6 (F = 2).

    Returns
    -------
    data : SyntheticSignals
        Features of shape (N, 1, 2, D).

    Raises
    ------
    ValueError
        If ``images_per_class`` is not a positive integer, or the vectors have other shapes.
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
    """Draw feature maps of signals and distractors, with β ~ U(0, 5) and μ = 10 in every channel.

    Parameters
    ----------
    images : int
        Number of images, N.
    signals : array-like of shape (I, D)
        Signal vectors of unit length; see `random_directions`.
    distractors : array-like of shape (F, D)
        Distractor vectors of unit length.
    seed : int, default=0
        Seed of everything but the vectors: another seed gives new data of the same experiment.
    map_shape : tuple of (int, int), default=(1, 2)
        Height and width of the maps, H and W.
    patches : int, optional
        Number of regions of an image within which all positions have the same concepts. Regions are
        the Voronoi cells of random points. None: each position has its own concepts.
    concepts_per_pixel : int, default=1
        Number of concepts that are present at each position.
    classes : int, default=10
        Number of classes, K; more than I are reduced to I. In class k the odds of the concepts i
        with i mod K in {k, k + 1} are four times the odds of the other concepts (if K = 2, of the
        concepts with i mod K = k).
    zipf : float, default=0
        The odds of a concept are proportional to 1/rank^zipf. With 0 all concepts are equally
        frequent.
    present : tuple of (float, float), default=(2.5, 5)
        Range of the uniform α of a concept that is present.
    absent : tuple of (float, float), default=(0, 2.5)
        Range of the uniform α of a concept that is absent.
    noise : float, default=0
        Standard deviation of normal noise that is added to every channel.

    Returns
    -------
    data : SyntheticSignals
        Features of shape (N, H, W, D).

    Raises
    ------
    ValueError
        If a size is not a positive integer, ``concepts_per_pixel`` exceeds I, or the vectors do not
        have the same number of channels.
    """
    signals, distractors = check_directions(signals, distractors)
    concepts, channels = signals.shape
    sizes = {"images": images, "classes": classes, "patches": 1 if patches is None else patches}
    sizes |= {"map_shape": min(map_shape), "concepts_per_pixel": concepts_per_pixel}
    for name, size in sizes.items():
        check_integer(name, size)
    if concepts_per_pixel > concepts:
        raise ValueError(f"concepts_per_pixel must be at most {concepts}, not {concepts_per_pixel}")
    rng = np.random.default_rng(seed)
    classes = min(classes, concepts)
    labels = rng.integers(classes, size=images)
    kind = np.arange(concepts) % classes
    prefers = kind == labels[:, None]
    if classes > 2:  # with two classes, both would prefer every concept
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
    """Draw which concepts are present in each region of each image, (N, regions, I) bool.

    Row n of ``weights`` (N, I) has the odds of the concepts in image n.
    """
    # The k largest values of log w + Gumbel noise are k draws without replacement, with
    # probabilities proportional to w.
    keys = np.log(weights)[:, None]
    keys = keys + rng.gumbel(size=(len(weights), regions, weights.shape[1]))
    drawn = np.argpartition(-keys, concepts_per_region - 1, axis=-1)[..., :concepts_per_region]
    carried = np.zeros(keys.shape, bool)
    np.put_along_axis(carried, drawn, True, axis=-1)
    return carried


def _nearest_points(rng: np.random.Generator, images: int, points: int, shape: Array) -> Array:
    """Return the index of the random point that is nearest to each position, (N, H, W)."""
    places = rng.uniform(size=(images, points, 1, 1, 2)) * shape
    rows, columns = np.arange(shape[0]) + 0.5, np.arange(shape[1]) + 0.5
    away = (rows[:, None] - places[..., 0]) ** 2 + (columns - places[..., 1]) ** 2
    return np.asarray(away.argmin(axis=1))


def pooled_dense_head(features: ArrayLike, labels: ArrayLike) -> keras.Model:
    """Train the network of the reference experiment: average pooling and a dense layer.

    The problem is convex. It is therefore solved exactly, by multinomial logistic regression on the
    centred, pooled features, and the solution becomes the weights of the Keras layer. A weak ridge
    penalty prevents huge weights of channels that hardly vary.

    Parameters
    ----------
    features : array-like of shape (N, H, W, D)
        Feature maps of N images.
    labels : array-like of shape (N,)
        Classes 0 to K − 1, each with at least one image.

    Returns
    -------
    head : keras.Model
        Maps features of shape (n, H, W, D) to logits of shape (n, K).
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
