import keras
import numpy as np
import pytest

from xplique_dirpairs.datasets.synthetic import (
    CLASS_CONCEPTS,
    TABLE6_DISTRACTORS,
    TABLE6_SIGNALS,
    pooled_dense_head,
    random_directions,
    synthetic_signals,
)

#: Accuracy of the Bayes classifier on the pooled signal values.
BEST = 0.925


@pytest.fixture(scope="module")
def data():
    return synthetic_signals(images_per_class=500, seed=3)


def triangular(values, low, high):
    """Return the density of the mean of two uniform variables; its support is [low, high]."""
    half = (high - low) / 2
    return np.maximum(0.0, 1.0 - np.abs(values - (low + high) / 2) / half) / half


def test_the_bayes_classifier_on_pooled_signal_values_has_an_accuracy_of_92_5_percent():
    # The pooled signal value of a concept of the class is the mean of U(2.5, 5) and U(0, 2.5), and
    # that of the third concept the mean of two U(0, 2.5). The third concept determines the class,
    # so the Bayes classifier picks the concept with the largest likelihood ratio
    # r = p(absent) / p(present). Both densities and the distribution of r are computed on a grid.
    grid = (np.arange(20_000) + 0.5) / 20_000 * 3.75
    present, absent = triangular(grid, 1.25, 3.75), triangular(grid, 0.0, 2.5)
    with np.errstate(divide="ignore"):
        ratio = absent / present
    order = np.argsort(ratio, kind="stable")
    step = grid[1] - grid[0]
    present_below = np.cumsum((present * step)[order])
    right = np.sum((absent * step)[order] * present_below**2)
    assert right == pytest.approx(BEST, abs=5e-4)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("kind", ["table 6", "random"])
def test_a_trained_head_approaches_the_accuracy_of_the_bayes_classifier(kind, seed):
    directions = (None, None) if kind == "table 6" else random_directions(seed)
    train = synthetic_signals(1000, seed, *directions)
    fresh = synthetic_signals(4000, seed + 1000, *directions)
    head = pooled_dense_head(train.features, train.labels)
    assert isinstance(head, keras.Model)
    right = np.mean(head(fresh.features).numpy().argmax(axis=1) == fresh.labels)
    assert 0.915 < right < BEST + 0.0075  # standard error of the accuracy: 0.0024


def test_features_are_the_sum_of_signals_distractors_and_an_offset(data):
    rest = data.features - 10.0 - data.alpha @ data.signals
    beta, *_ = np.linalg.lstsq(data.distractors.T, rest.reshape(-1, 16).T, rcond=None)
    np.testing.assert_allclose(data.distractors.T @ beta, rest.reshape(-1, 16).T, atol=1e-4)
    assert beta.min() > -1e-3
    assert beta.max() < 5.001
    assert beta.mean() == pytest.approx(2.5, abs=0.1)


def test_every_pixel_has_one_and_every_image_has_both_concepts_of_the_class(data):
    assert (data.masks.sum(axis=-1) == 1).all()
    for label, concepts in enumerate(CLASS_CONCEPTS):
        in_image = data.masks[data.labels == label].any(axis=(1, 2))
        np.testing.assert_array_equal(in_image, np.isin(range(3), concepts)[None].repeat(500, 0))


def test_signal_values_exceed_the_threshold_exactly_where_the_concept_is_present(data):
    np.testing.assert_array_equal(data.alpha > 2.5, data.masks)
    assert data.alpha.min() >= 0.0
    assert data.alpha.max() <= 5.0


def test_the_order_of_the_two_concepts_of_an_image_is_random(data):
    first = data.masks[data.labels == 0][:, 0, 0, 0]
    assert 0.4 < first.mean() < 0.6


def test_the_data_has_the_documented_shapes_and_dtypes(data):
    assert data.features.shape == (1500, 1, 2, 16)
    assert data.features.dtype == np.float32
    assert data.masks.shape == data.alpha.shape == (1500, 1, 2, 3)
    np.testing.assert_array_equal(np.bincount(data.labels), [500, 500, 500])


def test_directions_are_unit_vectors():
    random = random_directions(5, number_of_concepts=4, number_of_distractors=3, channels=9)
    assert [part.shape for part in random] == [(4, 9), (3, 9)]
    for part, tolerance in ((TABLE6_SIGNALS, 1e-4), (TABLE6_DISTRACTORS, 1e-4), (random[0], 1e-9)):
        np.testing.assert_allclose(np.linalg.norm(part, axis=1), 1.0, atol=tolerance)


def test_the_seed_determines_the_data():
    a, again, b = (synthetic_signals(10, seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(a.features, again.features)
    np.testing.assert_array_equal(a.labels, again.labels)
    assert not np.allclose(a.features, b.features)


def test_invalid_arguments_are_refused():
    with pytest.raises(ValueError, match=r"signals must have shape \(3, D\), not \(2, 16\)"):
        synthetic_signals(signals=TABLE6_SIGNALS[:2])
    with pytest.raises(ValueError, match=r"distractors \(F, D\), not \(3, 16\)"):
        synthetic_signals(distractors=np.ones((2, 5)))
    with pytest.raises(ValueError, match="images_per_class must be an integer of at least 1"):
        synthetic_signals(0)


def test_a_head_for_two_classes_has_two_logits(data):
    two = data.labels < 2
    head = pooled_dense_head(data.features[two], data.labels[two])
    assert head.output_shape == (None, 2)
    right = np.mean(head(data.features[two]).numpy().argmax(axis=1) == data.labels[two])
    assert right > 0.9
