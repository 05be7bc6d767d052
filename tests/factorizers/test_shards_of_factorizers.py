"""Factorizers learn from shards in passes over the files, or say why they cannot."""

import numpy as np
import pytest

from xplique_dirpairs import (
    ActivationShards,
    ArchetypalFactorizer,
    ConvexNMFFactorizer,
    DictionaryLearningFactorizer,
    FastICAFactorizer,
    KMeansFactorizer,
    NMFFactorizer,
    PCAFactorizer,
    RelaxedArchetypalFactorizer,
    SemiNMFFactorizer,
    TopKFactorizer,
)
from xplique_dirpairs.core.linear_algebra import cosines, match

CONCEPTS = 3


@pytest.fixture(scope="module")
def mixtures():
    """Return maps (60, 5, 5, 6) of three non-negative atoms, few of them at a position."""
    rng = np.random.default_rng(0)
    atoms = np.abs(rng.normal(size=(CONCEPTS, 6)))
    amounts = rng.gamma(2.0, size=(60, 5, 5, CONCEPTS)) * (rng.random((60, 5, 5, CONCEPTS)) < 0.4)
    return (amounts @ atoms + 0.01 * rng.random((60, 5, 5, 6))).astype(np.float32)


@pytest.fixture
def shards(mixtures, tmp_path):
    return ActivationShards.write(tmp_path / "shards", [mixtures], megabytes=0.005)


def explained(factorizer, x):
    lost = np.square(x - factorizer.decode(factorizer.encode(x))).sum()
    return 1 - lost / np.square(x - x.mean(axis=0)).sum()


FROM_SHARDS = {
    "PCA": PCAFactorizer,
    "K-Means": KMeansFactorizer,
    "NMF": NMFFactorizer,
    "dictionary learning": lambda *a, **k: DictionaryLearningFactorizer(*a, alpha=0.1, **k),
    "TopK": lambda *a, **k: TopKFactorizer(*a, steps=60, n_init=1, **k),
    "archetypal": lambda *a, **k: ArchetypalFactorizer(*a, steps=50, **k),
    "relaxed archetypal": lambda *a, **k: RelaxedArchetypalFactorizer(*a, steps=50, **k),
}


@pytest.mark.filterwarnings("ignore::xplique_dirpairs.LearningWarning")
@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.slow) if "archetypal" in name else name
        for name in FROM_SHARDS
    ],
)
def test_a_fit_to_shards_explains_what_a_fit_to_the_array_explains(name, mixtures, shards):
    assert len(shards.counts) > 3
    x = mixtures.reshape(-1, 6)
    fitted = [FROM_SHARDS[name](CONCEPTS, random_state=0) for _ in range(2)]
    bank, coefficients = fitted[0].fit(shards)
    fitted[1].fit(x)

    assert coefficients.shape == (len(x), CONCEPTS)
    np.testing.assert_allclose(coefficients, fitted[0].encode(x), atol=1e-5)
    np.testing.assert_array_equal(bank, fitted[0].components_)
    found, wanted = (explained(factorizer, x) for factorizer in fitted)
    assert found > wanted - 0.02


@pytest.mark.parametrize("make", [PCAFactorizer, KMeansFactorizer])
def test_exact_methods_find_the_same_in_shards(make, mixtures, shards):
    x = mixtures.reshape(-1, 6)
    ours, theirs = (make(CONCEPTS, random_state=0) for _ in range(2))
    ours.fit(shards)
    theirs.fit(x)
    table = cosines(ours.bank_, theirs.bank_)
    matched = table[match(table), np.arange(CONCEPTS)]
    assert matched.min() > 0.99
    np.testing.assert_allclose(ours.constant_, theirs.constant_, atol=1e-5)


@pytest.mark.parametrize("make", [FastICAFactorizer, SemiNMFFactorizer, ConvexNMFFactorizer])
def test_methods_that_need_all_positions_at_once_say_so(make, shards):
    with pytest.raises(TypeError, match=f"{make.__name__} needs all positions.*PCAFactorizer"):
        make(CONCEPTS).fit(shards)


def test_more_concepts_than_positions_are_refused_in_shards_too(tmp_path):
    few = ActivationShards.write(tmp_path / "few", [np.random.default_rng(0).random((2, 6))])
    with pytest.raises(ValueError, match="3 concepts cannot be learned from 2 positions"):
        PCAFactorizer(CONCEPTS).fit(few)


def test_constant_activations_in_shards_are_refused(tmp_path):
    constant = ActivationShards.write(tmp_path / "constant", [np.ones((9, 6))])
    for make in (PCAFactorizer, KMeansFactorizer, NMFFactorizer, DictionaryLearningFactorizer):
        with pytest.raises(ValueError, match="must not be constant"):
            make(2).fit(constant)
