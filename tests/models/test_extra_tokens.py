"""Tests of finding tokens that are no part of the image."""

import warnings

import keras
import numpy as np
import pytest
from conftest import ClassToken
from keras import layers

from xplique_dirpairs.explanations.prediction import explain_prediction
from xplique_dirpairs.extractors.craft import FactorizerCraftTf
from xplique_dirpairs.factorizers.decompositions import PCAFactorizer
from xplique_dirpairs.models.split import SplitModel, split_model


@pytest.fixture(autouse=True)
def _seed():
    keras.utils.set_random_seed(0)


class Tokens(layers.Layer):
    """Adds learned tokens in front of the others, and behind them."""

    def __init__(self, before, behind):
        super().__init__()
        self.before, self.behind = before, behind

    def build(self, shape):
        size = (1, self.before + self.behind, shape[-1])
        self.tokens = self.add_weight(shape=size, initializer="random_normal")

    def call(self, x):
        tokens = keras.ops.repeat(self.tokens, keras.ops.shape(x)[0], axis=0)
        return keras.ops.concatenate([tokens[:, : self.before], x, tokens[:, self.before :]], 1)


class Positions(layers.Layer):
    """Adds a learned vector to every token."""

    def build(self, shape):
        self.vectors = self.add_weight(shape=(1, *shape[1:]), initializer="random_normal")

    def call(self, x):
        return x + self.vectors


def patches(x):
    return layers.Reshape((16, 8))(layers.Conv2D(8, 8, 8)(x))


def blocks(x, count=3):
    for _ in range(count):
        x = layers.Add()([x, layers.MultiHeadAttention(2, 4)(x, x)])
        x = layers.Add()([x, layers.Dense(8, activation="gelu")(layers.LayerNormalization()(x))])
    return layers.LayerNormalization(name="cut")(x)


def transformer(form, tail=blocks):
    inputs = keras.Input((32, 32, 3))
    x = layers.GlobalAveragePooling1D()(tail(form(inputs)))
    return keras.Model(inputs, layers.Dense(3)(x))


def concatenated(x):
    """Form the sequence by stock layers and operations."""
    x = patches(x)
    token = layers.Dense(8)(keras.ops.zeros_like(x[:, :1]))
    return Positions()(layers.Concatenate(axis=1)([x, token]))


def nested_embedding(x):
    inputs = keras.Input((32, 32, 3))
    return keras.Model(inputs, Positions()(Tokens(1, 0)(patches(inputs))))(x)


def nested_backbone(x):
    inputs = keras.Input((32, 32, 3))
    return keras.Model(inputs, blocks(Tokens(1, 4)(patches(inputs))), name="cut")(x)


@pytest.mark.parametrize(
    ("form", "expected"),
    [
        (patches, ()),
        (lambda x: ClassToken()(patches(x)), (0,)),
        (lambda x: Positions()(Tokens(1, 4)(patches(x))), (0, 17, 18, 19, 20)),
        (lambda x: Positions()(Tokens(5, 0)(patches(x))), (0, 1, 2, 3, 4)),
        (concatenated, (16,)),
        (nested_embedding, (0,)),
    ],
)
def test_tokens_that_do_not_depend_on_the_image_are_found(form, expected):
    split = split_model(transformer(form), "cut")
    assert split.extra_tokens == expected
    assert SplitModel.of(*split).extra_tokens == expected


def test_they_are_found_inside_a_nested_backbone():
    split = split_model(transformer(nested_backbone, tail=lambda x: x), "cut")
    assert split.extra_tokens == (0, 17, 18, 19, 20)


def test_maps_and_vectors_have_no_extra_tokens(halves):
    for network in ("conv_gap", "vectors"):
        assert halves(network).extra_tokens is None


def test_the_user_may_say_which_tokens_they_are():
    model = transformer(patches)
    assert split_model(model, "cut", extra_tokens=(3, -1)).extra_tokens == (3, -1)
    for wrong in ((16,), ("first",)):
        with pytest.raises(ValueError, match=r"places in the sequence.*the layer has 16 tokens"):
            split_model(model, "cut", extra_tokens=wrong)


def test_pictures_leave_the_tokens_out_that_stand_behind_the_image():
    images = np.random.default_rng(0).random((6, 32, 32, 3)).astype(np.float32)
    craft = FactorizerCraftTf(
        split_model(transformer(concatenated), "cut"), factorizer=PCAFactorizer(2), patch_size=8
    )
    craft.fit(images)
    assert craft.transform(images).shape == (6, 17, 2)
    explained = explain_prediction(craft, images[0])
    assert explained.contribution_maps.shape == (4, 4, 2)
    np.testing.assert_array_equal(
        explained.contribution_maps.reshape(16, 2), explained.contributions[:16]
    )


@pytest.mark.parametrize(("patch", "warned"), [((2, 8), True), ((4, 4), False), ((2, 4), False)])
def test_patches_that_are_not_square_are_warned_of_where_pictures_would_be_wrong(patch, warned):
    inputs = keras.Input((16, 16, 3))
    x = keras.layers.Conv2D(4, patch, patch)(inputs)
    x = keras.layers.Dense(4, name="cut")(keras.layers.Reshape((-1, 4))(x))
    x = keras.layers.GlobalAveragePooling1D()(x)
    model = keras.Model(inputs, keras.layers.Dense(3)(x))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        split_model(model, "cut")
    found = [str(one.message) for one in caught if "pictures will arrange" in str(one.message)]
    assert len(found) == warned and all("are 8 x 2 patches" in text for text in found)
