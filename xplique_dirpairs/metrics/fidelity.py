"""Fidelity: whether the network uses the concepts, and how much of its prediction they explain.

Deletion, insertion and μ-fidelity follow rules that make extractors comparable. Concepts are
ordered by *signed* contribution. The residual is kept, and features stay in the layer's range.
Deletion is reported as a function of the number of concepts and of the change in the features'
norm, because areas alone reward manipulations that leave the data. The insertion curve is capped at
the probability of the intact image.

The reconstruction metrics measure how much of the network's prediction decode(encode(x)) explains
without the residual. A quotient over the whole data set has two columns per image and is the ratio
of their means (`registry.ratio_of_means`). R² and completeness therefore have values per image,
too, and a bootstrap over images draws both columns together.

Shapes: N images, *S axes of positions (none, one or two), D channels, I concepts, K classes. A
curve has I + 1 points: after 0, 1, …, I concepts.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from xplique_dirpairs.core.linear_algebra import unit_rows
from xplique_dirpairs.core.types import Array
from xplique_dirpairs.metrics.importance import ROUNDING
from xplique_dirpairs.metrics.manipulation import (
    Outcomes,
    Reading,
    agreement,
    all_off_negative_mass,
    correct,
    kl_bits,
    outcomes,
)

#: Number of random subsets of concepts for μ-fidelity, and the share of the concepts in each.
SUBSETS, SUBSET_SHARE = 50, 0.2
#: Changes of the features, as fractions of their norm, at which P@ reads the deletion curve.
FRACTIONS = (0.1, 0.2, 0.3)


@dataclass(frozen=True, eq=False)
class Curves:
    """The deletion or insertion curve of every image.

    Attributes
    ----------
    probabilities : ndarray of shape (N, I + 1)
        Probability of the image's class; for insertion, capped at that of the intact image.
    changed : ndarray of shape (N, I + 1)
        Change of the features x at each point, ‖x' − x‖_F / ‖x‖_F; NaN for an image whose features
        are all 0.
    """

    probabilities: Array
    changed: Array

    @property
    def areas(self) -> Array:
        """Area under each curve over the share j/I of the concepts, by the trapezoid rule, (N,)."""
        p = self.probabilities
        return np.asarray((p[:, :-1] + p[:, 1:]).mean(axis=1) / 2)


@dataclass(frozen=True, eq=False)
class Fidelity:
    """The result of `fidelity`.

    Attributes
    ----------
    values : dict of str to ndarray of shape (N,) or (N, 2)
        Values of every image by key of `registry.METRICS`; two columns if the metric's statistic is
        a ratio. NaN where a metric is undefined.
    deletion : Curves
        Class probabilities as concepts are switched off one after the other.
    insertion : Curves
        Class probabilities as concepts are switched on one after the other.
    contributions : ndarray of shape (N, I)
        Signed contribution of every concept to the class's logit, as `leave_one_out` returns it.
        Concepts are deleted and inserted in order of contribution, largest first.
    crossed : ndarray of shape (N, 3), bool
        Whether deletion changed the features by each of `FRACTIONS`; where it did not, P@ is the
        probability after the last step.
    """

    values: dict[str, Array]
    deletion: Curves
    insertion: Curves
    contributions: Array
    crossed: Array


def fidelity(
    reading: Reading,
    *,
    reconstructions: ArrayLike | None = None,
    labels: ArrayLike | None = None,
    random_state: int | np.random.Generator | None = 0,
) -> Fidelity:
    """Compute every fidelity metric of one extractor on N images.

    It takes about 3 I + `SUBSETS` passes of the images through the network's second half.

    Parameters
    ----------
    reading : Reading
        The coefficients that the extractor reads in the images, and the network's second half.
    reconstructions : ndarray of shape (N, *S, D), optional
        Reconstructions decode(u) without the residual. None: metrics of `reconstruction` are left
        out.
    labels : ndarray of shape (N,) or (N, K), optional
        True classes, as `reconstruction` takes them. None: completeness is left out.
    random_state : int, Generator or None, default=0
        Seed or generator of the subsets of concepts for μ-fidelity.

    Returns
    -------
    fidelity : Fidelity

    Raises
    ------
    ValueError
        If the network's logits are not finite.
    """
    subsets = random_subsets(reading.number_of_concepts, SUBSETS, random_state)
    contributions = leave_one_out(reading)
    orders = contribution_orders(contributions)
    deletion, insertion = deletion_curves(reading, orders), insertion_curves(reading, orders)
    crossings = [probabilities_at(deletion, fraction) for fraction in FRACTIONS]
    drops = reading.intact.logits - outcomes(reading, ~subsets).logits
    values = {
        "deletion": deletion.areas,
        "insertion": insertion.areas,
        **{f"p_at_{fraction}": at for fraction, (at, _) in zip(FRACTIONS, crossings, strict=True)},
        "mu_fidelity": mu_fidelity(contributions, subsets, drops),
        "all_off_norm": reading.all_off.changed[:, 0],
        "all_off_negative_mass": all_off_negative_mass(reading),
        "all_off_probability": reading.all_off.probabilities[:, 0],
        "all_off_entropy": reading.all_off.entropies[:, 0],
    }
    if reconstructions is not None:
        values |= reconstruction(reading, reconstructions, labels)
    crossed = np.stack([crossed for _, crossed in crossings], axis=1)
    return Fidelity(values, deletion, insertion, contributions, crossed)


def leave_one_out(reading: Reading) -> Array:
    """Compute the drop of the class's logit when each concept alone is switched off.

    Parameters
    ----------
    reading : Reading
        The coefficients that the extractor reads in the images, and the network's second half.

    Returns
    -------
    drops : ndarray of shape (N, I)
        Logit of the intact image minus logit without the concept.
    """
    without = 1.0 - np.eye(reading.number_of_concepts, dtype=np.float32)
    return reading.intact.logits - outcomes(reading, without).logits


def contribution_orders(contributions: ArrayLike) -> Array:
    """Return the concepts of every image in order of contribution, largest first.

    Parameters
    ----------
    contributions : array-like of shape (N, I)
        Signed contribution of each concept in each image.

    Returns
    -------
    orders : ndarray of shape (N, I), int
    """
    return np.argsort(-np.asarray(contributions), axis=1, kind="stable")


def random_orders(
    images: int, concepts: int, random_state: int | np.random.Generator | None = None
) -> Array:
    """Draw a random order of the concepts for every image, as a control.

    Parameters
    ----------
    images : int
        Number of images, N.
    concepts : int
        Number of concepts, I.
    random_state : int or Generator, optional
        Seed or generator of the orders.

    Returns
    -------
    orders : ndarray of shape (N, I), int
    """
    rng = np.random.default_rng(random_state)
    return rng.permuted(np.tile(np.arange(concepts), (images, 1)), axis=1)


def deletion_curves(reading: Reading, orders: Array) -> Curves:
    """Switch concepts off one after the other, starting with all on.

    Parameters
    ----------
    reading : Reading
        The coefficients that the extractor reads in the images, and the network's second half.
    orders : ndarray of shape (N, I), int
        Concepts of each image in the order in which they are switched off.

    Returns
    -------
    curves : Curves
    """
    return _curves(reading.intact, outcomes(reading, ~_before_steps(orders)), reading.all_off)


def insertion_curves(reading: Reading, orders: Array) -> Curves:
    """Switch concepts on one after the other, starting from the residual alone.

    Probabilities are capped at that of the intact image, min(p, p_intact): a larger one only means
    that evidence against the class is still missing.

    Parameters
    ----------
    reading : Reading
        The coefficients that the extractor reads in the images, and the network's second half.
    orders : ndarray of shape (N, I), int
        Concepts of each image in the order in which they are switched on.

    Returns
    -------
    curves : Curves
    """
    between = outcomes(reading, _before_steps(orders))
    curves = _curves(reading.all_off, between, reading.intact)
    capped = np.minimum(curves.probabilities, reading.intact.probabilities)
    return Curves(capped, curves.changed)


def probabilities_at(deletion: Curves, fraction: float) -> tuple[Array, Array]:
    """Compute P@fraction, the class probability once deletion has changed the features this much.

    The change of the features x is ‖x' − x‖_F / ‖x‖_F. The probability is interpolated linearly
    between the first step of deletion whose change is at least ``fraction`` and the step before.

    Parameters
    ----------
    deletion : Curves
        Curves that `deletion_curves` returned.
    fraction : float
        Change of the features as a fraction of their norm, above 0.

    Returns
    -------
    probabilities : ndarray of shape (N,)
        P@fraction of every image. If its features never change that much, the probability after the
        last step; NaN for an image whose features are all 0.
    crossed : ndarray of shape (N,), bool
        Whether the features of the image change that much.
    """
    p, changed = deletion.probabilities, deletion.changed
    reached = changed[:, 1:] >= fraction
    crossed = np.any(reached, axis=1)
    image, after = np.arange(len(p)), reached.argmax(axis=1) + 1
    start, end = changed[image, after - 1], changed[image, after]
    share = np.divide(fraction - start, end - start, out=np.ones(len(p)), where=crossed)
    at = p[image, after - 1] + share * (p[image, after] - p[image, after - 1])
    at = np.where(crossed, at, p[:, -1])
    return np.where(np.isnan(changed).any(axis=1), np.nan, at), crossed


def random_subsets(
    concepts: int, count: int, random_state: int | np.random.Generator | None = None
) -> Array:
    """Draw random subsets that each hold the share `SUBSET_SHARE` of the concepts.

    A subset holds at least two concepts if there are three or more, because the drop from a single
    concept *is* its leave-one-out contribution.

    Parameters
    ----------
    concepts : int
        Number of concepts, I.
    count : int
        Number of subsets, M.
    random_state : int or Generator, optional
        Seed or generator of the subsets.

    Returns
    -------
    subsets : ndarray of shape (M, I), bool
    """
    size = max(min(2, concepts - 1), round(SUBSET_SHARE * concepts), 1)
    return np.asarray(random_orders(count, concepts, random_state) < size)


def mu_fidelity(contributions: ArrayLike, subsets: ArrayLike, drops: ArrayLike) -> Array:
    """Correlate Σ_{i ∈ S} contribution_i with the drop of the score without S, over subsets S.

    This is definition 3 (faithfulness) of U. Bhatt, A. Weller, J. Moura, "Evaluating and
    aggregating feature-based model explanations", IJCAI 2020, with concepts in place of features
    and "switched off" in place of the baseline.

    Parameters
    ----------
    contributions : ndarray of shape (N, I)
        Contribution of every concept in every image.
    subsets : ndarray of shape (M, I), bool
        M subsets of the concepts, the same for every image.
    drops : ndarray of shape (N, M)
        Score of the intact image minus the score with the subset switched off.

    Returns
    -------
    correlation : ndarray of shape (N,)
        Values in [−1, 1]; NaN where the sums or the drops do not vary.
    """
    sums = np.asarray(contributions, np.float64) @ np.asarray(subsets, np.float64).T
    both = np.stack([sums, np.asarray(drops, np.float64)])
    deviations = both - both.mean(axis=-1, keepdims=True)
    sizes, spreads = np.linalg.norm([both, deviations], axis=-1)
    varies = (spreads > ROUNDING * sizes).all(axis=0)
    a, b = unit_rows(deviations)
    return np.where(varies, np.clip((a * b).sum(axis=-1), -1.0, 1.0), np.nan)


def _curves(*points: Outcomes) -> Curves:
    """Return the curves that consist of the given outcomes, one after the other."""
    return Curves(
        np.concatenate([point.probabilities for point in points], axis=1),
        np.concatenate([point.changed for point in points], axis=1),
    )


def _before_steps(orders: Array) -> Array:
    """Return which concepts come before each of the steps 1 to I − 1, (N, I − 1, I) bool."""
    turn = np.argsort(orders, axis=1)
    return np.asarray(turn[:, None, :] < np.arange(1, turn.shape[1])[:, None])


# ------------------------------------------------------------------------------ reconstruction


def reconstruction(
    reading: Reading, reconstructions: ArrayLike, labels: ArrayLike | None = None
) -> dict[str, Array]:
    """Compute the fidelity of the reconstruction without the residual.

    Like all manipulated features, the reconstruction is clipped to the layer's range before the
    network is given it; ``activation_r2`` is that of the unclipped reconstruction.

    Parameters
    ----------
    reading : Reading
        The coefficients that the extractor reads in the images, and the network's second half.
    reconstructions : ndarray of shape (N, *S, D)
        Reconstructions decode(encode(x)) of any extractor.
    labels : ndarray of shape (N,) or (N, K), int, optional
        True classes, for completeness: class indices for a softmax, or 0 or 1 for each output of
        sigmoids. Chance is 1/K for a softmax and ½ for sigmoids. None: completeness is left out.

    Returns
    -------
    values : dict of str to ndarray
        ``agreement`` (N,), ``kl`` (N,) in bits, ``logit_r2`` (N, 2), ``activation_r2`` (N, 2), and,
        with labels, ``completeness`` (N, 2).
    """
    rebuilt = np.asarray(reconstructions, np.float32)
    intact, kind = reading.intact_logits, reading.final_activation
    logits = reading.logits(np.clip(rebuilt, *reading.limits))
    values = {
        "agreement": agreement(intact, logits, kind),
        "kl": kl_bits(intact, logits, kind),
        "logit_r2": explained_variance(intact, logits),
        "activation_r2": explained_variance(reading.activations, rebuilt),
    }
    if labels is not None:
        chance = 1.0 / intact.shape[1] if kind == "softmax" else 0.5
        values["completeness"] = completeness(
            correct(intact, labels, kind), correct(logits, labels, kind), chance
        )
    return values


def explained_variance(values: ArrayLike, predictions: ArrayLike) -> Array:
    """Compute R² = 1 − Σ (v − v̂)² / Σ (v − v̄)² as two columns whose means have the ratio R².

    v̄ is the mean of each feature over all images and positions. Predicting v̄ scores 0, a perfect
    prediction scores 1, and predictions worse than v̄ score below 0. A bootstrap over the columns
    does not recompute v̄.

    Parameters
    ----------
    values : ndarray of shape (N, …, D)
        True values v.
    predictions : ndarray of shape (N, …, D)
        Predicted values v̂.

    Returns
    -------
    columns : ndarray of shape (N, 2)
        Explained variance, Σ (v − v̄)² − Σ (v − v̂)², and variance, Σ (v − v̄)², of each image. If
        the values do not vary (up to rounding), all are 0 and the ratio is undefined.
    """
    values, predictions = np.asarray(values), np.asarray(predictions)
    features = values.shape[-1]
    middle = values.reshape(-1, features).mean(axis=0, dtype=np.float64)
    columns, size = np.empty((len(values), 2)), 0.0
    for column, pair in zip(columns, zip(values, predictions, strict=True), strict=True):
        # Only one image at a time is held in float64, to save memory.
        value, prediction = (each.astype(np.float64) for each in pair)
        variance = np.square(value - middle).sum()
        column[:] = variance - np.square(value - prediction).sum(), variance
        size += np.square(value).sum()
    varies = columns[:, 1].sum() > ROUNDING**2 * size
    return columns if varies else np.zeros_like(columns)


def completeness(intact: ArrayLike, rebuilt: ArrayLike, chance: float) -> Array:
    """Compute η = (reconstructed accuracy − chance) / (accuracy − chance) as two columns.

    This is definition 3.1 of C.-K. Yeh et al., "On completeness-aware concept-based explanations in
    deep neural networks", NeurIPS 2020, with the extractor's own decoder in place of a learned map.

    Parameters
    ----------
    intact : ndarray of shape (N,)
        Accuracy of the network on each image, in [0, 1].
    rebuilt : ndarray of shape (N,)
        Accuracy of the network on the reconstruction of each image, in [0, 1].
    chance : float
        Accuracy of a random prediction.

    Returns
    -------
    columns : ndarray of shape (N, 2)
        Numerator and denominator of each image. The ratio of their means is η: 0 if the
        reconstructions are classified at chance, 1 if as accurately as the intact images, and
        undefined if the network itself is not clearly above chance.
    """
    return np.stack([np.asarray(rebuilt), np.asarray(intact)], axis=1) - chance
