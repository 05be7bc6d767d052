"""Tests of the report of which detectors fire in images of one concept each."""

import csv

import numpy as np
import pytest
from conftest import make_pairs

from xplique_dirpairs import ConceptLayer, PCAFactorizer, measure_firing
from xplique_dirpairs.core.batching import as_positions
from xplique_dirpairs.metrics.firing import firing


@pytest.fixture
def concepts(halves):
    return ConceptLayer.of(make_pairs(8, 4), halves("conv_gap"))


def test_the_report_measures_the_features_of_the_layer(concepts, halves, images):
    pictures, pairs, indices = images("conv_gap", 5), concepts.pairs, [3, 0, 0, 1, 2]
    report = measure_firing(concepts, pictures, indices, batch_size=2)
    features = halves("conv_gap")[0].predict_on_batch(pictures)
    wanted = firing(pairs.project(features) - pairs.biases, np.array(indices))
    for name in wanted.__dataclass_fields__:
        np.testing.assert_allclose(
            getattr(report.firing, name), getattr(wanted, name), rtol=1e-5, atol=1e-6
        )


def test_without_indices_image_k_is_of_concept_k(concepts, images):
    report = measure_firing(concepts, images("conv_gap", 4))
    np.testing.assert_array_equal(report.firing.concepts, np.arange(4))


def test_the_table_holds_every_picture_and_the_means(concepts, images):
    pictures = images("conv_gap", 4)
    report = measure_firing(concepts, pictures)
    rows = list(csv.reader(report.table().formatted("csv").splitlines()))
    assert len(rows) == 1 + 4 + 1 and [row[0] for row in rows[1:]] == [*"0123", "mean"]
    own = [float(row[1]) for row in rows[1:]]
    np.testing.assert_allclose(own[:4], report.firing.own_share)
    np.testing.assert_allclose(own[4], report.figures["the concept's detector: share of positions"])
    text = str(report)
    assert f"{int(report.firing.fires.sum())} of 4 images the concept's detector" in text
    assert text.count("(stronger)") == (~report.firing.strongest).sum()
    assert "in margins" in text
    scaled = measure_firing(concepts, pictures, scales=np.ones(4))
    assert "units of the scales" in str(scaled)


def test_figures_of_a_single_concept_leave_out_the_others(halves, images):
    concepts = ConceptLayer.of(make_pairs(8, 1), halves("conv_gap"))
    report = measure_firing(concepts, images("conv_gap", 1))
    assert np.isnan(report.figures["other detectors that fire"])
    assert "–" in str(report)


def test_images_must_match_the_concepts_and_the_network(concepts, images):
    with pytest.raises(ValueError, match="each of the 4 concepts, not 5"):
        measure_firing(concepts, images("conv_gap", 5))
    with pytest.raises(ValueError, match=r"takes \(32, 32, 3\)"):
        measure_firing(concepts, images("tall", 4))
    with pytest.raises(ValueError, match="batch_size"):
        measure_firing(concepts, images("conv_gap", 4), batch_size=0)
    with pytest.raises(ValueError, match="4 positive numbers"):
        measure_firing(concepts, images("conv_gap", 4), scales=[1.0])


def test_concepts_that_have_no_detectors_are_refused(halves, images):
    split, pictures = halves("conv_gap"), images("conv_gap", 3)
    pca = PCAFactorizer(3)
    pca.fit(as_positions(split[0].predict_on_batch(pictures)))
    with pytest.raises(TypeError, match=r"direction pairs are needed.*PCAFactorizer"):
        measure_firing(ConceptLayer.of(pca, split), pictures)
