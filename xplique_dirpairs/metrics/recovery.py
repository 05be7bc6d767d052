"""How well true concepts are recovered, where they are known (method section 6).

The numbers of detectors and concepts may differ: every true concept is matched to at most one
detector, every detector to at most one concept.

Shapes: ``(..., J)`` detectors, ``(..., I)`` true concepts; the leading axes are the pixels.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from xplique_dirpairs.core.linear_algebra import UNMATCHED, cosines, match
from xplique_dirpairs.core.types import Array


@dataclass(frozen=True)
class Recovery:
    """Figures of each true concept, in the order of the true concepts.

    Attributes
    ----------
    matching : ndarray of shape (I,)
        Index of the detector matched to each concept; −1 for none.
    iou_matrix : ndarray of shape (J, I)
        IoU of every detector with every concept; higher is better on the matching only.
    iou : ndarray of shape (I,)
        IoU of a concept with its detector, in [0, 1]; higher is better, 0 if unmatched.
    iou_others : ndarray of shape (I,)
        Largest IoU of the matched detector with any other concept; lower is better.
    cosine : ndarray of shape (I,)
        Cosine of true and learned signal vector, signed, in [−1, 1]; higher is better: a mirrored
        signal vector does not recover the true one.
    rmse : ndarray of shape (I,)
        Of the signal values about their mean, in their own units; lower is better.
    """

    matching: Array
    iou_matrix: Array
    iou: Array
    iou_others: Array
    cosine: Array
    rmse: Array

    @property
    def overall_rmse(self) -> float:
        """RMSE over all pixels and concepts; NaN if a concept is unmatched."""
        return float(np.sqrt(np.mean(np.square(self.rmse))))


def detector_iou(detected: ArrayLike, masks: ArrayLike) -> Array:
    """Compute the intersection over union of every detector with every true concept.

    Parameters
    ----------
    detected : ndarray of shape (..., J), bool
    masks : ndarray of shape (..., I), bool

    Returns
    -------
    iou : ndarray of shape (J, I)
        In [0, 1], higher is better. 0 where both are nowhere: a dead detector recovers nothing.

    Raises
    ------
    ValueError
        If they hold values other than 0 and 1.
    """
    detected = _as_boolean(detected, "detections must be boolean: pairs.detect(x) > 0.5")
    masks = _as_boolean(masks, "masks must be boolean")
    detected = detected.reshape(-1, detected.shape[-1]).astype(np.float64)
    masks = masks.reshape(-1, masks.shape[-1]).astype(np.float64)
    intersection = detected.T @ masks
    union = detected.sum(axis=0)[:, None] + masks.sum(axis=0) - intersection
    iou: Array = np.divide(intersection, union, out=np.zeros_like(intersection), where=union > 0)
    return iou


def signal_value_rmse(signal_values: ArrayLike, alpha: ArrayLike) -> Array:
    """Compute the root mean square error of each signal value about its mean.

    sqrt(E[(α̂ − (α − E[α]))²]): the mean of α cannot be read from features with an unknown offset.

    Parameters
    ----------
    signal_values : ndarray of shape (..., I)
        α̂, as `DirectionPairs.signal_values` gives them.
    alpha : ndarray of shape (..., I)
        The true ones, in the same order.

    Returns
    -------
    rmse : ndarray of shape (I,)
        In units of α; lower is better. A constant 0 has the standard deviation of α.
    """
    values, alpha = np.asarray(signal_values, np.float64), np.asarray(alpha, np.float64)
    pixels = tuple(range(alpha.ndim - 1))
    error = values - (alpha - alpha.mean(axis=pixels))
    return np.asarray(np.sqrt(np.mean(np.square(error), axis=pixels)))


def recovery(
    *,
    detected: ArrayLike,
    masks: ArrayLike,
    signals: ArrayLike,
    true_signals: ArrayLike,
    signal_values: ArrayLike,
    alpha: ArrayLike,
) -> Recovery:
    """Match detectors to true concepts by IoU, and measure how well each concept is recovered.

    Parameters
    ----------
    detected : ndarray of shape (..., J), bool
        Where each detector fires.
    masks : ndarray of shape (..., I), bool
        Where each concept truly is.
    signals : ndarray of shape (J, D)
        Learned signal vectors.
    true_signals : ndarray of shape (I, D)
    signal_values : ndarray of shape (..., J)
        α̂, about their mean.
    alpha : ndarray of shape (..., I)
        True signal values.

    Returns
    -------
    recovery : Recovery

    Raises
    ------
    ValueError
        If detections or masks hold values other than 0 and 1.
    """
    signals, true_signals = np.asarray(signals), np.asarray(true_signals)
    signal_values, alpha = np.asarray(signal_values), np.asarray(alpha)
    iou_matrix = detector_iou(detected, masks)
    matching = match(iou_matrix)
    concepts = np.flatnonzero(matching != UNMATCHED)
    detectors = matching[concepts]
    others = iou_matrix[detectors].copy()
    others[np.arange(len(concepts)), concepts] = 0.0

    def per_concept(values: Array, missing: float) -> Array:
        result = np.full(len(matching), missing)
        result[concepts] = values
        return result

    return Recovery(
        matching=matching,
        iou_matrix=iou_matrix,
        iou=per_concept(iou_matrix[detectors, concepts], 0.0),
        iou_others=per_concept(others.max(axis=1), 0.0),
        cosine=per_concept(cosines(signals, true_signals)[detectors, concepts], 0.0),
        rmse=per_concept(
            signal_value_rmse(signal_values[..., detectors], alpha[..., concepts]), np.nan
        ),
    )


def _as_boolean(values: ArrayLike, wanted: str) -> Array:
    """Return values as bool; refuse probabilities, since 0.01 would count as true."""
    array = np.asarray(values)
    if array.dtype != bool and not np.isin(array, (0, 1)).all():
        raise ValueError(f"{wanted}, not {array.dtype} with values other than 0 and 1")
    return array.astype(bool)
