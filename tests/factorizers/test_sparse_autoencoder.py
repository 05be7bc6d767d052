"""The Keras model of the sparse autoencoders: losses, dictionaries, TopK."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from sparse_mixtures import sparse_mixtures

from xplique_dirpairs.factorizers.sparse_autoencoder import (
    AUXILIARY_WEIGHT,
    ArchetypalDictionary,
    FreeDictionary,
    SparseAutoencoder,
    onto_simplex,
    top_k,
)

CHANNELS = 12


def test_a_dead_concept_is_revived():
    """Its encoder is opposite to all features, so only the auxiliary loss can change it."""
    x, atoms = sparse_mixtures(2000, 8, 3, offset=0.0)
    model = SparseAutoencoder(FreeDictionary(atoms), 3, centre=np.zeros(8), scale=1.0, patience=5)
    model.shift.assign([0.0, 0.0, -5.0])
    model.compile(keras.optimizers.Adam(0.02), steps_per_execution=100)
    before = model.terms(tf.constant(x))[1].numpy()
    assert before[:, 2].max() == 0
    batches = tf.data.Dataset.from_tensors(x).repeat()
    model.fit(batches, steps_per_epoch=400, shuffle=False, verbose=0)
    assert (model.terms(tf.constant(x))[1].numpy()[:, 2] > 0).mean() > 0.1


def test_the_simplex_projection_is_the_nearest_point(rng):
    rows = rng.normal(size=(5, 4)) * 2
    projected = onto_simplex(tf.constant(rows)).numpy()
    assert projected.min() >= 0
    np.testing.assert_allclose(projected.sum(axis=1), 1.0)
    distance = np.linalg.norm(rows - projected, axis=1)
    for other in rng.dirichlet(np.ones(4) * 0.5, size=500):
        assert (distance <= np.linalg.norm(rows - other, axis=1) + 1e-9).all()
    on_it = rng.dirichlet(np.ones(4), size=3)
    np.testing.assert_allclose(onto_simplex(tf.constant(on_it)), on_it)


def test_top_k_keeps_k_of_equal_coefficients():
    kept = top_k(tf.constant([[1.0, 1.0, 1.0, 0.5], [0.0, 2.0, 3.0, 1.0]]), 2).numpy()
    np.testing.assert_array_equal(kept, [[1.0, 1.0, 0.0, 0.0], [0.0, 2.0, 3.0, 0.0]])


@pytest.mark.parametrize("archetypal", [False, True])
def test_the_loss_equals_a_reference_implementation(rng, archetypal):
    centre, scale, k = rng.normal(size=5), 1.7, 2
    if archetypal:
        centroids, mixture = rng.normal(size=(7, 5)), rng.dirichlet(np.ones(7), size=4)
        dictionary = ArchetypalDictionary(centroids, mixture, 0.1)
        relaxation = 0.04 * rng.normal(size=(4, 5))
        dictionary.relaxation.assign(relaxation)
        atoms = mixture @ centroids + relaxation
    else:
        dictionary = FreeDictionary(rng.normal(size=(4, 5)))
        atoms = dictionary.atoms().numpy().astype(float)
    model = SparseAutoencoder(dictionary, k, centre=centre, scale=scale, patience=3)
    encoder, shift, offset = rng.normal(size=(4, 5)), rng.normal(size=4), rng.normal(size=5)
    model.encoder.assign(encoder)
    model.shift.assign(shift)
    model.offset.assign(offset)
    dead = [1, 3]
    model.idle.assign([0.0, 3.0, 2.0, 8.0])
    features = rng.normal(size=(9, 5)).astype(np.float32)

    reconstruction = auxiliary = 0.0
    for feature in features:
        scaled = (feature - centre) / scale
        z = encoder @ (scaled - offset) + shift
        left = scaled - offset
        for i in np.argsort(-z)[:k]:
            left = left - max(z[i], 0.0) * atoms[i]
        reconstruction += (left**2).sum() / len(features)
        again = sum(max(z[i], 0.0) * atoms[i] for i in dead)
        auxiliary += ((left - again) ** 2).sum() / len(features)

    losses, _ = model.terms(tf.constant(features))
    assert losses["reconstruction"].numpy() == pytest.approx(reconstruction, rel=1e-4)
    assert losses["auxiliary"].numpy() == pytest.approx(auxiliary, rel=1e-4)
    objective = reconstruction + AUXILIARY_WEIGHT * auxiliary
    assert losses["objective"].numpy() == pytest.approx(objective, rel=1e-4)
    model.idle.assign(np.zeros(4))
    assert model.terms(tf.constant(features))[0]["auxiliary"].numpy() == 0


def test_an_autoencoder_that_decodes_the_mean_loses_all_variance():
    x, _ = sparse_mixtures(600, CHANNELS, 6)
    model = SparseAutoencoder(
        FreeDictionary(np.eye(2, CHANNELS)),
        1,
        centre=x.mean(axis=0),
        scale=float(np.sqrt(np.square(x - x.mean(axis=0)).sum() / len(x))),
        patience=1,
    )
    model.encoder.assign(np.zeros((2, CHANNELS)))
    assert 1 - model.terms(tf.constant(x))[0]["reconstruction"].numpy() == pytest.approx(
        0, abs=1e-4
    )
