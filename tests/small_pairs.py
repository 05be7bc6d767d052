"""Small direction pairs for the tests."""

import numpy as np

from xplique_dirpairs.pairs import DirectionPairs

D, I = 7, 3


def make(seed=0, concepts=I, channels=D, scale=1.0):
    """Return pairs with filters close to signal vectors, and margins of very different sizes."""
    rng = np.random.default_rng(seed)
    rows = rng.normal(size=(concepts, channels))
    if concepts <= channels:
        rows = np.linalg.qr(rows.T)[0].T
    margins = rng.uniform(0.05, 3.0, size=(concepts, 1))
    biases = rng.normal(0.5, 0.3, concepts) / margins[:, 0]
    return DirectionPairs(
        filters=rows / margins,
        biases=biases,
        signals=scale * (rows + 0.1 * rng.normal(size=rows.shape)),
        mean=rng.normal(size=channels),
        absent_levels=biases - 1.0 / margins[:, 0],
        recurrence=rng.uniform(size=concepts),
    )


def features(shape=(5, 2, 3), channels=D, seed=1, dtype=np.float64):
    """Return random features, (*shape, channels)."""
    return np.random.default_rng(seed).normal(size=(*shape, channels)).astype(dtype)


#: Valid arguments of `DirectionPairs`.
GOOD = dict(
    filters=np.eye(2, 4),
    biases=np.zeros(2),
    signals=np.eye(2, 4),
    mean=np.zeros(4),
    absent_levels=np.zeros(2),
    recurrence=np.ones(2),
)


def same(first, second):
    """Return whether all values of two pairs are equal."""
    return all(
        (a is None and b is None) or np.array_equal(a, b)
        for a, b in ((getattr(first, n), getattr(second, n)) for n in GOOD)
    )
