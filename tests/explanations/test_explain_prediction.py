"""A prediction shared out: complete for every network, the plain formula where the head is linear,
integrated gradients elsewhere."""

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
    """``network(name)`` → pairs at the layer of a network, images."""
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
    return ConceptLayer.of(DirectionPairsFactorizer.from_pairs(layer.pairs, off), layer.split)


@pytest.mark.parametrize("off", ["absent", "undecided"])
@pytest.mark.parametrize("name", NETWORKS)
def test_contributions_and_residual_sum_to_the_network_s_own_logit(network, name, off):
    layer, images = network(name)
    layer = with_off(layer, off)
    activations = layer.activations(images[:1])
    for class_id in (0, 1) if name in LINEAR and off == "absent" else (1,):
        found = explain_prediction(layer, images[0], class_id)
        logit = layer.head.logits(activations)[0, class_id]
        assert found.score == pytest.approx(logit, abs=1e-5)
        assert found.contributions.sum() + found.residual == pytest.approx(logit, abs=1e-4)
        assert found.contributions.shape == (*activations.shape[1:-1], CONCEPTS)


@pytest.mark.parametrize("name", LINEAR)
def test_of_a_linear_head_they_are_the_plain_formula(network, name):
    layer, images = network(name)
    found = explain_prediction(layer, images[1], 2)
    x = layer.activations(images[1:2])[0].astype(float)
    rows, bias = [np.asarray(w) for w in layer.split.latent_to_logit_model.layers[-1].weights]
    positions = list(itertools.product(*map(range, x.shape[:-1])))
    pairs = layer.pairs
    bank, left = pairs.bank().astype(float), x.copy()
    for p in positions:
        for i in range(CONCEPTS):
            u = max(0.0, float(pairs.filters[i] @ x[p] - pairs.absent_levels[i]))
            effect = sum(bank[i, d] * rows[d, 2] for d in range(len(rows)))
            assert found.contributions[(*p, i)] == pytest.approx(
                u * effect / len(positions), abs=1e-5
            )
            left[p] -= u * bank[i]
    residual = left.reshape(-1, len(rows)).mean(axis=0) @ rows[:, 2] + bias[2]
    assert found.residual == pytest.approx(residual, abs=1e-5)
    assert found.steps == 0


@pytest.mark.parametrize("name", ["hidden", "tokens"])
def test_of_any_other_head_they_are_integrated_gradients(network, name):
    layer, images = network(name)
    found = explain_prediction(layer, images[0], 1)
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
    np.testing.assert_allclose(found.contributions, slow, atol=2e-3 * np.abs(slow).max() + 1e-4)
    assert found.steps > 0


def test_the_gap_of_too_few_steps_is_given(network):
    layer, images = network("hidden")
    rough = explain_prediction(layer, images[0], 1, max_steps=2, tolerance=1e-9)
    total = rough.contributions.sum() + rough.residual + rough.gap
    assert total == pytest.approx(rough.score, abs=1e-9)
    assert rough.steps == 16
    assert "16 gradients" in str(rough.table())


def test_a_gap_that_can_be_seen_has_a_bar(network):
    layer, images = network("conv_gap")
    found = explain_prediction(layer, images[0], 1)
    for gap, seen in ((0.0, False), (0.5, True)):
        figure = replace(found, score=found.score + gap).plot_waterfall()
        assert ("gap" in [text.get_text() for text in figure.findobj(plt.Text)]) == seen
        plt.close(figure)


@pytest.mark.parametrize("name", ["conv_gap", "hidden"])
def test_against_another_class_they_are_the_differences(network, name):
    layer, images = network(name)
    one, other = (explain_prediction(layer, images[0], k) for k in (0, 2))
    both = explain_prediction(layer, images[0], 0, against=2)
    np.testing.assert_allclose(
        both.concept_contributions,
        one.concept_contributions - other.concept_contributions,
        atol=1e-3,
    )
    assert both.score == pytest.approx(one.score - other.score, abs=1e-5)
    assert both.score_name == "logit of class 0 − class 2"


def test_what_is_not_in_the_image_adds_nothing_and_concepts_may_come_in_any_order(network):
    layer, images = network("conv_gap")
    everywhere = np.full(CONCEPTS, -100.0)
    everywhere[1] = 1e3  # z never gets there
    pairs = layer.pairs
    fields = (pairs.filters, pairs.biases, pairs.signals, pairs.mean)
    absent = ConceptLayer.of(DirectionPairs(*fields, everywhere), layer.split)
    found = explain_prediction(absent, images[0], 0)
    assert not found.contributions[..., 1].any() and found.contributions[..., 0].any()

    order = [2, 0, 3, 1]
    turned = DirectionPairs(*(f[order] for f in fields[:3]), pairs.mean, pairs.absent_levels[order])
    one, other = (
        explain_prediction(ConceptLayer.of(p, layer.split), images[0], 0) for p in (pairs, turned)
    )
    np.testing.assert_allclose(other.contributions, one.contributions[..., order], atol=1e-6)


def test_dtype_and_a_batch_of_one_do_not_matter(network):
    layer, images = network("conv_gap")
    ints = (255 * images[0]).astype(np.uint8)
    one = explain_prediction(layer, ints, 0)
    for same in (ints.astype(np.float64), ints[None]):
        other = explain_prediction(layer, same, 0)
        np.testing.assert_array_equal(one.contributions, other.contributions)
    assert one.image.dtype == np.uint8


def test_presence_is_the_coefficients_where_the_concept_is_detected(network):
    layer, images = network("conv_gap")
    found = explain_prediction(layer, images[0])
    x = layer.activations(images[:1])[0]
    wanted = np.where(layer.pairs.detect(x) > 0.5, layer.pairs.coefficients(x), 0.0)
    np.testing.assert_allclose(found.presence, wanted, atol=1e-5)
    assert (wanted > 0).any() and (wanted == 0).any()
    assert found.presence_maps.shape == found.contribution_maps.shape == x.shape[:2] + (CONCEPTS,)


def test_without_a_class_it_is_the_predicted_one_and_probabilities_are_the_network_s(network):
    layer, images = network("conv_gap")
    model = keras.Sequential([*layer.split, keras.layers.Softmax()])
    p = model.predict(images[:1], verbose=0)[0]
    found = explain_prediction(ConceptLayer.of(layer, class_names=["a", "b", "c"]), images[0])
    assert found.class_id == p.argmax()
    assert found.probability == pytest.approx(p.max(), abs=1e-5)
    wanted = [("abc"[k], pytest.approx(p[k], abs=1e-5)) for k in np.argsort(-p)]
    assert list(found.likeliest) == wanted


def test_other_extractors_explain_as_well_with_their_constant_in_the_residual(network):
    layer, images = network("conv_gap")
    craft = FactorizerCraftTf(layer.split, factorizer=PCAFactorizer(3), patch_size=16)
    craft.fit(images)
    found = explain_prediction(craft, images[0], 1)
    x = layer.activations(images[:1])
    factorizer = craft.factorizer
    off = x.reshape(-1, 8) - factorizer.encode(x.reshape(-1, 8)) @ factorizer.bank_
    logit = layer.head.logits(off.reshape(x.shape))[0, 1]
    assert found.residual == pytest.approx(logit, abs=1e-4)
    assert found.gap == pytest.approx(0.0, abs=1e-4)
    assert [c.shape[1:] for c in found.crops] == [(16, 16, 3)] * 3


def test_extractors_with_pairs_explain_as_the_pairs_do(network, quick_learning):
    layer, images = network("conv_gap")
    single = DirectionPairsTf(*layer.split, 3, random_state=0, verbose=0)
    with pytest.raises(NotFittedError):
        explain_prediction(single, images[0])
    single.fit(images)
    found = explain_prediction(single, images[0], 0)
    same = explain_prediction(ConceptLayer.of(single.pairs, layer.split), images[0], 0)
    np.testing.assert_array_equal(found.contributions, same.contributions)
    assert same.crops is None and len(found.crops) == 3
    undecided = with_off(ConceptLayer.of(single), "undecided")
    other = explain_prediction(undecided, images[0], 0)
    assert np.abs(other.contributions - found.contributions).max() > 1e-3

    predicted = layer.head.logits(layer.activations(images)).argmax(axis=1)
    manager = DirectionPairsManagerTf(
        *layer.split, images, predicted, number_of_concepts=3, random_state=0, verbose=0
    )
    manager.fit()
    of_manager = explain_prediction(manager, images[0], 0)
    of_pairs = explain_prediction(ConceptLayer.of(manager.pairs, layer.split), images[0], 0)
    np.testing.assert_array_equal(of_manager.contributions, of_pairs.contributions)


def test_the_table_sums_to_the_score(network):
    layer, images = network("conv_gap")
    found = explain_prediction(layer, images[0], 0)
    rows = {row[0].text: row[1].numbers[0] for row in found.table(2).rows}
    score = rows.pop("logit of class 0")
    assert sum(rows.values()) == pytest.approx(score, abs=1e-9)
    assert len(rows) == 5  # two concepts, the others, the residual, the gap
    assert len(found.table(CONCEPTS).rows) == CONCEPTS + 3


def test_two_images_are_compared_concept_by_concept(network):
    layer, images = network("conv_gap")
    one, other = (explain_prediction(layer, image, 1) for image in images[:2])
    found = compare_predictions(one, other)
    np.testing.assert_allclose(
        found.differences, one.concept_contributions - other.concept_contributions
    )
    total = found.differences.sum() + found.residual + found.gap
    assert total == pytest.approx(found.score, abs=1e-9)
    back = compare_predictions(other, one)
    np.testing.assert_allclose(back.differences, -found.differences)
    assert list(found.ranked) == list(np.argsort(-np.abs(found.differences)))
    last = found.table(2).rows[-1]
    assert [cell.numbers[0] for cell in last[1:]] == [one.score, other.score, found.score]
    same = compare_predictions(one, one)
    assert not same.differences.any() and same.score == 0


def test_explanations_of_different_scores_are_not_compared(network):
    layer, images = network("conv_gap")
    one = explain_prediction(layer, images[0], 1)
    with pytest.raises(ValueError, match="class_id"):
        compare_predictions(one, explain_prediction(layer, images[0], 0))
    with pytest.raises(ValueError, match="class_id"):
        compare_predictions(one, explain_prediction(layer, images[0], 1, against=0))
    named = explain_prediction(ConceptLayer.of(layer, concept_names=list("abcd")), images[0], 1)
    with pytest.raises(ValueError, match="same concepts"):
        compare_predictions(one, named)
    with pytest.raises(TypeError, match="explain_prediction"):
        compare_predictions(one, images[0])


def test_arrays_of_an_explanation_cannot_be_written_and_its_data_are_plain(network):
    layer, images = network("conv_gap")
    found = explain_prediction(layer, images[0], 1)
    with pytest.raises(ValueError, match="read-only"):
        found.contributions[:] = 0
    data = found.to_dict()
    assert data["gap"] == found.gap and data["contributions"] is found.contributions
    both = compare_predictions(found, found).to_dict()
    assert both["first"].keys() == data.keys() and both["score"] == 0


@pytest.mark.parametrize(
    ("changed", "error", "message"),
    [
        ({"concepts": "pairs"}, TypeError, "must be a ConceptLayer"),
        ({"concepts": make_pairs(8, 2)}, ValueError, "split_model"),
        ({"image": np.zeros((2, 32, 32, 3))}, ValueError, "one image"),
        ({"image": np.full((32, 32, 3), np.nan)}, ValueError, "NaN"),
        ({"class_id": 3}, ValueError, "class_id 3 is out of range for 3 classes"),
        ({"class_id": 1.5}, TypeError, "integer"),
        ({"against": 1}, ValueError, "with itself"),
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


def test_one_output_is_a_no_and_a_yes(network):
    layer, images = network("conv_gap")
    latent = layer.split.latent_to_logit_model.input
    pooled = keras.layers.GlobalAveragePooling2D()(latent)
    dense = keras.layers.Dense(1)
    one = dense(pooled)
    heads = [one, keras.layers.Activation("sigmoid")(one), keras.layers.Rescaling(1.0)(one)]
    features = layer.activations(images)
    logits = keras.Model(latent, one)(features).numpy()[:, 0]
    dense.bias.assign([-np.sort(logits)[:2].mean()])
    logits += dense.bias.numpy()
    assert len({*(logits > 0)}) == 2
    models = [keras.Model(latent, output) for output in heads]
    for head in (*models, lambda features: models[0](features)):
        split = SplitModel.of(layer.split.input_to_latent_model, head)
        both = ConceptLayer.of(layer.pairs, split, class_names=["no", "yes"])
        for image, z in zip(images, logits, strict=True):
            found = explain_prediction(both, image)
            assert found.class_name == ("yes" if z > 0 else "no")
            assert found.score == pytest.approx(abs(z), abs=1e-4)
            assert found.residual + found.contributions.sum() == pytest.approx(abs(z), abs=1e-3)
            p = 1.0 / (1.0 + np.exp(-abs(z)))
            assert found.probability == pytest.approx(p, abs=1e-5)
            no, yes = (explain_prediction(both, image, class_id=k) for k in (0, 1))
            np.testing.assert_allclose(no.contributions, -yes.contributions, atol=1e-4)
        with pytest.raises(ValueError, match="its no and its yes"):
            explain_prediction(ConceptLayer.of(layer.pairs, split, class_names=["yes"]), images[0])
        labels = [0, *(1 for _ in images[1:])]
        whole = explain_model(both, images, labels, verbose=0)
        assert whole.class_names == ("no", "yes")
        right = np.mean((logits > 0)[1:])
        assert whole.accuracy.tolist() == [float(logits[0] <= 0), pytest.approx(right)]
