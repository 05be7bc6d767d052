"""Find the least change of concepts that changes a prediction.

1. *Screen.* The head is evaluated with every concept moved on its own, by a few steps in each
   direction. From this table, `best_concepts` finds the concepts to move, for the classes that
   seem nearest and for every number of concepts.
2. *Refine.* `closed_form_shifts` computes the least shifts of these concepts from the slopes of the
   head at the moved and clipped features. This is repeated a few times, because clipping changes
   the slopes. If the head is linear after pooling and no feature is clipped, the first round is
   exact.
3. *Verify.* The head is evaluated on the clipped features, and the shifts are shortened to the
   point where the prediction just changes.

`best_concepts` and `closed_form_shifts` solve the same problem for many images at once,

    min Σ_i c_i(t_i)²   so that   Σ_i gain_i(t_i) ≥ need,   few t_i ≠ 0,   t_i within limits,

with a multiplier λ: for a given λ, each concept minimises c_i(t)² − λ gain_i(t) independently, and
gains grow with λ. The first function uses tables measured at a few shifts. The second one uses
slopes, and is exact if gains are linear in the coefficients.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.interpolate import make_interp_spline

from xplique_dirpairs.core.types import Array
from xplique_dirpairs.interventions.moved_features import (
    HALVINGS,
    CoefficientRange,
    MovedFeatures,
    bisected,
    flat_maps,
)

#: Steps of the screening in each direction, as shares of how far a concept can be moved.
SCREENED = (0.1, 0.3, 0.6, 1.0)
#: Shares at which the screening is interpolated. They are dense near 0, because images near the
#: boundary need only small changes.
_FINE = np.geomspace(2e-3, 1.0, 28)
#: Number of classes (those that seem nearest) tried for each image if no target class is given.
CLASSES_TRIED = 5
#: Number of attempts, with different target classes, that are refined for each number of concepts.
KEPT = 3
#: Number of rounds of refining.
ROUNDS = 5
#: Share of the remaining gap by which a round aims beyond the boundary.
_BEYOND = 1e-3
#: Number of halvings when shifts are shortened to the point where the prediction just changes.
_SHORTENINGS = 12
#: Number of sweeps of the coordinate descent.
_SWEEPS = 20
#: Larger than any change of features, so that moves that miss the goal rank after those that meet
#: it.
_FAR = 1e9


@dataclass(frozen=True)
class Goal:
    """The change of a prediction that is sought.

    Attributes
    ----------
    target : int, optional
        The class that is to win. None: any class except the one that was predicted.
    margin : float, default=0.0
        Lead of the new class that is required, in logits.
    max_concepts : int, default=1
        Largest number of concepts that may be moved.
    """

    target: int | None = None
    margin: float = 0.0
    max_concepts: int = 1

    def lead(self, logits: Array, original: Array) -> Array:
        """Compute the lead of the class that is to win, for each of r moves.

        Parameters
        ----------
        logits : ndarray of shape (r, K)
            Logits after the moves.
        original : ndarray of int of shape (r,)
            Classes predicted before the moves.

        Returns
        -------
        lead : ndarray of shape (r,)
            Highest logit of the classes that may win, minus the highest of the others.
        """
        classes = np.arange(logits.shape[1])
        wins = classes != original[:, None] if self.target is None else classes == self.target
        highest, others = (np.where(side, logits, -np.inf).max(axis=1) for side in (wins, ~wins))
        return np.asarray(highest - others)

    def is_met(self, lead: Array) -> Array:
        """Return whether predictions with these leads count as changed, (r,) bool."""
        return np.asarray((lead > 0) & (lead >= self.margin))

    def rank(self, lead: Array, norm: Array) -> Array:
        """Return a rank for each move, (r,); it is lowest for short moves that meet the goal."""
        return np.where(self.is_met(lead), norm, _FAR - lead)


@dataclass(frozen=True, eq=False)
class LeastChanges:
    """Search for shifts of concepts that change the predictions for n images.

    Parameters
    ----------
    moved : MovedFeatures
        The network's outputs as functions of shifts.
    x : ndarray of shape (n, *S, D)
        Features; ``*S`` is the shape of the positions.
    u : ndarray of shape (n, *S, I)
        Coefficients.
    intact : ndarray of shape (n, K)
        Logits of the original images.
    limits : tuple of two ndarrays of shape (n, I)
        Lowest shifts, ≤ 0, and highest shifts, ≥ 0.
    goal : Goal
        The change that is sought.
    """

    moved: MovedFeatures
    x: Array
    u: Array
    intact: Array
    limits: tuple[Array, Array]
    goal: Goal

    def attempts(self) -> tuple[Array, Array]:
        """Return C moves of each image, and whether the network's head confirms that they succeed.

        Moves that meet the goal come first, in order of ‖x' − x‖_F. The others follow, the nearest
        to the goal first.

        Returns
        -------
        shifts : ndarray of float32 of shape (n, C, I)
            The moves.
        is_met : ndarray of bool of shape (n, C)
            Whether each move meets the goal.
        """
        starts, target = self._screen()
        attempts, images, concepts = starts.shape
        image = np.tile(np.arange(images), attempts)
        refined = self._refine(image, starts.reshape(-1, concepts), target.ravel())
        shifts, lead, norm = self._shorten(image, refined)
        lead, norm = lead.reshape(attempts, images), norm.reshape(attempts, images)
        order = np.argsort(self.goal.rank(lead, norm), axis=0, kind="stable")
        shifts = np.take_along_axis(shifts.reshape(starts.shape), order[..., None], axis=0)
        is_met = np.take_along_axis(self.goal.is_met(lead), order, axis=0)
        return shifts.transpose(1, 0, 2), is_met.T

    @property
    def _original(self) -> Array:
        return np.asarray(self.intact.argmax(axis=1))

    def _lead_and_norm(self, image: Array, shifts: Array) -> tuple[Array, Array]:
        logits, norm = self.moved.outcomes(self.x, self.u, image, shifts)
        return self.goal.lead(logits, self._original[image]), norm

    # ------------------------------------------------------------ screening

    def _screen(self) -> tuple[Array, Array]:
        """Return C promising shifts (C, n, I) and the classes (C, n) that are expected to win."""
        steps = np.array([*(-s for s in reversed(SCREENED)), 0.0, *SCREENED])
        gains, cost = self._responses(steps)
        own = self._original[:, None]
        gains = gains - np.take_along_axis(gains, own[..., None, None], axis=3)
        need = np.take_along_axis(self.intact, own, axis=1) - self.intact + self.goal.margin
        targets = self._nearest_classes(gains, cost, need).T
        fine = np.unique(np.concatenate([-_FINE, steps, _FINE]))
        # There is one problem for each of T targets and n images. With F fine shares, the tables
        # have shape (T·n, I, F).
        target_gains = np.concatenate(
            [np.take_along_axis(gains, k[:, None, None, None], axis=3)[..., 0] for k in targets]
        )
        fine_gains = make_interp_spline(steps, target_gains, k=1, axis=2)(fine)
        fine_cost = make_interp_spline(steps, cost, k=1, axis=2)(fine)
        fine_cost, fine_shifts = (
            np.tile(values, (len(targets), 1, 1)) for values in (fine_cost, self._at_shares(fine))
        )
        needed = np.maximum(np.take_along_axis(need.T, targets, axis=0), 1e-6).ravel()
        unmoved = int(np.searchsorted(fine, 0.0))
        starts, classes = [], []
        for count in range(1, min(self.goal.max_concepts, cost.shape[1]) + 1):
            levels, price, missing = best_concepts(fine_gains, fine_cost, needed, count, unmoved)
            shifts = np.take_along_axis(fine_shifts, levels[..., None], axis=2)[..., 0]
            price = np.where(missing > 0, _FAR + missing, price).reshape(targets.shape)
            kept = np.argsort(price, axis=0, kind="stable")[:KEPT]
            shifts = shifts.reshape(*targets.shape, -1)
            starts.append(np.take_along_axis(shifts, kept[..., None], axis=0))
            classes.append(np.take_along_axis(targets, kept, axis=0))
        return np.concatenate(starts), np.concatenate(classes)

    def _responses(self, steps: Array) -> tuple[Array, Array]:
        """Return the changes of all logits (n, I, L, K) at L steps, and their costs (n, I, L)."""
        reach = self._at_shares(steps)
        image, concept, step = np.nonzero(reach)  # shifts of 0 change nothing
        shifts = np.zeros((len(image), reach.shape[1]), np.float32)
        shifts[np.arange(len(image)), concept] = reach[image, concept, step]
        gains, cost = np.zeros((*reach.shape, self.intact.shape[1])), np.zeros(reach.shape)
        if len(image):
            logits, cost[image, concept, step] = self.moved.outcomes(self.x, self.u, image, shifts)
            gains[image, concept, step] = logits - self.intact[image]
        return gains, cost

    def _at_shares(self, shares: Array) -> Array:
        """Return shifts (n, I, L) at L shares of the limits, from −1 to 1."""
        least, most = (limit[..., None] for limit in self.limits)
        return np.where(shares < 0, -shares * least, shares * most)

    def _nearest_classes(self, gains: Array, cost: Array, need: Array) -> Array:
        """Return the T classes that the most efficient concepts reach most cheaply, (n, T)."""
        if self.goal.target is not None:
            return np.full((len(need), 1), self.goal.target)
        price = np.where(cost > 0, cost, np.inf)[..., None]
        efficiency = np.sort(np.maximum(gains / price, 0.0).max(axis=2), axis=1)
        efficiency = efficiency[:, -self.goal.max_concepts :]
        nearness = need / (np.sqrt((efficiency**2).sum(axis=1)) + 1e-12)
        np.put_along_axis(nearness, self._original[:, None], np.inf, axis=1)
        number = min(CLASSES_TRIED, nearness.shape[1] - 1)
        return np.argsort(nearness, axis=1, kind="stable")[:, :number]

    # ------------------------------------------------------------ refining

    def _refine(self, image: Array, start: Array, target: Array) -> Array:
        """Return the best shifts (r, I) of all rounds; they move the same concepts as ``start``."""
        bounds, flat, own = self.moved.bounds, flat_maps(self.u)[image], self._original[image]
        least, most = (limit[image] for limit in self.limits)
        # Shifts keep the sign found by the screening, because slopes differ in the other direction.
        limits = np.where(start < 0, least, 0.0), np.where(start > 0, most, 0.0)
        numbers = np.arange(self.intact.shape[1])
        wins = numbers == target[:, None]
        rivals = numbers == own[:, None] if self.goal.target is None else ~wins
        classes = np.stack([wins, rivals], axis=1)
        means, slopes = flat.mean(axis=1), np.zeros_like(start)
        shifts = best = start
        best_rank = self.goal.rank(*self._lead_and_norm(image, start))
        for _ in range(ROUNDS):
            lead, steep = self.moved.leads_and_slopes(self.x, self.u, image, shifts, classes)
            shifted = bounds.shifted(flat, shifts)
            active = (shifted == flat + shifts[:, None]).mean(axis=1)
            # If a shift is cut off at all positions, there is no slope, and the last one is kept.
            slopes = np.divide(steep, active, out=slopes, where=active > 0) * (start != 0)
            gained = (slopes * (shifted.mean(axis=1) - means)).sum(axis=1)
            gap = self.goal.margin - lead
            need = np.maximum(gap + gained + _BEYOND * np.abs(gap), 1e-9)
            shifts = closed_form_shifts(flat, slopes, self.moved.gram, need, limits, bounds)
            rank = self.goal.rank(*self._lead_and_norm(image, shifts))
            best = np.where((rank < best_rank)[:, None], shifts, best)
            best_rank = np.minimum(rank, best_rank)
        return best

    # ------------------------------------------------------------ verifying

    def _shorten(self, image: Array, shifts: Array) -> tuple[Array, Array, Array]:
        """Return shifts (r, I) shortened until the goal is just met, with their leads and norms.

        Shifts that do not meet the goal stay as they are. Leads and norms have shape (r,).
        """

        def shortened(share: Array) -> Array:
            return np.asarray(shifts * share[:, None], np.float32)

        def is_met(share: Array) -> Array:
            return self.goal.is_met(self._lead_and_norm(image, shortened(share))[0])

        _, share = bisected(is_met, np.zeros(len(image)), np.ones(len(image)), _SHORTENINGS)
        ends = shortened(share)
        return ends, *self._lead_and_norm(image, ends)


def first_near(
    shifts: Array,
    is_met: Array,
    percentiles: Callable[[Array, int], Array],
    stay_within: float,
) -> Array:
    """Return the first move of each image that meets the goal near the data, else its first move.

    Distances to the data take long, and most first moves are near. So later moves are only measured
    where all before them are far.

    Parameters
    ----------
    shifts : ndarray of shape (n, C, I)
        C moves of each image. Those that meet the goal come first.
    is_met : ndarray of bool of shape (n, C)
        Whether each move meets the goal.
    percentiles : callable
        Function of the numbers of m images and of one of their moves. It returns the distances of
        the moved features, as percentiles of the training images' distances, (m,).
    stay_within : float
        The highest percentile that counts as near.

    Returns
    -------
    shifts : ndarray of shape (n, I)
        One move of each image.
    """
    chosen, far = np.array(shifts[:, 0]), np.arange(len(shifts))
    for attempt in range(shifts.shape[1]):
        far = far[is_met[far, attempt]]
        if not len(far):
            break
        near = percentiles(far, attempt) <= stay_within
        chosen[far[near]] = shifts[far[near], attempt]
        far = far[~near]
    return chosen


# ------------------------------------------------------------ the problem and its multiplier


def best_concepts(
    gains: Array, costs: Array, need: Array, max_concepts: int, unmoved: int
) -> tuple[Array, Array, Array]:
    """Return the cheapest levels of a few concepts whose gains add up to what is needed.

    Parameters
    ----------
    gains : ndarray of shape (n, I, L)
        Gain in lead of each of the L levels of each concept.
    costs : ndarray of shape (n, I, L)
        Costs c ≥ 0 of the levels.
    need : ndarray of shape (n,)
        The sum of gains to reach, > 0.
    max_concepts : int
        Largest number of concepts that may be moved.
    unmoved : int
        The level at which a concept is not moved, with gain and cost 0. Other levels may cost
        nothing, too: a concept that is not in an image cannot be lowered.

    Returns
    -------
    levels : ndarray of int of shape (n, I)
        Index of each concept's level.
    cost : ndarray of shape (n,)
        Total cost, sqrt(Σ c²).
    missing : ndarray of shape (n,)
        Part of the need that is not reached, or 0.
    """
    squares = costs**2
    efficiency = np.divide(squares, gains, out=np.zeros_like(gains), where=gains > 0)
    # At this multiplier, every concept is at its largest gain.
    high = (2.0 * efficiency.max(axis=(1, 2)) + 1e-12) * gains.shape[-1] * 1e3

    def is_reached(exponent: Array) -> Array:
        gain = _best_levels(gains, squares, np.exp(exponent), max_concepts, unmoved)[1]
        return np.asarray(gain >= need)

    # The search is over log λ, because λ may have any order of magnitude.
    low = np.full(len(gains), np.log(1e-12))
    _, exponent = bisected(is_reached, low, np.log(high), HALVINGS)
    levels, gain = _best_levels(gains, squares, np.exp(exponent), max_concepts, unmoved)
    cost = np.take_along_axis(squares, levels[..., None], axis=2)[..., 0].sum(axis=1)
    return levels, np.sqrt(cost), np.maximum(need - gain, 0.0)


def _best_levels(
    gains: Array, squares: Array, multiplier: Array, max_concepts: int, unmoved: int
) -> tuple[Array, Array]:
    """Return the best levels (n, I) for a multiplier λ (n,), and their total gain (n,)."""
    value = multiplier[:, None, None] * gains - squares
    levels = value.argmax(axis=2)
    best = value.max(axis=2)
    rank = np.argsort(np.argsort(-best, axis=1, kind="stable"), axis=1)
    levels = np.where((rank < max_concepts) & (best > 0), levels, unmoved)
    gain = np.take_along_axis(gains, levels[..., None], axis=2)[..., 0].sum(axis=1)
    return levels, gain


def closed_form_shifts(
    u: Array,
    slopes: Array,
    gram: Array,
    need: Array,
    limits: tuple[Array, Array],
    bounds: CoefficientRange,
) -> Array:
    """Compute the least shifts with Σ_i slope_i mean_p(u'_{p,i} − u_{p,i}) = need.

        t = clip(λ d, limits),   d = argmin ½ dᵀGd − slopeᵀd in the directions that limits allow

    with the smallest λ that meets the need. Without limits, t ∝ G⁻¹ slope has the least feature
    norm ‖(u' − u) B‖_F among *all* changes of coefficients: if the score is linear in the means,
    the least change is the same at all positions. If coefficients are clipped to their range, the
    result is still the least change if the concepts' directions are orthogonal, and otherwise near
    it.

    Parameters
    ----------
    u : ndarray of shape (n, P, I)
        Coefficients.
    slopes : ndarray of shape (n, I)
        Slopes of the lead in the mean coefficients. A concept with slope 0 is not moved.
    gram : ndarray of shape (I, I)
        G = B Bᵀ.
    need : ndarray of shape (n,)
        Required change of the lead, > 0. If it cannot be reached, shifts go as far as the limits
        allow.
    limits : tuple of two ndarrays of shape (n, I)
        Lowest and highest shifts; see `CoefficientRange.furthest_shifts`.
    bounds : CoefficientRange
        Range of the coefficients.

    Returns
    -------
    shifts : ndarray of shape (n, I)
        The shifts t.
    """
    direction = _steepest(slopes, gram, limits)
    own = u.mean(axis=1)

    def shifts_at(multiplier: Array) -> Array:
        return np.asarray(np.clip(multiplier[:, None] * direction, *limits))

    def is_reached(multiplier: Array) -> Array:
        means = bounds.shifted(u, shifts_at(multiplier)).mean(axis=1)
        return np.asarray(((means - own) * slopes).sum(axis=1) >= need)

    reach, size = np.maximum(np.abs(limits[0]), np.abs(limits[1])), np.abs(direction)
    steps = np.divide(reach, size, out=np.zeros_like(size), where=size > 0)
    _, multiplier = bisected(is_reached, np.zeros(len(u)), steps.max(axis=1) + 1e-12, HALVINGS)
    return shifts_at(multiplier)


def _steepest(slopes: Array, gram: Array, limits: tuple[Array, Array]) -> Array:
    """Return the direction d (n, I) of the largest gain per norm: the least ½ dᵀGd − slopeᵀd.

    It moves only concepts with a slope, and only in directions that the limits allow. Coordinate
    descent is used, because there are few such concepts.
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
    return np.asarray(direction)
