"""Tests of the head: outputs, logits, class rows and entropies for every final activation."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers
from small_networks import SHAPE, K, features, functional, head_of, pooled_dense, sequential

from xplique_dirpairs.models.head import Head
from xplique_dirpairs.models.split import split_model


@pytest.fixture(autouse=True)
def _seed():
    keras.utils.set_random_seed(0)


# ------------------------------------------------------------------ the head


@pytest.mark.parametrize("last", [lambda x: x[:, None], lambda x: x[:, 0]])
def test_a_head_without_one_output_of_classes_is_refused(last):
    message = r"one output for K classes, \(N, K\), but its output has shape"
    with pytest.raises(ValueError, match=message):
        head_of(lambda x: last(layers.Dense(K)(layers.Flatten()(x))))
    with pytest.raises(ValueError, match=message):
        Head(last).outputs(tf.ones((5, 4)))
    inputs = keras.Input((4,))
    with pytest.raises(ValueError, match=message):
        Head(keras.Model(inputs, [layers.Dense(K)(inputs), layers.Dense(K)(inputs)]))


def test_multilabel_declares_the_outputs_of_a_head_of_logits_independent():
    half = keras.Sequential([keras.Input((4,)), layers.Dense(K)])
    assert Head(half, multilabel=True).is_multilabel and not Head(half).is_multilabel
    with pytest.raises(ValueError, match="multilabel=False contradicts"):
        Head(half, "sigmoid", multilabel=False)


def test_a_head_ends_in_one_of_three_activations():
    with pytest.raises(TypeError, match="callable, not list"):
        Head([1, 2])
    with pytest.raises(ValueError, match="ends_in must be one of"):
        Head(functional(), ends_in="foo")


def test_activations_of_another_layer_do_not_fit_a_head():
    head = Head(functional())
    head.check_takes(SHAPE)
    head.check_takes((None, 6, 2))
    Head(split_model(functional(), "cut")[1]).check_takes((4,))  # pooled already
    for shape in ((8, 6, 3), (2,)):
        with pytest.raises(ValueError, match=r"takes activations of shape \(8, 6, 2\)"):
            head.check_takes(shape)
    Head(tf.nn.softmax).check_takes((1, 2))  # a function does not tell


def bits(p):
    return -sum(v * np.log2(v) for v in p if v > 0)


HEADS = {
    "logits": (None, K),
    "softmax": ("softmax", K),
    "sigmoid": ("sigmoid", 1),
    "sigmoids": ("sigmoid", K),
    "one logit": (None, 1),
}


@pytest.mark.parametrize("name", HEADS)
def test_the_entropy_is_that_of_the_class_probabilities_in_bits(name):
    activation, classes = HEADS[name]
    head = head_of(lambda x: layers.Dense(classes, activation=activation)(layers.Flatten()(x)))
    raw = head.model(features()).numpy().astype(float)
    slow = []
    for row in raw:
        if name == "logits":
            slow.append(bits(np.exp(row) / np.exp(row).sum()))
        elif name == "softmax":
            slow.append(bits(row))
        else:
            p = row if activation else 1 / (1 + np.exp(-row))
            slow.append(np.mean([bits([v, 1 - v]) for v in p]))
    np.testing.assert_allclose(head.entropy(tf.constant(features())), slow, rtol=1e-4)


@pytest.mark.parametrize("name", HEADS)
def test_the_entropy_of_a_sure_network_is_zero_with_finite_gradients(name):
    activation, classes = HEADS[name]
    head = head_of(lambda x: layers.Dense(classes, activation=activation)(layers.Flatten()(x)))
    x = tf.Variable(1e4 * features())
    with tf.GradientTape() as tape:
        entropy = head.entropy(x)
    np.testing.assert_allclose(entropy, 0.0, atol=1e-6)
    assert np.isfinite(tape.gradient(entropy, x)).all()


def test_probabilities_and_logits_of_one_network_have_one_entropy():
    probabilities = Head(functional().layers[-1])  # a layer is a function too: tell what it ends in
    dense = probabilities.model
    entropy = Head(dense, ends_in="softmax").entropy(tf.constant(features(shape=(4,))))
    logits = features(shape=(4,)) @ dense.kernel.numpy() + dense.bias.numpy()
    raw = Head(layers.Identity()).entropy(tf.constant(logits))
    np.testing.assert_allclose(raw, entropy, rtol=1e-4)


def test_a_sequential_head_predicts_as_its_model_does():
    head = Head(keras.Sequential([keras.Input((3, 2, 4)), layers.Flatten(), layers.Dense(K)]))
    assert not head.pools_first
    np.testing.assert_allclose(
        head.predict(head.pool(features())), head.model(features()), rtol=1e-5
    )


POOLING = {
    "2-D": (layers.GlobalAveragePooling2D, (3, 2, 4)),
    "1-D": (layers.GlobalAveragePooling1D, (5, 4)),
}


@pytest.mark.parametrize("name", POOLING)
def test_pooling_first_is_exact(name):
    pooling, shape = POOLING[name]
    head = head_of(
        lambda x: layers.Dense(K)(layers.Dense(6, activation="gelu")(pooling()(x))), shape
    )
    x = features(7, shape)
    assert head.pools_first and head.pool(x).shape == (7, 4)
    np.testing.assert_allclose(head.predict(head.pool(x)), head.model(x), rtol=1e-4, atol=1e-6)
    np.testing.assert_array_equal(head.pool(head.pool(x)), head.pool(x))


def test_a_network_split_at_a_pooled_layer_has_a_head_that_pools():
    _, second = split_model(functional(), "cut")
    assert Head(second).pools_first
    assert not Head(split_model(sequential(), "cut")[1]).pools_first


NOT_POOLING = {
    "activation before": lambda x: pooled_dense(layers.ReLU()(x)),
    "two branches": lambda x: layers.Add()(
        [
            layers.Dense(K)(layers.GlobalAveragePooling2D()(x)),
            layers.Dense(K)(layers.GlobalMaxPooling2D()(x)),
        ]
    ),
    "maximum": lambda x: layers.Dense(K)(layers.GlobalMaxPooling2D()(x)),
    "normalised positions": lambda x: pooled_dense(layers.LayerNormalization()(x), None),
    "borders": lambda x: pooled_dense(layers.Conv2D(3, 3, padding="same")(x), None),
    "a bent position": lambda x: pooled_dense(layers.ReLU(threshold=300.0)(x) + x, None),
}


@pytest.mark.parametrize("name", NOT_POOLING)
def test_features_are_not_pooled_where_that_would_not_be_exact(name):
    head = head_of(NOT_POOLING[name])
    assert head.pool(features()).shape == features().shape
    np.testing.assert_allclose(
        head.predict(head.pool(features())), head.model(features()), rtol=1e-5
    )


@pytest.mark.parametrize("batch_size", [1, 3, 7, 64])
def test_predictions_do_not_depend_on_the_batch_size(batch_size):
    head = head_of(lambda x: layers.Dense(K)(layers.Flatten()(x)))
    outputs = head.predict(features(7), batch_size)
    assert isinstance(outputs, np.ndarray) and outputs.shape == (7, K)
    np.testing.assert_allclose(outputs, head.model(features(7)), rtol=1e-5, atol=1e-6)


def test_a_head_may_be_any_function_and_knows_the_number_of_classes_of_a_model():
    function = Head(lambda x: tf.reduce_mean(x, axis=(1, 2)))
    assert not function.pools_first and function.number_of_classes is None
    np.testing.assert_allclose(function.predict(features()), features().mean((1, 2)), rtol=1e-5)
    assert Head(functional()).number_of_classes == K


def test_dropout_is_off_in_predictions():
    head = head_of(lambda x: layers.Dense(K)(layers.Dropout(0.9)(layers.Flatten()(x))))
    np.testing.assert_array_equal(head.predict(features()), head.predict(features()))


@pytest.mark.parametrize(
    "make_head",
    [
        lambda x: layers.Dense(K)(layers.GlobalAveragePooling2D()(x)),
        lambda x: layers.Dense(K, use_bias=False)(layers.Flatten()(x)),
        lambda x: layers.Dense(K, activation="softmax")(layers.Flatten()(x)),
        lambda x: layers.Reshape((K,))(layers.Dense(K)(layers.Flatten()(x))),
    ],
)
def test_the_score_of_one_class_is_its_column(make_head):
    head = head_of(make_head)
    pooled = tf.constant(head.pool(features()))
    for class_id in range(K):
        column = head.outputs(pooled)[:, class_id]
        np.testing.assert_allclose(
            head.class_scores(pooled, tf.constant(class_id)), column, rtol=1e-5, atol=1e-6
        )


@pytest.fixture
def mixed_precision():
    keras.config.set_dtype_policy("mixed_float16")
    yield
    keras.config.set_dtype_policy("float32")


@pytest.mark.usefixtures("mixed_precision")
@pytest.mark.parametrize(
    "make_head",
    [
        lambda x: layers.Dense(K)(layers.Dropout(0.5)(layers.GlobalAveragePooling2D()(x))),
        lambda x: layers.Dense(K)(layers.Dense(5)(layers.GlobalAveragePooling2D()(x))),
        lambda x: layers.Dense(K)(layers.GlobalAveragePooling2D()(x)),
        lambda x: layers.Dense(K, activation="softmax", dtype="float32")(layers.Flatten()(x)),
        lambda x: layers.Dense(K, activation="softmax")(layers.Flatten()(x)),
    ],
)
def test_the_score_of_one_class_is_its_column_in_half_precision_too(make_head):
    head = head_of(make_head)
    pooled = tf.constant(head.pool(features()))
    for class_id in range(K):
        scores = head.class_scores(pooled, tf.constant(class_id))
        assert scores.dtype == tf.float32
        np.testing.assert_allclose(scores, head.outputs(pooled)[:, class_id], atol=5e-3)


# Keras' own, when it reads a variable under numpy 2
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
def test_the_score_of_one_class_is_its_column_in_a_quantised_head():
    head = head_of(lambda x: layers.Dense(K)(layers.Flatten()(x)))
    head.model.layers[-1].quantize("int8")
    x = tf.constant(features())
    np.testing.assert_allclose(
        head.class_scores(x, tf.constant(1)), head.outputs(x)[:, 1], rtol=1e-5
    )


# ------------------------------------------------------------------ logits and class rows


@pytest.mark.parametrize("activation", ["softmax", "sigmoid", None])
def test_the_activation_of_the_logits_gives_the_outputs(activation):
    inputs = keras.Input((3, 3, 4))
    pooled = keras.layers.GlobalAveragePooling2D()(inputs)
    head = Head(keras.Model(inputs, keras.layers.Dense(5, activation=activation)(pooled)))
    x = np.random.default_rng(0).normal(size=(7, 3, 3, 4)).astype(np.float32)
    logits, outputs = head.logits(x), head.predict(x)
    if activation == "softmax":
        back = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    else:
        back = 1 / (1 + np.exp(-logits)) if activation == "sigmoid" else logits
    np.testing.assert_allclose(back, outputs, rtol=1e-5)
    assert head.is_multilabel == (activation == "sigmoid")


def test_certain_outputs_have_finite_logits():
    inputs = keras.Input((2,))
    for activation in ("softmax", "sigmoid"):
        head = Head(keras.Model(inputs, keras.layers.Activation(activation)(inputs)))
        assert np.isfinite(head.logits(np.array([[1e4, -1e4]], np.float32))).all()


def test_a_linear_head_has_a_row_of_weights_for_every_class():
    inputs = keras.Input((3, 3, 4))
    pooled = keras.layers.GlobalAveragePooling2D()(inputs)
    dense = keras.layers.Dense(5)
    head = Head(keras.Model(inputs, dense(pooled)))
    x = np.random.default_rng(0).normal(size=(7, 3, 3, 4)).astype(np.float32)
    np.testing.assert_allclose(head.pool(x) @ head.class_rows.T, head.predict(x), atol=1e-5)
    hidden = keras.layers.Dense(6, activation="relu")(pooled)
    assert Head(keras.Model(inputs, keras.layers.Dense(5)(hidden))).class_rows is None


LINEAR = {
    "kept axes": lambda x: layers.Reshape((5,))(
        layers.Conv2D(5, 1)(layers.GlobalAveragePooling2D(keepdims=True)(x))
    ),
    "pooling only": lambda x: layers.GlobalAveragePooling2D()(x),
    "a window as large as the map": lambda x: layers.Dense(5)(
        layers.Flatten()(layers.AveragePooling2D((4, 6))(x))
    ),
    "a convolution of positions": lambda x: pooled_dense(layers.Conv2D(6, 1)(x), None),
    "a fixed normalisation": lambda x: pooled_dense(
        layers.BatchNormalization(
            moving_mean_initializer="random_normal", moving_variance_initializer="ones", epsilon=0.5
        )(x),
        None,
    ),
    "dropout, which predictions leave out": lambda x: pooled_dense(
        layers.Dropout(0.5)(x, training=True), None
    ),
    "two linear layers": lambda x: layers.Dense(5)(layers.Dense(7)(keras.ops.mean(x, axis=(1, 2)))),
    "a sum over positions": lambda x: layers.Dense(5)(keras.ops.sum(x, axis=(1, 2))),
}


@pytest.mark.parametrize("name", LINEAR)
def test_a_head_that_is_linear_after_pooling_is_recognised_whatever_its_layers(name):
    head = head_of(LINEAR[name], (4, 6, 8))
    x = features(7, (4, 6, 8))
    assert head.pools_first
    offset = head.predict(0 * x[:1])
    wanted = head.model(x, training=False)
    np.testing.assert_allclose(head.pool(x) @ head.class_rows.T + offset, wanted, atol=1e-5)
    np.testing.assert_allclose(head.predict(head.pool(x)), wanted, rtol=1e-4, atol=1e-5)
    features_again = tf.Variable(head.pool(x))
    with tf.GradientTape() as tape:
        first = head.outputs(features_again)[:, 0]
    np.testing.assert_allclose(
        tape.gradient(first, features_again)[0], head.class_rows[0], atol=1e-6
    )


def test_the_head_of_the_mobilenet_of_keras_is_linear_after_pooling():
    model = keras.applications.MobileNet((96, 96, 3), alpha=0.25, weights=None)
    head = Head(split_model(model, "conv_pw_13_relu")[1])
    x = features(3, (3, 3, 256))
    assert head.pools_first and head.class_rows.shape == (1000, 256)
    logits = head.model(x)
    np.testing.assert_allclose(head.pool(x) @ head.class_rows.T, logits, atol=1e-5)
    np.testing.assert_allclose(
        head.class_scores(tf.constant(head.pool(x)), tf.constant(7)), logits[:, 7], atol=1e-5
    )


def hidden(activation, **how):
    return lambda x: layers.Dense(5)(
        layers.Dense(8, activation=activation, **how)(layers.GlobalAveragePooling2D()(x))
    )


NOT_LINEAR = {
    "a hidden layer": hidden("relu"),
    "a smooth hidden layer": hidden("gelu"),
    "units that fire only far out": hidden(
        "relu", bias_initializer=keras.initializers.Constant(-200.0)
    ),
    "units that are off only far out": hidden(
        "relu", bias_initializer=keras.initializers.Constant(200.0)
    ),
    "units that saturate": hidden("tanh"),
    "units that saturate far out": hidden("relu6"),
    "a normalisation of each image": lambda x: layers.Dense(5)(
        layers.LayerNormalization()(layers.GlobalAveragePooling2D()(x))
    ),
}


@pytest.mark.parametrize("name", NOT_LINEAR)
def test_a_head_that_is_bent_anywhere_is_not_linear_though_it_pools_first(name):
    head = head_of(NOT_LINEAR[name], (4, 6, 8))
    assert head.pools_first and head.class_rows is None


def test_a_head_of_vectors_can_be_linear_and_a_head_that_tells_positions_apart_is_not():
    assert head_of(layers.Dense(5), (6,)).class_rows.shape == (5, 6)
    assert head_of(lambda x: layers.Dense(5, "relu")(x), (6,)).class_rows is None
    assert head_of(lambda x: layers.Dense(5)(layers.Flatten()(x))).class_rows is None
    assert Head(lambda x: tf.reduce_mean(x, axis=(1, 2))).class_rows is None


def test_a_head_with_random_outputs_is_neither_pooled_nor_linear():
    def noisy(x):
        return x + tf.random.normal(tf.shape(x))

    head = head_of(lambda x: pooled_dense(layers.Lambda(noisy, output_shape=x.shape[1:])(x), None))
    assert not head.pools_first and head.class_rows is None


def test_a_head_that_leaves_the_size_of_maps_open_is_recognised():
    head = head_of(lambda x: pooled_dense(x, None), (None, None, 4))
    assert head.pools_first and head.class_rows.shape == (K, 4)
    half = head_of(lambda x: pooled_dense(layers.MaxPooling2D(5)(x), None), (None, None, 4))
    assert not half.pools_first


@pytest.mark.usefixtures("mixed_precision")
def test_a_linear_head_in_half_precision_is_linear_up_to_its_rounding():
    head = head_of(lambda x: layers.Dense(K)(layers.GlobalAveragePooling2D()(x)))
    assert head.pools_first
    np.testing.assert_allclose(head.class_rows.T, head.model.layers[-1].kernel, atol=2e-3)
    assert head_of(hidden("relu")).class_rows is None


def test_pooled_features_and_maps_can_both_be_predicted_in_any_order_and_number():
    head = Head(split_model(functional(), "cut")[1])
    x = np.random.default_rng(0).normal(size=(9, 6, 4, 4)).astype(np.float32)
    wanted = head.outputs(x).numpy()
    for count in (9, 5, 3):
        np.testing.assert_allclose(head.predict(x[:count]), wanted[:count], atol=1e-5)
        np.testing.assert_allclose(head.predict(head.pool(x[:count])), wanted[:count], atol=1e-5)


# ------------------------------------------------------------------ one output, two classes


def one_output(activation, hidden=False):
    def make(x):
        x = layers.GlobalAveragePooling2D()(x)
        x = layers.Dense(6, activation="gelu")(x) if hidden else x
        return layers.Dense(1, activation=activation)(x)

    return head_of(make)


@pytest.mark.parametrize("activation", [None, "sigmoid"])
def test_one_output_is_two_classes_whose_logits_are_opposite(activation):
    head, x = one_output(activation), features(7)
    both = head.by_class(x)
    z = head.logits(x)
    assert head.number_of_classes == 1 and both.number_of_classes == 2
    np.testing.assert_allclose(both.logits(x), np.hstack([-z, z]), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(both.few_logits(x), both.logits(x), rtol=1e-4, atol=1e-5)
    outputs = head.predict(x)
    no = 1 - outputs if activation else -outputs
    np.testing.assert_allclose(both.predict(x), np.hstack([no, outputs]), atol=1e-6)
    probabilities = 1 / (1 + np.exp(-both.logits(x)))
    np.testing.assert_allclose(probabilities.sum(axis=1), 1.0, rtol=1e-5)
    np.testing.assert_allclose(
        both.entropy(tf.constant(x)), head.entropy(tf.constant(x)), rtol=1e-4
    )
    assert head.number_of_classes == 1  # the head itself stays as it is


def test_the_class_rows_of_one_output_are_opposite():
    head, x = one_output(None), features(5)
    both = head.by_class(x)
    np.testing.assert_array_equal(
        both.class_rows, np.concatenate([-head.class_rows, head.class_rows])
    )
    assert one_output(None, hidden=True).by_class(x).class_rows is None
    for class_id in (0, 1):
        np.testing.assert_allclose(
            both.class_scores(tf.constant(x), tf.constant(class_id)),
            both.outputs(tf.constant(x))[:, class_id],
            rtol=1e-5,
        )


def test_a_head_by_class_is_pooled_first_as_before():
    head, x = one_output("sigmoid", hidden=True), features(5)
    both = head.by_class(x)
    np.testing.assert_allclose(both.predict(both.pool(x)), both.predict(x), rtol=1e-4)


@pytest.mark.parametrize("activation", [None, "softmax", "sigmoid"])
def test_by_class_does_not_change_several_outputs(activation):
    head = head_of(lambda x: pooled_dense(x, activation))
    assert head.by_class(features()) is head
    assert head.by_class(features()).has_exclusive_classes == (activation != "sigmoid")
    assert head.class_activation == ("sigmoid" if activation == "sigmoid" else "softmax")


def test_by_class_can_be_applied_repeatedly():
    x = features()
    function = Head(lambda values: tf.reduce_mean(values, axis=(1, 2, 3))[:, None])
    both = function.by_class(x)
    np.testing.assert_allclose(both.logits(x)[:, 0], -both.logits(x)[:, 1], rtol=1e-6)
    np.testing.assert_allclose(both.by_class(x).logits(x), both.logits(x))
    assert both.has_exclusive_classes and both.class_activation == "sigmoid"
    assert both.by_class(x).predict(x).shape == (5, 2)
    assert one_output(None).has_exclusive_classes
