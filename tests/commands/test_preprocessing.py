import importlib

import keras
import numpy as np
import pytest

from xplique_dirpairs.commands.console import UsageError
from xplique_dirpairs.commands.preprocessing import NETWORKS, preprocessing, scales_its_input


def mean_color():
    """A model that shows what it is given."""
    inputs = keras.Input((4, 4, 3))
    return keras.Model(inputs, keras.layers.GlobalAveragePooling2D()(inputs))


@pytest.fixture(scope="module")
def model():
    return mean_color()


@pytest.fixture
def pixels(rng):
    return rng.integers(0, 256, (2, 4, 4, 3)).astype(np.uint8)


def seen(model, name, pixels):
    made = preprocessing(name, model)
    return np.asarray(made.before(model)(made.of(pixels).astype(np.float32)))


@pytest.mark.parametrize(
    ("name", "scaled"),
    [
        ("none", lambda x: x),
        ("unit", lambda x: x / 255),
        ("symmetric", lambda x: x / 127.5 - 1),
    ],
)
def test_the_three_scales(model, pixels, name, scaled):
    np.testing.assert_allclose(
        seen(model, name, pixels),
        scaled(pixels.astype(float)).mean(axis=(1, 2)),
        rtol=1e-4,
        atol=1e-4,
    )


@pytest.mark.parametrize("name", NETWORKS)
def test_the_networks_of_keras_are_preprocessed_as_keras_does(model, pixels, name):
    theirs = importlib.import_module(f"keras.applications.{name}").preprocess_input
    wanted = theirs(pixels.astype(np.float32)).mean(axis=(1, 2))
    np.testing.assert_allclose(seen(model, name, pixels), wanted, rtol=1e-4, atol=1e-3)


def test_every_network_of_keras_is_there():
    modules = {name for name in dir(keras.applications) if not name.startswith("_")}
    with_preprocessing = {
        name for name in modules if hasattr(getattr(keras.applications, name), "preprocess_input")
    } - {"imagenet_utils"}
    assert with_preprocessing == set(NETWORKS)


# ------------------------------------------------------------------ a function of the user's


@pytest.fixture
def module(tmp_path, monkeypatch):
    """``module(source)`` writes a module of the user's in the folder one is in; its name."""
    monkeypatch.chdir(tmp_path)

    def written(source):
        name = f"of_the_user_{abs(hash(source))}"
        (tmp_path / f"{name}.py").write_text(source)
        return name

    return written


def test_a_function_of_ones_own(model, pixels, module):
    name = module("def halved(x):\n    return x / 2")
    found = seen(model, f"{name}:halved", pixels)
    np.testing.assert_allclose(found, pixels.mean(axis=(1, 2)) / 2, rtol=1e-5)


@pytest.mark.parametrize(
    ("source", "error", "complaint"),
    [
        ("f = 3", UsageError, "has no function 'f'"),
        ("import there_is_none", UsageError, "cannot be imported .ModuleNotFoundError"),
        ("def f(x):\n    raise KeyError('no')", ValueError, "failed on pixels of shape .*KeyError"),
        ("def f(x):\n    return x[:1]", ValueError, "one for each of 2; it returned"),
        ("def f(x):\n    return x * float('nan')", ValueError, "must return finite images"),
    ],
)
def test_a_function_that_is_none(model, pixels, module, source, error, complaint):
    with pytest.raises(error, match=complaint):
        preprocessing(f"{module(source)}:f", model).of(pixels)


def test_an_unknown_name_lists_the_choices(model):
    with pytest.raises(
        UsageError, match=r"no 'resnet51'\. Choices: none .*resnet50.*module:function"
    ):
        preprocessing("resnet51", model)


# ------------------------------------------------------------------ left out


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
def test_a_model_that_scales_its_input_takes_pixels(make):
    assert preprocessing(None, make()).name == "none"


@pytest.mark.parametrize(
    "make",
    [
        lambda: begins_with(),
        lambda: begins_with(keras.layers.Conv2D(3, 3), keras.layers.Rescaling(2.0)),
        two_branches,
    ],
)
def test_a_model_that_does_not_scale_is_asked_about(make):
    model = make()
    assert not scales_its_input(model)
    with pytest.raises(UsageError, match="say what it was trained on, with --preprocessing"):
        preprocessing(None, model)
