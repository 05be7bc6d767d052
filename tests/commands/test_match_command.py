"""The command ``match``, and reports that show the concepts of other models."""

import json
from pathlib import Path

import keras
import numpy as np
import pytest
from command_line import call, place, quick  # noqa: F401
from conftest import conv_gap, make_pairs

from xplique_dirpairs.core.linear_algebra import UNMATCHED

# Keras [3.15] reads variables in a way that numpy deprecates when it saves a model.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


@pytest.fixture
def larger(tmp_path):
    """Options for a model that takes larger images than that of `place`."""
    keras.utils.set_random_seed(1)
    conv_gap((48, 48, 3)).save(tmp_path / "larger.keras")
    return ["--model", tmp_path / "larger.keras", "--preprocessing", "symmetric"]


@pytest.fixture
def fits(place, larger, tmp_path):
    """Folders like those of fits of the model of `place`, and of the larger one."""
    for name, model, prepared in (
        ("a", place / "m.keras", "unit"),
        ("b", tmp_path / "larger.keras", "symmetric"),
    ):
        (tmp_path / name).mkdir()
        make_pairs(8, 3, seed=ord(name)).save(tmp_path / name / "pairs.npz")
        summary = {"command": "fit", "model": str(model), "layer": "features"}
        text = json.dumps(summary | {"preprocessing": prepared})
        (tmp_path / name / "summary.json").write_text(text)
    return tmp_path / "a", tmp_path / "b"


@pytest.mark.slow
def test_concepts_of_two_fits_are_matched_on_the_same_images(call, larger, tmp_path):
    own, other = tmp_path / "a", tmp_path / "b"
    for name, options in {"a": [], "b": larger}.items():
        ran = call("fit", "--concepts", 3, "--output", name, *options)
        assert ran.status == 0, ran.err
    given = ["--pairs", own / "pairs.npz", "--other", other, "--json"]
    ran = call("match", *given, "--at-least", 0.1, prepared=False)
    assert ran.status == 0, ran.err
    data = json.loads(ran.out)
    assert data["networks"] == ["m features", "larger features"]
    assert data["matched_on"] + data["measured_on"] == 9
    for found in data["matches"]:
        assert all(UNMATCHED < i < 3 for i in found["concepts"].values())
        assert -1 <= found["correlation"] <= 1 and 0 < found["p"] <= 1
    assert np.shape(data["cross_r2"]) == np.shape(data["ceiling"]) == (2, 2)
    assert set(data["written"]) == {path.name for path in (tmp_path / "matches").iterdir()}


def test_a_model_is_the_same_as_itself_at_every_position(call, fits):
    own, _ = fits
    given = ["--pairs", own / "pairs.npz", "--other", own / "pairs.npz", "--by", "detections"]
    ran = call("match", *given, "--json", prepared=False)
    assert ran.status == 0, ran.err
    data = json.loads(ran.out)
    assert data["networks"] == ["m features", "m features (2)"]
    assert data["matches"]  # of concepts that are detected in some images and not in others
    for found in data["matches"]:
        assert len(set(found["concepts"].values())) == 1
        assert found["correlation"] == pytest.approx(1, abs=1e-4)


def test_other_models_may_be_named_one_by_one(call, fits, place, tmp_path):
    own, other = fits
    given = ["--pairs", own / "pairs.npz", "--other", own, "--other", other]
    models = ["--other-model", place / "m.keras", "--other-model", tmp_path / "larger.keras"]
    ran = call("match", *given, *models, "--json", prepared=False)
    assert ran.status == 0, ran.err
    networks = json.loads(ran.out)["networks"]
    assert networks == ["m features", "m features (2)", "larger features"]


def test_a_report_shows_the_nearest_concepts_of_an_earlier_report(call, fits, larger):
    quickly = ["--concepts", 3, "--no-counterfactuals"]
    ran = call("report", *larger, *quickly, "--output", "other")
    assert ran.status == 0, ran.err
    assert json.loads(Path("other/summary.json").read_text())["command"] == "report"
    given = ["--pairs", fits[0] / "pairs.npz", "--other", "other", "--no-counterfactuals"]
    ran = call("report", *given, prepared=False)
    assert ran.status == 0, ran.err
    text = Path("report/report_files/data.js").read_text(encoding="ascii")
    data = json.loads(text[text.index(",") + 1 : -3])
    for concept in data["concepts"]:
        [near] = concept["others"]
        assert near["network"] == "larger features" and near["concept"] in ("0", "1", "2")
        assert (
            near["crops"] is None or Path("report/report_files", near["crops"]["picture"]).exists()
        )
    assert not Path("report/summary.json").exists()  # these pairs have one of their own


@pytest.mark.parametrize(
    ("change", "options", "status", "message"),
    [
        (lambda other: (other / "pairs.npz").unlink(), [], 1, "holds no pairs.npz"),
        (lambda other: (other / "summary.json").unlink(), [], 2, "there is no summary.json beside"),
        (lambda other: other.with_name("larger.keras").unlink(), [], 2, "--other-model FILE"),
        (lambda _: None, ["--other-model", "a", "b"], 2, "one --other-model for each --other"),
        (lambda _: None, ["--at-least", "0"], 2, "must be above 0 and below 1, not 0"),
        (lambda _: None, ["--max-images", "6"], 2, "compared on 8 or more images, not 6"),
    ],
)
def test_what_is_missing_is_said_in_one_line(call, fits, change, options, status, message):
    own, other = fits
    change(other)
    given = ["--pairs", own / "pairs.npz", "--other", other, *options]
    ran = call("match", *given, prepared=False)
    assert ran.status == status and message in ran.err.splitlines()[-1]


def test_a_model_that_was_moved_is_given_by_hand(call, fits, tmp_path):
    own, other = fits
    (tmp_path / "larger.keras").rename(tmp_path / "moved.keras")
    given = ["--pairs", own / "pairs.npz", "--other", other]
    ran = call("match", *given, "--other-model", tmp_path / "moved.keras", prepared=False)
    assert ran.status == 0, ran.err
    assert "moved features" in ran.out
