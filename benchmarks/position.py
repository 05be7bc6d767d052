"""What depends on the place in the image: planted channels, the scenes' CNN and MobileNetV2.

    python benchmarks/position.py --output DIR
    python benchmarks/position.py --output DIR --data DIR         # and MobileNetV2 on photographs
    python benchmarks/position.py --output DIR --parts planted

Tables are printed and written to --output:

    planted     the channels of `datasets.planted_channels`, for content anywhere and in the middle:
                shares as mean [lowest, highest] over --seeds
    channels    for each layer, how many of its channels have each verdict, the median of each
                share, and of the edge share with padding that wraps round the edges
    concepts    the verdicts on --concepts concepts of each of --extractors

The scenes' network is trained once and kept in --output; --data is laid out as for real_network.py,
and its "val" photographs are used.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import matplotlib
import numpy as np

matplotlib.use("Agg")

import matplotlib.pyplot as plt
from annotated import NETWORK_IMAGES, VALIDATION_SEED, scene_network
from real_network import load_data

from xplique_dirpairs.core.tables import Cell, Table
from xplique_dirpairs.datasets.annotated_scenes import LAYER, annotated_scenes
from xplique_dirpairs.datasets.planted_channels import CHANNELS, planted_channels, planted_images
from xplique_dirpairs.extractors.concept_layer import ConceptLayer
from xplique_dirpairs.factorizers.decompositions import PCAFactorizer
from xplique_dirpairs.factorizers.direction_pairs import DirectionPairsFactorizer
from xplique_dirpairs.factorizers.nonnegative import NMFFactorizer
from xplique_dirpairs.metrics.position import VERDICTS, mirror_scores
from xplique_dirpairs.models.split import split_model
from xplique_dirpairs.position.dependence import position_dependence

#: Layers of MobileNetV2 with maps of 28 × 28 and of 14 × 14 cells.
REAL_LAYERS = ("block_3_depthwise_relu", "block_13_expand_relu")
PARTS = ("planted", "scenes", "real")
EXTRACTORS = ("PCA", "NMF", "pairs")


def planted_tables(seeds: int, images: int) -> list[Table]:
    """Return the table of the planted channels, for content anywhere and in the middle."""
    network, tables = planted_channels(), []
    headers = ["channel", "map", "rolled", "inside", "edge", "edge, wrapped", "border share",
               "place told", "mirror score", "right verdicts"]  # fmt: skip
    for centred in (False, True):
        found, mirrors = [], []
        for seed in range(seeds):
            x = planted_images(images, centred=centred, seed=seed)
            found.append(position_dependence(network, x, random_state=seed))
            pooled, mirrored = (np.mean(network(own), axis=(1, 2)) for own in (x, x[:, :, ::-1]))
            mirrors.append(mirror_scores(pooled, mirrored) / pooled.std(axis=0))
        columns = [
            [getattr(one, name) for one in found]
            for name in ("map_share", "rolled_share", "placed_interior", "placed_edge",
                         "wrapped_edge", "border_share", "decodability")
        ]  # fmt: skip
        rows = [
            [
                Cell(name),
                *(_range([own[i] for own in column]) for column in [*columns, mirrors]),
                Cell(f"{sum(one.verdicts[i] == verdict for one in found)} of {seeds}: {verdict}"),
            ]
            for i, (name, verdict) in enumerate(CHANNELS.items())
        ]
        where = "in the middle" if centred else "anywhere"
        tables.append(Table(headers, rows, [f"Content {where}; {images} images."]))
    return tables


def _range(values: list[float]) -> Cell:
    """Return a cell with a mean, and the lowest and highest value."""
    known = [value for value in values if not np.isnan(value)]
    if not known:
        return Cell.figure(np.nan)
    low, mean, high = np.min(known), np.mean(known), np.max(known)
    return Cell(f"{mean:.3f} [{low:.3f}, {high:.3f}]", numbers=(mean, low, high))


def layer_tables(name, model, layers, images, names, concepts, folder) -> tuple[list, list]:
    """Return the rows of channels, and of concepts, of some layers; figures are saved."""
    of_channels, of_concepts = [], []
    for layer in layers:
        split = split_model(model, layer)
        begun = time.perf_counter()
        found = position_dependence(split, images)
        seconds = time.perf_counter() - begun
        counts = [int((found.verdicts == verdict).sum()) for verdict in VERDICTS]
        medians = [found.rolled_share, found.placed_interior, found.placed_edge, found.wrapped_edge]
        of_channels.append(
            [
                Cell(f"{name}, {layer}"),
                *(Cell.figure(count, 0) for count in counts),
                *(
                    Cell.figure(np.nan if own is None or np.isnan(own).all() else np.nanmedian(own))
                    for own in medians
                ),
                Cell(str(found.margin[0]) if found.margin else "–"),
                Cell.figure(seconds, 0),
            ]
        )
        print(found, flush=True)
        x = split.input_to_latent_model.predict(images, verbose=0)
        made = extractors(concepts, split.latent_to_logit_model, x.shape[1:3])
        for title, factorizer in ((title, made[title]) for title in names):
            factorizer.fit(x.reshape(-1, x.shape[-1]))
            own = position_dependence(ConceptLayer.of(factorizer, split), images)
            words = [f"{int((own.verdicts == v).sum())} {v}" for v in VERDICTS]
            kept = ", ".join(word for word in words if not word.startswith("0 "))
            of_concepts.append([Cell(f"{name}, {layer}"), Cell(title), Cell(kept)])
            own.plot().savefig(folder / f"position_{name}_{layer}_{title}.png", dpi=110)
            plt.close("all")
            print(own.table(), flush=True)
    return of_channels, of_concepts


def extractors(concepts: int, head_model, map_shape):
    """Return the extractors whose concepts are measured."""
    pairs = DirectionPairsFactorizer(
        concepts, latent_to_logit_model=head_model, map_shape=map_shape, random_state=0, verbose=0
    )
    return {
        "PCA": PCAFactorizer(concepts),
        "NMF": NMFFactorizer(concepts, random_state=0),
        "pairs": pairs,
    }


def main() -> None:
    """Measure, print and write the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--data", type=Path, help="model and photographs, as for real_network.py")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--extractors", nargs="*", choices=EXTRACTORS, default=EXTRACTORS)
    parser.add_argument("--images", type=int, default=100)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--concepts", type=int, default=12)
    parser.add_argument("--network-images", type=int, default=NETWORK_IMAGES)
    arguments = parser.parse_args()
    arguments.output.mkdir(parents=True, exist_ok=True)
    tables, of_channels, of_concepts = [], [], []
    if "planted" in arguments.parts:
        tables += planted_tables(arguments.seeds, arguments.images)
    cases = []
    if "scenes" in arguments.parts:
        network = scene_network(arguments.output, arguments.network_images)
        scenes = annotated_scenes(arguments.images, seed=VALIDATION_SEED)
        cases.append(("scenes", network, [LAYER], scenes.images))
    if "real" in arguments.parts and arguments.data:
        data = load_data(arguments.data)
        photographs = data.photos("val")[0]
        chosen = np.linspace(0, len(photographs) - 1, arguments.images).astype(int)
        cases.append(
            ("MobileNetV2", data.model(), REAL_LAYERS, data.preprocess(photographs[chosen]))
        )
    for case in cases:
        channels, concepts = layer_tables(
            *case, arguments.extractors, arguments.concepts, arguments.output
        )
        of_channels += channels
        of_concepts += concepts
    headers = ["layer", *VERDICTS, "rolled", "inside", "edge", "edge, wrapped", "margin", "s"]
    tables.append(Table(headers, of_channels, [f"Channels, on {arguments.images} images."]))
    tables.append(Table(["layer", "extractor", "concepts"], of_concepts))
    text = "\n\n".join(table.formatted("markdown") for table in tables if table.rows)
    (arguments.output / "position.md").write_text(text + "\n", encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
