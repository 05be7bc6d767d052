"""`diagnose_prediction`: at which layer which part of an image goes to another class."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import keras
import numpy as np
from matplotlib.figure import Figure
from numpy.typing import ArrayLike

from xplique_dirpairs.connectome.divide import OUTSIDE, Segments, divide_images
from xplique_dirpairs.connectome.result import Connectome
from xplique_dirpairs.core.tables import Cell, Table
from xplique_dirpairs.core.types import Array
from xplique_dirpairs.core.validation import as_images, check_choice, check_type
from xplique_dirpairs.data.images import compute_activations, concept_maps
from xplique_dirpairs.models.split import split_model
from xplique_dirpairs.plots.connectome import plot_diagnosis
from xplique_dirpairs.plots.images import as_picture, pixel_limits

#: How the features of a segment are averaged.
FEATURES = ("cells", "crops")


@dataclass(frozen=True, eq=False)
class SegmentMatch:
    """The concept that a segment of an image is nearest to.

    Attributes
    ----------
    layer : int
        Index of the layer.
    number : int
        Number of the segment.
    area : float
        Share of the image that it covers.
    class_index : int
        Index of the connectome that the nearest concept belongs to.
    concept : int
        Index of this concept at its layer.
    distances : ndarray of shape (G,)
        Distance from the nearest centre of each of the G connectomes.
    """

    layer: int
    number: int
    area: float
    class_index: int
    concept: int
    distances: Array


@dataclass(frozen=True, eq=False)
class Diagnosis:
    """Which parts of an image look like which class, layer by layer. See `diagnose_prediction`.

    Attributes
    ----------
    names : tuple of G str
        Names of the connectomes, those of their classes.
    layer_names : tuple of L str
    matches : tuple of SegmentMatch
        One for each segment of each layer.
    segments : Segments
        The segments of the image.
    concept_names : tuple of G tuple of L tuple of str
        Names of the concepts of each connectome at each layer.
    """

    names: tuple[str, ...]
    layer_names: tuple[str, ...]
    matches: tuple[SegmentMatch, ...]
    segments: Segments
    concept_names: tuple[tuple[tuple[str, ...], ...], ...]

    @property
    def shares(self) -> Array:
        """Share of the segmented area of the image that is nearest to each class, (L, G)."""
        areas = np.zeros((len(self.layer_names), len(self.names)))
        for one in self.matches:
            areas[one.layer, one.class_index] += one.area
        return np.asarray(areas / np.maximum(areas.sum(axis=1, keepdims=True), 1e-12))

    def first_layer(self, name: str) -> str | None:
        """Return the first layer from which on most of the image is nearest to a class.

        None if most of it is nearer to others at the last layer. Raises a ValueError if the name is
        unknown.
        """
        check_choice("name", name, self.names)
        most = self.shares[:, self.names.index(name)] > 0.5
        if not most[-1]:
            return None
        others = np.flatnonzero(~most)
        return self.layer_names[0 if not len(others) else others[-1] + 1]

    def __str__(self) -> str:
        return str(self.table())

    def table(self) -> Table:
        """Return a table with a row for each segment: its size, nearest concept, and distances.

        Returns
        -------
        table : Table
        """
        rows = [
            [
                Cell(self.layer_names[one.layer]),
                Cell(str(one.number)),
                Cell.share(one.area),
                Cell(self.names[one.class_index]),
                Cell(self.concept_names[one.class_index][one.layer][one.concept]),
                *(Cell.figure(distance, 2) for distance in one.distances),
            ]
            for one in self.matches
        ]
        headers = ["layer", "segment", "area", "nearest", "concept",
                   *(f"distance: {name}" for name in self.names)]  # fmt: skip
        notes = [
            f"{layer}: "
            + ", ".join(f"{share:.0%} {name}" for name, share in zip(self.names, own, strict=True))
            for layer, own in zip(self.layer_names, self.shares, strict=True)
        ]
        return Table(headers, rows, notes)

    def plot(self) -> Figure:
        """Plot the image at each layer, its segments coloured by the nearest class.

        Returns
        -------
        figure : matplotlib.figure.Figure
            The figure, which is not shown.
        """
        maps = []
        for n, labels in enumerate(self.segments.labels):
            own = np.full(labels.shape[1:], OUTSIDE)
            for one in self.matches:
                if one.layer == n:
                    own[labels[0] == one.number] = one.class_index
            maps.append(own)
        picture = as_picture(self.segments.images, pixel_limits(self.segments.images))[0]
        return plot_diagnosis(picture, maps, self.layer_names, self.names)


def diagnose_prediction(
    connectomes: Mapping[str, Connectome],
    image: ArrayLike,
    *,
    model: keras.Model | None = None,
    features: str = "cells",
    cell: int = 8,
    random_state: int | None = 0,
) -> Diagnosis:
    """Find at which layer, and with which parts, an image looks like which class.

    The image is divided into segments from the last layer down (`divide_images`). The features of
    each segment are given to the nearest centre (ℓ₂) of the concepts of any of the connectomes at
    this layer, as Kowal et al. ("Visual Concept Connectome (VCC)", 2024) do for an image of one
    class that is taken for another.

    Parameters
    ----------
    connectomes : mapping of str to Connectome
        Class name → its connectome, such as those of the true and of the predicted class. All have
        the same layers of the same network.
    image : array-like of shape (height, width, C) or (1, height, width, C)
        One image, preprocessed for the network.
    model : keras.Model, optional
        The network, which connectomes that were loaded from files do not hold. None: that of the
        first connectome.
    features : {"cells", "crops"}, default="cells"
        "cells": features of the intact image, averaged over the segment. "crops": the segment
        passes through the network as an image of its own, as published; for connectomes of `itcav`.
    cell : int, default=8
        Side of the cells of segments, in pixels.
    random_state : int or None, default=0
        Seed of the division.

    Returns
    -------
    diagnosis : Diagnosis

    Raises
    ------
    TypeError
        If the connectomes are no dict of connectomes.
    ValueError
        If there are fewer than two connectomes, their layers differ, the network is unknown, or
        there is more than one image.
    """
    check_choice("features", features, FEATURES)
    check_type("connectomes", connectomes, Mapping, "a dict of class names to connectomes")
    for one in connectomes.values():
        check_type("each connectome", one, Connectome, "Connectome", "call build_connectome")
    if len(connectomes) < 2:
        raise ValueError(
            f"connectomes must be those of at least two classes, not {len(connectomes)}"
        )
    names = tuple(map(str, connectomes))
    given = list(connectomes.values())
    layer_names = [tuple(layer.name for layer in one.layers) for one in given]
    if len(set(layer_names)) > 1:
        raise ValueError(f"connectomes must have the same layers, not {layer_names}")
    model = given[0].network()[0].model if model is None else model
    picture = as_images(image)
    if len(picture) != 1:
        raise ValueError(f"image must be one image, not {len(picture)}")
    segments = divide_images(
        model, layer_names[0], picture, cell=cell, random_state=random_state, verbose=0
    )
    matches = []
    for n, name in enumerate(layer_names[0]):
        split = split_model(model, name)
        labels = segments.labels[n][0]
        members = segments.members(n)
        if features == "crops":
            x = compute_activations(split.input_to_latent_model, segments.pictures(n, members))
            pooled = x.reshape(len(x), -1, x.shape[-1]).mean(axis=1)
        else:
            x = compute_activations(split.input_to_latent_model, segments.images)
            maps = concept_maps(x, picture.shape[1:], split.extra_tokens)[0]
            pooled = np.stack([_mean_inside(maps, labels == k) for _, k in members])
        centres = [one.layers[n].centres for one in given]
        for (_, k), own in zip(members, pooled, strict=True):
            distances = [np.linalg.norm(rows - own, axis=1) for rows in centres]
            # (a concept that no image shows has no centre)
            distances = [np.where(np.isnan(one), np.inf, one) for one in distances]
            nearest = np.array([one.min() for one in distances])
            if np.isinf(nearest).all():
                continue
            g = int(nearest.argmin())
            area = float((labels == k).mean())
            matches.append(SegmentMatch(n, int(k), area, g, int(distances[g].argmin()), nearest))
    names_of_concepts = tuple(tuple(own.concept_names for own in one.layers) for one in given)
    return Diagnosis(names, layer_names[0], tuple(matches), segments, names_of_concepts)


def _mean_inside(maps: Array, mask: Array) -> Array:
    """Return features (D,) of maps (h, w, D), averaged over a mask of another resolution."""
    rows, columns = np.nonzero(mask)
    down = ((rows + 0.5) * maps.shape[0] / mask.shape[0]).astype(int)
    across = ((columns + 0.5) * maps.shape[1] / mask.shape[1]).astype(int)
    return np.asarray(maps[down, across].mean(axis=0))
