"""Aligned positions are means over the same parts of the image."""

import numpy as np
import pytest

from xplique_dirpairs.data.alignment import align_positions


def block_means(maps, grid):
    """Return means over the cells of a coarser grid, from a fine one of their common multiple."""
    height, width = np.lcm(maps.shape[1], grid[0]), np.lcm(maps.shape[2], grid[1])
    fine = maps.repeat(height // maps.shape[1], 1).repeat(width // maps.shape[2], 2)
    n, channels = len(maps), maps.shape[-1]
    blocks = fine.reshape(n, grid[0], height // grid[0], grid[1], width // grid[1], channels)
    return blocks.mean(axis=(2, 4))


@pytest.mark.parametrize(
    ("first", "second"),
    [((16, 16), (14, 14)), ((8, 8), (7, 7)), ((6, 4), (3, 4)), ((5, 9), (7, 3))],
)
def test_cells_are_means_over_their_part_of_the_image(first, second):
    rng = np.random.default_rng(0)
    maps = {"a": rng.normal(size=(3, *first, 2)), "b": rng.normal(size=(3, *second, 5))}
    aligned = align_positions(maps)
    grid = tuple(np.minimum(first, second))
    for name, values in maps.items():
        assert aligned[name].shape == (3, *grid, values.shape[-1])
        assert aligned[name].dtype == np.float32
        np.testing.assert_allclose(aligned[name], block_means(values, grid), atol=1e-5)


@pytest.mark.parametrize(("fine", "coarse"), [(16, 14), (8, 7)])
def test_a_blob_of_one_cell_stays_within_one_cell(fine, coarse):
    for row in range(fine):
        maps = np.zeros((1, fine, fine, 1))
        maps[0, row, fine // 2] = 1.0
        aligned = align_positions({"a": maps, "b": np.zeros((1, coarse, coarse, 1))})["a"][
            0, ..., 0
        ]
        place = np.array(np.unravel_index(aligned.argmax(), aligned.shape))
        assert np.abs((place + 0.5) / coarse - (np.array([row, fine // 2]) + 0.5) / fine).max() < (
            1 / coarse
        )
        assert np.sum(aligned > 1e-6) <= 4
        assert aligned.sum() == pytest.approx((coarse / fine) ** 2, rel=1e-5)


def test_features_that_are_the_same_everywhere_stay_the_same():
    aligned = align_positions({"a": np.full((2, 9, 5, 3), 4.0), "b": np.zeros((2, 4, 7, 1))})
    np.testing.assert_allclose(aligned["a"], 4.0, rtol=1e-6)


def test_tokens_are_arranged_as_squares_without_the_class_token():
    rng = np.random.default_rng(0)
    maps = rng.normal(size=(2, 4, 4, 3)).astype(np.float32)
    tokens = maps.reshape(2, 16, 3)
    with_class = np.concatenate([np.full((2, 1, 3), 50.0), tokens], axis=1)
    with_register = np.concatenate([with_class, np.full((2, 2, 3), 60.0)], axis=1)
    aligned = align_positions(
        {"maps": maps, "tokens": tokens, "class": with_class, "register": with_register},
        extra_tokens={"register": (0, 17, 18)},
    )
    for values in aligned.values():
        np.testing.assert_array_equal(values, maps)


def test_names_that_do_not_fit_are_refused():
    maps = {"a": np.zeros((2, 4, 4, 1)), "b": np.zeros((2, 4, 4, 1))}
    with pytest.raises(ValueError, match="extra_tokens: there is no network 'c'"):
        align_positions(maps, extra_tokens={"c": (0,)})
    with pytest.raises(TypeError, match="activations must be a mapping"):
        align_positions(list(maps.values()))
    with pytest.raises(TypeError, match="names of networks must be str"):
        align_positions({0: maps["a"], 1: maps["b"]})


def test_vectors_have_one_cell():
    rng = np.random.default_rng(0)
    maps, vectors = rng.normal(size=(5, 4, 4, 3)), rng.normal(size=(5, 2))
    aligned = align_positions({"maps": maps, "vectors": vectors})
    np.testing.assert_allclose(aligned["maps"][:, 0, 0], maps.mean(axis=(1, 2)), atol=1e-6)
    np.testing.assert_allclose(aligned["vectors"][:, 0, 0], vectors, atol=1e-6)


def test_a_coarser_grid_can_be_chosen_but_no_finer_one():
    maps = {"a": np.zeros((2, 14, 14, 3)), "b": np.zeros((2, 7, 7, 4))}
    assert align_positions(maps, (2, 5))["a"].shape == (2, 2, 5, 3)
    with pytest.raises(ValueError, match=r"upsampling adds no information; use at most \(7, 7\)"):
        align_positions(maps, (14, 14))


@pytest.mark.parametrize(
    ("activations", "grid", "message"),
    [
        ({"a": np.zeros((2, 4, 4, 1))}, None, "two or more networks"),
        ({"a": np.zeros((2, 4, 1)), "b": np.zeros((3, 4, 1))}, None, "same images"),
        ({"a": np.zeros((2, 4, 1)), "b": np.zeros((2, 7, 1))}, None, "b: 7 tokens form no square"),
        ({"a": np.zeros((2, 4, 1)), "b": np.zeros((2, 4, 1))}, (0, 1), "grid"),
        ({"a": np.zeros((2, 4, 1)), "b": np.zeros((2, 4, 1))}, 2, "grid must be"),
        ({"a": np.zeros((2, 4, 1)), "b": np.zeros((2, 4, 2, 2, 1))}, None, "b: networks are not"),
    ],
)
def test_what_cannot_be_aligned_is_refused(activations, grid, message):
    with pytest.raises(ValueError, match=message):
        align_positions(activations, grid)
