"""Crops agree with CRAFT, and their coefficients with the concept maps."""

import logging

import numpy as np
import pytest
import tensorflow as tf

from xplique_dirpairs.data.images import (
    best_crops,
    best_crops_of_images,
    concept_maps,
    crop_coefficients,
    crop_place,
    default_patch,
    extract_crops,
    fitting_patch,
)


@pytest.mark.parametrize("shape, patch", [((32, 32), 15), ((64, 32), 20), ((20, 33), 20)])
def test_crops_are_the_same_as_crafts(rng, shape, patch):
    images = rng.uniform(size=(3, *shape, 3)).astype(np.float32)
    stride = int(patch * 0.8)
    theirs = tf.image.extract_patches(
        images, [1, patch, patch, 1], [1, stride, stride, 1], [1, 1, 1, 1], "VALID"
    )
    theirs = tf.reshape(theirs, (-1, patch, patch, 3))
    np.testing.assert_array_equal(extract_crops(images, patch), theirs)


def reference_means(maps, image_shape, patch):
    """Return the mean over each crop of the maps repeated to image size."""
    height, width = image_shape
    rows, columns = height // maps.shape[1], width // maps.shape[2]
    painted = maps.repeat(rows, axis=1).repeat(columns, axis=2)
    return extract_crops(painted, patch).mean(axis=(1, 2))


@pytest.mark.parametrize("patch", [1, 5, 12, 16])
def test_a_crops_coefficient_is_the_mean_of_the_map_over_its_area(rng, patch):
    maps = rng.uniform(size=(2, 8, 4, 3)).astype(np.float32)
    fast = crop_coefficients(maps, (32, 16, 3), patch)
    np.testing.assert_allclose(fast, reference_means(maps, (32, 16), patch), rtol=1e-5)


def test_a_concept_in_a_corner_is_in_the_crop_of_that_corner():
    maps = np.zeros((1, 4, 4, 1), np.float32)
    maps[0, 0, 3] = 1
    u = crop_coefficients(maps, (32, 32), 16).reshape(2, 2)
    assert u[0, 1] > 0 and np.count_nonzero(u) == 1


def test_a_patch_larger_than_the_image_is_reduced_and_logged(caplog):
    with caplog.at_level(logging.INFO, logger="xplique_dirpairs"):
        assert fitting_patch(64, (48, 32, 3)) == 32
    assert "patch_size 64 is larger" in caplog.text
    assert fitting_patch(20, (48, 32, 3)) == 20


@pytest.mark.parametrize(
    "tokens, image, expected",
    [
        (16, (32, 32), (4, 4)),
        (17, (32, 32), (4, 4)),
        (32, (64, 32), (8, 4)),
        (33, (32, 64), (4, 8)),
    ],
)
def test_tokens_form_a_grid_without_the_class_token(tokens, image, expected):
    values = np.arange(tokens, dtype=float).reshape(1, tokens, 1)
    maps = concept_maps(values, image, (0,) if tokens % 2 else ())
    assert maps.shape == (1, *expected, 1)
    assert maps[0, -1, -1, 0] == tokens - 1 and maps[0, 0, 0, 0] == tokens - np.prod(expected)


def test_tokens_outside_the_image_may_stand_anywhere_in_the_sequence():
    values = np.arange(19, dtype=float).reshape(1, 19, 1)
    maps = concept_maps(values, (32, 32), (0, 9, -1))
    assert maps.ravel().tolist() == [n for n in range(19) if n not in (0, 9, 18)]


def test_one_token_more_than_a_grid_is_not_taken_for_a_class_token(caplog):
    maps = concept_maps(np.ones((2, 17, 3)), (32, 32))
    assert maps.shape == (2, 1, 1, 3) and "extra_tokens=(0,)" in caplog.text


def test_tokens_that_form_no_grid_become_one_cell_and_are_logged(caplog):
    with caplog.at_level(logging.INFO, logger="xplique_dirpairs"):
        maps = concept_maps(np.ones((2, 7, 3)), (32, 32))
    assert maps.shape == (2, 1, 1, 3) and "without a place" in caplog.text


def test_best_crops_are_the_best_of_each_image_first_and_have_the_concept():
    values = np.array([0.0, 3.0, -1.0, 5.0, 0.0, 4.0])
    assert best_crops(values, 2, 10).tolist() == [3, 1, 5]  # 5 is the second one of its image
    assert best_crops(values, 2, 2).tolist() == [3, 1]
    assert best_crops(values, 1, 10).tolist() == [3, 5, 1]
    assert best_crops(np.zeros(6), 2, 2).size == 0


def test_equal_crops_of_an_image_give_one_crop_per_image():
    values = np.repeat([1.0, 3.0, 2.0], 4)
    assert (best_crops(values, 3, 10) // 4).tolist() == [1, 2, 0]


def test_no_concepts_have_no_crops(rng):
    assert best_crops_of_images(rng.random((2, 8, 8, 3)), np.zeros((2, 4, 4, 0)), 3) == []


def test_best_crops_of_images_come_from_different_images(rng):
    images = rng.uniform(size=(5, 20, 33, 3)).astype(np.float32)
    maps = rng.uniform(size=(5, 4, 3, 2)).astype(np.float32)
    every = extract_crops(images, 6).reshape(5, -1, 6, 6, 3)
    values = crop_coefficients(maps, (20, 33), 6).reshape(5, -1, 2)
    for concept, crops in enumerate(best_crops_of_images(images, maps, 3)):
        best = sorted(range(5), key=lambda n: -values[n, :, concept].max())[:3]
        for crop, n in zip(crops, best, strict=True):
            np.testing.assert_array_equal(crop, every[n, values[n, :, concept].argmax()])


def test_images_without_a_concept_give_no_crop(rng):
    images = rng.uniform(size=(4, 16, 16, 3)).astype(np.float32)
    maps = np.zeros((4, 2, 2, 2), np.float32)
    maps[2, 1, 0, 0] = 1.0
    one, none = best_crops_of_images(images, maps, 3)
    assert one.shape == (1, 5, 5, 3) and none.shape == (0, 5, 5, 3)


@pytest.mark.parametrize("shape, patch", [((100, 64, 3), 20), ((10, 21), 3), ((1, 1, 3), 1)])
def test_the_default_patch_is_30_percent_of_the_shorter_side(shape, patch):
    assert default_patch(shape) == patch


def test_crops_are_numbered_row_by_row():
    images = np.arange(20 * 33, dtype=float).reshape(1, 20, 33, 1)
    for index, crop in enumerate(extract_crops(images, 8)):
        top, left = crop_place(index, (20, 33, 1), 8)
        np.testing.assert_array_equal(crop, images[0, top : top + 8, left : left + 8])
