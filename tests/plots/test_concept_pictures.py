"""Colours, heat maps and montages, without a network."""

from itertools import pairwise

import matplotlib.pyplot as plt
import numpy as np
import pytest
from skimage.color import rgb2lab
from xplique.concepts.craft import Sensitivity

from xplique_dirpairs.plots.concepts import (
    OVERLAID,
    draw_crop_rows,
    draw_image_concepts,
    draw_importances,
)
from xplique_dirpairs.plots.images import as_picture, concept_heatmap, draw_heatmap, montage
from xplique_dirpairs.plots.palette import (
    _DEUTERANOPIA,
    _PROTANOPIA,
    _as_seen,
    concept_colors,
    line_color,
)

VEIL = Sensitivity._get_alpha_cmap((0.0, 0.5, 1.0))


def test_fifty_concepts_have_fifty_colours_and_any_number_has_enough():
    colors = concept_colors(50)
    assert len(set(colors)) == 50 and colors[:5] == concept_colors(5)
    distances = np.linalg.norm(np.array(colors)[:, None] - np.array(colors), axis=-1)
    assert distances[~np.eye(50, dtype=bool)].min() > 0.05
    assert len(concept_colors(1000)) == 1000


def test_the_first_colour_is_far_from_the_next_four_to_every_eye():
    colors = np.array(concept_colors(5))
    for seen in (colors, _as_seen(colors, _PROTANOPIA), _as_seen(colors, _DEUTERANOPIA)):
        lab = rgb2lab(seen)
        assert np.linalg.norm(lab[1:] - lab[0], axis=1).min() > 50


def test_xpliques_colour_maps_leave_the_colours_as_they_are():
    for color in concept_colors(50):
        np.testing.assert_allclose(line_color(Sensitivity._get_alpha_cmap(color)), color, atol=1e-6)


@pytest.mark.parametrize("shape", [(64, 32), (32, 64)])
def test_a_map_of_an_image_that_is_not_square_is_not_turned(shape):
    concept_map = np.zeros((shape[0] // 8, shape[1] // 8))
    concept_map[0, -1] = 1  # top right
    heatmap = concept_heatmap(concept_map, shape)
    assert heatmap.shape == shape
    assert heatmap[: shape[0] // 2, shape[1] // 2 :].sum() > 0.99 * heatmap.sum()


def test_a_concept_in_one_cell_of_a_large_map_is_not_clipped_away():
    concept_map = np.zeros((14, 14))
    concept_map[5, 5] = 0.01
    assert concept_heatmap(concept_map, (224, 224)).max() == 1.0


def test_a_concept_everywhere_alike_is_shown_everywhere():
    np.testing.assert_allclose(concept_heatmap(np.full((4, 4), 0.2), (16, 16)), 1.0, rtol=1e-5)
    np.testing.assert_allclose(concept_heatmap(np.full((1, 1), 0.2), (16, 8)), 1.0, rtol=1e-5)


def test_only_cells_above_the_percentile_are_shown(rng):
    concept_map = rng.permutation(100).reshape(10, 10) + 1.0
    cells = concept_heatmap(concept_map, (10, 10), filter_percentile=90, clip_percentile=None)
    np.testing.assert_array_equal(cells > 0, concept_map > 90)


@pytest.mark.parametrize("level", [0.0, -1.0])
def test_what_is_nowhere_positive_paints_nothing(level):
    heatmap = concept_heatmap(np.full((4, 4), level), (16, 16))
    _, ax = plt.subplots()
    draw_heatmap(ax, heatmap, VEIL)
    assert not heatmap.any() and not ax.has_data()


def test_pictures_are_rgb_between_black_and_white(rng):
    grey = rng.integers(0, 256, (2, 4, 5, 1)).astype(np.uint8)
    picture = as_picture(grey)
    assert picture.shape == (2, 4, 5, 3)
    np.testing.assert_allclose(picture[..., 1:2], grey / 255, atol=1e-6)
    np.testing.assert_allclose(as_picture(2 * picture - 1, (-1, 1)), picture, atol=1e-6)
    np.testing.assert_array_equal(as_picture(0.5 * picture), 0.5 * picture)
    assert np.isfinite(as_picture(np.full((3, 3, 3), 7.0))).all()
    assert as_picture(rng.normal(size=(4, 5, 6))).shape == (4, 5, 3)


def test_a_montage_is_white_where_crops_are_missing(rng):
    crops = rng.uniform(0, 0.5, (3, 4, 6, 3))
    sheet = montage(crops, columns=2, rows=2, gap=1)
    assert sheet.shape == (9, 13, 3)
    np.testing.assert_allclose(sheet[5:, :6], crops[2], atol=1e-6)
    assert (sheet[5:, 7:] == 1).all() and (sheet[:, 6] == 1).all()


def test_a_concept_without_crops_says_so():
    crops = [np.zeros((2, 8, 8, 3)), np.zeros((0, 8, 8, 3))]
    figure = draw_crop_rows([4, 7], crops, np.array([0.5, 0.0]), concept_colors(2), nb_crops=5)
    first, second = figure.axes
    assert first.images and not first.texts
    assert not second.images and "not detected" in second.texts[0].get_text()
    assert [text.get_text() for text in figure.texts] == ["concept 4\n0.500", "concept 7\n0.000"]


@pytest.mark.parametrize("count", [3, 20, 50])
@pytest.mark.parametrize("width", [4, 12])
def test_labels_of_bars_do_not_overlap(count, width):
    figure, ax = plt.subplots(figsize=(width, 4), layout="constrained")
    draw_importances(ax, range(count), np.ones(count), concept_colors(count), "")
    figure.canvas.draw()
    boxes = [label.get_window_extent() for label in ax.get_xticklabels()]
    assert all(left.x1 <= right.x0 for left, right in pairwise(boxes))


@pytest.mark.parametrize("count", [5, 40])
def test_an_image_of_many_concepts_stays_readable(count, rng):
    figure = draw_image_concepts(
        rng.random((16, 16, 3)),
        rng.random((4, 4, count)),
        range(count),
        [rng.random((6, 8, 8, 3))] * count,
        rng.random(count),
        [Sensitivity._get_alpha_cmap(color) for color in concept_colors(count)],
        "title",
    )
    figure.canvas.draw()
    image, bars = figure.axes[0], figure.axes[-1]
    assert len(image.images) == 1 + min(count, OVERLAID)
    assert ("the first 8 of 40" in image.get_title()) == (count > OVERLAID)
    assert min(label.get_fontsize() for label in bars.get_xticklabels()) > 7
