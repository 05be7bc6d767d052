"""The contract of every concept factorizer.

A new factorizer is one more line of `FACTORIZERS`: docs/add_an_extractor.md.
"""

import copy
import functools

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import NETWORKS
from sklearn.exceptions import NotFittedError
from threadpoolctl import threadpool_limits
from xplique.concepts import HolisticCraftTf
from xplique.concepts.tf.layered_model_latent_extractor import LayeredModelExtractorBuilder

from xplique_dirpairs.extractors.craft import FactorizerCraftTf
from xplique_dirpairs.extractors.holistic import HolisticDirectionPairsTf
from xplique_dirpairs.factorizers.autoencoders import (
    ArchetypalFactorizer,
    RelaxedArchetypalFactorizer,
    TopKFactorizer,
)
from xplique_dirpairs.factorizers.base import DirectionsFactorizer, check_flat
from xplique_dirpairs.factorizers.controls import NoLearningFactorizer, RandomFactorizer
from xplique_dirpairs.factorizers.convex import ConvexNMFFactorizer
from xplique_dirpairs.factorizers.decompositions import (
    FastICAFactorizer,
    KMeansFactorizer,
    PCAFactorizer,
)
from xplique_dirpairs.factorizers.direction_pairs import DirectionPairsFactorizer
from xplique_dirpairs.factorizers.nonnegative import (
    DictionaryLearningFactorizer,
    NMFFactorizer,
    SemiNMFFactorizer,
)
from xplique_dirpairs.factorizers.universal import UniversalFactorizer
from xplique_dirpairs.factorizers.universal_view import UniversalView


class ViewOfTwo(UniversalView):
    """A view of a universal factorizer; the other network has the same channels in reverse."""

    def fit(self, activations):
        x = check_flat(activations)
        universal = UniversalFactorizer(
            self.number_of_concepts, steps=8, random_state=self.random_state
        ).fit({"own": x, "other": x[:, ::-1]})
        vars(self).update(vars(universal["own"]))
        return self.get_concept_bank(), self.encode(x)


#: Name → what makes an unfitted factorizer of (number_of_concepts, random_state=...).
FACTORIZERS = {
    "NMF": NMFFactorizer,
    "PCA": PCAFactorizer,
    "FastICA": FastICAFactorizer,
    "K-Means": KMeansFactorizer,
    "semi-NMF": SemiNMFFactorizer,
    "convex NMF": functools.partial(ConvexNMFFactorizer, tol=1e-3),  # faster
    "dictionary learning": functools.partial(DictionaryLearningFactorizer, tol=1e-3),  # faster
    "random": RandomFactorizer,
    "no learning": NoLearningFactorizer,
    "direction pairs": DirectionPairsFactorizer,
    "TopK": functools.partial(TopKFactorizer, steps=8, n_init=1),
    "A-SAE": functools.partial(ArchetypalFactorizer, steps=8),
    "RA-SAE": functools.partial(RelaxedArchetypalFactorizer, steps=8),
    "USAE": ViewOfTwo,
}

#: Replaced by a fake learner here; the learner's own tests cover activations it cannot use.
LEARNED = {"direction pairs"}

pytestmark = pytest.mark.usefixtures("quick_learning")


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """The problems are small: threads that wait for one another take longer than the work."""
    with threadpool_limits(1):
        yield


@functools.cache
def features(sign, positions=120, channels=8, seed=0):
    """Four rare parts of eight channels, and some noise: nowhere negative, or about −1."""
    rng = np.random.default_rng(seed)
    parts = np.random.default_rng(99).uniform(size=(4, channels))
    present = rng.uniform(size=(positions, 4)) < 0.4
    x = (present * rng.uniform(1, 3, present.shape)) @ parts
    x += rng.uniform(0, 0.2, x.shape)
    x = (x - (1.0 if sign == "signed" else 0.0)).astype(np.float32)
    x.setflags(write=False)  # a fit that changes its features fails
    return x


@functools.cache
def fitted_once(name, sign, concepts):
    factorizer = FACTORIZERS[name](concepts, random_state=0)
    if sign == "signed" and factorizer.requires_positive_activations:
        pytest.skip("takes no negative activations")
    return factorizer, factorizer.fit(features(sign))


@pytest.fixture(params=FACTORIZERS)
def name(request):
    return request.param


@pytest.fixture(params=["non-negative", "signed"])
def x(request):
    return features(request.param)


@pytest.fixture
def fitted(name, x):
    """The factorizer, fitted on the features with four concepts; a copy, for the test alone."""
    sign = "signed" if x.min() < 0 else "non-negative"
    return copy.deepcopy(fitted_once(name, sign, 4)[0])


@pytest.fixture
def widest(name):
    """Signed features if the factorizer takes them, for tests that fit once more."""
    positive = FACTORIZERS[name](4).requires_positive_activations
    return features("non-negative" if positive else "signed")


@pytest.fixture
def fitted_to_widest(name, widest):
    """The factorizer, fitted on `widest` with four concepts; a copy, for the test alone."""
    sign = "signed" if widest.min() < 0 else "non-negative"
    return copy.deepcopy(fitted_once(name, sign, 4)[0])


def test_directions_and_coefficients_have_the_declared_shapes(fitted, x):
    assert isinstance(fitted, DirectionsFactorizer) and fitted.is_fitted
    assert fitted.number_of_concepts == 4
    assert fitted.get_concept_bank().shape == fitted.components_.shape == (4, 8)
    assert fitted.components_.dtype == np.float32
    assert fitted.encoding_directions.shape == (4, 8)
    reading = fitted.decoding_directions
    assert reading is None or reading.shape == (4, 8)
    assert fitted.encode(x).shape == fitted.shown_coefficients(x).shape == (120, 4)


def test_fit_returns_the_bank_and_the_coefficients(name, fitted, x):
    bank, u = fitted_once(name, "signed" if x.min() < 0 else "non-negative", 4)[1]
    np.testing.assert_array_equal(bank, fitted.get_concept_bank())
    np.testing.assert_allclose(u, fitted.encode(x), atol=1e-6)


def test_no_direction_is_zero(fitted):
    lengths = np.linalg.norm(fitted.encoding_directions, axis=1)
    assert np.isfinite(lengths).all() and lengths.min() > 1e-3


def test_decoded_coefficients_and_residual_are_the_features(fitted, x):
    fresh = features("signed", seed=1) if x.min() < 0 else features("non-negative", seed=1)
    for positions in (x, fresh):
        restored = fitted.decode(fitted.encode(positions)) + fitted.residual(positions)
        assert np.abs(restored - positions).max() <= 1e-5 * np.abs(positions).max()


def test_a_decoder_that_is_declared_affine_is_affine(fitted, x):
    if not fitted.decodes_affinely:
        pytest.skip("declared not affine")
    u = fitted.encode(x).astype(np.float64)
    v = u[::-1] + 0.5
    step = fitted.decode(u) - fitted.decode(v)
    np.testing.assert_allclose(step, (u - v) @ fitted.get_concept_bank(), atol=1e-4)
    mean = fitted.decode(u.mean(axis=0, keepdims=True))[0]
    np.testing.assert_allclose(mean, fitted.decode(u).mean(axis=0), atol=1e-4)


def test_arrays_give_arrays_and_tensors_the_same_values_as_tensors(fitted, x):
    u = fitted.encode(x)
    decoded = fitted.decode(u)
    assert isinstance(u, np.ndarray) and isinstance(decoded, np.ndarray)
    read = fitted.encode_differentiable(tf.constant(x))
    written = fitted.decode(tf.constant(u))
    assert tf.is_tensor(read) and tf.is_tensor(written)
    np.testing.assert_allclose(read, u, atol=1e-4)
    np.testing.assert_allclose(written, decoded, atol=1e-4)
    compiled = tf.function(lambda t: fitted.decode(fitted.encode_differentiable(t)))
    np.testing.assert_allclose(compiled(tf.constant(x)), decoded, atol=1e-3)


def test_the_gradient_of_the_coefficients_is_their_slope(fitted, x):
    rng = np.random.default_rng(3)
    towards = rng.normal(size=x.shape).astype(np.float32)
    along = rng.normal(size=4).astype(np.float32)
    tensor = tf.constant(x)
    with tf.GradientTape() as tape:
        tape.watch(tensor)
        values = tf.reduce_sum(fitted.encode_differentiable(tensor) * along)
    gradient = tape.gradient(values, tensor, unconnected_gradients="zero").numpy()
    step = 1e-2
    change = fitted.encode(x + step * towards) - fitted.encode(x - step * towards)
    slope = change @ along / (2 * step)
    expected = (gradient * towards).sum(axis=1)
    # but for positions that cross a kink within the step
    agrees = np.abs(slope - expected) <= 0.02 * np.abs(expected) + 0.02 * np.abs(slope).std()
    assert agrees.mean() > 0.8


def test_gradients_flow_through_decoding(fitted, x):
    u = tf.constant(fitted.encode(x))
    with tf.GradientTape() as tape:
        tape.watch(u)
        total = tf.reduce_sum(fitted.decode(u))
    assert np.abs(tape.gradient(total, u)).max() > 0


def test_coefficients_do_not_depend_on_the_positions_read_together(fitted, x):
    u = fitted.encode(x)
    order = np.random.default_rng(0).permutation(len(x))
    np.testing.assert_allclose(fitted.encode(x[order]), u[order], atol=1e-4)
    np.testing.assert_allclose(fitted.encode(x[:7]), u[:7], atol=1e-4)


def test_the_same_seed_gives_the_same_result_and_a_copy_before_the_fit(
    name, fitted_to_widest, widest
):
    again = copy.deepcopy(FACTORIZERS[name](4, random_state=0))
    bank, u = again.fit(widest)
    np.testing.assert_allclose(bank, fitted_to_widest.get_concept_bank(), atol=1e-5)
    np.testing.assert_allclose(u, fitted_to_widest.encode(widest), atol=1e-5)


def test_double_precision_changes_nothing(name, fitted_to_widest, widest):
    fitted, x = fitted_to_widest, widest
    u, double = fitted.encode(x), fitted.encode(x.astype(np.float64))
    np.testing.assert_allclose(double, u, atol=1e-4)
    np.testing.assert_allclose(
        fitted.decode(double.astype(np.float64)), fitted.decode(u), atol=1e-4
    )
    bank, _ = FACTORIZERS[name](4, random_state=0).fit(x.astype(np.float64))
    np.testing.assert_allclose(bank, fitted.get_concept_bank(), atol=1e-4)


def test_returned_arrays_are_copies(fitted, x):
    before = fitted.encode(x), fitted.decode(fitted.encode(x))
    fitted.get_concept_bank()[:] = 0
    fitted.components_[:] = 0
    np.testing.assert_array_equal(fitted.encode(x), before[0])
    np.testing.assert_array_equal(fitted.decode(before[0]), before[1])


def test_a_copy_reads_as_the_original(fitted, x):
    np.testing.assert_array_equal(copy.deepcopy(fitted).encode(x), fitted.encode(x))


def test_a_factorizer_can_be_fitted_again(fitted_to_widest, widest):
    bank, _ = fitted_to_widest.fit(widest[:60] * 2)
    np.testing.assert_array_equal(bank, fitted_to_widest.get_concept_bank())
    assert fitted_to_widest.encode(widest).shape == (120, 4)


@pytest.mark.parametrize("concepts", [1, 8])
def test_one_concept_and_as_many_as_channels_can_be_learned(name, widest, concepts):
    factorizer = FACTORIZERS[name](concepts, random_state=0)
    bank, u = factorizer.fit(widest)
    assert bank.shape == (concepts, 8) and u.shape == (120, concepts)
    assert np.isfinite(bank).all() and np.isfinite(u).all() and np.abs(u).max() > 0
    restored = factorizer.decode(factorizer.encode(widest)) + factorizer.residual(widest)
    assert np.abs(restored - widest).max() <= 1e-5 * np.abs(widest).max()


def test_more_concepts_than_channels_work_or_are_refused(name):
    x = features("non-negative")
    factorizer = FACTORIZERS[name](11, random_state=0)
    try:
        bank, u = factorizer.fit(x)
    except ValueError as error:
        assert "at most 8" in str(error) and "11" in str(error)
        return
    assert bank.shape == (11, 8) and u.shape == (120, 11)
    reading = factorizer.decoding_directions
    assert reading is None or reading.shape == (11, 8)
    restored = factorizer.decode(factorizer.encode(x)) + factorizer.residual(x)
    assert np.abs(restored - x).max() <= 1e-5 * np.abs(x).max()


def test_a_constant_channel_is_accepted(name):
    x = features("non-negative").copy()
    x[:, 3] = 0.0
    factorizer = FACTORIZERS[name](4, random_state=0)
    _, u = factorizer.fit(x)
    assert np.isfinite(u).all()
    restored = factorizer.decode(u) + factorizer.residual(x)
    assert np.abs(restored - x).max() <= 1e-5 * np.abs(x).max()


@pytest.mark.parametrize(
    "activations, message",
    [
        (np.zeros((2, 3, 3, 8)), r"\(P, D\)"),
        (np.full((9, 8), np.nan), "NaN"),
        (np.zeros((0, 8)), "no activations"),
        (np.array([["a", "b"]] * 9), "numeric"),
        (np.ones((9, 8)), "constant"),
        (1e20 * features("non-negative"), "too large"),
        (np.arange(24.0).reshape(3, 8), "positions"),
    ],
)
def test_activations_that_cannot_be_learned_from_are_refused(name, activations, message):
    if name in LEARNED and message in ("constant", "positions", "too large"):
        pytest.skip("checked by the learner")
    factorizer = FACTORIZERS[name](4, random_state=0)
    with pytest.raises(ValueError, match=message):
        factorizer.fit(activations)
    assert not factorizer.is_fitted


@pytest.mark.parametrize("concepts", [0, -1, 2.5, "4"])
def test_the_number_of_concepts_must_be_an_integer(name, concepts):
    if name in LEARNED:
        pytest.skip("checked by the learner")
    with pytest.raises((ValueError, TypeError), match="number_of_concepts must be an integer"):
        FACTORIZERS[name](concepts, random_state=0).fit(features("non-negative"))


def test_activations_and_coefficients_of_another_width_are_refused(fitted, x):
    with pytest.raises(ValueError, match="8"):
        fitted.encode(x[:, :5])
    with pytest.raises(ValueError, match="4 concepts"):
        fitted.decode(np.zeros((3, 5), np.float32))


def test_only_flat_features_are_read(name, fitted, x):
    if name in LEARNED:
        pytest.skip("reads maps as well")
    for wrong in (x[0], x[None], x[:0], np.full_like(x, np.nan)):
        with pytest.raises(ValueError, match="activations"):
            fitted.encode(wrong)


@pytest.mark.parametrize(
    "use",
    [
        lambda f, x: f.encode(x),
        lambda f, x: f.encode_differentiable(tf.constant(x)),
        lambda f, x: f.decode(x[:, :4]),
        lambda f, x: f.residual(x),
        lambda f, x: f.get_concept_bank(),
        lambda f, x: f.encoding_directions,
    ],
    ids=["encode", "encode_differentiable", "decode", "residual", "bank", "directions"],
)
def test_before_fit_every_use_raises_not_fitted(name, use):
    factorizer = FACTORIZERS[name](4, random_state=0)
    assert not factorizer.is_fitted
    with pytest.raises(NotFittedError, match="fit"):
        use(factorizer, features("non-negative"))


# ---------------------------------------------------------------- in the extractors


@pytest.mark.parametrize(
    ("name", "network"),
    # Other layers are a matter of CRAFT alone: two factorizers, of which one is not affine.
    [(n, "conv_gap") for n in FACTORIZERS]
    + [(n, network) for n in ("PCA", "K-Means") for network in ("gelu", "vectors")],
)
def test_craft_reconstructs_the_output_of_the_network(halves, images, name, network):
    factorizer = FACTORIZERS[name](3, random_state=0)
    g, h = halves(network)
    pictures = images(network)
    craft = FactorizerCraftTf(g, h, factorizer, patch_size=16, random_state=0)
    crops, crops_u, bank = craft.fit(pictures, class_id=1)
    assert len(crops) == len(crops_u) and crops_u.shape[1] == len(bank) == 3
    activations = g.predict_on_batch(pictures)
    u = craft.transform(pictures)
    assert u.shape == (*activations.shape[:-1], 3)
    flat = activations.reshape(-1, activations.shape[-1])
    restored = factorizer.decode(u.reshape(-1, 3)) + factorizer.residual(flat)
    own = h.predict_on_batch(activations)
    back = h.predict_on_batch(restored.reshape(activations.shape).astype(np.float32))
    assert np.abs(back - own).max() <= 1e-5 * np.abs(own).max()
    importances = craft.estimate_importance(nb_design=4)
    assert importances.shape == (3,) and np.isfinite(importances).all() and (importances >= 0).all()
    assert importances.max() > 0


def test_the_holistic_interface_reconstructs_the_output_of_the_network(images, name):
    model, extractor = small_extractor()
    pictures = images("conv_gap")
    holistic = HolisticDirectionPairsTf(extractor, 3, FACTORIZERS[name](3, random_state=0))
    holistic.fit(pictures)
    decoded = [
        holistic.decode(batch.latent_data, batch.coeffs_u).tensor
        for batch in holistic.encode(pictures)
    ]
    own = model(pictures).numpy()
    assert np.abs(np.concatenate(decoded) - own).max() <= 1e-5 * np.abs(own).max()
    read = holistic.encode(pictures, differentiable=True)[0].coeffs_u
    np.testing.assert_allclose(read, holistic.encode(pictures)[0].coeffs_u, atol=1e-4)
    importances = holistic.estimate_importance(pictures, class_score, 1)
    assert importances.shape == (3,) and np.isfinite(importances).all() and importances.max() > 0


def test_factorizers_run_in_the_holistic_interface_of_xplique(images, name):
    _, extractor = small_extractor()
    pictures = images("conv_gap")
    holistic = HolisticCraftTf(extractor, 3, FACTORIZERS[name](3, random_state=0))
    holistic.fit(pictures)
    batch = holistic.encode(pictures)[0]
    assert batch.coeffs_u.shape[-1] == 3
    assert np.isfinite(holistic.decode(batch.latent_data, batch.coeffs_u).tensor).all()


def class_score(model, coefficients, targets):
    return tf.reduce_sum(model(coefficients) * targets, axis=-1)


@functools.cache
def small_extractor():
    keras.utils.set_random_seed(0)
    maker, shape, layer = NETWORKS["conv_gap"]
    model = maker(shape)
    index = [candidate.name for candidate in model.layers].index(layer)
    return model, LayeredModelExtractorBuilder.build(model, index, batch_size=4)
