"""Sparse autoencoder as a Keras model, with one of two kinds of dictionary, and its history.

    u = TopK(ReLU(E (x − b) + e)),   x̂ = u D + b

with encoder E and dictionary D of shape (I, D), shift e of shape (I,) and offset b of shape (D,).

Gao et al. 2024, "Scaling and evaluating sparse autoencoders" (arXiv 2406.04093). Features are
centred and scaled to a mean squared length of 1, so that for every layer the reconstruction loss is
the share of the variance that is lost.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from numpy.typing import ArrayLike

from xplique_dirpairs.core.batching import iter_blocks
from xplique_dirpairs.core.linear_algebra import cosines, match
from xplique_dirpairs.core.types import Array

#: Weight of the auxiliary loss, α in Gao et al.
AUXILIARY_WEIGHT = 1 / 32
#: Names of the losses that `SparseAutoencoder.terms` computes.
LOSSES = ("objective", "reconstruction", "auxiliary")
#: Share of dead concepts above which a warning is issued.
_MANY_DEAD = 0.1
#: Cosine from which two atoms count as the same, and share of such atoms from which two
#: dictionaries do.
_SAME_ATOM, _SAME_SHARE = 0.95, 0.9
#: R² from which a single start is believed: dictionaries that were far from a known one had an R²
#: of at most .994 without noise, and the known one 1 [measured, 8 atoms in 16 channels].
_EXACT = 0.998


class FreeDictionary(keras.layers.Layer):
    """Dictionary of atoms, (I, D), anywhere on the unit sphere."""

    #: Whether the model's offset is learned; otherwise it stays at the mean.
    frees_offset = True

    def __init__(self, atoms: Array):
        super().__init__(name="dictionary")
        self._atoms = variable(self, "atoms", atoms)
        self.project()

    def atoms(self) -> tf.Tensor:
        """Return the dictionary D, (I, D), with unit rows."""
        return tf.convert_to_tensor(self._atoms)

    def project(self) -> None:
        """Project the atoms onto the sphere."""
        self._atoms.assign(tf.math.l2_normalize(self._atoms, axis=-1))


class ArchetypalDictionary(keras.layers.Layer):
    """Dictionary of atoms within δ of the convex hull of centroids, D = W C + Λ.

    Fel et al. 2025, "Archetypal SAE" (arXiv 2502.12892): the rows of W are on the simplex, and
    ‖Λ_i‖ ≤ δ. The authors' code also multiplies D by a learned number, which is not needed here,
    because the coefficients are not bounded.

    Parameters
    ----------
    centroids : ndarray of shape (n_centroids, D)
        Centroids C.
    mixture : ndarray of shape (I, n_centroids)
        Initial weights W.
    delta : float
        Largest length δ of a row of Λ. 0: there is no Λ.
    """

    #: With the offset at the mean, offset + atom is a point of the hull in raw features.
    frees_offset = False

    def __init__(self, centroids: Array, mixture: Array, delta: float):
        super().__init__(name="dictionary")
        self.centroids = tf.constant(centroids, tf.float32)
        self._delta = delta
        self.mixture = variable(self, "mixture", mixture)
        shape = (len(mixture), centroids.shape[1])
        self.relaxation = variable(self, "relaxation", np.zeros(shape), trainable=delta > 0)
        self.project()

    def atoms(self) -> tf.Tensor:
        """Return the dictionary D = W C + Λ, (I, D)."""
        return tf.matmul(self.mixture, self.centroids) + self.relaxation

    def project(self) -> None:
        """Project the rows of W onto the simplex, and those of Λ onto the ball of radius δ."""
        self.mixture.assign(onto_simplex(self.mixture))
        if self._delta > 0:
            self.relaxation.assign(tf.clip_by_norm(self.relaxation, self._delta, axes=[-1]))


class SparseAutoencoder(keras.Model):
    """Sparse autoencoder with its training step.

    The model reconstructs x̃ = (x − centre)/scale, where x are raw features.

    Parameters
    ----------
    dictionary : FreeDictionary or ArchetypalDictionary
        The dictionary. Its ``project()`` is called after every step.
    top_k : int
        Largest number k of concepts at a position. `KSchedule` changes it during a training.
    centre : ndarray of shape (D,)
        Centre of the features.
    scale : float
        Scale of the features.
    patience : int
        Number of steps without firing after which a concept counts as dead.
    """

    def __init__(
        self,
        dictionary: FreeDictionary | ArchetypalDictionary,
        top_k: int,
        *,
        centre: Array,
        scale: float,
        patience: int,
    ):
        super().__init__(name="autoencoder")
        self.dictionary = dictionary
        self._patience = patience
        self._centre, self._scale = tf.constant(centre, tf.float32), scale
        atoms = dictionary.atoms().numpy()
        # The encoder starts at the atoms, scaled so that each atom alone gets a coefficient of 1.
        squares = np.square(atoms).sum(axis=-1, keepdims=True)
        self.encoder = variable(self, "encoder", atoms / np.maximum(squares, 0.01))
        self.shift = variable(self, "shift", np.zeros(len(atoms)))
        self.offset = variable(
            self, "offset", np.zeros(len(centre)), trainable=dictionary.frees_offset
        )
        self.idle = variable(self, "idle", np.zeros(len(atoms)), trainable=False)
        self.top_k = self.add_weight(
            shape=(), initializer=lambda *_, **__: top_k, dtype="int32", name="k", trainable=False
        )
        self._means = {name: keras.metrics.Mean(name) for name in (*LOSSES, "l0")}
        self._finite = variable(self, "finite", 1.0, trainable=False)
        self.built = True

    @property
    def metrics(self) -> list[keras.metrics.Metric]:
        """Means of the losses and of L0 over the steps of an epoch."""
        return list(self._means.values())

    def terms(self, features: tf.Tensor) -> tuple[dict[str, tf.Tensor], tf.Tensor]:
        """Compute the losses, each a scalar, and the coefficients (P, I) for raw features (P, D).

        reconstruction   E_p ‖x̃ − x̂‖²
        auxiliary        E_p ‖ẽ − ê‖², where dead concepts alone reconstruct the residual
                         ẽ = x̃ − x̂, through which no gradient flows; 0 if no concept is dead
                         (AuxK of Gao et al. with all dead concepts)
        objective        reconstruction + α auxiliary
        """
        x = (features - self._centre) / self._scale
        atoms = self.dictionary.atoms()
        z = tf.matmul(x - self.offset, self.encoder, transpose_b=True) + self.shift
        u = top_k(tf.nn.relu(z), tf.convert_to_tensor(self.top_k))
        left = x - self.offset - tf.matmul(u, atoms)
        dead = self.dead()
        again = _relu_with_gradient(z) * tf.cast(dead, z.dtype)
        missed = tf.stop_gradient(left) - tf.matmul(again, atoms)
        reconstruction = tf.reduce_mean(tf.reduce_sum(tf.square(left), axis=-1))
        auxiliary = tf.reduce_mean(tf.reduce_sum(tf.square(missed), axis=-1))
        auxiliary = tf.where(tf.reduce_any(dead), auxiliary, 0.0)
        objective = reconstruction + AUXILIARY_WEIGHT * auxiliary
        losses = {"objective": objective, "reconstruction": reconstruction, "auxiliary": auxiliary}
        return losses, u

    def share_lost(self, features: Array) -> float:
        """Compute the share of the variance of features (P, D) that the reconstruction loses."""
        lost = [
            len(block) * float(self.terms(tf.constant(block))[0]["reconstruction"])
            for block in iter_blocks(features)
        ]
        return sum(lost) / len(features)

    def dead(self) -> tf.Tensor:
        """Return which concepts have not fired for ``patience`` steps, (I,) bool."""
        return self.idle >= float(self._patience)

    def train_step(self, data: tf.Tensor) -> dict[str, tf.Tensor]:
        """Take one step of the optimiser, and project the dictionary onto its constraints."""
        variables = self.trainable_variables
        with tf.GradientTape() as tape:
            losses, u = self.terms(data)
        gradients = tape.gradient(losses["objective"], variables)
        self.optimizer.apply(gradients, variables)
        self.dictionary.project()
        fires = u > 0
        self.idle.assign(tf.where(tf.reduce_any(fires, axis=0), 0.0, self.idle + 1.0))
        sums = [tf.reduce_sum(tf.convert_to_tensor(variable)) for variable in variables]
        finite = tf.math.is_finite(tf.add_n([losses["objective"], *sums]))
        self._finite.assign(tf.cast(finite, tf.float32))
        for name, loss in losses.items():
            self._means[name].update_state(loss)
        self._means["l0"].update_state(tf.reduce_sum(tf.cast(fires, tf.float32), axis=-1))
        reported = {name: mean.result() for name, mean in self._means.items()}
        reported["dead"] = tf.reduce_mean(tf.cast(self.dead(), tf.float32))
        return reported

    def is_finite(self) -> bool:
        """Return whether the last step's objective and variables are finite."""
        return bool(self._finite.numpy() > 0)


class KSchedule(keras.callbacks.Callback):
    """Callback that lowers k from all concepts to its final value.

    With few concepts at a position from the first step on, trainings often end far from the best
    dictionary, with a part of every concept in the offset.

    Parameters
    ----------
    concepts : int
        Number of concepts, I, the first k.
    k : int
        Final k.
    epochs : int
        Number of epochs in which k falls from I to k in equal steps.
    """

    def __init__(self, concepts: int, k: int, epochs: int):
        super().__init__()
        self._ks = np.linspace(concepts, k, epochs + 1).round().astype(int)

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """Set k for this epoch."""
        self.model.top_k.assign(self._ks[min(epoch, len(self._ks) - 1)])


class NaNGuard(keras.callbacks.Callback):
    """Callback that ends the training when values become NaN, and restores the last finite ones.

    Attributes
    ----------
    tripped_at : int or None
        The epoch, counted from 0, in which values became NaN. None if they did not.
    """

    tripped_at: int | None = None

    def on_train_begin(self, logs: Any = None) -> None:
        """Store the initial values."""
        self._good = self.model.get_weights()

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Store finite values; if they are not finite, restore the last ones and stop."""
        if self.model.is_finite():
            self._good = self.model.get_weights()
            return
        self.tripped_at = epoch
        self.model.set_weights(self._good)
        self.model.stop_training = True


@tf.custom_gradient
def _relu_with_gradient(z: tf.Tensor) -> tuple[tf.Tensor, Callable[[tf.Tensor], tf.Tensor]]:
    """Apply a ReLU with the gradient of the identity, so that dead concepts get a gradient."""
    return tf.nn.relu(z), lambda upstream: upstream


def top_k(coefficients: tf.Tensor, k: int | tf.Tensor) -> tf.Tensor:
    """Set all but the k largest values of every row (P, I) to zero; of equal ones, keep the first.

    Parameters
    ----------
    coefficients : tf.Tensor of shape (P, I)
        Coefficients.
    k : int or tf.Tensor
        Number of values to keep in every row.

    Returns
    -------
    kept : tf.Tensor of shape (P, I)
        Coefficients with at most k values other than zero in every row.
    """
    values, indices = tf.math.top_k(coefficients, k, sorted=False)
    rows = tf.repeat(tf.range(tf.shape(coefficients)[0]), k)
    where = tf.stack([rows, tf.reshape(indices, [-1])], axis=-1)
    return tf.scatter_nd(where, tf.reshape(values, [-1]), tf.shape(coefficients))


def top_k_code(x: tf.Tensor, filters: Array, biases: Array, k: int) -> tf.Tensor:
    """Compute u = TopK(ReLU(F x − b)), with at most k positive values per position.

    Parameters
    ----------
    x : tf.Tensor of shape (P, D)
        Features.
    filters : ndarray of shape (I, D)
        F.
    biases : ndarray of shape (I,)
        b.
    k : int
        Largest number of concepts of a position.

    Returns
    -------
    coefficients : tf.Tensor of shape (P, I)
    """
    z = tf.matmul(x, tf.constant(filters, x.dtype), transpose_b=True)
    return top_k(tf.nn.relu(z - tf.constant(biases, x.dtype)), k)


def onto_simplex(rows: tf.Tensor) -> tf.Tensor:
    """Project every row (I, n) onto the simplex, the set of w ≥ 0 with Σ w = 1.

    The projection of v is w = ReLU(v − θ), with the θ for which the sum is 1 (Duchi et al. 2008).
    """
    rows = tf.convert_to_tensor(rows)
    ordered = tf.sort(rows, axis=-1, direction="DESCENDING")
    count = tf.range(1, tf.shape(rows)[1] + 1, dtype=rows.dtype)
    thetas = (tf.cumsum(ordered, axis=-1) - 1.0) / count
    positive = tf.reduce_sum(tf.cast(ordered > thetas, tf.int32), axis=-1)
    theta = tf.gather(thetas, tf.maximum(positive, 1) - 1, batch_dims=1)  # NaN has 0 positive
    return tf.nn.relu(rows - theta[:, None])


def enough(concepts: int) -> int:
    """Return how many of the atoms must be alike for two dictionaries to count as the same."""
    return math.ceil(_SAME_SHARE * concepts)


def shared_atoms(atoms: Array, others: Array) -> int:
    """Count the atoms (I, D) that have a partner of their own among others (I, D)."""
    similarities = cosines(others, atoms)
    partners = match(similarities)
    return int((similarities[partners, np.arange(len(atoms))] > _SAME_ATOM).sum())


def variable(owner: Any, name: str, value: ArrayLike, trainable: bool = True) -> keras.Variable:
    """Add a float32 variable with an initial value to a model or layer."""
    value = np.asarray(value, np.float32)
    return owner.add_weight(
        shape=value.shape, initializer=lambda *_, **__: value, name=name, trainable=trainable
    )


@dataclass(frozen=True)
class AutoencoderHistory:
    """History of a training: curves with one value per epoch, and results on all positions.

    There are I concepts, of which at most k fire (have a coefficient above 0) at a position. R² is
    the share of the features' variance that is reconstructed.

    Attributes
    ----------
    losses : dict of str to list of float
        Name of a loss → its mean over the steps of each epoch. "reconstruction" is the share of the
        variance that is lost, "auxiliary" the share that is lost when concepts that have stopped
        firing reconstruct what the others miss (0 if there are none), and "objective" is
        reconstruction + auxiliary/32.
        `TopKFactorizer` begins with k = I, so the reconstruction gets worse in the first half of
        the training, while k falls.
    l0 : list of float
        Mean number of concepts that fire at a position, in every epoch.
    dead_share : list of float
        For every epoch, the share of the I concepts that did not fire at any of its positions.
    occupancy : ndarray of shape (I,)
        Share of the positions at which each concept fires.
    final_r2 : float
        R² of the reconstruction of all positions.
    start_r2 : list of float, default=[]
        Final R² of every start (training from other initial atoms). The best start is kept.
    agreeing : list of int, default=[]
        For every start, the number of its atoms that the kept dictionary has, too (cosine above
        0.95). It is I for the start that was kept.
    cut_short : list of str, default=[]
        Sentences that tell why the training stopped early: NaN or Ctrl-C. Empty if it did not.
    interrupted : bool, default=False
        Whether Ctrl-C stopped the training. Loops over several fits should then stop, too.
    seconds : float, default=0.0
        Duration of the fit in seconds.
    """

    losses: dict[str, list[float]]
    l0: list[float]
    dead_share: list[float]
    occupancy: Array
    final_r2: float
    start_r2: list[float] = field(default_factory=list)
    agreeing: list[int] = field(default_factory=list)
    cut_short: list[str] = field(default_factory=list)
    interrupted: bool = False
    seconds: float = 0.0

    @property
    def r2(self) -> list[float]:
        """R² in every epoch: 0 for the mean of the features, 1 for a perfect reconstruction."""
        return [1.0 - lost for lost in self.losses["reconstruction"]]

    @property
    def final_l0(self) -> float:
        """Mean number of concepts that fire at a position, over all positions."""
        return float(self.occupancy.sum())

    @property
    def dead(self) -> list[int]:
        """Indices of the concepts that never fire."""
        return np.flatnonzero(self.occupancy == 0).tolist()

    def problems(self) -> list[str]:
        """Return problems that affect how far the result can be trusted, one sentence each.

        Returns
        -------
        problems : list of str
            A sentence if the training stopped early, one if more than a tenth of the concepts never
            fire, and one if, after several starts, the best has an R² below 0.998 and no other has
            found nine tenths of its atoms. Empty if there is no problem.
        """
        problems = list(self.cut_short)
        if len(self.dead) > _MANY_DEAD * len(self.occupancy):
            problems.append(
                f"concepts {self.dead} of {len(self.occupancy)} never fire: fewer concepts may be "
                "enough"
            )
        is_exact = self.final_r2 >= _EXACT
        confirmed = self.confirmed_atoms
        if not is_exact and confirmed is not None and confirmed < enough(len(self.occupancy)):
            problems.append(
                f"no other of the {len(self.agreeing)} starts has more than "
                f"{confirmed} of the {len(self.occupancy)} atoms of the best one: they "
                "depend on the start, and may not be those of a better dictionary. Raise n_init or "
                "steps, or change k or number_of_concepts"
            )
        return problems

    @property
    def confirmed_atoms(self) -> int | None:
        """Largest number of the kept atoms that one other start found; None after one start."""
        if len(self.agreeing) < 2:
            return None
        return sorted(self.agreeing)[-2]

    def summary(self) -> str:
        """Return the history as a few lines of text, for a terminal or a notebook.

        Returns
        -------
        summary : str
            Duration, R², mean number of concepts that fire at a position, number of concepts that
            never fire, and a line for each problem.
        """
        result = (
            f"{len(self.l0)} epochs ({self.seconds:.1f} s): R² {self.final_r2:.3f}, "
            f"{self.final_l0:.2f} concepts per position, {len(self.dead)} dead"
        )
        return "\n".join([result, *(f"problem: {problem}" for problem in self.problems())])
