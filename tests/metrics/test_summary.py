"""Confidence intervals by the bootstrap over images."""

import numpy as np
import pytest

from xplique_dirpairs.metrics.registry import ratio_of_means, summary


def slow_bootstrap(values, resamples, seed):
    rng = np.random.default_rng(seed)
    drawn = rng.integers(len(values), size=(resamples, len(values)))
    means = sorted(sum(values[i] for i in row) / len(values) for row in drawn)
    return np.quantile(means, 0.025), np.quantile(means, 0.975)


def test_the_interval_matches_a_reference_implementation(rng):
    values = rng.exponential(size=30)
    result = summary(values, resamples=500, random_state=4)
    np.testing.assert_allclose(result[1:3], slow_bootstrap(values, 500, 4))
    np.testing.assert_allclose(result.value, values.mean())
    assert result.undefined == 0


def test_the_interval_is_about_as_wide_as_theory_predicts(rng):
    values = rng.normal(size=400)
    result = summary(values, resamples=4000)
    width = 2 * 1.96 * values.std() / np.sqrt(400)
    np.testing.assert_allclose(result.high - result.low, width, rtol=0.05)
    assert result.low < result.value < result.high


def test_the_interval_covers_the_true_mean_with_the_stated_confidence(rng):
    result = [summary(rng.normal(size=60), resamples=300) for _ in range(300)]
    assert 0.9 < np.mean([one.low < 0 < one.high for one in result]) < 0.98


def test_the_interval_grows_with_the_confidence(rng):
    values = rng.normal(size=50)
    half, most = summary(values, confidence=0.5), summary(values, confidence=0.99)
    assert most.low < half.low < half.high < most.high


def test_undefined_values_are_left_out_and_counted(rng):
    values = rng.normal(size=20)
    with_gaps = np.insert(values, [0, 7, 20], np.nan)
    assert summary(with_gaps) == summary(values)._replace(undefined=3)
    columns = rng.uniform(1, 2, size=(20, 2))
    gaps = columns.copy()
    gaps[3, 0] = gaps[5, 1] = np.nan
    expected = summary(np.delete(columns, [3, 5], axis=0), ratio_of_means)
    assert summary(gaps, ratio_of_means) == expected._replace(undefined=2)


def test_no_values_have_no_figure_and_a_single_value_has_no_interval():
    nothing = summary([np.nan, np.nan])
    assert np.isnan(nothing[:3]).all() and nothing.undefined == 2
    one = summary([0.3, np.nan])
    assert one.value == 0.3 and np.isnan([one.low, one.high]).all() and one.undefined == 1


def test_a_ratio_is_that_of_the_means_and_both_columns_are_drawn_together(rng):
    below = rng.uniform(1, 9, 40)
    exact = summary(np.stack([0.7 * below, below], axis=1), ratio_of_means)
    np.testing.assert_allclose(exact[:3], 0.7)  # Every image has the same ratio: no spread.
    above = rng.uniform(0, 1, 40)
    result = summary(np.stack([above, below], axis=1), ratio_of_means)
    np.testing.assert_allclose(result.value, above.sum() / below.sum())
    assert result.low < result.value < result.high


def test_a_ratio_to_a_mean_that_may_be_zero_is_undefined(rng):
    right = np.tile([1.0, 0.0, 0.0], 20)  # at chance among three classes, up to rounding
    at_chance = np.stack([right, right], axis=1) - 1 / 3
    assert at_chance[:, 1].mean() != 0 and np.isnan(ratio_of_means(at_chance[None])).all()
    assert np.isnan(summary(at_chance, ratio_of_means)[:3]).all()
    near = np.concatenate([at_chance, np.full((2, 2), 2 / 3)])
    assert np.isnan(summary(near, ratio_of_means)[:3]).all()
    above = np.concatenate([at_chance, np.full((60, 2), 2 / 3)])
    np.testing.assert_allclose(summary(above, ratio_of_means)[:3], 1.0)
    sizes = (
        np.eye(1, 6).repeat(2, axis=0).T
    )  # Without negative values, any positive mean is enough.
    assert summary(sizes, ratio_of_means).value == 1.0


def test_any_statistic_of_the_images_can_be_resampled(rng):
    values = rng.exponential(size=(50, 3))

    def largest_median(samples):
        return np.median(samples, axis=1).max(axis=1)

    result = summary(values, largest_median)
    np.testing.assert_allclose(result.value, np.median(values, axis=0).max())
    assert result.low < result.high


def test_a_seed_fixes_the_interval(rng):
    values = rng.normal(size=30)
    assert summary(values, random_state=1) == summary(values, random_state=1)
    assert summary(values, random_state=1) != summary(values, random_state=2)


def test_resampling_in_several_chunks_gives_the_same_interval(rng):
    values = rng.normal(size=50_000)  # 100 resamples in two chunks
    result = summary(values, resamples=100, random_state=4)
    drawn = np.random.default_rng(4).integers(len(values), size=(100, len(values)))
    means = values[drawn].mean(axis=1)
    np.testing.assert_allclose(result[1:3], np.quantile(means, [0.025, 0.975]))


def test_extractors_are_compared_on_the_same_images(rng):
    values = rng.normal(0, 5, 60)
    better = values + 0.1 + 0.01 * rng.normal(size=60)
    assert summary(better).low < summary(values).high  # The separate intervals overlap.
    assert summary(better - values).low > 0.09


@pytest.mark.parametrize(
    ("values", "options", "match"),
    [
        (3.0, {}, "one row per image"),
        ([], {}, "one row per image"),
        ([1.0, np.inf], {}, "some are infinite"),
        ([1.0], {"confidence": 1.0}, "confidence must lie between 0 and 1"),
        ([1.0], {"resamples": 0}, "resamples must be an integer of at least 1"),
    ],
)
def test_values_and_options_out_of_range_are_refused(values, options, match):
    with pytest.raises(ValueError, match=match):
        summary(values, **options)
