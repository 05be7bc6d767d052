"""`masked_importance` for concepts at one or several layers of a network."""

import pickle

import keras
import matplotlib.pyplot as plt
import numpy as np
import pytest
from conftest import NETWORKS, make_images, make_pairs

from xplique_dirpairs import (
    ConceptLayer,
    DirectionPairs,
    KMeansFactorizer,
    agreement,
    is_correct,
    masked_importance,
    probability_of,
    split_model,
)  # fmt: skip

CONCEPTS = 12


class Planted:
    """Concepts that add known amounts to the output; two are redundant."""

    units = tuple((i // 4, i % 4, 0) for i in range(CONCEPTS))
    unit_names = tuple(f"c{i}" for i in range(CONCEPTS))
    truth = np.array([0.0, 0, 4, 3, 2, 1, 0, 0, 0, 0, 0, 0])

    def runner(self, inputs, removal, batch_size):
        def run(removed):
            kept = ~removed
            value = kept @ self.truth + 3.0 * (kept[0] | kept[1])
            return np.full((len(inputs), 1), value)

        return run


def first_output(outputs, inputs):
    return outputs[:, 0]


def found(**settings):
    return masked_importance(
        Planted(), np.zeros((2, 4, 4, 3)), first_output, **{"subsets": 300, **settings}
    )


def test_contributions_and_redundant_concepts_are_found():
    result = found()
    assert list(np.argsort(-result.importance)[:3]) == [2, 3, 4]
    assert min(result.importance[:2]) > max(result.importance[6:]) + 0.3
    assert result.by_layer()[0] == pytest.approx(result.importance[:4].sum())
    assert result.by_head()[1, 1] == pytest.approx(result.importance[5])
    assert "12 concepts from 300 sets (ridge, removal zero): c2" in str(result)
    assert (
        "c2" in str(result.table(1)) and "c3" not in str(result.table(1)).split("importance of")[0]
    )
    np.testing.assert_array_equal(found().importance, result.importance)
    assert np.abs(found(random_state=1).importance - result.importance).max() > 0


def test_curves_fall_fastest_from_most_to_least():
    curves = found().curves(step=1)
    areas = curves.areas
    assert areas["most to least"] < areas["random"] < areas["least to most"]
    for values in curves.performance.values():
        assert values[0] == 13 and values[-1] == 0 and len(values) == CONCEPTS + 1
    figure = curves.plot()
    assert "most to least" in figure.axes[0].get_legend().get_texts()[0].get_text()
    plt.close(figure)


@pytest.mark.parametrize("estimator", ["difference", "paper", "code"])
def test_other_estimators_are_offered(estimator):
    result = found(estimator=estimator)
    assert result.estimator == estimator and result.importance.argmax() == 2


def interrupted_after(calls):
    """Return a performance that is interrupted after some calls, the first with all concepts."""
    made = []

    def performance(outputs, inputs):
        made.append(1)
        if len(made) > calls:
            raise KeyboardInterrupt
        return outputs[:, 0]

    return performance


def test_an_interruption_keeps_the_sets_before_it():
    inputs = np.zeros((2, 4, 4, 3))
    complete = found(subsets=40)
    assert not complete.interrupted
    part = masked_importance(Planted(), inputs, interrupted_after(31), subsets=40)
    assert part.interrupted and "30 sets, interrupted (ridge" in str(part)
    assert part.kept.shape == (30, CONCEPTS) and part.performances.shape == (30, 2)
    np.testing.assert_array_equal(part.performances, complete.performances[:30])
    assert part.importance.argmax() == 2
    few = masked_importance(Planted(), inputs, interrupted_after(4), subsets=40)
    assert few.interrupted and few.estimator == "difference" and len(few.kept) == 3
    with pytest.raises(KeyboardInterrupt):
        masked_importance(Planted(), inputs, interrupted_after(2), subsets=40)


def test_importances_can_be_pickled_without_the_network():
    result = found()
    again = pickle.loads(pickle.dumps(result))
    np.testing.assert_array_equal(again.importance, result.importance)
    assert str(again.table()) == str(result.table()) and again.by_head() == result.by_head()
    with pytest.raises(ValueError, match="curves need the network"):
        again.curves()
    assert result.curves(step=6).areas


# ------------------------------------------------------------ layers of a network


def additive_network():
    """Return a network whose output is the weighted sum of eight channels, and their weights."""
    inputs = keras.Input((6, 6, 8))
    x = keras.layers.Lambda(lambda x: 1.0 * x, name="features")(inputs)
    x = keras.layers.GlobalAveragePooling2D()(x)
    weights = np.array([4.0, 3, 2, 1, 0, 0, 0, 0])
    dense = keras.layers.Dense(2, name="logits")
    model = keras.Model(inputs, dense(x))
    dense.set_weights([np.stack([weights, -weights], axis=1), np.zeros(2)])
    return model, weights


@pytest.fixture(scope="module")
def channels():
    """Detectors of the channels of the additive network, images and the weights."""
    model, weights = additive_network()
    eye, zeros = np.eye(8), np.zeros(8)
    pairs = DirectionPairs(20 * eye, np.full(8, 1.0), eye, zeros, zeros)
    images = np.random.default_rng(0).uniform(0.5, 1.5, (5, 6, 6, 8)).astype(np.float32)
    return ConceptLayer.of(pairs, split_model(model, "features")), images, weights


@pytest.mark.parametrize("removal", ["zero", "suppress", "mean"])
def test_concepts_of_a_layer_have_their_part_in_the_output(channels, removal):
    layer, images, weights = channels
    result = masked_importance(layer, images, first_output, subsets=60, removal=removal)
    importance = result.importance - result.importance[4:].mean()
    if removal == "mean":  # the mean over images stays
        assert np.abs(importance).max() < 0.05
    else:
        expected = weights * {"zero": 1.0, "suppress": 0.95}[removal]
        np.testing.assert_allclose(importance, expected, atol=0.25)
        again = masked_importance(
            layer, images, first_output, subsets=60, removal=removal, batch_size=2
        )
        np.testing.assert_allclose(again.importance, result.importance, atol=1e-4)


def test_removing_all_concepts_leaves_what_they_do_not_explain(channels):
    layer, images, _ = channels
    result = masked_importance(layer, images, first_output, subsets=10)
    np.testing.assert_allclose(result.curves().performance["random"][-1], 0.0, atol=1e-4)


@pytest.mark.parametrize("name", ["conv_gap", "tokens", "class_token"])
def test_several_layers_of_a_network_are_masked_together(name):
    maker, shape, layer = NETWORKS[name]
    model, images = maker(shape), make_images(4, shape)
    first = split_model(model, layer)
    second = split_model(model, model.layers[-2].name)
    x = first.input_to_latent_model.predict_on_batch(images)
    factorizer = KMeansFactorizer(3, random_state=0)
    factorizer.fit(x.reshape(-1, x.shape[-1]))
    width = second.input_to_latent_model.output.shape[-1]
    layers = [ConceptLayer.of(factorizer, first), ConceptLayer.of(make_pairs(width, 2), second)]
    before = model(images).numpy()
    result = masked_importance(layers, images, agreement(before), subsets=20)
    assert result.units == ((0, -1, 0), (0, -1, 1), (0, -1, 2), (1, -1, 0), (1, -1, 1))
    assert result.unit_names[0] == f"{layer}: 0" and (result.intact == 1).all()
    np.testing.assert_array_equal(model(images), before)
    assert model.layers[1].output is not None, "the layers are used once, as before"


def test_ready_made_performances():
    outputs = np.array([[0.2, 0.8], [0.9, 0.1]])
    np.testing.assert_allclose(probability_of(1)(outputs, None), [0.8, 0.1])
    np.testing.assert_allclose(is_correct(1)(outputs, None), [1, 0])
    np.testing.assert_allclose(is_correct([1, 0])(outputs, None), [1, 1])
    np.testing.assert_allclose(agreement(outputs[::-1])(outputs, None), [0, 0])


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"estimator": "mean"}, ValueError, "estimator must be one of"),
        ({"removal": "one"}, ValueError, "removal must be one of"),
        ({"removal": "minus_infinity"}, ValueError, "heads of a transformer"),
        ({"subsets": 1}, ValueError, "subsets must be"),
        ({"fraction": 1.0}, ValueError, "fraction must lie"),
        ({"batch_size": 0}, ValueError, "batch_size"),
        ({"performance": lambda outputs, inputs: 1.0}, ValueError, "one finite number for each"),
        (
            {"performance": lambda outputs, inputs: np.nan * outputs[:, 0]},
            ValueError,
            "performance must be finite, but",
        ),
        ({"concepts": "concepts"}, TypeError, "concepts|extractor|fitted"),
    ],
)
def test_bad_input_is_refused(channels, settings, error, message):
    layer, images, _ = channels
    arguments = {"concepts": layer, "inputs": images, "performance": first_output, "subsets": 3}
    with pytest.raises(error, match=message):
        masked_importance(**{**arguments, **settings})


def test_layers_of_two_networks_or_one_layer_twice_are_refused(channels):
    layer, images, _ = channels
    eye, zeros = np.eye(8), np.zeros(8)
    other = ConceptLayer.of(
        DirectionPairs(eye, zeros, eye, zeros, zeros),
        split_model(additive_network()[0], "features"),
    )
    with pytest.raises(ValueError, match="of one network"):
        masked_importance([layer, other], images, first_output, subsets=3)
    with pytest.raises(ValueError, match="each layer must have its concepts once"):
        masked_importance([layer, layer], images, first_output, subsets=3)
    kmeans = KMeansFactorizer(2, random_state=0)
    kmeans.fit(images.reshape(-1, 8))
    with pytest.raises(TypeError, match="direction pairs are needed"):
        masked_importance(
            ConceptLayer.of(kmeans, layer.split), images, first_output, removal="suppress"
        )
