"""Universal sparse autoencoder as a Keras model, and its history.

    u = TopK(ReLU(W_i x_i + c_i)),   x̂_j = u D_j for every network j

M networks have an encoder W_i, c_i and a dictionary D_i each, and one code u of I concepts: what
they share is the index of a concept.

H. Thasarathan et al. 2025, "Universal Sparse Autoencoders" (arXiv 2502.03714). Features are centred
and scaled to a mean squared entry of 1, network by network, so that each weighs the same.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial

import keras
import numpy as np
import tensorflow as tf

from xplique_dirpairs.core.types import Array
from xplique_dirpairs.factorizers.sparse_autoencoder import top_k, variable

#: Names of the losses that `UniversalAutoencoder.terms` computes.
LOSSES = ("objective", "own", "cross", "auxiliary")
#: The learning rate ends at this share of its first value.
_LAST_RATE = 0.02
#: Largest norm of the gradient of a network's variables, as in the authors' code.
_CLIP_NORM = 1.0
#: Share of dead concepts above which a warning is issued.
_MANY_DEAD = 0.25


class UniversalAutoencoder(keras.Model):
    """Encoders and dictionaries of M networks with one code, and their training step.

    A step encodes the features of one network and decodes them for all. Its data are joined
    features (P, D_1 + … + D_M) and the index of the network that is encoded.

    Parameters
    ----------
    atoms : sequence of M ndarray of shape (I, D_m)
        Initial dictionaries.
    k : int
        Largest number of concepts at a position.
    update : {"all", "selected"}
        Whose dictionaries a step changes: those of all networks, or that of the encoded one.
    ball : bool
        Whether atoms are in the unit ball; otherwise they have unit length.
    loss : {"l1", "l2"}
        Mean absolute or mean squared error.
    auxiliary : float
        Weight of the auxiliary loss.
    learning_rate : float
        Learning rate of the first step.
    steps : int
        Number of steps of the training, of which each network is encoded in 1/M.
    """

    def __init__(
        self,
        atoms: Sequence[Array],
        k: int,
        *,
        update: str,
        ball: bool,
        loss: str,
        auxiliary: float,
        learning_rate: float,
        steps: int,
    ):
        super().__init__(name="universal")
        self._widths = [one.shape[1] for one in atoms]
        self._k, self._ball, self._loss, self._auxiliary = k, ball, loss, auxiliary
        self._concepts = len(atoms[0])
        self._all = update == "all"
        # Each atom alone gets a coefficient of 1, in every network.
        self.encoders = [
            (variable(self, f"encoder_{m}", one), variable(self, f"shift_{m}", np.zeros(len(one))))
            for m, one in enumerate(atoms)
        ]
        self.dictionaries = [variable(self, f"atoms_{m}", one) for m, one in enumerate(atoms)]
        # Schedules have the steps that a variable really gets.
        own = math.ceil(steps / len(atoms))
        self.encoder_optimizers = [_adam(learning_rate, own) for _ in atoms]
        self.dictionary_optimizers = [
            _adam(learning_rate, steps if self._all else own) for _ in atoms
        ]
        for encoder, one in zip(self.encoders, self.encoder_optimizers, strict=True):
            one.build(list(encoder))
        for dictionary, one in zip(self.dictionaries, self.dictionary_optimizers, strict=True):
            one.build([dictionary])
        self._means = {name: keras.metrics.Mean(name) for name in LOSSES}
        self._finite = variable(self, "finite", 1.0, trainable=False)
        self.built = True

    @property
    def metrics(self) -> list[keras.metrics.Metric]:
        """Means of the losses over the steps of an epoch."""
        return list(self._means.values())

    def atoms(self, m: int) -> tf.Tensor:
        """Return the dictionary of network m, (I, D_m)."""
        dictionary = tf.convert_to_tensor(self.dictionaries[m])
        return dictionary if self._ball else tf.math.l2_normalize(dictionary, axis=-1)

    def terms(self, joined: tf.Tensor, encoded: int) -> dict[str, tf.Tensor]:
        """Compute the losses, each a scalar, when one network is encoded.

        own          ℓ(x_i − u D_i) of the encoded network i
        cross        Σ_j≠i ℓ(x_j − u D_j)
        auxiliary    Σ_j ℓ(x_j − u D_j − r D_j), with the ⌊I/2⌋ largest coefficients r that TopK
                     left out (they keep getting a gradient, so that few concepts never fire)
        objective    own + cross + α auxiliary

        ℓ is the mean absolute error over all entries, or their mean square.
        """
        features = tf.split(joined, self._widths, axis=-1)
        weights, shift = self.encoders[encoded]
        z = tf.nn.relu(tf.matmul(features[encoded], weights, transpose_b=True) + shift)
        u = top_k(z, self._k)
        r = top_k(z - u, max(1, self._concepts // 2))
        losses, again = [], []
        for m, x in enumerate(features):
            atoms = self.atoms(m)
            left = x - tf.matmul(u, atoms)
            losses.append(self._error(left))
            again.append(self._error(left - tf.matmul(r, atoms)))
        own, auxiliary = losses[encoded], tf.add_n(again)
        cross = tf.add_n(losses) - own
        objective = own + cross + self._auxiliary * auxiliary
        return {"objective": objective, "own": own, "cross": cross, "auxiliary": auxiliary}

    def _error(self, left: tf.Tensor) -> tf.Tensor:
        return tf.reduce_mean(tf.abs(left) if self._loss == "l1" else tf.square(left))

    def train_step(self, data: tuple[tf.Tensor, tf.Tensor]) -> dict[str, tf.Tensor]:
        """Take one step of the optimisers."""
        joined, encoded = data
        branches = [partial(self._step, joined, m) for m in range(len(self._widths))]
        losses = tf.switch_case(encoded, branches)
        sums = [tf.reduce_sum(tf.convert_to_tensor(one)) for one in self.trainable_variables]
        finite = tf.math.is_finite(tf.add_n([losses["objective"], *sums]))
        self._finite.assign(tf.cast(finite, tf.float32))
        for name, loss in losses.items():
            self._means[name].update_state(loss)
        return {name: mean.result() for name, mean in self._means.items()}

    def _step(self, joined: tf.Tensor, encoded: int) -> dict[str, tf.Tensor]:
        """Take a step in which one network is encoded."""
        changed = range(len(self._widths)) if self._all else [encoded]
        encoder = list(self.encoders[encoded])
        dictionaries = [self.dictionaries[m] for m in changed]
        with tf.GradientTape() as tape:
            losses = self.terms(joined, encoded)
        of_encoder, of_dictionaries = tape.gradient(losses["objective"], (encoder, dictionaries))
        self.encoder_optimizers[encoded].apply(of_encoder, encoder)
        for m, gradient in zip(changed, of_dictionaries, strict=True):
            dictionary = self.dictionaries[m]
            self.dictionary_optimizers[m].apply([gradient], [dictionary])
            if self._ball:
                dictionary.assign(tf.clip_by_norm(dictionary, 1.0, axes=[-1]))
        return losses

    def is_finite(self) -> bool:
        """Return whether the last step's objective and variables are finite."""
        return bool(self._finite.numpy() > 0)


def _adam(learning_rate: float, steps: int) -> keras.optimizers.Optimizer:
    rate = keras.optimizers.schedules.CosineDecay(learning_rate, steps, _LAST_RATE)
    return keras.optimizers.Adam(rate, global_clipnorm=_CLIP_NORM)


@dataclass(frozen=True)
class UniversalHistory:
    """History of the training of M networks with I concepts.

    Attributes
    ----------
    losses : dict of str to list of float
        Name of a loss → its mean over the steps of each epoch: "own" and "cross" are the errors of
        the features of the encoded network, and of those of all others together, in units of their
        standard deviations; "auxiliary" is the error with the concepts that TopK left out.
    occupancy : ndarray of shape (M, I)
        Share of the positions at which each concept fires in each network.
    r2 : ndarray of shape (M,)
        Share of the variance of each network's features that its own coefficients reconstruct.
    cut_short : list of str, default=[]
        Sentences that tell why the training stopped early: NaN or Ctrl-C. Empty if it did not.
    interrupted : bool, default=False
        Whether Ctrl-C stopped the training.
    seconds : float, default=0.0
        Duration of the fit in seconds.
    """

    losses: dict[str, list[float]]
    occupancy: Array
    r2: Array
    cut_short: list[str] = field(default_factory=list)
    interrupted: bool = False
    seconds: float = 0.0

    @property
    def dead(self) -> list[int]:
        """Indices of the concepts that fire in no network."""
        return np.flatnonzero(self.occupancy.max(axis=0) == 0).tolist()

    def problems(self) -> list[str]:
        """Return problems that affect how far the result can be trusted, one sentence each.

        Returns
        -------
        problems : list of str
            A sentence if the training stopped early, and one if more than a quarter of the concepts
            fire in no network. Empty if there is no problem.
        """
        problems = list(self.cut_short)
        if len(self.dead) > _MANY_DEAD * self.occupancy.shape[1]:
            problems.append(
                f"concepts {self.dead} of {self.occupancy.shape[1]} fire in no network: fewer "
                "concepts may be enough"
            )
        return problems
