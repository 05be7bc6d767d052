"""Measure the distance of features to the training features.

There are two distances, because features can differ from the data in two ways:

``positions``
    Root mean square, over the positions of an image, of the Mahalanobis distance to the training
    positions, divided by √D for D channels. It is large if single positions differ from all
    training positions: if they were moved across the principal axes along which features vary, or
    far along them.
``image``
    Euclidean distance from the mean over an image's positions to the nearest such mean of a
    training image. It is large if the image as a whole differs from all training images, even if
    each of its positions is ordinary.

The second distance is to the nearest neighbour, not a Mahalanobis distance, because images form
clusters (their classes), and points between two clusters are near the common mean. The first one
uses a covariance, because there are too many positions to store, and enough to estimate it. In a
layer without positions, both distances compare the same vectors.

Each distance is also given as a percentile of the training images' own distances. These are
measured in the same way, but with the image itself left out of the neighbours and the covariance:
in a layer with many channels, any image is near to data that contain it.
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

#: Largest number of training images that serve as neighbours and whose own distances are measured.
#: If there are more images, a random sample is drawn; the covariance is always that of all images.
MOST_NEIGHBOURS = 2000
#: Variances of principal axes are raised to at least this share of their mean. Otherwise rounding
#: errors would be infinitely far along axes without variance (channels that are always 0).
VARIANCE_FLOOR = 1e-3


@dataclass(frozen=True, eq=False)
class Distances:
    """Distances of N images to the training features, and how many training images are nearer.

    Attributes
    ----------
    positions : ndarray of shape (N,)
        Root mean square, over the positions of an image, of the Mahalanobis distance to the
        training positions, divided by √D for D channels.
    image : ndarray of shape (N,)
        Euclidean distance from the mean over the positions of an image to the nearest such mean of
        a training image.
    positions_percentile : ndarray of shape (N,)
        Percentage of the training images whose distance ``positions`` is smaller.
    image_percentile : ndarray of shape (N,)
        Percentage of the training images whose distance ``image`` is smaller.
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
    """Distances of features to the training features of a layer, by position and by image.

    Calling it with the activations of images returns their `Distances`, an object with two
    distances, arrays of shape (N,) for N images:

    - ``positions``: the root mean square, over the positions of an image, of the Mahalanobis
      distance to the training positions, divided by √D;
    - ``image``: the Euclidean distance from the mean over an image's positions to the nearest such
      mean of a training image.

    ``positions_percentile`` and ``image_percentile`` are the percentages of the training images
    with smaller distances (those of a training image are measured to the other ones), and
    ``percentile`` is the larger of the two percentages. Below, D is the number of channels, and
    ``*S`` the shape of the positions: (H, W) for feature maps, (T,) for T tokens, and empty for
    vectors.

    Parameters
    ----------
    activations : array-like of shape (M, *S, D)
        Features of M ≥ 2 training images.
    random_state : int or None, default=0
        If there are more than 2000 training images: seed of the random sample of 2000 that serve as
        nearest neighbours and whose own distances are measured. None: a random seed.

    Attributes
    ----------
    training : Distances
        Distances of the training images (of at most 2000), each measured to the other ones.

    Raises
    ------
    ValueError
        If there are fewer than 2 images, or values are not finite.
    """

    def __init__(self, activations: ArrayLike, random_state: int | None = 0) -> None:
        x = check_activations(activations)
        if len(x) < 2:
            raise ValueError("give at least 2 training images: each is compared with the others")
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
        nearest = self._neighbours.kneighbors()[0][:, 0]  # an image is no neighbour of itself
        self._sorted = np.sort(positions), np.sort(nearest)
        self.training = self._ranked(positions, nearest)

    def __call__(self, activations: ArrayLike) -> Distances:
        """Compute the distances of activations of the same layer.

        Parameters
        ----------
        activations : array-like of shape (N, *S, D)
            Features of N images, with the channels and positions of the training images.

        Returns
        -------
        distances : Distances
            Distances of the N images, with the attributes that the class describes.

        Raises
        ------
        ValueError
            If the number of channels is not that of the training features.
        """
        x = check_activations(activations)
        if x.shape[-1] != len(self._mean):
            raise ValueError(
                f"activations must have {len(self._mean)} channels, as in training, not {x.shape}"
            )
        return self.of_moved(len(x), lambda rows: x[rows], x[0].size)

    def of_moved(self, count: int, features: Callable[[slice], Array], size: int) -> Distances:
        """Compute the distances of features that do not fit in memory together.

        Parameters
        ----------
        count : int
            Number of images, N.
        features : callable
            Function that takes a slice of the N images and returns their features, (n, *S, D): n
            images, positions of shape ``*S``, D channels.
        size : int
            Number of values in the features of one image, which sets how many images are asked for
            at a time.

        Returns
        -------
        distances : Distances
            Distances of the N images, with the attributes that the class describes.
        """
        positions, image = np.empty(count), np.empty(count)
        for rows in slices(count, chunk_size(size)):
            x = features(rows)
            # This is the root mean square over positions of ‖Λ^(−½) Vᵀ (x − E[x])‖ / sqrt(D).
            positions[rows] = np.sqrt((self._whitened(x) ** 2).mean(axis=(1, 2), dtype=np.float64))
            image[rows] = self._neighbours.kneighbors(_means(x))[0][:, 0]
        return self._ranked(positions, image)

    def _whitened(self, x: Array) -> Array:
        """Compute Λ^(−½) Vᵀ (x − E[x]) at every position, (n, *S, D) → (n, P, D)."""
        whitened: Array = (as_positions(x) - self._mean) @ self._whitening
        return whitened.reshape(len(x), -1, x.shape[-1])

    def _ranked(self, positions: Array, image: Array) -> Distances:
        ranks = [
            100.0 * np.searchsorted(known, values) / len(known)
            for known, values in zip(self._sorted, (positions, image), strict=True)
        ]
        return Distances(positions, image, *ranks)


def _whitening(positions: Array) -> tuple[Array, Array]:
    """Compute E[x] (D,) and V Λ^(−½) (D, D), float32, for the covariance V Λ Vᵀ of positions."""
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
    """Compute Mahalanobis distances of training images, with the covariance of the other images.

    Without an image's own P positions Z (whitened with all images), the covariance is that of all
    images minus ZᵀZ/total. By Woodbury's identity, the sum of the squared distances is then

        (1 − P/total) Σ_j λ_j / (1 − λ_j/total),   with the eigenvalues λ_j of ZZᵀ.

    The mean remains that of all images.

    Parameters
    ----------
    z : ndarray of shape (n, P, D)
        Whitened features of n images.
    total : int
        Number of positions of all training images.

    Returns
    -------
    distances : ndarray of shape (n,)
        Root mean square of the distance over positions.
    """
    z = z.astype(np.float64)
    positions, channels = z.shape[1:]
    gram = z @ z.transpose(0, 2, 1) if positions <= channels else z.transpose(0, 2, 1) @ z
    own = np.maximum(np.linalg.eigvalsh(gram), 0.0)
    # If only this image varies along an axis, it is far from the others, but not infinitely far.
    squares = own / np.maximum(1.0 - own / total, 1e-3)
    share = (1 - positions / total) / (positions * channels)
    return np.asarray(np.sqrt(share * squares.sum(axis=1)))


def _means(x: Array) -> Array:
    """Compute means over positions, (n, *S, D) → (n, D) float64."""
    return np.asarray(x.reshape(len(x), -1, x.shape[-1]).mean(axis=1, dtype=np.float64))
