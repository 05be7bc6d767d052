"""`estimate_signals`: other signal vectors for the same detectors."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import ArrayLike

from xplique_dirpairs.core.validation import check_activations
from xplique_dirpairs.data.shards import ActivationShards
from xplique_dirpairs.learning.coordinates import Moments
from xplique_dirpairs.learning.features import HeldFeatures, StreamedFeatures
from xplique_dirpairs.learning.reading import measure_pairs
from xplique_dirpairs.pairs import DirectionPairs

#: Estimators by name.
ESTIMATORS = ("mean-difference", "positives", "joint")


def estimate_signals(
    pairs: DirectionPairs,
    activations: ArrayLike | ActivationShards,
    estimator: str = "mean-difference",
) -> DirectionPairs:
    """The same filters and biases with signal vectors of another estimator.

    Parameters
    ----------
    pairs
    activations : (N, *spatial, D)
        Or `ActivationShards`.
    estimator
        "mean-difference": mean(positives) − mean(negatives), right where detections are, and other
        concepts are about as frequent among positives as elsewhere. "positives", the paper's:
        ∝ cov[x, z_i] over the positives; it wants thousands of them. "joint":
        cov[x, r] cov[z, r]⁻¹ with r = ReLU(z − b), right where features are these concepts and
        independent distractors.

    Returns
    -------
    pairs
        A concept that is detected everywhere or nowhere keeps its signal vector. Filters and signal
        vectors that were not learned together may fit each other badly: look at
        ``condition_number`` before you switch several concepts off at once, and do not use
        ``off="undecided"`` with them.

    Raises
    ------
    TypeError, ValueError
        If there is no such estimator, or the activations are of another layer.
    """
    if not isinstance(pairs, DirectionPairs):
        raise TypeError(f"pairs must be DirectionPairs, not {type(pairs).__name__}")
    if estimator not in ESTIMATORS:
        raise ValueError(f"estimator must be one of {', '.join(ESTIMATORS)}, not {estimator!r}")
    features: HeldFeatures | StreamedFeatures
    if isinstance(activations, ActivationShards):
        features = StreamedFeatures(activations)
    else:
        features = HeldFeatures(check_activations(activations))
    if features.shape[-1] != pairs.channels:
        raise ValueError(
            f"the pairs are of a layer of {pairs.channels} channels, but the activations have "
            f"{features.shape[-1]}"
        )
    moments = Moments.of(features)
    biases = pairs.biases - pairs.filters.astype(np.float64) @ moments.mean
    measured = measure_pairs(features, moments, pairs.filters, biases, estimator)
    known = (measured.occupancy > 0) & (measured.occupancy < 1)
    signals = np.where(known[:, None], measured.signals, pairs.signals)
    return replace(pairs, signals=signals)
