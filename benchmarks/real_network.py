"""Direction pairs and CRAFT on a real network: times, exactness, off-states, pictures.

    python benchmarks/real_network.py --data DIR --output DIR
    python benchmarks/real_network.py --data DIR --layers out_relu --classes 0 --no-together

DIR holds ``load.py`` with

    model()         a Keras classifier whose images preprocess() makes
    preprocess(x)   uint8 images to the model's input
    photos(split)   uint8 images (n, height, width, 3), class indices (n,), class names (n,);
                    split "train" (both methods are fitted on these) or "val" (read afterwards)

Nothing of DIR is stored; pictures are written to --output only. For every layer, one class at a
time and then all together, both methods are fitted on the same photographs, and in the same run

    fit             seconds
    transform       seconds, of the same activations of the "val" photographs (best of 3)
    importance      seconds, estimate_importance of the same photographs, nb_design = 32
    logits          largest |change| of a logit over the largest |logit|: of decode(encode) with the
                    residual for the pairs, of U @ W (what CraftTf passes on) for CRAFT

and of the direction pairs alone

    entropy         all concepts off (undecided): mean prediction entropy / log K, as it is and with
                    features clipped at 0, the range of these layers
    above           all concepts off (absent): largest projection above its absent level, in
                    standard deviations of that projection, before clipping; and the mean excess
                    after clipping features at 0
    cond            condition number of WᵀŜ
    occupancy       lowest and highest share of positions on which a concept is detected
"""

from __future__ import annotations

import argparse
import importlib.util
import time
from collections.abc import Callable
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
from numpy.typing import NDArray
from xplique.concepts import CraftTf

from xplique_dirpairs.comparison.compare import compare
from xplique_dirpairs.data.images import compute_activations
from xplique_dirpairs.extractors.craft import DirectionPairsTf
from xplique_dirpairs.models.head import Head
from xplique_dirpairs.models.split import split_model

COLUMNS = (
    "layer", "photographs", "method", "fit s", "transform s", "importance s", "logits",
    "entropy, clipped", "above, clipped", "cond", "occupancy",
)  # fmt: skip
NB_DESIGN = 32


def seconds_of(function: Callable[[], object]) -> float:
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def load_data(folder: Path):
    spec = importlib.util.spec_from_file_location("real_network_data", folder / "load.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def logit_error(head: Head, features: NDArray, activations: NDArray) -> float:
    wanted = head.predict(head.pool(activations))
    came = head.predict(head.pool(features.reshape(activations.shape).astype(np.float32)))
    return float(np.abs(came - wanted).max() / np.abs(wanted).max())


def rebuilt_by_pairs(pairs: DirectionPairsTf, activations: NDArray) -> NDArray:
    flat = activations.reshape(-1, activations.shape[-1])
    factorizer = pairs.factorizer
    return factorizer.decode(factorizer.encode(flat)) + factorizer.residual(flat)


def entropies_undecided(pairs: DirectionPairsTf, activations: NDArray) -> list[float]:
    """Return mean entropy / log K with all concepts off: unclipped, and clipped at 0."""
    head, learned = pairs.head, pairs.pairs
    off = activations - learned.combine(learned.coefficients(activations, "undecided"), "undecided")
    found = []
    for features in (off, np.maximum(off, 0.0)):
        batches = np.array_split(head.pool(features.astype(np.float32)), -(-len(off) // 32))
        entropy = np.concatenate([head.entropy(batch).numpy() for batch in batches])
        found.append(float(entropy.mean() / np.log2(head.number_of_classes)))
    return found


def excess_absent(pairs: DirectionPairsTf, activations: NDArray) -> tuple[float, float]:
    """Return (largest before clipping, mean after clipping at 0) of z − m, in deviations of z."""
    learned = pairs.pairs
    x = activations.reshape(-1, activations.shape[-1]).astype(np.float64)
    off = x - learned.coefficients(x) @ learned.bank()
    deviation = learned.project(x).std(axis=0)
    excess = (learned.project(off) - learned.absent_levels) / deviation
    clipped = (learned.project(np.maximum(off, 0.0)) - learned.absent_levels) / deviation
    return float(excess.max()), float(np.maximum(clipped, 0.0).mean())


def fit_both(halves, images, class_id, val, concepts, importance_images, seed):
    """Fit both methods on the same photographs; return (pairs, craft, rows of the table)."""
    g, h = halves
    activations = compute_activations(g, val)
    flat_shape = (-1, activations.shape[-1])
    pairs = DirectionPairsTf(g, h, concepts, random_state=seed, verbose=0)
    craft = CraftTf(g, h, concepts)
    fits = [seconds_of(lambda: pairs.fit(images, class_id))]
    np.random.seed(seed)  # noqa: NPY002 (CraftTf's NMF takes no seed)
    fits.append(seconds_of(lambda: craft.fit(images, class_id)))
    rows = []
    for name, extractor, fit in zip(("pairs", "CRAFT"), (pairs, craft), fits, strict=True):

        def transform(extractor=extractor):
            return extractor.transform(None, activations=activations)

        reading = min(seconds_of(transform) for _ in range(3))
        start = time.perf_counter()
        # The photographs are named, not None: CraftTf has 16 colours for global importances.
        extractor.importances = extractor.estimate_importance(
            images[:importance_images], nb_design=NB_DESIGN
        )
        importance = time.perf_counter() - start
        if extractor is pairs:
            error = logit_error(pairs.head, rebuilt_by_pairs(pairs, activations), activations)
            above, clipped = excess_absent(pairs, activations)
            share = (pairs.detect(None, activations) > 0.5).reshape(-1, concepts).mean(axis=0)
            rest = (
                "{:.3f}, {:.3f}".format(*entropies_undecided(pairs, activations)),
                f"{above:.1e}, {clipped:.2f}",
                f"{pairs.pairs.condition_number:.1f}",
                f"{share.min():.3f} to {share.max():.3f}",
            )
        else:
            bank = craft.factorization.concept_bank_w
            rebuilt = transform().reshape(-1, concepts) @ bank
            error = logit_error(pairs.head, rebuilt.reshape(flat_shape), activations)
            rest = ("", "", "", "")
        rows.append(
            (name, f"{fit:.1f}", f"{reading:.4f}", f"{importance:.2f}", f"{error:.1e}", *rest)
        )
    return pairs, craft, rows


def draw(halves, pairs, craft, val, title: str, folder: Path, stem: str) -> None:
    """Draw concepts and maps of both methods side by side."""
    methods = {"direction pairs": pairs, "CRAFT": craft}
    comparison = compare(
        methods, val[:6], split=halves, controls=False, importance_images=1, nb_design=2, verbose=0
    )
    figures = {
        "concepts": comparison.plot_aligned("direction pairs", "CRAFT"),
        "maps": comparison.plot_maps(0),
    }
    for kind, figure in figures.items():
        figure.suptitle(f"{figure.get_suptitle()}: {title}")
        figure.savefig(folder / f"{stem}_{kind}.png", dpi=110, bbox_inches="tight", pad_inches=0.1)
        plt.close(figure)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, metavar="DIR")
    parser.add_argument("--layers", nargs="+", default=["out_relu", "block_13_expand_relu"])
    parser.add_argument(
        "--classes", nargs="+", type=int, metavar="I",
        help="positions among the classes of the photographs, in order (default: all)",
    )  # fmt: skip
    parser.add_argument("--concepts", type=int, default=25)
    parser.add_argument("--images", type=int, default=100, help="photographs of a class")
    parser.add_argument(
        "--together", type=int, default=40, metavar="N",
        help="photographs of each class when all are taken together",
    )  # fmt: skip
    parser.add_argument("--no-together", action="store_true")
    parser.add_argument(
        "--importance-images", type=int, default=20, help="photographs for estimate_importance"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, metavar="DIR", help="where pictures are written")
    return parser.parse_args()


def main() -> None:
    arguments = parse_arguments()
    if not (arguments.data / "load.py").is_file():
        print(f"skipped: there is no {arguments.data / 'load.py'} (see --help for the layout)")
        return
    data = load_data(arguments.data)
    model = data.model()
    (train, train_labels, train_names), (val, val_labels, _) = map(data.photos, ("train", "val"))
    names = dict(zip(train_labels.tolist(), train_names, strict=True))
    every = sorted(names)
    chosen = every if arguments.classes is None else [every[i] for i in arguments.classes]
    scopes = [(names[k], [k], arguments.images) for k in chosen]
    if not arguments.no_together:
        scopes.append((f"{len(every)} together", every, arguments.together))
    if arguments.output:
        arguments.output.mkdir(parents=True, exist_ok=True)

    print("| " + " | ".join(COLUMNS) + " |")
    print("|" + "---|" * len(COLUMNS), flush=True)
    for layer in arguments.layers:
        halves = split_model(model, layer)
        for name, classes, count in scopes:
            picked = np.concatenate([np.flatnonzero(train_labels == k)[:count] for k in classes])
            read = np.concatenate([np.flatnonzero(val_labels == k)[:count] for k in classes])
            # of several classes a few of each come first, for importances and pictures
            order = np.random.default_rng(arguments.seed).permutation
            picked, read = (order(i) if len(classes) > 1 else i for i in (picked, read))
            images, fresh = data.preprocess(train[picked]), data.preprocess(val[read])
            pairs, craft, rows = fit_both(
                halves, images, classes[0], fresh, arguments.concepts,
                arguments.importance_images, arguments.seed,
            )  # fmt: skip
            for row in rows:
                print("| " + " | ".join((layer, f"{len(images)} {name}", *row)) + " |", flush=True)
            for problem in pairs.history_.problems():
                print(f"<!-- {problem} -->")
            if arguments.output:
                stem = f"{layer}_{name}".replace(" ", "_")
                draw(halves, pairs, craft, fresh, f"{name}, {layer}", arguments.output, stem)


if __name__ == "__main__":
    main()
