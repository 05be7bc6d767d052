"""`masked_importance`: which concepts matter when many are missing at once."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeAlias, runtime_checkable

import numpy as np
import tensorflow as tf
from matplotlib.figure import Figure
from numpy.typing import ArrayLike

from xplique_dirpairs.core.batching import slices
from xplique_dirpairs.core.progress import KeepOnInterrupt, progress
from xplique_dirpairs.core.tables import Cell, Table
from xplique_dirpairs.core.types import Array
from xplique_dirpairs.core.validation import (
    as_inputs,
    check_choice,
    check_fraction,
    check_integer,
    check_one_for_each,
    check_random_state,
)
from xplique_dirpairs.extractors.concept_layer import ConceptLayer
from xplique_dirpairs.metrics.masked import (
    ESTIMATORS,
    random_sets,
    removal_area,
    set_importance,
)
from xplique_dirpairs.models.graph import layer_output, node_of
from xplique_dirpairs.models.switches import check_same_outputs, switched_copy
from xplique_dirpairs.plots.video import plot_removal
from xplique_dirpairs.sensitivity.performances import Performance

#: A concept: its layer, head (−1: the layer has none), and number there.
Unit: TypeAlias = tuple[int, int, int]

ZERO, MEAN, MINUS_INFINITY, SUPPRESS = "zero", "mean", "minus_infinity", "suppress"
REMOVALS = (ZERO, MEAN, MINUS_INFINITY, SUPPRESS)
ORDERS = ("most to least", "least to most", "random")


@runtime_checkable
class Maskable(Protocol):
    """Concepts of one network that can be removed in any combination."""

    @property
    def units(self) -> tuple[Unit, ...]:
        """Layer, head and number of each of Q concepts."""
        ...

    @property
    def unit_names(self) -> tuple[str, ...]:
        """Name of each of Q concepts."""
        ...

    def runner(self, inputs: Array, removal: str, batch_size: int) -> Callable[[Array], Array]:
        """Return a function from removed concepts (Q,) bool to the outputs for all inputs."""
        ...


@dataclass(frozen=True, eq=False)
class MaskedImportance:
    """How much each of Q concepts adds to a network's performance. `masked_importance` returns it.

    Attributes
    ----------
    importance : ndarray of shape (Q,)
        Importance of each concept, in units of the performance (with the estimators "ridge" and
        "difference").
    standard_error : ndarray of shape (Q,)
        Standard error over the draw of the sets.
    units : tuple of Q (int, int, int)
        Layer, head (−1: none) and number of each concept.
    unit_names : tuple of Q str
    kept : ndarray of shape (K, Q), bool
        Which concepts each set keeps.
    performances : ndarray of shape (K, N)
        Performance of each set on each input.
    intact : ndarray of shape (N,)
        Performance with all concepts.
    estimator, removal : str
        What was used: "difference" instead of "ridge" if there are at most Q + 1 sets.
    interrupted : bool
        Whether Ctrl-C ended the evaluation of the sets: K is then the number of sets before it.
    """

    importance: Array
    standard_error: Array
    units: tuple[Unit, ...]
    unit_names: tuple[str, ...]
    kept: Array
    performances: Array
    intact: Array
    estimator: str
    removal: str
    interrupted: bool
    _evaluate: Callable[[Array], Array] | None = field(repr=False)

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_evaluate": None}  # it holds compiled functions of the network

    def __str__(self) -> str:
        order = np.argsort(-np.nan_to_num(self.importance), kind="stable")[:3]
        first = ", ".join(f"{self.unit_names[q]} {self.importance[q]:+.3g}" for q in order)
        sets = f"{len(self.kept)} sets{', interrupted' if self.interrupted else ''}"
        return (
            f"importance of {len(self.units)} concepts from {sets} ({self.estimator}, removal "
            f"{self.removal}): {first}"
        )

    def by_layer(self) -> dict[int, float]:
        """Return the sum of the importances of the concepts of each layer."""
        return self._sums(lambda unit: unit[0])

    def by_head(self) -> dict[tuple[int, int], float]:
        """Return the sum of the importances of the concepts of each (layer, head)."""
        return self._sums(lambda unit: unit[:2])

    def _sums(self, key: Callable[[Unit], Any]) -> dict[Any, float]:
        sums: dict[Any, float] = {}
        for unit, value in zip(self.units, self.importance, strict=True):
            sums[key(unit)] = sums.get(key(unit), 0.0) + float(value)
        return sums

    def curves(self, step: int | None = None, random_state: int | None = 0) -> RemovalCurves:
        """Remove concepts one step after the other, and measure the performance.

        Parameters
        ----------
        step : int, optional
            Number of concepts that are removed at a time. None: a twentieth of all. (The published
            curves have 100.)
        random_state : int or None, default=0
            Seed of the random order. None draws a seed.

        Returns
        -------
        curves : RemovalCurves
            A faithful importance has a small area from most to least important, a large one from
            least to most, and random in between.

        Raises
        ------
        ValueError
            If an argument is out of range, or the importance comes from a pickle or a copy, which
            do not hold the network.
        """
        if self._evaluate is None:
            raise ValueError(
                "curves need the network, which pickles and copies of an importance do not hold: "
                "take them from the result of masked_importance itself"
            )
        count = len(self.units)
        step = max(1, count // 20) if step is None else step
        check_integer("step", step)
        descending = np.argsort(-np.nan_to_num(self.importance), kind="stable")
        orders = (
            descending, descending[::-1], check_random_state(random_state).permutation(count)
        )  # fmt: skip
        numbers = np.unique([*range(0, count, step), count])
        # The ends of all curves are the same: nothing removed, and everything.
        first, last = self.intact.mean(), self._evaluate(np.ones(count, bool)).mean()
        curves = {}
        for name, order in zip(ORDERS, orders, strict=True):
            values = []
            for number in numbers[1:-1]:
                removed = np.zeros(count, bool)
                removed[order[:number]] = True
                values.append(self._evaluate(removed).mean())
            curves[name] = np.array([first, *values, last], np.float64)
        return RemovalCurves(numbers / count, curves)

    def table(self, most: int = 20) -> Table:
        """Return a table of the most important concepts.

        Parameters
        ----------
        most : int, default=20
            Largest number of rows.

        Returns
        -------
        table : Table
        """
        order = np.argsort(-np.nan_to_num(self.importance), kind="stable")[:most]
        rows = []
        for q in order:
            layer, head, _ = self.units[q]
            rows.append(
                [
                    Cell(self.unit_names[q]),
                    Cell(str(layer)),
                    Cell("–" if head < 0 else str(head)),
                    Cell(
                        f"{self.importance[q]:+.3g} ± {self.standard_error[q]:.2g}",
                        numbers=(float(self.importance[q]), float(self.standard_error[q])),
                    ),
                ]
            )
        caption = f"{self}; ± standard error over the draw of the sets."
        return Table(("concept", "layer", "head", "importance"), rows, (caption,))


@dataclass(frozen=True, eq=False)
class RemovalCurves:
    """Performance as concepts are removed in three orders.

    Attributes
    ----------
    removed : ndarray of shape (n,)
        Share of the concepts that are removed, from 0 to 1.
    performance : dict of str to ndarray of shape (n,)
        Mean performance for the orders "most to least", "least to most" and "random".
    """

    removed: Array
    performance: Mapping[str, Array]

    @property
    def areas(self) -> dict[str, float]:
        """Area under each curve."""
        return {name: removal_area(self.removed, v) for name, v in self.performance.items()}

    def plot(self, title: str = "") -> Figure:
        """Plot the three curves.

        Parameters
        ----------
        title : str, default=""
            Title of the figure. Empty: a general one.

        Returns
        -------
        figure : matplotlib.figure.Figure
            The figure, which is not shown.
        """
        return plot_removal(
            title or "Performance as concepts are removed", self.removed, self.performance,
            self.areas,
        )  # fmt: skip


def masked_importance(
    concepts: Any,
    inputs: ArrayLike,
    performance: Performance,
    *,
    subsets: int = 4000,
    fraction: float = 0.5,
    estimator: str = "ridge",
    removal: str = "zero",
    batch_size: int = 16,
    random_state: int | None = 0,
    verbose: int = 0,
) -> MaskedImportance:
    """Measure how much concepts add to a network's performance, by removing many at once.

    A network makes up for any one missing concept. Each of many random sets therefore removes a
    share of *all* concepts of all layers and heads together: Kowal et al. (VTCD, CVPR 2024).

    Parameters
    ----------
    concepts : VideoConcepts, ConceptLayer, fitted extractor, or a sequence of the latter two
        Concepts of a video transformer's heads from `discover_video_concepts`; or anything that
        `ConceptLayer.of` accepts as its only argument, or several of them, at different layers of
        one network, of images or of videos.
    inputs : array-like of shape (N, height, width, C), or (N, T, height, width, C)
        N images or videos, preprocessed for the network.
    performance : callable
        Function of outputs (N, …) and inputs (N, …) to one number for each input, (N,); such as
        `probability_of`, `is_correct` or `agreement` give.
    subsets : int, default=4000
        Number of random sets, K. The whole network runs once for each set and input.
    fraction : float, default=0.5
        Share of the concepts that a set removes, in (0, 1).
    estimator : {"ridge", "difference", "paper", "code"}, default="ridge"
        How importance is estimated: see `metrics.masked.set_importance`. With K ≤ Q + 1 sets of Q
        concepts, "difference" replaces "ridge".
    removal : {"zero", "mean", "minus_infinity", "suppress"}, default="zero"
        What removing a concept means. In a head: its keys (or queries, or values) are set to 0
        inside its mask, as published, which leaves a logit of 0; to their mean; to a logit of −∞,
        so that the token is not attended to; or moved along the signal vectors of direction pairs.
        At a layer: coefficients are set to 0; to their mean; or direction pairs are suppressed.
    batch_size : int, default=16
        Number of inputs in a batch at layers. For heads, that of their `VideoProbe` counts.
    random_state : int or None, default=0
        Seed of the sets. None draws a seed.
    verbose : int, default=0
        A progress bar is shown unless this is 0.

    Returns
    -------
    result : MaskedImportance
        After Ctrl-C it is that of the sets evaluated so far, and ``interrupted`` is True;
        KeyboardInterrupt is raised if there are fewer than two.

    Raises
    ------
    TypeError
        If ``concepts`` are none of these objects, or ``suppress`` is asked of concepts that are no
        direction pairs.
    ValueError
        If there are fewer than 2 concepts; if several layers are not of one network; if inputs do
        not fit; if the performance is not one finite number for each input; or if an argument is
        out of range.
    NotFittedError
        If an extractor is not fitted.
    """
    check_choice("estimator", estimator, ESTIMATORS)
    check_choice("removal", removal, REMOVALS)
    check_integer("subsets", subsets, 2)
    check_integer("batch_size", batch_size)
    check_fraction("fraction", fraction)
    subject = concepts if isinstance(concepts, Maskable) else LayersOfConcepts.of(concepts)
    count = len(subject.units)
    if count < 2:
        raise ValueError(f"at least 2 concepts are needed to remove sets of them, not {count}")
    inputs = as_inputs(inputs)
    kept = random_sets(count, subsets, fraction, check_random_state(random_state))
    run = subject.runner(inputs, removal, batch_size)

    def evaluate(removed: Array) -> Array:
        values = performance(run(removed), inputs)
        return check_one_for_each("performance", values, len(inputs), "inputs")

    intact = evaluate(np.zeros(count, bool))
    rows: list[Array] = []
    with KeepOnInterrupt(lambda: len(rows) > 1) as sets:
        for row in progress(kept, subsets, "masked importance", verbose, "set"):
            rows.append(evaluate(~row))
    performances, kept = np.stack(rows), kept[: len(rows)]
    importance, error, used = set_importance(
        performances.mean(axis=1), kept, float(intact.mean()), estimator
    )
    return MaskedImportance(
        importance, error, subject.units, subject.unit_names, kept, performances, intact, used,
        removal, sets.interrupted, evaluate,
    )  # fmt: skip


# ------------------------------------------------------------ concepts at layers


@dataclass(frozen=True, eq=False)
class LayersOfConcepts:
    """Concepts at one or several layers of a network, which are removed by their coefficients."""

    layers: tuple[ConceptLayer, ...]

    @classmethod
    def of(cls, concepts: Any) -> LayersOfConcepts:
        """Return the concepts of one fitted extractor, or of a list of them."""
        given = concepts if isinstance(concepts, (list, tuple)) else [concepts]
        layers = tuple(ConceptLayer.of(one) for one in given)
        if any(layer.model is not layers[0].model for layer in layers):
            raise ValueError(
                "all concepts must be of one network: build their extractors on split_model of "
                "the same model"
            )
        names = [layer.layer for layer in layers]
        if len(set(names)) < len(names):
            raise ValueError(f"each layer must have its concepts once, but layers are {names}")
        return cls(layers)

    @property
    def units(self) -> tuple[Unit, ...]:
        """Layer, −1 and number of each concept."""
        return tuple(
            (k, -1, i) for k, own in enumerate(self.layers) for i in range(own.number_of_concepts)
        )

    @property
    def unit_names(self) -> tuple[str, ...]:
        """Name of each concept, with that of its layer if there are several."""
        several = len(self.layers) > 1
        return tuple(
            f"{own.layer}: {name}" if several else name
            for own in self.layers
            for name in own.concept_names
        )

    def runner(self, inputs: Array, removal: str, batch_size: int) -> Callable[[Array], Array]:
        """Return a function from removed concepts (Q,) to outputs for all inputs."""
        if removal == MINUS_INFINITY:
            raise ValueError(
                "removal 'minus_infinity' is for the heads of a transformer: at a layer, choose "
                "'zero', 'mean' or 'suppress'"
            )
        if removal == SUPPRESS:
            for own in self.layers:
                _ = own.direction_pairs  # raises a TypeError
        model = self.layers[0].model
        nodes = [node_of(layer_output(model, str(own.layer))).operation for own in self.layers]
        copied, slots = switched_copy(model, nodes)
        check_same_outputs(model, copied, np.asarray(inputs[:1], np.float32))
        levels = [
            _mean_coefficients(own, inputs, batch_size) if removal == MEAN else None
            for own in self.layers
        ]
        ends = np.cumsum([0, *(own.number_of_concepts for own in self.layers)])
        removed = np.zeros(int(ends[-1]), bool)

        def edit_of(k: int) -> Callable[[tf.Tensor], tf.Tensor]:
            own, level = self.layers[k], levels[k]

            def moved(x: Array) -> Array:
                chosen = np.flatnonzero(removed[ends[k] : ends[k + 1]])
                return _without(own, x, chosen, removal, level)

            def edit(x: tf.Tensor) -> tf.Tensor:
                changed = tf.numpy_function(moved, [tf.cast(x, tf.float32)], tf.float32)
                return tf.cast(tf.ensure_shape(changed, x.shape), x.dtype)

            return edit

        for k, slot in enumerate(slots):
            slot.edit = edit_of(k)
        compiled = tf.function(lambda x: copied(x, training=False), reduce_retracing=True)

        def run(chosen: Array) -> Array:
            removed[:] = chosen
            return outputs_in_batches(compiled, inputs, batch_size)

        return run


def outputs_in_batches(function: Any, inputs: Array, batch_size: int) -> Array:
    """Return the outputs of a compiled function for inputs, in batches."""
    parts = [
        np.asarray(function(tf.constant(np.asarray(inputs[part], np.float32))))
        for part in slices(len(inputs), batch_size)
    ]
    return np.concatenate(parts)


def _without(
    own: ConceptLayer, x: Array, chosen: Array, removal: str, level: Array | None
) -> Array:
    """Return features (n, *spatial, D) without the chosen concepts."""
    if not len(chosen):
        return x
    if removal == SUPPRESS:
        return np.asarray(own.direction_pairs.suppress(x, chosen.tolist()), np.float32)
    u = own.coefficients(x)[..., chosen]
    wanted = 0.0 if level is None else level[chosen]
    return np.asarray(x + (wanted - u) @ own.bank[chosen], np.float32)


def _mean_coefficients(own: ConceptLayer, inputs: Array, batch_size: int) -> Array:
    """Return the mean coefficient of each concept over inputs and positions, (I,)."""
    total, count = np.zeros(own.number_of_concepts), 0
    for part in slices(len(inputs), batch_size):
        u = own.coefficients(own.activations(inputs[part], batch_size))
        u = u.reshape(-1, u.shape[-1])
        total, count = total + u.sum(axis=0, dtype=np.float64), count + len(u)
    return total / max(count, 1)
