from dataclasses import replace

import matplotlib.pyplot as plt
import numpy as np
import pytest
from planted_graph import its_connectome, planted_network

from xplique_dirpairs.connectome.suppression import suppression_test
from xplique_dirpairs.datasets.planted_connectome import LOWER, UPPER
from xplique_dirpairs.extractors.concept_layer import ConceptLayer
from xplique_dirpairs.models.segment import segment_model
from xplique_dirpairs.models.split import split_model


@pytest.fixture(scope="module")
def tested():
    return suppression_test(its_connectome(), planted_network().images[::2], verbose=0)


def test_measured_changes_are_those_of_a_slow_second_writing(tested):
    planted, images = planted_network(), planted_network().images[::2]
    segment = segment_model(planted.model, LOWER, UPPER)
    lower, upper = (
        ConceptLayer.of(pairs, split_model(planted.model, name))
        for name, pairs in ((LOWER, planted.lower), (UPPER, planted.upper))
    )
    u = lower.coefficients(images)
    before = upper.coefficients(np.asarray(segment(images))).mean(axis=(1, 2))
    for c in range(8):
        moved = images - u[..., [c]] * lower.bank[c]
        after = upper.coefficients(np.asarray(segment(moved))).mean(axis=(1, 2))
        expected = (after - before).mean(axis=0) / before.std(axis=0)
        np.testing.assert_allclose(tested.measured[0][c], expected, atol=1e-4)


def test_predicted_and_measured_changes_agree(tested):
    assert (tested.correlations >= 0.7).all()
    assert tested.correlations[1] >= 0.99  # the head is linear
    planted = planted_network()
    present = np.sign(np.round(tested.measured[0], 2))
    assert (present[planted.edges == 1] <= 0).all()
    assert (present[planted.edges == -1] >= 0).all()


def test_other_predictions_can_be_compared(tested):
    opposite = tuple(-each for each in tested.predicted)
    np.testing.assert_allclose(tested.correlations_with(opposite), -tested.correlations)
    constant = tuple(np.zeros_like(each) for each in tested.predicted)
    assert np.isnan(tested.correlations_with(constant)).all()


def test_other_predictions_must_have_the_shapes_of_the_changes(tested):
    for wrong in (tested.predicted[:1], tuple(each.T for each in tested.predicted)):
        with pytest.raises(ValueError, match=r"must have the shapes \[\(8, 6\), \(6, 3\)\]"):
            tested.correlations_with(wrong)


def test_the_table_says_why_there_is_no_correlation(tested):
    assert "no correlation" not in str(tested)
    steps = replace(tested, predicted=(np.zeros((8, 6)), tested.predicted[1]))
    assert "lower: no correlation, because the predicted changes" in str(steps)
    assert "K-Means" in str(steps)
    nothing = replace(tested, measured=(tested.measured[0], np.full((6, 3), np.nan)))
    assert "upper: no correlation, because the measured changes" in str(nothing)
    assert "K-Means" not in str(nothing)


def test_table_and_plot(tested):
    assert [row[1].text for row in tested.table().rows] == ["48", "18"]
    figure = tested.plot()
    assert len(figure.axes) == 2
    plt.close(figure)


def test_a_connectome_without_its_network_is_refused():
    alone = replace(its_connectome(), concept_layers=None)
    with pytest.raises(ValueError, match="network is needed"):
        suppression_test(alone, planted_network().images)


def test_bad_arguments_are_refused():
    images = planted_network().images
    with pytest.raises(ValueError, match="images must be at least 2"):
        suppression_test(its_connectome(), images[:1])
    with pytest.raises(TypeError, match="connectome must be Connectome"):
        suppression_test(images, images)
