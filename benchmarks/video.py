"""Moving shapes: what trained video transformers answer to, and how well concepts find the shapes.

    python benchmarks/video.py [--parts shares,iou,importance,large] [--output DIR]

Parts: "shares" compares networks trained on motion and on shape; "iou" the masks of extractors with
the true shapes; "importance" removal curves; "large" times a transformer of the size of ViT-B.
"""

from __future__ import annotations

import argparse
import json
import resource
import time
from collections.abc import Callable
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
    VideoProbe,
    discover_video_concepts,
    masked_importance,
    split_model,
    static_dynamic,
)  # fmt: skip
from xplique_dirpairs.datasets.motion_network import train_video_transformer
from xplique_dirpairs.datasets.moving_shapes import SHAPES, MovingShapes, moving_shapes
from xplique_dirpairs.metrics.mask_overlap import overlap

CONCEPTS = 6
#: Name → (how masks are made, factorizer of a seed).
EXTRACTORS: dict[str, tuple[str, Callable[[int], Any]]] = {
    "convex NMF on tubelets": ("tubelets", lambda s: ConvexNMFFactorizer(CONCEPTS, random_state=s)),
    "direction pairs": (
        "positions", lambda s: DirectionPairsFactorizer(CONCEPTS, random_state=s, verbose=0),
    ),
    "K-Means": ("positions", lambda s: KMeansFactorizer(CONCEPTS, random_state=s)),
    "NMF": ("positions", lambda s: NMFFactorizer(CONCEPTS, random_state=s)),
}  # fmt: skip


def on_tokens(masks: np.ndarray, grid: tuple[int, int, int]) -> np.ndarray:
    """Return which tokens masks (N, K, T, height, width) cover by a quarter, (N, K, *grid)."""
    n, kinds, *sides = masks.shape
    split = [number for g, side in zip(grid, sides, strict=True) for number in (g, side // g)]
    return masks.reshape(n, kinds, *split).mean(axis=(3, 5, 7)) >= 0.25


def shares(models: dict[str, keras.Model], data: MovingShapes) -> dict[str, Any]:
    """Return the mean shares of the channels of the last tokens."""
    found = {}
    for name, model in models.items():
        result = static_dynamic(split_model(model, "tokens"), data.videos, pairs=600)
        print(f"{name}: {result}", flush=True)
        found[name] = {k: float(np.nanmean(getattr(result.shares, k)))
                       for k in ("static", "dynamic", "content", "interaction")}  # fmt: skip
    return found


def ious(model: keras.Model, fit: MovingShapes, test: MovingShapes, seed: int) -> dict[str, Any]:
    """Return the IoU of the best concept of any head for each shape, on other videos."""
    probe = VideoProbe(model)
    wanted = {name: on_tokens(own.masks_of("shape"), probe.grid) for name, own in
              (("fit", fit), ("test", test))}  # fmt: skip
    wanted = {k: np.moveaxis(v, 1, -1).reshape(len(v), -1, len(SHAPES)) for k, v in wanted.items()}
    found = {}
    for name, (proposals, make) in EXTRACTORS.items():
        start = time.perf_counter()
        concepts = discover_video_concepts(
            probe, fit.videos, proposals=proposals, extractor=lambda make=make: make(seed)
        )
        masks = {"fit": concepts.masks_in(fit.videos), "test": concepts.masks_in(test.videos)}
        flat = {k: np.concatenate([m.reshape(len(m), -1, m.shape[-1]) for m in v.values()], -1)
                for k, v in masks.items()}  # fmt: skip
        best = overlap(flat["fit"], wanted["fit"]).argmax(axis=0)  # chosen on the other videos
        scores = overlap(flat["test"], wanted["test"])[best, np.arange(len(SHAPES))]
        found[name] = {"iou": scores.tolist(), "concepts": len(concepts.units),
                       "seconds": time.perf_counter() - start}  # fmt: skip
        print(f"{name}: mean IoU {scores.mean():.3f} {scores.round(2)}, {len(concepts.units)} "
              f"concepts, {found[name]['seconds']:.0f} s", flush=True)  # fmt: skip
    return found


def importance(model: keras.Model, fit: MovingShapes, by: str) -> dict[str, Any]:
    """Return areas under the removal curves of each extractor."""
    probe, classes = VideoProbe(model), fit.labels(by)[:40]
    found = {}
    for name in ("convex NMF on tubelets", "direction pairs"):
        proposals, make = EXTRACTORS[name]
        concepts = discover_video_concepts(
            probe, fit.videos[:40], proposals=proposals, extractor=lambda make=make: make(0)
        )
        result = masked_importance(
            concepts, fit.videos[:40], lambda y, x: y[np.arange(len(y)), classes], subsets=500,
            batch_size=40,
        )  # fmt: skip
        found[name] = result.curves(step=6).areas
        print(f"{name}: {found[name]}", flush=True)
    return found


def large() -> dict[str, Any]:
    """Return time and memory of a probe of the size of ViT-B on 30 clips, random weights."""
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
    start = time.perf_counter()
    probe = VideoProbe(model, batch_size=1)
    built = time.perf_counter() - start
    clips = np.random.default_rng(0).uniform(size=(30, 16, 224, 224, 3)).astype(np.float32)
    start = time.perf_counter()
    concepts = discover_video_concepts(probe, clips, heads=[(0, 0), (0, 1)])
    seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(
        f"{concepts}; probe {built:.0f} s, two heads of layer 0 {seconds:.0f} s, peak {peak:.2f} GB"
    )
    return {"built": built, "two heads": seconds, "peak GB": peak}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--parts", default="shares,iou,importance")
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--videos", type=int, default=800)
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    parts = arguments.parts.split(",")
    found: dict[str, Any] = {}
    if "large" in parts:
        found["large"] = large()
    if set(parts) - {"large"}:
        data = moving_shapes(arguments.videos, random_state=1)
        fit, test = moving_shapes(60, random_state=2), moving_shapes(60, random_state=3)
        models = {}
        for by in ("motion", "shape"):
            start = time.perf_counter()
            models[by] = train_video_transformer(data, by, arguments.epochs)
            right = models[by].predict(test.videos, verbose=0).argmax(1) == test.labels(by)
            print(
                f"{by}: accuracy {right.mean():.3f}, {time.perf_counter() - start:.0f} s",
                flush=True,
            )
        if "shares" in parts:
            found["shares"] = shares(models, test)
        for by, model in models.items():
            if "iou" in parts:
                print(f"network of {by}")
                found[f"iou, {by}"] = ious(model, fit, test, 0)
            if "importance" in parts and by == "motion":
                found["importance"] = importance(model, fit, by)
    if arguments.output:
        arguments.output.mkdir(parents=True, exist_ok=True)
        (arguments.output / "video.json").write_text(json.dumps(found, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
