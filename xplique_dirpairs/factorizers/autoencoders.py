"""Three sparse autoencoders, which differ in the constraint on the atoms of the dictionary."""

from __future__ import annotations

import math
import time
import warnings
from abc import abstractmethod
from dataclasses import dataclass, field
from functools import partial

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
from xplique_dirpairs.data.shards import ActivationShards
from xplique_dirpairs.factorizers.base import LinearFactorizer
from xplique_dirpairs.factorizers.sparse_autoencoder import (
    LOSSES,
    ArchetypalDictionary,
    AutoencoderHistory,
    FreeDictionary,
    KSchedule,
    NaNGuard,
    SparseAutoencoder,
    enough,
    shared_atoms,
    top_k,
)
from xplique_dirpairs.learning.features import Features, RandomBatches, sample_of
from xplique_dirpairs.learning.history import LearningWarning

#: Number of points of the history, for any number of steps.
_EPOCHS = 50
#: Numbers of positions from which initial atoms of a free dictionary are chosen, and which are
#: clustered by K-Means.
_START_SAMPLE, _CLUSTER_SAMPLE = 2_000, 20_000
#: Size of the sample of shards that batches are drawn from.
_SAMPLE_MEGABYTES = 256.0
#: Default number of centroids per concept, and smallest default number of centroids.
_CENTROIDS_PER_CONCEPT, _FEWEST_CENTROIDS = 10, 100


@dataclass(frozen=True, eq=False)
class _Run:
    """Training from one start: its curves, why it stopped early, and where it ended."""

    curves: dict[str, list[float]]
    cut_short: list[str]
    interrupted: bool
    weights: list[Array]
    atoms: Array
    lost: float


@dataclass(eq=False, repr=False, kw_only=True)
class AutoencoderFactorizer(LinearFactorizer):
    """Base class of sparse autoencoders with a linear encoder.

    Coefficients are u = TopK(ReLU(F x − b)), and the reconstruction is x̂ = u A + offset.
    Parameters and attributes are described in `TopKFactorizer`.
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

    #: Share of the epochs in which k falls from I to its final value.
    _falling = 0.0

    # ---------------------------------------------------------------- fitting

    def fit(self, activations: ArrayLike | ActivationShards) -> tuple[Array, Array]:
        """Train on flat activations; Ctrl-C ends the training and keeps what was learned.

        Parameters
        ----------
        activations : array-like of shape (P, D), or ActivationShards
            Features at P positions with D channels. From shards, the training draws its batches
            from a random sample of 256 MB of the positions.

        Returns
        -------
        concept_bank_w : ndarray of shape (I, D)
            Concept bank: the atoms of the I concepts.
        coeffs_u : ndarray of shape (P, I)
            Coefficients of the activations.

        Raises
        ------
        ValueError
            If the activations are not flat and finite or are constant, or a parameter is out of
            range.
        """
        start = time.perf_counter()
        bank, coefficients = super().fit(activations)
        kept, runs = self._training
        del self._training  # weights of every start
        curves, last = kept.curves, runs[-1]
        if isinstance(activations, ActivationShards):
            blocks = Features(activations).blocks()
        else:
            blocks = iter_blocks(np.asarray(activations, np.float32))
        lost, rows = 0.0, 0
        for block in blocks:
            u, rows = coefficients[rows : rows + len(block)], rows + len(block)
            lost += float(np.square(block - self.decode(u), dtype=np.float64).sum())
        self.history_ = AutoencoderHistory(
            losses={name: curves.get(name, []) for name in LOSSES},
            l0=curves.get("l0", []),
            dead_share=curves.get("dead", []),
            occupancy=(coefficients > 0).mean(axis=0),
            final_r2=1.0 - lost / (rows * self.scale_**2),
            start_r2=[1.0 - run.lost for run in runs],
            agreeing=[shared_atoms(kept.atoms, run.atoms) for run in runs],
            cut_short=kept.cut_short + (last.cut_short if last is not kept else []),
            interrupted=last.interrupted,
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
        make = partial(self._make_model, x, k, centre=centre, scale=scale, rng=rng)
        model = make()
        per_epoch = self._steps_per_epoch
        rate = keras.optimizers.schedules.CosineDecay(self.learning_rate, self.steps, 0.02)
        model.compile(keras.optimizers.Adam(rate), steps_per_execution=per_epoch, jit_compile=False)
        model.optimizer.build(model.trainable_variables)  # or the first step would be traced twice
        batches = RandomBatches(x, min(self.batch_size, len(x)), int(rng.integers(2**31)))
        runs = [self._train(model, batches, k, x)]
        while self._needs_another(runs):
            model.set_weights(make().get_weights())
            for variable in model.optimizer.variables:
                variable.assign(tf.zeros_like(variable))
            runs.append(self._train(model, batches, k, x))
        kept = _best(runs)
        model.set_weights(kept.weights)
        self._training = kept, runs
        self.k_, self.scale_ = k, scale
        return self._keep(model, centre, scale)

    def _learn_from_shards(self, features: Features) -> tuple[Array, Array]:
        count = max(1, int(_SAMPLE_MEGABYTES * 1e6 / (4 * features.shape[-1])))
        return self._learn(sample_of(features, count, np.random.default_rng(self.random_state)))

    def _keep(self, model: SparseAutoencoder, centre: Array, scale: float) -> tuple[Array, Array]:
        """Store the encoder for raw features x, and return bank (I, D) and constant (D,) for them.

        The model was trained on x̃ = (x − centre)/scale.
        """
        filters = model.encoder.numpy().astype(np.float64) / scale
        offset = centre + scale * model.offset.numpy()
        self.filters_ = filters.astype(np.float32)
        self.biases_ = (filters @ offset - model.shift.numpy()).astype(np.float32)
        return model.dictionary.atoms().numpy() * scale, offset

    def _check_parameters(self, x: Array) -> int:
        """Check every parameter, and return k."""
        # From I = 6 on, k is at least 2, because concepts would be clusters with k = 1.
        k = math.ceil(self.number_of_concepts / 5) if self.k is None else self.k
        check_integer("k", k)
        if k > self.number_of_concepts:
            raise ValueError(
                f"k must be at most number_of_concepts={self.number_of_concepts}, not {k}"
            )
        check_integer("steps", self.steps)
        check_integer("batch_size", self.batch_size)
        check_number("learning_rate", self.learning_rate, above=0.0)
        return k

    @abstractmethod
    def _make_dictionary(
        self, x: Array, centre: Array, scale: float, rng: np.random.Generator
    ) -> FreeDictionary | ArchetypalDictionary:
        """Return the initial dictionary for features (x − centre)/scale."""

    @property
    def _steps_per_epoch(self) -> int:
        return math.ceil(self.steps / _EPOCHS)

    def _make_model(
        self, x: Array, k: int, *, centre: Array, scale: float, rng: np.random.Generator
    ) -> SparseAutoencoder:
        """Return a model with an initial dictionary of its own."""
        dictionary = self._make_dictionary(x, centre, scale, rng)
        return SparseAutoencoder(
            dictionary, k, centre=centre, scale=scale, patience=self._steps_per_epoch
        )

    def _needs_another(self, runs: list[_Run]) -> bool:
        """Return whether to train from another start, after these."""
        return False

    def _train(self, model: SparseAutoencoder, batches: RandomBatches, k: int, x: Array) -> _Run:
        """Train the model from its present weights."""
        per_epoch = self._steps_per_epoch
        epochs = math.ceil(self.steps / per_epoch)
        record, guard = keras.callbacks.History(), NaNGuard()
        callbacks = [record, guard]
        if self._falling:
            schedule = KSchedule(self.number_of_concepts, k, int(self._falling * epochs))
            callbacks.insert(0, schedule)
        if self.verbose:
            print(f"Learning {self.number_of_concepts} concepts")
            callbacks.append(_progress_bar(epochs))
        rows, order = batches.take(epochs * per_epoch)
        steps = tf.data.Dataset.from_tensor_slices(order)
        steps = steps.map(lambda places: tf.gather(rows, places)).prefetch(2)
        cut_short, interrupted = [], False
        try:
            with quiet():
                model.fit(
                    steps,
                    epochs=epochs,
                    steps_per_epoch=per_epoch,
                    callbacks=callbacks,
                    shuffle=False,
                    verbose=0,
                )
        except KeyboardInterrupt:
            interrupted = True
            cut_short.append("the training was interrupted: the state reached so far is kept")
        if guard.tripped_at is not None:
            epoch = guard.tripped_at + 1
            cut_short.append(f"values became NaN in epoch {epoch}: the state before it is kept")
        model.top_k.assign(k)
        return _Run(
            curves=getattr(record, "history", {}),
            cut_short=cut_short,
            interrupted=interrupted,
            weights=model.get_weights(),
            atoms=model.dictionary.atoms().numpy(),
            lost=model.share_lost(x),
        )

    # ---------------------------------------------------------------- reading

    def _read(self, x: tf.Tensor) -> tf.Tensor:
        """Compute u = TopK(ReLU(F x − b)), (P, I), with at most k positive values per position."""
        z = tf.matmul(x, tf.constant(self.filters_, x.dtype), transpose_b=True)
        return top_k(tf.nn.relu(z - tf.constant(self.biases_, x.dtype)), self.k_)


@dataclass(eq=False, repr=False, kw_only=True)
class TopKFactorizer(AutoencoderFactorizer):
    """TopK sparse autoencoder, in which only the k strongest concepts fire at every position.

    Gao et al. 2024, "Scaling and evaluating sparse autoencoders" (arXiv 2406.04093). Each of I
    concepts has a filter and a bias, which give its coefficient, and an atom, a row of the concept
    bank A. Features x have the coefficients u = TopK(ReLU(filters · x − biases)), where TopK sets
    all but the k largest to 0; a concept *fires* where its coefficient is above 0. They are
    reconstructed as u A + offset, with unit atoms and a learned offset, so that coefficients have
    the units of the features. Concepts that have stopped firing are trained to reconstruct what the
    others miss (the paper's auxiliary loss). Atoms are initialised at positions of the data in
    different directions (k-means++), so that few concepts never fire.

    The problem is not convex. As the paper trains, with k concepts from the first step on, many
    starts miss the atoms of data with known ones: a part of every atom ends in the offset, and R²
    (the share of the features' variance that is reconstructed) is only a few hundredths below that
    of the true atoms. Two things here are not in the paper: k falls from I to its final value
    during the first half of the training, and the best of a few starts is kept. If no other start
    finds the same atoms, and R² is below 0.998, ``history_.problems()`` says so. Starts can also
    agree on wrong atoms, which is not noticed, if there is much noise (an R² of 0.7) and exactly k
    atoms at every position.

    The offset is initialised at the mean of the features, not at their geometric median as in the
    authors' code; on known dictionaries the median was not better.

    Parameters
    ----------
    number_of_concepts : int, default=20
        Number of concepts, I. It may exceed the number of channels.
    k : int, default=None
        Largest number of concepts that fire at a position, 1 to I. None: I/5, rounded up. (Language
        models are given thousands of concepts and a k far below a hundredth of that. Ten to thirty
        concepts must represent a whole layer, and with k = 1 they would be clusters.)
    steps : int, default=2000
        Number of steps of Adam. The learning rate decays along a cosine to 2 % of its first value.
    batch_size : int, default=512
        Number of positions per step.
    learning_rate : float, default=1e-2
        Learning rate of the first step.
    random_state : int, default=None
        Seed of the initialisation and of the order of the positions.
    verbose : int, default=0
        0: silent. 1: a progress bar is shown for every start.
    n_init : int, default=6
        Largest number of starts. The one with the best R² is kept. No further start is made once
        another start has nine tenths of its atoms, too (cosine above 0.95).

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
        Losses by epoch, R², how often concepts fire, and ``problems()`` in words.
    """

    n_init: int = 6
    #: From k on alone, most starts end with a part of every atom in the offset.
    _falling = 0.5

    def _check_parameters(self, x: Array) -> int:
        check_integer("n_init", self.n_init)
        return super()._check_parameters(x)

    def _needs_another(self, runs: list[_Run]) -> bool:
        if len(runs) >= self.n_init or runs[-1].interrupted:
            return False
        best = _best(runs)
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
        Seed of the centroids, of the initialisation and of the order of the positions.
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
        Zero in this class; what `RelaxedArchetypalFactorizer` adds to the atoms:
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


def _best(runs: list[_Run]) -> _Run:
    """Return the run that loses the smallest share of the variance."""
    return min(runs, key=lambda run: run.lost)


def _progress_bar(epochs: int) -> keras.callbacks.Callback:
    """Return a callback that shows one bar for the whole training, with the last objective."""
    bar = keras.utils.Progbar(epochs, unit_name="epoch", stateful_metrics=["objective"])

    def show(epoch: int, logs: dict[str, float]) -> None:
        bar.update(epoch + 1, [("objective", logs["objective"])])

    return keras.callbacks.LambdaCallback(on_epoch_end=show)


def _centre_and_scale(x: Array) -> tuple[Array, float]:
    """Compute the mean (D,) of features x (P, D), and their RMS distance from it."""
    centre = x.mean(axis=0, dtype=np.float64)
    squares = sum(float(np.square(block - centre).sum()) for block in iter_blocks(x))
    scale = float(np.sqrt(squares / len(x)))
    if scale <= 1e-6 * np.linalg.norm(centre):
        raise ValueError(
            f"the activations must not be constant, but are the same at all {len(x)} positions"
        )
    return centre, scale


def _sample(x: Array, size: int, centre: Array, scale: float, rng: np.random.Generator) -> Array:
    """Return (x − centre)/scale, float32, of at most ``size`` random rows of x (P, D)."""
    if len(x) > size:
        x = x[rng.choice(len(x), size, replace=False)]
    return ((x - centre) / scale).astype(np.float32)
