"""How much of the network's prediction the concepts alone explain: decode(encode(x)), no residual.

What is a quotient over the whole data set has two columns per image, whose means it divides (see
`summary.ratio_of_means`): so R² and completeness have values per image, too, and a bootstrap over
images draws both together.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from xplique_dirpairs.metrics.importance import ROUNDING
from xplique_dirpairs.metrics.manipulation import Reading, finite_float32
from xplique_dirpairs.metrics.predictions import agreement, correct, kl_bits, predicted


def reconstruction(
    reading: Reading, reconstructions: ArrayLike, labels: ArrayLike | None = None
) -> dict[str, NDArray]:
    """Fidelity of the reconstruction without the residual.

    The network sees it clipped to the layer's range, as it sees every manipulated feature;
    ``activation_r2`` is of the reconstruction as it is.

    Parameters
    ----------
    reading
        What the extractor reads in the images.
    reconstructions : (N, *S, D)
        decode(encode(x)), of any extractor.
    labels : (N,) int, optional
        True classes; 0 or 1 for a network with one sigmoid output, (N, K) of them for one with
        several. For completeness, which chance is taken off: 1/K under a softmax, ½ under sigmoids.

    Returns
    -------
    values : dict
        ``agreement`` (N,), ``kl`` (N,) in bits, ``logit_r2`` (N, 2), ``activation_r2`` (N, 2), and
        with labels ``completeness`` (N, 2).

    Raises
    ------
    ValueError
        If shapes do not fit, values are not finite, or labels are no classes.
    """
    rebuilt = finite_float32("reconstructions", reconstructions)
    if rebuilt.shape != reading.activations.shape:
        raise ValueError(
            f"reconstructions must be shaped as the activations, {reading.activations.shape}, but "
            f"have shape {rebuilt.shape}"
        )
    intact, kind = reading.intact_logits, reading.final_activation
    if labels is not None:
        labels = _checked_labels(labels, predicted(intact, kind), intact.shape[1], kind)
    logits = np.concatenate(
        [
            reading.logits(np.clip(rebuilt[rows], *reading.limits))
            for rows in reading.chunks(reading.number_of_images)
        ]
    )
    values = {
        "agreement": agreement(intact, logits, kind),
        "kl": kl_bits(intact, logits, kind),
        "logit_r2": explained_variance(intact, logits),
        "activation_r2": explained_variance(reading.activations, rebuilt),
    }
    if labels is not None:
        chance = 1.0 / intact.shape[1] if kind == "softmax" else 0.5
        values["completeness"] = completeness(
            correct(intact, labels, kind), correct(logits, labels, kind), chance
        )
    return values


def explained_variance(values: ArrayLike, predictions: ArrayLike) -> NDArray:
    """R² = 1 − Σ (v − v̂)² / Σ (v − v̄)², as two columns whose means it divides.

    v̄ is the mean of each feature over all images and positions: predicting it scores 0, a perfect
    prediction 1, and worse ones are below 0. A bootstrap over the columns keeps v̄ as it is.

    Parameters
    ----------
    values, predictions : (N, …, D)

    Returns
    -------
    columns : (N, 2)
        Variance explained, Σ (v − v̄)² − Σ (v − v̂)², and variance, Σ (v − v̄)², of each image.
        0 and 0 where nothing varies (to rounding): the ratio is undefined.
    """
    values, predictions = np.asarray(values), np.asarray(predictions)
    features = values.shape[-1]
    middle = values.reshape(-1, features).mean(axis=0, dtype=np.float64)
    columns, size = np.empty((len(values), 2)), 0.0
    for column, pair in zip(columns, zip(values, predictions, strict=True), strict=True):
        value, prediction = (each.astype(np.float64) for each in pair)  # one image at a time
        variance = np.square(value - middle).sum()
        column[:] = variance - np.square(value - prediction).sum(), variance
        size += np.square(value).sum()
    varies = columns[:, 1].sum() > ROUNDING**2 * size
    return columns if varies else np.zeros_like(columns)


def completeness(intact: ArrayLike, rebuilt: ArrayLike, chance: float) -> NDArray:
    """η = (accuracy of the reconstruction − chance) / (accuracy − chance), as two columns.

    C.-K. Yeh et al., "On completeness-aware concept-based explanations in deep neural networks",
    NeurIPS 2020, definition 3.1, with the extractor's own decoder for their learned map.

    Parameters
    ----------
    intact, rebuilt : (N,)
        Whether the network is right on the images, and on their reconstructions: 0 to 1.
    chance
        Accuracy of a random prediction.

    Returns
    -------
    columns : (N, 2)
        Numerator and denominator of each image; the ratio of their means is η: 0 at chance, 1 as
        accurate as the network, undefined where the network itself is not clearly above chance.
    """
    return np.stack([np.asarray(rebuilt), np.asarray(intact)], axis=1) - chance


def _checked_labels(labels: ArrayLike, predictions: NDArray, classes: int, kind: str) -> NDArray:
    labels = np.asarray(labels)
    if labels.shape == predictions.shape[:1] and classes == 1:
        labels = labels[:, None]
    if labels.shape != predictions.shape:
        raise ValueError(f"labels must have shape {predictions.shape}, not {labels.shape}")
    there_are = classes if kind == "softmax" else 2
    if not np.isin(labels, np.arange(there_are)).all():
        raise ValueError(f"labels must be whole numbers from 0 to {there_are - 1}")
    return labels
