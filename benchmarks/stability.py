"""Stability of concepts over seeds and over halves of the photographs, on a real network.

    python benchmarks/stability.py --data DIR
    python benchmarks/stability.py --data DIR --layers out_relu --seeds 3

DIR is laid out as for benchmarks/real_network.py. Every method is fitted on the "train" photographs
with several seeds, and, with the first seed, on two halves of them. Two fits are compared by the
mean cosine, without its sign, of directions matched by the Hungarian method:

    encoding    signal vectors; components (NMF, FastICA's mixing), centroids about their mean
    decoding    filters; FastICA's unmixing (the others have none)

NMF and K-Means are initialised at random. The initialisation of the direction pairs is the same for
every seed, which only decides the order of the positions: halves are the harder test.
"""

from __future__ import annotations

import argparse
import itertools
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from real_network import load_data
from sklearn.cluster import KMeans
from sklearn.decomposition import NMF, FastICA
from sklearn.exceptions import ConvergenceWarning

from xplique_dirpairs.data.images import compute_activations
from xplique_dirpairs.learning.learner import learn_pairs
from xplique_dirpairs.metrics.dictionary import dictionary_stability
from xplique_dirpairs.models.head import Head
from xplique_dirpairs.models.split import split_model

#: Encoding and, where there are any, decoding directions, (I, D) each.
Directions = tuple[NDArray, NDArray | None]
#: Positions that the slow baselines are fitted on.
POSITIONS = 20_000


def pixels(activations: NDArray, seed: int) -> NDArray:
    flat = activations.reshape(-1, activations.shape[-1])
    chosen = np.random.default_rng(seed).permutation(len(flat))[:POSITIONS]
    return flat[np.sort(chosen)]


def nmf(activations: NDArray, concepts: int, seed: int, head: Head) -> Directions:
    x = np.maximum(pixels(activations, 0), 0.0)
    model = NMF(concepts, init="random", random_state=seed, max_iter=200, tol=1e-3).fit(x)
    return model.components_, None


def k_means(activations: NDArray, concepts: int, seed: int, head: Head) -> Directions:
    model = KMeans(concepts, n_init=1, random_state=seed).fit(pixels(activations, 0))
    return model.cluster_centers_ - model.cluster_centers_.mean(axis=0), None


def fast_ica(activations: NDArray, concepts: int, seed: int, head: Head) -> Directions:
    model = FastICA(concepts, whiten="unit-variance", random_state=seed, max_iter=200)
    model.fit(pixels(activations, 0))
    return model.mixing_.T, model.components_


def direction_pairs(activations: NDArray, concepts: int, seed: int, head: Head) -> Directions:
    pairs, _ = learn_pairs(activations, concepts, head=head, random_state=seed, verbose=0)
    return pairs.signals, pairs.filters


METHODS: dict[str, Callable[[NDArray, int, int, Head], Directions]] = {
    "direction pairs": direction_pairs,
    "NMF": nmf,
    "K-Means": k_means,
    "FastICA": fast_ica,
}


def agreement(first: NDArray | None, second: NDArray | None) -> float:
    """Return the mean absolute cosine of matched directions."""
    if first is None or second is None:
        return float("nan")
    return dictionary_stability(first, second)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, metavar="DIR")
    parser.add_argument("--layers", nargs="+", default=["out_relu", "block_13_expand_relu"])
    parser.add_argument("--concepts", type=int, default=25)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--methods", nargs="+", choices=list(METHODS), default=list(METHODS))
    arguments = parser.parse_args()
    if not (arguments.data / "load.py").is_file():
        print(f"skipped: there is no {arguments.data / 'load.py'} (see --help for the layout)")
        return
    warnings.simplefilter("ignore", ConvergenceWarning)
    data = load_data(arguments.data)
    model, photographs = data.model(), data.preprocess(data.photos("train")[0])
    half = np.random.default_rng(0).permutation(len(photographs)) < len(photographs) // 2
    print("| layer | method | seeds: encoding | decoding | halves: encoding | decoding | s a fit |")
    print("|---|---|---|---|---|---|---|", flush=True)
    for layer in arguments.layers:
        g, h = split_model(model, layer)
        activations, head = compute_activations(g, photographs), Head(h)
        for name in arguments.methods:
            fit, start = METHODS[name], time.perf_counter()
            found = [fit(activations, arguments.concepts, s, head) for s in range(arguments.seeds)]
            seconds = (time.perf_counter() - start) / arguments.seeds
            halves = [fit(activations[part], arguments.concepts, 0, head) for part in (half, ~half)]
            columns = [
                np.mean([agreement(a[side], b[side]) for a, b in itertools.combinations(fits, 2)])
                for fits in (found, halves)
                for side in (0, 1)
            ]
            shown = ["–" if np.isnan(value) else f"{value:.3f}" for value in columns]
            print("| " + " | ".join([layer, name, *shown, f"{seconds:.1f}"]) + " |", flush=True)


if __name__ == "__main__":
    main()
