"""What holds for whatever is fitted, to any features of six shapes: a result, or a clear error."""

import dataclasses
import re
import warnings

import keras
import numpy as np
import pytest
from hypothesis import strategies as st
from many_examples import EVERY_DAY, UNITS, holds_for, holds_in, matrices
from sklearn.exceptions import ConvergenceWarning

from xplique_dirpairs import (
    ConceptLayer,
    ConvexNMFFactorizer,
    DictionaryLearningFactorizer,
    DirectionPairs,
    FastICAFactorizer,
    KMeansFactorizer,
    LearningWarning,
    NMFFactorizer,
    NoLearningFactorizer,
    PCAFactorizer,
    RandomFactorizer,
    SemiNMFFactorizer,
    explain_prediction,
    learn_pairs,
    split_model,
)
from xplique_dirpairs.learning.presets import get_recipe

#: Numbers of examples: what fits takes longer than pure functions.
FEW_OR_MANY = [EVERY_DAY // 4, pytest.param(50, marks=pytest.mark.slow)]
#: (images, *spatial, channels) and number of concepts, from one to twice the channels.
SHAPES = [
    ((8, 1, 1, 1), 1),
    ((6, 2, 2, 3), 2),
    ((6, 2, 2, 3), 6),
    ((5, 4, 4), 8),
    ((20, 5), 5),
    ((4, 3, 2, 6), 1),
]
FACTORIZERS = {
    "PCA": PCAFactorizer,
    "FastICA": lambda n, **k: FastICAFactorizer(n, max_iter=20, **k),
    "K-Means": lambda n, **k: KMeansFactorizer(n, max_iter=20, n_init=1, **k),
    "NMF": lambda n, **k: NMFFactorizer(n, max_iter=20, **k),
    "semi-NMF": lambda n, **k: SemiNMFFactorizer(n, max_iter=20, **k),
    "convex NMF": lambda n, **k: ConvexNMFFactorizer(n, max_iter=20, **k),
    "dictionary learning": lambda n, **k: DictionaryLearningFactorizer(n, max_iter=5, **k),
    "random": RandomFactorizer,
    "no learning": NoLearningFactorizer,
}
#: Words of the errors that are documented for features that nothing can be learned from.
DOCUMENTED = (
    r"must not be constant|too large|cannot be learned from|must be at most|only one position|"
    r"more concepts|finite|vary|distinct"
)


@st.composite
def features(draw):
    """Draw features of one of the shapes, and the number of concepts."""
    shape, concepts = draw(st.sampled_from(SHAPES))
    unit = draw(UNITS)
    x = draw(matrices(int(np.prod(shape[:-1])), shape[-1], unit))
    if draw(st.booleans()):
        x = np.abs(x)  # as after a ReLU
    return x.reshape(shape).astype(np.float32), concepts


def close(found, wanted, unit, tolerance=1e-3):
    np.testing.assert_allclose(found, wanted, rtol=0, atol=tolerance * max(unit, 1e-30))


@pytest.mark.parametrize("examples", FEW_OR_MANY)
@pytest.mark.parametrize("name", FACTORIZERS)
def test_a_factorizer_splits_features_into_a_part_and_the_rest(name, examples):
    @holds_in(examples, case=features())
    def holds(case):
        x, concepts = case
        x = x.reshape(-1, x.shape[-1])
        factorizer = FACTORIZERS[name](concepts, random_state=0)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            try:
                bank, coefficients = factorizer.fit(x)
            except ValueError as error:
                assert re.search(DOCUMENTED, str(error)), error
                return
        unit = float(np.abs(x).max())
        assert bank.shape == (concepts, x.shape[1]) and np.isfinite(bank).all()
        assert coefficients.shape == (len(x), concepts) and np.isfinite(coefficients).all()
        whole = factorizer.decode(factorizer.encode(x)) + factorizer.residual(x)
        close(whole, x, unit)
        order = np.random.default_rng(0).permutation(len(x))
        again = factorizer.decode(factorizer.encode(x[order]))
        close(again, factorizer.decode(factorizer.encode(x))[order], unit)

    holds()


@holds_for(EVERY_DAY // 4, thorough=50, case=features())
def test_learned_pairs_are_finite_and_explain_the_logits_of_a_linear_head(case):
    x, concepts = case
    recipe = get_recipe("soft")
    stage = dataclasses.replace(recipe.stages[-1], epochs=1, steps_per_epoch=2)
    recipe = dataclasses.replace(recipe, stages=(stage,), otherwise=None, start="random")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", LearningWarning)
        try:
            pairs, history = learn_pairs(x, concepts, recipe=recipe, random_state=0, verbose=0)
        except ValueError as error:
            assert re.search(DOCUMENTED, str(error)), error
            return
    assert history.summary()
    u = pairs.coefficients(x)
    assert np.isfinite(u).all() and u.shape == (*x.shape[:-1], concepts)


@pytest.fixture(scope="module")
def linear_network():
    keras.utils.set_random_seed(0)
    inputs = keras.Input((6, 6, 2))
    x = keras.layers.Conv2D(4, 2, 2, activation="relu", name="features")(inputs)
    x = keras.layers.GlobalAveragePooling2D()(x)
    return split_model(keras.Model(inputs, keras.layers.Dense(3)(x)), "features")


@pytest.mark.parametrize("examples", FEW_OR_MANY)
@pytest.mark.parametrize("concepts", [1, 3, 8])
def test_contributions_and_the_residual_sum_to_the_logit(concepts, examples, linear_network):
    @holds_in(
        examples,
        filters=matrices(concepts, 4),
        signals=matrices(concepts, 4),
        image=matrices(36, 2),
        unit=st.sampled_from([1e-4, 1.0, 1e4]),
    )
    def holds(filters, signals, image, unit):
        filters, signals = filters + 0.5, signals + 5.0  # rows of zeros are refused
        if not (np.abs(filters).max(axis=1) > 1e-2).all():
            return
        zeros = np.zeros(concepts)
        pairs = DirectionPairs(filters, zeros, signals, np.zeros(4), zeros - 1)
        layer = ConceptLayer.of(pairs, linear_network)
        picture = (image.reshape(6, 6, 2) * unit).astype(np.float32)
        explained = explain_prediction(layer, picture)
        parts = explained.concept_contributions
        scale = np.abs(parts).max() + abs(explained.residual) + abs(explained.score)
        assert parts.sum() + explained.residual == pytest.approx(
            explained.score, abs=1e-3 * max(float(scale), 1e-6)
        )

    holds()
