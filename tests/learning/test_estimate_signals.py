import numpy as np
import pytest

from xplique_dirpairs import DirectionPairs, estimate_signals
from xplique_dirpairs.data.shards import ActivationShards
from xplique_dirpairs.datasets.synthetic import random_directions, signal_maps
from xplique_dirpairs.learning.signals import ESTIMATORS

every_estimator = pytest.mark.parametrize("estimator", ESTIMATORS)


@pytest.fixture(scope="module")
def problem():
    """True detectors of 16 concepts, one a position, with random signal vectors; the truth."""
    signals, distractors = random_directions(0, 16, 2, 32)
    data = signal_maps(20_000, signals, distractors, seed=0, absent=(0.0, 0.5))
    both = np.concatenate([signals, distractors])
    filters = np.linalg.pinv(both).T[:16]
    x = data.features.reshape(-1, 32)
    z = x @ filters.T
    on = data.masks.reshape(-1, 16)
    biases = [(z[on[:, i], i].min() + z[~on[:, i], i].max()) / 2 for i in range(16)]
    wrong = np.random.default_rng(1).normal(size=(16, 32))
    return data.features, DirectionPairs(filters, biases, wrong, x.mean(axis=0), biases), signals


@every_estimator
def test_with_the_true_detectors_every_estimator_finds_the_signal_vectors(estimator, problem):
    activations, pairs, truth = problem
    found = estimate_signals(pairs, activations, estimator)
    cosines = (found.signals * truth).sum(axis=1)
    # concepts exclude one another: 1/sqrt(1 + 1/15) is what the difference of means can reach
    least = {"mean-difference": 0.95, "positives": 0.9, "joint": 0.97}[estimator]
    assert cosines.min() > least, cosines
    assert (pairs.signals * truth).sum(axis=1).max() < 0.9, "they were wrong before"
    for name in ("filters", "biases", "mean", "absent_levels"):
        np.testing.assert_array_equal(getattr(found, name), getattr(pairs, name))


def test_the_mean_difference_is_that_of_positives_and_negatives(problem):
    activations, pairs, _ = problem
    found = estimate_signals(pairs, activations)
    x, on = activations.reshape(-1, 32).astype(float), pairs.detect(activations).reshape(-1, 16)
    for i in range(16):
        wanted = x[on[:, i] > 0.5].mean(axis=0) - x[on[:, i] < 0.5].mean(axis=0)
        np.testing.assert_allclose(found.signals[i], wanted / np.linalg.norm(wanted), atol=1e-5)


@every_estimator
def test_neither_order_nor_offset_nor_shards_matter(estimator, problem, tmp_path):
    activations, pairs, _ = problem
    activations = activations[:3000]
    signals = estimate_signals(pairs, activations, estimator).signals
    turned = estimate_signals(pairs, activations[::-1], estimator).signals
    np.testing.assert_allclose(turned, signals, atol=1e-5)
    shards = ActivationShards.write(tmp_path, activations, megabytes=0.1)
    streamed = estimate_signals(pairs, shards, estimator).signals
    np.testing.assert_allclose(streamed, signals, atol=1e-5)


@every_estimator
def test_what_is_nowhere_or_everywhere_keeps_its_signal_vector(estimator, problem):
    activations, pairs, _ = problem
    biases = np.array(pairs.biases)
    biases[:2] = 1e6, -1e6
    moved = DirectionPairs(pairs.filters, biases, pairs.signals, pairs.mean, biases)
    found = estimate_signals(moved, activations, estimator)
    np.testing.assert_allclose(found.signals[:2], moved.signals[:2], atol=1e-6)
    assert np.isfinite(found.signals).all()


def test_what_cannot_be_is_refused(problem):
    activations, pairs, _ = problem
    with pytest.raises(ValueError, match="must be one of"):
        estimate_signals(pairs, activations, "best")
    with pytest.raises(ValueError, match="32 channels, but the activations have 31"):
        estimate_signals(pairs, activations[..., :31])
    with pytest.raises(TypeError, match="must be DirectionPairs, not ndarray"):
        estimate_signals(activations, pairs)
