"""Tests of networks whose channels are not the last axis."""

import keras
import numpy as np
import pytest
from keras import layers

from xplique_dirpairs.data.images import compute_activations
from xplique_dirpairs.extractors.craft import FactorizerCraftTf
from xplique_dirpairs.factorizers.decompositions import PCAFactorizer
from xplique_dirpairs.models.split import SplitModel, split_model


def permuted(by):
    inputs = keras.Input((16, 16, 3))
    x = by(layers.Conv2D(12, 3, strides=2, activation="relu")(inputs))
    x = layers.Activation("relu", name="cut")(x)
    x = layers.GlobalAveragePooling2D(data_format="channels_first")(x)
    return keras.Model(inputs, layers.Dense(3)(x))


def only_what_follows_says_so():
    inputs = keras.Input((16, 16, 3))
    x = layers.Reshape((12, 8, 8), name="cut")(inputs)
    return keras.Model(
        inputs, layers.Dense(3)(layers.GlobalAveragePooling2D(data_format="channels_first")(x))
    )


def nested():
    inputs = keras.Input((16, 16, 3))
    inner = keras.Sequential(
        [keras.Input((16, 16, 3)), layers.Conv2D(12, 3), layers.Permute((3, 1, 2))], name="cut"
    )
    return keras.Model(inputs, layers.Dense(3)(layers.Flatten()(inner(inputs))))


def signals():
    inputs = keras.Input((32, 2))
    x = layers.Permute((2, 1), name="cut")(layers.Conv1D(6, 3)(inputs))
    return keras.Model(inputs, layers.Dense(3)(layers.Flatten()(x)))


@pytest.mark.parametrize(
    "make",
    [
        lambda: permuted(layers.Permute((3, 1, 2))),
        lambda: permuted(lambda x: keras.ops.transpose(x, (0, 3, 1, 2))),
        only_what_follows_says_so,
        nested,
        signals,
    ],
)
def test_features_with_channels_first_are_refused(make):
    with pytest.raises(ValueError, match="channels on axis 1, but they must be last: choose"):
        split_model(make(), "cut")


def test_halves_with_channels_first_are_refused():
    model = permuted(layers.Permute((3, 1, 2)))
    cut = model.get_layer("cut").output
    halves = keras.Model(model.input, cut), keras.Model(cut, model.output)
    with pytest.raises(ValueError, match="channels on axis 1"):
        SplitModel.of(*halves)


@pytest.mark.parametrize(
    "begin",
    [
        lambda x: layers.ZeroPadding2D(1, data_format="channels_first")(x),
        lambda x: layers.Permute((2, 3, 1))(layers.Rescaling(2.0)(x)),
        lambda x: keras.Sequential([keras.Input((3, 16, 16)), layers.Permute((2, 3, 1))])(x),
    ],
)
def test_images_with_channels_first_are_refused(begin):
    inputs = keras.Input((3, 16, 16))
    x = begin(inputs)
    if x.shape[1] == 3:
        x = layers.Permute((2, 3, 1))(x)
    x = layers.Conv2D(4, 3, name="cut")(x)
    model = keras.Model(inputs, layers.Dense(3)(layers.GlobalAveragePooling2D()(x)))
    with pytest.raises(ValueError, match=r"images with their channels first, \(None, 3, 16, 16\)"):
        split_model(model, "cut")


def test_permuted_axes_that_keep_channels_last_do_no_harm():
    inputs = keras.Input((16, 12, 3))
    x = layers.Conv2D(4, 3, name="before")(layers.Permute((2, 1, 3))(inputs))
    x = layers.Permute((2, 1, 3), name="cut")(x)
    x = layers.Permute((2, 3, 1))(layers.Permute((3, 1, 2))(x))
    model = keras.Model(inputs, layers.Dense(3)(layers.GlobalAveragePooling2D()(x)))
    for layer in ("before", "cut"):
        assert split_model(model, layer)[0].output_shape[-1] == 4


def test_networks_are_equal_in_both_layouts_with_the_same_weights():
    """The advice of the message holds."""
    weights = [np.ones((3, 3, 3, 4), np.float32), np.ones(4, np.float32)]
    for data_format in ("channels_first", "channels_last"):
        conv = layers.Conv2D(4, 3, data_format=data_format)
        conv.build((None, 3, 8, 8) if data_format == "channels_first" else (None, 8, 8, 3))
        conv.set_weights(weights)
        assert [one.shape for one in conv.get_weights()] == [one.shape for one in weights]


# ------------------------------------------------------------------ batches and inputs


def test_a_batch_size_that_is_fixed_in_the_graph_is_refused_with_a_way_out():
    inputs = keras.Input((8, 8, 3), batch_size=4)
    x = layers.GlobalAveragePooling2D()(layers.Conv2D(4, 3, name="cut")(inputs))
    model = keras.Model(inputs, layers.Dense(3)(x))
    with pytest.raises(ValueError, match=r"batches of 4 images only: make one for any number"):
        split_model(model, "cut")
    twin = keras.models.clone_model(model, input_tensors=keras.Input(model.input_shape[1:]))
    twin.set_weights(model.get_weights())
    images = np.random.default_rng(0).random((4, 8, 8, 3)).astype(np.float32)
    first, second = split_model(twin, "cut")
    np.testing.assert_allclose(second(first(images)), model(images), rtol=1e-5)
    assert first(images[:3]).shape == (3, 6, 6, 4)


def of_input(shape):
    """Return a network of convolutions along the first axis of an input without channels."""
    inputs = keras.Input(shape)
    x = layers.Conv1D(4, 3, activation="relu", name="cut")(inputs)
    return keras.Model(inputs, layers.Dense(3)(layers.GlobalAveragePooling1D()(x)))


def test_extractors_refuse_signals_and_images_without_channels_at_once():
    split = split_model(of_input((16, 2)), "cut")  # the halves themselves are of use
    assert split.head.pools_first
    with pytest.raises(ValueError, match=r"shape \(16, 2\).*keras.Input\(\(16, 2, 1\)\).*learn_p"):
        FactorizerCraftTf(split, factorizer=PCAFactorizer(2))
    with pytest.raises(ValueError, match=r"the network takes inputs of shape \(16, 2\)"):
        compute_activations(split[0], np.zeros((16, 2, 1)))


def test_a_signal_can_be_explained_as_an_image_with_one_channel():
    """The advice of the message holds."""
    inner = of_input((16, 2))
    inputs = keras.Input((16, 2, 1))
    x = layers.Reshape((16, 2))(inputs)
    for layer in inner.layers[1:]:
        x = layer(x)
    signals = np.random.default_rng(0).random((6, 16, 2, 1)).astype(np.float32)
    craft = FactorizerCraftTf(
        split_model(keras.Model(inputs, x), "cut"), factorizer=PCAFactorizer(2)
    )
    craft.fit(signals)
    assert craft.transform(signals).shape == (6, 14, 2)
    assert np.isfinite(craft.estimate_importance()).all()
