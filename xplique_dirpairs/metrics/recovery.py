"""How well true concepts are recovered, for data in which they are known.

`recovery` is for signals and signal values, `dictionary_recovery` for the atoms of a planted sparse
dictionary. The numbers of detectors and concepts may differ: every true concept is matched to at
most one detector, and every detector to at most one concept.

Shapes: ``(..., J)`` for J detectors and ``(..., I)`` for I true concepts; the leading axes are the
pixels. Directions have D channels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import ArrayLike

from xplique_dirpairs.core.linear_algebra import UNMATCHED, cosines, match
from xplique_dirpairs.core.types import Array
from xplique_dirpairs.metrics.dictionary import dictionary_stability
from xplique_dirpairs.metrics.universality import phi_of_counts

#: Least cosine of a direction with the atom that it has found.
FOUND = 0.95


@dataclass(frozen=True)
class Recovery:
    """How well each true concept is recovered.

    Attributes
    ----------
    matching : ndarray of shape (I,), int
        Index of the detector matched to each concept; −1 if there is none.
    iou_matrix : ndarray of shape (J, I)
        IoU of every detector with every concept; higher is better for matched pairs only.
    iou : ndarray of shape (I,)
        IoU of each concept with its detector, in [0, 1]; higher is better, 0 if unmatched.
    iou_others : ndarray of shape (I,)
        Largest IoU of the matched detector with any other concept; lower is better, 0 if unmatched.
    cosine : ndarray of shape (I,)
        Signed cosine between the true and the learned signal vector, in [−1, 1]; higher is better,
        since a mirrored signal vector does not recover the true one. 0 if unmatched.
    rmse : ndarray of shape (I,)
        Root mean square error of the signal values about their mean, in units of the signal values;
        lower is better, NaN if unmatched.
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
        Where each detector fires.
    masks : ndarray of shape (..., I), bool
        Where each concept truly is.

    Returns
    -------
    iou : ndarray of shape (J, I)
        Values in [0, 1], higher is better. The IoU is 0 if the detector never fires and the concept
        never occurs, because a dead detector recovers nothing.

    Raises
    ------
    ValueError
        If detections or masks hold values other than 0 and 1.
    """
    detected = _as_boolean(detected, "detections must be boolean, as pairs.detect(x) > 0.5 is")
    masks = _as_boolean(masks, "masks must be boolean")
    detected = detected.reshape(-1, detected.shape[-1]).astype(np.float64)
    masks = masks.reshape(-1, masks.shape[-1]).astype(np.float64)
    intersection = detected.T @ masks
    union = detected.sum(axis=0)[:, None] + masks.sum(axis=0) - intersection
    iou: Array = np.divide(intersection, union, out=np.zeros_like(intersection), where=union > 0)
    return iou


def signal_value_rmse(signal_values: ArrayLike, alpha: ArrayLike) -> Array:
    """Compute the root mean square error of each signal value about its mean.

    The error is sqrt(E[(α̂ − (α − E[α]))²]), because the mean of α cannot be determined from
    features with an unknown offset.

    Parameters
    ----------
    signal_values : ndarray of shape (..., I)
        Signal values α̂, as `DirectionPairs.signal_values` returns them.
    alpha : ndarray of shape (..., I)
        True signal values α, in the same order.

    Returns
    -------
    rmse : ndarray of shape (I,)
        Errors in units of α; lower is better. That of α̂ = 0 is the standard deviation of α.
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
        True signal vectors.
    signal_values : ndarray of shape (..., J)
        Learned signal values α̂, about their mean.
    alpha : ndarray of shape (..., I)
        True signal values α.

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
        """Return the values of the matched concepts, and ``missing`` for the others, (I,)."""
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


class Truth(Protocol):
    """The true dictionary, such as a `datasets.planted_dictionary.PlantedDictionary`.

    ``atoms`` has shape (I, D); ``present``, of shape (..., I), says where each atom is on.
    """

    @property
    def atoms(self) -> Array:
        """Return the true directions, (I, D)."""

    @property
    def present(self) -> Array:
        """Return where each atom is on, (..., I) bool."""


@dataclass(frozen=True)
class DictionaryRecovery:
    """How well the atoms of a dictionary are recovered by J concepts.

    φ is the correlation of two binary variables; 0 for a variable that does not vary.

    Attributes
    ----------
    share : float
        Share of the atoms whose concept has a (signed) cosine of 0.95 or more, after one-to-one
        matching by cosine, in [0, 1]; higher is better.
    phi : float
        Mean φ of atoms and detections after one-to-one matching by φ, 0 for an atom without a
        concept, in [−1, 1]; higher is better.
    mcc : float
        Mean |cosine| of the min(J, I) pairs of concepts and atoms, matched one to one, in [0, 1];
        higher is better.
    uniqueness : float
        Number of different atoms among the best atoms of the concepts, divided by J, in (0, 1]; 1
        if no two concepts have the same. The best atom of a concept has the largest |cosine|.
    precision, recall, f1 : float
        Means over the concepts of how well each one's detections agree with its best atom, in
        [0, 1]; higher is better. 0 where undefined, as for a concept that never fires.
    l0 : float
        Mean number of detections at a position, in [0, J].
    dead : int
        Number of concepts that never fire.
    """

    share: float
    phi: float
    mcc: float
    uniqueness: float
    precision: float
    recall: float
    f1: float
    l0: float
    dead: int


def dictionary_recovery(
    directions: ArrayLike, detections: ArrayLike, truth: Truth
) -> DictionaryRecovery:
    """Measure how well learned concepts recover the atoms of a planted dictionary.

    ``mcc``, ``uniqueness``, ``precision``, ``recall``, ``f1``, ``l0`` and ``dead`` are defined as
    in SynthSAEBench (arXiv 2602.14687; sae-lens 6.54).

    Parameters
    ----------
    directions : array-like of shape (J, D)
        Learned directions: encoding directions of pairs, atoms of another dictionary.
    detections : array-like of shape (..., J), bool
        Where each concept fires, at the positions of the truth.
    truth : PlantedDictionary
        The true dictionary, or any other object with ``atoms`` (I, D) and ``present`` (..., I).

    Returns
    -------
    recovery : DictionaryRecovery

    Raises
    ------
    ValueError
        If detections or the truth hold values other than 0 and 1, or the shapes do not belong
        together.
    """
    detected = _as_boolean(
        detections, "detections must be boolean, as pairs.detect(x) > 0.5 or codes != 0 are"
    )
    present = _as_boolean(truth.present, "truth.present must be boolean")
    directions, atoms = np.asarray(directions, np.float64), np.asarray(truth.atoms, np.float64)
    fits = directions.ndim == 2 and len(directions) and directions.shape[1] == atoms.shape[1]
    if not fits or detected.shape != (*present.shape[:-1], len(directions)):
        raise ValueError(
            "directions must have shape (J, D) and detections (..., J), for atoms (I, D) and truth "
            f"(..., I), not {directions.shape} and {detected.shape} for {atoms.shape} and "
            f"{present.shape}"
        )
    detected = detected.reshape(-1, len(directions)).astype(np.float64)
    present = present.reshape(-1, len(atoms)).astype(np.float64)
    both, fires, is_on = detected.T @ present, detected.sum(axis=0), present.sum(axis=0)
    similarity = cosines(directions, atoms)
    best = np.abs(similarity).argmax(axis=1)
    hits = both[np.arange(len(best)), best]
    precision, recall = _ratio(hits, fires), _ratio(hits, is_on[best])
    phi = phi_of_counts(both, fires[:, None], is_on, len(detected))
    return DictionaryRecovery(
        share=float(np.sum(_matched(similarity) >= FOUND) / len(atoms)),
        phi=float(np.sum(_matched(phi)) / len(atoms)),
        mcc=dictionary_stability(directions, atoms),
        uniqueness=len(np.unique(best)) / len(best),
        precision=float(precision.mean()),
        recall=float(recall.mean()),
        f1=float(_ratio(2.0 * precision * recall, precision + recall).mean()),
        l0=float(fires.sum() / len(detected)),
        dead=int(np.sum(fires == 0)),
    )


def _matched(scores: Array) -> Array:
    """Return the scores of the pairs of rows and columns, matched one to one, (min(J, I),)."""
    matching = match(scores)
    columns = np.flatnonzero(matching != UNMATCHED)
    return np.asarray(scores[matching[columns], columns])


def _ratio(numerator: Array, denominator: Array) -> Array:
    """Return a quotient, which is 0 where the denominator is."""
    return np.divide(numerator, denominator, out=np.zeros_like(numerator), where=denominator > 0)


def _as_boolean(values: ArrayLike, wanted: str) -> Array:
    """Return values as bool; refuse probabilities, because 0.01 would count as true."""
    array = np.asarray(values)
    if array.dtype != bool and not np.isin(array, (0, 1)).all():
        raise ValueError(f"{wanted}, not {array.dtype} with values other than 0 and 1")
    return array.astype(bool)
