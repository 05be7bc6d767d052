"""Tests of the plots of a fit and of the choice of the number of concepts."""

import matplotlib.pyplot as plt
import numpy as np
import pytest

from xplique_dirpairs.learning.concept_scan import ConceptScan, ScannedNumber
from xplique_dirpairs.learning.number_of_concepts import SkewnessCount
from xplique_dirpairs.learning.recipe import LOSSES
from xplique_dirpairs.plots.learning import LOSS_NAMES, plot_learning


def scanned(number, stability):
    """Return a number of concepts with the given stability of its fits."""
    return ScannedNumber(
        number, 2, stability, stability, 0.5, 1.0, 0.0, 0.0, 0.01, 0.3, 2.0 + number, 1.0
    )


@pytest.fixture
def scan():
    failed = ScannedNumber(8, error="ValueError: no")
    return ConceptScan((scanned(4, 0.9), scanned(6, 1.0), scanned(7, 0.8), failed))


@pytest.fixture
def count():
    skewnesses = np.r_[np.full(6, 0.8), np.full(4, 0.01)]
    return SkewnessCount(6, "six of them", skewnesses, np.full(10, 0.01), 0.1)


def texts(figure):
    """Return all visible texts of a figure."""
    figure.canvas.draw()
    return [t.get_text() for t in figure.findobj(plt.Text) if t.get_text() and t.get_visible()]


def test_fitted_numbers_are_drawn_as_points_and_failed_ones_are_labelled(scan):
    figure = scan.plot()
    assert len(figure.axes) == 6
    for ax in figure.axes:
        curves = [line for line in ax.lines if line.get_marker() == "o"]
        assert curves
        for line in curves:
            assert list(line.get_xdata()) == [4, 6, 7]
        assert "failed" in [t.get_text() for t in ax.texts]
    np.testing.assert_allclose(figure.axes[0].lines[1].get_ydata(), [0.9, 1.0, 0.8])


def test_the_suggested_number_is_marked_and_given_in_the_title(scan, count):
    assert scan.suggested == 6
    figure = scan.plot(count, "a title")
    title = figure.get_suptitle()
    assert title.startswith("a title") and "scan: 6" in title and "skewness: 6" in title
    skewness, *panels = figure.axes
    assert "6" in [t.get_text() for t in skewness.texts]
    assert all(6 in ax.lines[0].get_xdata() for ax in panels)


def test_the_title_says_that_the_number_cannot_be_determined(count):
    scan = ConceptScan((scanned(4, 0.5), scanned(6, 0.5)))
    unclear = SkewnessCount(None, "no gap", count.skewnesses, count.errors)
    title = scan.plot(unclear).get_suptitle()
    assert title.count("cannot tell") == 2 and "no gap" in title


def test_a_skewness_count_without_a_scan_is_one_panel(count):
    figure = count.plot()
    (ax,) = figure.axes
    np.testing.assert_array_equal(ax.lines[0].get_ydata(), count.skewnesses)


def test_an_empty_skewness_count_and_a_failed_scan_can_be_drawn():
    empty = SkewnessCount(None, "too few images", np.zeros(0), np.zeros(0))
    scan = ConceptScan((ScannedNumber(3, error="ValueError: no"),))
    assert "too few images" in " ".join(texts(scan.plot(empty)))


# ------------------------------------------------------------------ course of the learning


def test_plot_learning_draws_a_panel_for_each_stage_and_a_line_for_each_loss():
    stages = {"a": {"s": [3.0, 2.0], "objective": [1.0, -1.0]}, "d": {"s": [2.0]}}
    figure = plot_learning(stages, "title")
    assert [len(ax.lines) for ax in figure.axes] == [2, 1]
    np.testing.assert_array_equal(figure.axes[0].lines[0].get_ydata(), [3.0, 2.0])
    assert {"s: sparsity", "objective: weighted sum plus penalty"} <= set(texts(figure))


def test_a_loss_that_decreases_linearly_through_zero_is_drawn_as_a_straight_line():
    figure = plot_learning({"a": {"objective": np.linspace(1, -1, 21).tolist()}}, "title")
    line = figure.axes[0].lines[0]
    heights = np.diff(line.get_transform().transform(line.get_xydata())[:, 1])
    np.testing.assert_allclose(heights, heights[0], rtol=1e-3)


def test_every_loss_has_a_name():
    assert set(LOSS_NAMES) == {*LOSSES, "objective"}
