"""The command ``connectome``."""

import json

import keras
import numpy as np
import pytest
from command_line import call, place, quick  # noqa: F401

from xplique_dirpairs.connectome.build import build_connectome
from xplique_dirpairs.connectome.result import Connectome
from xplique_dirpairs.core.linear_algebra import unit_rows
from xplique_dirpairs.pairs import DirectionPairs

# Keras [3.15] reads variables in a way that numpy deprecates when it saves a model.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


@pytest.fixture
def lower(place):
    """Name of a layer before that of the fixture ``call``."""
    model = keras.models.load_model(place / "m.keras")
    names = [layer.name for layer in model.layers]
    return names[names.index("features") - 1]


def test_tables_figures_and_a_page_are_written(call, lower, tmp_path):
    ran = call("connectome", "--below", lower, "--concepts", 3, "--json")
    assert ran.status == 0, ran.err
    data = json.loads(ran.out)
    assert list(data["layers"]) == [lower, "features"]
    assert set(data["suppression"]) == {lower, "features"}
    for name in data["written"]:
        assert (tmp_path / "connectome" / name).stat().st_size > 0, name
    found = Connectome.load(tmp_path / "connectome" / "connectome.npz")
    assert found.scores[0].shape == (3, 3)
    assert list(data["paths"]) == [str(k) for k in found.class_ids]
    page = (tmp_path / "connectome" / "connectome.html").read_text(encoding="utf-8")
    assert "<script>alert" not in page and "walk a connectome" in page.lower()


def test_the_network_sees_preprocessed_images_and_the_page_shows_their_pixels(
    call, lower, place, tmp_path, monkeypatch
):
    seen = []

    def build(model, layers, images, **options):
        seen.append((images, options["pictures"]))
        return build_connectome(model, layers, images, **options)

    monkeypatch.setattr("xplique_dirpairs.commands.connectome.build_connectome", build)
    ran = call("connectome", "--below", lower, "--concepts", 2, "--held-out", 0)
    assert ran.status == 0, ran.err
    ((images, pictures),) = seen
    assert pictures.dtype == np.uint8
    np.testing.assert_allclose(images, pictures / np.float32(255), atol=1e-6)


def test_a_report_of_given_pairs_leads_to_their_connectome(call, lower, place, tmp_path):
    pairs = place / "given.npz"
    ran = call("connectome", "--below", lower, "--concepts", 2, "--pairs", pairs)
    assert ran.status == 0, ran.err
    ran = call("report", "--pairs", pairs, "--connectome", "connectome/connectome.npz")
    assert ran.status == 0, ran.err
    text = (tmp_path / "report" / "report_files" / "data.js").read_text(encoding="ascii")
    data = json.loads(text[text.index(",") + 1 : -3])
    (one,) = data["connectomes"]
    assert one["layer"] == 1
    assert (tmp_path / "report" / one["page"]).exists()


def test_pairs_of_lower_layers_are_kept_on_interruption_and_given_again(
    call, lower, tmp_path, monkeypatch
):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("xplique_dirpairs.connectome.build.survey", interrupted)
        ran = call("connectome", "--below", lower, "--concepts", 2)
    assert ran.status == 130
    files = sorted(path.name for path in (tmp_path / "connectome").glob("*.npz"))
    assert files == [f"pairs_1_{lower}.npz", "pairs_2_features.npz"]
    assert files[0] in ran.err
    kept = DirectionPairs.load(tmp_path / "connectome" / files[0])

    ran = call("connectome", "--below", f"{lower}=connectome/{files[0]}", "--concepts", 2, "--json")
    assert ran.status == 0, ran.err
    assert files[0] not in json.loads(ran.out)["written"]
    found = Connectome.load(tmp_path / "connectome" / "connectome.npz")
    np.testing.assert_allclose(found.layers[0].signals, unit_rows(kept.signals), atol=1e-6)


@pytest.mark.parametrize("below", ["=pairs.npz", "layer="])
def test_a_layer_without_name_or_file_is_wrong_usage(call, below):
    ran = call("connectome", "--below", below)
    assert ran.status == 2 and "NAME=FILE" in ran.err


def test_layers_in_another_order_are_an_error_of_one_line(call, lower):
    ran = call("connectome", "--below", "features", "--layer", lower)
    assert ran.status == 1
    assert "does not come before" in ran.err.splitlines()[-1]


def test_layers_named_twice_are_refused(call, lower):
    ran = call("connectome", "--below", lower, lower, "--layer", "features")
    assert ran.status == 2 and f"--below names a layer twice: {lower} {lower}" in ran.err
    ran = call("connectome", "--below", "features", "--layer", "features")
    assert ran.status == 2 and "layer 'features' is that of --layer" in ran.err


def test_level_is_checked(call, lower):
    ran = call("connectome", "--below", lower, "--level", 2)
    assert ran.status == 2 and "--level" in ran.err
