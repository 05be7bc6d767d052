"""The objective of a stage as a Keras model, whose variables are the detectors.

Several restarts are learned side by side along a leading axis R; they do not interact.

Everything is computed in float32, whatever Keras's dtype policy is: projections from bfloat16
factors have errors of 0.003 of their spread, which is about one logit for a detector of slope 300.
The head computes in the dtypes of its own layers.

Compiling a training step takes longer than many stages. Everything that does not change the graph
of a step is therefore a variable, so that one compiled objective serves all stages that have the
same graph (see `Objective.begin`).
"""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import tensorflow as tf

from xplique_dirpairs.core.types import Array
from xplique_dirpairs.data.devices import average, compiled_steps, own_part, replicas
from xplique_dirpairs.learning import losses
from xplique_dirpairs.learning.coordinates import Coordinates
from xplique_dirpairs.learning.features import Batches
from xplique_dirpairs.learning.recipe import NETWORK_LOSSES, SIGNAL_LOSSES, Stage, terms_of
from xplique_dirpairs.learning.signals import excess_covariance, joint_signals, positives_covariance
from xplique_dirpairs.learning.state import Detectors
from xplique_dirpairs.models.head import Head

#: Share of a running mean that one minibatch replaces.
_RENEWAL = 0.1
#: Share of a stage's steps during which the sharpness rises.
_RISE = 0.7
#: Share of the learning rate at which the cosine schedule ends.
_LAST_RATE = 0.02


class _Rate(keras.optimizers.schedules.LearningRateSchedule):
    """Learning rate that falls along a cosine to a share ``last`` of ``rate``, all variables."""

    def __init__(self) -> None:
        self.rate, self.steps, self.last = (
            keras.Variable(1.0, trainable=False, dtype="float32") for _ in range(3)
        )

    def __call__(self, step: tf.Tensor) -> tf.Tensor:
        done = tf.minimum(tf.cast(step, tf.float32), self.steps.value) / self.steps.value
        cosine = 0.5 * (1.0 + tf.cos(np.float32(np.pi) * done))
        return self.rate.value * ((1.0 - self.last.value) * cosine + self.last.value)

    def get_config(self) -> dict[str, Any]:
        """Return an empty configuration: Keras requires this method of every schedule."""
        return {}


class Objective(keras.Model):
    """The weighted losses and constraints of a stage, over detectors in the stage's coordinates.

    y = σ((w̄ᵀx̃ − t)/M), with unit directions w̄, thresholds t and margins M. A batch is a dict:
    ``"positions"`` are features in coordinates, (P, A); ``"maps"``, which only the losses that
    evaluate the network need, are raw features after `Head.pool`. Only losses that have a weight
    or a constraint in the stage are computed.

    Parameters
    ----------
    stage : Stage
    coordinates : Coordinates
    start : Detectors
        Initial detectors.
    gamma : float
        Exponent γ of the activity E_p[y^γ].
    head : Head or None
        The part of the network after the layer; None: losses that evaluate the network are left
        out.
    steps : int
        Number of steps of the whole stage, for the schedules of sharpness and learning rate.
    full_batch : bool
        Whether every step sees all positions. If not, running means replace means over a batch.
    network_every : int
        The losses that evaluate the network are computed only in every n-th step, with n times the
        gradient.
    seed : int
        Seed of the random κ.

    Raises
    ------
    ValueError
        If no loss is left to minimise without a head, or if signal vectors are free and ``start``
        has none.
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
        self._head, self._full_batch, self._network_every = head, full_batch, network_every
        self.terms = terms_of(stage, head)
        self._network_terms = tuple(name for name in self.terms if name in NETWORK_LOSSES)
        self.uses_network = bool(self._network_terms)
        self._weighted = tuple(name for name in self.terms if name in stage.weights)
        self._bounded = tuple(name for name in self.terms if name in stage.constraints)
        if not self._weighted:
            raise ValueError(
                f"stage {stage.name!r} has nothing to minimise without a head, because its losses "
                f"{sorted(stage.weights)} evaluate the network: give a head or other losses"
            )
        if stage.signals == "free" and start.signals is None:
            raise ValueError("free signal vectors need initial values: give start.signals")
        self._make_variables(stage, coordinates, start.filters.shape)
        self._run_steps: Any = None
        self.optimizer = keras.optimizers.Adam(self._rate)
        self.optimizer.build(self.trainable_variables)
        self.built = True
        self.begin(stage, coordinates, start, steps=steps, seed=seed)

    # ------------------------------------------------------------ variables

    def _make_variables(
        self, stage: Stage, coordinates: Coordinates, shape: tuple[int, ...]
    ) -> None:
        """Create all variables, zero, for initial filters of ``shape`` (R, I, D)."""
        restarts, concepts, channels = shape
        axes, shared = coordinates.axes, 1 if stage.shared else concepts
        self._orthonormal = stage.orthonormal and concepts <= axes

        def variable(name: str, *shape: int, trainable: bool = False) -> Any:
            if 0 in shape:  # TensorFlow crashes if several workers share an empty variable
                return None
            return self.add_weight(
                name=name, shape=shape, trainable=trainable, dtype="float32", initializer="zeros"
            )

        self.directions = variable("directions", restarts, concepts, axes, trainable=True)
        self.thresholds = variable("thresholds", restarts, shared, trainable=True)
        self.log_margins = self.free_signals = None
        if stage.sharpness is None:
            self.log_margins = variable("log_margins", restarts, shared, trainable=True)
        if stage.signals == "free":
            self.free_signals = variable("signals", restarts, concepts, axes, trainable=True)
        # Running means over minibatches, of E_p[y^γ] and for the signal vectors, and the step.
        self._activity = variable("activity", restarts, concepts)
        self._covariance = variable("covariance", restarts, concepts, axes)
        self._gains = variable("gains", restarts, concepts, concepts)
        self.step = variable("step")
        self._multipliers = variable("multipliers", restarts, len(self._bounded))
        self._penalty_weights = variable("penalty_weights", restarts, len(self._bounded))
        # Sums over an epoch of everything that is reported, (R, number of reported values).
        self._reported = (*self.terms, "objective")
        self._last_network = variable("last_network", len(self._network_terms), restarts)
        self._sums = variable("sums", restarts, len(self._reported))
        self._count = variable("count")
        self._seed = keras.random.SeedGenerator(0)
        self._changing = [*self.weights, self._seed.state]
        # Values that a stage sets and no step changes.
        self._forward = variable("forward", channels, axes)
        self._backward = variable("backward", axes, channels)
        self._mean = variable("mean", channels)
        self._settings = {
            name: variable(name) for name in ("first", "rise", "steps", "tau", "rho", "scale")
        }
        self._kappa = variable("kappa", 2)
        self._sharpest = variable("sharpest", restarts, concepts)
        self._loss_weights = variable("weights", len(self._weighted))
        self._bounds = variable("bounds", len(self._bounded))
        self._rate = _Rate()

    def begin(
        self, stage: Stage, coordinates: Coordinates, start: Detectors, *, steps: int, seed: int
    ) -> None:
        """Begin another stage that has the same graph; the parameters are those of the class."""
        self._stage, self._coordinates = stage, coordinates
        filters = coordinates.filters_from_raw(start.filters)
        lengths = np.linalg.norm(filters, axis=-1, keepdims=True)
        margins = 1.0 / lengths[..., 0]
        thresholds = start.centred_biases * margins
        if stage.shared:
            margins = np.exp(np.log(margins).mean(axis=-1, keepdims=True))
            thresholds = thresholds.mean(axis=-1, keepdims=True)
        for variable in (*self._changing, *self.optimizer.variables):
            variable.assign(tf.zeros_like(variable.value))
        self.directions.assign(filters / lengths)
        self.thresholds.assign(thresholds)
        if self.log_margins is not None:
            self.log_margins.assign(np.log(margins))
        if self.free_signals is not None and start.signals is not None:
            signals = coordinates.signals_from_raw(start.signals)
            # Only the direction counts, but Adam's steps are absolute: begin with unit length.
            self.free_signals.assign(signals / np.linalg.norm(signals, axis=-1, keepdims=True))
        if self._bounded:
            self._penalty_weights.assign(tf.ones_like(self._penalty_weights.value))
            self._bounds.assign([stage.constraints[name] for name in self._bounded])
        self.last_violation = np.full((len(filters), len(self._bounded)), np.inf)
        self._seed.state.assign(np.array([seed, 0]).astype(self._seed.state.dtype))
        self._forward.assign(coordinates.forward)
        self._backward.assign(coordinates.backward)
        self._mean.assign(coordinates.mean)
        first, last = stage.sharpness or (1.0, 1.0)
        settings = {
            "first": first,
            "rise": last / first,
            "steps": steps,
            "tau": stage.tau,
            "rho": stage.rho_of(filters.shape[1]),
            "scale": coordinates.scale,
        }
        for name, value in settings.items():
            self._settings[name].assign(value)
        self._kappa.assign(stage.kappa)
        self._sharpest.assign(
            np.full(filters.shape[:2], np.inf) if start.sharpest is None else start.sharpest
        )
        self._loss_weights.assign([stage.weights[name] for name in self._weighted])
        self._rate.rate.assign(stage.learning_rate)
        self._rate.steps.assign(steps)
        self._rate.last.assign(_LAST_RATE if stage.schedule == "cosine" else 1.0)

    def set_learning_rate(self, rate: float) -> None:
        """Set the learning rate of the steps that follow."""
        self._rate.rate.assign(rate)

    def state(self) -> dict[str, Array]:
        """Return everything that steps change, as a dict of arrays, for `set_state`."""
        changing = [*self._changing, *self.optimizer.variables]
        arrays = {f"variable_{k}": np.asarray(v.numpy()) for k, v in enumerate(changing)}
        return {**arrays, "violation": self.last_violation}

    def set_state(self, arrays: dict[str, Array]) -> None:
        """Restore a `state` of this objective, or of another objective of the same stage."""
        for k, variable in enumerate([*self._changing, *self.optimizer.variables]):
            variable.assign(arrays[f"variable_{k}"])
        self.last_violation = arrays["violation"]

    # ------------------------------------------------------------ the model

    def unit_directions(self) -> tf.Tensor:
        """Return w̄ (R, I, A), unit or orthonormal rows in the stage's coordinates."""
        rows = _value(self.directions)
        if not self._orthonormal:
            return tf.math.l2_normalize(rows, axis=-1)
        q, r = tf.linalg.qr(tf.linalg.matrix_transpose(rows))
        return tf.linalg.matrix_transpose(q * tf.sign(tf.linalg.diag_part(r))[..., None, :])

    def margins(self) -> tf.Tensor:
        """Return the margins M at the present step, (R, I), or (R, 1) if they are shared."""
        if self.log_margins is not None:
            return tf.exp(_value(self.log_margins))
        settings = self._settings
        done = tf.minimum(_value(self.step) / (_RISE * _value(settings["steps"])), 1.0)
        sharpness = _value(settings["first"]) * _value(settings["rise"]) ** done
        return 1.0 / tf.minimum(sharpness, _value(self._sharpest))

    def _signals(
        self, x: tf.Tensor, logits: tf.Tensor, directions: tf.Tensor, margins: tf.Tensor
    ) -> tf.Tensor:
        """Return signal vectors in coordinates, (R, I, A), not normalised.

        ``x`` is (P, A), ``logits`` (R, P, I), ``directions`` (R, I, A) and ``margins`` (R, I) or
        (R, 1).
        """
        if self._stage.signals == "free":
            return _value(self.free_signals)
        if self._stage.signals == "joint":
            # The excess is M·logits = w̄ᵀx − t; M is factored out of the sums over positions.
            with_x = margins[..., None] * excess_covariance(x, logits, average)
            with_z = tf.matmul(with_x, directions, transpose_b=True)
            return joint_signals(
                self._running(self._covariance, with_x), self._running(self._gains, with_z)
            )
        positive = tf.stop_gradient(tf.cast(logits > 0, tf.float32))
        covariance = margins[..., None] * positives_covariance(x, logits, positive, average)
        return self._running(self._covariance, covariance)

    def _running(self, mean: keras.Variable, current: tf.Tensor) -> tf.Tensor:
        """Return the value of the running mean, with the gradient of the current batch."""
        if self._full_batch:
            return current
        renewal = tf.where(_value(self.step) < 1.0, 1.0, _RENEWAL)
        mean.assign((1.0 - renewal) * mean + renewal * tf.stop_gradient(current))
        return current + tf.stop_gradient(_value(mean) - current)

    def losses_of(self, batch: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        """Compute the losses of the stage on a batch, name → (R,); see the class for batches."""
        x = batch["positions"]
        directions, margins = self.unit_directions(), self.margins()
        scaled = directions / margins[..., None]
        biases = _value(self.thresholds) / margins
        logits = tf.matmul(x, scaled, transpose_b=True) - biases[:, None, :]
        values = self._detector_losses(losses.log_detections(logits), scaled)
        raw_signals = None
        if SIGNAL_LOSSES & set(self.terms):
            signals = self._signals(x, logits, directions, margins)
            raw_signals = tf.math.l2_normalize(tf.matmul(signals, _value(self._backward)), axis=-1)
        if "fso" in self.terms:
            filters = tf.matmul(directions, _value(self._forward), transpose_b=True)
            unit = tf.math.l2_normalize(filters, axis=-1)
            cosines = tf.matmul(unit, raw_signals, transpose_b=True)
            values["fso"] = losses.filter_signal_orthogonality(cosines)
        if self.uses_network:
            values.update(self._sometimes(batch["maps"], directions, raw_signals))
        return {name: values[name] for name in self.terms}

    def _detector_losses(self, log_y: tf.Tensor, filters: tf.Tensor) -> dict[str, tf.Tensor]:
        """Compute the losses of log y (R, P, I) and of filters (R, I, A), name → (R,)."""
        terms, values = set(self.terms), {}
        means: list[tf.Tensor] = []
        if terms & {"s", "ma"}:
            positions = losses.position_losses(log_y, self._stage.per_position)
            means += positions["s"], positions["ma"]
        if terms & {"ic", "eac"}:
            means.append(losses.activity(log_y, self._gamma))
        if means:
            means = list(average(tuple(means)))
        if terms & {"ic", "eac"}:
            activities = self._running(self._activity, means.pop())
            values["ic"] = losses.inactive_classifier(activities, _value(self._settings["tau"]))
            if "eac" in terms:
                rho = _value(self._settings["rho"])
                values["eac"] = losses.excessively_active_classifier(activities, rho)
        if means:
            values["s"], values["ma"] = means
        if "mm" in terms:
            values["mm"] = losses.maximum_margin(filters) * _value(self._settings["scale"])
        if "sb" in terms:
            values["sb"] = losses.sparsity_bound(log_y, average)
        return values

    def _sometimes(
        self, features: tf.Tensor, directions: tf.Tensor, signals: tf.Tensor | None
    ) -> dict[str, tf.Tensor]:
        """Compute `_network_losses` in every n-th step; return the last values in between."""
        every = self._network_every
        if every == 1:
            current = average(self._network_losses(features, directions, signals))
            return dict(zip(self._network_terms, current, strict=True))
        last = _value(self._last_network)

        def compute() -> tf.Tensor:
            current = tf.stack(self._network_losses(features, directions, signals))
            constant = tf.stop_gradient(current)
            return constant + every * (current - constant)

        due = tf.equal(tf.cast(_value(self.step), tf.int32) % every, 0)
        values = average(tf.cond(due, compute, lambda: last))
        self._last_network.assign(tf.stop_gradient(values))
        return dict(zip(self._network_terms, tf.unstack(values), strict=True))

    def _network_losses(
        self, features: tf.Tensor, directions: tf.Tensor, signals: tf.Tensor | None
    ) -> list[tf.Tensor]:
        """Compute −E[H(f⁺(x − κ dx))], (R,), for every loss that evaluates the network.

        ``features`` are maps (n, ..., D), ``directions`` (R, I, A) and ``signals`` (R, I, D).
        """
        head, restarts, channels = self._head, directions.shape[0], self._forward.shape[0]
        assert head is not None, "network terms are left out without a head"
        filters = tf.matmul(directions, _value(self._forward), transpose_b=True)
        thresholds = _value(self.thresholds) + tf.zeros_like(filters[..., 0])
        shape = tf.shape(features)
        images = shape[0]
        x = tf.reshape(features, (-1, channels))
        centred = (x - _value(self._mean))[None]
        low, high = tf.unstack(_value(self._kappa))
        kappa = keras.random.uniform((images * replicas(),), low, high, seed=self._seed)
        kappa = tf.reshape(own_part(kappa), tf.concat([[images], tf.ones_like(shape[1:])], axis=0))
        moves = {
            "uur": lambda: losses.unconstrained_displacement(centred, filters, thresholds),
            "cur": lambda: losses.constrained_displacement(centred, filters, thresholds, signals),
            "fired": lambda: losses.fired_displacement(centred, filters, thresholds),
        }
        values = []
        for name in self._network_terms:
            dx = tf.reshape(moves[name](), tf.concat([[restarts], shape], axis=0))
            moved = tf.reshape(
                features - kappa * dx, tf.concat([[restarts * images], shape[1:]], axis=0)
            )
            moved.set_shape([None, *features.shape[1:]])
            entropy = tf.reshape(head.entropy(moved), (restarts, -1))
            values.append(-tf.reduce_mean(entropy, axis=-1))
        return values

    def objective_of(self, values: dict[str, tf.Tensor]) -> tf.Tensor:
        """Return the weighted sum of the losses plus the penalty of the constraints, (R,)."""
        weights = tf.unstack(_value(self._loss_weights))
        total = tf.add_n([w * values[n] for w, n in zip(weights, self._weighted, strict=True)])
        if self._bounded:
            g = tf.stack([values[name] for name in self._bounded], axis=-1) - _value(self._bounds)
            total += losses.penalty(g, _value(self._multipliers), _value(self._penalty_weights))
        return total

    # ------------------------------------------------------------ steps and epochs

    def train_step(self, batch: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        """Take one step on a batch.

        The objectives of the restarts are summed, so that each learns as if it were alone. Every
        replica computes the objective of the whole batch, and the optimizer sums the gradients of
        the replicas.
        """
        with tf.GradientTape() as tape:
            values = self.losses_of(batch)
            objective = self.objective_of(values)
            loss = tf.reduce_sum(objective) / replicas()
        variables = self.trainable_variables
        gradients = tape.gradient(loss, [v.value for v in variables])
        self.optimizer.apply(gradients, variables)
        self.step.assign_add(1.0)
        report = tf.stack([*(values[name] for name in self.terms), objective], axis=-1)
        self._sums.assign_add(report)
        self._count.assign_add(1.0)
        return {}

    def run_epoch(self, batches: dict[str, Batches], steps: int) -> None:
        """Take steps on the next batches; `reported` then returns the means over these steps."""
        self._sums.assign(tf.zeros_like(self._sums.value))
        self._count.assign(0.0)
        while steps:
            taken = {"positions": batches["positions"].take(steps)}
            count = len(taken["positions"][1])
            taken |= {name: batches[name].take(count) for name in batches if name not in taken}
            if self._run_steps is None:
                self._run_steps = compiled_steps(self._own_step, taken)
            self._run_steps(taken)
            steps -= count

    def _own_step(self, batch: dict[str, tuple[tf.Tensor, tf.Tensor]]) -> None:
        """Take one step on this replica's part of a batch, given as rows and indices of rows."""
        parts = {name: tf.gather(rows, own_part(places)) for name, (rows, places) in batch.items()}
        if self._full_batch:
            parts["positions"] = own_part(batch["positions"][0])
        self.train_step(parts)

    def reported(self) -> dict[str, Array]:
        """Return the means of every loss and of the objective over the epoch, name → (R,)."""
        means = self._sums.numpy() / np.maximum(self._count.numpy(), 1.0)
        return {name: means[:, k] for k, name in enumerate(self._reported)}

    def finite_restarts(self) -> Array:
        """Return whether each restart's objective and variables are finite, (R,)."""
        finite = np.isfinite(self.reported()["objective"])
        for variable in self.trainable_variables:
            values = variable.numpy()
            finite &= np.isfinite(values).all(axis=tuple(range(1, values.ndim)))
        return finite

    # ------------------------------------------------------------ constraints

    def violations(self) -> dict[str, Array]:
        """Return by how much the mean over the epoch exceeds each bound, or 0, name → (R,)."""
        reported = self.reported()
        return {
            name: np.maximum(reported[name] - bound, 0.0)
            for name, bound in self._stage.constraints.items()
            if name in reported
        }

    def update_multipliers(self) -> None:
        """Make one dual update from the means of the constrained losses over the epoch."""
        if not self._bounded:
            return
        reported, bounds = self.reported(), self._stage.constraints
        g = np.stack([reported[name] - bounds[name] for name in self._bounded], axis=-1)
        multipliers, weights = losses.dual_update(
            g, self.last_violation, self._multipliers.numpy(), self._penalty_weights.numpy()
        )
        self._multipliers.assign(multipliers)
        self._penalty_weights.assign(weights)
        self.last_violation = g

    # ------------------------------------------------------------ result

    def detectors(self) -> Detectors:
        """Return the present detectors in raw features."""
        margins = self.margins().numpy()
        directions = self.unit_directions().numpy()
        filters = self._coordinates.filters_to_raw(directions / margins[..., None])
        biases = np.broadcast_to(self.thresholds.numpy() / margins, directions.shape[:2])
        signals = None
        if self.free_signals is not None:
            signals = self._coordinates.signals_to_raw(self.free_signals.numpy())
        return Detectors(filters, biases.copy(), signals)


def _value(variable: Any) -> tf.Tensor:
    """Return the value of a variable as a tensor, of the variable's shape."""
    return tf.convert_to_tensor(variable)
