"""Tests of the plots of labels and scores of concept detectors."""

import matplotlib.pyplot as plt
import numpy as np
import pytest

from xplique_dirpairs.metrics.interpretability import s1, s2

CONCEPTS = [("object", "house"), ("object", "tree"), ("colour", "red"), ("colour", "blue")]


def texts(figure):
    """Return all visible texts of a figure in one string."""
    figure.canvas.draw()
    return " ".join(t.get_text() for t in figure.findobj(plt.Text) if t.get_visible())


def test_labels_have_a_bar_of_their_number_of_detectors_and_a_point_per_detector(detector_plots):
    figure = detector_plots.plot_labels(
        [0.1, 0.3, 0.2, 0.4, np.nan, 0.0], [0, 0, 2, 3, 2, -1], CONCEPTS
    )
    left, right = figure.axes
    names = [t.get_text() for t in left.get_yticklabels()]
    assert names == ["house", "blue", "red"]  # by category, the label with the best detector first
    assert [bar.get_width() for bar in left.patches] == [2, 1, 2]
    points = [sorted(line.get_xdata()) for line in right.lines if line.get_marker() == "o"]
    assert points == [[0.1, 0.3], [0.4], [0.0, 0.2]]
    written = texts(figure)
    assert (
        "1 of 6 detectors without a label" in written
        and "colour" in written
        and "object" in written
    )


def test_bars_of_the_same_category_have_the_same_colour(detector_plots):
    left, _ = detector_plots.plot_labels([0.1, 0.2, 0.3], [0, 1, 2], CONCEPTS).axes
    colors = [bar.get_facecolor() for bar in left.patches]
    assert colors[0] == colors[1] != colors[2]


def test_only_the_best_labels_are_drawn_and_the_title_gives_their_number(detector_plots):
    figure = detector_plots.plot_labels(
        [0.1, 0.4, 0.2, 0.3], [0, 1, 2, 3], CONCEPTS, max_labels=2, title="mine"
    )
    assert [t.get_text() for t in figure.axes[0].get_yticklabels()] == ["tree", "blue"]
    assert "mine · the 2 best of 4 labels" in texts(figure)


def test_pictures_are_drawn_with_annotation_and_detection_and_dark_outside_of_them(detector_plots):
    pictures = np.full((2, 8, 8, 3), 0.75)
    truth, fires = np.zeros((2, 2, 8, 8), bool)
    truth[:, 2:5, 2:5] = True
    fires[1] = True
    figure = detector_plots.plot_best_detectors([pictures], [truth], [fires], ["sky"], "title")
    shown = [ax.images[0].get_array() for ax in figure.axes]
    assert len(shown) == 4
    np.testing.assert_array_equal(shown[0][..., 0] == 0.75, truth[0])
    np.testing.assert_array_equal(shown[1][..., 0] == 0.75, fires[0])
    np.testing.assert_array_equal(shown[2][..., 0] == 0.75, truth[1])
    np.testing.assert_array_equal(shown[3][..., 0] == 0.75, fires[1])
    assert [len(ax.collections) for ax in figure.axes] == [1, 0, 1, 0]
    assert "sky" in texts(figure) and "title" in texts(figure)


def test_a_detector_without_pictures_leaves_its_row_empty(detector_plots):
    one = np.zeros((1, 4, 4, 3))
    none = np.zeros((0, 4, 4))
    figure = detector_plots.plot_best_detectors(
        [one, one[:0]], [one[..., 0], none], [one[..., 0], none], ["a", "dead"]
    )
    assert len(figure.axes) == 2 and "dead" in texts(figure)


def test_the_area_under_a_curve_is_the_score(detector_plots):
    iou, labels = [0.1, 0.3, 0.2, 0.4, np.nan], [0, 0, 2, 3, -1]
    figure = detector_plots.plot_above(
        {"pairs": (iou, labels), "other": ([0.0, 0.1], [1, 1])}, "title"
    )
    for ax, area in zip(figure.axes, (s1(iou), s2(iou, labels)), strict=True):
        x, y = ax.lines[0].get_data()
        assert np.sum(np.diff(x) * y[:-1]) == pytest.approx(area)
        assert y[-1] == 0
        assert f"pairs ({area:.2f})" in [t.get_text() for t in ax.get_legend().get_texts()]


def test_invalid_arguments_are_refused(detector_plots):
    with pytest.raises(ValueError, match="one number for each detector"):
        detector_plots.plot_labels([0.1], [0, 1], CONCEPTS)
    with pytest.raises(ValueError, match="no detector has a label"):
        detector_plots.plot_labels([0.1], [-1], CONCEPTS)
    with pytest.raises(ValueError, match="of the same detectors"):
        detector_plots.plot_best_detectors([], [], [], [])
    with pytest.raises(ValueError, match="need masks and detections"):
        picture = np.zeros((1, 4, 4, 3))
        detector_plots.plot_best_detectors([picture], [picture], [picture], ["a"])
    with pytest.raises(ValueError, match="there is no extractor"):
        detector_plots.plot_above({})
