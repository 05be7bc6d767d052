"""What a report says is what the parts of the package find, and what plain loops count."""

from types import SimpleNamespace

import keras
import numpy as np
import pytest
from conftest import NETWORKS, make_images, make_pairs
from xplique_dirpairs.interventions.counterfactual_search import CounterfactualSearch

from xplique_dirpairs.comparison.compare import compare
from xplique_dirpairs.data.activations import compute_activations
from xplique_dirpairs.data.crops import concept_maps, crop_coefficients, extract_crops
from xplique_dirpairs.explanations.contributions import explain_prediction
from xplique_dirpairs.factorizers.decompositions import PCAFactorizer
from xplique_dirpairs.factorizers.direction_pairs import DirectionPairsFactorizer
from xplique_dirpairs.models.head import Head
from xplique_dirpairs.pairs import DirectionPairs
from xplique_dirpairs.report.image_reading import Overview, pairs_of
from xplique_dirpairs.report.make_report import make_report

CONCEPTS, IMAGES = 5, 10


class Case:
    """A network, pairs for its layer, images, and their report."""

    def __init__(self, halves, network, **options):
        self.g, self.h = halves(network)
        self.images = make_images(IMAGES, NETWORKS[network][1], 3)
        self.labels = np.arange(IMAGES) % 3
        self.x = compute_activations(self.g, self.images)
        pairs = make_pairs(self.x.shape[-1], CONCEPTS)
        flat = self.x.reshape(-1, self.x.shape[-1])
        levels = np.quantile(pairs.project(flat), 0.8, axis=0)
        low = np.quantile(pairs.project(flat), 0.2, axis=0)
        self.pairs = DirectionPairs(pairs.filters, levels, pairs.signals, flat.mean(0), low)
        self.network = {"input_to_latent_model": self.g, "latent_to_logit_model": self.h}
        self.options = options
        self.report = self.make()

    def make(self, **options):
        return make_report(
            self.pairs, self.images, self.labels, **(self.network | self.options | options)
        )

    @property
    def detected(self):
        return self.pairs.detect(self.x) > 0.5


@pytest.fixture(scope="module")
def case(halves):
    return Case(halves, "conv_gap")


def test_detections_are_counted_over_all_positions(case):
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


def test_maps_are_where_concepts_are_detected_and_reach_from_0_to_1(case):
    maps = case.report.images.maps
    np.testing.assert_array_equal(maps > 0, case.detected)
    np.testing.assert_allclose(maps.max(axis=(0, 1, 2)), 1.0)
    u = np.where(case.detected, case.pairs.coefficients(case.x), 0)
    for i in range(CONCEPTS):
        top = np.percentile(u[..., i][u[..., i] > 0], 99.5)
        np.testing.assert_allclose(maps[..., i], np.minimum(u[..., i] / top, 1), atol=1e-5)


def test_crops_are_the_best_of_different_images(case):
    pages, patch = case.report.concepts, 10
    u = np.where(case.detected, case.pairs.coefficients(case.x), 0)
    values = crop_coefficients(concept_maps(u, (32, 32, 3)), (32, 32, 3), patch)
    values = values.reshape(IMAGES, -1, CONCEPTS)
    cut = extract_crops(case.images, patch).reshape(IMAGES, -1, patch, patch, 3)
    for i in range(CONCEPTS):
        best = np.argsort(-values[..., i].max(axis=1), kind="stable")[:8]
        best = best[values[best, :, i].max(axis=1) > 0]
        np.testing.assert_array_equal(pages.crop_images[i], best)
        for crop, n in zip(pages.crops[i], best, strict=True):
            wanted = cut[n, values[n, :, i].argmax()]
            np.testing.assert_allclose(crop, 255 * wanted, atol=0.51)


def test_predictions_are_shared_out_as_explain_prediction_does(case):
    pages, logits = case.report.images, Head(case.h).logits(case.x)
    np.testing.assert_allclose(pages.scores, logits.max(axis=1), atol=1e-4)
    for n in (0, 7):
        found = explain_prediction(case.pairs, case.images[n], **case.network)
        assert pages.likeliest[n, 0] == found.class_id
        assert pages.probabilities[n, 0] == pytest.approx(found.probability, abs=1e-5)
        assert pages.residuals[n] == pytest.approx(found.residual, abs=1e-4)
        np.testing.assert_allclose(
            pages.contributions[n], found.concept_contributions, atol=1e-4
        )  # fmt: skip


@pytest.mark.parametrize("network", ["class_token", "vectors", "tall"])
def test_contributions_and_residual_add_up_in_any_network(halves, network):
    pages = Case(halves, network, max_images=4).report.images
    total = pages.residuals + pages.contributions.sum(axis=1)
    np.testing.assert_allclose(total, pages.scores, atol=0.02)
    assert pages.maps.shape[0] == 4 and pages.maps.shape[-1] == CONCEPTS


def test_where_not_all_are_shown_the_best_crops_come_first_then_all_classes(case):
    few = case.make(max_images=4, explanation=case.report.explanation)
    first = {int(images[0]) for images in case.report.concepts.crop_images if len(images)}
    chosen = [case.report.images.names.index(name) for name in few.images.names]
    assert len(chosen) == 4 and chosen == sorted(chosen)
    assert set(chosen) <= first if len(first) >= 4 else set(chosen) >= first
    np.testing.assert_array_equal(few.images.labels, case.labels[chosen])
    # figures stay those of all images; crops know which of them are shown
    np.testing.assert_array_equal(few.concepts.histogram, case.report.concepts.histogram)
    for few_places, places in zip(
        few.concepts.crop_images, case.report.concepts.crop_images, strict=True
    ):
        expected = [chosen.index(n) if n in chosen else -1 for n in places.tolist()]
        assert few_places.tolist() == expected


def test_beyond_the_best_crops_classes_take_turns():
    nothing, labels = np.zeros((9, 2)), np.array([0] * 6 + [1] * 2 + [2])
    seen = Overview(nothing, nothing, nothing, None, nothing, nothing, 3, (9, 9, 3))
    assert seen.shown(labels, 4).tolist() == [0, 1, 6, 8]
    values = nothing.copy()
    values[[4, 5], 1] = 1.0, 2.0
    seen = Overview(nothing, nothing, nothing, None, values, nothing, 3, (9, 9, 3))
    assert seen.shown(labels, 1).tolist() == [5]
    assert seen.shown(labels, 4).tolist() == [0, 4, 5, 6]
    assert seen.shown(labels, 9).tolist() == list(range(9))


def test_pictures_stand_in_for_the_images_at_any_size(case):
    rng = np.random.default_rng(0)
    pictures = [rng.integers(0, 255, (40 + n, 60, 3), np.uint8) for n in range(IMAGES)]
    found = case.make(
        pictures=pictures, picture_side=45, image_names=list("abcdefghij"),
        explanation=case.report.explanation,
    )  # fmt: skip
    assert {max(picture.shape[:2]) for picture in found.images.pictures} == {45}
    assert found.images.names == tuple("abcdefghij")
    same = case.make(
        pictures=[(255 * image).round().astype(np.uint8) for image in case.images],
        explanation=case.report.explanation,
    )
    for one, other in zip(same.images.pictures, case.report.images.pictures, strict=True):
        np.testing.assert_allclose(one.astype(int), other.astype(int), atol=1)


def test_labels_and_counterfactuals_come_to_their_pages(case):
    labelled = SimpleNamespace(
        concepts={"object": ("dog", "cat"), "part": ("ear",)},
        labels=np.array([2, -1, 0, 0, 1]),
        **{
            name: np.arange(CONCEPTS) / 10
            for name in ("iou", "precision", "recall", "average_precision")
        },
    )
    moved = CounterfactualSearch(Head(case.h), case.pairs, case.x).find(case.x)
    found = case.make(
        interpretability=labelled, counterfactuals=moved, explanation=case.report.explanation
    )
    names = [label and (label.category, label.name, label.iou) for label in found.concepts.labels]
    assert names == [
        ("part", "ear", 0.0), None, ("object", "dog", 0.2), ("object", "dog", 0.3),
        ("object", "cat", 0.4),
    ]  # fmt: skip
    assert any(len(change.concepts) for change in found.images.changes)
    for change, one in zip(found.images.changes, moved, strict=True):
        assert (change.status, change.after) == (one.status, one.after)
        assert change.concepts.tolist() == one.concepts.tolist()  # largest change first
        sizes = np.abs(change.after_means - change.before_means)
        by_concept = dict(zip(one.concepts.tolist(), one.means_after, strict=True))
        for i, after, size in zip(change.concepts, change.after_means, sizes, strict=True):
            assert after == pytest.approx(by_concept[int(i)], abs=1e-5) and size > 0
        assert change.percentile == one.distances_after.percentile[0]


def test_a_comparison_brings_its_tables_and_what_others_say_of_each_class(case):
    pca = PCAFactorizer(3)
    compared = compare(
        {"PCA <b>": pca}, case.images[:6], case.labels[:6], fit_images=case.images,
        importance_images=2, nb_design=4, verbose=0, **case.network,
    )  # fmt: skip
    found = case.make(comparison=compared, explanation=case.report.explanation)
    assert [table.headers[1] for table in found.tables][:1] == ["deletion ↓"]
    assert all(header in found.metrics for table in found.tables for header in table.headers[1:])
    (other,) = found.extractors  # controls are in the tables only
    contributions = compared.results["PCA <b>"].fidelity.contributions
    for k in range(3):
        expected = contributions[case.labels[:6] == k].mean(axis=0)
        np.testing.assert_allclose(other.contributions[k], expected)


def test_concepts_of_other_extractors_make_a_report_without_detections(case):
    pca = PCAFactorizer(3)
    pca.fit(case.x.reshape(-1, case.x.shape[-1]))
    found = make_report(pca, case.images, case.labels, **case.network)
    assert found.concepts.histogram_of == "coefficient"
    np.testing.assert_allclose(found.concepts.histogram.sum(axis=1), 1.0)
    assert pairs_of(pca) is None
    factorizer = DirectionPairsFactorizer.from_pairs(case.pairs)
    assert pairs_of(factorizer) is case.pairs is pairs_of(case.pairs)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"image_names": ["a", "b"]}, "image_names must be one for each of 10 images, not 2"),
        ({"pictures": np.zeros((3, 8, 8, 3))}, "pictures must be one for each of 10 images, not 3"),
        ({"pictures": [np.zeros(4)] * 10}, "picture 0 is float64"),
        ({"class_names": ["a", "b"]}, "class_names must have a name for class 2, but are 2"),
        ({"max_images": 0}, "max_images must be an integer of at least 1, not 0"),
        ({"nb_crops": 2.5}, "nb_crops must be an integer"),
        ({"concept_names": ["a"]}, "concept_names must be 5 names"),
        ({"counterfactuals": [1, 2]}, "counterfactuals must be one for each of 10 images, not 2"),
        (
            {"interpretability": SimpleNamespace(labels=np.zeros(3))},
            "interpretability is of 3 concepts, but the extractor has 5",
        ),
        (
            {"explanation": SimpleNamespace(concept_names=("a",))},
            "explanation is of 1 concepts, but the extractor has 5",
        ),
    ],
)
def test_what_does_not_fit_is_one_clear_error(case, options, words):
    with pytest.raises(ValueError, match=words):
        case.make(**options)


def test_a_report_of_one_output_has_two_classes_as_its_counterfactuals_have(case):
    first = case.network["input_to_latent_model"]
    one = keras.Sequential(
        [
            keras.Input(case.x.shape[1:]),
            keras.layers.GlobalAveragePooling2D(),
            keras.layers.Dense(1),
        ]
    )
    labels = np.arange(len(case.images)) % 2
    search = CounterfactualSearch(Head(one), case.pairs, case.x, class_names=["no", "yes"])
    found = search.find(case.x, max_concepts=1, images=case.images, verbose=0)
    made = make_report(
        case.pairs, case.images, labels, input_to_latent_model=first, latent_to_logit_model=one,
        class_names=["no", "yes"], counterfactuals=found, verbose=0,
    )  # fmt: skip
    assert made.explanation.class_names == ("no", "yes")
    changes = [change for change in made.images.changes if change is not None]
    assert changes and dict(made.class_names) == {0: "no", 1: "yes"}
    assert {change.after for change in changes} <= {0, 1}
