"""Which atoms of a planted dictionary are on, and together with which others.

The definitions of correlated and tree-like firing are those of SynthSAEBench (D. Chanin, A.
Garriga-Alonso, arXiv 2602.14687), as in the package sae-lens 6.54. P positions, I atoms.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.special import ndtri

from xplique_dirpairs.core.types import Array
from xplique_dirpairs.core.validation import check_integer, check_number

#: Parent of an atom without a parent.
NO_PARENT = -1
#: Least share of an atom's Gaussian variable that it shares with no other atom.
_LEAST_OWN = 0.01


@dataclass(frozen=True)
class Trees:
    """Trees of atoms: a child is on only where its parent is, and never with a sibling.

    Atoms are numbered level by level: first the roots, then the children of the first root, and so
    on. Where the atoms run out the last level is incomplete; atoms left over are in no tree. A
    child's coefficient is multiplied by its parent's, relative to the mean of the latter.

    Parameters
    ----------
    number : int
        Number of trees.
    branching : int, default=4
        Number of children of each parent.
    depth : int, default=2
        Number of levels below the roots.
    compensated : bool, default=True
        Whether a child fires more often by itself, so that it is on about as often as was asked
        for although its parent and its siblings often switch it off. The compensation is not exact,
        and ends where the child fires always.

    Raises
    ------
    ValueError
        If a number is not a positive integer.
    """

    number: int
    branching: int = 4
    depth: int = 2
    compensated: bool = True

    def __post_init__(self) -> None:
        """Check the values."""
        for name in ("number", "branching", "depth"):
            check_integer(name, getattr(self, name))

    def parents(self, atoms: int) -> Array:
        """Return the parent of each of I atoms, (I,) int; −1 for roots and atoms in no tree."""
        parents = np.full(atoms, NO_PARENT)
        first, last = 0, min(self.number, atoms)
        for _ in range(self.depth):
            level = np.arange(first, last)
            children = np.repeat(level, self.branching)[: atoms - last]
            parents[last : last + len(children)] = children
            first, last = last, last + len(children)
        return parents


@dataclass(frozen=True)
class Together:
    """Which atoms fire together.

    Parameters
    ----------
    partner : float, optional
        Atoms 0 and 1, 2 and 3, … are partners: where the rarer of two is on, the other one is on
        with this probability. By default atoms have no partners.
    rank : int, default=0
        Rank of a Gaussian copula: an atom is on where a normal variable exceeds a threshold, and
        the variables of all atoms share this number of factors. 0: no factors.
    scale : float, default=0.1
        Standard deviation of the loadings of the factors: two variables have a correlation of
        about 0 ± √rank · scale².
    trees : Trees, optional
        Trees of atoms, which restrict what fires by itself or by the copula.

    Raises
    ------
    ValueError
        If a value is out of range, or partners are combined with a copula or with trees.
    """

    partner: float | None = None
    rank: int = 0
    scale: float = 0.1
    trees: Trees | None = None

    def __post_init__(self) -> None:
        """Check the values."""
        check_integer("rank", self.rank, 0)
        check_number("scale", self.scale, minimum=0.0)
        if self.partner is None:
            return
        check_number("partner", self.partner, minimum=0.0)
        if self.partner > 1.0:
            raise ValueError(f"partner must be a probability, not {self.partner!r}")
        if self.rank or self.trees is not None:
            raise ValueError("partner cannot be combined with rank or trees: choose one of them")


@dataclass(frozen=True)
class Firing:
    """How often I atoms fire, with all that is drawn once for a dictionary.

    Attributes
    ----------
    chances : ndarray of shape (I,)
        Probability that an atom fires by itself.
    exactly : int or None
        Number of atoms that are on at each position. None: the number varies, and each atom fires
        with its probability.
    together : Together
        Which atoms fire together.
    parents : ndarray of shape (I,), int
        Parent of each atom; −1 if it has none.
    loadings : ndarray of shape (I, rank)
        Loadings of the factors of the copula.
    """

    chances: Array
    exactly: int | None
    together: Together
    parents: Array
    loadings: Array

    @classmethod
    def of(
        cls,
        rng: np.random.Generator,
        probability: Array,
        exactly: int | None = None,
        together: Together | None = None,
    ) -> Firing:
        """Draw the loadings, and compensate the probabilities (I,) if the trees ask for it."""
        together = together or Together()
        atoms, trees = len(probability), together.trees
        parents = np.full(atoms, NO_PARENT) if trees is None else trees.parents(atoms)
        loadings = together.scale * rng.standard_normal((atoms, together.rank))
        shared = np.square(loadings).sum(axis=1, keepdims=True)
        loadings *= np.sqrt(np.minimum(1.0, (1.0 - _LEAST_OWN) / np.maximum(shared, _LEAST_OWN)))
        compensated = trees is not None and trees.compensated
        chances = compensated_chances(probability, parents) if compensated else probability
        return cls(chances, exactly, together, parents, loadings)

    def draw(self, rng: np.random.Generator, positions: int) -> Array:
        """Draw which atoms fire by themselves, before trees restrict them, (P, I) bool."""
        shape = (positions, len(self.chances))
        if self.exactly is not None:
            return rng.random(shape).argsort(axis=1).argsort(axis=1) < self.exactly
        if self.together.partner is not None:
            return _with_partners(rng, self.chances, self.together.partner, positions)
        if not self.together.rank:
            return rng.random(shape) < self.chances
        shared = np.square(self.loadings).sum(axis=1)
        values = rng.standard_normal((positions, self.together.rank)) @ self.loadings.T
        values += np.sqrt(1.0 - shared) * rng.standard_normal(shape)
        return np.asarray(values > ndtri(1.0 - self.chances))

    def grow(self, rng: np.random.Generator, coefficients: Array, means: Array) -> None:
        """Switch off children as the trees ask for, and scale the others with their parents.

        Parameters
        ----------
        rng : numpy.random.Generator
            Of several siblings that fire, a random one stays on.
        coefficients : ndarray of shape (P, I)
            Coefficients, 0 where an atom is off; changed in place.
        means : ndarray of shape (I,)
            Mean coefficients where atoms fire.
        """
        # parents have lower numbers than their children: each is complete when its turn comes
        for parent in np.unique(self.parents[self.parents != NO_PARENT]):
            children = np.flatnonzero(self.parents == parent)
            values = coefficients[:, children] * (coefficients[:, [parent]] / means[parent])
            lots = np.where(values > 0, rng.random(values.shape), -1.0)
            chosen = np.arange(len(children)) == lots.argmax(axis=1)[:, None]
            coefficients[:, children] = np.where(chosen, values, 0.0)


def zipf_probabilities(
    atoms: int, highest: float = 0.4, lowest: float = 5e-3, exponent: float = 0.5
) -> Array:
    """Return probabilities that fall from the highest to the lowest like 1/rank^exponent.

    1/rank^exponent is shifted and scaled to the two ends, as in SynthSAEBench.

    Parameters
    ----------
    atoms : int
        Number of atoms, I.
    highest, lowest : float
        Probability of the first and of the last atom.
    exponent : float, default=0.5
        Exponent of Zipf's law.

    Returns
    -------
    probabilities : ndarray of shape (I,)

    Raises
    ------
    ValueError
        If ``atoms`` is not a positive integer, the exponent is not positive, or the probabilities
        are not in the order 0 < lowest < highest ≤ 1.
    """
    check_integer("atoms", atoms)
    check_number("exponent", exponent, above=0.0)
    if not 0.0 < lowest < highest <= 1.0:
        raise ValueError(
            "probabilities must be in the order 0 < lowest < highest <= 1, not "
            f"lowest={lowest!r} and highest={highest!r}"
        )
    if atoms == 1:
        return np.array([highest])
    law = np.arange(1.0, atoms + 1) ** -exponent
    return np.asarray(lowest + (highest - lowest) * (law - law[-1]) / (law[0] - law[-1]))


def compensated_chances(probability: Array, parents: Array) -> Array:
    """Return the probability with which each atom must fire by itself, before trees restrict it.

    It is approximate: with p the probabilities that atoms should be on, that of a child is
    p(child)/p(parent) · (1 + Σ p(siblings)/p(parent)), but at most 1, since the child is switched
    off where its parent is off, and at some positions where a sibling is on.

    Parameters
    ----------
    probability : ndarray of shape (I,)
        Probability that an atom should be on.
    parents : ndarray of shape (I,), int
        Parent of each atom; −1 if it has none.

    Returns
    -------
    chances : ndarray of shape (I,)
        Probability that an atom fires by itself.
    """
    has_parent = parents != NO_PARENT
    child, parent = probability[has_parent], parents[has_parent]
    family = np.bincount(parent, weights=child, minlength=len(probability))[parent]
    of_parent = probability[parent]
    chances = probability.copy()
    chances[has_parent] = child / of_parent * (1.0 + (family - child) / of_parent)
    return np.minimum(chances, 1.0)


def joint_probability(probability: Array, partner: float) -> Array:
    """Return the probability that both atoms of each pair are on, (I // 2,).

    Raises
    ------
    ValueError
        If there are no such atoms: two frequent ones cannot avoid each other.
    """
    first, second = probability[: len(probability) // 2 * 2].reshape(-1, 2).T
    joint = partner * np.minimum(first, second)
    least = first + second - 1.0
    if (joint < least - 1e-12).any():
        pair = int(np.argmax(least - joint))
        raise ValueError(
            f"atoms {2 * pair} and {2 * pair + 1} are both on at {least[pair]:.3g} of the positions"
            f" or more: partner={partner!r} asks for {joint[pair]:.3g}; give a larger partner, or "
            "lower probabilities"
        )
    return np.asarray(joint)


def _with_partners(
    rng: np.random.Generator, chances: Array, partner: float, positions: int
) -> Array:
    """Draw which atoms are on where each has a partner, (P, I) bool."""
    on = rng.random((positions, len(chances))) < chances
    first, second = chances[: len(chances) // 2 * 2].reshape(-1, 2).T
    joint = joint_probability(chances, partner)
    # where the first atom is on, and where it is off; a chance that is never needed may be anything
    given_on = joint / first
    given_off = (second - joint) / np.maximum(1.0 - first, 1e-12)
    given = np.where(on[:, 0 : 2 * len(first) : 2], given_on, given_off)
    on[:, 1::2] = rng.random(given.shape) < given
    return on
