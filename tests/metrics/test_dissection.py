"""Network Dissection, against loops over pixels."""

import dataclasses

import numpy as np
import pytest
from annotated_maps import CONCEPTS, annotations, moved, slow_pixels

from xplique_dirpairs.metrics.dissection import NO_LABEL, count_overlaps, dissect

FLAT = [(category, name) for category, names in CONCEPTS.items() for name in names]
COUNTS = ("intersection", "detector_area", "concept_area", "pixels", "images")


def own(maps):
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


# ------------------------------------------------------------------ against a slow second writing


@pytest.mark.parametrize(("seed", "exhaustive"), [(0, False), (1, False), (2, False), (3, True)])
def test_iou_is_that_of_sets_of_pixels(seed, exhaustive):
    rng = np.random.default_rng(seed)
    data, limits = annotations(rng, images=4), rng.normal(0.3, 0.3, size=5)
    data.exhaustive = exhaustive
    found = dissect(data, own, limits)
    pixels = slow_pixels(data)
    for c, (category, name) in enumerate(FLAT):
        values, labels = pixels[category]
        concept = {p for p, n in enumerate(labels) if n == CONCEPTS[category].index(name) + 1}
        assert found.concept_area[c] == len(concept)
        for i in range(5):
            fires = {p for p, value in enumerate(values[:, i]) if value > limits[i]}
            assert found.intersection[i, c] == len(fires & concept)
            assert found.union[i, c] == len(fires | concept)
            assert found.iou[i, c] == pytest.approx(len(fires & concept) / len(fires | concept))


def test_images_without_a_label_of_the_category_do_not_count_for_it(data, thresholds):
    found = dissect(data, own, thresholds)
    parts = dissect(data.subset([0, 3]), own, thresholds)
    np.testing.assert_array_equal(found.images, [6, 6, 2])
    np.testing.assert_array_equal(found.pixels, np.array([6, 6, 2]) * 130)
    np.testing.assert_array_equal(found.iou[:, -1], parts.iou[:, -1])
    np.testing.assert_array_equal(found.detector_area[:, -1], parts.detector_area[:, -1])


def test_every_image_counts_where_masks_show_all_that_there_is(data, thresholds):
    data.masks["object"][2] = 0
    known, whole = dissect(data, own, thresholds), dataclasses.replace(data, exhaustive=True)
    found = dissect(whole, own, thresholds)
    np.testing.assert_array_equal(found.images, [6, 6, 6])
    np.testing.assert_array_equal(found.pixels, np.array([6, 6, 6]) * 130)
    # what fires in an image without parts is wrong now; what is hit, and what there is, stay
    np.testing.assert_array_equal(found.intersection, known.intersection)
    np.testing.assert_array_equal(found.concept_area, known.concept_area)
    np.testing.assert_array_equal(found.iou[:, 3:5], known.iou[:, 3:5])
    assert (found.iou[:, -1] < known.iou[:, -1]).any()
    # the same detector fires alike, whatever category it is asked about
    np.testing.assert_array_equal(found.detector_area, found.detector_area[:, [1, 1, 1]])


def test_a_category_of_which_there_is_nothing_has_iou_zero_where_masks_show_all(data, thresholds):
    data.masks["part"][:] = 0
    found = dissect(dataclasses.replace(data, exhaustive=True), own, thresholds)
    np.testing.assert_array_equal(found.iou[:, -1], 0.0)


def test_overlaps_are_counted_exactly(rng):
    a, b = rng.random((3, 5000)) < 0.5, rng.random((5000, 4)) < 0.5
    slow = [[sum(x and y for x, y in zip(row, column, strict=True)) for column in b.T] for row in a]
    np.testing.assert_array_equal(count_overlaps(a, b), slow)


# ------------------------------------------------------------------ the ends of the range


def test_a_detector_that_is_the_mask_has_iou_one_and_its_label():
    rng = np.random.default_rng(5)
    data = annotations(rng, cells=(10, 13), shape=(10, 13))  # at the masks' resolution
    where = [data.masks[k] == CONCEPTS[k].index(n) + 1 for k, n in FLAT]
    data.maps = np.stack(where, axis=-1).astype(float)
    found = dissect(data, own, np.full(6, 0.5))
    np.testing.assert_allclose(np.diag(found.iou), 1.0)
    np.testing.assert_array_equal(found.labels, range(6))
    same = [k for k, (category, _) in enumerate(FLAT) if category == "object"]
    off = found.iou[np.ix_(same, same)][~np.eye(3, dtype=bool)]
    np.testing.assert_array_equal(off, 0.0)


def test_a_dead_detector_has_iou_zero_and_no_label(data):
    found = dissect(data, own, np.full(5, 1e6))
    np.testing.assert_array_equal(found.iou, 0.0)
    np.testing.assert_array_equal(found.labels, NO_LABEL)


def test_a_detector_fires_above_its_threshold_not_on_it(data):
    data.maps[:] = 0.0
    assert dissect(data, own, np.zeros(5)).detector_area.sum() == 0
    assert (
        dissect(data, own, np.full(5, -1e-3)).detector_area == [6 * 130, 6 * 130, 2 * 130]
    ).all()


def test_a_category_that_is_nowhere_annotated_is_not_judged(data, thresholds):
    data.masks["part"][:] = 0
    found = dissect(data, own, thresholds)
    assert np.isnan(found.iou[:, -1]).all()
    assert np.isfinite(found.iou[:, :-1]).all()
    assert (found.labels < 5).all()


def test_a_concept_that_is_not_there_has_iou_zero(data, thresholds):
    data.masks["object"][data.masks["object"] == 2] = 0
    np.testing.assert_array_equal(dissect(data, own, thresholds).iou[:, 1], 0.0)


def test_ranges_are_those_of_the_maps(data, thresholds):
    found = dissect(data, own, thresholds, batch_size=2)
    np.testing.assert_allclose(found.lowest, data.maps.min(axis=(0, 1, 2)), rtol=1e-6)
    np.testing.assert_allclose(found.highest, data.maps.max(axis=(0, 1, 2)), rtol=1e-6)


# ------------------------------------------------------------------ invariance


def test_neither_order_nor_batches_nor_dtypes_of_images_matter(data, thresholds, rng):
    plain = dissect(data, own, thresholds)
    assert_equal_counts(plain, dissect(data, own, thresholds, batch_size=1))
    assert_equal_counts(plain, dissect(data.subset(rng.permutation(6)), own, thresholds))
    wide = dataclasses.replace(data, masks={k: m.astype(np.int64) for k, m in data.masks.items()})
    assert_equal_counts(plain, dissect(wide, lambda x: x.astype(np.float32), thresholds))


def test_the_order_of_the_categories_only_orders_the_concepts(data, thresholds):
    turned = dataclasses.replace(data, concepts=dict(reversed(CONCEPTS.items())))
    iou = dissect(turned, own, thresholds).iou
    np.testing.assert_array_equal(iou[:, [3, 4, 5, 1, 2, 0]], dissect(data, own, thresholds).iou)


def test_monotone_maps_with_their_thresholds_fire_alike(data, thresholds):
    moved = dissect(data, lambda x: 3 * x - 1, 3 * thresholds - 1)
    assert_equal_counts(moved, dissect(data, own, thresholds))


def test_activations_stand_in_for_the_images(data, thresholds):
    maps = data.maps
    blank = dataclasses.replace(data, maps=np.zeros((6, 10, 13, 3)))
    given = dissect(blank, own, thresholds, activations=maps, batch_size=4)
    assert_equal_counts(given, dissect(data, own, thresholds))


def test_a_shift_moves_the_maps_not_the_masks(rng, thresholds):
    data = annotations(rng, cells=(10, 13))
    found = dissect(data, own, thresholds, shift=(2, 1))
    assert_equal_counts(found, dissect(moved(data, 2, 1), own, thresholds))
    assert (found.intersection != dissect(data, own, thresholds).intersection).any()


def test_more_detectors_than_fit_in_memory_at_once_are_counted_alike(data, thresholds):
    # upsampled row by row
    many = dataclasses.replace(data, maps=np.tile(data.maps, 20_000))
    counted = dissect(many, own, np.tile(thresholds, 20_000))
    few = dissect(data, own, thresholds)
    np.testing.assert_array_equal(counted.intersection, np.tile(few.intersection, (20_000, 1)))
    np.testing.assert_array_equal(counted.detector_area, np.tile(few.detector_area, (20_000, 1)))


def test_only_a_batch_is_read_at_a_time(data, thresholds):
    sizes = []
    dissect(data, lambda maps: sizes.append(len(maps)) or maps, thresholds, batch_size=4)
    assert sizes == [4, 2]


# ------------------------------------------------------------------ table and errors


def test_the_table_lists_every_detector_best_first(data, thresholds):
    found = dissect(data, own, thresholds)
    table = found.table(best=2)
    assert sorted(row[0].text for row in table.rows) == list("01234")
    best = [row[4].numbers[0] for row in table.rows]
    assert best == sorted(best, reverse=True) and best[0] == found.iou.max()
    assert all(row[4].numbers >= row[7].numbers for row in table.rows)
    first = int(table.rows[0][0].text)
    assert (table.rows[0][3].text, table.rows[0][2].text) == FLAT[found.labels[first]]


@pytest.mark.parametrize("limits", [0.5, np.zeros((2, 5)), [], [np.nan] * 5])
def test_thresholds_are_one_for_each_detector(data, limits):
    with pytest.raises(ValueError, match="one number for each detector"):
        dissect(data, own, limits)


def test_arguments_that_do_not_fit_are_refused(data, thresholds):
    with pytest.raises(ValueError, match="maps of 4 detectors, one per threshold, not of 5"):
        dissect(data, own, thresholds[:4])
    with pytest.raises(ValueError, match="bring tokens into a grid"):
        dissect(data, lambda x: x.reshape(len(x), -1, 5), thresholds)
    with pytest.raises(ValueError, match="NaN"):
        dissect(data, lambda x: x * np.nan, thresholds)
    with pytest.raises(ValueError, match="those of the 6 annotated images, not of 5"):
        dissect(data, own, thresholds, activations=data.maps[:5])
    with pytest.raises(ValueError, match="those of the 6 annotated images, not of 7"):
        dissect(data, own, thresholds, activations=np.zeros((7, 3, 4, 5)))
    with pytest.raises(ValueError, match="no annotated images"):
        dissect(data.subset(slice(0)), own, thresholds)
    with pytest.raises(ValueError, match="shift must be"):
        dissect(data, own, thresholds, shift=(1, 2, 3))


def test_masks_that_do_not_fit_are_named(data, thresholds):
    masks = data.masks
    for wrong, words in (
        ({"object": masks["object"]}, "categories"),
        (masks | {"part": masks["part"].astype(float)}, r"masks\['part'\] must be integers"),
        (masks | {"part": masks["part"].astype(int) - 1}, r"masks\['part'\] hold numbers from -1"),
        (masks | {"part": masks["part"] * 2}, "from 0 to 2, but there are 1 names"),
        (masks | {"part": masks["part"][:, :5]}, "must be of one shape, .*6, 5, 13"),
    ):
        with pytest.raises(ValueError, match=words):
            dissect(dataclasses.replace(data, masks=wrong), own, thresholds)
