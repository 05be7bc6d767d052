"""Importance of concepts from what a network does when random sets of them are removed.

Pure functions of performances. A transformer makes up for any one missing concept, so concepts are
removed in random sets of, say, half of all: Kowal et al., "Understanding video transformers via
universal concept discovery" (VTCD, CVPR 2024). Both published estimators carry the noise of how
often a concept happened to be drawn; ridge regression on the sets does not [ours].
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from xplique_dirpairs.core.types import Array
from xplique_dirpairs.core.validation import check_choice

RIDGE, DIFFERENCE, PAPER, CODE = "ridge", "difference", "paper", "code"
ESTIMATORS = (RIDGE, DIFFERENCE, PAPER, CODE)
#: Penalties among which generalised cross-validation chooses, as shares of the largest eigenvalue.
_PENALTIES = np.logspace(-8, 2, 41)


class SetImportance(NamedTuple):
    """Importance of Q concepts, estimated from K random sets.

    Attributes
    ----------
    importance : ndarray of shape (Q,)
        How much each concept adds to the performance; for "paper" and "code" in their own units.
    standard_error : ndarray of shape (Q,)
        Standard error over the draw of the sets.
    estimator : str
        The estimator that was used.
    """

    importance: Array
    standard_error: Array
    estimator: str


def random_sets(
    number_of_concepts: int, subsets: int, fraction: float, rng: np.random.Generator
) -> Array:
    """Draw which concepts each of some random sets keeps.

    Parameters
    ----------
    number_of_concepts : int
        Number of concepts, Q.
    subsets : int
        Number of sets, K.
    fraction : float
        Share of the concepts that a set removes, in (0, 1): at least one, and not all.
    rng : numpy.random.Generator

    Returns
    -------
    kept : ndarray of shape (K, Q), bool
    """
    removed = min(max(1, round(fraction * number_of_concepts)), number_of_concepts - 1)
    order = np.argsort(rng.random((subsets, number_of_concepts)), axis=1)
    return np.asarray(order >= removed)


def set_importance(
    performances: ArrayLike, kept: ArrayLike, intact: float, estimator: str = RIDGE
) -> SetImportance:
    """Estimate how much each concept adds to the performance of a network.

    Parameters
    ----------
    performances : array-like of shape (K,)
        Performance with each of K sets of concepts removed.
    kept : array-like of shape (K, Q), bool
        Which of Q concepts each set keeps.
    intact : float
        Performance with all concepts, which the estimator "paper" needs.
    estimator : {"ridge", "difference", "paper", "code"}, default="ridge"
        "ridge": coefficients of a ridge regression of the performance on the centred indicators of
        what is kept; generalised cross-validation chooses the penalty. A constant is added to all
        of them so that they predict the intact performance: an inert concept has 0 where concepts
        add up. With K ≤ Q + 1 sets, "difference" is used instead. "difference": mean performance of
        the sets that keep a concept, less that of the others. "paper": mean of
        (intact − performance) · [removed], as in the paper of VTCD. "code": sum of performance ·
        [kept], as in its code.

    Returns
    -------
    result : SetImportance

    Raises
    ------
    ValueError
        If there is no such estimator, or shapes do not agree.
    """
    check_choice("estimator", estimator, ESTIMATORS)
    y, z = np.asarray(performances, np.float64), np.asarray(kept, bool)
    if z.ndim != 2 or y.shape != z.shape[:1] or len(y) < 2:
        raise ValueError(
            "performances (K,) must be one for each row of kept (K, Q), with at least 2 sets, not "
            f"of shapes {y.shape} and {z.shape}"
        )
    sets, concepts = z.shape
    if estimator == RIDGE and sets <= concepts + 1:
        estimator = DIFFERENCE
    if estimator == RIDGE:
        importance, errors = _ridge(y, z.astype(np.float64))
        # Sets of one size tell importances up to a constant; the intact network tells the constant.
        removed = 1.0 - z.mean(axis=0)
        missing = intact - float(y.mean()) - float(importance @ removed)
        shift = missing / removed.sum() if removed.any() else 0.0
        return SetImportance(importance + shift, errors, estimator)
    if estimator == DIFFERENCE:
        return SetImportance(*_difference(y, z), estimator)
    if estimator == PAPER:
        terms = (intact - y)[:, None] * ~z
        return SetImportance(terms.mean(axis=0), terms.std(axis=0) / np.sqrt(sets), estimator)
    terms = y[:, None] * z
    return SetImportance(terms.sum(axis=0), terms.std(axis=0) * np.sqrt(sets), estimator)


def _difference(y: Array, kept: Array) -> tuple[Array, Array]:
    """Return differences of means (Q,) and their standard errors."""
    means, variances = [], []
    for chosen in (kept, ~kept):
        count = chosen.sum(axis=0)
        safe = np.maximum(count, 1)
        mean = (y[:, None] * chosen).sum(axis=0) / safe
        squares = ((y[:, None] - mean) ** 2 * chosen).sum(axis=0)
        means.append(np.where(count > 0, mean, np.nan))
        variances.append(
            np.where(count > 1, squares / np.maximum(count - 1, 1) / safe, np.nan)
        )  # fmt: skip
    return means[0] - means[1], np.sqrt(variances[0] + variances[1])


def _ridge(y: Array, z: Array) -> tuple[Array, Array]:
    """Return ridge coefficients (Q,) and their standard errors over the draw of the sets."""
    sets = len(y)
    z, y = z - z.mean(axis=0), y - y.mean()
    eigenvalues, axes = np.linalg.eigh(z.T @ z)
    eigenvalues = np.maximum(eigenvalues, 0.0)
    along = axes.T @ (z.T @ y)
    # Indicators of sets of one size sum to a constant: that axis has no variance.
    varies = eigenvalues > 1e-9 * max(float(eigenvalues[-1]), 1e-300)
    explained = np.where(varies, along**2 / np.where(varies, eigenvalues, 1.0), 0.0)
    total = float(y @ y)
    best = (np.inf, 0.0)
    for share in _PENALTIES:
        penalty = share * float(eigenvalues[-1])
        kept = eigenvalues / (eigenvalues + penalty)
        left = total - float(((2.0 * kept - kept**2) * explained).sum())
        freedom = 1.0 - (1.0 + float(kept.sum())) / sets
        score = max(left, 0.0) / freedom**2 if freedom > 0 else np.inf
        best = min(best, (score, penalty))
    penalty = best[1] or 1e-12
    shrunk = np.where(varies, 1.0 / (eigenvalues + penalty), 0.0)
    kept = eigenvalues * shrunk
    coefficients = axes @ (shrunk * along)
    left = max(total - float(((2.0 * kept - kept**2) * explained).sum()), 0.0)
    variance = left / max(sets - 1.0 - float(kept.sum()), 1.0)
    errors = np.sqrt(variance * (axes**2 @ (shrunk**2 * eigenvalues)))
    return coefficients, errors


def removal_area(removed: ArrayLike, performance: ArrayLike) -> float:
    """Return the area under a removal curve, by trapezoids.

    Parameters
    ----------
    removed : array-like of shape (n,)
        Shares of the concepts that are removed, ascending from 0 to 1.
    performance : array-like of shape (n,)

    Returns
    -------
    area : float
    """
    x, y = np.asarray(removed, np.float64), np.asarray(performance, np.float64)
    return float(np.sum(np.diff(x) * (y[1:] + y[:-1]) / 2.0))
