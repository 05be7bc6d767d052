"""Plot methods with the names and arguments of those of `CraftTf`."""

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
    check_type,
)
from xplique_dirpairs.data.images import best_crops
from xplique_dirpairs.extractors.base import ChecksFit
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
from xplique_dirpairs.plots.style import styled

#: Number of crops of each concept in `plot_image_concepts`.
CROPS_BESIDE_IMAGE = 6


class ConceptPlots(ChecksFit):
    """Mixin with the plots of a fitted `FactorizerCraftTf` of I concepts.

    A concept has the same colour in all plots, chosen by its number. Maps of direction pairs show a
    concept only where it is detected. Global importances are those for the images of `fit`.
    """

    sensitivity: Any  # Xplique's Sensitivity, None before estimate_importance
    number_of_concepts: int
    estimate_importance: Callable[..., Array]
    _shown_maps: Callable[..., Array]

    @styled
    def plot_concepts_importances(
        self,
        importances: Array | None = None,
        display_importance_order: DisplayImportancesOrder = DisplayImportancesOrder.GLOBAL,
        nb_most_important_concepts: int | None = None,
        verbose: bool = False,
    ) -> Figure:
        """Draw the importances of the I concepts as bars, on the current axes if they are empty.

        Parameters
        ----------
        importances : ndarray of shape (I,), optional
            Importances, as `estimate_importance` returns them. None: those of the images of `fit`.
        display_importance_order : DisplayImportancesOrder, default=DisplayImportancesOrder.GLOBAL
            Whether the title calls the importances global or local; it changes nothing else.
        nb_most_important_concepts : int, optional
            Number of concepts drawn, the most important one first. None: all concepts, in the order
            of their numbers.
        verbose : bool, default=False
            Whether to print the importances of the concepts drawn.

        Returns
        -------
        figure : Figure

        Raises
        ------
        NotFittedError
            If ``fit()`` or ``estimate_importance()`` was not called.
        """
        concepts = self._ranked(self._importances(importances), nb_most_important_concepts)
        if verbose:
            _print_importances(concepts)
        if nb_most_important_concepts is None:
            concepts.sort(key=lambda concept: concept.number)
        ax = empty_axes((min(max(6.0, 0.24 * len(concepts)), 16.0), 4.0))
        draw_ranked_importances(ax, concepts, _title(display_importance_order))
        return plt.gcf()

    def plot_concepts_crops(
        self,
        nb_crops: int = 10,
        nb_most_important_concepts: int | None = None,
        verbose: bool = False,
    ) -> Figure:
        """Draw, in a row for each concept, the crops of the images of `fit` where it is strongest.

        The most important concept is at the top. Crops without the concept are left out.

        Parameters
        ----------
        nb_crops : int, default=10
            Maximum number of crops of a concept.
        nb_most_important_concepts : int, optional
            Number of concepts that have a row, the most important ones. None: all. Rows of many
            concepts are lower, and side by side; a note says so if they still do not fit.
        verbose : bool, default=False
            Whether to print the importances of these concepts.

        Returns
        -------
        figure : Figure

        Raises
        ------
        NotFittedError
            If `fit` or `estimate_importance` was not called.
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
        """Draw the crop in which each concept is strongest, in a frame of the concept's colour.

        Parameters
        ----------
        nb_most_important_concepts : int, default=6
            Number of concepts, the most important ones for the images of `fit`.
        border_width : int, default=5
            Width of the frame, in pixels of the crop.

        Returns
        -------
        figure : Figure

        Raises
        ------
        NotFittedError
            If `fit` or `estimate_importance` was not called.
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
        """Draw images with the maps of their concepts over them, after the legend of the concepts.

        Parameters
        ----------
        images : array-like of shape (N, height, width, channels) or (height, width, channels)
            N images, preprocessed for the network.
        importances : ndarray of shape (I,), optional
            Importances of the I concepts; maps show the most important ones. None: the importances
            for the images of `fit`. The legend shows the concepts most important for these images
            in any case.
        nb_most_important_concepts : int, default=5
            Number of concepts in the maps, and in the legend.
        filter_percentile : int, default=90
            Cells below this percentile (0 to 100) of a concept's map are not shown.
        clip_percentile : float or None, default=10
            Percentage of the shown pixels, the brightest ones, that are clipped to the same value.
            None: no clipping.
        alpha : float, default=0.65
            Opacity of the maps, from 0 to 1.
        cols : int, default=5
            Number of images in a row.
        img_size : float, default=2
            Width of an image, in inches.
        **plot_kwargs : Any
            Keyword arguments of ``Axes.imshow``, for images and maps.

        Returns
        -------
        figure : Figure
            The figure of the images; that of the legend is shown, not returned.

        Raises
        ------
        NotFittedError
            If `fit` or `estimate_importance` was not called.
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

    @styled
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
        """Draw an image with concept maps over it, on the current axes if they are empty.

        Parameters
        ----------
        image : array-like of shape (height, width, channels)
            Image, preprocessed for the network.
        most_important_concepts : array-like of int
            Numbers of the concepts; the first one is drawn on top.
        nb_most_important_concepts : int, default=5
            Maximum number of concepts drawn, from the first one on.
        filter_percentile, clip_percentile : float, default=90 and 10
            Percentile of a map (0 to 100) below which its cells are not shown, and percentage of
            the shown pixels, the brightest ones, that are clipped to the same value (None: no
            clipping).
        alpha : float, default=0.65
            Opacity of the maps, from 0 to 1.
        **plot_kwargs : Any
            Keyword arguments of ``Axes.imshow``, for images and maps.

        Returns
        -------
        figure : Figure

        Raises
        ------
        NotFittedError
            If `fit` or `estimate_importance` was not called.
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
            labels=[str(concept) for concept in concepts],
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
        """Draw an image with its most important concepts, their best crops and importances.

        At most 8 concepts are drawn on the image itself, with their numbers where they are
        strongest.

        Parameters
        ----------
        img : array-like of shape (height, width, channels)
            Image, preprocessed for the network.
        display_importance_order : DisplayImportancesOrder, default=DisplayImportancesOrder.GLOBAL
            GLOBAL: concepts are chosen by importance in the images of `fit`; LOCAL: in this image.
        nb_most_important_concepts : int, default=5
            Number of concepts, the most important ones. At most 20 of them have crops.
        filter_percentile, clip_percentile : float, default=90 and 10
            Percentile of a map (0 to 100) below which its cells are not shown, and percentage of
            the shown pixels, the brightest ones, that are clipped to the same value (None: no
            clipping).
        alpha : float, default=0.65
            Opacity of the maps, from 0 to 1.
        filepath : str, optional
            File that the figure is saved to. None: the figure is shown instead.
        **plot_kwargs : Any
            Keyword arguments of ``Axes.imshow``, for images and maps.

        Returns
        -------
        figure : Figure

        Raises
        ------
        NotFittedError
            If `fit` or `estimate_importance` was not called.
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
        """Compute the layout of a figure with N images in rows of ``cols`` images.

        Parameters
        ----------
        images : ndarray of shape (N, height, width, channels)
            The images, of any aspect ratio; only the shape is used.
        cols : int, default=5
            Number of images in a row.
        img_size : float, default=2.0
            Width of an image, in inches.
        margin : float, default=0.3
            Space around the grid, in inches.
        spacing : float, default=0.3
            Space between images, in inches.

        Returns
        -------
        layout_parameters : dict of str to float
            Keyword arguments of ``Figure.subplots_adjust``.
        rows : int
            Number of rows.
        width, height : float
            Size of the figure, in inches.
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

    # ---------------------------------------------------------------- private methods

    def _importances(self, importances: Array | None = None) -> Array:
        """Return checked importances (I,), by default the global ones, which hold the colours."""
        self.check_if_fitted()
        if self.sensitivity is None:
            raise NotFittedError(
                "there are no global importances yet: call estimate_importance() first"
            )
        if importances is None:
            return np.asarray(self.sensitivity.importances)
        importances = np.asarray(importances)
        if importances.shape != (self.number_of_concepts,) or not np.isfinite(importances).all():
            raise ValueError(
                f"importances must be {self.number_of_concepts} finite numbers, not {importances}"
            )
        return importances

    def _ranked(
        self, importances: Array, count: int | None, nb_crops: int = 0
    ) -> list[RankedConcept]:
        """Return the ``count`` most important concepts with their best crops, in that order."""
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
        """Colour maps by concept number; Xplique stores them by rank of global importance."""
        ranks = np.argsort(self.sensitivity.most_important_concepts)
        return [self.sensitivity.cmaps[rank] for rank in ranks]

    @cached_property
    def _pixel_limits(self) -> Limits:
        """Pixel values that are drawn black and white, taken from the images of the fit."""
        return pixel_limits(self.factorization.inputs)

    def _picture(self, image: ArrayLike) -> Array:
        """Return an image as RGB, (height, width, 3), with values in [0, 1]."""
        images = check_images(image)
        if len(images) > 1:
            raise ValueError(f"expected one image, got {len(images)}")
        return as_picture(images[0], self._pixel_limits)


def _title(order: DisplayImportancesOrder) -> str:
    """Return the title of a plot of global or local importances."""
    wanted = "a DisplayImportancesOrder"
    check_type("display_importance_order", order, DisplayImportancesOrder, wanted)
    kind = "Global" if order == DisplayImportancesOrder.GLOBAL else "Local"
    return f"{kind} Concept Importance"


def _print_importances(concepts: list[RankedConcept]) -> None:
    """Print the importance of each concept."""
    for concept in concepts:
        print(f"Concept {concept.number} has an importance value of {concept.importance:.2f}")


def plot_importances_of_classes(
    extractors: Sequence[Any],
    class_names: Sequence[str],
    effects: Sequence[Array],
    title: str,
) -> Figure:
    """Draw the importance of shared concepts to each class.

    Parameters
    ----------
    extractors : sequence of K DirectionPairsTf
        Extractors with the same pairs, each fitted on the images of one class, for which
        ``estimate_importance()`` was called.
    class_names : sequence of K str
        Names of the classes.
    effects : sequence of K ndarray of shape (I,)
        What more of each concept does to the class; only the signs are shown.
    title : str
        Title of the figure.

    Returns
    -------
    figure : Figure
    """
    importances = np.stack([each.sensitivity.importances for each in extractors])
    fits = [each.factorization for each in extractors]
    crops = np.concatenate([as_picture(np.asarray(fit.crops)) for fit in fits])
    coefficients = np.concatenate([fit.crops_u for fit in fits])
    number_of_images = sum(len(fit.inputs) for fit in fits)
    return plot_class_importances(
        importances,
        np.stack(effects),
        class_names,
        [crops[best_crops(values, number_of_images, 1)] for values in coefficients.T],
        concept_colors(importances.shape[1]),
        title,
    )
