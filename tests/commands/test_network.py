import keras
import pytest
from conftest import NETWORKS as SMALL_NETWORKS
from conftest import conv_gap

from xplique_dirpairs.commands.network import (
    candidates,
    layers_table,
    suggestion,
)
from xplique_dirpairs.models.split import split_model

# ------------------------------------------------------------------ layers


def residual():
    inputs = keras.Input((16, 16, 3))
    start = keras.layers.Conv2D(4, 3, padding="same", activation="relu", name="start")(inputs)
    x = keras.layers.Conv2D(4, 3, padding="same", name="inside")(start)
    x = keras.layers.BatchNormalization(name="norm")(x)
    x = keras.layers.Add(name="sum")([start, x])
    x = keras.layers.ReLU(name="after")(x)
    x = keras.layers.GlobalAveragePooling2D(name="pool")(x)
    return keras.Model(inputs, keras.layers.Dense(3, name="classes")(x))


def by_name(model):
    return {one.name: one for one in candidates(model)}


@pytest.mark.parametrize("name", SMALL_NETWORKS)
def test_split_model_cuts_exactly_the_layers_that_are_listed_as_possible_cuts(name):
    maker, shape, _ = SMALL_NETWORKS[name]
    model = maker(shape)
    for one in candidates(model):
        if one.can_be_cut:
            first, _ = split_model(model, one.name)
            assert tuple(first.output_shape[1:]) == one.shape
        elif "image itself" not in one.remark:
            with pytest.raises(ValueError):
                split_model(model, one.name)


def test_the_remark_says_that_a_branch_goes_around_a_layer():
    layers = by_name(residual())
    assert {name for name, one in layers.items() if "branch" in one.remark} == {"inside", "norm"}
    assert layers["classes"].remark == "the output itself"
    assert not layers["classes"].can_be_cut


def test_the_layer_before_the_pooling_is_suggested():
    assert suggestion(candidates(residual())) == "after"
    assert suggestion(candidates(conv_gap())) == "features"
    maker, shape, layer = SMALL_NETWORKS["conv_flatten"]
    assert suggestion(candidates(maker(shape))) == layer
    one = by_name(residual())["after"]
    assert (one.shape, one.remark) == ((16, 16, 4), "before the global pooling; never negative")


def test_the_short_table_has_the_suggested_layers_only(monkeypatch):
    layers = candidates(residual())
    names = [row[0].text for row in layers_table(layers).rows]
    assert names == ["start", "after"]
    assert len(layers_table(layers, everything=True).rows) == len(layers) == 8
    monkeypatch.setattr("xplique_dirpairs.commands.network.LISTED", 1)
    few = layers_table(layers)
    assert [row[0].text for row in few.rows] == ["after"]
    assert "1 earlier layers are left out" in few.caption[0]


def test_a_nested_model_is_listed_as_one_layer():
    inputs = keras.Input((32, 32, 3))
    inner = keras.Model(inputs, keras.layers.Conv2D(4, 3)(inputs), name="backbone")
    outer_inputs = keras.Input((32, 32, 3))
    x = keras.layers.GlobalAveragePooling2D()(inner(outer_inputs))
    layers = by_name(keras.Model(outer_inputs, keras.layers.Dense(2)(x)))
    assert layers["backbone"].remark == "before the global pooling; a nested model of 2 layers"


def test_a_model_with_two_inputs_is_refused():
    inputs = [keras.Input((3,)), keras.Input((3,))]
    with pytest.raises(ValueError, match="one input and one output"):
        candidates(keras.Model(inputs, keras.layers.Add()(inputs)))
