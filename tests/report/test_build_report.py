"""The content of a report equals the results of other functions, and counts by plain loops."""

from dataclasses import replace
from types import SimpleNamespace

import keras
import numpy as np
import pytest
from conftest import NETWORKS, make_images, make_pairs

from xplique_dirpairs.comparison.compare import compare
from xplique_dirpairs.data.images import concept_maps, crop_coefficients, extract_crops
from xplique_dirpairs.explanations.model import explain_scan
from xplique_dirpairs.explanations.prediction import explain_prediction
from xplique_dirpairs.extractors.concept_layer import ConceptLayer
from xplique_dirpairs.extractors.scan import scan
from xplique_dirpairs.factorizers.decompositions import PCAFactorizer
from xplique_dirpairs.models.split import SplitModel
from xplique_dirpairs.pairs import DirectionPairs
from xplique_dirpairs.position.dependence import position_dependence
from xplique_dirpairs.report.content import ReportSettings
from xplique_dirpairs.report.write import build_report, page_images

CONCEPTS, IMAGES = 5, 10


class Case:
    """A network, direction pairs at its layer, images, and their report."""

    def __init__(self, halves, network, **settings):
        split = SplitModel.of(halves(network))
        self.images = make_images(IMAGES, NETWORKS[network][1], 3)
        self.labels = np.arange(IMAGES) % 3
        pairs = make_pairs(split[0].output_shape[-1], CONCEPTS)
        self.x = ConceptLayer.of(pairs, split).activations(self.images)
        flat = self.x.reshape(-1, self.x.shape[-1])
        levels = np.quantile(pairs.project(flat), 0.8, axis=0)
        low = np.quantile(pairs.project(flat), 0.2, axis=0)
        self.pairs = DirectionPairs(pairs.filters, levels, pairs.signals, flat.mean(0), low)
        self.layer = ConceptLayer.of(self.pairs, split)
        self.seen = scan(self.layer, self.images, self.labels, verbose=0)
        self.explanation = explain_scan(self.seen, verbose=0)
        self.report = self.build(**settings)

    def build(self, changes=None, comparison=None, interpretability=None, **settings):
        return build_report(
            self.seen, self.explanation, changes, comparison=comparison,
            interpretability=interpretability, settings=ReportSettings(**settings), verbose=0,
        )  # fmt: skip

    @property
    def detected(self):
        return self.pairs.detect(self.x) > 0.5


@pytest.fixture(scope="module")
def case(halves):
    return Case(halves, "conv_gap")


def test_shares_histograms_and_overlaps_count_detections_at_all_positions(case):
    pages, detected = case.report.concepts, case.detected.reshape(-1, CONCEPTS)
    np.testing.assert_allclose(pages.occupancy, detected.mean(axis=0), atol=1e-6)
    np.testing.assert_allclose(pages.presence, case.detected.any(axis=(1, 2)).mean(axis=0))
    y = case.pairs.detect(case.x).reshape(-1, CONCEPTS)
    for i in range(CONCEPTS):
        expected = np.histogram(y[:, i], 20, (0, 1))[0] / len(y)
        np.testing.assert_allclose(pages.histogram[i], expected, atol=1e-6)
        for j in range(CONCEPTS):
            either = (detected[:, i] | detected[:, j]).sum()
            both = (detected[:, i] & detected[:, j]).sum()
            assert pages.overlaps[i, j] == pytest.approx(both / either)


def test_maps_are_positive_only_where_concepts_are_detected_and_have_a_maximum_of_1(case):
    maps = case.report.images.maps
    np.testing.assert_array_equal(maps > 0, case.detected)
    np.testing.assert_allclose(maps.max(axis=(0, 1, 2)), 1.0)
    u = np.where(case.detected, case.pairs.coefficients(case.x), 0)
    for i in range(CONCEPTS):
        top = np.percentile(u[..., i][u[..., i] > 0], 99.5)
        np.testing.assert_allclose(maps[..., i], np.minimum(u[..., i] / top, 1), atol=1e-5)


def test_crops_are_the_best_crops_of_different_images(case):
    pages, patch = case.report.concepts, 10
    u = np.where(case.detected, case.pairs.coefficients(case.x), 0)
    values = crop_coefficients(concept_maps(u, (32, 32, 3)), (32, 32, 3), patch)
    values = values.reshape(IMAGES, -1, CONCEPTS)
    cut = extract_crops(case.images, patch).reshape(IMAGES, -1, patch, patch, 3)
    for i in range(CONCEPTS):
        best = np.argsort(-values[..., i].max(axis=1), kind="stable")[:10]
        best = best[values[best, :, i].max(axis=1) > 0]
        np.testing.assert_array_equal(pages.crop_images[i], best)
        for crop, n in zip(pages.crops[i], best, strict=True):
            wanted = cut[n, values[n, :, i].argmax()]
            np.testing.assert_allclose(crop, 255 * wanted, atol=0.51)


def test_contributions_equal_those_of_explain_prediction(case):
    pages, logits = case.report.images, case.layer.head.logits(case.x)
    np.testing.assert_allclose(pages.scores, logits.max(axis=1), atol=1e-4)
    for n in (0, 7):
        explained = explain_prediction(case.layer, case.images[n])
        assert pages.likeliest[n, 0] == explained.class_id
        assert pages.probabilities[n, 0] == pytest.approx(explained.probability, abs=1e-5)
        assert pages.residuals[n] == pytest.approx(explained.residual, abs=1e-4)
        np.testing.assert_allclose(
            pages.contributions[n], explained.concept_contributions, atol=1e-4
        )  # fmt: skip


@pytest.mark.parametrize("network", ["class_token", "vectors", "tall"])
def test_contributions_and_residual_sum_to_the_score_in_any_network(halves, network):
    pages = Case(halves, network, max_images=4).report.images
    total = pages.residuals + pages.contributions.sum(axis=1)
    np.testing.assert_allclose(total, pages.scores, atol=0.02)
    assert pages.maps.shape[0] == 4 and pages.maps.shape[-1] == CONCEPTS


def test_images_with_the_best_crops_are_shown_first_if_pages_are_few(case):
    few = case.build(max_images=4)
    first = {int(images[0]) for images in case.report.concepts.crop_images if len(images)}
    chosen = [case.report.images.names.index(name) for name in few.images.names]
    assert len(chosen) == 4 and chosen == sorted(chosen)
    assert set(chosen) <= first if len(first) >= 4 else set(chosen) >= first
    np.testing.assert_array_equal(few.images.labels, case.labels[chosen])
    # Numbers are still computed from all images; crops refer to the images that are shown.
    np.testing.assert_array_equal(few.concepts.histogram, case.report.concepts.histogram)
    for few_places, places in zip(
        few.concepts.crop_images, case.report.concepts.crop_images, strict=True
    ):
        expected = [chosen.index(n) if n in chosen else -1 for n in places.tolist()]
        assert few_places.tolist() == expected


def test_images_without_best_crops_are_chosen_from_all_classes_in_turn(case):
    labels = np.array([0] * 6 + [1] * 2 + [2])
    nothing = np.zeros((9, 2))
    seen = replace(case.seen, class_ids=labels, crop_values=nothing)
    assert page_images(seen, 4).tolist() == [0, 1, 6, 8]
    values = nothing.copy()
    values[[4, 5], 1] = 1.0, 2.0
    seen = replace(seen, crop_values=values)
    assert page_images(seen, 1).tolist() == [5]
    assert page_images(seen, 4).tolist() == [0, 4, 5, 6]
    assert page_images(seen, 9).tolist() == list(range(9))


def test_given_pictures_are_shown_instead_of_the_images(case):
    rng = np.random.default_rng(0)
    pictures = [rng.integers(0, 255, (40 + n, 60, 3), np.uint8) for n in range(IMAGES)]
    report = case.build(pictures=pictures, picture_side=45, image_names=list("abcdefghij"))
    assert {max(picture.shape[:2]) for picture in report.images.pictures} == {45}
    assert report.images.names == tuple("abcdefghij")
    same = case.build(pictures=[(255 * image).round().astype(np.uint8) for image in case.images])
    for one, other in zip(same.images.pictures, case.report.images.pictures, strict=True):
        np.testing.assert_allclose(one.astype(int), other.astype(int), atol=1)


def test_labels_are_shown_on_the_pages_of_their_concepts(case):
    labelled = SimpleNamespace(
        concepts={"object": ("dog", "cat"), "part": ("ear",)},
        labels=np.array([2, -1, 0, 0, 1]),
        **{
            name: np.arange(CONCEPTS) / 10
            for name in ("iou", "precision", "recall", "average_precision")
        },
    )
    report = case.build(interpretability=labelled)
    names = [label and (label.category, label.name, label.iou) for label in report.concepts.labels]
    assert names == [
        ("part", "ear", 0.0), None, ("object", "dog", 0.2), ("object", "dog", 0.3),
        ("object", "cat", 0.4),
    ]  # fmt: skip


def test_a_comparison_adds_its_tables_and_its_other_extractors(case):
    compared = compare(
        {"PCA <b>": PCAFactorizer(3)}, case.images[:6], case.labels[:6], split=case.layer.split,
        fit_images=case.images, importance_images=2, nb_design=4, verbose=0,
    )  # fmt: skip
    report = case.build(comparison=compared)
    assert [table.headers[1] for table in report.tables][:1] == ["deletion ↓"]
    assert all(header in report.metrics for table in report.tables for header in table.headers[1:])
    (other,) = report.extractors  # controls are only in the tables
    contributions = compared.results["PCA <b>"].fidelity.contributions
    for k in range(3):
        expected = contributions[case.labels[:6] == k].mean(axis=0)
        np.testing.assert_allclose(other.contributions[k], expected)


def test_a_report_of_an_extractor_without_detectors_has_histograms_of_coefficients(case):
    pca = PCAFactorizer(3)
    pca.fit(case.x.reshape(-1, case.x.shape[-1]))
    seen = scan(ConceptLayer.of(pca, case.layer.split), case.images, case.labels, verbose=0)
    report = build_report(seen, explain_scan(seen, verbose=0), verbose=0)
    assert report.concepts.histogram_of == "coefficient"
    np.testing.assert_allclose(report.concepts.histogram.sum(axis=1), 1.0)


def test_a_report_of_a_network_with_one_output_has_two_classes(case):
    inputs = keras.Input(case.x.shape[1:])
    output = keras.layers.Dense(1)(keras.layers.GlobalAveragePooling2D()(inputs))
    split = SplitModel.of(case.layer.split[0], keras.Model(inputs, output))
    layer = ConceptLayer.of(case.pairs, split, class_names=["no", "yes"])
    seen = scan(layer, case.images, np.arange(IMAGES) % 2, verbose=0)
    report = build_report(seen, explain_scan(seen, verbose=0), verbose=0)
    assert report.explanation.class_names == ("no", "yes")
    assert dict(report.class_names) == {0: "no", 1: "yes"}
    np.testing.assert_allclose(report.images.probabilities.sum(axis=1), 1.0, atol=1e-5)


def test_concept_pages_say_how_concepts_depend_on_the_place(case):
    assert case.report.concepts.facts == ()
    found = position_dependence(case.layer, case.images)
    assert case.build(position=True).concepts.facts == tuple(
        (("Position", found.sentence(i), None),) for i in range(CONCEPTS)
    )
