"""Factorizations with non-negative coefficients: NMF, semi-NMF and dictionary learning.

All compute coefficients by non-negative least squares at each position, independently of the other
positions; in dictionary learning with a penalty on their sum.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import tensorflow as tf
from sklearn.cluster import KMeans
from sklearn.decomposition import NMF, MiniBatchDictionaryLearning, MiniBatchNMF

from xplique_dirpairs.core.batching import chunk_size, iter_blocks, slices
from xplique_dirpairs.core.linear_algebra import unit_rows
from xplique_dirpairs.core.types import Array
from xplique_dirpairs.core.validation import check_integer, check_number
from xplique_dirpairs.factorizers.base import IterativeFactorizer
from xplique_dirpairs.learning.coordinates import Moments
from xplique_dirpairs.learning.features import Features

#: Values below this share of the largest value at a position count as zero.
_TOLERANCE = 1e-8
#: Number of sweeps of coordinate descent before the exact solution is computed.
_SWEEPS = 30
#: Ridge that is added to W Wᵀ (with unit rows), so that the solution is unique.
_RIDGE = 1e-9
#: Number of positions in a block whose coefficients fit in the processor's cache.
_BLOCK = 2048


@dataclass(eq=False, repr=False, kw_only=True)
class NMFFactorizer(IterativeFactorizer):
    """Non-negative matrix factorization (Lee & Seung 1999), as in CRAFT, but run to convergence.

    Features x + shift ≈ u W, with coefficients u ≥ 0 and a concept bank W ≥ 0, by scikit-learn's
    coordinate descent. The shift of a channel is minus its lowest value in the activations of
    `fit`, or zero if it is never negative there. Later values below −shift are clipped to −shift.
    Decoding subtracts the shift again: ``constant_`` is −shift. Rows of W have unit length, so that
    coefficients have the units of the features. ``decoding_directions`` is None, because
    coefficients are found by non-negative least squares and not by linear filters.

    Parameters
    ----------
    number_of_concepts : int, default=20
        Number of concepts, I. It may exceed the number of channels.
    tol : float, default=1e-4
        The fit has converged when the projected gradient is below this share of that of the first
        iteration, as in `sklearn.decomposition.NMF`. If `fit` is given shards, from which
        `sklearn.decomposition.MiniBatchNMF` learns, the fit has instead converged when a pass over
        all files changes W by at most 1 % (Frobenius norm).
    max_iter : int, default=1000
        Largest number of iterations; with shards, of passes over all files. If the fit has not
        converged by then, a warning is issued.
    random_state : int, optional
        Seed of the initialisation: NNDSVD, a non-negative singular value decomposition, with zeros
        replaced by the mean; random for one concept or for more concepts than channels. None draws
        a seed.

    Attributes
    ----------
    shift_ : ndarray of shape (D,)
        The shift of each of the D channels.
    converged_ : bool
        Whether the fit has converged.
    n_iter_ : int
        Number of iterations.
    """

    shift_: Array = field(init=False)

    def _learn(self, x: Array) -> tuple[Array, Array]:
        shift = np.maximum(-x.min(axis=0), 0.0)
        model = NMF(
            self.number_of_concepts,
            # For one component, NNDSVD is already the solution, so that tol, which is relative to
            # the first iteration, could not be met.
            init="random" if self.number_of_concepts == 1 else None,
        )
        self._fit_model(model, np.maximum(x + shift, 0.0))
        # The shift is set last, so that an interrupted fit does not change a fitted factorizer.
        self.shift_ = shift
        return unit_rows(model.components_), -shift

    def _learn_from_shards(self, features: Features) -> tuple[Array, Array]:
        moments = Moments.of(features)  # refuses what `fit` refuses of arrays
        lowest = np.min([block.min(axis=0) for block in features.blocks()], axis=0)
        shift = np.maximum(-lowest, 0.0)
        model = MiniBatchNMF(self.number_of_concepts)
        # The solver does not start from large or small values by itself.
        unit = np.float32(np.sqrt(moments.covariance.diagonal().mean()))
        self._fit_in_passes(
            model, lambda: (np.maximum(x + shift, 0.0) / unit for x in features.blocks())
        )
        self.shift_ = shift
        return unit_rows(model.components_), -shift

    def _read(self, x: tf.Tensor) -> tf.Tensor:
        shifted = tf.nn.relu(x + tf.constant(self.shift_, x.dtype))
        return differentiable_least_squares(shifted, self.bank_)


@dataclass(eq=False, repr=False, kw_only=True)
class SemiNMFFactorizer(IterativeFactorizer):
    """Semi-NMF (Ding, Li & Jordan 2010): features x ≈ u W with u ≥ 0 and W of any sign.

    u are the coefficients, and W is the concept bank; X and U hold the x and u of all positions in
    rows. U is initialised with the K-Means labels (one-hot) + 0.2. Then the factors are updated in
    turn: W by least squares (eq. 10 of the paper), U by coordinate descent on the non-negative
    least squares. (The paper has a multiplicative update, which lowers the same objective
    ‖X − UW‖², but needs more steps.) Rows of W have unit length, so that coefficients have the
    units of the features. Features are neither shifted nor centred: ``constant_`` is 0.
    ``decoding_directions`` is None, because coefficients are not computed by linear filters.

    Parameters
    ----------
    number_of_concepts : int, default=20
        Number of concepts, I. It may exceed the number of channels.
    tol : float, default=1e-5
        The fit has converged when an iteration lowers the objective by less than this share of the
        features' total variance.
    max_iter : int, default=500
        Largest number of iterations. If the fit has not converged by then, a warning is issued.
    random_state : int, optional
        Seed of K-Means. None draws a seed.

    Attributes
    ----------
    objective_ : ndarray of shape (n_iter_,)
        Squared error of the reconstruction, summed over all positions, after each iteration. It
        never rises.
    converged_ : bool
        Whether the fit has converged.
    n_iter_ : int
        Number of iterations.
    """

    tol: float = 1e-5
    max_iter: int = 500
    objective_: Array = field(init=False)

    def _learn(self, x: Array) -> tuple[Array, Array]:
        check_integer("max_iter", self.max_iter)
        check_number("tol", self.tol, minimum=0.0)
        concepts = self.number_of_concepts
        labels = KMeans(concepts, n_init=1, random_state=self.random_state).fit_predict(x)
        u = np.eye(concepts)[:, labels] + 0.2  # (I, P)
        squares = sum(float(np.square(b, dtype=np.float64).sum()) for b in iter_blocks(x, _BLOCK))
        mean_squares = len(x) * float(np.square(x.mean(axis=0, dtype=np.float64)).sum())
        enough = self.tol * (squares - mean_squares)
        objective: list[float] = []
        converged = False
        while not converged and len(objective) < self.max_iter:
            # lstsq is used, because U Uᵀ has no inverse if a concept is absent at all positions.
            bank = np.linalg.lstsq(u @ u.T, u.astype(np.float32) @ x, rcond=None)[0]
            gram, target = bank @ bank.T, (bank.astype(np.float32) @ x.T).astype(np.float64)
            _descend(u, gram, target, sweeps=3)
            objective.append(float(squares - 2.0 * np.vdot(u, target) + np.vdot(u @ u.T, gram)))
            converged = len(objective) > 1 and objective[-2] - objective[-1] <= enough
        self.objective_ = np.maximum(objective, 0.0)
        self._finish(len(objective), converged)
        return unit_rows(bank), np.zeros(x.shape[1])

    def _read(self, x: tf.Tensor) -> tf.Tensor:
        return differentiable_least_squares(x, self.bank_)


@dataclass(eq=False, repr=False, kw_only=True)
class DictionaryLearningFactorizer(IterativeFactorizer):
    """Sparse dictionary learning (Mairal et al. 2009), by scikit-learn's mini-batches.

    Features x ≈ u W + mean, with sparse coefficients u ≥ 0 and a concept bank W whose rows, the
    atoms, have unit length and any sign. At each position the coefficients minimise
    ½‖x − mean − u W‖² + ``penalty_`` Σ_i u_i. ``transform`` of
    `sklearn.decomposition.MiniBatchDictionaryLearning`, with ``"lasso_cd"`` and
    ``positive_code=True``, approximates this minimum; here it is exact. The penalty makes
    coefficients smaller than those of least squares. ``decoding_directions`` is None, because
    coefficients are not computed by linear filters.

    scikit-learn does not subtract the mean. Without subtracting it, positive coefficients describe
    the features themselves and not how they differ from the mean, which suits features after a
    ReLU; but where the mean is large, most atoms point along it.

    Parameters
    ----------
    number_of_concepts : int, default=20
        Number of concepts, I. It may exceed the number of channels.
    alpha : float, default=1.0
        Weight of the sum of the coefficients, more than 0, relative to the features' standard
        deviation (the root of the channels' mean variance): scikit-learn's ``alpha`` for features
        divided by it. The larger, the fewer coefficients are positive.
    centred : bool, default=True
        Whether the mean is subtracted, so that features are the mean with all concepts switched
        off. If False, the mean in the formulas above is replaced by 0, as in scikit-learn.
    tol : float, default=1e-4
        The fit has converged when a mini-batch changes W by at most I times this (Frobenius norm),
        or when ten mini-batches in a row do not lower the smoothed objective, as in scikit-learn
        (where the default ``tol`` of 1e-3 is often met after the first iteration). If `fit` is
        given shards, the fit has instead converged when a pass over all files changes W by at most
        1 % (Frobenius norm).
    max_iter : int, default=1000
        Largest number of iterations, each over all positions. If the fit has not converged by then,
        a warning is issued.
    random_state : int, optional
        Seed of the initialisation, of the order of the positions, and of the positions that replace
        unused atoms. None draws a seed.

    Attributes
    ----------
    penalty_ : float
        `alpha` times the standard deviation of the features.
    converged_ : bool
        Whether the fit has converged.
    n_iter_ : int
        Number of iterations, with an iteration that was begun but not finished counted as one.
    """

    alpha: float = 1.0
    centred: bool = True
    penalty_: float = field(init=False)

    def _learn(self, x: Array) -> tuple[Array, Array]:
        return self._learned(x, lambda model, scaled: self._fit_model(model, scaled(x)))

    def _learn_from_shards(self, features: Features) -> tuple[Array, Array]:
        def fit(model: MiniBatchDictionaryLearning, scaled: Callable[[Array], Array]) -> None:
            self._fit_in_passes(model, lambda: map(scaled, features.blocks()))

        return self._learned(features, fit)

    def _learned(
        self, features: Array | Features, fit: Callable[[Any, Callable[[Array], Array]], None]
    ) -> tuple[Array, Array]:
        """Return bank and constant after ``fit`` of a model and a function that scales features."""
        check_number("alpha", self.alpha, above=0.0)
        moments = Moments.of(features)
        constant = moments.mean if self.centred else np.zeros_like(moments.mean)
        deviation = float(np.sqrt(moments.covariance.diagonal().mean()))
        model = MiniBatchDictionaryLearning(
            self.number_of_concepts, alpha=self.alpha, fit_algorithm="cd", positive_code=True
        )
        offset = constant.astype(np.float32)
        fit(model, lambda x: (x - offset) / np.float32(deviation))
        # The penalty is set last, so that an interrupted fit does not change a fitted factorizer.
        self.penalty_ = self.alpha * deviation
        return unit_rows(model.components_), constant

    def _read(self, x: tf.Tensor) -> tf.Tensor:
        return differentiable_least_squares(self._centred(x), self.bank_, self.penalty_)


def nonnegative_least_squares(x: Array, bank: Array, penalty: float = 0.0) -> Array:
    """Minimise ½‖x − u W‖² + penalty Σ_i u_i over u ≥ 0 at each position.

    Coordinate descent finds nearly all coefficients that are positive. Block principal pivoting
    (Kim & Park 2011) then finds the exact solution, because descent alone is slow if rows of W are
    nearly dependent. If there are several solutions (I > D), the result is approximately the one of
    least norm.

    Parameters
    ----------
    x : ndarray of shape (P, D)
        Features.
    bank : ndarray of shape (I, D)
        Concept bank W.
    penalty : float, default=0.0
        Weight of the sum of the coefficients, not negative. If it is more than 0, the problem is
        that of the non-negative lasso (Tibshirani 1996).

    Returns
    -------
    coefficients : ndarray of float32 of shape (P, I)
        Coefficients u; 0 for a row of W that is zero.
    """
    w = bank.astype(np.float64)
    gram = w @ w.T + _RIDGE * np.eye(len(w))
    target = np.concatenate([block.astype(np.float64) @ w.T for block in iter_blocks(x, _BLOCK)])
    target -= penalty  # the slope of the penalty is constant where u ≥ 0
    u = np.zeros_like(target.T)
    _descend(u, gram, target.T, _SWEEPS)
    for part in slices(len(x), chunk_size(gram.size)):
        u.T[part] = _pivot(gram, target[part], u.T[part] > 0)
    u[np.linalg.norm(bank, axis=1) == 0] = 0.0
    return u.T.astype(np.float32, order="C")


def _pivot(gram: Array, target: Array, positive: Array) -> Array:
    """Solve non-negative least squares exactly, (n, I), from a guess of the positive coefficients.

    All coefficients with the wrong sign, or whose gradient has the wrong sign, switch between zero
    and positive at once. After three attempts without improvement, only one coefficient switches at
    a time, which is sure to terminate (Murty's rule).
    """
    u = np.zeros_like(target)
    pending, fewest = np.arange(len(u)), np.full(len(u), target.shape[1] + 1)
    patience = np.full(len(u), 3)
    for _ in range(10 * target.shape[1]):
        free, wanted = positive[pending], target[pending]
        system = gram * (free[:, :, None] & free[:, None, :])
        np.einsum("nii->ni", system)[~free] = 1.0
        solution = np.linalg.solve(system, (wanted * free)[:, :, None])[:, :, 0]
        u[pending] = solution
        slope = solution @ gram - wanted
        signed = np.where(free, solution, slope)  # these are not negative at the optimum
        wrong = signed < -_TOLERANCE * np.abs(signed).max(axis=1, keepdims=True)
        count = wrong.sum(axis=1)
        fewer = count < fewest[pending]
        fewest[pending] = np.minimum(count, fewest[pending])
        patience[pending] = np.where(fewer, 3, patience[pending] - 1)
        last = target.shape[1] - 1 - wrong[:, ::-1].argmax(axis=1)
        only_last = wrong & (np.arange(target.shape[1]) == last[:, None])
        turned = np.where(patience[pending, None] >= 0, wrong, only_last)
        positive[pending] = free ^ turned
        pending = pending[count > 0]
        if not len(pending):
            break
    return np.maximum(u, 0.0)


def _descend(u: Array, gram: Array, target: Array, sweeps: int) -> None:
    """Minimise uᵀ gram u / 2 − uᵀ target over u ≥ 0, (I, P), in place, by coordinate descent."""
    concepts = np.flatnonzero(gram.diagonal() > 0)
    u[gram.diagonal() <= 0] = 0.0
    for part in slices(u.shape[1], _BLOCK):
        block, wanted = u[:, part].copy(), target[:, part]
        for _ in range(sweeps):
            before = block.copy()
            for i in concepts:
                step = (wanted[i] - gram[i] @ block) / gram[i, i]
                np.maximum(block[i] + step, 0.0, out=block[i])
            if np.abs(block - before).max() <= _TOLERANCE * block.max():
                break
        u[:, part] = block


def differentiable_least_squares(x: tf.Tensor, bank: Array, penalty: float = 0.0) -> tf.Tensor:
    """Compute `nonnegative_least_squares` of a tensor, with its exact gradient.

    While the set F of positive coefficients does not change, they are an ordinary least-squares
    solution, u_F = (W_F W_Fᵀ)⁻¹ (W_F x − penalty), which is affine in x. Where the set changes,
    there is a kink, as in a ReLU. Therefore no iterations need to be unrolled.

    Parameters
    ----------
    x : tf.Tensor of shape (P, D)
        Features.
    bank : ndarray of shape (I, D)
        Concept bank W.
    penalty : float, default=0.0
        Weight of the sum of the coefficients, not negative.

    Returns
    -------
    coefficients : tf.Tensor of shape (P, I)
        The values of `nonnegative_least_squares`.
    """

    def values(x: Array) -> Array:
        return nonnegative_least_squares(x.astype(np.float32), bank, penalty)

    @tf.custom_gradient
    def solve(x: tf.Tensor) -> tuple[tf.Tensor, Callable[[tf.Tensor], tf.Tensor]]:
        u = tf.ensure_shape(tf.numpy_function(values, [x], tf.float32), [x.shape[0], len(bank)])

        def gradient(upstream: tf.Tensor) -> tf.Tensor:
            w = tf.constant(bank, tf.float64)
            positive = tf.cast(u > 0, tf.float64)
            gram = tf.matmul(w, w, transpose_b=True)
            gram = gram * positive[:, :, None] * positive[:, None, :]
            gram += tf.linalg.diag(1.0 - positive + _RIDGE)  # ones make it invertible
            upstream = tf.cast(upstream, tf.float64) * positive
            along = tf.linalg.solve(gram, upstream[:, :, None])[:, :, 0]
            return tf.cast(tf.matmul(along * positive, w), x.dtype)

        return tf.cast(u, x.dtype), gradient

    return solve(x)
