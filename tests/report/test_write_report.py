"""Reports are written in one pass over the images, and show all parts that are passed."""

import json
import re
from dataclasses import replace
from types import SimpleNamespace
from urllib.parse import unquote

import cv2
import numpy as np
import pytest
from conftest import NETWORKS, make_images, make_pairs
from counted import counted

from xplique_dirpairs.connectome.build import build_connectome
from xplique_dirpairs.connectome.diagnose import diagnose_prediction
from xplique_dirpairs.connectome.result import Connectome
from xplique_dirpairs.explanations.model import explain_model
from xplique_dirpairs.extractors.concept_layer import ConceptLayer
from xplique_dirpairs.extractors.scan import scan
from xplique_dirpairs.factorizers.decompositions import PCAFactorizer
from xplique_dirpairs.interventions.counterfactuals import CounterfactualSearch
from xplique_dirpairs.models.split import SplitModel
from xplique_dirpairs.report.content import ReportSettings
from xplique_dirpairs.report.page_files import BESIDE
from xplique_dirpairs.report.write import write_report

CONCEPTS, IMAGES = 5, 10
LABELS = np.arange(IMAGES) % 3


@pytest.fixture(scope="module")
def case(halves):
    """Return a function from the name of a network to concepts at its layer, and images."""

    def get(network):
        split = SplitModel.of(halves(network))
        layer = ConceptLayer.of(make_pairs(split[0].output_shape[-1], CONCEPTS), split)
        return layer, make_images(IMAGES, NETWORKS[network][1], 3)

    return get


def data_of(page):
    """Return the data that the pages of a report read."""
    text = (page.parent / BESIDE / "data.js").read_text(encoding="ascii")
    return json.loads(text[text.index(",") + 1 : -3])


@pytest.mark.parametrize("network", ["conv_gap", "conv_flatten"])
@pytest.mark.parametrize(("memory", "passes"), [(2**29, 1), (0, 2)])
def test_each_image_passes_through_the_network_once_or_twice_if_memory_is_short(
    case, tmp_path, network, memory, passes
):
    layer, images = case(network)
    split, counts = counted(layer.split)
    page = write_report(
        tmp_path, ConceptLayer.of(layer.pairs, split), images, LABELS, counterfactuals=2,
        settings=ReportSettings(batch_size=4, memory=memory), verbose=0,
    )  # fmt: skip
    data = data_of(page)
    assert len(data["images"]) == IMAGES and len(data["classes"]) == 3
    assert all(image["change"] is not None for image in data["images"])
    assert len(counts) == IMAGES and set(counts.values()) == {passes}


def test_images_without_a_page_pass_through_the_network_once_even_without_memory(case, tmp_path):
    layer, images = case("conv_gap")
    split, counts = counted(layer.split)
    write_report(
        tmp_path, ConceptLayer.of(layer.pairs, split), images, LABELS, counterfactuals=2,
        settings=ReportSettings(max_images=4, memory=0), verbose=0,
    )  # fmt: skip
    assert sorted(counts.values()) == [1] * 6 + [2] * 4


def test_an_integer_of_counterfactuals_gives_the_results_of_counterfactual_search(case, tmp_path):
    layer, images = case("conv_gap")
    training = layer.activations(make_images(30, images.shape[1:], 7))
    x = layer.activations(images)
    for given, reference in ((None, x), (training, training)):
        found = CounterfactualSearch(layer, reference).find(x, max_concepts=2, verbose=0)
        pages = [
            write_report(
                tmp_path / name, layer, images, LABELS, counterfactuals=counterfactuals,
                training_activations=given, verbose=0,
            )
            for name, counterfactuals in (("searched", 2), ("given", found))
        ]  # fmt: skip
        searched, same = (data_of(page)["images"] for page in pages)
        for n, one in enumerate(found):
            change = searched[n]["change"]
            assert (change["status"], change["after"]) == (one.status, one.after)
            assert change["concepts"] == one.concepts.tolist()  # largest change first
            np.testing.assert_allclose(change["after_means"], one.means_after, atol=1e-5)
            assert change["concepts"] == same[n]["change"]["concepts"]
        assert any(one.status == "changed" for one in found)


def test_a_report_of_a_scan_equals_that_of_its_images_without_reading_them_again(case, tmp_path):
    layer, images = case("conv_gap")
    split, counts = counted(layer.split)
    concepts = ConceptLayer.of(layer.pairs, split)
    seen = scan(concepts, images, LABELS, activations=layer.activations(images), verbose=0)
    options = {"counterfactuals": 2, "verbose": 0}
    page = write_report(tmp_path / "scan", concepts, seen, **options)
    assert not counts
    assert data_of(page) == data_of(
        write_report(tmp_path / "images", layer, images, LABELS, **options)
    )
    with pytest.raises(ValueError, match="activations must have one entry for each of 10 images"):
        scan(concepts, images, activations=seen.kept[:3])


def test_a_given_explanation_is_shown_and_not_computed_again(case, tmp_path):
    layer, images = case("conv_gap")
    explanation = explain_model(layer, images, LABELS, classes=[1], verbose=0)
    page = write_report(tmp_path, layer, images, LABELS, explanation=explanation, verbose=0)
    assert [one["id"] for one in data_of(page)["classes"]] == [1]


def test_a_picture_that_makes_the_detector_fire_is_made_for_each_concept(case, tmp_path):
    layer, images = case("conv_gap")
    settings = ReportSettings(maximise=True, max_images=4)
    page = write_report(tmp_path, layer, images, LABELS, settings=settings, verbose=0)
    shown = [concept["maximised"] for concept in data_of(page)["concepts"]]
    assert len({one["picture"] for one in shown}) == CONCEPTS
    assert all((one["height"], one["width"]) == images.shape[1:3] for one in shown)

    def score(x, i):
        """Return by how much the detector fires more than the strongest other one, as a mean."""
        excess = layer.pairs.project(x) - layer.pairs.biases
        return (excess[..., i] - np.delete(excess, i, axis=-1).max(axis=-1).clip(0)).mean()

    for i, one in enumerate(shown):
        file = (page.parent / BESIDE / one["picture"]).read_bytes()
        picture = cv2.imdecode(np.frombuffer(file, np.uint8), cv2.IMREAD_COLOR)[..., ::-1]
        made = layer.activations(picture[None] / np.float32(255))
        assert score(made, i) > score(layer.activations(images), i)


def test_pictures_are_refused_for_concepts_without_detectors(case, tmp_path):
    layer, images = case("conv_gap")
    factorizer = PCAFactorizer(2)
    factorizer.fit(layer.activations(images).reshape(-1, layer.channels))
    with pytest.raises(TypeError, match="maximise needs direction pairs"):
        write_report(
            tmp_path, ConceptLayer.of(factorizer, layer.split), images, LABELS, verbose=0,
            settings=ReportSettings(maximise=True),
        )  # fmt: skip


@pytest.mark.parametrize("single_file", [False, True])
def test_connectomes_have_pages_that_belong_to_the_report(case, tmp_path, single_file):
    layer, images = case("conv_gap")
    own = build_connectome(layer.model, {layer.layer: layer}, images, verbose=0)
    others = replace(layer.pairs, signals=layer.pairs.signals[::-1])
    other = build_connectome(layer.model, {layer.layer: others}, images, verbose=0)
    own.save(tmp_path / "own.npz")
    graphs = {"own": Connectome.load(tmp_path / "own.npz"), "others": other}
    page = write_report(
        tmp_path / ("a report.html" if single_file else "report"), layer, images, LABELS,
        settings=ReportSettings(connectomes=graphs), single_file=single_file, verbose=0,
    )  # fmt: skip
    if single_file:
        data = json.loads(re.search(r'id="stored-data">(.*?)</script>', page.read_text())[1])
    else:
        data = data_of(page)
    assert [one["name"] for one in data["connectomes"]] == ["own", "others"]
    assert [one["layer"] for one in data["connectomes"]] == [0, None]
    for one in data["connectomes"]:
        walk = page.parent / unquote(one["page"])
        found = json.loads(re.search(r'id="data">(.*?)</script>', walk.read_text())[1])
        assert (walk.parent / unquote(found["report"])).resolve() == page.resolve()
        assert found["ownLayer"] == one["layer"]


def test_a_diagnosis_is_on_the_page_of_its_image(case, tmp_path):
    layer, images = case("conv_gap")
    graph = build_connectome(layer.model, {layer.layer: layer}, images, verbose=0)
    found = diagnose_prediction({"a": graph, "b": graph}, images[3])
    settings = ReportSettings(diagnoses={3: found}, max_images=5)
    page = write_report(tmp_path, layer, images[:4], LABELS[:4], settings=settings, verbose=0)
    shown = [image["diagnosis"] for image in data_of(page)["images"]]
    assert shown[:3] == [None] * 3
    assert shown[3]["text"] == f"{layer.layer}: 100% a, 0% b."
    assert (page.parent / BESIDE / shown[3]["picture"]).exists()
    with pytest.raises(ValueError, match="diagnoses must be by index of the image, from 0 to 2"):
        write_report(tmp_path, layer, images[:3], settings=settings, verbose=0)
    with pytest.raises(TypeError, match="connectomes must be Connectome"):
        ReportSettings(connectomes={"a": 3})
    for name in ("connectomes", "diagnoses"):
        with pytest.raises(TypeError, match=f"{name} must be a dict of .*, not list: such as"):
            ReportSettings(**{name: [3]})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"counterfactuals": [1, 2]}, "counterfactuals must be one for each of 10 images, not 2"),
        ({"counterfactuals": 0}, "counterfactuals must be an integer of at least 1"),
        (
            {"interpretability": SimpleNamespace(labels=np.zeros(3))},
            "interpretability must have the 5 concepts of the extractor, not 3",
        ),
        (
            {"explanation": SimpleNamespace(concept_names=("a",))},
            "explanation must have the 5 concepts of the extractor, not 1",
        ),
        (
            {"settings": ReportSettings(image_names=["a", "b"])},
            "image_names must be one for each of 10 images, not 2",
        ),
        (
            {"settings": ReportSettings(pictures=np.zeros((3, 8, 8, 3)))},
            "pictures must be one for each of 10 images, not 3",
        ),
        ({"settings": ReportSettings(pictures=[np.zeros(4)] * 10)}, "picture 0 is float64"),
    ],
)
def test_parts_of_other_images_or_concepts_are_refused(case, tmp_path, options, message):
    layer, images = case("conv_gap")
    with pytest.raises(ValueError, match=message):
        write_report(tmp_path, layer, images, LABELS, verbose=0, **options)


@pytest.mark.parametrize("name", ["max_images", "nb_crops", "picture_side", "batch_size"])
@pytest.mark.parametrize("value", [0, 2.5])
def test_invalid_settings_are_refused(name, value):
    with pytest.raises(ValueError, match=f"{name} must be an integer of at least 1"):
        ReportSettings(**{name: value})


def test_a_path_that_cannot_be_written_is_refused_before_anything_is_read(tmp_path):
    file = tmp_path / "file"
    file.write_text("")
    with pytest.raises(NotADirectoryError):
        write_report(file, None, None)
    with pytest.raises(IsADirectoryError):
        write_report(tmp_path, None, None, single_file=True)


def test_the_nearest_concepts_of_other_networks_are_shown_with_their_figures(case, tmp_path):
    layer, images = case("conv_gap")
    data = data_of(
        write_report(
            tmp_path, layer, images, LABELS, others={"itself": layer, "again": (layer, images)},
            verbose=0,
        )
    )  # fmt: skip
    found = 0
    for i, concept in enumerate(data["concepts"]):
        assert [near["network"] for near in concept["others"]] == ["itself", "again"]
        for near in concept["others"]:
            assert near["crops"] is None or near["crops"]["count"] <= 4
            if near["correlation"] > 0.999:
                assert near["concept"] == str(i) and near["phi"] in (0, pytest.approx(1))
                found += 1
    assert found >= CONCEPTS  # of twice as many; some of the random concepts do not vary


def test_another_network_must_have_the_same_images(case, tmp_path):
    layer, images = case("conv_gap")
    with pytest.raises(ValueError, match="'other' has 9 images, but the report has 10"):
        write_report(
            tmp_path, layer, images, LABELS, others={"other": (layer, images[1:])}, verbose=0
        )


def test_too_few_images_for_another_network_are_refused_before_anything_is_computed(case, tmp_path):
    layer, images = case("conv_gap")
    with pytest.raises(ValueError, match="compared on 8 or more images, not 7"):
        write_report(tmp_path, layer, images[:7], LABELS[:7], others={"itself": layer}, verbose=0)
    assert not any(tmp_path.iterdir())
