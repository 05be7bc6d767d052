"""Operations on rows of vectors that several rooms need: lengths, matching, inverses."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike
from scipy.optimize import linear_sum_assignment

from xplique_dirpairs.core.types import Array

#: Index of the row matched with a column that has no partner.
UNMATCHED = -1
#: Ridge of the regularised inverse, relative to unit rows.
RIDGE = 1e-4


def unit_rows(rows: ArrayLike) -> Array:
    """Scale vectors along the last axis to unit length; a zero vector stays zero.

    Floating dtypes are kept.
    """
    vectors = np.asarray(rows)
    if vectors.dtype.kind != "f":
        vectors = vectors.astype(np.float64)
    lengths = np.linalg.norm(vectors, axis=-1, keepdims=True)
    unit: Array = np.divide(vectors, lengths, out=np.zeros_like(vectors), where=lengths > 0)
    return unit


def cosines(rows: ArrayLike, others: ArrayLike) -> Array:
    """Return the cosine of every row with every other row, (J, I); 0 for a zero vector."""
    return unit_rows(np.asarray(rows, np.float64)) @ unit_rows(np.asarray(others, np.float64)).T


def match(scores: ArrayLike) -> Array:
    """Match columns with rows one to one, so that the sum of scores is largest (Hungarian method).

    Parameters
    ----------
    scores : array-like of shape (J, I)
        Higher is better: IoU, cosine, …

    Returns
    -------
    matching : ndarray of shape (I,), int
        Row of each column; -1 where there are fewer rows than columns.
    """
    scores = np.asarray(scores)
    rows, columns = linear_sum_assignment(scores, maximize=True)
    matching = np.full(scores.shape[1], UNMATCHED)
    matching[columns] = rows
    return matching


def largest_entry_signs(rows: Array) -> Array:
    """Return ±1 for each row, (I, 1), that makes its entry of largest magnitude positive."""
    largest = np.take_along_axis(rows, np.abs(rows).argmax(axis=1)[:, None], axis=1)
    return np.where(largest < 0, -1.0, 1.0)


def regularised_inverse(gram: Array) -> Array:
    """Return (GᵀG + ridge)⁻¹Gᵀ, the pseudo-inverse with small singular values damped.

    Parameters
    ----------
    gram : ndarray of shape (..., I, I)
        Products of unit rows with unit rows, such as ŴᵀŜ.
    """
    transposed = np.swapaxes(gram, -1, -2)
    return np.linalg.solve(transposed @ gram + RIDGE * np.eye(gram.shape[-1]), transposed)


def principal_axes(covariance: Array) -> tuple[Array, Array]:
    """Return the principal axes of a covariance, as rows, and the variances along them.

    Parameters
    ----------
    covariance : ndarray of shape (D, D)

    Returns
    -------
    axes : ndarray of shape (D, D)
        Orthonormal rows, largest variance first. ``axes / sqrt(variances)[:, None]`` whitens.
    variances : ndarray of shape (D,)
        Rounding may leave those of no variance slightly negative.
    """
    variances, axes = np.linalg.eigh(covariance)
    return axes[:, ::-1].T, variances[::-1]
