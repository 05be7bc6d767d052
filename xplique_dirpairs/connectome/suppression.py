"""Suppress lower concepts, and compare what happens above with what the connectome predicts."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import ArrayLike

from xplique_dirpairs.connectome.responses import responses_above
from xplique_dirpairs.connectome.result import Connectome
from xplique_dirpairs.core.batching import slices
from xplique_dirpairs.core.progress import progress
from xplique_dirpairs.core.tables import Cell, Table
from xplique_dirpairs.core.types import Array
from xplique_dirpairs.core.validation import check_images, check_integer, check_type
from xplique_dirpairs.plots.connectome import plot_suppression


@dataclass(frozen=True, eq=False)
class SuppressionTest:
    """Predicted and measured effects of suppressing each lower concept. See `suppression_test`.

    Attributes
    ----------
    layer_names : tuple of L str
        Names of the layers.
    predicted : tuple of L ndarray of shape (I, J)
        Change of each upper concept, or class, that the connectome predicts: minus the
        contribution, in spreads of the upper concept.
    measured : tuple of L ndarray of shape (I, J)
        Mean change over the images, in the same unit.
    images : int
        Number of images.
    """

    layer_names: tuple[str, ...]
    predicted: tuple[Array, ...]
    measured: tuple[Array, ...]
    images: int

    @property
    def correlations(self) -> Array:
        """Correlation of predicted and measured changes over all pairs of concepts, (L,)."""
        return self.correlations_with(self.predicted)

    def correlations_with(self, predictions: tuple[Array, ...]) -> Array:
        """Return the correlation of other predictions with the measured changes, (L,).

        Parameters
        ----------
        predictions : sequence of L ndarray of shape (I, J)
            Predictions; NaN where there is none.

        Returns
        -------
        correlations : ndarray of shape (L,)
            NaN where predictions or changes do not vary.

        Raises
        ------
        ValueError
            If predictions are not of the shapes of ``measured``.
        """
        shapes = [np.shape(each) for each in predictions]
        wanted = [each.shape for each in self.measured]
        if shapes != wanted:
            raise ValueError(
                f"predictions must have the shapes {wanted}, one array for each layer, not {shapes}"
            )
        return np.array([_correlation(*each) for each in zip(predictions, self.measured,
                                                             strict=True)])  # fmt: skip

    def __str__(self) -> str:
        return str(self.table())

    def table(self) -> Table:
        """Return a table with a row for each layer: pairs, correlation, size of the changes.

        Returns
        -------
        table : Table
        """
        rows = [
            [
                Cell(name),
                Cell(str(int(np.isfinite(predicted).sum()))),
                Cell.figure(correlation, 3),
                Cell.figure(float(np.abs(measured).mean()), 3),
            ]
            for name, predicted, measured, correlation in zip(
                self.layer_names, self.predicted, self.measured, self.correlations, strict=True
            )
        ]
        reasons = [
            f"{name}: no correlation, because the {what} changes of all pairs are the same, or "
            "unknown."
            for name, *both in zip(self.layer_names, self.predicted, self.measured, strict=True)
            for what, values in zip(("predicted", "measured"), both, strict=True)
            if not _varies(values)
        ]
        notes = [
            f"Each concept is suppressed alone, at all positions of {self.images} images. Changes "
            "of the concepts of the next layer, or of the classes, are in their spreads.",
            *reasons,
        ]
        if any(np.isfinite(each).any() and not np.any(each) for each in self.predicted):
            notes.append(
                "Changes are predicted from slopes, and those of steps, such as coefficients of "
                "K-Means, are 0."
            )
        return Table(["suppressed at", "pairs", "correlation", "mean |change|"], rows, notes)

    def plot(self) -> Figure:
        """Plot measured against predicted changes, a panel for each layer.

        Returns
        -------
        figure : matplotlib.figure.Figure
            The figure, which is not shown.
        """
        return plot_suppression(
            self.layer_names, self.predicted, self.measured, list(self.correlations)
        )


def _varies(values: Array) -> bool:
    """Return whether there are two different finite values."""
    known = values[np.isfinite(values)]
    return known.size > 1 and bool(np.ptp(known) > 0)


def _correlation(predicted: Array, measured: Array) -> float:
    known = np.isfinite(predicted) & np.isfinite(measured)
    a, b = predicted[known], measured[known]
    if not (_varies(a) and _varies(b)):
        return float("nan")
    return float(np.corrcoef(a, b)[0, 1])


def suppression_test(
    connectome: Connectome, images: ArrayLike, *, batch_size: int = 32, verbose: int = 1
) -> SuppressionTest:
    """Suppress each concept of each layer, and compare the changes with the predicted ones.

    Concept c is suppressed at every position, x − u_c b_c with its coefficient u and bank row b,
    within the range of the layer. The rest of the network is evaluated, and what is read of the
    next layer's concepts, or of the classes, is compared with before.

    Parameters
    ----------
    connectome : Connectome
        A connectome with its network, as `build_connectome` returns it.
    images : array-like of shape (N, height, width, C)
        Images, which should be others than those of the connectome.
    batch_size : int, default=32
        Number of images that pass through the network at a time.
    verbose : int, default=1
        Progress bars are shown unless this is 0.

    Returns
    -------
    test : SuppressionTest

    Raises
    ------
    TypeError
        If ``connectome`` is no connectome.
    ValueError
        If the connectome was loaded without its network, or an argument does not fit.
    """
    check_type("connectome", connectome, Connectome, "Connectome", "call build_connectome")
    images = check_images(images)
    if len(images) < 2:
        raise ValueError("images must be at least 2, of which spreads are taken, not 1")
    check_integer("batch_size", batch_size)
    measured = []
    layers = connectome.network()
    for n, layer in enumerate(layers):
        above = connectome.layers[min(n + 1, len(layers) - 1)].centres
        responses = responses_above(
            layers, n, str(connectome.settings["target"]), above,
            np.asarray(connectome.class_ids), images, batch_size,
        )  # fmt: skip
        low, high = layer.split.limits
        total: Array | None = None
        moments: list[Array] = []
        parts = list(slices(len(images), batch_size))
        for part in progress(parts, len(parts), f"suppressing at {layer.layer}", verbose, "batch"):
            x = responses.activations(np.arange(part.start, part.stop))
            u = layer.coefficients(x)
            before = responses.readings(x).astype(np.float64)
            moments.append(before)
            sums = np.zeros((layer.number_of_concepts, before.shape[1]))
            for c, row in enumerate(layer.bank):
                moved = x - u[..., [c]] * row
                # Values that are outside the range already are kept.
                if low is not None:
                    moved = np.maximum(moved, np.minimum(x, low))
                if high is not None:
                    moved = np.minimum(moved, np.maximum(x, high))
                sums[c] = (responses.readings(moved) - before).sum(axis=0)
            total = sums if total is None else total + sums
        spreads = np.concatenate(moments).std(axis=0)
        with np.errstate(divide="ignore", invalid="ignore"):
            change = np.asarray(total) / len(images) / spreads
        measured.append(np.where(np.isfinite(change), change, np.nan))
    return SuppressionTest(
        tuple(layer.name for layer in connectome.layers),
        tuple(-each.contributions for each in connectome.edges),
        tuple(measured),
        len(images),
    )
