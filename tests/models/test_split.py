"""Tests of splitting a classifier at a layer."""

import copy
import re
import warnings

import keras
import numpy as np
import pytest
from keras import layers
from small_networks import SHAPE, K, features, functional, images, pooled_dense, sequential

from xplique_dirpairs.extractors.craft import DirectionPairsTf
from xplique_dirpairs.models.graph import final_activation
from xplique_dirpairs.models.head import Head
from xplique_dirpairs.models.split import SplitModel, split_model


@pytest.fixture(autouse=True)
def _seed():
    keras.utils.set_random_seed(0)


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
    """Return a network that uses a whole model as a layer, as in transfer learning."""
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
    """Return a network in which a layer follows the softmax."""

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
    """Custom classifier layer whose weights are not called kernel and bias."""

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


def test_a_layer_is_given_by_name_index_or_object():
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


def test_a_model_that_shares_layers_with_another_can_be_split():
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
        (two_outputs, "cut", "one input and one output, not 1 and 2: choose one with keras.Model"),
        (used_twice, "cut", "used several times"),
        (Subclassed, "cut", "built"),
        (unbuilt, "cut", "built"),
        (residual, "inside", "branch bypasses"),
        (functional, "conv9", r"no layer 'conv9'; it has:.*cut"),
        (functional, 7, "index 7 is out of range for 4 layers"),
        (functional, -1, "the model's output"),
        (functional, layers.Dense(3, name="stranger"), "no layer 'stranger'; it has"),
        (lambda: backbone("sequential"), "inner", "'inner' is inside 'cut'.*one layer.*build"),
        (lambda: twice_nested(), "inner", "'inner' is inside 'outer'"),
        (segmentation, "cut", r"\(N, K\), but its output has shape \(None, 6, 4, 3\)"),
    ],
)
def test_models_and_layers_that_cannot_be_split_are_refused(maker, layer, message):
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


# ------------------------------------------------------------------ the two halves


def test_a_split_model_unpacks_and_is_indexed_as_its_halves():
    split = split_model(functional(), "cut")
    first, second = split
    assert split[0] is first is split.input_to_latent_model
    assert split[1] is second is split.latent_to_logit_model
    assert split[-1] is second
    with pytest.raises(IndexError):
        split[2]


def test_a_split_model_knows_its_model_layer_range_and_head():
    model = functional()
    split = split_model(model, 1)
    assert split.model is model and split.layer == "cut"
    assert split.limits == (0.0, None)
    assert split.head.model is split[1] and not split.head.is_multilabel
    assert split_model(residual(), "cut").limits == (None, None)


def test_ends_in_and_multilabel_can_be_given_to_split_model():
    inputs = keras.Input(SHAPE)
    x = layers.Conv2D(4, 3, name="cut")(inputs)
    hidden = layers.Lambda(keras.ops.softmax)(pooled_dense(x, None))
    model = keras.Model(inputs, hidden)
    assert split_model(model, "cut", ends_in="linear").head.ends_in == "linear"
    assert split_model(model, "cut", ends_in="softmax").head.ends_in == "softmax"
    logits = functional(None)
    assert not split_model(logits, "cut").head.is_multilabel
    assert split_model(logits, "cut", multilabel=True).head.is_multilabel
    with pytest.raises(ValueError, match="ends_in must be"):
        split_model(logits, "cut", ends_in="relu")
    with pytest.raises(ValueError, match="multilabel=True contradicts"):
        split_model(model, "cut", ends_in="softmax", multilabel=True)


@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
def test_naming_an_activation_that_the_graph_shows_changes_nothing(activation):
    model = functional(activation)
    found, named = split_model(model, "cut"), split_model(model, "cut", ends_in=activation)
    activations = np.random.default_rng(0).random((2, *found[0].output_shape[1:]), np.float32)
    np.testing.assert_array_equal(named.head.logits(activations), found.head.logits(activations))
    assert named.head.is_multilabel == found.head.is_multilabel


def test_halves_become_a_split_model():
    split = split_model(functional(), "cut")
    assert SplitModel.of(split) is split
    for same in (SplitModel.of(*split), SplitModel.of((split[0], split[1]))):
        assert tuple(same) == tuple(split)
        assert same.limits == (0.0, None)
        assert same.model is None and same.layer is None
    assert SplitModel.of(split[0], lambda x: x).latent_to_logit_model([1]) == [1]


def test_halves_that_do_not_belong_together_are_refused():
    split = split_model(functional(), "cut")
    first, second = split
    with pytest.raises(TypeError, match="has both halves"):
        SplitModel.of(split, second)
    with pytest.raises(TypeError, match=r"second half of the network is missing"):
        SplitModel.of(first)
    with pytest.raises(TypeError, match=r"input_to_latent_model must be a keras\.Model, not str"):
        SplitModel.of("first", second)
    with pytest.raises(TypeError, match="callable, not int"):
        SplitModel.of(first, 3)
    with pytest.raises(ValueError, match="both halves must come from one split_model"):
        SplitModel.of(keras.Sequential([keras.Input(SHAPE), layers.Conv2D(5, 3)]), second)


def test_with_model_adds_the_whole_model_to_halves():
    model = functional()
    split = SplitModel.of(*split_model(model, "cut")).with_model(model)
    assert split.model is model and split.layer == "cut"
    with pytest.raises(ValueError, match="no layer 'cut'"):
        split.with_model(keras.Sequential([keras.Input(SHAPE), layers.Flatten()]))
    with pytest.raises(TypeError, match=r"model must be a keras\.Model"):
        split.with_model("model")


# ------------------------------------------------------------------ a sigmoid that was removed


def saved_and_loaded(model, folder):
    model.save(folder / "half.keras")
    return keras.models.load_model(folder / "half.keras")


# Keras' own, when it saves a variable under numpy 2
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
def test_copies_of_a_half_know_that_a_sigmoid_was_removed(tmp_path):
    model = functional("sigmoid")
    first, second = split_model(model, "cut")
    copies = {
        "itself": second,
        "cloned": keras.models.clone_model(second),
        "of its configuration": keras.Model.from_config(second.get_config()),
        "loaded": saved_and_loaded(second, tmp_path),
        "nested": keras.Sequential([keras.Input(second.input_shape[1:]), second]),
    }
    for name, half in copies.items():
        head = Head(half)
        assert head.ends_in == "linear" and head.is_multilabel, name
    assert not Head(split_model(functional("softmax"), "cut")[1]).is_multilabel
    x = first(images())
    whole = keras.Model(model.get_layer("cut").output, model.output)
    np.testing.assert_allclose(Head(second).entropy(x), Head(whole).entropy(x), rtol=1e-4)


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
def test_an_extractor_of_saved_halves_knows_that_a_sigmoid_was_removed(tmp_path):
    model = functional("sigmoid")
    first, second = split_model(model, "cut")
    loaded = saved_and_loaded(second, tmp_path)
    craft = DirectionPairsTf(first, loaded, number_of_concepts=2)
    assert craft.head.is_multilabel
    np.testing.assert_allclose(
        keras.ops.sigmoid(craft.head.logits(first(images()).numpy())), model(images()), rtol=1e-4
    )


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
def test_the_halves_have_the_weights_that_the_model_is_given_later(activation, tmp_path):
    model = functional(activation)
    first, second = split = split_model(model, "cut")
    for weight in model.weights:
        weight.assign(weight + 0.1)
    outputs = model.predict(images(), verbose=0)
    logits = split.head.logits(np.asarray(first(images())))
    wanted = np.log(outputs) if activation == "softmax" else np.log(outputs / (1 - outputs))
    difference = logits - wanted
    if activation == "softmax":  # which determines logits up to a constant
        difference -= difference.mean(axis=1, keepdims=True)
    np.testing.assert_allclose(difference, 0, atol=1e-3)
    # A half can be saved, copied and trained on its own.
    second.save(tmp_path / "second.keras")
    x = np.asarray(first(images()))
    for copied in (keras.models.load_model(tmp_path / "second.keras"), copy.deepcopy(second)):
        np.testing.assert_allclose(copied(x), second(x), atol=1e-6)
    assert model.layers[-1].activation is getattr(keras.activations, activation)
    assert len(second.trainable_weights) == 2


@pytest.mark.filterwarnings("ignore:You are using a softmax over axis")
def test_a_softmax_over_a_single_output_is_refused():
    model = keras.Sequential([keras.Input((3,)), layers.Dense(4, name="cut")])
    model.add(layers.Dense(1, "softmax"))
    with pytest.raises(ValueError, match="is 1 for every image: let it end in a sigmoid"):
        split_model(model, "cut")


def test_a_layer_of_another_model_with_the_same_name_is_refused():
    other = functional().get_layer("cut")
    with pytest.raises(ValueError, match="'cut' belongs to another model: give its name"):
        split_model(functional(), other)


def test_a_last_layer_of_ones_own_is_shared_too():
    inputs = keras.Input((3,))
    outputs = Cosine(4, "softmax")(layers.Dense(5, name="cut")(inputs))
    model = keras.Model(inputs, outputs)
    first, second = split_model(model, "cut")
    x = np.random.default_rng(0).normal(size=(6, 3)).astype(np.float32)
    model.layers[-1].rows.assign(model.layers[-1].rows * 3.0 + 1.0)
    np.testing.assert_allclose(keras.ops.softmax(second(first(x))), model(x), atol=1e-6)


class BatchStatistics(layers.Layer):
    """Normalises by the batch, in inference, too."""

    def call(self, x):
        return x - keras.ops.mean(x, axis=0, keepdims=True)


class Noisy(layers.Layer):
    """Adds noise, in inference, too."""

    def call(self, x):
        return x + keras.random.normal(keras.ops.shape(x))


class Doubled(layers.Layer):
    """Does the same in every batch."""

    def call(self, x):
        return 2.0 * x


@pytest.mark.parametrize("in_head", [False, True])
@pytest.mark.parametrize(
    ("kind", "wanted"),
    [
        (BatchStatistics, r"'odd' \(BatchStatistics\) depend on the rest of the batch"),
        (Noisy, r"'odd' \(Noisy\) are random"),
        (Doubled, None),
    ],
)
def test_layers_that_are_not_the_same_for_an_image_every_time_are_named(kind, wanted, in_head):
    inputs = keras.Input(SHAPE)
    odd = kind(name="odd")
    x = layers.Conv2D(4, 3, name="cut")(inputs if in_head else odd(inputs))
    model = keras.Model(inputs, pooled_dense(odd(x) if in_head else x))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        split_model(model, "cut")
    found = [str(one.message) for one in caught if "in inference" in str(one.message)]
    assert len(found) == (wanted is not None)
    assert not found or re.search(wanted, found[0])
