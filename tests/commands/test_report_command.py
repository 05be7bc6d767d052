"""The command ``report``, with learned and with given pairs."""

import json
import shutil
from collections import Counter
from types import SimpleNamespace

import keras
import numpy as np
import pytest
import tensorflow as tf
from command_line import call, place, quick  # noqa: F401
from conftest import make_images
from PIL import Image

from xplique_dirpairs.commands import report
from xplique_dirpairs.models import split
from xplique_dirpairs.pairs import DirectionPairs

# Keras [3.15] reads variables in a way that numpy deprecates when it saves a model.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

#: Bytes of an image → how often it has passed through the layer `Counting`.
PASSES: Counter = Counter()


@keras.saving.register_keras_serializable("tests")
class Counting(keras.layers.Layer):
    """Identity layer that counts in `PASSES` how often each image passes."""

    def call(self, images):
        passed = tf.py_function(self.count, [images], images.dtype)
        passed.set_shape(images.shape)
        return passed

    def count(self, images):
        if images.numpy().min() >= 0:  # not the noise that layers of one's own are tried on
            PASSES.update(image.tobytes() for image in images.numpy())
        return images


@pytest.fixture
def counted(place, tmp_path, monkeypatch):
    """Path of the model of `place` with the layer `Counting` in front.

    Noise that the network is checked with, since it has an own layer, is not counted.
    """
    monkeypatch.setattr(split, "warn_if_unsteady", lambda model: None)
    model = keras.models.load_model(place / "m.keras")
    images = keras.Input(model.input_shape[1:])
    x = Counting()(images)
    for layer in model.layers[1:]:
        x = layer(x)
    keras.Model(images, x).save(tmp_path / "counted.keras")
    PASSES.clear()
    return tmp_path / "counted.keras"


@pytest.mark.parametrize(
    "images, options",
    [
        ("photos", ["--concepts", 3]),
        ("flat", ["--concepts", 3]),
        ("photos", ["--concepts", 3, "--held-out", 0]),
        ("photos", ["--concepts", "auto"]),
        ("photos", ["--pairs", "given.npz"]),
        ("flat", ["--pairs", "given.npz", "--no-counterfactuals"]),
        ("photos", ["--pairs", "given.npz", "--classes", 0, 1, 2]),
        ("flat", ["--pairs", "given.npz", "--classes", 0, 1, 2]),
    ],
)
def test_a_report_passes_each_image_through_the_network_once(call, place, counted, images, options):
    options = [place / one if one == "given.npz" else one for one in options]
    ran = call("report", "--model", counted, *options, "--json", images=images)
    assert ran.status == 0, ran.err
    assert json.loads(ran.out)["classes_are"] == (
        "predicted" if images == "flat" else "of the folders"
    )
    assert len(PASSES) == 9 and set(PASSES.values()) == {1}


@pytest.fixture
def written(monkeypatch):
    """Replaces `write_report`; returns a list of the arguments of its calls."""
    calls = []

    def write_report(path, concepts, seen, **options):
        path.mkdir(exist_ok=True)
        calls.append(SimpleNamespace(concepts=concepts, images=seen.images, **options))
        return path / "index.html"

    monkeypatch.setattr(report, "write_report", write_report)
    return calls


def test_a_report_learns_from_one_part_of_the_images_and_shows_the_other(call, written):
    ran = call("report", "--concepts", 2, "--beside", "PCA")
    assert ran.status == 0, ran.err
    assert "Open report/index.html in a browser" in ran.out
    [page] = written
    assert (len(page.images), page.concepts.number_of_concepts) == (3, 2)
    assert page.counterfactuals == 3 and len(page.training_activations) == 6
    assert list(page.comparison.results)[:2] == ["pairs", "PCA"]
    assert "1 files could not be read" in page.settings.notes[-1]


def test_pictures_are_only_made_for_concepts_when_asked(call, written):
    for options, expected in (([], False), (["--maximise"], True)):
        assert call("report", "--concepts", 2, "--no-counterfactuals", *options).status == 0
        assert written[-1].settings.maximise is expected


def test_a_report_of_given_pairs_uses_the_layer_and_preprocessing_of_their_fit(call, written):
    assert call("fit", "--concepts", 2).status == 0
    quick = ("--no-counterfactuals", "--json")
    ran = call("report", "--pairs", "concepts/pairs.npz", *quick, prepared=False)
    assert ran.status == 0 and "other weights" not in ran.err, ran.err
    [page] = written
    assert (page.counterfactuals, page.comparison, len(page.images)) == (None, None, 9)
    data = json.loads(ran.out)
    assert (page.concepts.layer, data["preprocessing"]) == ("features", "unit")
    learned = DirectionPairs.load("concepts/pairs.npz")
    np.testing.assert_array_equal(page.concepts.pairs.filters, learned.filters)
    assert data["page"] == "report/index.html"


def test_problems_of_the_fit_of_given_pairs_are_noted_and_stand_in_the_report(
    call, written, tmp_path
):
    assert call("fit", "--concepts", 2).status == 0
    place = tmp_path / "concepts" / "summary.json"
    summary = json.loads(place.read_text(encoding="utf-8")) | {"problems": ["ill-conditioned"]}
    place.write_text(json.dumps(summary), encoding="utf-8")
    ran = call("report", "--pairs", "concepts/pairs.npz", "--no-counterfactuals")
    said = "when the pairs were learned: ill-conditioned"
    assert ran.status == 0 and said in ran.err
    assert said in written[-1].settings.notes


def test_names_beside_the_pairs_are_read_until_other_pairs_are_learned(call, written, tmp_path):
    names = tmp_path / "concepts" / "names.json"
    assert call("fit", "--concepts", 2).status == 0
    names.write_text('{"1": "wheel"}')
    given = ["--pairs", "concepts/pairs.npz"]
    assert call("report", *given, "--no-counterfactuals").status == 0
    assert written[-1].concepts.concept_names == ("0", "wheel")
    ran = call("correct", *given, "--suppress", 1)
    assert ran.status == 0 and "suppress concept wheel" in ran.err
    assert call("fit", "--concepts", 2).status == 0
    assert names.exists()  # the same pairs were learned again
    ran = call("fit", "--concepts", 3)
    assert ran.status == 0 and "names the concepts of earlier pairs" in ran.err
    assert not names.exists() and names.with_name("names_of_earlier_pairs.json").exists()


def test_names_that_do_not_fit_the_pairs_are_an_error_that_names_the_file(call, place, tmp_path):
    pairs = tmp_path / "pairs.npz"
    pairs.write_bytes((place / "given.npz").read_bytes())
    (tmp_path / "names.json").write_text('{"3": "wheel"}')
    for command in (["report"], ["compare"], ["correct", "--suppress", 0]):
        ran = call(*command, "--pairs", pairs)
        assert ran.status == 1 and "names.json: concepts are numbered 0 to 2" in ran.err, ran.err


def test_pairs_are_refused_at_a_layer_where_they_were_not_learned(call, place, written):
    layers = [layer.name for layer in keras.models.load_model(place / "m.keras").layers]
    assert call("fit", "--concepts", 2, "--layer", layers.index("features")).status == 0
    learned = ["--pairs", "concepts/pairs.npz", "--no-counterfactuals"]
    other = layers[layers.index("features") - 1]
    ran = call("report", *learned, "--layer", other)
    assert ran.status == 1 and f"not at {other!r}: leave --layer out" in ran.err
    ran = call("report", *learned, "--layer", "features", "--preprocessing", "symmetric")
    assert ran.status == 0, ran.err
    assert "the pairs were learned with unit" in ran.err


def test_pairs_that_were_learned_from_other_weights_are_noted(call, place, tmp_path, written):
    assert call("fit", "--concepts", 2).status == 0
    network = keras.models.load_model(place / "m.keras")
    network.weights[0].assign(1.01 * network.weights[0])
    network.save(tmp_path / "trained_further.keras")
    learned = ["--pairs", "concepts/pairs.npz", "--no-counterfactuals"]
    ran = call("report", *learned, "--model", "trained_further.keras")
    assert ran.status == 0, ran.err
    assert "learned from a model with other weights" in ran.err


def test_the_report_of_a_single_image_has_no_counterfactuals(call, written):
    ran = call("report", "--concepts", 2, "--max-images", 1)
    assert ran.status == 0, ran.err
    [page] = written
    assert page.counterfactuals is None and any(
        "more than one image" in note for note in page.settings.notes
    )


def test_a_report_says_what_depends_on_the_place_if_it_is_asked_to(call, place, tmp_path, written):
    quick = ("--pairs", place / "given.npz", "--no-counterfactuals")
    for options in (quick, (*quick, "--position")):
        assert call("report", *options).status == 0
    assert [page.settings.position for page in written] == [False, True]
    few = tmp_path / "few"
    few.mkdir()
    for path in sorted((place / "flat").glob("*.png"))[:2]:
        shutil.copy(path, few)
    ran = call("report", *quick, "--position", images=few)
    assert ran.status == 0, ran.err
    assert not written[-1].settings.position
    assert "it takes 8 images at least" in written[-1].settings.notes[-1]


def test_the_report_of_independent_outputs_has_no_counterfactuals(call, place, tmp_path, written):
    network = keras.models.load_model(place / "m.keras")
    layer = network.get_layer("features").output
    heads = keras.layers.Dense(3, "sigmoid")(keras.layers.GlobalAveragePooling2D()(layer))
    keras.Model(network.input, heads).save(tmp_path / "heads.keras")
    ran = call("report", "--model", tmp_path / "heads.keras", "--concepts", 2, images="flat")
    assert ran.status == 0, ran.err
    [page] = written
    assert page.counterfactuals is None and any(
        "not mutually exclusive" in note for note in page.settings.notes
    )


def test_given_pairs_and_fitted_extractors_are_compared_on_held_out_images(call, place, written):
    ran = call("report", "--pairs", place / "given.npz", "--beside", "PCA", "--no-counterfactuals")
    assert ran.status == 0, ran.err
    [page] = written
    assert (len(page.images), page.concepts.number_of_concepts) == (3, 3)
    assert list(page.comparison.results)[:2] == ["pairs", "PCA"]
    assert "may have been learned from some of the measured images" in ran.err


@pytest.mark.parametrize("broken", [KeyboardInterrupt, ValueError])
def test_learned_pairs_are_saved_even_if_the_report_fails(call, tmp_path, monkeypatch, broken):
    def fail(*_, **__):
        raise broken

    monkeypatch.setattr(report, "write_report", fail)
    assert call("report", "--concepts", 2).status in (1, 130)
    assert DirectionPairs.load(tmp_path / "report" / "pairs.npz").number_of_concepts == 2
    one = ["--single-file", "--output", "a/one.html"]
    assert call("report", "--concepts", 3, *one).status in (1, 130)
    assert DirectionPairs.load(tmp_path / "a" / "one_pairs.npz").number_of_concepts == 3


def test_a_single_file_report_escapes_names(call, place, tmp_path):
    pairs = ["--pairs", place / "given.npz", "--single-file", "--output", "one.html"]
    ran = call("report", *pairs)
    assert ran.status == 0, ran.err
    text = (tmp_path / "one.html").read_text(encoding="utf-8")
    assert "<script>alert(1)" not in text and "alert(1)" in text


def test_a_model_of_one_output_has_two_classes_in_every_command(call, place, tmp_path):
    inputs = keras.Input((32, 32, 3))
    x = keras.layers.Conv2D(8, 3, 2, activation="relu", name="features")(inputs)
    x = keras.layers.GlobalAveragePooling2D()(x)
    outputs = keras.layers.Dense(1, activation="sigmoid")(x)
    keras.Model(inputs, outputs).save(tmp_path / "one.keras")
    for k, name in enumerate(("no", "yes")):
        (tmp_path / "two" / name).mkdir(parents=True)
        for n, image in enumerate(make_images(3, (32, 32, 3), seed=k)):
            Image.fromarray((255 * image).astype(np.uint8)).save(
                tmp_path / "two" / name / f"{n}.png"
            )
    given = ["--model", tmp_path / "one.keras", "--json"]
    commands = {
        "fit": ["--concepts", 3],
        "correct": ["--pairs", place / "given.npz", "--suppress", 1],
        "report": ["--pairs", place / "given.npz"],
    }
    for command, options in commands.items():
        ran = call(command, *given, *options, "--output", command, images=tmp_path / "two")
        assert ran.status == 0, ran.err
        data = json.loads(ran.out)
        assert data["classes"] == {"0": "no", "1": "yes"}, command
        assert "no counterfactuals" not in ran.err and "class folders for" not in ran.err
        groups = {name: group["images"] for name, group in data.get("groups", {}).items()}
        assert groups == ({"no": 3, "yes": 3} if command == "correct" else {})
    rows = (tmp_path / "fit" / "importances.csv").read_text(encoding="utf-8").splitlines()
    assert [row.split(",")[0] for row in rows] == ["class", "no", "yes"]
