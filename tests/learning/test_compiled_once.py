"""A second fit with the same shapes uses the objectives that the first one compiled."""

import keras
import numpy as np
from fits import learn, quick

from xplique_dirpairs.learning.objective import Objective
from xplique_dirpairs.models.head import Head


def problem():
    rng = np.random.default_rng(0)
    inputs = keras.Input((2, 2, 8))
    pooled = keras.layers.GlobalAveragePooling2D()(inputs)
    head = Head(keras.Model(inputs, keras.layers.Dense(3)(pooled)))
    return rng.gamma(0.3, size=(80, 2, 2, 8)).astype(np.float32), head


def test_a_second_fit_with_the_same_shapes_is_not_traced_again_and_learns_the_same(monkeypatch):
    activations, head = problem()
    first, _ = learn(activations, head=head, recipe=quick())

    def traced(*_):
        raise AssertionError("traced again")

    monkeypatch.setattr(Objective, "losses_of", traced)
    other, _ = learn(activations, head=head, recipe=quick(), random_state=1)
    again, _ = learn(activations, head=head, recipe=quick())
    np.testing.assert_array_equal(again.filters, first.filters)
    assert np.abs(other.filters - first.filters).max() > 0.0
