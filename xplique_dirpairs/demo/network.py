"""The network of the demo, whose weights come with the package."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

import keras
import numpy as np
from keras import layers

from xplique_dirpairs.datasets.annotated_scenes import CLASS_NAMES
from xplique_dirpairs.demo.scenes import SIDE

#: Name of the layer to explain: a ReLU with feature maps of shape (16, 16, 96).
LAYER = "last_conv"
#: Number of filters, kernel size and stride of each convolution.
_CONVOLUTIONS = ((24, 4, 2), (32, 4, 2), (48, 3, 1), (64, 4, 2), (96, 3, 1))

#: File with the weights, made by ``python -m xplique_dirpairs.demo.train``.
WEIGHTS = files("xplique_dirpairs.demo") / "network.npz"


def demo_network() -> keras.Model:
    """Return the demo's classifier of scenes.

    Returns
    -------
    model : keras.Model
        For images (n, 128, 128, 3) in [0, 1]; its outputs are logits (n, 8). The layer `LAYER` has
        non-negative feature maps of shape (n, 16, 16, 96); a global average pooling and a dense
        layer follow it.
    """
    model = untrained_network()
    with WEIGHTS.open("rb") as file, np.load(file, allow_pickle=False) as stored:
        model.set_weights([stored[name].astype(np.float32) for name in stored.files])
    return model


def untrained_network(seed: int = 0) -> keras.Model:
    """Return the demo's network with random weights.

    Parameters
    ----------
    seed : int, default=0
        Seed of the weights. Sets Keras' global seed.

    Returns
    -------
    model : keras.Model
    """
    keras.utils.set_random_seed(seed)
    x = inputs = keras.Input((SIDE, SIDE, 3))
    for number, (filters, size, stride) in enumerate(_CONVOLUTIONS):
        last = number == len(_CONVOLUTIONS) - 1
        # As in the network of the annotated scenes: zero padding would act as a concept of its own,
        # and these sizes keep the cells of all maps centred on their receptive fields.
        x = keras.ops.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="symmetric")
        x = layers.Conv2D(filters, size, stride, use_bias=False, kernel_initializer="he_normal")(x)
        x = layers.BatchNormalization(momentum=0.9)(x)
        x = layers.ReLU(name=LAYER if last else None)(x)
    x = layers.GlobalAveragePooling2D(name="average")(x)
    logits = layers.Dense(len(CLASS_NAMES), name="logits")(x)
    return keras.Model(inputs, logits, name="demo_network")


def save_weights(model: keras.Model, path: Path) -> None:
    """Save the weights of a model in half precision, without pickle.

    Parameters
    ----------
    model : keras.Model
    path : Path
        File to write, ``*.npz``.
    """
    weights = {f"{k:03}": w.astype(np.float16) for k, w in enumerate(model.get_weights())}
    np.savez_compressed(path, **weights)
