import numpy as np
import pytest

from xplique_dirpairs import DirectionPairs, estimate_signals
from xplique_dirpairs.data.shards import ActivationShards
from xplique_dirpairs.datasets.synthetic import random_directions, signal_maps
from xplique_dirpairs.learning.signals import ESTIMATORS

every_estimator = pytest.mark.parametrize("estimator", ESTIMATORS)


@pytest.fixture(scope="module")
def problem():
    """Return activations, true detectors with random signal vectors, and true signal vectors.

    There are 16 concepts, and one of them on each position.
    """
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
def test_every_estimator_finds_the_signal_vectors_of_true_detectors(estimator, problem):
    activations, pairs, truth = problem
    estimated = estimate_signals(pairs, activations, estimator)
    cosines = (estimated.signals * truth).sum(axis=1)
    # Concepts exclude one another: the cosine of the mean difference is at most 1/sqrt(1 + 1/15).
    least = {"mean-difference": 0.95, "positives": 0.9, "joint": 0.97, "regression": 0.97}[
        estimator
    ]
    assert cosines.min() > least, cosines
    assert (pairs.signals * truth).sum(axis=1).max() < 0.9, "the signal vectors before were wrong"
    for name in ("filters", "biases", "mean", "absent_levels"):
        np.testing.assert_array_equal(getattr(estimated, name), getattr(pairs, name))


def test_the_default_estimator_is_the_mean_difference_of_positives_and_negatives(problem):
    activations, pairs, _ = problem
    estimated = estimate_signals(pairs, activations)
    x, on = activations.reshape(-1, 32).astype(float), pairs.detect(activations).reshape(-1, 16)
    for i in range(16):
        expected = x[on[:, i] > 0.5].mean(axis=0) - x[on[:, i] < 0.5].mean(axis=0)
        expected /= np.linalg.norm(expected)
        np.testing.assert_allclose(estimated.signals[i], expected, atol=1e-5)


def test_the_regression_is_the_least_squares_solution_for_the_amounts_of_all_concepts(problem):
    activations, pairs, _ = problem
    estimated = estimate_signals(pairs, activations, "regression")
    x = activations.reshape(-1, 32).astype(float)
    z = x @ pairs.filters.T.astype(float)
    on = z > pairs.biases
    levels = np.array([z[~on[:, i], i].mean() for i in range(16)])
    amounts = np.where(on, z - levels, 0.0)
    design = np.column_stack([amounts, np.ones(len(x))])
    expected = np.linalg.lstsq(design, x, rcond=None)[0][:16]
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    np.testing.assert_allclose(estimated.signals, expected, atol=1e-3)


@every_estimator
def test_estimates_do_not_depend_on_the_order_of_images_or_on_shards(estimator, problem, tmp_path):
    activations, pairs, _ = problem
    activations = activations[:3000]
    signals = estimate_signals(pairs, activations, estimator).signals
    reversed_order = estimate_signals(pairs, activations[::-1], estimator).signals
    np.testing.assert_allclose(reversed_order, signals, atol=1e-5)
    shards = ActivationShards.write(tmp_path, activations, megabytes=0.1)
    streamed = estimate_signals(pairs, shards, estimator).signals
    np.testing.assert_allclose(streamed, signals, atol=1e-5)


@every_estimator
def test_concepts_detected_nowhere_or_everywhere_keep_their_signal_vectors(estimator, problem):
    activations, pairs, _ = problem
    biases = np.array(pairs.biases)
    biases[:2] = 1e6, -1e6
    moved = DirectionPairs(pairs.filters, biases, pairs.signals, pairs.mean, biases)
    estimated = estimate_signals(moved, activations, estimator)
    np.testing.assert_allclose(estimated.signals[:2], moved.signals[:2], atol=1e-6)
    assert np.isfinite(estimated.signals).all()


def test_wrong_arguments_are_refused(problem):
    activations, pairs, _ = problem
    with pytest.raises(ValueError, match="must be one of"):
        estimate_signals(pairs, activations, "best")
    with pytest.raises(ValueError, match="32 channels, but the activations have 31"):
        estimate_signals(pairs, activations[..., :31])
    with pytest.raises(TypeError, match="must be DirectionPairs, not ndarray"):
        estimate_signals(activations, pairs)
