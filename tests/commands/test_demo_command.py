"""The command ``demo``: its options, who sees a browser, and a network of `keras.applications`."""

import json
import subprocess
import sys
import webbrowser
from pathlib import Path
from types import SimpleNamespace

import keras
import numpy as np
import pytest
from PIL import Image

from xplique_dirpairs.commands import cli
from xplique_dirpairs.commands import demo as command
from xplique_dirpairs.commands.console import UsageError
from xplique_dirpairs.commands.keras_network import application
from xplique_dirpairs.demo import run as demo_run
from xplique_dirpairs.metrics.registry import Summary

# Keras causes this warning when it saves weights with numpy 2.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


@pytest.fixture
def demo(monkeypatch):
    """Replaces the demo and the browser: ``calls`` are its arguments, ``opened`` the pages."""
    record = SimpleNamespace(calls=[], opened=[])
    result = SimpleNamespace(
        text=lambda: "the results",
        accuracy=0.9,
        mean_iou={"direction pairs": 0.3, "CRAFT": np.nan},
        difference=Summary(0.1, 0.05, 0.15, 0),
        repair=SimpleNamespace(accuracies=lambda: {"all": (0.7, 0.9)}),
        seconds={},
        figures=["concepts"],
    )

    def run_demo(*arguments):
        record.calls.append(arguments)
        return result

    monkeypatch.setattr(demo_run, "run_demo", run_demo)
    monkeypatch.setattr(webbrowser, "open", record.opened.append)
    monkeypatch.setenv("MPLBACKEND", "Agg")
    return record


@pytest.fixture
def terminal(monkeypatch):
    """Makes stdout a terminal with a display."""
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    monkeypatch.setenv("DISPLAY", ":0")


def test_the_demo_without_options_uses_the_defaults(demo, capsys):
    assert cli.main(["demo"]) == 0
    assert demo.calls == [(Path("demo"), 24, 0, 1)]
    lines = capsys.readouterr().out.strip().splitlines()
    assert "the results" in lines
    assert lines[-1].endswith(f"open {Path('demo/report/index.html')}")


def test_every_option_reaches_the_demo(demo, tmp_path, capsys):
    options = ["--output", str(tmp_path), "--concepts", "7", "--seed", "3", "--quiet"]
    assert cli.main(["demo", *options]) == 0
    assert demo.calls == [(tmp_path, 7, 3, 0)]
    assert capsys.readouterr().out == ""


def test_the_results_can_be_had_as_json(demo, capsys):
    assert cli.main(["demo", "--json"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert data["difference"] == {"value": 0.1, "low": 0.05, "high": 0.15}
    assert data["mean_iou"] == {"direction pairs": 0.3, "CRAFT": None}
    assert data["repaired"] == {"all": [0.7, 0.9]}


# ------------------------------------------------------------------ the browser


def test_the_report_is_opened_on_a_terminal_with_a_display(demo, terminal):
    assert cli.main(["demo"]) == 0
    assert demo.opened == [(Path.cwd() / "demo" / "report" / "index.html").as_uri()]


@pytest.mark.parametrize("option", ["--no-open", "--quiet", "--json"])
def test_nothing_is_opened_if_an_option_says_so(option, demo, terminal):
    assert cli.main(["demo", option]) == 0
    assert not demo.opened


def test_nothing_is_opened_without_a_terminal(demo, monkeypatch):
    monkeypatch.setenv("DISPLAY", ":0")
    assert cli.main(["demo"]) == 0
    assert not demo.opened


@pytest.mark.skipif(sys.platform in ("darwin", "win32"), reason="has a display without variables")
def test_nothing_is_opened_without_a_display(demo, terminal, monkeypatch):
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    assert cli.main(["demo"]) == 0
    assert not demo.opened


def test_a_page_is_not_opened_after_an_error(demo, terminal, monkeypatch):
    def fail(*_):
        raise RuntimeError("the disk is full")

    monkeypatch.setattr(demo_run, "run_demo", fail)
    assert cli.main(["demo"]) == 1
    assert not demo.opened


# ------------------------------------------------------------------ a network of keras.applications


@pytest.fixture
def photos(tmp_path):
    """Two folders with small pictures of noise."""
    rng = np.random.default_rng(0)
    for name in ("n01440764", "n02102040"):
        folder = tmp_path / "photos" / name
        folder.mkdir(parents=True)
        for k in range(6):
            picture = rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)
            Image.fromarray(picture).resize((96, 96)).save(folder / f"{k}.png")
    return tmp_path / "photos"


def test_without_weights_one_error_says_what_to_do(photos, capsys, tmp_path):
    options = ["--network", "mobilenet_v2", "--images", str(photos), "--output", str(tmp_path)]
    assert cli.main(["demo", *options, "--quiet"]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "--weights FILE" in error
    assert "--download" in error


def test_without_images_the_error_says_so(capsys):
    assert cli.main(["demo", "--network", "mobilenet_v2", "--download", "--quiet"]) == 2
    assert "--images FOLDER" in capsys.readouterr().err


@pytest.mark.parametrize("option", [["--download"], ["--images", "."]])
def test_options_of_a_network_need_a_network(option, capsys, demo, tmp_path):
    assert cli.main(["demo", *option, "--quiet", "--output", str(tmp_path)]) == 2
    assert f"{option[0]} belongs to --network" in capsys.readouterr().err
    assert not demo.calls


def test_an_unknown_network_is_refused_with_the_names_of_all():
    with pytest.raises(UsageError, match=r"has no 'mobilenet_v9'; it has .*MobileNetV2"):
        application("mobilenet_v9", None, download=True)


def test_weights_that_do_not_fit_are_refused(tmp_path):
    path = tmp_path / "some.weights.h5"
    keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)]).save_weights(path)
    with pytest.raises(ValueError, match=r"--weights: .*some\.weights\.h5 does not fit mobilenet"):
        application("mobilenet", path, download=False)


def test_a_whole_model_is_loaded_with_the_preprocessing_of_its_name(tmp_path):
    small = {"weights": None, "input_shape": (32, 32, 3), "alpha": 0.35}
    made = keras.applications.MobileNetV2(**small)
    made.save(tmp_path / "small.keras")
    model, preprocessing = application("MobileNet-V2", tmp_path / "small.keras", download=False)
    assert preprocessing == "mobilenet_v2"
    assert model.input_shape == (None, 32, 32, 3)


@pytest.mark.slow
def test_a_network_of_keras_applications_is_shown_on_own_images(photos, tmp_path):
    made = keras.applications.MobileNetV2(weights=None)
    made.save_weights(tmp_path / "mobilenet_v2.weights.h5")
    options = {
        "--network": "mobilenet_v2", "--images": photos, "--concepts": 4,
        "--weights": tmp_path / "mobilenet_v2.weights.h5", "--output": tmp_path / "demo",
    }  # fmt: skip
    words = [str(word) for option in options.items() for word in option]
    ran = subprocess.run(
        [sys.executable, "-m", "xplique_dirpairs", "demo", *words], capture_output=True, text=True
    )
    assert ran.returncode == 0, ran.stderr[-2000:]
    assert ran.stdout.strip().endswith("index.html")
    assert (tmp_path / "demo" / "report" / "index.html").is_file()
    text = (tmp_path / "demo" / "summary.md").read_text(encoding="utf-8")
    for name in ("concepts", "prediction"):
        assert f"![{name}]({name}.png)" in text
        assert (tmp_path / "demo" / f"{name}.png").is_file()
    assert (tmp_path / "demo" / "mobilenetv2.keras").is_file()


# ------------------------------------------------------------------ the complete demo


@pytest.mark.slow
def test_the_demo_shows_concepts_and_repairs_the_network(tmp_path):
    ran = subprocess.run(
        [sys.executable, "-m", "xplique_dirpairs", "demo", "--output", str(tmp_path)],
        capture_output=True, text=True, timeout=600,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr[-2000:]
    text = (tmp_path / "summary.md").read_text(encoding="utf-8")
    assert "“picnic”" in text
    seconds = text.split("## Time")[1].splitlines()
    [whole] = [line for line in seconds if line.startswith("| everything")]
    assert float(whole.split("|")[2]) < 240  # of two processes on two cores; alone about a minute
    assert len(list(tmp_path.glob("*.png"))) == 6
    for picture in tmp_path.glob("*.png"):
        assert picture.stat().st_size < 300_000


def test_may_open_looks_at_the_options_first():
    closed = SimpleNamespace(no_open=True, quiet=False, json=False)
    assert not command.may_open(closed)
