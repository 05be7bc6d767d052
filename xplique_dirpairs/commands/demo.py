"""The command ``demo``."""

from __future__ import annotations

import argparse

from xplique_dirpairs.commands.console import Console
from xplique_dirpairs.demo.run import run_demo
from xplique_dirpairs.version import __version__


def run(arguments: argparse.Namespace, console: Console) -> None:
    """Run the demo and print what it found."""
    with console.running():
        summary = run_demo(arguments.output, arguments.concepts, arguments.seed, console.progress)
    text = f"\n{summary.text()}\n\nEverything is in {arguments.output}/: start with summary.md"
    console.result(
        text,
        {
            "command": "demo",
            "version": __version__,
            "seed": arguments.seed,
            "accuracy": summary.accuracy,
            "importances": dict(summary.importances),
            "ink_auc": dict(summary.ink_auc),
            "logit_error": dict(summary.logit_error),
            "off_entropy": dict(summary.off_entropy),
            "seconds": dict(summary.seconds),
            "output": str(arguments.output),
            "written": [f"{name}.png" for name in summary.figures],
        },
    )
