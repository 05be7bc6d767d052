"""Convex NMF: concepts that are non-negative combinations of the data."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
import tensorflow as tf
from numpy.typing import ArrayLike
from sklearn.cluster import KMeans
from sklearn.metrics import silhouette_score

from xplique_dirpairs.core.linear_algebra import unit_rows
from xplique_dirpairs.core.types import Array
from xplique_dirpairs.core.validation import (
    check_choice,
    check_integer,
    check_number,
    check_random_state,
)
from xplique_dirpairs.data.shards import ActivationShards
from xplique_dirpairs.factorizers.base import IterativeFactorizer, check_flat
from xplique_dirpairs.factorizers.nonnegative import differentiable_least_squares

NUMBER_RULES = ("silhouette", "ratio")
#: Number of positions from which the number of concepts is found, and of restarts of K-Means.
_SAMPLED, _RESTARTS = 2000, 10
#: The rule "ratio" stops where one more cluster leaves more than this share of the distortion.
_RATIO = 0.95
#: Smallest divisor of an update.
_SMALLEST = 1e-12


@dataclass(eq=False, repr=False)
class ConvexNMFFactorizer(IterativeFactorizer):
    """Convex NMF (Ding, Li & Jordan 2010): concepts that are sums of the features themselves.

    With the features of M positions in the rows of T, Tᵀ ≈ Tᵀ G H with weights G ≥ 0 (M, I) and
    H ≥ 0 (I, M). Row i of the concept bank is the sum of the features weighted by column i of G,
    scaled to unit length; T may have any sign. G and H are initialised by K-Means and updated in
    turn by the paper's multiplicative rules, which never raise ‖T − HᵀGᵀT‖². Coefficients of other
    features are non-negative least squares on the bank. ``constant_`` is 0, and
    ``decoding_directions`` None. VTCD (Kowal et al., CVPR 2024) clusters tubelets of videos so.

    The fit needs M × M products: of more than ``most_positions`` positions it sees a random sample.

    Parameters
    ----------
    number_of_concepts : int or None, default=20
        Number of concepts, I. None: `fit` finds it by ``rule``; CRAFT and the holistic interface
        need a number.
    most : int, default=15
        Largest number that ``rule`` chooses.
    rule : {"silhouette", "ratio"}, default="silhouette"
        How the number is found, by K-Means with 2 to ``most`` clusters. "silhouette": the largest
        mean silhouette (Rousseeuw 1987). "ratio": the first number, from 1 on, whose distortion is
        more than 0.95 of the one before, as in the code of VTCD (with ``most=14``), which tends to
        find one too many.
    most_positions : int, default=2000
        Largest number of positions M of the fit.
    tol : float, default=1e-5
        The fit has converged when ten iterations lower the objective by less than this share of the
        features' sum of squares.
    max_iter : int, default=10000
        Largest number of iterations. If the fit has not converged by then, a warning is issued.
    random_state : int, optional
        Seed of K-Means and of the sample. None draws a seed.

    Attributes
    ----------
    number_of_concepts_ : int
        Number of concepts of the fit.
    positions_ : ndarray of shape (M,), int
        Indices of the positions that the fit saw.
    weights_ : ndarray of shape (M, I)
        Weights G: row i of ``bank_`` is the unit vector along column i of Gᵀ T.
    objective_ : ndarray of shape (n_iter_ + 1,)
        ‖T − HᵀGᵀT‖² before the first iteration and after each. It never rises.
    converged_ : bool
        Whether the fit has converged.
    n_iter_ : int
        Number of iterations.
    """

    number_of_concepts: int | None = 20  # type: ignore[assignment]
    most: int = field(default=15, kw_only=True)
    rule: str = field(default="silhouette", kw_only=True)
    most_positions: int = field(default=2000, kw_only=True)
    tol: float = field(default=1e-5, kw_only=True)
    max_iter: int = field(default=10000, kw_only=True)
    number_of_concepts_: int = field(init=False)
    positions_: Array = field(init=False)
    weights_: Array = field(init=False)
    objective_: Array = field(init=False)

    def fit(self, activations: ArrayLike | ActivationShards) -> tuple[Array, Array]:
        """Learn the concepts from flat activations.

        Parameters
        ----------
        activations : array-like of shape (P, D)
            Features at P positions with D channels.

        Returns
        -------
        concept_bank_w : ndarray of shape (I, D)
            Concept bank of I concepts, unit rows.
        coeffs_u : ndarray of shape (P, I)
            Coefficients of the concepts at the P positions, as `encode` computes them.

        Raises
        ------
        TypeError
            If `ActivationShards` are given.
        ValueError
            If the activations are not flat and finite, are constant, or are too large for float32;
            if there are fewer positions than concepts; or if a parameter is out of range.
        """
        if self.number_of_concepts is not None:
            return super().fit(activations)
        check_integer("most", self.most)
        check_choice("rule", self.rule, NUMBER_RULES)
        if isinstance(activations, ActivationShards):
            return replace(self, number_of_concepts=1).fit(activations)  # says why it cannot
        x = check_flat(activations)
        number = cluster_number(x, self.most, self.rule, self.random_state)
        fitted = replace(self, number_of_concepts=number)
        result = fitted.fit(x)
        for name, value in fitted.__dict__.items():
            if name.endswith("_"):
                setattr(self, name, value)
        return result

    def _learn(self, x: Array) -> tuple[Array, Array]:
        check_integer("most_positions", self.most_positions)
        check_integer("max_iter", self.max_iter)
        check_number("tol", self.tol, minimum=0.0)
        concepts = int(self.number_of_concepts or 0)
        rng = check_random_state(self.random_state)
        chosen = np.arange(len(x))
        if len(x) > max(self.most_positions, concepts):
            size = max(self.most_positions, concepts)
            chosen = np.sort(rng.choice(len(x), size, replace=False))
        rows = x[chosen].astype(np.float64)
        scale = float(np.sqrt(np.square(rows).mean())) or 1.0
        labels = KMeans(concepts, n_init=_RESTARTS, random_state=self.random_state).fit_predict(
            x[chosen]
        )
        weights, objective, converged = _convex_updates(
            rows / scale, np.eye(concepts)[labels], self.tol, self.max_iter
        )
        self.number_of_concepts_, self.positions_ = concepts, chosen
        self.weights_, self.objective_ = weights, objective * scale**2
        self._finish(len(objective) - 1, converged)
        return unit_rows(weights.T @ rows), np.zeros(x.shape[1])

    def _read(self, x: tf.Tensor) -> tf.Tensor:
        return differentiable_least_squares(x, self.bank_)


def cluster_number(
    x: Array, most: int = 15, rule: str = "silhouette", random_state: int | None = None
) -> int:
    """Find the number of clusters of some vectors by K-Means.

    Parameters
    ----------
    x : ndarray of shape (P, D)
        Vectors; of more than 2,000 a random sample is taken.
    most : int, default=15
        Largest number.
    rule : {"silhouette", "ratio"}, default="silhouette"
        As in `ConvexNMFFactorizer`.
    random_state : int, optional
        Seed of K-Means and of the sample. None draws a seed.

    Returns
    -------
    number : int
        From 1 to ``most``. By "silhouette" it is 1 only if there are fewer than 3 distinct vectors.
    """
    if len(x) > _SAMPLED:
        x = x[check_random_state(random_state).choice(len(x), _SAMPLED, replace=False)]
    distinct = len(np.unique(x, axis=0))

    def clustered(number: int) -> KMeans:
        return KMeans(number, n_init=_RESTARTS, random_state=random_state).fit(x)

    if rule == "ratio":
        most = min(most, distinct)
        before = np.inf
        for number in range(1, most + 1):
            distortion = float(clustered(number).inertia_)
            if distortion > _RATIO * before:
                return number
            before = distortion
        return most
    numbers = range(2, min(most, distinct - 1) + 1)
    scores = [float(silhouette_score(x, clustered(number).labels_)) for number in numbers]
    return numbers[int(np.argmax(scores))] if scores else 1


def _convex_updates(
    rows: Array, labels: Array, tol: float, max_iter: int
) -> tuple[Array, Array, bool]:
    """Return weights G (M, I), the objective after each iteration, and whether it has converged.

    ``rows`` are T (M, D), and ``labels`` the one-hot clusters (M, I) to begin with.
    """
    gram = rows @ rows.T
    positive, negative = np.maximum(gram, 0.0), np.maximum(-gram, 0.0)
    codes = labels + 0.2  # Hᵀ
    weights = (labels + 0.01) / np.maximum(labels.sum(axis=0), 1.0)
    squares = float(np.trace(gram))

    def error() -> float:
        product = gram @ weights
        explained = np.vdot(codes, product)
        return (
            squares - 2.0 * float(explained) + float(np.vdot(codes.T @ codes, weights.T @ product))
        )

    objective = [error()]
    converged = False
    while not converged and len(objective) <= max_iter:
        up, down = positive @ weights, negative @ weights
        raised = up + codes @ (weights.T @ down)
        lowered = down + codes @ (weights.T @ up)
        codes = codes * np.sqrt(raised / np.maximum(lowered, _SMALLEST))
        gram_of_codes = codes.T @ codes
        raised = positive @ codes + down @ gram_of_codes
        lowered = negative @ codes + up @ gram_of_codes
        weights = weights * np.sqrt(raised / np.maximum(lowered, _SMALLEST))
        objective.append(error())
        converged = len(objective) > 10 and objective[-11] - objective[-1] <= tol * squares
    return weights, np.maximum(objective, 0.0), converged
