"""Baselines of the recovery benchmarks, each on its own terms, and the ceiling.

    PCA               components; about its mean
    FastICA           detectors from the unmixing, signal vectors from the mixing matrix
    NMF               codes and components (channels with negative features are shifted up)
    K-Means           a cell of the partition is a detector, centroid − mean its signal vector
    Pattern-CAV       with concept labels: logistic regression as detector, mean(positives) −
                      mean(negatives) as signal vector

    semi-NMF, TopK SAE, A-SAE, RA-SAE
                      the package's factorizers with their defaults: coefficients, encoding
                      directions

PCA, FastICA, NMF and these have no thresholds: the quantile that leaves the true share of positions
is used. The sign of a PCA or ICA component is arbitrary: the one along its concept is used.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.cluster import KMeans
from sklearn.decomposition import NMF, PCA, FastICA
from sklearn.linear_model import LogisticRegression
from threadpoolctl import threadpool_limits

from xplique_dirpairs.core.linear_algebra import cosines, match
from xplique_dirpairs.datasets.synthetic import SyntheticSignals
from xplique_dirpairs.factorizers.autoencoders import (
    ArchetypalFactorizer,
    RelaxedArchetypalFactorizer,
    TopKFactorizer,
)
from xplique_dirpairs.factorizers.nonnegative import SemiNMFFactorizer
from xplique_dirpairs.learning.coordinates import Moments
from xplique_dirpairs.learning.signals import mean_difference, measure_pairs
from xplique_dirpairs.metrics.recovery import Recovery, detector_iou, recovery
from xplique_dirpairs.pairs import DirectionPairs


@dataclass(frozen=True)
class Found:
    """Result of a method: J signal vectors (J, D), and filters (J, D) where there are any.

    ``read`` maps positions (P, D) to detections and centred signal values, both (P, J).
    """

    signals: NDArray
    read: Callable[[NDArray], tuple[NDArray, NDArray]]
    filters: NDArray | None = None
    either_sign: bool = False


def pixels(data: SyntheticSignals) -> NDArray:
    return data.features.reshape(-1, data.features.shape[-1])


def by_quantile(values: NDArray, like: NDArray, share: float) -> NDArray:
    return values > np.quantile(like, 1 - share, axis=0)


def of_pairs(pairs: DirectionPairs) -> Found:
    def read(x):
        return pairs.detect(x) > 0.5, pairs.signal_values(x)

    return Found(pairs.signals, read, pairs.filters)


def pca(data: SyntheticSignals, seed: int) -> Found:
    model, share = PCA(len(data.signals), random_state=seed), data.masks.mean()
    codes = model.fit_transform(pixels(data))

    def read(x):
        values = model.transform(x)
        return by_quantile(values, codes, share), values

    return Found(model.components_, read, model.components_, either_sign=True)


def fast_ica(data: SyntheticSignals, seed: int, max_iter: int = 1000) -> Found:
    concepts, share = len(data.signals), data.masks.mean()
    model = FastICA(concepts, random_state=seed, whiten="unit-variance", max_iter=max_iter)
    codes = model.fit_transform(pixels(data))

    def read(x):
        values = model.transform(x)
        return by_quantile(values, codes, share), values * np.linalg.norm(model.mixing_, axis=0)

    return Found(model.mixing_.T, read, model.components_, either_sign=True)


def nmf(data: SyntheticSignals, seed: int, max_iter: int = 1000) -> Found:
    model = NMF(len(data.signals), random_state=seed, max_iter=max_iter)
    x, share = pixels(data), data.masks.mean()
    lowest = np.minimum(x.min(axis=0), 0.0)
    codes = model.fit_transform(x - lowest)

    def read(x):
        values = model.transform(np.maximum(x - lowest, 0.0))
        lengths = np.linalg.norm(model.components_, axis=1)
        return by_quantile(values, codes, share), (values - codes.mean(axis=0)) * lengths

    return Found(model.components_, read)


def k_means(data: SyntheticSignals, seed: int, n_init: int = 10) -> Found:
    model = KMeans(len(data.signals), random_state=seed, n_init=n_init).fit(pixels(data))
    offsets = model.cluster_centers_ - pixels(data).mean(axis=0)
    share = np.bincount(model.labels_) / len(model.labels_)

    def read(x):
        inside = np.eye(len(offsets), dtype=bool)[model.predict(x)]
        return inside, (inside - share) * np.linalg.norm(offsets, axis=1)

    return Found(offsets, read)


def pattern_cav(data: SyntheticSignals, seed: int) -> Found:
    x, labels = pixels(data), data.masks.reshape(-1, data.masks.shape[-1])
    mean = x.mean(axis=0)
    # turning the features does not change the solution, which lies along the axes that vary
    variances, axes = np.linalg.eigh(np.cov(x, rowvar=False))
    axes = axes[:, variances > 1e-9 * variances[-1]]
    turned = (x - mean) @ axes
    with threadpool_limits(1):  # many small products: threads are slower on a busy machine
        models = [LogisticRegression(max_iter=2000).fit(turned, t) for t in labels.T]
    filters = np.concatenate([model.coef_ for model in models]) @ axes.T
    biases = np.concatenate([model.intercept_ for model in models])
    signals = mean_difference(x - mean, labels.astype(x.dtype)).numpy()
    signals /= np.linalg.norm(signals, axis=1, keepdims=True)
    gain = np.einsum("id,id->i", filters, signals)

    def read(y):
        z = (y - mean) @ filters.T
        return z + biases > 0, z / gain

    return Found(signals, read, filters)


def factorizer(make: Callable[..., Any], data: SyntheticSignals, seed: int) -> Found:
    model, share = make(len(data.signals), random_state=seed), data.masks.mean()
    model.fit(pixels(data))
    codes = model.encode(pixels(data))
    signals = np.asarray(model.encoding_directions)

    def read(x):
        values = np.asarray(model.encode(x))
        lengths = np.linalg.norm(signals, axis=1)
        return by_quantile(values, codes, share), (values - codes.mean(axis=0)) * lengths

    return Found(signals, read)


FACTORIZERS: dict[str, Callable[..., Found]] = {
    "semi-NMF": partial(factorizer, SemiNMFFactorizer),
    "TopK SAE": partial(factorizer, TopKFactorizer),
    "A-SAE": partial(factorizer, ArchetypalFactorizer),
    "RA-SAE": partial(factorizer, RelaxedArchetypalFactorizer),
}
BASELINES: dict[str, Callable[..., Found]] = {
    "PCA": pca,
    "FastICA": fast_ica,
    "NMF": nmf,
    "K-Means": k_means,
    "Pattern-CAV (labels)": pattern_cav,
}


def true_filters(data: SyntheticSignals) -> NDArray:
    """Return the rows of the pseudo-inverse of [S D] that belong to S, (I, D)."""
    directions = np.concatenate([data.signals, data.distractors])
    return np.linalg.pinv(directions.T)[: len(data.signals)]


def best_thresholds(values: NDArray, masks: NDArray) -> NDArray:
    """Return the thresholds (I,) with the largest IoU of values (P, I) with masks (P, I).

    Without noise they lie in the gap between absent and present.
    """
    thresholds = []
    for value, mask in zip(values.T, masks.T, strict=True):
        order = np.argsort(-value)
        hits, detected = np.cumsum(mask[order]), np.arange(1, len(order) + 1)
        last = np.argmax(hits / (detected + hits[-1] - hits))
        thresholds.append(value[order[last : last + 2]].mean())
    return np.array(thresholds)


def ceiling(data: SyntheticSignals) -> tuple[Found, str]:
    """Return true filters, best thresholds and the best of four signal estimates, and its name."""
    filters, x, moments = true_filters(data), pixels(data), Moments.of(pixels(data))
    centred = x - moments.mean.astype(x.dtype)
    biases = best_thresholds(centred @ filters.T, data.masks.reshape(-1, len(filters)))
    measured = {
        name: measure_pairs(x, moments, filters, biases, name).pairs
        for name in ("positives", "joint")
    }
    pairs = measured["positives"]
    on = pairs.detect(x) > 0.5
    covariance = filters @ moments.covariance
    estimates = {name: found.signals for name, found in measured.items()}
    estimates["mean difference"] = mean_difference(centred, on.astype(x.dtype)).numpy()
    estimates["regression"] = np.linalg.solve(covariance @ filters.T, covariance)
    made = {
        name: DirectionPairs(filters, pairs.biases, s, pairs.mean, pairs.absent_levels)
        for name, s in estimates.items()
    }
    best = max(made, key=lambda name: np.mean(np.sum(made[name].signals * data.signals, axis=1)))
    return of_pairs(made[best]), best


def along_concepts(found: Found, fresh: SyntheticSignals) -> Found:
    """Turn components without a sign along the concepts that they fit best."""
    if not found.either_sign:
        return found
    share, masks = fresh.masks.mean(), fresh.masks.reshape(-1, fresh.masks.shape[-1])
    detected, values = found.read(pixels(fresh))
    mirrored = by_quantile(-values, -values, share)
    ious = np.maximum(detector_iou(detected, masks), detector_iou(mirrored, masks))
    matching = match(ious)
    sign = np.ones(len(found.signals))
    sign[matching] = np.sign(np.diag(cosines(found.signals[matching], fresh.signals)))

    def read(x):
        detected, values = found.read(x)
        mirrored = by_quantile(-values, -values, share)
        return np.where(sign < 0, mirrored, detected), values * sign

    filters = None if found.filters is None else found.filters * sign[:, None]
    return replace(
        found, signals=found.signals * sign[:, None], filters=filters, read=read, either_sign=False
    )


def measure(found: Found, fresh: SyntheticSignals) -> Recovery:
    """Measure the recovery on fresh data of a result with signs (see `along_concepts`)."""
    detected, values = found.read(pixels(fresh))
    masks = fresh.masks.reshape(-1, fresh.masks.shape[-1])
    return recovery(
        detected=detected,
        masks=masks,
        signals=found.signals,
        true_signals=fresh.signals,
        signal_values=values,
        alpha=fresh.alpha.reshape(masks.shape),
    )


def filter_cosines(found: Found, data: SyntheticSignals, matching: NDArray) -> NDArray | None:
    """Return the cosine of each true filter with its match, (I,), along the span of [S D]."""
    if found.filters is None:
        return None
    directions = np.concatenate([data.signals, data.distractors])
    seen = found.filters @ np.linalg.pinv(directions) @ directions
    return np.diag(cosines(seen[matching], true_filters(data)))
