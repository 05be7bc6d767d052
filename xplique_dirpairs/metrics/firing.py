"""Which detectors fire in an image that was generated, or chosen, for one concept.

A picture of activation maximisation is valid if the network detects its concept in it: the
concept's own detector fires, the others do not. All figures follow from the excess of each
projection over its bias, ``z_i − b_i``; detector i fires where it is positive (y_i > 0.5).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from xplique_dirpairs.core.types import Array


@dataclass(frozen=True, eq=False)
class Firing:
    """Figures of n images, each of one concept.

    Attributes
    ----------
    concepts : ndarray of shape (n,), int
        The concept of each image.
    own_share : ndarray of shape (n,)
        Share of the image's positions where its own detector fires, in [0, 1].
    own_excess : ndarray of shape (n,)
        The own detector's largest excess over its bias, in units of the scales.
    others_firing : ndarray of shape (n,)
        Share of the other detectors that fire anywhere in the image; NaN where there is no other.
    others_share : ndarray of shape (n,)
        Share of the positions where another detector fires, mean over the others; NaN likewise.
    stronger : ndarray of shape (n,), int
        Number of other detectors whose largest excess is at least the own one's.
    rival : ndarray of shape (n,), int
        The other detector with the largest excess; −1 where there is no other.
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
        """Whether the own detector fires anywhere."""
        return np.asarray(self.own_share > 0)

    @property
    def alone(self) -> Array:
        """Whether the own detector fires and no other does."""
        return np.asarray(self.fires & ~(self.others_firing > 0))

    @property
    def strongest(self) -> Array:
        """Whether the own detector's excess is larger than that of every other."""
        return np.asarray(self.stronger == 0)


def firing(excess: ArrayLike, concepts: ArrayLike, scales: ArrayLike | None = None) -> Firing:
    """Measure which detectors fire in images of one concept each.

    Parameters
    ----------
    excess : array-like of shape (n, *spatial, I)
        Projections minus biases, z − b, or any other detector's values minus its threshold.
    concepts : array-like of shape (n,), int
        The concept that each image is of.
    scales : array-like of shape (I,), optional
        Unit of each detector's excess, such as the standard deviation of its projections. Default:
        1, the detector's own margin for direction pairs (z is in units of M_i).

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
