from itertools import combinations, pairwise

import matplotlib.pyplot as plt
import numpy as np
import pytest

from xplique_dirpairs.plots.extractor_views import (
    ExtractorView,
    counterparts,
    paired_colors,
    plot_class_importances,
    plot_concepts,
    plot_detections,
    plot_importances,
    plot_maps,
    plot_pictures,
)
from xplique_dirpairs.plots.palette import concept_colors

IMAGES, CROPS, CONCEPTS = 5, 4, 3


@pytest.fixture
def view(rng):
    return ExtractorView(
        name="some method",
        crops=rng.random((IMAGES * CROPS, 12, 12, 3)),
        crops_u=rng.random((IMAGES * CROPS, CONCEPTS)),
        number_of_images=IMAGES,
        importances=np.array([0.1, 0.7, 0.2]),
        maps=rng.random((2, 4, 4, CONCEPTS)),
        colors=concept_colors(CONCEPTS),
    )


def texts(figure):
    figure.canvas.draw()
    return [t.get_text() for t in figure.findobj(plt.Text) if t.get_text() and t.get_visible()]


# ------------------------------------------------------------------ arrays


def test_counterparts_undo_a_permutation_whatever_the_scale(rng):
    maps = rng.random((3, 4, 4, 5))
    order = rng.permutation(5)
    partners, correlations = counterparts(maps, 2.0 + 3.0 * maps[..., order])
    np.testing.assert_array_equal(order[partners], range(5))
    np.testing.assert_allclose(correlations, 1.0)


def test_counterparts_of_more_concepts_than_there_are_is_an_error(rng):
    with pytest.raises(ValueError, match="at least the 4 concepts of maps, not 3"):
        counterparts(rng.random((2, 4, 4, 4)), rng.random((2, 4, 4, 3)))


def test_counterparts_are_one_to_one_and_a_constant_map_agrees_with_none(rng):
    maps = rng.random((3, 4, 4, 3))
    maps[..., 0] = 0.0
    partners, correlations = counterparts(maps, rng.random((3, 4, 4, 3)))
    assert sorted(partners) == [0, 1, 2]
    assert correlations[0] == 0.0
    assert np.abs(correlations).max() < 1.0


def test_concepts_that_agree_share_a_colour_and_no_others():
    given = np.arange(18.0).reshape(6, 3)
    ours, theirs = paired_colors(given, np.array([1, 2, 0]), np.array([0.5, 0.2, 0.3]))
    np.testing.assert_array_equal(ours, given[:3])
    np.testing.assert_array_equal(theirs[[1, 2, 0]], given[[0, 4, 2]])


def test_best_crops_are_the_best_of_each_image_best_first(view):
    values = view.crops_u[:, 2].reshape(IMAGES, CROPS)
    best = [i * CROPS + values[i].argmax() for i in np.argsort(-values.max(axis=1))]
    np.testing.assert_array_equal(view.best_crops(2, 3), view.crops[best[:3]])


def test_a_concept_that_is_nowhere_has_no_crops(view):
    view.crops_u[:, 1] = 0.0
    assert len(view.best_crops(1, 4)) == 0


def test_ranked_is_most_important_first(view):
    np.testing.assert_array_equal(view.ranked, [1, 2, 0])


# ------------------------------------------------------------------ figures


def test_concepts_name_method_importance_and_counterpart(view):
    view.crops_u[:, 0] = 0.0
    figure = plot_concepts(view, view, np.array([1, 2, 0]), np.array([0.5, 0.25, 0.75]), "title")
    found = texts(figure)
    assert found.count("some method") == 2
    assert found.count("concept 1\n0.700") == 2
    likes = {text for text in found if text.startswith("like")}
    of_the_right = {"like 1: r = 0.50", "like none", "like 0: r = 0.75"}
    of_the_left = {"like 2: r = 0.75", "like 0: r = 0.50", "like none"}
    assert likes == of_the_right | of_the_left
    assert found.count("not detected in any crop") == 2


def test_maps_light_a_concept_where_it_is_and_leave_nothing_lit_elsewhere(view):
    maps = np.zeros((1, 4, 4, CONCEPTS))
    maps[0, 0, 0, 1] = 5.0
    picture = np.full((1, 16, 16, 3), 0.8)
    figure = plot_maps(picture, [ExtractorView(**{**vars(view), "maps": maps})], "t", 2)
    lit, dark = (ax.images[0].get_array() for ax in figure.axes[1:3])
    assert lit[1, 1].min() > 0.7
    assert lit[-1, -1].max() < 0.3
    assert dark.max() < 0.3


def test_headings_of_two_concepts_do_not_touch(view):
    two = ExtractorView(**{**vars(view), "importances": view.importances[:2]})
    figure = plot_maps(np.zeros((2, 16, 16, 3)), [two, two], "title")
    figure.canvas.draw()
    headings = [text for text in figure.texts if text.get_text() != "title"]
    boxes = [text.get_window_extent() for text in headings]
    assert len(boxes) == 4
    assert not any(a.overlaps(b) for a, b in combinations(boxes, 2))
    columns = [ax.get_window_extent() for ax in figure.axes if ax.get_title().startswith("con")]
    assert boxes[0].x0 >= columns[0].x0 and boxes[2].x1 <= columns[-1].x1


def test_labels_of_importances_do_not_touch(view):
    view.importances[:] = [0.165, 0.01, 0.0]
    figure = plot_importances([view, view], "title")
    figure.canvas.draw()
    for ax in figure.axes:
        boxes = [label.get_window_extent() for label in ax.get_xticklabels()]
        assert len(boxes) <= 6
        assert all(left.x1 + 5 < right.x0 for left, right in pairwise(boxes))


def test_titles_are_centred_on_the_axes(view, rng):
    for figure in (
        plot_pictures(rng.random((2, 8, 8, 3)), np.array([0, 1]), ["few", "many"], "title"),
        plot_importances([view, view], "title"),
        plot_class_importances(rng.random((2, CONCEPTS)), ["left", "right"], view, "title"),
    ):
        boxes = [ax.get_position() for ax in figure.axes]
        middle = (min(box.x0 for box in boxes) + max(box.x1 for box in boxes)) / 2
        title = next(text for text in figure.texts if text.get_text() == "title")
        assert title.get_position()[0] == pytest.approx(middle, abs=1e-3)


def test_importances_are_bars_most_important_on_top(view):
    figure = plot_importances([view, view], "title")
    for ax in figure.axes:
        widths = [bar.get_width() for bar in ax.patches]
        np.testing.assert_allclose(widths, [0.7, 0.2, 0.1])
        assert [t.get_text() for t in ax.get_yticklabels()] == ["1", "2", "0"]
        assert ax.yaxis_inverted()


def test_detections_outline_what_is_detected_and_nothing_else(view, rng):
    detections = np.zeros((2, 4, 4, CONCEPTS))
    detections[1, :2, :2, 1] = 0.9
    figure = plot_detections(rng.random((2, 16, 16, 3)), detections, view, "title", columns=2)
    nothing, something = figure.axes[:2]
    assert not nothing.collections
    assert something.collections
    assert "numbers: importance" in texts(figure)


def test_class_importances_are_written_in_their_cells(view):
    importances = np.array([[0.11, 0.22, 0.33], [0.44, 0.55, 0.66]])
    figure = plot_class_importances(importances, ["left", "right"], view, "title")
    shown = figure.axes[0].images[0].get_array()
    np.testing.assert_allclose(shown[1], importances[1, [1, 2, 0]] / 0.66)
    assert {"0.11", "0.55", "left", "right"} <= set(texts(figure))


def test_pictures_stand_in_the_row_of_their_class(rng):
    pictures = rng.random((4, 8, 8, 3))
    figure = plot_pictures(pictures, np.array([0, 1, 1, 1]), ["few", "many"], "title", per_class=3)
    assert [len(ax.images) for ax in figure.axes] == [1, 0, 0, 1, 1, 1]
    np.testing.assert_array_equal(figure.axes[5].images[0].get_array(), pictures[3])
