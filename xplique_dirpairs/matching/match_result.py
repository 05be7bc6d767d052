"""The result of `match_extractors`: which concepts of several networks are the same."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from xplique_dirpairs.core.linear_algebra import UNMATCHED
from xplique_dirpairs.core.tables import Cell, Table
from xplique_dirpairs.core.types import Array
from xplique_dirpairs.core.validation import check_choice
from xplique_dirpairs.metrics.significance import significant
from xplique_dirpairs.metrics.universality import Universality
from xplique_dirpairs.plots.layout import plain
from xplique_dirpairs.plots.matching import plot_matches

#: Share of the significance level up to which smallest p-values leave room for chance.
_ATTAINABLE = 0.8


@dataclass(frozen=True, eq=False)
class PairScores:
    """Scores of all concepts of a network a with all concepts of a network b.

    Attributes
    ----------
    found : ndarray of shape (I_a, I_b)
        Correlations on the half of the images on which matches are found.
    correlation : ndarray of shape (I_a, I_b)
        Correlations on the other half.
    phi : ndarray of shape (I_a, I_b)
        φ of the firings on the other half.
    """

    found: Array
    correlation: Array
    phi: Array

    @property
    def reversed(self) -> PairScores:
        """The scores of the concepts of b with those of a."""
        return PairScores(self.found.T, self.correlation.T, self.phi.T)


@dataclass(frozen=True, eq=False)
class Nearest:
    """For each of I concepts of a network, the concept of another one that it resembles most.

    Attributes
    ----------
    concepts : ndarray of shape (I,), int
        Index of the other network's concept: the one it is matched with, if it is, otherwise the
        one of the largest correlation on the half of the images where matches are found; of either
        sign, if the coefficients of one of the networks have two ends.
    correlation : ndarray of shape (I,)
        Their correlation on the other half. Below 0 they are opposite ends.
    phi : ndarray of shape (I,)
        φ of their firings on the other half.
    same : ndarray of shape (I,), bool
        Whether the two are matched, and the match holds: see `Matches.holds`.
    """

    concepts: Array
    correlation: Array
    phi: Array
    same: Array


@dataclass(frozen=True, eq=False)
class Matches:
    """U matches of concepts of M networks, the most certain first.

    `match_extractors` returns it. Matches were found on half of the images; correlation, φ and all
    other measures are of the other half.

    Attributes
    ----------
    names : tuple of M str
        Names of the networks.
    concept_names : tuple of M tuple of str
        Names of the concepts of each network.
    concepts : ndarray of shape (U, M), int
        Index of the concept of each network in each match; −1 where a network has none. No concept
        is in two matches.
    signs : tuple of M ndarray of shape (I_m,)
        1 or −1: the sign with which coefficients of each concept are taken. It is 1 for direction
        pairs and others whose coefficients do not have two ends.
    universality : Universality
        Measures of the firings of each match, over the networks that have it.
    pairs : dict of (int, int) to PairScores
        Scores of all concepts of the networks a and b, for a < b.
    cross_r2 : ndarray of shape (M, M) or None
        R² of the ridge regression from the matched coefficients of network i to the features of
        network j, learned on the half where matches were found. None if it was not asked for.
    ceiling : ndarray of shape (M, M) or None
        The same from all features of network i: as much of network j as is linear in it.
    at_least : float
        Least correlation of a match.
    by : {"coefficients", "detections"}
        What was correlated.
    grid : (int, int)
        Rows and columns of the positions at which networks are compared.
    images : (int, int)
        Number of images that matches were found on, and that they were measured on.
    two_ended : tuple of M bool
        Whether the coefficients of each network have two ends, so that their sign is free.
    least_p : float
        About the smallest p-value that the test can give, that of identical concepts. NaN without a
        test.
    level : float
        Significance level of `holds`.
    """

    names: tuple[str, ...]
    concept_names: tuple[tuple[str, ...], ...]
    concepts: Array
    signs: tuple[Array, ...]
    universality: Universality
    pairs: Mapping[tuple[int, int], PairScores]
    cross_r2: Array | None
    ceiling: Array | None
    at_least: float
    by: str
    grid: tuple[int, int]
    images: tuple[int, int]
    two_ended: tuple[bool, ...]
    least_p: float
    level: float = 0.05

    def __len__(self) -> int:
        return len(self.concepts)

    @property
    def correlation(self) -> Array:
        """Correlation of each match on the measuring half, mean over pairs of networks, (U,)."""
        return self._mean_of("correlation")

    @property
    def found_correlation(self) -> Array:
        """The same on the half of the images where matches were found, (U,)."""
        return self._mean_of("found")

    @property
    def phi(self) -> Array:
        """φ of each match's firings: see `Universality`, (U,)."""
        return self.universality.phi

    @property
    def firing_entropy(self) -> Array:
        """Firing entropy of each match: see `Universality`, (U,). Read it with `phi`."""
        return self.universality.firing_entropy

    @property
    def cofire_proportion(self) -> Array:
        """Share of each network's firings that all networks of the match have, (M, U)."""
        return self.universality.cofire_proportion

    @property
    def cofire_iou(self) -> Array:
        """Positions where all networks fire, as a share of those where any does, (U,)."""
        return self.universality.cofire_iou

    @property
    def p_value(self) -> Array:
        """p-value of each match's φ, not corrected; NaN without a test, (U,)."""
        return self.universality.p_value

    @property
    def holds(self) -> Array:
        """Whether each match is found again on the other half of the images, (U,) bool.

        Its correlation there is at least ``at_least``, and its φ is significant at ``level`` after
        correction for all matches (Benjamini–Hochberg). Without a test, only the former counts.
        """
        again = self.correlation >= self.at_least
        if np.isnan(self.p_value).all():
            return np.asarray(again)
        return np.asarray(again & significant(self.p_value, self.level))

    def nearest(self, name: str, other: str) -> Nearest:
        """Return the concept of another network that each concept of a network resembles most.

        Parameters
        ----------
        name : str
            Name of the network.
        other : str
            Name of the other network.

        Returns
        -------
        nearest : Nearest

        Raises
        ------
        ValueError
            If a name is unknown, or both are the same.
        """
        check_choice("name", name, self.names)
        check_choice("other", other, tuple(one for one in self.names if one != name))
        a, b = self.names.index(name), self.names.index(other)
        scores = self.pairs[a, b] if a < b else self.pairs[b, a].reversed
        free = self.two_ended[a] or self.two_ended[b]
        concepts = (np.abs(scores.found) if free else scores.found).argmax(axis=1)
        same = np.zeros(len(concepts), bool)
        matched = (self.concepts[:, [a, b]] != UNMATCHED).all(axis=1)
        concepts[self.concepts[matched, a]] = self.concepts[matched, b]
        same[self.concepts[matched, a]] = self.holds[matched]
        rows = np.arange(len(concepts))
        return Nearest(
            concepts, scores.correlation[rows, concepts], scores.phi[rows, concepts], same
        )

    def shares(self) -> Array:
        """Return the share of each network's concepts that are in a match that holds, (M,)."""
        numbers = (self.concepts[self.holds] != UNMATCHED).sum(axis=0)
        return np.asarray(numbers / [max(1, len(names)) for names in self.concept_names])

    def in_order(self) -> Matches:
        """Return the matches with the most networks first, and by correlation among these."""
        order = np.lexsort([-self.correlation, -(self.concepts != UNMATCHED).sum(axis=1)])
        fields = {name: value[..., order] for name, value in vars(self.universality).items()}
        return replace(self, concepts=self.concepts[order], universality=Universality(**fields))

    def __str__(self) -> str:
        return str(self.table())

    def table(self, at_most: int = 50) -> Table:
        """Return a table with a row for each match, and notes about all of them.

        Parameters
        ----------
        at_most : int, default=50
            Largest number of rows, the first matches.

        Returns
        -------
        table : Table
        """
        headers = [
            "match", *self.names, "r", "φ", "p", "entropy", "IoU",
            *(f"co-fires in {name}" for name in self.names), "holds",
        ]  # fmt: skip
        holds, correlation, measured = self.holds, self.correlation, self.universality
        rows = [
            [
                Cell(str(u)),
                *map(Cell, self._names_of(u)),
                Cell.figure(correlation[u], 2),
                Cell.figure(measured.phi[u], 2),
                Cell.number(measured.p_value[u], ".3g"),
                Cell.figure(measured.firing_entropy[u], 2),
                Cell.figure(measured.cofire_iou[u], 2),
                *(
                    Cell.share(share) if i != UNMATCHED else Cell("–")
                    for share, i in zip(
                        measured.cofire_proportion[:, u], self.concepts[u], strict=True
                    )
                ),
                Cell("yes" if holds[u] else "no"),
            ]
            for u in range(min(len(self), at_most))
        ]
        return Table(headers, rows, self._notes(at_most))

    def cross_table(self) -> Table:
        """Return a table of how much of each network's features those of another explain.

        Returns
        -------
        table : Table
            A row for each network that is read, and for each network that is explained the R² of
            the matched concepts and, in parentheses, the ceiling.

        Raises
        ------
        ValueError
            If it was not measured.
        """
        if self.cross_r2 is None or self.ceiling is None:
            raise ValueError("cross reconstruction was not measured: match with cross=True")
        rows = [
            [Cell(name)]
            + [
                Cell(f"{r2:.2f} ({top:.2f})", numbers=(float(r2),))
                for r2, top in zip(self.cross_r2[i], self.ceiling[i], strict=True)
            ]
            for i, name in enumerate(self.names)
        ]
        notes = [
            "R² of the features of the column's network, by ridge regression from the matched "
            "coefficients of the row's; in parentheses the ceiling, from all of its features."
        ]
        return Table(["from", *self.names], rows, notes)

    def plot(self, title: str = "") -> Figure:
        """Plot the matches: correlation and φ, entropy beside φ, and cross reconstruction.

        Parameters
        ----------
        title : str, default=""
            Title of the figure. Empty: how many concepts of each network are found again.

        Returns
        -------
        figure : matplotlib.figure.Figure
            The figure, which is not shown.
        """
        return plot_matches(
            title or self._headline(),
            [self._names_of(u) for u in range(len(self))],
            self.correlation,
            self.phi,
            self.firing_entropy,
            self.holds,
            [plain(name) for name in self.names],
            self.cross_r2,
            self.ceiling,
        )

    def _names_of(self, u: int) -> list[str]:
        """Return the name of the concept of each network in a match; a dash where it has none."""
        pairs = zip(self.concept_names, self.concepts[u], strict=True)
        return [names[i] if i != UNMATCHED else "–" for names, i in pairs]

    def _headline(self) -> str:
        numbers = (self.concepts[self.holds] != UNMATCHED).sum(axis=0)
        parts = [
            f"{number} of {len(names)} concepts of {name}"
            for number, names, name in zip(numbers, self.concept_names, self.names, strict=True)
        ]
        return f"Found again in another network: {', '.join(parts)}"

    def _notes(self, at_most: int) -> list[str]:
        found, measured = self.images
        notes = [
            f"{self._headline()}.",
            f"Matches are found on {found} images by the correlation of {self.by} at "
            f"{self.grid[0]} × {self.grid[1]} positions; all figures are of {measured} other "
            "images. Entropy does not see where concepts fire: read φ.",
        ]
        if self.least_p > _ATTAINABLE * self.level:
            notes.append(
                f"Even identical concepts have a p of about {self.least_p:.2g} with so few images "
                "or permutations: hardly a match can hold. Give more."
            )
        if len(self) > at_most:
            notes.insert(0, f"The first {at_most} of {len(self)} matches.")
        return notes

    def _mean_of(self, kind: str) -> Array:
        """Return the mean of scores over the pairs of networks that have each match, (U,)."""
        total, number = np.zeros(len(self)), np.zeros(len(self))
        for (a, b), scores in self.pairs.items():
            rows = np.flatnonzero((self.concepts[:, [a, b]] != UNMATCHED).all(axis=1))
            values: Any = getattr(scores, kind)
            total[rows] += values[self.concepts[rows, a], self.concepts[rows, b]]
            number[rows] += 1
        return np.asarray(total / np.maximum(number, 1))
