"""Tests of `FactorizerCraftTf`: fit, coefficients, importances, and checks of arguments."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import NETWORKS, make_images
from counted import counted
from sklearn.exceptions import NotFittedError

from xplique_dirpairs.extractors.craft import FactorizerCraftTf
from xplique_dirpairs.factorizers.base import DirectionsFactorizer
from xplique_dirpairs.metrics.importance import sobol_designs, sobol_indices
from xplique_dirpairs.models.split import split_model


class Projection(DirectionsFactorizer):
    """Factorizer with u = (x − mean) Qᵀ and decode(u) = u Q + mean for a random orthonormal Q."""

    number_of_concepts = 3

    def fit(self, activations):
        rng = np.random.default_rng(0)
        self.mean = activations.mean(axis=0)
        self.q = np.linalg.qr(rng.normal(size=(activations.shape[1], 3)))[0].T.astype(np.float32)
        return self.q, self.encode(activations)

    def encode(self, activations):
        return (activations - self.mean) @ self.q.T

    def encode_differentiable(self, activations):
        return (activations - self.mean) @ self.q.T

    def decode(self, coefficients):
        return coefficients @ self.q + self.mean

    def get_concept_bank(self):
        return self.q

    encoding_directions = property(get_concept_bank)
    is_fitted = property(lambda self: hasattr(self, "q"))
    requires_positive_activations = False


class NonlinearProjection(Projection):
    """Projection with a decoder that does not commute with averaging."""

    decodes_affinely = False

    def decode(self, coefficients):
        decoded = super().decode(coefficients)
        return tf.nn.relu(decoded) if tf.is_tensor(decoded) else np.maximum(decoded, 0)


def fitted(halves, images, name="conv_gap", factorizer=Projection, **options):
    craft = FactorizerCraftTf(*halves(name), factorizer(), patch_size=12, random_state=0, **options)
    craft.fit(images(name), class_id=1)
    return craft


def test_known_activations_replace_the_pass_through_the_network(halves, images):
    usual = fitted(halves, images)
    known = halves("conv_gap").input_to_latent_model.predict(images("conv_gap"), verbose=0)
    split, counts = counted(halves("conv_gap"))
    fresh = FactorizerCraftTf(split, factorizer=Projection(), patch_size=12)
    fresh.fit(images("conv_gap"), class_id=1, activations=known)
    assert not counts
    np.testing.assert_allclose(fresh.factorization.crops_u, usual.factorization.crops_u, atol=1e-5)
    with pytest.raises(ValueError, match="activations must have one entry for each of"):
        fresh.fit(images("conv_gap"), class_id=1, activations=known[1:])


def reference_importance(craft, images, nb_design):
    """Compute importances with a call of the head for each image and mask: r + decode(m · u)."""
    head, f = craft.latent_to_logit_model, craft.factorizer
    designs = sobol_designs(3, nb_design, 0)
    indices = []
    for x in craft.input_to_latent_model.predict_on_batch(images):
        flat = x.reshape(-1, x.shape[-1])
        u, scores = f.encode(flat), []
        masks = next(designs)
        for mask in masks:
            moved = f.residual(flat) + f.decode(mask * u)
            scores.append(float(head(moved.reshape(1, *x.shape))[0, 1]))
        indices.append(sobol_indices(scores, masks, degree=0).total)
    return np.mean(indices, axis=0)


@pytest.mark.parametrize("factorizer", [Projection, NonlinearProjection])
@pytest.mark.parametrize("name", ["conv_gap", "conv_flatten", "vectors", "class_token"])
def test_importances_equal_those_of_a_reference_implementation(halves, images, name, factorizer):
    craft = fitted(halves, images, name, factorizer)
    expected = reference_importance(craft, images(name), 4)
    assert expected.max() > 0.05
    importances = craft.estimate_importance(nb_design=4)
    np.testing.assert_allclose(importances, expected, rtol=2e-3, atol=1e-4)


def test_importances_are_zero_if_the_score_does_not_depend_on_the_concepts(halves, images):
    craft = fitted(halves, images)
    kernel, bias = craft.latent_to_logit_model.get_weights()
    craft.latent_to_logit_model.set_weights([0 * kernel, bias + 1])
    try:
        np.testing.assert_array_equal(craft.estimate_importance(nb_design=4), 0)
    finally:
        craft.latent_to_logit_model.set_weights([kernel, bias])


def test_only_global_importances_set_sensitivity(halves, images):
    craft = fitted(halves, images)
    importances = craft.estimate_importance(nb_design=8)
    sensitivity = craft.sensitivity
    np.testing.assert_array_equal(sensitivity.importances, importances)
    assert (np.diff(importances[sensitivity.most_important_concepts]) <= 0).all()
    local = craft.estimate_importance(images("conv_gap")[0], nb_design=8)
    assert local.shape == (3,) and craft.sensitivity is sensitivity


def test_importances_with_the_same_seed_are_equal(halves, images):
    craft = fitted(halves, images)
    first = craft.estimate_importance(nb_design=4)
    np.testing.assert_array_equal(craft.estimate_importance(nb_design=4), first)


def test_coefficients_have_the_spatial_shape_of_the_layer(halves, images):
    for name, shape in {"tall": (16, 8), "class_token": (17,), "vectors": ()}.items():
        craft = fitted(halves, images, name)
        assert craft.transform(images(name)).shape == (6, *shape, 3)
        assert craft.transform(images(name)[0]).shape == (1, *shape, 3)


def test_activations_may_be_given_instead_of_images(halves, images):
    craft = fitted(halves, images)
    activations = craft.input_to_latent_model.predict_on_batch(images("conv_gap"))
    given = craft.transform(None, activations=activations)
    np.testing.assert_allclose(given, craft.transform(images("conv_gap")), atol=1e-6)


def test_fit_passes_every_image_through_the_network_once(halves, images):
    split, counts = counted(halves("conv_gap"))
    craft = FactorizerCraftTf(split, factorizer=Projection(), patch_size=12)
    craft.fit(images("conv_gap"))
    craft.estimate_importance(nb_design=2)
    assert sorted(counts.values()) == [1] * 6


def test_fit_returns_crops_coefficients_and_bank_like_craft(halves, images):
    craft = FactorizerCraftTf(*halves("tall"), Projection(), patch_size=20)
    crops, crops_u, bank = craft.fit(images("tall"), class_id=2)
    assert crops.shape == (6 * 3 * 1, 20, 20, 3)  # rows start at 0, 16 and 32, columns at 0
    assert crops_u.shape == (18, 3) and bank.shape == (3, 8) and bank.dtype == np.float32
    factorization = craft.factorization
    assert (
        factorization.class_id == 2
        and factorization.crops is crops
        and factorization.reducer.components_.dtype == bank.dtype
    )
    np.testing.assert_array_equal(factorization.inputs, images("tall"))
    np.testing.assert_array_equal(crops.numpy()[0], images("tall")[0, :20, :20])
    pixels = np.ones((5, 8), np.float32)
    np.testing.assert_array_equal(
        factorization.reducer.transform(pixels), craft.factorizer.encode(pixels)
    )


def test_crops_of_uint8_images_are_uint8(halves, images):
    pictures = (255 * images("conv_gap")).astype(np.uint8)
    craft = FactorizerCraftTf(*halves("conv_gap"), Projection(), patch_size=12)
    crops, *_ = craft.fit(pictures)
    assert crops.dtype == np.uint8
    expected = craft.transform(pictures.astype(np.float32))
    np.testing.assert_array_equal(craft.transform(pictures), expected)


def test_a_patch_larger_than_the_image_gives_the_whole_image(halves, images):
    craft = FactorizerCraftTf(*halves("conv_gap"), Projection(), patch_size=500)
    crops, crops_u, _ = craft.fit(images("conv_gap"))
    np.testing.assert_array_equal(crops, images("conv_gap"))
    maps = craft.transform(images("conv_gap"))
    np.testing.assert_allclose(crops_u, maps.mean(axis=(1, 2)), rtol=1e-4, atol=1e-5)


def with_nan(images):
    """Set a pixel to NaN and return the images."""
    images[0, 0, 0, 0] = np.nan
    return images


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda x: x[:0], "no images"),
        (with_nan, "NaN"),
        (lambda x: x[..., 0], "images have shape|images must have shape"),
        (lambda x: x[..., :1], "images have shape"),
        (lambda x: x[:, :16], "images have shape"),
        (lambda x: x[0, 0, 0], "images must have shape"),
    ],
)
def test_invalid_images_are_refused_by_every_method(halves, images, change, message):
    craft = fitted(halves, images)
    for method in (craft.fit, craft.transform, craft.estimate_importance):
        with pytest.raises(ValueError, match=message):
            method(change(images("conv_gap").copy()))


def test_invalid_activations_are_refused(halves, images):
    craft = fitted(halves, images)
    for activations, message in [
        (np.full((1, 4, 4, 8), np.inf), "NaN or infinite"),
        (np.ones((1, 4, 4, 7)), "8 channels"),
        (np.ones(8), "shape"),
    ]:
        with pytest.raises(ValueError, match=message):
            craft.transform(None, activations=activations)
    with pytest.raises(ValueError, match="give images"):
        craft.transform(None)


def test_halves_of_different_networks_are_refused(halves):
    with pytest.raises(ValueError, match=r"takes activations of shape \(10,\), but .*one split"):
        FactorizerCraftTf(halves("conv_gap")[0], halves("vectors")[1], Projection())


@pytest.mark.parametrize("spatial", [True, False])
def test_mixed_precision_gives_the_same_importances(images, spatial):
    def importances(policy):
        keras.utils.set_random_seed(0)
        keras.config.set_dtype_policy(policy)
        try:
            inputs = keras.Input((32, 32, 3))
            x = keras.layers.Conv2D(8, 3, 4, activation="relu", name="features")(inputs)
            pool = keras.layers.Flatten if spatial else keras.layers.GlobalAveragePooling2D
            x = keras.layers.Dropout(0.1)(pool()(x))
            halves = split_model(keras.Model(inputs, keras.layers.Dense(3)(x)), "features")
            craft = FactorizerCraftTf(*halves, Projection(), random_state=0)
            craft.fit(images("conv_gap"), class_id=1)
            return craft.estimate_importance(nb_design=4)
        finally:
            keras.config.set_dtype_policy("float32")

    single = importances("float32")
    assert single.max() > 0.05
    np.testing.assert_allclose(importances("mixed_float16"), single, atol=0.02)


@pytest.mark.parametrize("class_id, error", [(3, ValueError), (-1, ValueError), (1.5, TypeError)])
def test_an_invalid_class_is_refused(halves, images, class_id, error):
    craft = FactorizerCraftTf(*halves("conv_gap"), Projection())
    with pytest.raises(error, match="class_id"):
        craft.fit(images("conv_gap"), class_id=class_id)


def test_methods_before_fit_raise_not_fitted_error(halves, images):
    craft = FactorizerCraftTf(*halves("conv_gap"), Projection())
    for method in (craft.transform, craft.estimate_importance, craft.plot_image_concepts):
        with pytest.raises(NotFittedError, match="call fit"):
            method(images("conv_gap"))


@pytest.mark.parametrize("name, value", [("batch_size", 0), ("patch_size", 1.5)])
def test_invalid_sizes_are_refused(halves, name, value):
    with pytest.raises(ValueError, match=f"{name} must be"):
        FactorizerCraftTf(*halves("conv_gap"), Projection(), **{name: value})


def test_a_factorizer_for_positive_activations_refuses_negative_ones(halves, images):
    class Positive(Projection):
        requires_positive_activations = True

    craft = FactorizerCraftTf(*halves("gelu"), Positive())
    gelu = craft.input_to_latent_model.predict_on_batch(images("gelu"))
    assert gelu.min() < 0
    with pytest.raises(ValueError, match="non-negative"):
        craft.fit(images("gelu"))


def test_the_networks_of_the_tests_have_the_expected_image_shapes():
    assert make_images(2, NETWORKS["grayscale"][1]).shape == (2, 32, 32, 1)
    assert make_images(2, NETWORKS["tall"][1]).shape == (2, 64, 32, 3)
