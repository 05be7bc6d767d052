"""`attribute`: any extractor's concepts and a class score, without a closure of one's own."""

import keras
import numpy as np
import pytest
from conftest import make_pairs
from sklearn.exceptions import NotFittedError
from xplique.concepts import CraftTf

from xplique_dirpairs import (
    ConceptLayer,
    DirectionPairsFactorizer,
    NMFFactorizer,
    PCAFactorizer,
    attribute,
)
from xplique_dirpairs.comparison.attributions import MEASURES
from xplique_dirpairs.core.batching import as_positions
from xplique_dirpairs.data.images import compute_activations
from xplique_dirpairs.factorizers.controls import RandomFactorizer

CLASSES = np.array([0, 2, 1, 1, 0])
every_measure = pytest.mark.parametrize("measure", MEASURES)


@pytest.fixture
def data(images):
    return images("conv_gap", 5, seed=1)


@pytest.fixture
def fitted(halves, data):
    activations = as_positions(compute_activations(halves("conv_gap")[0], data))

    def fit(factorizer):
        factorizer.fit(activations)
        return factorizer

    return fit


@pytest.fixture
def run(halves, data):
    def run(extractor, images=data, class_ids=CLASSES, network="conv_gap", **options):
        return attribute(ConceptLayer.of(extractor, halves(network)), images, class_ids, **options)

    return run


def by_hand(halves, extractor, images, masks):
    """Logits (N, M, K) with concepts switched off by masks, features clipped, one at a time."""
    g, h = halves("conv_gap")
    x = compute_activations(g, images)
    concepts = ConceptLayer.of(extractor, (g, h))
    u = concepts.coefficients(x)
    moved = [x - ((1 - mask) * u) @ concepts.bank for mask in masks]
    return np.stack([h(np.clip(one, x.min(), x.max())).numpy() for one in moved], axis=1)


def test_leave_one_out_is_the_drop_of_the_logit(run, fitted, halves, data):
    nmf = fitted(NMFFactorizer(3))
    logits = by_hand(halves, nmf, data, [np.ones(3), *(1 - np.eye(3))])
    of_class = np.take_along_axis(logits, CLASSES[:, None, None], axis=2)[..., 0]
    result = run(nmf, measure="leave-one-out")
    np.testing.assert_allclose(result.values, of_class[:, :1] - of_class[:, 1:], atol=1e-5)
    assert result.error is None and result.gap is None


@pytest.mark.parametrize("measure", ["shapley", "integrated gradients"])
def test_shapley_values_and_integrated_gradients_sum_to_the_effect_of_all_concepts(
    measure, run, fitted, halves, data
):
    nmf = fitted(NMFFactorizer(3))
    logits = by_hand(halves, nmf, data, [np.ones(3), np.zeros(3)])
    change = (logits[:, 0] - logits[:, 1])[np.arange(5), CLASSES]
    result = run(nmf, measure=measure, steps=200)
    missed = 0 if result.gap is None else result.gap
    np.testing.assert_allclose(result.values.sum(axis=1) - missed, change, atol=1e-4)
    assert np.abs(missed).max() < 0.02 * np.abs(change).max()


@pytest.fixture(scope="module")
def unclipped():
    """A layer whose range concepts do not leave, under a linear head."""
    inputs = keras.Input((6, 6, 2))
    g = keras.Model(inputs, keras.layers.Conv2D(4, 3)(inputs))
    latent = keras.Input((4, 4, 4))
    pooled = keras.layers.GlobalAveragePooling2D()(latent)
    return g, keras.Model(latent, keras.layers.Dense(3)(pooled))


def test_all_agree_on_a_linear_head(unclipped, rng):
    """One small concept moves features little: nothing is clipped, and u · ∂score/∂u is it."""
    g, h = unclipped
    images = rng.normal(size=(7, 6, 6, 2)).astype(np.float32)
    images[0] *= 50  # the range of the others is inside that of this one
    pca = PCAFactorizer(3)
    pca.fit(as_positions(compute_activations(g, images[1:])))
    x = compute_activations(g, images)
    u = pca.encode(as_positions(x)).reshape(7, 16, 3)
    weights = h.layers[-1].kernel.numpy()
    truth = u.mean(axis=1)[1:] * (pca.get_concept_bank() @ weights).T[[0, 1, 2, 0, 1, 2]]
    concepts = ConceptLayer.of(pca, unclipped)
    for measure in MEASURES:
        result = attribute(concepts, images, [0, 0, 1, 2, 0, 1, 2], measure=measure)
        np.testing.assert_allclose(result.values[1:], truth, atol=1e-4, err_msg=measure)


def test_rounding_of_features_at_a_limit_does_not_cut_off_the_slope(unclipped, rng):
    """Features of a ReLU are often 0, which many concepts and a residual sum to but roughly."""
    inputs = keras.Input((6, 6, 2))
    g = keras.Model(inputs, keras.layers.Conv2D(4, 3, activation="relu")(inputs))
    h = unclipped[1]
    images = rng.normal(size=(7, 6, 6, 2)).astype(np.float32)
    x = compute_activations(g, images)
    assert (x == 0).mean() > 0.2
    factorizer = RandomFactorizer(1000, random_state=0)
    factorizer.fit(rng.normal(size=(1000, 4)))
    slopes = factorizer.get_concept_bank() @ h.layers[-1].kernel.numpy()[:, 1] / 16
    truth = factorizer.encode(as_positions(x)).reshape(7, 16, 1000).sum(axis=1) * slopes
    concepts = ConceptLayer.of(factorizer, (g, h))
    result = attribute(concepts, images, np.full(7, 1), measure="gradient x coefficient")
    np.testing.assert_allclose(result.values, truth, atol=1e-6)


@every_measure
def test_a_batch_of_another_size_or_order_changes_nothing(measure, run, fitted, data):
    nmf = fitted(NMFFactorizer(3))
    whole = run(nmf, measure=measure).values
    np.testing.assert_allclose(run(nmf, measure=measure, batch_size=2).values, whole, atol=1e-5)
    turned = run(nmf, data[::-1], CLASSES[::-1], measure=measure).values
    if measure != "shapley":  # orders are of the place in the design, the same for all images
        np.testing.assert_allclose(turned[::-1], whole, atol=1e-5)


def test_probabilities_and_logits_of_a_network_agree_up_to_the_softmax(run, fitted, halves, data):
    """Of log p a concept gets what it does to log p: leave-one-out, by hand."""
    nmf, (g, h) = fitted(NMFFactorizer(3)), halves("conv_gap")
    with_softmax = keras.Model(h.inputs, keras.layers.Softmax()(h.outputs[0]))
    concepts = ConceptLayer.of(nmf, (g, with_softmax))
    result = attribute(concepts, data, CLASSES, measure="integrated gradients", steps=200)
    logits = by_hand(halves, nmf, data, [np.ones(3), np.zeros(3)])
    log_p = logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))
    change = (log_p[:, 0] - log_p[:, 1])[np.arange(5), CLASSES]
    np.testing.assert_allclose(result.values.sum(axis=1) - result.gap, change, atol=1e-4)


def test_pairs_their_factorizer_and_craft_are_all_attributed(run, halves, data):
    pairs = make_pairs(halves("conv_gap")[0].output_shape[-1], 4)
    factorizer = DirectionPairsFactorizer.from_pairs(pairs)
    np.testing.assert_array_equal(run(pairs).values, run(factorizer).values)
    craft = CraftTf(*halves("conv_gap"), 3, patch_size=16)
    craft.fit(data, 0)
    result = attribute(craft, data)  # which knows the network, and the classes are the predicted
    assert result.values.shape == (5, 3)
    logits = halves("conv_gap")[1](compute_activations(halves("conv_gap")[0], data)).numpy()
    np.testing.assert_array_equal(result.class_ids, logits.argmax(axis=1))


def test_one_seed_one_result(run, fitted):
    nmf = fitted(NMFFactorizer(6))
    first, again, other = (run(nmf, random_state=seed, nb_permutations=4) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first.values, again.values)
    assert first.error is not None and np.abs(first.values - other.values).max() > 0


def test_invalid_arguments_are_refused(run, fitted, data):
    nmf = fitted(NMFFactorizer(3))
    with pytest.raises(ValueError, match=r"measure must be one of \('shapley', 'leave-one-out'"):
        run(nmf, measure="lime")
    with pytest.raises(NotFittedError, match=r"not fitted: call fit\(\) first"):
        run(NMFFactorizer(3))
    with pytest.raises(TypeError, match="must be a ConceptLayer, DirectionPairs, a CraftTf"):
        run("NMF")
    with pytest.raises(ValueError, match="steps must be an integer of at least 1"):
        run(nmf, steps=0)
    with pytest.raises(ValueError, match="nb_permutations must be"):
        run(nmf, nb_permutations=3)
    with pytest.raises(ValueError, match="class_ids must be classes 0 to 2"):
        run(nmf, class_ids=[0, 1, 2, 3, 0])
    with pytest.raises(ValueError, match="does not know the network"):
        attribute(nmf, data)
