"""Tiny models of the families that people have, and the steps of an analysis of one of them."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import keras
import numpy as np

CLASSES = 3
IMAGE = (16, 16, 3)
layers = keras.layers


@dataclass(frozen=True)
class Member:
    """A kind of model, and what is refused of it.

    Attributes
    ----------
    make : callable
        Function that returns a new model.
    shape : tuple of int
        Shape of one input.
    layer : str
        Name of the layer of the concepts.
    refused : dict of str to (type, str)
        Step of the chain → the error that documents why it cannot be done, and words of it. The
        steps that need its result are left out.
    options : dict
        Options of `split_model`.
    tolerance : float
        Largest difference of outputs, relative to their largest value, that is rounding.
    channels : int
        Number of channels of the layer.
    """

    make: Callable[[], keras.Model]
    shape: tuple[int, ...] = IMAGE
    layer: str = "features"
    refused: dict[str, tuple[type[Exception], str]] = field(default_factory=dict)
    options: dict[str, Any] = field(default_factory=dict)
    tolerance: float = 1e-5
    channels: int = 8


@keras.saving.register_keras_serializable("zoo")
class Tokens(layers.Layer):
    """Puts learned tokens in front of the tokens of the patches, or behind them."""

    def __init__(self, count=1, in_front=True, **settings):
        super().__init__(**settings)
        self.count, self.in_front = count, in_front

    def build(self, shape):
        self.learned = self.add_weight(
            shape=(1, self.count, shape[-1]), initializer="random_normal"
        )

    def call(self, tokens):
        own = keras.ops.repeat(self.learned, keras.ops.shape(tokens)[0], axis=0)
        both = [own, tokens] if self.in_front else [tokens, own]
        return keras.ops.concatenate(both, axis=1)

    def get_config(self):
        return super().get_config() | {"count": self.count, "in_front": self.in_front}


@keras.saving.register_keras_serializable("zoo")
class Scale(layers.Layer):
    """A custom layer: a learned factor for each channel."""

    def build(self, shape):
        self.factor = self.add_weight(shape=(shape[-1],), initializer="ones")

    def call(self, x):
        return x * self.factor


def conv(channels=8, name=None, activation="relu", strides=2):
    """Return a convolution whose biases keep most ReLUs alive."""
    return layers.Conv2D(
        channels, 3, strides, "same", activation=activation, bias_initializer="ones", name=name
    )


def classify(inputs, x, units=CLASSES, activation="softmax"):
    """Return a model that ends in an average over positions and a dense layer."""
    pool = layers.GlobalAveragePooling2D() if len(x.shape) == 4 else layers.GlobalAveragePooling1D()
    return keras.Model(inputs, layers.Dense(units, activation=activation)(pool(x)))


def sequential():
    """A stack of layers that ends in logits."""
    return keras.Sequential(
        [
            keras.Input(IMAGE),
            conv(),
            conv(name="features"),
            layers.Flatten(),
            layers.Dense(CLASSES),
        ]
    )


def functional(shape=IMAGE, units=CLASSES, activation="softmax"):
    """Two convolutions, an average over positions and a dense layer."""
    inputs = keras.Input(shape)
    return classify(inputs, conv(name="features")(conv()(inputs)), units, activation)


def nested():
    """A base model that is called like a layer, as in transfer learning."""
    inputs = keras.Input(IMAGE)
    base = keras.Model(inputs, conv(name="inner")(conv()(inputs)), name="features")
    outer = keras.Input(IMAGE)
    x = layers.Rescaling(2.0, -1.0)(layers.RandomFlip()(outer))
    return classify(outer, layers.Dropout(0.2)(base(x, training=False)))


def with_normalization():
    """An EfficientNet in small: rescaling, normalization, swish, squeeze and excitation."""
    inputs = keras.Input(IMAGE)
    normalization = layers.Normalization()
    normalization.adapt(np.random.default_rng(0).uniform(size=(50, *IMAGE)))
    x = conv(activation=None)(normalization(layers.Rescaling(0.5, 0.25)(inputs)))
    x = layers.Activation("swish")(layers.BatchNormalization()(x))
    squeezed = layers.GlobalAveragePooling2D(keepdims=True)(x)
    x = layers.Multiply()([x, layers.Conv2D(8, 1, activation="sigmoid")(squeezed)])
    x = layers.BatchNormalization()(conv(activation=None)(x))
    return classify(inputs, layers.Activation("swish", name="features")(x))


def transformer(count=1, in_front=True):
    """A vision transformer of one block after the layer, whose first learned token is the class."""
    inputs = keras.Input(IMAGE)
    x = layers.Reshape((-1, 8))(layers.Conv2D(8, 4, 4)(inputs))
    x = Tokens(count, in_front)(x)
    x = layers.Activation("linear", name="features")(layers.LayerNormalization()(x))
    x = layers.Add()([x, layers.MultiHeadAttention(2, 4)(x, x)])
    x = layers.LayerNormalization()(x)
    x = x[:, 0] if in_front else x[:, -1]
    return keras.Model(inputs, layers.Dense(CLASSES)(x))


def convnext():
    """A ConvNeXt in small: depthwise convolution, layer normalization, GELU and a scaled sum."""
    inputs = keras.Input(IMAGE)
    x = layers.LayerNormalization(epsilon=1e-6)(layers.Conv2D(8, 4, 4)(inputs))
    y = layers.LayerNormalization(epsilon=1e-6)(layers.DepthwiseConv2D(3, padding="same")(x))
    y = layers.Dense(8)(layers.Dense(16, activation="gelu")(y))
    x = layers.Add(name="features")([x, Scale()(y)])
    x = layers.LayerNormalization()(layers.GlobalAveragePooling2D()(x))
    return keras.Model(inputs, layers.Dense(CLASSES, activation="softmax")(x))


def depthwise():
    """A MobileNet in small: separable convolutions with ReLU6."""
    inputs = keras.Input(IMAGE)
    x = layers.ZeroPadding2D(1)(conv()(inputs))
    x = layers.ReLU(6.0)(layers.BatchNormalization()(layers.DepthwiseConv2D(3)(x)))
    x = layers.BatchNormalization()(layers.Conv2D(8, 1, bias_initializer="ones")(x))
    return classify(inputs, layers.ReLU(6.0, name="features")(x))


def residual():
    """A ResNet in small: the layer is a sum, and another sum follows it."""
    inputs = keras.Input(IMAGE)
    x = conv()(inputs)
    y = layers.BatchNormalization()(conv(activation=None, strides=1)(x))
    x = layers.ReLU(name="features")(layers.Add()([x, y]))
    y = layers.BatchNormalization()(conv(activation=None, strides=1)(x))
    return classify(inputs, layers.ReLU()(layers.Add()([x, y])))


def gelu():
    """Features of both signs."""
    inputs = keras.Input(IMAGE)
    return classify(inputs, conv(name="features", activation="gelu")(conv()(inputs)))


def channels_first():
    """Channels on the first axis of the features, on the last one of the images."""
    inputs = keras.Input(IMAGE)
    x = conv(12, strides=1)(conv()(inputs))  # convolutions with channels first need a GPU
    x = layers.Permute((3, 1, 2), name="features")(x)
    x = layers.GlobalAveragePooling2D(data_format="channels_first")(x)
    return keras.Model(inputs, layers.Dense(CLASSES)(x))


def wrapped_softmax():
    """A classifier whose end is a model with a softmax of its own."""
    inputs = keras.Input(IMAGE)
    end = keras.Sequential([keras.Input((8,)), layers.Dense(CLASSES), layers.Softmax()])
    x = layers.GlobalAveragePooling2D()(conv(name="features")(conv()(inputs)))
    return keras.Model(inputs, end(x))


def mixed_precision():
    """Layers that compute in bfloat16, and a softmax in float32."""
    inputs = keras.Input(IMAGE)
    policy = "mixed_bfloat16"
    x = layers.Conv2D(8, 3, 2, activation="relu", dtype=policy, bias_initializer="ones")(inputs)
    x = layers.Conv2D(8, 3, 2, activation="relu", dtype=policy, name="features")(x)
    x = layers.Dense(CLASSES, dtype=policy)(layers.GlobalAveragePooling2D(dtype=policy)(x))
    return keras.Model(inputs, layers.Activation("softmax", dtype="float32")(x))


def any_size():
    """Images of any height and width."""
    return functional((None, None, 3))


def signals():
    """Signals of one dimension, (N, T, channels)."""
    inputs = keras.Input((32, 2))
    x = layers.Conv1D(8, 3, 2, activation="relu", bias_initializer="ones")(inputs)
    x = layers.Conv1D(8, 3, activation="relu", bias_initializer="ones", name="features")(x)
    return classify(inputs, x)


def recurrent():
    """The states of a recurrent layer over a sequence."""
    inputs = keras.Input((12, 4))
    x = layers.LSTM(8, return_sequences=True, name="features")(inputs)
    return keras.Model(inputs, layers.Dense(CLASSES)(layers.LSTM(6)(x)))


def custom_layer():
    """A registered layer of one's own before the layer and another one after it."""
    inputs = keras.Input(IMAGE)
    x = Scale()(conv(name="features")(Scale()(conv()(inputs))))
    return classify(inputs, x)


def batch_statistics():
    """Batch normalization that was called in training mode, which `predict` overrides."""
    inputs = keras.Input(IMAGE)
    x = layers.BatchNormalization()(conv()(inputs), training=True)
    return classify(inputs, conv(name="features")(x))


def without_positions():
    """A layer of vectors, after the average over positions."""
    inputs = keras.Input(IMAGE)
    x = layers.GlobalAveragePooling2D()(conv()(inputs))
    x = layers.Dense(10, activation="relu", bias_initializer="ones", name="features")(x)
    return keras.Model(inputs, layers.Dense(CLASSES)(x))


_MULTI_LABEL = {"counterfactual": (ValueError, "independent yes/no decisions")}
_NOT_LAST = {"split": (ValueError, "channels on axis 1, but they must be last")}
_NO_IMAGES = {"fit": (ValueError, "the network takes")}

#: Name of a family → its member.
ZOO = {
    "sequential": Member(sequential),
    "functional": Member(functional),
    "nested": Member(nested),
    "with_normalization": Member(with_normalization),
    "class_token": Member(transformer),
    "register_tokens": Member(lambda: transformer(4)),
    "convnext": Member(convnext),
    "depthwise": Member(depthwise),
    "residual": Member(residual),
    "gelu": Member(gelu),
    "channels_first": Member(channels_first, channels=12, refused=_NOT_LAST),
    "single_sigmoid": Member(lambda: functional(units=1, activation="sigmoid")),
    "multi_label": Member(lambda: functional(activation="sigmoid"), refused=_MULTI_LABEL),
    "wrapped_softmax": Member(wrapped_softmax),
    "mixed_precision": Member(mixed_precision, tolerance=2e-2),
    "any_size": Member(any_size),
    "signals": Member(signals, (32, 2), refused=_NO_IMAGES),
    "recurrent": Member(recurrent, (12, 4), refused=_NO_IMAGES),
    "custom_layer": Member(custom_layer),
    "batch_statistics": Member(batch_statistics),
    "without_positions": Member(without_positions, channels=10),
}


def make_inputs(shape, count, seed=0):
    """Return inputs that are coarse, so that neighbours are alike, (count, *shape) in [0, 1]."""
    rng = np.random.default_rng(seed)
    coarse = rng.uniform(size=(count, *(-(-length // 4) for length in shape[:-1]), shape[-1]))
    for axis, length in enumerate(shape[:-1], start=1):
        coarse = coarse.repeat(4, axis=axis).take(np.arange(length), axis=axis)
    return coarse.astype(np.float32)
