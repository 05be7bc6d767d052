"""The command line: ``xplique-dirpairs``.

TensorFlow and Xplique take seconds to import: only a command that runs imports them.
"""

from __future__ import annotations

import argparse
import os
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path

from xplique_dirpairs.version import __version__

OK, ERROR, USAGE, INTERRUPTED = 0, 1, 2, 130

DESCRIPTION = """\
Concepts of Keras image classifiers as encoding-decoding direction pairs, where
Xplique's CRAFT stood.

Start with

    xplique-dirpairs demo

which trains a small network on pictures that come with the installed packages,
explains one of its classes with direction pairs and with CRAFT, and writes
pictures and a summary to the folder "demo" (about 2 minutes).
"""

DEMO = """\
Explain a small network with direction pairs and with CRAFT, side by side.

Pictures of handwritten digits set into photographs are made (nothing is
downloaded), a small convolutional network learns to name photograph and digit,
and both methods look for the concepts of one class in its last convolutional
layer. Written to DIR:

    summary.md, summary.txt     findings, importances, times
    1_pictures.png …            concepts with their best crops, maps, importances,
                                detections, one set of pairs for all classes
    pairs.npz                   the learned pairs: DirectionPairs.load(path)
    small_cnn_seed*.keras       the network; the next run loads it

It takes about 2 minutes on 2 cores, and less when the network is there already.
"""

EXAMPLES = """\
examples:
    xplique-dirpairs demo
    xplique-dirpairs demo --output pictures --concepts 12 --seed 1
    xplique-dirpairs demo --quiet && cat demo/summary.txt

exit status: 0 all went well, 1 an error (one line says which), 2 wrong usage,
130 interrupted.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit status."""
    try:
        arguments = _parser().parse_args(argv)
    except SystemExit as stop:  # argparse has said what was wrong, or shown the help
        return int(stop.code or OK)
    try:
        return arguments.run(arguments)
    except KeyboardInterrupt:
        print("\nxplique-dirpairs: interrupted", file=sys.stderr)
        return INTERRUPTED
    except Exception as error:
        if arguments.verbose:
            traceback.print_exc()
        what = " ".join(str(error).split()) or type(error).__name__
        print(f"xplique-dirpairs: error: {what}", file=sys.stderr)
        return ERROR


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="xplique-dirpairs",
        description=DESCRIPTION,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    demo = commands.add_parser(
        "demo",
        help="explain a small network with direction pairs and with CRAFT, side by side",
        description=DEMO,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    demo.add_argument(
        "--output",
        type=Path,
        default=Path("demo"),
        metavar="DIR",
        help="folder to write to; made if it is not there (default: demo)",
    )
    demo.add_argument(
        "--concepts",
        type=_number_of_concepts,
        default=10,
        metavar="N",
        help="number of concepts of both methods, 2 to 16: CRAFT has 16 colours (default: 10)",
    )
    demo.add_argument(
        "--seed",
        type=_seed,
        default=0,
        metavar="S",
        help="of the pictures, the network and the learning (default: 0)",
    )
    amount = demo.add_mutually_exclusive_group()
    amount.add_argument(
        "--verbose", action="store_true", help="TensorFlow's messages, and tracebacks, too"
    )
    amount.add_argument("--quiet", action="store_true", help="only errors")
    demo.set_defaults(run=_demo)
    return parser


def _number_of_concepts(text: str) -> int:
    number = _integer(text)
    if not 2 <= number <= 16:
        raise argparse.ArgumentTypeError(f"must be from 2 to 16, not {number}")
    return number


def _seed(text: str) -> int:
    number = _integer(text)
    if not 0 <= number < 2**32:
        raise argparse.ArgumentTypeError(f"must be from 0 to 2**32 - 1, not {number}")
    return number


def _integer(text: str) -> int:
    try:
        return int(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"must be a whole number, not {text!r}") from error


def _demo(arguments: argparse.Namespace) -> int:
    if arguments.output.exists() and not arguments.output.is_dir():
        raise NotADirectoryError(f"--output must be a folder, but {arguments.output} is a file")
    if not arguments.verbose:  # before TensorFlow is imported
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ["MPLBACKEND"] = "Agg"  # pictures go to files; there may be no screen
    if not arguments.quiet:
        print("• start TensorFlow …", flush=True)
    from xplique_dirpairs.demo import run_demo

    verbose = 0 if arguments.quiet else 1
    summary = run_demo(arguments.output, arguments.concepts, arguments.seed, verbose)
    if not arguments.quiet:
        print(f"\n{summary.text()}\n")
        print(f"Everything is in {arguments.output}/: start with summary.md")
    return OK
