"""A tiny video transformer for moving shapes: 128 tokens of 32 channels, 3 layers of 4 heads."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np

from xplique_dirpairs.core.validation import check_choice, check_integer
from xplique_dirpairs.datasets.moving_shapes import CLASSES, MovingShapes
from xplique_dirpairs.models.attention import ProbedSelfAttention

_CHANNELS, _HEADS, _LAYERS = 32, 4, 3
_BATCH = 16
#: Frames, rows and columns of the tube of pixels that becomes a token.
_TUBE = (2, 8, 8)


@keras.saving.register_keras_serializable("xplique_dirpairs")
class PositionEmbedding(keras.layers.Layer):
    """Adds a learned vector to each token of a sequence (N, tokens, channels)."""

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        """Create the vectors."""
        self.places = self.add_weight(
            shape=input_shape[1:], initializer=keras.initializers.RandomNormal(stddev=0.5)
        )

    def call(self, tokens: Any) -> Any:
        """Return the tokens plus their vectors."""
        return tokens + self.places


def video_transformer(
    number_of_classes: int,
    shape: tuple[int, int, int, int] = (16, 32, 32, 3),
    layers: int = _LAYERS,
) -> keras.Model:
    """Return an untrained transformer of videos that ends in a softmax.

    Parameters
    ----------
    number_of_classes : int
        Number of classes, K.
    shape : (int, int, int, int), default=(16, 32, 32, 3)
        Frames, height, width and channels of the videos: multiples of 2, 8 and 8.
    layers : int, default=3
        Number of layers. The layers "attention_0", … are the attention, "tokens" the last tokens on
        their grid, (N, 8, 4, 4, 32) by default.

    Returns
    -------
    model : keras.Model
    """
    inputs = keras.Input(shape)
    # A convolution with these strides, written as a product: its gradient is far faster on a CPU.
    grid = [length // size for length, size in zip(shape, _TUBE, strict=False)]
    split = [n for pair in zip(grid, _TUBE, strict=True) for n in pair]
    x = keras.layers.Rescaling(5.0, -1.5)(inputs)
    x = keras.layers.Reshape((*split, shape[3]))(x)
    x = keras.layers.Permute((1, 3, 5, 2, 4, 6, 7))(x)
    x = keras.layers.Reshape((*grid, int(np.prod(_TUBE)) * shape[3]))(x)
    x = keras.layers.Dense(_CHANNELS, name="tubes")(x)
    x = keras.layers.Reshape((-1, _CHANNELS))(x)
    x = PositionEmbedding(name="positions")(x)
    for k in range(layers):
        normal = keras.layers.LayerNormalization()(x)
        heads = ProbedSelfAttention(_HEADS, _CHANNELS // _HEADS, name=f"attention_{k}")(normal)
        x = keras.layers.Add()([x, heads])
        normal = keras.layers.LayerNormalization()(x)
        hidden = keras.layers.Dense(2 * _CHANNELS, activation="gelu")(normal)
        x = keras.layers.Add()([x, keras.layers.Dense(_CHANNELS)(hidden)])
    x = keras.layers.LayerNormalization()(x)
    x = keras.layers.Reshape((*grid, _CHANNELS), name="tokens")(x)
    x = keras.layers.GlobalAveragePooling3D(name="average")(x)
    return keras.Model(inputs, keras.layers.Dense(number_of_classes, activation="softmax")(x))


def train_video_transformer(
    data: MovingShapes, by: str = "motion", epochs: int = 10, random_state: int = 0
) -> keras.Model:
    """Train a transformer to tell the motion, or the shape, of the target.

    Parameters
    ----------
    data : MovingShapes
        Videos to train on.
    by : {"motion", "shape"}, default="motion"
        What the classes are.
    epochs : int, default=10
        Number of passes over the videos.
    random_state : int, default=0
        Seed of the weights and of the order of the videos. Keras' own generators are seeded.

    Returns
    -------
    model : keras.Model

    Raises
    ------
    ValueError
        If an argument is out of range.
    """
    check_choice("by", by, tuple(CLASSES))
    check_integer("epochs", epochs)
    keras.utils.set_random_seed(random_state)
    model = video_transformer(len(CLASSES[by]), data.videos.shape[1:])
    steps = epochs * -(-len(data.videos) // _BATCH)
    rate = keras.optimizers.schedules.CosineDecay(
        1e-4, steps, alpha=0.02, warmup_target=4e-3, warmup_steps=max(1, steps // 20)
    )
    optimizer = keras.optimizers.AdamW(rate, weight_decay=1e-3)
    # XLA takes longer to compile this step than the whole training takes on a CPU without it.
    model.compile(optimizer, "sparse_categorical_crossentropy", jit_compile=False)
    model.fit(
        np.asarray(data.videos), data.labels(by), batch_size=_BATCH, epochs=epochs, shuffle=True,
        verbose=0,
    )  # fmt: skip
    return model
