"""Tests of images that maximise coefficients, and of images of concepts that networks share."""

from dataclasses import replace

import keras
import matplotlib.pyplot as plt
import numpy as np
import pytest
import tensorflow as tf
from test_maximise import BLUE, GREEN, RED, color_layer, color_pairs

from xplique_dirpairs import (
    ConceptLayer,
    NMFFactorizer,
    PCAFactorizer,
    TopKFactorizer,
    UniversalFactorizer,
    maximise,
    maximise_together,
)
from xplique_dirpairs.maximisation.maximise import coefficient_score

QUICK = {"steps": 60, "random_state": 0, "verbose": 0}


@pytest.fixture(scope="module")
def colors():
    """Return a linear layer whose three channels are the colours of a pixel."""
    return color_layer(keras.Input((8, 8, 3)))


@pytest.fixture(scope="module")
def pixels():
    """Return pixels that are red, green or blue, and dark otherwise."""
    rng = np.random.default_rng(0)
    chosen = np.eye(3)[rng.integers(3, size=900)] * rng.uniform(0.5, 1.0, (900, 1))
    return (chosen + 0.02 * rng.normal(size=(900, 3))).clip(0).astype(np.float32)


def fitted(kind, pixels, concepts=3, **options):
    factorizer = kind(concepts, random_state=0, **options)
    factorizer.fit(pixels)
    return factorizer


@pytest.mark.parametrize(
    ("kind", "options"), [(NMFFactorizer, {}), (TopKFactorizer, {"k": 1, "steps": 400})]
)
def test_the_image_of_a_code_has_the_colour_of_its_atom(colors, pixels, kind, options):
    factorizer = fitted(kind, pixels, **options)
    layer = ConceptLayer.of(factorizer, colors)
    images = maximise(layer, **QUICK)
    assert images.shape == (3, 8, 8, 3)
    hues = layer.bank.argmax(axis=1)
    assert sorted(hues) == [0, 1, 2]  # red, green and blue were learned
    assert (images.mean(axis=(1, 2)).argmax(axis=1) == hues).all()
    u = layer.coefficients(layer.activations(images)).mean(axis=(1, 2))
    assert (u.argmax(axis=1) == np.arange(3)).all()


@pytest.mark.parametrize("kind", [PCAFactorizer, TopKFactorizer])
@pytest.mark.parametrize("spatial", [(3, 2), ()])
def test_the_score_of_a_coefficient_follows_its_formula(colors, pixels, rng, kind, spatial):
    layer = ConceptLayer.of(
        fitted(kind, pixels, **({} if kind is PCAFactorizer else {"k": 2, "steps": 40})), colors
    )
    x = rng.normal(size=(2, *spatial, 3)).astype(np.float32)
    own = [2, 0]
    masks = np.eye(3)[own].reshape(2, *(1,) * len(spatial), 3)
    score = coefficient_score(layer, 0.7, len(spatial))
    lengths = [np.sqrt((row.astype(float) ** 2).sum()) for row in layer.bank]
    expected = []
    for image, i in zip(x.reshape(2, -1, 3), own, strict=True):
        terms = []
        for position in image:
            v = layer.encode(position[None])[0] * lengths
            towards = layer.decoding[i] @ (position - layer.constant) * lengths[i]
            terms.append(v[i] + towards / 10 - 0.7 * max(0.0, *(v[j] for j in range(3) if j != i)))
        expected.append(np.mean(terms))
    np.testing.assert_allclose(score(tf.constant(x), masks), expected, rtol=1e-4, atol=1e-5)
    again = score(tf.constant(x[None]), masks)[0]  # Xplique passes one more axis
    np.testing.assert_allclose(again, expected, rtol=1e-4, atol=1e-5)


def test_a_sparse_code_of_zero_has_a_gradient(colors, pixels):
    layer = ConceptLayer.of(fitted(TopKFactorizer, pixels, k=1, steps=400), colors)
    x = tf.Variable(np.tile(layer.constant, (1, 2, 2, 1)) - 0.05)
    with tf.GradientTape() as tape:
        value = coefficient_score(layer, 1.0, 2)(x, np.eye(3)[:1].reshape(1, 1, 1, 3))
    assert np.abs(tape.gradient(value, x)).max() > 1e-3


def test_coefficients_without_gradients_are_refused(colors, pixels):
    layer = ConceptLayer.of(fitted(PCAFactorizer, pixels), colors)
    blind = replace(layer, encode_differentiable=None)
    with pytest.raises(TypeError, match="gradients do not flow"):
        maximise(blind, **QUICK)


# ------------------------------------------------------------ several networks


def test_pictures_of_a_shared_concept_show_it_in_each_network(colors):
    first = ConceptLayer.of(color_pairs([RED, GREEN, BLUE]), colors)
    second = ConceptLayer.of(color_pairs([BLUE, RED]), colors)
    concepts = np.array([[0, 1], [2, 0]])
    made = maximise_together({"one": first, "two": second}, concepts, **QUICK)
    for name in ("one", "two"):
        hues = made.pictures[name].mean(axis=(1, 2)).argmax(axis=1)
        assert hues.tolist() == [0, 2]
    alone = maximise(second, [1, 0], **QUICK)
    np.testing.assert_array_equal(made.pictures["two"], alone)


def test_a_network_without_the_concept_has_no_picture(colors):
    layers = {name: ConceptLayer.of(color_pairs([RED, GREEN]), colors) for name in "abc"}
    concepts = [[0, 0, -1], [-1, 1, 1]]
    options = QUICK | {"steps": 2}
    made = maximise_together(
        layers, concepts, values_range={"a": (0, 1), "b": (-1, 1), "c": (0, 2)}, **options
    )
    assert np.isnan(made.pictures["a"][1]).all() and np.isfinite(made.pictures["a"][0]).all()
    assert np.isnan(made.pictures["c"][0]).all() and made.pictures["b"].min() < 0
    figure = made.plot("shared")
    titles = [ax.get_title() for ax in figure.axes if ax.get_title()]
    assert titles == ["a: 0", "b: 0", "b: 1", "c: 1"]
    plt.close(figure)
    with pytest.raises(ValueError, match="a column for each of the 3"):
        maximise_together(layers, [[0, 0]], **options)
    with pytest.raises(ValueError, match="concepts has no rows"):
        maximise_together(layers, np.zeros((0, 3), int), **options)
    with pytest.raises(ValueError, match="c: concepts has no concept"):
        maximise_together(layers, [[0, 0, -1]], **options)


def test_views_of_a_universal_factorizer_have_pictures(colors, pixels):
    given = {"one": pixels, "two": pixels[:, ::-1]}
    universal = UniversalFactorizer(3, k=1, steps=300, learning_rate=1e-2, random_state=0)
    universal.fit(given)
    layers = {name: ConceptLayer.of(universal[name], colors) for name in universal}
    made = maximise_together(layers, universal.concepts, **QUICK)
    hues = {name: images.mean(axis=(1, 2)).argmax(axis=1) for name, images in made.pictures.items()}
    # the second network sees red as blue, and blue as red
    assert (hues["one"] == 2 - hues["two"]).sum() >= 2


def test_concepts_that_one_network_has_to_itself_have_a_picture_as_well(colors):
    layers = {name: ConceptLayer.of(color_pairs([RED, GREEN]), colors) for name in "ab"}
    made = maximise_together(layers, [[0, 0], [1, -1], [-1, 1]], **QUICK | {"steps": 2})
    missing = {name: np.isnan(made.pictures[name]).all(axis=(1, 2, 3)).tolist() for name in "ab"}
    assert missing == {"a": [False, False, True], "b": [False, True, False]}


def test_what_is_not_given_for_each_network_by_its_name_is_refused(colors):
    layer = ConceptLayer.of(color_pairs([RED, GREEN]), colors)
    with pytest.raises(TypeError, match="networks must be a mapping"):
        maximise_together([layer, layer], [[0, 0]], **QUICK)
    with pytest.raises(ValueError, match="b: PCAFactorizer does not know the network"):
        maximise_together({"a": layer, "b": PCAFactorizer(2)}, [[0, 0]], **QUICK)
    layers = {"a": layer, "b": layer}
    with pytest.raises(ValueError, match="the range of every network, also of 'b'"):
        maximise_together(layers, [[0, 0]], values_range={"a": (0, 1)}, **QUICK)
    with pytest.raises(TypeError, match="image_shape must be a mapping"):
        maximise_together(layers, [[0, 0]], image_shape=(8, 8, 3), **QUICK)
