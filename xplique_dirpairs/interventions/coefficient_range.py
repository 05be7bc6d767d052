"""The range that concept coefficients were seen in, and how far a concept can be moved within it.

A concept is moved by one amount t at all positions of an image, as far as the range allows:

    u'_p = clip(u_p + t, low, high)

What a position has beyond the range already, it keeps.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

#: Halvings of an interval of shifts: more than float32 can tell apart.
_HALVINGS = 40


@dataclass(frozen=True, eq=False)
class CoefficientRange:
    """What images of the training data have of each concept, from few to many of them.

    Attributes
    ----------
    low, high : (I,)
        Of a position. ``low`` is 0 where no coefficient was negative; elsewhere, as ``high`` is, a
        quantile over images of an image's extreme.
    low_mean, high_mean : (I,)
        Of an image's mean over its positions. A concept is rarely everywhere at once: its level
        alone would allow more of it than any image has.
    quantile
        Share of the images that have no more than ``high`` and ``high_mean``; as many have no less
        than ``low`` and ``low_mean``.
    """

    low: NDArray
    high: NDArray
    low_mean: NDArray
    high_mean: NDArray
    quantile: float

    @classmethod
    def of(cls, coefficients: Iterable[NDArray], quantile: float = 0.99) -> CoefficientRange:
        """The range of coefficients ``(n, *S, I)``, batch after batch.

        Raises
        ------
        ValueError
            If ``quantile`` is not in (0.5, 1].
        """
        if not 0.5 < quantile <= 1.0:
            raise ValueError(f"quantile must be above 0.5 and at most 1, not {quantile!r}")
        lowest, highest, means = [], [], []
        for u in coefficients:
            flat = u.reshape(len(u), -1, u.shape[-1]).astype(np.float64)
            lowest.append(flat.min(axis=1))
            highest.append(flat.max(axis=1))
            means.append(flat.mean(axis=1))
        least, most, mean = (np.concatenate(part) for part in (lowest, highest, means))
        never_negative = least.min(axis=0) >= 0

        def lower(values: NDArray) -> NDArray:
            return np.where(never_negative, 0.0, np.quantile(values, 1 - quantile, axis=0))

        # 0, the concept switched off, is within the range of any extractor
        return cls(
            np.minimum(lower(least), 0.0),
            np.maximum(np.quantile(most, quantile, axis=0), 0.0),
            np.minimum(lower(mean), 0.0),
            np.maximum(np.quantile(mean, quantile, axis=0), 0.0),
            quantile,
        )

    @property
    def number_of_concepts(self) -> int:
        """I."""
        return len(self.low)

    def shifted(self, u: NDArray, shifts: NDArray) -> NDArray:
        """u', (n, P, I), of coefficients (n, P, I) and shifts (n, I)."""
        low, high = np.minimum(u, self.low), np.maximum(u, self.high)
        return np.clip(u + shifts[:, None], low, high)

    def furthest(self, u: NDArray) -> tuple[NDArray, NDArray]:
        """The lowest and the highest shift of each concept, (n, I) each, ≤ 0 and ≥ 0.

        The image's mean stays within ``low_mean`` and ``high_mean``, or where it is already.

        Parameters
        ----------
        u : (n, P, I)
        """
        u = u.astype(np.float64)
        mean = u.mean(axis=1)
        down = np.minimum(self.low - u.max(axis=1), 0.0)
        up = np.maximum(self.high - u.min(axis=1), 0.0)
        lowest = self._shift_to(u, np.minimum(self.low_mean, mean), down, np.zeros_like(down))
        # from above, as seen with the sign turned: the largest shift that is not too large
        highest = self._shift_to(u, np.maximum(self.high_mean, mean), np.zeros_like(up), up)
        return np.minimum(lowest, 0.0), np.maximum(highest, 0.0)

    def shift_to_mean(self, u: NDArray, mean: NDArray) -> NDArray:
        """Shifts (n, I) that bring the images' means as near as they can to ``mean``, (n, I)."""
        u = u.astype(np.float64)
        down = np.minimum(self.low - u.max(axis=1), 0.0)
        up = np.maximum(self.high - u.min(axis=1), 0.0)
        return self._shift_to(u, np.broadcast_to(mean, down.shape), down, up)

    def _shift_to(self, u: NDArray, mean: NDArray, least: NDArray, most: NDArray) -> NDArray:
        """The shift in [least, most] at which the mean is reached; an end where it is not."""
        tolerance = 1e-9 * (1.0 + np.abs(mean))
        at_least = self.shifted(u, least).mean(axis=1) >= mean - tolerance
        at_most = self.shifted(u, most).mean(axis=1) <= mean + tolerance
        low, high = least, most
        for _ in range(_HALVINGS):
            middle = (low + high) / 2
            above = self.shifted(u, middle).mean(axis=1) > mean
            low, high = np.where(above, low, middle), np.where(above, middle, high)
        return np.where(at_most & ~at_least, most, np.where(at_least & ~at_most, least, low))
