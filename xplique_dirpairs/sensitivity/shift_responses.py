"""What a network answers when every position of an image is shifted by one vector v.

    Δ_k(X, v) = log p_k(X + v) − log p_k(X)

in nats, p by log-softmax (by log-sigmoid where outputs are independent of one another). Two
responses give the same statistics of it:

- `LinearResponse`, of a head that is linear in its features, pooled first or not: in closed form.
  The logits move by δ = V v, whatever the image, and Δ_k = δ_k − log Σ_j p_j(X) e^{δ_j}: the sum is
  one matrix product for all images and vectors, and nothing passes through the network.
- `PassedResponse`, of any other: one pass of the shifted features gives all classes at once.

Images count for their own class, or, without labels, for every class.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import log_expit, log_softmax

from xplique_dirpairs.core.batching import CHUNK_FLOATS

#: e^δ is taken in float64, which ends at e^709: logits that move further apart go another way.
_WIDEST_MOVE = 600.0


class ShiftStatistics(NamedTuple):
    """Over the images of each class, (M, K) each; NaN for classes without images.

    Attributes
    ----------
    scores
        SC = mean[1(Δ > tie) − 1(Δ < −tie)], in [−1, 1].
    changes
        Mean Δ, in nats.
    """

    scores: NDArray
    changes: NDArray


@dataclass(frozen=True, eq=False)
class ShiftResponse:
    """What both responses have in common.

    Parameters
    ----------
    logits : (N, K)
        Of the intact images.
    labels : (N,) int, or None
        Class of each image. None: images count for every class.
    tie
        |Δ| up to which the class counts as left alone.
    final_activation
        "softmax" or "sigmoid".
    """

    logits: NDArray
    labels: NDArray | None
    tie: float
    final_activation: str

    @cached_property
    def images(self) -> NDArray:
        """Number of images that count for each class, (K,)."""
        images, classes = self.logits.shape
        if self.labels is None:
            return np.full(classes, images)
        return np.bincount(self.labels, minlength=classes)

    @cached_property
    def log_p(self) -> NDArray:
        """log p_k of the intact images, (N, K)."""
        return self.log_probabilities(self.logits.astype(np.float64))

    def log_probabilities(self, logits: NDArray) -> NDArray:
        """log p_k, (..., K)."""
        if self.final_activation == "softmax":
            return log_softmax(logits, axis=-1)
        return log_expit(logits)

    def signs(self, changes: NDArray) -> NDArray:
        """1(Δ > tie) − 1(Δ < −tie)."""
        return (changes > self.tie).astype(np.float64) - (changes < -self.tie)

    def means(self, signs: NDArray, changes: NDArray) -> ShiftStatistics:
        """Sums over the images of each class, (M, K) → means."""
        count = np.where(self.images > 0, self.images, np.nan)
        return ShiftStatistics(signs / count, changes / count)


@dataclass(frozen=True, eq=False)
class LinearResponse(ShiftResponse):
    """Of a head whose logits are linear in the features (averaged over positions, or not).

    Parameters
    ----------
    class_rows : (K, D)
        V: each class's weights.
    """

    class_rows: NDArray

    #: Shifts that are best asked for at a time: many, for the matrix product.
    at_once = 64

    @cached_property
    def _by_class(self) -> tuple[LinearResponse, NDArray, NDArray]:
        """Images sorted by class, the classes there are, and where each begins."""
        assert self.labels is not None
        order = np.argsort(self.labels, kind="stable")
        classes, first = np.unique(self.labels[order], return_index=True)
        ordered = replace(self, logits=self.logits[order], labels=self.labels[order])
        return ordered, classes, first

    def changes(self, shifts: NDArray) -> NDArray:
        """Δ of M shifts (M, D) of every image in every class, (M, N, K)."""
        moves = self._moves(shifts)
        return self.log_probabilities(self.logits + moves[:, None]) - self.log_p

    def statistics(self, shifts: NDArray, live: NDArray | None = None) -> ShiftStatistics:
        """Statistics of M shifts (M, D); ``live`` (K,) says which classes are wanted at least."""
        moves = self._moves(shifts)
        images, classes = self.logits.shape
        step = max(1, CHUNK_FLOATS // max(images, classes))
        parts = [self._of_moves(moves[at : at + step]) for at in range(0, len(moves), step)]
        return ShiftStatistics(*(np.concatenate(part) for part in zip(*parts, strict=True)))

    def _moves(self, shifts: NDArray) -> NDArray:
        return np.asarray(shifts, np.float64) @ self.class_rows.T.astype(np.float64)

    def _of_moves(self, moves: NDArray) -> ShiftStatistics:
        if self.labels is not None:
            ordered, classes, first = self._by_class
            changes = ordered._changes_of_own_class(moves)
            sums = np.zeros((2, *moves.shape))
            for total, values in zip(sums, (self.signs(changes), changes), strict=True):
                total[:, classes] = np.add.reduceat(values, first, axis=1)
            return self.means(*sums)
        if self._exponentials_fit(moves):
            return self._of_all_images(moves)
        sums = np.zeros((2, *moves.shape))
        for total, move in zip(sums.swapaxes(0, 1), moves, strict=True):
            changes = self.log_probabilities(self.logits + move) - self.log_p
            total[:] = self.signs(changes).sum(axis=0), changes.sum(axis=0)
        return self.means(*sums)

    def _exponentials_fit(self, moves: NDArray) -> bool:
        softmax = self.final_activation == "softmax"
        return softmax and bool(np.ptp(moves, axis=1).max() <= _WIDEST_MOVE)

    def _partition(self, moves: NDArray) -> NDArray:
        """c = log Σ_j p_j(X) e^{δ_j}, (M, N)."""
        highest = moves.max(axis=1, keepdims=True)
        return np.log(np.exp(moves - highest) @ self._probabilities.T) + highest

    @cached_property
    def _probabilities(self) -> NDArray:
        return np.exp(self.log_p)

    def _changes_of_own_class(self, moves: NDArray) -> NDArray:
        """Δ of each image's own class, (M, N)."""
        image = np.arange(len(self.logits))
        own = moves[:, self.labels]
        if self._exponentials_fit(moves):
            return own - self._partition(moves)
        if self.final_activation == "sigmoid":
            before = self.logits[image, self.labels]
            return log_expit(before + own) - log_expit(before)
        after = [self.log_probabilities(self.logits + move)[image, self.labels] for move in moves]
        return np.stack(after) - self.log_p[image, self.labels]

    def _of_all_images(self, moves: NDArray) -> ShiftStatistics:
        """Of a softmax: Δ > tie where c < δ − tie, so sorted c count the images of all classes."""
        partition = np.sort(self._partition(moves), axis=1)
        count = partition.shape[1]
        signs = np.empty(moves.shape)
        for row, c, move in zip(signs, partition, moves, strict=True):
            helped = np.searchsorted(c, move - self.tie, side="left")
            hurt = count - np.searchsorted(c, move + self.tie, side="right")
            row[:] = helped - hurt
        return self.means(signs, count * (moves - partition.mean(axis=1, keepdims=True)))


@dataclass(frozen=True, eq=False)
class PassedResponse(ShiftResponse):
    """Of any head, by passes of the shifted features.

    Parameters
    ----------
    features : (N, *S, D)
        As ``predict`` takes them.
    predict
        (n, *S, D) float32 → logits (n, K).
    """

    features: NDArray
    predict: Callable[[NDArray], NDArray]

    #: Few: what is passed after a test has ended is lost.
    at_once = 16

    def changes(self, shifts: NDArray) -> NDArray:
        """Δ of M shifts (M, D) of every image in every class, (M, N, K)."""
        images = np.arange(len(self.features))
        found = [part for _, _, part in self._passes(shifts, images)]
        return np.concatenate(found).reshape(len(shifts), *self.logits.shape)

    def statistics(self, shifts: NDArray, live: NDArray | None = None) -> ShiftStatistics:
        """Statistics of M shifts (M, D); of ``live`` classes (K,) alone, where images are theirs.

        Images of other classes are not passed through the network; those classes come out as 0.
        """
        images = np.arange(len(self.features))
        if self.labels is not None and live is not None:
            images = images[live[self.labels]]
        sums = np.zeros((2, len(shifts), self.logits.shape[1]))
        for vector, image, changes in self._passes(shifts, images):
            both = self.signs(changes), changes
            for total, values in zip(sums, both, strict=True):
                if self.labels is None:
                    starts = np.flatnonzero(np.diff(vector, prepend=-1))
                    total[vector[starts]] += np.add.reduceat(values, starts, axis=0)
                else:
                    own = self.labels[image]
                    np.add.at(total, (vector, own), values[np.arange(len(own)), own])
        return self.means(*sums)

    def _passes(
        self, shifts: NDArray, images: NDArray
    ) -> Iterator[tuple[NDArray, NDArray, NDArray]]:
        """Index of the vector, index of the image, and Δ (n, K), a batch at a time."""
        shifts = np.asarray(shifts, np.float32)
        rows_at_once = max(1, CHUNK_FLOATS // max(self.features[0].size, self.logits.shape[1]))
        positions = [1] * (self.features.ndim - 2)
        for start in range(0, len(shifts) * len(images), rows_at_once):
            rows = np.arange(start, min(start + rows_at_once, len(shifts) * len(images)))
            vector, place = np.divmod(rows, len(images))
            image = images[place]
            moved = self.features[image]
            moved += shifts[vector].reshape(len(rows), *positions, shifts.shape[1])
            after = np.asarray(self.predict(moved), np.float64)
            yield vector, image, self.log_probabilities(after) - self.log_p[image]
