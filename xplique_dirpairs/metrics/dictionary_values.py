"""The dictionary metrics of one extractor under the keys of `METRICS`, one figure each."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from xplique_dirpairs.metrics.dictionary import (
    cross_talk,
    dead_concepts,
    hoyer_sparsity,
    l0,
    max_coherence,
    ood_score,
    oriented,
    plausibility,
    stable_rank,
)


def dictionary_values(
    encoding: NDArray,
    bank: NDArray,
    coefficients: NDArray,
    features: NDArray,
    *,
    head_rows: NDArray | None = None,
    filters: NDArray | None = None,
) -> dict[str, NDArray]:
    """Metrics of a dictionary and of the coefficients that go with it.

    Parameters
    ----------
    encoding : (I, D)
        Directions along which the features change with the concepts.
    bank : (I, D)
        What one unit of each coefficient adds to the features: sparsity is of u_i ‖b_i‖.
    coefficients : (P, I)
    features : (P, D)
        Those the coefficients were read from, without the constant part of the decoding.
    head_rows : (K, D), optional
        The classes' weights, of a linear head: for plausibility.
    filters : (I, D), optional
        For the cross-talk.

    Returns
    -------
    values : dict
        Key → array of no axes; NaN where a metric is undefined.
    """
    directions = oriented(encoding, coefficients)
    sizes = coefficients * np.linalg.norm(bank, axis=1)
    some = sizes.any(axis=1)
    values = {
        "max_coherence": max_coherence(encoding),
        "stable_rank": stable_rank(encoding),
        "hoyer": _mean(hoyer_sparsity(sizes[some])) if some.any() else np.nan,
        "l0": float(np.mean(l0(coefficients))),
        "dead": float(np.sum(dead_concepts(coefficients, bank))),
        "ood": ood_score(directions, features),
    }
    if head_rows is not None:
        values["plausibility"] = plausibility(directions, head_rows)
    if filters is not None:
        values["cross_talk"] = cross_talk(filters, encoding)
    return {key: np.asarray(value, np.float64) for key, value in values.items()}


def _mean(values: NDArray) -> float:
    defined = values[~np.isnan(values)]
    return float(defined.mean()) if defined.size else float("nan")
