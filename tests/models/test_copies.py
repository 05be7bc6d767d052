"""Tests of copied models: they compute what the original does, or an error says where not."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from xplique_dirpairs.models.copies import copied_model
from xplique_dirpairs.models.split import split_model

layers = keras.layers
SHAPE = (8, 8, 3)


@pytest.fixture
def x(rng):
    return (50 * rng.random((6, *SHAPE))).astype(np.float32)


def network(*middle, inputs=None, names=(), softmax=False):
    """Return a network of the given layers before a pooling and a dense layer."""
    keras.utils.set_random_seed(0)
    inputs = keras.Input(SHAPE) if inputs is None else inputs
    h = keras.tree.flatten(inputs)[0]
    for layer in middle:
        h = layer(h)
    h = layers.GlobalAveragePooling2D()(layers.Rescaling(1.0)(h))
    return keras.Model(inputs, layers.Dense(3, activation="softmax" if softmax else None)(h))


def adapted(layer, x):
    layer.adapt(x)
    return layer


def nested(*middle):
    """Return a model of the layers, for use as a layer."""
    inputs = keras.Input(SHAPE)
    h = inputs
    for layer in middle:
        h = layer(h)
    return keras.Model(inputs, h)


@keras.saving.register_keras_serializable("tests of copies")
class Scaled(layers.Layer):
    """Multiplies by a weight that is set when the layer is built."""

    def build(self, shape):
        self.scale = self.add_weight(shape=(), initializer=lambda *_, **__: 3.0)

    def call(self, x):
        return self.scale * x


class Unregistered(layers.Layer):
    """Multiplies by a setting, which its configuration has."""

    def __init__(self, factor=2.0, **options):
        super().__init__(**options)
        self.factor = factor

    def get_config(self):
        return super().get_config() | {"factor": self.factor}

    def compute_output_shape(self, shape):
        return shape

    def call(self, x):
        return self.factor * x


class Forgetful(layers.Layer):
    """Multiplies by a number that neither its configuration nor a weight holds."""

    factor = 1.0

    def call(self, x):
        return self.factor * x


def forgetful(factor):
    layer = Forgetful(name="forgetful")
    layer.factor = factor
    return layer


class HeldInVariable(layers.Layer):
    """Multiplies by a TensorFlow variable, which Keras does not save."""

    def __init__(self, **options):
        super().__init__(**options)
        self.factor = tf.Variable(1.0)

    def call(self, x):
        return self.factor * x


def held(factor):
    layer = HeldInVariable(name="held")
    layer.factor.assign(factor)
    return layer


def local_layer():
    class Local(layers.Layer):
        def call(self, x):
            return 2 * x

    return Local()


CASES = {
    "normalization": lambda x: network(adapted(layers.Normalization(), x)),
    "nested normalization": lambda x: network(nested(nested(adapted(layers.Normalization(), x)))),
    "discretization": lambda x: network(adapted(layers.Discretization(num_bins=5), x)),
    "weight set in build": lambda x: network(Scaled()),
    "class that is not registered": lambda x: network(nested(Unregistered(3.0))),
    "local class": lambda x: network(local_layer()),
    "batch normalization": lambda x: network(layers.BatchNormalization()),
    "wrapper": lambda x: network(layers.TimeDistributed(Unregistered(3.0))),
    "any size": lambda x: network(layers.Conv2D(3, 3), inputs=keras.Input((None, None, 3))),
    "fixed batch": lambda x: network(inputs=keras.Input(batch_shape=(6, *SHAPE))),
}


@pytest.mark.parametrize("case", CASES)
def test_the_copy_computes_what_the_model_does_and_shares_nothing_with_it(case, x):
    model = CASES[case](x)
    copied = copied_model(model, x)
    wanted = model(x).numpy()
    np.testing.assert_allclose(copied(x), wanted, atol=1e-5 * np.abs(wanted).max())
    for weight in copied.weights:
        weight.assign(0 * weight)
    np.testing.assert_array_equal(model(x), wanted)


def test_integers_that_a_vocabulary_translates_are_translated_alike(rng):
    x = rng.integers(0, 9, (6, *SHAPE))
    lookup = layers.IntegerLookup(max_tokens=9)
    lookup.adapt(x.ravel())
    model = network(lookup, inputs=keras.Input(SHAPE, dtype="int64"))
    np.testing.assert_array_equal(copied_model(model)(x), model(x))


def test_states_of_random_generators_are_copied(x):
    keras.utils.set_random_seed(0)
    inputs = keras.Input(SHAPE)
    noisy = layers.Dropout(0.5, seed=1)(inputs, training=True)
    model = keras.Model(inputs, layers.Dense(3)(layers.GlobalAveragePooling2D()(noisy)))
    model(x)
    copied = copied_model(model)
    np.testing.assert_array_equal(copied(x), model(x))
    assert np.abs(model(x) - model(x)).max() > 0


def test_a_model_that_is_random_in_another_way_is_copied_with_a_warning(x):
    def noisy(values):
        return values + tf.random.normal(tf.shape(values))

    model = network(layers.Lambda(noisy, output_shape=SHAPE, name="noisy"))
    with pytest.warns(UserWarning) as warned:
        copied_model(model)
    assert any("'noisy' (Lambda) are random" in str(each.message) for each in warned)


@pytest.mark.parametrize("make", [forgetful, held], ids=["attribute", "TensorFlow variable"])
@pytest.mark.parametrize("depth", [0, 1])
def test_a_layer_whose_state_is_not_saved_is_named(make, depth):
    keras.utils.set_random_seed(0)
    layer = make(3.0)
    model = network(nested(layer) if depth else layer)
    with pytest.raises(ValueError, match=r"does not compute what the model does.*add_weight"):
        copied_model(model)
    if not depth:
        with pytest.raises(ValueError, match=f"first in layer '{layer.name}'"):
            copied_model(model)


def test_a_difference_that_only_given_images_show_is_found(x):
    class Above(Forgetful):
        def call(self, values):
            return values + self.factor * keras.ops.cast(values > 300, "float32")

    layer = Above(name="above")
    layer.factor = 5.0
    model = network(layer)
    copied_model(model, x)
    with pytest.raises(ValueError, match="first in layer 'above'"):
        copied_model(model, 10 * x)


@pytest.mark.parametrize("depth", [0, 1, 2])
def test_lambdas_at_any_depth_are_copied_with_one_warning(depth, x):
    layer = layers.Lambda(lambda values: 2 * values, name="twice")
    for _ in range(depth):
        layer = nested(layer)
    model = network(layer)
    with pytest.warns(UserWarning, match=r"layer 'twice' \(Lambda\).*safe_mode=False") as warned:
        copied = copied_model(model)
    assert len(warned) == 1
    np.testing.assert_allclose(copied(x), model(x), rtol=1e-5)


@pytest.mark.parametrize("depth", [0, 1])
def test_a_lambda_that_cannot_be_rebuilt_is_refused_with_what_to_do(depth):
    layer = layers.Lambda(lambda values: tf.nn.relu(values), name="clipped")
    model = network(nested(layer) if depth else layer)
    with pytest.raises(ValueError, match=r"layer 'clipped' \(Lambda\) cannot.*keras.ops") as raised:
        copied_model(model)
    assert len(str(raised.value)) < 500


def test_half_precision_is_compared_with_its_own_tolerance(x):
    keras.mixed_precision.set_global_policy("mixed_float16")
    try:
        model = network(adapted(layers.Normalization(), x), layers.Conv2D(4, 3))
    finally:
        keras.mixed_precision.set_global_policy("float32")
    copied = copied_model(model, x)
    assert copied.layers[-1].compute_dtype == "float16"
    np.testing.assert_allclose(copied(x), model(x), rtol=5e-3)


class Tempered(layers.Dense):
    """Divides what its activation takes by a temperature that its configuration does not have."""

    temperature = 1.0

    def call(self, x):
        z = keras.ops.matmul(x, self.kernel) / self.temperature
        return self.activation(z) if self.activation else z


def test_a_last_layer_that_its_configuration_does_not_describe_keeps_its_activation(x):
    inputs = keras.Input(SHAPE)
    features = layers.Conv2D(4, 3, name="features")(inputs)
    last = Tempered(3, activation="softmax")
    model = keras.Model(inputs, last(layers.GlobalAveragePooling2D()(features)))
    last.temperature = 7.0
    with pytest.warns(UserWarning, match="outputs sum to 1"):
        split = split_model(model, "features")
    logits = split.head.logits(np.asarray(split.input_to_latent_model(x)))
    p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(p, model(x), atol=1e-5)
