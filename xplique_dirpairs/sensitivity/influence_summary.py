"""The paper's figures of influence: counts of the significant pairs, and S³."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from xplique_dirpairs.core.types import Array
from xplique_dirpairs.core.validation import check_fraction


class InfluenceSummary(NamedTuple):
    """Counts of significant pairs of a direction and a class.

    They are those of Doumanoglou et al., arXiv 2509.23926, Table 8. A direction helps a class if
    its influence on the class is significant and above 0, and hurts the class if it is significant
    and below 0.

    Attributes
    ----------
    sdc : int
        Number of directions significant for at least one class.
    scdp : int
        Number of significant pairs of class and direction.
    positive_directions : int
        Number of directions that help at least one class.
    negative_directions : int
        Number of directions that hurt at least one class.
    positive_per_class : float
        Number of directions that help a class, mean over the classes with images; NaN if no class
        has images.
    negative_per_class : float
        Number of directions that hurt a class, mean over the classes with images; NaN if no class
        has images.
    most_helped : int
        Largest number of classes that one direction helps.
    most_hurt : int
        Largest number of classes that one direction hurts.
    classes_helped : int
        Number of classes that at least one direction helps.
    classes_hurt : int
        Number of classes that at least one direction hurts.
    """

    sdc: int
    scdp: int
    positive_directions: int
    negative_directions: int
    positive_per_class: float
    negative_per_class: float
    most_helped: int
    most_hurt: int
    classes_helped: int
    classes_hurt: int


def summarise_influence(scores: ArrayLike, significant: ArrayLike) -> InfluenceSummary:
    """Count the significant influences by direction and by class.

    Parameters
    ----------
    scores : array-like of shape (I, K)
        SC or other signed influences; a column of NaN is a class without images, which is not
        counted.
    significant : array-like of shape (I, K), bool
        Which entries are significant.

    Returns
    -------
    summary : InfluenceSummary

    Raises
    ------
    ValueError
        If the two have different shapes.
    """
    scores, marked = _matrix("scores", scores), np.asarray(significant, bool)
    if marked.shape != scores.shape:
        raise ValueError(
            f"significant must have the shape of the scores, {scores.shape}, not {marked.shape}"
        )
    defined = ~np.isnan(scores)
    marked = marked & defined
    classes = int(defined.any(axis=0).sum()) or np.nan
    helps, hurts = marked & (scores > 0), marked & (scores < 0)
    return InfluenceSummary(
        sdc=int(marked.any(axis=1).sum()),
        scdp=int(marked.sum()),
        positive_directions=int(helps.any(axis=1).sum()),
        negative_directions=int(hurts.any(axis=1).sum()),
        positive_per_class=int(helps.sum()) / classes,
        negative_per_class=int(hurts.sum()) / classes,
        most_helped=int(helps.sum(axis=1).max(initial=0)),
        most_hurt=int(hurts.sum(axis=1).max(initial=0)),
        classes_helped=int(helps.any(axis=0).sum()),
        classes_hurt=int(hurts.any(axis=0).sum()),
    )


# ------------------------------------------------------------ S³


def s3(scores: ArrayLike, labels: ArrayLike, reference: ArrayLike, level: float = 0.05) -> float:
    """Compute S³, which tells how often a Pattern-CAV is more influential than signal vectors.

    S³ = E_{l,k}[1(p_{l,k} < θ/N_l)] over labels l and classes k, where p is the share of the N_l
    directions of a label that are at least as influential as the label's Pattern-CAV:

        p_{l,k} = (1/N_l) Σ_{j labelled l} 1(|SC_{j,k}| ≥ |SC_{PatternCAV(l),k}|)

    Below 0.5 the signal vectors are more often the more influential ones (Doumanoglou et al.,
    arXiv 2509.23926, report 0.37–0.38).

    Parameters
    ----------
    scores : array-like of shape (I, K)
        SC of the signal vectors.
    labels : array-like of shape (I,), int
        Label of each direction, as the index of a row of ``reference``; −1 for no label.
    reference : array-like of shape (L, K)
        SC of the Pattern-CAV of each of L labels; a row of NaN for a label without one.
    level : float, default=0.05
        Level of significance θ, in (0, 1).

    Returns
    -------
    s3 : float
        Mean in [0, 1] over the labels with a direction and a Pattern-CAV and the classes with
        images; NaN if there is no such pair.

    Raises
    ------
    ValueError
        If shapes do not fit, a label is not a row of ``reference``, or the level is not within
        (0, 1).
    """
    check_fraction("level", level)
    scores, reference = _matrix("scores", scores), _matrix("reference", reference)
    if scores.shape[1] != reference.shape[1]:
        raise ValueError(
            f"scores and reference must have the same classes, not {scores.shape[1]} and "
            f"{reference.shape[1]} classes"
        )
    rows = np.asarray(labels)
    fits = rows.shape == scores.shape[:1] and np.issubdtype(rows.dtype, np.integer)
    if not fits or ((rows < -1) | (rows >= len(reference))).any():
        raise ValueError(
            f"labels must be an integer for each of {len(scores)} directions, the index of one of "
            f"the rows of reference, 0 to {len(reference) - 1}, or -1 for none, not {labels!r}"
        )
    below = [np.zeros(0)]
    for label in np.unique(rows[rows >= 0]):
        sizes, limit = np.abs(scores[rows == label]), np.abs(reference[label])
        defined = ~np.isnan(limit) & ~np.isnan(sizes).any(axis=0)
        shares = (sizes >= limit).mean(axis=0)
        below.append((shares < level / len(sizes))[defined])
    values = np.concatenate(below)
    return float(values.mean()) if len(values) else float("nan")


def _matrix(name: str, values: ArrayLike) -> Array:
    """Return values as a float64 array of shape (directions, classes)."""
    array = np.asarray(values, np.float64)
    if array.ndim != 2:
        raise ValueError(f"{name} must have shape (directions, classes), not {array.shape}")
    return array
