"""Tests of what a network ends in, where its graph hides it."""

import keras
import numpy as np
import pytest
from keras import layers
from small_networks import SHAPE, K, functional, images

from xplique_dirpairs.extractors.concept_layer import ConceptLayer
from xplique_dirpairs.extractors.craft import FactorizerCraftTf
from xplique_dirpairs.factorizers.decompositions import PCAFactorizer
from xplique_dirpairs.models.head import Head
from xplique_dirpairs.models.split import SplitModel, split_model


@pytest.fixture(autouse=True)
def _seed():
    keras.utils.set_random_seed(0)


class SubclassedHead(keras.Model):
    """A head without a graph, whose last declared layer is not the last one that it calls."""

    def __init__(self, activation="softmax"):
        super().__init__()
        self.dense = layers.Dense(K, activation=activation)
        self.pool = layers.GlobalAveragePooling2D()

    def call(self, x):
        return self.dense(self.pool(x))


class Tempered(layers.Layer):
    """A softmax of one's own, which is more than a softmax."""

    def call(self, x):
        return keras.ops.softmax(x / 3.0)


class SoftmaxClassifier(layers.Layer):
    """A layer that is named after its softmax, and does more."""

    def __init__(self):
        super().__init__()
        self.dense = layers.Dense(K)

    def call(self, x):
        return keras.ops.softmax(self.dense(x))


class ActivatedInside(layers.Layer):
    """A layer whose ``activation`` is not what it ends in."""

    def __init__(self, activation="softmax", **kwargs):
        super().__init__(**kwargs)
        self.activation = keras.activations.get(activation)

    def build(self, shape):
        self.rows = self.add_weight(shape=(shape[-1], K), initializer="random_normal")

    def call(self, x):
        return 5.0 * keras.ops.matmul(self.activation(x), self.rows)


class Wrapped(layers.Wrapper):
    """A wrapper that calls its layer."""

    def call(self, x):
        return self.layer(x)


def own_softmax(x):
    return keras.ops.softmax(2.0 * x)


def on_pooled(last):
    return lambda x: last(layers.GlobalAveragePooling2D()(x))


def network(head):
    inputs = keras.Input(SHAPE)
    x = layers.Conv2D(4, 3, activation="relu", name="cut")(inputs)
    return keras.Model(inputs, head(x))


def average_of_two(x):
    heads = [layers.Dense(K, activation="softmax") for _ in range(2)]
    pooled = layers.GlobalAveragePooling2D()(x)
    return layers.Average()([head(pooled) for head in heads])


def averaged_over_positions(x):
    return layers.GlobalAveragePooling2D()(layers.Conv2D(K, 1, activation="softmax")(x))


HIDDEN = {
    "a subclassed head": lambda x: SubclassedHead()(x),
    "a Lambda": on_pooled(lambda x: layers.Lambda(keras.ops.softmax)(layers.Dense(K)(x))),
    "a function of one's own": on_pooled(layers.Dense(K, activation=own_softmax)),
    "an Activation of one's own": on_pooled(
        lambda x: layers.Activation(own_softmax)(layers.Dense(K)(x))
    ),
    "a layer of one's own": on_pooled(lambda x: Tempered()(layers.Dense(K)(x))),
    "a layer named after its softmax": on_pooled(lambda x: SoftmaxClassifier()(x)),
    "a wrapper": on_pooled(lambda x: Wrapped(layers.Dense(K, activation="softmax"))(x)),
    "the average of two": average_of_two,
    "an average over positions": averaged_over_positions,
}


@pytest.mark.parametrize("name", HIDDEN)
def test_probabilities_are_recognised_where_the_graph_hides_the_softmax(name):
    model = network(HIDDEN[name])
    with pytest.warns(UserWarning, match="outputs sum to 1.*ends_in='softmax'"):
        split = split_model(model, "cut")
    assert split.head.ends_in == "softmax"
    x = split[0](images())
    np.testing.assert_allclose(split[1](x), model(images()), rtol=1e-5)
    p = np.maximum(np.asarray(model(images()), np.float64), 1e-38)
    np.testing.assert_allclose(split.head.logits(x.numpy()), np.log(p), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("function", [keras.ops.sigmoid, keras.activations.hard_sigmoid])
def test_hidden_sigmoids_are_recognised_as_independent_outputs(function):
    model = network(on_pooled(lambda x: layers.Lambda(function)(layers.Dense(K)(x))))
    with pytest.warns(UserWarning, match="stay within 0 and 1.*ends_in='sigmoid'"):
        head = split_model(model, "cut").head
    assert head.ends_in == "sigmoid" and head.is_multilabel


LINEAR = {
    "a layer that uses a softmax before its end": on_pooled(lambda x: ActivatedInside()(x)),
    "a subclassed head of logits": lambda x: SubclassedHead(None)(x),
    "a wrapper": on_pooled(lambda x: Wrapped(layers.Dense(K))(x)),
    "outputs that are never negative": on_pooled(
        lambda x: layers.Lambda(keras.ops.relu)(layers.Dense(K)(x))
    ),
    "a sum": on_pooled(lambda x: layers.Add()([layers.Dense(K)(x), layers.Dense(K)(x)])),
    "outputs that are always 0": on_pooled(
        lambda x: layers.Lambda(keras.ops.abs)(layers.Dense(K, kernel_initializer="zeros")(x))
    ),
    "a recurrent layer": on_pooled(lambda x: layers.LSTM(K)(x[:, None])),
}


@pytest.mark.parametrize("name", LINEAR)
def test_outputs_that_are_no_probabilities_are_logits_without_a_warning(name):
    assert split_model(network(LINEAR[name]), "cut").head.ends_in == "linear"


@pytest.mark.parametrize("scale", [100.0, 0.5])
def test_probabilities_on_another_scale_are_no_logits_without_a_warning(scale):
    scaled = on_pooled(lambda x: layers.Rescaling(scale)(layers.Dense(K, "softmax")(x)))
    with pytest.warns(UserWarning, match=rf"never negative and always sum to {scale:g}.*leave out"):
        assert split_model(network(scaled), "cut").head.ends_in == "linear"


def test_what_the_user_says_is_not_tested():
    model = network(HIDDEN["a Lambda"])
    for said in ("softmax", "linear"):
        assert split_model(model, "cut", ends_in=said).head.ends_in == said


def test_functions_and_subclassed_models_are_tested_as_second_halves():
    first, _ = split_model(functional(), "cut")
    for second in (SubclassedHead(), lambda x: keras.ops.softmax(keras.ops.mean(x, axis=(1, 2)))):
        with pytest.warns(UserWarning, match="outputs sum to 1"):
            assert SplitModel.of(first, second).head.ends_in == "softmax"
    assert Head(SubclassedHead()).ends_in == "linear"  # which shape its input has is unknown


@pytest.mark.parametrize(
    ("activation", "multilabel", "names"),
    [
        (None, None, ("low output", "high output")),
        (None, True, ("no", "yes")),
        ("sigmoid", None, ("no", "yes")),
    ],
)
def test_a_single_output_is_only_called_a_decision_if_it_is_one(activation, multilabel, names):
    model = network(on_pooled(layers.Dense(1, activation=activation)))
    split = split_model(model, "cut", multilabel=multilabel)
    craft = FactorizerCraftTf(split, factorizer=PCAFactorizer(2), patch_size=3)
    craft.fit(images())
    layer = ConceptLayer.of(craft)
    assert layer.names_of_classes(2) == names
    assert layer.class_name(1) == names[1]
    assert ConceptLayer.of(craft, class_names=["cold", "warm"]).class_name(1) == "warm"


HEADS_THAT_KEEP_AXES = {
    "dense layers": lambda x: layers.Flatten()(
        layers.Dense(K, activation="softmax")(layers.GlobalAveragePooling2D(keepdims=True)(x))
    ),
    "a 1 x 1 convolution": lambda x: layers.Flatten()(
        layers.Conv2D(K, 1, activation="softmax")(layers.GlobalAveragePooling2D(keepdims=True)(x))
    ),
    "a 1 x 1 convolution, then a softmax": lambda x: layers.Softmax()(
        layers.Reshape((K,))(layers.Conv2D(K, 1)(layers.GlobalAveragePooling2D(keepdims=True)(x)))
    ),
    "a 1 x 1 convolution before the pooling": lambda x: layers.Softmax()(
        layers.GlobalAveragePooling2D()(layers.Conv2D(K, 1)(x))
    ),
}


@pytest.mark.parametrize("name", HEADS_THAT_KEEP_AXES)
def test_heads_that_keep_axes_or_end_in_a_convolution_pool_first_and_are_linear(name):
    head = split_model(network(HEADS_THAT_KEEP_AXES[name]), "cut").head
    assert head.ends_in == "linear" and head.pools_first
    assert head.class_rows.shape == (K, 4)
