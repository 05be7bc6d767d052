"""`divide_images`: image segments from the features of several layers, from the top layer down.

As in the visual concept connectome (Kowal et al., "Visual Concept Connectome (VCC)", 2024), from
the authors' code: the features of the last layer divide an image in two, by K-Means; those of every
layer before divide each segment of the layer above, by SLIC.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import cv2
import keras
import numpy as np
from numpy.typing import ArrayLike
from skimage.segmentation import slic
from sklearn.cluster import KMeans, MiniBatchKMeans
from sklearn.metrics import silhouette_score

from xplique_dirpairs.core.batching import slices
from xplique_dirpairs.core.progress import progress
from xplique_dirpairs.core.types import Array
from xplique_dirpairs.core.validation import check_images, check_integer, check_number
from xplique_dirpairs.data.images import compute_activations, concept_maps
from xplique_dirpairs.models.graph import (
    check_keras_model,
    layer_output,
    node_of,
    nodes_before,
)
from xplique_dirpairs.plots.images import pixel_limits

#: Label of the cells that belong to no segment.
OUTSIDE = -1
#: Grey around a segment, as a share of the range of the pixels.
_GREY = 117.0 / 255.0
#: Number of positions of a mini-batch of K-Means.
_MINI_BATCH = 64


@dataclass(frozen=True, eq=False)
class Segments:
    """Segments of N images at L layers. `divide_images` returns them.

    Attributes
    ----------
    layer_names : tuple of L str
        The layers, from the first to the last.
    labels : tuple of L ndarray of shape (N, h, w), int
        Number of the segment of each cell within its image, from 0; −1 for cells in none.
    parents : tuple of L list of N ndarray of int
        For each segment of an image the number of the segment of the next layer that it lies in; −1
        for those of the last layer.
    images : ndarray of shape (N, height, width, C)
        The images.
    """

    layer_names: tuple[str, ...]
    labels: tuple[Array, ...]
    parents: tuple[list[Array], ...]
    images: Array

    def members(self, layer: int) -> Array:
        """Return image and number of each segment of a layer, (S, 2) int."""
        counts = [len(own) for own in self.parents[layer]]
        return np.array([(n, k) for n, count in enumerate(counts) for k in range(count)], int)

    def mask(self, layer: int, image: int, number: int) -> Array:
        """Return the pixels of a segment, (height, width) bool."""
        cells = (self.labels[layer][image] == number).astype(np.uint8)
        height, width = self.images.shape[1:3]
        pixels = cv2.resize(cells, (width, height), interpolation=cv2.INTER_NEAREST)
        return np.asarray(pixels.astype(bool))

    def pictures(self, layer: int, members: Array) -> Array:
        """Return segments as images of their own, (S, height, width, C) float32.

        Everything outside a segment is grey; its bounding box is enlarged to the size of an image,
        with bicubic interpolation.

        Parameters
        ----------
        layer : int
            Index of the layer.
        members : ndarray of shape (S, 2), int
            Image and number of each segment, rows of the method `members`.
        """
        low, high = pixel_limits(self.images)
        height, width = self.images.shape[1:3]
        pictures = np.empty((len(members), *self.images.shape[1:]), np.float32)
        for picture, (n, k) in zip(pictures, members, strict=True):
            mask = self.mask(layer, n, k)
            shown = np.where(mask[..., None], self.images[n], low + _GREY * (high - low))
            rows, columns = (np.flatnonzero(mask.any(axis=axis)) for axis in (1, 0))
            box = shown[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].astype(np.float32)
            large = cv2.resize(box, (width, height), interpolation=cv2.INTER_CUBIC)
            picture[:] = np.clip(large.reshape(picture.shape), low, high)
        return pictures


def divide_images(
    model: keras.Model,
    layers: Sequence[str],
    images: ArrayLike,
    *,
    cell: int = 8,
    compactness: float = 0.8,
    least: float = 0.001,
    batch_size: int = 32,
    random_state: int | None = 0,
    verbose: int = 1,
) -> Segments:
    """Divide images into segments by the features of several layers, from the last one down.

    The features of all layers are resized to cells of ``cell`` × ``cell`` pixels. At the last layer
    K-Means divides the cells of an image in two. Each segment is divided in two by SLIC on the
    features of the layer before, inside the segment, if the silhouette of two clusters of the whole
    image is larger than that of three; otherwise it is handed down as it is. (The published rule
    chooses the number at a knee of the silhouette over 2 and 3, which is never 3.)

    Parameters
    ----------
    model : keras.Model
        The network.
    layers : sequence of str
        Names of layers with feature maps or tokens, in the order in which images pass them.
    images : array-like of shape (N, height, width, C)
        N images, preprocessed for the network.
    cell : int, default=8
        Side of a cell in pixels.
    compactness : float, default=0.8
        Weight of the distance in space of SLIC.
    least : float, default=0.001
        Segments with less than this share of the image are dropped.
    batch_size : int, default=32
        Number of images that pass through the network at a time.
    random_state : int or None, default=0
        Seed of K-Means.
    verbose : int, default=1
        A progress bar is shown unless this is 0.

    Returns
    -------
    segments : Segments

    Raises
    ------
    TypeError, ValueError
        If the model has no such layer, layers are in another order, or an argument does not fit.
    """
    images = check_images(images)
    check_keras_model("model", model)
    check_integer("cell", cell)
    check_integer("batch_size", batch_size)
    check_number("compactness", compactness, above=0.0)
    check_number("least", least, minimum=0.0)
    names = [layers] if isinstance(layers, str) else list(layers)
    if not names:
        raise ValueError("layers must name at least one layer")
    outputs = [layer_output(model, name) for name in names]
    for lower, upper in pairwise(range(len(names))):
        if node_of(outputs[lower]) not in nodes_before(outputs[upper]):
            raise ValueError(
                f"layers must be in the order in which images pass them, but {names[lower]!r} does "
                f"not come before {names[upper]!r}"
            )
    grid = tuple(max(1, length // cell) for length in images.shape[1:3])
    if grid == (1, 1):
        raise ValueError(
            f"cell must be at most half the side of the images of {images.shape[1:3]} pixels, not "
            f"{cell}"
        )
    halves = [keras.Model(model.inputs[0], output) for output in outputs]
    rng = np.random.default_rng(random_state)
    labels = [np.full((len(images), *grid), OUTSIDE) for _ in names]
    parents: list[list[Array]] = [[] for _ in names]
    parts = list(slices(len(images), batch_size))
    for part in progress(parts, len(parts), "dividing images", verbose, "batch"):
        batch = images[part]
        features = [list(_resized(compute_activations(half, batch), grid)) for half in halves]
        for b in range(len(batch)):
            maps = [own[b] for own in features]
            for n, (own, above) in enumerate(_divided(maps, compactness, least, rng)):
                labels[n][part.start + b] = own
                parents[n].append(above)
    return Segments(tuple(names), tuple(labels), tuple(parents), images)


def _resized(activations: Array, grid: tuple[int, ...]) -> Iterator[Array]:
    """Yield the feature map of each image, (h, w, D), resized bilinearly to a grid."""
    # Tokens form a map as they do in plots.
    for map_ in concept_maps(activations, (*grid, 1)):
        # OpenCV resizes at most 512 channels at a time.
        parts = [map_[..., part] for part in slices(map_.shape[-1], 512)]
        resized = [cv2.resize(np.ascontiguousarray(own), grid[::-1]) for own in parts]
        yield np.concatenate([own.reshape(*grid, -1) for own in resized], axis=-1)


def _divided(
    maps: list[Array], compactness: float, least: float, rng: np.random.Generator
) -> list[tuple[Array, Array]]:
    """Return labels (h, w) and parents of the segments of an image at each layer."""
    top = maps[-1]
    flat = top.reshape(-1, top.shape[-1])
    if np.ptp(flat, axis=0).any():
        seed = int(rng.integers(2**31))
        clusters = MiniBatchKMeans(2, batch_size=_MINI_BATCH, n_init=3, random_state=seed)
        first = clusters.fit_predict(flat).reshape(top.shape[:2])
    else:
        first = np.zeros(top.shape[:2], int)
    own, above = _numbered(first, np.full(first.shape, OUTSIDE), least)
    divided = [(own, above)]
    for features in maps[-2::-1]:
        is_divided = _two_clusters(features, rng)
        children = np.full(own.shape, OUTSIDE)
        for k in range(own.max() + 1):
            mask = own == k
            children[mask] = 2 * k
            if is_divided and mask.sum() > 1:
                children[mask] += _in_two(features, mask, compactness)
        own, above = _numbered(children, own, least)
        divided.insert(0, (own, above))
    return divided


def _two_clusters(features: Array, rng: np.random.Generator) -> bool:
    """Return whether the silhouette of two clusters is larger than that of three."""
    flat = features.reshape(-1, features.shape[-1])
    if len(np.unique(flat, axis=0)) < 4:
        return bool(np.ptp(flat, axis=0).any())
    scores = []
    for count in (2, 3):
        clusters = KMeans(count, n_init=1, random_state=int(rng.integers(2**31)))
        scores.append(silhouette_score(flat, clusters.fit_predict(flat)))
    return bool(scores[0] > scores[1])


def _in_two(features: Array, mask: Array, compactness: float) -> Array:
    """Return 0 or 1 for each cell of a mask, from SLIC on the features inside it."""
    if not np.ptp(features[mask], axis=0).any():
        return np.zeros(int(mask.sum()), int)
    found = slic(
        features.astype(np.float64), n_segments=2, compactness=compactness, mask=mask,
        channel_axis=-1, convert2lab=False, start_label=1,
    )[mask]  # fmt: skip
    # A cell that SLIC leaves out belongs to the first segment: nothing of the parent is lost.
    return np.asarray(np.clip(found, 1, 2) - 1)


def _numbered(labels: Array, parents: Array, least: float) -> tuple[Array, Array]:
    """Number segments that are large enough from 0; return labels (h, w) and parents (S,)."""
    numbered = np.full(labels.shape, OUTSIDE)
    above: list[int] = []
    for label in np.unique(labels[labels != OUTSIDE]):
        cells = labels == label
        if cells.mean() >= least:
            numbered[cells] = len(above)
            above.append(int(parents[cells][0]))
    return numbered, np.array(above, int)
