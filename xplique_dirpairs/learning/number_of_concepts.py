"""How many concepts: from the skewness of the features alone, without learning."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import ArrayLike, NDArray

from xplique_dirpairs.core.batching import as_positions
from xplique_dirpairs.core.validation import check_activations, check_random_state
from xplique_dirpairs.data.shards import ActivationShards
from xplique_dirpairs.learning.coordinates import Coordinates, Moments, rank_of_signal, whitened
from xplique_dirpairs.learning.features import HeldFeatures
from xplique_dirpairs.learning.ica import GAP, SAME, nearest_maxima, skewness_filters
from xplique_dirpairs.learning.outliers import leave_out_far
from xplique_dirpairs.plots.learning import SkewnessCurve, plot_number_of_concepts

#: Images from which errors of a skewness can be estimated, and positions that are enough.
_IMAGES, _POSITIONS = 40, 60_000
#: Splits of the images, all of which must agree, and the fewest sources that can be told.
_SPLITS, _FEWEST = 3, 4
#: A skewness counts from so many standard errors on; noise is taken to reach half of that.
_ERRORS = 4.0


@dataclass(frozen=True)
class SkewnessCount:
    """How many skewed sources features are made of.

    Attributes
    ----------
    number
        I, or None where the features do not tell.
    reason
        In words: what the number stands on, or why there is none.
    skewnesses : (A,)
        Absolute skewness along the A independent directions, largest first, of positions that the
        directions were not chosen on.
    errors : (A,)
        Their standard errors, over images.
    threshold
        The middle of the gap; NaN where there is none.
    """

    number: int | None
    reason: str
    skewnesses: NDArray
    errors: NDArray
    threshold: float = float("nan")

    @property
    def verdict(self) -> str:
        """The number and what it stands on, in one line."""
        number = "cannot tell" if self.number is None else self.number
        return f"skewness: {number} ({self.reason})"

    @property
    def curve(self) -> SkewnessCurve:
        """The sorted skewnesses, as plots take them."""
        return SkewnessCurve(self.skewnesses, self.errors, self.threshold, self.number)

    def plot(self, title: str = "") -> Figure:
        """Draw the sorted skewnesses with the number of concepts marked."""
        lines = [title, self.verdict] if title else [self.verdict]
        return plot_number_of_concepts(skewnesses=self.curve, lines=lines)


def count_skewed_sources(
    activations: ArrayLike | ActivationShards, *, random_state: int | None = 0
) -> SkewnessCount:
    """How many concepts features x = Sα + Dβ + μ have, from the skewness of α [ours].

    In whitened features concepts are the skewed sources (rarely there, never negative) and
    distractors are not. Images are split in halves, three times; on each half a symmetric ICA with
    contrast u² finds directions; their skewness is measured on the other half. Sorted, it falls off
    a cliff after the last concept. Then every direction is let go alone, without orthogonality to
    the others: those of concepts stay where they are (each is a maximum of skewness in its own
    right), and a concept that orthogonality had no room for is found from where all others are
    absent.

    Parameters
    ----------
    activations : (N, H, W, D), (N, T, D) or (N, D)
        At least 40 images; or `ActivationShards`. About 60 000 positions are used, of images at
        random; images unlike all others are left out, as in `learn_pairs`.
    random_state
        Seed of the images, the halves and the first directions.

    Returns
    -------
    count
        With ``number`` None where the spectrum has no floor of noise (every real network so far),
        where there is no gap, where directions do not stay apart, where halves disagree, or where
        there are fewer than four: of so few, one is the absence of the others.

    Notes
    -----
    It stands on two assumptions: distractors are symmetric, concepts are not. A concept that is
    present on about half of all positions is symmetric, too.

    Raises
    ------
    ValueError
        If the activations are not finite, constant, or of the wrong rank; if the seed is none.
    """
    if not isinstance(activations, ActivationShards):
        activations = check_activations(activations)
    rng = check_random_state(random_state)
    if activations.shape[0] < _IMAGES:
        none = np.zeros(0)
        return SkewnessCount(None, f"fewer than {_IMAGES} images tell nothing", none, none)
    per_image = int(np.prod(activations.shape[1:-1]))
    images = _some(activations, max(_IMAGES, _POSITIONS // per_image), rng)
    features = HeldFeatures(images)
    _, moments, left_out, _ = leave_out_far(features, Moments.of(features), 1)
    images = np.delete(images, left_out, axis=0)
    made = whitened(moments, 1)
    has_floor = rank_of_signal(moments, 1) is not None
    counts = []
    for _ in range(_SPLITS):
        counts.append(_count(images, made, per_image, has_floor, rng))
        if counts[-1].number is None:
            return counts[-1]
        images = images[rng.permutation(len(images))]
    numbers = sorted({count.number for count in counts if count.number is not None})
    if len(numbers) > 1:
        found = ", ".join(map(str, numbers))
        return replace(counts[0], number=None, reason=f"halves of the images disagree: {found}")
    return counts[0]


def _count(
    images: NDArray, made: Coordinates, per_image: int, has_floor: bool, rng: np.random.Generator
) -> SkewnessCount:
    """What one split of the images in halves tells."""
    halves = [made.features(as_positions(half)) for half in np.array_split(images, 2)]
    first, second = halves
    looks = [_Look.of(*pair, per_image, rng) for pair in ((first, second), (second, first))]
    skewnesses = np.mean([look.skewnesses for look in looks], axis=0)
    errors = np.mean([look.errors for look in looks], axis=0) / np.sqrt(2.0)
    if not has_floor:
        reason = "the spectrum of the features has no floor of noise: what is skewed has no end"
        return SkewnessCount(None, reason, skewnesses, errors)
    above, threshold = _gap(skewnesses, errors)
    if not above:
        reason = "the sorted skewnesses have no gap: concepts and distractors are not told apart"
        return SkewnessCount(None, reason, skewnesses, errors)
    let_go = [look.let_go(half, threshold) for look, half in zip(looks, halves, strict=True)]
    numbers = sorted({number for number, _ in let_go})
    wander = max(moved for _, moved in let_go)
    number = None
    if wander > 1:  # one may: the most frequent concept, which the others' orthogonality bends
        reason = f"{wander} of {above} skewed directions do not stay where they are on their own"
    elif numbers[0] < above:
        reason = f"only {numbers[0]} of {above} skewed directions differ when left on their own"
    elif len(numbers) > 1:
        reason = f"two halves of the images disagree: {numbers[0]} and {numbers[1]}"
    elif numbers[0] < _FEWEST:
        reason = f"of so few skewed sources ({numbers[0]}) others may be the absence"
    else:
        number = numbers[0]
        reason = (
            f"{number} skewed sources in {len(skewnesses)} axes of signal; a distractor that is "
            "skewed counts as one, and a symmetric concept does not"
        )
    return SkewnessCount(number, reason, skewnesses, errors, threshold)


@dataclass(frozen=True)
class _Look:
    """Directions (A, A) that one half of the positions shows, by their skewness on the other."""

    directions: NDArray
    skewnesses: NDArray
    errors: NDArray
    other: NDArray

    @classmethod
    def of(cls, half: NDArray, other: NDArray, per_image: int, rng: np.random.Generator) -> _Look:
        directions, _ = skewness_filters(half, half.shape[1], rng)
        directions = directions.astype(np.float32)
        y = _standardised(other @ directions.T)
        skewness = (y * y * y).mean(axis=0)
        skewnesses = np.abs(skewness)
        # what a position adds to the skewness (delta method); positions of an image go together
        influence = (y * y * y - 3.0 * y - 1.5 * skewness * (y * y)).reshape(
            -1, per_image, y.shape[1]
        )
        influence = influence.mean(axis=1)
        errors = influence.std(axis=0) / np.sqrt(len(influence))
        order = np.argsort(-skewnesses)
        return cls(directions[order], skewnesses[order], errors[order], other)

    def let_go(self, half: NDArray, threshold: float) -> tuple[int, int]:
        """How many maxima of skewness there are, and how many directions were none: one-unit ICA.

        It begins at those above the threshold, and where all of these are absent.
        """
        found = self.directions[self.skewnesses > threshold]
        starts = np.concatenate([found, -found.sum(axis=0, keepdims=True)])
        free = nearest_maxima(half, starts)
        wander = int(((free[:-1] * found).sum(axis=1) < SAME).sum())
        y = _standardised(self.other @ free.T)
        skewnesses = (y * y * y).mean(axis=0)
        maxima: list[NDArray] = []
        for direction in free[skewnesses > threshold]:
            if all(abs(direction @ known) < SAME for known in maxima):
                maxima.append(direction)
        return len(maxima), wander


def _some(activations: NDArray | ActivationShards, count: int, rng: np.random.Generator) -> NDArray:
    """At most ``count`` random images, in random order."""
    chosen = rng.permutation(activations.shape[0])[:count]
    if not isinstance(activations, ActivationShards):
        return activations[chosen]
    read = np.concatenate(list(activations.part(chosen)))  # in rising order
    return read[np.argsort(np.argsort(chosen))]


def _standardised(y: NDArray) -> NDArray:
    y = y - y.mean(axis=0)
    return y / np.maximum(y.std(axis=0), 1e-9)


def _gap(skewnesses: NDArray, errors: NDArray) -> tuple[int, float]:
    """How many sorted skewnesses are above the largest gap, and its middle; 0 where none is."""
    noise = _ERRORS / 2.0 * errors
    below = np.maximum(np.append(skewnesses[1:], 0.0), np.append(noise[1:], noise[-1]))
    below = np.maximum(below, 1e-9)
    ratios = np.where(skewnesses > _ERRORS * errors, skewnesses / below, 0.0)
    last = int(ratios.argmax())
    if ratios[last] < GAP:
        return 0, float("nan")
    return last + 1, float(np.sqrt(skewnesses[last] * below[last]))
