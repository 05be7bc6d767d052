"""Noise signal vectors equal plain loops; samples of positions are balanced and limited in size."""

import numpy as np
import pytest

from xplique_dirpairs.sensitivity.noise_vectors import (
    balanced_sample,
    mean_difference_noise,
    noise_vectors,
    trained_filter_noise,
)


def permuted_labels(rng, count, size):
    """Return ``count`` permutations of ``size`` labels ±1."""
    return rng.permuted(np.tile(np.repeat(np.float32([1, -1]), size // 2), (count, 1)), axis=1)


def test_mean_difference_noise_is_the_difference_of_means_at_unit_length(rng):
    sample = rng.normal(size=(20, 4)).astype(np.float32)
    labels = permuted_labels(rng, 5, 20)
    vectors = mean_difference_noise(sample, labels)
    for vector, label in zip(vectors, labels, strict=True):
        slow = sample[label > 0].mean(axis=0) - sample[label < 0].mean(axis=0)
        np.testing.assert_allclose(vector, slow / np.linalg.norm(slow), atol=1e-5)


def test_trained_filter_noise_equals_a_ridge_regression_and_the_covariance_of_its_positives(rng):
    sample = rng.normal(size=(40, 4)).astype(np.float32)
    sample -= sample.mean(axis=0)
    labels = permuted_labels(rng, 3, 40)
    for vector, label in zip(trained_filter_noise(sample, labels), labels, strict=True):
        ridge = 1e-2 * (sample**2).mean() * np.eye(4)
        w = np.linalg.solve(sample.T @ sample / 40 + ridge, sample.T @ label / 40)
        z = sample @ w
        positive = z > 0
        slow = np.mean(
            [
                (zp - z[positive].mean()) * x
                for zp, x in zip(z[positive], sample[positive], strict=True)
            ],
            axis=0,
        )
        np.testing.assert_allclose(vector, slow / np.linalg.norm(slow), atol=1e-4)


@pytest.mark.parametrize("estimator", [mean_difference_noise, trained_filter_noise])
def test_estimators_recover_the_concept_from_true_labels_but_not_from_permuted_labels(
    rng, estimator
):
    labels = np.repeat(np.float32([1, -1]), 200)
    sample = rng.normal(size=(400, 6)).astype(np.float32)
    sample[:, 2] += 4 * labels
    sample -= sample.mean(axis=0)
    assert estimator(sample, labels[None])[0, 2] > 0.97
    permuted = estimator(sample, permuted_labels(rng, 200, 400))
    np.testing.assert_allclose(np.linalg.norm(permuted, axis=1), 1, atol=1e-5)
    assert abs((permuted[:, 2] > 0).mean() - 0.5) < 0.15


def test_noise_vectors_are_zero_if_all_features_are_the_same():
    sample, labels = np.zeros((8, 3), np.float32), np.repeat(np.float32([[1, -1]]), 4, axis=1)
    for estimator in (mean_difference_noise, trained_filter_noise):
        assert (estimator(sample, labels) == 0).all()


@pytest.mark.parametrize(
    ("positives", "negatives", "at_most", "each"),
    [(30, 70, 1000, 30), (70, 30, 1000, 30), (50, 50, 41, 20), (0, 100, 10, 0), (100, 0, 10, 0)],
)
def test_a_balanced_sample_has_equal_numbers_of_positions_with_and_without_the_concept(
    rng, positives, negatives, at_most, each
):
    detected = rng.permutation(np.arange(positives + negatives) < positives)
    features = np.where(detected, 5.0, -5.0)[:, None] + np.arange(100)[:, None] / 1000
    sample = balanced_sample(features, detected, at_most, rng)
    assert sample.shape == (2 * each, 1) and sample.dtype == np.float32
    if each:
        assert (sample[:each] > 0).all() and (sample[each:] < 0).all()
        assert len(np.unique(sample)) == 2 * each
        assert abs(sample.mean()) < 1e-5


@pytest.mark.parametrize("count", [1, 64, 150])
def test_noise_vectors_do_not_depend_on_the_block_size(rng, count):
    sample = rng.normal(size=(12, 3)).astype(np.float32)

    def drawn(size):
        blocks = list(
            noise_vectors(sample, count, size, mean_difference_noise, np.random.default_rng(1))
        )
        assert max(map(len, blocks)) <= size
        return np.concatenate(blocks)

    in_one_block = drawn(1000)
    assert in_one_block.shape == (count, 3)
    for size in (1, 7, 64):
        np.testing.assert_allclose(drawn(size), in_one_block, atol=1e-6)


@pytest.mark.parametrize(
    "estimator",
    [lambda x, t: x[:2], lambda x, t: t, lambda x, t: np.full((len(t), x.shape[1]), np.nan)],
)
def test_an_estimator_that_does_not_return_a_finite_vector_per_permutation_is_refused(
    rng, estimator
):
    with pytest.raises(ValueError, match=r"must return finite noise vectors of shape \(7, 3\)"):
        next(noise_vectors(np.ones((10, 3), np.float32), 7, 64, estimator, rng))
