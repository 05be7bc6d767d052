"""The measurements of one extractor, and the table of several extractors."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any

import numpy as np

from xplique_dirpairs.core.tables import Cell, Table
from xplique_dirpairs.core.types import Array
from xplique_dirpairs.data.images import concept_maps
from xplique_dirpairs.metrics.dictionary import main_signs
from xplique_dirpairs.metrics.fidelity import FRACTIONS, Curves, Fidelity, probabilities_at
from xplique_dirpairs.metrics.importance import SobolIndices
from xplique_dirpairs.metrics.registry import METRICS, Metric, Summary, ratio_of_means, summary

#: Names of the controls of a comparison: directions without meaning, detectors without training.
RANDOM, NO_LEARNING = "random directions", "no learning"
CONTROLS = (RANDOM, NO_LEARNING)

_UNDEFINED = Summary(np.nan, np.nan, np.nan, 0)
_MARKS = (
    "↑ higher is better, ↓ lower is better. ± is half the width of the 95 % bootstrap interval "
    "over images; = marks values that cannot be distinguished from the best of their column (the "
    "95 % interval of the paired difference contains 0)."
)
_ON_CONTROLS = "Controls are never marked as best or with =."
_ON_INSERTION = (
    "An extractor that leaves the class evidence in the residual scores high on insertion without "
    "explaining anything: read it beside the all-off probability."
)
_ON_SEEDS = (
    "Figures are means over seeds; (± …) is their standard deviation from seed to seed. The "
    "interval and = refer to the images alone, for these seeds: differences no larger than the "
    "spread over seeds are not evidence of a difference between the methods."
)


@dataclass(frozen=True, eq=False)
class ExtractorResult:
    """The measurements of one extractor.

    Attributes
    ----------
    name : str
        Name of the extractor in the comparison.
    encoding : ndarray of shape (I, D)
        Encoding directions: the directions along which the features change with each concept.
    decoding : ndarray of shape (I, D) or None
        Decoding directions: linear filters that read the concepts from the features; None if the
        extractor has no such filters.
    shown : ndarray of shape (N, *spatial, I)
        Coefficients of the images as figures show them: 0 where direction pairs are not detected.
    values : dict of str to ndarray of shape (N,), (N, 2) or ()
        Values by key of `metrics.registry.METRICS`: a row for every image, or a single figure.
    fidelity : Fidelity
        The curves and contributions of every image, and the same ``values``.
    importances : SobolIndices
        Sobol indices of the class score, arrays of shape (I,), averaged over some of the images.
    seconds : dict of str to float
        Duration of the steps "fit" (only if the comparison fitted the extractor), "read" (the
        coefficients of the images) and "measure".
    remarks : tuple of str, default=()
        Problems of the extractor's fit in words, such as that it did not converge.
    seeds : tuple of ExtractorResult, default=()
        In an `average`, the results of its seeds. Directions, shown coefficients, contributions and
        importances are then those of the first seed.
    """

    name: str
    encoding: Array
    decoding: Array | None
    shown: Array
    values: dict[str, Array]
    fidelity: Fidelity
    importances: SobolIndices
    seconds: dict[str, float]
    remarks: tuple[str, ...] = ()
    seeds: tuple[ExtractorResult, ...] = ()

    @cached_property
    def summaries(self) -> dict[str, Summary]:
        """Figure of each registered metric with its 95 % bootstrap interval over images, by key."""
        # A file may contain metrics that this version does not know.
        known = {key: values for key, values in self.values.items() if key in METRICS}
        return {key: METRICS[key].summary(values) for key, values in known.items()}

    @property
    def parts(self) -> tuple[ExtractorResult, ...]:
        """The results of the seeds if this is an average; otherwise only this result."""
        return self.seeds or (self,)

    def figure(self, key: str) -> Summary:
        """Return the figure of a metric with its interval; NaN if it was not measured.

        Parameters
        ----------
        key : str
            Key of `metrics.registry.METRICS`.

        Returns
        -------
        figure : Summary
            The tuple (value, low, high, number of images where the metric is undefined).
        """
        return self.summaries.get(key, _UNDEFINED)

    def seed_spread(self, key: str) -> float:
        """Return the standard deviation of a figure over the seeds; NaN with fewer than two.

        Parameters
        ----------
        key : str
            Key of `metrics.registry.METRICS`.

        Returns
        -------
        spread : float
        """
        figures = [seed.summaries[key].value for seed in self.seeds if key in seed.summaries]
        return float(np.std(figures, ddof=1)) if len(figures) > 1 else float("nan")

    def deletion_at(self, changes: Iterable[float]) -> Array:
        """Return the mean class probability where deletion has changed the features by amounts.

        Concepts are switched off one after the other until the features have changed by the amount:
        see `metrics.fidelity.probabilities_at`. The mean is over the images and, in an `average`,
        over the seeds.

        Parameters
        ----------
        changes : iterable of float
            The n amounts, as fractions of the norm of the features.

        Returns
        -------
        probabilities : ndarray of shape (n,)
        """
        return np.array(
            [np.mean([_mean_at(part, change) for part in self.parts]) for change in changes]
        )

    # ------------------------------------------------------------ files

    def to_archive(self, prefix: str, arrays: dict[str, Array]) -> dict[str, Any]:
        """Add the arrays to ``arrays`` under names with a prefix, and return the rest for JSON.

        Parameters
        ----------
        prefix : str
            Beginning of the names of this result's arrays.
        arrays : dict of str to ndarray
            Arrays of a file by name, to which those of this result are added.

        Returns
        -------
        header : dict
            Names, times and remarks, which can be written as JSON.
        """
        fidelity = self.fidelity
        parts = {
            "shown": self.shown,
            "encoding": self.encoding,
            "decoding": self.decoding,
            "contributions": fidelity.contributions,
            "crossed": fidelity.crossed,
            "deletion": fidelity.deletion.probabilities,
            "deletion_changed": fidelity.deletion.changed,
            "insertion": fidelity.insertion.probabilities,
            "insertion_changed": fidelity.insertion.changed,
            **{f"sobol.{name}": value for name, value in vars(self.importances).items()},
            **{f"values.{key}": value for key, value in self.values.items()},
        }
        for name, value in parts.items():
            if value is not None:
                arrays[f"{prefix}.{name}"] = value
        return {
            "name": self.name,
            "values": list(self.values),
            "seconds": self.seconds,
            "remarks": list(self.remarks),
            "seeds": [
                seed.to_archive(f"{prefix}.seed{k}", arrays) for k, seed in enumerate(self.seeds)
            ],
        }

    @classmethod
    def from_archive(
        cls, header: dict[str, Any], prefix: str, arrays: Mapping[str, Array]
    ) -> ExtractorResult:
        """Return the result whose parts `to_archive` returned and added to ``arrays``.

        Parameters
        ----------
        header : dict
            What `to_archive` returned.
        prefix : str
            Beginning of the names of the result's arrays.
        arrays : dict of str to ndarray
            Arrays of a file by name.

        Returns
        -------
        result : ExtractorResult
        """

        def curves(name: str) -> Curves:
            return Curves(arrays[f"{prefix}.{name}"], arrays[f"{prefix}.{name}_changed"])

        values = {key: arrays[f"{prefix}.values.{key}"] for key in header["values"]}
        return cls(
            name=header["name"],
            encoding=arrays[f"{prefix}.encoding"],
            decoding=arrays.get(f"{prefix}.decoding"),
            shown=arrays[f"{prefix}.shown"],
            values=values,
            fidelity=Fidelity(
                values,
                curves("deletion"),
                curves("insertion"),
                arrays[f"{prefix}.contributions"],
                arrays[f"{prefix}.crossed"],
            ),
            importances=SobolIndices(
                **{f.name: arrays[f"{prefix}.sobol.{f.name}"] for f in fields(SobolIndices)}
            ),
            seconds=dict(header["seconds"]),
            remarks=tuple(header["remarks"]),
            seeds=tuple(
                cls.from_archive(seed, f"{prefix}.seed{k}", arrays)
                for k, seed in enumerate(header["seeds"])
            ),
        )


def _mean_at(result: ExtractorResult, change: float) -> float:
    """Return the mean class probability where deletion has changed the features this much."""
    deletion = result.fidelity.deletion
    if change <= 0:
        return float(deletion.probabilities[:, 0].mean())
    return float(np.nanmean(probabilities_at(deletion, change)[0]))


def upright_maps(shown: Array, image_shape: tuple[int, ...]) -> Array:
    """Return shown coefficients as concept maps; maps that are mostly negative change sign.

    Parameters
    ----------
    shown : ndarray of shape (n, *spatial, I)
        Coefficients of n images, as `ExtractorResult.shown` holds them.
    image_shape : tuple of int
        Shape of one image, (height, width, …).

    Returns
    -------
    maps : ndarray of shape (n, H, W, I)
    """
    maps = concept_maps(shown, image_shape)
    return maps * main_signs(maps).astype(np.float32)


# ------------------------------------------------------------ the table of several extractors


def comparison_table(
    results: Mapping[str, ExtractorResult], metrics: Sequence[Metric], caption: Sequence[str] = ()
) -> Table:
    """Return a table with a row per extractor and a column per metric; controls get no marks."""
    columns = [_column(results, metric) for metric in metrics]
    rows = [[Cell(name), *cells] for name, *cells in zip(results, *columns, strict=True)]
    return Table(["extractor", *(metric.header for metric in metrics)], rows, caption)


def table_notes(results: Mapping[str, ExtractorResult], metrics: Sequence[Metric]) -> list[str]:
    """Return the lines below a table: the meaning of its marks, and the limits of its figures."""
    notes = [_MARKS]
    if any(name in CONTROLS for name in results):
        notes.append(_ON_CONTROLS)
    if any(metric.key == "insertion" for metric in metrics):
        notes.append(_ON_INSERTION)
    if any(result.seeds for result in results.values()):
        notes.append(_ON_SEEDS)
    for metric in metrics:
        notes += _notes_on_undefined(results, metric)
    return notes + _notes_on_deletion(results, {metric.key for metric in metrics})


def _notes_on_undefined(results: Mapping[str, ExtractorResult], metric: Metric) -> list[str]:
    """Return notes on the images and figures for which a metric is undefined."""
    figures = {name: result.summaries.get(metric.key) for name, result in results.items()}
    left_out, undefined = [], []
    for name, figure in figures.items():
        if figure is not None and figure.undefined:
            count = len(results[name].values[metric.key])
            left_out.append(f"{figure.undefined} of {count} of {name}")
        elif figure is not None and not np.isfinite(figure.value):
            undefined.append(name)
    notes = []
    if left_out:
        notes.append(f"{metric.name}: images left out as undefined: {', '.join(left_out)}")
    if undefined and metric.statistic is ratio_of_means:
        notes.append(
            f"{metric.name} is undefined (its denominator is not clearly above 0) for: "
            f"{', '.join(undefined)}"
        )
    return notes


def _notes_on_deletion(results: Mapping[str, ExtractorResult], keys: set[str]) -> list[str]:
    """Return a note on the images whose features deletion never changed enough for P@."""
    columns = [k for k, fraction in enumerate(FRACTIONS) if f"p_at_{fraction}" in keys]
    shares = []
    for name, result in results.items() if columns else ():
        missed = np.mean([~part.fidelity.crossed for part in result.parts], axis=(0, 1))
        texts = [f"{100 * missed[k]:.0f} % at {FRACTIONS[k]}" for k in columns if missed[k] > 0]
        if texts:
            shares.append(f"{name} {' and '.join(texts)}")
    if not shares:
        return []
    return [
        "P@ is the probability after the last step if deletion never changes the features that "
        f"much. Share of such images: {', '.join(shares)}"
    ]


def _column(results: Mapping[str, ExtractorResult], metric: Metric) -> list[Cell]:
    """Return the cells of one metric for all extractors, with the best of them marked."""
    figures = {
        name: result.figure(metric.key).value
        for name, result in results.items()
        if name not in CONTROLS
    }
    defined = {name: value for name, value in figures.items() if np.isfinite(value)}
    best = None
    if defined and metric.higher_is_better is not None:
        choose = max if metric.higher_is_better else min
        best = results[choose(defined, key=lambda name: defined[name])]
    return [
        _cell(metric, result, best if name in figures else None) for name, result in results.items()
    ]


def _cell(metric: Metric, result: ExtractorResult, best: ExtractorResult | None) -> Cell:
    """Return the cell of a figure with its interval and its spread over seeds.

    It is marked by comparison with the best extractor, unless that is None.
    """

    def rounded(value: float) -> str:
        return f"{value:.{metric.decimals}f}"

    figure, spread = result.figure(metric.key), result.seed_spread(metric.key)
    if not np.isfinite(figure.value):
        return Cell("–", numbers=(np.nan,))
    text, numbers = rounded(figure.value), list(figure[:1])
    if np.isfinite(figure.low):
        text, numbers = f"{text} ± {rounded((figure.high - figure.low) / 2)}", list(figure[:3])
    if np.isfinite(spread):
        text, numbers = f"{text} (± {rounded(spread)})", [*figure[:3], spread]
    if best is None:
        return Cell(text, numbers=tuple(numbers))
    # Figures that print the same are all marked as best, so that rounding errors do not decide
    # between, for example, two orthogonal bases.
    is_best = rounded(figure.value) == rounded(best.figure(metric.key).value)
    values, best_values = result.values[metric.key], best.values[metric.key]
    if not is_best and np.ndim(values) and np.shape(values) == np.shape(best_values):
        difference = paired_difference(metric, values, best_values)
        if difference.low <= 0.0 <= difference.high:
            text += " ="
    return Cell(text, is_best, tuple(numbers))


def paired_difference(metric: Metric, ours: Array, theirs: Array) -> Summary:
    """Return a metric's figure for one extractor minus that for another, with its interval.

    The bootstrap draws the same images for both extractors.

    Parameters
    ----------
    metric : Metric
        Metric whose statistic is computed.
    ours : ndarray of shape (N,) or (N, 2)
        Values of one extractor for N images.
    theirs : ndarray of shape (N,) or (N, 2)
        Values of the other extractor for the same images.

    Returns
    -------
    difference : Summary
        The difference ours − theirs with its 95 % bootstrap interval.
    """
    both = np.stack([ours, theirs], axis=-1)
    return summary(
        both, lambda drawn: metric.statistic(drawn[..., 0]) - metric.statistic(drawn[..., 1])
    )
