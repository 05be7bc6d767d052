import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from xplique_dirpairs.models.graph import final_activation
from xplique_dirpairs.models.head import Head
from xplique_dirpairs.models.split import split_model

K, SHAPE = 3, (8, 6, 2)


@pytest.fixture(autouse=True)
def _seed():
    keras.utils.set_random_seed(0)


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


def residual():
    inputs = keras.Input(SHAPE)
    x = layers.Conv2D(4, 3, padding="same", name="before")(inputs)
    branch = layers.Conv2D(4, 3, padding="same", name="inside")(x)
    x = layers.Add(name="cut")([x, branch])
    after = layers.Conv2D(4, 3, padding="same")(x)  # a branch after the cut does no harm
    return keras.Model(inputs, pooled_dense(layers.Add()([x, after])))


def nested_classifier():
    inner_inputs = keras.Input((4,))
    inner = keras.Model(inner_inputs, layers.Dense(K, activation="softmax")(inner_inputs))
    inputs = keras.Input(SHAPE)
    x = layers.Conv2D(4, 3, name="cut")(inputs)
    return keras.Model(inputs, inner(layers.GlobalAveragePooling2D()(x)))


def backbone(made_by):
    """A network on top of a whole model, as in transfer learning; the model is the layer."""
    if made_by == "sequential":
        base = keras.Sequential([keras.Input(SHAPE), layers.Conv2D(4, 3, name="inner")], name="cut")
    else:
        base_inputs = keras.Input(SHAPE)
        base = keras.Model(base_inputs, layers.Conv2D(4, 3)(base_inputs), name="cut")
    inputs = keras.Input(SHAPE)
    return keras.Model(inputs, pooled_dense(base(inputs)))


def twice_nested():
    outer = keras.Sequential([keras.Input(SHAPE), backbone("sequential").layers[1]], name="outer")
    return keras.Sequential([keras.Input(SHAPE), outer, layers.Flatten(), layers.Dense(K)])


def segmentation():
    inputs = keras.Input(SHAPE)
    x = layers.Conv2D(4, 3, name="cut")(inputs)
    return keras.Model(inputs, layers.Conv2D(K, 1)(x))


def under(make_last):
    """Softmax, and something behind it."""

    def make():
        inputs = keras.Input(SHAPE)
        x = layers.Conv2D(4, 3, name="cut")(inputs)
        return keras.Model(inputs, make_last(pooled_dense(x)))

    return make


def softmax_before_the_reshaping():
    inputs = keras.Input(SHAPE)
    x = layers.Conv2D(4, 3, name="cut")(inputs)
    x = layers.Dense(K, activation="softmax")(layers.GlobalAveragePooling2D(keepdims=True)(x))
    return keras.Model(inputs, layers.Flatten()(x))


def bare_operation():
    inputs = keras.Input(SHAPE)
    x = layers.Conv2D(4, 3, name="cut")(inputs)
    return keras.Model(inputs, keras.ops.softmax(pooled_dense(x, None)))


def custom_last_layer():
    inputs = keras.Input(SHAPE)
    x = layers.Conv2D(4, 3, name="cut")(inputs)
    return keras.Model(inputs, Cosine(K, "softmax")(layers.GlobalAveragePooling2D()(x)))


@keras.saving.register_keras_serializable("tests")
class Cosine(layers.Layer):
    """A user's classifier layer; its weights are not called kernel and bias."""

    def __init__(self, units, activation=None, **kwargs):
        super().__init__(**kwargs)
        self.units, self.activation = units, keras.activations.get(activation)

    def build(self, shape):
        self.rows = self.add_weight(shape=(shape[-1], self.units), initializer="random_normal")

    def call(self, x):
        return self.activation(keras.ops.matmul(x, self.rows))

    def get_config(self):
        activation = keras.activations.serialize(self.activation)
        return {**super().get_config(), "units": self.units, "activation": activation}


def images(count=5):
    return np.random.default_rng(0).normal(size=(count, *SHAPE)).astype(np.float32)


@pytest.mark.parametrize(
    "maker",
    [
        functional,
        sequential,
        residual,
        nested_classifier,
        bare_operation,
        pytest.param(lambda: functional(None), id="logits"),
        pytest.param(lambda: functional("sigmoid"), id="sigmoid"),
        pytest.param(lambda: backbone("sequential"), id="sequential backbone"),
        pytest.param(lambda: backbone("functional"), id="functional backbone"),
        custom_last_layer,
        softmax_before_the_reshaping,
        pytest.param(under(layers.Reshape((K,))), id="reshaped"),
        pytest.param(under(lambda x: keras.ops.reshape(x, (-1, K))), id="reshape operation"),
        pytest.param(under(lambda x: keras.ops.squeeze(keras.ops.expand_dims(x, 1), 1)), id="axes"),
        pytest.param(under(lambda x: keras.ops.cast(x, "float32")), id="cast"),
    ],
)
def test_the_two_halves_are_the_network_up_to_its_final_activation(maker):
    model = maker()
    weights = [w.numpy() for w in model.weights]
    expected = model(images()).numpy()
    first, second = split_model(model, "cut")
    logits = second(first(images()))
    finish = {
        "softmax": keras.ops.softmax,
        "sigmoid": keras.ops.sigmoid,
        "linear": lambda values: values,
    }[final_activation(model)]
    np.testing.assert_allclose(finish(logits), expected, rtol=1e-5, atol=1e-6)
    assert final_activation(second) == "linear"
    # the model itself is as it was
    np.testing.assert_array_equal(model(images()), expected)
    assert all(np.array_equal(a, w) for a, w in zip(weights, model.weights, strict=True))


def test_a_layer_is_named_numbered_or_given():
    model = functional()
    expected = split_model(model, "cut")[0](images())
    for layer in (model.get_layer("cut"), 1, -3, np.int64(1)):
        np.testing.assert_array_equal(split_model(model, layer)[0](images()), expected)


def test_a_model_can_be_split_twice_and_its_half_again():
    model = residual()
    for layer in ("cut", "before", "cut"):
        first, second = split_model(model, layer)
        probabilities = keras.ops.softmax(second(first(images())))
        np.testing.assert_allclose(probabilities, model(images()), rtol=1e-5, atol=1e-6)


def test_a_model_made_of_layers_of_another_one_can_be_split():
    _, second = split_model(residual(), "before")
    third, last = split_model(second, "cut")
    x = features(shape=second.input_shape[1:])
    np.testing.assert_allclose(last(third(x)), second(x), rtol=1e-5, atol=1e-6)


def test_half_a_network_of_logits_can_be_cut_right_before_its_softmax():
    model = sequential()
    first, second = split_model(model, -2)
    np.testing.assert_allclose(
        keras.ops.softmax(second(first(images()))), model(images()), rtol=1e-5
    )


# ------------------------------------------------------------------ what cannot be split


def two_inputs():
    a, b = keras.Input((4,)), keras.Input((4,))
    return keras.Model([a, b], layers.Dense(K)(layers.Add(name="cut")([a, b])))


def two_outputs():
    inputs = keras.Input((4,))
    x = layers.Dense(4, name="cut")(inputs)
    return keras.Model(inputs, [layers.Dense(K)(x), layers.Dense(K)(x)])


def used_twice():
    inputs, shared = keras.Input((4,)), layers.Dense(4, name="cut")
    return keras.Model(inputs, layers.Dense(K)(shared(shared(inputs))))


class Subclassed(keras.Model):
    def __init__(self):
        super().__init__()
        self.dense = layers.Dense(K, name="cut")

    def call(self, x):
        return self.dense(x)


def unbuilt():
    return keras.Sequential([layers.Dense(4, name="cut"), layers.Dense(K)])


@pytest.mark.parametrize(
    "maker, layer, message",
    [
        (two_inputs, "cut", "one input and one output, not 2 and 1"),
        (two_outputs, "cut", "one input and one output, not 1 and 2"),
        (used_twice, "cut", "used several times"),
        (Subclassed, "cut", "built"),
        (unbuilt, "cut", "built"),
        (residual, "inside", "branch goes around"),
        (functional, "conv9", r"no layer 'conv9'; it has:.*cut"),
        (functional, 7, "index 7 is out of range for 4 layers"),
        (functional, -1, "the model's output"),
        (functional, layers.Dense(3, name="stranger"), "'stranger' is not one of"),
        (lambda: backbone("sequential"), "inner", "'inner' is inside 'cut'.*one layer.*build"),
        (lambda: twice_nested(), "inner", "'inner' is inside 'outer'"),
        (segmentation, "cut", r"\(N, K\), but its output has shape \(None, 6, 4, 3\)"),
    ],
)
def test_what_cannot_be_split_is_refused_and_says_why(maker, layer, message):
    with pytest.raises(ValueError, match=message):
        split_model(maker(), layer)


@pytest.mark.parametrize("layer", [None, 1.0, True, ["cut"]])
def test_a_layer_of_a_wrong_type_is_refused(layer):
    with pytest.raises(TypeError, match="name, an index or a layer"):
        split_model(functional(), layer)


def test_a_layer_object_inside_a_nested_model_is_found_there():
    model = backbone("functional")
    inner = model.get_layer("cut").layers[-1]
    with pytest.raises(ValueError, match="is inside 'cut'"):
        split_model(model, inner)


def test_a_model_of_a_wrong_type_is_refused():
    with pytest.raises(TypeError, match=r"keras\.Model, not function"):
        split_model(images, "cut")
    of_keras_2 = type("Sequential", (), {"__module__": "tf_keras.src.engine.sequential"})
    with pytest.raises(TypeError, match=r"tf_keras \(Keras 2\) Sequential.*Keras 3"):
        split_model(of_keras_2(), "cut")
    with pytest.raises(TypeError, match="callable, not list"):
        Head([1, 2])


# ------------------------------------------------------------------ the final activation


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
def test_the_final_activation_is_read_off_the_graph(last, kind):
    assert final_activation(ends_in(last)) == kind


# ------------------------------------------------------------------ the head


@pytest.mark.parametrize("last", [lambda x: x[:, None], lambda x: x[:, 0]])
def test_a_head_whose_outputs_are_no_classes_is_refused(last):
    message = r"\(N, K\), but its output has shape"
    with pytest.raises(ValueError, match=message):
        head_of(lambda x: last(layers.Dense(K)(layers.Flatten()(x))))
    with pytest.raises(ValueError, match=message):
        Head(last).outputs(tf.ones((5, 4)))
    inputs = keras.Input((4,))
    with pytest.raises(ValueError, match=r"one output \(N, K\) over classes, not 2"):
        Head(keras.Model(inputs, [layers.Dense(K)(inputs), layers.Dense(K)(inputs)]))


def test_that_sigmoids_were_cut_off_is_remembered():
    model = functional("sigmoid")
    _, logits = split_model(model, "cut")
    as_loaded = keras.Model.from_config(logits.get_config())
    for half in (logits, keras.models.clone_model(logits), as_loaded):
        head = Head(half)
        assert head.ends_in == "linear" and head.is_multilabel
    assert not Head(split_model(functional("softmax"), "cut")[1]).is_multilabel
    x = tf.constant(np.random.default_rng(0).normal(size=(5, 6, 4, 4)).astype(np.float32))
    whole = keras.Model(model.get_layer("cut").output, model.output)
    np.testing.assert_allclose(Head(logits).entropy(x), Head(whole).entropy(x), rtol=1e-4)


def test_of_logits_cut_by_hand_it_is_said_whether_outputs_are_independent():
    half = keras.Sequential([keras.Input((4,)), layers.Dense(K)])
    assert Head(half, multilabel=True).is_multilabel and not Head(half).is_multilabel
    with pytest.raises(ValueError, match="multilabel=False contradicts"):
        Head(half, "sigmoid", multilabel=False)


def test_what_a_head_ends_in_is_one_of_three():
    with pytest.raises(ValueError, match="'linear', not 'foo'"):
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


def head_of(make_head, shape=(3, 2, 4)):
    inputs = keras.Input(shape)
    return Head(keras.Model(inputs, make_head(inputs)))


def features(count=5, shape=(3, 2, 4)):
    return np.random.default_rng(1).normal(size=(count, *shape)).astype(np.float32)


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
    said = Head(dense, ends_in="softmax").entropy(tf.constant(features(shape=(4,))))
    logits = features(shape=(4,)) @ dense.kernel.numpy() + dense.bias.numpy()
    raw = Head(layers.Identity()).entropy(tf.constant(logits))
    np.testing.assert_allclose(raw, said, rtol=1e-4)


def test_a_sequential_head_is_as_good_as_a_functional_one():
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
    "kept axes": lambda x: layers.Flatten()(
        layers.Dense(K)(layers.GlobalAveragePooling2D(keepdims=True)(x))
    ),
    "pooling only": lambda x: layers.GlobalAveragePooling2D()(x),
    "other axes": lambda x: layers.Dense(K)(
        layers.GlobalAveragePooling2D(data_format="channels_first")(x)
    ),
}


@pytest.mark.parametrize("name", NOT_POOLING)
def test_where_pooling_first_would_not_be_exact_features_stay(name):
    head = head_of(NOT_POOLING[name])
    assert head.pool(features()).shape == features().shape
    np.testing.assert_allclose(
        head.predict(head.pool(features())), head.model(features()), rtol=1e-5
    )


@pytest.mark.parametrize("batch_size", [1, 3, 7, 64])
def test_predictions_do_not_depend_on_the_batch_size(batch_size):
    head = head_of(lambda x: layers.Dense(K)(layers.Flatten()(x)))
    found = head.predict(features(7), batch_size)
    assert isinstance(found, np.ndarray) and found.shape == (7, K)
    np.testing.assert_allclose(found, head.model(features(7)), rtol=1e-5, atol=1e-6)


def test_a_head_may_be_any_function_and_says_how_many_classes_where_it_knows():
    function = Head(lambda x: tf.reduce_mean(x, axis=(1, 2)))
    assert not function.pools_first and function.number_of_classes is None
    np.testing.assert_allclose(function.predict(features()), features().mean((1, 2)), rtol=1e-5)
    assert Head(functional()).number_of_classes == K


def test_layers_that_drop_units_out_in_training_do_not():
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
def test_logits_give_the_outputs_back(activation):
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


def test_dropout_before_the_classes_is_no_part_of_a_linear_head_unless_it_stays_on():
    inputs = keras.Input((3, 3, 4))
    pooled = keras.layers.GlobalAveragePooling2D()(inputs)
    x = np.random.default_rng(0).normal(size=(7, 3, 3, 4)).astype(np.float32)
    for training, linear in ((None, True), (False, True), (True, False)):
        dropped = keras.layers.Dropout(0.5)(keras.layers.Identity()(pooled), training=training)
        head = Head(keras.Model(inputs, keras.layers.Dense(5)(dropped)))
        assert (head.class_rows is not None) == linear
        if linear:
            np.testing.assert_allclose(head.pool(x) @ head.class_rows.T, head.predict(x), atol=1e-5)


def test_pooled_features_and_maps_can_both_be_predicted_in_any_order_and_number():
    head = Head(split_model(functional(), "cut")[1])
    x = np.random.default_rng(0).normal(size=(9, 6, 4, 4)).astype(np.float32)
    wanted = head.outputs(x).numpy()
    for count in (9, 5, 3):
        np.testing.assert_allclose(head.predict(x[:count]), wanted[:count], atol=1e-5)
        np.testing.assert_allclose(head.predict(head.pool(x[:count])), wanted[:count], atol=1e-5)
