"""Distance of features to the training features.

There are two distances, because features can be unlike the data in two ways:

``positions``
    Root mean square over an image's positions of the Mahalanobis distance to the training
    positions, in principal axes. Far where single positions are unlike any seen: moved across the
    axes along which features vary, or out of their range.
``image``
    Euclidean distance of an image's mean over positions to the nearest training image's. Far where
    the amounts of everything are unlike those of any image, although each position is ordinary.

Of the image it is the nearest neighbour and not one more Mahalanobis distance: images come in
clusters, their classes, and what lies between two clusters is near the common mean. Of positions
there are too many to keep, and enough for a covariance. In a layer without positions both distances
are of the same vectors.

Each distance is also given as a percentile of the training images' own distances, measured the same
way, each image without itself: its nearest neighbour is another one, and the covariance is of the
others. In a layer of many channels any image would look near to data that it is part of.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from xplique_dirpairs.core.batching import as_positions, chunk_size, slices
from xplique_dirpairs.core.types import Array
from xplique_dirpairs.core.validation import check_activations, check_random_state

#: Training images that serve as neighbours, and whose own distances are measured, at most: of more
#: images a random sample. The covariance is of all.
MOST_NEIGHBOURS = 2000
#: Variances of principal axes count as no less than this share of their mean: along axes without
#: variance (channels that are always 0) any rounding would be infinitely far.
VARIANCE_FLOOR = 1e-3


@dataclass(frozen=True, eq=False)
class Distances:
    """Distances of N images to the training features, and their rank among training images.

    Attributes
    ----------
    positions, image : ndarray of shape (N,)
        The two distances: see the module.
    positions_percentile, image_percentile : ndarray of shape (N,)
        Share of the training images with a smaller distance, in percent, 0 to 100.
    """

    positions: Array
    image: Array
    positions_percentile: Array
    image_percentile: Array

    def __getitem__(self, index: int) -> Distances:
        """Return the distances of one image."""
        return Distances(
            self.positions[[index]],
            self.image[[index]],
            self.positions_percentile[[index]],
            self.image_percentile[[index]],
        )

    @property
    def percentile(self) -> Array:
        """The larger of the two percentiles, (N,)."""
        return np.maximum(self.positions_percentile, self.image_percentile)


class TrainingDistance:
    """Distance of features to a layer's training features.

    Parameters
    ----------
    activations : array-like of shape (N, *S, D)
        Of training images, at least 2.
    random_state : int, default=0
        Of the sample of images, where there are more than `MOST_NEIGHBOURS`.

    Attributes
    ----------
    training : Distances
        Of the training images themselves (at most `MOST_NEIGHBOURS` of them).

    Raises
    ------
    ValueError
        If there are fewer than 2 images, or values are not finite.
    """

    def __init__(self, activations: ArrayLike, random_state: int | None = 0) -> None:
        x = check_activations(activations)
        if len(x) < 2:
            raise ValueError(
                "distances need at least 2 training images: each one's is to the others"
            )
        rng = check_random_state(random_state)
        self._mean, self._whitening = _whitening(x)
        sample = np.arange(len(x))
        if len(x) > MOST_NEIGHBOURS:
            sample = np.sort(rng.permutation(len(x))[:MOST_NEIGHBOURS])
        total, positions, means = x[..., 0].size, [], []
        for rows in slices(len(sample), chunk_size(x[0].size)):
            batch = x[sample[rows]]
            means.append(_means(batch))
            positions.append(_leaving_out(self._whitened(batch), total))
        self._neighbours = np.concatenate(means)
        nearest = self._nearest(self._neighbours, are_neighbours=True)
        self._sorted = np.sort(np.concatenate(positions)), np.sort(nearest)
        self.training = self._ranked(np.concatenate(positions), nearest)

    def __call__(self, activations: ArrayLike) -> Distances:
        """Return distances of activations (N, *S, D) of the same layer.

        Raises
        ------
        ValueError
            If they have other channels.
        """
        x = check_activations(activations)
        if x.shape[-1] != len(self._mean):
            raise ValueError(
                f"activations must have {len(self._mean)} channels, as in training, but have shape "
                f"{x.shape}"
            )
        return self.of_moved(len(x), lambda rows: x[rows], x[0].size)

    def of_moved(self, count: int, features: Callable[[slice], Array], size: int) -> Distances:
        """Return distances of features that are computed part by part.

        Parameters
        ----------
        count : int
            N.
        features : callable
            Features (n, *S, D) of a slice of the images.
        size : int
            Numbers in one image's features.
        """
        positions, image = np.empty(count), np.empty(count)
        for rows in slices(count, chunk_size(size)):
            x = features(rows)
            positions[rows] = self._mahalanobis(x)
            image[rows] = self._nearest(_means(x))
        return self._ranked(positions, image)

    def _whitened(self, x: Array) -> Array:
        """Return Λ^(−½) Vᵀ (x − E[x]) of every position, (n, P, D)."""
        return ((as_positions(x) - self._mean) @ self._whitening).reshape(len(x), -1, x.shape[-1])

    def _mahalanobis(self, x: Array) -> Array:
        """Return the root mean square over positions, (n,), of ‖Λ^(−½) Vᵀ (x − E[x])‖ / sqrt(D)."""
        z = self._whitened(x)
        return np.sqrt(np.einsum("npd,npd->n", z, z, dtype=np.float64) / z[0].size)

    def _nearest(self, means: Array, are_neighbours: bool = False) -> Array:
        """Return the distance of each row to its nearest neighbour; to another, of neighbours."""
        known, nearest = self._neighbours, []
        lengths = (known**2).sum(axis=1)
        for rows in slices(len(means), chunk_size(len(known))):
            part = means[rows]
            squares = (part**2).sum(axis=1)[:, None] + lengths - 2.0 * (part @ known.T)
            if are_neighbours:
                squares[np.arange(len(part)), np.arange(rows.start, rows.stop)] = np.inf
            nearest.append(np.sqrt(np.maximum(squares.min(axis=1), 0.0)))
        return np.concatenate(nearest)

    def _ranked(self, positions: Array, image: Array) -> Distances:
        ranks = [
            100.0 * np.searchsorted(known, values) / len(known)
            for known, values in zip(self._sorted, (positions, image), strict=True)
        ]
        return Distances(positions, image, *ranks)


def _whitening(x: Array) -> tuple[Array, Array]:
    """Return E[x] (D,) and V Λ^(−½) (D, D), float32, of the positions' covariance V Λ Vᵀ."""
    channels = x.shape[-1]
    total, count = np.zeros(channels), 0
    for rows in slices(len(x), chunk_size(x[0].size)):
        pixels = as_positions(x[rows])
        total += pixels.sum(axis=0, dtype=np.float64)
        count += len(pixels)
    mean = (total / count).astype(np.float32)
    covariance = np.zeros((channels, channels))
    for rows in slices(len(x), chunk_size(x[0].size)):
        centred = as_positions(x[rows]) - mean
        covariance += centred.T @ centred
    variances, axes = np.linalg.eigh(covariance / count)
    average = max(float(variances.mean()), float(np.finfo(np.float32).tiny))
    floored = np.maximum(variances, VARIANCE_FLOOR * average)
    return mean, (axes / np.sqrt(floored)).astype(np.float32)


def _leaving_out(z: Array, total: int) -> Array:
    """Return the Mahalanobis distances of training images, each to the covariance of the others.

    Without the image's own positions Z (P of them, whitened by all) the covariance is that of all
    minus ZᵀZ/total, so that the sum of the squared distances is, by Woodbury's identity,

        (1 − P/total) Σ_j λ_j / (1 − λ_j/total),   λ the eigenvalues of ZZᵀ.

    The mean stays that of all.

    Parameters
    ----------
    z : ndarray of shape (n, P, D)
    total : int
        Positions of all training images.
    """
    z = z.astype(np.float64)
    positions, channels = z.shape[1:]
    gram = z @ z.transpose(0, 2, 1) if positions <= channels else z.transpose(0, 2, 1) @ z
    own = np.maximum(np.linalg.eigvalsh(gram), 0.0)
    # Along an axis that no other image has, an image is far, but not infinitely so.
    squares = own / np.maximum(1.0 - own / total, 1e-3)
    return np.sqrt((1 - positions / total) * squares.sum(axis=1) / (positions * channels))


def _means(x: Array) -> Array:
    """Return means over positions, (n, D) float64."""
    return x.reshape(len(x), -1, x.shape[-1]).mean(axis=1, dtype=np.float64)
