"""The command line: ``xplique-dirpairs``.

TensorFlow and Xplique take seconds to import: only a command that runs imports them. What commands
do is in ``commands``; here is how they are called.
"""

from __future__ import annotations

import argparse
import os
import sys
import traceback
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from xplique_dirpairs.commands import cli_texts as texts
from xplique_dirpairs.commands import cli_values as values
from xplique_dirpairs.commands.extractor_list import NAMES
from xplique_dirpairs.version import __version__

OK, ERROR, USAGE, INTERRUPTED = 0, 1, 2, 130


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit status."""
    try:
        arguments = _parser().parse_args(argv)
    except SystemExit as stop:  # argparse has said what was wrong, or shown the help
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
        if type(error).__name__ == "UsageError":  # its class is not imported before it is raised
            print(f"xplique-dirpairs {arguments.command}: {error}", file=sys.stderr)
            return USAGE
        what = " ".join(str(error).split()) or type(error).__name__
        print(f"xplique-dirpairs: error: {what}", file=sys.stderr)
        return ERROR


def _run(arguments: argparse.Namespace) -> None:
    _check_paths(arguments)
    if not arguments.verbose:  # before TensorFlow is imported
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ["MPLBACKEND"] = "Agg"  # pictures go to files; there may be no screen
    if not arguments.quiet:
        print("• start TensorFlow …", file=sys.stderr, flush=True)
    console = import_module("xplique_dirpairs.commands.console").Console(
        arguments.quiet, arguments.json, arguments.verbose
    )
    import_module(f"xplique_dirpairs.commands.{arguments.command}").run(arguments, console)


def _check_paths(arguments: argparse.Namespace) -> None:
    """Files and folders are what they should be; said before anything takes time."""
    for name in ("model", "pairs", "class_names", "images"):
        path = getattr(arguments, name, None)
        if path is None:
            continue
        option, wanted = f"--{name.replace('_', '-')}", "folder" if name == "images" else "file"
        if not path.exists():
            raise FileNotFoundError(f"{option}: there is no {wanted} {path}")
        if path.is_dir() != (wanted == "folder"):
            came = "folder" if path.is_dir() else "file"
            raise OSError(f"{option} must be a {wanted}, but {path} is a {came}")
    output = getattr(arguments, "output", None)
    to_file = getattr(arguments, "single_file", False)
    if output is not None and output.exists() and output.is_dir() == to_file:
        wanted, came = ("file", "folder") if to_file else ("folder", "file")
        raise OSError(f"--output must be a {wanted}, but {output} is a {came}")


# -------------------------------------------------------------------- parsers


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="xplique-dirpairs",
        description=texts.DESCRIPTION,
        epilog=texts.EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    commands = parser.add_subparsers(
        title="commands", metavar="COMMAND", required=True, dest="command"
    )
    _add_demo(commands)
    _add_layers(commands)
    _add_fit(commands)
    _add_compare(commands)
    _add_report(commands)
    _add_correct(commands)
    return parser


def _command(commands: Any, name: str, help: str, description: str, epilog: str):
    return commands.add_parser(
        name,
        help=help,
        description=description,
        epilog=epilog,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def _add_demo(commands: Any) -> None:
    demo = _command(
        commands, "demo", "explain a small network with direction pairs and with CRAFT",
        texts.DEMO, texts.EXAMPLES,
    )  # fmt: skip
    _add_output(demo, "demo")
    demo.add_argument(
        "--concepts",
        type=values.demo_concepts,
        default=10,
        metavar="N",
        help="number of concepts of both methods, 2 to 16: CRAFT has 16 colours (default: 10)",
    )
    _add_seed(demo, "of the pictures, the network and the learning (default: 0)")
    _add_amount(demo)


def _add_layers(commands: Any) -> None:
    layers = _command(
        commands, "layers", "list the layers that a model can be cut at",
        texts.LAYERS, texts.LAYERS_EXAMPLES,
    )  # fmt: skip
    _add_model(layers)
    layers.add_argument(
        "--all", action="store_true", help="every layer, and why it cannot be cut there"
    )
    _add_amount(layers)


def _add_fit(commands: Any) -> None:
    fit = _command(
        commands, "fit", "learn the concepts of a layer, and what each class uses of them",
        texts.FIT, texts.FIT_EXAMPLES,
    )  # fmt: skip
    _add_subject(fit)
    _add_learning(fit)
    fit.add_argument(
        "--resume",
        type=Path,
        metavar="DIR",
        help="keeps the state of the learning in this folder, and goes on from what is there",
    )
    _add_output(fit, "concepts")
    _add_amount(fit)


def _add_compare(commands: Any) -> None:
    compare = _command(
        commands, "compare", "measure several concept extractors on the same images",
        texts.COMPARE, texts.COMPARE_EXAMPLES,
    )  # fmt: skip
    _add_subject(compare)
    compare.add_argument(
        "--extractors",
        type=values.extractor,
        nargs="+",
        default=["pairs", "CRAFT", "PCA"],
        metavar="NAME",
        help=f"of {', '.join(NAMES)} (default: pairs CRAFT PCA)",
    )
    _add_pairs(compare)
    _add_learning(compare)
    _add_held_out(compare)
    _add_output(compare, "comparison")
    _add_amount(compare)


def _add_report(commands: Any) -> None:
    report = _command(
        commands, "report", "write an HTML report of concepts, classes and images",
        texts.REPORT, texts.REPORT_EXAMPLES,
    )  # fmt: skip
    _add_subject(report)
    report.add_argument(
        "--beside",
        type=values.extractor,
        nargs="+",
        default=[],
        metavar="NAME",
        help=f"extractors to compare with: of {', '.join(NAMES[1:])}",
    )
    _add_pairs(report)
    _add_learning(report)
    _add_held_out(report)
    report.add_argument("--title", metavar="TEXT", help="of the report")
    report.add_argument(
        "--no-counterfactuals",
        action="store_true",
        help="leave out what would change each image's prediction",
    )
    report.add_argument(
        "--single-file",
        action="store_true",
        help="one HTML file: --output is its name; learned pairs lie beside it",
    )
    _add_output(report, "report")
    _add_amount(report)


def _add_correct(commands: Any) -> None:
    correct = _command(
        commands, "correct", "make a model that no longer uses some concepts",
        texts.CORRECT, texts.CORRECT_EXAMPLES,
    )  # fmt: skip
    _add_subject(correct)
    _add_pairs(correct, required=True)
    correct.add_argument(
        "--suppress",
        type=values.concept,
        nargs="+",
        required=True,
        metavar="CONCEPT",
        help="numbers of the concepts to take away",
    )
    correct.add_argument(
        "--off",
        choices=["undecided", "absent"],
        default="undecided",
        help="where detected concepts are moved to: their hyperplanes, or the level they have "
        "where they are not detected (default: undecided)",
    )
    correct.add_argument(
        "--k",
        type=values.positive,
        metavar="K",
        help="the paper's formula instead, with this strength in the features' units",
    )
    _add_output(correct, "corrected")
    _add_amount(correct)


# -------------------------------------------------------------------- options that commands share


def _add_model(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--model", type=Path, required=True, metavar="FILE", help="a Keras model: .keras or .h5"
    )
    parser.add_argument(
        "--import",
        dest="imports",
        action="append",
        default=[],
        metavar="MODULE",
        help="a module that registers layers of your own; may be given again",
    )


def _add_subject(parser: argparse.ArgumentParser) -> None:
    _add_model(parser)
    parser.add_argument(
        "--images",
        type=Path,
        required=True,
        metavar="DIR",
        help="images (jpg, png, webp, bmp, gif), or a folder of them for each class",
    )
    parser.add_argument(
        "--layer",
        metavar="NAME",
        help="name or number of the layer; left out, a table of candidates is shown",
    )
    parser.add_argument(
        "--preprocessing",
        metavar="NAME",
        help="what the model takes: none (0 to 255), unit (0 to 1), symmetric (-1 to 1), a network "
        "of keras.applications such as mobilenet_v2 or resnet50, or module:function of your own. "
        "May be left out where the model itself scales its input",
    )
    parser.add_argument(
        "--size",
        type=values.size,
        metavar="N or HxW",
        help="side of the images in pixels, for a model that takes any",
    )
    parser.add_argument(
        "--max-images",
        type=values.count,
        default=500,
        metavar="N",
        help="at most so many images, evenly of all classes (default: 500)",
    )
    parser.add_argument(
        "--class-names",
        type=Path,
        metavar="FILE",
        help="names of the model's outputs, in order: one a line, or a JSON list. Class folders "
        "are found by them; without it they are the outputs in sorted order, if as many",
    )
    parser.add_argument(
        "--classes", nargs="+", metavar="CLASS", help="only these, by name or number"
    )
    _add_seed(parser, "of the choice of images and of the learning (default: 0)")


def _add_learning(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--concepts",
        type=values.concepts,
        default=20,
        metavar="N",
        help="how many, or auto: as many as the features tell, if they do (default: 20)",
    )
    parser.add_argument(
        "--recipe",
        default="default",
        metavar="NAME",
        help="how pairs are learned: default, soft, constrained, paper-deep, paper-synthetic, "
        "uibe, cbe",
    )


def _add_pairs(parser: argparse.ArgumentParser, required: bool = False) -> None:
    parser.add_argument(
        "--pairs",
        type=Path,
        required=required,
        metavar="FILE",
        help='pairs learned before: pairs.npz of "fit", which remembers layer and preprocessing',
    )


def _add_held_out(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--held-out",
        type=values.share,
        default=0.3,
        metavar="SHARE",
        help="share of the images that is not learned from, but measured on (default: 0.3)",
    )


def _add_output(parser: argparse.ArgumentParser, folder: str) -> None:
    parser.add_argument(
        "--output",
        type=Path,
        default=Path(folder),
        metavar="DIR",
        help=f"folder to write to; made if it is not there (default: {folder})",
    )


def _add_seed(parser: argparse.ArgumentParser, help: str) -> None:
    parser.add_argument("--seed", type=values.seed, default=0, metavar="S", help=help)


def _add_amount(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--json", action="store_true", help="the result as JSON, and nothing else on stdout"
    )
    amount = parser.add_mutually_exclusive_group()
    amount.add_argument(
        "--verbose", action="store_true", help="TensorFlow's messages, and tracebacks, too"
    )
    amount.add_argument("--quiet", action="store_true", help="only errors (and JSON)")
