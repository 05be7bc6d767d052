"""The plot methods of `CraftTf`, under the same names and arguments, without its errors."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from math import ceil
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.colors import Colormap
from matplotlib.figure import Figure
from numpy.typing import ArrayLike
from sklearn.exceptions import NotFittedError
from xplique.concepts import DisplayImportancesOrder

from xplique_dirpairs.core.types import Array
from xplique_dirpairs.core.validation import (
    check_concepts,
    check_images,
    check_integer,
    check_number,
)
from xplique_dirpairs.data.images import best_crops
from xplique_dirpairs.plots.concepts import (
    RankedConcept,
    draw_concept_map,
    draw_ranked_importances,
    empty_axes,
    plot_class_importances,
    plot_crop_rows,
    plot_image_concepts,
    plot_legend,
)
from xplique_dirpairs.plots.images import Limits, as_picture, pixel_limits
from xplique_dirpairs.plots.palette import concept_colors

#: Crops beside an image in `plot_image_concepts`.
CROPS_BESIDE_IMAGE = 6


class ChecksFit:
    """Mixin of what keeps Xplique's ``factorization``, None before ``fit``."""

    factorization: Any

    def check_if_fitted(self) -> None:
        """Raise sklearn's `NotFittedError` before `fit`."""
        if self.factorization is None:
            raise NotFittedError(f"this {type(self).__name__} is not fitted: call fit() first")


class ConceptPlots(ChecksFit):
    """Mixin with the plots of a fitted `FactorizerCraftTf`; each returns its figure.

    A concept has one colour in all plots: that of its rank in the global importance. Maps show a
    concept only where it is detected.
    """

    sensitivity: Any  # Xplique's Sensitivity, None before estimate_importance
    number_of_concepts: int
    estimate_importance: Callable[..., Array]
    _shown_maps: Callable[..., Array]

    def plot_concepts_importances(
        self,
        importances: Array | None = None,
        display_importance_order: DisplayImportancesOrder = DisplayImportancesOrder.GLOBAL,
        nb_most_important_concepts: int | None = None,
        verbose: bool = False,
    ) -> Figure:
        """Draw the concepts' importances as bars, on the current axes if they are empty.

        Parameters
        ----------
        importances : ndarray of shape (I,), optional
            As `estimate_importance` returns them; by default the global ones.
        display_importance_order : DisplayImportancesOrder
            For the title: whether the importances are global or local.
        nb_most_important_concepts : int, optional
            Number of concepts, most important first; by default all, by number.
        verbose : bool, default=False
            Whether to print them.
        """
        concepts = self._ranked(self._importances(importances), nb_most_important_concepts)
        if verbose:
            _print_importances(concepts)
        if nb_most_important_concepts is None:
            concepts.sort(key=lambda concept: concept.number)
        ax = empty_axes((max(6.0, 0.24 * len(concepts)), 4.0))
        draw_ranked_importances(ax, concepts, _title(display_importance_order))
        return plt.gcf()

    def plot_concepts_crops(
        self,
        nb_crops: int = 10,
        nb_most_important_concepts: int | None = None,
        verbose: bool = False,
    ) -> Figure:
        """Draw the crops with the largest coefficients of each concept, a row for each.

        The most important concept comes first; a concept that is in fewer crops has fewer.

        Parameters
        ----------
        nb_crops : int, default=10
            Crops of a concept.
        nb_most_important_concepts : int, optional
            Number of concepts; by default all.
        verbose : bool, default=False
            Whether to print the importances.
        """
        check_integer("nb_crops", nb_crops)
        concepts = self._ranked(self._importances(), nb_most_important_concepts, nb_crops)
        if verbose:
            _print_importances(concepts)
        figure = plot_crop_rows(concepts, nb_crops)
        plt.show()
        return figure

    def plot_concept_attribution_legend(
        self, nb_most_important_concepts: int = 6, border_width: int = 5
    ) -> Figure:
        """Draw the best crop of each concept in a frame of the concept's colour.

        Parameters
        ----------
        nb_most_important_concepts : int, default=6
            Number of concepts.
        border_width : int, default=5
            Of the frame, in pixels of the crop.
        """
        check_integer("border_width", border_width, minimum=0)
        concepts = self._ranked(self._importances(), nb_most_important_concepts, 1)
        figure = plot_legend(concepts, border_width)
        plt.show()
        return figure

    def plot_concept_attribution_maps(
        self,
        images: ArrayLike,
        importances: Array | None = None,
        nb_most_important_concepts: int = 5,
        filter_percentile: int = 90,
        clip_percentile: float | None = 10.0,
        alpha: float = 0.65,
        cols: int = 5,
        img_size: float = 2.0,
        **plot_kwargs: Any,
    ) -> Figure:
        """Draw images with their concepts laid over them; the legend is shown first.

        Parameters
        ----------
        images : array-like of shape (N, height, width, C) or (height, width, C)
        importances : ndarray of shape (I,), optional
            Local importances to choose the concepts by; by default the global ones.
        nb_most_important_concepts : int, default=5
            Number of concepts.
        filter_percentile : int, default=90
            Cells below this percentile of a concept's map are not shown.
        clip_percentile : float or None, default=10
            The brightest percent of what is shown look alike. None: no clipping.
        alpha : float, default=0.65
            Opacity of the maps.
        cols : int, default=5
            Images in a row.
        img_size : float, default=2
            Width of an image, in inches.
        plot_kwargs
            For ``imshow``.
        """
        ranked = self._ranked(self._importances(importances), nb_most_important_concepts)
        images = check_images(images)
        check_integer("cols", cols)
        cols = min(cols, len(images))
        layout, rows, width, height = self.compute_subplots_layout_parameters(
            images, cols=cols, img_size=img_size
        )
        self.plot_concept_attribution_legend(nb_most_important_concepts=nb_most_important_concepts)
        figure = plt.figure(figsize=(width, height))
        figure.subplots_adjust(**layout)
        for i, image in enumerate(images):
            figure.add_subplot(rows, cols, i + 1)
            self.plot_concept_attribution_map(
                image,
                [concept.number for concept in ranked],
                nb_most_important_concepts,
                filter_percentile=filter_percentile,
                clip_percentile=clip_percentile,
                alpha=alpha,
                **plot_kwargs,
            )
        return figure

    def plot_concept_attribution_map(
        self,
        image: ArrayLike,
        most_important_concepts: ArrayLike,
        nb_most_important_concepts: int = 5,
        filter_percentile: int = 90,
        clip_percentile: float | None = 10,
        alpha: float = 0.65,
        **plot_kwargs: Any,
    ) -> Figure:
        """Draw an image with concepts laid over it, on the current axes if they are empty.

        Parameters
        ----------
        image : array-like of shape (height, width, C)
        most_important_concepts : array-like of int
            Numbers of the concepts, the one on top first.
        nb_most_important_concepts : int, default=5
            How many of them are drawn.
        filter_percentile, clip_percentile, alpha, plot_kwargs
            As in `plot_concept_attribution_maps`.
        """
        self._importances()
        check_integer("nb_most_important_concepts", nb_most_important_concepts)
        concepts = check_concepts(most_important_concepts, self.number_of_concepts)
        concepts = concepts[:nb_most_important_concepts]
        ax = empty_axes((5.0, 5.0))
        draw_concept_map(
            ax,
            self._picture(image),
            self._shown_maps(image)[..., concepts],
            [self._cmaps[concept] for concept in concepts],
            filter_percentile,
            clip_percentile,
            alpha,
            **plot_kwargs,
        )
        return plt.gcf()

    def plot_image_concepts(
        self,
        img: ArrayLike,
        display_importance_order: DisplayImportancesOrder = DisplayImportancesOrder.GLOBAL,
        nb_most_important_concepts: int = 5,
        filter_percentile: int = 90,
        clip_percentile: float | None = 10,
        alpha: float = 0.65,
        filepath: str | None = None,
        **plot_kwargs: Any,
    ) -> Figure:
        """Draw an image with its first 8 concepts, and the best crops and importances of all.

        Parameters
        ----------
        img : array-like of shape (height, width, C)
        display_importance_order : DisplayImportancesOrder
            Concepts by their global importance, or by that for this image.
        nb_most_important_concepts : int, default=5
            Number of concepts.
        filter_percentile, clip_percentile, alpha, plot_kwargs
            As in `plot_concept_attribution_maps`.
        filepath : str, optional
            Where the figure is saved. None: ``plt.show()`` is called.
        """
        title, values = _title(display_importance_order), self._importances()
        if display_importance_order == DisplayImportancesOrder.LOCAL:
            values = self.estimate_importance(img)
        concepts = self._ranked(values, nb_most_important_concepts, CROPS_BESIDE_IMAGE)
        figure = plot_image_concepts(
            self._picture(img),
            self._shown_maps(img)[..., [concept.number for concept in concepts]],
            concepts,
            title,
            filter_percentile=filter_percentile,
            clip_percentile=clip_percentile,
            alpha=alpha,
            **plot_kwargs,
        )
        if filepath is None:
            plt.show()
        else:
            figure.savefig(filepath)
        return figure

    @staticmethod
    def compute_subplots_layout_parameters(
        images: Array,
        cols: int = 5,
        img_size: float = 2.0,
        margin: float = 0.3,
        spacing: float = 0.3,
    ) -> tuple[dict[str, float], int, float, float]:
        """Compute arguments of ``Figure.subplots_adjust`` for a grid of images of any proportions.

        Parameters
        ----------
        images : ndarray of shape (N, height, width, C)
        cols : int, default=5
            Images in a row.
        img_size, margin, spacing : float
            Width of an image, outer margin, gap; in inches.

        Returns
        -------
        layout_parameters : dict of str to float
        rows : int
        width, height : float
            Of the figure, in inches.
        """
        check_integer("cols", cols)
        check_number("img_size", img_size, above=0)
        count, height, width = images.shape[:3]
        rows = ceil(count / cols)
        img_height = img_size * height / width
        figure_width = cols * img_size + (cols - 1) * spacing + 2 * margin
        figure_height = rows * img_height + (rows - 1) * spacing + 2 * margin
        layout = {
            "left": margin / figure_width,
            "right": 1.0 - margin / figure_width,
            "bottom": margin / figure_height,
            "top": 1.0 - margin / figure_height,
            "wspace": spacing / img_size,
            "hspace": spacing / img_height,
        }
        return layout, rows, figure_width, figure_height

    # ---------------------------------------------------------------- inside

    def _importances(self, importances: Array | None = None) -> Array:
        """Return given importances, checked, or the global ones, which colours need in any case."""
        self.check_if_fitted()
        if self.sensitivity is None:
            raise NotFittedError(
                "there are no global importances to order and colour the concepts by: "
                "call estimate_importance() first"
            )
        if importances is None:
            return np.asarray(self.sensitivity.importances)
        importances = np.asarray(importances)
        if importances.shape != (self.number_of_concepts,) or not np.isfinite(importances).all():
            raise ValueError(
                f"importances must be finite, of shape ({self.number_of_concepts},), "
                f"not {importances}"
            )
        return importances

    def _ranked(
        self, importances: Array, count: int | None, nb_crops: int = 0
    ) -> list[RankedConcept]:
        """Return the most important concepts, most important first, with their best crops."""
        if count is not None:
            check_integer("nb_most_important_concepts", count)
        fitted, cmaps = self.factorization, self._cmaps
        concepts = []
        for number in np.argsort(-importances, kind="stable")[:count].tolist():
            best = best_crops(fitted.crops_u[:, number], len(fitted.inputs), nb_crops)
            crops = as_picture(np.asarray(fitted.crops)[best], self._pixel_limits)
            concepts.append(RankedConcept(number, importances[number], cmaps[number], crops))
        return concepts

    @property
    def _cmaps(self) -> list[Colormap]:
        """The colour map of each concept; Xplique keeps them by global rank."""
        ranks = np.argsort(self.sensitivity.most_important_concepts)
        return [self.sensitivity.cmaps[rank] for rank in ranks]

    @cached_property
    def _pixel_limits(self) -> Limits:
        return pixel_limits(self.factorization.inputs)

    def _picture(self, image: ArrayLike) -> Array:
        images = check_images(image)
        if len(images) > 1:
            raise ValueError(f"one image was expected, not {len(images)}")
        return as_picture(images[0], self._pixel_limits)


def _title(order: DisplayImportancesOrder) -> str:
    if not isinstance(order, DisplayImportancesOrder):
        raise TypeError(
            f"display_importance_order must be a DisplayImportancesOrder, not {order!r}"
        )
    kind = "Global" if order == DisplayImportancesOrder.GLOBAL else "Local"
    return f"{kind} Concept Importance"


def _print_importances(concepts: list[RankedConcept]) -> None:
    for concept in concepts:
        print(f"Concept {concept.number} has an importance value of {concept.importance:.2f}")


def plot_importances_of_classes(
    extractors: Sequence[Any], class_names: Sequence[str], title: str
) -> Figure:
    """Draw what each class uses of concepts that several classes share.

    Parameters
    ----------
    extractors : sequence of DirectionPairsTf
        With the same pairs, each fitted on images of a class, their importances estimated.
    class_names : sequence of str
    title : str
    """
    importances = np.stack([each.sensitivity.importances for each in extractors])
    fits = [each.factorization for each in extractors]
    crops = np.concatenate([as_picture(np.asarray(fit.crops)) for fit in fits])
    coefficients = np.concatenate([fit.crops_u for fit in fits])
    number_of_images = sum(len(fit.inputs) for fit in fits)
    return plot_class_importances(
        importances,
        class_names,
        [crops[best_crops(values, number_of_images, 1)] for values in coefficients.T],
        concept_colors(importances.shape[1]),
        title,
    )
