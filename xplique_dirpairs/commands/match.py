"""The command ``match``: which concepts of several networks, or layers, are the same."""

from __future__ import annotations

import argparse

import matplotlib.pyplot as plt

from xplique_dirpairs.commands.console import Console
from xplique_dirpairs.commands.others import network_name, open_others
from xplique_dirpairs.commands.subject import open_subject
from xplique_dirpairs.matching.match_extractors import match_extractors
from xplique_dirpairs.matching.match_result import Matches
from xplique_dirpairs.pairs import DirectionPairs


def run(arguments: argparse.Namespace, console: Console) -> None:
    """Match the concepts, and write table and figure to a folder."""
    with console.running():
        subject = open_subject(arguments, console)
        own = subject.concepts(DirectionPairs.load(arguments.pairs), arguments.pairs)
        names = subject.folder_images.names.tolist()
        networks = {network_name(arguments.model, own.layer): (own, subject.activations)}
        for other in open_others(subject, names, arguments, console):
            networks[other.name] = (other.concepts, other.concepts.activations(other.images))
        console.step("match the concepts")
        matches = match_extractors(
            networks, by=arguments.by, at_least=arguments.at_least, random_state=arguments.seed
        )
        written = _write(arguments, matches, console)
    results = {
        "networks": list(matches.names),
        "matched_on": matches.images[0],
        "measured_on": matches.images[1],
        "grid": list(matches.grid),
        "shares": dict(zip(matches.names, matches.shares().tolist(), strict=True)),
        "matches": [
            {
                "concepts": dict(zip(matches.names, matches.concepts[u].tolist(), strict=True)),
                "correlation": matches.correlation[u],
                "phi": matches.phi[u],
                "p": matches.p_value[u],
                "firing_entropy": matches.firing_entropy[u],
                "holds": bool(matches.holds[u]),
            }
            for u in range(len(matches))
        ],
        "cross_r2": matches.cross_r2,
        "ceiling": matches.ceiling,
    }
    summary = subject.write_summary(arguments, results, written, console)
    text = (
        f"{matches}\n\n{matches.cross_table()}\n\nEverything is in {arguments.output}/: start with "
        "matches.md"
    )
    console.result(text, summary)


def _write(arguments: argparse.Namespace, matches: Matches, console: Console) -> list[str]:
    """Write the tables and the figure; return the names of the files."""
    tables = matches.table(at_most=len(matches)), matches.cross_table()
    texts = {
        "matches.md": "\n\n".join(table.formatted("markdown") for table in tables),
        "matches.csv": tables[0].formatted("csv"),
    }
    for name, text in texts.items():
        path = arguments.output / name
        with console.writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text + "\n", encoding="utf-8")
    figure = matches.plot()
    path = arguments.output / "matches.png"
    with console.writing(path):
        figure.savefig(path, dpi=110, bbox_inches="tight")
    plt.close(figure)
    return [*texts, path.name]
