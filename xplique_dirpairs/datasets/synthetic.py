"""The synthetic reference experiment: signals, distractors, and what is known to be true of them.

Doumanoglou et al. (arXiv 2509.23926), synthetic experiment and Table 6. Two pixels per image, three
concepts, three classes of two concepts each; every pixel carries exactly one of its image's two
concepts. With those distributions the best rule that knows everything about the pooled signal
values is right 92.5 % of the time: no network can do better.

Notation: N images, D channels, I concepts, F distractors. Rows are concepts (or distractors), as
everywhere in this package; the paper's S and D are the transposes.
"""

from __future__ import annotations

from dataclasses import dataclass

import keras
import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.linear_model import LogisticRegression

from xplique_dirpairs.core.validation import check_integer

#: Signal vectors of the reference experiment, (3, 16).
TABLE6_SIGNALS = np.array(
    [
        [0.5396, 0.5914, 0.8122],
        [0.4415, 0.5833, 0.2983],
        [-0.1283, -0.1745, 0.4681],
        [-0.0093, -0.4899, 0.17],
        [0.59, -0.193, -0.0005],
        [-0.3718, -0.0051, 0.0229],
        [0.1051, 0.0467, -0.0524],
        [0.0003, -0.0103, 0.0056],
        [0.0063, 0.0037, -0.0021],
        [-0.0009, 0.0004, 0.001],
        [-0.0004, -0.0002, 0.0002],
        [0.0024, -0.0001, -0.0006],
        [0.0036, 0.0001, -0.0013],
        [-0.0007, 0.0, 0.0002],
        [0.0002, 0.0, 0.0],
        [-0.0001, 0.0, 0.0],
    ]
).T

#: Distractors of the reference experiment, (2, 16).
TABLE6_DISTRACTORS = np.array(
    [
        [0.7693, 0.7527],
        [-0.0396, -0.6147],
        [-0.6216, 0.1661],
        [0.1416, -0.1293],
        [-0.0123, 0.1065],
        [-0.007, -0.0042],
        [0.0022, 0.0003],
        [0.0014, 0.0007],
        [-0.0004, -0.0001],
        [0.0001, 0.0001],
        [0.0, 0.0],
        [0.0, 0.0],
        [0.0, 0.0],
        [0.0, 0.0],
        [0.0, 0.0],
        [0.0, 0.0],
    ]
).T

#: The two concepts of each class: a = {0, 1}, b = {0, 2}, c = {1, 2}.
CLASS_CONCEPTS = np.array([[0, 1], [0, 2], [1, 2]])

#: Ranges of the uniform distributions of signal and distractor values, and the constant μ.
PRESENT = (2.5, 5.0)
ABSENT = (0.0, 2.5)
DISTRACTOR = (0.0, 5.0)
OFFSET = 10.0


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

    features: NDArray
    labels: NDArray
    masks: NDArray
    alpha: NDArray
    signals: NDArray
    distractors: NDArray


def check_directions(signals: ArrayLike, distractors: ArrayLike) -> tuple[NDArray, NDArray]:
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
) -> tuple[NDArray, NDArray]:
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
