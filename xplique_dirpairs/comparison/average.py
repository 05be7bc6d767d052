"""The mean of comparisons over the seeds of their extractors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from xplique_dirpairs.comparison.extractor_result import CONTROLS, ExtractorResult
from xplique_dirpairs.comparison.result import Comparison
from xplique_dirpairs.metrics.dictionary import stability_of
from xplique_dirpairs.metrics.fidelity import Curves


def average(comparisons: Sequence[Comparison]) -> Comparison:
    """Return the mean of comparisons of the same extractors, fitted with several seeds.

    Metrics of every image, curves and times are means over the seeds, and the table shows the
    standard deviation of each metric from seed to seed. Two metrics are added, the stability of
    encoding directions and that of decoding directions, in [0, 1]: concepts of two seeds are
    matched one to one, and the |cosine| of their directions is averaged over the concepts and over
    all pairs of seeds. Concept i of one seed is not concept i of another, so plots of single
    concepts show the concepts of the first seed.

    Parameters
    ----------
    comparisons : sequence of Comparison
        Two or more comparisons of the same images and classes, with the same settings except for
        ``random_state``. An extractor that is missing in one of them is missing in the average.

    Returns
    -------
    comparison : Comparison
        The means; ``comparison.results[name].seeds`` holds the results of the single seeds.

    Raises
    ------
    ValueError
        If there are fewer than two comparisons; if their images, classes or settings differ; or if
        an extractor has different numbers of concepts in them.
    """
    comparisons = list(comparisons)
    if len(comparisons) < 2:
        raise ValueError(f"an average needs at least two comparisons, not {len(comparisons)}")
    first = comparisons[0]
    for other in comparisons[1:]:
        first.check_belongs_to(other, seeds_may_differ=True)
    results, errors = {}, {}
    names = dict.fromkeys(name for c in comparisons for name in (*c.results, *c.errors))
    for name in sorted(names, key=lambda name: name in CONTROLS):
        seeds = [c.results[name] for c in comparisons if name in c.results]
        if len(seeds) == len(comparisons):
            results[name] = _mean_of(seeds)
        else:
            reasons = dict.fromkeys(c.errors[name] for c in comparisons if name in c.errors)
            errors[name] = (
                f"missing in {len(comparisons) - len(seeds)} of {len(comparisons)}: "
                f"{'; '.join(reasons) or 'not compared'}"
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


def _mean_of(seeds: Sequence[ExtractorResult]) -> ExtractorResult:
    """Return the mean over several seeds of one extractor, with the stability of its concepts."""
    first = seeds[0]
    numbers = sorted({len(seed.encoding) for seed in seeds})
    if len(numbers) > 1:
        raise ValueError(
            f"fits of {first.name!r} must have the same number of concepts, not {numbers}"
        )
    common = set.intersection(*(set(seed.values) for seed in seeds))
    values = {
        key: np.asarray(np.mean([seed.values[key] for seed in seeds], axis=0))
        for key in first.values
        if key in common
    }
    for part in ("encoding", "decoding"):
        directions = [getattr(seed, part) for seed in seeds]
        if all(rows is not None for rows in directions):
            values[f"stability_{part}"] = np.asarray(stability_of(directions))
    fidelity = replace(
        first.fidelity,
        values=values,
        deletion=_mean_curves([seed.fidelity.deletion for seed in seeds]),
        insertion=_mean_curves([seed.fidelity.insertion for seed in seeds]),
        crossed=np.all([seed.fidelity.crossed for seed in seeds], axis=0),
    )
    steps = dict.fromkeys(step for seed in seeds for step in seed.seconds)
    seconds = {
        step: float(np.mean([seed.seconds.get(step, 0.0) for seed in seeds])) for step in steps
    }
    return replace(
        first,
        values=values,
        fidelity=fidelity,
        seconds=seconds,
        remarks=tuple(dict.fromkeys(remark for seed in seeds for remark in seed.remarks)),
        seeds=tuple(seeds),
    )


def _mean_curves(curves: Sequence[Curves]) -> Curves:
    """Return the mean of several sets of curves, point by point."""
    return Curves(
        np.mean([curve.probabilities for curve in curves], axis=0),
        np.mean([curve.changed for curve in curves], axis=0),
    )
