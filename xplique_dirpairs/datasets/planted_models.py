"""Features of two or more networks at the same positions, with the truth about what they share.

Each network has a dictionary of its own. Some concepts are *shared*: they are on at the same
positions in all networks, with almost the same coefficients. All others are *private* to a network.

N positions or images, D_m channels and I_m concepts of network m, M networks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from xplique_dirpairs.core.linear_algebra import cosines, unit_rows
from xplique_dirpairs.core.types import Array
from xplique_dirpairs.core.validation import check_fraction, check_integer, check_number


@dataclass(frozen=True, eq=False)
class PlantedModel:
    """Features Σ_i c_i a_i + noise of one network, and the truth that they were computed from.

    Attributes
    ----------
    features : ndarray of shape (N, *spatial, D), float32
        Features x at the positions of all networks.
    atoms : ndarray of shape (I, D)
        Unit atoms a_i: the shared concepts first, in the same order in all networks.
    coefficients : ndarray of shape (N, *spatial, I), float32
        Coefficients c_i; 0 where a concept is off.
    """

    features: Array
    atoms: Array
    coefficients: Array

    @property
    def present(self) -> Array:
        """Where each concept is on, (N, *spatial, I) bool."""
        return np.asarray(self.coefficients > 0)


@dataclass(frozen=True, eq=False)
class PlantedModels:
    """Features of M networks at the same positions, and the truth about them.

    Attributes
    ----------
    models : dict of str to PlantedModel
        The networks by name: "a", "b", ….
    shared : int
        Number of shared concepts, which have the first indices in every network.
    settings : dict
        The arguments of `planted_models`, from which `fresh` draws other data.
    """

    models: dict[str, PlantedModel]
    shared: int
    settings: dict[str, object] = field(repr=False)

    def __getitem__(self, name: str) -> PlantedModel:
        return self.models[name]

    @property
    def activations(self) -> dict[str, Array]:
        """Features of each network by its name, (N, *spatial, D_m) each."""
        return {name: model.features for name, model in self.models.items()}

    def fresh(self, n: int, sample: int) -> PlantedModels:
        """Draw other positions or images of the same networks.

        Parameters
        ----------
        n : int
            Number of positions, or of images if the data are maps.
        sample : int
            Number of the sample, at least 1.

        Returns
        -------
        data : PlantedModels

        Raises
        ------
        ValueError
            If one of them is not a positive integer.
        """
        check_integer("sample", sample)
        return planted_models(n, **self.settings, sample=sample)  # type: ignore[arg-type]

    def independent(self) -> PlantedModels:
        """Return the same networks, whose images no longer belong together.

        The images of each network but the first are shifted by a number of images of its own, so
        that the features of all networks are as before, and nothing is shared.

        Returns
        -------
        data : PlantedModels
            Of which no concept is shared.
        """
        count = len(self.models)
        shifted = {}
        for m, (name, model) in enumerate(self.models.items()):
            n = len(model.features) * m // count
            shifted[name] = replace(
                model,
                features=np.roll(model.features, n, axis=0),
                coefficients=np.roll(model.coefficients, n, axis=0),
            )
        return replace(self, models=shifted, shared=0)

    def shared_indices(self, directions: Mapping[str, Array]) -> tuple[Array, Array]:
        """Return at which index each shared concept is the same in all networks.

        Parameters
        ----------
        directions : mapping of str to ndarray of shape (I, D_m)
            In each network a direction for each of I concepts, such as signal vectors.

        Returns
        -------
        indices : ndarray of shape (shared,), int
            The index whose directions are closest to the concept's atoms, by the network where they
            are least so.
        cosine : ndarray of shape (shared,)
            The smallest cosine, over networks, of the direction at this index with the atom.
        """
        every = [cosines(m.atoms[: self.shared], directions[k]) for k, m in self.models.items()]
        least = np.min(every, axis=0)
        return least.argmax(axis=1), least.max(axis=1)

    def private_indices(self, directions: Mapping[str, Array], least: float = 0.8) -> Array:
        """Return the indices at which a network has one of its private concepts.

        Parameters
        ----------
        directions : mapping of str to ndarray of shape (I, D_m)
            As for `shared_indices`.
        least : float, default=0.8
            Smallest cosine of the direction with the atom.

        Returns
        -------
        indices : ndarray of int
            In order; each once.
        """
        found = [
            np.flatnonzero((cosines(m.atoms[self.shared :], directions[k]) > least).any(axis=0))
            for k, m in self.models.items()
        ]
        return np.unique(np.concatenate(found))

    def ceiling(self) -> Array:
        """Return how much of each network's features the shared concepts of another explain.

        Returns
        -------
        ceiling : ndarray of shape (M, M)
            R² of the least squares from the true coefficients of the shared concepts of network i
            to the features of network j.
        """
        ceilings = []
        for source in self.models.values():
            known = source.coefficients.reshape(-1, len(source.atoms))[:, : self.shared]
            codes = np.column_stack([np.ones(len(known)), known])
            row = []
            for target in self.models.values():
                x = target.features.reshape(len(codes), -1).astype(np.float64)
                rest = x - codes @ np.linalg.lstsq(codes, x, rcond=None)[0]
                row.append(1.0 - np.sum(np.square(rest)) / np.sum(np.square(x - x.mean(axis=0))))
            ceilings.append(row)
        return np.array(ceilings)


def planted_models(
    n: int = 6000,
    *,
    channels: Sequence[int] = (24, 32),
    shared: int = 16,
    private: Sequence[int] = (4, 4),
    map_shape: tuple[int, int] | None = None,
    probability: float = 0.08,
    jitter: float = 0.1,
    noise: float = 0.05,
    seed: int = 0,
    sample: int = 0,
) -> PlantedModels:
    """Draw features of several networks that share some concepts, and have others of their own.

    At each position every concept is on by itself, with a coefficient of 1 + γ, γ of a gamma
    distribution of shape 2 and mean 1. A shared concept is on in all networks at once; its
    coefficient in each is multiplied by 1 + ``jitter`` · ε, ε standard normal. Atoms are uniform on
    the unit sphere.

    Parameters
    ----------
    n : int, default=6000
        Number of positions, or of images if ``map_shape`` is given, N.
    channels : sequence of M int, default=(24, 32)
        Number of channels of each network.
    shared : int, default=16
        Number of shared concepts.
    private : sequence of M int, default=(4, 4)
        Number of private concepts of each network.
    map_shape : tuple of (int, int), optional
        Height and width of the maps. By default there are single positions.
    probability : float, default=0.08
        Probability that a concept is on, in (0, 1).
    jitter : float, default=0.1
        Standard deviation of the factor by which the networks' coefficients differ.
    noise : float, default=0.05
        Standard deviation of the normal noise, as a share of that of the network's features.
    seed : int, default=0
        Seed of atoms and data.
    sample : int, default=0
        Number of the sample: each has other positions of the same networks.

    Returns
    -------
    data : PlantedModels

    Raises
    ------
    ValueError
        If a number is out of range, or ``channels`` and ``private`` are not as many.
    """
    for name, size in {"n": n, "shared": shared}.items():
        check_integer(name, size)
    for name, size in {"seed": seed, "sample": sample}.items():
        check_integer(name, size, 0)
    check_fraction("probability", probability)
    for name, value in {"jitter": jitter, "noise": noise}.items():
        check_number(name, value, minimum=0.0)
    if len(channels) < 2 or len(channels) != len(private):
        raise ValueError(
            "channels and private must have a number for each of two or more networks, not "
            f"{channels!r} and {private!r}"
        )
    atoms_rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(0,)))
    rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(1, sample)))
    shape = (n,) if map_shape is None else (n, *map_shape)

    def coefficients(concepts: int) -> Array:
        """Draw the coefficients of concepts that are on by themselves, (N, *spatial, I)."""
        on = rng.random((*shape, concepts)) < probability
        return np.where(on, 1.0 + rng.gamma(2.0, 0.5, on.shape), 0.0)

    common = coefficients(shared)
    models = {}
    for m, (width, own) in enumerate(zip(channels, private, strict=True)):
        check_integer("channels", width)
        check_integer("private", own, 0)
        atoms = unit_rows(atoms_rng.standard_normal((shared + own, width)))
        factors = np.maximum(1.0 + jitter * rng.standard_normal(common.shape), 0.0)
        codes = np.concatenate([common * factors, coefficients(own)], axis=-1)
        x = codes @ atoms
        x += noise * x.std() * rng.standard_normal(x.shape)
        models[chr(ord("a") + m)] = PlantedModel(
            x.astype(np.float32), atoms, codes.astype(np.float32)
        )
    settings: dict[str, object] = {
        "channels": tuple(channels),
        "shared": shared,
        "private": tuple(private),
        "map_shape": map_shape,
        "probability": probability,
        "jitter": jitter,
        "noise": noise,
        "seed": seed,
    }
    return PlantedModels(models, shared, settings)
