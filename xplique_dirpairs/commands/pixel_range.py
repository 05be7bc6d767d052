"""Find by evidence what pixels a network takes, if nobody says it.

The numbers of the network's first layers decide, tried on the user's images: what scales or
normalises its input is meant for one range, and the moving averages of a batch normalisation are
those of the features in training. Where they do not decide, the accuracy on class folders does;
where it contradicts them, the user is asked.
How sure the predictions are is no evidence: larger inputs make a network surer, right or wrong.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import keras
import numpy as np

from xplique_dirpairs.commands.class_folders import is_clearly_better
from xplique_dirpairs.commands.console import UsageError
from xplique_dirpairs.commands.network import consumers_of, kinds_of
from xplique_dirpairs.commands.pixels import (
    CHOICES,
    Preprocessing,
    preprocessing,
    takes_integers,
)
from xplique_dirpairs.core.types import Array

#: What is tried, and how it is called; the last two take images of three channels.
RANGES = {
    "none": "pixels from 0 to 255",
    "unit": "pixels from 0 to 1",
    "symmetric": "pixels from -1 to 1",
    "resnet50": "pixels minus ImageNet's means, blue first",
    "densenet": "pixels by ImageNet's means and deviations",
}
#: Layers, and operations of `keras.ops`, that scale values.
_SCALING = {
    "Rescaling", "Normalization", "BatchNormalization", "TrueDivide", "Divide", "Multiply",
    "Subtract", "Add", "Lambda",
}  # fmt: skip
#: Layers and operations that do not scale values, and may come before one that does.
_NOT_SCALING = {
    "InputLayer", "Identity", "Resizing", "CenterCrop", "RandomCrop", "ZeroPadding2D",
    "Cropping2D", "Cast", "GetItem", "Stack", "Concatenate", "Reshape", "Permute", "Dropout",
    "GaussianNoise", "BaseImagePreprocessingLayer", "RandomFlip", "RandomRotation", "RandomZoom",
    "RandomTranslation", "RandomContrast", "RandomBrightness",
}  # fmt: skip
#: Ranges that a network is given after its own scaling: those that people scale to.
_USUAL = ((0.0, 1.0), (-1.0, 1.0), (0.0, 255.0))
#: Maximum number of images that are tried.
_TRIED = 100
#: Number of positions along a side from which moments of features are measured.
_POSITIONS = 28
#: Share of images from which on other preprocessings than that of the layers are not tried.
_MOSTLY_RIGHT = 0.7
#: Deviations of normalised images: 1, or that of pixels of which only the mean was subtracted.
_DEVIATIONS = (1.0, 64.0)
#: Distance from mean 0 and such a deviation, in units of the deviation, that a normalised image may
#: have, and by how much a range must be nearer to them than any other.
_NEAR, _NEARER = 3.0, 1.5
#: Divergence of the features from the moving averages of a batch normalisation, in nats per
#: channel, that is still theirs, and how many times as large that of other ranges must be.
_ALIKE, _LESS_ALIKE = 1.0, 2.0


@dataclass(frozen=True)
class _Front:
    """The layers of a network from its input to the first one that computes features.

    Attributes
    ----------
    apply : callable
        Maps images to what the first layer of features takes.
    layers : tuple of keras.Operation
    graph : keras.Model
        The network, or the nested one, that the first layer of features is in.
    before : callable
        Maps images to the input of ``graph``.
    """

    apply: Callable[[Any], Any]
    layers: tuple[Any, ...]
    graph: keras.Model
    before: Callable[[Any], Any]

    def features_before(self, layer: Any) -> Callable[[Any], Any]:
        """Return the function from images to the input of a layer of the graph."""
        [tensor] = next(
            node.input_tensors
            for nodes in consumers_of(self.graph.outputs[0]).values()
            for node in nodes
            if node.operation is layer
        )
        part = keras.Model(self.graph.inputs[0], tensor)
        return lambda images: part(self.before(images), training=False)


def find_preprocessing(
    model: keras.Model,
    pixels: Array,
    labellings: Sequence[Array],
    predict: Callable[[Preprocessing, Array], Array],
) -> tuple[Preprocessing, str]:
    """Find the preprocessing that a network was trained with.

    Parameters
    ----------
    model : keras.Model
    pixels : ndarray of shape (N, height, width, C), uint8
        The user's images.
    labellings : sequence of ndarray of shape (N,), int
        Possible labels of the images; empty if there are none.
    predict : callable
        Maps a preprocessing and indices of images to the predicted classes of these images.

    Returns
    -------
    preprocessing : Preprocessing
    reason : str
        What was concluded, and from what.

    Raises
    ------
    UsageError
        If the evidence does not tell.
    """
    if takes_integers(model):
        dtype = model.inputs[0].dtype
        return preprocessing("none"), (
            f"--preprocessing none: the model takes {RANGES['none']}, as its input is {dtype}"
        )
    chosen = np.unique(np.linspace(0, len(pixels) - 1, min(_TRIED, len(pixels))).astype(int))
    prepared = {name: preprocessing(name) for name in RANGES}
    if pixels.shape[-1] != 3:
        prepared = {name: prepared[name] for name in ("none", "unit", "symmetric")}
    tried = pixels[chosen].astype(np.float32)
    name, reason = _by_layers(model, tried, prepared)
    labels = [known[chosen] for known in labellings]
    trial = _Trial(labels, lambda one: predict(one, chosen), prepared)
    if name is not None and labels:
        _check_agrees(name, reason, trial)
    elif labels:
        name, reason = _by_accuracy(trial)
    if name is None:
        few = f" (of {len(pixels)} images; more may tell it)" if len(pixels) < _TRIED else ""
        raise UsageError(
            f"{reason}{few}: give the preprocessing that it was trained with, with "
            f"--preprocessing. Choices: {CHOICES}"
        )
    return prepared[name], f"--preprocessing {name}: the model takes {RANGES[name]}, {reason}"


def _by_layers(
    model: keras.Model, pixels: Array, prepared: dict[str, Preprocessing]
) -> tuple[str | None, str]:
    """Return the preprocessing that the numbers of the first layers are meant for, and why."""
    unknown = "what pixels the model takes cannot be told from its first layers"
    front = _front(model)
    if front is None:
        return None, unknown
    scaling = [one for one in front.layers if kinds_of(one) & _SCALING]
    names = " and ".join(repr(one.name) for one in scaling)
    layers = f"layer{'s' if len(scaling) > 1 else ''} {names}"
    inputs = {name: _scaled(one, pixels) for name, one in prepared.items()}
    if scaling and not _passes_on(front, pixels.shape[1:]):
        plain = {name: inputs[name] for name in ("none", "unit", "symmetric")}
        for decide in (_by_ends, _by_moments):
            name = decide(front, plain, prepared)
            if name is not None:
                return name, f"as the numbers of its {layers} say"
    ranges = {(0.0, 1.0): "unit", (-1.0, 1.0): "symmetric"}
    for layer in [] if scaling else front.layers:
        low, high = getattr(layer, "value_range", None) or (0, 255)
        if (low, high) in ranges:
            return ranges[low, high], f"as the value_range of its layer {layer.name!r} says"
    name, layer = _by_moving_averages(front, inputs)
    if name is not None:
        return name, f"as the moving averages of its layer {layer!r} say"
    return None, unknown


def _passes_on(front: _Front, shape: tuple[int, ...]) -> bool:
    """Return whether the first layers change no value: they scale by 1, or were never adapted."""
    plain = (np.full((1, *shape), value, np.float32) for value in (0, 255))
    return all(np.allclose(front.apply(images), images.flat[0], rtol=0.01) for images in plain)


def _by_ends(
    front: _Front, inputs: dict[str, Array], prepared: dict[str, Preprocessing]
) -> str | None:
    """Return the only range that the first layers map exactly to a usual one, if there is one."""
    shape = (1, *inputs["none"].shape[1:])
    matching = []
    for name in inputs:
        low, high = (
            np.asarray(front.apply(_scaled(prepared[name], np.full(shape, value, np.float32))))
            for value in (0, 255)
        )
        if any(
            np.abs(low - a).max() < 0.02 * (b - a) and np.abs(high - b).max() < 0.02 * (b - a)
            for a, b in _USUAL
        ):
            matching.append(name)
    return matching[0] if len(matching) == 1 else None


def _by_moments(
    front: _Front, inputs: dict[str, Array], prepared: dict[str, Preprocessing]
) -> str | None:
    """Return the range that the first layers bring nearest to mean 0 and a usual deviation."""
    distances = {}
    for name, images in inputs.items():
        values = np.asarray(front.apply(images), np.float64)
        axes = tuple(range(values.ndim - 1))
        means, deviations = values.mean(axis=axes), values.std(axis=axes)
        distances[name] = min(
            float(
                np.sqrt((means**2).mean()) / unit
                + np.abs(np.log(np.maximum(deviations / unit, 1e-9))).mean()
            )
            for unit in _DEVIATIONS
        )
    nearest, second = sorted(distances, key=lambda name: distances[name])[:2]
    is_clear = distances[nearest] + _NEARER < distances[second]
    return nearest if distances[nearest] < _NEAR and is_clear else None


def _by_moving_averages(front: _Front, inputs: dict[str, Array]) -> tuple[str | None, str]:
    """Return the preprocessing whose features a batch normalisation has the averages of."""
    layer = next(_normalisations(front.graph), None)
    if layer is None or layer.axis not in (-1, 3):
        return None, ""
    mean, variance = (
        np.asarray(values, np.float64) for values in (layer.moving_mean, layer.moving_variance)
    )
    if (mean == 0).all() and (variance == 1).all():  # not trained
        return None, ""
    features = front.features_before(layer)
    used = variance > 1e-3 * variance.max()
    divergence = {}
    for name, images in inputs.items():
        values = np.asarray(features(images))
        step = max(1, min(values.shape[1:-1], default=1) // _POSITIONS)
        values = values[..., ::step, ::step, :] if values.ndim >= 4 else values
        values = values.astype(np.float64).reshape(-1, len(mean))[:, used]
        ratio = values.var(axis=0) / variance[used]
        shift = (values.mean(axis=0) - mean[used]) ** 2 / variance[used]
        each = (shift + ratio - 1.0 - np.log(np.maximum(ratio, 1e-12))) / 2.0
        divergence[name] = float(np.median(each))
    best, second = sorted(divergence, key=lambda name: divergence[name])[:2]
    is_clear = divergence[second] > _LESS_ALIKE * divergence[best]
    return (best if divergence[best] < _ALIKE and is_clear else None), layer.name


class _Trial(NamedTuple):
    """What is tried on some images, to find out how often the network is right with it.

    Attributes
    ----------
    labels : list of ndarray of shape (n,), int
        Possible labels of the images.
    predict : callable
        Maps a preprocessing to the predicted classes of the images.
    prepared : dict of str to Preprocessing
        Name → what is tried.
    """

    labels: list[Array]
    predict: Callable[[Preprocessing], Array]
    prepared: dict[str, Preprocessing]

    def hits(self, name: str) -> Array:
        """Return whether each image is classified correctly, by the labels that fit best."""
        predicted = self.predict(self.prepared[name])
        return max((known == predicted for known in self.labels), key=np.sum)

    @property
    def most_frequent(self) -> int:
        """The largest number of images of one class."""
        return max(int(np.unique(known, return_counts=True)[1].max()) for known in self.labels)


def _by_accuracy(trial: _Trial) -> tuple[str | None, str]:
    """Return the preprocessing with which the model is clearly right most often, and why."""
    hits = {name: trial.hits(name) for name in trial.prepared}
    best = max(hits, key=lambda name: hits[name].sum())
    shares = ", ".join(f"{name} {hits[name].mean():.0%}" for name in hits)
    others = (hits[name] for name in hits if name != best)
    is_clear = all(is_clearly_better(hits[best], other) for other in others)
    if is_clear and hits[best].sum() > trial.most_frequent:
        return best, f"as it is right most often with them ({shares} of the images)"
    return None, (
        "what pixels the model takes cannot be told, neither from its first layers nor from how "
        f"often it is right ({shares} of the images)"
    )


def _check_agrees(name: str, reason: str, trial: _Trial) -> None:
    """Raise a UsageError if a model is right more often with others than its layers say.

    It may have been trained on images that were scaled twice, by the user and by a layer.
    """
    hits = trial.hits(name)
    if hits.mean() >= _MOSTLY_RIGHT:
        return
    others = {other: trial.hits(other) for other in trial.prepared if other != name}
    best = max(others, key=lambda other: others[other].sum())
    is_above_chance = others[best].sum() > trial.most_frequent
    if is_above_chance and is_clearly_better(others[best], hits):
        raise UsageError(
            f"the model takes {RANGES[name]}, {reason}, but it is right in {hits.mean():.0%} of "
            f"the images with them, and in {others[best].mean():.0%} with {RANGES[best]}: was it "
            f"trained on images that were scaled before? Give --preprocessing {best} or {name}. "
            f"Choices: {CHOICES}"
        )


# -------------------------------------------------------------------- the first layers


def _scaled(prepared: Preprocessing, pixels: Array) -> Array:
    """Return what a network takes after a preprocessing, as an array."""
    return np.asarray(pixels if prepared.layers is None else prepared.layers(pixels.copy()))


def _front(model: keras.Model) -> _Front | None:
    """Return the first layers of a network; None if its graph does not show them."""
    if len(getattr(model, "inputs", None) or ()) != 1 or not getattr(model, "outputs", None):
        return None
    consumers = consumers_of(model.outputs[0])
    passed: list[Any] = []
    reached, ends = {id(model.inputs[0])}, {}
    pending = list(model.inputs)
    while pending:
        tensor = pending.pop()
        for node in consumers.get(id(tensor), []):
            kinds = kinds_of(node.operation)
            if isinstance(node.operation, keras.Model) or not kinds & (_SCALING | _NOT_SCALING):
                ends[id(tensor)] = (tensor, node.operation)
                continue
            is_complete = all(id(one) in reached for one in node.input_tensors)
            if is_complete and node.operation not in passed:
                passed.append(node.operation)
                reached |= {id(one) for one in node.output_tensors}
                pending += node.output_tensors
    if len(ends) != 1:
        return None
    [(tensor, following)] = ends.values()
    before: Callable[[Any], Any] = lambda images: images  # noqa: E731
    if tensor is not model.inputs[0]:
        part = keras.Model(model.inputs[0], tensor)
        before = lambda images: part(images, training=False)  # noqa: E731
    inner = _front(following) if isinstance(following, keras.Model) else None
    if inner is None:
        return _Front(before, tuple(passed), model, lambda images: images)
    return _Front(
        lambda images: inner.apply(before(images)),
        (*passed, *inner.layers),
        inner.graph,
        lambda images: inner.before(before(images)),
    )


def _normalisations(model: keras.Model) -> Iterator[Any]:
    """Yield the batch normalisations of a network, nested models left out, in its order."""
    for layer in model.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            yield layer
