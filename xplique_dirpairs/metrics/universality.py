"""Do the same concepts fire at the same positions in several networks?

The measures of USAE (H. Thasarathan et al., "Universal Sparse Autoencoders", arXiv 2502.03714v2),
and the φ coefficient of firing together, with its significance. M models, P positions, U concepts:
concept u of every model is claimed to be the same.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import ArrayLike

from xplique_dirpairs.core.batching import slices
from xplique_dirpairs.core.types import Array
from xplique_dirpairs.core.validation import (
    check_choice,
    check_grid,
    check_integer,
    check_random_state,
)
from xplique_dirpairs.metrics.significance import p_values

#: How firings are made independent for the test of φ: see `universality`.
NULLS = ("images", "shifts")
#: Largest number of images that the test of φ uses: its table has a number for every two of them.
TESTED_IMAGES = 1000
#: Number of positions that are counted at a time.
_BLOCK = 65536
#: Noise that is weaker by no more than this counts as equally strong: rounding.
_ROUNDING = 1e-9


@dataclass(frozen=True, eq=False)
class Universality:
    """How far U concepts fire together in M models.

    F_m is the set of positions where a concept fires in model m.

    Attributes
    ----------
    firing_rate : ndarray of shape (M, U)
        Share of the positions where each concept fires, |F_m| / P.
    firing_entropy : ndarray of shape (U,)
        −Σ_m p_m log p_m / log M with p_m = |F_m| / Σ_l |F_l|, in [0, 1]: 1 if the concept fires
        equally often in all models. It does not see *where* the concept fires: read it with φ. NaN
        for a concept that never fires.
    cofire_proportion : ndarray of shape (M, U)
        |∩_l F_l| / |F_m|, in [0, 1]: the share of the firings in model m that all models have. 0
        for a concept that never fires in the model.
    cofire_iou : ndarray of shape (U,)
        |∩_m F_m| / |∪_m F_m|, in [0, 1]; 0 for a concept that never fires.
    phi : ndarray of shape (U,)
        Mean over pairs of models of the φ coefficient of the two firings, in [−1, 1]: 0 at chance.
    p_value : ndarray of shape (U,)
        Probability of a φ at least as large if the models had nothing in common; NaN if it was not
        tested. It is not corrected for the number of concepts: see `metrics.significance`.
    """

    firing_rate: Array
    firing_entropy: Array
    cofire_proportion: Array
    cofire_iou: Array
    phi: Array
    p_value: Array


class FiringCounts:
    """Counts of firings of U concepts in M models, to which blocks of positions are added.

    Parameters
    ----------
    present : array-like of shape (M, U), bool
        Which models have each concept. All measures of a concept are over the models that have it.
    """

    def __init__(self, present: ArrayLike) -> None:
        self.present = np.asarray(present, bool)
        models, concepts = self.present.shape
        self.positions = 0
        self.fires = np.zeros((models, concepts), np.int64)
        self.both = np.zeros((models, models, concepts), np.int64)
        self.all_fire = np.zeros(concepts, np.int64)
        self.any_fires = np.zeros(concepts, np.int64)

    def add(self, fires: Array) -> None:
        """Add the firings of a block of positions, (M, P, U) bool."""
        fires = fires & self.present[:, None]
        self.positions += fires.shape[1]
        self.fires += fires.sum(axis=1)
        for a, b in combinations(range(len(fires)), 2):
            self.both[a, b] += (fires[a] & fires[b]).sum(axis=0)
        self.all_fire += (fires | ~self.present[:, None]).all(axis=0).sum(axis=0)
        self.any_fires += fires.any(axis=0).sum(axis=0)

    def universality(self, p_value: ArrayLike = np.nan) -> Universality:
        """Return the measures, with p-values of the U concepts."""
        shared = np.where(self.present.any(axis=0), self.all_fire, 0)
        return Universality(
            firing_rate=self.fires / max(self.positions, 1),
            firing_entropy=firing_entropy(self.fires, self.present),
            cofire_proportion=_ratio(np.broadcast_to(shared, self.fires.shape), self.fires),
            cofire_iou=_ratio(shared, self.any_fires),
            phi=_mean_phi(self.both, self.fires, self.present, self.positions),
            p_value=np.broadcast_to(np.asarray(p_value, float), shared.shape).copy(),
        )


def universality(
    fires: ArrayLike,
    images: int | None = None,
    *,
    permutations: int = 999,
    null: str = "images",
    grid: tuple[int, int] | None = None,
    random_state: int | None = 0,
) -> Universality:
    """Measure how far the same concepts fire at the same positions in several models.

    Parameters
    ----------
    fires : array-like of shape (M, P, U), bool
        Where each of U concepts fires in each of M models, at the same P positions in all of them.
    images : int, optional
        Number of images N that the positions are of, image by image, P / N each. Positions of an
        image are alike, so that the test must keep them together. None: every position is an image.
    permutations : int, default=999
        Number of permutations of the test; 0 leaves it out. p is at least 1/(permutations + 1). At
        most 1000 images are used, evenly spaced.
    null : {"images", "shifts"}, default="images"
        What has nothing in common. "images": the images of one model are assigned to other images
        of the others, and positions stay where they are. "shifts": the maps of each image are
        shifted by a random number of rows and columns, round the edges; it serves few, large
        images, and unlike the other counts it as agreement if concepts fire at the same places of
        all images.
    grid : (int, int), optional
        Rows and columns of the positions of an image, for shifts. None: P / N positions in a row.
    random_state : int or None, default=0
        Seed of the permutations. None draws a seed.

    Returns
    -------
    universality : Universality

    Raises
    ------
    ValueError
        If ``fires`` is not boolean or has another shape; if the positions are not equally many in
        all images; if there is nothing to exchange, one image or maps of one cell; or if an
        argument is out of range.
    """
    firings = np.asarray(fires)
    if firings.ndim != 3 or len(firings) < 2 or firings.dtype != bool or not firings.shape[1]:
        raise ValueError(
            "fires must be boolean of shape (M, P, U) with two or more models, such as "
            f"coefficients > threshold, not {firings.dtype} of shape {firings.shape}"
        )
    positions = firings.shape[1]
    images = positions if images is None else images
    check_integer("images", images)
    check_integer("permutations", permutations, 0)
    check_choice("null", null, NULLS)
    if positions % images:
        raise ValueError(
            f"images must divide the {positions} positions into equal parts, which {images} does "
            "not"
        )
    shape = (1, positions // images) if grid is None else grid
    check_grid(shape)
    if shape[0] * shape[1] * images != positions:
        raise ValueError(
            f"grid must have the {positions // images} positions of an image, not {grid!r}"
        )
    counts = FiringCounts(np.ones(firings[:, 0].shape, bool))
    for part in slices(positions, _BLOCK):
        counts.add(firings[:, part])
    if not permutations:
        return counts.universality()
    check_null(null, images, shape)
    by_image = firings.reshape(len(firings), images, *shape, -1)
    by_image = by_image[:, tested_images(images)]
    return counts.universality(
        phi_p_values(by_image, counts.present, permutations, null, random_state)
    )


def check_null(null: str, images: int, grid: tuple[int, int]) -> None:
    """Raise a ValueError if there is nothing that permutations could exchange."""
    if null == "images" and images < 2:
        raise ValueError(
            "null='images' exchanges images, but there is only one: give more, or null='shifts'"
        )
    if null == "shifts" and grid[0] * grid[1] < 2:
        raise ValueError(
            "null='shifts' shifts maps, but these have one cell only: take null='images'"
        )


def least_p_value(permutations: int, null: str, images: int, grid: tuple[int, int]) -> float:
    """Return the expected p-value of identical concepts, which no other is much below.

    A draw may be no other than what was observed: one of N! orders of N images, or the shifts by 0
    of all maps.
    """
    if not permutations:
        return float("nan")
    cells = grid[0] * grid[1]
    log_number = math.lgamma(images + 1) if null == "images" else images * math.log(cells)
    return (1 + permutations * math.exp(-log_number)) / (1 + permutations)


def tested_images(images: int) -> Array:
    """Return the indices of the images that the test of φ uses, at most `TESTED_IMAGES`."""
    return np.linspace(0, images - 1, min(images, TESTED_IMAGES)).round().astype(int)


def phi_p_values(
    fires: Array, present: Array, permutations: int, null: str, random_state: int | None
) -> Array:
    """Test whether φ is larger than without anything in common: see `universality`.

    Parameters
    ----------
    fires : ndarray of shape (M, N, H, W, U), bool
        Firings on the maps of N images.
    present : ndarray of shape (M, U), bool
        Which models have each concept.
    permutations : int
    null : {"images", "shifts"}
    random_state : int or None

    Returns
    -------
    p : ndarray of shape (U,)
        (1 + number of permutations with a φ at least as large) / (1 + permutations).
    """
    rng = check_random_state(random_state)
    models, images, height, width, concepts = fires.shape
    # One draw for all concepts; index 0 of the draws is what was observed.
    draw = _orders if null == "images" else _shifts
    draws = draw(rng, models, permutations, fires.shape[1:4])
    exceeded = np.zeros(concepts)
    for u in range(concepts):
        having = np.flatnonzero(present[:, u])
        maps = fires[..., u].astype(np.float32)
        totals = maps.sum(axis=(1, 2, 3), dtype=np.float64)
        phis = np.zeros(permutations + 1)
        for a, b in combinations(having.tolist(), 2):
            together = _images_together if null == "images" else _shifts_together
            both = together(maps[a], maps[b], draws[a, b])
            phis += phi_of_counts(both, totals[a], totals[b], images * height * width)
        exceeded[u] = np.sum(phis[1:] >= phis[0] - _ROUNDING)
    return p_values(exceeded, permutations)


def _orders(
    rng: np.random.Generator, models: int, permutations: int, shape: tuple[int, int, int]
) -> dict[tuple[int, int], Array]:
    """Return, for every two models, the image of b for each image of a, (permutations + 1, N)."""
    orders = np.tile(np.arange(shape[0]), (models, permutations + 1, 1))
    orders[1:, 1:] = rng.permuted(orders[1:, 1:], axis=2)
    return {
        (a, b): np.take_along_axis(orders[b], np.argsort(orders[a], axis=1), axis=1)
        for a, b in combinations(range(models), 2)
    }


def _images_together(maps: Array, other: Array, order: Array) -> Array:
    """Return at how many positions both fire when images are reordered, (permutations + 1,)."""
    own = np.flatnonzero(maps.any(axis=(1, 2)))  # the others add nothing
    cells = maps[0].size
    table = maps[own].reshape(-1, cells) @ other.reshape(-1, cells).T
    places = order[:, own] + np.arange(len(own)) * len(other)
    return np.asarray(table.ravel().take(places).sum(axis=1, dtype=np.float64))


def _shifts(
    rng: np.random.Generator, models: int, permutations: int, shape: tuple[int, int, int]
) -> dict[tuple[int, int], Array]:
    """Return, for every two models, the shift of b relative to a, (permutations + 1, N).

    A shift is the index of the cell that the first cell of a map moves to.
    """
    images, height, width = shape
    sizes = np.array([[[height]], [[width]]])
    shifts = rng.integers(0, np.broadcast_to(sizes, (models, 2, permutations + 1, images)))
    shifts[:, :, 0] = 0
    relative = {(a, b): (shifts[a] - shifts[b]) % sizes for a, b in combinations(range(models), 2)}
    return {pair: down * width + right for pair, (down, right) in relative.items()}


def _shifts_together(maps: Array, other: Array, shift: Array) -> Array:
    """Return at how many positions both fire when maps are shifted, (permutations + 1,)."""
    spectrum = np.conj(np.fft.rfft2(maps)) * np.fft.rfft2(other)
    table = np.fft.irfft2(spectrum, s=maps.shape[1:]).round().reshape(len(maps), -1)
    return np.asarray(table[np.arange(len(maps)), shift].sum(axis=1))


# ------------------------------------------------------------ from counts


def firing_entropy(counts: ArrayLike, present: ArrayLike | None = None) -> Array:
    """Return how evenly the firings of each concept are spread over models, in [0, 1].

    Parameters
    ----------
    counts : array-like of shape (M, U)
        How often each concept fires in each model.
    present : array-like of shape (M, U), bool, optional
        Which models have each concept; the entropy is relative to that of as many equal shares.
        None: all of them.

    Returns
    -------
    entropy : ndarray of shape (U,)
        NaN for a concept that never fires, or that fewer than two models have.
    """
    counts = np.asarray(counts, np.float64)
    having = np.full(counts.shape, True) if present is None else np.asarray(present, bool)
    counts = np.where(having, counts, 0.0)
    total = counts.sum(axis=0)
    shares = counts / np.where(total > 0, total, np.nan)
    terms = shares * np.log(np.where(shares > 0, shares, 1.0))
    number = having.sum(axis=0)
    return np.asarray(-terms.sum(axis=0) / np.log(np.where(number > 1, number, np.nan)) + 0.0)


def phi_of_counts(
    both: ArrayLike, fires: ArrayLike, other_fires: ArrayLike, positions: int
) -> Array:
    """Return φ of two binary variables from how often both, and each of them, are 1.

    φ is their correlation. Shapes are broadcast; 0 where one of the variables does not vary.
    """
    both, fires, other = (np.asarray(one, np.float64) for one in (both, fires, other_fires))
    # two roots: the product itself could overflow
    scale = np.sqrt(fires * (positions - fires)) * np.sqrt(other * (positions - other))
    return _ratio(positions * both - fires * other, scale)


def _mean_phi(both: Array, fires: Array, present: Array, positions: int) -> Array:
    """Return the mean φ over the pairs of models that have each concept, (U,)."""
    total, number = np.zeros(fires.shape[1]), np.zeros(fires.shape[1])
    for a, b in combinations(range(len(fires)), 2):
        have = present[a] & present[b]
        total += np.where(have, phi_of_counts(both[a, b], fires[a], fires[b], positions), 0.0)
        number += have
    return _ratio(total, number)


def _ratio(numerator: ArrayLike, denominator: ArrayLike) -> Array:
    """Return a quotient, which is 0 where the denominator is."""
    top, bottom = np.broadcast_arrays(
        np.asarray(numerator, np.float64), np.asarray(denominator, np.float64)
    )
    return np.asarray(np.divide(top, bottom, out=np.zeros(top.shape), where=bottom > 0))
