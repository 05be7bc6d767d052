"""What the network says of features whose concepts are moved, in compiled batches.

    x' = clip(x + (u' − u) B),   u'_p = clip(u_p + t, range)

with one shift t for each concept of an image; u − u' and the residual of x are not touched, so
that t = 0 gives the network's own output.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from xplique_dirpairs.data.activations import any_number
from xplique_dirpairs.interventions.coefficient_range import CoefficientRange
from xplique_dirpairs.models.head import Head

#: Floats of moved features held at a time, 16 MB.
CHUNK_FLOATS = 2**22


class MovedFeatures:
    """The head, seen from the shifts of concepts.

    Parameters
    ----------
    head : Head
    bank : (I, D)
    limits : (low, high)
        Of the layer. What a feature has beyond them already, it keeps.
    seen
        Range of the coefficients.

    Attributes
    ----------
    gram : (I, I)
        B Bᵀ.
    """

    def __init__(
        self, head: Head, bank: NDArray, limits: tuple[float, float], seen: CoefficientRange
    ) -> None:
        self.head, self.seen = head, seen
        self.gram = bank.astype(np.float64) @ bank.astype(np.float64).T
        self._bank = tf.constant(bank, tf.float32)
        self._limits = limits
        self._low = tf.constant(seen.low, tf.float32)
        self._high = tf.constant(seen.high, tf.float32)
        self._run = tf.function(self._outcome, reduce_retracing=True)
        self._run_slopes = tf.function(self._gap_and_slopes, reduce_retracing=True)
        self._run_features = tf.function(self._moved, reduce_retracing=True)

    # ---------------------------------------------------------------- numpy edge

    def outcomes(
        self, x: NDArray, u: NDArray, image: NDArray, shifts: NDArray
    ) -> tuple[NDArray, NDArray]:
        """Logits (r, K) float64 and ‖x' − x‖_F (r,), of r rows of shifts of r images.

        Parameters
        ----------
        x : (n, *S, D)
        u : (n, *S, I)
        image : (r,) int
            Which image each row is about.
        shifts : (r, I)
        """
        parts = [
            [
                part.numpy()
                for part in any_number(
                    self._run, x[image[rows]], u[image[rows]], shifts[rows].astype(np.float32)
                )
            ]
            for rows in self._chunks(len(image), x)
        ]
        logits, norms = (
            np.concatenate(column).astype(np.float64) for column in zip(*parts, strict=True)
        )
        return logits, norms

    def gaps_and_slopes(
        self, x: NDArray, u: NDArray, image: NDArray, shifts: NDArray, gap: NDArray
    ) -> tuple[NDArray, NDArray]:
        """A gap (r,), and its slopes (r, I) in the shifts.

        Parameters
        ----------
        gap : (r, 2) int
            The class that is to win, and the one it is to win against; −1: against all others.
        """
        parts = [
            [
                part.numpy()
                for part in any_number(
                    self._run_slopes,
                    x[image[rows]],
                    u[image[rows]],
                    shifts[rows].astype(np.float32),
                    gap[rows],
                )
            ]
            for rows in self._chunks(len(image), x)
        ]
        gaps, slopes = (
            np.concatenate(column).astype(np.float64) for column in zip(*parts, strict=True)
        )
        return gaps, slopes

    def features(self, x: NDArray, u: NDArray, shifts: NDArray) -> NDArray:
        """x', (n, *S, D) float32; as much as this is held in memory."""
        parts = [
            any_number(
                self._run_features, x[rows], u[rows], shifts[rows].astype(np.float32)
            ).numpy()
            for rows in self._chunks(len(x), x)
        ]
        return np.concatenate(parts)

    def _chunks(self, count: int, x: NDArray) -> Iterator[slice]:
        at_once = max(1, CHUNK_FLOATS // x[0].size)
        for start in range(0, count, at_once):
            yield slice(start, min(start + at_once, count))

    # ---------------------------------------------------------------- tensors

    def _moved(self, x: tf.Tensor, u: tf.Tensor, shifts: tf.Tensor) -> tf.Tensor:
        x, u = tf.cast(x, tf.float32), tf.cast(u, tf.float32)
        spread = tf.reshape(
            shifts, tf.concat([tf.shape(u)[:1], tf.ones([u.shape.rank - 2], tf.int32), [-1]], 0)
        )
        low, high = tf.minimum(u, self._low), tf.maximum(u, self._high)
        change = tf.clip_by_value(u + spread, low, high) - u
        moved = x + tf.tensordot(change, self._bank, axes=1)
        # the limits widen to what is there: untouched features stay as they are
        return tf.clip_by_value(
            moved, tf.minimum(x, self._limits[0]), tf.maximum(x, self._limits[1])
        )

    def _logits(self, features: tf.Tensor) -> tf.Tensor:
        """(n, K) float32, K ≥ 2: one sigmoid output is a two-class network."""
        outputs = tf.cast(self.head.outputs(features), tf.float32)
        if self.head.ends_in == "linear":
            logits = outputs
        else:
            tiny = np.finfo(np.float32).tiny
            logits = tf.math.log(tf.maximum(outputs, tiny))
            if self.head.ends_in == "sigmoid":
                logits -= tf.math.log(tf.maximum(1.0 - outputs, tiny))
        return tf.concat([tf.zeros_like(logits), logits], 1) if logits.shape[1] == 1 else logits

    def _outcome(self, x: tf.Tensor, u: tf.Tensor, shifts: tf.Tensor):
        moved = self._moved(x, u, shifts)
        axes = list(range(1, moved.shape.rank))
        return self._logits(moved), tf.sqrt(tf.reduce_sum((moved - x) ** 2, axis=axes))

    def _gap_and_slopes(self, x: tf.Tensor, u: tf.Tensor, shifts: tf.Tensor, gap: tf.Tensor):
        with tf.GradientTape() as tape:
            tape.watch(shifts)
            logits = self._logits(self._moved(x, u, shifts))
            wins = tf.gather(logits, gap[:, 0], axis=1, batch_dims=1)
            row = tf.range(tf.shape(logits)[0])
            own = tf.stack([row, gap[:, 0]], axis=1)
            low = tf.fill(tf.shape(row), -np.inf)
            strongest = tf.reduce_max(tf.tensor_scatter_nd_update(logits, own, low), axis=1)
            one = tf.gather(logits, tf.maximum(gap[:, 1], 0), axis=1, batch_dims=1)
            gaps = wins - tf.where(gap[:, 1] < 0, strongest, one)
        return gaps, tape.gradient(gaps, shifts)


def _columns(parts: list[list[NDArray]]) -> tuple[NDArray, NDArray]:
    first, second = (np.concatenate(part).astype(np.float64) for part in zip(*parts, strict=True))
    return first, second
