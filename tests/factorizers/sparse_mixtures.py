"""Features with a known sparse dictionary, for the tests of several factorizers."""

import numpy as np


def sparse_mixtures(positions, channels, concepts, seed=0, noise=0.05, offset=3.0):
    """Return features that mix few of the atoms each, and the atoms (unit rows)."""
    rng = np.random.default_rng(seed)
    atoms = rng.normal(size=(concepts, channels))
    atoms /= np.linalg.norm(atoms, axis=1, keepdims=True)
    there = rng.random((positions, concepts)) < min(0.3, 2.5 / concepts)
    x = (there * rng.uniform(0.5, 2.0, there.shape)) @ atoms + offset
    return (x + noise * rng.normal(size=x.shape)).astype(np.float32), atoms
