"""The influence of a layer's concepts equals that of their signal vectors."""

import keras
import numpy as np
import pytest

from xplique_dirpairs.extractors.concept_layer import ConceptLayer
from xplique_dirpairs.models.split import SplitModel
from xplique_dirpairs.pairs import DirectionPairs
from xplique_dirpairs.sensitivity.influence import (
    InfluenceSettings,
    influence,
    influence_of_directions,
)

SHAPE, K = (3, 2, 6), 4
LABELS = np.arange(12) % 3


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).normal(size=(12, *SHAPE)).astype(np.float32)


@pytest.fixture(scope="module")
def layer():
    """Return concepts of a network whose features are its images."""
    keras.utils.set_random_seed(0)
    rng = np.random.default_rng(1)
    inputs, latent = keras.Input(SHAPE), keras.Input(SHAPE)
    first = keras.Model(inputs, keras.layers.Identity()(inputs))
    outputs = keras.layers.Dense(K)(keras.layers.GlobalAveragePooling2D()(latent))
    filters, levels = rng.normal(size=(3, SHAPE[-1])), np.full(3, 0.5)
    pairs = DirectionPairs(filters, levels, filters, np.zeros(SHAPE[-1]), np.zeros(3))
    return ConceptLayer.of(pairs, SplitModel.of(first, keras.Model(latent, outputs)))


@pytest.mark.parametrize("over", ["all", "class"])
def test_influence_of_concepts_equals_that_of_their_signal_vectors(layer, images, over):
    settings = InfluenceSettings(noise="permuted labels", noise_vectors=20, images=over)
    of_concepts = influence(layer, images, LABELS, settings=settings, verbose=0)
    of_directions = influence_of_directions(
        layer.head, images, LABELS, layer.encoding, layer.pairs.detect(images) > 0.5,
        settings=settings, verbose=0,
    )  # fmt: skip
    for name in ("scores", "changes", "p_values", "images"):
        np.testing.assert_allclose(
            getattr(of_concepts, name), getattr(of_directions, name), atol=1e-5
        )


def test_without_labels_each_image_counts_for_its_predicted_class(layer, images):
    settings = InfluenceSettings(images="class")
    predicted = layer.head.logits(images).argmax(axis=1)
    without_labels, with_predicted = (
        influence(layer, images, labels, settings=settings, verbose=0)
        for labels in (None, predicted)
    )
    np.testing.assert_array_equal(without_labels.images, np.bincount(predicted, minlength=K))
    np.testing.assert_array_equal(without_labels.changes, with_predicted.changes)


def test_the_effect_in_logits_is_that_of_the_coefficients_along_the_signal_vectors(layer, images):
    result = influence(layer, images, LABELS, verbose=0)
    u = layer.coefficients(images)
    rows = layer.head.class_rows - layer.head.class_rows.mean(axis=0)
    for i, (bank, signal) in enumerate(zip(layer.bank, layer.encoding, strict=True)):
        unit = signal / np.linalg.norm(signal)
        for k in range(3):
            own = [n for n in range(12) if LABELS[n] == k]
            lengths = [u[n, ..., i].mean() * (bank @ unit) for n in own]
            wanted = np.mean(lengths) * (rows[k] @ unit)
            assert result.effects[i, k] == pytest.approx(wanted, abs=1e-5)
