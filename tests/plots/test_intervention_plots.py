"""Plots and tables of counterfactuals and corrections show the given values without overlaps."""

from dataclasses import replace
from itertools import combinations, pairwise

import numpy as np
import pytest

from xplique_dirpairs.interventions.counterfactual_result import Counterfactual, Counterfactuals
from xplique_dirpairs.interventions.distance import Distances
from xplique_dirpairs.interventions.moved_features import CoefficientRange
from xplique_dirpairs.plots.interventions import plot_correction


def distances(positions, image):
    """Return `Distances` with the given distances of positions and of the image."""
    values = np.atleast_1d(np.asarray(positions, float)), np.atleast_1d(np.asarray(image, float))
    return Distances(*values, *(50.0 * np.ones(len(v)) for v in values))


def counterfactual_of(count=3, image=True, status="changed", spatial=(4, 5)):
    """Return a counterfactual in which ``count`` concepts were moved."""
    rng = np.random.default_rng(count)
    after = np.linspace(0, 1, 21)
    probabilities = np.stack([1 - 0.6 * after, 0.2 * after, 0.4 * after], axis=1)
    before, later = rng.uniform(0, 1, count), rng.uniform(0, 1, count)
    return Counterfactual(
        status=status,
        before=0,
        after=2 if status == "changed" else 0,
        concepts=np.arange(count),
        means_before=before,
        means_after=later,
        range_of_means=np.stack([np.zeros(count), np.ones(count)]),
        words=tuple("raised" if b < a else "lowered" for b, a in zip(before, later, strict=True)),
        maps_before=rng.uniform(size=(*spatial, count)),
        maps_after=rng.uniform(size=(*spatial, count)),
        path=after,
        probabilities=probabilities,
        changed=0.25,
        distances_before=distances(0.7, 1.0),
        distances_after=distances(0.8, 3.0),
        training_distances=distances(rng.uniform(0.5, 1, 50), rng.uniform(1, 2, 50)),
        image=rng.uniform(size=(16, 20, 3)) if image else None,
        class_names=["a class with a very long name that is cut", "b $5", "c"],
        concept_names=[f"concept {i}" for i in range(count)],
    )


def panel(figure, label):
    """Return the axes with a given x label."""
    return next(ax for ax in figure.axes if ax.get_xlabel() == label)


def texts(figure):
    """Return the labels of all y axes."""
    figure.canvas.draw()
    return [t for ax in figure.axes for t in ax.get_yticklabels() if t.get_text()]


@pytest.mark.parametrize("count", [1, 3, 50])
def test_every_moved_concept_is_named_and_names_do_not_overlap(count):
    figure = counterfactual_of(count).plot()
    labels = [t for t in texts(figure) if t.get_text().startswith("concept")]
    assert len(labels) == count
    boxes = sorted(t.get_window_extent().bounds[1::2] for t in labels)
    for (y, height), (above, _) in pairwise(boxes):
        assert y + height <= above + 0.5


@pytest.mark.parametrize("options", [{"image": False}, {"spatial": ()}])
def test_a_counterfactual_without_image_or_positions_is_drawn(options):
    figure = counterfactual_of(**options).plot("a title")
    assert figure.get_suptitle() == "a title"
    figure.canvas.draw()


def test_the_title_says_that_no_counterfactual_was_found():
    assert "not found" in counterfactual_of(status="not found").plot().get_suptitle()


def test_a_note_says_that_no_concept_was_moved():
    figure = counterfactual_of(0, status="already the target").plot()
    assert any("no concept was moved" in t.get_text() for ax in figure.axes for t in ax.texts)


def test_the_path_shows_the_probabilities_of_the_classes_before_and_after():
    counterfactual = counterfactual_of()
    ax = panel(counterfactual.plot(), "share of the move, %")
    lines = ax.get_lines()
    np.testing.assert_allclose(lines[0].get_ydata(), counterfactual.probabilities[:, 0])
    np.testing.assert_allclose(lines[1].get_ydata(), counterfactual.probabilities[:, 2])
    assert lines[0].get_label().endswith("…")


def test_arrows_point_from_the_amounts_before_to_those_after():
    counterfactual = counterfactual_of(4)
    ax = panel(counterfactual.plot(), "amount in the image, relative to training images")
    arrows = [t for t in ax.texts if t.arrow_patch is not None]
    np.testing.assert_allclose([t.xy[0] for t in arrows], counterfactual.means_after)
    np.testing.assert_allclose([t.xyann[0] for t in arrows], counterfactual.means_before)


def test_distances_are_in_units_of_the_99th_percentile():
    counterfactual = counterfactual_of()
    ax = panel(counterfactual.plot(), "1: 99th percentile of training images")
    limit = np.quantile(counterfactual.training_distances.image, 0.99)
    drawn = [line.get_xdata()[0] for line in ax.get_lines() if len(line.get_xdata()) == 1]
    assert drawn[-1] == pytest.approx(3.0 / limit)
    training_image = replace(counterfactual, distances_before=distances(0.0, 0.0))
    ax = panel(training_image.plot(), "1: 99th percentile of training images")
    assert ax.get_xlim()[0] < 0  # a mark at 0 is not cut in half


# ------------------------------------------------------------------ counterfactuals of many images


class Layer:
    concept_names = ("0", "1", "2")


class Moved:
    bounds = CoefficientRange(np.zeros(3), np.ones(3), np.zeros(3), np.full(3, 2.0))


def counterfactuals(status):
    """Return counterfactuals of several images, one for each status."""
    status = np.array(status)
    n = len(status)
    after = np.zeros((n, 3))
    after[:, 1] = np.arange(n)
    return Counterfactuals(
        concepts=Layer(), class_names=("a", "b", "c"), moved=Moved(),
        activations=np.zeros((n, 2)), images=None, status=status,
        before=np.arange(n) % 2, after=np.full(n, 2), shifts=after.copy(),
        means_before=np.zeros((n, 3)), means_after=after, changed=np.full(n, 0.1),
        distances_before=distances(np.ones(n), np.ones(n)),
        distances_after=distances(np.ones(n), np.ones(n)),
        training_distances=distances(np.ones(n), np.ones(n)), stay_within=99.0,
    )  # fmt: skip


def test_moves_are_means_over_images_whose_prediction_changed():
    counterfactual = counterfactuals(["changed"] * 5 + ["not found"])
    ax = counterfactual.plot_moves().axes[0]
    assert [t.get_text() for t in ax.get_yticklabels()] == ["a → c (3)", "b → c (2)"]
    assert [t.get_text() for t in ax.get_xticklabels()] == ["1"]
    np.testing.assert_allclose(ax.images[0].get_array(), [[1.0], [1.0]])


def test_the_title_counts_the_changes_of_prediction_that_are_left_out():
    figure = counterfactuals(["changed"] * 4).plot_moves(at_most=1)
    assert "1 most frequent of 2" in figure.axes[0].get_title()


def test_moves_cannot_be_drawn_if_no_prediction_changed():
    with pytest.raises(ValueError, match="no prediction was changed"):
        counterfactuals(["not found"] * 3).plot_moves()


def test_the_table_reports_changed_predictions_and_rows_left_out():
    text = str(counterfactuals(["changed", "not found", "already the target"]).table(2))
    assert "1 of 2 predictions changed" in text
    assert "1 not found within the limits" in text
    assert "The first 2 of 3 images" in text
    assert "0 −" not in text and "1 +" in text


# ------------------------------------------------------------------ corrections


@pytest.mark.parametrize("names", [["a", "b", "c"], ["a class of digits", "another", "$x$" * 30]])
@pytest.mark.parametrize("classes", [2, 12, 30])
def test_names_of_classes_do_not_overlap(names, classes):
    counts = np.eye(classes, dtype=int)
    names = [names[k % 3] for k in range(classes)]
    figure = plot_correction({"all": (counts, counts)}, names)
    figure.canvas.draw()
    for ax in figure.axes:
        for labels in (ax.get_xticklabels(), ax.get_yticklabels()):
            boxes = [label.get_window_extent() for label in labels]
            assert len(boxes) == classes
            assert not any(a.overlaps(b) for a, b in combinations(boxes, 2))
