"""Scores of detectors on their labels."""

import dataclasses
import time
import tracemalloc

import numpy as np
import pytest
from annotated_maps import CONCEPTS, annotations, moved, slow_pixels
from sklearn.metrics import average_precision_score, f1_score, precision_score, recall_score

from xplique_dirpairs.metrics.dissection import NO_LABEL, dissect
from xplique_dirpairs.metrics.interpretability import (
    average_precision,
    paired_interval,
    s1,
    s2,
)
from xplique_dirpairs.metrics.labelled_detectors import (
    AP_LEVELS,
    choose_thresholds,
    interpretability,
    score_labels,
)
from xplique_dirpairs.metrics.registry import METRICS

FLAT = [(category, name) for category, names in CONCEPTS.items() for name in names]
PER_DETECTOR = ("iou", "precision", "recall", "f1", "average_precision")


def own(maps):
    return maps


@pytest.fixture
def training():
    return annotations(np.random.default_rng(1), images=7)


@pytest.fixture
def validation():
    return annotations(np.random.default_rng(2), images=5)


@pytest.fixture
def thresholds(rng):
    return rng.normal(0.3, 0.3, size=5)


@pytest.fixture
def found(training, validation, thresholds):
    return interpretability(training, validation, own, thresholds)


def pixels_of(data, label):
    """Maps (P, I) and where the concept is (P,), of the images that know its category."""
    category, name = FLAT[label]
    values, labels = slow_pixels(data)[category]
    return values, labels == CONCEPTS[category].index(name) + 1


# ------------------------------------------------------------------ against a slow second writing


def test_labels_are_from_the_training_part(found, training, thresholds):
    dissection = dissect(training, own, thresholds)
    np.testing.assert_array_equal(found.labels, dissection.iou.argmax(axis=1))
    np.testing.assert_array_equal(found.training_iou, dissection.iou.max(axis=1))


@pytest.mark.parametrize("exhaustive", [False, True])
def test_scores_are_those_of_the_validation_part_s_pixels(
    training, validation, thresholds, exhaustive
):
    training.exhaustive = validation.exhaustive = exhaustive
    found = interpretability(training, validation, own, thresholds)
    assert (found.images == len(validation.maps)).all() == exhaustive
    for i, label in enumerate(found.labels):
        values, there = pixels_of(validation, label)
        fires = values[:, i] > thresholds[i]
        both = sum(a and b for a, b in zip(fires, there, strict=True))
        either = sum(a or b for a, b in zip(fires, there, strict=True))
        assert found.iou[i] == pytest.approx(both / either)
        assert found.precision[i] == pytest.approx(precision_score(there, fires))
        assert found.recall[i] == pytest.approx(recall_score(there, fires))
        assert found.f1[i] == pytest.approx(f1_score(there, fires))


def test_average_precision_is_scikit_learn_s_up_to_the_levels(validation, thresholds):
    found = interpretability(validation, validation, own, thresholds)
    for i, label in enumerate(found.labels):
        values, there = pixels_of(validation, label)
        theirs = average_precision_score(there, values[:, i])
        assert found.average_precision[i] == pytest.approx(theirs, abs=1e-3)
        low, high = validation.maps[..., i].min(), validation.maps[..., i].max()
        levels = np.floor((values[:, i] - low) / (high - low) * AP_LEVELS)
        # but for pixels that rounding puts on the next level
        rounded = average_precision_score(there, levels)
        assert found.average_precision[i] == pytest.approx(rounded, abs=1e-4)


def test_average_precision_of_a_histogram_is_that_of_its_samples(rng):
    levels, there = rng.integers(0, 7, 300), rng.random(300) < 0.3
    positive, total = np.bincount(levels[there], minlength=9), np.bincount(levels, minlength=9)
    ap = average_precision(np.stack([positive, total * 0]), np.stack([total, total]))
    assert ap[0] == pytest.approx(average_precision_score(there, levels))
    assert np.isnan(ap[1])


def test_s1_and_s2_are_sums_over_detectors_and_over_labels(found):
    assert found.s1 == pytest.approx(sum(found.iou.tolist()))
    best = {}
    for label, iou in zip(found.labels, found.iou, strict=True):
        best[label] = max(best.get(label, 0.0), iou)
    assert found.s2 == pytest.approx(sum(best.values()))


def test_s1_and_s2_are_integrals_of_what_is_above_a_threshold(rng):
    iou, labels = rng.random(30), rng.integers(-1, 8, 30)
    edges = np.linspace(0, 1, 20001)
    middles = (edges[1:] + edges[:-1]) / 2
    detectors = [(iou > xi).sum() for xi in middles]
    distinct = [len(set(labels[(iou > xi) & (labels != NO_LABEL)])) for xi in middles]
    assert s1(iou) == pytest.approx(np.mean(detectors), abs=1e-3)
    assert s2(iou, labels) == pytest.approx(np.mean(distinct), abs=1e-3)


def test_linear_or_is_the_iou_of_the_union_of_a_label_s_detectors(training, validation, thresholds):
    dissection = dissect(training, own, thresholds)
    labels = np.array([4, 1, 1, NO_LABEL, 1])
    found = score_labels(validation, own, dissection, labels)
    assert list(found.linear_or) == [FLAT[1], FLAT[4]]
    for label in (1, 4):
        values, there = pixels_of(validation, label)
        fires = (values > thresholds)[:, labels == label].any(axis=1)
        slow = (fires & there).sum() / (fires | there).sum()
        assert found.linear_or[FLAT[label]] == pytest.approx(slow)
    assert found.linear_or[FLAT[4]] == found.iou[0]
    assert found.summaries()["linear_or"].value == pytest.approx(sum(found.linear_or.values()))


def test_the_bootstrap_counts_each_image_as_often_as_drawn(training, validation, thresholds):
    dissection = dissect(training, own, thresholds)
    found = score_labels(validation, own, dissection, resamples=3, random_state=7)
    weights = np.array([np.random.default_rng(7).poisson(1.0, (5, 3))])[0].T
    for drawn, times in zip(found.resampled_iou, weights, strict=True):
        again = validation.subset(np.repeat(np.arange(5), times))
        np.testing.assert_array_equal(drawn, score_labels(again, own, dissection).iou)


# ------------------------------------------------------------------ the ends of the range


def masks_as_maps(data):
    where = [data.masks[k] == CONCEPTS[k].index(n) + 1 for k, n in FLAT]
    return dataclasses.replace(data, maps=np.stack(where, axis=-1).astype(float))


def test_detectors_that_are_the_masks_have_one_everywhere(training, validation):
    found = interpretability(
        masks_as_maps(training), masks_as_maps(validation), own, np.full(6, 0.5)
    )
    np.testing.assert_array_equal(found.labels, range(6))
    for name in PER_DETECTOR:
        np.testing.assert_allclose(getattr(found, name), 1.0, err_msg=name)
    assert found.s1 == found.s2 == 6.0
    assert found.interpretable() == found.interpretable_concepts()
    assert found.interpretable() == {"object": 3, "colour": 2, "part": 1}
    assert set(found.linear_or.values()) == {1.0}
    low, high = found.summaries()["s1"][1:3]
    assert low == high == 6.0


def test_detectors_that_never_fire_have_zero(training, validation):
    found = interpretability(training, validation, own, np.full(5, 1e6))
    for name in PER_DETECTOR:
        np.testing.assert_array_equal(getattr(found, name), 0.0, err_msg=name)
    assert found.s1 == found.s2 == 0.0
    assert found.linear_or == {} and sum(found.interpretable().values()) == 0


def test_twins_count_twice_in_s1_and_once_in_s2(training, validation, thresholds):
    def twins(maps):
        return np.concatenate([maps, maps], axis=-1)

    one = interpretability(training, validation, own, thresholds)
    two = interpretability(training, validation, twins, np.tile(thresholds, 2))
    assert two.s1 == pytest.approx(2 * one.s1)
    assert two.s2 == pytest.approx(one.s2)
    assert two.linear_or == one.linear_or


def test_scores_that_the_validation_part_does_not_determine_are_left_out(
    training, validation, thresholds
):
    dissection = dissect(training, own, thresholds)
    validation.masks["part"][:] = 0
    validation.masks["object"][validation.masks["object"] == 1] = 0
    labels = np.array([5, 0, 3, 4, 3])
    found = score_labels(validation, own, dissection, labels)
    for name in PER_DETECTOR:
        assert np.isnan(getattr(found, name)[0]), name
        assert np.isfinite(getattr(found, name)[2:]).all(), name
        assert np.isnan(getattr(found, name)[1]) == (name in ("recall", "f1", "average_precision"))
    assert found.iou[1] == 0.0
    assert found.s1 == pytest.approx(found.iou[2:].sum())
    summaries = found.summaries()
    assert summaries["s1"].undefined == 1
    assert summaries["label_recall"].value == pytest.approx(found.recall[2:].mean())
    assert np.isnan(found.resampled_iou[:, 0]).all()


def test_interpretable_detectors_are_counted_by_the_category_of_their_label(found):
    for least in (0.0, 0.1, 0.2, 1.1):
        good = [FLAT[c][0] for c, v in zip(found.labels, found.iou, strict=True) if v >= least]
        assert found.interpretable(least) == {name: good.count(name) for name in CONCEPTS}
        labels = {c for c, v in zip(found.labels, found.iou, strict=True) if v >= least}
        assert sum(found.interpretable_concepts(least).values()) == len(labels)


# ------------------------------------------------------------------ invariance


def test_neither_order_nor_batches_matter(training, validation, thresholds, found, rng):
    order = rng.permutation(5)
    other = interpretability(training, validation.subset(order), own, thresholds, batch_size=2)
    for name in PER_DETECTOR:
        np.testing.assert_array_equal(getattr(other, name), getattr(found, name), err_msg=name)
    assert other.linear_or == found.linear_or


def test_batches_do_not_change_what_the_bootstrap_draws(training, validation, thresholds, found):
    other = interpretability(training, validation, own, thresholds, batch_size=2)
    np.testing.assert_array_equal(other.resampled_iou, found.resampled_iou)


def test_the_bootstrap_draws_alike_whatever_the_labels(training, validation, thresholds):
    # an image that says nothing about the labels of some detectors is drawn for them, too
    dissection = dissect(training, own, thresholds)
    parts, houses = (
        score_labels(validation, own, dissection, np.array([label, NO_LABEL, 0, 0, 0]))
        for label in (5, 0)
    )
    alone = score_labels(validation, own, dissection, np.array([5, *[NO_LABEL] * 4]))
    np.testing.assert_array_equal(parts.resampled_iou[:, 2:], houses.resampled_iou[:, 2:])
    np.testing.assert_array_equal(alone.resampled_iou[:, 0], parts.resampled_iou[:, 0])


@pytest.mark.parametrize("limits", [None, [0.3] * 5], ids=["quantile", "own"])
def test_a_shift_moves_the_maps_of_both_parts(limits):
    parts = [annotations(np.random.default_rng(k), cells=(10, 13)) for k in range(2)]
    found = interpretability(*parts, own, limits, shift=(2, 1))
    # quantiles are of the maps as they are
    other = interpretability(*(moved(part, 2, 1) for part in parts), own, found.thresholds)
    for name in ("labels", "training_iou", "iou", "precision", "recall"):
        np.testing.assert_array_equal(getattr(other, name), getattr(found, name), err_msg=name)
    assert (found.iou != interpretability(*parts, own, found.thresholds).iou).any()


def test_the_order_of_the_detectors_orders_their_scores(training, validation, thresholds, found):
    order = [3, 1, 4, 0, 2]
    other = interpretability(training, validation, lambda x: x[..., order], thresholds[order])
    for name in (*PER_DETECTOR, "labels"):
        np.testing.assert_array_equal(getattr(other, name), getattr(found, name)[order])
    assert other.s2 == pytest.approx(found.s2)


def test_without_thresholds_the_better_quantile_of_the_training_part_is_taken(training, validation):
    found = interpretability(training, validation, own)
    _, dissection = choose_thresholds(training, own)
    other = interpretability(training, validation, own, dissection.thresholds)
    np.testing.assert_array_equal(found.iou, other.iou)


def test_values_beyond_the_training_part_s_range_count_at_its_ends(
    training, validation, thresholds
):
    dissection = dissect(training, own, thresholds)
    validation.maps = 50 * validation.maps
    found = score_labels(validation, own, dissection)
    for i, label in enumerate(found.labels):
        values, there = pixels_of(validation, label)
        inside = values[:, i].clip(dissection.lowest[i], dissection.highest[i])
        theirs = average_precision_score(there, inside)
        assert found.average_precision[i] == pytest.approx(theirs, abs=2e-3)


# ------------------------------------------------------------------ tables, intervals, errors


def test_every_metric_of_its_kind_has_a_summary(found):
    keys = [key for key, metric in METRICS.items() if metric.kind == "interpretability"]
    assert list(found.summaries()) == keys


def test_an_interval_holds_its_figure_and_grows_with_the_confidence(found):
    narrow, wide = found.summaries(0.5)["s1"], found.summaries(0.95)["s1"]
    assert wide.low < narrow.low < wide.value < narrow.high < wide.high
    with pytest.raises(ValueError, match="confidence"):
        found.summaries(1.0)


def test_the_table_has_a_row_for_each_detector_best_first(found):
    table = found.table()
    values = [row[5].numbers[0] for row in table.rows]
    np.testing.assert_array_equal(values, sorted(found.iou, reverse=True))
    for row in table.rows:
        assert (row[2].text, row[1].text) == FLAT[found.labels[int(row[0].text)]]


def test_a_detector_without_a_label_has_a_dash_in_the_table(training, validation):
    table = interpretability(training, validation, own, np.full(5, 1e6)).table()
    assert all(row[1].text == "–" for row in table.rows)


def test_differences_of_an_extractor_and_itself_are_zero(training, validation, thresholds, found):
    same = paired_interval(found, found)
    assert same["s1"][:3] == same["s2"][:3] == (0.0, 0.0, 0.0)
    other = interpretability(training, validation, own, thresholds + 2)
    difference = paired_interval(found, other)["s1"]
    assert difference.low <= difference.value <= difference.high
    assert difference.value == pytest.approx(found.s1 - other.s1)
    with pytest.raises(ValueError, match="same number of bootstrap samples"):
        paired_interval(found, interpretability(training, validation, own, resamples=3))


def test_arguments_that_do_not_fit_are_refused(training, validation, thresholds):
    dissection = dissect(training, own, thresholds)
    for labels, words in (
        ([0, 1], "integers of shape"),
        ([0.5] * 5, "integers of shape"),
        ([0, 1, 2, 3, 6], "from 0 to 6"),
        ([0, 1, 2, 3, -2], "from -2 to 3"),
    ):
        with pytest.raises(ValueError, match=words):
            score_labels(validation, own, dissection, labels)
    with pytest.raises(ValueError, match="must have the same concepts"):
        score_labels(dataclasses.replace(validation, concepts={"a": ("b",)}), own, dissection)
    for how, words in (
        ({"resamples": -1}, "resamples must be"),
        ({"resamples": 2.5}, "resamples must be"),
        ({"random_state": "a"}, "random_state must be"),
        ({"random_state": -1}, "random_state must be"),
    ):
        with pytest.raises(ValueError, match=words):
            score_labels(validation, own, dissection, **how)
    with pytest.raises(ValueError, match="maps of 5 detectors, one per threshold, not of 4"):
        score_labels(validation, lambda x: x[..., :4], dissection)


@pytest.mark.parametrize("how", [{"resamples": 2.5}, {"random_state": "a"}, {"shift": (1, 2, 3)}])
def test_settings_that_do_not_fit_are_refused_before_the_training_part_is_read(
    training, validation, how
):
    def read(maps):
        raise AssertionError("read")

    with pytest.raises(ValueError, match="must be"):
        interpretability(training, validation, read, np.zeros(5), **how)
    other = dataclasses.replace(validation, concepts={"a": ("b",)})
    with pytest.raises(ValueError, match="must have the same concepts"):
        interpretability(training, other, read, np.zeros(5))


# ------------------------------------------------------------------ size


class Stream:
    """Blocks of labels in two categories of 30, made when they are asked for; images are maps."""

    def __init__(self, images, cells=14, side=224, detectors=64):
        names = tuple(map(str, range(30)))
        self.concepts = {"object": names, "colour": names}
        self.images, self.shape, self.scale = images, (cells, cells, detectors), side // 8

    def batches(self, batch_size=32):
        rng = np.random.default_rng(0)
        for start in range(0, self.images, batch_size):
            count = min(batch_size, self.images - start)
            masks = {}
            for category in self.concepts:
                blocks = rng.integers(0, 31, (count, 8, 8)).astype(np.uint8)
                masks[category] = blocks.repeat(self.scale, 1).repeat(self.scale, 2)
            yield rng.normal(size=(count, *self.shape)).astype(np.float32), masks


def test_memory_does_not_grow_with_the_number_of_images():
    def peak(images):
        stream = Stream(images, cells=4, side=32, detectors=8)
        tracemalloc.start()
        try:
            interpretability(stream, stream, own, batch_size=4, resamples=20)
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    peak(4)  # what the first run loads
    assert peak(64) < 1.2 * peak(8)


@pytest.mark.slow
def test_64_detectors_60_concepts_and_400_images_take_less_than_a_minute():
    stream = Stream(400)
    start = time.process_time()
    interpretability(stream, stream, own, np.full(64, 2.0))
    assert time.process_time() - start < 60.0
