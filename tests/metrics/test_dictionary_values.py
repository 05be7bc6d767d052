"""Which arrays of an extractor each metric of its dictionary is of."""

import numpy as np
import pytest

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
from xplique_dirpairs.metrics.dictionary_values import dictionary_values


@pytest.fixture
def extractor(rng):
    """Encoding, bank, coefficients and features; a bank of other lengths and directions."""
    bank = rng.normal(size=(4, 6)) * np.array([[1.0], [20.0], [1e-6], [3.0]])
    u = np.where(rng.uniform(size=(50, 4)) < 0.5, rng.exponential(size=(50, 4)), 0.0)
    u[:, 3] *= -1.0
    u[0] = 0.0
    return rng.normal(size=(4, 6)), bank, u, rng.normal(size=(50, 6))


def test_each_metric_is_of_the_arrays_it_says(extractor, rng):
    encoding, bank, u, x = extractor
    heads, filters = rng.normal(size=(3, 6)), rng.normal(size=(4, 6))
    turned = oriented(encoding, u)
    assert (turned[3] == -encoding[3]).all()
    sizes = u[u.any(axis=1)] * np.linalg.norm(bank, axis=1)
    expected = {
        "max_coherence": max_coherence(encoding),
        "stable_rank": stable_rank(encoding),
        "hoyer": hoyer_sparsity(sizes).mean(),
        "l0": l0(u).mean(),
        "dead": dead_concepts(u, bank).sum(),
        "ood": ood_score(turned, x),
        "plausibility": plausibility(turned, heads),
        "cross_talk": cross_talk(filters, encoding),
    }
    found = dictionary_values(encoding, bank, u, x, head_rows=heads, filters=filters)
    assert found.keys() == expected.keys() and found["dead"] == 1
    for key, value in expected.items():
        assert found[key] == pytest.approx(value), key


def test_what_is_not_given_is_not_told_and_what_is_undefined_is_nan(extractor):
    encoding, bank, u, x = extractor
    found = dictionary_values(encoding, bank, np.zeros_like(u), x)
    assert not {"plausibility", "cross_talk"} & found.keys()
    assert np.isnan(found["hoyer"]) and found["l0"] == 0 and found["dead"] == 4
