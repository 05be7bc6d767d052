"""The command ``demo``: built-in scenes, or a network of `keras.applications` and own images."""

from __future__ import annotations

import argparse
import os
import sys
import webbrowser
from pathlib import Path
from typing import Any

from xplique_dirpairs.commands.console import Console, UsageError
from xplique_dirpairs.commands.keras_network import show_network
from xplique_dirpairs.demo import run as scenes
from xplique_dirpairs.version import __version__

#: Options that belong to --network.
_OF_NETWORK = ("images", "weights", "download")


def run(arguments: argparse.Namespace, console: Console) -> None:
    """Run the demo, print its results, and open the report."""
    if arguments.network is None:
        given = [f"--{name}" for name in _OF_NETWORK if getattr(arguments, name)]
        if given:
            raise UsageError(f"{given[0]} belongs to --network NAME, which is missing")
        with console.running():
            text, results = _on_scenes(arguments, console)
    else:
        with console.running():
            text, results = show_network(arguments, console)
    page = results["page"]
    shared = {"command": "demo", "version": __version__, "seed": arguments.seed}
    console.result(
        f"\n{text}\n\nEverything is in {arguments.output}/: start with summary.md, or open {page}",
        {**shared, **results, "output": arguments.output},
    )
    if may_open(arguments):
        webbrowser.open(page.resolve().as_uri())


def may_open(arguments: argparse.Namespace) -> bool:
    """Return whether a browser may be opened: somebody is there to see it, and it is wanted."""
    if arguments.no_open or arguments.quiet or arguments.json or not sys.stdout.isatty():
        return False
    has_display = any(os.environ.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY"))
    return has_display or sys.platform in ("darwin", "win32")


def _on_scenes(arguments: argparse.Namespace, console: Console) -> tuple[str, dict[str, Any]]:
    """Run the demo on built-in scenes; return its results as text and as data."""
    summary = scenes.run_demo(
        arguments.output, arguments.concepts, arguments.seed, console.progress
    )
    page = Path(arguments.output) / "report" / "index.html"
    value, low, high, _ = summary.difference
    return summary.text(), {
        "accuracy": summary.accuracy,
        "mean_iou": summary.mean_iou,
        "difference": {"value": value, "low": low, "high": high},
        "repaired": summary.repair.accuracies(),
        "seconds": summary.seconds,
        "written": ["summary.md", *(f"{name}.png" for name in summary.figures)],
        "page": page,
    }
