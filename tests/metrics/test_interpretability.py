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


def identity(maps):
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
def scores(training, validation, thresholds):
    return interpretability(training, validation, identity, thresholds)


def pixels_of(data, label):
    """Return maps (P, I), and whether pixels are of the label (P,), of the images that count."""
    category, name = FLAT[label]
    values, labels = slow_pixels(data)[category]
    return values, labels == CONCEPTS[category].index(name) + 1


# ------------------------------------------------------------------ against a reference


def test_labels_come_from_the_training_part(scores, training, thresholds):
    dissection = dissect(training, identity, thresholds)
    np.testing.assert_array_equal(scores.labels, dissection.iou.argmax(axis=1))
    np.testing.assert_array_equal(scores.training_iou, dissection.iou.max(axis=1))


@pytest.mark.parametrize("exhaustive", [False, True])
def test_scores_match_scikit_learn_on_the_pixels_of_the_validation_part(
    training, validation, thresholds, exhaustive
):
    training.exhaustive = validation.exhaustive = exhaustive
    scores = interpretability(training, validation, identity, thresholds)
    assert (scores.images == len(validation.maps)).all() == exhaustive
    for i, label in enumerate(scores.labels):
        values, is_label = pixels_of(validation, label)
        fires = values[:, i] > thresholds[i]
        both = sum(a and b for a, b in zip(fires, is_label, strict=True))
        either = sum(a or b for a, b in zip(fires, is_label, strict=True))
        assert scores.iou[i] == pytest.approx(both / either)
        assert scores.precision[i] == pytest.approx(precision_score(is_label, fires))
        assert scores.recall[i] == pytest.approx(recall_score(is_label, fires))
        assert scores.f1[i] == pytest.approx(f1_score(is_label, fires))


def test_average_precision_matches_scikit_learn_up_to_the_levels(validation, thresholds):
    scores = interpretability(validation, validation, identity, thresholds)
    for i, label in enumerate(scores.labels):
        values, is_label = pixels_of(validation, label)
        theirs = average_precision_score(is_label, values[:, i])
        assert scores.average_precision[i] == pytest.approx(theirs, abs=1e-3)
        low, high = validation.maps[..., i].min(), validation.maps[..., i].max()
        levels = np.floor((values[:, i] - low) / (high - low) * AP_LEVELS)
        # The tolerance is for pixels that rounding puts on the next level.
        rounded = average_precision_score(is_label, levels)
        assert scores.average_precision[i] == pytest.approx(rounded, abs=1e-4)


def test_average_precision_of_a_histogram_matches_that_of_its_samples(rng):
    levels, is_label = rng.integers(0, 7, 300), rng.random(300) < 0.3
    positive, total = np.bincount(levels[is_label], minlength=9), np.bincount(levels, minlength=9)
    ap = average_precision(np.stack([positive, total * 0]), np.stack([total, total]))
    assert ap[0] == pytest.approx(average_precision_score(is_label, levels))
    assert np.isnan(ap[1])


def test_s1_and_s2_are_sums_over_detectors_and_over_labels(scores):
    assert scores.s1 == pytest.approx(sum(scores.iou.tolist()))
    best = {}
    for label, iou in zip(scores.labels, scores.iou, strict=True):
        best[label] = max(best.get(label, 0.0), iou)
    assert scores.s2 == pytest.approx(sum(best.values()))


def test_s1_and_s2_are_integrals_of_counts_above_a_threshold(rng):
    iou, labels = rng.random(30), rng.integers(-1, 8, 30)
    edges = np.linspace(0, 1, 20001)
    middles = (edges[1:] + edges[:-1]) / 2
    detectors = [(iou > xi).sum() for xi in middles]
    distinct = [len(set(labels[(iou > xi) & (labels != NO_LABEL)])) for xi in middles]
    assert s1(iou) == pytest.approx(np.mean(detectors), abs=1e-3)
    assert s2(iou, labels) == pytest.approx(np.mean(distinct), abs=1e-3)


def test_linear_or_is_the_iou_of_the_union_of_detectors_of_a_label(
    training, validation, thresholds
):
    dissection = dissect(training, identity, thresholds)
    labels = np.array([4, 1, 1, NO_LABEL, 1])
    scores = score_labels(validation, identity, dissection, labels)
    assert list(scores.linear_or) == [FLAT[1], FLAT[4]]
    for label in (1, 4):
        values, is_label = pixels_of(validation, label)
        fires = (values > thresholds)[:, labels == label].any(axis=1)
        slow = (fires & is_label).sum() / (fires | is_label).sum()
        assert scores.linear_or[FLAT[label]] == pytest.approx(slow)
    assert scores.linear_or[FLAT[4]] == scores.iou[0]
    assert scores.summaries()["linear_or"].value == pytest.approx(sum(scores.linear_or.values()))


def test_counts_of_images_are_those_of_each_image_alone(scores, training, validation, thresholds):
    dissection = dissect(training, identity, thresholds)
    for n, (counts, judged) in enumerate(zip(scores.image_counts, scores.judged, strict=True)):
        alone = score_labels(validation.subset([n]), identity, dissection)
        sums = alone.intersection, alone.detector_area, alone.concept_area
        np.testing.assert_array_equal(counts, sums)
        np.testing.assert_array_equal(judged, alone.images == 1)
    assert scores.judged.any() and not scores.judged.all()
    assert scores.intersection.dtype == scores.images.dtype == np.int64


# ------------------------------------------------------------------ the ends of the range


def masks_as_maps(data):
    where = [data.masks[k] == CONCEPTS[k].index(n) + 1 for k, n in FLAT]
    return dataclasses.replace(data, maps=np.stack(where, axis=-1).astype(float))


def test_detectors_that_equal_the_masks_have_perfect_scores(training, validation):
    scores = interpretability(
        masks_as_maps(training), masks_as_maps(validation), identity, np.full(6, 0.5)
    )
    np.testing.assert_array_equal(scores.labels, range(6))
    for name in PER_DETECTOR:
        np.testing.assert_allclose(getattr(scores, name), 1.0, err_msg=name)
    assert scores.s1 == scores.s2 == 6.0
    assert scores.interpretable() == scores.interpretable_concepts()
    assert scores.interpretable() == {"object": 3, "colour": 2, "part": 1}
    assert set(scores.linear_or.values()) == {1.0}
    low, high = scores.summaries()["s1"][1:3]
    assert low == high == 6.0


def test_detectors_that_never_fire_score_zero(training, validation):
    scores = interpretability(training, validation, identity, np.full(5, 1e6))
    for name in PER_DETECTOR:
        np.testing.assert_array_equal(getattr(scores, name), 0.0, err_msg=name)
    assert scores.s1 == scores.s2 == 0.0
    assert scores.linear_or == {} and sum(scores.interpretable().values()) == 0


def test_duplicate_detectors_count_twice_in_s1_and_once_in_s2(training, validation, thresholds):
    def duplicates(maps):
        return np.concatenate([maps, maps], axis=-1)

    one = interpretability(training, validation, identity, thresholds)
    two = interpretability(training, validation, duplicates, np.tile(thresholds, 2))
    assert two.s1 == pytest.approx(2 * one.s1)
    assert two.s2 == pytest.approx(one.s2)
    assert two.linear_or == one.linear_or


def test_scores_that_the_validation_part_does_not_determine_are_nan(
    training, validation, thresholds
):
    dissection = dissect(training, identity, thresholds)
    validation.masks["part"][:] = 0
    validation.masks["object"][validation.masks["object"] == 1] = 0
    labels = np.array([5, 0, 3, 4, 3])
    scores = score_labels(validation, identity, dissection, labels)
    for name in PER_DETECTOR:
        assert np.isnan(getattr(scores, name)[0]), name
        assert np.isfinite(getattr(scores, name)[2:]).all(), name
        assert np.isnan(getattr(scores, name)[1]) == (name in ("recall", "f1", "average_precision"))
    assert scores.iou[1] == 0.0
    assert scores.s1 == pytest.approx(scores.iou[2:].sum())
    summaries = scores.summaries()
    assert summaries["s1"].undefined == 1
    assert summaries["label_recall"].value == pytest.approx(scores.recall[2:].mean())
    assert np.isnan(scores.resampled_iou()[:, 0]).all()


def test_interpretable_detectors_are_counted_by_the_category_of_their_label(scores):
    for least in (0.0, 0.1, 0.2, 1.1):
        good = [FLAT[c][0] for c, v in zip(scores.labels, scores.iou, strict=True) if v >= least]
        assert scores.interpretable(least) == {name: good.count(name) for name in CONCEPTS}
        labels = {c for c, v in zip(scores.labels, scores.iou, strict=True) if v >= least}
        assert sum(scores.interpretable_concepts(least).values()) == len(labels)


# ------------------------------------------------------------------ invariance


def test_order_and_batches_of_images_do_not_matter(training, validation, thresholds, scores, rng):
    order = rng.permutation(5)
    other = interpretability(training, validation.subset(order), identity, thresholds, batch_size=2)
    for name in PER_DETECTOR:
        np.testing.assert_array_equal(getattr(other, name), getattr(scores, name), err_msg=name)
    assert other.linear_or == scores.linear_or


@pytest.mark.parametrize("limits", [None, [0.3] * 5], ids=["quantile", "given"])
def test_a_shift_moves_the_maps_of_both_parts(limits):
    parts = [annotations(np.random.default_rng(k), cells=(10, 13)) for k in range(2)]
    scores = interpretability(*parts, identity, limits, shift=(2, 1))
    # The quantiles are those of the maps before upsampling.
    other = interpretability(*(moved(part, 2, 1) for part in parts), identity, scores.thresholds)
    for name in ("labels", "training_iou", "iou", "precision", "recall"):
        np.testing.assert_array_equal(getattr(other, name), getattr(scores, name), err_msg=name)
    assert (scores.iou != interpretability(*parts, identity, scores.thresholds).iou).any()


def test_the_order_of_the_detectors_only_changes_the_order_of_the_scores(
    training, validation, thresholds, scores
):
    order = [3, 1, 4, 0, 2]
    other = interpretability(training, validation, lambda x: x[..., order], thresholds[order])
    for name in (*PER_DETECTOR, "labels"):
        np.testing.assert_array_equal(getattr(other, name), getattr(scores, name)[order])
    assert other.s2 == pytest.approx(scores.s2)


def test_the_better_quantile_of_the_training_part_is_used_without_thresholds(training, validation):
    scores = interpretability(training, validation, identity)
    _, dissection = choose_thresholds(training, identity)
    other = interpretability(training, validation, identity, dissection.thresholds)
    np.testing.assert_array_equal(scores.iou, other.iou)


def test_values_outside_the_range_of_the_training_part_are_moved_to_its_ends(
    training, validation, thresholds
):
    dissection = dissect(training, identity, thresholds)
    validation.maps = 50 * validation.maps
    scores = score_labels(validation, identity, dissection)
    for i, label in enumerate(scores.labels):
        values, is_label = pixels_of(validation, label)
        inside = values[:, i].clip(dissection.lowest[i], dissection.highest[i])
        theirs = average_precision_score(is_label, inside)
        assert scores.average_precision[i] == pytest.approx(theirs, abs=2e-3)


# ------------------------------------------------------------------ tables, intervals, errors


def test_every_metric_of_its_kind_has_a_summary(scores):
    keys = [key for key, metric in METRICS.items() if metric.kind == "interpretability"]
    assert list(scores.summaries()) == keys


def test_the_table_has_a_row_for_each_detector_best_first(scores):
    table = scores.table()
    values = [row[5].numbers[0] for row in table.rows]
    np.testing.assert_array_equal(values, sorted(scores.iou, reverse=True))
    for row in table.rows:
        assert (row[2].text, row[1].text) == FLAT[scores.labels[int(row[0].text)]]


def test_a_detector_without_a_label_has_a_dash_in_the_table(training, validation):
    table = interpretability(training, validation, identity, np.full(5, 1e6)).table()
    assert all(row[1].text == "–" for row in table.rows)


def test_invalid_arguments_are_refused(training, validation, thresholds):
    dissection = dissect(training, identity, thresholds)
    for labels, message in (
        ([0, 1], "integers of shape"),
        ([0.5] * 5, "integers of shape"),
        ([0, 1, 2, 3, 6], "from 0 to 6"),
        ([0, 1, 2, 3, -2], "from -2 to 3"),
    ):
        with pytest.raises(ValueError, match=message):
            score_labels(validation, identity, dissection, labels)
    with pytest.raises(ValueError, match="must have the same concepts"):
        score_labels(dataclasses.replace(validation, concepts={"a": ("b",)}), identity, dissection)
    with pytest.raises(ValueError, match="maps of 5 detectors, one per threshold, not of 4"):
        score_labels(validation, lambda x: x[..., :4], dissection)


def test_invalid_settings_are_refused_before_the_training_part_is_read(training, validation):
    def read(maps):
        raise AssertionError("read")

    with pytest.raises(ValueError, match="must be"):
        interpretability(training, validation, read, np.zeros(5), shift=(1, 2, 3))
    other = dataclasses.replace(validation, concepts={"a": ("b",)})
    with pytest.raises(ValueError, match="must have the same concepts"):
        interpretability(training, other, read, np.zeros(5))


# ------------------------------------------------------------------ size


class Stream:
    """Annotated images with maps in place of images and two categories of 30 concepts.

    The batches are generated on the fly.
    """

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


def test_a_result_holds_13_bytes_for_each_image_and_detector(scores):
    assert scores.image_counts.nbytes + scores.judged.nbytes == 13 * 5 * 5


def test_images_are_not_kept_in_memory():
    few, many = (Stream(images, cells=4, side=64, detectors=8) for images in (8, 108))
    dissection = dissect(few, identity, np.zeros(8))

    def peak(stream):
        tracemalloc.start()
        try:
            score_labels(stream, identity, dissection, batch_size=4)
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    peak(few)  # The first run allocates memory that is not freed.
    masks_of_an_image = 2 * 64**2
    assert peak(many) - peak(few) < 100 * masks_of_an_image / 8


@pytest.mark.slow
def test_64_detectors_60_concepts_and_400_images_take_less_than_a_minute():
    stream = Stream(400)
    start = time.process_time()
    interpretability(stream, stream, identity, np.full(64, 2.0))
    assert time.process_time() - start < 60.0
