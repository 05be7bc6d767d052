"""Stub until the learner lands: whitened K-Means as detectors."""

from __future__ import annotations

import numpy as np
from sklearn.cluster import MiniBatchKMeans

from xplique_dirpairs.activations import as_pixels, check_activations
from xplique_dirpairs.learning.history import History
from xplique_dirpairs.pairs import DirectionPairs


def learn_pairs(
    activations,
    number_of_concepts,
    *,
    head=None,
    recipe="default",
    random_state=None,
    verbose=1,
):
    x = as_pixels(check_activations(activations))
    mean, sd = x.mean(0), x.std(0) + 1e-3
    km = MiniBatchKMeans(number_of_concepts, random_state=random_state, n_init=3).fit((x - mean) / sd)
    w = km.cluster_centers_ / sd
    w /= np.linalg.norm(w, axis=1, keepdims=True)
    z = x @ w.T
    b = np.quantile(z, 1 - 1 / max(2, number_of_concepts), axis=0)
    on = z > b
    s = np.stack([x[on[:, i]].mean(0) - x[~on[:, i]].mean(0) for i in range(len(w))])
    m = np.array([z[~on[:, i], i].mean() for i in range(len(w))])
    pairs = DirectionPairs(w * 5, b * 5, s, mean, m * 5)
    return pairs, History(occupancy=on.mean(0))
