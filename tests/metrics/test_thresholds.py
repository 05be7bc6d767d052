"""Quantiles of detectors' maps as thresholds."""

import numpy as np
import pytest
from annotated_maps import annotations

from xplique_dirpairs.metrics.dissection import dissect
from xplique_dirpairs.metrics.labelled_detectors import (
    QUANTILE_LEVELS,
    choose_thresholds,
    quantile_thresholds,
)


def identity(maps):
    return maps


@pytest.fixture
def data(rng):
    return annotations(rng, images=40, cells=(7, 5))


@pytest.mark.parametrize("share", [0.005, 1 / 64, 0.2, 0.9])
def test_a_detector_fires_at_the_share_at_most_and_above_it_one_level_lower(data, share):
    limits = quantile_thresholds(data, identity, [share])[0]
    values = data.maps.reshape(-1, 5).astype(np.float32)
    level = np.ptp(values, axis=0) / QUANTILE_LEVELS
    for column, limit, step in zip(values.T, limits, level, strict=True):
        first_below = sorted(column, reverse=True)[int(share * len(column))]
        assert first_below - 1e-6 <= limit <= first_below + 1.01 * step
        assert sum(value > limit for value in column) <= share * len(column)


def test_a_detector_that_is_mostly_zero_never_fires_on_its_zeros(data):
    data.maps[np.abs(data.maps) < 2] = 0.0
    data.maps = np.abs(data.maps)
    limits = quantile_thresholds(data, identity, [0.3])[0]
    fired = (data.maps > limits).mean(axis=(0, 1, 2))
    np.testing.assert_array_equal(fired, (data.maps > 0).mean(axis=(0, 1, 2)))


def test_a_constant_detector_never_fires(data):
    data.maps[..., 2] = 1.5
    limits = quantile_thresholds(data, identity, [0.1])[0]
    assert not (data.maps[..., 2] > limits[2]).any()


def test_batches_and_order_of_images_do_not_matter(data, rng):
    plain = quantile_thresholds(data, identity, [0.1, 0.02])
    assert plain.shape == (2, 5)
    np.testing.assert_array_equal(
        plain, quantile_thresholds(data, identity, [0.1, 0.02], batch_size=7)
    )
    other = quantile_thresholds(data.subset(rng.permutation(40)), identity, [0.1, 0.02])
    np.testing.assert_array_equal(plain, other)


def test_the_quantiles_with_the_larger_s1_are_chosen(data):
    name, dissection = choose_thresholds(data, identity)
    fifth, half_percent = (
        dissect(data, identity, thresholds)
        for thresholds in quantile_thresholds(data, identity, [1 / 5, 0.005])
    )
    assert fifth.iou.max(axis=1).sum() > half_percent.iou.max(axis=1).sum()
    assert name == "top 1/5"
    np.testing.assert_array_equal(dissection.thresholds, fifth.thresholds)
    np.testing.assert_array_equal(dissection.iou, fifth.iou)


def test_a_single_detector_fires_at_half_of_the_positions(data):
    name, dissection = choose_thresholds(data, lambda maps: maps[..., :1])
    assert name == "top 1/2"
    fires = data.maps[..., 0] > dissection.thresholds[0]
    assert fires.mean() == pytest.approx(0.5, abs=1e-3)


def test_sharp_detectors_get_the_smaller_share(data):
    # One cell of every second image is a concept with values far above all others: 0.4 % of all.
    rng = np.random.default_rng(1)
    data.maps = rng.uniform(size=(40, 10, 13, 5))
    data.masks = {name: np.zeros((40, 10, 13), int) for name in data.concepts}
    data.masks["object"][::2, 4, 6] = 1
    data.maps[::2, 4, 6] = 10.0
    name, _ = choose_thresholds(data, identity)
    assert name == "top 0.5%"
