"""Learn direction pairs from annotations, as a reference for unsupervised pairs.

Signal vectors are Pattern-CAVs, mean(positives) − mean(negatives) (Pahde et al. 2024). Filters and
biases are linear detectors as in Interpretable Basis Decomposition (B. Zhou et al., ECCV 2018): a
logistic regression for each concept, on a sample of positions with and without the concept that
have equal weight in total.

A position is positive if the concept covers enough of its cell. Images without a label of the
concept's category are not used for it, unless the masks are exhaustive.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from xplique_dirpairs.core.geometry import Shift, check_shift, coverage_matrix
from xplique_dirpairs.core.types import Array
from xplique_dirpairs.core.validation import check_integer, check_random_state
from xplique_dirpairs.data.annotated_images import Annotated, flat_concepts
from xplique_dirpairs.metrics.dissection import (
    LabelledImage,
    category_of,
    is_exhaustive,
    one_thread,
    read_batches,
)
from xplique_dirpairs.pairs import DirectionPairs

#: Factors by which the required coverage is lowered in turn for small concepts, until enough cells
#: are positive.
_PARTS = np.array([1.0, 0.5, 0.25, 0.125])
#: Number of negatives for each positive in a fit; both classes have the same total weight.
_NEGATIVES = 4


@dataclass(frozen=True, eq=False)
class SupervisedPairs:
    """Direction pairs of I annotated concepts, as `supervised_pairs` returns them.

    Attributes
    ----------
    pairs : DirectionPairs
        For each concept the filter of a logistic regression, the bias with the largest IoU, and as
        signal vector the Pattern-CAV: the mean of the positions with the concept minus the mean of
        those without it, scaled to unit length.
    concepts : tuple of (category, name)
        Concepts of the I pairs, in the order of the pairs.
    labels : ndarray of shape (I,), int
        Indices of these concepts among all annotated concepts, category by category, as
        `score_labels` takes them.
    positives : ndarray of shape (I,), int
        Number of positions with each concept.
    coverage : ndarray of shape (I,)
        Share, in (0, 1], of a position's cell of the image that each concept must cover to count as
        present there. It is below the ``coverage`` that was asked for if few cells reach that.
    left_out : tuple of (category, name)
        Concepts that have no pair because too few positions are with or without them.
    """

    pairs: DirectionPairs
    concepts: tuple[tuple[str, str], ...]
    labels: Array
    positives: Array
    coverage: Array
    left_out: tuple[tuple[str, str], ...]

    def index(self, category: str, name: str) -> int:
        """Return the index of a concept's pair.

        Parameters
        ----------
        category : str
            Category of the concept.
        name : str
            Name of the concept.

        Returns
        -------
        index : int
            Row of the concept in the arrays of ``pairs``.

        Raises
        ------
        ValueError
            If the concept has no pair: it was left out, or is not an annotated concept.
        """
        if (category, name) in self.concepts:
            return self.concepts.index((category, name))
        why = "it has too few positions" if (category, name) in self.left_out else "no such concept"
        raise ValueError(f"there is no pair of {category} {name!r}: {why}")


def supervised_pairs(
    annotated: Annotated,
    compute: Callable[[Array], ArrayLike] | None = None,
    *,
    activations: Any = None,
    coverage: float = 0.5,
    least: int = 20,
    positions: int = 500,
    regularisation: float = 0.01,
    batch_size: int = 32,
    shift: Shift = 0.0,
    random_state: int | None = 0,
) -> SupervisedPairs:
    """Learn direction pairs of annotated concepts, as a reference for pairs learned without labels.

    Each position of the h × w feature map has a cell of the image. The position is a positive of a
    concept if the concept covers enough of the cell, and otherwise a negative; images without any
    label of the concept's category (which may not have been annotated for it) are not used, unless
    ``annotated.exhaustive`` is true. Signal vectors are
    Pattern-CAVs (Pahde et al. 2024), mean(positives) − mean(negatives) over all positions. Filters
    are logistic regressions, as in Interpretable Basis Decomposition (B. Zhou et al., ECCV 2018),
    on at most ``positions`` random positives and four times as many negatives, both with the same
    total weight. The bias is the threshold with the largest intersection over union (IoU) over all
    positions, as estimated from this sample.

    Parameters
    ----------
    annotated : AnnotatedImages, AnnotatedStream or object with their interface
        N images with a mask for each category, as in `data.annotated_images`. The masks are read
        twice.
    compute : callable, optional
        Function of a batch of n images (n, H, W, …) that returns their activations (n, h, w, D).
        None: ``activations`` must be given.
    activations : array-like of shape (N, h, w, D), optional
        Activations of the same images in the same order, in place of ``compute``.
    coverage : float, default=0.5
        Share of a cell that a concept must cover, in (0, 1]. It is lowered to a half, a quarter or
        an eighth of this value for a concept that reaches it in fewer than ``least`` cells.
    least : int, default=20
        Concepts with fewer positives or fewer negatives are left out.
    positions : int, default=500
        Largest number of positives in the fit of a filter.
    regularisation : float, default=0.01
        Parameter C of scikit-learn's `LogisticRegression`, which is fitted to features of unit
        variance; the smaller, the stronger the regularisation.
    batch_size : int, default=32
        Number of images in a batch.
    shift : float or tuple of float, default=0.0
        Offset of the feature map on the image in pixels, as one number or as (down, right). 0: the
        cells divide the image into equal parts.
    random_state : int or None, default=0
        Seed of the sample of positions. None draws a seed.

    Returns
    -------
    supervised : SupervisedPairs
        The pairs, and which concepts they stand for.

    Raises
    ------
    ValueError
        If an argument is out of range; if neither ``compute`` nor ``activations`` is given; if no
        concept has enough positions; or if the shapes of masks and activations do not match, or
        activations are not finite.
    """
    _check_settings(coverage, least, positions, regularisation)
    check_shift(shift)
    if activations is not None:
        compute = np.asarray
    elif compute is None:
        raise ValueError("give compute, a function from images to activations, or activations")
    features = _Features(annotated, compute, activations, batch_size, shift)
    wanted, positives, negatives = _used_coverage(features, coverage * _PARTS, least)
    kept = np.flatnonzero((positives >= least) & (negatives >= least))
    names = flat_concepts(annotated.concepts)
    if not len(kept):
        raise ValueError(
            f"no concept has {least} positions with it and {least} without it: lower coverage or "
            "least, or give more images"
        )
    sample = _sampled_positions(features, wanted, kept, positions, random_state)
    means, mean, spread, sampled = _read_features(features, wanted, kept, sample)
    fits = [
        _fit(*sampled(number), mean, spread, regularisation, positives[c] / negatives[c])
        for number, c in enumerate(kept)
    ]
    filters, biases, absent = (np.array(values) for values in zip(*fits, strict=True))
    return SupervisedPairs(
        pairs=DirectionPairs(filters, biases, means[0] - means[1], mean, absent),
        concepts=tuple(names[c] for c in kept),
        labels=kept,
        positives=positives[kept],
        coverage=wanted[kept],
        left_out=tuple(name for c, name in enumerate(names) if c not in set(kept)),
    )


def cell_coverage(
    masks: Mapping[str, Array],
    concepts: Mapping[str, tuple[str, ...]],
    cells: tuple[int, int],
    shift: Shift = 0.0,
    *,
    exhaustive: bool = False,
) -> tuple[Array, Array]:
    """Compute the share of each cell of a map that each concept covers.

    Parameters
    ----------
    masks : mapping of str to ndarray
        Masks (n, H, W) of each category: numbers of concepts, 0 for none.
    concepts : mapping of str to tuple of str
        Names of the concepts of each category, C in total.
    cells : tuple of (int, int)
        Height h and width w of the map.
    shift : float or tuple of float, default=0.0
        Offset of the map on the image in pixels; see `core.geometry`.
    exhaustive : bool, default=False
        Whether an image without a label of a category contains nothing of it.

    Returns
    -------
    coverage : ndarray of shape (n, h, w, C), float32
        Shares in [0, 1].
    known : ndarray of shape (n, C), bool
        Whether the image is annotated for the concept's category: it has a label of the category,
        or the masks are exhaustive.
    """
    count = len(next(iter(masks.values())))
    category = category_of(concepts)
    coverage = np.zeros((count, *cells, len(category)), np.float32)
    known = np.zeros((count, len(category)), bool)
    for number in range(count):
        image = LabelledImage(masks, number, concepts, exhaustive)
        (height, width), (down, right) = image.shape, check_shift(shift)
        where = image.indicators(slice(None))[:-1].reshape(-1, height, width).astype(np.float32)
        rows = coverage_matrix(cells[0], height, down)
        columns = coverage_matrix(cells[1], width, right)
        with one_thread():
            shares = rows @ where @ columns.T
        coverage[number][..., image.present] = np.moveaxis(shares, 0, -1)
        known[number] = np.isin(category, image.categories)
    return coverage, known


# ------------------------------------------------------------------------------ reading the data


class _Features:
    """Annotated images as positions: the concepts that cover them, and their activations."""

    def __init__(
        self, annotated: Annotated, read: Any, activations: Any, batch_size: int, shift: Shift
    ):
        self._annotated, self._shift = annotated, shift
        self._source = (read, activations, batch_size)
        maps, _ = next(self._batches())
        self.cells = maps.shape[1:3]
        self.channels = maps.shape[-1]

    def _batches(self) -> Iterator[tuple[Array, Mapping[str, Array]]]:
        """Yield activations (n, h, w, D) and the masks of each category."""
        return read_batches(self._annotated, *self._source)

    def _of_masks(self, masks: Mapping[str, Array]) -> tuple[Array, Array]:
        """Return the results of `cell_coverage` for each position, (P, C) both."""
        shares, known = cell_coverage(
            masks, self._annotated.concepts, self.cells, self._shift,
            exhaustive=is_exhaustive(self._annotated),
        )  # fmt: skip
        known = np.repeat(known, self.cells[0] * self.cells[1], axis=0)
        return shares.reshape(known.shape), known

    def labels(self) -> Iterator[tuple[Array, Array]]:
        """Yield covered shares, and whether the category is annotated, (P, C) both."""
        for _, masks in self._annotated.batches(self._source[2]):
            yield self._of_masks(masks)

    def blocks(self) -> Iterator[tuple[Array, Array, Array]]:
        """Yield activations (P, D) and the `labels` of the same positions."""
        for maps, masks in self._batches():
            yield maps.reshape(-1, self.channels), *self._of_masks(masks)


def _used_coverage(features: _Features, parts: Array, least: int) -> tuple[Array, Array, Array]:
    """Return each concept's coverage, numbers of positives and of negatives, (C,) each.

    The coverage is the first of ``parts`` that enough cells reach.
    """
    positive, known_positions = np.zeros((len(parts), 1), int), np.zeros(1, int)
    for shares, known in features.labels():
        positive = positive + [_positive(shares, part).sum(axis=0) for part in parts]
        known_positions = known_positions + known.sum(axis=0)
    first = (positive >= least).argmax(axis=0)
    positives = positive[first, np.arange(positive.shape[1])]
    return parts[first], positives, known_positions - positives


def _check_settings(coverage: float, least: int, positions: int, regularisation: float) -> None:
    """Raise a ValueError if a setting of `supervised_pairs` is out of range."""
    if not 0.0 < coverage <= 1.0:
        raise ValueError(f"coverage must be a share of a cell, in (0, 1], not {coverage!r}")
    if not regularisation > 0.0:
        raise ValueError(f"regularisation must be positive, not {regularisation!r}")
    for name, value in (("least", least), ("positions", positions)):
        check_integer(name, value)


def _positive(shares: Array, wanted: Array | float) -> Array:
    """Return whether shares (P, C) of cells reach the wanted coverage."""
    # rounding may leave the share of a fully covered cell just below 1
    return shares >= np.float32(1 - 1e-5) * np.asarray(wanted, np.float32)


def _sampled_positions(
    features: _Features, wanted: Array, kept: Array, size: int, random_state: int | None
) -> tuple[Array, Array]:
    """Return indices of ``size`` = n random positions with each kept concept, (I, n), and without.

    Those without are (I, 4 n); -1 fills rows with fewer positions. The positions with the smallest
    random keys are chosen, with the same keys for all concepts, so that concepts share most of
    their negatives and fewer activations are kept.
    """
    rng = check_random_state(random_state)
    with_it, without = _Smallest(len(kept), size), _Smallest(len(kept), _NEGATIVES * size)
    first = 0
    for shares, known in features.labels():
        keys, numbers = rng.random(len(shares)), first + np.arange(len(shares))
        positive = _positive(shares[:, kept], wanted[kept])
        with_it.add(keys, numbers, positive)
        without.add(keys, numbers, known[:, kept] & ~positive)
        first += len(shares)
    return with_it.numbers, without.numbers


class _Smallest:
    """Collect the indices with the smallest keys for each of several concepts."""

    def __init__(self, concepts: int, size: int):
        self._keys = np.full((concepts, size), np.inf)
        self.numbers = np.full((concepts, size), -1)

    def add(self, keys: Array, numbers: Array, member: Array) -> None:
        """Add indices (P,) with their keys (P,), for the concepts that ``member`` (P, I) marks."""
        size = self._keys.shape[1]
        for i, kept in enumerate(self._keys):
            better = np.flatnonzero(member[:, i] & (keys < kept.max()))
            if len(better):
                together = np.concatenate([kept, keys[better]])
                chosen = np.argpartition(together, size - 1)[:size]
                self._keys[i] = together[chosen]
                self.numbers[i] = np.concatenate([self.numbers[i], numbers[better]])[chosen]


def _read_features(
    features: _Features, wanted: Array, kept: Array, sample: tuple[Array, Array]
) -> tuple[Array, Array, Array, Callable[[int], tuple[Array, Array]]]:
    """Read the activations once and return their moments and the sampled positions.

    Returns
    -------
    means : ndarray of shape (2, I, D)
        Means of the positions with and without each kept concept.
    mean : ndarray of shape (D,)
        Mean over all positions.
    spread : ndarray of shape (D,)
        Standard deviation over all positions.
    sampled : callable
        Maps the number of a kept concept to its sampled features, with the concept and without.
    """
    drawn = np.unique(np.concatenate([numbers.ravel() for numbers in sample]))
    drawn = drawn[drawn >= 0]
    rows = np.empty((len(drawn), features.channels), np.float32)
    sums = np.zeros((2, len(kept), features.channels))
    count = np.zeros((2, len(kept)))
    moments, first = np.zeros((2, features.channels)), 0
    for x, shares, known in features.blocks():
        positive = _positive(shares[:, kept], wanted[kept])
        for k, member in enumerate((positive, known[:, kept] & ~positive)):
            sums[k] += member.T.astype(np.float32) @ x
            count[k] += member.sum(axis=0)
        moments += x.sum(axis=0, dtype=float), np.square(x, dtype=float).sum(axis=0)
        here = slice(*np.searchsorted(drawn, [first, first + len(x)]))
        rows[here] = x[drawn[here] - first]
        first += len(x)
    mean = moments[0] / first
    spread = np.sqrt(np.maximum(moments[1] / first - np.square(mean), 0.0))

    def sampled(number: int) -> tuple[Array, Array]:
        with_it, without = (numbers[number][numbers[number] >= 0] for numbers in sample)
        return rows[np.searchsorted(drawn, with_it)], rows[np.searchsorted(drawn, without)]

    return sums / count[..., None], mean, spread, sampled


# ------------------------------------------------------------------------------ one concept


def _fit(
    with_it: Array,
    without: Array,
    mean: Array,
    spread: Array,
    regularisation: float,
    odds: float,
) -> tuple[Array, float, float]:
    """Return filter (D,), bias and absent level of a concept from positions (n, D) and (m, D)."""
    from sklearn.linear_model import LogisticRegression

    # A constant channel gets no weight.
    scale = np.where(spread > 1e-6 * spread.max(), spread, np.inf)
    x = (np.concatenate([with_it, without]) - mean) / scale
    t = np.arange(len(x)) < len(with_it)
    model = LogisticRegression(C=regularisation, class_weight="balanced", max_iter=1000)
    with one_thread():
        w = model.fit(x, t).coef_[0] / scale
        z = np.concatenate([with_it, without]) @ w
    return w, best_bias(z[t], z[~t], odds), float(z[~t].mean())


def best_bias(with_it: Array, without: Array, odds: float) -> float:
    """Return the threshold with the largest IoU, halfway between two projections.

    Parameters
    ----------
    with_it : ndarray of shape (n,)
        Projections of random positions with the concept.
    without : ndarray of shape (m,)
        Projections of random positions without the concept.
    odds : float
        Number of all positions with the concept divided by the number of those without.

    Returns
    -------
    bias : float
    """
    z = np.concatenate([with_it, without])
    order = np.argsort(-z, kind="stable")
    ordered = z[order]
    hits = np.cumsum(order < len(with_it)) / len(with_it)
    misses = np.cumsum(order >= len(with_it)) / len(without)
    iou = odds * hits / (odds + misses)
    last = np.append(ordered[:-1] > ordered[1:], True)  # a threshold cannot separate equal values
    best = int(np.where(last, iou, -1.0).argmax())
    below = ordered[best + 1] if best + 1 < len(z) else ordered[best] - 1.0
    return float((ordered[best] + below) / 2)
