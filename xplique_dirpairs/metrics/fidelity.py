"""Whether the network uses the concepts as an extractor claims, and how much the concepts explain.

Deletion, insertion and μ-fidelity. The rules that make extractors comparable: concepts are ordered
by *signed* contribution; the residual is kept and features stay in the layer's range; deletion is
read against the number of concepts and against the feature norm changed, since areas alone reward
leaving the data; insertion never counts for more than the intact probability.

Reconstruction: the share of the network's prediction that decode(encode(x)) explains, without the
residual. A quotient over the whole data set has two columns per image; the quotient is the ratio
of their means (`registry.ratio_of_means`). So R² and completeness have values per image, too, and
a bootstrap over images draws both columns together.

Shapes: N images, I concepts. A curve has I + 1 points: after 0, 1, …, I concepts.
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

#: Random subsets of concepts for μ-fidelity, and the share of the concepts in each.
SUBSETS, SUBSET_SHARE = 50, 0.2
#: Changes of the features, as fractions of their norm, at which deletion is read.
FRACTIONS = (0.1, 0.2, 0.3)


@dataclass(frozen=True, eq=False)
class Curves:
    """Deletion or insertion of every image.

    Attributes
    ----------
    probabilities : ndarray of shape (N, I + 1)
        Of the image's class; insertion: at most the intact one.
    changed : ndarray of shape (N, I + 1)
        ‖x' − x‖_F / ‖x‖_F at each point; NaN for an image whose features are all 0.
    """

    probabilities: Array
    changed: Array

    @property
    def areas(self) -> Array:
        """Area under each curve of probabilities over j/I by the trapezoid rule, (N,)."""
        p = self.probabilities
        return np.asarray((p[:, :-1] + p[:, 1:]).mean(axis=1) / 2)


@dataclass(frozen=True, eq=False)
class Fidelity:
    """The result of `fidelity`.

    Attributes
    ----------
    values : dict
        Key of `registry.METRICS` → value of every image, (N,); (N, 2) where the metric's statistic
        is a ratio. NaN where it is undefined.
    deletion, insertion : Curves
    contributions : ndarray of shape (N, I)
        Signed contribution of every concept to the class's logit: `leave_one_out`. Concepts are
        deleted and inserted in their order, largest first.
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

    It takes about 3 I + `SUBSETS` passes of the images through the rest of the network.

    Parameters
    ----------
    reading : Reading
        The coefficients the extractor reads in the images.
    reconstructions : ndarray of shape (N, *S, D), optional
        decode(u), without the residual; None: no reconstruction metrics.
    labels : ndarray of shape (N,) or (N, K), optional
        True classes; None: no completeness. See `reconstruction`.
    random_state : int, Generator or None, default=0
        Of the subsets of concepts for μ-fidelity.

    Returns
    -------
    fidelity : Fidelity
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
    """Compute the drop of the class's logit as each concept alone is switched off, (N, I)."""
    without = 1.0 - np.eye(reading.number_of_concepts, dtype=np.float32)
    return reading.intact.logits - outcomes(reading, without).logits


def contribution_orders(contributions: ArrayLike) -> Array:
    """Order the concepts of every image by signed contribution, largest first, (N, I) int."""
    return np.argsort(-np.asarray(contributions), axis=1, kind="stable")


def random_orders(
    images: int, concepts: int, random_state: int | np.random.Generator | None = None
) -> Array:
    """Draw an order of the concepts for every image, (N, I) int: a control."""
    rng = np.random.default_rng(random_state)
    return rng.permuted(np.tile(np.arange(concepts), (images, 1)), axis=1)


def deletion_curves(reading: Reading, orders: Array) -> Curves:
    """Switch concepts off one after the other, starting with all on.

    Parameters
    ----------
    reading : Reading
    orders : ndarray of shape (N, I), int
        The first is switched off first.
    """
    return _curves(reading.intact, outcomes(reading, ~_before_steps(orders)), reading.all_off)


def insertion_curves(reading: Reading, orders: Array) -> Curves:
    """Switch concepts on one after the other, starting from the residual alone.

    The probability is min(p, p_intact): a larger one only lacks evidence against the class.

    Parameters
    ----------
    reading : Reading
    orders : ndarray of shape (N, I), int
        The first is switched on first.
    """
    between = outcomes(reading, _before_steps(orders))
    curves = _curves(reading.all_off, between, reading.intact)
    capped = np.minimum(curves.probabilities, reading.intact.probabilities)
    return Curves(capped, curves.changed)


def probabilities_at(deletion: Curves, fraction: float) -> tuple[Array, Array]:
    """Compute P@fraction: the probability where deletion first changed the features that much.

    At the first step whose ‖x' − x‖_F / ‖x‖_F is at least ``fraction``, linear between it and the
    step before.

    Parameters
    ----------
    deletion : Curves
    fraction : float
        Above 0.

    Returns
    -------
    probabilities : ndarray of shape (N,)
        After the last step where the features never change that much; NaN for an image whose
        features are all 0.
    crossed : ndarray of shape (N,), bool
        Whether they do.
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
    """Draw sets of `SUBSET_SHARE` of the concepts, (M, I) bool.

    At least two concepts where there are three or more: the drop of one concept alone *is* its
    leave-one-out contribution.
    """
    size = max(min(2, concepts - 1), round(SUBSET_SHARE * concepts), 1)
    return np.asarray(random_orders(count, concepts, random_state) < size)


def mu_fidelity(contributions: ArrayLike, subsets: ArrayLike, drops: ArrayLike) -> Array:
    """Correlate Σ_{i ∈ S} contribution_i with the drop of the score without S, over subsets S.

    U. Bhatt, A. Weller, J. Moura, "Evaluating and aggregating feature-based model explanations",
    IJCAI 2020, definition 3 (faithfulness), with concepts for features and "switched off" for
    their baseline.

    Parameters
    ----------
    contributions : ndarray of shape (N, I)
    subsets : ndarray of shape (M, I), bool
        The same for every image.
    drops : ndarray of shape (N, M)
        Score of the intact image minus score with the subset off.

    Returns
    -------
    correlation : ndarray of shape (N,)
        In [−1, 1]; NaN where the sums or the drops do not vary.
    """
    sums = np.asarray(contributions, np.float64) @ np.asarray(subsets, np.float64).T
    both = np.stack([sums, np.asarray(drops, np.float64)])
    deviations = both - both.mean(axis=-1, keepdims=True)
    sizes, spreads = np.linalg.norm([both, deviations], axis=-1)
    varies = (spreads > ROUNDING * sizes).all(axis=0)
    a, b = unit_rows(deviations)
    return np.where(varies, np.clip((a * b).sum(axis=-1), -1.0, 1.0), np.nan)


def _curves(*points: Outcomes) -> Curves:
    return Curves(
        np.concatenate([point.probabilities for point in points], axis=1),
        np.concatenate([point.changed for point in points], axis=1),
    )


def _before_steps(orders: Array) -> Array:
    """Return which concepts come before each step of the orders, (N, I − 1, I) bool."""
    turn = np.argsort(orders, axis=1)
    return np.asarray(turn[:, None, :] < np.arange(1, turn.shape[1])[:, None])


# ------------------------------------------------------------------------------ reconstruction


def reconstruction(
    reading: Reading, reconstructions: ArrayLike, labels: ArrayLike | None = None
) -> dict[str, Array]:
    """Compute the fidelity of the reconstruction without the residual.

    The network is given the reconstruction clipped to the layer's range, as all manipulated
    features; ``activation_r2`` is that of the reconstruction itself.

    Parameters
    ----------
    reading : Reading
        The coefficients an extractor reads in the images.
    reconstructions : ndarray of shape (N, *S, D)
        decode(encode(x)), of any extractor.
    labels : ndarray of shape (N,) or (N, K), int, optional
        True classes, for completeness: indices under a softmax, 0 or 1 of each output under
        sigmoids. Chance is 1/K under a softmax, ½ under sigmoids.

    Returns
    -------
    values : dict
        ``agreement`` (N,), ``kl`` (N,) in bits, ``logit_r2`` (N, 2), ``activation_r2`` (N, 2), and
        with labels ``completeness`` (N, 2).
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
    """Compute R² = 1 − Σ (v − v̂)² / Σ (v − v̄)² as two columns; R² is the ratio of their means.

    v̄ is the mean of each feature over all images and positions: predicting it scores 0, a perfect
    prediction 1, and worse ones are below 0. A bootstrap over the columns keeps v̄ as it is.

    Parameters
    ----------
    values, predictions : ndarray of shape (N, …, D)

    Returns
    -------
    columns : ndarray of shape (N, 2)
        Variance explained, Σ (v − v̄)² − Σ (v − v̂)², and variance, Σ (v − v̄)², of each image.
        0 and 0 where nothing varies (to rounding): the ratio is undefined.
    """
    values, predictions = np.asarray(values), np.asarray(predictions)
    features = values.shape[-1]
    middle = values.reshape(-1, features).mean(axis=0, dtype=np.float64)
    columns, size = np.empty((len(values), 2)), 0.0
    for column, pair in zip(columns, zip(values, predictions, strict=True), strict=True):
        value, prediction = (each.astype(np.float64) for each in pair)  # one image at a time
        variance = np.square(value - middle).sum()
        column[:] = variance - np.square(value - prediction).sum(), variance
        size += np.square(value).sum()
    varies = columns[:, 1].sum() > ROUNDING**2 * size
    return columns if varies else np.zeros_like(columns)


def completeness(intact: ArrayLike, rebuilt: ArrayLike, chance: float) -> Array:
    """Compute η = (reconstructed accuracy − chance) / (accuracy − chance) as two columns.

    C.-K. Yeh et al., "On completeness-aware concept-based explanations in deep neural networks",
    NeurIPS 2020, definition 3.1, with the extractor's own decoder for their learned map.

    Parameters
    ----------
    intact, rebuilt : ndarray of shape (N,)
        Accuracy of the network on each image, and on its reconstruction, 0 to 1.
    chance : float
        Accuracy of a random prediction.

    Returns
    -------
    columns : ndarray of shape (N, 2)
        Numerator and denominator of each image; the ratio of their means is η: 0 at chance, 1 as
        accurate as the network, undefined where the network itself is not clearly above chance.
    """
    return np.stack([np.asarray(rebuilt), np.asarray(intact)], axis=1) - chance
