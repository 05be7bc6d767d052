"""Normalisation, matching and inverses."""

import numpy as np

from xplique_dirpairs.core.linear_algebra import (
    UNMATCHED,
    cosines,
    match,
    regularised_inverse,
    unit_rows,
)


def test_the_regularised_inverse_damps_small_singular_values(rng):
    gram = rng.normal(size=(2, 4, 4))
    for one, inverse in zip(gram, regularised_inverse(gram), strict=True):
        left, s, right = np.linalg.svd(one)
        np.testing.assert_allclose(inverse, (right.T * (s / (s**2 + 1 / 900))) @ left.T, atol=1e-9)


def test_unit_rows_have_unit_length_and_zero_rows_stay_zero(rng):
    rows = rng.normal(size=(3, 4)).astype(np.float32)
    rows[1] = 0
    lengths = np.linalg.norm(unit_rows(rows), axis=1)
    np.testing.assert_allclose(lengths, [1, 0, 1], rtol=1e-6)
    assert unit_rows(rows).dtype == np.float32 and unit_rows([[3, 4]]).tolist() == [[0.6, 0.8]]


def test_cosines_are_signed_and_ignore_lengths():
    others = np.array([[-2.0, 0.0], [1.0, 1.0], [0.0, 0.0]])
    np.testing.assert_allclose(cosines([[3.0, 0.0]], others), [[-1.0, 0.5**0.5, 0.0]])


def test_matching_maximises_the_sum_of_scores():
    scores = np.array([[0.9, 0.8, 0.0], [0.8, 0.1, 0.0]])
    np.testing.assert_array_equal(match(scores), [1, 0, UNMATCHED])
    np.testing.assert_array_equal(match(scores.T), [1, 0])
