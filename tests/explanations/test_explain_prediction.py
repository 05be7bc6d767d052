"""Contributions to a prediction sum to its score in every network. They equal the plain formula for
a linear head, and integrated gradients for any other head."""

import itertools
from dataclasses import replace

import keras
import matplotlib.pyplot as plt
import numpy as np
import pytest
import tensorflow as tf
from conftest import CLASSES, make_images, make_pairs
from sklearn.exceptions import NotFittedError

from xplique_dirpairs.explanations.model import explain_model
from xplique_dirpairs.explanations.prediction import compare_predictions, explain_prediction
from xplique_dirpairs.extractors.concept_layer import ConceptLayer
from xplique_dirpairs.extractors.craft import DirectionPairsTf, FactorizerCraftTf
from xplique_dirpairs.extractors.manager import DirectionPairsManagerTf
from xplique_dirpairs.factorizers.decompositions import PCAFactorizer
from xplique_dirpairs.factorizers.direction_pairs import DirectionPairsFactorizer
from xplique_dirpairs.models.split import SplitModel, split_model
from xplique_dirpairs.pairs import DirectionPairs

NETWORKS = ["conv_gap", "conv_flatten", "tokens", "class_token", "vectors", "gelu", "hidden"]
LINEAR = ["conv_gap", "vectors", "gelu"]
CONCEPTS = 4


@pytest.fixture(scope="module")
def network(halves):
    """Return a function from the name of a network to concepts at its layer, and images."""
    keras.utils.set_random_seed(0)
    inputs = keras.Input((32, 32, 3))
    x = keras.layers.Conv2D(8, 5, 4, activation="relu", name="features")(inputs)
    x = keras.layers.GlobalAveragePooling2D()(x)
    x = keras.layers.Dense(6, activation="relu", bias_initializer="ones")(x)
    hidden = split_model(keras.Model(inputs, keras.layers.Dense(CLASSES)(x)), "features")

    def get(name):
        split = SplitModel.of(hidden if name == "hidden" else halves(name))
        first = split.input_to_latent_model
        layer = ConceptLayer.of(make_pairs(first.output_shape[-1], CONCEPTS), split)
        return layer, make_images(3, first.input_shape[1:])

    return get


def with_off(layer, off):
    """Return the same concepts with another form of switching them off."""
    return ConceptLayer.of(DirectionPairsFactorizer.from_pairs(layer.pairs, off), layer.split)


@pytest.mark.parametrize("off", ["absent", "undecided"])
@pytest.mark.parametrize("name", NETWORKS)
def test_contributions_and_residual_sum_to_the_logit_of_the_network(network, name, off):
    layer, images = network(name)
    layer = with_off(layer, off)
    activations = layer.activations(images[:1])
    for class_id in (0, 1) if name in LINEAR and off == "absent" else (1,):
        explanation = explain_prediction(layer, images[0], class_id)
        logit = layer.head.logits(activations)[0, class_id]
        assert explanation.score == pytest.approx(logit, abs=1e-5)
        assert explanation.contributions.sum() + explanation.residual == pytest.approx(
            logit, abs=1e-4
        )
        assert explanation.contributions.shape == (*activations.shape[1:-1], CONCEPTS)


@pytest.mark.parametrize("name", LINEAR)
def test_contributions_to_a_linear_head_follow_the_plain_formula(network, name):
    layer, images = network(name)
    explanation = explain_prediction(layer, images[1], 2)
    x = layer.activations(images[1:2])[0].astype(float)
    rows, bias = [np.asarray(w) for w in layer.split.latent_to_logit_model.layers[-1].weights]
    positions = list(itertools.product(*map(range, x.shape[:-1])))
    pairs = layer.pairs
    bank, remainder = pairs.bank().astype(float), x.copy()
    for p in positions:
        for i in range(CONCEPTS):
            u = max(0.0, float(pairs.filters[i] @ x[p] - pairs.absent_levels[i]))
            effect = sum(bank[i, d] * rows[d, 2] for d in range(len(rows)))
            assert explanation.contributions[(*p, i)] == pytest.approx(
                u * effect / len(positions), abs=1e-5
            )
            remainder[p] -= u * bank[i]
    residual = remainder.reshape(-1, len(rows)).mean(axis=0) @ rows[:, 2] + bias[2]
    assert explanation.residual == pytest.approx(residual, abs=1e-5)
    assert explanation.steps == 0


@pytest.mark.parametrize("name", ["hidden", "tokens"])
def test_contributions_to_any_other_head_are_integrated_gradients(network, name):
    layer, images = network(name)
    explanation = explain_prediction(layer, images[0], 1)
    x = layer.activations(images[:1])[0]
    pairs, model = layer.pairs, layer.split.latent_to_logit_model
    u = pairs.coefficients(x)
    steps = 400
    scaled = tf.constant(
        ((np.arange(steps) + 0.5) / steps).reshape(-1, *[1] * u.ndim) * u, tf.float32
    )
    with tf.GradientTape() as tape:
        tape.watch(scaled)
        scores = model((x - u @ pairs.bank()) + scaled @ tf.constant(pairs.bank()))[:, 1]
    slow = u * tape.gradient(scores, scaled).numpy().mean(axis=0)
    np.testing.assert_allclose(
        explanation.contributions, slow, atol=2e-3 * np.abs(slow).max() + 1e-4
    )
    assert explanation.steps > 0


def test_score_residual_contributions_and_gap_add_up_with_too_few_gradients(network):
    layer, images = network("hidden")
    rough = explain_prediction(layer, images[0], 1, max_steps=2, tolerance=1e-9)
    total = rough.contributions.sum() + rough.residual + rough.gap
    assert total == pytest.approx(rough.score, abs=1e-9)
    assert rough.steps == 16
    assert "16 gradients" in str(rough.table())


def test_a_waterfall_only_has_a_bar_for_the_gap_if_it_is_visible(network):
    layer, images = network("conv_gap")
    explanation = explain_prediction(layer, images[0], 1)
    for gap, seen in ((0.0, False), (0.5, True)):
        figure = replace(explanation, score=explanation.score + gap).plot_waterfall()
        assert ("gap" in [text.get_text() for text in figure.findobj(plt.Text)]) == seen
        plt.close(figure)


@pytest.mark.parametrize("name", ["conv_gap", "hidden"])
def test_contributions_against_another_class_are_differences_of_contributions(network, name):
    layer, images = network(name)
    first, second = (explain_prediction(layer, images[0], k) for k in (0, 2))
    difference = explain_prediction(layer, images[0], 0, against=2)
    np.testing.assert_allclose(
        difference.concept_contributions,
        first.concept_contributions - second.concept_contributions,
        atol=1e-3,
    )
    assert difference.score == pytest.approx(first.score - second.score, abs=1e-5)
    assert difference.score_name == "logit of class 0 − class 2"


def test_absent_concepts_contribute_nothing_and_contributions_follow_the_order_of_concepts(network):
    layer, images = network("conv_gap")
    levels = np.full(CONCEPTS, -100.0)
    levels[1] = 1e3  # a level that no projection reaches: concept 1 is absent everywhere
    pairs = layer.pairs
    fields = (pairs.filters, pairs.biases, pairs.signals, pairs.mean)
    absent = ConceptLayer.of(DirectionPairs(*fields, levels), layer.split)
    explanation = explain_prediction(absent, images[0], 0)
    assert not explanation.contributions[..., 1].any() and explanation.contributions[..., 0].any()

    order = [2, 0, 3, 1]
    mixed = DirectionPairs(*(f[order] for f in fields[:3]), pairs.mean, pairs.absent_levels[order])
    first, second = (
        explain_prediction(ConceptLayer.of(p, layer.split), images[0], 0) for p in (pairs, mixed)
    )
    np.testing.assert_allclose(second.contributions, first.contributions[..., order], atol=1e-6)


def test_an_explanation_does_not_depend_on_the_dtype_of_the_image_or_a_batch_axis(network):
    layer, images = network("conv_gap")
    ints = (255 * images[0]).astype(np.uint8)
    of_integers = explain_prediction(layer, ints, 0)
    for same in (ints.astype(np.float64), ints[None]):
        of_other_form = explain_prediction(layer, same, 0)
        np.testing.assert_array_equal(of_integers.contributions, of_other_form.contributions)
    assert of_integers.image.dtype == np.uint8


def test_presence_holds_the_coefficients_where_the_concept_is_detected(network):
    layer, images = network("conv_gap")
    explanation = explain_prediction(layer, images[0])
    x = layer.activations(images[:1])[0]
    wanted = np.where(layer.pairs.detect(x) > 0.5, layer.pairs.coefficients(x), 0.0)
    np.testing.assert_allclose(explanation.presence, wanted, atol=1e-5)
    assert (wanted > 0).any() and (wanted == 0).any()
    assert (
        explanation.presence_maps.shape
        == explanation.contribution_maps.shape
        == x.shape[:2] + (CONCEPTS,)
    )


def test_by_default_the_predicted_class_is_explained(network):
    layer, images = network("conv_gap")
    model = keras.Sequential([*layer.split, keras.layers.Softmax()])
    p = model.predict(images[:1], verbose=0)[0]
    explanation = explain_prediction(ConceptLayer.of(layer, class_names=["a", "b", "c"]), images[0])
    assert explanation.class_id == p.argmax()
    assert explanation.probability == pytest.approx(p.max(), abs=1e-5)
    wanted = [("abc"[k], pytest.approx(p[k], abs=1e-5)) for k in np.argsort(-p)]
    assert list(explanation.likeliest) == wanted


def test_the_constant_of_another_extractor_is_part_of_the_residual(network):
    layer, images = network("conv_gap")
    craft = FactorizerCraftTf(layer.split, factorizer=PCAFactorizer(3), patch_size=16)
    craft.fit(images)
    explanation = explain_prediction(craft, images[0], 1)
    x = layer.activations(images[:1])
    factorizer = craft.factorizer
    off = x.reshape(-1, 8) - factorizer.encode(x.reshape(-1, 8)) @ factorizer.bank_
    logit = layer.head.logits(off.reshape(x.shape))[0, 1]
    assert explanation.residual == pytest.approx(logit, abs=1e-4)
    assert explanation.gap == pytest.approx(0.0, abs=1e-4)
    assert [c.shape[1:] for c in explanation.crops] == [(16, 16, 3)] * 3


def test_extractors_of_direction_pairs_give_the_contributions_of_their_pairs(
    network, quick_learning
):
    layer, images = network("conv_gap")
    single = DirectionPairsTf(*layer.split, 3, random_state=0, verbose=0)
    with pytest.raises(NotFittedError):
        explain_prediction(single, images[0])
    single.fit(images)
    explanation = explain_prediction(single, images[0], 0)
    same = explain_prediction(ConceptLayer.of(single.pairs, layer.split), images[0], 0)
    np.testing.assert_array_equal(explanation.contributions, same.contributions)
    assert same.crops is None and len(explanation.crops) == 3
    undecided = with_off(ConceptLayer.of(single), "undecided")
    of_undecided = explain_prediction(undecided, images[0], 0)
    assert np.abs(of_undecided.contributions - explanation.contributions).max() > 1e-3

    predicted = layer.head.logits(layer.activations(images)).argmax(axis=1)
    manager = DirectionPairsManagerTf(
        *layer.split, images, predicted, number_of_concepts=3, random_state=0, verbose=0
    )
    manager.fit()
    of_manager = explain_prediction(manager, images[0], 0)
    of_pairs = explain_prediction(ConceptLayer.of(manager.pairs, layer.split), images[0], 0)
    np.testing.assert_array_equal(of_manager.contributions, of_pairs.contributions)


def test_the_rows_of_the_table_sum_to_the_score(network):
    layer, images = network("conv_gap")
    explanation = explain_prediction(layer, images[0], 0)
    rows = {row[0].text: row[1].numbers[0] for row in explanation.table(2).rows}
    score = rows.pop("logit of class 0")
    assert sum(rows.values()) == pytest.approx(score, abs=1e-9)
    assert len(rows) == 5  # two concepts, the others, the residual, the gap
    assert len(explanation.table(CONCEPTS).rows) == CONCEPTS + 3


def test_two_images_are_compared_concept_by_concept(network):
    layer, images = network("conv_gap")
    first, second = (explain_prediction(layer, image, 1) for image in images[:2])
    comparison = compare_predictions(first, second)
    np.testing.assert_allclose(
        comparison.differences, first.concept_contributions - second.concept_contributions
    )
    total = comparison.differences.sum() + comparison.residual + comparison.gap
    assert total == pytest.approx(comparison.score, abs=1e-9)
    reverse = compare_predictions(second, first)
    np.testing.assert_allclose(reverse.differences, -comparison.differences)
    assert list(comparison.ranked) == list(np.argsort(-np.abs(comparison.differences)))
    last = comparison.table(2).rows[-1]
    assert [cell.numbers[0] for cell in last[1:]] == [first.score, second.score, comparison.score]
    with_itself = compare_predictions(first, first)
    assert not with_itself.differences.any() and with_itself.score == 0


def test_comparing_explanations_of_different_scores_or_concepts_is_refused(network):
    layer, images = network("conv_gap")
    first = explain_prediction(layer, images[0], 1)
    with pytest.raises(ValueError, match="class_id"):
        compare_predictions(first, explain_prediction(layer, images[0], 0))
    with pytest.raises(ValueError, match="class_id"):
        compare_predictions(first, explain_prediction(layer, images[0], 1, against=0))
    named = explain_prediction(ConceptLayer.of(layer, concept_names=list("abcd")), images[0], 1)
    with pytest.raises(ValueError, match="the same concepts"):
        compare_predictions(first, named)
    with pytest.raises(TypeError, match="explain_prediction"):
        compare_predictions(first, images[0])


def test_an_explanation_is_read_only_and_can_be_converted_to_plain_data(network):
    layer, images = network("conv_gap")
    explanation = explain_prediction(layer, images[0], 1)
    with pytest.raises(ValueError, match="read-only"):
        explanation.contributions[:] = 0
    data = explanation.to_dict()
    assert data["gap"] == explanation.gap and data["contributions"] is explanation.contributions
    comparison = compare_predictions(explanation, explanation).to_dict()
    assert comparison["first"].keys() == data.keys() and comparison["score"] == 0


@pytest.mark.parametrize(
    ("changed", "error", "message"),
    [
        ({"concepts": "pairs"}, TypeError, "must be a ConceptLayer"),
        ({"concepts": make_pairs(8, 2)}, ValueError, "split_model"),
        ({"image": np.zeros((2, 32, 32, 3))}, ValueError, "one image"),
        ({"image": np.full((32, 32, 3), np.nan)}, ValueError, "NaN"),
        ({"class_id": 3}, ValueError, "class_id 3 is out of range for 3 classes"),
        ({"class_id": 1.5}, TypeError, "integer"),
        ({"against": 1}, ValueError, "another class than"),
        ({"against": -1}, ValueError, "out of range"),
        ({"tolerance": 0}, ValueError, "tolerance"),
        ({"max_steps": 1}, ValueError, "max_steps"),
        ({"crops": [np.zeros((1, 2, 2, 3))]}, ValueError, "crops must be 4"),
    ],
)
def test_invalid_arguments_are_refused(network, changed, error, message):
    layer, images = network("conv_gap")
    arguments = {"concepts": layer, "image": images[0], "class_id": 1} | changed
    with pytest.raises(error, match=message):
        explain_prediction(**arguments)


def test_a_network_with_one_output_is_explained_as_two_classes_no_and_yes(network):
    layer, images = network("conv_gap")
    latent = layer.split.latent_to_logit_model.input
    pooled = keras.layers.GlobalAveragePooling2D()(latent)
    dense = keras.layers.Dense(1)
    logit_output = dense(pooled)
    heads = [
        logit_output,
        keras.layers.Activation("sigmoid")(logit_output),
        keras.layers.Rescaling(1.0)(logit_output),
    ]
    features = layer.activations(images)
    logits = keras.Model(latent, logit_output)(features).numpy()[:, 0]
    dense.bias.assign([-np.sort(logits)[:2].mean()])
    logits += dense.bias.numpy()
    assert len({*(logits > 0)}) == 2
    models = [keras.Model(latent, output) for output in heads]
    for head in (*models, lambda features: models[0](features)):
        split = SplitModel.of(layer.split.input_to_latent_model, head)
        both = ConceptLayer.of(layer.pairs, split, class_names=["no", "yes"])
        for image, z in zip(images, logits, strict=True):
            explanation = explain_prediction(both, image)
            assert explanation.class_name == ("yes" if z > 0 else "no")
            assert explanation.score == pytest.approx(abs(z), abs=1e-4)
            assert explanation.residual + explanation.contributions.sum() == pytest.approx(
                abs(z), abs=1e-3
            )
            p = 1.0 / (1.0 + np.exp(-abs(z)))
            assert explanation.probability == pytest.approx(p, abs=1e-5)
            no, yes = (explain_prediction(both, image, class_id=k) for k in (0, 1))
            np.testing.assert_allclose(no.contributions, -yes.contributions, atol=1e-4)
        with pytest.raises(ValueError, match="with one output: negative, positive"):
            explain_prediction(ConceptLayer.of(layer.pairs, split, class_names=["yes"]), images[0])
        labels = [0, *(1 for _ in images[1:])]
        of_model = explain_model(both, images, labels, verbose=0)
        assert of_model.class_names == ("no", "yes")
        right = np.mean((logits > 0)[1:])
        assert of_model.accuracy.tolist() == [float(logits[0] <= 0), pytest.approx(right)]
