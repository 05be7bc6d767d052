import numpy as np
import pytest
import tensorflow as tf

from xplique_dirpairs.datasets.synthetic import synthetic_signals
from xplique_dirpairs.learning.signals import mean_difference, positives_covariance

P, A, I = 40, 5, 3


@pytest.fixture
def problem(rng):
    x = rng.normal(size=(P, A))
    z = x @ rng.normal(size=(A, I))
    return x, z, (z > 0.3).astype(float)


def covariance(x, z, positive):
    return positives_covariance(*map(tf.constant, (x, z, positive))).numpy()


def test_it_is_the_covariance_over_the_positives(problem):
    x, z, positive = problem
    slow = np.zeros((I, A))
    for i in range(I):
        chosen = [p for p in range(P) if positive[p, i]]
        for a in range(A):
            mean_x = sum(x[p, a] for p in chosen) / len(chosen)
            mean_z = sum(z[p, i] for p in chosen) / len(chosen)
            slow[i, a] = sum((x[p, a] - mean_x) * (z[p, i] - mean_z) for p in chosen) / len(chosen)
    np.testing.assert_allclose(covariance(x, z, positive), slow, rtol=1e-5, atol=1e-6)


def test_neither_shifting_the_features_nor_the_projections_changes_it(problem):
    x, z, positive = problem
    np.testing.assert_allclose(
        covariance(x + 100.0, z + 7.0, positive), covariance(x, z, positive), atol=1e-4
    )


def test_restarts_are_side_by_side_and_no_positives_give_zero(problem):
    x, z, positive = problem
    positive[:, 1] = 0.0
    both = covariance(x, np.stack([z, 2 * z]), np.stack([positive, positive]))
    np.testing.assert_allclose(both[1], 2 * both[0])
    assert not both[:, 1].any()


def test_the_gradient_runs_through_the_projections(problem):
    x, z, positive = problem
    z = tf.Variable(z)
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(positives_covariance(tf.constant(x), z, tf.constant(positive)) ** 2)
    gradient = tape.gradient(loss, z).numpy()
    assert np.isfinite(gradient).all()
    assert gradient[positive > 0].any() and not gradient[positive == 0].any()


def test_with_labels_the_mean_difference_is_the_pattern_cav(problem):
    x, _, labels = problem
    slow = [x[t > 0].mean(axis=0) - x[t == 0].mean(axis=0) for t in labels.T]
    # ... which is the Haufe pattern cov[x, t] / var[t] of the labels over all samples
    haufe = [np.mean((x - x.mean(0)) * (t - t.mean())[:, None], axis=0) / t.var() for t in labels.T]
    found = mean_difference(tf.constant(x), tf.constant(labels))
    np.testing.assert_allclose(found, slow, atol=1e-6)
    np.testing.assert_allclose(found, haufe, atol=1e-6)


def test_on_positives_it_finds_the_signal_where_the_pattern_cav_does_not():
    data = synthetic_signals(1000, seed=0)
    x = data.features.reshape(-1, 16) - data.features.mean()
    alpha = data.alpha.reshape(-1, 3)
    masks = data.masks.reshape(-1, 3).astype(np.float32)

    def cosines(found):
        found = found / np.linalg.norm(found, axis=1, keepdims=True)
        return np.sum(found * data.signals, axis=1) / np.linalg.norm(data.signals, axis=1)

    ours = positives_covariance(x, tf.constant(alpha), tf.constant(masks))
    theirs = mean_difference(x, tf.constant(masks))
    assert cosines(ours).min() > 0.99 > 0.9 > cosines(theirs).min()
