"""Does a unit answer to how things look, to how they move, or to which video it is?

Pure functions of *pooled* values: one number for each unit (a concept, or a channel) and clip.
Pairs of clips share appearance ("static"), motion ("dynamic") or neither of them; all three share
the video. The correlations and classes are those of Kowal et al., "A deeper dive into what deep
spatiotemporal networks encode" (CVPR 2022); the shares are Sobol indices [ours].
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import ArrayLike

from xplique_dirpairs.core.batching import chunk_size, slices
from xplique_dirpairs.core.types import Array
from xplique_dirpairs.core.validation import check_choice, check_integer, check_random_state

#: Pooled values of the two clips of each pair, (n, I) each.
Pooled: TypeAlias = tuple[ArrayLike, ArrayLike]

#: Kinds of pairs: what the two clips of a pair have in common, apart from the video.
STATIC, DYNAMIC, NEITHER = "static", "dynamic", "neither"
PAIR_KINDS = (STATIC, DYNAMIC, NEITHER)
#: What a unit may answer to, in the order of figures and tables.
SHARES = ("static", "dynamic", "content", "interaction")
CENTRINGS = ("shared", "side")
JOINT, RESIDUAL = "joint", "residual"
#: Correlation from which a unit counts as static or dynamic in the published classes.
PUBLISHED_THRESHOLD = 0.5
#: A unit whose deviation is below this share of its largest value is constant up to rounding.
_ROUNDING = 1e-6


@dataclass(frozen=True, eq=False)
class StaticDynamicShares:
    """Shares of the variance of I units that come from appearance, motion and content.

    `static_dynamic_shares` returns it. The four shares of a unit sum to 1; they are NaN for a
    constant unit. Shares are estimates: they may leave [0, 1] by their error.

    Attributes
    ----------
    static : ndarray of shape (I,)
        Share of how things look: it changes with the style, whatever else is the same.
    dynamic : ndarray of shape (I,)
        Share of how things move: it changes if the frames are shuffled.
    content : ndarray of shape (I,)
        Share of the video itself, which all pairs have in common: what is kept if style and order
        of frames both change.
    interaction : ndarray of shape (I,)
        The rest: what needs appearance and motion at once, and noise.
    standard_error : dict of str to ndarray of shape (I,)
        Standard error of each of the four shares: deviation over bootstrap samples of the videos.
    correlations : dict of str to ndarray of shape (I,)
        Correlation ρ of each unit over the pairs "static", "dynamic" and "neither".
    layer_correlations : dict of str to float
        The same for all units together: sum of covariances over sum of variances.
    centring : {"shared", "side"}
        What values are centred by in the correlations.
    """

    static: Array
    dynamic: Array
    content: Array
    interaction: Array
    standard_error: Mapping[str, Array]
    correlations: Mapping[str, Array]
    layer_correlations: Mapping[str, float]
    centring: str

    def published(self) -> PublishedBias:
        """Return the published scores, percentages and classes of the same pairs.

        Returns
        -------
        published : PublishedBias
            They are computed from ``correlations``, which are the published ones with
            ``centring="shared"``.
        """
        static, dynamic = self.correlations[STATIC], self.correlations[DYNAMIC]
        return PublishedBias(
            static,
            dynamic,
            published_percentages(
                self.layer_correlations[DYNAMIC], self.layer_correlations[STATIC]
            ),
            published_classes(static, dynamic),
        )


@dataclass(frozen=True, eq=False)
class PublishedBias:
    """Scores, percentages and classes of Kowal et al. (2022).

    Attributes
    ----------
    static : ndarray of shape (I,)
        Correlation of each unit over pairs of the same appearance.
    dynamic : ndarray of shape (I,)
        The same over pairs of the same motion.
    percentages : dict of str to float
        Percentages of the layer: "dynamic", "static" and "residual"; see `published_percentages`.
    classes : ndarray of shape (I,), str
        Class of each unit; see `published_classes`.
    """

    static: Array
    dynamic: Array
    percentages: Mapping[str, float]
    classes: Array


def static_dynamic_shares(
    pooled: Mapping[str, Pooled],
    videos: Mapping[str, ArrayLike] | ArrayLike | None = None,
    *,
    centring: str = "shared",
    resamples: int = 200,
    random_state: int | None = 0,
) -> StaticDynamicShares:
    """Compute which shares of the variance of units come from appearance, motion and content.

    The correlation ρ of a unit over pairs (a, b) with the same factors is the pick-freeze estimate
    of the closed Sobol index of these factors. All pairs have the video in common, so with the
    correlation ρ_∅ of pairs that have nothing else in common

        static = ρ_stat − ρ_∅, dynamic = ρ_dyn − ρ_∅, content = ρ_∅,
        interaction = 1 − ρ_stat − ρ_dyn + ρ_∅.

    Parameters
    ----------
    pooled : mapping of str to (array-like of shape (n, I), array-like of shape (n, I))
        Pooled values of I units in the two clips of each pair. "static": pairs of the same
        appearance (a clip, and the same clip with its frames shuffled); "dynamic": of the same
        motion (a clip in two styles); "neither": of the same video only (a clip, and the same clip
        shuffled in another style). The number of pairs n ≥ 2 may differ between kinds.
    videos : array-like of shape (n,), or mapping of str to it, optional
        Number of the video of each pair, for all kinds or for each kind: standard errors are those
        over videos. None: every pair comes from another video, the same in all kinds if they have
        as many pairs.
    centring : {"shared", "side"}, default="shared"
        "shared": values are centred by the mean of both sides, as published. If all clips of one
        side are shifted by a constant (a unit that *reacts* to shuffling), this lowers the
        correlation. "side": each side is centred by its own mean, which ignores the shift.
    resamples : int, default=200
        Number of bootstrap samples.
    random_state : int or None, default=0
        Seed of the bootstrap. None draws a seed.

    Returns
    -------
    shares : StaticDynamicShares

    Raises
    ------
    ValueError
        If a kind of pairs is missing; if values are no finite arrays (n, I) of the same I with
        n ≥ 2; or if an argument is out of range.
    """
    check_choice("centring", centring, CENTRINGS)
    check_integer("resamples", resamples, 2)
    sides = _checked(pooled)
    numbers = _checked_videos(videos, {kind: len(a) for kind, (a, _) in sides.items()})
    rng = check_random_state(random_state)
    names = np.unique(np.concatenate(list(numbers.values())))
    own, replicates, layer = {}, {}, {}
    drawn = rng.multinomial(len(names), np.full(len(names), 1 / len(names)), size=resamples)
    for kind, (a, b) in sides.items():
        weights = drawn[:, np.searchsorted(names, numbers[kind])].astype(np.float64)
        covariance, variance = _moments(a, b, np.ones((1, len(a))), centring)
        own[kind] = _ratio(covariance, variance, a, b)[0]
        is_known = ~np.isnan(own[kind])
        total = float(variance[0, is_known].sum())
        layer[kind] = float(covariance[0, is_known].sum()) / total if total else np.nan
        replicates[kind] = _ratio(*_moments(a, b, weights, centring), a, b)
    errors = {
        name: _deviation(values)
        for name, values in zip(SHARES, _shares(replicates), strict=True)
    }  # fmt: skip
    return StaticDynamicShares(*_shares(own), errors, own, layer, centring)


def _shares(correlations: Mapping[str, Array]) -> tuple[Array, Array, Array, Array]:
    """Return the shares static, dynamic, content and interaction from correlations."""
    static, dynamic, content = (correlations[kind] for kind in PAIR_KINDS)
    return static - content, dynamic - content, content, 1.0 - static - dynamic + content


def _moments(a: Array, b: Array, weights: Array, centring: str) -> tuple[Array, Array]:
    """Return covariance and variance of pairs (n, I) under weights (B, n), (B, I) each.

    With "shared" centring, m is the mean of both sides: the covariance is E[(a − m)(b − m)] and the
    variance that of both sides together. With "side", each side has its own mean.
    """
    middle = 0.5 * (a.mean(axis=0) + b.mean(axis=0))
    a, b = a - middle, b - middle  # squares of large means would cost precision
    total = weights.sum(axis=1, keepdims=True)
    total = np.where(total > 0, total, np.nan)

    def means(values: Array) -> Array:
        parts = slices(len(weights), chunk_size(values.size))
        return np.concatenate([weights[part] @ values / total[part] for part in parts])

    mean_a, mean_b, product = means(a), means(b), means(a * b)
    squares = 0.5 * means(a**2 + b**2)
    if centring == "side":
        return product - mean_a * mean_b, squares - 0.5 * (mean_a**2 + mean_b**2)
    shared = 0.5 * (mean_a + mean_b)
    return product - shared**2, squares - shared**2


def _ratio(covariance: Array, variance: Array, a: Array, b: Array) -> Array:
    """Return covariance over variance; NaN where the variance is 0 up to rounding."""
    largest = np.maximum(np.abs(a).max(axis=0), np.abs(b).max(axis=0))
    is_constant = ~(variance > (_ROUNDING * largest) ** 2)
    safe = np.where(is_constant, 1.0, variance)
    return np.asarray(np.where(is_constant, np.nan, covariance / safe))


def _deviation(values: Array) -> Array:
    """Return the standard deviation of bootstrap replicates (B, I); NaN for a constant unit."""
    known = ~np.isnan(values)
    count = known.sum(axis=0)
    mean = np.where(known, values, 0.0).sum(axis=0) / np.maximum(count, 1)
    squares = np.where(known, values - mean, 0.0) ** 2
    deviation = np.sqrt(squares.sum(axis=0) / np.maximum(count - 1, 1))
    return np.asarray(np.where(count > 1, deviation, np.nan))


# ------------------------------------------------------------ as published


def published_percentages(dynamic: float, static: float) -> dict[str, float]:
    """Compute the published percentages of a layer from its correlations.

    They are the softmax over (ρ_dyn, ρ_stat, 1), the 1 for the residual. This squeezes them: a
    layer that answers to neither has 21.2 % of each, and none has more than 42.2 %.

    Parameters
    ----------
    dynamic, static : float
        Correlations of the layer over pairs of the same motion, and of the same appearance.

    Returns
    -------
    percentages : dict of str to float
        "dynamic", "static" and "residual", which sum to 100.
    """
    exponentials = np.exp([dynamic, static, 1.0])
    shares = 100.0 * exponentials / exponentials.sum()
    return dict(zip(("dynamic", "static", "residual"), map(float, shares), strict=True))


def correlations_of_percentages(dynamic: float, static: float) -> tuple[float, float]:
    """Compute the correlations that published percentages of a layer stand for.

    It inverts `published_percentages`: ρ = 1 + ln(percentage / percentage of the residual).

    Parameters
    ----------
    dynamic, static : float
        Percentages of a layer, more than 0, and less than 100 together.

    Returns
    -------
    dynamic, static : float
        Correlations ρ_dyn and ρ_stat of the layer.

    Raises
    ------
    ValueError
        If the percentages leave nothing for the residual, or are not above 0.
    """
    residual = 100.0 - dynamic - static
    if min(dynamic, static, residual) <= 0:
        raise ValueError(
            "percentages must be above 0 and leave something for the residual, not "
            f"{dynamic!r} and {static!r}"
        )
    return 1.0 + float(np.log(dynamic / residual)), 1.0 + float(np.log(static / residual))


def published_classes(static: ArrayLike, dynamic: ArrayLike) -> Array:
    """Return the published classes of units: "static", "dynamic", "joint" or "residual".

    Parameters
    ----------
    static, dynamic : array-like of shape (I,)
        Correlations of I units over pairs of the same appearance, and of the same motion.

    Returns
    -------
    classes : ndarray of shape (I,), str
        "joint" if both correlations are above 0.5, "residual" if none is. Of factors that are
        independent and add up, no unit has both above 0.5: a "joint" unit answers to the content
        of the video. A constant unit is "residual".
    """
    is_static = np.asarray(static) > PUBLISHED_THRESHOLD
    is_dynamic = np.asarray(dynamic) > PUBLISHED_THRESHOLD
    classes = np.where(is_static, STATIC, np.where(is_dynamic, DYNAMIC, RESIDUAL))
    return np.where(is_static & is_dynamic, JOINT, classes)


# ------------------------------------------------------------ checks


def _checked(pooled: Mapping[str, Pooled]) -> dict[str, tuple[Array, Array]]:
    """Return the pooled values of all kinds of pairs as float64."""
    missing = [kind for kind in PAIR_KINDS if kind not in pooled]
    if missing:
        raise ValueError(
            f"pooled must have the pairs {PAIR_KINDS}, but {missing[0]!r} is missing: without "
            "pairs that have only the video in common, content cannot be told from the rest"
        )
    sides: dict[str, tuple[Array, Array]] = {}
    width: int | None = None
    for kind in PAIR_KINDS:
        a, b = (np.asarray(values, np.float64) for values in pooled[kind])
        if a.ndim != 2 or a.shape != b.shape or len(a) < 2:
            raise ValueError(
                f"the {kind!r} pairs must be two arrays (n, I) of n ≥ 2 pairs, not of shapes "
                f"{a.shape} and {b.shape}"
            )
        if width not in (None, a.shape[1]):
            raise ValueError(
                f"all pairs must have the same units, but {kind!r} has {a.shape[1]} and "
                f"{PAIR_KINDS[0]!r} has {width}"
            )
        if not (np.isfinite(a).all() and np.isfinite(b).all()):
            raise ValueError(f"the {kind!r} pairs hold NaN or infinite values")
        width = a.shape[1]
        sides[kind] = (a, b)
    return sides


def _checked_videos(
    videos: Mapping[str, ArrayLike] | ArrayLike | None, counts: Mapping[str, int]
) -> dict[str, Array]:
    """Return the number of the video of each pair, by kind."""
    numbers: dict[str, Array] = {}
    for kind, count in counts.items():
        own = videos.get(kind) if isinstance(videos, Mapping) else videos
        numbers[kind] = np.arange(count) if own is None else np.asarray(own)
        if numbers[kind].shape != (count,):
            raise ValueError(
                f"videos must be one number for each of {count} {kind!r} pairs, not of shape "
                f"{numbers[kind].shape}"
            )
    return numbers
