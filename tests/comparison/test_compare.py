"""What `compare` measures: all extractors and two controls, in the same way."""

from functools import partial

import keras
import numpy as np
import pytest
from conftest import NETWORKS, make_pairs
from small_comparison import (
    FIT_IMAGES,
    IMAGES,
    LABELS,
    fit_on_positions,
    run_comparison,
    three_extractors,
)
from xplique.concepts import HolisticCraftTf
from xplique.concepts.tf.layered_model_latent_extractor import LayeredModelExtractorBuilder

from xplique_dirpairs import (
    ConceptLayer,
    DirectionPairsFactorizer,
    DirectionPairsTf,
    Head,
    KMeansFactorizer,
    PCAFactorizer,
    RandomFactorizer,
    split_model,
)
from xplique_dirpairs.comparison.extractor_result import (
    CONTROLS,
    NO_LEARNING,
    RANDOM,
)
from xplique_dirpairs.core.batching import as_positions
from xplique_dirpairs.data.images import compute_activations
from xplique_dirpairs.metrics.dictionary import (
    max_coherence,
    ood_score,
    oriented,
    plausibility,
)
from xplique_dirpairs.metrics.fidelity import fidelity
from xplique_dirpairs.metrics.importance import sobol_designs, sobol_indices
from xplique_dirpairs.metrics.manipulation import Reading, outcomes

pytestmark = pytest.mark.usefixtures("quick_learning")


@pytest.fixture
def run(halves):
    return partial(run_comparison, halves)


@pytest.fixture
def shared(halves):
    return three_extractors(halves)


def test_values_match_those_of_calling_the_metrics_directly(run, halves):
    pca = fit_on_positions(PCAFactorizer(3), halves)
    result = run({"PCA": pca}).results["PCA"]
    g, h = halves("conv_gap")
    head = Head(h)
    x, x_fit = (compute_activations(g, images) for images in (IMAGES, FIT_IMAGES))
    u = pca.encode(as_positions(x)).reshape(*x.shape[:-1], 3)
    limits = min(x.min(), x_fit.min()), max(x.max(), x_fit.max())
    reading = Reading(x, u, pca.bank_, head.logits, LABELS, limits)
    rebuilt = pca.decode(as_positions(u)).reshape(x.shape)  # PCA has a mean residual of zero.
    expected = fidelity(reading, reconstructions=rebuilt, labels=LABELS, random_state=0)
    for key, values in expected.values.items():
        np.testing.assert_allclose(result.values[key], values, atol=2e-4, err_msg=key)
    directions = oriented(pca.bank_, as_positions(u))
    rows = head.class_rows
    assert result.values["plausibility"] == pytest.approx(plausibility(directions, rows), abs=1e-5)
    two = run({"PCA": pca}, [0, 2, 0, 2, 0, 2], controls=False).results["PCA"].values
    assert two["plausibility"] == pytest.approx(plausibility(directions, rows[[0, 2]]), abs=1e-5)
    about_mean = ood_score(directions, as_positions(x) - pca.constant_)
    assert result.values["ood"] == pytest.approx(about_mean, abs=1e-5)
    coherence = max_coherence(pca.bank_)
    assert result.values["max_coherence"] == pytest.approx(coherence, abs=1e-6)
    np.testing.assert_allclose(result.fidelity.deletion.areas, expected.deletion.areas, atol=1e-5)


def test_importances_are_means_of_sobol_indices_over_evenly_spaced_images(run, halves):
    pca = fit_on_positions(PCAFactorizer(3), halves)
    g, _ = halves("conv_gap")
    keras.utils.set_random_seed(0)
    latent = keras.Input(g.output_shape[1:])
    pooled = keras.layers.GlobalAveragePooling2D()(latent)
    bent = keras.layers.Dense(8, "tanh", kernel_initializer="orthogonal")(30 * pooled)
    h = keras.Model(latent, keras.layers.Dense(3)(bent))  # not additive, so errors are not 0
    options = {"importance_images": 2, "nb_design": 8, "split": (g, h)}
    result = run({"PCA": pca}, controls=False, **options).results["PCA"].importances
    x, x_fit = (compute_activations(g, images) for images in (IMAGES, FIT_IMAGES))
    limits = min(x.min(), x_fit.min()), max(x.max(), x_fit.max())
    expected = []
    for image, masks in zip((0, 5), sobol_designs(3, 8, 0), strict=False):  # a design per image
        one = x[image : image + 1]
        u = pca.encode(as_positions(one)).reshape(*one.shape[:-1], 3)
        reading = Reading(one, u, pca.bank_, Head(h).logits, LABELS[image : image + 1], limits)
        expected.append(sobol_indices(outcomes(reading, masks).logits[0], masks))
    for index, error in (("first", "first_error"), ("total", "total_error")):
        means = np.mean([getattr(each, index) for each in expected], axis=0)
        np.testing.assert_allclose(getattr(result, index), means, atol=1e-4)
        squares = np.sum([getattr(each, error) ** 2 for each in expected], axis=0)
        errors = np.sqrt(squares) / 2
        assert errors.min() > 1e-3
        np.testing.assert_allclose(getattr(result, error), errors, atol=1e-4)


def test_xpliques_own_craft_is_measured(shared):
    craft = shared.results["CRAFT"]
    assert craft.decoding is None
    assert "cross_talk" not in craft.values and "cross_talk" in shared.results["pairs"].values
    assert craft.seconds.keys() == {"fit", "read", "measure"}
    assert 0 < craft.summaries["deletion"].value < 1


def test_controls_come_last_and_have_the_most_frequent_number_of_concepts(shared, run, halves):
    assert list(shared.results) == ["CRAFT", "pairs", "PCA", *CONTROLS]
    assert len(shared.results[RANDOM].encoding) == 3
    assert len(shared.results[NO_LEARNING].encoding) == 3
    alone = run({"PCA": fit_on_positions(PCAFactorizer(2), halves)}, controls=False)
    assert list(alone.results) == ["PCA"]


def test_the_order_of_extractors_does_not_matter(run, halves):
    extractors = {
        "a": fit_on_positions(PCAFactorizer(3), halves),
        "b": fit_on_positions(RandomFactorizer(2, random_state=1), halves),
    }
    one, other = run(extractors), run(dict(reversed(extractors.items())))
    assert len(one.results[RANDOM].encoding) == 3  # the larger of two equally frequent sizes
    for name, result in one.results.items():
        for key, values in result.values.items():
            np.testing.assert_array_equal(values, other.results[name].values[key], err_msg=key)


def test_the_mean_residual_is_added_to_the_reconstructions_of_every_extractor(run, halves):
    class Uncentred(PCAFactorizer):
        """PCA whose decoder does not add the mean."""

        def decode(self, coefficients):
            return super().decode(coefficients) - self.constant_

    both = run(
        {"with": fit_on_positions(PCAFactorizer(2), halves),
         "without": fit_on_positions(Uncentred(2), halves)}
    )  # fmt: skip
    ours, theirs = (both.results[name].values["activation_r2"] for name in ("with", "without"))
    np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=1e-3)


def test_extractors_of_every_kind_and_pairs_themselves_can_be_compared(run, halves, images):
    keras.utils.set_random_seed(0)
    maker, shape, layer = NETWORKS["conv_gap"]
    model = maker(shape)  # The halves have the same weights.
    index = [candidate.name for candidate in model.layers].index(layer)
    latent = LayeredModelExtractorBuilder.build(model, index, batch_size=4)
    pairs = make_pairs(8, 3)
    comparison = run(
        {
            "pairs": pairs,
            "layer": ConceptLayer.of(pairs, halves("conv_gap")),
            "factorizer": DirectionPairsFactorizer.from_pairs(pairs),
            "given": DirectionPairsTf(halves("conv_gap"), pairs=pairs, patch_size=16),
            "holistic": HolisticCraftTf(latent, 3),
            "to fit": KMeansFactorizer(3, random_state=0),
        },
        controls=False,
    )
    assert not comparison.errors and len(comparison.results) == 6
    first, *others = (
        comparison.results[name].values["deletion"]
        for name in ("pairs", "layer", "factorizer", "given")
    )
    for other in others:
        np.testing.assert_array_equal(first, other)


def test_uint8_images_a_single_image_and_one_hot_labels_are_accepted(run, halves):
    pictures = (255 * IMAGES).astype(np.uint8)
    extractors = {"PCA": fit_on_positions(PCAFactorizer(2), halves, 255 * FIT_IMAGES)}
    options = {"fit_images": (255 * FIT_IMAGES).astype(np.uint8), "images": pictures}
    by_index = run(extractors, **options)
    one_hot = run(extractors, np.eye(3)[LABELS].tolist(), **options)
    assert by_index.images.dtype == np.uint8
    assert by_index.images.shape == pictures.shape
    for key, values in by_index.results["PCA"].values.items():
        np.testing.assert_array_equal(values, one_hot.results["PCA"].values[key])
    single = run(extractors, [1], **options | {"images": pictures[0]})
    assert single.results["PCA"].values["deletion"].shape == (1,)
    assert "PCA" in str(single)


def test_without_labels_predicted_classes_are_used_and_completeness_is_missing(run, halves):
    comparison = run({"PCA": fit_on_positions(PCAFactorizer(2), halves)}, labels=None)
    g, h = halves("conv_gap")
    predicted = Head(h).logits(compute_activations(g, IMAGES)).argmax(axis=1)
    np.testing.assert_array_equal(comparison.class_ids, predicted)
    assert "completeness" not in comparison.results["PCA"].values
    assert "completeness" not in str(comparison)


def sigmoid_split(outputs):
    """Return a network whose outputs are independent of each other, and its halves."""
    keras.utils.set_random_seed(0)
    inputs = keras.Input((32, 32, 3))
    x = keras.layers.Conv2D(6, 3, 4, activation="relu", bias_initializer="ones", name="f")(inputs)
    x = keras.layers.GlobalAveragePooling2D()(x)
    model = keras.Model(inputs, keras.layers.Dense(outputs, activation="sigmoid")(x))
    return model, split_model(model, "f")


@pytest.mark.parametrize(
    "outputs, labels, class_ids",
    [
        (1, [0, 1, 1, 0, 1, 0], [0, 1, 1, 0, 1, 0]),
        (2, [[0, 1], [1, 0], [1, 0], [0, 1], [1, 0], [0, 1]], [1, 0, 0, 1, 0, 1]),
    ],
)
def test_independent_outputs_and_one_output_have_completeness(run, outputs, labels, class_ids):
    g, h = sigmoid_split(outputs)[1]
    h = keras.Model(h.input, keras.layers.Activation("sigmoid")(h.output))
    comparison = run({"PCA": PCAFactorizer(2)}, labels, split=(g, h), controls=False)
    assert not comparison.errors
    np.testing.assert_array_equal(comparison.class_ids, class_ids)
    assert comparison.results["PCA"].values["completeness"].shape == (6, 2)


def test_indices_among_independent_outputs_give_no_completeness(run):
    split = sigmoid_split(3)[1]
    comparison = run({"PCA": PCAFactorizer(2)}, split=split, controls=False)
    np.testing.assert_array_equal(comparison.class_ids, LABELS)
    assert "completeness" not in comparison.results["PCA"].values


def test_the_two_classes_of_one_output_have_its_probability_and_the_complement(run):
    model, split = sigmoid_split(1)
    comparison = run({"PCA": PCAFactorizer(2)}, [0, 1, 1, 0, 1, 0], split=split, controls=False)
    intact = comparison.results["PCA"].fidelity.deletion.probabilities[:, 0]
    yes = model(IMAGES).numpy()[:, 0]
    np.testing.assert_allclose(intact, np.where(comparison.class_ids == 1, yes, 1 - yes), atol=1e-5)


def test_sigmoids_stay_sigmoids_when_the_network_is_split(run):
    model, split = sigmoid_split(3)
    labels = np.array([[0, 1, 1], [0, 0, 0], [1, 0, 0], [1, 1, 1], [0, 1, 0], [1, 0, 1]])
    for given in (split, tuple(split)):
        comparison = run({"PCA": PCAFactorizer(2)}, labels, split=given, controls=False)
        intact = comparison.results["PCA"].fidelity.deletion.probabilities[:, 0]
        own = model(IMAGES).numpy()[np.arange(6), comparison.class_ids]
        np.testing.assert_allclose(intact, own, atol=1e-5)
    assert comparison.class_ids[2] == 0 and comparison.class_ids[4] == 1


@pytest.mark.parametrize("network", ["class_token", "vectors", "conv_flatten", "gelu"])
def test_extractors_at_layers_of_any_shape_are_compared_and_plotted(run, images, network):
    comparison = run(
        {"PCA": PCAFactorizer(2), "pairs": DirectionPairsFactorizer(3, random_state=0)},
        network=network, images=images(network, 6, 1), fit_images=images(network, 8, 2),
    )  # fmt: skip
    assert not comparison.errors and len(comparison.results) == 4
    for figure in (
        comparison.plot(),
        comparison.plot_maps(1, n=2),
        comparison.plot_aligned("PCA", "pairs"),
    ):
        figure.canvas.draw()
