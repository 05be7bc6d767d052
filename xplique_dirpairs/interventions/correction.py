"""Build a model that no longer uses a concept, with stock Keras layers added to the studied layer.

The added layers suppress the set C of concepts by one of three formulas:

    x' = clip(x − B_C ReLU(W_Cᵀx − b_C))                    off="undecided": onto the hyperplanes
    x' = clip(x − B_C min(ReLU(W_Cᵀx − m_C), s ⊙ ReLU(W_Cᵀx − b_C)))      off="absent" [ours]
    x' = clip(x − Σ_C k σ(w_cᵀx − b_c) ŝ_c)                 k: the formula of the paper

The first two need no k and leave positions where no concept of C is detected as they are. The
second has slope s = 1 + b − m: features one margin or more beyond the hyperplane are moved to the
absent level m. There, the evidence for the concept is gone, whereas half of it may be left on the
hyperplane. ``clip`` limits features to the layer's own range.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
from numpy.typing import ArrayLike
from scipy.special import expit

from xplique_dirpairs.core.types import Array
from xplique_dirpairs.core.validation import (
    check_choice,
    check_concepts,
    check_images_fit,
    check_inputs,
    check_labels,
    check_limits,
    check_number,
)
from xplique_dirpairs.extractors.concept_layer import ConceptLayer
from xplique_dirpairs.models.copies import copied_model, reloaded_model
from xplique_dirpairs.models.graph import (
    Limits,
    inputs_and_outputs,
    layer_output,
    node_of,
    plain_model,
)
from xplique_dirpairs.pairs import DirectionPairs, Off

#: Strengths that `choose_k` tries by default, as shares of the mean distance from detected
#: positions to the absent level.
SHARES = (0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 5.0, 10.0, 30.0)


def correct(
    concepts: Any,
    indices: int | ArrayLike,
    *,
    off: Off = "undecided",
    k: float | None = None,
    validation: tuple[ArrayLike, ArrayLike] | None = None,
    limits: Limits | None = None,
    images: ArrayLike | None = None,
) -> keras.Model:
    """Return a copy of a classifier that suppresses concepts wherever they are detected.

    Nothing is trained. Layers are inserted after the layer of the concepts, and every layer that
    used its output receives the corrected features. The model is **copied** as saving and loading
    it does, so the original stays as it is, and before anything is suppressed the copy is compared
    with it, layer by layer, on noise and on images. Only stock Keras layers are added, so the
    result can be saved, loaded (without this package) and converted like any other model. Where
    the model takes or returns a list or a dict, so does the result. It is not compiled.

    Parameters
    ----------
    concepts : ConceptLayer or fitted extractor
        Anything that `ConceptLayer.of` accepts as its only argument. It must have direction pairs
        and the whole classifier: ``ConceptLayer.of(pairs, split_model(model, layer))``.
    indices : int or array-like of int
        Indices of the concepts to suppress. Their order does not matter, and repeated indices count
        once.
    off : {"undecided", "absent"}, default="undecided"
        Where features are moved at positions at which a concept is detected, if no ``k`` is used.
        "undecided": onto the concept's hyperplane, where its detection is 0.5. "absent": further,
        to the mean of its projection over positions where it is not detected, for a concept that
        must have no effect at all.
    k : float, optional
        If given, features x are moved to x − Σ k σ(wᵀx − b) ŝ, the formula of Doumanoglou et al.
        (arXiv 2509.23926), whether a concept is detected or not. The sum is over the suppressed
        concepts, with filters w, biases b and unit signal vectors ŝ; σ is the logistic function.
        This positive k is a length in the units of the features. None: features are moved as
        ``off`` says, or with the k found on ``validation``.
    validation : tuple of (images, labels), optional
        If given, the formula of ``k`` is used with the k that `choose_k` finds on these images.
        Include images that the model classifies wrongly because of the concepts: on other images,
        no k is better than another. None: ``k`` or ``off`` is used.
    limits : tuple of (float or None, float or None), optional
        Lowest and highest value, to which corrected features are clipped; None for either: no
        bound. If ``limits`` is None: the range of the layer's activation function (ReLU, ReLU6,
        sigmoid, tanh, ...; unlimited for others). For a measured range, pass
        ``limits=(x.min(), x.max())``.
    images : array-like of shape (N, height, width, channels), optional
        Images on which the copy is compared with the model, beside noise; the first four are used.
        None: those of ``validation``, or those that the extractor was fitted on.

    Returns
    -------
    corrected : keras.Model
        The new model. Its layer ``"<layer>_corrected"`` (``"<layer>_again_corrected"`` if that
        exists already) returns the corrected features.

    Raises
    ------
    TypeError
        If the concepts are not direction pairs.
    ValueError
        If only the halves of the classifier are known, or it has layers that cannot be saved and
        loaded, or that compute something else afterwards; if both ``k`` and ``validation`` are
        given, or one of them with ``off="absent"``; or if one of the arguments is invalid.

    Warns
    -----
    UserWarning
        If files of the result load with ``safe_mode=False`` only, because of a ``Lambda`` or
        another layer that Keras calls unsafe; or if the model is random in inference, so that its
        copy cannot be compared with it.
    """
    layer = ConceptLayer.of(concepts)
    pairs = _chosen_pairs(layer, indices)
    model = layer.model
    check_choice("off", off, ("undecided", "absent"))
    bounds = layer.split.limits if limits is None else check_limits(limits)
    if k is not None and validation is not None:
        raise ValueError("give either k or validation images to choose it on, not both")
    if off == "absent" and (k is not None or validation is not None):
        raise ValueError("off='absent' uses no k: leave out k and validation, or leave out off")
    if validation is not None:
        if not isinstance(validation, (tuple, list)) or len(validation) != 2:
            raise ValueError("validation must be (images, labels)")
        k = choose_k(layer, indices, *validation, limits=limits)
    if k is not None:
        check_number("k", k, above=0)
        readings, rows = [(pairs.filters, pairs.biases, "sigmoid")], float(k) * pairs.signals
    else:
        readings, rows = [(pairs.filters, pairs.biases, "relu")], pairs.bank()
    if off == "absent":
        # Moving to a level above the hyperplane would not suppress the concept.
        levels = np.minimum(pairs.absent_levels, pairs.biases)
        slopes = 1.0 + pairs.biases - levels
        steeper = (slopes[:, None] * pairs.filters, slopes * pairs.biases, "relu")
        readings = [(pairs.filters, levels, "relu"), steeper]
    return _with_inserted(
        model,
        layer_output(model, layer.layer),
        lambda x, name: _suppressed(x, name, readings, rows, bounds),
        _images_for(layer, images, validation),
    )


def choose_k(
    concepts: Any,
    indices: int | ArrayLike,
    images: ArrayLike,
    labels: ArrayLike,
    *,
    candidates: Sequence[float] | None = None,
    limits: Limits | None = None,
    batch_size: int = 64,
) -> float:
    """Choose the k of `correct` that gives the highest accuracy on validation images.

    With k, `correct` moves features x to x − Σ k σ(wᵀx − b) ŝ, summed over the suppressed concepts
    with filters w, biases b and unit signal vectors ŝ; σ is the logistic function.

    Parameters
    ----------
    concepts : ConceptLayer or fitted extractor
        Anything that `ConceptLayer.of` accepts as its only argument. It must have direction pairs.
    indices : int or array-like of int
        Indices of the concepts to suppress.
    images : array-like of shape (N, height, width, channels)
        N validation images, some of which are classified wrongly because of the concepts.
    labels : array-like of shape (N,) or (N, K)
        True classes of the images, as indices or one-hot rows over K classes. For a model with one
        output: 0 (no) and 1 (yes).
    candidates : sequence of float, optional
        Values of k to try, above 0. None: ten values from 0.25 to 30 times the mean distance, along
        the signal vectors, from positions where the concepts are detected to the mean levels of
        their projections where they are not.
    limits : tuple of (float or None, float or None), optional
        Lowest and highest value, to which corrected features are clipped; None for either: no
        bound. If ``limits`` is None: the range of the layer's activation function.
    batch_size : int, default=64
        Number of images that pass through the network at a time.

    Returns
    -------
    k : float
        The candidate with the highest accuracy, in the units of the features; the smallest one if
        several are equally good.

    Raises
    ------
    TypeError
        If the concepts are not direction pairs.
    ValueError
        If an argument is invalid, or if the concepts are not detected in any image and no
        candidates are given.
    """
    layer = ConceptLayer.of(concepts)
    pairs = _chosen_pairs(layer, indices)
    low, high = layer.split.limits if limits is None else check_limits(limits)
    images = check_inputs(images)
    x = layer.activations(images, batch_size)
    head = layer.head.by_class(x)
    labels = check_labels(labels, len(images), head.number_of_classes)
    z = pairs.project(x)
    if candidates is None:
        candidates = [_mean_distance(pairs, z) * share for share in SHARES]
    if not len(candidates):
        raise ValueError("candidates are empty: give at least one k")
    detected = expit(z - pairs.biases)

    def accuracy(k: float) -> float:
        check_number("k", k, above=0)
        moved = x - (detected @ (float(k) * pairs.signals)).astype(np.float32)
        if low is not None or high is not None:
            moved = np.clip(moved, low, high)
        return float(np.mean(head.logits(moved, batch_size).argmax(axis=1) == labels))

    return float(max(sorted(candidates), key=accuracy))


def _images_for(
    layer: ConceptLayer, images: ArrayLike | None, validation: tuple[ArrayLike, ArrayLike] | None
) -> Array | None:
    """Return images to compare a copy of the model on: given ones, or those of the fit."""
    if images is None and validation is not None:
        images = validation[0]
    if images is not None:
        images = check_inputs(images)
        check_images_fit(images.shape[1:], plain_model(layer.model))
        return images
    factorization = getattr(layer.fitted, "factorization", None)
    return getattr(factorization, "inputs", None)


def _chosen_pairs(layer: ConceptLayer, indices: int | ArrayLike) -> DirectionPairs:
    """Return the direction pairs of the given concepts only.

    Their bank moves each concept without changing the projections of the others of them.
    """
    pairs = layer.direction_pairs
    if indices is None:
        raise ValueError("indices must be the concepts to suppress, not None")
    chosen = np.unique(check_concepts(indices, layer.number_of_concepts))
    return DirectionPairs(
        pairs.filters[chosen],
        pairs.biases[chosen],
        pairs.signals[chosen],
        pairs.mean,
        pairs.absent_levels[chosen],
    )


def _mean_distance(pairs: DirectionPairs, z: Array) -> float:
    """Compute the mean of |(z − m) / wᵀŝ| over the detections in the projections z, (..., C)."""
    is_detected = z > pairs.biases
    if not is_detected.any():
        raise ValueError(
            "the concepts are not detected in any validation image: give images that contain them, "
            "or give candidates"
        )
    gain = np.einsum("id,id->i", pairs.filters, pairs.signals)
    distances = np.abs((z - pairs.absent_levels) / gain)
    return float(distances[is_detected].mean(dtype=np.float64))


# ------------------------------------------------------------ layers


def _suppressed(
    x: Any, name: str, readings: list[tuple[Array, Array, str]], rows: Array, limits: Limits
) -> Any:
    """Add layers that compute clip(x − u @ rows), where u (..., C) is the minimum of the readings.

    Each reading is a dense layer given as (filters (C, D), biases (C,), activation), and the
    minimum is taken elementwise. Everything is computed in float32, whatever the model's dtype.
    """
    layers = keras.layers
    read = [
        _dense(x, f"{name}_read_{number}", filters.T, -biases, activation)
        for number, (filters, biases, activation) in enumerate(readings)
    ]
    u = read[0]
    if len(read) > 1:
        u = layers.Minimum(dtype="float32", name=f"{name}_least")(read)
    step = _dense(u, f"{name}_step", rows)
    moved = layers.Subtract(dtype="float32", name=f"{name}_subtract")([x, step])
    clipped = _clipped(moved, name, limits)
    # This layer exists for every range, so that the output has a known name, and it casts back to
    # the model's dtype.
    return layers.Activation("linear", dtype=str(x.dtype), name=f"{name}_corrected")(clipped)


def _dense(
    x: Any, name: str, kernel: Array, biases: Array | None = None, activation: str | None = None
) -> Any:
    """Add a float32 dense layer with the given weights to the graph, and return its output."""
    weights = [kernel] if biases is None else [kernel, biases]
    layer = keras.layers.Dense(
        kernel.shape[1], activation, use_bias=biases is not None, dtype="float32", name=name
    )
    output = layer(x)
    layer.set_weights(weights)
    return output


def _clipped(x: Any, name: str, limits: Limits) -> Any:
    """Add layers that clip x to the limits, by end ± ReLU(± (x − end)), and return the output."""
    low, high = limits
    sign, end = (-1.0, high) if low is None else (1.0, low)
    if end is None:
        return x
    reach = None if low is None or high is None else high - low
    clip = keras.layers.ReLU(max_value=reach, dtype="float32", name=f"{name}_clip")
    if low == 0.0:  # `split_model` can read the range from a ReLU that stands alone
        return clip(x)
    to_end = keras.layers.Rescaling(sign, -sign * end, dtype="float32", name=f"{name}_down")
    back = keras.layers.Rescaling(sign, end, dtype="float32", name=f"{name}_up")
    return back(clip(to_end(x)))


# ------------------------------------------------------------ graph


def _with_inserted(
    model: keras.Model,
    target: keras.KerasTensor,
    insert: Callable[[Any, str], Any],
    images: Array | None,
) -> keras.Model:
    """Return a copy of the model in which ``insert(target, name)`` replaces the tensor ``target``.

    The tensor is replaced for every layer that uses it. The copy is compared with the model on
    noise and on ``images``.
    """
    changed = node_of(target).operation.name
    name, taken = changed, {layer.name for layer in model.layers}
    while f"{name}_corrected" in taken:
        name += "_again"

    copied = copied_model(model, images)

    def call(layer: Any, *args: Any, **kwargs: Any) -> Any:
        output = layer(*args, **kwargs)
        return insert(output, name) if layer.name == changed else output

    inserted = keras.models.clone_model(
        copied, clone_function=lambda layer: layer, call_function=call
    )
    # Layers of the copy also belong to the graph without the insertion; those of this one do not.
    inserted = reloaded_model(inserted)
    pack = keras.tree.pack_sequence_as  # files hold lists in place of tuples
    inputs, outputs = inputs_and_outputs(model)
    return keras.Model(
        pack(inputs, inserted.inputs), pack(outputs, inserted.outputs), name=model.name
    )
