"""A layer's range is read off its activation."""

import keras
import pytest

from xplique_dirpairs.interventions.layer_range import layer_limits

L = keras.layers


@pytest.mark.parametrize(
    ("layers", "limits"),
    [
        ([L.ReLU()], (0.0, None)),
        ([L.ReLU(max_value=6.0)], (0.0, 6.0)),
        ([L.ReLU(negative_slope=0.1)], (None, None)),
        ([L.ReLU(threshold=0.5)], (0.0, None)),
        ([L.Conv2D(2, 1, activation="relu6")], (0.0, 6.0)),
        ([L.Conv2D(2, 1, activation="gelu")], (None, None)),
        ([L.Conv2D(2, 1)], (None, None)),
        ([L.Activation("tanh")], (-1.0, 1.0)),
        ([L.Activation("relu"), L.MaxPooling2D(), L.Dropout(0.1), L.Flatten()], (0.0, None)),
        ([L.Activation("relu"), L.BatchNormalization()], (None, None)),
        ([L.Activation("relu"), L.Activation("linear")], (0.0, None)),
        ([keras.ops.relu], (0.0, None)),
        ([keras.ops.relu6], (0.0, 6.0)),
    ],
)
def test_range_of(layers, limits):
    x = keras.Input((4, 4, 2))
    for layer in layers:
        x = layer(x)
    assert layer_limits(x) == limits
