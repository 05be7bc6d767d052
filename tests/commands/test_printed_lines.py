"""What commands print, which is nothing but their own lines, and the examples of the help."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
from conftest import make_images
from PIL import Image

from xplique_dirpairs.commands import cli
from xplique_dirpairs.commands.class_names import imagenet_names
from xplique_dirpairs.commands.options import COMMANDS

# Keras [3.15] reads variables in a way that numpy deprecates when it saves a model.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

#: Lines that a command may print on stderr: steps, notes, progress, extractors of a comparison.
OWN = re.compile(
    r"• .+ \(\d+:\d\d\)|note: .+|[\w ,-]+: \w+ \d+ of \d+, .+|\[\d+/\d+\] .+|fit [\d.]+ s, .+"
)
#: Runs each command of a JSON list in one process, which must succeed.
PROGRAM = """
import json, sys
from xplique_dirpairs.commands.cli import main
for arguments in json.loads(sys.argv[1]):
    assert main(arguments) == 0, arguments
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with the files that the examples of the help name.

    ``m.keras`` has the outputs of ImageNet and a layer ``out_relu`` of 32 channels, with two layers
    of 8 channels before it; that of ``a.keras`` and ``b.keras`` is named ``relu``. ``photos`` has a
    folder for each of 3 classes.
    """
    folder = tmp_path_factory.mktemp("examples")
    for seed, (name, layer) in enumerate((("m", "out_relu"), ("a", "relu"), ("b", "relu"))):
        keras.utils.set_random_seed(seed)
        inputs = keras.Input((48, 48, 3))
        x = keras.layers.Rescaling(1 / 127.5, offset=-1)(inputs)  # tells what pixels it takes
        if name == "m":
            x = keras.layers.Conv2D(8, 3, 2, activation="relu", name="block_6_add")(x)
            x = keras.layers.Conv2D(8, 3, activation="relu", name="block_12_add")(x)
        x = keras.layers.Conv2D(32, 5, 4, activation="relu", name=layer)(x)
        x = keras.layers.GlobalAveragePooling2D()(x)
        network = keras.Model(inputs, keras.layers.Dense(1000, activation="softmax")(x))
        network.compile("adam", "categorical_crossentropy")  # Keras has something to say of it
        network.save(folder / f"{name}.keras")
        network.save(folder / f"{name}.h5")
    entries = imagenet_names().entries
    (folder / "imagenet.json").write_text(json.dumps(entries))
    for k in (0, 217, 482):
        (folder / "photos" / entries[k][0]).mkdir(parents=True)
        for n, image in enumerate(make_images(12, (48, 56, 3), seed=k)):
            pixels = Image.fromarray((255 * image).astype(np.uint8))
            pixels.save(folder / "photos" / entries[k][0] / f"{n}.png")
    return folder


def stderr_of(commands, folder):
    """Return what commands print on stderr, all of them in one fresh process."""
    settings = {name: value for name, value in os.environ.items() if not name.startswith("TF_")}
    settings["PYTHONPATH"] = os.pathsep.join([str(Path(cli.__file__).parents[2]), *sys.path])
    ran = subprocess.run(
        [sys.executable, "-c", PROGRAM, json.dumps(commands)],
        capture_output=True, text=True, cwd=folder, env=settings,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    return ran.stderr


def foreign(text):
    """Return the lines that are not a command's own."""
    return [line for line in text.splitlines() if not OWN.fullmatch(line)]


def test_the_lines_of_tensorflow_are_recognised_as_foreign():
    assert len(foreign(
        "2026-01-01 00:00:00.0: I tensorflow/core/util/port.cc:153] oneDNN operations are on\n"
        "WARNING:tensorflow:5 out of the last 5 calls to <function> triggered retracing\n"
        "WARNING:absl:You are saving your model as an HDF5 file\n"
        "I0000 00:00:1.1 1 service.cc:148] XLA service initialized\n"
        "1/4 ━━━━━━━ 0s 20ms/step\n"
    )) == 5  # fmt: skip


@pytest.mark.slow
def test_commands_print_no_line_of_another_library_on_stderr(place, tmp_path):
    given = ["--images", "photos", "--layer", "out_relu", "--preprocessing", "symmetric"]
    given += ["--concepts", "4"]
    pairs = ["--pairs", str(tmp_path / "concepts" / "pairs.npz")]
    commands = [["layers", "--model", "m.h5"]] + [
        [command, "--model", "m.keras", *given, *options, "--output", str(tmp_path / output)]
        for command, output, options in (
            ("fit", "concepts", []),
            ("report", "report", ["--beside", "CRAFT", "TopK SAE"]),
            ("compare", "comparison", pairs),
        )
    ]
    removed = ["--suppress", "1", "--output", str(tmp_path / "corrected")]
    commands += [["correct", "--model", "m.h5", *given[:-2], *pairs, *removed]]
    printed = stderr_of(commands, place)
    assert not foreign(printed)
    assert printed.startswith("• start TensorFlow … (0:0")
    assert "importances: class 3 of 3" in printed


def examples():
    """Return the examples in the help of every command but the demo, in the order of the help.

    Those that need a connectome are the last ones.
    """
    lines = []
    for name, command in COMMANDS.items():
        text = command.__doc__.replace("\\\n", " ")
        found = re.findall(r"^ *xplique-dirpairs (.+)$", text, flags=re.MULTILINE)
        lines += [re.split(r" && | > ", line)[0] for line in found if name != "demo"]
    return sorted(lines, key=lambda line: "--connectome" in line)


@pytest.mark.slow
def test_the_examples_of_the_help_run_one_after_the_other(place, monkeypatch, capsys):
    monkeypatch.chdir(place)
    monkeypatch.setenv("MPLBACKEND", "Agg")
    assert len(examples()) >= 16
    for line in examples():
        arguments = shlex.split(line, comments=True)
        if "c" in arguments:  # a third model, and all of them moved
            shutil.copytree("b", "c")
            for name in ("b", "c"):
                Path("moved").mkdir(exist_ok=True)
                shutil.copy("b.keras", f"moved/{name}.keras")
        if "report_of_another_model" in arguments:
            shutil.copytree("report", "report_of_another_model")
        status = cli.main(arguments)
        printed = capsys.readouterr()
        lists_layers = arguments[0] == "fit" and "--layer" not in arguments
        assert status == (2 if lists_layers else 0), f"{line}\n{printed.err}"
        if lists_layers:
            assert "Start with --layer out_relu" in printed.err
        elif "--json" not in arguments:
            assert re.search(r"([Oo]pen|[Ss]tart with) \S+", printed.out.splitlines()[-1])
