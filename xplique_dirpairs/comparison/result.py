"""The result of a comparison: tables, figures and files."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from xplique_dirpairs.comparison.extractor_result import (
    CONTROLS,
    RANDOM,
    ExtractorResult,
    comparison_table,
    table_notes,
)
from xplique_dirpairs.comparison.figures import (
    aligned_concepts,
    aligned_stems,
    contributing_concepts,
    write_figures,
)
from xplique_dirpairs.comparison.inputs import Settings
from xplique_dirpairs.core.archives import ArchiveFormat
from xplique_dirpairs.core.tables import Table
from xplique_dirpairs.core.types import Array
from xplique_dirpairs.core.validation import check_choice, check_integer
from xplique_dirpairs.data.images import stills
from xplique_dirpairs.metrics.registry import KINDS, METRICS, Metric
from xplique_dirpairs.plots.comparison import (
    ExtractorBars,
    ExtractorCurves,
    ExtractorStyle,
    extractor_styles,
    plot_aligned_concepts,
    plot_extractor_importances,
    plot_extractor_maps,
    plot_fidelity,
)
from xplique_dirpairs.plots.images import as_picture, pixel_limits
from xplique_dirpairs.plots.layout import plain

#: Keys of the metrics that `Comparison.plot` shows as bars by default.
BARS = ("deletion", "insertion", "p_at_0.2", "mu_fidelity", "agreement", "activation_r2")
#: Changes of the features, as fractions of their norm, at which `Comparison.plot` draws deletion.
CHANGES = np.linspace(0.0, 0.6, 25)
FORMAT = ArchiveFormat(
    "xplique_dirpairs.Comparison", 1, "a comparison", "Comparison.save", compressed=True
)


@dataclass(frozen=True, eq=False)
class Comparison:
    """The measurements of several extractors on the same images, as `compare` returns them.

    Attributes
    ----------
    results : dict of str to ExtractorResult
        Results by name of the extractor, in the order given to `compare`, with its two baselines,
        the controls "random directions" and "no learning", last. ``results[name].values`` holds the
        metrics, as a value for each image or as a single figure.
    errors : dict of str to str
        By name of each extractor that failed and has no result: the error message.
    images : ndarray of shape (N, height, width, channels) or (N, T, height, width, channels)
        Images on which the extractors were measured.
    class_ids : ndarray of shape (N,), int
        For each image, the class whose score (probability or logit) was measured.
    interrupted : bool, default=False
        Whether Ctrl-C ended the comparison, so that later extractors are missing.
    settings : Settings, optional
        Seed, sizes, layer and logits of the comparison, by which `joined` and `average` see whether
        comparisons belong together. None if it was loaded from a file that holds none.
    missing : tuple of str, default=()
        Names, if they are known, of the extractors that are missing because of an interruption.
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
        """Return a table of extractors by metrics, with the best value of each column marked.

        Parameters
        ----------
        kind : str, optional
            Which metrics to show. "curves": deletion, insertion and μ-fidelity. "all off": the
            predictions that remain with all concepts switched off. "reconstruction": how well
            features and predictions are rebuilt from the concepts, without the residual.
            "dictionary": properties of directions and coefficients. "blending": whether the
            concepts of blends of two images are those of both. None: all metrics.
            ("interpretability" is allowed, but `compare` measures none of its metrics.)

        Returns
        -------
        table : Table

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
        """Return the metrics, of one kind or of all, that at least one extractor has."""
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
        """Return a table for each kind of metrics; the notes of all stand below the last one."""
        *groups, last = [metrics for kind in KINDS if (metrics := self._metrics(kind))] or [[]]
        tables = [comparison_table(self.results, metrics) for metrics in groups]
        return [*tables, comparison_table(self.results, last, self._caption(self._metrics()))]

    def __str__(self) -> str:
        return self._formatted("plain", "\n\n")

    def _repr_html_(self) -> str:
        return self._formatted("html", "\n")

    def _formatted(self, format: str, separator: str) -> str:
        """Return the tables of all kinds in a format of `Table.formatted`, as one text."""
        return separator.join(table.formatted(format) for table in self._tables())

    # ------------------------------------------------------------ figures

    @cached_property
    def _styles(self) -> dict[str, ExtractorStyle]:
        """Colour and line style of each extractor; raise a ValueError if none has a result."""
        if not self.results:
            raise ValueError(f"no extractor has a result to draw: {self.errors or 'interrupted'}")
        return extractor_styles(list(self.results), CONTROLS)

    def plot(self, metrics: Sequence[str] = BARS) -> Figure:
        """Draw deletion, insertion, deletion at equal change of the features, and bars of metrics.

        The curves show the mean probability of the class: by the share of the concepts that are
        switched off or on, and by the relative change of the features that deletion has caused.

        Parameters
        ----------
        metrics : sequence of str, default=("deletion", "insertion", "p_at_0.2", "mu_fidelity", …)
            Keys of `metrics.registry.METRICS` to draw as bars, by default also "agreement" and
            "activation_r2"; metrics that were not measured are left out.

        Returns
        -------
        figure : matplotlib.figure.Figure

        Raises
        ------
        ValueError
            If a key is unknown, or no extractor has a result.
        """
        styles = self._styles
        unknown = [key for key in metrics if key not in METRICS]
        if unknown:
            raise ValueError(f"{unknown} are not metrics: choose from {list(METRICS)}")
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
        """Draw the largest total Sobol indices of every extractor, with standard errors.

        The total index is the share of the variance of the class's logit, under random masks of the
        concepts, in which a concept is involved. It is averaged over the ``importance_images`` of
        `compare`.

        Parameters
        ----------
        n : int, default=10
            Number of concepts of each extractor: those with the largest indices.

        Returns
        -------
        figure : matplotlib.figure.Figure

        Raises
        ------
        ValueError
            If ``n`` is not an integer of at least 1, or no extractor has a result.
        """
        styles, bars = self._styles, []
        check_integer("n", n)
        for name, result in self.results.items():
            total, error = result.importances.total, result.importances.total_error
            order = np.argsort(-total, kind="stable")[:n]
            bars.append(ExtractorBars(name, order, total[order], error[order]))
        return plot_extractor_importances(bars, styles)

    def plot_maps(
        self, image: int, n: int = 5, *, class_names: Sequence[str] | None = None
    ) -> Figure:
        """Draw one image with the concepts of every extractor that contribute most to its class.

        The contribution of a concept is the drop of the class's logit when the concept alone is
        switched off; it is shown above each map beside the number of the concept. A map whose
        coefficients are mostly negative is shown with the opposite sign.

        Parameters
        ----------
        image : int
            Index of one of the comparison's images.
        n : int, default=5
            Number of concepts of each extractor.
        class_names : sequence of K str, optional
            Names of all classes of the network, for the title. None: "class 0", "class 1", ….

        Returns
        -------
        figure : matplotlib.figure.Figure

        Raises
        ------
        ValueError
            If there is no such image, ``n`` is not an integer of at least 1, or no extractor has a
            result.
        """
        styles = self._styles
        check_integer("n", n)
        check_integer("image", image, minimum=0)
        if image >= len(self.images):
            raise ValueError(f"image must be an index below {len(self.images)}, not {image}")
        shape = self.images.shape[1:]
        rows = {
            name: contributing_concepts(result, image, shape, n)
            for name, result in self.results.items()
        }
        k = int(self.class_ids[image])
        name = f"class {k}" if class_names is None else plain(class_names[k], 60)
        title = f"Image {image}: concepts by contribution to the logit of {name}"
        picture = as_picture(stills(self.images)[image], pixel_limits(self.images))
        return plot_extractor_maps(picture, rows, styles, title)

    def plot_aligned(self, a: str, b: str, n: int = 8, nb_crops: int = 5) -> Figure:
        """Draw matching concepts of two extractors side by side.

        Concepts are matched one to one such that the sum of the correlations of their maps, over
        all positions of all images, is largest (Hungarian method). A map whose coefficients are
        mostly negative counts with the opposite sign.

        Parameters
        ----------
        a : str
            Name of an extractor.
        b : str
            Name of another extractor.
        n : int, default=8
            Number of pairs of concepts to draw, those with the largest correlation first.
        nb_crops : int, default=5
            Number of crops of each concept, the parts of different images in which it is strongest.

        Returns
        -------
        figure : matplotlib.figure.Figure

        Raises
        ------
        KeyError
            If there is no result of an extractor with one of the names.
        ValueError
            If ``n`` or ``nb_crops`` is not an integer of at least 1.
        """
        for name in (a, b):
            if name not in self.results:
                raise KeyError(f"there is no result of {name!r}: choose from {list(self.results)}")
        check_integer("n", n)
        check_integer("nb_crops", nb_crops)
        aligned = aligned_concepts(
            stills(self.images), self.results[a], self.results[b], n, nb_crops
        )
        return plot_aligned_concepts(a, b, aligned, nb_crops, self._styles)

    # ------------------------------------------------------------ with other comparisons

    def joined(self, other: Comparison) -> Comparison:
        """Return a comparison with the results of this one and of another one.

        Parameters
        ----------
        other : Comparison
            Comparison of the same images and classes, with the same settings. It may hold results
            of extractors that failed in this one or are missing because of an interruption. If
            both hold a control (random directions, no learning), that of this one is kept.

        Returns
        -------
        comparison : Comparison

        Raises
        ------
        ValueError
            If the images, classes or settings differ, or an extractor has results in both.
        """
        self.check_belongs_to(other)
        twice = [n for n in other.results if n in self.results and n not in CONTROLS]
        if twice:
            raise ValueError(f"both comparisons have {twice}: rename or remove one of each")
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
        """Raise a ValueError if another comparison cannot be joined with this one.

        Parameters
        ----------
        other : Comparison
            The other comparison.
        seeds_may_differ : bool, default=False
            Whether the comparisons may have been made with different ``random_state``.

        Raises
        ------
        ValueError
            If images, classes, the network or settings differ; the message lists what differs.
        """
        same_images = np.array_equal(self.images, other.images)
        if not same_images or not np.array_equal(self.class_ids, other.class_ids):
            raise ValueError("comparisons must be of the same images and classes: measure again")
        ours, theirs = self.settings, other.settings
        if ours is None or theirs is None:
            if ours is theirs:
                return
            raise ValueError("the settings of one comparison are not known: measure it again")
        if seeds_may_differ:
            theirs = replace(theirs, random_state=ours.random_state)
        differences = ours.differences(theirs)
        if differences:
            raise ValueError(f"the comparisons differ in: {'; '.join(differences)}")

    # ------------------------------------------------------------ files

    def save(self, path: str | Path) -> None:
        """Write the comparison, including its images, to one file without pickle.

        Parameters
        ----------
        path : str or path
            File to write. No suffix is added.
        """
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
        """Return the comparison from a file that `save` wrote.

        Parameters
        ----------
        path : str or path
            File to read.

        Returns
        -------
        comparison : Comparison

        Raises
        ------
        FileNotFoundError
            If there is no such file.
        IsADirectoryError
            If the path is a folder.
        ValueError
            If the file is damaged, does not hold a comparison, or has a newer format than this
            version can read.
        """
        return FORMAT.load(path, cls._of_archive)

    @classmethod
    def _of_archive(cls, arrays: dict[str, Array], header: dict[str, Any]) -> Comparison:
        """Return the comparison from the arrays and the header of a file."""
        images, class_ids = arrays["images"], arrays["class_ids"]
        if images.ndim < 3 or class_ids.shape != images.shape[:1]:
            raise ValueError(f"images {images.shape} have classes {class_ids.shape}")
        settings = header.get("settings")  # early files hold no settings
        results = [
            ExtractorResult.from_archive(entry, f"{k}", arrays)
            for k, entry in enumerate(header["results"])
        ]
        return cls(
            {result.name: result for result in results},
            header["errors"],
            images,
            class_ids,
            header["interrupted"],
            None if settings is None else Settings.from_json(settings, arrays["logits"]),
            tuple(header.get("missing", ())),
        )

    def save_report(
        self, folder: str | Path, class_names: Sequence[str] | None = None
    ) -> list[Path]:
        """Write ``table.md``, ``table.csv`` and all figures as PNG and SVG.

        The figures are `plot`, `plot_importances`, `plot_maps` of the first image, and
        `plot_aligned` of the first extractor with each other one; without results, only tables.

        Parameters
        ----------
        folder : str or path
            Folder to write to. It is created if it does not exist, and existing files of the same
            names are replaced.
        class_names : sequence of K str, optional
            Names of all classes of the network, for the figures. None: "class 0", "class 1", ….

        Returns
        -------
        paths : list of Path
            The files that were written.
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
            "maps": partial(self.plot_maps, 0, class_names=class_names),
        }
        first, *others = [name for name in self.results if name not in CONTROLS] or [RANDOM]
        for other, stem in zip(others, aligned_stems(first, others), strict=True):
            draw[stem] = partial(self.plot_aligned, first, other)
        return paths + write_figures(draw, folder)
