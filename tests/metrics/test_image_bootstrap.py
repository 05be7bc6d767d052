"""Bootstrap intervals of the scores of detectors, over images and groups of images."""

from functools import partial

import numpy as np
import pytest
from annotated_maps import annotations

from xplique_dirpairs.metrics.dissection import NO_LABEL, dissect
from xplique_dirpairs.metrics.interpretability import paired_interval, s1, s2
from xplique_dirpairs.metrics.labelled_detectors import score_labels


def identity(maps):
    return maps


@pytest.fixture
def dissection(rng):
    training = annotations(np.random.default_rng(1), images=7)
    return dissect(training, identity, rng.normal(0.3, 0.3, size=5))


@pytest.fixture
def validation():
    return annotations(np.random.default_rng(2), images=5)


@pytest.fixture
def scores(validation, dissection):
    return score_labels(validation, identity, dissection)


@pytest.fixture
def others(validation, dissection):
    """Scores of the same detectors on 0.5 z, which fire less often, with other labels."""
    return score_labels(validation, lambda maps: maps / 2, dissection, np.array([3, 1, 0, 2, 2]))


# ------------------------------------------------------------------ against a reference


@pytest.mark.parametrize(
    ("groups", "members"),
    [
        (None, [[0], [1], [2], [3], [4]]),
        ([7, 3, 7, 3, 3], [[0, 2], [1, 3, 4]]),
        (["b", "b", "a", "c", "a"], [[0, 1], [2, 4], [3]]),
    ],
    ids=["images", "two groups", "three groups"],
)
def test_each_group_counts_the_number_of_times_it_is_drawn(
    validation, dissection, scores, groups, members
):
    rng = np.random.default_rng(7)
    for drawn in scores.resampled_iou(groups, resamples=8, random_state=7):
        images = []
        for group in members:
            images += group * rng.poisson(1.0)
        if not images:
            assert np.isnan(drawn[scores.labels != NO_LABEL]).all()
            continue
        again = score_labels(validation.subset(images), identity, dissection)
        np.testing.assert_array_equal(drawn, again.iou)


def test_intervals_are_quantiles_of_differences_over_samples_drawn_alike(scores, others):
    groups, differences = [0, 1, 0, 1, 2], {"s1": [], "s2": []}
    drawn = (result.resampled_iou(groups, 300, 5) for result in (scores, others))
    for first, second in zip(*drawn, strict=True):
        if np.isnan([first, second])[~np.isnan([scores.iou, others.iou])].any():
            continue
        differences["s1"].append(s1(first) - s1(second))
        differences["s2"].append(s2(first, scores.labels) - s2(second, others.labels))
    assert 100 < len(differences["s1"]) < 300
    found = paired_interval(scores, others, 0.8, groups=groups, resamples=300, random_state=5)
    for key, values in differences.items():
        assert found[key][1:3] == pytest.approx(tuple(np.quantile(values, [0.1, 0.9])))
    assert found["s1"].value == pytest.approx(scores.s1 - others.s1)
    assert found["s2"].value == pytest.approx(scores.s2 - others.s2)


# ------------------------------------------------------------------ what is drawn


def test_batches_do_not_change_what_is_drawn(validation, dissection, scores):
    other = score_labels(validation, identity, dissection, batch_size=2)
    np.testing.assert_array_equal(other.resampled_iou(), scores.resampled_iou())


def test_the_same_groups_are_drawn_for_any_labels(validation, dissection):
    # Images that do not count for the labels of some detectors are drawn nevertheless.
    parts, houses, alone = (
        score_labels(validation, identity, dissection, np.array(labels)).resampled_iou(
            [0, 1, 1, 2, 0]
        )
        for labels in ([5, NO_LABEL, 0, 0, 0], [0, NO_LABEL, 0, 0, 0], [5, *[NO_LABEL] * 4])
    )
    np.testing.assert_array_equal(parts[:, 2:], houses[:, 2:])
    np.testing.assert_array_equal(alone[:, 0], parts[:, 0])


def test_long_bootstraps_begin_with_the_samples_of_short_ones(scores, monkeypatch):
    groups = [0, 1, 1, 2, 0]
    short = scores.resampled_iou(groups, 30)
    np.testing.assert_array_equal(scores.resampled_iou(groups, 70)[:30], short)
    monkeypatch.setattr("xplique_dirpairs.metrics.interpretability.chunk_size", lambda floats: 4)
    np.testing.assert_array_equal(scores.resampled_iou(groups, 30), short)


def test_other_seeds_draw_other_samples(scores):
    assert (scores.resampled_iou(random_state=1) != scores.resampled_iou(random_state=2)).any()
    assert scores.summaries(random_state=1) != scores.summaries(random_state=2)


def test_groups_of_one_image_each_are_the_default(scores, others):
    for groups in (range(5), list("edcba")):
        np.testing.assert_array_equal(scores.resampled_iou(groups), scores.resampled_iou())
        assert paired_interval(scores, others, groups=groups) == paired_interval(scores, others)
    pairs = [0, 0, 1, 1, 2]
    assert paired_interval(scores, others, groups=pairs) != paired_interval(scores, others)


def test_the_names_of_groups_do_not_matter(scores):
    numbers = scores.resampled_iou([0, 1, 0, 2, 1])
    np.testing.assert_array_equal(scores.resampled_iou([5, -3, 5, 4, -3]), numbers)
    np.testing.assert_array_equal(scores.resampled_iou(list("zyzxy")), numbers)


def test_a_group_of_all_images_has_the_same_scores_in_every_sample(scores, others):
    groups = ["all"] * 5
    drawn = scores.resampled_iou(groups)
    empty = np.isnan(drawn).any(axis=1)
    assert 0.2 < empty.mean() < 0.55  # The group is not drawn with probability 1/e.
    np.testing.assert_array_equal(drawn[~empty], np.tile(scores.iou, (sum(~empty), 1)))
    difference = paired_interval(scores, others, groups=groups)["s1"]
    assert difference.low == difference.high == pytest.approx(difference.value)


@pytest.mark.parametrize("order", [np.repeat, lambda numbers, times: np.tile(numbers, times)])
def test_copies_of_images_narrow_an_interval_unless_they_are_a_group(
    validation, dissection, scores, order
):
    originals = order(np.arange(5), 6)
    copies = score_labels(validation.subset(originals), identity, dissection)
    np.testing.assert_array_equal(copies.resampled_iou(originals), scores.resampled_iou())
    apart, together = copies.summaries()["s1"], copies.summaries(groups=originals)["s1"]
    assert apart.high - apart.low < 0.7 * (together.high - together.low)


# ------------------------------------------------------------------ intervals, errors


def test_an_interval_contains_its_figure_and_grows_with_the_confidence(scores):
    narrow, wide = scores.summaries(0.5)["s1"], scores.summaries(0.95)["s1"]
    assert wide.low < narrow.low < wide.value < narrow.high < wide.high
    none = scores.summaries(resamples=0)["s1"]
    assert none.value == wide.value and np.isnan(none[1:3]).all()
    assert scores.resampled_iou(resamples=0).shape == (0, 5)


@pytest.mark.parametrize("random_state", [0, None])  # None is drawn once for both.
def test_the_difference_of_a_result_to_itself_is_zero(scores, random_state):
    same = paired_interval(scores, scores, random_state=random_state)
    assert same["s1"][:3] == same["s2"][:3] == (0.0, 0.0, 0.0)


def test_results_on_different_numbers_of_images_are_refused(validation, dissection, scores):
    fewer = score_labels(validation.subset([0, 1, 2]), identity, dissection)
    with pytest.raises(ValueError, match="of the same images, not of 5 and 3: score them on"):
        paired_interval(scores, fewer)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"groups": [0, 1, 2]}, r"groups must have shape \(5,\), one .*, not \(3,\)"),
        ({"groups": [[0], [1], [2], [3], [4]]}, r"groups must have .*, not \(5, 1\)"),
        ({"groups": 3}, r"groups must have shape \(5,\), one .*, not \(\)"),
        ({"resamples": -1}, "resamples must be"),
        ({"resamples": 2.5}, "resamples must be"),
        ({"random_state": "a"}, "random_state must be"),
        ({"random_state": -1}, "random_state must be"),
    ],
)
def test_invalid_settings_are_refused(scores, settings, message):
    for draw in (scores.resampled_iou, scores.summaries, partial(paired_interval, scores, scores)):
        with pytest.raises(ValueError, match=message):
            draw(**settings)


def test_invalid_confidences_and_empty_bootstraps_are_refused(scores):
    for summarise in (scores.summaries, partial(paired_interval, scores, scores)):
        with pytest.raises(ValueError, match="confidence must"):
            summarise(1.0)
    with pytest.raises(ValueError, match="resamples must be an integer of at least 1"):
        paired_interval(scores, scores, resamples=0)
