"""Extractors whose factorizer does not find direction pairs, or is not fitted yet."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import NETWORKS, make_images
from sklearn.exceptions import NotFittedError
from xplique.concepts.tf.layered_model_latent_extractor import LayeredModelExtractorBuilder

from xplique_dirpairs import (
    FactorizerCraftTf,
    HolisticDirectionPairsTf,
    PCAFactorizer,
    TopKFactorizer,
)


@pytest.fixture
def network():
    keras.utils.set_random_seed(0)
    maker, shape, _ = NETWORKS["conv_gap"]
    model = maker(shape)
    index = [layer.name for layer in model.layers].index("features")
    return LayeredModelExtractorBuilder.build(model, index, batch_size=4)


IMAGES = make_images(6, NETWORKS["conv_gap"][1])


def test_a_factorizer_without_pairs_has_neither_pairs_nor_detections(network):
    holistic = HolisticDirectionPairsTf(network, 3, PCAFactorizer(3))
    holistic.fit(IMAGES)
    assert holistic.history_ is None
    with pytest.raises(TypeError, match="PCAFactorizer, which has no direction pairs"):
        holistic.pairs  # noqa: B018
    with pytest.raises(TypeError, match="no detections"):
        holistic.detect(IMAGES)
    assert holistic.transform(IMAGES).shape[-1] == 3


@pytest.mark.filterwarnings("ignore::xplique_dirpairs.LearningWarning")
def test_the_history_is_that_of_the_factorizer_if_it_keeps_one(network):
    holistic = HolisticDirectionPairsTf(network, 3, TopKFactorizer(3, steps=4, n_init=1))
    holistic.fit(IMAGES)
    assert holistic.history_ is holistic.factorizer.history_


def test_an_extractor_whose_factorizer_was_replaced_is_not_fitted(network, halves):
    holistic = HolisticDirectionPairsTf(network, 3, PCAFactorizer(3))
    holistic.fit(IMAGES)
    craft = FactorizerCraftTf(halves("conv_gap"), factorizer=PCAFactorizer(3))
    craft.fit(IMAGES)
    for extractor in (holistic, craft):
        extractor.check_if_fitted()
        extractor.factorizer = PCAFactorizer(3)
        with pytest.raises(NotFittedError, match=r"not fitted: call fit\(\)"):
            extractor.check_if_fitted()


@pytest.mark.parametrize("kept", [0, 1])
def test_a_latent_extractor_that_yields_too_little_is_refused(kept, network, monkeypatch):
    whole = type(network).input_to_latent_generator

    def some(self, images, *args, **kwargs):
        for number, batch in enumerate(whole(self, images[:2], *args, **kwargs)):
            if number < kept:
                yield batch

    monkeypatch.setattr(type(network), "input_to_latent_generator", some)
    holistic = HolisticDirectionPairsTf(network, 3, PCAFactorizer(3))
    with pytest.raises(ValueError, match=f"activations of {2 * kept} images for 6 images"):
        holistic.fit(IMAGES)


@pytest.mark.parametrize("labelled", [False, True])
def test_a_dataset_in_place_of_images_says_how_to_make_an_array(labelled, halves):
    parts = (IMAGES, np.arange(6)) if labelled else IMAGES
    dataset = tf.data.Dataset.from_tensor_slices(parts).batch(2)
    craft = FactorizerCraftTf(halves("conv_gap"), factorizer=PCAFactorizer(3))
    with pytest.raises(ValueError, match=r"images = np.concatenate\(list\(dataset\)\)"):
        craft.fit(dataset)
    images = np.concatenate([x for x, y in dataset] if labelled else list(dataset))
    craft.fit(images)
