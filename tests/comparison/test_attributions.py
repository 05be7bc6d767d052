"""`attribute`: attributions of a class score to the concepts of any extractor."""

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
    """Return logits (N, M, K) under M masks, computed without `attribute`, features clipped."""
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
    gap = 0 if result.gap is None else result.gap
    np.testing.assert_allclose(result.values.sum(axis=1) - gap, change, atol=1e-4)
    assert np.abs(gap).max() < 0.02 * np.abs(change).max()


@pytest.fixture(scope="module")
def unclipped():
    """Return halves with a layer without activation function and a linear head."""
    inputs = keras.Input((6, 6, 2))
    g = keras.Model(inputs, keras.layers.Conv2D(4, 3)(inputs))
    latent = keras.Input((4, 4, 4))
    pooled = keras.layers.GlobalAveragePooling2D()(latent)
    return g, keras.Model(latent, keras.layers.Dense(3)(pooled))


def test_all_measures_agree_on_a_linear_head(unclipped, rng):
    """Features stay within the layer's range, so that u · ∂score/∂u is exact for all measures."""
    g, h = unclipped
    images = rng.normal(size=(7, 6, 6, 2)).astype(np.float32)
    images[0] *= 50  # Its range contains that of the others, so that these are not clipped.
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


def test_rounding_of_features_at_a_limit_does_not_remove_their_gradient(unclipped, rng):
    """Features of a ReLU are often 0, but concepts plus residual sum to 0 only up to rounding."""
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
def test_batch_size_and_order_of_images_do_not_matter(measure, run, fitted, data):
    nmf = fitted(NMFFactorizer(3))
    expected = run(nmf, measure=measure).values
    np.testing.assert_allclose(run(nmf, measure=measure, batch_size=2).values, expected, atol=1e-5)
    turned = run(nmf, data[::-1], CLASSES[::-1], measure=measure).values
    if measure != "shapley":
        np.testing.assert_allclose(turned[::-1], expected, atol=1e-5)


def test_the_score_of_a_network_with_a_softmax_is_the_log_probability(run, fitted, halves, data):
    """The score of a network with a softmax is log p, so that the values sum to its change."""
    nmf, (g, h) = fitted(NMFFactorizer(3)), halves("conv_gap")
    with_softmax = keras.Model(h.inputs, keras.layers.Softmax()(h.outputs[0]))
    concepts = ConceptLayer.of(nmf, (g, with_softmax))
    result = attribute(concepts, data, CLASSES, measure="integrated gradients", steps=200)
    logits = by_hand(halves, nmf, data, [np.ones(3), np.zeros(3)])
    log_p = logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))
    change = (log_p[:, 0] - log_p[:, 1])[np.arange(5), CLASSES]
    np.testing.assert_allclose(result.values.sum(axis=1) - result.gap, change, atol=1e-4)


def test_pairs_their_factorizer_and_craft_can_be_attributed(run, halves, data):
    pairs = make_pairs(halves("conv_gap")[0].output_shape[-1], 4)
    factorizer = DirectionPairsFactorizer.from_pairs(pairs)
    np.testing.assert_array_equal(run(pairs).values, run(factorizer).values)
    craft = CraftTf(*halves("conv_gap"), 3, patch_size=16)
    craft.fit(data, 0)
    result = attribute(craft, data)  # CRAFT knows the network; the classes are the predicted ones.
    assert result.values.shape == (5, 3)
    logits = halves("conv_gap")[1](compute_activations(halves("conv_gap")[0], data)).numpy()
    np.testing.assert_array_equal(result.class_ids, logits.argmax(axis=1))


def test_a_seed_fixes_the_result(run, fitted):
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
