"""What a comparison found, as tables and figures."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from xplique_dirpairs.comparison.extractor_result import ExtractorResult
from xplique_dirpairs.comparison.files import read_results, write_results
from xplique_dirpairs.comparison.pictures import aligned_concepts, picture, upright_maps
from xplique_dirpairs.comparison.settings import Settings
from xplique_dirpairs.comparison.table import (
    captions,
    comparison_table,
    paired_difference,
    seed_spread,
)
from xplique_dirpairs.core.tables import Table
from xplique_dirpairs.core.validation import check_integer
from xplique_dirpairs.metrics.registry import METRICS, Metric, Summary
from xplique_dirpairs.plots.comparison import (
    ConceptMap,
    ExtractorBars,
    ExtractorCurves,
    extractor_styles,
    plot_aligned_concepts,
    plot_extractor_importances,
    plot_extractor_maps,
    plot_fidelity,
)

#: Controls that stand in every table: directions that mean nothing, and detectors nobody trained.
RANDOM, NO_LEARNING = "random directions", "no learning"
CONTROLS = (RANDOM, NO_LEARNING)
#: Metrics that `Comparison.plot` shows as bars.
BARS = ("deletion", "insertion", "p_at_0.2", "mu_fidelity", "agreement", "activation_r2")
#: Changes of the features, as fractions of their norm, at which deletion is drawn.
CHANGES = np.linspace(0.0, 0.6, 25)


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
    settings
        What it was made with; None: not known.
    missing
        Names of the extractors that an interruption left out, where they are known.
    """

    results: dict[str, ExtractorResult]
    errors: dict[str, str]
    images: NDArray
    class_ids: NDArray
    interrupted: bool = False
    settings: Settings | None = None
    missing: tuple[str, ...] = ()

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
        return comparison_table(self.results, self._metrics(kind), self._notes(), CONTROLS)

    def _metrics(self, kind: str | None = None) -> list[Metric]:
        """Metrics that at least one extractor has, of one kind or of all."""
        return [
            metric
            for metric in METRICS.values()
            if kind in (None, metric.kind)
            and any(metric.key in result.values for result in self.results.values())
        ]

    def _notes(self) -> list[str]:
        missing = ", ".join(self.missing) or "later extractors"
        notes = [f"interrupted: without {missing}"] if self.interrupted else []
        notes += [f"{name} has no result: {why}" for name, why in self.errors.items()]
        for name, result in self.results.items():
            notes += [f"{name}: {remark}" for remark in result.remarks]
        return notes

    def is_tied(self, key: str, name: str, other: str) -> bool:
        """Whether two extractors cannot be told apart by a metric.

        The 95 % bootstrap interval over the images of their paired difference holds 0; of metrics
        of one figure, both are equal. False where one is undefined. Of an `average` nothing is
        said of other seeds: see `seed_spread`.

        Raises
        ------
        KeyError
            If there is no such extractor, or it has not been measured by the metric.
        ValueError
            If there is no such metric.
        """
        _check_keys([key])
        for which in (name, other):
            self._check_name(which)
            if key not in self.results[which].values:
                raise KeyError(f"{which!r} has no {key!r}, but {list(self.results[which].values)}")
        ours, theirs = (self.results[n].values[key] for n in (name, other))
        if not np.ndim(ours):
            return bool(ours == theirs)
        if not all(np.isfinite(self.results[n].summaries[key].value) for n in (name, other)):
            return False
        difference = paired_difference(METRICS[key], ours, theirs)
        return bool(difference.low <= 0.0 <= difference.high)

    def seed_spread(self, key: str) -> dict[str, float]:
        """Extractor → standard deviation of a metric's figure over the seeds of an `average`.

        NaN with fewer than two seeds.
        """
        _check_keys([key])
        return {name: seed_spread(result, key) for name, result in self.results.items()}

    def _repr_html_(self) -> str:
        return "\n".join(table._repr_html_() for table in self._tables())

    def __str__(self) -> str:
        return "\n\n".join(str(table) for table in self._tables())

    def _tables(self) -> list[Table]:
        """One for each kind of metrics, which is as wide as a screen; notes under the last."""
        kinds = [found for kind in _kinds() if (found := self._metrics(kind))]
        tables = [comparison_table(self.results, found, None, CONTROLS) for found in kinds]
        if not tables:
            return [self.table()]
        notes = [*captions(self.results, self._metrics(), CONTROLS), *self._notes()]
        return [*tables[:-1], replace(tables[-1], caption=notes)]

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
        check_integer("n", n)
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
        check_integer("n", n)
        check_integer("image", image, minimum=0)
        if image >= len(self.images):
            raise ValueError(f"image must be below {len(self.images)}, not {image}")
        rows = {}
        for name, result in self.results.items():
            maps = upright_maps(result.shown[image : image + 1], self.images.shape[1:])[0]
            contributions = result.fidelity.contributions[image]
            chosen = np.argsort(-contributions, kind="stable")[:n]
            rows[name] = [ConceptMap(int(i), contributions[i], maps[..., i]) for i in chosen]
        title = (
            f"Image {image}: concepts, by their part in the logit of class {self.class_ids[image]}"
        )
        return plot_extractor_maps(picture(self.images, image), rows, self._styles, title)

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
            self._check_name(name)
        check_integer("n", n)
        check_integer("nb_crops", nb_crops)
        ours, theirs = (
            upright_maps(self.results[name].shown, self.images.shape[1:]) for name in (a, b)
        )
        shown = aligned_concepts(ours, theirs, self.images, n, nb_crops)
        return plot_aligned_concepts(a, b, shown, nb_crops, self._styles)

    # ---------------------------------------------------------------- files

    def joined(self, other: Comparison) -> Comparison:
        """This comparison with the results of another one beside its own.

        Parameters
        ----------
        other
            Of the same images and classes, made with the same settings. Controls that are in both
            are taken from this one. What an interruption left out here, or failed, may be there.

        Raises
        ------
        ValueError
            If the images, classes or settings differ, or an extractor has results in both.
        """
        self.check_belongs_to(other)
        twice = [n for n in other.results if n in self.results and n not in CONTROLS]
        if twice:
            raise ValueError(f"{twice} have results in both comparisons: rename or leave them out")
        results = other.results | self.results
        ordered = [*self.results, *other.results]
        ended = [one for one in (self, other) if one.interrupted]
        missing = dict.fromkeys(n for one in ended for n in one.missing if n not in results)
        return replace(
            self,
            results={n: results[n] for n in sorted(ordered, key=lambda name: name in CONTROLS)},
            errors={n: why for n, why in (other.errors | self.errors).items() if n not in results},
            interrupted=bool(missing) or not all(one.missing for one in ended),
            missing=tuple(missing),
        )

    def check_belongs_to(self, other: Comparison, seeds_may_differ: bool = False) -> None:
        """Another comparison must be of the same images, classes, layer, network and settings.

        Raises
        ------
        ValueError
            Which says what differs.
        """
        if not self.is_of_same_images(other):
            raise ValueError("the comparisons must be of the same images and classes")
        if (self.settings is None) != (other.settings is None):
            raise ValueError(
                "it is not known how one of the comparisons was made: measure it again"
            )
        if self.settings is not None and other.settings is not None:
            theirs = other.settings
            if seeds_may_differ:
                theirs = replace(theirs, random_state=self.settings.random_state)
            differences = self.settings.differences(theirs)
            if differences:
                raise ValueError(f"the comparisons were made differently: {'; '.join(differences)}")

    def is_of_same_images(self, other: Comparison) -> bool:
        """Whether another comparison is of the same images and classes."""
        return np.array_equal(self.images, other.images) and np.array_equal(
            self.class_ids, other.class_ids
        )

    def save(self, path: str | Path) -> None:
        """Write all that was measured, and the images, to one file, without pickle."""
        about = {
            "errors": self.errors,
            "interrupted": self.interrupted,
            "missing": self.missing,
            "settings": None if self.settings is None else self.settings.as_json(),
        }
        arrays = {"images": self.images, "class_ids": self.class_ids}
        if self.settings is not None:
            arrays["logits"] = self.settings.logits
        write_results(path, self.results, arrays, about)

    @classmethod
    def load(cls, path: str | Path) -> Comparison:
        """Read a comparison that `save` wrote.

        Raises
        ------
        FileNotFoundError, IsADirectoryError
            If there is no such file, or it is a folder.
        ValueError
            If the file is damaged, of another kind, or of a newer format than this version reads.
        """
        results, arrays, about = read_results(path)
        settings = about.get("settings")  # not in the first files
        return cls(
            results,
            about["errors"],
            arrays["images"],
            arrays["class_ids"],
            about["interrupted"],
            None if settings is None else Settings.from_json(settings, arrays["logits"]),
            tuple(about.get("missing", ())),
        )

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

    def _check_name(self, name: str) -> None:
        if name not in self.results:
            raise KeyError(f"there is no result of {name!r}, but of {list(self.results)}")


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
