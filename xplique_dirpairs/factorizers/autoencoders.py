"""Three sparse autoencoders, which differ in where the atoms of the dictionary may be."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.cluster import MiniBatchKMeans, kmeans_plusplus

from xplique_dirpairs.core.validation import check_integer
from xplique_dirpairs.factorizers.autoencoder_factorizer import AutoencoderFactorizer
from xplique_dirpairs.factorizers.sparse_autoencoder import (
    ArchetypalDictionary,
    FreeDictionary,
    SparseAutoencoder,
)

#: Positions that a free dictionary starts from, and that K-Means sees.
_STARTED_FROM, _CLUSTERED = 2_000, 20_000
#: Centroids by default: so many per concept, and at least so many.
_CENTROIDS_PER_CONCEPT, _FEWEST_CENTROIDS = 10, 100


class TopKFactorizer(AutoencoderFactorizer):
    """TopK sparse autoencoder: at every position the k strongest concepts, and no others.

    Gao et al. 2024, "Scaling and evaluating sparse autoencoders" (arXiv 2406.04093): unit atoms, a
    learned offset, and an auxiliary loss for concepts that do not fire, see
    `SparseAutoencoder.terms`. The atoms start at positions of the data that lie in different
    directions (k-means++), which leaves few concepts dead. Coefficients have the units of the
    features. The problem is not convex: of a known dictionary some starts miss an atom, with a
    lower ``history_.final_r2``, so compare a few seeds.

    Parameters
    ----------
    number_of_concepts
        I; may exceed the number of channels.
    k
        Concepts a position may have, 1 … I. Default: I/5, rounded up. Dictionaries of language
        models have thousands of concepts and k well under a hundredth of that; the ten to thirty
        concepts explained here must share out all of a layer among them, and with k = 1 they
        would be clusters.
    steps
        Of Adam; the learning rate falls along a cosine.
    batch_size
        Positions per step.
    learning_rate
        Of the first step.
    random_state
        Seed of the start and of the order of the positions.
    verbose
        0 for silence, 1 for a progress bar.
    """

    def _make_dictionary(
        self, x: NDArray, centre: NDArray, scale: float, rng: np.random.Generator
    ) -> FreeDictionary:
        sample = _unit(_sample(x, _STARTED_FROM, centre, scale, rng))
        # more concepts than positions, positions that are the same or at the mean: off at random
        atoms = rng.normal(size=(self.number_of_concepts, x.shape[1])) / math.sqrt(x.shape[1])
        chosen = min(self.number_of_concepts, len(sample))
        starts, _ = kmeans_plusplus(sample, chosen, random_state=int(rng.integers(2**31)))
        atoms[:chosen] = starts + 0.01 * atoms[:chosen]
        return FreeDictionary(atoms)

    def _keep(
        self, model: SparseAutoencoder, centre: NDArray, scale: float
    ) -> tuple[NDArray, NDArray]:
        _, offset = super()._keep(model, centre, scale)
        # unit atoms in raw features, too
        self.filters_, self.biases_ = self.filters_ * scale, self.biases_ * scale
        return model.dictionary.atoms().numpy(), offset


class ArchetypalFactorizer(AutoencoderFactorizer):
    """Archetypal sparse autoencoder, A-SAE: atoms in the convex hull of K-Means centroids.

    Fel et al. 2025, "Archetypal SAE: adaptive and stable dictionary learning for concept extraction
    in large vision models" (arXiv 2502.12892): D = W C, rows of W ≥ 0 with sum 1, kept so by
    projection after every step. The paper has no offset; here features and centroids are both
    taken relative to the mean, D = W C − E[x] and x̂ = u D + E[x]: features of a ReLU layer lie
    far from zero, and all atoms of an uncentred dictionary would be much like their mean.
    Coefficients have no unit: at 1 an archetype stands for the whole way from the mean to it.

    Parameters
    ----------
    number_of_concepts, k, steps, batch_size, learning_rate, random_state, verbose
        As in `TopKFactorizer`; the seed is that of the centroids, too.
    n_centroids
        From I to the number of positions. Default: 10 I and at least 100, if there are so many
        positions.
    centroids : (n, D), optional
        Given ones (raw features), instead of those of K-Means.

    Attributes
    ----------
    centroids_ : (n, D)
        C, raw features.
    mixture_ : (I, n)
        W: each row is how an archetype is mixed of the centroids.
    relaxation_ : (I, D)
        Λ, raw features; zero here. bank_ = mixture_ @ centroids_ − constant_ + relaxation_.
    """

    centroids_: NDArray
    mixture_: NDArray
    relaxation_: NDArray

    def __init__(
        self,
        number_of_concepts: int = 20,
        *,
        k: int | None = None,
        n_centroids: int | None = None,
        centroids: ArrayLike | None = None,
        steps: int = 2000,
        batch_size: int = 512,
        learning_rate: float = 1e-2,
        random_state: int | None = None,
        verbose: int = 0,
    ):
        super().__init__(
            number_of_concepts,
            k=k,
            steps=steps,
            batch_size=batch_size,
            learning_rate=learning_rate,
            random_state=random_state,
            verbose=verbose,
        )
        self.n_centroids = n_centroids
        self.centroids = centroids

    @property
    def _radius(self) -> float:
        """δ."""
        return 0.0

    def _check_parameters(self, x: NDArray) -> int:
        k = super()._check_parameters(x)
        if self.centroids is not None:
            given = np.asarray(self.centroids)
            wanted = f"(n ≥ {self.number_of_concepts}, {x.shape[1]})"
            if given.ndim != 2 or given.shape[1] != x.shape[1]:
                raise ValueError(f"centroids must have shape {wanted}, not {given.shape}")
            if len(given) < self.number_of_concepts or not np.isfinite(given).all():
                raise ValueError(f"centroids must be finite, {wanted}: {given.shape} came")
            if self.n_centroids not in (None, len(given)):
                raise ValueError(f"{len(given)} centroids came, but n_centroids={self.n_centroids}")
            return k
        count = self._count_centroids(x)
        check_integer("n_centroids", count, minimum=self.number_of_concepts)
        if count > len(x):
            raise ValueError(f"n_centroids={count} are more than the {len(x)} positions")
        return k

    def _count_centroids(self, x: NDArray) -> int:
        if self.n_centroids is not None:
            return self.n_centroids
        return min(len(x), max(_CENTROIDS_PER_CONCEPT * self.number_of_concepts, _FEWEST_CENTROIDS))

    def _make_dictionary(
        self, x: NDArray, centre: NDArray, scale: float, rng: np.random.Generator
    ) -> ArchetypalDictionary:
        seed = int(rng.integers(2**31))
        if self.centroids is None:
            count = self._count_centroids(x)
            sample = _sample(x, max(_CLUSTERED, count), centre, scale, rng)
            # k-means++ would take twenty times as long here, for centroids that are no better
            clustering = MiniBatchKMeans(
                count, init="random", batch_size=2048, max_iter=10, n_init=1, random_state=seed
            )
            centroids = clustering.fit(sample).cluster_centers_
        else:
            centroids = (np.asarray(self.centroids, np.float64) - centre) / scale
        # at centroids in different directions
        _, corners = kmeans_plusplus(_unit(centroids), self.number_of_concepts, random_state=seed)
        mixture = np.eye(len(centroids), dtype=np.float32)[corners]
        return ArchetypalDictionary(centroids, mixture, self._radius)

    def _keep(
        self, model: SparseAutoencoder, centre: NDArray, scale: float
    ) -> tuple[NDArray, NDArray]:
        bank, offset = super()._keep(model, centre, scale)
        dictionary = model.dictionary
        self.centroids_ = (centre + scale * dictionary.centroids.numpy()).astype(np.float32)
        self.mixture_ = dictionary.mixture.numpy()
        self.relaxation_ = scale * dictionary.relaxation.numpy()
        return bank, offset


class RelaxedArchetypalFactorizer(ArchetypalFactorizer):
    """Relaxed archetypal sparse autoencoder, RA-SAE: atoms within δ of the hull, D = W C + Λ.

    As `ArchetypalFactorizer`, with a learned Λ, ‖Λ_i‖ ≤ δ after every step.

    Parameters
    ----------
    delta
        δ ≥ 0, in RMS distances of the features from their mean (`scale_`), so that a value means
        the same for every layer; 0 is `ArchetypalFactorizer`.
    """

    def __init__(
        self,
        number_of_concepts: int = 20,
        *,
        delta: float = 0.1,
        k: int | None = None,
        n_centroids: int | None = None,
        centroids: ArrayLike | None = None,
        steps: int = 2000,
        batch_size: int = 512,
        learning_rate: float = 1e-2,
        random_state: int | None = None,
        verbose: int = 0,
    ):
        super().__init__(
            number_of_concepts,
            k=k,
            n_centroids=n_centroids,
            centroids=centroids,
            steps=steps,
            batch_size=batch_size,
            learning_rate=learning_rate,
            random_state=random_state,
            verbose=verbose,
        )
        self.delta = delta

    @property
    def _radius(self) -> float:
        return float(self.delta)

    def _check_parameters(self, x: NDArray) -> int:
        number = isinstance(self.delta, (int, float, np.integer, np.floating))
        if not number or not 0 <= self.delta < np.inf:
            raise ValueError(f"delta must be a number of at least 0, not {self.delta!r}")
        return super()._check_parameters(x)


def _sample(
    x: NDArray, size: int, centre: NDArray, scale: float, rng: np.random.Generator
) -> NDArray:
    """At most so many positions, (x − centre)/scale, float32."""
    if len(x) > size:
        x = x[rng.choice(len(x), size, replace=False)]
    return ((x - centre) / scale).astype(np.float32)


def _unit(rows: NDArray) -> NDArray:
    """Rows of length 1; those of length 0 stay."""
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-6)
