"""What all sparse autoencoders share: their training from one or several starts, and reading."""

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

from xplique_dirpairs.core.batching import iter_blocks
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
    shared_atoms,
    top_k_code,
)
from xplique_dirpairs.learning.features import Features, RandomBatches, sample_of
from xplique_dirpairs.learning.history import LearningWarning

#: Number of points of the history, for any number of steps.
_EPOCHS = 50
#: Size of the sample of shards that batches are drawn from.
_SAMPLE_MEGABYTES = 256.0


@dataclass(frozen=True, eq=False)
class TrainingRun:
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
            Features at P positions with D channels. If they are given as shards, the batches of the
            training are drawn from a random sample of 256 MB (10⁶ bytes) of the positions.

        Returns
        -------
        concept_bank_w : ndarray of shape (I, D)
            Concept bank: the atoms of the I concepts.
        coeffs_u : ndarray of shape (P, I)
            Coefficients of the I concepts at the P positions.

        Raises
        ------
        ValueError
            If the activations are not flat and finite or are constant, if there are fewer positions
            than concepts, or if a parameter is out of range.

        Warns
        -----
        LearningWarning
            If ``history_.problems()`` is not empty.
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
        kept = best_run(runs)
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

    def _needs_another(self, runs: list[TrainingRun]) -> bool:
        """Return whether to train from another start, after these."""
        return False

    def _train(
        self, model: SparseAutoencoder, batches: RandomBatches, k: int, x: Array
    ) -> TrainingRun:
        """Train the model from its present weights."""
        per_epoch = self._steps_per_epoch
        epochs = math.ceil(self.steps / per_epoch)
        record = keras.callbacks.History()
        callbacks = [record]
        if self._falling:
            schedule = KSchedule(self.number_of_concepts, k, int(self._falling * epochs))
            callbacks.insert(0, schedule)
        if self.verbose:
            print(f"Learning {self.number_of_concepts} concepts")
            callbacks.append(progress_bar(epochs))
        rows, order = batches.take(epochs * per_epoch)
        steps = tf.data.Dataset.from_tensor_slices(order)
        steps = steps.map(lambda places: tf.gather(rows, places)).prefetch(2)
        cut_short, interrupted = train_or_keep(model, steps, epochs, per_epoch, callbacks)
        model.top_k.assign(k)
        return TrainingRun(
            curves=getattr(record, "history", {}),
            cut_short=cut_short,
            interrupted=interrupted,
            weights=model.get_weights(),
            atoms=model.dictionary.atoms().numpy(),
            lost=model.share_lost(x),
        )

    # ---------------------------------------------------------------- reading

    def _read(self, x: tf.Tensor) -> tf.Tensor:
        return top_k_code(x, self.filters_, self.biases_, self.k_)


def best_run(runs: list[TrainingRun]) -> TrainingRun:
    """Return the run that loses the smallest share of the variance."""
    return min(runs, key=lambda run: run.lost)


def train_or_keep(
    model: keras.Model,
    data: tf.data.Dataset,
    epochs: int,
    per_epoch: int,
    callbacks: list[keras.callbacks.Callback],
) -> tuple[list[str], bool]:
    """Train a model; keep the last good state if values become NaN or the user interrupts.

    Parameters
    ----------
    model : keras.Model
        Compiled model with a method ``is_finite``.
    data : tf.data.Dataset
        One element for each step.
    epochs, per_epoch : int
        Number of epochs, and of steps in each.
    callbacks : list of keras.callbacks.Callback

    Returns
    -------
    cut_short : list of str
        Why the training ended early; empty if it did not.
    interrupted : bool
        Whether the user interrupted it.
    """
    guard, cut_short, interrupted = NaNGuard(), [], False
    try:
        with quiet():
            model.fit(
                data,
                epochs=epochs,
                steps_per_epoch=per_epoch,
                callbacks=[*callbacks, guard],
                shuffle=False,
                verbose=0,
            )
    except KeyboardInterrupt:
        interrupted = True
        cut_short.append("the training was interrupted: the state reached so far is kept")
    if guard.tripped_at is not None:
        epoch = guard.tripped_at + 1
        cut_short.append(f"values became NaN in epoch {epoch}: the state before it is kept")
    return cut_short, interrupted


def progress_bar(epochs: int) -> keras.callbacks.Callback:
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
