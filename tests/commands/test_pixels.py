import importlib

import keras
import numpy as np
import pytest

from xplique_dirpairs.commands.console import UsageError
from xplique_dirpairs.commands.pixels import NETWORKS, preprocessing


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
    prepared = preprocessing(name)
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
def test_invalid_preprocessing_functions_are_refused(pixels, module, source, error, complaint):
    with pytest.raises(error, match=complaint):
        preprocessing(f"{module(source)}:f").apply(pixels)


def test_an_unknown_preprocessing_lists_the_choices():
    with pytest.raises(
        UsageError, match=r"no 'resnet51'\. Choices: none .*resnet50.*module:function"
    ):
        preprocessing("resnet51")
