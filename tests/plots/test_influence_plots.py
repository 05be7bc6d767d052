import itertools

import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.collections import PolyCollection

from xplique_dirpairs.plots.influence import plot_influence, plot_influence_counts


def problem(concepts, classes, seed=0):
    rng = np.random.default_rng(seed)
    return rng.uniform(-1, 1, (concepts, classes)), rng.random((concepts, classes)) < 0.3


def squares(figure):
    found = [c for c in figure.axes[0].collections if isinstance(c, PolyCollection)]
    return next(c for c in found if c.get_array() is not None)


def sides(collection):
    return np.array([np.ptp(path.vertices[:, 0]) for path in collection.get_paths()])


def labels_of(axis):
    return [label.get_text() for label in axis.get_ticklabels()]


@pytest.mark.parametrize(("concepts", "classes"), [(25, 5), (50, 100), (1, 1)])
def test_every_value_is_a_square_that_is_large_where_it_is_significant(concepts, classes):
    values, significant = problem(concepts, classes)
    figure = plot_influence(values, significant)
    drawn = squares(figure)
    np.testing.assert_allclose(np.sort(drawn.get_array()), np.sort(values.ravel()))
    large = sides(drawn) > 0.5
    np.testing.assert_array_equal(large, significant.T.ravel())  # rows are classes
    ax = figure.axes[0]
    assert labels_of(ax.yaxis) == [str(k) for k in range(classes)]
    assert labels_of(ax.xaxis) == [str(i) for i in range(concepts)]
    assert min(label.get_fontsize() for label in ax.get_yticklabels()) >= 5


def test_labels_of_a_large_diagram_do_not_overlap_and_nothing_leaves_the_figure():
    names = [f"class number {k}" for k in range(100)]
    concepts = [f"concept {i}" for i in range(50)]
    figure = plot_influence(*problem(50, 100), names, concepts, title="a title")
    renderer = figure.canvas.get_renderer()
    figure.draw_without_rendering()
    for axis in (figure.axes[0].yaxis, figure.axes[0].xaxis):
        boxes = [label.get_window_extent(renderer) for label in axis.get_ticklabels()]
        for a, b in itertools.pairwise(boxes):
            assert not a.overlaps(b)
    for text in figure.findobj(plt.Text):
        if text.get_text() and text.get_visible():
            box = text.get_window_extent(renderer)
            assert figure.bbox.x0 <= box.x0 and box.x1 <= figure.bbox.x1, text.get_text()
            assert figure.bbox.y0 <= box.y0 and box.y1 <= figure.bbox.y1, text.get_text()


def test_classes_without_images_are_left_out_and_counted():
    values, significant = problem(4, 6)
    values[:, [1, 4]] = np.nan
    figure = plot_influence(values, significant, list("abcdef"))
    assert labels_of(figure.axes[0].yaxis) == list("acdf")
    assert "left out: 2" in figure.get_suptitle()


def test_red_helps_and_blue_hurts():
    figure = plot_influence([[1.0, -1.0]], [[True, True]])
    figure.draw_without_rendering()
    helps, hurts = squares(figure).get_facecolors()
    assert helps[0] > helps[2] and hurts[2] > hurts[0]


def test_bars_are_counts_of_significant_signs():
    values, significant = problem(30, 8)
    figure = plot_influence_counts(values, significant, at_most=50)
    for ax, axis, panel in zip(figure.axes, (1, 0), ("directions", "classes"), strict=True):
        helps, hurts = (significant & (s * values > 0) for s in (1, -1))
        widths = {
            kind: {
                name: bar.get_width()
                for name, bar in zip(labels_of(ax.yaxis), container, strict=True)
            }
            for kind, container in zip(("helps", "hurts"), ax.containers, strict=True)
        }
        for name, count in widths["helps"].items():
            assert count == helps.sum(axis=axis)[int(name)]
        for name, count in widths["hurts"].items():
            assert -count == hurts.sum(axis=axis)[int(name)]
        moved = int(significant.any(axis=axis).sum())
        assert len(widths["helps"]) == moved
        assert ax.get_title().startswith(f"{moved} of {significant.shape[1 - axis]} {panel}")


def test_bars_left_out_are_said_and_nothing_significant_can_be_drawn():
    values, significant = problem(30, 8)
    assert (
        "the first 5 shown"
        in plot_influence_counts(values, significant, at_most=5).axes[0].get_title()
    )
    empty = plot_influence_counts(values, significant & False)
    assert empty.axes[0].get_title().startswith("0 of 30")


def test_what_cannot_be_drawn_is_refused():
    values, significant = problem(3, 2)
    with pytest.raises(ValueError, match="both be"):
        plot_influence(values, significant.T)
    with pytest.raises(ValueError, match="class_names must be 2 names, not 1"):
        plot_influence(values, significant, ["a"])
    with pytest.raises(ValueError, match="no class has images"):
        plot_influence(values * np.nan, significant)
