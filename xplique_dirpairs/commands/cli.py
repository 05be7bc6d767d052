"""The command line: ``xplique-dirpairs``.

TensorFlow and Xplique take seconds to import: only a command that runs imports them.
"""

from __future__ import annotations

import argparse
import os
import sys
import traceback
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

from xplique_dirpairs.commands.console import Console, UsageError
from xplique_dirpairs.commands.options import COMMANDS, DESCRIPTION, STATUS
from xplique_dirpairs.version import __version__

OK, ERROR, USAGE, INTERRUPTED = 0, 1, 2, 130


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command and return the exit status."""
    try:
        arguments = parser().parse_args(argv)
    except SystemExit as stop:  # argparse has printed the error, or the help
        return int(stop.code or OK)
    try:
        _run(arguments)
        return OK
    except KeyboardInterrupt:
        print("\nxplique-dirpairs: interrupted", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:  # whoever read the result has gone: no one is left to tell
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115 (for Python's last flush)
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
    """Return the parser of all commands."""
    style = argparse.RawDescriptionHelpFormatter
    whole = argparse.ArgumentParser(
        prog="xplique-dirpairs",
        description=DESCRIPTION,
        epilog=_epilog("demo"),
        formatter_class=style,
    )
    whole.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    commands = whole.add_subparsers(
        title="commands", metavar="COMMAND", required=True, dest="command"
    )
    for name, command in COMMANDS.items():
        one = commands.add_parser(
            name,
            help=command.help,
            description=command.description,
            epilog=_epilog(name),
            formatter_class=style,
        )
        for flag, settings in command.options:
            one.add_argument(flag, **settings)
        one.add_argument(
            "--json", action="store_true", help="print the result as JSON, and nothing else"
        )
        amount = one.add_mutually_exclusive_group()
        amount.add_argument(
            "--verbose", action="store_true", help="show TensorFlow's messages and tracebacks, too"
        )
        amount.add_argument("--quiet", action="store_true", help="show only errors (and JSON)")
    return whole


def _epilog(name: str) -> str:
    return f"examples:\n{COMMANDS[name].examples}\n\n{STATUS}"


def _run(arguments: argparse.Namespace) -> None:
    _check_paths(arguments)
    if not arguments.verbose:  # before TensorFlow is imported
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ["MPLBACKEND"] = "Agg"  # pictures go to files; there may be no screen
    console = Console(arguments.quiet, arguments.json, arguments.verbose)
    console.step("start TensorFlow")
    if arguments.command == "demo":
        _run_demo(arguments, console)
        return
    module = "network" if arguments.command == "layers" else arguments.command
    import_module(f"xplique_dirpairs.commands.{module}").run(arguments, console)


def _run_demo(arguments: argparse.Namespace, console: Console) -> None:
    with console.running():
        demo = import_module("xplique_dirpairs.demo.run")
        summary = demo.run_demo(
            arguments.output, arguments.concepts, arguments.seed, console.progress
        )
    console.result(
        f"\n{summary.text()}\n\nEverything is in {arguments.output}/: start with summary.md",
        {
            "command": "demo",
            "version": __version__,
            "seed": arguments.seed,
            "accuracy": summary.accuracy,
            "importances": summary.importances,
            "ink_auc": summary.ink_auc,
            "seconds": summary.seconds,
            "output": arguments.output,
            "written": [f"{name}.png" for name in summary.figures],
        },
    )


def _check_paths(arguments: argparse.Namespace) -> None:
    """Raise an OSError, before anything takes time, if a path is not of the kind it should be."""
    for name in ("model", "pairs", "class_names", "images"):
        path = getattr(arguments, name, None)
        if path is None:
            continue
        option, wanted = f"--{name.replace('_', '-')}", "folder" if name == "images" else "file"
        if not path.exists():
            raise FileNotFoundError(f"{option}: there is no {wanted} {path}")
        _check_kind(option, path, wanted)
    output = getattr(arguments, "output", None)
    if output is not None and output.exists():
        wanted = "file" if getattr(arguments, "single_file", False) else "folder"
        _check_kind("--output", output, wanted)


def _check_kind(option: str, path: Path, wanted: str) -> None:
    kind = "folder" if path.is_dir() else "file"
    if kind != wanted:
        raise OSError(f"{option} must be a {wanted}, but {path} is a {kind}")
