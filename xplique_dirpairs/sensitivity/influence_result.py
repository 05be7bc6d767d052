"""Results of `influence`: p-values, counts of significant influences, tables, and S³."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from xplique_dirpairs.core.tables import Cell, Table
from xplique_dirpairs.core.types import Array
from xplique_dirpairs.core.validation import check_fraction
from xplique_dirpairs.metrics.significance import (
    p_values,
    permutations_needed,
    significant,
)
from xplique_dirpairs.sensitivity.responses import Sensitivity

#: Name of each statistic in tables.
STATISTICS = {
    "change": "|mean Δ|",
    "signed change": "the mean Δ on its own side of 0, p doubled",
    "score": "|SC|",
}
#: Table headers of the entries of `InfluenceSummary`.
_COLUMNS = (
    "SDC", "SCDP", "directions +", "directions −", "per class +", "per class −",
    "most classes +", "most classes −", "classes +", "classes −",
)  # fmt: skip
_CAPTION = (
    "SDC: directions significant for at least one class; SCDP: significant pairs of class and "
    "direction; + (helps) and − (hurts): sign of SC of significant pairs."
)
_MEANINGS = {
    "benjamini-hochberg": "Benjamini–Hochberg over all pairs",
    "bonferroni": "Bonferroni over all pairs",
    "none": "p at most the level, not corrected",
    "paper": "stronger than all noise vectors, as in the paper, not corrected",
}


class InfluenceSummary(NamedTuple):
    """Counts over the significant entries of SC (Doumanoglou et al., arXiv 2509.23926, Table 8).

    A direction helps a class if its SC is significant and above 0, and hurts it if its SC is
    significant and below 0.

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


@dataclass(frozen=True, eq=False)
class Influence(Sensitivity):
    """A `Sensitivity` with its significance against noise.

    Attributes
    ----------
    exceeded : ndarray of shape (I, K), int
        Number of noise vectors that are at least as strong as the direction.
    compared : ndarray of shape (I, K), int
        Number of noise vectors that the direction was compared with: fewer than ``permutations`` if
        a hopeless test was stopped, 0 if there is nothing to test.
    permutations : int
        Number of noise vectors of each direction.
    statistic : {"change", "signed change", "score"}
        What is compared with noise: see `InfluenceSettings`.
    level : float
        Level of significance θ.
    interrupted : bool, default=False
        Whether Ctrl-C ended the tests, so that the last directions are not tested.
    """

    exceeded: Array
    compared: Array
    permutations: int
    statistic: str
    level: float
    interrupted: bool = False

    @cached_property
    def p_values(self) -> Array:
        """p-values, (I, K); NaN for classes without images and for `untested` directions."""
        p: Array = sides(self.statistic) * p_values(self.exceeded, self.compared)
        return np.minimum(1.0, p)

    @property
    def tests(self) -> int:
        """Number of tests, which p-values are corrected for."""
        return int((self.compared > 0).sum())

    @property
    def untested(self) -> Array:
        """Indices of the directions without a test.

        Their detectors fire everywhere or nowhere, or the tests were interrupted before them.
        """
        return np.flatnonzero(~(self.compared > 0).any(axis=1))

    def significant(self, correction: str = "benjamini-hochberg") -> Array:
        """Return which entries are significant at the level, (I, K) bool.

        Parameters
        ----------
        correction : str, default="benjamini-hochberg"
            "benjamini-hochberg", "bonferroni" or "none": see `metrics.significance.significant`.
            "paper": stronger than all noise vectors, however few there were.

        Returns
        -------
        significant : ndarray of shape (I, K), bool

        Raises
        ------
        ValueError
            If the correction is unknown.
        """
        if correction == "paper":
            return np.asarray((self.exceeded == 0) & (self.compared > 0))
        return significant(self.p_values, self.level, correction)

    def reachable(self, correction: str = "benjamini-hochberg") -> bool:
        """Return whether any test can be significant with this number of permutations.

        Parameters
        ----------
        correction : str, default="benjamini-hochberg"
            See `significant`.

        Returns
        -------
        reachable : bool
        """
        needed = permutations_needed(self.tests, self.level / sides(self.statistic), correction)
        return self.tests > 0 and self.permutations >= needed

    def least_rejections(self, correction: str = "benjamini-hochberg") -> int:
        """Return the least number of tests that can be significant together, if any is.

        With n permutations p is at least 1/(n + 1).

        Parameters
        ----------
        correction : str, default="benjamini-hochberg"
            See `significant`.

        Returns
        -------
        count : int
            Larger than `tests` if no test can be significant.
        """
        if correction != "benjamini-hochberg":
            return 1 if self.reachable(correction) else self.tests + 1
        smallest = sides(self.statistic) / (self.permutations + 1)
        return math.ceil(self.tests * smallest / self.level * (1.0 - 1e-9))

    def summary(self, correction: str = "benjamini-hochberg") -> InfluenceSummary:
        """Return SDC, SCDP and the other counts over the significant influences.

        Parameters
        ----------
        correction : str, default="benjamini-hochberg"
            See `significant`.

        Returns
        -------
        summary : InfluenceSummary

        Raises
        ------
        ValueError
            If the correction is unknown.
        """
        return summarise_influence(self.scores, self.significant(correction))

    def table(self, corrections: Sequence[str] = ("benjamini-hochberg", "paper")) -> Table:
        """Return a table of the counts over the significant influences: see `influence_table`.

        Parameters
        ----------
        corrections : sequence of str, default=("benjamini-hochberg", "paper")
            Corrections, which have a row each: see `significant`.

        Returns
        -------
        table : Table

        Raises
        ------
        ValueError
            If there is no correction, or one is unknown.
        """
        return influence_table({"concepts": self}, corrections)


def sides(statistic: str) -> int:
    """Return the factor of p: 2 if only noise of the same sign as the data counts, otherwise 1."""
    return 2 if statistic == "signed change" else 1


def summarise_influence(scores: ArrayLike, significant: ArrayLike) -> InfluenceSummary:
    """Count the significant entries of SC by direction and by class.

    Parameters
    ----------
    scores : array-like of shape (I, K)
        SC; a column of NaN is a class without images, which is not counted.
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


# ------------------------------------------------------------ tables


def influence_table(
    influences: Mapping[str, Influence],
    corrections: Sequence[str] = ("benjamini-hochberg", "paper"),
) -> Table:
    """Return a table of the counts of `InfluenceSummary` for several extractors.

    Parameters
    ----------
    influences : dict of str to Influence
        Influence of the concepts of each extractor, by the extractor's name.
    corrections : sequence of str, default=("benjamini-hochberg", "paper")
        Corrections, which have a row each: see `Influence.significant`. The row is marked
        "unreachable" if there were too few permutations for anything to be significant.

    Returns
    -------
    table : Table

    Raises
    ------
    ValueError
        If there is no influence or no correction, or a correction is unknown.
    """
    if not influences or not corrections:
        raise ValueError(
            f"influences and corrections must not be empty, not {len(influences)} influences and "
            f"{len(corrections)} corrections: there is nothing to show"
        )
    rows = [
        _summary_row(name, influence, correction)
        for name, influence in influences.items()
        for correction in corrections
    ]
    notes = [_CAPTION, *(f"{correction}: {_MEANINGS[correction]}." for correction in corrections)]
    if any(row[-1].text == "unreachable" for row in rows):
        notes.append("unreachable: with so few permutations no p-value can be small enough.")
    least = [influence.least_rejections() for influence in influences.values()]
    if "benjamini-hochberg" in corrections and max(least) > 1:
        notes.append(
            "With this number of permutations Benjamini–Hochberg finds either no significant pairs "
            f"or at least {', '.join(map(str, least))} of them at once."
        )
    for name, influence in influences.items():
        notes.append(
            f"{name}: {influence.permutations} noise vectors for each direction, compared by "
            f"{STATISTICS[influence.statistic]}; level {influence.level:g}."
        )
        if len(influence.untested):
            reason = "detectors fire everywhere or nowhere"
            if influence.interrupted:
                reason = "the tests were interrupted"
            directions = influence.untested.tolist()
            notes.append(f"Not tested because {reason}: directions {directions} of {name}.")
    return Table(["extractor", "significant", "directions", "tests", *_COLUMNS], rows, notes)


def _summary_row(name: str, influence: Influence, correction: str) -> list[Cell]:
    """Return the cells of one extractor's counts under a correction."""
    counts = len(influence.scores), influence.tests
    cells = [Cell(name), Cell(correction), *(Cell.figure(count, 0) for count in counts)]
    if not influence.reachable(correction):
        return cells + [Cell("unreachable", numbers=(np.nan,))] * len(_COLUMNS)
    summary = influence.summary(correction)
    return cells + [Cell.figure(value, 0 if isinstance(value, int) else 2) for value in summary]
