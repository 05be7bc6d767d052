"""Concepts that networks share: planted ones, and the cost of matching.

    python benchmarks/universality.py                     # planted networks, three seeds
    python benchmarks/universality.py --together          # concepts learned together, three seeds
    python benchmarks/universality.py --cost              # seconds and memory

Planted networks are those of `datasets.planted_models`: two networks of 24 and 32 channels, 16
shared and 4 private concepts each, 6,000 positions. Every method but USAE, whose indices are not
used here, is fitted to each network by itself, with the true number of concepts; all are matched by
`match_extractors`. Columns:

    recovered   shared concepts that a concept of *each* network reads with |r| > .8
    matched     of these, those whose two concepts are a match that holds
    all         all shared concepts whose two best concepts are a match that holds
    wrong       matches that hold of two concepts that do not read the same shared concept best
    apart       matches at r ≥ .3 after the positions of one network are shifted: nothing is shared
    φ           median over matches
    cross R²    mean of the two directions, and as a share of that of the true codes
    s           of matching

--together learns the concepts of both networks together, and measures 6,000 other positions:

    shared      shared concepts whose atoms or signal vectors at one index have cosines > .95 with
                the planted atoms in both networks
    φ, entropy, IoU   medians over these indices; low: φ < .3
    private φ   largest φ at an index where a network has one of its private concepts
    true φ      median φ of the firings with the planted concept, over both networks
    fake        private concepts at an index that fires in both networks (firing entropy > .6)
    cross R²    by ridge from the coefficients of all concepts that both networks are said to have,
                and as a share of that of the true shared codes

--cost matches networks of 64 and 96 channels at 16,000 positions (250 images of 8 × 8), with 48
concepts each, and learns 48 concepts of both together.
"""

from __future__ import annotations

import argparse
import resource
import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xplique_dirpairs.core.linear_algebra import match
from xplique_dirpairs.core.tables import Cell, Table
from xplique_dirpairs.datasets.planted_models import PlantedModel, PlantedModels, planted_models
from xplique_dirpairs.factorizers.decompositions import FastICAFactorizer, PCAFactorizer
from xplique_dirpairs.factorizers.direction_pairs import DirectionPairsFactorizer
from xplique_dirpairs.factorizers.universal import UniversalFactorizer
from xplique_dirpairs.learning.universal_pairs import learn_universal_pairs
from xplique_dirpairs.matching.match_extractors import match_extractors
from xplique_dirpairs.matching.match_result import Matches
from xplique_dirpairs.metrics.universality import phi_of_counts, universality

#: From planted networks and a seed to the extractor of each network.
Fit = Callable[[PlantedModels, int], dict[str, Any]]
#: Least |correlation| of a concept with the shared one that it has recovered.
RECOVERED = 0.8


def _each(make: Callable[..., Any]) -> Fit:
    """Return a fit of each network by itself, with its true number of concepts."""

    def fit(data: PlantedModels, seed: int) -> dict[str, Any]:
        extractors = {
            name: make(len(model.atoms), random_state=seed) for name, model in data.models.items()
        }
        for name, extractor in extractors.items():
            extractor.fit(data[name].features)
        return extractors

    return fit


def _universal(data: PlantedModels, seed: int) -> dict[str, Any]:
    universal = UniversalFactorizer(32, k=4, random_state=seed)
    universal.fit(data.activations)
    return {name: universal[name] for name in data.models}


_PAIRS = _each(partial(DirectionPairsFactorizer, verbose=0))
METHODS: dict[str, tuple[Fit, str]] = {
    "pairs": (_PAIRS, "coefficients"),
    "pairs, by detections": (_PAIRS, "detections"),
    "PCA": (_each(PCAFactorizer), "coefficients"),
    "FastICA": (_each(FastICAFactorizer), "coefficients"),
    "USAE": (_universal, "coefficients"),
}


def recovered(extractor: Any, model: PlantedModel, shared: int) -> tuple[NDArray, NDArray]:
    """Return which concept reads each shared one best, and their |correlation|."""
    u = np.asarray(extractor.encode(model.features))
    codes = model.coefficients[:, :shared]
    r = np.nan_to_num(np.abs(np.corrcoef(u.T, codes.T)[: u.shape[1], u.shape[1] :]))
    rows = match(r)
    return rows, np.where(rows >= 0, r[rows, np.arange(shared)], 0.0)


def matched(extractors: Mapping[str, Any], data: PlantedModels, by: str) -> tuple[Matches, float]:
    """Return the matches of two extractors, and the seconds it took to find them."""
    start = time.perf_counter()
    found = match_extractors({k: (extractors[k], data[k].features) for k in data.models}, by=by)
    return found, time.perf_counter() - start


def planted_row(name: str, extractors: Mapping[str, Any], data: PlantedModels) -> list[Cell]:
    """Return the row of a method for one planted problem."""
    by = METHODS[name][1]
    found, seconds = matched(extractors, data, by)
    truth = [recovered(extractors[k], data[k], data.shared) for k in data.models]
    good = np.all([r > RECOVERED for _, r in truth], axis=0)
    holding = {tuple(one) for one in found.concepts[found.holds].tolist()}
    own = [tuple(one) for one in np.stack([rows for rows, _ in truth], axis=1).tolist()]
    is_matched = np.array([one in holding for one in own])
    apart, _ = matched(extractors, data.independent(), by)
    off = ~np.eye(len(data.models), dtype=bool)
    assert found.cross_r2 is not None
    cross, ceiling = found.cross_r2[off].mean(), data.ceiling()[off].mean()
    return [
        Cell(name),
        Cell(f"{good.sum()}"),
        Cell(f"{(good & is_matched).sum()}"),
        Cell(f"{is_matched.sum()}"),
        Cell(f"{len(holding - set(own))}"),
        Cell(f"{len(apart)}"),
        Cell.figure(float(np.median(found.phi)) if len(found) else np.nan, 2),
        Cell(f"{cross:.2f} ({cross / ceiling:.0%})"),
        Cell.figure(seconds, 2),
    ]


def planted(seeds: int, methods: list[str]) -> None:
    """Print a table for each seed."""
    headers = ["method", "recovered", "matched", "all", "wrong", "apart", "φ", "cross R²", "s"]
    for seed in range(seeds):
        data, rows = planted_models(seed=seed), []
        fitted: dict[Fit, dict[str, Any]] = {}
        for name in methods:
            fit = METHODS[name][0]
            if fit not in fitted:
                fitted[fit] = fit(data, seed)
            rows.append(planted_row(name, fitted[fit], data))
        print(f"seed {seed}\n{Table(headers, rows)}\n", flush=True)


@dataclass(frozen=True)
class Together:
    """Concepts of both networks with one index: how they are read, and their directions.

    ``rows[name]`` are the indices of the network's own concepts, −1 where it has none.
    """

    extractors: Mapping[str, Any]
    rows: Mapping[str, NDArray]

    def directions(self, name: str) -> NDArray:
        """Return the direction of each concept, 0 where the network does not have it."""
        extractor, own = self.extractors[name], self.rows[name]
        signals = extractor.signals if hasattr(extractor, "signals") else extractor.bank_
        return np.where(own[:, None] >= 0, signals[own], 0.0)

    def fires(self, name: str, features: NDArray) -> NDArray:
        """Return where each concept fires, (P, I) bool."""
        extractor, own = self.extractors[name], self.rows[name]
        if hasattr(extractor, "detect"):
            fires = extractor.detect(features) > 0.5
        else:
            fires = extractor.encode(features) > FIRES
        return fires[:, own] & (own >= 0)


def _usae(update: str, atoms: str) -> Callable[[PlantedModels, int], Together]:
    def fit(data: PlantedModels, seed: int) -> Together:
        universal = UniversalFactorizer(32, k=4, update=update, atoms=atoms, random_state=seed)
        universal.fit(data.activations)
        rows = dict(zip(universal, universal.concepts.T, strict=True))
        return Together({name: universal[name] for name in universal}, rows)

    return fit


def _universal_pairs(data: PlantedModels, seed: int) -> Together:
    universal = learn_universal_pairs(data.activations, 24, random_state=seed, verbose=0)
    return Together(universal.pairs, dict(zip(universal, universal.concepts.T, strict=True)))


def _matched_pairs(data: PlantedModels, seed: int) -> Together:
    pairs = {name: fitted.pairs_ for name, fitted in _PAIRS(data, seed).items()}
    found = match_extractors({k: (pairs[k], data[k].features) for k in pairs})
    columns = [list(one) for one in found.concepts.T]
    for m, name in enumerate(pairs):
        alone = set(range(pairs[name].number_of_concepts)) - set(columns[m])
        for n, column in enumerate(columns):
            column += sorted(alone) if n == m else [-1] * len(alone)
    return Together(pairs, {k: np.array(c) for k, c in zip(pairs, columns, strict=True)})


TOGETHER: dict[str, Callable[[PlantedModels, int], Together]] = {
    "universal pairs": _universal_pairs,
    "separate pairs, matched": _matched_pairs,
    "USAE": _usae("all", "ball"),
    "USAE, update of the paper": _usae("selected", "unit"),
    "USAE, only update all": _usae("all", "unit"),
    "USAE, only atoms in the ball": _usae("selected", "ball"),
}
#: Coefficient above which a concept of USAE fires.
FIRES = 0.1


def together_row(name: str, data: PlantedModels, seed: int) -> list[Cell]:
    """Return the row of a method that gives concepts of both networks one index."""
    start = time.perf_counter()
    learned = TOGETHER[name](data, seed)
    seconds = time.perf_counter() - start
    given = data.fresh(6000, 1)
    directions = {k: learned.directions(k) for k in data.models}
    indices, cosine = data.shared_indices(directions)
    private = data.private_indices(directions)
    fires = np.stack([learned.fires(k, given[k].features) for k in data.models])
    found = universality(fires, permutations=0)
    entropy, phi = found.firing_entropy, found.phi
    present = [model.present[:, : data.shared] for model in given.models.values()]
    true = [phi_of(f[:, indices], p) for f, p in zip(fires, present, strict=True)]
    rows = np.stack([learned.rows[k] for k in data.models], axis=1)
    matches = match_extractors(
        {k: (learned.extractors[k], given[k].features) for k in data.models},
        concepts=rows[(rows >= 0).all(axis=1)],
        permutations=0,
    )
    assert matches.cross_r2 is not None
    off = ~np.eye(len(data.models), dtype=bool)
    r2 = matches.cross_r2[off].mean()
    return [
        Cell(name),
        Cell(f"{(cosine > 0.95).sum()}"),
        Cell.figure(float(np.median(phi[indices])), 2),
        Cell(f"{(phi[indices] < 0.3).sum()}"),
        Cell.figure(float(np.median(true)), 2),
        Cell.figure(float(np.median(entropy[indices])), 2),
        Cell.figure(float(np.median(found.cofire_iou[indices])), 2),
        Cell.figure(float(phi[private].max(initial=0.0)), 2),
        Cell(f"{(entropy[private] > 0.6).sum()} of {len(private)}"),
        Cell(f"{r2:.2f} ({r2 / data.ceiling()[off].mean():.0%})"),
        Cell.figure(seconds, 1),
    ]


def phi_of(fires: NDArray, present: NDArray) -> NDArray:
    """Return φ of each column of two boolean arrays (P, U)."""
    both = (fires & present).sum(axis=0)
    return phi_of_counts(both, fires.sum(axis=0), present.sum(axis=0), len(fires))


def together(seeds: int) -> None:
    """Print a table for each seed of concepts that are learned together."""
    headers = ["method", "shared", "φ", "low", "true φ", "entropy", "IoU"]
    headers += ["private φ", "fake", "cross R²", "s"]
    for seed in range(seeds):
        data = planted_models(seed=seed)
        rows = [together_row(name, data, seed) for name in TOGETHER]
        print(f"seed {seed}\n{Table(headers, rows)}\n", flush=True)


def cost() -> None:
    """Print the seconds and the memory of matching 16,000 positions, and of learning together."""
    data = planted_models(250, channels=(64, 96), shared=36, private=(12, 12), map_shape=(8, 8))
    extractors = {}
    for name, model in data.models.items():
        extractors[name] = PCAFactorizer(48)
        extractors[name].fit(model.features.reshape(-1, model.features.shape[-1]))
    for cross in (True, False):
        before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.perf_counter()
        found = match_extractors(
            {k: (extractors[k], data[k].features) for k in data.models}, cross=cross
        )
        seconds = time.perf_counter() - start
        more = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
        print(f"cross={cross}: {len(found)} matches, {seconds:.2f} s, {more:.0f} MB more")
    start = time.perf_counter()
    universal = UniversalFactorizer(48, random_state=0).fit(data.activations)
    r2 = universal.history_.r2
    print(f"USAE: {time.perf_counter() - start:.1f} s, R² {r2[0]:.2f} and {r2[1]:.2f}")


def main() -> None:
    """Run what the arguments ask for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--methods", nargs="+", choices=list(METHODS), default=list(METHODS))
    parser.add_argument("--together", action="store_true", help="concepts learned together")
    parser.add_argument("--cost", action="store_true", help="measure the cost only")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    if arguments.cost:
        cost()
    elif arguments.together:
        together(arguments.seeds)
    else:
        planted(arguments.seeds, arguments.methods)


if __name__ == "__main__":
    main()
