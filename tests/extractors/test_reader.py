"""Any extractor as the same few functions."""

import keras
import numpy as np
import pytest
from conftest import NETWORKS, make_pairs
from xplique.concepts import CraftTf, HolisticCraftTf
from xplique.concepts.tf.layered_model_latent_extractor import LayeredModelExtractorBuilder

from xplique_dirpairs.core.batching import as_positions
from xplique_dirpairs.data.activations import compute_activations
from xplique_dirpairs.extractors.craft import FactorizerCraftTf
from xplique_dirpairs.extractors.reader import (
    bank_of,
    factorizer_of,
    is_fitted,
    number_of_concepts,
    reader_of,
)
from xplique_dirpairs.factorizers.controls import RandomFactorizer
from xplique_dirpairs.factorizers.decompositions import KMeansFactorizer, PCAFactorizer
from xplique_dirpairs.factorizers.direction_pairs import DirectionPairsFactorizer
from xplique_dirpairs.factorizers.nonnegative import NMFFactorizer


@pytest.fixture
def activations(halves, images):
    return compute_activations(halves("conv_gap")[0], images("conv_gap"))


@pytest.mark.parametrize("factorizer", [NMFFactorizer, PCAFactorizer, KMeansFactorizer])
def test_a_factorizers_reader_reads_and_writes_as_it_does(activations, factorizer):
    fitted = factorizer(3, random_state=0)
    pixels = as_positions(activations)
    fitted.fit(pixels)
    reader = reader_of(fitted, pixels)
    coefficients = reader.coefficients(activations)
    assert coefficients.shape == (*activations.shape[:-1], 3)
    np.testing.assert_allclose(as_positions(coefficients), fitted.encode(pixels), rtol=1e-5)
    np.testing.assert_allclose(
        as_positions(reader.reconstructions(coefficients)),
        fitted.decode(fitted.encode(pixels)),
        atol=1e-4,
    )
    np.testing.assert_array_equal(reader.encoding, fitted.encoding_directions)


def test_an_unmodified_craft_is_read_by_its_own_transform(halves, images, activations):
    craft = CraftTf(*halves("conv_gap"), 3, patch_size=16)
    assert not is_fitted(craft) and number_of_concepts(craft) == 3
    craft.fit(images("conv_gap"))
    reader = reader_of(craft, as_positions(activations))
    own = craft.transform(images("conv_gap"))
    np.testing.assert_allclose(reader.coefficients(activations), own, atol=1e-4)
    np.testing.assert_array_equal(reader.bank, craft.factorization.concept_bank_w)
    assert reader.decoding is None and not reader.constant.any() and is_fitted(craft)
    with pytest.raises(ValueError, match="nowhere negative"):
        reader.coefficients(activations - 100)


def test_pairs_show_a_concept_only_where_it_is_detected(activations):
    fitted = DirectionPairsFactorizer.from_pairs(make_pairs(8, 4))
    reader = reader_of(fitted, as_positions(activations))
    shown, u = reader.shown_coefficients(activations), reader.coefficients(activations)
    detected = fitted.detect(activations) > 0.5
    assert 0 < detected.mean() < 1
    np.testing.assert_allclose(shown, np.maximum(u, 0) * detected, rtol=1e-5)
    np.testing.assert_array_equal(reader.decoding, fitted.pairs_.filters)


def test_where_nothing_else_is_said_pictures_show_the_coefficients(activations):
    fitted = PCAFactorizer(2)
    fitted.fit(as_positions(activations))
    reader = reader_of(fitted, as_positions(activations))
    assert reader.shown is None
    np.testing.assert_array_equal(
        reader.shown_coefficients(activations), reader.coefficients(activations)
    )


def test_a_craft_over_a_factorizer_and_a_holistic_one_are_read_as_the_factorizer(halves, images):
    pictures = images("conv_gap")
    craft = FactorizerCraftTf(*halves("conv_gap"), PCAFactorizer(3), patch_size=16)
    craft.fit(pictures)
    pixels = as_positions(compute_activations(halves("conv_gap")[0], pictures))
    np.testing.assert_array_equal(bank_of(craft), craft.factorizer.get_concept_bank())
    keras.utils.set_random_seed(0)
    maker, shape, layer = NETWORKS["conv_gap"]
    model = maker(shape)
    index = [candidate.name for candidate in model.layers].index(layer)
    latent = LayeredModelExtractorBuilder.build(model, index, batch_size=4)
    holistic = HolisticCraftTf(latent, 3, factorizer=PCAFactorizer(3))
    assert not is_fitted(holistic) and factorizer_of(holistic).number_of_concepts == 3
    holistic.fit(pictures)
    ours, theirs = reader_of(craft, pixels), reader_of(holistic, pixels)
    np.testing.assert_allclose(ours.coefficients(pixels), theirs.coefficients(pixels), atol=1e-4)


def test_a_decoder_that_is_not_affine_is_refused(activations):
    class Rectified(RandomFactorizer):
        def decode(self, coefficients):
            return np.maximum(super().decode(coefficients) - 1.0, 0.0)

    fitted = Rectified(3, random_state=0)
    fitted.fit(as_positions(activations))
    with pytest.raises(ValueError, match=r"Rectified\.decode\(u\) is not .* switched off"):
        reader_of(fitted, as_positions(activations))


def test_a_decoder_that_is_affine_only_with_all_concepts_on_is_refused(activations):
    class Gated(PCAFactorizer):
        """Reads whole features, and rounds coefficients that are not whole multiples away."""

        def encode(self, activations):
            return np.round(super().encode(activations), 1)

        def decode(self, coefficients):
            return super().decode(np.round(coefficients, 1))

    fitted = Gated(3)
    fitted.fit(as_positions(activations))
    with pytest.raises(ValueError, match="switched off"):
        reader_of(fitted, as_positions(activations))


def test_another_layer_and_what_is_no_extractor_are_refused(activations):
    fitted = DirectionPairsFactorizer.from_pairs(make_pairs(5, 2))
    with pytest.raises(ValueError, match=r"layer of 5 channels, but .* give 8"):
        reader_of(fitted, as_positions(activations))
    with pytest.raises(TypeError, match="not dict"):
        reader_of({}, as_positions(activations))


def test_many_positions_are_read_in_parts(activations, monkeypatch):
    import xplique_dirpairs.extractors.reader as module

    fitted = PCAFactorizer(2)
    fitted.fit(as_positions(activations))
    reader = reader_of(fitted, as_positions(activations))
    whole = reader.coefficients(activations)
    monkeypatch.setattr(module, "_POSITIONS", 7)
    np.testing.assert_allclose(reader.coefficients(activations), whole, atol=1e-6)
