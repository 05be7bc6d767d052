"""Direction pairs of several networks that are learned together: `learn_universal_pairs`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np
import tensorflow as tf
from numpy.typing import ArrayLike
from scipy import linalg
from sklearn.linear_model import LogisticRegression

from xplique_dirpairs.core.batching import as_positions
from xplique_dirpairs.core.linear_algebra import UNMATCHED, principal_axes, unit_rows
from xplique_dirpairs.core.progress import warn_caller
from xplique_dirpairs.core.types import Array
from xplique_dirpairs.core.validation import (
    check_choice,
    check_fraction,
    check_integer,
    check_random_state,
    errors_of,
)
from xplique_dirpairs.data.alignment import (
    Grid,
    common_grid,
    maps_of_same_images,
    sampled_images,
    to_grid,
)
from xplique_dirpairs.learning.coordinates import Coordinates, Moments, whitened
from xplique_dirpairs.learning.history import History, LearningWarning
from xplique_dirpairs.learning.learner import learn_pairs
from xplique_dirpairs.learning.presence import amounts_of
from xplique_dirpairs.learning.recipe import Recipe
from xplique_dirpairs.learning.signals import joint_signals, measure_pairs, regression
from xplique_dirpairs.learning.sparse import follows_the_model, sparse_start
from xplique_dirpairs.pairs import DirectionPairs

#: Smallest variance of a joined axis, in units of the variance of one network's axis.
_LEAST_VARIANCE = 0.5
#: Largest number of positions that show whether features are sparse, and on which detections are
#: calibrated.
_SEARCHED, _CALIBRATED = 20_000, 100_000
#: Positions for each axis of a network's features below which sparse concepts may not be recognised
#: [measured: planted ones are not at 78 and below, and are at 94 and above].
_TO_TELL = 100
#: Least number of images: half of them must be two.
_FEWEST_IMAGES = 4


@dataclass(frozen=True, eq=False)
class UniversalPairs:
    """Direction pairs of M networks, and which of their concepts are the same.

    ``universal[name]`` are the `DirectionPairs` of the concepts that a network has. Concepts that
    more networks have come first, and then those that are detected more often. So with two networks
    the shared concepts have the same indices in both.

    Attributes
    ----------
    pairs : dict of str to DirectionPairs
        Pairs of each network by its name, with I_m concepts.
    concepts : ndarray of shape (I, M), int
        Index of each of the I concepts in each network; −1 where a network does not have it.
    correlation : ndarray of shape (I, M)
        Correlation of each network's projections with the joint amounts of each concept, on images
        from which its filter was not learned (one half for the other).
    grid : (int, int)
        Rows and columns of the positions at which the networks were compared.
    recipe : str
        Name of the recipe of the joint fit.
    history : History or None
        History of the joint fit; None for recipe "sparse", which learns nothing after its start.
    """

    pairs: dict[str, DirectionPairs]
    concepts: Array
    correlation: Array
    grid: Grid
    recipe: str
    history: History | None = field(repr=False)

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the networks."""
        return tuple(self.pairs)

    @property
    def shared(self) -> Array:
        """Rows of ``concepts`` that two networks or more have, as `match_extractors` takes them."""
        return np.asarray(self.concepts[(self.concepts != UNMATCHED).sum(axis=1) > 1])

    def __getitem__(self, name: str) -> DirectionPairs:
        """Return the pairs of a network.

        Raises
        ------
        ValueError
            If there is no network of this name.
        """
        check_choice("name", name, self.names)
        return self.pairs[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.pairs)


def learn_universal_pairs(
    activations: Mapping[str, ArrayLike],
    number_of_concepts: int,
    *,
    recipe: str | Recipe = "default",
    grid: Grid | None = None,
    at_least: float = 0.3,
    n_init: int | None = None,
    random_state: int | None = None,
    verbose: int = 1,
) -> UniversalPairs:
    """Learn direction pairs of several networks together, with one index for each concept.

    What a universal sparse autoencoder does with reconstruction, done with detections [ours]. The
    features of each network are whitened, and those at the same position are put side by side,
    without the axes along which networks differ in what they share. A detector of joined features
    is a filter in each network, and its logit, wᵀx − b, is the sum of the networks' logits: the
    losses of the recipe (L^s, L^ma, L^ic, L^eac) act on this joint detection. Then each network
    gets detectors of its own, which read its features only: the filter w = Σ⁻¹ cov[x, r] predicts
    the joint amounts r (how far a detection exceeds the level of absent concepts, 0 where it is not
    detected), and bias and length are those of a logistic regression of the joint detection. Signal
    vectors are estimated from the joint amounts. Networks are not evaluated: there are no network
    terms.

    Parameters
    ----------
    activations : mapping of str to array-like of shape (N, *spatial, D_m)
        By the name of each of two or more networks, its activations for the same N images: maps (N,
        H, W, D_m), tokens (N, T, D_m) of square images, or vectors (N, D_m). If they exceed 512 MB
        (10⁶ bytes) together, a random sample of the images is used.
    number_of_concepts : int
        Number of concepts, shared and private ones of all networks together.
    recipe : str or Recipe, default="default"
        How joint detections are learned, as in `learn_pairs`. "default" is "sparse" for features
        whose concepts are rare, and present or absent independently of one another, in every
        network; to tell, it takes 100 positions for each axis along which the features of a network
        vary. Recipe "sparse" may find fewer concepts than asked for; these are all there are then.
    grid : (int, int), optional
        Rows and columns of the positions at which networks are compared; features are averaged to
        it, as `align_positions` does. None: the coarsest of their grids.
    at_least : float, default=0.3
        Least correlation, in (0, 1), of a network's projections with the joint amounts of a concept
        that it has.
    n_init : int, optional
        Number of restarts of the joint fit, as in `learn_pairs`; recipe "sparse" has none.
    random_state : int, optional
        Seed. None draws a seed.
    verbose : int, default=1
        0 is silent, 1 shows the progress of the joint fit.

    Returns
    -------
    universal : UniversalPairs

    Raises
    ------
    ValueError
        If there are fewer than two networks or four images, the activations are not of the same
        images, not finite or constant; if the grid is finer than that of a network, or another
        argument is out of range.

    Warns
    -----
    LearningWarning
        If the joint fit has problems, fewer concepts are found than asked for, or positions are too
        few for "default" to tell whether concepts are sparse, and another recipe was taken.
    """
    check_integer("number_of_concepts", number_of_concepts)
    check_fraction("at_least", at_least)
    rng = check_random_state(random_state)
    maps = maps_of_same_images(activations)
    images = len(next(iter(maps.values())))
    if images < _FEWEST_IMAGES:
        raise ValueError(f"there must be {_FEWEST_IMAGES} or more images, not {images}")
    wanted = common_grid({name: one.shape[1:3] for name, one in maps.items()}, grid)
    chosen = sampled_images(maps, wanted, rng)
    networks = {}
    for name, one in maps.items():
        with errors_of(name):
            networks[name] = _Network.of(to_grid(one[chosen], wanted), number_of_concepts)
    joined, backward = _joined(list(networks.values()))
    history = None
    if recipe == "sparse" or (recipe == "default" and _are_sparse(networks.values(), rng)):
        amounts = _sparse_amounts(joined, number_of_concepts, rng, backward)
        name = "sparse"
    else:
        pairs, history = learn_pairs(
            joined.reshape(len(chosen), *wanted, -1),
            number_of_concepts,
            recipe=recipe,
            n_init=n_init,
            random_state=int(rng.integers(2**31)),
            verbose=verbose,
        )
        amounts = np.where(pairs.detect(joined) > 0.5, pairs.coefficients(joined), 0.0)
        name = history.recipe
        enough = _TO_TELL * max(one.whitened.shape[1] for one in networks.values())
        if recipe == "default" and len(joined) < enough:
            warn_caller(
                f"{len(joined)} positions are too few to tell whether concepts are rare and "
                f"independent: recipe {name!r} was taken. Give {enough} or more, or compare with "
                "recipe='sparse'",
                LearningWarning,
            )
    correlation = np.stack(
        [_held_out(one.whitened, amounts, len(chosen)) for one in networks.values()], axis=1
    )
    present = correlation >= at_least
    order = np.lexsort([-(amounts > 0).mean(axis=0), -present.sum(axis=1)])
    order = order[present[order].any(axis=1)]
    if len(order) < number_of_concepts:
        warn_caller(
            f"{len(order)} concepts were found, not the {number_of_concepts} that were asked for",
            LearningWarning,
        )
    present, amounts = present[order], amounts[:, order]
    own = {}
    for key, network, has in zip(networks, networks.values(), present.T, strict=True):
        if not has.any():
            raise ValueError(
                f"{key}: no joint concept can be read from this network: lower at_least="
                f"{at_least}, or check that the activations are of the same images"
            )
        own[key] = _own_pairs(network, amounts, np.flatnonzero(has), name == "sparse")
    return UniversalPairs(
        pairs=own,
        concepts=np.where(present, np.cumsum(present, axis=0) - 1, UNMATCHED),
        correlation=correlation[order],
        grid=wanted,
        recipe=name,
        history=history,
    )


@dataclass(frozen=True, eq=False)
class _Network:
    """Positions of one network: features (P, D), their moments, and whitened features (P, A)."""

    features: Array
    moments: Moments
    coordinates: Coordinates
    whitened: Array

    @classmethod
    def of(cls, maps: Array, concepts: int) -> _Network:
        features = as_positions(maps)
        moments = Moments.of(features)
        coordinates = whitened(moments, concepts)
        return cls(features, moments, coordinates, coordinates.features(features))


# ------------------------------------------------------------ joint detections


def _are_sparse(networks: Iterable[_Network], rng: np.random.Generator) -> bool:
    """Return whether the features of each network follow the model of sparse concepts.

    Their own axes are fewer than those of joined features, so that fewer positions show it.
    """
    return all(follows_the_model(_spread(one.whitened, _SEARCHED), rng) for one in networks)


def _joined(networks: list[_Network]) -> tuple[Array, Array]:
    """Return joined features (P, A) and the map (A, D_1 + … + D_M) back to raw features.

    The whitened features of all networks, side by side, have principal axes of three kinds. Where
    networks agree, features add up: the variance is above 1, up to the number of networks. What is
    private to a network has variance 1. The differences of what is shared have less, and are left
    out; whitened, they would weigh as much as the concepts. This is a canonical correlation
    analysis. The rest is whitened, so that shared and private concepts count the same.
    """
    side_by_side = np.concatenate([one.whitened for one in networks], axis=1)
    covariance = (side_by_side.T @ side_by_side).astype(np.float64) / len(side_by_side)
    axes, variances = principal_axes(covariance)
    kept = variances > _LEAST_VARIANCE
    axes, deviations = axes[kept], np.sqrt(variances[kept])
    joined = side_by_side @ (axes.T / deviations).astype(np.float32)
    # every network weighs the same in raw features
    raw = linalg.block_diag(
        *(one.coordinates.backward / np.sqrt(np.trace(one.moments.covariance)) for one in networks)
    )
    return joined, deviations[:, None] * axes @ raw


def _sparse_amounts(
    joined: Array, concepts: int, rng: np.random.Generator, backward: Array
) -> Array:
    """Return the amounts (P, n) of n ≤ I sparse concepts in joined features (P, A)."""
    start = sparse_start(joined, concepts, rng, backward)
    filters = start.filters[: max(1, min(start.found, concepts))]
    return amounts_of(joined @ filters.T)


# ------------------------------------------------------------ each network


def _held_out(x: Array, amounts: Array, images: int) -> Array:
    """Return correlations (I,) of projections with amounts, on the half that they do not know."""
    half = len(x) // images * (images // 2)
    parts = slice(half), slice(half, None)
    correlations = [
        _correlation(x[other] @ _filters(x[own], amounts[own]).T, amounts[other])
        for own, other in (parts, parts[::-1])
    ]
    return np.asarray(np.mean(correlations, axis=0))


def _own_pairs(
    network: _Network, amounts: Array, concepts: Array, is_sparse: bool
) -> DirectionPairs:
    """Return the pairs of some concepts in one network, for joint amounts (P, I) of all."""
    x, coordinates = network.whitened, network.coordinates
    filters = _filters(x, amounts[:, concepts])
    z = x @ filters.T
    slopes, biases = _calibrated(z, amounts[:, concepts] > 0)
    if is_sparse:
        signals = regression(amounts, x)[concepts]
    else:
        with_x = _covariances(amounts[:, concepts], x)
        signals = joint_signals(tf.constant(with_x), tf.constant(with_x @ filters.T)).numpy()
    measured = measure_pairs(
        network.features,
        network.moments,
        coordinates.filters_to_raw(slopes[:, None] * filters),
        slopes * biases,
        coordinates.signals_to_raw(signals),
    )
    return measured.pairs


def _covariances(amounts: Array, x: Array) -> Array:
    """Return the covariances of amounts (P, I) with whitened features (P, A), (I, A) float64."""
    centred = (amounts - amounts.mean(axis=0)).astype(np.float32)
    return np.asarray((centred.T @ x).astype(np.float64) / len(x))


def _filters(x: Array, amounts: Array) -> Array:
    """Return unit filters (I, A) that predict amounts (P, I) from whitened features (P, A)."""
    filters = _covariances(amounts, x)
    unknown = ~filters.any(axis=1)
    filters[unknown, 0] = 1.0  # of a concept that is never detected
    return unit_rows(filters)


def _correlation(z: Array, amounts: Array) -> Array:
    """Return the correlation of each column of z (P, I) with that of the amounts; 0 if constant."""
    z, r = z - z.mean(axis=0), amounts - amounts.mean(axis=0)
    scale = np.sqrt(np.square(z).sum(axis=0) * np.square(r).sum(axis=0))
    return np.asarray(
        np.divide((z * r).sum(axis=0), scale, out=np.zeros(len(scale)), where=scale > 0)
    )


def _calibrated(z: Array, detected: Array) -> tuple[Array, Array]:
    """Return slopes and biases (I,) of logistic regressions of joint detections on z, (P, I) each.

    A concept without detections is detected nowhere.
    """
    deviations = z.std(axis=0, dtype=np.float64)
    slopes, biases = 1.0 / deviations, z.max(axis=0) + deviations
    z, detected = _spread(z, _CALIBRATED), _spread(detected, _CALIBRATED)
    for i in np.flatnonzero(detected.any(axis=0) & ~detected.all(axis=0)):
        fit = LogisticRegression().fit(z[:, i, None] / deviations[i], detected[:, i])
        slopes[i] = float(fit.coef_[0, 0]) / deviations[i]
        biases[i] = -float(fit.intercept_[0]) / slopes[i]
    return slopes, biases


def _spread(rows: Array, count: int) -> Array:
    """Return at most ``count`` rows, evenly spread."""
    return np.asarray(rows[np.linspace(0, len(rows) - 1, min(len(rows), count)).astype(int)])
