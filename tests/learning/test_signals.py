import numpy as np
import pytest
import tensorflow as tf

from xplique_dirpairs.datasets.synthetic import random_directions, signal_maps, synthetic_signals
from xplique_dirpairs.learning.signals import (
    excess_covariance,
    joint_signals,
    mean_difference,
    positives_covariance,
)

P, A, I = 40, 5, 3


@pytest.fixture
def problem(rng):
    x = rng.normal(size=(P, A))
    z = x @ rng.normal(size=(A, I))
    return x, z, (z > 0.3).astype(float)


def covariance(x, z, positive):
    return positives_covariance(*map(tf.constant, (x, z, positive))).numpy()


def test_positives_covariance_equals_its_formula(problem):
    x, z, positive = problem
    slow = np.zeros((I, A))
    for i in range(I):
        chosen = [p for p in range(P) if positive[p, i]]
        for a in range(A):
            mean_x = sum(x[p, a] for p in chosen) / len(chosen)
            mean_z = sum(z[p, i] for p in chosen) / len(chosen)
            slow[i, a] = sum((x[p, a] - mean_x) * (z[p, i] - mean_z) for p in chosen) / len(chosen)
    np.testing.assert_allclose(covariance(x, z, positive), slow, rtol=1e-5, atol=1e-6)


def test_positives_covariance_does_not_depend_on_offsets(problem):
    x, z, positive = problem
    np.testing.assert_allclose(
        covariance(x + 100.0, z + 7.0, positive), covariance(x, z, positive), atol=1e-4
    )


def test_positives_covariance_has_restarts_and_is_zero_without_positives(problem):
    x, z, positive = problem
    positive[:, 1] = 0.0
    both = covariance(x, np.stack([z, 2 * z]), np.stack([positive, positive]))
    np.testing.assert_allclose(both[1], 2 * both[0])
    assert not both[:, 1].any()


def test_positives_covariance_has_gradients_for_the_projections_of_positives(problem):
    x, z, positive = problem
    z = tf.Variable(z)
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(positives_covariance(tf.constant(x), z, tf.constant(positive)) ** 2)
    gradient = tape.gradient(loss, z).numpy()
    assert np.isfinite(gradient).all()
    assert gradient[positive > 0].any() and not gradient[positive == 0].any()


def test_mean_difference_of_labels_equals_the_pattern_cav(problem):
    x, _, labels = problem
    slow = [x[t > 0].mean(axis=0) - x[t == 0].mean(axis=0) for t in labels.T]
    # It is also the pattern of Haufe et al., cov[x, t] / var[t], of the labels t over all samples.
    haufe = [np.mean((x - x.mean(0)) * (t - t.mean())[:, None], axis=0) / t.var() for t in labels.T]
    difference = mean_difference(tf.constant(x), tf.constant(labels))
    np.testing.assert_allclose(difference, slow, atol=1e-6)
    np.testing.assert_allclose(difference, haufe, atol=1e-6)


def test_positives_covariance_finds_signal_vectors_that_the_pattern_cav_does_not():
    data = synthetic_signals(1000, seed=0)
    x = data.features.reshape(-1, 16) - data.features.mean()
    alpha = data.alpha.reshape(-1, 3)
    masks = data.masks.reshape(-1, 3).astype(np.float32)

    def cosines(estimate):
        estimate = estimate / np.linalg.norm(estimate, axis=1, keepdims=True)
        return np.sum(estimate * data.signals, axis=1) / np.linalg.norm(data.signals, axis=1)

    ours = positives_covariance(x, tf.constant(alpha), tf.constant(masks))
    theirs = mean_difference(x, tf.constant(masks))
    assert cosines(ours).min() > 0.99 > 0.9 > cosines(theirs).min()


def jointly(x, excess):
    """Return joint signal vectors of features and the excess of projections over thresholds."""
    x, excess = tf.constant(x), tf.constant(excess)
    return joint_signals(excess_covariance(x, excess), excess_covariance(excess, excess)).numpy()


def test_joint_signals_equal_a_regression_with_the_rectified_excess_as_instrument(problem):
    x, z, _ = problem
    excess = z - 0.3
    slow_r = [[e if e > 0 else 0.01 * e for e in row] for row in excess]
    r = np.array(slow_r) - np.mean(slow_r, axis=0)
    with_x = sum(np.outer(r[p], x[p]) for p in range(P)) / P
    with_z = sum(np.outer(r[p], z[p]) for p in range(P)) / P
    expected = np.linalg.solve(with_z, with_x)
    np.testing.assert_allclose(jointly(x, excess), expected, rtol=0.01, atol=0.01)


def test_a_joint_signal_vector_moves_only_the_projection_of_its_own_concept(rng):
    x = rng.gamma(0.5, size=(5000, A)) - 0.5
    filters = rng.normal(size=(I, A))
    gram = filters @ jointly(x, x @ filters.T).T
    np.testing.assert_allclose(gram, np.eye(I), atol=0.01)


def test_directions_of_joint_signals_do_not_depend_on_offsets_and_scales(problem):
    x, z, _ = problem
    first, other = jointly(x, z - 0.3), jointly(5.0 * x + 100.0, 1e-3 * (z - 0.3))
    lengths = [np.linalg.norm(s, axis=1, keepdims=True) for s in (first, other)]
    np.testing.assert_allclose(first / lengths[0], other / lengths[1], atol=1e-4)


def test_joint_signals_are_finite_without_positives_negatives_or_variance(problem):
    x, z, _ = problem
    joint = jointly(x, np.stack([z - 1e3, z + 1e3, 0.0 * z]))
    assert np.isfinite(joint).all() and joint[:2].any(axis=-1).all()


@pytest.mark.parametrize("cosine", [0.0, 0.5])
@pytest.mark.parametrize("concepts", [3, 24])
def test_joint_signals_are_exact_for_true_filters_with_few_positives_or_correlated_signals(
    concepts, cosine
):
    """The covariance over positives needs many positives; the mean difference needs many concepts
    with uncorrelated signal vectors."""
    directions = random_directions(0, concepts, 4, 64, cosine)
    data = signal_maps(5000, *directions, seed=1, absent=(0.0, 2.5))
    x = data.features.reshape(-1, 64).astype(np.float64)
    x -= x.mean(axis=0)
    filters = np.linalg.pinv(np.concatenate(directions)).T[:concepts]
    bias = 2.5 - data.alpha.reshape(-1, concepts).mean(axis=0)
    joint = jointly(x, x @ filters.T - bias)
    joint /= np.linalg.norm(joint, axis=1, keepdims=True)
    assert np.sum(joint * data.signals, axis=1).min() > 0.99
