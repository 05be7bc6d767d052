"""The toy problem of sparse dictionary learning, with its truth: few of many atoms at a position.

`planted_dictionary` draws features x = Σ_i c_i a_i + b (+ noise) of random unit atoms a_i, where
few coefficients c_i are above 0. `synthsae_small` is a named problem of this form.

N positions or images, D channels, I atoms.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import TypeAlias

import numpy as np
from numpy.typing import ArrayLike

from xplique_dirpairs.core.linear_algebra import unit_rows
from xplique_dirpairs.core.types import Array
from xplique_dirpairs.core.validation import check_choice, check_integer, check_number, check_type
from xplique_dirpairs.datasets.planted_firing import (
    Firing,
    Together,
    Trees,
    joint_probability,
    zipf_probabilities,
)

#: Draws coefficients of a shape (P, I).
Draw: TypeAlias = Callable[[np.random.Generator, tuple[int, int]], Array]

#: Number of positions that are drawn at a time.
_CHUNK = 8192
#: Probability that an atom is on, if none is given.
_PROBABILITY = 0.05
#: Step size of Adam, and the decay of its two means, as in sae-lens.
_STEP, _DECAY = 0.01, (0.9, 0.999)


@dataclass(frozen=True)
class Coefficients:
    """Distribution of the coefficients of atoms that are on.

    Parameters
    ----------
    draw : callable
        Function of a random generator and a shape (P, I), for P positions and I atoms, that returns
        coefficients of at least 0 of this shape. An atom whose coefficient is 0 is off.
    mean : float or array-like of shape (I,)
        Mean of the coefficients. In `Trees`, a child's coefficient is multiplied by its parent's
        divided by the parent's mean.
    """

    draw: Draw
    mean: ArrayLike = 1.0


def _gamma(rng: np.random.Generator, shape: tuple[int, int]) -> Array:
    return rng.gamma(4.0, 0.25, shape)


def _uniform(rng: np.random.Generator, shape: tuple[int, int]) -> Array:
    return rng.uniform(0.5, 1.5, shape)


def _lognormal(rng: np.random.Generator, shape: tuple[int, int]) -> Array:
    return rng.lognormal(0.0, 0.5, shape)


def _cut_normal(
    means: Array, deviations: Array, rng: np.random.Generator, shape: tuple[int, int]
) -> Array:
    return np.maximum(rng.normal(means, deviations, shape), 0.0)


#: The named distributions.
COEFFICIENTS = {
    "gamma": Coefficients(_gamma),
    "uniform": Coefficients(_uniform),
    "lognormal": Coefficients(_lognormal, np.exp(0.125)),
}


@dataclass(frozen=True)
class Geometry:
    """How the atoms lie.

    Parameters
    ----------
    non_negative : bool, default=False
        Whether atoms, offset and features have no negative values, like features after a ReLU.
        Normal atoms are then replaced by their magnitudes, and noise below 0 is cut off.
    orthogonalise : int, default=0
        Number of gradient steps (Adam, 0.01) that lower Σ_{i≠j} ⟨a_i, a_j⟩² + I Σ_i (‖a_i‖² − 1)².
    scales : float, default=0
        Standard deviation of the logarithm of the channels' scales, whose mean square is 1. Atoms,
        offset and noise are multiplied by them. With 0 all channels have the same scale.

    Raises
    ------
    ValueError
        If a value is out of range, or non-negative atoms are to be orthogonalised.
    """

    non_negative: bool = False
    orthogonalise: int = 0
    scales: float = 0.0

    def __post_init__(self) -> None:
        """Check the values."""
        check_integer("orthogonalise", self.orthogonalise, 0)
        check_number("scales", self.scales, minimum=0.0)
        if self.non_negative and self.orthogonalise:
            raise ValueError("non_negative atoms cannot be orthogonalised: choose one of the two")


@dataclass(frozen=True)
class PlantedSource:
    """All that fresh data have in common with the first data of a planted dictionary.

    Attributes
    ----------
    atoms : ndarray of shape (I, D), float64
        The atoms, of unit length.
    lengths : ndarray of shape (I,)
        Factor of each atom's coefficients: its length after the channels were scaled.
    offset : ndarray of shape (D,), float64
        Constant vector that is added at every position.
    noise : ndarray of shape (D,)
        Standard deviation of the noise of each channel.
    probability : ndarray of shape (I,)
        Probability that each atom is on, as it was asked for.
    firing : Firing
        How often atoms fire, and together with which others.
    sizes : Coefficients
        Distribution of the coefficients of atoms that are on.
    map_shape : tuple of (int, int) or None
        Height and width of the maps. None: the data are single positions.
    non_negative : bool
        Whether features below 0 are set to 0.
    seed : int
        Seed of the atoms and of the first data.
    """

    atoms: Array
    lengths: Array
    offset: Array
    noise: Array
    probability: Array
    firing: Firing
    sizes: Coefficients
    map_shape: tuple[int, int] | None
    non_negative: bool
    seed: int

    def sample(self, n: int, spawn_key: tuple[int, ...]) -> PlantedDictionary:
        """Draw N positions or images; each spawn key gives other data."""
        shape = (n,) if self.map_shape is None else (n, *self.map_shape)
        positions, (atoms, channels) = int(np.prod(shape)), self.atoms.shape
        entropy = np.random.SeedSequence(self.seed, spawn_key=spawn_key)
        # noise has a generator of its own: with and without noise, the same atoms are on
        rng, noise_rng = (np.random.default_rng(one) for one in entropy.spawn(2))
        coefficients = np.empty((positions, atoms), np.float32)
        features = np.empty((positions, channels), np.float32)
        for start in range(0, positions, _CHUNK):
            part = slice(start, min(start + _CHUNK, positions))
            coefficients[part] = self._coefficients(rng, part.stop - start)
            x = coefficients[part] @ self.atoms + self.offset
            if self.noise.any():
                x += self.noise * noise_rng.standard_normal(x.shape)
            features[part] = np.maximum(x, 0.0) if self.non_negative else x
        coefficients = coefficients.reshape(*shape, atoms)
        return PlantedDictionary(
            features=features.reshape(*shape, channels),
            atoms=self.atoms,
            present=coefficients > 0,
            coefficients=coefficients,
            offset=self.offset,
            probability=self.probability,
            source=self,
        )

    def _coefficients(self, rng: np.random.Generator, positions: int) -> Array:
        """Draw the coefficients of a chunk of positions, (P, I)."""
        shape = (positions, len(self.atoms))
        on = self.firing.draw(rng, positions)
        drawn = np.asarray(self.sizes.draw(rng, shape))
        if drawn.shape != shape or not (np.isfinite(drawn).all() and (drawn >= 0).all()):
            raise ValueError(
                f"coefficients must be finite numbers of at least 0, of shape {shape}, but the "
                f"function returned {drawn.dtype} {drawn.shape} with other values or shape"
            )
        values = np.where(on, drawn, 0.0)
        self.firing.grow(rng, values, np.broadcast_to(self.sizes.mean, shape[1:]))
        return np.asarray(values * self.lengths)


@dataclass(frozen=True)
class PlantedDictionary:
    """Features Σ_i c_i a_i + b (+ noise), and the truth that they were computed from.

    Attributes
    ----------
    features : ndarray of shape (N, D) or (N, H, W, D), float32
        The features x.
    atoms : ndarray of shape (I, D)
        The atoms a_i, of unit length, as the features contain them: in channels of their scales.
    present : ndarray of shape (N, I) or (N, H, W, I), bool
        Whether an atom is on at a position.
    coefficients : ndarray of shape (N, I) or (N, H, W, I), float32
        The coefficients c_i; 0 where an atom is off.
    offset : ndarray of shape (D,)
        The constant vector b.
    probability : ndarray of shape (I,)
        Probability that each atom is on, as it was asked for.
    source : PlantedSource
        What `fresh` draws from.
    """

    features: Array
    atoms: Array
    present: Array
    coefficients: Array
    offset: Array
    probability: Array
    source: PlantedSource = field(repr=False)

    def fresh(self, n: int, seed: int) -> PlantedDictionary:
        """Draw new data of the same atoms, which fire in the same manner.

        Parameters
        ----------
        n : int
            Number of positions, or of images if the data are maps.
        seed : int
            Seed of the new data. No seed gives the data that `planted_dictionary` returned.

        Returns
        -------
        data : PlantedDictionary

        Raises
        ------
        ValueError
            If ``n`` is not a positive integer, or ``seed`` not an integer of at least 0.
        """
        check_integer("n", n)
        check_integer("seed", seed, 0)
        return self.source.sample(n, (2, int(seed)))


def planted_dictionary(
    n: int,
    channels: int,
    atoms: int,
    *,
    map_shape: tuple[int, int] | None = None,
    probability: ArrayLike | None = None,
    exactly: int | None = None,
    together: Together | None = None,
    coefficients: str | Draw | Coefficients = "gamma",
    geometry: Geometry | None = None,
    offset: float = 0.0,
    noise: float = 0.0,
    seed: int = 0,
) -> PlantedDictionary:
    """Draw features in which few of the atoms of a random dictionary are on at each position.

    Parameters
    ----------
    n : int
        Number of positions, or of images if ``map_shape`` is given, N.
    channels : int
        Number of channels, D.
    atoms : int
        Number of atoms, I: fewer than channels, as many, or more.
    map_shape : tuple of (int, int), optional
        Height and width of the maps, H and W. None: the data are single positions.
    probability : float or array-like of shape (I,), optional
        Probability that an atom is on, one for all or one for each, such as those of
        `planted_firing.zipf_probabilities`; by default 0.05.
    exactly : int, optional
        Number of atoms that are on at each position, all equally likely, instead of a probability.
    together : Together, optional
        Which atoms fire together; by default each fires by itself.
    coefficients : {"gamma", "uniform", "lognormal"}, callable or Coefficients, default="gamma"
        Distribution of the coefficients of atoms that are on: gamma of shape 4 and mean 1, uniform
        from 0.5 to 1.5, lognormal with logarithms of mean 0 and deviation 0.5, or
        ``draw(rng, (P, I))`` that returns values of at least 0. Trees need their mean too: a
        `Coefficients`.
    geometry : Geometry, optional
        How the atoms lie; by default uniformly on the unit sphere.
    offset : float, default=0
        Length of the constant vector b, whose direction is random.
    noise : float, default=0
        Standard deviation of the normal noise of every channel.
    seed : int, default=0
        Seed of atoms and data. See `PlantedDictionary.fresh` for other data of the same atoms.

    Returns
    -------
    data : PlantedDictionary
        Features of shape (N, D), or (N, H, W, D).

    Raises
    ------
    TypeError
        If ``together`` or ``geometry`` is something else, or ``coefficients`` neither a name nor a
        function.
    ValueError
        If a value is out of range, or options exclude each other.
    """
    for name, size in {"n": n, "channels": channels, "atoms": atoms}.items():
        check_integer(name, size)
    check_integer("seed", seed, 0)
    for name, value in {"offset": offset, "noise": noise}.items():
        check_number(name, value, minimum=0.0)
    together = Together() if together is None else together
    geometry = Geometry() if geometry is None else geometry
    check_type("together", together, Together, "a Together")
    check_type("geometry", geometry, Geometry, "a Geometry")
    probabilities = _check_probability(probability, exactly, atoms, together)
    sizes = _check_coefficients(coefficients, atoms, together)
    vectors_rng, firing_rng = (
        np.random.default_rng(one) for one in np.random.SeedSequence(seed, spawn_key=(0,)).spawn(2)
    )
    # all are drawn in any case: whichever options are chosen, the same seed gives the same atoms
    vectors = vectors_rng.standard_normal((atoms, channels))
    constant = vectors_rng.standard_normal(channels)
    scales = np.exp(geometry.scales * vectors_rng.standard_normal(channels))
    scales /= np.sqrt(np.mean(np.square(scales)))
    if geometry.non_negative:
        vectors, constant = np.abs(vectors), np.abs(constant)
    vectors = orthogonalised(unit_rows(vectors), geometry.orthogonalise) * scales
    source = PlantedSource(
        atoms=unit_rows(vectors),
        lengths=np.linalg.norm(vectors, axis=1),
        offset=offset * unit_rows(constant) * scales,
        noise=noise * scales,
        probability=probabilities,
        firing=Firing.of(firing_rng, probabilities, exactly, together),
        sizes=sizes,
        map_shape=_check_map_shape(map_shape),
        non_negative=geometry.non_negative,
        seed=seed,
    )
    return source.sample(n, (1,))


def synthsae_small(n: int, seed: int = 0) -> PlantedDictionary:
    """Draw a small problem with all ingredients of SynthSAEBench: about 5.7 of 192 atoms are on.

    192 atoms in 128 channels, orthogonalised by 100 steps, fire like 1/√rank, with probabilities
    from 0.4 to 0.005 and a copula of rank 10 and scale 0.1. They form 16 trees with four children
    each, whose probabilities are compensated, and whose second level is complete for 28 of the 64
    children. Coefficients are normal, cut off at 0: their means fall linearly from 5 to 4, their
    deviations are magnitudes of normal values of mean and deviation 0.5. The offset has length 0.5.

    The benchmark itself has 16 384 atoms in 768 channels: D. Chanin, A. Garriga-Alonso,
    "SynthSAEBench", arXiv 2602.14687; the definitions are those of sae-lens 6.54.

    Parameters
    ----------
    n : int
        Number of positions, N.
    seed : int, default=0
        Seed of atoms and data.

    Returns
    -------
    data : PlantedDictionary

    Raises
    ------
    ValueError
        If ``n`` is not a positive integer, or ``seed`` not an integer of at least 0.
    """
    atoms = 192
    check_integer("seed", seed, 0)
    rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(3,)))
    means = np.linspace(5.0, 4.0, atoms)
    deviations = np.abs(rng.normal(0.5, 0.5, atoms))
    return planted_dictionary(
        n,
        channels=128,
        atoms=atoms,
        probability=zipf_probabilities(atoms, 0.4, 5e-3, 0.5),
        together=Together(rank=10, scale=0.1, trees=Trees(16, branching=4, depth=2)),
        coefficients=Coefficients(partial(_cut_normal, means, deviations), means),
        geometry=Geometry(orthogonalise=100),
        offset=0.5,
        seed=seed,
    )


def orthogonalised(atoms: Array, steps: int) -> Array:
    """Lower the mutual cosines of unit atoms (I, D) by gradient steps, and return unit atoms."""
    atoms = atoms.copy()
    mean, square = np.zeros_like(atoms), np.zeros_like(atoms)
    for step in range(1, steps + 1):
        products = atoms @ atoms.T
        # the gradient of Σ_{i≠j} ⟨a_i, a_j⟩² + I Σ_i (⟨a_i, a_i⟩ − 1)²
        np.fill_diagonal(products, len(atoms) * (np.diag(products) - 1.0))
        gradient = 4.0 * products @ atoms
        mean += (1.0 - _DECAY[0]) * (gradient - mean)
        square += (1.0 - _DECAY[1]) * (np.square(gradient) - square)
        slope, curvature = mean / (1.0 - _DECAY[0] ** step), square / (1.0 - _DECAY[1] ** step)
        atoms -= _STEP * slope / (np.sqrt(curvature) + 1e-8)
    return unit_rows(atoms)


def _check_probability(
    probability: ArrayLike | None, exactly: int | None, atoms: int, together: Together
) -> Array:
    """Return the probability that each atom is on, (I,)."""
    if exactly is not None:
        check_integer("exactly", exactly)
        if exactly > atoms:
            raise ValueError(f"exactly must be at most the number of atoms, {atoms}, not {exactly}")
        if probability is not None or together != Together():
            raise ValueError("exactly excludes probability and together: give one of them")
        return np.full(atoms, exactly / atoms)
    given = np.asarray(_PROBABILITY if probability is None else probability, np.float64)
    if given.shape not in ((), (atoms,)) or not ((given > 0) & (given <= 1)).all():
        raise ValueError(
            f"probability must be above 0 and at most 1, one for all atoms or of shape ({atoms},), "
            f"not {probability!r}"
        )
    probabilities = np.broadcast_to(given, atoms).copy()
    if together.partner is not None:
        joint_probability(probabilities, together.partner)
    if together.trees is not None and together.trees.number > atoms:
        raise ValueError(f"there are {together.trees.number} trees for {atoms} atoms: give fewer")
    return probabilities


def _check_coefficients(
    coefficients: str | Draw | Coefficients, atoms: int, together: Together
) -> Coefficients:
    """Return the distribution of the coefficients, with its mean."""
    if isinstance(coefficients, str):
        check_choice("coefficients", coefficients, tuple(COEFFICIENTS))
        return COEFFICIENTS[coefficients]
    if isinstance(coefficients, Coefficients):
        mean = np.asarray(coefficients.mean)
        if mean.shape not in ((), (atoms,)) or not (mean > 0).all():
            raise ValueError(
                f"the mean of the coefficients must be above 0, one for all atoms or of shape "
                f"({atoms},), not {coefficients.mean!r}"
            )
        return coefficients
    if not callable(coefficients):
        raise TypeError(
            f"coefficients must be one of {tuple(COEFFICIENTS)}, a function or a Coefficients, not "
            f"{type(coefficients).__name__}"
        )
    if together.trees is not None:
        raise ValueError(
            "trees need the mean of the coefficients: give Coefficients(draw, mean), not a function"
        )
    return Coefficients(coefficients)


def _check_map_shape(map_shape: tuple[int, int] | None) -> tuple[int, int] | None:
    """Return a map shape, which is None or has two positive integers."""
    if map_shape is None:
        return None
    if np.shape(map_shape) != (2,):
        raise ValueError(f"map_shape must be (height, width), not {map_shape!r}")
    height, width = map_shape
    check_integer("height of map_shape", height)
    check_integer("width of map_shape", width)
    return int(height), int(width)
