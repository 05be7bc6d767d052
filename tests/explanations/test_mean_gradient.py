"""Mean gradients along a path equal known integrals, and a reference implementation for heads."""

from functools import partial

import keras
import numpy as np
import pytest
import tensorflow as tf

from xplique_dirpairs.explanations.contributions import mean_gradient, score_and_gradient
from xplique_dirpairs.models.head import Head

ZERO, ONE = np.zeros(1, np.float32), np.ones(1, np.float32)


def along(function, slope):
    """Return a score, with its gradient, that is a function of a single feature t in [0, 1]."""

    def score(features):
        t = np.asarray(features, float)[:, 0]
        return function(t), slope(t)[:, None]

    return score


@pytest.mark.parametrize("degree", [1, 2, 3, 9])
def test_the_mean_gradient_of_a_power_from_0_to_1_is_1(degree):
    score = along(lambda t: t**degree, lambda t: degree * t ** (degree - 1))
    gradient, _ = mean_gradient(score, ZERO, ONE, 1e-6, 10_000)
    assert gradient[0] == pytest.approx(1.0, abs=1e-5)


@pytest.mark.parametrize("kink", [0.3, 0.5, 0.999])
def test_intervals_are_halved_until_the_error_at_a_kink_is_within_the_tolerance(kink):
    score = along(lambda t: np.maximum(t - kink, 0.0), lambda t: (t > kink).astype(float))
    gradient, _ = mean_gradient(score, ZERO, ONE, 1e-6, 1000)
    assert gradient[0] == pytest.approx(1.0 - kink, abs=1e-6)


def test_two_gradients_in_each_first_interval_are_taken_even_if_max_steps_is_smaller():
    kink = 0.3
    score = along(lambda t: np.maximum(t - kink, 0.0), lambda t: (t > kink).astype(float))
    gradient, steps = mean_gradient(score, ZERO, ONE, 1e-9, 2)
    assert steps == 16
    assert abs(1.0 - kink - gradient[0]) > 1e-3  # the interval with the kink is not halved


@pytest.mark.parametrize("max_steps", [19, 20, 64, 200])
def test_at_most_max_steps_gradients_are_taken(max_steps):
    rng = np.random.default_rng(0)
    kinks = rng.random(50)
    score = along(
        lambda t: np.maximum(t[:, None] - kinks, 0.0).sum(axis=1),
        lambda t: (t[:, None] > kinks).sum(axis=1).astype(float),
    )
    gradient, steps = mean_gradient(score, ZERO, ONE, 1e-9, max_steps)
    assert steps <= max_steps
    rise = (1 - kinks).sum()
    assert gradient[0] == pytest.approx(rise, abs=2.0)
    with_enough, _ = mean_gradient(score, ZERO, ONE, 1e-5, 10_000)
    assert with_enough[0] == pytest.approx(rise, abs=1e-5)


def slow_mean_gradient(model, start, end, class_id, steps=4000):
    """Return the mean of gradients at many midpoints: reference implementation."""
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
def test_the_mean_gradient_of_a_head_equals_the_mean_over_many_midpoints(maker, shape, rng):
    keras.utils.set_random_seed(1)
    inputs = keras.Input(shape)
    model = keras.Model(inputs, maker(inputs))
    start, end = rng.normal(size=(2, *shape)).astype(np.float32) * 2
    score = partial(score_and_gradient, Head(model), np.array([0.0, 0.0, 1.0]))
    gradient, _ = mean_gradient(score, start, end, 1e-5, 4000)
    np.testing.assert_allclose(gradient, slow_mean_gradient(model, start, end, 2), atol=2e-3)
    scores, _ = score(np.stack([start, end]))
    assert np.sum(gradient * (end - start)) == pytest.approx(scores[1] - scores[0], abs=1e-4)
