"""A model that no longer uses a concept: ordinary Keras layers behind the layer under study.

Three forms of what is put there, C being the concepts to suppress (method section 7):

    x' = clip(x − B_C ReLU(W_Cᵀx − b_C))                    off="undecided": onto the hyperplanes
    x' = clip(x − B_C min(ReLU(W_Cᵀx − m_C), s ⊙ ReLU(W_Cᵀx − b_C)))      off="absent" [ours]
    x' = clip(x − Σ_C k σ(w_cᵀx − b_c) ŝ_c)                 k: the paper's

The first two need no k, and leave positions where no concept of C is detected as they are. With
s = 1 + b − m the second reaches the absent level m one margin beyond the hyperplane: on it, the
evidence that a detector has is gone, where at the hyperplane half of it may be left. ``clip`` is to
the layer's own range.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from numbers import Real
from typing import Any, get_args

import keras
import numpy as np
from numpy.typing import ArrayLike, NDArray

from xplique_dirpairs.core.validation import check_choice, check_concepts, check_images
from xplique_dirpairs.data.activations import outputs_of
from xplique_dirpairs.interventions.correction_report import probabilities_of
from xplique_dirpairs.interventions.layer_range import Limits, check_limits, layer_limits
from xplique_dirpairs.models.graph import check_keras_model, layer_output, node_of
from xplique_dirpairs.pairs import DirectionPairs, Off

#: Strengths that `choose_k` tries by default, in units of the features' RMS deviation along the
#: concept's absence and presence: see there.
SHARES = (0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 5.0, 10.0, 30.0)

#: Validation data: images, and the class of each.
Validation = tuple[ArrayLike, ArrayLike]


def correct(
    model: keras.Model,
    layer: str | int | keras.layers.Layer,
    pairs: DirectionPairs,
    concepts: int | Sequence[int],
    *,
    off: Off = "undecided",
    k: float | None = None,
    validation: Validation | None = None,
    limits: Limits | None = None,
) -> keras.Model:
    """The same model with concepts suppressed wherever they are detected; nothing is trained.

    Every consumer of the layer gets the corrected features. The model is rebuilt from its layers'
    configurations and **copies** of their weights: the original stays as it is. What is added are
    stock Keras layers, so the result is saved, loaded (without this package) and converted as any
    other; it is not compiled.

    Parameters
    ----------
    model
        A functional or sequential model that is built.
    layer
        Its name, index, or the layer itself; its features end in the D channels of ``pairs``, and
        may have any rank.
    pairs
        As learned at that layer.
    concepts
        Indices of the concepts to suppress; one given twice counts once.
    off
        Where detected concepts are moved to: "undecided", their hyperplanes; "absent", the level
        that they have where they are not detected: for a shortcut that is to have no say any more.
    k
        Use the paper's formula, with this k > 0, in the features' units.
    validation : (images, labels)
        Use the paper's formula, with the k that `choose_k` finds on them. They should hold images
        that the shortcut misleads: on others nothing is to be gained.
    limits : (lowest, highest)
        The layer's range; None: read off its activation (ReLU, ReLU6, sigmoid, tanh, ...; others
        have no end). To take what was measured: ``limits=(x.min(), x.max())``.

    Returns
    -------
    corrected
        The new layer whose output is the corrected features is named ``"<layer>_corrected"``.

    Raises
    ------
    TypeError, ValueError
        If the model is not such a model, has no such layer or the layer is its output; if channels
        or concepts do not fit; if ``off``, ``k``, ``validation`` or ``limits`` are not as said.
    """
    target = _layer_to_correct(model, layer, pairs)
    chosen = _chosen(pairs, concepts)
    check_choice("off", off, get_args(Off))
    bounds = layer_limits(target) if limits is None else check_limits(limits)
    if k is not None and validation is not None:
        raise ValueError("give k, or validation images to choose it on, not both")
    if off == "absent" and (k is not None or validation is not None):
        raise ValueError("off='absent' has no k: leave out k and validation, or off")
    if validation is not None:
        if not isinstance(validation, (tuple, list)) or len(validation) != 2:
            raise ValueError("validation must be (images, labels)")
        k = choose_k(model, layer, pairs, chosen, *validation, limits=limits)
    if k is not None:
        weights = _scaled(pairs, chosen, _checked_k(k))
    elif off == "absent":
        weights = _to_absent(pairs, chosen)
    else:
        weights = _to_hyperplanes(pairs, chosen)
    return _with_inserted(model, target, lambda x, name: _suppressed(x, name, weights, bounds))


def choose_k(
    model: keras.Model,
    layer: str | int | keras.layers.Layer,
    pairs: DirectionPairs,
    concepts: int | Sequence[int],
    images: ArrayLike,
    labels: ArrayLike,
    *,
    candidates: Sequence[float] | None = None,
    limits: Limits | None = None,
    batch_size: int = 64,
) -> float:
    """k of the paper's formula that is right most often on validation images; ties: the smallest.

    Parameters
    ----------
    model, layer, pairs, concepts, limits
        As of `correct`.
    images : (n, ...)
    labels : (n,) int
        Of a model of one output 0 (no) and 1 (yes).
    candidates
        None: `SHARES` of how far, on average, positions where the concept is detected lie from its
        absent level along its signal vector.

    Raises
    ------
    TypeError, ValueError
        As `correct`; if labels do not fit; if no concept is detected in any image, and no
        candidates are given.
    """
    target = _layer_to_correct(model, layer, pairs)
    chosen = _chosen(pairs, concepts)
    images = check_images(images)
    labels = _checked_labels(labels, len(images), model)
    if candidates is None:
        first = keras.Model(_one_or_all(model.inputs), target)
        distance = _distance(pairs, chosen, first, images, batch_size)
        candidates = [distance * share for share in SHARES]
    best, right = None, -1.0
    corrected = correct(model, layer, pairs, chosen, k=1.0, limits=limits)
    step = next(
        new
        for new in corrected.layers
        if new.name.endswith("_step") and not any(new.name == old.name for old in model.layers)
    )
    for k in sorted(_checked_k(k) for k in candidates):
        step.set_weights([np.float32(k) * pairs.signals[chosen]])  # compiled once for all k
        predicted = probabilities_of(corrected, images, batch_size).argmax(axis=1)
        share = float(np.mean(predicted == labels))
        if share > right:
            best, right = k, share
    if best is None:
        raise ValueError("candidates are empty: give at least one k")
    return best


def _distance(
    pairs: DirectionPairs, chosen: list[int], first: keras.Model, images: NDArray, batch: int
) -> float:
    """Mean of (z − m) / wᵀŝ over detections of the concepts: their usual signal."""
    total, count = 0.0, 0
    gain = np.einsum("id,id->i", pairs.filters, pairs.signals)[chosen]
    for start in range(0, len(images), batch):
        x = outputs_of(first, images[start : start + batch], batch)
        z = pairs.project(x)[..., chosen]
        on = z > pairs.biases[chosen]
        total += float((on * np.abs((z - pairs.absent_levels[chosen]) / gain)).sum())
        count += int(on.sum())
    if count == 0:
        raise ValueError(
            f"concepts {chosen} are detected in none of the {len(images)} validation images: "
            "give images that hold them, or candidates"
        )
    return total / count


# ------------------------------------------------------------------------------------ weights


class _Weights:
    """Of the layers to insert: u(x) from readings, and the rows that u is taken along.

    Attributes
    ----------
    readings
        (filters (C, D), biases (C,), activation): u is the least of them.
    rows : (C, D)
        What u is multiplied with, and taken away.
    """

    def __init__(self, readings: list[tuple[NDArray, NDArray, str]], rows: NDArray):
        self.readings = readings
        self.rows = rows


def _to_hyperplanes(pairs: DirectionPairs, chosen: list[int]) -> _Weights:
    filters, biases = pairs.filters[chosen], pairs.biases[chosen]
    return _Weights([(filters, biases, "relu")], _subset(pairs, chosen).bank())


def _to_absent(pairs: DirectionPairs, chosen: list[int]) -> _Weights:
    filters, biases = pairs.filters[chosen], pairs.biases[chosen]
    # a level above the hyperplane would be no suppression
    levels = np.minimum(pairs.absent_levels[chosen], biases)
    slopes = 1.0 + biases - levels
    readings = [
        (filters, levels, "relu"),
        (slopes[:, None] * filters, slopes * biases, "relu"),
    ]
    return _Weights(readings, _subset(pairs, chosen).bank())


def _scaled(pairs: DirectionPairs, chosen: list[int], k: float) -> _Weights:
    filters, biases = pairs.filters[chosen], pairs.biases[chosen]
    return _Weights([(filters, biases, "sigmoid")], k * pairs.signals[chosen])


def _subset(pairs: DirectionPairs, chosen: list[int]) -> DirectionPairs:
    """The pairs of these concepts alone: B_C moves their projections without one another."""
    return DirectionPairs(
        pairs.filters[chosen],
        pairs.biases[chosen],
        pairs.signals[chosen],
        pairs.mean,
        pairs.absent_levels[chosen],
    )


# ------------------------------------------------------------------------------------ layers


def _suppressed(x: Any, name: str, weights: _Weights, limits: Limits) -> Any:
    """The layers: clip(x − u rows). In float32, whatever the model computes in."""
    layers = keras.layers
    readings = []
    for number, (filters, biases, activation) in enumerate(weights.readings):
        dense = layers.Dense(
            len(biases), activation=activation, dtype="float32", name=f"{name}_read_{number}"
        )
        readings.append(_called(dense, x, [filters.T, -biases]))
    u = readings[0]
    if len(readings) > 1:
        u = layers.Minimum(dtype="float32", name=f"{name}_least")(readings)
    step = layers.Dense(weights.rows.shape[1], use_bias=False, dtype="float32", name=f"{name}_step")
    moved = layers.Subtract(dtype="float32", name=f"{name}_subtract")(
        [x, _called(step, u, [weights.rows])]
    )
    clipped = _clipped(moved, name, limits)
    # the name of the result does not depend on the range; and half precision goes on as such
    return layers.Activation("linear", dtype=str(x.dtype), name=f"{name}_corrected")(clipped)


def _called(dense: keras.layers.Dense, x: Any, values: list[NDArray]) -> Any:
    output = dense(x)
    dense.set_weights(values)
    return output


def _clipped(x: Any, name: str, limits: Limits) -> Any:
    low, high = limits
    layers = keras.layers

    def shifted(values: Any, scale: float, offset: float, step: str) -> Any:
        return layers.Rescaling(scale, offset, dtype="float32", name=f"{name}_{step}")(values)

    if low is None:
        if high is None:
            return x
        # high − ReLU(high − x)
        below = layers.ReLU(dtype="float32", name=f"{name}_clip")(shifted(x, -1.0, high, "down"))
        return shifted(below, -1.0, high, "up")
    reach = None if high is None else high - low
    clip = layers.ReLU(max_value=reach, dtype="float32", name=f"{name}_clip")
    if low == 0.0:
        return clip(x)
    return shifted(clip(shifted(x, 1.0, -low, "down")), 1.0, low, "up")


# ------------------------------------------------------------------------------------ graph


def _with_inserted(model: keras.Model, target: Any, insert: Callable) -> keras.Model:
    """A copy of the model in which what ``insert`` makes of a tensor goes where it went."""
    changed = node_of(target).operation
    taken = {layer.name for layer in model.layers}
    name = changed.name
    while any(other.startswith(f"{name}_") and other.endswith("_corrected") for other in taken):
        name += "_again"
    twins: dict[int, tuple[Any, Any]] = {}  # filled on the way through the graph

    def twin(layer: Any) -> Any:
        if isinstance(layer, keras.layers.InputLayer):
            return keras.layers.InputLayer.from_config(layer.get_config())
        # a function that is at work here already is no danger
        trusted = {"safe_mode": False} if isinstance(layer, keras.layers.Lambda) else {}
        copy = type(layer).from_config(layer.get_config(), **trusted)
        twins[id(layer)] = (layer, copy)
        return copy

    def call(layer: Any, *args: Any, **kwargs: Any) -> Any:
        output = layer(*args, **kwargs)
        _, twin_of_changed = twins.get(id(changed), (None, None))
        return insert(output, name) if layer is twin_of_changed else output

    functional = keras.Model(_one_or_all(model.inputs), _one_or_all(model.outputs), name=model.name)
    try:
        copied = keras.models.clone_model(functional, clone_function=twin, call_function=call)
        for original, copy in twins.values():
            if isinstance(original, keras.layers.Layer):
                copy.set_weights(original.get_weights())
    except (NotImplementedError, TypeError) as error:
        raise ValueError(
            "the model cannot be rebuilt: a layer of your own in it needs get_config and "
            f"from_config ({error})"
        ) from error
    return copied


def _one_or_all(tensors: list) -> Any:
    """A model of one input takes a tensor, not a list of one."""
    return tensors[0] if len(tensors) == 1 else tensors


def _layer_to_correct(model: Any, layer: Any, pairs: Any) -> Any:
    """The output of the layer, once everything fits."""
    check_keras_model("model", model)
    if not isinstance(pairs, DirectionPairs):
        hint = ": give its .pairs" if hasattr(pairs, "pairs") else ""
        raise TypeError(f"pairs must be DirectionPairs, not {type(pairs).__name__}{hint}")
    if not getattr(model, "inputs", None) or not getattr(model, "outputs", None):
        raise ValueError(
            "model must be a functional Keras model, or a sequential one that is built (call it on "
            "a batch); a subclassed one has no graph to insert layers into"
        )
    target = layer_output(model, layer)
    if any(target is output for output in model.outputs):
        raise ValueError("the layer is the model's output: choose one before the classes")
    if len(target.shape) < 2 or target.shape[-1] != pairs.channels:
        raise ValueError(
            f"the layer's features have shape {tuple(target.shape)}, but the pairs are of "
            f"{pairs.channels} channels, the last axis: were they learned at this layer?"
        )
    return target


def _chosen(pairs: DirectionPairs, concepts: int | Sequence[int]) -> list[int]:
    given = np.atleast_1d(concepts)
    if given.ndim != 1 or given.size == 0:
        raise ValueError(f"concepts must be one index or several, not {concepts!r}")
    return list(dict.fromkeys(check_concepts(given, pairs.number_of_concepts).tolist()))


def _checked_k(k: Any) -> float:
    if isinstance(k, bool) or not isinstance(k, Real) or not np.isfinite(float(k)) or k <= 0:
        raise ValueError(f"k must be a positive number, not {k!r}")
    return float(k)


def _checked_labels(labels: ArrayLike, count: int, model: keras.Model) -> NDArray:
    ids = np.asarray(labels)
    if ids.shape != (count,) or not np.issubdtype(ids.dtype, np.integer):
        raise ValueError(
            f"labels must be {count} class numbers, one for each image, not {ids.dtype} {ids.shape}"
        )
    outputs = model.outputs[0].shape[-1]
    classes = np.inf if outputs is None else max(outputs, 2)  # one output: no and yes
    if ids.min() < 0 or ids.max() >= classes:
        raise ValueError(f"labels must be from 0 to {classes - 1}, not up to {ids.max()}")
    return ids
