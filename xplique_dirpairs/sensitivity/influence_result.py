"""Results of `influence`: effects, p-values, verdicts and tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from xplique_dirpairs.core.tables import Cell, Table
from xplique_dirpairs.core.types import Array
from xplique_dirpairs.metrics.significance import permutations_needed, significant
from xplique_dirpairs.sensitivity.influence_summary import InfluenceSummary, summarise_influence
from xplique_dirpairs.sensitivity.responses import Sensitivity

#: What being significant means, by the noise that directions are compared with.
NOISES = {
    "uniform": "more than if the weights of the class had nothing to do with the direction",
    "permuted labels": "more than what the features vary along anyway, as they do along what the "
    "classes of a trained network need",
}
#: Table headers of the entries of `InfluenceSummary`.
_COLUMNS = (
    "SDC", "SCDP", "directions +", "directions −", "per class +", "per class −",
    "most classes +", "most classes −", "classes +", "classes −",
)  # fmt: skip
_CAPTION = (
    "SDC: directions significant for at least one class; SCDP: significant pairs of class and "
    "direction; + (helps) and − (hurts): sign of significant pairs."
)
_MEANINGS = {
    "benjamini-hochberg": "Benjamini–Hochberg over all pairs",
    "bonferroni": "Bonferroni over all pairs",
    "none": "p at most the level, not corrected",
}
_BOTH = ("benjamini-hochberg", "bonferroni")


@dataclass(frozen=True, eq=False)
class Influence(Sensitivity):
    """Effects of I directions on K classes, and their significance against noise.

    `influence` returns it. The directions are the concepts' encoding directions, along which the
    features change with a concept, and all *changes* below are caused by a step along a direction
    at every position of an image. The *centred logit* of a class is its logit minus the mean logit
    of all classes; for independent sigmoid outputs it is the logit itself.

    Attributes
    ----------
    scores : ndarray of shape (I, K)
        RCAV's score SC in [−1, 1]: the share of the images in which the step raises the probability
        of the class, less the share in which the step lowers it.
    changes : ndarray of shape (I, K)
        Mean change Δ of the log-probability of the class over the images, in nats.
    logit_changes : ndarray of shape (I, K)
        Mean change of the centred logit of the class over the images, in logits.
    images : ndarray of shape (K,), int
        Number of images in which ``scores``, ``changes`` and ``logit_changes`` of each class were
        measured.
    effects : ndarray of shape (I, K)
        What the concept contributes to the centred logit of the class, in logits, mean over the
        images of the class. In one image this is a product: the change of the centred logit by a
        step along the direction, per unit of its length, times the length by which the concept's
        coefficients, averaged over positions, move the features along the direction. NaN for a
        class without images, or if coefficients are not known.
    intervals : ndarray of shape (I, K)
        Half the length of the 95 % confidence interval of ``effects`` over the images of the class;
        NaN for fewer than two images.
    predicted : ndarray of shape (K,), int
        Number of images that are predicted as each class.
    p_values : ndarray of shape (I, K)
        p-values, not corrected for the number of tests. NaN where there was no test; the method
        `reason` says why.
    noise : {"uniform", "permuted labels"}
        What directions were compared with: random directions, or signal vectors estimated from
        permuted detections (`InfluenceSettings`).
    noise_vectors : int
        Number of noise vectors that each direction was compared with: the same ones for all
        directions if noise is uniform. 0 if p-values are exact, so that none was needed.
    amount : float
        Length of the step, in units of the features.
    statistic : {"logit", "change", "score"}
        What was compared with noise: |``logit_changes``|, |``changes``| or |``scores``|. All
        tests are two-sided.
    min_images : int
        Smallest number of images that must be predicted as a class for the class to be tested. It
        applies with uniform noise and a head (the network after the layer) that is not linear.
    level : float
        Level of significance, in (0, 1).
    interrupted : bool, default=False
        Whether Ctrl-C ended the tests, so that some directions have no p-values.
    unlisted_p_values : ndarray of shape (n,)
        p-values of the n tests of classes that `of_classes` left out. p-values of the other classes
        are still corrected for these tests.
    """

    effects: Array
    intervals: Array
    predicted: Array
    p_values: Array
    noise: str
    noise_vectors: int
    amount: float
    statistic: str
    min_images: int
    level: float
    interrupted: bool = False
    unlisted_p_values: Array = field(default_factory=lambda: np.zeros(0))

    @property
    def unit_effects(self) -> Array:
        """Mean change of a class's centred logit per unit length of a step, (I, K), in logits.

        There is a row for each of I directions and a column for each of K classes. The mean is over
        the images that ``images`` counts.
        """
        return np.asarray(self.logit_changes / self.amount)

    @property
    def tested(self) -> Array:
        """Whether each of I directions was tested for each of K classes, (I, K) bool."""
        return ~np.isnan(self.p_values)

    @property
    def tests(self) -> int:
        """Number of tests for which p-values are corrected.

        For two classes under a softmax or a single output, a direction has one test against uniform
        noise, not two: what raises the centred logit of one class lowers that of the other as much.
        """
        return int((~np.isnan(self._separate_p_values)).sum()) + len(self.unlisted_p_values)

    @property
    def _separate_p_values(self) -> Array:
        """p-values of separate hypotheses, (I, K), or (I, 1) if two classes share each of them."""
        shared = self.noise == "uniform" and are_opposite(self.logit_changes)
        return self.p_values[:, :1] if shared else self.p_values

    def of_classes(self, class_ids: ArrayLike) -> Influence:
        """Return the influence on some classes, whose p-values are still corrected for all tests.

        Parameters
        ----------
        class_ids : array-like of shape (C,), int
            Indices of C of the K classes.

        Returns
        -------
        influence : Influence
            With arrays of shape (I, C) for I directions, in the order of ``class_ids``.
        """
        chosen = np.asarray(class_ids)
        left_out = np.setdiff1d(np.arange(self.p_values.shape[1]), chosen)
        arrays: dict[str, Any] = {
            name: value[..., chosen]
            for name, value in vars(self).items()
            if isinstance(value, np.ndarray) and name != "unlisted_p_values"
        }
        separate = self._separate_p_values
        others = separate[:, left_out] if separate.shape == self.p_values.shape else separate[:, :0]
        unlisted = [self.unlisted_p_values, others[~np.isnan(others)]]
        return replace(self, **arrays, unlisted_p_values=np.concatenate(unlisted))

    @property
    def is_exact(self) -> bool:
        """Whether p-values are exact: noise is uniform and the head linear, so none was sampled."""
        return self.noise == "uniform" and not self.noise_vectors

    def reason(self, direction: int, class_id: int) -> str:
        """Return why a direction was not tested for a class; an empty text if it was.

        Parameters
        ----------
        direction : int
            Index of the direction.
        class_id : int
            Index of the class.

        Returns
        -------
        reason : str
            For example "no images of the class".
        """
        if self.tested[direction, class_id]:
            return ""
        if self.images[class_id] == 0:
            return "no images of the class"
        few = self.predicted[class_id] < self.min_images
        if self.noise == "uniform" and few:
            return f"fewer than {self.min_images} images predicted as the class"
        if self.interrupted:
            return "the tests were interrupted"
        return "detected everywhere or nowhere"

    def significant(self, correction: str = "benjamini-hochberg") -> Array:
        """Return which directions are significant for which classes, at ``level``.

        Parameters
        ----------
        correction : {"benjamini-hochberg", "bonferroni", "none"}, default="benjamini-hochberg"
            "benjamini-hochberg": at most a share ``level`` of the significant tests is expected to
            be false. "bonferroni": with probability 1 − ``level`` at least, none of them is false.
            "none": p ≤ ``level`` is significant, whatever the number of tests.

        Returns
        -------
        significant : ndarray of shape (I, K), bool
            For each of I directions and K classes; False where there was no test.

        Raises
        ------
        ValueError
            If the correction is unknown.
        """
        separate = self._separate_p_values
        p = np.concatenate([separate.ravel(), self.unlisted_p_values])
        marked = significant(p, self.level, correction)[: separate.size].reshape(separate.shape)
        return np.asarray(marked & self.tested)

    def reachable(self, correction: str = "benjamini-hochberg") -> bool:
        """Return whether any test could have been significant with this number of noise vectors.

        With permuted labels p is at least 1/(n + 1) for n noise vectors, which a correction for
        many tests may put above the level. With uniform noise any p can occur.

        Parameters
        ----------
        correction : {"benjamini-hochberg", "bonferroni", "none"}, default="benjamini-hochberg"
            Correction for many tests: see `significant`.

        Returns
        -------
        reachable : bool
            False also if there was no test.

        Raises
        ------
        ValueError
            If the correction is unknown.
        """
        needed = permutations_needed(self.tests, self.level, correction) if self.tests else 0
        return self.tests > 0 and (self.noise == "uniform" or self.noise_vectors >= needed)

    def summary(self, correction: str = "benjamini-hochberg") -> InfluenceSummary:
        """Count significant directions and classes, as Doumanoglou et al. (arXiv 2509.23926).

        Parameters
        ----------
        correction : {"benjamini-hochberg", "bonferroni", "none"}, default="benjamini-hochberg"
            Correction for many tests: see `significant`.

        Returns
        -------
        summary : InfluenceSummary
            ``sdc``, the number of directions that are significant for at least one class; ``scdp``,
            the number of significant pairs of class and direction; and counts of the directions
            that help a class (``logit_changes`` or, with permuted labels, ``scores`` above 0) or
            hurt it (below 0).

        Raises
        ------
        ValueError
            If the correction is unknown.
        """
        signed = self.logit_changes if self.noise == "uniform" else self.scores
        return summarise_influence(signed, self.significant(correction))

    def verdicts(self, correction: str = _BOTH[0]) -> Array:
        """Return a verdict in words for each pair of a direction and a class.

        Parameters
        ----------
        correction : {"benjamini-hochberg", "bonferroni", "none"}, default="benjamini-hochberg"
            Correction for many tests: see `significant`.

        Returns
        -------
        verdicts : ndarray of shape (I, K), str
            For each of I directions and K classes: "significant", "not significant", or
            "not tested: " with the reason.

        Raises
        ------
        ValueError
            If the correction is unknown.
        """
        marked = self.significant(correction)
        verdicts = np.where(marked, "significant", "not significant").astype(object)
        if not self.reachable(correction):
            verdicts[:] = "not tested: too few noise vectors for this number of tests"
        for i, k in np.argwhere(~self.tested).tolist():
            verdicts[i, k] = f"not tested: {self.reason(i, k)}"
        return verdicts

    def effects_table(
        self,
        concept_names: Sequence[str] | None = None,
        class_names: Sequence[str] | None = None,
        correction: str = _BOTH[0],
    ) -> Table:
        """Return a table with the effect of every direction on every class, p and a verdict.

        There is a row for each pair of a direction and a class. The columns are the effect in
        logits (``effects`` ± ``intervals``), the unit effect (`unit_effects`), the p-value, and the
        verdict of `verdicts`.

        Parameters
        ----------
        concept_names : sequence of I str, optional
            Names of the directions; None: their indices.
        class_names : sequence of K str, optional
            Names of the classes; None: their indices.
        correction : {"benjamini-hochberg", "bonferroni", "none"}, default="benjamini-hochberg"
            Correction for many tests that verdicts depend on: see `significant`.

        Returns
        -------
        table : Table

        Raises
        ------
        ValueError
            If the correction is unknown.
        """
        directions, classes = self.p_values.shape
        concept_names = concept_names or [str(i) for i in range(directions)]
        class_names = class_names or [str(k) for k in range(classes)]
        verdicts = self.verdicts(correction)
        rows = [
            [
                Cell(concept_names[i]),
                Cell(class_names[k]),
                Cell.interval(self.effects[i, k], self.intervals[i, k]),
                Cell.signed(self.unit_effects[i, k], 3),
                Cell.number(self.p_values[i, k], ".2g"),
                Cell(verdicts[i, k]),
            ]
            for i in range(directions)
            for k in range(classes)
        ]
        notes = [
            "effect: unit effect × coefficient, mean over the images of the class ± its 95 % "
            "interval; unit effect: change of the centred logit per unit length.",
            f"{described_test(self)}; {_MEANINGS[correction]}.",
        ]
        headers = ["concept", "class", "effect (logits)", "unit effect", "p", "verdict"]
        return Table(headers, rows, notes)

    def table(self, corrections: Sequence[str] = _BOTH) -> Table:
        """Return a table of the counts of `summary`, with a row for each correction.

        Its notes say what was tested, against which noise, and which pairs of a direction and a
        class were not tested.

        Parameters
        ----------
        corrections : sequence of str, default=("benjamini-hochberg", "bonferroni")
            Corrections for many tests: see `significant`. Instead of counts, a row says
            "unreachable" if there were too few noise vectors for anything to be significant, and
            "not tested" if there was no test.

        Returns
        -------
        table : Table

        Raises
        ------
        ValueError
            If there is no correction, or one is unknown.
        """
        return influence_table({"concepts": self}, corrections)


# ------------------------------------------------------------ tables


def influence_table(
    influences: Mapping[str, Influence],
    corrections: Sequence[str] = _BOTH,
) -> Table:
    """Return a table of the counts of `InfluenceSummary` for several extractors.

    Parameters
    ----------
    influences : dict of str to Influence
        Influence of the concepts of each extractor, by the extractor's name.
    corrections : sequence of str, default=("benjamini-hochberg", "bonferroni")
        Corrections for many tests, which have a row each: see `Influence.significant`. Instead of
        counts, a row says "unreachable" if there were too few noise vectors for anything to be
        significant, and "not tested" if there was no test.

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
        notes.append("unreachable: with so few noise vectors no p-value can be small enough.")
    for name, influence in influences.items():
        notes.append(f"{name}: {described_test(influence)}.")
        notes += [
            f"Not tested, of {name}: {count} pairs ({reason})."
            for reason, count in untested_pairs(influence).items()
        ]
    return Table(["extractor", "significant", "directions", "tests", *_COLUMNS], rows, notes)


def are_opposite(logit_changes: Array) -> bool:
    """Return whether changes (I, K) are those of two classes, each the other's with a minus."""
    if logit_changes.shape[1] != 2:
        return False
    no, yes = logit_changes.T
    return bool(np.allclose(no, -yes, rtol=1e-6, atol=1e-9))


def described_test(influence: Influence) -> str:
    """Return what directions were compared with, what was compared, and what significance means."""
    count = influence.noise_vectors
    noise = "uniform directions" if influence.noise == "uniform" else influence.noise
    compared = "exact p" if influence.is_exact else f"{count} noise vectors"
    statistic = {"logit": "effect on the centred logit", "change": "|mean Δ|", "score": "|SC|"}
    return (
        f"{statistic[influence.statistic]} against {noise} ({compared}), level "
        f"{influence.level:g}; significant means {NOISES[influence.noise]}"
    )


def untested_pairs(influence: Influence) -> dict[str, int]:
    """Return the number of pairs of a direction and a class without a test, by the reason."""
    counts: dict[str, int] = {}
    for i, k in np.argwhere(~influence.tested).tolist():
        reason = influence.reason(i, k)
        counts[reason] = counts.get(reason, 0) + 1
    return counts


def _summary_row(name: str, influence: Influence, correction: str) -> list[Cell]:
    """Return the cells of one extractor's counts under a correction."""
    counts = len(influence.scores), influence.tests
    cells = [Cell(name), Cell(correction), *(Cell.figure(count, 0) for count in counts)]
    if not influence.reachable(correction):
        why = "unreachable" if influence.tests else "not tested"
        return cells + [Cell(why, numbers=(np.nan,))] * len(_COLUMNS)
    summary = influence.summary(correction)
    return cells + [Cell.figure(value, 0 if isinstance(value, int) else 2) for value in summary]
