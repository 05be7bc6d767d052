"""Factorizations with coefficients that are nowhere negative: NMF and semi-NMF.

Both read coefficients by non-negative least squares, position by position: what a position's
coefficients are does not depend on the others it is read with.
"""

from __future__ import annotations

import warnings

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray
from sklearn.cluster import KMeans
from sklearn.decomposition import NMF
from sklearn.exceptions import ConvergenceWarning

from xplique_dirpairs.core.batching import iter_blocks
from xplique_dirpairs.core.validation import check_integer
from xplique_dirpairs.factorizers.affine import AffineFactorizer, unit_rows

#: Numbers below this share of the largest of a position count as zero.
_TOLERANCE = 1e-8
#: Sweeps of coordinate descent over the concepts before the exact solution is looked for.
_SWEEPS = 30
#: Added to W Wᵀ (unit rows), so that there is one solution.
_RIDGE = 1e-9
#: Numbers in the systems that are solved at once.
_NUMBERS = 2**22
#: Positions of a block: their coefficients stay in the processor's cache.
_BLOCK = 2048


class NMFFactorizer(AffineFactorizer):
    """Non-negative matrix factorization (Lee & Seung 1999), CRAFT's way to concepts; converged.

    x + shift ≈ U W with U, W ≥ 0, by scikit-learn's coordinate descent. The shift is zero in
    channels that are nowhere negative in the activations of `fit`, and minus the lowest value in
    the others; where a later value lies below, it is read as the lowest one. Decoding takes the
    shift back: ``constant_`` is −shift. Rows of W have unit length: a coefficient is in units of
    the features. Parts, not filters: there are no decoding directions.

    Parameters
    ----------
    number_of_concepts
        I; may exceed the number of channels.
    tol
        Converged when an iteration moves coefficients and bank by less than this share of what
        the first one moved (the projected gradient, as in `sklearn.decomposition.NMF`).
    max_iter
        A fit that is not converged by then warns, and ``converged_`` is False.
    random_state
        Seed of the beginning (NNDSVD with its zeros at the mean; random where I = 1 or
        I > D).

    Attributes
    ----------
    shift_ : (D,)
    converged_ : bool
    n_iter_ : int
    """

    shift_: NDArray
    converged_: bool
    n_iter_: int

    def __init__(
        self,
        number_of_concepts: int = 20,
        *,
        tol: float = 1e-4,
        max_iter: int = 1000,
        random_state: int | None = None,
    ):
        self.number_of_concepts = number_of_concepts
        self.tol = tol
        self.max_iter = max_iter
        self.random_state = random_state

    def _learn(self, x: NDArray) -> tuple[NDArray, NDArray]:
        shift = np.maximum(-x.min(axis=0), 0.0)
        model = NMF(
            self.number_of_concepts,
            # NNDSVD of one component is already the answer: nothing is left to measure tol against
            init="random" if self.number_of_concepts == 1 else None,
            tol=self.tol,
            max_iter=self.max_iter,
            random_state=self.random_state,
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # said below, with what to do
            model.fit(np.maximum(x + shift, 0.0))
        self._note_end(model.n_iter_, model.n_iter_ < self.max_iter, self.tol)
        self.shift_ = shift  # not before: a fit that is interrupted leaves the one before it whole
        return unit_rows(model.components_)[0], -shift

    def _read(self, x: NDArray) -> NDArray:
        return nonnegative_least_squares(np.maximum(x + self.shift_, 0.0), self.bank_)

    def encode_differentiable(self, activations: tf.Tensor) -> tf.Tensor:
        """`encode` as a tensor, (P, D) → (P, I); see `differentiable_least_squares`."""
        x = self._features_tensor(activations)
        return differentiable_least_squares(
            tf.nn.relu(x + tf.constant(self.shift_, x.dtype)), self.bank_
        )


class SemiNMFFactorizer(AffineFactorizer):
    """Semi-NMF (Ding, Li & Jordan 2010): x ≈ u W with u ≥ 0 and W of any sign.

    From their start, K-Means labels + 0.2, the two halves take turns: W by least squares (their
    eq. 10), U by coordinate descent on the non-negative least squares [ours: in place of their
    multiplicative update; both lower the same objective ‖X − UW‖², this one in fewer steps]. Rows
    of W have unit length: a coefficient is in units of the features. No shift, no mean:
    ``constant_`` is 0.

    Parameters
    ----------
    number_of_concepts
        I; may exceed the number of channels.
    tol
        Converged when an iteration lowers the objective by less than this share of the features'
        total variance.
    max_iter
        A fit that is not converged by then warns, and ``converged_`` is False.
    random_state
        Seed of the K-Means.

    Attributes
    ----------
    objective_ : (n_iter_,)
        ‖X − UW‖² after each iteration; never rises.
    converged_ : bool
    n_iter_ : int
    """

    objective_: NDArray
    converged_: bool
    n_iter_: int

    def __init__(
        self,
        number_of_concepts: int = 20,
        *,
        tol: float = 1e-5,
        max_iter: int = 500,
        random_state: int | None = None,
    ):
        self.number_of_concepts = number_of_concepts
        self.tol = tol
        self.max_iter = max_iter
        self.random_state = random_state

    def _learn(self, x: NDArray) -> tuple[NDArray, NDArray]:
        check_integer("max_iter", self.max_iter)
        if not self.tol >= 0:
            raise ValueError(f"tol must be at least 0, not {self.tol!r}")
        concepts = self.number_of_concepts
        labels = KMeans(concepts, n_init=1, random_state=self.random_state).fit_predict(x)
        u = np.eye(concepts)[:, labels] + 0.2  # (I, P)
        squares = sum(float(np.square(b, dtype=np.float64).sum()) for b in iter_blocks(x, _BLOCK))
        of_mean = len(x) * float(np.square(x.mean(axis=0, dtype=np.float64)).sum())
        enough = self.tol * (squares - of_mean)
        objective: list[float] = []
        converged = False
        while not converged and len(objective) < self.max_iter:
            # lstsq, not solve: a concept that is nowhere present leaves U Uᵀ without an inverse
            bank = np.linalg.lstsq(u @ u.T, u.astype(np.float32) @ x, rcond=None)[0]
            gram, target = bank @ bank.T, (bank.astype(np.float32) @ x.T).astype(np.float64)
            _descend(u, gram, target, sweeps=3)
            objective.append(squares - 2.0 * np.vdot(u, target) + np.vdot(u @ u.T, gram))
            converged = len(objective) > 1 and objective[-2] - objective[-1] <= enough
        self.objective_ = np.maximum(objective, 0.0)
        self._note_end(len(objective), converged, self.tol)
        return unit_rows(bank)[0], np.zeros(x.shape[1])

    def _read(self, x: NDArray) -> NDArray:
        return nonnegative_least_squares(x, self.bank_)

    def encode_differentiable(self, activations: tf.Tensor) -> tf.Tensor:
        """`encode` as a tensor, (P, D) → (P, I); see `differentiable_least_squares`."""
        return differentiable_least_squares(self._features_tensor(activations), self.bank_)


def nonnegative_least_squares(x: NDArray, bank: NDArray) -> NDArray:
    """u ≥ 0 that minimises ‖x − u W‖², for each position, (P, D) → (P, I) float32.

    Coordinate descent finds nearly which coefficients are positive, block principal pivoting (Kim
    & Park 2011) then the exact solution: descent alone would crawl where rows of W are nearly
    dependent. Of several solutions (I > D), about the one of least norm; 0 for a zero row of W.

    Parameters
    ----------
    x : (P, D)
    bank : (I, D)
        W.
    """
    w = bank.astype(np.float64)
    gram = w @ w.T + _RIDGE * np.eye(len(w))
    target = np.concatenate([block.astype(np.float64) @ w.T for block in iter_blocks(x, _BLOCK)])
    u = np.zeros_like(target.T)
    _descend(u, gram, target.T, _SWEEPS)
    rows = max(1, _NUMBERS // gram.size)
    for start in range(0, len(x), rows):
        part = slice(start, start + rows)
        u.T[part] = _pivot(gram, target[part], u.T[part] > 0)
    u[np.linalg.norm(bank, axis=1) == 0] = 0.0
    return u.T.astype(np.float32, order="C")


def _pivot(gram: NDArray, target: NDArray, positive: NDArray) -> NDArray:
    """Exact non-negative least squares, (n, I), from a guess of which coefficients are positive.

    All coefficients of the wrong sign, or with a gradient of the wrong sign, change sides at once;
    where that has not helped three times, one at a time, which ends (Murty's rule).
    """
    u = np.zeros_like(target)
    pending, fewest = np.arange(len(u)), np.full(len(u), target.shape[1] + 1)
    patience = np.full(len(u), 3)
    for _ in range(10 * target.shape[1]):
        free, wanted = positive[pending], target[pending]
        system = gram * (free[:, :, None] & free[:, None, :])
        np.einsum("nii->ni", system)[~free] = 1.0
        found = np.linalg.solve(system, (wanted * free)[:, :, None])[:, :, 0]
        u[pending] = found
        slope = found @ gram - wanted
        of_sign = np.where(free, found, slope)
        wrong = of_sign < -_TOLERANCE * np.abs(of_sign).max(axis=1, keepdims=True)
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


def _descend(u: NDArray, gram: NDArray, target: NDArray, sweeps: int) -> None:
    """Move u (I, P), in place, towards argmin over u ≥ 0 of uᵀ gram u / 2 − uᵀ target."""
    concepts = np.flatnonzero(gram.diagonal() > 0)
    u[gram.diagonal() <= 0] = 0.0
    for start in range(0, u.shape[1], _BLOCK):
        block = u[:, start : start + _BLOCK].copy()
        wanted = target[:, start : start + _BLOCK]
        for _ in range(sweeps):
            before = block.copy()
            for i in concepts:
                step = (wanted[i] - gram[i] @ block) / gram[i, i]
                np.maximum(block[i] + step, 0.0, out=block[i])
            if np.abs(block - before).max() <= _TOLERANCE * block.max():
                break
        u[:, start : start + _BLOCK] = block


def differentiable_least_squares(x: tf.Tensor, bank: NDArray) -> tf.Tensor:
    """`nonnegative_least_squares` of a tensor, with its exact gradient.

    While the set F of positive coefficients stays the same, they are an ordinary least-squares
    solution, u_F = (W_F W_Fᵀ)⁻¹ W_F x, which is linear in x; where the set changes there is a kink,
    as in a ReLU. Nothing is unrolled, and the values are those of `encode`.
    """

    def values(x):
        return nonnegative_least_squares(x.astype(np.float32), bank)

    @tf.custom_gradient
    def solve(x):
        u = tf.ensure_shape(tf.numpy_function(values, [x], tf.float32), [x.shape[0], len(bank)])

        def gradient(upstream):
            w = tf.constant(bank, tf.float64)
            positive = tf.cast(u > 0, tf.float64)
            gram = tf.matmul(w, w, transpose_b=True)
            gram = gram * positive[:, :, None] * positive[:, None, :]
            gram += tf.linalg.diag(1.0 - positive + _RIDGE)  # ones where nothing is solved for
            upstream = tf.cast(upstream, tf.float64) * positive
            along = tf.linalg.solve(gram, upstream[:, :, None])[:, :, 0]
            return tf.cast(tf.matmul(along * positive, w), x.dtype)

        return tf.cast(u, x.dtype), gradient

    return solve(x)
