"""Several comparisons, of extractors fitted with several seeds, as one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import combinations

import numpy as np

from xplique_dirpairs.comparison.extractor_result import ExtractorResult
from xplique_dirpairs.comparison.result import CONTROLS, Comparison
from xplique_dirpairs.metrics.dictionary import dictionary_stability
from xplique_dirpairs.metrics.fidelity import Curves, Fidelity


def average(comparisons: Sequence[Comparison]) -> Comparison:
    """Comparisons of the same extractors, fitted with several seeds, as one.

    Values of every image, curves and times are means over the seeds; how much figures differ from
    seed to seed is told by `Comparison.seed_spread`. Metrics of stability are added: the mean
    `dictionary_stability` over all pairs of seeds. Concepts of different seeds do not correspond:
    figures of single concepts show those of the first.

    Parameters
    ----------
    comparisons
        Two or more, of the same images and classes, made with the same settings but for
        ``random_state``. An extractor that is missing in one of them
        is missing in the average.

    Raises
    ------
    ValueError
        If there are fewer than two, their images, classes or settings differ, or an extractor has
        several numbers of concepts.
    """
    comparisons = list(comparisons)
    if len(comparisons) < 2:
        raise ValueError(f"an average is of two comparisons at least, not {len(comparisons)}")
    first = comparisons[0]
    for other in comparisons[1:]:
        first.check_belongs_to(other, seeds_may_differ=True)
    results, errors = {}, {}
    names = dict.fromkeys(
        name for comparison in comparisons for name in (*comparison.results, *comparison.errors)
    )
    for name in sorted(names, key=lambda name: name in CONTROLS):
        seeds = [c.results[name] for c in comparisons if name in c.results]
        if len(seeds) == len(comparisons):
            results[name] = _averaged(seeds)
        else:
            why = [c.errors[name] for c in comparisons if name in c.errors]
            missing = len(comparisons) - len(seeds)
            errors[name] = f"missing in {missing} of {len(comparisons)}: " + (
                "; ".join(dict.fromkeys(why)) or "not compared"
            )
    settings = first.settings
    if settings is not None:
        states = [c.settings.random_state for c in comparisons if c.settings is not None]
        settings = replace(settings, random_state=states)
    return replace(
        first,
        results=results,
        errors=errors,
        interrupted=any(comparison.interrupted for comparison in comparisons),
        settings=settings,
        missing=tuple(dict.fromkeys(name for c in comparisons for name in c.missing)),
    )


def _averaged(seeds: list[ExtractorResult]) -> ExtractorResult:
    first = seeds[0]
    numbers = sorted({len(seed.encoding) for seed in seeds})
    if len(numbers) > 1:
        raise ValueError(
            f"{first.name!r} has {' and '.join(map(str, numbers))} concepts: only fits with the "
            "same number can be averaged"
        )
    values = {
        key: np.mean([seed.values[key] for seed in seeds], axis=0)
        for key in first.values
        if all(key in seed.values for seed in seeds)
    }
    for which in ("encoding", "decoding"):
        directions = [getattr(seed, which) for seed in seeds]
        if all(rows is not None for rows in directions):
            pairs = combinations(directions, 2)
            stability = np.mean([dictionary_stability(one, other) for one, other in pairs])
            values[f"stability_{which}"] = np.asarray(stability)
    fidelity = Fidelity(
        {key: values[key] for key in first.fidelity.values if key in values},
        _mean_curves([seed.fidelity.deletion for seed in seeds]),
        _mean_curves([seed.fidelity.insertion for seed in seeds]),
        first.fidelity.contributions,
        first.fidelity.orders,
        np.all([seed.fidelity.crossed for seed in seeds], axis=0),
    )
    seconds = {
        key: float(np.mean([seed.seconds.get(key, 0.0) for seed in seeds]))
        for key in dict.fromkeys(key for seed in seeds for key in seed.seconds)
    }
    remarks = tuple(dict.fromkeys(remark for seed in seeds for remark in seed.remarks))
    return ExtractorResult(
        first.name,
        first.encoding,
        first.decoding,
        first.shown,
        values,
        fidelity,
        first.importances,
        seconds,
        remarks,
        tuple(seeds),
    )


def _mean_curves(curves: list[Curves]) -> Curves:
    return Curves(
        np.mean([curve.probabilities for curve in curves], axis=0),
        np.mean([curve.changed for curve in curves], axis=0),
    )
