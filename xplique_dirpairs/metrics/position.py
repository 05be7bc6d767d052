"""How much concept maps, or the channels of a layer, depend on the place in the image.

Pure functions of maps (N, H, W, I) of N images, and of *pooled* values, the mean of a map over its
cells. `position_dependence` computes the maps and calls them. Map share, placed share and border
contrast are defined here [ours]; the mirror scores are those of the code of Islam et al.,
"Global pooling, more than meets the eye" (ICCV 2021).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from xplique_dirpairs.core.batching import chunk_size, slices
from xplique_dirpairs.core.types import Array
from xplique_dirpairs.core.validation import check_finite

#: Share of a rolled map's variance above which a concept is called position (or border).
POSITION_ABOVE = 0.5
#: Border share above which a concept of position is called border. Ramps, valleys and cones
#: reach 0.7, planted borders are above it: see docs/position.md.
BORDER_ABOVE = 0.8
#: Fewest cells along a side of maps from which borders are told: inside narrower ones hardly
#: anything is left, and even ramps would count as borders.
BORDER_CELLS = 5
#: Placed share above which a concept is called modulated.
MODULATED_ABOVE = 0.2
#: Share below which a concept counts as free, if all of its shares are below.
FREE_BELOW = 0.05
#: Variances below this share of the mean square of the values are rounding errors.
_ROUNDING = 1e-9
#: Number of equal bins of the values from which places are told, each with as many fitted values.
_BINS = 16

POSITION, BORDER = "position", "border"
BY_POSITION, BY_BORDER = "modulated by position", "modulated by the border"
BY_EITHER = "modulated by place"
FREE, WEAK, UNKNOWN = "free", "weak", "unknown"
#: All verdicts, from the strongest dependence on.
VERDICTS = (POSITION, BORDER, BY_POSITION, BY_BORDER, BY_EITHER, WEAK, FREE, UNKNOWN)


class MapStatistics(NamedTuple):
    """Statistics of the maps of I concepts, each of shape (B, I) for B samples of the images.

    Attributes
    ----------
    share : ndarray of shape (B, I)
        Map share; NaN for a constant map.
    border_share : ndarray of shape (B, I)
        Border share; NaN where the mean map does not vary, or is too small.
    """

    share: Array
    border_share: Array


def map_statistics(
    maps: ArrayLike, border: Sequence[int] = (1, 2, 3), samples: ArrayLike | None = None
) -> MapStatistics:
    """Compute how much of the variance of maps is explained by the place, and by the border.

    The map share is η² = V_b / (V_b + V_w). V_w is the variance over the images at a cell (with
    N − 1), averaged over the cells; V_b is the variance over the cells of the mean map, less what
    the sampling of N images adds to it, V_w / N, and at least 0. The border share is
    1 − V_inside / V_b, where V_inside is V_b without the cells within r of an edge; r is the
    largest of `border_widths`. Maps with fewer than 5 cells along a side have none.

    Parameters
    ----------
    maps : array-like of shape (N, H, W, I)
        Maps of I concepts in N ≥ 2 images.
    border : sequence of int, default=(1, 2, 3)
        Widths of the border in cells.
    samples : array-like of shape (B, N), optional
        How often each of B bootstrap samples holds each image, N in all. What their own sampling
        adds is taken off as well. None: one sample with every image once.

    Returns
    -------
    statistics : MapStatistics
    """
    maps = np.asarray(maps, np.float32)
    count, height, width, concepts = maps.shape
    own = samples is None
    weights = np.ones((1, count)) if own else np.asarray(samples, np.float64)
    noise = 1.0 if own else 2.0
    inside = _inside((height, width), border_widths((height, width), border)[-1])
    tells_borders = min(height, width) >= BORDER_CELLS
    shares, borders = [], []
    cells = height * width
    for part in slices(concepts, chunk_size(cells * max(count, len(weights)))):
        x = maps[..., part].reshape(count, cells, -1).astype(np.float64)
        centre = x.mean(axis=(0, 1))
        x -= centre
        floor = _ROUNDING * ((x**2).mean(axis=(0, 1)) + centre**2)
        flat = x.reshape(count, -1)
        mean = (weights @ flat / count).reshape(len(weights), cells, -1)
        squares = (weights @ flat**2 / count).reshape(mean.shape)
        within = np.maximum(squares - mean**2, 0.0) * (count / (count - 1))
        between = _less(mean.var(axis=1), noise * within.mean(axis=1) / count)
        total = between + within.mean(axis=1)
        shares.append(_ratio(between, total, floor))
        if not tells_borders:
            borders.append(np.full_like(shares[-1], np.nan))
            continue
        within_inside = within[:, inside].mean(axis=1)
        between_inside = _less(mean[:, inside].var(axis=1), noise * within_inside / count)
        borders.append(np.maximum(1.0 - _ratio(between_inside, between, floor), 0.0))
    return MapStatistics(np.concatenate(shares, axis=1), np.concatenate(borders, axis=1))


def border_widths(shape: tuple[int, int], border: Sequence[int] = (1, 2, 3)) -> tuple[int, ...]:
    """Return the widths r of ``border`` that are at most a fifth of a map's sides, or (1,).

    A wider border would take in so much of a map that everything counts as its border.
    """
    most = max(1, min(shape) // 5)
    return tuple(sorted(r for r in border if r <= most)) or (1,)


def border_contrast(profiles: ArrayLike, spreads: ArrayLike, border: Sequence[int]) -> Array:
    """Compute how much higher mean maps are within r cells of an edge than inside, in spreads.

    Parameters
    ----------
    profiles : array-like of shape (I, H, W)
        Mean map of each concept.
    spreads : array-like of shape (I,)
        Standard deviation of each concept over images and cells.
    border : sequence of R int
        Widths r.

    Returns
    -------
    contrast : ndarray of shape (I, R)
        NaN where the spread is 0, or where r cells from the edges nothing is left.
    """
    profiles, spreads = np.asarray(profiles, np.float64), np.asarray(spreads, np.float64)
    contrast = np.full((len(profiles), len(border)), np.nan)
    known = spreads > 0
    for column, r in enumerate(border):
        inside = _inside(profiles.shape[1:], r)
        if inside.any():
            flat = profiles.reshape(len(profiles), -1)[known]
            difference = flat[:, ~inside].mean(axis=1) - flat[:, inside].mean(axis=1)
            contrast[known, column] = difference / spreads[known]
    return contrast


def placed_share(
    pooled: ArrayLike, samples: ArrayLike | None = None, floor: ArrayLike = 0.0
) -> tuple[Array, Array]:
    """Compute the share of the variance that comes from where a patch is placed.

    Parameters
    ----------
    pooled : array-like of shape (N, G, I)
        Pooled values of I concepts for N patches at each of G places.
    samples : array-like of shape (B, N), optional
        How often each of B bootstrap samples holds each patch. None: one sample of all.
    floor : array-like of shape (I,), default=0
        Variance up to which a concept does not answer to the patches, for example of rounding.

    Returns
    -------
    share : ndarray of shape (B, I)
        E_n Var_g(c) / Var(c), in [0, 1]; NaN for a concept that does not answer to the patches.
    main : ndarray of shape (B, I)
        Var_g(E_n c) / Var(c): the part of it that is the same for all patches.
    """
    c = np.asarray(pooled, np.float64)
    count, places, concepts = c.shape
    weights = np.ones((1, count)) if samples is None else np.asarray(samples, np.float64)
    level = c.mean(axis=(0, 1))
    c = c - level
    rounding = _ROUNDING * ((c**2).mean(axis=(0, 1)) + level**2)
    least = np.maximum(np.asarray(floor, np.float64), rounding)
    weights = weights / count
    by_place = (weights @ c.reshape(count, -1)).reshape(len(weights), places, concepts)
    within = weights @ c.var(axis=1)
    means = c.mean(axis=1)
    total = within + np.maximum(weights @ means**2 - (weights @ means) ** 2, 0.0)
    return _ratio(within, total, least), _ratio(by_place.var(axis=1), total, least)


def decodability(pooled: ArrayLike, rng: np.random.Generator) -> Array:
    """Measure how well the row or the column of a patch can be told from one pooled value.

    Half of the patches fit, the other half are told, and the reverse. What is fitted: the most
    frequent row, and column, in each of 16 bins of the value, and which of the two is told better.

    Parameters
    ----------
    pooled : array-like of shape (N, G, G, I)
        Pooled values for N ≥ 2 patches, at G rows and G columns of places.
    rng : numpy.random.Generator
        Chooses the halves.

    Returns
    -------
    decodability : ndarray of shape (I,)
        Share of the placed patches that are told right; chance is 1/G.
    """
    c = np.asarray(pooled, np.float64)
    count, concepts = len(c), c.shape[-1]
    order = rng.permutation(count)
    halves = order[: count // 2], order[count // 2 :]
    scores = np.zeros(concepts)
    for fit, told in (halves, halves[::-1]):
        for i in range(concepts):
            own = [_told(c[..., i], axis, fit, told) for axis in (1, 2)]
            scores[i] += max(own)[1] * len(told) / count
    return scores


def _told(c: Array, axis: int, fit: Array, told: Array) -> tuple[float, float]:
    """Return which share of the fitted, and of the other patches' rows or columns is told."""
    grid = c.shape[1]
    truth = np.broadcast_to(np.arange(grid)[:, None] if axis == 1 else np.arange(grid), c.shape[1:])
    edges = np.quantile(c[fit], np.arange(1, _BINS) / _BINS)
    bins = np.searchsorted(edges, c)
    counts = np.zeros((_BINS, grid))
    np.add.at(counts, (bins[fit], np.broadcast_to(truth, bins[fit].shape)), 1)
    right = counts.argmax(axis=1)[bins] == truth
    return float(right[fit].mean()), float(right[told].mean())


def position_verdicts(
    rolled: ArrayLike, border: ArrayLike, interior: ArrayLike, edge: ArrayLike
) -> Array:
    """Return what each concept is, from its shares: the first of these that holds.

    "position": more than half of the variance of its rolled maps is between cells; if what makes it
    up is known to be at the border, "border". "modulated by position": it answers differently to a
    patch at different places inside. "modulated by the border": only so where patches touch the
    edges; "modulated by place" if the inside could not be measured. "free": all shares are below
    0.05. "weak": what is left. "unknown": a share that is needed could not be measured, because a
    concept never varies or does not answer to the patches.

    Parameters
    ----------
    rolled, border, interior, edge : array-like of shape (..., I)
        Rolled map share, border share, and placed shares of both arms. NaN: not measured.

    Returns
    -------
    verdicts : ndarray of shape (..., I), str
    """
    rolled, border, interior, edge = np.broadcast_arrays(rolled, border, interior, edge)
    with np.errstate(invalid="ignore"):
        is_position = rolled > POSITION_ABOVE
        inside_known = ~np.isnan(interior)
        largest = np.fmax(np.fmax(rolled, interior), edge)
        rules = [
            (is_position & (border > BORDER_ABOVE), BORDER),
            (is_position, POSITION),
            (interior > MODULATED_ABOVE, BY_POSITION),
            ((edge > MODULATED_ABOVE) & inside_known, BY_BORDER),
            (edge > MODULATED_ABOVE, BY_EITHER),
            (np.isnan(rolled) | np.isnan(edge), UNKNOWN),
            (largest < FREE_BELOW, FREE),
        ]
    words = [word for _, word in rules]
    return np.asarray(np.select([rule for rule, _ in rules], words, WEAK))


def mirror_scores(
    pooled: ArrayLike, pooled_of_mirrored: ArrayLike, *, signed: bool = False
) -> Array:
    """Compute the mirror score of each channel, by which the paper ranks them.

    It is the mean over images of |pooled value − pooled value of the mirrored image|. It takes
    handedness of the content for position, and misses what depends on the position alone:
    `position_dependence` is the better measure.

    Parameters
    ----------
    pooled : array-like of shape (N, I)
        Values of N images averaged over positions.
    pooled_of_mirrored : array-like of shape (N, I)
        The same for the images mirrored left to right.
    signed : bool, default=False
        Whether to average the differences with their signs, for the paper's ranking of channels of
        the left or the right.

    Returns
    -------
    scores : ndarray of shape (I,)

    Raises
    ------
    ValueError
        If the two arrays do not have one shape (N, I), or are not finite.
    """
    one, other = np.asarray(pooled, np.float64), np.asarray(pooled_of_mirrored, np.float64)
    if one.ndim != 2 or one.shape != other.shape or not one.size:
        raise ValueError(
            "pooled and pooled_of_mirrored must both have shape (N, I), averaged over positions, "
            f"not {one.shape} and {other.shape}"
        )
    for name, values in (("pooled", one), ("pooled_of_mirrored", other)):
        check_finite(name, values)
    difference = one - other
    return np.asarray((difference if signed else np.abs(difference)).mean(axis=0))


def resamples(count: int, number: int, rng: np.random.Generator) -> Iterator[Array]:
    """Yield bootstrap samples of ``count`` images: how often each image is in it, (count,)."""
    for _ in range(number):
        yield np.bincount(rng.integers(count, size=count), minlength=count)


def _inside(shape: tuple[int, ...], r: int) -> Array:
    """Return which of the H·W cells are at least r cells from every edge, (H·W,) bool."""
    height, width = shape
    rows = (np.arange(height) >= r) & (np.arange(height) < height - r)
    columns = (np.arange(width) >= r) & (np.arange(width) < width - r)
    return np.outer(rows, columns).ravel()


def _less(variance: Array, noise: Array) -> Array:
    """Return a variance without what noise adds to it, at least 0."""
    return np.asarray(np.maximum(variance - noise, 0.0))


def _ratio(part: Array, whole: Array, floor: Array) -> Array:
    """Return part / whole, and NaN where the whole does not exceed the floor."""
    known = whole > floor
    return np.where(known, part / np.where(known, whole, 1.0), np.nan)
