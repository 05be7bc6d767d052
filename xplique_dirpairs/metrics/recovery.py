"""How well the truth is recovered, where the truth is known (method section 6).

Detectors and concepts need not be equally many: every true concept is matched to at most one
detector, every detector to at most one concept.

Shapes: ``(..., J)`` detectors found, ``(..., I)`` true concepts, the leading axes are the pixels.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import linear_sum_assignment

#: Marks a true concept for which no detector was left.
UNMATCHED = -1


@dataclass(frozen=True)
class Recovery:
    """What was recovered of each true concept, in the order of the true concepts.

    Attributes
    ----------
    matching : (I,)
        Index of the detector matched to each concept; −1 where none was left.
    iou_matrix : (J, I)
        IoU of every detector with every concept; higher is better on the matching only.
    iou : (I,)
        IoU of a concept with its detector, in [0, 1]; higher is better, 0 if unmatched.
    iou_others : (I,)
        Largest IoU of the matched detector with any other concept; lower is better.
    cosine : (I,)
        Cosine of true and found signal vector, signed, in [−1, 1]; higher is better.
    rmse : (I,)
        Of the signal values about their mean, in their own units; lower is better.
    """

    matching: NDArray
    iou_matrix: NDArray
    iou: NDArray
    iou_others: NDArray
    cosine: NDArray
    rmse: NDArray

    @property
    def overall_rmse(self) -> float:
        """RMSE over all pixels and concepts; NaN if a concept is unmatched."""
        return float(np.sqrt(np.mean(np.square(self.rmse))))


def detector_iou(detected: ArrayLike, masks: ArrayLike) -> NDArray:
    """Intersection over union of every detector with every true concept.

    Parameters
    ----------
    detected : (..., J), bool
    masks : (..., I), bool

    Returns
    -------
    iou : (J, I)
        In [0, 1], higher is better. A detector and a concept that are both never there have 0:
        a dead detector recovers nothing.

    Raises
    ------
    ValueError
        If the two are not about the same pixels, or hold values other than 0 and 1.
    """
    detected = _as_boolean(detected, "detections must be boolean: pairs.detect(x) > 0.5")
    masks = _as_boolean(masks, "masks must be boolean")
    _check_same_pixels("detected", detected, "masks", masks)
    detected = detected.reshape(-1, detected.shape[-1]).astype(np.float64)
    masks = masks.reshape(-1, masks.shape[-1]).astype(np.float64)
    intersection = detected.T @ masks
    union = detected.sum(axis=0)[:, None] + masks.sum(axis=0) - intersection
    return np.divide(intersection, union, out=np.zeros_like(intersection), where=union > 0)


def match_concepts(scores: ArrayLike) -> NDArray:
    """The one-to-one matching of detectors to concepts with the largest total score.

    Kuhn's Hungarian method.

    Parameters
    ----------
    scores : (J, I)
        Higher is better: IoU, cosine, …

    Returns
    -------
    matching : (I,)
        Index of the detector of each concept; −1 where there are fewer detectors than concepts.
    """
    scores = np.asarray(scores)
    detectors, concepts = linear_sum_assignment(scores, maximize=True)
    matching = np.full(scores.shape[1], UNMATCHED)
    matching[concepts] = detectors
    return matching


def signal_cosines(signals: ArrayLike, true_signals: ArrayLike) -> NDArray:
    """Cosine of every found signal vector with every true one.

    Parameters
    ----------
    signals : (J, D)
    true_signals : (I, D)

    Returns
    -------
    cosine : (J, I)
        In [−1, 1]. Signed: a mirrored signal vector is not a recovered one. 0 for a zero vector.
    """
    return _unit(signals) @ _unit(true_signals).T


def signal_value_rmse(signal_values: ArrayLike, alpha: ArrayLike) -> NDArray:
    """Root mean square error of each signal value about its mean.

    sqrt(E[(α̂ − (α − E[α]))²]): the mean of α is not to be had from features with an unknown
    offset.

    Parameters
    ----------
    signal_values : (..., I)
        α̂, as `DirectionPairs.signal_values` gives them.
    alpha : (..., I)
        The true ones, in the same order.

    Returns
    -------
    rmse : (I,)
        In units of α; lower is better. A constant 0 has the standard deviation of α.

    Raises
    ------
    ValueError
        If the shapes differ.
    """
    found, alpha = np.asarray(signal_values, np.float64), np.asarray(alpha, np.float64)
    if found.shape != alpha.shape:
        raise ValueError(
            f"signal_values and alpha must have one shape, not {found.shape} and {alpha.shape}"
        )
    pixels = tuple(range(alpha.ndim - 1))
    error = found - (alpha - alpha.mean(axis=pixels))
    return np.sqrt(np.mean(np.square(error), axis=pixels))


def recovery(
    *,
    detected: ArrayLike,
    masks: ArrayLike,
    signals: ArrayLike,
    true_signals: ArrayLike,
    signal_values: ArrayLike,
    alpha: ArrayLike,
) -> Recovery:
    """Match detectors to true concepts by IoU, and measure what was recovered of each concept.

    Parameters
    ----------
    detected : (..., J), bool
        Where each detector fires.
    masks : (..., I), bool
        Where each concept truly is.
    signals : (J, D)
        Signal vectors found.
    true_signals : (I, D)
    signal_values : (..., J)
        α̂, about their mean.
    alpha : (..., I)
        True signal values.

    Returns
    -------
    recovery

    Raises
    ------
    ValueError
        If the shapes do not fit each other, or detections or masks hold values other than 0 and 1.
    """
    signals, true_signals = np.asarray(signals), np.asarray(true_signals)
    signal_values, alpha = np.asarray(signal_values), np.asarray(alpha)
    _check_same_pixels("signal_values", signal_values, "alpha", alpha)
    iou_matrix = detector_iou(detected, masks)
    expected = {
        "signals": (len(signals), iou_matrix.shape[0]),
        "signal_values": (signal_values.shape[-1], iou_matrix.shape[0]),
        "true_signals": (len(true_signals), iou_matrix.shape[1]),
        "alpha": (alpha.shape[-1], iou_matrix.shape[1]),
    }
    for name, (came, wanted) in expected.items():
        if came != wanted:
            raise ValueError(f"{name} must be about {wanted} directions, not {came}")

    matching = match_concepts(iou_matrix)
    concepts = np.flatnonzero(matching != UNMATCHED)
    detectors = matching[concepts]
    others = iou_matrix[detectors].copy()
    others[np.arange(len(concepts)), concepts] = 0.0

    def per_concept(values: NDArray, missing: float) -> NDArray:
        result = np.full(len(matching), missing)
        result[concepts] = values
        return result

    return Recovery(
        matching=matching,
        iou_matrix=iou_matrix,
        iou=per_concept(iou_matrix[detectors, concepts], 0.0),
        iou_others=per_concept(others.max(axis=1), 0.0),
        cosine=per_concept(signal_cosines(signals, true_signals)[detectors, concepts], 0.0),
        rmse=per_concept(
            signal_value_rmse(signal_values[..., detectors], alpha[..., concepts]), np.nan
        ),
    )


def _as_boolean(values: ArrayLike, wanted: str) -> NDArray:
    """A probability of 0.01 would count as true."""
    array = np.asarray(values)
    if array.dtype != bool and not np.isin(array, (0, 1)).all():
        raise ValueError(f"{wanted}, not {array.dtype} with values other than 0 and 1")
    return array.astype(bool)


def _unit(vectors: ArrayLike) -> NDArray:
    vectors = np.asarray(vectors, dtype=np.float64)
    lengths = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return np.divide(vectors, lengths, out=np.zeros_like(vectors), where=lengths > 0)


def _check_same_pixels(name: str, array: NDArray, other_name: str, other: NDArray) -> None:
    if array.shape[:-1] != other.shape[:-1]:
        raise ValueError(
            f"{name} and {other_name} must be about the same pixels, but have shapes "
            f"{array.shape} and {other.shape}"
        )
