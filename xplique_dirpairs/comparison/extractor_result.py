"""What was measured of one extractor."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from xplique_dirpairs.metrics.fidelity import Fidelity, probabilities_at
from xplique_dirpairs.metrics.importance import SobolIndices
from xplique_dirpairs.metrics.registry import METRICS, Summary


@dataclass(frozen=True, eq=False)
class ExtractorResult:
    """What was measured of one extractor.

    Attributes
    ----------
    name
    encoding : (I, D)
        How the features change along each concept.
    decoding : (I, D) or None
        Linear filters that read the concepts.
    shown : (N, *S, I)
        Coefficients of the images as pictures show them.
    values
        Key of `METRICS` → a value for every image, (N,) or (N, 2), or one figure, ().
    fidelity
        With the curves and the contributions of every image, (N, I).
    importances
        Sobol indices of the class score, each (I,), means over some of the images.
    seconds
        "fit" (if it was fitted here), "read", "measure" → wall time.
    remarks
        What is to be known of the fit: that it was cut short, say.
    seeds
        Of an `average`, the results it is of; directions, shown coefficients, contributions and
        importances are then those of the first of them. Empty otherwise.
    """

    name: str
    encoding: NDArray
    decoding: NDArray | None
    shown: NDArray
    values: dict[str, NDArray]
    fidelity: Fidelity
    importances: SobolIndices
    seconds: dict[str, float]
    remarks: tuple[str, ...] = ()
    seeds: tuple[ExtractorResult, ...] = ()

    @cached_property
    def summaries(self) -> dict[str, Summary]:
        """Key of `METRICS` → figure with its 95 % bootstrap interval over images.

        Without values of metrics that are not registered: a file may come from where they are.
        """
        found = {}
        for key, values in self.values.items():
            if key not in METRICS:
                continue
            if np.ndim(values):
                found[key] = METRICS[key].summary(values)
            else:
                found[key] = Summary(float(values), float("nan"), float("nan"), 0)
        return found

    def deletion_at(self, changes: Iterable[float]) -> NDArray:
        """Mean class probability where deletion changed the features so much, (n,).

        As P@ is defined; over the images, and the seeds if there are some.
        """
        parts = self.seeds or (self,)
        return np.array([np.mean([_mean_at(part, change) for part in parts]) for change in changes])


def _mean_at(result: ExtractorResult, change: float) -> float:
    deletion = result.fidelity.deletion
    if change <= 0:
        return float(deletion.probabilities[:, 0].mean())
    return float(np.nanmean(probabilities_at(deletion, change)[0]))
