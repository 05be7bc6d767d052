import keras
import pytest
from conftest import NETWORKS, conv_gap

from xplique_dirpairs.commands.layers import candidates, layers_table, suggestion
from xplique_dirpairs.models.split import split_model


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


@pytest.mark.parametrize("name", NETWORKS)
def test_what_can_be_cut_is_what_split_model_cuts(name):
    maker, shape, _ = NETWORKS[name]
    model = maker(shape)
    for one in candidates(model):
        if one.can_be_cut:
            first, _ = split_model(model, one.name)
            assert tuple(first.output_shape[1:]) == one.shape
        elif "image itself" not in one.remark:
            with pytest.raises(ValueError):
                split_model(model, one.name)


def test_a_branch_around_a_layer_is_a_remark():
    found = by_name(residual())
    assert {name for name, one in found.items() if "branch" in one.remark} == {"inside", "norm"}
    assert found["classes"].remark == "the classes themselves"
    assert not found["classes"].can_be_cut


def test_the_layer_before_the_pooling_is_suggested():
    assert suggestion(candidates(residual())) == "after"
    assert suggestion(candidates(conv_gap())) == "features"
    maker, shape, layer = NETWORKS["conv_flatten"]
    assert suggestion(candidates(maker(shape))) == layer
    one = by_name(residual())["after"]
    assert (one.shape, one.remark) == ((16, 16, 4), "before the global pooling; never negative")


def test_the_short_table_leaves_out_steps_and_what_cannot_be_cut():
    found = candidates(residual())
    names = [row[0].text for row in layers_table(found).rows]
    assert names == ["start", "after"]
    assert len(layers_table(found, everything=True).rows) == len(found) == 8
    few = layers_table(found, at_most=1)
    assert [row[0].text for row in few.rows] == ["after"]
    assert "1 earlier ones are left out" in few.caption[0]


def test_a_model_within_a_model_is_one_layer():
    inputs = keras.Input((32, 32, 3))
    inner = keras.Model(inputs, keras.layers.Conv2D(4, 3)(inputs), name="backbone")
    outer_inputs = keras.Input((32, 32, 3))
    x = keras.layers.GlobalAveragePooling2D()(inner(outer_inputs))
    found = by_name(keras.Model(outer_inputs, keras.layers.Dense(2)(x)))
    assert found["backbone"].remark == "before the global pooling; a whole model of 2 layers"


def test_a_model_with_two_inputs_has_no_layers_to_cut():
    inputs = [keras.Input((3,)), keras.Input((3,))]
    with pytest.raises(ValueError, match="one input and one output"):
        candidates(keras.Model(inputs, keras.layers.Add()(inputs)))
