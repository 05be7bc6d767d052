"""Results of several extractors as a table: figures, intervals, the best of each column, ties."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from xplique_dirpairs.comparison.extractor_result import ExtractorResult
from xplique_dirpairs.core.tables import Cell, Table
from xplique_dirpairs.metrics.fidelity import FRACTIONS
from xplique_dirpairs.metrics.registry import Metric, Summary, ratio_of_means, summary

CAPTION = (
    "↑ higher is better, ↓ lower is better. ± is half of the 95 % bootstrap interval over images; "
    "= marks what cannot be told apart from the best of its column (the 95 % interval of the "
    "paired difference holds 0)."
)
OF_CONTROLS = "Controls are neither best nor =."
OF_INSERTION = (
    "Who leaves the class in the residual wins insertion by doing nothing: read it beside the "
    "all-off probability."
)
OF_SEEDS = (
    "Figures are means over seeds, (± …) their standard deviation from seed to seed. The interval "
    "and = are of the images alone, for these seeds: differences not above the spread of the seeds "
    "say nothing of the methods."
)


def comparison_table(
    results: Mapping[str, ExtractorResult],
    metrics: Sequence[Metric],
    notes: Sequence[str] | None,
    controls: Collection[str] = (),
) -> Table:
    """Extractors × metrics.

    Parameters
    ----------
    results
    metrics
        The columns.
    notes
        To stand below, after what the marks mean. None: neither.
    controls
        Names of those that are there to compare with, and are never marked.
    """
    columns = [_column(results, metric, controls) for metric in metrics]
    rows = [[Cell(name), *cells] for name, *cells in zip(results, *columns, strict=True)]
    headers = ["extractor", *(f"{metric.name} {metric.arrow}".rstrip() for metric in metrics)]
    if notes is None:
        return Table(headers, rows)
    return Table(headers, rows, [*captions(results, metrics, controls), *notes])


def captions(
    results: Mapping[str, ExtractorResult],
    metrics: Sequence[Metric],
    controls: Collection[str] = (),
) -> list[str]:
    """What the marks of a table mean, and what its figures do not show, a line each."""
    found = [CAPTION]
    if any(name in controls for name in results):
        found.append(OF_CONTROLS)
    if any(metric.key == "insertion" for metric in metrics):
        found.append(OF_INSERTION)
    if any(result.seeds for result in results.values()):
        found.append(OF_SEEDS)
    return found + measured_notes(results, metrics)


def measured_notes(results: Mapping[str, ExtractorResult], metrics: Sequence[Metric]) -> list[str]:
    """What figures do not show: undefined images, and deletion that did not reach its change."""
    notes = []
    for metric in metrics:
        left_out, nothing = [], []
        for name, result in results.items():
            figure = result.summaries.get(metric.key)
            if figure is None:
                continue
            count = len(np.atleast_1d(result.values[metric.key]))
            if figure.undefined:
                left_out.append(f"{figure.undefined} of {count} of {name}")
            elif not np.isfinite(figure.value):
                nothing.append(name)
        if left_out:
            notes.append(f"{metric.name}: images left out as undefined: {', '.join(left_out)}")
        if nothing and metric.statistic is ratio_of_means:
            notes.append(
                f"{metric.name} is undefined (what it divides by is not clearly above 0): "
                f"{', '.join(nothing)}"
            )
    asked = [k for k, at in enumerate(FRACTIONS) if f"p_at_{at}" in {m.key for m in metrics}]
    never = []
    for name, result in results.items() if asked else ():
        parts = result.seeds or (result,)
        shares = np.mean([~part.fidelity.crossed for part in parts], axis=(0, 1))
        short = [f"{100 * shares[k]:.0f} % at {FRACTIONS[k]}" for k in asked if shares[k] > 0]
        if short:
            never.append(f"{name} {' and '.join(short)}")
    if never:
        notes.append(
            "P@ is of the last step where deletion never changed the features so much: share of "
            f"the images: {', '.join(never)}"
        )
    return notes


def _column(
    results: Mapping[str, ExtractorResult], metric: Metric, controls: Collection[str]
) -> list[Cell]:
    nothing = Summary(np.nan, np.nan, np.nan, 0)
    figures = [result.summaries.get(metric.key, nothing) for result in results.values()]
    values = [result.values.get(metric.key) for result in results.values()]
    judged = [name not in controls for name in results]
    best = _best(
        metric, [f.value if own else np.nan for f, own in zip(figures, judged, strict=True)]
    )
    winner = None if best is None else (figures[best], values[best])
    return [
        _cell(metric, figure, value, winner if own else None, seed_spread(result, metric.key))
        for figure, value, own, result in zip(
            figures, values, judged, results.values(), strict=True
        )
    ]


def seed_spread(result: ExtractorResult, key: str) -> float:
    """Standard deviation of a metric's figure over the seeds of an average; NaN below two."""
    figures = [seed.summaries[key].value for seed in result.seeds if key in seed.summaries]
    return float(np.std(figures, ddof=1)) if len(figures) > 1 else float("nan")


def _best(metric: Metric, figures: Sequence[float]) -> int | None:
    """Which is best; None where no direction is better, or none is defined."""
    if metric.higher_is_better is None or not np.isfinite(figures).any():
        return None
    signed = np.array(figures) * (1.0 if metric.higher_is_better else -1.0)
    return int(np.nanargmax(signed))


def _cell(metric: Metric, figure: Summary, values, best: tuple | None, spread: float) -> Cell:
    if not np.isfinite(figure.value):
        return Cell("–", numbers=(np.nan,))
    text = f"{figure.value:.{metric.decimals}f}"
    numbers: tuple[float, ...] = (figure.value,)
    if np.isfinite(figure.low):
        half = (figure.high - figure.low) / 2
        text += f" ± {half:.{metric.decimals}f}"
        numbers = (figure.value, figure.low, figure.high)
    if np.isfinite(spread):
        text += f" (± {spread:.{metric.decimals}f})"
        numbers = (*figure[:3], spread)
    if best is None:
        return Cell(text, numbers=numbers)
    # what is printed alike is as good: rounding does not choose between two orthogonal bases
    best_figure, best_values = best
    if f"{figure.value:.{metric.decimals}f}" == f"{best_figure.value:.{metric.decimals}f}":
        return Cell(text, best=True, numbers=numbers)
    if np.ndim(values) and np.shape(values) == np.shape(best_values):
        difference = paired_difference(metric, values, best_values)
        if difference.low <= 0.0 <= difference.high:
            text += " ="
    return Cell(text, numbers=numbers)


def paired_difference(metric: Metric, ours: NDArray, theirs: NDArray) -> Summary:
    """A metric's figure of one extractor minus that of another, the bootstrap drawing both.

    Parameters
    ----------
    metric
    ours, theirs : (N,) or (N, 2)
        Values of the same images.
    """
    both = np.stack([ours, theirs], axis=-1)
    return summary(
        both, lambda drawn: metric.statistic(drawn[..., 0]) - metric.statistic(drawn[..., 1])
    )
