"""Count the concepts of features by their skewness."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import ArrayLike

from xplique_dirpairs.core.batching import as_positions
from xplique_dirpairs.core.types import Array
from xplique_dirpairs.core.validation import check_random_state
from xplique_dirpairs.data.shards import ActivationShards
from xplique_dirpairs.learning.coordinates import Coordinates, Moments, rank_of_signal, whitened
from xplique_dirpairs.learning.features import Features, as_features
from xplique_dirpairs.learning.outliers import leave_out_far
from xplique_dirpairs.learning.sparse import count_sparse
from xplique_dirpairs.learning.starts import (
    GAP,
    SAME,
    distinct_directions,
    nearest_maxima,
    skewness_filters,
)
from xplique_dirpairs.plots.learning import SkewnessCurve, plot_number_of_concepts

#: Smallest number of images that shows the errors of a skewness, and number of positions used.
_IMAGES, _POSITIONS = 40, 60_000
#: Number of splits of the images, which must all agree, and smallest number that is reported.
_SPLITS, _FEWEST = 3, 4
#: Number of standard errors from which a skewness counts; noise is assumed to reach half of them.
_ERRORS = 4.0


@dataclass(frozen=True)
class SkewnessCount:
    """Number of skewed sources in features: the result of `count_skewed_sources`.

    A is the number of directions in which features vary more than noise does.

    Attributes
    ----------
    number : int or None
        Number of concepts I; None if the features do not show it.
    reason : str
        Sentence that explains the number, or why there is none.
    skewnesses : ndarray of shape (A,)
        Absolute skewness along the A independent directions, in decreasing order, measured on
        positions that the directions were not fitted to.
    errors : ndarray of shape (A,)
        Standard errors of the skewnesses, over images.
    threshold : float, default=nan
        Skewness that separates concepts from other directions: the geometric mean of the two sides
        of the largest drop in the sorted skewnesses. NaN if no drop is at least twofold.
    """

    number: int | None
    reason: str
    skewnesses: Array
    errors: Array
    threshold: float = float("nan")

    @property
    def verdict(self) -> str:
        """The number and the reason for it, in one line."""
        number = "cannot tell" if self.number is None else self.number
        return f"skewness: {number} ({self.reason})"

    @property
    def curve(self) -> SkewnessCurve:
        """The sorted skewnesses with their errors, the threshold and the number, to be plotted."""
        return SkewnessCurve(self.skewnesses, self.errors, self.threshold, self.number)

    def plot(self, title: str = "") -> Figure:
        """Plot the sorted skewnesses and mark the number of concepts.

        Parameters
        ----------
        title : str, default=""
            Title above the line that states the number and the reason.

        Returns
        -------
        figure : matplotlib.figure.Figure
            The figure, which is not shown.
        """
        lines = [title, self.verdict] if title else [self.verdict]
        return plot_number_of_concepts(skewnesses=self.curve, lines=lines)


def count_skewed_sources(
    activations: ArrayLike | ActivationShards, *, random_state: int | None = 0
) -> SkewnessCount:
    """Count the concepts that features consist of, by skewness, without learning them.

    Features are taken to be x = Sα + Dβ + μ: amounts α of the concepts along signal vectors S,
    amounts β of distractors (variation that belongs to no concept) along D, and a constant μ, as in
    Doumanoglou et al. (arXiv 2509.23926); the way of counting is not from a paper. Concepts are
    rarely present and never negative, so that their amounts are skewed; the amounts of distractors
    are assumed to be symmetric.

    Images are split in halves three times. An independent component analysis that maximises
    skewness finds directions on one half, and their skewness is measured on the other: the sorted
    skewnesses drop sharply after the last concept. Every direction above the drop is then optimised
    freely, without orthogonality to the others; directions of concepts hardly move. A concept that
    orthogonality excluded is found by starting from minus the sum of the other directions.

    Where this shows no number, but concepts are rare and present or absent independently of one
    another, as in sparse dictionaries, the number is about that of the distinct directions with a
    maximum of E[ReLU(z − 1)³], where z are the projections of whitened features. It can exceed the
    number of channels.

    Parameters
    ----------
    activations : array-like of shape (N, H, W, D), (N, T, D) or (N, D), or ActivationShards
        Activations of N images with D channels: maps of H × W positions, T tokens, or vectors. With
        fewer than 40 images ``count.number`` is None. About 60 000 positions of random images are
        used; images whose activations are far from those of all others are left out.
    random_state : int or None, default=0
        Seed of the choice of images, of the halves and of the initial directions. None draws a
        seed.

    Returns
    -------
    count : SkewnessCount
        ``count.number`` is the number of concepts, and ``count.reason`` explains it. Unless
        concepts are rare and independent, the number is None if the eigenvalues of the features'
        covariance do not end in a flat floor of noise (as in every real network so far), if the
        sorted skewnesses do not drop sharply, if directions move to one another when optimised
        freely, if halves of the images give different numbers, or if there are fewer than four
        concepts, because one of them may then be the absence of the others.

    Notes
    -----
    The amounts of a concept that is present on about half of all positions are symmetric, too, so
    that this concept is not counted.

    Raises
    ------
    ValueError
        If the activations are constant, not finite, or of the wrong rank; if the seed is invalid.
    """
    features, rng = as_features(activations), check_random_state(random_state)
    if features.shape[0] < _IMAGES:
        none = np.zeros(0)
        return SkewnessCount(None, f"fewer than {_IMAGES} images are too few", none, none)
    per_image = int(np.prod(features.shape[1:-1]))
    chosen = rng.permutation(features.shape[0])[: max(_IMAGES, _POSITIONS // per_image)]
    images = features.only(np.sort(chosen)).in_memory()[np.argsort(np.argsort(chosen))]
    features = Features(images)
    _, moments, left_out, _ = leave_out_far(features, Moments.of(features), 1)
    images = np.delete(images, left_out, axis=0)
    coordinates = whitened(moments, 1)
    has_floor = rank_of_signal(moments, 1) is not None
    counts = []
    for _ in range(_SPLITS):
        counts.append(count_in_halves(images, coordinates, per_image, has_floor, rng))
        if counts[-1].number is None:
            break
        images = images[rng.permutation(len(images))]
    numbers = sorted({count.number for count in counts if count.number is not None})
    if len(numbers) == 1 and counts[-1].number is not None:
        return counts[0]
    undecided = counts[-1]
    if undecided.number is not None:
        reason = f"halves of the images disagree: {', '.join(map(str, numbers))}"
        undecided = replace(counts[0], number=None, reason=reason)
    positions = coordinates.features(as_positions(images))
    sparse = count_sparse(positions, np.random.default_rng(0), coordinates.backward)
    if sparse is None or sparse < _FEWEST:
        return undecided
    reason = f"about {sparse} sparse concepts; by the drop of the skewness: {undecided.reason}"
    return replace(undecided, number=sparse, reason=reason)


def count_in_halves(
    images: Array,
    coordinates: Coordinates,
    per_image: int,
    has_floor: bool,
    rng: np.random.Generator,
) -> SkewnessCount:
    """Count the skewed sources in one split of the images (N, *spatial, D) in halves.

    ``per_image`` is the number of positions of an image.
    """
    halves = [coordinates.features(as_positions(half)) for half in np.array_split(images, 2)]
    first, second = halves
    results = [_Half.of(*pair, per_image, rng) for pair in ((first, second), (second, first))]
    skewnesses = np.mean([result.skewnesses for result in results], axis=0)
    errors = np.mean([result.errors for result in results], axis=0) / np.sqrt(2.0)
    above, threshold = _gap(skewnesses, errors) if has_floor else (0, float("nan"))
    if not above:
        reason = "the spectrum has no floor of noise: skewed sources cannot be counted"
        if has_floor:
            reason = "the sorted skewnesses have no gap between concepts and distractors"
        return SkewnessCount(None, reason, skewnesses, errors)
    counts = [result.maxima(half, threshold) for result, half in zip(results, halves, strict=True)]
    numbers = sorted({number for number, _ in counts})
    moved = max(moved for _, moved in counts)
    number = None
    if moved > 1:  # one may move: orthogonality to the others bends the most frequent concept
        reason = f"{moved} of {above} skewed directions move when they are optimised freely"
    elif numbers[0] < above:
        reason = f"only {numbers[0]} of {above} skewed directions differ when optimised freely"
    elif len(numbers) > 1:
        reason = f"two halves of the images disagree: {numbers[0]} and {numbers[1]}"
    elif numbers[0] < _FEWEST:
        reason = f"with so few skewed sources ({numbers[0]}), one may be the absence of the others"
    else:
        number = numbers[0]
        reason = (
            f"{number} skewed sources in {len(skewnesses)} axes of signal; a distractor that is "
            "skewed counts as one, and a symmetric concept does not"
        )
    return SkewnessCount(number, reason, skewnesses, errors, threshold)


@dataclass(frozen=True)
class _Half:
    """Directions (A, A) fitted to one half of the positions, sorted by skewness on the other."""

    directions: Array
    skewnesses: Array
    errors: Array
    other: Array

    @classmethod
    def of(cls, half: Array, other: Array, per_image: int, rng: np.random.Generator) -> _Half:
        """Fit directions to one half (P, A) and measure their skewness on the other half (P, A)."""
        directions = skewness_filters(half, half.shape[1], rng).astype(np.float32)
        y = _standardised(other @ directions.T)
        skewness = (y * y * y).mean(axis=0)
        skewnesses = np.abs(skewness)
        # influence of a position on the skewness (delta method), averaged over each image
        influence = y * y * y - 3.0 * y - 1.5 * skewness * (y * y)
        influence = influence.reshape(-1, per_image, y.shape[1]).mean(axis=1)
        errors = influence.std(axis=0) / np.sqrt(len(influence))
        order = np.argsort(-skewnesses)
        return cls(directions[order], skewnesses[order], errors[order], other)

    def maxima(self, half: Array, threshold: float) -> tuple[int, int]:
        """Return the number of maxima of skewness, and the number of directions that moved.

        One-unit ICA starts from the directions above the threshold, and from the absence of all.
        """
        skewed = self.directions[self.skewnesses > threshold]
        starts = np.concatenate([skewed, -skewed.sum(axis=0, keepdims=True)])
        free = nearest_maxima(half, starts)
        moved = int(((free[:-1] * skewed).sum(axis=1) < SAME).sum())
        y = _standardised(self.other @ free.T)
        skewnesses = (y * y * y).mean(axis=0)
        return distinct_directions(free[skewnesses > threshold]), moved


def _standardised(y: Array) -> Array:
    """Return columns (P, n) with zero mean and unit variance."""
    y = y - y.mean(axis=0)
    return np.asarray(y / np.maximum(y.std(axis=0), 1e-9))


def _gap(skewnesses: Array, errors: Array) -> tuple[int, float]:
    """Return the number of skewnesses (A,) above the largest gap, and its middle; else 0, NaN."""
    noise = _ERRORS / 2.0 * errors
    below = np.maximum(np.append(skewnesses[1:], 0.0), np.append(noise[1:], noise[-1]))
    below = np.maximum(below, 1e-9)
    ratios = np.where(skewnesses > _ERRORS * errors, skewnesses / below, 0.0)
    last = int(ratios.argmax())
    if ratios[last] < GAP:
        return 0, float("nan")
    return last + 1, float(np.sqrt(skewnesses[last] * below[last]))
