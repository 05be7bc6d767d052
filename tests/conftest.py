"""Small networks and images shared by the tests."""

import importlib.util
import os
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")
if "PYTEST_XDIST_WORKER" in os.environ:  # one process per core: more threads would only wait
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ.setdefault("TF_NUM_INTRAOP_THREADS", "1")

import matplotlib

matplotlib.use("Agg")

import keras
import matplotlib.pyplot as plt
import numpy as np
import pytest

from xplique_dirpairs.learning.history import History
from xplique_dirpairs.models.split import split_model
from xplique_dirpairs.pairs import DirectionPairs

CLASSES = 3


def pytest_configure(config):
    # Pairs of tiny networks on random images are rarely good; tests of the warning enable it.
    config.addinivalue_line(
        "filterwarnings", "ignore::xplique_dirpairs.learning.history.LearningWarning"
    )


class ClassToken(keras.layers.Layer):
    """Puts one learned token in front of the other tokens."""

    def build(self, shape):
        self.token = self.add_weight(shape=(1, 1, shape[-1]), initializer="random_normal")

    def call(self, tokens):
        first = keras.ops.repeat(self.token, keras.ops.shape(tokens)[0], axis=0)
        return keras.ops.concatenate([first, tokens], axis=1)


def _convolutions(inputs, activation="relu", channels=8):
    """Return the output of two convolutions; the second one is the layer ``features``."""
    # A positive bias keeps the channels of a ReLU alive. GELU needs negative values, so no bias.
    bias = "ones" if activation == "relu" else "zeros"
    x = keras.layers.Conv2D(channels, 3, 2, "same", activation=activation)(inputs)
    return keras.layers.Conv2D(
        channels, 3, 2, "same", activation=activation, name="features", bias_initializer=bias
    )(x)


def conv_gap(shape=(32, 32, 3), activation="relu", channels=8):
    """Return a network of convolutions, global average pooling and a dense layer."""
    inputs = keras.Input(shape)
    x = keras.layers.GlobalAveragePooling2D()(_convolutions(inputs, activation, channels))
    return keras.Model(inputs, keras.layers.Dense(CLASSES, activation="softmax")(x))


def conv_flatten(shape=(32, 32, 3)):
    """Return a network whose head depends on the positions of features: it flattens them."""
    inputs = keras.Input(shape)
    x = keras.layers.Flatten()(_convolutions(inputs))
    return keras.Model(inputs, keras.layers.Dense(CLASSES)(x))


def tokens(shape=(32, 32, 3), class_token=False):
    """Return a network with patches as tokens and one attention layer after the cut."""
    inputs = keras.Input(shape)
    x = keras.layers.Conv2D(8, 8, 8)(inputs)
    x = keras.layers.Reshape((-1, 8))(x)
    if class_token:
        x = ClassToken()(x)
    x = keras.layers.Activation("gelu", name="features")(x)
    x = keras.layers.Add()([x, keras.layers.MultiHeadAttention(2, 4)(x, x)])
    x = x[:, 0] if class_token else keras.layers.GlobalAveragePooling1D()(x)
    return keras.Model(inputs, keras.layers.Dense(CLASSES)(x))


def vectors(shape=(32, 32, 3)):
    """Return a network with a layer ``vector`` that has no positions, (N, D)."""
    inputs = keras.Input(shape)
    x = keras.layers.GlobalAveragePooling2D()(_convolutions(inputs))
    x = keras.layers.Dense(10, activation="relu", name="vector", bias_initializer="ones")(x)
    return keras.Model(inputs, keras.layers.Dense(CLASSES)(x))


#: Name of a network → (its maker, its input shape, the layer to cut it at).
NETWORKS = {
    "conv_gap": (conv_gap, (32, 32, 3), "features"),
    "conv_flatten": (conv_flatten, (32, 32, 3), "features"),
    "tall": (conv_gap, (64, 32, 3), "features"),
    "tall_flatten": (conv_flatten, (64, 32, 3), "features"),
    "grayscale": (conv_gap, (32, 32, 1), "features"),
    "gelu": (lambda shape: conv_gap(shape, "gelu"), (32, 32, 3), "features"),
    "tokens": (tokens, (32, 32, 3), "features"),
    "tall_tokens": (tokens, (64, 32, 3), "features"),
    "class_token": (lambda shape: tokens(shape, True), (32, 32, 3), "features"),
    "vectors": (vectors, (32, 32, 3), "vector"),
}

#: Those that differ in the shape of their images or of their layer.
SHAPES = ("conv_gap", "tall", "grayscale", "tokens", "tall_tokens", "class_token", "vectors")


def make_images(count, shape, seed=0):
    """Return random images of 8×8 blocks of colour, (count, *shape) float32 in [0, 1]."""
    rng = np.random.default_rng(seed)
    height, width, channels = shape
    coarse = rng.uniform(size=(count, -(-height // 8), -(-width // 8), channels))
    fine = coarse.repeat(8, axis=1).repeat(8, axis=2)[:, :height, :width]
    return fine.astype(np.float32)


def make_pairs(channels, concepts, seed=0):
    """Return random direction pairs, which are well-conditioned if I ≤ D."""
    rng = np.random.default_rng(seed)
    filters = rng.normal(size=(concepts, channels)).astype(np.float32)
    signals = filters + 0.1 * rng.normal(size=filters.shape)
    return DirectionPairs(
        filters, rng.uniform(0.2, 0.6, concepts), signals, np.zeros(channels), np.zeros(concepts)
    )


def fake_learn_pairs(activations, number_of_concepts, *, head=None, random_state=None, **_):
    """Replace `learn_pairs`: return pairs and a history in milliseconds.

    The filters are features of random positions; each concept is on at a third of the positions.
    """
    x = activations.reshape(-1, activations.shape[-1])
    rng = np.random.default_rng(random_state)
    filters = x[rng.integers(len(x), size=number_of_concepts)] - x.mean(axis=0)
    filters = filters + 0.1 * x.std() * rng.normal(size=filters.shape)
    z = x @ filters.T
    biases = np.quantile(z, 2 / 3, axis=0)
    on = z > biases
    signals = [
        x[on_i].mean(0) - x[~on_i].mean(0) if on_i.any() else filters[i]
        for i, on_i in enumerate(on.T)
    ]
    absent = np.where(on, 0, z).sum(axis=0) / np.maximum((~on).sum(axis=0), 1)
    pairs = DirectionPairs(filters, biases, signals, x.mean(axis=0), absent)
    history = History(
        recipe="default",
        stages={},
        violations={},
        cut_short=[],
        occupancy=on.mean(axis=0),
        dead=[],
        duplicates=[],
        condition_number=pairs.condition_number,
        notes=["no network term"] if head is None else [],
    )
    return pairs, history


@pytest.fixture
def quick_learning(monkeypatch):
    """Replaces learning by `fake_learn_pairs`, for tests that do not depend on it."""
    module = "xplique_dirpairs.factorizers.direction_pairs"
    monkeypatch.setattr(f"{module}.learn_pairs", fake_learn_pairs)


@pytest.fixture(scope="session")
def halves():
    """``halves(name)`` → the halves of a network of `NETWORKS`, built once per session."""
    by_name = {}

    def get(name):
        if name not in by_name:
            keras.utils.set_random_seed(0)
            maker, shape, layer = NETWORKS[name]
            by_name[name] = split_model(maker(shape), layer)
        return by_name[name]

    return get


@pytest.fixture(scope="session")
def colour_network():
    """The halves of a network that predicts the strongest colour channel of an image."""
    keras.utils.set_random_seed(0)
    inputs = keras.Input((32, 32, 3))
    conv = keras.layers.Conv2D(8, 1, 4, activation="relu", name="features")
    dense = keras.layers.Dense(3, use_bias=False)
    model = keras.Model(inputs, dense(keras.layers.GlobalAveragePooling2D()(conv(inputs))))
    kernel, bias = conv.get_weights()
    kernel[..., :3] = np.eye(3)
    conv.set_weights([kernel, bias])
    dense.set_weights([np.eye(8, 3)])
    return split_model(model, "features")


@pytest.fixture
def images():
    """``images(name, count)`` → images for a network of `NETWORKS`."""
    return lambda name, count=6, seed=0: make_images(count, NETWORKS[name][1], seed)


@pytest.fixture
def rng():
    """A random generator with a fixed seed."""
    return np.random.default_rng(0)


@pytest.fixture(autouse=True)
def _no_figures_left():
    """Closes all figures after each test."""
    yield
    plt.close("all")


@pytest.fixture
def detector_plots():
    """The module benchmarks/detector_plots.py, which draws detectors and their labels."""
    path = Path(__file__).parents[1] / "benchmarks" / "detector_plots.py"
    spec = importlib.util.spec_from_file_location("detector_plots", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
