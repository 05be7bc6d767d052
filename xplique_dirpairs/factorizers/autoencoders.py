"""Three sparse autoencoders, which differ in the constraint on the atoms of the dictionary."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
from sklearn.cluster import MiniBatchKMeans, kmeans_plusplus

from xplique_dirpairs.core.linear_algebra import unit_rows
from xplique_dirpairs.core.types import Array
from xplique_dirpairs.core.validation import check_integer, check_number
from xplique_dirpairs.factorizers.autoencoder_base import (
    AutoencoderFactorizer,
    TrainingRun,
    best_run,
)
from xplique_dirpairs.factorizers.sparse_autoencoder import (
    ArchetypalDictionary,
    FreeDictionary,
    SparseAutoencoder,
    enough,
    shared_atoms,
)

#: Numbers of positions from which initial atoms of a free dictionary are chosen, and which are
#: clustered by K-Means.
_START_SAMPLE, _CLUSTER_SAMPLE = 2_000, 20_000
#: Default number of centroids per concept, and smallest default number of centroids.
_CENTROIDS_PER_CONCEPT, _FEWEST_CENTROIDS = 10, 100


@dataclass(eq=False, repr=False, kw_only=True)
class TopKFactorizer(AutoencoderFactorizer):
    """TopK sparse autoencoder, in which only the k strongest concepts fire at every position.

    Gao et al. 2024, "Scaling and evaluating sparse autoencoders" (arXiv 2406.04093). Each of I
    concepts has a filter and a bias, which give its coefficient, and an atom, a row of the concept
    bank A. Features x have the coefficients u = TopK(ReLU(filters · x − biases)), where TopK sets
    all but the k largest to 0; a concept *fires* where its coefficient is above 0. Features are
    reconstructed as u A + offset, with unit atoms and a learned offset, so that coefficients have
    the units of the features. Concepts that have stopped firing are trained to reconstruct what the
    other concepts miss (the paper's auxiliary loss). Atoms are initialised at positions of the data
    in different directions (k-means++), so that few concepts never fire.

    The problem is not convex. With k concepts from the first step on, as in the paper, many starts
    (trainings from different initial atoms) do not find the atoms that features were generated
    from: a part of every atom ends in the offset, and R² (the share of the features' variance that
    is reconstructed) is only a few hundredths below that of the true atoms. Two things here are not
    in the paper: k falls from I to its final value during the first half of the training, and the
    best of a few starts is kept. If no other start finds the same atoms, and R² is below 0.998,
    ``history_.problems()`` says so. It is not noticed if starts agree on wrong atoms, as they can
    if there is much noise (an R² of 0.7) and exactly k atoms at every position.

    The offset is initialised at the mean of the features, not at their geometric median as in the
    authors' code; on known dictionaries the median was not better.

    Parameters
    ----------
    number_of_concepts : int, default=20
        Number of concepts, I. It may exceed the number of channels.
    k : int, default=None
        Largest number of concepts that fire at a position, 1 to I. None: I/5, rounded up. (For
        language models it is usual to learn thousands of concepts with a k far below a hundredth of
        that. The ten to thirty concepts that are usual for images must represent a whole layer, and
        with k = 1 they would be clusters.)
    steps : int, default=2000
        Number of steps of Adam. The learning rate decays along a cosine to 2 % of its first value.
    batch_size : int, default=512
        Number of positions per step.
    learning_rate : float, default=1e-2
        Learning rate of the first step.
    random_state : int, default=None
        Seed of the initialisation and of the order of the positions. None draws a seed.
    verbose : int, default=0
        0: silent. 1: a progress bar is shown for every start.
    n_init : int, default=6
        Largest number of starts. The start with the best R² is kept. No further start is made once
        another one has found nine tenths of the best one's atoms (cosine above 0.95).

    Attributes
    ----------
    bank_, filters_ : ndarray of shape (I, D)
        Atoms and filters of the concepts, for D channels.
    biases_ : ndarray of shape (I,)
        Biases: a concept can fire at x only if ``filters_ @ x > biases_``.
    constant_ : ndarray of shape (D,)
        The offset: the reconstruction where no concept fires.
    k_ : int
        The k that was used.
    scale_ : float
        RMS distance of the features from their mean, by which features are divided for training.
    history_ : AutoencoderHistory
        Losses by epoch, R², how often concepts fire, and what is wrong in words (``problems()``).
    """

    n_init: int = 6
    #: From k on alone, most starts end with a part of every atom in the offset.
    _falling = 0.5

    def _check_parameters(self, x: Array) -> int:
        check_integer("n_init", self.n_init)
        return super()._check_parameters(x)

    def _needs_another(self, runs: list[TrainingRun]) -> bool:
        if len(runs) >= self.n_init or runs[-1].interrupted:
            return False
        best = best_run(runs)
        shared = [shared_atoms(best.atoms, run.atoms) for run in runs if run is not best]
        return max(shared, default=0) < enough(self.number_of_concepts)

    def _make_dictionary(
        self, x: Array, centre: Array, scale: float, rng: np.random.Generator
    ) -> FreeDictionary:
        sample = unit_rows(_sample(x, _START_SAMPLE, centre, scale, rng))
        # If there are more concepts than positions, the other atoms are random. A little noise is
        # added to all atoms, because positions may be equal or lie at the mean.
        atoms = rng.normal(size=(self.number_of_concepts, x.shape[1])) / math.sqrt(x.shape[1])
        count = min(self.number_of_concepts, len(sample))
        starts, _ = kmeans_plusplus(sample, count, random_state=int(rng.integers(2**31)))
        atoms[:count] = starts + 0.01 * atoms[:count]
        return FreeDictionary(atoms)

    def _keep(self, model: SparseAutoencoder, centre: Array, scale: float) -> tuple[Array, Array]:
        _, offset = super()._keep(model, centre, scale)
        # Atoms have unit length for raw features, too, so the coefficients are scaled instead.
        self.filters_, self.biases_ = self.filters_ * scale, self.biases_ * scale
        return model.dictionary.atoms().numpy(), offset


@dataclass(eq=False, repr=False, kw_only=True)
class ArchetypalFactorizer(AutoencoderFactorizer):
    """Archetypal sparse autoencoder (A-SAE), with atoms in the convex hull of K-Means centroids.

    Fel et al. 2025, "Archetypal SAE: adaptive and stable dictionary learning for concept extraction
    in large vision models" (arXiv 2502.12892). It is a `TopKFactorizer` with one start and a fixed
    offset, whose atoms are mixtures W C of centroids C: the rows of W are non-negative and sum to
    1, by a projection after every step. The paper has no offset. Here, features and centroids are
    centred: the concept bank is A = W C − E[x], and features x are reconstructed as u A + E[x] from
    their coefficients u. Features of a ReLU layer are far from zero, and all atoms of a bank that
    is not centred would be similar to the mean E[x]. Coefficients have no unit: a coefficient of 1
    moves from the mean to the archetype, the row of W C. Attributes of `TopKFactorizer` that are
    not listed here are the same.

    Parameters
    ----------
    number_of_concepts : int, default=20
        Number of concepts, I. It may exceed the number of channels.
    k : int, default=None
        Largest number of concepts that fire at a position, 1 to I. None: I/5, rounded up.
    steps : int, default=2000
        Number of steps of Adam. The learning rate decays along a cosine to 2 % of its first value.
    batch_size : int, default=512
        Number of positions per step.
    learning_rate : float, default=1e-2
        Learning rate of the first step.
    random_state : int, default=None
        Seed of the centroids, of the initialisation and of the order of the positions. None draws a
        seed.
    verbose : int, default=0
        0: silent. 1: a progress bar is shown.
    n_centroids : int, default=None
        Number of centroids, from I to the number of positions P. None: the larger of 10 I and 100,
        but at most P.

    Attributes
    ----------
    centroids_ : ndarray of shape (n_centroids, D)
        Centroids C, in the units of the features.
    mixture_ : ndarray of shape (I, n_centroids)
        Weights W of the centroids in each archetype.
    relaxation_ : ndarray of shape (I, D)
        Zero in this class. `RelaxedArchetypalFactorizer` adds it to the atoms:
        ``bank_ = mixture_ @ centroids_ − constant_ + relaxation_``.
    """

    n_centroids: int | None = None
    centroids_: Array = field(init=False)
    mixture_: Array = field(init=False)
    relaxation_: Array = field(init=False)

    #: Largest length δ of a row of Λ.
    _radius = 0.0

    def _check_parameters(self, x: Array) -> int:
        if self.n_centroids is not None:
            check_integer("n_centroids", self.n_centroids, minimum=self.number_of_concepts)
            if self.n_centroids > len(x):
                raise ValueError(
                    f"n_centroids must be at most {len(x)}, the number of positions, not "
                    f"{self.n_centroids}"
                )
        return super()._check_parameters(x)

    def _make_dictionary(
        self, x: Array, centre: Array, scale: float, rng: np.random.Generator
    ) -> ArchetypalDictionary:
        seed = int(rng.integers(2**31))
        default = max(_CENTROIDS_PER_CONCEPT * self.number_of_concepts, _FEWEST_CENTROIDS)
        count = min(len(x), default) if self.n_centroids is None else self.n_centroids
        sample = _sample(x, max(_CLUSTER_SAMPLE, count), centre, scale, rng)
        # k-means++ would take twenty times as long here, without better centroids.
        clustering = MiniBatchKMeans(
            count, init="random", batch_size=2048, max_iter=10, n_init=1, random_state=seed
        )
        centroids = clustering.fit(sample).cluster_centers_
        # Archetypes are initialised at centroids in different directions.
        directions = unit_rows(centroids)
        _, corners = kmeans_plusplus(directions, self.number_of_concepts, random_state=seed)
        mixture = np.eye(len(centroids), dtype=np.float32)[corners]
        return ArchetypalDictionary(centroids, mixture, self._radius)

    def _keep(self, model: SparseAutoencoder, centre: Array, scale: float) -> tuple[Array, Array]:
        bank, offset = super()._keep(model, centre, scale)
        dictionary = model.dictionary
        self.centroids_ = (centre + scale * dictionary.centroids.numpy()).astype(np.float32)
        self.mixture_ = dictionary.mixture.numpy()
        self.relaxation_ = scale * dictionary.relaxation.numpy()
        return bank, offset


@dataclass(eq=False, repr=False, kw_only=True)
class RelaxedArchetypalFactorizer(ArchetypalFactorizer):
    """Relaxed archetypal sparse autoencoder (RA-SAE; Fel et al. 2025, arXiv 2502.12892).

    It is an `ArchetypalFactorizer`, with the same parameters and attributes, whose atoms may lie up
    to a distance δ outside the convex hull of the centroids: a learned vector of length at most δ
    (a row of ``relaxation_``) is added to each atom.

    Parameters
    ----------
    delta : float, default=0.1
        δ ≥ 0, in units of ``scale_``, the RMS distance of the features from their mean, so that a
        value has the same meaning for every layer. With 0, this is `ArchetypalFactorizer`.
    """

    delta: float = 0.1

    def _check_parameters(self, x: Array) -> int:
        check_number("delta", self.delta, minimum=0.0)
        self._radius = float(self.delta)
        return super()._check_parameters(x)


def _sample(x: Array, size: int, centre: Array, scale: float, rng: np.random.Generator) -> Array:
    """Return (x − centre)/scale, float32, of at most ``size`` random rows of x (P, D)."""
    if len(x) > size:
        x = x[rng.choice(len(x), size, replace=False)]
    return ((x - centre) / scale).astype(np.float32)
