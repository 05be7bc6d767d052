import pickle

import keras
import numpy as np
import pytest
import tensorflow as tf
from scipy.stats import foldnorm, gamma, kstest, lognorm, uniform

from xplique_dirpairs.datasets.planted_dictionary import (
    Coefficients,
    Geometry,
    planted_dictionary,
    synthsae_small,
)
from xplique_dirpairs.datasets.planted_firing import Together, Trees, zipf_probabilities
from xplique_dirpairs.metrics.dictionary import max_coherence


def make(n=300, channels=12, atoms=20, **options):
    return planted_dictionary(n, channels, atoms, **options)


TREES = Together(trees=Trees(2))
OPTIONS = [
    {},
    {"exactly": 3},
    {"map_shape": (3, 2)},
    {"offset": 2.0, "probability": zipf_probabilities(20), "coefficients": "lognormal"},
    {"together": Together(partner=0.5), "coefficients": "uniform"},
    {"together": Together(rank=3, trees=Trees(2)), "probability": 0.2},
    {"geometry": Geometry(non_negative=True), "offset": 0.5},
    {"geometry": Geometry(orthogonalise=5, scales=0.7), "offset": 0.5},
    {"n": 9000},  # more than one chunk
]


def sum_of_atoms(data):
    """Return Σ_i c_i a_i + b by adding one atom after the other."""
    x = np.zeros(data.features.shape) + data.offset
    for atom, values in zip(data.atoms, np.moveaxis(data.coefficients, -1, 0), strict=True):
        x += values[..., None] * atom
    return x


# ------------------------------------------------------------------ what all data have in common


@pytest.mark.parametrize("options", OPTIONS)
def test_features_are_the_sum_of_unit_atoms_and_an_offset(options):
    data = make(**options)
    np.testing.assert_allclose(data.features, sum_of_atoms(data), atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(data.atoms, axis=1), 1.0)
    np.testing.assert_array_equal(data.present, data.coefficients > 0)
    assert data.present.any()
    assert not data.present.all()


@pytest.mark.parametrize("atoms", [3, 12, 20])
def test_there_may_be_fewer_atoms_than_channels_as_many_or_more(atoms):
    data = make(atoms=atoms)
    assert data.features.shape == (300, 12)
    assert data.features.dtype == data.coefficients.dtype == np.float32
    assert data.present.dtype == bool
    assert data.present.shape == data.coefficients.shape == (300, atoms)
    assert data.atoms.shape == (atoms, 12)
    assert data.probability.shape == (atoms,)
    assert data.offset.shape == (12,)


def test_maps_have_positions_of_their_own():
    data = make(n=4, map_shape=(3, 2), probability=0.5)
    assert data.features.shape == (4, 3, 2, 12)
    assert data.present.shape == data.coefficients.shape == (4, 3, 2, 20)
    assert data.fresh(5, 1).features.shape == (5, 3, 2, 12)
    positions = data.present.reshape(24, 20)
    assert len(np.unique(positions, axis=0)) == 24
    # the same positions as without a map
    np.testing.assert_array_equal(make(n=24, probability=0.5).present, positions)


# ------------------------------------------------------------------ seeds


@pytest.mark.parametrize("options", OPTIONS)
def test_the_seed_determines_atoms_and_data(options):
    first, again, other = (make(**options, seed=seed) for seed in (1, 1, 2))
    for name in ("features", "atoms", "present", "coefficients", "offset"):
        np.testing.assert_array_equal(getattr(first, name), getattr(again, name))
    assert not np.isclose(first.atoms, other.atoms).any()
    assert not np.array_equal(first.present, other.present)


@pytest.mark.parametrize("options", OPTIONS)
def test_fresh_data_have_the_same_atoms_and_other_positions(options):
    data = make(**options, seed=1)
    fresh, again, other = (data.fresh(200, seed) for seed in (1, 1, 2))
    for name in ("atoms", "offset", "probability"):
        np.testing.assert_array_equal(getattr(fresh, name), getattr(data, name))
    np.testing.assert_array_equal(fresh.features, again.features)
    assert not np.array_equal(fresh.features, other.features)
    assert not np.array_equal(fresh.features, data.features[:200])
    np.testing.assert_allclose(fresh.features, sum_of_atoms(fresh), atol=1e-5)


def test_fresh_data_are_of_the_same_distribution():
    data = make(20_000, probability=zipf_probabilities(20), together=Together(rank=2, scale=0.5))
    fresh = data.fresh(20_000, 3)
    one, other = data.present.astype(float), fresh.present.astype(float)
    joint, joint_fresh = one.T @ one / len(one), other.T @ other / len(other)
    error = np.sqrt((joint * (1 - joint) + joint_fresh * (1 - joint_fresh)) / len(one))
    assert (np.abs(joint - joint_fresh) <= 4.0 * error).all()


def test_other_options_leave_the_atoms_as_they_are():
    atoms = make(seed=4).atoms
    for options in ({"exactly": 2}, {"noise": 0.1, "offset": 1.0}, {"map_shape": (2, 2)}):
        np.testing.assert_array_equal(make(seed=4, **options).atoms, atoms)


@pytest.mark.parametrize("data", [make(coefficients="lognormal"), synthsae_small(10)])
def test_data_can_be_pickled(data):
    copy = pickle.loads(pickle.dumps(data))
    np.testing.assert_array_equal(copy.fresh(5, 1).features, data.fresh(5, 1).features)


# ------------------------------------------------------------------ coefficients


@pytest.mark.parametrize(
    ("name", "distribution"),
    [
        ("gamma", gamma(4.0, scale=0.25)),
        ("uniform", uniform(0.5, 1.0)),
        ("lognormal", lognorm(0.5)),
    ],
)
def test_coefficients_have_the_named_distribution(name, distribution):
    data = make(5000, coefficients=name)
    assert kstest(data.coefficients[data.present], distribution.cdf).pvalue > 1e-3


@pytest.mark.parametrize("name", ["gamma", "uniform", "lognormal"])
def test_trees_know_the_mean_of_a_named_distribution(name):
    trees = Together(trees=Trees(1, branching=1, depth=1))
    data = make(20_000, atoms=2, probability=[1.0, 1.0], together=trees, coefficients=name)
    factor = data.coefficients[:, 0].astype(float)
    own = data.coefficients[:, 1] / factor  # c₂/mean
    assert abs(np.corrcoef(factor, own)[0, 1]) < 4.0 / np.sqrt(len(own))
    assert own.mean() == pytest.approx(1.0, abs=4.0 * own.std() / np.sqrt(len(own)))


def test_a_function_may_draw_the_coefficients():
    sizes = np.arange(20.0)
    data = make(coefficients=lambda rng, shape: np.broadcast_to(sizes, shape), probability=0.5)
    np.testing.assert_allclose(data.coefficients, data.present * sizes, rtol=1e-6)
    assert not data.present[:, 0].any()  # a coefficient of 0 is off


# ------------------------------------------------------------------ geometry, offset and noise


def test_atoms_are_uniform_on_the_sphere():
    atoms = make(n=1, channels=8, atoms=5000).atoms
    assert (np.abs(atoms.mean(axis=0)) < 4.0 / np.sqrt(8 * 5000)).all()
    covariance = atoms.T @ atoms / 5000
    np.testing.assert_allclose(covariance, np.eye(8) / 8, atol=4 * np.sqrt(2) / 8 / np.sqrt(5000))


def test_non_negative_atoms_are_the_magnitudes_of_normal_ones():
    options = {"offset": 1.0, "seed": 5}
    signed, data = make(**options), make(**options, geometry=Geometry(non_negative=True))
    np.testing.assert_allclose(data.atoms, np.abs(signed.atoms))
    np.testing.assert_allclose(data.offset, np.abs(signed.offset))
    noisy = make(**options, geometry=Geometry(non_negative=True), noise=1.0)
    assert data.features.min() >= 0.0
    assert noisy.features.min() == 0.0


def test_orthogonalising_matches_the_gradient_steps_of_adam():
    before, after = (
        make(n=1, channels=6, atoms=9, geometry=Geometry(orthogonalise=steps)).atoms
        for steps in (0, 30)
    )
    vectors = tf.Variable(before.astype(np.float32))
    optimizer = keras.optimizers.Adam(0.01, epsilon=1e-8)
    for _ in range(30):
        with tf.GradientTape() as tape:
            gram = vectors @ tf.transpose(vectors)
            lengths = tf.linalg.diag_part(gram)
            others = tf.reduce_sum(gram**2) - tf.reduce_sum(lengths**2)
            loss = others + 9.0 * tf.reduce_sum((lengths - 1.0) ** 2)
        optimizer.apply_gradients([(tape.gradient(loss, vectors), vectors)])
    slow = vectors.numpy() / np.linalg.norm(vectors, axis=1, keepdims=True)
    np.testing.assert_allclose(after, slow, atol=1e-3)
    assert np.abs(after - before).max() > 0.05


def test_orthogonalising_lowers_the_mutual_cosines_and_keeps_unit_atoms():
    many = {"n": 1, "channels": 30, "atoms": 45}
    plain, better = (make(**many, geometry=Geometry(orthogonalise=k)).atoms for k in (0, 100))
    assert max_coherence(better) < 0.7 * max_coherence(plain)
    few = make(n=1, atoms=8, geometry=Geometry(orthogonalise=1000)).atoms
    assert max_coherence(few) < 0.01


def test_channels_of_unequal_scale_are_those_of_equal_scale_times_their_scales():
    options = {"channels": 400, "offset": 3.0, "noise": 0.1, "seed": 6}
    equal, unequal = make(**options), make(**options, geometry=Geometry(scales=0.7))
    scales = unequal.offset / equal.offset
    np.testing.assert_allclose(unequal.features, equal.features * scales, rtol=1e-4, atol=1e-5)
    assert np.mean(scales**2) == pytest.approx(1.0)
    assert np.log(scales).std() == pytest.approx(0.7, abs=4 * 0.7 / np.sqrt(2 * 400))
    np.testing.assert_array_equal(unequal.present, equal.present)


def test_the_offset_is_a_vector_of_the_given_length():
    data = make(offset=2.5)
    assert np.linalg.norm(data.offset) == pytest.approx(2.5)
    np.testing.assert_allclose(data.features - make().features, data.offset[None].repeat(300, 0),
                               atol=1e-5)  # fmt: skip
    assert not make().offset.any()


@pytest.mark.parametrize("n", [2000, 9000])
def test_noise_has_the_given_deviation_and_changes_nothing_else(n):
    clean, noisy = make(n), make(n, noise=0.3)
    np.testing.assert_array_equal(noisy.coefficients, clean.coefficients)
    noise = noisy.features - clean.features
    np.testing.assert_allclose(noise.std(axis=0), 0.3, atol=4 * 0.3 / np.sqrt(2 * n))
    np.testing.assert_allclose(noise.mean(axis=0), 0.0, atol=4 * 0.3 / np.sqrt(n))


# ------------------------------------------------------------------ the named problem


def test_synthsae_small_has_the_ingredients_of_the_benchmark():
    data = synthsae_small(20_000, seed=1)
    assert data.features.shape == (20_000, 128)
    assert data.atoms.shape == (192, 128)
    assert np.linalg.norm(data.offset) == pytest.approx(0.5)
    np.testing.assert_allclose(data.probability, zipf_probabilities(192, 0.4, 0.005, 0.5))
    assert max_coherence(data.atoms) < max_coherence(make(n=1, channels=128, atoms=192).atoms)
    parents = data.source.firing.parents
    np.testing.assert_array_equal(np.bincount(parents + 1)[[0, 1, 16, 17, 44]], [16, 4, 4, 4, 4])
    loadings = data.source.firing.loadings
    assert loadings.shape == (192, 10)
    assert loadings.std() == pytest.approx(0.1, abs=4 * 0.1 / np.sqrt(2 * loadings.size))
    assert data.present.sum(axis=1).mean() == pytest.approx(5.7, abs=0.2)
    roots = data.present[:, :16].mean(axis=0)
    error = np.sqrt(data.probability[:16] * (1 - data.probability[:16]) / 20_000)
    assert (np.abs(roots - data.probability[:16]) <= 4.0 * error).all()


def test_the_coefficients_of_the_roots_of_synthsae_small_have_their_means():
    data = synthsae_small(20_000, seed=2)
    for root, mean in enumerate(np.linspace(5.0, 4.0, 192)[:16]):
        values = data.coefficients[data.present[:, root], root].astype(float)
        error = values.std() / np.sqrt(len(values))
        # values below 0, of the widest distributions, are cut off
        assert mean - 4.0 * error <= values.mean() <= mean + 4.0 * error + 0.02


def test_the_deviations_of_synthsae_small_are_folded_normal():
    sizes = synthsae_small(1, seed=3).source.sizes
    deviations = sizes.draw(np.random.default_rng(0), (5000, 192)).std(axis=0)
    assert kstest(deviations, foldnorm(1.0, scale=0.5).cdf).pvalue > 1e-3


# ------------------------------------------------------------------ invalid arguments


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n": 0}, "n must be an integer of at least 1, not 0"),
        ({"channels": 1.5}, "channels must be an integer of at least 1"),
        ({"atoms": -1}, "atoms must be an integer of at least 1"),
        ({"seed": None}, "seed must be an integer of at least 0, not None"),
        ({"map_shape": (2, 0)}, "width of map_shape must be an integer of at least 1, not 0"),
        ({"map_shape": 3}, r"map_shape must be \(height, width\), not 3"),
        ({"probability": 0.0}, "probability must be above 0 and at most 1, .*, not 0.0"),
        ({"probability": 1.1}, "probability must be above 0 and at most 1, .*, not 1.1"),
        ({"probability": np.full(3, 0.1)}, r"one for all atoms or of shape \(20,\)"),
        ({"exactly": 21}, "exactly must be at most the number of atoms, 20, not 21"),
        ({"exactly": 0}, "exactly must be an integer of at least 1"),
        ({"exactly": 2, "probability": 0.1}, "exactly excludes probability and together"),
        ({"exactly": 2, "together": Together(0.5)}, "exactly excludes probability and together"),
        ({"offset": -1.0}, "offset must be at least 0"),
        ({"noise": np.nan}, "noise must be a finite number"),
        ({"coefficients": "normal"}, "coefficients must be one of"),
        ({"coefficients": lambda rng, shape: np.ones(3)}, "coefficients must be finite numbers"),
        ({"coefficients": lambda rng, shape: -np.ones(shape)}, "finite numbers of at least 0"),
        ({"coefficients": Coefficients(np.ones, mean=0.0)}, "mean of the coefficients"),
        (
            {"coefficients": lambda rng, shape: rng.random(shape), "together": TREES},
            "trees need the mean of the coefficients: give Coefficients",
        ),
    ],
)  # fmt: skip
def test_values_out_of_range_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        make(**options)


def test_arguments_of_other_types_are_refused():
    with pytest.raises(TypeError, match="together must be a Together, not float"):
        make(together=0.5)
    with pytest.raises(TypeError, match="geometry must be a Geometry, not str"):
        make(geometry="non-negative")
    with pytest.raises(TypeError, match=r"coefficients must be one of .*, not float"):
        make(coefficients=1.0)


def test_geometries_out_of_range_are_refused():
    with pytest.raises(ValueError, match="orthogonalise must be an integer of at least 0"):
        Geometry(orthogonalise=-1)
    with pytest.raises(ValueError, match="scales must be at least 0"):
        Geometry(scales=-0.5)
    with pytest.raises(ValueError, match="non_negative atoms cannot be orthogonalised"):
        Geometry(non_negative=True, orthogonalise=3)


def test_fresh_data_need_a_size_and_a_seed():
    data = make()
    with pytest.raises(ValueError, match="n must be an integer of at least 1, not 0"):
        data.fresh(0, 1)
    with pytest.raises(ValueError, match="seed must be an integer of at least 0, not None"):
        data.fresh(5, None)
