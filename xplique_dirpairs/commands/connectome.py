"""The command ``connectome``: which concepts of several layers make which, and the classes."""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from xplique_dirpairs.commands.console import Console, UsageError
from xplique_dirpairs.commands.outputs import keep
from xplique_dirpairs.commands.subject import given_concepts, open_subject
from xplique_dirpairs.connectome.build import EdgeSettings, build_connectome
from xplique_dirpairs.connectome.layers import ConnectomeInterrupted
from xplique_dirpairs.connectome.result import Connectome
from xplique_dirpairs.connectome.suppression import SuppressionTest, suppression_test
from xplique_dirpairs.extractors.concept_layer import ConceptLayer
from xplique_dirpairs.pairs import DirectionPairs
from xplique_dirpairs.report.connectome_page import connectome_page


def run(arguments: argparse.Namespace, console: Console) -> None:
    """Build the connectome, and write tables, figures and a page to a folder."""
    with console.running():
        if not 0 < arguments.level < 1:
            raise UsageError(f"--level must lie between 0 and 1, not {arguments.level}")
        below = [name for name, _ in arguments.below]
        if len(set(below)) < len(below):
            raise UsageError(f"--below names a layer twice: {' '.join(below)}")
        layers: dict[str, Any] = {
            name: arguments.concepts if path is None else DirectionPairs.load(path)
            for name, path in arguments.below
        }
        subject = open_subject(arguments, console)
        last = str(subject.split.layer)
        if last in below:
            raise UsageError(
                f"layer {last!r} is that of --layer, or of --pairs, and cannot be --below as well: "
                "name the layers before it"
            )
        to_fit, to_measure = subject.parts(arguments.held_out, arguments.seed)
        given = given_concepts(subject, arguments, console)
        layers[last] = given or arguments.concepts
        console.step(f"build the connectome of {len(layers)} layers")
        try:
            found = build_connectome(
                subject.split.with_model(subject.split.model).model,
                layers,
                subject.preprocessing.model_inputs(to_fit.images),
                class_names=subject.class_names.shown,
                pictures=to_fit.folder_images.pixels,
                settings=EdgeSettings(level=arguments.level),
                random_state=arguments.seed,
                verbose=console.progress,
            )
        except ConnectomeInterrupted as stopped:
            kept = _keep_learned(arguments.output, layers, stopped.layers.values(), console)
            if kept:
                console.note(
                    f"the pairs learned so far are in {arguments.output}/: {', '.join(kept)}. "
                    "--below NAME=FILE takes them"
                )
            raise
        learned = _keep_learned(arguments.output, layers, found.network(), console)
        tested = None
        if to_measure is not to_fit:
            console.step(f"suppress each concept on {len(to_measure.images)} other images")
            other = subject.preprocessing.model_inputs(to_measure.images)
            tested = suppression_test(found, other, verbose=console.progress)
        written = [*_write(arguments.output, found, tested, console), *learned]
    results = {
        "layers": {
            layer.name: own for layer, own in zip(found.layers, found.metrics(), strict=True)
        },
        "paths": {
            str(k): [
                {"concepts": list(path.concepts), "names": list(path.names), "effect": path.effect}
                for path in found.paths(k)
            ]
            for k in found.class_ids
        },
        "suppression": None if tested is None else dict(
            zip(tested.layer_names, tested.correlations.tolist(), strict=True)
        ),
        "built_on": len(to_fit.images),
        "tested_on": 0 if tested is None else len(to_measure.images),
    }  # fmt: skip
    summary = subject.write_summary(arguments, results, written, console)
    text = "\n\n".join(
        [
            str(found.table(at_most=10)),
            *([] if tested is None else [str(tested)]),
            f"Everything is in {arguments.output}/: start with connectome.html",
        ]
    )
    console.result(text, summary)


def _keep_learned(
    folder: Path, given: dict[str, Any], reached: Iterable[Any], console: Console
) -> list[str]:
    """Save the pairs that were learned; return the names of their files."""
    names = []
    for number, (name, before, own) in enumerate(
        zip(given, given.values(), reached, strict=True), start=1
    ):
        if isinstance(before, int) and isinstance(own, ConceptLayer):
            names.append(f"pairs_{number}_{re.sub(r'[^A-Za-z0-9]+', '_', name)}.npz")
            keep(own.fitted.save, folder / names[-1], console)
    return names


def _write(
    folder: Path, found: Connectome, tested: SuppressionTest | None, console: Console
) -> list[str]:
    """Write all files but the summary; return their names."""
    everything = max(each.kept.sum() for each in found.edges)
    table = found.table(at_most=max(1, int(everything)))
    texts = {
        "connectome.html": connectome_page(found),
        "connectome.md": table.formatted("markdown"),
        "connectome.csv": table.formatted("csv"),
    }
    figures: dict[str, Figure] = {"connectome.png": found.plot()}
    if tested is not None:
        texts["suppression.md"] = tested.table().formatted("markdown")
        figures["suppression.png"] = tested.plot()
    for name, text in texts.items():
        with console.writing(folder / name):
            folder.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(text + "\n", encoding="utf-8")
    for name, figure in figures.items():
        with console.writing(folder / name):
            figure.savefig(folder / name, dpi=110, bbox_inches="tight")
        plt.close(figure)
    with console.writing(folder / "connectome.npz"):
        found.save(folder / "connectome.npz")
    return [*texts, *figures, "connectome.npz"]
