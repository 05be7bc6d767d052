"""Concepts of Keras image classifiers as encoding-decoding direction pairs.

They can be used in place of Xplique's CRAFT. Start with

    xplique-dirpairs demo

which draws scenes whose truth is known, learns concepts of a small network with
direction pairs and with CRAFT, finds a planted shortcut and switches it off, and
writes pictures, a summary and an HTML report to the folder "demo" (about a minute).

With a model and images of your own: list the layers, then write a report.

    xplique-dirpairs layers --model m.keras
    xplique-dirpairs report --model m.keras --images photos --layer out_relu

"photos" holds one folder of images for each class, or images without classes. For
a model of videos it holds folders of frames, animations or video files instead.
"""

from __future__ import annotations

import argparse
import os
import sys
import traceback
import unicodedata
from collections.abc import Callable, Sequence
from importlib import import_module
from inspect import cleandoc
from pathlib import Path

from xplique_dirpairs.commands.console import Console, UsageError
from xplique_dirpairs.commands.options import COMMANDS
from xplique_dirpairs.commands.outputs import check_can_write
from xplique_dirpairs.commands.streams import discard_stdout, safe_streams
from xplique_dirpairs.core.settings import check_settings
from xplique_dirpairs.version import __version__

OK, ERROR, USAGE, INTERRUPTED = 0, 1, 2, 130
#: The last lines of the help of every command.
STATUS = (
    "exit status: 0 success, 1 an error (one line on stderr says which), 2 wrong usage,\n"
    "130 interrupted."
)
#: Name of an option that takes a path → what must be at the path.
PATHS = {"model": "file", "pairs": "file", "class_names": "file", "weights": "file"}
PATHS |= {"images": "folder", "connectome": "file"}


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command and return its exit status.

    Parameters
    ----------
    argv : sequence of str, optional
        The command and its options; by default those of the process.

    Returns
    -------
    status : int
        0 success, 1 an error, 2 wrong usage, 130 interrupted.
    """
    with safe_streams():
        try:
            arguments = parser().parse_args(argv)
        except SystemExit as stop:  # argparse has printed the error, or the help
            return int(stop.code or OK)
        return _status(arguments)


def _status(arguments: argparse.Namespace) -> int:
    """Run a command and return its exit status; an error is printed in one line."""
    try:
        _run(arguments)
        return OK
    except KeyboardInterrupt:
        print("\nxplique-dirpairs: interrupted", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:  # the reader has closed the pipe: nobody can be told
        discard_stdout()
        return ERROR
    except Exception as error:
        if arguments.verbose:
            traceback.print_exc()
        if isinstance(error, UsageError):
            print(f"xplique-dirpairs {arguments.command}: {error}", file=sys.stderr)
            return USAGE
        message = " ".join(str(error).split()) or type(error).__name__
        print(f"xplique-dirpairs: error: {message}", file=sys.stderr)
        return ERROR


def parser() -> argparse.ArgumentParser:
    """Return the argument parser of all commands."""
    style = argparse.RawDescriptionHelpFormatter
    _, demo_examples = _help_of(COMMANDS["demo"])
    program = argparse.ArgumentParser(
        prog="xplique-dirpairs", description=__doc__, epilog=demo_examples, formatter_class=style
    )
    program.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    commands = program.add_subparsers(
        title="commands", metavar="COMMAND", required=True, dest="command"
    )
    for name, options in COMMANDS.items():
        text, examples = _help_of(options)
        summary = text[:1].lower() + text.partition("\n")[0][1:].rstrip(".")
        command = commands.add_parser(
            name, help=summary, description=text, epilog=examples, formatter_class=style
        )
        for flag, settings in options():
            command.add_argument(flag, **settings)
        command.add_argument(
            "--json", action="store_true", help="print the result as JSON, and nothing else"
        )
        amount = command.add_mutually_exclusive_group()
        amount.add_argument(
            "--verbose", action="store_true", help="also show TensorFlow's messages and tracebacks"
        )
        amount.add_argument("--quiet", action="store_true", help="show only errors (and JSON)")
    return program


def _help_of(command: Callable[..., object]) -> tuple[str, str]:
    """Return the description of a command, and its examples followed by the exit statuses."""
    text, title, examples = cleandoc(command.__doc__ or "").partition("examples:\n")
    return text, f"{title}{examples}\n\n{STATUS}"


def _run(arguments: argparse.Namespace) -> None:
    """Check settings and paths of a command, import its module and run it."""
    check_settings()
    _check_paths(arguments)
    if not arguments.verbose:  # before TensorFlow is imported
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ["MPLBACKEND"] = "Agg"  # pictures go to files; there may be no screen
    console = Console(arguments.quiet, arguments.json, arguments.verbose)
    console.step("start TensorFlow")
    # TensorFlow and Xplique take seconds to import: only a command that runs imports them.
    module = "network" if arguments.command == "layers" else arguments.command
    import_module(f"xplique_dirpairs.commands.{module}").run(arguments, console)


def _check_paths(arguments: argparse.Namespace) -> None:
    """Raise an OSError if a path is missing or of the wrong kind, before any slow step starts."""
    for name, kind in PATHS.items():
        path = getattr(arguments, name, None)
        option = f"--{name.replace('_', '-')}"
        if path is not None and not path.exists():
            path = _in_other_form(path)
            if path is None:
                missing = getattr(arguments, name)
                raise FileNotFoundError(f"{option}: there is no {kind} {missing}")
            setattr(arguments, name, path)
        if path is None or not (path / "saved_model.pb").exists():  # loading says what to do
            _check_kind(option, path, kind)
    output = getattr(arguments, "output", None)
    if output is not None:
        is_file = getattr(arguments, "single_file", False)
        _check_kind("--output", output, "file" if is_file else "folder")
        if not is_file:
            _check_apart(output, getattr(arguments, "images", None))
        check_can_write(output.parent if is_file else output)


def _check_apart(output: Path, images: Path | None) -> None:
    """Raise an OSError if pictures would be written among the images, and be read as some later."""
    if images is not None and output.resolve().is_relative_to(images.resolve()):
        raise OSError(
            f"--output: {output} is inside --images {images}, where its pictures would count as "
            "images: choose another place"
        )


def _in_other_form(path: Path) -> Path | None:
    """Return a path that exists and is the same text in a Unicode form; None if none does."""
    forms = (Path(unicodedata.normalize(form, str(path))) for form in ("NFC", "NFD"))
    return next((form for form in forms if form.exists()), None)


def _check_kind(option: str, path: Path | None, wanted: str) -> None:
    """Raise an OSError if a path exists and is not of the wanted kind, "file" or "folder"."""
    if path is None or not path.exists():
        return
    kind = "folder" if path.is_dir() else "file"
    if kind != wanted:
        raise OSError(f"{option} must be a {wanted}, but {path} is a {kind}")
