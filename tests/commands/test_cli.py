import re
import shlex
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from xplique_dirpairs.commands import cli
from xplique_dirpairs.commands.options import COMMANDS
from xplique_dirpairs.demo import run as demo_run
from xplique_dirpairs.learning.presets import RECIPES
from xplique_dirpairs.version import __version__

ROOT = Path(__file__).parents[2]


@pytest.fixture
def demo(monkeypatch):
    """Replaces the demo: ``calls`` lists its arguments, ``raises`` is the exception to raise."""
    record = SimpleNamespace(calls=[], raises=None)

    def run_demo(*arguments):
        record.calls.append(arguments)
        raise record.raises

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
    assert "xplique-dirpairs demo --output pictures --concepts 32 --seed 1" in text
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


# ------------------------------------------------------------------ errors


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ([], "required: COMMAND"),
        (["dream"], "invalid choice: 'dream'"),
        (["demo", "--concepts", "1"], "must be from 2 to 64, not 1"),
        (["demo", "--concepts", "65"], "must be from 2 to 64, not 65"),
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
