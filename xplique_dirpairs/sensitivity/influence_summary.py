"""The influence of many directions in a few figures: SDC, SCDP, the paper's Table 8, S³."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray


class InfluenceSummary(NamedTuple):
    """What the significant entries of SC say (Doumanoglou et al., arXiv 2509.23926, Table 8).

    Attributes
    ----------
    sdc
        Directions significant for at least one class.
    scdp
        Significant pairs of class and direction.
    positive_directions, negative_directions
        Directions that help, or hurt, at least one class.
    positive_per_class, negative_per_class
        Directions that help, or hurt, a class, on average over the classes with images.
    most_helped, most_hurt
        Most classes that one direction helps, or hurts.
    classes_helped, classes_hurt
        Classes with a direction that helps, or hurts, them.
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
    """Counts over the significant entries of SC.

    Parameters
    ----------
    scores : (I, K)
        SC; a column of NaN is a class without images, and counts nowhere.
    significant : (I, K) bool

    Returns
    -------
    summary
        The averages per class are NaN if no class has images.

    Raises
    ------
    ValueError
        If the two have different shapes.
    """
    scores, marked = _matrix("scores", scores), np.asarray(significant, bool)
    if marked.shape != scores.shape:
        raise ValueError(
            f"significant must be {scores.shape}, as the scores are, not {marked.shape}"
        )
    defined = ~np.isnan(scores)
    classes = int(defined.any(axis=0).sum())
    marked = marked & defined
    helps = marked & (np.nan_to_num(scores) > 0)
    hurts = marked & (np.nan_to_num(scores) < 0)
    per_class = [int(sign.sum()) / classes if classes else np.nan for sign in (helps, hurts)]
    return InfluenceSummary(
        sdc=int(marked.any(axis=1).sum()),
        scdp=int(marked.sum()),
        positive_directions=int(helps.any(axis=1).sum()),
        negative_directions=int(hurts.any(axis=1).sum()),
        positive_per_class=per_class[0],
        negative_per_class=per_class[1],
        most_helped=int(helps.sum(axis=1).max(initial=0)),
        most_hurt=int(hurts.sum(axis=1).max(initial=0)),
        classes_helped=int(helps.any(axis=0).sum()),
        classes_hurt=int(hurts.any(axis=0).sum()),
    )


def reference_shares(scores: ArrayLike, labels: ArrayLike, reference: ArrayLike) -> NDArray:
    """p_{l,k}: share of a label's directions at least as influential as its Pattern-CAV.

        p_{l,k} = (1/N_l) Σ_{j labelled l} 1(|SC_{j,k}| ≥ |SC_{PatternCAV(l),k}|)

    Parameters
    ----------
    scores : (I, K)
        SC of the signal vectors.
    labels : (I,) int
        Label of each direction, a row of ``reference``; −1 for none.
    reference : (L, K)
        SC of each label's Pattern-CAV; a row of NaN where there is none.

    Returns
    -------
    shares : (L, K)
        NaN for labels without direction or Pattern-CAV and classes without images.

    Raises
    ------
    ValueError
        If shapes do not fit, or a label is not a row of ``reference``.
    """
    scores, reference = _matrix("scores", scores), _matrix("reference", reference)
    labels = np.asarray(labels)
    if scores.shape[1] != reference.shape[1]:
        raise ValueError(
            f"scores and reference must be about the same classes, not {scores.shape[1]} and "
            f"{reference.shape[1]}"
        )
    if labels.shape != scores.shape[:1] or not np.issubdtype(labels.dtype, np.integer):
        raise ValueError(
            f"labels must be an integer for each of {len(scores)} directions, not {labels.dtype} "
            f"{labels.shape}"
        )
    if labels.size and (labels.min() < -1 or labels.max() >= len(reference)):
        raise ValueError(
            f"labels must be rows of reference, 0 to {len(reference) - 1}, or -1 for none; they "
            f"reach from {labels.min()} to {labels.max()}"
        )
    shares = np.full(reference.shape, np.nan)
    for label in np.unique(labels[labels >= 0]):
        of_label = np.abs(scores[labels == label])
        share = (of_label >= np.abs(reference[label])).mean(axis=0)
        undefined = np.isnan(reference[label]) | np.isnan(of_label).any(axis=0)
        shares[label] = np.where(undefined, np.nan, share)
    return shares


def s3(scores: ArrayLike, labels: ArrayLike, reference: ArrayLike, level: float = 0.05) -> float:
    """S³ = E_{l,k}[1(p_{l,k} < θ/N_l)]: how often a Pattern-CAV is the more influential one.

    Below 0.5 the signal vectors are (Doumanoglou et al., arXiv 2509.23926: 0.37–0.38).

    Parameters
    ----------
    scores, labels, reference
        As of `reference_shares`.
    level
        θ, in (0, 1).

    Returns
    -------
    s3 : float
        In [0, 1]; NaN if no label has both a direction and a Pattern-CAV.

    Raises
    ------
    ValueError
        As from `reference_shares`, or if the level is not within (0, 1).
    """
    if not 0.0 < level < 1.0:
        raise ValueError(f"level must lie between 0 and 1, not {level!r}")
    shares = reference_shares(scores, labels, reference)
    labels = np.asarray(labels)
    counts = np.bincount(labels[labels >= 0], minlength=len(shares))[:, None]
    defined = ~np.isnan(shares)
    if not defined.any():
        return float("nan")
    below = shares < level / np.maximum(counts, 1)
    return float(below[defined].mean())


def _matrix(name: str, values: ArrayLike) -> NDArray:
    array = np.asarray(values, np.float64)
    if array.ndim != 2:
        raise ValueError(f"{name} must be (directions, classes), not {array.shape}")
    return array
