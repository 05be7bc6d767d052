"""Which few concepts to move, and by how much, so that a gap between two classes closes.

Both functions solve the same problem for many images at once,

    min Σ_i c_i(t_i)²   so that   Σ_i gain_i(t_i) ≥ need,   few t_i ≠ 0,   t_i within limits,

by its multiplier λ: given λ every concept minimises c_i(t)² − λ gain_i(t) on its own, and gains
grow with λ. `best_concepts` takes tables of what was measured at a few shifts and finds out
which concepts; `closed_form_shifts` takes slopes, and is exact where gains are linear in the
coefficients: for a head that is linear after pooling, whose features reach no limit.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from xplique_dirpairs.interventions.coefficient_range import CoefficientRange

_HALVINGS = 40
#: Sweeps of the coordinate descent.
_SWEEPS = 20


def best_concepts(
    gains: NDArray, costs: NDArray, need: NDArray, at_most: int, unmoved: int
) -> tuple[NDArray, NDArray, NDArray]:
    """The cheapest levels of at most so many concepts whose gains add up to the need.

    Parameters
    ----------
    gains : (n, I, L)
        What each level of each concept adds to the gap.
    costs : (n, I, L)
        c, ≥ 0.
    need : (n,)
        The sum of gains that is wanted, > 0.
    at_most
        k, the number of concepts that may be moved.
    unmoved
        The level of a concept that is left alone, with gain and cost 0. Others may cost nothing,
        too: a concept that an image has none of cannot be lowered.

    Returns
    -------
    levels : (n, I) int
        Index into L.
    cost : (n,)
        sqrt(Σ c²).
    missing : (n,)
        How much of the need is not reached, 0 where it is.
    """
    squares = costs**2
    efficiency = np.where(gains > 0, squares / np.where(gains > 0, gains, 1.0), 0.0)
    # at twice the largest c²/gain every concept is at its largest gain
    high = 2.0 * efficiency.reshape(len(gains), -1).max(axis=1) + 1e-12
    high = high * gains.shape[-1] * 1e3
    low = np.full(len(gains), 1e-12)
    for _ in range(_HALVINGS):
        middle = np.sqrt(low * high)  # λ may be of any order of magnitude
        reached = _chosen(gains, squares, middle, at_most, unmoved)[1] >= need
        low, high = np.where(reached, low, middle), np.where(reached, middle, high)
    levels, gain = _chosen(gains, squares, high, at_most, unmoved)
    cost = np.take_along_axis(squares, levels[..., None], axis=2)[..., 0].sum(axis=1)
    return levels, np.sqrt(cost), np.maximum(need - gain, 0.0)


def _chosen(
    gains: NDArray, squares: NDArray, multiplier: NDArray, at_most: int, unmoved: int
) -> tuple[NDArray, NDArray]:
    """Levels (n, I) of the most valuable concepts under λ, the others unmoved; their gain (n,)."""
    value = multiplier[:, None, None] * gains - squares
    levels = value.argmax(axis=2)
    best = np.take_along_axis(value, levels[..., None], axis=2)[..., 0]
    order = np.argsort(-best, axis=1, kind="stable")
    rank = np.empty_like(order)
    np.put_along_axis(rank, order, np.arange(order.shape[1])[None], axis=1)
    levels = np.where((rank < at_most) & (best > 0), levels, unmoved)
    gain = np.take_along_axis(gains, levels[..., None], axis=2)[..., 0].sum(axis=1)
    return levels, gain


def _steepest(slopes: NDArray, gram: NDArray, limits: tuple[NDArray, NDArray]) -> NDArray:
    """Direction d, (n, I), that closes the gap at the least norm: min ½ dᵀGd − slopeᵀd.

    Of concepts with a slope, and to the side that the limits leave open. By coordinate descent:
    there are few of them.
    """
    low = np.where((limits[0] < 0) & (slopes != 0), -np.inf, 0.0)
    high = np.where((limits[1] > 0) & (slopes != 0), np.inf, 0.0)
    diagonal = np.maximum(np.diag(gram), np.finfo(np.float64).tiny)
    movable = np.flatnonzero(((low < 0) | (high > 0)).any(axis=0))
    d = np.clip(slopes / diagonal, low, high)
    for _ in range(_SWEEPS):
        for i in movable:
            rest = slopes[:, i] - d @ gram[:, i] + d[:, i] * gram[i, i]
            d[:, i] = np.clip(rest / diagonal[i], low[:, i], high[:, i])
    return d


def closed_form_shifts(
    u: NDArray,
    slopes: NDArray,
    gram: NDArray,
    need: NDArray,
    limits: tuple[NDArray, NDArray],
    seen: CoefficientRange,
) -> NDArray:
    """Least shifts with Σ_i slope_i mean_p(u'_{p,i} − u_{p,i}) = need.

        t = clip(λ d, limits),   d = argmin ½ dᵀGd − slopeᵀd to the sides left open

    with the smallest λ that reaches the need. Without limits that is t ∝ G⁻¹ slope, the least
    feature norm ‖(u' − u) B‖_F of *all* changes of coefficients: where the score is linear in the
    means, the least change is the same at all positions. Where the range cuts it off, it is the
    least as long as the concepts' directions are orthogonal, and near it otherwise.

    Parameters
    ----------
    u : (n, P, I)
    slopes : (n, I)
        Of the gap in the means; 0 keeps a concept where it is.
    gram : (I, I)
        G = B Bᵀ.
    need : (n,)
        Above 0.
    limits : (least, most), (n, I) each
        Of the shifts; see `CoefficientRange.furthest`.
    seen
        The range.

    Returns
    -------
    shifts : (n, I)
        As far as the limits allow where the need cannot be reached.
    """
    direction = _steepest(slopes, gram, limits)
    own = u.mean(axis=1)

    def shifts_at(multiplier: NDArray) -> NDArray:
        return np.clip(multiplier[:, None] * direction, *limits)

    def gain_at(multiplier: NDArray) -> NDArray:
        means = seen.shifted(u, shifts_at(multiplier)).mean(axis=1)
        return ((means - own) * slopes).sum(axis=1)

    reach = np.maximum(np.abs(limits[0]), np.abs(limits[1]))
    steps = np.where(direction == 0, 0.0, reach / np.where(direction == 0, 1.0, np.abs(direction)))
    low, high = np.zeros(len(u)), steps.max(axis=1) + 1e-12
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        reached = gain_at(middle) >= need
        low, high = np.where(reached, low, middle), np.where(reached, middle, high)
    return shifts_at(high)
