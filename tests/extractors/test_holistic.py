"""Tests of `HolisticDirectionPairsTf`: decoding, importances, plots, and checks of arguments."""

import logging

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import NETWORKS, SHAPES, fake_learn_pairs
from sklearn.exceptions import NotFittedError
from xplique.concepts.tf.latent_extractor import TfLatentExtractor
from xplique.concepts.tf.layered_model_latent_extractor import (
    LayeredLatentData,
    LayeredModelExtractorBuilder,
)

from xplique_dirpairs.extractors.holistic import HolisticDirectionPairsTf
from xplique_dirpairs.factorizers.direction_pairs import DirectionPairsFactorizer

pytestmark = pytest.mark.usefixtures("quick_learning")


def operator(model, coefficients, targets):
    """Return the sum of the outputs weighted by the targets."""
    return tf.reduce_sum(model(coefficients) * targets, axis=-1)


@pytest.fixture(scope="module")
def networks():
    models = {}

    def get(name):
        if name not in models:
            keras.utils.set_random_seed(0)
            maker, shape, _ = NETWORKS[name]
            models[name] = maker(shape)
        model = models[name]
        index = [candidate.name for candidate in model.layers].index(NETWORKS[name][2])
        return model, LayeredModelExtractorBuilder.build(model, index, batch_size=4)

    return get


@pytest.fixture
def fitted(networks, images):
    def fit(name="conv_gap", concepts=5, **options):
        model, extractor = networks(name)
        holistic = HolisticDirectionPairsTf(
            extractor, concepts, random_state=0, verbose=0, **options
        )
        holistic.fit(images(name))
        return holistic, model, images(name)

    return fit


@pytest.mark.parametrize("off", ["absent", "undecided"])
@pytest.mark.parametrize("name", NETWORKS)
def test_decoding_encoded_images_gives_the_networks_own_output(fitted, name, off):
    holistic, model, x = fitted(name, concepts=12, off=off)
    own = model(x).numpy()
    decoded = [
        holistic.decode(batch.latent_data, batch.coeffs_u).tensor for batch in holistic.encode(x)
    ]
    error = np.abs(np.concatenate(decoded) - own).max()
    assert error <= 1e-5 * np.abs(own).max()


def test_decoding_does_not_change_the_latent_data(fitted):
    holistic, _, x = fitted()
    batch = holistic.encode(x)[0]
    before = batch.latent_data.get_activations(as_numpy=True).copy()
    first = holistic.decode(batch.latent_data, 0 * batch.coeffs_u).tensor
    np.testing.assert_array_equal(batch.latent_data.get_activations(as_numpy=True), before)
    again = holistic.decode(batch.latent_data, 0 * batch.coeffs_u).tensor
    np.testing.assert_array_equal(first, again)


@pytest.mark.parametrize("name", ["conv_flatten", "tokens", "class_token", "vectors"])
def test_gradient_importances_equal_the_heads_gradient_along_the_bank(fitted, name):
    holistic, _, x = fitted(name)
    importances = holistic.estimate_importance(x, operator, 1)
    expected = []
    for batch in holistic.encode(x):
        latent = tf.constant(batch.latent_data.get_activations(as_numpy=True))
        with tf.GradientTape() as tape:
            tape.watch(latent)
            score = holistic.latent_extractor.latent_to_logit_model(LayeredLatentData(latent))[:, 1]
        slopes = tape.gradient(score, latent).numpy() @ holistic.factorization.concept_bank_w.T
        terms = np.abs(slopes * batch.coeffs_u)
        expected.append(terms.reshape(len(terms), -1, 5).mean(axis=1))
    np.testing.assert_allclose(importances, np.concatenate(expected).mean(0), rtol=1e-3, atol=1e-6)
    assert importances.max() > 0


def test_sobol_importance_works_on_maps_and_is_refused_on_tokens(fitted):
    holistic, _, x = fitted(concepts=2)
    options = {"method": "sobol", "grid_size": 2, "nb_design": 2}
    importances = holistic.estimate_importance(x[:1], operator, 1, **options)
    assert importances.shape == (2,) and np.isfinite(importances).all() and importances.max() > 0
    holistic, _, x = fitted("tokens")
    with pytest.raises(ValueError, match="gradient_input"):
        holistic.estimate_importance(x, operator, 1, **options)


@pytest.mark.parametrize("name", SHAPES)
def test_plots_work_for_every_shape_of_images_and_layers_with_many_concepts(fitted, name):
    holistic, _, x = fitted(name, concepts=12)
    assert len(holistic.display_images_per_concept(x[:2]).axes) == 24
    assert len(holistic.display_top_images_per_concept(x, topk=2, order=[11, 0]).axes) == 4


def test_plots_show_a_concept_only_where_it_is_detected(fitted, monkeypatch):
    holistic, _, x = fitted()
    maps = []
    monkeypatch.setattr(
        holistic,
        "display_concept_heatmap",
        lambda concept_heatmap, **_: maps.append(concept_heatmap),
    )

    def drawn(coefficients):
        maps.clear()
        holistic.display_images_per_concept(x, coeffs_u=coefficients)
        return np.reshape(maps, (5, *x.shape[:1], 8, 8)).transpose(1, 2, 3, 0)

    detected = holistic.detect(x) > 0.5
    expected = np.where(detected, holistic.transform(x), 0.0)
    np.testing.assert_array_equal(drawn(None), expected)
    np.testing.assert_allclose(drawn(holistic.factorization.coeffs_u), expected, atol=1e-6)


def test_thirty_concepts_have_different_colours(fitted):
    holistic, _, _ = fitted(concepts=30)
    assert len({cmap(1.0) for cmap in holistic.cmaps}) == 30


def test_pairs_history_and_coefficients_are_available_after_fit(fitted, images):
    holistic, _, x = fitted()
    assert holistic.pairs is holistic.factorizer.pairs_ and holistic.history_.notes == []
    assert holistic.transform().shape == holistic.transform(x).shape == (6, 8, 8, 5)
    assert holistic.transform((255 * x).astype(np.uint8)).shape == (6, 8, 8, 5)


def test_methods_before_fit_raise_not_fitted_error(networks, images):
    holistic = HolisticDirectionPairsTf(networks("conv_gap")[1], 5)
    for method in (holistic.transform, holistic.detect, holistic.encode):
        with pytest.raises(NotFittedError, match="call fit"):
            method(images("conv_gap"))


@pytest.mark.parametrize("name, ends_in", [("conv_gap", "softmax"), ("conv_flatten", "linear")])
def test_the_learning_receives_the_head_of_a_layered_model(
    networks, images, monkeypatch, name, ends_in
):
    heads = []

    def learn(activations, concepts, *, head, **options):
        heads.append(head)
        return fake_learn_pairs(activations, concepts, head=head)

    monkeypatch.setattr("xplique_dirpairs.factorizers.direction_pairs.learn_pairs", learn)
    model, extractor = networks(name)
    holistic = HolisticDirectionPairsTf(extractor, 3, verbose=0)
    holistic.fit(images(name))
    latent = extractor.input_to_latent(images(name)).activations
    assert heads[0].ends_in == ends_in
    np.testing.assert_allclose(heads[0].outputs(latent), model(images(name)), atol=1e-6)
    with tf.GradientTape() as tape:
        tape.watch(latent)
        entropy = heads[0].entropy(latent)
    assert np.abs(tape.gradient(entropy, latent)).max() > 0


class OtherLatentData(LayeredLatentData):
    """Latent data of an unknown kind of extractor, which keeps activations in a list."""

    def __init__(self, activations):
        self.levels = [activations]

    activations = property(lambda self: self.levels[0])

    @activations.setter
    def activations(self, value):
        self.levels[0] = value


@pytest.fixture
def unknown_extractor(halves):
    """Latent extractor that was not built by Xplique's `LayeredModelExtractorBuilder`."""
    g, h = halves("conv_gap")
    return TfLatentExtractor(
        None,
        lambda x: OtherLatentData(g(x)),
        lambda latent: h(latent.activations),
        OtherLatentData,
        batch_size=4,
    )


def test_an_unknown_extractor_has_no_network_term_unless_a_head_is_given(
    unknown_extractor, halves, images, caplog
):
    with caplog.at_level(logging.INFO, logger="xplique_dirpairs"):
        holistic = HolisticDirectionPairsTf(unknown_extractor, 3, verbose=0)
        holistic.fit(images("conv_gap"))
    assert holistic.history_.notes == ["no network term"]
    assert "without the network term" in caplog.text
    given = HolisticDirectionPairsTf(
        unknown_extractor, 3, latent_to_logit_model=halves("conv_gap")[1], verbose=0
    )
    given.fit(images("conv_gap"))
    assert given.history_.notes == []


def test_decoding_does_not_change_activations_in_a_list(unknown_extractor, images):
    holistic = HolisticDirectionPairsTf(unknown_extractor, 3, verbose=0)
    holistic.fit(images("conv_gap"))
    batch = holistic.encode(images("conv_gap"))[0]
    before = batch.latent_data.get_activations(as_numpy=True).copy()
    holistic.decode(batch.latent_data, 0 * batch.coeffs_u)
    np.testing.assert_array_equal(batch.latent_data.get_activations(as_numpy=True), before)


def test_a_given_factorizer_is_fitted_with_its_own_settings(networks, images):
    factorizer = DirectionPairsFactorizer(3, off="undecided")
    holistic = HolisticDirectionPairsTf(networks("conv_gap")[1], 3, factorizer)
    holistic.fit(images("conv_gap"))
    np.testing.assert_array_equal(holistic.factorization.concept_bank_w, factorizer.pairs_.signals)
    with pytest.raises(ValueError, match="that of the factorizer, 3, not 4"):
        HolisticDirectionPairsTf(networks("conv_gap")[1], 4, factorizer)


@pytest.mark.parametrize(
    "class_id, error, message",
    [
        (99, ValueError, "class_id 99 is out of range for 3 classes"),
        (-1, ValueError, "out of range"),
        (1.5, TypeError, "class_id must be an integer"),
        ("a", TypeError, "class_id must be an integer"),
        (None, TypeError, "class_id must be an integer"),
    ],
)
def test_an_invalid_class_is_refused(fitted, class_id, error, message):
    holistic, _, x = fitted()
    with pytest.raises(error, match=message):
        holistic.fit(x, class_id=class_id)
    with pytest.raises(error, match=message):
        holistic.estimate_importance(x, operator, class_id)


def test_the_class_is_checked_against_a_given_head_of_an_unknown_extractor(
    unknown_extractor, halves, images
):
    holistic = HolisticDirectionPairsTf(unknown_extractor, 3, verbose=0)
    with pytest.raises(ValueError, match=r"class_id -1 is out of range$"):
        holistic.fit(images("conv_gap"), class_id=-1)
    given = HolisticDirectionPairsTf(
        unknown_extractor, 3, latent_to_logit_model=halves("conv_gap")[1], verbose=0
    )
    with pytest.raises(ValueError, match="out of range for 3 classes"):
        given.fit(images("conv_gap"), class_id=3)


@pytest.mark.parametrize("convert", [np.asarray, tf.constant])
def test_images_of_another_size_are_refused(fitted, convert):
    holistic, _, x = fitted()
    for method in (holistic.fit, holistic.transform, holistic.detect, holistic.encode):
        with pytest.raises(ValueError, match=r"\(16, 32, 3\), but the network takes \(32, 32, 3\)"):
            method(convert(x[:, :16]))


def test_a_model_is_refused_as_latent_extractor(networks):
    with pytest.raises(TypeError, match="not Functional: create one with LayeredModelExt"):
        HolisticDirectionPairsTf(networks("conv_gap")[0], 3)


def test_a_network_without_class_outputs_needs_a_head_with_class_outputs(images):
    keras.utils.set_random_seed(0)
    inputs = keras.Input((32, 32, 3))
    x = keras.layers.Conv2D(8, 3, 4, activation="relu")(inputs)
    segmenting = keras.Model(inputs, keras.layers.Conv2D(3, 1)(x))
    extractor = LayeredModelExtractorBuilder.build(segmenting, 1, batch_size=4)
    with pytest.raises(ValueError, match=r"\(N, K\), but its output has shape \(None, 8, 8, 3\)"):
        HolisticDirectionPairsTf(extractor, 3, verbose=0).fit(images("conv_gap"))
    pooled = HolisticDirectionPairsTf(
        extractor, 3, latent_to_logit_model=lambda x: tf.reduce_mean(x, (1, 2)), verbose=0
    )
    pooled.fit(images("conv_gap"), class_id=2)
    assert pooled.history_.notes == []
