import importlib

import keras
import numpy as np
import pytest
from conftest import NETWORKS as SMALL_NETWORKS
from conftest import conv_gap

from xplique_dirpairs.commands.console import UsageError
from xplique_dirpairs.commands.network import (
    NETWORKS,
    candidates,
    layers_table,
    preprocessing,
    scales_its_input,
    suggestion,
)
from xplique_dirpairs.models.split import split_model


def mean_color():
    """Return a model that outputs the mean colour of its input."""
    inputs = keras.Input((4, 4, 3))
    return keras.Model(inputs, keras.layers.GlobalAveragePooling2D()(inputs))


@pytest.fixture(scope="module")
def model():
    return mean_color()


@pytest.fixture
def pixels(rng):
    return rng.integers(0, 256, (2, 4, 4, 3)).astype(np.uint8)


def preprocessed_colour(model, name, pixels):
    """Return the mean colours after preprocessing, (N, 3)."""
    prepared = preprocessing(name, model)
    return np.asarray(prepared.before(model)(prepared.apply(pixels).astype(np.float32)))


@pytest.mark.parametrize(
    ("name", "scaled"),
    [
        ("none", lambda x: x),
        ("unit", lambda x: x / 255),
        ("symmetric", lambda x: x / 127.5 - 1),
    ],
)
def test_none_unit_and_symmetric_scale_pixels(model, pixels, name, scaled):
    np.testing.assert_allclose(
        preprocessed_colour(model, name, pixels),
        scaled(pixels.astype(float)).mean(axis=(1, 2)),
        rtol=1e-4,
        atol=1e-4,
    )


@pytest.mark.parametrize("name", NETWORKS)
def test_the_preprocessing_of_a_keras_network_equals_that_of_keras(model, pixels, name):
    theirs = importlib.import_module(f"keras.applications.{name}").preprocess_input
    wanted = theirs(pixels.astype(np.float32)).mean(axis=(1, 2))
    output = preprocessed_colour(model, name, pixels)
    np.testing.assert_allclose(output, wanted, rtol=1e-4, atol=1e-3)


def test_every_keras_network_with_a_preprocessing_is_listed():
    modules = {name for name in dir(keras.applications) if not name.startswith("_")}
    with_preprocessing = {
        name for name in modules if hasattr(getattr(keras.applications, name), "preprocess_input")
    } - {"imagenet_utils"}
    assert with_preprocessing == set(NETWORKS)


# ------------------------------------------------------------------ the user's own function


@pytest.fixture
def module(tmp_path, monkeypatch):
    """``module(source)`` writes a module to the current folder and returns its name."""
    monkeypatch.chdir(tmp_path)

    def written(source):
        name = f"of_the_user_{abs(hash(source))}"
        (tmp_path / f"{name}.py").write_text(source)
        return name

    return written


def test_a_function_of_the_user_preprocesses_pixels(model, pixels, module):
    name = module("def halved(x):\n    return x / 2")
    preprocessed = preprocessed_colour(model, f"{name}:halved", pixels)
    np.testing.assert_allclose(preprocessed, pixels.mean(axis=(1, 2)) / 2, rtol=1e-5)


@pytest.mark.parametrize(
    ("source", "error", "complaint"),
    [
        ("f = 3", UsageError, "has no function 'f'"),
        ("import there_is_none", UsageError, "cannot be imported: ModuleNotFoundError"),
        ("def f(x):\n    raise KeyError('no')", ValueError, "failed on pixels of shape .*KeyError"),
        ("def f(x):\n    return x[:1]", ValueError, "one for each of 2; it returned"),
        ("def f(x):\n    return x * float('nan')", ValueError, "must return finite images"),
    ],
)
def test_invalid_preprocessing_functions_are_refused(
    model, pixels, module, source, error, complaint
):
    with pytest.raises(error, match=complaint):
        preprocessing(f"{module(source)}:f", model).apply(pixels)


def test_an_unknown_preprocessing_lists_the_choices(model):
    with pytest.raises(
        UsageError, match=r"no 'resnet51'\. Choices: none .*resnet50.*module:function"
    ):
        preprocessing("resnet51", model)


# ------------------------------------------------------------------ without --preprocessing


def begins_with(*layers):
    return keras.Sequential(
        [keras.Input((8, 8, 3)), *layers, keras.layers.Conv2D(2, 3), keras.layers.Flatten()]
    )


def nested():
    inner = begins_with(keras.layers.Rescaling(1 / 255))
    inputs = keras.Input((8, 8, 3))
    return keras.Model(inputs, inner(keras.layers.RandomFlip()(inputs)))


def by_operations():
    inputs = keras.Input((8, 8, 3))
    scaled = keras.applications.mobilenet_v2.preprocess_input(inputs)
    return keras.Model(inputs, keras.layers.Flatten()(scaled))


def two_branches():
    inputs = keras.Input((8, 8, 3))
    a = keras.layers.Conv2D(2, 3)(inputs)
    b = keras.layers.Conv2D(2, 3)(inputs)
    return keras.Model(inputs, keras.layers.Add()([a, b]))


@pytest.mark.parametrize(
    "make",
    [
        lambda: begins_with(keras.layers.Rescaling(1 / 255)),
        lambda: begins_with(keras.layers.Resizing(8, 8), keras.layers.Normalization()),
        nested,
        by_operations,
    ],
)
def test_a_model_that_scales_its_input_needs_no_preprocessing(make):
    assert preprocessing(None, make()).name == "none"


@pytest.mark.parametrize(
    "make",
    [
        lambda: begins_with(),
        lambda: begins_with(keras.layers.Conv2D(3, 3), keras.layers.Rescaling(2.0)),
        two_branches,
    ],
)
def test_a_model_that_does_not_scale_its_input_needs_a_preprocessing(make):
    model = make()
    assert not scales_its_input(model)
    with pytest.raises(UsageError, match="that it was trained with, with --preprocessing"):
        preprocessing(None, model)


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
