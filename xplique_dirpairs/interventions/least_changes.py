"""The least change of concepts that changes a prediction.

1. *Screen.* The head answers every concept alone, moved by a few steps each way. From that table
   `best_concepts` tells, for the classes that seem nearest and every number of concepts, which to
   move.
2. *Refine.* With the slopes of the real head at the moved and clipped features `closed_form_shifts`
   gives the least shifts of these concepts; a few rounds, since clipping bends the slopes. Exact
   after the first round for a head that is linear after pooling, where no feature is clipped.
3. *Verify.* The real head on the clipped features; the shifts are then shortened to where the
   prediction just changes.

`best_concepts` and `closed_form_shifts` solve the same problem for many images at once,

    min Σ_i c_i(t_i)²   so that   Σ_i gain_i(t_i) ≥ need,   few t_i ≠ 0,   t_i within limits,

by its multiplier λ: given λ every concept minimises c_i(t)² − λ gain_i(t) on its own, and gains
grow with λ. The first takes tables of what was measured at a few shifts. The second takes slopes,
and is exact where gains are linear in the coefficients.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from xplique_dirpairs.core.types import Array
from xplique_dirpairs.interventions.moved_features import (
    HALVINGS,
    CoefficientRange,
    MovedFeatures,
    bisected,
    flat_maps,
)

#: Steps each way of the screening, as shares of how far a concept can be moved.
SCREENED = (0.1, 0.3, 0.6, 1.0)
#: Shares at which the screening is interpolated: dense near 0, where the least changes of images
#: near the boundary are.
_FINE = np.geomspace(2e-3, 1.0, 28)
#: Classes that are tried for each image, those that seem nearest, where any other one will do.
CLASSES_TRIED = 5
#: Attempts of each number of concepts that are refined, of different classes.
KEPT = 3
#: Rounds of refining.
ROUNDS = 5
#: Share of the remaining gap by which a round aims beyond the boundary.
_BEYOND = 1e-3
#: Halvings of the way back to where the prediction just changes.
_SHORTENINGS = 12
#: Sweeps of the coordinate descent.
_SWEEPS = 20


@dataclass(frozen=True, eq=False)
class Goal:
    """Which change of n predictions counts, and how far concepts may be moved for it.

    Attributes
    ----------
    original : ndarray of shape (n,), int
        Classes predicted.
    target : int or None
        The class that is to win; None: any but the one predicted.
    margin : float
        Logits by which the new class is to lead.
    max_concepts : int
        Concepts that may be moved.
    limits : (ndarray of shape (n, I), ndarray of shape (n, I))
        Lowest shifts, ≤ 0, and highest, ≥ 0.
    """

    original: Array
    target: int | None
    margin: float
    max_concepts: int
    limits: tuple[Array, Array]

    def lead(self, logits: Array, image: Array) -> Array:
        """Return the lead of the class that is to win, (r,), of logits (r, K) of images (r,)."""
        row, others = np.arange(len(logits)), logits.copy()
        original = self.original[image]
        if self.target is None:
            others[row, original] = -np.inf
            return others.max(axis=1) - logits[row, original]
        others[:, self.target] = -np.inf
        return logits[:, self.target] - others.max(axis=1)

    def is_met(self, lead: Array) -> Array:
        """Return whether a prediction with this lead counts as changed."""
        return (lead > 0) & (lead >= self.margin)


@dataclass(frozen=True, eq=False)
class Attempts:
    """C moves of each of n images, from the best to the worst.

    Attributes
    ----------
    shifts : ndarray of shape (n, C, I), float32
    is_met : ndarray of shape (n, C), bool
        Whether the real head on clipped features meets the goal.
    """

    shifts: Array
    is_met: Array

    def first_within(self, percentiles: Array, stay_within: float) -> Array:
        """Return each image's first move that meets the goal near the data, else its first, (n, I).

        Parameters
        ----------
        percentiles : ndarray of shape (n, C)
            Of the training images' distances.
        stay_within : float
            The highest percentile that counts as near.
        """
        is_good = self.is_met & (percentiles <= stay_within)
        first = np.where(is_good.any(axis=1), is_good.argmax(axis=1), 0)
        return self.shifts[np.arange(len(first)), first]


def least_changes(moved: MovedFeatures, x: Array, u: Array, goal: Goal) -> Attempts:
    """Return shifts of concepts that change the predictions of n images.

    Those that meet the goal come first, by ‖x' − x‖_F; then the others, by how near they come.

    Parameters
    ----------
    moved : MovedFeatures
    x : ndarray of shape (n, *S, D)
    u : ndarray of shape (n, *S, I)
    goal : Goal
    """
    starts, target = _screen(moved, x, u, goal)
    attempts, images, concepts = starts.shape
    image = np.tile(np.arange(images), attempts)
    rows = _refine(moved, x, u, image, starts.reshape(-1, concepts), target.ravel(), goal)
    ends, lead, norm = _shorten(moved, x, u, image, rows, goal)
    is_met = goal.is_met(lead).reshape(attempts, images)
    lead, norm = lead.reshape(attempts, images), norm.reshape(attempts, images)
    order = np.lexsort((np.where(is_met, norm, -lead), ~is_met), axis=0)
    ends = np.take_along_axis(ends.reshape(starts.shape), order[..., None], axis=0)
    return Attempts(ends.transpose(1, 0, 2), np.take_along_axis(is_met, order, axis=0).T)


# ------------------------------------------------------------ screening


def _screen(moved: MovedFeatures, x: Array, u: Array, goal: Goal) -> tuple[Array, Array]:
    """Return promising shifts (C, n, I), and the classes (C, n) that are expected to win."""
    steps = np.array([*(-s for s in reversed(SCREENED)), 0.0, *SCREENED])
    gains, cost, intact = _responses(moved, x, u, goal, steps)
    own = goal.original[:, None]
    gains = gains - np.take_along_axis(gains, own[..., None, None], axis=3)
    need = np.take_along_axis(intact, own, axis=1) - intact + goal.margin
    fine = np.unique(np.concatenate([-_FINE, steps, _FINE]))
    unmoved = int(np.searchsorted(fine, 0.0))
    fine_cost, fine_shifts = _interpolate(steps, cost, fine), _at_shares(goal.limits, fine)
    candidates = []
    for target in _nearest_classes(gains, cost, need, goal).T:
        target_gains = np.take_along_axis(gains, target[:, None, None, None], axis=3)[..., 0]
        fine_gains = _interpolate(steps, target_gains, fine)
        needed = np.maximum(np.take_along_axis(need, target[:, None], axis=1)[:, 0], 1e-6)
        for count in range(1, min(goal.max_concepts, cost.shape[1]) + 1):
            levels, price, missing = best_concepts(fine_gains, fine_cost, needed, count, unmoved)
            shifts = np.take_along_axis(fine_shifts, levels[..., None], axis=2)[..., 0]
            price = np.where(missing > 0, 1e9 + missing, price)  # out of reach: the nearest first
            candidates.append((count, shifts, target, price))
    return _most_promising(candidates)


def _responses(moved: MovedFeatures, x: Array, u: Array, goal: Goal, steps: Array):
    """Return changes of every logit (n, I, L, K), their cost (n, I, L), intact logits (n, K)."""
    images, concepts = goal.limits[0].shape
    reach = _at_shares(goal.limits, steps)
    image, concept, step = np.nonzero(reach)  # the others leave everything as it is
    shifts = np.zeros((len(image), concepts), np.float32)
    shifts[np.arange(len(image)), concept] = reach[image, concept, step]
    intact, _ = moved.outcomes(x, u, np.arange(images), np.zeros((images, concepts)))
    gains = np.zeros((images, concepts, len(steps), intact.shape[1]))
    cost = np.zeros((images, concepts, len(steps)))
    if len(image):
        logits, norms = moved.outcomes(x, u, image, shifts)
        gains[image, concept, step] = logits - intact[image]
        cost[image, concept, step] = norms
    return gains, cost, intact


def _at_shares(limits: tuple[Array, Array], shares: Array) -> Array:
    """Return shifts (n, I, L) at shares of the limits, −1 to 1."""
    least, most = (limit[..., None] for limit in limits)
    return np.where(shares < 0, -shares * least, shares * most)


def _nearest_classes(gains: Array, cost: Array, need: Array, goal: Goal) -> Array:
    """Return the classes (n, m) that are nearest by what the best concepts gain at their price."""
    if goal.target is not None:
        return np.full((len(need), 1), goal.target)
    price = np.where(cost > 0, cost, np.inf)[..., None]
    efficiency = np.sort(np.maximum(gains / price, 0.0).max(axis=2), axis=1)
    efficiency = efficiency[:, -goal.max_concepts :]
    nearness = need / (np.sqrt((efficiency**2).sum(axis=1)) + 1e-12)
    np.put_along_axis(nearness, goal.original[:, None], np.inf, axis=1)
    classes = nearness.shape[1]
    return np.argsort(nearness, axis=1, kind="stable")[:, : min(CLASSES_TRIED, classes - 1)]


def _interpolate(steps: Array, values: Array, fine: Array) -> Array:
    """Return values (n, I, L) at ``steps`` as values (n, I, F) at ``fine``, linear in between."""
    right = np.clip(np.searchsorted(steps, fine), 1, len(steps) - 1)
    share = (fine - steps[right - 1]) / (steps[right] - steps[right - 1])
    return values[..., right - 1] * (1 - share) + values[..., right] * share


def _most_promising(
    candidates: list[tuple[int, Array, Array, Array]],
) -> tuple[Array, Array]:
    """Return the `KEPT` cheapest shifts (C, n, I) of every number of concepts, and their classes.

    Parameters
    ----------
    candidates : list
        Number of concepts, shifts (n, I), classes (n,), price (n,).
    """
    counts = np.array([count for count, *_ in candidates])
    columns = list(zip(*candidates, strict=True))[1:]
    shifts, targets, price = (np.stack(column) for column in columns)
    kept: list[Array] = []
    for count in np.unique(counts):
        group = np.flatnonzero(counts == count)
        kept += list(group[np.argsort(price[group], axis=0, kind="stable")][:KEPT])
    rank, image = np.stack(kept), np.arange(shifts.shape[1])
    return shifts[rank, image], targets[rank, image]


def best_concepts(
    gains: Array, costs: Array, need: Array, max_concepts: int, unmoved: int
) -> tuple[Array, Array, Array]:
    """Return the cheapest levels of a few concepts whose gains add up to the need.

    Parameters
    ----------
    gains : ndarray of shape (n, I, L)
        What each level of each concept adds to the lead.
    costs : ndarray of shape (n, I, L)
        c, ≥ 0.
    need : ndarray of shape (n,)
        The sum of gains to reach, > 0.
    max_concepts : int
        Concepts that may be moved.
    unmoved : int
        The level of a concept that is left alone, with gain and cost 0. Others may cost nothing,
        too: a concept that an image does not hold cannot be lowered.

    Returns
    -------
    levels : ndarray of shape (n, I), int
        Index into L.
    cost : ndarray of shape (n,)
        sqrt(Σ c²).
    missing : ndarray of shape (n,)
        How much of the need is not reached; 0 where it is.
    """
    squares = costs**2
    efficiency = np.where(gains > 0, squares / np.where(gains > 0, gains, 1.0), 0.0)
    # At twice the largest c²/gain every concept is at its largest gain.
    high = 2.0 * efficiency.reshape(len(gains), -1).max(axis=1) + 1e-12
    high = high * gains.shape[-1] * 1e3
    low = np.full(len(gains), 1e-12)
    for _ in range(HALVINGS):
        middle = np.sqrt(low * high)  # λ may be of any order of magnitude
        is_reached = _best_levels(gains, squares, middle, max_concepts, unmoved)[1] >= need
        low, high = np.where(is_reached, low, middle), np.where(is_reached, middle, high)
    levels, gain = _best_levels(gains, squares, high, max_concepts, unmoved)
    cost = np.take_along_axis(squares, levels[..., None], axis=2)[..., 0].sum(axis=1)
    return levels, np.sqrt(cost), np.maximum(need - gain, 0.0)


def _best_levels(
    gains: Array, squares: Array, multiplier: Array, max_concepts: int, unmoved: int
) -> tuple[Array, Array]:
    """Return levels (n, I) of the best concepts under λ, the others unmoved, and the gain (n,)."""
    value = multiplier[:, None, None] * gains - squares
    levels = value.argmax(axis=2)
    best = np.take_along_axis(value, levels[..., None], axis=2)[..., 0]
    order = np.argsort(-best, axis=1, kind="stable")
    rank = np.empty_like(order)
    np.put_along_axis(rank, order, np.arange(order.shape[1])[None], axis=1)
    levels = np.where((rank < max_concepts) & (best > 0), levels, unmoved)
    gain = np.take_along_axis(gains, levels[..., None], axis=2)[..., 0].sum(axis=1)
    return levels, gain


# ------------------------------------------------------------ refining


def _refine(
    moved: MovedFeatures,
    x: Array,
    u: Array,
    image: Array,
    start: Array,
    target: Array,
    goal: Goal,
) -> Array:
    """Return the least shifts (r, I) that any round comes to, each of the start's concepts."""
    flat = flat_maps(u)[image]
    least, most = (limit[image] for limit in goal.limits)
    # Only the side that the screening showed: the slopes of the other are different ones.
    limits = np.where(start < 0, least, 0.0), np.where(start > 0, most, 0.0)
    rival = goal.original[image] if goal.target is None else np.full(len(image), -1)
    classes = np.stack([target, rival], axis=1).astype(np.int32)
    own = flat.mean(axis=1)
    shifts, slopes = start, np.zeros_like(start)
    best, best_key = start, np.full(len(start), np.inf)
    for round_ in range(ROUNDS + 1):
        logits, norm = moved.outcomes(x, u, image, shifts)
        lead = goal.lead(logits, image)
        key = np.where(goal.is_met(lead), norm, 1e9 - lead)  # any that meets the goal first
        better = key < best_key
        best, best_key = np.where(better[:, None], shifts, best), np.where(better, key, best_key)
        if round_ == ROUNDS:
            break
        lead, steep = moved.leads_and_slopes(x, u, image, shifts, classes)
        active = _active_share(moved.bounds, flat, shifts)
        # Where the range cuts the shift off everywhere there is no slope: the one before stays.
        slopes = np.where(active > 0, steep / np.where(active > 0, active, 1.0), slopes)
        slopes = np.where(start != 0, slopes, 0.0)
        gained = (slopes * (moved.bounds.shifted(flat, shifts).mean(axis=1) - own)).sum(axis=1)
        need = goal.margin - lead + gained
        need = np.maximum(need + _BEYOND * np.abs(goal.margin - lead), 1e-9)
        shifts = closed_form_shifts(flat, slopes, moved.gram, need, limits, moved.bounds)
    return best


def _active_share(bounds: CoefficientRange, u: Array, shifts: Array) -> Array:
    """Return the share of positions, (r, I), at which the range does not cut the shift off."""
    there = u + shifts[:, None]
    low, high = np.minimum(u, bounds.low), np.maximum(u, bounds.high)
    return ((there >= low) & (there <= high)).mean(axis=1)


def closed_form_shifts(
    u: Array,
    slopes: Array,
    gram: Array,
    need: Array,
    limits: tuple[Array, Array],
    bounds: CoefficientRange,
) -> Array:
    """Return the least shifts with Σ_i slope_i mean_p(u'_{p,i} − u_{p,i}) = need, (n, I).

        t = clip(λ d, limits),   d = argmin ½ dᵀGd − slopeᵀd to the sides left open

    with the smallest λ that reaches the need. Without limits that is t ∝ G⁻¹ slope, the least
    feature norm ‖(u' − u) B‖_F of *all* changes of coefficients: where the score is linear in the
    means, the least change is the same at all positions. Where the range cuts it off, it is the
    least as long as the concepts' directions are orthogonal, and near it otherwise.

    Parameters
    ----------
    u : ndarray of shape (n, P, I)
    slopes : ndarray of shape (n, I)
        Of the lead in the means; 0 keeps a concept where it is.
    gram : ndarray of shape (I, I)
        G = B Bᵀ.
    need : ndarray of shape (n,)
        Above 0. Where it cannot be reached, shifts go as far as the limits allow.
    limits : (ndarray of shape (n, I), ndarray of shape (n, I))
        Lowest and highest shifts; see `CoefficientRange.furthest_shifts`.
    bounds : CoefficientRange
    """
    direction = _steepest(slopes, gram, limits)
    own = u.mean(axis=1)

    def shifts_at(multiplier: Array) -> Array:
        return np.clip(multiplier[:, None] * direction, *limits)

    def is_reached(multiplier: Array) -> Array:
        means = bounds.shifted(u, shifts_at(multiplier)).mean(axis=1)
        return ((means - own) * slopes).sum(axis=1) >= need

    reach = np.maximum(np.abs(limits[0]), np.abs(limits[1]))
    steps = np.where(direction == 0, 0.0, reach / np.where(direction == 0, 1.0, np.abs(direction)))
    _, multiplier = bisected(is_reached, np.zeros(len(u)), steps.max(axis=1) + 1e-12, HALVINGS)
    return shifts_at(multiplier)


def _steepest(slopes: Array, gram: Array, limits: tuple[Array, Array]) -> Array:
    """Return the direction d, (n, I), of the most lead per norm: min ½ dᵀGd − slopeᵀd.

    Of concepts with a slope, and to the side that the limits leave open. By coordinate descent:
    there are few of them.
    """
    low = np.where((limits[0] < 0) & (slopes != 0), -np.inf, 0.0)
    high = np.where((limits[1] > 0) & (slopes != 0), np.inf, 0.0)
    diagonal = np.maximum(np.diag(gram), np.finfo(np.float64).tiny)
    movable = np.flatnonzero(((low < 0) | (high > 0)).any(axis=0))
    direction = np.clip(slopes / diagonal, low, high)
    for _ in range(_SWEEPS):
        for i in movable:
            others = slopes[:, i] - direction @ gram[:, i] + direction[:, i] * gram[i, i]
            direction[:, i] = np.clip(others / diagonal[i], low[:, i], high[:, i])
    return direction


# ------------------------------------------------------------ verifying


def _shorten(
    moved: MovedFeatures, x: Array, u: Array, image: Array, shifts: Array, goal: Goal
) -> tuple[Array, Array, Array]:
    """Return shifts (r, I) cut back to where the goal is just met; their lead and norm, (r,).

    Where the goal is not met, shifts stay as they are.
    """

    def lead_at(share: Array) -> tuple[Array, Array, Array]:
        ends = (shifts * share[:, None]).astype(np.float32)
        logits, norm = moved.outcomes(x, u, image, ends)
        return ends, goal.lead(logits, image), norm

    none, whole = np.zeros(len(image)), np.ones(len(image))
    _, shares = bisected(lambda share: goal.is_met(lead_at(share)[1]), none, whole, _SHORTENINGS)
    return lead_at(shares)
