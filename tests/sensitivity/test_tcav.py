"""Xplique's TCAV on given directions: where it agrees with RCAV, and where it may mislead."""

import keras
import numpy as np
import pytest

from xplique_dirpairs.models.head import Head
from xplique_dirpairs.sensitivity.responses import sensitivity, tcav_scores

SHAPE = (2, 3, 5)


def second_half(classes, softmax, bias=0.0):
    """Return a model from activations to logits, or to probabilities with ``softmax``."""
    keras.utils.set_random_seed(0)
    inputs = keras.Input(SHAPE)
    x = keras.layers.GlobalAveragePooling2D()(inputs)
    x = keras.layers.Dense(classes, bias_initializer=keras.initializers.Constant(bias))(x)
    return keras.Model(inputs, keras.layers.Softmax()(x) if softmax else x)


@pytest.fixture
def images(rng):
    return rng.normal(size=(20, *SHAPE)).astype(np.float32)


def test_signed_tcav_equals_rcav_for_two_classes_with_a_softmax(images, rng):
    model, labels, directions = second_half(2, True), np.arange(20) % 2, rng.normal(size=(6, 5))
    scores = sensitivity(Head(model), images, labels, directions).scores
    helped, hurt = (tcav_scores(model, images, labels, s * directions) for s in (1, -1))
    np.testing.assert_array_equal(helped - hurt, scores)
    assert set(scores.ravel()) == {-1.0, 1.0}


def test_signed_tcav_equals_rcav_with_small_steps_for_several_classes(images, rng):
    labels, directions = np.arange(20) % 3, rng.normal(size=(8, 5))
    small = sensitivity(
        Head(second_half(4, False)), images, labels, directions, amount=1e-4, tie=0.0
    ).scores
    model = second_half(4, True)
    signed = tcav_scores(model, images, labels, directions) - tcav_scores(
        model, images, labels, -directions
    )
    assert np.isnan(signed[:, 3]).all() and np.isnan(small[:, 3]).all()
    np.testing.assert_allclose(
        signed[:, :3], small[:, :3], atol=0.15
    )  # an image may lie on the edge between rising and falling
    assert len(np.unique(np.abs(signed[:, :3]))) > 1


def test_tcav_of_linear_logits_is_one_where_the_class_weights_rise_along_the_direction(images, rng):
    model, labels, directions = second_half(3, False), np.arange(20) % 3, rng.normal(size=(6, 5))
    rows = Head(model).class_rows
    shares = tcav_scores(model, images, labels, directions)
    np.testing.assert_array_equal(shares, directions @ rows.T > 0)


def test_tcav_is_zero_for_directions_that_are_ignored_and_for_those_that_hurt(images):
    model, labels = second_half(3, False), np.zeros(20, int)
    kernel, bias = model.layers[-1].get_weights()
    kernel[2] = 0.0
    kernel[3, 0] = -1.0
    model.layers[-1].set_weights([kernel, bias])
    shares = tcav_scores(model, images, labels, np.eye(5)[[2, 3]])
    assert (shares[:, 0] == 0).all()
    assert tcav_scores(model, images, labels, -np.eye(5)[[2, 3]])[:, 0].tolist() == [0, 1]


def test_tcav_does_not_depend_on_the_batch_size_or_change_the_model(images, rng):
    model, labels, directions = second_half(3, True), np.arange(20) % 3, rng.normal(size=(3, 5))
    before = model.predict_on_batch(images)
    in_one_batch = tcav_scores(model, images, labels, directions)
    np.testing.assert_array_equal(
        tcav_scores(model, images, labels, directions, batch_size=3), in_one_batch
    )
    np.testing.assert_array_equal(model.predict_on_batch(images), before)


@pytest.mark.parametrize("sigmoid", [False, True])
def test_tcav_has_two_classes_for_a_model_with_one_output(images, rng, sigmoid):
    logit, labels, directions = second_half(1, False), np.arange(20) % 2, rng.normal(size=(6, 5))
    outputs = keras.layers.Activation("sigmoid")(logit.output) if sigmoid else logit.output
    model = keras.Model(logit.input, outputs)
    scores = sensitivity(Head(model), images, labels, directions).scores
    helped, hurt = (tcav_scores(model, images, labels, s * directions) for s in (1, -1))
    assert scores.shape == (6, 2)
    np.testing.assert_array_equal(helped - hurt, scores)


def test_invalid_arguments_are_refused(images):
    model = second_half(3, False)
    with pytest.raises(TypeError, match=r"must be a keras\.Model"):
        tcav_scores(Head(model), images, np.zeros(20, int), np.eye(5))
    with pytest.raises(ValueError, match=r"directions must have shape \(I, 5\)"):
        tcav_scores(model, images, np.zeros(20, int), np.eye(4))
    with pytest.raises(ValueError, match="one for each of 20 images"):
        tcav_scores(model, images, np.zeros(19, int), np.eye(5))
    too_large, negative = np.full(20, 3), np.arange(20) - 18
    for labels, message in ((too_large, "0 to 2, .* from 3 to 3"), (negative, "-18")):
        with pytest.raises(ValueError, match=message):
            tcav_scores(model, images, labels, np.eye(5))
    with pytest.raises(ValueError, match="there are no activations"):
        tcav_scores(model, images[:0], np.zeros(0, int), np.eye(5))


def test_tcav_accepts_models_of_half_precision(images, rng):
    labels, directions = np.arange(20) % 3, rng.normal(size=(4, 5))
    keras.mixed_precision.set_global_policy("mixed_float16")
    try:
        model = second_half(3, False)
        shares = tcav_scores(model, images, labels, directions)
    finally:
        keras.mixed_precision.set_global_policy("float32")
    rows = Head(model).class_rows
    np.testing.assert_array_equal(shares, directions @ rows.T > 0)
