"""Channels that depend on the place in the image in known ways, computed from images by a network.

A tiny network of 64 × 64 grey images gives maps of 16 × 16 cells with six channels:

    free                wrapped convolution of the image            the same wherever content is
    border              zero-padded convolution of a constant       marks the edges
    position            ramp from left to right                     marks a place
    by position         wrapped convolution × ramp                  content × position
    by the border       zero-padded slope of the image              differs at the edges
    weak                wrapped convolution × (1 + a fraction of a ramp)

Border and position also hold a trace of content, as in real networks.
"""

from __future__ import annotations

from typing import Any

import keras
import numpy as np

from xplique_dirpairs.core.types import Array

#: Names of the channels, in order, and the verdict of `position_dependence` on each.
CHANNELS = {
    "invariant": "free",
    "edge of the image": "border",
    "ramp": "position",
    "content × position": "modulated by position",
    "zero-padded": "modulated by the border",
    "content × a little position": "weak",
}
#: Side of the images, and of the maps.
SIDE, CELLS = 64, 16
#: Trace of content in the channels of pure position.
_TRACE = 0.05
#: Steepness of the ramp of the weak channel, which goes from 1 − _STEEP to 1 + _STEEP.
_STEEP = 0.35


class WrapPadding(keras.layers.Layer):
    """Continue maps round their edges by ``amount`` cells."""

    def __init__(self, amount: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.amount = amount

    def call(self, x: Any) -> Any:
        """Return the larger maps."""
        for axis in (1, 2):
            places = [k % x.shape[axis] for k in range(-self.amount, x.shape[axis] + self.amount)]
            x = keras.ops.take(x, places, axis=axis)
        return x

    def get_config(self) -> dict[str, Any]:
        """Return the arguments."""
        return {**super().get_config(), "amount": self.amount}


class TimesRamp(keras.layers.Layer):
    """Multiply maps by a ramp over the columns, from ``low`` at the left to ``high``."""

    def __init__(self, low: float, high: float, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.low, self.high = low, high

    def call(self, x: Any) -> Any:
        """Return the product."""
        ramp = keras.ops.linspace(self.low, self.high, x.shape[2])
        return x * keras.ops.reshape(ramp, (1, 1, -1, 1))

    def get_config(self) -> dict[str, Any]:
        """Return the arguments."""
        return {**super().get_config(), "low": self.low, "high": self.high}


class OnesLike(keras.layers.Layer):
    """Return maps of 1, whatever the input."""

    def call(self, x: Any) -> Any:
        """Return the constant."""
        return keras.ops.ones_like(x)


def planted_channels() -> keras.Model:
    """Return the network, from images (N, 64, 64, 1) to maps (N, 16, 16, 6)."""
    surround = np.full((5, 5), -1 / 24)
    surround[2, 2] = 1.0
    box = np.full((3, 3), -1 / 9)
    slope = np.outer(np.ones(5), [-1, -1, 0, 1, 1]) / 10
    wrapped = _filter(surround, "valid")
    at_edges, of_ones = _filter(slope, "same", "linear"), _filter(box, "same", "linear")
    image = keras.Input((SIDE, SIDE, 1))
    cells = keras.layers.AveragePooling2D(SIDE // CELLS)(image)
    ones = OnesLike()(cells)
    content = wrapped(WrapPadding(2)(cells))
    trace = keras.layers.Rescaling(_TRACE)(content)
    channels = [
        content,
        keras.layers.Add()([of_ones(ones), trace]),
        keras.layers.Add()([TimesRamp(-0.5, 0.5)(ones), trace]),
        TimesRamp(-1.0, 1.0)(content),
        keras.layers.Add()([at_edges(cells), trace]),
        TimesRamp(1.0 - _STEEP, 1.0 + _STEEP)(content),
    ]
    model = keras.Model(image, keras.layers.Concatenate()(channels), name="planted_channels")
    for layer, kernel in ((wrapped, surround), (at_edges, slope), (of_ones, box)):
        layer.set_weights([kernel[..., None, None]])
    return model


def planted_classifier(seed: int = 0) -> tuple[keras.Model, Array]:
    """Return a classifier with the planted channels in a random mixture, at its layer ``mixed``.

    Parameters
    ----------
    seed : int, default=0
        Seed of the mixture and of the classes.

    Returns
    -------
    classifier : keras.Model
        From images to the logits of 3 classes.
    mixture : ndarray of shape (6, 6)
        Row i is what one unit of channel i adds to the features of the layer.
    """
    rng = np.random.default_rng(seed)
    count = len(CHANNELS)
    # Not orthogonal, but well-conditioned.
    mixture = np.linalg.qr(rng.normal(size=(count, count)))[0]
    mixture += 0.2 * rng.normal(size=mixture.shape)
    channels = planted_channels()
    mixed = keras.layers.Conv2D(count, 1, use_bias=False, name="mixed")
    x = keras.layers.GlobalAveragePooling2D()(mixed(channels.output))
    logits = keras.layers.Dense(3)
    classifier = keras.Model(channels.input, logits(x))
    mixed.set_weights([mixture[None, None]])
    logits.set_weights([rng.normal(size=(count, 3)), np.zeros(3)])
    return classifier, mixture.astype(np.float32)


def _filter(kernel: Array, padding: str, activation: str = "relu") -> keras.layers.Layer:
    """Return a convolution of one map with a kernel of the same size."""
    return keras.layers.Conv2D(
        1, kernel.shape, padding=padding, activation=activation, use_bias=False
    )


def planted_images(count: int, *, centred: bool = False, seed: int = 0) -> Array:
    """Return grey images of bright spots of random size on a dark, noisy ground.

    Parameters
    ----------
    count : int
        Number of images N.
    centred : bool, default=False
        Whether spots lie in the middle of the images, as photographers place things. Otherwise they
        lie anywhere, and go on at the opposite edge.
    seed : int, default=0
        Seed of the images.

    Returns
    -------
    images : ndarray of shape (N, 64, 64, 1), float32
    """
    rng = np.random.default_rng(seed)
    places = np.arange(SIDE)
    images = np.zeros((count, SIDE, SIDE))
    for image in images:
        strength = rng.gamma(8.0, 1 / 8)
        for _ in range(6):
            middle = rng.normal(SIDE / 2, SIDE / 8, 2) if centred else rng.uniform(0, SIDE, 2)
            width = rng.uniform(2.0, 5.0)
            rows, columns = (
                np.exp(-0.5 * (((places - at + SIDE / 2) % SIDE - SIDE / 2) / width) ** 2)
                for at in middle
            )
            image += strength * rng.uniform(0.2, 0.6) * np.outer(rows, columns)
    images += 0.02 * rng.normal(size=images.shape)
    return images[..., None].astype(np.float32)
