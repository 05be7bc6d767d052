"""One stage's objective as a Keras model: its variables are the filters, its training step one
step of the learning. Several restarts are learned side by side along a leading axis R; they do
not interact.

Everything is float32, whatever Keras's policy: projections from bfloat16 factors are off by 0.003
of their spread, which a detector of slope 300 takes for a logit. The head computes as its layers
say.
"""

from __future__ import annotations

from dataclasses import dataclass

import keras
import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from xplique_dirpairs.data.devices import DistributedModel, average, own_part, replicas
from xplique_dirpairs.learning import losses
from xplique_dirpairs.learning.constraints import dual_update, penalty
from xplique_dirpairs.learning.coordinates import Coordinates
from xplique_dirpairs.learning.recipe import Stage
from xplique_dirpairs.learning.signals import (
    excess_covariance,
    joint_signals,
    positives_covariance,
)
from xplique_dirpairs.learning.uncertainty import (
    constrained_displacement,
    fired_displacement,
    unconstrained_displacement,
)
from xplique_dirpairs.models.head import Head

#: How much of a running mean one minibatch replaces.
_RENEWAL = 0.1
#: The losses that pass features through the head.
_NETWORK = ("uur", "cur", "fired")
#: Share of the steps over which the sharpness rises.
_RISE = 0.7


@dataclass(frozen=True)
class Detectors:
    """R restarts of I detectors in raw features: filters (R, I, D), biases (R, I) about the mean.

    ``biases`` belong to centred features: y = σ(wᵀ(x − E[x]) − b). ``signals`` (R, I, D) or None.
    ``sharpest`` (R, I) limits a scheduled 1/M; None: no limit.
    """

    filters: NDArray
    biases: NDArray
    signals: NDArray | None = None
    sharpest: NDArray | None = None

    def keep(self, restarts: NDArray) -> Detectors:
        """Only the given restarts."""
        signals = None if self.signals is None else self.signals[restarts]
        return Detectors(self.filters[restarts], self.biases[restarts], signals)


class Objective(DistributedModel):
    """The weighted losses and constraints of a stage, over detectors in the stage's coordinates.

    y = σ((w̄ᵀx̃ − t)/M): unit directions w̄, thresholds t, margins M. Batches are ``{"pixels":
    (P, A)}`` in coordinates, with ``"features"``, raw and as `Head.pool` leaves them, for the
    network terms.

    Parameters
    ----------
    stage
    coordinates
    start
        Where to begin.
    gamma
        Exponent of the activity.
    head
        The rest of the network, or None: then the network terms are left out.
    steps
        Steps of the whole stage, for the sharpness.
    full_batch
        Whether every step sees all positions; running means stand in where it does not.
    network_every
        The network terms are computed in every n-th step only, with n times the gradient.
    seed
        Of κ.
    """

    def __init__(
        self,
        stage: Stage,
        coordinates: Coordinates,
        start: Detectors,
        *,
        gamma: float,
        head: Head | None,
        steps: int,
        full_batch: bool,
        network_every: int,
        seed: int,
    ):
        super().__init__(name=f"stage_{stage.name}", dtype="float32")
        self._stage, self._coordinates, self._gamma = stage, coordinates, gamma
        self._head = head
        self._steps, self._full_batch, self._network_every = steps, full_batch, network_every
        self.terms = tuple(n for n in stage.terms if head is not None or n not in _NETWORK)
        self._network_terms = tuple(n for n in self.terms if n in _NETWORK)
        self.uses_network = bool(self._network_terms)
        if not set(self.terms) & set(stage.weights):
            raise ValueError(
                f"stage {stage.name!r} has nothing to minimise without a head: its losses are "
                f"{sorted(stage.weights)}"
            )
        self._seed = keras.random.SeedGenerator(seed)
        self._sharpest = None
        if start.sharpest is not None:
            self._sharpest = tf.constant(start.sharpest, tf.float32)
        self._forward = tf.constant(coordinates.forward, tf.float32)
        self._backward = tf.constant(coordinates.backward, tf.float32)
        self._mean = tf.constant(coordinates.mean, tf.float32)
        self._make_variables(start)
        self.built = True

    # ------------------------------------------------------------ variables

    def _make_variables(self, start: Detectors) -> None:
        stage = self._stage
        filters = self._coordinates.filters_from_raw(start.filters)
        lengths = np.linalg.norm(filters, axis=-1, keepdims=True)
        directions, margins = filters / lengths, 1.0 / lengths[..., 0]
        thresholds = start.biases * margins
        restarts, concepts, axes = directions.shape
        if stage.shared:
            margins = np.exp(np.log(margins).mean(axis=-1, keepdims=True))
            thresholds = thresholds.mean(axis=-1, keepdims=True)
        self._orthonormal = stage.orthonormal and concepts <= axes

        def variable(name, value, trainable=True):
            value = np.asarray(value, np.float32)
            if not value.size:  # TensorFlow crashes where workers share an empty variable
                return None
            return self.add_weight(
                name=name,
                shape=value.shape,
                trainable=trainable,
                dtype="float32",
                initializer=lambda shape, dtype=None: keras.ops.convert_to_tensor(value, dtype),
            )

        self.directions = variable("directions", directions)
        self.thresholds = variable("thresholds", thresholds)
        self.log_margins = None
        if stage.sharpness is None:
            self.log_margins = variable("log_margins", np.log(margins))
        self.free_signals = None
        if stage.signals == "free":
            if start.signals is None:
                raise ValueError("free signal vectors need to start somewhere")
            signals = self._coordinates.signals_from_raw(start.signals)
            # unit length in coordinates: only the direction counts, and Adam's step is absolute
            signals = signals / np.linalg.norm(signals, axis=-1, keepdims=True)
            self.free_signals = variable("signals", signals)
        # Minibatch estimates: E_p[y^γ] and the tied signal vectors; and the step.
        self._activity = variable("activity", np.zeros((restarts, concepts)), False)
        self._covariance = variable("covariance", np.zeros((restarts, concepts, axes)), False)
        self._gains = variable("gains", np.zeros((restarts, concepts, concepts)), False)
        self._step = variable("step", 0.0, False)
        bounded = len([name for name in self.terms if name in stage.constraints])
        self._multipliers = variable("multipliers", np.zeros((restarts, bounded)), False)
        self._penalty_weights = variable("penalty_weights", np.ones((restarts, bounded)), False)
        self.last_violation = np.full((restarts, bounded), np.inf)
        # Epoch means of everything reported, (R, number of reported values).
        self._reported = (*self.terms, "objective")
        self._last_network = variable(
            "last_network", np.zeros((len(self._network_terms), restarts)), False
        )
        self._sums = variable("sums", np.zeros((restarts, len(self._reported))), False)
        self._count = variable("count", 0.0, False)

    # ------------------------------------------------------------ the model

    def unit_directions(self) -> tf.Tensor:
        """w̄ (R, I, A): unit, or orthonormal, rows in the stage's coordinates."""
        rows = tf.convert_to_tensor(self.directions)
        if not self._orthonormal:
            return tf.math.l2_normalize(rows, axis=-1)
        q, r = tf.linalg.qr(tf.linalg.matrix_transpose(rows))
        return tf.linalg.matrix_transpose(q * tf.sign(tf.linalg.diag_part(r))[..., None, :])

    def margins(self) -> tf.Tensor:
        """M, (R, I) or (R, 1), at the present step."""
        if self.log_margins is not None:
            return tf.exp(tf.convert_to_tensor(self.log_margins))
        first, last = self._stage.sharpness or (1.0, 1.0)
        done = tf.minimum(tf.convert_to_tensor(self._step) / (_RISE * self._steps), 1.0)
        sharpness = (first * (last / first) ** done)[None, None]
        return 1.0 / (
            sharpness if self._sharpest is None else tf.minimum(sharpness, self._sharpest)
        )

    def _signals(self, x, logits, directions, margins) -> tf.Tensor:
        """Signal vectors in coordinates, (R, I, A), of any length."""
        if self._stage.signals == "free":
            return tf.convert_to_tensor(self.free_signals)
        if self._stage.signals == "joint":
            # of M·logits = w̄ᵀx − t; M is taken out of the sums over positions
            with_x = margins[..., None] * excess_covariance(x, logits)
            with_z = tf.matmul(with_x, directions, transpose_b=True)
            return joint_signals(
                self._running(self._covariance, with_x), self._running(self._gains, with_z)
            )
        positive = tf.stop_gradient(tf.cast(logits > 0, tf.float32))
        covariance = margins[..., None] * positives_covariance(x, logits, positive)
        return self._running(self._covariance, covariance)

    def _running(self, mean: keras.Variable, current: tf.Tensor) -> tf.Tensor:
        """The running mean's value with the current batch's gradient."""
        if self._full_batch:
            return current
        renewal = tf.where(tf.convert_to_tensor(self._step) < 1.0, 1.0, _RENEWAL)
        mean.assign((1.0 - renewal) * mean + renewal * tf.stop_gradient(current))
        return current + tf.stop_gradient(tf.convert_to_tensor(mean) - current)

    def losses_of(self, batch: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        """Every loss of the stage on a batch, name → (R,)."""
        x = batch["pixels"]
        directions, margins = self.unit_directions(), self.margins()
        scaled = directions / margins[..., None]
        biases = tf.convert_to_tensor(self.thresholds) / margins
        logits = tf.matmul(x, scaled, transpose_b=True) - biases[:, None, :]
        values = self._detector_losses(losses.log_detections(logits), scaled)
        if "fso" in self.terms or "cur" in self.terms:
            signals = self._signals(x, logits, directions, margins)
            filters = tf.matmul(directions, self._forward, transpose_b=True)
            raw_signals = tf.math.l2_normalize(tf.matmul(signals, self._backward), axis=-1)
            if "fso" in self.terms:
                unit = tf.math.l2_normalize(filters, axis=-1)
                cosines = tf.matmul(unit, raw_signals, transpose_b=True)
                values["fso"] = losses.filter_signal_orthogonality(cosines)
        else:
            raw_signals = None
        if self.uses_network:
            values.update(self._sometimes(batch["features"], directions, raw_signals))
        return {name: values[name] for name in self.terms}

    def _detector_losses(self, log_y: tf.Tensor, filters: tf.Tensor) -> dict[str, tf.Tensor]:
        stage = self._stage
        positions = losses.position_losses(log_y, stage.per_position)
        activities, sparsity, activation = average(
            (losses.activity(log_y, self._gamma), positions["s"], positions["ma"])
        )
        activities = self._running(self._activity, activities)
        concepts = activities.shape[-1]
        values = {
            "s": sparsity,
            "ma": activation,
            "mm": losses.maximum_margin(filters) * self._coordinates.scale,
            "ic": losses.inactive_classifier(activities, stage.tau),
            "eac": losses.excessively_active_classifier(activities, stage.rho_of(concepts)),
        }
        if "sb" in self.terms:
            values["sb"] = losses.sparsity_bound(log_y)
        return values

    def _sometimes(self, features, directions, signals) -> dict[str, tf.Tensor]:
        """The network terms in every n-th step; between, their last values without gradient."""
        every = self._network_every
        if every == 1:
            current = average(self._network_losses(features, directions, signals))
            return dict(zip(self._network_terms, current, strict=True))
        last = tf.convert_to_tensor(self._last_network)

        def compute():
            current = tf.stack(self._network_losses(features, directions, signals))
            constant = tf.stop_gradient(current)
            return constant + every * (current - constant)

        due = tf.equal(tf.cast(tf.convert_to_tensor(self._step), tf.int32) % every, 0)
        values = average(tf.cond(due, compute, lambda: last))
        self._last_network.assign(tf.stop_gradient(values))
        return dict(zip(self._network_terms, tf.unstack(values), strict=True))

    def _entropy(self, features: tf.Tensor) -> tf.Tensor:
        assert self._head is not None, "network terms are left out without a head"
        return self._head.entropy(features)

    def _network_losses(self, features, directions, signals) -> list[tf.Tensor]:
        """−E[H(f⁺(x − κ dx))] for every network term, (R,) each."""
        restarts, channels = directions.shape[0], self._forward.shape[0]
        filters = tf.matmul(directions, self._forward, transpose_b=True)
        shape = tf.shape(features)
        images = shape[0]
        thresholds = tf.convert_to_tensor(self.thresholds)
        thresholds = thresholds + tf.zeros_like(filters[..., 0])
        x = tf.reshape(features, (-1, channels))
        centred = (x - self._mean)[None]
        whole = images * replicas()
        kappa = own_part(keras.random.uniform((whole,), *self._stage.kappa, seed=self._seed))
        kappa = tf.reshape(kappa, tf.concat([[images], tf.ones_like(shape[1:])], axis=0))
        moves = {
            "uur": lambda: unconstrained_displacement(centred, filters, thresholds),
            "cur": lambda: constrained_displacement(centred, filters, thresholds, signals),
            "fired": lambda: fired_displacement(centred, filters, thresholds),
        }
        values = []
        for name in self._network_terms:
            dx = tf.reshape(moves[name](), tf.concat([[restarts], shape], axis=0))
            moved = tf.reshape(
                features - kappa * dx, tf.concat([[restarts * images], shape[1:]], axis=0)
            )
            moved.set_shape([None, *features.shape[1:]])
            entropy = tf.reshape(self._entropy(moved), (restarts, -1))
            values.append(-tf.reduce_mean(entropy, axis=-1))
        return values

    def objective_of(self, values: dict[str, tf.Tensor]) -> tf.Tensor:
        """Weighted sum plus penalty, (R,)."""
        stage = self._stage
        total = tf.add_n([stage.weights[n] * values[n] for n in self.terms if n in stage.weights])
        bounded = [name for name in self.terms if name in stage.constraints]
        if bounded:
            g = tf.stack([values[name] - stage.constraints[name] for name in bounded], axis=-1)
            multipliers = tf.convert_to_tensor(self._multipliers)
            total += penalty(g, multipliers, tf.convert_to_tensor(self._penalty_weights))
        return total

    # ------------------------------------------------------------ Keras

    def train_step(self, batch):
        """One step; restarts are summed, so that each learns as if it were alone.

        Every replica has the whole objective, and the optimizer sums their gradients.
        """
        with tf.GradientTape() as tape:
            values = self.losses_of(batch)
            objective = self.objective_of(values)
            loss = tf.reduce_sum(objective) / replicas()
        variables = self.trainable_variables
        gradients = tape.gradient(loss, [v.value for v in variables])
        self.optimizer.apply(gradients, variables)
        self._step.assign_add(1.0)
        report = tf.stack([*(values[name] for name in self.terms), objective], axis=-1)
        self._sums.assign_add(report)
        self._count.assign_add(1.0)
        # not "loss": Keras would put its own tracker, never updated, in the place of that name
        return {"objective": tf.reduce_min(self.epoch_means()[:, -1])}

    def epoch_means(self) -> tf.Tensor:
        """Means over the epoch of the losses and the objective, (R, losses + 1)."""
        return tf.convert_to_tensor(self._sums) / tf.maximum(tf.convert_to_tensor(self._count), 1.0)

    def reset_metrics(self) -> None:
        """Begin the epoch's means anew; Keras calls this at the start of every epoch."""
        super().reset_metrics()
        self._sums.assign(tf.zeros_like(self._sums))
        self._count.assign(0.0)

    def reported(self) -> dict[str, NDArray]:
        """The epoch's mean of every loss and of the objective, name → (R,)."""
        means = self.epoch_means().numpy()
        return {name: means[:, k] for k, name in enumerate(self._reported)}

    def finite_restarts(self) -> NDArray:
        """(R,): whether a restart's objective and all its variables are finite."""
        finite = np.isfinite(self.reported()["objective"])
        for variable in self.trainable_variables:
            values = variable.numpy()
            finite &= np.isfinite(values).all(axis=tuple(range(1, values.ndim)))
        return finite

    # ------------------------------------------------------------ constraints

    def violations(self) -> dict[str, NDArray]:
        """How far each constraint is exceeded on the epoch's mean, name → (R,), 0 if kept."""
        reported = self.reported()
        return {
            name: np.maximum(reported[name] - bound, 0.0)
            for name, bound in self._stage.constraints.items()
            if name in reported
        }

    def update_multipliers(self) -> None:
        """One dual update from the epoch's mean of the constrained losses."""
        reported, bounds = self.reported(), self._stage.constraints
        names = [name for name in self.terms if name in bounds]
        if not names:
            return
        g = np.stack([reported[name] - bounds[name] for name in names], axis=-1)
        multipliers, weights = dual_update(
            g, self.last_violation, self._multipliers.numpy(), self._penalty_weights.numpy()
        )
        self._multipliers.assign(multipliers)
        self._penalty_weights.assign(weights)
        self.last_violation = g

    # ------------------------------------------------------------ result

    def detectors(self) -> Detectors:
        """The detectors as they stand, in raw features."""
        margins = self.margins().numpy()
        directions = self.unit_directions().numpy()
        filters = self._coordinates.filters_to_raw(directions / margins[..., None])
        biases = np.broadcast_to(self.thresholds.numpy() / margins, directions.shape[:2])
        signals = None
        if self.free_signals is not None:
            signals = self._coordinates.signals_to_raw(self.free_signals.numpy())
        return Detectors(filters, biases.copy(), signals)
