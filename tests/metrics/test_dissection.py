"""Network Dissection against loops over pixels."""

import dataclasses

import numpy as np
import pytest
from annotated_maps import CONCEPTS, annotations, moved, slow_pixels

from xplique_dirpairs.metrics.dissection import NO_LABEL, count_overlaps, dissect

FLAT = [(category, name) for category, names in CONCEPTS.items() for name in names]
COUNTS = ("intersection", "detector_area", "concept_area", "pixels", "images")


def identity(maps):
    return maps


def assert_equal_counts(a, b):
    for name in COUNTS:
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name), err_msg=name)


@pytest.fixture
def data(rng):
    return annotations(rng)


@pytest.fixture
def thresholds(rng):
    return rng.normal(0.3, 0.3, size=5)


# ------------------------------------------------------------------ against a reference


@pytest.mark.parametrize(("seed", "exhaustive"), [(0, False), (1, False), (2, False), (3, True)])
def test_iou_matches_that_of_sets_of_pixels(seed, exhaustive):
    rng = np.random.default_rng(seed)
    data, limits = annotations(rng, images=4), rng.normal(0.3, 0.3, size=5)
    data.exhaustive = exhaustive
    result = dissect(data, identity, limits)
    pixels = slow_pixels(data)
    for c, (category, name) in enumerate(FLAT):
        values, labels = pixels[category]
        concept = {p for p, n in enumerate(labels) if n == CONCEPTS[category].index(name) + 1}
        assert result.concept_area[c] == len(concept)
        for i in range(5):
            fires = {p for p, value in enumerate(values[:, i]) if value > limits[i]}
            assert result.intersection[i, c] == len(fires & concept)
            assert result.union[i, c] == len(fires | concept)
            assert result.iou[i, c] == pytest.approx(len(fires & concept) / len(fires | concept))


def test_images_without_a_label_of_the_category_do_not_count_for_it(data, thresholds):
    result = dissect(data, identity, thresholds)
    parts = dissect(data.subset([0, 3]), identity, thresholds)
    np.testing.assert_array_equal(result.images, [6, 6, 2])
    np.testing.assert_array_equal(result.pixels, np.array([6, 6, 2]) * 130)
    np.testing.assert_array_equal(result.iou[:, -1], parts.iou[:, -1])
    np.testing.assert_array_equal(result.detector_area[:, -1], parts.detector_area[:, -1])


def test_every_image_counts_if_masks_are_exhaustive(data, thresholds):
    data.masks["object"][2] = 0
    known, complete = (
        dissect(data, identity, thresholds),
        dataclasses.replace(data, exhaustive=True),
    )
    result = dissect(complete, identity, thresholds)
    np.testing.assert_array_equal(result.images, [6, 6, 6])
    np.testing.assert_array_equal(result.pixels, np.array([6, 6, 6]) * 130)
    # Detections in images without parts now count as wrong; intersections and areas stay the same.
    np.testing.assert_array_equal(result.intersection, known.intersection)
    np.testing.assert_array_equal(result.concept_area, known.concept_area)
    np.testing.assert_array_equal(result.iou[:, 3:5], known.iou[:, 3:5])
    assert (result.iou[:, -1] < known.iou[:, -1]).any()
    # Every image counts for every category, so that a detector has the same area for all.
    np.testing.assert_array_equal(result.detector_area, result.detector_area[:, [1, 1, 1]])


def test_an_absent_category_has_iou_zero_if_masks_are_exhaustive(data, thresholds):
    data.masks["part"][:] = 0
    result = dissect(dataclasses.replace(data, exhaustive=True), identity, thresholds)
    np.testing.assert_array_equal(result.iou[:, -1], 0.0)


def test_overlaps_are_counted_exactly(rng):
    a, b = rng.random((3, 5000)) < 0.5, rng.random((5000, 4)) < 0.5
    slow = [[sum(x and y for x, y in zip(row, column, strict=True)) for column in b.T] for row in a]
    np.testing.assert_array_equal(count_overlaps(a, b), slow)


# ------------------------------------------------------------------ the ends of the range


def test_a_detector_that_equals_a_mask_has_iou_one_and_its_label():
    rng = np.random.default_rng(5)
    data = annotations(rng, cells=(10, 13), shape=(10, 13))  # at the masks' resolution
    where = [data.masks[k] == CONCEPTS[k].index(n) + 1 for k, n in FLAT]
    data.maps = np.stack(where, axis=-1).astype(float)
    result = dissect(data, identity, np.full(6, 0.5))
    np.testing.assert_allclose(np.diag(result.iou), 1.0)
    np.testing.assert_array_equal(result.labels, range(6))
    same = [k for k, (category, _) in enumerate(FLAT) if category == "object"]
    off = result.iou[np.ix_(same, same)][~np.eye(3, dtype=bool)]
    np.testing.assert_array_equal(off, 0.0)


def test_a_dead_detector_has_iou_zero_and_no_label(data):
    result = dissect(data, identity, np.full(5, 1e6))
    np.testing.assert_array_equal(result.iou, 0.0)
    np.testing.assert_array_equal(result.labels, NO_LABEL)


def test_a_detector_does_not_fire_exactly_at_its_threshold(data):
    data.maps[:] = 0.0
    assert dissect(data, identity, np.zeros(5)).detector_area.sum() == 0
    assert (
        dissect(data, identity, np.full(5, -1e-3)).detector_area == [6 * 130, 6 * 130, 2 * 130]
    ).all()


def test_a_category_without_annotations_has_no_iou(data, thresholds):
    data.masks["part"][:] = 0
    result = dissect(data, identity, thresholds)
    assert np.isnan(result.iou[:, -1]).all()
    assert np.isfinite(result.iou[:, :-1]).all()
    assert (result.labels < 5).all()


def test_a_concept_that_never_occurs_has_iou_zero(data, thresholds):
    data.masks["object"][data.masks["object"] == 2] = 0
    np.testing.assert_array_equal(dissect(data, identity, thresholds).iou[:, 1], 0.0)


def test_lowest_and_highest_are_the_range_of_the_maps(data, thresholds):
    result = dissect(data, identity, thresholds, batch_size=2)
    np.testing.assert_allclose(result.lowest, data.maps.min(axis=(0, 1, 2)), rtol=1e-6)
    np.testing.assert_allclose(result.highest, data.maps.max(axis=(0, 1, 2)), rtol=1e-6)


# ------------------------------------------------------------------ invariance


def test_order_batches_and_dtypes_of_images_do_not_matter(data, thresholds, rng):
    plain = dissect(data, identity, thresholds)
    assert_equal_counts(plain, dissect(data, identity, thresholds, batch_size=1))
    assert_equal_counts(plain, dissect(data.subset(rng.permutation(6)), identity, thresholds))
    wide = dataclasses.replace(data, masks={k: m.astype(np.int64) for k, m in data.masks.items()})
    assert_equal_counts(plain, dissect(wide, lambda x: x.astype(np.float32), thresholds))


def test_the_order_of_the_categories_only_changes_the_order_of_the_concepts(data, thresholds):
    turned = dataclasses.replace(data, concepts=dict(reversed(CONCEPTS.items())))
    iou = dissect(turned, identity, thresholds).iou
    np.testing.assert_array_equal(
        iou[:, [3, 4, 5, 1, 2, 0]], dissect(data, identity, thresholds).iou
    )


def test_maps_and_thresholds_that_are_rescaled_alike_fire_at_the_same_pixels(data, thresholds):
    moved = dissect(data, lambda x: 3 * x - 1, 3 * thresholds - 1)
    assert_equal_counts(moved, dissect(data, identity, thresholds))


def test_activations_are_read_in_place_of_the_images(data, thresholds):
    maps = data.maps
    blank = dataclasses.replace(data, maps=np.zeros((6, 10, 13, 3)))
    given = dissect(blank, identity, thresholds, activations=maps, batch_size=4)
    assert_equal_counts(given, dissect(data, identity, thresholds))


def test_a_shift_moves_the_maps_and_not_the_masks(rng, thresholds):
    data = annotations(rng, cells=(10, 13))
    result = dissect(data, identity, thresholds, shift=(2, 1))
    assert_equal_counts(result, dissect(moved(data, 2, 1), identity, thresholds))
    assert (result.intersection != dissect(data, identity, thresholds).intersection).any()


def test_very_many_detectors_are_counted_like_few(data, thresholds):
    # So many detectors are upsampled row by row.
    many = dataclasses.replace(data, maps=np.tile(data.maps, 20_000))
    counted = dissect(many, identity, np.tile(thresholds, 20_000))
    few = dissect(data, identity, thresholds)
    np.testing.assert_array_equal(counted.intersection, np.tile(few.intersection, (20_000, 1)))
    np.testing.assert_array_equal(counted.detector_area, np.tile(few.detector_area, (20_000, 1)))


def test_images_are_read_batch_by_batch(data, thresholds):
    sizes = []
    dissect(data, lambda maps: sizes.append(len(maps)) or maps, thresholds, batch_size=4)
    assert sizes == [4, 2]


# ------------------------------------------------------------------ table and errors


def test_the_table_lists_every_detector_best_first(data, thresholds):
    result = dissect(data, identity, thresholds)
    table = result.table(best=2)
    assert sorted(row[0].text for row in table.rows) == list("01234")
    best = [row[4].numbers[0] for row in table.rows]
    assert best == sorted(best, reverse=True) and best[0] == result.iou.max()
    assert all(row[4].numbers >= row[7].numbers for row in table.rows)
    first = int(table.rows[0][0].text)
    assert (table.rows[0][3].text, table.rows[0][2].text) == FLAT[result.labels[first]]


@pytest.mark.parametrize("limits", [0.5, np.zeros((2, 5)), [], [np.nan] * 5])
def test_thresholds_that_are_not_one_number_per_detector_are_refused(data, limits):
    with pytest.raises(ValueError, match="thresholds must be numbers"):
        dissect(data, identity, limits)


def test_invalid_arguments_are_refused(data, thresholds):
    with pytest.raises(ValueError, match="maps of 4 detectors, one per threshold, not of 5"):
        dissect(data, identity, thresholds[:4])
    with pytest.raises(ValueError, match="bring tokens into a grid"):
        dissect(data, lambda x: x.reshape(len(x), -1, 5), thresholds)
    with pytest.raises(ValueError, match="NaN"):
        dissect(data, lambda x: x * np.nan, thresholds)
    with pytest.raises(ValueError, match="those of 6 images, not of 5"):
        dissect(data, identity, thresholds, activations=data.maps[:5])
    with pytest.raises(ValueError, match="those of 6 images, not of 7"):
        dissect(data, identity, thresholds, activations=np.zeros((7, 3, 4, 5)))
    with pytest.raises(ValueError, match="no annotated images"):
        dissect(data.subset(slice(0)), identity, thresholds)
    with pytest.raises(ValueError, match="shift must be"):
        dissect(data, identity, thresholds, shift=(1, 2, 3))


def test_an_error_names_the_invalid_mask(data, thresholds):
    masks = data.masks
    for wrong, message in (
        ({"object": masks["object"]}, "categories"),
        (masks | {"part": masks["part"].astype(float)}, r"masks\['part'\] must be integers"),
        (masks | {"part": masks["part"].astype(int) - 1}, r"masks\['part'\] hold numbers from -1"),
        (masks | {"part": masks["part"] * 2}, "from 0 to 2, but there are 1 names"),
        (masks | {"part": masks["part"][:, :5]}, "must have the same shape, .*6, 5, 13"),
    ):
        with pytest.raises(ValueError, match=message):
            dissect(dataclasses.replace(data, masks=wrong), identity, thresholds)
