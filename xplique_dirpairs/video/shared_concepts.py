"""`rosetta`: concepts that several video networks share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from xplique_dirpairs.core.tables import Cell, Table
from xplique_dirpairs.core.types import Array
from xplique_dirpairs.core.validation import check_fraction, check_integer, check_random_state
from xplique_dirpairs.metrics.mask_overlap import (
    chance_corrected_overlap,
    joint_overlap,
    overlap,
)
from xplique_dirpairs.video.concepts import VideoConcepts

#: With fewer videos there are too few orders of them to tell shared concepts from chance: noise
#: passes in 7 % of the cases with 4 videos, in 5 % with these (20 permutations).
_LEAST_VIDEOS = 5


@dataclass(frozen=True, eq=False)
class Rosetta:
    """Concepts that several networks share. `rosetta` returns it.

    Attributes
    ----------
    concepts : tuple of tuple of (int, int)
        For each shared concept, (network, concept) of its members, two or more of different
        networks; the most networks first, then the largest score.
    scores : ndarray of shape (U,)
        R = |∩| / |∪| of the masks of each shared concept.
    corrected : ndarray of shape (U,)
        Smallest score of two members, corrected for chance (or R of it without correction).
    threshold : float
        What the corrected score of two concepts has to exceed.
    kept : tuple of ndarray
        For each network, the indices of the concepts that took part: the most important ones.
    """

    concepts: tuple[tuple[tuple[int, int], ...], ...]
    scores: Array
    corrected: Array
    threshold: float
    kept: tuple[Array, ...]

    def __str__(self) -> str:
        sizes = [len(members) for members in self.concepts]
        parts = ", ".join(f"{sizes.count(n)} of {n}" for n in sorted(set(sizes), reverse=True))
        return f"{len(sizes)} concepts that networks share ({parts or 'none'})"

    def table(self, names: Sequence[str] | None = None) -> Table:
        """Return a table with a row for each shared concept.

        Parameters
        ----------
        names : sequence of str, optional
            Names of the networks. None: their numbers.

        Returns
        -------
        table : Table
        """
        rows = []
        for members, score, own in zip(self.concepts, self.scores, self.corrected, strict=True):
            texts = [f"{names[m] if names else m}: {q}" for m, q in members]
            rows.append(
                [Cell(", ".join(texts)), Cell.figure(float(score), 2), Cell.figure(float(own), 2)]
            )
        note = f"{self}; the corrected score of any two members exceeds {self.threshold:.2f}."
        return Table(("concepts", "R", "corrected"), rows, (note,))


def rosetta(
    concepts_by_model: Sequence[Any],
    importances: Sequence[ArrayLike] | None = None,
    *,
    keep: float = 0.075,
    at_least: float = 0.2,
    correct_for_chance: bool = True,
    permutations: int = 20,
    random_state: int | None = 0,
) -> Rosetta:
    """Find concepts that several video networks share: masks of the same parts of the same videos.

    Each network keeps its most important concepts. Two concepts match if R = |∩| / |∪| of their
    masks, averaged over the videos where either fires, is large enough. Shared concepts are formed
    greedily and one to one, from all networks down to two of them, so that any two members match
    (Kowal et al., VTCD, CVPR 2024).

    Concepts that do not move, such as those of a position, have the same masks in all videos. No
    permutation of videos tells them from chance, so that they are only found with
    ``correct_for_chance=False``.

    Parameters
    ----------
    concepts_by_model : sequence of VideoConcepts, or of array-like of shape (N, T, H, W, Q_m)
        Concepts of two or more networks, found in the same N ≥ 5 videos (any number without
        correction), 20 or more for concepts that overlap in part; or their masks. Grids of
        different sizes are brought to the largest of each axis by repetition.
    importances : sequence of array-like of shape (Q_m,), optional
        Importance of the concepts of each network, such as `MaskedImportance.importance`. None: all
        concepts take part.
    keep : float, default=0.075
        Share of the concepts of each network that takes part, in (0, 1]; at least one.
    at_least : float, default=0.2
        What the score of two concepts has to exceed.
    correct_for_chance : bool, default=True
        Whether the score of two concepts is (R − E) / (1 − E), where E is the mean of R over
        permutations of the videos of one network; it must then also exceed the largest score of all
        pairs in any of them. Masks of large areas overlap by chance. False: R itself, as published.
    permutations : int, default=20
        Number of permutations.
    random_state : int or None, default=0
        Seed of the permutations. None draws a seed.

    Returns
    -------
    shared : Rosetta

    Raises
    ------
    ValueError
        If there are fewer than two networks, too few videos for the correction, or a network
        without concepts; if masks are not of the same videos; if an importance is not finite; or if
        an argument is out of range.
    """
    masks = _checked_masks(concepts_by_model)
    videos = len(masks[0])
    if correct_for_chance and videos < _LEAST_VIDEOS:
        raise ValueError(
            f"{videos} videos are too few to tell shared concepts from chance: find the concepts "
            f"in at least {_LEAST_VIDEOS} videos, better 20, or set correct_for_chance=False"
        )
    if not 0.0 < keep <= 1.0:
        raise ValueError(f"keep must lie between 0 and 1, not {keep!r}")
    check_fraction("at_least", at_least)
    check_integer("permutations", permutations)
    rng = check_random_state(random_state)
    kept = _most_important(masks, importances, keep)
    chosen = [own[..., index] for own, index in zip(masks, kept, strict=True)]
    pairs: dict[tuple[int, int], Array] = {}
    threshold = at_least
    for a, b in combinations(range(len(chosen)), 2):
        if correct_for_chance:
            pairs[a, b], largest = chance_corrected_overlap(chosen[a], chosen[b], permutations, rng)
            threshold = max(threshold, largest)
        else:
            pairs[a, b] = overlap(chosen[a], chosen[b])
    groups = _grouped(pairs, [own.shape[2] for own in chosen], threshold)
    scores = [joint_overlap(np.stack([chosen[m][..., q] for m, q in g])) for g, _ in groups]
    order = sorted(range(len(groups)), key=lambda k: (-len(groups[k][0]), -scores[k]))
    members = tuple(tuple((m, int(kept[m][q])) for m, q in groups[k][0]) for k in order)
    return Rosetta(
        members,
        np.array([scores[k] for k in order]),
        np.array([groups[k][1] for k in order]),
        threshold,
        tuple(kept),
    )


def _grouped(
    pairs: dict[tuple[int, int], Array], numbers: Sequence[int], threshold: float
) -> list[tuple[tuple[tuple[int, int], ...], float]]:
    """Return groups of (network, concept) in which any two match, with their smallest score.

    Groups of all networks are formed first, then of one less, down to pairs; of each size the
    largest score first. A concept belongs to one group.
    """
    free = [set(range(number)) for number in numbers]
    groups = []
    for size in range(len(numbers), 1, -1):
        found = [
            (score, tuple(zip(networks, concepts, strict=True)))
            for networks in combinations(range(len(numbers)), size)
            for concepts, score in _tuples(pairs, networks, numbers[networks[0]], threshold)
        ]
        for score, group in sorted(found, key=lambda one: (-one[0], one[1])):
            if all(q in free[m] for m, q in group):
                groups.append((group, score))
                for m, q in group:
                    free[m].discard(q)
    return groups


def _tuples(
    pairs: dict[tuple[int, int], Array], networks: Sequence[int], number: int, threshold: float
) -> list[tuple[tuple[int, ...], float]]:
    """Return all concepts, one of each network, of which any two match, with the smallest score."""
    partial: list[tuple[tuple[int, ...], float]] = [((q,), np.inf) for q in range(number)]
    for k in range(1, len(networks)):
        longer = []
        for concepts, score in partial:
            rows = [pairs[networks[j], networks[k]][q] for j, q in enumerate(concepts)]
            lowest = np.min(rows, axis=0)
            longer += [
                ((*concepts, int(q)), min(score, float(lowest[q])))
                for q in np.flatnonzero(lowest > threshold)
            ]
        partial = longer
    return partial


def _most_important(
    masks: Sequence[Array], importances: Sequence[ArrayLike] | None, keep: float
) -> list[Array]:
    """Return the indices of the concepts of each network that take part."""
    if importances is None:
        return [np.arange(own.shape[2]) for own in masks]
    if len(importances) != len(masks):
        raise ValueError(f"importances must be those of {len(masks)} networks")
    kept = []
    for m, (own, values) in enumerate(zip(masks, importances, strict=True)):
        array = np.asarray(values, np.float64)
        if array.shape != (own.shape[2],):
            raise ValueError(
                f"importances of network {m} must be one for each of {own.shape[2]} concepts, not "
                f"of shape {array.shape}"
            )
        if not np.isfinite(array).all():
            raise ValueError(
                f"importances of network {m} hold NaN or infinite values, which have no order: "
                "give finite ones"
            )
        number = max(1, round(keep * len(array)))
        kept.append(np.sort(np.argsort(-array, kind="stable")[:number]))
    return kept


def _checked_masks(concepts_by_model: Sequence[Any]) -> list[Array]:
    """Return the masks of all networks on one grid, (N, P, Q_m) bool."""
    if len(concepts_by_model) < 2:
        raise ValueError("concepts of at least two networks are needed")
    masks: list[Array] = []
    for m, own in enumerate(concepts_by_model):
        if isinstance(own, VideoConcepts):
            own = np.concatenate([one.masks for one in own.by_head.values()], axis=-1)
        array = np.asarray(own, bool)
        if array.ndim != 5 or array.size == 0:
            raise ValueError(
                f"masks of network {m} must have shape (N, T, H, W, Q) of at least one video and "
                f"one concept, not {array.shape}"
            )
        if masks and len(array) != len(masks[0]):
            raise ValueError(
                f"all networks must have masks of the same videos, but network {m} has "
                f"{len(array)} and network 0 has {len(masks[0])}"
            )
        masks.append(array)
    grid = tuple(max(own.shape[axis] for own in masks) for axis in (1, 2, 3))
    return [_on_grid(own, grid) for own in masks]


def _on_grid(masks: Array, grid: tuple[int, ...]) -> Array:
    """Return masks (N, T, H, W, Q) on a grid at least as fine, as (N, P, Q)."""
    for axis, length in enumerate(grid, 1):
        cells = np.arange(length) * masks.shape[axis] // length
        masks = np.take(masks, cells, axis=axis)
    return masks.reshape(len(masks), -1, masks.shape[-1])
