"""What a comparison found, as tables and figures."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from xplique_dirpairs.activations import check_count
from xplique_dirpairs.comparison_table import comparison_table, paired_difference
from xplique_dirpairs.extractors.crops import (
    best_crops,
    concept_maps,
    crop_coefficients,
    extract_crops,
    fitting_patch,
)
from xplique_dirpairs.extractors.reader import ConceptReader
from xplique_dirpairs.metrics.fidelity import Fidelity, probabilities_at
from xplique_dirpairs.metrics.importance import SobolIndices
from xplique_dirpairs.metrics.registry import METRICS, Metric
from xplique_dirpairs.metrics.summary import Summary
from xplique_dirpairs.plots.comparison import (
    AlignedConcept,
    ConceptMap,
    ExtractorBars,
    ExtractorCurves,
    extractor_styles,
    plot_aligned_concepts,
    plot_extractor_importances,
    plot_extractor_maps,
    plot_fidelity,
)
from xplique_dirpairs.plots.images import as_picture, pixel_limits
from xplique_dirpairs.plots.side_by_side import counterparts
from xplique_dirpairs.tables import Table

#: Controls that stand in every table: directions that mean nothing, and detectors nobody trained.
RANDOM, NO_LEARNING = "random directions", "no learning"
CONTROLS = (RANDOM, NO_LEARNING)
#: Metrics that `Comparison.plot` shows as bars.
BARS = ("deletion", "insertion", "p_at_0.2", "mu_fidelity", "agreement", "activation_r2")
#: Changes of the features, as fractions of their norm, at which deletion is drawn.
CHANGES = np.linspace(0.0, 0.6, 25)
#: Side of the crops in `Comparison.plot_aligned`, as a share of the shorter side of an image.
_CROP = 0.3


@dataclass(frozen=True, eq=False)
class ExtractorResult:
    """What was measured of one extractor.

    Attributes
    ----------
    name
    reader
        How it reads and writes features.
    shown : (N, *S, I)
        Coefficients of the images as pictures show them.
    values
        Key of `METRICS` → a value for every image, (N,) or (N, 2), or one figure, ().
    fidelity
        With the curves and the contributions of every image, (N, I).
    importances
        Sobol indices of the class score, each (I,), means over some of the images.
    seconds
        "fit" (if it was fitted here), "read", "measure" → wall time.
    remarks
        What is to be known of the fit: that it was cut short, say.
    seeds
        Of an `average`, the results it is of; the reader, shown coefficients, contributions and
        importances are then those of the first of them. Empty otherwise.
    """

    name: str
    reader: ConceptReader
    shown: NDArray
    values: dict[str, NDArray]
    fidelity: Fidelity
    importances: SobolIndices
    seconds: dict[str, float]
    remarks: tuple[str, ...] = ()
    seeds: tuple[ExtractorResult, ...] = ()

    @cached_property
    def summaries(self) -> dict[str, Summary]:
        """Key of `METRICS` → figure with its 95 % bootstrap interval over images."""
        found = {}
        for key, values in self.values.items():
            if np.ndim(values):
                found[key] = METRICS[key].summary(values)
            else:
                found[key] = Summary(float(values), float("nan"), float("nan"), 0)
        return found

    def deletion_at(self, changes: Iterable[float]) -> NDArray:
        """Mean class probability where deletion changed the features so much, (n,).

        As P@ is defined; over the images, and the seeds if there are some.
        """
        parts = self.seeds or (self,)
        return np.array([np.mean([_mean_at(part, change) for part in parts]) for change in changes])


def _mean_at(result: ExtractorResult, change: float) -> float:
    deletion = result.fidelity.deletion
    if change <= 0:
        return float(deletion.probabilities[:, 0].mean())
    return float(np.nanmean(probabilities_at(deletion, change)[0]))


@dataclass(frozen=True, eq=False)
class Comparison:
    """Several extractors by the same measures.

    Attributes
    ----------
    results
        Name → what was measured, in the order given, the controls last.
    errors
        Name → why there is no result.
    images : (N, height, width, channels)
    class_ids : (N,)
        The class whose score counts, for each image.
    interrupted
        Whether Ctrl-C ended it: later extractors are missing.
    """

    results: dict[str, ExtractorResult]
    errors: dict[str, str]
    images: NDArray
    class_ids: NDArray
    interrupted: bool = False

    # ---------------------------------------------------------------- tables

    def table(self, kind: str | None = None) -> Table:
        """Extractors × metrics, the best of a column marked.

        Parameters
        ----------
        kind
            Metrics of one kind, as in `METRICS`: "curves", "all off", "reconstruction",
            "dictionary". None: all.

        Raises
        ------
        ValueError
            If there is no such kind.
        """
        if kind is not None and kind not in _kinds():
            raise ValueError(f"kind must be one of {_kinds()}, not {kind!r}")
        return comparison_table(self.results, self._metrics(kind), self._notes())

    def _metrics(self, kind: str | None = None) -> list[Metric]:
        """Metrics that at least one extractor has, of one kind or of all."""
        return [
            metric
            for metric in METRICS.values()
            if kind in (None, metric.kind)
            and any(metric.key in result.values for result in self.results.values())
        ]

    def _notes(self) -> list[str]:
        notes = ["interrupted: later extractors are missing"] if self.interrupted else []
        notes += [f"{name} has no result: {why}" for name, why in self.errors.items()]
        for name, result in self.results.items():
            notes += [f"{name}: {remark}" for remark in result.remarks]
        return notes

    def is_tied(self, key: str, name: str, other: str) -> bool:
        """Whether two extractors cannot be told apart by a metric.

        The 95 % bootstrap interval over the images of their paired difference holds 0; of metrics
        of one figure, both are equal.
        """
        ours, theirs = (self.results[n].values[key] for n in (name, other))
        if not np.ndim(ours):
            return bool(ours == theirs)
        difference = paired_difference(METRICS[key], ours, theirs)
        return bool(difference.low <= 0.0 <= difference.high)

    def seed_spread(self, key: str) -> dict[str, float]:
        """Extractor → standard deviation of a metric's figure over the seeds of an `average`.

        NaN with fewer than two seeds.
        """
        _check_keys([key])
        spread = {}
        for name, result in self.results.items():
            figures = [s.summaries[key].value for s in result.seeds if key in s.summaries]
            spread[name] = float(np.std(figures, ddof=1)) if len(figures) > 1 else float("nan")
        return spread

    def _repr_html_(self) -> str:
        return "\n".join(table._repr_html_() for table in self._tables())

    def __str__(self) -> str:
        return "\n\n".join(str(table) for table in self._tables())

    def _tables(self) -> list[Table]:
        """One for each kind of metrics, which is as wide as a screen; notes under the last."""
        metrics = [found for kind in _kinds() if (found := self._metrics(kind))]
        last = len(metrics) - 1
        return [
            comparison_table(self.results, found, self._notes() if k == last else None)
            for k, found in enumerate(metrics)
        ] or [self.table()]

    # ---------------------------------------------------------------- for Xplique's plots

    def scores(self, metrics: Sequence[str] | None = None) -> dict[str, dict[str, float]]:
        """Metric's name → extractor → figure, as ``xplique.plots.metrics.barplot`` takes them.

        Parameters
        ----------
        metrics
            Keys of `METRICS`. None: all that every extractor has.
        """
        if metrics is None:
            metrics = [metric.key for metric in self._metrics() if self._is_complete(metric.key)]
        _check_keys(metrics)
        return {
            METRICS[key].name: {
                name: result.summaries[key].value if key in result.values else float("nan")
                for name, result in self.results.items()
            }
            for key in metrics
        }

    def _is_complete(self, key: str) -> bool:
        return all(
            key in result.values and np.isfinite(result.summaries[key].value)
            for result in self.results.values()
        )

    def detailed_scores(self, curve: str = "deletion") -> dict[str, dict[int, float]]:
        """Extractor → number of concepts → mean probability, as ``fidelity_curves`` takes them.

        That of ``xplique.plots.metrics``. ``curve``: "deletion" or "insertion".
        """
        if curve not in ("deletion", "insertion"):
            raise ValueError(f"curve must be 'deletion' or 'insertion', not {curve!r}")
        return {
            name: {
                number: float(mean)
                for number, mean in enumerate(
                    getattr(result.fidelity, curve).probabilities.mean(axis=0)
                )
            }
            for name, result in self.results.items()
        }

    # ---------------------------------------------------------------- figures

    @property
    def colors(self) -> dict[str, tuple[float, float, float]]:
        """Extractor → its colour in all figures, red, green and blue in [0, 1]."""
        return {name: style.color for name, style in self._styles.items()}

    @cached_property
    def _styles(self):
        return extractor_styles(list(self.results), CONTROLS)

    def plot(self, metrics: Sequence[str] = BARS) -> Figure:
        """Fidelity: deletion, insertion, deletion at equal change, and bars of some metrics.

        Parameters
        ----------
        metrics
            Keys of `METRICS`, of the bars; those that no extractor has are left out.
        """
        self._check_any()
        _check_keys(metrics)
        curves = [
            ExtractorCurves(
                name,
                result.fidelity.deletion.probabilities.mean(axis=0),
                result.fidelity.insertion.probabilities.mean(axis=0),
                result.deletion_at(CHANGES),
            )
            for name, result in self.results.items()
        ]
        there = {metric.key for metric in self._metrics()}
        nothing = Summary(np.nan, np.nan, np.nan, 0)
        bars = {
            f"{METRICS[key].name} {METRICS[key].arrow}".rstrip(): np.array(
                [r.summaries.get(key, nothing)[:3] for r in self.results.values()]
            )
            for key in metrics
            if key in there
        }
        return plot_fidelity(curves, CHANGES, bars, self._styles)

    def plot_importances(self, n: int = 10) -> Figure:
        """Total Sobol indices with standard errors, the n largest of every extractor."""
        self._check_any()
        check_count("n", n)
        found = []
        for name, result in self.results.items():
            total, error = result.importances.total, result.importances.total_error
            order = np.argsort(-total, kind="stable")[:n]
            found.append(ExtractorBars(name, order, total[order], error[order]))
        return plot_extractor_importances(found, self._styles)

    def plot_maps(self, image: int, n: int = 5) -> Figure:
        """One of the images, with the n concepts of every extractor that count most for its class.

        By leave-one-out contribution to the class's logit, which stands above each map with the
        number of the concept. Maps whose coefficients are mostly negative are turned around.

        Parameters
        ----------
        image
            Index of one of the comparison's images.
        n
            Concepts of each extractor.
        """
        self._check_any()
        check_count("n", n)
        check_count("image", image, least=0)
        if image >= len(self.images):
            raise ValueError(f"image must be below {len(self.images)}, not {image}")
        rows = {}
        for name, result in self.results.items():
            maps = self._maps(result, slice(image, image + 1))[0]
            contributions = result.fidelity.contributions[image]
            chosen = np.argsort(-contributions, kind="stable")[:n]
            rows[name] = [ConceptMap(int(i), contributions[i], maps[..., i]) for i in chosen]
        title = (
            f"Image {image}: concepts, by their part in the logit of class {self.class_ids[image]}"
        )
        return plot_extractor_maps(self._picture(image), rows, self._styles, title)

    def plot_aligned(self, a: str, b: str, n: int = 8, nb_crops: int = 5) -> Figure:
        """Concepts of two extractors that are found at the same places, side by side.

        One-to-one, by the largest sum of correlations of shown concept maps over all positions of
        all images (Hungarian). Maps whose coefficients are mostly negative are turned around.

        Parameters
        ----------
        a, b
            Names of extractors.
        n
            Pairs that are shown, the most alike first.
        nb_crops
            Best crops of each concept, of different images.

        Raises
        ------
        KeyError
            If there is no such extractor.
        """
        for name in (a, b):
            if name not in self.results:
                raise KeyError(f"there is no result of {name!r}, but of {list(self.results)}")
        check_count("n", n)
        check_count("nb_crops", nb_crops)
        ours, theirs = (self._maps(self.results[name]) for name in (a, b))
        swap = ours.shape[-1] > theirs.shape[-1]  # `counterparts` gives the first one's partners
        partners, correlations = counterparts(*((theirs, ours) if swap else (ours, theirs)))
        pairs = np.stack([np.arange(len(partners)), partners], axis=1)
        pairs = pairs[:, ::-1] if swap else pairs
        shown = [
            AlignedConcept(
                int(pairs[k, 0]),
                int(pairs[k, 1]),
                float(correlations[k]),
                self._crops(ours[..., pairs[k, 0]], nb_crops),
                self._crops(theirs[..., pairs[k, 1]], nb_crops),
            )
            for k in np.argsort(-correlations, kind="stable")[:n]
        ]
        return plot_aligned_concepts(a, b, shown, nb_crops, self._styles)

    def save_report(self, folder: str | Path) -> list[Path]:
        """Write ``table.md``, ``table.csv`` and all figures as PNG and SVG.

        Parameters
        ----------
        folder
            Made if it is not there; files of these names are replaced.

        Returns
        -------
        paths
            Of what was written.
        """
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        written = []
        tables = "\n\n".join(table.formatted("markdown") for table in self._tables())
        for name, text in {
            "table.md": tables,
            "table.csv": self.table().formatted("csv"),
        }.items():
            (folder / name).write_text(text + "\n", encoding="utf-8")
            written.append(folder / name)
        if not self.results:
            return written
        draw: dict[str, Callable[[], Figure]] = {
            "fidelity": self.plot,
            "importances": self.plot_importances,
            "maps": partial(self.plot_maps, 0),
        }
        first, *others = [name for name in self.results if name not in CONTROLS] or [RANDOM]
        for other in others:
            stem = _unused(f"aligned_{_file_name(first)}_{_file_name(other)}", draw)
            draw[stem] = partial(self.plot_aligned, first, other)
        for stem, make in draw.items():
            figure = make()
            for ending in ("png", "svg"):
                path = folder / f"{stem}.{ending}"
                figure.savefig(path, dpi=150, bbox_inches="tight")
                written.append(path)
            plt.close(figure)
        return written

    # ---------------------------------------------------------------- inside

    def _check_any(self) -> None:
        if not self.results:
            raise ValueError(f"no extractor has a result: {self.errors or 'interrupted'}")

    def _picture(self, image: int) -> NDArray:
        return as_picture(self.images[image], pixel_limits(self.images))

    def _maps(self, result: ExtractorResult, images: slice = slice(None)) -> NDArray:
        """Shown concept maps (n, H, W, I), mostly negative ones turned around."""
        maps = concept_maps(result.shown[images], self.images.shape[1:])
        flat = maps.reshape(-1, maps.shape[-1]).astype(np.float64)
        # the long tail tells, as in `metrics.dictionary.oriented`
        return maps * np.where((flat**3).sum(axis=0) < 0, -1.0, 1.0).astype(np.float32)

    def _crops(self, maps: NDArray, count: int) -> NDArray:
        """Best crops (k, patch, patch, 3) of one concept's maps (N, H, W), of different images."""
        shape = self.images.shape[1:]
        patch = fitting_patch(max(1, round(_CROP * min(shape[:2]))), shape)
        if maps[0].size == 1:  # no places: whole images, as far as they are square
            patch = min(shape[:2])
        values = crop_coefficients(maps[..., None], shape, patch).reshape(len(maps), -1)
        chosen = best_crops(values.max(axis=1), len(maps), count)
        crops = [extract_crops(self.images[i][None], patch)[values[i].argmax()] for i in chosen]
        if not crops:
            return np.zeros((0, patch, patch, 3), np.float32)
        return as_picture(np.stack(crops), pixel_limits(self.images))


def _kinds() -> list[str]:
    return list(dict.fromkeys(metric.kind for metric in METRICS.values()))


def _check_keys(keys: Iterable[str]) -> None:
    unknown = [key for key in keys if key not in METRICS]
    if unknown:
        raise ValueError(f"{unknown} are no metrics: choose from {list(METRICS)}")


def _file_name(name: str) -> str:
    """A name as a part of a file's name on any system."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:40] or "extractor"


def _unused(stem: str, taken: Iterable[str]) -> str:
    number, found = 1, stem
    while found in taken:
        number += 1
        found = f"{stem}_{number}"
    return found
