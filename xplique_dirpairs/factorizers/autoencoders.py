"""Three sparse autoencoders, which differ in where the atoms of the dictionary may lie."""

from __future__ import annotations

import math
import time
import warnings
from abc import abstractmethod
from dataclasses import dataclass, field

import keras
import numpy as np
import tensorflow as tf
from numpy.typing import ArrayLike
from sklearn.cluster import MiniBatchKMeans, kmeans_plusplus

from xplique_dirpairs.core.batching import iter_blocks
from xplique_dirpairs.core.linear_algebra import unit_rows
from xplique_dirpairs.core.progress import quiet
from xplique_dirpairs.core.types import Array
from xplique_dirpairs.core.validation import check_integer, check_number
from xplique_dirpairs.factorizers.base import LinearFactorizer
from xplique_dirpairs.factorizers.sparse_autoencoder import (
    LOSSES,
    ArchetypalDictionary,
    AutoencoderHistory,
    FreeDictionary,
    NaNGuard,
    SparseAutoencoder,
    top_k,
)
from xplique_dirpairs.learning.features import RandomBatches
from xplique_dirpairs.learning.history import LearningWarning

#: Points of the history, whatever the number of steps.
_EPOCHS = 50
#: Positions among which the atoms of a free dictionary start, and those that K-Means sees.
_START_SAMPLE, _CLUSTER_SAMPLE = 2_000, 20_000
#: Default number of centroids: per concept, and at least.
_CENTROIDS_PER_CONCEPT, _FEWEST_CENTROIDS = 10, 100


@dataclass(eq=False, repr=False, kw_only=True)
class AutoencoderFactorizer(LinearFactorizer):
    """A sparse autoencoder with a linear encoder: u = TopK(ReLU(F x − b)), x̂ = u D + offset.

    Attributes
    ----------
    bank_ : ndarray of shape (I, D)
        The dictionary: atoms, in the units of the features where they have units.
    filters_ : ndarray of shape (I, D)
    biases_ : ndarray of shape (I,)
        A concept is a candidate at x where filters_ @ x > biases_.
    constant_ : ndarray of shape (D,)
        Decoded where no concept fires.
    k_ : int
        The k that was used.
    scale_ : float
        RMS distance of the features from their mean, by which they were scaled for the learning.
    history_ : AutoencoderHistory
    """

    k: int | None = None
    steps: int = 2000
    batch_size: int = 512
    learning_rate: float = 1e-2
    verbose: int = 0
    biases_: Array = field(init=False)
    k_: int = field(init=False)
    scale_: float = field(init=False)
    history_: AutoencoderHistory = field(init=False)

    # ---------------------------------------------------------------- fitting

    def fit(self, activations: ArrayLike) -> tuple[Array, Array]:
        """Train on flat activations; Ctrl-C ends the training and keeps what was learned.

        Parameters
        ----------
        activations : array-like of shape (P, D)

        Returns
        -------
        concept_bank_w : ndarray of shape (I, D)
        coeffs_u : ndarray of shape (P, I)

        Raises
        ------
        ValueError
            If the activations are not flat and finite or do not vary, or a parameter is out of
            its range.
        """
        start = time.perf_counter()
        bank, coefficients = super().fit(activations)
        curves, cut_short, interrupted = self._training
        x = np.asarray(activations, np.float32)
        lost = sum(
            float(np.square(block - self.decode(u), dtype=np.float64).sum())
            for block, u in zip(iter_blocks(x), iter_blocks(coefficients), strict=True)
        )
        self.history_ = AutoencoderHistory(
            losses={name: curves.get(name, []) for name in LOSSES},
            l0=curves.get("l0", []),
            dead_share=curves.get("dead", []),
            occupancy=(coefficients > 0).mean(axis=0),
            final_r2=1.0 - lost / (len(x) * self.scale_**2),
            cut_short=cut_short,
            interrupted=interrupted,
            seconds=time.perf_counter() - start,
        )
        problems = self.history_.problems()
        if problems:
            warnings.warn("; ".join(problems), LearningWarning, stacklevel=2)
        return bank, coefficients

    def _learn(self, x: Array) -> tuple[Array, Array]:
        k = self._check_parameters(x)
        rng = np.random.default_rng(self.random_state)
        centre, scale = _centre_and_scale(x)
        dictionary = self._make_dictionary(x, centre, scale, rng)
        model = SparseAutoencoder(
            dictionary, k, centre=centre, scale=scale, patience=self._steps_per_epoch
        )
        self._training = self._train(model, x, seed=int(rng.integers(2**31)))
        self.k_, self.scale_ = k, scale
        return self._keep(model, centre, scale)

    def _keep(self, model: SparseAutoencoder, centre: Array, scale: float) -> tuple[Array, Array]:
        """Keep what was learned of x̃ = (x − centre)/scale, for x; return bank and constant."""
        filters = model.encoder.numpy().astype(np.float64) / scale
        offset = centre + scale * model.offset.numpy()
        self.filters_ = filters.astype(np.float32)
        self.biases_ = (filters @ offset - model.shift.numpy()).astype(np.float32)
        return model.dictionary.atoms().numpy() * scale, offset

    def _check_parameters(self, x: Array) -> int:
        """Check every parameter; return k."""
        # Several concepts at a position from I = 6 on: with one alone they would be clusters.
        k = math.ceil(self.number_of_concepts / 5) if self.k is None else self.k
        check_integer("k", k)
        if k > self.number_of_concepts:
            raise ValueError(
                f"k={k} concepts per position of number_of_concepts={self.number_of_concepts}: "
                "k must not be larger"
            )
        check_integer("steps", self.steps)
        check_integer("batch_size", self.batch_size)
        check_number("learning_rate", self.learning_rate, above=0.0)
        return k

    @abstractmethod
    def _make_dictionary(
        self, x: Array, centre: Array, scale: float, rng: np.random.Generator
    ) -> FreeDictionary | ArchetypalDictionary:
        """Return the dictionary at its start, for features (x − centre)/scale."""

    @property
    def _steps_per_epoch(self) -> int:
        return math.ceil(self.steps / _EPOCHS)

    def _train(
        self, model: SparseAutoencoder, x: Array, seed: int
    ) -> tuple[dict[str, list[float]], list[str], bool]:
        """Fit the model; return its curves, what cut them short, and whether that was Ctrl-C."""
        per_epoch = self._steps_per_epoch
        rate = keras.optimizers.schedules.CosineDecay(self.learning_rate, self.steps, 0.02)
        model.compile(keras.optimizers.Adam(rate), steps_per_execution=per_epoch, jit_compile=False)
        model.optimizer.build(model.trainable_variables)  # else the first step is traced twice
        record, guard = keras.callbacks.History(), NaNGuard()
        callbacks = [record, guard]
        epochs = math.ceil(self.steps / per_epoch)
        if self.verbose:
            print(f"Learning {self.number_of_concepts} concepts")
            callbacks.append(_progress_bar(epochs))
        rows, order = RandomBatches(x, min(self.batch_size, len(x)), seed).take(epochs * per_epoch)
        batches = tf.data.Dataset.from_tensor_slices(order)
        batches = batches.map(lambda places: tf.gather(rows, places)).prefetch(2)
        cut_short, interrupted = [], False
        try:
            with quiet():
                model.fit(
                    batches,
                    epochs=epochs,
                    steps_per_epoch=per_epoch,
                    callbacks=callbacks,
                    shuffle=False,
                    verbose=0,
                )
        except KeyboardInterrupt:
            interrupted = True
            cut_short.append("the training was interrupted: what was learned by then is kept")
        if guard.tripped_at is not None:
            epoch = guard.tripped_at + 1
            cut_short.append(f"the training met NaN in epoch {epoch}: the state before it is kept")
        return getattr(record, "history", {}), cut_short, interrupted

    # ---------------------------------------------------------------- reading

    def _read(self, x: tf.Tensor) -> tf.Tensor:
        """Return u = TopK(ReLU(F x − b)): ≥ 0, at most k not 0."""
        z = tf.matmul(x, tf.constant(self.filters_, x.dtype), transpose_b=True)
        return top_k(tf.nn.relu(z - tf.constant(self.biases_, x.dtype)), self.k_)


@dataclass(eq=False, repr=False, kw_only=True)
class TopKFactorizer(AutoencoderFactorizer):
    """TopK sparse autoencoder: at every position the k strongest concepts, and no others.

    Gao et al. 2024, "Scaling and evaluating sparse autoencoders" (arXiv 2406.04093): unit atoms, a
    learned offset, and an auxiliary loss for concepts that do not fire, see
    `SparseAutoencoder.terms`. The atoms start at positions of the data that lie in different
    directions (k-means++), which leaves few concepts dead. Coefficients have the units of the
    features. The problem is not convex: some initialisations miss an atom of a known dictionary,
    with a lower ``history_.final_r2``, so compare a few seeds.

    Parameters
    ----------
    number_of_concepts : int, default=20
        I; may exceed the number of channels.
    k : int, optional
        Concepts a position may have, 1 … I. Default: I/5, rounded up. Dictionaries of language
        models have thousands of concepts and k well under a hundredth of that; the ten to thirty
        concepts explained here must share out all of a layer among them, and with k = 1 they
        would be clusters.
    steps : int, default=2000
        Of Adam; the learning rate falls along a cosine.
    batch_size : int, default=512
        Positions per step.
    learning_rate : float, default=1e-2
        Of the first step.
    random_state : int, optional
        Seed of the initialisation and of the order of the positions.
    verbose : int, default=0
        0 for silence, 1 for a progress bar.
    """

    def _make_dictionary(
        self, x: Array, centre: Array, scale: float, rng: np.random.Generator
    ) -> FreeDictionary:
        sample = unit_rows(_sample(x, _START_SAMPLE, centre, scale, rng))
        # Random atoms where there are more concepts than positions, and a little everywhere:
        # positions may be equal, or lie at the mean.
        atoms = rng.normal(size=(self.number_of_concepts, x.shape[1])) / math.sqrt(x.shape[1])
        count = min(self.number_of_concepts, len(sample))
        starts, _ = kmeans_plusplus(sample, count, random_state=int(rng.integers(2**31)))
        atoms[:count] = starts + 0.01 * atoms[:count]
        return FreeDictionary(atoms)

    def _keep(self, model: SparseAutoencoder, centre: Array, scale: float) -> tuple[Array, Array]:
        _, offset = super()._keep(model, centre, scale)
        # Atoms of unit length in raw features, too: the scale goes to the coefficients.
        self.filters_, self.biases_ = self.filters_ * scale, self.biases_ * scale
        return model.dictionary.atoms().numpy(), offset


@dataclass(eq=False, repr=False, kw_only=True)
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
    n_centroids : int, optional
        From I to the number of positions. Default: 10 I and at least 100, or the number of
        positions where that is less.

    Attributes
    ----------
    centroids_ : ndarray of shape (n, D)
        C, raw features.
    mixture_ : ndarray of shape (I, n)
        W: how each archetype is mixed from the centroids.
    relaxation_ : ndarray of shape (I, D)
        Λ, raw features; zero here. bank_ = mixture_ @ centroids_ − constant_ + relaxation_.
    """

    n_centroids: int | None = None
    centroids_: Array = field(init=False)
    mixture_: Array = field(init=False)
    relaxation_: Array = field(init=False)

    #: δ.
    _radius = 0.0

    def _check_parameters(self, x: Array) -> int:
        if self.n_centroids is not None:
            check_integer("n_centroids", self.n_centroids, minimum=self.number_of_concepts)
            if self.n_centroids > len(x):
                raise ValueError(
                    f"n_centroids={self.n_centroids} are more than the {len(x)} positions"
                )
        return super()._check_parameters(x)

    def _make_dictionary(
        self, x: Array, centre: Array, scale: float, rng: np.random.Generator
    ) -> ArchetypalDictionary:
        seed = int(rng.integers(2**31))
        default = max(_CENTROIDS_PER_CONCEPT * self.number_of_concepts, _FEWEST_CENTROIDS)
        count = min(len(x), default) if self.n_centroids is None else self.n_centroids
        sample = _sample(x, max(_CLUSTER_SAMPLE, count), centre, scale, rng)
        # k-means++ would take twenty times as long here, for centroids that are no better
        clustering = MiniBatchKMeans(
            count, init="random", batch_size=2048, max_iter=10, n_init=1, random_state=seed
        )
        centroids = clustering.fit(sample).cluster_centers_
        # archetypes start at centroids in different directions
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
    """Relaxed archetypal sparse autoencoder, RA-SAE: atoms within δ of the hull, D = W C + Λ.

    As `ArchetypalFactorizer`, with a learned Λ, ‖Λ_i‖ ≤ δ after every step.

    Parameters
    ----------
    delta : float, default=0.1
        δ ≥ 0, in RMS distances of the features from their mean (`scale_`), so that a value means
        the same for every layer; 0 is `ArchetypalFactorizer`.
    """

    delta: float = 0.1

    def _check_parameters(self, x: Array) -> int:
        check_number("delta", self.delta, minimum=0.0)
        self._radius = float(self.delta)
        return super()._check_parameters(x)


def _progress_bar(epochs: int) -> keras.callbacks.Callback:
    """Return a callback that shows one bar for the whole training, with the epoch's objective."""
    bar = keras.utils.Progbar(epochs, unit_name="epoch", stateful_metrics=["objective"])

    def show(epoch: int, logs: dict[str, float]) -> None:
        bar.update(epoch + 1, [("objective", logs["objective"])])

    return keras.callbacks.LambdaCallback(on_epoch_end=show)


def _centre_and_scale(x: Array) -> tuple[Array, float]:
    """Return the mean (D,) of positions (P, D), and their RMS distance from it."""
    centre = x.mean(axis=0, dtype=np.float64)
    squares = sum(float(np.square(block - centre).sum()) for block in iter_blocks(x))
    scale = float(np.sqrt(squares / len(x)))
    if scale <= 1e-6 * np.linalg.norm(centre):
        raise ValueError(f"the activations are constant: the same at all {len(x)} positions")
    return centre, scale


def _sample(x: Array, size: int, centre: Array, scale: float, rng: np.random.Generator) -> Array:
    """Return at most ``size`` positions, (x − centre)/scale, float32."""
    if len(x) > size:
        x = x[rng.choice(len(x), size, replace=False)]
    return ((x - centre) / scale).astype(np.float32)
