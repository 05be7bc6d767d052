"""Mean gradients along a path: of functions whose integrals are known, and of small heads."""

from functools import partial

import keras
import numpy as np
import pytest
import tensorflow as tf

from xplique_dirpairs.explanations.contributions import mean_gradient, score_and_gradient
from xplique_dirpairs.models.head import Head

ZERO, ONE = np.zeros(1, np.float32), np.ones(1, np.float32)


def along(function, slope):
    """A score of one number t from 0 to 1."""

    def score(features):
        t = np.asarray(features, float)[:, 0]
        return function(t), slope(t)[:, None]

    return score


@pytest.mark.parametrize("degree", [1, 2, 3, 9])
def test_the_mean_gradient_of_a_power_is_one(degree):
    score = along(lambda t: t**degree, lambda t: degree * t ** (degree - 1))
    gradient, _ = mean_gradient(score, ZERO, ONE, 1e-6, 10_000)
    assert gradient[0] == pytest.approx(1.0, abs=1e-5)


@pytest.mark.parametrize("kink", [0.3, 0.5, 0.999])
def test_intervals_are_halved_until_a_kink_costs_no_more_than_the_tolerance(kink):
    score = along(lambda t: np.maximum(t - kink, 0.0), lambda t: (t > kink).astype(float))
    gradient, _ = mean_gradient(score, ZERO, ONE, 1e-6, 1000)
    assert gradient[0] == pytest.approx(1.0 - kink, abs=1e-6)


def test_the_first_intervals_are_evaluated_even_if_more_gradients_than_allowed():
    kink = 0.3
    score = along(lambda t: np.maximum(t - kink, 0.0), lambda t: (t > kink).astype(float))
    gradient, steps = mean_gradient(score, ZERO, ONE, 1e-9, 2)
    assert steps == 16
    assert abs(1.0 - kink - gradient[0]) > 1e-3  # one of them has the kink in it


@pytest.mark.parametrize("most", [19, 20, 64, 200])
def test_no_more_gradients_are_taken_than_allowed(most):
    rng = np.random.default_rng(0)
    kinks = rng.random(50)
    score = along(
        lambda t: np.maximum(t[:, None] - kinks, 0.0).sum(axis=1),
        lambda t: (t[:, None] > kinks).sum(axis=1).astype(float),
    )
    gradient, steps = mean_gradient(score, ZERO, ONE, 1e-9, most)
    assert steps <= most
    rise = (1 - kinks).sum()
    assert gradient[0] == pytest.approx(rise, abs=2.0)
    with_enough, _ = mean_gradient(score, ZERO, ONE, 1e-5, 10_000)
    assert with_enough[0] == pytest.approx(rise, abs=1e-5)


def slow_mean_gradient(model, start, end, class_id, steps=4000):
    """Midpoints, one gradient each."""
    total = np.zeros_like(start, dtype=float)
    for k in range(0, steps, 500):
        t = ((np.arange(k, k + 500) + 0.5) / steps).reshape(-1, *[1] * start.ndim)
        x = tf.constant(start + t * (end - start), tf.float32)
        with tf.GradientTape() as tape:
            tape.watch(x)
            scores = model(x)[:, class_id]
        total += tape.gradient(scores, x).numpy().sum(axis=0) / steps
    return total


def hidden(inputs):
    x = keras.layers.Dense(12, activation="relu")(inputs)
    return keras.layers.Dense(3)(x)


def convolution(inputs):
    x = keras.layers.Conv2D(4, 2, activation="relu")(inputs)
    return keras.layers.Dense(3)(keras.layers.Flatten()(x))


@pytest.mark.parametrize(("maker", "shape"), [(hidden, (5,)), (convolution, (3, 4, 2))])
def test_the_mean_gradient_of_a_head_is_that_of_many_midpoints(maker, shape, rng):
    keras.utils.set_random_seed(1)
    inputs = keras.Input(shape)
    model = keras.Model(inputs, maker(inputs))
    start, end = rng.normal(size=(2, *shape)).astype(np.float32) * 2
    score = partial(score_and_gradient, Head(model), np.array([0.0, 0.0, 1.0]))
    gradient, _ = mean_gradient(score, start, end, 1e-5, 4000)
    np.testing.assert_allclose(gradient, slow_mean_gradient(model, start, end, 2), atol=2e-3)
    scores, _ = score(np.stack([start, end]))
    assert np.sum(gradient * (end - start)) == pytest.approx(scores[1] - scores[0], abs=1e-4)
