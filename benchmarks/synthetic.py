"""The recovery table: direction pairs and other methods on the synthetic reference experiment.

    python benchmarks/synthetic.py --seeds 20 --signals table6
    python benchmarks/synthetic.py --seeds 20 --signals random

Every seed is a data set (3000 images of two pixels, D = 16, I = 3) and a start. Methods are fitted
on it and measured on fresh data of the same directions. Each method is taken on its own terms:

    direction pairs   own filters, biases and signal vectors, the default recipe
    PCA               components; about its mean
    FastICA           detectors from the unmixing, signal vectors from the mixing matrix
    NMF               codes and components (features are positive here)
    K-Means           a cell of the partition is a detector, centroid − mean its signal vector
    Pattern-CAV       with concept labels: logistic regression as detector, mean(positives) −
                      mean(negatives) as signal vector

PCA, FastICA and NMF have no thresholds: theirs is the 1 − 1/I quantile, which here is the true
share. The sign of a PCA or ICA component is arbitrary: the one along its concept is taken.
Detectors are matched to concepts by the Hungarian method on the IoU.
"""

from __future__ import annotations

import argparse
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sklearn.cluster import KMeans
from sklearn.decomposition import NMF, PCA, FastICA
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression

from xplique_dirpairs.datasets.synthetic import (
    SyntheticSignals,
    pooled_dense_head,
    random_directions,
    synthetic_signals,
)
from xplique_dirpairs.learning.trainer import learn_pairs
from xplique_dirpairs.metrics.recovery import (
    Recovery,
    detector_iou,
    match_concepts,
    recovery,
    signal_cosines,
)
from xplique_dirpairs.network import Head

#: Success: every concept of the fit meets all of these.
IOU, IOU_OTHERS, COSINE, MEAN_COSINE, RMSE = 0.95, 0.02, 0.97, 0.99, 0.12


@dataclass
class Found:
    """What a method says of pixels (P, D): detections and centred signal values, both (P, J)."""

    signals: NDArray
    read: Callable[[NDArray], tuple[NDArray, NDArray]]
    either_sign: bool = False


def pixels(data: SyntheticSignals) -> NDArray:
    return data.features.reshape(-1, data.features.shape[-1])


def by_quantile(values: NDArray, like: NDArray) -> NDArray:
    return values > np.quantile(like, 1 - 1 / like.shape[-1], axis=0)


def direction_pairs(data: SyntheticSignals, seed: int) -> Found:
    head = Head(pooled_dense_head(data.features, data.labels))
    pairs, _ = learn_pairs(
        data.features, len(data.signals), head=head, random_state=seed, verbose=0
    )
    return Found(pairs.signals, lambda x: (pairs.detect(x) > 0.5, pairs.signal_values(x)))


def pca(data: SyntheticSignals, seed: int) -> Found:
    model = PCA(len(data.signals), random_state=seed)
    codes = model.fit_transform(pixels(data))

    def read(x):
        values = model.transform(x)
        return by_quantile(values, codes), values

    return Found(model.components_, read, either_sign=True)


def fast_ica(data: SyntheticSignals, seed: int) -> Found:
    model = FastICA(len(data.signals), random_state=seed, whiten="unit-variance", max_iter=1000)
    codes = model.fit_transform(pixels(data))

    def read(x):
        values = model.transform(x)
        return by_quantile(values, codes), values * np.linalg.norm(model.mixing_, axis=0)

    return Found(model.mixing_.T, read, either_sign=True)


def nmf(data: SyntheticSignals, seed: int) -> Found:
    model = NMF(len(data.signals), random_state=seed, max_iter=1000)
    codes = model.fit_transform(pixels(data))

    def read(x):
        values = model.transform(x)
        lengths = np.linalg.norm(model.components_, axis=1)
        return by_quantile(values, codes), (values - codes.mean(axis=0)) * lengths

    return Found(model.components_, read)


def k_means(data: SyntheticSignals, seed: int) -> Found:
    model = KMeans(len(data.signals), random_state=seed, n_init=10).fit(pixels(data))
    offsets = model.cluster_centers_ - pixels(data).mean(axis=0)
    share = np.bincount(model.labels_) / len(model.labels_)

    def read(x):
        inside = np.eye(len(offsets), dtype=bool)[model.predict(x)]
        return inside, (inside - share) * np.linalg.norm(offsets, axis=1)

    return Found(offsets, read)


def pattern_cav(data: SyntheticSignals, seed: int) -> Found:
    x, labels = pixels(data), data.masks.reshape(-1, data.masks.shape[-1])
    mean = x.mean(axis=0)
    models = [LogisticRegression(max_iter=2000).fit(x - mean, t) for t in labels.T]
    filters = np.concatenate([model.coef_ for model in models])
    biases = np.concatenate([model.intercept_ for model in models])
    signals = np.stack([x[t].mean(axis=0) - x[~t].mean(axis=0) for t in labels.T])
    signals /= np.linalg.norm(signals, axis=1, keepdims=True)
    gain = np.einsum("id,id->i", filters, signals)

    def read(y):
        z = (y - mean) @ filters.T
        return z + biases > 0, z / gain

    return Found(signals, read)


METHODS: dict[str, Callable[[SyntheticSignals, int], Found]] = {
    "direction pairs": direction_pairs,
    "PCA": pca,
    "FastICA": fast_ica,
    "NMF": nmf,
    "K-Means": k_means,
    "Pattern-CAV (labels)": pattern_cav,
}


def measure(found: Found, fresh: SyntheticSignals) -> Recovery:
    """Recovery on fresh data; components without a sign are turned along their concepts."""
    x = pixels(fresh)
    detected, values = found.read(x)
    signals = found.signals
    masks = fresh.masks.reshape(-1, fresh.masks.shape[-1])
    if found.either_sign:
        mirrored = by_quantile(-values, -values)
        matching = match_concepts(
            np.maximum(detector_iou(detected, masks), detector_iou(mirrored, masks))
        )
        sign = np.ones(len(signals))
        sign[matching] = np.sign(np.diag(signal_cosines(signals[matching], fresh.signals)))
        detected = np.where(sign < 0, mirrored, detected)
        values, signals = values * sign, signals * sign[:, None]
    return recovery(
        detected=detected,
        masks=masks,
        signals=signals,
        true_signals=fresh.signals,
        signal_values=values,
        alpha=fresh.alpha.reshape(masks.shape),
    )


def succeeded(result: Recovery) -> bool:
    return bool(
        result.iou.min() >= IOU
        and result.iou_others.max() <= IOU_OTHERS
        and result.cosine.min() >= COSINE
        and result.cosine.mean() >= MEAN_COSINE
        and result.overall_rmse <= RMSE
    )


def row(name: str, results: list[Recovery], seconds: list[float]) -> str:
    """Worst and mean over seeds and concepts."""
    iou = np.concatenate([r.iou for r in results])
    others = np.concatenate([r.iou_others for r in results])
    cosine = np.concatenate([r.cosine for r in results])
    rmse = np.array([r.overall_rmse for r in results])
    success = sum(map(succeeded, results))
    return (
        f"| {name:20s} | {iou.min():.3f} / {iou.mean():.3f} | {others.max():.3f} "
        f"| {cosine.min():+.3f} / {cosine.mean():+.3f} | {rmse.max():.3f} / {rmse.mean():.3f} "
        f"| {success}/{len(results)} | {np.max(seconds):.1f} / {np.mean(seconds):.1f} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=20, metavar="N", help="0 … N − 1")
    parser.add_argument("--first-seed", type=int, default=0, metavar="S")
    parser.add_argument("--signals", choices=("table6", "random"), default="table6")
    parser.add_argument("--images-per-class", type=int, default=1000, metavar="N")
    parser.add_argument("--methods", nargs="+", choices=list(METHODS), default=list(METHODS))
    parser.add_argument("--verbose", action="store_true", help="a line for every fit")
    arguments = parser.parse_args()

    results: dict[str, list[Recovery]] = {name: [] for name in arguments.methods}
    seconds: dict[str, list[float]] = {name: [] for name in arguments.methods}
    warnings.simplefilter("ignore", ConvergenceWarning)  # FastICA's: printed as it came out
    for seed in range(arguments.first_seed, arguments.first_seed + arguments.seeds):
        directions = random_directions(seed) if arguments.signals == "random" else (None, None)
        data = synthetic_signals(arguments.images_per_class, seed, *directions)
        fresh = synthetic_signals(arguments.images_per_class, seed + 1_000_000, *directions)
        for name in arguments.methods:
            start = time.perf_counter()
            found = METHODS[name](data, seed)
            seconds[name].append(time.perf_counter() - start)
            result = measure(found, fresh)
            results[name].append(result)
            if arguments.verbose:
                print(
                    f"seed {seed} {name}: IoU {result.iou.round(3)}, others "
                    f"{result.iou_others.round(3)}, cosine {result.cosine.round(3)}, RMSE "
                    f"{result.overall_rmse:.3f}, {seconds[name][-1]:.1f} s",
                    flush=True,
                )
        print(f"seed {seed} done", file=sys.stderr, flush=True)

    print(f"\nsignals and distractors: {arguments.signals}; {arguments.seeds} seeds\n")
    print(
        "| method | IoU own: min / mean | others: max | cosine: min / mean | RMSE: max / mean "
        "| success | s: max / mean |"
    )
    print("|---|---|---|---|---|---|---|")
    for name in arguments.methods:
        print(row(name, results[name], seconds[name]))
    print(
        f"\nsuccess: every detector IoU ≥ {IOU} with its concept and ≤ {IOU_OTHERS} with the "
        f"others, every cosine ≥ {COSINE}, their mean ≥ {MEAN_COSINE}, RMSE ≤ {RMSE}"
    )


if __name__ == "__main__":
    main()
