"""Moving shapes: what trained video transformers answer to, and how well concepts find the shapes.

    python benchmarks/video.py [--parts shares,iou,importance,pruning,large] [--output DIR]

Parts: "shares" compares networks trained on motion and on shape; "iou" compares the masks of
extractors with the true shapes; "importance" measures areas between removal curves of the network
of motion; "pruning" closes a third of the heads; "large" measures time and memory of a transformer
of the size of ViT-B, one of its layers (--layers) after the other.

DIR (build/video) keeps the trained networks and video.json, the results. A part that is there is
not repeated: delete DIR after a change of the code.
"""

from __future__ import annotations

import argparse
import json
import resource
import time
import warnings
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import keras
import numpy as np

from xplique_dirpairs import (
    ConvexNMFFactorizer,
    DirectionPairsFactorizer,
    KMeansFactorizer,
    NMFFactorizer,
    ProbedSelfAttention,
    VideoConcepts,
    VideoProbe,
    discover_video_concepts,
    is_correct,
    masked_importance,
    prune_heads,
    split_model,
    static_dynamic,
)  # fmt: skip
from xplique_dirpairs.datasets.motion_network import train_video_transformer
from xplique_dirpairs.datasets.moving_shapes import SHAPES, MovingShapes, moving_shapes
from xplique_dirpairs.metrics.mask_overlap import overlap

PARTS = ("shares", "iou", "importance", "pruning", "large")
CONCEPTS, TRAINED_ON = 6, 800
#: Name → (what concepts are masks of, factorizer of a seed).
EXTRACTORS: dict[str, tuple[str, Callable[[int], Any]]] = {
    "direction pairs": (
        "positions", lambda s: DirectionPairsFactorizer(CONCEPTS, random_state=s, verbose=0),
    ),
    "convex NMF on tubelets": ("tubelets", lambda s: ConvexNMFFactorizer(CONCEPTS, random_state=s)),
    "K-Means": ("positions", lambda s: KMeansFactorizer(CONCEPTS, random_state=s)),
    "NMF": ("positions", lambda s: NMFFactorizer(CONCEPTS, random_state=s)),
}  # fmt: skip


class Results:
    """Results of a run by their names, kept in a file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.values = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}

    def of(self, name: str, measure: Callable[..., dict[str, Any]], *arguments: Any) -> None:
        """Print a result: that of the file, or what a function measures."""
        if name not in self.values:
            start = time.process_time()
            result = measure(*arguments)
            self.values[name] = result | {"CPU s": round(time.process_time() - start)}
            self.path.write_text(json.dumps(self.values, indent=1), encoding="utf-8")
        print(f"{name}: {json.dumps(self.values[name])}", flush=True)


@cache
def data(name: str) -> MovingShapes:
    """Return the videos to train on, to fit concepts to, or to measure on."""
    count, seed = {"train": (TRAINED_ON, 1), "fit": (60, 2), "test": (100, 3)}[name]
    return moving_shapes(count, random_state=seed)


def network(by: str, results: Results, epochs: int) -> keras.Model:
    """Return a network that tells the motion, or the shape, of the target."""
    path = results.path.with_name(f"{by}.keras")
    if path.exists():
        return keras.models.load_model(path, compile=False)
    start = time.process_time()
    model = train_video_transformer(data("train"), by, epochs)
    model.save(path)
    seconds = round(time.process_time() - start)
    about = {"accuracy": accuracy(model, by), "training CPU s": seconds}
    results.of(f"network of {by}", dict, about)
    return model


def accuracy(model: keras.Model, by: str) -> float:
    """Return the share of the test videos that a network classifies rightly."""
    outputs = model.predict(data("test").videos, verbose=0)
    return float((outputs.argmax(axis=1) == data("test").labels(by)).mean())


def shares(model: keras.Model) -> dict[str, Any]:
    """Return the mean shares of the channels of the last tokens, and of how many are dynamic."""
    own = static_dynamic(split_model(model, "tokens"), data("test").videos, pairs=600).shares
    names = ("static", "dynamic", "content", "interaction")
    means = {name: round(float(np.nanmean(getattr(own, name))), 3) for name in names}
    return means | {"dynamic above static": int((own.dynamic > own.static).sum())}


def discovered(model: keras.Model, name: str, seed: int, count: int = 60) -> VideoConcepts:
    """Return the concepts of an extractor in all heads.

    Where a concept has no detector, it fires on the share of the tokens that shapes cover.
    """
    proposals, make = EXTRACTORS[name]
    probe = VideoProbe(model)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # doubts about single heads, which have 8 channels
        return discover_video_concepts(
            probe, data("fit").videos[:count], proposals=proposals, extractor=lambda: make(seed),
            rate=float(true_masks("fit", probe).mean()),
        )  # fmt: skip


def true_masks(name: str, probe: VideoProbe) -> np.ndarray:
    """Return which tokens each shape covers by a quarter, (N, tokens, shapes) bool."""
    masks = data(name).masks_of("shape")
    n, kinds, *sides = masks.shape
    split = [k for g, side in zip(probe.grid, sides, strict=True) for k in (g, side // g)]
    covered = masks.reshape(n, kinds, *split).mean(axis=(3, 5, 7)) >= 0.25
    return np.moveaxis(covered, 1, -1).reshape(n, -1, kinds)


def ious(model: keras.Model, name: str, seed: int) -> dict[str, Any]:
    """Return the IoU over time of the best concept of any head for each shape.

    The best concept is chosen on the videos that the concepts were found in, and measured on
    others; "chance" is the mean IoU of these concepts with the shapes of permuted videos.
    """
    concepts = discovered(model, name, seed)
    masks = {}
    for k in ("fit", "test"):
        own = concepts.masks_in(data(k).videos).values()
        masks[k] = np.concatenate([m.reshape(len(m), -1, m.shape[-1]) for m in own], axis=-1)
    wanted = {k: true_masks(k, concepts.probe) for k in masks}
    best = overlap(masks["fit"], wanted["fit"]).argmax(axis=0)
    place = best, np.arange(len(SHAPES))
    scores = overlap(masks["test"], wanted["test"])[place]
    rng = np.random.default_rng(0)
    expected = np.mean([
        overlap(masks["test"][..., best], wanted["test"][displaced(len(wanted["test"]), rng)])
        for _ in range(20)
    ], axis=0)  # fmt: skip
    return {
        "mean iou": round(float(scores.mean()), 3),
        "iou": dict(zip(SHAPES, scores.round(3).tolist(), strict=True)),
        "chance": round(float(np.diag(expected).mean()), 3),
        "concepts": len(concepts.units),
    }


def displaced(count: int, rng: np.random.Generator) -> Any:
    """Return a random order of videos in which none stays in its place."""
    order = rng.permutation(count)
    shifted = np.empty(count, int)
    shifted[order] = np.roll(order, int(rng.integers(1, count)))
    return shifted


def importance(model: keras.Model, by: str, name: str, subsets: int) -> dict[str, Any]:
    """Return the areas under the removal curves of an extractor, and the area between two."""
    videos, classes = data("fit").videos[:40], data("fit").labels(by)[:40]
    concepts = discovered(model, name, 0, count=40)
    found = masked_importance(concepts, videos, is_correct(classes), subsets=subsets, batch_size=40)
    areas = found.curves(step=4).areas
    between = areas["least to most"] - areas["most to least"]
    return {k: round(v, 3) for k, v in (areas | {"between": between}).items()}


def pruning(model: keras.Model, by: str, planted: bool) -> dict[str, Any]:
    """Return the accuracy before and after a third of the heads is closed.

    With ``planted``, the outputs of a random third of the heads are first divided by 100, so that
    this third adds next to nothing.
    """
    probe = VideoProbe(model)
    rng = np.random.default_rng(0)
    weak = [probe.heads[q] for q in rng.permutation(len(probe.heads))[: len(probe.heads) // 3]]
    if planted:
        for layer, head in weak:
            dense = model.get_layer(probe.layer_names[layer]).output_dense
            weights = dense.get_weights()
            weights[0][head] /= 100
            dense.set_weights(weights)
        probe = VideoProbe(model)
    fit = data("fit")
    found = masked_importance(probe, fit.videos, is_correct(fit.labels(by)), subsets=200)
    pruned = prune_heads(probe, found.importance)
    closed = np.argsort(found.importance, kind="stable")[: len(weak)]
    outputs = [m.predict(data("test").videos, verbose=0).argmax(axis=1) for m in (model, pruned)]
    return {
        "before": accuracy(model, by),
        "after": accuracy(pruned, by),
        "changed predictions": float((outputs[0] != outputs[1]).mean()),
        "weak heads among the closed": len({probe.heads[q] for q in closed} & set(weak)),
    }


@cache
def large_probe() -> tuple[VideoProbe, np.ndarray]:
    """Return a probe of a transformer of the size of ViT-B with random weights, and 30 clips."""
    inputs = keras.Input((16, 224, 224, 3))
    x = keras.layers.Conv3D(768, (2, 16, 16), (2, 16, 16))(inputs)
    x = keras.layers.Reshape((-1, 768))(x)
    for k in range(12):
        y = keras.layers.LayerNormalization()(x)
        x = keras.layers.Add()([x, ProbedSelfAttention(12, 64, name=f"attention_{k}")(y)])
        y = keras.layers.Dense(3072, activation="gelu")(keras.layers.LayerNormalization()(x))
        x = keras.layers.Add()([x, keras.layers.Dense(768)(y)])
    x = keras.layers.GlobalAveragePooling1D()(x)
    model = keras.Model(inputs, keras.layers.Dense(174, activation="softmax")(x))
    clips = np.random.default_rng(0).random((30, 16, 224, 224, 3), np.float32)
    return VideoProbe(model, batch_size=1), clips


def large(layer: int) -> dict[str, Any]:
    """Find concepts in the 12 heads of a layer of the large network; return time and memory."""
    probe, clips = large_probe()
    concepts = discover_video_concepts(probe, clips, heads=[(layer, head) for head in range(12)])
    return {
        "concepts": len(concepts.units),
        "peak GB": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 2),
    }


def main() -> None:
    """Run the parts that are asked for."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--parts", default=",".join(PARTS))
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--extractors", choices=list(EXTRACTORS), nargs="+", default=EXTRACTORS)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--subsets", type=int, default=500)
    parser.add_argument("--layers", type=int, nargs="+", default=[0, 11])
    parser.add_argument("--output", type=Path, default=Path("build/video"))
    arguments = parser.parse_args()
    parts = arguments.parts.split(",")
    if unknown := set(parts) - set(PARTS):
        parser.error(f"there is no part {', '.join(sorted(unknown))}: give {', '.join(PARTS)}")
    arguments.output.mkdir(parents=True, exist_ok=True)
    results = Results(arguments.output / "video.json")
    if "large" in parts:  # first: the largest memory is that of the whole process
        for layer in arguments.layers:
            results.of(f"large, layer {layer}", large, layer)
    for by in ("motion", "shape"):
        if set(parts) - {"large"}:
            model = network(by, results, arguments.epochs)
        if "shares" in parts:
            results.of(f"shares, {by}", shares, model)
        for name in arguments.extractors:
            for seed in arguments.seeds if "iou" in parts else ():
                results.of(f"iou, {by}, {name}, {seed}", ious, model, name, seed)
            if "importance" in parts and by == "motion":
                results.of(f"importance, {name}", importance, model, by, name, arguments.subsets)
        if "pruning" in parts:
            results.of(f"pruning, {by}", pruning, model, by, False)
            results.of(f"pruning, {by}, planted", pruning, model, by, True)


if __name__ == "__main__":
    main()
