"""What the sparse autoencoders share: parameters, training, reading and writing."""

from __future__ import annotations

import time
from abc import abstractmethod

import keras
import numpy as np
import tensorflow as tf
from numpy.typing import ArrayLike, NDArray

from xplique_dirpairs.core.batching import iter_blocks
from xplique_dirpairs.core.progress import quiet
from xplique_dirpairs.core.validation import check_integer
from xplique_dirpairs.factorizers.affine import AffineFactorizer
from xplique_dirpairs.factorizers.autoencoder_callbacks import NaNGuard, Progress
from xplique_dirpairs.factorizers.autoencoder_history import (
    AutoencoderHistory,
    explained_variance,
)
from xplique_dirpairs.factorizers.sparse_autoencoder import (
    ArchetypalDictionary,
    FreeDictionary,
    SparseAutoencoder,
    top_k,
)
from xplique_dirpairs.learning.features import random_rows

#: Points of the history, whatever the number of steps.
_EPOCHS = 50


class AutoencoderFactorizer(AffineFactorizer):
    """A sparse autoencoder with a linear encoder: u = TopK(ReLU(F x − b)), x̂ = u D + offset.

    Attributes
    ----------
    bank_ : (I, D)
        The dictionary: atoms, in the units of the features where they have units.
    filters_ : (I, D)
    biases_ : (I,)
        A concept is a candidate at x where filters_ @ x > biases_.
    constant_ : (D,)
        What is decoded where no concept fires.
    k_ : int
        The k that was used.
    scale_ : float
        RMS distance of the features from their mean, by which they were scaled for the learning.
    history_ : AutoencoderHistory
    """

    filters_: NDArray
    biases_: NDArray
    k_: int
    scale_: float
    history_: AutoencoderHistory

    def __init__(
        self,
        number_of_concepts: int = 20,
        *,
        k: int | None = None,
        steps: int = 2000,
        batch_size: int = 512,
        learning_rate: float = 1e-2,
        random_state: int | None = None,
        verbose: int = 0,
    ):
        self.number_of_concepts = number_of_concepts
        self.k = k
        self.steps = steps
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.random_state = random_state
        self.verbose = verbose

    # ---------------------------------------------------------------- fitting

    def fit(self, activations: ArrayLike) -> tuple[NDArray, NDArray]:
        """Train on flat activations; Ctrl-C ends the training and keeps what it has.

        Parameters
        ----------
        activations : (P, D)

        Returns
        -------
        concept_bank_w : (I, D)
        coeffs_u : (P, I)

        Raises
        ------
        ValueError
            If the activations are not flat and finite or do not vary, or a parameter is out of
            its range.
        """
        began = time.perf_counter()
        bank, coefficients = super().fit(activations)
        curves, cut_short, interrupted = self._training
        x = np.asarray(activations, np.float32)
        self.history_ = AutoencoderHistory(
            losses={name: curves.get(name, []) for name in self._loss_names},
            l0=curves.get("l0", []),
            dead_share=curves.get("dead", []),
            occupancy=(coefficients > 0).mean(axis=0),
            final_r2=explained_variance(x, lambda block: self.decode(self.encode(block))),
            cut_short=cut_short,
            interrupted=interrupted,
            seconds=time.perf_counter() - began,
        )
        self.history_.warn()
        return bank, coefficients

    def _learn(self, x: NDArray) -> tuple[NDArray, NDArray]:
        k = self._check_parameters(x)
        rng = np.random.default_rng(self.random_state)
        centre, scale = _centre_and_scale(x)
        model = SparseAutoencoder(
            self._make_dictionary(x, centre, scale, rng),
            k,
            centre=centre,
            scale=scale,
            patience=self._steps_per_epoch,
        )
        self._training = self._train(model, x, seed=int(rng.integers(2**31)))
        self._loss_names = model.loss_names
        self.k_, self.scale_ = k, scale
        return self._keep(model, centre, scale)

    def _keep(
        self, model: SparseAutoencoder, centre: NDArray, scale: float
    ) -> tuple[NDArray, NDArray]:
        """What was learned of x̃ = (x − centre)/scale, for x: bank and constant are returned."""
        filters = model.encoder.numpy().astype(np.float64) / scale
        offset = centre + scale * model.offset.numpy()
        self.filters_ = filters.astype(np.float32)
        self.biases_ = (filters @ offset - model.shift.numpy()).astype(np.float32)
        return model.dictionary.atoms().numpy() * scale, offset

    def _check_parameters(self, x: NDArray) -> int:
        """k, after a look at everything."""
        k = default_k(self.number_of_concepts) if self.k is None else self.k
        check_integer("k", k)
        if k > self.number_of_concepts:
            raise ValueError(
                f"k={k} concepts per position of number_of_concepts={self.number_of_concepts}: "
                "k must not be larger"
            )
        check_integer("steps", self.steps)
        check_integer("batch_size", self.batch_size)
        if not self.learning_rate > 0:
            raise ValueError(f"learning_rate must be above 0, not {self.learning_rate!r}")
        return k

    @abstractmethod
    def _make_dictionary(
        self, x: NDArray, centre: NDArray, scale: float, rng: np.random.Generator
    ) -> FreeDictionary | ArchetypalDictionary:
        """The dictionary at its start, for features (x − centre)/scale."""

    @property
    def _steps_per_epoch(self) -> int:
        return -(-self.steps // _EPOCHS)

    def _train(
        self, model: SparseAutoencoder, x: NDArray, seed: int
    ) -> tuple[dict[str, list[float]], list[str], bool]:
        """Keras fit; curves, what cut them short, and whether that was Ctrl-C."""
        per_epoch = self._steps_per_epoch
        rate = keras.optimizers.schedules.CosineDecay(self.learning_rate, self.steps, 0.02)
        model.compile(keras.optimizers.Adam(rate), steps_per_execution=per_epoch, jit_compile=False)
        model.optimizer.build(model.trainable_variables)  # else the first step is traced twice
        record, guard = keras.callbacks.History(), NaNGuard()
        callbacks = [record, guard]
        if self.verbose:
            callbacks.append(Progress(f"Learning {self.number_of_concepts} concepts"))
        batches = random_rows(x, min(self.batch_size, len(x)), seed).prefetch(2)
        cut_short, interrupted = [], False
        try:
            with quiet():
                model.fit(
                    batches,
                    epochs=-(-self.steps // per_epoch),
                    steps_per_epoch=per_epoch,
                    callbacks=callbacks,
                    shuffle=False,
                    verbose=0,
                )
        except KeyboardInterrupt:
            interrupted = True
            cut_short.append("the training was interrupted: what it had is kept")
        if guard.tripped_at is not None:
            epoch = guard.tripped_at + 1
            cut_short.append(f"the training met NaN in epoch {epoch}: what it had is kept")
        curves = {
            n: [float(v) for v in values] for n, values in getattr(record, "history", {}).items()
        }
        return curves, cut_short, interrupted

    # ---------------------------------------------------------------- reading

    def _read(self, x: NDArray) -> NDArray:
        """u = TopK(ReLU(F x − b)): ≥ 0, at most k not 0."""
        with tf.init_scope():  # arrays are read at once, also while others trace a graph
            blocks = [self._coefficients(tf.constant(block)).numpy() for block in iter_blocks(x)]
        return np.concatenate(blocks)

    def encode_differentiable(self, activations: tf.Tensor) -> tf.Tensor:
        """`encode` as a tensor, (P, D) → (P, I); gradients flow to the activations."""
        return self._coefficients(self._features_tensor(activations))

    def _coefficients(self, x: tf.Tensor) -> tf.Tensor:
        z = tf.matmul(x, tf.constant(self.filters_, x.dtype), transpose_b=True)
        return top_k(tf.nn.relu(z - tf.constant(self.biases_, x.dtype)), self.k_)

    @property
    def decoding_directions(self) -> NDArray:
        """Rows of the encoder, (I, D): the linear filters before ReLU and TopK."""
        self._check_is_fitted()
        return self.filters_.copy()


def default_k(number_of_concepts: int) -> int:
    """I/5, rounded up: several from six concepts on, for one alone would make them clusters."""
    return -(-number_of_concepts // 5)


def _centre_and_scale(x: NDArray) -> tuple[NDArray, float]:
    """Mean (D,), and RMS distance from it, of positions (P, D)."""
    centre = x.mean(axis=0, dtype=np.float64)
    squares = sum(float(np.square(block - centre).sum()) for block in iter_blocks(x))
    scale = float(np.sqrt(squares / len(x)))
    if scale <= 1e-6 * np.linalg.norm(centre) or scale == 0.0:
        raise ValueError(f"the activations are the same at all {len(x)} positions")
    return centre, scale
