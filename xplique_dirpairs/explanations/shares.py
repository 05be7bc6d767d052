"""A class score of images, shared out over positions and concepts.

    s(x) = s(r) + Σ_p Σ_i c_{p,i} + gap           c_{p,i} = u_{p,i} B_i · G_p

r = x − u B has every concept off; s(r) is the residual's share (the bias of the classes with it);
G_p is the mean gradient along the path from r to x, see `explanations.path`. Exact, up to rounding,
for a head that is linear after a global average pooling: G_p = w_k / P.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from xplique_dirpairs.explanations.path import (
    ScoreAndGradient,
    class_score,
    few_logits,
    mean_gradient,
)
from xplique_dirpairs.extractors.concept_layer import ConceptLayer


@dataclass(frozen=True, eq=False)
class Shares:
    """What each position and concept of one image adds to a score.

    Attributes
    ----------
    contributions : (*S, I) float64
        c, signed.
    residual : float
        s(r): the score with every concept off.
    score : float
        s(x): the network's own.
    gap : float
        score − residual − Σ contributions.
    steps : int
        Gradients taken along the path; 0 where there was no need.
    """

    contributions: NDArray
    residual: float
    score: float
    steps: int

    @property
    def gap(self) -> float:
        return self.score - self.residual - float(self.contributions.sum())


@dataclass(frozen=True, eq=False)
class ScoreOfLayer:
    """A class score, or the difference of two, as a function of a layer's features.

    Attributes
    ----------
    layer
    class_id
    against
        The class whose logit is taken off; None for none.
    number_of_classes : int
        K.
    tolerance, max_steps
        Of the path: see `mean_gradient`.
    """

    layer: ConceptLayer
    class_id: int
    against: int | None
    number_of_classes: int
    tolerance: float
    max_steps: int

    @cached_property
    def weights(self) -> NDArray:
        """(K,): the score is logits @ weights."""
        weights = np.zeros(self.number_of_classes)
        weights[self.class_id] = 1.0
        if self.against is not None:
            weights[self.against] -= 1.0
        return weights

    @cached_property
    def _differentiable(self) -> ScoreAndGradient:
        return class_score(self.layer.head, self.weights)

    def shares(self, activations: NDArray, coefficients: NDArray) -> Shares:
        """Of one image.

        Parameters
        ----------
        activations : (*S, D)
        coefficients : (*S, I)
        """
        layer, head = self.layer, self.layer.head
        x, u = activations.astype(np.float64), coefficients.astype(np.float64)
        bank = layer.bank.astype(np.float64)
        off = x - u @ bank
        start, end = (head.pool(features[None])[0] for features in (off, x))
        both = few_logits(head, np.stack([start, end]))
        residual, score = (both @ self.weights).tolist()
        rows, steps = layer.linear_rows(activations[None]), 0
        if rows is not None:
            gradient = self.weights @ rows.astype(np.float64)
        else:
            found = mean_gradient(self._differentiable, start, end, self.tolerance, self.max_steps)
            gradient, steps = found.gradient, found.steps
        pooled = start.ndim < x.ndim
        positions = math.prod(x.shape[:-1]) if pooled else 1
        effects = gradient @ bank.T / positions  # (I,), or (*S, I) of a head that knows places
        return Shares(u * effects, residual, score, steps)
