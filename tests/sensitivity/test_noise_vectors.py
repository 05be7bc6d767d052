"""Noise signal vectors against loops; samples are balanced, uniform and bounded."""

import numpy as np
import pytest

from xplique_dirpairs.sensitivity.noise_vectors import (
    balanced_sample,
    mean_difference_noise,
    noise_vectors,
    sample_positions,
    trained_filter_noise,
)


def permuted_labels(rng, count, size):
    return rng.permuted(np.tile(np.repeat(np.float32([1, -1]), size // 2), (count, 1)), axis=1)


def test_mean_difference_noise_is_that_of_each_permutation(rng):
    sample = rng.normal(size=(20, 4)).astype(np.float32)
    labels = permuted_labels(rng, 5, 20)
    found = mean_difference_noise(sample, labels)
    for vector, label in zip(found, labels, strict=True):
        slow = sample[label > 0].mean(axis=0) - sample[label < 0].mean(axis=0)
        np.testing.assert_allclose(vector, slow / np.linalg.norm(slow), atol=1e-5)


def test_trained_filter_noise_is_the_positives_covariance_of_a_ridge_regression(rng):
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
def test_noise_of_the_true_labels_finds_the_concept_and_that_of_permuted_ones_does_not(
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


def test_features_that_are_all_the_same_have_no_noise_direction():
    sample, labels = np.zeros((8, 3), np.float32), np.repeat(np.float32([[1, -1]]), 4, axis=1)
    for estimator in (mean_difference_noise, trained_filter_noise):
        assert (estimator(sample, labels) == 0).all()


@pytest.mark.parametrize(
    ("positives", "negatives", "at_most", "each"),
    [(30, 70, 1000, 30), (70, 30, 1000, 30), (50, 50, 41, 20), (0, 100, 10, 0), (100, 0, 10, 0)],
)
def test_a_balanced_sample_has_as_many_of_both(rng, positives, negatives, at_most, each):
    detected = rng.permutation(np.arange(positives + negatives) < positives)
    features = np.where(detected, 5.0, -5.0)[:, None] + np.arange(100)[:, None] / 1000
    sample = balanced_sample(features, detected, at_most, rng)
    assert sample.shape == (2 * each, 1) and sample.dtype == np.float32
    if each:
        assert (sample[:each] > 0).all() and (sample[each:] < 0).all()
        assert len(np.unique(sample)) == 2 * each
        assert abs(sample.mean()) < 1e-5


@pytest.mark.parametrize("count", [1, 64, 150])
def test_noise_does_not_depend_on_the_size_of_blocks(rng, count):
    sample = rng.normal(size=(12, 3)).astype(np.float32)

    def drawn(size):
        blocks = list(
            noise_vectors(sample, count, size, mean_difference_noise, np.random.default_rng(1))
        )
        assert max(map(len, blocks)) <= size
        return np.concatenate(blocks)

    whole = drawn(1000)
    assert whole.shape == (count, 3)
    for size in (1, 7, 64):
        np.testing.assert_allclose(drawn(size), whole, atol=1e-6)


@pytest.mark.parametrize(
    "estimator",
    [lambda x, t: x[:2], lambda x, t: t, lambda x, t: np.full((len(t), x.shape[1]), np.nan)],
)
def test_an_estimator_that_gives_no_vector_for_each_permutation_is_refused(rng, estimator):
    with pytest.raises(ValueError, match=r"must give finite noise vectors \(7, 3\)"):
        next(noise_vectors(np.ones((10, 3), np.float32), 7, 64, estimator, rng))


def stream(rng, batches):
    index = np.arange(240).reshape(-1, 2, 3)
    parts = np.array_split(index, batches)
    return [(part[..., None] * np.ones(2), (part[..., None] % [2, 3]) == 0) for part in parts]


def test_a_sample_of_positions_keeps_features_and_detections_together_however_they_come(rng):
    x, y = sample_positions(stream(rng, 5), 50, random_state=3)
    assert x.shape == (50, 2) and y.shape == (50, 2) and len(np.unique(x[:, 0])) == 50
    np.testing.assert_array_equal(y, (x[:, :1] % [2, 3]) == 0)
    again = sample_positions(iter(stream(rng, 11)), 50, random_state=3)
    np.testing.assert_array_equal(again[0], x)


def test_every_position_is_as_likely_to_be_kept(rng):
    counts = np.zeros(240)
    for seed in range(300):
        counts[sample_positions(stream(rng, 4), 60, seed)[0][:, 0].astype(int)] += 1
    spread = np.sqrt(300 * 0.25 * 0.75)
    assert np.abs(counts - 75).max() < 4.5 * spread
    quarters = counts.reshape(4, -1).mean(axis=1)  # neither the first nor the last batch
    assert np.abs(quarters - 75).max() < 4


def test_a_stream_with_fewer_positions_is_kept_whole(rng):
    x, _ = sample_positions(stream(rng, 3), 10_000)
    np.testing.assert_array_equal(x[:, 0], np.arange(240))


def test_streams_without_positions_or_of_two_kinds_are_refused():
    with pytest.raises(ValueError, match="no positions"):
        sample_positions([])
    with pytest.raises(ValueError, match="same positions"):
        sample_positions([(np.zeros((2, 3, 4)), np.zeros((2, 2, 5), bool))])
