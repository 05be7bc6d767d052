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
from scipy.interpolate import make_interp_spline

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
#: Larger than any change of features: what misses the goal comes after all that meets it.
_FAR = 1e9


@dataclass(frozen=True)
class Goal:
    """Which change of a prediction counts.

    Attributes
    ----------
    target : int or None
        The class that is to win; None: any but the one predicted.
    margin : float
        Logits by which the new class is to lead.
    max_concepts : int
        Concepts that may be moved.
    """

    target: int | None = None
    margin: float = 0.0
    max_concepts: int = 1

    def lead(self, logits: Array, original: Array) -> Array:
        """Return the lead of the class that is to win, (r,).

        Parameters
        ----------
        logits : ndarray of shape (r, K)
        original : ndarray of shape (r,), int
            Classes predicted before.
        """
        classes = np.arange(logits.shape[1])
        wins = classes != original[:, None] if self.target is None else classes == self.target
        highest, others = (np.where(side, logits, -np.inf).max(axis=1) for side in (wins, ~wins))
        return np.asarray(highest - others)

    def is_met(self, lead: Array) -> Array:
        """Return whether a prediction with this lead counts as changed."""
        return np.asarray((lead > 0) & (lead >= self.margin))

    def rank(self, lead: Array, norm: Array) -> Array:
        """Return a number that is lower for better moves: short ones that meet the goal."""
        return np.where(self.is_met(lead), norm, _FAR - lead)


@dataclass(frozen=True, eq=False)
class LeastChanges:
    """The search for shifts of concepts that change the predictions of n images.

    Parameters
    ----------
    moved : MovedFeatures
    x : ndarray of shape (n, *S, D)
    u : ndarray of shape (n, *S, I)
    intact : ndarray of shape (n, K)
        Logits of the images as they are.
    limits : (ndarray of shape (n, I), ndarray of shape (n, I))
        Lowest shifts, ≤ 0, and highest, ≥ 0.
    goal : Goal
    """

    moved: MovedFeatures
    x: Array
    u: Array
    intact: Array
    limits: tuple[Array, Array]
    goal: Goal

    def attempts(self) -> tuple[Array, Array]:
        """Return C moves of each image, and whether they meet the goal, by the real head.

        Those that meet it come first, by ‖x' − x‖_F; then the others, by how near they come.

        Returns
        -------
        shifts : ndarray of shape (n, C, I), float32
        is_met : ndarray of shape (n, C), bool
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
        """Return promising shifts (C, n, I), and the classes (C, n) that are expected to win."""
        steps = np.array([*(-s for s in reversed(SCREENED)), 0.0, *SCREENED])
        gains, cost = self._responses(steps)
        own = self._original[:, None]
        gains = gains - np.take_along_axis(gains, own[..., None, None], axis=3)
        need = np.take_along_axis(self.intact, own, axis=1) - self.intact + self.goal.margin
        targets = self._nearest_classes(gains, cost, need).T
        fine = np.unique(np.concatenate([-_FINE, steps, _FINE]))
        # One problem for each of T targets and n images, (T·n, I, F) each.
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
        """Return changes of every logit (n, I, L, K), and their cost (n, I, L)."""
        reach = self._at_shares(steps)
        image, concept, step = np.nonzero(reach)  # the others leave everything as it is
        shifts = np.zeros((len(image), reach.shape[1]), np.float32)
        shifts[np.arange(len(image)), concept] = reach[image, concept, step]
        gains, cost = np.zeros((*reach.shape, self.intact.shape[1])), np.zeros(reach.shape)
        if len(image):
            logits, cost[image, concept, step] = self.moved.outcomes(self.x, self.u, image, shifts)
            gains[image, concept, step] = logits - self.intact[image]
        return gains, cost

    def _at_shares(self, shares: Array) -> Array:
        """Return shifts (n, I, L) at shares of the limits, −1 to 1."""
        least, most = (limit[..., None] for limit in self.limits)
        return np.where(shares < 0, -shares * least, shares * most)

    def _nearest_classes(self, gains: Array, cost: Array, need: Array) -> Array:
        """Return the classes (n, T) nearest by what the best concepts gain at their price."""
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
        """Return the least shifts (r, I) that any round comes to, each of the start's concepts."""
        bounds, flat, own = self.moved.bounds, flat_maps(self.u)[image], self._original[image]
        least, most = (limit[image] for limit in self.limits)
        # Only the side that the screening showed: the slopes of the other are different ones.
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
            # Where the range cuts the shift off everywhere there is no slope: the one before stays.
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
        """Return shifts (r, I) cut back to where the goal is just met; their lead and norm, (r,).

        Where the goal is not met, shifts stay as they are.
        """

        def shortened(share: Array) -> Array:
            return np.asarray(shifts * share[:, None], np.float32)

        def is_met(share: Array) -> Array:
            return self.goal.is_met(self._lead_and_norm(image, shortened(share))[0])

        _, share = bisected(is_met, np.zeros(len(image)), np.ones(len(image)), _SHORTENINGS)
        ends = shortened(share)
        return ends, *self._lead_and_norm(image, ends)


def first_near(shifts: Array, is_met: Array, percentiles: Array, stay_within: float) -> Array:
    """Return each image's first move that meets the goal near the data, else its first, (n, I).

    Parameters
    ----------
    shifts : ndarray of shape (n, C, I)
    is_met : ndarray of shape (n, C), bool
    percentiles : ndarray of shape (n, C)
        Of the training images' distances.
    stay_within : float
        The highest percentile that counts as near.
    """
    first = (is_met & (percentiles <= stay_within)).argmax(axis=1)
    return np.asarray(shifts[np.arange(len(first)), first])


# ------------------------------------------------------------ the problem and its multiplier


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
    efficiency = np.divide(squares, gains, out=np.zeros_like(gains), where=gains > 0)
    # At twice the largest c²/gain every concept is at its largest gain.
    high = (2.0 * efficiency.max(axis=(1, 2)) + 1e-12) * gains.shape[-1] * 1e3

    def is_reached(exponent: Array) -> Array:
        gain = _best_levels(gains, squares, np.exp(exponent), max_concepts, unmoved)[1]
        return np.asarray(gain >= need)

    # λ may be of any order of magnitude.
    low = np.full(len(gains), np.log(1e-12))
    _, exponent = bisected(is_reached, low, np.log(high), HALVINGS)
    levels, gain = _best_levels(gains, squares, np.exp(exponent), max_concepts, unmoved)
    cost = np.take_along_axis(squares, levels[..., None], axis=2)[..., 0].sum(axis=1)
    return levels, np.sqrt(cost), np.maximum(need - gain, 0.0)


def _best_levels(
    gains: Array, squares: Array, multiplier: Array, max_concepts: int, unmoved: int
) -> tuple[Array, Array]:
    """Return levels (n, I) of the best concepts under λ, the others unmoved, and the gain (n,)."""
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
        return np.asarray(np.clip(multiplier[:, None] * direction, *limits))

    def is_reached(multiplier: Array) -> Array:
        means = bounds.shifted(u, shifts_at(multiplier)).mean(axis=1)
        return np.asarray(((means - own) * slopes).sum(axis=1) >= need)

    reach, size = np.maximum(np.abs(limits[0]), np.abs(limits[1])), np.abs(direction)
    steps = np.divide(reach, size, out=np.zeros_like(size), where=size > 0)
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
    return np.asarray(direction)
