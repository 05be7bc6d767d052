"""Tests of colours, heat maps, montages and plots of concepts, without a network."""

from itertools import pairwise

import matplotlib.pyplot as plt
import numpy as np
import pytest
from skimage.color import rgb2lab
from xplique.concepts.craft import Sensitivity

from xplique_dirpairs.plots.concepts import (
    OVERLAID,
    RankedConcept,
    draw_importances,
    plot_class_importances,
    plot_crop_rows,
    plot_image_concepts,
    plot_maximised,
)
from xplique_dirpairs.plots.images import as_picture, concept_heatmap, draw_heatmap, montage
from xplique_dirpairs.plots.palette import (
    COLOUR_BLINDNESS,
    as_seen,
    concept_colors,
    line_color,
    readable,
)


def xpliques_cmaps(colors):
    """Return the colour maps that Xplique creates from colours."""
    sensitivity = Sensitivity(np.ones(len(colors)), np.arange(len(colors)), cmaps=colors)
    return sensitivity.cmaps


VEIL = xpliques_cmaps([(0.0, 0.5, 1.0)])[0]


def test_fifty_concepts_have_distinct_colours_and_any_number_of_concepts_has_colours():
    colors = concept_colors(50)
    assert len(set(colors)) == 50 and colors[:5] == concept_colors(5)
    distances = np.linalg.norm(np.array(colors)[:, None] - np.array(colors), axis=-1)
    assert distances[~np.eye(50, dtype=bool)].min() > 0.05
    assert len(concept_colors(1000)) == 1000


def test_the_first_colour_differs_from_the_next_four_with_and_without_colour_blindness():
    colors = np.array(concept_colors(5))
    for seen in (colors, *(as_seen(colors, matrix) for matrix in COLOUR_BLINDNESS.values())):
        lab = rgb2lab(seen)
        assert np.linalg.norm(lab[1:] - lab[0], axis=1).min() > 50


def test_xpliques_colour_maps_do_not_change_the_colours():
    colors = concept_colors(50)
    for color, cmap in zip(colors, xpliques_cmaps(colors), strict=True):
        np.testing.assert_allclose(line_color(cmap), color, atol=1e-6)


@pytest.mark.parametrize("shape", [(64, 32), (32, 64)])
def test_a_heat_map_keeps_the_orientation_of_an_image_that_is_not_square(shape):
    concept_map = np.zeros((shape[0] // 8, shape[1] // 8))
    concept_map[0, -1] = 1  # top right
    heatmap = concept_heatmap(concept_map, shape)
    assert heatmap.shape == shape
    assert heatmap[: shape[0] // 2, shape[1] // 2 :].sum() > 0.99 * heatmap.sum()


def test_a_concept_in_one_cell_of_a_large_map_is_not_clipped_away():
    concept_map = np.zeros((14, 14))
    concept_map[5, 5] = 0.01
    assert concept_heatmap(concept_map, (224, 224)).max() == 1.0


def test_a_constant_concept_map_is_shown_everywhere():
    np.testing.assert_allclose(concept_heatmap(np.full((4, 4), 0.2), (16, 16)), 1.0, rtol=1e-5)
    np.testing.assert_allclose(concept_heatmap(np.full((1, 1), 0.2), (16, 8)), 1.0, rtol=1e-5)


def test_only_cells_above_the_percentile_are_shown(rng):
    concept_map = rng.permutation(100).reshape(10, 10) + 1.0
    cells = concept_heatmap(concept_map, (10, 10), filter_percentile=90, clip_percentile=None)
    np.testing.assert_array_equal(cells > 0, concept_map > 90)


@pytest.mark.parametrize("level", [0.0, -1.0])
def test_a_map_without_positive_values_draws_nothing(level):
    heatmap = concept_heatmap(np.full((4, 4), level), (16, 16))
    _, ax = plt.subplots()
    draw_heatmap(ax, heatmap, VEIL)
    assert not heatmap.any() and not ax.has_data()


def test_pictures_are_rgb_with_values_between_0_and_1(rng):
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


def test_the_row_of_a_concept_without_crops_has_a_note():
    concepts = [
        RankedConcept(4, 0.5, VEIL, np.zeros((2, 8, 8, 3))),
        RankedConcept(7, 0.0, VEIL, np.zeros((0, 8, 8, 3))),
    ]
    figure = plot_crop_rows(concepts, number_of_crops=5)
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
def test_a_plot_of_many_concepts_in_an_image_stays_readable(count, rng):
    picture, maps, crops = (
        rng.random((16, 16, 3)),
        rng.random((4, 4, count)),
        rng.random((6, 8, 8, 3)),
    )
    concepts = [
        RankedConcept(number, importance, cmap, crops)
        for number, (importance, cmap) in enumerate(
            zip(rng.random(count), xpliques_cmaps(concept_colors(count)), strict=True)
        )
    ]
    figure = plot_image_concepts(picture, maps, concepts, "title")
    figure.canvas.draw()
    image, bars = figure.axes[0], figure.axes[-1]
    assert len(image.images) == 1 + min(count, OVERLAID)
    assert ("the first 8 of 40" in image.get_title()) == (count > OVERLAID)
    assert min(label.get_fontsize() for label in bars.get_xticklabels()) > 7


# ------------------------------------------------------------------ optimised pictures


def texts(figure):
    """Return all texts of a figure that are not empty."""
    return [text.get_text() for text in figure.findobj(plt.Text) if text.get_text()]


def maximised(rng, count, crops=3, **options):
    """Return random pictures of ``count`` concepts, numbered from 5, and the plot of them."""
    pictures = {
        "filter": rng.uniform(size=(count, 8, 8, 3)),
        "signal": rng.uniform(size=(count, 8, 8, 3)),
    }
    best_crops = [rng.uniform(size=(crops, 4, 4, 3)) for _ in range(count)]
    return pictures, plot_maximised(
        pictures, best_crops, np.arange(count) + 5, limits=(0, 1), **options
    )


def test_a_row_holds_the_pictures_and_the_crops_of_its_concept(rng):
    pictures, figure = maximised(rng, 3, title="a title")
    assert len(figure.axes) == 3 * 3
    for k in range(3):
        first, second, sheet = figure.axes[3 * k : 3 * k + 3]
        np.testing.assert_allclose(first.images[0].get_array(), pictures["filter"][k], atol=1e-6)
        np.testing.assert_allclose(second.images[0].get_array(), pictures["signal"][k], atol=1e-6)
        assert len(sheet.images) == 1
    assert {"5", "6", "7", "filter", "signal", "best crops", "a title"} <= set(texts(figure))


def test_a_concept_without_crops_has_a_note_beside_its_pictures(rng):
    _, figure = maximised(rng, 2, crops=0)
    assert texts(figure).count("not detected in any crop") == 2


def test_a_concept_keeps_its_colour_when_only_some_are_drawn(rng):
    _, figure = maximised(rng, 3)
    assert [text.get_color() for text in figure.texts[:3]] == [
        readable(color) for color in concept_colors(8)[5:]
    ]


@pytest.mark.parametrize("count", [1, 10, 24])
def test_axes_do_not_overlap_or_leave_the_figure(rng, count):
    _, figure = maximised(rng, count)
    boxes = np.array([ax.get_position(original=True).extents for ax in figure.axes])
    assert (boxes > 0).all() and (boxes < 1).all()
    apart = (boxes[:, None, :2] >= boxes[None, :, 2:] - 1e-9).any(-1)
    assert (apart | apart.T | np.eye(len(boxes), dtype=bool)).all()


def test_every_concept_needs_pictures_and_crops(rng):
    pictures_of_two = {"filter": rng.uniform(size=(2, 8, 8, 3))}
    for pictures, crops, concepts in (
        (pictures_of_two, [], [0, 1]),
        (pictures_of_two, [np.zeros((0, 4, 4, 3))] * 3, [0, 1, 2]),
        ({}, [], []),
    ):
        with pytest.raises(ValueError, match="needs a picture and a set of crops"):
            plot_maximised(pictures, crops, concepts)


def test_cells_show_class_importances_with_the_most_important_concept_first(rng):
    importances = np.array([[0.22, 0.11, 0.33], [0.55, 0.44, 0.66]])
    effects = np.array([[1.0, 2.0, 3.0], [0.5, -0.5, -2.0]])
    crops = [rng.random((1, 12, 12, 3)), np.empty((0, 12, 12, 3)), rng.random((2, 12, 12, 3))]
    figure = plot_class_importances(
        importances, effects, ["left", "right"], crops, concept_colors(3), "title"
    )
    figure.canvas.draw()
    ax = figure.axes[0]
    shown = ax.images[0].get_array()
    np.testing.assert_allclose(shown[1], np.array([-0.66, 0.55, -0.44]) / 0.66)
    texts = {text.get_text() for text in figure.findobj(plt.Text)}
    assert {"+0.11", "+0.55", "−0.44", "left", "right"} <= texts
    assert len(ax.artists) == 2  # the best crops of the two concepts that have any
    box = ax.get_position()
    title = next(text for text in figure.texts if text.get_text() == "title")
    assert title.get_position()[0] == pytest.approx((box.x0 + box.x1) / 2, abs=1e-3)
