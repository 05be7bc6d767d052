import csv

import numpy as np
import pytest
from conftest import make_pairs

from xplique_dirpairs.maximisation.firing_report import measure_firing
from xplique_dirpairs.metrics.firing import firing


@pytest.fixture
def network(halves):
    return halves("conv_gap")[0]


def test_the_report_is_of_the_features_the_network_makes(network, images):
    pictures, pairs = images("conv_gap", 5), make_pairs(8, 4)
    concepts = [3, 0, 0, 1, 2]
    report = measure_firing(network, -1, pairs, pictures, concepts, batch_size=2)
    wanted = firing(
        pairs.project(network.predict_on_batch(pictures)) - pairs.biases, np.array(concepts)
    )
    for name in wanted.__dataclass_fields__:
        np.testing.assert_allclose(
            getattr(report.firing, name), getattr(wanted, name), rtol=1e-5, atol=1e-6
        )


def test_without_concepts_image_k_is_of_concept_k(network, images):
    pictures, pairs = images("conv_gap", 4), make_pairs(8, 4)
    report = measure_firing(network, -1, pairs, pictures)
    np.testing.assert_array_equal(report.firing.concepts, np.arange(4))


def test_the_table_holds_every_picture_and_the_means(network, images):
    pictures, pairs = images("conv_gap", 4), make_pairs(8, 4)
    report = measure_firing(network, -1, pairs, pictures)
    rows = list(csv.reader(report.table().formatted("csv").splitlines()))
    assert len(rows) == 1 + 4 + 1 and [row[0] for row in rows[1:]] == [*"0123", "mean"]
    own = [float(row[1]) for row in rows[1:]]
    np.testing.assert_allclose(own[:4], report.firing.own_share)
    np.testing.assert_allclose(own[4], report.figures["own share of positions"])
    said = str(report)
    assert f"{int(report.firing.fires.sum())} of 4 pictures fire their own" in said
    assert said.count("(stronger)") == (~report.firing.strongest).sum()
    assert "in margins" in said
    scaled = measure_firing(network, -1, pairs, pictures, scales=np.ones(4))
    assert "units of the scales" in str(scaled)


def test_figures_of_a_single_concept_leave_out_the_others(network, images):
    report = measure_firing(network, -1, make_pairs(8, 1), images("conv_gap", 1))
    assert np.isnan(report.figures["others that fire"])
    assert "–" in str(report)


def test_images_are_one_for_each_concept_and_as_the_network_takes_them(network, images):
    pairs = make_pairs(8, 4)
    with pytest.raises(ValueError, match="5 images, but 4 concepts"):
        measure_firing(network, -1, pairs, images("conv_gap", 5))
    with pytest.raises(ValueError, match=r"takes \(32, 32, 3\)"):
        measure_firing(network, -1, pairs, images("tall", 4))
    with pytest.raises(ValueError, match="batch_size"):
        measure_firing(network, -1, pairs, images("conv_gap", 4), batch_size=0)
    with pytest.raises(ValueError, match="4 positive numbers"):
        measure_firing(network, -1, pairs, images("conv_gap", 4), scales=[1.0])
