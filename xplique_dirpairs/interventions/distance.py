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
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import ArrayLike
from sklearn.neighbors import NearestNeighbors

from xplique_dirpairs.core.batching import as_positions, chunk_size, iter_blocks, slices
from xplique_dirpairs.core.linear_algebra import principal_axes
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
        return Distances(*(getattr(self, field.name)[[index]] for field in fields(self)))

    @property
    def percentile(self) -> Array:
        """The larger of the two percentiles, (N,)."""
        return np.asarray(np.maximum(self.positions_percentile, self.image_percentile))


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
        self._mean, self._whitening = _whitening(as_positions(x))
        sample = np.arange(len(x))
        if len(x) > MOST_NEIGHBOURS:
            sample = np.sort(rng.permutation(len(x))[:MOST_NEIGHBOURS])
        positions, means = np.empty(len(sample)), np.empty((len(sample), x.shape[-1]))
        for rows in slices(len(sample), chunk_size(x[0].size)):
            batch = x[sample[rows]]
            means[rows] = _means(batch)
            positions[rows] = _leaving_out(self._whitened(batch), x[..., 0].size)
        self._neighbours = NearestNeighbors(n_neighbors=1, algorithm="brute").fit(means)
        nearest = self._neighbours.kneighbors()[0][:, 0]  # of each, another one
        self._sorted = np.sort(positions), np.sort(nearest)
        self.training = self._ranked(positions, nearest)

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
            # ‖Λ^(−½) Vᵀ (x − E[x])‖ / sqrt(D), in the root mean square over positions.
            positions[rows] = np.sqrt((self._whitened(x) ** 2).mean(axis=(1, 2), dtype=np.float64))
            image[rows] = self._neighbours.kneighbors(_means(x))[0][:, 0]
        return self._ranked(positions, image)

    def _whitened(self, x: Array) -> Array:
        """Return Λ^(−½) Vᵀ (x − E[x]) of every position, (n, P, D)."""
        whitened: Array = (as_positions(x) - self._mean) @ self._whitening
        return whitened.reshape(len(x), -1, x.shape[-1])

    def _ranked(self, positions: Array, image: Array) -> Distances:
        ranks = [
            100.0 * np.searchsorted(known, values) / len(known)
            for known, values in zip(self._sorted, (positions, image), strict=True)
        ]
        return Distances(positions, image, *ranks)


def _whitening(positions: Array) -> tuple[Array, Array]:
    """Return E[x] (D,) and V Λ^(−½) (D, D), float32, of the positions' covariance V Λ Vᵀ."""
    channels = positions.shape[1]
    mean = positions.mean(axis=0, dtype=np.float64).astype(np.float32)
    covariance = np.zeros((channels, channels))
    for block in iter_blocks(positions, chunk_size(channels)):
        centred = block - mean
        covariance += centred.T @ centred
    axes, variances = principal_axes(covariance / len(positions))
    average = max(float(variances.mean()), float(np.finfo(np.float32).tiny))
    floored = np.maximum(variances, VARIANCE_FLOOR * average)
    return mean, (axes.T / np.sqrt(floored)).astype(np.float32)


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
    share = (1 - positions / total) / (positions * channels)
    return np.asarray(np.sqrt(share * squares.sum(axis=1)))


def _means(x: Array) -> Array:
    """Return means over positions, (n, D) float64."""
    return np.asarray(x.reshape(len(x), -1, x.shape[-1]).mean(axis=1, dtype=np.float64))
