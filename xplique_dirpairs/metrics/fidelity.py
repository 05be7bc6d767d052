"""Whether the network uses the concepts as the extractor says: deletion, insertion, μ-fidelity.

The rules that make extractors comparable: concepts are ordered by *signed* contribution; the
residual is kept and features stay in the layer's range; deletion is read against the number of
concepts and against the feature norm changed, for areas alone reward leaving the data; insertion
never counts for more than the intact probability.

Shapes: N images, I concepts. A curve has I + 1 points: after 0, 1, …, I concepts.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from xplique_dirpairs.metrics.importance import ROUNDING
from xplique_dirpairs.metrics.manipulation import (
    Outcomes,
    Reading,
    all_off_negative_mass,
    outcomes,
)
from xplique_dirpairs.metrics.reconstruction import reconstruction

#: Changes of the features, as fractions of their norm, at which deletion is read.
FRACTIONS = (0.1, 0.2, 0.3)


@dataclass(frozen=True, eq=False)
class Curves:
    """Deletion or insertion of every image.

    Attributes
    ----------
    probabilities : (N, I + 1)
        Of the image's class; insertion: at most the intact one.
    changed : (N, I + 1)
        ‖x' − x‖_F / ‖x‖_F at each point; NaN for an image whose features are all 0.
    """

    probabilities: NDArray
    changed: NDArray

    @property
    def areas(self) -> NDArray:
        """Area under each curve of probabilities over j/I, (N,)."""
        return curve_areas(self.probabilities)


@dataclass(frozen=True, eq=False)
class Fidelity:
    """What `fidelity` measured.

    Attributes
    ----------
    values : dict
        Key of `registry.METRICS` → value of every image, (N,); (N, 2) where the metric's statistic
        is a ratio. NaN where it is undefined.
    deletion, insertion : Curves
    contributions : (N, I)
        By which concepts were ordered, unless ``orders`` were given.
    orders : (N, I)
        Concepts in the order of deletion and of insertion.
    crossed : (N, 3), bool
        Whether deletion changed the features by each of `FRACTIONS`; where it did not, P@ is the
        probability after the last step.
    """

    values: dict[str, NDArray]
    deletion: Curves
    insertion: Curves
    contributions: NDArray
    orders: NDArray
    crossed: NDArray


def fidelity(
    reading: Reading,
    *,
    contributions: ArrayLike | None = None,
    orders: ArrayLike | None = None,
    reconstructions: ArrayLike | None = None,
    labels: ArrayLike | None = None,
    nb_subsets: int = 50,
    random_state: int | np.random.Generator | None = 0,
) -> Fidelity:
    """Every fidelity metric of one extractor on N images.

    About 3 I + ``nb_subsets`` passes of the images through the rest of the network.

    Parameters
    ----------
    reading
        What the extractor reads in the images.
    contributions : (N, I), optional
        Signed contribution of every concept to the class's logit; `leave_one_out` if not given.
    orders : (N, I) int, optional
        Concepts in the order in which they are deleted and inserted, if not that of the
        contributions; see `random_orders`.
    reconstructions : (N, *S, D), optional
        decode(u), without the residual. Without it nothing is said of the reconstruction.
    labels : (N,), optional
        True classes; without them no completeness. See `reconstruction`.
    nb_subsets
        Random subsets of concepts for μ-fidelity.
    random_state
        Seed or generator of those subsets.

    Returns
    -------
    fidelity

    Raises
    ------
    ValueError, TypeError
        If an argument does not fit the reading.
    """
    if labels is not None and reconstructions is None:
        raise ValueError("labels are for the completeness of reconstructions: pass them as well")
    # what came is checked before the many passes
    subsets = random_subsets(reading.number_of_concepts, nb_subsets, random_state)
    if contributions is not None:
        contributions = _checked_contributions(contributions, reading)
    if orders is not None:
        orders = _checked_orders(orders, reading)
    values: dict[str, NDArray] = {}
    if reconstructions is not None:
        values = reconstruction(reading, reconstructions, labels)
    if contributions is None:
        contributions = leave_one_out(reading)
    if orders is None:
        orders = contribution_orders(contributions)
    deletion, insertion = deletion_curves(reading, orders), insertion_curves(reading, orders)
    crossings = [probabilities_at(deletion, fraction) for fraction in FRACTIONS]
    drops = reading.intact.logits - outcomes(reading, ~subsets).logits
    measured = {
        "deletion": deletion.areas,
        "insertion": insertion.areas,
        **{f"p_at_{fraction}": at for fraction, (at, _) in zip(FRACTIONS, crossings, strict=True)},
        "mu_fidelity": mu_fidelity(contributions, subsets, drops),
        "all_off_norm": reading.all_off.changed[:, 0],
        "all_off_negative_mass": all_off_negative_mass(reading),
        "all_off_probability": reading.all_off.probabilities[:, 0],
        "all_off_entropy": reading.all_off.entropies[:, 0],
    }
    crossed = np.stack([crossed for _, crossed in crossings], axis=1)
    return Fidelity(measured | values, deletion, insertion, contributions, orders, crossed)


def leave_one_out(reading: Reading) -> NDArray:
    """Drop of the class's logit when one concept alone is switched off, (N, I), signed."""
    without = 1.0 - np.eye(reading.number_of_concepts, dtype=np.float32)
    return reading.intact.logits - outcomes(reading, without).logits


def contribution_orders(contributions: ArrayLike) -> NDArray:
    """Concepts of every image by signed contribution, largest first, (N, I) int."""
    return np.argsort(-np.asarray(contributions), axis=1, kind="stable")


def random_orders(
    images: int, concepts: int, random_state: int | np.random.Generator | None = None
) -> NDArray:
    """Concepts in an order drawn for every image, (N, I) int: a control."""
    rng = np.random.default_rng(random_state)
    return rng.permuted(np.tile(np.arange(concepts), (images, 1)), axis=1)


def deletion_curves(reading: Reading, orders: ArrayLike) -> Curves:
    """Concepts switched off one after the other, starting with all on.

    Parameters
    ----------
    reading
    orders : (N, I) int
        The first is switched off first.

    Raises
    ------
    ValueError
        If the rows of ``orders`` are not orders of the concepts.
    """
    turn = _turns(orders, reading)
    steps = np.arange(1, reading.number_of_concepts)
    between = outcomes(reading, turn[:, None, :] >= steps[:, None])
    return _curves(reading.intact, between, reading.all_off)


def insertion_curves(reading: Reading, orders: ArrayLike) -> Curves:
    """Concepts switched on one after the other, starting from the residual alone.

    The probability is min(p, p_intact): above it only evidence against the class was left out.

    Parameters
    ----------
    reading
    orders : (N, I) int
        The first is switched on first.

    Raises
    ------
    ValueError
        If the rows of ``orders`` are not orders of the concepts.
    """
    turn = _turns(orders, reading)
    steps = np.arange(1, reading.number_of_concepts)
    between = outcomes(reading, turn[:, None, :] < steps[:, None])
    curves = _curves(reading.all_off, between, reading.intact)
    capped = np.minimum(curves.probabilities, reading.intact.probabilities)
    return Curves(capped, curves.changed)


def curve_areas(curves: ArrayLike) -> NDArray:
    """Area under (N, I + 1) points over j/I by the trapezoid rule, (N,), in the curves' unit."""
    curves = np.asarray(curves, np.float64)
    return (curves[:, :-1] + curves[:, 1:]).mean(axis=1) / 2


def probabilities_at(deletion: Curves, fraction: float) -> tuple[NDArray, NDArray]:
    """P@fraction: the probability where deletion first changed the features that much.

    At the first step whose ‖x' − x‖_F / ‖x‖_F is at least ``fraction``, linear between it and the
    step before.

    Parameters
    ----------
    deletion
    fraction
        Above 0.

    Returns
    -------
    probabilities : (N,)
        After the last step where the features never change that much; NaN for an image whose
        features are all 0.
    crossed : (N,), bool
        Whether they do.

    Raises
    ------
    ValueError
        If ``fraction`` is not above 0.
    """
    if not fraction > 0:
        raise ValueError(f"fraction must be above 0, not {fraction!r}")
    p, changed = deletion.probabilities, deletion.changed
    reached = changed[:, 1:] >= fraction
    crossed = np.any(reached, axis=1, keepdims=True)[:, 0]
    image, after = np.arange(len(p)), reached.argmax(axis=1) + 1
    start, end = changed[image, after - 1], changed[image, after]
    share = np.divide(fraction - start, end - start, out=np.ones(len(p)), where=crossed)
    at = p[image, after - 1] + share * (p[image, after] - p[image, after - 1])
    at = np.where(crossed, at, p[:, -1])
    return np.where(np.isnan(changed).any(axis=1), np.nan, at), crossed


def random_subsets(
    concepts: int,
    count: int,
    random_state: int | np.random.Generator | None = None,
    share: float = 0.2,
) -> NDArray:
    """Random sets of concepts of one size, (M, I) bool: ``share`` of them.

    At least two of three concepts or more: of one concept alone the drop *is* its leave-one-out
    contribution.

    Raises
    ------
    ValueError
        If ``count`` is below 2, which has no correlation, or ``share`` is not in (0, 1].
    """
    if count < 2:
        raise ValueError(f"at least 2 subsets are needed for a correlation, not {count!r}")
    if not 0.0 < share <= 1.0:
        raise ValueError(f"share must be above 0 and at most 1, not {share!r}")
    size = max(min(2, concepts - 1), round(share * concepts), 1)
    return random_orders(count, concepts, random_state) < size


def mu_fidelity(contributions: ArrayLike, subsets: ArrayLike, drops: ArrayLike) -> NDArray:
    """Correlation over subsets S of Σ_{i ∈ S} contribution_i with the drop of the score without S.

    U. Bhatt, A. Weller, J. Moura, "Evaluating and aggregating feature-based model explanations",
    IJCAI 2020, definition 3 (faithfulness), with concepts for features and "switched off" for
    their baseline.

    Parameters
    ----------
    contributions : (N, I)
    subsets : (M, I), bool
        The same for every image.
    drops : (N, M)
        Score of the intact image minus score with the subset off.

    Returns
    -------
    correlation : (N,)
        In [−1, 1]; NaN where the sums or the drops do not vary.
    """
    sums = np.asarray(contributions, np.float64) @ np.asarray(subsets, np.float64).T
    drops = np.asarray(drops, np.float64)
    a = sums - sums.mean(axis=1, keepdims=True)
    b = drops - drops.mean(axis=1, keepdims=True)
    lengths = np.linalg.norm(a, axis=1), np.linalg.norm(b, axis=1)
    varies = np.logical_and(
        *(
            length > ROUNDING * np.linalg.norm(values, axis=1)
            for length, values in zip(lengths, (sums, drops), strict=True)
        )
    )
    products = (a * b).sum(axis=1)
    correlation = np.full(len(sums), np.nan)
    np.divide(products, lengths[0] * lengths[1], out=correlation, where=varies)
    return np.clip(correlation, -1.0, 1.0)


def _curves(first: Outcomes, between: Outcomes, last: Outcomes) -> Curves:
    points = (first, between, last)
    return Curves(
        np.concatenate([point.probabilities for point in points], axis=1),
        np.concatenate([point.changed for point in points], axis=1),
    )


def _turns(orders: ArrayLike, reading: Reading) -> NDArray:
    """Each concept's place in the order, (N, I)."""
    return np.argsort(_checked_orders(orders, reading), axis=1)


def _checked_orders(orders: ArrayLike, reading: Reading) -> NDArray:
    orders = np.asarray(orders)
    images, concepts = reading.number_of_images, reading.number_of_concepts
    if orders.shape != (images, concepts):
        raise ValueError(f"orders must be (N, I) = {(images, concepts)}, not {orders.shape}")
    if (np.sort(orders, axis=1) != np.arange(concepts)).any():
        raise ValueError(f"each row of orders must hold every concept 0 … {concepts - 1} once")
    return orders


def _checked_contributions(contributions: ArrayLike, reading: Reading) -> NDArray:
    contributions = np.asarray(contributions, np.float64)
    wanted = (reading.number_of_images, reading.number_of_concepts)
    if contributions.shape != wanted:
        raise ValueError(f"contributions must be (N, I) = {wanted}, not {contributions.shape}")
    if not np.isfinite(contributions).all():
        raise ValueError("contributions must be finite, but hold NaN or infinite values")
    return contributions
