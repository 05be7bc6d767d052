"""The reconstruction without residual against a reference, and at the ends of every range."""

import dataclasses

import numpy as np
import pytest

from xplique_dirpairs.metrics.fidelity import (
    completeness,
    explained_variance,
    reconstruction,
)
from xplique_dirpairs.metrics.manipulation import Reading
from xplique_dirpairs.metrics.registry import METRICS, ratio_of_means

CLASSES = 4


def figure(key, values):
    return METRICS[key].summary(values, resamples=20).value


@pytest.fixture(params=[(), (5,), (3, 2)], ids=["vectors", "tokens", "maps"])
def reading(request, rng):
    weights = rng.normal(size=(8, CLASSES))
    shape = (20, *request.param)
    return Reading(
        activations=np.maximum(rng.normal(0.5, 1, (*shape, 8)), 0),
        coefficients=rng.normal(size=(*shape, 3)),
        bank=rng.normal(size=(3, 8)),
        predict=lambda x: np.maximum(x.reshape(len(x), -1, 8).mean(axis=1) @ weights, -0.5),
        class_ids=rng.integers(CLASSES, size=20),
        limits=(0.0, np.inf),
    )


@pytest.fixture
def labels(reading, rng):
    """Return classes that the network predicts correctly for about two thirds of the images."""
    predictions = reading.intact_logits.argmax(axis=1)
    return np.where(rng.random(20) < 0.6, predictions, rng.integers(CLASSES, size=20))


def test_every_metric_matches_a_reference_implementation(reading, labels, rng):
    rebuilt = reading.activations + 0.7 * rng.normal(size=reading.activations.shape)
    fast = reconstruction(reading, rebuilt, labels)
    x = reading.activations.astype(float)
    logits = [reading.predict(one[None])[0] for one in x]
    others = [reading.predict(np.maximum(one, 0)[None])[0] for one in rebuilt]
    right = right_rebuilt = 0
    for n in range(20):
        p, q = (np.exp(z) / np.exp(z).sum() for z in (logits[n], others[n]))
        kl = sum(p[k] * np.log2(p[k] / q[k]) for k in range(CLASSES))
        np.testing.assert_allclose(fast["kl"][n], kl, rtol=1e-3, atol=1e-6)
        assert fast["agreement"][n] == (p.argmax() == q.argmax())
        right += p.argmax() == labels[n]
        right_rebuilt += q.argmax() == labels[n]
    eta = (right_rebuilt / 20 - 1 / CLASSES) / (right / 20 - 1 / CLASSES)
    np.testing.assert_allclose(figure("completeness", fast["completeness"]), eta)
    for key, values, predictions in (
        ("logit_r2", np.array(logits), np.array(others)),
        ("activation_r2", x.reshape(-1, 8), rebuilt.reshape(-1, 8)),
    ):
        left = total = 0.0
        for feature in range(values.shape[1]):
            middle = sum(values[:, feature]) / len(values)
            for value, prediction in zip(values[:, feature], predictions[:, feature], strict=True):
                left += (value - prediction) ** 2
                total += (value - middle) ** 2
        np.testing.assert_allclose(figure(key, fast[key]), 1 - left / total, rtol=1e-3)
    assert 0 < fast["agreement"].mean() < 1 and len(set(labels)) > 1


def test_a_perfect_reconstruction_is_at_the_end_of_every_range(reading, labels):
    values = reconstruction(reading, reading.activations, labels)
    np.testing.assert_array_equal(values["agreement"], 1)
    np.testing.assert_allclose(values["kl"], 0, atol=1e-9)
    for key in ("logit_r2", "activation_r2", "completeness"):
        np.testing.assert_allclose(figure(key, values[key]), 1, atol=1e-9)


def test_the_mean_explains_nothing_of_the_activations(reading):
    axes = tuple(range(reading.activations.ndim - 1))
    middle = np.broadcast_to(reading.activations.mean(axis=axes), reading.activations.shape)
    values = reconstruction(reading, middle)
    np.testing.assert_allclose(figure("activation_r2", values["activation_r2"]), 0, atol=1e-6)
    assert figure("logit_r2", values["logit_r2"]) <= 0  # The prediction is the same for all images.


def test_predicting_the_mean_of_each_feature_scores_0_and_the_overall_mean_less(rng):
    values = rng.normal(size=(30, 4)) + [0, 5, 50, -9]

    def r2(predictions):
        return ratio_of_means(explained_variance(values, predictions)[None])[0]

    np.testing.assert_allclose(r2(np.tile(values.mean(axis=0), (30, 1))), 0, atol=1e-12)
    np.testing.assert_allclose(r2(values), 1)
    assert r2(np.full_like(values, values.mean())) < -10


def test_explained_variance_does_not_depend_on_an_offset_or_a_scale(rng):
    values, predictions = rng.normal(size=(2, 30, 5, 4))
    once = ratio_of_means(explained_variance(values, predictions)[None])
    moved = explained_variance(3 * values + 7, 3 * predictions + 7)
    np.testing.assert_allclose(ratio_of_means(moved[None]), once)


@pytest.mark.parametrize("level", [0.0, 0.1, -1e4])
def test_explained_variance_of_constant_values_is_undefined(level):
    values = np.full((5, 3), level, np.float32)
    columns = explained_variance(values, values + 1)
    assert np.isnan(METRICS["logit_r2"].summary(columns)[:3]).all()


def test_the_network_is_given_the_reconstruction_clipped_to_the_range(reading):
    below = np.where(reading.activations == 0, -5, reading.activations)
    assert (below < 0).any()
    values = reconstruction(reading, below)
    np.testing.assert_allclose(values["kl"], 0, atol=1e-9)
    assert figure("activation_r2", values["activation_r2"]) < 0  # without clipping


def test_completeness_is_0_at_chance_and_undefined_if_the_network_is_at_chance():
    right, half = np.ones(8), np.tile([0.0, 1.0], 4)

    def eta(intact, rebuilt, chance):
        return ratio_of_means(completeness(intact, rebuilt, chance)[None])[0]

    np.testing.assert_allclose(eta(right, half, 0.5), 0)
    np.testing.assert_allclose(eta(right, right, 0.5), 1)
    np.testing.assert_allclose(eta(right, half, 0.25), 1 / 3)
    assert np.isnan(eta(half, right, 0.5))


@pytest.mark.parametrize("outputs", [1, 3])
def test_completeness_of_sigmoid_networks_is_that_of_yes_and_no(rng, outputs):
    weights = rng.normal(size=(8, outputs))
    x = rng.normal(size=(30, 8))
    reading = Reading(
        activations=x,
        coefficients=np.zeros((30, 2)),
        bank=np.zeros((2, 8)),
        predict=lambda features: features @ weights,
        class_ids=np.zeros(30, int),
        limits=(-np.inf, np.inf),
        final_activation="sigmoid",
    )
    labels = ((x @ weights) > 0).astype(int)
    values = reconstruction(reading, -x, labels)
    np.testing.assert_allclose(figure("completeness", values["completeness"]), -1)
    np.testing.assert_allclose(values["agreement"], 0)


def test_the_order_of_the_images_does_not_matter(reading, labels, rng):
    rebuilt = reading.activations + rng.normal(size=reading.activations.shape)
    rows = rng.permutation(20)
    shuffled = dataclasses.replace(
        reading,
        activations=reading.activations[rows],
        coefficients=reading.coefficients[rows],
        class_ids=reading.class_ids[rows],
    )
    one, other = (
        reconstruction(reading, rebuilt, labels),
        reconstruction(shuffled, rebuilt[rows], labels[rows]),
    )
    for key in one:
        np.testing.assert_allclose(one[key][rows], other[key], rtol=1e-4, atol=1e-6)
