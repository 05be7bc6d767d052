"""How far features are from those seen in training.

Two distances, because features can be unlike the data in two ways:

``positions``
    Root mean square over an image's positions of the Mahalanobis distance to the training
    positions, in principal axes. Far where single positions are unlike any seen: moved across the
    axes along which features vary, or out of their range.
``image``
    Euclidean distance of an image's mean over positions to the nearest training image's. Far where
    the amounts of everything are unlike those of any image, although each position is ordinary.

Of the image it is the nearest neighbour and not one more Mahalanobis distance: images come in
clusters, their classes, and what lies between two clusters is near the common mean. Of positions
there are too many to keep, and enough for a covariance. For a layer without positions both are of
the same vectors.

Each is given as it is and as a percentile of the training images' own distances, measured the same
way, each image without itself: its nearest neighbour is another one, and the covariance is of the
others. In a layer of many channels any image would look near to data that it is part of.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from xplique_dirpairs.core.batching import as_positions
from xplique_dirpairs.core.validation import check_activations, check_random_state

#: Training images that are neighbours, and whose own distances are measured, at most; beyond, a
#: random sample. The covariance is of all.
MOST_NEIGHBOURS = 2000
#: Variances of principal axes count as no less than this share of their mean: along axes without
#: variance (channels that are always 0) any rounding would be infinitely far.
VARIANCE_FLOOR = 1e-3
#: Floats of a batch of features, 16 MB.
_CHUNK_FLOATS = 2**22


@dataclass(frozen=True, eq=False)
class Distances:
    """Distances of N images to the training features, and where they rank among training images.

    Attributes
    ----------
    positions, image : (N,)
        See the module.
    positions_percentile, image_percentile : (N,)
        Share of the training images with a smaller distance, in percent, 0 to 100.
    """

    positions: NDArray
    image: NDArray
    positions_percentile: NDArray
    image_percentile: NDArray

    @property
    def percentile(self) -> NDArray:
        """The larger of the two percentiles, (N,)."""
        return np.maximum(self.positions_percentile, self.image_percentile)


class TrainingDistance:
    """Distance of features to a layer's training features.

    Parameters
    ----------
    activations : (N, *S, D)
        Of training images, at least 2.
    random_state
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
        some = np.arange(len(x))
        if len(x) > MOST_NEIGHBOURS:
            some = np.sort(rng.permutation(len(x))[:MOST_NEIGHBOURS])
        self._neighbours = np.concatenate([_means(x[some[rows]]) for rows in _chunks(x, len(some))])
        total = x[..., 0].size
        parts = [
            _leaving_out(self._whitened(x[some[rows]]), total) for rows in _chunks(x, len(some))
        ]
        nearest = np.concatenate(
            [
                _nearest(self._neighbours[rows], self._neighbours, rows.start)
                for rows in _row_chunks(len(some), len(some))
            ]
        )
        self._sorted = np.sort(np.concatenate(parts)), np.sort(nearest)
        self.training = self._ranked(np.concatenate(parts), nearest)

    def __call__(self, activations: ArrayLike) -> Distances:
        """Distances of activations (N, *S, D) of the same layer.

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

    def of_moved(self, count: int, features: Callable[[slice], NDArray], size: int) -> Distances:
        """Distances of features that are made part by part.

        Parameters
        ----------
        count
            N.
        features
            Of a slice of the images, (n, *S, D).
        size
            Floats of one image's features.
        """
        positions, image = np.empty(count), np.empty(count)
        at_once = max(1, _CHUNK_FLOATS // size)
        for start in range(0, count, at_once):
            rows = slice(start, min(start + at_once, count))
            x = features(rows)
            positions[rows] = self._mahalanobis(x)
            means = _means(x)
            for part in _row_chunks(len(means), len(self._neighbours)):
                image[start + part.start : start + part.stop] = _nearest(
                    means[part], self._neighbours
                )
        return self._ranked(positions, image)

    @property
    def limits_99(self) -> tuple[float, float]:
        """99th percentiles of the training images' distances: of positions, of the image."""
        positions, image = (float(np.quantile(values, 0.99)) for values in self._sorted)
        return positions, image

    def _whitened(self, x: NDArray) -> NDArray:
        """Λ^(−½) Vᵀ (x − E[x]) of every position, (n, P, D)."""
        return ((as_positions(x) - self._mean) @ self._whitening).reshape(len(x), -1, x.shape[-1])

    def _mahalanobis(self, x: NDArray) -> NDArray:
        """Root mean square over positions, (n,), of ‖Λ^(−½) Vᵀ (x − E[x])‖ / sqrt(D)."""
        z = self._whitened(x)
        return np.sqrt(np.einsum("npd,npd->n", z, z, dtype=np.float64) / z[0].size)

    def _ranked(self, positions: NDArray, image: NDArray) -> Distances:
        ranks = [
            100.0 * np.searchsorted(known, values) / len(known)
            for known, values in zip(self._sorted, (positions, image), strict=True)
        ]
        return Distances(positions, image, *ranks)


def _whitening(x: NDArray) -> tuple[NDArray, NDArray]:
    """E[x] (D,) and V Λ^(−½) (D, D), float32, of the positions' covariance V Λ Vᵀ."""
    channels = x.shape[-1]
    total, count = np.zeros(channels), 0
    for rows in _chunks(x, len(x)):
        pixels = as_positions(x[rows])
        total += pixels.sum(axis=0, dtype=np.float64)
        count += len(pixels)
    mean = (total / count).astype(np.float32)
    covariance = np.zeros((channels, channels))
    for rows in _chunks(x, len(x)):
        centred = as_positions(x[rows]) - mean
        covariance += centred.T @ centred
    variances, axes = np.linalg.eigh(covariance / count)
    average = max(float(variances.mean()), float(np.finfo(np.float32).tiny))
    floored = np.maximum(variances, VARIANCE_FLOOR * average)
    return mean, (axes / np.sqrt(floored)).astype(np.float32)


def _leaving_out(z: NDArray, total: int) -> NDArray:
    """`TrainingDistance._mahalanobis` of training images, the covariance being of the others.

    Without the image's own positions Z (P of them, whitened by all) the covariance is that of all
    less ZᵀZ/total, so that the sum of the squared distances is, by Woodbury's identity,

        (1 − P/total) Σ_j λ_j / (1 − λ_j/total),   λ the eigenvalues of ZZᵀ.

    The mean stays that of all.

    Parameters
    ----------
    z : (n, P, D)
    total
        Positions of all training images.
    """
    z = z.astype(np.float64)
    positions, channels = z.shape[1:]
    gram = z @ z.transpose(0, 2, 1) if positions <= channels else z.transpose(0, 2, 1) @ z
    own = np.maximum(np.linalg.eigvalsh(gram), 0.0)
    # an axis that no other image has: far, not infinitely
    squares = own / np.maximum(1.0 - own / total, 1e-3)
    return np.sqrt((1 - positions / total) * squares.sum(axis=1) / (positions * channels))


def _means(x: NDArray) -> NDArray:
    """Mean over positions, (n, D) float64."""
    return x.reshape(len(x), -1, x.shape[-1]).mean(axis=1, dtype=np.float64)


def _nearest(means: NDArray, known: NDArray, own: int | None = None) -> NDArray:
    """Distance of each row to the nearest of ``known``; ``own``: where the rows are among them."""
    squares = (means**2).sum(axis=1)[:, None] + (known**2).sum(axis=1) - 2.0 * (means @ known.T)
    if own is not None:
        squares[np.arange(len(means)), own + np.arange(len(means))] = np.inf
    return np.sqrt(np.maximum(squares.min(axis=1), 0.0))


def _chunks(x: NDArray, count: int) -> Iterator[slice]:
    return _row_chunks(count, x[0].size)


def _row_chunks(count: int, size: int) -> Iterator[slice]:
    at_once = max(1, _CHUNK_FLOATS // size)
    for start in range(0, count, at_once):
        yield slice(start, min(start + at_once, count))
