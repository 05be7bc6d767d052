"""`match_extractors`: which concepts of several networks are the same."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations, pairwise
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from xplique_dirpairs.core.batching import as_positions, chunk_size, slices
from xplique_dirpairs.core.claims import check_claims
from xplique_dirpairs.core.linear_algebra import UNMATCHED, match
from xplique_dirpairs.core.types import Array
from xplique_dirpairs.core.validation import (
    check_choice,
    check_fraction,
    check_integer,
    check_named,
    check_number,
    check_random_state,
    check_seed,
    errors_of,
)
from xplique_dirpairs.data.alignment import Grid, check_same_images, common_grid
from xplique_dirpairs.extractors.concept_reader import ConceptReader
from xplique_dirpairs.matching.match_result import Matches, PairScores
from xplique_dirpairs.matching.readings import Readings, maps_of
from xplique_dirpairs.metrics.cross_reconstruction import Moments, ridge_r2
from xplique_dirpairs.metrics.universality import (
    NULLS,
    FiringCounts,
    check_null,
    least_p_value,
    phi_of_counts,
    phi_p_values,
    tested_images,
)

#: Least number of images: a quarter of them must be at least two.
LEAST_IMAGES = 8


def match_extractors(
    extractors: Mapping[str, tuple[Any, ArrayLike]],
    *,
    by: str = "coefficients",
    at_least: float = 0.3,
    grid: Grid | None = None,
    rate: float = 0.05,
    threshold: float | None = None,
    concepts: ArrayLike | None = None,
    permutations: int = 999,
    null: str = "images",
    cross: bool = True,
    random_state: int | None = 0,
) -> Matches:
    """Find which concepts of two or more networks, or layers, are the same.

    Concepts are matched by the correlation of their maps on half of the images, and everything that
    is said of the matches is measured on the other half.

    Parameters
    ----------
    extractors : mapping of str to (object, array-like of shape (N, *spatial, D_m))
        By the name of each network, its concepts and its activations for the same N images. The
        concepts are a `ConceptLayer`, or anything fitted that `ConceptLayer.of` accepts;
        factorizers and `DirectionPairs` need no network here.
    by : {"coefficients", "detections"}, default="coefficients"
        What is correlated: coefficients, or detections (of concepts without detectors: where they
        fire, as 0 and 1).
    at_least : float, default=0.3
        Least correlation of a match, in (0, 1).
    grid : (int, int), optional
        Rows and columns of the positions at which networks are compared. None: the coarsest of
        their grids. Concepts are read on the grid of their own network and then averaged.
    rate : float, default=0.05
        Share of the positions at which a concept without detector fires, in (0, 1): at those of
        its largest positive coefficients; at more where many are equal, as of the clusters of
        K-Means. Direction pairs fire where they are detected.
    threshold : float, optional
        Coefficient, at least 0, above which a concept without detector fires, in place of ``rate``:
        how often a concept fires in each network then tells something. It suits sparse codes of
        one unit, such as those of `UniversalFactorizer`.
    concepts : array-like of shape (U, M), int, optional
        Concepts that are claimed to be the same, such as `UniversalFactorizer.concepts`: in each
        row the index of the concept of every network, or −1 where one has none. None: they are
        found by correlation.
    permutations : int, default=999
        Number of permutations of the test of φ; 0 leaves it out.
    null : {"images", "shifts"}, default="images"
        What the permutations exchange: see `metrics.universality.universality`.
    cross : bool, default=True
        Whether to measure how much of each network's features the matched concepts of another
        explain.
    random_state : int or None, default=0
        Seed of the halves and the permutations. None draws a seed.

    Returns
    -------
    matches : Matches

    Raises
    ------
    TypeError
        If they are not given by name, or an object holds no concepts.
    ValueError
        If there are fewer than two networks or eight images, the activations are not of the same
        images or not of the channels of the concepts, or an argument is out of range.
    NotFittedError
        If an extractor is not fitted.
    """
    check_choice("by", by, ("coefficients", "detections"))
    check_choice("null", null, NULLS)
    check_fraction("at_least", at_least)
    check_fraction("rate", rate)
    check_integer("permutations", permutations, 0)
    if threshold is not None:
        check_number("threshold", threshold, minimum=0.0)
    check_named("extractors", extractors, "(concepts, activations)")
    readers = {}
    for name, given in extractors.items():
        if not isinstance(given, (tuple, list)) or len(given) != 2:
            raise TypeError(
                f"{name}: give (concepts, activations), not only {type(given).__name__}"
            )
        with errors_of(name):
            readers[name] = ConceptReader.of(given[0])
    maps = {name: maps_of(readers[name], x, name) for name, (_, x) in extractors.items()}
    check_same_images(maps)
    images = len(next(iter(maps.values())))
    if images < LEAST_IMAGES:
        raise ValueError(f"there must be {LEAST_IMAGES} or more images, not {images}")
    wanted = common_grid({name: one.shape[1:3] for name, one in maps.items()}, grid)
    measured = images - images // 2
    check_null(null, measured, wanted)
    claimed = (
        None
        if concepts is None
        else check_claims(concepts, [len(one.bank) for one in readers.values()])
    )
    seed = check_seed(random_state)
    order = check_random_state(seed).permutation(images)
    # one quarter learns ridge regressions, one chooses their ridge; both together find the matches
    parts = [np.sort(part) for part in np.split(order, [images // 4, images // 2])]
    found_in = np.sort(order[: images // 2])
    readings = [
        Readings.of(readers[name], one, wanted, by, rate, threshold, found_in)
        for name, one in maps.items()
    ]
    columns = _Columns(readings, cross)
    learning, choosing = (_moments(readings, columns, part) for part in parts[:2])
    found = _correlations(learning + choosing, columns)
    two_ended = [one.two_ended for one in readings]
    groups, turned = _groups(found, two_ended, at_least) if claimed is None else (claimed, [])
    for m, which in enumerate(turned):
        columns_turned = columns.concepts[m][which]
        for moments in (learning, choosing):
            moments.turn(columns_turned)
        readings[m] = readings[m].turned(which)
    columns.centre = learning.centre
    found = _correlations(learning + choosing, columns)
    scores = _scored(readings, columns, parts[2], groups)
    correlations = _correlations(scores.moments, columns)
    p_values = np.full(len(groups), np.nan)
    if permutations and len(groups):
        present = (groups != UNMATCHED).T
        draws = int(seed.spawn(1)[0].generate_state(1)[0])
        p_values = phi_p_values(scores.tested, present, permutations, null, draws)
    pairs = {
        (a, b): PairScores(found[a, b], correlations[a, b], scores.phi[a, b]) for a, b in found
    }
    result = Matches(
        names=tuple(readers),
        concept_names=tuple(one.concept_names for one in readers.values()),
        concepts=groups,
        signs=tuple(one.signs for one in readings),
        universality=scores.counts.universality(p_values),
        pairs=pairs,
        cross_r2=_cross_r2(learning, choosing, scores.moments, columns, groups.T),
        ceiling=_ceiling(learning, choosing, scores.moments, columns),
        at_least=at_least,
        by=by,
        grid=wanted,
        images=(len(found_in), len(parts[2])),
        two_ended=tuple(two_ended),
        least_p=least_p_value(permutations, null, measured, wanted),
    )
    return result.in_order()


# ------------------------------------------------------------ reading


class _Columns:
    """Which columns of the joint values belong to which network, for concepts and features."""

    def __init__(self, readings: Sequence[Readings], cross: bool) -> None:
        widths = [len(one.reader.bank) for one in readings]
        self.cross = cross
        self.centre = np.concatenate([one.centre for one in readings])
        if cross:
            widths += [one.maps.shape[-1] for one in readings]
            means = [one.maps[:: max(1, len(one.maps) // 64)] for one in readings]
            self.centre = np.concatenate(
                [self.centre, *(as_positions(mean).mean(axis=0) for mean in means)]
            )
        ends = np.cumsum([0, *widths])
        spans = [np.arange(start, end) for start, end in pairwise(ends)]
        self.concepts = spans[: len(readings)]
        self.features = spans[len(readings) :]


def _blocks(readings: Sequence[Readings], columns: _Columns, images: Array) -> Any:
    """Yield (images, joint values (P, C), firings of each network) of blocks of images."""
    cells = max(one.maps[0].size + len(one.reader.bank) * 4 for one in readings)
    for part in slices(len(images), chunk_size(cells * len(readings))):
        block = images[part]
        values, fires = zip(*(one.read(block) for one in readings), strict=True)
        joint = list(values)
        if columns.cross:
            joint += [one.features(block) for one in readings]
        yield part, np.concatenate([as_positions(one) for one in joint], axis=1), fires


def _moments(readings: Sequence[Readings], columns: _Columns, images: Array) -> Moments:
    """Return the moments of all values in some images."""
    moments = Moments(columns.centre)
    for _, joint, _ in _blocks(readings, columns, images):
        moments.add(joint)
    return moments


def _correlations(moments: Moments, columns: _Columns) -> dict[tuple[int, int], Array]:
    """Return the correlations (I_a, I_b) of the concepts of every two networks."""
    return {
        (a, b): moments.correlation(columns.concepts[a], columns.concepts[b])
        for a, b in combinations(range(len(columns.concepts)), 2)
    }


# ------------------------------------------------------------ matching


def _groups(
    correlations: Mapping[tuple[int, int], Array], two_ended: Sequence[bool], at_least: float
) -> tuple[Array, list[Array]]:
    """Return groups of concepts (U, M), −1 where a network has none, and the concepts to turn.

    The concepts of every two networks are matched one to one. Beginning with the largest
    correlation, matches are joined to groups as long as all pairs in a group correlate enough.
    """
    models = len(two_ended)
    edges = []
    for (a, b), r in correlations.items():
        scores = np.abs(r) if two_ended[a] or two_ended[b] else r
        rows = match(np.where(scores >= at_least, scores, 0.0))
        edges += [
            (float(scores[i, j]), (a, int(i)), (b, j))
            for j, i in enumerate(rows)
            if i != UNMATCHED and scores[i, j] >= at_least
        ]
    groups: dict[tuple[int, int], dict[int, tuple[int, float]]] = {}

    def group_of(node: tuple[int, int]) -> dict[int, tuple[int, float]]:
        """Return the group of a concept: network → its concept, and 1 or −1."""
        return groups.setdefault(node, {node[0]: (node[1], 1.0)})

    for _, first, second in sorted(edges, reverse=True):
        one, other = group_of(first), group_of(second)
        joined = None if one is other else _joined(one, other, correlations, two_ended, at_least)
        if joined is not None:
            for m, (i, _) in joined.items():
                groups[m, i] = joined
    unique = {id(one): one for one in groups.values() if len(one) > 1}.values()
    concepts = np.full((len(unique), models), UNMATCHED)
    turned: list[list[int]] = [[] for _ in range(models)]
    for row, group in zip(concepts, unique, strict=True):
        for m, (i, sign) in group.items():
            row[m] = i
            if sign < 0:
                turned[m].append(i)
    return concepts, [np.array(sorted(one), int) for one in turned]


def _joined(
    one: dict[int, tuple[int, float]],
    other: dict[int, tuple[int, float]],
    correlations: Mapping[tuple[int, int], Array],
    two_ended: Sequence[bool],
    at_least: float,
) -> dict[int, tuple[int, float]] | None:
    """Return two groups as one; None if they have a network in common or a pair does not fit."""
    if one.keys() & other.keys():
        return None
    # Of the two signs of the second group relative to the first, one can fit at most. A group is
    # turned as a whole, so that it must not hold a concept with one end.
    for sign in (1.0, -1.0):
        fixed = {m: sign < 0 and not two_ended[m] for m in other}
        joined = one | {m: (i, s * sign) for m, (i, s) in other.items()}
        if any(fixed.values()):
            if not all(two_ended[m] for m in one):
                continue
            joined = {m: (i, -s) for m, (i, s) in joined.items()}
        fits = all(
            joined[a][1] * joined[b][1] * correlations[a, b][joined[a][0], joined[b][0]] >= at_least
            for a, b in combinations(sorted(joined), 2)
        )
        if fits:
            return joined
    return None


# ------------------------------------------------------------ scoring


class _Scores:
    """What is measured on the half of the images that matches were not found on."""

    def __init__(self, readings: Sequence[Readings], columns: _Columns, concepts: Array) -> None:
        self.moments = Moments(columns.centre)
        self.counts = FiringCounts((concepts != UNMATCHED).T)
        self.positions = 0
        self.fires = [np.zeros(len(one.reader.bank)) for one in readings]
        self.both = {
            (a, b): np.zeros((len(self.fires[a]), len(self.fires[b])))
            for a, b in combinations(range(len(readings)), 2)
        }
        self.tested = np.zeros(0, bool)

    @property
    def phi(self) -> dict[tuple[int, int], Array]:
        """φ of all concepts of every two networks, (I_a, I_b)."""
        return {
            (a, b): phi_of_counts(both, self.fires[a][:, None], self.fires[b], self.positions)
            for (a, b), both in self.both.items()
        }


def _scored(
    readings: Sequence[Readings], columns: _Columns, images: Array, concepts: Array
) -> _Scores:
    """Measure moments and firings in the images of the scoring half."""
    scores = _Scores(readings, columns, concepts)
    is_tested = np.zeros(len(images), bool)
    is_tested[tested_images(len(images))] = True
    tested = []
    for part, joint, fires in _blocks(readings, columns, images):
        scores.moments.add(joint)
        flat = [as_positions(one).astype(np.float32) for one in fires]
        scores.positions += len(joint)
        for m, one in enumerate(flat):
            scores.fires[m] += one.sum(axis=0, dtype=np.float64)
        for a, b in scores.both:
            scores.both[a, b] += flat[a].T @ flat[b]
        # an index of −1 reads some other concept, which `present` leaves out
        own = np.stack([one[..., concepts[:, m]] for m, one in enumerate(fires)])
        scores.counts.add(own.reshape(len(own), len(joint), -1))
        tested.append(own[:, is_tested[part]])
    scores.tested = np.concatenate(tested, axis=1)
    return scores


def _cross_r2(
    learning: Moments, choosing: Moments, scoring: Moments, columns: _Columns, concepts: Array
) -> Array | None:
    """Return R² of matched coefficients of network i for features of network j, (M, M)."""
    if not columns.cross:
        return None
    models = range(len(columns.concepts))
    r2 = np.zeros((len(models), len(models)))
    for i in models:
        for j in models:
            has = (concepts[i] != UNMATCHED) & (concepts[j] != UNMATCHED)
            sources = columns.concepts[i][concepts[i][has]]
            r2[i, j] = ridge_r2(learning, choosing, scoring, sources, columns.features[j])
    return r2


def _ceiling(
    learning: Moments, choosing: Moments, scoring: Moments, columns: _Columns
) -> Array | None:
    """Return R² of all features of network i for features of network j, (M, M): 1 for itself."""
    if not columns.cross:
        return None
    return np.array(
        [
            [
                1.0 if x is y else ridge_r2(learning, choosing, scoring, x, y)
                for y in columns.features
            ]
            for x in columns.features
        ]
    )
