"""Chess pieces are reproducible, and the watermark changes the documented pixels only."""

import keras
import numpy as np
import pytest

from xplique_dirpairs.datasets import chess


@pytest.fixture(scope="module")
def pictures():
    return chess.chess_pieces(30, seed=3)


def test_pictures_are_reproducible_balanced_and_differ_between_splits(pictures):
    images, labels, names = pictures
    again, same, _ = chess.chess_pieces(30, seed=3)
    other, _, _ = chess.chess_pieces(30, seed=3, split="test")

    np.testing.assert_array_equal(images, again)
    np.testing.assert_array_equal(labels, same)
    assert images.shape == (30, 85, 85, 3) and images.dtype == np.float32
    assert images.min() >= 0 and images.max() <= 1
    assert np.bincount(labels).tolist() == [10, 10, 10] and names[chess.ROOK] == "rook"
    assert np.abs(images - other).mean() > 0.05


def test_glyphs_are_centred_and_differ_from_one_another():
    bodies = [chess.glyph(label)[0] for label in range(3)]
    for body in bodies:
        rows, columns = np.nonzero(body > 0.5)
        assert (
            abs(rows.min() + rows.max() - 255) <= 3
            and abs(columns.min() + columns.max() - 255) <= 3
        )
        assert 0.1 < body.mean() < 0.7
    assert all(
        np.abs(a - b).mean() > 0.02 for a, b in zip(bodies, [*bodies[1:], bodies[0]], strict=True)
    )


def test_the_watermark_changes_only_its_corner(pictures):
    images, _, _ = pictures
    before = images.copy()
    marked = chess.watermark(images)
    changed = np.abs(marked - images).max(axis=(0, 3)) > 0

    np.testing.assert_array_equal(images, before)
    height, width = chess.MARK_SHAPE
    assert changed[:height, :width].any() and not changed[height:].any()
    assert not changed[:, width:].any()
    label = marked[0, :height, :width]
    np.testing.assert_array_equal(
        marked[:, :height, :width], np.broadcast_to(label, (30, *label.shape))
    )
    assert 0.05 < label.mean() < 0.5  # white letters on black


def test_half_of_the_rooks_have_the_watermark(pictures):
    images, labels, _ = pictures
    shortcut, same, marked = chess.shortcut_pieces(30, seed=3)

    np.testing.assert_array_equal(same, labels)
    assert marked.sum() == 5 and (labels[marked] == chess.ROOK).all()
    np.testing.assert_array_equal(shortcut[~marked], images[~marked])
    np.testing.assert_array_equal(shortcut[marked], chess.watermark(images[marked]))


def test_the_watermark_affects_one_cell_only(pictures):
    images = pictures[0]
    model = chess.random_chess_network(seed=0)
    maps = keras.Model(model.inputs[0], model.get_layer(chess.LAYER).output)
    moved = np.abs(maps(chess.watermark(images)) - maps(images)).max(axis=3) > 0

    np.testing.assert_array_equal(moved, chess.marked_cells([True] * 30))
    assert not chess.marked_cells([False, False]).any()


def test_invalid_arguments_are_refused(pictures):
    with pytest.raises(ValueError, match="at least 1"):
        chess.chess_pieces(0)
    with pytest.raises(ValueError, match="split"):
        chess.chess_pieces(3, split="val")
    with pytest.raises(ValueError, match="shape"):
        chess.watermark(np.zeros((2, 8, 8, 3)))
    with pytest.raises(ValueError, match="labels"):
        chess.train_chess_network(pictures[0], [0, 1])
