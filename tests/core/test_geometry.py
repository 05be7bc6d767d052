"""Geometry of feature map cells on the image."""

import numpy as np
import pytest
import tensorflow as tf

from xplique_dirpairs.core.geometry import (
    bilinear_matrix,
    coverage_matrix,
    upsample,
    upsampled_bands,
)

SIZES = [
    ((7, 7), (224, 224)),
    ((3, 5), (10, 13)),
    ((1, 1), (4, 6)),
    ((8, 8), (8, 8)),
    ((1, 6), (9, 7)),
]


@pytest.mark.parametrize("cells, shape", SIZES)
def test_upsampling_agrees_with_tensorflow(rng, cells, shape):
    maps = rng.normal(size=(*cells, 3)).astype(np.float32)
    theirs = tf.image.resize(maps, shape, method="bilinear").numpy()
    np.testing.assert_allclose(upsample(maps, shape), theirs, atol=1e-5)


def test_a_pixel_at_the_centre_of_a_cell_has_the_value_of_the_cell(rng):
    maps = rng.normal(size=(4, 5, 2)).astype(np.float32)
    up = upsample(maps, (12, 15))
    np.testing.assert_allclose(up[1::3, 1::3], maps, atol=1e-6)


def test_a_shift_moves_the_maps_down_and_right(rng):
    maps = rng.normal(size=(4, 5, 2)).astype(np.float32)
    plain, moved = upsample(maps, (32, 40)), upsample(maps, (32, 40), (2, 3))
    np.testing.assert_allclose(moved[6:-6, 7:-7], plain[4:-8, 4:-10], atol=1e-5)
    np.testing.assert_array_equal(upsample(maps, (32, 40), 2), upsample(maps, (32, 40), (2, 2)))


def test_upsampling_stays_within_the_range_of_the_map(rng):
    maps = rng.normal(size=(5, 6, 4)).astype(np.float32)
    up = upsample(maps, (31, 33), 1.3)
    assert (up.max(axis=(0, 1)) <= maps.max(axis=(0, 1)) + 1e-6).all()
    assert (up.min(axis=(0, 1)) >= maps.min(axis=(0, 1)) - 1e-6).all()


def test_upsampled_bands_together_are_the_upsampled_maps(rng):
    maps = rng.normal(size=(5, 6, 64)).astype(np.float32)
    bands = list(upsampled_bands(maps, (200, 201)))
    assert len(bands) > 1 and bands[0][0].start == 0 and bands[-1][0].stop == 200
    theirs = tf.image.resize(maps, (200, 201), method="bilinear").numpy()
    values = np.concatenate([v for _, v in bands]).reshape(200, 201, 64)
    np.testing.assert_allclose(values, theirs, atol=1e-5)


@pytest.mark.parametrize("cells, pixels", [(4, 12), (3, 10), (7, 7), (1, 5), (5, 3)])
def test_coverage_is_the_overlap_of_cells_and_pixels(cells, pixels):
    fine = 600  # parts of a pixel
    side = pixels / cells
    slow = np.zeros((cells, pixels))
    for part in range(pixels * fine):
        place = (part + 0.5) / fine
        slow[int(place / side), int(place)] += 1
    slow /= slow.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(coverage_matrix(cells, pixels), slow, atol=4 / fine)


def test_only_the_part_of_a_cell_within_the_image_counts():
    moved = coverage_matrix(2, 4, shift=1.0)
    np.testing.assert_allclose(moved, [[0, 0.5, 0.5, 0], [0, 0, 0, 1]])
    np.testing.assert_array_equal(coverage_matrix(2, 4, shift=2.0)[1], 0)


def test_rows_of_both_matrices_sum_to_one():
    for shift in (-3.3, 0.0, 2.1):
        np.testing.assert_allclose(bilinear_matrix(4, 19, shift).sum(axis=1), 1, atol=1e-6)
        np.testing.assert_allclose(coverage_matrix(4, 19, shift).sum(axis=1), 1, atol=1e-6)


@pytest.mark.parametrize("shift", [(1, 2, 3), np.nan, (0, np.inf), []])
def test_an_invalid_shift_is_refused(shift):
    with pytest.raises(ValueError, match="shift must be"):
        upsample(np.zeros((2, 2, 1)), (4, 4), shift)
