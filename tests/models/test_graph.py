"""Tests of reading final activations and ranges from the graph of a model."""

import keras
import pytest
import tensorflow as tf
from keras import layers
from small_networks import K

from xplique_dirpairs.models.graph import final_activation, output_limits


def ends_in(last):
    inputs = keras.Input((4,))
    return keras.Model(inputs, last(layers.Dense(K)(inputs)))


@pytest.mark.parametrize(
    "last, kind",
    [
        (layers.Dense(K, activation="softmax"), "softmax"),
        (layers.Dense(K, activation=keras.activations.softmax), "softmax"),
        (layers.Activation("softmax"), "softmax"),
        (layers.Softmax(), "softmax"),
        (keras.ops.softmax, "softmax"),
        (keras.ops.sigmoid, "sigmoid"),
        (layers.Dense(1, activation="sigmoid"), "sigmoid"),
        (layers.Activation("sigmoid"), "sigmoid"),
        (keras.Sequential([layers.Dense(K, activation="softmax")]), "softmax"),
        (keras.Sequential([layers.Softmax(), layers.Activation("linear")]), "softmax"),
        (layers.Dense(K), "linear"),
        (layers.Dense(K, activation="relu"), "linear"),
        (layers.Dense(K, activation=tf.nn.softmax), "softmax"),
        (layers.Activation(tf.nn.softmax), "softmax"),
        (layers.Dense(K, activation=keras.ops.softmax), "softmax"),
        (layers.Dense(K, activation=layers.Softmax()), "softmax"),
        (lambda x: layers.Reshape((K,))(layers.Softmax()(x)), "softmax"),
        (lambda x: layers.Flatten()(layers.Reshape((1, K))(layers.Softmax()(x))), "softmax"),
        (lambda x: keras.ops.squeeze(keras.ops.expand_dims(keras.ops.softmax(x), 1), 1), "softmax"),
        (lambda x: keras.ops.cast(keras.ops.softmax(x), "float32"), "softmax"),
        # positions that become classes: not one prediction over K classes
        (lambda x: layers.Flatten()(layers.Softmax()(layers.RepeatVector(2)(x))), "linear"),
    ],
)
def test_the_final_activation_is_read_from_the_graph(last, kind):
    assert final_activation(ends_in(last)) == kind


@pytest.mark.parametrize(
    ("chain", "limits"),
    [
        ([layers.ReLU()], (0.0, None)),
        ([layers.ReLU(max_value=6.0)], (0.0, 6.0)),
        ([layers.ReLU(negative_slope=0.1)], (None, None)),
        ([layers.ReLU(threshold=0.5)], (0.0, None)),
        ([layers.Softmax()], (0.0, 1.0)),
        ([layers.Conv2D(2, 1, activation="relu6")], (0.0, 6.0)),
        ([layers.Conv2D(2, 1, activation="gelu")], (None, None)),
        ([layers.Conv2D(2, 1)], (None, None)),
        ([layers.Activation("tanh")], (-1.0, 1.0)),
        (
            [layers.Activation("relu"), layers.MaxPooling2D(), layers.Dropout(0.1)],
            (0.0, None),
        ),
        ([layers.Activation("relu"), layers.Flatten()], (0.0, None)),
        ([layers.Activation("relu"), layers.BatchNormalization()], (None, None)),
        ([layers.Activation("relu"), layers.Activation("linear")], (0.0, None)),
        ([keras.ops.relu], (0.0, None)),
        ([keras.ops.relu6], (0.0, 6.0)),
    ],
)
def test_the_range_of_a_layer_is_read_from_its_activation(chain, limits):
    x = keras.Input((4, 4, 2))
    for layer in chain:
        x = layer(x)
    assert output_limits(x) == limits
