"""What was found about a head at random features is checked at the features that it is used with,
and a head that is linear up to its final activation is recognised as such."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from xplique_dirpairs.models.head import Head
from xplique_dirpairs.sensitivity.influence import influence_of_directions

SHAPE, K = (6, 6, 16), 4


def head_of(build, shape=SHAPE):
    keras.utils.set_random_seed(0)
    inputs = keras.Input(shape)
    return Head(keras.Model(inputs, build(inputs)))


def pooled(x):
    return layers.GlobalAveragePooling2D()(x)


def far_from_zero(mean):
    """Return a ReLU network after a normalisation of features with this mean."""

    def build(x):
        normalised = layers.BatchNormalization(
            moving_mean_initializer=keras.initializers.Constant(mean),
            moving_variance_initializer=keras.initializers.Constant((mean / 2) ** 2),
        )(pooled(x))
        hidden = layers.Dense(32, activation="relu")(layers.ReLU()(normalised))
        return layers.Dense(K)(hidden)

    return build


def centred(z):
    return z - z.mean(axis=1, keepdims=True)


def unit_effects_by_moving(head, x, directions, amount):
    """Return the mean change of each centred logit per unit length: by moving every position."""
    before = centred(np.asarray(head.model(x), np.float64))
    effects = []
    for direction in directions:
        moved = x + (amount * direction / np.linalg.norm(direction)).astype(np.float32)
        after = centred(np.asarray(head.model(moved), np.float64))
        effects.append((after - before).mean(axis=0) / amount)
    return np.array(effects)


@pytest.mark.parametrize("mean", [5e3, 1e4, 1e5])
def test_a_network_that_is_dead_at_random_features_is_not_linear_where_it_is_used(mean, rng):
    head = head_of(far_from_zero(mean))
    spread = 1 + 0.5 * rng.normal(size=(40, 1, 1, 16)) + 0.1 * rng.normal(size=(40, *SHAPE))
    x = (mean * np.maximum(0, spread)).astype(np.float32)
    assert head.class_rows is not None  # every unit is off at all random features
    checked = head.checked_on(x)
    assert checked.class_rows is None and checked.pools_first
    np.testing.assert_allclose(checked.logits(checked.pool(x)), head.model(x), atol=1e-4)
    directions = rng.normal(size=(3, 16))
    found = influence_of_directions(head, x, None, directions, verbose=0)
    assert not found.is_exact


def test_a_network_with_a_bias_far_out_is_not_linear_where_its_units_turn_off(rng):
    def build(x):
        bias = keras.initializers.Constant(1e4)
        return layers.Dense(K)(layers.Dense(32, "relu", bias_initializer=bias)(pooled(x)))

    head = head_of(build)
    x = (5e4 * np.abs(rng.normal(size=(40, *SHAPE)))).astype(np.float32)
    assert head.checked_on(x).class_rows is None


def test_a_pooling_that_leaves_empty_positions_out_is_not_an_average(rng):
    head = head_of(
        lambda x: layers.Dense(K)(layers.GlobalAveragePooling1D()(layers.Masking(0.0)(x))), (12, 16)
    )
    assert not head.pools_first and head.class_rows is None


class LeastFeature(layers.Layer):
    """The smallest feature of an image, if it is above a threshold."""

    def __init__(self, threshold):
        super().__init__()
        self.threshold = threshold

    def call(self, x):
        return tf.nn.relu(tf.reduce_min(x, axis=(1, 2, 3)) - self.threshold)[:, None]


@pytest.mark.parametrize("threshold", [0.0, 0.4])
def test_a_term_that_only_positive_features_reach_is_found(threshold, rng):
    weights = np.array([[1.0, -1.0, 0.0, 0.0]], np.float32)
    head = head_of(lambda x: layers.Dense(K)(pooled(x)) + LeastFeature(threshold)(x) * weights)
    x = (np.abs(rng.normal(size=(40, *SHAPE))) + 0.5).astype(np.float32)
    checked = head.checked_on(x)
    assert not checked.pools_first and checked.class_rows is None
    direction = np.ones((1, 16))
    found = influence_of_directions(head, x, None, direction, verbose=0)
    by_moving = unit_effects_by_moving(head, x, direction, 5.0)
    np.testing.assert_allclose(found.unit_effects, by_moving, atol=1e-4)


def test_a_linear_head_stays_linear_at_the_features_that_it_is_used_with(rng):
    head = head_of(lambda x: layers.Dense(K)(layers.BatchNormalization()(pooled(x))))
    for scale in (1e-3, 1.0, 1e5):
        x = (scale * np.abs(rng.normal(size=(20, *SHAPE)))).astype(np.float32)
        assert head.checked_on(x) is head
        assert head.checked_on(head.pool(x), step=5.0) is head


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_a_trained_normalisation_is_linear_in_half_precision(policy, rng):
    def build(x):
        normalise = layers.BatchNormalization()
        normalised = normalise(pooled(x))
        normalise.set_weights([
            np.ones(16), rng.normal(size=16), rng.uniform(0.1, 0.5, 16), rng.uniform(0.02, 0.1, 16)
        ])  # fmt: skip
        return layers.Dense(K, dtype="float32")(normalised)

    before = keras.mixed_precision.global_policy()
    keras.mixed_precision.set_global_policy(policy)
    try:
        head = head_of(build)
        hidden = head_of(lambda x: layers.Dense(K)(layers.Dense(32, "relu")(pooled(x))))
    finally:
        keras.mixed_precision.set_global_policy(before)
    x = np.abs(rng.normal(size=(20, *SHAPE))).astype(np.float32)
    assert head.class_rows is not None and head.checked_on(x) is head
    assert hidden.pools_first and hidden.class_rows is None


def test_weights_that_changed_since_are_read_again_before_they_are_used(rng):
    head = head_of(lambda x: layers.Dense(K)(pooled(x)))
    x = np.abs(rng.normal(size=(20, *SHAPE))).astype(np.float32)
    before = head.class_rows
    kernel, bias = head.model.get_weights()
    head.model.set_weights([kernel[:, ::-1], bias])
    for given in (x, head.pool(x)):
        np.testing.assert_allclose(head.checked_on(given).class_rows, before[::-1], atol=1e-5)


# ------------------------------------------------------------ final activations

ENDS = {
    "a dense layer with softmax": lambda z: layers.Activation("softmax")(z),
    "a softmax layer": lambda z: layers.Softmax()(z),
    "independent outputs": lambda z: layers.Activation("sigmoid")(z),
    "log p": lambda z: layers.Activation("log_softmax")(z),
}


@pytest.mark.parametrize("name", ENDS)
def test_a_head_is_linear_whatever_activation_follows(name, rng):
    plain = head_of(lambda x: layers.Dense(K)(pooled(x)))
    ended = head_of(lambda x: ENDS[name](layers.Dense(K)(pooled(x))))
    ended.model.set_weights(plain.model.get_weights())
    x = np.abs(rng.normal(size=(20, *SHAPE))).astype(np.float32)
    rows, wanted = ended.class_rows.T, plain.class_rows.T
    if name != "independent outputs":  # a constant for each image does not count
        rows, wanted = centred(rows), centred(wanted)
    np.testing.assert_allclose(rows, wanted, atol=1e-5)
    assert ended.checked_on(x) is ended
    assert not ended.has_linear_outputs and plain.has_linear_outputs
    column = ended.class_scores(tf.constant(ended.pool(x)), tf.constant(1))
    np.testing.assert_allclose(column, ended.model(x)[:, 1], atol=1e-5)


@pytest.mark.parametrize("name", ENDS)
def test_the_effects_on_a_head_with_a_final_activation_are_those_of_moved_logits(name, rng):
    head = head_of(lambda x: ENDS[name](layers.Dense(K)(pooled(x))))
    x = np.abs(rng.normal(size=(20, *SHAPE))).astype(np.float32)
    directions = rng.normal(size=(3, 16))
    found = influence_of_directions(head, x, None, directions, verbose=0)
    assert found.is_exact and found.tests == 3 * K
    u = directions[:, None] / np.linalg.norm(directions, axis=1)[:, None, None]
    moved = (x.reshape(-1, 16).mean(axis=0) + u[:, 0]).astype(np.float32)
    still = np.tile(x.reshape(-1, 16).mean(axis=0), (3, 1))
    change = head.logits(moved) - head.logits(still)
    if name != "independent outputs":
        change = centred(change)
    np.testing.assert_allclose(found.unit_effects, change, atol=1e-4)


@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
def test_an_activation_after_a_nested_head_hides_nothing(activation, rng):
    inner = head_of(lambda x: layers.Dense(K)(pooled(x))).model
    head = head_of(lambda x: layers.Activation(activation)(inner(x)))
    x = np.abs(rng.normal(size=(20, *SHAPE))).astype(np.float32)
    assert head.pools_first and head.class_rows is not None and head.checked_on(x) is head
    np.testing.assert_allclose(head.predict(head.pool(x)), head.model(x), atol=1e-5)


def test_a_bent_class_beside_much_larger_ones_is_found():
    def build(x):
        large = layers.Dense(3, kernel_initializer=keras.initializers.RandomNormal(stddev=1e4))
        bent = layers.Dense(1)(layers.Dense(32, "relu")(pooled(x)))
        return layers.Concatenate()([large(pooled(x)), bent])

    assert not head_of(build).has_linear_outputs


@pytest.mark.filterwarnings("ignore:You are using a softmax over axis")
def test_the_softmax_of_one_output_does_not_depend_on_its_logit(rng):
    head = head_of(lambda x: layers.Dense(1, activation="softmax")(pooled(x)))
    x = np.abs(rng.normal(size=(20, *SHAPE))).astype(np.float32)
    found = influence_of_directions(head, x, None, rng.normal(size=(3, 16)), verbose=0)
    assert head.class_rows is None
    np.testing.assert_allclose(found.unit_effects, 0.0, atol=1e-6)


def test_a_bent_head_is_not_linear_before_its_softmax():
    bent = head_of(lambda x: layers.Dense(K, "softmax")(layers.Dense(8, "relu")(pooled(x))))
    assert bent.pools_first and bent.class_rows is None
