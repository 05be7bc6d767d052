"""The result of a comparison: tables, figures, files, and averages over seeds."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

from xplique_dirpairs.comparison.extractor_result import (
    CONTROLS,
    RANDOM,
    ExtractorResult,
    comparison_table,
    table_notes,
    upright_maps,
)
from xplique_dirpairs.comparison.inputs import Settings
from xplique_dirpairs.core.archives import ArchiveFormat
from xplique_dirpairs.core.tables import Table
from xplique_dirpairs.core.types import Array
from xplique_dirpairs.core.validation import check_choice, check_integer
from xplique_dirpairs.data.images import best_crops_of_images
from xplique_dirpairs.metrics.registry import KINDS, METRICS, Metric
from xplique_dirpairs.plots.comparison import (
    AlignedConcept,
    ConceptMap,
    ExtractorBars,
    ExtractorCurves,
    ExtractorStyle,
    counterparts,
    extractor_styles,
    plot_aligned_concepts,
    plot_extractor_importances,
    plot_extractor_maps,
    plot_fidelity,
)
from xplique_dirpairs.plots.images import as_picture, pixel_limits

#: Metrics that `Comparison.plot` shows as bars.
BARS = ("deletion", "insertion", "p_at_0.2", "mu_fidelity", "agreement", "activation_r2")
#: Changes of the features, as fractions of their norm, at which deletion is drawn.
CHANGES = np.linspace(0.0, 0.6, 25)
FORMAT = ArchiveFormat(
    "xplique_dirpairs.Comparison", 1, "a comparison", "Comparison.save", compressed=True
)


@dataclass(frozen=True, eq=False)
class Comparison:
    """Several extractors by the same measures.

    Attributes
    ----------
    results : dict of str to ExtractorResult
        By name, in the order given, the controls last.
    errors : dict of str to str
        By name, why there is no result.
    images : ndarray of shape (N, height, width, C)
    class_ids : ndarray of shape (N,)
        The class whose score counts, for each image.
    interrupted : bool
        Whether Ctrl-C ended the comparison: later extractors are missing.
    settings : Settings or None
        How it was made; None where that is not known.
    missing : tuple of str
        Names of the extractors that an interruption left out, where they are known.
    """

    results: dict[str, ExtractorResult]
    errors: dict[str, str]
    images: Array
    class_ids: Array
    interrupted: bool = False
    settings: Settings | None = None
    missing: tuple[str, ...] = ()

    # ------------------------------------------------------------ tables

    def table(self, kind: str | None = None) -> Table:
        """Return a table of extractors by metrics, the best of each column marked.

        Parameters
        ----------
        kind : str, optional
            Metrics of one kind, as in `METRICS`: "curves", "all off", "reconstruction",
            "dictionary". None: all.

        Raises
        ------
        ValueError
            If there is no such kind.
        """
        if kind is not None:
            check_choice("kind", kind, KINDS)
        metrics = self._metrics(kind)
        return comparison_table(self.results, metrics, self._caption(metrics))

    def _metrics(self, kind: str | None = None) -> list[Metric]:
        """Return the metrics that at least one extractor has, of one kind or of all."""
        measured = {key for result in self.results.values() for key in result.values}
        return [
            metric
            for metric in METRICS.values()
            if metric.key in measured and kind in (None, metric.kind)
        ]

    def _caption(self, metrics: Sequence[Metric]) -> list[str]:
        """Return the notes below a table of these metrics."""
        notes = table_notes(self.results, metrics)
        if self.interrupted:
            notes.append(f"interrupted: without {', '.join(self.missing) or 'later extractors'}")
        notes += [f"{name} has no result: {reason}" for name, reason in self.errors.items()]
        for name, result in self.results.items():
            notes += [f"{name}: {remark}" for remark in result.remarks]
        return notes

    def _tables(self) -> list[Table]:
        """Return a table for each kind of metrics, as wide as a screen; notes under the last."""
        *groups, last = [metrics for kind in KINDS if (metrics := self._metrics(kind))] or [[]]
        tables = [comparison_table(self.results, metrics) for metrics in groups]
        return [*tables, comparison_table(self.results, last, self._caption(self._metrics()))]

    def __str__(self) -> str:
        return self._formatted("plain", "\n\n")

    def _repr_html_(self) -> str:
        return self._formatted("html", "\n")

    def _formatted(self, format: str, separator: str) -> str:
        return separator.join(table.formatted(format) for table in self._tables())

    # ------------------------------------------------------------ figures

    @cached_property
    def _styles(self) -> dict[str, ExtractorStyle]:
        """Colour and line of each extractor.

        Raises
        ------
        ValueError
            If no extractor has a result, so that there is nothing to draw.
        """
        if not self.results:
            raise ValueError(f"no extractor has a result: {self.errors or 'interrupted'}")
        return extractor_styles(list(self.results), CONTROLS)

    def plot(self, metrics: Sequence[str] = BARS) -> Figure:
        """Draw deletion, insertion, deletion at equal change, and bars of some metrics.

        Parameters
        ----------
        metrics : sequence of str
            Keys of `METRICS` to draw as bars; those that no extractor has are left out.
        """
        styles = self._styles
        unknown = [key for key in metrics if key not in METRICS]
        if unknown:
            raise ValueError(f"{unknown} are no metrics: choose from {list(METRICS)}")
        curves = [
            ExtractorCurves(
                name,
                result.fidelity.deletion.probabilities.mean(axis=0),
                result.fidelity.insertion.probabilities.mean(axis=0),
                result.deletion_at(CHANGES),
            )
            for name, result in self.results.items()
        ]
        measured = {metric.key for metric in self._metrics()}
        bars = {
            METRICS[key].header: np.array([r.figure(key)[:3] for r in self.results.values()])
            for key in metrics
            if key in measured
        }
        return plot_fidelity(curves, CHANGES, bars, styles)

    def plot_importances(self, n: int = 10) -> Figure:
        """Draw the n largest total Sobol indices of every extractor, with standard errors."""
        styles, bars = self._styles, []
        check_integer("n", n)
        for name, result in self.results.items():
            total, error = result.importances.total, result.importances.total_error
            order = np.argsort(-total, kind="stable")[:n]
            bars.append(ExtractorBars(name, order, total[order], error[order]))
        return plot_extractor_importances(bars, styles)

    def plot_maps(self, image: int, n: int = 5) -> Figure:
        """Draw one image with the n concepts of every extractor that count most for its class.

        Concepts are ordered by their leave-one-out contribution to the class's logit, which stands
        above each map with the number of the concept. Maps whose coefficients are mostly negative
        change sign.

        Parameters
        ----------
        image : int
            Index of one of the comparison's images.
        n : int, default=5
            Concepts of each extractor.
        """
        styles, rows = self._styles, {}
        check_integer("n", n)
        check_integer("image", image, minimum=0)
        if image >= len(self.images):
            raise ValueError(f"image must be below {len(self.images)}, not {image}")
        for name, result in self.results.items():
            maps = upright_maps(result.shown[image : image + 1], self.images.shape[1:])[0]
            contributions = result.fidelity.contributions[image]
            chosen = np.argsort(-contributions, kind="stable")[:n]
            rows[name] = [ConceptMap(int(i), contributions[i], maps[..., i]) for i in chosen]
        title = (
            f"Image {image}: concepts, by their part in the logit of class {self.class_ids[image]}"
        )
        picture = as_picture(self.images[image], pixel_limits(self.images))
        return plot_extractor_maps(picture, rows, styles, title)

    def plot_aligned(self, a: str, b: str, n: int = 8, nb_crops: int = 5) -> Figure:
        """Draw concepts of two extractors whose maps agree, side by side.

        They are matched one to one, by the largest sum of correlations of shown concept maps over
        all positions of all images (Hungarian method). Maps whose coefficients are mostly negative
        change sign.

        Parameters
        ----------
        a, b : str
            Names of extractors.
        n : int, default=8
            Pairs to draw, the most alike first.
        nb_crops : int, default=5
            Best crops of each concept, of different images.

        Raises
        ------
        KeyError
            If there is no such extractor.
        """
        for name in (a, b):
            if name not in self.results:
                raise KeyError(f"there is no result of {name!r}, but of {list(self.results)}")
        check_integer("n", n)
        check_integer("nb_crops", nb_crops)
        shape = self.images.shape[1:]
        ours, theirs = (upright_maps(self.results[name].shown, shape) for name in (a, b))
        # `counterparts` finds the partners of the extractor with fewer concepts.
        swapped = ours.shape[-1] > theirs.shape[-1]
        partners, correlations = counterparts(*((theirs, ours) if swapped else (ours, theirs)))
        order = np.argsort(-correlations, kind="stable")[:n]
        first, second = (partners[order], order) if swapped else (order, partners[order])
        limits = pixel_limits(self.images)
        pictures = [
            [
                as_picture(crops, limits)
                for crops in best_crops_of_images(self.images, maps, nb_crops)
            ]
            for maps in (ours[..., first], theirs[..., second])
        ]
        matches = zip(first, second, correlations[order], *pictures, strict=True)
        aligned = [
            AlignedConcept(int(i), int(j), float(correlation), our_crops, their_crops)
            for i, j, correlation, our_crops, their_crops in matches
        ]
        return plot_aligned_concepts(a, b, aligned, nb_crops, self._styles)

    # ------------------------------------------------------------ with other comparisons

    def joined(self, other: Comparison) -> Comparison:
        """Return this comparison with the results of another one beside its own.

        Parameters
        ----------
        other : Comparison
            Of the same images and classes, made with the same settings. Controls that are in both
            are taken from this one. It may hold results that failed here, or that an interruption
            left out.

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
        interrupted = [each for each in (self, other) if each.interrupted]
        missing = dict.fromkeys(n for each in interrupted for n in each.missing if n not in results)
        errors = other.errors | self.errors
        return replace(
            self,
            results={n: results[n] for n in sorted(ordered, key=lambda name: name in CONTROLS)},
            errors={n: reason for n, reason in errors.items() if n not in results},
            interrupted=bool(missing) or not all(each.missing for each in interrupted),
            missing=tuple(missing),
        )

    def check_belongs_to(self, other: Comparison, seeds_may_differ: bool = False) -> None:
        """Raise a ValueError that says how images, classes, network or settings differ."""
        same_images = np.array_equal(self.images, other.images)
        if not same_images or not np.array_equal(self.class_ids, other.class_ids):
            raise ValueError("the comparisons must be of the same images and classes")
        ours, theirs = self.settings, other.settings
        if ours is None or theirs is None:
            if ours is theirs:
                return
            raise ValueError(
                "it is not known how one of the comparisons was made: measure it again"
            )
        if seeds_may_differ:
            theirs = replace(theirs, random_state=ours.random_state)
        differences = ours.differences(theirs)
        if differences:
            raise ValueError(f"the comparisons were made differently: {'; '.join(differences)}")

    # ------------------------------------------------------------ files

    def save(self, path: str | Path) -> None:
        """Write everything, the images included, to one file, without pickle."""
        settings, arrays = None, {"images": self.images, "class_ids": self.class_ids}
        if self.settings is not None:
            settings, arrays["logits"] = self.settings.to_json(), self.settings.logits
        results = [r.to_archive(f"{k}", arrays) for k, r in enumerate(self.results.values())]
        header = {
            "results": results,
            "errors": self.errors,
            "interrupted": self.interrupted,
            "missing": self.missing,
            "settings": settings,
        }
        FORMAT.write(path, arrays, header)

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
        return FORMAT.load(path, cls._of_archive)

    @classmethod
    def _of_archive(cls, arrays: dict[str, Array], header: dict[str, Any]) -> Comparison:
        settings = header.get("settings")  # The first files do not hold them.
        results = [
            ExtractorResult.from_archive(entry, f"{k}", arrays)
            for k, entry in enumerate(header["results"])
        ]
        return cls(
            {result.name: result for result in results},
            header["errors"],
            arrays["images"],
            arrays["class_ids"],
            header["interrupted"],
            None if settings is None else Settings.from_json(settings, arrays["logits"]),
            tuple(header.get("missing", ())),
        )

    def save_report(self, folder: str | Path) -> list[Path]:
        """Write ``table.md``, ``table.csv`` and all figures as PNG and SVG.

        Parameters
        ----------
        folder : path
            Created if it does not exist; files of these names are replaced.

        Returns
        -------
        paths : list of Path
            Files written.
        """
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        paths = [folder / "table.md", folder / "table.csv"]
        paths[0].write_text(self._formatted("markdown", "\n\n") + "\n", encoding="utf-8")
        paths[1].write_text(self.table().formatted("csv") + "\n", encoding="utf-8")
        if not self.results:
            return paths
        draw: dict[str, Callable[[], Figure]] = {
            "fidelity": self.plot,
            "importances": self.plot_importances,
            "maps": partial(self.plot_maps, 0),
        }
        first, *others = [name for name in self.results if name not in CONTROLS] or [RANDOM]
        stems: Counter[str] = Counter()
        for other in others:
            stem = f"aligned_{_file_name(first)}_{_file_name(other)}"
            stems[stem] += 1
            name = stem if stems[stem] == 1 else f"{stem}_{stems[stem]}"
            draw[name] = partial(self.plot_aligned, first, other)
        for stem, plot in draw.items():
            figure = plot()
            for ending in ("png", "svg"):
                paths.append(folder / f"{stem}.{ending}")
                figure.savefig(paths[-1], dpi=150, bbox_inches="tight")
            plt.close(figure)
        return paths


def average(comparisons: Sequence[Comparison]) -> Comparison:
    """Return the mean of comparisons of the same extractors, fitted with several seeds.

    Values of every image, curves and times are means over the seeds; the table tells how much
    figures differ from seed to seed. Metrics of stability are added: the mean
    `dictionary_stability` over all pairs of seeds. Concepts of different seeds do not correspond:
    figures of single concepts show those of the first.

    Parameters
    ----------
    comparisons : sequence of Comparison
        Two or more, of the same images and classes, made with the same settings but for
        ``random_state``. An extractor that is missing in one of them is missing in the average.

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
    names = dict.fromkeys(name for c in comparisons for name in (*c.results, *c.errors))
    for name in sorted(names, key=lambda name: name in CONTROLS):
        seeds = [c.results[name] for c in comparisons if name in c.results]
        if len(seeds) == len(comparisons):
            results[name] = ExtractorResult.mean_of(seeds)
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


def _file_name(name: str) -> str:
    """Return a name as a part of a file's name on any system."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:40] or "extractor"
