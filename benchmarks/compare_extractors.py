"""Every extractor on one table: fidelity, reconstruction and dictionary.

    python benchmarks/compare_extractors.py --output DIR
    python benchmarks/compare_extractors.py --data DIR --output DIR
    python benchmarks/compare_extractors.py --data DIR --output DIR --part train --seeds 1

Without --data: pictures of handwritten digits set into photographs, which come with the package,
and a small network that is trained on them; 10 concepts, fitted on 300 of the training pictures and
measured on 240 of the test split. With it: a real network and photographs, 25 concepts; DIR is laid
out as for benchmarks/real_network.py. With ``--part test`` extractors are fitted on the "train"
photographs of all classes and measured on the "test" ones; with ``--part train``, for choosing
settings, fitted on 70 % of "train" and measured on the other 30 %.

Tables and figures of the means over seeds go to --output, a folder for each layer; the tables are
printed. Measurements are kept there, too, one extractor at a time, and not repeated: other settings
need another --output. An extractor that fails is left out, and tried again the next time. After
Ctrl-C the script continues from there the next time.

CRAFT is Xplique's own, fitted on the photographs, whose crops go through the network a few at a
time (all at once are 20 GB at a layer of 14 x 14 x 576). The others are fitted on the activations:
direction pairs and the predecessors (recipes uibe, cbe) with the network, the rest on --positions
random positions. "no learning" and "random directions" are the controls.
"""

from __future__ import annotations

import argparse
import json
import time
import warnings
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")

import numpy as np
from extractors import ON_POSITIONS, OURS, fitted
from real_network import load_data
from sklearn.exceptions import ConvergenceWarning
from xplique.concepts import CraftTf

from xplique_dirpairs.commands.compare import SeededCraft
from xplique_dirpairs.comparison.average import average
from xplique_dirpairs.comparison.compare import compare
from xplique_dirpairs.comparison.extractor_result import CONTROLS
from xplique_dirpairs.comparison.result import Comparison
from xplique_dirpairs.data.images import compute_activations
from xplique_dirpairs.datasets.digit_scenes import digit_scenes, small_cnn
from xplique_dirpairs.factorizers.controls import RandomFactorizer
from xplique_dirpairs.learning.history import LearningWarning
from xplique_dirpairs.models.split import split_model

NAMES = [OURS, "CRAFT", *ON_POSITIONS, "UIBE", "CBE"]


def craft(concepts: int, seed: int, halves, images) -> CraftTf:
    """Return Xplique's own CRAFT, fitted."""
    made = SeededCraft(*halves, concepts, patch_size=round(images.shape[1] / 3.5), seed=seed)
    made.fit(images, 0)
    return made


def fitted_with_message(what: str, name: str, concepts: int, seed: int, halves, images, **options):
    """Call `fitted`, and print a line about it.

    Raises
    ------
    KeyboardInterrupt
        Also where a fit ends normally on Ctrl-C, as those of pairs and autoencoders do.
    """
    start = time.perf_counter()
    if name == "CRAFT":
        extractor = craft(concepts, seed, halves, images)
    else:
        extractor = fitted(name, concepts, seed, **options)
    if getattr(getattr(extractor, "history_", None), "interrupted", False):
        raise KeyboardInterrupt
    print(f"{what}, {name}: fit {time.perf_counter() - start:.1f} s", flush=True)
    return extractor


def builtin():
    """Return (network, images to fit on, (images, labels) to measure on) of the built-in data."""
    images, labels, _ = digit_scenes(3600, 0, "train")
    model = small_cnn(images, labels, seed=0, verbose=0)
    return model, images[:300], digit_scenes(240, 0, "test")[:2]


def photographs(data, part: str):
    """Return (images, labels) to fit on and to measure on."""
    images, labels, _ = data.photos("train")
    images = data.preprocess(images)
    if part == "test":
        others, their_labels, _ = data.photos("test")
        return images, (data.preprocess(others), their_labels)
    fit = np.random.default_rng(0).permutation(len(images)) < 0.7 * len(images)
    return images[fit], (images[~fit], labels[~fit])


def check_settings(folder: Path, settings: dict[str, Any]) -> None:
    """Check that a folder's files have the same settings; write them to a new folder.

    Raises
    ------
    SystemExit
        If settings differ; the message names the arguments.
    """
    path = folder / "settings.json"
    if path.exists():
        kept = json.loads(path.read_text(encoding="utf-8"))
    else:
        kept = dict.fromkeys(settings, "not known") if any(folder.glob("seed*.npz")) else settings
    differing = [
        f"--{name} was {kept.get(name)}, is {value}"
        for name, value in settings.items()
        if kept.get(name) != value
    ]
    if differing:
        raise SystemExit(
            f"{folder} holds results of other settings ({'; '.join(differing)}): choose another "
            "--output, or remove it"
        )
    path.write_text(json.dumps(settings, indent=1), encoding="utf-8")


def measured_extractors(
    path: Path,
    names: list[str],
    fit: Callable[[str], Any],
    measure: Callable[..., Comparison],
    stand_in: Callable[[], Any],
) -> Comparison:
    """Return a comparison of all names and the controls, with what ``path`` already holds.

    Parameters
    ----------
    path
        Written after every extractor.
    names
    fit
        Name → fitted extractor. An error is kept as the reason why there is no result.
    measure
        (extractors, controls) → comparison.
    stand_in
        Returns a cheap extractor, for measuring the controls alone.

    Raises
    ------
    KeyboardInterrupt
        On Ctrl-C, after all measurements are written.
    """
    found = Comparison.load(path) if path.exists() else None
    if found is None or not set(CONTROLS) <= set(found.results):
        one = measure({"stand-in": stand_in()}, controls=True)
        controls = {name: one.results[name] for name in CONTROLS if name in one.results}
        one = replace(
            one,
            results=controls,
            missing=tuple(name for name in one.missing if name in CONTROLS),
        )
        found = one if found is None else found.joined(one)
        found.save(path)
        if one.interrupted:
            raise KeyboardInterrupt
    for name in names:
        if name in found.results:
            continue
        try:
            extractor = fit(name)
        except Exception as error:  # one extractor's failure must not end the others
            why = f"{type(error).__name__}: {error}"
            print(f"{name} cannot be fitted: {why}", flush=True)
            found = replace(found, errors=found.errors | {name: why})
            found.save(path)
            continue
        one = measure({name: extractor}, controls=False)
        found = found.joined(one)
        found.save(path)
        if one.interrupted:
            raise KeyboardInterrupt
    return found


def parsed(given: list[str] | None = None) -> argparse.Namespace:
    """Parse arguments, and check them before anything is trained."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, metavar="DIR")
    parser.add_argument("--output", type=Path, required=True, metavar="DIR")
    parser.add_argument("--layers", nargs="+")
    parser.add_argument("--concepts", type=int, metavar="I")
    parser.add_argument("--seeds", type=int, default=3, metavar="N")
    parser.add_argument("--extractors", nargs="+", choices=NAMES, default=NAMES)
    parser.add_argument("--part", choices=["train", "test"], default="test")
    parser.add_argument("--positions", type=int, default=20_000, metavar="P")
    parser.add_argument("--images", type=int, metavar="N", help="measure on N only, evenly spaced")
    arguments = parser.parse_args(given)
    for name in ("concepts", "seeds", "positions", "images"):
        value = getattr(arguments, name)
        if value is not None and value < 1:
            parser.error(f"--{name} must be at least 1, not {value}")
    return arguments


def main() -> None:
    arguments = parsed()
    warnings.simplefilter("ignore", ConvergenceWarning)  # shown below the tables
    warnings.simplefilter("ignore", LearningWarning)
    if arguments.data is None:
        layers, concepts = ["last_conv"], 10
        model, images, (measured, labels) = builtin()
    elif (arguments.data / "load.py").is_file():
        layers, concepts = ["out_relu", "block_13_expand_relu"], 25
        data = load_data(arguments.data)
        model = data.model()
        images, (measured, labels) = photographs(data, arguments.part)
    else:
        print(f"skipped: there is no {arguments.data / 'load.py'} (see --help for the layout)")
        return
    layers, concepts = arguments.layers or layers, arguments.concepts or concepts
    if arguments.images is not None:
        chosen = np.linspace(0, len(measured) - 1, arguments.images).round().astype(int)
        measured, labels = measured[chosen], labels[chosen]
    for layer in layers:
        halves = split_model(model, layer)
        activations = compute_activations(halves[0], images)
        folder = arguments.output / layer
        folder.mkdir(parents=True, exist_ok=True)
        check_settings(
            folder,
            {
                "data": "built-in" if arguments.data is None else str(arguments.data.resolve()),
                "part": arguments.part,
                "concepts": concepts,
                "positions": arguments.positions,
                "images": arguments.images,
            },
        )
        seeds = []
        for seed in range(arguments.seeds):
            fit = partial(
                fitted_with_message,
                f"{layer}, seed {seed}",
                concepts=concepts,
                seed=seed,
                halves=halves,
                images=images,
                head=halves.head,
                activations=activations,
                positions=arguments.positions,
            )
            measure = partial(
                compare,
                images=measured,
                labels=labels,
                fit_images=images,
                split=halves,
                random_state=seed,
            )
            stand_in = partial(RandomFactorizer, concepts, random_state=seed)
            path = folder / f"seed{seed}.npz"
            try:
                seeds.append(
                    measured_extractors(path, arguments.extractors, fit, measure, stand_in)
                )
            except KeyboardInterrupt:
                print("interrupted: the same command goes on from here")
                return
        comparison = average(seeds) if len(seeds) > 1 else seeds[0]
        comparison.save_report(folder)
        print(f"\n{layer}, {len(measured)} images, {arguments.seeds} seeds\n")
        for kind in ("curves", "all off", "reconstruction", "dictionary"):
            print(comparison.table(kind).formatted("markdown"), "\n", flush=True)


if __name__ == "__main__":
    main()
