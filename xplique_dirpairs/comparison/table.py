"""Results of several extractors as a table: figures, intervals, the best of each column, ties."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from xplique_dirpairs.comparison.extractor_result import ExtractorResult
from xplique_dirpairs.metrics.registry import Metric
from xplique_dirpairs.metrics.summary import Summary, summary
from xplique_dirpairs.tables import Cell, Table

CAPTION = (
    "↑ higher is better, ↓ lower is better. ± is half of the 95 % bootstrap interval over images; "
    "= marks what cannot be told apart from the best of its column (the 95 % interval of the "
    "paired difference holds 0)."
)


def comparison_table(
    results: Mapping[str, ExtractorResult],
    metrics: Sequence[Metric],
    notes: Sequence[str] | None,
) -> Table:
    """Extractors × metrics.

    Parameters
    ----------
    results
    metrics
        The columns.
    notes
        To stand below, after what the marks mean. None: neither.
    """
    columns = [_column(results, metric) for metric in metrics]
    rows = [[Cell(name), *cells] for name, *cells in zip(results, *columns, strict=True)]
    headers = ["extractor", *(f"{metric.name} {metric.arrow}".rstrip() for metric in metrics)]
    return Table(headers, rows, [] if notes is None else [CAPTION, *notes])


def _column(results: Mapping[str, ExtractorResult], metric: Metric) -> list[Cell]:
    nothing = Summary(np.nan, np.nan, np.nan, 0)
    figures = [result.summaries.get(metric.key, nothing) for result in results.values()]
    values = [result.values.get(metric.key) for result in results.values()]
    best = _best(metric, [figure.value for figure in figures])
    return [
        _cell(metric, figure, value, None if best is None else (figures[best], values[best]))
        for figure, value in zip(figures, values, strict=True)
    ]


def _best(metric: Metric, figures: Sequence[float]) -> int | None:
    """Which is best; None where no direction is better, or none is defined."""
    if metric.higher_is_better is None or not np.isfinite(figures).any():
        return None
    signed = np.array(figures) * (1.0 if metric.higher_is_better else -1.0)
    return int(np.nanargmax(signed))


def _cell(metric: Metric, figure: Summary, values, best: tuple | None) -> Cell:
    if not np.isfinite(figure.value):
        return Cell("–", numbers=(np.nan,))
    text = f"{figure.value:.{metric.decimals}f}"
    numbers: tuple[float, ...] = (figure.value,)
    if np.isfinite(figure.low):
        half = (figure.high - figure.low) / 2
        text += f" ± {half:.{metric.decimals}f}"
        numbers = (figure.value, figure.low, figure.high)
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
