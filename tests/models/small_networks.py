"""Small networks for the tests of the models."""

import keras
import numpy as np
from keras import layers

from xplique_dirpairs.models.head import Head

K, SHAPE = 3, (8, 6, 2)


def pooled_dense(x, activation="softmax"):
    return layers.Dense(K, activation=activation)(layers.GlobalAveragePooling2D()(x))


def functional(activation="softmax"):
    inputs = keras.Input(SHAPE)
    x = layers.Conv2D(4, 3, activation="relu", name="cut")(inputs)
    return keras.Model(inputs, pooled_dense(x, activation))


def sequential():
    return keras.Sequential(
        [
            keras.Input(SHAPE),
            layers.Conv2D(4, 3, activation="relu", name="cut"),
            layers.Flatten(),
            layers.Dense(K),
            layers.Softmax(),
        ]
    )


def images(count=5):
    return np.random.default_rng(0).normal(size=(count, *SHAPE)).astype(np.float32)


def head_of(make_head, shape=(3, 2, 4)):
    inputs = keras.Input(shape)
    return Head(keras.Model(inputs, make_head(inputs)))


def features(count=5, shape=(3, 2, 4)):
    return np.random.default_rng(1).normal(size=(count, *shape)).astype(np.float32)
