"""The search for the least change of concepts that changes a prediction.

1. *Screen.* The head answers every concept alone, moved by a few steps each way. From the table
   `best_concepts` tells, for the classes that seem nearest and every number of concepts, which to
   move.
2. *Refine.* With the slopes of the real head at the moved and clipped features `closed_form_shifts`
   gives the least shifts of these concepts; a few rounds, since clipping bends the slopes. Exact
   after the first round for a head that is linear after pooling, where no feature is clipped.
3. *Verify.* The real head on the clipped features; the shifts are then shortened to where the
   prediction just changes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from xplique_dirpairs.interventions.moved_features import MovedFeatures
from xplique_dirpairs.interventions.sparse_moves import best_concepts, closed_form_shifts

#: Steps each way of the screening, as shares of how far a concept can be moved.
SCREENED = (0.1, 0.3, 0.6, 1.0)
#: Between them, what was measured is interpolated: at shares that are dense near 0, where the least
#: changes of images near the boundary are.
_FINE = np.geomspace(2e-3, 1.0, 28)
#: Classes that are tried for each image, those that seem nearest, where any other one will do.
CLASSES_TRIED = 5
#: Attempts of each number of concepts that are refined, of different classes.
KEPT = 3
#: Rounds of refining.
ROUNDS = 5
#: Halvings of the way back to where the prediction just changes.
_HALVINGS = 12
#: Share by which a round aims beyond the boundary, of the gap that was left.
_BEYOND = 1e-3


@dataclass(frozen=True, eq=False)
class Wanted:
    """What counts as a change, and what may be moved for it.

    Attributes
    ----------
    original : (n,) int
        Classes predicted.
    target
        The class that is to win; None: any but the one predicted.
    margin
        By how many logits the new class is to lead.
    at_most
        Concepts that may be moved, k.
    limits : (least, most), (n, I) each
        Of the shifts, ≤ 0 and ≥ 0.
    """

    original: NDArray
    target: int | None
    margin: float
    at_most: int
    limits: tuple[NDArray, NDArray]

    def gap(self, logits: NDArray, image: NDArray) -> NDArray:
        """Lead of what is wanted, (r,), of logits (r, K) of some of the images."""
        row, others = np.arange(len(logits)), logits.copy()
        original = self.original[image]
        if self.target is None:
            others[row, original] = -np.inf
            return others.max(axis=1) - logits[row, original]
        others[:, self.target] = -np.inf
        return logits[:, self.target] - others.max(axis=1)

    def is_met(self, gap: NDArray) -> NDArray:
        """Whether a prediction with this lead is as wanted."""
        return (gap > 0) & (gap >= self.margin)


@dataclass(frozen=True, eq=False)
class Attempts:
    """C attempts for each of n images, from the best to the worst.

    Attributes
    ----------
    shifts : (n, C, I) float32
    met : (n, C) bool
        Whether the real head on clipped features predicts what was wanted.
    """

    shifts: NDArray
    met: NDArray


def least_changes(moved: MovedFeatures, x: NDArray, u: NDArray, wanted: Wanted) -> Attempts:
    """Shifts of concepts that change the predictions of n images, the least first.

    Those that change them come first, by ‖x' − x‖_F; then the others, by how near they came.

    Parameters
    ----------
    moved
        The head, seen from shifts.
    x, u : (n, *S, D), (n, *S, I)
        Features and coefficients.
    wanted
    """
    shifts, target = _screened(moved, x, u, wanted)
    made, images, concepts = shifts.shape
    image = np.tile(np.arange(images), made)
    rows = _refined(moved, x, u, image, shifts.reshape(-1, concepts), target.ravel(), wanted)
    ends, gap, norm = _shortened(moved, x, u, image, rows, wanted)
    met = wanted.is_met(gap).reshape(made, images)
    gap, norm = gap.reshape(made, images), norm.reshape(made, images)
    order = np.lexsort((np.where(met, norm, -gap), ~met), axis=0)
    ends = np.take_along_axis(ends.reshape(shifts.shape), order[..., None], axis=0)
    return Attempts(ends.transpose(1, 0, 2), np.take_along_axis(met, order, axis=0).T)


# ------------------------------------------------------------------------------ screening


def _screened(
    moved: MovedFeatures, x: NDArray, u: NDArray, wanted: Wanted
) -> tuple[NDArray, NDArray]:
    """Promising shifts (C, n, I), and the classes (C, n) that are expected to win."""
    steps = np.array([*(-s for s in reversed(SCREENED)), 0.0, *SCREENED])
    gains, cost, intact = _responses(moved, x, u, wanted, steps)
    own = wanted.original[:, None]
    gains = gains - np.take_along_axis(gains, own[..., None, None], axis=3)
    need = np.take_along_axis(intact, own, axis=1) - intact + wanted.margin
    fine = np.unique(np.concatenate([-_FINE, steps, _FINE]))
    unmoved = int(np.searchsorted(fine, 0.0))
    fine_cost, fine_shifts = _interpolated(steps, cost, fine), _at(wanted.limits, fine)
    found = []
    for target in _classes_tried(gains, cost, need, wanted).T:
        of_target = np.take_along_axis(gains, target[:, None, None, None], axis=3)[..., 0]
        fine_gains = _interpolated(steps, of_target, fine)
        needed = np.maximum(np.take_along_axis(need, target[:, None], axis=1)[:, 0], 1e-6)
        for count in range(1, min(wanted.at_most, cost.shape[1]) + 1):
            levels, price, missing = best_concepts(fine_gains, fine_cost, needed, count, unmoved)
            shifts = np.take_along_axis(fine_shifts, levels[..., None], axis=2)[..., 0]
            price = np.where(missing > 0, 1e9 + missing, price)  # out of reach: the nearest first
            found.append((count, shifts, target, price))
    return _most_promising(found)


def _responses(moved: MovedFeatures, x: NDArray, u: NDArray, wanted: Wanted, steps: NDArray):
    """Change of every logit (n, I, L, K), its cost (n, I, L), and the intact logits (n, K)."""
    images, concepts = wanted.limits[0].shape
    reach = _at(wanted.limits, steps)
    image, concept, step = np.nonzero(reach)  # the others leave everything as it is
    shifts = np.zeros((len(image), concepts), np.float32)
    shifts[np.arange(len(image)), concept] = reach[image, concept, step]
    intact, _ = moved.outcomes(x, u, np.arange(images), np.zeros((images, concepts), np.float32))
    gains = np.zeros((images, concepts, len(steps), intact.shape[1]))
    cost = np.zeros((images, concepts, len(steps)))
    if len(image):
        logits, norms = moved.outcomes(x, u, image, shifts)
        gains[image, concept, step] = logits - intact[image]
        cost[image, concept, step] = norms
    return gains, cost, intact


def _at(limits: tuple[NDArray, NDArray], shares: NDArray) -> NDArray:
    """Shifts (n, I, L) at shares of the limits, −1 to 1."""
    least, most = (limit[..., None] for limit in limits)
    return np.where(shares < 0, -shares * least, shares * most)


def _classes_tried(gains: NDArray, cost: NDArray, need: NDArray, wanted: Wanted) -> NDArray:
    """Classes (n, m) that are nearest by what the best concepts seem to gain at their price."""
    if wanted.target is not None:
        return np.full((len(need), 1), wanted.target)
    price = np.where(cost > 0, cost, np.inf)[..., None]
    efficiency = np.sort(np.maximum(gains / price, 0.0).max(axis=2), axis=1)[:, -wanted.at_most :]
    nearness = need / (np.sqrt((efficiency**2).sum(axis=1)) + 1e-12)
    np.put_along_axis(nearness, wanted.original[:, None], np.inf, axis=1)
    classes = nearness.shape[1]
    return np.argsort(nearness, axis=1, kind="stable")[:, : min(CLASSES_TRIED, classes - 1)]


def _interpolated(steps: NDArray, values: NDArray, fine: NDArray) -> NDArray:
    """Values (n, I, L) at ``steps`` as values (n, I, F) at ``fine``, linear in between."""
    right = np.clip(np.searchsorted(steps, fine), 1, len(steps) - 1)
    share = (fine - steps[right - 1]) / (steps[right] - steps[right - 1])
    return values[..., right - 1] * (1 - share) + values[..., right] * share


def _most_promising(
    found: list[tuple[int, NDArray, NDArray, NDArray]],
) -> tuple[NDArray, NDArray]:
    """For each image the cheapest of every number of concepts, and the second of the largest."""
    counts = np.array([count for count, *_ in found])
    shifts, targets, price = (np.stack(part) for part in list(zip(*found, strict=True))[1:])
    picked = []
    for count in np.unique(counts):
        of_count = np.flatnonzero(counts == count)
        order = of_count[np.argsort(price[of_count], axis=0, kind="stable")]
        picked += list(order[:KEPT])
    rank = np.stack(picked)
    image = np.arange(shifts.shape[1])
    return shifts[rank, image], targets[rank, image]


# ------------------------------------------------------------------------------ refining


def _refined(
    moved: MovedFeatures,
    x: NDArray,
    u: NDArray,
    image: NDArray,
    start: NDArray,
    target: NDArray,
    wanted: Wanted,
) -> NDArray:
    """The least of the shifts (r, I) that any round came to, of the same concepts each."""
    flat = u.reshape(len(u), -1, u.shape[-1])[image]
    least, most = (limit[image] for limit in wanted.limits)
    # only the way that the screening showed: the slopes of the other are others
    limits = np.where(start < 0, least, 0.0), np.where(start > 0, most, 0.0)
    against = wanted.original[image] if wanted.target is None else np.full(len(image), -1)
    pair = np.stack([target, against], axis=1).astype(np.int32)
    own = flat.mean(axis=1)
    shifts, slopes = start, np.zeros_like(start)
    best, best_key = start, np.full(len(start), np.inf)
    for round_ in range(ROUNDS + 1):
        logits, norm = moved.outcomes(x, u, image, shifts)
        lead = wanted.gap(logits, image)
        key = np.where(wanted.is_met(lead), norm, 1e9 - lead)  # any that is met before any other
        better = key < best_key
        best, best_key = np.where(better[:, None], shifts, best), np.where(better, key, best_key)
        if round_ == ROUNDS:
            break
        gap, steep = moved.gaps_and_slopes(x, u, image, shifts, pair)
        active = _active_share(moved, flat, shifts)
        # where the range cuts the shift off everywhere there is no slope: the one before stands
        slopes = np.where(active > 0, steep / np.where(active > 0, active, 1.0), slopes)
        slopes = np.where(start != 0, slopes, 0.0)
        gained = (slopes * (moved.seen.shifted(flat, shifts).mean(axis=1) - own)).sum(axis=1)
        need = wanted.margin - gap + gained
        need = np.maximum(need + _BEYOND * np.abs(wanted.margin - gap), 1e-9)
        shifts = closed_form_shifts(flat, slopes, moved.gram, need, limits, moved.seen)
    return best


def _active_share(moved: MovedFeatures, u: NDArray, shifts: NDArray) -> NDArray:
    """Share of the positions, (r, I), at which the shift is not cut off by the range."""
    there = u + shifts[:, None]
    low, high = np.minimum(u, moved.seen.low), np.maximum(u, moved.seen.high)
    return ((there >= low) & (there <= high)).mean(axis=1)


def _shortened(
    moved: MovedFeatures, x: NDArray, u: NDArray, image: NDArray, shifts: NDArray, wanted: Wanted
) -> tuple[NDArray, NDArray, NDArray]:
    """Shifts (r, I) where the change just happens on their way; their lead and norm, (r,).

    Where it does not happen, as they are.
    """

    def lead_at(share: NDArray) -> tuple[NDArray, NDArray, NDArray]:
        ends = (shifts * share[:, None]).astype(np.float32)
        logits, norm = moved.outcomes(x, u, image, ends)
        return ends, wanted.gap(logits, image), norm

    low, high = np.zeros(len(image)), np.ones(len(image))
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        met = wanted.is_met(lead_at(middle)[1])
        low, high = np.where(met, low, middle), np.where(met, middle, high)
    return lead_at(high)
