"""The commands, on a tiny network and nine tiny images, with fake learning."""

import json
import re
from dataclasses import replace
from types import SimpleNamespace

import keras
import numpy as np
import pytest
from command_line import HOSTILE, call, place, quick  # noqa: F401
from conftest import conv_flatten, conv_gap, fake_learn_pairs, make_images, make_pairs
from matplotlib.figure import Figure
from PIL import Image
from xplique.concepts import CraftTf

from xplique_dirpairs.commands.compare import SeededCraft, compare_extractors
from xplique_dirpairs.commands.concept_count import number_of_concepts
from xplique_dirpairs.commands.console import Console
from xplique_dirpairs.commands.option_values import EXTRACTORS
from xplique_dirpairs.comparison.result import Comparison
from xplique_dirpairs.extractors.craft import DirectionPairsTf
from xplique_dirpairs.models.split import split_model
from xplique_dirpairs.pairs import DirectionPairs

# Keras [3.15] reads variables in a way that numpy deprecates when it saves a model.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


def summary_of(folder):
    return json.loads((folder / "summary.json").read_text(encoding="utf-8"))


# ------------------------------------------------------------------ fit


def test_fit_writes_the_files_that_its_summary_lists(call, tmp_path):
    ran = call("fit", "--concepts", 3, "--output", "concepts_of_3")
    assert ran.status == 0, ran.err
    assert "3 concepts of layer features, learned from 9 images" in ran.out
    assert "1 files could not be read" in ran.err and "broken.jpg: not an image" in ran.err
    assert "without images are left out: empty" in ran.err
    assert ran.err.count("font of the pictures") == 1
    folder = tmp_path / "concepts_of_3"
    assert DirectionPairs.load(folder / "pairs.npz").number_of_concepts == 3
    summary = summary_of(folder)
    assert sorted(summary["written"]) == sorted(path.name for path in folder.iterdir())
    assert summary["classes"] == {str(k): name for k, name in enumerate(sorted(HOSTILE))}
    assert json.loads((folder / "history.json").read_text())["problems"] == summary["problems"]
    rows = (folder / "importances.csv").read_text(encoding="utf-8").splitlines()
    assert rows[0] == "class,output,images,right,concept 0,concept 1,concept 2" and len(rows) == 4
    page = (folder / "importances.md").read_text(encoding="utf-8")
    assert "&lt;script&gt;" in page and "<script>" not in page
    pictures = sorted(folder.glob("*.png"))
    assert [path.stem for path in pictures] == [
        "class_0000", "class_0001", "class_0002", "importances",
    ]  # fmt: skip
    for picture in pictures:
        assert f"({picture.name})" in page
        assert np.asarray(Image.open(picture)).std() > 10


def test_json_is_the_only_output_on_stdout(call):
    ran = call("fit", "--concepts", 2, "--json")
    data = json.loads(ran.out)
    assert (ran.status, data["command"], data["concepts"], data["seed"]) == (0, "fit", 2, 0)
    assert [one["path"].split("/")[1] for one in data["images"]["skipped"]] == ["broken.jpg"]
    assert np.isfinite(data["importances"]["0"]).all()
    assert any("empty" in note for note in data["notes"])
    assert "learn 2 concepts" in ran.err


def test_quiet_prints_nothing(call):
    assert call("fit", "--concepts", 2, "--quiet") == (0, "", "")


def test_the_options_of_fit_are_passed_to_learn_pairs(call, tmp_path, monkeypatch):
    seen = {}

    def learned(activations, number, **options):
        seen.update(options, number=number, images=len(activations))
        return fake_learn_pairs(activations, number, **options)

    monkeypatch.setattr("xplique_dirpairs.factorizers.direction_pairs.learn_pairs", learned)
    options = ["--recipe", "soft", "--resume", "state", "--seed", 7, "--quiet", "--max-images", 6]
    assert call("fit", "--concepts", 2, *options).status == 0
    wanted = {"number": 2, "images": 6, "recipe": "soft", "random_state": 7, "verbose": 0}
    assert wanted.items() <= seen.items() and str(seen["resume"]) == "state"
    assert seen["head"].number_of_classes == 3


def test_fit_estimates_importances_with_a_head_that_does_not_pool(call, tmp_path):
    keras.utils.set_random_seed(0)
    conv_flatten().save(tmp_path / "flatten.keras")
    ran = call("fit", "--model", tmp_path / "flatten.keras", "--concepts", 18, "--max-images", 3)
    assert ran.status == 0, ran.err
    rows = (tmp_path / "concepts" / "importances.csv").read_text(encoding="utf-8").splitlines()[1:]
    values = np.array([row.split(",")[-18:] for row in rows], float)
    assert values.shape == (3, 18) and (values.max(axis=1) > 0).all()


def test_importances_have_the_sign_of_the_class_weights_along_the_signal_vector(call, tmp_path):
    keras.utils.set_random_seed(0)
    model = conv_gap()
    model.save(tmp_path / "gap.keras")
    ran = call("fit", "--model", tmp_path / "gap.keras", "--concepts", 3)
    assert ran.status == 0, ran.err
    weights = model.layers[-1].get_weights()[0].T
    signals = DirectionPairs.load(tmp_path / "concepts" / "pairs.npz").signals
    expected = (weights - weights.mean(axis=0)) @ signals.T  # (K, I)
    page = (tmp_path / "concepts" / "importances.md").read_text(encoding="utf-8")
    cells = [re.findall(r"([+-]) (\d) \(", line) for line in page.splitlines()]
    rows = [row for row in cells if len(row) == 3]
    assert len(rows) == 3
    for row, values in zip(rows, expected, strict=True):
        assert {int(i): sign for sign, i in row} == {
            i: "+" if value > 0 else "-" for i, value in enumerate(values)
        }


def test_an_interrupted_fit_saves_the_pairs_learned_so_far(call, tmp_path, monkeypatch):
    def interrupted(*arguments, **options):
        pairs, history = fake_learn_pairs(*arguments, **options)
        return pairs, replace(history, interrupted=True)

    monkeypatch.setattr("xplique_dirpairs.factorizers.direction_pairs.learn_pairs", interrupted)
    ran = call("fit", "--concepts", 2)
    assert (ran.status, ran.out) == (130, "")
    assert [path.name for path in (tmp_path / "concepts").iterdir()] == ["pairs.npz"]


def test_only_the_classes_with_the_most_images_are_explained(call, monkeypatch):
    monkeypatch.setattr("xplique_dirpairs.commands.fit.EXPLAINED", 2)
    ran = call("fit", "--concepts", 2, "--json", "--max-images", 8)
    assert len(json.loads(ran.out)["importances"]) == 2
    assert "1 others are left out: choose classes with --classes" in ran.err


def test_auto_notes_that_the_number_of_concepts_cannot_be_estimated(call, monkeypatch):
    monkeypatch.setattr("xplique_dirpairs.commands.concept_count.USUAL_NUMBER", 4)
    ran = call("fit", "--concepts", "auto", "--json")
    assert (ran.status, json.loads(ran.out)["concepts"]) == (0, 4)
    assert "number of concepts cannot be estimated (fewer than 40 images" in ran.err


def test_a_number_of_concepts_above_that_of_channels_is_noted():
    subject = SimpleNamespace(channels=8, split=SimpleNamespace(layer="features"))
    console = Console(quiet=True)
    assert number_of_concepts(8, subject, 0, console) == 8 and not console.notes
    assert number_of_concepts(9, subject, 0, console) == 9
    assert "--concepts 9: layer 'features' has 8 channels" in console.notes[0]


def test_classes_can_be_chosen_by_name_or_number(call, place):
    ran = call("fit", "--concepts", 2, "--json", "--classes", "2", HOSTILE[0])
    data = json.loads(ran.out)
    assert (ran.status, data["images"]["used"]) == (0, 6)
    assert set(data["classes"].values()) == {HOSTILE[0], HOSTILE[2]}


def test_without_class_folders_the_predicted_classes_are_used(call, place):
    ran = call("fit", "--concepts", 2, "--json", "--max-images", 5, images="flat")
    data = json.loads(ran.out)
    assert (ran.status, data["classes_are"], data["images"]["used"]) == (0, "predicted", 5)
    assert set(data["classes"]) <= {"0", "1", "2"}


def test_class_folders_are_matched_to_the_outputs_by_name(call, place, tmp_path):
    (tmp_path / "two").mkdir()
    for name in HOSTILE[:2]:
        (tmp_path / "two" / name).symlink_to(place / "photos" / name)
    ran = call("fit", "--concepts", 2, "--json", images=tmp_path / "two")
    assert (ran.status, json.loads(ran.out)["classes_are"]) == (0, "predicted")
    assert "2 class folders for 3 outputs" in ran.err
    (tmp_path / "names.txt").write_text("\n".join(["zebra", *HOSTILE[:2]]), encoding="utf-8")
    names = ["--class-names", tmp_path / "names.txt"]
    ran = call("fit", "--concepts", 2, "--json", *names, images=tmp_path / "two")
    assert ran.status == 0, ran.err
    assert json.loads(ran.out)["classes"] == {"1": HOSTILE[0], "2": HOSTILE[1]}
    (tmp_path / "names.txt").write_text("zebra\nhorse\n<script>alert(2)<", encoding="utf-8")
    ran = call("fit", *names, images=tmp_path / "two")
    assert ran.status == 1 and "similar: <script>alert(2)<" in ran.err.splitlines()[-1]


# ------------------------------------------------------------------ missing or wrong arguments


def test_without_a_layer_a_table_of_candidates_is_shown(call):
    ran = call("fit", "--preprocessing", "unit", prepared=False)
    assert (ran.status, ran.out) == (2, "")
    assert "8 x 8 x 8" in ran.err and "Start with --layer features" in ran.err


def test_without_preprocessing_the_choices_are_shown(call):
    ran = call("fit", "--layer", "features", prepared=False)
    assert (ran.status, ran.out) == (2, "")
    assert "symmetric (-1 to 1)" in ran.err and "resnet50" in ran.err


def test_layers_are_listed_as_a_table_or_as_json(call):
    ran = call("layers", "--quiet", prepared=False)
    assert (ran.status, ran.err) == (0, "") and "Start with --layer features" in ran.out
    ran = call("layers", "--json", prepared=False)
    data = json.loads(ran.out)
    assert data["suggestion"] == "features"
    assert {"name": "features", "shape": [8, 8, 8]}.items() <= data["layers"][2].items()


@pytest.mark.parametrize(
    ("options", "status", "complaint"),
    [
        (["--layer", "nowhere"], 1, "the model has no layer 'nowhere'; it has: "),
        (["--size", "64"], 2, "--size 64x64: the model takes 32x32 only"),
        (["--recipe", "cake"], 2, "--recipe: invalid choice: 'cake'"),
        (["--classes", "scripd"], 1, "have no class 'scripd'"),
        (["--import", "there_is_none"], 2, "module 'there_is_none' cannot be imported"),
    ],
)
def test_a_wrong_option_ends_with_one_line_that_names_it(call, options, status, complaint):
    ran = call("fit", *options)
    assert (ran.status, ran.out) == (status, "")
    assert complaint in ran.err.splitlines()[-1]


@pytest.mark.parametrize(
    ("option", "path", "complaint"),
    [
        ("--model", "none.keras", "there is no file none.keras"),
        ("--model", ".", "--model must be a file, but . is a folder"),
        ("--images", "none", "there is no folder none"),
        ("--class-names", "none", "--class-names: there is no file none"),
        ("--pairs", "none", "--pairs: there is no file none"),
        ("--output", "full.txt", "--output must be a folder, but full.txt is a file"),
    ],
)
def test_a_wrong_path_is_an_error_before_any_file_is_read(call, tmp_path, option, path, complaint):
    (tmp_path / "full.txt").write_text("")
    ran = call("report", option, path)
    assert (ran.status, ran.out, ran.err.count("\n")) == (1, "", 1)
    assert complaint in ran.err


def test_an_output_inside_the_images_is_refused(call, place):
    for inside in (place / "photos", place / "photos" / "concepts"):
        ran = call("fit", "--output", inside)
        assert (ran.status, ran.err.count("\n")) == (1, 1) and "choose another place" in ran.err
    assert not (place / "photos" / "concepts").exists()


def test_files_of_an_earlier_run_are_noted(call, place, tmp_path):
    (tmp_path / "out").mkdir()
    for name in ("class_0009.png", "notes.txt"):
        (tmp_path / "out" / name).write_bytes(b"")
    written = {"written": ["class_0009.png", "pairs.npz", "gone.png"]}
    (tmp_path / "out" / "summary.json").write_text(json.dumps(written))
    ran = call("correct", "--pairs", place / "given.npz", "--suppress", 0, "--output", "out")
    assert ran.status == 0, ran.err
    assert "earlier run are still in out/: class_0009.png\n" in ran.err


def test_a_folder_without_readable_images_is_an_error(call, tmp_path):
    (tmp_path / "photos").mkdir()
    ran = call("fit", images=tmp_path / "photos")
    assert ran.status == 1 and "photos holds no images" in ran.err.splitlines()[-1]
    (tmp_path / "photos" / "x.png").write_bytes(b"")
    ran = call("fit", images=tmp_path / "photos")
    assert ran.status == 1 and "none of the 1 images can be read: x.png" in ran.err.splitlines()[-1]


def test_a_file_that_is_not_a_model_is_an_error(call, tmp_path):
    (tmp_path / "m.keras").write_bytes(b"no model")
    ran = call("fit", "--model", tmp_path / "m.keras")
    assert ran.status == 1 and "cannot be loaded as a Keras model" in ran.err.splitlines()[-1]


def test_a_model_of_grey_images_of_any_size_needs_a_size(call, tmp_path):
    keras.utils.set_random_seed(0)
    conv_gap((None, None, 1)).save(tmp_path / "grey.keras")
    grey = ["--model", tmp_path / "grey.keras", "--concepts", 2, "--json"]
    ran = call("fit", *grey)
    assert ran.status == 2 and "takes images of any size: give --size 224" in ran.err
    ran = call("fit", *grey, "--size", "24x32")
    assert (ran.status, json.loads(ran.out)["images"]["shape"]) == (0, [24, 32, 1]), ran.err


def test_pairs_of_another_layer_are_an_error(call, tmp_path):
    make_pairs(5, 2).save(tmp_path / "pairs.npz")
    ran = call("compare", "--pairs", tmp_path / "pairs.npz")
    assert ran.status == 1 and "layer with 5 channels, but the given layer has 8" in ran.err


# ------------------------------------------------------------------ compare, correct


def test_compare_measures_the_named_extractors(call, tmp_path, monkeypatch):
    # Drawing is slow, and tests/comparison tests the figures.
    monkeypatch.setattr(Figure, "savefig", lambda figure, path, **options: path.touch())
    ran = call(
        "compare", "--extractors", "PAIRS", "craft", "k means", "--concepts", 3, "--json",
        "--output", "found",
    )  # fmt: skip
    assert ran.status == 0, ran.err
    data = json.loads(ran.out)
    assert list(data["metrics"])[:3] == ["pairs", "CRAFT", "K-Means"] and not data["errors"]
    assert data["measured_on"] == 3  # one of the three images of each class
    assert "learned from 6 images, measured on 3 others" in ran.err
    comparison = Comparison.load(tmp_path / "found" / "comparison.npz")
    value = data["metrics"]["K-Means"]["deletion"]["value"]
    assert value == pytest.approx(comparison.results["K-Means"].summaries["deletion"].value)
    assert set(data["written"]) == {path.name for path in (tmp_path / "found").iterdir()}


def test_an_unknown_extractor_is_an_error_that_lists_the_known_ones(call):
    ran = call("compare", "--extractors", "pairs", "magic")
    assert ran.status == 2 and "no extractor 'magic'; choose from pairs, CRAFT" in ran.err


def test_every_name_of_an_extractor_builds_an_extractor_of_its_own_kind(monkeypatch):
    monkeypatch.setattr("xplique_dirpairs.commands.compare.compare", lambda *_, **__: None)
    split = split_model(conv_gap((32, 32, 3)), "features")
    images = make_images(2, (32, 32, 3))
    subject = SimpleNamespace(split=split, images=images, labels=None, channels=8)
    options = SimpleNamespace(concepts=2, recipe="default", seed=0)

    def build(*names):
        arguments = (names, subject, subject, None, options, Console(quiet=True))
        return compare_extractors(*arguments)[0]

    extractors = build(*EXTRACTORS)
    assert list(extractors) == list(EXTRACTORS)
    assert isinstance(extractors["pairs"], DirectionPairsTf)
    assert isinstance(extractors["CRAFT"], SeededCraft)
    kinds = {type(getattr(one, "factorizer", one)) for one in extractors.values()}
    assert len(kinds) == len(EXTRACTORS)
    with pytest.raises(KeyError, match="magic"):
        build("pairs", "magic")


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_craft_with_crops_in_batches_equals_craft_in_one_pass(monkeypatch):
    first, second = split_model(conv_gap((32, 32, 3)), "features")
    images = make_images(7, (32, 32, 3))
    options = {"number_of_concepts": 2, "patch_size": 16}
    np.random.seed(0)  # noqa: NPY002 (CraftTf's NMF takes no seed)
    theirs = CraftTf(first, second, **options).fit(images)
    crops, predict = [], first.predict
    monkeypatch.setattr(
        first, "predict", lambda x, **given: crops.append(len(x)) or predict(x, **given)
    )
    monkeypatch.setattr("xplique_dirpairs.commands.compare.CROP_BYTES", 160_000)
    ours = SeededCraft(first, second, **options, seed=0).fit(images)
    assert crops == [12, 12, 4]  # 4 crops of an image, 12 288 bytes each at full size
    for mine, wanted in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(mine, wanted, rtol=1e-4, atol=1e-5)


def test_correct_writes_a_changed_model_and_a_table_for_each_class(call, place, tmp_path):
    pairs = ["--pairs", place / "given.npz"]
    ran = call("correct", *pairs, "--suppress", 0, 2, "--output", "repaired", "--json")
    assert ran.status == 0, ran.err
    data = json.loads(ran.out)
    assert list(data["groups"]) == sorted(HOSTILE) and data["suppressed"] == [0, 2]
    before = keras.models.load_model(place / "m.keras")
    after = keras.models.load_model(tmp_path / "repaired" / "corrected.keras")
    images = make_images(4, (32, 32, 3), seed=9)
    outputs = [model.predict(images, verbose=0) for model in (before, after)]
    assert np.abs(outputs[0] - outputs[1]).max() > 1e-4
    assert set(data["written"]) == {path.name for path in (tmp_path / "repaired").iterdir()}


def test_an_unknown_concept_is_an_error(call, place):
    ran = call("correct", "--pairs", place / "given.npz", "--suppress", 3)
    assert ran.status == 1 and "concepts are numbered 0 to 2, not 3" in ran.err
