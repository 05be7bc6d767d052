import numpy as np
import pytest

from xplique_dirpairs.learning import features
from xplique_dirpairs.learning.coordinates import Coordinates, Moments
from xplique_dirpairs.learning.features import Features
from xplique_dirpairs.learning.signals import excess_covariance, joint_signals, measure_pairs

P, D, I = 60, 4, 3


@pytest.fixture
def problem(rng):
    x = (rng.normal(size=(P, D)) + 3.0).astype(np.float32)
    return x, rng.normal(size=(I, D)), np.array([-0.5, 0.2, 0.8])


def measure(x, filters, biases, **options):
    features = Features(x)
    return measure_pairs(features, Moments.of(features), filters, biases, **options)


def test_signal_vectors_absent_levels_and_overlaps_equal_their_formulas(problem, monkeypatch):
    x, filters, biases = problem
    monkeypatch.setattr(features, "BLOCK", 7)  # several blocks
    measured = measure(*problem)
    mean = x.mean(axis=0, dtype=float)
    z = x @ filters.T
    on = z - filters @ mean > biases
    for i in range(I):
        chosen = x[on[:, i]].astype(float)
        slow = (chosen - chosen.mean(0)).T @ (z[on[:, i], i] - z[on[:, i], i].mean())
        slow /= np.linalg.norm(slow)
        np.testing.assert_allclose(measured.pairs.signals[i], slow, atol=1e-4)
        assert measured.pairs.absent_levels[i] == pytest.approx(z[~on[:, i], i].mean(), rel=1e-4)
        for j in range(I):
            union = (on[:, i] | on[:, j]).sum()
            overlap = (on[:, i] & on[:, j]).sum() / union
            assert measured.overlaps[i, j] == pytest.approx(overlap)
    np.testing.assert_allclose(measured.occupancy, on.mean(axis=0))
    np.testing.assert_allclose(measured.pairs.mean, mean, rtol=1e-5)
    np.testing.assert_array_equal(measured.pairs.detect(x) > 0.5, on)


def test_pairs_are_complete_for_concepts_detected_nowhere_or_everywhere(problem):
    x, filters, _ = problem
    measured = measure(x, filters, np.array([1e3, -1e3, 0.0]))
    np.testing.assert_allclose(measured.occupancy[:2], [0.0, 1.0])
    everywhere = np.cov(x.T) @ filters[0]
    everywhere /= np.linalg.norm(everywhere)
    np.testing.assert_allclose(measured.pairs.signals[0], everywhere, atol=1e-4)
    # A concept that is never absent has its threshold as its absent level.
    assert measured.pairs.absent_levels[1] == pytest.approx(measured.pairs.biases[1], rel=1e-5)


def test_a_given_signal_vector_of_zeros_becomes_the_covariance_with_the_projection(problem, rng):
    x, filters, _ = problem
    signals = rng.normal(size=(I, D))
    signals[1] = 0
    measured = measure(*problem, signals=signals).pairs.signals
    z = x @ filters[1]
    slow = (x - x.mean(axis=0)).T @ (z - z.mean())
    np.testing.assert_allclose(measured[1], slow / np.linalg.norm(slow), atol=1e-4)
    np.testing.assert_allclose(measured[0], signals[0] / np.linalg.norm(signals[0]), rtol=1e-5)


def test_given_signal_vectors_are_kept_and_normalised(problem, rng):
    signals = rng.normal(size=(I, D))
    kept = measure(*problem, signals=signals).pairs.signals
    np.testing.assert_allclose(
        kept, signals / np.linalg.norm(signals, axis=1, keepdims=True), rtol=1e-5
    )


def test_estimated_signal_vectors_keep_only_their_part_along_the_axes_of_the_coordinates(rng):
    deviations = np.array([4.0, 2.0, 0.01, 0.01])
    x = (rng.normal(size=(500, D)) * deviations).astype(np.float32)
    moments = Moments.of(x)
    axes, scale = np.eye(2, D), deviations[:2]
    learned_in = Coordinates(moments.mean, axes.T / scale, axes * scale[:, None])
    filters, biases = rng.normal(size=(I, 2)) @ axes, np.zeros(I)
    free, kept = (
        measure(x, filters, biases, coordinates=basis).pairs.signals for basis in (None, learned_in)
    )
    assert np.abs(free[:, 2:]).max() > 0
    np.testing.assert_array_equal(kept[:, 2:], 0.0)
    along = free[:, :2] / np.linalg.norm(free[:, :2], axis=1, keepdims=True)
    np.testing.assert_allclose(kept[:, :2], along, rtol=1e-5)


def test_joint_signals_equal_those_of_a_training_step(problem, monkeypatch):
    x, filters, biases = problem
    monkeypatch.setattr(features, "BLOCK", 7)
    joint = measure(*problem, signals="joint").pairs.signals
    centred = x - x.mean(axis=0, dtype=float)
    with_x = excess_covariance(centred, centred @ filters.T - biases)
    expected = joint_signals(with_x, with_x @ filters.T).numpy()
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    np.testing.assert_allclose(joint, expected, atol=1e-4)
