"""Does a concept stand for a thing, or for a place in the image? `position_dependence`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import keras
import numpy as np
from numpy.typing import ArrayLike

from xplique_dirpairs.core.progress import progress
from xplique_dirpairs.core.types import Array
from xplique_dirpairs.core.validation import (
    as_images,
    check_choice,
    check_integer,
    check_random_state,
)
from xplique_dirpairs.data.images import compute_activations, concept_maps
from xplique_dirpairs.extractors.concept_layer import ConceptLayer
from xplique_dirpairs.metrics.position import (
    border_contrast,
    decodability,
    map_statistics,
    placed_share,
    position_verdicts,
    resamples,
)
from xplique_dirpairs.models.layout import find_extra_tokens
from xplique_dirpairs.models.padding import padding_layers, with_wrapped_padding
from xplique_dirpairs.models.split import SplitModel
from xplique_dirpairs.position.placing import (
    Arms,
    arms_of,
    placed_images,
    reach_of,
    rolled_images,
    scrambled_images,
    stride_of,
)
from xplique_dirpairs.position.result import PositionDependence

#: Fewest images, and cells along a side of the maps, from which anything can be measured.
FEWEST_IMAGES, FEWEST_CELLS = 8, 3
_CONTROLS = ("rolled", "scrambled")
#: Number of bootstrap samples of the images, and the ends of the 95 % intervals.
_SAMPLES, _ENDS = 200, (0.025, 0.975)
#: A concept whose pooled values vary less over patches than this share of the variance of its maps
#: does not answer to the patches.
_ANSWER = 1e-8


def position_dependence(
    concepts: Any,
    images: ArrayLike,
    *,
    grid: int = 3,
    margin: int | None = None,
    border: Sequence[int] = (1, 2, 3),
    control: str = "rolled",
    patch: int | None = None,
    stride: int | None = None,
    wrap: bool = True,
    batch_size: int = 64,
    random_state: int | None = 0,
    verbose: int = 0,
) -> PositionDependence:
    """Measure how much each concept, or each channel of a layer, depends on the place in the image.

    Images are rolled round their edges, and patches of them are placed on a grey canvas; whatever
    of a concept's map stays where it was, or changes with the place, depends on the place.

    Parameters
    ----------
    concepts : ConceptLayer, fitted extractor, SplitModel or keras.Model
        Anything that `ConceptLayer.of` accepts as its only argument; or, for the channels of a
        layer, the network up to this layer: its first half, or a `SplitModel`.
    images : array-like of shape (N, height, width, C)
        N ≥ 8 images, preprocessed for the network. 100 are enough.
    grid : int, default=3
        Number of rows, and of columns, of places for patches.
    margin : int, optional
        Distance in pixels that places inside keep from the edges. None: half the receptive field,
        measured as the reach of the change of one pixel. If no room is left, nothing is measured
        inside.
    border : sequence of int, default=(1, 2, 3)
        Widths of the border in cells of the map.
    control : {"rolled", "scrambled"}, default="rolled"
        How images lose their places. "scrambled": their pixels are permuted, which leaves no seam;
        for early layers and photographs. A network may answer to such noise at its padding only, so
        that a concept counts as position or border only if its map share says so as well.
    patch : int, optional
        Side of the patches in pixels. None: a third of the image, or less to leave room inside.
    stride : int, optional
        Number of pixels from one cell of the map to the next. None: it is measured.
    wrap : bool, default=True
        Whether to measure again with padding that wraps round the edges, where the network pads
        and a copy of it can be made: what then goes was caused by the padding.
    batch_size : int, default=64
        Number of images in a batch.
    random_state : int or None, default=0
        Seed of offsets, patches and bootstrap samples. None draws a seed.
    verbose : int, default=0
        A progress bar is shown unless this is 0.

    Returns
    -------
    dependence : PositionDependence
        Shares with 95 % intervals over images, verdicts, plots and a table.

    Raises
    ------
    TypeError
        If ``concepts`` are none of these objects.
    ValueError
        If images do not fit the network; if there are fewer than 8; if the layer has no maps of at
        least 3 × 3 cells; if places do not fit; or if an argument is out of range.
    NotFittedError
        If the extractor is not fitted.
    """
    reading = _reading_of(concepts, batch_size)
    images = as_images(images)
    _check_arguments(images, grid, margin, border, control, patch, stride)
    rng = check_random_state(random_state)
    samples = np.stack(list(resamples(len(images), _SAMPLES, rng)))
    trial = _Trial.of(reading, images, grid, margin, control, patch, stride, rng)
    wrapped = with_wrapped_padding(reading.model) if wrap else None
    arms = trial.arms
    passes = 3 + (arms.interior is not None) + 2 * (wrapped is not None)
    steps = iter(progress(range(passes), passes, "position", verbose, "pass"))

    next(steps)
    shares, replicates = {}, {}
    shares["map"], replicates["map"] = _of_maps(reading.maps(images), border, samples)[0]
    next(steps)
    maps = trial.rolled_maps()
    spread = maps.std(axis=(0, 1, 2), dtype=np.float64)
    profile = np.moveaxis(maps.mean(axis=0, dtype=np.float64), -1, 0)
    for name, values in zip(("rolled", "border"), _of_maps(maps, border, samples), strict=True):
        shares[name], replicates[name] = values
    del maps
    floor = _ANSWER * spread**2
    pooled, main = {}, {}
    for name in ("edge", "interior"):
        starts: Array | None = getattr(arms, name)
        if starts is None:
            shares[name] = np.full(len(spread), np.nan)
            replicates[name] = np.full((_SAMPLES, len(spread)), np.nan)
            continue
        next(steps)
        pooled[name] = trial.pooled(starts)
        flat = pooled[name].reshape(len(images), grid**2, -1)
        (own,), (main[name],) = placed_share(flat, floor=floor)
        shares[name], replicates[name] = own, placed_share(flat, samples, floor)[0]
    best = "interior" if "interior" in pooled else "edge"
    wrapped_shares = (None, None)
    if wrapped is not None:
        other = replace(trial, reading=replace(reading, model=wrapped))
        next(steps)
        rolled = map_statistics(other.rolled_maps(), border).share[0]
        next(steps)
        flat = other.pooled(arms.edge).reshape(len(images), grid**2, -1)
        wrapped_shares = rolled, placed_share(flat, floor=floor)[0][0]
    next(steps, None)
    verdicts, repeated = (_verdicts(own, control) for own in (shares, replicates))
    return PositionDependence(
        map_share=shares["map"],
        rolled_share=shares["rolled"],
        placed_interior=shares["interior"],
        placed_edge=shares["edge"],
        placed_main=main[best],
        border_share=shares["border"],
        border_contrast=border_contrast(profile, spread, tuple(border)),
        border=tuple(border),
        profile=profile,
        decodability=decodability(pooled[best], rng),
        intervals={name: _interval(values) for name, values in replicates.items()},
        verdicts=verdicts,
        support=(repeated == verdicts).mean(axis=0),
        wrapped_rolled=wrapped_shares[0],
        wrapped_edge=wrapped_shares[1],
        padding_layers=padding_layers(reading.model),
        grid=grid,
        margin=trial.margin,
        patch=arms.patch,
        stride=trial.stride,
        number_of_images=len(images),
        concept_names=reading.concept_names or tuple(str(i) for i in range(len(spread))),
    )


# ------------------------------------------------------------ what is read


@dataclass(frozen=True, eq=False)
class _Reading:
    """What maps are read from images: coefficients of concepts, or the channels of a layer."""

    model: keras.Model
    coefficients: Callable[[Array], Array] | None
    extra_tokens: tuple[int, ...] | None
    concept_names: tuple[str, ...] | None
    batch_size: int

    def maps(self, images: Array) -> Array:
        """Return the maps of images (n, height, width, C), (n, H, W, I)."""
        values = compute_activations(self.model, images, self.batch_size)
        if self.coefficients is not None:
            values = self.coefficients(values)
        return concept_maps(values, images.shape[1:3], self.extra_tokens)


def _reading_of(concepts: Any, batch_size: int) -> _Reading:
    """Return what is read of concepts, or of a network whose channels are to be measured."""
    check_integer("batch_size", batch_size)
    if isinstance(concepts, SplitModel):
        model = concepts.input_to_latent_model
        return _Reading(model, None, concepts.extra_tokens, None, batch_size)
    if isinstance(concepts, keras.Model):
        outputs = getattr(concepts, "outputs", None)
        extra = find_extra_tokens(concepts, outputs[0]) if outputs else None
        return _Reading(concepts, None, extra, None, batch_size)
    try:
        layer = ConceptLayer.of(concepts)
    except TypeError as error:
        raise TypeError(
            f"{error}; for the channels of a layer, give a SplitModel or a keras.Model up to it"
        ) from error
    model, extra = layer.split.input_to_latent_model, layer.split.extra_tokens
    return _Reading(model, layer.coefficients, extra, layer.concept_names, batch_size)


@dataclass(frozen=True, eq=False)
class _Trial:
    """Images without their places, and patches at places: the same at every call."""

    reading: _Reading
    images: Array
    control: str
    stride: tuple[int, int]
    margin: tuple[int, int] | None
    arms: Arms
    seed: int

    @classmethod
    def of(
        cls,
        reading: _Reading,
        images: Array,
        grid: int,
        margin: int | None,
        control: str,
        patch: int | None,
        stride: int | None,
        rng: np.random.Generator,
    ) -> _Trial:
        """Measure stride and margin unless they are given, and choose the places of patches."""
        cells = reading.maps(images[:1]).shape[1:3]
        if min(cells) < FEWEST_CELLS:
            raise ValueError(
                f"the layer must have maps of at least 3 × 3 cells, not {cells[0]} × {cells[1]}: "
                "choose an earlier layer"
            )
        strides = stride_of(reading.maps, images) if stride is None else (stride, stride)
        rows, columns = margin, margin
        if margin is None:
            rows, columns = reach_of(reading.maps, images, strides)
        arms = arms_of(images.shape[1:3], strides, (rows, columns), grid, patch)
        known = None if rows is None or columns is None else (rows, columns)
        return cls(reading, images, control, strides, known, arms, int(rng.integers(2**32)))

    def rolled_maps(self) -> Array:
        """Return the maps of the images without their places, (N, H, W, I)."""
        rng = np.random.default_rng(self.seed)
        if self.control == "scrambled":
            return self.reading.maps(scrambled_images(self.images, rng))
        return self.reading.maps(rolled_images(self.images, self.stride, rng))

    def pooled(self, starts: Array) -> Array:
        """Return the means of the maps for a patch of each image at each place, (N, G, G, I)."""
        rng = np.random.default_rng(self.seed)
        canvases = placed_images(self.images, self.arms.patch, starts, rng, self.reading.batch_size)
        parts = [self.reading.maps(part).mean(axis=(1, 2), dtype=np.float64) for part in canvases]
        return np.concatenate(parts).reshape(len(self.images), *starts.shape[1:] * 2, -1)


# ------------------------------------------------------------ statistics


def _verdicts(shares: Mapping[str, Array], control: str) -> Array:
    """Return the verdicts; what moves with the content of the images as they are is no position."""
    rolled = shares["rolled"]
    if control == "scrambled":
        rolled = np.minimum(rolled, shares["map"])
    return position_verdicts(rolled, shares["border"], shares["interior"], shares["edge"])


def _of_maps(
    maps: Array, border: Sequence[int], samples: Array
) -> tuple[tuple[Array, Array], tuple[Array, Array]]:
    """Return map share and border share of maps, each with its bootstrap replicates."""
    own, repeated = map_statistics(maps, border), map_statistics(maps, border, samples)
    return (own.share[0], repeated.share), (own.border_share[0], repeated.border_share)


def _interval(replicates: Array) -> Array:
    """Return the ends of the 95 % intervals of replicates (B, I), (2, I)."""
    known = ~np.isnan(replicates).all(axis=0)
    ends = np.full((2, replicates.shape[1]), np.nan)
    ends[:, known] = np.nanquantile(replicates[:, known], _ENDS, axis=0)
    return ends


def _check_arguments(
    images: Array,
    grid: int,
    margin: int | None,
    border: Sequence[int],
    control: str,
    patch: int | None,
    stride: int | None,
) -> None:
    """Raise a ValueError for arguments out of range."""
    if len(images) < FEWEST_IMAGES:
        raise ValueError(f"at least {FEWEST_IMAGES} images are needed, not {len(images)}")
    check_integer("grid", grid, 2)
    check_choice("control", control, _CONTROLS)
    if margin is not None:
        check_integer("margin", margin, 0)
    for name, value in (("patch", patch), ("stride", stride)):
        if value is not None:
            check_integer(name, value)
            if value >= min(images.shape[1:3]):
                raise ValueError(
                    f"{name} must be smaller than the images, {images.shape[1]} × "
                    f"{images.shape[2]} pixels, not {value}"
                )
    if np.ndim(border) != 1 or not len(border):
        raise ValueError(
            f"border must hold at least one width in cells, such as (1, 2, 3), not {border!r}"
        )
    for width in border:
        check_integer("border", width)
