"""Blends of two images: planted readers, a slow second writing, and the table of a comparison."""

import keras
import numpy as np
import pytest
from conftest import NETWORKS, make_images, make_pairs

from xplique_dirpairs import (
    ConceptLayer,
    DirectionPairs,
    KMeansFactorizer,
    PCAFactorizer,
    blend_separation,
    compare,
    split_model,
)  # fmt: skip
from xplique_dirpairs.metrics.blend import BlendCounts, BlendScores, firing_thresholds

CONCEPTS = 8


def planted_images(count=60, seed=0, noise=0.02):
    """Return images whose channels are concepts: one of eight at every position."""
    rng = np.random.default_rng(seed)
    present = np.eye(CONCEPTS)[rng.integers(CONCEPTS, size=(count, 6, 6))]
    amounts = rng.uniform(1, 2, (count, 6, 6, 1))
    return (present * amounts + noise * rng.normal(size=present.shape)).astype(np.float32)


def planted_layer(function, name="features"):
    """Return eight detectors, each of one channel, after a function of the images."""
    inputs = keras.Input((6, 6, CONCEPTS))
    x = keras.layers.Lambda(function, name=name)(inputs)
    x = keras.layers.Dense(3)(keras.layers.GlobalAveragePooling2D()(x))
    eye, zeros = np.eye(CONCEPTS), np.zeros(CONCEPTS)
    pairs = DirectionPairs(20 * eye, np.full(CONCEPTS, 10.0), eye, zeros, zeros)
    return ConceptLayer.of(pairs, split_model(keras.Model(inputs, x), name))


def winner(x):
    return x * keras.ops.cast(x == keras.ops.max(x, axis=-1, keepdims=True), x.dtype)


def test_an_additive_network_has_the_concepts_of_both_images():
    found = blend_separation(planted_layer(lambda x: 1.0 * x), planted_images(), 50)
    assert found.images.recall.value >= 0.999 and found.images.false_firing.value <= 0.001
    assert found.images.additivity.value >= 0.99
    assert found.features.recall.value == pytest.approx(found.images.recall.value)


def test_a_network_in_which_the_strongest_wins_has_those_of_one():
    found = blend_separation(planted_layer(winner), planted_images(), 50)
    # at one position in eight both images have the same concept, which then wins
    assert found.images.recall.value == pytest.approx(1 - 0.5 * 7 / 8, abs=0.05)
    assert found.images.false_firing.value <= 0.02
    assert found.images.additivity.value < 0.5
    assert found.features.additivity.value >= 0.99 and found.features.recall.value >= 0.999
    np.testing.assert_allclose(found.images.recall_by_concept, 0.56, atol=0.2)


def slow_scores(u_a, u_b, u, blend, thresholds):
    """Return recall and false share of each pair, and R² of all, number by number."""
    n, positions, concepts = u.shape
    recall, false = [], []
    for k in range(n):
        hits = wanted = wrong = absent = 0
        for p in range(positions):
            for i in range(concepts):
                fires = u[k, p, i] > min(blend, 1 - blend) * thresholds[i]
                if u_a[k, p, i] > thresholds[i] or u_b[k, p, i] > thresholds[i]:
                    wanted, hits = wanted + 1, hits + fires
                else:
                    absent, wrong = absent + 1, wrong + fires
        recall.append(hits / wanted)
        false.append(wrong / absent)
    error = whole = 0.0
    for i in range(concepts):
        own = u[:, :, i]
        error += ((own - blend * u_a[:, :, i] - (1 - blend) * u_b[:, :, i]) ** 2).sum() / own.var()
        whole += ((own - own.mean()) ** 2).sum() / own.var()
    return recall, false, 1 - error / whole


@pytest.mark.parametrize("blend", [0.5, 0.3])
def test_scores_equal_a_slow_reference(blend):
    rng = np.random.default_rng(0)
    u_a, u_b, noise = rng.gamma(0.5, size=(3, 5, 7, 3))
    u = blend * u_a + (1 - blend) * u_b + 0.3 * noise
    thresholds = np.array([0.3, 0.5, 0.1])
    scores = BlendScores(BlendCounts.of(u_a, u_b, u, blend, thresholds))
    recall, false, r2 = slow_scores(u_a, u_b, u, blend, thresholds)
    np.testing.assert_allclose(scores.recall_by_pair, recall)
    np.testing.assert_allclose(scores.false_by_pair, false)
    assert scores.additivity.value == pytest.approx(r2)
    assert np.mean(scores.additivity_by_concept) == pytest.approx(r2)

    def counts(part, order):
        own = (values[part][..., order] for values in (u_a, u_b, u))
        return BlendCounts.of(*own, blend, thresholds[order])

    every = [0, 1, 2]
    parts = [counts(slice(2), every), counts(slice(2, 5), every)]
    joined = BlendScores(BlendCounts.joined(parts))
    np.testing.assert_allclose(joined.additivity_by_pair, scores.additivity_by_pair)
    turned = BlendScores(counts(slice(5), [2, 0, 1]))
    np.testing.assert_allclose(turned.recall_by_pair, scores.recall_by_pair)


def test_concepts_that_never_fire_or_vary_have_no_scores():
    zeros = np.zeros((3, 4, 2))
    scores = BlendScores(BlendCounts.of(zeros, zeros, zeros, 0.5, np.ones(2)))
    assert np.isnan(scores.recall_by_pair).all() and (scores.false_by_pair == 0).all()
    assert np.isnan(scores.additivity.value) and np.isnan(scores.additivity_by_concept).all()


def test_thresholds_give_concepts_one_rate_of_firing():
    u = np.random.default_rng(0).normal(size=(10, 10, 10, 3)) * [1, 5, 0.1]
    np.testing.assert_allclose((u > firing_thresholds(u, 0.1)).mean(axis=(0, 1, 2)), 0.1, atol=0.01)
    assert (firing_thresholds(-np.abs(u), 0.1) == 0).all()
    clusters = np.eye(3, dtype=np.float32)[[0, 0, 1, 0, 2]]
    np.testing.assert_array_equal(clusters > firing_thresholds(clusters, 0.1), clusters == 1)
    # shares of clusters in cells: four of 100 are larger than the 20 equal ones below, or nine are
    for larger, fires in ((4, 24), (9, 9)):
        shares = np.repeat([0.0, 3 / 9, 4 / 9], [80 - larger, 20, larger])[:, None]
        assert (shares > firing_thresholds(shares, 0.1)).sum() == fires


@pytest.mark.parametrize("name", ["conv_gap", "tokens", "vectors"])
def test_any_extractor_at_any_layer(name):
    maker, shape, layer = NETWORKS[name]
    split, images = split_model(maker(shape), layer), make_images(12, shape)
    x = split.input_to_latent_model.predict_on_batch(images)
    factorizer = KMeansFactorizer(3, random_state=0)
    factorizer.fit(x.reshape(-1, x.shape[-1]))
    for fitted in (make_pairs(x.shape[-1], 3), factorizer):
        concepts = ConceptLayer.of(fitted, split)
        found = blend_separation(concepts, images, 20, batch_size=7)
        again = blend_separation(concepts, images, 20)
        assert found.images.counts.wanted.shape == (20, 3)
        np.testing.assert_allclose(found.images.counts.hits, again.images.counts.hits)
        assert "blends of 20 pairs" in str(found) and "all" in str(found.table())


def test_a_linear_reading_of_blended_features_is_additive():
    maker, shape, layer = NETWORKS["conv_gap"]
    split, images = split_model(maker(shape), layer), make_images(12, shape)
    x = split.input_to_latent_model.predict_on_batch(images)
    pca = PCAFactorizer(3, random_state=0)
    pca.fit(x.reshape(-1, x.shape[-1]))
    found = blend_separation(ConceptLayer.of(pca, split), images, 20, blend=0.3)
    assert found.features.additivity.value == pytest.approx(1.0, abs=1e-5)
    assert found.images.additivity.value < 0.9999


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"pairs": 0}, "pairs must be"),
        ({"blend": 1.0}, "blend must lie"),
        ({"rate": 0.0}, "rate must lie"),
        ({"batch_size": 0}, "batch_size"),
        ({"images": np.zeros((1, 6, 6, 8))}, "at least 2 images"),
        ({"random_state": "a"}, "random_state"),
    ],
)
def test_bad_input_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        blend_separation(
            **{"concepts": planted_layer(winner), "images": planted_images(4)} | change
        )


def test_a_comparison_has_a_table_of_blends():
    layer = planted_layer(winner)
    images = planted_images(20)
    comparison = compare(
        {"pairs": layer}, images, controls=False, importance_images=1, nb_design=2, verbose=0
    )
    values = comparison.results["pairs"].values
    assert values["blend_recall"].shape == (20,) and values["blend_r2"].shape == (20, 2)
    table = str(comparison.table("blending"))
    assert "blend recall" in table and "blend R² (features)" in table
    figure = comparison.results["pairs"].figure("blend_ceiling")
    assert figure.value >= 0.99 and comparison.results["pairs"].figure("blend_r2").value < 0.6
