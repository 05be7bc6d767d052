"""Which detectors fire in an image that was generated, or chosen, for one concept.

An image from activation maximisation is valid if the network detects its concept in it: the
concept's own detector fires, and the others do not. All figures are computed from the excess of
each projection over its bias, ``z_i − b_i``; detector i fires where it is positive (y_i > 0.5).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from xplique_dirpairs.core.types import Array


@dataclass(frozen=True, eq=False)
class Firing:
    """Which detectors fire in n images, each of one concept.

    A detector fires where its excess, projection minus bias, is positive.

    Attributes
    ----------
    concepts : ndarray of shape (n,), int
        The concept of each image.
    own_share : ndarray of shape (n,)
        Share of the image's positions where the concept's own detector fires, in [0, 1].
    own_excess : ndarray of shape (n,)
        Largest excess of the concept's own detector, in units of the ``scales`` of `firing`.
    others_firing : ndarray of shape (n,)
        Share of the other detectors that fire anywhere in the image; NaN if there are no others.
    others_share : ndarray of shape (n,)
        Share of the positions where another detector fires, averaged over the other detectors; NaN
        if there are none.
    stronger : ndarray of shape (n,), int
        Number of other detectors whose largest excess is at least that of the concept's own.
    rival : ndarray of shape (n,), int
        Index of the other detector with the largest excess; −1 if there is no other.
    """

    concepts: Array
    own_share: Array
    own_excess: Array
    others_firing: Array
    others_share: Array
    stronger: Array
    rival: Array

    @property
    def fires(self) -> Array:
        """Whether the concept's own detector fires anywhere in the image, (n,) bool."""
        return np.asarray(self.own_share > 0)

    @property
    def alone(self) -> Array:
        """Whether the concept's own detector fires and no other does, (n,) bool."""
        return np.asarray(self.fires & ~(self.others_firing > 0))

    @property
    def strongest(self) -> Array:
        """Whether the excess of the concept's own detector is larger than all others, (n,) bool."""
        return np.asarray(self.stronger == 0)


def firing(excess: ArrayLike, concepts: ArrayLike, scales: ArrayLike | None = None) -> Firing:
    """Measure which detectors fire in images of one concept each.

    Parameters
    ----------
    excess : array-like of shape (n, *spatial, I)
        Projections minus biases, z − b, or the values of any other detectors minus their
        thresholds.
    concepts : array-like of shape (n,), int
        The concept of each image.
    scales : array-like of shape (I,), optional
        Unit of each detector's excess, such as the standard deviation of its projections. None:
        units of 1, which is the margin of a detector of direction pairs (their projections z are in
        units of the margin M_i).

    Returns
    -------
    firing : Firing
    """
    excess = np.asarray(excess, np.float64)
    excess = excess.reshape(len(excess), -1, excess.shape[-1])
    count, _, detectors = excess.shape
    concepts = np.asarray(concepts)
    largest = excess.max(axis=1) / (1.0 if scales is None else np.asarray(scales, np.float64))
    on = excess > 0
    rows = np.arange(count)
    is_own = concepts[:, None] == np.arange(detectors)
    own_excess = largest[rows, concepts]
    rivals = np.where(is_own, -np.inf, largest)
    others = max(detectors - 1, 1)
    undefined = np.nan if detectors == 1 else 0.0
    shares = on.mean(axis=1)
    return Firing(
        concepts=concepts,
        own_share=shares[rows, concepts],
        own_excess=own_excess,
        others_firing=(on.any(axis=1) & ~is_own).sum(axis=1) / others + undefined,
        others_share=np.where(is_own, 0.0, shares).sum(axis=1) / others + undefined,
        stronger=(rivals >= own_excess[:, None]).sum(axis=1),
        rival=np.full(count, -1) if detectors == 1 else rivals.argmax(axis=1),
    )
