import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from xplique_dirpairs.commands import cli
from xplique_dirpairs.commands.options import COMMANDS
from xplique_dirpairs.demo import run as demo_run
from xplique_dirpairs.learning.presets import RECIPES
from xplique_dirpairs.pairs import DirectionPairs
from xplique_dirpairs.version import __version__

ROOT = Path(__file__).parents[2]
#: A result of the demo with the attributes that the command line reads.
RESULT = SimpleNamespace(
    text=lambda: "the results",
    accuracy=0.9,
    importances={"CRAFT": np.array([0.5, np.nan])},
    ink_auc={},
    seconds={},
    figures=["maps"],
)


@pytest.fixture
def demo(monkeypatch):
    """Replaces the demo: ``calls`` lists its arguments, ``raises`` is the exception to raise."""
    record = SimpleNamespace(calls=[], raises=None)

    def run_demo(*arguments):
        record.calls.append(arguments)
        if record.raises is not None:
            raise record.raises
        return RESULT

    monkeypatch.setattr(demo_run, "run_demo", run_demo)
    monkeypatch.setenv("MPLBACKEND", "Agg")
    return record


# ------------------------------------------------------------------ help


def test_help_imports_neither_tensorflow_nor_xplique():
    program = (
        "import sys; from xplique_dirpairs.commands.cli import main; status = main(['--help']); "
        "heavy = {'tensorflow', 'keras', 'xplique', 'matplotlib', 'sklearn', 'numpy'}; "
        "print(sorted(heavy & set(sys.modules)), status)"
    )
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert ran.stdout.splitlines()[-1] == "[] 0"


@pytest.mark.parametrize("arguments", [["--help"], ["demo", "--help"]])
def test_help_shows_examples(arguments, capsys):
    assert cli.main(arguments) == 0
    text = capsys.readouterr().out
    assert "xplique-dirpairs demo --output pictures --concepts 12 --seed 1" in text
    assert "exit status" in text


def test_the_help_lists_every_recipe(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "500")  # wide enough that no name is wrapped at its hyphen
    assert cli.main(["fit", "--help"]) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert f"how pairs are learned: {', '.join(RECIPES)}" in text


def example_commands():
    """Return every command line in the help, the README and the pages of docs/."""
    texts = [cli.__doc__, *(command.__doc__ for command in COMMANDS.values())]
    texts += [path.read_text(encoding="utf-8") for path in (ROOT / "docs").glob("*.md")]
    texts.append((ROOT / "README.md").read_text(encoding="utf-8"))
    text = "\n".join(texts).replace("\\\n", " ")
    lines = re.findall(r"^ *xplique-dirpairs (.+)$", text, flags=re.MULTILINE)
    return sorted({re.split(r" && | > ", line)[0] for line in lines} - {"COMMAND --help"})


@pytest.mark.parametrize("line", example_commands())
def test_every_example_can_be_parsed(line):
    arguments = cli.parser().parse_args(shlex.split(line, comments=True))
    assert arguments.command == line.split()[0]


def test_every_command_has_examples():
    commands = {line.split()[0] for line in example_commands()}
    assert commands == set(COMMANDS)


def test_the_package_runs_as_a_module():
    ran = subprocess.run(
        [sys.executable, "-m", "xplique_dirpairs", "--version"], capture_output=True, text=True
    )
    assert (ran.returncode, ran.stdout.strip()) == (0, f"xplique-dirpairs {__version__}")


# ------------------------------------------------------------------ arguments of the demo


def test_the_demo_without_options_uses_the_defaults(demo, capsys):
    assert cli.main(["demo"]) == 0
    [(output, concepts, seed, verbose)] = demo.calls
    assert (str(output), concepts, seed, verbose) == ("demo", 10, 0, 1)
    text = capsys.readouterr().out
    assert "the results" in text
    assert "demo/: start with summary.md" in text


def test_every_option_reaches_the_demo(demo, tmp_path, capsys):
    command = ["demo", "--output", str(tmp_path), "--concepts", "7", "--seed", "3", "--quiet"]
    assert cli.main(command) == 0
    assert demo.calls == [(tmp_path, 7, 3, 0)]
    assert capsys.readouterr().out == ""


# ------------------------------------------------------------------ errors


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ([], "required: COMMAND"),
        (["dream"], "invalid choice: 'dream'"),
        (["demo", "--concepts", "1"], "must be from 2 to 16, not 1"),
        (["demo", "--concepts", "17"], "must be from 2 to 16, not 17"),
        (["demo", "--concepts", "ten"], "must be a whole number, not 'ten'"),
        (["demo", "--seed", "-1"], "must be from 0"),
        (["demo", "--quiet", "--verbose"], "not allowed with"),
        (["demo", "--frobnicate"], "unrecognized arguments"),
    ],
)
def test_wrong_usage_ends_with_status_2_and_the_reason(arguments, complaint, capsys, demo):
    assert cli.main(arguments) == 2
    assert complaint in capsys.readouterr().err
    assert not demo.calls


def test_an_error_is_one_line_and_ends_with_status_1(demo, capsys):
    demo.raises = RuntimeError("the disk\nis full")
    assert cli.main(["demo", "--quiet"]) == 1
    assert capsys.readouterr().err == "xplique-dirpairs: error: the disk is full\n"


def test_verbose_shows_the_traceback_of_an_error(demo, capsys):
    demo.raises = RuntimeError("the disk is full")
    assert cli.main(["demo", "--verbose"]) == 1
    assert "Traceback" in capsys.readouterr().err


def test_an_output_that_is_a_file_is_an_error_before_the_demo_runs(demo, tmp_path, capsys):
    file = tmp_path / "file"
    file.write_text("")
    assert cli.main(["demo", "--output", str(file)]) == 1
    assert capsys.readouterr().err.count("\n") == 1
    assert not demo.calls


def test_an_interruption_ends_with_status_130(demo, capsys):
    demo.raises = KeyboardInterrupt()
    assert cli.main(["demo"]) == 130
    assert "interrupted" in capsys.readouterr().err


# ------------------------------------------------------------------ the complete demo


@pytest.mark.slow
def test_the_demo_trains_a_network_and_writes_pictures(tmp_path):
    command = [sys.executable, "-m", "xplique_dirpairs", "demo", "--output", str(tmp_path)]
    ran = subprocess.run(command, capture_output=True, text=True, env=os.environ, timeout=600)
    assert ran.returncode == 0, ran.stderr[-2000:]
    assert "direction pairs" in ran.stdout
    text = (tmp_path / "summary.md").read_text(encoding="utf-8")
    pictures = sorted(tmp_path.glob("*.png"))
    assert len(pictures) >= 9
    for picture in pictures:
        assert f"({picture.name})" in text
        assert np.asarray(Image.open(picture)).std() > 10
    assert DirectionPairs.load(tmp_path / "pairs.npz").number_of_concepts == 10
    seconds = seconds_by_step(text)
    assert seconds["everything"] < 180
    # The network is saved, so that the next run can load it.
    assert list(tmp_path.glob("small_cnn_seed0.keras"))


def seconds_by_step(markdown):
    lines = markdown.split("## Time")[1].split("## Pictures")[0].splitlines()
    rows = [line.strip("| ").split(" | ") for line in lines if line.startswith("| ")]
    return {name: float(value) for name, value in rows[1:]}
