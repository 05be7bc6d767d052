"""Tests of the factorizer of direction pairs, with random pairs."""

import logging

import numpy as np
import pytest
import tensorflow as tf
from conftest import conv_gap, fake_learn_pairs, make_pairs
from sklearn.exceptions import NotFittedError

from xplique_dirpairs.factorizers.direction_pairs import DirectionPairsFactorizer

FORMS = ["absent", "undecided"]
SIZES = [(8, 3), (4, 9)]  # channels, concepts: fewer and more concepts than channels


@pytest.fixture
def x(rng):
    return lambda channels: rng.normal(size=(40, channels)).astype(np.float32)


@pytest.mark.parametrize("off", FORMS)
@pytest.mark.parametrize("channels, concepts", SIZES)
def test_decoded_coefficients_and_residual_are_the_features(x, channels, concepts, off):
    factorizer = DirectionPairsFactorizer.from_pairs(make_pairs(channels, concepts), off)
    features = x(channels)
    u = factorizer.encode(features)
    assert u.shape == (40, concepts)
    restored = factorizer.decode(u) + factorizer.residual(features)
    np.testing.assert_allclose(restored, features, atol=1e-4)


@pytest.mark.parametrize("off", FORMS)
@pytest.mark.parametrize("channels, concepts", SIZES)
def test_the_differentiable_path_gives_the_same_numbers(x, channels, concepts, off):
    factorizer = DirectionPairsFactorizer.from_pairs(make_pairs(channels, concepts), off)
    features = x(channels)
    u = factorizer.encode_differentiable(tf.constant(features))
    np.testing.assert_allclose(u, factorizer.encode(features), rtol=1e-4, atol=1e-4)
    decoded = factorizer.decode(u)
    assert tf.is_tensor(decoded)
    np.testing.assert_allclose(decoded, factorizer.decode(u.numpy()), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("off", FORMS)
def test_gradients_flow_through_encoding_and_decoding(x, off):
    factorizer = DirectionPairsFactorizer.from_pairs(make_pairs(8, 3), off)
    features = tf.constant(x(8))
    with tf.GradientTape() as tape:
        tape.watch(features)
        norm = tf.reduce_sum(factorizer.decode(factorizer.encode_differentiable(features)) ** 2)
    step = 1e-3
    gradient = tape.gradient(norm, features).numpy()[0]
    moved = features.numpy()
    moved[0] += step * gradient / np.linalg.norm(gradient)
    change = (factorizer.decode(factorizer.encode(moved)) ** 2).sum() - norm.numpy()
    assert change / step == pytest.approx(np.linalg.norm(gradient), rel=0.05)


def test_pictures_show_a_concept_only_where_it_is_detected(x):
    factorizer = DirectionPairsFactorizer.from_pairs(make_pairs(8, 3))
    features = x(8)
    shown, detected = factorizer.shown_coefficients(features), factorizer.detect(features) > 0.5
    assert (shown[~detected] == 0).all() and (factorizer.encode(features)[~detected] > 0).any()
    np.testing.assert_array_equal(shown[detected], factorizer.encode(features)[detected])


def test_its_directions_are_those_of_the_pairs():
    pairs = make_pairs(8, 3)
    factorizer = DirectionPairsFactorizer.from_pairs(pairs, "undecided")
    np.testing.assert_array_equal(factorizer.encoding_directions, pairs.signals)
    np.testing.assert_array_equal(factorizer.decoding_directions, pairs.filters)
    np.testing.assert_array_equal(factorizer.get_concept_bank(), pairs.signals)
    assert factorizer.components_.dtype == np.float32
    assert factorizer.is_fitted and not factorizer.requires_positive_activations


def test_init_stores_what_it_is_given_and_checks_nothing():
    factorizer = DirectionPairsFactorizer(-3, off="sideways", map_shape="x", recipe=7)
    assert (factorizer.number_of_concepts, factorizer.off, factorizer.map_shape) == (
        -3,
        "sideways",
        "x",
    )


class Learner:
    """Return `fake_learn_pairs` with a record of its arguments."""

    def __call__(self, activations, number_of_concepts, **options):
        self.shape, self.options = activations.shape, options
        return fake_learn_pairs(activations, number_of_concepts, **options)


@pytest.fixture
def learner(monkeypatch):
    learner = Learner()
    monkeypatch.setattr("xplique_dirpairs.factorizers.direction_pairs.learn_pairs", learner)
    return learner


@pytest.mark.parametrize("map_shape, expected", [((5, 2), (4, 5, 2, 8)), ((), (40, 8))])
def test_with_a_head_and_a_map_shape_the_network_term_is_learned_on_maps(
    learner, x, map_shape, expected
):
    factorizer = DirectionPairsFactorizer(
        3, latent_to_logit_model=lambda features: features, map_shape=map_shape
    )
    bank, u = factorizer.fit(x(8))
    assert learner.shape == expected and learner.options["head"].model is not None
    assert bank.shape == (3, 8) and u.shape == (40, 3)
    assert factorizer.pairs_.number_of_concepts == 3 and factorizer.history_.notes == []


def test_without_a_head_or_map_shape_the_log_reports_no_network_term(learner, x, caplog):
    with caplog.at_level(logging.INFO, logger="xplique_dirpairs"):
        DirectionPairsFactorizer(3, map_shape=(5, 2)).fit(x(8))
    assert learner.options["head"] is None
    assert "without the network term" in caplog.text


@pytest.mark.parametrize(
    "activations, options, message",
    [
        (np.zeros((2, 3, 3, 8)), {}, "must be flat"),
        (np.full((4, 8), np.nan), {}, "NaN"),
        (np.zeros((0, 8)), {}, "no activations"),
        (np.zeros((7, 8)), {"map_shape": (5, 2), "latent_to_logit_model": conv_gap}, "multiple of"),
        (np.zeros((4, 8)), {"off": "sideways"}, "off must be one of"),
        (
            np.zeros((4, 8)),
            {"map_shape": (0, 4), "latent_to_logit_model": conv_gap},
            "map_shape must be an integer of at least 1, not 0",
        ),
        (
            np.zeros((4, 8)),
            {"map_shape": (2, 2), "latent_to_logit_model": conv_gap()},
            r"takes activations of shape \(32, 32, 3\), but they have shape \(2, 2, 8\)",
        ),
    ],
)
def test_invalid_activations_and_settings_are_refused(activations, options, message):
    with pytest.raises(ValueError, match=message):
        DirectionPairsFactorizer(3, **options).fit(activations)


def test_a_map_shape_is_a_tuple():
    with pytest.raises(TypeError, match=r"map_shape must be a tuple such as .*not int"):
        DirectionPairsFactorizer(3, latent_to_logit_model=conv_gap, map_shape=16).fit(
            np.zeros((32, 8))
        )


@pytest.mark.parametrize("method", ["encode", "decode", "detect", "encode_differentiable"])
def test_an_unfitted_factorizer_raises_not_fitted(method):
    with pytest.raises(NotFittedError, match="call fit"):
        getattr(DirectionPairsFactorizer(3), method)(np.zeros((2, 3), np.float32))


def test_only_pairs_make_a_fitted_factorizer():
    with pytest.raises(TypeError, match="must be DirectionPairs"):
        DirectionPairsFactorizer.from_pairs({"filters": 1})
