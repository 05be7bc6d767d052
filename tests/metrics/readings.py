"""Readings with small heads, for the tests of manipulation and fidelity."""

import numpy as np

from xplique_dirpairs.metrics.manipulation import Reading

#: Axes of positions by kind of layer.
POSITIONS = {"vectors": (), "tokens": (5,), "maps": (3, 2)}
CLASSES = 4


class ReluHead:
    """A head of two dense layers with a ReLU between them, on features averaged over positions."""

    def __init__(self, rng, channels, classes=CLASSES):
        self.hidden = rng.normal(size=(channels, 7))
        self.out = rng.normal(size=(7, classes))

    def __call__(self, features):
        pooled = features.reshape(len(features), -1, features.shape[-1]).mean(axis=1)
        return np.maximum(pooled @ self.hidden, 0) @ self.out


def make_reading(rng, positions=(3, 2), images=6, concepts=5, channels=8, **changes):
    """Return a reading at a ReLU layer, with signed coefficients.

    Clipping changes features, and deletion raises some probabilities and lowers others.
    """
    x = np.maximum(rng.normal(0.5, 1.0, (images, *positions, channels)), 0)
    parts = {
        "activations": x,
        "coefficients": rng.normal(0.3, 1.0, (images, *positions, concepts)),
        "bank": rng.normal(size=(concepts, channels)) / 3,
        "predict": ReluHead(rng, channels),
        "class_ids": rng.integers(CLASSES, size=images),
        "limits": (0.0, np.inf),
    }
    return Reading(**parts | changes)


def make_additive(rng, images=4, concepts=4):
    """Return a reading with one feature per concept and an additive head, without clipping."""
    weights = rng.normal(size=(concepts, 1))
    return Reading(
        activations=rng.uniform(1, 2, (images, concepts)),
        coefficients=rng.uniform(0.1, 1, (images, concepts)),
        bank=np.eye(concepts),
        predict=lambda features: features @ weights,
        class_ids=np.zeros(images, int),
        limits=(-np.inf, np.inf),
        final_activation="sigmoid",
    )
