"""`position_dependence` works on networks and concepts of many kinds, and says what is missing."""

import keras
import numpy as np
import pytest
from conftest import NETWORKS, make_images, make_pairs

from xplique_dirpairs import ConceptLayer, position_dependence, split_model
from xplique_dirpairs.models.padding import padding_layers, with_wrapped_padding


def small_cnn(seed=0):
    """Return three zero-padded convolutions with random weights, from 48 × 48 pixels to 12 × 12."""
    keras.utils.set_random_seed(seed)
    inputs = keras.Input((48, 48, 3))
    x = keras.layers.Conv2D(12, 3, padding="same", activation="relu")(inputs)
    x = keras.layers.MaxPooling2D(2)(x)
    x = keras.layers.Conv2D(12, 3, padding="same", activation="relu")(x)
    x = keras.layers.AveragePooling2D(2)(x)
    x = keras.layers.Conv2D(8, 3, padding="same", activation="relu")(x)
    return keras.Model(inputs, x)


def spots(count, seed=0):
    """Return coloured images of 48 × 48 pixels, bright on average."""
    return 0.3 + 0.7 * make_images(count, (48, 48, 3), seed)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_what_padding_causes_at_the_edges_goes_when_the_same_weights_wrap(seed):
    network = small_cnn(seed)
    padded = position_dependence(network, spots(24), wrap=False)
    wrapped = position_dependence(with_wrapped_padding(network), spots(24), wrap=False)
    alive = ~np.isnan(padded.placed_edge)
    assert np.nanmedian(padded.placed_edge) > 0.05
    assert np.nanmax(wrapped.placed_edge[alive]) <= 0.02
    assert np.nanmax(wrapped.rolled_share) <= 0.02
    assert (padded.verdicts != "modulated by position").all()


def test_wrapped_maps_move_with_the_image():
    wrapped = with_wrapped_padding(small_cnn())
    images = spots(3)
    moved = wrapped(np.roll(images, (8, -16), (1, 2))).numpy()
    np.testing.assert_allclose(moved, np.roll(wrapped(images), (2, -4), (1, 2)), atol=1e-5)


def test_wrapping_leaves_the_inside_and_the_network_as_they_were():
    network = small_cnn()
    before = network(spots(2)).numpy()
    wrapped = with_wrapped_padding(network)(spots(2)).numpy()
    np.testing.assert_allclose(wrapped[:, 3:-3, 3:-3], before[:, 3:-3, 3:-3], atol=1e-5)
    assert np.abs(wrapped - before).max() > 1e-3
    np.testing.assert_array_equal(network(spots(2)), before)
    assert network.layers[1].output is not None, "the layers are used once, as before"


def test_padding_with_strides_and_explicit_zeros_is_wrapped_too():
    inputs = keras.Input((16, 16, 3))
    x = keras.layers.ZeroPadding2D(((0, 1), (0, 1)), name="explicit")(inputs)
    x = keras.layers.DepthwiseConv2D(3, 2, name="valid")(x)
    x = keras.layers.Conv2D(4, 3, 2, padding="same", name="strided")(x)
    x = keras.layers.Conv2D(4, 1, padding="same", name="pointwise")(x)
    inner = keras.Sequential([keras.layers.Conv2D(4, 3, padding="same", name="nested")])
    network = keras.Model(inputs, inner(x))
    assert padding_layers(network) == ("explicit", "strided", "nested")
    images = np.random.default_rng(0).uniform(size=(2, 16, 16, 3)).astype(np.float32)
    wrapped = with_wrapped_padding(network)
    moved = wrapped(np.roll(images, (4, 8), (1, 2))).numpy()
    np.testing.assert_allclose(moved, np.roll(wrapped(images), (1, 2), (1, 2)), atol=1e-5)


def test_a_network_without_padding_has_nothing_to_wrap():
    inputs = keras.Input((16, 16, 3))
    network = keras.Model(inputs, keras.layers.Conv2D(4, 3)(inputs))
    assert padding_layers(network) == ()
    assert with_wrapped_padding(network) is None
    found = position_dependence(network, make_images(8, (16, 16, 3)))
    assert found.wrapped_edge is None and np.isnan(found.caused_by_padding).all()
    assert found.stride == (1, 1)


@pytest.mark.parametrize("name", ["conv_gap", "tall", "tokens", "class_token"])
def test_concepts_and_channels_of_any_layer_with_maps(name):
    maker, shape, layer = NETWORKS[name]
    split, images = split_model(maker(shape), layer), make_images(8, shape)
    channels = position_dependence(split, images, grid=2)
    concepts = ConceptLayer.of(make_pairs(8, 3), split, concept_names=["a", "b", "c"])
    of_concepts = position_dependence(concepts, images, grid=2)
    cells = (shape[0] // split_stride(name), shape[1] // split_stride(name))
    assert channels.profile.shape == (8, *cells)
    assert of_concepts.profile.shape == (3, *cells)
    assert of_concepts.concept_names == ("a", "b", "c")
    assert (of_concepts.patch[0] % of_concepts.stride[0]) == 0


def split_stride(name):
    """Return the number of pixels between the cells of a network of the tests."""
    return 8 if "token" in name else 4


def test_no_interior_is_made_up_where_the_network_sees_everything():
    inputs = keras.Input((32, 32, 3))
    x = keras.layers.Conv2D(6, 3, 4, padding="same")(inputs)
    context = keras.layers.Dense(6)(keras.layers.GlobalAveragePooling2D(keepdims=True)(x))
    found = position_dependence(
        keras.Model(inputs, keras.layers.Multiply()([x, context])), make_images(12, (32, 32, 3))
    )
    assert found.margin is None
    assert np.isnan(found.placed_interior).all()
    assert not set(found.verdicts) & {"modulated by position", "modulated by the border"}
    assert "half the receptive field" in str(found.table())


def test_a_constant_channel_is_unknown():
    inputs = keras.Input((16, 16, 3))
    x = keras.layers.Conv2D(2, 1, activation="relu", bias_initializer="ones")(inputs)
    network = keras.Model(inputs, x)
    weights = network.layers[1].get_weights()[0]
    weights[..., 0] = 0.0
    network.layers[1].set_weights([weights, np.ones(2)])
    found = position_dependence(network, make_images(8, (16, 16, 3)))
    assert found.verdicts[0] == "unknown"
    assert np.isnan(found.rolled_share[0]) and np.isnan(found.placed_edge[0])
    assert "could not be told" in found.sentence(0)


def test_the_same_seed_gives_the_same_result():
    first, second, other = (
        position_dependence(small_cnn(), spots(8), wrap=False, random_state=seed).rolled_share
        for seed in (3, 3, 4)
    )
    np.testing.assert_array_equal(first, second)
    assert (first != other).any()


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"images": spots(7)}, "at least 8 images"),
        ({"grid": 1}, "grid must be an integer of at least 2"),
        ({"margin": -1}, "margin must be an integer"),
        ({"border": ()}, "border must hold at least one width"),
        ({"border": 2}, "border must hold at least one width .* not 2"),
        ({"border": (0,)}, "border must be an integer of at least 1"),
        ({"control": "mirrored"}, "control must be one of"),
        ({"patch": 48}, "patch must be smaller than the images"),
        ({"stride": 64}, "stride must be smaller than the images"),
        ({"patch": 44}, "choose a smaller grid or patch"),
        ({"grid": 13}, "choose a smaller grid or patch"),
        ({"batch_size": 0}, "batch_size must be an integer"),
    ],
)
def test_arguments_out_of_range_are_refused(wrong, message):
    arguments = {"images": spots(8)} | wrong
    with pytest.raises(ValueError, match=message):
        position_dependence(small_cnn(), **arguments)


def test_a_layer_without_maps_is_refused():
    maker, shape, layer = NETWORKS["vectors"]
    with pytest.raises(ValueError, match="at least 3 × 3 cells"):
        position_dependence(split_model(maker(shape), layer), make_images(8, shape))


def test_something_without_concepts_is_refused():
    with pytest.raises(TypeError, match="give a SplitModel or a keras"):
        position_dependence(spots(8), spots(8))


@pytest.mark.parametrize("side", [3, 4])
def test_small_maps_do_not_tell_borders_from_other_places_and_sentences_say_so(side):
    inputs = keras.Input((8 * side, 8 * side, 3))
    x = keras.layers.AveragePooling2D(8)(inputs)
    ramp = np.linspace(-1, 1, side, dtype=np.float32)[:, None] + np.zeros((side, side, 1), "f4")
    network = keras.Model(inputs, keras.layers.Conv2D(1, 1, trainable=False)(x) * 0.01 + ramp)
    found = position_dependence(network, make_images(8, (8 * side, 8 * side, 3)))
    assert found.verdicts.tolist() == ["position"] and np.isnan(found.border_share).all()
    assert f"cannot be told from a map of {side} × {side} cells" in found.sentence(0)
    assert str(found.table())
