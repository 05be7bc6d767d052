"""Tests of the correction report: its counts agree with counts by hand."""

import keras
import numpy as np
import pytest

from xplique_dirpairs.interventions.correction_report import report_correction

SHAPE = (2, 2, 3)


def first_pixel(ends_in=None):
    """Return a classifier whose logits are the first pixel."""
    inputs = keras.Input(SHAPE)
    outputs = inputs[:, 0, 0]
    return keras.Model(inputs, keras.layers.Activation(ends_in)(outputs) if ends_in else outputs)


def swapped():
    """Return the same classifier with classes 0 and 1 swapped."""
    inputs = keras.Input(SHAPE)
    dense = keras.layers.Dense(3, use_bias=False)
    outputs = dense(inputs[:, 0, 0])
    dense.set_weights([np.eye(3, dtype=np.float32)[[1, 0, 2]]])
    return keras.Model(inputs, outputs)


@pytest.fixture
def pictures(rng):
    return rng.normal(size=(40, *SHAPE)).astype(np.float32), rng.integers(3, size=40)


def test_accuracies_confusions_and_changes_are_counts(pictures):
    images, labels = pictures
    group = report_correction(first_pixel(), swapped(), {"all": pictures}).groups["all"]
    predicted = images[:, 0, 0].argmax(axis=1)
    now = np.array([1, 0, 2])[predicted]

    assert group.accuracies == pytest.approx(((predicted == labels).mean(), (now == labels).mean()))
    for matrix, classes in zip(group.confusions, (predicted, now), strict=True):
        for i, j in np.ndindex(3, 3):
            assert matrix[i, j] == ((labels == i) & (classes == j)).sum()
    assert group.fixed == ((predicted != labels) & (now == labels)).sum() > 0
    assert group.broken == ((predicted == labels) & (now != labels)).sum() > 0
    assert group.changed == (predicted != 2).sum()
    p = np.exp(images[:, 0, 0]) / np.exp(images[:, 0, 0]).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(group.moved, np.abs(p[:, 0] - p[:, 1]), atol=1e-6)


def test_the_same_model_changes_nothing_and_a_softmax_is_not_applied_twice(pictures):
    group = report_correction(first_pixel(), first_pixel("softmax"), {"all": pictures}).groups[
        "all"
    ]

    assert group.fixed == group.broken == group.changed == 0
    assert group.moved.max() < 1e-6


@pytest.mark.parametrize("ends_in", [None, "sigmoid"])
def test_one_output_is_a_no_and_a_yes(pictures, ends_in):
    def one_output(sign):
        inputs = keras.Input(SHAPE)
        dense = keras.layers.Dense(1, use_bias=False, activation=ends_in)
        outputs = dense(inputs[:, 0, 0])
        dense.set_weights([np.array([[sign], [0.0], [0.0]], np.float32)])
        return keras.Model(inputs, outputs)

    images, labels = pictures[0], (pictures[1] > 0).astype(int)
    group = report_correction(one_output(1.0), one_output(-1.0), {"all": (images, labels)}).groups[
        "all"
    ]
    predicted = (images[:, 0, 0, 0] > 0).astype(int)

    assert group.accuracies == pytest.approx(
        ((predicted == labels).mean(), (predicted != labels).mean())
    )
    assert group.changed == len(images)
    yes = 1 / (1 + np.exp(-images[:, 0, 0, 0]))
    np.testing.assert_allclose(group.moved, np.abs(2 * yes - 1), atol=1e-6)


def test_the_table_has_a_row_for_all_images_of_several_groups(pictures):
    images, labels = pictures
    parts = {"a": (images[:10], labels[:10]), "b": (images[10:], labels[10:])}
    table = report_correction(first_pixel(), swapped(), parts).table()
    whole = report_correction(first_pixel(), swapped(), {"all of them": pictures}).table()

    assert [row[0].text for row in table.rows] == ["a", "b", "all of them"]
    assert [cell.text for cell in table.rows[-1]] == [cell.text for cell in whole.rows[0]]


def test_the_figure_has_two_matrices_for_each_group(pictures):
    report = report_correction(
        first_pixel(), swapped(), {"clean": pictures, "marked": pictures}, ["a", "b", "$c"]
    )
    figure = report.plot()

    assert len(figure.axes) == 4
    assert figure.axes[0].get_title().startswith("clean\nbefore")
    shown = [text.get_text() for text in figure.axes[3].texts]
    assert shown == [str(n) for n in report.groups["marked"].confusions[1].ravel()]
    assert len(report.plot(["marked"]).axes) == 2


@pytest.mark.parametrize(
    ("groups", "names", "message"),
    [
        ({}, None, "at least one group"),
        ({"a": 3}, None, "images, labels"),
        ({"a": (np.zeros((2, *SHAPE)), [0, 1, 2])}, None, "one for each of 2 images"),
        ({"a": (np.zeros((2, *SHAPE)), [0, 5])}, None, "classes 0 to 2"),
        ({"a": (np.zeros((2, *SHAPE)), [0, 1])}, ["x"], "must be 3 names, one for each"),
    ],
)
def test_invalid_arguments_are_refused(groups, names, message):
    with pytest.raises(ValueError, match=message):
        report_correction(first_pixel(), first_pixel(), groups, names)
