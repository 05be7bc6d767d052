"""`static_dynamic`: do concepts of a video network answer to looks, to motion or to content?"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
from matplotlib.figure import Figure
from numpy.typing import ArrayLike

from xplique_dirpairs.core.progress import progress
from xplique_dirpairs.core.tables import Cell, Table
from xplique_dirpairs.core.types import Array
from xplique_dirpairs.core.validation import check_choice, check_concepts, check_integer
from xplique_dirpairs.data.images import compute_activations
from xplique_dirpairs.extractors.concept_layer import ConceptLayer
from xplique_dirpairs.metrics.static_dynamic import (
    PAIR_KINDS,
    SHARES,
    StaticDynamicShares,
    static_dynamic_shares,
)
from xplique_dirpairs.models.split import SplitModel
from xplique_dirpairs.plots.video import plot_shares
from xplique_dirpairs.video.clips import VideoPairs

_POOLS = ("mean", "max")
#: Largest number of units that are plotted unless others are asked for.
_PLOTTED = 40


@dataclass(frozen=True, eq=False)
class StaticDynamic:
    """What I concepts, or channels, of a video network answer to. `static_dynamic` returns it.

    Attributes
    ----------
    shares : StaticDynamicShares
        Shares with values centred by the mean of both sides of a pair, as published.
    by_side : StaticDynamicShares
        Shares with each side centred by its own mean. They differ where shuffling or another style
        shifts a unit's mean; such a unit *reacts* to the change.
    concept_names : tuple of I str
    number_of_videos : int
    number_of_pairs : int
    pool : {"mean", "max"}
    """

    shares: StaticDynamicShares
    by_side: StaticDynamicShares
    concept_names: tuple[str, ...]
    number_of_videos: int
    number_of_pairs: int
    pool: str

    def __str__(self) -> str:
        means = {name: self._mean(name) for name in SHARES}
        parts = ", ".join(f"{name} {value:.2f}" for name, value in means.items())
        return (
            f"static and dynamic shares of {len(self.concept_names)} units in "
            f"{self.number_of_videos} videos: {parts}"
        )

    def _mean(self, name: str) -> float:
        """Return the mean of a share over the units that vary; NaN if none does."""
        values = getattr(self.shares, name)
        known = values[~np.isnan(values)]
        return float(known.mean()) if known.size else float("nan")

    def table(self) -> Table:
        """Return a table with a row for each unit: shares, errors, both centrings, the class.

        Returns
        -------
        table : Table
        """
        published = self.shares.published()
        headers = (
            "concept", *SHARES, "static (by side)", "dynamic (by side)", "ρ static", "ρ dynamic",
            "published class",
        )  # fmt: skip
        rows = []
        for i, name in enumerate(self.concept_names):
            cells = [
                _with_error(getattr(self.shares, share)[i], self.shares.standard_error[share][i])
                for share in SHARES
            ]
            values = (
                self.by_side.static[i], self.by_side.dynamic[i], published.static[i],
                published.dynamic[i],
            )  # fmt: skip
            cells += [Cell.signed(float(value)) for value in values]
            rows.append([Cell(name), *cells, Cell(str(published.classes[i]))])
        percentages = published.percentages
        return Table(
            headers,
            rows,
            (
                f"{self}; {self.number_of_pairs} pairs of each kind, {self.pool} over time and "
                "space; ± standard error over videos.",
                "content: what all clips of a video share; dynamic: what goes when frames are "
                "shuffled. A class joint needs content: of independent factors that add up, no "
                "unit has both ρ above 0.5.",
                f"published percentages of the layer: {percentages['dynamic']:.1f} dynamic, "
                f"{percentages['static']:.1f} static (21.2 stands for none, 42.2 for all).",
            ),
        )

    def plot(self, concepts: ArrayLike | None = None, title: str = "") -> Figure:
        """Plot the four shares of units as stacked bars.

        Parameters
        ----------
        concepts : array-like of int, optional
            Indices of the units. None: all, or the 40 with the largest dynamic shares.
        title : str, default=""
            Title of the figure. Empty: a general one.

        Returns
        -------
        figure : matplotlib.figure.Figure
            The figure, which is not shown.

        Raises
        ------
        ValueError
            If there is no such unit.
        """
        if concepts is None:
            order = np.argsort(-np.nan_to_num(self.shares.dynamic, nan=-2.0), kind="stable")
            order = order[:_PLOTTED]
        else:
            order = check_concepts(concepts, len(self.concept_names))
        return plot_shares(
            title or "What concepts answer to",
            [self.concept_names[i] for i in order],
            {name: getattr(self.shares, name)[order] for name in SHARES},
            {name: self.shares.standard_error[name][order] for name in SHARES},
        )


def static_dynamic(
    concepts: Any,
    videos: ArrayLike,
    *,
    styles: ArrayLike | None = None,
    pairs: int = 600,
    pool: str = "mean",
    resamples: int = 200,
    batch_size: int = 16,
    random_state: int | None = 0,
    verbose: int = 0,
) -> StaticDynamic:
    """Measure whether concepts of a video network answer to looks, to motion or to content.

    Pairs of clips of one video share how they look (the second one has its frames shuffled), how
    they move (the second one is in another style) or neither. Kowal et al. (CVPR 2022) use the
    first two kinds; the third one tells content from the rest: see `static_dynamic_shares`.

    Parameters
    ----------
    concepts : ConceptLayer, fitted extractor, SplitModel or keras.Model
        Anything that `ConceptLayer.of` accepts as its only argument; or, for the channels of a
        layer, the network up to this layer: its first half, or a `SplitModel`.
    videos : array-like of shape (N, T, height, width, C)
        N videos of T ≥ 2 frames, preprocessed for the network.
    styles : array-like of shape (K, N, T, height, width, C), optional
        The same videos in K ≥ 2 styles. None: see `VideoPairs`.
    pairs : int, default=600
        Number of pairs of each kind. The error of a share is about ±0.05 at 600, ±0.02 at 3,000.
    pool : {"mean", "max"}, default="mean"
        How the values of a clip become one number. Both hide *when* a unit is active.
    resamples : int, default=200
        Number of bootstrap samples of the videos for standard errors.
    batch_size : int, default=16
        Number of clips in a batch.
    random_state : int or None, default=0
        Seed of styles, orders of frames and bootstrap. None draws a seed.
    verbose : int, default=0
        A progress bar is shown unless this is 0.

    Returns
    -------
    result : StaticDynamic

    Raises
    ------
    TypeError
        If ``concepts`` are none of these objects.
    ValueError
        If videos do not fit the network, or an argument is out of range.
    NotFittedError
        If the extractor is not fitted.
    """
    check_choice("pool", pool, _POOLS)
    check_integer("resamples", resamples, 2)
    check_integer("batch_size", batch_size)
    read, names = _reading_of(concepts, batch_size)
    drawn = VideoPairs(videos, styles, pairs, random_state)
    values: dict[str, list[Array]] = {}
    count = -(-pairs // batch_size)
    for clips in progress(drawn.batches(batch_size), count, "static and dynamic", verbose, "batch"):
        for kind, part in clips.items():
            values.setdefault(kind, []).append(_pooled(read(part), pool))
    first, *others = (np.concatenate(values[kind]) for kind in ("first", *PAIR_KINDS))
    pooled = {kind: (first, other) for kind, other in zip(PAIR_KINDS, others, strict=True)}
    shared, by_side = (
        static_dynamic_shares(
            pooled, drawn.video, centring=centring, resamples=resamples, random_state=random_state
        )
        for centring in ("shared", "side")
    )
    names = names or tuple(str(i) for i in range(first.shape[1]))
    return StaticDynamic(shared, by_side, names, len(np.unique(drawn.video)), pairs, pool)


def _reading_of(
    concepts: Any, batch_size: int
) -> tuple[Callable[[Array], Array], tuple[str, ...] | None]:
    """Return a function from clips to values (n, *spatial, I), and names of concepts, if any."""
    if isinstance(concepts, SplitModel):
        concepts = concepts.input_to_latent_model
    if isinstance(concepts, keras.Model):
        return (lambda clips: compute_activations(concepts, clips, batch_size)), None
    layer = ConceptLayer.of(concepts)
    return (
        lambda clips: layer.coefficients(layer.activations(clips, batch_size)),
        layer.concept_names,
    )


def _pooled(values: Array, pool: str) -> Array:
    """Return one number for each clip and unit, (n, I), of values (n, *spatial, I)."""
    axes = tuple(range(1, values.ndim - 1))
    if not axes:
        return values.astype(np.float64)
    if pool == "max":
        return np.asarray(values.max(axis=axes), np.float64)
    return np.asarray(values.mean(axis=axes, dtype=np.float64))


def _with_error(value: float, error: float) -> Cell:
    """Return a cell with a share ± its standard error; a dash for NaN."""
    if not np.isfinite([value, error]).all():
        return Cell.signed(float("nan"))
    return Cell(f"{value:+.2f} ± {error:.2f}", numbers=(float(value), float(error)))
