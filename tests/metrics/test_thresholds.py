"""Quantiles as thresholds."""

import numpy as np
import pytest
from annotated_maps import annotations

from xplique_dirpairs.metrics.dissection import dissect
from xplique_dirpairs.metrics.labelled_detectors import (
    QUANTILE_LEVELS,
    choose_thresholds,
    quantile_thresholds,
)


def own(maps):
    return maps


@pytest.fixture
def data(rng):
    return annotations(rng, images=40, cells=(7, 5))


@pytest.mark.parametrize("share", [0.005, 1 / 64, 0.2, 0.9])
def test_no_more_than_the_share_fires_and_one_more_level_would_be_too_many(data, share):
    limits = quantile_thresholds(data, own, [share])[0]
    values = data.maps.reshape(-1, 5).astype(np.float32)
    level = np.ptp(values, axis=0) / QUANTILE_LEVELS
    for column, limit, step in zip(values.T, limits, level, strict=True):
        kept = sorted(column, reverse=True)[
            int(share * len(column))
        ]  # the first that must not fire
        assert kept - 1e-6 <= limit <= kept + 1.01 * step
        assert sum(value > limit for value in column) <= share * len(column)


def test_a_detector_that_is_mostly_zero_never_fires_on_its_zeros(data):
    data.maps[np.abs(data.maps) < 2] = 0.0
    data.maps = np.abs(data.maps)
    limits = quantile_thresholds(data, own, [0.3])[0]
    fired = (data.maps > limits).mean(axis=(0, 1, 2))
    np.testing.assert_array_equal(fired, (data.maps > 0).mean(axis=(0, 1, 2)))


def test_a_constant_detector_never_fires(data):
    data.maps[..., 2] = 1.5
    limits = quantile_thresholds(data, own, [0.1])[0]
    assert not (data.maps[..., 2] > limits[2]).any()


def test_neither_batches_nor_order_matter(data, rng):
    plain = quantile_thresholds(data, own, [0.1, 0.02])
    assert plain.shape == (2, 5)
    np.testing.assert_array_equal(plain, quantile_thresholds(data, own, [0.1, 0.02], batch_size=7))
    other = quantile_thresholds(data.subset(rng.permutation(40)), own, [0.1, 0.02])
    np.testing.assert_array_equal(plain, other)


def test_the_better_of_the_candidates_is_chosen(data):
    choice = choose_thresholds(data, own)
    assert set(choice.scores) == {"top 1/5", "top 0.5%"}
    fifth, half = quantile_thresholds(data, own, [1 / 5, 0.005])
    for name, limits in (("top 1/5", fifth), ("top 0.5%", half)):
        found = dissect(data, own, limits)
        assert choice.scores[name] == pytest.approx(found.iou.max(axis=1).sum())
    assert choice.scores[choice.name] == max(choice.scores.values())
    assert choice.name == "top 1/5"
    np.testing.assert_array_equal(choice.dissection.thresholds, fifth)


def test_a_single_detector_is_on_at_half_of_the_positions_and_it_says_so(data):
    choice = choose_thresholds(data, lambda maps: maps[..., :1])
    assert choice.name == "top 1/2"
    assert (data.maps[..., 0] > choice.dissection.thresholds[0]).mean() == pytest.approx(
        0.5, abs=1e-3
    )


def test_sharp_detectors_take_the_smaller_share(data):
    # one cell of every other image is far above the others, and a concept: 0.4 % of all
    rng = np.random.default_rng(1)
    data.maps = rng.uniform(size=(40, 10, 13, 5))
    data.masks = {name: np.zeros((40, 10, 13), int) for name in data.concepts}
    data.masks["object"][::2, 4, 6] = 1
    data.maps[::2, 4, 6] = 10.0
    assert choose_thresholds(data, own).name == "top 0.5%"


@pytest.mark.parametrize("shares", [[0.0], [1.0], [], [0.5, -0.1], 0.5])
def test_shares_lie_between_0_and_1(data, shares):
    with pytest.raises(ValueError, match="shares must lie"):
        quantile_thresholds(data, own, shares)


def test_empty_candidates_are_refused(data):
    with pytest.raises(ValueError, match="candidates are empty"):
        choose_thresholds(data, own, {})
